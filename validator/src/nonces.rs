//! Nonces of an epoch: a key, a counter for each miner that never repeats, and a journal that knows
//! which nonces are out.
//!
//! A nonce can be had in one way only: [`DrawnNonce::reveal`], which first writes to disk that it is
//! out. After a crash, counters that were drawn and not closed are dead: their sessions say nothing
//! about the miner, and no later session takes their place.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use assay_audit::challenge::{EpochKey, Nonce, nonce_commitment};
use assay_audit::epoch_log::{Ending as LogEnding, Listed, MAX_REQUESTS};
use assay_audit::request::Network;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer, decode, encode};
use assay_commitments::{Epoch, Hotkey, SessionId};
use zeroize::Zeroizing;

use crate::disk::{self, sync_directory};
use crate::error::StorageError;
use crate::journal::Journal;
use crate::owner::Owner;
use crate::stall::Moment;

const VERSION: u16 = 3;
const OPEN: &str = "nonces";
const REVEALED: &str = "revealed";

/// A session that was begun and has no end in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The miner.
    pub miner: Hotkey,
    /// The counter of its nonce.
    pub counter: u64,
    /// Whether the nonce is out.
    pub revealed: bool,
}

/// The nonces of one epoch.
#[derive(Clone, Debug)]
pub struct EpochNonces {
    epoch: Epoch,
    network: Network,
    validator: Hotkey,
    key: Arc<EpochKey>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    journal: Journal,
    /// By miner, and by counter.
    requests: BTreeMap<Hotkey, Vec<Listed>>,
    /// Counters whose nonce is out.
    revealed: BTreeMap<Hotkey, BTreeSet<u64>>,
}

/// A request of which nothing more is known than its counter.
const DRAWN: Listed = Listed { session: None, ending: LogEnding::Dead };

/// A counter value that is this session's alone, and what a request says of its nonce.
#[derive(Debug)]
pub struct DrawnNonce {
    nonces: EpochNonces,
    miner: Hotkey,
    counter: u64,
}

impl EpochNonces {
    /// Opens an epoch's journal in `directory`, or begins it with a new key, and says which sessions
    /// a crash left unfinished.
    ///
    /// # Errors
    /// [`StorageError`], also when the file is another validator's or another network's.
    pub fn open(
        directory: &Path,
        network: Network,
        validator: Hotkey,
        epoch: Epoch,
    ) -> Result<(Self, Vec<Unfinished>), StorageError> {
        disk::make_directory(directory)?;
        let path = directory.join(format!("epoch-{epoch}.{OPEN}"));
        let (mut journal, records) = Journal::open(&path)?;
        let damaged = |what| StorageError::Damaged { path: path.clone(), what };
        let mut records = records.iter();
        let key = if let Some(first) = records.next() {
            let header: Header = decode(first).map_err(|_| damaged("its first record is no header"))?;
            if header.epoch != epoch {
                return Err(damaged("it belongs to another epoch"));
            }
            Owner::new(header.network, &header.validator).check(&Owner::new(network, &validator), &path)?;
            header.key
        } else {
            let mut key = Zeroizing::new([0; 32]);
            getrandom::fill(key.as_mut()).map_err(StorageError::Random)?;
            let header = Header { epoch, network, validator, key };
            journal.append(&Zeroizing::new(encode(&header)))?;
            header.key
        };
        let mut requests = BTreeMap::<Hotkey, Vec<Listed>>::new();
        let mut revealed = BTreeMap::<Hotkey, BTreeSet<u64>>::new();
        let mut unfinished = BTreeSet::new();
        for record in records {
            let Mark { step, miner, counter } = decode(record).map_err(|_| damaged("a record is malformed"))?;
            let list = requests.entry(miner).or_default();
            let number = usize::try_from(counter).map_err(|_| damaged("a counter is too large"))?;
            match step {
                Step::Drawn => {
                    // A write that failed in between has used a value up.
                    if number >= MAX_REQUESTS {
                        return Err(damaged("a counter is too large"));
                    }
                    list.resize(list.len().max(number + 1), DRAWN);
                    unfinished.insert((miner, counter));
                }
                Step::Asked(session) => {
                    if let Some(listed) = list.get_mut(number) {
                        listed.session = Some(session);
                    }
                }
                Step::Revealed => {
                    revealed.entry(miner).or_default().insert(counter);
                }
                Step::Closed(ending) => {
                    if let Some(listed) = list.get_mut(number) {
                        listed.ending = ending;
                    }
                    unfinished.remove(&(miner, counter));
                }
            }
        }
        let unfinished = unfinished
            .into_iter()
            .map(|(miner, counter)| {
                let revealed = revealed.get(&miner).is_some_and(|counters| counters.contains(&counter));
                Unfinished { miner, counter, revealed }
            })
            .collect();
        let state = Arc::new(Mutex::new(State { journal, requests, revealed }));
        Ok((Self { epoch, network, validator, key: Arc::new(EpochKey::new(*key)), state }, unfinished))
    }

