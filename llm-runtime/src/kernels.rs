//! The operations of a layer, each fused, each rounded where the profile says.
//!
//! Candle's operations are not used: its matrix product sums in an order that depends on the number of
//! rows, its RMS norm and its rotary embedding round inside in bf16, and a chain of elementary tensor
//! operations costs more than the arithmetic on rows this short. What is computed here depends on its
//! own row alone, to the bit, whatever the number of rows and threads.

mod attention;
#[cfg_attr(not(test), expect(dead_code, reason = "models run f32 weights alone so far"))]
mod linear;

use assay_commitments::rows::Profile;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, InplaceOp1, InplaceOp2, Layout, Result, Shape, bail};

pub(crate) use attention::Attention;
use linear::TASK_WORK;
pub(crate) use linear::{Weights, product, split_product};

/// The elements of a contiguous tensor.
fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&storage.as_slice::<f32>()?[start..end]),
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

/// `sum_i a_i b_i` in sixteen lanes, so that it runs in vector registers.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    // A tree of halves instead of this sum makes the compiler give up half of the vector width above.
    lanes.iter().sum::<f32>() + rest
}

/// An activation of the profile, which is an f32 number.
#[expect(clippy::cast_possible_truncation, reason = "what was rounded is an f32 number")]
fn round_once(profile: Profile, value: f64) -> f32 {
    profile.round_once(value) as f32
}

/// Rounds a fresh product in place.
pub(crate) struct Round(pub(crate) Profile);

impl InplaceOp1 for Round {
    fn name(&self) -> &'static str {
        "round"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        self.0.round(elements_mut(storage, layout)?);
        Ok(())
    }
}

/// `x * rsqrt(mean(x^2) + eps) * w` for each row `x` of `[n, d]` and `w` of `[d]`: f64 inside, one
/// rounding at the end.
///
/// f64 to the rounding because an element that rounds the other way than in the audit's reference moves
/// every product of the row: in f32 about one element in ten thousand does, in f64 none.
pub(crate) struct RmsNorm {
    pub(crate) eps: f32,
    pub(crate) profile: Profile,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    #[expect(clippy::cast_precision_loss, reason = "widths stay below 2^24")]
    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        weights: &CpuStorage,
        weights_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let rows = elements(rows, rows_layout)?;
        let weights = elements(weights, weights_layout)?;
        let mut normed = Vec::with_capacity(rows.len());
        for row in rows.chunks_exact(weights.len()) {
            let squares: f64 = row.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
            let scale = 1.0 / (squares / weights.len() as f64 + f64::from(self.eps)).sqrt();
            let products = row.iter().zip(weights).map(|(x, w)| f64::from(*x) * scale * f64::from(*w));
            normed.extend(products.map(|product| round_once(self.profile, product)));
        }
        Ok((CpuStorage::F32(normed), rows_layout.shape().clone()))
    }
}

/// Rounds the products `[n, q | k | v]` and turns the heads of `q` and `k` by their position's
/// angles, in place.
///
/// Angles are `[n, head_dim]`: cosines, then sines, one of each a pair. A pair is an element of a
/// head's first half and its like of the second. The turned values are rounded once.
pub(crate) struct Rotate {
    /// Query and key heads together.
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) profile: Profile,
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
        let angles = elements(angles, angles_layout)?;
        self.profile.round(products);
        let width = products.len() / (angles.len() / self.head_dim);
        for (row, angles) in products.chunks_exact_mut(width).zip(angles.chunks_exact(self.head_dim)) {
            let (cosines, sines) = angles.split_at(self.head_dim / 2);
            let turned = &mut row[..self.heads * self.head_dim];
            for head in turned.chunks_exact_mut(self.head_dim) {
                let (first, second) = head.split_at_mut(self.head_dim / 2);
                for (((x1, x2), cos), sin) in first.iter_mut().zip(second).zip(cosines).zip(sines) {
                    let [a, b, cos, sin] = [*x1, *x2, *cos, *sin].map(f64::from);
                    *x1 = round_once(self.profile, a * cos - b * sin);
                    *x2 = round_once(self.profile, b * cos + a * sin);
                }
            }
        }
        Ok(())
    }
}

/// The residual add: `a + b`, rounded, as a step of its own.
pub(crate) struct Add(pub(crate) Profile);

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
        let (a, b) = (elements(a, a_layout)?, elements(b, b_layout)?);
        let mut sum: Vec<f32> = a.iter().zip(b).map(|(a, b)| a + b).collect();
        self.0.round(&mut sum);
        Ok((CpuStorage::F32(sum), a_layout.shape().clone()))
    }
}

