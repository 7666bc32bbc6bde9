//! Who gets what an epoch issued.
//!
//! The owner's cut comes off the top; of the rest one half goes to miners by incentive and one half
//! to validators. Incentive of the owner's own place is burnt. On chain the validators' half
//! follows bonds; those are not modelled here yet, and it is split by active stake instead, which
//! pays a validator for being there and not for being right. Nothing compounds: emission is
//! reported and does not become stake.
//!
//! Every split is exact: what is handed out and what is burnt add up to what was issued.

/// The owner's cut, of 65535: 18 %.
const OWNER_CUT: u128 = 11_796;

/// What there is to split by.
pub(super) struct Claims<'a> {
    /// The uid whose incentive is burnt.
    pub(super) owner: usize,
    /// Miners' parts, by uid.
    pub(super) rank: &'a [u64],
    /// Validators' parts, by uid.
    pub(super) active_stake: &'a [u64],
    /// Their parts where no stake is active.
    pub(super) stake: &'a [u64],
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

/// Splits what was issued. Where nobody has an incentive, validators get the miners' half too;
/// where nobody has stake either, it is burnt.
pub(super) fn split(issued: u64, claims: &Claims<'_>) -> Emission {
    let owner_cut = floor(u128::from(issued) * OWNER_CUT / u128::from(u16::MAX));
    let rest = issued - owner_cut;
    let unranked = claims.rank.iter().all(|part| *part == 0);
    let miners = if unranked { 0 } else { rest / 2 };

    let mut mining = share_out(miners, claims.rank);
    let inactive = claims.active_stake.iter().all(|part| *part == 0);
    let validating = share_out(rest - miners, if inactive { claims.stake } else { claims.active_stake });
    mining[claims.owner] = 0;
    let paid: u64 = mining.iter().chain(&validating).sum();
    Emission { owner_cut, burnt: rest - paid, mining, validating }
}

/// Splits an amount in proportion to the parts, by largest remainder, equal ones by uid. All of it,
/// if there is a part.
fn share_out(amount: u64, parts: &[u64]) -> Vec<u64> {
    let total: u128 = parts.iter().map(|part| u128::from(*part)).sum();
    if total == 0 {
        return vec![0; parts.len()];
    }
    let product = |uid: usize| u128::from(amount) * u128::from(parts[uid]);
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

    #[test]
    fn kat_cut_halves_and_shares_of_an_epoch() {
        // Owner 18 % of 65535, 53739 left: 26869 to miners 1:2, 26870 to validators 3:1.
        let claims = Claims { owner: 0, rank: &[0, 0, 0, 1, 2], active_stake: &[0, 3, 1, 0, 0], stake: &[9; 5] };
        let emission = split(65_535, &claims);
        assert_eq!(emission.owner_cut, 11_796);
        assert_eq!(emission.mining, [0, 0, 0, 8_956, 17_913]);
        assert_eq!(emission.validating, [0, 20_153, 6_717, 0, 0]);
        assert_eq!(emission.burnt, 0);
    }

    #[test]
    fn kat_the_owners_incentive_is_burnt() {
        let claims = Claims { owner: 0, rank: &[3, 0, 1], active_stake: &[0, 1, 0], stake: &[0; 3] };
        let emission = split(65_535, &claims);
        assert_eq!(emission.mining, [0, 0, 6_717]);
        assert_eq!(emission.burnt, 20_152);
    }

    #[test]
    fn without_incentive_validators_get_both_halves() {
        let claims = Claims { owner: 0, rank: &[0; 3], active_stake: &[0, 1, 1], stake: &[0; 3] };
        assert_eq!(split(65_535, &claims).validating, [0, 26_870, 26_869]);
    }

    #[test]
    fn without_active_stake_all_stake_counts_and_without_any_it_burns() {
        let idle = Claims { owner: 0, rank: &[0; 3], active_stake: &[0; 3], stake: &[0, 0, 7] };
        assert_eq!(split(65_535, &idle).validating, [0, 0, 53_739]);
        let empty = Claims { stake: &[0; 3], ..idle };
        assert_eq!(split(65_535, &empty).burnt, 53_739);
    }

    proptest! {
        #[test]
        fn prop_what_is_issued_is_paid_or_burnt(
            issued in any::<u64>(),
            parts in vec((any::<u64>(), any::<u64>(), any::<u64>()), 1..20),
        ) {
            let rank: Vec<u64> = parts.iter().map(|part| part.0 >> 31).collect();
            let active_stake: Vec<u64> = parts.iter().map(|part| part.1).collect();
            let stake: Vec<u64> = parts.iter().map(|part| part.2).collect();
            let claims = Claims { owner: 0, rank: &rank, active_stake: &active_stake, stake: &stake };
            let emission = split(issued, &claims);
            let paid: u64 = emission.mining.iter().chain(&emission.validating).sum();
            prop_assert_eq!(emission.owner_cut + emission.burnt + paid, issued);
            prop_assert_eq!(emission.mining[0], 0);
        }

        #[test]
        fn prop_a_larger_part_never_gets_less(amount in any::<u64>(), parts in vec(any::<u64>(), 1..20)) {
            let shares = share_out(amount, &parts);
            for (part, share) in parts.iter().zip(&shares) {
                prop_assert!(*part > 0 || *share == 0);
                for (other_part, other_share) in parts.iter().zip(&shares) {
                    prop_assert!(part <= other_part || share >= other_share);
                }
            }
        }
    }
}
