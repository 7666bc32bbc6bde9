//! Time: blocks, and the epoch that some of them bring.

use super::{
    emission::{self, Claims, Emission},
    fraction::Fraction,
    report::{EpochReport, NeuronReport},
    state::{OWNER, Slot, State},
    yuma::{self, Ranking, Row},
};
use crate::types::{BlockNumber, Head, Rao, Uid};

impl State {
    pub(super) fn head(&self) -> Head {
        Head {
            block: BlockNumber::new(self.block),
            epoch: self.epoch,
            epoch_start: BlockNumber::new(self.last_epoch_block),
            next_epoch: BlockNumber::new(self.last_epoch_block + u64::from(self.parameters.tempo)),
        }
    }

    pub(super) fn step_block(&mut self) -> Option<EpochReport> {
        self.block += 1;
        (self.block >= self.head().next_epoch.get()).then(|| self.end_epoch())
    }

    /// The permits of this epoch were given by the one before; those it gives itself hold from now
    /// on.
    fn end_epoch(&mut self) -> EpochReport {
        let report = self.compute_epoch();
        self.renew_permits();
        self.last_epoch_block = self.block;
        self.epoch = self.epoch.next();
        self.epochs.push(BlockNumber::new(self.block));
        report
    }

    fn compute_epoch(&self) -> EpochReport {
        let row = |slot| Row { stake: self.active_stake(slot), weights: self.row(slot) };
        let rows: Vec<Row> = self.slots.iter().map(row).collect();
        let ranking = yuma::consensus(&rows, self.parameters.kappa);

        let blocks = self.block - self.last_epoch_block;
        let issued = self.parameters.emission_per_block.get().saturating_mul(blocks);
        let rank: Vec<u64> = ranking.rank.iter().map(|rank| rank.bits()).collect();
        let active_stake: Vec<u64> = rows.iter().map(|row| row.stake).collect();
        let stake: Vec<u64> = self.slots.iter().map(|slot| slot.neuron.stake.get()).collect();
        let claims =
            Claims { owner: usize::from(OWNER.get()), rank: &rank, active_stake: &active_stake, stake: &stake };
        self.report(issued, &ranking, &emission::split(issued, &claims))
    }

    fn report(&self, issued: u64, ranking: &Ranking, emission: &Emission) -> EpochReport {
        let neuron = |(uid, slot): (usize, &Slot)| NeuronReport {
            uid: slot.neuron.uid,
            hotkey: slot.neuron.hotkey,
            consensus: ranking.consensus[uid].to_proportion(),
            incentive: ranking.incentive(uid).to_proportion(),
            validator_trust: ranking.validator_trust[uid].to_proportion(),
            mining: Rao::new(emission.mining[uid]),
            validating: Rao::new(emission.validating[uid]),
        };
        EpochReport {
            epoch: self.epoch,
            block: BlockNumber::new(self.block),
            issued: Rao::new(issued),
            owner_cut: Rao::new(emission.owner_cut),
            burnt: Rao::new(emission.burnt),
            neurons: self.slots.iter().enumerate().map(neuron).collect(),
        }
    }

    /// Stake counts if its holder has a permit and has set weights, or was registered, not too long
    /// ago.
    fn active_stake(&self, slot: &Slot) -> u64 {
        let neuron = &slot.neuron;
        let active = neuron.last_update.get() + self.parameters.activity_cutoff() >= self.block;
        if active && neuron.validator_permit { neuron.stake.get() } else { 0 }
    }

    /// A validator's weights by uid, adding up to one. Left out are weights on itself (the owner's
    /// own stay: they burn) and on whoever was registered since the weights were set, for they were
    /// meant for somebody else.
    fn row(&self, slot: &Slot) -> Vec<Fraction> {
        let mut kept = vec![0_u16; self.slots.len()];
        let (own, last_update) = (slot.neuron.uid, slot.neuron.last_update);
        let counts = |uid: Uid| {
            let meant = self.slots[usize::from(uid.get())].neuron.registered_at < last_update;
            meant && (uid != own || own == OWNER)
        };
        if slot.neuron.validator_permit {
            let counted = slot.weights.iter().filter(|(uid, _)| counts(*uid));
            counted.for_each(|(uid, value)| kept[usize::from(uid.get())] = *value);
        }
        let total: u128 = kept.iter().map(|value| u128::from(*value)).sum();
        kept.into_iter().map(|value| Fraction::ratio(value.into(), total)).collect()
    }
}
