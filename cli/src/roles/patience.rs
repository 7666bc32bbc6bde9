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
/// Between two attempts, at least.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);
/// Blocks that are waited for before a call is made again, at most: what the chain named may have changed by then.
const LONGEST: u64 = 50;

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
    chain: &impl Chain,
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
                // That block may be there already: what the chain says of it is then not what it does.
                tokio::join!(sleep(PAUSE), wait_for(chain, next));
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

/// Waits until a block is there, or so many others, whatever happens to the connection meanwhile.
async fn wait_for(chain: &impl Chain, block: BlockNumber) {
    let here = loop {
        match chain.head().await {
            Ok(head) => break head.block.get(),
            Err(_) => sleep(PAUSE).await,
        }
    };
    let before = BlockNumber::new(block.get().min(here.saturating_add(LONGEST)).saturating_sub(1));
    while chain.head_after(before).await.is_err() {
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use assay_chain::{Devnet, Genesis, GenesisHash, NetUid, Network, Parameters};
    use assay_commitments::Hotkey;

    use super::*;

    fn devnet() -> Devnet {
        let genesis = Genesis {
            network: Network { genesis: GenesisHash::new([1; 32]), netuid: NetUid::new(1) },
            owner: Hotkey::new([1; 32]),
            validators: vec![],
            parameters: Parameters::default(),
        };
        Devnet::new(&genesis).expect("a genesis")
    }

    #[tokio::test]
    async fn a_call_that_waits_for_a_block_that_is_far_away_is_made_again_before() {
        let chain = devnet();
        let (mut is_first, stop) = (true, CancellationToken::new());
        let call = || {
            let refused = std::mem::take(&mut is_first);
            async move {
                if refused { Err(ChainError::ServingTooFast { next: BlockNumber::new(u64::MAX) }) } else { Ok(()) }
            }
        };
        let blocks = async {
            loop {
                sleep(Duration::from_millis(10)).await;
                chain.step_block();
            }
        };
        let begun = chain.head().await.expect("a devnet answers").block;
        tokio::select! {
            done = persist(&chain, "a call", &stop, call) => assert_eq!(done, Ok(Some(()))),
            () = blocks => {}
            () = sleep(Duration::from_secs(30)) => panic!("the call is not made again"),
        }
        let ended = chain.head().await.expect("a devnet answers").block;
        assert!(ended.get() >= begun.get() + LONGEST, "{begun}..{ended}");
    }

    #[tokio::test]
    async fn a_call_that_waits_for_a_block_that_is_there_is_not_made_again_at_once() {
        let chain = devnet();
        let there = chain.head().await.expect("a devnet answers").block;
        let (begin, mut refusals) = (Instant::now(), 2);
        let call = || {
            let refused = refusals > 0;
            refusals -= i32::from(refused);
            async move { if refused { Err(ChainError::WeightsTooFast { next: there }) } else { Ok(()) } }
        };
        let done = persist(&chain, "a call", &CancellationToken::new(), call).await;
        assert_eq!(done, Ok(Some(())));
        assert!(begin.elapsed() >= 2 * PAUSE, "{:?}", begin.elapsed());
    }
}
