//! A session that is judged again with a part of it changed, as whoever made that part would have sent it.

use assay_audit::assets::ModelAssets;
use assay_audit::challenge::Nonce;
use assay_audit::judge::{check_proof, judge};
use assay_audit::keys::Keypair;
use assay_audit::session::{Answer, Exchange, Reply, SessionRecord, SignedBytes, sign_commitment, sign_proof};
use assay_audit::sizes::proof_structure;
use assay_audit::transcript_file::{FileError, TranscriptFile};
use assay_audit::verdict::Verdict;
use assay_commitments::codec;
use assay_commitments::structure::Part;
use assay_commitments::trace::TraceCommitment;

/// The miner's keys in a session that one party held with itself: the adversary signs what it likes.
pub fn miner_keys(entropy: [u8; 32]) -> Keypair {
    Keypair::from_seed(blake3::derive_key("assay self audit miner", &entropy)).expect("any 32 bytes are a seed")
}

/// Makes the checksum of a file right again.
pub fn reseal(bytes: &mut [u8]) {
    if let Some(body) = bytes.len().checked_sub(32) {
        let checksum = blake3::derive_key("assay/transcript-file/v1", &bytes[..body]);
        bytes[body..].copy_from_slice(&checksum);
    }
}

/// A message of a session.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they are made of.
    pub structure: Part,
}

/// A session that was accepted, with inline assets and a proof.
#[derive(Debug)]
pub struct Subject {
    /// The proof.
    pub proof: Message,
    /// The trace commitment.
    pub commitment: Message,
    /// The whole file without its checksum.
    pub file: Message,
    session: TranscriptFile,
    committed: TraceCommitment,
    nonce: Option<Nonce>,
    assets: ModelAssets,
    miner: Keypair,
}

impl Subject {
    /// Takes a session apart; `miner` are the keys of its miner.
    ///
    /// # Panics
    /// If it is no accepted session with a proof.
    pub fn new(session: TranscriptFile, miner: Keypair) -> Self {
        let Exchange::Committed { commitment, reply: Reply::Challenged { nonce, answer: Answer::Proof(proof) } } =
            &session.record.exchange
        else {
            panic!("the session holds a proof")
        };
        let committed: TraceCommitment = codec::decode(&commitment.bytes).unwrap();
        let read = |from: &mut codec::Reader<'_>| from.value::<TraceCommitment>();
        let commitment =
            Message { structure: codec::structure(&commitment.bytes, read).unwrap(), bytes: commitment.bytes.clone() };
        let structure = proof_structure(&session.record, &session.manifest).unwrap();
        let proof = Message { structure, bytes: proof.bytes.clone() };
        let file = Message::of_file(&session);
        let template = session.chat_template.as_deref();
        let assets = ModelAssets::new(&session.manifest, session.tokenizer.as_ref().unwrap(), template).unwrap();
        let subject = Self { proof, commitment, file, committed, nonce: *nonce, assets, miner, session };
        assert_eq!(subject.verdict_on_proof(&subject.proof.bytes), Verdict::Accepted);
        assert_eq!(subject.verdict_on_commitment(&subject.commitment.bytes), Verdict::Accepted);
        assert_eq!(subject.verdict_on_signed_proof(&subject.proof.bytes), Verdict::Accepted);
        assert_eq!(verdict_on_file(&subject.file.bytes), Ok(Verdict::Accepted));
        subject
    }

    /// The verdict on another proof, from where a judgement comes to the proof.
    pub fn verdict_on_proof(&self, proof: &[u8]) -> Verdict {
        let nonce = self.nonce.as_ref();
        check_proof(&self.session.record.request, &self.committed, nonce, &self.session.manifest, proof).verdict
    }

    /// The verdict on the session with another proof that its miner signed.
    pub fn verdict_on_signed_proof(&self, proof: &[u8]) -> Verdict {
        let session = self.session.record.request.session_id();
        self.verdict_with(|exchange| {
            if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = exchange {
                *answer = Answer::Proof(sign_proof(&self.miner, &session, proof.to_vec()));
            }
        })
    }

    /// The verdict on the session with another commitment that its miner signed, as far as there is
    /// something to sign.
    pub fn verdict_on_commitment(&self, bytes: &[u8]) -> Verdict {
        self.verdict_with(|exchange| {
            if let Exchange::Committed { commitment, .. } = exchange {
                *commitment = match codec::decode::<TraceCommitment>(bytes) {
                    Ok(changed) => sign_commitment(&self.miner, &changed),
                    Err(_) => SignedBytes { bytes: bytes.to_vec(), signature: commitment.signature },
                };
            }
        })
    }

    fn verdict_with(&self, change: impl FnOnce(&mut Exchange)) -> Verdict {
        let TranscriptFile { manifest, record, embeddings, .. } = &self.session;
        let mut record: SessionRecord = record.clone();
        change(&mut record.exchange);
        judge(&record, manifest, &self.assets, embeddings).verdict
    }
}

/// The verdict on a file of these bytes with the right checksum behind them.
///
/// # Errors
/// [`FileError`] if they are no file.
pub fn verdict_on_file(bytes: &[u8]) -> Result<Verdict, FileError> {
    let mut sealed = [bytes, &[0; 32]].concat();
    reseal(&mut sealed);
    TranscriptFile::decode(&sealed).map(|file| file.judge(&|_| None).verdict)
}

impl Message {
    /// A file without its checksum.
    pub fn of_file(session: &TranscriptFile) -> Self {
        let mut bytes = session.encode();
        let structure = TranscriptFile::structure(&bytes).unwrap();
        bytes.truncate(structure.range.end);
        Self { bytes, structure }
    }
}
