//! `assay devnet`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use assay_chain::wallet::{KeyFile, WalletError, WalletPaths, account, create_hotkey};
use assay_chain::{
    Chain, ChainError, Devnet, FileError, Genesis, GenesisError, GenesisHash, NetUid, Network, Node, NodeError,
    NodeOptions, Parameters, ss58,
};
use assay_commitments::Hotkey;
use tracing::info;

use super::stop;
use crate::config::{self, Base, DevnetConfig};
use crate::files::{destination, hold};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, print};

/// How a devnet runs; what is given here counts before the configuration.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A configuration, in TOML; there is an example in examples/
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to listen, 127.0.0.1:9955 if it is not given; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Milliseconds from block to block; 0 makes blocks on demand only
    #[arg(long, value_name = "N")]
    block_ms: Option<u64>,
    /// Keep the chain in this file, and go on from it
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// The subnet's number
    #[arg(long, value_name = "N")]
    netuid: Option<u16>,
}

impl Args {
    fn config(&self) -> Result<(DevnetConfig, Base), Fault> {
        let (mut config, base) = match &self.config {
            Some(path) => config::read(path)?,
            None => (DevnetConfig::default(), Base::default()),
        };
        config.state = config.state.map(|state| base.path(&state));
        config.wallets = base.path(&config.wallets);
        config.listen = self.listen.unwrap_or(config.listen);
        config.block_ms = self.block_ms.unwrap_or(config.block_ms);
        // Where a link leads, so that the file has one name.
        config.state = self.state.clone().or(config.state).as_deref().map(destination).transpose()?;
        config.netuid = self.netuid.unwrap_or(config.netuid);
        Ok((config, base))
    }
}

pub(super) async fn run(args: &Args) -> CommandResult {
    let stop = stop::on_signals()?;
    let (config, base) = args.config()?;
    let parameters = config.check(&base)?;
    let _held = config.state.as_deref().map(hold_state).transpose()?;
    let devnet = match &config.state {
        Some(path) if path.exists() => load(path, &config)?,
        _ => found(&config, &base, parameters)?,
    };
    let mut options = NodeOptions::new()?;
    options.block_time = Some(config.block_ms).filter(|ms| *ms > 0).map(Duration::from_millis);
    options.state.clone_from(&config.state);
    let mut node = Node::start(devnet.clone(), config.listen, options).await?;
    print(&describe(&devnet, &config, &node.url()))?;
    let is_whole = tokio::select! {
        () = stop.cancelled() => true,
        () = node.broken() => false,
    };
    node.stop().await;
    if let Some(path) = &config.state {
        // What came in since the last block.
        devnet.save(path)?;
        info!(path = %path.display(), "saved");
    }
    if is_whole { Ok(Outcome::Done) } else { Err(Fault::own("the devnet makes no more blocks: see the log")) }
}

/// Holds the file of a devnet. It is replaced with each block, so that what is locked lies beside it.
fn hold_state(path: &Path) -> Result<File, Fault> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let in_use = format!("{}: in use by another devnet: stop it, or name another file", path.display());
    hold(&path.with_file_name(name), &in_use)
}

fn load(path: &Path, config: &DevnetConfig) -> Result<Devnet, Fault> {
    let devnet = Devnet::load(path)?;
    let netuid = devnet.network().netuid.get();
    if netuid != config.netuid {
        return Err(Fault::usage(format!(
            "{}: a devnet of subnet {netuid}, and this is to be subnet {}: name another file, or the same netuid",
            path.display(),
            config.netuid
        )));
    }
    Ok(devnet)
}

/// A new chain.
fn found(config: &DevnetConfig, base: &Base, parameters: Parameters) -> Result<Devnet, Fault> {
    let named = |key: &str, name: &str| {
        hotkey(&config.wallets, name).map_err(|error| match error {
            WalletError::Name(_) => base.refuse(key, &error.to_string()),
            error => error.into(),
        })
    };
    let founders = config.validators.iter();
    let validators = founders.map(|founder| Ok((named("validators", &founder.hotkey)?, founder.stake())));
    let mut genesis = [0; 32];
    getrandom::fill(&mut genesis).map_err(|error| Fault::own(format!("the system gives no random bytes: {error}")))?;
    if let Some(name) = &config.name {
        genesis = blake3::derive_key("assay devnet genesis v1", name.as_bytes());
    }
    let devnet = Devnet::new(&Genesis {
        network: Network { genesis: GenesisHash::new(genesis), netuid: NetUid::new(config.netuid) },
        owner: named("owner", &config.owner)?,
        validators: validators.collect::<Result<_, Fault>>()?,
        parameters,
    })?;
    for miner in &config.miners {
        let miner = named("miners", miner)?;
        match devnet.register(miner) {
            Ok(_) | Err(ChainError::AlreadyRegistered(_)) => {}
            Err(refusal) => return Err(refusal.into()),
        }
    }
    Ok(devnet)
}

/// A hotkey by its address, or by the name of its wallet, which is made if it is not there.
fn hotkey(wallets: &Path, name: &str) -> Result<Hotkey, WalletError> {
    if let Some(account) = account(name) {
        return Ok(Hotkey::new(account));
    }
    let (wallet, hotkey) = name.split_once('/').unwrap_or((name, "default"));
    let path = WalletPaths::new(wallets, wallet)?.hotkey(hotkey)?;
    match KeyFile::read(&path) {
        Ok(file) => match file.public() {
            Some(public) => Ok(public),
            None => Ok(file.unlock(None)?.hotkey()),
        },
        Err(WalletError::Missing(_)) => {
            let key = create_hotkey(&path)?;
            info!(path = %path.display(), "made a hotkey");
            Ok(key.hotkey())
        }
        Err(error) => Err(error),
    }
}

fn describe(devnet: &Devnet, config: &DevnetConfig, url: &str) -> String {
    let paint = Paint::stdout();
    let network = devnet.network();
    let mut listing = Listing::default();
    listing.line("devnet", paint.bold(url));
    listing.line("genesis", network.genesis);
    listing.line("subnet", network.netuid);
    match config.block_ms {
        0 => listing.line("blocks", "on demand"),
        ms => listing.line("blocks", format!("every {ms} ms")),
    }
    match &config.state {
        Some(path) => listing.line("kept in", path.display()),
        None => listing.line("kept in", "memory only"),
    }
    for name in std::iter::once(&config.owner)
        .chain(config.validators.iter().map(|founder| &founder.hotkey))
        .chain(&config.miners)
    {
        if let Ok(hotkey) = hotkey(&config.wallets, name) {
            listing.line(name, ss58::format(&hotkey));
        }
    }
    listing.render(paint)
}

impl From<GenesisError> for Fault {
    fn from(error: GenesisError) -> Self {
        Self::usage(format!("the devnet cannot begin: {error}"))
    }
}

impl From<FileError> for Fault {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Io { .. } => Self::usage(error.to_string()),
            FileError::NotADevnet { .. } | FileError::Version { .. } | FileError::Damaged { .. } => {
                Self::damaged(error.to_string())
            }
        }
    }
}

impl From<NodeError> for Fault {
    fn from(error: NodeError) -> Self {
        match error {
            NodeError::NotLoopback(_) | NodeError::Listen { .. } | NodeError::State(_) => {
                Self::usage(error.to_string())
            }
            _ => Self::own(error.to_string()),
        }
    }
}
