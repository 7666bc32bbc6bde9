//! Parameters of the weight code, and the search that finds them.
//!
//! A polynomial of `2^log_size` coefficients is encoded by the first level of a [`CodeParams`]; an
//! opening folds it over that level's rows, encodes the folded vector by the next level, and so on, and
//! sends what the last level leaves. What this gives is computed by [`crate::security`].
#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::panic,
    clippy::expect_used,
    clippy::float_arithmetic
)]

use std::collections::BTreeMap;

use crate::codec::{Canonical, Malformed, Reader, Writer};
use crate::layout::{Layout, MAX_LOG_SIZE};
pub use crate::security::{Bits, MAX_CLAIMS, MAX_POLYNOMIALS, OPENING_BITS, Regime, SecurityBudget, SecurityTerm};

/// The most levels of a code: a level folds at least one variable.
const MAX_LEVELS: usize = 16;

/// The most queries that a level may have. The search never needs more than 270; the bound keeps what a
/// hostile manifest can make a verifier draw and hash small.
pub const MAX_QUERIES: u32 = 1024;

/// The most grinding, as an exponent of two.
pub const MAX_GRINDING: u32 = 20;

/// The lowest rate is `2^-MAX_RATE_LOG`.
const MAX_RATE_LOG: u32 = 14;

/// The most variables folded at once.
const MAX_FOLD_LOG: u32 = 10;

/// The largest vector sent in clear has `2^MAX_FINAL_LOG` entries.
const MAX_FINAL_LOG: u32 = 12;

/// `F*` has a subgroup of `2^32` elements and none of `2^33`.
const MAX_CODEWORD_LOG: u32 = 32;

/// Bytes of an element of the base field, of the extension, of a hash, and of a length.
const ELEMENT: u64 = 8;
const EXTENSION: u64 = 24;
const HASH: u64 = 32;
const LENGTH: u64 = 4;

/// One level of a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Logarithm of the number of rows: variables that are folded at once.
    pub fold_log: u32,
    /// Negative logarithm of the rate.
    pub rate_log: u32,
    /// Positions drawn, before repeats are dropped; from the codeword's length on, all are opened.
    pub queries: u32,
    /// Logarithm of the tries that drawing the positions costs the prover.
    pub grinding: u32,
}

/// The code of one polynomial: what is committed, and how it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeParams {
    /// Logarithm of the number of coefficients.
    pub log_size: u32,
    /// The level that encodes the coefficients, then those that encode folded vectors.
    pub levels: Vec<Level>,
}

/// A level with the number of variables of what it encodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LevelCode {
    /// Logarithm of the length of the encoded vector.
    pub variables: u32,
    /// Logarithm of the number of rows.
    pub fold_log: u32,
    /// Negative logarithm of the rate.
    pub rate_log: u32,
    /// Positions drawn.
    pub queries: u32,
    /// Logarithm of the tries that drawing the positions costs.
    pub grinding: u32,
}

impl LevelCode {
    /// Logarithm of the length of a row: of what folding leaves.
    pub const fn message_log(&self) -> u32 {
        self.variables.saturating_sub(self.fold_log)
    }

    /// Logarithm of the codeword's length.
    pub const fn codeword_log(&self) -> u32 {
        self.message_log().saturating_add(self.rate_log)
    }

    /// The number of rows.
    pub const fn rows(&self) -> usize {
        power_of_two(self.fold_log)
    }

    /// The codeword's length.
    pub const fn codeword_length(&self) -> usize {
        power_of_two(self.codeword_log())
    }

    /// Whether an opening shows every position rather than drawn ones.
    pub const fn opens_all(&self) -> bool {
        self.queries as usize >= self.codeword_length()
    }

    /// The most positions that an opening shows.
    pub const fn max_positions(&self) -> usize {
        if self.opens_all() { self.codeword_length() } else { self.queries as usize }
    }

    /// The most hashes that the paths of these positions can need: a height of the tree has no more
    /// siblings to send than there are queries, nor than it has pairs.
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

