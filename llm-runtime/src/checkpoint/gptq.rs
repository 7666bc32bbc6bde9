//! Matrices in the layout of GPTQ checkpoints, as AutoGPTQ and GPTQModel write them.
//!
//! Of a matrix `[outputs, inputs]` of `bits`-bit integers there are four tensors:
//!
//! | tensor | type and shape | holds |
//! |---|---|---|
//! | `qweight` | int32 `[inputs * bits / 32, outputs]` | integers `q`, consecutive inputs from the low bits on |
//! | `qzeros` | int32 `[groups, outputs * bits / 32]` | zeros, consecutive outputs from the low bits on; less one in version 1 |
//! | `scales` | f16 `[groups, outputs]` | scales |
//! | `g_idx` | int32 `[inputs]` | the group of each input |
//!
//! The weight is `scale[group][output] * (q[input][output] - zero[group][output])`.

use assay_commitments::manifest::{Architecture, Matrix};
use serde_json::{Value, json};

use super::config::Keys;
use super::error::ConfigProblem;
use crate::quantized::Quantized;

/// How a checkpoint is quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gptq {
    /// Bits of an integer, 4 or 8.
    bits: usize,
    /// Consecutive inputs that share scale and zero; `None` for all.
    group_size: Option<usize>,
    /// Whether zeros are stored less one.
    less_one: bool,
}

/// The four tensors of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    Weights,
    Zeros,
    Scales,
    Groups,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Self::Weights, Self::Zeros, Self::Scales, Self::Groups];

    /// What stands at the end of its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Weights => "qweight",
            Self::Zeros => "qzeros",
            Self::Scales => "scales",
            Self::Groups => "g_idx",
        }
    }
}

/// An element for which there is no integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unfit {
    pub(super) part: Part,
    /// Its index, counted row by row, where each packed integer counts.
    pub(super) index: usize,
    pub(super) reason: &'static str,
}

impl Gptq {
    /// Reads `quantization_config`; what is wrong with it stays with the keys.
    pub(super) fn read(keys: &mut Keys<'_>) -> Self {
        const SUPPORTED: &str = "\"gptq\" or \"gptq_v2\"";
        let mut gptq = Self { bits: 8, group_size: None, less_one: true };
        if keys.get("quant_method").is_none_or(|method| method != "gptq") {
            // The rest of another method means something else.
            keys.refuse("quant_method", "\"gptq\"");
            return gptq;
        }
        match keys.get("bits").and_then(Value::as_u64) {
            Some(4) => gptq.bits = 4,
            Some(8) => gptq.bits = 8,
            _ => keys.refuse("bits", "4 or 8"),
        }
        match keys.get("group_size").and_then(Value::as_i64) {
            Some(-1) => {}
            Some(size @ 1..) => gptq.group_size = usize::try_from(size).ok(),
            _ => keys.refuse("group_size", "a number of inputs, or -1 for all"),
        }
        keys.only("desc_act", |order| *order == false, "false: groups of consecutive inputs");
        keys.only("lm_head", |quantized| *quantized == false, "false: an lm_head that is not quantised");
        keys.only("pack_dtype", |dtype| dtype == "int32", "\"int32\"");
        for key in ["modules_in_block_to_quantize", "modules_to_not_convert", "dynamic"] {
            let empty = |value: &Value| [json!([]), json!({})].contains(value);
            keys.only(key, empty, "null: all matrices of decoder layers quantised alike");
        }
        let format = if keys.get("checkpoint_format").is_some() { "checkpoint_format" } else { "format" };
        keys.only(format, |format| format == "gptq" || format == "gptq_v2", SUPPORTED);
        gptq.less_one = keys.get(format).is_none_or(|format| format != "gptq_v2");
        gptq
    }

    /// Integers in a word.
    const fn per_word(self) -> usize {
        32 / self.bits
    }

    /// Why a model of this shape cannot be quantised so.
    pub(super) fn misfit(self, architecture: &Architecture) -> Option<ConfigProblem> {
        let odd = |side: u32| !(side as usize).is_multiple_of(self.per_word());
        let matrix = Matrix::ALL.into_iter().find(|matrix| {
            let shape = architecture.shape(*matrix);
            odd(shape.inputs) || odd(shape.outputs)
        })?;
        let shape = architecture.shape(matrix);
        Some(ConfigProblem::Contradiction {
            between: format!(
                "quantization_config.bits {} and {} of {} inputs and {} outputs",
                self.bits,
                matrix.name(),
                shape.inputs,
                shape.outputs
            ),
            expected: "both sides fill whole words of 32 bits",
        })
    }

    /// Inputs of a group of a matrix with so many.
    fn group(self, inputs: usize) -> usize {
        self.group_size.map_or(inputs, |size| size.min(inputs))
    }

