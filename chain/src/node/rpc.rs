//! The methods of a substrate node, and the devnet's own.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assay_commitments::{Epoch, Hotkey};
use jsonrpsee::{
    PendingSubscriptionSink, RpcModule, SubscriptionMessage, SubscriptionSink,
    core::RegisterMethodError,
    types::{ErrorObjectOwned, Params},
};
use parity_scale_codec::{Compact, Decode, Encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use subxt::utils::AccountId32;
use tokio::sync::{broadcast, mpsc};

use super::{
    block::{Block, Hash, Header},
    error::{NodeError, Refusal},
    ledger::{Ledger, Notice, hexadecimal},
    runtime::Runtime,
    storage::Storage,
};
use crate::{
    error::ChainError,
    types::{Coldkey, Rao},
};

/// Blocks that are made at one request.
const STEPS_MAX: u64 = 100_000;
/// Keys of a page, as substrate bounds them.
const PAGE_MAX: u32 = 1_000;
/// Keys of one query or subscription.
const KEYS_MAX: usize = 16_384;

const INVALID_PARAMS: i32 = -32_602;
/// What the devnet's own methods answer when the devnet refuses.
const DEVNET_REFUSES: i32 = 9_000;
const STATE_ERROR: i32 = 4_003;

type Answer = Result<Value, ErrorObjectOwned>;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Context {
    ledger: Mutex<Ledger>,
    chain: String,
}

impl Context {
    pub(super) const fn new(ledger: Ledger, chain: String) -> Self {
        Self { ledger: Mutex::new(ledger), chain }
    }

    /// A block is put together first and added last, so a panic leaves the ledger whole: a poisoned lock is still
    /// good.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes as substrate's JSON has them: hexadecimal behind `0x`.
#[derive(Clone, Debug)]
struct Bytes(Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let digits = text.strip_prefix("0x").ok_or_else(|| serde::de::Error::custom("bytes begin with 0x"))?;
        hex::decode(digits).map(Self).map_err(serde::de::Error::custom)
    }
}

/// 32 bytes.
#[derive(Clone, Copy, Debug)]
struct Bytes32(Hash);

impl<'de> Deserialize<'de> for Bytes32 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = Bytes::deserialize(deserializer)?.0;
        <[u8; 32]>::try_from(bytes).map(Self).map_err(|_| serde::de::Error::custom("32 bytes are asked for"))
    }
}

/// A number, in JSON's form or in hexadecimal.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum NumberOrHex {
    Number(u64),
    Hex(String),
}

impl NumberOrHex {
    fn number(&self) -> Result<u64, ErrorObjectOwned> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Hex(text) => {
                let number = text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
                number.ok_or_else(|| invalid("a block number is a number, or hexadecimal behind 0x"))
            }
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    Many(Vec<NumberOrHex>),
    One(NumberOrHex),
}

fn invalid(why: &str) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(INVALID_PARAMS, why.to_owned(), None::<()>)
}

fn state_error(why: &str) -> ErrorObjectOwned {
    ErrorObjectOwned::owned(STATE_ERROR, format!("Client error: {why}"), None::<()>)
}

impl From<NodeError> for ErrorObjectOwned {
    fn from(error: NodeError) -> Self {
        Self::owned(DEVNET_REFUSES, error.to_string(), None::<()>)
    }
}

impl From<ChainError> for ErrorObjectOwned {
    fn from(error: ChainError) -> Self {
        Self::owned(DEVNET_REFUSES, error.to_string(), None::<()>)
    }
}

/// The block that a request is about: the one it names, or the newest.
fn block_at(ledger: &Ledger, at: Option<Bytes32>) -> Result<Arc<Block>, ErrorObjectOwned> {
    let Some(Bytes32(hash)) = at else { return Ok(ledger.head()) };
    ledger.block(&hash).ok_or_else(|| {
        let what = if ledger.header(&hash).is_some() {
            "State already discarded for"
        } else {
            "Header was not found in the database:"
        };
        state_error(&format!("UnknownBlock: {what} {}", hexadecimal(hash)))
    })
}

