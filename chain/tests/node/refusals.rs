//! What the chain refuses is refused with the chain's own codes.

use assay_chain::{NodeOptions, Parameters, WeightsForm};
use subxt::{
    SubstrateConfig,
    config::{DefaultExtrinsicParamsBuilder, substrate::SpecVersionForRange},
    tx::{TransactionInvalid, TransactionStatus, ValidationResult},
    utils::{AccountId32, MultiSignature},
};
use subxt_signer::sr25519::{Keypair, dev};

use crate::{
    Api, Call, NETUID, Net, Signer, call, client, hexadecimal, number, parameters, refusal, serve_axon, set_commitment,
    set_weights, submit,
};

/// Signs with a nonce and submits: the node's code and words.
async fn with_nonce(api: &Api, signer: &Keypair, call: &Call, nonce: u64) -> Result<(), (i32, String)> {
    let params = DefaultExtrinsicParamsBuilder::new().nonce(nonce).mortal(32).build();
    let mut tx = api.tx().await.unwrap();
    tx.sign_and_submit_then_watch(call, &Signer(signer.clone()), params).await.map(drop).map_err(refusal)
}

fn invalid(words: &str) -> Result<(), (i32, String)> {
    Err((1_010, words.to_owned()))
}

#[tokio::test]
async fn a_nonce_that_was_used_is_stale_and_one_that_waits_is_taken() {
    let net = Net::start().await;
    let bob = dev::bob();
    net.done(&bob, &set_commitment(&[b"one"])).await.unwrap();
    assert_eq!(with_nonce(&net.api, &bob, &set_commitment(&[b"two"]), 0).await, invalid("Transaction is outdated"));
    assert_eq!(with_nonce(&net.api, &bob, &set_commitment(&[b"two"]), 1).await, Ok(()));
    let taken = with_nonce(&net.api, &bob, &set_commitment(&[b"three"]), 1).await.unwrap_err();
    assert_eq!(taken.0, 1_014);
    let again = with_nonce(&net.api, &bob, &set_commitment(&[b"two"]), 1).await;
    // The very same bytes, unless the signature is randomised, which it is.
    assert_eq!(again.unwrap_err().0, 1_014);
}

#[tokio::test]
async fn the_very_same_extrinsic_is_taken_once() {
    let net = Net::start().await;
    let call = set_commitment(&[b"one"]);
    let params = DefaultExtrinsicParamsBuilder::new().mortal(32).build();
    let mut tx = net.api.tx().await.unwrap();
    let signed = tx.create_signed(&call, &Signer(dev::bob()), params).await.unwrap();
    signed.submit_and_watch().await.unwrap();
    let (code, _) = refusal(signed.submit_and_watch().await.unwrap_err());
    assert_eq!(code, 1_013);
    net.node.step(1).unwrap();
    let stale = refusal(signed.submit_and_watch().await.unwrap_err());
    assert_eq!(stale, (1_010, "Transaction is outdated".to_owned()));
}

#[tokio::test]
async fn what_another_network_or_runtime_signed_is_a_bad_signature() {
    let net = Net::start().await;
    let bad = Some((1_010, "Transaction has a bad signature".to_owned()));
    let call = serve_axon(NETUID, 8_091);
    let elsewhere = SubstrateConfig::builder().set_genesis_hash([1; 32].into());
    let elsewhere = client(&net.rpc, elsewhere).await;
    assert_eq!(submit(&elsewhere, &dev::bob(), &call).await.err().map(refusal), bad);

    let range = |spec_version, transaction_version| {
        let range = SpecVersionForRange { block_range: 0..u64::MAX, spec_version, transaction_version };
        SubstrateConfig::builder().set_spec_version_for_block_ranges([range])
    };
    for (spec, transaction) in [(364, 1), (365, 2)] {
        let api = client(&net.rpc, range(spec, transaction)).await;
        assert_eq!(submit(&api, &dev::bob(), &call).await.err().map(refusal), bad, "{spec} {transaction}");
    }
    let api = client(&net.rpc, range(365, 1)).await;
    assert!(submit(&api, &dev::bob(), &call).await.is_ok());
}

