//! What is sent to a chain when weights are set, and why it would be refused.
//!
//! [`plan`] is a pure function of what anybody can read on chain, so that a validator, and whoever looks
//! at what it would do, come to the same answer before anything is submitted.

use std::collections::BTreeSet;

use assay_commitments::Hotkey;

use crate::{
    api::{Hyperparameters, WeightsForm},
    error::ChainError,
    metagraph::{Metagraph, Neuron},
    types::{BlockNumber, Uid},
};

/// How many commits of one hotkey the chain keeps unrevealed.
pub const COMMITS_MAX: usize = 10;

/// What the chain says at the moment weights are to be set.
#[derive(Clone, Copy, Debug)]
pub struct Situation<'a> {
    /// The subnet's settings.
    pub settings: &'a Hyperparameters,
    /// Who is on it.
    pub metagraph: &'a Metagraph,
    /// The first block that the call could stand in.
    pub block: BlockNumber,
    /// How many commits of the signer are not revealed yet.
    pub open_commits: usize,
}

/// Weights as they are sent: by uid, rescaled, as many as the subnet asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// All that is sent, the zeros too, in the order of uids.
    pub weights: Vec<(Uid, u16)>,
    /// The version key that is sent with it.
    pub version_key: u64,
    /// In which form.
    pub form: WeightsForm,
}

impl Plan {
    /// What will count once it is on chain: the zeros left out.
    pub fn effect(&self) -> Vec<(Uid, u16)> {
        self.weights.iter().copied().filter(|(_, value)| *value > 0).collect()
    }
}

/// What would be sent for these weights now. Only proportions count: zeros are left out, the largest
/// becomes 65535 with the chain's own rounding, and where the subnet asks for more weights than there are,
/// zeros for the lowest other uids fill it up.
///
/// # Errors
/// In the order in which the chain checks: [`ChainError::TooManyWeights`],
/// [`ChainError::NotRegistered`], [`ChainError::StakeTooLow`], [`ChainError::WrongVersionKey`],
/// [`ChainError::WeightsTooFast`], [`ChainError::TooManyCommits`], [`ChainError::NoPermit`],
/// [`ChainError::DuplicateUid`], [`ChainError::UnknownUid`], [`ChainError::WeightTooLarge`].
pub fn plan(
    situation: &Situation<'_>,
    signer: Hotkey,
    weights: &[(Uid, u16)],
    version_key: u64,
) -> Result<Plan, ChainError> {
    let Situation { settings, metagraph, block, open_commits } = *situation;
    let (given, uids) = (weights.len(), metagraph.neurons.len());
    if given > uids {
        return Err(ChainError::TooManyWeights { given, uids });
    }
    let neuron = metagraph.neuron(&signer).ok_or(ChainError::NotRegistered(signer))?;
    check_stake(neuron, settings, metagraph)?;
    let required = settings.weights_version_key;
    if version_key < required {
        return Err(ChainError::WrongVersionKey { given: version_key, required });
    }
    check_rate(neuron, settings, block)?;
    if settings.weights_form != WeightsForm::Plain && open_commits >= COMMITS_MAX {
        return Err(ChainError::TooManyCommits { open: open_commits });
    }
    let scaled = rescale(weights);
    // Whoever weighs itself alone needs no permit, and neither count nor share is looked at.
    let on_itself = matches!(scaled.as_slice(), [(only, _)] if *only == neuron.uid);
    if !(neuron.validator_permit || neuron.uid == metagraph.owner || on_itself) {
        return Err(ChainError::NoPermit(signer));
    }
    check_uids(weights, uids)?;
    let weights = if on_itself { scaled } else { fill(scaled, settings, uids) };
    if !on_itself {
        check_shares(&weights, settings.max_weight_limit)?;
    }
    Ok(Plan { weights, version_key, form: settings.weights_form })
}

/// The owner needs no stake.
fn check_stake(neuron: &Neuron, settings: &Hyperparameters, metagraph: &Metagraph) -> Result<(), ChainError> {
    let (stake, least) = (neuron.stake, settings.stake_threshold);
    if stake >= least || neuron.uid == metagraph.owner {
        return Ok(());
    }
    Err(ChainError::StakeTooLow { hotkey: neuron.hotkey, stake, least })
}

/// An update in block 0 stands for "never".
fn check_rate(neuron: &Neuron, settings: &Hyperparameters, block: BlockNumber) -> Result<(), ChainError> {
    let last = neuron.last_update.get();
    let next = last.saturating_add(settings.weights_rate_limit);
    if last == 0 || block.get() >= next {
        Ok(())
    } else {
        Err(ChainError::WeightsTooFast { next: BlockNumber::new(next) })
    }
}

fn check_uids(weights: &[(Uid, u16)], uids: usize) -> Result<(), ChainError> {
    let mut seen = BTreeSet::new();
    if let Some((twice, _)) = weights.iter().find(|(uid, _)| !seen.insert(*uid)) {
        return Err(ChainError::DuplicateUid(*twice));
    }
    let unknown = weights.iter().find(|(uid, _)| usize::from(uid.get()) >= uids);
    unknown.map_or(Ok(()), |(uid, _)| Err(ChainError::UnknownUid(*uid)))
}

