//! What a devnet starts from.

use assay_commitments::Hotkey;

use crate::types::{Network, Rao};

/// A devnet's first block.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Which network it shall be. Two devnets whose evidence must not mix need two genesis hashes.
    pub network: Network,
    /// The subnet owner: uid 0, the burn hotkey.
    pub owner: Hotkey,
    /// Validators with their stakes, at uids from 1 on. They hold a permit from the start; whoever
    /// comes later waits for the end of an epoch.
    pub validators: Vec<(Hotkey, Rao)>,
    /// The subnet's settings.
    pub parameters: Parameters,
}

/// A subnet's settings, under the chain's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Blocks in an epoch.
    pub tempo: u16,
    /// The share of active stake, of 65535, that must support a weight for it to be consensus.
    pub kappa: u16,
    /// Blocks between two settings of weights by one validator.
    pub weights_rate_limit: u64,
    /// The least version key of weights; 0 takes any.
    pub weights_version_key: u64,
    /// The least number of weights, or all uids where there are fewer.
    pub min_allowed_weights: u16,
    /// How many places there are.
    pub max_allowed_uids: u16,
    /// How many of them may hold a validator permit, the owner's own not counted.
    pub max_allowed_validators: u16,
    /// Blocks between two publications of one endpoint.
    pub serving_rate_limit: u64,
    /// After how many thousandths of a tempo without new weights a validator counts as inactive.
    pub activity_cutoff_factor_milli: u32,
    /// What each block issues to the subnet.
    pub emission_per_block: Rao,
}

impl Default for Parameters {
    /// The defaults of Subtensor (runtime 425), and one whole coin a block.
    fn default() -> Self {
        Self {
            tempo: 360,
            kappa: 32_767,
            weights_rate_limit: 100,
            weights_version_key: 0,
            min_allowed_weights: 1_024,
            max_allowed_uids: 256,
            max_allowed_validators: 128,
            serving_rate_limit: 50,
            activity_cutoff_factor_milli: 13_889,
            emission_per_block: Rao::new(1_000_000_000),
        }
    }
}

impl Parameters {
    /// After how many blocks without new weights a validator counts as inactive.
    pub(super) fn activity_cutoff(&self) -> u64 {
        (u64::from(self.activity_cutoff_factor_milli) * u64::from(self.tempo) / 1_000).max(1)
    }
}

/// Why a genesis is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Epochs would never end.
    #[error("a tempo of 0 blocks would never end an epoch")]
    NoTempo,
    /// One hotkey holds one place.
    #[error("hotkey {0} stands twice in the genesis")]
    ListedTwice(Hotkey),
    /// There are fewer places than neurons.
    #[error("the owner and {validators} validators do not fit into {uids} uids")]
    TooMany {
        /// How many validators were given.
        validators: usize,
        /// How many places there are.
        uids: u16,
    },
}
