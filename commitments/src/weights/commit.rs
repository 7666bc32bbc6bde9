//! From coefficients to the commitment.

use assay_sumcheck::field::{E, F};

use super::{Coefficients, WeightCommitment, powers, sample_point};
use crate::code;
use crate::merkle::{Hash, MerkleTree};
use crate::params::{CodeParams, LevelCode};

/// What the prover keeps beside the weights: the upper part of the tree over the codeword's columns, and
/// what it needs to show the commitment's own evaluation. Columns are computed again when they are opened.
#[derive(Clone, Debug)]
pub struct WeightTree {
    tree: MerkleTree,
    /// The value of every row, as a polynomial, at the power of the sample point that steps over a column.
    rows: Vec<E>,
    evaluation: E,
}

impl WeightTree {
    /// The commitment.
    pub fn commitment(&self) -> WeightCommitment {
        WeightCommitment { root: self.tree.bound_root(), evaluation: self.evaluation }
    }

    /// The point of the commitment's evaluation.
    pub(super) fn sample_point(&self, params: &CodeParams) -> E {
        sample_point(&self.tree.bound_root(), params)
    }

    /// What the rows give at that point.
    pub(super) fn sampled_rows(&self) -> &[E] {
        &self.rows
    }

    /// The columns at positions, and what leads from them to the root.
    pub(super) fn answer<S: Coefficients>(
        &self,
        source: &S,
        code: &LevelCode,
        positions: &[usize],
    ) -> Result<(Vec<Vec<F>>, Vec<Hash>), S::Error> {
        code::answer(source, &self.tree, code, positions)
    }
}

/// Commits to a polynomial.
///
/// # Errors
/// When coefficients cannot be read.
///
/// # Panics
/// If the parameters do not fit the polynomial's layout.
pub fn commit<S: Coefficients>(
    source: &S,
    params: &CodeParams,
    _memory: usize,
    _progress: &(dyn Fn(f64) + Sync),
) -> Result<WeightTree, S::Error> {
    assert!(params.fits(source.layout()), "the code parameters fit the layout");
    let base = params.base();
    let tree = code::commit(source, &base)?;
    let point = sample_point(&tree.bound_root(), params);
    let step = ark_ff::Field::pow(&point, [base.rows() as u64]);
    let steps: Vec<E> = powers(step).take(1 << base.message_log()).collect();
    let rows = code::weighted_columns(source, 0, base.rows(), &[&steps])?.swap_remove(0);
    let evaluation = rows.iter().zip(powers(point)).map(|(&row, power)| row * power).sum();
    Ok(WeightTree { tree, rows, evaluation })
}
