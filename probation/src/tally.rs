//! What one epoch has brought for one miner so far.

use serde::{Deserialize, Serialize};

use crate::outcome::{Outcome, ProofCost, Serving};

/// Counts and sums of one miner's epoch.
///
/// Only sums, so that the order in which responses finish cannot matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Audits accepted.
    pub accepted: u32,
    /// Audits that proved a failure.
    pub rejected: u32,
    /// Audits lost to our own faults.
    pub inconclusive: u32,
    /// Responses served and not audited.
    pub settled: u32,
    /// Requests met with silence.
    pub unavailable: u32,
    /// Requests refused over budget.
    pub refused: u32,
    /// Tokens of the accepted and settled responses.
    pub tokens: u64,
    /// Their times to the first token, summed.
    pub first_token_ms: u64,
    /// Their times from the first token to the last, summed.
    pub generation_ms: u64,
    /// Bytes of the accepted proofs.
    pub proof_bytes: u64,
    /// Latencies of the accepted proofs, summed.
    pub proof_latency_ms: u64,
}

impl Tally {
    /// Responses that were served in full and not found wrong.
    pub fn served(&self) -> u32 {
        self.accepted.saturating_add(self.settled)
    }

    /// Their times from the request to the last token, summed, in milliseconds.
    pub fn answer_ms(&self) -> u64 {
        self.first_token_ms.saturating_add(self.generation_ms)
    }

    pub(crate) fn add(&mut self, outcome: Outcome) {
        let count = match outcome {
            Outcome::Accepted { serving, proof } => {
                self.add_serving(serving);
                self.add_proof(proof);
                &mut self.accepted
            }
            Outcome::Settled { serving } => {
                self.add_serving(serving);
                &mut self.settled
            }
            Outcome::Rejected { .. } => &mut self.rejected,
            Outcome::Inconclusive => &mut self.inconclusive,
            Outcome::Unavailable => &mut self.unavailable,
            Outcome::Refused => &mut self.refused,
        };
        *count = count.saturating_add(1);
    }

    fn add_serving(&mut self, serving: Serving) {
        self.tokens = self.tokens.saturating_add(u64::from(serving.tokens));
        self.first_token_ms = self.first_token_ms.saturating_add(u64::from(serving.first_token_ms));
        self.generation_ms = self.generation_ms.saturating_add(u64::from(serving.generation_ms));
    }

    fn add_proof(&mut self, proof: ProofCost) {
        self.proof_bytes = self.proof_bytes.saturating_add(u64::from(proof.bytes));
        self.proof_latency_ms = self.proof_latency_ms.saturating_add(u64::from(proof.latency_ms));
    }
}
