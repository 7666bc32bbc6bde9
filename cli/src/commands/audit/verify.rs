//! `assay audit verify`: what transcripts conclude when they are judged again, offline.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use assay_audit::judge::Judgement;
use assay_audit::request::Request;
use assay_audit::session::SessionRecord;
use assay_audit::verdict::{OwnFault, Relation, Verdict, Where};
use assay_commitments::{KvGroup, LayerIndex, ManifestId, Position};
use serde_json::{Value, json};

use super::{disagreement, painted, reason};
use crate::assets::Assets;
use crate::files::{Evidence, read_evidence, transcripts};
use crate::history::contradiction;
use crate::in_order::in_order;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::past::{Claims, Past, PastArgs};
use crate::terminal::{Paint, Progress, bytes, complain, print, seconds, table, thousands, write};

/// What to replay.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Transcripts, exhibits that `audit dispute` wrote, or folders: all transcripts in one, in the order of
    /// their names
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Folder of tokenizers and chat templates that transcripts name by digest: each under its BLAKE3
    /// digest in hexadecimal. Without it, `assets` within the folders that are named, where a validator puts them
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    #[command(flatten)]
    past: PastArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A file that was judged.
struct Replay {
    manifest: ManifestId,
    judgement: Judgement,
    seconds: f64,
    /// What the receipt or the chain states otherwise.
    note: Option<String>,
}

/// What is told of a file.
struct Told {
    text: String,
    outcome: Outcome,
    complaint: Option<(&'static str, String)>,
    /// The verdict with the slug of its reason; none for a file that has none.
    verdict: Option<(&'static str, Option<&'static str>)>,
    /// Of an accepted file, the largest ratio of every relation.
    closest: Vec<(Relation, f64)>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let assets = Assets::new(args.assets.as_deref(), &args.files)?;
    let mut summary = Summary::default();
    let files = listed(&args.files, |fault| {
        summary.worst = summary.worst.max(fault.outcome);
        complain("error", &fault);
    });
    let past = args.past.look_up(|| claims(&files))?;
    let begin = Instant::now();
    let (paint, progress) = (Paint::stdout(), Progress::new("replaying"));
    let mut separator = "[";
    in_order(
        &files,
        |path| {
            let replay = replay(path, &assets, past.as_ref());
            let text = if args.json { entry(path, &replay).to_string() } else { line(path, &replay, paint) };
            told(path, replay, text)
        },
        |path, told| {
            summary.add(path, &told);
            let flow = progress.aside(|| {
                let written = match (args.json, told.text.as_str()) {
                    (true, text) => write(&format!("{}{text}", std::mem::replace(&mut separator, ","))),
                    (false, "") => Ok(ControlFlow::Continue(())),
                    (false, text) => write(text),
                };
                if let Some((kind, complaint)) = &told.complaint {
                    complain(kind, complaint);
                }
                written
            })?;
            progress.tell(summary.files, files.len() as u64);
            Ok(flow)
        },
    )?;
    drop(progress);
    if args.json {
        print(&format!("{}]\n", if files.is_empty() { "[" } else { "" }))?;
    } else if files.len() > 1 {
        print(&summary.render(begin.elapsed().as_secs_f64(), paint))?;
    }
    Ok(summary.worst)
}

/// The files that were named, and those in folders that were. A folder without any is told of, and hides no other.
fn listed(named: &[PathBuf], mut tell: impl FnMut(Fault)) -> Vec<PathBuf> {
    let mut files = vec![];
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        match transcripts(path) {
            Ok(found) if found.is_empty() => tell(Fault::damaged(format!(
                "{}: this folder holds no transcripts: name one that does, or a file",
                path.display()
            ))),
            Ok(found) => files.extend(found),
            Err(fault) => tell(fault),
        }
    }
    files
}

/// What the files claim of the chain. One that cannot be read claims nothing, and is told of when it is
/// judged.
fn claims(files: &[PathBuf]) -> Claims {
    let mut claims = Claims::default();
    for file in files {
        let request = match read_evidence(file) {
            Ok(Evidence::Transcript(file)) => file.record.request,
            Ok(Evidence::Exhibit(exhibit)) => exhibit.request().clone(),
            Err(_) => continue,
        };
        claims.add(request.network, request.epoch, [request.validator, request.miner]);
    }
    claims
}

fn contradicted(past: &Past, request: &Request, record: Option<&SessionRecord>) -> Option<(OwnFault, String)> {
    contradiction(past.of(request.epoch), request, record)
}

