//! `assay model publish`: a manifest in force on a subnet.

use std::path::PathBuf;

use assay_chain::Chain;
use assay_commitments::ManifestId;
use serde_json::json;

use crate::commands::signer::SignerArgs;
use crate::files::read_manifest;
use crate::networks::{NetworkArgs, wait_for};
use crate::outcome::{CommandResult, Outcome};
use crate::terminal::{Listing, Paint, print, print_json};

/// What to publish, and where.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The manifest that `assay model commit` wrote
    #[arg(value_name = "MANIFEST")]
    manifest: PathBuf,
    #[command(flatten)]
    network: NetworkArgs,
    #[command(flatten)]
    signer: SignerArgs,
    /// Put this manifest in force alone, instead of beside those that are
    #[arg(long)]
    alone: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let id = read_manifest(&args.manifest)?.id();
    let key = args.signer.unlock()?;
    let (before, after) = wait_for(async {
        let chain = args.network.place().connect(std::slice::from_ref(&key), None).await?;
        let before = chain.manifests().await?;
        let kept = before.iter().copied().filter(|known| !args.alone && *known != id);
        let after: Vec<ManifestId> = kept.chain([id]).collect();
        // Their order says nothing.
        let stands = before.contains(&id) && before.len() == after.len();
        if !stands {
            chain.publish_manifests(key.hotkey(), &after).await?;
        }
        Ok((before, after))
    })?;
    let published = !before.contains(&id);
    let names = |ids: &[ManifestId]| ids.iter().map(ManifestId::to_string).collect::<Vec<_>>();
    if args.json {
        print_json(&json!({
            "manifest_id": id.to_string(),
            "published": published,
            "in_force": names(&after),
        }))?;
    } else {
        let paint = Paint::stdout();
        let mut listing = Listing::default();
        listing.line("manifest id", paint.bold(&id.to_string()));
        listing.line("published", if published { "now" } else { "before" });
        listing.line("in force", names(&after).join(" "));
        print(&listing.render(paint))?;
    }
    Ok(Outcome::Done)
}
