//! What all records need of the disk.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use assay_files::Unreadable;

use crate::error::StorageError;

/// Runs `work` on a thread that may wait for the disk; `path` says what for, should the thread end early.
///
/// # Errors
/// That of `work`, and [`StorageError::Worker`].
pub(crate) async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(StorageError::Worker(path)))
}

/// Reads a file of at most so many bytes, if it is there.
///
/// # Errors
/// [`StorageError::Io`], [`StorageError::Unreadable`].
pub(crate) fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, StorageError> {
    match assay_files::read(path, most) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.is_missing() => Ok(None),
        Err(why) => Err(unreadable(path)(why)),
    }
}

pub(crate) fn unreadable(path: &Path) -> impl FnOnce(Unreadable) -> StorageError {
    let path = path.to_owned();
    move |why| match why {
        Unreadable::Io(source) => StorageError::Io { action: "read", path, source },
        Unreadable::NoFile(_) | Unreadable::TooLong { .. } => StorageError::Unreadable { path, why },
    }
}

/// Makes a folder and all above it that are missing; when this returns, they outlive a crash.
///
/// # Errors
/// [`StorageError::Io`].
pub(crate) fn make_directory(path: &Path) -> Result<(), StorageError> {
    let is_missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    fs::create_dir_all(path).map_err(StorageError::io("create", path))?;
    if missing.is_empty() {
        // Another thread may have made it just now. Where the folder above is another user's, it was not made by us.
        let _ = path.parent().map(sync_directory);
    }
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_directory)
}

/// Flushes a directory, so that names in it outlive a crash.
///
/// # Errors
/// [`StorageError::Io`].
pub(crate) fn sync_directory(directory: &Path) -> Result<(), StorageError> {
    let here = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    File::open(here).and_then(|file| file.sync_all()).map_err(StorageError::io("flush", here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_with_all_above_them_and_may_be_there_already() {
        let directory = tempfile::tempdir().unwrap();
        let deep = directory.path().join("a/b/c");
        make_directory(&deep).unwrap();
        make_directory(&deep).unwrap();
        assert!(deep.is_dir());
        fs::write(directory.path().join("file"), b"").unwrap();
        let error = make_directory(&directory.path().join("file/d")).unwrap_err().to_string();
        assert!(error.contains("file/d"), "{error}");
    }

    #[test]
    fn a_record_that_is_too_long_or_no_file_is_told_from_one_that_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("record");
        assert_eq!(read(&path, 3).unwrap(), None);
        fs::write(&path, b"four").unwrap();
        assert_eq!(read(&path, 4).unwrap().as_deref(), Some(b"four".as_slice()));
        for (path, what) in [(path.as_path(), "longer than the 3 bytes"), (directory.path(), "a folder")] {
            let error = read(path, 3).unwrap_err();
            let line = error.to_string();
            assert!(matches!(error, StorageError::Unreadable { .. }) && line.contains(what), "{line}");
        }
    }
}
