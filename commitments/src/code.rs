//! The code of one level, its transforms, and the tree over its columns.
//!
//! Layout in memory: a column of `rows` symbols takes `rows.div_ceil(8)` blocks of eight canonical
//! integers (not in Montgomery form); columns follow each other in the order of positions.
//!
//! A codeword is made node by node (see [`transform`]), and a node in two passes, so that memory is
//! crossed twice: the first takes columns a fixed distance apart into a core's cache and does the upper levels,
//! the second does the rest on neighbouring columns, which are hashed right there.

use std::convert::Infallible;
use std::ops::Range;

use ark_ff::{AdditiveGroup, Field};
use assay_sumcheck::field::{E, F, dot_ef, e_mul_f, f_to_u64};
use rayon::prelude::*;

use crate::merkle::{Hash, MerkleTop, MerkleTree, reduce};
use crate::params::LevelCode;
use crate::polynomial::Coefficients;

mod columns;
pub(crate) mod hashing;
mod kernels;
mod leaves;
mod residues;
mod sums;
mod transform;

use crate::lanes::LANES;
pub(crate) use columns::columns;
pub use kernels::Kernels;
use leaves::hash_columns;
use residues::Scratch;
use sums::add_entries;
pub(crate) use sums::{fold_rows, weighted_columns};
pub(crate) use transform::point;
use transform::{Block, Factors, powers, transform};

/// Levels of the tree over level 0 that are not kept, but computed again when they are opened: one
/// more halves what is kept of a tree, and doubles the hashes of an opening.
pub(crate) const DROPPED: u32 = 5;

/// Blocks that a core works on in its own cache: half a megabyte.
const CACHE: usize = 1 << 13;

/// The code of one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    /// Symbols of a column.
    pub(crate) rows: usize,
    /// A message has `2^message_log` columns.
    pub(crate) message_log: u32,
    /// A codeword has `2^rate_log` times as many.
    pub(crate) rate_log: u32,
}

impl Code {
    /// That of coefficients.
    pub(crate) const fn of_coefficients(level: &LevelCode) -> Self {
        Self { rows: level.rows(), message_log: level.message_log(), rate_log: level.rate_log }
    }

    /// That of a vector over the extension, whose entries are three symbols each.
    pub(crate) const fn of_vector(level: &LevelCode) -> Self {
        Self { rows: 3 * level.rows(), ..Self::of_coefficients(level) }
    }

    pub(crate) const fn codeword_log(&self) -> u32 {
        self.message_log + self.rate_log
    }

    /// Columns of a message.
    pub(crate) const fn message_length(&self) -> usize {
        1 << self.message_log
    }

    /// Columns of a codeword.
    pub(crate) const fn codeword_length(&self) -> usize {
        1 << self.codeword_log()
    }

    /// Blocks of a column.
    const fn blocks(&self) -> usize {
        self.rows.div_ceil(LANES)
    }
}

/// The symbol at one point of the codeword of a message over the extension.
pub(crate) fn symbol(message: &[E], point: F) -> E {
    /// Coefficients that are summed unreduced before a step of Horner's rule.
    const BLOCK: usize = 64;
    let small: Vec<F> = powers(point).take(BLOCK).collect();
    let large = point.pow([BLOCK as u64]);
    message.chunks(BLOCK).rev().fold(E::ZERO, |value, block| e_mul_f(value, large) + dot_ef(block, &small))
}

/// How a node is transformed.
#[derive(Clone, Copy, Debug)]
struct Plan {
    blocks: usize,
    /// Levels of the first and the second pass.
    upper: u32,
    lower: u32,
    /// The first pass takes `2^group` neighbours of every column it needs.
    group: u32,
}

impl Plan {
    /// The plan for a node of `2^log` columns.
    fn new(blocks: usize, log: u32) -> Self {
        let fitting = |blocks: usize| (CACHE / blocks).max(1).ilog2();
        // Some levels are left to the first pass, so that the second has tasks for all cores.
        let lower = fitting(blocks).min(log - (log / 2).min(4));
        let upper = log - lower;
        let group = fitting(blocks << upper).min(lower).min(lower - (lower / 2).min(4));
        Self { blocks, upper, lower, group }
    }

    /// Blocks of the node.
    const fn size(&self) -> usize {
        self.blocks << (self.upper + self.lower)
    }

