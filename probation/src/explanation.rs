//! Why a miner stands where it stands.

use std::fmt;

use crate::{
    millionths::Millionths,
    outcome::ReasonCode,
    policy::Policy,
    record::{Judgement, Record, Standing},
    tally::Tally,
};

/// The numbers behind a miner's standing and weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Where it stands.
    pub standing: Standing,
    /// Its smoothed score.
    pub score: Millionths,
    /// The part of the score that counts for weight now: all of it or nothing.
    pub earned: Millionths,
    /// Clean epochs of the present probation so far.
    pub clean_epochs: u32,
    /// Clean epochs the present probation takes; zero off probation.
    pub required_epochs: u32,
    /// Accepted audits an epoch needs.
    pub required_audits: u32,
    /// Proven failures ever.
    pub failures: u32,
    /// The reason of the last of them.
    pub last_reason: Option<ReasonCode>,
    /// What the last ended epoch was; nothing for a miner that has seen none.
    pub last_epoch: Option<Judgement>,
    /// The running epoch so far.
    pub this_epoch: Tally,
}

impl Explanation {
    pub(crate) fn new(policy: &Policy, record: &Record) -> Self {
        let (clean_epochs, required_epochs) = record.probation().unwrap_or((0, 0));
        Self {
            standing: record.standing(),
            score: record.score(),
            earned: record.earned(),
            clean_epochs,
            required_epochs,
            required_audits: policy.parameters().audits_per_epoch,
            failures: record.failures(),
            last_reason: record.last_reason(),
            last_epoch: record.last_epoch(),
            this_epoch: *record.tally(),
        }
    }

    fn last_epoch_in_words(&self) -> &'static str {
        match self.last_epoch {
            None => "no epoch has ended for it yet",
            Some(Judgement::Failed) => "a failure was proven in the last epoch",
            Some(Judgement::Clean) => "the last epoch was clean",
            Some(Judgement::Silent) => "it fell silent in the last epoch",
            Some(Judgement::OurFault) => "the last epoch's audits were lost to our own faults",
            Some(Judgement::Short) => "the last epoch had too few accepted audits",
        }
    }
}

/// One line for people: what it stands at, and why.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.standing)?;
        match self.standing {
            Standing::Probation => write!(f, "{} of {} clean epochs", self.clean_epochs, self.required_epochs)?,
            Standing::Unproven | Standing::Good if self.earned > Millionths::ZERO => {
                write!(f, "score {}", self.score)?;
            }
            Standing::Unproven | Standing::Good => write!(f, "score {}, no weight", self.score)?,
        }
        write!(f, "; {}", self.last_epoch_in_words())?;
        let accepted = self.this_epoch.accepted;
        write!(f, "; {accepted} of {} audits accepted in this one", self.required_audits)?;
        if let Some(reason) = self.last_reason {
            write!(f, "; proven failures: {}, last reason {}", self.failures, reason.get())?;
        }
        Ok(())
    }
}
