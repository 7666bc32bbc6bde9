//! `assay audit show`: what a transcript holds.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use assay_audit::exhibit::{Examination, Exhibit};
use assay_audit::judge::Judgement;
use assay_audit::policy::{Columns, Policy};
use assay_audit::prompt::{Prompt, Tokenizer};
use assay_audit::request::Request;
use assay_audit::session::{Answer, Exchange, Omission, Reply};
use assay_audit::sizes::{ProofSizes, proof_sizes};
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::{Margin, Relation, Verdict};
use assay_commitments::codec;
use assay_commitments::manifest::Manifest;
use assay_commitments::trace::TraceCommitment;
use assay_commitments::{LayerIndex, Position};
use serde_json::{Value, json};

use super::{conclusion, disagreement, painted, picture, rate, reason};
use crate::assets::Assets;
use crate::files::{Evidence, read_evidence};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, bytes, print, print_json, quoted, seconds, table};

/// What to show.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Transcript, or an exhibit that `audit dispute` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The cell to follow, or `POSITION` for the decode after one; without it, the one that is rejected
    #[arg(long, value_name = "LAYER:POSITION", value_parser = parse_item)]
    cell: Option<Item>,
    /// Folder of tokenizers and chat templates that the transcript names by digest
    #[arg(long, value_name = "DIR")]
    assets: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A cell or a decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Item {
    /// None for a decode.
    layer: Option<LayerIndex>,
    position: Position,
}

fn parse_item(text: &str) -> Result<Item, String> {
    let number = |text: &str| text.parse::<u32>().map_err(|_| format!("{text:?} is no number"));
    let (layer, position) = match text.split_once(':') {
        Some((layer, position)) => (Some(LayerIndex::new(number(layer)?)), number(position)?),
        None => (None, number(text)?),
    };
    Ok(Item { layer, position: Position::new(position) })
}

/// A transcript with what follows from it.
struct Shown {
    file: TranscriptFile,
    /// Where the miner's bytes are one.
    commitment: Option<TraceCommitment>,
    tokenizer: Option<Arc<Tokenizer>>,
    judgement: Judgement,
    sizes: Option<ProofSizes>,
    file_bytes: u64,
    /// The cell or decode that is followed.
    followed: Option<Examination>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let assets = Assets::new(args.assets.as_deref(), &[])?;
    let file = match read_evidence(&args.file)? {
        Evidence::Transcript(file) => *file,
        Evidence::Exhibit(_) if args.cell.is_some() => {
            return Err(Fault::usage("--cell: an exhibit shows one cell or decode alone: leave --cell out"));
        }
        Evidence::Exhibit(exhibit) => return show_exhibit(args, &exhibit),
    };
    let assets = assets.of(&file)?;
    let commitment = match &file.record.exchange {
        Exchange::Committed { commitment, .. } => codec::decode(&commitment.bytes).ok(),
        Exchange::Uncommitted(_) => None,
    };
    let judgement = file.judge_with(assets.as_ref().map(AsRef::as_ref));
    let shown = Shown {
        commitment,
        followed: follow(&file, &judgement.verdict, args.cell)?,
        tokenizer: assets.ok().map(|assets| Arc::clone(&assets.tokenizer)),
        judgement,
        sizes: proof_sizes(&file.record, &file.manifest),
        file_bytes: file.encode().len() as u64,
        file,
    };
    if args.json {
        print_json(&shown.json())?;
    } else {
        print(&shown.text(Paint::stdout()))?;
    }
    Ok(Outcome::Done)
}

