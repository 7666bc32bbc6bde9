//! The judgement: from the record of a session to its verdict.
//!
//! [`judge`] is the one function that everything trusts. The same record, manifest and assets give
//! the same verdict in a validator, in an auditor's command and in a fuzzer.

use assay_commitments::TokenId;
use assay_commitments::codec;
use assay_commitments::manifest::Manifest;
use assay_commitments::merkle::MerkleTree;
use assay_commitments::trace::{TraceCommitment, TraceShape, TreeId, leaf};
use assay_commitments::{LayerIndex, Position};

use crate::assets::{EmbeddingDigests, ModelAssets};
use crate::challenge::{Challenge, Nonce, is_audited, nonce_commitment};
use crate::finish::FinishRule;
use crate::num::{count, index};
use crate::prompt::prompt_tokens;
use crate::request::Request;
use crate::session::{
    Answer, Exchange, Omission, Refusal, Reply, SessionRecord, SignedBytes, is_commitment_signed, is_proof_signed,
};
use crate::statement::Statement;
use crate::verdict::{Failure, Margin, OwnFault, Reason, Stage, Verdict};
use crate::verify::verify_proof;

pub use crate::proof::max_proof_bytes;
pub use crate::statement::challenge_of;

/// A verdict and the figures behind it. The figures decide nothing.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// The figures.
    pub report: Report,
}

/// The figures behind a verdict.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What was asked for.
    pub challenge: Option<Challenge>,
    /// How far each relation was from its threshold, as far as the proof could be followed.
    pub margins: Vec<Margin>,
    /// Bytes of the proof.
    pub proof_bytes: usize,
}

/// Why a judgement ends before it accepts.
enum End {
    Miner(Failure),
    Own(OwnFault),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Miner(failure)
    }
}

impl From<End> for Verdict {
    fn from(end: End) -> Self {
        match end {
            End::Miner(failure) => Self::Rejected(failure),
            End::Own(fault) => Self::Inconclusive(fault),
        }
    }
}

/// Judges a session.
pub fn judge(
    record: &SessionRecord,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
) -> Judgement {
    let mut report = Report::default();
    let verdict = match conclude(record, manifest, assets, embeddings, &mut report) {
        Ok(()) => Verdict::Accepted,
        Err(end) => end.into(),
    };
    Judgement { verdict, report }
}

fn conclude(
    record: &SessionRecord,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
    report: &mut Report,
) -> Result<(), End> {
    let request = &record.request;
    let (commitment, reply) = match &record.exchange {
        Exchange::Uncommitted(omission) => {
            return Err(omitted(*omission, Reason::CommitmentAbsent, Reason::CommitmentLate).into());
        }
        Exchange::Committed { commitment, reply } => (commitment, reply),
    };
    let commitment = examine(request, &record.streamed, commitment, manifest, assets, embeddings)?;
    match reply {
        Reply::None => Err(End::Own(OwnFault::NeverSettled)),
        Reply::Settled { nonce } => {
            check_nonce(request, nonce)?;
            if is_audited(request.audit_rate, nonce, &commitment.digest()) {
                return Err(End::Own(OwnFault::AuditOmitted));
            }
            Ok(())
        }
        Reply::Challenged { nonce, answer } => {
            if let Some(nonce) = nonce {
                check_nonce(request, nonce)?;
                if !is_audited(request.audit_rate, nonce, &commitment.digest()) {
                    return Err(End::Own(OwnFault::AuditUndue));
                }
            }
            let statement = Statement { request, commitment: &commitment, nonce: nonce.as_ref() };
            let challenge = challenge_of(request, manifest, &commitment, nonce.as_ref())
                .ok_or(End::Own(OwnFault::NonceMismatch))?;
            report.challenge = Some(challenge.clone());
            let proof = read_answer(request, answer)?;
            report.proof_bytes = proof.bytes.len();
            if !is_proof_signed(&request.miner, &request.session_id(), proof) {
                return Err(Failure::at(Reason::ProofSignature, Stage::Shape).into());
            }
            verify_proof(&statement, manifest, &challenge, &proof.bytes, &mut report.margins)?;
            Ok(())
        }
    }
}

/// The proof in an answer; a refusal of a challenge that is in order is a failure.
fn read_answer<'a>(request: &Request, answer: &'a Answer) -> Result<&'a SignedBytes, End> {
    match answer {
        Answer::Proof(proof) => Ok(proof),
        Answer::Refusal(refusal) => {
            let signed = Refusal::read_signed(refusal, &request.miner, &request.session_id()).is_some();
            let reason = if signed { Reason::UnjustifiedRefusal } else { Reason::RefusalSignature };
            Err(Failure::at(reason, Stage::Stream).into())
        }
        Answer::Omitted(omission) => Err(omitted(*omission, Reason::ProofAbsent, Reason::ProofLate).into()),
        Answer::Interrupted => Err(End::Own(OwnFault::Interrupted)),
    }
}

const fn omitted(omission: Omission, absent: Reason, late: Reason) -> Failure {
    let reason = match omission {
        Omission::Absent => absent,
        Omission::Late => late,
        Omission::Broken => Reason::StreamBroken,
        Omission::Violation => Reason::ProtocolViolation,
    };
    Failure::at(reason, Stage::Stream)
}

