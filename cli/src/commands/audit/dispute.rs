//! `assay audit dispute`: the least of a rejected session that convinces a third party.

use std::path::PathBuf;

use assay_audit::exhibit::Exhibit;

use super::reason;
use crate::assets::Assets;
use crate::files::{check_writable, read_transcript, write_atomically};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, bytes, print};

/// What to write where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A transcript whose miner is rejected
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Folder of tokenizers and chat templates that the transcript names by digest
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// The exhibit to write; `audit verify` takes it, and `audit show`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    check_writable(&args.out)?;
    let file = read_transcript(&args.file)?;
    let judgement = match Assets::new(args.assets.as_deref(), &[])?.of(&file)? {
        Ok(assets) => file.judge_with(Ok(&assets)),
        Err(fault) => file.judge_with(Err(&fault)),
    };
    let none = |why: String| Fault::usage(format!("{}: {why}", args.file.display()));
    let exhibit = Exhibit::of(&file.record, &file.manifest, &judgement.verdict).map_err(|why| none(why.to_string()))?;
    // What is handed to others is what they will find.
    let found = exhibit.judge().map_err(|error| none(error.to_string()))?;
    if found.verdict != judgement.verdict {
        return Err(none("the cell alone does not show what the whole transcript does".to_owned()));
    }
    let encoded = exhibit.encode();
    write_atomically(&args.out, &encoded)?;
    let mut listing = Listing::default();
    listing.line("shows", reason(&found.verdict).unwrap_or_default());
    listing.line("miner", exhibit.request().miner);
    let whole = bytes(file.encode().len() as u64);
    listing.line("exhibit", format!("{} ({} of {whole})", args.out.display(), bytes(encoded.len() as u64)));
    listing.line("replay", format!("assay audit verify {}", args.out.display()));
    print(&listing.render(Paint::stdout()))?;
    Ok(Outcome::Done)
}
