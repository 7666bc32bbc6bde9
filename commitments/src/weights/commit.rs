//! From coefficients to the root.

#[cfg(test)]
use assay_sumcheck::field::F;
use rayon::prelude::*;

use super::{WeightRoot, column_leaf};
use crate::merkle::{Hash, MerkleTree};
use crate::params::CodeParams;
use crate::polynomial::LayerPolynomial;
use crate::reed_solomon::Code;

/// The tree over the codeword's columns. It is all that is kept; columns are computed again when
/// they are opened.
#[derive(Clone, Debug)]
pub struct WeightTree {
    tree: MerkleTree,
}

impl WeightTree {
    /// The tree over the leaves of a tree that [`commit`] made, which spares making it again.
    ///
    /// Only the root says whose tree it is: the caller compares it with one that is known.
    pub fn from_leaves(leaves: Vec<Hash>) -> Self {
        Self { tree: MerkleTree::from_leaf_hashes(leaves) }
    }

    /// The leaves, one a column of the codeword.
    pub fn leaves(&self) -> &[Hash] {
        self.tree.leaves()
    }

    /// The commitment.
    pub fn root(&self) -> WeightRoot {
        WeightRoot(self.tree.bound_root())
    }

    /// What leads from the columns at `positions` to the root.
    pub(super) fn open(&self, positions: &[usize]) -> Vec<Hash> {
        self.tree.open_indices(positions)
    }

    /// The tree over given columns: what a forger, or a test, commits to.
    #[cfg(test)]
    pub(super) fn over_columns(columns: &[Vec<F>]) -> Self {
        let leaves = columns.iter().enumerate().map(|(position, column)| column_leaf(position, column));
        Self { tree: MerkleTree::from_leaf_hashes(leaves.collect()) }
    }
}

/// Commits to a polynomial.
///
/// Memory: beside the coefficients and the tree, the codeword symbols of one coset, eight bytes a
/// coefficient.
///
/// # Panics
/// If the parameters do not fit the polynomial's layout.
pub fn commit(polynomial: &LayerPolynomial, params: &CodeParams) -> WeightTree {
    assert!(params.fits(polynomial.layout()), "the code parameters fit the layout");
    let code = Code::new(params);
    let cosets = 1_usize << params.rate_log;
    let mut leaves = vec![Hash::default(); params.codeword_length()];
    for coset in 0..cosets {
        let symbols = code.encode_coset(polynomial.coefficients(), coset);
        let of_coset = leaves.par_chunks_exact_mut(cosets).with_min_len(64).enumerate();
        of_coset.for_each(|(i, leaves)| {
            let start = params.rows() * code.place(i);
            leaves[coset] = column_leaf(coset + cosets * i, &symbols[start..start + params.rows()]);
        });
    }
    WeightTree { tree: MerkleTree::from_leaf_hashes(leaves) }
}
