//! The prover of an opening.
//!
//! The weights are read three times. Once for `V = W R`, one vector over the inputs a claim and tile:
//! the row variables are input bits of every tile, so the first rounds are a sumcheck on the pairs
//! `(x, V)`, tiny beside the weights. Once for the folded vector, which replaces the weights in all later
//! rounds. Once for the columns at the drawn positions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use ark_ff::{AdditiveGroup, Field};
use assay_sumcheck::field::{E, F, dot_e, dot_ef, e_mul_f};
use assay_sumcheck::multilinear::eq_table;
use assay_sumcheck::product::{Claim as Reduced, Prover, RoundProof, prove};
use assay_sumcheck::transcript::{Reduction, Transcript};
use rayon::prelude::*;

use super::{
    Answers, Claim, Coefficients, FoldCommitment, Opening, WeightCommitment, WeightTree, begin, bytes_of,
    draw_positions, fits, grinding, labels, powers,
};
use crate::code::{self, Code, Codeword, point};
use crate::layout::{Layout, Tile};
use crate::params::{CodeParams, LevelCode, polynomial_variables};

/// Proves that the claims hold for the committed polynomials, each given with its tree.
///
/// - Proof size: at most [`CodeParams::max_opening_bytes`].
/// - A claim that does not hold gives an opening that does not verify.
///
/// # Errors
/// When coefficients cannot be read.
///
/// # Panics
/// If parameters, polynomials or claims do not fit each other.
pub fn open<S: Coefficients>(
    polynomials: &[(&S, &WeightTree)],
    params: &CodeParams,
    claims: &[Claim],
    transcript: &mut Transcript<Reduction>,
) -> Result<Opening, S::Error> {
    let layout = polynomials.first().expect("an opening is about a polynomial").0.layout();
    assert!(polynomials.iter().all(|(source, _)| source.layout() == layout), "the polynomials have one layout");
    assert!(params.fits(layout), "the code parameters fit the layout");
    assert!(fits(layout, polynomials.len(), claims), "the claims fit the layout");
    let commitments: Vec<WeightCommitment> = polynomials.iter().map(|(_, tree)| tree.commitment()).collect();
    let gamma = begin(&commitments, layout, params, claims, transcript);
    let base = params.base();
    let statement = Statement::new(polynomials, params, claims, gamma);

    // The rows of all polynomials, then the bits of their numbers.
    let mut prover = statement.of_rows(&base)?;
    let claim = Reduced::new(prover.sum());
    let (mut rounds, row_point, claim) = prove(&mut prover, claim, base.fold_log as usize, transcript);
    let row_weights = eq_table(&row_point);
    let [vectors, omegas] = statement.folded(&base, &row_weights, &prover.into_factors().0)?;
    let (number_rounds, number_point, mut claim, [mut vector, mut omega]) =
        bind_numbers(vectors, omegas, claim, transcript);
    rounds.extend(number_rounds);

    // Level by level.
    let first = First { polynomials, code: base, row_weights, number_weights: eq_table(&number_point) };
    let mut first_answers = None;
    let (mut folds, mut levels) = (vec![], vec![]);
    let mut waiting: Option<Later> = None;
    for code in params.codes().skip(1) {
        let codeword = Codeword::new(vector.clone(), Code::of_vector(&code));
        let root = codeword.tree().bound_root();
        transcript.absorb(labels::LEVEL_ROOT, &root);
        let sample = transcript.challenge(labels::OUT_OF_DOMAIN);
        let answer = value_at(&vector, sample);
        transcript.absorb_e(labels::ANSWER, &[answer]);
        folds.push(FoldCommitment { root, answer });
        let Queried { points, values } = match waiting.take() {
            None => {
                let (answers, queried) = first.answer(transcript)?;
                first_answers = Some(answers);
                queried
            }
            Some(level) => {
                let (answers, queried) = level.answer(transcript);
                levels.push(answers);
                queried
            }
        };
        let xi = transcript.challenge(labels::BATCH);
        let added = std::iter::once(answer).chain(values).zip(powers(xi).skip(1));
        claim = claim.plus(added.map(|(value, power)| power * value).sum());
        add_powers(&mut omega, xi, sample, &points);
        let mut prover = Prover::new(vector, omega);
        let (of_level, point, next) = prove(&mut prover, claim, code.fold_log as usize, transcript);
        rounds.extend(of_level);
        claim = next;
        (vector, omega) = prover.into_factors();
        waiting = Some(Later { code, codeword, weights: eq_table(&point) });
    }

    transcript.absorb_bulk(labels::FINAL, &bytes_of(&vector));
    let mut prover = Prover::new(vector.clone(), omega);
    rounds.extend(prove(&mut prover, claim, params.final_log() as usize, transcript).0);
    match waiting {
        None => first_answers = Some(first.answer(transcript)?.0),
        Some(level) => levels.push(level.answer(transcript).0),
    }
    let base = first_answers.expect("the first level is queried after the second, or at the end");
    Ok(Opening { rounds, folds, last: vector, base, levels })
}

