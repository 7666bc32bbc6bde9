//! Connections to the chain's nodes: one at a time, another when it breaks.

use std::{
    collections::HashMap,
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parity_scale_codec::{Decode, Encode};
use subxt::{
    config::{RpcConfigFor, SubstrateConfig},
    rpcs::{self, LegacyRpcMethods, RpcClient},
    utils::H256,
};
use tokio::{sync::Mutex, time::timeout};

use super::{networks::FINNEY_GENESIS, runtime::Runtime};
use crate::{
    error::ChainError,
    types::{BlockNumber, GenesisHash},
};

pub(super) type Methods = LegacyRpcMethods<RpcConfigFor<SubstrateConfig>>;

/// Rounds through all endpoints before none is said to answer.
const ROUNDS: u32 = 4;
/// How often one question is asked, each time on another connection.
const TRIES: u32 = 3;
const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A public node may take its time with a large answer, and no longer.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// The pause behind the first round; each later one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// More blocks, and epochs, than any chain will have: up to here, sums of them are exact.
const BLOCKS_MAX: u64 = 1 << 48;
/// A method that only a chain has whose time is moved by hand.
const STEP_METHOD: &str = "devnet_step";

/// A connection to one node.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) endpoint: String,
    pub(super) methods: Methods,
    /// How old its newest final block may be; none where time may stand still.
    age_max: Option<Duration>,
}

/// The nodes of one chain, and the connection to one of them. Runtimes are kept by version.
#[derive(Debug)]
pub(super) struct Links {
    endpoints: Vec<String>,
    expected: Option<GenesisHash>,
    age_max: Option<Duration>,
    current: Mutex<Current>,
    runtimes: Mutex<HashMap<u32, Arc<Runtime>>>,
}

#[derive(Debug, Default)]
struct Current {
    link: Option<Arc<Link>>,
    /// The endpoint that comes next.
    turn: usize,
    /// Which chain this is, once a node has answered.
    genesis: Option<GenesisHash>,
}

impl Links {
    pub(super) fn new(endpoints: Vec<String>, expected: Option<GenesisHash>, age_max: Option<Duration>) -> Self {
        Self { endpoints, expected, age_max, current: Mutex::default(), runtimes: Mutex::default() }
    }

    /// Which chain this is.
    ///
    /// # Errors
    /// As [`Links::link`].
    pub(super) async fn genesis(&self) -> Result<GenesisHash, ChainError> {
        let link = self.link().await?;
        let known = self.current.lock().await.genesis;
        known.ok_or_else(|| unreachable(&link.endpoint, "it does not say which chain it serves"))
    }

    /// The connection that stands, or a new one.
    ///
    /// # Errors
    /// [`ChainError::Unreachable`], [`ChainError::Behind`] when no endpoint can be used, after some
    /// rounds; [`ChainError::WrongGenesis`], [`ChainError::MainNetwork`] at once.
    pub(super) async fn link(&self) -> Result<Arc<Link>, ChainError> {
        let mut current = self.current.lock().await;
        if let Some(link) = &current.link {
            return Ok(Arc::clone(link));
        }
        let mut last = unreachable("the chain", "no endpoint is given");
        for round in 0..ROUNDS {
            for _ in 0..self.endpoints.len() {
                let endpoint = &self.endpoints[current.turn % self.endpoints.len()];
                current.turn = current.turn.wrapping_add(1);
                match self.connect(endpoint, current.genesis.or(self.expected)).await {
                    Ok((link, genesis)) => {
                        let link = Arc::new(link);
                        (current.link, current.genesis) = (Some(Arc::clone(&link)), Some(genesis));
                        return Ok(link);
                    }
                    Err(error) if error.is_passing() => last = error,
                    Err(error) => return Err(error),
                }
            }
            if round + 1 < ROUNDS {
                tracing::info!(%last, round, "no endpoint answers; trying again");
                tokio::time::sleep(jittered(PAUSE * 2_u32.pow(round))).await;
            }
        }
        Err(last)
    }

    /// Gives a connection up, so that the next question goes to the next endpoint.
    pub(super) async fn give_up(&self, link: &Arc<Link>) {
        let mut current = self.current.lock().await;
        if current.link.as_ref().is_some_and(|standing| Arc::ptr_eq(standing, link)) {
            current.link = None;
        }
    }

    /// What to say of an answer that no node should give. The node that is asked now is given up for it, so that
    /// the next question goes to another.
    pub(super) async fn refuse(&self, what: &str, why: String) -> ChainError {
        match self.link().await {
            Ok(link) => {
                self.give_up(&link).await;
                bad_answer(&link, what, why)
            }
            Err(error) => error,
        }
    }

    /// Whether a chain may have so many blocks, or epochs, as the node says.
    ///
    /// # Errors
    /// [`ChainError::BadAnswer`], for which the node is given up.
    pub(super) async fn check_number(&self, what: &str, number: u64) -> Result<(), ChainError> {
        match absurd(number) {
            Some(why) => Err(self.refuse(what, why).await),
            None => Ok(()),
        }
    }

