//! The sketch: integer rows that are compared through random signs.
//!
//! For weights `rho_j`, sign vectors `s_i` and products `P_j = (x_int W_int)_j` the miner sends
//! `c_i = sum_j s_ij rho_j P_j` as field elements and proves them exactly. The verifier holds a row
//! `Y_j` that should be near `P_j`, computes `D_i = c_i - sum_j s_ij rho_j Y_j` in the field, lifts
//! `D_i` to the symmetric range and compares `mean_i D_i^2` with `theta sum_j (rho_j tau_j)^2`.
//! The mean estimates `sum_j (rho_j (P_j - Y_j))^2` (Johnson-Lindenstrauss with signs). No single
//! `rho_j (P_j - Y_j)` can wrap: weights are at most 2^10 and both rows below 2^51.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::borrow::Cow;
use std::sync::Arc;

use ark_ff::{AdditiveGroup, Field};
use assay_commitments::lanes::{LANES, Lanes, Task, run};
use assay_commitments::rows::vectorized;
use assay_commitments::weights::Output;
use assay_sumcheck::field::{P, centered, e_from_f, e_mul_f, f_from_halves, f_from_i64, f_from_u64, f_to_halves};
use assay_sumcheck::{E, F};

use crate::domains;
use crate::fixed::{Supplied, largest_magnitude};
use crate::num::{floor_u128, long, nearest_integers, power_of_two, real, real_count};
use crate::reference::dot;
use crate::tolerance::{MAX_OUTLIERS, OUTLIER_MEDIANS, Tolerance, median_magnitude, theta_supplied};

/// Sign vectors when the challenge was unknown: 2^40 tries at an error of 4 theta pass with 2^-21.
pub(crate) const SIGNS_WITH_NONCE: usize = 128;
/// Sign vectors of a complete proof, whose author may try without end: 4 theta passes with 2^-120.
pub(crate) const SIGNS_COMPLETE: usize = 256;
/// Sign vectors whose sums stay in registers: eight a byte.
const BLOCK: usize = 8 * LANES;
/// Most weight of an output: weights bring outputs of different tolerance to one scale.
const WEIGHT_SCALE: f64 = 1024.0;
/// Beyond this the right side of the comparison is refused.
const SQUARE_BOUND: u128 = 1 << 120;

/// The right side of the comparison: the most that the squares of so many signs may add up to.
fn most_squares(signs: usize, theta: f64, tolerance: f64) -> f64 {
    real_count(signs) * theta * tolerance
}

/// The right side as an integer; `None` if it is refused.
fn square_bound(allowed: f64) -> Option<u128> {
    floor_u128(allowed).filter(|bound| *bound < SQUARE_BOUND)
}

/// Whether the right side is not refused, with as many signs as there ever are.
fn is_comparable(theta: f64, tolerance: f64) -> bool {
    square_bound(most_squares(SIGNS_COMPLETE, theta, tolerance)).is_some()
}

/// Sign vectors for the outputs of one product: a bit an output and vector, set for minus.
#[derive(Clone, Debug)]
pub(crate) struct Signs {
    count: usize,
    bytes: Vec<u8>,
}

impl Signs {
    /// Draws `count` sign vectors (a multiple of 8) over `outputs` outputs: a BLAKE3 stream keyed by
    /// a transcript challenge and the number of the product in the audit.
    pub(crate) fn draw(seed: &[u8; 32], product: usize, count: usize, outputs: usize) -> Self {
        let mut hash = blake3::Hasher::new_derive_key(domains::SIGNS);
        hash.update(seed);
        hash.update(&long(product).to_le_bytes());
        let mut bytes = vec![0; outputs.saturating_mul(count / 8)];
        hash.finalize_xof().fill(&mut bytes);
        Self { count, bytes }
    }

    /// The signs of each output, eight vectors a byte.
    fn outputs(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes.chunks_exact((self.count / 8).max(1))
    }