/// What the answers to queries say of the next vector.
struct Queried {
    points: Vec<F>,
    values: Vec<E>,
}

/// Pays for positions and draws them.
fn draw(code: &LevelCode, transcript: &mut Transcript<Reduction>) -> (Option<u64>, Vec<usize>, Vec<F>) {
    let nonce = grinding::work(code, transcript);
    let positions = draw_positions(code, transcript);
    let points = positions.iter().map(|&position| point(code.codeword_log(), position as u64)).collect();
    (nonce, positions, points)
}

/// The first level: the codewords of the polynomials.
struct First<'a, S> {
    polynomials: &'a [(&'a S, &'a WeightTree)],
    code: LevelCode,
    /// What folds a column's rows.
    row_weights: Vec<E>,
    /// What then folds the columns of the polynomials.
    number_weights: Vec<E>,
}

impl<S: Coefficients> First<'_, S> {
    fn answer(&self, transcript: &mut Transcript<Reduction>) -> Result<(Answers<F>, Queried), S::Error> {
        let (nonce, positions, points) = draw(&self.code, transcript);
        let (mut columns, mut hashes) = (vec![], vec![]);
        for (source, tree) in self.polynomials {
            let shown = tree.answer(*source, &self.code, &positions)?;
            columns.push(shown.columns);
            hashes.push(shown.hashes);
        }
        let answers = Answers { nonce, columns, hashes };
        answers.absorb(transcript);
        let value = |place: usize| {
            let trees = answers.columns.iter().zip(&self.number_weights);
            trees.map(|(tree, &weight)| weight * dot_ef(&self.row_weights, &tree[place])).sum()
        };
        let values = (0..positions.len()).map(value).collect();
        Ok((answers, Queried { points, values }))
    }
}

/// A later level: the codeword of a folded vector.
struct Later {
    code: LevelCode,
    codeword: Codeword,
    /// What folds a column's rows.
    weights: Vec<E>,
}

impl Later {
    fn answer(&self, transcript: &mut Transcript<Reduction>) -> (Answers<E>, Queried) {
        let (nonce, positions, points) = draw(&self.code, transcript);
        let columns = self.codeword.columns(&positions);
        let values = columns.iter().map(|column| dot_e(column, &self.weights)).collect();
        let hashes = vec![self.codeword.tree().open_indices(&positions)];
        let answers = Answers { nonce, columns: vec![columns], hashes };
        answers.absorb(transcript);
        (answers, Queried { points, values })
    }
}

/// All claims on the polynomials, their commitments' own included.
struct Statement<'a, S> {
    polynomials: &'a [(&'a S, &'a WeightTree)],
    samples: Vec<Sample<'a>>,
    terms: Terms<'a>,
}

/// What claims say, by polynomial and tile.
type Terms<'a> = BTreeMap<usize, Vec<(&'a Tile, Vec<Term<'a>>)>>;

impl<'a, S: Coefficients> Statement<'a, S> {
    fn new(polynomials: &'a [(&'a S, &'a WeightTree)], params: &CodeParams, claims: &'a [Claim], gamma: E) -> Self {
        let mut weights = powers(gamma);
        let samples = polynomials.iter().zip(weights.by_ref());
        let samples = samples.map(|((_, tree), weight)| Sample::new(tree, params, weight)).collect();
        let terms = polynomials.first().map(|(source, _)| terms(source.layout(), claims, weights));
        Self { polynomials, samples, terms: terms.unwrap_or_default() }
    }

