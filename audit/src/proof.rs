//! Proofs as bytes. Every length follows from the manifest and the challenge before a byte is read.

use assay_commitments::codec::{self, Malformed, Reader, Writer};
use assay_commitments::manifest::{Architecture, Manifest, Matrix, Small, SmallTensors};
use assay_commitments::merkle::range_hash_count;
use assay_commitments::structure::Part;
use assay_commitments::trace::{TraceShape, TreeId};
use assay_commitments::weights::Opening;
use assay_commitments::{KvGroup, LayerIndex, Position};
use assay_sumcheck::F;
use assay_sumcheck::field::{f_from_bytes, f_to_bytes};

use crate::challenge::{Cell, Challenge, Lengths};
use crate::decode::MAX_CANDIDATES;
use crate::fixed::Supplied;
use crate::num::index;
use crate::parts::{PartDigest, Parts, Places, read_parts, table_bytes};
use crate::policy::Policy;
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

/// A proof that has the shape its challenge calls for, and the digests of its parts.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    pub(crate) witness: Witness,
    pub(crate) claims: Claims,
    pub(crate) openings: Openings,
    /// Of the parts that are absorbed before signs are drawn.
    pub(crate) witness_parts: Vec<PartDigest>,
    /// Of the parts that hold claims.
    pub(crate) claims_parts: Vec<PartDigest>,
}

impl Proof {
    /// Reads a proof for a challenge.
    pub(crate) fn read(bytes: &[u8], shape: &Shape<'_>) -> Result<Self, Malformed> {
        read_whole(bytes, |from| Self::take(from, shape))
    }

    /// What the bytes of a proof for a challenge are made of.
    pub(crate) fn structure(bytes: &[u8], shape: &Shape<'_>) -> Result<Part, Malformed> {
        codec::structure(bytes, |from| Self::take(from, shape))
    }

    fn take(from: &mut Reader<'_>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        let ((witness, claims, openings), parts) = read_parts(from, |parts| {
            let witness = Witness::read(parts, shape)?;
            let claims = Claims::read(parts, shape)?;
            Ok((witness, claims, parts.next(|from| Openings::read(from, shape))?))
        })?;
        let places = shape.places();
        let digests = |parts: std::ops::Range<usize>, of: &[&[u8]]| {
            of.get(parts).unwrap_or_default().iter().map(|part| PartDigest::of(part)).collect()
        };
        Ok(Self {
            witness,
            claims,
            openings,
            witness_parts: digests(0..places.witness(), &parts),
            claims_parts: digests(places.witness()..places.openings(), &parts),
        })
    }
}

/// Reads a value to the last byte.
pub(crate) fn read_whole<'a, T>(
    bytes: &'a [u8],
    read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut from = Reader::new(bytes);
    let value = read(&mut from)?;
    from.finish()?;
    Ok(value)
}

/// The bytes of a part.
fn part(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut out = Writer::new();
    write(&mut out);
    out.finish()
}

/// Most bytes of a proof: what a transcript file has room for.
pub(crate) const MAX_PROOF_BYTES: usize = 1 << 31;

/// The most bytes that a proof for `challenge` can have.
pub fn max_proof_bytes(manifest: &Manifest, challenge: &Challenge, positions: usize) -> usize {
    let shape = Shape { manifest, challenge, positions, signs: SIGNS_COMPLETE };
    let caches = challenge.cells.iter().flat_map(|cell| shape.cache_bytes(cell)).fold(0, usize::saturating_add);
    let cells = challenge
        .cells
        .iter()
        .map(|cell| shape.cell_bytes(cell.groups.len()).saturating_add(shape.cell_hashes(cell).saturating_mul(32)));
    let cells = cells.fold(caches, usize::saturating_add);
    let decode = shape.decode_bytes().saturating_add(shape.decode_hashes(0).saturating_mul(32));
    let decodes = decode.saturating_mul(challenge.decodes.len());
    let shared = shape.shared_bytes(challenge.layers().len(), challenge.decodes.len(), shape.places().total());
    cells.saturating_add(decodes).saturating_add(shared)
}