    /// Asks a node, and another one if the connection breaks.
    ///
    /// # Errors
    /// [`Trouble::Refused`] with what the node refuses, [`Trouble::Chain`] if none can be asked.
    pub(super) async fn ask<T, F>(&self, what: &str, question: impl Fn(Methods) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, rpcs::Error>>,
    {
        let mut last = None;
        for _ in 0..TRIES {
            let link = self.link().await?;
            let why = match timeout(ANSWER_TIME, question(link.methods.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(rpcs::Error::User(error))) => {
                    return Err(Trouble::Refused { endpoint: link.endpoint.clone(), error });
                }
                Ok(Err(error @ (rpcs::Error::Deserialization(_) | rpcs::Error::Decode(_)))) => {
                    self.give_up(&link).await;
                    return Err(bad_answer(&link, what, error.to_string()).into());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("no answer about {what} within {} s", ANSWER_TIME.as_secs()),
            };
            tracing::info!(endpoint = link.endpoint, why, "the connection is given up");
            self.give_up(&link).await;
            last = Some(unreachable(&link.endpoint, &why));
        }
        Err(last.unwrap_or_else(|| unreachable("the chain", "it was not asked")).into())
    }

    /// The runtime that a block was made by, checked for what is needed of it.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`], or as [`Links::ask`].
    pub(super) async fn runtime(&self, at: H256) -> Result<Arc<Runtime>, Trouble> {
        let version =
            self.ask("its runtime version", |node| async move { node.state_get_runtime_version(Some(at)).await });
        let version = version.await?;
        if let Some(known) = self.runtimes.lock().await.get(&version.spec_version) {
            return Ok(Arc::clone(known));
        }
        let bytes = self.ask("its metadata", |node| metadata(node, at)).await?;
        let runtime = Runtime::read(&bytes, version.spec_version, version.transaction_version);
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(why) => return Err(self.refuse("its metadata", why).await.into()),
        };
        runtime.check_compat()?;
        tracing::info!(spec_version = runtime.spec_version, "the runtime's metadata was read");
        let runtime = Arc::new(runtime);
        self.runtimes.lock().await.insert(runtime.spec_version, Arc::clone(&runtime));
        Ok(runtime)
    }

    async fn connect(&self, endpoint: &str, expected: Option<GenesisHash>) -> Result<(Link, GenesisHash), ChainError> {
        let lost = |why: String| unreachable(endpoint, &why);
        let within = format!("no answer within {} s", CONNECT_TIME.as_secs());
        let client = timeout(CONNECT_TIME, RpcClient::from_insecure_url(endpoint)).await;
        let client = client.map_err(|_| lost(within.clone()))?.map_err(|error| lost(error.to_string()))?;
        let methods = Methods::new(client.clone());
        let genesis = timeout(CONNECT_TIME, methods.genesis_hash()).await;
        let genesis = genesis.map_err(|_| lost(within.clone()))?.map_err(|error| lost(error.to_string()))?;
        let found = GenesisHash::new(genesis.0);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(ChainError::WrongGenesis { endpoint: endpoint.to_owned(), expected, found });
        }
        if found == FINNEY_GENESIS && self.expected != Some(found) {
            return Err(ChainError::MainNetwork { endpoint: endpoint.to_owned() });
        }
        let stepped = timeout(CONNECT_TIME, has_method(&client, STEP_METHOD)).await;
        let stepped = stepped.map_err(|_| lost(within.clone()))?.map_err(|error| lost(error.to_string()))?;
        let age_max = self.age_max.filter(|_| !stepped);
        let link = Link { endpoint: endpoint.to_owned(), methods, age_max };
        timeout(CONNECT_TIME, link.check_age()).await.map_err(|_| lost(within))??;
        Ok((link, found))
    }
}

impl Link {
    /// Whether the newest final block is of the present.
    async fn check_age(&self) -> Result<(), ChainError> {
        if self.age_max.is_none() {
            return Ok(());
        }
        let lost = |error: rpcs::Error| unreachable(&self.endpoint, &error.to_string());
        let hash = self.methods.chain_get_finalized_head().await.map_err(lost)?;
        let header = self.methods.chain_get_header(Some(hash)).await.map_err(lost)?;
        let key = frame_decode::storage::encode_storage_key_prefix("Timestamp", "Now");
        let now = self.methods.state_get_storage(&key, Some(hash)).await.map_err(lost)?;
        let now = now.and_then(|bytes| u64::decode(&mut bytes.as_slice()).ok()).unwrap_or(0);
        self.check_time(header.map_or(0, |header| header.number), now)
    }

