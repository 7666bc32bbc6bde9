//! The soundness of an opening, term by term.
//!
//! Every bound is proved; none rests on a conjecture about codes. Each level of a
//! [`CodeParams`](crate::params::CodeParams) is a Reed-Solomon code with words over the extension,
//! interleaved, folded by challenges and queried at random positions. Two regimes say how far from
//! the code a committed word may be:
//!
//! - **Unique decoding.** Within `e = floor((n - C) / 2)` positions a word has one nearest codeword.
//!   Exceptional challenges of a fold: at most `n` (Ben-Sasson, Carmon, Ishai, Kopparty, Saraf,
//!   "Proximity gaps for Reed-Solomon codes", eprint 2020/654, theorem 4.1; for interleaved words and
//!   tensors of challenges Diamond and Gruen, eprint 2024/1351, corollary 3.7).
//! - **Johnson.** A word agrees with each of a few codewords on a share `sqrt(rho) (1 + 1/m)` of the
//!   positions, `m =` [`JOHNSON_M`]. There are at most `1 / (2 eta sqrt(rho))` of them, `eta =
//!   sqrt(rho) / m` (the Johnson bound; it holds over any alphabet, so for interleaved words as well).
//!   Exceptional challenges of a fold in the sense of mutual correlated agreement: at most
//!   `((2 (m + 1/2)^5 + 3 (m + 1/2) delta rho) / (3 rho^(3/2))) n + (m + 1/2) / sqrt(rho)`, with the
//!   reduced rate `rho = (C - 1) / n` (Ben-Sasson, Carmon, Haböck, Kopparty, Saraf, "On proximity gaps
//!   for Reed-Solomon codes", eprint 2025/2055, theorem 4.6). For interleaved words the same bound
//!   holds: were more challenges exceptional for a pair of interleaved words, each would stay so for a random
//!   combination of their rows but with probability `1 / |E|`. A tensor of challenges adds the bounds of
//!   its factors (Bordage, Chiesa, Guan, Manzur, eprint 2025/2051, lemma 4.4). Charging every row
//!   once more would not move any total below 101 bits. The older bound `(l^7 / 3) (rho n)^2`, `l = (m' + 1/2) / sqrt(rho)`,
//!   `m' = m / 2` (Haböck, eprint 2025/2110, theorem 2, by the argument of eprint 2020/654), is weaker;
//!   by it an audit still has 96 bits wherever the first fold is over 32 rows or more, as in every usual
//!   model: a test shows it.
//!
//! The argument follows WHIR (Arnon, Chiesa, Fenzi, Yogev, eprint 2024/1586, theorem 5.2), with
//! interleaved words in place of folded domains, as in Ligerito (Novakovic and Angeris, eprint 2025/1187):
//!
//! 1. A commitment fixes a list of polynomials; the value at a point drawn after it singles out one.
//! 2. If no polynomial of the list meets all claims, neither does any meet their combination, nor,
//!    after the rounds, its fold the folded claim.
//! 3. The folded vector is committed (or sent), and again one vector is singled out. Either it is the fold of
//!    a polynomial of the list; or it differs from the fold of the committed word in more positions
//!    than the regime allows, and every query misses these with the stated probability: otherwise
//!    a claim that the queries add is false.
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::expect_used,
    clippy::float_arithmetic
)]

use crate::params::{CodeParams, LevelCode};

/// What the openings of one audit must reach together, in bits.
pub const SECURITY_BITS: u32 = 100;

/// The logarithm of the number of openings in one audit: one for the layers, one for lm_head.
const OPENINGS_LOG: u32 = 1;

/// What one opening must reach in total, in bits.
pub const OPENING_BITS: u32 = SECURITY_BITS + OPENINGS_LOG;

/// The most claims that an opening is dimensioned for, the commitments' own included.
pub const MAX_CLAIMS: usize = 1 << 22;

/// The most polynomials that an opening is dimensioned for.
pub const MAX_POLYNOMIALS: usize = 1 << 20;

