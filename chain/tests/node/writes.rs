//! What is submitted comes into a block, changes the devnet, and leaves its events.

use assay_chain::{Coldkey, NodeOptions, Rao, Uid, WeightsForm};
use scale_value::Value;
use subxt::{tx::TransactionStatus, utils::AccountId32};
use subxt_signer::sr25519::dev;

use crate::{
    NETUID, Net, Signer, call, hexadecimal, key, nothing, number, numbers, parameters, serve_axon, set_commitment,
    set_weights,
};

#[tokio::test]
async fn a_served_axon_is_watched_into_a_block_and_read_back() {
    let net = Net::start().await;
    let before = net.api.at_current_block().await.unwrap();
    let mut progress = net.submit(&dev::bob(), &serve_axon(NETUID, 8_091)).await.unwrap();
    let pending: Vec<String> = net.ask("author_pendingExtrinsics", nothing()).await;
    assert_eq!(pending.len(), 1);
    assert!(matches!(progress.next().await, Some(Ok(TransactionStatus::Validated))));
    net.node.step(1).unwrap();
    let Some(Ok(TransactionStatus::InBestBlock(best))) = progress.next().await else { panic!("not in a block") };
    let Some(Ok(TransactionStatus::InFinalizedBlock(last))) = progress.next().await else { panic!("not final") };
    assert_eq!(best.block_hash(), last.block_hash());
    assert!(progress.next().await.is_none());

    let events = last.wait_for_success().await.unwrap();
    let names: Vec<String> = events.iter().map(|event| event.unwrap().event_name().to_owned()).collect();
    assert_eq!(names, ["AxonServed", "ExtrinsicSuccess"]);
    let after = net.api.at_block(last.block_hash()).await.unwrap();
    assert_eq!(after.block_number(), before.block_number() + 1);
    // The author's word on the time comes first, so the extrinsic has index 1.
    assert_eq!(after.extrinsics().fetch().await.unwrap().iter().count(), 2);

    let endpoint = net.devnet_endpoint(1).await;
    assert_eq!(endpoint.as_deref(), Some("198.51.100.7:8091"));
}

impl Net {
    /// Where the devnet itself says that a neuron serves: uid 0 is the owner.
    async fn devnet_endpoint(&self, miner: usize) -> Option<String> {
        let metagraph = assay_chain::Chain::metagraph(&self.devnet).await.unwrap();
        metagraph.neurons[miner + 1].endpoint.map(|endpoint| endpoint.to_string())
    }
}

#[tokio::test]
async fn plain_weights_count_at_once() {
    let net = Net::start().await;
    net.node.step(10).unwrap();
    let events = net.done(&dev::alice(), &set_weights(&[2, 0], &[50, 100])).await.unwrap();
    assert_eq!(events, ["SubtensorModule.WeightsSet", "System.ExtrinsicSuccess"]);
    let weights = assay_chain::Chain::weights_of(&net.devnet, key(&dev::alice())).await.unwrap();
    assert_eq!(weights.weights, [(Uid::new(2), 32_768), (Uid::new(0), 65_535)]);
}

