//! Setting weights: the chain's checks in the chain's order.

use std::collections::BTreeSet;

use assay_commitments::Hotkey;

use super::{
    fraction::Fraction,
    state::{OWNER, State},
};
use crate::{
    api::{Hyperparameters, StoredWeights},
    error::ChainError,
    types::{BlockNumber, Rao, Uid},
    weights::upscale,
};

impl State {
    pub(super) fn hyperparameters(&self) -> Hyperparameters {
        let parameters = self.parameters;
        Hyperparameters {
            tempo: parameters.tempo,
            weights_rate_limit: parameters.weights_rate_limit,
            weights_version_key: parameters.weights_version_key,
            min_allowed_weights: parameters.min_allowed_weights,
            max_weight_limit: parameters.max_weight_limit,
            weights_form: parameters.weights_form,
            immunity_period: parameters.immunity_period,
            activity_cutoff: parameters.activity_cutoff(),
            serving_rate_limit: parameters.serving_rate_limit,
            stake_threshold: parameters.stake_threshold,
            burn: Rao::new(self.burn),
            max_allowed_uids: parameters.max_allowed_uids,
            max_allowed_validators: parameters.max_allowed_validators,
        }
    }

    pub(super) fn weights_of(&self, hotkey: Hotkey) -> Result<StoredWeights, ChainError> {
        let row = self.slot(hotkey)?.weights.iter().filter(|(_, value)| *value > 0);
        let weights = row.map(|(uid, value)| (Uid::new(*uid), *value)).collect();
        Ok(StoredWeights { weights, pending: self.pending(hotkey) })
    }

    /// The call `set_weights`, which takes plain weights alone.
    pub(crate) fn set_weights(
        &mut self,
        signer: Hotkey,
        weights: &[(u16, u16)],
        version_key: u64,
    ) -> Result<(), ChainError> {
        if self.parameters.reveal_period().is_some() {
            return Err(ChainError::WrongForm { commit_reveal: true });
        }
        self.place_weights(signer, weights, version_key)
    }

    /// Sets weights that may be seen now: plain ones, or those that were revealed. Where there are
    /// commits, they were rate-limited and dated the update already.
    pub(super) fn place_weights(
        &mut self,
        signer: Hotkey,
        weights: &[(u16, u16)],
        version_key: u64,
    ) -> Result<(), ChainError> {
        let uid = self.check_weights(signer, weights, version_key)?;
        let (now, plain) = (self.block, self.parameters.reveal_period().is_none());
        let slot = &mut *self.slots[usize::from(uid)];
        slot.weights = upscale(weights);
        if plain {
            slot.last_update = now;
        }
        Ok(())
    }

    fn check_weights(&self, signer: Hotkey, weights: &[(u16, u16)], version_key: u64) -> Result<u16, ChainError> {
        let (given, uids) = (weights.len(), self.slots.len());
        if given > uids {
            return Err(ChainError::TooManyWeights { given, uids });
        }
        let uid = self.uid(signer)?;
        self.check_stake(signer, uid)?;
        let required = self.parameters.weights_version_key;
        if version_key < required {
            return Err(ChainError::WrongVersionKey { given: version_key, required });
        }
        if self.parameters.reveal_period().is_none() {
            self.check_rate(uid)?;
        }
        // A neuron may always set a single weight, on itself.
        let on_itself = matches!(weights, [(only, _)] if *only == uid);
        if !self.slots[usize::from(uid)].permit && !on_itself {
            return Err(ChainError::NoPermit(signer));
        }
        self.check_uids(weights)?;
        let least = usize::from(self.parameters.min_allowed_weights).min(uids);
        if given < least && !on_itself {
            return Err(ChainError::TooFewWeights { given, least });
        }
        if !on_itself {
            self.check_shares(weights)?;
        }
        Ok(uid)
    }

    /// The owner may set weights without any stake.
    fn check_stake(&self, signer: Hotkey, uid: u16) -> Result<(), ChainError> {
        let (stake, least) = (Rao::new(self.stake(&signer)), self.parameters.stake_threshold);
        if stake < least && uid != OWNER.get() {
            return Err(ChainError::StakeTooLow { hotkey: signer, stake, least });
        }
        Ok(())
    }

    /// An update in block 0 stands for "never", so that genesis validators need not wait.
    pub(super) fn check_rate(&self, uid: u16) -> Result<(), ChainError> {
        let last = self.slots[usize::from(uid)].last_update;
        let next = last.saturating_add(self.parameters.weights_rate_limit);
        if last != 0 && self.block < next {
            return Err(ChainError::WeightsTooFast { next: BlockNumber::new(next) });
        }
        Ok(())
    }

    fn check_uids(&self, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let mut seen = BTreeSet::new();
        if let Some((twice, _)) = weights.iter().find(|(uid, _)| !seen.insert(*uid)) {
            return Err(ChainError::DuplicateUid(Uid::new(*twice)));
        }
        let unknown = weights.iter().find(|(uid, _)| usize::from(*uid) >= self.slots.len());
        unknown.map_or(Ok(()), |(uid, _)| Err(ChainError::UnknownUid(Uid::new(*uid))))
    }

    /// The largest share of the sum; 65535 is no limit, whatever rounding makes of it.
    fn check_shares(&self, weights: &[(u16, u16)]) -> Result<(), ChainError> {
        let most = self.parameters.max_weight_limit;
        let scaled = upscale(weights);
        let total: u128 = scaled.iter().map(|(_, value)| u128::from(*value)).sum();
        let largest = scaled.iter().max_by_key(|(_, value)| *value).filter(|_| most < u16::MAX);
        let share = |value: u16| Fraction::ratio(value.into(), total);
        match largest {
            Some((uid, value)) if share(*value) > Fraction::ratio(most.into(), u16::MAX.into()) => {
                // Rounded up, so that a share above the limit never reads like the limit itself.
                let share = share(*value).to_proportion().saturating_add(1);
                Err(ChainError::WeightTooLarge { uid: Uid::new(*uid), share, most })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upscaled(values: &[u16]) -> Vec<u16> {
        let weights: Vec<(u16, u16)> = values.iter().map(|value| (0, *value)).collect();
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
