//! Stand-in.
use std::convert::identity;

use ark_ff::{AdditiveGroup, Field};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use assay_sumcheck::field::{E, F, dot_ef, e_mul_f, f_from_i64};
use rayon::prelude::*;

use crate::merkle::{Hash, MerkleTree};
use crate::params::LevelCode;
use crate::polynomial::Coefficients;
use crate::reed_solomon::{BLOCK, powers, transform};
use crate::weights::column_leaf;

fn root_of_unity(log: u32) -> F {
    Radix2EvaluationDomain::<F>::new(1 << log).expect("root").group_gen()
}

pub(crate) fn point(codeword_log: u32, position: u64) -> F {
    let reversed = if codeword_log == 0 { 0 } else { position.reverse_bits() >> (64 - codeword_log) };
    root_of_unity(codeword_log).pow([reversed])
}

/// The symbol at one point of the codeword of a message over the extension.
pub(crate) fn symbol(message: &[E], point: F) -> E {
    let baby = powers(point, BLOCK);
    let giant = point.pow([BLOCK as u64]);
    message.chunks(BLOCK).rev().fold(E::ZERO, |value, block| e_mul_f(value, giant) + dot_ef(block, &baby))
}

/// Codeword by position, `rows` symbols each.
fn encode(matrix: &[F], rows: usize, rate_log: u32) -> Vec<F> {
    let columns = matrix.len() / rows;
    let log = columns.ilog2() + rate_log;
    let twiddles = powers(root_of_unity(columns.ilog2()), columns >> 1);
    let mut out = vec![];
    for coset in 0..1_u64 << rate_log {
        let mut symbols = matrix.to_vec();
        let shift = point(log, coset << columns.ilog2());
        for (column, power) in symbols.chunks_mut(rows).zip(powers(shift, columns)) {
            column.iter_mut().for_each(|s| *s *= power);
        }
        transform(&mut symbols, rows, &twiddles, 1);
        out.extend(symbols);
    }
    out
}

fn all<S: Coefficients>(source: &S, start: usize, count: usize) -> Result<Vec<i32>, S::Error> {
    let mut out = vec![0; count];
    source.read(start, &mut out)?;
    Ok(out)
}

fn base_codeword<S: Coefficients>(source: &S, code: &LevelCode) -> Result<Vec<F>, S::Error> {
    let matrix: Vec<F> = all(source, 0, 1 << code.variables)?.into_iter().map(|i| f_from_i64(i64::from(i))).collect();
    Ok(encode(&matrix, code.rows(), code.rate_log))
}

pub(crate) fn commit<S: Coefficients>(source: &S, code: &LevelCode) -> Result<MerkleTree, S::Error> {
    let codeword = base_codeword(source, code)?;
    let leaves = codeword.par_chunks(code.rows()).enumerate().map(|(p, c)| column_leaf(p, c)).collect();
    Ok(MerkleTree::from_leaf_hashes(leaves))
}

pub(crate) fn answer<S: Coefficients>(source: &S, tree: &MerkleTree, code: &LevelCode, positions: &[usize]) -> Result<(Vec<Vec<F>>, Vec<Hash>), S::Error> {
    let codeword = base_codeword(source, code)?;
    let columns = positions.iter().map(|&p| codeword[p * code.rows()..][..code.rows()].to_vec()).collect();
    let hashes = if code.opens_all() { vec![] } else { tree.open_indices(positions) };
    Ok((columns, hashes))
}

pub(crate) fn weighted_columns<S: Coefficients>(source: &S, start: usize, rows: usize, weights: &[&[E]]) -> Result<Vec<Vec<E>>, S::Error> {
    let mut out = vec![vec![E::ZERO; rows]; weights.len()];
    let count = weights.first().map_or(0, |w| w.len());
    let images = all(source, start, rows * count)?;
    for (out, weights) in out.iter_mut().zip(weights) {
        for (column, &weight) in images.chunks(rows).zip(*weights) {
            for (out, &image) in out.iter_mut().zip(column) {
                *out += e_mul_f(weight, f_from_i64(i64::from(image)));
            }
        }
    }
    Ok(out)
}

pub(crate) fn fold_rows<S: Coefficients>(source: &S, eq: &[E]) -> Result<Vec<E>, S::Error> {
    let images = all(source, 0, 1 << source.layout().log_size())?;
    Ok(images.chunks(eq.len()).map(|c| eq.iter().zip(c).map(|(&e, &i)| e_mul_f(e, f_from_i64(i64::from(i)))).sum()).collect())
}

pub(crate) struct Codeword {
    rows: usize,
    symbols: Vec<F>,
    tree: MerkleTree,
}

impl Codeword {
    pub(crate) fn of(vector: &[E], code: &LevelCode) -> Self {
        let rows = code.rows();
        let matrix: Vec<F> = vector.iter().flat_map(|e| [e.c0, e.c1, e.c2]).collect();
        let symbols = encode(&matrix, 3 * rows, code.rate_log);
        let leaves = symbols.par_chunks(3 * rows).enumerate().map(|(p, c)| column_leaf(p, c)).collect();
        Self { rows, symbols, tree: MerkleTree::from_leaf_hashes(leaves) }
    }

    pub(crate) fn root(&self) -> Hash {
        self.tree.bound_root()
    }

    pub(crate) fn answer(&self, positions: &[usize]) -> (Vec<Vec<E>>, Vec<Hash>) {
        let column = |&p: &usize| self.symbols[3 * self.rows * p..][..3 * self.rows].chunks(3).map(|c| E::new(c[0], c[1], c[2])).collect();
        let columns = positions.iter().map(column).collect();
        let hashes = self.tree.open_indices(positions);
        let _ = identity(0);
        (columns, hashes)
    }
}
