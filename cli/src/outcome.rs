//! How a command ends: exit codes, and errors of one line.

use std::process::ExitCode;

use assay_audit::model::CommitError;
use assay_audit::prompt::PromptError;
use assay_audit::transcript_file::FileError;
use assay_audit::verdict::Verdict;
use assay_chain::ChainError;
use assay_chain::wallet::WalletError;
use assay_commitments::manifest::ArchitectureError;
use assay_llm_runtime::{CheckpointError, RunError};
use assay_miner::{MinerError, ServeError};
use assay_validator::{StorageError, ValidatorError};
use thiserror::Error;

use crate::local::LocalError;

/// How a command ends, as scripts see it: the variant's number is the exit code, and of several the
/// largest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// Done, or accepted.
    Done = 0,
    /// Rejected: the miner's fault, or weights that are not the manifest's.
    Rejected = 1,
    /// Wrong usage or configuration.
    Usage = 2,
    /// Inconclusive: our own fault.
    Inconclusive = 3,
    /// A file is not what it should be.
    Damaged = 4,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        Self::from(outcome as u8)
    }
}

impl From<&Verdict> for Outcome {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Accepted => Self::Done,
            Verdict::Rejected(_) => Self::Rejected,
            Verdict::Inconclusive(_) => Self::Inconclusive,
        }
    }
}

/// Why a command ends early: what is wrong, where, and what to do, in one line.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Fault {
    /// The exit code.
    pub outcome: Outcome,
    /// The line.
    pub message: String,
}

/// What a command returns.
pub type CommandResult = Result<Outcome, Fault>;

impl Fault {
    /// An end with any line; line breaks in it become spaces.
    pub fn new(outcome: Outcome, message: &str) -> Self {
        let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
        Self { outcome, message }
    }

    /// Wrong usage or configuration.
    pub fn usage(message: impl AsRef<str>) -> Self {
        Self::new(Outcome::Usage, message.as_ref())
    }

    /// A file that is not what it should be.
    pub fn damaged(message: impl AsRef<str>) -> Self {
        Self::new(Outcome::Damaged, message.as_ref())
    }

    /// Weights that are not the manifest's.
    pub fn rejected(message: impl AsRef<str>) -> Self {
        Self::new(Outcome::Rejected, message.as_ref())
    }

    /// Something that no input explains.
    pub fn own(message: impl AsRef<str>) -> Self {
        Self::new(Outcome::Inconclusive, message.as_ref())
    }
}

