//! From scores to the weight vector that goes on chain.

use std::collections::BTreeSet;

use assay_commitments::Hotkey;

use crate::millionths::Millionths;

/// What the values of a weight vector add up to.
///
/// The chain rescales each vector so that its largest value becomes 65535 and only looks at
/// proportions, so any total would do; this one makes a value readable as a share and leaves
/// nothing to rounding.
pub const WEIGHT_TOTAL: u16 = u16::MAX;

/// Why there is no weight vector for a list of hotkeys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// What nobody earned would have nowhere to go.
    #[error("the burn hotkey {0} is not in the metagraph")]
    BurnNotListed(Hotkey),
    /// The list is no metagraph.
    #[error("hotkey {0} stands twice in the metagraph")]
    ListedTwice(Hotkey),
}

/// Shares [`WEIGHT_TOTAL`] among the listed hotkeys; see [`crate::Ledger::weights`] for the rule.
pub(crate) fn share(
    order: &[Hotkey],
    burn: Hotkey,
    capacity: u32,
    earned: impl Fn(&Hotkey) -> Millionths,
) -> Result<Vec<(Hotkey, u16)>, WeightError> {
    let burn_index = check(order, burn)?;
    let mut parts: Vec<u64> = order.iter().map(|hotkey| u64::from(earned(hotkey).get())).collect();
    parts[burn_index] = 0;
    let total: u64 = parts.iter().sum();
    let full = u64::from(capacity) * u64::from(Millionths::ONE.get());
    // Where nobody earned anything and the capacity is zero, one part to burn makes the vector
    // whole.
    parts[burn_index] = full.saturating_sub(total).max(u64::from(total == 0));

    let values = apportion(order, &parts);
    Ok(order.iter().copied().zip(values).collect())
}

/// Where the burn hotkey stands in a list without doubles.
fn check(order: &[Hotkey], burn: Hotkey) -> Result<usize, WeightError> {
    let mut seen = BTreeSet::new();
    if let Some(twice) = order.iter().find(|hotkey| !seen.insert(**hotkey)) {
        return Err(WeightError::ListedTwice(*twice));
    }
    order.iter().position(|hotkey| *hotkey == burn).ok_or(WeightError::BurnNotListed(burn))
}

/// Largest remainder: everyone gets the whole part of its quota, and the units left over go to the
/// largest fractions, equal ones by hotkey so that a uid is worth nothing. No part means no unit:
/// the units left over are fewer than the fractions that are not zero. At least one part must be
/// positive.
fn apportion(order: &[Hotkey], parts: &[u64]) -> Vec<u16> {
    let total: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    let quota = |part: &u64| {
        let scaled = u128::from(*part) * u128::from(WEIGHT_TOTAL);
        (u16::try_from(scaled / total).unwrap_or(WEIGHT_TOTAL), scaled % total)
    };
    let quotas: Vec<(u16, u128)> = parts.iter().map(quota).collect();
    let mut values: Vec<u16> = quotas.iter().map(|(whole, _)| *whole).collect();
    let left = WEIGHT_TOTAL - values.iter().sum::<u16>();

    let mut by_fraction: Vec<usize> = (0..order.len()).collect();
    by_fraction.sort_by(|&a, &b| quotas[b].1.cmp(&quotas[a].1).then_with(|| order[a].cmp(&order[b])));
    for &index in by_fraction.iter().take(usize::from(left)) {
        values[index] += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    const BURN: Hotkey = Hotkey::new([0; 32]);

    fn miner(number: u8) -> Hotkey {
        Hotkey::new([number; 32])
    }

    /// The weights of the burn hotkey and of miners 1, 2, … with the given scores in millionths.
    fn check_values(capacity: u32, scores: &[u32], expected: &[u16]) {
        let order: Vec<Hotkey> = (0..=scores.len()).map(|number| miner(u8::try_from(number).unwrap())).collect();
        let score = |hotkey: &Hotkey| {
            let number = usize::from(hotkey.as_bytes()[0]);
            number.checked_sub(1).map_or(Millionths::ONE, |index| Millionths::saturating(scores[index]))
        };
        let weights = share(&order, BURN, capacity, score).unwrap();
        let values: Vec<u16> = weights.iter().map(|(_, value)| *value).collect();
        assert_eq!(values, expected);
        assert_eq!(values.iter().map(|value| u32::from(*value)).sum::<u32>(), u32::from(WEIGHT_TOTAL));
    }

    #[test]
    fn everything_burns_when_nobody_earned_anything() {
        check_values(1, &[0, 0], &[65_535, 0, 0]);
        check_values(0, &[0, 0], &[65_535, 0, 0]);
    }

    #[test]
    fn the_least_bad_gets_its_score_and_no_more() {
        check_values(1, &[200_000, 0], &[52_428, 13_107, 0]);
    }

    #[test]
    fn nothing_burns_once_the_scores_fill_the_capacity() {
        check_values(1, &[800_000, 400_000], &[0, 43_690, 21_845]);
    }

    #[test]
    fn a_larger_capacity_holds_more_back() {
        check_values(5, &[800_000, 200_000], &[52_428, 10_486, 2_621]);
    }

    #[test]
    fn without_a_capacity_the_shares_are_only_proportional() {
        check_values(0, &[1, 2], &[0, 21_845, 43_690]);
    }

    #[test]
    fn units_left_over_go_to_the_largest_fractions_and_then_by_hotkey() {
        // 65535 / 4 = 16383.75 each: three of four equals get the unit, by hotkey.
        check_values(0, &[7, 7, 7, 7], &[0, 16_384, 16_384, 16_384, 16_383]);
    }

    #[test]
    fn a_metagraph_without_the_burn_hotkey_or_with_a_double_is_refused() {
        let one = |_: &Hotkey| Millionths::ONE;
        assert_eq!(share(&[miner(1)], BURN, 1, one), Err(WeightError::BurnNotListed(BURN)));
        assert_eq!(share(&[BURN, miner(1), miner(1)], BURN, 1, one), Err(WeightError::ListedTwice(miner(1))));
    }
}
