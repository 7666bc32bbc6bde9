//! Where the parts of a proof lie in its bytes, for those who change one.

use std::ops::Range;

use assay_audit::challenge::Challenge;
use assay_commitments::codec::Reader;
use assay_commitments::manifest::{Manifest, Matrix, Small};
use assay_commitments::merkle::range_hash_count;
use assay_commitments::params::CodeParams;
use assay_commitments::trace::{TraceShape, TreeId};
use assay_commitments::weights::Opening;
use assay_commitments::{KvGroup, LayerIndex};

/// A part of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Norm weights and biases of the layers touched, and the last norm.
    Small,
    /// The rows of a cell: `H`, `A`, `O`, `M`, caches.
    Rows,
    /// A supplied product of a cell: a shift, a width, values.
    Supplied(Matrix),
    /// Roundings in doubt.
    Flips,
    /// Hashes from rows to roots.
    Paths,
    /// The last row of a decode.
    DecodeRow,
    /// The logits of a decode.
    Logits,
    /// Claims on a product of a cell.
    Claims(Matrix),
    /// Claims on logits.
    HeadClaims,
    /// Rounds of the sumcheck of an opening.
    Rounds,
    /// Commitments to folded vectors, each with its answer out of the domain.
    Folds,
    /// The vector that the last fold leaves.
    Last,
    /// Columns of the committed codewords: a count, then elements.
    Columns,
    /// Hashes from those columns to the committed roots: a count, then hashes.
    ColumnPaths,
    /// The levels below, and whatever follows.
    Rest,
}

/// Bytes of a field element and of one of the extension.
const BASE_BYTES: usize = 8;
const EXTENSION_BYTES: usize = 24;

/// The parts of a proof, in order.
#[derive(Clone, Debug)]
pub struct Anatomy(Vec<(Part, Range<usize>)>);

/// Walks over a proof and notes what it passes.
struct Walk<'a> {
    proof: &'a [u8],
    at: usize,
    parts: Vec<(Part, Range<usize>)>,
}

impl Walk<'_> {
    fn pass(&mut self, part: Part, bytes: usize) {
        self.parts.push((part, self.at..self.at + bytes));
        self.at += bytes;
    }

    /// The length that stands `ahead` bytes from here.
    fn length(&self, ahead: usize) -> usize {
        let at = self.at + ahead;
        let bytes = self.proof[at..at + 4].try_into().expect("four bytes");
        usize::try_from(u32::from_le_bytes(bytes)).expect("lengths fit")
    }

    fn supplied(&mut self, part: Part, outputs: usize) {
        let width = usize::from(self.proof[self.at + 1]);
        self.pass(part, 2 + outputs * width);
    }

    fn claims(&mut self, part: Part, signs: usize) {
        let singles = self.length(0);
        self.pass(part, 4 + (signs + singles) * BASE_BYTES);
    }

    fn opening(&mut self, code: &CodeParams, polynomials: usize) {
        let opening = Opening::read(&mut Reader::new(&self.proof[self.at..]), code, polynomials).expect("it opens");
        self.pass(Part::Rounds, opening.sizes().rounds);
        self.pass(Part::Folds, (code.levels.len() - 1) * (32 + EXTENSION_BYTES));
        self.pass(Part::Last, EXTENSION_BYTES << code.final_log());
        let base = code.base();
        let nonce = if base.grinding > 0 { 8 } else { 0 };
        let count = self.length(nonce);
        self.at += nonce;
        self.pass(Part::Columns, 4 + polynomials * count * base.rows() * BASE_BYTES);
        for _ in 0..polynomials {
            let hashes = self.length(0);
            self.pass(Part::ColumnPaths, 4 + hashes * 32);
        }
    }
}

impl Anatomy {
    /// The parts of `proof`, which an honest prover made for `challenge`.
    pub fn new(proof: &[u8], manifest: &Manifest, challenge: &Challenge, positions: usize, complete: bool) -> Self {
        let architecture = &manifest.architecture;
        let trace = TraceShape::new(architecture, manifest.profile);
        let signs = if complete { 256 } else { 128 };
        let size = |count: u32| usize::try_from(count).expect("counts fit");
        let outputs = |matrix| size(architecture.shape(matrix).outputs);
        let mut walk = Walk { proof, at: 0, parts: vec![] };

        let small: usize = Small::ALL.into_iter().map(|small| size(architecture.length(small))).sum();
        walk.pass(Part::Small, 4 * (challenge.layers().len() * small + size(architecture.hidden)));
        for cell in &challenge.cells {
            let position = size(cell.position.get());
            let first = size(architecture.first_attended(cell.position.get()));
            let start = |group| if cell.groups.contains(&group) { first } else { position };
            let caches = (0..architecture.kv_heads).map(KvGroup::new).map(start);
            let rows = [TreeId::H(cell.layer), TreeId::A(cell.layer), TreeId::O(cell.layer), TreeId::M(cell.layer)];
            rows.into_iter().for_each(|tree| walk.pass(Part::Rows, trace.row_bytes(tree)));
            let cache_bytes = trace.row_bytes(TreeId::Kv(cell.layer, KvGroup::new(0)));
            caches.clone().for_each(|start| walk.pass(Part::Rows, (position + 1 - start) * cache_bytes));
            for matrix in [Matrix::Q, Matrix::K, Matrix::Gate, Matrix::Up] {
                walk.supplied(Part::Supplied(matrix), outputs(matrix));
            }
            for _ in 0..5 {
                let flips = walk.length(0);
                walk.pass(Part::Flips, 4 + 4 * flips);
            }
            let single = 5 * range_hash_count(positions, position, position + 1);
            let prefixes = caches.map(|start| range_hash_count(positions, start, position + 1)).sum::<usize>();
            walk.pass(Part::Paths, 32 * (single + prefixes));
        }
        for decode in &challenge.decodes {
            let position = size(decode.get());
            walk.pass(Part::DecodeRow, trace.row_bytes(TreeId::H(LayerIndex::new(architecture.layers))));
            walk.supplied(Part::Logits, size(architecture.vocab_size));
            walk.pass(Part::Paths, 32 * range_hash_count(positions, position, position + 1));
        }
        for _ in &challenge.cells {
            Matrix::ALL.into_iter().for_each(|matrix| walk.claims(Part::Claims(matrix), signs));
        }
        challenge.decodes.iter().for_each(|_| walk.claims(Part::HeadClaims, signs));
        walk.opening(&manifest.layer_code, challenge.layers().len());
        let rest = proof.len() - walk.at;
        walk.pass(Part::Rest, rest);
        Self(walk.parts)
    }

    /// The bytes of the first such part.
    pub fn of(&self, part: Part) -> Range<usize> {
        self.0.iter().find(|(found, _)| *found == part).expect("proofs have this part").1.clone()
    }

    /// The bytes of every such part.
    pub fn all(&self, part: Part) -> impl Iterator<Item = Range<usize>> + '_ {
        self.0.iter().filter(move |(found, _)| *found == part).map(|(_, range)| range.clone())
    }
}
