//! The prover: from a captured trace and committed weights to the bytes of a proof.

use std::sync::Arc;

use assay_commitments::codec::Malformed;
use assay_commitments::manifest::{Manifest, Matrix};
use assay_commitments::params::CodeParams;
use assay_commitments::rows::decode_row;
use assay_commitments::trace::{RowsError, TraceCommitment, TraceRows, TraceTrees, TreeId};
use assay_commitments::weights::{Claim, LayerPolynomial, Opening, open};
use assay_commitments::{LayerIndex, Position};
use assay_sumcheck::transcript::{Event, Reduction, Transcript};
use rayon::prelude::*;
use thiserror::Error;

use crate::challenge::{Cell, Nonce};
use crate::decode::{Pick, Scores, head_input};
use crate::fixed::{FixedRow, Supplied};
use crate::model::{CommittedLayer, CommittedModel, CommittedPolynomial};
use crate::num::index;
use crate::parts::{PartDigest, join};
use crate::products::{CellProducts, HeadProduct, combination, head_claims, head_signs, layer_claims};
use crate::proof::{CellWitness, Claims, DecodeWitness, Openings, Proof, Shape, Witness};
use crate::relations::{CellRows, Inputs, Layer, Linear, SuppliedProducts, decode_cell, layer};
use crate::request::Request;
use crate::resolve::Search;
use crate::rounding::Flips;
use crate::statement::{Statement, challenge_of};
use crate::steps;
use crate::tolerance::Tolerance;
use crate::verdict::Relation;

/// Why a proof cannot be made. With a trace of one's own model none of these happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ProveError {
    /// The request and the nonce give no challenge.
    #[error("the request's policy and the nonce give no challenge")]
    NoChallenge,
    /// The trace does not reach over the committed positions.
    #[error("the trace ends before the committed positions do")]
    TraceTooShort,
    /// A row of the trace cannot be read.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A row of the trace has no canonical form.
    #[error("a row of the trace is not canonical: {0}")]
    Row(#[from] Malformed),
    /// The rows of a cell are so far off that no proof can be written down.
    #[error("the rows of layer {layer} at position {position} leave the range of {}", .relation.name())]
    Range {
        /// The layer.
        layer: LayerIndex,
        /// The position.
        position: Position,
        /// The relation.
        relation: Relation,
    },
}

/// A cell on the prover's side: what goes into the proof, and the exact products behind it.
struct ProvenCell {
    witness: CellWitness,
    exact: ExactCell,
}

/// The products of a cell with what each is compared with, and all of them exact.
type ExactCell = ([Linear; 7], [Vec<i64>; 7]);

/// A decode on the prover's side.
struct ProvenDecode {
    witness: DecodeWitness,
    exact: ExactDecode,
}

/// The product of a decode, and exact logits.
type ExactDecode = (HeadProduct, Vec<i64>);

/// How much of a proof stands when the rest is made again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Norms, rows, supplied products and paths.
    Witness,
    /// These, and the claims on products.
    Claims,
}

/// Proves what a nonce asks for.
///
/// `trace` holds the rows that `commitment` binds, `model` the weights of the manifest. The prover
/// does not judge: a trace that another model left behind gives a proof that is rejected.
///
/// # Errors
/// [`ProveError`].
pub fn prove(
    model: &CommittedModel,
    request: &Request,
    commitment: &TraceCommitment,
    trace: &dyn TraceRows,
    nonce: Option<&Nonce>,
) -> Result<Vec<u8>, ProveError> {
    prove_with_log(model, request, commitment, trace, nonce).map(|(proof, _)| proof)
}

/// The same, and what was absorbed and drawn, in order.
///
/// # Errors
/// [`ProveError`].
pub fn prove_with_log(
    model: &CommittedModel,
    request: &Request,
    commitment: &TraceCommitment,
    trace: &dyn TraceRows,
    nonce: Option<&Nonce>,
) -> Result<(Vec<u8>, Vec<Event>), ProveError> {
    let statement = Statement { request, commitment, nonce };
    let manifest = &model.manifest;
    let challenge = challenge_of(request, manifest, commitment, nonce).ok_or(ProveError::NoChallenge)?;
    let positions = commitment.positions().ok_or(ProveError::NoChallenge)?;
    if trace.positions() < positions {
        return Err(ProveError::TraceTooShort);
    }
    let shape = Shape { manifest, challenge: &challenge, positions, signs: statement.sign_count() };
    let source = Source { model, shape, trace, trees: trace.commit(&commitment.session, positions) };

    let cells: Vec<ProvenCell> = challenge.cells.par_iter().map(|cell| source.cell(cell)).collect::<Result<_, _>>()?;
    let decodes: Vec<ProvenDecode> =
        challenge.decodes.par_iter().map(|position| source.decode(*position, &statement)).collect::<Result<_, _>>()?;

    let witness = source.witness(&cells, &decodes).parts();
    let cells = cells.into_iter().map(|cell| cell.exact).collect();
    let decodes = decodes.into_iter().map(|decode| decode.exact).collect();
    Ok(finish(model, &statement, &shape, witness, cells, decodes, None))
}

