//! Inputs that are the same in every run: nothing measured depends on them.

use std::collections::BTreeSet;

/// A generator of 64-bit integers (Steele, Lea, Flood, "Fast splittable pseudorandom number
/// generators", 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SplitMix(pub(crate) u64);

impl SplitMix {
    /// The next integer.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// An integer of 32 bits.
    pub(crate) fn next_u32(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }
}

/// Distinct hashes.
pub(crate) fn hashes(count: usize) -> Vec<[u8; 32]> {
    let mut draws = SplitMix(1);
    let mut hash = || {
        let mut hash = [0; 32];
        hash.as_chunks_mut().0.iter_mut().for_each(|word: &mut [u8; 8]| *word = draws.next().to_le_bytes());
        hash
    };
    (0..count).map(|_| hash()).collect()
}

/// Distinct indices below `bound`, ascending, no more than there are.
pub(crate) fn indices(bound: usize, count: usize) -> Vec<usize> {
    let mut draws = SplitMix(2);
    let mut drawn = BTreeSet::new();
    while drawn.len() < count.min(bound) {
        let draw = usize::try_from(draws.next_u32()).unwrap_or(0);
        drawn.insert(draw % bound);
    }
    drawn.into_iter().collect()
}
