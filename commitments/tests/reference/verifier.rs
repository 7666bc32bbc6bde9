//! The verifier of an opening.

use std::collections::BTreeMap;

use super::code::point;
use super::field::{
    E, ZERO, e_add, e_bytes, e_from_f, e_mul, e_sub, e_sum, eq, fold_all, horner, horner_f, index, powers,
};
use super::merkle::{Hash, leaf, root_of, symbol_bytes};
use super::proof::{Answer, Proof, number_log};
use super::statement::Statement;
use super::transcript::Transcript;

/// What came of verifying an opening.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) verdict: Result<(), String>,
    /// The positions of every level that was come to.
    pub(crate) positions: Vec<Vec<u64>>,
    /// Where the transcript ended.
    pub(crate) transcript: Transcript,
}

/// Verifies the opening that `proof` encodes, in a transcript that is in the step "reduction".
pub(crate) fn verify(statement: &Statement, proof: &[u8], transcript: Transcript) -> Outcome {
    let mut verifier = Verifier { statement, claim: ZERO, positions: Vec::new(), transcript };
    let verdict = verifier.run(proof);
    Outcome { verdict, positions: verifier.positions, transcript: verifier.transcript }
}

struct Verifier<'a> {
    statement: &'a Statement,
    /// `c`.
    claim: E,
    positions: Vec<Vec<u64>>,
    transcript: Transcript,
}

impl Verifier<'_> {
    fn run(&mut self, proof: &[u8]) -> Result<(), String> {
        let statement = self.statement;
        statement.check()?;
        let code = &statement.code;
        let count = statement.commitments.len();
        let Proof { rounds, levels, last, answers } = Proof::read(proof, code, count)?;
        let mut rounds = rounds.into_iter();

        // 1. and 2.
        statement.absorb(&mut self.transcript);
        let gamma = self.transcript.challenge("weights/batch");
        self.claim = statement.batched_claim(gamma);

        // 3. What folds the symbols of the level below: the challenges of its rows, then of the polynomial's number.
        let mut rows = self.rounds(&mut rounds, code.levels[0].fold_log);
        let number = self.rounds(&mut rounds, number_log(count));
        let mut columns_fold = number.clone();
        let mut roots: Vec<Hash> = statement.commitments.iter().map(|commitment| commitment.root).collect();
        let mut z = rows.clone();

        // 4. The weights that are added to those on u_1, u_2, ...
        let mut added = Vec::new();
        for (i, (root, answer)) in (1..).zip(levels) {
            self.transcript.absorb("weights/level-root", &root);
            let y = self.transcript.challenge("weights/out-of-domain");
            self.transcript.absorb("weights/answer", &e_bytes(&[answer]));
            let opened = self.queries(i - 1, &roots, &answers[i - 1], &rows, &columns_fold)?;
            let xi = self.transcript.challenge("weights/batch");
            let mut weight = vec![ZERO; 1 << code.message_log(i)];
            let mut factor = xi;
            let opened = opened.into_iter().map(|(x, value)| (e_from_f(x), value));
            for (x, value) in std::iter::once((y, answer)).chain(opened) {
                self.claim = e_add(self.claim, e_mul(factor, value));
                for (entry, power) in weight.iter_mut().zip(powers(x, 1 << code.message_log(i))) {
                    *entry = e_add(*entry, e_mul(factor, power));
                }
                factor = e_mul(factor, xi);
            }
            added.push(weight);
            rows = self.rounds(&mut rounds, code.levels[i].fold_log);
            (columns_fold, roots) = (Vec::new(), vec![root]);
            z.extend(&rows);
        }

        // 5.
        self.transcript.bulk("weights/final", &e_bytes(&last));
        let final_log = code.message_log(code.levels.len());
        let final_point = self.rounds(&mut rounds, final_log);
        z.extend(&final_point);
        let at_point = |weights: &Vec<E>| fold_all(weights, &z[z.len() - index(u64::from(weights.len().ilog2()))..]);
        let claimed = statement.batched_weights(gamma);
        let weight = e_add(
            e_sum(claimed.iter().enumerate().map(|(s, weights)| e_mul(eq(&number, s), at_point(weights)))),
            e_sum(added.iter().map(at_point)),
        );
        if self.claim != e_mul(weight, fold_all(&last, &final_point)) {
            return Err("the last claim is not met".into());
        }

        // 6.
        let opened = self.queries(code.last(), &roots, &answers[code.last()], &rows, &columns_fold)?;
        if opened.into_iter().any(|(x, value)| value != horner_f(&last, x)) {
            return Err("the final vector has other symbols".into());
        }
        Ok(())
    }

    /// So many rounds, and their challenges.
    fn rounds(&mut self, rounds: &mut impl Iterator<Item = [E; 2]>, count: u32) -> Vec<E> {
        let round = |[at_zero, square]: [E; 2]| {
            self.transcript.absorb("sumcheck/round", &e_bytes(&[at_zero, square]));
            let challenge = self.transcript.challenge("sumcheck/point");
            // g(1) is the sum of all three coefficients.
            let at_one = e_sub(self.claim, at_zero);
            let linear = e_sub(e_sub(at_one, at_zero), square);
            self.claim = horner(&[at_zero, linear, square], challenge);
            challenge
        };
        rounds.take(index(u64::from(count))).map(round).collect()
    }

    /// The queries to a level: the points of its positions, and the values there.
    fn queries(
        &mut self,
        level: usize,
        roots: &[Hash],
        answer: &Answer,
        rows: &[E],
        number: &[E],
    ) -> Result<Vec<(u64, E)>, String> {
        let length_log = self.statement.code.codeword_log(level);
        let positions = draw(self.statement, level, answer.nonce, &mut self.transcript)?;
        self.positions.push(positions.clone());
        absorb_answer(level, answer, &mut self.transcript);
        if answer.columns.iter().any(|columns| columns.len() != positions.len()) {
            return Err("another number of columns than of positions".into());
        }
        for ((root, columns), hashes) in roots.iter().zip(&answer.columns).zip(&answer.hashes) {
            let leaves = positions.iter().zip(columns);
            let leaves: BTreeMap<usize, Hash> =
                leaves.map(|(&position, column)| (index(position), leaf(level, position, column))).collect();
            if root_of(1 << length_log, &leaves, hashes)? != *root {
                return Err("the columns do not belong to the root".into());
            }
        }
        let value = |j: usize| {
            e_sum(answer.columns.iter().enumerate().map(|(s, columns)| {
                let rows = columns[j].iter().enumerate().map(|(row, &symbol)| e_mul(eq(rows, row), symbol));
                e_mul(eq(number, s), e_sum(rows))
            }))
        };
        Ok(positions.iter().enumerate().map(|(j, &position)| (point(length_log, position), value(j))).collect())
    }
}

