//! The commitment and the verifier once more, slow and by the definitions: dense tables, Horner's
//! rule instead of transforms, one hash after the other. Shares the transcript and the node rule with the
//! code under test, and nothing of its algebra.

use std::collections::BTreeMap;

use ark_ff::{AdditiveGroup, Field};
use assay_sumcheck::field::{E, F, P, e_from_f, e_to_bytes, f_from_i64, f_to_bytes};

use super::{Case, Opening, labels, transcript};
use crate::codec::encode;
use crate::domains;
use crate::weights::WeightRoot;

/// The point of a position: `7^((p - 1) / n)` to the position.
fn point(case: &Case, position: usize) -> F {
    let root = f_from_i64(7).pow([(P - 1) >> case.params.codeword_log()]);
    root.pow([position as u64])
}

/// Codeword columns: every row's polynomial, evaluated by Horner's rule.
pub(super) fn columns(case: &Case, positions: &[usize]) -> Vec<Vec<F>> {
    let (rows, coefficients) = (case.params.rows(), case.polynomial.coefficients());
    let column = |&position: &usize| {
        let point = point(case, position);
        let horner =
            |sum: F, row: usize, column: usize| sum * point + f_from_i64(i64::from(coefficients[row + rows * column]));
        let entry = |row| (0..case.params.columns()).rev().fold(F::ZERO, |sum, column| horner(sum, row, column));
        (0..rows).map(entry).collect()
    };
    positions.iter().map(column).collect()
}

fn leaf(position: usize, column: &[F]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(domains::CODEWORD_COLUMN);
    hasher.update(&(position as u64).to_le_bytes());
    for &entry in column {
        hasher.update(&f_to_bytes(entry));
    }
    hasher.finalize().into()
}

fn node(left: [u8; 32], right: [u8; 32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(domains::MERKLE_NODE);
    hasher.update(&left).update(&right);
    hasher.finalize().into()
}

fn bound(case: &Case, top: [u8; 32]) -> WeightRoot {
    let mut hasher = blake3::Hasher::new_keyed(domains::MERKLE_ROOT);
    hasher.update(&(case.params.codeword_length() as u64).to_le_bytes()).update(&top);
    WeightRoot(hasher.finalize().into())
}

/// The commitment.
pub(super) fn root(case: &Case) -> WeightRoot {
    let positions: Vec<usize> = (0..case.params.codeword_length()).collect();
    let columns = columns(case, &positions);
    let mut level: Vec<[u8; 32]> = positions.iter().map(|&position| leaf(position, &columns[position])).collect();
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| node(pair[0], pair[1])).collect();
    }
    bound(case, level[0])
}

/// `eq(point, x)` by its definition.
fn eq(point: &[E], x: usize) -> E {
    point.iter().enumerate().map(|(i, &r)| if x >> i & 1 == 1 { r } else { E::ONE - r }).product()
}

/// Whether the opening shows the case's claims under its root.
pub(super) fn accepts(case: &Case, opening: &Opening) -> bool {
    verdict(case, opening).is_some()
}

fn require(condition: bool) -> Option<()> {
    condition.then_some(())
}

