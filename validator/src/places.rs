//! Places for the sessions that are held side by side, and who gets the next one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// So many places in all, and so many for one miner.
///
/// A place that is free goes to the miner whose sessions took the least time so far: slow miners, however many they
/// are, keep the others waiting for one session each, and then for those only for which the others leave room.
pub(crate) struct Places {
    per_miner: usize,
    state: Mutex<State>,
}

struct State {
    free: usize,
    miners: Vec<Miner>,
}

/// One miner's sessions.
#[derive(Default)]
struct Miner {
    begun: usize,
    /// When those began that are being held.
    held: Vec<Instant>,
    /// What those that have ended took the miner.
    took: Duration,
    waiting: VecDeque<oneshot::Sender<Instant>>,
}

impl Miner {
    fn took(&self, now: Instant) -> Duration {
        self.held.iter().fold(self.took, |took, began| took.saturating_add(now.saturating_duration_since(*began)))
    }
}

impl State {
    fn hand_out(&mut self, per_miner: usize) {
        let now = Instant::now();
        while self.free > 0 {
            let due = self.miners.iter_mut().filter(|miner| miner.held.len() < per_miner && !miner.waiting.is_empty());
            let Some(next) = due.min_by_key(|miner| (miner.took(now), miner.begun)) else { return };
            // Whoever does not wait any more needs no place.
            if next.waiting.pop_front().is_some_and(|waiting| waiting.send(now).is_ok()) {
                next.begun += 1;
                next.held.push(now);
                self.free -= 1;
            }
        }
    }
}

impl Places {
    /// Places for sessions with so many miners.
    pub(crate) fn new(all: usize, per_miner: usize, miners: usize) -> Arc<Self> {
        let miners = std::iter::repeat_with(Miner::default).take(miners).collect();
        Arc::new(Self { per_miner, state: Mutex::new(State { free: all, miners }) })
    }

    /// Asks for a place for a session with a miner, by its number, and then waits for it.
    pub(crate) fn ask(self: &Arc<Self>, miner: usize) -> impl Future<Output = Place> + use<> {
        let (give, given) = oneshot::channel();
        let mut state = self.state();
        state.miners[miner].waiting.push_back(give);
        state.hand_out(self.per_miner);
        drop(state);
        let places = Arc::clone(self);
        async move {
            let began = given.await.expect("who asks stays in the queue until there is a place");
            Place { places, miner, began, took: Duration::ZERO }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place. Dropping it gives it to the next session.
pub(crate) struct Place {
    places: Arc<Places>,
    miner: usize,
    began: Instant,
    /// What the session took the miner, once that is known.
    pub(crate) took: Duration,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.places.state();
        let miner = &mut state.miners[self.miner];
        if let Some(held) = miner.held.iter().position(|began| *began == self.began) {
            miner.held.swap_remove(held);
        }
        miner.took = miner.took.saturating_add(self.took);
        state.free += 1;
        state.hand_out(self.places.per_miner);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;
    use tokio::time::sleep;

    use super::*;

    /// Holds so many sessions with each miner, of so many seconds; says when which miner's began, in seconds.
    async fn held(all: usize, per_miner: usize, sessions: usize, seconds: &[u64]) -> Vec<(u64, usize)> {
        let (places, begin) = (Places::new(all, per_miner, seconds.len()), Instant::now());
        let began = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for _ in 0..sessions {
            for (miner, seconds) in seconds.iter().enumerate() {
                let (asked, began, took) = (places.ask(miner), Arc::clone(&began), Duration::from_secs(*seconds));
                tasks.spawn(async move {
                    let mut place = asked.await;
                    began.lock().unwrap().push((begin.elapsed().as_secs(), miner));
                    sleep(took).await;
                    place.took = took;
                });
            }
        }
        tasks.join_all().await;
        let state = places.state();
        assert!(state.free == all && state.miners.iter().all(|miner| miner.held.is_empty()));
        drop(state);
        Arc::into_inner(began).unwrap().into_inner().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn slow_miners_however_many_keep_the_others_waiting_for_one_session_each() {
        let began = held(2, 1, 3, &[100, 100, 100, 100, 1, 1, 1]).await;
        let of = |slow: bool| began.iter().filter(move |(_, miner)| (*miner < 4) == slow).map(|(second, _)| *second);
        assert_eq!(of(true).take(4).max(), Some(100), "{began:?}");
        assert!(of(false).all(|second| (200..210).contains(&second)), "{began:?}");
        assert!(of(true).skip(4).all(|second| second >= 204), "{began:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_sessions_are_held_side_by_side_than_there_are_places_in_all_and_for_a_miner() {
        let side_by_side = |began: &[(u64, usize)], second| began.iter().filter(|(at, _)| *at == second).count();
        let began = held(8, 2, 4, &[10, 10]).await;
        assert_eq!([0, 10].map(|second| side_by_side(&began, second)), [4, 4], "{began:?}");
        let began = held(3, 2, 3, &[10, 10]).await;
        assert_eq!([0, 10].map(|second| side_by_side(&began, second)), [3, 3], "{began:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_nobody_waits_for_takes_no_place() {
        let places = Places::new(1, 1, 2);
        let first = places.ask(0).await;
        drop(places.ask(0));
        drop(first);
        drop(tokio::time::timeout(Duration::from_secs(1), places.ask(1)).await.unwrap());
    }
}
