//! What the chain accepts, and what it refuses with which words.

use std::net::SocketAddr;

use assay_chain::{
    BlockNumber, Chain, ChainError, Devnet, EpochKey, EpochKeyHash, Genesis, GenesisError, MANIFESTS_MAX, Parameters,
    Placement, Rao, RequestsDigest, Uid, WeightsForm,
};
use assay_commitments::{Epoch, Hotkey, ManifestId};

use super::{NETWORK, OWNER, hotkey, metagraph, parameters, ready, set, step, subnet};

/// Any implementation will do for what a miner does at its start, and the futures may move between
/// threads.
async fn go_online<C: Chain>(chain: &C, miner: Hotkey, endpoint: SocketAddr) -> Result<(), ChainError> {
    let manifests = chain.manifests().await?;
    chain.declare_manifest(miner, manifests[0]).await?;
    chain.serve_endpoint(miner, endpoint).await
}

#[test]
fn genesis_validators_need_not_wait_for_the_rate_limit() {
    let chain = subnet(Parameters { weights_rate_limit: 100, ..parameters() }, &[5], 1);
    assert_eq!(set(&chain, hotkey(1), &[(2, 1)]), Ok(()));
    let next = BlockNumber::new(102);
    assert_eq!(set(&chain, hotkey(1), &[(2, 1), (0, 1)]), Err(ChainError::WeightsTooFast { next }));
}

#[test]
fn a_miner_goes_online_and_everybody_sees_where_and_what() {
    let chain = subnet(parameters(), &[5], 1);
    let manifest = ManifestId::new([3; 32]);
    ready(chain.publish_manifests(OWNER, &[manifest])).expect("the owner may");
    let endpoint = "127.0.0.1:4000".parse().expect("an address");
    ready(go_online(&chain, hotkey(2), endpoint)).expect("the miner is registered");

    let seen = metagraph(&chain);
    let miner = seen.neuron(&hotkey(2)).expect("it is there");
    assert_eq!((miner.uid, miner.endpoint, miner.manifest), (Uid::new(2), Some(endpoint), Some(manifest)));
    assert_eq!((miner.registered_at, seen.block), (BlockNumber::new(1), BlockNumber::new(2)));
    assert_eq!(seen.burn_hotkey(), Some(OWNER));
    assert_eq!(seen.hotkeys(), [OWNER, hotkey(1), hotkey(2)]);
    assert_eq!(seen.neuron(&hotkey(3)), None);
    assert_eq!(chain.network(), NETWORK);
}

#[test]
fn weights_are_refused_in_the_chains_order_with_its_reasons() {
    let strict = Parameters {
        weights_version_key: 3,
        weights_rate_limit: 5,
        min_allowed_weights: 3,
        max_weight_limit: 30_000,
        stake_threshold: Rao::new(3),
        ..parameters()
    };
    let chain = subnet(strict, &[5], 1);
    let send = |signer: u8, uids: &[u16], version_key: u64| {
        let weights: Vec<(Uid, u16)> = uids.iter().map(|uid| (Uid::new(*uid), 1)).collect();
        ready(chain.set_weights(hotkey(signer), &weights, version_key))
    };
    assert_eq!(send(8, &[0, 1, 2, 3], 0), Err(ChainError::TooManyWeights { given: 4, uids: 3 }));
    assert_eq!(send(8, &[0, 0], 0), Err(ChainError::NotRegistered(hotkey(8))));
    let poor = ChainError::StakeTooLow { hotkey: hotkey(2), stake: Rao::new(2), least: Rao::new(3) };
    chain.set_stake(hotkey(2), Rao::new(2)).expect("it is registered");
    assert_eq!(send(2, &[0, 0], 0), Err(poor));
    chain.set_stake(hotkey(2), Rao::new(3)).expect("it is registered");
    assert_eq!(send(2, &[0, 0], 0), Err(ChainError::WrongVersionKey { given: 0, required: 3 }));
    assert_eq!(send(2, &[0, 0], 3), Err(ChainError::WeightsTooFast { next: BlockNumber::new(6) }));
    (0..4).for_each(|_| assert_eq!(chain.step_block(), None));
    assert_eq!(send(2, &[0, 0], 3), Err(ChainError::NoPermit(hotkey(2))));
    assert_eq!(send(1, &[0, 0, 9], 3), Err(ChainError::DuplicateUid(Uid::new(0))));
    assert_eq!(send(1, &[0, 9], 3), Err(ChainError::UnknownUid(Uid::new(9))));
    assert_eq!(send(1, &[0, 2], 3), Err(ChainError::TooFewWeights { given: 2, least: 3 }));
    let (most, uid) = (30_000, Uid::new(2));
    let heavy = [(0, 1), (1, 1), (2, 3)].map(|(uid, value)| (Uid::new(uid), value));
    let heavy = ready(chain.set_weights(hotkey(1), &heavy, 3));
    assert_eq!(heavy, Err(ChainError::WeightTooLarge { uid, share: 39_321, most }), "three fifths of 65535");
    let block = BlockNumber::new(6);
    assert_eq!(send(1, &[0, 1, 2], 4), Ok(Placement::Set { block }));
    assert_eq!(send(1, &[0, 1, 2], 4), Ok(Placement::Standing { block }), "a lost answer may be asked for again");
    assert_eq!(send(1, &[2, 1, 0], 4), Err(ChainError::WeightsTooFast { next: BlockNumber::new(11) }));
}