fn verdict(case: &Case, opening: &Opening) -> Option<()> {
    let (params, layout) = (&case.params, case.layout());
    require(opening.rounds.len() == params.log_size as usize && opening.folded_row.len() == params.columns())?;
    let mut transcript = transcript();
    transcript.absorb(labels::ROOT, &case.tree.root().0);
    transcript.absorb(labels::CODE, &encode(params));
    transcript.absorb(labels::LAYOUT, &layout.digest());
    transcript.absorb(labels::CLAIM_COUNT, &(case.claims.len() as u64).to_le_bytes());
    for claim in &case.claims {
        let head = [(claim.matrix as u64).to_le_bytes().as_slice(), &e_to_bytes(claim.value)].concat();
        transcript.absorb(labels::CLAIM, &head);
        let input: Vec<u8> = claim.input.iter().flat_map(|&x| f_to_bytes(x)).collect();
        let output: Vec<u8> = claim.output.iter().flat_map(|&r| e_to_bytes(r)).collect();
        transcript.absorb_bulk(labels::INPUT, &input);
        transcript.absorb_bulk(labels::OUTPUT, &output);
    }
    let gamma = transcript.challenge(labels::BATCH);

    // Omega, dense, and the claim on its product with the weights.
    let mut omega = vec![E::ZERO; 1 << params.log_size];
    let mut claimed = E::ZERO;
    for (i, claim) in case.claims.iter().enumerate() {
        let weight = gamma.pow([i as u64]);
        claimed += weight * claim.value;
        for (k, &x) in claim.input.iter().enumerate() {
            for (n, &r) in claim.output.iter().enumerate() {
                omega[layout.coefficient_index(claim.matrix, k, n)?] += weight * e_from_f(x) * r;
            }
        }
    }

    let mut z = Vec::new();
    for (i, round) in opening.rounds.iter().enumerate() {
        if i == params.row_log as usize {
            absorb_row(&mut transcript, opening);
        }
        let message = [e_to_bytes(round.at_zero), e_to_bytes(round.leading)].concat();
        transcript.absorb("sumcheck/round", &message);
        let r = transcript.challenge("sumcheck/point");
        // The parabola through g(0) and g(1) with the given leading coefficient.
        let at_one = claimed - round.at_zero;
        claimed = round.at_zero * (E::ONE - r) + at_one * r + round.leading * r * (r - E::ONE);
        z.push(r);
    }
    if params.row_log == params.log_size {
        absorb_row(&mut transcript, opening);
    }
    let (z_row, z_column) = z.split_at(params.row_log as usize);
    let omega_z: E = omega.iter().enumerate().map(|(x, &value)| eq(&z, x) * value).sum();
    let row_z: E = opening.folded_row.iter().enumerate().map(|(x, &value)| eq(z_column, x) * value).sum();
    require(claimed == omega_z * row_z)?;

    let length = params.codeword_length();
    let mut positions: Vec<usize> = if params.queries as usize >= length {
        (0..length).collect()
    } else {
        let drawn = transcript.indices(labels::POSITIONS, params.queries as usize, params.codeword_log());
        drawn.into_iter().map(|position| usize::try_from(position).ok()).collect::<Option<_>>()?
    };
    positions.sort_unstable();
    positions.dedup();
    require(positions.len() == opening.columns.len())?;
    let mut known = BTreeMap::new();
    for (&position, column) in positions.iter().zip(&opening.columns) {
        require(column.len() == params.rows())?;
        let at = e_from_f(point(case, position));
        let symbol: E = opening.folded_row.iter().rev().fold(E::ZERO, |sum, &u| sum * at + u);
        let fold: E = column.iter().enumerate().map(|(row, &entry)| eq(z_row, row) * e_from_f(entry)).sum();
        require(symbol == fold)?;
        known.insert(position, leaf(position, column));
    }
    let mut hashes = opening.hashes.iter();
    for _ in 0..params.codeword_log() {
        let missing: Vec<usize> =
            known.keys().map(|index| index ^ 1).filter(|index| !known.contains_key(index)).collect();
        for index in missing {
            known.insert(index, *hashes.next()?);
        }
        let parents = known.iter().filter(|(index, _)| *index % 2 == 0);
        known = parents.map(|(&index, &left)| (index / 2, node(left, known[&(index + 1)]))).collect();
    }
    require(hashes.next().is_none() && bound(case, known[&0]) == case.tree.root())
}

fn absorb_row(transcript: &mut assay_sumcheck::Transcript<assay_sumcheck::Reduction>, opening: &Opening) {
    let bytes: Vec<u8> = opening.folded_row.iter().flat_map(|&symbol| e_to_bytes(symbol)).collect();
    transcript.absorb_bulk(labels::FOLDED_ROW, &bytes);
}
