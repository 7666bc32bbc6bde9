//! Being one's own miner and validator: a whole session in one process, without a network.

use std::ops::ControlFlow;
use std::time::Instant;

use assay_audit::challenge::{EpochKey, is_audited, nonce_commitment};
use assay_audit::judge::judge;
use assay_audit::keys::Keypair;
use assay_audit::policy::Policy;
use assay_audit::prompt::Prompt;
use assay_audit::request::{AuditRate, Deadlines, Network, Request};
use assay_audit::sampling::Sampling;
use assay_audit::session::{Answer, Exchange, Omission, Reply, SessionRecord, sign_commitment, sign_proof};
use assay_audit::transcript_file::{Measurements, Receipt, TranscriptFile};
use assay_commitments::Epoch;
use assay_miner::{Backend, ServeError};

use crate::local::LocalModel;

/// What is asked, and by whom.
#[derive(Clone, Debug)]
pub struct SelfAudit {
    /// The prompt.
    pub prompt: Prompt,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most output tokens.
    pub max_tokens: u32,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// What is checked.
    pub policy: Policy,
    /// How often.
    pub audit_rate: AuditRate,
    /// Where the two key pairs and the epoch key come from.
    pub entropy: [u8; 32],
}

/// No network is involved: a session of this kind belongs to none.
const NOWHERE: Network = Network { genesis: [0; 32], netuid: 0 };
/// Deadlines that never pass; nobody keeps time in a session with oneself.
const NEVER: Deadlines = Deadlines::all(u32::MAX);

impl SelfAudit {
    fn keys(&self, role: &str) -> Keypair {
        let seed = blake3::derive_key(role, &self.entropy);
        Keypair::from_seed(seed).expect("any 32 bytes are a seed")
    }

    /// Serves, commits, challenges, proves and judges.
    ///
    /// # Errors
    /// [`ServeError`] when there is no answer at all.
    pub fn run(&self, model: &LocalModel, backend: &dyn Backend) -> Result<TranscriptFile, ServeError> {
        let validator = self.keys("assay self audit validator");
        let miner = self.keys("assay self audit miner");
        let epoch_key = EpochKey::new(blake3::derive_key("assay self audit epoch", &self.entropy));
        let nonce = (self.policy != Policy::Everything).then(|| epoch_key.nonce(NOWHERE.netuid, &miner.hotkey(), 0));
        let manifest = &model.committed.manifest;
        let request = Request {
            network: NOWHERE,
            validator: validator.hotkey(),
            miner: miner.hotkey(),
            epoch: Epoch::new(0),
            manifest: manifest.id(),
            prompt: self.prompt.clone(),
            sampling: self.sampling,
            max_tokens: self.max_tokens,
            stop: self.stop.clone(),
            policy: self.policy,
            audit_rate: self.audit_rate,
            deadlines: NEVER,
            counter: 0,
            nonce_commitment: nonce
                .as_ref()
                .map(|nonce| nonce_commitment(nonce, 0, &validator.hotkey(), &miner.hotkey())),
        };

        let begin = Instant::now();
        let mut first_token = None;
        let mut streamed = vec![];
        let served = backend.serve(&request, &mut |token| {
            first_token.get_or_insert_with(|| begin.elapsed());
            streamed.push(token);
            ControlFlow::Continue(())
        })?;
        let generated = begin.elapsed();
        let commitment = backend.commit(&request, &served);
        let committed = begin.elapsed();
        let digest = commitment.digest();
        let due = nonce.as_ref().is_none_or(|nonce| is_audited(self.audit_rate, nonce, &digest));
        let reply = match nonce {
            Some(nonce) if !due => Reply::Settled { nonce },
            nonce => Reply::Challenged {
                answer: match backend.prove(&request, &commitment, &served.trace, nonce.as_ref()) {
                    Ok(proof) => Answer::Proof(sign_proof(&miner, &commitment, proof)),
                    Err(_) => Answer::Omitted(Omission::Absent),
                },
                nonce,
            },
        };
        let proven = begin.elapsed();
        let record = SessionRecord {
            request_signature: request.sign(&validator),
            request,
            streamed,
            exchange: Exchange::Committed { commitment: sign_commitment(&miner, &commitment), reply },
        };
        let embeddings = model.committed.embeddings.open(TranscriptFile::tokens_of(&record));
        let begin = Instant::now();
        let judgement = judge(&record, manifest, &model.assets, &embeddings);
        let first_token = first_token.unwrap_or(generated);
        let measurements = Measurements {
            first_token_ms: milliseconds(first_token),
            generation_ms: milliseconds(generated.saturating_sub(first_token)),
            commitment_ms: milliseconds(committed.saturating_sub(generated)),
            proof_ms: milliseconds(proven.saturating_sub(committed)),
            verify_us: u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX),
        };
        Ok(TranscriptFile {
            manifest: manifest.clone(),
            receipt: Receipt::sign(&validator, &record, judgement.verdict, measurements),
            record,
            embeddings,
            tokenizer: Some(model.tokenizer.clone()),
            chat_template: model.chat_template.as_ref().map(|template| template.clone().into_bytes()),
        })
    }
}

fn milliseconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
