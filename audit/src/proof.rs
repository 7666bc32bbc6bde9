//! Proofs as bytes. Every length follows from the manifest and the challenge before a byte is read.

use assay_commitments::KvGroup;
use assay_commitments::LayerIndex;
use assay_commitments::codec::{self, Malformed, Reader, Writer};
use assay_commitments::manifest::{Architecture, Manifest, Matrix, Small, SmallTensors};
use assay_commitments::merkle::range_hash_count;
use assay_commitments::structure::Part;
use assay_commitments::trace::{TraceShape, TreeId};
use assay_commitments::weights::Opening;
use assay_sumcheck::F;
use assay_sumcheck::field::{f_from_bytes, f_to_bytes};

use crate::challenge::{Cell, Challenge};
use crate::decode::MAX_CANDIDATES;
use crate::fixed::Supplied;
use crate::num::index;
use crate::relations::SuppliedProducts;
use crate::rounding::Flips;
use crate::sketch::{ClaimValues, SIGNS_COMPLETE};
use crate::tolerance::MAX_OUTLIERS;

/// The sizes that a proof's reader works with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) challenge: &'a Challenge,
    pub(crate) positions: usize,
    pub(crate) signs: usize,
}

/// The rows of a cell as committed, with what leads to the trace roots.
#[derive(Clone, Debug)]
pub(crate) struct CellWitness {
    pub(crate) h: Vec<u8>,
    pub(crate) a: Vec<u8>,
    pub(crate) o: Vec<u8>,
    pub(crate) m: Vec<u8>,
    /// Every group at the cell's position: its key and value, and before them, for a drawn group, those
    /// of all positions before.
    pub(crate) caches: Vec<Vec<u8>>,
    pub(crate) supplied: SuppliedProducts,
    pub(crate) hashes: Vec<[u8; 32]>,
}

/// The last residual row of a decode and its logits.
#[derive(Clone, Debug)]
pub(crate) struct DecodeWitness {
    pub(crate) h: Vec<u8>,
    pub(crate) logits: Supplied,
    pub(crate) hashes: Vec<[u8; 32]>,
}

/// Everything that is on the table before signs are drawn.
#[derive(Clone, Debug)]
pub(crate) struct Witness {
    /// The small tensors of every layer that the cells touch, ascending.
    pub(crate) small: Vec<SmallTensors>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) cells: Vec<CellWitness>,
    pub(crate) decodes: Vec<DecodeWitness>,
}

/// The claims on every product.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) cells: Vec<[ClaimValues; 7]>,
    pub(crate) decodes: Vec<ClaimValues>,
}

/// The openings of the weights.
#[derive(Clone, Debug)]
pub(crate) struct Openings {
    /// Of the challenge's layers; none where it has no cells.
    pub(crate) layers: Option<Opening>,
    /// Of all shards of lm_head; none where it has no decodes.
    pub(crate) head: Option<Opening>,
}

/// A proof, its parts still with the bytes that enter the transcript.
#[derive(Clone, Debug)]
pub(crate) struct Proof<'a> {
    pub(crate) witness: Witness,
    pub(crate) witness_bytes: &'a [u8],
    pub(crate) claims: Claims,
    pub(crate) claims_bytes: &'a [u8],
    pub(crate) openings: Openings,
}

impl<'a> Proof<'a> {
    /// Reads a proof for a challenge.
    pub(crate) fn read(bytes: &'a [u8], shape: &Shape<'_>) -> Result<Self, Malformed> {
        let mut from = Reader::new(bytes);
        let proof = Self::take(bytes, &mut from, shape)?;
        from.finish()?;
        Ok(proof)
    }

    /// What the bytes of a proof for a challenge are made of.
    pub(crate) fn structure(bytes: &[u8], shape: &Shape<'_>) -> Result<Part, Malformed> {
        codec::structure(bytes, |from| Proof::take(bytes, from, shape).map(|_| ()))
    }