fn replay(path: &Path, assets: &Assets, past: Option<&Past>) -> Result<Replay, Fault> {
    let begin = Instant::now();
    let (manifest, mut judgement, mut note, against) = match read_evidence(path)? {
        Evidence::Transcript(file) => {
            let judgement = file.judge_with(assets.of(&file)?.as_deref());
            let note = disagreement(&file, judgement.verdict);
            let against = past.and_then(|past| contradicted(past, &file.record.request, Some(&file.record)));
            (file.manifest.id(), judgement, note, against)
        }
        Evidence::Exhibit(exhibit) => {
            let judgement = exhibit.judge().map_err(|error| Fault::of_transcript(path, error))?;
            let against = past.and_then(|past| contradicted(past, exhibit.request(), None));
            (exhibit.manifest().id(), judgement, None, against)
        }
    };
    if let Some((fault, why)) = against {
        judgement.verdict = Verdict::Inconclusive(fault);
        note = Some(why);
    }
    Ok(Replay { manifest, judgement, seconds: begin.elapsed().as_secs_f64(), note })
}

fn told(path: &Path, replay: Result<Replay, Fault>, text: String) -> Told {
    let replay = match replay {
        Ok(replay) => replay,
        Err(fault) => {
            let outcome = fault.outcome;
            return Told { text, outcome, complaint: Some(("error", fault.message)), verdict: None, closest: vec![] };
        }
    };
    let Judgement { verdict, report } = &replay.judgement;
    let slug = match verdict {
        Verdict::Accepted => None,
        Verdict::Rejected(failure) => Some(failure.reason.slug()),
        Verdict::Inconclusive(fault) => Some(fault.slug()),
    };
    let mut closest = BTreeMap::new();
    if *verdict == Verdict::Accepted {
        for margin in &report.margins {
            if let Some(relation) = margin.place.relation {
                let largest: &mut f64 = closest.entry(relation).or_insert(0.0);
                *largest = largest.max(margin.ratio);
            }
        }
    }
    Told {
        text,
        outcome: Outcome::from(verdict),
        complaint: replay.note.map(|note| ("note", format!("{}: {note}", path.display()))),
        verdict: Some((verdict.name(), slug)),
        closest: closest.into_iter().collect(),
    }
}

/// What all files come to.
struct Summary {
    files: u64,
    worst: Outcome,
    verdicts: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<(&'static str, &'static str), u64>,
    unread: u64,
    closest: BTreeMap<Relation, (f64, PathBuf)>,
}

impl Default for Summary {
    fn default() -> Self {
        Self {
            files: 0,
            worst: Outcome::Done,
            verdicts: BTreeMap::new(),
            reasons: BTreeMap::new(),
            unread: 0,
            closest: BTreeMap::new(),
        }
    }
}

impl Summary {
    fn add(&mut self, path: &Path, told: &Told) {
        self.files += 1;
        self.worst = self.worst.max(told.outcome);
        match told.verdict {
            Some((verdict, slug)) => {
                *self.verdicts.entry(verdict).or_default() += 1;
                if let Some(slug) = slug {
                    *self.reasons.entry((verdict, slug)).or_default() += 1;
                }
            }
            None => self.unread += 1,
        }
        for (relation, ratio) in &told.closest {
            if self.closest.get(relation).is_none_or(|(largest, _)| ratio > largest) {
                self.closest.insert(*relation, (*ratio, path.to_owned()));
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "shown to people")]
    fn render(&self, elapsed: f64, paint: Paint) -> String {
        let rate = self.files as f64 / elapsed.max(1e-6);
        let mut text = format!("\n{} files in {}, {rate:.1} a second\n", thousands(self.files), seconds(elapsed));
        let reasons = |of: &str| {
            let mut reasons: Vec<_> = self.reasons.iter().filter(|((verdict, _), _)| *verdict == of).collect();
            reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
            let reasons = reasons.into_iter().map(|((_, slug), count)| format!("{slug} x{}", thousands(*count)));
            reasons.collect::<Vec<_>>().join(", ")
        };
        for verdict in ["accepted", "rejected", "inconclusive"] {
            let count = self.verdicts.get(verdict).copied().unwrap_or(0);
            text.push_str(format!("{verdict:<12}  {:>9}  {}", thousands(count), reasons(verdict)).trim_end());
            text.push('\n');
        }
        if self.unread > 0 {
            let _ = writeln!(text, "{:<12}  {:>9}  no transcript, or a damaged one", "no verdict", self.unread);
        }
        if !self.closest.is_empty() {
            let row = |(relation, (ratio, path)): (&Relation, &(f64, PathBuf))| {
                let path = path.display();
                vec![relation.name().to_owned(), format!("{ratio:.3}"), format!(" {path}")]
            };
            let rows: Vec<Vec<String>> = self.closest.iter().map(row).collect();
            text.push_str("\nOf the accepted, the closest to its threshold, which is 1:\n");
            text.push_str(&table(&["relation", "ratio", " file"], &rows, paint));
        }
        text
    }
}

fn line(path: &Path, replay: &Result<Replay, Fault>, paint: Paint) -> String {
    let Ok(replay) = replay else { return String::new() };
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
