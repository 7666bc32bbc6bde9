//! An append-only file of records, each on disk before the next step is taken.
//!
//! The file begins with its kind and version. A record is its length, the same with all bits turned, that
//! many bytes, a checksum and an end that is not zero. Every append is flushed to the disk before it
//! returns, so a crash can tear the last record only. What is torn was never acted upon and is cut off: it
//! is shorter than its length says, or zero from some place on to its end, where a file system makes a file
//! longer before it writes. Everything else is damage to what was acted upon, and is reported.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha3::{Digest, Sha3_256};
use zeroize::Zeroizing;

use crate::disk::{sync_directory, unreadable};
use crate::error::StorageError;

/// What every journal of some version begins with.
const KIND: &[u8] = b"assay journal ";
/// What those of this version begin with.
const HEAD: &[u8] = b"assay journal 1\n";
/// Most bytes of a journal: those of three million sessions.
const MAX_JOURNAL_BYTES: u64 = 1 << 30;
/// Most bytes of a record.
const MAX_RECORD_BYTES: usize = 256;
const LENGTH_BYTES: usize = 4;
/// The length, twice.
const LENGTHS_BYTES: usize = 2 * LENGTH_BYTES;
const CHECKSUM_BYTES: usize = 8;
/// The last byte of every record.
const END: u8 = 0xff;
/// Bytes of a record beside its own.
const FRAME_BYTES: usize = LENGTHS_BYTES + CHECKSUM_BYTES + 1;

/// A record as it is read; it may be a secret.
pub(crate) type Record = Zeroizing<Vec<u8>>;

/// An open journal.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes that are known to be whole records.
    length: u64,
    poisoned: bool,
}

impl Journal {
    /// Opens a journal, or begins one, and reads the records that are there. The file is the
    /// owner's alone: it may hold secrets.
    pub(crate) fn open(path: &Path) -> Result<(Self, Vec<Record>), StorageError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(StorageError::io("open", path))?;
        // Two writers would draw the same counters twice.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StorageError::InUse(path.to_owned()),
            TryLockError::Error(error) => StorageError::io("lock", path)(error),
        })?;
        let mut bytes = Zeroizing::new(Vec::new());
        assay_files::read_on(&file, MAX_JOURNAL_BYTES, &mut bytes).map_err(unreadable(path))?;
        let (records, whole) = parse(&bytes).map_err(|bad| match bad {
            Bad::Version => StorageError::OtherVersion(path.to_owned()),
            Bad::Damaged(what) => StorageError::Damaged { path: path.to_owned(), what },
        })?;
        let mut journal =
            Self { path: path.to_owned(), file, length: u64::try_from(whole).unwrap_or(u64::MAX), poisoned: false };
        journal.cut()?;
        if whole == 0 {
            journal.write(HEAD)?;
        }
        // The file's name must outlive a crash as well as its content.
        if let Some(directory) = path.parent() {
            sync_directory(directory)?;
        }
        Ok((journal, records))
    }

    /// Appends a record; when this returns, it is on disk.
    pub(crate) fn append(&mut self, record: &[u8]) -> Result<(), StorageError> {
        if self.poisoned {
            return Err(StorageError::Poisoned(self.path.clone()));
        }
        self.write(&Zeroizing::new(frame(record)))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let written = self.file.write_all(bytes).and_then(|()| self.file.sync_data());
        if let Err(source) = written {
            // Half a record in the middle would make the rest unreadable: back to the last whole one.
            self.poisoned = self.cut().is_err();
            return Err(StorageError::Io { action: "write", path: self.path.clone(), source });
        }
        self.length += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        Ok(())
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts off what is no whole record.
    fn cut(&mut self) -> Result<(), StorageError> {
        self.file.set_len(self.length).map_err(StorageError::io("truncate", &self.path))?;
        self.file.seek(SeekFrom::Start(self.length)).map_err(StorageError::io("seek in", &self.path))?;
        self.file.sync_data().map_err(StorageError::io("flush", &self.path))
    }
}

#[cfg(test)]
impl Journal {
    /// A journal on a disk that takes no writes.
    pub(crate) fn read_only(path: &Path) -> Self {
        let file = File::open(path).expect("the file exists");
        let length = file.metadata().expect("the file can be asked").len();
        Self { path: path.to_owned(), file, length, poisoned: false }
    }
}