    /// `sum_j s_ij v_j` for every vector `i`, exactly: the sum of all less twice that of those with a minus. Values
    /// lie below 2^62 in magnitude.
    pub(crate) fn combine(&self, values: &[i64]) -> Vec<i128> {
        let largest = largest_magnitude(values);
        let is_short = largest.checked_mul(long(values.len())).is_some_and(|most| most < 1 << 63);
        let all = if is_short {
            values.iter().fold(0_i64, |sum, value| sum.wrapping_add(*value)).into()
        } else {
            values.iter().fold(0_i128, |sum, value| sum.wrapping_add(i128::from(*value)))
        };
        let block = |block: usize| {
            if is_short {
                run(Minus::<1> { signs: self, block, values })
            } else {
                run(Minus::<2> { signs: self, block, values })
            }
        };
        let blocks = (0..self.count.div_ceil(BLOCK)).flat_map(block);
        blocks.take(self.count).map(|minus| all.wrapping_sub(minus.wrapping_mul(2))).collect()
    }

    /// `rho_j sum_i powers_i s_ij` for every output: the sum over four signs comes from a table, and all tables of an
    /// audit with a nonce fit the fastest cache. Without weights `rho` all are 1.
    pub(crate) fn output_weights(&self, powers: &[E], rho: Option<&[i64]>) -> Vec<E> {
        let powers = powers.get(..self.count).unwrap_or(powers);
        let tables: Vec<Table> = powers.as_chunks::<4>().0.iter().map(table).collect();
        let mut weights = run(TableSums { signs: self, tables: tables.as_chunks::<2>().0 });
        for (weight, rho) in weights.iter_mut().zip(rho.unwrap_or_default()) {
            if *rho != 1 {
                *weight = e_mul_f(*weight, f_from_i64(*rho));
            }
        }
        weights
    }
}

/// `sum_j v_j` of those outputs that have a minus, for each of a block of vectors. Values are summed in so many parts:
/// whole where the magnitudes of all of them are below 2^63 together, or in halves, which fewer than 2^31 values do not
/// exhaust.
struct Minus<'a, const PARTS: usize> {
    signs: &'a Signs,
    block: usize,
    values: &'a [i64],
}

impl<const PARTS: usize> Task for Minus<'_, PARTS> {
    type Output = [i128; BLOCK];

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> [i128; BLOCK] {
        let mut totals = [[lanes.splat(0); BLOCK / LANES]; PARTS];
        let start = self.block.saturating_mul(BLOCK / 8);
        for (signs, value) in self.signs.outputs().zip(self.values) {
            let signs = signs.get(start..).unwrap_or(&[]);
            // Of the last block there may be fewer.
            let signs = signs.first_chunk::<{ BLOCK / LANES }>().copied().unwrap_or_else(|| {
                let mut padded = [0; BLOCK / LANES];
                padded.iter_mut().zip(signs).for_each(|(padded, signs)| *padded = *signs);
                padded
            });
            for (totals, part) in totals.iter_mut().zip(parts::<PARTS>(*value)) {
                let part = lanes.splat(part.cast_unsigned());
                for (total, signs) in totals.iter_mut().zip(signs) {
                    *total = lanes.add_where(*total, signs, part);
                }
            }
        }
        let mut sums = [0_i128; BLOCK];
        for (totals, shift) in totals.into_iter().zip([0, 32]) {
            for (sums, total) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(totals) {
                let mut parts = [0; LANES];
                lanes.store(&mut parts, total);
                for (sum, part) in sums.iter_mut().zip(parts) {
                    *sum = sum.wrapping_add(i128::from(part.cast_signed()) << shift);
                }
            }
        }
        sums
    }
}

/// A value as it is, or its low half and its high one, which has the sign.
#[inline(always)]
fn parts<const PARTS: usize>(value: i64) -> [i64; PARTS] {
    std::array::from_fn(|part| match part {
        0 if PARTS == 1 => value,
        0 => value & 0xffff_ffff,
        _ => value >> 32,
    })
}

/// The sum of the entries that an output's signs point to, two tables a byte.
struct TableSums<'a> {
    signs: &'a Signs,
    tables: &'a [[Table; 2]],
}

