//! Validators that agree, disagree, sleep and copy: what an epoch pays them.

use assay_chain::{Devnet, EpochReport, Parameters, Rao};

use super::{hotkey, parameters, set, subnet};

/// What an epoch's validators' half is, of ten blocks of 65535 RAO.
const HALF: u64 = 268_695;

fn dividends(report: &EpochReport) -> Vec<u16> {
    report.neurons.iter().map(|neuron| neuron.dividends).collect()
}

fn validating(report: &EpochReport) -> Vec<u64> {
    report.neurons.iter().map(|neuron| neuron.validating.get()).collect()
}

fn give(chain: &Devnet, validator: u8, weights: &[(u16, u16)]) {
    set(chain, hotkey(validator), weights).expect("a proper vector");
}

#[test]
fn validators_that_agree_are_paid_by_stake() {
    let chain = subnet(parameters(), &[3, 1], 2);
    for validator in [1, 2] {
        give(&chain, validator, &[(3, 1), (4, 2)]);
    }
    let report = chain.run_epoch();
    assert_eq!(dividends(&report), [0, 49_151, 16_383, 0, 0]);
    let paid = validating(&report);
    assert!(paid[1].abs_diff(HALF * 3 / 4) <= 1 && paid[1] + paid[2] == HALF, "{paid:?}");
}

#[test]
fn a_minority_that_disagrees_earns_nothing_and_neither_does_its_miner() {
    let chain = subnet(parameters(), &[70, 30], 2);
    give(&chain, 1, &[(3, 1)]);
    give(&chain, 2, &[(4, 1)]);
    let report = chain.run_epoch();
    assert_eq!(validating(&report), [0, HALF, 0, 0, 0]);
    assert_eq!((report.neurons[3].incentive, report.neurons[4].incentive), (65_535, 0));
    assert_eq!((report.neurons[1].validator_trust, report.neurons[2].validator_trust), (65_535, 0));
}

#[test]
fn weight_above_consensus_is_clipped_and_costs_the_validator_its_bonds() {
    // All say half and half of two miners, but the smallest gives nine tenths to the first.
    let chain = subnet(parameters(), &[40, 40, 20], 2);
    give(&chain, 1, &[(4, 5), (5, 5)]);
    give(&chain, 2, &[(4, 5), (5, 5)]);
    give(&chain, 3, &[(4, 9), (5, 1)]);
    let report = chain.run_epoch();
    assert_eq!((report.neurons[4].consensus, report.neurons[5].consensus), (32_767, 32_767));
    // Trust: 0.5 + 0.1.
    assert!(report.neurons[3].validator_trust.abs_diff(39_321) <= 2, "{}", report.neurons[3].validator_trust);
    // Ranks 0.5 and 0.4 + 0.02, so incentives 50/92 and 42/92; bonds of the smallest 0.1/0.5 and 0.02/0.42.
    let exact = 65_535.0 * (0.2 * 50.0 + 2.0 / 42.0 * 42.0) / 92.0;
    assert!((f64::from(dividends(&report)[3]) - exact).abs() < 3.0, "{:?} and not {exact}", dividends(&report));
}

#[test]
fn an_inactive_validator_is_paid_by_old_bonds_that_fade_and_has_no_say() {
    let stale = Parameters { activity_cutoff_factor_milli: 1_200, ..parameters() };
    let chain = subnet(stale, &[50, 50], 2);
    for validator in [1, 2] {
        give(&chain, validator, &[(3, 1)]);
    }
    let half = dividends(&chain.run_epoch());
    assert_eq!((half[1], half[2]), (32_767, 32_767));
    // From here on the second one sleeps; a tempo and a little later its stake does not count.
    let mut shares = Vec::new();
    for _ in 0..3 {
        give(&chain, 1, &[(3, 1)]);
        shares.push(dividends(&chain.run_epoch())[2]);
    }
    // Nine tenths of the bonds stay with each epoch.
    for (share, exact) in shares.iter().zip([0.5 * 0.9, 0.5 * 0.81, 0.5 * 0.729]) {
        let exact = 65_535.0 * exact;
        assert!((f64::from(*share) - exact).abs() < 4.0, "{shares:?}, and not {exact}");
    }
    give(&chain, 1, &[(4, 1)]);
    let report = chain.run_epoch();
    assert_eq!((report.neurons[3].incentive, report.neurons[4].incentive), (0, 65_535), "it could hold on to nobody");
}

#[test]
fn who_copies_weights_an_epoch_late_earns_less_than_who_found_the_miner() {
    // Two validators of equal stake beside a large one; the second copies what the others said before.
    let settings = Parameters { bonds_penalty: 0, ..parameters() };
    let chain = subnet(settings, &[60, 20, 20], 2);
    for validator in [1, 2, 3] {
        give(&chain, validator, &[(4, 1)]);
    }
    (0..3).for_each(|_| drop(chain.run_epoch()));
    // A better miner appears. The first small one finds it, then the large one, then the copier.
    let (mut finder, mut copier) = (0, 0);
    for moved in [&[2][..], &[1, 2], &[1, 2, 3], &[1, 2, 3], &[1, 2, 3]] {
        for validator in [1, 2, 3] {
            give(&chain, validator, if moved.contains(&validator) { &[(5, 1)] } else { &[(4, 1)] });
        }
        let paid = validating(&chain.run_epoch());
        finder += paid[2];
        copier += paid[3];
    }
    assert!(finder > copier + copier / 10, "{finder} to who found it, {copier} to who copied");
}

#[test]
fn bonds_let_the_past_count_so_that_one_epoch_of_silence_is_not_the_end() {
    let chain = subnet(parameters(), &[50, 30, 20], 1);
    for _ in 0..5 {
        for validator in [1, 2, 3] {
            give(&chain, validator, &[(4, 1)]);
        }
        chain.run_epoch();
    }
    // The third says nothing of any miner for one epoch.
    give(&chain, 3, &[(3, 1)]);
    let report = chain.run_epoch();
    let exact = 65_535.0 * 0.2 * 0.9;
    assert!((f64::from(dividends(&report)[3]) - exact).abs() < 8.0, "{:?}, and not {exact}", dividends(&report));
    assert_eq!(report.neurons[3].validator_trust, 0);
}

#[test]
fn stake_below_the_threshold_has_no_say_and_no_permit() {
    let settings = Parameters { stake_threshold: Rao::new(40), ..parameters() };
    let chain = subnet(settings, &[60, 39], 2);
    give(&chain, 1, &[(3, 1)]);
    let report = chain.run_epoch();
    assert_eq!(dividends(&report), [0, 65_535, 0, 0, 0]);
    let permits: Vec<bool> = super::metagraph(&chain).neurons.iter().map(|neuron| neuron.validator_permit).collect();
    assert_eq!(permits, [true, true, false, false, false]);
}
