//! What a proof is about: a request, a commitment and a nonce, and the challenge that follows.

use assay_commitments::Position;
use assay_commitments::TokenId;
use assay_commitments::manifest::{Architecture, Manifest};
use assay_commitments::trace::TraceCommitment;

use crate::challenge::{Challenge, Lengths, MAX_CELLS, Nonce, challenge_seed};
use crate::num::index;
use crate::policy::Policy;
use crate::proof::{MAX_PROOF_BYTES, most_proof_bytes};
use crate::request::Request;
use crate::sketch::{SIGNS_COMPLETE, SIGNS_WITH_NONCE};

/// What a proof is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statement<'a> {
    pub(crate) request: &'a Request,
    pub(crate) commitment: &'a TraceCommitment,
    /// None for a complete proof.
    pub(crate) nonce: Option<&'a Nonce>,
}

impl Statement<'_> {
    /// How many sign vectors every sketch has.
    pub(crate) const fn sign_count(&self) -> usize {
        if self.nonce.is_some() { SIGNS_WITH_NONCE } else { SIGNS_COMPLETE }
    }

    /// The token that was picked at `position`.
    pub(crate) fn picked(&self, position: Position) -> Option<TokenId> {
        let first = self.commitment.prompt.len().checked_sub(1)?;
        self.commitment.output.get(index(position.get()).checked_sub(first)?).copied()
    }
}

/// Whether a nonce is there exactly if the policy draws.
pub(crate) const fn nonce_fits(policy: &Policy, nonce: Option<&Nonce>) -> bool {
    matches!((policy, nonce), (Policy::Everything, None) | (Policy::Sampled { .. }, Some(_)))
}

/// Most that attention may take in an audit, as [`most_attention`] counts it: some minutes of a core.
const MAX_ATTENTION: u64 = 1 << 37;
/// What a head does once for each row that it attends to, in elements of one.
const ONCE_A_ROW: u64 = 64;

/// The most that the attention of all cells takes: for each head, and each row that it attends to, its elements and what is
/// done once.
fn most_attention(policy: &Policy, architecture: &Architecture, lengths: Lengths) -> u64 {
    let rows = Challenge::attended_bound(policy, architecture, lengths);
    let head = u64::from(architecture.head_dim).saturating_add(ONCE_A_ROW);
    rows.saturating_mul(architecture.heads_per_group().into()).saturating_mul(head)
}

/// Whether what a policy asks for in a session of these lengths is of a size that can be listed, sent, kept and judged,
/// whatever is drawn: at most [`MAX_CELLS`] cells, a proof of at most [`MAX_PROOF_BYTES`], and attention of at most
/// [`MAX_ATTENTION`].
pub(crate) fn is_bounded(policy: &Policy, manifest: &Manifest, lengths: Lengths) -> bool {
    Challenge::cell_count_bound(policy, &manifest.architecture, lengths) <= MAX_CELLS
        && most_proof_bytes(policy, manifest, lengths) <= MAX_PROOF_BYTES
        && most_attention(policy, &manifest.architecture, lengths) <= MAX_ATTENTION
}

/// The challenge of a session: `None` if the commitment has no tokens, or a nonce is missing where the
/// policy draws, or is given where nothing is drawn, or more is asked for than can be sent and kept.
pub fn challenge_of(
    request: &Request,
    manifest: &Manifest,
    commitment: &TraceCommitment,
    nonce: Option<&Nonce>,
) -> Option<Challenge> {
    let lengths = Lengths::new(commitment.prompt.len(), commitment.output.len())?;
    if !is_bounded(&request.policy, manifest, lengths) {
        return None;
    }
    match (request.policy, nonce) {
        (Policy::Everything, None) => Some(Challenge::everything(&manifest.architecture, lengths)),
        (Policy::Sampled { .. }, Some(nonce)) => {
            let seed = challenge_seed(nonce, &commitment.digest(), &request.policy);
            Some(Challenge::derive(&seed, &request.policy, &manifest.architecture, lengths))
        }
        (Policy::Everything, Some(_)) | (Policy::Sampled { .. }, None) => None,
    }
}