/// Whether no weight is more than its share of all of them.
fn check_shares(weights: &[(Uid, u16)], most: u16) -> Result<(), ChainError> {
    let sum: u64 = weights.iter().map(|(_, value)| u64::from(*value)).sum();
    let full = u64::from(u16::MAX);
    let largest = weights.iter().max_by_key(|(_, value)| *value);
    let above = largest.filter(|(_, value)| u64::from(*value) * full > u64::from(most) * sum);
    above.map_or(Ok(()), |(uid, value)| {
        // Rounded up, so that a share above the limit never reads like the limit itself.
        let share = u16::try_from((u64::from(*value) * full).div_ceil(sum)).unwrap_or(u16::MAX);
        Err(ChainError::WeightTooLarge { uid: *uid, share, most })
    })
}

/// Without zeros, by uid, the largest rescaled to 65535: what will count.
pub(crate) fn rescale(weights: &[(Uid, u16)]) -> Vec<(Uid, u16)> {
    let mut weights: Vec<(Uid, u16)> = upscale(weights).into_iter().filter(|(_, value)| *value > 0).collect();
    weights.sort_unstable();
    weights
}

/// Adds zeros up to the count that the subnet asks for, which is never more than there are uids.
fn fill(mut weights: Vec<(Uid, u16)>, settings: &Hyperparameters, uids: usize) -> Vec<(Uid, u16)> {
    let least = usize::from(settings.min_allowed_weights).min(uids);
    let present: BTreeSet<Uid> = weights.iter().map(|(uid, _)| *uid).collect();
    let absent = (0..u16::try_from(uids).unwrap_or(u16::MAX)).map(Uid::new).filter(|uid| !present.contains(uid));
    let missing = least.saturating_sub(weights.len());
    weights.extend(absent.take(missing).map(|uid| (uid, 0)));
    weights.sort_unstable();
    weights
}

