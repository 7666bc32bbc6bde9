//! Residues of messages at nodes: sums of products of weight images with powers of one element.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::ops::Range;

use assay_sumcheck::field::{P, f_to_u64};

use super::Code;
use super::transform::{Block, point, powers};
use crate::fixed_point::IMAGE_BITS;
use crate::lanes::{Field, Halves, LANES, Lanes, Task, run};
use crate::polynomial::Coefficients;

/// Products of images with halves of elements that fit a signed 64-bit integer.
pub(super) const MAX_TERMS: usize = 1 << (63 - IMAGE_BITS - 31);

/// Pieces of a message that are summed at once.
const BATCH: usize = 16;

const _: () = assert!(BATCH <= MAX_TERMS);

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
            for (batch, powers) in self.powers.chunks(BATCH).enumerate() {
                let first = start + batch * BATCH * self.length;
                let images =
                    scratch.read_pieces(source, self.rows, (first, self.length), powers.len(), target.len())?;
                run(AddProducts { images, powers, target });
            }
        }
        Ok(())
    }
}

/// What a thread needs to fill columns.
#[derive(Clone, Debug, Default)]
pub(super) struct Scratch {
    images: Vec<Images>,
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
        self.read_pieces(source, rows, (start, 0), 1, blocks)
    }

    /// The same for `count` pieces, which begin at `start`, `start + distance` and so on.
    fn read_pieces<S: Coefficients>(
        &mut self,
        source: &S,
        rows: usize,
        (start, distance): (usize, usize),
        count: usize,
        blocks: usize,
    ) -> Result<&[Images], S::Error> {
        self.images.resize(count * blocks, Images::default());
        let width = rows.next_multiple_of(LANES);
        for (piece, images) in self.images.chunks_exact_mut(blocks).enumerate() {
            let images = images.as_flattened_mut();
            let columns = images.len() / width;
            source.read((start + piece * distance) * rows, &mut images[..columns * rows])?;
            if rows < width {
                for column in (0..columns).rev() {
                    images.copy_within(column * rows..(column + 1) * rows, column * width);
                    images[column * width + rows..(column + 1) * width].fill(0);
                }
            }
        }
        Ok(&self.images)
    }
}

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

/// `target += sum_k powers[k] images[k]`, canonical; the images of one power after those of the other.
struct AddProducts<'a> {
    images: &'a [Images],
    powers: &'a [Halves],
    target: &'a mut [Block],
}

impl Task for AddProducts<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let distance = self.target.len();
        for (v, target) in self.target.iter_mut().enumerate() {
            let mut sums = [l.splat(0); 2];
            for (images, power) in self.images[v..].iter().step_by(distance).zip(self.powers) {
                let value = l.extend(images);
                let [low, high] = power.words();
                sums[0] = l.add(sums[0], l.mul_signed(value, l.splat(low)));
                sums[1] = l.add(sums[1], l.mul_signed(value, l.splat(high)));
            }
            let sum = l.f_add(l.total(sums[0], sums[1]), l.load(target));
            l.store(target, l.canonical(sum));
        }
    }
}
