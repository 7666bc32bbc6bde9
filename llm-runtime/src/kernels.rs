//! The operations of a layer, each fused, each rounded where the profile says.
//!
//! Candle's operations are not used: its matrix product sums in an order that depends on the number of
//! rows, its RMS norm and its rotary embedding round inside in bf16, and a chain of elementary tensor
//! operations costs more than the arithmetic on rows this short. What is computed here depends on its
//! own row alone, to the bit, whatever the number of rows and threads.
//!
//! All of that holds on the CPU. Tensors on other devices go through candle's operations, which round in the
//! same places ([`composed`]), and through one product that sums in f32 ([`product`]).
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

mod attention;
mod composed;
mod linear;

use assay_commitments::rows::{Profile, vectorized};
use candle_core::{
    CpuStorage, CustomOp1, CustomOp2, Device, InplaceOp1, InplaceOp2, Layout, Result, Shape, Storage, StorageRef,
    Tensor, WithDType, bail,
};
use rayon::prelude::*;

pub(crate) use attention::{Attention, Span, Store};
#[cfg(test)]
pub(crate) use composed::tests::both;
use linear::TASK_WORK;
pub(crate) use linear::pages::{joined, zeros};
pub(crate) use linear::{Weights, product};

/// Elements that go through double precision, with the same meaning.
const TASK_ELEMENTS: usize = 1 << 10;

/// The storage of a tensor, as long as it is read.
pub(crate) fn read(tensor: &Tensor) -> StorageRef<'_> {
    tensor.storage_and_layout().0
}

/// The elements of a contiguous tensor on the CPU, where they lie.
pub(crate) fn values_of<'a, T: WithDType>(storage: &'a Storage, layout: &Layout) -> Result<&'a [T]> {
    match storage {
        Storage::Cpu(storage) => elements(storage, layout),
        _ => bail!("the kernels read tensors of the CPU"),
    }
}

/// The elements of a contiguous tensor.
fn elements<'a, T: WithDType>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<T>()?[start..end]),
        None => bail!("the kernels read contiguous tensors"),
    }
}

/// The elements of a contiguous tensor, to be changed in place.
fn elements_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (layout.contiguous_offsets(), storage) {
        (Some((start, end)), CpuStorage::F32(values)) => Ok(&mut values[start..end]),
        _ => bail!("the kernels write contiguous f32 tensors"),
    }
}

/// Calls `work` on each row of `width` elements with its number, on several threads if that pays.
fn for_rows(values: &mut [f32], width: usize, work: impl Fn(usize, &mut [f32]) + Sync) {
    if values.len() <= TASK_ELEMENTS {
        values.chunks_exact_mut(width).enumerate().for_each(|(index, row)| work(index, row));
    } else {
        let least = TASK_ELEMENTS.div_ceil(width);
        values.par_chunks_exact_mut(width).enumerate().with_min_len(least).for_each(|(index, row)| work(index, row));
    }
}

/// An activation of the profile, which is an f32 number.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "what was rounded is an f32 number")]
fn round_once(profile: Profile, value: f64) -> f32 {
    profile.round_once(value) as f32
}

/// Whether the fused operations run where a tensor lies.
fn is_fused(tensor: &Tensor) -> bool {
    #[cfg(test)]
    if composed::tests::INSTEAD.get() {
        return false;
    }
    tensor.device().is_cpu()
}

/// Runs an operation on fresh products, in place where it is fused.
fn changed(
    products: Tensor,
    fused: impl FnOnce(&Tensor) -> Result<()>,
    composed: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    if is_fused(&products) {
        fused(&products)?;
        Ok(products)
    } else {
        composed(&products)
    }
}

/// Rounds fresh products.
pub(crate) struct Round(pub(crate) Profile);

impl Round {
    pub(crate) fn run(&self, products: Tensor) -> Result<Tensor> {
        changed(products, |products| products.inplace_op1(self), |products| composed::round(self.0, products))
    }
}

impl InplaceOp1 for Round {
    fn name(&self) -> &'static str {
        "round"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.0.round(elements_mut(storage, layout)?);
        Ok(())
    }
}