fn storage_at(ledger: &mut Ledger, at: Option<Bytes32>) -> Result<(Arc<Block>, Arc<Storage>), ErrorObjectOwned> {
    let block = block_at(ledger, at)?;
    let storage = ledger.storage(&block)?;
    Ok((block, storage))
}

fn header_json(header: &Header) -> Value {
    json!({
        "parentHash": hexadecimal(header.parent),
        "number": format!("{:#x}", header.number),
        "stateRoot": hexadecimal(header.state_root),
        "extrinsicsRoot": hexadecimal(header.extrinsics_root),
        "digest": { "logs": header.logs().iter().map(hexadecimal).collect::<Vec<_>>() },
    })
}

fn version_json(runtime: &Runtime) -> Value {
    let version = &runtime.version;
    let apis: Vec<Value> = version.apis.iter().map(|(id, version)| json!([hexadecimal(id), version])).collect();
    json!({
        "specName": version.spec_name,
        "implName": version.impl_name,
        "authoringVersion": version.authoring_version,
        "specVersion": version.spec_version,
        "implVersion": version.impl_version,
        "apis": apis,
        "transactionVersion": version.transaction_version,
        "systemVersion": version.system_version,
        "stateVersion": version.system_version,
    })
}

fn changes(block: &Block, storage: &Storage, keys: &[Bytes]) -> Value {
    let value = |key: &Bytes| json!([hexadecimal(&key.0), storage.get(&key.0).map(hexadecimal)]);
    json!({ "block": hexadecimal(block.hash), "changes": keys.iter().map(value).collect::<Vec<_>>() })
}

fn few(keys: &[Bytes]) -> Result<(), ErrorObjectOwned> {
    if keys.len() > KEYS_MAX { Err(invalid(&format!("more than {KEYS_MAX} keys"))) } else { Ok(()) }
}

/// All methods.
///
/// # Errors
/// If two have one name.
pub(super) fn module(context: Arc<Context>) -> Result<RpcModule<Arc<Context>>, RegisterMethodError> {
    let mut module = RpcModule::new(context);
    chain(&mut module)?;
    chain_subscriptions(&mut module)?;
    state(&mut module)?;
    author(&mut module)?;
    system(&mut module)?;
    devnet(&mut module)?;
    let mut names: Vec<&'static str> = module.method_names().collect();
    names.push("rpc_methods");
    names.sort_unstable();
    module.register_method("rpc_methods", move |_, _, _| json!({ "methods": names }))?;
    Ok(module)
}

type Module = RpcModule<Arc<Context>>;
type Registered = Result<(), RegisterMethodError>;