fn frame(record: &[u8]) -> Vec<u8> {
    let length = u32::try_from(record.len()).expect("records are shorter than MAX_RECORD_BYTES");
    debug_assert!(record.len() <= MAX_RECORD_BYTES);
    [&length.to_le_bytes(), &(!length).to_le_bytes(), record, &checksum(record), &[END]].concat()
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha3_256::digest(record).into();
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    checksum
}

/// Why a journal is not read.
enum Bad {
    Version,
    Damaged(&'static str),
}

/// The records, and how many bytes the file has without what was torn: none if not even its beginning is whole.
fn parse(bytes: &[u8]) -> Result<(Vec<Record>, usize), Bad> {
    let Some(mut rest) = bytes.strip_prefix(HEAD) else { return begins_anew(bytes).map(|()| (Vec::new(), 0)) };
    let mut records = Vec::new();
    while let Some((record, left)) = split_record(rest) {
        records.push(Zeroizing::new(record.to_vec()));
        rest = left;
    }
    if rest.is_empty() || is_torn(rest) {
        Ok((records, bytes.len() - rest.len()))
    } else {
        Err(Bad::Damaged("a record is not what was written"))
    }
}

/// Whether no more than a part of its beginning was ever written of a file.
fn begins_anew(bytes: &[u8]) -> Result<(), Bad> {
    if bytes.len() <= HEAD.len() && HEAD.starts_with(written(bytes)) {
        return Ok(());
    }
    // The first version had no head: it began with the length of a record.
    let is_first = bytes.first_chunk().is_some_and(|length| {
        (1..=MAX_RECORD_BYTES).contains(&usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX))
    });
    Err(if is_first || bytes.starts_with(KIND) {
        Bad::Version
    } else {
        Bad::Damaged("it does not begin as a journal does")
    })
}

/// What there is before the zeros at the end.
fn written(bytes: &[u8]) -> &[u8] {
    let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    bytes.split_at(length).0
}

/// Whether the bytes behind the last whole record are the beginning of one, as a crash leaves it.
fn is_torn(rest: &[u8]) -> bool {
    match record_length(rest) {
        Some(length) => match rest.len().checked_sub(length.saturating_add(FRAME_BYTES)) {
            None => true,
            Some(more) => more == 0 && rest.last() == Some(&0),
        },
        None => rest.len() <= MAX_RECORD_BYTES + FRAME_BYTES && written(rest).len() < LENGTHS_BYTES,
    }
}

