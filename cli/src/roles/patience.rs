//! Waiting for what may pass by itself.

use std::time::Duration;

use assay_chain::wallet::SigningKey;
use assay_chain::{BlockNumber, Chain, ChainError, Subtensor};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::networks::Place;
use crate::outcome::Fault;

/// How long a chain may take to answer when a role starts: machines start their services in any order.
const STARTING: Duration = Duration::from_secs(20);
/// Between two attempts.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Connects, and gives a chain that is starting too some time.
pub(crate) async fn connect(
    place: &Place,
    key: &SigningKey,
    journal: Option<std::path::PathBuf>,
) -> Result<Subtensor, Fault> {
    let begin = Instant::now();
    loop {
        match place.connect(std::slice::from_ref(key), journal.clone()).await {
            Err(refusal) if refusal.is_passing() && begin.elapsed() < STARTING => {
                info!("waiting for the chain: {refusal}");
                sleep(PAUSE).await;
            }
            connected => return Ok(connected?),
        }
    }
}

/// Makes a call until it succeeds, waiting for what it waits for; `None` if it is stopped before.
pub(crate) async fn persist<T, F: Future<Output = Result<T, ChainError>>>(
    chain: &Subtensor,
    what: &str,
    stop: &CancellationToken,
    mut call: impl FnMut() -> F,
) -> Result<Option<T>, ChainError> {
    while !stop.is_cancelled() {
        let refusal = match call().await {
            Ok(done) => return Ok(Some(done)),
            Err(refusal) if refusal.needs_operator() => return Err(refusal),
            Err(refusal) => refusal,
        };
        let waiting = async {
            if let Some(next) = refusal.next() {
                info!("{what} waits: {refusal}");
                wait_for(chain, next).await;
            } else {
                warn!("{what}: {refusal}; trying again");
                sleep(PAUSE).await;
            }
        };
        tokio::select! {
            () = waiting => {}
            () = stop.cancelled() => {}
        }
    }
    Ok(None)
}

/// Waits until a block is there, whatever happens to the connection meanwhile.
async fn wait_for(chain: &Subtensor, block: BlockNumber) {
    let before = BlockNumber::new(block.get().saturating_sub(1));
    while chain.head_after(before).await.is_err() {
        sleep(PAUSE).await;
    }
}
