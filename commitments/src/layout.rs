//! Where the weights of several matrices lie in one multilinear polynomial.
//!
//! Each matrix is cut into power-of-two tiles by the binary expansions of its two sides (3072 inputs
//! are 2048 and 1024). Tiles are placed by descending size, so every offset is a multiple of the
//! tile's size and a tile is a subcube: the low index bits run over its inputs, the next over its
//! outputs, the rest are its place. Tiles of equal size stand in the order (matrix, first input,
//! first output). What is left up to the next power of two is zero.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic, clippy::expect_used)]

use std::cmp::Reverse;

use thiserror::Error;

use crate::codec::{Canonical, Malformed, Reader, Writer};

/// The largest polynomial has `2^30` coefficients: a layer of a 70B model.
pub const MAX_LOG_SIZE: u32 = 30;

/// The largest number of matrices in one polynomial.
pub const MAX_MATRICES: usize = 256;

/// The sides of a weight matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// K: the length of the vectors that it takes.
    pub inputs: u32,
    /// N: the length of the vectors that it gives.
    pub outputs: u32,
}

impl MatrixShape {
    /// The number of weights.
    pub const fn weights(self) -> u64 {
        // Two 32-bit factors cannot overflow 64 bits.
        (self.inputs as u64).wrapping_mul(self.outputs as u64)
    }
}

impl Canonical for MatrixShape {
    fn write(&self, out: &mut Writer) {
        out.u32(self.inputs);
        out.u32(self.outputs);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { inputs: from.u32()?, outputs: from.u32()? })
    }
}

/// Why matrices make no polynomial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// No matrix was given, or one without inputs or outputs.
    #[error("a matrix without weights")]
    Empty,
    /// More than [`MAX_MATRICES`].
    #[error("more than {MAX_MATRICES} matrices in one polynomial")]
    TooMany,
    /// More than `2^MAX_LOG_SIZE` weights.
    #[error("more than 2^{MAX_LOG_SIZE} weights in one polynomial")]
    TooLarge,
}

/// A power-of-two block of a matrix: `2^input_log` inputs by `2^output_log` outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Index of the matrix.
    pub matrix: usize,
    /// The block's first input.
    pub first_input: usize,
    /// The block's first output.
    pub first_output: usize,
    /// Logarithm of its number of inputs.
    pub input_log: u32,
    /// Logarithm of its number of outputs.
    pub output_log: u32,
    /// Index of its first coefficient, a multiple of its size.
    pub offset: usize,
}

impl Tile {
    /// Logarithm of the number of coefficients.
    pub const fn size_log(&self) -> u32 {
        self.input_log.saturating_add(self.output_log)
    }

    /// Number of inputs.
    pub const fn inputs(&self) -> usize {
        1 << self.input_log
    }

    /// Number of outputs.
    pub const fn outputs(&self) -> usize {
        1 << self.output_log
    }

    /// Its inputs, as a range of the matrix's.
    pub const fn input_range(&self) -> std::ops::Range<usize> {
        self.first_input..self.first_input.saturating_add(self.inputs())
    }

    /// Its outputs, as a range of the matrix's.
    pub const fn output_range(&self) -> std::ops::Range<usize> {
        self.first_output..self.first_output.saturating_add(self.outputs())
    }

    /// Its coefficients, as a range of the polynomial's.
    pub const fn coefficient_range(&self) -> std::ops::Range<usize> {
        self.offset..self.offset.saturating_add(1 << self.size_log())
    }
}

/// The places of all weights of a polynomial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shapes: Vec<MatrixShape>,
    tiles: Vec<Tile>,
    log_size: u32,
    min_input_log: u32,
}

