//! Number-theoretic transforms of interleaved messages, in the order of positions.
//!
//! Node `(k, t)`, `t < 2^k`, of a codeword of `2^l` positions stands for positions
//! `t 2^(l-k) .. (t+1) 2^(l-k)`, whose points are the roots of `x^(2^(l-k)) = point(k, t)`. Its residue is the message modulo
//! that; the residues of its children `(k+1, 2t)` and `(k+1, 2t+1)` are `low + s high` and `low - s high`, where `s` is the root
//! `point(k+1, 2t)` of `point(k, t)` and `low`, `high` are the residue's halves. So a butterfly has one factor for a whole node,
//! no coset has to be shifted, and results come out in the order of positions. As
//! `s` does not depend on `k`, the factors of all levels are one list.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::sync::LazyLock;

use ark_ff::{FftField, Field as _};
use assay_sumcheck::field::{F, P, f_to_u64};

use crate::lanes::{EPSILON, Factor, Field, LANES, Lanes, Task, run};

/// Lanes of symbols.
pub(crate) type Block = [u64; LANES];

/// The largest power of two that divides `p - 1`.
const TWO_ADICITY: u32 = 32;

/// At `k`, the root of unity of order `2^k` that is `7^((p-1)/2^k)`.
static ROOTS: LazyLock<[F; TWO_ADICITY as usize + 1]> = LazyLock::new(|| {
    let mut roots = [F::TWO_ADIC_ROOT_OF_UNITY; TWO_ADICITY as usize + 1];
    for k in (0..TWO_ADICITY as usize).rev() {
        roots[k] = roots[k + 1].square();
    }
    roots
});

/// The point of a position of a codeword of `2^codeword_log` symbols: `w^rev(position)`. Bits that no
/// position has are ignored.
pub(crate) fn point(codeword_log: u32, position: u64) -> F {
    // Bit i has the weight 2^(log - 1 - i) in the exponent: a root of unity of order 2^(i+1).
    (0..codeword_log.min(TWO_ADICITY))
        .filter(|&bit| position >> bit & 1 == 1)
        .map(|bit| ROOTS[bit as usize + 1])
        .product()
}

/// The factor `s` of a node `(k, number)`, for every `k`.
fn factor(number: u64) -> F {
    point(TWO_ADICITY, number << 1)
}

/// Levels of a step of a transform.
const STEP: u32 = LANES.ilog2();

/// The factors below one node, step by step.
#[derive(Clone, Debug)]
pub(crate) struct Factors(Vec<Step>);

/// The factors of one or more levels.
#[derive(Clone, Debug)]
struct Step {
    levels: u32,
    /// For every node where the step begins, powers of the factor `z` of its first descendant on the last
    /// level. Those of the levels before are its squares, `z^4` and `z^2`; so with the piece `j`
    /// of the residue times `z^j` the levels are a Fourier transform of that size.
    powers: Vec<Block>,
}

impl Factors {
    /// The factors of the first `levels` levels below the node of this number.
    pub(crate) fn new(levels: u32, number: usize) -> Self {
        let first = (!levels.is_multiple_of(STEP)).then_some(levels % STEP);
        let sizes = first.into_iter().chain((0..levels / STEP).map(|_| STEP));
        let steps = sizes.scan(0, |level, levels| {
            let step = Step::new(levels, (number as u64) << *level, *level);
            *level += levels;
            Some(step)
        });
        Self(steps.collect())
    }
}

impl Step {
    /// For the `2^log` nodes from this number on, which is a multiple of that.
    fn new(levels: u32, number: u64, log: u32) -> Self {
        let mut powers = vec![Block::default(); 1 << log];
        powers[0] = first_powers(factor(number << (levels - 1)));
        for bit in 0..log {
            // The bits of a node's number add up in the exponent.
            let by = first_powers(factor(1 << (bit + levels - 1)));
            let (done, next) = powers.split_at_mut(1 << bit);
            run(Multiply { values: done, by: &by, products: next });
        }
        Self { levels, powers }
    }
}

