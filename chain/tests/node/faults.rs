//! What goes wrong with nodes, on request: blocks taken back, upgrades, lost connections, standing still.

use std::time::Duration;

use assay_chain::{Fate, NodeError, NodeOptions, Runtime};
use serde_json::{Value as Json, json};
use subxt::tx::TransactionStatus;
use subxt_signer::sr25519::dev;

use crate::{Hash, NETUID, Net, hexadecimal, nothing, parameters, refusal, serve_axon, set_commitment};

const NEWER: &[u8] = include_bytes!("../../../fixtures/chain/finney-393.scale");

async fn lagging(lag: u64) -> Net {
    Net::with(parameters(), NodeOptions { finality_lag: lag, ..NodeOptions::new().unwrap() }).await
}

#[tokio::test]
async fn a_block_is_final_once_others_are_on_top_of_it() {
    let net = lagging(2).await;
    let mut progress = net.submit(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
    assert!(matches!(progress.next().await, Some(Ok(TransactionStatus::Validated))));
    net.node.step(1).unwrap();
    let Some(Ok(TransactionStatus::InBestBlock(block))) = progress.next().await else { panic!("not in a block") };
    net.node.step(1).unwrap();
    let last: String = net.ask("chain_getFinalizedHead", nothing()).await;
    assert_ne!(last, hexadecimal(block.block_hash()));
    let soon = tokio::time::timeout(Duration::from_millis(100), progress.next()).await;
    assert!(soon.is_err(), "told as final after one block");
    net.node.step(1).unwrap();
    let Some(Ok(TransactionStatus::InFinalizedBlock(last))) = progress.next().await else { panic!("not final") };
    assert_eq!(last.block_hash(), block.block_hash());
    let head: String = net.ask("chain_getFinalizedHead", nothing()).await;
    assert_eq!(head, hexadecimal(last.block_hash()));
}

/// The statuses of an extrinsic, as the node words them.
async fn watch(net: &Net) -> subxt::rpcs::client::RpcSubscription<Json> {
    let params = subxt::config::DefaultExtrinsicParamsBuilder::new().mortal(32).build();
    let mut tx = net.api.tx().await.unwrap();
    let call = serve_axon(NETUID, 8_091);
    let signed = tx.create_signed(&call, &crate::Signer(dev::bob()), params).await.unwrap();
    let params = subxt::rpcs::rpc_params![hexadecimal(signed.encoded())];
    net.rpc.subscribe("author_submitAndWatchExtrinsic", params, "author_unwatchExtrinsic").await.unwrap()
}

#[tokio::test]
async fn a_block_that_is_taken_back_gives_its_extrinsics_to_the_next() {
    let net = lagging(3).await;
    let mut statuses = watch(&net).await;
    let mut next = async || statuses.next().await.unwrap().unwrap();
    assert_eq!(next().await, "ready");
    net.node.step(1).unwrap();
    let lost = next().await["inBlock"].as_str().unwrap().to_owned();
    net.node.retract(Fate::Return).unwrap();
    assert_eq!(next().await, json!({ "retracted": lost }));
    let other: String = net.ask("chain_getBlockHash", json!([2])).await;
    assert_ne!(other, lost);
    // The block that was taken back is known still; the chain does not contain it.
    let header: Json = net.ask("chain_getHeader", json!([lost])).await;
    assert_eq!(header["number"], "0x2");
    let metagraph = assay_chain::Chain::metagraph(&net.devnet).await.unwrap();
    assert_eq!(metagraph.neurons[2].endpoint, None, "the devnet went back too");
    net.node.step(1).unwrap();
    let found = next().await["inBlock"].as_str().unwrap().to_owned();
    let third: String = net.ask("chain_getBlockHash", json!([3])).await;
    assert_eq!(found, third);
    net.node.step(3).unwrap();
    assert_eq!(next().await, json!({ "finalized": third }));
    let metagraph = assay_chain::Chain::metagraph(&net.devnet).await.unwrap();
    assert!(metagraph.neurons[2].endpoint.is_some());
}

#[tokio::test]
async fn extrinsics_of_a_block_that_is_taken_back_may_vanish() {
    let net = lagging(3).await;
    let mut statuses = watch(&net).await;
    net.node.step(1).unwrap();
    net.node.retract(Fate::Vanish).unwrap();
    net.node.step(3).unwrap();
    let mut seen = Vec::new();
    while let Ok(Some(status)) = tokio::time::timeout(Duration::from_millis(300), statuses.next()).await {
        seen.push(status.unwrap());
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert_eq!((&seen[0], &seen[3]), (&json!("ready"), &json!("dropped")));
    let metagraph = assay_chain::Chain::metagraph(&net.devnet).await.unwrap();
    assert_eq!(metagraph.neurons[2].endpoint, None);
    // The account may use its nonce again.
    net.submit(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
}

#[tokio::test]
async fn a_final_block_is_never_taken_back() {
    let net = Net::start().await;
    net.node.step(1).unwrap();
    assert_eq!(net.node.retract(Fate::Return), Err(NodeError::Final(2)));
    let net = lagging(1).await;
    assert_eq!(net.node.retract(Fate::Return), Err(NodeError::Final(1)));
    net.node.step(1).unwrap();
    assert_eq!(net.node.retract(Fate::Return), Ok(()));
    net.node.step(1).unwrap();
    net.node.retract(Fate::Return).unwrap();
    assert_eq!(net.node.step(1).unwrap().get(), 4);
}

#[tokio::test]
async fn an_upgrade_changes_types_and_versions_from_its_block_on() {
    let net = Net::start().await;
    let params = subxt::rpcs::rpc_params![];
    let told = net.rpc.subscribe::<Json>("state_subscribeRuntimeVersion", params, "state_unsubscribeRuntimeVersion");
    let mut told = told.await.unwrap();
    assert_eq!(told.next().await.unwrap().unwrap()["specVersion"], 365);
    let before = net.api.at_current_block().await.unwrap();
    let mut old = before.transactions();
    let call = set_commitment(&[b"before"]);
    let params = || subxt::config::DefaultExtrinsicParamsBuilder::new().mortal(32).build();
    let early = old.create_signed(&call, &crate::Signer(dev::bob()), params()).await.unwrap();
    let late = old.create_signed(&call, &crate::Signer(dev::alice()), params()).await.unwrap();

    net.node.upgrade(Runtime::read(NEWER).unwrap()).unwrap();
    let early = early.submit_and_watch().await.unwrap();
    net.node.step(1).unwrap();
    // The block that brings the upgrade was made with the old runtime.
    let events = early.wait_for_finalized_success().await.unwrap();
    assert!(events.iter().all(|event| event.is_ok()));
    assert_eq!(told.next().await.unwrap().unwrap()["specVersion"], 393);
    let (code, words) = refusal(late.submit_and_watch().await.unwrap_err());
    assert_eq!((code, words.as_str()), (1_010, "Transaction has a bad signature"));
    let after = net.api.at_current_block().await.unwrap();
    assert_eq!((before.spec_version(), after.spec_version()), (365, 393));
    net.done(&dev::alice(), &set_commitment(&[b"after"])).await.unwrap();
    let past = net.api.at_block(before.block_number()).await.unwrap();
    assert_eq!(past.spec_version(), 365);
    let block: Json = net.ask("chain_getHeader", json!([hexadecimal(after.block_hash())])).await;
    assert_eq!(block["digest"]["logs"][1], "0x08");
}

#[tokio::test]
async fn what_was_signed_for_the_old_runtime_is_invalid_behind_the_upgrade() {
    let net = Net::start().await;
    net.node.upgrade(Runtime::read(NEWER).unwrap()).unwrap();
    net.node.step(1).unwrap();
    // Signed for the new one, and waiting while yet another runtime comes.
    net.node.upgrade(Runtime::recorded().unwrap()).unwrap();
    let first = net.submit(&dev::bob(), &set_commitment(&[b"x"])).await.unwrap();
    net.node.step(1).unwrap();
    first.wait_for_finalized_success().await.unwrap();
    let version: Json = net.ask("state_getRuntimeVersion", nothing()).await;
    assert_eq!(version["specVersion"], 365);
}

#[tokio::test]
async fn a_node_that_went_away_comes_back_with_all_it_had() {
    let net = Net::start().await;
    net.done(&dev::bob(), &set_commitment(&[b"kept"])).await.unwrap();
    let mut blocks = net.api.stream_blocks().await.unwrap();
    blocks.next().await.unwrap().unwrap();
    net.node.disconnect().await;
    assert!(tokio::net::TcpStream::connect(net.node.address()).await.is_err());
    let lost = tokio::time::timeout(Duration::from_secs(5), blocks.next()).await.unwrap();
    assert!(lost.is_none_or(|block| block.is_err()));
    net.node.step(1).unwrap();
    net.node.reconnect().await.unwrap();
    let rpc = subxt::rpcs::RpcClient::from_insecure_url(net.node.url()).await.unwrap();
    let api = crate::client(&rpc, subxt::SubstrateConfig::builder()).await;
    assert_eq!(api.at_current_block().await.unwrap().block_number(), 3);
}

#[tokio::test]
async fn the_clock_makes_blocks_unless_the_node_stands_still() {
    let options = NodeOptions { block_time: Some(Duration::from_millis(20)), ..NodeOptions::new().unwrap() };
    let net = Net::with(parameters(), options).await;
    let progress = net.submit(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
    progress.wait_for_finalized_success().await.unwrap();
    net.node.stand_still(true);
    let health: Json = net.ask("system_health", nothing()).await;
    assert_eq!(health["isSyncing"], true);
    let head = async || net.ask::<String>("chain_getBlockHash", nothing()).await;
    let still = head().await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(head().await, still);
    net.node.stand_still(false);
    tokio::time::timeout(Duration::from_secs(5), async {
        while head().await == still {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn only_this_machine_is_served() {
    let everywhere = std::net::SocketAddr::from(([0, 0, 0, 0], 0));
    let options = NodeOptions::new().unwrap();
    let refused = assay_chain::Node::start(crate::devnet(parameters()), everywhere, options).await;
    assert_eq!(refused.err(), Some(NodeError::NotLoopback(everywhere)));
}

#[tokio::test]
async fn blocks_of_one_devnet_are_the_same_to_the_last_bit() {
    let chain = async || {
        let net = Net::start().await;
        net.node.step(5).unwrap();
        net.api.at_current_block().await.unwrap().block_hash()
    };
    let (one, other): (Hash, Hash) = (chain().await, chain().await);
    assert_eq!(one, other);
}
