//! A prover by the definitions, so that the verifier has something to accept.

use super::code::{codeword, entries};
use super::field::{E, ZERO, e_add, e_bytes, e_from_f, e_mul, e_sub, e_sum, fold, horner, index, number, powers};
use super::merkle::{Hash, root, siblings};
use super::proof::{Answer, Proof, number_log};
use super::statement::Statement;
use super::transcript::Transcript;
use super::verifier::{absorb_answer, draw, is_nonce};

/// The columns and the leaves of a level's codewords, one for every tree.
type Trees = Vec<(Vec<Vec<E>>, Vec<Hash>)>;

/// Opens claims on polynomials of these coefficients.
pub(crate) fn open(statement: &Statement, coefficients: &[Vec<i64>], transcript: Transcript) -> Proof {
    forge(statement, coefficients, transcript, None)
}

/// The same, but `u_i` for the `i` given is another vector, for which the claim that is left holds as well.
pub(crate) fn forge(
    statement: &Statement,
    coefficients: &[Vec<i64>],
    transcript: Transcript,
    forged: Option<usize>,
) -> Proof {
    let rounds = Vec::new();
    let mut prover = Prover { statement, u: Vec::new(), omega: Vec::new(), rounds, transcript, forged };
    prover.run(coefficients)
}

struct Prover<'a> {
    statement: &'a Statement,
    /// What is left of the polynomials, and of the weights on them.
    u: Vec<E>,
    omega: Vec<E>,
    rounds: Vec<[E; 2]>,
    transcript: Transcript,
    forged: Option<usize>,
}

impl Prover<'_> {
    fn run(&mut self, coefficients: &[Vec<i64>]) -> Proof {
        let code = &self.statement.code;
        self.statement.absorb(&mut self.transcript);
        let gamma = self.transcript.challenge("weights/batch");
        let polynomials: Vec<Vec<E>> = coefficients.iter().map(|coefficients| entries(coefficients)).collect();
        self.u = self.interleaved(&polynomials);
        self.omega = self.interleaved(&self.statement.batched_weights(gamma));
        self.run_rounds(code.levels[0].fold_log + number_log(polynomials.len()));
        let mut trees: Trees = polynomials.iter().map(|polynomial| codeword(code, 0, polynomial)).collect();
        let (mut levels, mut answers) = (Vec::new(), Vec::new());
        for i in 1..code.levels.len() {
            self.exchange(i);
            let tree = codeword(code, i, &self.u);
            let root = root(&tree.1);
            self.transcript.absorb("weights/level-root", &root);
            let y = self.transcript.challenge("weights/out-of-domain");
            let answer = horner(&self.u, y);
            self.transcript.absorb("weights/answer", &e_bytes(&[answer]));
            levels.push((root, answer));
            let (shown, positions) = self.answer(i - 1, &trees);
            let xi = self.transcript.challenge("weights/batch");
            let point = |&position: &u64| e_from_f(super::code::point(code.codeword_log(i - 1), position));
            let points: Vec<E> = std::iter::once(y).chain(positions.iter().map(point)).collect();
            for (&x, &factor) in points.iter().zip(&powers(xi, 1 + points.len())[1..]) {
                for (entry, power) in self.omega.iter_mut().zip(powers(x, self.u.len())) {
                    *entry = e_add(*entry, e_mul(factor, power));
                }
            }
            self.run_rounds(code.levels[i].fold_log);
            answers.push(shown);
            trees = vec![tree];
        }
        self.exchange(code.levels.len());
        let last = self.u.clone();
        self.transcript.bulk("weights/final", &e_bytes(&last));
        self.run_rounds(last.len().ilog2());
        answers.push(self.answer(code.last(), &trees).0);
        Proof { rounds: std::mem::take(&mut self.rounds), levels, last, answers }
    }

    /// Vectors on the polynomials as one, in the order in which variables are bound.
    fn interleaved(&self, vectors: &[Vec<E>]) -> Vec<E> {
        let rows = 1_usize << self.statement.code.levels[0].fold_log;
        let columns = (1_usize << self.statement.code.log_size) / rows;
        let mut together = Vec::new();
        for column in 0..columns {
            for s in 0..1_usize << number_log(vectors.len()) {
                for row in 0..rows {
                    together.push(vectors.get(s).map_or(ZERO, |vector| vector[row + rows * column]));
                }
            }
        }
        together
    }

    /// Exchanges `u_i`, if it is to be forged.
    fn exchange(&mut self, i: usize) {
        if self.forged == Some(i)
            && let ([u0, u1, ..], [omega0, omega1, ..]) = (self.u.as_mut_slice(), self.omega.as_slice())
        {
            *u0 = e_add(*u0, *omega1);
            *u1 = e_sub(*u1, *omega0);
        }
    }

    fn run_rounds(&mut self, count: u32) {
        for _ in 0..count {
            let pairs = || self.u.chunks_exact(2).zip(self.omega.chunks_exact(2));
            let at_zero = e_sum(pairs().map(|(u, omega)| e_mul(u[0], omega[0])));
            let square = e_sum(pairs().map(|(u, omega)| e_mul(e_sub(u[1], u[0]), e_sub(omega[1], omega[0]))));
            self.transcript.absorb("sumcheck/round", &e_bytes(&[at_zero, square]));
            let challenge = self.transcript.challenge("sumcheck/point");
            self.u = fold(&self.u, challenge);
            self.omega = fold(&self.omega, challenge);
            self.rounds.push([at_zero, square]);
        }
    }

    /// Answers the queries to a level.
    fn answer(&mut self, level: usize, trees: &Trees) -> (Answer, Vec<u64>) {
        let grinding = self.statement.code.levels[level].grinding;
        let seed = self.transcript.clone().seed("weights/grinding");
        let nonce =
            (grinding > 0).then(|| (0..u64::MAX).find(|&nonce| is_nonce(&seed, nonce, grinding)).expect("a nonce"));
        let positions = draw(self.statement, level, nonce, &mut self.transcript).expect("the nonce is one");
        let places: Vec<usize> = positions.iter().map(|&position| index(position)).collect();
        let columns = trees.iter().map(|(columns, _)| places.iter().map(|&place| columns[place].clone()).collect());
        let hashes = trees.iter().map(|(_, leaves)| siblings(leaves, &places));
        let answer = Answer { nonce, columns: columns.collect(), hashes: hashes.collect() };
        assert!(positions.iter().all(|&position| position < number(trees[0].1.len())));
        absorb_answer(level, &answer, &mut self.transcript);
        (answer, positions)
    }
}
