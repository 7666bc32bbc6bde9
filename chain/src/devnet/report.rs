//! What an epoch came to.

use assay_commitments::{Epoch, Hotkey};
use serde::{Deserialize, Serialize};

use super::text;
use crate::types::{BlockNumber, Rao, Uid};

/// One computed epoch. `owner_cut`, `burnt` and all neurons' emission add up to `issued`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochReport {
    /// The epoch that ended.
    #[serde(with = "text::epoch")]
    pub epoch: Epoch,
    /// The block it was computed in, the first of the next epoch.
    pub block: BlockNumber,
    /// What the blocks since the last computation issued.
    pub issued: Rao,
    /// What the subnet owner got off the top.
    pub owner_cut: Rao,
    /// What nobody got: the incentive of the owner's own place.
    pub burnt: Rao,
    /// By uid.
    pub neurons: Vec<NeuronReport>,
}

/// What an epoch came to for one neuron. Proportions are of 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeuronReport {
    /// Its place.
    pub uid: Uid,
    /// Who held it.
    #[serde(with = "text::hotkey")]
    pub hotkey: Hotkey,
    /// The weight that a majority of the stake supports for it.
    pub consensus: u16,
    /// Its share of what miners got, before burning.
    pub incentive: u16,
    /// Its share of what validators got.
    pub dividends: u16,
    /// How much of its own weights stood after clipping.
    pub validator_trust: u16,
    /// What it got for mining.
    pub mining: Rao,
    /// What it got for validating.
    pub validating: Rao,
}
