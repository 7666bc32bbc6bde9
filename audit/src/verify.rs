//! The verifier: a proof against a challenge. It walks its own list and takes nothing from the proof
//! that it has not asked for.

use assay_commitments::codec::Malformed;
use assay_commitments::layout::Layout;
use assay_commitments::manifest::{Manifest, small_digest};
use assay_commitments::merkle::{range_hash_count, verify_range};
use assay_commitments::params::CodeParams;
use assay_commitments::rows::{decode_row, encode_row};
use assay_commitments::trace::{TraceCommitment, TraceShape, TreeId, leaf, row_digest};
use assay_commitments::weights::{self, Claim, Discharged, Opening, OpeningError, WeightCommitment};
use assay_commitments::{LayerIndex, Position};
use assay_sumcheck::transcript::{Event, Reduction, Transcript};
use rayon::prelude::*;

use crate::challenge::{Cell, Challenge};
use crate::decode::{Pick, Scores, head_input};
use crate::num::{count, index};
use crate::products::{CellProducts, HeadProduct, combination, head_claims, head_signs, layer_claims};
use crate::proof::{CellWitness, DecodeWitness, Openings, Proof, Shape};
use crate::relations::{Elementwise, Layer, Linear, decode_cell, layer};
use crate::sketch::{ClaimValues, Signs};
use crate::statement::Statement;
use crate::steps;
use crate::tolerance::Tolerance;
use crate::verdict::{Failure, Margin, Reason, Relation, Stage, Where};

/// Checks a proof, and returns what was absorbed and drawn. `margins` receives every comparison that could
/// be made, also of a proof that is rejected.
///
/// # Errors
/// The first failure in the order: shape, registered small tensors, openings of rows, relations of the cells
/// in turn, decodes, openings of weights.
pub(crate) fn verify_proof(
    statement: &Statement<'_>,
    manifest: &Manifest,
    challenge: &Challenge,
    bytes: &[u8],
    margins: &mut Vec<Margin>,
) -> Result<Vec<Event>, Failure> {
    let malformed = |_: Malformed| Failure::at(Reason::ProofShape, Stage::Shape);
    let positions = statement.commitment.positions().unwrap_or(0);
    let shape = Shape { manifest, challenge, positions, signs: statement.sign_count() };
    let proof = Proof::read(bytes, &shape).map_err(malformed)?;
    check_small_tensors(manifest, challenge, &proof)?;

    let openings = RowOpenings { commitment: statement.commitment, trace: shape.trace() };
    let layers = challenge.layers();
    // All are checked before the first failure is looked for: which it is may not depend on the threads.
    let cells: Vec<Result<CheckedCell, Failure>> = challenge
        .cells
        .par_iter()
        .zip(&proof.witness.cells)
        .map(|(cell, witness)| {
            let place = layers.binary_search(&cell.layer).ok();
            let small = place.and_then(|place| proof.witness.small.get(place));
            let entry = manifest.layers.get(index(cell.layer.get()));
            let (Some(small), Some(entry)) = (small, entry) else { return Err(malformed(Malformed::Truncated)) };
            check_cell(&shape, &openings, cell, witness, &layer(manifest, entry, small))
        })
        .collect();
    let cells: Vec<CheckedCell> = cells.into_iter().collect::<Result<_, _>>()?;
    let decodes: Vec<Result<CheckedDecode<'_>, Failure>> = challenge
        .decodes
        .par_iter()
        .zip(&proof.witness.decodes)
        .map(|(position, witness)| {
            check_decode(&shape, &openings, statement, *position, witness, &proof.witness.final_norm)
        })
        .collect();
    let decodes: Vec<CheckedDecode<'_>> = decodes.into_iter().collect::<Result<_, _>>()?;

    let transcript = steps::start(statement, manifest);
    let (transcript, seed) = steps::witness(transcript, &proof.witness_parts);
    let (transcript, beta) = steps::claims(transcript, &proof.claims_parts);

    let judged: Vec<(CellProducts, Judged)> = cells
        .into_par_iter()
        .enumerate()
        .zip(challenge.cells.par_iter().zip(&proof.claims.cells))
        .map(|((number, checked), (cell, claims))| {
            let products = CellProducts::new(checked.linears, &seed, number, shape.signs);
            let judged = judge_cell(cell, &products, claims, &checked.elementwise);
            (products, judged)
        })
        .collect();
    let (products, mut judged): (Vec<CellProducts>, Vec<Judged>) = judged.into_iter().unzip();
    let signs = head_signs(&seed, challenge, manifest, shape.signs);
    let of_decodes: Vec<(HeadProduct, Judged)> = decodes
        .into_par_iter()
        .zip(challenge.decodes.par_iter().zip(&proof.claims.decodes))
        .map(|(decode, (position, claims))| {
            let judged = judge_decode(*position, &decode, &signs, claims);
            (decode.head, judged)
        })
        .collect();
    let (heads, of_decodes): (Vec<HeadProduct>, Vec<Judged>) = of_decodes.into_iter().unzip();
    judged.extend(of_decodes);
    let mut first = None;
    for judged in judged {
        margins.extend(judged.margins);
        first = first.or(judged.failure);
    }
    if let Some(failure) = first {
        return Err(failure);
    }

    let powers = combination(beta, shape.signs);
    let mut transcript = transcript.advance();
    let Openings { layers: of_layers, head: of_head } = &proof.openings;
    let commitments: Vec<WeightCommitment> =
        layers.iter().filter_map(|layer| manifest.layers.get(index(layer.get()))).map(|entry| entry.weights).collect();
    let claims = layer_claims(manifest, challenge, &products, &proof.claims, &powers);
    let layout = manifest.layer_layout();
    discharge(&commitments, &layout, &manifest.layer_code, &claims, of_layers.as_ref(), &mut transcript)?;
    let claims = head_claims(manifest, &heads, &signs, &proof.claims.decodes, &powers);
    let layout = manifest.head_layout();
    discharge(&manifest.head.shards, &layout, &manifest.head_code, &claims, of_head.as_ref(), &mut transcript)?;
    Ok(transcript.log().to_vec())
}

