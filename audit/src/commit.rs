//! From weights to a manifest, wherever the weights lie.
//!
//! There is one way to a manifest: [`manifest`] reads a model piece by piece from [`ModelWeights`], which
//! may be memory or files, and asks a [`Committer`] for the commitment to each polynomial, which may
//! commit to it or know it.

use std::sync::Arc;

use assay_commitments::fixed_point::{Scale, exponent};
use assay_commitments::layout::{Layout, Tile};
use assay_commitments::manifest::{
    Architecture, ArchitectureError, HeadEntry, LayerEntry, Manifest, Matrix, Small, SmallTensors, small_digest,
};
use assay_commitments::params::CodeParams;
use assay_commitments::polynomial::Coefficients;
use assay_commitments::rows::{Profile, encode_row};
use assay_commitments::trace::row_digest;
use assay_commitments::weights::WeightCommitment;
use rayon::prelude::*;

use crate::assets::EmbeddingTable;

/// Weights that are read at a time where a whole tensor is looked at, and hashed together.
const PIECE: usize = 1 << 15;
/// Weights on their way from a source to coefficients: few enough to stay in a core's nearest cache.
const BUFFER: usize = 1 << 12;
/// Digests of matrices, by which an owner of weights recognises them.
const MATRIX: &str = "assay/matrix-digest/v1";

/// A tensor of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tensor {
    /// The embedding table.
    Embeddings,
    /// A small tensor of the layer with that number.
    Small(usize, Small),
    /// A matrix of the layer with that number.
    Matrix(usize, Matrix),
    /// The last norm.
    FinalNorm,
    /// lm_head, of a model in which it is not the embedding table.
    Head,
}

impl Tensor {
    /// All tensors of a model.
    pub fn all(architecture: &Architecture) -> Vec<Self> {
        let layers = (0..architecture.layers as usize).flat_map(|layer| {
            let small = Small::ALL.into_iter().filter(|small| architecture.length(*small) > 0);
            let matrices = Matrix::ALL.map(|matrix| Self::Matrix(layer, matrix));
            small.map(move |small| Self::Small(layer, small)).chain(matrices)
        });
        let head = (!architecture.tied).then_some(Self::Head);
        [Self::Embeddings, Self::FinalNorm].into_iter().chain(layers).chain(head).collect()
    }

    /// The tensor that is lm_head.
    pub const fn head(architecture: &Architecture) -> Self {
        if architecture.tied { Self::Embeddings } else { Self::Head }
    }

    /// Its lengths, the outermost first.
    pub fn shape(self, architecture: &Architecture) -> Vec<usize> {
        match self {
            Self::Embeddings | Self::Head => vec![architecture.vocab_size as usize, architecture.hidden as usize],
            Self::Small(_, small) => vec![architecture.length(small) as usize],
            Self::FinalNorm => vec![architecture.hidden as usize],
            Self::Matrix(_, matrix) => {
                let shape = architecture.shape(matrix);
                vec![shape.outputs as usize, shape.inputs as usize]
            }
        }
    }

    /// The number of its weights.
    pub fn length(self, architecture: &Architecture) -> usize {
        self.shape(architecture).iter().product()
    }
}

impl std::fmt::Display for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Embeddings => f.write_str("embedding table"),
            Self::Small(layer, small) => write!(f, "{} of layer {layer}", small.name()),
            Self::Matrix(layer, matrix) => write!(f, "{} of layer {layer}", matrix.name()),
            Self::FinalNorm => f.write_str("final norm"),
            Self::Head => f.write_str("lm_head"),
        }
    }
}

/// The weights of a model, read piece by piece: they may lie in memory or in files.
pub trait ModelWeights: Sync {
    /// Why weights cannot be read.
    type Error: Send;

    /// Shapes and constants of the model.
    fn architecture(&self) -> &Architecture;

