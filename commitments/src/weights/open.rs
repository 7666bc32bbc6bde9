//! The prover of an opening.
//!
//! The weights are read three times. Once for `V = W R`, one vector over the inputs a claim and tile:
//! the row variables are input bits of every tile, so the first rounds are a sumcheck on the pairs
//! `(x, V)`, tiny beside the weights. Once for the folded row, which replaces the weights in all later
//! rounds. Once for the queried columns.

use ark_ff::{AdditiveGroup, Field};
use assay_sumcheck::field::{E, F, e_mul_f};
use assay_sumcheck::multilinear::eq_table;
use assay_sumcheck::product::{Claim, Prover, prove};
use assay_sumcheck::transcript::{Reduction, Transcript};
use rayon::prelude::*;

use super::{BilinearClaim, Opening, WeightTree, batch_weights, begin, draw_positions, e_bytes, end, labels};
use crate::layout::Tile;
use crate::params::CodeParams;
use crate::polynomial::{LayerPolynomial, rows_a_task};
use crate::reed_solomon::{BLOCK, Code, powers};
use crate::small_sum::{Halves, MAX_TERMS, SmallSum, add_extension, total_extension};

/// A claim's part on one tile.
struct Part<'a> {
    tile: &'a Tile,
    /// The claim's power of gamma.
    weight: E,
    input: &'a [F],
    output: &'a [E],
}

/// Proves that the claims hold for the committed polynomial.
///
/// - Proof size: at most [`CodeParams::max_opening_bytes`].
/// - A claim that does not hold gives an opening that does not verify.
///
/// # Panics
/// If parameters or claims do not fit the polynomial's layout.
pub fn open(
    polynomial: &LayerPolynomial,
    tree: &WeightTree,
    params: &CodeParams,
    claims: &[BilinearClaim],
    transcript: &mut Transcript<Reduction>,
) -> Opening {
    let layout = polynomial.layout();
    assert!(params.fits(layout), "the code parameters fit the layout");
    assert!(claims.iter().all(|claim| claim.fits(layout)), "the claims fit the layout");
    let gamma = begin(&tree.root(), layout, params, claims, transcript);
    let weights: Vec<E> = batch_weights(gamma, claims.len()).collect();
    let claim = Claim::new(claims.iter().zip(&weights).map(|(claim, &weight)| weight * claim.value).sum());
    let parts: Vec<Part<'_>> = claims
        .iter()
        .zip(&weights)
        .flat_map(|(claim, &weight)| {
            layout.tiles_of(claim.matrix).map(move |tile| Part {
                tile,
                weight,
                input: &claim.input[tile.input_range()],
                output: &claim.output[tile.output_range()],
            })
        })
        .collect();

    let inputs = parts.iter().flat_map(|part| part.input.iter().map(|&x| e_mul_f(part.weight, x))).collect();
    let sums = parts.par_iter().flat_map_iter(|part| weighted_outputs(polynomial.tile(part.tile), part)).collect();
    let mut rows = Prover::new(inputs, sums);
    let (mut rounds, row_point, claim) = prove(&mut rows, claim, params.row_log as usize, transcript);

    let folded_row = fold_rows(polynomial.coefficients(), &eq_table(&row_point));
    transcript.absorb_bulk(labels::FOLDED_ROW, &e_bytes(&folded_row));

    let (folded_inputs, _) = rows.into_factors();
    let omega = folded_omega(params, &parts, &folded_inputs);
    let mut columns = Prover::new(omega, folded_row.clone());
    let (later_rounds, _, _) = prove(&mut columns, claim, params.column_log() as usize, transcript);
    rounds.extend(later_rounds);

    let positions = draw_positions(params, transcript);
    let columns = codeword_columns(polynomial.coefficients(), params, &positions);
    let hashes = tree.open(&positions);
    end(&columns, &hashes, transcript);
    Opening { rounds, folded_row, columns, hashes }
}

