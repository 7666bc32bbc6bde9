//! The devnet's storage, and who holds which place in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use assay_commitments::Hotkey;
use serde::{Deserialize, Serialize};

use super::{
    genesis::{Genesis, GenesisError, Parameters},
    report::EpochReport,
    shared::Shared,
    text,
};
use crate::{
    error::ChainError,
    metagraph::{Metagraph, Neuron},
    record::Record,
    types::{BlockNumber, Coldkey, Network, Rao, Uid},
};

/// More blocks than any chain will have: up to here, sums of block numbers are exact.
const BLOCKS_MAX: u64 = 1 << 48;

/// The owner registers first.
pub(crate) const OWNER: Uid = Uid::new(0);

/// Everything the chain knows as of one block. The other modules of the devnet add what can be done
/// with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) network: Network,
    pub(crate) parameters: Parameters,
    /// The newest block.
    pub(crate) block: u64,
    /// The block of the last epoch's computation; 0 before the first.
    pub(crate) last_epoch_block: u64,
    /// By uid.
    pub(crate) slots: Vec<Shared<Slot>>,
    /// What a registration costs now, in RAO.
    pub(crate) burn: u64,
    /// What accounts hold, in RAO, by account; hotkeys are accounts like coldkeys. Who never got anything
    /// has no entry.
    pub(crate) balances: BTreeMap<Coldkey, u64>,
    /// How many extrinsics of each account a node has put into blocks.
    pub(crate) nonces: BTreeMap<Coldkey, u32>,
    /// Stake on each hotkey, in RAO; it outlasts the hotkey's place.
    #[serde(with = "text::by_hotkey")]
    pub(crate) stakes: BTreeMap<Hotkey, u64>,
    /// The coldkey of every hotkey that ever registered.
    #[serde(with = "text::by_hotkey")]
    pub(crate) owners: BTreeMap<Hotkey, Coldkey>,
    /// When every hotkey first registered.
    #[serde(with = "text::by_hotkey")]
    pub(crate) first_registered: BTreeMap<Hotkey, u64>,
    /// All that hotkeys wrote into their commitments; the last one of each stands.
    #[serde(with = "text::by_hotkey")]
    pub(crate) commitments: BTreeMap<Hotkey, Shared<Vec<Shared<Commitment>>>>,
    /// What each hotkey stored in the last epoch in which it did.
    #[serde(with = "text::by_hotkey")]
    pub(crate) used_space: BTreeMap<Hotkey, UsedSpace>,
    /// Hashes of weights that wait to be revealed, oldest first.
    #[serde(with = "text::by_hotkey")]
    pub(crate) weight_commits: BTreeMap<Hotkey, VecDeque<WeightCommit>>,
    /// Weights that open by themselves, by the epoch of their commit.
    pub(crate) timelocked: BTreeMap<u64, VecDeque<TimelockedCommit>>,
    /// What the newest epochs came to, oldest first.
    pub(crate) reports: Shared<VecDeque<Shared<EpochReport>>>,
}

/// One place and who holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Slot {
    #[serde(with = "text::hotkey")]
    pub(crate) hotkey: Hotkey,
    pub(crate) coldkey: Coldkey,
    pub(crate) registered_at: u64,
    /// The block of its newest weights or commit; until then, of its registration.
    pub(crate) last_update: u64,
    pub(crate) axon: Option<Axon>,
    pub(crate) permit: bool,
    pub(crate) active: bool,
    /// As stored by the chain: rescaled so that the largest is 65535.
    pub(crate) weights: Vec<(u16, u16)>,
    /// As stored by the chain: each uid's column is rescaled so that the largest is 65535. Zeros are left
    /// out.
    pub(crate) bonds: Vec<(u16, u16)>,
    /// Of the last epoch, of 65535, as are the next four.
    pub(crate) stake_weight: u16,
    pub(crate) consensus: u16,
    pub(crate) incentive: u16,
    pub(crate) dividends: u16,
    pub(crate) trust: u16,
    /// In RAO, of the last epoch, for mining and validating, before anything is burnt.
    pub(crate) emission: u64,
}

