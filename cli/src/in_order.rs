//! The same work on many things, several at a time, told of in their order.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use rayon::ThreadPoolBuilder;

use crate::outcome::Fault;

/// Does `work` on every item and hands the results to `take` in the order of the items.
///
/// Each of the workers holds one item at a time, so what an item needs is there no more often than there
/// are cores; a few items on many cores share them. When `take` breaks, no further item is begun.
///
/// # Errors
/// The first that `take` gives.
pub(crate) fn in_order<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&T) -> R + Sync,
    mut take: impl FnMut(&T, R) -> Result<ControlFlow<()>, Fault>,
) -> Result<(), Fault> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let workers = cores.min(items.len()).max(1);
    let (next, stopped) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (send, receive) = sync_channel(workers);
    let (next, stopped, work) = (&next, &stopped, &work);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let send = send.clone();
            scope.spawn(move || {
                // A pool of its own: in a shared one, a worker that waits would begin other items.
                let pool = ThreadPoolBuilder::new().num_threads(cores / workers).build();
                while !stopped.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(number) else { return };
                    let result = match &pool {
                        Ok(pool) => pool.install(|| work(item)),
                        Err(_) => work(item),
                    };
                    if send.send((number, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        let mut early = BTreeMap::new();
        let mut told = 0;
        let mut ended = Ok(());
        for (number, result) in receive {
            early.insert(number, result);
            while let Some(result) = early.remove(&told).filter(|_| !stopped.load(Ordering::Relaxed)) {
                match take(&items[told], result) {
                    Ok(ControlFlow::Continue(())) => told += 1,
                    Ok(ControlFlow::Break(())) => stopped.store(true, Ordering::Relaxed),
                    Err(fault) => {
                        ended = Err(fault);
                        stopped.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        ended
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_and_stop_when_told() {
        let items: Vec<u64> = (0..200).collect();
        let slow = |item: &u64| {
            std::thread::sleep(std::time::Duration::from_micros((item * 7_919) % 500));
            item * 2
        };
        let mut told = vec![];
        let all = in_order(&items, slow, |item, twice| {
            assert_eq!(twice, item * 2);
            told.push(*item);
            Ok(ControlFlow::Continue(()))
        });
        assert_eq!((all, &told), (Ok(()), &items));
        let mut count = 0;
        let stopped = in_order(&items, slow, |_, _| {
            count += 1;
            Ok(if count == 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert_eq!((stopped, count), (Ok(()), 5));
    }
}
