//! An append-only file of records, each on disk before the next step is taken.
//!
//! A record is a length, that many bytes, and a checksum. Every append is flushed to the disk before
//! it returns, so a crash can tear the last record only: what comes after the last whole one, if it
//! is no longer than a record, was never acted upon and is cut off. Damage anywhere else is reported.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha3::{Digest, Sha3_256};
use zeroize::Zeroizing;

use crate::error::StorageError;

/// Most bytes of a record.
pub(crate) const MAX_RECORD_BYTES: usize = 256;
const LENGTH_BYTES: usize = 4;
const CHECKSUM_BYTES: usize = 8;

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
        let mut file = options.open(path).map_err(StorageError::io("open", path))?;
        // Two writers would draw the same counters twice.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StorageError::InUse(path.to_owned()),
            TryLockError::Error(error) => StorageError::io("lock", path)(error),
        })?;
        let mut bytes = Zeroizing::new(Vec::new());
        file.read_to_end(&mut bytes).map_err(StorageError::io("read", path))?;
        let (records, whole) = parse(&bytes);
        if bytes.len() - whole > MAX_RECORD_BYTES + LENGTH_BYTES + CHECKSUM_BYTES {
            return Err(StorageError::Damaged { path: path.to_owned(), what: "a record's checksum is wrong" });
        }
        let mut journal =
            Self { path: path.to_owned(), file, length: u64::try_from(whole).unwrap_or(u64::MAX), poisoned: false };
        journal.cut()?;
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
        let bytes = Zeroizing::new(frame(record));
        let written = self.file.write_all(&bytes).and_then(|()| self.file.sync_data());
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

/// Flushes a directory, so that names in it outlive a crash.
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StorageError> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(StorageError::io("flush", directory))
}

fn frame(record: &[u8]) -> Vec<u8> {
    let length = u32::try_from(record.len()).expect("records are shorter than MAX_RECORD_BYTES");
    debug_assert!(record.len() <= MAX_RECORD_BYTES);
    [&length.to_le_bytes(), record, &checksum(record)].concat()
}

fn checksum(record: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest: [u8; 32] = Sha3_256::digest(record).into();
    let mut checksum = [0; CHECKSUM_BYTES];
    checksum.copy_from_slice(&digest[..CHECKSUM_BYTES]);
    checksum
}

/// The whole records at the beginning, and how many bytes they take.
fn parse(bytes: &[u8]) -> (Vec<Record>, usize) {
    let mut records = Vec::new();
    let mut rest = bytes;
    while let Some((record, left)) = split_record(rest) {
        records.push(Zeroizing::new(record.to_vec()));
        rest = left;
    }
    (records, bytes.len() - rest.len())
}

fn split_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (record, rest) = rest.split_at_checked(length)?;
    let (stated, rest) = rest.split_first_chunk::<CHECKSUM_BYTES>()?;
    (*stated == checksum(record)).then_some((record, rest))
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

    #[test]
    fn a_torn_last_record_is_cut_off_wherever_it_was_torn() {
        let directory = tempfile::tempdir().unwrap();
        let (path, bytes) = written(directory.path());
        let last = LENGTH_BYTES + 5 + CHECKSUM_BYTES;
        for lost in 1..=last {
            std::fs::write(&path, &bytes[..bytes.len() - lost]).unwrap();
            let (mut journal, before) = Journal::open(&path).unwrap();
            assert_eq!(before.len(), 2, "{lost} bytes lost");
            journal.append(b"again").unwrap();
            drop(journal);
            assert_eq!(records(&path), [b"one".to_vec(), vec![], b"again".to_vec()]);
        }
    }

    #[test]
    fn a_tail_of_zeros_is_a_torn_record() {
        let directory = tempfile::tempdir().unwrap();
        let (path, mut bytes) = written(directory.path());
        bytes.extend_from_slice(&[0; 100]);
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(records(&path).len(), 3);
    }

    #[test]
    fn damage_in_the_middle_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let (mut journal, _) = Journal::open(&path).unwrap();
        for _ in 0..100 {
            journal.append(b"record").unwrap();
        }
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[LENGTH_BYTES] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = Journal::open(&path).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "a damaged file is left as it is");
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
