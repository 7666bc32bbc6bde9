//! Provers that cheat, one for every bound. Each knows everything, runs the protocol on the live transcript,
//! deviates at one point, and does the best it can for the rest.

use ark_ff::Field;
use assay_sumcheck::field::{P, dot_e, dot_ef};
use assay_sumcheck::multilinear::{eq_table, evaluate, fold};
use assay_sumcheck::product::{Claim as Reduced, Prover};

use super::*;
use crate::code::{point, symbol};
use crate::merkle::{MerkleTree, verify_indices};

mod bindings;
mod bytes;
mod folds;
mod rates;
mod statements;

/// A transcript that has absorbed a seed before the opening begins.
fn transcript_of(seed: u64) -> Transcript<Reduction> {
    let mut transcript = Transcript::<Claimed>::start("test/forgers");
    transcript.absorb("seed", &seed.to_le_bytes());
    transcript.advance()
}

/// Where a forger may deviate.
enum Step<'a> {
    /// The message of a round, by number.
    Round(usize, &'a mut RoundProof),
    /// A level's vector before it is committed, the weights on it, and the claim.
    Vector(usize, &'a mut [E], &'a [E], E),
    /// The columns of a level that are committed.
    Word(usize, &'a mut Vec<Vec<E>>),
    /// The out-of-domain answer of a level.
    Answer(usize, &'a mut E),
    /// The nonce of a level, with the key of the work.
    Nonce(usize, &'a [u8; 32], &'a mut Option<u64>),
    /// The answers to the queries to the polynomials' codewords.
    Base(&'a mut Answers<F>),
    /// The answers to the queries to a level.
    Level(usize, &'a mut Answers<E>),
    /// The vector whose rounds come next, after all claims on it are known.
    Claimed(usize, &'a mut [E], &'a [E], E),
    /// The last vector before it is sent.
    Last(&'a mut [E], &'a [E], E),
}

/// A committed word: any columns at all.
#[derive(Clone, Debug)]
struct Word<T> {
    columns: Vec<Vec<T>>,
    tree: MerkleTree,
}

impl<T: Symbol> Word<T> {
    fn new(columns: Vec<Vec<T>>) -> Self {
        let leaves = columns.iter().enumerate().map(|(position, column)| column_leaf(position, column)).collect();
        Self { columns, tree: MerkleTree::from_leaf_hashes(leaves) }
    }

    fn answer(&self, positions: &[usize]) -> (Vec<Vec<T>>, Vec<Hash>) {
        (positions.iter().map(|&position| self.columns[position].clone()).collect(), self.tree.open_indices(positions))
    }
}

/// The columns of a vector's codeword, from the definition.
fn columns_of(vector: &[E], code: &LevelCode) -> Vec<Vec<E>> {
    let row = |row: usize| vector.iter().skip(row).step_by(code.rows()).copied().collect();
    let rows: Vec<Vec<E>> = (0..code.rows()).map(row).collect();
    let column = |position| rows.iter().map(|row| symbol(row, point(code.codeword_log(), position as u64))).collect();
    (0..code.codeword_length()).map(column).collect()
}

/// The columns of coefficients' codeword.
fn base_columns(coefficients: &[F], code: &LevelCode) -> Vec<Vec<F>> {
    let columns = columns_of(&coefficients.iter().map(|&f| E::from_base_prime_field(f)).collect::<Vec<_>>(), code);
    columns.into_iter().map(|column| column.into_iter().map(|symbol| symbol.c0).collect()).collect()
}

fn value_at(vector: &[E], base: E) -> E {
    vector.iter().zip(powers(base)).map(|(&entry, power)| entry * power).sum()
}

/// The vector over the outputs of a part of a claim.
fn output_of(claim: &mut Claim, part: usize) -> &mut Vec<E> {
    Arc::make_mut(&mut claim.parts[part].output.shared)
}

/// The weights of a claim on the coefficients of one polynomial.
fn weights_of(layout: &Layout, claim: &Claim, polynomial: usize) -> Vec<E> {
    let mut weights = vec![E::ZERO; 1 << layout.log_size()];
    for part in claim.parts.iter().filter(|part| part.polynomial == polynomial) {
        let entries = part.output.entries();
        for tile in layout.tiles_of(part.matrix) {
            let products = entries[tile.output_range()]
                .iter()
                .flat_map(|&output| claim.input[tile.input_range()].iter().map(move |&input| e_mul_f(output, input)));
            weights[tile.coefficient_range()].iter_mut().zip(products).for_each(|(weight, product)| *weight += product);
        }
    }
    weights
}

/// Changes a vector along a direction so that it meets a claim.
fn meet_along(vector: &mut [E], omega: &[E], claim: E, direction: &[E]) {
    let scale = (claim - dot_e(vector, omega)) * dot_e(direction, omega).inverse().unwrap();
    vector.iter_mut().zip(direction).for_each(|(entry, &step)| *entry += scale * step);
    assert_eq!(dot_e(vector, omega), claim);
}

/// Changes a vector so that it meets a claim.
fn meet(vector: &mut [E], omega: &[E], claim: E) {
    let direction: Vec<E> = powers(E::new(F::from(3), F::from(1), F::from(4))).take(vector.len()).collect();
    meet_along(vector, omega, claim, &direction);
}

/// The polynomial that vanishes at the first `length - 1` positions of a level's codewords, of so many coefficients.
fn vanishing(code: &LevelCode, length: usize) -> Vec<E> {
    let mut coefficients = vec![E::ONE];
    for position in 0..length - 1 {
        let root = point(code.codeword_log(), position as u64);
        coefficients.insert(0, E::ZERO);
        for place in 0..coefficients.len() - 1 {
            let product = e_mul_f(coefficients[place + 1], root);
            coefficients[place] -= product;
        }
    }
    coefficients
}

fn does_the_work(code: &LevelCode, seed: &[u8; 32], nonce: u64) -> bool {
    let hash = blake3::keyed_hash(seed, &nonce.to_le_bytes());
    u64::from_le_bytes(*hash.as_bytes().first_chunk().unwrap()).leading_zeros() >= code.grinding
}

/// A level whose positions are still to be drawn.
struct Committed {
    number: usize,
    code: LevelCode,
    word: Word<E>,
    /// What folds its rows.
    weights: Vec<E>,
}

/// Nonces that a forger looks at: among so many there is one for any work asked for here.
const TRIES: u64 = 1 << 24;

/// The challenges that a prover got.
#[derive(Clone, Debug, Default)]
struct Record {
    gamma: E,
    samples: Vec<E>,
    xis: Vec<E>,
    /// Of all rounds.
    point: Vec<E>,
    /// By level.
    positions: Vec<Vec<usize>>,
    /// By level; zero where there is no work.
    seeds: Vec<[u8; 32]>,
}

/// A prover that need not commit to, state and prove the same.
#[derive(Clone, Debug)]
struct Forger {
    layout: Arc<Layout>,
    params: CodeParams,
    /// What both sides know.
    commitments: Vec<WeightCommitment>,
    claims: Vec<Claim>,
    /// What the columns are taken from.
    words: Vec<Word<F>>,
    /// What the rounds are run on.
    polynomials: Vec<Vec<F>>,
    /// The claims whose weights the rounds use; values do not matter.
    proven: Vec<Claim>,
}

impl Forger {
    /// The honest prover of a case.
    fn of(case: &Case) -> Self {
        let to_field = |&integer: &i32| f_from_i64(i64::from(integer));
        let polynomials: Vec<Vec<F>> = case
            .polynomials
            .iter()
            .map(|polynomial| polynomial.coefficients().iter().map(to_field).collect())
            .collect();
        let words =
            polynomials.iter().map(|polynomial| Word::new(base_columns(polynomial, &case.params.base()))).collect();
        Self {
            layout: case.layout.clone(),
            params: case.params.clone(),
            commitments: case.commitments(),
            claims: case.claims.clone(),
            words,
            polynomials,
            proven: case.claims.clone(),
        }
    }

    /// Commits to the words, and states what the polynomials give.
    fn commit(&mut self) {
        let commit = |(word, polynomial): (&Word<F>, &Vec<F>)| {
            let root = word.tree.bound_root();
            let sample = sample_point(&root, &self.params);
            let evaluation = polynomial.iter().zip(powers(sample)).map(|(&f, power)| e_mul_f(power, f)).sum();
            WeightCommitment { root, evaluation }
        };
        self.commitments = self.words.iter().zip(&self.polynomials).map(commit).collect();
    }

    /// The value of a claim for the polynomials that the rounds are run on.
    fn value(&self, claim: &Claim) -> E {
        let of = |(number, polynomial): (usize, &Vec<F>)| dot_ef(&weights_of(&self.layout, claim, number), polynomial);
        self.polynomials.iter().enumerate().map(of).sum()
    }

    fn variables(&self) -> (u32, u32) {
        (self.params.base().fold_log, polynomial_variables(self.polynomials.len()))
    }

    /// One vector of all polynomials in the order in which variables are bound.
    fn joined(&self, of: impl Fn(usize) -> Vec<E>) -> Vec<E> {
        let (rows, numbers) = self.variables();
        let mut joined = vec![E::ZERO; 1 << (self.params.log_size + numbers)];
        for number in 0..self.polynomials.len() {
            for (index, entry) in of(number).into_iter().enumerate() {
                let (row, column) = (index & ((1 << rows) - 1), index >> rows);
                joined[row | (number << rows) | (column << (rows + numbers))] = entry;
            }
        }
        joined
    }

    /// The weights of all claims together.
    fn omega(&self, claims: &[Claim], gamma: E) -> Vec<E> {
        self.joined(|number| {
            let sample = sample_point(&self.commitments[number].root, &self.params);
            let weight = powers(gamma).nth(number).unwrap();
            let mut omega: Vec<E> =
                powers(sample).take(1 << self.params.log_size).map(|power| weight * power).collect();
            for (claim, weight) in claims.iter().zip(powers(gamma).skip(self.commitments.len())) {
                let weights = weights_of(&self.layout, claim, number);
                omega.iter_mut().zip(weights).for_each(|(entry, of_claim)| *entry += weight * of_claim);
            }
            omega
        })
    }

    /// What all claims together state.
    fn stated(&self, gamma: E) -> E {
        let values = self
            .commitments
            .iter()
            .map(|commitment| commitment.evaluation)
            .chain(self.claims.iter().map(|claim| claim.value));
        values.zip(powers(gamma)).map(|(value, power)| value * power).sum()
    }

    fn open(&self, seed: u64, deviate: impl FnMut(Step<'_>)) -> Opening {
        self.forge(&mut transcript_of(seed), deviate).0
    }

    fn verify(&self, opening: &Opening, seed: u64) -> Result<(), OpeningError> {
        let mut transcript = transcript_of(seed);
        verify(&self.commitments, &self.layout, &self.params, &self.claims, opening, &mut transcript).map(|_| ())
    }

    /// The verdict on an opening with a deviation.
    fn verdict(&self, deviate: impl FnMut(Step<'_>)) -> Result<(), OpeningError> {
        self.verify(&self.open(0, deviate), 0)
    }

    #[expect(clippy::too_many_lines, reason = "the protocol from start to end, as it is written down")]
    fn forge(&self, transcript: &mut Transcript<Reduction>, mut deviate: impl FnMut(Step<'_>)) -> (Opening, Record) {
        let gamma = begin(&self.commitments, &self.layout, &self.params, &self.claims, transcript);
        let mut record = Record { gamma, ..Record::default() };
        let mut claim = self.stated(gamma);
        let mut vector =
            self.joined(|number| self.polynomials[number].iter().map(|&f| E::from_base_prime_field(f)).collect());
        let mut omega = self.omega(&self.proven, gamma);
        let mut rounds: Vec<RoundProof> = vec![];
        let (row_variables, number_variables) = self.variables();
        let mut run = |count: u32,
                       vector: &mut Vec<E>,
                       omega: &mut Vec<E>,
                       claim: &mut E,
                       transcript: &mut Transcript<Reduction>,
                       deviate: &mut dyn FnMut(Step<'_>)| {
            let mut prover = Prover::new(std::mem::take(vector), std::mem::take(omega));
            let mut point = vec![];
            for _ in 0..count {
                let mut round = prover.round();
                deviate(Step::Round(rounds.len(), &mut round));
                let (next, challenge) = Reduced::new(*claim).reduce(&round, transcript);
                prover.bind(challenge);
                *claim = next.into_value();
                rounds.push(round);
                point.push(challenge);
            }
            (*vector, *omega) = prover.into_factors();
            point
        };
        let start =
            run(row_variables + number_variables, &mut vector, &mut omega, &mut claim, transcript, &mut deviate);
        record.point.extend(&start);
        let (row_point, number_point) = start.split_at(row_variables as usize);
        let (row_weights, number_weights) = (eq_table(row_point), eq_table(number_point));

        let (mut folds, mut levels, mut base) = (vec![], vec![], None);
        let mut waiting: Option<Committed> = None;
        let mut query = |waiting: Option<&Committed>,
                         record: &mut Record,
                         transcript: &mut Transcript<Reduction>,
                         deviate: &mut dyn FnMut(Step<'_>)|
         -> Vec<(F, E)> {
            let (number, code) = waiting.map_or((0, self.params.base()), |level| (level.number, level.code));
            let (mut nonce, mut seed) = (None, [0; 32]);
            if code.grinding > 0 {
                seed = transcript.seed(labels::GRINDING);
                nonce = (0..TRIES).find(|&nonce| does_the_work(&code, &seed, nonce));
            }
            deviate(Step::Nonce(number, &seed, &mut nonce));
            if let Some(nonce) = nonce {
                transcript.absorb(labels::NONCE, &nonce.to_le_bytes());
            }
            record.seeds.push(seed);
            let positions = draw_positions(&code, transcript);
            let values: Vec<E> = match waiting {
                None => {
                    let (columns, hashes) = self.words.iter().map(|word| word.answer(&positions)).unzip();
                    let mut answers = Answers { nonce, columns, hashes };
                    deviate(Step::Base(&mut answers));
                    answers.absorb(transcript);
                    let values = folded_base(&answers, positions.len(), &row_weights, &number_weights);
                    base = Some(answers);
                    values
                }
                Some(level) => {
                    let (columns, hashes) = level.word.answer(&positions);
                    let mut answers = Answers { nonce, columns: vec![columns], hashes: vec![hashes] };
                    deviate(Step::Level(number, &mut answers));
                    answers.absorb(transcript);
                    let values = answers.columns[0].iter().map(|column| dot_e(&level.weights, column)).collect();
                    levels.push(answers);
                    values
                }
            };
            let points = positions.iter().map(|&position| point(code.codeword_log(), position as u64));
            let queried = points.zip(values).collect();
            record.positions.push(positions);
            queried
        };

        for (number, code) in self.params.codes().enumerate().skip(1) {
            deviate(Step::Vector(number, &mut vector, &omega, claim));
            let mut columns = columns_of(&vector, &code);
            deviate(Step::Word(number, &mut columns));
            let word = Word::new(columns);
            let root = word.tree.bound_root();
            transcript.absorb(labels::LEVEL_ROOT, &root);
            let sample = transcript.challenge(labels::OUT_OF_DOMAIN);
            let mut answer = value_at(&vector, sample);
            deviate(Step::Answer(number, &mut answer));
            transcript.absorb_e(labels::ANSWER, &[answer]);
            folds.push(FoldCommitment { root, answer });
            let queried = query(waiting.as_ref(), &mut record, transcript, &mut deviate);
            let xi = transcript.challenge(labels::BATCH);
            claim += added_value(answer, &queried, xi);
            add_weights(&mut omega, sample, &queried, xi);
            record.samples.push(sample);
            record.xis.push(xi);
            deviate(Step::Claimed(number, &mut vector, &omega, claim));
            let folded = run(code.fold_log, &mut vector, &mut omega, &mut claim, transcript, &mut deviate);
            waiting = Some(Committed { number, code, word, weights: eq_table(&folded) });
            record.point.extend(folded);
        }
        deviate(Step::Last(&mut vector, &omega, claim));
        transcript.absorb_bulk(labels::FINAL, &bytes_of(&vector));
        let last = vector.clone();
        record.point.extend(run(
            self.params.final_log(),
            &mut vector,
            &mut omega,
            &mut claim,
            transcript,
            &mut deviate,
        ));
        let _ = query(waiting.as_ref(), &mut record, transcript, &mut deviate);
        (Opening { rounds, folds, last, base: base.unwrap(), levels }, record)
    }

    /// Whether an opening passes every check when its challenges are those of the record, whatever it says.
    fn passes_with(&self, opening: &Opening, record: &Record) -> bool {
        self.gap_with(opening, record) == Some(E::ZERO)
    }

    /// With these challenges, what the last claim is beside what it should be; nothing if another check fails.
    fn gap_with(&self, opening: &Opening, record: &Record) -> Option<E> {
        let Opening { rounds, folds, last, base, levels } = opening;
        let mut claim = self.stated(record.gamma);
        let mut omega = self.omega(&self.claims, record.gamma);
        let mut left = rounds.iter().zip(&record.point);
        let mut run = |count: u32, claim: &mut E, omega: &mut Vec<E>| -> Vec<E> {
            let mut reduce = |(round, &r): (&RoundProof, &E)| {
                let linear = *claim - round.at_zero.double() - round.leading;
                *claim = round.at_zero + r * (linear + r * round.leading);
                fold(omega, r);
                r
            };
            left.by_ref().take(count as usize).map(&mut reduce).collect()
        };
        let (row_variables, number_variables) = self.variables();
        let row_weights = eq_table(&run(row_variables, &mut claim, &mut omega));
        let number_weights = eq_table(&run(number_variables, &mut claim, &mut omega));
        let roots: Vec<Hash> = self.commitments.iter().map(|commitment| commitment.root).collect();
        let codes: Vec<LevelCode> = self.params.codes().collect();
        let mut level_weights = vec![];
        let queried = |level: usize, level_weights: &[Vec<E>]| -> Option<Vec<(F, E)>> {
            let (code, positions) = (&codes[level], &record.positions[level]);
            let points = positions.iter().map(|&position| point(code.codeword_log(), position as u64));
            let values: Vec<E> = if level == 0 {
                belongs(base, code, &roots, positions, &record.seeds[0])
                    .then(|| folded_base(base, positions.len(), &row_weights, &number_weights))?
            } else {
                let answers = &levels[level - 1];
                let fold = |column: &Vec<E>| dot_e(&level_weights[level - 1], column);
                belongs(answers, code, &[folds[level - 1].root], positions, &record.seeds[level])
                    .then(|| answers.columns[0].iter().map(fold).collect())?
            };
            Some(points.zip(values).collect())
        };
        for (number, (code, level)) in codes.iter().skip(1).zip(folds).enumerate() {
            let queried = queried(number, &level_weights)?;
            claim += added_value(level.answer, &queried, record.xis[number]);
            add_weights(&mut omega, record.samples[number], &queried, record.xis[number]);
            level_weights.push(eq_table(&run(code.fold_log, &mut claim, &mut omega)));
        }
        let last_point = run(self.params.final_log(), &mut claim, &mut omega);
        let queried = queried(codes.len() - 1, &level_weights)?;
        let agrees = queried.iter().all(|(point, value)| symbol(last, *point) == *value);
        agrees.then(|| claim - omega[0] * evaluate(last, &last_point))
    }
}

fn folded_base(answers: &Answers<F>, positions: usize, rows: &[E], numbers: &[E]) -> Vec<E> {
    // A forger may show fewer.
    let symbol = |tree: &Vec<Vec<F>>, place: usize| tree.get(place).map_or(E::ZERO, |column| dot_ef(rows, column));
    let at = |place| answers.columns.iter().zip(numbers).map(|(tree, &number)| number * symbol(tree, place)).sum();
    (0..positions).map(at).collect()
}

fn added_value(answer: E, queried: &[(F, E)], xi: E) -> E {
    let values = std::iter::once(answer).chain(queried.iter().map(|&(_, value)| value));
    values.zip(powers(xi).skip(1)).map(|(value, power)| value * power).sum()
}

fn add_weights(omega: &mut [E], sample: E, queried: &[(F, E)], xi: E) {
    let bases = std::iter::once(sample).chain(queried.iter().map(|&(point, _)| E::from_base_prime_field(point)));
    for (base, weight) in bases.zip(powers(xi).skip(1)) {
        omega.iter_mut().zip(powers(base)).for_each(|(entry, power)| *entry += weight * power);
    }
}

/// Whether answers show their work and belong to their roots.
fn belongs<T: Symbol>(
    answers: &Answers<T>,
    code: &LevelCode,
    roots: &[Hash],
    positions: &[usize],
    seed: &[u8; 32],
) -> bool {
    let works = code.grinding == 0 || answers.nonce.is_some_and(|nonce| does_the_work(code, seed, nonce));
    works
        && roots.iter().zip(&answers.columns).zip(&answers.hashes).all(|((root, columns), hashes)| {
            let leaf = |(&position, column): (&usize, &Vec<T>)| (position, column_leaf(position, column));
            let leaves: Vec<(usize, Hash)> = positions.iter().zip(columns).map(leaf).collect();
            verify_indices(root, code.codeword_length(), &leaves, hashes).is_ok()
        })
}

/// Three polynomials, two matrices of one shape and two of others; a code of three levels with enough queries
/// that no forger here is lucky.
fn usual() -> Case {
    of_levels(&[(2, 1, 24, 10), (1, 2, 20, 0), (2, 3, 16, 8)])
}

fn of_levels(levels: &[(u32, u32, u32, u32)]) -> Case {
    let claimed = [vec![(0, 0)], vec![(1, 0), (2, 0)], vec![(0, 1)], vec![(2, 2), (2, 2)], vec![(1, 3)]];
    Case::new(&[(8, 8), (8, 8), (8, 4), (12, 5)], 3, &claimed, 7, |layout| code(layout, levels))
}

const MERKLE_PATH: Result<(), OpeningError> = Err(OpeningError::MerklePath);
const SHAPE: Result<(), OpeningError> = Err(OpeningError::Shape);
const GRINDING: Result<(), OpeningError> = Err(OpeningError::Grinding);
const FINAL_EVALUATION: Result<(), OpeningError> = Err(OpeningError::FinalEvaluation);
const COLUMN_FOLD: Result<(), OpeningError> = Err(OpeningError::ColumnFold);

/// The control of all others: without a deviation the forger is the prover.
#[test]
fn a_forger_that_does_not_deviate_makes_the_honest_opening() {
    for case in [usual(), of_levels(&[(2, 1, 20, 0), (5, 1, 300, 0)]), of_levels(&[(2, 2, 30, 3)])] {
        let forger = Forger::of(&case);
        let (opening, record) = forger.forge(&mut transcript(), |_| ());
        assert_eq!(opening, case.open());
        assert_eq!(case.verify(&opening).map(|_| ()), Ok(()));
        assert!(forger.passes_with(&opening, &record));
        assert_eq!(forger.verdict(|_| ()), Ok(()));
        let mut committed = forger.clone();
        committed.commit();
        assert_eq!(committed.commitments, forger.commitments);
        forger.claims.iter().for_each(|claim| assert_eq!(forger.value(claim), claim.value));
    }
}
