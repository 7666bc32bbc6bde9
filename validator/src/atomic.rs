//! Files that are there whole or not at all.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use crate::disk::sync_directory;
use crate::error::StorageError;

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Whoever the system lets: it is evidence.
    All,
    /// Its owner alone.
    Owner,
}

/// Writes a file beside its place, under a name that nobody else uses, flushes it, and moves it there. Of several
/// writers the last one's file is there, whole. A crash at any point leaves the old file or the new one, and may leave a
/// part of the new one beside it (`.tmp`).
///
/// # Errors
/// [`StorageError`]; then the old file is there.
pub(crate) fn write(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), StorageError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    let own = getrandom::u64().map_err(StorageError::Random)?;
    name.push(format!(".{own:016x}.tmp"));
    let beside = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if readers == Readers::Owner {
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    }
    let written = options.open(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written.and_then(|()| std::fs::rename(&beside, path)) {
        // The write has failed already; what is left of it is only in the way.
        let _ = std::fs::remove_file(&beside);
        return Err(StorageError::io("write", path)(error));
    }
    path.parent().map_or(Ok(()), sync_directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        write(&path, b"first", Readers::All).unwrap();
        write(&path, b"second", Readers::All).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn of_two_writers_each_leaves_a_whole_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let content = |writer: u8| vec![writer; 100_000];
        write(&path, &content(0), Readers::All).unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (path, content) = (&path, content(writer));
                scope.spawn(move || (0..20).for_each(|_| write(path, &content, Readers::All).unwrap()));
            }
            for _ in 0..200 {
                let found = std::fs::read(&path).unwrap();
                assert!((0..4).any(|writer| found == content(writer)), "{} bytes, mixed or cut", found.len());
            }
        });
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_names_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = write(&path, b"bytes", Readers::All).unwrap_err().to_string();
        assert!(error.contains("taken"), "{error}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