/// Adds a bias `[d]` to each row of fresh products `[n, d]`. The sum is not rounded yet.
pub(crate) struct AddBias;

impl AddBias {
    pub(crate) fn run(&self, products: Tensor, bias: &Tensor) -> Result<Tensor> {
        changed(products, |products| products.inplace_op2(bias, self), |products| products.broadcast_add(bias))
    }
}

impl InplaceOp2 for AddBias {
    fn name(&self) -> &'static str {
        "add-bias"
    }

    fn cpu_fwd(
        &self,
        products: &mut CpuStorage,
        products_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = elements::<f32>(bias, bias_layout)?;
        for row in elements_mut(products, products_layout)?.chunks_exact_mut(bias.len()) {
            row.iter_mut().zip(bias).for_each(|(product, bias)| *product += bias);
        }
        Ok(())
    }
}

/// `x * rsqrt(mean(x^2) + eps) * w` for each row `x` of `[n, d]` and `w` of `[d]`: f64 inside, one
/// rounding at the end.
///
/// f64 to the rounding because an element that rounds the other way than in the audit's reference moves
/// every product of the row: in f32 about one element in ten thousand does, in f64 none.
#[derive(Clone, Copy)]
pub(crate) struct RmsNorm {
    pub(crate) eps: f32,
    pub(crate) profile: Profile,
}

impl RmsNorm {
    pub(crate) fn run(self, rows: &Tensor, weights: &Tensor) -> Result<Tensor> {
        if is_fused(rows) { rows.apply_op2_no_bwd(weights, &self) } else { composed::rms_norm(self, rows, weights) }
    }

    /// One row in place.
    fn row(self, row: &mut [f32], weights: &[f32]) {
        vectorized(
            #[inline(always)]
            || self.row_here(row, weights),
        );
    }

    #[inline(always)]
    #[expect(clippy::cast_precision_loss, reason = "widths stay below 2^24")]
    fn row_here(self, row: &mut [f32], weights: &[f32]) {
        let (chunks, rest) = row.as_chunks::<8>();
        let square = |x: &f32| f64::from(*x) * f64::from(*x);
        let mut lanes = [0.0; 8];
        for chunk in chunks {
            for i in 0..8 {
                lanes[i] += square(&chunk[i]);
            }
        }
        let squares = lanes.iter().sum::<f64>() + rest.iter().map(square).sum::<f64>();
        let scale = 1.0 / (squares / row.len() as f64 + f64::from(self.eps)).sqrt();
        for (x, weight) in row.iter_mut().zip(weights) {
            *x = round_once(self.profile, f64::from(*x) * scale * f64::from(*weight));
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let mut normed = elements::<f32>(rows, rows_layout)?.to_vec();
        let weights = elements::<f32>(weights, weights_layout)?;
        for_rows(&mut normed, weights.len(), |_, row| self.row(row, weights));
        Ok((CpuStorage::F32(normed), rows_layout.shape().clone()))
    }
}

/// Norms each query head and each key head of the rounded products `[n, q | k | v]`, as [`RmsNorm`] does a
/// row. Weights are those of queries, then those of keys.
pub(crate) struct NormHeads {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) norm: RmsNorm,
}

impl NormHeads {
    pub(crate) fn run(&self, products: Tensor, weights: &Tensor) -> Result<Tensor> {
        let composed = |products: &Tensor| composed::norm_heads(self, products, weights);
        changed(products, |products| products.inplace_op2(weights, self), composed)
    }
}

impl InplaceOp2 for NormHeads {
    fn name(&self) -> &'static str {
        "norm-heads"
    }

    fn cpu_fwd(
        &self,
        products: &mut CpuStorage,
        products_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<()> {
        let weights = elements::<f32>(weights, weights_layout)?;
        let head_dim = weights.len() / 2;
        let (queries, keys) = weights.split_at(head_dim);
        let width = (self.heads + 2 * self.kv_heads) * head_dim;
        for_rows(elements_mut(products, products_layout)?, width, |_, row| {
            let weights = std::iter::repeat_n(queries, self.heads).chain(std::iter::repeat_n(keys, self.kv_heads));
            row.chunks_exact_mut(head_dim).zip(weights).for_each(|(head, weights)| self.norm.row(head, weights));
        });
        Ok(())
    }
}

