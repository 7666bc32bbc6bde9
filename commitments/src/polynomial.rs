//! The weights of a layer as the coefficients of one multilinear polynomial.

use std::convert::Infallible;
use std::sync::Arc;

use rayon::prelude::*;

use crate::fixed_point::{ImageError, Scale, exponent};
use crate::layout::{Layout, Tile};

/// The largest `|x|_1` that [`LayerPolynomial::product`] takes: with images below `2^24`, every sum
/// stays below `2^51`.
pub const MAX_INPUT_NORM: i64 = 1 << 27;

/// The coefficients of a polynomial, read piece by piece: they may lie in memory or in files.
pub trait Coefficients: Sync {
    /// Why they cannot be read.
    type Error: Send;

    /// Where the weights lie.
    fn layout(&self) -> &Arc<Layout>;

    /// Writes the coefficients from index `start` on, padding included.
    ///
    /// # Errors
    /// When they cannot be read.
    fn read(&self, start: usize, out: &mut [i32]) -> Result<(), Self::Error>;
}

/// The fixed-point weights of several matrices, in the order of their layout.
#[derive(Clone, Debug)]
pub struct LayerPolynomial {
    layout: Arc<Layout>,
    coefficients: Vec<i32>,
    exponents: Vec<i16>,
}

impl LayerPolynomial {
    /// Takes the matrices of a layout, each in the order of a checkpoint: `[outputs][inputs]`, row by
    /// row. Every matrix gets its own exponent.
    ///
    /// # Errors
    /// [`ImageError`] for a NaN or an infinity, or matrices that are not those of the layout.
    pub fn from_matrices(layout: Arc<Layout>, matrices: &[&[f32]]) -> Result<Self, ImageError> {
        check_shapes(&layout, matrices)?;
        let exponents = matrices
            .iter()
            .enumerate()
            .map(|(matrix, weights)| exponent(weights).map_err(|error| error.in_matrix(matrix)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self::place(layout, matrices, exponents))
    }

    /// Takes the matrices of a layout with the exponents of larger matrices that they are parts of.
    ///
    /// # Errors
    /// [`ImageError`] for a NaN or an infinity, a weight too large for its exponent, or matrices or
    /// exponents that are not those of the layout.
    pub fn with_exponents(layout: Arc<Layout>, matrices: &[&[f32]], exponents: &[i16]) -> Result<Self, ImageError> {
        check_shapes(&layout, matrices)?;
        if exponents.len() != matrices.len() {
            return Err(ImageError::Shape { matrix: exponents.len().min(matrices.len()) });
        }
        for (matrix, (weights, &given)) in matrices.iter().zip(exponents).enumerate() {
            exponent(weights).map_err(|error| error.in_matrix(matrix))?;
            let too_large = |weight: &f32| *weight != 0.0 && exponent(&[*weight]).is_ok_and(|own| own > given);
            if let Some(position) = weights.iter().position(too_large) {
                return Err(ImageError::TooLarge { matrix, position });
            }
        }
        Ok(Self::place(layout, matrices, exponents.to_vec()))
    }

    /// Takes all coefficients of a source, whose matrices have these exponents.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load<S: Coefficients>(source: &S, exponents: Vec<i16>) -> Result<Self, S::Error> {
        const PIECE: usize = 1 << 18;
        let layout = Arc::clone(source.layout());
        let mut coefficients = vec![0; 1 << layout.log_size()];
        let pieces = coefficients.par_chunks_mut(PIECE).enumerate();
        pieces.try_for_each(|(number, piece)| source.read(number * PIECE, piece))?;
        Ok(Self { layout, coefficients, exponents })
    }

    /// Writes the images of checked matrices to their places.
    fn place(layout: Arc<Layout>, matrices: &[&[f32]], exponents: Vec<i16>) -> Self {
        let mut coefficients = vec![0; 1 << layout.log_size()];
        // Tiles lie one after the other from the start.
        let mut rest = coefficients.as_mut_slice();
        for tile in layout.tiles() {
            let (target, after) = rest.split_at_mut(1 << tile.size_log());
            rest = after;
            let scale = Scale::new(exponents[tile.matrix]);
            let row_length = layout.shapes()[tile.matrix].inputs as usize;
            let rows = matrices[tile.matrix].chunks_exact(row_length);
            let rows = rows.skip(tile.first_output).map(|row| &row[tile.input_range()]);
            for (target, row) in target.chunks_exact_mut(tile.inputs()).zip(rows) {
                for (target, &weight) in target.iter_mut().zip(row) {
                    *target = scale.image(weight);
                }
            }
        }
        Self { layout, coefficients, exponents }
    }

    /// Where the weights lie.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The exponents of the matrices.
    pub fn exponents(&self) -> &[i16] {
        &self.exponents
    }

    /// All `2^log_size` coefficients; padding is zero.
    pub fn coefficients(&self) -> &[i32] {
        &self.coefficients
    }

    /// The coefficients of a tile: a row of inputs for every output.
    pub(crate) fn tile(&self, tile: &Tile) -> &[i32] {
        &self.coefficients[tile.coefficient_range()]
    }

    /// `x W_int` for one matrix: an exact integer for every output, below `2^51` in magnitude.
    ///
    /// # Panics
    /// If there is no such matrix, `x` has not one entry an input, or `|x|_1` is above
    /// [`MAX_INPUT_NORM`].
    pub fn product(&self, matrix: usize, x: &[i64]) -> Vec<i64> {
        let shape = self.layout.shapes()[matrix];
        assert_eq!(x.len(), shape.inputs as usize, "a vector has one entry an input");
        let norm = x.iter().fold(0_u64, |norm, entry| norm.saturating_add(entry.unsigned_abs()));
        assert!(norm <= MAX_INPUT_NORM.unsigned_abs(), "the vector's norm keeps sums below 2^51");
        let mut product = vec![0_i64; shape.outputs as usize];
        for tile in self.layout.tiles_of(matrix) {
            let x = &x[tile.input_range()];
            let rows = self.tile(tile).par_chunks_exact(tile.inputs()).with_min_len(rows_a_task(tile.inputs()));
            rows.zip(&mut product[tile.output_range()]).for_each(|(row, sum)| {
                // Wrapping only in form: sums stay below 2^51, and checks would forbid vectors.
                *sum = row
                    .iter()
                    .zip(x)
                    .fold(*sum, |sum, (&weight, &x)| sum.wrapping_add(i64::from(weight).wrapping_mul(x)));
            });
        }
        product
    }
}

impl Coefficients for LayerPolynomial {
    type Error = Infallible;

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn read(&self, start: usize, out: &mut [i32]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.coefficients[start..start + out.len()]);
        Ok(())
    }
}

/// How many rows a task of the thread pool should take to be worth its start.
pub(crate) const fn rows_a_task(row_length: usize) -> usize {
    const PRODUCTS_A_TASK: usize = 1 << 15;
    PRODUCTS_A_TASK.div_ceil(row_length)
}

fn check_shapes(layout: &Layout, matrices: &[&[f32]]) -> Result<(), ImageError> {
    if matrices.len() != layout.shapes().len() {
        return Err(ImageError::Shape { matrix: matrices.len().min(layout.shapes().len()) });
    }
    let misfit =
        matrices.iter().zip(layout.shapes()).position(|(weights, shape)| weights.len() as u64 != shape.weights());
    misfit.map_or(Ok(()), |matrix| Err(ImageError::Shape { matrix }))
}
