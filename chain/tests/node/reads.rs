//! What a client reads is what the devnet holds, under the keys and in the types of the real chain.

use assay_chain::{Chain, Coldkey, EpochReport, Rao};
use scale_decode::DecodeAsType;
use serde_json::{Value as Json, json};
use subxt_signer::sr25519::dev;

use crate::{GENESIS, NETUID, Net, hexadecimal, key, nothing, serve_axon, set_weights};

#[derive(Debug, PartialEq, DecodeAsType)]
struct AxonInfo {
    block: u64,
    version: u32,
    ip: u128,
    port: u16,
    ip_type: u8,
    protocol: u8,
}

#[derive(Debug, PartialEq, DecodeAsType)]
struct Account {
    nonce: u32,
    data: AccountData,
}

#[derive(Debug, PartialEq, DecodeAsType)]
struct AccountData {
    free: u64,
}

/// An item of the subnet, by its netuid.
async fn own<T: DecodeAsType>(net: &Net, item: &str) -> T {
    let at = net.api.at_current_block().await.unwrap();
    let item = subxt::dynamic::storage::<(u16,), T>("SubtensorModule", item);
    at.storage().fetch(item, (NETUID,)).await.unwrap().decode().unwrap()
}

#[tokio::test]
async fn the_metagraph_is_read_item_by_item() {
    let net = Net::start().await;
    net.node.step(8).unwrap();
    net.done(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
    net.done(&dev::alice(), &set_weights(&[2], &[1])).await.unwrap();
    net.node.step(20).unwrap();
    assert_eq!(net.api.genesis_hash().0, GENESIS);
    let metagraph = net.devnet.metagraph().await.unwrap();
    let neurons = &metagraph.neurons;
    assert_eq!(own::<u16>(&net, "SubnetworkN").await, 3);
    assert!(own::<bool>(&net, "NetworksAdded").await);
    assert_eq!(own::<[u8; 32]>(&net, "SubnetOwnerHotkey").await, dev::ferdie().public_key().0);
    assert_eq!(own::<u16>(&net, "Tempo").await, 19);
    assert!(!own::<bool>(&net, "CommitRevealWeightsEnabled").await);
    let permits: Vec<bool> = neurons.iter().map(|neuron| neuron.validator_permit).collect();
    assert_eq!(own::<Vec<bool>>(&net, "ValidatorPermit").await, permits);
    let updates: Vec<u64> = neurons.iter().map(|neuron| neuron.last_update.get()).collect();
    assert_eq!(own::<Vec<u64>>(&net, "LastUpdate").await, updates);
    // Alice's weight on bob was computed in the epoch that has ended.
    assert_eq!(own::<Vec<u16>>(&net, "Incentive").await, [0, 0, 65_535]);

    let at = net.api.at_current_block().await.unwrap();
    let storage = at.storage();
    let (alice, bob) = (dev::alice().public_key().0, dev::bob().public_key().0);
    let uids = subxt::dynamic::storage::<(u16, [u8; 32]), u16>("SubtensorModule", "Uids");
    assert_eq!(storage.fetch(&uids, (NETUID, bob)).await.unwrap().decode().unwrap(), 2);
    let nobody = storage.try_fetch(&uids, (NETUID, [1; 32])).await.unwrap();
    assert!(nobody.is_none());
    let keys = subxt::dynamic::storage::<(u16, u16), [u8; 32]>("SubtensorModule", "Keys");
    assert_eq!(storage.fetch(&keys, (NETUID, 1)).await.unwrap().decode().unwrap(), alice);
    let stake = subxt::dynamic::storage::<([u8; 32], u16), u64>("SubtensorModule", "TotalHotkeyAlpha");
    let stake = storage.fetch(stake, (alice, NETUID)).await.unwrap().decode().unwrap();
    assert_eq!(Rao::new(stake), neurons[1].stake);
    let weights = subxt::dynamic::storage::<(u16, u16), Vec<(u16, u16)>>("SubtensorModule", "Weights");
    assert_eq!(storage.fetch(weights, (NETUID, 1)).await.unwrap().decode().unwrap(), [(2, 65_535)]);
    let axons = subxt::dynamic::storage::<(u16, [u8; 32]), AxonInfo>("SubtensorModule", "Axons");
    let axon = storage.fetch(axons, (NETUID, bob)).await.unwrap().decode().unwrap();
    let expected = AxonInfo { block: 10, version: 1, ip: 3_325_256_711, port: 8_091, ip_type: 4, protocol: 4 };
    assert_eq!(axon, expected);
    let account = subxt::dynamic::storage::<([u8; 32],), Account>("System", "Account");
    let account = storage.fetch(account, (bob,)).await.unwrap().decode().unwrap();
    assert_eq!(account, Account { nonce: 1, data: AccountData { free: 0 } });
    let now = subxt::dynamic::storage::<(), u64>("Timestamp", "Now");
    let now = storage.fetch(now, ()).await.unwrap().decode().unwrap();
    assert_eq!(now % 12_000, 1_700_000_000_000 % 12_000);
    // The whole of an item, key by key.
    let axons = subxt::dynamic::storage::<(u16, u16), [u8; 32]>("SubtensorModule", "Keys");
    let mut all = storage.iter(axons, ()).await.unwrap();
    let mut count = 0;
    while let Some(entry) = all.next().await {
        entry.unwrap();
        count += 1;
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn past_blocks_are_answered_as_they_were() {
    let net = Net::start().await;
    let early = net.api.at_current_block().await.unwrap();
    net.done(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
    net.node.step(5).unwrap();
    let axons = subxt::dynamic::storage::<(u16, [u8; 32]), AxonInfo>("SubtensorModule", "Axons");
    let bob = (NETUID, dev::bob().public_key().0);
    assert!(early.storage().try_fetch(&axons, bob).await.unwrap().is_none());
    let late = net.api.at_block(early.block_number() + 1).await.unwrap();
    assert!(late.storage().try_fetch(&axons, bob).await.unwrap().is_some());
    // Each header names its parent, up to the genesis block.
    let mut hash: String = net.ask("chain_getBlockHash", nothing()).await;
    let head: Json = net.ask("chain_getHeader", json!([hash])).await;
    assert_eq!(head["number"], "0x7");
    for number in (0..7).rev() {
        let header: Json = net.ask("chain_getHeader", json!([hash])).await;
        hash = net.ask("chain_getBlockHash", json!([number])).await;
        assert_eq!(header["parentHash"], hash.as_str());
    }
    assert_eq!(hash, hexadecimal(GENESIS));
    let none: Option<String> = net.ask("chain_getBlockHash", json!([8])).await;
    assert_eq!(none, None);
    let list: Vec<Option<String>> = net.ask("chain_getBlockHash", json!([["0x0", 8]])).await;
    assert_eq!(list, [Some(hash), None]);
}

#[tokio::test]
async fn heads_follow_one_another_without_gaps() {
    let net = Net::start().await;
    let mut best = net.api.stream_best_blocks().await.unwrap();
    let mut finalized = net.api.stream_blocks().await.unwrap();
    let firsts = [best.next().await.unwrap().unwrap(), finalized.next().await.unwrap().unwrap()];
    net.node.step(3).unwrap();
    for (blocks, mut last) in [&mut best, &mut finalized].into_iter().zip(firsts) {
        for number in 2..=4 {
            let block = blocks.next().await.unwrap().unwrap();
            assert_eq!((block.number(), block.header().parent_hash), (number, last.hash()));
            last = block;
        }
    }
}

#[tokio::test]
async fn many_keys_are_answered_at_once_and_changes_are_told() {
    let net = Net::start().await;
    let block: String = net.ask("chain_getBlockHash", nothing()).await;
    let prefix = [sp_crypto_hashing::twox_128(b"SubtensorModule"), sp_crypto_hashing::twox_128(b"Uids")].concat();
    let keys: Vec<String> = net.ask("state_getKeysPaged", json!([hexadecimal(&prefix), 2, null, block])).await;
    let rest: Vec<String> = net.ask("state_getKeysPaged", json!([hexadecimal(&prefix), 9, keys[1], block])).await;
    assert_eq!((keys.len(), rest.len()), (2, 1));
    let asked = [keys, rest, vec!["0x1234".to_owned()]].concat();
    let answer: Vec<Json> = net.ask("state_queryStorageAt", json!([asked, block])).await;
    assert_eq!(answer[0]["block"], block.as_str());
    let changes = answer[0]["changes"].as_array().unwrap();
    assert_eq!(changes.len(), 4);
    for (change, key) in changes.iter().zip(&asked) {
        let single: Json = net.ask("state_getStorage", json!([key, block])).await;
        assert_eq!(*change, json!([key, single]));
    }
    assert_eq!(changes[3][1], Json::Null);

    let number = hexadecimal([sp_crypto_hashing::twox_128(b"System"), sp_crypto_hashing::twox_128(b"Number")].concat());
    let params = subxt::rpcs::rpc_params![vec![&asked[0], &number]];
    let told = net.rpc.subscribe::<Json>("state_subscribeStorage", params, "state_unsubscribeStorage");
    let mut told = told.await.unwrap();
    let first = told.next().await.unwrap().unwrap();
    assert_eq!(first["changes"].as_array().unwrap().len(), 2);
    net.node.step(1).unwrap();
    let next = told.next().await.unwrap().unwrap();
    assert_eq!(next["changes"], json!([[number, "0x02000000"]]), "a uid stays, the number counts up");
}

#[tokio::test]
async fn the_devnets_own_methods_move_time_and_give() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("devnet.json");
    let kept = assay_chain::NodeOptions { state: Some(path.clone()), ..assay_chain::NodeOptions::new().unwrap() };
    let net = Net::with(crate::parameters(), kept).await;
    let (hotkey, coldkey) = (dev::eve().public_key().0, dev::dave().public_key().0);
    let uid: u16 = net.ask("devnet_register", json!([hexadecimal(hotkey), hexadecimal(coldkey)])).await;
    assert_eq!(uid, 3);
    let () = net.ask("devnet_stake", json!([hexadecimal(hotkey), 5_000])).await;
    let () = net.ask("devnet_fund", json!([hexadecimal(coldkey), 77])).await;
    let head: u64 = net.ask("devnet_step", json!([30])).await;
    assert_eq!(head, 31);
    let metagraph = net.devnet.metagraph().await.unwrap();
    let neuron = metagraph.neuron(&key(&dev::eve())).unwrap();
    assert_eq!((neuron.coldkey, neuron.stake), (Coldkey::new(coldkey), Rao::new(5_000)));
    assert_eq!(net.devnet.balance(Coldkey::new(coldkey)), Rao::new(77));
    let owner = subxt::dynamic::storage::<([u8; 32],), [u8; 32]>("SubtensorModule", "Owner");
    let at = net.api.at_current_block().await.unwrap();
    assert_eq!(at.storage().fetch(owner, (hotkey,)).await.unwrap().decode().unwrap(), coldkey);
    let reports: Vec<EpochReport> = net.ask("devnet_epochReports", json!([0])).await;
    assert_eq!(reports, net.devnet.reports(assay_commitments::Epoch::new(0)));
    assert!(!reports.is_empty());

    net.done(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
    // Between two blocks it is saved on demand, and nowhere else than where it is kept.
    let () = net.ask("devnet_fund", json!([hexadecimal(coldkey), 3])).await;
    let balance = || assay_chain::Devnet::load(&path).unwrap().balance(Coldkey::new(coldkey));
    assert_eq!(balance(), Rao::new(77));
    let elsewhere = folder.path().join("precious");
    std::fs::write(&elsewhere, "mine").unwrap();
    assert_eq!(net.try_ask::<Json>("devnet_save", json!([elsewhere])).await.unwrap_err().0, -32_602);
    assert_eq!((std::fs::read_to_string(&elsewhere).unwrap().as_str(), balance()), ("mine", Rao::new(77)));
    let () = net.ask("devnet_save", nothing()).await;
    assert_eq!(balance(), Rao::new(80));
    let loaded = assay_chain::Devnet::load(&path).unwrap();
    assert_eq!(loaded.metagraph().await.unwrap(), net.devnet.metagraph().await.unwrap());
    // A node over the loaded devnet goes on where this one stands, nonces included.
    let options = assay_chain::NodeOptions::new().unwrap();
    let again = assay_chain::Node::start(loaded, crate::loopback(), options).await.unwrap();
    let rpc = subxt::rpcs::RpcClient::from_insecure_url(again.url()).await.unwrap();
    let api = crate::client(&rpc, subxt::SubstrateConfig::builder()).await;
    let account = subxt::utils::AccountId32(dev::bob().public_key().0);
    assert_eq!(api.tx().await.unwrap().account_nonce(&account).await.unwrap(), 1);
    // Blocks have the hashes they had, so what was signed on one of them is good still.
    assert_eq!(
        api.at_current_block().await.unwrap().block_hash(),
        net.api.at_current_block().await.unwrap().block_hash()
    );
    assert_eq!(again.step(1).unwrap().get(), 33);
}

#[tokio::test]
async fn a_node_says_what_it_is() {
    let net = Net::start().await;
    let chain: String = net.ask("system_chain", nothing()).await;
    assert_eq!(chain, "Assay devnet");
    let properties: Json = net.ask("system_properties", nothing()).await;
    assert_eq!(properties, json!({ "ss58Format": 42, "tokenDecimals": 9, "tokenSymbol": "TAO" }));
    let version: Json = net.ask("state_getRuntimeVersion", nothing()).await;
    assert_eq!((&version["specName"], &version["specVersion"]), (&json!("node-subtensor"), &json!(365)));
    let methods: Json = net.ask("rpc_methods", nothing()).await;
    let methods = methods["methods"].as_array().unwrap();
    for method in ["author_submitAndWatchExtrinsic", "chain_getFinalizedHead", "devnet_step", "rpc_methods"] {
        assert!(methods.contains(&json!(method)), "{method}");
    }
    let metadata: String = net.ask("state_getMetadata", nothing()).await;
    let recorded = include_bytes!("../../../fixtures/chain/finney-365.scale");
    assert_eq!(metadata, hexadecimal(recorded));
}

/// 256 places, 64 validators that weigh everybody, everybody with an endpoint and a commitment.
#[tokio::test]
async fn a_full_subnet_is_read_at_once() {
    let places = 256_u16;
    let net = Net::start().await;
    let hotkey = |place: u16| assay_commitments::Hotkey::new(sp_crypto_hashing::blake2_256(&place.to_le_bytes()));
    for place in 3..places {
        net.devnet.register(hotkey(place)).unwrap();
        net.devnet.serve_endpoint(hotkey(place), "198.51.100.7:8091".parse().unwrap()).await.unwrap();
        net.devnet.declare_manifest(hotkey(place), assay_commitments::ManifestId::new([1; 32])).await.unwrap();
    }
    for place in 3..67 {
        net.devnet.set_stake(hotkey(place), Rao::new(1_000_000_000_000)).unwrap();
    }
    net.node.step(20).unwrap();
    let everybody: Vec<_> = (0..places).map(|uid| (assay_chain::Uid::new(uid), uid + 1)).collect();
    for place in 3..67 {
        net.devnet.set_weights(hotkey(place), &everybody, 0).await.unwrap();
    }
    let begun = std::time::Instant::now();
    net.node.step(1).unwrap();
    let made = begun.elapsed();

    let (mut keys, mut start) = (Vec::<String>::new(), Json::Null);
    let begun = std::time::Instant::now();
    loop {
        let page: Vec<String> = net.ask("state_getKeysPaged", json!(["0x", 1_000, start])).await;
        let Some(last) = page.last() else { break };
        start = json!(last);
        keys.extend(page);
    }
    let listed = begun.elapsed();
    assert!(keys.is_sorted() && keys.len() > 2_000, "{}", keys.len());
    let begun = std::time::Instant::now();
    let answer: Vec<Json> = net.ask("state_queryStorageAt", json!([keys])).await;
    let read = begun.elapsed();
    let changes = answer[0]["changes"].as_array().unwrap();
    assert!(changes.len() == keys.len() && changes.iter().all(|change| change[1].is_string()));
    println!("{} keys: block {made:?}, storage written and listed {listed:?}, read {read:?}", keys.len());
}
