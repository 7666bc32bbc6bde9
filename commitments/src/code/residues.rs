//! Residues of messages at nodes: sums of products of weight images with powers of one element.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::ops::Range;

use ark_ff::Field as _;
use assay_sumcheck::field::{F, P, f_to_u64};

use super::Code;
use super::lanes::{Field, Halves, LANES, Lanes, Task, run};
use super::transform::{Block, point};
use crate::fixed_point::IMAGE_BITS;
use crate::polynomial::Coefficients;

/// Products of images with halves of elements that fit a signed 64-bit integer.
pub(super) const MAX_TERMS: usize = 1 << (63 - IMAGE_BITS - 31);

/// Blocks that are read from a source at once.
const PIECE: usize = 1 << 10;

/// Weight images, as many as a block has symbols.
pub(super) type Images = [i32; LANES];

/// The residue of a message at a node.
#[derive(Clone, Debug)]
pub(super) struct OfImages {
    rows: usize,
    blocks: usize,
    /// Columns of the residue.
    length: usize,
    /// Powers of the node's point, one for each piece of the message of the residue's length.
    powers: Vec<Halves>,
}

impl OfImages {
    /// At node `(depth, number)`, which has no more columns than the message.
    pub(super) fn new(code: &Code, depth: u32, number: usize) -> Self {
        let length = code.codeword_length() >> depth;
        let powers = powers(point(depth, number as u64)).take(code.message_length() / length);
        Self {
            rows: code.rows,
            blocks: code.blocks(),
            length,
            powers: powers.map(|power| Halves::of(f_to_u64(power))).collect(),
        }
    }

    /// Writes some of its columns.
    pub(super) fn fill<S: Coefficients>(
        &self,
        source: &S,
        scratch: &mut Scratch,
        columns: Range<usize>,
        target: &mut [Block],
    ) -> Result<(), S::Error> {
        let step = (PIECE / self.blocks).max(1);
        for (start, target) in columns.step_by(step).zip(target.chunks_mut(step * self.blocks)) {
            if let [_] = self.powers.as_slice() {
                let images = scratch.read(source, self.rows, start, target.len())?;
                run(Embed { images, target });
                continue;
            }
            target.fill(Block::default());
            for (block, powers) in self.powers.chunks(MAX_TERMS).enumerate() {
                scratch.sums.clear();
                scratch.sums.resize(target.len(), Sums::default());
                for (i, &power) in powers.iter().enumerate() {
                    let piece = block * MAX_TERMS + i;
                    scratch.read(source, self.rows, start + piece * self.length, target.len())?;
                    run(Accumulate { images: &scratch.images, power, sums: &mut scratch.sums });
                }
                run(AddTotals { sums: &scratch.sums, target });
            }
        }
        Ok(())
    }
}

/// What a thread needs to fill columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    images: Vec<Images>,
    sums: Vec<Sums>,
}

impl Scratch {
    /// Reads the coefficients of columns from column `start` on, each filled up to whole blocks.
    pub(super) fn read<S: Coefficients>(
        &mut self,
        source: &S,
        rows: usize,
        start: usize,
        blocks: usize,
    ) -> Result<&[Images], S::Error> {
        self.images.resize(blocks, Images::default());
        let images = self.images.as_flattened_mut();
        let width = rows.next_multiple_of(LANES);
        let count = images.len() / width;
        source.read(start * rows, &mut images[..count * rows])?;
        if rows < width {
            for column in (0..count).rev() {
                images.copy_within(column * rows..(column + 1) * rows, column * width);
                images[column * width + rows..(column + 1) * width].fill(0);
            }
        }
        Ok(&self.images)
    }
}

/// `1, base, base^2, ...`
pub(super) fn powers(base: F) -> impl Iterator<Item = F> {
    std::iter::successors(Some(F::ONE), move |&power| Some(power * base))
}

/// Sums for the lower and the upper halves of the elements.
pub(super) type Sums = [Block; 2];

/// Images as canonical elements.
struct Embed<'a> {
    images: &'a [Images],
    target: &'a mut [Block],
}

impl Task for Embed<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (target, images) in self.target.iter_mut().zip(self.images) {
            let value = l.extend(images);
            l.store(target, l.add_if_less(value, l.splat(1 << 63), value, l.splat(P)));
        }
    }
}

/// `sums += power * images`.
struct Accumulate<'a> {
    images: &'a [Images],
    power: Halves,
    sums: &'a mut [Sums],
}

impl Task for Accumulate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let halves = self.power.words().map(|word| l.splat(word));
        for (sums, images) in self.sums.iter_mut().zip(self.images) {
            let value = l.extend(images);
            for (sum, half) in sums.iter_mut().zip(halves) {
                l.store(sum, l.add(l.load(sum), l.mul_signed(value, half)));
            }
        }
    }
}

/// `target += sums`.
struct AddTotals<'a> {
    sums: &'a [Sums],
    target: &'a mut [Block],
}

impl Task for AddTotals<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (target, [low, high]) in self.target.iter_mut().zip(self.sums) {
            let total = l.canonical(l.total(l.load(low), l.load(high)));
            l.store(target, l.f_add(l.load(target), total));
        }
    }
}