#[tokio::test]
async fn a_hash_of_weights_is_committed_and_revealed_in_its_epoch() {
    let form = assay_chain::Parameters { weights_form: WeightsForm::CommitReveal { period: 1 }, ..parameters() };
    let net = Net::with(form, NodeOptions::new().unwrap()).await;
    net.node.step(10).unwrap();
    let (uids, values, salt) = ([2_u16], [65_535_u16], [1_u16, 2, 3]);
    let hash = parity_scale_codec::Encode::encode(&(
        dev::alice().public_key().0,
        NETUID,
        uids.to_vec(),
        values.to_vec(),
        salt.to_vec(),
        0_u64,
    ));
    let hash = sp_crypto_hashing::blake2_256(&hash);
    let commit = call(
        "SubtensorModule",
        "commit_weights",
        vec![("netuid", number(NETUID)), ("commit_hash", Value::from_bytes(hash))],
    );
    let reveal = call(
        "SubtensorModule",
        "reveal_weights",
        vec![
            ("netuid", number(NETUID)),
            ("uids", numbers(&uids)),
            ("values", numbers(&values)),
            ("salt", numbers(&salt)),
            ("version_key", number(0_u8)),
        ],
    );
    let refused = net.done(&dev::alice(), &reveal).await;
    assert_eq!(refused, Err(r#"(1010, "Custom error: 16")"#.to_owned()), "nothing is committed yet");
    let events = net.done(&dev::alice(), &commit).await.unwrap();
    assert_eq!(events, ["SubtensorModule.WeightsCommitted", "System.ExtrinsicSuccess"]);
    let refused = net.done(&dev::alice(), &reveal).await;
    assert_eq!(refused, Err(r#"(1010, "Custom error: 17")"#.to_owned()), "its epoch has not come yet");
    let refused = net.done(&dev::alice(), &commit).await;
    assert_eq!(refused, Err(r#"(1010, "Custom error: 6")"#.to_owned()), "commits are rate-limited");
    net.node.step(20).unwrap();
    let events = net.done(&dev::alice(), &reveal).await.unwrap();
    assert_eq!(events, ["SubtensorModule.WeightsRevealed", "System.ExtrinsicSuccess"]);
    let weights = assay_chain::Chain::weights_of(&net.devnet, key(&dev::alice())).await.unwrap();
    assert_eq!(weights.weights, [(Uid::new(2), 65_535)]);
}

/// Who committed, when, what, and to which round.
type Commits = Vec<([u8; 32], u64, Vec<u8>, u64)>;

#[tokio::test]
async fn encrypted_weights_are_kept_until_their_round() {
    let form = WeightsForm::Timelocked { period: 1, version: 4 };
    let net =
        Net::with(assay_chain::Parameters { weights_form: form, ..parameters() }, NodeOptions::new().unwrap()).await;
    net.node.step(10).unwrap();
    let commit = |round: u64, version: u16| {
        call(
            "SubtensorModule",
            "commit_timelocked_weights",
            vec![
                ("netuid", number(NETUID)),
                ("commit", Value::from_bytes([7; 200])),
                ("reveal_round", number(round)),
                ("commit_reveal_version", number(version)),
            ],
        )
    };
    assert_eq!(net.done(&dev::alice(), &commit(1, 4)).await, Err(r#"(1010, "Custom error: 15")"#.to_owned()));
    let failed = net.done(&dev::alice(), &commit(1_000, 3)).await.unwrap_err();
    assert!(failed.contains("IncorrectCommitRevealVersion"), "{failed}");
    let events = net.done(&dev::alice(), &commit(1_000, 4)).await.unwrap();
    assert_eq!(events, ["SubtensorModule.TimelockedWeightsCommitted", "System.ExtrinsicSuccess"]);

    // (block + netuid + 1) / (tempo + 1)
    let at = net.api.at_current_block().await.unwrap();
    let epoch = (at.block_number() + u64::from(NETUID) + 1) / 20;
    let item = subxt::dynamic::storage::<(u16, u64), Commits>("SubtensorModule", "TimelockedWeightCommits");
    let commits = at.storage().fetch(item, (NETUID, epoch)).await.unwrap().decode().unwrap();
    assert_eq!(commits, [(dev::alice().public_key().0, at.block_number(), vec![7; 200], 1_000)]);
}

#[tokio::test]
async fn a_commitment_is_kept_field_by_field() {
    let net = Net::start().await;
    let fields: [&[u8]; 3] = [b"ASsomething", &[9; 128], b""];
    let events = net.done(&dev::bob(), &set_commitment(&fields)).await.unwrap();
    assert_eq!(events, ["Commitments.Commitment", "System.ExtrinsicSuccess"]);
    let at = net.api.at_current_block().await.unwrap();
    let item = subxt::dynamic::storage::<(u16, [u8; 32]), Value>("Commitments", "CommitmentOf");
    let stored = at.storage().fetch(item, (NETUID, dev::bob().public_key().0)).await.unwrap().decode().unwrap();
    let text = stored.to_string();
    assert!(text.contains("Raw11") && text.contains("Raw128") && text.contains("Raw0"), "{text}");
}

#[tokio::test]
async fn a_coldkey_registers_a_hotkey_and_pays_the_burn() {
    let net = Net::start().await;
    let (coldkey, hotkey) = (dev::charlie(), dev::dave());
    let register = call(
        "SubtensorModule",
        "burned_register",
        vec![("netuid", number(NETUID)), ("hotkey", Value::from_bytes(hotkey.public_key().0))],
    );
    let failed = net.done(&coldkey, &register).await.unwrap_err();
    assert!(failed.contains("NotEnoughBalanceToStake"), "{failed}");
    let funded = 1_000_000_000_u64;
    let account = hexadecimal(coldkey.public_key().0);
    let () = net.ask("devnet_fund", serde_json::json!([account, funded])).await;
    let events = net.done(&coldkey, &register).await.unwrap();
    assert_eq!(events, ["SubtensorModule.NeuronRegistered", "System.ExtrinsicSuccess"]);
    let rest = net.devnet.balance(Coldkey::new(coldkey.public_key().0));
    assert!(rest > Rao::new(0) && rest < Rao::new(funded));
    let failed = net.done(&coldkey, &register).await.unwrap_err();
    assert!(failed.contains("HotKeyAlreadyRegisteredInSubNet"), "{failed}");
}

#[tokio::test]
async fn calls_of_one_account_come_in_the_order_of_their_nonces() {
    let net = Net::start().await;
    let at = net.api.at_current_block().await.unwrap();
    let with = |nonce| subxt::config::DefaultExtrinsicParamsBuilder::new().nonce(nonce).mortal(32).build();
    let (bob, account) = (dev::bob(), AccountId32(dev::bob().public_key().0));
    let mut watched = Vec::new();
    for (nonce, text) in [(2, b"three"), (1, b"two  "), (0, b"one  ")] {
        let call = set_commitment(&[text]);
        let mut signable = at.transactions().create_signable(&call, &account, with(nonce)).await.unwrap();
        watched.push(signable.sign(&Signer(bob.clone())).unwrap().submit_and_watch().await.unwrap());
    }
    let next: u32 = net.ask("system_accountNextIndex", serde_json::json!([account.to_string()])).await;
    assert_eq!(next, 3);
    net.node.step(1).unwrap();
    let mut blocks = Vec::new();
    for progress in watched {
        let block = progress.wait_for_finalized().await.unwrap();
        block.wait_for_success().await.unwrap();
        blocks.push(block.block_hash());
    }
    assert!(blocks.iter().all(|hash| *hash == blocks[0]));
    let nonce = net.api.tx().await.unwrap().account_nonce(&account).await.unwrap();
    assert_eq!(nonce, 3);
    // The last one stands.
    let at = net.api.at_current_block().await.unwrap();
    let item = subxt::dynamic::storage::<(u16, [u8; 32]), Value>("Commitments", "CommitmentOf");
    let stored = at.storage().fetch(item, (NETUID, bob.public_key().0)).await.unwrap();
    assert!(hexadecimal(stored.bytes()).ends_with(&hex::encode(b"three")));
}