/// Turns the heads of `q` and `k` of the rounded products `[n, q | k | v]` by their position's angles.
///
/// Angles are `[n, head_dim]`: cosines, then sines, one of each a pair. A pair is an element of a
/// head's first half and its like of the second. The turned values are rounded once.
pub(crate) struct Rotate {
    /// Query and key heads together.
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) profile: Profile,
}

impl Rotate {
    pub(crate) fn run(&self, products: Tensor, angles: &Tensor) -> Result<Tensor> {
        let composed = |products: &Tensor| composed::rotate(self, products, angles);
        changed(products, |products| products.inplace_op2(angles, self), composed)
    }
}

impl InplaceOp2 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(
        &self,
        products: &mut CpuStorage,
        products_layout: &Layout,
        angles: &CpuStorage,
        angles_layout: &Layout,
    ) -> Result<()> {
        let products = elements_mut(products, products_layout)?;
        let angles = elements::<f32>(angles, angles_layout)?;
        let width = products.len() / (angles.len() / self.head_dim);
        for_rows(products, width, |index, row| {
            let angles = &angles[index * self.head_dim..][..self.head_dim];
            vectorized(
                #[inline(always)]
                || self.row(&mut row[..self.heads * self.head_dim], angles),
            );
        });
        Ok(())
    }
}

impl Rotate {
    /// All heads of a row in place.
    #[inline(always)]
    fn row(&self, heads: &mut [f32], angles: &[f32]) {
        let (cosines, sines) = angles.split_at(self.head_dim / 2);
        for head in heads.chunks_exact_mut(self.head_dim) {
            let (first, second) = head.split_at_mut(self.head_dim / 2);
            for (((x1, x2), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                let (a, b, cos, sin) = (f64::from(*x1), f64::from(*x2), f64::from(*cos), f64::from(*sin));
                *x1 = round_once(self.profile, a * cos - b * sin);
                *x2 = round_once(self.profile, b * cos + a * sin);
            }
        }
    }
}

/// The residual add: `a + b`, rounded, as a step of its own.
pub(crate) struct Add(pub(crate) Profile);

impl Add {
    pub(crate) fn run(&self, a: &Tensor, b: &Tensor) -> Result<Tensor> {
        if is_fused(a) { a.apply_op2_no_bwd(b, self) } else { composed::round(self.0, &(a + b)?) }
    }
}

impl CustomOp2 for Add {
    fn name(&self) -> &'static str {
        "add"
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (a, b) = (elements::<f32>(a, a_layout)?, elements::<f32>(b, b_layout)?);
        let mut sum: Vec<f32> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        self.0.round(&mut sum);
        Ok((CpuStorage::F32(sum), a_layout.shape().clone()))
    }
}

/// Rounds the heads of rows `[n, heads]` from `first` on to eight-bit integers with a scale each. No miner needs
/// that, and none needs it fast: on the CPU, wherever the rows lie.
pub(crate) struct Int8Heads {
    pub(crate) first: usize,
    pub(crate) head_dim: usize,
}

impl Int8Heads {
    pub(crate) fn run(&self, rows: &Tensor) -> Result<Tensor> {
        let rounded = rows.to_device(&Device::Cpu)?.copy()?;
        rounded.inplace_op1(self)?;
        rounded.to_device(rows.device())
    }
}

impl InplaceOp1 for Int8Heads {
    fn name(&self) -> &'static str {
        "int8-heads"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (_, width) = layout.shape().dims2()?;
        for row in elements_mut(storage, layout)?.chunks_exact_mut(width) {
            for head in row.chunks_exact_mut(self.head_dim).skip(self.first) {
                let scale = head.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0;
                if scale > 0.0 {
                    head.iter_mut().for_each(|value| *value = (*value / scale).round_ties_even() * scale);
                }
            }
        }
        Ok(())
    }
}

