//! `assay model verify`: whether a folder holds the weights that a manifest commits to.

use std::path::{Path, PathBuf};

use assay_commitments::manifest::{Architecture, LayerEntry, Manifest, Matrix};
use assay_commitments::weights::WeightCommitment;
use assay_llm_runtime::{Description, ModelFolder};

use super::memory::{self, Plan};
use super::streaming::{Streamed, stream};
use crate::files::{read_manifest, tree_path};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, print, thousands};
use crate::tree_file::Records;

/// What to check.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder in the Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The manifest; a tree file beside it helps to name the matrix that differs
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    /// Most memory to use; K, M and G are understood
    #[arg(long, value_name = "BYTES", value_parser = memory::parse_bytes, default_value = memory::DEFAULT)]
    memory: u64,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let manifest = read_manifest(&args.manifest)?;
    let description = Description::read(&args.folder)?;
    let refuse = |what: String| {
        let (folder, manifest) = (args.folder.display(), args.manifest.display());
        Err(Fault::rejected(format!("{folder} is not the model of {manifest}: {what}")))
    };
    if let Some(difference) = architecture_difference(description.architecture(), &manifest.architecture) {
        return refuse(difference);
    }
    if description.profile(Some(manifest.profile)).is_err() {
        let (natural, other) = (description.natural_profile().name(), manifest.profile.name());
        return refuse(format!("it is served in profile {natural}, the manifest's is {other}"));
    }
    let plan = Plan::of_folder(args.memory, &args.folder, &description)?;
    let folder = ModelFolder::open(&args.folder, manifest.profile)?;
    let found = match stream(&folder, manifest.profile, plan, None) {
        // A manifest promises weights that are finite, as it promises what they are.
        Err(fault) if fault.outcome == Outcome::Damaged => return refuse(fault.message),
        result => result?,
    };
    folder.check_unchanged()?;
    let own = &found.manifest;
    if (&own.layer_code, &own.head_code) != (&manifest.layer_code, &manifest.head_code) {
        return Err(Fault::usage(format!(
            "{}: its commitments have other code parameters than this version of assay makes: verify it with the version that made it",
            args.manifest.display()
        )));
    }
    let differences = differences(&found, &manifest, &known_matrices(&args.manifest));
    if let Some((first, rest)) = differences.split_first() {
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more differences)", rest.len()) };
        return refuse(format!("{first}{more}"));
    }
    if own.id() != manifest.id() {
        return refuse("something else than weights, tokenizer and template differs".to_owned());
    }
    let paint = Paint::stdout();
    let mut listing = Listing::default();
    listing.line("verified", paint.green("these are the manifest's weights, all of them finite and in range"));
    listing.line("manifest id", own.id());
    let (layers, vocabulary) = (own.layers.len(), own.architecture.vocab_size);
    listing.line(
        "compared",
        format!(
            "{layers} layers, {} embeddings, norms, lm_head, tokenizer, chat template",
            thousands(vocabulary.into())
        ),
    );
    print(&listing.render(paint))?;
    Ok(Outcome::Done)
}

/// Commitments and digests of matrices that the tree file beside a manifest has, as far as it can be read.
fn known_matrices(manifest: &Path) -> Vec<(WeightCommitment, Vec<[u8; 32]>)> {
    let records = Records::open(&tree_path(manifest)).into_iter().flatten();
    records.map_while(Result::ok).map(|record| (record.weights, record.matrices)).collect()
}

