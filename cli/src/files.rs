//! Files that commands read and write.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use assay_audit::epoch_log::{EpochLog, MAX_LOG_BYTES};
use assay_audit::exhibit::Exhibit;
use assay_audit::transcript_file::{FileError, MAX_FILE_BYTES, TranscriptFile};
use assay_commitments::codec;
use assay_commitments::manifest::{MANIFEST_VERSION, MAX_MANIFEST_BYTES, Manifest};
use assay_files::Unreadable;

use crate::outcome::Fault;

/// The manifest of a model folder, where `model commit` puts it unless told otherwise.
pub(crate) const MANIFEST_NAME: &str = "manifest.assay";

/// Kind and version of a file.
const HEAD_BYTES: usize = 8 + 2;
/// A manifest's id, at the end of its file.
const ID_BYTES: usize = 32;

/// The tree file that belongs to a manifest file: beside it, with another extension.
pub(crate) fn tree_path(manifest: &Path) -> PathBuf {
    manifest.with_extension("tree")
}

/// Where the tree file grows until it is whole: beside the manifest, with another name than anybody gives.
pub(crate) fn partial_path(manifest: &Path) -> PathBuf {
    let mut name = manifest.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    manifest.with_file_name(name)
}

/// Reads a file of at most so many bytes that was named.
pub(crate) fn read(path: &Path, most: usize) -> Result<Vec<u8>, Fault> {
    assay_files::read(path, most as u64).map_err(|error| unreadable(path, &error))
}

/// Reads a text of at most so many bytes that belongs to a configuration.
pub(crate) fn read_text(path: &Path, most: usize) -> Result<String, Fault> {
    let bytes = read(path, most).map_err(|fault| Fault::usage(fault.message))?;
    String::from_utf8(bytes).map_err(|_| Fault::usage(format!("{}: this is no text in UTF-8", path.display())))
}

/// Why a file that was named is not read.
pub(crate) fn unreadable(path: &Path, error: &Unreadable) -> Fault {
    let path = path.display();
    Fault::damaged(if error.is_missing() {
        format!("{path}: no such file: check the path")
    } else {
        format!("{path}: {error}")
    })
}

/// Reads a file that begins with its kind and version: what these rule out is not read any further.
fn read_sealed<T>(path: &Path, most: usize, decode: impl Fn(&[u8]) -> Result<T, FileError>) -> Result<T, Fault> {
    let unreadable = |error| unreadable(path, &error);
    let file = assay_files::open(path).map_err(unreadable)?;
    let mut bytes = vec![];
    (&file).take(HEAD_BYTES as u64).read_to_end(&mut bytes).map_err(|error| unreadable(error.into()))?;
    if let Err(error @ (FileError::Foreign | FileError::Version { .. })) = decode(&bytes) {
        let is_manifest = || bytes.starts_with(&MANIFEST_VERSION.to_le_bytes()) && read_manifest(path).is_ok();
        let kind = match error {
            FileError::Foreign if is_manifest() => Some("this is a manifest: use `assay model inspect`"),
            FileError::Foreign => kind_of(&bytes),
            _ => None,
        };
        return Err(match kind {
            Some(kind) => Fault::damaged(format!("{}: {kind}", path.display())),
            None => Fault::of_transcript(path, error),
        });
    }
    assay_files::read_on(&file, most as u64, &mut bytes).map_err(unreadable)?;
    decode(&bytes).map_err(|error| Fault::of_transcript(path, error))
}

/// What a file is that begins like this, and who takes it; for files that were named where another kind is wanted.
fn kind_of(head: &[u8]) -> Option<&'static str> {
    let is_of = |error: Option<FileError>| !matches!(error, Some(FileError::Foreign));
    if is_of(TranscriptFile::decode(head).err()) {
        Some("this is a transcript: use `assay audit show` or `assay audit verify`")
    } else if is_of(Exhibit::decode(head).err()) {
        Some("this is an exhibit already: use `assay audit show` or `assay audit verify`")
    } else if is_of(EpochLog::decode_signed(head).err()) {
        Some("this is an epoch log: use `assay audit epoch FOLDER`")
    } else {
        None
    }
}

/// A manifest as a file: its canonical bytes, then its id. Another bit in the first is another manifest, as valid as
/// this one, so that without the second nobody could tell damage.
pub(crate) fn manifest_file(manifest: &Manifest) -> Vec<u8> {
    [codec::encode(manifest).as_slice(), manifest.id().as_bytes()].concat()
}

/// Reads a manifest.
pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, Fault> {
    let bytes = read(path, MAX_MANIFEST_BYTES + ID_BYTES)?;
    decode_manifest(&bytes).map_err(|error| {
        let path = path.display();
        if let Some(kind) = kind_of(&bytes[..bytes.len().min(HEAD_BYTES)]) {
            return Fault::damaged(format!("{path}: {kind}"));
        }
        match bytes.first_chunk() {
            Some(version) if u16::from_le_bytes(*version) == MANIFEST_VERSION => {
                Fault::damaged(format!("{path}: damaged, or no manifest ({error}): commit the model again"))
            }
            _ => Fault::damaged(format!(
                "{path}: this is no manifest of version {MANIFEST_VERSION}: make one with `assay model commit`"
            )),
        }
    })
}

fn decode_manifest(bytes: &[u8]) -> Result<Manifest, String> {
    let (content, id) = bytes.split_last_chunk::<ID_BYTES>().ok_or("its end is missing")?;
    let manifest: Manifest = codec::decode(content).map_err(|error| error.to_string())?;
    if manifest.id().as_bytes() == id {
        Ok(manifest)
    } else {
        Err("its bytes have another id than stands at its end".to_owned())
    }
}