/// Checks that an opening shows all claims; where nothing is claimed, that there is none.
fn discharge(
    commitments: &[WeightCommitment],
    layout: &Layout,
    code: &CodeParams,
    claims: &[Claim],
    opening: Option<&Opening>,
    transcript: &mut Transcript<Reduction>,
) -> Result<(), Failure> {
    match opening {
        None if claims.is_empty() => Ok(()),
        None => Err(Failure::at(Reason::OpeningShape, Stage::Opening)),
        Some(opening) => weights::verify(commitments, layout, code, claims, opening, transcript)
            .map(|_receipt: Discharged| ())
            .map_err(|error| Failure::at(reason_of(error), Stage::Opening)),
    }
}

const fn reason_of(error: OpeningError) -> Reason {
    match error {
        OpeningError::Params | OpeningError::Claims | OpeningError::Shape => Reason::OpeningShape,
        OpeningError::Grinding => Reason::Grinding,
        OpeningError::FinalEvaluation => Reason::Sumcheck,
        OpeningError::ColumnFold => Reason::ColumnFold,
        OpeningError::MerklePath => Reason::ColumnPath,
    }
}

/// Norm weights and biases are those of the manifest.
fn check_small_tensors(manifest: &Manifest, challenge: &Challenge, proof: &Proof) -> Result<(), Failure> {
    for (layer, small) in challenge.layers().iter().zip(&proof.witness.small) {
        let registered = manifest.layers.get(index(layer.get())).map(|entry| entry.small);
        if registered != Some(small.digest()) {
            return Err(Failure::new(Reason::SmallTensors, Where::opening(Some(*layer))));
        }
    }
    if manifest.head.small == small_digest(&[&proof.witness.final_norm]) {
        Ok(())
    } else {
        Err(Failure::new(Reason::SmallTensors, Where::opening(None)))
    }
}

/// Opens rows against the trace commitment.
pub(crate) struct RowOpenings<'a> {
    pub(crate) commitment: &'a TraceCommitment,
    pub(crate) trace: TraceShape,
}