/// How close to the Johnson bound the analysis goes: `eta = sqrt(rho) / JOHNSON_M`. Closer costs
/// exceptional challenges, farther costs queries; at 24 a query loses 0.059 bits.
pub const JOHNSON_M: u32 = 24;

/// `floor(log2 |E|)`: `|E| = p^3` falls short of `2^192` by a part in `2^30`.
const EXTENSION_BITS: u32 = 191;

/// How far from the code a committed word may be in the analysis. The protocol is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Regime {
    /// Half the distance.
    UniqueDecoding,
    /// Up to the Johnson bound.
    Johnson,
}

impl Regime {
    /// The bits that one query to a code gives, rounded down. Zero where the regime's theorems do not apply.
    pub fn bits_per_query(self, code: &LevelCode) -> Bits {
        match self {
            // -log2(1 - (e + 1) / n)
            Self::UniqueDecoding => {
                let (length, message) = (1_u64 << code.codeword_log().min(32), 1_u64 << code.message_log().min(32));
                let radius = length.saturating_sub(message) >> 1;
                Bits::log2_of_ratio(length, length.saturating_sub(radius).saturating_sub(1))
            }
            Self::Johnson if code.message_log() == 0 => Bits(0),
            // -log2(sqrt(rho) (1 + 1/m))
            Self::Johnson => {
                let half_rate = u64::from(code.rate_log) << (Bits::FRACTION - 1);
                let lost = Bits::log2_of_ratio(u64::from(JOHNSON_M) + 1, u64::from(JOHNSON_M)).0;
                Bits(half_rate.saturating_sub(lost).saturating_sub(1))
            }
        }
    }

    /// The logarithm of the most polynomials that a commitment can stand for.
    fn list_log(self, code: &LevelCode) -> u32 {
        match self {
            Self::UniqueDecoding => 0,
            // 1 / (2 eta sqrt(rho)) = m / (2 rho)
            Self::Johnson => (JOHNSON_M / 2).next_power_of_two().ilog2().saturating_add(code.rate_log),
        }
    }

    /// The logarithm of the most challenges of one fold that are exceptional, rounded up.
    fn exceptional_log(self, code: &LevelCode) -> u32 {
        match self {
            Self::UniqueDecoding => code.codeword_log(),
            // With rho = (C - 1) / n at least half the rate, all of it is below
            // 2^23 n (rate / 2)^(-3/2): (2 (24 + 1/2)^5 + 74) / 3 < 2^22.5.
            Self::Johnson => {
                let rate = code.rate_log.saturating_mul(3).div_ceil(2).saturating_add(2);
                code.codeword_log().saturating_add(23).saturating_add(rate)
            }
        }
    }

    const fn source_of_folds(self) -> &'static str {
        match self {
            Self::UniqueDecoding => "eprint 2020/654, theorem 4.1; eprint 2024/1351, corollary 3.7",
            Self::Johnson => "eprint 2025/2055, theorem 4.6; eprint 2025/2051, lemma 4.4",
        }
    }

    const fn source_of_queries(self) -> &'static str {
        match self {
            Self::UniqueDecoding => "eprint 2024/1586, theorem 5.2: share 1 - (e + 1) / n, and grinding",
            Self::Johnson => "eprint 2024/1586, theorem 5.2: share sqrt(rho) (1 + 1/m), and grinding",
        }
    }
}

/// One way in which an opening of a false claim can pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityTerm {
    /// The level of the code.
    pub level: usize,
    /// What goes wrong.
    pub name: &'static str,
    /// The bound on its probability.
    pub formula: &'static str,
    /// Where the bound is proved.
    pub source: &'static str,
    /// Minus its logarithm.
    pub bits: Bits,
}

/// The soundness of an opening. Collisions of BLAKE3 (128 bits) and of the sponge (256) are assumed
/// not to be found and stand outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityBudget {
    /// Every term.
    pub terms: Vec<SecurityTerm>,
    /// Of all together.
    pub total: Bits,
}