    /// Writes weights of a tensor, row by row, from index `start` on, as they are served. All that are
    /// given are finite.
    ///
    /// # Errors
    /// When they cannot be read or one of them is NaN or infinite.
    fn read(&self, tensor: Tensor, start: usize, out: &mut [f32]) -> Result<(), Self::Error>;

    /// A whole tensor.
    ///
    /// # Errors
    /// As [`Self::read`], at the first weight for which it fails.
    fn tensor(&self, tensor: Tensor) -> Result<Vec<f32>, Self::Error> {
        let mut values = vec![0.0; tensor.length(self.architecture())];
        let pieces = values.par_chunks_mut(PIECE).enumerate();
        // All are tried, so that of several errors it is always the first that is told.
        let read: Vec<_> = pieces.map(|(number, piece)| self.read(tensor, number * PIECE, piece)).collect();
        read.into_iter().collect::<Result<(), _>>()?;
        Ok(values)
    }
}

/// A matrix of a polynomial, where its weights lie.
#[derive(Clone, Copy, Debug)]
struct Part {
    tensor: Tensor,
    /// Index of its first weight in the tensor.
    first: usize,
    /// How many weights there are; what the layout has more is zero.
    length: usize,
}

/// What a look at all weights of a matrix gives.
#[derive(Clone, Copy, Debug)]
struct Survey {
    /// The largest magnitude.
    largest: f32,
    digest: [u8; 32],
}

impl Part {
    fn survey<W: ModelWeights + ?Sized>(&self, weights: &W) -> Result<Survey, W::Error> {
        let hasher = blake3::Hasher::new_derive_key(MATRIX);
        let buffers = || (vec![0.0_f32; PIECE], vec![0_u8; 4 * PIECE]);
        let pieces = (0..self.length.div_ceil(PIECE)).into_par_iter().map_init(buffers, |(values, bytes), number| {
            let start = number * PIECE;
            let length = PIECE.min(self.length - start);
            let (values, _) = values.split_at_mut(length);
            let (bytes, _) = bytes.split_at_mut(4 * length);
            weights.read(self.tensor, self.first + start, values)?;
            for (bytes, value) in bytes.as_chunks_mut().0.iter_mut().zip(values.iter()) {
                *bytes = value.to_le_bytes();
            }
            let digest: [u8; 32] = hasher.clone().update(bytes).finalize().into();
            Ok((largest(values), digest))
        });
        // All are read, so that of several errors it is always the first that is told.
        let pieces: Vec<Result<_, _>> = pieces.collect();
        let mut hasher = hasher.clone();
        hasher.update(&(self.length as u64).to_le_bytes());
        let mut most = 0.0_f32;
        for piece in pieces {
            let (largest, digest) = piece?;
            most = most.max(largest);
            hasher.update(&digest);
        }
        Ok(Survey { largest: most, digest: hasher.finalize().into() })
    }
}

/// The largest magnitude of finite values.
fn largest(values: &[f32]) -> f32 {
    const MAGNITUDE: i32 = 0x7fff_ffff;
    // Magnitudes of finite floats are ordered as their bits are, and as signed integers those are
    // compared by instructions that every processor has.
    let bits = values.iter().fold(0_i32, |most, value| most.max(value.to_bits().cast_signed() & MAGNITUDE));
    f32::from_bits(bits.cast_unsigned())
}

fn exponent_of(largest: f32) -> i16 {
    exponent(&[largest]).unwrap_or(0)
}

/// The weights of one polynomial of a model, a decoder layer or a shard of lm_head, where they lie.
#[derive(Debug)]
pub struct PolynomialWeights<'a, W: ?Sized> {
    weights: &'a W,
    layout: Arc<Layout>,
    parts: Vec<Part>,
    exponents: Vec<i16>,
    digests: Vec<[u8; 32]>,
}

