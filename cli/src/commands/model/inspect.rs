//! `assay model inspect`: what is known of a model before anything is computed.

use std::path::PathBuf;

use assay_commitments::manifest::{Architecture, Manifest, Matrix};
use assay_commitments::params::{Bits, CodeParams, MAX_CLAIMS, SecurityBudget, SecurityTerm};
use assay_commitments::rows::Profile;
use assay_llm_runtime::Description;
use serde_json::{Value, json};

use super::parameters;
use crate::files::{MANIFEST_NAME, committed_manifest, read_manifest};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, bytes, print, print_json, table, thousands};

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder or manifest file
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A model, as far as it is known.
struct Inspected {
    architecture: Architecture,
    profile: Profile,
    layer_code: CodeParams,
    head_code: CodeParams,
    shards: u32,
    /// Whether it is a folder, whose weights may have changed since they were committed.
    is_folder: bool,
    /// Only of a model that was committed.
    manifest: Option<Manifest>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let model = if args.path.is_dir() { of_folder(args)? } else { of_manifest(read_manifest(&args.path)?) };
    if args.json {
        print_json(&model.json())?;
    } else {
        print(&model.text(Paint::stdout()))?;
    }
    Ok(Outcome::Done)
}

fn of_folder(args: &Args) -> Result<Inspected, Fault> {
    let description = Description::read(&args.path)?;
    let architecture = description.architecture().clone();
    let manifest = committed_manifest(&args.path)?;
    // A manifest of other numbers says nothing about the folder as it is now.
    let fits = |manifest: &Manifest| description.profile(Some(manifest.profile)).is_ok();
    let manifest = manifest.filter(|manifest| manifest.architecture == architecture && fits(manifest));
    let unusable = |error: &dyn std::fmt::Display| Fault::usage(format!("{}: {error}", args.path.display()));
    let layer = architecture.layer_layout().map_err(|error| unusable(&error))?;
    let head = architecture.head_layout().map_err(|error| unusable(&error))?;
    Ok(Inspected {
        layer_code: CodeParams::for_layout(&layer),
        head_code: CodeParams::for_layout(&head),
        shards: architecture.head_shards().map_err(|error| unusable(&error))?,
        profile: manifest.as_ref().map_or(description.natural_profile(), |manifest| manifest.profile),
        architecture,
        is_folder: true,
        manifest,
    })
}

fn of_manifest(manifest: Manifest) -> Inspected {
    Inspected {
        architecture: manifest.architecture.clone(),
        profile: manifest.profile,
        layer_code: manifest.layer_code.clone(),
        head_code: manifest.head_code.clone(),
        shards: u32::try_from(manifest.head.shards.len()).unwrap_or(u32::MAX),
        is_folder: false,
        manifest: Some(manifest),
    }
}

