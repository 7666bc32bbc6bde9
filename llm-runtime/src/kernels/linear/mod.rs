//! Products of rows with a matrix.
//!
//! An output is always summed in the same order, whatever the number of rows, the threads, the blocks
//! and the instructions: a row has the same bits alone and among others, on every machine. Sixteen
//! lanes take turns over the inputs with fused multiply-adds, and a tree adds the lanes. Other devices have
//! their own orders.

#[cfg(feature = "cuda")]
mod cuda;
pub(crate) mod lanes;
pub(crate) mod pages;
#[cfg(test)]
mod tests;
mod tiles;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::{CpuStorage, CustomOp2, CustomOp3, Device, Layout, Result, Shape, Storage, Tensor, WithDType, bail};
use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use self::lanes::{Instructions, LANES};
use self::tiles::{Element, Matrix, Rows, Share};

/// Multiply-adds below which a task costs more to hand to another thread than to run.
pub(super) const TASK_WORK: usize = 1 << 16;

/// Outputs of a share: whole tiles, but in the last one.
const SHARE: usize = 24;

/// A matrix `[outputs, inputs]` as it is run.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    F32(Tensor),
    Bf16(Tensor),
    /// 8-bit integers times the scale of their group of consecutive inputs.
    Int8 {
        /// Integers from -128, as their bits, `[outputs, inputs]`.
        values: Tensor,
        /// f32 `[outputs, groups]`; the last group of a row may be shorter than the others.
        scales: Tensor,
        /// Inputs of a group, a multiple of 16.
        group: usize,
    },
}

impl Weights {
    /// # Errors
    /// Not one value an output and input.
    pub(crate) fn f32(values: &[f32], [outputs, inputs]: [usize; 2]) -> Result<Self> {
        matrix(values, outputs, inputs).map(Self::F32)
    }

    /// # Errors
    /// Not one value an output and input.
    pub(crate) fn bf16(values: &[bf16], [outputs, inputs]: [usize; 2]) -> Result<Self> {
        matrix(values, outputs, inputs).map(Self::Bf16)
    }

    /// # Errors
    /// Not one value an output and input, not one scale an output and group, or a group that is not a
    /// multiple of 16.
    pub(crate) fn int8(values: &[u8], scales: &[f32], group: usize, [outputs, inputs]: [usize; 2]) -> Result<Self> {
        if group == 0 || !group.is_multiple_of(LANES) {
            bail!("groups of {group} weights: their length must be a multiple of {LANES}");
        }
        let values = matrix(values, outputs, inputs)?;
        let scales = matrix(scales, outputs, inputs.div_ceil(group))?;
        Ok(Self::Int8 { values, scales, group })
    }

    /// The outputs of several matrices, one after the other.
    ///
    /// # Errors
    /// No matrix, matrices of several kinds, groups or numbers of inputs.
    pub(crate) fn stack(matrices: &[Self]) -> Result<Self> {
        if let [matrix] = matrices {
            return Ok(matrix.clone());
        }
        let Some(first) = matrices.first() else { bail!("no matrix to stack") };
        if !matrices.iter().all(|matrix| (matrix.group(), matrix.inputs()) == (first.group(), first.inputs())) {
            bail!("matrices of several groups or inputs cannot be stacked");
        }
        Ok(match first {
            Self::F32(_) => Self::F32(stacked::<f32>(matrices, Self::values)?),
            Self::Bf16(_) => Self::Bf16(stacked::<bf16>(matrices, Self::values)?),
            Self::Int8 { group, .. } => Self::Int8 {
                values: stacked::<u8>(matrices, Self::values)?,
                scales: stacked::<f32>(matrices, |matrix| match matrix {
                    Self::Int8 { scales, .. } => scales,
                    Self::F32(values) | Self::Bf16(values) => values,
                })?,
                group: *group,
            },
        })
    }

    #[cfg(test)]
    pub(crate) fn outputs(&self) -> usize {
        self.values().dims()[0]
    }

    pub(crate) fn inputs(&self) -> usize {
        self.values().dims()[1]
    }

    fn values(&self) -> &Tensor {
        match self {
            Self::F32(values) | Self::Bf16(values) | Self::Int8 { values, .. } => values,
        }
    }

    fn group(&self) -> Option<usize> {
        match self {
            Self::F32(_) | Self::Bf16(_) => None,
            Self::Int8 { group, .. } => Some(*group),
        }
    }
}

fn matrix<T: WithDType>(values: &[T], outputs: usize, inputs: usize) -> Result<Tensor> {
    if outputs == 0 || inputs == 0 {
        bail!("a matrix of {outputs} outputs and {inputs} inputs");
    }
    Tensor::from_vec(pages::joined(&[values]), (outputs, inputs), &Device::Cpu)
}