/// Examines the cell or decode that was named, or the one that is rejected.
fn follow(file: &TranscriptFile, verdict: &Verdict, named: Option<Item>) -> Result<Option<Examination>, Fault> {
    let (record, manifest) = (&file.record, &file.manifest);
    let exhibit = match named {
        Some(Item { layer, position }) => {
            let exhibit = match layer {
                Some(layer) => Exhibit::of_cell(record, manifest, layer, position),
                None => Exhibit::of_decode(record, manifest, position),
            };
            let none = "nothing of the kind was asked for and proven: name one that `audit show` lists";
            Some(exhibit.ok_or_else(|| Fault::usage(format!("--cell: {none}")))?)
        }
        None => Exhibit::of(record, manifest, verdict).ok(),
    };
    match exhibit.map(|exhibit| exhibit.examine()) {
        None => Ok(None),
        Some(Ok(examination)) => Ok(Some(examination)),
        // What is rejected as a whole may have no parts that can be followed.
        Some(Err(_)) if named.is_none() => Ok(None),
        Some(Err(error)) => Err(Fault::usage(format!("--cell: it cannot be followed: {error}"))),
    }
}

fn show_exhibit(args: &Args, exhibit: &Exhibit) -> CommandResult {
    let examination = exhibit.examine().map_err(|error| Fault::of_transcript(&args.file, error))?;
    if args.json {
        let request = exhibit.request();
        print_json(&json!({
            "session": request.session_id().to_string(),
            "validator": request.validator.to_string(),
            "miner": request.miner.to_string(),
            "epoch": request.epoch.get(),
            "counter": request.counter,
            "manifest_id": exhibit.manifest().id().to_string(),
            "cell": picture::json(&examination),
        }))?;
    } else {
        let paint = Paint::stdout();
        let mut listing = Listing::default();
        parties(&mut listing, exhibit.request(), exhibit.manifest(), paint);
        print(&format!("{}\n{}", listing.render(paint), picture::text(&examination, None, paint)))?;
    }
    Ok(Outcome::Done)
}

/// Who asked whom for which model.
fn parties(listing: &mut Listing, request: &Request, manifest: &Manifest, paint: Paint) {
    let Request { network, validator, miner, epoch, counter, .. } = request;
    listing.line("session", paint.bold(&request.session_id().to_string()));
    let genesis = hex::encode(network.genesis);
    let nowhere = network.genesis == [0; 32];
    let chain = if nowhere { "none, a session with oneself".to_owned() } else { format!("genesis {genesis}") };
    listing.line("network", format!("{chain}, netuid {}, epoch {epoch}, counter {counter}", network.netuid));
    listing.line("validator", validator);
    listing.line("miner", miner);
    let architecture = &manifest.architecture;
    listing.line("model", manifest.id());
    let (layers, hidden) = (architecture.layers, architecture.hidden);
    listing.line("", format!("{layers} layers of width {hidden}, {}", manifest.profile.name()));
}

impl Shown {
    fn text(&self, paint: Paint) -> String {
        let mut sections = vec![self.parties(paint), self.exchange(paint), self.drawn(paint)];
        sections.push(self.compared(paint));
        sections.push(self.sizes(paint));
        let tokenizer = self.tokenizer.as_deref();
        sections.extend(self.followed.as_ref().map(|cell| picture::text(cell, tokenizer, paint)));
        sections.push(self.conclusion(paint));
        sections.retain(|section| !section.is_empty());
        sections.join("\n")
    }

    fn parties(&self, paint: Paint) -> String {
        let mut listing = Listing::default();
        parties(&mut listing, &self.file.record.request, &self.file.manifest, paint);
        listing.render(paint)
    }

