//! Who gets what an epoch issued.
//!
//! The owner's cut comes off the top; of the rest one half goes to miners by incentive and one half
//! to validators by dividends. Incentive of the owner's own places is burnt. Nothing compounds:
//! emission is reported and does not become stake.
//!
//! Every split is exact: what is handed out and what is burnt add up to what was issued. (On chain what
//! rounding leaves of a split is lost.)

use super::fraction::Fraction;

/// The owner's cut, of 65535: 18 %.
const OWNER_CUT: u128 = 11_796;

/// What there is to split by, all by uid.
pub(super) struct Claims<'a> {
    /// Whose incentive is burnt.
    pub(super) burns: &'a [bool],
    /// Miners' parts.
    pub(super) incentive: &'a [Fraction],
    /// Validators' parts.
    pub(super) dividends: &'a [Fraction],
    /// Validators' parts where nobody has an incentive.
    pub(super) active_stake: &'a [Fraction],
    /// And where no stake is active either.
    pub(super) stake: &'a [Fraction],
}

/// An epoch's emission, in RAO.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Emission {
    pub(super) owner_cut: u64,
    pub(super) burnt: u64,
    /// By uid.
    pub(super) mining: Vec<u64>,
    /// By uid.
    pub(super) validating: Vec<u64>,
}

/// Splits what was issued. Where nobody has an incentive, validators get the miners' half too, by
/// stake; where nobody has stake either, it is burnt.
pub(super) fn split(issued: u64, claims: &Claims<'_>) -> Emission {
    let owner_cut = floor(u128::from(issued) * OWNER_CUT / u128::from(u16::MAX));
    let rest = issued - owner_cut;
    let unranked = is_zero(claims.incentive);
    let miners = if unranked { 0 } else { rest / 2 };

    let mut mining = share_out(miners, claims.incentive);
    let parts = if unranked { idle_parts(claims.active_stake, claims.stake) } else { claims.dividends };
    let validating = share_out(rest - miners, parts);
    mining.iter_mut().zip(claims.burns).filter(|(_, burns)| **burns).for_each(|(amount, _)| *amount = 0);
    let paid: u64 = mining.iter().chain(&validating).sum();
    Emission { owner_cut, burnt: rest - paid, mining, validating }
}

/// Each neuron's share of an epoch's emission for mining and validating together, as the chain computes
/// the number by which neurons are compared when one has to leave.
pub(super) fn combined(
    incentive: &[Fraction],
    dividends: &[Fraction],
    active_stake: &[Fraction],
    stake: &[Fraction],
) -> Vec<Fraction> {
    let parts: Vec<Fraction> =
        incentive.iter().zip(dividends).map(|(mining, validating)| *mining + *validating).collect();
    if is_zero(&parts) {
        return idle_parts(active_stake, stake).to_vec();
    }
    let total: Fraction = parts.iter().copied().sum();
    parts.iter().map(|part| part.of(total)).collect()
}

fn idle_parts<'a>(active_stake: &'a [Fraction], stake: &'a [Fraction]) -> &'a [Fraction] {
    if is_zero(active_stake) { stake } else { active_stake }
}

fn is_zero(parts: &[Fraction]) -> bool {
    parts.iter().all(|part| *part == Fraction::ZERO)
}

/// Splits an amount in proportion to the parts, by largest remainder, equal ones by uid. All of it,
/// if there is a part.
fn share_out(amount: u64, parts: &[Fraction]) -> Vec<u64> {
    let total: u128 = parts.iter().map(|part| u128::from(part.bits())).sum();
    if total == 0 {
        return vec![0; parts.len()];
    }
    let product = |uid: usize| u128::from(amount) * u128::from(parts[uid].bits());
    let mut shares: Vec<u64> = (0..parts.len()).map(|uid| floor(product(uid) / total)).collect();
    let left = amount - shares.iter().sum::<u64>();

    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|&uid| (std::cmp::Reverse(product(uid) % total), uid));
    // Fewer units are left than there are remainders.
    by_remainder.iter().zip(0..left).for_each(|(&uid, _)| shares[uid] += 1);
    shares
}

