//! A subnet of a Subtensor chain, through a node's JSON-RPC.
//!
//! The same client speaks to a devnet, a local node, the test network and the main network. It compiles
//! nothing of the chain in: where state lies and how calls are written is read from the metadata of the
//! runtime that made the block ([`runtime`]), so an upgrade in mid-run is a new set of tables and no more,
//! or an error that names what is missing.
//!
//! - Reads are of the newest final block, all of one question at one block hash, and kept until the next.
//! - Writes are checked against the newest block before they are submitted, signed for a few blocks, and
//!   waited for until they are final ([`submit`]). What they were to do is then read back.

mod calls;
mod follow;
mod items;
mod journal;
mod link;
pub mod networks;
mod past;
mod refusal;
mod runtime;
mod snapshot;
pub mod ss58;
mod state;
mod submit;
mod timelock;
#[cfg(test)]
mod vectors;
mod writes;

use std::{collections::HashMap, fmt, net::SocketAddr, ops::RangeInclusive, path::PathBuf, sync::Arc, time::Duration};

use assay_commitments::{Epoch, Hotkey, ManifestId};
use subxt_signer::sr25519::Keypair;
use tokio::sync::Mutex;

use crate::{
    api::{Chain, Hyperparameters, Placement, StoredWeights},
    error::ChainError,
    history::History,
    metagraph::Metagraph,
    types::{
        BlockNumber, EpochKey, EpochKeyHash, EpochKeyRecord, GenesisHash, Head, NetUid, Network, RequestsDigest, Uid,
    },
};
use follow::{Follower, Tip};
use journal::Journal;
use link::{Links, Trouble};
use networks::NetworkName;
use past::Past;
use snapshot::{Clock, Subnet};
use state::At;
use submit::Signer;

/// Which chain and subnet to speak to, and for whom.
#[derive(Clone)]
pub struct Connection {
    /// Nodes, in the order in which they are tried: `ws://` and `wss://` addresses.
    pub endpoints: Vec<String>,
    /// Which chain must answer. The main network answers only where it is named here.
    pub genesis: Option<GenesisHash>,
    /// Which subnet.
    pub netuid: NetUid,
    /// How old the newest final block may be. A chain whose time is moved by hand is of any age.
    pub age_max: Option<Duration>,
    /// The hotkeys that this process signs for.
    pub signers: Vec<Keypair>,
    /// Where commits of weights are written down until they are revealed. Without a file they are lost
    /// with the process, and so are weights that wait for their reveal by it.
    pub journal: Option<PathBuf>,
}

