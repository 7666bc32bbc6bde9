//! Weights as tensors, and one pass over them.

use std::fmt::Display;

use assay_audit::commit::Tensor as Name;
use assay_audit::model::{InMemory, ModelTensors};
use assay_commitments::manifest::{Architecture, Matrix, Small};
use assay_commitments::rows::{Element, Profile};
use assay_commitments::trace::TreeId;
use assay_commitments::{LayerIndex, TokenId};
use candle_core::{DType, Tensor};
use half::bf16;
use rayon::prelude::*;

use crate::awake::while_awake;
use crate::block::{Block, Pass};
use crate::cache::Cache;
use crate::capture::Recorder;
use crate::device::Device;
use crate::error::RunError;
use crate::kernels::{self, Attention, GatedSilu, NormHeads, RmsNorm, Rotate, Round, product};
use crate::quantized::{Quantized, Weights};

/// Weights that are read at a time on their way into a tensor.
const PIECE: usize = 1 << 15;

/// A model, ready to run. Cloning shares the weights; sessions on several threads share a model.
#[derive(Clone, Debug)]
pub struct Model {
    architecture: Architecture,
    profile: Profile,
    /// Where all tensors lie.
    device: Device,
    /// How many positions, its own included, a position attends to; `None` for all before it.
    window: Option<usize>,
    /// Slices in which the layers' products are summed; `None` for one sum.
    split: Option<usize>,
    /// Whether keys and values are cached as eight-bit integers.
    int8_cache: bool,
    /// `[vocab_size, hidden]`.
    embeddings: kernels::Weights,
    blocks: Vec<Block>,
    final_norm: Tensor,
    /// `[vocab_size, hidden]`.
    head: kernels::Weights,
}

/// The tokens of one sequence in a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run<'a> {
    pub(crate) tokens: &'a [TokenId],
    /// Position of the first of them.
    pub(crate) start: usize,
    /// Has room for them, and holds what came before.
    pub(crate) cache: &'a Cache,
    /// Whether the logits after the last of them are asked for.
    pub(crate) logits: bool,
}

impl Model {
    /// Makes a model of weights in memory; see [`Self::load`].
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn new(architecture: &Architecture, tensors: &ModelTensors, profile: Profile) -> Result<Self, RunError> {
        architecture.check()?;
        let weights = InMemory::new(architecture, tensors).map_err(|error| RunError::Weights(error.to_string()))?;
        Self::load(&weights, profile)
    }

    /// Reads the weights of a model tensor by tensor onto the CPU, into the form in which they run: matrices in the type
    /// of the profile's activations, or as integers where the profile has them and they are stored so.
    ///
    /// # Errors
    /// A number of the architecture out of range; what the source of the weights says.
    pub fn load<W: Weights>(weights: &W, profile: Profile) -> Result<Self, RunError>
    where
        W::Error: Display,
    {
        let architecture = weights.architecture().clone();
        architecture.check()?;
        let loader = Source { weights, profile };
        let table = [architecture.vocab_size as usize, architecture.hidden as usize];
        let embeddings = loader.dense(Name::Embeddings, table)?;
        let head = if architecture.tied { embeddings.clone() } else { loader.dense(Name::Head, table)? };
        Ok(Self {
            profile,
            device: Device::CPU,
            window: architecture.window.map(|window| window as usize),
            split: None,
            int8_cache: false,
            embeddings,
            blocks: (0..architecture.layers as usize)
                .map(|layer| Block::load(&loader, layer))
                .collect::<Result<_, _>>()?,
            final_norm: loader.vector(Name::FinalNorm)?,
            head,
            architecture,
        })
    }

    /// The same model on a device. Sums have another order there, and rows may have other last bits.
    ///
    /// # Errors
    /// No room on it.
    pub fn on(&self, device: &Device) -> Result<Self, RunError> {
        let tensors = device.tensors();
        let embeddings = self.embeddings.on(tensors)?;
        let head = if self.architecture.tied { embeddings.clone() } else { self.head.on(tensors)? };
        let blocks = self.blocks.iter().map(|block| block.on(tensors)).collect::<candle_core::Result<_>>()?;
        let final_norm = self.final_norm.to_device(tensors)?;
        Ok(Self { device: device.clone(), embeddings, blocks, final_norm, head, ..self.clone() })
    }

