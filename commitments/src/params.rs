//! Parameters of the weight code, and the security that they give.
//!
//! A polynomial of `2^log_size` coefficients is a matrix of `2^row_log` rows. Each row, a message of
//! `C = 2^(log_size - row_log)` symbols, is Reed-Solomon encoded to `n = C 2^rate_log`. An opening
//! folds the rows to one with challenges of the sumcheck, sends that row, and compares its codeword
//! with the committed columns at random positions.
//!
//! Everything is by proven bounds in the unique decoding radius. With `e = floor((n - C) / 2)`, a
//! word within `e` of the code has one nearest codeword, and:
//!
//! - If the committed words are not all within `e` of codewords *on the same positions*, their random
//!   fold is within `e` of the code with probability at most `row_log n / |E|` (Diamond and Gruen,
//!   "Proximity gaps in interleaved codes", eprint 2024/1351, corollary 3.7, which lifts Ben-Sasson,
//!   Carmon, Ishai, Kopparty, Saraf, "Proximity gaps for Reed-Solomon codes", eprint 2020/654,
//!   theorem 4.1, from lines to tensors). Otherwise *any* row sent differs from the fold in at least
//!   `e + 1` positions.
//! - If they are, they determine one polynomial. A row sent that is not its fold encodes to a codeword
//!   at distance `n - C + 1` from the fold's, of which at most `e` positions are excused, so again it
//!   differs from the committed columns' fold in at least `n - C + 1 - e >= e + 1` positions.
//! - Either way a uniform query misses with probability at most `1 - (e + 1) / n`.
//!
//! The domain lies in the base field and the challenges in the extension; the theorems are applied to
//! the code over the extension, of which the committed words are words.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::expect_used,
    clippy::float_arithmetic
)]

use crate::codec::{Canonical, Malformed, Reader, Writer};
use crate::layout::{Layout, MAX_LOG_SIZE};

/// What the openings of one audit must reach together, in bits.
pub const SECURITY_BITS: u32 = 100;

/// The logarithm of the number of openings in one audit for which that holds: a false claim may pass
/// in any of them, and their errors add up. Every doubling beyond costs one bit.
pub const OPENINGS_LOG: u32 = 6;

/// What one opening must reach in total, in bits: 64 of them then miss with probability at most
/// `2^-100`.
pub const OPENING_BITS: u32 = SECURITY_BITS + OPENINGS_LOG;

/// What the queries are dimensioned for: four terms of so many bits sum to [`OPENING_BITS`].
const TERM_BITS: u32 = OPENING_BITS + 2;

/// The most queries that parameters may name. At the lowest distance that the search uses, 261 are
/// needed; the bound keeps what a hostile manifest can make a verifier draw and hash small.
pub const MAX_QUERIES: u32 = 1024;

/// The most claims that an opening is dimensioned for.
pub const MAX_CLAIMS: usize = 1 << 16;

/// The lowest rate is `2^-MAX_RATE_LOG`: committing costs in proportion to its inverse.
const MAX_RATE_LOG: u32 = 4;

/// `F*` has a subgroup of `2^32` elements and none of `2^33`.
const MAX_CODEWORD_LOG: u32 = 32;

/// `floor(log2 |E|)`: `|E| = p^3` falls short of `2^192` by a part in `2^30`.
const EXTENSION_BITS: u32 = 191;

/// The code of one polynomial, and the number of positions at which an opening queries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeParams {
    /// Logarithm of the number of coefficients.
    pub log_size: u32,
    /// Logarithm of the number of rows.
    pub row_log: u32,
    /// Negative logarithm of the rate.
    pub rate_log: u32,
    /// Positions drawn, before repeats are dropped; from the codeword's length on, all are opened.
    pub queries: u32,
}

impl CodeParams {
    /// The parameters with the smallest proof for a layout, among those whose rows are made of
    /// input bits of every tile. Of equal proofs, the highest rate and then the fewest rows.
    pub fn for_layout(layout: &Layout) -> Self {
        Self::smallest(layout.log_size(), layout.min_input_log())
    }

    fn smallest(log_size: u32, max_row_log: u32) -> Self {
        let candidates = (1..=MAX_RATE_LOG).flat_map(|rate_log| {
            (0..=max_row_log.min(log_size)).map(move |row_log| Self::with_rate(log_size, row_log, rate_log))
        });
        let fitting = candidates.filter(|params| params.codeword_log() <= MAX_CODEWORD_LOG);
        // At rate 1/2 and log_size up to 30, every number of rows fits.
        fitting.min_by_key(Self::max_opening_bytes).unwrap_or_else(|| Self::with_rate(log_size, 0, 1))
    }

