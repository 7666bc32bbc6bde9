//! A node for tests: the devnet behind the JSON-RPC of a substrate node, in the real chain's own dialect.
//!
//! It serves recorded metadata of the real chain, and answers as that chain would: storage by key, blocks with
//! extrinsics and events, a pool that checks signature, nonce, era, genesis and versions of each extrinsic and refuses in
//! the chain's own codes. A client for the network is tested against it unchanged. What a devnet alone can do, making
//! blocks or giving coins, has methods of its own.
//!
//! ```text
//! door        programs of this machine, no web pages
//!  |
//! rpc ------> ledger ------> block, pool        what is in which block, what is final, what waits
//!               |   \------> extrinsic, call    bytes read and checked against the runtime
//!               |   \------> execute            calls carried out on the devnet, and their events
//!               \----------> storage            the devnet's state as keys and values
//!  runtime: names, indexes, types and hashers from the metadata, for all of them
//! ```
//!
//! Not a consensus node: there is one author, headers carry digests where others carry roots of tries, and nothing is
//! paid for.

mod block;
mod call;
mod door;
mod error;
mod execute;
mod extrinsic;
mod ledger;
mod pool;
mod rpc;
mod runtime;
mod storage;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jsonrpsee::{
    Methods,
    server::{BatchRequestConfig, Server, ServerConfig, ServerHandle},
};
use tokio::task::JoinHandle;
use tower::ServiceBuilder;

use crate::{devnet::Devnet, types::BlockNumber};
use door::DoorLayer;
use ledger::Ledger;
use rpc::Context;

pub use error::NodeError;
pub use runtime::Runtime;

/// Bytes of a request: keys of a whole metagraph at once.
const REQUEST_BYTES_MAX: u32 = 8 * 1024 * 1024;
/// Bytes of an answer: the storage of a whole metagraph, or metadata.
const RESPONSE_BYTES_MAX: u32 = 32 * 1024 * 1024;
const CONNECTIONS_MAX: u32 = 512;
/// Subscriptions of one connection.
const SUBSCRIPTIONS_MAX: u32 = 1_024;
/// Requests in one batch.
const BATCH_MAX: u32 = 256;

/// How a node runs.
#[derive(Debug)]
pub struct NodeOptions {
    /// What it serves the devnet as.
    pub runtime: Runtime,
    /// How often a block is made; without, blocks come by [`RunningNode::step`] and `devnet_step` alone.
    pub block_time: Option<Duration>,
    /// How many blocks are on top of a block when it becomes final.
    pub finality_lag: u64,
    /// What `system_chain` answers.
    pub chain: String,
    /// Where the devnet is saved at the start and with each block, before anybody sees it: killed at any moment,
    /// a node that loads it goes on without having taken anything back.
    pub state: Option<PathBuf>,
}

impl NodeOptions {
    /// The recorded runtime; blocks on demand, which are final at once.
    ///
    /// # Errors
    /// [`NodeError::Metadata`] if the recorded metadata is damaged.
    pub fn new() -> Result<Self, NodeError> {
        let chain = "Assay devnet".to_owned();
        Ok(Self { runtime: Runtime::recorded()?, block_time: None, finality_lag: 0, chain, state: None })
    }
}

/// What becomes of the extrinsics of a block that is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// They wait again, and come into the next block.
    Return,
    /// They are gone.
    Vanish,
}

/// Serves devnets.
#[derive(Clone, Copy, Debug)]
pub struct Node;

impl Node {
    /// Serves a devnet on a loopback address, over WebSocket and HTTP alike; port 0 takes a free one. Requests that come
    /// from web pages, or ask for a host of another name, are refused. From here on the node makes the blocks: what is done to the devnet beside it is seen from the next block on.
    ///
    /// # Errors
    /// [`NodeError::NotLoopback`], [`NodeError::Listen`]; [`NodeError::State`] if the devnet cannot be saved;
    /// [`NodeError::Item`] if the runtime has no place for what it holds.
    pub async fn start(devnet: Devnet, listen: SocketAddr, options: NodeOptions) -> Result<RunningNode, NodeError> {
        if !listen.ip().is_loopback() {
            return Err(NodeError::NotLoopback(listen));
        }
        let is_kept = options.state.is_some();
        let ledger = Ledger::new(devnet, &Arc::new(options.runtime), options.finality_lag, options.state)?;
        let context = Arc::new(Context::new(ledger, options.chain));
        let module = rpc::module(Arc::clone(&context))
            .map_err(|error| NodeError::Listen { address: listen, why: error.to_string() })?;
        let methods = Methods::from(module);
        // A node that nobody can reach has saved nothing, and whoever reaches it sees nothing that is not saved.
        let save = || if is_kept { context.ledger().save() } else { Ok(()) };
        let (address, server) = serve(listen, methods.clone(), save).await?;
        let clock = options.block_time.map(|time| tokio::spawn(make_blocks(Arc::clone(&context), time)));
        Ok(RunningNode { address, context, methods, server: Mutex::new(Some(server)), clock })
    }
}