    /// The terms on each polynomial, tile by tile.
    fn by_tile(&self) -> impl Iterator<Item = (usize, &Tile, &[Term<'a>])> {
        self.terms
            .iter()
            .flat_map(|(&number, tiles)| tiles.iter().map(move |(tile, terms)| (number, *tile, &terms[..])))
    }

    /// The rounds over the rows: pairs of an input vector, weighted, and what the polynomial gives for the
    /// outputs, one after the other; the samples come first.
    fn of_rows(&self, base: &LevelCode) -> Result<Prover, S::Error> {
        let (mut inputs, mut outputs) = (vec![], vec![]);
        for sample in &self.samples {
            inputs.extend(powers(sample.point).take(base.rows()).map(|power| sample.weight * power));
            outputs.extend_from_slice(sample.columns);
        }
        for (number, tile, terms) in self.by_tile() {
            let first = tile.offset >> tile.input_log;
            for term in terms {
                let (source, _) = self.polynomials[number];
                let columns = first..first + tile.outputs();
                outputs.extend(code::weighted_columns(source, tile.inputs(), columns, |start, weights| {
                    weights.copy_from_slice(&term.output[start..start + weights.len()]);
                })?);
                inputs.extend(term.input.iter().map(|&x| e_mul_f(term.weight, x)));
            }
        }
        Ok(Prover::new(inputs, outputs))
    }

    /// What is left of each polynomial and of its weight, from what the rounds left of the inputs.
    fn folded(&self, base: &LevelCode, row_weights: &[E], inputs: &[E]) -> Result<[Vec<Vec<E>>; 2], S::Error> {
        let vectors =
            self.polynomials.iter().map(|(source, _)| code::fold_rows(*source, row_weights, 1 << base.message_log()));
        let vectors = vectors.collect::<Result<_, _>>()?;
        let (of_samples, mut rest) = inputs.split_at(self.samples.len());
        let mut omegas: Vec<Vec<E>> =
            self.samples.iter().zip(of_samples).map(|(sample, &weight)| sample.spread(weight, base)).collect();
        for (number, tile, terms) in self.by_tile() {
            for term in terms {
                let (inputs, after) = rest.split_at(tile.inputs() >> base.fold_log);
                rest = after;
                let place = &mut omegas[number][tile.offset >> base.fold_log..][..inputs.len() * term.output.len()];
                place.par_chunks_exact_mut(inputs.len()).zip(&*term.output).with_min_len(64).for_each(
                    |(place, &output)| {
                        for (weight, &input) in place.iter_mut().zip(inputs) {
                            *weight += input * output;
                        }
                    },
                );
            }
        }
        Ok([vectors, omegas])
    }
}

/// The rounds over the bits of the polynomials' numbers, and what they leave of vectors and weights.
fn bind_numbers(
    mut vectors: Vec<Vec<E>>,
    mut omegas: Vec<Vec<E>>,
    mut claim: Reduced,
    transcript: &mut Transcript<Reduction>,
) -> (Vec<RoundProof>, Vec<E>, Reduced, [Vec<E>; 2]) {
    let (mut rounds, mut point) = (vec![], vec![]);
    for _ in 0..polynomial_variables(vectors.len()) {
        let round = pair_round(&vectors, &omegas);
        let (next, challenge) = claim.reduce(&round, transcript);
        (vectors, omegas) = (pair_up(vectors, challenge), pair_up(omegas, challenge));
        rounds.push(round);
        point.push(challenge);
        claim = next;
    }
    (rounds, point, claim, [vectors.swap_remove(0), omegas.swap_remove(0)])
}

/// A claim's part on one tile.
struct Term<'a> {
    /// The claim's power of gamma.
    weight: E,
    input: &'a [F],
    output: Cow<'a, [E]>,
}

/// The terms of claims with these weights.
fn terms<'a>(layout: &'a Layout, claims: &'a [Claim], weights: impl Iterator<Item = E>) -> Terms<'a> {
    let mut terms: BTreeMap<usize, BTreeMap<usize, (&Tile, Vec<Term<'_>>)>> = BTreeMap::new();
    for (claim, weight) in claims.iter().zip(weights) {
        for part in &claim.parts {
            let entries = part.output.entries();
            for tile in layout.tiles_of(part.matrix) {
                let input = &claim.input[tile.input_range()];
                let output = match &entries {
                    Cow::Borrowed(entries) => Cow::Borrowed(&entries[tile.output_range()]),
                    Cow::Owned(entries) => Cow::Owned(entries[tile.output_range()].to_vec()),
                };
                let of_tile = terms.entry(part.polynomial).or_default().entry(tile.offset);
                of_tile.or_insert((tile, vec![])).1.push(Term { weight, input, output });
            }
        }
    }
    terms.into_iter().map(|(polynomial, tiles)| (polynomial, tiles.into_values().collect())).collect()
}

/// A commitment's own claim.
struct Sample<'a> {
    point: E,
    /// The claim's power of gamma.
    weight: E,
    /// The polynomial's rows at the point's powers.
    columns: &'a [E],
}

