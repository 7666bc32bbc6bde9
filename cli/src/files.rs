//! Files that commands read and write.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use assay_audit::exhibit::Exhibit;
use assay_audit::transcript_file::{FileError, TranscriptFile};
use assay_commitments::codec;
use assay_commitments::manifest::{MANIFEST_VERSION, Manifest};

use crate::outcome::Fault;

/// The manifest of a model folder, where `model commit` puts it unless told otherwise.
pub(crate) const MANIFEST_NAME: &str = "manifest.assay";

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

/// Reads a file that was named as an argument.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Fault::damaged(format!("{}: no such file: check the path", path.display())),
        io::ErrorKind::IsADirectory => {
            Fault::damaged(format!("{}: this is a folder: name a file in it", path.display()))
        }
        _ => Fault::damaged(format!("{}: cannot be read: {error}", path.display())),
    })
}

/// Reads a manifest.
pub(crate) fn read_manifest(path: &Path) -> Result<Manifest, Fault> {
    let bytes = read(path)?;
    codec::decode(&bytes).map_err(|error| {
        let path = path.display();
        if bytes.starts_with(b"ASSAY\0TR") {
            return Fault::damaged(format!("{path}: this is a transcript: name a manifest, or use `assay audit show`"));
        }
        match bytes.first_chunk() {
            Some(version) if u16::from_le_bytes(*version) == MANIFEST_VERSION => Fault::damaged(format!(
                "{path}: this is no manifest, or a damaged one ({error}): commit the model again"
            )),
            _ => Fault::damaged(format!(
                "{path}: this is no manifest of version {MANIFEST_VERSION}: make one with `assay model commit`"
            )),
        }
    })
}

/// Reads a transcript.
pub(crate) fn read_transcript(path: &Path) -> Result<TranscriptFile, Fault> {
    TranscriptFile::decode(&read(path)?).map_err(|error| Fault::of_transcript(path, error))
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
    let bytes = read(path)?;
    let read = match TranscriptFile::decode(&bytes) {
        Err(FileError::Foreign) => Exhibit::decode(&bytes).map(|exhibit| Evidence::Exhibit(Box::new(exhibit))),
        read => read.map(|file| Evidence::Transcript(Box::new(file))),
    };
    read.map_err(|error| Fault::of_transcript(path, error))
}

/// Every transcript file below a folder, sorted.
pub(crate) fn transcripts(folder: &Path) -> Result<Vec<PathBuf>, Fault> {
    files_below(folder, |path| path.extension().is_some_and(|extension| extension == "assay"))
}

/// Every file below a folder that is wanted, sorted.
pub(crate) fn files_below(folder: &Path, is_wanted: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>, Fault> {
    let unreadable = |error| Fault::own(format!("{}: cannot be listed: {error}", folder.display()));
    let mut found = vec![];
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).map_err(unreadable)? {
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

/// Checks that a file can be put at `path`, before the work that makes its content.
pub(crate) fn check_writable(path: &Path) -> Result<(), Fault> {
    if path.is_dir() {
        return Err(Fault::usage(format!("{}: this is a folder: name a file", path.display())));
    }
    let folder = parent(path);
    if !folder.is_dir() {
        return Err(Fault::usage(format!("{}: no such folder: make it first", folder.display())));
    }
    let refuse = |error: io::Error| Fault::usage(format!("{}: cannot be written to: {error}", folder.display()));
    tempfile::tempfile_in(folder).map(drop).map_err(refuse)
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    let unwritable = |error: io::Error| Fault::usage(format!("{}: cannot be written: {error}", path.display()));
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let written = write_and_sync(&part, bytes).and_then(|()| fs::rename(&part, path));
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
