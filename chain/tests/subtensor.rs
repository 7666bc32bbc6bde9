//! The client of Subtensor against a node that speaks the real chain's JSON-RPC over a devnet: the same
//! bytes, refusals and faults as there.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops there")]

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    ops::RangeInclusive,
    path::PathBuf,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use assay_chain::{
    BlockNumber, Chain, ChainError, Connection, Devnet, EpochKey, EpochKeyHash, Fate, Genesis, GenesisHash, NetUid,
    Network, Node, NodeOptions, Parameters, Placement, Rao, RequestsDigest, RunningNode, Runtime, Subtensor, Uid,
    WeightsForm, networks::NetworkName,
};
use assay_commitments::{Epoch, Hotkey, ManifestId};
use jsonrpsee::{
    RpcModule, SubscriptionMessage,
    server::{Server, ServerHandle},
    types::ErrorObjectOwned,
};
use parity_scale_codec::Encode;
use serde_json::{Value, json};
use subxt::rpcs::{self, RpcClient, client::RpcParams};
use subxt_signer::sr25519::{Keypair, dev};

const NETUID: u16 = 7;
const GENESIS: GenesisHash = GenesisHash::new([0xa5; 32]);
const STAKE: Rao = Rao::new(1_000_000_000_000);

/// A node over a devnet of an owner, ferdie, two validators, alice and eve, and two miners, bob and
/// charlie, in this order of uids.
struct Net {
    devnet: Devnet,
    node: RunningNode,
}

/// What a node between makes of an answer: of the method, of what was asked, of the answer.
type Alter = Box<dyn Fn(&str, &Value, &mut Value) -> Result<(), &'static str> + Send + Sync>;

fn parameters() -> Parameters {
    Parameters {
        tempo: 19,
        weights_form: WeightsForm::Plain,
        weights_rate_limit: 10,
        min_allowed_weights: 1,
        serving_rate_limit: 5,
        ..Parameters::default()
    }
}

fn key(pair: &Keypair) -> Hotkey {
    Hotkey::new(pair.public_key().0)
}

fn devnet(parameters: Parameters) -> Devnet {
    let genesis = Genesis {
        network: Network { genesis: GENESIS, netuid: NetUid::new(NETUID) },
        owner: key(&dev::ferdie()),
        validators: vec![(key(&dev::alice()), STAKE), (key(&dev::eve()), STAKE)],
        parameters,
    };
    let devnet = Devnet::new(&genesis).unwrap();
    devnet.register(key(&dev::bob())).unwrap();
    devnet.register(key(&dev::charlie())).unwrap();
    devnet
}

fn id(byte: u8) -> ManifestId {
    ManifestId::new([byte; 32])
}

impl Net {
    async fn start(parameters: Parameters) -> Self {
        Self::with(parameters, 0).await
    }

    async fn with(parameters: Parameters, finality_lag: u64) -> Self {
        Self::over(devnet(parameters), finality_lag).await
    }

    async fn over(devnet: Devnet, finality_lag: u64) -> Self {
        let options = NodeOptions { finality_lag, ..NodeOptions::new().unwrap() };
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let node = Node::start(devnet.clone(), listen, options).await.unwrap();
        let net = Self { devnet, node };
        net.step(1 + finality_lag);
        net
    }

    fn connection(&self, signers: Vec<Keypair>) -> Connection {
        Connection {
            endpoints: vec![self.node.url()],
            genesis: Some(GENESIS),
            signers,
            ..Connection::to(&NetworkName::Url(self.node.url()), NetUid::new(NETUID))
        }
    }

    async fn client(&self, signers: Vec<Keypair>) -> Subtensor {
        Subtensor::connect(self.connection(signers)).await.unwrap()
    }

    async fn client_with_journal(&self, signers: Vec<Keypair>, journal: PathBuf) -> Subtensor {
        let connection = Connection { journal: Some(journal), ..self.connection(signers) };
        Subtensor::connect(connection).await.unwrap()
    }

    fn step(&self, blocks: u64) -> u64 {
        self.node.step(blocks).unwrap().get()
    }

