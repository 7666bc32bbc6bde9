//! `miner.toml`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use assay_miner::Limits;
use serde::Deserialize;

use super::{Base, ChainSettings, WalletSettings};
use crate::networks::Place;
use crate::outcome::Fault;

/// A miner's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MinerFile {
    pub(crate) listen: SocketAddr,
    /// What validators are told, if that is another address.
    announce: Option<SocketAddr>,
    model: PathBuf,
    /// Where traces go that find no room in memory.
    spill_folder: Option<PathBuf>,
    chain: ChainSettings,
    pub(crate) wallet: WalletSettings,
    #[serde(default)]
    limits: LimitSettings,
}

/// `[limits]`; what is not given is as in [`Limits::default`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LimitSettings {
    streams: Option<usize>,
    streams_per_address: Option<usize>,
    sessions_per_validator: Option<usize>,
    serving: Option<usize>,
    proving: Option<usize>,
    queue_ms: Option<u64>,
    retained_bytes: Option<usize>,
    spilled_bytes: Option<usize>,
    output_tokens: Option<u32>,
    distinct_layers: Option<u32>,
    cells: Option<u64>,
    decodes: Option<u64>,
    proof_ms_per_epoch: Option<u64>,
    least_budget_ms: Option<u32>,
    drain_ms: Option<u64>,
}

/// A miner's configuration, checked.
#[derive(Clone, Debug)]
pub(crate) struct MinerSettings {
    pub(crate) listen: SocketAddr,
    pub(crate) announce: Option<SocketAddr>,
    pub(crate) model: PathBuf,
    pub(crate) spill_folder: Option<PathBuf>,
    pub(crate) place: Place,
    pub(crate) limits: Limits,
}

impl MinerFile {
    pub(crate) fn check(&self, base: &Base) -> Result<MinerSettings, Fault> {
        if self.announce.is_some_and(|address| address.port() == 0) {
            return Err(base.refuse("announce", "an endpoint needs a port other than 0"));
        }
        if self.announce.unwrap_or(self.listen).ip().is_unspecified() {
            return Err(base.refuse("announce", "give the address under which validators reach this miner"));
        }
        Ok(MinerSettings {
            listen: self.listen,
            announce: self.announce,
            model: base.path(&self.model),
            spill_folder: self.spill_folder.as_ref().map(|folder| base.path(folder)),
            place: self.chain.check(base)?,
            limits: self.limits.check(base, self.spill_folder.is_some())?,
        })
    }
}

impl LimitSettings {
    fn check(&self, base: &Base, has_folder: bool) -> Result<Limits, Fault> {
        let usual = Limits::default();
        let counts = [
            ("limits.streams", self.streams),
            ("limits.streams_per_address", self.streams_per_address),
            ("limits.sessions_per_validator", self.sessions_per_validator),
            ("limits.serving", self.serving),
            ("limits.proving", self.proving),
            ("limits.retained_bytes", self.retained_bytes),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, given)| *given == Some(0)) {
            return Err(base.refuse(name, "with 0 nothing could be served; give at least 1"));
        }
        let spilled_bytes = self.spilled_bytes.unwrap_or(usual.spilled_bytes);
        if spilled_bytes > 0 && !has_folder {
            return Err(base.refuse("limits.spilled_bytes", "there is no spill_folder to write to; name one"));
        }
        let ms = |given: Option<u64>, usual| given.map_or(usual, Duration::from_millis);
        Ok(Limits {
            streams: self.streams.unwrap_or(usual.streams),
            streams_per_address: self.streams_per_address.unwrap_or(usual.streams_per_address),
            sessions_per_validator: self.sessions_per_validator.unwrap_or(usual.sessions_per_validator),
            serving: self.serving.unwrap_or(usual.serving),
            proving: self.proving.unwrap_or(usual.proving),
            queue: ms(self.queue_ms, usual.queue),
            retained_bytes: self.retained_bytes.unwrap_or(usual.retained_bytes),
            spilled_bytes,
            output_tokens: self.output_tokens.unwrap_or(usual.output_tokens),
            distinct_layers: self.distinct_layers.unwrap_or(usual.distinct_layers),
            cells: self.cells.unwrap_or(usual.cells),
            decodes: self.decodes.unwrap_or(usual.decodes),
            proof_ms_per_epoch: self.proof_ms_per_epoch.unwrap_or(usual.proof_ms_per_epoch),
            least_budget_ms: self.least_budget_ms.unwrap_or(usual.least_budget_ms),
            drain: ms(self.drain_ms, usual.drain),
            ..usual
        })
    }
}