    /// The fewest queries that give [`TERM_BITS`].
    fn with_rate(log_size: u32, row_log: u32, rate_log: u32) -> Self {
        let params = Self { log_size, row_log, rate_log, queries: 0 };
        let wanted = Bits::whole(TERM_BITS).0;
        let queries = wanted.div_ceil(params.bits_per_query().0.max(1));
        Self { queries: u32::try_from(queries).unwrap_or(u32::MAX), ..params }
    }

    /// Logarithm of the number of columns of the coefficient matrix: of the folded row's length.
    pub const fn column_log(&self) -> u32 {
        self.log_size.saturating_sub(self.row_log)
    }

    /// Logarithm of the codeword's length.
    pub const fn codeword_log(&self) -> u32 {
        self.column_log().saturating_add(self.rate_log)
    }

    /// The number of rows.
    pub const fn rows(&self) -> usize {
        power_of_two(self.row_log)
    }

    /// The length of a message: of the folded row.
    pub const fn columns(&self) -> usize {
        power_of_two(self.column_log())
    }

    /// The length of a codeword.
    pub const fn codeword_length(&self) -> usize {
        power_of_two(self.codeword_log())
    }

    /// Whether an opening shows every column rather than drawn ones.
    pub const fn opens_all(&self) -> bool {
        self.queries as usize >= self.codeword_length()
    }

    /// The most columns that an opening shows.
    pub const fn max_columns(&self) -> usize {
        if self.opens_all() { self.codeword_length() } else { self.queries as usize }
    }

    /// Whether every number is in its range: the sizes above are then what they say.
    pub const fn is_well_formed(&self) -> bool {
        self.log_size <= MAX_LOG_SIZE
            && self.row_log <= self.log_size
            && 1 <= self.rate_log
            && self.rate_log <= MAX_RATE_LOG
            && self.codeword_log() <= MAX_CODEWORD_LOG
            && self.queries <= MAX_QUERIES
    }

    /// Whether the parameters can be used with a layout.
    pub const fn fits(&self, layout: &Layout) -> bool {
        self.is_well_formed() && self.log_size == layout.log_size() && self.row_log <= layout.min_input_log()
    }

    /// Whether an opening of up to [`MAX_CLAIMS`] claims is sound to [`OPENING_BITS`], and so the
    /// union over `2^`[`OPENINGS_LOG`] of them to [`SECURITY_BITS`]. Nobody opens or verifies under
    /// other parameters. The same on every platform: the bounds are computed in integers.
    pub fn is_secure(&self) -> bool {
        self.is_well_formed() && self.security(MAX_CLAIMS).total >= Bits::whole(OPENING_BITS)
    }

    /// What each part of an opening of `claims` claims contributes.
    pub fn security(&self, claims: usize) -> SecurityBudget {
        let field = Bits::whole(EXTENSION_BITS);
        let rounds = u64::from(self.log_size);
        let folds = u64::from(self.row_log);
        let terms = [
            SecurityTerm {
                name: "claim batching",
                formula: "(claims - 1) / |E|",
                source: "Schwartz-Zippel: a polynomial of degree claims - 1 in the batching challenge",
                bits: field.less_log2((claims as u64).saturating_sub(1)),
            },
            SecurityTerm {
                name: "sumcheck",
                formula: "2 log_size / |E|",
                source: "Lund, Fortnow, Karloff, Nisan, J. ACM 39(4), 1992: degree 2, one round a variable",
                bits: field.less_log2(rounds.saturating_mul(2)),
            },
            SecurityTerm {
                name: "proximity gap",
                formula: "row_log n / |E|",
                source: "eprint 2024/1351, corollary 3.7, from eprint 2020/654, theorem 4.1",
                bits: field.less_log2(folds.saturating_mul(self.codeword_length() as u64)),
            },
            SecurityTerm {
                name: "queries",
                formula: "(1 - (floor((n - C) / 2) + 1) / n)^queries, 0 if all are opened",
                source: "unique decoding radius; independent uniform positions",
                bits: if self.opens_all() {
                    Bits::INFINITE
                } else {
                    Bits(self.bits_per_query().0.saturating_mul(u64::from(self.queries)))
                },
            },
        ];
        // A sum of k terms is at most k times the largest.
        let least = terms.iter().map(|term| term.bits).min().unwrap_or(Bits::INFINITE);
        SecurityBudget { terms, total: least.less_log2(terms.len() as u64) }
    }

    /// `-log2(1 - (e + 1) / n)`, rounded down.
    fn bits_per_query(&self) -> Bits {
        let (length, message) = (self.codeword_length() as u64, self.columns() as u64);
        let radius = length.saturating_sub(message) >> 1;
        let missed = length.saturating_sub(radius).saturating_sub(1);
        Bits::log2_of_ratio(length, missed)
    }