impl From<CheckpointError> for Fault {
    fn from(error: CheckpointError) -> Self {
        let outcome = match &error {
            // The folder is another one than meant, or holds a model that is not supported.
            CheckpointError::NoFolder { .. }
            | CheckpointError::NotAFolder { .. }
            | CheckpointError::NoFile { .. }
            | CheckpointError::Io { .. }
            | CheckpointError::Config { .. }
            | CheckpointError::Dtype { .. }
            | CheckpointError::Format { .. }
            | CheckpointError::OldQuantization { .. }
            | CheckpointError::Profile { .. }
            | CheckpointError::Architecture(_)
            | CheckpointError::Changed { .. } => Outcome::Usage,
            // A file of it is broken.
            CheckpointError::NotAFile { .. }
            | CheckpointError::Json { .. }
            | CheckpointError::Tokenizer { .. }
            | CheckpointError::Template { .. }
            | CheckpointError::Index { .. }
            | CheckpointError::Weights { .. }
            | CheckpointError::Repeated { .. }
            | CheckpointError::Twice { .. }
            | CheckpointError::MissingTensor { .. }
            | CheckpointError::Shape { .. }
            | CheckpointError::Unannounced { .. }
            | CheckpointError::Quantized { .. }
            | CheckpointError::NotFinite { .. } => Outcome::Damaged,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<RunError> for Fault {
    fn from(error: RunError) -> Self {
        let outcome = match &error {
            RunError::EmptyPrompt
            | RunError::UnknownToken { .. }
            | RunError::ContextFull { .. }
            | RunError::CacheTooSmall { .. }
            | RunError::Sampling
            | RunError::NotFinite { .. }
            | RunError::Architecture(_) => Outcome::Usage,
            RunError::Weights(_) => Outcome::Damaged,
            RunError::Tensor(_) | RunError::BrokenOff | RunError::Stopped => Outcome::Inconclusive,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<LocalError> for Fault {
    fn from(error: LocalError) -> Self {
        match error {
            LocalError::Checkpoint(error) => error.into(),
            LocalError::Run(error) => error.into(),
            LocalError::Commit(error) => error.into(),
            LocalError::Manifest(fault) => fault,
            LocalError::Assets(_) => Self::damaged(error.to_string()),
        }
    }
}

impl From<ArchitectureError> for Fault {
    fn from(error: ArchitectureError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        Self::damaged(error.to_string())
    }
}

impl From<PromptError> for Fault {
    fn from(error: PromptError) -> Self {
        let outcome = match &error {
            PromptError::Tokenizer(_) | PromptError::Template(_) => Outcome::Damaged,
            PromptError::Render(_) | PromptError::NoTemplate | PromptError::Encode(_) => Outcome::Usage,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<ServeError> for Fault {
    fn from(error: ServeError) -> Self {
        let outcome = match &error {
            ServeError::Unserved(_) => Outcome::Usage,
            ServeError::Busy | ServeError::Cancelled | ServeError::Failed(_) => Outcome::Inconclusive,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<ChainError> for Fault {
    fn from(error: ChainError) -> Self {
        let outcome = match &error {
            // Another key, network, subnet or value than this can work with.
            ChainError::NotRegistered(_)
            | ChainError::AlreadyRegistered(_)
            | ChainError::ZeroPort
            | ChainError::NotOwner(_)
            | ChainError::TooManyManifests { .. }
            | ChainError::DuplicateManifest(_)
            | ChainError::UnreachableAddress(_)
            | ChainError::NotSigner(_)
            | ChainError::WrongGenesis { .. }
            | ChainError::MainNetwork { .. }
            | ChainError::NoSubnet(_)
            | ChainError::Incompatible { .. } => Outcome::Usage,
            ChainError::DamagedJournal { .. } => Outcome::Damaged,
            // What the chain would take at another time, or from somebody with more stake.
            ChainError::SubnetFull { .. }
            | ChainError::ServingTooFast { .. }
            | ChainError::TooManyWeights { .. }
            | ChainError::WrongVersionKey { .. }
            | ChainError::WeightsTooFast { .. }
            | ChainError::NoPermit(_)
            | ChainError::DuplicateUid(_)
            | ChainError::UnknownUid(_)
            | ChainError::TooFewWeights { .. }
            | ChainError::WrongKeyEpoch { .. }
            | ChainError::KeyAlreadyPublished(_)
            | ChainError::KeyNotPublished(_)
            | ChainError::RevealTooEarly { .. }
            | ChainError::KeyAlreadyRevealed(_)
            | ChainError::StakeTooLow { .. }
            | ChainError::WeightTooLarge { .. }
            | ChainError::WrongForm { .. }
            | ChainError::TooManyCommits { .. }
            | ChainError::NotRevealEpoch { .. }
            | ChainError::NoSuchCommit
            | ChainError::CommitmentSpace { .. }
            | ChainError::BalanceTooLow(_)
            | ChainError::BurnTooHigh { .. }
            | ChainError::Unreachable { .. }
            | ChainError::Behind { .. }
            | ChainError::Unconfirmed { .. }
            | ChainError::ReadBack { .. }
            | ChainError::Refused { .. }
            | ChainError::BadAnswer { .. }
            | ChainError::Forgotten { .. }
            | ChainError::TooMuchPast { .. }
            | ChainError::Journal { .. } => Outcome::Inconclusive,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<WalletError> for Fault {
    fn from(error: WalletError) -> Self {
        let outcome = match &error {
            // Which key signs is configuration.
            WalletError::Missing(_)
            | WalletError::Exposed { .. }
            | WalletError::Name(_)
            | WalletError::NoHome
            | WalletError::Locked(_)
            | WalletError::WrongPassword(_)
            | WalletError::Legacy { .. }
            | WalletError::PublicOnly(_)
            | WalletError::Expanded(_)
            | WalletError::Exists(_)
            | WalletError::Malformed { .. }
            | WalletError::Mismatch { .. }
            | WalletError::Io { .. } => Outcome::Usage,
            WalletError::Memory(_) | WalletError::Random(_) => Outcome::Inconclusive,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        let outcome = match &error {
            StorageError::Damaged { .. }
            | StorageError::OtherVersion(_)
            | StorageError::Unreadable { .. }
            | StorageError::DamagedStandings(_) => Outcome::Damaged,
            StorageError::InUse(_) | StorageError::Foreign { .. } | StorageError::Taken(_) => Outcome::Usage,
            StorageError::Io { .. } | StorageError::Random(_) | StorageError::Poisoned(_) | StorageError::Worker(_) => {
                Outcome::Inconclusive
            }
        };
        Self::new(outcome, &error.to_string())
    }
}

impl From<ValidatorError> for Fault {
    fn from(error: ValidatorError) -> Self {
        match error {
            ValidatorError::Storage(error) => error.into(),
            ValidatorError::Chain(error) => error.into(),
            ValidatorError::Setting(_) => Self::usage(error.to_string()),
            ValidatorError::Weights(_) | ValidatorError::NoOwner | ValidatorError::EpochOver(_) => {
                Self::own(error.to_string())
            }
        }
    }
}

impl From<MinerError> for Fault {
    fn from(error: MinerError) -> Self {
        let outcome = match &error {
            MinerError::Listen { .. } | MinerError::Limit(_) | MinerError::SpillFolder(_) => Outcome::Usage,
            MinerError::Assets(_) | MinerError::Embeddings => Outcome::Damaged,
            MinerError::Reflection(_) => Outcome::Inconclusive,
        };
        Self::new(outcome, &error.to_string())
    }
}

impl Fault {
    /// A file that is no transcript.
    pub fn of_transcript(path: &std::path::Path, error: FileError) -> Self {
        let advice = match error {
            FileError::Foreign => "name a file that `assay audit self` or a validator wrote",
            FileError::Version { .. } => "use the version of assay that wrote it",
            FileError::Checksum | FileError::Malformed(_) | FileError::Inconsistent(_) => {
                "fetch it again from where it came from"
            }
        };
        Self::damaged(format!("{}: {error}: {advice}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_files_the_worst_counts() {
        let all = [Outcome::Done, Outcome::Rejected, Outcome::Inconclusive, Outcome::Damaged];
        assert!(all.is_sorted());
        assert_eq!(all.map(|outcome| outcome as u8), [0, 1, 3, 4]);
    }

    #[test]
    fn a_damaged_journal_of_commits_is_told_from_one_that_cannot_be_written() {
        let (path, why) = (|| "commits.json".to_owned(), || "no".to_owned());
        let outcome = |error: ChainError| Fault::from(error).outcome;
        assert_eq!(outcome(ChainError::DamagedJournal { path: path(), why: why() }), Outcome::Damaged);
        assert_eq!(outcome(ChainError::Journal { path: path(), why: why() }), Outcome::Inconclusive);
    }

    #[test]
    fn a_message_is_one_line() {
        assert_eq!(Fault::usage("a\n  b").to_string(), "a b");
    }
}
