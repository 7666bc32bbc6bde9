//! The end of an epoch: what counts in it, what it comes to, and what stays of it.

use assay_commitments::Hotkey;

use super::{
    emission::{self, Claims, Emission},
    fraction::Fraction,
    report::{EpochReport, NeuronReport},
    state::{OWNER, Slot, State},
    yuma::{self, Inputs, Outcome, Rates, Sparse},
};
use crate::types::{BlockNumber, Rao, Uid};

impl State {
    /// The permits of this epoch were given by the one before; those it gives itself hold from now
    /// on.
    pub(super) fn end_epoch(&mut self) -> EpochReport {
        let inputs = self.inputs();
        let outcome = yuma::epoch(&inputs);
        let blocks = self.block - self.last_epoch_block;
        let issued = self.parameters.emission_per_block.get().saturating_mul(blocks);
        let emission = self.emission(issued, &outcome);
        let report = self.report(issued, &outcome, &emission);
        self.keep(&inputs, outcome, issued - emission.owner_cut);
        self.last_epoch_block = self.block;
        report
    }

    pub(super) fn renew_permits(&mut self) {
        let stake = yuma::shares(&self.counted_stakes());
        self.grant(&stake);
    }

    /// The owner always holds one.
    fn grant(&mut self, stake: &[Fraction]) {
        let permits = yuma::permits(stake, self.parameters.max_allowed_validators);
        for ((slot, permit), uid) in self.slots.iter_mut().zip(permits).zip(0..) {
            slot.permit = permit || uid == OWNER.get();
        }
    }

    /// Stakes below the threshold count as none, but for the owner's.
    fn counted_stakes(&self) -> Vec<u64> {
        let least = self.parameters.stake_threshold.get();
        let stakes = self.slots.iter().zip(0..).map(|(slot, uid)| (self.stake(&slot.hotkey), uid));
        stakes.map(|(stake, uid)| if stake < least && uid != OWNER.get() { 0 } else { stake }).collect()
    }

    fn inputs(&self) -> Inputs {
        let cutoff = self.parameters.activity_cutoff();
        let commits = self.earliest_commits();
        let commit = |hotkey: &Hotkey| commits.get(hotkey).copied().unwrap_or(u64::MAX);
        Inputs {
            stakes: self.counted_stakes(),
            active: self.slots.iter().map(|slot| slot.last_update.saturating_add(cutoff) >= self.block).collect(),
            permits: self.slots.iter().map(|slot| slot.permit).collect(),
            weights: self.slots.iter().zip(0..).map(|(slot, uid)| self.row(slot, uid, commit(&slot.hotkey))).collect(),
            bonds: self.slots.iter().map(|slot| self.bonds(slot)).collect(),
            rates: Rates {
                kappa: self.parameters.kappa,
                bonds_penalty: self.parameters.bonds_penalty,
                bonds_moving_average: self.parameters.bonds_moving_average,
            },
        }
    }

    /// A validator's weights that count. Left out are weights on itself (the owner's own stay: they burn)
    /// and on whoever was registered since they were set, or since the earliest commit that still waits,
    /// for they were meant for somebody else.
    fn row(&self, slot: &Slot, own: u16, commit: u64) -> Sparse {
        let meant = |uid: u16| {
            let registered = self.slots[usize::from(uid)].registered_at;
            registered < slot.last_update && registered <= commit
        };
        let counts = |uid: u16| meant(uid) && (uid != own || own == OWNER.get());
        slot.weights.iter().copied().filter(|(uid, _)| counts(*uid)).collect()
    }

    /// A validator's bonds that count: those with whoever was there at the last epoch. As on chain, one
    /// that was registered in the very block of that epoch passes for one that was.
    fn bonds(&self, slot: &Slot) -> Sparse {
        let since = match self.last_epoch_block {
            0 => self.block.saturating_sub(self.parameters.tempo.into()),
            last => last + 1,
        };
        let there = |uid: u16| self.slots[usize::from(uid)].registered_at < since;
        slot.bonds.iter().copied().filter(|(uid, _)| there(*uid)).collect()
    }

    /// Incentive of the owner's coldkey is burnt, on whichever of its hotkeys it fell.
    fn emission(&self, issued: u64, outcome: &Outcome) -> Emission {
        let owner = self.owner().coldkey;
        let burns: Vec<bool> = self.slots.iter().map(|slot| slot.coldkey == owner).collect();
        let claims = Claims {
            burns: &burns,
            incentive: &outcome.incentive,
            dividends: &outcome.dividends,
            active_stake: &outcome.active_stake,
            stake: &outcome.stake,
        };
        emission::split(issued, &claims)
    }

    fn report(&self, issued: u64, outcome: &Outcome, emission: &Emission) -> EpochReport {
        let neuron = |uid: usize| NeuronReport {
            uid: Uid::new(u16::try_from(uid).unwrap_or(u16::MAX)),
            hotkey: self.slots[uid].hotkey,
            consensus: outcome.consensus[uid].to_proportion(),
            incentive: outcome.incentive[uid].to_proportion(),
            dividends: outcome.dividends[uid].to_proportion(),
            validator_trust: outcome.trust[uid].to_proportion(),
            mining: Rao::new(emission.mining[uid]),
            validating: Rao::new(emission.validating[uid]),
        };
        EpochReport {
            epoch: self.epoch_of(self.block - 1),
            block: BlockNumber::new(self.block),
            issued: Rao::new(issued),
            owner_cut: Rao::new(emission.owner_cut),
            burnt: Rao::new(emission.burnt),
            neurons: (0..self.slots.len()).map(neuron).collect(),
        }
    }

    /// What the chain stores of an epoch. Bonds are kept for whoever holds a permit from now on.
    fn keep(&mut self, inputs: &Inputs, outcome: Outcome, distributed: u64) {
        let claims = emission::combined(&outcome.incentive, &outcome.dividends, &outcome.active_stake, &outcome.stake);
        self.grant(&outcome.stake);
        for (uid, (slot, bonds)) in self.slots.iter_mut().zip(outcome.bonds).enumerate() {
            slot.active = inputs.active[uid];
            slot.stake_weight = outcome.stake[uid].to_proportion();
            slot.consensus = outcome.consensus[uid].to_proportion();
            slot.incentive = outcome.incentive[uid].to_proportion();
            slot.dividends = outcome.dividends[uid].to_proportion();
            slot.trust = outcome.trust[uid].to_proportion();
            slot.emission = claims[uid].of_amount(distributed);
            slot.bonds = if slot.permit { bonds } else { Vec::new() };
        }
    }
}
