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

use ark_ff::{AdditiveGroup, FftField, Field as _};
use assay_sumcheck::field::{F, f_to_u64};

use super::lanes::{Factor, Field, LANES, Lanes, Task, run};

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

/// The factors below one node: that of its `t`-th descendant `j` levels below is at `2^j + t`.
#[derive(Clone, Debug)]
pub(crate) struct Factors(Vec<u64>);

impl Factors {
    /// The factors of the first `levels` levels below the node of this number.
    pub(crate) fn new(levels: u32, number: usize) -> Self {
        let mut factors = vec![F::ZERO; 1 << levels];
        for j in 0..levels {
            // Bits of number and descendant are apart, so the factor is a product, and grows by doubling.
            factors[1 << j] = factor((number as u64) << j);
            for bit in 0..j {
                let root = ROOTS[bit as usize + 2];
                let (done, next) = factors[1 << j..].split_at_mut(1 << bit);
                for (next, &done) in next.iter_mut().zip(done.iter()) {
                    *next = done * root;
                }
            }
        }
        Self(factors.into_iter().map(f_to_u64).collect())
    }

    /// How many levels they are for.
    fn levels(&self) -> u32 {
        self.0.len().ilog2()
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
            descend(lanes, self.0, self.1);
        }
    }

    run(Transform(columns, factors));
}

/// All levels of a transform.
#[inline(always)]
fn descend<L: Lanes>(l: L, columns: &mut [Block], factors: &Factors) {
    for j in 0..factors.levels() {
        let nodes = columns.chunks_exact_mut(columns.len() >> j);
        for (node, &factor) in nodes.zip(&factors.0[1 << j..]) {
            let (low, high) = node.split_at_mut(node.len() / 2);
            let factor = l.factor(factor);
            for (low, high) in low.iter_mut().zip(high) {
                let (a, b) = butterfly(l, l.load(low), l.load(high), factor);
                l.store(low, a);
                l.store(high, b);
            }
        }
    }
}

/// `a + s b` and `a - s b`.
#[inline(always)]
fn butterfly<L: Lanes>(l: L, a: L::V, b: L::V, s: Factor<L::V>) -> (L::V, L::V) {
    let b = l.canonical(l.f_mul(b, s));
    (l.f_add(a, b), l.f_sub(a, b))
}