    /// The same weights with another sliding window: a position attends to the last `window` positions,
    /// its own included. A window of 0 counts as 1.
    #[must_use]
    pub fn with_window(&self, window: usize) -> Self {
        Self { window: Some(window.max(1)), ..self.clone() }
    }

    /// The same layers over and over, `layers` in all, which share their weights: a deep model for measurements.
    #[must_use]
    pub fn with_layers(&self, layers: u32) -> Self {
        let architecture = Architecture { layers, ..self.architecture.clone() };
        let blocks = self.blocks.iter().cycle().take(layers as usize).cloned().collect();
        Self { architecture, blocks, ..self.clone() }
    }

    /// The same weights with products that are summed in `parts` slices of their inputs, each sum rounded
    /// to bf16: what no profile allows.
    #[must_use]
    pub fn with_split_products(&self, parts: usize) -> Self {
        Self { split: Some(parts), ..self.clone() }
    }

    /// The same weights with keys and values rounded to eight-bit integers in the cache, one scale a
    /// head, after their rows are captured: what no profile allows.
    #[must_use]
    pub fn with_int8_cache(&self) -> Self {
        Self { int8_cache: true, ..self.clone() }
    }

    /// Shapes and constants.
    pub const fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Where values are rounded.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// What it runs on.
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// Checks tokens that are to follow `start` others.
    ///
    /// # Errors
    /// [`RunError::EmptyPrompt`], [`RunError::UnknownToken`], [`RunError::ContextFull`].
    pub(crate) fn check(&self, tokens: &[TokenId], start: usize) -> Result<(), RunError> {
        let Architecture { vocab_size: vocabulary, max_positions: limit, .. } = self.architecture;
        if tokens.is_empty() {
            return Err(RunError::EmptyPrompt);
        }
        if let Some(&token) = tokens.iter().find(|token| token.get() >= vocabulary) {
            return Err(RunError::UnknownToken { token, vocabulary });
        }
        let positions = start + tokens.len();
        if positions > limit as usize { Err(RunError::ContextFull { positions, limit }) } else { Ok(()) }
    }