impl Task for TableSums<'_> {
    type Output = Vec<E>;

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) -> Vec<E> {
        let vectors = |table: &Table| -> [L::V; 16] {
            let mut vectors = [lanes.splat(0); 16];
            vectors.iter_mut().zip(table).for_each(|(vector, entry)| *vector = lanes.load(entry));
            vectors
        };
        let tables: Vec<[[L::V; 16]; 2]> =
            self.tables.iter().map(|[low, high]| [vectors(low), vectors(high)]).collect();
        let mut weights = Vec::with_capacity(self.signs.outputs().len());
        for signs in self.signs.outputs() {
            // Two sums, so that an addition need not wait for the one before it.
            let mut totals = [lanes.splat(0); 2];
            for (byte, [low, high]) in signs.iter().zip(&tables) {
                if let (Some(low), Some(high)) = (low.get(usize::from(byte & 15)), high.get(usize::from(byte >> 4))) {
                    totals = [lanes.add(totals[0], *low), lanes.add(totals[1], *high)];
                }
            }
            let mut sums = [0; LANES];
            lanes.store(&mut sums, lanes.add(totals[0], totals[1]));
            let [a, b, c, d, e, f, g, h] = sums;
            let [c0, c1, c2, _] = [[a, e], [b, f], [c, g], [d, h]].map(f_from_halves);
            weights.push(E::new(c0, c1, c2));
        }
        weights
    }
}

/// An element as the low halves of its coordinates and then the high ones, which add up without a carry from one to the
/// next; each filled up to half of a vector register.
type Entry = [u64; LANES];

/// A sum for every choice of four signs.
type Table = [Entry; 16];

/// `sum_b (+-) powers_b` for every choice of signs: with one more sign set, less twice its power.
fn table(powers: &[E; 4]) -> Table {
    let mut table = [powers.iter().sum::<E>(); 16];
    let mut known = 1;
    for power in powers {
        let step = power.double();
        let (without, with) = table.split_at_mut(known);
        for (with, without) in with.iter_mut().zip(without) {
            *with = *without - step;
        }
        known = known.saturating_mul(2);
    }
    table.map(|sum| {
        let [[a, b], [c, d], [e, f]] = [sum.c0, sum.c1, sum.c2].map(f_to_halves);
        [a, c, e, 0, b, d, f, 0]
    })
}

/// The first `count` powers of a challenge.
pub(crate) fn powers(beta: E, count: usize) -> Vec<E> {
    std::iter::successors(Some(E::ONE), |power| Some(*power * beta)).take(count).collect()
}

/// An exact integer as a field element.
pub(crate) fn to_field(value: i128) -> F {
    let residue = value.rem_euclid(i128::from(P));
    f_from_u64(u64::try_from(residue).unwrap_or(0))
}

/// What a product is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The row on the product's grid.
    pub(crate) row: Vec<i64>,
    /// Weights; 0 for an output that is proven singly. Absent where all are 1.
    rho: Option<Vec<i64>>,
    /// Outputs that are proven singly, ascending, with the most that each may be off.
    pub(crate) singles: Vec<(usize, f64)>,
    /// `sum_j (rho_j tau_j)^2`.
    tolerance: f64,
    /// Most mean square deviation in tolerances.
    theta: f64,
}

impl Target {
    /// The target of a committed row, to whose products a bias was added if there is one: tolerances from
    /// the profile, outliers taken out. `None` when the row has no place on the grid, has too many outliers,
    /// or its tolerance cannot be compared.
    pub(crate) fn committed(row: &[f64], bias: &[f32], exponent: i32, profile: &Tolerance) -> Option<Self> {
        let unit = power_of_two(exponent.saturating_neg());
        let bias = bias.iter().copied().chain(std::iter::repeat(0.0)).map(f64::from);
        let products: Vec<f64> = row.iter().zip(bias).map(|(y, bias)| (y - bias) * unit).collect();
        let integers = nearest_integers(&products.iter().copied())?;
        let median = median_magnitude(row);
        let tau: Vec<f64> = profile.of_row(row, median).iter().map(|tau| tau * unit).collect();
        let most = OUTLIER_MEDIANS * median;
        let is_outlier = |y: &f64| y.abs() > most;
        let (outliers, least) = vectorized(
            #[inline(always)]
            || {
                row.iter().zip(&tau).fold((0_usize, f64::INFINITY), |(outliers, least), (y, tau)| {
                    let is_outlier = is_outlier(y);
                    let own = if is_outlier { f64::INFINITY } else { *tau };
                    (outliers.saturating_add(is_outlier.into()), if own < least { own } else { least })
                })
            },
        );
        if outliers > MAX_OUTLIERS {
            return None;
        }
        let entries = row.iter().zip(&tau).enumerate();
        let singles: Vec<(usize, f64)> = if outliers == 0 {
            vec![]
        } else {
            entries.filter(|(_, (y, _))| is_outlier(y)).map(|(j, (_, tau))| (j, 2.0 * tau)).collect()
        };
        let weighed = |scale: f64| {
            let weights = row.iter().zip(&tau).map(|(y, tau)| {
                let weight = (scale * least / tau).floor();
                let weight = if weight < 1.0 { 1.0 } else { weight };
                if is_outlier(y) { 0.0 } else { weight }
            });
            let rho = nearest_integers(&weights)?;
            let weighted: Vec<f64> = rho.iter().zip(&tau).map(|(rho, tau)| real(*rho) * tau).collect();
            Some((rho, dot(&weighted, &weighted)))
        };
        // A bias far above its product has tolerances far above it too: coarser weights keep the sum of
        // squares where it can be compared.
        let theta = profile.theta_products;
        let mut scale = WEIGHT_SCALE;
        let (mut rho, mut tolerance) = weighed(scale)?;
        while scale > 1.0 && !is_comparable(theta, tolerance) {
            scale /= 2.0;
            (rho, tolerance) = weighed(scale)?;
        }
        Some(Self { row: integers, rho: Some(rho), singles, tolerance, theta })
    }