impl<'a> Sample<'a> {
    fn new(tree: &'a WeightTree, params: &CodeParams, weight: E) -> Self {
        Self { point: tree.sample_point(params), weight, columns: tree.sampled_rows() }
    }

    /// The weight that is left on the folded vector.
    fn spread(&self, weight: E, base: &LevelCode) -> Vec<E> {
        let mut omega = vec![E::ZERO; 1 << base.message_log()];
        spread_powers(&mut omega, self.point.pow([base.rows() as u64]), weight);
        omega
    }
}

/// Adds `weight, weight base, weight base^2, ...`
fn spread_powers(omega: &mut [E], base: E, weight: E) {
    omega.par_chunks_mut(STRETCH).enumerate().for_each(|(stretch, omega)| {
        let mut power = weight * base.pow([(stretch * STRETCH) as u64]);
        for entry in omega {
            *entry += power;
            power *= base;
        }
    });
}

/// Entries that are worth a thread's while.
const STRETCH: usize = 1 << 12;

/// `sum_c vector[c] point^c`.
fn value_at(vector: &[E], point: E) -> E {
    let stretches = vector.par_chunks(STRETCH).enumerate().map(|(stretch, entries)| {
        let value = entries.iter().rev().fold(E::ZERO, |value, &entry| value * point + entry);
        value * point.pow([(stretch * STRETCH) as u64])
    });
    stretches.sum()
}

/// Adds to the weights those of a sample and of points: at entry `c`, `xi sample^c`, then
/// `xi^(1 + j) points[j]^c`.
fn add_powers(omega: &mut [E], xi: E, sample: E, points: &[F]) {
    /// Entries that share the powers with which they begin.
    const BLOCK: usize = 64;
    spread_powers(omega, sample, xi);
    let factors: Vec<E> = powers(xi).skip(2).take(points.len()).collect();
    // By entry of a block: the points to that power.
    let small: Vec<Vec<F>> = std::iter::successors(Some(vec![F::ONE; points.len()]), |powers| {
        Some(powers.iter().zip(points).map(|(&power, &point)| power * point).collect())
    })
    .take(BLOCK)
    .collect();
    let steps: Vec<F> = points.iter().map(|point| point.pow([BLOCK as u64])).collect();
    omega.par_chunks_mut(STRETCH).enumerate().for_each(|(stretch, omega)| {
        let start = (stretch * STRETCH) as u64;
        let begin = |(&factor, point): (&E, &F)| e_mul_f(factor, point.pow([start]));
        let mut large: Vec<E> = factors.iter().zip(points).map(begin).collect();
        for block in omega.chunks_mut(BLOCK) {
            for (entry, small) in block.iter_mut().zip(&small) {
                *entry += dot_ef(&large, small);
            }
            for (power, &step) in large.iter_mut().zip(&steps) {
                *power = e_mul_f(*power, step);
            }
        }
    });
}

/// The message of a round over the lowest bit of the vectors' numbers; vectors that are not there are zero.
fn pair_round(vectors: &[Vec<E>], omegas: &[Vec<E>]) -> RoundProof {
    let mut round = RoundProof { at_zero: E::ZERO, leading: E::ZERO };
    for (vectors, omegas) in vectors.chunks(2).zip(omegas.chunks(2)) {
        let dot = |a: &[E], b: &[E]| a.par_iter().zip(b).with_min_len(STRETCH).map(|(&a, &b)| a * b).sum::<E>();
        let at_zero = dot(&vectors[0], &omegas[0]);
        round.at_zero += at_zero;
        round.leading += match (vectors, omegas) {
            ([v0, v1], [o0, o1]) => {
                let pairs = v0.par_iter().zip(v1).zip(o0.par_iter().zip(o1)).with_min_len(STRETCH);
                pairs.map(|((&v0, &v1), (&o0, &o1))| (v1 - v0) * (o1 - o0)).sum()
            }
            _ => at_zero,
        };
    }
    round
}

/// Binds the lowest bit of the vectors' numbers.
fn pair_up(vectors: Vec<Vec<E>>, challenge: E) -> Vec<Vec<E>> {
    let mut vectors = vectors.into_iter();
    let mut bound = vec![];
    while let Some(mut low) = vectors.next() {
        match vectors.next() {
            Some(high) => low.par_iter_mut().zip(high).with_min_len(STRETCH).for_each(|(low, high)| {
                *low += challenge * (high - *low);
            }),
            None => low.par_iter_mut().with_min_len(STRETCH).for_each(|low| *low *= E::ONE - challenge),
        }
        bound.push(low);
    }
    bound
}