/// The outputs of tensors `[outputs, inputs]` of several matrices, one after the other.
fn stacked<T: WithDType>(matrices: &[Weights], tensor: fn(&Weights) -> &Tensor) -> Result<Tensor> {
    let parts: Vec<_> = matrices.iter().map(|matrix| tensor(matrix).storage_and_layout()).collect();
    let slices = parts.iter().map(|(storage, layout)| match &**storage {
        Storage::Cpu(storage) => elements::<T>(storage, layout),
        _ => bail!("matrices are stacked on the CPU"),
    });
    let values = pages::joined(&slices.collect::<Result<Vec<_>>>()?);
    let inputs = tensor(&matrices[0]).dim(1)?;
    let outputs = values.len() / inputs;
    Tensor::from_vec(values, (outputs, inputs), &Device::Cpu)
}

/// `x w^T` of rows `[n, inputs]`: f32 `[n, outputs]`, accumulated in f32, not rounded.
///
/// # Errors
/// Rows of another type or width than the weights take.
pub(crate) fn product(x: &Tensor, weights: &Weights) -> Result<Tensor> {
    product_with(Instructions::best(), x, weights)
}

fn product_with(instructions: Instructions, x: &Tensor, weights: &Weights) -> Result<Tensor> {
    let (_, width) = x.dims2()?;
    if width != weights.inputs() {
        bail!("rows of {width} values for a matrix of {} inputs", weights.inputs());
    }
    match weights {
        Weights::F32(values) | Weights::Bf16(values) => x.apply_op2_no_bwd(values, &Product(instructions)),
        Weights::Int8 { values, scales, group } => {
            x.apply_op3_no_bwd(values, scales, &ScaledProduct { instructions, group: *group })
        }
    }
}

struct Product(Instructions);

impl CustomOp2 for Product {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = elements(rows, rows_layout)?;
        let (outputs, inputs) = values_layout.shape().dims2()?;
        if let CpuStorage::BF16(_) = values {
            let values = elements::<bf16>(values, values_layout)?.reinterpret_cast();
            Ok(run(self.0, rows, outputs, Matrix { values, inputs, scales: &[], group: inputs }))
        } else {
            let values = elements::<f32>(values, values_layout)?;
            Ok(run(self.0, rows, outputs, Matrix { values, inputs, scales: &[], group: inputs }))
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        rows: &CudaStorage,
        rows_layout: &Layout,
        values: &CudaStorage,
        values_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        cuda::product(rows, rows_layout, values, values_layout)
    }
}

struct ScaledProduct {
    instructions: Instructions,
    group: usize,
}

impl CustomOp3 for ScaledProduct {
    fn name(&self) -> &'static str {
        "scaled-product"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        values: &CpuStorage,
        values_layout: &Layout,
        scales: &CpuStorage,
        scales_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = elements(rows, rows_layout)?;
        let (outputs, inputs) = values_layout.shape().dims2()?;
        let values = elements::<u8>(values, values_layout)?;
        let scales = elements(scales, scales_layout)?;
        Ok(run(self.instructions, rows, outputs, Matrix { values, inputs, scales, group: self.group }))
    }
}

/// The elements of a contiguous tensor.
fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("products read contiguous tensors"),
    }
}

/// All outputs of all rows, shared among the threads.
fn run<E: Element>(
    instructions: Instructions,
    rows: &[f32],
    outputs: usize,
    matrix: Matrix<'_, E>,
) -> (CpuStorage, Shape) {
    let count = rows.len() / matrix.inputs;
    let mut out = vec![0.0; count * outputs];
    if count > 0 {
        let rows = &Rows::new(rows, matrix.inputs, instructions.rows());
        let tasks = (count * outputs * matrix.inputs / TASK_WORK).clamp(1, 16 * rayon::current_num_threads());
        let width = outputs.div_ceil(tasks).next_multiple_of(SHARE);
        let mut shares: Vec<_> = (0..outputs)
            .step_by(width)
            .map(|start| Share { rows, matrix, start, out: Vec::with_capacity(count) })
            .collect();
        for row in out.chunks_exact_mut(outputs) {
            shares.iter_mut().zip(row.chunks_mut(width)).for_each(|(share, part)| share.out.push(part));
        }
        if shares.len() == 1 {
            shares.into_iter().for_each(|share| instructions.run(share));
        } else {
            shares.into_par_iter().with_max_len(1).for_each(|share| instructions.run(share));
        }
    }
    (CpuStorage::F32(out), Shape::from((count, outputs)))
}
