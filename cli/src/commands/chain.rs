//! `assay chain`: where a subnet stands, and what it would take from a hotkey now.

use std::path::PathBuf;

use assay_chain::wallet::{KeyFile, account};
use assay_chain::weights::{Situation, plan};
use assay_chain::{
    BlockNumber, Chain, EpochKeyRecord, Head, Hyperparameters, Metagraph, Network, Neuron, StoredWeights, Uid,
    WeightsForm, ss58,
};
use assay_commitments::{Hotkey, ManifestId};
use assay_validator::{SCORING_VERSION, stored_ledger, weight_vector};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::config::{self, ValidatorFile};
use crate::networks::{NetworkArgs, Place, wait_for};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, print, print_json, table, thousands};

/// What to ask a chain.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show the epoch, permits, rate limits, the registry, and what a hotkey could set now
    Status(Args),
}

/// Which chain, and who asks.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    network: NetworkArgs,
    /// Whose place to show: an SS58 address, or 64 hexadecimal digits
    #[arg(long, value_name = "HOTKEY", value_parser = parse_hotkey)]
    hotkey: Option<Hotkey>,
    /// A validator's configuration: shows its place, and the weights that its ledger comes to
    #[arg(long, value_name = "FILE", conflicts_with = "hotkey")]
    config: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn parse_hotkey(text: &str) -> Result<Hotkey, String> {
    account(text).map(Hotkey::new).ok_or_else(|| "give an SS58 address, or 64 hexadecimal digits".to_owned())
}

pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Status(args) => status(args),
    }
}

/// What was read of a chain.
struct Status {
    network: Network,
    head: Head,
    settings: Hyperparameters,
    metagraph: Metagraph,
    registry: Vec<ManifestId>,
    own: Option<Own>,
}

/// A share of the weights, with whose it is.
type Given = (Uid, u16);

/// One hotkey's place.
struct Own {
    hotkey: Hotkey,
    /// Its place, the key of the running epoch, and its weights, if it is registered.
    place: Option<(Neuron, Option<EpochKeyRecord>, StoredWeights)>,
    /// The weights of a ledger, if one was given and is there.
    ledger: Option<Vec<Given>>,
}

fn status(args: &Args) -> CommandResult {
    let (place, config) =
        (args.network.place(), args.config.as_deref().map(config::read::<ValidatorFile>).transpose()?);
    let hotkey = match &config {
        // The public half is enough, and needs no password.
        Some((file, base)) => {
            let path = file.wallet.path(base)?;
            let public = KeyFile::read(&path)?.public();
            Some(public.ok_or_else(|| {
                Fault::usage(format!("{}: its public half is not known: name it with --hotkey", path.display()))
            })?)
        }
        None => args.hotkey,
    };
    let status = wait_for(read(&place, hotkey, config.as_ref()))?;
    if args.json {
        print_json(&status.json())?;
    } else {
        print(&status.text(Paint::stdout()))?;
    }
    Ok(Outcome::Done)
}

async fn read(
    place: &Place,
    hotkey: Option<Hotkey>,
    config: Option<&(ValidatorFile, config::Base)>,
) -> Result<Status, Fault> {
    let chain = place.connect(&[], None).await?;
    let (head, settings, metagraph) = (chain.head().await?, chain.hyperparameters().await?, chain.metagraph().await?);
    let registry = chain.manifests().await?;
    let own = match hotkey {
        None => None,
        Some(hotkey) => {
            let place = match metagraph.neuron(&hotkey) {
                None => None,
                Some(neuron) => {
                    Some((neuron.clone(), chain.epoch_key(hotkey, head.epoch).await?, chain.weights_of(hotkey).await?))
                }
            };
            Some(Own {
                hotkey,
                place,
                ledger: config
                    .map(|config| of_ledger(config, chain.network(), &hotkey, &metagraph))
                    .transpose()?
                    .flatten(),
            })
        }
    };
    Ok(Status { network: chain.network(), head, settings, metagraph, registry, own })
}

