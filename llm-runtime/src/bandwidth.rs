//! How fast this machine reads memory: what bounds a decode, which reads every weight once a token.

use std::hint::black_box;
use std::time::Instant;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use crate::kernels::joined;

/// Larger than most last caches.
const BUFFER: usize = 1 << 30;
/// What is timed at once, and what a thread reads at a time.
const PIECE: usize = 1 << 25;
const PART: usize = 1 << 20;
const PASSES: usize = 5;

/// Bytes a second that all threads together read from memory: passes over 1 GiB, of which each piece's
/// best time counts.
#[expect(clippy::cast_precision_loss, reason = "a size below 2^53")]
pub fn read_bandwidth() -> f64 {
    let part = vec![1_u64; PART / size_of::<u64>()];
    let buffer = joined(&vec![part.as_slice(); BUFFER / PART]);
    let mut best = [f64::INFINITY; BUFFER / PIECE];
    for _ in 0..PASSES {
        for (piece, best) in buffer.chunks(PIECE / size_of::<u64>()).zip(&mut best) {
            let begin = Instant::now();
            let parts = piece.par_chunks(PART / size_of::<u64>());
            black_box(parts.map(|part| Arch::new().dispatch(Sum(part))).reduce(|| 0, u64::wrapping_add));
            *best = best.min(begin.elapsed().as_secs_f64());
        }
    }
    BUFFER as f64 / best.iter().sum::<f64>()
}

/// The sum of all words, compiled for the widest vectors. Several streams are read side by side: one
/// alone does not keep the memory busy.
struct Sum<'a>(&'a [u64]);

impl WithSimd for Sum<'_> {
    type Output = u64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> u64 {
        const STREAMS: usize = 8;
        let (lines, rest) = self.0.as_chunks::<8>();
        let length = lines.len() / STREAMS;
        let mut sums = [[0_u64; 8]; STREAMS];
        for index in 0..length {
            for (stream, sums) in sums.iter_mut().enumerate() {
                let line = &lines[stream * length + index];
                sums.iter_mut().zip(line).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
            }
        }
        let left = lines[STREAMS * length..].as_flattened();
        sums.as_flattened().iter().chain(left).chain(rest).fold(0, |sum, word| sum.wrapping_add(*word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_counts_every_word() {
        let words: Vec<u64> = (0..1000).collect();
        assert_eq!(Arch::new().dispatch(Sum(&words)), 499_500);
    }
}