/// The first number in which two architectures differ.
fn architecture_difference(found: &Architecture, expected: &Architecture) -> Option<String> {
    let Architecture {
        vocab_size,
        hidden,
        layers,
        heads,
        kv_heads,
        head_dim,
        ffn,
        max_positions,
        norm_eps,
        inverse_frequencies,
        tied,
        biases,
        head_norms,
        window,
        stop_tokens,
    } = found;
    let numbers = [
        ("vocab_size", *vocab_size, expected.vocab_size),
        ("hidden", *hidden, expected.hidden),
        ("layers", *layers, expected.layers),
        ("heads", *heads, expected.heads),
        ("kv_heads", *kv_heads, expected.kv_heads),
        ("head_dim", *head_dim, expected.head_dim),
        ("ffn", *ffn, expected.ffn),
        ("max_positions", *max_positions, expected.max_positions),
    ];
    let different = numbers.into_iter().find(|(_, found, expected)| found != expected);
    if let Some((name, found, expected)) = different {
        return Some(format!("{name} is {found} in the folder's config.json and {expected} in the manifest"));
    }
    let others = [
        ("numbers norm_eps", norm_eps.to_bits() == expected.norm_eps.to_bits()),
        ("rotary frequencies", *inverse_frequencies == expected.inverse_frequencies),
        ("settings tie_word_embeddings", *tied == expected.tied),
        ("projections that have a bias", *biases == expected.biases),
        ("norms of query and key heads", *head_norms == expected.head_norms),
        ("sliding windows", *window == expected.window),
        ("stop tokens", *stop_tokens == expected.stop_tokens),
    ];
    others.into_iter().find(|(_, same)| !same).map(|(name, _)| format!("the {name} differ"))
}

/// All differences between weights and a manifest of the same architecture, in the model's order.
fn differences(found: &Streamed, manifest: &Manifest, known: &[(WeightCommitment, Vec<[u8; 32]>)]) -> Vec<String> {
    let own = &found.manifest;
    let mut differences = vec![];
    let mut expect = |same: bool, what: &str| {
        if !same {
            differences.push(what.to_owned());
        }
    };
    expect(own.tokenizer == manifest.tokenizer, "tokenizer.json differs");
    expect(own.chat_template == manifest.chat_template, "the chat template differs");
    expect(own.embeddings == manifest.embeddings, "the embedding table (model.embed_tokens) differs");
    for (number, (layer, expected)) in own.layers.iter().zip(&manifest.layers).enumerate() {
        let other = || {
            let (_, known) = known.get(number).filter(|(weights, _)| *weights == expected.weights)?;
            found.matrices.get(number)?.iter().zip(known).position(|(found, known)| found != known)
        };
        differences.extend(layer_differences(number, layer, expected, other));
    }
    if own.head.small != manifest.head.small {
        differences.push("the final norm (model.norm) differs".to_owned());
    }
    if own.head.exponent != manifest.head.exponent {
        differences.push("lm_head differs: its largest weight has another magnitude".to_owned());
    } else if let Some(shard) = own.head.shards.iter().zip(&manifest.head.shards).position(|(own, other)| own != other)
    {
        let of = if own.architecture.tied { " (the embedding table, which is tied to it)" } else { "" };
        differences.push(format!("lm_head{of} differs in shard {shard}"));
    }
    differences
}

fn layer_differences(
    number: usize,
    found: &LayerEntry,
    expected: &LayerEntry,
    other_matrix: impl Fn() -> Option<usize>,
) -> Vec<String> {
    let mut differences = vec![];
    if found.small != expected.small {
        differences.push(format!("layer {number}: a norm or a bias differs"));
    }
    if found.weights == expected.weights && found.exponents == expected.exponents {
        return differences;
    }
    let by_exponent = Matrix::ALL.into_iter().find(|matrix| {
        let matrix = matrix.index();
        found.exponents[matrix] != expected.exponents[matrix]
    });
    differences.push(if let Some(matrix) = other_matrix().and_then(|index| Matrix::ALL.get(index)) {
        format!("layer {number}: {} differs", matrix.name())
    } else if let Some(matrix) = by_exponent {
        format!("layer {number}: {} differs: its largest weight has another magnitude", matrix.name())
    } else {
        let names = Matrix::ALL.map(Matrix::name).join(", ");
        format!(
            "layer {number}: one of its matrices differs ({names}): a manifest has one root for all seven, \
            the tree file beside it would tell which"
        )
    });
    differences
}
