//! Traces that wait to be proven: in memory as long as they fit, then on disk.
//!
//! Room for a trace is reserved in memory before its first token, at the most that it can reach, so that
//! a full store refuses work and never loses what it owes. When memory is short, finished traces are
//! written to disk, the oldest first; their digests stay in memory, and every row that is read back is
//! held against its digest.
//!
//! What is on disk is what users asked and were told, in another form. It lies in files without a name,
//! which nobody else can open and which are gone with the process, however it ends.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::{fmt, fs};

use assay_commitments::SessionId;
use assay_commitments::trace::{RowsError, Trace, TraceDigests, TraceRows, TraceShape, TraceTrees, TreeId};
use thiserror::Error;
use tracing::warn;

/// Bytes that are handed to the system at a time.
const WRITE_BYTES: usize = 1 << 20;

/// The most that kept traces take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of memory, reserved room counted.
    pub memory_bytes: usize,
    /// Bytes of disk.
    pub disk_bytes: usize,
    /// Where traces are written to when memory is short; without it they stay in memory.
    pub folder: Option<PathBuf>,
}

/// What kept traces take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of memory, reserved room counted.
    pub memory_bytes: usize,
    /// Bytes of disk.
    pub disk_bytes: usize,
    /// Traces that were written to disk since the start.
    pub spilled: u64,
}

/// A folder that no trace can be written to.
#[derive(Debug, Error)]
#[error("traces cannot be written to {}: {source}; choose another folder or allow no disk", folder.display())]
pub struct FolderError {
    /// The folder.
    pub folder: PathBuf,
    /// What the system says.
    pub source: io::Error,
}

/// All traces that are kept, and the room of those to come. Clones are the same store.
#[derive(Clone, Debug)]
pub struct TraceStore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    budget: Budget,
    ledger: Mutex<Ledger>,
    /// Held while room is made, so that who asks next finds all that there is.
    making_room: Mutex<()>,
}

#[derive(Debug, Default)]
struct Ledger {
    usage: Usage,
    /// Finished traces, the oldest first.
    entries: BTreeMap<u64, Account>,
    /// The number of the next trace.
    next: u64,
    /// Whether the last trace that was to be written could not be.
    failing: bool,
}

/// What a trace takes.
#[derive(Debug)]
struct Account {
    memory: usize,
    disk: usize,
    entry: Weak<Entry>,
}

/// Reserved memory; dropping it frees it.
#[derive(Debug)]
pub struct Room {
    shared: Arc<Shared>,
    bytes: usize,
}

/// A kept trace, wherever it is; dropping it frees what it takes.
#[derive(Debug)]
pub struct Held(Arc<Entry>);

struct Entry {
    shared: Arc<Shared>,
    number: u64,
    /// Never locked while rows are read or written.
    place: Mutex<Arc<Place>>,
}

enum Place {
    Memory(Trace),
    Disk(Spilled),
}

/// A trace whose rows are in a file.
struct Spilled {
    digests: TraceDigests,
    file: File,
}

impl TraceStore {
    /// An empty store.
    ///
    /// # Errors
    /// [`FolderError`] if the budget names a folder that cannot be made or written to.
    pub fn new(budget: Budget) -> Result<Self, FolderError> {
        if let Some(folder) = &budget.folder {
            fs::create_dir_all(folder)
                .and_then(|()| tempfile::tempfile_in(folder))
                .map_err(|source| FolderError { folder: folder.clone(), source })?;
        }
        Ok(Self(Arc::new(Shared { budget, ledger: Mutex::default(), making_room: Mutex::default() })))
    }

    /// Reserves memory for a trace, the most that it can reach ([`Trace::most_memory`]); `None` when there
    /// is not enough. It may write other traces to disk first, which takes its time.
    pub fn reserve(&self, bytes: usize) -> Option<Room> {
        let shared = &self.0;
        let taken = || shared.ledger().take(bytes, &shared.budget);
        let room = || Room { shared: Arc::clone(shared), bytes };
        if taken() {
            return Some(room());
        }
        let folder = shared.budget.folder.as_ref()?;
        let _alone = shared.making_room.lock().unwrap_or_else(PoisonError::into_inner);
        let movable: Vec<Weak<Entry>> = {
            let ledger = shared.ledger();
            let in_memory = || ledger.entries.values().filter(|account| account.disk == 0);
            let owed = ledger.usage.memory_bytes - in_memory().map(|account| account.memory).sum::<usize>();
            if owed.saturating_add(bytes) > shared.budget.memory_bytes {
                return None;
            }
            in_memory().map(|account| account.entry.clone()).collect()
        };
        for entry in movable {
            if taken() {
                return Some(room());
            }
            if let Some(entry) = entry.upgrade() {
                entry.spill(folder);
            }
        }
        taken().then(room)
    }