/// What a validator's ledger comes to on this metagraph; none if it has judged nobody yet.
fn of_ledger(
    (file, base): &(ValidatorFile, config::Base),
    network: Network,
    hotkey: &Hotkey,
    metagraph: &Metagraph,
) -> Result<Option<Vec<Given>>, Fault> {
    let settings = file.check(base)?;
    let network = assay_audit::request::Network { genesis: *network.genesis.as_bytes(), netuid: network.netuid.get() };
    let stored = stored_ledger(&settings.records, network, hotkey, settings.probation)?;
    let Some(ledger) = stored else { return Ok(None) };
    let weights = weight_vector(&ledger, metagraph)?;
    let given = metagraph.neurons.iter().filter_map(|neuron| {
        let weight = weights.get(&neuron.hotkey).copied().filter(|weight| *weight > 0)?;
        Some((neuron.uid, weight))
    });
    Ok(Some(given.collect()))
}

impl Status {
    /// Why the chain would not take weights of a hotkey in its next block, if it would not: its ledger's, or without
    /// one the same for everybody.
    fn hindrance(&self, own: &Own) -> Option<String> {
        let everybody = || self.metagraph.neurons.iter().map(|neuron| (neuron.uid, 1)).collect();
        let weights = own.ledger.clone().unwrap_or_else(everybody);
        let situation = Situation {
            settings: &self.settings,
            metagraph: &self.metagraph,
            block: BlockNumber::new(self.head.block.get() + 1),
            open_commits: own.place.as_ref().map_or(0, |(.., stored)| stored.pending.len()),
        };
        plan(&situation, own.hotkey, &weights, SCORING_VERSION).err().map(|refusal| refusal.to_string())
    }

    fn text(&self, paint: Paint) -> String {
        let (head, settings) = (&self.head, &self.settings);
        let left = head.next_epoch.get().saturating_sub(head.block.get());
        let mut listing = Listing::default();
        listing.line("genesis", self.network.genesis);
        listing.line("subnet", self.network.netuid);
        listing.line("block", thousands(head.block.get()));
        listing.line(
            "epoch",
            format!(
                "{}, since block {}, the next in {left} blocks at {}",
                head.epoch, head.epoch_start, head.next_epoch
            ),
        );
        listing.line("weights", form(&settings.weights_form));
        listing.line(
            "limits",
            format!(
                "weights every {} blocks, at least {}, version key {}; endpoints every {} blocks; stake from {} RAO",
                settings.weights_rate_limit,
                settings.min_allowed_weights,
                settings.weights_version_key,
                settings.serving_rate_limit,
                settings.stake_threshold
            ),
        );
        listing.line("neurons", format!("{} of {}", self.metagraph.neurons.len(), settings.max_allowed_uids));
        let registry = self.registry.iter().map(ManifestId::to_string).collect::<Vec<_>>();
        listing.line("manifests", if registry.is_empty() { "none in force".to_owned() } else { registry.join(" ") });
        let mut text = listing.render(paint);
        text.push('\n');
        text.push_str(&self.permits(paint));
        if let Some(own) = &self.own {
            text.push('\n');
            text.push_str(&self.own_text(own, paint));
        }
        text
    }

    fn permits(&self, paint: Paint) -> String {
        let row = |neuron: &Neuron| {
            vec![
                ss58::format(&neuron.hotkey),
                neuron.uid.to_string(),
                thousands(neuron.stake.get()),
                if neuron.active { "active" } else { "inactive" }.to_owned(),
                neuron.last_update.to_string(),
            ]
        };
        let rows: Vec<Vec<String>> =
            self.metagraph.neurons.iter().filter(|neuron| neuron.validator_permit).map(row).collect();
        table(&["permit", "uid", "stake in RAO", "", "last update"], &rows, paint)
    }