/// Registers a method that answers out of the ledger.
fn method(
    module: &mut Module,
    name: &'static str,
    answer: impl Fn(&Params<'_>, &mut Ledger) -> Answer + Send + Sync + 'static,
) -> Registered {
    module.register_method(name, move |params, context, _| answer(&params, &mut context.ledger()))?;
    Ok(())
}

fn chain(module: &mut Module) -> Registered {
    method(module, "chain_getBlockHash", |params, ledger| {
        let hash = |number: &NumberOrHex| Ok(ledger.hash_of(number.number()?).map(hexadecimal));
        match params.sequence().optional_next::<OneOrMany>()? {
            None => Ok(json!(hexadecimal(ledger.head().hash))),
            Some(OneOrMany::One(number)) => hash(&number).map(|hash| json!(hash)),
            Some(OneOrMany::Many(numbers)) => {
                let hashes: Result<Vec<_>, ErrorObjectOwned> = numbers.iter().map(hash).collect();
                hashes.map(|hashes| json!(hashes))
            }
        }
    })?;
    module.register_alias("chain_getHead", "chain_getBlockHash")?;
    method(module, "chain_getHeader", |params, ledger| {
        let hash = params.sequence().optional_next::<Bytes32>()?.map_or_else(|| ledger.head().hash, |hash| hash.0);
        Ok(json!(ledger.header(&hash).map(header_json)))
    })?;
    method(module, "chain_getFinalizedHead", |_, ledger| Ok(json!(hexadecimal(ledger.final_head().hash))))?;
    module.register_alias("chain_getFinalisedHead", "chain_getFinalizedHead")?;
    method(module, "chain_getBlock", |params, ledger| {
        let hash = params.sequence().optional_next::<Bytes32>()?.map_or_else(|| ledger.head().hash, |hash| hash.0);
        let block = ledger.block(&hash).map(|block| {
            let extrinsics: Vec<String> = block.extrinsics.iter().map(hexadecimal).collect();
            json!({
                "block": { "header": header_json(&block.header), "extrinsics": extrinsics },
                "justifications": null,
            })
        });
        Ok(json!(block))
    })
}

/// Which blocks a subscription tells.
#[derive(Clone, Copy)]
enum Heads {
    Best,
    Final,
}

fn chain_subscriptions(module: &mut Module) -> Registered {
    let heads = [
        ("chain_subscribeNewHeads", "chain_newHead", "chain_unsubscribeNewHeads", Heads::Best),
        ("chain_subscribeAllHeads", "chain_allHead", "chain_unsubscribeAllHeads", Heads::Best),
        ("chain_subscribeFinalizedHeads", "chain_finalizedHead", "chain_unsubscribeFinalizedHeads", Heads::Final),
    ];
    for (subscribe, notice, unsubscribe, heads) in heads {
        module.register_subscription(subscribe, notice, unsubscribe, move |_, pending, context, _| async move {
            let (notices, first) = {
                let ledger = context.ledger();
                let first = match heads {
                    Heads::Best => ledger.head(),
                    Heads::Final => ledger.final_head(),
                };
                (ledger.subscribe(), first)
            };
            let told = move |notice: &Notice| match (heads, notice) {
                (Heads::Best, Notice::Best(block)) | (Heads::Final, Notice::Final(block)) => {
                    Some(header_json(&block.header))
                }
                _ => None,
            };
            let Ok(sink) = pending.accept().await else { return };
            if tell(&sink, &header_json(&first.header)).await {
                follow(&sink, notices, told).await;
            }
        })?;
    }
    Ok(())
}

/// Sends, and says whether anybody listens still.
async fn tell(sink: &SubscriptionSink, what: &impl Serialize) -> bool {
    match SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), what) {
        Ok(message) => sink.send(message).await.is_ok(),
        Err(_) => false,
    }
}

/// Tells what `told` makes of each notice. Whoever is too slow misses some, as with a node.
async fn follow(
    sink: &SubscriptionSink,
    mut notices: broadcast::Receiver<Notice>,
    mut told: impl FnMut(&Notice) -> Option<Value>,
) {
    loop {
        let notice = tokio::select! {
            () = sink.closed() => return,
            notice = notices.recv() => notice,
        };
        let what = match notice {
            Ok(notice) => told(&notice),
            Err(broadcast::error::RecvError::Lagged(_)) => None,
            Err(broadcast::error::RecvError::Closed) => return,
        };
        if let Some(what) = what
            && !tell(sink, &what).await
        {
            return;
        }
    }
}

