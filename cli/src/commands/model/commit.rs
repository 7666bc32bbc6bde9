//! `assay model commit`: from a folder of weights to a manifest.

use std::path::PathBuf;
use std::time::Instant;

use assay_commitments::manifest::Manifest;
use assay_commitments::rows::Profile;
use assay_llm_runtime::{Description, ModelFolder};
use serde_json::json;

use super::memory::Plan;
use super::streaming::{count, fingerprint, stream};
use super::{memory, parameters};
use crate::files::{
    MANIFEST_NAME, check_writable, destination, manifest_file, partial_path, tree_path, write_atomically,
};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, bytes, print, print_json, seconds, thousands};
use crate::tree_file::Partial;

/// What to commit.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Model folder in the Hugging Face layout
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The manifest to write, manifest.assay in the folder if not given; the tree goes beside it with
    /// the extension .tree. Later runs on the folder use what lies in it; until the end of this one, what
    /// is done lies in FILE.partial, and a run that was stopped goes on from there
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How the runtime rounds: bf16-1 or f32-1, for a quantised model bf16-w8-1; bf16-1 or bf16-w8-1 if not given
    #[arg(long, value_name = "P", value_parser = parse_profile)]
    profile: Option<Profile>,
    /// Most memory to use; K, M and G are understood
    #[arg(long, value_name = "BYTES", value_parser = memory::parse_bytes, default_value = memory::DEFAULT)]
    memory: u64,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn parse_profile(name: &str) -> Result<Profile, String> {
    let names = || Profile::ALL.map(Profile::name).join(", ");
    Profile::from_name(name).ok_or_else(|| format!("no such profile: there are {}", names()))
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let begin = Instant::now();
    let description = Description::read(&args.folder)?;
    let profile = description.profile(args.profile)?;
    let plan = Plan::of_folder(args.memory, &args.folder, &description)?;
    let manifest_path = args.out.clone().unwrap_or_else(|| args.folder.join(MANIFEST_NAME));
    let trees_path = tree_path(&manifest_path);
    if trees_path == manifest_path {
        return Err(Fault::usage(format!(
            "{}: the extension .tree is for the tree beside the manifest: choose another",
            manifest_path.display()
        )));
    }
    check_writable(&manifest_path)?;
    let trees_end = destination(&trees_path)?;

    let folder = ModelFolder::open(&args.folder, profile)?;
    let mut partial = Partial::open(&partial_path(&manifest_path), &fingerprint(&folder, profile), count(&folder)?)?;
    if partial.done() > 0 {
        tracing::info!("{} polynomials were committed by an earlier run", partial.done());
    }
    let manifest = stream(&folder, profile, plan, Some(&mut partial))?.manifest;
    folder.check_unchanged()?;
    let content = manifest_file(&manifest);
    // The manifest first: stopped in between, the next run finds all polynomials done.
    write_atomically(&manifest_path, &content)?;
    let trees_length = partial.finish(&trees_end)?;
    let elapsed = begin.elapsed().as_secs_f64();
    let manifest = &manifest;

    let security = security_bits(manifest);
    let count = parameters(&manifest.architecture);
    if args.json {
        print_json(&json!({
            "manifest_id": manifest.id().to_string(),
            "layers": manifest.architecture.layers,
            "parameters": count,
            "seconds": elapsed,
            "peak_rss_bytes": memory::peak(),
            "security_bits": security,
        }))?;
        return Ok(Outcome::Done);
    }
    let paint = Paint::stdout();
    let mut listing = Listing::default();
    listing.line("manifest id", paint.bold(&manifest.id().to_string()));
    listing.line(
        "model",
        format!("{} layers, {} parameters, {}", manifest.layers.len(), thousands(count), manifest.profile.name()),
    );
    listing.line("security", format!("{security:.1} bits"));
    listing.line("manifest", format!("{} ({})", manifest_path.display(), bytes(content.len() as u64)));
    listing.line("tree", format!("{} ({})", trees_path.display(), bytes(trees_length)));
    let peak = memory::peak().map(|peak| format!(", at most {} of memory", bytes(peak))).unwrap_or_default();
    listing.line("took", format!("{}{peak}", seconds(elapsed)));
    print(&listing.render(paint))?;
    Ok(Outcome::Done)
}

/// What any opening of this manifest's commitments reaches.
pub(super) fn security_bits(manifest: &Manifest) -> f64 {
    let [layer, head] = [&manifest.layer_code, &manifest.head_code].map(|code| code.best_security().total);
    layer.min(head).to_f64()
}
