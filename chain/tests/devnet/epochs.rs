//! From weights to emission.

use assay_chain::{BlockNumber, Chain, ChainError, EpochReport, Genesis, NetUid, Network, Parameters, Rao};
use assay_commitments::Epoch;
use proptest::{collection::vec, prelude::*};

use super::{Devnet, NETWORK, OWNER, hotkey, metagraph, parameters, ready, set, subnet};

fn mining(report: &EpochReport) -> Vec<u64> {
    report.neurons.iter().map(|neuron| neuron.mining.get()).collect()
}

fn paid(report: &EpochReport) -> u64 {
    let neurons = report.neurons.iter().map(|neuron| neuron.mining.get() + neuron.validating.get());
    neurons.sum::<u64>() + report.owner_cut.get() + report.burnt.get()
}

#[test]
fn kat_one_honest_validator_one_epoch() {
    let chain = subnet(parameters(), &[5], 2);
    set(&chain, hotkey(1), &[(0, 0), (2, 1), (3, 3)]).expect("a proper vector");
    let report = chain.run_epoch();
    // Ten blocks: 655350 issued, 117960 to the owner, 268695 to each side; miners get a quarter and
    // three.
    assert_eq!((report.epoch, report.block), (Epoch::new(1), BlockNumber::new(10)));
    assert_eq!((report.issued, report.owner_cut), (Rao::new(655_350), Rao::new(117_960)));
    assert_eq!(mining(&report), [0, 0, 67_174, 201_521]);
    assert_eq!(report.neurons[1].validating, Rao::new(268_695));
    assert_eq!(report.neurons[1].validator_trust, 65_535);
    assert_eq!((report.neurons[2].incentive, report.neurons[3].incentive), (16_383, 49_151));
    assert_eq!((report.burnt, paid(&report)), (Rao::new(0), 655_350));
}

#[test]
fn weight_on_the_owner_is_burnt() {
    let chain = subnet(parameters(), &[5], 1);
    set(&chain, hotkey(1), &[(0, 3), (2, 1)]).expect("a proper vector");
    let report = chain.run_epoch();
    assert_eq!(mining(&report), [0, 0, 67_174]);
    assert_eq!(report.burnt, Rao::new(201_521));
    assert_eq!(report.neurons[0].incentive, 49_151);
    assert_eq!(paid(&report), report.issued.get());
}

#[test]
fn a_minority_validator_cannot_feed_its_friend() {
    let chain = subnet(parameters(), &[70, 30], 2);
    set(&chain, hotkey(1), &[(3, 1)]).expect("a proper vector");
    set(&chain, hotkey(2), &[(4, 1)]).expect("a proper vector");
    let report = chain.run_epoch();
    assert_eq!(mining(&report), [0, 0, 0, 268_695, 0]);
    assert_eq!(report.neurons[2].validator_trust, 0);
}

#[test]
fn a_validators_weight_on_itself_does_not_count() {
    let chain = subnet(parameters(), &[5], 1);
    set(&chain, hotkey(1), &[(1, 60_000), (2, 1)]).expect("a proper vector");
    assert_eq!(mining(&chain.run_epoch()), [0, 0, 268_695]);
}

#[test]
fn weights_do_not_count_for_whoever_registers_in_their_block_or_later() {
    let chain = subnet(parameters(), &[5], 1);
    let late = chain.register(hotkey(3)).expect("there is room");
    set(&chain, hotkey(1), &[(2, 1), (late.get(), 9)]).expect("a proper vector");
    assert_eq!(mining(&chain.run_epoch()), [0, 0, 268_695, 0]);
}

#[test]
fn validators_that_stop_setting_weights_lose_their_say() {
    let stale = Parameters { activity_cutoff_factor_milli: 1_200, ..parameters() };
    let chain = subnet(stale, &[90, 10], 2);
    set(&chain, hotkey(1), &[(3, 1)]).expect("a proper vector");
    assert_eq!(mining(&chain.run_epoch())[3..], [268_695, 0]);
    set(&chain, hotkey(2), &[(4, 1)]).expect("a proper vector");
    let report = chain.run_epoch();
    assert_eq!(mining(&report)[3..], [0, 268_695]);
    assert_eq!(report.neurons[1].validating, Rao::new(0));
}

#[test]
fn without_weights_validators_share_what_miners_did_not_earn() {
    let chain = subnet(parameters(), &[3, 1], 1);
    let report = chain.run_epoch();
    assert_eq!(mining(&report), [0; 4]);
    assert_eq!(report.neurons[1].validating.get(), 403_043);
    assert_eq!(report.neurons[2].validating.get(), 134_347);
    assert_eq!(paid(&report), report.issued.get());
}

#[test]
fn a_new_validator_gets_its_permit_with_the_next_epoch() {
    let chain = subnet(parameters(), &[5], 2);
    chain.set_stake(hotkey(2), Rao::new(50)).expect("it is registered");
    assert_eq!(set(&chain, hotkey(2), &[(3, 1)]), Err(ChainError::NoPermit(hotkey(2))));
    chain.run_epoch();
    assert!(metagraph(&chain).neuron(&hotkey(2)).expect("it is there").validator_permit);
    set(&chain, hotkey(2), &[(3, 1)]).expect("it has a permit now");
}

#[test]
fn permits_go_to_the_largest_stakes_and_the_owner() {
    let permits = |max_allowed_validators| -> Vec<bool> {
        let chain = subnet(Parameters { max_allowed_validators, ..parameters() }, &[5, 6, 0], 0);
        metagraph(&chain).neurons.iter().map(|neuron| neuron.validator_permit).collect()
    };
    assert_eq!(permits(1), [true, false, true, false]);
    assert_eq!(permits(9), [true, true, true, false], "no stake, no permit");
}