/// `V[k] = sum_n W[k][n] R[n]` over a tile.
fn weighted_outputs(tile: &[i32], part: &Part<'_>) -> Vec<E> {
    let mut sums = vec![E::ZERO; part.input.len()];
    let mut partial = vec![[SmallSum::default(); 3]; part.input.len()];
    for (rows, outputs) in tile.chunks(part.input.len() * MAX_TERMS).zip(part.output.chunks(MAX_TERMS)) {
        for (row, &output) in rows.chunks_exact(part.input.len()).zip(outputs) {
            let factor = Halves::of_extension(output);
            for (partial, &image) in partial.iter_mut().zip(row) {
                add_extension(partial, image, &factor);
            }
        }
        for (sum, partial) in sums.iter_mut().zip(&mut partial) {
            *sum += total_extension(std::mem::take(partial));
        }
    }
    sums
}

/// `u[c] = sum_r eq[r] W[r + 2^row_log c]`.
fn fold_rows(coefficients: &[i32], eq: &[E]) -> Vec<E> {
    let factors: Vec<[Halves; 3]> = eq.iter().map(|&weight| Halves::of_extension(weight)).collect();
    let columns = coefficients.par_chunks_exact(eq.len()).with_min_len(rows_a_task(eq.len()));
    let fold = |column: &[i32]| {
        let blocks = column.chunks(MAX_TERMS).zip(factors.chunks(MAX_TERMS));
        let totals = blocks.map(|(images, factors)| {
            let mut sums = [SmallSum::default(); 3];
            for (&image, factor) in images.iter().zip(factors) {
                add_extension(&mut sums, image, factor);
            }
            total_extension(sums)
        });
        totals.sum()
    };
    columns.map(fold).collect()
}

/// `Omega` with its row variables fixed: on a tile the folded inputs times the outputs.
fn folded_omega(params: &CodeParams, parts: &[Part<'_>], folded_inputs: &[E]) -> Vec<E> {
    let mut omega = vec![E::ZERO; params.columns()];
    let mut rest = folded_inputs;
    for part in parts {
        let (inputs, after) = rest.split_at(part.input.len() >> params.row_log);
        rest = after;
        let place = &mut omega[part.tile.offset >> params.row_log..];
        for (place, &output) in place.chunks_exact_mut(inputs.len()).zip(part.output) {
            for (weight, &input) in place.iter_mut().zip(inputs) {
                *weight += input * output;
            }
        }
    }
    omega
}

/// The codeword's columns at the given positions: at each, the value of every row's polynomial.
fn codeword_columns(coefficients: &[i32], params: &CodeParams, positions: &[usize]) -> Vec<Vec<F>> {
    let code = Code::new(params);
    positions
        .par_iter()
        .map(|&position| evaluate_rows(coefficients, params.rows(), code.point(position as u64)))
        .collect()
}

/// The values at `point` of the polynomials whose coefficients are the rows: [`BLOCK`] coefficients
/// are summed unreduced, then Horner's rule takes a step in their power.
fn evaluate_rows(coefficients: &[i32], rows: usize, point: F) -> Vec<F> {
    /// Rows that are summed side by side, in registers.
    const LANES: usize = 4;
    let baby: Vec<Halves> = powers(point, BLOCK).into_iter().map(Halves::of).collect();
    let giant = point.pow([BLOCK as u64]);
    let mut values = vec![F::ZERO; rows];
    for block in coefficients.chunks(rows * BLOCK).rev() {
        for (lane, values) in values.chunks_mut(LANES).enumerate() {
            let mut sums = [SmallSum::default(); LANES];
            for (column, &power) in block.chunks_exact(rows).zip(&baby) {
                for (sum, &image) in sums.iter_mut().zip(&column[lane * LANES..]) {
                    sum.add(image, power);
                }
            }
            for (value, sum) in values.iter_mut().zip(sums) {
                *value = *value * giant + sum.total();
            }
        }
    }
    values
}

const _: () = assert!(BLOCK <= MAX_TERMS);