/// Signs something else, or for somebody else.
struct Forger {
    signs: Keypair,
    account: [u8; 32],
    over: fn(&[u8]) -> Vec<u8>,
    kind: fn([u8; 64]) -> MultiSignature,
}

impl subxt::tx::Signer<SubstrateConfig> for Forger {
    fn account_id(&self) -> AccountId32 {
        AccountId32(self.account)
    }

    fn sign(&self, payload: &[u8]) -> MultiSignature {
        (self.kind)(self.signs.sign(&(self.over)(payload)).0)
    }
}

#[tokio::test]
async fn a_signature_of_another_key_over_other_bytes_or_of_another_kind_is_refused() {
    let net = Net::start().await;
    let (alice, bob) = (dev::alice(), dev::bob().public_key().0);
    let whole = |payload: &[u8]| payload.to_vec();
    let half = |payload: &[u8]| payload[1..].to_vec();
    let forgers = [
        Forger { signs: alice, account: bob, over: whole, kind: MultiSignature::Sr25519 },
        Forger { signs: dev::bob(), account: bob, over: half, kind: MultiSignature::Sr25519 },
        Forger { signs: dev::bob(), account: bob, over: whole, kind: MultiSignature::Ed25519 },
    ];
    for forger in forgers {
        let mut tx = net.api.tx().await.unwrap();
        let refused = tx.sign_and_submit_then_watch_default(&serve_axon(NETUID, 8_091), &forger).await.unwrap_err();
        assert_eq!(refusal(refused), (1_010, "Transaction has a bad signature".to_owned()));
    }
    // Above 256 bytes it is the hash that is signed; a long call by its right key passes.
    net.done(&dev::bob(), &set_commitment(&[&[1; 128], &[2; 128], &[3; 128]])).await.unwrap();
}

#[tokio::test]
async fn an_era_that_is_over_names_another_block_and_one_ahead_names_none() {
    let net = Net::start().await;
    let call = set_commitment(&[b"late"]);
    let sign = async |period: u64| {
        let params = DefaultExtrinsicParamsBuilder::new().mortal(period).build();
        let mut tx = net.api.tx().await.unwrap();
        tx.create_signed(&call, &Signer(dev::bob()), params).await.unwrap()
    };
    let short = sign(4).await;
    let long = sign(64).await;
    net.node.step(10).unwrap();
    let late = refusal(short.submit_and_watch().await.unwrap_err());
    assert_eq!(late, (1_010, "Transaction has a bad signature".to_owned()));
    // Born on a block that is yet to come.
    let at = net.api.at_current_block().await.unwrap();
    let params = DefaultExtrinsicParamsBuilder::new().mortal_from_unchecked(64, 50, at.block_hash()).nonce(0).build();
    let account = AccountId32(dev::bob().public_key().0);
    let mut ahead = at.transactions().create_signable_offline(&call, params).unwrap();
    let ahead = ahead.sign(&Signer(dev::bob())).unwrap();
    let early = refusal(ahead.submit_and_watch().await.unwrap_err());
    assert_eq!(early, (1_010, "Transaction has an ancient birth block".to_owned()));
    assert_eq!(net.api.tx().await.unwrap().account_nonce(&account).await.unwrap(), 0);
    assert!(long.submit_and_watch().await.is_ok());
}

#[tokio::test]
async fn an_era_that_ends_in_the_pool_makes_the_extrinsic_invalid() {
    let net = Net::start().await;
    let call = set_commitment(&[b"waits"]);
    // Nonce 1 waits for nonce 0, which never comes.
    let params = DefaultExtrinsicParamsBuilder::new().mortal(4).nonce(1).build();
    let mut tx = net.api.tx().await.unwrap();
    let mut progress = tx.sign_and_submit_then_watch(&call, &Signer(dev::bob()), params).await.unwrap();
    net.node.step(8).unwrap();
    net.done(&dev::bob(), &set_commitment(&[b"first"])).await.unwrap();
    let mut last = None;
    while let Some(status) = progress.next().await {
        last = Some(status.unwrap());
    }
    assert!(matches!(last, Some(TransactionStatus::Invalid { .. })), "{last:?}");
}

