//! Yuma consensus: from stake, weights and bonds to incentive, dividends and new bonds.
//!
//! With `S` the stake, `A` the stake that counts and `W` the weights, validators `i` in rows and miners
//! `j` in columns, each row of `W` adding up to one:
//!
//! ```text
//! C_j  = the stake-weighted median of W_ij at kappa                       consensus
//! Wc   = min(W_ij, C_j)                                                  clipped weights
//! T_i  = sum_j Wc_ij                                                     validator trust
//! I_j  = sum_i A_i · Wc_ij, adding up to one                             incentive
//! Wb   = (1 - penalty) · W + penalty · Wc                                weights that bonds follow
//! dB   = A_i · Wb_ij, columns adding up to one                           bonds of this epoch
//! B    = (1 - a) · B + a · dB, columns adding up to one                  bonds, a moving average
//! D_i  = sum_j B_ij · I_j, adding up to one                              dividends
//! ```
//!
//! A weight above what stake of `kappa` supports is clipped to it: a minority of the stake cannot raise
//! anybody. A validator's dividends follow the bonds that it gathered with miners that the majority
//! values, so that finding a good miner early pays, and copying weights late does not.
//!
//! This is Subtensor's epoch (`pallets/subtensor/src/epoch`) as it is with its defaults, and every
//! operation is rounded as it is there: 32 fractional bits, rounded down, in the same order, with bonds
//! kept in 16 bits between epochs. Left out are liquid alpha (a rate of the average for each pair) and
//! Yuma 3 (bonds without the stake in them), which subnets may turn on; neither is a default.

use super::fraction::Fraction;

/// A row as the chain stores it: uids and values.
pub(super) type Sparse = Vec<(u16, u16)>;

/// What an epoch is computed from, by uid.
#[derive(Clone, Debug, Default)]
pub(super) struct Inputs {
    /// Stake that counts for permits, in RAO.
    pub(super) stakes: Vec<u64>,
    /// Who set weights not too long ago.
    pub(super) active: Vec<bool>,
    /// Who holds a permit from the last epoch.
    pub(super) permits: Vec<bool>,
    /// Weights that count, in any scale.
    pub(super) weights: Vec<Sparse>,
    /// Bonds that count, in any scale for each column.
    pub(super) bonds: Vec<Sparse>,
    pub(super) rates: Rates,
}

/// A subnet's settings of its epoch.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    /// Of 65535.
    pub(super) kappa: u16,
    /// Of 65535.
    pub(super) bonds_penalty: u16,
    /// Of a million.
    pub(super) bonds_moving_average: u64,
}

/// What it comes to, by uid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) stake: Vec<Fraction>,
    pub(super) active_stake: Vec<Fraction>,
    pub(super) consensus: Vec<Fraction>,
    pub(super) trust: Vec<Fraction>,
    pub(super) incentive: Vec<Fraction>,
    pub(super) dividends: Vec<Fraction>,
    /// Scaled so that the largest of each column is 65535; zeros are left out.
    pub(super) bonds: Vec<Sparse>,
}

/// Rows of a square matrix.
type Matrix = Vec<Vec<Fraction>>;

pub(super) fn epoch(inputs: &Inputs) -> Outcome {
    let uids = inputs.stakes.len();
    let stake = shares(&inputs.stakes);
    let counts = |uid: usize| inputs.active[uid] && inputs.permits[uid];
    let counted = stake.iter().enumerate().map(|(uid, share)| if counts(uid) { *share } else { Fraction::ZERO });
    let active_stake = normalised(counted.collect());

    let permitted = |(row, permit): (&Sparse, &bool)| if *permit { whole(row, uids) } else { vec![0; uids] };
    let weights: Matrix = inputs.weights.iter().zip(&inputs.permits).map(permitted).map(|row| shares(&row)).collect();
    let kappa = Fraction::proportion(inputs.rates.kappa);
    let consensus = medians(&active_stake, &weights, kappa);
    let clipped: Matrix = weights
        .iter()
        .map(|row| row.iter().zip(&consensus).map(|(weight, most)| *weight.min(most)).collect())
        .collect();
    let trust = clipped.iter().map(|row| row.iter().copied().sum()).collect();
    let incentive = normalised(column_sums(&scaled(&clipped, &active_stake), uids));

    let penalty = Fraction::proportion(inputs.rates.bonds_penalty);
    let for_bonds = weights.iter().zip(&clipped).map(|(row, clipped)| penalised(row, clipped, penalty)).collect();
    let fresh = columns_normalised(scaled(&for_bonds, &active_stake), uids);
    let old = inputs.bonds.iter().map(|row| whole(row, uids).into_iter().map(|bond| Fraction::ratio(bond.into(), 1)));
    let old = columns_normalised(old.map(Iterator::collect).collect(), uids);
    let kept = Fraction::ratio(inputs.rates.bonds_moving_average.into(), 1_000_000);
    let bonds = columns_normalised(averaged(&old, &fresh, kept), uids);

    let earned = |row: &Vec<Fraction>| row.iter().zip(&incentive).map(|(bond, share)| share.times(*bond)).sum();
    let dividends = normalised(bonds.iter().map(earned).collect());
    Outcome { bonds: stored(&bonds, uids), stake, active_stake, consensus, trust, incentive, dividends }
}