    /// The largest encoding of an opening.
    pub const fn max_opening_bytes(&self) -> usize {
        const ELEMENT: usize = 8;
        const EXTENSION: usize = 24;
        const HASH: usize = 32;
        const LENGTH: usize = 4;
        let rounds = (self.log_size as usize).saturating_mul(2).saturating_mul(EXTENSION);
        let folded_row = self.columns().saturating_mul(EXTENSION);
        let answers = self.max_columns().saturating_mul(self.rows()).saturating_mul(ELEMENT);
        let hashes = self.max_hashes().saturating_mul(HASH);
        rounds.saturating_add(folded_row).saturating_add(answers).saturating_add(hashes).saturating_add(2 * LENGTH)
    }

    /// The most hashes that paths of the queried columns can need: a level has no more siblings to
    /// send than there are queries, nor than it has pairs.
    pub const fn max_hashes(&self) -> usize {
        if self.opens_all() {
            return 0;
        }
        let (mut hashes, mut pairs) = (0_usize, self.codeword_length() >> 1);
        while pairs > 0 {
            hashes = hashes.saturating_add(if pairs < self.queries as usize { pairs } else { self.queries as usize });
            pairs >>= 1;
        }
        hashes
    }
}

/// `2^log`, or the largest integer where there is none.
const fn power_of_two(log: u32) -> usize {
    if log < usize::BITS { 1 << log } else { usize::MAX }
}

impl Canonical for CodeParams {
    fn write(&self, out: &mut Writer) {
        let Self { log_size, row_log, rate_log, queries } = *self;
        for value in [log_size, row_log, rate_log, queries] {
            out.u32(value);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let params = Self { log_size: from.u32()?, row_log: from.u32()?, rate_log: from.u32()?, queries: from.u32()? };
        if params.is_well_formed() { Ok(params) } else { Err(Malformed::NotCanonical) }
    }
}

/// Minus the logarithm of a probability's upper bound, rounded down to a multiple of `2^-16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits(u64);

impl Bits {
    const FRACTION: u32 = 16;

    /// An event that cannot happen.
    pub const INFINITE: Self = Self(u64::MAX);

    /// A whole number of bits.
    pub const fn whole(bits: u32) -> Self {
        Self((bits as u64) << Self::FRACTION)
    }

    /// The number, for display.
    #[expect(clippy::cast_precision_loss, clippy::float_arithmetic, reason = "exact below 2^36 bits; never compared")]
    pub fn to_f64(self) -> f64 {
        if self == Self::INFINITE { f64::INFINITY } else { self.0 as f64 / f64::from(1_u32 << Self::FRACTION) }
    }

    /// The bits that are left of an event when `count` such events are possible; none: infinitely
    /// many.
    const fn less_log2(self, count: u64) -> Self {
        match (self, count.checked_ilog2()) {
            (_, None) => Self::INFINITE,
            (Self::INFINITE, Some(_)) => self,
            // Rounded up to a whole bit unless the count is a power of two.
            (Self(bits), Some(log)) => {
                let log = if count.is_power_of_two() { log } else { log.saturating_add(1) };
                Self(bits.saturating_sub(Self::whole(log).0))
            }
        }
    }

    /// `log2(numerator / denominator)`, rounded down, for `1 <= denominator <= numerator <= 2^32`;
    /// the digits come one by one from squaring, each truncation only lowering the result.
    fn log2_of_ratio(numerator: u64, denominator: u64) -> Self {
        const POINT: u32 = 62;
        let scaled = u128::from(numerator) << POINT;
        let mut ratio = scaled.checked_div(u128::from(denominator)).unwrap_or(0);
        let Some(whole) = ratio.checked_ilog2().and_then(|log| log.checked_sub(POINT)) else {
            return Self(0);
        };
        ratio >>= whole;
        let mut bits = u64::from(whole);
        for _ in 0..Self::FRACTION {
            ratio = ratio.saturating_mul(ratio) >> POINT;
            let digit = u64::from(ratio >> POINT >= 2);
            ratio >>= digit;
            bits = bits << 1 | digit;
        }
        Self(bits)
    }
}

/// One way in which an opening of a false claim can pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityTerm {
    /// What goes wrong.
    pub name: &'static str,
    /// The bound on its probability.
    pub formula: &'static str,
    /// Where the bound is proved.
    pub source: &'static str,
    /// Minus its logarithm.
    pub bits: Bits,
}

/// The soundness of an opening, term by term. Collisions of BLAKE3 (128 bits) and of the sponge (256)
/// are assumed not to be found and stand outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecurityBudget {
    /// Every term.
    pub terms: [SecurityTerm; 4],
    /// Of all together: the least term less two bits, since four are summed.
    pub total: Bits,
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "compared within two bits")]
mod tests {
    use assay_sumcheck::field::P;

    use super::*;
    use crate::codec::{decode, encode};
    use crate::layout::MatrixShape;