    /// Runs the tokens of several sequences in one pass, and gives the logits `[wanted, vocab_size]` of
    /// those that want them, on the CPU and not rounded; `None` if no sequence does. What is computed for a sequence does
    /// not depend on the others. Tokens, context and room in the caches were checked.
    pub(crate) fn forward(
        &self,
        runs: &[Run<'_>],
        recorder: Option<&Recorder<'_>>,
    ) -> candle_core::Result<Option<Tensor>> {
        while_awake(|| recorder.is_some_and(Recorder::help), || self.forward_here(runs, recorder))
    }

    fn forward_here(&self, runs: &[Run<'_>], recorder: Option<&Recorder<'_>>) -> candle_core::Result<Option<Tensor>> {
        let pass = self.pass(runs, recorder)?;
        let ids: Vec<u32> = runs.iter().flat_map(|run| run.tokens).map(|token| token.get()).collect();
        let mut stream = self.embed(ids)?;
        for (layer, block) in (0..).zip(&self.blocks) {
            stream = block.forward(LayerIndex::new(layer), &stream, &pass)?;
        }
        pass.record(TreeId::H(LayerIndex::new(self.architecture.layers)), &stream);
        let ends = runs.iter().scan(0, |end, run| {
            *end += run.tokens.len();
            Some((*end, run.logits))
        });
        let wanted: Vec<Tensor> = ends
            .filter(|(_, logits)| *logits)
            .map(|(end, _)| stream.narrow(0, end - 1, 1))
            .collect::<candle_core::Result<_>>()?;
        if wanted.is_empty() {
            return Ok(None);
        }
        let last = pass.norm.run(&Tensor::cat(&wanted, 0)?, &self.final_norm)?;
        product(&last, &self.head)?.to_device(&candle_core::Device::Cpu).map(Some)
    }

    /// Rows of the embedding table, as they enter the first layer.
    fn embed(&self, ids: Vec<u32>) -> candle_core::Result<Tensor> {
        let (kernels::Weights::F32(table) | kernels::Weights::Bf16(table)) = &self.embeddings else {
            candle_core::bail!("the embedding table is not quantised");
        };
        let ids = Tensor::new(ids, self.device.tensors())?;
        Round(self.profile).run(table.index_select(&ids, 0)?.to_dtype(DType::F32)?)
    }

    fn pass<'a>(&self, runs: &'a [Run<'a>], recorder: Option<&'a Recorder<'a>>) -> candle_core::Result<Pass<'a>> {
        let (profile, architecture) = (self.profile, &self.architecture);
        let (heads, kv_heads) = (architecture.heads as usize, architecture.kv_heads as usize);
        let head_dim = architecture.head_dim as usize;
        let positions = runs.iter().flat_map(|run| (run.start..).take(run.tokens.len()));
        let angles: Vec<f32> = positions.flat_map(|p| angles(&architecture.inverse_frequencies, p)).collect();
        let count = angles.len() / head_dim;
        let norm = RmsNorm { eps: architecture.norm_eps, profile };
        Ok(Pass {
            split: self.split,
            int8_cache: self.int8_cache,
            runs,
            recorder,
            norm,
            head_norm: NormHeads { heads, kv_heads, norm },
            rotate: Rotate { heads: heads + kv_heads, head_dim, profile },
            attention: Attention { heads, kv_heads, head_dim, window: self.window, profile },
            mlp: GatedSilu { ffn: architecture.ffn as usize, profile },
            angles: Tensor::from_vec(angles, (count, head_dim), self.device.tensors())?,
        })
    }
}

/// Cosines, then sines, of the f32 products of a position and the frequencies, as f32.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "the profile's angle is f32")]
fn angles(frequencies: &[f32], position: usize) -> impl Iterator<Item = f32> {
    let angles = frequencies.iter().map(move |frequency| f64::from(position as f32 * frequency));
    angles.clone().map(|angle| angle.cos() as f32).chain(angles.map(|angle| angle.sin() as f32))
}

/// The tensors of a layer, in the form in which they run.
pub(crate) trait Loader {
    fn matrix(&self, layer: usize, matrix: Matrix) -> Result<kernels::Weights, RunError>;
    /// Empty for one that the model has not.
    fn small(&self, layer: usize, small: Small) -> Result<Tensor, RunError>;
}

/// Weights on their way into tensors.
struct Source<'a, W> {
    weights: &'a W,
    profile: Profile,
}

impl<W: Weights> Source<'_, W>
where
    W::Error: Display,
{
    fn vector(&self, name: Name) -> Result<Tensor, RunError> {
        let values = self.weights.tensor(name).map_err(|error| RunError::Weights(error.to_string()))?;
        let length = values.len();
        Ok(Tensor::from_vec(values, length, &candle_core::Device::Cpu)?)
    }

    /// A matrix in the type of the profile's activations.
    fn dense(&self, name: Name, shape: [usize; 2]) -> Result<kernels::Weights, RunError> {
        let length = shape[0] * shape[1];
        let weights = match self.profile.element() {
            Element::F32 => kernels::Weights::f32(&self.read(name, length, |value| value)?, shape),
            Element::Bf16 => kernels::Weights::bf16(&self.read(name, length, bf16::from_f32)?, shape),
        };
        Ok(weights?)
    }

    /// Reads a tensor piece by piece, so that it is never held twice in f32.
    fn read<T: Clone + Default + Send>(
        &self,
        name: Name,
        length: usize,
        convert: impl Fn(f32) -> T + Sync,
    ) -> Result<Vec<T>, RunError> {
        let mut values = vec![T::default(); length];
        let read = values.par_chunks_mut(PIECE).enumerate().map(|(number, piece)| {
            let mut buffer = vec![0.0; piece.len()];
            self.weights.read(name, number * PIECE, &mut buffer)?;
            piece.iter_mut().zip(buffer).for_each(|(slot, value)| *slot = convert(value));
            Ok(())
        });
        let read: Vec<Result<(), W::Error>> = read.collect();
        let read: Result<(), W::Error> = read.into_iter().collect();
        read.map_err(|error| RunError::Weights(error.to_string()))?;
        Ok(values)
    }
}

impl<W: Weights> Loader for Source<'_, W>
where
    W::Error: Display,
{
    fn matrix(&self, layer: usize, matrix: Matrix) -> Result<kernels::Weights, RunError> {
        let shape = self.weights.architecture().shape(matrix);
        let shape = [shape.outputs as usize, shape.inputs as usize];
        let quantized = match self.profile {
            Profile::Bf16W8V1 => self.weights.quantized(layer, matrix),
            Profile::Bf16V1 | Profile::F32V1 => Ok(None),
        };
        match quantized.map_err(|error| RunError::Weights(error.to_string()))? {
            Some(Quantized { values, scales, group }) => {
                let bits: Vec<u8> = values.into_iter().map(i8::cast_unsigned).collect();
                Ok(kernels::Weights::int8(&bits, &scales, group, shape)?)
            }
            // Not rounded: a quantised weight need not be a number of bf16.
            None if self.profile == Profile::Bf16W8V1 => {
                let values = self.read(Name::Matrix(layer, matrix), shape[0] * shape[1], |value| value)?;
                Ok(kernels::Weights::f32(&values, shape)?)
            }
            None => self.dense(Name::Matrix(layer, matrix), shape),
        }
    }

    fn small(&self, layer: usize, small: Small) -> Result<Tensor, RunError> {
        self.vector(Name::Small(layer, small))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::CachePool;
    use crate::kernels::both;
    use crate::random::Random;
    use crate::synthetic::{self, Numbers};

    /// A model with biases, normed heads and a window.
    fn model(profile: Profile) -> Model {
        let numbers = Numbers { max_positions: 512, head_dim: 24, heads: 6, ..Numbers::TINY };
        let mut checkpoint = synthetic::checkpoint(&numbers, 8);
        checkpoint.architecture.biases = assay_commitments::manifest::Biases::Qkvo;
        checkpoint.architecture.head_norms = true;
        checkpoint.architecture.window = Some(75);
        let mut random = Random::new(2);
        for layer in &mut checkpoint.tensors.layers {
            for small in Small::ALL {
                let length = checkpoint.architecture.length(small) as usize;
                layer.small.0[small.index()] = (0..length).map(|_| 1.0 + 0.3 * random.normal()).collect();
            }
        }
        Model::new(&checkpoint.architecture, &checkpoint.tensors, profile).unwrap()
    }

    #[test]
    fn a_model_of_composed_operations_is_the_same_model() {
        for (profile, share) in [(Profile::F32V1, 1e-4), (Profile::Bf16V1, 0.05)] {
            let model = model(profile);
            let tokens: Vec<TokenId> = (0..100_u32).map(|index| TokenId::new((7 * index * index + 3) % 100)).collect();
            let [fused, composed] = both(|| {
                let pool = CachePool::new(&model, usize::MAX);
                let mut caches = [0, 0].map(|_| pool.reserve(100).unwrap());
                caches.iter_mut().for_each(|cache| cache.grow(100).unwrap());
                let [one, other] = &caches;
                let run = |cache, start, end| Run { tokens: &tokens[start..end], start, cache, logits: true };
                let passes = [vec![run(one, 0, 90)], vec![run(one, 90, 91), run(other, 0, 20)], vec![run(one, 91, 92)]];
                let logits = passes.map(|runs| model.forward_here(&runs, None).unwrap().unwrap());
                Tensor::cat(&logits, 0).unwrap().to_vec2::<f32>().unwrap()
            });
            for (fused, composed) in fused.iter().zip(&composed) {
                let largest = fused.iter().fold(0.0_f32, |largest, logit| largest.max(logit.abs()));
                for (fused, composed) in fused.iter().zip(composed) {
                    assert!((fused - composed).abs() <= share * largest, "{fused} {composed} {largest}");
                }
            }
        }
    }
}
