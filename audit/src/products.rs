//! From products and sign vectors to claims on weights: the part that prover and verifier share.

use std::sync::Arc;

use assay_commitments::manifest::{Manifest, Matrix};
use assay_commitments::weights::{Claim, Output, Part};
use assay_sumcheck::field::f_from_i64;
use assay_sumcheck::{E, F};
use rayon::prelude::*;

use crate::challenge::{Cell, Challenge};
use crate::decode::MAX_CANDIDATES;
use crate::fixed::FixedRow;
use crate::num::index;
use crate::proof::Claims;
use crate::relations::Linear;
use crate::sketch::{ClaimValues, Signs, Target, powers};

/// The products of a cell, each with its sign vectors.
#[derive(Debug)]
pub(crate) struct CellProducts {
    pub(crate) products: [(Linear, Signs); 7],
}

impl CellProducts {
    /// Draws the signs of the cell with that number in the challenge.
    pub(crate) fn new(linears: [Linear; 7], seed: &[u8; 32], cell: usize, count: usize) -> Self {
        let mut number = cell.saturating_mul(7);
        let products = linears.map(|linear| {
            let signs = Signs::draw(seed, number, count, linear.target.row.len());
            number = number.saturating_add(1);
            (linear, signs)
        });
        Self { products }
    }
}

/// A product with lm_head.
#[derive(Debug)]
pub(crate) struct HeadProduct {
    pub(crate) input: FixedRow,
    pub(crate) target: Target,
}

/// The signs that all decodes of an audit share: those after the cells'.
pub(crate) fn head_signs(seed: &[u8; 32], challenge: &Challenge, manifest: &Manifest, count: usize) -> Signs {
    let number = challenge.cells.len().saturating_mul(7);
    Signs::draw(seed, number, count, index(manifest.architecture.vocab_size))
}

/// The powers of `beta` that combine the claims of one product: first its sketch, then its singles.
pub(crate) fn combination(beta: E, signs: usize) -> Vec<E> {
    powers(beta, signs.saturating_add(MAX_CANDIDATES))
}

/// The claims that the opening of the layers must discharge; their polynomials are the challenge's
/// layers in order.
pub(crate) fn layer_claims(
    manifest: &Manifest,
    challenge: &Challenge,
    cells: &[CellProducts],
    claims: &Claims,
    powers: &[E],
) -> Vec<Claim> {
    let architecture = &manifest.architecture;
    let layers = challenge.layers();
    let of_product = |cell: &Cell, (linear, signs): &(Linear, Signs), input: Arc<[F]>, values: &ClaimValues| {
        let polynomial = layers.binary_search(&cell.layer).unwrap_or(layers.len());
        let mut weights = linear.target.sketch_weights(signs, powers);
        if linear.matrix == Matrix::Q {
            weights = spread(&weights, cell.query_outputs(architecture), architecture.shape(Matrix::Q).outputs);
        }
        let singles = linear.target.single_weights(signs, powers).collect();
        let output = Output { shared: Arc::new(weights), singles };
        Claim {
            input,
            parts: vec![Part { polynomial, matrix: linear.matrix.index(), output }],
            value: values.value(powers),
        }
    };
    let of_cells = challenge.cells.par_iter().zip(cells).zip(&claims.cells);
    let of_cell = |((cell, products), values): ((&Cell, &CellProducts), &[ClaimValues; 7])| {
        // Neighbours have their input in common.
        let mut known: Option<(&Arc<FixedRow>, Arc<[F]>)> = None;
        let pairs = products.products.iter().zip(values).map(|(product, values)| {
            let row = &product.0.input;
            let input = match &known {
                Some((known, input)) if Arc::ptr_eq(known, row) => Arc::clone(input),
                _ => field_row(row),
            };
            known = Some((row, Arc::clone(&input)));
            of_product(cell, product, input, values)
        });
        pairs.collect::<Vec<_>>()
    };
    of_cells.flat_map_iter(of_cell).collect()
}

/// A row of `length` that has the values at these places, as many as there are values, and zeros elsewhere.
fn spread(values: &[E], places: impl Iterator<Item = usize>, length: u32) -> Vec<E> {
    let mut row = vec![E::default(); index(length)];
    for (value, place) in values.iter().zip(places) {
        if let Some(entry) = row.get_mut(place) {
            *entry = *value;
        }
    }
    row
}

/// The claims that the opening of lm_head must discharge, each with a part on every shard.
pub(crate) fn head_claims<'a>(
    manifest: &Manifest,
    decodes: &'a [HeadProduct],
    signs: &Signs,
    claims: &[ClaimValues],
    powers: &[E],
) -> Vec<Claim> {
    let shards = manifest.head.shards.len();
    let block = index(manifest.head_layout().shapes().first().map_or(0, |shape| shape.outputs)).max(1);
    // Decodes share their signs, and differ in the outputs that are proven singly alone.
    let mut known: Option<(&Target, Vec<Arc<Vec<E>>>)> = None;
    let claim = |(decode, values): (&'a HeadProduct, &ClaimValues)| {
        let target = &decode.target;
        let shared = match known.take() {
            Some((known, shared)) if known.weighs_as(target) => shared,
            _ => {
                let mut weights = target.sketch_weights(signs, powers);
                weights.resize(block.saturating_mul(shards), E::default());
                weights.chunks(block).map(|weights| Arc::new(weights.to_vec())).collect()
            }
        };
        let parts = shared.iter().enumerate().map(|(polynomial, weights)| {
            let start = block.saturating_mul(polynomial);
            let singles = target.single_weights(signs, powers);
            let here = singles.filter_map(|(output, weight)| Some((output.checked_sub(start)?, weight)));
            let singles = here.filter(|(output, _)| *output < block).collect();
            Part { polynomial, matrix: 0, output: Output { shared: Arc::clone(weights), singles } }
        });
        let parts = parts.collect();
        known = Some((target, shared));
        Claim { input: field_row(&decode.input), parts, value: values.value(powers) }
    };
    decodes.iter().zip(claims).map(claim).collect()
}

fn field_row(row: &FixedRow) -> Arc<[F]> {
    row.integers.iter().map(|integer| f_from_i64(*integer)).collect()
}
