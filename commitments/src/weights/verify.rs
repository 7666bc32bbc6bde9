//! The verifier of an opening.
#![deny(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::expect_used,
    clippy::unreachable,
    clippy::wildcard_enum_match_arm
)]

use std::collections::BTreeMap;

use ark_ff::AdditiveGroup;
use assay_sumcheck::field::{E, dot_e, dot_ef};
use assay_sumcheck::multilinear::{eq_at, eq_table, evaluate};
use assay_sumcheck::product::{Claim, verify as verify_rounds};
use assay_sumcheck::transcript::{Reduction, Transcript};

use super::{
    BilinearClaim, Discharged, Opening, OpeningError, WeightRoot, batch_weights, begin, column_leaf, draw_positions,
    e_bytes, end, labels,
};
use crate::layout::Layout;
use crate::merkle::{Hash, MerkleError, verify_indices};
use crate::params::CodeParams;
use crate::reed_solomon::{Code, symbol};

/// Checks that the claims hold for the committed polynomial.
///
/// - The caller has absorbed, or derives from what it has absorbed, everything in the claims; this
///   function absorbs them again, whole.
/// - Soundness: [`CodeParams::security`]; parameters are to be checked with
///   [`CodeParams::is_secure`] when a manifest is read.
/// - Time: for each position, a pass over the folded row; for each claim, one over its vectors.
///
/// # Errors
/// [`OpeningError`]: the first check that fails. Never panics, whatever the opening.
pub fn verify(
    root: &WeightRoot,
    layout: &Layout,
    params: &CodeParams,
    claims: &[BilinearClaim],
    opening: &Opening,
    transcript: &mut Transcript<Reduction>,
) -> Result<Discharged, OpeningError> {
    if !params.fits(layout) {
        return Err(OpeningError::Params);
    }
    if !claims.iter().all(|claim| claim.fits(layout)) {
        return Err(OpeningError::Claims);
    }
    let Opening { rounds, folded_row, columns, hashes } = opening;
    if rounds.len() != params.log_size as usize || folded_row.len() != params.columns() {
        return Err(OpeningError::Shape);
    }

    let gamma = begin(root, layout, params, claims, transcript);
    let weights: Vec<E> = batch_weights(gamma, claims.len()).collect();
    let claim = Claim::new(claims.iter().zip(&weights).map(|(claim, &weight)| weight * claim.value).sum());
    let (row_rounds, column_rounds) = rounds.split_at_checked(params.row_log as usize).ok_or(OpeningError::Shape)?;
    let (row_point, claim) = verify_rounds(claim, row_rounds, transcript);
    transcript.absorb_bulk(labels::FOLDED_ROW, &e_bytes(folded_row));
    let (column_point, claim) = verify_rounds(claim, column_rounds, transcript);

    let point = [row_point.as_slice(), &column_point].concat();
    let omega = omega_at(layout, claims, &weights, &point);
    if claim.into_value() != omega * evaluate(folded_row, &column_point) {
        return Err(OpeningError::FinalEvaluation);
    }

    let positions = draw_positions(params, transcript);
    if columns.len() != positions.len() || columns.iter().any(|column| column.len() != params.rows()) {
        return Err(OpeningError::Shape);
    }
    let code = Code::new(params);
    let eq = eq_table(&row_point);
    let agrees =
        |(&position, column): (&usize, &Vec<_>)| symbol(folded_row, code.point(position as u64)) == dot_ef(&eq, column);
    if !positions.iter().zip(columns).all(agrees) {
        return Err(OpeningError::ColumnFold);
    }

    let leaves: Vec<(usize, Hash)> =
        positions.iter().zip(columns).map(|(&position, column)| (position, column_leaf(position, column))).collect();
    verify_indices(&root.0, params.codeword_length(), &leaves, hashes).map_err(|error| match error {
        MerkleError::Indices | MerkleError::HashCount => OpeningError::Shape,
        MerkleError::Root => OpeningError::MerklePath,
    })?;
    end(columns, hashes, transcript);
    Ok(Discharged(()))
}

/// `Omega(z)`: for every claim and tile, whether `z` lies on the tile, times the input part and the
/// output part there.
fn omega_at(layout: &Layout, claims: &[BilinearClaim], weights: &[E], point: &[E]) -> E {
    let mut tables = EqTables { point, tables: BTreeMap::new() };
    let mut omega = E::ZERO;
    for (claim, &weight) in claims.iter().zip(weights) {
        for tile in layout.tiles_of(claim.matrix) {
            let place = point.get(tile.size_log() as usize..).unwrap_or_default();
            let input = claim.input.get(tile.input_range()).unwrap_or_default();
            let output = claim.output.get(tile.output_range()).unwrap_or_default();
            omega += weight
                * eq_at(place, tile.offset >> tile.size_log())
                * dot_ef(tables.get(0, tile.input_log), input)
                * dot_e(tables.get(tile.input_log, tile.output_log), output);
        }
    }
    omega
}

/// Tables of `eq` over stretches of one point; few tiles differ in their sides.
struct EqTables<'a> {
    point: &'a [E],
    tables: BTreeMap<(u32, u32), Vec<E>>,
}

impl EqTables<'_> {
    /// The table over `count` variables from `first` on.
    fn get(&mut self, first: u32, count: u32) -> &[E] {
        self.tables.entry((first, count)).or_insert_with(|| {
            let rest = self.point.get(first as usize..).unwrap_or_default();
            eq_table(rest.get(..count as usize).unwrap_or_default())
        })
    }
}
