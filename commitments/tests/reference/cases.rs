//! Small codes, layouts and claims, drawn at random.

use super::code::{Code, Level, commit, layout, places};
use super::field::{E, P, ZERO, e_add, e_from_stream, e_scale, f_from_i64, f_mul, index};
use super::proof::Proof;
use super::statement::{Claim, Commitment, Part, Statement};

/// A stream of random numbers.
#[derive(Debug)]
pub(crate) struct Draws(blake3::OutputReader);

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        Self(blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof())
    }

    fn word(&mut self) -> [u8; 8] {
        let mut word = [0; 8];
        self.0.fill(&mut word);
        word
    }

    /// A number from `low` to `high`, both included.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + u64::from_le_bytes(self.word()) % (high - low + 1)
    }

    fn between_u32(&mut self, low: u32, high: u32) -> u32 {
        u32::try_from(self.between(low.into(), high.into())).expect("a bound has 32 bits")
    }

    /// An index below `count`.
    fn index(&mut self, count: usize) -> usize {
        index(self.between(1, super::field::number(count)) - 1)
    }

    /// An integer below `2^23` in magnitude.
    fn weight(&mut self) -> i64 {
        i64::try_from(self.between(0, (1 << 24) - 2)).expect("24 bits") - ((1 << 23) - 1)
    }

    pub(crate) fn element(&mut self) -> E {
        e_from_stream(|| self.word())
    }
}

/// Everything of a statement but the polynomials.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) code: Code,
    pub(crate) shapes: Vec<(u32, u32)>,
    pub(crate) polynomials: usize,
    /// With values that are yet to be computed.
    claims: Vec<Claim>,
}

/// Costs grow with the product of the lengths of a level's vector and its codeword.
const MAX_LOG_PRODUCT: u32 = 18;

impl Plan {
    pub(crate) fn random(draws: &mut Draws) -> Self {
        let row_log = draws.between_u32(0, 4);
        let (shapes, log_size) = shapes(draws, row_log);
        let code = code(draws, log_size, row_log);
        let polynomials = index(draws.between(1, 3));
        let claims = (0..draws.between(0, 3)).map(|_| claim(draws, &shapes, polynomials)).collect();
        Self { code, shapes, polynomials, claims }
    }

    /// Coefficients of the polynomials, zero outside the matrices.
    pub(crate) fn coefficients(&self, draws: &mut Draws) -> Vec<Vec<i64>> {
        let polynomial = |_| {
            let mut coefficients = vec![0; 1 << self.code.log_size];
            for matrix in 0..self.shapes.len() {
                for (_, _, place) in places(&self.shapes, matrix) {
                    coefficients[place] = draws.weight();
                }
            }
            coefficients
        };
        (0..self.polynomials).map(polynomial).collect()
    }

    /// True claims on polynomials of these coefficients.
    pub(crate) fn statement(&self, coefficients: &[Vec<i64>]) -> Statement {
        let Self { code, shapes, claims, .. } = self.clone();
        let commitment = |coefficients: &Vec<i64>| {
            let (root, evaluation) = commit(coefficients, &code);
            Commitment { root, evaluation }
        };
        let commitments = coefficients.iter().map(commitment).collect();
        let mut statement = Statement { code, shapes, commitments, claims };
        for claim in &mut statement.claims {
            claim.value = ZERO;
            for part in &claim.parts {
                for (k, o, place) in places(&self.shapes, part.matrix) {
                    let weight = f_from_i64(coefficients[part.polynomial][place]);
                    claim.value = e_add(claim.value, e_scale(part.output[o], f_mul(claim.input[k], weight)));
                }
            }
        }
        statement
    }
}

/// Matrices that make `2^3` to `2^10` coefficients, whose inputs are multiples of `2^row_log`.
fn shapes(draws: &mut Draws, row_log: u32) -> (Vec<(u32, u32)>, u32) {
    loop {
        let side = 1 << draws.between(1, 5);
        let count = draws.between(1, 3);
        let shapes: Vec<_> = (0..count)
            .map(|_| (draws.between_u32(1, (side >> row_log).max(1)) << row_log, draws.between_u32(1, side)))
            .collect();
        let (_, log_size) = layout(&shapes);
        if (3..=10).contains(&log_size) {
            return (shapes, log_size);
        }
    }
}