    /// Keeps a finished trace; what it does not need of its room is free again.
    pub fn keep(&self, mut trace: Trace, mut room: Room) -> Held {
        trace.seal();
        let memory = trace.memory();
        let mut ledger = self.0.ledger();
        let number = ledger.next;
        ledger.next += 1;
        let entry =
            Arc::new(Entry { shared: Arc::clone(&self.0), number, place: Mutex::new(Arc::new(Place::Memory(trace))) });
        ledger.entries.insert(number, Account { memory, disk: 0, entry: Arc::downgrade(&entry) });
        ledger.usage.memory_bytes += memory;
        ledger.usage.memory_bytes -= std::mem::take(&mut room.bytes);
        Held(entry)
    }

    /// What is taken now.
    pub fn usage(&self) -> Usage {
        self.0.ledger().usage
    }
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    fn take(&mut self, bytes: usize, budget: &Budget) -> bool {
        let total = self.usage.memory_bytes.checked_add(bytes).filter(|total| *total <= budget.memory_bytes);
        self.usage.memory_bytes = total.unwrap_or(self.usage.memory_bytes);
        total.is_some()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shared.ledger().usage.memory_bytes -= self.bytes;
    }
}

impl Entry {
    /// Moves the trace to disk; where that cannot be, it stays in memory.
    fn spill(&self, folder: &Path) {
        let place = self.place();
        let Place::Memory(trace) = &*place else { return };
        let bytes: usize = trace.pieces().map(<[u8]>::len).sum();
        {
            let mut ledger = self.shared.ledger();
            let total = ledger.usage.disk_bytes.checked_add(bytes);
            let Some(total) = total.filter(|total| *total <= self.shared.budget.disk_bytes) else { return };
            ledger.usage.disk_bytes = total;
        }
        let written = write(trace, folder);
        let digests = trace.digests();
        let memory = digests.memory();
        let moved = written.map(|file| {
            let moved = Arc::new(Place::Disk(Spilled { digests, file }));
            *self.place.lock().unwrap_or_else(PoisonError::into_inner) = moved;
        });
        drop(place);
        let mut ledger = self.shared.ledger();
        match moved {
            Ok(()) => {
                if let Some(account) = ledger.entries.get_mut(&self.number) {
                    let before = std::mem::replace(&mut account.memory, memory);
                    account.disk = bytes;
                    ledger.usage.memory_bytes = ledger.usage.memory_bytes - before + memory;
                }
                ledger.usage.spilled += 1;
                ledger.failing = false;
            }
            Err(error) => {
                ledger.usage.disk_bytes -= bytes;
                if !std::mem::replace(&mut ledger.failing, true) {
                    warn!(folder = %folder.display(), %error, "a trace cannot be written to disk and stays in memory");
                }
            }
        }
    }