#[tokio::test]
async fn the_pool_refuses_by_the_chains_numbers() {
    let net = Net::start().await;
    net.node.step(10).unwrap();
    let custom = async |signer: &Keypair, call: &Call| net.submit(signer, call).await.map(drop).map_err(refusal);
    let code = |code: u8| invalid(&format!("Custom error: {code}"));
    let (alice, bob, nobody) = (dev::alice(), dev::bob(), dev::eve());
    assert_eq!(custom(&nobody, &serve_axon(NETUID, 8_091)).await, code(10), "not registered");
    assert_eq!(custom(&bob, &serve_axon(NETUID + 1, 8_091)).await, code(10), "another subnet");
    assert_eq!(custom(&bob, &serve_axon(NETUID, 0)).await, code(13), "port 0");
    let axon = |ip: u128, ip_type: u8| {
        let mut arguments = vec![("netuid", number(NETUID)), ("version", number(1_u8)), ("ip", number(ip))];
        arguments.extend([("port", number(1_u8)), ("ip_type", number(ip_type)), ("protocol", number(0_u8))]);
        arguments.extend([("placeholder1", number(0_u8)), ("placeholder2", number(0_u8))]);
        call("SubtensorModule", "serve_axon", arguments)
    };
    assert_eq!(custom(&bob, &axon(u128::from(u32::MAX), 4)).await, code(11), "broadcast");
    assert_eq!(custom(&bob, &axon(1 << 32, 4)).await, code(11), "no v4 address");
    assert_eq!(custom(&bob, &axon(7, 5)).await, code(255), "no kind of address");
    net.done(&bob, &serve_axon(NETUID, 8_091)).await.unwrap();
    assert_eq!(custom(&bob, &serve_axon(NETUID, 8_092)).await, code(12), "served a moment ago");
    net.done(&alice, &set_weights(&[2], &[1])).await.unwrap();
    assert_eq!(custom(&alice, &set_weights(&[2], &[1])).await, code(6), "set a moment ago");
    // Nothing of all this waits.
    let pending: Vec<String> = net.ask("author_pendingExtrinsics", crate::nothing()).await;
    assert!(pending.is_empty());
}

#[tokio::test]
async fn too_little_stake_is_refused_by_the_pool() {
    let least = assay_chain::Rao::new(2_000_000_000_000);
    let net = Net::with(Parameters { stake_threshold: least, ..parameters() }, NodeOptions::new().unwrap()).await;
    let refused = net.submit(&dev::alice(), &set_weights(&[2], &[1])).await.map(drop).map_err(refusal);
    assert_eq!(refused, invalid("Custom error: 1"));
}

#[tokio::test]
async fn other_errors_come_out_of_the_block_by_name() {
    let net = Net::start().await;
    net.node.step(10).unwrap();
    let (alice, bob, nobody) = (dev::alice(), dev::bob(), dev::eve());
    let failures = [
        (&nobody, set_weights(&[2], &[1]), "HotKeyNotRegisteredInSubNet"),
        (&bob, set_weights(&[1], &[1]), "NeuronNoValidatorPermit"),
        (&alice, set_weights(&[2, 2], &[1, 1]), "DuplicateUids"),
        (&alice, set_weights(&[2, 0], &[1]), "WeightVecNotEqualSize"),
        (&alice, set_weights(&[300], &[1]), "UidVecContainInvalidOne"),
        (&alice, set_weights(&[0, 1, 2, 3], &[1, 1, 1, 1]), "UidsLengthExceedUidsInSubNet"),
        (&nobody, set_commitment(&[b"x"]), "AccountNotAllowedCommit"),
    ];
    for (signer, call, name) in failures {
        let failed = net.done(signer, &call).await.unwrap_err();
        assert!(failed.contains(name), "{name}: {failed}");
    }
    // A call that failed counts as one of its account.
    let account = AccountId32(nobody.public_key().0);
    assert_eq!(net.api.tx().await.unwrap().account_nonce(&account).await.unwrap(), 2);

    for _ in 0..31 {
        net.done(&bob, &set_commitment(&[b"x"])).await.unwrap();
    }
    let at = net.api.at_current_block().await.unwrap();
    assert_ne!((at.block_number() + 8) % 20, 19, "the epoch goes on for another block");
}