impl CodeParams {
    /// What each part of an opening contributes, of up to [`MAX_CLAIMS`] claims on up to
    /// [`MAX_POLYNOMIALS`] polynomials.
    pub fn security(&self, regime: Regime) -> SecurityBudget {
        let field = Bits::whole(EXTENSION_BITS);
        let mut terms = vec![];
        let mut before: Option<LevelCode> = None;
        for (level, code) in self.codes().enumerate() {
            let mut term =
                |name, formula, source, bits| terms.push(SecurityTerm { level, name, formula, source, bits });
            let list = regime.list_log(&code);
            let polynomials = if level == 0 { MAX_POLYNOMIALS } else { 1 };
            let samples = match regime {
                Regime::UniqueDecoding => Bits::INFINITE,
                // Pairs of the list, each agreeing at most at the degree's number of points.
                Regime::Johnson => {
                    field.minus(list.saturating_mul(2).saturating_sub(1)).minus(code.variables).less_log2(polynomials)
                }
            };
            term(
                "out-of-domain sample",
                "polynomials list^2 2^variables / 2 |E|",
                "eprint 2024/1586, theorem 5.2 (out)",
                samples,
            );
            let claims = before.map_or(MAX_CLAIMS, |before| (before.queries as usize).saturating_add(1));
            term(
                "claim batching",
                "claims list / |E|",
                "Schwartz-Zippel: a polynomial of that degree in the batching challenge",
                field.minus(list).less_log2(claims),
            );
            let folds = (code.fold_log as usize).saturating_add(polynomials.ilog2() as usize);
            let rest = if level.saturating_add(1) == self.levels.len() { self.final_log() as usize } else { 0 };
            term(
                "sumcheck",
                "2 rounds list / |E|",
                "Lund, Fortnow, Karloff, Nisan, J. ACM 39(4), 1992: degree 2, one round a variable",
                field.minus(list).less_log2(folds.saturating_add(rest).saturating_mul(2)),
            );
            term(
                "folds",
                match regime {
                    Regime::UniqueDecoding => "folds n / |E|",
                    Regime::Johnson => "folds ((2 (m + 1/2)^5 + 3 (m + 1/2) delta rho) n / 3 rho^(3/2) + ...) / |E|",
                },
                regime.source_of_folds(),
                field.minus(regime.exceptional_log(&code)).less_log2(folds),
            );
            term("queries", "share^queries 2^-grinding", regime.source_of_queries(), code.query_bits(regime));
            before = Some(code);
        }
        let total = terms.iter().fold(Bits::INFINITE, |sum, term| sum.plus(term.bits));
        SecurityBudget { terms, total }
    }

    /// What an opening reaches, counted in the regime that gives more.
    pub fn best_security(&self) -> SecurityBudget {
        let [unique, johnson] = [Regime::UniqueDecoding, Regime::Johnson].map(|regime| self.security(regime));
        if johnson.total >= unique.total { johnson } else { unique }
    }

    /// Whether an opening is sound to [`OPENING_BITS`], and so the openings of an audit together to
    /// [`SECURITY_BITS`]. The same on every platform: the bounds are computed in integers.
    pub fn is_secure(&self) -> bool {
        self.is_well_formed() && self.best_security().total >= Bits::whole(OPENING_BITS)
    }
}

impl LevelCode {
    /// What the queries and the grinding give together.
    fn query_bits(&self, regime: Regime) -> Bits {
        if self.opens_all() {
            return Bits::INFINITE;
        }
        let queries = regime.bits_per_query(self).0.saturating_mul(u64::from(self.queries));
        Bits(queries.saturating_add(Bits::whole(self.grinding).0))
    }
}