/// The most bytes that a proof can have under a policy for a session of these lengths, whatever is drawn. Arithmetic
/// alone for what is drawn; where every cell is asked for, a sum over positions.
pub(crate) fn most_proof_bytes(policy: &Policy, manifest: &Manifest, lengths: Lengths) -> usize {
    let architecture = &manifest.architecture;
    let (positions, layers, groups) =
        (index(lengths.positions()), index(architecture.layers), index(architecture.kv_heads));
    let attended = Challenge::attended_bound(policy, architecture, lengths);
    let attended = usize::try_from(attended).unwrap_or(usize::MAX);
    // Keys and values: of drawn groups all that are attended to, of the others one.
    let (cells, decodes, drawn, rows) = match *policy {
        Policy::Sampled { decodes, .. } => {
            let cells = policy.drawn_cells(architecture.layers).and_then(|cells| usize::try_from(cells).ok());
            let cells = cells.unwrap_or(usize::MAX);
            (cells, index(decodes), 1, attended.saturating_add(groups.saturating_mul(cells)))
        }
        Policy::Everything => {
            let decodes = positions.saturating_sub(index(lengths.first_decode()));
            (layers.saturating_mul(positions), decodes, groups, attended)
        }
    };
    let challenge = &Challenge { cells: vec![], decodes: vec![] };
    let shape = Shape { manifest, challenge, positions, signs: SIGNS_COMPLETE };
    let row = shape.trace().row_bytes(TreeId::Kv(LayerIndex::new(0), KvGroup::new(0)));
    // A range of a tree has at most two hashes a level, and a cell one of every group and five others.
    let levels = index(usize::BITS.saturating_sub(positions.leading_zeros())).saturating_add(1);
    let range = levels.saturating_mul(2 * 32);
    let cell = shape.cell_bytes(drawn).saturating_add(range.saturating_mul(groups.saturating_add(5)));
    let decode = shape.decode_bytes().saturating_add(range);
    let layers = layers.min(cells);
    let parts = cells.saturating_add(decodes).saturating_mul(2).saturating_add(layers).saturating_add(2);
    [
        rows.saturating_mul(row),
        cell.saturating_mul(cells),
        decode.saturating_mul(decodes),
        shape.shared_bytes(layers, decodes, parts),
    ]
    .into_iter()
    .fold(0, usize::saturating_add)
}

impl Shape<'_> {
    const fn architecture(&self) -> &Architecture {
        &self.manifest.architecture
    }

    /// The most bytes of a claim with so many outputs proven singly.
    const fn claim_bytes(&self, singles: usize) -> usize {
        self.signs.saturating_add(singles).saturating_mul(8).saturating_add(4)
    }

    /// The most bytes of a cell with so many groups, its caches and hashes aside.
    fn cell_bytes(&self, groups: usize) -> usize {
        let layer = LayerIndex::new(0);
        let supplied = supplied_outputs(self.architecture(), groups).map(Supplied::max_bytes);
        let sums = [
            self.trace().row_bytes(TreeId::H(layer)).saturating_mul(3),
            self.trace().row_bytes(TreeId::A(layer)),
            supplied.into_iter().sum(),
            Flips::max_bytes(),
            self.claim_bytes(MAX_OUTLIERS).saturating_mul(7),
        ];
        sums.into_iter().fold(0, usize::saturating_add)
    }

    /// The most bytes of a decode, its hashes aside.
    fn decode_bytes(&self) -> usize {
        let sums = [
            self.trace().row_bytes(TreeId::H(self.end())),
            Supplied::max_bytes(index(self.architecture().vocab_size)),
            self.claim_bytes(MAX_CANDIDATES),
        ];
        sums.into_iter().fold(0, usize::saturating_add)
    }

    /// The most bytes of what cells and decodes have in common: norms and biases of so many layers, openings, and the
    /// table of so many parts.
    fn shared_bytes(&self, layers: usize, decodes: usize, parts: usize) -> usize {
        let Self { manifest, .. } = self;
        let lengths = Small::ALL.into_iter().map(|small| index(self.architecture().length(small)));
        let small = lengths.map(max_vector_bytes).fold(0, usize::saturating_add);
        let shards = if decodes == 0 { 0 } else { manifest.head.shards.len() };
        let sums = [
            layers.saturating_mul(small).saturating_add(max_vector_bytes(index(self.architecture().hidden))),
            manifest.layer_code.max_opening_bytes(layers),
            manifest.head_code.max_opening_bytes(shards),
            table_bytes(parts),
        ];
        sums.into_iter().fold(0, usize::saturating_add)
    }

    /// Where the parts of the proof lie.
    pub(crate) const fn places(&self) -> Places<'_> {
        Places { challenge: self.challenge }
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

    /// Bytes of the caches of a cell that belong to positions before its own.
    pub(crate) fn prefix_bytes(&self, cell: &Cell) -> usize {
        let row = self.trace().row_bytes(TreeId::Kv(cell.layer, KvGroup::new(0)));
        let before = self.cache_ranges(cell).into_iter().map(|(_, range)| range.len().saturating_sub(1));
        before.fold(0, usize::saturating_add).saturating_mul(row)
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
    pub(crate) fn parts(&self) -> Vec<Vec<u8>> {
        let small = |small: &SmallTensors| part(|out| small.0.iter().for_each(|tensor| write_vector(out, tensor)));
        let small = self.small.iter().map(small);
        let norm = std::iter::once(part(|out| write_vector(out, &self.final_norm)));
        let cells = self.cells.iter().map(|cell| part(|out| cell.write(out)));
        let decodes = self.decodes.iter().map(|decode| part(|out| decode.write(out)));
        small.chain(norm).chain(cells).chain(decodes).collect()
    }

    fn read(parts: &mut Parts<'_, '_>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        let Shape { challenge, manifest, .. } = shape;
        let layers = challenge.layers();
        let small = layers.iter().map(|_| parts.next(|from| read_small(from, &manifest.architecture)));
        let small = small.collect::<Result<_, _>>()?;
        let final_norm = parts.next(|from| read_norm(from, &manifest.architecture))?;
        let cells = challenge.cells.iter().map(|cell| parts.next(|from| CellWitness::read(from, shape, cell)));
        let cells = cells.collect::<Result<_, _>>()?;
        let decodes = challenge.decodes.iter();
        let decodes = decodes.map(|position| parts.next(|from| DecodeWitness::read(from, shape, *position)));
        Ok(Self { small, final_norm, cells, decodes: decodes.collect::<Result<_, _>>()? })
    }
}

