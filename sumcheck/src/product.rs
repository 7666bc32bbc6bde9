//! The sumcheck for a product of two multilinear polynomials.
//!
//! To show `sum_x a(x) b(x) = claim` over `{0, 1}^n`, each round fixes the lowest free variable. The
//! prover sends the round polynomial `g(X) = sum_x a(X, x) b(X, x)`, of degree 2, as `g(0)` and its
//! leading coefficient; `g(0) + g(1) = claim` determines the rest, so no round can be inconsistent
//! and a wrong one only leads to a final claim that the polynomials do not satisfy. The challenge
//! `r` replaces the claim by `g(r)`. After `n` rounds the claim is `a(r) b(r)` at the point of all
//! challenges, which whoever runs the sumcheck must check by other means.
//!
//! Rounds can stop anywhere: [`prove`] and [`verify`] take as many as they are asked for, and other
//! messages may be absorbed before the next.
//!
//! - Soundness: a false claim survives a round with probability at most `2 / |E|`, so `n` rounds with
//!   at most `2 n / |E|`, round by round (two distinct polynomials of degree 2 agree at 2 points).
//! - Source: Lund, Fortnow, Karloff, Nisan, "Algebraic methods for interactive proof systems", J. ACM
//!   39(4), 1992; Thaler, "Time-optimal interactive proofs for circuit evaluation", eprint 2013/351,
//!   for the prover.

use ark_ff::AdditiveGroup;
use rayon::prelude::*;

use crate::field::E;
use crate::labels;
use crate::multilinear::{ends, fold, line_at};
use crate::transcript::{Reduction, Transcript};

/// The prover's message of one round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundProof {
    /// `g(0)`.
    pub at_zero: E,
    /// The coefficient of `X^2` in `g`.
    pub leading: E,
}

/// A claim that nothing supports yet.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim proves nothing until it is reduced and its last value checked"]
pub struct Claim {
    value: E,
}

impl Claim {
    /// Claims that the sum is `value`.
    pub const fn new(value: E) -> Self {
        Self { value }
    }

    /// What the product of the polynomials must be at the point of all challenges. To be called
    /// after the last round.
    pub const fn into_value(self) -> E {
        self.value
    }

    /// Claims that the sum has further terms that make up `value`.
    pub fn plus(self, value: E) -> Self {
        Self { value: self.value + value }
    }

    /// One round, the same for prover and verifier: absorbs the message, draws the challenge, and
    /// claims `g(challenge)` in place of the old claim.
    pub fn reduce(self, round: &RoundProof, transcript: &mut Transcript<Reduction>) -> (Self, E) {
        let RoundProof { at_zero, leading } = *round;
        transcript.absorb_e(labels::ROUND, &[at_zero, leading]);
        let challenge = transcript.challenge(labels::POINT);
        let linear = self.value - at_zero - at_zero - leading;
        let value = at_zero + challenge * (linear + challenge * leading);
        (Self { value }, challenge)
    }
}

/// The prover's side: both polynomials, variable by variable.
///
/// The lists need not be powers of two long: they may be several polynomials in the round's
/// variables laid one after the other, and a list that stops early goes on with zeros.
#[derive(Clone, Debug)]
pub struct Prover {
    a: Vec<E>,
    b: Vec<E>,
}

impl Prover {
    /// Takes the values of `a` and `b`; the shorter list goes on with zeros.
    pub fn new(mut a: Vec<E>, mut b: Vec<E>) -> Self {
        let length = a.len().max(b.len());
        a.resize(length, E::ZERO);
        b.resize(length, E::ZERO);
        Self { a, b }
    }

    /// `sum_x a(x) b(x)`, the sum that an honest claim states.
    pub fn sum(&self) -> E {
        self.a.iter().zip(&self.b).map(|(&a, &b)| a * b).sum()
    }

    /// The message of the next round.
    pub fn round(&self) -> RoundProof {
        let stretches = self.a.par_chunks(STRETCH).zip(self.b.par_chunks(STRETCH)).map(|(a, b)| {
            let mut round = RoundProof { at_zero: E::ZERO, leading: E::ZERO };
            for (a, b) in a.chunks(2).zip(b.chunks(2)) {
                let ([a0, a1], [b0, b1]) = (ends(a), ends(b));
                round.at_zero += a0 * b0;
                round.leading += (a1 - a0) * (b1 - b0);
            }
            round
        });
        let nothing = || RoundProof { at_zero: E::ZERO, leading: E::ZERO };
        stretches.reduce(nothing, |one, other| RoundProof {
            at_zero: one.at_zero + other.at_zero,
            leading: one.leading + other.leading,
        })
    }

    /// Fixes the lowest variable.
    pub fn bind(&mut self, challenge: E) {
        rayon::join(|| fold_long(&mut self.a, challenge), || fold_long(&mut self.b, challenge));
    }

    /// What is left of `a` and `b` with the bound variables fixed.
    pub fn into_factors(self) -> (Vec<E>, Vec<E>) {
        (self.a, self.b)
    }
}

/// Entries that are worth a thread's while; even, so that no pair is torn.
const STRETCH: usize = 1 << 12;

/// [`fold`], on all threads.
fn fold_long(values: &mut Vec<E>, coordinate: E) {
    if values.len() <= STRETCH {
        return fold(values, coordinate);
    }
    *values = values.par_chunks(2).with_min_len(STRETCH / 2).map(|pair| line_at(pair, coordinate)).collect();
}

/// Proves `count` rounds: their messages, their challenges, and the claim that is left.
pub fn prove(
    prover: &mut Prover,
    claim: Claim,
    count: usize,
    transcript: &mut Transcript<Reduction>,
) -> (Vec<RoundProof>, Vec<E>, Claim) {
    let (mut rounds, mut point, mut claim) = (Vec::with_capacity(count), Vec::with_capacity(count), claim);
    for _ in 0..count {
        let round = prover.round();
        let (next, challenge) = claim.reduce(&round, transcript);
        prover.bind(challenge);
        rounds.push(round);
        point.push(challenge);
        claim = next;
    }
    (rounds, point, claim)
}

/// Follows the rounds of a proof: their challenges and the claim that is left.
///
/// Never fails: a false claim shows when the last value is checked. The caller makes sure that the
/// number of rounds is its own, not the prover's.
pub fn verify(claim: Claim, rounds: &[RoundProof], transcript: &mut Transcript<Reduction>) -> (Vec<E>, Claim) {
    let (mut point, mut claim) = (Vec::with_capacity(rounds.len()), claim);
    for round in rounds {
        let (next, challenge) = claim.reduce(round, transcript);
        point.push(challenge);
        claim = next;
    }
    (point, claim)
}
