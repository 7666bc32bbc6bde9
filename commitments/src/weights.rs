//! The weight commitment: commit to polynomials of weights, open claims on their matrices, verify.
//!
//! Claims are bilinear: a sum of `x^T W R` over matrices `W` of one or several polynomials, with vectors
//! that both sides know. One opening discharges any number of them, on any polynomials of one code:
//!
//! 1. A challenge `gamma` makes one claim `sum_i Omega(i) f(i) = sum_j gamma^j value_j` of all.
//! 2. A sumcheck over the row variables of the first level, and over the bits of the polynomial's number,
//!    folds all of them to one vector over the extension.
//! 3. That vector is committed again. The symbols of the committed codewords at random positions,
//!    folded, and the vector's value at a random point of the extension become further claims on it.
//! 4. So on, level by level, until the vector is short enough to be sent. There the last claim is checked,
//!    and the last level's symbols with it.
//!
//! The construction follows WHIR (eprint 2024/1586) with interleaved codes as in Ligerito (eprint
//! 2025/1187); `docs/opening.md` gives it byte by byte, [`crate::security`] its soundness.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use ark_ff::Field;
use assay_sumcheck::field::{E, F, e_from_bytes, e_to_bytes, f_from_bytes, f_to_bytes};
use assay_sumcheck::product::RoundProof;
use assay_sumcheck::transcript::{Bulk, Reduction, Transcript};
use rayon::prelude::*;
use thiserror::Error;

use crate::code::hashing::{BLOCK, keyed_hashes};
use crate::codec::{Canonical, Malformed, Reader, Writer, encode};
use crate::layout::Layout;
use crate::merkle::Hash;
use crate::params::{CodeParams, LevelCode, MAX_CLAIMS, MAX_POLYNOMIALS};
pub use crate::polynomial::{Coefficients, LayerPolynomial};

mod commit;
mod grinding;
mod open;
#[cfg(test)]
mod tests;
mod verify;

pub use crate::code::Kernels;
pub use commit::{WeightTree, commit};
pub use open::open;
pub use verify::verify;

/// Every transcript label of an opening.
mod labels {
    pub(super) const CODE: &str = "weights/code";
    pub(super) const LAYOUT: &str = "weights/layout";
    pub(super) const COUNT: &str = "weights/count";
    pub(super) const COMMITMENT: &str = "weights/commitment";
    pub(super) const CLAIM_COUNT: &str = "weights/claim-count";
    pub(super) const CLAIM: &str = "weights/claim";
    pub(super) const INPUT: &str = "weights/input";
    pub(super) const PART: &str = "weights/part";
    pub(super) const OUTPUT: &str = "weights/output";
    pub(super) const BATCH: &str = "weights/batch";
    pub(super) const LEVEL_ROOT: &str = "weights/level-root";
    pub(super) const OUT_OF_DOMAIN: &str = "weights/out-of-domain";
    pub(super) const ANSWER: &str = "weights/answer";
    pub(super) const GRINDING: &str = "weights/grinding";
    pub(super) const NONCE: &str = "weights/nonce";
    pub(super) const POSITIONS: &str = "weights/positions";
    pub(super) const COLUMNS: &str = "weights/columns";
    pub(super) const PATHS: &str = "weights/paths";
    pub(super) const FINAL: &str = "weights/final";
}

/// The commitment to a polynomial.
///
/// The root stands for few polynomials (see [`crate::security`]), the value at a point drawn from it for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightCommitment {
    /// The root over the codeword's columns.
    pub root: Hash,
    /// `sum_i f[i] y^i`, with `y` from [`sample_point`].
    pub evaluation: E,
}

impl Canonical for WeightCommitment {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.root);
        out.raw(&e_to_bytes(self.evaluation));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { root: from.array()?, evaluation: e_from_bytes(from.array()?).ok_or(Malformed::NotCanonical)? })
    }
}

/// The point at which a commitment states the polynomial's value.
fn sample_point(root: &Hash, params: &CodeParams) -> E {
    let mut output =
        blake3::Hasher::new_keyed(crate::domains::WEIGHT_SAMPLE).update(root).update(&encode(params)).finalize_xof();
    let mut coordinate = || {
        loop {
            let mut bytes = [0; 8];
            output.fill(&mut bytes);
            if let Some(value) = f_from_bytes(bytes) {
                return value;
            }
        }
    };
    E::new(coordinate(), coordinate(), coordinate())
}

