//! Yuma consensus, from weights to incentive.
//!
//! With `A` the active stake and `W` the weights, validators `i` in rows, each row adding up to
//! one:
//!
//! ```text
//! C_j = the largest c with  sum { A_i : W_ij >= c } >= kappa · sum A      consensus
//! T_i = sum_j min(W_ij, C_j)                                             validator trust
//! R_j = sum_i A_i · min(W_ij, C_j)                                       rank
//! I_j = R_j / sum R                                                      incentive
//! ```
//!
//! A weight above what stake of `kappa` supports is clipped to it: a minority of the stake cannot
//! raise anybody. This follows Subtensor's epoch (`pallets/subtensor/src/epoch`) up to the
//! incentive. Shares are fractions of 32 bits as there; consensus compares stake in whole RAO,
//! where Subtensor compares rounded shares, so that a tie is a tie. Bonds, and with them dividends
//! by bond, are left out: see `emission`.

use super::fraction::Fraction;

/// One validator's say.
pub(super) struct Row {
    /// Its active stake, in RAO.
    pub(super) stake: u64,
    /// Its weights by uid, adding up to one, or all zero.
    pub(super) weights: Vec<Fraction>,
}

/// The result, by uid.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ranking {
    pub(super) consensus: Vec<Fraction>,
    pub(super) validator_trust: Vec<Fraction>,
    pub(super) rank: Vec<Fraction>,
}

impl Ranking {
    pub(super) fn incentive(&self, uid: usize) -> Fraction {
        let total: Fraction = self.rank.iter().copied().sum();
        Fraction::ratio(self.rank[uid].bits().into(), total.bits().into())
    }
}

/// Computes consensus over a square matrix: one row and one column a uid.
pub(super) fn consensus(rows: &[Row], kappa: u16) -> Ranking {
    let total: u128 = rows.iter().map(|row| u128::from(row.stake)).sum();
    let consensus: Vec<Fraction> = (0..rows.len()).map(|column| median(rows, column, total, kappa)).collect();
    let clipped = |row: &Row, column: usize| row.weights[column].min(consensus[column]);
    let columns = 0..rows.len();
    let validator_trust = rows.iter().map(|row| columns.clone().map(|column| clipped(row, column)).sum()).collect();
    let share = |row: &Row| Fraction::ratio(row.stake.into(), total);
    let rank =
        columns.clone().map(|column| rows.iter().map(|row| share(row).times(clipped(row, column))).sum()).collect();
    Ranking { consensus, validator_trust, rank }
}