impl Connection {
    /// To a network by name, signing for nobody.
    pub fn to(network: &NetworkName, netuid: NetUid) -> Self {
        Self {
            endpoints: network.endpoints(),
            genesis: network.genesis(),
            netuid,
            age_max: network.age_max(),
            signers: Vec::new(),
            journal: None,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signers: Vec<String> = self.signers.iter().map(|key| hex::encode(key.public_key().0)).collect();
        f.debug_struct("Connection")
            .field("endpoints", &self.endpoints)
            .field("genesis", &self.genesis)
            .field("netuid", &self.netuid)
            .field("age_max", &self.age_max)
            .field("signers", &signers)
            .field("journal", &self.journal)
            .finish()
    }
}

/// A subnet of a chain, seen through its nodes. Clones share the connection.
#[derive(Clone, Debug)]
pub struct Subtensor {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    links: Arc<Links>,
    follower: Follower,
    network: Network,
    signers: HashMap<Hotkey, Signer>,
    journal: Journal,
    /// What was read of the newest final block. Whoever asks for more of it waits for who asks already.
    seen: Mutex<Option<Seen>>,
    past: Past,
}

/// What was read of one block.
#[derive(Clone, Debug)]
struct Seen {
    tip: Tip,
    at: At,
    clock: Clock,
    /// The block's time, in milliseconds since 1970.
    now_ms: u64,
    metagraph: Option<Metagraph>,
    settings: Option<Hyperparameters>,
}

/// What is wanted of a block.
#[derive(Clone, Copy, Debug)]
enum Want {
    Clock,
    Settings,
    Metagraph,
}

impl Subtensor {
    /// Connects: asks a node which chain it serves, reads the runtime's metadata and checks that all that
    /// is needed of it is there, and begins to follow finalised heads on the calling runtime.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`], [`ChainError::WrongGenesis`], [`ChainError::MainNetwork`],
    /// [`ChainError::Behind`], [`ChainError::Incompatible`], [`ChainError::NoSubnet`],
    /// [`ChainError::Journal`], [`ChainError::DamagedJournal`].
    pub async fn connect(connection: Connection) -> Result<Self, ChainError> {
        let Connection { endpoints, genesis, netuid, age_max, signers, journal } = connection;
        let journal = Journal::open(journal)?;
        let others = endpoints.len().saturating_sub(1);
        let links = Arc::new(Links::new(endpoints, genesis, age_max));
        let genesis = links.genesis().await?;
        let follower = Follower::start(Arc::clone(&links));
        let signers = signers.into_iter().map(Signer::new).map(|signer| (signer.hotkey(), signer)).collect();
        let inner = Inner {
            links,
            follower,
            network: Network { genesis, netuid },
            signers,
            journal,
            seen: Mutex::default(),
            past: Past::default(),
        };
        let subtensor = Self { inner: Arc::new(inner) };
        let mut head = subtensor.head().await;
        // An endpoint whose answers make no sense was given up; the next one may do.
        for _ in 0..others {
            if matches!(head, Err(ChainError::BadAnswer { .. })) {
                head = subtensor.head().await;
            }
        }
        head.map(|_| subtensor)
    }

    /// The hotkeys that can be signed for.
    pub fn hotkeys(&self) -> Vec<Hotkey> {
        self.inner.signers.keys().copied().collect()
    }

    fn signer(&self, hotkey: Hotkey) -> Result<&Signer, ChainError> {
        self.inner.signers.get(&hotkey).ok_or(ChainError::NotSigner(hotkey))
    }

    fn subnet<'a>(&self, at: &'a At) -> Subnet<'a> {
        Subnet { at, netuid: self.inner.network.netuid }
    }

    /// The newest final block.
    async fn newest_final(&self) -> Result<At, ChainError> {
        Ok(self.seen(Want::Clock).await?.at)
    }

    /// The newest block, which may still be taken back. What is submitted next follows on it.
    async fn newest(&self) -> Result<At, ChainError> {
        let what = "its newest block";
        let links = &self.inner.links;
        let hash = links.ask(what, |node| async move { node.chain_get_block_hash(None).await }).await;
        let hash = hash.map_err(|trouble| trouble.about(what))?;
        let header = links.ask(what, |node| async move { node.chain_get_header(hash).await }).await;
        let header = header.map_err(|trouble| trouble.about(what))?;
        let newest = hash.zip(header);
        let (hash, header) = newest.ok_or_else(|| link::unreachable("the node", "it has no newest block"))?;
        links.check_number(what, header.number).await?;
        At::new(links, header.number, hash).await
    }

    /// What is known of the newest final block, with what is wanted read if it was not yet.
    async fn seen(&self, want: Want) -> Result<Seen, ChainError> {
        let mut seen = self.inner.seen.lock().await;
        let tip = self.inner.follower.tip().await?;
        let mut known = if let Some(known) = seen.take().filter(|seen| seen.tip == tip) {
            known
        } else {
            let at = At::new(&self.inner.links, tip.number, tip.hash).await?;
            let (clock, now_ms) = self.subnet(&at).clock().await?;
            Seen { tip, at, clock, now_ms, metagraph: None, settings: None }
        };
        if matches!(want, Want::Settings) && known.settings.is_none() {
            known.settings = Some(Box::pin(self.subnet(&known.at).hyperparameters()).await?);
        }
        if matches!(want, Want::Metagraph) && known.metagraph.is_none() {
            known.metagraph = Some(Box::pin(self.subnet(&known.at).metagraph()).await?);
        }
        *seen = Some(known.clone());
        Ok(known)
    }

    async fn head_at(&self, seen: &Seen) -> Result<Head, ChainError> {
        let link = self.inner.links.link().await?;
        if let Err(behind) = link.check_time(seen.tip.number, seen.now_ms) {
            // Another endpoint may be in the present.
            self.inner.links.give_up(&link).await;
            return Err(behind);
        }
        Ok(seen.clock.head(seen.tip.number))
    }
}