#[test]
fn the_owner_sets_weights_without_stake() {
    let chain = subnet(Parameters { stake_threshold: Rao::new(3), ..parameters() }, &[5], 1);
    assert_eq!(set(&chain, OWNER, &[(1, 1)]), Ok(()));
}

#[test]
fn the_same_weights_are_set_again_once_they_would_mean_something_else() {
    let chain = subnet(parameters(), &[5], 1);
    let weights = [(Uid::new(2), 1), (Uid::new(3), 1)];
    let newcomer = chain.register(hotkey(3)).expect("there is room");
    assert_eq!(newcomer, Uid::new(3));
    let set = || ready(chain.set_weights(hotkey(1), &weights, 0));
    let block = BlockNumber::new;
    assert_eq!(set(), Ok(Placement::Set { block: block(2) }));
    step(&chain, 1);
    assert_eq!(set(), Ok(Placement::Set { block: block(3) }), "in block 2 they did not count for uid 3");
    step(&chain, 1);
    assert_eq!(set(), Ok(Placement::Standing { block: block(3) }));
    chain.run_epoch();
    assert_eq!(set(), Ok(Placement::Set { block: block(10) }), "in a new epoch");
}

#[test]
fn a_neuron_without_permit_may_still_weigh_itself_alone() {
    let chain = subnet(parameters(), &[5], 1);
    assert_eq!(set(&chain, hotkey(2), &[(2, 1)]), Ok(()));
    assert_eq!(set(&chain, hotkey(2), &[(1, 1)]), Err(ChainError::NoPermit(hotkey(2))));
}

#[test]
fn the_hyperparameters_are_the_subnets() {
    let rules = ready(subnet(Parameters::default(), &[5], 1).hyperparameters()).expect("the devnet can be read");
    assert_eq!((rules.weights_version_key, rules.weights_rate_limit, rules.min_allowed_weights), (0, 100, 1_024));
}

#[test]
fn an_epoch_key_is_published_first_and_revealed_after_its_epoch() {
    let chain = subnet(parameters(), &[5], 0);
    let (me, epoch) = (hotkey(1), Epoch::new(1));
    let (hash, key) = (EpochKeyHash::new([1; 32]), EpochKey::new([2; 32]));
    let requests = RequestsDigest::new([4; 32]);
    let reveal = |key| ready(chain.reveal_epoch_key(me, epoch, key, requests));
    assert_eq!(reveal(key), Err(ChainError::KeyNotPublished(epoch)));
    ready(chain.publish_epoch_key(me, epoch, hash)).expect("the epoch runs");
    assert_eq!(reveal(key), Err(ChainError::RevealTooEarly { epoch, running: epoch }));
    chain.run_epoch();
    assert_eq!(reveal(key), Ok(()));
    assert_eq!(reveal(key), Ok(()), "a caller that lost the answer may ask again");
    assert_eq!(reveal(EpochKey::new([3; 32])), Err(ChainError::KeyAlreadyRevealed(epoch)));
    let other = ready(chain.reveal_epoch_key(me, epoch, key, RequestsDigest::new([5; 32])));
    assert_eq!(other, Err(ChainError::KeyAlreadyRevealed(epoch)), "the list of requests stands too");

    let record = ready(chain.epoch_key(me, epoch)).expect("the devnet can be read").expect("it is published");
    assert_eq!((record.hash, record.published_at, record.key), (hash, BlockNumber::new(2), Some(key)));
    assert_eq!(record.requests, Some(requests));
    assert_eq!(ready(chain.epoch_key(OWNER, epoch)), Ok(None));
}

