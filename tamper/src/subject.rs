//! A session that is judged again with a part of it changed, as whoever made that part would have sent it.

use assay_audit::assets::ModelAssets;
use assay_audit::challenge::Nonce;
use assay_audit::epoch_log::EpochLog;
use assay_audit::exhibit::Exhibit;
use assay_audit::judge::{check_proof, judge};
use assay_audit::keys::Keypair;
use assay_audit::session::{Answer, Exchange, Reply, SessionRecord, sign_commitment, sign_proof};
use assay_audit::sizes::proof_structure;
use assay_audit::transcript_file::{FileError, TranscriptFile};
use assay_audit::verdict::Verdict;
use assay_commitments::codec::{self, Malformed};
use assay_commitments::structure::Part;
use assay_commitments::trace::TraceCommitment;

/// The miner's keys in a session that one party held with itself: the adversary signs what it likes.
pub fn miner_keys(entropy: [u8; 32]) -> Keypair {
    Keypair::from_seed(blake3::derive_key("assay self audit miner", &entropy)).expect("any 32 bytes are a seed")
}

/// The checksum of transcript files.
pub const TRANSCRIPT: &str = "assay/transcript-file/v1";
/// The checksum of exhibits.
pub const EXHIBIT: &str = "assay/exhibit/v1";
/// The checksum of epoch logs.
pub const EPOCH_LOG: &str = "assay/epoch-log/v1";

/// A file of these bytes with the right checksum behind them.
pub fn sealed(checksum: &str, bytes: &[u8]) -> Vec<u8> {
    [bytes, &blake3::derive_key(checksum, bytes)].concat()
}

/// A message of a session, or a file without its checksum.
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
    /// The record: what a validator could change and sign a receipt for.
    pub record: Message,
    /// The whole file without its checksum.
    pub file: Message,
    /// The session.
    pub session: TranscriptFile,
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
        let request = &session.record.request;
        let structure = proof_structure(request, &committed, nonce.as_ref(), &session.manifest, &proof.bytes).unwrap();
        let proof = Message { structure, bytes: proof.bytes.clone() };
        let (record, file) = (Message::of_record(&session.record), Message::of_file(&session));
        let template = session.chat_template.as_deref();
        let assets = ModelAssets::new(&session.manifest, session.tokenizer.as_ref().unwrap(), template).unwrap();
        let subject = Self { proof, commitment, record, file, committed, nonce: *nonce, assets, miner, session };
        assert_eq!(subject.verdict_on_proof(&subject.proof.bytes), Verdict::Accepted);
        assert_eq!(subject.verdict_on_commitment(&subject.commitment.bytes), Verdict::Accepted);
        assert_eq!(subject.verdict_on_signed_proof(&subject.proof.bytes), Verdict::Accepted);
        assert_eq!(subject.verdict_on_record(&subject.record.bytes), Ok(Verdict::Accepted));
        assert_eq!(verdict_on_file(&subject.file.bytes), Ok(Verdict::Accepted));
        subject
    }

    /// The nonce that was revealed.
    pub const fn nonce(&self) -> Option<Nonce> {
        self.nonce
    }

    /// The verdict on another proof, from where a judgement comes to the proof.
    pub fn verdict_on_proof(&self, proof: &[u8]) -> Verdict {
        let nonce = self.nonce.as_ref();
        check_proof(&self.session.record.request, &self.committed, nonce, &self.session.manifest, proof).verdict
    }

    /// The verdict on the session with another proof that its miner signed.
    pub fn verdict_on_signed_proof(&self, proof: &[u8]) -> Verdict {
        self.verdict_with(|exchange| {
            if let Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } = exchange {
                *answer = Answer::Proof(sign_proof(&self.miner, &self.committed, proof.to_vec()));
            }
        })
    }

    /// The verdict on the session with another commitment that its miner signed, and its proof for that, as far as there
    /// is something to sign.
    pub fn verdict_on_commitment(&self, bytes: &[u8]) -> Verdict {
        self.verdict_with(|exchange| {
            let Exchange::Committed { commitment, reply: Reply::Challenged { answer, .. } } = exchange else { return };
            match codec::decode::<TraceCommitment>(bytes) {
                Ok(changed) => {
                    *commitment = sign_commitment(&self.miner, &changed);
                    *answer = Answer::Proof(sign_proof(&self.miner, &changed, self.proof.bytes.clone()));
                }
                Err(_) => commitment.bytes = bytes.to_vec(),
            }
        })
    }

    /// The verdict on the session with another record.
    ///
    /// # Errors
    /// [`Malformed`] if the bytes are no record.
    pub fn verdict_on_record(&self, bytes: &[u8]) -> Result<Verdict, Malformed> {
        let TranscriptFile { manifest, embeddings, .. } = &self.session;
        let record: SessionRecord = codec::decode(bytes)?;
        Ok(judge(&record, manifest, &self.assets, embeddings).verdict)
    }

    fn verdict_with(&self, change: impl FnOnce(&mut Exchange)) -> Verdict {
        let TranscriptFile { manifest, record, embeddings, .. } = &self.session;
        let mut record: SessionRecord = record.clone();
        change(&mut record.exchange);
        judge(&record, manifest, &self.assets, embeddings).verdict
    }
}