/// A quotient that is at most the amount it was taken of.
fn floor(quotient: u128) -> u64 {
    u64::try_from(quotient).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn parts(values: &[u64]) -> Vec<Fraction> {
        let total: u64 = values.iter().sum();
        values.iter().map(|value| Fraction::ratio((*value).into(), total.into())).collect()
    }

    #[test]
    fn kat_cut_halves_and_shares_of_an_epoch() {
        // Owner 18 % of 65535, 53739 left: 26869 to miners 1:3, 26870 to validators 3:1.
        let claims = Claims {
            burns: &[true, false, false, false, false],
            incentive: &parts(&[0, 0, 0, 1, 3]),
            dividends: &parts(&[0, 3, 1, 0, 0]),
            active_stake: &parts(&[0, 1, 1, 0, 0]),
            stake: &parts(&[9; 5]),
        };
        let emission = split(65_535, &claims);
        assert_eq!(emission.owner_cut, 11_796);
        assert_eq!(emission.mining, [0, 0, 0, 6_717, 20_152]);
        assert_eq!(emission.validating, [0, 20_153, 6_717, 0, 0]);
        assert_eq!(emission.burnt, 0);
    }

    #[test]
    fn kat_the_owners_incentive_is_burnt_on_every_place_of_its_coldkey() {
        let claims = Claims {
            burns: &[true, false, false, true],
            incentive: &parts(&[2, 0, 1, 1]),
            dividends: &parts(&[0, 1, 0, 0]),
            active_stake: &[],
            stake: &[],
        };
        let emission = split(65_535, &claims);
        assert_eq!(emission.mining, [0, 0, 6_717, 0]);
        assert_eq!(emission.burnt, 20_152);
    }

    #[test]
    fn without_incentive_validators_get_both_halves_by_active_stake() {
        let idle = parts(&[0; 3]);
        let claims = Claims {
            burns: &[false; 3],
            incentive: &idle,
            dividends: &idle,
            active_stake: &parts(&[0, 1, 1]),
            stake: &parts(&[0, 3, 1]),
        };
        assert_eq!(split(65_535, &claims).validating, [0, 26_870, 26_869]);
    }

    #[test]
    fn without_active_stake_all_stake_counts_and_without_any_it_burns() {
        let none = parts(&[0; 3]);
        let stake = parts(&[0, 0, 7]);
        let idle =
            Claims { burns: &[false; 3], incentive: &none, dividends: &none, active_stake: &none, stake: &stake };
        assert_eq!(split(65_535, &idle).validating, [0, 0, 53_739]);
        let empty = Claims { stake: &none, ..idle };
        assert_eq!(split(65_535, &empty).burnt, 53_739);
    }

    #[test]
    fn neurons_are_compared_by_both_of_their_shares() {
        let (incentive, dividends) = (parts(&[0, 1, 3]), parts(&[1, 0, 0]));
        assert_eq!(combined(&incentive, &dividends, &[], &[]), parts(&[4, 1, 3]));
    }

    proptest! {
        #[test]
        fn prop_what_is_issued_is_paid_or_burnt(
            issued in any::<u64>(),
            values in vec((any::<u32>(), any::<u32>(), any::<u32>()), 1..20),
        ) {
            let of = |part: fn(&(u32, u32, u32)) -> u32| {
                parts(&values.iter().map(|values| part(values).into()).collect::<Vec<u64>>())
            };
            let (incentive, dividends, stake) = (of(|v| v.0 >> 20), of(|v| v.1), of(|v| v.2));
            let mut burns = vec![false; values.len()];
            burns[0] = true;
            let claims = Claims {
                burns: &burns,
                incentive: &incentive,
                dividends: &dividends,
                active_stake: &stake,
                stake: &stake,
            };
            let emission = split(issued, &claims);
            let paid: u64 = emission.mining.iter().chain(&emission.validating).sum();
            prop_assert_eq!(emission.owner_cut + emission.burnt + paid, issued);
            prop_assert_eq!(emission.mining[0], 0);
        }

        #[test]
        fn prop_a_larger_part_never_gets_less(amount in any::<u64>(), values in vec(any::<u32>(), 1..20)) {
            let values: Vec<u64> = values.into_iter().map(u64::from).collect();
            let parts = parts(&values);
            let shares = share_out(amount, &parts);
            for (part, share) in parts.iter().zip(&shares) {
                prop_assert!(*part > Fraction::ZERO || *share == 0);
                for (other_part, other_share) in parts.iter().zip(&shares) {
                    prop_assert!(part <= other_part || share >= other_share);
                }
            }
        }
    }
}
