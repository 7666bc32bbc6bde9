//! `p3-dft` over `p3-goldilocks`: every column of a row-major matrix is transformed, which for our
//! coefficient matrices, stored column by column, are the rows.

use p3_dft::{Radix2DFTSmallBatch, Radix2DitParallel, TwoAdicSubgroupDft};
use p3_field::PrimeCharacteristicRing;
use p3_field::{Field, PackedValue};
use p3_goldilocks::Goldilocks;
use p3_matrix::dense::RowMajorMatrix;

use crate::random::SplitMix;
use crate::report::{Measurement, best_of};

/// Both transforms that the library has for such matrices, forward, with their twiddles at hand.
pub(crate) fn all(log_columns: u32, row_log: u32, repeat: u32) -> Vec<Measurement> {
    let mut draws = SplitMix(4);
    let values = (0..1_u64 << (log_columns + row_log)).map(|_| Goldilocks::from_u64(draws.next())).collect();
    let matrix = RowMajorMatrix::new(values, 1 << row_log);
    vec![
        measure("p3-dft Radix2DFTSmallBatch", &Radix2DFTSmallBatch::new(1 << log_columns), &matrix, repeat),
        measure("p3-dft Radix2DitParallel", &Radix2DitParallel::default(), &matrix, repeat),
    ]
}

fn measure(
    name: &str,
    dft: &impl TwoAdicSubgroupDft<Goldilocks>,
    matrix: &RowMajorMatrix<Goldilocks>,
    repeat: u32,
) -> Measurement {
    // The first run makes the twiddles.
    drop(dft.dft_batch(matrix.clone()));
    let seconds = best_of(repeat, || matrix.clone(), |matrix| dft.dft_batch(matrix));
    Measurement::new(name)
        .time("forward", "ms", 1e3, seconds)
        .fact("packing_width", <Goldilocks as Field>::Packing::WIDTH)
}