    /// Whether a chain may have so many blocks, or epochs, as the node says.
    ///
    /// # Errors
    /// [`ChainError::BadAnswer`].
    pub(super) fn check_number(&self, what: &str, number: u64) -> Result<(), ChainError> {
        absurd(number).map_or(Ok(()), |why| Err(bad_answer(self, what, why)))
    }

    /// Whether a block of this time, in milliseconds since 1970, is of the present.
    ///
    /// # Errors
    /// [`ChainError::Behind`].
    pub(super) fn check_time(&self, block: u64, time_ms: u64) -> Result<(), ChainError> {
        let Some(age_max) = self.age_max else { return Ok(()) };
        if age(time_ms) <= age_max { Ok(()) } else { Err(self.behind(block, time_ms)) }
    }

    /// That the node's newest final block is this one, of this time in milliseconds since 1970.
    pub(super) fn behind(&self, block: u64, time_ms: u64) -> ChainError {
        let (endpoint, age_s) = (self.endpoint.clone(), age(time_ms).as_secs());
        ChainError::Behind { endpoint, block: BlockNumber::new(block), age_s }
    }
}

/// Why a question has no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The node answers with an error.
    Refused {
        /// Which node.
        endpoint: String,
        /// What it says.
        error: rpcs::UserError,
    },
    /// Anything else, said already as the caller will see it.
    Chain(ChainError),
}

impl From<ChainError> for Trouble {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

impl Trouble {
    /// For a question that no node should refuse.
    pub(super) fn about(self, what: &str) -> ChainError {
        match self {
            Self::Refused { endpoint, error } => {
                ChainError::BadAnswer { endpoint, what: what.to_owned(), why: words(&error) }
            }
            Self::Chain(error) => error,
        }
    }

    /// For a question about the state of a block, which a node may have pruned.
    pub(super) fn about_block(self, what: &str, block: u64) -> ChainError {
        match self {
            Self::Refused { endpoint, error } if is_pruned(&words(&error)) => {
                ChainError::Forgotten { endpoint, block: BlockNumber::new(block) }
            }
            other => other.about(what),
        }
    }
}

/// How long ago a block of this time was.
fn age(time_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(time_ms))
}

/// Why a number of a block or an epoch is none, if so.
fn absurd(number: u64) -> Option<String> {
    (number > BLOCKS_MAX).then(|| format!("it is said to be number {number}, which no chain has reached"))
}

/// The message of an error and what stands beside it.
pub(super) fn words(error: &rpcs::UserError) -> String {
    let data = error.data.as_ref().map(|data| format!(": {}", data.get().trim_matches('"')));
    format!("{}{}", error.message, data.unwrap_or_default())
}

/// How nodes say that the state of a block is gone.
fn is_pruned(words: &str) -> bool {
    let words = words.to_ascii_lowercase();
    ["state already discarded", "unknown block", "unknownblock", "header was not found"]
        .iter()
        .any(|sign| words.contains(sign))
}

pub(super) fn unreachable(endpoint: &str, why: &str) -> ChainError {
    ChainError::Unreachable { endpoint: endpoint.to_owned(), why: why.to_owned() }
}

pub(super) fn bad_answer(link: &Link, what: &str, why: String) -> ChainError {
    ChainError::BadAnswer { endpoint: link.endpoint.clone(), what: what.to_owned(), why }
}

/// The newest metadata that both sides know, from the runtime itself or, where that is too old to be
/// asked, from the node.
async fn metadata(node: Methods, at: H256) -> Result<Vec<u8>, rpcs::Error> {
    const NEWEST: u32 = 16;
    let versions = node.state_call("Metadata_metadata_versions", None, Some(at)).await;
    let versions = versions.ok().and_then(|bytes| Vec::<u32>::decode(&mut bytes.as_slice()).ok());
    if let Some(version) = versions.into_iter().flatten().filter(|version| *version <= NEWEST).max() {
        let answer = node.state_call("Metadata_metadata_at_version", Some(&version.encode()), Some(at)).await?;
        let answer = Option::<Vec<u8>>::decode(&mut answer.as_slice()).map_err(rpcs::Error::Decode)?;
        if let Some(bytes) = answer {
            return Ok(bytes);
        }
    }
    Ok(node.state_get_metadata(Some(at)).await?.into_raw())
}

async fn has_method(client: &RpcClient, name: &str) -> Result<bool, rpcs::Error> {
    let answer: Result<serde_json::Value, _> = client.request("rpc_methods", rpcs::rpc_params![]).await;
    match answer {
        Ok(answer) => {
            let methods = answer.get("methods").and_then(|methods| methods.as_array());
            Ok(methods.is_some_and(|methods| methods.iter().any(|method| method.as_str() == Some(name))))
        }
        // A node need not say what it can do.
        Err(rpcs::Error::User(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Between half and one and a half of it, so that many clients do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness all come back at once, which works too.
    let _ = getrandom::fill(&mut random);
    pause / 2 + pause * u32::from(u16::from_le_bytes(random)) / u32::from(u16::MAX)
}
