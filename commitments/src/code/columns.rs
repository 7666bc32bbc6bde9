//! Columns of codewords that were not kept.
//!
//! All residues of the nodes above the opened positions are summed in one pass over the message: a
//! product of the matrix of the nodes' powers with the message, cut into pieces of the residues' length.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::collections::BTreeSet;

use ark_ff::Field as _;
use assay_sumcheck::field::{F, f_from_u64, f_to_u64};
use rayon::prelude::*;

use super::Code;
use super::leaves::hash_columns;
use super::residues::{Images, MAX_TERMS};
use super::transform::{Block, Factors, point, powers, transform};
use crate::lanes::{Field, Halves, LANES, Lanes, Task, run};
use crate::merkle::Hash;
use crate::polynomial::Coefficients;

/// Blocks of images that a core works on at once: half a megabyte.
const CACHE: usize = 1 << 14;

/// Nodes whose sums are kept in registers together.
const TILE: usize = 4;

/// What opens positions of a codeword.
#[derive(Clone, Debug)]
pub(crate) struct Opened {
    /// The columns at the positions.
    pub(crate) columns: Vec<Vec<F>>,
    /// The leaves of the subtrees that they are in: what `MerkleTop::open_indices` asks for.
    pub(crate) subtrees: Vec<(usize, Vec<Hash>)>,
}

/// Computes the columns at positions of the codeword of a source, and the leaves beside them up to the level
/// `dropped` of the tree. The source is read once.
///
/// # Errors
/// When the source cannot be read.
///
/// # Panics
/// If a position is none of the codeword.
pub(crate) fn columns<S: Coefficients>(
    source: &S,
    code: &Code,
    positions: &[usize],
    dropped: u32,
) -> Result<Opened, S::Error> {
    assert!(positions.iter().all(|&position| position < code.codeword_length()), "positions are of the codeword");
    let height = dropped.min(code.codeword_log());
    let depth = code.codeword_log() - height;
    let numbers: BTreeSet<usize> = positions.iter().map(|position| position >> height).collect();
    let numbers: Vec<usize> = numbers.into_iter().collect();
    let points: Vec<F> = numbers.iter().map(|&number| point(depth, number as u64)).collect();
    let length = (1 << height).min(code.message_length());
    let residues = residues(source, code, length, &points)?;
    let blocks = code.blocks();
    let subtrees: Vec<(Vec<Block>, Vec<Hash>)> = numbers
        .par_iter()
        .zip(&residues)
        .map(|(&number, residue)| {
            // Where the residue is longer than the message, it is the message.
            let mut columns = vec![Block::default(); blocks << height];
            let filled = columns.chunks_exact_mut(blocks).zip(residue.as_flattened().chunks_exact(code.rows));
            filled.for_each(|(column, symbols)| column.as_flattened_mut()[..code.rows].copy_from_slice(symbols));
            transform(&mut columns, &Factors::new(height, number));
            let mut leaves = vec![Hash::default(); 1 << height];
            hash_columns(&mut columns, code.rows, number << height, &mut leaves);
            (columns, leaves)
        })
        .collect();
    let column = |&position: &usize| {
        let subtree = numbers.partition_point(|&number| number < position >> height);
        let start = blocks * (position & ((1 << height) - 1));
        let symbols = subtrees[subtree].0[start..start + blocks].as_flattened();
        symbols[..code.rows].iter().map(|&symbol| f_from_u64(symbol)).collect()
    };
    let columns = positions.iter().map(column).collect();
    let leaves = subtrees.into_iter().map(|(_, leaves)| leaves);
    Ok(Opened { columns, subtrees: numbers.iter().copied().zip(leaves).collect() })
}