#[test]
fn an_epoch_key_is_published_once_and_in_time() {
    let chain = subnet(parameters(), &[5], 0);
    let publish =
        |signer, epoch, byte| ready(chain.publish_epoch_key(signer, Epoch::new(epoch), EpochKeyHash::new([byte; 32])));
    let wrong =
        |epoch, running| Err(ChainError::WrongKeyEpoch { epoch: Epoch::new(epoch), running: Epoch::new(running) });
    assert_eq!(publish(hotkey(8), 0, 1), Err(ChainError::NotRegistered(hotkey(8))));
    assert_eq!(publish(hotkey(1), 2, 1), Ok(()), "for the next epoch");
    assert_eq!(publish(hotkey(1), 2, 1), Ok(()), "the same again");
    assert_eq!(publish(hotkey(1), 2, 2), Err(ChainError::KeyAlreadyPublished(Epoch::new(2))));
    assert_eq!(publish(hotkey(1), 3, 1), wrong(3, 1));
    chain.run_epoch();
    assert_eq!(publish(hotkey(1), 1, 1), wrong(1, 2));
}

#[test]
fn only_the_owner_puts_manifests_in_force_and_only_so_many() {
    let chain = subnet(parameters(), &[5], 0);
    let ids: Vec<ManifestId> = (0..=9).map(|byte| ManifestId::new([byte; 32])).collect();
    let publish = |signer, ids: &[ManifestId]| ready(chain.publish_manifests(signer, ids));
    assert_eq!(publish(hotkey(1), &ids[..1]), Err(ChainError::NotOwner(hotkey(1))));
    assert_eq!(publish(hotkey(8), &ids[..1]), Err(ChainError::NotOwner(hotkey(8))));
    let too_many = ChainError::TooManyManifests { given: 10, most: MANIFESTS_MAX };
    assert_eq!(publish(OWNER, &ids), Err(too_many));
    assert_eq!(publish(OWNER, &[ids[0], ids[0]]), Err(ChainError::DuplicateManifest(ids[0])));
    assert_eq!(publish(OWNER, &ids[..MANIFESTS_MAX]), Ok(()));
    assert_eq!(publish(OWNER, &ids[1..3]), Ok(()));
    assert_eq!(ready(chain.manifests()).expect("the devnet can be read"), ids[1..3]);
}

#[test]
fn the_registry_is_the_owners_commitment_and_its_past_stays() {
    let chain = subnet(parameters(), &[5], 0);
    let id = |byte| ManifestId::new([byte; 32]);
    ready(chain.publish_manifests(OWNER, &[id(1)])).expect("the owner may");
    chain.step_block();
    ready(chain.declare_manifest(OWNER, id(2))).expect("the owner may serve, too");
    ready(chain.publish_manifests(OWNER, &[id(2)])).expect("the owner may");
    let history = chain.whole_history();
    let at = BlockNumber::new;
    assert_eq!(history.manifests, [(at(2), vec![id(1)]), (at(3), vec![id(2)])]);
    let epochs: Vec<(u64, u64)> = history.epochs.iter().map(|(epoch, block)| (epoch.get(), block.get())).collect();
    assert_eq!(epochs, [(1, 0)], "the first epoch begins with the genesis block");
}

#[test]
fn a_hotkey_that_writes_without_end_waits_for_the_next_epoch() {
    let chain = subnet(Parameters { max_space: 250, ..parameters() }, &[5], 1);
    let declare = |byte| ready(chain.declare_manifest(hotkey(2), ManifestId::new([byte; 32])));
    assert_eq!(declare(1), Ok(()));
    assert_eq!(declare(1), Ok(()), "nothing new is written");
    assert_eq!(declare(2), Ok(()), "and counts as 100 bytes, though it has fewer");
    let full = ChainError::CommitmentSpace { hotkey: hotkey(2), next: BlockNumber::new(10) };
    assert_eq!(declare(3), Err(full.clone()));
    step(&chain, 7);
    assert_eq!(declare(3), Err(full));
    step(&chain, 1);
    assert_eq!(declare(3), Ok(()));
    assert_eq!(metagraph(&chain).neuron(&hotkey(2)).expect("it is there").manifest, Some(ManifestId::new([3; 32])));
}