fn state(module: &mut Module) -> Registered {
    method(module, "state_getRuntimeVersion", |params, ledger| {
        Ok(version_json(&block_at(ledger, params.sequence().optional_next()?)?.runtime))
    })?;
    module.register_alias("chain_getRuntimeVersion", "state_getRuntimeVersion")?;
    method(module, "state_getMetadata", |params, ledger| {
        Ok(json!(hexadecimal(block_at(ledger, params.sequence().optional_next()?)?.runtime.metadata())))
    })?;
    method(module, "state_getStorage", |params, ledger| {
        let mut params = params.sequence();
        let key: Bytes = params.next()?;
        let (_, storage) = storage_at(ledger, params.optional_next()?)?;
        Ok(json!(storage.get(&key.0).map(hexadecimal)))
    })?;
    module.register_alias("state_getStorageAt", "state_getStorage")?;
    method(module, "state_queryStorageAt", |params, ledger| {
        let mut params = params.sequence();
        let keys: Vec<Bytes> = params.next()?;
        few(&keys)?;
        let (block, storage) = storage_at(ledger, params.optional_next()?)?;
        Ok(json!([changes(&block, &storage, &keys)]))
    })?;
    method(module, "state_getKeysPaged", |params, ledger| {
        let mut params = params.sequence();
        let prefix: Bytes = params.optional_next()?.unwrap_or(Bytes(Vec::new()));
        let count: u32 = params.next()?;
        let start: Option<Bytes> = params.optional_next()?;
        if count > PAGE_MAX {
            return Err(ErrorObjectOwned::owned(
                4_002,
                format!("count exceeds maximum value. value: {count}, max: {PAGE_MAX}"),
                None::<()>,
            ));
        }
        let (_, storage) = storage_at(ledger, params.optional_next()?)?;
        Ok(json!(page(&storage, &prefix.0, start.as_ref().map(|start| start.0.as_slice()), count)))
    })?;
    module.register_alias("state_getKeysPagedAt", "state_getKeysPaged")?;
    method(module, "state_call", |params, ledger| {
        let mut params = params.sequence();
        let (function, arguments): (String, Bytes) = (params.next()?, params.next()?);
        let block = block_at(ledger, params.optional_next()?)?;
        runtime_call(ledger, &block, &function, &arguments.0).map(|answer| json!(hexadecimal(answer)))
    })?;
    module.register_alias("state_callAt", "state_call")?;
    state_subscriptions(module)
}

/// Keys behind a prefix and behind `start`, in order.
fn page(storage: &Storage, prefix: &[u8], start: Option<&[u8]>, count: u32) -> Vec<String> {
    let from = start.filter(|start| *start >= prefix).unwrap_or(prefix);
    let behind = storage.range(from.to_vec()..).map(|(key, _)| key);
    let keys = behind.take_while(|key| key.starts_with(prefix)).filter(|key| Some(key.as_slice()) != start);
    keys.take(usize::try_from(count).unwrap_or(usize::MAX)).map(hexadecimal).collect()
}

fn state_subscriptions(module: &mut Module) -> Registered {
    module.register_subscription(
        "state_subscribeRuntimeVersion",
        "state_runtimeVersion",
        "state_unsubscribeRuntimeVersion",
        |_, pending, context, _| async move {
            let (notices, first) = {
                let ledger = context.ledger();
                (ledger.subscribe(), ledger.head())
            };
            let mut runtime = Arc::clone(&first.runtime);
            let Ok(sink) = pending.accept().await else { return };
            if !tell(&sink, &version_json(&runtime)).await {
                return;
            }
            let told = move |notice: &Notice| {
                let Notice::Best(block) = notice else { return None };
                let upgraded = block.runtime.version != runtime.version;
                runtime = Arc::clone(&block.runtime);
                upgraded.then(|| version_json(&runtime))
            };
            follow(&sink, notices, told).await;
        },
    )?;
    module.register_subscription(
        "state_subscribeStorage",
        "state_storage",
        "state_unsubscribeStorage",
        |params, pending, context, _| async move {
            let keys = params.sequence().next::<Vec<Bytes>>().and_then(|keys| few(&keys).map(|()| keys));
            let keys = match keys {
                Ok(keys) => keys,
                Err(error) => return pending.reject(error).await,
            };
            let begun = {
                let mut ledger = context.ledger();
                let notices = ledger.subscribe();
                storage_at(&mut ledger, None).map(|(block, storage)| (notices, block, storage))
            };
            let (notices, block, mut before) = match begun {
                Ok(begun) => begun,
                Err(error) => return pending.reject(error).await,
            };
            let Ok(sink) = pending.accept().await else { return };
            if !tell(&sink, &changes(&block, &before, &keys)).await {
                return;
            }
            let told = move |notice: &Notice| {
                let Notice::Best(block) = notice else { return None };
                let storage = context.ledger().storage(block).ok()?;
                let changed: Vec<Bytes> =
                    keys.iter().filter(|key| before.get(&key.0) != storage.get(&key.0)).cloned().collect();
                before = storage;
                (!changed.is_empty()).then(|| changes(block, &before, &changed))
            };
            follow(&sink, notices, told).await;
        },
    )?;
    Ok(())
}