    fn exchange(&self, paint: Paint) -> String {
        let record = &self.file.record;
        let request = &record.request;
        let mut listing = Listing::default();
        let sampling = request.sampling;
        let top_k = if sampling.top_k == 0 { "all".to_owned() } else { sampling.top_k.to_string() };
        listing.line(
            "sampling",
            if sampling.temperature == 0.0 {
                "greedy".to_owned()
            } else {
                let (temperature, top_p, seed) = (sampling.temperature, sampling.top_p, sampling.seed);
                format!("temperature {temperature}, top-k {top_k}, top-p {top_p}, seed {seed}")
            },
        );
        let stop: Vec<String> = request.stop.iter().map(|stop| quoted(stop)).collect();
        let stop = if stop.is_empty() { String::new() } else { format!(", or until {}", stop.join(" or ")) };
        listing.line("limit", format!("{} tokens{stop}", request.max_tokens));
        let count = |tokens: usize| format!("{tokens} tokens");
        let prompt = self.commitment.as_ref().map(|commitment| commitment.prompt.len());
        listing.line("prompt", prompt.map_or("never committed to".to_owned(), count));
        match &request.prompt {
            Prompt::Text(text) => listing.line("", quoted(text)),
            Prompt::Chat(messages) => {
                for message in messages {
                    listing.line("", format!("{}: {}", quoted(&message.role), quoted(&message.content)));
                }
            }
        }
        let finish = self.commitment.as_ref().map_or("no end", |commitment| commitment.finish.name());
        listing.line("answer", format!("{}, {finish}", count(record.streamed.len())));
        listing.line(
            "",
            self.answer()
                .map_or("(the tokenizer is not here: name its folder with --assets)".to_owned(), |text| quoted(&text)),
        );
        listing.render(paint)
    }

    fn answer(&self) -> Option<String> {
        Some(self.tokenizer.as_ref()?.decode(&self.file.record.streamed))
    }

    fn drawn(&self, paint: Paint) -> String {
        let request = &self.file.record.request;
        let mut listing = Listing::default();
        listing.line("policy", format!("{}; responses audited: {}", policy(&request.policy), rate(request.audit_rate)));
        listing.line("reply", self.reply());
        let Some(challenge) = &self.judgement.report.challenge else { return listing.render(paint) };
        let cells = challenge.cells.len();
        if request.policy == Policy::Everything {
            listing.line("cells", format!("all {cells}, with every group"));
            listing.line("decodes", format!("all {}", challenge.decodes.len()));
            return listing.render(paint);
        }
        listing.line("cells", cells);
        for cell in &challenge.cells {
            let groups: Vec<String> = cell.groups.iter().map(ToString::to_string).collect();
            let groups = groups.join(" ");
            listing.line("", format!("layer {}, position {}, group {groups}", cell.layer, cell.position));
        }
        let decodes: Vec<String> = challenge.decodes.iter().map(ToString::to_string).collect();
        listing.line("decodes", format!("{}: after positions {}", decodes.len(), decodes.join(", ")));
        listing.render(paint)
    }

    fn reply(&self) -> String {
        let owed = |omission: &Omission, what: &str| match omission {
            Omission::Absent => format!("no {what} came"),
            Omission::Late => format!("the {what} came late"),
            Omission::Broken => "the stream broke off".to_owned(),
            Omission::Violation => "something came that the protocol does not allow".to_owned(),
        };
        match &self.file.record.exchange {
            Exchange::Uncommitted(omission) => owed(omission, "commitment"),
            Exchange::Committed { reply: Reply::None, .. } => "the commitment was not answered".to_owned(),
            Exchange::Committed { reply: Reply::Settled { .. }, .. } => "settled without an audit".to_owned(),
            Exchange::Committed { reply: Reply::Challenged { answer, .. }, .. } => match answer {
                Answer::Proof(proof) => format!("challenged, and proven in {}", bytes(proof.bytes.len() as u64)),
                Answer::Refusal(_) => "challenged, and refused".to_owned(),
                Answer::Omitted(omission) => format!("challenged, and {}", owed(omission, "proof")),
            },
        }
    }

    fn compared(&self, paint: Paint) -> String {
        let rows: Vec<Vec<String>> = by_relation(&self.judgement.report.margins)
            .map(|(relation, ratios)| {
                let (mean, largest) = mean_and_largest(&ratios);
                vec![
                    format!("{:<8}", relation.name()),
                    ratios.len().to_string(),
                    format!("{mean:.3}"),
                    format!("{largest:.3}"),
                    bar(largest),
                ]
            })
            .collect();
        if rows.is_empty() {
            return String::new();
        }
        table(&["relation", "compared", "mean", "largest", "of what is allowed  "], &rows, paint)
    }

