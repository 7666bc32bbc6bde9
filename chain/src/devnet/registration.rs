//! Who gets a place, what it costs, and who loses one.
//!
//! The price follows runtime 425: each registration raises it at once, and each block lets it fall, to
//! one half in a half-life.

use assay_commitments::Hotkey;

use super::state::{OWNER, Slot, State};
use crate::{
    error::ChainError,
    types::{Coldkey, Rao, Uid},
};

/// One, with 32 fractional bits.
const ONE: u64 = 1 << 32;

impl State {
    /// The call `burned_register`: takes the burn from the coldkey's account and gives the hotkey a place.
    pub(crate) fn burned_register(&mut self, coldkey: Coldkey, hotkey: Hotkey) -> Result<Uid, ChainError> {
        self.check_absent(hotkey)?;
        let balance = self.balance(&coldkey);
        let rest = balance.checked_sub(self.burn).ok_or(ChainError::BalanceTooLow(Hotkey::new(*coldkey.as_bytes())))?;
        if self.owners.get(&hotkey).is_some_and(|owner| *owner != coldkey) {
            return Err(ChainError::Refused {
                call: "burned_register",
                name: "NonAssociatedColdKey".to_owned(),
                advice: "the hotkey belongs to another coldkey; register it with that one",
            });
        }
        let uid = self.register(hotkey, coldkey)?;
        self.balances.insert(coldkey, rest);
        self.raise_burn();
        Ok(uid)
    }

    /// Gives a hotkey a place: the next free one, or that of the neuron with the lowest emission.
    pub(super) fn register(&mut self, hotkey: Hotkey, coldkey: Coldkey) -> Result<Uid, ChainError> {
        self.check_absent(hotkey)?;
        let uids = self.parameters.max_allowed_uids;
        let slot = Slot::new(hotkey, coldkey, self.block);
        let next = u16::try_from(self.slots.len()).unwrap_or(u16::MAX);
        let uid = if next < uids {
            self.slots.push(slot.into());
            next
        } else {
            let uid = self.neuron_to_prune().ok_or(ChainError::SubnetFull { uids })?;
            self.replace(uid, slot);
            uid
        };
        self.owners.insert(hotkey, coldkey);
        self.first_registered.entry(hotkey).or_insert(self.block);
        Ok(Uid::new(uid))
    }

    fn check_absent(&self, hotkey: Hotkey) -> Result<(), ChainError> {
        if self.uid(hotkey).is_ok() { Err(ChainError::AlreadyRegistered(hotkey)) } else { Ok(()) }
    }

    /// Puts a neuron into another's place. Nothing of the old one stays there: what others gave it is
    /// zero, and its commits, its commitment and its stake remain its own.
    fn replace(&mut self, uid: u16, slot: Slot) {
        self.slots[usize::from(uid)] = slot.into();
        for slot in &mut self.slots {
            if slot.weights.iter().any(|(on, value)| *on == uid && *value > 0) {
                slot.weights.iter_mut().filter(|(on, _)| *on == uid).for_each(|(_, value)| *value = 0);
            }
        }
    }

    /// Whose place is given away: the lowest emission of the last epoch, of equal ones the earliest
    /// registration, then the lowest uid. Immune neurons are spared as long as more than
    /// `min_non_immune_uids` others are there; the owner always is.
    fn neuron_to_prune(&self) -> Option<u16> {
        let candidates = || self.slots.iter().zip(0..).filter(|(_, uid)| *uid != OWNER.get());
        let immune =
            |slot: &Slot| self.block.saturating_sub(slot.registered_at) < self.parameters.immunity_period.into();
        let worst = |wanted: bool| {
            candidates()
                .filter(|(slot, _)| immune(slot) == wanted)
                .min_by_key(|(slot, uid)| (slot.emission, slot.registered_at, *uid))
                .map(|(_, uid)| uid)
        };
        let others = candidates().filter(|(slot, _)| !immune(slot)).count();
        if others > self.parameters.min_non_immune_uids.into() { worst(false) } else { worst(true) }
    }

    fn raise_burn(&mut self) {
        let milli = u128::from(self.parameters.burn_increase_milli.max(1_000));
        self.set_burn(u64::try_from(u128::from(self.burn) * milli / 1_000).unwrap_or(u64::MAX));
    }

    /// What each block does to the price.
    pub(super) fn decay_burn(&mut self) {
        let half_life = self.parameters.burn_half_life;
        // The first block has none before it.
        let factor = if half_life > 0 && self.block > 1 { decay_factor(half_life) } else { ONE };
        self.set_burn(times(self.burn, factor));
    }

    fn set_burn(&mut self, burn: u64) {
        let (least, most) = (self.parameters.min_burn, self.parameters.max_burn);
        self.burn = Rao::new(burn).max(least).min(most).get();
    }
}

impl Slot {
    fn new(hotkey: Hotkey, coldkey: Coldkey, block: u64) -> Self {
        Self {
            hotkey,
            coldkey,
            registered_at: block,
            last_update: block,
            axon: None,
            permit: false,
            active: true,
            weights: Vec::new(),
            bonds: Vec::new(),
            stake_weight: 0,
            consensus: 0,
            incentive: 0,
            dividends: 0,
            trust: 0,
            emission: 0,
        }
    }
}

fn times(value: u64, factor: u64) -> u64 {
    u64::try_from((u128::from(value) * u128::from(factor)) >> 32).unwrap_or(u64::MAX)
}

fn power(base: u64, exponent: u16) -> u64 {
    let (mut result, mut square, mut left) = (ONE, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            result = times(result, square);
        }
        square = times(square, square);
        left >>= 1;
    }
    result
}

/// The largest factor whose power of the half-life does not exceed one half, all with 32 fractional bits
/// and rounded down, as the chain searches it.
fn decay_factor(half_life: u16) -> u64 {
    let (mut low, mut high) = (0, ONE);
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        if power(middle, half_life) > ONE / 2 { high = middle } else { low = middle }
    }
    low
}
