//! `assay audit`: audit oneself, replay transcripts, look into one.

use std::path::{Path, PathBuf};

use assay_audit::transcript_file::{Conclusion, TranscriptFile};
use assay_audit::verdict::{Verdict, Where};
use clap::Subcommand;

use crate::outcome::{CommandResult, Fault};
use crate::terminal::Paint;

mod own;
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
    /// Show what a transcript holds
    Show(show::Args),
}

pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Own(args) => own::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Show(args) => show::run(args),
    }
}

/// Looks up the files that a transcript names by digest only.
///
/// The folder holds each under its BLAKE3 digest in hexadecimal. One whose content is another is damaged,
/// which must not pass for one that is not there.
fn assets(file: &TranscriptFile, folder: Option<&Path>) -> Result<Vec<Vec<u8>>, Fault> {
    let Some(folder) = folder else { return Ok(vec![]) };
    let tokenizer = file.tokenizer.is_none().then_some(file.manifest.tokenizer);
    let template = if file.chat_template.is_none() { file.manifest.chat_template } else { None };
    let mut found = vec![];
    for digest in [tokenizer, template].into_iter().flatten() {
        let path = folder.join(hex::encode(digest));
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Fault::own(format!("{}: cannot be read: {error}", path.display()))),
        };
        if *blake3::hash(&bytes).as_bytes() != digest {
            return Err(Fault::damaged(format!(
                "{}: its content is not what its name says: fetch it again",
                path.display()
            )));
        }
        found.push(bytes);
    }
    Ok(found)
}

/// The asset of a digest among those found.
fn find(assets: &[Vec<u8>], digest: &[u8; 32]) -> Option<Vec<u8>> {
    assets.iter().find(|bytes| blake3::hash(bytes).as_bytes() == digest).cloned()
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

/// A folder of assets, if one was named.
fn check_folder(folder: Option<&PathBuf>) -> Result<(), Fault> {
    match folder {
        Some(folder) if !folder.is_dir() => {
            Err(Fault::usage(format!("{}: no such folder: --assets names the one that holds assets", folder.display())))
        }
        _ => Ok(()),
    }
}