    /// The first pass: `fill` writes the columns of a range of the node's residue, and `symbols` become what
    /// [`Self::second_pass`] reads.
    fn first_pass<X: Send>(
        &self,
        number: usize,
        symbols: &mut [Block],
        fill: impl Fn(&mut Scratch, Range<usize>, &mut [Block]) -> Result<(), X> + Sync,
    ) -> Result<(), X> {
        let factors = Factors::new(self.upper, number);
        let width = self.blocks << self.group;
        // Sources are read in stretches of neighbouring columns: small reads far apart would cost files dearly. A
        // stretch is spread over all chunks that are transformed together.
        let mut stretches: Vec<Vec<&mut [Block]>> = (0..1 << self.upper).map(|_| vec![]).collect();
        for (i, piece) in symbols.chunks_exact_mut(width).enumerate() {
            stretches[i & ((1 << self.upper) - 1)].push(piece);
        }
        stretches.into_par_iter().enumerate().try_for_each_init(
            || (Scratch::default(), vec![Block::default(); self.blocks << self.lower]),
            |(scratch, columns), (distance, pieces)| {
                let start = distance << self.lower;
                fill(scratch, start..start + (1 << self.lower), columns)?;
                for (piece, columns) in pieces.into_iter().zip(columns.chunks_exact(width)) {
                    piece.copy_from_slice(columns);
                }
                Ok(())
            },
        )?;
        symbols.par_chunks_exact_mut(width << self.upper).for_each(|symbols| transform(symbols, &factors));
        Ok(())
    }

    /// The second pass for one of `2^upper` parts: its columns.
    fn second_pass(&self, number: usize, part: usize, symbols: &[Block], columns: &mut [Block]) {
        let width = self.blocks << self.group;
        let groups = symbols.chunks_exact(width << self.upper);
        for (group, columns) in groups.zip(columns.chunks_exact_mut(width)) {
            columns.copy_from_slice(&group[part * width..][..width]);
        }
        transform(columns, &Factors::new(self.lower, (number << self.upper) + part));
    }
}

