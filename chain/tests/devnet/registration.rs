//! Who gets a place, what it costs, and who loses one.

use assay_chain::{Chain, ChainError, Coldkey, Devnet, Parameters, Rao, Uid};

use super::{OWNER, hotkey, metagraph, parameters, ready, set, standing, step, subnet};

const PAYER: Coldkey = Coldkey::new([200; 32]);

fn burn(chain: &Devnet) -> u64 {
    ready(chain.hyperparameters()).expect("the devnet can be read").burn.get()
}

#[test]
fn a_registration_takes_the_burn_and_raises_it_and_time_lets_it_fall() {
    let parameters = Parameters { burn: Rao::new(100_000_000), burn_half_life: 10, ..parameters() };
    let chain = subnet(parameters, &[5], 0);
    let before = burn(&chain);
    chain.fund(PAYER, Rao::new(1_000_000_000));
    assert_eq!(chain.burned_register(PAYER, hotkey(2)), Ok(Uid::new(2)));
    assert_eq!(chain.balance(PAYER), Rao::new(1_000_000_000 - before));
    let raised = burn(&chain);
    assert_eq!(raised, before * 126 / 100);
    assert_eq!(metagraph(&chain).neuron(&hotkey(2)).expect("it is there").coldkey, PAYER);

    step(&chain, 10);
    let halved = burn(&chain);
    assert!((raised / 2 - 100..=raised / 2).contains(&halved), "{halved} is not half of {raised}");
    step(&chain, 1_000);
    assert_eq!(burn(&chain), 500_000, "it never falls below its least");
}

#[test]
fn who_cannot_pay_or_does_not_own_the_hotkey_is_refused_and_keeps_its_coins() {
    let chain = subnet(Parameters { burn: Rao::new(500_000), ..parameters() }, &[5], 0);
    let poor = ChainError::BalanceTooLow(assay_commitments::Hotkey::new(*PAYER.as_bytes()));
    chain.fund(PAYER, Rao::new(burn(&chain) - 1));
    assert_eq!(chain.burned_register(PAYER, hotkey(2)), Err(poor));
    chain.fund(PAYER, Rao::new(1));
    assert_eq!(chain.burned_register(PAYER, hotkey(1)), Err(ChainError::AlreadyRegistered(hotkey(1))));
    chain.register(hotkey(3)).expect("there is room");
    assert_eq!(chain.burned_register(PAYER, hotkey(2)), Ok(Uid::new(3)));
    assert_eq!(chain.balance(PAYER), Rao::new(0));
}

#[test]
fn a_hotkey_belongs_to_its_first_coldkey_even_when_it_has_lost_its_place() {
    let chain = subnet(Parameters { max_allowed_uids: 2, ..parameters() }, &[], 0);
    let other = Coldkey::new([201; 32]);
    for account in [PAYER, other] {
        chain.fund(account, Rao::new(10_000_000_000));
    }
    chain.burned_register(PAYER, hotkey(2)).expect("there is room");
    chain.burned_register(PAYER, hotkey(3)).expect("it takes the other's place");
    let refused = chain.burned_register(other, hotkey(2)).expect_err("it is another's hotkey").to_string();
    assert!(refused.contains("NonAssociatedColdKey"), "{refused}");
    assert_eq!(chain.burned_register(PAYER, hotkey(2)), Ok(Uid::new(1)));
    chain.register(hotkey(3)).expect("it takes the other's place");
    assert_eq!(metagraph(&chain).neuron(&hotkey(3)).expect("it is there").coldkey, PAYER, "also without price");
}

#[test]
fn a_full_subnet_gives_the_place_of_the_lowest_emission_and_nothing_of_its_past() {
    let settings = Parameters { max_allowed_uids: 5, immunity_period: 15, min_non_immune_uids: 0, ..parameters() };
    let chain = subnet(settings, &[5], 3);
    set(&chain, hotkey(1), &[(2, 3), (3, 1), (4, 2)]).expect("a proper vector");
    ready(chain.serve_endpoint(hotkey(3), "10.0.0.1:9".parse().expect("an address"))).expect("it is registered");
    chain.set_stake(hotkey(3), Rao::new(1)).expect("it is registered");
    chain.run_epoch();
    chain.run_epoch();
    assert_eq!(chain.register(hotkey(8)), Ok(Uid::new(3)), "it earned the least");

    let seen = metagraph(&chain);
    assert_eq!(seen.neuron(&hotkey(3)), None);
    let newcomer = seen.neuron(&hotkey(8)).expect("it is there");
    assert_eq!((newcomer.endpoint, newcomer.validator_permit, newcomer.stake), (None, false, Rao::new(0)));
    assert_eq!((newcomer.registered_at, newcomer.last_update), (seen.block, seen.block));
    assert_eq!(standing(&chain, hotkey(1)), [(2, 65_535), (4, 43_690)], "what was meant for the other is zero");

    // The newcomer is immune, so that the next one takes the place of another.
    assert_eq!(chain.register(hotkey(9)), Ok(Uid::new(4)));
    assert_eq!(chain.register(hotkey(3)), Ok(Uid::new(2)), "who lost its place may come again");
    assert_eq!(metagraph(&chain).neuron(&hotkey(3)).expect("it is there").stake, Rao::new(1), "with its stake");
}

#[test]
fn immune_neurons_leave_only_if_too_few_others_are_left_and_the_owner_never() {
    let settings = Parameters { max_allowed_uids: 4, immunity_period: 15, min_non_immune_uids: 1, ..parameters() };
    let chain = subnet(settings, &[5], 1);
    step(&chain, 15);
    chain.register(hotkey(3)).expect("there is room");
    // Uids 1 and 2 are past immunity, more than one, and the miner earned less than the validator.
    assert_eq!(chain.register(hotkey(8)), Ok(Uid::new(2)));
    // Now the validator alone is, and is spared: the lower one of two immune neurons goes.
    assert_eq!(chain.register(hotkey(9)), Ok(Uid::new(2)));
    assert!(metagraph(&chain).neuron(&hotkey(1)).is_some());
    assert_eq!(metagraph(&chain).burn_hotkey(), Some(OWNER));

    let lonely = subnet(Parameters { max_allowed_uids: 1, ..parameters() }, &[], 0);
    assert_eq!(lonely.register(hotkey(1)), Err(ChainError::SubnetFull { uids: 1 }));
    assert_eq!(lonely.register(OWNER), Err(ChainError::AlreadyRegistered(OWNER)));
}

#[test]
fn bonds_with_a_replaced_neuron_are_gone_with_the_next_epoch() {
    let settings = Parameters {
        max_allowed_uids: 5,
        immunity_period: 1,
        min_non_immune_uids: 0,
        bonds_penalty: 0,
        ..parameters()
    };
    let chain = subnet(settings, &[60, 40], 2);
    // Validator 2 alone gives to miner 4, and has all bonds with it.
    set(&chain, hotkey(1), &[(3, 1)]).expect("a proper vector");
    set(&chain, hotkey(2), &[(3, 1), (4, 1)]).expect("a proper vector");
    chain.run_epoch();
    step(&chain, 1);
    assert_eq!(chain.register(hotkey(8)), Ok(Uid::new(4)), "miner 4 earned nothing");
    step(&chain, 1);
    for validator in [1, 2] {
        set(&chain, hotkey(validator), &[(4, 1)]).expect("a proper vector");
    }
    let report = chain.run_epoch();
    assert_eq!(report.neurons[4].incentive, 65_535);
    let dividends = (report.neurons[1].dividends, report.neurons[2].dividends);
    assert_eq!(dividends, (39_321, 26_213), "by stake, as if nobody had been there");
}
