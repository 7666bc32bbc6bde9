//! Sums over rows and over columns of a source, with weights in the extension.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::ops::Range;

use ark_ff::AdditiveGroup;
use assay_sumcheck::field::{E, f_from_u64, f_to_u64};
use rayon::prelude::*;

use super::residues::{Images, MAX_TERMS, Scratch};
use super::transform::Block;
use crate::lanes::{Field, Halves, LANES, Lanes, Task, run};
use crate::polynomial::Coefficients;

/// Coefficients of a task of the thread pool.
const TASK: usize = 1 << 18;

/// Coefficients that are read at once.
const PIECE: usize = 1 << 13;

/// The halves of three coordinates.
type Weight = [[u64; 2]; 3];

fn weight(value: E) -> Weight {
    [value.c0, value.c1, value.c2].map(|coordinate| Halves::of(f_to_u64(coordinate)).words())
}

/// Elements from blocks of their coordinates.
fn elements(coordinates: &[Block; 3]) -> [E; LANES] {
    let [c0, c1, c2] = coordinates;
    std::array::from_fn(|i| E::new(f_from_u64(c0[i]), f_from_u64(c1[i]), f_from_u64(c2[i])))
}

/// `u[c] = sum_r eq[r] f[r + rows c]` for `rows = eq.len()` and every `c < columns`.
///
/// # Errors
/// When the source cannot be read.
pub(crate) fn fold_rows<S: Coefficients>(source: &S, eq: &[E], columns: usize) -> Result<Vec<E>, S::Error> {
    let rows = eq.len();
    let weights: Vec<Weight> = eq.iter().copied().map(weight).collect();
    let mut folded = vec![E::ZERO; columns];
    // Whole groups of columns that fill the lanes.
    let task = (TASK / rows).next_multiple_of(LANES);
    let piece = (PIECE / rows).max(1).next_multiple_of(LANES);
    folded.par_chunks_mut(task).enumerate().try_for_each_init(
        || (vec![0; piece * rows], vec![Images::default(); rows]),
        |(images, turned), (i, folded)| {
            for (k, folded) in folded.chunks_mut(piece).enumerate() {
                let images = &mut images[..folded.len() * rows];
                source.read((i * task + k * piece) * rows, images)?;
                for (images, folded) in images.chunks(LANES * rows).zip(folded.chunks_mut(LANES)) {
                    for (lane, column) in images.chunks_exact(rows).enumerate() {
                        turned.iter_mut().zip(column).for_each(|(turned, &image)| turned[lane] = image);
                    }
                    let mut sums = [Block::default(); 3];
                    run(AddWeighted {
                        images: turned,
                        stride: 1,
                        weights: &weights,
                        sums: std::slice::from_mut(&mut sums),
                    });
                    folded.copy_from_slice(&elements(&sums)[..folded.len()]);
                }
            }
            Ok(())
        },
    )?;
    Ok(folded)
}

/// `V[r] = sum_c weight[c] f[r + rows c]` over a range of columns `c`. `weights` writes those of the columns
/// from its first argument on, counted from the range's start.
///
/// # Errors
/// When the source cannot be read.
pub(crate) fn weighted_columns<S: Coefficients>(
    source: &S,
    rows: usize,
    columns: Range<usize>,
    weights: impl Fn(usize, &mut [E]) + Sync,
) -> Result<Vec<E>, S::Error> {
    let blocks = rows.div_ceil(LANES);
    let task = (TASK / rows).max(1);
    let piece = (PIECE / rows).clamp(1, MAX_TERMS);
    let sums = (0..columns.len().div_ceil(task)).into_par_iter().map_init(Scratch::default, |scratch, i| {
        let mut sums = vec![[Block::default(); 3]; blocks];
        let (start, end) = (i * task, columns.len().min((i + 1) * task));
        let mut values = vec![E::ZERO; end - start];
        weights(start, &mut values);
        for (k, values) in values.chunks(piece).enumerate() {
            let weights: Vec<Weight> = values.iter().copied().map(weight).collect();
            let images = scratch.read(source, rows, columns.start + start + k * piece, values.len() * blocks)?;
            run(AddWeighted { images, stride: blocks, weights: &weights, sums: &mut sums });
        }
        let elements = sums.iter().flat_map(elements);
        Ok(elements.take(rows).collect::<Vec<E>>())
    });
    let add = |left, right| Ok(add_entries(left, right));
    sums.try_reduce_with(add).unwrap_or_else(|| Ok(vec![E::ZERO; rows]))
}

/// The sum of two vectors of one length.
pub(super) fn add_entries(mut left: Vec<E>, right: Vec<E>) -> Vec<E> {
    left.iter_mut().zip(right).for_each(|(left, right)| *left += right);
    left
}

/// `sums[v] += sum_k weights[k] images[v + stride k]`, canonical.
struct AddWeighted<'a> {
    images: &'a [Images],
    stride: usize,
    weights: &'a [Weight],
    sums: &'a mut [[Block; 3]],
}

impl Task for AddWeighted<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (images, weights) in self.images.chunks(MAX_TERMS * self.stride).zip(self.weights.chunks(MAX_TERMS)) {
            for (v, target) in self.sums.iter_mut().enumerate() {
                let mut sums = [[l.splat(0); 2]; 3];
                for (images, weight) in images[v..].iter().step_by(self.stride).zip(weights) {
                    let value = l.extend(images);
                    for (sums, halves) in sums.iter_mut().zip(weight) {
                        for (sum, &half) in sums.iter_mut().zip(halves) {
                            *sum = l.add(*sum, l.mul_signed(value, l.splat(half)));
                        }
                    }
                }
                for (target, [low, high]) in target.iter_mut().zip(sums) {
                    let sum = l.f_add(l.total(low, high), l.load(target));
                    l.store(target, l.canonical(sum));
                }
            }
        }
    }
}
