//! `assay bench`: one hot loop of ours, on random weights in the shape of a model.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::outcome::{CommandResult, Fault};

mod audit;
mod capture;
mod decode;
mod figures;
mod polynomial;
mod serve;
mod shape;

use figures::Figures;
use shape::Shape;

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The loop
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    /// Whose matrices
    #[arg(long, value_enum, value_name = "S", default_value_t = Shape::Qwen3)]
    shape: Shape,
    /// One square matrix of 2^N weights in place of a shape, for `commit` and `open`
    #[arg(long, value_name = "N", conflicts_with = "shape", value_parser = clap::value_parser!(u32).range(4..=30))]
    log_size: Option<u32>,
    /// Folder for the transcripts of `audit`: those that it holds already are judged again and not made
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A loop that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Committing to the weights of one layer
    Commit,
    /// Opening one claim on every matrix of a layer, and verifying the opening
    Open,
    /// Decoding one sequence, beside the rate at which memory can be read
    Decode,
    /// What capturing a trace and committing to it add to decode and to prefill
    Capture,
    /// Answering several requests at once, captured
    Serve,
    /// Proving an answer under several policies, and judging it
    Audit,
}

/// The name of a value on the command line.
fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let mut figures = Figures::new(&name(&args.what));
    if let What::Commit | What::Open = args.what {
        polynomial::measure(args, &mut figures)?;
        return figures.tell(args.json);
    }
    let Some(numbers) = args.shape.numbers().filter(|_| args.log_size.is_none()) else {
        return Err(Fault::usage("this needs the shape of a model that can be run"));
    };
    figures.shape(args.shape, &numbers);
    match args.what {
        What::Commit | What::Open => {}
        What::Decode => decode::measure(&numbers, &mut figures)?,
        What::Capture => capture::measure(&numbers, &mut figures)?,
        What::Serve => serve::measure(&numbers, &mut figures)?,
        What::Audit => audit::measure(args.shape, &numbers, args.keep.as_deref(), &mut figures)?,
    }
    figures.tell(args.json)
}
