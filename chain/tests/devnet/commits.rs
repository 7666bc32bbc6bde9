//! Weights that are committed first and seen later.

use assay_chain::{BlockNumber, Chain, ChainError, Devnet, Parameters, Placement, Rao, WeightsForm};
use assay_commitments::Epoch;

use super::{hotkey, metagraph, parameters, place, ready, set, standing, step, subnet};

/// Commits of epoch `e` count from epoch `e + period` on.
fn committing(period: u64) -> Devnet {
    subnet(Parameters { weights_form: WeightsForm::CommitReveal { period }, ..parameters() }, &[5], 2)
}

/// The hash that the chain's own SDK would commit: BLAKE2b-256 over the SCALE encoding of author, storage
/// index, uids, values, salt and version key.
fn hash(author: u8, weights: &[(u16, u16)], salt: &[u16], version_key: u64) -> [u8; 32] {
    let list = |values: Vec<u16>| {
        let length = u8::try_from(values.len() << 2).expect("a short list");
        [vec![length], values.iter().flat_map(|value| value.to_le_bytes()).collect()].concat()
    };
    let uids = list(weights.iter().map(|(uid, _)| *uid).collect());
    let values = list(weights.iter().map(|(_, value)| *value).collect());
    let parts =
        [&[author; 32][..], &9_u16.to_le_bytes(), &uids, &values, &list(salt.to_vec()), &version_key.to_le_bytes()];
    sp_crypto_hashing::blake2_256(&parts.concat())
}

#[test]
fn committed_weights_open_by_themselves_in_the_epoch_of_their_reveal_and_not_before() {
    let chain = committing(2);
    let block = BlockNumber::new(2);
    assert_eq!(place(&chain, hotkey(1), &[(3, 1)]), Ok(Placement::Committed { block, reveals: Epoch::new(3) }));
    let stored = ready(chain.weights_of(hotkey(1))).expect("it is registered");
    assert_eq!((stored.weights.len(), stored.pending), (0, vec![(block, Epoch::new(3))]));
    assert_eq!(metagraph(&chain).neuron(&hotkey(1)).expect("it is there").last_update, block, "a commit is an update");

    // Epoch 3 begins in block 20; clients let weights open three blocks later.
    step(&chain, 20);
    assert_eq!((metagraph(&chain).block, standing(&chain, hotkey(1))), (BlockNumber::new(22), vec![]));
    step(&chain, 1);
    assert_eq!(standing(&chain, hotkey(1)), [(3, 65_535)]);
    assert_eq!(ready(chain.weights_of(hotkey(1))).expect("it is registered").pending, []);
    assert_eq!(chain.run_epoch().neurons[3].incentive, 65_535);
}

#[test]
fn a_hash_is_revealed_in_one_epoch_only() {
    let chain = committing(1);
    let (weights, salt) = ([(2, 1), (3, 3)], [7, 8, 9]);
    let reveal = || chain.reveal_committed_weights(hotkey(1), &weights, &salt, 4);
    assert_eq!(reveal(), Err(ChainError::NoSuchCommit));
    chain.commit_weights(hotkey(1), hash(1, &weights, &salt, 4)).expect("the form is right");
    let when = |running| ChainError::NotRevealEpoch {
        committed: Epoch::new(1),
        reveals: Epoch::new(2),
        running: Epoch::new(running),
    };
    assert_eq!(reveal(), Err(when(1)));
    chain.run_epoch();
    let other = chain.reveal_committed_weights(hotkey(1), &weights, &[7, 8], 4);
    assert_eq!(other, Err(ChainError::NoSuchCommit), "the salt is another");
    assert_eq!(reveal(), Ok(()));
    assert_eq!(standing(&chain, hotkey(1)), [(2, 21_845), (3, 65_535)]);
    assert_eq!(reveal(), Err(ChainError::NoSuchCommit), "it is used up");

    chain.commit_weights(hotkey(1), hash(1, &weights, &salt, 4)).expect("the form is right");
    chain.run_epoch();
    chain.run_epoch();
    let late = ChainError::NotRevealEpoch { committed: Epoch::new(2), reveals: Epoch::new(3), running: Epoch::new(4) };
    assert_eq!(reveal(), Err(late));
    assert_eq!(ready(chain.weights_of(hotkey(1))).expect("it is registered").pending, [], "nothing waits any more");
}

