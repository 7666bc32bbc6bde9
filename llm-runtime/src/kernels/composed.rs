//! The operations of a layer composed of candle's tensor operations, for devices that have no fused ones.
//!
//! Each rounds where its fused twin does; what differs is the order of sums. Slow beside a fused kernel,
//! but it runs wherever candle does, and on the CPU tests hold it to the twin.

use assay_commitments::rows::{Element, Profile};
use candle_core::{D, DType, Device, Result, Tensor};

use super::{Attention, GatedSilu, NormHeads, RmsNorm, Rotate, Span, Store, Weights};
use crate::cache::BLOCK;

impl Weights {
    /// The same weights on a device. Integers stay what they are on the CPU alone; elsewhere they are
    /// multiplied with their scales, which is exact in f32.
    pub(crate) fn on(&self, device: &Device) -> Result<Self> {
        Ok(match self {
            Self::F32(values) => Self::F32(values.to_device(device)?),
            Self::Bf16(values) => Self::Bf16(values.to_device(device)?),
            Self::Int8 { .. } if device.is_cpu() => self.clone(),
            Self::Int8 { values, scales, group } => Self::F32(scaled(values, scales, *group)?.to_device(device)?),
        })
    }
}

/// Stored integers times the scales of their groups.
fn scaled(values: &Tensor, scales: &Tensor, group: usize) -> Result<Tensor> {
    let ((outputs, inputs), groups) = (values.dims2()?, scales.dim(1)?);
    let scales = scales.unsqueeze(2)?.broadcast_as((outputs, groups, group))?;
    let scales = scales.reshape((outputs, groups * group))?.narrow(1, 0, inputs)?;
    let integers = values.flatten_all()?.to_vec1::<u8>()?.into_iter().map(|bits| f32::from(bits.cast_signed()));
    Tensor::from_iter(integers, &Device::Cpu)?.reshape((outputs, inputs))? * scales
}

/// Each f32 value to the nearest activation.
pub(super) fn round(profile: Profile, values: &Tensor) -> Result<Tensor> {
    match profile.element() {
        Element::Bf16 => flush(&values.to_dtype(DType::BF16)?.to_dtype(DType::F32)?),
        Element::F32 => flush(values),
    }
}

/// Magnitudes under 2^-126 and negative zero become zero; NaN stays.
fn flush(values: &Tensor) -> Result<Tensor> {
    let least = Tensor::full(f32::MIN_POSITIVE, values.shape(), values.device())?;
    values.abs()?.lt(&least)?.where_cond(&values.zeros_like()?, values)
}

/// Each f64 value to the nearest activation, in one step: through f32, what lies next to the middle between two
/// bf16 numbers would go to the wrong one.
#[expect(clippy::cast_precision_loss, reason = "a power of two")]
fn round_once(profile: Profile, values: &Tensor) -> Result<Tensor> {
    let nearest = match profile.element() {
        // Veltkamp's splitting: the upper 8 bits, to nearest, halves to even.
        Element::Bf16 => {
            let shifted = values.affine((1_u64 << (52 - 7)) as f64 + 1.0, 0.0)?;
            (&shifted - (&shifted - values)?)?
        }
        Element::F32 => values.clone(),
    };
    flush(&nearest.to_dtype(DType::F32)?)
}

/// Norms the last dimension.
#[expect(clippy::cast_precision_loss, reason = "widths stay below 2^24")]
pub(super) fn rms_norm(op: RmsNorm, rows: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (rows, weights) = (rows.to_dtype(DType::F64)?, weights.to_dtype(DType::F64)?);
    let width = rows.dim(D::Minus1)? as f64;
    let scale = rows.sqr()?.sum_keepdim(D::Minus1)?.affine(1.0 / width, f64::from(op.eps))?.sqrt()?.recip()?;
    round_once(op.profile, &rows.broadcast_mul(&scale)?.broadcast_mul(&weights)?)
}

pub(super) fn norm_heads(op: &NormHeads, products: &Tensor, weights: &Tensor) -> Result<Tensor> {
    let (count, width) = products.dims2()?;
    let heads = products.reshape((count, op.heads + 2 * op.kv_heads, ()))?;
    let weights = weights.reshape((2, ()))?;
    let queries = rms_norm(op.norm, &heads.narrow(1, 0, op.heads)?, &weights.get(0)?)?;
    let keys = rms_norm(op.norm, &heads.narrow(1, op.heads, op.kv_heads)?, &weights.get(1)?)?;
    let values = heads.narrow(1, op.heads + op.kv_heads, op.kv_heads)?;
    Tensor::cat(&[queries, keys, values], 1)?.reshape((count, width))
}