fn check_nonce(request: &Request, nonce: &Nonce) -> Result<(), End> {
    let expected = nonce_commitment(nonce, request.counter, &request.validator, &request.miner);
    if request.nonce_commitment == Some(expected) { Ok(()) } else { Err(End::Own(OwnFault::NonceMismatch)) }
}

/// Examines a commitment the moment it arrives, before any nonce is revealed: everything about it that
/// needs no proof. [`judge`] does the same again.
///
/// # Errors
/// The verdict that follows at once.
pub fn check_commitment(
    request: &Request,
    streamed: &[TokenId],
    commitment: &SignedBytes,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
) -> Result<TraceCommitment, Verdict> {
    examine(request, streamed, commitment, manifest, assets, embeddings).map_err(Verdict::from)
}

/// The most bytes that a commitment under this manifest can have.
pub fn max_commitment_bytes(manifest: &Manifest) -> usize {
    let architecture = &manifest.architecture;
    let trees = TraceShape::new(architecture, manifest.profile).tree_count();
    let tokens = index(architecture.max_positions).saturating_add(1);
    trees.saturating_mul(32).saturating_add(tokens.saturating_mul(4)).saturating_add(256)
}

fn examine(
    request: &Request,
    streamed: &[TokenId],
    signed: &SignedBytes,
    manifest: &Manifest,
    assets: &ModelAssets,
    embeddings: &EmbeddingDigests,
) -> Result<TraceCommitment, End> {
    let failed = |reason| End::Miner(Failure::at(reason, Stage::Commitment));
    let prompt = prompt_tokens(&request.prompt, &assets.tokenizer, assets.template.as_ref())
        .map_err(|_| End::Own(OwnFault::PromptUnusable))?;
    let architecture = &manifest.architecture;
    let known = |token: &TokenId| token.get() < architecture.vocab_size;
    if prompt.is_empty() || prompt.len() >= index(architecture.max_positions) || !prompt.iter().all(known) {
        return Err(End::Own(OwnFault::PromptUnusable));
    }

    let commitment: TraceCommitment = codec::decode(&signed.bytes).map_err(|_| failed(Reason::CommitmentShape))?;
    let names = (commitment.session, commitment.manifest, commitment.miner, commitment.validator);
    if names != (request.session_id(), request.manifest, request.miner, request.validator) {
        return Err(failed(Reason::WrongSession));
    }
    if !is_commitment_signed(&request.miner, &commitment, &signed.signature) {
        return Err(failed(Reason::CommitmentSignature));
    }
    let trace = TraceShape::new(architecture, manifest.profile);
    let positions = commitment.positions().ok_or(failed(Reason::CommitmentShape))?;
    if commitment.roots.len() != trace.tree_count() {
        return Err(failed(Reason::CommitmentShape));
    }
    if !commitment.prompt.iter().chain(&commitment.output).all(known) {
        return Err(failed(Reason::UnknownToken));
    }
    if commitment.prompt != prompt {
        return Err(failed(Reason::WrongPrompt));
    }
    if commitment.output != streamed {
        return Err(failed(Reason::StreamMismatch));
    }
    if !ends_rightly(request, &commitment, manifest, assets) {
        return Err(failed(Reason::WrongFinish));
    }
    let inputs = commitment.prompt.iter().chain(&commitment.output).take(positions);
    let expected = embedding_root(&commitment, inputs, embeddings)?;
    if commitment.roots.first() != Some(&expected) {
        return Err(failed(Reason::WrongEmbeddings));
    }
    Ok(commitment)
}

/// Whether the answer ends at its last token for the stated reason, and at none before.
fn ends_rightly(request: &Request, commitment: &TraceCommitment, manifest: &Manifest, assets: &ModelAssets) -> bool {
    let rule = FinishRule {
        tokenizer: &assets.tokenizer,
        architecture: &manifest.architecture,
        stop: &request.stop,
        max_tokens: request.max_tokens,
        prompt_tokens: commitment.prompt.len(),
    };
    let output = commitment.output.as_slice();
    let early = (1..output.len()).any(|length| output.get(..length).is_some_and(|part| rule.finish(part).is_some()));
    !early && rule.finish(output) == Some(commitment.finish)
}

/// The root of the tree of input rows, which the verifier computes itself: the input of every position
/// is exact, without a draw and without a proof.
fn embedding_root<'a>(
    commitment: &TraceCommitment,
    inputs: impl Iterator<Item = &'a TokenId>,
    embeddings: &EmbeddingDigests,
) -> Result<[u8; 32], End> {
    let tree = TreeId::H(LayerIndex::new(0));
    let leaves: Option<Vec<[u8; 32]>> = inputs
        .enumerate()
        .map(|(position, token)| {
            let digest = embeddings.get(*token)?;
            Some(leaf(&commitment.session, tree, Position::new(count(position)), digest))
        })
        .collect();
    let leaves = leaves.ok_or(End::Own(OwnFault::AssetMissing))?;
    Ok(MerkleTree::from_leaf_hashes(leaves).bound_root())
}