/// [`product`] in `parts` slices of the inputs, as kernels do it that add up partial sums in memory: every
/// slice's sum is rounded to bf16, and so is every sum of those.
///
/// # Errors
/// As [`product`], or a matrix of integers.
pub(crate) fn split_product(x: &Tensor, weights: &Weights, parts: usize) -> Result<Tensor> {
    let of_slice = |start: usize, length: usize| {
        let slice = |values: &Tensor| values.narrow(1, start, length)?.contiguous();
        let weights = match weights {
            Weights::F32(values) => Weights::F32(slice(values)?),
            Weights::Bf16(values) => Weights::Bf16(slice(values)?),
            Weights::Int8 { .. } => bail!("products of integers are not split"),
        };
        Round(Profile::Bf16V1).run(product(&slice(x)?, &weights)?)
    };
    let inputs = weights.inputs();
    let width = inputs.div_ceil(parts.max(1));
    let mut total = of_slice(0, width)?;
    for start in (width..inputs).step_by(width) {
        let sums = of_slice(start, width.min(inputs - start))?;
        total = Add(Profile::Bf16V1).run(&total, &sums)?;
    }
    Ok(total)
}

/// `silu(gate) * up` of the products `[n, gate | up]`: the products are rounded, then the SiLU, then
/// what is multiplied.
pub(crate) struct GatedSilu {
    /// Width of the MLP.
    pub(crate) ffn: usize,
    pub(crate) profile: Profile,
}

impl GatedSilu {
    pub(crate) fn run(&self, products: &Tensor) -> Result<Tensor> {
        if is_fused(products) { products.apply_op1_no_bwd(self) } else { composed::gated_silu(self, products) }
    }
}

impl CustomOp1 for GatedSilu {
    fn name(&self) -> &'static str {
        "gated-silu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let products = elements::<f32>(storage, layout)?;
        let rows = products.len() / (2 * self.ffn);
        let mut active = vec![0.0; rows * self.ffn];
        // Parts of a row, so that threads share a single one too.
        let part = if self.ffn.is_multiple_of(PART) { PART } else { self.ffn };
        let parts = self.ffn / part;
        for_rows(&mut active, part, |index, active| {
            let gates = &products[index / parts * 2 * self.ffn + index % parts * part..];
            let mut ups = [0.0; PART];
            for (start, active) in (0..).step_by(PART).zip(active.chunks_mut(PART)) {
                let ups = &mut ups[..active.len()];
                active.copy_from_slice(&gates[start..][..active.len()]);
                ups.copy_from_slice(&gates[self.ffn + start..][..ups.len()]);
                self.profile.round(active);
                self.profile.round(ups);
                vectorized(
                    #[inline(always)]
                    || active.iter_mut().for_each(|gate| *gate = silu(*gate)),
                );
                self.profile.round(active);
                active.iter_mut().zip(ups).for_each(|(active, up)| *active *= *up);
                self.profile.round(active);
            }
        });
        Ok((CpuStorage::F32(active), Shape::from((rows, self.ffn))))
    }
}

/// Elements of a gated product that are worked on together.
const PART: usize = 512;

/// `x / (1 + exp(-x))`, f64 inside for the reason that [`RmsNorm`] is.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + exp(-x))) as f32
}