    /// The most bytes that answers to the queries take, for symbols of `symbol` bytes.
    fn max_answer_bytes(&self, symbol: u64) -> u64 {
        let columns = (self.max_positions() as u64).saturating_mul(symbol << self.fold_log.min(32));
        columns.saturating_add((self.max_hashes() as u64).saturating_mul(HASH)).saturating_add(2 * LENGTH)
    }

    /// A model of the time that a verifier takes for the answers, in nanoseconds on one core: the
    /// hashing of columns and paths, the folds, and the weights that the points add.
    fn verifier_time(&self, symbol: u64) -> u64 {
        /// One compression of BLAKE3.
        const COMPRESSION: u64 = 70;
        /// A product of an extension element with a symbol, by the bytes of the symbol.
        const PRODUCT_A_BYTE: u64 = 1;
        /// A factor of a point's weight.
        const FACTOR: u64 = 15;
        let bytes = symbol << self.fold_log.min(32);
        let blocks = (bytes.saturating_add(8)).div_ceil(64);
        let a_position = blocks.saturating_mul(COMPRESSION).saturating_add(bytes.saturating_mul(PRODUCT_A_BYTE));
        let weights = FACTOR.saturating_mul(self.message_log().into());
        (self.max_positions() as u64)
            .saturating_mul(a_position.saturating_add(weights))
            .saturating_add((self.max_hashes() as u64).saturating_mul(COMPRESSION))
    }

    const fn is_well_formed(&self) -> bool {
        self.fold_log <= self.variables
            && self.fold_log <= MAX_FOLD_LOG
            && 1 <= self.rate_log
            && self.rate_log <= MAX_RATE_LOG
            && self.codeword_log() <= MAX_CODEWORD_LOG
            && self.queries <= MAX_QUERIES
            && self.grinding <= MAX_GRINDING
    }
}

impl CodeParams {
    /// The code of a layout: the smallest opening of one polynomial that the [`Search`] finds with rows
    /// made of input bits of every tile. A layout has no other legal code.
    pub fn for_layout(layout: &Layout) -> Self {
        Search::default().run(layout.log_size(), layout.min_input_log())
    }

    /// The levels with what they encode.
    pub fn codes(&self) -> impl Iterator<Item = LevelCode> {
        self.levels.iter().scan(self.log_size, |variables, level| {
            let Level { fold_log, rate_log, queries, grinding } = *level;
            let code = LevelCode { variables: *variables, fold_log, rate_log, queries, grinding };
            *variables = code.message_log();
            Some(code)
        })
    }

    /// The level that encodes the coefficients. A code without levels has none; the answer then encodes
    /// nothing.
    pub fn base(&self) -> LevelCode {
        let none = LevelCode { variables: self.log_size, fold_log: 0, rate_log: 1, queries: 0, grinding: 0 };
        self.codes().next().unwrap_or(none)
    }

    /// Logarithm of the length of the vector that is sent in clear.
    pub fn final_log(&self) -> u32 {
        self.codes().last().map_or(self.log_size, |code| code.message_log())
    }

    /// Whether every number is in its range: the sizes above are then what they say.
    pub fn is_well_formed(&self) -> bool {
        self.log_size <= MAX_LOG_SIZE
            && (1..=MAX_LEVELS).contains(&self.levels.len())
            && self.codes().all(|code| code.is_well_formed())
            && self.codes().skip(1).all(|code| code.fold_log >= 1)
            && self.final_log() <= MAX_FINAL_LOG
    }

    /// Whether the parameters can be used with a layout.
    pub fn fits(&self, layout: &Layout) -> bool {
        self.is_well_formed() && self.log_size == layout.log_size() && self.base().fold_log <= layout.min_input_log()
    }

    /// The largest encoding of an opening of so many polynomials.
    pub fn max_opening_bytes(&self, polynomials: usize) -> usize {
        let rounds = u64::from(self.log_size).saturating_add(u64::from(polynomial_variables(polynomials)));
        let ends = rounds.saturating_mul(2 * EXTENSION).saturating_add(EXTENSION << self.final_log().min(32));
        let levels = self.codes().enumerate().map(|(level, code)| {
            let (symbol, trees) = if level == 0 { (ELEMENT, polynomials as u64) } else { (EXTENSION, 1) };
            code.max_answer_bytes(symbol).saturating_mul(trees).saturating_add(HASH + EXTENSION + ELEMENT)
        });
        usize::try_from(levels.fold(ends, u64::saturating_add)).unwrap_or(usize::MAX)
    }