pub(super) fn rotate(op: &Rotate, products: &Tensor, angles: &Tensor) -> Result<Tensor> {
    let ((count, width), half) = (products.dims2()?, op.head_dim / 2);
    let heads = products.reshape((count, (), op.head_dim))?;
    let turned = heads.narrow(1, 0, op.heads)?.to_dtype(DType::F64)?;
    let (first, second) = (turned.narrow(2, 0, half)?, turned.narrow(2, half, half)?);
    let angles = angles.to_dtype(DType::F64)?.unsqueeze(1)?;
    let (cos, sin) = (angles.narrow(2, 0, half)?, angles.narrow(2, half, half)?);
    let front = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let back = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    let turned = round_once(op.profile, &Tensor::cat(&[front, back], 2)?)?;
    let values = heads.narrow(1, op.heads, width / op.head_dim - op.heads)?;
    Tensor::cat(&[turned, values], 1)?.reshape((count, width))
}

pub(super) fn gated_silu(op: &GatedSilu, products: &Tensor) -> Result<Tensor> {
    let gate = round(op.profile, &products.narrow(1, 0, op.ffn)?)?.to_dtype(DType::F64)?;
    let up = round(op.profile, &products.narrow(1, op.ffn, op.ffn)?)?;
    let silu = (&gate / gate.neg()?.exp()?.affine(1.0, 1.0)?)?.to_dtype(DType::F32)?;
    round(op.profile, &(round(op.profile, &silu)? * up)?)
}

pub(super) fn store(op: &Store, block: &Tensor, products: &Tensor) -> Result<()> {
    let (_, width) = products.dims2()?;
    let cached = 2 * op.kv_heads * op.head_dim;
    let rows = products.narrow(0, op.rows.start, op.rows.len())?.narrow(1, width - cached, cached)?;
    let heads = rows.reshape((op.rows.len(), 2, op.kv_heads, op.head_dim))?.permute((2, 1, 0, 3))?;
    let heads = heads.to_dtype(block.dtype())?.unsqueeze(0)?.contiguous()?;
    block.narrow(0, op.layer, 1)?.slice_set(&heads, 3, op.at)
}

/// Attention of one sequence's rows, in groups `[kv_heads, ..]` of heads that share keys and values.
#[expect(clippy::cast_precision_loss, reason = "head widths are small")]
pub(super) fn attention(op: &Attention, products: &Tensor, layer: usize, span: &Span<'_>) -> Result<Tensor> {
    let (count, end) = (span.rows.len(), span.start + span.rows.len());
    let Attention { heads, kv_heads, head_dim, .. } = *op;
    // What lies before the first row's window is left out by blocks, the rest below.
    let first = op.window.map_or(0, |window| (span.start + 1).saturating_sub(window)) / BLOCK;
    let start = first * BLOCK;
    let blocks = span.blocks[first..end.div_ceil(BLOCK)].iter().map(|block| block.get(layer));
    let cached = Tensor::cat(&blocks.collect::<Result<Vec<_>>>()?, 2)?.narrow(2, 0, end - start)?;
    let part = |which| cached.narrow(1, which, 1)?.squeeze(1)?.to_dtype(DType::F32)?.contiguous();
    let (keys, values) = (part(0)?, part(1)?);

    let queries = products.narrow(0, span.rows.start, count)?.narrow(1, 0, heads * head_dim)?;
    let queries = queries.reshape((count, kv_heads, heads / kv_heads, head_dim))?.transpose(0, 1)?;
    let queries = queries.contiguous()?.reshape((kv_heads, (), head_dim))?;
    let scores = queries.matmul(&keys.t()?)?.affine(1.0 / (head_dim as f64).sqrt(), 0.0)?;
    let scores = scores.reshape((kv_heads, count, heads / kv_heads, end - start))?;
    let hidden = Tensor::full(f32::NEG_INFINITY, scores.shape(), scores.device())?;
    let scores = visible(op, span, start)?.broadcast_as(scores.shape())?.where_cond(&scores, &hidden)?;

    let weights = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    let weights = weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?;
    let attended = weights.reshape((kv_heads, (), end - start))?.matmul(&values)?;
    let attended = attended.reshape((kv_heads, count, heads / kv_heads, head_dim))?.transpose(0, 1)?;
    round(op.profile, &attended.reshape((count, heads * head_dim))?)
}

