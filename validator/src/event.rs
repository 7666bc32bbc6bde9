//! What a validator tells while it works.

use std::path::PathBuf;

use assay_audit::session::RefusalReason;
use assay_audit::transcript_file::Measurements;
use assay_audit::verdict::{OwnFault, Verdict};
use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::conversation::Silence;
use crate::report::EpochReport;
use crate::schedule::Wait;

/// How a session ended, without its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// With a verdict.
    Judged {
        /// The verdict.
        verdict: Verdict,
        /// Whether a proof was asked for.
        challenged: bool,
        /// Tokens that were streamed.
        tokens: u32,
        /// Bytes of the proof.
        proof_bytes: u32,
        /// What was measured.
        measurements: Measurements,
    },
    /// Nothing came.
    Unavailable(Silence),
    /// The request was refused, signed.
    Refused(RefusalReason),
    /// The validator failed.
    OwnFault(OwnFault),
}

/// Progress, in the order in which it is made.
#[derive(Clone, Debug)]
pub enum ValidatorEvent {
    /// An epoch's sessions begin.
    EpochBegan {
        /// The epoch.
        epoch: Epoch,
        /// Miners to be asked.
        miners: usize,
        /// Requests to each.
        requests: u32,
    },
    /// A miner is on the subnet and not asked.
    Skipped {
        /// Who.
        miner: Hotkey,
        /// Why, in a few words.
        why: &'static str,
    },
    /// A model was fetched and checked.
    ModelFetched {
        /// Its manifest.
        manifest: ManifestId,
        /// Who sent it.
        from: Hotkey,
    },
    /// A session that a crash had left unfinished is inconclusive.
    Buried {
        /// With whom it was.
        miner: Hotkey,
        /// Its counter.
        counter: u64,
    },
    /// A session ended.
    Session {
        /// With whom it was.
        miner: Hotkey,
        /// Its counter, if it got one.
        counter: Option<u64>,
        /// How it ended.
        ending: Ending,
        /// Where its transcript lies, if it has one.
        transcript: Option<PathBuf>,
    },
    /// Nothing is to be done until something happens on chain.
    Waits(Wait),
    /// A key of a past epoch is on chain.
    KeyRevealed {
        /// Its epoch.
        epoch: Epoch,
    },
    /// An epoch is judged and its weights are set.
    EpochEnded(Box<EpochReport>),
}
