//! stand-in
use ark_ff::Field;
use assay_sumcheck::field::F;
use rayon::prelude::*;
const TASK: usize = 1 << 14;
/// Transforms interleaved messages in place, by decimation in frequency: results stand at reversed
/// places. `twiddles`, at every `stride`-th place, are the powers of the root of this size.
pub(crate) fn transform(symbols: &mut [F], rows: usize, twiddles: &[F], stride: usize) {
    let half = symbols.len() >> 1;
    if half < rows {
        return;
    }
    let (low, high) = symbols.split_at_mut(half);
    let butterflies = |(i, (low, high)): (usize, (&mut [F], &mut [F]))| {
        let twiddle = twiddles[i * stride];
        for (low, high) in low.iter_mut().zip(high) {
            let difference = *low - *high;
            *low += *high;
            *high = difference * twiddle;
        }
    };
    if half < TASK {
        low.chunks_exact_mut(rows).zip(high.chunks_exact_mut(rows)).enumerate().for_each(butterflies);
        transform(low, rows, twiddles, 2 * stride);
        transform(high, rows, twiddles, 2 * stride);
    } else {
        let pairs = low.par_chunks_exact_mut(rows).zip(high.par_chunks_exact_mut(rows));
        pairs.enumerate().with_min_len(TASK.div_ceil(rows)).for_each(butterflies);
        rayon::join(|| transform(low, rows, twiddles, 2 * stride), || transform(high, rows, twiddles, 2 * stride));
    }
}

/// `1, base, base^2, ...`
pub(crate) fn powers(base: F, count: usize) -> Vec<F> {
    std::iter::successors(Some(F::ONE), |&power| Some(power * base)).take(count).collect()
}

/// How many coefficients are summed unreduced before a step of Horner's rule.
pub(crate) const BLOCK: usize = 64;