    fn place(&self) -> Arc<Place> {
        Arc::clone(&self.place.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Place {
    fn trace(&self) -> &dyn TraceRows {
        match self {
            Self::Memory(trace) => trace,
            Self::Disk(spilled) => spilled,
        }
    }
}

fn write(trace: &Trace, folder: &Path) -> io::Result<File> {
    let mut file = BufWriter::with_capacity(WRITE_BYTES, tempfile::tempfile_in(folder)?);
    trace.pieces().try_for_each(|piece| file.write_all(piece))?;
    Ok(file.into_inner()?)
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut ledger = self.shared.ledger();
        if let Some(account) = ledger.entries.remove(&self.number) {
            ledger.usage.memory_bytes -= account.memory;
            ledger.usage.disk_bytes -= account.disk;
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("number", &self.number).finish_non_exhaustive()
    }
}

impl TraceRows for Held {
    fn shape(&self) -> TraceShape {
        self.0.place().trace().shape()
    }

    fn positions(&self) -> usize {
        self.0.place().trace().positions()
    }

    fn rows(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError> {
        self.0.place().trace().rows(tree, positions)
    }

    fn commit(&self, session: &SessionId, positions: usize) -> TraceTrees {
        self.0.place().trace().commit(session, positions)
    }
}

impl TraceRows for Spilled {
    fn shape(&self) -> TraceShape {
        self.digests.shape()
    }

    fn positions(&self) -> usize {
        self.digests.positions()
    }

    fn rows(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError> {
        self.digests.rows(tree, positions, |tree, positions| {
            let absent = RowsError::Absent { tree, start: positions.start, end: positions.end };
            let offset = self.digests.offset(tree, positions.start).ok_or(absent)?;
            let mut rows = vec![0; positions.len() * self.digests.shape().row_bytes(tree)];
            self.file.read_exact_at(&mut rows, offset).map_err(|error| RowsError::Unreadable(error.kind()))?;
            Ok(rows)
        })
    }

    fn commit(&self, session: &SessionId, positions: usize) -> TraceTrees {
        self.digests.commit(session, positions)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use assay_commitments::rows::Profile;
    use assay_commitments::{LayerIndex, TokenId};

    use super::*;
    use crate::synthetic::{self, Numbers};
    use crate::{Model, Session};

    fn trace(positions: u32) -> Trace {
        let checkpoint = synthetic::checkpoint(&Numbers::TINY, 1);
        let model = Model::new(&checkpoint.architecture, &checkpoint.tensors, Profile::Bf16V1).unwrap();
        let mut session = Session::new(Arc::new(model), true);
        session.prefill(&(1..=positions).map(TokenId::new).collect::<Vec<_>>()).unwrap();
        session.into_trace().unwrap().unwrap()
    }

    fn file_bytes(trace: &Trace) -> usize {
        trace.pieces().map(<[u8]>::len).sum()
    }

    fn store(memory_bytes: usize, disk_bytes: usize, folder: &Path) -> TraceStore {
        TraceStore::new(Budget { memory_bytes, disk_bytes, folder: Some(folder.to_owned()) }).unwrap()
    }

    fn assert_same_rows(held: &Held, trace: &Trace) {
        let (session, positions) = (SessionId::new([5; 32]), trace.positions());
        assert_eq!((held.shape(), held.positions()), (trace.shape(), positions));
        assert_eq!(held.commit(&session, positions - 1).roots(), trace.commit(&session, positions - 1).roots());
        for tree in trace.shape().trees() {
            for range in [0..positions, 3..4, positions - 1..positions, positions..positions + 1] {
                assert_eq!(held.rows(tree, range.clone()), trace.rows(tree, range), "{tree:?}");
            }
        }
    }

    fn is_on_disk(held: &Held) -> bool {
        matches!(&*held.0.place(), Place::Disk(_))
    }

    #[test]
    fn room_is_bounded_and_comes_back() {
        let store = TraceStore::new(Budget { memory_bytes: 100, disk_bytes: 100, folder: None }).unwrap();
        let first = store.reserve(60).unwrap();
        assert!(store.reserve(41).is_none());
        let second = store.reserve(40).unwrap();
        assert!(store.reserve(usize::MAX).is_none());
        drop(first);
        assert!(store.reserve(60).is_some());
        drop(second);
        assert_eq!(store.usage(), Usage::default());
    }

    #[test]
    fn the_oldest_traces_go_to_disk_until_both_budgets_are_used_up() {
        let folder = tempfile::tempdir().unwrap();
        let trace = trace(20);
        let (memory, disk) = (trace.memory(), file_bytes(&trace));
        let most = Trace::most_memory(&trace.shape(), 20);
        assert!(memory < most);
        // One trace on its way and one finished, with the digests of three on disk.
        let budget = most + memory + 3 * trace.digests().memory();
        let store = store(budget, 3 * disk + 1, folder.path());
        let mut kept = vec![];
        while let Some(room) = store.reserve(most) {
            kept.push(store.keep(trace.clone(), room));
            let usage = store.usage();
            assert!(usage.memory_bytes <= budget && usage.disk_bytes <= 3 * disk, "{usage:?}");
            assert!(kept.len() < 10);
        }
        assert_eq!(kept.iter().map(is_on_disk).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert_eq!(
            store.usage(),
            Usage { memory_bytes: 2 * memory + 3 * trace.digests().memory(), disk_bytes: 3 * disk, spilled: 3 }
        );
        kept.iter().for_each(|held| assert_same_rows(held, &trace));
        // The files have no names: whatever ends the process, nothing is left of them.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        kept.remove(0);
        let room = store.reserve(most).unwrap();
        assert_eq!(kept.iter().map(is_on_disk).collect::<Vec<_>>(), [true, true, true, false]);
        drop((kept, room));
        assert_eq!(store.usage(), Usage { spilled: 4, ..Usage::default() });
    }

    #[test]
    fn a_request_that_never_fits_moves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let trace = trace(20);
        let most = Trace::most_memory(&trace.shape(), 20);
        let store = store(2 * most, usize::MAX, folder.path());
        let held = store.keep(trace, store.reserve(most).unwrap());
        let room = store.reserve(most).unwrap();
        assert!(store.reserve(most + 1).is_none());
        assert!(!is_on_disk(&held));
        drop(room);
    }

    #[test]
    fn a_trace_that_cannot_be_written_stays_in_memory() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("traces");
        let trace = trace(20);
        let most = Trace::most_memory(&trace.shape(), 20);
        let store = store(most, usize::MAX, &folder);
        let held = store.keep(trace.clone(), store.reserve(most).unwrap());
        fs::remove_dir(&folder).unwrap();
        let before = store.usage();
        assert!(store.reserve(most - trace.digests().memory()).is_none());
        assert_eq!(store.usage(), before);
        assert_same_rows(&held, &trace);
        fs::create_dir(&folder).unwrap();
        let room = store.reserve(most - trace.digests().memory()).unwrap();
        assert!(is_on_disk(&held));
        assert_same_rows(&held, &trace);
        drop((held, room));
        assert_eq!(store.usage(), Usage { spilled: 1, ..Usage::default() });
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_told_at_the_start() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let budget = Budget { memory_bytes: 1, disk_bytes: 1, folder: Some(file.path().join("traces")) };
        let error = TraceStore::new(budget).unwrap_err();
        assert!(error.to_string().contains("traces cannot be written to"), "{error}");
    }

    #[test]
    fn a_file_that_changed_gives_no_rows() {
        let folder = tempfile::tempdir().unwrap();
        let trace = trace(20);
        let most = Trace::most_memory(&trace.shape(), 20);
        let store = store(most, usize::MAX, folder.path());
        let held = store.keep(trace.clone(), store.reserve(most).unwrap());
        let room = store.reserve(most - trace.digests().memory()).unwrap();
        let place = held.0.place();
        let Place::Disk(spilled) = &*place else { panic!("not on disk") };
        let branch = TreeId::O(LayerIndex::new(0));
        let (start, streams) = (TreeId::H(LayerIndex::new(0)), TreeId::H(LayerIndex::new(2)));
        let offset = spilled.digests.offset(branch, 7).unwrap();
        let row = held.rows(branch, 7..8).unwrap();
        spilled.file.write_all_at(&[!row[0]], offset).unwrap();
        for tree in [branch, streams] {
            assert_eq!(held.rows(tree, 5..9), Err(RowsError::Changed { tree, position: 7 }));
            assert!(held.rows(tree, 8..9).is_ok());
        }
        spilled.file.set_len(offset).unwrap();
        assert_eq!(held.rows(branch, 7..8), Err(RowsError::Unreadable(io::ErrorKind::UnexpectedEof)));
        assert_eq!(held.rows(start, 0..20), trace.rows(start, 0..20));
        drop(room);
    }

    #[test]
    fn many_threads_share_a_store() {
        let folder = tempfile::tempdir().unwrap();
        let traces = [trace(3), trace(20), trace(40)];
        let shape = traces[0].shape();
        let budget = 3 * Trace::most_memory(&shape, 40);
        let disk = 8 * file_bytes(&traces[2]);
        let store = store(budget, disk, folder.path());
        let done = AtomicBool::new(false);
        let refused = std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let usage = store.usage();
                    assert!(usage.memory_bytes <= budget && usage.disk_bytes <= disk, "{usage:?}");
                }
            });
            let work = |thread: usize| {
                let (store, traces) = (&store, &traces);
                move || {
                    let (mut kept, mut refused) = (Vec::new(), 0);
                    for round in 0..60 {
                        let trace = &traces[(thread + round) % traces.len()];
                        match store.reserve(Trace::most_memory(&shape, trace.positions())) {
                            Some(room) if round % 7 > 0 => kept.push((store.keep(trace.clone(), room), trace)),
                            Some(room) => drop(room),
                            None => {
                                refused += 1;
                                kept.clear();
                            }
                        }
                        if let Some((held, trace)) = kept.get(round % 5) {
                            assert_same_rows(held, trace);
                        }
                    }
                    refused
                }
            };
            let threads: Vec<_> = (0..4).map(|thread| scope.spawn(work(thread))).collect();
            let refused: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap();
            refused
        });
        let usage = store.usage();
        assert_eq!((usage.memory_bytes, usage.disk_bytes), (0, 0));
        assert!(usage.spilled > 0 && refused > 0, "{usage:?}, {refused} refused");
    }
}