/// The largest weight in a column that stake of at least `kappa` gives or exceeds.
fn median(rows: &[Row], column: usize, total: u128, kappa: u16) -> Fraction {
    let mut column: Vec<(Fraction, u64)> =
        rows.iter().filter(|row| row.stake > 0).map(|row| (row.weights[column], row.stake)).collect();
    column.sort_unstable_by(|a, b| b.cmp(a));
    let needed = u128::from(kappa) * total;
    let mut support = 0;
    for (weight, stake) in column {
        support += u128::from(stake) * u128::from(u16::MAX);
        if support >= needed {
            return weight;
        }
    }
    Fraction::ZERO
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const KAPPA: u16 = 32_767;

    /// Rows of (stake, weights in hundredths); the miners' own rows are added, without stake or
    /// weights.
    fn rows(validators: &[(u64, &[u32])]) -> Vec<Row> {
        let uids = validators.iter().map(|(_, weights)| weights.len()).max().unwrap();
        let row = |(stake, weights): &(u64, &[u32])| Row {
            stake: *stake,
            weights: (0..uids).map(|uid| Fraction::ratio(weights.get(uid).copied().unwrap_or(0).into(), 100)).collect(),
        };
        let silent = (validators.len()..uids).map(|_| row(&(0, &[])));
        validators.iter().map(row).chain(silent).collect()
    }

    fn hundredths(values: &[u32]) -> Vec<Fraction> {
        values.iter().map(|value| Fraction::ratio((*value).into(), 100)).collect()
    }

    #[test]
    fn kat_validators_that_agree_are_all_taken_at_their_word() {
        let result = consensus(&rows(&[(3, &[0, 0, 25, 75]), (1, &[0, 0, 25, 75])]), KAPPA);
        assert_eq!(result.consensus, hundredths(&[0, 0, 25, 75]));
        assert_eq!(result.rank, hundredths(&[0, 0, 25, 75]));
        assert_eq!(result.validator_trust, hundredths(&[100, 100, 0, 0]));
        assert_eq!(result.incentive(3), Fraction::ratio(3, 4));
    }

    #[test]
    fn kat_a_minority_is_clipped_to_the_majority() {
        // Three quarters of the stake say (50, 50, 0) of miners 2 to 4, one quarter all on miner 4.
        let result = consensus(&rows(&[(3, &[0, 0, 50, 50, 0]), (1, &[0, 0, 0, 0, 100])]), KAPPA);
        assert_eq!(result.consensus, hundredths(&[0, 0, 50, 50, 0]));
        assert_eq!(result.validator_trust, hundredths(&[100, 0, 0, 0, 0]));
        // 3/4 · 1/2 each; what the minority gave to miner 4 is clipped away.
        let three_eighths = Fraction::ratio(3, 8);
        assert_eq!(result.rank, [Fraction::ZERO, Fraction::ZERO, three_eighths, three_eighths, Fraction::ZERO]);
        assert_eq!(result.incentive(2), Fraction::ratio(1, 2));
    }

    #[test]
    fn kat_the_consensus_is_the_stake_weighted_median() {
        // By weight on miner 3: 80 (stake 2), 40 (stake 3), 0 (stake 4). Stake 5 of 9 gives at
        // least 40.
        let result =
            consensus(&rows(&[(2, &[0, 0, 0, 80, 20]), (3, &[0, 0, 0, 40, 60]), (4, &[0, 0, 0, 0, 100])]), KAPPA);
        assert_eq!(result.consensus, hundredths(&[0, 0, 0, 40, 60]));
        // The largest stake gave 100 to miner 4, and keeps only the 60 that others confirm.
        assert_eq!(result.validator_trust[2], Fraction::ratio(60, 100));
    }

    #[test]
    fn kat_with_two_equal_validators_the_higher_weight_is_consensus() {
        // Half the stake is more than kappa, 32767 of 65535.
        let result = consensus(&rows(&[(1, &[0, 0, 75, 25]), (1, &[0, 0, 25, 75])]), KAPPA);
        assert_eq!(result.consensus, hundredths(&[0, 0, 75, 75]));
        assert_eq!(result.incentive(2), result.incentive(3));
    }

    #[test]
    fn stake_exactly_at_kappa_is_enough_and_one_unit_less_is_not() {
        let lone = |stake: u64| {
            let validators: [(u64, &[u32]); 2] = [(stake, &[0, 0, 100]), (65_535 - stake, &[0, 0, 0])];
            consensus(&rows(&validators), KAPPA).consensus[2]
        };
        assert_eq!(lone(32_767), Fraction::ratio(1, 1));
        assert_eq!(lone(32_766), Fraction::ZERO);
    }

    #[test]
    fn without_active_stake_there_is_no_incentive() {
        let result = consensus(&rows(&[(0, &[0, 100])]), KAPPA);
        assert_eq!(result.consensus, hundredths(&[0, 0]));
        assert_eq!(result.rank, hundredths(&[0, 0]));
        assert_eq!(result.incentive(1), Fraction::ZERO);
    }

    /// A row of four weights that add up to one, as far as 32 bits go.
    fn arb_weights() -> impl Strategy<Value = Vec<Fraction>> {
        vec(any::<u16>(), 4).prop_map(|raw| {
            let total: u128 = raw.iter().map(|value| u128::from(*value)).sum();
            raw.into_iter().map(|value| Fraction::ratio(value.into(), total)).collect()
        })
    }

    proptest! {
        #[test]
        fn prop_a_minority_moves_consensus_no_further_than_the_others_disagree(
            honest in vec((1..1_000_u64, arb_weights()), 1..4),
            weights in arb_weights(),
            part in 0..32_767_u64,
        ) {
            let majority: u64 = honest.iter().map(|(stake, _)| stake).sum();
            // The largest stake below kappa of the whole, scaled by `part`.
            let minority = part * majority / (65_535 - part);
            let mut rows: Vec<Row> =
                honest.into_iter().map(|(stake, weights)| Row { stake, weights }).collect();
            let among_honest = |rows: &[Row], uid: usize| {
                let weights = rows.iter().map(|row| row.weights[uid]);
                (weights.clone().min().unwrap(), weights.max().unwrap())
            };
            let bounds: Vec<_> = (0..4).map(|uid| among_honest(&rows, uid)).collect();
            rows.push(Row { stake: minority, weights });
            rows.resize_with(4, || Row { stake: 0, weights: vec![Fraction::ZERO; 4] });
            let result = consensus(&rows, KAPPA);
            for (value, (least, most)) in result.consensus.iter().zip(bounds) {
                prop_assert!((least..=most).contains(value));
            }
        }
    }
}