impl<W: ModelWeights + ?Sized> PolynomialWeights<'_, W> {
    /// The fixed-point exponents of the matrices.
    pub fn exponents(&self) -> &[i16] {
        &self.exponents
    }

    /// Digests of the matrices: equal ones are of equal weights.
    pub fn digests(&self) -> &[[u8; 32]] {
        &self.digests
    }

    /// How many weights there are.
    pub fn count(&self) -> u64 {
        self.parts.iter().map(|part| part.length as u64).sum()
    }

    /// Writes the coefficients of a tile from the index `start` in it on.
    fn read_tile(&self, tile: &Tile, start: usize, out: &mut [i32]) -> Result<(), W::Error> {
        let (Some(part), Some(exponent), Some(shape)) =
            (self.parts.get(tile.matrix), self.exponents.get(tile.matrix), self.layout.shapes().get(tile.matrix))
        else {
            return Ok(());
        };
        let scale = Scale::new(*exponent);
        let row_length = shape.inputs as usize;
        let mut buffer = [0.0_f32; BUFFER];
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (row, column) = (at >> tile.input_log, at & (tile.inputs() - 1));
            // Rows of a tile of all inputs follow each other without a gap.
            let run = if tile.inputs() == row_length { rest.len() } else { rest.len().min(tile.inputs() - column) };
            let (run, after) = rest.split_at_mut(run.min(BUFFER));
            let (values, _) = buffer.split_at_mut(run.len());
            let first = (tile.first_output + row) * row_length + tile.first_input + column;
            let there = part.length.saturating_sub(first).min(values.len());
            let (values, padding) = values.split_at_mut(there);
            if !values.is_empty() {
                self.weights.read(part.tensor, part.first + first, values)?;
            }
            padding.fill(0.0);
            for (image, value) in run.iter_mut().zip(&buffer) {
                *image = scale.image(*value);
            }
            at += run.len();
            rest = after;
        }
        Ok(())
    }
}

impl<W: ModelWeights + ?Sized> Coefficients for PolynomialWeights<'_, W> {
    type Error = W::Error;

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn read(&self, start: usize, out: &mut [i32]) -> Result<(), W::Error> {
        let tiles = self.layout.tiles();
        // Tiles lie one after the other from the start, and all that follows them is padding.
        let before = tiles.partition_point(|tile| tile.coefficient_range().end <= start);
        let (mut at, mut rest) = (start, out);
        for tile in tiles.iter().skip(before) {
            let (piece, after) = rest.split_at_mut(rest.len().min(tile.coefficient_range().end - at));
            self.read_tile(tile, at - tile.offset, piece)?;
            at += piece.len();
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        rest.fill(0);
        Ok(())
    }
}

/// The polynomials of a model.
#[derive(Clone, Debug)]
pub struct Polynomials {
    layers: usize,
    layer_layout: Arc<Layout>,
    layer_code: CodeParams,
    shards: usize,
    head_layout: Arc<Layout>,
    head_code: CodeParams,
    /// Weights in a shard of lm_head.
    block: usize,
}

impl Polynomials {
    /// The polynomials of an architecture.
    ///
    /// # Errors
    /// A number that is out of range.
    pub fn new(architecture: &Architecture) -> Result<Self, ArchitectureError> {
        architecture.check()?;
        let layer_layout = Arc::new(architecture.layer_layout()?);
        let head_layout = Arc::new(architecture.head_layout()?);
        Ok(Self {
            layers: architecture.layers as usize,
            layer_code: CodeParams::for_layout(&layer_layout),
            layer_layout,
            shards: architecture.head_shards()? as usize,
            head_code: CodeParams::for_layout(&head_layout),
            head_layout,
            block: architecture.head_block()? as usize * architecture.hidden as usize,
        })
    }

    /// How many there are: layers and shards of lm_head.
    pub const fn count(&self) -> usize {
        self.layers + self.shards
    }

    /// The code of a layer's polynomial, and that of a shard's.
    pub const fn codes(&self) -> [&CodeParams; 2] {
        [&self.layer_code, &self.head_code]
    }

    /// The layout of a layer's polynomial, and that of a shard's.
    pub const fn layouts(&self) -> [&Arc<Layout>; 2] {
        [&self.layer_layout, &self.head_layout]
    }