/// A proof that keeps the beginning of `proof`, whatever that says, and of which the rest is made for the transcript
/// that follows: what a miner sends who may choose a witness, and not what is drawn from it. Claims that are made here
/// are true of the weights, openings are those of an honest prover. Nobody but those who forge has a use for it.
///
/// # Errors
/// [`ProveError`]; [`ProveError::Row`] also for bytes that are no proof for the challenge.
pub fn prove_again(
    model: &CommittedModel,
    request: &Request,
    commitment: &TraceCommitment,
    nonce: Option<&Nonce>,
    proof: &[u8],
    kept: Kept,
) -> Result<Vec<u8>, ProveError> {
    let statement = Statement { request, commitment, nonce };
    let challenge = challenge_of(request, &model.manifest, commitment, nonce).ok_or(ProveError::NoChallenge)?;
    let positions = commitment.positions().ok_or(ProveError::NoChallenge)?;
    let shape = Shape { manifest: &model.manifest, challenge: &challenge, positions, signs: statement.sign_count() };
    let Proof { witness, claims, .. } = Proof::read(proof, &shape)?;
    let cells = challenge.cells.iter().zip(&witness.cells).map(|(cell, of_cell)| exact_cell(model, cell, of_cell));
    let cells = cells.collect::<Result<_, _>>()?;
    let decodes = challenge.decodes.iter().zip(&witness.decodes).map(|(position, DecodeWitness { h, logits, .. })| {
        let (input, products) = exact_logits(model, *position, h)?;
        let exponent = input.product_exponent(model.manifest.head.exponent);
        let target = Scores::new(logits, exponent, &pick(model, *position, &statement)?).target();
        Ok((HeadProduct { input, target }, products))
    });
    let decodes = decodes.collect::<Result<_, ProveError>>()?;
    let claims = (kept == Kept::Claims).then_some(claims);
    Ok(finish(model, &statement, &shape, witness.parts(), cells, decodes, claims).0)
}

/// The exact products of a cell whose rows and supplied products stand.
fn exact_cell(model: &CommittedModel, cell: &Cell, witness: &CellWitness) -> Result<ExactCell, ProveError> {
    let manifest = &model.manifest;
    let committed = &model.layers[index(cell.layer.get())];
    let layer = layer(manifest, &manifest.layers[index(cell.layer.get())], &committed.small);
    let CellWitness { h, a, o, m, caches, supplied, .. } = witness;
    let rows = decode_cell(manifest, cell, [h, a, o, m], caches)?;
    let linears = layer.inputs(&rows).and_then(|inputs| layer.linears(&inputs, &rows, supplied));
    let linears =
        linears.map_err(|relation| ProveError::Range { layer: cell.layer, position: cell.position, relation })?;
    let mut products = linears
        .each_ref()
        .map(|Linear { matrix, input, .. }| committed.weights.polynomial.product(matrix.index(), &input.integers));
    let queries = &mut products[Matrix::Q.index()];
    *queries = cell.query_outputs(&manifest.architecture).map(|output| queries[output]).collect();
    Ok((linears, products))
}

