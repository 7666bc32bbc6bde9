//! Whether this process ran while it waited.
//!
//! A process that is suspended or swapped out, or whose machine slept, reads late what came in time. It must not hold
//! its own absence against a miner. A thread that does nothing else looks at the clock: whatever is sent to this
//! process, it cannot be kept from that, as a task could be that has other tasks, or a flood of messages, on its thread.

use std::ops::Add;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tracing::error;

/// How often the thread looks at its clock.
const TICK: Duration = Duration::from_millis(100);
/// A tick that is late by no more than this is on time: a busy machine.
const JITTER: Duration = Duration::from_millis(500);
/// Having stood still for so long in all, it cannot say who was late: as long as lateness is waited for.
const LIMIT: Duration = Duration::from_secs(1);

/// A moment by a clock that only goes forward, and on Linux goes on while the machine sleeps. `Instant` does not:
/// to it, a machine that slept for an hour has never been away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(Duration);

impl Moment {
    #[cfg(target_os = "linux")]
    pub(crate) fn now() -> Self {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        Self(Duration::new(seconds, u32::try_from(now.tv_nsec).unwrap_or(0)))
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn now() -> Self {
        static FIRST: OnceLock<std::time::Instant> = OnceLock::new();
        Self(FIRST.get_or_init(std::time::Instant::now).elapsed())
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

/// What the thread has seen.
struct Pulse {
    last: Moment,
    still: Duration,
}

impl Pulse {
    /// For how long the process stood still up to now.
    fn still(&self, now: Moment) -> Duration {
        let late = now.0.saturating_sub(self.last.0).saturating_sub(TICK);
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
            let now = Moment::now();
            *pulse = Pulse { last: now, still: pulse.still(now) };
        };
        if let Err(failure) = thread::Builder::new().name("pulse".to_owned()).spawn(beat) {
            error!(%failure, "no thread can be started: all time counts as spent standing still");
        }
        Mutex::new(Pulse { last: Moment::now(), still: Duration::ZERO })
    });
    let still = pulse.lock().unwrap_or_else(PoisonError::into_inner).still(Moment::now());
    #[cfg(test)]
    let still = still + tests::PRETENDED.get();
    still
}

/// From when on it counts that the process stands still. What it did before excuses nobody for what came after: a miner
/// may have seen it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Since(Duration);

impl Since {
    pub(crate) fn now() -> Self {
        Self(stood_still())
    }

    /// For how long the process has stood still since then. What came later than it was due by no more may have been in
    /// time.
    pub(crate) fn still(self) -> Duration {
        stood_still().saturating_sub(self.0)
    }

    /// Whether that was too long to say who was late.
    pub(crate) fn stood_still(self) -> bool {
        self.still() >= LIMIT
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// A standstill that a test pretends, to whoever asks on its thread.
        pub(crate) static PRETENDED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    /// Awaits `work`, and tells whether the process stood still meanwhile.
    async fn watch(work: impl Future<Output = ()>) -> bool {
        let since = Since::now();
        work.await;
        since.stood_still()
    }

    #[tokio::test]
    async fn a_thread_that_is_kept_busy_is_no_process_that_stood_still() {
        let busy = async { thread::sleep(Duration::from_millis(1_500)) };
        assert!(!watch(busy).await, "whoever keeps it busy would be excused");
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_long_is_not_standing_still() {
        assert!(!watch(tokio::time::sleep(Duration::from_hours(1))).await);
    }

    #[test]
    fn a_clock_that_is_ahead_by_more_than_a_busy_machine_explains_was_a_standstill() {
        let pulse = Pulse { last: Moment::now(), still: Duration::from_secs(3) };
        assert_eq!(pulse.still(pulse.last + TICK + JITTER), Duration::from_secs(3));
        assert_eq!(pulse.still(pulse.last + TICK + Duration::from_hours(1)), Duration::from_secs(3_603));
    }

    #[tokio::test]
    #[ignore = "a part of the next test, which stops the process that runs it"]
    async fn in_a_process_of_its_own() {
        println!("WATCHING");
        let stalled = watch(tokio::time::sleep(Duration::from_secs(2))).await;
        println!("STALLED {stalled} THEN {}", watch(tokio::time::sleep(TICK)).await);
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
            assert!(line.ends_with("THEN false"), "what came before is over: {line}");
            line.contains("STALLED true")
        };
        assert!(stalled(true), "and past its deadline");
        assert!(!stalled(false));
    }
}
