//! What the chain accepts, and what it refuses with which words.

use std::net::SocketAddr;

use assay_chain::{
    BlockNumber, Chain, ChainError, Devnet, EpochKey, EpochKeyHash, Genesis, GenesisError, MANIFESTS_MAX, Parameters,
    Rao, RequestsDigest, Uid,
};
use assay_commitments::{Epoch, Hotkey, ManifestId};

use super::{NETWORK, OWNER, hotkey, metagraph, parameters, ready, set, subnet};

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
    assert_eq!(set(&chain, hotkey(1), &[(2, 1)]), Err(ChainError::WeightsTooFast { next }));
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
    let strict = Parameters { weights_version_key: 3, weights_rate_limit: 5, min_allowed_weights: 3, ..parameters() };
    let chain = subnet(strict, &[5], 1);
    let send = |signer: u8, uids: &[u16], version_key: u64| {
        let weights: Vec<(Uid, u16)> = uids.iter().map(|uid| (Uid::new(*uid), 1)).collect();
        ready(chain.set_weights(hotkey(signer), &weights, version_key)).map(drop)
    };
    assert_eq!(send(8, &[0, 1, 2, 3], 0), Err(ChainError::TooManyWeights { given: 4, uids: 3 }));
    assert_eq!(send(8, &[0, 0], 0), Err(ChainError::NotRegistered(hotkey(8))));
    assert_eq!(send(2, &[0, 0], 0), Err(ChainError::WrongVersionKey { given: 0, required: 3 }));
    assert_eq!(send(2, &[0, 0], 3), Err(ChainError::WeightsTooFast { next: BlockNumber::new(6) }));
    (0..4).for_each(|_| assert_eq!(chain.step_block(), None));
    assert_eq!(send(2, &[0, 0], 3), Err(ChainError::NoPermit(hotkey(2))));
    assert_eq!(send(1, &[0, 0, 9], 3), Err(ChainError::DuplicateUid(Uid::new(0))));
    assert_eq!(send(1, &[0, 9], 3), Err(ChainError::UnknownUid(Uid::new(9))));
    assert_eq!(send(1, &[0, 2], 3), Err(ChainError::TooFewWeights { given: 2, least: 3 }));
    assert_eq!(send(1, &[0, 1, 2], 4), Ok(()));
    assert_eq!(send(1, &[0, 1, 2], 4), Err(ChainError::WeightsTooFast { next: BlockNumber::new(11) }));
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
    let (me, epoch) = (hotkey(1), Epoch::new(0));
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
    assert_eq!(publish(hotkey(1), 1, 1), Ok(()), "for the next epoch");
    assert_eq!(publish(hotkey(1), 1, 1), Ok(()), "the same again");
    assert_eq!(publish(hotkey(1), 1, 2), Err(ChainError::KeyAlreadyPublished(Epoch::new(1))));
    assert_eq!(publish(hotkey(1), 2, 1), wrong(2, 0));
    chain.run_epoch();
    assert_eq!(publish(hotkey(1), 0, 1), wrong(0, 1));
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
fn a_hotkey_registers_once_and_a_full_subnet_takes_nobody() {
    let chain = subnet(Parameters { max_allowed_uids: 3, ..parameters() }, &[5], 1);
    assert_eq!(chain.register(hotkey(2)), Err(ChainError::AlreadyRegistered(hotkey(2))));
    assert_eq!(chain.register(hotkey(3)), Err(ChainError::SubnetFull { uids: 3 }));
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