/// Everything after a witness, whose parts are given: claims, unless they stand already, and openings.
fn finish(
    model: &CommittedModel,
    statement: &Statement<'_>,
    shape: &Shape<'_>,
    mut parts: Vec<Vec<u8>>,
    cells: Vec<ExactCell>,
    decodes: Vec<ExactDecode>,
    claims: Option<Claims>,
) -> (Vec<u8>, Vec<Event>) {
    let Shape { manifest, challenge, .. } = *shape;
    let digests = |parts: &[Vec<u8>]| parts.iter().map(|part| PartDigest::of(part)).collect::<Vec<_>>();
    let transcript = steps::start(statement, manifest);
    let (transcript, seed) = steps::witness(transcript, &digests(&parts));

    let (linears, exact): (Vec<[Linear; 7]>, Vec<[Vec<i64>; 7]>) = cells.into_iter().unzip();
    let products: Vec<CellProducts> = linears
        .into_iter()
        .enumerate()
        .map(|(number, linears)| CellProducts::new(linears, &seed, number, shape.signs))
        .collect();
    let head_signs = head_signs(&seed, challenge, manifest, shape.signs);
    let honest = || Claims {
        cells: products
            .par_iter()
            .zip(&exact)
            .map(|(cell, exact)| {
                let [q, k, v, o, gate, up, down] = &cell.products;
                let [xq, xk, xv, xo, xgate, xup, xdown] = exact;
                [(q, xq), (k, xk), (v, xv), (o, xo), (gate, xgate), (up, xup), (down, xdown)]
                    .map(|((linear, signs), exact)| linear.target.claims(signs, exact))
            })
            .collect(),
        decodes: decodes.iter().map(|(head, products)| head.target.claims(&head_signs, products)).collect(),
    };
    let claims = claims.unwrap_or_else(honest);
    let claims_parts = claims.parts();
    let (transcript, beta) = steps::claims(transcript, &digests(&claims_parts));

    let powers = combination(beta, shape.signs);
    let by_layer = layer_claims(manifest, challenge, &products, &claims, &powers);
    let heads: Vec<HeadProduct> = decodes.into_iter().map(|(head, _)| head).collect();
    let mut transcript = transcript.advance();
    let asked = challenge.layers();
    let committed = asked.iter().map(|layer| model.layers[index(layer.get())].weights.as_ref());
    let layers = opening(committed, &manifest.layer_code, &by_layer, &mut transcript);
    let of_head = head_claims(manifest, &heads, &head_signs, &claims.decodes, &powers);
    let head = opening(model.head.iter().map(Arc::as_ref), &manifest.head_code, &of_head, &mut transcript);
    parts.extend(claims_parts);
    parts.push(Openings { layers, head }.part());
    (join(&parts), transcript.log().to_vec())
}

/// Opens claims on polynomials in memory; without claims there is nothing to open.
fn opening<'a>(
    committed: impl Iterator<Item = &'a CommittedPolynomial>,
    code: &CodeParams,
    claims: &[Claim],
    transcript: &mut Transcript<Reduction>,
) -> Option<Opening> {
    if claims.is_empty() {
        return None;
    }
    let polynomials: Vec<_> = committed.map(|committed| (&committed.polynomial, &committed.tree)).collect();
    match open(&polynomials, code, claims, transcript) {
        Ok(opening) => Some(opening),
        Err(never) => match never {},
    }
}

/// Where the prover takes rows and weights from.
struct Source<'a> {
    model: &'a CommittedModel,
    shape: Shape<'a>,
    trace: &'a dyn TraceRows,
    trees: TraceTrees,
}

impl Source<'_> {
    fn bytes(&self, tree: TreeId, range: std::ops::Range<usize>) -> Result<Vec<u8>, ProveError> {
        Ok(self.trace.rows(tree, range)?)
    }

    fn hashes(&self, tree: TreeId, range: &std::ops::Range<usize>) -> Vec<[u8; 32]> {
        self.trees.tree(tree).map(|tree| tree.open_range(range.start, range.end)).unwrap_or_default()
    }

    fn cell(&self, cell: &Cell) -> Result<ProvenCell, ProveError> {
        let manifest = &self.model.manifest;
        let committed: &CommittedLayer = &self.model.layers[index(cell.layer.get())];
        let layer = layer(manifest, &manifest.layers[index(cell.layer.get())], &committed.small);
        let CellBytes { rows: [h, a, o, m], caches } = CellBytes::read(self.trace, &self.shape, cell)?;
        let ranges = self.shape.cell_ranges(cell);
        let hashes = ranges.iter().flat_map(|(tree, range)| self.hashes(*tree, range)).collect();
        let rows = decode_cell(manifest, cell, [&h, &a, &o, &m], &caches)?;
        let CellSums { supplied, linears, products, .. } =
            CellSums::new(&layer, &committed.weights.polynomial, cell, &rows)?;
        let witness = CellWitness { h, a, o, m, caches, supplied, hashes };
        Ok(ProvenCell { witness, exact: (linears, products) })
    }

    fn decode(&self, position: Position, statement: &Statement<'_>) -> Result<ProvenDecode, ProveError> {
        let tree = TreeId::H(self.shape.end());
        let range = index(position.get())..index(position.get()) + 1;
        let h = self.bytes(tree, range.clone())?;
        let (input, products) = exact_logits(self.model, position, &h)?;
        let exponent = input.product_exponent(self.model.manifest.head.exponent);
        let pick = pick(self.model, position, statement)?;
        let logits = Scores::compress(&products, exponent, &pick);
        let target = Scores::new(&logits, exponent, &pick).target();
        let witness = DecodeWitness { h, logits, hashes: self.hashes(tree, &range) };
        Ok(ProvenDecode { witness, exact: (HeadProduct { input, target }, products) })
    }

    fn witness(&self, cells: &[ProvenCell], decodes: &[ProvenDecode]) -> Witness {
        let small = |layer: &LayerIndex| self.model.layers[index(layer.get())].small.clone();
        Witness {
            small: self.shape.challenge.layers().iter().map(small).collect(),
            final_norm: self.model.final_norm.clone(),
            cells: cells.iter().map(|cell| cell.witness.clone()).collect(),
            decodes: decodes.iter().map(|decode| decode.witness.clone()).collect(),
        }
    }
}

