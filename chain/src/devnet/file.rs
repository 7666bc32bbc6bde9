//! A devnet as a file.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use assay_files::Unreadable;
use serde::{Deserialize, Serialize};

use super::{Devnet, state::State};

/// What the file says it is.
const KIND: &str = "assay devnet";
const VERSION: u32 = 1;
/// Most bytes of a devnet.
const MAX_BYTES: u64 = 1 << 30;

#[derive(Serialize)]
struct Written<'a> {
    kind: &'static str,
    version: u32,
    state: &'a State,
}

/// The head is read first, so that a file of another version is named as such.
#[derive(Deserialize)]
struct Announced {
    kind: String,
    version: u32,
}

#[derive(Deserialize)]
struct Read {
    state: State,
}

/// Why a devnet could not be saved or loaded.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system refuses.
    #[error("{path}: {error}; check the path and its permissions")]
    Io {
        /// Which file.
        path: String,
        /// What is wrong.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{path}: this is no devnet; name a file that a devnet was saved to")]
    NotADevnet {
        /// Which file.
        path: String,
    },
    /// Another version of the program wrote it.
    #[error("{path}: a devnet of version {found}, and this program reads version 1; begin a new one")]
    Version {
        /// Which file.
        path: String,
        /// Its version.
        found: u32,
    },
    /// The file is not whole.
    #[error("{path}: a damaged devnet ({why}); restore the file or begin a new one")]
    Damaged {
        /// Which file.
        path: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Devnet {
    /// Writes the chain as of its newest block to a file, in place of what stood there. A crash leaves
    /// either the old file or the new one.
    ///
    /// # Errors
    /// [`FileError::Io`].
    pub fn save(&self, path: &Path) -> Result<(), FileError> {
        let failed = |error| FileError::Io { path: path.display().to_string(), error };
        let written = Written { kind: KIND, version: VERSION, state: &self.newest() };
        let bytes = serde_json::to_vec(&written).map_err(|error| failed(error.into()))?;
        // Beside the file, for only within one file system is a renaming atomic.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".partial-{}", std::process::id()));
        let partial = path.with_file_name(name);
        let kept = File::create(&partial).and_then(|mut file| {
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        });
        kept.map_err(|error| {
            // What is left of a failed attempt is of no use; the first failure is the one to report.
            let _ = fs::remove_file(&partial);
            failed(error)
        })
    }

    /// Goes on with a chain that was saved: the same calls bring the same blocks, to the last bit. Of the
    /// blocks before the one it was saved in, only what the newest state tells is known.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn load(path: &Path) -> Result<Self, FileError> {
        let name = || path.display().to_string();
        let bytes = assay_files::read(path, MAX_BYTES).map_err(|error| match error {
            Unreadable::Io(error) => FileError::Io { path: name(), error },
            Unreadable::NoFile(_) | Unreadable::TooLong { .. } => FileError::NotADevnet { path: name() },
        })?;
        let announced: Announced = match serde_json::from_slice(&bytes) {
            Ok(announced) => announced,
            Err(error) if error.is_eof() && !bytes.is_empty() => {
                return Err(FileError::Damaged { path: name(), why: "its end is missing".to_owned() });
            }
            Err(_) => return Err(FileError::NotADevnet { path: name() }),
        };
        if announced.kind != KIND {
            return Err(FileError::NotADevnet { path: name() });
        }
        if announced.version != VERSION {
            return Err(FileError::Version { path: name(), found: announced.version });
        }
        let damaged = |why| FileError::Damaged { path: name(), why };
        let Read { state } = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        state.check().map_err(damaged)?;
        Ok(Self::of(VecDeque::new(), state))
    }
}