    /// The target of supplied products: each may be off by a rounding, which is uniform.
    pub(crate) fn supplied(supplied: &Supplied) -> Self {
        let row: Vec<i64> = supplied.on_product_grid().collect();
        let outputs = row.len();
        Self {
            rho: None,
            singles: vec![],
            tolerance: real_count(outputs) * supplied.rounding_variance(),
            theta: theta_supplied(outputs),
            row,
        }
    }

    /// The same with outputs to be proven singly, each within half a rounding.
    pub(crate) fn with_candidates(self, candidates: &[usize], supplied: &Supplied) -> Self {
        let singles = candidates.iter().map(|candidate| (*candidate, supplied.step() / 2.0)).collect();
        Self { singles, ..self }
    }

    fn weighted<'r>(&self, row: &'r [i64]) -> Cow<'r, [i64]> {
        match &self.rho {
            None => Cow::Borrowed(row),
            Some(rho) => row.iter().zip(rho).map(|(value, rho)| value.saturating_mul(*rho)).collect(),
        }
    }

    /// The honest claims on exact products.
    pub(crate) fn claims(&self, signs: &Signs, products: &[i64]) -> ClaimValues {
        let sketch = signs.combine(&self.weighted(products)).into_iter().map(to_field).collect();
        let single = |(output, _): &(usize, f64)| products.get(*output).map(|product| f_from_i64(*product));
        ClaimValues { sketch, singles: self.singles.iter().filter_map(single).collect() }
    }

    /// `D_i` for every sign vector.
    fn differences(&self, signs: &Signs, claims: &ClaimValues) -> Vec<i64> {
        let expected = signs.combine(&self.weighted(&self.row));
        claims.sketch.iter().zip(expected).map(|(claim, expected)| centered(*claim - to_field(expected))).collect()
    }

    /// `D_i` in units of the root mean square that is just allowed.
    pub(crate) fn residuals(&self, signs: &Signs, claims: &ClaimValues) -> Vec<f64> {
        let unit = (self.theta * self.tolerance).sqrt();
        self.differences(signs, claims).into_iter().map(|difference| real(difference) / unit).collect()
    }

    /// Judges claims, given that they are exact.
    pub(crate) fn check(&self, signs: &Signs, claims: &ClaimValues) -> Comparison {
        let square = |difference: i64| {
            let difference = u128::from(difference.unsigned_abs());
            difference.saturating_mul(difference)
        };
        let squares = self.differences(signs, claims).into_iter().map(square).fold(0_u128, u128::saturating_add);
        let allowed = most_squares(signs.count, self.theta, self.tolerance);
        let bound = square_bound(allowed);
        let single_holds = |(claim, (output, slack)): (&F, &(usize, f64))| {
            let off = centered(*claim).checked_sub(self.row.get(*output).copied()?)?;
            Some(real(off.checked_abs()?) <= *slack)
        };
        let singles_hold = claims.singles.iter().zip(&self.singles).all(|pair| single_holds(pair).unwrap_or(false));
        Comparison {
            ratio: square_as_real(squares) / allowed,
            within: bound.is_some_and(|bound| squares <= bound),
            singles_hold,
        }
    }

    /// The mean square deviation of exact products over the most allowed: what the sketch estimates.
    pub(crate) fn exact_ratio(&self, products: &[i64]) -> f64 {
        let off: Vec<i64> = products.iter().zip(&self.row).map(|(product, row)| product.saturating_sub(*row)).collect();
        let errors: Vec<f64> = match &self.rho {
            None => off.into_iter().map(real).collect(),
            Some(rho) => off.into_iter().zip(rho).map(|(off, rho)| real(off) * real(*rho)).collect(),
        };
        if is_comparable(self.theta, self.tolerance) {
            dot(&errors, &errors) / (self.theta * self.tolerance)
        } else {
            f64::INFINITY
        }
    }

    /// `R_j = sum_i beta^i s_ij rho_j`, and what comes on top at the outputs proven singly.
    pub(crate) fn output(&self, signs: &Signs, beta_powers: &[E]) -> Output {
        let shared = signs.output_weights(beta_powers, self.rho.as_deref());
        Output { shared: Arc::new(shared), singles: self.single_weights(signs, beta_powers).collect() }
    }

    /// The weight of every output.
    #[cfg(test)]
    pub(crate) fn weights(&self) -> impl Iterator<Item = i64> {
        let given = self.rho.as_deref().unwrap_or_default().iter().copied();
        given.chain(std::iter::repeat(1)).take(self.row.len())
    }

    /// At the outputs proven singly the powers behind those of the sketch.
    pub(crate) fn single_weights(&self, signs: &Signs, beta_powers: &[E]) -> impl Iterator<Item = (usize, E)> {
        self.singles.iter().zip(beta_powers.iter().skip(signs.count)).map(|((output, _), power)| (*output, *power))
    }
}