/// The claim that the sum over the parts of `sum_{k, n} input[k] W_int[k][n] output[n]` is `value`.
///
/// An opening binds all of it, vectors included, before its first challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a claim proves nothing until an opening discharges it"]
pub struct Claim {
    /// One entry an input of the matrices.
    pub input: Arc<[F]>,
    /// The matrices that share the input.
    pub parts: Vec<Part>,
    /// What the sum is claimed to be.
    pub value: E,
}

/// A matrix of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Index of the polynomial among those opened.
    pub polynomial: usize,
    /// Index of the matrix in the layout.
    pub matrix: usize,
    /// One entry an output of the matrix.
    pub output: Output,
}

/// A vector over the outputs of a matrix. Claims may have most of it in common: what is behind one and the same `Arc` is
/// brought into bytes and evaluated once for all of them. Values are equal if these parts are; see [`Self::entries`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// One entry an output.
    pub shared: Arc<Vec<E>>,
    /// What is added to it at single outputs, ascending.
    pub singles: Vec<(usize, E)>,
}

impl From<Vec<E>> for Output {
    fn from(entries: Vec<E>) -> Self {
        Self { shared: Arc::new(entries), singles: vec![] }
    }
}

impl Output {
    fn fits(&self, outputs: usize) -> bool {
        let Self { shared, singles } = self;
        shared.len() == outputs
            && singles.is_sorted_by(|(one, _), (next, _)| one < next)
            && singles.last().is_none_or(|(last, _)| *last < outputs)
    }

    /// All of its entries.
    pub fn entries(&self) -> Cow<'_, [E]> {
        if self.singles.is_empty() {
            return Cow::Borrowed(&self.shared);
        }
        let mut entries = self.shared.to_vec();
        for (place, value) in self.changed() {
            entries.get_mut(place).into_iter().for_each(|entry| *entry = value);
        }
        Cow::Owned(entries)
    }

    /// The whole entries at the single outputs, given that these ascend.
    fn changed(&self) -> impl Iterator<Item = (usize, E)> {
        self.singles.iter().filter_map(|(place, more)| Some((*place, *self.shared.get(*place)? + more)))
    }
}

impl Claim {
    fn fits(&self, layout: &Layout, polynomials: usize) -> bool {
        self.parts.iter().all(|part| {
            part.polynomial < polynomials
                && layout.shapes().get(part.matrix).is_some_and(|shape| {
                    self.input.len() == shape.inputs as usize && part.output.fits(shape.outputs as usize)
                })
        })
    }
}

/// The most claims of one opening, the commitments' own apart.
pub const MAX_OPENED_CLAIMS: usize = MAX_CLAIMS - MAX_POLYNOMIALS;

/// Whether one opening can be about so many polynomials and these claims.
fn fits(layout: &Layout, polynomials: usize, claims: &[Claim]) -> bool {
    (1..=MAX_POLYNOMIALS).contains(&polynomials)
        && claims.len() <= MAX_OPENED_CLAIMS
        && claims.iter().all(|claim| claim.fits(layout, polynomials))
}

/// The proof that claims hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// One message a variable.
    rounds: Vec<RoundProof>,
    /// The commitments to folded vectors.
    folds: Vec<FoldCommitment>,
    /// What the last level leaves.
    last: Vec<E>,
    /// The answers to the queries to the polynomials' codewords.
    base: Answers<F>,
    /// The answers to the queries to the codewords of folded vectors.
    levels: Vec<Answers<E>>,
}

/// The commitment to a folded vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FoldCommitment {
    root: Hash,
    /// The vector's value at the point drawn after the root.
    answer: E,
}

/// The answers to the queries to one level.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answers<T> {
    /// What drawing the positions cost; nothing where it costs nothing.
    nonce: Option<u64>,
    /// The symbols by tree, position (ascending) and row.
    columns: Vec<Vec<Vec<T>>>,
    /// What leads from the columns to the roots, by tree.
    hashes: Vec<Vec<Hash>>,
}

/// A symbol of a codeword.
pub(crate) trait Symbol: Copy + Send + Sync {
    /// How many elements of the base field it is.
    const COORDINATES: usize;
    /// Writes the bytes of its coordinates.
    fn write(self, out: &mut [[u8; 8]]);
    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed>;
}

impl Symbol for F {
    const COORDINATES: usize = 1;

    fn write(self, out: &mut [[u8; 8]]) {
        out.iter_mut().for_each(|out| *out = f_to_bytes(self));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        f_from_bytes(from.array()?).ok_or(Malformed::NotCanonical)
    }
}

impl Symbol for E {
    const COORDINATES: usize = 3;

