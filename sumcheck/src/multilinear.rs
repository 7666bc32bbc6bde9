//! Multilinear polynomials in evaluation form.
//!
//! A polynomial in `n` variables is the list of its `2^n` values on `{0, 1}^n`. **Variable 0 is the
//! lowest index bit** everywhere: value `i` belongs to the point whose coordinate `j` is bit `j` of
//! `i`. A list that stops early stands for one that goes on with zeros, so no length given by
//! anyone is an error here.

use ark_ff::{AdditiveGroup, Field};

use crate::field::{E, F, dot_ef};

/// The values `eq(point, x)` for all `x` in `{0, 1}^n`, `n = point.len()`: the weights that turn a
/// list of `2^n` values into its evaluation at `point`. One product a value.
pub fn eq_table(point: &[E]) -> Vec<E> {
    let mut table = vec![E::ONE];
    for &coordinate in point {
        let high: Vec<E> = table.iter().map(|&weight| weight * coordinate).collect();
        for (weight, high) in table.iter_mut().zip(&high) {
            *weight -= high;
        }
        table.extend(high);
    }
    table
}

/// `eq(point, x)` for one `x`, given by the bits of `index`.
pub fn eq_at(point: &[E], index: usize) -> E {
    let mut weight = E::ONE;
    let mut bits = index;
    for &coordinate in point {
        weight *= if bits & 1 == 1 { coordinate } else { E::ONE - coordinate };
        bits >>= 1;
    }
    weight
}

/// The evaluation at `point`; values from the `2^n`-th on are ignored.
pub fn evaluate_f(values: &[F], point: &[E]) -> E {
    dot_ef(&eq_table(point), values)
}

/// The evaluation at `point`; values from the `2^n`-th on are ignored. `2^n` products in all.
pub fn evaluate(values: &[E], point: &[E]) -> E {
    let mut values = values.to_vec();
    for &coordinate in point {
        fold(&mut values, coordinate);
    }
    values.first().copied().unwrap_or(E::ZERO)
}

/// Fixes variable 0 to `coordinate`: half as many values are left, rounded up.
pub fn fold(values: &mut Vec<E>, coordinate: E) {
    *values = values.chunks(2).map(|pair| line_at(pair, coordinate)).collect();
}

/// `(1 - x) pair[0] + x pair[1]`, absent values being zero.
pub(crate) fn line_at(pair: &[E], x: E) -> E {
    let [low, high] = ends(pair);
    low + x * (high - low)
}

/// A pair of neighbours, absent values being zero.
pub(crate) const fn ends(pair: &[E]) -> [E; 2] {
    match *pair {
        [low, high, ..] => [low, high],
        [low] => [low, E::ZERO],
        [] => [E::ZERO; 2],
    }
}
