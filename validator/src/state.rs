//! What a validator remembers, on disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use assay_chain::BlockNumber;
use assay_commitments::{Epoch, Hotkey};
use assay_probation::{Ledger, Policy, State};
use serde::{Deserialize, Serialize};

use crate::atomic;
use crate::error::StorageError;

/// The ledger, and what keeps a restart from counting a session twice or setting weights twice. One file
/// holds all of it: a crash leaves it as it was before a step, or after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    pub(crate) ledger: State,
    /// The counters of the sessions that are in the ledger, of epochs whose journal is open.
    #[serde(default)]
    counted: BTreeMap<u64, BTreeMap<String, BTreeSet<u64>>>,
    /// The weights of the newest epoch that has been judged.
    #[serde(default)]
    pub(crate) weights: Option<WeightSet>,
}

/// The weights that an epoch came to, on their way to the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightSet {
    epoch: u64,
    pub(crate) stage: Stage,
}

/// How far they got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Stage {
    /// The epoch is judged.
    Due,
    /// They may have been submitted. Tried again, they are the same.
    Submitted {
        /// By hotkey in hexadecimal.
        weights: BTreeMap<String, u16>,
        /// When the chain had last seen weights of this validator, before.
        last_update: u64,
    },
    /// They are on chain since this block.
    Placed {
        /// The block.
        block: u64,
    },
    /// The chain will not have them.
    Refused {
        /// Why.
        why: String,
    },
}

impl WeightSet {
    /// Of an epoch that has just been judged.
    pub(crate) const fn due(epoch: Epoch) -> Self {
        Self { epoch: epoch.get(), stage: Stage::Due }
    }

    /// Whose weights these are.
    pub(crate) const fn epoch(&self) -> Epoch {
        Epoch::new(self.epoch)
    }

    /// Whether nothing more is to be done for them.
    pub(crate) const fn is_settled(&self) -> bool {
        matches!(self.stage, Stage::Placed { .. } | Stage::Refused { .. })
    }

    /// Why the chain will not have them, if it is that.
    pub(crate) fn refusal(&self) -> Option<&str> {
        match &self.stage {
            Stage::Refused { why } => Some(why),
            Stage::Due | Stage::Submitted { .. } | Stage::Placed { .. } => None,
        }
    }

    pub(crate) fn placed(&mut self, block: BlockNumber) {
        self.stage = Stage::Placed { block: block.get() };
    }
}

impl Records {
    const fn starting_at(epoch: Epoch) -> Self {
        Self { ledger: State::starting_at(epoch), counted: BTreeMap::new(), weights: None }
    }

    /// Notes that a session is in the ledger. False if it was before.
    pub(crate) fn count(&mut self, epoch: Epoch, miner: &Hotkey, counter: u64) -> bool {
        self.counted.entry(epoch.get()).or_default().entry(miner.to_string()).or_default().insert(counter)
    }

    /// Whether a session is in the ledger.
    pub(crate) fn is_counted(&self, epoch: Epoch, miner: &Hotkey, counter: u64) -> bool {
        let miners = self.counted.get(&epoch.get());
        miners.and_then(|miners| miners.get(&miner.to_string())).is_some_and(|counters| counters.contains(&counter))
    }

    /// Forgets the counters of an epoch, whose journal is closed.
    pub(crate) fn forget(&mut self, epoch: Epoch) {
        self.counted.remove(&epoch.get());
    }
}

/// The file that keeps a validator's records.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The records as they were left, or new ones that begin with `epoch`.
    pub(crate) fn load(directory: &Path, epoch: Epoch) -> Result<(Self, Records), StorageError> {
        std::fs::create_dir_all(directory).map_err(StorageError::io("create", directory))?;
        let path = directory.join("standing.json");
        // Going on with an empty state would forgive everyone: a damaged one stops us.
        let records = read(&path)?.unwrap_or(Records::starting_at(epoch));
        Ok((Self { path }, records))
    }

    /// Writes the records; when this returns, they are on disk. Blocks on the disk.
    pub(crate) fn save(&self, records: &Records) -> Result<(), StorageError> {
        let bytes = serde_json::to_vec_pretty(records).expect("records have a JSON form");
        atomic::write(&self.path, &bytes)
    }
}

fn read(path: &Path) -> Result<Option<Records>, StorageError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|_| StorageError::Damaged { path: path.to_owned(), what: "it holds no standings" }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StorageError::io("read", path)(error)),
    }
}

/// The ledger that a validator left in its directory, to look into; none if it has not run yet.
///
/// # Errors
/// [`StorageError`].
pub fn stored_ledger(directory: &Path, policy: Policy) -> Result<Option<Ledger>, StorageError> {
    Ok(read(&directory.join("standing.json"))?.map(|records| Ledger::new(policy, records.ledger)))
}

#[cfg(test)]
mod tests {
    use assay_probation::{Outcome, ReasonCode, Standing};

    use super::*;

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let miner = Hotkey::new([1; 32]);
        let (file, mut records) = StateFile::load(directory.path(), Epoch::new(3)).unwrap();
        let mut ledger = Ledger::new(Policy::default(), records.ledger);
        ledger.record(miner, Outcome::Rejected { reason: ReasonCode::new(201) });
        records.ledger = ledger.state().clone();
        assert!(records.count(Epoch::new(3), &miner, 7) && !records.count(Epoch::new(3), &miner, 7));
        let mut weights = WeightSet::due(Epoch::new(2));
        weights.placed(BlockNumber::new(9));
        records.weights = Some(weights);
        file.save(&records).unwrap();
        let (_, mut again) = StateFile::load(directory.path(), Epoch::new(9)).unwrap();
        assert_eq!(again, records);
        assert!(again.is_counted(Epoch::new(3), &miner, 7) && !again.is_counted(Epoch::new(4), &miner, 7));
        again.forget(Epoch::new(3));
        assert!(!again.is_counted(Epoch::new(3), &miner, 7));
        let ledger = stored_ledger(directory.path(), Policy::default()).unwrap().unwrap();
        assert_eq!(ledger.standing(&miner), Standing::Probation);
    }

    #[test]
    fn a_damaged_state_is_not_forgotten_silently() {
        let directory = tempfile::tempdir().unwrap();
        assert!(stored_ledger(directory.path(), Policy::default()).unwrap().is_none());
        std::fs::write(directory.path().join("standing.json"), b"{}").unwrap();
        let error = StateFile::load(directory.path(), Epoch::new(0)).unwrap_err().to_string();
        assert!(error.contains("standing.json is damaged"), "{error}");
    }
}