#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "a figure for reports")]
fn square_as_real(square: u128) -> f64 {
    square as f64
}

/// What a miner claims of one product.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClaimValues {
    /// `c_i` for every sign vector.
    pub(crate) sketch: Vec<F>,
    /// `(x_int W_int)_j` for every output that is proven singly.
    pub(crate) singles: Vec<F>,
}

impl ClaimValues {
    /// `sum_i beta^i c_i`, singles after the sketch.
    pub(crate) fn value(&self, beta_powers: &[E]) -> E {
        let all = self.sketch.iter().chain(&self.singles);
        all.zip(beta_powers).map(|(claim, power)| *power * e_from_f(*claim)).sum()
    }
}

/// How claims compare with a target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Comparison {
    /// Over the most allowed.
    pub(crate) ratio: f64,
    /// Whether the mean square is allowed.
    pub(crate) within: bool,
    /// Whether every output proven singly is.
    pub(crate) singles_hold: bool,
}

#[cfg(test)]
mod tests {
    use assay_commitments::rows::Profile;

    use super::*;

    const PROFILE: Tolerance = Tolerance::of(Profile::Bf16V1);

    fn products(count: i64) -> Vec<i64> {
        (0..count).map(|j| (j * 7_919 % 2_003 - 1_001) * 1_000_003_000 + 17).collect()
    }

    /// A row as an honest runtime commits it: products rounded to bf16, grid 2^-40.
    fn committed(products: &[i64]) -> Vec<f64> {
        products.iter().map(|p| Profile::Bf16V1.round_once(real(*p) * power_of_two(-40))).collect()
    }

    #[test]
    fn signed_sums_are_exact_at_every_size() {
        let mut values: Vec<i64> = products(333).iter().map(|p| p * 3).collect();
        values[..3].copy_from_slice(&[1 << 61, -(1 << 61), -1]);
        // Together just below 2^63 in magnitude, and just not.
        let (short, long) = ([(1 << 62) - 1; 2], [(1 << 62) - 1, -(1 << 62)]);
        let lists = [values.as_slice(), &short, &long, &[(1 << 62) - 1; 9], &[-(1 << 61); 5], &[]];
        let counts = [8, 40, 72, SIGNS_WITH_NONCE, SIGNS_COMPLETE];
        for (count, values) in counts.into_iter().flat_map(|count| lists.map(|values| (count, values))) {
            let signs = Signs::draw(&[8; 32], 3, count, values.len());
            let sums = signs.combine(values);
            assert_eq!(sums.len(), count);
            for (vector, sum) in sums.into_iter().enumerate() {
                let signed = signs.outputs().zip(values).map(|(signs, value)| {
                    if (signs[vector / 8] >> (vector % 8)) & 1 == 0 { i128::from(*value) } else { -i128::from(*value) }
                });
                assert_eq!(sum, signed.sum::<i128>(), "vector {vector}");
            }
        }
    }