    /// A model of the time that a verifier takes for an opening of one polynomial, the claims' own
    /// weights apart, in nanoseconds on one core.
    pub fn verifier_time(&self) -> u64 {
        let levels = self.codes().enumerate().map(|(level, code)| {
            let symbol = if level == 0 { ELEMENT } else { EXTENSION };
            code.verifier_time(symbol)
        });
        levels.fold(last_level_time(self.codes().last(), self.final_log()), u64::saturating_add)
    }
}

/// What comparing the last vector's codeword with the answers costs: a product for every entry and position.
fn last_level_time(last: Option<LevelCode>, final_log: u32) -> u64 {
    const PRODUCT: u64 = 3;
    let positions = last.map_or(0, |code| code.max_positions() as u64);
    positions.saturating_mul(PRODUCT << final_log.min(32))
}

/// The number of variables that tell so many polynomials apart.
pub const fn polynomial_variables(polynomials: usize) -> u32 {
    match polynomials.checked_next_power_of_two() {
        Some(count) => count.ilog2(),
        None => usize::BITS,
    }
}

/// `2^log`, or the largest integer where there is none.
const fn power_of_two(log: u32) -> usize {
    if log < usize::BITS { 1 << log } else { usize::MAX }
}

impl Canonical for CodeParams {
    fn write(&self, out: &mut Writer) {
        out.u32(self.log_size);
        out.list(&self.levels);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let params = Self { log_size: from.u32()?, levels: from.list(MAX_LEVELS)? };
        if params.is_well_formed() { Ok(params) } else { Err(Malformed::NotCanonical) }
    }
}

impl Canonical for Level {
    fn write(&self, out: &mut Writer) {
        let Self { fold_log, rate_log, queries, grinding } = *self;
        for value in [fold_log, rate_log, queries, grinding] {
            out.u32(value);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { fold_log: from.u32()?, rate_log: from.u32()?, queries: from.u32()?, grinding: from.u32()? })
    }
}

/// What the search may choose from. The defaults make the legal codes; benches vary them.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// How security is counted.
    pub regime: Regime,
    /// Negative logarithms of the rates at which coefficients may be encoded: time of committing, and
    /// size of trees, grow with the inverse rate.
    pub base_rates: (u32, u32),
    /// Encoding a folded vector may take `2^-share` of the time that encoding the coefficients took.
    pub recommit_share_log: u32,
    /// Bits of an opening in total.
    pub bits: u32,
    /// Grinding for every level; by default the logarithm of the size less eight, so that it costs less than
    /// a pass over the weights, and 20 at most.
    pub grinding: Option<u32>,
    /// The most time that [`CodeParams::verifier_time`] may find, in nanoseconds.
    pub verifier_time: u64,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            regime: Regime::Johnson,
            base_rates: (1, 2),
            recommit_share_log: 1,
            bits: OPENING_BITS,
            grinding: None,
            verifier_time: 2_500_000,
        }
    }
}

/// Levels below some number of variables, with what they cost.
#[derive(Clone, Debug)]
struct Tail {
    bytes: u64,
    levels: Vec<Level>,
}

impl Search {
    /// The smallest opening of a polynomial of `2^log_size` coefficients with at most `2^max_row_log` rows. Of equal
    /// ones, that found first: high rates and few rows come first.
    pub fn run(&self, log_size: u32, max_row_log: u32) -> CodeParams {
        // A vector that is hardly folded before it is encoded again is dear to encode, and no longer fits the
        // share: matrices of odd sides get what they need.
        let shares = (0..=self.recommit_share_log).rev().map(i64::from).chain((1..=64).map(i64::wrapping_neg));
        let mut found = shares.filter_map(|share| self.run_with_share(log_size, max_row_log, share));
        found.next().unwrap_or_else(|| CodeParams { log_size, levels: vec![] })
    }