    fn take(bytes: &'a [u8], from: &mut Reader<'a>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        let (witness, witness_bytes) = with_bytes(bytes, from, |from| Witness::read(from, shape))?;
        let (claims, claims_bytes) = with_bytes(bytes, from, |from| Claims::read(from, shape))?;
        let openings = from.nested(|from| Openings::read(from, shape))?;
        Ok(Self { witness, witness_bytes, claims, claims_bytes, openings })
    }
}

/// Reads a value and tells which bytes it took.
fn with_bytes<'a, T>(
    all: &'a [u8],
    from: &mut Reader<'a>,
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<(T, &'a [u8]), Malformed> {
    let start = all.len().saturating_sub(from.remaining());
    let value = from.nested(read)?;
    let end = all.len().saturating_sub(from.remaining());
    let bytes = all.get(start..end).ok_or(Malformed::Truncated)?;
    Ok((value, bytes))
}

/// The most bytes that a proof for `challenge` can have.
pub fn max_proof_bytes(manifest: &Manifest, challenge: &Challenge, positions: usize) -> usize {
    let shape = Shape { manifest, challenge, positions, signs: SIGNS_COMPLETE };
    let architecture = &manifest.architecture;
    let lengths = Small::ALL.into_iter().map(|small| index(architecture.length(small)));
    let small = lengths.fold(0, usize::saturating_add);
    let claim = |singles: usize| shape.signs.saturating_add(singles).saturating_mul(8).saturating_add(4);
    let layers = challenge.layers().len();
    let cells = challenge.cells.iter().map(|cell| {
        let supplied = [Matrix::Q, Matrix::K, Matrix::Gate, Matrix::Up]
            .map(|matrix| Supplied::max_bytes(index(architecture.shape(matrix).outputs)));
        let sums = [
            shape.trace().row_bytes(TreeId::H(cell.layer)).saturating_mul(3),
            shape.trace().row_bytes(TreeId::A(cell.layer)),
            shape.cache_bytes(cell).into_iter().sum(),
            supplied.into_iter().sum(),
            Flips::max_bytes(),
            shape.cell_hashes(cell).saturating_mul(32),
            claim(MAX_OUTLIERS).saturating_mul(7),
        ];
        sums.into_iter().fold(0, usize::saturating_add)
    });
    let shards = if challenge.decodes.is_empty() { 0 } else { manifest.head.shards.len() };
    let decode = [
        shape.trace().row_bytes(TreeId::H(shape.end())),
        Supplied::max_bytes(index(architecture.vocab_size)),
        shape.decode_hashes(0).saturating_mul(32),
        claim(MAX_CANDIDATES),
    ];
    [
        layers.saturating_mul(small).saturating_add(index(architecture.hidden)).saturating_mul(4),
        cells.fold(0, usize::saturating_add),
        decode.into_iter().sum::<usize>().saturating_mul(challenge.decodes.len()),
        manifest.layer_code.max_opening_bytes(layers),
        manifest.head_code.max_opening_bytes(shards),
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

impl Shape<'_> {
    const fn architecture(&self) -> &Architecture {
        &self.manifest.architecture
    }

    pub(crate) fn trace(&self) -> TraceShape {
        TraceShape::new(self.architecture(), self.manifest.profile)
    }

    /// The index of the residual stream that leaves the last layer.
    pub(crate) const fn end(&self) -> LayerIndex {
        LayerIndex::new(self.architecture().layers)
    }

    /// The positions of each group's cache that a cell opens, by group.
    pub(crate) fn cache_ranges(&self, cell: &Cell) -> Vec<(KvGroup, std::ops::Range<usize>)> {
        let position = index(cell.position.get());
        let first = index(self.architecture().first_attended(cell.position.get()));
        (0..self.architecture().kv_heads)
            .map(KvGroup::new)
            .map(|group| {
                let start = if cell.groups.contains(&group) { first } else { position };
                (group, start..position.saturating_add(1))
            })
            .collect()
    }

    /// The ranges of trees that a cell opens, in the order in which a proof carries their hashes.
    pub(crate) fn cell_ranges(&self, cell: &Cell) -> Vec<(TreeId, std::ops::Range<usize>)> {
        let position = index(cell.position.get());
        let next = LayerIndex::new(cell.layer.get().saturating_add(1));
        let single = position..position.saturating_add(1);
        let rows = [
            TreeId::H(cell.layer),
            TreeId::H(next),
            TreeId::A(cell.layer),
            TreeId::O(cell.layer),
            TreeId::M(cell.layer),
        ];
        let caches = self.cache_ranges(cell).into_iter().map(|(group, range)| (TreeId::Kv(cell.layer, group), range));
        rows.into_iter().map(|tree| (tree, single.clone())).chain(caches).collect()
    }

    fn cache_bytes(&self, cell: &Cell) -> Vec<usize> {
        let row = self.trace().row_bytes(TreeId::Kv(cell.layer, KvGroup::new(0)));
        self.cache_ranges(cell).into_iter().map(|(_, range)| range.len().saturating_mul(row)).collect()
    }

    fn cell_hashes(&self, cell: &Cell) -> usize {
        let ranges = self.cell_ranges(cell).into_iter();
        ranges.map(|(_, range)| range_hash_count(self.positions, range.start, range.end)).fold(0, usize::saturating_add)
    }

    fn decode_hashes(&self, position: usize) -> usize {
        range_hash_count(self.positions, position, position.saturating_add(1))
    }
}

impl Witness {
    pub(crate) fn write(&self, out: &mut Writer) {
        self.small.iter().flat_map(|small| &small.0).chain([&self.final_norm]).for_each(|tensor| {
            tensor.iter().for_each(|value| out.u32(value.to_bits()));
        });
        for cell in &self.cells {
            [&cell.h, &cell.a, &cell.o, &cell.m].into_iter().chain(&cell.caches).for_each(|row| out.raw(row));
            cell.supplied.write(out);
            cell.hashes.iter().for_each(|hash| out.raw(hash));
        }
        for decode in &self.decodes {
            out.raw(&decode.h);
            decode.logits.write(out);
            decode.hashes.iter().for_each(|hash| out.raw(hash));
        }
    }

    fn read(from: &mut Reader<'_>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        let small = from.each(shape.challenge.layers(), |from, _| read_small(from, shape.architecture()))?;
        let final_norm = read_vector(from, index(shape.architecture().hidden))?;
        let cells = from.each(&shape.challenge.cells, |from, cell| CellWitness::read(from, shape, cell))?;
        let decodes = from.each(&shape.challenge.decodes, |from, position| {
            Ok(DecodeWitness {
                h: read_rows(from, shape, shape.trace().row_bytes(TreeId::H(shape.end())))?,
                logits: from.nested(|from| Supplied::read(from, index(shape.architecture().vocab_size)))?,
                hashes: read_hashes(from, shape.decode_hashes(index(position.get())))?,
            })
        })?;
        Ok(Self { small, final_norm, cells, decodes })
    }
}

impl CellWitness {
    fn read(from: &mut Reader<'_>, shape: &Shape<'_>, cell: &Cell) -> Result<Self, Malformed> {
        let trace = shape.trace();
        let mut row = |tree| read_rows(from, shape, trace.row_bytes(tree));
        let (h, a) = (row(TreeId::H(cell.layer))?, row(TreeId::A(cell.layer))?);
        let (o, m) = (row(TreeId::O(cell.layer))?, row(TreeId::M(cell.layer))?);
        let caches = from.each(shape.cache_bytes(cell), |from, bytes| read_rows(from, shape, bytes))?;
        let supplied = from.nested(|from| SuppliedProducts::read(from, shape.architecture()))?;
        let hashes = read_hashes(from, shape.cell_hashes(cell))?;
        Ok(Self { h, a, o, m, caches, supplied, hashes })
    }
}

impl SuppliedProducts {
    pub(crate) fn write(&self, out: &mut Writer) {
        let Self { q, k, gate, up, flips } = self;
        [q, k, gate, up].into_iter().for_each(|products| products.write(out));
        flips.write(out);
    }

    fn read(from: &mut Reader<'_>, architecture: &Architecture) -> Result<Self, Malformed> {
        let mut products = |matrix| from.nested(|from| Supplied::read(from, index(architecture.shape(matrix).outputs)));
        let (q, k) = (products(Matrix::Q)?, products(Matrix::K)?);
        let (gate, up) = (products(Matrix::Gate)?, products(Matrix::Up)?);
        Ok(Self { q, k, gate, up, flips: from.nested(Flips::read)? })
    }
}

/// Committed rows of so many bytes.
fn read_rows(from: &mut Reader<'_>, shape: &Shape<'_>, bytes: usize) -> Result<Vec<u8>, Malformed> {
    let size = shape.manifest.profile.element_bytes();
    from.elements(bytes.checked_div(size).unwrap_or(0), size).map(<[u8]>::to_vec)
}

fn read_small(from: &mut Reader<'_>, architecture: &Architecture) -> Result<SmallTensors, Malformed> {
    let [a, b, c, d, e, f, g, h] = Small::ALL.map(|small| read_vector(from, index(architecture.length(small))));
    Ok(SmallTensors([a?, b?, c?, d?, e?, f?, g?, h?]))
}

fn read_vector(from: &mut Reader<'_>, length: usize) -> Result<Vec<f32>, Malformed> {
    let (values, _) = from.elements(length, 4)?.as_chunks::<4>();
    Ok(values.iter().map(|value| f32::from_le_bytes(*value)).collect())
}

fn read_hashes(from: &mut Reader<'_>, count: usize) -> Result<Vec<[u8; 32]>, Malformed> {
    let (hashes, _) = from.elements(count, 32)?.as_chunks::<32>();
    Ok(hashes.to_vec())
}

impl ClaimValues {
    fn write(&self, out: &mut Writer) {
        out.length(self.singles.len());
        self.sketch.iter().chain(&self.singles).for_each(|value| out.raw(&f_to_bytes(*value)));
    }

    fn read(from: &mut Reader<'_>, signs: usize, most_singles: usize) -> Result<Self, Malformed> {
        let singles = from.length(most_singles)?;
        let mut values = |count: usize| -> Result<Vec<F>, Malformed> {
            let (values, _) = from.elements(count, 8)?.as_chunks::<8>();
            values.iter().map(|value| f_from_bytes(*value).ok_or(Malformed::NotCanonical)).collect()
        };
        Ok(Self { sketch: values(signs)?, singles: values(singles)? })
    }
}

impl Claims {
    pub(crate) fn write(&self, out: &mut Writer) {
        self.cells.iter().flatten().chain(&self.decodes).for_each(|claim| claim.write(out));
    }

    fn read(from: &mut Reader<'_>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        // Outliers are those of committed rows: of v, o and down.
        let singles = [0, 0, MAX_OUTLIERS, MAX_OUTLIERS, 0, 0, MAX_OUTLIERS];
        let claim = |from: &mut Reader<'_>, most| ClaimValues::read(from, shape.signs, most);
        let cells = from.each(&shape.challenge.cells, |from, _| {
            let claims: Vec<ClaimValues> = from.each(singles, claim)?;
            claims.try_into().map_err(|_| Malformed::Truncated)
        })?;
        let decodes = from.each(&shape.challenge.decodes, |from, _| claim(from, MAX_CANDIDATES))?;
        Ok(Self { cells, decodes })
    }
}

impl Openings {
    pub(crate) fn write(&self, out: &mut Writer) {
        self.layers.iter().chain(&self.head).for_each(|opening| opening.write(out));
    }

    fn read(from: &mut Reader<'_>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        let Shape { manifest, challenge, .. } = shape;
        let mut opening = |code, polynomials, asked: bool| {
            asked.then(|| from.nested(|from| Opening::read(from, code, polynomials))).transpose()
        };
        Ok(Self {
            layers: opening(&manifest.layer_code, challenge.layers().len(), !challenge.cells.is_empty())?,
            head: opening(&manifest.head_code, manifest.head.shards.len(), !challenge.decodes.is_empty())?,
        })
    }
}