impl RowOpenings<'_> {
    /// Whether `rows` are those of `tree` from `start` on. Takes the hashes it needs from the front.
    fn holds<'h>(&self, tree: TreeId, start: usize, rows: &[u8], hashes: &'h [[u8; 32]]) -> (bool, &'h [[u8; 32]]) {
        let positions = self.commitment.positions().unwrap_or(0);
        let session = &self.commitment.session;
        let size = self.trace.row_bytes(tree).max(1);
        let leaves: Vec<[u8; 32]> = rows
            .chunks(size)
            .zip(start..)
            .map(|(row, position)| leaf(session, tree, Position::new(count(position)), &row_digest(row)))
            .collect();
        let needed = range_hash_count(positions, start, start.saturating_add(leaves.len()));
        let (own, rest) = hashes.split_at(needed.min(hashes.len()));
        let root = self.trace.tree_index(tree).and_then(|tree| self.commitment.roots.get(tree));
        let holds = root.is_some_and(|root| verify_range(root, positions, start, &leaves, own).is_ok());
        (holds, rest)
    }
}

pub(crate) struct CheckedCell {
    pub(crate) linears: [Linear; 7],
    pub(crate) elementwise: Vec<Elementwise>,
}

/// Opens a cell's rows and evaluates what needs no weights.
pub(crate) fn check_cell(
    shape: &Shape<'_>,
    openings: &RowOpenings<'_>,
    cell: &Cell,
    witness: &CellWitness,
    layer: &Layer<'_>,
) -> Result<CheckedCell, Failure> {
    let manifest = shape.manifest;
    let place = Where::cell(cell.layer, cell.position);
    let failed = |relation: Relation| Failure::new(relation.reason(), place.relation(relation));
    let CellWitness { h, a, o, m, caches, supplied, hashes } = witness;
    let rows = decode_cell(manifest, cell, [h, a, o, m], caches)
        .map_err(|_| Failure::new(Reason::RowNotCanonical, place.at(Stage::Trace)))?;
    for products in [&supplied.q, &supplied.k, &supplied.gate, &supplied.up] {
        if !products.is_canonical_product() {
            return Err(Failure::new(Reason::SuppliedNotCanonical, place.at(Stage::Shape)));
        }
    }

    let next = layer.next(&layer.middle(&rows).map_err(failed)?, &rows);
    let next_is_finite = next.iter().all(|value| value.is_finite());
    let mut next_bytes = vec![];
    encode_row(manifest.profile, &next.iter().map(|value| narrow(*value)).collect::<Vec<_>>(), &mut next_bytes);
    let mut rest = hashes.as_slice();
    let mut open = |(tree, range): &(TreeId, std::ops::Range<usize>), bytes: &[u8]| {
        let (holds, after) = openings.holds(*tree, range.start, bytes, rest);
        rest = after;
        holds
    };
    let ranges = shape.cell_ranges(cell);
    let contents = [h, &next_bytes, a, o, m].into_iter().chain(caches);
    let mut next_holds = true;
    for (range, bytes) in ranges.iter().zip(contents) {
        let holds = open(range, bytes);
        if range.0 == TreeId::H(LayerIndex::new(cell.layer.get().saturating_add(1))) {
            next_holds = holds;
        } else if !holds {
            return Err(Failure::new(Reason::TraceOpening, place.at(Stage::Trace)));
        }
    }
    let inputs = layer.inputs(&rows).map_err(failed)?;
    let linears = layer.linears(&inputs, &rows, supplied).map_err(failed)?;
    let mut elementwise = layer.elementwise(&inputs, &rows, cell.position, supplied).map_err(failed)?;
    elementwise.push(Elementwise {
        relation: Relation::C10,
        group: assay_commitments::KvGroup::new(0),
        ratio: if next_holds { 0.0 } else { f64::INFINITY },
        holds: next_holds && next_is_finite,
    });
    Ok(CheckedCell { linears, elementwise })
}

/// A reference value, which is an f32 number, as f32.
#[expect(clippy::as_conversions, clippy::cast_possible_truncation, reason = "reference rows hold f32 values")]
const fn narrow(value: f64) -> f32 {
    value as f32
}

/// What comparing has found.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) margins: Vec<Margin>,
    pub(crate) failure: Option<Failure>,
}