/// Who holds a permit for the next epoch: the largest shares above zero, of equal ones the later uid.
pub(super) fn permits(stake: &[Fraction], most: u16) -> Vec<bool> {
    let mut by_stake: Vec<usize> = (0..stake.len()).collect();
    by_stake.sort_by_key(|&uid| std::cmp::Reverse((stake[uid], uid)));
    by_stake.truncate(most.into());
    let mut permits = vec![false; stake.len()];
    by_stake.into_iter().for_each(|uid| permits[uid] = stake[uid] > Fraction::ZERO);
    permits
}

/// Whole numbers as shares of their sum.
pub(super) fn shares(values: &[u64]) -> Vec<Fraction> {
    let total: u128 = values.iter().map(|value| u128::from(*value)).sum();
    values.iter().map(|value| Fraction::ratio((*value).into(), total)).collect()
}

fn whole(row: &Sparse, uids: usize) -> Vec<u64> {
    let mut dense = vec![0; uids];
    row.iter().for_each(|(uid, value)| dense[usize::from(*uid)] = (*value).into());
    dense
}

fn normalised(values: Vec<Fraction>) -> Vec<Fraction> {
    let total: Fraction = values.iter().copied().sum();
    values.into_iter().map(|value| value.of(total)).collect()
}

fn scaled(rows: &Matrix, by: &[Fraction]) -> Matrix {
    let scale = |(row, by): (&Vec<Fraction>, &Fraction)| row.iter().map(|value| value.times(*by)).collect();
    rows.iter().zip(by).map(scale).collect()
}

fn column_sums(rows: &Matrix, uids: usize) -> Vec<Fraction> {
    (0..uids).map(|column| rows.iter().map(|row| row[column]).sum()).collect()
}

fn columns_normalised(rows: Matrix, uids: usize) -> Matrix {
    let sums = column_sums(&rows, uids);
    rows.into_iter().map(|row| row.into_iter().zip(&sums).map(|(value, sum)| value.of(*sum)).collect()).collect()
}

/// Of each column the smallest value that, with all smaller ones, has more than `1 - kappa` of the stake;
/// the largest, if none has.
fn medians(stake: &[Fraction], rows: &Matrix, kappa: Fraction) -> Vec<Fraction> {
    let voters: Vec<usize> = (0..stake.len()).filter(|&uid| stake[uid] > Fraction::ZERO).collect();
    // Once more, as the chain does: what rounding took from the sum shifts the shares again.
    let votes = normalised(voters.iter().map(|&uid| stake[uid]).collect());
    let total: Fraction = votes.iter().copied().sum();
    let Some(minority) = total.bits().checked_sub(kappa.bits()) else {
        // Not even all of the stake is enough.
        let least = |column: usize| voters.iter().map(|&uid| rows[uid][column]).min();
        return (0..rows.len()).map(|column| least(column).unwrap_or_default()).collect();
    };
    let median = |column: usize| {
        let mut column: Vec<(Fraction, Fraction)> =
            voters.iter().zip(&votes).map(|(&uid, vote)| (rows[uid][column], *vote)).collect();
        column.sort_unstable();
        let largest = column.last().map(|(weight, _)| *weight).unwrap_or_default();
        let mut support = 0;
        let supported = column.into_iter().find(|(_, vote)| {
            support += vote.bits();
            support > minority
        });
        supported.map_or(largest, |(weight, _)| weight)
    };
    (0..rows.len()).map(median).collect()
}

