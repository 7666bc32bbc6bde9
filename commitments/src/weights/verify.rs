//! The verifier of an opening.
#![deny(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::panic_in_result_fn,
    clippy::expect_used,
    clippy::unreachable,
    clippy::wildcard_enum_match_arm
)]

use std::collections::{BTreeMap, BTreeSet};

use ark_ff::{AdditiveGroup, Field};
use assay_sumcheck::field::{E, F, dot_e, dot_ef, e_mul_f};
use assay_sumcheck::multilinear::{eq_at, eq_table, evaluate};
use assay_sumcheck::product::{Claim as Reduced, RoundProof, verify as verify_rounds};
use assay_sumcheck::transcript::{Reduction, Transcript};
use rayon::prelude::*;

use super::{
    Answers, Claim, Discharged, Opening, OpeningError, Part, Symbol, WeightCommitment, begin, bytes_of, column_leaves,
    distinct, draw_positions, fits, grinding, labels, powers, round_count, sample_point,
};
use crate::code::{point, symbol};
use crate::layout::{Layout, Tile};
use crate::merkle::{Hash, MerkleError, verify_indices};
use crate::params::{CodeParams, LevelCode, polynomial_variables};

/// Checks that the claims hold for the committed polynomials.
///
/// - The caller has absorbed, or derives from what it has absorbed, everything in the claims; this
///   function absorbs them again, whole.
/// - Soundness: [`crate::security`]. A manifest that was read has the one legal code of its layouts, which is
///   secure; for parameters from elsewhere ask [`CodeParams::is_secure`].
/// - Time: [`CodeParams::verifier_time`], and for each claim a pass over its vectors.
///
/// # Errors
/// [`OpeningError`]: the first check that fails. Never panics, whatever the opening.
pub fn verify(
    commitments: &[WeightCommitment],
    layout: &Layout,
    params: &CodeParams,
    claims: &[Claim],
    opening: &Opening,
    transcript: &mut Transcript<Reduction>,
) -> Result<Discharged, OpeningError> {
    if !params.fits(layout) {
        return Err(OpeningError::Params);
    }
    if !fits(layout, commitments.len(), claims) {
        return Err(OpeningError::Claims);
    }
    let Opening { rounds, folds, last, base, levels } = opening;
    let recommitted = params.levels.len().saturating_sub(1);
    if rounds.len() != round_count(params, commitments.len())
        || folds.len() != recommitted
        || levels.len() != recommitted
        || last.len() != 1 << params.final_log()
    {
        return Err(OpeningError::Shape);
    }

    let gamma = begin(commitments, layout, params, claims, transcript);
    let weights: Vec<E> = powers(gamma).take(commitments.len().saturating_add(claims.len())).collect();
    let stated = commitments.iter().map(|commitment| commitment.evaluation).chain(claims.iter().map(|c| c.value));
    let claim = Reduced::new(stated.zip(&weights).map(|(value, &weight)| weight * value).sum());

    let mut rounds = Rounds { rest: rounds, claim: Some(claim) };
    let base_code = params.base();
    let row_point = rounds.take(base_code.fold_log, transcript)?;
    let polynomial_point = rounds.take(polynomial_variables(commitments.len()), transcript)?;
    let row_weights = eq_table(&row_point);
    let polynomial_weights = eq_table(&polynomial_point);
    let fold_base = |columns: &[&[F]]| {
        let folded =
            columns.iter().zip(&polynomial_weights).map(|(column, &weight)| weight * dot_ef(&row_weights, column));
        folded.sum()
    };
    let roots: Vec<Hash> = commitments.iter().map(|commitment| commitment.root).collect();

    // The level whose positions are still to be drawn; all later levels have one tree each.
    let mut waiting = Waiting::Base;
    let mut column_point = vec![];
    let mut added = vec![];
    for ((code, fold), answers) in params.codes().skip(1).zip(folds).zip(levels) {
        transcript.absorb(labels::LEVEL_ROOT, &fold.root);
        let sample = transcript.challenge(labels::OUT_OF_DOMAIN);
        transcript.absorb_e(labels::ANSWER, &[fold.answer]);
        let queried = match &waiting {
            Waiting::Base => check(base, &base_code, &roots, fold_base, transcript)?,
            Waiting::Level(level) => level.check(transcript)?,
        };
        let xi = transcript.challenge(labels::BATCH);
        let values = std::iter::once(fold.answer).chain(queried.iter().map(|(_, value)| *value));
        rounds.add(values.zip(powers(xi).skip(1)).map(|(value, power)| power * value).sum());
        let points = queried.into_iter().map(|(point, _)| point).collect();
        added.push(Added { variables: code.variables, xi, sample, points });
        let folded = rounds.take(code.fold_log, transcript)?;
        waiting = Waiting::Level(Level { code, root: fold.root, answers, weights: eq_table(&folded) });
        column_point.extend(folded);
    }

    transcript.absorb_bulk(labels::FINAL, &bytes_of(last));
    let last_point = rounds.take(params.final_log(), transcript)?;
    column_point.extend(&last_point);
    let point = [row_point.as_slice(), &column_point].concat();
    let place = Place { point: &point, polynomials: &polynomial_weights };
    let mut omega = place.omega(layout, claims, weights.get(commitments.len()..).unwrap_or_default());
    for ((commitment, &weight), &polynomial) in commitments.iter().zip(&weights).zip(&polynomial_weights) {
        omega += weight * polynomial * power_at(sample_point(&commitment.root, params), &point);
    }
    omega += added.iter().map(|added| added.at(&column_point)).sum::<E>();
    if rounds.claim.map(Reduced::into_value) != Some(omega * evaluate(last, &last_point)) {
        return Err(OpeningError::FinalEvaluation);
    }

    let queried = match &waiting {
        Waiting::Base => check(base, &base_code, &roots, fold_base, transcript)?,
        Waiting::Level(level) => level.check(transcript)?,
    };
    if queried.iter().all(|(point, value)| symbol(last, *point) == *value) {
        Ok(Discharged(()))
    } else {
        Err(OpeningError::ColumnFold)
    }
}

