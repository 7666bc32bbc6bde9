//! From products and sign vectors to claims on weights: the part that prover and verifier share.

use std::collections::BTreeMap;
use std::sync::Arc;

use assay_commitments::LayerIndex;
use assay_commitments::manifest::Manifest;
use assay_commitments::weights::BilinearClaim;
use assay_sumcheck::field::f_from_i64;
use assay_sumcheck::{E, F};

use crate::challenge::Challenge;
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

/// The claims that each layer's opening must discharge.
pub(crate) fn layer_claims(
    challenge: &Challenge,
    cells: &[CellProducts],
    claims: &Claims,
    powers: &[E],
) -> BTreeMap<LayerIndex, Vec<BilinearClaim>> {
    let mut by_layer: BTreeMap<LayerIndex, Vec<BilinearClaim>> = BTreeMap::new();
    for ((cell, products), values) in challenge.cells.iter().zip(cells).zip(&claims.cells) {
        let list = by_layer.entry(cell.layer).or_default();
        for ((linear, signs), values) in products.products.iter().zip(values) {
            list.push(BilinearClaim {
                matrix: linear.matrix.index(),
                input: field_row(&linear.input),
                output: linear.target.output_weights(signs, powers),
                value: values.value(powers),
            });
        }
    }
    by_layer
}

/// The output weights of every decode, cut by shard.
pub(crate) fn head_weights(
    manifest: &Manifest,
    decodes: &[HeadProduct],
    signs: &Signs,
    powers: &[E],
) -> Vec<Vec<Vec<E>>> {
    let shards = manifest.head.roots.len();
    let block = index(manifest.head_layout().shapes().first().map_or(0, |shape| shape.outputs)).max(1);
    decodes
        .iter()
        .map(|decode| {
            let mut weights = decode.target.output_weights(signs, powers);
            weights.resize(block.saturating_mul(shards), E::default());
            weights.chunks(block).map(<[E]>::to_vec).collect()
        })
        .collect()
}

/// The claims that each shard's opening must discharge, by shard.
pub(crate) fn head_claims(
    decodes: &[HeadProduct],
    weights: Vec<Vec<Vec<E>>>,
    parts: &[Vec<E>],
) -> Vec<Vec<BilinearClaim>> {
    let mut by_shard: Vec<Vec<BilinearClaim>> = vec![];
    for ((decode, weights), parts) in decodes.iter().zip(weights).zip(parts) {
        let input = field_row(&decode.input);
        by_shard.resize_with(by_shard.len().max(weights.len()), Vec::new);
        for ((list, output), value) in by_shard.iter_mut().zip(weights).zip(parts) {
            list.push(BilinearClaim { matrix: 0, input: input.clone(), output, value: *value });
        }
    }
    by_shard
}

/// Whether the parts of every decode's claim add up to it.
pub(crate) fn parts_add_up(claims: &[ClaimValues], parts: &[Vec<E>], powers: &[E]) -> bool {
    let sums = parts.iter().map(|parts| parts.iter().copied().sum::<E>());
    claims.len() == parts.len() && claims.iter().zip(sums).all(|(claim, sum)| claim.value(powers) == sum)
}

fn field_row(row: &FixedRow) -> Arc<[F]> {
    row.integers.iter().map(|integer| f_from_i64(*integer)).collect()
}