/// Whether a nonce is one for a seed.
pub(crate) fn is_nonce(seed: &Hash, nonce: u64, grinding: u32) -> bool {
    let hash = blake3::keyed_hash(seed, &nonce.to_le_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("a hash has 32 bytes");
    u128::from(u64::from_le_bytes(*first)) < 1 << (64 - grinding)
}

/// The positions of the queries to a level.
pub(crate) fn draw(
    statement: &Statement,
    level: usize,
    nonce: Option<u64>,
    transcript: &mut Transcript,
) -> Result<Vec<u64>, String> {
    let (numbers, length_log) = (statement.code.levels[level], statement.code.codeword_log(level));
    if numbers.grinding > 0 {
        let seed = transcript.seed("weights/grinding");
        let nonce = nonce.ok_or("no nonce")?;
        if !is_nonce(&seed, nonce, numbers.grinding) {
            return Err("the nonce is none".into());
        }
        transcript.absorb("weights/nonce", &nonce.to_le_bytes());
    }
    let length = 1 << length_log;
    if u64::from(numbers.queries) >= length {
        return Ok((0..length).collect());
    }
    let mut positions = transcript.indices("weights/positions", index(u64::from(numbers.queries)), length_log);
    positions.sort_unstable();
    positions.dedup();
    Ok(positions)
}

/// Absorbs what answers the queries.
pub(crate) fn absorb_answer(level: usize, answer: &Answer, transcript: &mut Transcript) {
    let columns = answer.columns.iter().flatten().flatten().copied().collect::<Vec<_>>();
    transcript.bulk("weights/columns", &symbol_bytes(level, &columns));
    transcript.bulk("weights/paths", answer.hashes.concat().as_flattened());
}