    #[test]
    fn output_weights_are_signed_sums_of_powers_times_rho() {
        let rho: Vec<i64> = (0..77).map(|j| [0, 1, 1024, 37][j % 4]).collect();
        let powers = powers(E::new(f_from_u64(P - 2), f_from_u64(5), f_from_u64(1 << 63)), SIGNS_COMPLETE + 9);
        for count in [8, 40, SIGNS_WITH_NONCE, SIGNS_COMPLETE] {
            let signs = Signs::draw(&[8; 32], 3, count, rho.len());
            let weights = signs.output_weights(&powers, Some(&rho));
            assert_eq!(signs.output_weights(&powers, None), signs.output_weights(&powers, Some(&vec![1; rho.len()])));
            assert_eq!(weights.len(), rho.len());
            for ((weight, signs), rho) in weights.iter().zip(signs.outputs()).zip(&rho) {
                let signed = powers[..count]
                    .iter()
                    .enumerate()
                    .map(|(vector, power)| if (signs[vector / 8] >> (vector % 8)) & 1 == 0 { *power } else { -*power });
                assert_eq!(*weight, e_mul_f(signed.sum(), f_from_i64(*rho)));
            }
        }
    }

    #[test]
    fn honest_rows_pass_with_room() {
        let products = products(700);
        let target = Target::committed(&committed(&products), &[], -40, &PROFILE).unwrap();
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 700);
        let comparison = target.check(&signs, &target.claims(&signs, &products));
        assert!(comparison.within && comparison.singles_hold && comparison.ratio < 0.4, "{comparison:?}");
        let exact = target.exact_ratio(&products);
        assert!((comparison.ratio / exact - 1.0).abs() < 0.5, "{} {exact}", comparison.ratio);
    }

    #[test]
    fn a_bias_is_part_of_the_row_and_not_of_the_product() {
        let products = products(700);
        let bias: Vec<f32> = (0_u8..100).map(|j| f32::from(j) / 32.0 - 1.5).cycle().take(700).collect();
        let moved = products.iter().zip(&bias).map(|(p, b)| real(*p) * power_of_two(-40) + f64::from(*b));
        let row: Vec<f64> = moved.map(|y| Profile::Bf16V1.round_once(y)).collect();
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 700);
        let within = |bias: &[f32]| {
            let target = Target::committed(&row, bias, -40, &PROFILE).unwrap();
            target.check(&signs, &target.claims(&signs, &products)).within
        };
        assert!(within(&bias));
        assert!(!within(&[]));
    }

    #[test]
    fn a_row_of_other_weights_fails() {
        let products = products(700);
        let moved: Vec<i64> = products.iter().zip(0_i64..).map(|(p, j)| p + p / 60 * (j % 3 - 1)).collect();
        let target = Target::committed(&committed(&moved), &[], -40, &PROFILE).unwrap();
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 700);
        assert!(!target.check(&signs, &target.claims(&signs, &products)).within);
    }

    #[test]
    fn a_difference_as_large_as_the_field_cannot_wrap_to_nothing() {
        let products = products(700);
        let mut row = committed(&products);
        row[3] += power_of_two(10);
        let target = Target::committed(&row, &[], -40, &PROFILE);
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 700);
        assert!(target.is_none_or(|target| {
            let comparison = target.check(&signs, &target.claims(&signs, &products));
            !comparison.within || !comparison.singles_hold
        }));
    }

    #[test]
    fn outliers_are_proven_singly_and_are_few() {
        let mut products = products(700);
        products[5] = 1 << 50;
        let target = Target::committed(&committed(&products), &[], -40, &PROFILE).unwrap();
        assert_eq!(target.singles.iter().map(|single| single.0).collect::<Vec<_>>(), [5]);
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 700);
        let mut claims = target.claims(&signs, &products);
        assert!(target.check(&signs, &claims).singles_hold);
        claims.singles[0] += f_from_i64(1 << 44);
        assert!(!target.check(&signs, &claims).singles_hold);
        products[..20].fill(1 << 50);
        assert!(Target::committed(&committed(&products), &[], -40, &PROFILE).is_none());
    }

    /// An output that weighs nothing and is not proven singly would be free.
    #[test]
    fn every_output_that_is_not_proven_singly_weighs_something() {
        let mut row = vec![1.0; 64];
        // Tolerances that differ by more than weights do.
        row[..4].copy_from_slice(&[0.0, 511.5, -512.0, 513.0]);
        let target = Target::committed(&row, &[], -40, &PROFILE).unwrap();
        assert_eq!(target.singles.iter().map(|single| single.0).collect::<Vec<_>>(), [3]);
        let weights: Vec<i64> = target.weights().collect();
        assert_eq!((weights[0], weights[1], weights[2], weights[3]), (1024, 1, 1, 0));
        assert!(weights.iter().enumerate().all(|(j, rho)| (*rho == 0) == (j == 3)));
    }

    #[test]
    fn the_weights_of_a_claim_reproduce_its_value() {
        let mut products = products(90);
        products[7] = 1 << 50;
        let target = Target::committed(&committed(&products), &[], -40, &PROFILE).unwrap();
        assert_eq!(target.singles.len(), 1);
        let signs = Signs::draw(&[2; 32], 5, SIGNS_COMPLETE, 90);
        let claims = target.claims(&signs, &products);
        let beta = E::new(f_from_u64(3), f_from_u64(5), f_from_u64(7));
        let powers = powers(beta, SIGNS_COMPLETE + target.singles.len());
        let output = target.output(&signs, &powers);
        let weights = output.entries();
        let sum: E = weights.iter().zip(&products).map(|(weight, p)| e_mul_f(*weight, f_from_i64(*p))).sum();
        assert_eq!(sum, claims.value(&powers));
    }

    /// The mean square bounds all outputs together: one alone may be off by the root of the width times the
    /// threshold, in tolerances, and by no more.
    #[test]
    fn one_output_may_be_off_by_the_root_of_the_width_and_no_more() {
        let products = products(300);
        let exact: Vec<f64> = products.iter().map(|p| real(*p) * power_of_two(-40)).collect();
        let median = median_magnitude(&exact);
        let ratio = |share: f64| {
            let most = share * (PROFILE.theta_products * real_count(products.len())).sqrt();
            // The tolerance follows the output.
            let own = PROFILE.eps_rel * exact[7].abs() + PROFILE.eps_abs * median;
            let mut row = exact.clone();
            row[7] += exact[7].signum() * most * own / (1.0 - most * PROFILE.eps_rel);
            Target::committed(&row, &[], -40, &PROFILE).unwrap().exact_ratio(&products)
        };
        for share in [0.5, 0.97, 1.03, 2.0] {
            assert!((ratio(share) - share * share).abs() < 0.05 * share * share, "{share}: {}", ratio(share));
        }
    }

    /// Products sent half the field away, in pairs, cancel in every signed sum. Their size gives them away:
    /// what is read lies within the bound on products, and so does what the target is made of.
    #[test]
    fn products_half_a_field_away_have_no_form() {
        let half = i64::try_from((P - 1) / 2).unwrap();
        let mut products = products(300);
        products[..2].fill(5 << 40);
        let far = |j: usize| if j < 2 { half } else { 0 };
        let forged = products.iter().enumerate().map(|(j, p)| (p - far(j) + (1 << 31)) >> 32).collect();
        let supplied = Supplied::forged(32, forged);
        let mut out = assay_commitments::codec::Writer::new();
        supplied.write(&mut out);
        let bytes = out.finish();
        let read = Supplied::read(&mut assay_commitments::codec::Reader::new(&bytes), 300);
        assert!(read.is_err());
        // Were it read, the sketch would not see it.
        let target = Target::supplied(&supplied);
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 300);
        assert!(target.check(&signs, &target.claims(&signs, &products)).within);
    }

    #[test]
    fn supplied_products_pass_and_forged_ones_do_not() {
        let products = products(300);
        let supplied = Supplied::compress(&products);
        let target = Target::supplied(&supplied);
        let signs = Signs::draw(&[1; 32], 0, SIGNS_WITH_NONCE, 300);
        let honest = target.check(&signs, &target.claims(&signs, &products));
        assert!(honest.within && honest.ratio < 0.6, "{honest:?}");
        let mut forged = supplied;
        forged.values.iter_mut().for_each(|value| *value += 2);
        let target = Target::supplied(&forged);
        assert!(!target.check(&signs, &target.claims(&signs, &products)).within);
    }
}