    fn sizes(&self, paint: Paint) -> String {
        let Some(sizes) = self.sizes else { return String::new() };
        let parts = size_parts(&sizes);
        let total: usize = parts.iter().map(|(_, size)| size).sum();
        let mut rows: Vec<Vec<String>> = parts
            .iter()
            .map(|(name, size)| vec![(*name).to_owned(), bytes(*size as u64), percent(*size, total)])
            .collect();
        rows.push(vec!["all".to_owned(), bytes(total as u64), String::new()]);
        rows.push(vec!["the file".to_owned(), bytes(self.file_bytes), String::new()]);
        table(&["part of the proof", "size", ""], &rows, paint)
    }

    fn conclusion(&self, paint: Paint) -> String {
        let receipt = &self.file.receipt;
        let mut listing = Listing::default();
        listing.line("receipt", conclusion(receipt.conclusion));
        let times = receipt.measurements;
        let ms = |ms: u32| seconds(f64::from(ms) / 1e3);
        listing.line(
            "measured",
            format!(
                "first token after {}, the rest in {}, commitment after {}, proof after {}, checked in {}",
                ms(times.first_token_ms),
                ms(times.generation_ms),
                ms(times.commitment_ms),
                ms(times.proof_ms),
                seconds(f64::from(times.verify_us) / 1e6),
            ),
        );
        let verdict = &self.judgement.verdict;
        listing.line("replay", painted(verdict, paint).trim_end());
        if let Some(reason) = reason(verdict) {
            listing.line("", reason);
        }
        if let Verdict::Inconclusive(fault) = verdict {
            listing.line("to do", fault.remedy());
        }
        if let Some(note) = disagreement(&self.file, *verdict) {
            listing.line("note", paint.yellow(&note));
        }
        listing.render(paint)
    }

    fn json(&self) -> Value {
        let record = &self.file.record;
        let request = &record.request;
        let prompt = match &request.prompt {
            Prompt::Text(text) => json!({"text": text}),
            Prompt::Chat(messages) => json!({"messages": messages}),
        };
        let challenge = self.judgement.report.challenge.as_ref();
        let cells = challenge.iter().flat_map(|challenge| &challenge.cells);
        let decodes = challenge.iter().flat_map(|challenge| &challenge.decodes);
        let margins = by_relation(&self.judgement.report.margins).map(|(relation, ratios)| {
            let (mean, largest) = mean_and_largest(&ratios);
            json!({"relation": relation.name(), "compared": ratios.len(), "mean": mean, "largest": largest})
        });
        let times = self.file.receipt.measurements;
        json!({
            "session": self.file.receipt.session.to_string(),
            "validator": request.validator.to_string(),
            "miner": request.miner.to_string(),
            "epoch": request.epoch.get(),
            "counter": request.counter,
            "netuid": request.network.netuid,
            "genesis": hex::encode(request.network.genesis),
            "manifest_id": self.file.manifest.id().to_string(),
            "profile": self.file.manifest.profile.name(),
            "sampling": {
                "temperature": request.sampling.temperature,
                "top_k": request.sampling.top_k,
                "top_p": request.sampling.top_p,
                "seed": request.sampling.seed,
            },
            "max_tokens": request.max_tokens,
            "stop": request.stop,
            "policy": policy(&request.policy),
            "prompt": prompt,
            "prompt_tokens": self.commitment.as_ref().map(|commitment| commitment.prompt.len()),
            "tokens": record.streamed.iter().map(|token| token.get()).collect::<Vec<_>>(),
            "text": self.answer(),
            "finish_reason": self.commitment.as_ref().map(|commitment| commitment.finish.name()),
            "reply": self.reply(),
            "cells": cells.map(|cell| [cell.layer.get(), cell.position.get()]).collect::<Vec<_>>(),
            "decodes": decodes.map(|position| position.get()).collect::<Vec<_>>(),
            "margins": margins.collect::<Vec<_>>(),
            "proof_sizes": self.sizes.map(|sizes| {
                let parts = size_parts(&sizes).map(|(name, size)| (name.to_owned(), json!(size)));
                Value::Object(parts.into_iter().collect())
            }),
            "file_bytes": self.file_bytes,
            "receipt": conclusion(self.file.receipt.conclusion),
            "measurements": {
                "first_token_ms": times.first_token_ms,
                "generation_ms": times.generation_ms,
                "commitment_ms": times.commitment_ms,
                "proof_ms": times.proof_ms,
                "verify_us": times.verify_us,
            },
            "replay": self.judgement.verdict.name(),
            "replay_reason": reason(&self.judgement.verdict),
            "cell": self.followed.as_ref().map(picture::json),
        })
    }
}