    fn write(self, out: &mut [[u8; 8]]) {
        out.iter_mut().zip([self.c0, self.c1, self.c2]).for_each(|(out, coordinate)| *out = f_to_bytes(coordinate));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        e_from_bytes(from.array()?).ok_or(Malformed::NotCanonical)
    }
}

fn bytes_of<T: Symbol>(values: &[T]) -> Vec<u8> {
    let mut bytes = vec![];
    append_bytes(values, &mut bytes);
    bytes
}

fn append_bytes<T: Symbol>(values: &[T], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start.saturating_add(values.len().saturating_mul(8).saturating_mul(T::COORDINATES)), 0);
    let (targets, _) = out.get_mut(start..).unwrap_or_default().as_chunks_mut::<8>();
    for (target, value) in targets.chunks_exact_mut(T::COORDINATES).zip(values) {
        value.write(target);
    }
}

impl<T: Symbol> Answers<T> {
    fn write(&self, out: &mut Writer) {
        if let Some(nonce) = self.nonce {
            out.raw(&nonce.to_le_bytes());
        }
        out.length(self.columns.first().map_or(0, Vec::len));
        for column in self.columns.iter().flatten() {
            out.raw(&bytes_of(column));
        }
        self.hashes.iter().for_each(|hashes| out.list(hashes));
    }

    fn read(from: &mut Reader<'_>, code: &LevelCode, trees: usize) -> Result<Self, Malformed> {
        let nonce = if code.grinding > 0 { Some(u64::from_le_bytes(from.array()?)) } else { None };
        let count = from.length(code.max_positions())?;
        let column = |from: &mut Reader<'_>, _| from.each(0..code.rows(), |from, _| T::read(from));
        let columns = from.each(0..trees, |from, _| from.each(0..count, column))?;
        let hashes = from.each(0..trees, |from, _| from.list(code.max_hashes()))?;
        Ok(Self { nonce, columns, hashes })
    }

    /// Binds the answers, so that whatever follows depends on them.
    fn absorb(&self, transcript: &mut Transcript<Reduction>) {
        let mut columns = vec![];
        self.columns.iter().flatten().for_each(|column| append_bytes(column, &mut columns));
        transcript.absorb_bulk(labels::COLUMNS, &columns);
        transcript.absorb_bulk(labels::PATHS, self.hashes.concat().as_flattened());
    }
}

impl Opening {
    /// Appends the encoding. What has a length that parameters and number of polynomials give is written
    /// without it.
    pub fn write(&self, out: &mut Writer) {
        for round in &self.rounds {
            out.raw(&e_to_bytes(round.at_zero));
            out.raw(&e_to_bytes(round.leading));
        }
        for fold in &self.folds {
            out.raw(&fold.root);
            out.raw(&e_to_bytes(fold.answer));
        }
        out.raw(&bytes_of(&self.last));
        self.base.write(out);
        self.levels.iter().for_each(|answers| answers.write(out));
    }

    /// Takes an opening of so many polynomials.
    ///
    /// # Errors
    /// [`Malformed`], for parameters that are not well-formed, for elements that are not canonical, and for
    /// more columns or hashes than an opening can need; fewer than it needs are for [`verify`] to find.
    pub fn read(from: &mut Reader<'_>, params: &CodeParams, polynomials: usize) -> Result<Self, Malformed> {
        if !params.is_well_formed() {
            return Err(Malformed::NotCanonical);
        }
        let round = |from: &mut Reader<'_>, _| Ok(RoundProof { at_zero: E::read(from)?, leading: E::read(from)? });
        let fold = |from: &mut Reader<'_>, _| Ok(FoldCommitment { root: from.array()?, answer: E::read(from)? });
        let rounds = from.each(0..round_count(params, polynomials), round)?;
        let folds = from.each(1..params.levels.len(), fold)?;
        let last = from.each(0..1_usize << params.final_log(), |from, _| E::read(from))?;
        let base = from.nested(|from| Answers::read(from, &params.base(), polynomials))?;
        let levels = from.each(params.codes().skip(1), |from, code| Answers::read(from, &code, 1))?;
        Ok(Self { rounds, folds, last, base, levels })
    }
}

/// Bytes of an opening by what they show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpeningSizes {
    /// Sumcheck rounds.
    pub rounds: usize,
    /// Columns of codewords.
    pub columns: usize,
    /// Hashes that lead from columns to roots.
    pub paths: usize,
    /// Folded vectors: commitments to them, and the one that is sent.
    pub vectors: usize,
}

