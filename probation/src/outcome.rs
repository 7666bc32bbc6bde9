//! What can come of one request to one miner.

use serde::{Deserialize, Serialize};

/// How a request to a miner ended, as the validator saw it.
///
/// The enum is closed on purpose: a new way to end must say here what it costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The response was audited and its proof accepted.
    Accepted {
        /// How it was served.
        serving: Serving,
        /// What the proof cost.
        proof: ProofCost,
    },
    /// The response was audited and the miner proven wrong, or it owed a commitment or proof and
    /// gave none.
    Rejected {
        /// Which check failed.
        reason: ReasonCode,
    },
    /// The audit came to nothing through a fault of the validator's own. It costs the miner
    /// nothing.
    Inconclusive,
    /// The response was served and the draw did not select it for an audit.
    Settled {
        /// How it was served.
        serving: Serving,
    },
    /// Silence before the first token. It lowers the score, and proves nothing.
    Unavailable,
    /// A signed refusal of a miner over its budget of proof work. It counts as no audit.
    Refused,
}

/// How a response was served, by the validator's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Tokens received.
    pub tokens: u32,
    /// From the request to the first token, in milliseconds.
    pub first_token_ms: u32,
    /// From the first token to the last, in milliseconds.
    pub generation_ms: u32,
}

/// What a proof cost the validator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProofCost {
    /// Its size on the wire.
    pub bytes: u32,
    /// From the challenge to the proof's last byte, in milliseconds.
    pub latency_ms: u32,
}

/// The stable number of a rejection's reason. Policy treats all reasons alike and only remembers
/// the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReasonCode(u16);

impl ReasonCode {
    /// Wraps a raw code.
    pub const fn new(raw: u16) -> Self {
        Self(raw)
    }

    /// The raw code.
    pub const fn get(self) -> u16 {
        self.0
    }
}