fn policy(policy: &Policy) -> String {
    match policy {
        Policy::Everything => "everything".to_owned(),
        Policy::Sampled { cells, decodes, columns, .. } => {
            let columns = match columns {
                None => "no columns".to_owned(),
                Some(Columns { count, one_in: NonZeroU32::MIN }) => format!("{count} columns"),
                Some(Columns { count, one_in }) => format!("{count} columns in one audit of {one_in}"),
            };
            format!("{cells} cells, {decodes} decodes, {columns}")
        }
    }
}

/// The ratios of every relation that was compared.
fn by_relation(margins: &[Margin]) -> impl Iterator<Item = (Relation, Vec<f64>)> {
    Relation::ALL.into_iter().filter_map(|relation| {
        let of_it = margins.iter().filter(|margin| margin.place.relation == Some(relation));
        let ratios: Vec<f64> = of_it.map(|margin| margin.ratio).collect();
        (!ratios.is_empty()).then_some((relation, ratios))
    })
}

#[expect(clippy::cast_precision_loss, reason = "a mean of few")]
fn mean_and_largest(ratios: &[f64]) -> (f64, f64) {
    let mean = ratios.iter().sum::<f64>() / ratios.len() as f64;
    (mean, ratios.iter().fold(0.0, |largest, ratio| f64::max(largest, *ratio)))
}

/// A ratio as a bar that is full at the threshold.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the bar")]
fn bar(ratio: f64) -> String {
    const WIDTH: usize = 20;
    if ratio > 1.0 {
        return format!("[{}]", "!".repeat(WIDTH));
    }
    let full = (ratio * 20.0).round().clamp(0.0, 20.0) as usize;
    format!("[{}{}]", "#".repeat(full), ".".repeat(WIDTH - full))
}

const fn size_parts(sizes: &ProofSizes) -> [(&'static str, usize); 9] {
    let ProofSizes { small, rows, prefixes, supplied, logits, paths, claims, openings, table } = *sizes;
    [
        ("rows", rows),
        ("attention prefixes", prefixes),
        ("paths", paths),
        ("supplied products", supplied),
        ("logits", logits),
        ("norms and biases", small),
        ("claims", claims),
        ("openings", openings),
        ("table of parts", table),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "a share, shown to one decimal")]
fn percent(part: usize, total: usize) -> String {
    format!("{:.1} %", 100.0 * part as f64 / total.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_has_a_layer_and_a_decode_has_none() {
        let item = |layer: Option<u32>, position| Item {
            layer: layer.map(LayerIndex::new),
            position: Position::new(position),
        };
        assert_eq!((parse_item("2:14"), parse_item("14")), (Ok(item(Some(2), 14)), Ok(item(None, 14))));
        assert!(["", ":", "2:", "a:1", "1:2:3", "-1"].iter().all(|text| parse_item(text).is_err()));
    }

    #[test]
    fn a_bar_is_full_at_the_threshold_and_loud_beyond() {
        assert_eq!(bar(0.0), "[....................]");
        assert_eq!(bar(0.5), "[##########..........]");
        assert_eq!(bar(1.0), "[####################]");
        for beyond in [1.01, f64::INFINITY] {
            assert_eq!(bar(beyond), "[!!!!!!!!!!!!!!!!!!!!]");
        }
    }
}