#[test]
fn an_endpoint_can_be_withdrawn_and_nobody_is_at_the_broadcast_address() {
    let chain = subnet(Parameters { serving_rate_limit: 0, ..parameters() }, &[5], 1);
    let serve = |address: [u8; 4], port| ready(chain.serve_endpoint(hotkey(2), SocketAddr::from((address, port))));
    let seen = || metagraph(&chain).neuron(&hotkey(2)).expect("it is there").endpoint;
    assert_eq!(serve([255; 4], 1), Err(ChainError::UnreachableAddress([255; 4].into())));
    assert_eq!((serve([127, 0, 0, 1], 9), seen()), (Ok(()), Some(SocketAddr::from(([127, 0, 0, 1], 9)))));
    assert_eq!((serve([0; 4], 1), seen()), (Ok(()), None));
}

#[test]
fn endpoints_need_a_port_a_registration_and_patience() {
    let chain = subnet(parameters(), &[5], 1);
    let serve = |signer, port| ready(chain.serve_endpoint(signer, SocketAddr::from(([10, 0, 0, 1], port))));
    assert_eq!(serve(hotkey(8), 1), Err(ChainError::NotRegistered(hotkey(8))));
    assert_eq!(serve(hotkey(2), 0), Err(ChainError::ZeroPort));
    assert_eq!(serve(hotkey(2), 1), Ok(()));
    assert_eq!(serve(hotkey(2), 2), Err(ChainError::ServingTooFast { next: BlockNumber::new(52) }));
    (0..5).for_each(|_| drop(chain.run_epoch()));
    assert_eq!(serve(hotkey(2), 2), Err(ChainError::ServingTooFast { next: BlockNumber::new(52) }));
    (0..2).for_each(|_| assert_eq!(chain.step_block(), None));
    assert_eq!(serve(hotkey(2), 2), Ok(()));
}

#[test]
fn a_genesis_that_contradicts_itself_is_refused() {
    let with = |parameters: Parameters, validators: &[u8]| {
        let validators = validators.iter().map(|number| (hotkey(*number), Rao::new(1))).collect();
        Devnet::new(&Genesis { network: NETWORK, owner: OWNER, validators, parameters }).map(drop)
    };
    assert_eq!(with(Parameters { tempo: 0, ..parameters() }, &[]), Err(GenesisError::NoTempo));
    assert_eq!(with(parameters(), &[1, 0]), Err(GenesisError::ListedTwice(OWNER)));
    let small = Parameters { max_allowed_uids: 2, ..parameters() };
    assert_eq!(with(small, &[1, 2]), Err(GenesisError::TooMany { validators: 2, uids: 2 }));
    let weights_form = WeightsForm::CommitReveal { period: 101 };
    assert_eq!(with(Parameters { weights_form, ..parameters() }, &[]), Err(GenesisError::RevealPeriod(101)));
    let forgetful = Parameters { bonds_moving_average: 1_000_001, ..parameters() };
    assert_eq!(with(forgetful, &[]), Err(GenesisError::BondsMovingAverage(1_000_001)));
    let (burn, least, most) = (Rao::new(1), Rao::new(2), Rao::new(3));
    let cheap = Parameters { burn, min_burn: least, max_burn: most, ..parameters() };
    assert_eq!(with(cheap, &[]), Err(GenesisError::Burn { burn, least, most }));
}

#[test]
fn a_block_that_is_over_keeps_its_state() {
    let chain = subnet(parameters(), &[5], 1);
    chain.set_stake(hotkey(2), Rao::new(7)).expect("it is registered");
    chain.step_block();
    chain.set_stake(hotkey(2), Rao::new(8)).expect("it is registered");
    let stake = |block| {
        let then = chain.metagraph_at(BlockNumber::new(block))?;
        assert_eq!(then.block, BlockNumber::new(block));
        then.neuron(&hotkey(2)).map(|neuron| neuron.stake.get())
    };
    assert_eq!([0, 1, 2, 3].map(stake), [None, Some(0), Some(7), Some(8)]);
    assert!(chain.metagraph_at(BlockNumber::new(4)).is_none());
}

#[test]
fn clones_share_the_chain_between_threads() {
    let chain = subnet(parameters(), &[5], 0);
    std::thread::scope(|scope| {
        for start in [10, 60, 110] {
            let chain = chain.clone();
            scope.spawn(move || (start..start + 50).try_for_each(|n| chain.register(hotkey(n)).map(drop)));
        }
    });
    let seen = metagraph(&chain);
    assert_eq!(seen.neurons.len(), 152);
    assert!(seen.neurons.iter().zip(0..).all(|(neuron, uid)| neuron.uid == Uid::new(uid)));
}