/// The manifest that `model commit` left in a model folder, if it did.
pub(crate) fn committed_manifest(folder: &Path) -> Result<Option<Manifest>, Fault> {
    let path = folder.join(MANIFEST_NAME);
    if path.exists() { read_manifest(&path).map(Some) } else { Ok(None) }
}

/// Reads a transcript.
pub(crate) fn read_transcript(path: &Path) -> Result<TranscriptFile, Fault> {
    read_sealed(path, MAX_FILE_BYTES, TranscriptFile::decode)
}

/// Reads the log of an epoch.
pub(crate) fn read_log(path: &Path) -> Result<EpochLog, Fault> {
    read_sealed(path, MAX_LOG_BYTES, EpochLog::decode_signed)
}

/// What a file shows of a session.
pub(crate) enum Evidence {
    /// The whole session.
    Transcript(Box<TranscriptFile>),
    /// One cell or decode of it.
    Exhibit(Box<Exhibit>),
}

/// Reads a transcript or an exhibit.
pub(crate) fn read_evidence(path: &Path) -> Result<Evidence, Fault> {
    read_sealed(path, MAX_FILE_BYTES, |bytes| match TranscriptFile::decode(bytes) {
        Err(FileError::Foreign) => Exhibit::decode(bytes).map(|exhibit| Evidence::Exhibit(Box::new(exhibit))),
        read => read.map(|file| Evidence::Transcript(Box::new(file))),
    })
}

/// Every transcript file below a folder, sorted. A model's manifest has their extension and is none of them.
pub(crate) fn transcripts(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    let is_manifest = |path: &Path| path.ends_with(MANIFEST_NAME) && read_manifest(path).is_ok();
    files_below(folder, |path| path.extension().is_some_and(|extension| extension == "assay") && !is_manifest(path))
}

/// Everything below a folder that has a wanted name, sorted. What is no file is among it, and told of when it is read:
/// a transcript that was replaced is not one less.
pub(crate) fn files_below(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Fault> {
    let mut found = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let unreadable =
            |error| Fault::damaged(format!("{}: cannot be listed: {error}: check its permissions", folder.display()));
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let path = entry.path();
            // A link to a folder is not followed: it may lead back here.
            if entry.file_type().map_err(unreadable)?.is_dir() {
                folders.push(path);
            } else if is_wanted(&path) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Where what is written to `path` goes: to the end of the links that it leads along, which holds a file or nothing.
pub(crate) fn destination(path: &Path) -> Result<PathBuf, Fault> {
    let refuse = |why: &str| Err(Fault::usage(format!("{}: {why}", path.display())));
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        Ok(found) if found.is_dir() => return refuse("this is a folder: name a file"),
        Ok(_) => return refuse("this is no regular file: name a file"),
        Err(error) if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&error.kind()) => {}
        // Among them links that lead in a circle, so that those below come to an end.
        Err(error) => return refuse(&format!("cannot be written: {error}")),
    }
    let mut end = path.to_owned();
    while let Ok(next) = fs::read_link(&end) {
        end = parent(&end).join(next);
    }
    match lacking(parent(&end)) {
        Some(why) => {
            let folder = parent(&end).display();
            Err(Fault::usage(format!("{folder}: {why}: name a file in a folder that is there")))
        }
        None => Ok(end),
    }
}

/// Checks that a file can be put at `path`, before the work that makes its content.
pub(crate) fn check_writable(path: &Path) -> Result<(), Fault> {
    let end = destination(path)?;
    let folder = parent(&end);
    let refuse = |error: io::Error| Fault::usage(format!("{}: cannot be written to: {error}", folder.display()));
    tempfile::tempfile_in(folder).map(drop).map_err(refuse)
}

/// What a path lacks that is to be a folder.
pub(crate) fn lacking(folder: &Path) -> Option<&'static str> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => None,
        Ok(_) => Some("this is a file, not a folder"),
        Err(_) => Some("no such folder"),
    }
}

/// Makes a folder, unless it is there.
pub(crate) fn make_folder(path: &Path) -> Result<(), Fault> {
    fs::create_dir_all(path).map_err(|error| {
        let path = path.display();
        Fault::usage(match error.kind() {
            io::ErrorKind::AlreadyExists => format!("{path}: this is a file, not a folder: name a folder"),
            _ => format!("{path}: cannot be made: {error}: name a folder that can be written"),
        })
    })
}

/// Holds a file that one process at a time may hold, for as long as the answer lives: the system lets go of it however
/// the process ends.
pub(crate) fn hold(path: &Path, in_use: &str) -> Result<File, Fault> {
    let unusable = |error: io::Error| Fault::usage(format!("{}: cannot be locked: {error}", path.display()));
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(unusable)?;
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => Fault::usage(in_use),
        TryLockError::Error(error) => unusable(error),
    })?;
    Ok(file)
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let unwritable = |error: io::Error| Fault::usage(format!("{}: cannot be written: {error}", path.display()));
    let end = destination(path)?;
    let mut name = end.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = end.with_file_name(name);
    let written = write_and_sync(&part, bytes).and_then(|()| fs::rename(&part, &end));
    written.map_err(|error| {
        // Whatever is left of it is of no use; that it cannot be removed adds nothing to the error.
        let _ = fs::remove_file(&part);
        unwritable(error)
    })
}

fn write_and_sync(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    #[test]
    fn a_folder_that_cannot_be_listed_is_damaged_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let fault = transcripts(&gone).unwrap_err();
        assert_eq!(fault.outcome, Outcome::Damaged);
        assert!(fault.message.contains("gone: cannot be listed"), "{fault}");
    }
}
