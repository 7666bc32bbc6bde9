//! The weight commitment: commit to a layer's polynomial, open claims on its matrices, verify.
//!
//! Claims are bilinear: `x^T W R = value` for one matrix `W` of the layer, with vectors that both
//! sides know. One opening discharges any number of them, on any matrices of the layer:
//!
//! 1. A challenge `gamma` makes one claim `sum_i Omega(i) W(i) = sum_j gamma^j value_j` of all, where
//!    `Omega = sum_j gamma^j x_j (x) R_j`, each term on the tiles of its matrix.
//! 2. A sumcheck over all variables, the lowest first. The first `row_log` variables are input bits of
//!    every tile, and rows of the coefficient matrix: after them the prover sends the folded row `u`,
//!    and goes on.
//! 3. At the final point `z` the verifier computes `Omega(z)`, tile by tile, and `u(z)`, and compares
//!    their product with the last claim.
//! 4. Columns of the committed codeword at positions drawn last tie `u` to the root: the codeword of
//!    `u` must be their fold.
//!
//! Soundness is counted by [`CodeParams::security`]. The opening is the one-level form, in which the
//! folded row is sent whole; Ligero (eprint 2022/1608) with a sumcheck in place of the inner product
//! test, as in Diamond and Posen (eprint 2023/1784).

use std::sync::Arc;

use ark_ff::Field;
use assay_sumcheck::field::{E, F, e_from_bytes, e_to_bytes, f_from_bytes, f_to_bytes};
use assay_sumcheck::product::RoundProof;
use assay_sumcheck::transcript::{Reduction, Transcript};
use thiserror::Error;

use crate::codec::{Canonical, Malformed, Reader, Writer, encode};
use crate::domains;
use crate::layout::Layout;
use crate::merkle::Hash;
use crate::params::CodeParams;
pub use crate::polynomial::LayerPolynomial;

mod commit;
mod open;
#[cfg(test)]
mod tests;
mod verify;

pub use commit::{WeightTree, commit};
pub use open::open;
pub use verify::verify;

/// Every transcript label of an opening.
mod labels {
    pub(super) const ROOT: &str = "weights/root";
    pub(super) const CODE: &str = "weights/code";
    pub(super) const LAYOUT: &str = "weights/layout";
    pub(super) const CLAIM_COUNT: &str = "weights/claim-count";
    pub(super) const CLAIM: &str = "weights/claim";
    pub(super) const INPUT: &str = "weights/input";
    pub(super) const OUTPUT: &str = "weights/output";
    pub(super) const BATCH: &str = "weights/batch";
    pub(super) const FOLDED_ROW: &str = "weights/folded-row";
    pub(super) const POSITIONS: &str = "weights/positions";
    pub(super) const COLUMNS: &str = "weights/columns";
    pub(super) const PATHS: &str = "weights/paths";
}

/// The commitment to a layer's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightRoot(pub [u8; 32]);

impl Canonical for WeightRoot {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.array().map(Self)
    }
}

/// The claim `sum_{k, n} input[k] W_int[k][n] output[n] = value` on one matrix of a layer.
///
/// An opening binds all of it, vectors included, before its first challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a claim proves nothing until an opening discharges it"]
pub struct BilinearClaim {
    /// Index of the matrix in the layout.
    pub matrix: usize,
    /// One entry an input of the matrix.
    pub input: Arc<[F]>,
    /// One entry an output of the matrix.
    pub output: Vec<E>,
    /// What the sum is claimed to be.
    pub value: E,
}

impl BilinearClaim {
    fn fits(&self, layout: &Layout) -> bool {
        layout.shapes().get(self.matrix).is_some_and(|shape| {
            self.input.len() == shape.inputs as usize && self.output.len() == shape.outputs as usize
        })
    }
}

/// The proof that claims on one layer hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// One message a variable.
    rounds: Vec<RoundProof>,
    /// The coefficient matrix folded over its rows, after the rounds of the row variables.
    folded_row: Vec<E>,
    /// The committed columns at the drawn positions, by ascending position.
    columns: Vec<Vec<F>>,
    /// What leads from the columns to the root.
    hashes: Vec<Hash>,
}

impl Opening {
    /// Appends the encoding: rounds and folded row, whose lengths the parameters give, then columns
    /// and hashes, each after its number.
    pub fn write(&self, out: &mut Writer) {
        for round in &self.rounds {
            out.raw(&e_to_bytes(round.at_zero));
            out.raw(&e_to_bytes(round.leading));
        }
        out.raw(&e_bytes(&self.folded_row));
        out.length(self.columns.len());
        for column in &self.columns {
            out.raw(&f_bytes(column));
        }
        out.list(&self.hashes);
    }

