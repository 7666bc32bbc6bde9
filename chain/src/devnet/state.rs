//! The devnet's storage, and who holds which place in it.

use std::collections::BTreeMap;

use assay_commitments::{Epoch, Hotkey, ManifestId};

use super::genesis::{Genesis, GenesisError, Parameters};
use crate::{
    error::ChainError,
    history::History,
    metagraph::{Metagraph, Neuron},
    types::{BlockNumber, Coldkey, EpochKeyRecord, Network, Rao, Uid},
};

/// The owner registers first.
pub(super) const OWNER: Uid = Uid::new(0);

/// Everything the chain knows. The other modules of the devnet add what can be done with it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) network: Network,
    pub(super) parameters: Parameters,
    pub(super) block: u64,
    pub(super) epoch: Epoch,
    pub(super) last_epoch_block: u64,
    pub(super) slots: Vec<Slot>,
    /// The manifests in force from each block on.
    pub(super) registry: Vec<(BlockNumber, Vec<ManifestId>)>,
    /// The first block of every epoch.
    pub(super) epochs: Vec<BlockNumber>,
    pub(super) epoch_keys: BTreeMap<(Hotkey, Epoch), EpochKeyRecord>,
}

/// One place: what the metagraph shows of it, and what it does not.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) neuron: Neuron,
    pub(super) served_at: Option<u64>,
    /// As stored by the chain: rescaled so that the largest is 65535.
    pub(super) weights: Vec<(Uid, u16)>,
}

impl State {
    pub(super) fn new(genesis: &Genesis) -> Result<Self, GenesisError> {
        let (validators, uids) = (genesis.validators.len(), genesis.parameters.max_allowed_uids);
        if genesis.parameters.tempo == 0 {
            return Err(GenesisError::NoTempo);
        }
        if validators >= usize::from(uids) {
            return Err(GenesisError::TooMany { validators, uids });
        }
        let owner = (genesis.owner, Rao::new(0));
        let founders = std::iter::once(owner).chain(genesis.validators.iter().copied());
        let mut state = Self {
            network: genesis.network,
            parameters: genesis.parameters,
            block: 0,
            epoch: Epoch::new(0),
            last_epoch_block: 0,
            slots: Vec::new(),
            registry: Vec::new(),
            epochs: vec![BlockNumber::new(0)],
            epoch_keys: BTreeMap::new(),
        };
        for (hotkey, stake) in founders {
            let uid = state.register(hotkey).map_err(|_| GenesisError::ListedTwice(hotkey))?;
            state.slots[usize::from(uid.get())].neuron.stake = stake;
        }
        state.renew_permits();
        state.block = 1;
        Ok(state)
    }

    pub(super) fn history(&self) -> History {
        let keys = self.epoch_keys.iter();
        History {
            network: self.network,
            epochs: (0..).map(Epoch::new).zip(self.epochs.iter().copied()).collect(),
            manifests: self.registry.clone(),
            hotkeys: self.slots.iter().map(|slot| (slot.neuron.hotkey, slot.neuron.registered_at)).collect(),
            epoch_keys: keys.map(|((hotkey, epoch), record)| (*hotkey, *epoch, *record)).collect(),
        }
    }

    pub(super) fn network(&self) -> Network {
        self.network
    }

    pub(super) fn metagraph(&self) -> Metagraph {
        Metagraph {
            block: BlockNumber::new(self.block),
            owner: OWNER,
            neurons: self.slots.iter().map(|slot| slot.neuron.clone()).collect(),
        }
    }

    pub(super) fn register(&mut self, hotkey: Hotkey) -> Result<Uid, ChainError> {
        if self.slot(hotkey).is_ok() {
            return Err(ChainError::AlreadyRegistered(hotkey));
        }
        let uids = self.parameters.max_allowed_uids;
        let next = u16::try_from(self.slots.len()).ok().filter(|next| *next < uids);
        let uid = next.map(Uid::new).ok_or(ChainError::SubnetFull { uids })?;
        let now = BlockNumber::new(self.block);
        let neuron = Neuron {
            uid,
            hotkey,
            coldkey: Coldkey::new(*hotkey.as_bytes()),
            endpoint: None,
            manifest: None,
            stake: Rao::new(0),
            active: false,
            validator_permit: false,
            last_update: now,
            registered_at: now,
        };
        self.slots.push(Slot { neuron, served_at: None, weights: Vec::new() });
        Ok(uid)
    }

    pub(super) fn set_stake(&mut self, hotkey: Hotkey, stake: Rao) -> Result<(), ChainError> {
        self.slot_mut(hotkey)?.neuron.stake = stake;
        Ok(())
    }

    /// Permits go to the largest stakes above zero, of equal ones to the later uid as on chain, and
    /// to the owner.
    pub(super) fn renew_permits(&mut self) {
        let mut by_stake: Vec<(Rao, usize)> =
            self.slots.iter().enumerate().map(|(uid, slot)| (slot.neuron.stake, uid)).collect();
        by_stake.sort_unstable_by(|a, b| b.cmp(a));
        by_stake.truncate(usize::from(self.parameters.max_allowed_validators));
        for slot in &mut self.slots {
            slot.neuron.validator_permit = slot.neuron.uid == OWNER;
        }
        for (stake, uid) in by_stake {
            self.slots[uid].neuron.validator_permit |= stake > Rao::new(0);
        }
    }

    pub(super) fn slot(&self, hotkey: Hotkey) -> Result<&Slot, ChainError> {
        self.slots.iter().find(|slot| slot.neuron.hotkey == hotkey).ok_or(ChainError::NotRegistered(hotkey))
    }

    pub(super) fn slot_mut(&mut self, hotkey: Hotkey) -> Result<&mut Slot, ChainError> {
        let mut slots = self.slots.iter_mut();
        slots.find(|slot| slot.neuron.hotkey == hotkey).ok_or(ChainError::NotRegistered(hotkey))
    }
}