    /// The epochs whose key is not yet revealed, ascending.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open_epochs(directory: &Path) -> Result<Vec<Epoch>, StorageError> {
        let read = StorageError::io("list", directory);
        let entries = match std::fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(read(error)),
        };
        let mut epochs: Vec<Epoch> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                let number = name.strip_prefix("epoch-")?.strip_suffix(OPEN)?.strip_suffix('.')?;
                number.parse().ok().map(Epoch::new)
            })
            .collect();
        epochs.sort_unstable();
        Ok(epochs)
    }

    /// The epoch.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// What is published while the epoch runs.
    pub fn key_hash(&self) -> [u8; 32] {
        self.key.hash()
    }

    /// What is published once no proof of the epoch is due any more.
    pub fn key(&self) -> &EpochKey {
        &self.key
    }

    /// Takes the next counter value for a miner; it is on disk before this returns.
    ///
    /// # Errors
    /// [`StorageError`]: then no request may be sent.
    pub async fn draw(&self, miner: Hotkey) -> Result<DrawnNonce, StorageError> {
        let counter = self
            .with_state(move |state| {
                let list = state.requests.entry(miner).or_default();
                let counter = u64::try_from(list.len()).unwrap_or(u64::MAX);
                // Counted up even if the write fails: a value that may be on disk is not used again.
                list.push(DRAWN);
                state.journal.append(&encode(&Mark { step: Step::Drawn, miner, counter }))?;
                Ok(counter)
            })
            .await?;
        Ok(DrawnNonce { nonces: self.clone(), miner, counter })
    }

    /// Notes that a session has its end: stored, counted, or given up.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn close(&self, miner: Hotkey, counter: u64, ending: LogEnding) -> Result<(), StorageError> {
        self.mark(Step::Closed(ending), miner, counter).await
    }

    /// The requests so far, by miner and counter.
    pub fn requests(&self) -> BTreeMap<Hotkey, Vec<Listed>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).requests.clone()
    }

    /// The counters of a miner whose nonce is out: only of these can a proof have been asked for.
    pub(crate) fn revealed(&self, miner: &Hotkey) -> BTreeSet<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.revealed.get(miner).cloned().unwrap_or_default()
    }

    /// Puts the journal away after its key is revealed on chain.
    ///
    /// # Errors
    /// [`StorageError`].
    pub async fn retire(self) -> Result<(), StorageError> {
        self.with_state(|state| {
            let path = state.journal.path();
            let done = path.with_extension(REVEALED);
            std::fs::rename(path, &done).map_err(StorageError::io("rename", path))?;
            done.parent().map_or(Ok(()), sync_directory)
        })
        .await
    }

    async fn mark(&self, step: Step, miner: Hotkey, counter: u64) -> Result<(), StorageError> {
        self.with_state(move |state| {
            let listed = state.requests.get_mut(&miner).zip(usize::try_from(counter).ok());
            if let Some(listed) = listed.and_then(|(list, number)| list.get_mut(number)) {
                match step {
                    Step::Asked(session) => listed.session = Some(session),
                    Step::Closed(ending) => listed.ending = ending,
                    Step::Drawn | Step::Revealed => {}
                }
            }
            if step == Step::Revealed {
                state.revealed.entry(miner).or_default().insert(counter);
            }
            state.journal.append(&encode(&Mark { step, miner, counter }))
        })
        .await
    }

    /// Runs `work` on a thread that may wait for the disk.
    async fn with_state<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let state = Arc::clone(&self.state);
        let path = PathBuf::from(format!("epoch-{}.{OPEN}", self.epoch));
        disk::blocking(path, move || work(&mut state.lock().unwrap_or_else(PoisonError::into_inner))).await
    }

    fn nonce(&self, miner: &Hotkey, counter: u64) -> Nonce {
        self.key.nonce(self.network.netuid, miner, counter)
    }
}

impl DrawnNonce {
    /// The counter value.
    pub const fn counter(&self) -> u64 {
        self.counter
    }

    /// What a request says of the nonce.
    pub fn commitment(&self) -> [u8; 32] {
        let nonce = Zeroizing::new(self.nonces.nonce(&self.miner, self.counter));
        nonce_commitment(&nonce, self.counter, &self.nonces.validator, &self.miner)
    }