impl DecodeWitness {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.h);
        self.logits.write(out);
        self.hashes.iter().for_each(|hash| out.raw(hash));
    }

    pub(crate) fn read(from: &mut Reader<'_>, shape: &Shape<'_>, position: Position) -> Result<Self, Malformed> {
        Ok(Self {
            h: read_rows(from, shape, shape.trace().row_bytes(TreeId::H(shape.end())))?,
            logits: from.nested(|from| Supplied::read(from, index(shape.architecture().vocab_size)))?,
            hashes: read_hashes(from, shape.decode_hashes(index(position.get())))?,
        })
    }
}

impl CellWitness {
    fn write(&self, out: &mut Writer) {
        [&self.h, &self.a, &self.o, &self.m].into_iter().chain(&self.caches).for_each(|row| out.raw(row));
        self.supplied.write(out);
        self.hashes.iter().for_each(|hash| out.raw(hash));
    }

    pub(crate) fn read(from: &mut Reader<'_>, shape: &Shape<'_>, cell: &Cell) -> Result<Self, Malformed> {
        let trace = shape.trace();
        let mut row = |tree| read_rows(from, shape, trace.row_bytes(tree));
        let (h, a) = (row(TreeId::H(cell.layer))?, row(TreeId::A(cell.layer))?);
        let (o, m) = (row(TreeId::O(cell.layer))?, row(TreeId::M(cell.layer))?);
        let caches = from.each(shape.cache_bytes(cell), |from, bytes| read_rows(from, shape, bytes))?;
        let supplied = from.nested(|from| SuppliedProducts::read(from, shape.architecture(), cell))?;
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

    fn read(from: &mut Reader<'_>, architecture: &Architecture, cell: &Cell) -> Result<Self, Malformed> {
        let mut products = |outputs| from.nested(|from| Supplied::read(from, outputs));
        let [q, k, gate, up] = supplied_outputs(architecture, cell.groups.len());
        let (q, k, gate, up) = (products(q)?, products(k)?, products(gate)?, products(up)?);
        Ok(Self { q, k, gate, up, flips: from.nested(Flips::read)? })
    }
}

/// How many products of queries, keys, gates and ups come with a cell of so many groups.
fn supplied_outputs(architecture: &Architecture, groups: usize) -> [usize; 4] {
    let [k, gate, up] = [Matrix::K, Matrix::Gate, Matrix::Up].map(|matrix| index(architecture.shape(matrix).outputs));
    [architecture.query_outputs(KvGroup::new(0)).len().saturating_mul(groups), k, gate, up]
}

/// Committed rows of so many bytes.
fn read_rows(from: &mut Reader<'_>, shape: &Shape<'_>, bytes: usize) -> Result<Vec<u8>, Malformed> {
    let size = shape.manifest.profile.element_bytes();
    from.elements(bytes.checked_div(size).unwrap_or(0), size).map(<[u8]>::to_vec)
}

/// The norm weights and biases of a layer.
pub(crate) fn read_small(from: &mut Reader<'_>, architecture: &Architecture) -> Result<SmallTensors, Malformed> {
    let [a, b, c, d, e, f, g, h] = Small::ALL.map(|small| read_vector(from, index(architecture.length(small))));
    Ok(SmallTensors([a?, b?, c?, d?, e?, f?, g?, h?]))
}

/// The norm before lm_head.
pub(crate) fn read_norm(from: &mut Reader<'_>, architecture: &Architecture) -> Result<Vec<f32>, Malformed> {
    read_vector(from, index(architecture.hidden))
}

/// Whether all values of a tensor are bf16 numbers.
fn is_narrow(tensor: &[f32]) -> bool {
    tensor.iter().all(|value| value.to_bits().trailing_zeros() >= 16)
}

/// A tensor: the bytes of a value, two where all are bf16 numbers and four otherwise, then the values.
fn write_vector(out: &mut Writer, tensor: &[f32]) {
    let narrow = is_narrow(tensor);
    out.u8(if narrow { 2 } else { 4 });
    for value in tensor {
        let [low @ .., third, fourth] = value.to_le_bytes();
        if !narrow {
            out.raw(&low);
        }
        out.raw(&[third, fourth]);
    }
}

fn read_vector(from: &mut Reader<'_>, length: usize) -> Result<Vec<f32>, Malformed> {
    match from.u8()? {
        2 => {
            let (values, _) = from.elements(length, 2)?.as_chunks::<2>();
            Ok(values.iter().map(|[third, fourth]| f32::from_le_bytes([0, 0, *third, *fourth])).collect())
        }
        4 => {
            let (values, _) = from.elements(length, 4)?.as_chunks::<4>();
            let values: Vec<f32> = values.iter().map(|value| f32::from_le_bytes(*value)).collect();
            if is_narrow(&values) { Err(Malformed::NotCanonical) } else { Ok(values) }
        }
        _ => Err(Malformed::NotCanonical),
    }
}

/// Most bytes that a tensor takes.
const fn max_vector_bytes(length: usize) -> usize {
    length.saturating_mul(4).saturating_add(1)
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

/// The most outputs proven singly of each product of a cell.
const CELL_SINGLES: [usize; 7] = [0, 0, MAX_OUTLIERS, MAX_OUTLIERS, 0, 0, MAX_OUTLIERS];

impl Claims {
    pub(crate) fn parts(&self) -> Vec<Vec<u8>> {
        let cells = self.cells.iter().map(|cell| part(|out| cell.iter().for_each(|claim| claim.write(out))));
        cells.chain(self.decodes.iter().map(|claim| part(|out| claim.write(out)))).collect()
    }

    fn read(parts: &mut Parts<'_, '_>, shape: &Shape<'_>) -> Result<Self, Malformed> {
        let Challenge { cells, decodes } = shape.challenge;
        let cells = cells.iter().map(|_| parts.next(|from| read_cell_claims(from, shape)));
        let cells = cells.collect::<Result<_, _>>()?;
        let decodes = decodes.iter().map(|_| parts.next(|from| read_decode_claims(from, shape)));
        Ok(Self { cells, decodes: decodes.collect::<Result<_, _>>()? })
    }
}

/// The claims on a cell.
pub(crate) fn read_cell_claims(from: &mut Reader<'_>, shape: &Shape<'_>) -> Result<[ClaimValues; 7], Malformed> {
    let claims: Vec<ClaimValues> = from.each(CELL_SINGLES, |from, most| ClaimValues::read(from, shape.signs, most))?;
    claims.try_into().map_err(|_| Malformed::Truncated)
}

/// The claims on a decode.
pub(crate) fn read_decode_claims(from: &mut Reader<'_>, shape: &Shape<'_>) -> Result<ClaimValues, Malformed> {
    ClaimValues::read(from, shape.signs, MAX_CANDIDATES)
}

impl Openings {
    pub(crate) fn part(&self) -> Vec<u8> {
        part(|out| self.layers.iter().chain(&self.head).for_each(|opening| opening.write(out)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_has_one_encoding_whatever_its_values_are() {
        let wide = [1.0, f32::from_bits(0x3f80_0001)];
        let odd = [-0.0, f32::INFINITY, f32::from_bits(0x7fc0_0000), f32::from_bits(0x7f80_0001), f32::MIN_POSITIVE];
        for (tensor, width) in [(&[] as &[f32], 2), (&[1.0, -0.5, 0.0], 2), (&wide, 4), (&odd, 4), (&odd[..3], 2)] {
            let mut out = Writer::new();
            write_vector(&mut out, tensor);
            let bytes = out.finish();
            assert_eq!(bytes.len(), 1 + width * tensor.len());
            assert!(bytes.len() <= max_vector_bytes(tensor.len()));
            let read = read_whole(&bytes, |from| read_vector(from, tensor.len())).unwrap();
            let bits = |tensor: &[f32]| tensor.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&read), bits(tensor));
            // In the other width, or in none.
            let values: Vec<u8> = tensor.iter().flat_map(|value| value.to_le_bytes()).collect();
            for tag in [0, 1, 3, if width == 2 { 4 } else { 2 }, u8::MAX] {
                let forged = [&[tag], values.as_slice()].concat();
                assert!(read_whole(&forged, |from| read_vector(from, tensor.len())).is_err(), "{tag} {tensor:?}");
            }
        }
    }
}
