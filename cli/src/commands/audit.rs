//! `assay audit`: audit oneself, replay transcripts, look into one, and hold others to what they signed.

use assay_audit::request::AuditRate;
use assay_audit::transcript_file::{Conclusion, TranscriptFile};
use assay_audit::verdict::{Verdict, Where};
use clap::Subcommand;

use crate::outcome::CommandResult;
use crate::terminal::Paint;

mod dispute;
mod epoch;
mod own;
mod picture;
mod show;
mod verify;

pub(super) use own::proof_bytes;

/// What to do about audits.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Be one's own miner and validator, and write the transcript
    #[command(name = "self")]
    Own(own::Args),
    /// Replay transcripts and say what they conclude
    Verify(verify::Args),
    /// Show what a transcript holds, and follow one cell of it
    Show(show::Args),
    /// Write what shows a rejected cell or decode to anybody, and no more
    Dispute(dispute::Args),
    /// Check that a validator drew its nonces and audits as it had to, and asked all on the same terms
    Epoch(epoch::Args),
}

pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Own(args) => own::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Show(args) => show::run(args),
        Command::Dispute(args) => dispute::run(args),
        Command::Epoch(args) => epoch::run(args),
    }
}

/// A verdict's name, in its colour.
fn painted(verdict: &Verdict, paint: Paint) -> String {
    let name = format!("{:<12}", verdict.name());
    match verdict {
        Verdict::Accepted => paint.green(&name),
        Verdict::Rejected(_) => paint.red(&name),
        Verdict::Inconclusive(_) => paint.yellow(&name),
    }
}

/// Why, and where: nothing for what was accepted.
fn reason(verdict: &Verdict) -> Option<String> {
    match verdict {
        Verdict::Accepted => None,
        Verdict::Rejected(failure) => {
            let reason = failure.reason;
            let (code, slug) = (reason.code(), reason.slug());
            Some(format!("{code} {slug} at {}: {reason}", place(&failure.place)))
        }
        Verdict::Inconclusive(fault) => Some(format!("{} {}: {fault}", fault.code(), fault.slug())),
    }
}

/// The share of responses that are audited.
#[expect(clippy::cast_precision_loss, reason = "a share, for people")]
fn share(rate: AuditRate) -> f64 {
    match rate {
        AuditRate::Always => 1.0,
        AuditRate::Below(rate) => rate as f64 / u64::MAX as f64,
    }
}

/// The same in words.
fn rate(rate: AuditRate) -> String {
    match rate {
        AuditRate::Always => "all".to_owned(),
        AuditRate::Below(_) => format!("{:.2} %", 100.0 * share(rate)),
    }
}

/// A place in words.
fn place(place: &Where) -> String {
    let mut text = place.stage.name().to_owned();
    let parts = [
        place.relation.map(|relation| relation.name().to_owned()),
        place.layer.map(|layer| format!("layer {layer}")),
        place.position.map(|position| format!("position {position}")),
        place.group.map(|group| format!("group {group}")),
    ];
    for part in parts.into_iter().flatten() {
        text.push(' ');
        text.push_str(&part);
    }
    text
}

/// What a receipt states, in words.
fn conclusion(conclusion: Conclusion) -> String {
    match conclusion {
        Conclusion::Accepted => "accepted".to_owned(),
        Conclusion::Rejected(reason) => format!("rejected, {} {}", reason.code(), reason.slug()),
        Conclusion::Inconclusive(fault) => format!("inconclusive, {} {}", fault.code(), fault.slug()),
    }
}

/// What is odd about a receipt that the replay does not bear out.
fn disagreement(file: &TranscriptFile, verdict: Verdict) -> Option<String> {
    let replayed = Conclusion::from(verdict);
    let stated = file.receipt.conclusion;
    (stated != replayed)
        .then(|| format!("the receipt states {}, the replay finds {}", conclusion(stated), conclusion(replayed)))
}
