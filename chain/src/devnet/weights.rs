//! Setting weights: the chain's checks in the chain's order.

use std::collections::BTreeSet;

use assay_commitments::Hotkey;

use super::state::{Slot, State};
use crate::{
    api::{Hyperparameters, Placement, StoredWeights, WeightsForm},
    error::ChainError,
    types::{BlockNumber, Rao, Uid},
};

impl State {
    pub(super) fn hyperparameters(&self) -> Hyperparameters {
        let parameters = self.parameters;
        Hyperparameters {
            tempo: parameters.tempo,
            weights_rate_limit: parameters.weights_rate_limit,
            weights_version_key: parameters.weights_version_key,
            min_allowed_weights: parameters.min_allowed_weights,
            max_weight_limit: u16::MAX,
            weights_form: WeightsForm::Plain,
            immunity_period: 0,
            activity_cutoff: parameters.activity_cutoff(),
            serving_rate_limit: parameters.serving_rate_limit,
            stake_threshold: Rao::new(0),
            burn: Rao::new(0),
            max_allowed_uids: parameters.max_allowed_uids,
            max_allowed_validators: parameters.max_allowed_validators,
        }
    }

    pub(super) fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        let weights = self.slot(hotkey)?.weights.iter().copied().filter(|(_, value)| *value > 0).collect();
        Ok(StoredWeights { weights, pending: Vec::new() })
    }

    pub(super) fn set_weights(
        &mut self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        self.check_weights(signer, weights, version_key)?;
        let now = BlockNumber::new(self.block);
        let slot = self.slot_mut(signer)?;
        slot.weights = upscale(weights);
        slot.neuron.last_update = now;
        Ok(Placement::Set { block: now })
    }

    fn check_weights(&self, signer: Hotkey, weights: &[(Uid, u16)], version_key: u64) -> Result<(), ChainError> {
        let (given, uids) = (weights.len(), self.slots.len());
        if given > uids {
            return Err(ChainError::TooManyWeights { given, uids });
        }
        let slot = self.slot(signer)?;
        let required = self.parameters.weights_version_key;
        if version_key < required {
            return Err(ChainError::WrongVersionKey { given: version_key, required });
        }
        self.check_rate(slot)?;
        check_permit(slot, weights)?;
        self.check_uids(weights)?;
        let least = usize::from(self.parameters.min_allowed_weights).min(uids);
        if given < least { Err(ChainError::TooFewWeights { given, least }) } else { Ok(()) }
    }

    /// An update in block 0 stands for "never", so that genesis validators need not wait.
    fn check_rate(&self, slot: &Slot) -> Result<(), ChainError> {
        let last = slot.neuron.last_update.get();
        let next = last.saturating_add(self.parameters.weights_rate_limit);
        if last != 0 && self.block < next {
            return Err(ChainError::WeightsTooFast { next: BlockNumber::new(next) });
        }
        Ok(())
    }

    fn check_uids(&self, weights: &[(Uid, u16)]) -> Result<(), ChainError> {
        let mut seen = BTreeSet::new();
        if let Some((twice, _)) = weights.iter().find(|(uid, _)| !seen.insert(*uid)) {
            return Err(ChainError::DuplicateUid(*twice));
        }
        let unknown = weights.iter().find(|(uid, _)| usize::from(uid.get()) >= self.slots.len());
        unknown.map_or(Ok(()), |(uid, _)| Err(ChainError::UnknownUid(*uid)))
    }
}

/// Without a permit (the owner always has one) a neuron may set a single weight, on itself.
fn check_permit(slot: &Slot, weights: &[(Uid, u16)]) -> Result<(), ChainError> {
    let uid = slot.neuron.uid;
    let on_itself = matches!(weights, [(only, _)] if *only == uid);
    if slot.neuron.validator_permit || on_itself { Ok(()) } else { Err(ChainError::NoPermit(slot.neuron.hotkey)) }
}

/// Rescales so that the largest value becomes 65535, with the chain's roundings: it works with 32
/// fractional bits, half a unit rounds up, and it divides first where multiplying first would leave
/// its number format.
fn upscale(weights: &[(Uid, u16)]) -> Vec<(Uid, u16)> {
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
    weights.iter().map(|(uid, value)| (*uid, scaled(*value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upscaled(values: &[u16]) -> Vec<u16> {
        let weights: Vec<(Uid, u16)> = values.iter().map(|value| (Uid::new(0), *value)).collect();
        upscale(&weights).iter().map(|(_, value)| *value).collect()
    }

    #[test]
    fn the_largest_weight_becomes_65535_and_half_a_unit_rounds_up() {
        assert_eq!(upscaled(&[1, 2, 0]), [32_768, 65_535, 0]);
        assert_eq!(upscaled(&[65_535, 1]), [65_535, 1]);
        assert_eq!(upscaled(&[40_000, 10_000]), [65_535, 16_384]);
        assert_eq!(upscaled(&[0, 0]), [0, 0]);
    }

    #[test]
    fn above_half_the_range_the_chain_divides_first_and_loses_an_exact_half() {
        // 30001 · 65535 / 60002 is 32767.5 exactly; 65535 / 60002 is cut after 32 bits and falls
        // short of it.
        assert_eq!(upscaled(&[60_002, 30_001]), [65_535, 32_767]);
    }
}