    fn run_with_share(&self, log_size: u32, max_row_log: u32, share: i64) -> Option<CodeParams> {
        let (highest, lowest) = self.base_rates;
        let grinding = self.grinding.unwrap_or_else(|| log_size.saturating_sub(8).min(MAX_GRINDING));
        let mut best: Option<(u64, CodeParams)> = None;
        for rate_log in highest..=lowest {
            // 3 * 2^(variables + rate) symbols at most 2^(log_size + rate_log - share) of them; 3 < 4.
            let encoded = i64::from(log_size.saturating_add(rate_log)).saturating_sub(2).saturating_sub(share);
            let mut tails = Tails { search: self, grinding, encoded, known: BTreeMap::new() };
            for fold_log in 0..=max_row_log.min(log_size).min(MAX_FOLD_LOG) {
                let base = self.level(log_size, fold_log, rate_log, grinding, 0);
                let (true, Some(tail)) = (base.is_well_formed(), tails.best(base.message_log(), 1)) else { continue };
                let levels = [&[base.level()], tail.levels.as_slice()].concat();
                let params = CodeParams { log_size, levels };
                let bytes = base.max_answer_bytes(ELEMENT).saturating_add(tail.bytes);
                let fits = params.is_well_formed() && params.verifier_time() <= self.verifier_time;
                if fits && best.as_ref().is_none_or(|(least, _)| bytes < *least) {
                    best = Some((bytes, params));
                }
            }
        }
        best.map(|(_, params)| params)
    }

    /// A level with the fewest queries for its share of the error: half for the first level, a quarter for the
    /// next, and so on.
    fn level(&self, variables: u32, fold_log: u32, rate_log: u32, grinding: u32, level: u32) -> LevelCode {
        let code = LevelCode { variables, fold_log, rate_log, queries: 0, grinding };
        // And a sixteenth of a bit for what adding bounds up rounds away.
        let sixteenth = Bits::whole(1).0 >> 4;
        let wanted = Bits::whole(self.bits.saturating_add(1).saturating_add(level)).0.saturating_add(sixteenth);
        let wanted = wanted.saturating_sub(Bits::whole(grinding).0);
        let a_query = self.regime.bits_per_query(&code).0;
        let queries = wanted.checked_div(a_query).map_or(u64::MAX, |_| wanted.div_ceil(a_query));
        // Where all positions are opened nothing is drawn, and nothing ground.
        let length = code.codeword_length() as u64;
        let (queries, grinding) = if queries >= length { (length, 0) } else { (queries, grinding) };
        LevelCode { queries: u32::try_from(queries).unwrap_or(u32::MAX), grinding, ..code }
    }
}

impl LevelCode {
    const fn level(&self) -> Level {
        let Self { fold_log, rate_log, queries, grinding, .. } = *self;
        Level { fold_log, rate_log, queries, grinding }
    }
}

/// The best levels below a number of variables, found once.
struct Tails<'a> {
    search: &'a Search,
    grinding: u32,
    /// The most that variables and rate of a folded vector may be together.
    encoded: i64,
    known: BTreeMap<(u32, u32), Option<Tail>>,
}