impl Layout {
    /// Places matrices of these shapes.
    ///
    /// # Errors
    /// [`LayoutError`] for no weights or too many.
    pub fn new(shapes: &[MatrixShape]) -> Result<Self, LayoutError> {
        if shapes.is_empty() || shapes.iter().any(|shape| shape.weights() == 0) {
            return Err(LayoutError::Empty);
        }
        if shapes.len() > MAX_MATRICES {
            return Err(LayoutError::TooMany);
        }
        // Exact: at most 2^8 terms below 2^64.
        let total: u128 = shapes.iter().map(|shape| u128::from(shape.weights())).sum();
        let total = u64::try_from(total).ok().and_then(u64::checked_next_power_of_two);
        let log_size = total.map(u64::ilog2).filter(|&log| log <= MAX_LOG_SIZE).ok_or(LayoutError::TooLarge)?;

        let mut tiles: Vec<Tile> = shapes.iter().enumerate().flat_map(|(matrix, &shape)| cut(matrix, shape)).collect();
        tiles.sort_by_key(|tile| (Reverse(tile.size_log()), tile.matrix, tile.first_input, tile.first_output));
        let mut offset = 0_usize;
        for tile in &mut tiles {
            tile.offset = offset;
            offset = tile.coefficient_range().end;
        }
        let min_input_log = tiles.iter().map(|tile| tile.input_log).min().unwrap_or(0);
        Ok(Self { shapes: shapes.to_vec(), tiles, log_size, min_input_log })
    }

    /// Logarithm of the number of coefficients, padding included.
    pub const fn log_size(&self) -> u32 {
        self.log_size
    }

    /// All tiles, by ascending offset.
    pub fn tiles(&self) -> &[Tile] {
        &self.tiles
    }

    /// The tiles of one matrix, by ascending offset.
    pub fn tiles_of(&self, matrix: usize) -> impl Iterator<Item = &Tile> {
        self.tiles.iter().filter(move |tile| tile.matrix == matrix)
    }

    /// The shapes of the matrices.
    pub fn shapes(&self) -> &[MatrixShape] {
        &self.shapes
    }

    /// Logarithm of the fewest inputs of a tile. Up to so many low index bits are input bits of
    /// every tile.
    pub const fn min_input_log(&self) -> u32 {
        self.min_input_log
    }

    /// The index of the coefficient that holds the weight from input `input` to output `output`;
    /// `None` outside the matrix.
    pub fn coefficient_index(&self, matrix: usize, input: usize, output: usize) -> Option<usize> {
        let tile = self
            .tiles_of(matrix)
            .find(|tile| tile.input_range().contains(&input) && tile.output_range().contains(&output))?;
        let column = output.checked_sub(tile.first_output)?.checked_shl(tile.input_log)?;
        input.checked_sub(tile.first_input)?.checked_add(column)?.checked_add(tile.offset)
    }

    /// BLAKE3 of the shapes, which determine everything else.
    pub fn digest(&self) -> [u8; 32] {
        let mut out = Writer::new();
        out.list(&self.shapes);
        blake3::hash(&out.finish()).into()
    }
}

/// The tiles of a matrix, not yet placed.
fn cut(matrix: usize, shape: MatrixShape) -> impl Iterator<Item = Tile> {
    pieces(shape.inputs).flat_map(move |(first_input, input_log)| {
        pieces(shape.outputs).map(move |(first_output, output_log)| Tile {
            matrix,
            first_input,
            first_output,
            input_log,
            output_log,
            offset: 0,
        })
    })
}

