//! From coefficients to the commitment.

use ark_ff::Field;
use assay_sumcheck::field::{E, F};

use super::{Coefficients, WeightCommitment, powers, sample_point};
use crate::code::{self, Code, DROPPED};
use crate::merkle::{Hash, MerkleTop};
use crate::params::{CodeParams, LevelCode};

/// What the prover keeps beside the weights: the upper part of the tree over the codeword's columns, and
/// what it needs to show the commitment's own evaluation. Columns are computed again when they are opened.
#[derive(Clone, Debug)]
pub struct WeightTree {
    tree: MerkleTop,
    /// The value of every row, as a polynomial, at the power of the sample point that steps over a column.
    rows: Vec<E>,
    evaluation: E,
}

/// The answers of one tree.
pub(super) struct Shown {
    /// The columns at the positions.
    pub(super) columns: Vec<Vec<F>>,
    /// What leads from them to the root.
    pub(super) hashes: Vec<Hash>,
}

impl WeightTree {
    /// The commitment.
    pub fn commitment(&self) -> WeightCommitment {
        WeightCommitment { root: self.tree.bound_root(), evaluation: self.evaluation }
    }

    /// The tree of which [`Self::nodes`] and [`Self::sampled_rows`] tell, which spares making it again; `None` if they
    /// are not of the sizes that the parameters give.
    ///
    /// Only the commitment says whose tree it is: the caller compares it with one that is known.
    pub fn from_parts(params: &CodeParams, nodes: Vec<Hash>, rows: Vec<E>) -> Option<Self> {
        let base = params.base();
        let length = base.codeword_length();
        let tree = MerkleTop::from_nodes(length, DROPPED.min(base.codeword_log()), nodes)?;
        (rows.len() == base.rows()).then(|| Self::new(tree, rows, params))
    }

    fn new(tree: MerkleTop, rows: Vec<E>, params: &CodeParams) -> Self {
        let point = sample_point(&tree.bound_root(), params);
        let evaluation = rows.iter().zip(powers(point)).map(|(&row, power)| row * power).sum();
        Self { tree, rows, evaluation }
    }

    /// The nodes of the lowest level of the tree that is kept.
    pub fn nodes(&self) -> &[Hash] {
        self.tree.nodes()
    }

    /// The point of the commitment's evaluation.
    pub(super) fn sample_point(&self, params: &CodeParams) -> E {
        sample_point(&self.tree.bound_root(), params)
    }

    /// The values of the rows, from which the commitment's evaluation is made.
    pub fn sampled_rows(&self) -> &[E] {
        &self.rows
    }

    /// The columns at positions, and what leads from them to the root.
    pub(super) fn answer<S: Coefficients>(
        &self,
        source: &S,
        code: &LevelCode,
        positions: &[usize],
    ) -> Result<Shown, S::Error> {
        let code = Code::of_coefficients(code);
        let opened = code::columns(source, &code, positions, self.tree.dropped())?;
        let hashes = self.tree.open_indices(positions, &opened.subtrees);
        Ok(Shown { columns: opened.columns, hashes })
    }
}

/// Commits to a polynomial.
///
/// - Memory: symbols take at most `memory` bytes, or what the smallest part of the tree takes; beside them is what
///   is kept of the tree. The source is read the more often the less memory there is.
/// - The commitment depends on coefficients and parameters alone.
/// - `progress` is told the share of the work that is done.
///
/// # Errors
/// When coefficients cannot be read.
///
/// # Panics
/// If the parameters do not fit the polynomial's layout.
pub fn commit<S: Coefficients>(
    source: &S,
    params: &CodeParams,
    memory: usize,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<WeightTree, S::Error> {
    assert!(params.fits(source.layout()), "the code parameters fit the layout");
    let base = params.base();
    let tree = code::commit(source, &Code::of_coefficients(&base), DROPPED, memory, progress)?;
    let point = sample_point(&tree.bound_root(), params);
    let step = point.pow([base.rows() as u64]);
    let rows = code::weighted_columns(source, base.rows(), 0..1 << base.message_log(), |start, weights| {
        let first = step.pow([start as u64]);
        weights.iter_mut().zip(powers(step)).for_each(|(weight, power)| *weight = first * power);
    })?;
    Ok(WeightTree::new(tree, rows, params))
}