/// Compares a cell's products and rows; the first failure is by relation.
pub(crate) fn judge_cell(
    cell: &Cell,
    products: &CellProducts,
    claims: &[ClaimValues; 7],
    elementwise: &[Elementwise],
) -> Judged {
    let place = Where::cell(cell.layer, cell.position);
    let mut margins: Vec<Margin> = vec![];
    let mut failures: Vec<Failure> = vec![];
    for ((linear, signs), claims) in products.products.iter().zip(claims) {
        let comparison = linear.target.check(signs, claims);
        let place = place.relation(linear.relation());
        margins.push(Margin { place, ratio: comparison.ratio });
        if claims.singles.len() != linear.target.singles.len() {
            return Judged { margins, failure: Some(Failure::at(Reason::ProofShape, Stage::Shape)) };
        }
        if !(comparison.within && comparison.singles_hold) {
            failures.push(Failure::new(linear.relation().reason(), place));
        }
    }
    for check in elementwise {
        let exact = check.relation == Relation::C10;
        let place = place.relation(check.relation);
        let place = if exact { place } else { place.group(check.group) };
        if !exact {
            margins.push(Margin { place, ratio: check.ratio });
        }
        if !check.holds {
            failures.push(Failure::new(check.relation.reason(), place));
        }
    }
    Judged { margins, failure: failures.into_iter().min_by_key(|failure| failure.place.relation) }
}

pub(crate) struct CheckedDecode<'a> {
    pub(crate) head: HeadProduct,
    pub(crate) scores: Scores<'a>,
    pub(crate) pick: Pick<'a>,
}

/// Opens a decode's row and lists its candidates.
pub(crate) fn check_decode<'a>(
    shape: &Shape<'_>,
    openings: &RowOpenings<'_>,
    statement: &Statement<'a>,
    position: Position,
    witness: &'a DecodeWitness,
    final_norm: &[f32],
) -> Result<CheckedDecode<'a>, Failure> {
    let manifest = shape.manifest;
    let place = Where::decode(position);
    let row = decode_row(manifest.profile, &witness.h)
        .map_err(|_| Failure::new(Reason::RowNotCanonical, place.at(Stage::Trace)))?;
    if !witness.logits.is_canonical_logits() {
        return Err(Failure::new(Reason::SuppliedNotCanonical, place.at(Stage::Shape)));
    }
    let (holds, _) = openings.holds(TreeId::H(shape.end()), index(position.get()), &witness.h, &witness.hashes);
    if !holds {
        return Err(Failure::new(Reason::TraceOpening, place.at(Stage::Trace)));
    }
    let input = head_input(&row, final_norm, manifest).ok_or(Failure::new(Reason::Logits, place))?;
    let exponent = input.product_exponent(manifest.head.exponent);
    let token = statement.picked(position).ok_or(Failure::new(Reason::ProofShape, place))?;
    let pick =
        Pick { tolerance: Tolerance::of(manifest.profile), sampling: &statement.request.sampling, position, token };
    let scores = Scores::new(&witness.logits, exponent, &pick);
    let target = scores.target();
    Ok(CheckedDecode { head: HeadProduct { input, target }, scores, pick })
}

/// Compares a decode's logits and judges its pick.
pub(crate) fn judge_decode(
    position: Position,
    decode: &CheckedDecode<'_>,
    signs: &Signs,
    claims: &ClaimValues,
) -> Judged {
    let comparison = decode.head.target.check(signs, claims);
    let place = Where::decode(position).relation(Relation::Logits);
    let margins = vec![Margin { place, ratio: comparison.ratio }];
    let failure = if claims.singles.len() != decode.scores.candidates.len() {
        Some(Failure::at(Reason::ProofShape, Stage::Shape))
    } else if !comparison.within {
        Some(Failure::new(Reason::Logits, place))
    } else if !comparison.singles_hold {
        Some(Failure::new(Reason::Candidate, place))
    } else {
        let judged = decode.scores.judge(&claims.singles, &decode.pick);
        judged.err().map(|reason| Failure::new(reason, Where::decode(position)))
    };
    Judged { margins, failure }
}