/// The powers of two that sum to `length`, the largest first: (first index, logarithm).
fn pieces(length: u32) -> impl Iterator<Item = (usize, u32)> {
    (0..u32::BITS).rev().filter(move |&log| length >> log & 1 == 1).map(move |log| {
        // What the larger powers sum to: the bits of `length` above this one.
        let first = u64::from(length) >> log.saturating_add(1) << log.saturating_add(1);
        (usize::try_from(first).unwrap_or(usize::MAX), log)
    })
}

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "tests may panic, and compare exact values")]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn shapes() -> impl Strategy<Value = Vec<MatrixShape>> {
        vec((1_u32..70, 1_u32..70).prop_map(|(inputs, outputs)| MatrixShape { inputs, outputs }), 1..6)
    }

    #[test]
    fn sides_are_cut_by_their_binary_expansion() {
        let cut: Vec<_> = pieces(3072).collect();
        assert_eq!(cut, [(0, 11), (2048, 10)]);
        let cut: Vec<_> = pieces(u32::MAX).collect();
        assert_eq!(cut.len(), 32);
        assert_eq!(cut.last(), Some(&(0xffff_fffe, 0)));
    }

    #[test]
    fn tiles_of_equal_size_stand_in_the_order_of_their_matrices() {
        let square = |inputs, outputs| MatrixShape { inputs, outputs };
        let layout = Layout::new(&[square(4, 6), square(8, 8), square(6, 4)]).unwrap();
        let places: Vec<_> =
            layout.tiles().iter().map(|t| (t.offset, t.matrix, t.first_input, t.first_output, t.size_log())).collect();
        let expected = [(0, 1, 0, 0, 6), (64, 0, 0, 0, 4), (80, 2, 0, 0, 4), (96, 0, 0, 4, 3), (104, 2, 4, 0, 3)];
        assert_eq!(places, expected);
        assert_eq!((layout.log_size(), layout.min_input_log()), (7, 1));
    }

    #[test]
    fn empty_and_oversized_polynomials_are_refused() {
        let shape = |inputs, outputs| MatrixShape { inputs, outputs };
        assert_eq!(Layout::new(&[]), Err(LayoutError::Empty));
        assert_eq!(Layout::new(&[shape(3, 3), shape(0, 3)]), Err(LayoutError::Empty));
        assert_eq!(Layout::new(&[shape(1, 1); MAX_MATRICES + 1]), Err(LayoutError::TooMany));
        assert_eq!(Layout::new(&[shape(u32::MAX, u32::MAX); MAX_MATRICES]), Err(LayoutError::TooLarge));
        assert_eq!(Layout::new(&[shape(1 << 15, 1 << 15), shape(1, 1)]), Err(LayoutError::TooLarge));
        assert_eq!(Layout::new(&[shape(1 << 15, 1 << 15)]).map(|layout| layout.log_size()), Ok(30));
        assert_eq!(Layout::new(&[shape(1, 1); MAX_MATRICES]).map(|layout| layout.log_size()), Ok(8));
    }

    proptest! {
        #[test]
        fn prop_every_weight_has_one_place(shapes in shapes()) {
            let layout = Layout::new(&shapes).unwrap();
            let mut taken = vec![false; 1 << layout.log_size()];
            for (matrix, shape) in shapes.iter().enumerate() {
                for input in 0..shape.inputs as usize {
                    for output in 0..shape.outputs as usize {
                        let index = layout.coefficient_index(matrix, input, output).unwrap();
                        prop_assert!(!std::mem::replace(&mut taken[index], true));
                    }
                }
                prop_assert_eq!(layout.coefficient_index(matrix, shape.inputs as usize, 0), None);
                prop_assert_eq!(layout.coefficient_index(matrix, 0, shape.outputs as usize), None);
            }
            prop_assert_eq!(layout.coefficient_index(shapes.len(), 0, 0), None);
            let weights: u64 = shapes.iter().map(|shape| shape.weights()).sum();
            prop_assert_eq!(taken.iter().filter(|&&taken| taken).count() as u64, weights);
            prop_assert_eq!(u64::from(layout.log_size()), u64::from(weights.next_power_of_two().ilog2()));
        }

        #[test]
        fn prop_tiles_are_subcubes(shapes in shapes()) {
            let layout = Layout::new(&shapes).unwrap();
            for tile in layout.tiles() {
                prop_assert_eq!(tile.offset % (1 << tile.size_log()), 0);
                prop_assert!(tile.input_log >= layout.min_input_log());
                for (input, output) in [(0, 0), (tile.inputs() - 1, 0), (0, tile.outputs() - 1)] {
                    let index = layout.coefficient_index(tile.matrix, tile.first_input + input, tile.first_output + output);
                    prop_assert_eq!(index, Some(tile.offset + input + (output << tile.input_log)));
                }
            }
        }
    }
}
