//! What a miner knows of its subnet.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use assay_commitments::{Epoch, Hotkey};

/// Who may ask how much, and in which epoch. Asked on every request, so it answers from memory.
pub trait SubnetView: Send + Sync + 'static {
    /// The running epoch.
    fn epoch(&self) -> Epoch;

    /// A validator's share of the stake in millionths, by which its budget of proof time is scaled;
    /// `None` for a hotkey that may not ask at all.
    fn stake_millionths(&self, validator: &Hotkey) -> Option<u32>;
}

/// A view that whoever watches the chain keeps up to date.
#[derive(Debug)]
pub struct KnownSubnet(RwLock<Known>);

#[derive(Debug)]
struct Known {
    epoch: Epoch,
    shares: BTreeMap<Hotkey, u32>,
}

impl KnownSubnet {
    /// Validators with their stakes, in any unit, as of an epoch.
    pub fn new(epoch: Epoch, stakes: &[(Hotkey, u64)]) -> Self {
        Self(RwLock::new(Known { epoch, shares: shares(stakes) }))
    }

    /// Takes note of another state of the chain.
    pub fn update(&self, epoch: Epoch, stakes: &[(Hotkey, u64)]) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Known { epoch, shares: shares(stakes) };
    }
}

fn shares(stakes: &[(Hotkey, u64)]) -> BTreeMap<Hotkey, u32> {
    let total: u128 = stakes.iter().map(|(_, stake)| u128::from(*stake)).sum();
    let share = |stake: u64| u32::try_from(u128::from(stake) * 1_000_000 / total.max(1)).unwrap_or(1_000_000);
    stakes.iter().map(|(hotkey, stake)| (*hotkey, share(*stake))).collect()
}

impl SubnetView for KnownSubnet {
    fn epoch(&self) -> Epoch {
        self.0.read().unwrap_or_else(PoisonError::into_inner).epoch
    }

    fn stake_millionths(&self, validator: &Hotkey) -> Option<u32> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).shares.get(validator).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_whole_stake() {
        let (first, second, stranger) = (Hotkey::new([1; 32]), Hotkey::new([2; 32]), Hotkey::new([3; 32]));
        let subnet = KnownSubnet::new(Epoch::new(1), &[(first, u64::MAX / 4 * 3), (second, u64::MAX / 4)]);
        assert_eq!(subnet.stake_millionths(&first), Some(750_000));
        assert_eq!(subnet.stake_millionths(&stranger), None);
        subnet.update(Epoch::new(2), &[(stranger, 0)]);
        assert_eq!((subnet.epoch(), subnet.stake_millionths(&stranger)), (Epoch::new(2), Some(0)));
    }
}
