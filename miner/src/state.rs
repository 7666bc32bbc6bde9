//! What the sessions of a miner share.

use std::sync::Arc;

use assay_audit::session::{Refusal, RefusalReason, SignedBytes};
use assay_commitments::{Hotkey, SessionId};
use assay_llm_runtime::retention::TraceStore;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::backend::Backend;
use crate::config::MinerConfig;
use crate::limiter::Limiter;
use crate::peers::{Grant, Peers};
use crate::published::Published;
use crate::retention::Retention;

/// One miner.
pub(crate) struct State {
    pub(crate) config: MinerConfig,
    pub(crate) hotkey: Hotkey,
    pub(crate) published: Published,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) streams: Arc<Limiter>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) serving: Arc<Semaphore>,
    pub(crate) proving: Arc<Semaphore>,
    pub(crate) retention: Retention,
    pub(crate) traces: TraceStore,
    /// No new work any more.
    pub(crate) draining: CancellationToken,
    /// No work at all any more.
    pub(crate) closing: CancellationToken,
}

impl State {
    pub(crate) fn new(
        config: MinerConfig,
        published: Published,
        backend: Arc<dyn Backend>,
        traces: TraceStore,
    ) -> Arc<Self> {
        let limits = config.limits;
        Arc::new(Self {
            hotkey: config.keys.hotkey(),
            config,
            published,
            backend,
            streams: Limiter::new(limits.streams, limits.streams_per_address),
            peers: Arc::default(),
            serving: Arc::new(Semaphore::new(limits.serving)),
            proving: Arc::new(Semaphore::new(limits.proving)),
            retention: Retention::default(),
            traces,
            draining: CancellationToken::new(),
            closing: CancellationToken::new(),
        })
    }

    pub(crate) fn refusal(&self, session: SessionId, reason: RefusalReason) -> SignedBytes {
        Refusal { session, reason }.sign(&self.config.keys)
    }

    /// What a validator with this share of the stake is granted, the least that the policy asks for
    /// kept.
    pub(crate) fn grant(&self, stake_millionths: u32, least_budget_ms: u32) -> Grant {
        let limits = &self.config.limits;
        let share = u128::from(limits.proof_ms_per_epoch) * u128::from(stake_millionths.min(1_000_000)) / 1_000_000;
        let share = u64::try_from(share).unwrap_or(u64::MAX);
        Grant { sessions: limits.sessions_per_validator, proof_ms: share.max(u64::from(least_budget_ms)) }
    }
}
