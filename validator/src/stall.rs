//! Whether this process ran while it waited.
//!
//! A process that is suspended, swapped out or starved reads late what came in time. It must not hold its
//! own absence against a miner.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How often the process looks at its clock.
const TICK: Duration = Duration::from_millis(100);
/// A tick that is late by no more than this is on time: a busy machine.
const JITTER: Duration = Duration::from_millis(500);
/// Having stood still for so long in all, it cannot say who was late: as long as lateness is waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// Awaits `work`, and tells whether the process stood still for too long meanwhile.
pub(crate) async fn watch<T>(work: impl Future<Output = T>) -> (T, bool) {
    let mut work = pin!(work);
    let mut still = Duration::ZERO;
    loop {
        let begun = Instant::now();
        let ended = tokio::select! {
            biased;
            ended = &mut work => Some(ended),
            () = sleep(TICK) => None,
        };
        let late = begun.elapsed().saturating_sub(TICK);
        if late > JITTER {
            still += late;
        }
        if let Some(ended) = ended {
            return (ended, still >= LIMIT);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_process_that_stood_still_was_not_there() {
        let ((), stalled) = watch(sleep(Duration::from_millis(300))).await;
        assert!(!stalled);
        let standing = async {
            sleep(Duration::from_millis(150)).await;
            std::thread::sleep(Duration::from_millis(1_500));
            sleep(Duration::from_millis(150)).await;
        };
        assert!(watch(standing).await.1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_long_is_not_standing_still() {
        assert!(!watch(sleep(Duration::from_hours(1))).await.1);
    }
}
