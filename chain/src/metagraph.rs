//! Who is on the subnet.

use std::net::SocketAddr;

use assay_commitments::{Hotkey, ManifestId};

use crate::types::{BlockNumber, Coldkey, Rao, Uid};

/// Everybody registered on the subnet, as of one block.
///
/// Uids are only meaningful together with that block: resolve hotkeys to uids on the same metagraph
/// that weights are computed from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metagraph {
    /// The block this is the state of.
    pub block: BlockNumber,
    /// The subnet owner's place. What is given to it is burnt: the home of weight that nobody
    /// earned.
    pub owner: Uid,
    /// By uid, from 0 without gaps.
    pub neurons: Vec<Neuron>,
}

/// One place of the metagraph and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neuron {
    /// The place.
    pub uid: Uid,
    /// Who holds it.
    pub hotkey: Hotkey,
    /// Who owns the hotkey.
    pub coldkey: Coldkey,
    /// Where it serves, if it does.
    pub endpoint: Option<SocketAddr>,
    /// The manifest it says it serves.
    pub manifest: Option<ManifestId>,
    /// Its stake.
    pub stake: Rao,
    /// Whether its stake counted in the last epoch.
    pub active: bool,
    /// Whether it may set weights. Permits go by stake and are renewed with each epoch.
    pub validator_permit: bool,
    /// When it last set weights; until then, when it was registered.
    pub last_update: BlockNumber,
    /// When its holder got the place.
    pub registered_at: BlockNumber,
}

impl Metagraph {
    /// The place a hotkey holds, if it is registered.
    pub fn neuron(&self, hotkey: &Hotkey) -> Option<&Neuron> {
        self.neurons.iter().find(|neuron| neuron.hotkey == *hotkey)
    }

    /// The owner's hotkey, the burn hotkey of weight vectors.
    pub fn burn_hotkey(&self) -> Option<Hotkey> {
        self.neurons.iter().find(|neuron| neuron.uid == self.owner).map(|neuron| neuron.hotkey)
    }

    /// All hotkeys in the order of their uids.
    pub fn hotkeys(&self) -> Vec<Hotkey> {
        self.neurons.iter().map(|neuron| neuron.hotkey).collect()
    }
}
