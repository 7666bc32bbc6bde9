//! `assay audit self`: a whole session with oneself.

use std::path::PathBuf;

use assay_audit::policy::{Columns, MAX_COLUMNS, MAX_DRAWS, Policy};
use assay_audit::request::AuditRate;
use assay_audit::session::{Answer, Exchange, Reply};
use assay_audit::transcript_file::{Measurements, TranscriptFile};
use assay_commitments::trace::MAX_TOKENS;

use super::{painted, reason};
use crate::commands::request::{PromptArgs, SamplingArgs, entropy};
use crate::files::{check_writable, write_atomically};
use crate::local::LocalModel;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::self_audit::SelfAudit;
use crate::terminal::{Listing, Paint, Progress, bytes, print, quoted, seconds};

/// As many tokens as a request may ask for.
#[expect(clippy::cast_possible_wrap, reason = "2^20")]
const MOST_TOKENS: i64 = MAX_TOKENS as i64;

/// What to ask and to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder in the Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    /// Cells to draw, or `all` for a complete proof: every cell and every decode
    #[arg(long, value_name = "N|all", default_value = "4", value_parser = parse_cells)]
    cells: Cells,
    /// Decodes to draw
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DRAWS)))]
    decodes: Option<u32>,
    /// Whole columns to draw; unless given, one in one audit of four
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_COLUMNS)))]
    columns: Option<u32>,
    /// Most tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=MOST_TOKENS))]
    max_tokens: u32,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// The transcript to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// How many cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cells {
    Some(u32),
    All,
}

fn parse_cells(text: &str) -> Result<Cells, String> {
    if text == "all" {
        return Ok(Cells::All);
    }
    let number = text.parse().ok().filter(|number| (1..=MAX_DRAWS).contains(number));
    number.map(Cells::Some).ok_or_else(|| format!("neither `all` nor a number from 1 to {MAX_DRAWS}"))
}

impl Args {
    fn policy(&self) -> Result<Policy, Fault> {
        let Policy::Sampled { decodes, columns, least_budget_ms, .. } = Policy::DEFAULT else {
            return Ok(Policy::DEFAULT);
        };
        match self.cells {
            Cells::All if self.decodes.is_some() || self.columns.is_some() => {
                Err(Fault::usage("--cells all checks everything: leave --decodes and --columns out"))
            }
            Cells::All => Ok(Policy::Everything),
            Cells::Some(cells) => Ok(Policy::Sampled {
                cells,
                decodes: self.decodes.unwrap_or(decodes),
                columns: self.columns.map_or(columns, Columns::always),
                least_budget_ms,
            }),
        }
    }
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let session = SelfAudit {
        prompt: args.prompt.prompt()?,
        sampling: args.sampling.sampling()?,
        max_tokens: args.max_tokens,
        stop: vec![],
        policy: args.policy()?,
        audit_rate: AuditRate::Always,
        entropy: entropy(args.sampling.seed)?,
    };
    check_writable(&args.out)?;
    let progress = Progress::new("committing");
    let model = LocalModel::load(&args.folder, &mut |done, total| progress.tell(done as u64, total as u64))?;
    let file = session.run(&model, &model.backend())?;
    let encoded = file.encode();
    write_atomically(&args.out, &encoded)?;

    let judgement = file.judge(&|_| None);
    let paint = Paint::stdout();
    let mut listing = Listing::default();
    listing.line("verdict", painted(&judgement.verdict, paint).trim_end());
    if let Some(reason) = reason(&judgement.verdict) {
        listing.line("reason", reason);
    }
    let answer = model.assets.tokenizer.decode(&file.record.streamed);
    listing.line("answer", format!("{} tokens: {}", file.record.streamed.len(), quoted(&answer)));
    if let Some(challenge) = &judgement.report.challenge {
        let (cells, decodes) = (challenge.cells.len(), challenge.decodes.len());
        let all = if session.policy == Policy::Everything { ", which is all of them" } else { "" };
        listing.line("checked", format!("{cells} cells and {decodes} decodes{all}"));
    }
    let times = file.receipt.measurements;
    let milliseconds = |ms: u32| seconds(f64::from(ms) / 1e3);
    let generated = milliseconds(times.first_token_ms.saturating_add(times.generation_ms));
    listing.line("generated", format!("in {generated}, committed in {}", milliseconds(times.commitment_ms)));
    if let Some(size) = proof_bytes(&file) {
        let verified = seconds(f64::from(times.verify_us) / 1e6);
        let proven = milliseconds(times.proof_ms);
        listing.line("proof", format!("{}, made in {proven}, checked in {verified}", bytes(size)));
        if let (Policy::Everything, Some(challenge)) = (session.policy, &judgement.report.challenge) {
            listing.line("a cell", cost_of_a_cell(size, times, challenge.cells.len()));
        }
    }
    listing.line("transcript", format!("{} ({})", args.out.display(), bytes(encoded.len() as u64)));
    listing.line("replay", format!("assay audit verify {}", args.out.display()));
    print(&listing.render(paint))?;
    Ok(Outcome::from(&judgement.verdict))
}

/// What a complete proof costs for each of its cells, decodes and openings shared out.
#[expect(clippy::cast_precision_loss, reason = "shown to people")]
fn cost_of_a_cell(size: u64, times: Measurements, cells: usize) -> String {
    let share = |whole: f64| whole / cells.max(1) as f64;
    let (proven, verified) = (f64::from(times.proof_ms) / 1e3, f64::from(times.verify_us) / 1e6);
    let milliseconds = |whole: f64| format!("{:.2} ms", 1e3 * share(whole));
    let size = bytes(size / cells.max(1) as u64);
    format!("{size}, made in {}, checked in {}, all else shared out", milliseconds(proven), milliseconds(verified))
}

/// Bytes of the proof, if there is one.
pub(crate) fn proof_bytes(file: &TranscriptFile) -> Option<u64> {
    match &file.record.exchange {
        Exchange::Committed { reply: Reply::Challenged { answer: Answer::Proof(proof), .. }, .. } => {
            Some(proof.bytes.len() as u64)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_a_number_or_all() {
        assert_eq!(parse_cells("all"), Ok(Cells::All));
        assert_eq!(parse_cells("12"), Ok(Cells::Some(12)));
        for bad in ["0", "-1", "ALL", "65537", ""] {
            assert!(parse_cells(bad).is_err(), "{bad}");
        }
    }
}