/// Which positions, from `start` on, each row sees: `[1, n, 1, positions]`.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a context is below 2^32")]
fn visible(op: &Attention, span: &Span<'_>, start: usize) -> Result<Tensor> {
    let (end, device) = (span.start + span.rows.len(), span.blocks[0].device());
    let positions = |from: usize| Tensor::arange(from as u32, end as u32, device);
    let rows = positions(span.start)?.reshape((1, (), 1, 1))?;
    let others = positions(start)?.reshape((1, 1, 1, ()))?;
    let past = others.broadcast_le(&rows)?;
    match op.window {
        None => Ok(past),
        Some(window) => {
            let near = others.affine(1.0, window.min(end) as f64)?.broadcast_gt(&rows)?;
            past.broadcast_mul(&near)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::cache::CachePool;
    use crate::kernels::{Add, AddBias, Round};
    use crate::quantized::Quantized;
    use crate::random::Random;

    thread_local! {
        /// Whether this thread composes on the CPU too.
        pub(in crate::kernels) static INSTEAD: Cell<bool> = const { Cell::new(false) };
    }

    /// What `work` makes on this thread, fused and composed.
    pub(crate) fn both<T>(work: impl Fn() -> T) -> [T; 2] {
        [false, true].map(|instead| {
            INSTEAD.set(instead);
            let made = work();
            INSTEAD.set(false);
            made
        })
    }

    const PROFILES: [Profile; 2] = [Profile::Bf16V1, Profile::F32V1];

    /// Activations of all sizes, some of which are as good as zero.
    fn noise(seed: u64, profile: Profile, shape: (usize, usize)) -> Tensor {
        let mut random = Random::new(seed);
        let mut values: Vec<f32> =
            (0..shape.0 * shape.1).map(|i| random.normal() * [1.0, 1e-3, 30.0, 1e-38][i % 7 % 4]).collect();
        profile.round(&mut values);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
    }

    #[track_caller]
    fn assert_same(work: impl Fn() -> Result<Tensor>) {
        let [fused, composed] = both(|| bits(&work().unwrap()));
        assert!(fused.iter().any(|bits| *bits != 0));
        assert_eq!(fused, composed);
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "what was rounded is an f32 number")]
    fn values_are_rounded_once() {
        let mut values = vec![0.0, 1e60, f64::from(f32::MAX), f64::from(f32::MIN_POSITIVE), 1e-39];
        for significand in 256..512 {
            for exponent in [-134, -120, -8, 0, 5, 119] {
                // A number or the middle between two of them, and what lies next to it.
                let value = f64::from(significand) * 2.0_f64.powi(exponent);
                values.extend([value, value.next_up(), value.next_down(), value * (1.0 + 1e-9), value * (1.0 - 1e-9)]);
            }
        }
        let mut random = Random::new(1);
        values.extend((0..200_000).map(|_| f64::from(random.normal()) * f64::from(random.normal())));
        values.extend(values.clone().iter().map(|value| -value));
        let tensor = Tensor::new(values.as_slice(), &Device::Cpu).unwrap();
        for profile in PROFILES {
            for (value, rounded) in values.iter().zip(bits(&round_once(profile, &tensor).unwrap())) {
                assert_eq!(rounded, (profile.round_once(*value) as f32).to_bits(), "{profile:?} {value:e}");
            }
        }
        for value in [1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
            for profile in PROFILES {
                let rounded = round_once(profile, &Tensor::new(&[value], &Device::Cpu).unwrap()).unwrap();
                assert!(!f32::from_bits(bits(&rounded)[0]).is_finite(), "an overflow is to be seen");
            }
        }
    }

    #[test]
    fn what_is_composed_has_the_bits_of_what_is_fused() {
        for profile in PROFILES {
            let products = noise(1, Profile::F32V1, (9, 5 * 24));
            let rounded = noise(2, profile, (9, 5 * 24));
            let other = noise(3, profile, (9, 5 * 24));
            let row = |seed, width| noise(seed, Profile::F32V1, (1, width)).flatten_all().unwrap();
            let norm = RmsNorm { eps: 1e-5, profile };
            let angles = row(6, 9 * 24).cos().unwrap().reshape((9, 24)).unwrap();

            assert_same(|| Round(profile).run(products.copy()?));
            assert_same(|| AddBias.run(products.copy()?, &row(4, 5 * 24)));
            assert_same(|| norm.run(&rounded, &row(5, 5 * 24)));
            assert_same(|| NormHeads { heads: 3, kv_heads: 1, norm }.run(rounded.copy()?, &row(5, 48)));
            assert_same(|| Rotate { heads: 4, head_dim: 24, profile }.run(rounded.copy()?, &angles));
            assert_same(|| Add(profile).run(&rounded, &other));
            assert_same(|| GatedSilu { ffn: 60, profile }.run(&products));
        }
    }

    #[test]
    fn a_cache_holds_the_same_and_attention_sees_the_same() {
        const HEADS: usize = 6;
        const KV_HEADS: usize = 2;
        for (profile, (head_dim, window)) in
            PROFILES.iter().flat_map(|profile| [(8, None), (8, Some(70)), (40, Some(2))].map(|shape| (*profile, shape)))
        {
            let attention = Attention { heads: HEADS, kv_heads: KV_HEADS, head_dim, window, profile };
            let width = (HEADS + 2 * KV_HEADS) * head_dim;
            // One sequence of 150 rows in three passes, beside one of 40 in the last.
            let (long, short) = (noise(7, profile, (150, width)), noise(8, profile, (40, width)));
            let [fused, composed] = both(|| {
                let pool = CachePool::of_shape([3, KV_HEADS, head_dim], profile, &Device::Cpu, usize::MAX);
                let [mut one, mut other] = [150, 40].map(|positions| pool.reserve(positions).unwrap());
                let mut attended = vec![];
                for (start, count) in [(0, 90), (90, 1)] {
                    let rows = long.narrow(0, start, count).unwrap();
                    one.grow(start + count).unwrap();
                    one.store(1, &rows, 0..count, start).unwrap();
                    let span = Span { rows: 0..count, start, blocks: one.blocks() };
                    attended.push(attention.run(&rows, 1, &[span]).unwrap());
                }
                let rows = Tensor::cat(&[&short, &long.narrow(0, 91, 59).unwrap()], 0).unwrap();
                one.grow(150).unwrap();
                other.grow(40).unwrap();
                other.store(1, &rows, 0..40, 0).unwrap();
                one.store(1, &rows, 40..99, 91).unwrap();
                let spans = [
                    Span { rows: 0..40, start: 0, blocks: other.blocks() },
                    Span { rows: 40..99, start: 91, blocks: one.blocks() },
                ];
                attended.push(attention.run(&rows, 1, &spans).unwrap());
                let blocks = one.blocks().iter().chain(other.blocks());
                let cached: Vec<Vec<u32>> = blocks.map(|b| bits(&b.to_dtype(DType::F32).unwrap())).collect();
                (cached, Tensor::cat(&attended, 0).unwrap().to_vec2::<f32>().unwrap())
            });
            assert_eq!(fused.0, composed.0);
            let unit = if profile == Profile::Bf16V1 { 2.0_f32.powi(-7) } else { 2.0_f32.powi(-16) };
            for (fused, composed) in fused.1.iter().flatten().zip(composed.1.iter().flatten()) {
                assert!((fused - composed).abs() <= unit * fused.abs() + 1e-4, "{fused} {composed} {window:?}");
            }
        }
    }
    #[test]
    fn integers_elsewhere_are_their_weights() {
        let mut random = Random::new(9);
        for (group, inputs) in [(16, 40), (16, 48), (128, 100), (32, 1_usize)] {
            let stored: Vec<u8> = (0..5 * inputs).map(|_| random.word().to_le_bytes()[0]).collect();
            let scales: Vec<f32> = (0..5 * inputs.div_ceil(group)).map(|_| random.normal().abs() / 100.0).collect();
            let weights = Weights::int8(&stored, &scales, group, [5, inputs]).unwrap();
            let Weights::Int8 { values, scales: tensor, group } = weights else { panic!("made of integers") };
            let made = scaled(&values, &tensor, group).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let values = stored.into_iter().map(u8::cast_signed).collect();
            let mut expected = vec![0.0; 5 * inputs];
            Quantized { values, scales, group }.weights(inputs, 0, &mut expected);
            assert_eq!(made, expected, "{inputs} by {group}");
        }
    }
}
