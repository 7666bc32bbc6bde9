//! What an epoch came to.

use std::collections::BTreeMap;

use assay_audit::verdict::Verdict;
use assay_probation::{Ledger, Outcome};
use serde::Serialize;

use crate::event::Ending;

/// One epoch, as a validator saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EpochReport {
    /// The epoch.
    pub epoch: u64,
    /// Hash of the key behind its nonces, in hex.
    pub key_hash: String,
    /// The miners that were asked, by uid.
    pub miners: Vec<MinerReport>,
    /// Weight that goes to nobody.
    pub burned: u16,
    /// Why the weights are not on chain, if they are not.
    pub weights_refused: Option<String>,
}

/// One miner's epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MinerReport {
    /// The miner's hotkey, in hex.
    pub hotkey: String,
    /// Its place on the subnet.
    pub uid: u16,
    /// Requests sent to it.
    pub requests: u32,
    /// Responses that were due to be proven, or failed before that.
    pub audits: u32,
    /// Audits accepted.
    pub accepted: u32,
    /// Responses served and not drawn for an audit.
    pub settled: u32,
    /// Sessions that our own faults made inconclusive.
    pub inconclusive: u32,
    /// Requests met with silence, or refused without cause.
    pub unavailable: u32,
    /// Requests refused over budget.
    pub refused: u32,
    /// Audits rejected, by reason.
    pub rejected: BTreeMap<String, u32>,
    /// Where it stands after the epoch.
    pub standing: String,
    /// Its smoothed score after the epoch, in millionths.
    pub score: u32,
    /// Its weight, of 65535.
    pub weight: u16,
}

impl MinerReport {
    /// Counts a session.
    pub(crate) fn count(&mut self, ending: &Ending, outcome: &Outcome) {
        self.requests += 1;
        let challenged = matches!(ending, Ending::Judged { challenged: true, .. });
        let slot = match outcome {
            Outcome::Accepted { .. } => &mut self.accepted,
            Outcome::Settled { .. } => &mut self.settled,
            Outcome::Inconclusive => &mut self.inconclusive,
            Outcome::Unavailable => &mut self.unavailable,
            Outcome::Refused => &mut self.refused,
            Outcome::Rejected { .. } => {
                let slug = match ending {
                    Ending::Judged { verdict: Verdict::Rejected(failure), .. } => failure.reason.slug(),
                    Ending::Judged { .. } | Ending::Unavailable(_) | Ending::Refused(_) | Ending::OwnFault(_) => {
                        "unknown"
                    }
                };
                self.rejected.entry(slug.to_owned()).or_default()
            }
        };
        *slot += 1;
        // A commitment that is absent or wrong in itself is caught before any challenge.
        self.audits += u32::from(challenged || matches!(outcome, Outcome::Rejected { .. }));
    }

    /// Notes where the miner stands after the epoch.
    pub(crate) fn close(&mut self, ledger: &Ledger, hotkey: &assay_commitments::Hotkey, weight: u16) {
        ledger.standing(hotkey).slug().clone_into(&mut self.standing);
        self.score = ledger.score(hotkey).get();
        self.weight = weight;
    }
}