/// Rounds heads, side by side in rows, to eight-bit integers with a scale each, in place.
pub(crate) struct Int8Heads {
    pub(crate) head_dim: usize,
}

impl InplaceOp1 for Int8Heads {
    fn name(&self) -> &'static str {
        "int8-heads"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        for head in elements_mut(storage, layout)?.chunks_exact_mut(self.head_dim) {
            let scale = head.iter().fold(0.0_f32, |largest, value| largest.max(value.abs())) / 127.0;
            if scale > 0.0 {
                head.iter_mut().for_each(|value| *value = (*value / scale).round_ties_even() * scale);
            }
        }
        Ok(())
    }
}

/// `silu(gate) * up` of the products `[n, gate | up]`: the products are rounded, then the SiLU, then
/// what is multiplied.
pub(crate) struct GatedSilu {
    /// Width of the MLP.
    pub(crate) ffn: usize,
    pub(crate) profile: Profile,
}

impl CustomOp1 for GatedSilu {
    fn name(&self) -> &'static str {
        "gated-silu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut products = elements(storage, layout)?.to_vec();
        self.profile.round(&mut products);
        let rows = products.len() / (2 * self.ffn);
        let mut active = Vec::with_capacity(rows * self.ffn);
        for row in products.chunks_exact(2 * self.ffn) {
            active.extend(row[..self.ffn].iter().map(|gate| silu(*gate)));
        }
        self.profile.round(&mut active);
        for (active, row) in active.chunks_exact_mut(self.ffn).zip(products.chunks_exact(2 * self.ffn)) {
            active.iter_mut().zip(&row[self.ffn..]).for_each(|(active, up)| *active *= up);
        }
        self.profile.round(&mut active);
        Ok((CpuStorage::F32(active), Shape::from((rows, self.ffn))))
    }
}

/// `x / (1 + exp(-x))`, f64 inside for the reason that [`RmsNorm`] is.
#[expect(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
fn silu(x: f32) -> f32 {
    let x = f64::from(x);
    (x / (1.0 + (-x).exp())) as f32
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the values of these cases are exact")]
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
    fn dot_counts_lanes_and_remainder() {
        let a: Vec<f32> = (0..37_u8).map(f32::from).collect();
        let squares: f32 = (0..37_u8).map(|x| f32::from(x).powi(2)).sum();
        assert_eq!(dot(&a, &a), squares);
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
    fn rotation_rounds_the_products_and_what_it_turned() {
        let (raw, angles) = (noise((3, 24)), noise((3, 8)));
        let turned = |products: Vec<f32>, profile| {
            let products = tensor(&products, (3, 24));
            products.inplace_op2(&angles, &Rotate { heads: 2, head_dim: 8, profile }).unwrap();
            values(&products)
        };
        let served = turned(values(&raw), Profile::Bf16V1);
        assert_eq!(rounded(turned(rounded(values(&raw)), Profile::F32V1)), served);
        assert_ne!(rounded(turned(values(&raw), Profile::F32V1)), served);
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
        let heads = tensor(&[127.0, -3.4, 0.6, 0.0, 0.0, 0.0], (1, 6));
        heads.inplace_op1(&Int8Heads { head_dim: 3 }).unwrap();
        assert_eq!(values(&heads), [127.0, -3.0, 1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn partial_sums_are_rounded_and_so_is_what_they_come_to() {
        // The middle of two bf16 numbers in each half: 257 to 256, 259 to 260; 516 of the rounded, 516 of all.
        let x = tensor(&[256.0, 1.0, 256.0, 3.0, 1.0], (1, 5));
        let weights = Weights::f32(&[1.0; 5], [1, 5]).unwrap();
        let split = |parts| values(&split_product(&x, &weights, parts).unwrap());
        assert_eq!((split(1), split(3), split(9)), (vec![516.0], vec![516.0], vec![516.0]));
        let x = tensor(&[256.0, 1.0, 1.0, 1.0], (1, 4));
        let weights = Weights::f32(&[1.0; 4], [1, 4]).unwrap();
        let split = |parts| values(&split_product(&x, &weights, parts).unwrap());
        assert_eq!((split(1), split(2), split(4)), (vec![260.0], vec![258.0], vec![256.0]));
    }

    #[test]
    fn sums_are_rounded_once() {
        let (a, b) = (tensor(&[256.0, -1.0], (1, 2)), tensor(&[1.0, 1.0], (1, 2)));
        let sum = a.apply_op2_no_bwd(&b, &Add(Profile::Bf16V1)).unwrap();
        assert_eq!(values(&sum), [256.0, 0.0]);
    }
}
