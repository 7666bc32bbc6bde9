//! What can go wrong on the validator's own side. None of it is ever a miner's failure.

use std::path::{Path, PathBuf};

use assay_chain::ChainError;
use assay_commitments::Epoch;
use assay_files::Unreadable;
use assay_probation::WeightError;
use thiserror::Error;

/// The validator's records cannot be read or written.
#[derive(Debug, Error)]
pub enum StorageError {
    /// The system refuses.
    #[error("cannot {action} {}: {source}; check that the disk has room and the path is writable", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What should be a record is longer than any, or no file.
    #[error("{}: {why}", path.display())]
    Unreadable {
        /// Where it lies.
        path: PathBuf,
        /// What it is.
        why: Unreadable,
    },
    /// A file is not what this validator wrote.
    #[error("{} is damaged ({what}); move it away to go on without it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A journal of nonces is of another version.
    #[error(
        "{} is of another version of assay; let the version that wrote it go on until the epoch's key is revealed, or move it away to go on without it",
        .0.display()
    )]
    OtherVersion(PathBuf),
    /// The file of standings is not what this validator wrote.
    #[error(
        "{} is damaged (it does not hold what was written); restore a copy of it: without it all standings begin anew; move it away to go on like that",
        .0.display()
    )]
    DamagedStandings(PathBuf),
    /// A file is another validator's, or was written on another network.
    #[error(
        "{} is of {what} {found}, and this validator's is {own}; give it a folder of its own, or the configuration that these records were made with",
        path.display()
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is another: chain, subnet or hotkey.
        what: &'static str,
        /// The one in the file.
        found: String,
        /// The validator's own.
        own: String,
    },
    /// Another session's transcript lies where one is to be kept.
    #[error("{} is another session's; give this validator a folder of transcripts of its own", .0.display())]
    Taken(PathBuf),
    /// Another process writes it.
    #[error("{}: in use by another validator: stop it, or give each its own `records`", .0.display())]
    InUse(PathBuf),
    /// The system has no randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// A write failed before and left the file in an unknown state.
    #[error("{} could not be written before; restart the validator once the disk is in order", .0.display())]
    Poisoned(PathBuf),
    /// A worker thread ended early.
    #[error("the thread that writes {} ended early", .0.display())]
    Worker(PathBuf),
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// Why the validator cannot go on.
#[derive(Debug, Error)]
pub enum ValidatorError {
    /// Its records.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Its chain.
    #[error("the chain refuses: {0}")]
    Chain(#[from] ChainError),
    /// The metagraph has no place for a weight vector.
    #[error("no weights can be computed: {0}")]
    Weights(#[from] WeightError),
    /// Weight that nobody earned has nowhere to go.
    #[error("the metagraph does not hold the subnet owner, who takes the weight that nobody earned")]
    NoOwner,
    /// The epoch has been judged before; the next one has not begun.
    #[error("epoch {0} has been judged already; wait for the next one")]
    EpochOver(Epoch),
    /// A setting under which nothing would be checked.
    #[error("the setting `{0}` is 0: nothing would be asked; set it to at least 1")]
    Setting(&'static str),
}