impl Inspected {
    fn codes(&self) -> [(&'static str, &CodeParams); 2] {
        [("layer", &self.layer_code), ("lm_head shard", &self.head_code)]
    }

    fn total(&self) -> Bits {
        self.codes().map(|(_, code)| code.best_security().total).into_iter().min().unwrap_or(Bits::INFINITE)
    }

    fn text(&self, paint: Paint) -> String {
        let architecture = &self.architecture;
        let mut listing = Listing::default();
        let id = self.manifest.as_ref().map_or("not committed yet".to_owned(), |manifest| manifest.id().to_string());
        listing.line("manifest id", paint.bold(&id));
        if self.is_folder && self.manifest.is_some() {
            listing.line("", format!("as {MANIFEST_NAME} has it; `assay model verify` compares the weights"));
        }
        listing.line("profile", self.profile.name());
        listing.line("parameters", thousands(parameters(architecture)));
        listing.line("layers", architecture.layers);
        listing.line("hidden", architecture.hidden);
        let (heads, kv_heads) = (architecture.heads, architecture.kv_heads);
        listing.line("heads", format!("{heads} of width {}, in {kv_heads} groups", architecture.head_dim));
        listing.line("ffn", architecture.ffn);
        let tied = if architecture.tied { "tied to lm_head" } else { "lm_head of its own" };
        listing.line("vocabulary", format!("{}, {tied}", thousands(architecture.vocab_size.into())));
        listing.line("positions", thousands(architecture.max_positions.into()));
        listing.line("norm epsilon", architecture.norm_eps);
        listing.line("biases", architecture.biases.name());
        listing.line("norms of heads", if architecture.head_norms { "queries and keys" } else { "none" });
        listing.line("window", architecture.window.map_or("none".to_owned(), |window| format!("{window} positions")));
        let stops: Vec<String> = architecture.stop_tokens.iter().map(ToString::to_string).collect();
        listing.line("stop tokens", if stops.is_empty() { "none".to_owned() } else { stops.join(", ") });
        if let Some(manifest) = &self.manifest {
            listing.line("tokenizer", hex::encode(manifest.tokenizer));
            let template = manifest.chat_template.map_or("none".to_owned(), hex::encode);
            listing.line("chat template", template);
        }
        let mut text = listing.render(paint);

        let shapes: Vec<Vec<String>> = Matrix::ALL
            .iter()
            .map(|matrix| {
                let shape = architecture.shape(*matrix);
                vec![
                    matrix.name().to_owned(),
                    shape.inputs.to_string(),
                    shape.outputs.to_string(),
                    thousands(shape.weights()),
                ]
            })
            .collect();
        text.push('\n');
        text.push_str(&table(&["matrix", "inputs", "outputs", "weights"], &shapes, paint));

        let counts = [u64::from(architecture.layers), u64::from(self.shards)];
        for ((name, code), count) in self.codes().into_iter().zip(counts) {
            let levels: Vec<Vec<String>> = code
                .codes()
                .enumerate()
                .map(|(level, code)| {
                    vec![
                        level.to_string(),
                        format!("2^{}", code.variables),
                        format!("2^{}", code.fold_log),
                        format!("1/{}", 1 << code.rate_log),
                        if code.opens_all() { "all".to_owned() } else { code.queries.to_string() },
                        format!("2^{}", code.grinding),
                    ]
                })
                .collect();
            let size = bytes(code.max_opening_bytes(1) as u64);
            let title = format!("{name} ({count}; an opening of one has at most {size})");
            text.push('\n');
            text.push_str(&table(&[&title, "encodes", "rows", "rate", "queries", "work"], &levels, paint));

            let SecurityBudget { terms, total } = code.best_security();
            let by_level: Vec<&[SecurityTerm]> = terms.chunk_by(|a, b| a.level == b.level).collect();
            let Some((first, rest)) = by_level.split_first() else { continue };
            let row = |(place, term): (usize, &SecurityTerm)| {
                let others = rest.iter().filter_map(|level| level.get(place));
                let bits = std::iter::once(term).chain(others).map(|term| show_bits(term.bits));
                [vec![term.name.to_owned()], bits.collect()].concat()
            };
            let mut rows: Vec<Vec<String>> = first.iter().enumerate().map(row).collect();
            rows.push(vec!["total".to_owned(), show_bits(total)]);
            let columns: Vec<String> = (0..=rest.len()).map(|level| format!("level {level}")).collect();
            let head: Vec<&str> =
                std::iter::once("a false claim passes, bits").chain(columns.iter().map(String::as_str)).collect();
            text.push('\n');
            text.push_str(&table(&head, &rows, paint));
        }
        for term in self.layer_code.best_security().terms.iter().take_while(|term| term.level == 0) {
            text.push_str(&paint.dim(&format!("{}: {}; {}", term.name, term.formula, term.source)));
            text.push('\n');
        }
        let bound = format!("for up to {MAX_CLAIMS} claims; the two openings of an audit lose one bit\n");
        text.push_str(&paint.dim(&bound));
        text
    }

    fn json(&self) -> Value {
        let architecture = &self.architecture;
        let code = |code: &CodeParams, count: u64| {
            let SecurityBudget { terms, total } = code.best_security();
            let levels = code.codes().map(|level| {
                json!({
                    "variables": level.variables,
                    "fold_log": level.fold_log,
                    "rate_log": level.rate_log,
                    "queries": level.queries,
                    "grinding": level.grinding,
                })
            });
            json!({
                "count": count,
                "log_size": code.log_size,
                "levels": levels.collect::<Vec<_>>(),
                "max_opening_bytes": code.max_opening_bytes(1),
                "security": terms.iter().map(|term| json!({
                    "level": term.level,
                    "term": term.name,
                    "bits": finite(term.bits),
                    "formula": term.formula,
                    "source": term.source,
                })).collect::<Vec<_>>(),
                "security_bits": finite(total),
            })
        };
        json!({
            "manifest_id": self.manifest.as_ref().map(|manifest| manifest.id().to_string()),
            "profile": self.profile.name(),
            "parameters": parameters(architecture),
            "architecture": {
                "vocab_size": architecture.vocab_size,
                "hidden": architecture.hidden,
                "layers": architecture.layers,
                "heads": architecture.heads,
                "kv_heads": architecture.kv_heads,
                "head_dim": architecture.head_dim,
                "ffn": architecture.ffn,
                "max_positions": architecture.max_positions,
                "norm_eps": architecture.norm_eps,
                "tied": architecture.tied,
                "biases": architecture.biases.name(),
                "head_norms": architecture.head_norms,
                "window": architecture.window,
                "stop_tokens": architecture.stop_tokens.iter().map(|token| token.get()).collect::<Vec<_>>(),
            },
            "layer_code": code(&self.layer_code, architecture.layers.into()),
            "head_code": code(&self.head_code, self.shards.into()),
            "security_bits": finite(self.total()),
        })
    }
}

fn show_bits(bits: Bits) -> String {
    finite(bits).map_or("never".to_owned(), |bits| format!("{bits:.1}"))
}

/// An event that cannot happen has no finite number of bits.
fn finite(bits: Bits) -> Option<f64> {
    Some(bits.to_f64()).filter(|bits| bits.is_finite())
}
