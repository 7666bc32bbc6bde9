//! The demo: a devnet, honest and cheating miners, a validator and an auditor, in one process over
//! loopback gRPC.
//!
//! The fixture model is part of the binary, so the demo needs nothing beside it.

mod auditor;
pub mod cast;
mod narrator;
mod stage;
mod summary;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use assay_chain::Devnet;
use clap::Args;

use crate::files::make_folder;
use crate::history::{HISTORY_NAME, write_history};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal;

/// Least and usual number of epochs: a cheat, three clean epochs, and the reward that follows.
const EPOCHS: u64 = 8;

/// Runs a subnet in this process: honest and cheating miners, a validator that has no weights, an
/// auditor.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Epochs to run, 8 at least.
    #[arg(long, default_value_t = EPOCHS, value_parser = clap::value_parser!(u64).range(EPOCHS..=1000))]
    pub epochs: u64,
    /// Seed of the miners' and the validator's keys.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Print one JSON document and nothing else.
    #[arg(long)]
    pub json: bool,
    /// Keep transcripts in this folder.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// Runs the demo.
///
/// # Errors
/// [`Fault`]: a folder that cannot be written, a port that cannot be had.
pub fn run(args: &DemoArgs) -> CommandResult {
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Fault::own(format!("no threads for the demo: {error}")))?;
    runtime.block_on(play(args))
}

async fn play(args: &DemoArgs) -> CommandResult {
    let begin = Instant::now();
    let narrator = Arc::new(narrator::Narrator::new(args.json));
    narrator.opening();
    let folder = Folder::new(args.keep.as_deref())?;
    let stage = stage::Stage::build(args, &folder.path, &narrator).await?;
    let chain: Devnet = stage.chain.clone();
    let mut tally = summary::Tally::new(&stage);
    let mut validator = stage.validator(Arc::clone(&narrator)).await?;
    for number in 0..args.epochs {
        stage.enter(number).await?;
        let judged = validator
            .run_epoch()
            .await
            .map_err(|error| Fault::own(format!("the validator stopped in epoch {number}: {error}")))?;
        let paid = chain.run_epoch();
        narrator.epoch_ended(&stage, &judged, &paid);
        tally.add(&judged, &paid);
    }
    validator
        .reveal_keys()
        .await
        .map_err(|error| Fault::own(format!("the validator cannot reveal its keys: {error}")))?;
    write_history(&folder.path.join(HISTORY_NAME), &chain.whole_history())?;
    let audit = auditor::replay(&folder.path, &chain, stage.validator_hotkey()).await?;
    narrator.audited(&audit);
    stage.shutdown().await;

    let summary = tally.conclude(args.epochs, &folder.path);
    if args.json {
        terminal::print_json(&summary.to_json())?;
    } else {
        terminal::print(&summary.table(begin.elapsed()))?;
    }
    folder.keep();
    Ok(if summary.is_as_it_should_be() && audit.agrees() { Outcome::Done } else { Outcome::Rejected })
}

/// Where transcripts go: the folder that was named, or a temporary one that stays.
struct Folder {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Folder {
    fn new(keep: Option<&std::path::Path>) -> Result<Self, Fault> {
        if let Some(path) = keep {
            make_folder(path)?;
            return Ok(Self { path: path.to_owned(), temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("assay-demo-").tempdir().map_err(|error| {
            Fault::usage(format!("no temporary folder can be made: {error}: name one with --keep DIR"))
        })?;
        Ok(Self { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    /// The temporary folder stays for the reader to look into; one that a failed demo left goes away.
    fn keep(self) {
        if let Some(temporary) = self.temporary {
            let _ = temporary.keep();
        }
    }
}