#[tokio::test]
async fn a_commitments_space_is_counted_by_the_epoch() {
    let net = Net::with(Parameters { max_space: 200, ..parameters() }, NodeOptions::new().unwrap()).await;
    // To the beginning of an epoch, at block 32: (32 + 7 + 1) / 20.
    net.node.step(31).unwrap();
    net.done(&dev::bob(), &set_commitment(&[b"x"])).await.unwrap();
    net.done(&dev::bob(), &set_commitment(&[b"y"])).await.unwrap();
    let failed = net.done(&dev::bob(), &set_commitment(&[b"z"])).await.unwrap_err();
    assert!(failed.contains("SpaceLimitExceeded"), "{failed}");
    net.node.step(20).unwrap();
    net.done(&dev::bob(), &set_commitment(&[b"z"])).await.unwrap();
}

#[tokio::test]
async fn where_weights_are_committed_plain_ones_fail() {
    let form = WeightsForm::CommitReveal { period: 1 };
    let net = Net::with(Parameters { weights_form: form, ..parameters() }, NodeOptions::new().unwrap()).await;
    let failed = net.done(&dev::alice(), &set_weights(&[2], &[1])).await.unwrap_err();
    assert!(failed.contains("CommitRevealEnabled"), "{failed}");
}

#[tokio::test]
async fn a_dry_run_says_what_the_pool_would() {
    let net = Net::start().await;
    let signed = async |signer: Keypair, call: Call, nonce: u64| {
        let params = DefaultExtrinsicParamsBuilder::new().mortal(64).nonce(nonce).build();
        let mut tx = net.api.tx().await.unwrap();
        tx.create_signed(&call, &Signer(signer), params).await.unwrap().validate().await.unwrap()
    };
    let good = signed(dev::bob(), set_commitment(&[b"x"]), 2).await;
    let ValidationResult::Valid(valid) = good else { panic!("{good:?}") };
    assert_eq!((valid.requires.len(), valid.provides.len(), valid.longevity), (1, 1, 63));
    let bad = signed(dev::eve(), serve_axon(NETUID, 1), 0).await;
    assert_eq!(bad, ValidationResult::Invalid(TransactionInvalid::Custom(10)));
    net.done(&dev::bob(), &set_commitment(&[b"x"])).await.unwrap();
    let stale = signed(dev::bob(), set_commitment(&[b"y"]), 0).await;
    assert_eq!(stale, ValidationResult::Invalid(TransactionInvalid::Stale));
}

#[tokio::test]
async fn calls_that_no_devnet_carries_out_are_not_expected() {
    let net = Net::start().await;
    let remark = call("System", "remark", vec![("remark", scale_value::Value::from_bytes(b"hello"))]);
    let refused = net.submit(&dev::bob(), &remark).await.map(drop).map_err(refusal);
    assert_eq!(refused, invalid("Transaction call is not expected"));
    // An inherent is for authors, and what is no extrinsic has another code.
    let code = |answer: Result<String, (i32, String)>| answer.unwrap_err().0;
    let inherent = hexadecimal([20, 4, 2, 0, 0, 0]);
    assert_eq!(code(net.try_ask("author_submitExtrinsic", serde_json::json!([inherent])).await), 1_010);
    assert_eq!(code(net.try_ask("author_submitExtrinsic", serde_json::json!(["0x0000"])).await), 1_001);
    assert_eq!(code(net.try_ask("author_submitExtrinsic", serde_json::json!(["0x0485"])).await), 1_002);
}