/// Between weights and clipped weights.
fn penalised(row: &[Fraction], clipped: &[Fraction], penalty: Fraction) -> Vec<Fraction> {
    // The difference is negative on chain, so that its product is rounded away from zero.
    row.iter().zip(clipped).map(|(weight, clipped)| *weight - penalty.times_up(*weight - *clipped)).collect()
}

fn averaged(old: &Matrix, fresh: &Matrix, kept: Fraction) -> Matrix {
    let rate = Fraction::ONE - kept;
    let average = |(old, fresh): (&Vec<Fraction>, &Vec<Fraction>)| {
        old.iter().zip(fresh).map(|(old, fresh)| rate.times(*fresh) + kept.times(*old)).collect()
    };
    old.iter().zip(fresh).map(average).collect()
}

fn stored(bonds: &Matrix, uids: usize) -> Vec<Sparse> {
    let largest: Vec<Fraction> =
        (0..uids).map(|column| bonds.iter().map(|row| row[column]).max().unwrap_or_default()).collect();
    let entry = |(uid, (bond, largest)): (u16, (&Fraction, &Fraction))| (uid, bond.of(*largest).to_proportion());
    let row =
        |row: &Vec<Fraction>| (0..).zip(row.iter().zip(&largest)).map(entry).filter(|(_, value)| *value > 0).collect();
    bonds.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};
    use serde::Deserialize;

    use super::*;
    use crate::devnet::emission;

    /// What `fixtures/vectors/chain/generate_yuma.py` computes without this crate.
    const VECTORS: &str = include_str!("../../../fixtures/vectors/chain/yuma_v1.json");

    #[derive(Deserialize)]
    struct Vectors {
        emission: u64,
        scenarios: Vec<Scenario>,
    }

    #[derive(Deserialize)]
    struct Scenario {
        name: String,
        uids: u16,
        kappa: u16,
        bonds_penalty: u16,
        bonds_moving_average: u64,
        epochs: Vec<Step>,
    }

    #[derive(Deserialize)]
    struct Step {
        stakes: Vec<u64>,
        active: Vec<bool>,
        permits: Vec<bool>,
        weights: Vec<Sparse>,
        /// Uids whose bonds do not count: they were given away since the last epoch.
        gone: Vec<u16>,
        expected: Expected,
        published: Option<Published>,
    }

    /// In units of 2^-32, and bonds as they are stored.
    #[derive(Debug, PartialEq, Deserialize)]
    struct Expected {
        consensus: Vec<u64>,
        trust: Vec<u64>,
        incentive: Vec<u64>,
        dividends: Vec<u64>,
        combined: Vec<u64>,
        bonds: Vec<Sparse>,
    }

    /// Figures that Subtensor's own tests assert or print.
    #[derive(Deserialize)]
    struct Published {
        bonds: Vec<(usize, u16, u16)>,
        #[serde(default)]
        dividends: Vec<f64>,
        #[serde(default)]
        dividends_u16: Vec<u16>,
        emission: Vec<u64>,
    }

    fn vectors() -> Vectors {
        serde_json::from_str(VECTORS).unwrap()
    }

    /// Runs a scenario, each epoch on the bonds of the one before.
    fn run(scenario: &Scenario) -> Vec<(Outcome, Expected)> {
        let mut bonds = vec![Sparse::new(); usize::from(scenario.uids)];
        let rates = Rates {
            kappa: scenario.kappa,
            bonds_penalty: scenario.bonds_penalty,
            bonds_moving_average: scenario.bonds_moving_average,
        };
        let one = |step: &Step| {
            bonds.iter_mut().for_each(|row| row.retain(|(uid, _)| !step.gone.contains(uid)));
            let outcome = epoch(&Inputs {
                stakes: step.stakes.clone(),
                active: step.active.clone(),
                permits: step.permits.clone(),
                weights: step.weights.clone(),
                bonds: bonds.clone(),
                rates,
            });
            let permits = permits(&outcome.stake, scenario.uids);
            bonds = outcome
                .bonds
                .iter()
                .zip(permits)
                .map(|(row, permit)| if permit { row.clone() } else { vec![] })
                .collect();
            let bits = |values: &[Fraction]| values.iter().map(|value| value.bits()).collect();
            let combined =
                emission::combined(&outcome.incentive, &outcome.dividends, &outcome.active_stake, &outcome.stake);
            let found = Expected {
                consensus: bits(&outcome.consensus),
                trust: bits(&outcome.trust),
                incentive: bits(&outcome.incentive),
                dividends: bits(&outcome.dividends),
                combined: bits(&combined),
                bonds: bonds.clone(),
            };
            (outcome, found)
        };
        scenario.epochs.iter().map(one).collect()
    }

    #[test]
    fn kat_every_epoch_is_that_of_the_independent_script_to_the_last_bit() {
        let mut epochs = 0;
        for scenario in vectors().scenarios {
            for (number, (step, (_, found))) in scenario.epochs.iter().zip(run(&scenario)).enumerate() {
                assert_eq!(found, step.expected, "{} epoch {number}", scenario.name);
                epochs += 1;
            }
        }
        assert!(epochs > 300, "{epochs} epochs are there");
    }

    #[test]
    fn kat_the_figures_in_subtensors_own_tests_come_out() {
        let Vectors { emission: issued, scenarios } = vectors();
        let mut epochs = 0;
        for scenario in &scenarios {
            let name = &scenario.name;
            for (step, (outcome, found)) in scenario.epochs.iter().zip(run(scenario)) {
                let Some(published) = &step.published else { continue };
                for (row, uid, value) in &published.bonds {
                    assert!(found.bonds[*row].contains(&(*uid, *value)), "{name}: bond of {row} with {uid}");
                }
                // Ten digits are printed, half of the last one is less than one unit of 2^-32.
                for (share, dividend) in published.dividends.iter().zip(&outcome.dividends) {
                    let bits = share * 2_f64.powi(32);
                    assert!((bits - f64::from(u32::try_from(dividend.bits()).unwrap())).abs() < 1.0, "{name}: {share}");
                }
                for (share, dividend) in published.dividends_u16.iter().zip(&outcome.dividends) {
                    assert_eq!(dividend.to_proportion(), *share, "{name}");
                }
                let emission: Vec<u64> = found.combined.iter().map(|bits| (bits * issued) >> 32).collect();
                assert_eq!(emission, published.emission, "{name}");
                epochs += 1;
            }
        }
        assert_eq!(epochs, 13);
    }

    const KAPPA: u16 = 32_767;

    /// Validators from uid 0 on with stakes and weights in any scale by uid; the other uids are miners.
    fn inputs(validators: &[(u64, &[u16])]) -> Inputs {
        let uids = validators.iter().map(|(_, weights)| weights.len()).max().unwrap();
        let of = |uid: usize| validators.get(uid).copied().unwrap_or((0, &[]));
        Inputs {
            stakes: (0..uids).map(|uid| of(uid).0).collect(),
            active: vec![true; uids],
            permits: (0..uids).map(|uid| of(uid).0 > 0).collect(),
            weights: (0..uids).map(|uid| (0..).zip(of(uid).1.iter().copied()).collect()).collect(),
            bonds: vec![vec![]; uids],
            rates: Rates { kappa: KAPPA, bonds_penalty: u16::MAX, bonds_moving_average: 900_000 },
        }
    }

    fn consensus(validators: &[(u64, &[u16])]) -> Vec<Fraction> {
        epoch(&inputs(validators)).consensus
    }

    fn hundredths(values: &[u32]) -> Vec<Fraction> {
        values.iter().map(|value| Fraction::ratio((*value).into(), 100)).collect()
    }

    #[test]
    fn kat_a_minority_is_clipped_to_the_majority() {
        // Three quarters of the stake say (50, 50, 0) of miners 2 to 4, one quarter all on miner 4.
        let result = epoch(&inputs(&[(3, &[0, 0, 50, 50, 0]), (1, &[0, 0, 0, 0, 100])]));
        assert_eq!(result.consensus, hundredths(&[0, 0, 50, 50, 0]));
        assert_eq!(result.trust, hundredths(&[100, 0, 0, 0, 0]));
        assert_eq!(result.incentive, hundredths(&[0, 0, 50, 50, 0]));
        assert_eq!(result.dividends, hundredths(&[100, 0, 0, 0, 0]), "what was clipped earns no bond");
    }

    #[test]
    fn kat_the_consensus_is_the_stake_weighted_median() {
        // By weight on miner 3: 80 (stake 2), 40 (stake 3), 0 (stake 4). Stake 5 of 9 gives at least 40.
        let validators: [(u64, &[u16]); 3] =
            [(2, &[0, 0, 0, 80, 20]), (3, &[0, 0, 0, 40, 60]), (4, &[0, 0, 0, 0, 100])];
        assert_eq!(consensus(&validators), hundredths(&[0, 0, 0, 40, 60]));
    }

    #[test]
    fn kat_with_two_equal_validators_the_higher_weight_is_consensus() {
        // Half the stake is more than kappa, 32767 of 65535.
        assert_eq!(consensus(&[(1, &[0, 0, 75, 25]), (1, &[0, 0, 25, 75])]), hundredths(&[0, 0, 75, 75]));
    }

    #[test]
    fn without_active_stake_nobody_earns_anything() {
        let mut inputs = inputs(&[(5, &[0, 100])]);
        inputs.active = vec![false; 2];
        let result = epoch(&inputs);
        let nothing = hundredths(&[0, 0]);
        assert_eq!((&result.consensus, &result.incentive, &result.dividends), (&nothing, &nothing, &nothing));
        assert_eq!(result.stake, hundredths(&[100, 0]), "though it is there");
    }

    #[test]
    fn a_bonds_penalty_of_nothing_lets_a_minority_gather_bonds_that_pay_once_it_was_right() {
        let early = |bonds_penalty| {
            let mut inputs = inputs(&[(8, &[0, 0, 1, 0]), (2, &[0, 0, 0, 1])]);
            inputs.rates.bonds_penalty = bonds_penalty;
            let first = epoch(&inputs);
            assert_eq!(first.dividends, hundredths(&[100, 0, 0, 0]), "nobody else values miner 3 yet");
            // Now everybody does.
            inputs.weights = vec![vec![(3, 1)], vec![(3, 1)], vec![], vec![]];
            inputs.bonds = first.bonds;
            epoch(&inputs).dividends[1]
        };
        let fair = Fraction::ratio(20, 100);
        assert!(early(0) > Fraction::ratio(90, 100), "{:?}", early(0));
        assert!(early(u16::MAX) >= fair - Fraction::ratio(1, 1_000_000));
        assert!(early(u16::MAX) <= fair, "{:?}", early(u16::MAX));
        assert!(early(u16::MAX) < early(u16::MAX / 2) && early(u16::MAX / 2) < early(0) + Fraction::ratio(1, 1_000));
    }

    #[test]
    fn permits_go_to_the_largest_stakes_and_of_equal_ones_to_the_later_uid() {
        let stake = hundredths(&[20, 30, 0, 30, 20]);
        assert_eq!(permits(&stake, 9), [true, true, false, true, true]);
        assert_eq!(permits(&stake, 3), [false, true, false, true, true]);
        assert_eq!(permits(&stake, 0), [false; 5]);
    }

    proptest! {
        #[test]
        fn prop_a_minority_moves_consensus_no_further_than_the_others_disagree(
            honest in vec((1..1_000_u64, vec(any::<u16>(), 4)), 1..4),
            weights in vec(any::<u16>(), 4),
            part in 0..32_000_u64,
        ) {
            let majority: u64 = honest.iter().map(|(stake, _)| stake).sum();
            // Well below kappa of the whole, scaled by `part`.
            let minority = part * majority / (65_535 - part);
            let mut rows: Vec<(u64, &[u16])> =
                honest.iter().map(|(stake, weights)| (*stake, weights.as_slice())).collect();
            let alone: Vec<Vec<Fraction>> = honest.iter().map(|(_, row)| {
                shares(&row.iter().map(|value| u64::from(*value)).collect::<Vec<u64>>())
            }).collect();
            rows.push((minority, &weights));
            for (uid, value) in consensus(&rows).into_iter().enumerate() {
                let least = alone.iter().map(|row| row[uid]).min().unwrap();
                let most = alone.iter().map(|row| row[uid]).max().unwrap();
                prop_assert!((least..=most).contains(&value));
            }
        }

        #[test]
        fn prop_shares_of_an_epoch_never_exceed_the_whole(
            validators in vec((any::<u64>(), vec(any::<u16>(), 6)), 1..6),
            bonds in vec(vec((0..6_u16, any::<u16>()), 0..4), 6),
        ) {
            let rows: Vec<(u64, &[u16])> =
                validators.iter().map(|(stake, weights)| (*stake, weights.as_slice())).collect();
            let mut inputs = inputs(&rows);
            inputs.bonds = bonds;
            let result = epoch(&inputs);
            for shares in [&result.stake, &result.active_stake, &result.incentive, &result.dividends] {
                let total: Fraction = shares.iter().copied().sum();
                prop_assert!(total <= Fraction::ONE);
            }
        }
    }
}