/// An endpoint as it stands on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Axon {
    /// The block of its publication.
    pub(crate) block: u64,
    pub(crate) version: u32,
    /// On the wire an address as one big-endian number, its kind (4 or 6) and a port.
    pub(crate) endpoint: SocketAddr,
    pub(crate) protocol: u8,
    pub(crate) placeholder1: u8,
    pub(crate) placeholder2: u8,
}

/// What a hotkey wrote into its commitment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Commitment {
    pub(crate) block: u64,
    pub(crate) fields: Vec<Field>,
}

/// One field of a commitment, raw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Field(#[serde(with = "text::bytes")] pub(crate) Vec<u8>);

/// What a hotkey stored in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsedSpace {
    pub(crate) epoch: u64,
    pub(crate) bytes: u64,
}

/// A commit to weights that its author reveals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightCommit {
    pub(crate) hash: [u8; 32],
    pub(crate) epoch: u64,
    pub(crate) block: u64,
}

/// Weights that the chain opens by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimelockedCommit {
    #[serde(with = "text::hotkey")]
    pub(crate) hotkey: Hotkey,
    pub(crate) block: u64,
    pub(crate) payload: Payload,
    /// The round of the beacon that opens them.
    pub(crate) round: u64,
}

/// What a timelocked commit holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) enum Payload {
    /// Encrypted to the round, as it came over the wire.
    Encrypted(Field),
    /// What a caller in this process committed: nobody else sees it before its round.
    Sealed { weights: Vec<(u16, u16)>, version_key: u64 },
}

impl State {
    /// The state of the genesis block, and of block 1 after it.
    pub(super) fn new(genesis: &Genesis) -> Result<[Self; 2], GenesisError> {
        let (validators, uids) = (genesis.validators.len(), genesis.parameters.max_allowed_uids);
        genesis.parameters.check()?;
        if validators >= usize::from(uids) {
            return Err(GenesisError::TooMany { validators, uids });
        }
        let owner = (genesis.owner, Rao::new(0));
        let founders = std::iter::once(owner).chain(genesis.validators.iter().copied());
        let mut state = Self {
            network: genesis.network,
            parameters: genesis.parameters,
            block: 0,
            last_epoch_block: 0,
            slots: Vec::new(),
            burn: genesis.parameters.burn.get(),
            balances: BTreeMap::new(),
            nonces: BTreeMap::new(),
            stakes: BTreeMap::new(),
            owners: BTreeMap::new(),
            first_registered: BTreeMap::new(),
            commitments: BTreeMap::new(),
            used_space: BTreeMap::new(),
            weight_commits: BTreeMap::new(),
            timelocked: BTreeMap::new(),
            reports: Shared::default(),
        };
        for (hotkey, stake) in founders {
            state.register(hotkey, Coldkey::new(*hotkey.as_bytes())).map_err(|_| GenesisError::ListedTwice(hotkey))?;
            state.stakes.insert(hotkey, stake.get());
        }
        state.renew_permits();
        let genesis = state.clone();
        state.begin_block();
        Ok([genesis, state])
    }

    pub(crate) fn owner(&self) -> &Slot {
        // The owner's place is filled first and never given away.
        &self.slots[usize::from(OWNER.get())]
    }

    pub(crate) fn uid(&self, hotkey: Hotkey) -> Result<u16, ChainError> {
        let uid = self.slots.iter().zip(0..).find(|(slot, _)| slot.hotkey == hotkey).map(|(_, uid)| uid);
        uid.ok_or(ChainError::NotRegistered(hotkey))
    }

    pub(crate) fn slot(&self, hotkey: Hotkey) -> Result<&Slot, ChainError> {
        self.uid(hotkey).map(|uid| &*self.slots[usize::from(uid)])
    }

    pub(super) fn slot_mut(&mut self, hotkey: Hotkey) -> Result<&mut Slot, ChainError> {
        let uid = self.uid(hotkey)?;
        Ok(&mut self.slots[usize::from(uid)])
    }