/// `1, base, base^2, ...`
pub(super) fn powers(base: F) -> impl Iterator<Item = F> {
    std::iter::successors(Some(F::ONE), move |&power| Some(power * base))
}

/// As many powers as there are lanes.
fn first_powers(base: F) -> Block {
    let mut block = Block::default();
    block.iter_mut().zip(powers(base)).for_each(|(word, power)| *word = f_to_u64(power));
    block
}

/// `products = values * by`, lane by lane.
struct Multiply<'a> {
    values: &'a [Block],
    by: &'a Block,
    products: &'a mut [Block],
}

impl Task for Multiply<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let by = l.factors(l.load(self.by));
        for (value, product) in self.values.iter().zip(self.products) {
            l.store(product, l.canonical(l.f_mul(l.load(value), by)));
        }
    }
}

/// Transforms the residue of a node in place: `2^levels` columns of any number of blocks. Results are
/// residues, not all canonical.
pub(crate) fn transform(columns: &mut [Block], factors: &Factors) {
    struct Transform<'a>(&'a mut [Block], &'a Factors);

    impl Task for Transform<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            for step in &self.1.0 {
                match step.levels {
                    1 => step_of::<L, 2>(lanes, self.0, &step.powers),
                    2 => step_of::<L, 4>(lanes, self.0, &step.powers),
                    _ => step_of::<L, 8>(lanes, self.0, &step.powers),
                }
            }
        }
    }

    run(Transform(columns, factors));
}

