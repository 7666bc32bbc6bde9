//! What a validator remembers, on disk.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use assay_audit::epoch_log::Ending as LogEnding;
use assay_audit::request::Network;
use assay_chain::BlockNumber;
use assay_commitments::{Epoch, Hotkey};
use assay_probation::{Ledger, Policy, State};
use serde::{Deserialize, Serialize};

use crate::atomic::{self, Readers};
use crate::disk;
use crate::error::StorageError;
use crate::owner::Owner;

/// The ledger, and what keeps a restart from counting a session twice or setting weights twice. One file
/// holds all of it: a crash leaves it as it was before a step, or after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Records {
    owner: Owner,
    pub(crate) ledger: State,
    /// The sessions that are in the ledger by epoch, miner and counter, of epochs whose journal is open.
    #[serde(default)]
    counted: BTreeMap<u64, BTreeMap<String, BTreeMap<u64, Counted>>>,
    /// The weights of the newest epoch that has been judged.
    #[serde(default)]
    pub(crate) weights: Option<WeightSet>,
}

/// A session that is in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Counted {
    /// How it stands in the epoch's log.
    #[serde(with = "EndingForm")]
    pub(crate) ending: LogEnding,
    /// How long its proof took.
    pub(crate) proof_ms: u32,
}

/// [`LogEnding`] in JSON.
#[derive(Serialize, Deserialize)]
#[serde(remote = "LogEnding", rename_all = "snake_case")]
enum EndingForm {
    Judged,
    Silent,
    Refused,
    Fault,
    Dead,
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
    const fn starting_at(epoch: Epoch, owner: Owner) -> Self {
        Self { owner, ledger: State::starting_at(epoch), counted: BTreeMap::new(), weights: None }
    }