    /// The parts of lm_head, one a shard, by vocabulary block; the last is padded with zeros.
    fn head_parts(&self, architecture: &Architecture) -> Vec<Part> {
        let tensor = Tensor::head(architecture);
        let length = tensor.length(architecture);
        let part = |shard| {
            let first = shard * self.block;
            Part { tensor, first, length: self.block.min(length.saturating_sub(first)) }
        };
        (0..self.shards).map(part).collect()
    }
}

/// A commitment to a polynomial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commitment {
    /// To the weights.
    pub weights: WeightCommitment,
    /// Fixed-point exponents of the matrices.
    pub exponents: Vec<i16>,
}

/// Commits to the polynomials of a model for its manifest. They are numbered over the layers and then
/// the shards of lm_head.
pub trait Committer<W: ModelWeights + ?Sized> {
    /// Why it cannot go on.
    type Error: From<W::Error> + From<ArchitectureError>;

    /// The commitment to the polynomial of that number, where it needs no look at the weights.
    fn known(&self, number: usize) -> Option<Commitment> {
        let _ = number;
        None
    }

    /// Commits to the polynomial of that number.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn commit(
        &mut self,
        number: usize,
        polynomial: &PolynomialWeights<'_, W>,
        code: &CodeParams,
    ) -> Result<WeightCommitment, Self::Error>;
}

/// What a manifest says of a model beside its weights.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings<'a> {
    /// How the runtime rounds.
    pub profile: Profile,
    /// The bytes of the tokenizer file.
    pub tokenizer: &'a [u8],
    /// The chat template, for models that have one.
    pub chat_template: Option<&'a [u8]>,
}

/// Makes the manifest of a model.
///
/// # Errors
/// An architecture out of range, weights that cannot be read or are no numbers, or what the committer
/// ends with.
pub fn manifest<W: ModelWeights + ?Sized, C: Committer<W>>(
    weights: &W,
    surroundings: Surroundings<'_>,
    committer: &mut C,
) -> Result<(Manifest, EmbeddingTable), C::Error> {
    let Surroundings { profile, tokenizer, chat_template } = surroundings;
    let architecture = weights.architecture();
    let polynomials = Polynomials::new(architecture)?;
    // What takes little time is read first, so that what is wrong with it is told at once.
    let small = (0..polynomials.layers).map(|layer| Ok(small_tensors(weights, layer)?.digest()));
    let small = small.collect::<Result<Vec<_>, C::Error>>()?;
    let final_norm = small_digest(&[&weights.tensor(Tensor::FinalNorm)?]);
    let embeddings = embedding_table(weights, profile)?;

    let mut layers = Vec::with_capacity(polynomials.layers);
    for (layer, small) in small.into_iter().enumerate() {
        let Commitment { weights: committed, exponents } = match committer.known(layer) {
            Some(known) => known,
            None => commit_layer(weights, &polynomials, layer, committer)?,
        };
        let mut entry = LayerEntry { weights: committed, exponents: [0; 7], small };
        for (to, from) in entry.exponents.iter_mut().zip(exponents) {
            *to = from;
        }
        layers.push(entry);
    }
    let (shards, exponent) = commit_head(weights, &polynomials, committer)?;
    let manifest = Manifest {
        architecture: architecture.clone(),
        profile,
        tokenizer: *blake3::hash(tokenizer).as_bytes(),
        chat_template: chat_template.map(|template| *blake3::hash(template).as_bytes()),
        layer_code: polynomials.layer_code,
        head_code: polynomials.head_code,
        embeddings: embeddings.root(),
        layers,
        head: HeadEntry { shards, exponent, small: final_norm },
    };
    Ok((manifest, embeddings))
}

/// The small tensors of a layer.
///
/// # Errors
/// As [`ModelWeights::read`].
pub fn small_tensors<W: ModelWeights + ?Sized>(weights: &W, layer: usize) -> Result<SmallTensors, W::Error> {
    let [a, b, c, d, e, f, g, h] = Small::ALL.map(|small| weights.tensor(Tensor::Small(layer, small)));
    Ok(SmallTensors([a?, b?, c?, d?, e?, f?, g?, h?]))
}