    fn all() -> impl Iterator<Item = CodeParams> {
        (0..=MAX_LOG_SIZE)
            .flat_map(|log_size| (0..=log_size).map(move |max_row_log| CodeParams::smallest(log_size, max_row_log)))
    }

    #[test]
    fn an_audit_of_sixty_four_openings_reaches_a_hundred_bits_at_every_size() {
        for params in all() {
            let budget = params.security(MAX_CLAIMS);
            let audit = budget.total.less_log2(64);
            assert!(audit >= Bits::whole(100), "{params:?}: {budget:?}");
            assert!(params.is_secure() && params.queries <= 300);
            let query = budget.terms[3].bits;
            assert!(params.opens_all() || query < Bits::whole(TERM_BITS + 1), "{params:?}: too many queries");
        }
    }

    /// The same bounds in floating point, from the probabilities themselves.
    #[test]
    fn the_budget_agrees_with_floating_point() {
        let field = 3.0 * (P as f64).log2();
        for params in all() {
            let budget = params.security(MAX_CLAIMS);
            let (n, c) = (params.codeword_length() as f64, params.columns() as f64);
            let radius = ((n - c) / 2.0).floor();
            let query = if params.opens_all() {
                f64::INFINITY
            } else {
                -f64::from(params.queries) * (1.0 - (radius + 1.0) / n).log2()
            };
            let expected = [
                field - ((MAX_CLAIMS - 1) as f64).log2(),
                field - (2.0 * f64::from(params.log_size)).log2(),
                field - (f64::from(params.row_log) * n).log2(),
                query,
            ];
            for (term, expected) in budget.terms.iter().zip(expected) {
                let bits = term.bits.to_f64();
                assert!(bits <= expected, "{params:?}: {} claims too much", term.name);
                assert!(expected.is_infinite() == bits.is_infinite());
                assert!(bits.is_infinite() || expected - bits < 2.01, "{params:?}: {} {bits} {expected}", term.name);
            }
            let total = -expected.iter().map(|bits| (-bits).exp2()).sum::<f64>().log2();
            assert!(budget.total.to_f64() <= total);
            assert!(total - 64_f64.log2() >= 100.0, "{params:?}: {total}");
        }
    }

    #[test]
    fn one_query_less_than_needed_is_refused_where_it_counts() {
        let params = CodeParams::smallest(20, 8);
        assert!(params.is_secure());
        let weak = CodeParams { queries: params.queries - 1, ..params };
        assert!(!weak.is_secure());
        assert!(!CodeParams { queries: 0, ..params }.is_secure());
    }

    #[test]
    fn malformed_parameters_are_refused_without_a_panic() {
        let good = CodeParams::smallest(20, 8);
        let bad = [
            CodeParams { log_size: 31, ..good },
            CodeParams { log_size: u32::MAX, ..good },
            CodeParams { row_log: 21, ..good },
            CodeParams { row_log: u32::MAX, ..good },
            CodeParams { rate_log: 0, ..good },
            CodeParams { rate_log: 5, ..good },
            CodeParams { rate_log: u32::MAX, ..good },
            CodeParams { log_size: 30, row_log: 0, rate_log: 4, queries: 200 },
            CodeParams { queries: MAX_QUERIES + 1, ..good },
            CodeParams { queries: u32::MAX, ..good },
        ];
        for params in bad {
            assert!(!params.is_well_formed() && !params.is_secure(), "{params:?}");
            assert_eq!(decode::<CodeParams>(&encode(&params)), Err(Malformed::NotCanonical));
            // Sizes saturate.
            let _ = (params.security(usize::MAX), params.max_opening_bytes());
        }
        assert_eq!(decode(&encode(&good)), Ok(good));
    }

    #[test]
    fn rows_are_input_bits_of_every_tile() {
        let shape = |inputs, outputs| MatrixShape { inputs, outputs };
        for shapes in [vec![shape(192, 128), shape(128, 512)], vec![shape(5, 7)], vec![shape(1, 1)]] {
            let layout = Layout::new(&shapes).unwrap();
            let params = CodeParams::for_layout(&layout);
            assert!(params.fits(&layout) && params.is_secure(), "{params:?}");
        }
        let layout = Layout::new(&[shape(192, 128)]).unwrap();
        let params = CodeParams { row_log: 7, ..CodeParams::for_layout(&layout) };
        assert!(!params.fits(&layout));
    }

    #[test]
    fn tiny_codewords_are_opened_whole() {
        let params = CodeParams::smallest(4, 2);
        assert!(params.opens_all() && params.rate_log == 1);
        assert_eq!(params.max_columns(), params.codeword_length());
        assert_eq!(params.security(1).terms[3].bits, Bits::INFINITE);
        assert_eq!(params.security(1).terms[0].bits, Bits::INFINITE);
    }
}