/// Minus the logarithm of a probability's upper bound, rounded down to a multiple of `2^-16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bits(pub(crate) u64);

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

    /// So many bits less.
    const fn minus(self, bits: u32) -> Self {
        if self.0 == u64::MAX { self } else { Self(self.0.saturating_sub(Self::whole(bits).0)) }
    }

    /// The bits that are left of an event when `count` such events are possible; none: infinitely
    /// many.
    const fn less_log2(self, count: usize) -> Self {
        match count.checked_ilog2() {
            None => Self::INFINITE,
            // Rounded up to a whole bit unless the count is a power of two.
            Some(log) => self.minus(if count.is_power_of_two() { log } else { log.saturating_add(1) }),
        }
    }

    /// Either event: `-log2(2^-a + 2^-b)`, rounded down.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        const ONE: u64 = 1 << Bits::FRACTION;
        const LOG2_E: u64 = 94549;
        let (low, high) = if self.0 <= other.0 { (self.0, other.0) } else { (other.0, self.0) };
        if high == u64::MAX {
            return Self(low);
        }
        // log2(1 + x) <= log2(e) (x - x^2 / 2 + x^3 / 3) for x = 2^-d, d rounded down to quarters of a bit.
        let distance = high.saturating_sub(low);
        let quarter = match distance >> (Self::FRACTION - 2) & 3 {
            0 => ONE,
            1 => 55110,
            2 => 46341,
            _ => 38968,
        };
        let whole = distance >> Self::FRACTION;
        let x = if whole >= 17 { 1 } else { (quarter >> whole).saturating_add(1) };
        let square = x.saturating_mul(x) >> Self::FRACTION;
        let cube = (square.saturating_add(1).saturating_mul(x) >> Self::FRACTION) / 3;
        let series = x.saturating_sub(square >> 1).saturating_add(cube).saturating_add(2);
        let lost = (series.saturating_mul(LOG2_E) >> Self::FRACTION).saturating_add(1);
        Self(low.saturating_sub(if lost < ONE { lost } else { ONE }))
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

#[cfg(test)]
#[expect(
    clippy::cast_precision_loss,
    clippy::arithmetic_side_effects,
    clippy::float_arithmetic,
    reason = "tests may panic, and compare within bits"
)]
mod tests {
    use assay_sumcheck::field::P;

    use super::*;
    use crate::layout::MAX_LOG_SIZE;
    use crate::params::{Level, MAX_QUERIES, Search};

    const REGIMES: [Regime; 2] = [Regime::UniqueDecoding, Regime::Johnson];

    /// The codes of every shape, in both regimes.
    fn all() -> impl Iterator<Item = (Regime, CodeParams)> {
        REGIMES.into_iter().flat_map(|regime| {
            let search = Search { regime, ..Search::default() };
            let sizes = (0..=MAX_LOG_SIZE).flat_map(|size| (0..=size.min(10)).map(move |rows| (size, rows)));
            sizes.map(move |(size, rows)| (regime, search.run(size, rows)))
        })
    }

    #[test]
    fn two_openings_reach_a_hundred_bits_at_every_size() {
        for (regime, params) in all() {
            let total = params.security(regime).total;
            assert!(params.is_secure() && total.minus(1) >= Bits::whole(100), "{regime:?} {params:?}: {total:?}");
            assert!(params.codes().all(|code| code.queries <= MAX_QUERIES), "{params:?}");
        }
    }

    /// The bounds once more, in floating point, each probability by itself; with `older`, the exceptional
    /// challenges of the Johnson regime by the bound of eprint 2025/2110.
    fn probabilities(regime: Regime, params: &CodeParams, older: bool) -> Vec<f64> {
        let field = (P as f64).powi(3);
        let codes: Vec<LevelCode> = params.codes().collect();
        let mut all = vec![];
        for (level, code) in codes.iter().enumerate() {
            let (n, c) = (f64::from(code.codeword_log()).exp2(), f64::from(code.message_log()).exp2());
            let (rate, m) = (c / n, f64::from(JOHNSON_M));
            let eta = rate.sqrt() / m;
            let list = if regime == Regime::Johnson { 1.0 / (2.0 * eta * rate.sqrt()) } else { 1.0 };
            let polynomials = if level == 0 { MAX_POLYNOMIALS as f64 } else { 1.0 };
            let length = f64::from(code.variables).exp2();
            all.push(if regime == Regime::Johnson {
                polynomials * list * list / 2.0 * (length - 1.0) / field
            } else {
                0.0
            });
            let claims = if level == 0 { MAX_CLAIMS as f64 } else { f64::from(codes[level - 1].queries) + 1.0 };
            all.push(claims * list / field);
            let folds = f64::from(code.fold_log) + polynomials.log2();
            let last = if level + 1 == codes.len() { f64::from(params.final_log()) } else { 0.0 };
            all.push(2.0 * (folds + last) * list / field);
            let reduced = (c - 1.0) / n;
            let delta = 1.0 - rate.sqrt() - eta;
            let exceptional = match regime {
                Regime::UniqueDecoding => n,
                Regime::Johnson if c < 2.0 => 0.0,
                Regime::Johnson if older => ((m / 2.0 + 0.5) / reduced.sqrt()).powi(7) / 3.0 * c * c,
                Regime::Johnson => {
                    (2.0 * (m + 0.5).powi(5) + 3.0 * (m + 0.5) * delta * reduced) / (3.0 * reduced.powf(1.5)) * n
                        + (m + 0.5) / reduced.sqrt()
                }
            };
            all.push(folds * exceptional / field);
            let share = match regime {
                Regime::UniqueDecoding => 1.0 - (((n - c) / 2.0).floor() + 1.0) / n,
                Regime::Johnson => rate.sqrt() + eta,
            };
            let missed = share.powf(f64::from(code.queries)) * (-f64::from(code.grinding)).exp2();
            all.push(if code.opens_all() { 0.0 } else { missed });
        }
        all
    }