/// Commits to the coefficients of a source: entry `row + rows * column` of the message is the
/// coefficient of this index.
///
/// - Memory: symbols take at most `memory` bytes, or what the smallest node takes; beside them is the
///   tree from level `dropped` up.
/// - The source is read once for every node, that is the more often the less memory there is.
/// - The root depends on the message alone.
///
/// # Errors
/// When the source cannot be read.
pub(crate) fn commit<S: Coefficients>(
    source: &S,
    code: &Code,
    dropped: u32,
    memory: usize,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<MerkleTop, S::Error> {
    let dropped = dropped.min(code.codeword_log());
    let bytes = |log: u32| (code.blocks() * size_of::<Block>()) << log;
    // A node is no smaller than what the tree drops.
    let smallest = code.message_log.min(dropped);
    let log = (smallest..=code.message_log).rev().find(|&log| bytes(log) <= memory).unwrap_or(smallest);
    let depth = code.codeword_log() - log;
    let residue = |number| {
        let residue = residues::OfImages::new(code, depth, number);
        move |scratch: &mut Scratch, columns, target: &mut [Block]| residue.fill(source, scratch, columns, target)
    };
    let nodes = tree_nodes(code, log, dropped, residue, progress)?;
    Ok(MerkleTop::from_nodes(code.codeword_length(), dropped, nodes).expect("the nodes are a level of the tree"))
}

/// The nodes of the tree over a codeword that are `dropped` levels up, or a lower level of it. The codeword is made
/// from parts of `2^log` columns; of a part, `residue` writes columns of the residue.
fn tree_nodes<X, R>(
    code: &Code,
    log: u32,
    dropped: u32,
    residue: impl Fn(usize) -> R + Sync,
    progress: &(dyn Fn(f64) + Sync),
) -> Result<Vec<Hash>, X>
where
    X: Send,
    R: Fn(&mut Scratch, Range<usize>, &mut [Block]) -> Result<(), X> + Sync,
{
    let depth = code.codeword_log() - log;
    let plan = Plan::new(code.blocks(), log);
    if plan.size() <= CACHE {
        // Each is one core's work.
        let kept = log.saturating_sub(dropped);
        let mut nodes = vec![Hash::default(); 1 << (depth + kept)];
        let room = || (Scratch::default(), vec![Block::default(); plan.size()], vec![Hash::default(); 1 << log]);
        nodes.par_chunks_exact_mut(1 << kept).enumerate().try_for_each_init(
            room,
            |(scratch, columns, leaves), (number, nodes)| {
                residue(number)(scratch, 0..1 << log, columns)?;
                transform(columns, &Factors::new(log, number));
                hash_columns(columns, code.rows, number << log, leaves);
                reduce(leaves, nodes);
                Ok(())
            },
        )?;
        progress(1.0);
        return Ok(nodes);
    }
    // The nodes of the tree that a part of the second pass gives.
    let kept = plan.lower.saturating_sub(dropped);
    let mut nodes = vec![Hash::default(); 1 << (depth + plan.upper + kept)];
    let mut symbols = vec![Block::default(); plan.size()];
    let of_node = nodes.chunks_exact_mut(1 << (plan.upper + kept));
    let count = of_node.len();
    for (number, nodes) in of_node.enumerate() {
        plan.first_pass(number, &mut symbols, residue(number))?;
        nodes.par_chunks_exact_mut(1 << kept).enumerate().for_each_init(
            || (vec![Block::default(); plan.blocks << plan.lower], vec![Hash::default(); 1 << plan.lower]),
            |(columns, leaves), (part, nodes)| {
                plan.second_pass(number, part, &symbols, columns);
                let first = ((number << plan.upper) + part) << plan.lower;
                hash_columns(columns, code.rows, first, leaves);
                reduce(leaves, nodes);
            },
        );
        progress(share(number + 1, count));
    }
    Ok(nodes)
}

/// How much of a whole is done.
fn share(done: usize, whole: usize) -> f64 {
    let [done, whole] = [done, whole].map(|count| f64::from(u32::try_from(count).unwrap_or(u32::MAX)));
    done / whole
}

/// The codeword of a vector over the extension: its tree, with all leaves, and the vector, from which columns
/// are computed again. The symbols would take `2^rate_log` times as much.
#[derive(Clone, Debug)]
pub(crate) struct Codeword {
    code: Code,
    vector: Vec<E>,
    tree: MerkleTree,
}

impl Codeword {
    /// Encodes a vector: column `c` of the message is its entries from `c * rows / 3` on, three symbols each.
    ///
    /// # Panics
    /// If the vector is no message of the code.
    pub(crate) fn new(vector: Vec<E>, code: Code) -> Self {
        let entries = code.rows / 3;
        assert!(3 * entries == code.rows && vector.len() == entries << code.message_log, "the vector is a message");
        let words: Vec<[u64; 3]> =
            vector.par_iter().with_min_len(STRETCH).map(|e| [e.c0, e.c1, e.c2].map(f_to_u64)).collect();
        let blocks = code.blocks();
        let fill = |_: &mut Scratch, columns: Range<usize>, target: &mut [Block]| {
            let columns = words[entries * columns.start..entries * columns.end].chunks_exact(entries);
            for (column, target) in columns.zip(target.chunks_exact_mut(blocks)) {
                target.as_flattened_mut()[..code.rows].copy_from_slice(column.as_flattened());
            }
            Ok::<_, Infallible>(())
        };
        let Ok(leaves) = tree_nodes(&code, code.message_log, 0, |_| fill, &|_| ());
        Self { code, vector, tree: MerkleTree::from_leaf_hashes(leaves) }
    }

    pub(crate) const fn tree(&self) -> &MerkleTree {
        &self.tree
    }

    /// The columns at positions, an entry a row: the vector is read once.
    pub(crate) fn columns(&self, positions: &[usize]) -> Vec<Vec<E>> {
        /// Columns of the message that share the powers with which they begin.
        const BLOCK: usize = 64;
        let entries = self.code.rows / 3;
        let points: Vec<F> =
            positions.iter().map(|&position| point(self.code.codeword_log(), position as u64)).collect();
        let small: Vec<Vec<F>> = points.iter().map(|&point| powers(point).take(BLOCK).collect()).collect();
        let large: Vec<F> = points.iter().map(|point| point.pow([BLOCK as u64])).collect();
        // A stretch is so many columns of the message; its part of the values is Horner's rule over blocks.
        let stretch = (STRETCH / entries).next_multiple_of(BLOCK);
        let parts = self.vector.par_chunks(stretch * entries).enumerate().map(|(number, columns)| {
            let mut values = vec![E::ZERO; entries * points.len()];
            let mut row = Vec::with_capacity(BLOCK);
            for block in columns.chunks(BLOCK * entries).rev() {
                for first in 0..entries {
                    row.clear();
                    row.extend(block[first..].iter().step_by(entries));
                    let of_row = values[first..].iter_mut().step_by(entries);
                    for ((value, small), &large) in of_row.zip(&small).zip(&large) {
                        *value = e_mul_f(*value, large) + dot_ef(&row, small);
                    }
                }
            }
            for (values, point) in values.chunks_exact_mut(entries).zip(&points) {
                let start = point.pow([(number * stretch) as u64]);
                values.iter_mut().for_each(|value| *value = e_mul_f(*value, start));
            }
            values
        });
        let values = parts.reduce(|| vec![E::ZERO; entries * points.len()], add_entries);
        values.chunks_exact(entries).map(<[E]>::to_vec).collect()
    }
}

/// Entries of a vector that are worth a thread's while.
const STRETCH: usize = 1 << 14;

#[cfg(test)]
mod tests;
