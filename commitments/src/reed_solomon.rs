//! The Reed-Solomon code of the weight commitment.
//!
//! A message of `C` symbols is the polynomial with these coefficients, lowest first; its codeword is
//! the list of its values at the powers of a primitive `n`-th root of unity `w`, `n = C 2^rate_log`.
//! Position `c + 2^rate_log i` is the point `w^c v^i` with `v = w^(2^rate_log)` of order `C`, so the
//! codeword is made coset by coset, each a number-theoretic transform no longer than the message.
//!
//! The rows of a coefficient matrix are transformed side by side: entry `row + rows * column` of the
//! coefficients belongs to message `row`, so a butterfly is a loop over neighbours in memory, and the
//! columns of the codeword, which are hashed, come out in one piece. With the transform of `ark-poly`,
//! row by row, and a transposition, 64 rows of 4096 symbols took twice as long; `ark-poly` gives the
//! domains, and the oracle in the tests.

use ark_ff::{AdditiveGroup, Field};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use assay_sumcheck::field::{E, F, P, dot_ef, e_mul_f, f_from_u64};
use rayon::prelude::*;

use crate::params::CodeParams;

/// Symbols of a task: small enough for a core's own cache, large enough for a thread's while.
const TASK: usize = 1 << 14;

/// A code over the powers of a root of unity.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    /// `w`.
    generator: F,
    /// `1, v, v^2, ...`, half a turn.
    twiddles: Vec<F>,
    rows: usize,
    columns: usize,
}

impl Code {
    /// The code of well-formed parameters.
    pub(crate) fn new(params: &CodeParams) -> Self {
        // A well-formed codeword is no longer than the field's largest subgroup of such an order.
        let generator = |length| {
            let domain = Radix2EvaluationDomain::<F>::new(length);
            domain.expect("the field has roots of unity of the codeword's order").group_gen()
        };
        let columns = params.columns();
        Self {
            generator: generator(params.codeword_length()),
            twiddles: powers(generator(columns), columns >> 1),
            rows: params.rows(),
            columns,
        }
    }

    /// The point of a position.
    pub(crate) fn point(&self, position: u64) -> F {
        self.generator.pow([position])
    }

    /// The symbols of all rows' codewords on the coset `c`, from the matrix of their coefficients:
    /// columns one after the other, the column of position `c + 2^rate_log i` at place
    /// [`Self::place`]`(i)`.
    pub(crate) fn encode_coset(&self, coefficients: &[i32], coset: usize) -> Vec<F> {
        // An image taken for a raw value is the image divided by 2^64, so the powers carry 2^64.
        let shift = self.point(coset as u64);
        let two_to_64 = f_from_u64(1 << 32).square();
        let shifts: Vec<F> = powers(shift, self.columns).into_iter().map(|power| power * two_to_64).collect();
        let mut symbols = vec![F::ZERO; coefficients.len()];
        let columns = symbols.par_chunks_exact_mut(self.rows).zip(coefficients.par_chunks_exact(self.rows));
        columns.zip(&shifts).with_min_len(TASK.div_ceil(self.rows)).for_each(|((symbols, images), &power)| {
            for (symbol, &image) in symbols.iter_mut().zip(images) {
                *symbol = raw(image) * power;
            }
        });
        transform(&mut symbols, self.rows, &self.twiddles, 1);
        symbols
    }

    /// Where the transform leaves the symbols of the `i`-th point of a coset: its bits are reversed.
    pub(crate) fn place(&self, i: usize) -> usize {
        match self.columns.ilog2() {
            0 => 0,
            log => i.reverse_bits() >> (usize::BITS - log),
        }
    }
}

/// The element whose raw form is the image: the image divided by `2^64`.
#[inline]
fn raw(image: i32) -> F {
    let image = i64::from(image);
    F::from_raw(if image < 0 { P.wrapping_add_signed(image) } else { image.cast_unsigned() })
}

