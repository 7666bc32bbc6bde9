//! `assay miner`.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use assay_audit::keys::Keypair;
use assay_audit::request::Network;
use assay_chain::{Chain, ChainError, Metagraph, Neuron, Subtensor};
use assay_commitments::{Hotkey, ManifestId};
use assay_miner::{KnownSubnet, Miner, MinerConfig, MinerError, Published, RunningMiner, SubnetView};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::patience::{PAUSE, connect, persist};
use super::stop;
use crate::config::{self, MinerFile};
use crate::local::LocalModel;
use crate::outcome::{CommandResult, Fault, Outcome};

/// How long what the chain says of validators may be old. The epoch is known by the block.
const METAGRAPH_AGE: Duration = Duration::from_secs(6);

pub(super) async fn run(path: &Path) -> CommandResult {
    let stop = stop::on_signals()?;
    let (file, base) = config::read::<MinerFile>(path)?;
    let settings = file.check(&base)?;
    let key = file.wallet.unlock(&base)?;
    let hotkey = key.hotkey();
    check_free(settings.listen).await?;
    // The chain first: it is asked in a moment, and the model takes long.
    let chain = connect(&settings.place, &key, None).await?;
    let begin =
        persist(&chain, "reading the chain", &stop, || async { Ok((chain.head().await?, chain.metagraph().await?)) });
    let Some((head, metagraph)) = begin.await? else { return Ok(Outcome::Done) };
    metagraph.neuron(&hotkey).ok_or(ChainError::NotRegistered(hotkey))?;
    let subnet = Arc::new(KnownSubnet::new(head.epoch, &validators(&metagraph)));

    let model = load(&settings.model).await?;
    let template = model.chat_template.as_ref().map(String::as_bytes);
    let published = Published::new(&model.committed, &model.tokenizer, template)?;
    let manifest = published.id();
    let network = chain.network();
    let config = MinerConfig {
        listen: settings.listen,
        keys: Keypair::from(key.signer().clone()),
        network: Network { genesis: *network.genesis.as_bytes(), netuid: network.netuid.get() },
        subnet: Arc::clone(&subnet) as Arc<dyn SubnetView>,
        limits: settings.limits,
        spill_folder: settings.spill_folder.clone(),
    };
    let running = Miner::start(config, published, model.backend()).await?;
    let announced = Announced { hotkey, endpoint: settings.announce.unwrap_or_else(|| running.local_addr()), manifest };
    // Publishing may wait for many blocks, and requests come meanwhile.
    let followed = tokio::try_join!(follow(&chain, &subnet, &stop), stand_by(&chain, &announced, &stop));
    shut_down(running).await;
    followed?;
    Ok(Outcome::Done)
}

/// Checks that an address can be listened on, before the model is loaded that is served there.
async fn check_free(address: SocketAddr) -> Result<(), MinerError> {
    TcpListener::bind(address).await.map(drop).map_err(|source| MinerError::Listen { address, source })
}

async fn load(folder: &Path) -> Result<LocalModel, Fault> {
    info!(folder = %folder.display(), "loading the model");
    let (begin, folder) = (Instant::now(), folder.to_owned());
    let loaded = tokio::task::spawn_blocking(move || {
        LocalModel::load(&folder, &mut |done, all| {
            // Weights that were committed are done in no time.
            if begin.elapsed() > Duration::from_secs(2) {
                info!("weights: {done} of {all}");
            }
        })
    });
    let model = loaded.await.map_err(|error| Fault::own(format!("the model could not be made ready: {error}")))??;
    info!(manifest = %model.committed.manifest.id(), seconds = begin.elapsed().as_secs(), "the model is ready");
    Ok(model)
}

async fn shut_down(running: RunningMiner) {
    if running.shutdown().await {
        info!("stopped; every session that was open is finished");
    }
}

/// What stands on chain about this miner.
struct Announced {
    hotkey: Hotkey,
    endpoint: SocketAddr,
    manifest: ManifestId,
}

/// Who may ask, and with how much stake: whoever may set weights.
fn validators(metagraph: &Metagraph) -> Vec<(Hotkey, u64)> {
    let permitted = metagraph.neurons.iter().filter(|neuron| neuron.validator_permit);
    permitted.map(|neuron| (neuron.hotkey, neuron.stake.get())).collect()
}

/// Keeps what the service knows of the chain up to date, until it is told to stop.
async fn follow(chain: &Subtensor, subnet: &KnownSubnet, stop: &CancellationToken) -> Result<(), ChainError> {
    let mut known: Option<(Vec<(Hotkey, u64)>, Instant)> = None;
    while !stop.is_cancelled() {
        match chain.head().await {
            Ok(head) => {
                let is_fresh = known.as_ref().is_some_and(|(_, at)| at.elapsed() < METAGRAPH_AGE);
                if !is_fresh && let Ok(metagraph) = chain.metagraph().await {
                    known = Some((validators(&metagraph), Instant::now()));
                }
                if let Some((validators, _)) = &known {
                    subnet.update(head.epoch, validators);
                }
                tokio::select! {
                    next = chain.head_after(head.block) => if next.is_err() { sleep(PAUSE).await },
                    () = stop.cancelled() => {}
                }
            }
            Err(refusal) if refusal.needs_operator() => return Err(refusal),
            Err(refusal) => {
                warn!("waiting for the chain: {refusal}");
                sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// Keeps what the chain says of the service true, until it is told to stop.
async fn stand_by(chain: &Subtensor, announced: &Announced, stop: &CancellationToken) -> Result<(), ChainError> {
    let mut told = Told::default();
    while !stop.is_cancelled() {
        if let Ok(metagraph) = chain.metagraph().await {
            announce(chain, announced, &metagraph, &mut told, stop).await?;
        }
        tokio::select! {
            () = sleep(METAGRAPH_AGE) => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(())
}

/// What was said already, to say it once.
#[derive(Default)]
struct Told {
    is_announced: bool,
    is_missing: bool,
    is_out_of_force: bool,
}

/// Puts right what the chain says of this miner, should it say anything else: after a start, a move, or when
/// its place was taken and bought again.
async fn announce(
    chain: &Subtensor,
    announced: &Announced,
    metagraph: &Metagraph,
    told: &mut Told,
    stop: &CancellationToken,
) -> Result<(), ChainError> {
    let Announced { hotkey, endpoint, manifest } = *announced;
    let Some(neuron) = metagraph.neuron(&hotkey) else {
        if !std::mem::replace(&mut told.is_missing, true) {
            error!("{}; nobody will ask this miner until then", ChainError::NotRegistered(hotkey));
        }
        return Ok(());
    };
    told.is_missing = false;
    let Neuron { endpoint: stated, manifest: declared, .. } = neuron;
    if *stated != Some(endpoint) {
        persist(chain, "publishing the endpoint", stop, || chain.serve_endpoint(hotkey, endpoint)).await?;
    }
    if *declared != Some(manifest) {
        persist(chain, "declaring the manifest", stop, || chain.declare_manifest(hotkey, manifest)).await?;
    }
    if !std::mem::replace(&mut told.is_announced, true) && !stop.is_cancelled() {
        info!(%endpoint, %manifest, "on chain");
    }
    let Ok(in_force) = chain.manifests().await else { return Ok(()) };
    let is_out_of_force = !in_force.contains(&manifest);
    if is_out_of_force && !std::mem::replace(&mut told.is_out_of_force, is_out_of_force) {
        warn!(%manifest, "this manifest is not in force on the subnet: waiting for its owner to publish it");
    }
    told.is_out_of_force = is_out_of_force;
    Ok(())
}