/// The rounds of a proof, taken in stretches.
struct Rounds<'a> {
    rest: &'a [RoundProof],
    /// What the rounds so far leave to be shown; absent only while it is replaced.
    claim: Option<Reduced>,
}

impl Rounds<'_> {
    fn take(&mut self, count: u32, transcript: &mut Transcript<Reduction>) -> Result<Vec<E>, OpeningError> {
        let (taken, rest) = self.rest.split_at_checked(count as usize).ok_or(OpeningError::Shape)?;
        let claim = self.claim.take().ok_or(OpeningError::Shape)?;
        let (point, claim) = verify_rounds(claim, taken, transcript);
        (self.rest, self.claim) = (rest, Some(claim));
        Ok(point)
    }

    fn add(&mut self, value: E) {
        self.claim = self.claim.take().map(|claim| claim.plus(value));
    }
}

/// Whose positions are to be drawn next.
enum Waiting<'a> {
    Base,
    Level(Level<'a>),
}

/// A folded vector's codeword.
struct Level<'a> {
    code: LevelCode,
    root: Hash,
    answers: &'a Answers<E>,
    /// What folds its rows.
    weights: Vec<E>,
}

impl Level<'_> {
    fn check(&self, transcript: &mut Transcript<Reduction>) -> Result<Vec<(F, E)>, OpeningError> {
        let fold = |columns: &[&[E]]| columns.iter().map(|column| dot_e(&self.weights, column)).sum();
        check(self.answers, &self.code, &[self.root], fold, transcript)
    }
}

/// Draws the positions of a level, checks the answers against its roots, and folds them: points and values,
/// by ascending position.
fn check<T: Symbol>(
    answers: &Answers<T>,
    code: &LevelCode,
    roots: &[Hash],
    fold: impl Fn(&[&[T]]) -> E,
    transcript: &mut Transcript<Reduction>,
) -> Result<Vec<(F, E)>, OpeningError> {
    grinding::check(code, answers.nonce, transcript)?;
    let positions = draw_positions(code, transcript);
    let Answers { columns, hashes, .. } = answers;
    let is_whole =
        |tree: &Vec<Vec<T>>| tree.len() == positions.len() && tree.iter().all(|column| column.len() == code.rows());
    if columns.len() != roots.len() || hashes.len() != roots.len() || !columns.iter().all(is_whole) {
        return Err(OpeningError::Shape);
    }
    for ((root, columns), hashes) in roots.iter().zip(columns).zip(hashes) {
        let leaves = column_leaves(&positions, columns);
        verify_indices(root, code.codeword_length(), &leaves, hashes).map_err(|error| match error {
            MerkleError::Indices | MerkleError::HashCount => OpeningError::Shape,
            MerkleError::Root => OpeningError::MerklePath,
        })?;
    }
    answers.absorb(transcript);
    let mut trees: Vec<_> = columns.iter().map(|tree| tree.iter()).collect();
    let values = positions.iter().map(|&position| {
        let symbols: Vec<&[T]> = trees.iter_mut().filter_map(|tree| tree.next().map(Vec::as_slice)).collect();
        (point(code.codeword_log(), position as u64), fold(&symbols))
    });
    Ok(values.collect())
}

/// The weights that the answers to one level's queries, and the sample drawn before them, add on the next vector.
struct Added {
    /// Of the vector.
    variables: u32,
    xi: E,
    sample: E,
    points: Vec<F>,
}

impl Added {
    /// All of them together at the point that ends in the vector's coordinates.
    fn at(&self, point: &[E]) -> E {
        let start = point.len().saturating_sub(self.variables as usize);
        let point = point.get(start..).unwrap_or_default();
        let queried = self.points.iter().map(|&base| power_at_base(base, point));
        let all = std::iter::once(power_at(self.sample, point)).chain(queried);
        all.zip(powers(self.xi).skip(1)).map(|(value, power)| power * value).sum()
    }
}

/// The multilinear polynomial with the values `base^0, base^1, ...` at a point.
fn power_at(base: E, point: &[E]) -> E {
    let mut power = base;
    let mut value = E::ONE;
    for &coordinate in point {
        value *= E::ONE + coordinate * (power - E::ONE);
        power.square_in_place();
    }
    value
}