/// The runtime's functions, of which a node here has those that clients ask for.
fn runtime_call(ledger: &Ledger, block: &Block, function: &str, arguments: &[u8]) -> Result<Vec<u8>, ErrorObjectOwned> {
    let mut input = arguments;
    let trap = |_| state_error("Execution failed: the arguments cannot be decoded");
    match function {
        "Core_version" => Ok(block.runtime.version.encode()),
        "Metadata_metadata" => Ok(block.runtime.metadata().to_vec().encode()),
        "Metadata_metadata_versions" => Ok(vec![Runtime::metadata_version()].encode()),
        "Metadata_metadata_at_version" => {
            let version = u32::decode(&mut input).map_err(trap)?;
            let metadata = (version == Runtime::metadata_version()).then(|| block.runtime.metadata().to_vec());
            Ok(metadata.encode())
        }
        "AccountNonceApi_account_nonce" => {
            let account = <[u8; 32]>::decode(&mut input).map_err(trap)?;
            Ok(block.state.nonce(&account).encode())
        }
        // Weight, class and fee: nothing is paid here.
        "TransactionPaymentApi_query_info" => Ok((Compact(0_u64), Compact(0_u64), 0_u8, 0_u64).encode()),
        "TaggedTransactionQueue_validate_transaction" => {
            // A source, the extrinsic with its length, and a block that stands for the newest one.
            u8::decode(&mut input).map_err(trap)?;
            let body = Vec::<u8>::decode(&mut input).map_err(trap)?;
            Ok(validity(ledger, &body.encode()))
        }
        _ => Err(state_error(&format!("Execution failed: Exported method {function} is not found"))),
    }
}

/// `Result<ValidTransaction, TransactionValidityError>`, encoded.
fn validity(ledger: &Ledger, extrinsic: &[u8]) -> Vec<u8> {
    const INVALID: u8 = 0;
    const UNKNOWN: u8 = 1;
    match ledger.validate(extrinsic) {
        Ok((account, nonce, longevity)) => {
            let ready = ledger.head().state.nonce(&account);
            let tag = |nonce: u32| (account, nonce).encode();
            let requires = if nonce > ready { vec![tag(nonce - 1)] } else { Vec::new() };
            (0_u8, 0_u64, requires, vec![tag(nonce)], longevity, true).encode()
        }
        Err(Refusal::Invalid(invalid)) => [vec![1, INVALID], invalid.scale()].concat(),
        Err(_) => vec![1, UNKNOWN, 0],
    }
}

fn author(module: &mut Module) -> Registered {
    method(module, "author_submitExtrinsic", |params, ledger| {
        let bytes: Bytes = params.sequence().next()?;
        Ok(json!(hexadecimal(ledger.submit(bytes.0, None)?)))
    })?;
    method(module, "author_pendingExtrinsics", |_, ledger| {
        Ok(json!(ledger.pending().iter().map(hexadecimal).collect::<Vec<_>>()))
    })?;
    module.register_subscription(
        "author_submitAndWatchExtrinsic",
        "author_extrinsicUpdate",
        "author_unwatchExtrinsic",
        |params, pending, context, _| async move { submit_and_watch(&params, pending, &context).await },
    )?;
    Ok(())
}