#[test]
fn what_was_committed_is_checked_when_it_is_revealed() {
    let chain = committing(1);
    let unknown = [(9, 1)];
    chain.commit_weights(hotkey(1), hash(1, &unknown, &[], 0)).expect("nobody sees what is in it");
    set(&chain, hotkey(1), &unknown).expect("nobody sees what is in it");
    chain.run_epoch();
    let revealed = chain.reveal_committed_weights(hotkey(1), &unknown, &[], 0);
    assert_eq!(revealed, Err(ChainError::UnknownUid(assay_chain::Uid::new(9))));
    step(&chain, 5);
    assert_eq!(standing(&chain, hotkey(1)), [], "and what opens by itself is lost without a word");
}

#[test]
fn commits_are_rate_limited_and_only_so_many_wait() {
    let settings =
        Parameters { weights_form: WeightsForm::CommitReveal { period: 1 }, weights_rate_limit: 2, ..parameters() };
    let chain = subnet(settings, &[5], 1);
    assert_eq!(set(&chain, hotkey(1), &[(2, 1)]), Ok(()));
    let soon = ChainError::WeightsTooFast { next: BlockNumber::new(4) };
    assert_eq!(set(&chain, hotkey(1), &[(2, 2)]), Err(soon.clone()));
    assert_eq!(place(&chain, hotkey(1), &[(2, 1)]), Ok(Placement::Standing { block: BlockNumber::new(2) }));
    assert_eq!(chain.commit_weights(hotkey(1), [0; 32]), Err(soon));
    assert_eq!(chain.commit_weights(hotkey(8), [0; 32]), Err(ChainError::NotRegistered(hotkey(8))));

    let chain = committing(1);
    for number in 0..10 {
        chain.commit_weights(hotkey(1), [number; 32]).expect("ten may wait");
        set(&chain, hotkey(1), &[(2, 1 + u16::from(number))]).expect("and ten of the other kind");
    }
    let full = ChainError::TooManyCommits { open: 10 };
    assert_eq!(chain.commit_weights(hotkey(1), [10; 32]), Err(full.clone()));
    assert_eq!(set(&chain, hotkey(1), &[(2, 1)]), Err(full));
    chain.run_epoch();
    assert_eq!(set(&chain, hotkey(1), &[(2, 1)]), Ok(()), "encrypted ones are counted by epoch");
    chain.run_epoch();
    assert_eq!(chain.commit_weights(hotkey(1), [10; 32]), Ok(()), "those that expired make room");
}

#[test]
fn each_form_refuses_the_calls_of_the_others() {
    let plain = subnet(parameters(), &[5], 1);
    let wrong = ChainError::WrongForm { commit_reveal: false };
    assert_eq!(plain.commit_weights(hotkey(1), [0; 32]), Err(wrong.clone()));
    assert_eq!(plain.reveal_committed_weights(hotkey(1), &[], &[], 0), Err(wrong.clone()));
    assert_eq!(plain.commit_timelocked_weights(hotkey(1), vec![], 1, 4), Err(wrong));

    let timelocked = Parameters { weights_form: WeightsForm::Timelocked { period: 1, version: 4 }, ..parameters() };
    let refused = subnet(timelocked, &[5], 1).commit_timelocked_weights(hotkey(1), vec![], 1, 3);
    assert!(refused.expect_err("an old version").to_string().contains("IncorrectCommitRevealVersion"));
}

#[test]
fn while_a_commit_waits_old_weights_on_whoever_came_since_do_not_count() {
    // A validator with standing weights commits; then the uid it gave to changes hands; then it reveals
    // nothing. Its update is younger than the registration, but what it said was about another.
    let settings = Parameters {
        weights_form: WeightsForm::CommitReveal { period: 3 },
        max_allowed_uids: 4,
        immunity_period: 1,
        min_non_immune_uids: 0,
        ..parameters()
    };
    let chain = subnet(settings, &[5], 2);
    set(&chain, hotkey(1), &[(2, 1), (3, 2)]).expect("the form is right");
    (0..4).for_each(|_| drop(chain.run_epoch()));
    assert_eq!(standing(&chain, hotkey(1)), [(2, 32_768), (3, 65_535)]);
    set(&chain, hotkey(1), &[(2, 1)]).expect("the form is right");
    step(&chain, 1);
    chain.set_stake(hotkey(1), Rao::new(5)).expect("it is registered");
    assert_eq!(chain.register(hotkey(9)), Ok(assay_chain::Uid::new(2)));
    let report = chain.run_epoch();
    assert_eq!((report.neurons[2].incentive, report.neurons[3].incentive), (0, 65_535));
}