/// `exp(x)` within two units in the last place, for `x` brought to -700 at least and 700 at most; NaN stays NaN. The same
/// bits on every machine, and without a call or a branch, so that a loop over it becomes vector code.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// Adding it rounds to an integer, which then stands in the lowest bits.
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    /// ln 2 in two parts, the first with zeros at its end.
    const LN_2: [f64; 2] = [0.693_147_180_369_123_8, 1.908_214_929_270_587_7e-10];
    /// `1 / n!`, as far as it is felt.
    const SERIES: [f64; 14] = {
        let mut series = [1.0; 14];
        let (mut n, mut factorial) = (1, 1.0);
        while n < 14 {
            #[expect(clippy::cast_precision_loss, reason = "a small integer")]
            let factor = n as f64;
            factorial *= factor;
            series[n] = 1.0 / factorial;
            n += 1;
        }
        series
    };
    let x = x.clamp(-700.0, 700.0);
    let shifted = x.mul_add(std::f64::consts::LOG2_E, MAGIC);
    let power = shifted - MAGIC;
    let rest = power.mul_add(-LN_2[1], power.mul_add(-LN_2[0], x));
    let mut value = SERIES[13];
    for i in 0..13 {
        value = value.mul_add(rest, SERIES[12 - i]);
    }
    value * f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52))
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::random::Random;

    fn tensor(values: &[f32], shape: (usize, usize)) -> Tensor {
        Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn norm_divides_by_the_root_mean_square() {
        let rows = tensor(&[3.0, 4.0, 0.0, 0.0], (2, 2));
        let weights = Tensor::from_slice(&[1.0_f32, 2.0], 2, &Device::Cpu).unwrap();
        let op = RmsNorm { eps: 1e-5, profile: Profile::F32V1 };
        let normed = values(&rows.apply_op2_no_bwd(&weights, &op).unwrap());
        let rms = (12.5_f32 + 1e-5).sqrt();
        for (value, expected) in normed.iter().zip([3.0 / rms, 8.0 / rms, 0.0, 0.0]) {
            assert!((value - expected).abs() < 1e-6, "{normed:?}");
        }
    }

    #[test]
    fn rotation_turns_split_halves_and_leaves_values_alone() {
        // One query head, one key head, one value head of width 4; a quarter turn of the first pair.
        let products = tensor(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0], (1, 12));
        let angles = tensor(&[0.0, 1.0, 1.0, 0.0], (1, 4));
        let op = Rotate { heads: 2, head_dim: 4, profile: Profile::F32V1 };
        products.inplace_op2(&angles, &op).unwrap();
        assert_eq!(values(&products), [-3.0, 2.0, 1.0, 4.0, -7.0, 6.0, 5.0, 8.0, 9.0, 10.0, 11.0, 12.0]);
    }

    fn rounded(mut values: Vec<f32>) -> Vec<f32> {
        Profile::Bf16V1.round(&mut values);
        values
    }

    fn noise(shape: (usize, usize)) -> Tensor {
        let mut random = Random::new(4);
        let noise: Vec<f32> = (0..shape.0 * shape.1).map(|_| random.normal()).collect();
        tensor(&noise, shape)
    }

    #[test]
    fn norm_rounds_once_at_its_end() {
        let (rows, weights) = (noise((3, 40)), noise((1, 40)).flatten_all().unwrap());
        let [exact, served] = [Profile::F32V1, Profile::Bf16V1]
            .map(|profile| values(&rows.apply_op2_no_bwd(&weights, &RmsNorm { eps: 1e-5, profile }).unwrap()));
        assert_ne!(exact, served);
        assert_eq!(rounded(exact), served);
    }

    #[test]
    fn rotation_rounds_what_it_turned() {
        let (raw, angles) = (rounded(values(&noise((3, 24)))), noise((3, 8)));
        let turned = |profile| {
            let products = tensor(&raw, (3, 24));
            products.inplace_op2(&angles, &Rotate { heads: 2, head_dim: 8, profile }).unwrap();
            values(&products)
        };
        let served = turned(Profile::Bf16V1);
        assert_eq!(rounded(turned(Profile::F32V1)), served);
        assert_ne!(turned(Profile::F32V1), served);
    }

    #[test]
    fn heads_are_normed_like_rows_and_values_are_left_alone() {
        let (raw, weights) = (noise((2, 16)), noise((2, 4)));
        let norm = RmsNorm { eps: 1e-5, profile: Profile::Bf16V1 };
        let heads = tensor(&values(&raw), (2, 16));
        heads.inplace_op2(&weights, &NormHeads { heads: 2, kv_heads: 1, norm }).unwrap();
        let alone = |row, head: usize, which| {
            let head = raw.narrow(0, row, 1).unwrap().narrow(1, 4 * head, 4).unwrap().contiguous().unwrap();
            let weights = weights.narrow(0, which, 1).unwrap().flatten_all().unwrap();
            values(&head.apply_op2_no_bwd(&weights, &norm).unwrap())
        };
        for row in 0..2 {
            let own = raw.narrow(0, row, 1).unwrap().narrow(1, 12, 4).unwrap().contiguous().unwrap();
            let expected = [alone(row, 0, 0), alone(row, 1, 0), alone(row, 2, 1), values(&own)].concat();
            assert_eq!(values(&heads.narrow(0, row, 1).unwrap()), expected);
        }
    }

    #[test]
    fn rows_do_not_depend_on_their_company() {
        let rows = noise((5, 3 * 2048));
        let weights = noise((1, 3 * 2048)).flatten_all().unwrap();
        let norm = RmsNorm { eps: 1e-5, profile: Profile::F32V1 };
        let silu = GatedSilu { ffn: 3 * 1024, profile: Profile::Bf16V1 };
        let normed = rows.apply_op2_no_bwd(&weights, &norm).unwrap();
        let active = rows.apply_op1_no_bwd(&silu).unwrap();
        for index in 0..5 {
            let row = rows.narrow(0, index, 1).unwrap();
            let alone = [row.apply_op2_no_bwd(&weights, &norm).unwrap(), row.apply_op1_no_bwd(&silu).unwrap()];
            for (alone, all) in alone.iter().zip([&normed, &active]) {
                assert_eq!(values(alone), values(&all.narrow(0, index, 1).unwrap()));
            }
        }
    }

    #[test]
    fn exponentials_are_exact_to_the_last_places() {
        let mut worst = 0.0_f64;
        for step in -1_000_000_i32..=1_000_000 {
            let x = f64::from(step) * 7e-4;
            worst = worst.max((exp(x) / x.exp() - 1.0).abs() / f64::EPSILON);
        }
        println!("exp is off by at most {worst} units in the last place");
        assert!(worst < 3.0);
        assert_eq!((exp(0.0), exp(1e300), exp(-1e300)), (1.0, exp(700.0), exp(-700.0)));
        assert!(exp(f64::NAN).is_nan());
        assert_eq!([0.0, -1e30, 1e30].map(silu), [0.0, -0.0, 1e30]);
    }

    #[test]
    fn silu_is_rounded_before_it_is_multiplied() {
        let profile = Profile::Bf16V1;
        let (gate, up) = (1.0_f32, 1.0 + 1.0 / 128.0);
        let op = GatedSilu { ffn: 1, profile };
        let active = tensor(&[gate, up], (1, 2)).apply_op1_no_bwd(&op).unwrap();
        let mut silu = [gate / (1.0 + (-gate).exp())];
        profile.round(&mut silu);
        let mut expected = [silu[0] * up];
        profile.round(&mut expected);
        assert_eq!(values(&active), expected);
    }

    #[test]
    fn integers_of_a_head_reach_from_minus_127_to_127() {
        let rows = tensor(&[0.3, 0.7, 127.0, -3.4, 0.0, 0.0, 0.3, 0.7, 0.6, -254.0, 1.1, 127.0], (2, 6));
        let rounded = Int8Heads { first: 1, head_dim: 2 }.run(&rows).unwrap();
        assert_eq!(values(&rounded), [0.3, 0.7, 127.0, -3.0, 0.0, 0.0, 0.3, 0.7, 0.0, -254.0, 1.0, 127.0]);
    }

    #[test]
    fn partial_sums_are_rounded_and_so_is_what_they_come_to() {
        let x = tensor(&[256.0, 1.0, 1.0, 1.0], (1, 4));
        let weights = Weights::f32(&[1.0; 4], [1, 4]).unwrap();
        let split = |parts| values(&split_product(&x, &weights, parts).unwrap());
        // Between 256 and 512 there are the even numbers, and halves go to multiples of four.
        assert_eq!((split(1), split(2), split(3)), (vec![260.0], vec![258.0], vec![258.0]));
        assert_eq!((split(4), split(9)), (vec![256.0], vec![256.0]));
    }

    #[test]
    fn sums_are_rounded_once() {
        let (a, b) = (tensor(&[256.0, -1.0], (1, 2)), tensor(&[1.0, 1.0], (1, 2)));
        let sum = a.apply_op2_no_bwd(&b, &Add(Profile::Bf16V1)).unwrap();
        assert_eq!(values(&sum), [256.0, 0.0]);
    }
}
