//! What a devnet starts from.

use assay_commitments::Hotkey;
use serde::{Deserialize, Serialize};

use crate::{
    api::WeightsForm,
    types::{Network, Rao},
};

/// A devnet's first block.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Which network it shall be. Two devnets whose evidence must not mix need two genesis hashes.
    pub network: Network,
    /// The subnet owner: uid 0, the burn hotkey. Its coldkey is the account of the same 32 bytes, as it
    /// is of everybody who did not register by a coldkey of its own.
    pub owner: Hotkey,
    /// Validators with their stakes, at uids from 1 on. They hold a permit from the start; whoever
    /// comes later waits for the end of an epoch.
    pub validators: Vec<(Hotkey, Rao)>,
    /// The subnet's settings.
    pub parameters: Parameters,
}

/// A subnet's settings, under the chain's own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Blocks in an epoch, less one: an epoch ends in each block whose number, the netuid and one add
    /// up to a multiple of `tempo + 1`.
    pub tempo: u16,
    /// The share of active stake, of 65535, that must support a weight for it to be consensus.
    pub kappa: u16,
    /// How much of the old bonds an epoch keeps, in millionths.
    pub bonds_moving_average: u64,
    /// How much of a weight above consensus is lost for bonds, of 65535.
    pub bonds_penalty: u16,
    /// In which form weights are taken.
    pub weights_form: WeightsForm,
    /// Blocks between two settings of weights by one validator.
    pub weights_rate_limit: u64,
    /// The least version key of weights; 0 takes any.
    pub weights_version_key: u64,
    /// The least number of weights, or all uids where there are fewer.
    pub min_allowed_weights: u16,
    /// The largest share of one weight, of 65535; 65535 is no limit.
    pub max_weight_limit: u16,
    /// The least stake that counts, for weights and for permits.
    pub stake_threshold: Rao,
    /// How many places there are.
    pub max_allowed_uids: u16,
    /// How many of them may hold a validator permit, the owner's own not counted.
    pub max_allowed_validators: u16,
    /// Blocks for which a new neuron is not replaced, as long as there are others.
    pub immunity_period: u16,
    /// How many neurons outside immunity there must be left for one of them to be replaced; with fewer,
    /// immune ones are.
    pub min_non_immune_uids: u16,
    /// What the first registration costs.
    pub burn: Rao,
    /// The least that a registration costs.
    pub min_burn: Rao,
    /// The most that a registration costs.
    pub max_burn: Rao,
    /// Blocks in which the price of a registration falls to one half; 0 lets it stand.
    pub burn_half_life: u16,
    /// What a registration does to the price of the next, in thousandths.
    pub burn_increase_milli: u32,
    /// Blocks between two publications of one endpoint.
    pub serving_rate_limit: u64,
    /// Bytes that a hotkey may store in its commitment in an epoch; each writing counts as 100 at least.
    pub max_space: u32,
    /// After how many thousandths of a tempo without new weights a validator counts as inactive.
    pub activity_cutoff_factor_milli: u32,
    /// What each block issues to the subnet.
    pub emission_per_block: Rao,
}

impl Default for Parameters {
    /// The defaults of Subtensor (runtime 425), and one whole coin a block. Weights are timelocked.
    fn default() -> Self {
        Self {
            tempo: 360,
            kappa: 32_767,
            bonds_moving_average: 900_000,
            bonds_penalty: u16::MAX,
            weights_form: WeightsForm::Timelocked { period: 1, version: 4 },
            weights_rate_limit: 100,
            weights_version_key: 0,
            min_allowed_weights: 1_024,
            max_weight_limit: u16::MAX,
            stake_threshold: Rao::new(0),
            max_allowed_uids: 256,
            max_allowed_validators: 128,
            immunity_period: 4_096,
            min_non_immune_uids: 10,
            burn: Rao::new(100_000_000),
            min_burn: Rao::new(500_000),
            max_burn: Rao::new(100_000_000_000),
            burn_half_life: 360,
            burn_increase_milli: 1_260,
            serving_rate_limit: 50,
            max_space: 3_100,
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

    /// Epochs from a commit of weights to its reveal; none where weights are plain.
    pub(super) fn reveal_period(&self) -> Option<u64> {
        match self.weights_form {
            WeightsForm::Plain => None,
            WeightsForm::CommitReveal { period } | WeightsForm::Timelocked { period, .. } => Some(period),
        }
    }

    pub(super) fn check(&self) -> Result<(), GenesisError> {
        if self.tempo == 0 {
            return Err(GenesisError::NoTempo);
        }
        if let Some(period) = self.reveal_period().filter(|period| !PERIODS.contains(period)) {
            return Err(GenesisError::RevealPeriod(period));
        }
        if self.bonds_moving_average > MILLION {
            return Err(GenesisError::BondsMovingAverage(self.bonds_moving_average));
        }
        let (least, most) = (self.min_burn, self.max_burn);
        if !(least..=most).contains(&self.burn) {
            return Err(GenesisError::Burn { burn: self.burn, least, most });
        }
        Ok(())
    }
}

/// What the chain takes as a reveal period.
const PERIODS: std::ops::RangeInclusive<u64> = 1..=100;
const MILLION: u64 = 1_000_000;

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
    /// Commits are revealed after 1 to 100 epochs.
    #[error("weights cannot be revealed after {0} epochs; give a period of 1 to 100")]
    RevealPeriod(u64),
    /// More than all of the old bonds cannot be kept.
    #[error("bonds_moving_average is in millionths, and {0} is more than a million")]
    BondsMovingAverage(u64),
    /// The price of a registration has bounds.
    #[error("a burn of {burn} RAO is not between min_burn ({least}) and max_burn ({most})")]
    Burn {
        /// The price.
        burn: Rao,
        /// The least.
        least: Rao,
        /// The most.
        most: Rao,
    },
}