/// The verdict on a transcript of these bytes and their checksum.
///
/// # Errors
/// [`FileError`] if they are no file.
pub fn verdict_on_file(bytes: &[u8]) -> Result<Verdict, FileError> {
    TranscriptFile::decode(&sealed(TRANSCRIPT, bytes)).map(|file| file.judge(&|_| None).verdict)
}

/// The verdict on an exhibit of these bytes and their checksum.
///
/// # Errors
/// [`FileError`] if they show nothing.
pub fn verdict_on_exhibit(bytes: &[u8]) -> Result<Verdict, FileError> {
    Exhibit::decode(&sealed(EXHIBIT, bytes))?.judge().map(|judgement| judgement.verdict)
}

impl Message {
    fn of_sealed(mut bytes: Vec<u8>, structure: Result<Part, FileError>) -> Self {
        let structure = structure.unwrap();
        bytes.truncate(structure.range.end);
        Self { bytes, structure }
    }

    /// A record.
    pub fn of_record(record: &SessionRecord) -> Self {
        let bytes = codec::encode(record);
        let structure = codec::structure(&bytes, codec::Reader::value::<SessionRecord>).unwrap();
        Self { bytes, structure }
    }

    /// A transcript.
    pub fn of_file(session: &TranscriptFile) -> Self {
        let bytes = session.encode();
        let structure = TranscriptFile::structure(&bytes);
        Self::of_sealed(bytes, structure)
    }

    /// An exhibit.
    pub fn of_exhibit(exhibit: &Exhibit) -> Self {
        let bytes = exhibit.encode();
        let structure = Exhibit::structure(&bytes);
        Self::of_sealed(bytes, structure)
    }

    /// An epoch log that `keys` sign.
    pub fn of_epoch_log(log: &EpochLog, keys: &Keypair) -> Self {
        let bytes = log.encode_signed(keys);
        let structure = EpochLog::structure(&bytes);
        Self::of_sealed(bytes, structure)
    }
}

/// An exhibit of everything that was asked for in a session, whether or not it holds: cells, then decodes.
pub fn exhibits(file: &TranscriptFile) -> Vec<Exhibit> {
    let challenge = file.judge(&|_| None).report.challenge.unwrap();
    let (record, manifest) = (&file.record, &file.manifest);
    let cells = challenge.cells.iter().map(|cell| Exhibit::of_cell(record, manifest, cell.layer, cell.position));
    let decodes = challenge.decodes.iter().map(|position| Exhibit::of_decode(record, manifest, *position));
    cells.chain(decodes).map(Option::unwrap).collect()
}
