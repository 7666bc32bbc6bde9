//! `assay audit verify`: what transcripts conclude when they are judged again, offline.

use std::path::{Path, PathBuf};
use std::time::Instant;

use assay_audit::judge::Judgement;
use assay_audit::verdict::{OwnFault, Relation, Verdict, Where};
use assay_commitments::{KvGroup, LayerIndex, ManifestId, Position};
use rayon::prelude::*;
use serde_json::{Value, json};

use super::{assets, check_folder, disagreement, find, painted, reason};
use crate::files::read_transcript;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Paint, bytes, complain, print, print_json, seconds};

/// What to replay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Transcripts
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Folder of tokenizers and chat templates that transcripts name by digest: each under its BLAKE3
    /// digest in hexadecimal
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A transcript that was judged.
struct Replay {
    manifest: ManifestId,
    judgement: Judgement,
    seconds: f64,
    /// What the receipt states otherwise.
    note: Option<String>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    check_folder(args.assets.as_ref())?;
    let replays: Vec<Result<Replay, Fault>> =
        args.files.par_iter().map(|path| replay(path, args.assets.as_deref())).collect();
    if args.json {
        let entries = args.files.iter().zip(&replays).map(|(path, replay)| entry(path, replay));
        print_json(&entries.collect())?;
    }
    let paint = Paint::stdout();
    let mut worst = Outcome::Done;
    for (path, replay) in args.files.iter().zip(replays) {
        worst = worst.max(match replay {
            Ok(replay) => {
                if !args.json {
                    print(&line(path, &replay, paint))?;
                }
                if let Some(note) = &replay.note {
                    complain("note", &format!("{}: {note}", path.display()));
                }
                Outcome::from(&replay.judgement.verdict)
            }
            Err(fault) => {
                complain("error", &fault);
                fault.outcome
            }
        });
    }
    Ok(worst)
}

fn replay(path: &Path, folder: Option<&Path>) -> Result<Replay, Fault> {
    let begin = Instant::now();
    let file = read_transcript(path)?;
    let assets = assets(&file, folder)?;
    let judgement = file.judge(&|digest| find(&assets, digest));
    let note = disagreement(&file, judgement.verdict);
    Ok(Replay { manifest: file.manifest.id(), judgement, seconds: begin.elapsed().as_secs_f64(), note })
}

fn line(path: &Path, replay: &Replay, paint: Paint) -> String {
    let Judgement { verdict, report } = &replay.judgement;
    let reason = reason(verdict).map(|reason| format!("  {reason}")).unwrap_or_default();
    let advice = match verdict {
        Verdict::Inconclusive(OwnFault::AssetMissing) => ": name the folder that holds it with --assets",
        _ => "",
    };
    let figures = match &report.challenge {
        Some(challenge) => format!(
            "{} cells, {} decodes, proof {}, {}",
            challenge.cells.len(),
            challenge.decodes.len(),
            bytes(report.proof_bytes as u64),
            seconds(replay.seconds),
        ),
        None => seconds(replay.seconds),
    };
    let figures = paint.dim(&format!("({figures})"));
    format!("{}  {}{reason}{advice}  {figures}\n", painted(verdict, paint), path.display())
}

fn entry(path: &Path, replay: &Result<Replay, Fault>) -> Value {
    let file = path.display().to_string();
    let Replay { manifest, judgement: Judgement { verdict, report }, seconds, .. } = match replay {
        Ok(replay) => replay,
        // No verdict: the file tells of nothing but itself.
        Err(fault) => {
            return json!({
                "file": file, "verdict": null, "reason": null, "where": null, "cells": [], "decodes": [],
                "proof_bytes": 0, "verify_ms": 0.0, "manifest_id": null, "error": fault.message,
            });
        }
    };
    let (reason, place) = match verdict {
        Verdict::Accepted => (None, None),
        Verdict::Rejected(failure) => (Some((failure.reason.code(), failure.reason.slug())), Some(failure.place)),
        Verdict::Inconclusive(fault) => (Some((fault.code(), fault.slug())), None),
    };
    let challenge = report.challenge.as_ref();
    let cells = challenge.iter().flat_map(|challenge| &challenge.cells);
    let decodes = challenge.iter().flat_map(|challenge| &challenge.decodes);
    json!({
        "file": file,
        "verdict": verdict.name(),
        "reason": reason.map(|(code, slug)| json!({"code": code, "slug": slug})),
        "where": place.map(|place| place_json(&place)),
        "cells": cells.map(|cell| [cell.layer.get(), cell.position.get()]).collect::<Vec<_>>(),
        "decodes": decodes.map(|position| position.get()).collect::<Vec<_>>(),
        "proof_bytes": report.proof_bytes,
        "verify_ms": seconds * 1e3,
        "manifest_id": manifest.to_string(),
    })
}

fn place_json(place: &Where) -> Value {
    json!({
        "stage": place.stage.name(),
        "relation": place.relation.map(Relation::name),
        "layer": place.layer.map(LayerIndex::get),
        "position": place.position.map(Position::get),
        "group": place.group.map(KvGroup::get),
        // Rounds of a sumcheck are not told apart by any verdict.
        "round": null,
    })
}