#[test]
fn epochs_follow_the_chains_formula() {
    // With netuid 9 and a tempo of 9 the epoch is (block + 10) / 10.
    let chain = subnet(parameters(), &[5], 0);
    let at = BlockNumber::new;
    let head = || ready(chain.head()).expect("the devnet can be read");
    assert_eq!((head().epoch, head().epoch_start, head().next_epoch), (Epoch::new(1), at(0), at(10)));
    let ends: Vec<u64> = (0..3).map(|_| chain.run_epoch().block.get()).collect();
    assert_eq!(ends, [10, 20, 30]);
    assert_eq!(
        (head().block, head().epoch, head().epoch_start, head().next_epoch),
        (at(30), Epoch::new(4), at(30), at(40))
    );
    let reports: Vec<u64> = chain.reports(Epoch::new(2)).iter().map(|report| report.epoch.get()).collect();
    assert_eq!(reports, [2, 3]);
}

#[test]
fn subnets_take_turns_and_a_first_epoch_may_be_short() {
    let network = Network { netuid: NetUid::new(7), ..NETWORK };
    let chain = Devnet::new(&Genesis { network, owner: OWNER, validators: vec![], parameters: parameters() })
        .expect("a proper genesis");
    assert_eq!(ready(chain.head()).expect("the devnet can be read").epoch, Epoch::new(0));
    let report = chain.run_epoch();
    assert_eq!((report.epoch, report.block, report.issued), (Epoch::new(0), BlockNumber::new(2), Rao::new(131_070)));
    let report = chain.run_epoch();
    assert_eq!((report.epoch, report.block, report.issued), (Epoch::new(1), BlockNumber::new(12), Rao::new(655_350)));
}

#[test]
fn whoever_waits_for_a_block_is_told_when_it_is_there() {
    let chain = subnet(parameters(), &[5], 0);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let waiting = tokio::spawn({
            let chain = chain.clone();
            async move { chain.head_after(BlockNumber::new(3)).await }
        });
        tokio::task::yield_now().await;
        chain.step_block();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "block 3 is not behind itself");
        chain.step_block();
        let head = waiting.await.expect("it ends").expect("the devnet can be read");
        assert_eq!(head.block, BlockNumber::new(4));
    });
}

#[test]
fn the_owners_weight_on_itself_is_burnt_too() {
    let chain = subnet(parameters(), &[], 1);
    chain.set_stake(OWNER, Rao::new(5)).expect("the owner is registered");
    set(&chain, OWNER, &[(0, 3), (1, 1)]).expect("the owner has a permit");
    let report = chain.run_epoch();
    assert_eq!(mining(&report), [0, 67_174]);
    assert_eq!(report.burnt, Rao::new(201_521));
}

#[test]
fn a_validator_that_loses_its_permit_loses_its_say() {
    let chain = subnet(Parameters { max_allowed_validators: 1, ..parameters() }, &[5, 6], 2);
    set(&chain, hotkey(2), &[(3, 1)]).expect("the largest stake has the permit");
    chain.set_stake(hotkey(1), Rao::new(7)).expect("it is registered");
    let report = chain.run_epoch();
    assert_eq!(report.neurons[1].validating, Rao::new(0), "the new stake has no permit yet");
    assert_eq!(report.neurons[2].validator_trust, 65_535);
    set(&chain, hotkey(1), &[(3, 1)]).expect("the permit has moved here");
    let report = chain.run_epoch();
    assert_eq!(report.neurons[1].validator_trust, 65_535);
    assert_eq!(report.neurons[2].validator_trust, 0, "though it says the same");
}

/// What anybody may do to a devnet, sensible or not.
#[derive(Clone, Debug)]
enum Call {
    Step,
    Register(u8),
    Stake(u8, u64),
    Weights(u8, Vec<(u16, u16)>),
}

fn arb_call() -> impl Strategy<Value = Call> {
    prop_oneof![
        3 => Just(Call::Step),
        1 => (0..12_u8).prop_map(Call::Register),
        1 => (0..12_u8, any::<u64>()).prop_map(|(number, stake)| Call::Stake(number, stake)),
        3 => (0..12_u8, vec((0..12_u16, any::<u16>()), 1..6))
            .prop_map(|(number, weights)| Call::Weights(number, weights)),
    ]
}

fn make(chain: &Devnet, call: &Call) -> Option<EpochReport> {
    // Refusals are part of the history.
    match call {
        Call::Step => return chain.step_block(),
        Call::Register(number) => drop(chain.register(hotkey(*number))),
        Call::Stake(number, stake) => drop(chain.set_stake(hotkey(*number), Rao::new(*stake))),
        Call::Weights(number, weights) => drop(set(chain, hotkey(*number), weights)),
    }
    None
}

proptest! {
    #[test]
    fn prop_every_epoch_pays_or_burns_what_it_issued_and_replays_to_the_last_rao(
        calls in vec(arb_call(), 0..200),
    ) {
        let quick = Parameters { tempo: 4, ..parameters() };
        let (one, other) = (subnet(quick, &[700, 300], 4), subnet(quick, &[700, 300], 4));
        for call in &calls {
            let report = make(&one, call);
            prop_assert_eq!(&report, &make(&other, call));
            if let Some(report) = report {
                prop_assert_eq!(paid(&report), report.issued.get());
                prop_assert_eq!(report.neurons[0].mining, Rao::new(0));
            }
        }
        prop_assert_eq!(metagraph(&one), metagraph(&other));
    }
}
