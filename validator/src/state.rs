//! The ledger on disk.

use std::path::{Path, PathBuf};

use assay_commitments::Epoch;
use assay_probation::{Ledger, Policy, State};

use crate::atomic;
use crate::error::StorageError;

/// The file that keeps a ledger's state.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// The ledger as it was left, or a new one that begins with `epoch`.
    pub(crate) fn load(directory: &Path, policy: Policy, epoch: Epoch) -> Result<(Self, Ledger), StorageError> {
        std::fs::create_dir_all(directory).map_err(StorageError::io("create", directory))?;
        let path = directory.join("standing.json");
        let state = match std::fs::read(&path) {
            // Going on with an empty state would forgive everyone: a damaged one stops us.
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| StorageError::Damaged { path: path.clone(), what: "it holds no standings" })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => State::starting_at(epoch),
            Err(error) => return Err(StorageError::io("read", &path)(error)),
        };
        Ok((Self { path }, Ledger::new(policy, state)))
    }

    /// Writes the state; when this returns, it is on disk. Blocks on the disk.
    pub(crate) fn save(&self, state: &State) -> Result<(), StorageError> {
        let bytes = serde_json::to_vec_pretty(state).expect("a state has a JSON form");
        atomic::write(&self.path, &bytes)
    }
}

#[cfg(test)]
mod tests {
    use assay_commitments::Hotkey;
    use assay_probation::{Outcome, ReasonCode, Standing};

    use super::*;

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let miner = Hotkey::new([1; 32]);
        let (file, mut ledger) = StateFile::load(directory.path(), Policy::default(), Epoch::new(3)).unwrap();
        ledger.record(miner, Outcome::Rejected { reason: ReasonCode::new(201) });
        file.save(ledger.state()).unwrap();
        let (_, again) = StateFile::load(directory.path(), Policy::default(), Epoch::new(9)).unwrap();
        assert_eq!(again, ledger);
        assert_eq!(again.standing(&miner), Standing::Probation);
    }

    #[test]
    fn a_damaged_state_is_not_forgotten_silently() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("standing.json"), b"{}").unwrap();
        let error = StateFile::load(directory.path(), Policy::default(), Epoch::new(0)).unwrap_err().to_string();
        assert!(error.contains("standing.json is damaged"), "{error}");
    }
}
