//! A client of the network against the devnet's node: subxt connects, reads, submits and watches as it would there.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod faults;
mod reads;
mod refusals;
mod requests;
mod writes;

use std::{net::SocketAddr, sync::Arc};

use assay_chain::{
    Devnet, Genesis, GenesisHash, NetUid, Network, Node, NodeOptions, Parameters, Rao, RunningNode, WeightsForm,
};
use assay_commitments::Hotkey;
use scale_value::{Composite, Value};
use serde::de::DeserializeOwned;
use serde_json::json;
use subxt::{
    OnlineClient, SubstrateConfig,
    backend::LegacyBackend,
    config::{HashFor, substrate::SubstrateConfigBuilder},
    error::{BackendError, ExtrinsicError, RpcError},
    rpcs::RpcClient,
    tx::TransactionProgress,
    utils::{AccountId32, MultiSignature},
};
use subxt_signer::sr25519::{Keypair, dev};

pub(crate) type Api = OnlineClient<SubstrateConfig>;
pub(crate) type AtBlock = subxt::client::OnlineClientAtBlockImpl<SubstrateConfig>;
pub(crate) type Progress = TransactionProgress<SubstrateConfig, AtBlock>;
pub(crate) type Hash = HashFor<SubstrateConfig>;

pub(crate) const NETUID: u16 = 7;
pub(crate) const GENESIS: [u8; 32] = [0xa5; 32];

/// A node over a devnet of one validator, alice, and one miner, bob, and a client connected to it.
pub(crate) struct Net {
    pub(crate) devnet: Devnet,
    pub(crate) node: RunningNode,
    pub(crate) api: Api,
    pub(crate) rpc: RpcClient,
}

pub(crate) fn parameters() -> Parameters {
    Parameters {
        tempo: 19,
        weights_form: WeightsForm::Plain,
        weights_rate_limit: 10,
        min_allowed_weights: 1,
        serving_rate_limit: 5,
        ..Parameters::default()
    }
}

pub(crate) fn key(pair: &Keypair) -> Hotkey {
    Hotkey::new(pair.public_key().0)
}

pub(crate) fn devnet(parameters: Parameters) -> Devnet {
    let genesis = Genesis {
        network: Network { genesis: GenesisHash::new(GENESIS), netuid: NetUid::new(NETUID) },
        owner: key(&dev::ferdie()),
        validators: vec![(key(&dev::alice()), Rao::new(1_000_000_000_000))],
        parameters,
    };
    let devnet = Devnet::new(&genesis).unwrap();
    devnet.register(key(&dev::bob())).unwrap();
    devnet
}

pub(crate) fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

impl Net {
    pub(crate) async fn start() -> Self {
        Self::with(parameters(), NodeOptions::new().unwrap()).await
    }

    pub(crate) async fn with(parameters: Parameters, options: NodeOptions) -> Self {
        let devnet = devnet(parameters);
        let node = Node::start(devnet.clone(), loopback(), options).await.unwrap();
        let rpc = RpcClient::from_insecure_url(node.url()).await.unwrap();
        let api = client(&rpc, SubstrateConfig::builder()).await;
        Self { devnet, node, api, rpc }
    }

    /// A raw request.
    pub(crate) async fn ask<T: DeserializeOwned>(&self, method: &str, params: serde_json::Value) -> T {
        self.try_ask(method, params).await.unwrap_or_else(|(code, why)| panic!("{method}: {code} {why}"))
    }

    /// A raw request, or the code and the text of the node's error.
    pub(crate) async fn try_ask<T: DeserializeOwned>(
        &self,
        method: &str,
        params: serde_json::Value,
    ) -> Result<T, (i32, String)> {
        let mut list = subxt::rpcs::client::RpcParams::new();
        params.as_array().unwrap().iter().for_each(|param| list.push(param).unwrap());
        self.rpc.request(method, list).await.map_err(|error| match error {
            subxt::rpcs::Error::User(error) => {
                let data = error.data.map(|data| data.get().to_owned()).unwrap_or_default();
                (error.code, format!("{} {data}", error.message))
            }
            other => panic!("{method}: {other}"),
        })
    }

    /// Signs with all defaults, submits and watches.
    pub(crate) async fn submit(&self, signer: &Keypair, call: &Call) -> Result<Progress, ExtrinsicError> {
        submit(&self.api, signer, call).await
    }

