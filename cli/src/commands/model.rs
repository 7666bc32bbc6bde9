//! `assay model`: commit a model, look at one, check one, put one in force.

use assay_commitments::manifest::{Architecture, Matrix, Small};
use clap::Subcommand;

use crate::outcome::CommandResult;

mod commit;
mod inspect;
mod memory;
mod publish;
mod streaming;
mod verify;

/// What to do with a model.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Commit a model folder: write its manifest and print the manifest id
    Commit(commit::Args),
    /// Show a folder's or a manifest's shapes, commitment parameters and security
    Inspect(inspect::Args),
    /// Check that weights are those of a manifest
    Verify(verify::Args),
    /// Put a manifest in force on a subnet, as its owner
    Publish(publish::Args),
}

pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Commit(args) => commit::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Publish(args) => publish::run(args),
    }
}

pub(super) use memory::peak as peak_memory;

/// Weights of a model, a tied lm_head counted once.
fn parameters(architecture: &Architecture) -> u64 {
    let hidden = u64::from(architecture.hidden);
    let table = u64::from(architecture.vocab_size) * hidden;
    let matrices: u64 = Matrix::ALL.iter().map(|matrix| architecture.shape(*matrix).weights()).sum();
    let tables = if architecture.tied { table } else { 2 * table };
    let small: u64 = Small::ALL.iter().map(|small| u64::from(architecture.length(*small))).sum();
    tables + u64::from(architecture.layers) * (matrices + small) + hidden
}
