//! `devnet.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;

use assay_chain::{Parameters, Rao, WeightsForm};
use serde::Deserialize;

use super::Base;
use crate::outcome::Fault;

/// RAO in a TAO.
const RAO: f64 = 1e9;

/// A devnet's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DevnetConfig {
    pub(crate) listen: SocketAddr,
    pub(crate) netuid: u16,
    /// Milliseconds from block to block; 0 for blocks on demand.
    pub(crate) block_ms: u64,
    /// Two devnets of one name are the same network. Without one each is its own.
    pub(crate) name: Option<String>,
    pub(crate) state: Option<PathBuf>,
    /// Where the hotkeys lie that are named below; those that are not there are made.
    pub(crate) wallets: PathBuf,
    pub(crate) owner: String,
    pub(crate) validators: Vec<Founder>,
    pub(crate) miners: Vec<String>,
    parameters: ParameterSettings,
}

/// A validator from the first block on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Founder {
    pub(crate) hotkey: String,
    stake_tao: f64,
}

impl Founder {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a number of coins")]
    pub(crate) fn stake(&self) -> Rao {
        Rao::new((self.stake_tao * RAO) as u64)
    }
}

impl Default for DevnetConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9955)),
            netuid: 1,
            block_ms: 1_000,
            name: None,
            state: None,
            wallets: PathBuf::from("devnet-wallets"),
            owner: "owner".to_owned(),
            validators: vec![Founder { hotkey: "validator".to_owned(), stake_tao: 1_000.0 }],
            miners: vec!["miner".to_owned()],
            parameters: ParameterSettings::default(),
        }
    }
}

/// `[parameters]`, under the chain's own names; what is not given is as a devnet has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ParameterSettings {
    tempo: Option<u16>,
    /// `plain`, `commit-reveal` or `timelocked`.
    weights: Option<Form>,
    reveal_period: Option<u64>,
    weights_rate_limit: Option<u64>,
    weights_version_key: Option<u64>,
    min_allowed_weights: Option<u16>,
    max_weight_limit: Option<u16>,
    stake_threshold_tao: Option<f64>,
    max_allowed_uids: Option<u16>,
    max_allowed_validators: Option<u16>,
    immunity_period: Option<u16>,
    serving_rate_limit: Option<u64>,
    max_space: Option<u32>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    Plain,
    CommitReveal,
    Timelocked,
}

impl DevnetConfig {
    /// Checks what a genesis does not, and gives the subnet's settings.
    pub(crate) fn check(&self, base: &Base) -> Result<Parameters, Fault> {
        if !self.listen.ip().is_loopback() {
            return Err(base.refuse("listen", "a devnet gives coins to whoever asks: give a loopback address"));
        }
        let is_amount = |tao: f64| (0.0..=1e9).contains(&tao);
        if self.validators.iter().any(|founder| !is_amount(founder.stake_tao)) {
            return Err(base.refuse("validators", "a stake is 0 to 1000000000 TAO"));
        }
        if !self.parameters.stake_threshold_tao.is_none_or(is_amount) {
            return Err(base.refuse("parameters.stake_threshold_tao", "give 0 to 1000000000"));
        }
        if self.name.as_ref().is_some_and(String::is_empty) {
            return Err(base.refuse("name", "an empty name is none; leave it out for a network of its own"));
        }
        Ok(self.parameters.parameters())
    }
}

impl ParameterSettings {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be a number of coins")]
    fn parameters(&self) -> Parameters {
        // Short epochs and few miners; everything else as the chain has it.
        let usual = Parameters {
            tempo: 60,
            weights_rate_limit: 10,
            serving_rate_limit: 5,
            min_allowed_weights: 1,
            ..Parameters::default()
        };
        let period = self.reveal_period.unwrap_or(1);
        let weights_form = match self.weights.unwrap_or(Form::Timelocked) {
            Form::Plain => WeightsForm::Plain,
            Form::CommitReveal => WeightsForm::CommitReveal { period },
            Form::Timelocked => WeightsForm::Timelocked { period, version: 4 },
        };
        let threshold = self.stake_threshold_tao.map(|tao| Rao::new((tao * RAO) as u64));
        Parameters {
            tempo: self.tempo.unwrap_or(usual.tempo),
            weights_form,
            weights_rate_limit: self.weights_rate_limit.unwrap_or(usual.weights_rate_limit),
            weights_version_key: self.weights_version_key.unwrap_or(usual.weights_version_key),
            min_allowed_weights: self.min_allowed_weights.unwrap_or(usual.min_allowed_weights),
            max_weight_limit: self.max_weight_limit.unwrap_or(usual.max_weight_limit),
            stake_threshold: threshold.unwrap_or(usual.stake_threshold),
            max_allowed_uids: self.max_allowed_uids.unwrap_or(usual.max_allowed_uids),
            max_allowed_validators: self.max_allowed_validators.unwrap_or(usual.max_allowed_validators),
            immunity_period: self.immunity_period.unwrap_or(usual.immunity_period),
            serving_rate_limit: self.serving_rate_limit.unwrap_or(usual.serving_rate_limit),
            max_space: self.max_space.unwrap_or(usual.max_space),
            ..usual
        }
    }
}
