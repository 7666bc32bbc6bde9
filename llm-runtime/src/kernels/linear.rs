//! Products of rows with a matrix.

use candle_core::{Device, Result, Tensor, WithDType, bail};
use half::bf16;
use rayon::prelude::*;

use super::{read, values_of};

const LANES: usize = 16;

/// A matrix `[outputs, inputs]` as it is run.
#[derive(Clone, Debug)]
pub(crate) enum Weights {
    F32(Tensor),
    Bf16(Tensor),
    /// 8-bit integers times the scale of their group of consecutive inputs.
    Int8 {
        /// Integers from -128, stored with 128 added, `[outputs, inputs]`.
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
        let stacked = |part: fn(&Self) -> &Tensor| Tensor::cat(&matrices.iter().map(part).collect::<Vec<_>>(), 0);
        let Some(first) = matrices.first() else { bail!("no matrix to stack") };
        Ok(match first {
            Self::F32(_) => Self::F32(stacked(Self::values)?),
            Self::Bf16(_) => Self::Bf16(stacked(Self::values)?),
            Self::Int8 { group, .. } => Self::Int8 {
                values: stacked(Self::values)?,
                scales: stacked(|matrix| match matrix {
                    Self::Int8 { scales, .. } => scales,
                    Self::F32(values) | Self::Bf16(values) => values,
                })?,
                group: *group,
            },
        })
    }

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
}

fn matrix<T: WithDType>(values: &[T], outputs: usize, inputs: usize) -> Result<Tensor> {
    if outputs == 0 || inputs == 0 {
        bail!("a matrix of {outputs} outputs and {inputs} inputs");
    }
    Tensor::from_slice(values, (outputs, inputs), &Device::Cpu)
}

/// `x w^T` of rows `[n, inputs]`: f32 `[n, outputs]`, accumulated in f32, not rounded.
///
/// # Errors
/// Rows of another type or width than the weights take.
pub(crate) fn product(x: &Tensor, weights: &Weights) -> Result<Tensor> {
    let (count, width) = x.dims2()?;
    let (outputs, inputs) = (weights.outputs(), weights.inputs());
    if width != inputs {
        bail!("rows of {width} values for a matrix of {inputs} inputs");
    }
    let rows = read(x);
    let rows = values_of::<f32>(&rows, x.layout())?;
    let mut out = vec![0.0; count * outputs];
    let mut fill = |weight: &(dyn Fn(usize) -> f32 + Sync)| {
        let columns: Vec<Vec<f32>> = (0..outputs)
            .into_par_iter()
            .map(|output| {
                let weights: Vec<f32> = (0..inputs).map(|input| weight(output * inputs + input)).collect();
                rows.chunks_exact(inputs).map(|row| dot(row, &weights)).collect()
            })
            .collect();
        for (output, column) in columns.into_iter().enumerate() {
            column.into_iter().enumerate().for_each(|(row, value)| out[row * outputs + output] = value);
        }
    };
    let storage = read(weights.values());
    let layout = weights.values().layout();
    match weights {
        Weights::F32(_) => {
            let values = values_of::<f32>(&storage, layout)?;
            fill(&|index| values[index]);
        }
        Weights::Bf16(_) => {
            let values = values_of::<bf16>(&storage, layout)?;
            fill(&|index| values[index].to_f32());
        }
        Weights::Int8 { scales, group, .. } => {
            let values = values_of::<u8>(&storage, layout)?;
            let storage = read(scales);
            let scales = values_of::<f32>(&storage, scales.layout())?;
            let groups = inputs.div_ceil(*group);
            fill(&|index| {
                let scale = scales[index / inputs * groups + index % inputs / group];
                (f32::from(values[index]) - 128.0) * scale
            });
        }
    }
    Tensor::from_vec(out, (count, outputs), &Device::Cpu)
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    lanes.iter().sum::<f32>() + rest
}