    /// Submits a call that will be in a block, makes the block, and says which events it left.
    pub(crate) async fn done(&self, signer: &Keypair, call: &Call) -> Result<Vec<String>, String> {
        let progress = self.submit(signer, call).await.map_err(|error| format!("{:?}", refusal(error)))?;
        self.node.step(1).unwrap();
        let block = progress.wait_for_finalized().await.unwrap();
        let events = block.wait_for_success().await.map_err(|error| error.to_string())?;
        let name = |event: &subxt::events::Event<'_, _>| format!("{}.{}", event.pallet_name(), event.event_name());
        Ok(events.iter().map(|event| name(&event.unwrap())).collect())
    }
}

/// A client over a connection, in its own configuration.
pub(crate) async fn client(rpc: &RpcClient, config: SubstrateConfigBuilder) -> Api {
    let backend = LegacyBackend::<SubstrateConfig>::builder().build(rpc.clone());
    OnlineClient::from_backend_with_config(config.build(), Arc::new(backend)).await.unwrap()
}

/// A call by names: what a client without generated code submits.
pub(crate) type Call = subxt::tx::DynamicPayload<Composite<()>>;

pub(crate) fn call(pallet: &str, name: &str, arguments: Vec<(&str, Value<()>)>) -> Call {
    subxt::dynamic::tx(pallet, name, Composite::named(arguments))
}

pub(crate) fn number(number: impl Into<u128>) -> Value<()> {
    Value::u128(number.into())
}

pub(crate) fn numbers(all: &[u16]) -> Value<()> {
    Value::unnamed_composite(all.iter().map(|value| number(*value)))
}

/// `serve_axon` of 198.51.100.7 on a port.
pub(crate) fn serve_axon(netuid: u16, port: u16) -> Call {
    let arguments = vec![
        ("netuid", number(netuid)),
        ("version", number(1_u8)),
        ("ip", number(3_325_256_711_u32)),
        ("port", number(port)),
        ("ip_type", number(4_u8)),
        ("protocol", number(4_u8)),
        ("placeholder1", number(0_u8)),
        ("placeholder2", number(0_u8)),
    ];
    call("SubtensorModule", "serve_axon", arguments)
}

pub(crate) fn set_weights(uids: &[u16], values: &[u16]) -> Call {
    let arguments = vec![
        ("netuid", number(NETUID)),
        ("dests", numbers(uids)),
        ("weights", numbers(values)),
        ("version_key", number(0_u8)),
    ];
    call("SubtensorModule", "set_weights", arguments)
}

pub(crate) fn set_commitment(fields: &[&[u8]]) -> Call {
    let field = |field: &&[u8]| Value::unnamed_variant(format!("Raw{}", field.len()), [Value::from_bytes(field)]);
    let fields = Value::unnamed_composite(fields.iter().map(field));
    let info = Value::named_composite([("fields", fields)]);
    call("Commitments", "set_commitment", vec![("netuid", number(NETUID)), ("info", info)])
}

pub(crate) async fn submit(api: &Api, signer: &Keypair, call: &Call) -> Result<Progress, ExtrinsicError> {
    api.tx().await.unwrap().sign_and_submit_then_watch_default(call, &Signer(signer.clone())).await
}

/// A key that signs for subxt.
pub(crate) struct Signer(pub(crate) Keypair);

impl subxt::tx::Signer<SubstrateConfig> for Signer {
    fn account_id(&self) -> AccountId32 {
        AccountId32(self.0.public_key().0)
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        MultiSignature::Sr25519(self.0.sign(payload).0)
    }
}

/// The code and the words with which a node refuses an extrinsic.
pub(crate) fn refusal(error: ExtrinsicError) -> (i32, String) {
    match error {
        ExtrinsicError::ErrorSubmittingTransaction(BackendError::Rpc(RpcError::ClientError(
            subxt::rpcs::Error::User(error),
        ))) => (error.code, error.data.map(|data| data.get().trim_matches('"').to_owned()).unwrap_or_default()),
        other => panic!("not refused by the node: {other}"),
    }
}

pub(crate) fn hexadecimal(bytes: impl AsRef<[u8]>) -> String {
    format!("0x{}", hex::encode(bytes))
}

/// No parameters.
pub(crate) fn nothing() -> serde_json::Value {
    json!([])
}