    /// Makes blocks as long as something is waited for.
    async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let clock = async {
            loop {
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.step(1);
            }
        };
        tokio::select! {
            done = tokio::time::timeout(Duration::from_mins(2), work) => done.expect("it ends within two minutes"),
            () = clock => unreachable!("the clock never stops"),
        }
    }

    /// Takes the first block back that something comes into which is waited for, and makes blocks from then on.
    async fn taking_back<T>(&self, fate: Fate, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let first = async {
            self.waits_in_pool(1).await;
            self.step(1);
            self.node.retract(fate).unwrap();
        };
        tokio::select! {
            _ = &mut work => panic!("it ends before anything is final"),
            () = first => {}
        }
        self.during(work).await
    }

    /// Lets a process die when so many calls of its are in the newest block, which is not final.
    async fn dying<T>(&self, calls: usize, work: impl Future<Output = T>) {
        tokio::select! {
            _ = work => panic!("it ends before anything is final"),
            () = self.waits_in_pool(calls) => {}
        }
        self.step(1);
    }

    /// Makes blocks until the client sees an epoch.
    async fn step_to(&self, client: &Subtensor, epoch: Epoch) {
        while client.head().await.unwrap().epoch < epoch {
            self.step(1);
            self.seen_by(client).await;
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(&self, method: &str, params: Value) -> T {
        let rpc = RpcClient::from_insecure_url(self.node.url()).await.unwrap();
        rpc.request(method, list(&params)).await.unwrap()
    }

    /// A node between clients and this one. Of each answer, `alter` makes another one, by the method and what
    /// was asked, or words to refuse it with.
    async fn between(
        &self,
        alter: impl Fn(&str, &Value, &mut Value) -> Result<(), &'static str> + Send + Sync + 'static,
    ) -> (String, ServerHandle) {
        const METHODS: [&str; 11] = [
            "chain_getBlock",
            "chain_getBlockHash",
            "chain_getFinalizedHead",
            "chain_getHeader",
            "rpc_methods",
            "state_call",
            "state_getMetadata",
            "state_getRuntimeVersion",
            "state_getStorage",
            "state_queryStorageAt",
            "system_accountNextIndex",
        ];
        const SUBSCRIPTIONS: [[&str; 3]; 2] = [
            ["chain_subscribeFinalizedHeads", "chain_finalizedHead", "chain_unsubscribeFinalizedHeads"],
            ["author_submitAndWatchExtrinsic", "author_extrinsicUpdate", "author_unwatchExtrinsic"],
        ];
        let rpc = RpcClient::from_insecure_url(self.node.url()).await.unwrap();
        let mut module = RpcModule::<(RpcClient, Alter)>::new((rpc, Box::new(alter)));
        for name in METHODS {
            let answer = move |params: jsonrpsee::types::Params<'static>, context: Arc<(RpcClient, Alter)>, _| async move {
                let (rpc, alter) = &*context;
                let asked: Value = params.parse()?;
                let mut answer = rpc.request(name, list(&asked)).await.map_err(refusal)?;
                alter(name, &asked, &mut answer)
                    .map_err(|words| ErrorObjectOwned::owned(4_003, format!("Client error: {words}"), None::<()>))?;
                Ok::<Value, ErrorObjectOwned>(answer)
            };
            module.register_async_method(name, answer).unwrap();
        }
        for [subscribe, notice, unsubscribe] in SUBSCRIPTIONS {
            let follow = move |params: jsonrpsee::types::Params<'static>,
                               pending: jsonrpsee::PendingSubscriptionSink,
                               context: Arc<(RpcClient, Alter)>,
                               _| async move {
                let (rpc, alter) = &*context;
                let asked: Value = params.parse().unwrap();
                let mut told = match rpc.subscribe::<Value>(subscribe, list(&asked), unsubscribe).await {
                    Ok(told) => told,
                    Err(error) => return pending.reject(refusal(error)).await,
                };
                let sink = pending.accept().await.unwrap();
                while let Some(Ok(mut what)) = told.next().await {
                    alter(notice, &asked, &mut what).unwrap();
                    let message = SubscriptionMessage::new(sink.method_name(), sink.subscription_id(), &what).unwrap();
                    if sink.send(message).await.is_err() {
                        return;
                    }
                }
            };
            module.register_subscription(subscribe, notice, unsubscribe, follow).unwrap();
        }
        let server = Server::builder().build("127.0.0.1:0").await.unwrap();
        (format!("ws://{}", server.local_addr().unwrap()), server.start(module))
    }

    /// A node between that claims a number for its newest blocks, once it is told to.
    async fn claiming(&self, claimed: u64, begun: &Arc<AtomicBool>) -> (String, ServerHandle) {
        let begun = Arc::clone(begun);
        let claim = move |method: &str, _: &Value, answer: &mut Value| {
            if matches!(method, "chain_getHeader" | "chain_finalizedHead") && begun.load(Ordering::SeqCst) {
                answer["number"] = json!(format!("{claimed:#x}"));
            }
            Ok(())
        };
        self.between(claim).await
    }

    /// A client of the node that stands between, then of the node itself.
    async fn client_through(&self, between: &str, signers: Vec<Keypair>) -> Result<Subtensor, ChainError> {
        let endpoints = vec![between.to_owned(), self.node.url()];
        Subtensor::connect(Connection { endpoints, ..self.connection(signers) }).await
    }

    /// How many transactions of an account stand on chain or wait.
    async fn transactions(&self, pair: &Keypair) -> u64 {
        let account = subxt::utils::AccountId32(pair.public_key().0);
        self.ask("system_accountNextIndex", json!([account])).await
    }

    async fn waits_in_pool(&self, calls: usize) {
        for _ in 0..1_000 {
            let pending: Vec<String> = self.ask("author_pendingExtrinsics", json!([])).await;
            if pending.len() >= calls {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{calls} calls were not submitted");
    }

    /// Waits until the client has seen the newest block.
    async fn seen_by(&self, client: &Subtensor) {
        let newest = self.devnet.head().await.unwrap().block;
        head_in_time(client, BlockNumber::new(newest.get() - 1)).await;
    }
}

/// The parameters of a request.
fn list(params: &Value) -> RpcParams {
    let mut list = RpcParams::new();
    params.as_array().into_iter().flatten().for_each(|param| list.push(param).unwrap());
    list
}

/// What a node refuses, to be told on.
fn refusal(error: rpcs::Error) -> ErrorObjectOwned {
    let rpcs::Error::User(error) = error else { panic!("{error}") };
    ErrorObjectOwned::owned(error.code, error.message, error.data)
}

/// The number that a node writes as a number or in hexadecimal.
fn number(value: &Value) -> Option<u64> {
    let digits = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    value.as_u64().or_else(|| value.as_str().and_then(digits))
}

/// Puts other bytes in place of what stands in all values of an item of the subnet.
fn put(answer: &mut Value, item: &str, bytes: &str) {
    let prefix = frame_decode::storage::encode_storage_key_prefix("SubtensorModule", item);
    let prefix = format!("0x{}", hex::encode(prefix));
    for change in answer[0]["changes"].as_array_mut().into_iter().flatten() {
        if change[0].as_str().is_some_and(|key| key.starts_with(&prefix)) {
            change[1] = json!(bytes);
        }
    }
}

fn weights(of: &[(u16, u16)]) -> Vec<(Uid, u16)> {
    of.iter().map(|(uid, value)| (Uid::new(*uid), *value)).collect()
}

/// Brings a devnet that stands alone to the block of another.
async fn level(alone: &Devnet, net: &Net) {
    let newest = net.devnet.head().await.unwrap().block;
    while alone.head().await.unwrap().block < newest {
        alone.step_block();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scenario_gives_one_metagraph_on_a_devnet_and_through_a_node() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::ferdie(), dev::alice(), dev::eve(), dev::bob(), dev::charlie()]).await;
    let alone = devnet(parameters());
    let [ferdie, alice, eve, bob, charlie] =
        [dev::ferdie(), dev::alice(), dev::eve(), dev::bob(), dev::charlie()].map(|pair| key(&pair));
    let (v4, v6): (SocketAddr, SocketAddr) =
        ("198.51.100.7:8091".parse().unwrap(), "[2001:db8::7]:8092".parse().unwrap());
    let rows = [weights(&[(3, 60_002), (4, 30_001)]), weights(&[(0, 0), (3, 1), (4, 5)])];

    // Each write stands in the newest block of the node when it returns; the devnet alone does the same there.
    macro_rules! both {
        ($method:ident($($argument:expr),*)) => {{
            let through = client.$method($($argument),*);
            let clock = async {
                net.waits_in_pool(1).await;
                net.step(1);
                std::future::pending::<()>().await;
            };
            let through = tokio::select! { done = through => done, () = clock => unreachable!() };
            level(&alone, &net).await;
            let directly = alone.$method($($argument),*).await;
            assert_eq!(through, directly, stringify!($method));
            through.unwrap()
        }};
    }
    assert_eq!(client.network(), alone.network());
    let ids = [id(1), id(2)];
    both!(publish_manifests(ferdie, &ids));
    both!(serve_endpoint(bob, v4));
    both!(serve_endpoint(charlie, v6));
    both!(declare_manifest(bob, id(1)));
    let running = client.head().await.unwrap().epoch;
    both!(publish_epoch_key(alice, running, EpochKeyHash::new([1; 32])));
    both!(publish_epoch_key(alice, running.next(), EpochKeyHash::new([2; 32])));
    let placed = both!(set_weights(alice, &rows[0], 0));
    assert!(matches!(placed, Placement::Set { .. }), "{placed:?}");
    both!(set_weights(eve, &rows[1], 0));
    net.step(25);
    level(&alone, &net).await;
    net.seen_by(&client).await;
    let revealed = (EpochKey::new([3; 32]), RequestsDigest::new([4; 32]));
    both!(reveal_epoch_key(alice, running, revealed.0, revealed.1));

    net.seen_by(&client).await;
    assert_eq!(client.head().await.unwrap(), alone.head().await.unwrap());
    assert_eq!(client.metagraph().await.unwrap(), alone.metagraph().await.unwrap());
    assert_eq!(client.metagraph().await.unwrap().burn_hotkey(), Some(ferdie));
    assert_eq!(client.hyperparameters().await.unwrap(), alone.hyperparameters().await.unwrap());
    assert_eq!(client.manifests().await.unwrap(), [id(1), id(2)]);
    for hotkey in [alice, eve] {
        assert_eq!(client.weights_of(hotkey).await.unwrap(), alone.weights_of(hotkey).await.unwrap());
    }
    for epoch in [running, running.next(), Epoch::new(running.get() + 5)] {
        let (through, directly) = (client.epoch_key(alice, epoch).await, alone.epoch_key(alice, epoch).await);
        assert_eq!(through.unwrap(), directly.unwrap(), "epoch {epoch}");
    }
    let epochs: RangeInclusive<Epoch> = running..=running.next();
    let hotkeys = [alice, eve, bob];
    let through = client.history(epochs.clone(), &hotkeys).await.unwrap();
    let directly = alone.history(epochs.clone(), &hotkeys).await.unwrap();
    for id in [id(1), id(2), id(3)] {
        for epoch in [running, running.next()] {
            assert_eq!(through.was_in_force(&id, epoch), directly.was_in_force(&id, epoch));
        }
    }
    assert_eq!(through.epochs, directly.epochs);
    let sorted = |mut history: assay_chain::History| {
        history.hotkeys.sort_unstable();
        history.epoch_keys.sort_unstable_by_key(|(hotkey, epoch, _)| (*hotkey, *epoch));
        (history.hotkeys, history.epoch_keys)
    };
    assert_eq!(sorted(through), sorted(directly));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_of_a_block_is_not_read_again() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![]).await;
    let (metagraph, settings) = (client.metagraph().await.unwrap(), client.hyperparameters().await.unwrap());
    client.reach().await.unwrap();
    net.node.disconnect().await;
    assert_eq!(client.clone().metagraph().await.unwrap(), metagraph);
    assert_eq!(client.hyperparameters().await.unwrap(), settings);
    // What is known does not answer for the chain.
    for unread in [client.manifests().await.map(drop), client.reach().await] {
        let unread = unread.unwrap_err();
        assert!(matches!(&unread, ChainError::Unreachable { endpoint, .. } if *endpoint == net.node.url()), "{unread}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writing_what_stands_already_submits_nothing() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::ferdie(), dev::alice(), dev::bob()]).await;
    let (ferdie, alice, bob) = (key(&dev::ferdie()), key(&dev::alice()), key(&dev::bob()));
    let endpoint: SocketAddr = "198.51.100.7:8091".parse().unwrap();
    net.during(async {
        client.publish_manifests(ferdie, &[id(1)]).await.unwrap();
        client.serve_endpoint(bob, endpoint).await.unwrap();
        client.declare_manifest(bob, id(1)).await.unwrap();
    })
    .await;
    // A whole epoch is ahead, so that the weights are set twice in one.
    while client.head().await.unwrap().epoch_start != client.head().await.unwrap().block {
        net.step(1);
        net.seen_by(&client).await;
    }
    let row = weights(&[(3, 7), (4, 7)]);
    let placed = net.during(client.set_weights(alice, &row, 0)).await.unwrap();
    let Placement::Set { block } = placed else { panic!("{placed:?}") };

    client.publish_manifests(ferdie, &[id(1)]).await.unwrap();
    client.serve_endpoint(bob, endpoint).await.unwrap();
    client.declare_manifest(bob, id(1)).await.unwrap();
    let again = client.set_weights(alice, &weights(&[(4, 65_535), (3, 65_535), (0, 0)]), 0).await.unwrap();
    assert_eq!(again, Placement::Standing { block });
    assert_eq!(net.transactions(&dev::ferdie()).await, 1);
    assert_eq!(net.transactions(&dev::bob()).await, 2);
    assert_eq!(net.transactions(&dev::alice()).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_one_hotkey_at_the_same_time_all_arrive() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::ferdie(), dev::alice(), dev::bob()]).await;
    let (ferdie, alice, bob) = (key(&dev::ferdie()), key(&dev::alice()), key(&dev::bob()));
    let running = client.head().await.unwrap().epoch;
    let endpoint: SocketAddr = "198.51.100.7:8091".parse().unwrap();
    let (row, clone, ids) = (weights(&[(3, 1)]), client.clone(), [id(5)]);
    let done = net
        .during(async {
            tokio::join!(
                client.publish_manifests(ferdie, &ids),
                clone.declare_manifest(ferdie, id(6)),
                client.publish_epoch_key(ferdie, running.next(), EpochKeyHash::new([8; 32])),
                client.set_weights(alice, &row, 0),
                clone.publish_epoch_key(alice, running.next(), EpochKeyHash::new([9; 32])),
                clone.serve_endpoint(bob, endpoint),
                client.declare_manifest(bob, id(5)),
            )
        })
        .await;
    assert!(matches!(done, (Ok(()), Ok(()), Ok(()), Ok(_), Ok(()), Ok(()), Ok(()))), "{done:?}");
    // Parts of one commitment that were written at once have left each other alone.
    assert_eq!(client.manifests().await.unwrap(), [id(5)]);
    let metagraph = client.metagraph().await.unwrap();
    assert_eq!(metagraph.neuron(&ferdie).unwrap().manifest, Some(id(6)));
    assert!(client.epoch_key(ferdie, running.next()).await.unwrap().is_some());
    assert_eq!(metagraph.neuron(&bob).unwrap().endpoint, Some(endpoint));
    assert_eq!(net.transactions(&dev::ferdie()).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn hash_commits_are_revealed_in_their_epoch_after_a_restart() {
    let form = WeightsForm::CommitReveal { period: 2 };
    let net = Net::start(Parameters { weights_form: form, ..parameters() }).await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("commits.json");
    let client = net.client_with_journal(vec![dev::alice()], journal.clone()).await;
    let alice = key(&dev::alice());
    let row = weights(&[(3, 2), (4, 1)]);
    let placed = net.during(client.set_weights(alice, &row, 3)).await.unwrap();
    let Placement::Committed { block, reveals } = placed else { panic!("{placed:?}") };
    let again = client.set_weights(alice, &row, 3).await.unwrap();
    assert_eq!(again, Placement::Standing { block });
    assert_eq!(client.weights_of(alice).await.unwrap().pending, [(block, reveals)]);
    assert_eq!(net.transactions(&dev::alice()).await, 1);
    drop(client);

    let client = net.client_with_journal(vec![dev::alice()], journal.clone()).await;
    assert_eq!(client.reveal_weights(alice).await.unwrap(), 0, "too early");
    while client.head().await.unwrap().epoch < reveals {
        net.step(1);
        net.seen_by(&client).await;
        assert!(client.weights_of(alice).await.unwrap().weights.is_empty(), "not seen before");
    }
    assert_eq!(net.during(client.reveal_weights(alice)).await.unwrap(), 1);
    assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535), (4, 32_768)]));
    assert_eq!(client.reveal_weights(alice).await.unwrap(), 0, "once");
    assert!(client.weights_of(alice).await.unwrap().pending.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_commit_without_its_salt_reveals_nothing_and_stops_nothing() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::start(Parameters { weights_form: form, weights_rate_limit: 1, ..parameters() }).await;
    let alice = key(&dev::alice());
    let lost = net.client(vec![dev::alice()]).await;
    net.during(lost.set_weights(alice, &weights(&[(3, 1)]), 0)).await.unwrap();
    drop(lost);
    let client = net.client(vec![dev::alice()]).await;
    let reveals = client.weights_of(alice).await.unwrap().pending[0].1;
    net.step_to(&client, reveals).await;
    assert_eq!(client.reveal_weights(alice).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn timelocked_weights_are_opened_by_the_chain_in_their_epoch() {
    for period in [1, 2] {
        let form = WeightsForm::Timelocked { period, version: 4 };
        let net = Net::start(Parameters { weights_form: form, ..parameters() }).await;
        let client = net.client(vec![dev::alice()]).await;
        let alice = key(&dev::alice());
        let row = weights(&[(3, 2), (4, 1)]);
        let placed = net.during(client.set_weights(alice, &row, 3)).await.unwrap();
        let Placement::Committed { block, reveals } = placed else { panic!("{placed:?}") };
        assert_eq!(client.set_weights(alice, &row, 3).await.unwrap(), Placement::Standing { block });
        assert_eq!(client.weights_of(alice).await.unwrap().pending, [(block, reveals)]);
        while client.head().await.unwrap().epoch < reveals {
            assert!(client.weights_of(alice).await.unwrap().weights.is_empty());
            net.step(1);
            net.seen_by(&client).await;
        }
        // Before anything else in that block, the chain says whose weights it has opened.
        let who = format!("{}{}", hex::encode(NETUID.to_le_bytes()), hex::encode(alice.as_bytes()));
        let mut told = 0;
        for _ in 0..5 {
            net.step(1);
            let key = frame_decode::storage::encode_storage_key_prefix("System", "Events");
            let events: String = net.ask("state_getStorage", json!([format!("0x{}", hex::encode(key))])).await;
            told += events.matches(&who).count();
            // The number of events, the phase, the pallet, and then the event and its fields.
            assert!(!events.contains(&who) || events[4..].starts_with("0207"), "{events}");
        }
        assert_eq!(told, 1);
        net.seen_by(&client).await;
        let head = client.head().await.unwrap();
        assert_eq!(head.epoch, reveals, "it is open long before the epoch is over");
        assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535), (4, 32_768)]));
        assert_eq!(client.reveal_weights(alice).await.unwrap(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_connections_are_made_again() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::bob()]).await;
    let before = client.head().await.unwrap().block;
    for round in 1..=3 {
        net.node.disconnect().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        net.node.reconnect().await.unwrap();
        net.step(1);
        let head = head_in_time(&client, BlockNumber::new(before.get() + round - 1)).await;
        assert_eq!(head.block.get(), before.get() + round);
        client.metagraph().await.unwrap();
    }
    net.during(client.declare_manifest(key(&dev::bob()), id(1))).await.unwrap();
}

