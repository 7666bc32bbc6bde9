//! A bound on streams, in all and by address, before anyone has said who they are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// Counts open streams.
#[derive(Debug)]
pub(crate) struct Limiter {
    total: usize,
    per_address: usize,
    open: Mutex<HashMap<Option<IpAddr>, usize>>,
}

/// An open stream; dropping it makes room.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    limiter: Arc<Limiter>,
    address: Option<IpAddr>,
}

impl Limiter {
    pub(crate) fn new(total: usize, per_address: usize) -> Arc<Self> {
        Arc::new(Self { total, per_address, open: Mutex::default() })
    }

    /// Opens a stream for an address; `None` when there are too many. Streams whose address is not
    /// known count as one peer's.
    pub(crate) fn open(self: &Arc<Self>, address: Option<IpAddr>) -> Option<StreamPermit> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = open.get(&address).copied().unwrap_or(0);
        if mine >= self.per_address || open.values().sum::<usize>() >= self.total {
            return None;
        }
        open.insert(address, mine + 1);
        Some(StreamPermit { limiter: Arc::clone(self), address })
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let mut open = self.limiter.open.lock().unwrap_or_else(PoisonError::into_inner);
        match open.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_streams() {
        let limiter = Limiter::new(3, 2);
        let greedy = Some(IpAddr::from([10, 0, 0, 1]));
        let other = Some(IpAddr::from([10, 0, 0, 2]));
        let held: Vec<_> = (0..3).filter_map(|_| limiter.open(greedy)).collect();
        assert_eq!(held.len(), 2);
        let third = limiter.open(other).unwrap();
        assert!(limiter.open(other).is_none(), "the total is reached");
        drop(third);
        assert!(limiter.open(other).is_some());
    }

    #[test]
    fn a_closed_stream_leaves_nothing_behind() {
        let limiter = Limiter::new(8, 8);
        drop([limiter.open(None), limiter.open(None)]);
        assert!(limiter.open.lock().unwrap().is_empty());
    }
}