    fn own_text(&self, own: &Own, paint: Paint) -> String {
        let mut listing = Listing::default();
        listing.line("hotkey", paint.bold(&ss58::format(&own.hotkey)));
        if let Some((neuron, key, stored)) = &own.place {
            listing.line("uid", neuron.uid);
            listing.line("stake", format!("{} RAO", thousands(neuron.stake.get())));
            listing.line("permit", if neuron.validator_permit { "yes" } else { "no" });
            let endpoint = neuron.endpoint.map_or_else(|| "none".to_owned(), |endpoint| endpoint.to_string());
            listing.line("endpoint", endpoint);
            listing.line("serves", neuron.manifest.map_or_else(|| "nothing".to_owned(), |id| id.to_string()));
            let state = match key {
                None => "not published",
                Some(EpochKeyRecord { key: None, .. }) => "published",
                Some(EpochKeyRecord { key: Some(_), .. }) => "revealed",
            };
            listing.line("epoch key", format!("{state} for epoch {}", self.head.epoch));
            listing.line("on chain", shares(stored.weights.iter().map(|(uid, weight)| (*uid, *weight))));
            for (block, reveals) in &stored.pending {
                listing.line("committed", format!("in block {block}, revealed in epoch {reveals}"));
            }
        }
        match self.hindrance(own) {
            None => listing.line("weights now", "would be taken"),
            Some(why) => listing.line("weights now", format!("would not be taken: {why}")),
        }
        if let Some(ledger) = &own.ledger {
            listing.line("by the ledger", shares(ledger.iter().copied()));
        }
        listing.render(paint)
    }

    fn json(&self) -> Value {
        let (head, settings) = (&self.head, &self.settings);
        let neurons = self.metagraph.neurons.iter().map(|neuron| {
            json!({
                "uid": neuron.uid.get(),
                "hotkey": neuron.hotkey.to_string(),
                "ss58": ss58::format(&neuron.hotkey),
                "stake_rao": neuron.stake.get(),
                "permit": neuron.validator_permit,
                "active": neuron.active,
                "last_update": neuron.last_update.get(),
                "endpoint": neuron.endpoint.map(|endpoint| endpoint.to_string()),
                "manifest": neuron.manifest.map(|id| id.to_string()),
            })
        });
        json!({
            "genesis": self.network.genesis.to_string(),
            "netuid": self.network.netuid.get(),
            "block": head.block.get(),
            "epoch": head.epoch.get(),
            "epoch_start": head.epoch_start.get(),
            "next_epoch": head.next_epoch.get(),
            "tempo": settings.tempo,
            "weights_form": form(&settings.weights_form),
            "weights_rate_limit": settings.weights_rate_limit,
            "weights_version_key": settings.weights_version_key,
            "min_allowed_weights": settings.min_allowed_weights,
            "serving_rate_limit": settings.serving_rate_limit,
            "stake_threshold_rao": settings.stake_threshold.get(),
            "manifests": self.registry.iter().map(ManifestId::to_string).collect::<Vec<_>>(),
            "neurons": neurons.collect::<Vec<_>>(),
            "own": self.own.as_ref().map(|own| self.own_json(own)),
        })
    }

    fn own_json(&self, own: &Own) -> Value {
        let vector =
            |weights: &[(Uid, u16)]| weights.iter().map(|(uid, weight)| [uid.get(), *weight]).collect::<Vec<_>>();
        let place = own.place.as_ref().map(|(neuron, key, stored)| {
            json!({
                "uid": neuron.uid.get(),
                "epoch_key": key.map(|key| json!({
                    "published_at": key.published_at.get(),
                    "revealed": key.key.is_some(),
                })),
                "weights": vector(&stored.weights),
                "pending": stored.pending.iter().map(|(block, reveals)| [block.get(), reveals.get()]).collect::<Vec<_>>(),
            })
        });
        json!({
            "hotkey": own.hotkey.to_string(),
            "place": place,
            "hindrances": self.hindrance(own).into_iter().collect::<Vec<_>>(),
            "ledger": own.ledger.as_deref().map(vector),
        })
    }
}

fn form(form: &WeightsForm) -> String {
    match form {
        WeightsForm::Plain => "plain".to_owned(),
        WeightsForm::CommitReveal { period } => format!("commit-reveal after {period} epochs"),
        WeightsForm::Timelocked { period, version } => format!("timelocked for {period} epochs, version {version}"),
    }
}

/// Weights as shares of a hundred.
fn shares(weights: impl Iterator<Item = (Uid, u16)> + Clone) -> String {
    let total: f64 = weights.clone().map(|(_, weight)| f64::from(weight)).sum();
    if total == 0.0 {
        return "no weights".to_owned();
    }
    let share = |(uid, weight): (Uid, u16)| format!("uid {uid} {:.1} %", f64::from(weight) / total * 100.0);
    weights.map(share).collect::<Vec<_>>().join(", ")
}