impl Opening {
    /// What the bytes of the encoding are spent on, lengths and nonces apart.
    pub fn sizes(&self) -> OpeningSizes {
        let elements = |columns: &[Vec<Vec<E>>]| columns.iter().flatten().map(Vec::len).sum::<usize>();
        let base: usize = self.base.columns.iter().flatten().map(Vec::len).sum();
        let hashes = self.levels.iter().flat_map(|level| &level.hashes).chain(&self.base.hashes).map(Vec::len);
        OpeningSizes {
            rounds: self.rounds.len().saturating_mul(2 * EXTENSION_BYTES),
            columns: self
                .levels
                .iter()
                .map(|level| elements(&level.columns).saturating_mul(EXTENSION_BYTES))
                .fold(base.saturating_mul(8), usize::saturating_add),
            paths: hashes.sum::<usize>().saturating_mul(32),
            vectors: self
                .last
                .len()
                .saturating_mul(EXTENSION_BYTES)
                .saturating_add(self.folds.len().saturating_mul(32 + EXTENSION_BYTES)),
        }
    }
}

/// Bytes of an element of the extension.
const EXTENSION_BYTES: usize = 24;

/// The number of rounds: one a variable of the polynomials, and one a bit of their number.
fn round_count(params: &CodeParams, polynomials: usize) -> usize {
    params.log_size.saturating_add(crate::params::polynomial_variables(polynomials)) as usize
}

/// Why an opening does not discharge its claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
pub enum OpeningError {
    /// The parameters do not fit the layout. A manifest that was checked has none such.
    #[error("the code parameters do not fit the layout")]
    Params,
    /// A claim does not fit the layout. The verifier makes its claims itself.
    #[error("a claim does not fit the layout")]
    Claims,
    /// Another number of rounds, symbols, columns or entries than the parameters and positions give.
    #[error("a part of the opening has another length than it must have")]
    Shape,
    /// A nonce that does not show the work that drawing positions costs.
    #[error("a nonce does not show the work that the parameters ask for")]
    Grinding,
    /// The last claim is not the product of the two polynomials at the final point.
    #[error("the last sumcheck claim is not met by the last vector")]
    FinalEvaluation,
    /// A column of the last level does not fold to the symbol of the last vector's codeword.
    #[error("the last vector does not agree with a committed column")]
    ColumnFold,
    /// The columns do not belong to the root, or another number of hashes was sent than needed.
    #[error("the columns do not belong to the root")]
    MerklePath,
}

/// The receipt of a verified opening; only [`verify`] makes one.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub struct Discharged(());

/// What both sides absorb before the first challenge, and the challenge that batches the claims.
fn begin(
    commitments: &[WeightCommitment],
    layout: &Layout,
    params: &CodeParams,
    claims: &[Claim],
    transcript: &mut Transcript<Reduction>,
) -> E {
    let number = |number: usize| (number as u64).to_le_bytes();
    transcript.absorb(labels::CODE, &encode(params));
    transcript.absorb(labels::LAYOUT, &layout.digest());
    transcript.absorb(labels::COUNT, &number(commitments.len()));
    for commitment in commitments {
        transcript.absorb(labels::COMMITMENT, &encode(commitment));
    }
    transcript.absorb(labels::CLAIM_COUNT, &number(claims.len()));
    let inputs = digest_inputs(claims);
    let mut outputs = digest_outputs(claims).into_iter();
    for (claim, input) in claims.iter().zip(&inputs) {
        let head = [e_to_bytes(claim.value).as_slice(), &number(claim.parts.len())].concat();
        transcript.absorb(labels::CLAIM, &head);
        transcript.absorb_digested(labels::INPUT, input);
        for (part, output) in claim.parts.iter().zip(outputs.by_ref()) {
            transcript.absorb(labels::PART, &[number(part.polynomial), number(part.matrix)].concat());
            transcript.absorb_digested(labels::OUTPUT, &output);
        }
    }
    transcript.challenge(labels::BATCH)
}

/// Of every claim, its input's.
fn digest_inputs(claims: &[Claim]) -> Vec<Bulk> {
    let (inputs, places) = distinct(claims.iter().map(|claim| claim.input.as_ref()));
    let digests: Vec<Bulk> = inputs.into_par_iter().map(|input| Bulk::new(&bytes_of(input))).collect();
    places.into_iter().filter_map(|place| digests.get(place).copied()).collect()
}