/// The input of lm_head that a row gives, and the exact logits of that.
fn exact_logits(model: &CommittedModel, position: Position, h: &[u8]) -> Result<(FixedRow, Vec<i64>), ProveError> {
    let manifest = &model.manifest;
    let row = decode_row(manifest.profile, h)?;
    let input = head_input(&row, &model.final_norm, manifest).ok_or(ProveError::Range {
        layer: LayerIndex::new(manifest.architecture.layers),
        position,
        relation: Relation::Logits,
    })?;
    let products = head_products(model.head.iter().map(|shard| &shard.polynomial), manifest, &input);
    Ok((input, products))
}

/// What decides the pick at a position.
fn pick<'a>(model: &CommittedModel, position: Position, statement: &Statement<'a>) -> Result<Pick<'a>, ProveError> {
    Ok(Pick {
        tolerance: Tolerance::of(model.manifest.profile),
        sampling: &statement.request.sampling,
        position,
        token: statement.picked(position).ok_or(ProveError::NoChallenge)?,
    })
}

/// The rows of a cell as they are committed to.
pub(crate) struct CellBytes {
    /// `H`, `A`, `O` and `M` at the cell's position.
    pub(crate) rows: [Vec<u8>; 4],
    /// By group, each as far as the cell asks for it.
    pub(crate) caches: Vec<Vec<u8>>,
}

impl CellBytes {
    pub(crate) fn read(trace: &dyn TraceRows, shape: &Shape<'_>, cell: &Cell) -> Result<Self, ProveError> {
        let position = index(cell.position.get());
        let row = |tree| trace.rows(tree, position..position.saturating_add(1));
        let layer = cell.layer;
        let rows = [row(TreeId::H(layer))?, row(TreeId::A(layer))?, row(TreeId::O(layer))?, row(TreeId::M(layer))?];
        let ranges = shape.cache_ranges(cell).into_iter();
        let caches = ranges.map(|(group, range)| trace.rows(TreeId::Kv(layer, group), range));
        Ok(Self { rows, caches: caches.collect::<Result<_, _>>()? })
    }
}

/// The products of a cell.
pub(crate) struct CellSums {
    pub(crate) inputs: Inputs,
    /// Those that go into the proof.
    pub(crate) supplied: SuppliedProducts,
    /// What each is compared with.
    pub(crate) linears: [Linear; 7],
    /// All of them, exact.
    pub(crate) products: [Vec<i64>; 7],
}

impl CellSums {
    pub(crate) fn new(
        layer: &Layer<'_>,
        polynomial: &LayerPolynomial,
        cell: &Cell,
        rows: &CellRows,
    ) -> Result<Self, ProveError> {
        let out_of_range = |relation| ProveError::Range { layer: cell.layer, position: cell.position, relation };
        let inputs = layer.inputs(rows).map_err(out_of_range)?;
        let Inputs { attention: x1, mlp: x2 } = &inputs;
        let product = |matrix: Matrix, x: &FixedRow| polynomial.product(matrix.index(), &x.integers);
        let queries = product(Matrix::Q, x1);
        let q: Vec<i64> = cell.query_outputs(layer.architecture).map(|output| queries[output]).collect();
        let k = product(Matrix::K, x1);
        let (gate, up) = (product(Matrix::Gate, x2), product(Matrix::Up, x2));
        let mut supplied = SuppliedProducts {
            q: Supplied::compress(&q),
            k: Supplied::compress(&k),
            gate: Supplied::compress(&gate),
            up: Supplied::compress(&up),
            flips: Flips::default(),
        };
        let search = Search { layer, polynomial, rows, position: cell.position };
        supplied.flips = search.flips(x1, x2, &supplied);
        let linears = layer.linears(&inputs, rows, &supplied).map_err(out_of_range)?;
        let [_, _, v, o, _, _, down] = &linears;
        let [v, o, down] = [v, o, down].map(|linear| product(linear.matrix, &linear.input));
        Ok(Self { inputs, supplied, linears, products: [q, k, v, o, gate, up, down] })
    }
}

/// Exact products with lm_head, whose parts are `shards`, over the vocabulary.
pub(crate) fn head_products<'a>(
    shards: impl Iterator<Item = &'a LayerPolynomial>,
    manifest: &Manifest,
    input: &FixedRow,
) -> Vec<i64> {
    let mut logits: Vec<i64> = shards.flat_map(|shard| shard.product(0, &input.integers)).collect();
    logits.truncate(index(manifest.architecture.vocab_size));
    logits
}
