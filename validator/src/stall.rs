//! Whether this process ran while it waited.
//!
//! A process that is suspended or swapped out reads late what came in time. It must not hold its own absence
//! against a miner. A thread that does nothing else looks at the clock: whatever is sent to this process, it cannot
//! be kept from that, as a task could be that has other tasks, or a flood of messages, on its thread.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tracing::error;

/// How often the thread looks at its clock.
const TICK: Duration = Duration::from_millis(100);
/// A tick that is late by no more than this is on time: a busy machine.
const JITTER: Duration = Duration::from_millis(500);
/// Having stood still for so long in all, it cannot say who was late: as long as lateness is waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// What the thread has seen.
struct Pulse {
    last: Instant,
    still: Duration,
}

impl Pulse {
    /// For how long the process stood still up to now.
    fn still(&self, now: Instant) -> Duration {
        let late = now.saturating_duration_since(self.last).saturating_sub(TICK);
        if late > JITTER { self.still + late } else { self.still }
    }
}

/// For how long this process has stood still since somebody first asked.
fn stood_still() -> Duration {
    static PULSE: OnceLock<Mutex<Pulse>> = OnceLock::new();
    let pulse = PULSE.get_or_init(|| {
        let beat = || loop {
            thread::sleep(TICK);
            let Some(pulse) = PULSE.get() else { continue };
            let mut pulse = pulse.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            *pulse = Pulse { last: now, still: pulse.still(now) };
        };
        if let Err(failure) = thread::Builder::new().name("pulse".to_owned()).spawn(beat) {
            error!(%failure, "no thread can be started: all time counts as spent standing still");
        }
        Mutex::new(Pulse { last: Instant::now(), still: Duration::ZERO })
    });
    pulse.lock().unwrap_or_else(PoisonError::into_inner).still(Instant::now())
}

/// Awaits `work`, and tells whether the process stood still for too long meanwhile.
pub(crate) async fn watch<T>(work: impl Future<Output = T>) -> (T, bool) {
    let before = stood_still();
    let ended = work.await;
    (ended, stood_still().saturating_sub(before) >= LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_thread_that_is_kept_busy_is_no_process_that_stood_still() {
        let busy = async { thread::sleep(Duration::from_millis(1_500)) };
        assert!(!watch(busy).await.1, "whoever keeps it busy would be excused");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_long_is_not_standing_still() {
        assert!(!watch(tokio::time::sleep(Duration::from_hours(1))).await.1);
    }

    #[tokio::test]
    #[ignore = "a part of the next test, which stops the process that runs it"]
    async fn in_a_process_of_its_own() {
        println!("WATCHING");
        println!("STALLED {}", watch(tokio::time::sleep(Duration::from_secs(2))).await.1);
    }

    #[cfg(unix)]
    #[test]
    fn a_process_that_was_stopped_stood_still() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        let stalled = |stopped: bool| {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "stall::tests::in_a_process_of_its_own", "--ignored", "--nocapture"])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let id = child.id().to_string();
            let signal = |name: &str| {
                let status = Command::new("kill").args([name, &id]).status();
                assert!(status.unwrap().success());
            };
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            lines.find(|line| line.contains("WATCHING")).unwrap();
            if stopped {
                thread::sleep(Duration::from_millis(300));
                signal("-STOP");
                thread::sleep(Duration::from_secs(3));
                signal("-CONT");
            }
            let line = lines.find(|line| line.contains("STALLED")).unwrap();
            child.wait().unwrap();
            line.ends_with("true")
        };
        assert!(stalled(true), "and past its deadline");
        assert!(!stalled(false));
    }
}