impl Tails<'_> {
    /// The smallest continuation for a folded vector in so many variables, to be encoded as level `level`.
    fn best(&mut self, variables: u32, level: u32) -> Option<Tail> {
        if let Some(known) = self.known.get(&(variables, level)) {
            return known.clone();
        }
        // To send the vector is always possible while it is short.
        let sent = (variables <= MAX_FINAL_LOG).then(|| Tail { bytes: EXTENSION << variables, levels: vec![] });
        let mut best = sent;
        if (level as usize) < MAX_LEVELS {
            for fold_log in 1..=variables.saturating_sub(1).min(MAX_FOLD_LOG) {
                for rate_log in 1..=MAX_RATE_LOG {
                    let code = self.search.level(variables, fold_log, rate_log, self.grinding, level);
                    if i64::from(variables.saturating_add(rate_log)) > self.encoded || !code.is_well_formed() {
                        break;
                    }
                    let own = code.max_answer_bytes(EXTENSION).saturating_add(HASH + EXTENSION + ELEMENT);
                    if best.as_ref().is_some_and(|best| best.bytes <= own) {
                        continue;
                    }
                    let Some(rest) = self.best(code.message_log(), level.saturating_add(1)) else { continue };
                    let bytes = own.saturating_add(rest.bytes);
                    if best.as_ref().is_none_or(|best| bytes < best.bytes) {
                        best = Some(Tail { bytes, levels: [&[code.level()], rest.levels.as_slice()].concat() });
                    }
                }
            }
        }
        self.known.insert((variables, level), best.clone());
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::layout::MatrixShape;

    fn legal(log_size: u32, max_row_log: u32) -> CodeParams {
        Search::default().run(log_size, max_row_log)
    }

    #[test]
    fn every_size_has_a_code_that_a_verifier_has_time_for() {
        for log_size in 0..=MAX_LOG_SIZE {
            for max_row_log in 0..=log_size.min(12) {
                let params = legal(log_size, max_row_log);
                assert!(params.is_well_formed() && params.base().fold_log <= max_row_log, "{params:?}");
                assert!(params.verifier_time() <= Search::default().verifier_time, "{params:?}");
                assert!(params.codes().all(|code| code.queries <= 270 || code.opens_all()), "{params:?}");
            }
        }
    }

    #[test]
    fn tiny_codewords_are_opened_whole() {
        let params = legal(4, 2);
        let base = params.base();
        assert!(base.opens_all() && base.rate_log == 1 && base.grinding == 0 && params.levels.len() == 1);
        assert_eq!((base.max_positions(), base.max_hashes()), (base.codeword_length(), 0));
    }

    #[test]
    fn what_the_search_may_choose_decides_the_size() {
        let bytes = |search: Search| search.run(24, 10).max_opening_bytes(1);
        let default = bytes(Search::default());
        assert!(bytes(Search { base_rates: (1, 4), ..Search::default() }) < default);
        assert!(bytes(Search { recommit_share_log: 3, ..Search::default() }) > default);
        assert!(bytes(Search { grinding: Some(0), ..Search::default() }) > default);
        assert!(bytes(Search { regime: Regime::UniqueDecoding, ..Search::default() }) > default);
        let hurried = Search { verifier_time: 1, ..Search::default() };
        assert!(hurried.run(24, 10).levels.is_empty(), "no code is verified in a nanosecond");
    }

    #[test]
    fn malformed_parameters_are_refused_without_a_panic() {
        let good = legal(20, 8);
        let base = |change: &dyn Fn(&mut Level)| {
            let mut params = good.clone();
            change(&mut params.levels[0]);
            params
        };
        let bad = [
            CodeParams { log_size: 31, ..good.clone() },
            CodeParams { log_size: u32::MAX, ..good.clone() },
            CodeParams { levels: vec![], ..good.clone() },
            CodeParams { levels: vec![good.levels[0]; 17], ..good.clone() },
            CodeParams { levels: vec![good.levels[0]], log_size: 20 },
            CodeParams {
                levels: [good.levels.as_slice(), &[Level { fold_log: 0, ..good.levels[1] }]].concat(),
                ..good.clone()
            },
            base(&|level| level.fold_log = 21),
            base(&|level| level.fold_log = u32::MAX),
            base(&|level| level.rate_log = 0),
            base(&|level| level.rate_log = MAX_RATE_LOG + 1),
            base(&|level| level.rate_log = u32::MAX),
            base(&|level| level.queries = MAX_QUERIES + 1),
            base(&|level| level.queries = u32::MAX),
            base(&|level| level.grinding = MAX_GRINDING + 1),
        ];
        for params in bad {
            assert!(!params.is_well_formed() && !params.is_secure(), "{params:?}");
            assert!(decode::<CodeParams>(&encode(&params)).is_err());
            // Sizes saturate.
            let _ = (params.security(Regime::Johnson), params.max_opening_bytes(usize::MAX), params.verifier_time());
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
        let mut params = CodeParams::for_layout(&layout);
        params.levels[0].fold_log = 7;
        assert!(!params.fits(&layout));
    }
}
