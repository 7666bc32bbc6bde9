//! The end of an epoch.

use super::{
    emission::{self, Claims, Emission},
    fraction::Fraction,
    report::{EpochReport, NeuronReport},
    shared::Shared,
    state::{OWNER, Slot, State},
    yuma::{self, Ranking, Row},
};
use crate::types::{BlockNumber, Rao, Uid};

impl State {
    /// The permits of this epoch were given by the one before; those it gives itself hold from now
    /// on.
    pub(super) fn end_epoch(&mut self) -> EpochReport {
        let report = self.compute_epoch();
        self.renew_permits();
        self.last_epoch_block = self.block;
        report
    }

    fn compute_epoch(&self) -> EpochReport {
        let rows: Vec<Row> = self
            .slots
            .iter()
            .zip(0..)
            .map(|(slot, uid)| Row { stake: self.active_stake(slot), weights: self.row(slot, uid) })
            .collect();
        let ranking = yuma::consensus(&rows, self.parameters.kappa);

        let blocks = self.block - self.last_epoch_block;
        let issued = self.parameters.emission_per_block.get().saturating_mul(blocks);
        let rank: Vec<u64> = ranking.rank.iter().map(|rank| rank.bits()).collect();
        let active_stake: Vec<u64> = rows.iter().map(|row| row.stake).collect();
        let stake: Vec<u64> = self.slots.iter().map(|slot| self.stake(&slot.hotkey)).collect();
        let claims =
            Claims { owner: usize::from(OWNER.get()), rank: &rank, active_stake: &active_stake, stake: &stake };
        self.report(issued, &ranking, &emission::split(issued, &claims))
    }

    fn report(&self, issued: u64, ranking: &Ranking, emission: &Emission) -> EpochReport {
        let neuron = |(uid, slot): (usize, &Shared<Slot>)| NeuronReport {
            uid: Uid::new(u16::try_from(uid).unwrap_or(u16::MAX)),
            hotkey: slot.hotkey,
            consensus: ranking.consensus[uid].to_proportion(),
            incentive: ranking.incentive(uid).to_proportion(),
            dividends: 0,
            validator_trust: ranking.validator_trust[uid].to_proportion(),
            mining: Rao::new(emission.mining[uid]),
            validating: Rao::new(emission.validating[uid]),
        };
        EpochReport {
            epoch: self.epoch_of(self.block - 1),
            block: BlockNumber::new(self.block),
            issued: Rao::new(issued),
            owner_cut: Rao::new(emission.owner_cut),
            burnt: Rao::new(emission.burnt),
            neurons: self.slots.iter().enumerate().map(neuron).collect(),
        }
    }

    fn active_stake(&self, slot: &Slot) -> u64 {
        let active = slot.last_update + self.parameters.activity_cutoff() >= self.block;
        if active && slot.permit { self.stake(&slot.hotkey) } else { 0 }
    }

    fn row(&self, slot: &Slot, own: u16) -> Vec<Fraction> {
        let mut kept = vec![0_u16; self.slots.len()];
        let counts = |uid: u16| {
            let meant = self.slots[usize::from(uid)].registered_at < slot.last_update;
            meant && (uid != own || own == OWNER.get())
        };
        if slot.permit {
            let counted = slot.weights.iter().filter(|(uid, _)| counts(*uid));
            counted.for_each(|(uid, value)| kept[usize::from(*uid)] = *value);
        }
        let total: u128 = kept.iter().map(|value| u128::from(*value)).sum();
        kept.into_iter().map(|value| Fraction::ratio(value.into(), total)).collect()
    }

    /// Permits go to the largest stakes above zero, of equal ones to the later uid as on chain, and
    /// to the owner.
    pub(super) fn renew_permits(&mut self) {
        let mut by_stake: Vec<(u64, usize)> =
            self.slots.iter().enumerate().map(|(uid, slot)| (self.stake(&slot.hotkey), uid)).collect();
        by_stake.sort_unstable_by(|a, b| b.cmp(a));
        by_stake.truncate(usize::from(self.parameters.max_allowed_validators));
        let permitted = |uid: usize| {
            uid == usize::from(OWNER.get()) || by_stake.contains(&(self.stake(&self.slots[uid].hotkey).max(1), uid))
        };
        let permits: Vec<bool> = (0..self.slots.len()).map(permitted).collect();
        self.slots.iter_mut().zip(permits).for_each(|(slot, permit)| slot.permit = permit);
    }
}