/// The residues of the message modulo `x^length - point`, rows together: `length * rows` symbols each.
fn residues<S: Coefficients>(
    source: &S,
    code: &Code,
    length: usize,
    points: &[F],
) -> Result<Vec<Vec<Block>>, S::Error> {
    let width = (length * code.rows).div_ceil(LANES);
    let terms = code.message_length() / length;
    // Powers of two, all of them.
    let batch = (CACHE / width).clamp(1, MAX_TERMS).min(terms);
    let batch = 1 << batch.ilog2();
    let tasks = (4 * rayon::current_num_threads()).next_power_of_two().min(terms / batch);
    let batches = terms / batch / tasks;
    let powers: Vec<Powers> = points.chunks(TILE).map(|points| Powers::new(points, batch)).collect();
    let sums = (0..tasks).into_par_iter().map(|task| {
        let mut totals = vec![Block::default(); points.len() * width];
        let mut images = vec![Images::default(); batch * width];
        let mut packed = images.clone();
        for i in 0..batches {
            let start = (task * batches + i) * batch;
            let per_term = length * code.rows;
            if per_term.is_multiple_of(LANES) {
                source.read(start * per_term, images.as_flattened_mut())?;
            } else {
                for (k, images) in images.chunks_exact_mut(width).enumerate() {
                    source.read((start + k) * per_term, &mut images.as_flattened_mut()[..per_term])?;
                }
            }
            for (k, images) in images.chunks_exact(width).enumerate() {
                for (packed, images) in packed.chunks_exact_mut(batch).zip(images) {
                    packed[k] = *images;
                }
            }
            for (powers, totals) in powers.iter().zip(totals.chunks_mut(TILE * width)) {
                let shifts = powers.points.map(|point| f_to_u64(point.pow([start as u64])));
                run(AddBatch { images: &packed, batch, powers: &powers.halves, shifts, totals });
            }
        }
        Ok(totals)
    });
    let sum = |mut left: Vec<Block>, right: Vec<Block>| {
        run(AddAll { left: &mut left, right: &right });
        left
    };
    let totals = sums.try_reduce_with(|left, right| Ok(sum(left, right))).expect("there is a task")?;
    Ok(totals.chunks_exact(width).map(<[Block]>::to_vec).collect())
}

/// Powers of the points of a tile.
#[derive(Clone, Debug)]
struct Powers {
    points: [F; TILE],
    /// For every exponent, the halves of the power of every point.
    halves: Vec<[[u64; 2]; TILE]>,
}

impl Powers {
    fn new(given: &[F], count: usize) -> Self {
        let mut points = [F::ONE; TILE];
        points[..given.len()].copy_from_slice(given);
        let mut halves = vec![[[0; 2]; TILE]; count];
        for (i, point) in points.into_iter().enumerate() {
            for (halves, power) in halves.iter_mut().zip(powers(point)) {
                halves[i] = Halves::of(f_to_u64(power)).words();
            }
        }
        Self { points, halves }
    }
}

/// Adds `shift * sum_k power^k images[k]` to the totals of the points of a tile.
struct AddBatch<'a> {
    /// For every block of a term, that of all terms.
    images: &'a [Images],
    batch: usize,
    powers: &'a [[[u64; 2]; TILE]],
    shifts: [u64; TILE],
    totals: &'a mut [Block],
}

impl Task for AddBatch<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let width = self.images.len() / self.batch;
        let shifts = self.shifts.map(|shift| l.factor(shift));
        for (v, images) in self.images.chunks_exact(self.batch).enumerate() {
            let mut sums = [[l.splat(0); 2]; TILE];
            for (images, powers) in images.iter().zip(self.powers) {
                let value = l.extend(images);
                for (sums, halves) in sums.iter_mut().zip(powers) {
                    for (sum, &half) in sums.iter_mut().zip(halves) {
                        *sum = l.add(*sum, l.mul_signed(value, l.splat(half)));
                    }
                }
            }
            for ((totals, sums), shift) in self.totals.chunks_exact_mut(width).zip(sums).zip(shifts) {
                let sum = l.f_mul(l.total(sums[0], sums[1]), shift);
                let total = l.f_add(sum, l.load(&totals[v]));
                l.store(&mut totals[v], l.canonical(total));
            }
        }
    }
}

/// Adds canonical residues.
struct AddAll<'a> {
    left: &'a mut [Block],
    right: &'a [Block],
}

impl Task for AddAll<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (left, right) in self.left.iter_mut().zip(self.right) {
            let sum = l.f_add(l.load(left), l.load(right));
            l.store(left, l.canonical(sum));
        }
    }
}