/// A step on all nodes, each cut into `N` pieces.
#[inline(always)]
fn step_of<L: Lanes, const N: usize>(l: L, columns: &mut [Block], powers: &[Block])
where
    [Split<L::V>; N]: Fourier<L>,
{
    for (node, powers) in columns.chunks_exact_mut(columns.len() / powers.len()).zip(powers) {
        let length = node.len() / N;
        let mut rest = node;
        let mut pieces: [&mut [Block]; N] = std::array::from_fn(|_| {
            let (piece, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            piece
        });
        for i in 0..length {
            // No closures here: they would be compiled for any machine.
            let mut values = [Split::biased(l, l.load(&pieces[0][i])); N];
            for j in 1..N {
                values[j] = Split::product(l, l.load(&pieces[j][i]), l.factor(powers[j]));
            }
            for (piece, value) in pieces.iter_mut().zip(values.fourier(l)) {
                l.store(&mut piece[i], value.residue(l));
            }
        }
    }
}

/// The Fourier transform of a few values, in the order of positions.
trait Fourier<L> {
    fn fourier(self, l: L) -> Self;
}

impl<L: Lanes> Fourier<L> for [Split<L::V>; 2] {
    #[inline(always)]
    fn fourier(self, l: L) -> Self {
        let [a, b] = self;
        a.both(l, b)
    }
}

impl<L: Lanes> Fourier<L> for [Split<L::V>; 4] {
    #[inline(always)]
    fn fourier(self, l: L) -> Self {
        let [a, b, c, d] = self;
        let [a, c] = a.both(l, c);
        let [b, d] = b.both(l, d);
        let ([r0, r1], [r2, r3]) = (a.both(l, b), c.both_quarters(l, d));
        [r0, r1, r2, r3]
    }
}

impl<L: Lanes> Fourier<L> for [Split<L::V>; 8] {
    #[inline(always)]
    fn fourier(self, l: L) -> Self {
        let [x0, x1, x2, x3, x4, x5, x6, x7] = self;
        let [a0, b0] = x0.both(l, x4);
        let [a1, b1] = x1.both(l, x5);
        let [a2, b2] = x2.both(l, x6);
        let [a3, b3] = x3.both(l, x7);
        let [r0, r1, r2, r3] = [a0, a1, a2, a3].fourier(l);
        let [c, d] = b0.both_quarters(l, b2);
        let [r5, r4] = c.both(l, Split::eighths(l, b1, b3));
        let [r7, r6] = d.both(l, Split::eighths(l, b3, b1));
        [r0, r1, r2, r3, r4, r5, r6, r7]
    }
}

/// Elements as `low + 2^32 high` with signed 64-bit integers, so that sums need no corrections, and the
/// roots of unity of order eight, powers of two, are shifts: `7^((p-1)/8) = -2^24`, and its square `2^48`.
#[derive(Clone, Copy, Debug)]
struct Split<V> {
    low: V,
    high: V,
}

impl<V: Copy> Split<V> {
    /// What [`Self::biased`] adds: a multiple of p, `BIAS_LOW + 2^32 BIAS_HIGH`.
    const BIAS_LOW: u64 = P - (1 << 62) + (1 << 30);
    const BIAS_HIGH: u64 = 1 << 62;

    /// Any residue. Both parts stay natural numbers when terms of less than `2^62` are added: those of
    /// a transform are below `2^61`.
    #[inline(always)]
    fn biased<L: Lanes<V = V>>(l: L, value: V) -> Self {
        Self {
            low: l.add(l.low_half(value), l.splat(Self::BIAS_LOW)),
            high: l.add(l.high_half(value), l.splat(Self::BIAS_HIGH)),
        }
    }

    /// A product; its parts are below `2^35` in magnitude.
    #[inline(always)]
    fn product<L: Lanes<V = V>>(l: L, a: V, b: Factor<V>) -> Self {
        let [low, middle, other, high] = l.products(a, b);
        // 2^64 = 2^32 - 1 and 2^96 = -1.
        let sum = l.add(l.add(l.low_half(middle), l.low_half(other)), l.high_half(low));
        let top = l.add(l.add(l.high_half(middle), l.high_half(other)), l.low_half(high));
        Self { low: l.sub(l.sub(l.low_half(low), top), l.high_half(high)), high: l.add(sum, top) }
    }

    #[inline(always)]
    fn add<L: Lanes<V = V>>(self, l: L, other: Self) -> Self {
        Self { low: l.add(self.low, other.low), high: l.add(self.high, other.high) }
    }

    #[inline(always)]
    fn sub<L: Lanes<V = V>>(self, l: L, other: Self) -> Self {
        Self { low: l.sub(self.low, other.low), high: l.sub(self.high, other.high) }
    }

    /// `a + b` and `a - b`.
    #[inline(always)]
    fn both<L: Lanes<V = V>>(self, l: L, b: Self) -> [Self; 2] {
        [self.add(l, b), self.sub(l, b)]
    }

    /// `a + 2^48 b` and `a - 2^48 b`.
    #[inline(always)]
    fn both_quarters<L: Lanes<V = V>>(self, l: L, b: Self) -> [Self; 2] {
        // 2^48 b = -2^16 high + 2^32 2^16 (low + high).
        let low = l.shift_left::<16>(b.high);
        let high = l.shift_left::<16>(l.add(b.low, b.high));
        [
            Self { low: l.sub(self.low, low), high: l.add(self.high, high) },
            Self { low: l.add(self.low, low), high: l.sub(self.high, high) },
        ]
    }

    /// `2^24 a + 2^72 b`.
    #[inline(always)]
    fn eighths<L: Lanes<V = V>>(l: L, a: Self, b: Self) -> Self {
        // 2^72 b = -2^8 (low + high) + 2^32 2^8 low.
        let low = l.shift_left::<8>(l.add(b.low, b.high));
        let high = l.shift_left::<8>(b.low);
        Self { low: l.sub(l.shift_left::<24>(a.low), low), high: l.add(l.shift_left::<24>(a.high), high) }
    }

    /// The residue of a sum of which one term is [`Self::biased`].
    #[inline(always)]
    fn residue<L: Lanes<V = V>>(self, l: L) -> V {
        let sum = l.f_add(self.low, l.raise(self.high));
        l.f_add(sum, l.mul(l.high_half(self.high), l.splat(EPSILON)))
    }
}