/// A head behind a block, past the errors that a broken connection brings.
async fn head_in_time(client: &Subtensor, block: BlockNumber) -> assay_chain::Head {
    for _ in 0..50 {
        match tokio::time::timeout(Duration::from_secs(20), client.head_after(block)).await {
            Ok(Ok(head)) => return head,
            Ok(Err(error)) => assert!(error.is_passing(), "{error}"),
            Err(_) => break,
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("no head behind block {block}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_endpoint_is_asked_when_one_is_gone() {
    let net = Net::start(parameters()).await;
    let mut connection = net.connection(vec![]);
    connection.endpoints = vec!["ws://127.0.0.1:9".to_owned(), net.node.url()];
    let client = Subtensor::connect(connection).await.unwrap();
    assert_eq!(client.metagraph().await.unwrap(), net.devnet.metagraph().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_was_lost_is_made_once() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::alice()]).await;
    let alice = key(&dev::alice());
    let row = weights(&[(3, 1)]);
    let setting = client.set_weights(alice, &row, 0);
    let faults = async {
        net.waits_in_pool(1).await;
        net.node.disconnect().await;
        net.step(3);
        tokio::time::sleep(Duration::from_millis(300)).await;
        net.node.reconnect().await.unwrap();
        loop {
            tokio::time::sleep(Duration::from_millis(50)).await;
            net.step(1);
        }
    };
    let placed = tokio::select! { placed = setting => placed, () = faults => unreachable!() };
    let Placement::Set { block } = placed.unwrap() else { panic!("not set") };
    assert_eq!(net.transactions(&dev::alice()).await, 1);
    let neuron = net.devnet.metagraph().await.unwrap().neuron(&alice).cloned().unwrap();
    assert_eq!(neuron.last_update, block);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_a_block_that_is_taken_back_comes_into_another_one() {
    let net = Net::with(parameters(), 3).await;
    let client = net.client(vec![dev::alice()]).await;
    let alice = key(&dev::alice());
    let row = weights(&[(3, 1)]);
    let placed = net.taking_back(Fate::Return, client.set_weights(alice, &row, 0)).await;
    assert!(matches!(placed, Ok(Placement::Set { .. })), "{placed:?}");
    assert_eq!(net.transactions(&dev::alice()).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_vanished_with_its_block_is_made_again_once_its_time_is_over() {
    let net = Net::with(parameters(), 3).await;
    let client = net.client(vec![dev::bob()]).await;
    let bob = key(&dev::bob());
    net.taking_back(Fate::Vanish, client.declare_manifest(bob, id(1))).await.unwrap();
    assert_eq!(client.metagraph().await.unwrap().neuron(&bob).unwrap().manifest, Some(id(1)));
    assert_eq!(net.transactions(&dev::bob()).await, 1, "the first one never counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_never_comes_is_unconfirmed_and_may_be_tried_again() {
    let net = Net::with(parameters(), 3).await;
    let client = net.client(vec![dev::alice(), dev::bob()]).await;
    let (alice, bob) = (key(&dev::alice()), key(&dev::bob()));
    let row = weights(&[(3, 1)]);
    let faults = async {
        for _ in 0..3 {
            net.waits_in_pool(2).await;
            net.step(1);
            net.node.retract(Fate::Vanish).unwrap();
            net.step(40);
        }
        std::future::pending::<()>().await;
    };
    let given_up = tokio::select! {
        given_up = async { tokio::join!(client.set_weights(alice, &row, 0), client.declare_manifest(bob, id(1))) } => given_up,
        () = faults => unreachable!(),
    };
    let (set, declared) = (given_up.0.unwrap_err(), given_up.1.unwrap_err());
    assert!(matches!(set, ChainError::Unconfirmed { call: "set_weights", blocks: 96.. }), "{set:?}");
    assert!(matches!(declared, ChainError::Unconfirmed { call: "set_commitment", blocks: 96.. }), "{declared:?}");
    assert!(set.is_passing() && declared.is_passing());
    net.during(async {
        tokio::try_join!(client.declare_manifest(bob, id(1)), async {
            client.set_weights(alice, &row, 0).await.map(drop)
        })
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_wrote_is_believed_once_it_is_final() {
    for vanishes in [false, true] {
        let net = Net::with(parameters(), 3).await;
        let signers = || vec![dev::alice(), dev::bob(), dev::charlie()];
        let (alice, bob, charlie) = (key(&dev::alice()), key(&dev::bob()), key(&dev::charlie()));
        let endpoint: SocketAddr = "198.51.100.7:8091".parse().unwrap();
        let row = weights(&[(3, 1)]);
        let write = async |client: &Subtensor| {
            tokio::join!(
                client.set_weights(alice, &row, 0),
                client.serve_endpoint(bob, endpoint),
                client.declare_manifest(charlie, id(1)),
            )
        };
        let dead = net.client(signers()).await;
        net.dying(3, write(&dead)).await;
        drop(dead);

        let client = net.client(signers()).await;
        let mut writing = pin!(write(&client));
        let early = tokio::time::timeout(Duration::from_millis(800), &mut writing).await;
        assert!(early.is_err(), "the block may still be taken back: {early:?}");
        if vanishes {
            net.node.retract(Fate::Vanish).unwrap();
        }
        let (set, served, declared) = net.during(writing).await;
        served.unwrap();
        declared.unwrap();
        assert_eq!(matches!(set.unwrap(), Placement::Standing { .. }), !vanishes);
        for pair in signers() {
            assert_eq!(net.transactions(&pair).await, 1, "written once, or once more if that was taken back");
        }
        let metagraph = client.metagraph().await.unwrap();
        assert_eq!(metagraph.neuron(&bob).unwrap().endpoint, Some(endpoint));
        assert_eq!(metagraph.neuron(&charlie).unwrap().manifest, Some(id(1)));
        assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535)]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_and_its_reveal_by_a_dead_process_are_made_again_if_they_are_taken_back() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::with(Parameters { weights_form: form, ..parameters() }, 3).await;
    let folder = tempfile::tempdir().unwrap();
    let journal = || folder.path().join("commits.json");
    let alice = key(&dev::alice());
    let row = weights(&[(3, 2), (4, 1)]);
    let dead = net.client_with_journal(vec![dev::alice()], journal()).await;
    net.dying(1, dead.set_weights(alice, &row, 0)).await;
    let client = net.client_with_journal(vec![dev::alice()], journal()).await;
    let mut setting = pin!(client.set_weights(alice, &row, 0));
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut setting).await.is_err());
    net.node.retract(Fate::Vanish).unwrap();
    let placed = net.during(setting).await.unwrap();
    let Placement::Committed { reveals, .. } = placed else { panic!("{placed:?}") };
    while client.head().await.unwrap().epoch < reveals {
        net.step(1);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let dead = net.client_with_journal(vec![dev::alice()], journal()).await;
    net.dying(1, dead.reveal_weights(alice)).await;
    let client = net.client_with_journal(vec![dev::alice()], journal()).await;
    let mut revealing = pin!(client.reveal_weights(alice));
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut revealing).await.is_err());
    net.node.retract(Fate::Vanish).unwrap();
    assert_eq!(net.during(revealing).await.unwrap(), 1);
    assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535), (4, 32_768)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_with_one_hotkey_leave_each_others_fields_alone() {
    let ferdie = key(&dev::ferdie());
    // The second one takes the nonce of the first, or both are in one block.
    for in_one_block in [false, true] {
        let net = Net::with(parameters(), 3).await;
        let (first, second) = (net.client(vec![dev::ferdie()]).await, net.client(vec![dev::ferdie()]).await);
        let mut declaring = pin!(first.declare_manifest(ferdie, id(1)));
        tokio::select! {
            done = &mut declaring => panic!("{done:?}"),
            () = net.waits_in_pool(1) => {}
        }
        let ids = [id(2)];
        let mut publishing = pin!(second.publish_manifests(ferdie, &ids));
        if in_one_block {
            tokio::select! {
                done = &mut publishing => panic!("{done:?}"),
                () = net.waits_in_pool(2) => {}
            }
            net.during(async { tokio::try_join!(declaring, publishing) }).await.unwrap();
        } else {
            net.step(1);
            net.node.retract(Fate::Vanish).unwrap();
            net.during(publishing).await.unwrap();
            net.during(declaring).await.unwrap();
        }
        let reader = net.client(vec![]).await;
        assert_eq!(reader.metagraph().await.unwrap().neuron(&ferdie).unwrap().manifest, Some(id(1)));
        assert_eq!(reader.manifests().await.unwrap(), [id(2)], "in one block: {in_one_block}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_a_node_does_not_have_was_not_searched() {
    for words in [None, Some("UnknownBlock: Header was not found in the database")] {
        let net = Net::start(parameters()).await;
        let missing = Arc::new(AtomicBool::new(true));
        let (missing_there, alice) = (Arc::clone(&missing), key(&dev::alice()));
        let (between, _server) = net
            .between(move |method, _, answer| {
                if method == "chain_getBlock" && missing_there.load(Ordering::SeqCst) {
                    *answer = Value::Null;
                    return words.map_or(Ok(()), Err);
                }
                Ok(())
            })
            .await;
        let client = net.client_through(&between, vec![dev::alice()]).await.unwrap();
        let row = weights(&[(3, 1)]);
        let mut setting = pin!(client.set_weights(alice, &row, 0));
        tokio::select! {
            done = &mut setting => panic!("{done:?}"),
            () = net.waits_in_pool(1) => {}
        }
        net.step(50);
        let early = tokio::time::timeout(Duration::from_secs(3), &mut setting).await;
        assert!(early.is_err(), "nothing is known of the call yet: {early:?}");
        missing.store(false, Ordering::SeqCst);
        let placed = net.during(setting).await.unwrap();
        let block = net.devnet.metagraph().await.unwrap().neuron(&alice).unwrap().last_update;
        assert_eq!(placed, Placement::Set { block });
        assert_eq!(net.transactions(&dev::alice()).await, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absurd_claim_of_one_endpoint_falls_with_it() {
    const ABSURD: u64 = 1_000_000_000;
    let net = Net::start(parameters()).await;
    let (alice, running) = (key(&dev::alice()), net.devnet.head().await.unwrap().epoch);
    let [hash, other] = [1, 2].map(|byte| EpochKeyHash::new([byte; 32]));
    net.devnet.publish_epoch_key(alice, running, hash).await.unwrap();
    net.step(1);
    let (between, server) = net.claiming(ABSURD, &Arc::new(AtomicBool::new(true))).await;
    let client = net.client_through(&between, vec![dev::alice()]).await.unwrap();
    assert_eq!(client.head().await.unwrap().block.get(), ABSURD);
    // Up to the block of the claim, all that she has written is taken to be known.
    assert_eq!(client.epoch_key(alice, running).await.unwrap().map(|known| known.hash), Some(hash));
    let waiting = client.clone();
    let waiting = tokio::spawn(async move { waiting.head_after(BlockNumber::new(ABSURD)).await });
    server.stop().unwrap();
    let newest = net.devnet.head().await.unwrap();
    let mut head = client.head().await;
    for _ in 0..100 {
        if head == Ok(newest) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        head = client.head().await;
    }
    assert_eq!(head, Ok(newest), "the endpoint that is left is believed");
    let told = waiting.await.unwrap().unwrap_err();
    assert!(told.is_passing(), "{told}");
    net.step(1);
    assert!(client.head_after(newest.block).await.unwrap().block > newest.block);
    // What she writes from now on is seen all the same.
    net.during(client.publish_epoch_key(alice, running.next(), other)).await.unwrap();
    assert_eq!(client.epoch_key(alice, running.next()).await.unwrap().map(|known| known.hash), Some(other));
    net.step_to(&client, Epoch::new(running.get() + 2)).await;
    let (secret, requests) = (EpochKey::new([3; 32]), RequestsDigest::new([4; 32]));
    net.during(client.reveal_epoch_key(alice, running.next(), secret, requests)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_numbers_of_a_node_are_waits_or_errors() {
    let net = Net::start(parameters()).await;
    let (between, _server) = net
        .between(|method, _, answer| {
            if method == "state_queryStorageAt" {
                put(answer, "ServingRateLimit", "0xffffffffffffffff");
                put(answer, "WeightsSetRateLimit", "0xffffffffffffffff");
            }
            Ok(())
        })
        .await;
    let client = net.client_through(&between, vec![dev::alice(), dev::bob()]).await.unwrap();
    let (alice, bob) = (key(&dev::alice()), key(&dev::bob()));
    let endpoint = |port| SocketAddr::from(([198, 51, 100, 7], port));
    net.during(client.serve_endpoint(bob, endpoint(1))).await.unwrap();
    net.during(client.set_weights(alice, &weights(&[(3, 1)]), 0)).await.unwrap();
    let never = BlockNumber::new(u64::MAX);
    assert_eq!(client.serve_endpoint(bob, endpoint(2)).await, Err(ChainError::ServingTooFast { next: never }));
    let refused = client.set_weights(alice, &weights(&[(4, 1)]), 0).await;
    assert_eq!(refused, Err(ChainError::WeightsTooFast { next: never }));

    let begun = Arc::new(AtomicBool::new(true));
    let (between, _server) = net.claiming(u64::MAX, &begun).await;
    let alone = Connection { endpoints: vec![between.clone()], ..net.connection(vec![]) };
    let refused = Subtensor::connect(alone).await.unwrap_err();
    assert!(matches!(&refused, ChainError::BadAnswer { endpoint, .. } if *endpoint == between), "{refused}");

    // With another endpoint, it is left: at the start, and in mid-run.
    let client = net.client_through(&between, vec![]).await.unwrap();
    assert_eq!(client.metagraph().await.unwrap(), net.devnet.metagraph().await.unwrap());
    begun.store(false, Ordering::SeqCst);
    let client = net.client_through(&between, vec![dev::bob()]).await.unwrap();
    begun.store(true, Ordering::SeqCst);
    let refused = client.declare_manifest(bob, id(1)).await.unwrap_err();
    assert!(matches!(&refused, ChainError::BadAnswer { endpoint, .. } if *endpoint == between), "{refused}");
    net.during(client.declare_manifest(bob, id(1))).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_commit_too_many_is_refused_and_costs_none() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::start(Parameters { weights_form: form, weights_rate_limit: 0, ..parameters() }).await;
    let client = net.client(vec![dev::alice()]).await;
    let alice = key(&dev::alice());
    let row = weights(&[(3, 1)]);
    let mut setting = pin!(client.set_weights(alice, &row, 0));
    tokio::select! {
        done = &mut setting => panic!("{done:?}"),
        () = net.waits_in_pool(1) => {}
    }
    // Another process commits ten times before the call is in a block.
    for byte in 0..10 {
        net.devnet.commit_weights(alice, [byte; 32]).unwrap();
    }
    let refused = net.during(setting).await.unwrap_err();
    assert_eq!(refused, ChainError::TooManyCommits { open: 10 });
    assert!(refused.to_string().contains("wait for their reveal"), "{refused}");
    assert!(refused.spares_weights(), "the weights are as good as before");
    assert_eq!(client.weights_of(alice).await.unwrap().pending.len(), 10);
    // It is known before anything is submitted as long as they stand, and over when they are.
    assert_eq!(client.set_weights(alice, &row, 0).await, Err(ChainError::TooManyCommits { open: 10 }));
    let reveals = client.weights_of(alice).await.unwrap().pending[0].1;
    net.step_to(&client, reveals.next()).await;
    let placed = net.during(client.set_weights(alice, &row, 0)).await.unwrap();
    let Placement::Committed { reveals, .. } = placed else { panic!("{placed:?}") };
    net.step_to(&client, reveals).await;
    assert_eq!(net.during(client.reveal_weights(alice)).await.unwrap(), 1);
    assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reveal_that_comes_too_late_says_so_and_stops_no_other() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::with(Parameters { weights_form: form, ..parameters() }, 1).await;
    let client = net.client(vec![dev::alice()]).await;
    let alice = key(&dev::alice());
    let row = weights(&[(3, 1)]);
    let placed = net.during(client.set_weights(alice, &row, 0)).await.unwrap();
    let Placement::Committed { reveals, .. } = placed else { panic!("{placed:?}") };
    // The last block of its epoch is the next one, and what comes into that is taken back.
    loop {
        let head = net.devnet.head().await.unwrap();
        if head.epoch == reveals && head.block.get() + 2 == head.next_epoch.get() {
            break;
        }
        net.step(1);
    }
    let refused = net.taking_back(Fate::Return, client.reveal_weights(alice)).await.unwrap_err();
    let ChainError::NotRevealEpoch { committed, reveals: due, running } = refused else { panic!("{refused:?}") };
    assert_eq!((committed.next(), due), (reveals, reveals));
    assert!(running > reveals);
    assert!(refused.to_string().ends_with("they are lost, commit others"), "{refused}");
    assert!(!refused.is_passing());
    assert!(client.weights_of(alice).await.unwrap().weights.is_empty());
    // The same weights may be committed once more, and are revealed in their time.
    let placed = net.during(client.set_weights(alice, &row, 0)).await.unwrap();
    let Placement::Committed { reveals, .. } = placed else { panic!("{placed:?}") };
    while client.head().await.unwrap().epoch < reveals {
        net.during(client.head_after(client.head().await.unwrap().block)).await.unwrap();
    }
    assert_eq!(net.during(client.reveal_weights(alice)).await.unwrap(), 1);
    assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reveal_that_is_refused_does_not_hold_up_the_next() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::start(Parameters { weights_form: form, weights_rate_limit: 0, ..parameters() }).await;
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("commits.json");
    let alice = key(&dev::alice());
    // Weights on a uid that does not exist, committed first.
    let (uids, values, salt) = (vec![9_u16], vec![u16::MAX], vec![1_u16; 8]);
    let hash = (alice.as_bytes(), NETUID, &uids, &values, &salt, 0_u64).encode();
    let hash = sp_crypto_hashing::blake2_256(&hash);
    net.devnet.commit_weights(alice, hash).unwrap();
    net.step(1);
    let client = net.client_with_journal(vec![dev::alice()], journal.clone()).await;
    let placed = net.during(client.set_weights(alice, &weights(&[(3, 1)]), 0)).await.unwrap();
    let Placement::Committed { reveals, .. } = placed else { panic!("{placed:?}") };
    drop(client);
    let noted = assay_files::without_checksum(&std::fs::read(&journal).unwrap()).unwrap();
    let mut noted: Value = serde_json::from_slice(&noted).unwrap();
    let mut wrong = noted["commits"][0].clone();
    (wrong["weights"], wrong["salt"]) = (json!([[9, u16::MAX]]), json!(salt));
    wrong["digest"] = json!(hex::encode(hash));
    noted["commits"].as_array_mut().unwrap().push(wrong);
    std::fs::write(&journal, assay_files::with_checksum(noted.to_string().as_bytes())).unwrap();

    let client = net.client_with_journal(vec![dev::alice()], journal).await;
    assert_eq!(
        client.weights_of(alice).await.unwrap().pending.iter().filter(|(_, epoch)| *epoch == reveals).count(),
        2
    );
    net.step_to(&client, reveals).await;
    let refused = net.during(client.reveal_weights(alice)).await.unwrap_err();
    assert!(matches!(&refused, ChainError::Refused { name, .. } if name == "UidVecContainInvalidOne"), "{refused}");
    assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_salt_is_kept_when_the_time_until_the_reveal_grows() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::start(Parameters { weights_form: form, ..parameters() }).await;
    let folder = tempfile::tempdir().unwrap();
    let (journal, state) = (folder.path().join("commits.json"), folder.path().join("devnet.json"));
    let client = net.client_with_journal(vec![dev::alice()], journal.clone()).await;
    let alice = key(&dev::alice());
    let placed = net.during(client.set_weights(alice, &weights(&[(3, 1)]), 0)).await.unwrap();
    let Placement::Committed { reveals, .. } = placed else { panic!("{placed:?}") };
    drop(client);
    net.devnet.save(&state).unwrap();
    drop(net);
    let saved = std::fs::read_to_string(&state).unwrap();
    let longer = saved.replace("{\"period\":1}", "{\"period\":4}");
    assert_ne!(saved, longer);
    std::fs::write(&state, longer).unwrap();

    let net = Net::over(Devnet::load(&state).unwrap(), 0).await;
    let client = net.client_with_journal(vec![dev::alice()], journal).await;
    let later = Epoch::new(reveals.get() + 3);
    assert_eq!(client.weights_of(alice).await.unwrap().pending[0].1, later);
    for epoch in reveals.get()..later.get() {
        net.step_to(&client, Epoch::new(epoch)).await;
        assert_eq!(client.reveal_weights(alice).await.unwrap(), 0, "too early");
    }
    net.step_to(&client, later).await;
    assert_eq!(net.during(client.reveal_weights(alice)).await.unwrap(), 1);
    assert_eq!(client.weights_of(alice).await.unwrap().weights, weights(&[(3, 65_535)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_upgrade_in_mid_run_passes_unnoticed() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::alice(), dev::bob()]).await;
    let (alice, bob) = (key(&dev::alice()), key(&dev::bob()));
    net.during(client.declare_manifest(bob, id(1))).await.unwrap();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/chain/finney-393.scale");
    net.node.upgrade(Runtime::read(&std::fs::read(path).unwrap()).unwrap()).unwrap();
    net.step(1);
    net.seen_by(&client).await;
    assert_eq!(client.metagraph().await.unwrap(), net.devnet.metagraph().await.unwrap());
    net.during(client.declare_manifest(bob, id(2))).await.unwrap();
    net.during(client.set_weights(alice, &weights(&[(3, 1)]), 0)).await.unwrap();
    // The past before the upgrade is read by the old runtime's tables.
    let running = client.head().await.unwrap().epoch;
    client.history(Epoch::new(0)..=running, &[alice]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_between_two_writes_costs_one_more_try() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::bob()]).await;
    let bob = key(&dev::bob());
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/chain/finney-393.scale");
    let declaring = client.declare_manifest(bob, id(1));
    let upgrade = async {
        net.waits_in_pool(1).await;
        // What waits was signed for the old runtime.
        net.node.upgrade(Runtime::read(&std::fs::read(path).unwrap()).unwrap()).unwrap();
        loop {
            net.step(1);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let declared = tokio::select! { declared = declaring => declared, () = upgrade => unreachable!() };
    declared.unwrap();
    assert_eq!(client.metagraph().await.unwrap().neuron(&bob).unwrap().manifest, Some(id(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_says_what_it_is() {
    let least = Rao::new(STAKE.get() / 2);
    let strict = Parameters {
        weights_version_key: 5,
        stake_threshold: least,
        max_weight_limit: 40_000,
        max_space: 250,
        ..parameters()
    };
    let net = Net::start(strict).await;
    let client = net.client(vec![dev::ferdie(), dev::alice(), dev::bob(), dev::dave()]).await;
    let (ferdie, alice, bob, dave) = (key(&dev::ferdie()), key(&dev::alice()), key(&dev::bob()), key(&dev::dave()));
    let endpoint = |port| SocketAddr::from(([198, 51, 100, 7], port));
    let running = client.head().await.unwrap().epoch;

    // Endpoints.
    assert_eq!(client.serve_endpoint(dave, endpoint(1)).await, Err(ChainError::NotRegistered(dave)));
    assert_eq!(client.serve_endpoint(bob, endpoint(0)).await, Err(ChainError::ZeroPort));
    let nobody = key(&dev::one());
    assert_eq!(client.serve_endpoint(nobody, endpoint(1)).await, Err(ChainError::NotSigner(nobody)));
    net.during(client.serve_endpoint(bob, endpoint(1))).await.unwrap();
    let published = net.devnet.head().await.unwrap();
    let refused = client.serve_endpoint(bob, endpoint(2)).await.unwrap_err();
    let ChainError::ServingTooFast { next } = refused else { panic!("{refused:?}") };
    assert!(next <= BlockNumber::new(published.block.get() + 5));

    // The registry and keys.
    assert_eq!(client.publish_manifests(bob, &[id(1)]).await, Err(ChainError::NotOwner(bob)));
    assert_eq!(client.publish_manifests(ferdie, &[id(1), id(1)]).await, Err(ChainError::DuplicateManifest(id(1))));
    let seven: Vec<ManifestId> = (0..7).map(id).collect();
    let refused = client.publish_manifests(ferdie, &seven).await;
    assert!(matches!(refused, Err(ChainError::TooManyManifests { given: 7, .. })), "{refused:?}");
    assert_eq!(client.declare_manifest(dave, id(1)).await, Err(ChainError::NotRegistered(dave)));
    let far = Epoch::new(running.get() + 7);
    let refused = client.publish_epoch_key(alice, far, EpochKeyHash::new([1; 32])).await;
    assert!(matches!(refused, Err(ChainError::WrongKeyEpoch { epoch, .. }) if epoch == far), "{refused:?}");
    let reveal = |epoch| client.reveal_epoch_key(alice, epoch, EpochKey::new([1; 32]), RequestsDigest::new([1; 32]));
    assert_eq!(reveal(Epoch::new(0)).await, Err(ChainError::KeyNotPublished(Epoch::new(0))));

    // Weights, in the chain's order.
    let row = weights(&[(3, 1), (4, 1)]);
    let many = weights(&[(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)]);
    assert_eq!(client.set_weights(alice, &many, 5).await, Err(ChainError::TooManyWeights { given: 6, uids: 5 }));
    assert_eq!(client.set_weights(dave, &row, 5).await, Err(ChainError::NotRegistered(dave)));
    let poor = ChainError::StakeTooLow { hotkey: bob, stake: Rao::new(0), least };
    assert_eq!(client.set_weights(bob, &row, 5).await, Err(poor));
    let old = ChainError::WrongVersionKey { given: 4, required: 5 };
    assert_eq!(client.set_weights(alice, &row, 4).await, Err(old));
    let twice = weights(&[(3, 1), (3, 1)]);
    assert_eq!(client.set_weights(alice, &twice, 5).await, Err(ChainError::DuplicateUid(Uid::new(3))));
    let unknown = weights(&[(3, 1), (9, 1)]);
    assert_eq!(client.set_weights(alice, &unknown, 5).await, Err(ChainError::UnknownUid(Uid::new(9))));
    let large = weights(&[(3, 3), (4, 1)]);
    let refused = client.set_weights(alice, &large, 5).await;
    assert!(
        matches!(refused, Err(ChainError::WeightTooLarge { uid, most: 40_000, .. }) if uid.get() == 3),
        "{refused:?}"
    );
    assert_eq!(net.transactions(&dev::alice()).await, 0, "all of this was known before anything was submitted");
    net.during(client.set_weights(alice, &row, 5)).await.unwrap();
    let other = weights(&[(3, 2), (4, 1), (0, 1)]);
    let refused = client.set_weights(alice, &other, 5).await.unwrap_err();
    assert!(matches!(refused, ChainError::WeightsTooFast { .. }), "{refused:?}");
    assert!(refused.next().is_some());

    // What a hotkey may store in an epoch: two writings of 100 bytes at least.
    while client.head().await.unwrap().epoch_start != client.head().await.unwrap().block {
        net.step(1);
        net.seen_by(&client).await;
    }
    net.during(client.declare_manifest(bob, id(1))).await.unwrap();
    net.during(client.declare_manifest(bob, id(2))).await.unwrap();
    let refused = client.declare_manifest(bob, id(3)).await.unwrap_err();
    let next = client.head().await.unwrap().next_epoch;
    assert_eq!(refused, ChainError::CommitmentSpace { hotkey: bob, next });
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_epochs_are_published_once_and_revealed_when_their_epoch_is_over() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::alice()]).await;
    let alice = key(&dev::alice());
    let running = client.head().await.unwrap().epoch;
    let (hash, other) = (EpochKeyHash::new([1; 32]), EpochKeyHash::new([2; 32]));
    let next = running.next();
    net.during(client.publish_epoch_key(alice, next, hash)).await.unwrap();
    client.publish_epoch_key(alice, next, hash).await.unwrap();
    let refused = client.publish_epoch_key(alice, next, other).await;
    assert_eq!(refused, Err(ChainError::KeyAlreadyPublished(next)));
    let (epoch_key, requests) = (EpochKey::new([3; 32]), RequestsDigest::new([4; 32]));
    let early = client.reveal_epoch_key(alice, next, epoch_key, requests).await;
    assert!(matches!(early, Err(ChainError::RevealTooEarly { epoch, .. }) if epoch == next), "{early:?}");
    net.step(45);
    net.seen_by(&client).await;
    net.during(client.reveal_epoch_key(alice, next, epoch_key, requests)).await.unwrap();
    client.reveal_epoch_key(alice, next, epoch_key, requests).await.unwrap();
    let refused = client.reveal_epoch_key(alice, next, EpochKey::new([5; 32]), requests).await;
    assert_eq!(refused, Err(ChainError::KeyAlreadyRevealed(next)));
    let found = client.epoch_key(alice, next).await.unwrap().unwrap();
    assert_eq!((found.hash, found.key, found.requests), (hash, Some(epoch_key), Some(requests)));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_networks_are_refused_at_once() {
    let net = Net::start(parameters()).await;
    let connect = |change: &dyn Fn(&mut Connection)| {
        let mut connection = net.connection(vec![]);
        change(&mut connection);
        Subtensor::connect(connection)
    };
    let other = GenesisHash::new([1; 32]);
    let refused = connect(&|connection| connection.genesis = Some(other)).await.unwrap_err();
    let endpoint = net.node.url();
    assert_eq!(refused, ChainError::WrongGenesis { endpoint, expected: other, found: GENESIS });
    let refused = connect(&|connection| connection.netuid = NetUid::new(8)).await.unwrap_err();
    assert_eq!(refused, ChainError::NoSubnet(NetUid::new(8)));
    let refused = connect(&|connection| connection.endpoints = vec!["ws://127.0.0.1:9".to_owned()]).await.unwrap_err();
    assert!(
        matches!(&refused, ChainError::Unreachable { endpoint, .. } if endpoint == "ws://127.0.0.1:9"),
        "{refused}"
    );
    let refused = connect(&|connection| connection.endpoints = vec![]).await.unwrap_err();
    assert!(matches!(refused, ChainError::Unreachable { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_main_network_is_reached_by_its_name_alone() {
    let main = Genesis {
        network: Network { genesis: assay_chain::networks::FINNEY_GENESIS, netuid: NetUid::new(NETUID) },
        owner: key(&dev::ferdie()),
        validators: vec![(key(&dev::alice()), STAKE)],
        parameters: parameters(),
    };
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let node = Node::start(Devnet::new(&main).unwrap(), listen, NodeOptions::new().unwrap()).await.unwrap();
    let by_url = Connection::to(&NetworkName::Url(node.url()), NetUid::new(NETUID));
    let refused = Subtensor::connect(by_url.clone()).await.unwrap_err();
    assert_eq!(refused, ChainError::MainNetwork { endpoint: node.url() });
    assert!(refused.to_string().contains("--network finney"));
    let by_name = Connection { endpoints: vec![node.url()], ..Connection::to(&NetworkName::Finney, by_url.netuid) };
    Subtensor::connect(by_name).await.unwrap();
}

/// A node whose only block is of 1970 and whose time nobody can move.
async fn stuck_node() -> (String, ServerHandle) {
    let mut module = RpcModule::new(());
    let hash = || format!("0x{}", "a5".repeat(32));
    module.register_method("chain_getBlockHash", move |_, (), _| hash()).unwrap();
    module.register_method("chain_getFinalizedHead", move |_, (), _| hash()).unwrap();
    let header = json!({
        "parentHash": hash(), "number": "0x2a", "stateRoot": hash(), "extrinsicsRoot": hash(), "digest": { "logs": [] },
    });
    module.register_method("chain_getHeader", move |_, (), _| header.clone()).unwrap();
    module.register_method("state_getStorage", |_, (), _| "0xe803000000000000").unwrap();
    let server = Server::builder().build("127.0.0.1:0").await.unwrap();
    (format!("ws://{}", server.local_addr().unwrap()), server.start(module))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_behind_is_passed_over_and_named() {
    let net = Net::start(parameters()).await;
    let (behind, _server) = stuck_node().await;
    let mut connection = net.connection(vec![]);
    connection.endpoints = vec![behind.clone()];
    let refused = Subtensor::connect(connection.clone()).await.unwrap_err();
    let ChainError::Behind { endpoint, block, age_s } = refused else { panic!("{refused}") };
    assert_eq!((endpoint, block), (behind.clone(), BlockNumber::new(42)));
    assert!(age_s > 1_700_000_000, "{age_s}");
    connection.endpoints = vec![behind, net.node.url()];
    let client = Subtensor::connect(connection).await.unwrap();
    assert_eq!(client.metagraph().await.unwrap(), net.devnet.metagraph().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_found_by_going_back_through_old_blocks() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::ferdie(), dev::alice()]).await;
    let (ferdie, alice) = (key(&dev::ferdie()), key(&dev::alice()));
    let first = client.head().await.unwrap().epoch;
    for round in 0..6_u8 {
        net.during(client.publish_manifests(ferdie, &[id(round), id(round + 1)])).await.unwrap();
        let running = client.head().await.unwrap().epoch;
        net.during(client.publish_epoch_key(alice, running, EpochKeyHash::new([round; 32]))).await.unwrap();
        if round > 0 {
            let before = Epoch::new(running.get() - 1);
            let (epoch_key, requests) = (EpochKey::new([round; 32]), RequestsDigest::new([round; 32]));
            net.during(client.reveal_epoch_key(alice, before, epoch_key, requests)).await.unwrap();
        }
        if round == 2 {
            net.devnet.register(key(&dev::dave())).unwrap();
        }
        let ends = client.head().await.unwrap().next_epoch;
        while client.head().await.unwrap().block < ends {
            net.step(1);
            net.seen_by(&client).await;
        }
    }
    // A client that has seen nothing of it finds all of it.
    let fresh = net.client(vec![]).await;
    let last = fresh.head().await.unwrap().epoch;
    let hotkeys = [ferdie, alice, key(&dev::dave()), key(&dev::one())];
    for from in first.get()..=last.get() {
        for to in from..=last.get() {
            let epochs = Epoch::new(from)..=Epoch::new(to);
            let found = fresh.history(epochs.clone(), &hotkeys).await.unwrap();
            let known = net.devnet.history(epochs, &hotkeys).await.unwrap();
            assert_eq!(found.epochs, known.epochs);
            assert_eq!(found.epoch_keys, known.epoch_keys);
            for epoch in (from..=to).map(Epoch::new) {
                for hotkey in &hotkeys {
                    assert_eq!(found.was_registered(hotkey, epoch), known.was_registered(hotkey, epoch));
                }
                for byte in 0..9 {
                    let (found, known) = (found.was_in_force(&id(byte), epoch), known.was_in_force(&id(byte), epoch));
                    assert_eq!(found, known, "manifest {byte} in epoch {epoch}");
                }
            }
        }
    }
}

/// Notes which number the block of a hash has, where an answer tells it.
fn note(numbers: &mut HashMap<Value, u64>, method: &str, asked: &Value, answer: &Value) {
    match method {
        "chain_getBlockHash" => number(&asked[0]).map(|number| numbers.insert(answer.clone(), number)),
        "chain_getHeader" => number(&answer["number"]).map(|number| numbers.insert(asked[0].clone(), number)),
        _ => None,
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn each_epoch_has_the_registry_of_its_own_owner() {
    let net = Net::start(parameters()).await;
    let (ferdie, alice) = (key(&dev::ferdie()), key(&dev::alice()));
    // From some block on the subnet is alice's.
    let changes = Arc::new(AtomicU64::new(u64::MAX));
    let (changes_there, numbers) = (Arc::clone(&changes), Mutex::new(HashMap::new()));
    let hers = format!("0x{}", hex::encode(alice.as_bytes()));
    let (between, _server) = net
        .between(move |method, asked, answer| {
            let mut numbers = numbers.lock().unwrap();
            note(&mut numbers, method, asked, answer);
            let at = numbers.get(&asked[1]).filter(|_| method == "state_queryStorageAt");
            if at.is_some_and(|number| *number >= changes_there.load(Ordering::SeqCst)) {
                put(answer, "SubnetOwnerHotkey", &hers);
            }
            Ok(())
        })
        .await;
    let client = net.client_through(&between, vec![dev::ferdie(), dev::alice()]).await.unwrap();
    let first = client.head().await.unwrap().epoch;
    let epoch = |behind: u64| Epoch::new(first.get() + behind);
    net.during(client.publish_manifests(ferdie, &[id(1)])).await.unwrap();
    net.step_to(&client, epoch(2)).await;
    net.step(7);
    net.seen_by(&client).await;
    let since = client.head().await.unwrap().block.get() + 1;
    changes.store(since, Ordering::SeqCst);
    net.step(3);
    net.seen_by(&client).await;
    assert!(client.manifests().await.unwrap().is_empty(), "she has published nothing yet");
    assert_eq!(client.publish_manifests(ferdie, &[id(3)]).await, Err(ChainError::NotOwner(ferdie)));
    net.during(client.publish_manifests(alice, &[id(2)])).await.unwrap();
    net.step_to(&client, epoch(4)).await;

    for last in 0..=4 {
        let history = client.history(first..=epoch(last), &[]).await.unwrap();
        let in_force =
            |byte| (0..=last).map(|behind| history.was_in_force(&id(byte), epoch(behind))).collect::<Vec<_>>();
        let among = |epochs: RangeInclusive<u64>| (0..=last).map(|behind| epochs.contains(&behind)).collect::<Vec<_>>();
        assert_eq!(in_force(1), among(0..=2), "hers was not his, up to epoch {last}");
        assert_eq!(in_force(2), among(2..=4), "up to epoch {last}");
        assert!(last < 2 || history.manifests.contains(&(BlockNumber::new(since), vec![])), "{:?}", history.manifests);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn epochs_that_are_out_of_order_are_refused_and_asked_for_elsewhere() {
    let net = Net::start(parameters()).await;
    net.step(125 - net.devnet.head().await.unwrap().block.get());
    let numbers = Mutex::new(HashMap::new());
    let (between, _server) = net
        .between(move |method, asked, answer| {
            let mut numbers = numbers.lock().unwrap();
            note(&mut numbers, method, asked, answer);
            // Epoch 2 is looked for at block 42. The tempo that is told there leads to block 117, and the one
            // told there makes it an epoch 2 that begins at block 116.
            match numbers.get(&asked[1]).filter(|_| method == "state_queryStorageAt") {
                Some(42) => put(answer, "Tempo", "0x3100"),
                Some(117) => put(answer, "Tempo", "0x3d00"),
                _ => {}
            }
            Ok(())
        })
        .await;
    let client = net.client_through(&between, vec![]).await.unwrap();
    let epochs = Epoch::new(2)..=Epoch::new(3);
    let refused = client.history(epochs.clone(), &[]).await.unwrap_err();
    assert!(
        matches!(&refused, ChainError::BadAnswer { endpoint, what, .. } if *endpoint == between && what == "the first block of epoch 3"),
        "{refused}"
    );
    let (found, known) = (client.history(epochs.clone(), &[]).await, net.devnet.history(epochs, &[]).await);
    assert_eq!(found.unwrap().epochs, known.unwrap().epochs);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_has_forgotten_the_past_says_so() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![dev::ferdie(), dev::alice()]).await;
    let (ferdie, alice) = (key(&dev::ferdie()), key(&dev::alice()));
    let first = client.head().await.unwrap().epoch;
    let (hash, secret, requests) = (EpochKeyHash::new([1; 32]), EpochKey::new([2; 32]), RequestsDigest::new([3; 32]));
    net.during(client.publish_manifests(ferdie, &[id(1)])).await.unwrap();
    net.during(client.publish_epoch_key(alice, first.next(), hash)).await.unwrap();
    // The devnet keeps the state of 4,096 blocks.
    net.step(4_200);
    net.seen_by(&client).await;
    net.during(client.publish_manifests(ferdie, &[id(2)])).await.unwrap();
    let past = client.history(first..=first, &[ferdie]).await;
    assert!(matches!(past, Err(ChainError::Forgotten { .. })), "{past:?}");
    assert_eq!(client.manifests().await.unwrap(), [id(2)]);
    // The present is told all the same, and a key that was published long ago can still be revealed.
    let fresh = net.client(vec![dev::alice()]).await;
    let newest = fresh.epoch_key(alice, first.next()).await.unwrap().unwrap();
    assert_eq!((newest.hash, newest.key), (hash, None));
    net.during(fresh.reveal_epoch_key(alice, first.next(), secret, requests)).await.unwrap();
    assert_eq!(fresh.epoch_key(alice, first.next()).await.unwrap().unwrap().key, Some(secret));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stands_still_leaves_heads_to_wait_for() {
    let net = Net::start(parameters()).await;
    let client = net.client(vec![]).await;
    let head = client.head().await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(500), client.head_after(head.block)).await;
    assert!(waited.is_err(), "{waited:?}");
    net.step(1);
    assert_eq!(client.head_after(head.block).await.unwrap().block.get(), head.block.get() + 1);
}

/// Reads of a real network: `ASSAY_CHAIN_URL=wss://… ASSAY_CHAIN_NETUID=… cargo test -p assay-chain --test
/// subtensor -- --nocapture any_network`. `ASSAY_CHAIN_URL` may also be `local`, `test` or `finney`.
#[tokio::test(flavor = "multi_thread")]
async fn any_network_can_be_read() {
    let (url, netuid) = (std::env::var("ASSAY_CHAIN_URL"), std::env::var("ASSAY_CHAIN_NETUID"));
    let (Ok(url), Ok(netuid)) = (url, netuid) else {
        println!("SKIPPED: any_network_can_be_read needs ASSAY_CHAIN_URL and ASSAY_CHAIN_NETUID");
        return;
    };
    let network: NetworkName = url.parse().unwrap();
    let netuid = NetUid::new(netuid.parse().unwrap());
    let client = Subtensor::connect(Connection::to(&network, netuid)).await.unwrap();
    let head = client.head().await.unwrap();
    let (metagraph, settings) = (client.metagraph().await.unwrap(), client.hyperparameters().await.unwrap());
    println!("{head:?}\n{settings:?}\n{} neurons at block {}", metagraph.neurons.len(), metagraph.block);
    assert!(metagraph.neurons.len() <= usize::from(settings.max_allowed_uids));
    assert!(head.epoch_start <= head.block && head.block < head.next_epoch);
    let manifests = client.manifests().await.unwrap();
    println!("manifests in force: {manifests:?}");
    let next = client.head_after(head.block).await.unwrap();
    assert!(next.block > head.block);
}