/// Of every part of every claim, its output's.
fn digest_outputs(claims: &[Claim]) -> Vec<Bulk> {
    /// Outputs that are digested one after the other, from the same bytes.
    const SHARING: usize = 4;
    let parts = || claims.iter().flat_map(|claim| &claim.parts).map(|part| &part.output);
    let (vectors, places) = distinct(parts().map(|output| output.shared.as_slice()));
    let mut sharing: Vec<Vec<(usize, &Output)>> = vec![vec![]; vectors.len()];
    for (part, place) in parts().enumerate().zip(places) {
        sharing.get_mut(place).into_iter().for_each(|sharing| sharing.push(part));
    }
    let digest = |(vector, sharing): (&[E], &[(usize, &Output)])| {
        let mut bytes = bytes_of(vector);
        let mut digest_with = |output: &Output| {
            output.changed().for_each(|(place, value)| overwrite(&mut bytes, place, value));
            let digest = Bulk::new(&bytes);
            let shared = output.singles.iter().filter_map(|(place, _)| Some((*place, *vector.get(*place)?)));
            shared.for_each(|(place, value)| overwrite(&mut bytes, place, value));
            digest
        };
        sharing.iter().map(|(part, output)| (*part, digest_with(output))).collect::<Vec<_>>()
    };
    let groups: Vec<_> = vectors
        .into_iter()
        .zip(&sharing)
        .flat_map(|(vector, sharing)| sharing.chunks(SHARING).map(move |sharing| (vector, sharing)))
        .collect();
    let mut digests: Vec<(usize, Bulk)> = groups.into_par_iter().flat_map_iter(digest).collect();
    digests.sort_unstable_by_key(|(part, _)| *part);
    digests.into_iter().map(|(_, digest)| digest).collect()
}

/// Puts an entry in the place of another in the bytes of a vector.
fn overwrite(bytes: &mut [u8], place: usize, value: E) {
    let (entries, _) = bytes.as_chunks_mut::<EXTENSION_BYTES>();
    entries.get_mut(place).into_iter().for_each(|entry| *entry = e_to_bytes(value));
}

/// Vectors, those that are one and the same once, and of every one given the number it has among these.
fn distinct<'a, T>(vectors: impl Iterator<Item = &'a [T]>) -> (Vec<&'a [T]>, Vec<usize>) {
    let mut numbers = BTreeMap::new();
    let mut found = vec![];
    let places = vectors.map(|vector| {
        *numbers.entry((vector.as_ptr(), vector.len())).or_insert_with(|| {
            found.push(vector);
            found.len().saturating_sub(1)
        })
    });
    let places = places.collect();
    (found, places)
}

/// The positions at which a codeword is opened, ascending, without repeats. Whoever draws has paid for it.
fn draw_positions(code: &LevelCode, transcript: &mut Transcript<Reduction>) -> Vec<usize> {
    if code.opens_all() {
        return (0..code.codeword_length()).collect();
    }
    let drawn = transcript.indices(labels::POSITIONS, code.queries as usize, code.codeword_log());
    let positions: std::collections::BTreeSet<usize> =
        drawn.into_iter().filter_map(|position| usize::try_from(position).ok()).collect();
    positions.into_iter().collect()
}

/// The leaves of codeword columns: of each the hash of its position, the symbols of all rows, and zeros up to a whole
/// number of blocks. Columns are as long as each other.
fn column_leaves<T: Symbol>(positions: &[usize], columns: &[Vec<T>]) -> Vec<(usize, Hash)> {
    let symbols = columns.first().map_or(0, Vec::len).saturating_mul(T::COORDINATES);
    let length = symbols.saturating_add(1).saturating_mul(8).next_multiple_of(BLOCK);
    let mut inputs = Vec::with_capacity(length.saturating_mul(columns.len()));
    for (&position, column) in positions.iter().zip(columns) {
        inputs.extend_from_slice(&(position as u64).to_le_bytes());
        append_bytes(column, &mut inputs);
        inputs.resize(inputs.len().next_multiple_of(BLOCK), 0);
    }
    let mut leaves = vec![Hash::default(); positions.len()];
    keyed_hashes(crate::domains::CODEWORD_COLUMN, &inputs, length, &mut leaves);
    positions.iter().copied().zip(leaves).collect()
}

/// The leaf of a codeword column, by itself.
#[cfg(test)]
pub(crate) fn column_leaf<T: Symbol>(position: usize, column: &[T]) -> Hash {
    let mut bytes = (position as u64).to_le_bytes().to_vec();
    append_bytes(column, &mut bytes);
    bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
    blake3::keyed_hash(crate::domains::CODEWORD_COLUMN, &bytes).into()
}

/// `1, base, base^2, ...`
fn powers(base: E) -> impl Iterator<Item = E> {
    std::iter::successors(Some(E::ONE), move |&power| Some(power * base))
}