/// Listens, does what has to be done before anybody is answered, and serves.
async fn serve(
    listen: SocketAddr,
    methods: Methods,
    before: impl FnOnce() -> Result<(), NodeError>,
) -> Result<(SocketAddr, ServerHandle), NodeError> {
    let failed = |error: std::io::Error| NodeError::Listen { address: listen, why: error.to_string() };
    let config = ServerConfig::builder()
        .max_request_body_size(REQUEST_BYTES_MAX)
        .max_response_body_size(RESPONSE_BYTES_MAX)
        .max_connections(CONNECTIONS_MAX)
        .max_subscriptions_per_connection(SUBSCRIPTIONS_MAX)
        .set_batch_request_config(BatchRequestConfig::Limit(BATCH_MAX))
        .build();
    let door = ServiceBuilder::new().layer(DoorLayer);
    let server = Server::builder().set_config(config).set_http_middleware(door).build(listen).await.map_err(failed)?;
    let address = server.local_addr().map_err(failed)?;
    before()?;
    Ok((address, server.start(methods)))
}

/// Makes a block at each tick. A machine that was asleep does not make up for it.
async fn make_blocks(context: Arc<Context>, time: Duration) {
    let mut clock = tokio::time::interval(time.max(Duration::from_millis(1)));
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // The first tick is now.
    clock.tick().await;
    loop {
        clock.tick().await;
        let mut ledger = context.ledger();
        if ledger.is_standing_still() {
            continue;
        }
        if let Err(error) = ledger.make_block() {
            tracing::error!(%error, "the devnet makes no more blocks");
            return;
        }
    }
}

/// A node that serves until it is dropped or stopped.
#[derive(Debug)]
pub struct RunningNode {
    address: SocketAddr,
    context: Arc<Context>,
    methods: Methods,
    server: Mutex<Option<ServerHandle>>,
    clock: Option<JoinHandle<()>>,
}

impl RunningNode {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it listens, for a client.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Waits until the clock stands, which only a failure brings about; the log says which.
    pub async fn broken(&mut self) {
        match &mut self.clock {
            // Whichever way it ended.
            Some(clock) => drop(clock.await),
            None => std::future::pending().await,
        }
    }

    /// Makes blocks, out of what waits. Which block is the newest then.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the runtime has no place for what happened.
    pub fn step(&self, blocks: u64) -> Result<BlockNumber, NodeError> {
        let mut ledger = self.context.ledger();
        for _ in 0..blocks {
            ledger.make_block()?;
        }
        Ok(BlockNumber::new(ledger.head().number()))
    }

    /// Takes back the newest block, and puts an empty one in its place.
    ///
    /// # Errors
    /// [`NodeError::Final`] if the block is final already.
    pub fn retract(&self, fate: Fate) -> Result<(), NodeError> {
        self.context.ledger().retract(fate).map(drop)
    }

    /// Lets the next block bring another runtime. Extrinsics that were signed for the old one are invalid then.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the runtime has no place for what the devnet holds.
    pub fn upgrade(&self, runtime: Runtime) -> Result<(), NodeError> {
        self.context.ledger().upgrade(Arc::new(runtime))
    }

    /// Lets the clock make no blocks, as a node that lost its peers, or goes on. Blocks on demand are made still.
    pub fn stand_still(&self, still: bool) {
        self.context.ledger().stand_still(still);
    }

    /// Drops all connections and takes no new ones.
    pub async fn disconnect(&self) {
        let server = self.server.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(server) = server {
            // It fails where the server has stopped already.
            let _ = server.stop();
            server.stopped().await;
        }
    }

    /// Takes connections again, at the same address, after [`RunningNode::disconnect`].
    ///
    /// # Errors
    /// [`NodeError::Listen`] if the address was taken by somebody else.
    pub async fn reconnect(&self) -> Result<(), NodeError> {
        self.disconnect().await;
        let (_, server) = serve(self.address, self.methods.clone(), || Ok(())).await?;
        *self.server.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
        Ok(())
    }

    /// Stops, and waits until it has.
    pub async fn stop(self) {
        self.disconnect().await;
    }
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        if let Some(clock) = &self.clock {
            clock.abort();
        }
        if let Some(server) = self.server.get_mut().unwrap_or_else(PoisonError::into_inner) {
            let _ = server.stop();
        }
    }
}