    /// Writes to disk which request is sent under the counter, so that the epoch's log has it.
    ///
    /// # Errors
    /// [`StorageError`]: then the request may not be sent.
    pub async fn asked(&self, session: SessionId) -> Result<(), StorageError> {
        self.nonces.mark(Step::Asked(session), self.miner, self.counter).await
    }

    /// Writes to disk that the nonce is out, then gives it out.
    ///
    /// # Errors
    /// [`StorageError`]: then it stays secret.
    pub async fn reveal(&self) -> Result<Nonce, StorageError> {
        self.nonces.mark(Step::Revealed, self.miner, self.counter).await?;
        Ok(self.nonces.nonce(&self.miner, self.counter))
    }

    /// The same, unless the disk took until after `due`. The nonce counts as out then, and is not given out: a miner
    /// to whom it came that late may have nothing left to answer it with.
    pub(crate) async fn reveal_by(&self, due: Moment) -> Result<Option<Nonce>, StorageError> {
        let nonce = self.reveal().await?;
        Ok((Moment::now() <= due).then_some(nonce))
    }
}

/// The first record: whose key this is.
struct Header {
    epoch: Epoch,
    network: Network,
    validator: Hotkey,
    key: Zeroizing<[u8; 32]>,
}

impl Canonical for Header {
    fn write(&self, out: &mut Writer) {
        out.u16(VERSION);
        out.u64(self.epoch.get());
        out.raw(&self.network.genesis);
        out.u16(self.network.netuid);
        out.raw(self.validator.as_bytes());
        out.raw(self.key.as_ref());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        if from.u16()? != VERSION {
            return Err(Malformed::NotCanonical);
        }
        Ok(Self {
            epoch: Epoch::new(from.u64()?),
            network: Network { genesis: from.array()?, netuid: from.u16()? },
            validator: Hotkey::new(from.array()?),
            key: Zeroizing::new(from.array()?),
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Drawn,
    Asked(SessionId),
    Revealed,
    Closed(LogEnding),
}

/// How far a session has come.
struct Mark {
    step: Step,
    miner: Hotkey,
    counter: u64,
}

impl Canonical for Mark {
    fn write(&self, out: &mut Writer) {
        match self.step {
            Step::Drawn => out.u8(1),
            Step::Revealed => out.u8(2),
            Step::Closed(ending) => {
                out.u8(3);
                out.value(&ending);
            }
            Step::Asked(session) => {
                out.u8(4);
                out.raw(session.as_bytes());
            }
        }
        out.raw(self.miner.as_bytes());
        out.u64(self.counter);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let step = match from.u8()? {
            1 => Step::Drawn,
            2 => Step::Revealed,
            3 => Step::Closed(from.value()?),
            4 => Step::Asked(SessionId::new(from.array()?)),
            _ => return Err(Malformed::NotCanonical),
        };
        Ok(Self { step, miner: Hotkey::new(from.array()?), counter: from.u64()? })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NETWORK: Network = Network { genesis: [6; 32], netuid: 7 };
    const VALIDATOR: Hotkey = Hotkey::new([9; 32]);
    const MINER: Hotkey = Hotkey::new([1; 32]);
    const OTHER: Hotkey = Hotkey::new([2; 32]);

    fn open(directory: &Path, epoch: u64) -> (EpochNonces, Vec<Unfinished>) {
        EpochNonces::open(directory, NETWORK, VALIDATOR, Epoch::new(epoch)).unwrap()
    }

    #[tokio::test]
    async fn counters_never_repeat_not_even_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..3 {
            let (nonces, _) = open(directory.path(), 4);
            for miner in [MINER, OTHER, MINER] {
                let drawn = nonces.draw(miner).await.unwrap();
                assert!(seen.insert((miner, drawn.counter())));
                assert!(seen.len() <= 9);
            }
        }
        assert_eq!(seen.iter().map(|(_, counter)| *counter).max(), Some(5));
    }

    #[tokio::test]
    async fn the_key_survives_and_the_nonce_opens_its_commitment() {
        let directory = tempfile::tempdir().unwrap();
        let (nonces, _) = open(directory.path(), 4);
        let drawn = nonces.draw(MINER).await.unwrap();
        let (commitment, counter) = (drawn.commitment(), drawn.counter());
        let nonce = drawn.reveal().await.unwrap();
        assert_eq!(nonce_commitment(&nonce, counter, &VALIDATOR, &MINER), commitment);
        let hash = nonces.key_hash();
        drop((nonces, drawn));
        let (again, _) = open(directory.path(), 4);
        assert_eq!(again.key_hash(), hash);
        assert_ne!(open(directory.path(), 5).0.key_hash(), hash);
    }

    #[tokio::test]
    async fn a_crash_leaves_exactly_the_sessions_without_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let (nonces, unfinished) = open(directory.path(), 4);
        assert_eq!(unfinished, []);
        let closed = nonces.draw(MINER).await.unwrap();
        closed.reveal().await.unwrap();
        nonces.close(MINER, closed.counter(), LogEnding::Judged).await.unwrap();
        let revealed = nonces.draw(MINER).await.unwrap();
        revealed.reveal().await.unwrap();
        nonces.draw(OTHER).await.unwrap();
        drop((nonces, closed, revealed));
        let expected = [
            Unfinished { miner: MINER, counter: 1, revealed: true },
            Unfinished { miner: OTHER, counter: 0, revealed: false },
        ];
        let (nonces, unfinished) = open(directory.path(), 4);
        assert_eq!(unfinished, expected);
        for dead in unfinished {
            nonces.close(dead.miner, dead.counter, LogEnding::Dead).await.unwrap();
        }
        drop(nonces);
        assert_eq!(open(directory.path(), 4).1, []);
    }

    #[tokio::test]
    async fn another_validators_journal_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        drop(open(directory.path(), 4));
        let (genesis, netuid) = ([5; 32], 8);
        for (network, validator, what) in [
            (NETWORK, OTHER, "of hotkey 0909"),
            (Network { netuid, ..NETWORK }, VALIDATOR, "of subnet 7"),
            (Network { genesis, ..NETWORK }, VALIDATOR, "of the chain 0606"),
        ] {
            let error = EpochNonces::open(directory.path(), network, validator, Epoch::new(4)).unwrap_err();
            assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        std::fs::rename(directory.path().join("epoch-4.nonces"), directory.path().join("epoch-5.nonces")).unwrap();
        let error = EpochNonces::open(directory.path(), NETWORK, VALIDATOR, Epoch::new(5)).unwrap_err();
        assert!(error.to_string().contains("another epoch"), "{error}");
    }

    #[tokio::test]
    async fn a_retired_epoch_is_open_no_more() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(EpochNonces::open_epochs(&directory.path().join("none")).unwrap(), []);
        let (fourth, _) = open(directory.path(), 4);
        let _third = open(directory.path(), 3);
        assert_eq!(EpochNonces::open_epochs(directory.path()).unwrap(), [Epoch::new(3), Epoch::new(4)]);
        fourth.retire().await.unwrap();
        assert_eq!(EpochNonces::open_epochs(directory.path()).unwrap(), [Epoch::new(3)]);
    }

    #[tokio::test]
    async fn a_nonce_that_the_disk_delays_beyond_its_deadline_is_not_given_out() {
        let directory = tempfile::tempdir().unwrap();
        let (nonces, _) = open(directory.path(), 4);
        let drawn = nonces.draw(MINER).await.unwrap();
        let (state, (begun, is_slow)) = (Arc::clone(&nonces.state), std::sync::mpsc::channel());
        let disk = std::thread::spawn(move || {
            let _writing = state.lock().unwrap();
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(300));
        });
        is_slow.recv().unwrap();
        assert_eq!(drawn.reveal_by(Moment::now() + Duration::from_millis(100)).await.unwrap(), None);
        disk.join().unwrap();
        let other = nonces.draw(OTHER).await.unwrap();
        let nonce = other.reveal_by(Moment::now() + Duration::from_mins(1)).await.unwrap();
        assert_eq!(nonce, Some(other.reveal().await.unwrap()));
        drop((nonces, drawn, other));
        let (_, unfinished) = open(directory.path(), 4);
        assert!(unfinished.iter().all(|session| session.revealed), "{unfinished:?}");
    }

    #[tokio::test]
    async fn a_nonce_that_cannot_be_noted_stays_secret() {
        let directory = tempfile::tempdir().unwrap();
        let (nonces, _) = open(directory.path(), 4);
        let drawn = nonces.draw(MINER).await.unwrap();
        // A read-only handle in place of the journal's stands for a disk that fails.
        let path = directory.path().join("epoch-4.nonces");
        {
            let mut state = nonces.state.lock().unwrap();
            state.journal = Journal::read_only(&path);
        }
        assert!(drawn.reveal().await.is_err());
        assert!(nonces.draw(MINER).await.is_err());
        drop((nonces, drawn));
        let (_, unfinished) = open(directory.path(), 4);
        assert_eq!(unfinished, [Unfinished { miner: MINER, counter: 0, revealed: false }]);
    }
}
