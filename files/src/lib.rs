//! Files that somebody names. A name may lead anywhere: a pipe that nobody writes to keeps whoever opens it waiting, a
//! device has no end, and a length costs nothing to claim. So the kind is asked before a file is opened, and what is
//! read has a bound. Records of one's own are read in the same way, and may have a checksum.

use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::path::Path;

use thiserror::Error;

mod checksum;

pub use checksum::{with_checksum, without_checksum};

/// Why a file is not read.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// It is not there, or the system refuses.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is something else than a file.
    #[error("this is {0}, not a file: name a file")]
    NoFile(&'static str),
    /// No file of its kind is as long.
    #[error("it is longer than the {most} bytes that a file of this kind can have: check what was named")]
    TooLong {
        /// Most bytes.
        most: u64,
    },
}

impl Unreadable {
    /// Whether there is nothing of that name.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

/// Opens a file, or the file that a link leads to.
///
/// # Errors
/// [`Unreadable`], at once for what is no file.
pub fn open(path: &Path) -> Result<File, Unreadable> {
    let kind = fs::metadata(path)?.file_type();
    if kind.is_file() { Ok(File::open(path)?) } else { Err(Unreadable::NoFile(name(kind))) }
}

/// Reads a file of at most so many bytes.
///
/// # Errors
/// [`Unreadable`].
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Unreadable> {
    let mut bytes = vec![];
    read_on(&open(path)?, most, &mut bytes)?;
    Ok(bytes)
}

/// Reads what is left of a file that has at most so many bytes, those that were read before among them.
///
/// # Errors
/// [`Unreadable`].
pub fn read_on(file: &File, most: u64, bytes: &mut Vec<u8>) -> Result<(), Unreadable> {
    let length = file.metadata()?.len();
    if length > most {
        return Err(Unreadable::TooLong { most });
    }
    let ahead = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(bytes.len());
    bytes.try_reserve_exact(ahead).map_err(io::Error::from)?;
    // Some files have other lengths than they say, or grow.
    let left = most.saturating_sub(bytes.len() as u64);
    file.take(left.saturating_add(1)).read_to_end(bytes)?;
    if bytes.len() as u64 > most { Err(Unreadable::TooLong { most }) } else { Ok(()) }
}

#[cfg(unix)]
fn name(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_dir() => "a folder",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn name(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "something else" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_to_its_bound_and_no_byte_beyond_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, b"twelve bytes").unwrap();
        assert_eq!(read(&path, 12).unwrap(), b"twelve bytes");
        assert!(matches!(read(&path, 11), Err(Unreadable::TooLong { most: 11 })));

        let file = open(&path).unwrap();
        let mut bytes = vec![];
        (&file).take(6).read_to_end(&mut bytes).unwrap();
        read_on(&file, 12, &mut bytes).unwrap();
        assert_eq!(bytes, b"twelve bytes");
        assert!(read(&folder.path().join("none"), 12).unwrap_err().is_missing());
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_refused_by_name_and_links_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, link, zero] = ["pipe", "link", "zero"].map(|name| folder.path().join(name));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        fs::write(folder.path().join("file"), b"x").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
        let socket = folder.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert_eq!(read(&link, 1).unwrap(), b"x");
        for (path, expected) in
            [(folder.path(), "a folder"), (&pipe, "a pipe"), (&zero, "a device"), (&socket, "a socket")]
        {
            assert!(matches!(read(path, 1), Err(Unreadable::NoFile(what)) if what == expected), "{expected}");
        }
    }

    /// Files of the system say that they have no length.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_length_is_not_believed() {
        let path = Path::new("/proc/self/status");
        assert_eq!(fs::metadata(path).unwrap().len(), 0);
        assert!(matches!(read(path, 8), Err(Unreadable::TooLong { most: 8 })));
        assert!(read(path, 1 << 16).unwrap().len() > 8);
    }
}
