//! Threads that wait for their share of a pass without going to sleep.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rayon::Yield;

/// Passes of all models that run now.
static PASSES: AtomicUsize = AtomicUsize::new(0);

/// Runs a pass on a thread of the pool, to which its operations then hand parts without a detour, while the other
/// threads stay awake: a pass has a hundred products with little between them, and waking a thread for each takes
/// longer than that little. A thread without a part calls `idle`, which does a little of other work and says whether there
/// was any; whoever else needs the processor meanwhile gets it.
pub(crate) fn while_awake<T: Send>(idle: impl Fn() -> bool + Sync, pass: impl FnOnce() -> T + Send) -> T {
    let (over, idle) = (AtomicBool::new(false), &idle);
    rayon::scope(|scope| {
        let _running = Running::start(&over);
        for _ in 1..rayon::current_num_threads() {
            scope.spawn(|_| {
                // Below this on the thread's stack another pass may wait, which this one must not wait for in turn: with
                // several, nobody stays awake.
                while !over.load(Ordering::SeqCst) && PASSES.load(Ordering::SeqCst) == 1 {
                    if rayon::yield_now() == Some(Yield::Idle) && !idle() {
                        std::thread::yield_now();
                    }
                }
            });
        }
        pass()
    })
}

/// A pass that runs, whichever way it ends.
struct Running<'a> {
    over: &'a AtomicBool,
}

impl<'a> Running<'a> {
    fn start(over: &'a AtomicBool) -> Self {
        PASSES.fetch_add(1, Ordering::SeqCst);
        Self { over }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        PASSES.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use rayon::prelude::*;

    use super::*;

    #[test]
    fn a_pass_ends_and_so_does_one_that_panics() {
        assert_eq!(while_awake(|| false, || rayon::join(|| 1, || 2)), (1, 2));
        assert!(std::panic::catch_unwind(|| while_awake(|| false, || panic!("a kernel"))).is_err());
        assert_eq!(while_awake(|| false, || 3), 3);
    }

    #[test]
    fn passes_of_several_threads_do_not_wait_for_each_other_in_a_circle() {
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let sum = while_awake(|| false, || (0..64_u32).into_par_iter().with_max_len(1).sum::<u32>());
                        assert_eq!(sum, 2016);
                    }
                });
            }
        });
    }
}