    /// Notes that a session is in the ledger. False if it was before.
    pub(crate) fn count(&mut self, epoch: Epoch, miner: &Hotkey, counter: u64, counted: Counted) -> bool {
        match self.counted.entry(epoch.get()).or_default().entry(miner.to_string()).or_default().entry(counter) {
            Entry::Vacant(vacant) => {
                vacant.insert(counted);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// A session, if it is in the ledger.
    pub(crate) fn counted(&self, epoch: Epoch, miner: &Hotkey, counter: u64) -> Option<Counted> {
        self.counted_of(epoch, miner)?.get(&counter).copied()
    }

    /// How long a miner's proofs of an epoch took that are in the ledger.
    pub(crate) fn proof_ms(&self, epoch: Epoch, miner: &Hotkey) -> u64 {
        let counted = self.counted_of(epoch, miner).into_iter().flat_map(BTreeMap::values);
        counted.map(|counted| u64::from(counted.proof_ms)).sum()
    }

    fn counted_of(&self, epoch: Epoch, miner: &Hotkey) -> Option<&BTreeMap<u64, Counted>> {
        self.counted.get(&epoch.get())?.get(&miner.to_string())
    }

    /// Forgets the sessions of an epoch, whose journal is closed.
    pub(crate) fn forget(&mut self, epoch: Epoch) {
        self.counted.remove(&epoch.get());
    }
}

/// The name of the file of records.
const NAME: &str = "standing.json";
/// Most bytes of it: those of half a million hotkeys.
const MAX_BYTES: u64 = 1 << 28;

/// The file that keeps a validator's records.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// An owner's records as they were left, or new ones that begin with `epoch`.
    pub(crate) fn load(directory: &Path, owner: Owner, epoch: Epoch) -> Result<(Self, Records), StorageError> {
        disk::make_directory(directory)?;
        let path = directory.join(NAME);
        // Going on with an empty state would forgive everyone: a damaged one stops us.
        let records = match read(&path, &owner)? {
            Some(records) => records,
            None => Records::starting_at(epoch, owner),
        };
        Ok((Self { path }, records))
    }

    /// Writes the records; when this returns, they are on disk. Blocks on the disk. Only the owner may read them:
    /// where weights are hidden until their reveal, they stand here before it.
    pub(crate) fn save(&self, records: &Records) -> Result<(), StorageError> {
        let text = serde_json::to_vec_pretty(records).expect("records have a JSON form");
        atomic::write(&self.path, &assay_files::with_checksum(&text), Readers::Owner)
    }
}

fn read(path: &Path, owner: &Owner) -> Result<Option<Records>, StorageError> {
    let Some(bytes) = disk::read(path, MAX_BYTES)? else { return Ok(None) };
    let damaged = || StorageError::DamagedStandings(path.to_owned());
    let object = assay_files::without_checksum(&bytes).ok_or_else(damaged)?;
    let records: Records = serde_json::from_slice(&object).map_err(|_| damaged())?;
    records.owner.check(owner, path)?;
    Ok(Some(records))
}

/// The ledger that the validator `hotkey` of a subnet left in its directory, to look into; none if it has not run
/// yet.
///
/// # Errors
/// [`StorageError`], also when it is another validator's.
pub fn stored_ledger(
    directory: &Path,
    network: Network,
    hotkey: &Hotkey,
    policy: Policy,
) -> Result<Option<Ledger>, StorageError> {
    let records = read(&directory.join(NAME), &Owner::new(network, hotkey))?;
    Ok(records.map(|records| Ledger::new(policy, records.ledger)))
}

#[cfg(test)]
mod tests {
    use assay_probation::{Outcome, ReasonCode, Standing};

    use super::*;

    const NETWORK: Network = Network { genesis: [1; 32], netuid: 7 };
    const VALIDATOR: Hotkey = Hotkey::new([9; 32]);

    fn load(directory: &Path, epoch: u64) -> Result<(StateFile, Records), StorageError> {
        StateFile::load(directory, Owner::new(NETWORK, &VALIDATOR), Epoch::new(epoch))
    }

    fn stored(directory: &Path) -> Result<Option<Ledger>, StorageError> {
        stored_ledger(directory, NETWORK, &VALIDATOR, Policy::default())
    }

    #[test]
    fn a_restart_goes_on_where_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let miner = Hotkey::new([1; 32]);
        let (file, mut records) = load(directory.path(), 3).unwrap();
        let mut ledger = Ledger::new(Policy::default(), records.ledger);
        ledger.record(miner, Outcome::Rejected { reason: ReasonCode::new(201) });
        records.ledger = ledger.state().clone();
        let counted = Counted { ending: LogEnding::Silent, proof_ms: 5 };
        assert!(records.count(Epoch::new(3), &miner, 7, counted) && !records.count(Epoch::new(3), &miner, 7, counted));
        assert!(records.count(Epoch::new(3), &miner, 8, Counted { ending: LogEnding::Judged, proof_ms: 20 }));
        let mut weights = WeightSet::due(Epoch::new(2));
        weights.placed(BlockNumber::new(9));
        records.weights = Some(weights);
        file.save(&records).unwrap();
        let (_, mut again) = load(directory.path(), 9).unwrap();
        assert_eq!(again, records);
        assert_eq!(again.counted(Epoch::new(3), &miner, 7), Some(counted));
        assert_eq!((again.counted(Epoch::new(4), &miner, 7), again.proof_ms(Epoch::new(3), &miner)), (None, 25));
        again.forget(Epoch::new(3));
        assert_eq!((again.counted(Epoch::new(3), &miner, 7), again.proof_ms(Epoch::new(3), &miner)), (None, 0));
        let ledger = stored(directory.path()).unwrap().unwrap();
        assert_eq!(ledger.standing(&miner), Standing::Probation);
    }

    #[test]
    fn a_damaged_state_is_not_forgotten_silently() {
        let directory = tempfile::tempdir().unwrap();
        assert!(stored(directory.path()).unwrap().is_none());
        std::fs::write(directory.path().join("standing.json"), b"{}").unwrap();
        let error = load(directory.path(), 0).unwrap_err().to_string();
        assert!(error.contains("standing.json is damaged"), "{error}");
    }

    #[test]
    fn a_bit_that_turned_anywhere_in_the_records_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, records) = load(directory.path(), 3).unwrap();
        file.save(&records).unwrap();
        let path = directory.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        assert!(serde_json::from_slice::<serde_json::Value>(&whole).unwrap()["checksum"].is_string());
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            std::fs::write(&path, damaged).unwrap();
            assert!(matches!(load(directory.path(), 3), Err(StorageError::DamagedStandings(_))), "at {place}");
        }
        std::fs::write(&path, whole).unwrap();
        assert_eq!(load(directory.path(), 3).unwrap().1, records);
    }

    #[test]
    fn records_of_another_chain_subnet_or_hotkey_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (file, records) = load(directory.path(), 3).unwrap();
        file.save(&records).unwrap();
        let (genesis, netuid, other) = ([2; 32], 8, Hotkey::new([3; 32]));
        for (network, hotkey, what) in [
            (Network { genesis, ..NETWORK }, VALIDATOR, "of the chain 0101"),
            (Network { netuid, ..NETWORK }, VALIDATOR, "of subnet 7"),
            (NETWORK, other, "of hotkey 0909"),
        ] {
            let loaded = StateFile::load(directory.path(), Owner::new(network, &hotkey), Epoch::new(3));
            let looked_into = stored_ledger(directory.path(), network, &hotkey, Policy::default());
            for error in [loaded.map(drop).unwrap_err(), looked_into.map(drop).unwrap_err()] {
                let line = error.to_string();
                assert!(matches!(error, StorageError::Foreign { .. }) && line.contains(what), "{line}");
            }
        }
        assert!(stored(directory.path()).unwrap().is_some());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_the_records() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (file, records) = load(directory.path(), 3).unwrap();
        file.save(&records).unwrap();
        let mode = std::fs::metadata(directory.path().join(NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