/// A code that folds at most `2^row_log` rows at level 0, and something at every other.
fn code(draws: &mut Draws, log_size: u32, row_log: u32) -> Code {
    let mut left = log_size;
    let mut levels = Vec::new();
    let count = 1 + draws.between(0, 3);
    while left > 0 && super::field::number(levels.len()) < count {
        let fold_log =
            if levels.is_empty() { draws.between_u32(0, row_log.min(left)) } else { draws.between_u32(1, left.min(4)) };
        let most = (MAX_LOG_PRODUCT + fold_log).saturating_sub(2 * left).clamp(1, 4);
        let rate_log = draws.between_u32(1, most);
        let product_log = 2 * left - fold_log + rate_log;
        left -= fold_log;
        let length = 1 << (left + rate_log);
        let queries = match draws.between(0, 5) {
            0 if product_log <= MAX_LOG_PRODUCT && length <= 512 => length,
            1 if product_log <= MAX_LOG_PRODUCT && length <= 512 => length + draws.between_u32(0, 5),
            2 if product_log <= MAX_LOG_PRODUCT && length <= 512 => length - 1,
            _ => draws.between_u32(1, 12),
        };
        levels.push(Level { fold_log, rate_log, queries, grinding: draws.between_u32(0, 4) });
    }
    Code { log_size, levels }
}

/// A claim on matrices of equal inputs, or on none.
fn claim(draws: &mut Draws, shapes: &[(u32, u32)], polynomials: usize) -> Claim {
    let inputs = shapes[draws.index(shapes.len())].0;
    let input = (0..inputs).map(|_| if draws.between(0, 1) == 0 { draws.between(0, P - 1) } else { P - 3 }).collect();
    let matrices: Vec<usize> = (0..shapes.len()).filter(|&matrix| shapes[matrix].0 == inputs).collect();
    let part = |draws: &mut Draws| {
        let matrix = matrices[draws.index(matrices.len())];
        let output = (0..shapes[matrix].1).map(|_| draws.element()).collect();
        Part { polynomial: draws.index(polynomials), matrix, output }
    };
    let parts = (0..draws.between(0, 4)).map(|_| part(draws)).collect();
    Claim { input, parts, value: ZERO }
}

/// Some other bytes than those of a proof: what a forger or the wire may make of them.
pub(crate) fn changed(draws: &mut Draws, bytes: &[u8], statement: &Statement) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    let at = draws.index(bytes.len());
    match draws.between(0, 5) {
        0 => changed[at] ^= 1 << draws.between(0, 7),
        1 => changed.truncate(at),
        2 => changed.push(0),
        3 => changed = bytes[..at].iter().chain(&[0; 32]).chain(&bytes[at..]).copied().collect(),
        kind => {
            let polynomials = statement.commitments.len();
            let mut proof = Proof::read(bytes, &statement.code, polynomials).expect("the bytes are those of a proof");
            change(draws, &mut proof, kind == 5);
            changed = proof.write();
        }
    }
    changed
}

/// Changes a part of a proof, drawn by its kind and not by its size.
fn change(draws: &mut Draws, proof: &mut Proof, lengths: bool) {
    let level = draws.index(proof.answers.len());
    let answer = &mut proof.answers[level];
    let tree = draws.index(answer.columns.len());
    let position = draws.index(answer.columns[tree].len());
    if lengths {
        match draws.between(0, 3) {
            0 => answer.hashes[tree].push([7; 32]),
            1 => drop(answer.hashes[tree].pop()),
            2 => answer.columns.iter_mut().for_each(|columns| drop(columns.remove(position))),
            _ => answer.columns.iter_mut().for_each(|columns| columns.push(columns[position].clone())),
        }
        return;
    }
    let other = |value: u64| if value == P - 1 { 0 } else { value + 1 };
    let row = draws.index(answer.columns[tree][position].len());
    match draws.between(0, 6) {
        0 => answer.nonce = answer.nonce.map(|nonce| nonce.wrapping_add(1)),
        1 => answer.columns[tree][position][row][0] = other(answer.columns[tree][position][row][0]),
        2 => answer.columns[tree].swap(0, position),
        3 if !answer.hashes[tree].is_empty() => {
            let hash = draws.index(answer.hashes[tree].len());
            answer.hashes[tree][hash][31] ^= 128;
        }
        4 if !proof.levels.is_empty() => {
            let level = draws.index(proof.levels.len());
            proof.levels[level].1[2] = other(proof.levels[level].1[2]);
        }
        5 if !proof.rounds.is_empty() => {
            let round = draws.index(proof.rounds.len());
            proof.rounds[round][1][1] = other(proof.rounds[round][1][1]);
        }
        _ => {
            let entry = draws.index(proof.last.len());
            proof.last[entry][0] = other(proof.last[entry][0]);
        }
    }
}
