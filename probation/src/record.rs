//! One miner's record: the transitions between standings.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    millionths::Millionths,
    outcome::{Outcome, ReasonCode},
    policy::Policy,
    score,
    tally::Tally,
};

/// Where a miner stands, from the worst to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// A proven failure is not yet expiated.
    Probation,
    /// No epoch with enough accepted audits yet: it may earn weight and has none.
    Unproven,
    /// It has proven itself, and nothing stands against it.
    Good,
}

impl Standing {
    /// The stable name, as the command line prints it.
    pub const fn slug(self) -> &'static str {
        match self {
            Self::Probation => "probation",
            Self::Unproven => "unproven",
            Self::Good => "good",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.slug())
    }
}

/// What an ended epoch was for a miner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judgement {
    /// A failure was proven.
    Failed,
    /// Enough audits were accepted, and on probation no request met silence.
    Clean,
    /// On probation, a request met silence.
    Silent,
    /// Too few audits were accepted, and the ones lost to our own faults make up the difference.
    OurFault,
    /// Too few audits were accepted.
    Short,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Conduct {
    #[default]
    Unproven,
    Good,
    Probation {
        clean: u32,
        required: u32,
    },
}

/// Everything remembered of one hotkey. The default is a hotkey never seen before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    conduct: Conduct,
    score: Millionths,
    /// Whether the last judged epoch gives weight.
    earning: bool,
    /// Epochs with at least one proven failure.
    offences: u32,
    failures: u32,
    last_reason: Option<ReasonCode>,
    last_epoch: Option<Judgement>,
    tally: Tally,
}

impl Record {
    pub(crate) fn standing(&self) -> Standing {
        match self.conduct {
            Conduct::Probation { .. } => Standing::Probation,
            Conduct::Unproven => Standing::Unproven,
            Conduct::Good => Standing::Good,
        }
    }

    pub(crate) fn score(&self) -> Millionths {
        self.score
    }

    /// The score that counts for weight. It asks for the standing as well as for the flag, so that
    /// no single forgotten assignment could pay a miner on probation.
    pub(crate) fn earned(&self) -> Millionths {
        if self.earning && self.conduct == Conduct::Good { self.score } else { Millionths::ZERO }
    }

    /// Clean epochs so far and required, on probation.
    pub(crate) fn probation(&self) -> Option<(u32, u32)> {
        match self.conduct {
            Conduct::Probation { clean, required } => Some((clean, required)),
            Conduct::Unproven | Conduct::Good => None,
        }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    pub(crate) fn last_reason(&self) -> Option<ReasonCode> {
        self.last_reason
    }

    pub(crate) fn last_epoch(&self) -> Option<Judgement> {
        self.last_epoch
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Takes note of one response. A failure has its effect here; everything else waits for the end
    /// of the epoch.
    pub(crate) fn observe(&mut self, policy: &Policy, outcome: Outcome) {
        if let Outcome::Rejected { reason } = outcome {
            self.fail(policy, reason);
        }
        self.tally.add(outcome);
    }

    /// Ends the running epoch.
    pub(crate) fn close(&mut self, policy: &Policy) {
        let judgement = self.judge(policy);
        match judgement {
            Judgement::Clean => self.credit(policy),
            Judgement::Silent | Judgement::Short => self.fall_short(policy),
            // What we broke ourselves changes nothing: score, weight and the run of clean epochs stay as
            // they were, but for what the miner's own silence costs in any epoch.
            Judgement::OurFault => {
                self.score = score::smooth(policy, self.score, score::available(self.score, &self.tally));
            }
            // A failure had its whole effect when it was proven.
            Judgement::Failed => {}
        }
        self.last_epoch = Some(judgement);
        self.tally = Tally::default();
    }

    fn fail(&mut self, policy: &Policy, reason: ReasonCode) {
        if self.tally.rejected == 0 {
            self.offences = self.offences.saturating_add(1);
        }
        self.failures = self.failures.saturating_add(1);
        self.last_reason = Some(reason);
        self.score = Millionths::ZERO;
        self.earning = false;
        self.conduct = Conduct::Probation { clean: 0, required: policy.probation_epochs(self.offences) };
    }

    fn judge(&self, policy: &Policy) -> Judgement {
        let required = policy.parameters().audits_per_epoch;
        let Tally { accepted, rejected, inconclusive, unavailable, .. } = self.tally;
        if rejected > 0 {
            Judgement::Failed
        } else if unavailable > 0 && self.probation().is_some() {
            Judgement::Silent
        } else if accepted >= required {
            Judgement::Clean
        } else if accepted.saturating_add(inconclusive) >= required {
            Judgement::OurFault
        } else {
            Judgement::Short
        }
    }

    /// A clean epoch either shortens the probation by one or is sampled. The epoch that ends a
    /// probation is sampled: it was audited in full.
    fn credit(&mut self, policy: &Policy) {
        if let Conduct::Probation { clean, required } = self.conduct
            && clean.saturating_add(1) < required
        {
            self.conduct = Conduct::Probation { clean: clean.saturating_add(1), required };
            return;
        }
        self.conduct = Conduct::Good;
        self.score = score::smooth(policy, self.score, score::sample(policy, &self.tally));
        self.earning = true;
    }

    /// No weight for the epoch. The score falls only if the miner was silent: a refusal is its
    /// right, and an epoch in which it was hardly asked says nothing about it.
    fn fall_short(&mut self, policy: &Policy) {
        self.earning = false;
        if let Conduct::Probation { required, .. } = self.conduct {
            self.conduct = Conduct::Probation { clean: 0, required };
        }
        if self.tally.unavailable > 0 {
            self.score = score::smooth(policy, self.score, Millionths::ZERO);
        }
    }
}
