//! What the bytes of a proof are spent on.

use assay_commitments::codec::Writer;
use assay_commitments::manifest::Manifest;
use assay_commitments::structure::Part;
use assay_commitments::trace::TraceCommitment;

use crate::challenge::Nonce;
use crate::num::index;
use crate::parts::{PartDigest, table_bytes};
use crate::proof::{Proof, Shape};
use crate::request::Request;
use crate::session::{Answer, Exchange, Reply, SessionRecord};
use crate::statement::{Statement, challenge_of};

/// Bytes of a proof by part; together they are the whole proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofSizes {
    /// Norm weights and biases of the layers that the cells touch.
    pub small: usize,
    /// Committed rows, but for the prefixes.
    pub rows: usize,
    /// Keys and values that a cell attends to from positions before its own.
    pub prefixes: usize,
    /// Query, key, gate and up products, with the roundings in doubt.
    pub supplied: usize,
    /// Logits.
    pub logits: usize,
    /// Hashes that lead from rows to the trace roots.
    pub paths: usize,
    /// Claims on products.
    pub claims: usize,
    /// Openings of the weights.
    pub openings: usize,
    /// The table of parts.
    pub table: usize,
}

/// The sizes of the proof in a session; `None` where there is no proof or it has not the shape that
/// its challenge calls for.
pub fn proof_sizes(record: &SessionRecord, manifest: &Manifest) -> Option<ProofSizes> {
    let Exchange::Committed { commitment, reply: Reply::Challenged { nonce, answer: Answer::Proof(proof) } } =
        &record.exchange
    else {
        return None;
    };
    let commitment: TraceCommitment = assay_commitments::codec::decode(&commitment.bytes).ok()?;
    let statement = Statement { request: &record.request, commitment: &commitment, nonce: nonce.as_ref() };
    with_shape(&statement, manifest, |shape| {
        let read = Proof::read(&proof.bytes, shape).ok()?;
        Some(sizes(&read, shape, proof.bytes.len()))
    })
}

/// What the bytes of a proof are made of; `None` where it has not the shape that its challenge calls for.
pub fn proof_structure(
    request: &Request,
    commitment: &TraceCommitment,
    nonce: Option<&Nonce>,
    manifest: &Manifest,
    proof: &[u8],
) -> Option<Part> {
    let statement = Statement { request, commitment, nonce };
    with_shape(&statement, manifest, |shape| Proof::structure(proof, shape).ok())
}

fn with_shape<T>(
    statement: &Statement<'_>,
    manifest: &Manifest,
    read: impl FnOnce(&Shape<'_>) -> Option<T>,
) -> Option<T> {
    let Statement { request, commitment, nonce } = *statement;
    let challenge = challenge_of(request, manifest, commitment, nonce)?;
    let positions = commitment.positions()?;
    read(&Shape { manifest, challenge: &challenge, positions, signs: statement.sign_count() })
}

fn sizes(read: &Proof, shape: &Shape<'_>, proof_bytes: usize) -> ProofSizes {
    let length = |parts: &[PartDigest]| sum(parts.iter().map(|part| index(part.length)));
    let mut sizes = ProofSizes {
        claims: length(&read.claims_parts),
        table: table_bytes(shape.places().total()),
        ..ProofSizes::default()
    };
    let witness = &read.witness;
    let norms = shape.places().final_norm().saturating_add(1);
    sizes.small = length(read.witness_parts.get(..norms).unwrap_or_default());
    let cells = || witness.cells.iter();
    let decodes = || witness.decodes.iter();
    let cell_rows = cells().flat_map(|cell| [&cell.h, &cell.a, &cell.o, &cell.m].into_iter().chain(&cell.caches));
    let rows = sum(cell_rows.chain(decodes().map(|decode| &decode.h)).map(Vec::len));
    sizes.prefixes = sum(shape.challenge.cells.iter().map(|cell| shape.prefix_bytes(cell)));
    sizes.rows = rows.saturating_sub(sizes.prefixes);
    let supplied = |cell: &crate::proof::CellWitness| {
        let mut out = Writer::new();
        cell.supplied.write(&mut out);
        out.finish().len()
    };
    sizes.supplied = sum(cells().map(supplied));
    sizes.logits = sum(decodes().map(|decode| {
        let mut out = Writer::new();
        decode.logits.write(&mut out);
        out.finish().len()
    }));
    let hashes = cells().map(|cell| &cell.hashes).chain(decodes().map(|decode| &decode.hashes));
    sizes.paths = sum(hashes.map(|hashes| hashes.len().saturating_mul(32)));
    let rest = sum([length(&read.witness_parts), sizes.claims, sizes.table].into_iter());
    sizes.openings = proof_bytes.saturating_sub(rest);
    sizes
}

fn sum(sizes: impl Iterator<Item = usize>) -> usize {
    sizes.fold(0, usize::saturating_add)
}