/// The same for a base in the base field.
fn power_at_base(base: F, point: &[E]) -> E {
    let mut power = base;
    let mut value = E::ONE;
    for &coordinate in point {
        value *= E::ONE + e_mul_f(coordinate, power - F::ONE);
        power.square_in_place();
    }
    value
}

/// The point at which the last claim stands.
struct Place<'a> {
    /// Of the rows' variables, then the columns'.
    point: &'a [E],
    /// `eq` over the polynomials' numbers.
    polynomials: &'a [E],
}

impl Place<'_> {
    /// `Omega`: for every claim, part and tile, whether the point lies on the tile, times the input part and
    /// the output part there.
    fn omega(&self, layout: &Layout, claims: &[Claim], weights: &[E]) -> E {
        let tables = EqTables::new(self.point, layout, claims);
        let (inputs, of_claims) = distinct(claims.iter().map(|claim| claim.input.as_ref()));
        let parts = || claims.iter().flat_map(|claim| &claim.parts);
        let (outputs, of_parts) = distinct(parts().map(|part| part.output.shared.as_slice()));
        let terms = || {
            let of_claims = claims.iter().zip(weights).zip(&of_claims);
            let of_claims = of_claims
                .flat_map(|((claim, weight), input)| claim.parts.iter().map(move |part| (part, *weight, *input)));
            of_claims.zip(&of_parts).flat_map(|((part, weight, input), output)| {
                layout.tiles_of(part.matrix).map(move |tile| Term { part, tile, weight, input, output: *output })
            })
        };
        let inputs = tables.values(&inputs, terms().map(|term| (term.input, Side::inputs(term.tile))), dot_ef);
        let outputs = tables.values(&outputs, terms().map(|term| (term.output, Side::outputs(term.tile))), dot_e);
        let of_term = |Term { part, tile, weight, input, output }: Term<'_>| {
            let [rows, columns] = [Side::inputs(tile), Side::outputs(tile)];
            let (input, shared) = (inputs.get(&(input, rows))?, outputs.get(&(output, columns))?);
            let table = tables.of(columns);
            let single = |(output, value): &(usize, E)| Some(*table.get(output.checked_sub(columns.start)?)? * value);
            let output = *shared + part.output.singles.iter().filter_map(single).sum::<E>();
            let place = self.point.get(tile.size_log() as usize..).unwrap_or_default();
            let here = eq_at(place, tile.offset >> tile.size_log());
            Some(weight * self.polynomials.get(part.polynomial)? * here * input * output)
        };
        terms().filter_map(of_term).sum()
    }
}

/// A claim's part on one tile.
struct Term<'a> {
    part: &'a Part,
    tile: &'a Tile,
    /// The claim's.
    weight: E,
    /// The number of the vector over the inputs, and of that over the outputs.
    input: usize,
    output: usize,
}

/// A stretch of a vector that lies along a tile, as long as `variables` of the point say.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Side {
    start: usize,
    /// The first of the point's variables, and how many.
    first: u32,
    variables: u32,
}

impl Side {
    const fn inputs(tile: &Tile) -> Self {
        Self { start: tile.first_input, first: 0, variables: tile.input_log }
    }

    const fn outputs(tile: &Tile) -> Self {
        Self { start: tile.first_output, first: tile.input_log, variables: tile.output_log }
    }
}

/// Tables of `eq` over the stretches of one point that claims need, by their first variable and their number; few tiles
/// differ in their sides.
struct EqTables(BTreeMap<(u32, u32), Vec<E>>);

impl EqTables {
    fn new(point: &[E], layout: &Layout, claims: &[Claim]) -> Self {
        let matrices: BTreeSet<usize> = claims.iter().flat_map(|c| &c.parts).map(|part| part.matrix).collect();
        let tiles = matrices.into_iter().flat_map(|matrix| layout.tiles_of(matrix));
        let mut tables = BTreeMap::new();
        for Side { first, variables, .. } in tiles.flat_map(|tile| [Side::inputs(tile), Side::outputs(tile)]) {
            tables.entry((first, variables)).or_insert_with(|| {
                let rest = point.get(first as usize..).unwrap_or_default();
                eq_table(rest.get(..variables as usize).unwrap_or_default())
            });
        }
        Self(tables)
    }

    fn of(&self, side: Side) -> &[E] {
        self.0.get(&(side.first, side.variables)).map_or(&[], Vec::as_slice)
    }

    /// What stretches of vectors are at the point, each once.
    fn values<T: Sync>(
        &self,
        vectors: &[&[T]],
        stretches: impl Iterator<Item = (usize, Side)>,
        dot: impl Fn(&[E], &[T]) -> E + Sync,
    ) -> BTreeMap<(usize, Side), E> {
        let mut values: BTreeMap<(usize, Side), E> = stretches.map(|stretch| (stretch, E::ZERO)).collect();
        values.par_iter_mut().for_each(|((vector, side), value)| {
            let entries = vectors.get(*vector).and_then(|entries| entries.get(side.start..)).unwrap_or_default();
            *value = dot(self.of(*side), entries);
        });
        values
    }
}