    pub(crate) fn stake(&self, hotkey: &Hotkey) -> u64 {
        self.stakes.get(hotkey).copied().unwrap_or(0)
    }

    pub(crate) fn balance(&self, account: &Coldkey) -> u64 {
        self.balances.get(account).copied().unwrap_or(0)
    }

    pub(super) fn set_stake(&mut self, hotkey: Hotkey, stake: Rao) -> Result<(), ChainError> {
        self.slot(hotkey)?;
        self.stakes.insert(hotkey, stake.get());
        Ok(())
    }

    pub(super) fn fund(&mut self, account: Coldkey, amount: Rao) {
        let balance = self.balances.entry(account).or_default();
        *balance = balance.saturating_add(amount.get());
    }

    pub(super) fn metagraph(&self) -> Metagraph {
        let neuron = |(slot, uid): (&Shared<Slot>, u16)| Neuron {
            uid: Uid::new(uid),
            hotkey: slot.hotkey,
            coldkey: slot.coldkey,
            // Who withdraws publishes an address of zeros.
            endpoint: slot.axon.map(|axon| axon.endpoint).filter(|endpoint| !endpoint.ip().is_unspecified()),
            manifest: self.record(&slot.hotkey).serves,
            stake: Rao::new(self.stake(&slot.hotkey)),
            active: slot.active,
            validator_permit: slot.permit,
            last_update: BlockNumber::new(slot.last_update),
            registered_at: BlockNumber::new(slot.registered_at),
        };
        Metagraph {
            block: BlockNumber::new(self.block),
            owner: OWNER,
            neurons: self.slots.iter().zip(0..).map(neuron).collect(),
        }
    }

    /// What stands in a hotkey's commitment.
    pub(super) fn record(&self, hotkey: &Hotkey) -> Record {
        self.commitments.get(hotkey).and_then(|all| all.last()).map(|newest| newest.record()).unwrap_or_default()
    }

    /// Whether the state can be that of a chain: what a file says is not taken on trust.
    pub(super) fn check(&self) -> Result<(), String> {
        self.parameters.check().map_err(|error| error.to_string())?;
        let uids = self.slots.len();
        if uids == 0 || uids > usize::from(self.parameters.max_allowed_uids) {
            return Err(format!("{uids} neurons for {} uids", self.parameters.max_allowed_uids));
        }
        let known = |row: &[(u16, u16)]| row.iter().all(|(uid, _)| usize::from(*uid) < uids);
        if let Some(slot) = self.slots.iter().find(|slot| !known(&slot.weights) || !known(&slot.bonds)) {
            return Err(format!("hotkey {} has weights or bonds on a uid that is not there", slot.hotkey));
        }
        let hotkeys: BTreeSet<Hotkey> = self.slots.iter().map(|slot| slot.hotkey).collect();
        if hotkeys.len() < uids {
            return Err("a hotkey has two places".to_owned());
        }
        let of_slots = self.slots.iter().flat_map(|slot| [slot.registered_at, slot.last_update]);
        if self.block > BLOCKS_MAX || of_slots.chain([self.last_epoch_block]).any(|block| block > self.block) {
            return Err("something happened in a block that is not there yet".to_owned());
        }
        let hashes = self.weight_commits.values().flatten().map(|commit| commit.epoch);
        if hashes.chain(self.timelocked.keys().copied()).any(|epoch| epoch > self.epoch().get()) {
            return Err("weights were committed in an epoch that is not there yet".to_owned());
        }
        Ok(())
    }
}

impl Commitment {
    pub(super) fn record(&self) -> Record {
        Record::read(self.fields.iter().map(|field| field.0.as_slice()))
    }
}

impl Axon {
    /// An endpoint with nothing else said about it; its block is set when it is published. `protocol` is
    /// what the Python SDK sends.
    pub(super) fn of(endpoint: SocketAddr) -> Self {
        Self { block: 0, version: 1, endpoint, protocol: 4, placeholder1: 0, placeholder2: 0 }
    }
}