// Writes go through many states. They lie on the heap, so that callers' futures stay small.
impl Chain for Subtensor {
    fn network(&self) -> Network {
        self.inner.network
    }

    async fn reach(&self) -> Result<(), ChainError> {
        let what = "whether it is there";
        let links = &self.inner.links;
        match links.ask(what, |node| async move { node.chain_get_finalized_head().await }).await {
            // Whoever refuses is there.
            Ok(_) | Err(Trouble::Refused { .. }) => Ok(()),
            Err(Trouble::Chain(error)) => Err(error),
        }
    }

    async fn head(&self) -> Result<Head, ChainError> {
        let seen = self.seen(Want::Clock).await?;
        self.head_at(&seen).await
    }

    async fn head_after(&self, block: BlockNumber) -> Result<Head, ChainError> {
        self.inner.follower.wait_for(|tip| tip.number > block.get()).await?;
        self.head().await
    }

    async fn metagraph(&self) -> Result<Metagraph, ChainError> {
        let seen = self.seen(Want::Metagraph).await?;
        seen.metagraph.ok_or_else(|| link::unreachable("the node", "it has no metagraph"))
    }

    async fn serve_endpoint(&self, signer: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
        Box::pin(self.write_endpoint(signer, endpoint)).await
    }

    async fn manifests(&self) -> Result<Vec<ManifestId>, ChainError> {
        let at = self.newest_final().await?;
        let (_, commitment) = self.subnet(&at).registry().await?;
        Ok(commitment.map(|(_, record)| record.registry).unwrap_or_default())
    }

    async fn publish_manifests(&self, signer: Hotkey, manifests: &[ManifestId]) -> Result<(), ChainError> {
        Box::pin(self.write_manifests(signer, manifests)).await
    }

    async fn declare_manifest(&self, signer: Hotkey, manifest: ManifestId) -> Result<(), ChainError> {
        Box::pin(self.write_manifest(signer, manifest)).await
    }

    async fn publish_epoch_key(&self, signer: Hotkey, epoch: Epoch, hash: EpochKeyHash) -> Result<(), ChainError> {
        Box::pin(self.write_key_hash(signer, epoch, hash)).await
    }

    async fn reveal_epoch_key(
        &self,
        signer: Hotkey,
        epoch: Epoch,
        key: EpochKey,
        requests: RequestsDigest,
    ) -> Result<(), ChainError> {
        Box::pin(self.write_key(signer, (epoch, key, requests))).await
    }

    async fn epoch_key(&self, validator: Hotkey, epoch: Epoch) -> Result<Option<EpochKeyRecord>, ChainError> {
        Box::pin(self.read_epoch_key(validator, epoch)).await
    }

    async fn hyperparameters(&self) -> Result<Hyperparameters, ChainError> {
        let seen = self.seen(Want::Settings).await?;
        seen.settings.ok_or_else(|| link::unreachable("the node", "it has no settings of the subnet"))
    }

    async fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        let at = self.newest_final().await?;
        self.subnet(&at).weights_of(hotkey).await
    }

    async fn set_weights(
        &self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        Box::pin(self.write_weights(signer, weights, version_key)).await
    }

    async fn reveal_weights(&self, signer: Hotkey) -> Result<usize, ChainError> {
        Box::pin(self.write_reveals(signer)).await
    }

    async fn history(&self, epochs: RangeInclusive<Epoch>, hotkeys: &[Hotkey]) -> Result<History, ChainError> {
        Box::pin(self.read_history(epochs, hotkeys)).await
    }
}