    /// The shape of a tensor of a matrix.
    pub(super) fn shape(self, part: Part, inputs: usize, outputs: usize) -> Vec<usize> {
        let groups = inputs.div_ceil(self.group(inputs));
        match part {
            Part::Weights => vec![inputs / self.per_word(), outputs],
            Part::Zeros => vec![groups, outputs / self.per_word()],
            Part::Scales => vec![groups, outputs],
            Part::Groups => vec![inputs],
        }
    }

    /// Bytes that a matrix takes as [`Quantized`].
    pub(super) fn bytes(self, inputs: usize, outputs: usize) -> u64 {
        let (inputs, outputs, group) = (inputs as u64, outputs as u64, self.group(inputs) as u64);
        outputs * (inputs + 4 * inputs.div_ceil(group))
    }

    /// Begins a matrix with its groups, scales and zeros, as they are stored.
    pub(super) fn begin(self, groups: Vec<u32>, scales: &[f32], zeros: &[u32]) -> Result<Unpacking, Unfit> {
        let (inputs, outputs) = (groups.len(), zeros.len() * self.per_word());
        let group = self.group(inputs);
        let count = inputs.div_ceil(group);
        let outputs = outputs / count;
        let unfit = |part, index, reason| Unfit { part, index, reason };
        if let Some(index) = groups.iter().enumerate().position(|(input, of)| *of as usize != input / group) {
            let reason = "the group is not that of consecutive inputs: act-order is not supported";
            return Err(unfit(Part::Groups, index, reason));
        }
        if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
            return Err(unfit(Part::Scales, index, "the scale is infinite or no number"));
        }
        let mut matrix = Quantized { values: vec![0; inputs * outputs], scales: vec![0.0; outputs * count], group };
        for (index, scale) in scales.iter().enumerate() {
            matrix.scales[index % outputs * count + index / outputs] = *scale;
        }
        let mut zeros: Vec<i16> = zeros.iter().flat_map(|word| self.unpack(*word)).collect();
        if self.less_one {
            // Some readers add one to the word and so to the neighbour, others to the integer alone.
            if let Some(index) = zeros.iter().position(|zero| *zero == self.largest()) {
                let reason = "the zero is all ones, to which readers of this format add one in different ways";
                return Err(unfit(Part::Zeros, index, reason));
            }
            zeros.iter_mut().for_each(|zero| *zero += 1);
        }
        Ok(Unpacking { gptq: self, groups, outputs, zeros, matrix, unfit: None })
    }

    /// The integers of a word, from the low bits on.
    fn unpack(self, word: u32) -> impl Iterator<Item = i16> {
        let (mask, count) = (u32::from(self.largest().unsigned_abs()), self.per_word());
        (0..count).map(move |place| i16::try_from((word >> (place * self.bits)) & mask).unwrap_or(0))
    }

    const fn largest(self) -> i16 {
        (1 << self.bits) - 1
    }
}

/// A matrix whose integers are coming in.
#[derive(Debug)]
pub(super) struct Unpacking {
    gptq: Gptq,
    /// The group of every input.
    groups: Vec<u32>,
    outputs: usize,
    /// `[groups, outputs]`.
    zeros: Vec<i16>,
    matrix: Quantized,
    /// Place of the first integer that takes more than eight bits.
    unfit: Option<usize>,
}

impl Unpacking {
    /// Takes whole rows of `qweight` from the row `first` on.
    pub(super) fn add(&mut self, first: usize, words: &[u32]) {
        let (inputs, outputs, per_word) = (self.groups.len(), self.outputs, self.gptq.per_word());
        let start = first * per_word;
        for output in 0..outputs {
            let values = &mut self.matrix.values[output * inputs + start..];
            let column = words[output..].iter().step_by(outputs);
            let packed = values.chunks_mut(per_word).zip(self.groups[start..].chunks(per_word)).zip(column);
            for (row, ((values, groups), word)) in packed.enumerate() {
                for (place, stored) in self.gptq.unpack(*word).enumerate() {
                    let integer = stored - self.zeros[groups[place] as usize * outputs + output];
                    values[place] = i8::try_from(integer).unwrap_or_else(|_| {
                        let index = (start + row * per_word + place) * outputs + output;
                        self.unfit = Some(self.unfit.map_or(index, |first| first.min(index)));
                        0
                    });
                }
            }
        }
    }

    /// The matrix, after all rows.
    pub(super) fn finish(self) -> Result<Quantized, Unfit> {
        let reason = "the integer less its zero takes more than eight bits";
        match self.unfit {
            None => Ok(self.matrix),
            Some(index) => Err(Unfit { part: Part::Weights, index, reason }),
        }
    }
}