/// Transforms interleaved messages in place, by decimation in frequency: results stand at reversed
/// places. `twiddles`, at every `stride`-th place, are the powers of the root of this size.
fn transform(symbols: &mut [F], rows: usize, twiddles: &[F], stride: usize) {
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

/// The symbol at one point of the codeword of a message over the extension.
pub(crate) fn symbol(message: &[E], point: F) -> E {
    let baby = powers(point, BLOCK);
    let giant = point.pow([BLOCK as u64]);
    message.chunks(BLOCK).rev().fold(E::ZERO, |value, block| e_mul_f(value, giant) + dot_ef(block, &baby))
}

#[cfg(test)]
mod tests {
    use assay_sumcheck::field::f_from_i64;

    use super::*;

    /// Coefficients of both signs that fill their 24 bits.
    fn coefficients(count: usize) -> Vec<i32> {
        let image = |i: u64| i64::try_from(i.wrapping_mul(0x9e37_79b9) % (1 << 25)).unwrap() - (1 << 24) + 1;
        (0..count as u64).map(|i| i32::try_from(image(i)).unwrap()).collect()
    }

    fn horner(message: &[F], point: F) -> F {
        message.iter().rev().fold(F::ZERO, |value, &coefficient| value * point + coefficient)
    }

    #[test]
    fn codewords_are_the_values_of_the_messages() {
        for (row_log, column_log, rate_log) in [(0, 0, 1), (0, 5, 3), (1, 1, 1), (3, 4, 2), (4, 0, 4), (2, 7, 1)] {
            let params = CodeParams { log_size: row_log + column_log, row_log, rate_log, queries: 1 };
            let (code, coefficients) = (Code::new(&params), coefficients(1 << params.log_size));
            for coset in 0..1 << rate_log {
                let symbols = code.encode_coset(&coefficients, coset);
                for row in 0..params.rows() {
                    let message = coefficients.iter().skip(row).step_by(params.rows());
                    let message: Vec<F> = message.map(|&image| f_from_i64(i64::from(image))).collect();
                    for i in 0..params.columns() {
                        let point = code.point((coset + (i << rate_log)) as u64);
                        let symbol = symbols[row + params.rows() * code.place(i)];
                        assert_eq!(symbol, horner(&message, point), "{params:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn large_transforms_agree_with_the_library() {
        let params = CodeParams { log_size: 17, row_log: 1, rate_log: 1, queries: 1 };
        let (code, coefficients) = (Code::new(&params), coefficients(1 << 17));
        let symbols = code.encode_coset(&coefficients, 0);
        let mut message: Vec<F> = coefficients.iter().step_by(2).map(|&image| f_from_i64(i64::from(image))).collect();
        Radix2EvaluationDomain::<F>::new(1 << 16).unwrap().fft_in_place(&mut message);
        assert!((0..1 << 16).all(|i| symbols[2 * code.place(i)] == message[i]));
    }

    #[test]
    fn points_are_powers_of_a_primitive_root() {
        let code = Code::new(&CodeParams { log_size: 5, row_log: 0, rate_log: 2, queries: 1 });
        assert_eq!(code.point(64), -F::ONE);
        assert_eq!(code.point(128), F::ONE);
    }

    #[test]
    fn symbols_of_extension_messages_agree_with_horner() {
        for length in [1, 63, 64, 65, 200] {
            let coordinate = |k: i64| (0..length).map(|i| f_from_i64(i * i * k - 7)).collect::<Vec<F>>();
            let [a, b, c] = [3, -5, 11].map(coordinate);
            let message: Vec<E> = (0..a.len()).map(|i| E::new(a[i], b[i], c[i])).collect();
            let point = f_from_i64(-123_456_789);
            let expected = E::new(horner(&a, point), horner(&b, point), horner(&c, point));
            assert_eq!(symbol(&message, point), expected);
        }
    }
}