/// Rescales so that the largest value becomes 65535, with the chain's roundings: it works with 32
/// fractional bits, half a unit rounds up, and it divides first where multiplying first would leave
/// its number format.
pub(crate) fn upscale<K: Copy>(weights: &[(K, u16)]) -> Vec<(K, u16)> {
    const MULTIPLIED_FIRST: u16 = 32_768;
    let largest = weights.iter().map(|(_, value)| *value).max().unwrap_or(0);
    let scaled = |value: u16| {
        let (value, full) = (u64::from(value), u64::from(u16::MAX));
        let fixed = match u64::from(largest) {
            0 => 0,
            divisor if largest > MULTIPLIED_FIRST => value * ((full << 32) / divisor),
            divisor => ((value * full) << 32) / divisor,
        };
        u16::try_from((fixed + (1 << 31)) >> 32).unwrap_or(u16::MAX)
    };
    weights.iter().map(|(key, value)| (*key, scaled(*value))).collect()
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::types::{Coldkey, Rao};

    fn hotkey(uid: u16) -> Hotkey {
        Hotkey::new([u8::try_from(uid).unwrap(); 32])
    }

    /// Uid 0 is the owner's, uid 1 a validator's, all others are miners'.
    fn metagraph(uids: u16) -> Metagraph {
        let neuron = |uid: u16| Neuron {
            uid: Uid::new(uid),
            hotkey: hotkey(uid),
            coldkey: Coldkey::new([9; 32]),
            endpoint: None,
            manifest: None,
            stake: Rao::new(if uid == 1 { 1_000 } else { 0 }),
            active: true,
            validator_permit: uid == 1,
            last_update: BlockNumber::new(100),
            registered_at: BlockNumber::new(1),
        };
        Metagraph { block: BlockNumber::new(199), owner: Uid::new(0), neurons: (0..uids).map(neuron).collect() }
    }

    fn settings() -> Hyperparameters {
        Hyperparameters {
            tempo: 360,
            weights_rate_limit: 100,
            weights_version_key: 3,
            min_allowed_weights: 1,
            max_weight_limit: u16::MAX,
            weights_form: WeightsForm::Plain,
            immunity_period: 0,
            activity_cutoff: 5_000,
            serving_rate_limit: 50,
            stake_threshold: Rao::new(1_000),
            burn: Rao::new(0),
            max_allowed_uids: 256,
            max_allowed_validators: 64,
        }
    }

    fn planned(
        settings: &Hyperparameters,
        signer: u16,
        weights: &[(u16, u16)],
        key: u64,
        block: u64,
    ) -> Result<Plan, ChainError> {
        let metagraph = metagraph(6);
        let block = BlockNumber::new(block);
        let situation = Situation { settings, metagraph: &metagraph, block, open_commits: COMMITS_MAX };
        let weights: Vec<(Uid, u16)> = weights.iter().map(|(uid, value)| (Uid::new(*uid), *value)).collect();
        plan(&situation, hotkey(signer), &weights, key)
    }

    #[test]
    fn each_limit_has_its_refusal_in_the_order_of_the_chain() {
        let settings = settings();
        let row = [(2, 1), (3, 1)];
        let of =
            |signer, weights: &[(u16, u16)], key, block| planned(&settings, signer, weights, key, block).unwrap_err();
        let many: Vec<(u16, u16)> = (0..7).map(|uid| (uid, 1)).collect();
        assert_eq!(of(99, &many, 0, 0), ChainError::TooManyWeights { given: 7, uids: 6 });
        assert_eq!(of(99, &row, 0, 0), ChainError::NotRegistered(hotkey(99)));
        let (stake, least) = (Rao::new(0), Rao::new(1_000));
        assert_eq!(of(2, &row, 0, 0), ChainError::StakeTooLow { hotkey: hotkey(2), stake, least });
        assert_eq!(of(1, &row, 2, 0), ChainError::WrongVersionKey { given: 2, required: 3 });
        assert_eq!(of(1, &row, 3, 199), ChainError::WeightsTooFast { next: BlockNumber::new(200) });
        assert_eq!(of(1, &[(2, 1), (2, 1)], 3, 200), ChainError::DuplicateUid(Uid::new(2)));
        assert_eq!(of(1, &[(2, 1), (6, 1)], 3, 200), ChainError::UnknownUid(Uid::new(6)));
        let free = Hyperparameters { stake_threshold: Rao::new(0), ..settings };
        assert_eq!(planned(&free, 2, &row, 3, 200), Err(ChainError::NoPermit(hotkey(2))));
        let narrow = Hyperparameters { max_weight_limit: 40_000, ..settings };
        let large = ChainError::WeightTooLarge { uid: Uid::new(3), share: 49_152, most: 40_000 };
        assert_eq!(planned(&narrow, 1, &[(2, 1), (3, 3)], 3, 200), Err(large));
        let hidden = Hyperparameters { weights_form: WeightsForm::CommitReveal { period: 1 }, ..settings };
        assert_eq!(planned(&hidden, 1, &row, 3, 200), Err(ChainError::TooManyCommits { open: COMMITS_MAX }));
        assert!(planned(&settings, 1, &row, 3, 200).is_ok());
    }

    #[test]
    fn the_owner_needs_neither_stake_nor_permit_and_anybody_may_weigh_itself() {
        let settings = settings();
        assert!(planned(&settings, 0, &[(2, 1)], 3, 200).is_ok());
        let free = Hyperparameters { stake_threshold: Rao::new(0), max_weight_limit: 1, ..settings };
        assert!(planned(&free, 2, &[(2, 1)], 3, 200).is_ok());
        let least = Hyperparameters { min_allowed_weights: 5, ..free };
        assert_eq!(planned(&least, 2, &[(2, 1)], 3, 200).unwrap().weights, [(Uid::new(2), 65_535)]);
    }

    #[test]
    fn zeros_are_sent_as_far_as_the_subnet_asks_for_them() {
        let least = |min_allowed_weights| Hyperparameters { min_allowed_weights, ..settings() };
        let sent = |least: &Hyperparameters| {
            let plan = planned(least, 1, &[(4, 2), (2, 1), (5, 0)], 3, 200).unwrap();
            plan.weights.iter().map(|(uid, value)| (uid.get(), *value)).collect::<Vec<_>>()
        };
        assert_eq!(sent(&least(0)), [(2, 32_768), (4, 65_535)]);
        assert_eq!(sent(&least(3)), [(0, 0), (2, 32_768), (4, 65_535)]);
        // More than there are neurons means all of them.
        assert_eq!(sent(&least(1_024)), [(0, 0), (1, 0), (2, 32_768), (3, 0), (4, 65_535), (5, 0)]);
    }

    proptest! {
        #[test]
        fn prop_a_plan_keeps_proportions_and_fits_the_chain(
            values in vec(any::<u16>(), 1..6), least in 0_u16..10, seed in any::<u64>(),
        ) {
            let settings = Hyperparameters { min_allowed_weights: least, ..settings() };
            // Uids in some order.
            let mut row: Vec<(u16, u16)> = (0..6).zip(values.iter().copied()).collect();
            row.rotate_left(usize::try_from(seed % 6).unwrap() % values.len());
            let plan = planned(&settings, 1, &row, 3, 200).unwrap();
            prop_assert!(plan.weights.len() >= usize::from(least.min(6)));
            prop_assert!(plan.weights.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let largest = values.iter().copied().max().unwrap();
            let effect = plan.effect();
            prop_assert_eq!(effect.len(), values.iter().filter(|value| **value > 0).count());
            for (uid, value) in &effect {
                let given = f64::from(values[usize::from(uid.get())]);
                let exact = given / f64::from(largest) * 65_535.0;
                prop_assert!((f64::from(*value) - exact).abs() <= 0.5 + 1e-3, "{} for {}", value, exact);
            }
            prop_assert!(effect.is_empty() || effect.iter().any(|(_, value)| *value == u16::MAX));
            // What the chain does to it changes nothing any more.
            prop_assert_eq!(upscale(&plan.weights), plan.weights);
        }
    }
}
