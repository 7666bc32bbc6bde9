//! What the bytes of a proof are spent on.

use assay_commitments::codec::Writer;
use assay_commitments::manifest::Manifest;
use assay_commitments::structure::Part;
use assay_commitments::trace::TraceCommitment;

use crate::proof::{Proof, Shape};
use crate::session::{Answer, Exchange, Reply, SessionRecord};
use crate::statement::{Statement, challenge_of};

/// Bytes of a proof by part; together they are the whole proof.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProofSizes {
    /// Norm weights and biases of the layers that the cells touch.
    pub small: usize,
    /// Committed rows, prefixes of the cache included.
    pub rows: usize,
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
}

/// The sizes of the proof in a session; `None` where there is no proof or it has not the shape that
/// its challenge calls for.
pub fn proof_sizes(record: &SessionRecord, manifest: &Manifest) -> Option<ProofSizes> {
    with_proof(record, manifest, |bytes, shape| {
        let read = Proof::read(bytes, shape).ok()?;
        Some(sizes(&read, bytes.len()))
    })
}

/// What the bytes of the proof in a session are made of; `None` as for [`proof_sizes`].
pub fn proof_structure(record: &SessionRecord, manifest: &Manifest) -> Option<Part> {
    with_proof(record, manifest, |bytes, shape| Proof::structure(bytes, shape).ok())
}

/// What `read` makes of the bytes of a session's proof and the shape that they must have.
fn with_proof<T>(
    record: &SessionRecord,
    manifest: &Manifest,
    read: impl FnOnce(&[u8], &Shape<'_>) -> Option<T>,
) -> Option<T> {
    let Exchange::Committed { commitment, reply: Reply::Challenged { nonce, answer: Answer::Proof(proof) } } =
        &record.exchange
    else {
        return None;
    };
    let commitment: TraceCommitment = assay_commitments::codec::decode(&commitment.bytes).ok()?;
    let nonce = nonce.as_ref();
    let statement = Statement { request: &record.request, commitment: &commitment, nonce };
    let challenge = challenge_of(&record.request, manifest, &commitment, nonce)?;
    let positions = commitment.positions()?;
    let shape = Shape { manifest, challenge: &challenge, positions, signs: statement.sign_count() };
    read(&proof.bytes, &shape)
}

fn sizes(read: &Proof<'_>, length: usize) -> ProofSizes {
    let mut sizes = ProofSizes { claims: read.claims_bytes.len(), ..ProofSizes::default() };
    let witness = &read.witness;
    let small = witness.small.iter().flat_map(|small| &small.0).chain([&witness.final_norm]);
    sizes.small = sum(small.map(|tensor| tensor.len().saturating_mul(4)));
    let cells = || witness.cells.iter();
    let decodes = || witness.decodes.iter();
    let cell_rows = cells().flat_map(|cell| [&cell.h, &cell.a, &cell.o, &cell.m].into_iter().chain(&cell.caches));
    sizes.rows = sum(cell_rows.chain(decodes().map(|decode| &decode.h)).map(Vec::len));
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
    let rest = read.witness_bytes.len().saturating_add(read.claims_bytes.len());
    sizes.openings = length.saturating_sub(rest);
    sizes
}

fn sum(sizes: impl Iterator<Item = usize>) -> usize {
    sizes.fold(0, usize::saturating_add)
}
