//! Starting and stopping a miner.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use assay_audit::request::MAX_REQUEST_BYTES;
use assay_llm_runtime::retention::{Budget, TraceStore, Usage};
use assay_proto::v1::miner_server::MinerServer;
use assay_proto::{ENVELOPE_BYTES, FILE_DESCRIPTOR_SET};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::server::HealthReporter;
use tracing::{debug, error, info, warn};

use crate::backend::Backend;
use crate::config::{Limits, MinerConfig};
use crate::error::MinerError;
use crate::published::Published;
use crate::service::Service;
use crate::state::State;

/// How often peers are asked whether they are still there, and how long they may take to say so.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Most bytes of a call's headers.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// How often expired sessions are looked for.
const PURGE: Duration = Duration::from_secs(1);

/// A miner's service.
#[derive(Debug)]
pub struct Miner;

/// A miner that serves. Dropping it stops it at once; [`RunningMiner::shutdown`] lets it finish.
#[derive(Debug)]
pub struct RunningMiner {
    local_addr: SocketAddr,
    draining: CancellationToken,
    closing: DropGuard,
    drain: Duration,
    health: HealthReporter,
    server: JoinHandle<()>,
    traces: TraceStore,
}

impl Miner {
    /// Listens and serves.
    ///
    /// # Errors
    /// [`MinerError`]: the address is taken, the folder for traces cannot be written to, or the limits
    /// serve nothing.
    pub async fn start(
        config: MinerConfig,
        published: Published,
        backend: impl Backend,
    ) -> Result<RunningMiner, MinerError> {
        let (address, limits) = (config.listen, config.limits);
        check(&limits)?;
        let traces = TraceStore::new(Budget {
            memory_bytes: limits.retained_bytes,
            disk_bytes: limits.spilled_bytes,
            folder: config.spill_folder.clone(),
        })?;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        let listen = |source| MinerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local_addr = listener.local_addr().map_err(listen)?;

        let state = State::new(config, published, Arc::new(backend), traces.clone());
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<MinerServer<Service>>().await;
        let service = MinerServer::new(Service::new(Arc::clone(&state)))
            .max_decoding_message_size(MAX_REQUEST_BYTES + ENVELOPE_BYTES);
        let draining = state.draining.clone();
        let stop = draining.clone();
        let serving = Server::builder()
            .max_concurrent_streams(u32::try_from(limits.streams_per_address).unwrap_or(u32::MAX))
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(service)
            .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), async move {
                stop.cancelled().await;
            });
        let closing = state.closing.clone();
        let closed = closing.clone();
        let server = tokio::spawn(async move {
            tokio::select! {
                served = serving => if let Err(failure) = served {
                    error!(%failure, "the server failed");
                },
                () = closed.cancelled() => {}
            }
        });
        tokio::spawn(purge(Arc::clone(&state)));
        info!(%local_addr, hotkey = %state.hotkey, manifest = %state.published.id(), "serving");
        Ok(RunningMiner {
            local_addr,
            draining,
            closing: closing.drop_guard(),
            drain: limits.drain,
            health,
            server,
            traces,
        })
    }
}

impl RunningMiner {
    /// Where it listens.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What the kept traces take.
    pub fn trace_usage(&self) -> Usage {
        self.traces.usage()
    }

    /// Takes no new requests, finishes those that are open within the limit for that, and stops.
    /// Whether everything was finished.
    pub async fn shutdown(self) -> bool {
        let Self { draining, closing, drain, health, mut server, .. } = self;
        health.set_not_serving::<MinerServer<Service>>().await;
        draining.cancel();
        let finished = timeout(drain, &mut server).await.is_ok();
        drop(closing);
        if !finished {
            warn!(after_s = drain.as_secs(), "stopped with sessions open");
            // The token is cancelled: what is left is the end of a task.
            let _ = server.await;
        }
        finished
    }
}

/// Semaphores of size 0 would wait for ever.
fn check(limits: &Limits) -> Result<(), MinerError> {
    let counted = [
        ("streams", limits.streams),
        ("streams_per_address", limits.streams_per_address),
        ("sessions_per_validator", limits.sessions_per_validator),
        ("serving", limits.serving),
        ("proving", limits.proving),
    ];
    match counted.iter().find(|(_, limit)| *limit == 0) {
        Some((name, _)) => Err(MinerError::Limit(name)),
        None => Ok(()),
    }
}

async fn purge(state: Arc<State>) {
    while !state.closing.is_cancelled() {
        tokio::select! {
            () = tokio::time::sleep(PURGE) => {}
            () = state.closing.cancelled() => {}
        }
        let expired = state.retention.purge(Instant::now());
        if expired > 0 {
            debug!(expired, "sessions expired without a settlement or receipt");
        }
    }
}
