//! What an epoch came to.

use assay_commitments::{Epoch, Hotkey};

use crate::types::{BlockNumber, Rao, Uid};

/// One computed epoch. `owner_cut`, `burnt` and all neurons' emission add up to `issued`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochReport {
    /// The epoch that ended.
    pub epoch: Epoch,
    /// The block it ended in.
    pub block: BlockNumber,
    /// What its blocks issued.
    pub issued: Rao,
    /// What the subnet owner got off the top.
    pub owner_cut: Rao,
    /// What nobody got: the incentive of the owner's own place.
    pub burnt: Rao,
    /// By uid.
    pub neurons: Vec<NeuronReport>,
}

/// What an epoch came to for one neuron. Proportions are of 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeuronReport {
    /// Its place.
    pub uid: Uid,
    /// Who held it.
    pub hotkey: Hotkey,
    /// The weight that a majority of the stake supports for it.
    pub consensus: u16,
    /// Its share of what miners got, before burning.
    pub incentive: u16,
    /// How much of its own weights stood after clipping.
    pub validator_trust: u16,
    /// What it got for mining.
    pub mining: Rao,
    /// What it got for validating.
    pub validating: Rao,
}