    #[test]
    fn the_budget_agrees_with_floating_point() {
        for (regime, params) in all() {
            let budget = params.security(regime);
            let expected = probabilities(regime, &params, false);
            assert_eq!(budget.terms.len(), expected.len());
            for (term, &expected) in budget.terms.iter().zip(&expected) {
                let (bits, expected) = (term.bits.to_f64(), -expected.log2());
                assert!(bits <= expected, "{params:?}: {} claims too much: {bits} {expected}", term.name);
                let close = expected - bits < 6.0 || expected.is_infinite();
                assert!(close, "{params:?}: {} {bits} {expected}", term.name);
            }
            let total = -expected.iter().sum::<f64>().log2();
            let close = total > 120.0 || total - budget.total.to_f64() < 0.5;
            assert!(budget.total.to_f64() <= total && close, "{params:?}: {total}");
        }
    }

    #[test]
    fn by_the_older_bound_four_bits_are_lost_at_most() {
        let with_rows = all().filter(|(regime, params)| *regime == Regime::Johnson && params.base().fold_log >= 5);
        for (regime, params) in with_rows {
            let total = -(2.0 * probabilities(regime, &params, true).iter().sum::<f64>()).log2();
            assert!(total >= 96.0, "{params:?}: {total}");
        }
    }

    #[test]
    fn queries_or_work_taken_away_are_missed() {
        for log_size in 12..=MAX_LOG_SIZE {
            let params = Search::default().run(log_size, 6);
            for level in 0..params.levels.len().min(2) {
                let weaker = |change: &dyn Fn(&mut Level)| {
                    let mut weaker = params.clone();
                    change(&mut weaker.levels[level]);
                    weaker.is_secure()
                };
                assert!(!weaker(&|level| level.queries -= 3), "{params:?}");
                assert!(!weaker(&|level| level.queries = 0), "{params:?}");
                assert!(!weaker(&|level| level.grinding = 0), "{params:?}");
            }
        }
    }

    #[test]
    fn probabilities_add_up() {
        // In 256ths of a bit.
        for (a, b) in [(25600, 25600), (25600, 25856), (25600, 25728), (26547, 33280), (16384, 51200)] {
            let bits = |parts: u64| Bits(parts << 8);
            let sum = bits(a).plus(bits(b));
            let exact = -((-bits(a).to_f64()).exp2() + (-bits(b).to_f64()).exp2()).log2();
            assert!(sum.to_f64() <= exact && exact - sum.to_f64() < 0.1, "{a} {b}: {} {exact}", sum.to_f64());
            assert_eq!(sum, bits(b).plus(bits(a)));
        }
        assert_eq!(Bits::INFINITE.plus(Bits::whole(3)), Bits::whole(3));
        assert_eq!(Bits::INFINITE.plus(Bits::INFINITE), Bits::INFINITE);
    }
}
