//! The ledger: every miner's record under one policy.

use std::collections::BTreeMap;

use assay_commitments::{Epoch, Hotkey};
use serde::{Deserialize, Serialize};

use crate::{
    encoding,
    explanation::Explanation,
    millionths::Millionths,
    outcome::Outcome,
    policy::Policy,
    record::{Record, Standing},
    weights::{self, WeightError},
};

/// How often a miner's responses must be audited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditRate {
    /// Every response.
    Everything,
    /// As often as the audit policy in force says.
    Policy,
}

/// An epoch was to be ended that had ended before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("epoch {ended} has ended already; the ledger is in epoch {running}")]
pub struct EpochClosed {
    /// The epoch that was to be ended.
    pub ended: Epoch,
    /// The epoch the ledger is in.
    pub running: Epoch,
}

/// What a ledger remembers, for a store: the running epoch and the record of every hotkey it ever
/// judged.
///
/// The serialised form is canonical (one text for one state), and refuses unknown fields and
/// hotkeys given twice. It does not hold the policy: an operator who changes that keeps the
/// history, and terms already handed out stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// As a bare number, which is how it is stored.
    epoch: u64,
    #[serde(with = "encoding::miners")]
    miners: BTreeMap<Hotkey, Record>,
}

impl State {
    /// Nobody known yet, with `epoch` running.
    pub const fn starting_at(epoch: Epoch) -> Self {
        Self { epoch: epoch.get(), miners: BTreeMap::new() }
    }

    /// The running epoch: the first that has not been ended.
    pub const fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }
}

/// The standing, score and weight of every miner, as a function of a policy and a history of
/// events.
///
/// ```
/// use assay_commitments::{Epoch, Hotkey};
/// use assay_probation::{Ledger, Outcome, Policy, ReasonCode, Standing, State};
///
/// let mut ledger = Ledger::new(Policy::default(), State::starting_at(Epoch::new(7)));
/// let (owner, miner) = (Hotkey::new([0; 32]), Hotkey::new([1; 32]));
/// ledger.record(miner, Outcome::Rejected { reason: ReasonCode::new(201) });
/// assert_eq!(ledger.standing(&miner), Standing::Probation);
/// ledger.end_epoch(Epoch::new(7))?;
/// assert_eq!(ledger.weights(&[owner, miner], owner)?, [(owner, 65_535), (miner, 0)]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ledger {
    policy: Policy,
    state: State,
}

impl Ledger {
    /// Goes on from a state, be it a new or a stored one.
    pub const fn new(policy: Policy, state: State) -> Self {
        Self { policy, state }
    }

    /// What to store.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Takes note of how a request to a miner ended.
    ///
    /// It counts for the running epoch, also when the request began in an earlier one: a failure
    /// that is found late is still a failure. A hotkey never heard of is a new miner.
    pub fn record(&mut self, hotkey: Hotkey, outcome: Outcome) {
        self.state.miners.entry(hotkey).or_default().observe(&self.policy, outcome);
    }

    /// Ends `epoch` for every miner.
    ///
    /// Epochs that the validator slept through may be left out: they are its own fault and change
    /// nothing, and what was recorded since the last end is judged as one epoch.
    ///
    /// # Errors
    /// [`EpochClosed`] if that epoch has ended already, so that ending it again after a crash is
    /// harmless.
    pub fn end_epoch(&mut self, epoch: Epoch) -> Result<(), EpochClosed> {
        if epoch < self.state.epoch() {
            return Err(EpochClosed { ended: epoch, running: self.state.epoch() });
        }
        for record in self.state.miners.values_mut() {
            record.close(&self.policy);
        }
        self.state.epoch = epoch.next().get();
        Ok(())
    }

    /// Where a miner stands. An unknown hotkey is unproven.
    pub fn standing(&self, hotkey: &Hotkey) -> Standing {
        self.miner(hotkey).standing()
    }

    /// A miner's smoothed score, whether or not it gives weight at the moment.
    pub fn score(&self, hotkey: &Hotkey) -> Millionths {
        self.miner(hotkey).score()
    }

    /// How often to audit a miner: always until it has proven itself, and on probation.
    pub fn audit_rate(&self, hotkey: &Hotkey) -> AuditRate {
        match self.standing(hotkey) {
            Standing::Good => AuditRate::Policy,
            Standing::Unproven | Standing::Probation => AuditRate::Everything,
        }
    }

    /// Whether users' own requests may go to a miner. Only those that have proven themselves get
    /// any: nobody's answer should be the first test of whoever gives it.
    pub fn organic_allowed(&self, hotkey: &Hotkey) -> bool {
        self.standing(hotkey) == Standing::Good
    }

    /// The numbers behind a miner's standing and weight.
    pub fn explain(&self, hotkey: &Hotkey) -> Explanation {
        Explanation::new(&self.policy, &self.miner(hotkey))
    }

    /// The weight of every hotkey of the metagraph, in the order given, zeros included (a subnet
    /// may ask for a weight for every uid). The values add up to [`crate::WEIGHT_TOTAL`].
    ///
    /// - A miner counts with its score if it is in good standing and the last ended epoch gave it
    ///   weight, else with nothing.
    /// - Its share is `score / max(capacity, sum of the scores)`: proportional to score, and never
    ///   above `score / capacity`. What the scores leave of the capacity goes to the burn hotkey
    ///   and not to the least bad. Only once the capacity is full does a share depend on others.
    /// - Shares are rounded by largest remainder, equal fractions by hotkey. Within one metagraph a
    ///   higher score never has the lower weight, and a score that rises alone never loses a unit.
    ///
    /// The burn hotkey is the subnet owner's: weight on it is emission that nobody gets. It earns
    /// nothing itself.
    ///
    /// # Errors
    /// [`WeightError`] if the burn hotkey is missing from the list or a hotkey stands in it twice.
    pub fn weights(&self, metagraph: &[Hotkey], burn: Hotkey) -> Result<Vec<(Hotkey, u16)>, WeightError> {
        let capacity = self.policy.parameters().capacity;
        weights::share(metagraph, burn, capacity, |hotkey| self.miner(hotkey).earned())
    }

    fn miner(&self, hotkey: &Hotkey) -> Record {
        self.state.miners.get(hotkey).copied().unwrap_or_default()
    }
}
