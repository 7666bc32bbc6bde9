//! Products of rows with a matrix.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{TASK_WORK, dot, elements};

/// `x w^T` of rows `[n, inputs]` and a matrix `[outputs, inputs]`, accumulated in f32, not rounded.
///
/// Several rows are candle's work. For a single one its product first counts the machine's cores, by
/// reading `/proc/cpuinfo`, which takes longer than the arithmetic of a small model. The two sum in
/// different orders: a row run alone and among others differs in the last bits of f32.
pub(crate) fn product(x: &Tensor, weights: &Tensor) -> Result<Tensor> {
    if x.dim(0)? == 1 { x.apply_op2_no_bwd(weights, &RowProduct) } else { x.matmul(&weights.t()?) }
}

/// One row: a dot product an output, always summed in the same order.
struct RowProduct;

impl CustomOp2 for RowProduct {
    fn name(&self) -> &'static str {
        "row-product"
    }

    fn cpu_fwd(
        &self,
        row: &CpuStorage,
        row_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let row = elements(row, row_layout)?;
        let weights = elements(weights, weights_layout)?;
        let outputs = weights.len() / row.len();
        let mut out = vec![0.0; outputs];
        let fill = |(out, weights): (&mut [f32], &[f32])| {
            out.iter_mut().zip(weights.chunks_exact(row.len())).for_each(|(out, weights)| *out = dot(row, weights));
        };
        if weights.len() <= TASK_WORK {
            fill((&mut out, weights));
        } else {
            let share = TASK_WORK.div_ceil(row.len());
            out.par_chunks_mut(share).zip(weights.par_chunks(share * row.len())).for_each(fill);
        }
        Ok((CpuStorage::F32(out), Shape::from((1, outputs))))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::random::Random;

    #[test]
    fn one_row_gives_what_several_give() {
        let mut random = Random::new(2);
        let mut tensor = |shape: (usize, usize)| {
            let values: Vec<f32> = (0..shape.0 * shape.1).map(|_| random.normal()).collect();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        // Below and above the size at which threads share the work.
        for (inputs, outputs) in [(40, 24), (512, 1031)] {
            let (rows, weights) = (tensor((3, inputs)), tensor((outputs, inputs)));
            let all: Vec<Vec<f32>> = product(&rows, &weights).unwrap().to_vec2().unwrap();
            for (index, expected) in all.iter().enumerate() {
                let alone = product(&rows.narrow(0, index, 1).unwrap(), &weights).unwrap();
                let alone: Vec<Vec<f32>> = alone.to_vec2().unwrap();
                for (value, expected) in alone[0].iter().zip(expected) {
                    assert!((value - expected).abs() < 1e-4, "{value} {expected}");
                }
            }
        }
    }
}