fn commit_layer<W: ModelWeights + ?Sized, C: Committer<W>>(
    weights: &W,
    polynomials: &Polynomials,
    layer: usize,
    committer: &mut C,
) -> Result<Commitment, C::Error> {
    let parts = Matrix::ALL.map(|matrix| {
        let tensor = Tensor::Matrix(layer, matrix);
        Part { tensor, first: 0, length: tensor.length(weights.architecture()) }
    });
    let surveys = parts.iter().map(|part| part.survey(weights)).collect::<Result<Vec<_>, _>>()?;
    let exponents: Vec<i16> = surveys.iter().map(|survey| exponent_of(survey.largest)).collect();
    let polynomial = PolynomialWeights {
        weights,
        layout: Arc::clone(&polynomials.layer_layout),
        parts: parts.to_vec(),
        digests: surveys.iter().map(|survey| survey.digest).collect(),
        exponents: exponents.clone(),
    };
    Ok(Commitment { weights: committer.commit(layer, &polynomial, &polynomials.layer_code)?, exponents })
}

/// Commitments to the shards of lm_head, and the exponent of all of them, which is that of the whole matrix.
fn commit_head<W: ModelWeights + ?Sized, C: Committer<W>>(
    weights: &W,
    polynomials: &Polynomials,
    committer: &mut C,
) -> Result<(Vec<WeightCommitment>, i16), C::Error> {
    let known: Vec<Option<Commitment>> =
        (0..polynomials.shards).map(|shard| committer.known(polynomials.layers + shard)).collect();
    let all: Option<Vec<&Commitment>> = known.iter().map(Option::as_ref).collect();
    if let Some(all) = all.filter(|all| !all.is_empty())
        && let Some(exponent) = all.first().and_then(|first| first.exponents.first())
    {
        return Ok((all.iter().map(|known| known.weights).collect(), *exponent));
    }
    let parts = polynomials.head_parts(weights.architecture());
    let surveys = parts.iter().map(|part| part.survey(weights)).collect::<Result<Vec<_>, _>>()?;
    let exponent = exponent_of(surveys.iter().fold(0.0, |most, survey| survey.largest.max(most)));
    let mut shards = Vec::with_capacity(parts.len());
    for (shard, ((part, survey), known)) in parts.into_iter().zip(&surveys).zip(known).enumerate() {
        if let Some(known) = known {
            shards.push(known.weights);
            continue;
        }
        let polynomial = PolynomialWeights {
            weights,
            layout: Arc::clone(&polynomials.head_layout),
            parts: vec![part],
            digests: vec![survey.digest],
            exponents: vec![exponent],
        };
        shards.push(committer.commit(polynomials.layers + shard, &polynomial, &polynomials.head_code)?);
    }
    Ok((shards, exponent))
}

/// Digests of all embedding rows, read row by row.
fn embedding_table<W: ModelWeights + ?Sized>(weights: &W, profile: Profile) -> Result<EmbeddingTable, W::Error> {
    let (vocabulary, hidden) = (weights.architecture().vocab_size as usize, weights.architecture().hidden as usize);
    let buffers = || (vec![0.0_f32; hidden], Vec::with_capacity(hidden * profile.element_bytes()));
    let digests = (0..vocabulary).into_par_iter().map_init(buffers, |(row, bytes), token| {
        weights.read(Tensor::Embeddings, token * hidden, row)?;
        bytes.clear();
        encode_row(profile, row, bytes);
        Ok(row_digest(bytes))
    });
    // All are read, so that of several errors it is always the first that is told.
    let digests: Vec<Result<[u8; 32], W::Error>> = digests.collect();
    Ok(EmbeddingTable::new(digests.into_iter().collect::<Result<_, _>>()?))
}