/// The length that a record begins with, if both of its spellings say the same.
fn record_length(bytes: &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = u32::from_le_bytes(*length);
    let turned = u32::from_le_bytes(*rest.first_chunk()?);
    usize::try_from(length).ok().filter(|bytes| length == !turned && *bytes <= MAX_RECORD_BYTES)
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = record_length(bytes)?;
    let (_, rest) = bytes.split_at_checked(LENGTHS_BYTES)?;
    let (record, rest) = rest.split_at_checked(length)?;
    let (stated, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    let (end, rest) = rest.split_first()?;
    (*stated == checksum(record) && *end == END).then_some((record, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(path: &Path) -> Vec<Vec<u8>> {
        let (_, records) = Journal::open(path).unwrap();
        records.into_iter().map(|record| record.to_vec()).collect()
    }

    #[test]
    fn a_second_writer_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let held = Journal::open(&path).unwrap();
        assert!(matches!(Journal::open(&path), Err(StorageError::InUse(_))));
        drop(held);
        assert!(Journal::open(&path).is_ok());
    }

    fn written(directory: &Path) -> (PathBuf, Vec<u8>) {
        let path = directory.join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for record in [b"one".as_slice(), b"", b"three"] {
            journal.append(record).unwrap();
        }
        let bytes = std::fs::read(&path).unwrap();
        (path, bytes)
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = written(directory.path());
        assert_eq!(records(&path), [b"one".to_vec(), vec![], b"three".to_vec()]);
        let (mut journal, _) = Journal::open(&path).unwrap();
        journal.append(b"four").unwrap();
        drop(journal);
        assert_eq!(records(&path).len(), 4);
    }

    /// Records of every kind that could be mistaken: empty, all zeros, all ones, as long as can be, a checksum that ends
    /// in zero.
    fn last_records() -> Vec<Vec<u8>> {
        let ends_in_zero = (0_u32..).map(|number| number.to_le_bytes().to_vec());
        let ends_in_zero = ends_in_zero.into_iter().find(|record| checksum(record)[CHECKSUM_BYTES - 1] == 0);
        vec![b"three".to_vec(), vec![], vec![0; 40], vec![0xff; 7], vec![0; MAX_RECORD_BYTES], ends_in_zero.unwrap()]
    }

    /// A journal of three records and this one.
    fn ending_in(last: &[u8]) -> Vec<u8> {
        [HEAD, &frame(b"one"), &frame(b""), &frame(b"three"), &frame(last)].concat()
    }

    #[test]
    fn a_torn_last_record_is_cut_off_wherever_it_was_torn() {
        for last in last_records() {
            let bytes = ending_in(&last);
            let whole = bytes.len() - frame(&last).len();
            for length in whole..bytes.len() {
                // The file ends there, or was made longer before the rest of the record was written.
                for zeros in [0, 1, bytes.len() - length] {
                    let torn = [&bytes[..length], &vec![0; zeros]].concat();
                    let found = parse(&torn).map(|(records, left)| (records.len(), left));
                    assert!(matches!(found, Ok((3, left)) if left == whole), "{last:?}: {length} bytes, {zeros} zeros");
                }
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = written(directory.path());
        for length in bytes.len() - frame(b"three").len()..bytes.len() {
            for zeros in [0, bytes.len() - length] {
                std::fs::write(&path, [&bytes[..length], &vec![0; zeros]].concat()).unwrap();
                let (mut journal, before) = Journal::open(&path).unwrap();
                assert_eq!(before.len(), 2, "{length} of {} bytes", bytes.len());
                journal.append(b"again").unwrap();
                drop(journal);
                assert_eq!(records(&path), [b"one".to_vec(), vec![], b"again".to_vec()]);
            }
        }
    }

    #[test]
    fn a_beginning_that_was_torn_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        for length in 0..HEAD.len() {
            for zeros in [0, HEAD.len() - length] {
                std::fs::write(&path, [&HEAD[..length], &vec![0; zeros]].concat()).unwrap();
                let (mut journal, before) = Journal::open(&path).unwrap();
                assert_eq!(before.len(), 0);
                journal.append(b"one").unwrap();
                drop(journal);
                assert_eq!(records(&path), [b"one".to_vec()]);
            }
        }
    }

    /// In the last record too: that a nonce is out may be what it says.
    #[test]
    fn every_bit_that_turns_in_what_was_written_is_reported_and_the_file_left_as_it_is() {
        let flipped = |bytes: &[u8], bit: usize| {
            let mut damaged = bytes.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            damaged
        };
        for last in last_records() {
            let bytes = ending_in(&last);
            let unnoticed = (0..8 * bytes.len()).find(|bit| parse(&flipped(&bytes, *bit)).is_ok());
            assert_eq!(unnoticed, None, "{last:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = written(directory.path());
        for bit in 0..8 * bytes.len() {
            let damaged = flipped(&bytes, bit);
            std::fs::write(&path, &damaged).unwrap();
            let error = Journal::open(&path).unwrap_err();
            let is_told = matches!(error, StorageError::Damaged { .. } | StorageError::OtherVersion(_));
            assert!(is_told && !error.to_string().contains('\n'), "bit {bit}: {error}");
            assert_eq!(std::fs::read(&path).unwrap(), damaged, "bit {bit}");
        }
    }

    #[test]
    fn more_zeros_than_a_record_has_are_damage() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = written(directory.path());
        for (zeros, is_torn) in [(MAX_RECORD_BYTES + FRAME_BYTES, true), (MAX_RECORD_BYTES + FRAME_BYTES + 1, false)] {
            std::fs::write(&path, [&bytes[..], &vec![0; zeros]].concat()).unwrap();
            assert_eq!(Journal::open(&path).is_ok(), is_torn, "{zeros}");
        }
    }

    #[test]
    fn a_journal_of_another_version_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let record = [7; 108];
        // The first version: length, record, checksum, and nothing before them.
        let first = [&108_u32.to_le_bytes()[..], &record, &checksum(&record)].concat();
        for bytes in [first, [b"assay journal 2\n".as_slice(), &frame(&record)].concat()] {
            std::fs::write(&path, &bytes).unwrap();
            let error = Journal::open(&path).unwrap_err();
            assert!(matches!(error, StorageError::OtherVersion(_)), "{error}");
            assert!(error.to_string().contains("let the version that wrote it"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read_it() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let (path, _) = written(directory.path());
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