async fn submit_and_watch(params: &Params<'_>, pending: PendingSubscriptionSink, context: &Context) {
    let (watcher, mut statuses) = mpsc::unbounded_channel();
    let submitted = params.sequence().next::<Bytes>().and_then(|bytes| {
        let taken = context.ledger().submit(bytes.0, Some(watcher));
        taken.map_err(ErrorObjectOwned::from)
    });
    if let Err(error) = submitted {
        return pending.reject(error).await;
    }
    let Ok(sink) = pending.accept().await else { return };
    loop {
        let status = tokio::select! {
            () = sink.closed() => return,
            status = statuses.recv() => status,
        };
        let Some(status) = status else { return };
        if !tell(&sink, &status).await || status.is_last() {
            return;
        }
    }
}

fn system(module: &mut Module) -> Registered {
    module.register_method("system_chain", |_, context, _| context.chain.clone())?;
    module.register_method("system_name", |_, _, _| "assay devnet")?;
    module.register_method("system_version", |_, _, _| env!("CARGO_PKG_VERSION"))?;
    module.register_method("system_chainType", |_, _, _| "Development")?;
    module.register_method(
        "system_properties",
        |_, _, _| json!({ "ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO" }),
    )?;
    method(module, "system_health", |_, ledger| {
        Ok(json!({ "peers": 0, "isSyncing": ledger.is_standing_still(), "shouldHavePeers": false }))
    })?;
    method(module, "system_accountNextIndex", |params, ledger| {
        let account: AccountId32 = params.sequence().next()?;
        Ok(json!(ledger.next_nonce(&account.0)))
    })?;
    module.register_alias("account_nextIndex", "system_accountNextIndex")?;
    Ok(())
}

/// What only a devnet can do. What these change is seen from the next block on.
fn devnet(module: &mut Module) -> Registered {
    // Others are answered between two blocks.
    module.register_blocking_method("devnet_step", |params, context, _| -> Answer {
        let blocks: u64 = params.sequence().optional_next()?.unwrap_or(1);
        if blocks > STEPS_MAX {
            return Err(invalid(&format!("at most {STEPS_MAX} blocks at a time")));
        }
        for _ in 0..blocks {
            context.ledger().make_block()?;
        }
        Ok(json!(context.ledger().head().number()))
    })?;
    method(module, "devnet_fund", |params, ledger| {
        let mut params = params.sequence();
        let (Bytes32(account), rao): (Bytes32, u64) = (params.next()?, params.next()?);
        ledger.devnet().fund(Coldkey::new(account), Rao::new(rao));
        Ok(Value::Null)
    })?;
    method(module, "devnet_stake", |params, ledger| {
        let mut params = params.sequence();
        let (Bytes32(hotkey), rao): (Bytes32, u64) = (params.next()?, params.next()?);
        ledger.devnet().set_stake(Hotkey::new(hotkey), Rao::new(rao))?;
        Ok(Value::Null)
    })?;
    method(module, "devnet_register", |params, ledger| {
        let mut params = params.sequence();
        let (Bytes32(hotkey), Bytes32(coldkey)): (Bytes32, Bytes32) = (params.next()?, params.next()?);
        let uid = ledger.devnet().register_of(Coldkey::new(coldkey), Hotkey::new(hotkey))?;
        Ok(json!(uid.get()))
    })?;
    method(module, "devnet_epochReports", |params, ledger| {
        let from: u64 = params.sequence().optional_next()?.unwrap_or(0);
        Ok(json!(ledger.devnet().reports(Epoch::new(from))))
    })?;
    method(module, "devnet_save", |params, ledger| {
        if params.sequence().optional_next::<Value>()?.is_some() {
            return Err(invalid("no file is named: a devnet is saved where its node was told to at its start"));
        }
        ledger.save()?;
        Ok(Value::Null)
    })
}