    /// Takes an opening under the given parameters.
    ///
    /// # Errors
    /// [`Malformed`], for elements that are not canonical and for more columns or hashes than an
    /// opening can need; fewer than it needs are for [`verify`] to find.
    pub fn read(from: &mut Reader<'_>, params: &CodeParams) -> Result<Self, Malformed> {
        let mut extension = || e_from_bytes(from.array()?).ok_or(Malformed::NotCanonical);
        let rounds = (0..params.log_size)
            .map(|_| Ok(RoundProof { at_zero: extension()?, leading: extension()? }))
            .collect::<Result<_, Malformed>>()?;
        let folded_row = (0..params.columns()).map(|_| extension()).collect::<Result<_, _>>()?;
        let count = from.length(params.max_columns())?;
        let columns = (0..count).map(|_| read_column(from, params.rows())).collect::<Result<_, _>>()?;
        let hashes = from.list(params.max_hashes())?;
        Ok(Self { rounds, folded_row, columns, hashes })
    }
}

fn read_column(from: &mut Reader<'_>, rows: usize) -> Result<Vec<F>, Malformed> {
    (0..rows).map(|_| f_from_bytes(from.array()?).ok_or(Malformed::NotCanonical)).collect()
}

/// The largest encoding of an opening under these parameters.
pub fn max_opening_bytes(params: &CodeParams) -> usize {
    params.max_opening_bytes()
}

/// Why an opening does not discharge its claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum OpeningError {
    /// The parameters do not fit the layout. A manifest that was checked has none such.
    #[error("the code parameters do not fit the layout")]
    Params,
    /// A claim does not fit the layout. The verifier makes its claims itself.
    #[error("a claim does not fit the layout")]
    Claims,
    /// Another number of rounds, symbols, columns or entries than the parameters and positions give.
    #[error("a part of the opening has another length than it must have")]
    Shape,
    /// The last claim is not the product of the two polynomials at the final point.
    #[error("the last sumcheck claim is not met by the folded row")]
    FinalEvaluation,
    /// A column's fold is not the symbol of the folded row's codeword.
    #[error("the folded row does not agree with a committed column")]
    ColumnFold,
    /// The columns do not belong to the root, or another number of hashes was sent than needed.
    #[error("the columns do not belong to the weight root")]
    MerklePath,
}

/// The receipt of a verified opening; only [`verify`] makes one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Discharged(());

/// What both sides absorb before the first challenge, and the challenge that batches the claims.
fn begin(
    root: &WeightRoot,
    layout: &Layout,
    params: &CodeParams,
    claims: &[BilinearClaim],
    transcript: &mut Transcript<Reduction>,
) -> E {
    transcript.absorb(labels::ROOT, &root.0);
    transcript.absorb(labels::CODE, &encode(params));
    transcript.absorb(labels::LAYOUT, &layout.digest());
    transcript.absorb(labels::CLAIM_COUNT, &(claims.len() as u64).to_le_bytes());
    for claim in claims {
        let mut head = [0; 32];
        let (matrix, value) = head.split_at_mut(8);
        matrix.copy_from_slice(&(claim.matrix as u64).to_le_bytes());
        value.copy_from_slice(&e_to_bytes(claim.value));
        transcript.absorb(labels::CLAIM, &head);
        transcript.absorb_bulk(labels::INPUT, &f_bytes(&claim.input));
        transcript.absorb_bulk(labels::OUTPUT, &e_bytes(&claim.output));
    }
    transcript.challenge(labels::BATCH)
}

/// The positions at which the codeword is opened, ascending, without repeats.
fn draw_positions(params: &CodeParams, transcript: &mut Transcript<Reduction>) -> Vec<usize> {
    if params.opens_all() {
        return (0..params.codeword_length()).collect();
    }
    let drawn = transcript.indices(labels::POSITIONS, params.queries as usize, params.codeword_log());
    let positions: std::collections::BTreeSet<usize> =
        drawn.into_iter().filter_map(|position| usize::try_from(position).ok()).collect();
    positions.into_iter().collect()
}

/// Absorbs the answers to the queries, so that whatever follows depends on the whole opening.
fn end(columns: &[Vec<F>], hashes: &[Hash], transcript: &mut Transcript<Reduction>) {
    transcript.absorb_bulk(labels::COLUMNS, &f_bytes(&columns.concat()));
    transcript.absorb_bulk(labels::PATHS, hashes.as_flattened());
}

/// The leaf of a codeword column.
fn column_leaf(position: usize, column: &[F]) -> Hash {
    let mut bytes = Vec::with_capacity(8 + 8 * column.len());
    bytes.extend_from_slice(&(position as u64).to_le_bytes());
    bytes.extend_from_slice(&f_bytes(column));
    blake3::keyed_hash(domains::CODEWORD_COLUMN, &bytes).into()
}

fn f_bytes(values: &[F]) -> Vec<u8> {
    values.iter().flat_map(|&value| f_to_bytes(value)).collect()
}

fn e_bytes(values: &[E]) -> Vec<u8> {
    values.iter().flat_map(|&value| e_to_bytes(value)).collect()
}

/// `1, gamma, gamma^2, ...`, one for each claim.
fn batch_weights(gamma: E, count: usize) -> impl Iterator<Item = E> {
    std::iter::successors(Some(E::ONE), move |&power| Some(power * gamma)).take(count)
}
