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
    check_uids(weights, uids)?;
    let weights = fill(rescale(weights), settings, uids);
    let on_itself = matches!(weights.as_slice(), [(only, _)] if *only == neuron.uid);
    if !(neuron.validator_permit || neuron.uid == metagraph.owner || on_itself) {
        return Err(ChainError::NoPermit(signer));
    }
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
    let above = weights.iter().find(|(_, value)| u64::from(*value) * full > u64::from(most) * sum);
    above.map_or(Ok(()), |(uid, value)| {
        let share = u16::try_from(u64::from(*value) * full / sum).unwrap_or(u16::MAX);
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
