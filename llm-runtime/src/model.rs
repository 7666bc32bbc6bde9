//! Weights as tensors, and one pass over them.

use assay_audit::model::ModelTensors;
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::Profile;
use assay_commitments::trace::TreeId;
use assay_commitments::{LayerIndex, TokenId};
use candle_core::{Device, Tensor};
use candle_nn::kv_cache::Cache;

use crate::block::{Block, Pass, check_size, matrix, vector};
use crate::capture::{Recorder, check_finite, with_values};
use crate::error::RunError;
use crate::kernels::{Attention, GatedSilu, RmsNorm, Rotate, Round, Weights, product};

/// A model, ready to run. Cloning shares the weights; sessions on several threads share a model.
#[derive(Clone, Debug)]
pub struct Model {
    architecture: Architecture,
    profile: Profile,
    window: Option<usize>,
    /// Slices in which the layers' products are summed; `None` for one sum.
    split: Option<usize>,
    /// Whether keys and values are cached as eight-bit integers.
    int8_cache: bool,
    /// `[vocab_size, hidden]`.
    embeddings: Tensor,
    blocks: Vec<Block>,
    final_norm: Tensor,
    /// `[vocab_size, hidden]`.
    head: Weights,
}

impl Model {
    /// Makes a model of weights as they are; only embedding rows are rounded, on their way in.
    ///
    /// # Errors
    /// A number of the architecture out of range, or a tensor of another size than it says.
    pub fn new(architecture: &Architecture, tensors: &ModelTensors, profile: Profile) -> Result<Self, RunError> {
        architecture.check()?;
        let hidden = architecture.hidden as usize;
        let table = architecture.vocab_size as usize * hidden;
        check_size(|| "embedding table".to_owned(), &tensors.embeddings, table)?;
        check_size(|| "lm_head".to_owned(), tensors.head(), table)?;
        if tensors.layers.len() != architecture.layers as usize {
            return Err(RunError::Layers { found: tensors.layers.len(), expected: architecture.layers });
        }
        let blocks = tensors.layers.iter().enumerate().map(|(index, layer)| Block::new(architecture, index, layer));
        let embeddings = matrix(&tensors.embeddings, hidden)?;
        let head = match &tensors.head {
            Some(head) => matrix(head, hidden)?,
            None => embeddings.clone(),
        };
        Ok(Self {
            architecture: architecture.clone(),
            profile,
            window: None,
            split: None,
            int8_cache: false,
            embeddings,
            blocks: blocks.collect::<Result<_, _>>()?,
            final_norm: vector("final norm", &tensors.final_norm, hidden)?,
            head: Weights::F32(head),
        })
    }

    /// The same weights with sliding-window attention: a position attends to the last `window`
    /// positions, its own included. A window of 0 counts as 1.
    #[must_use]
    pub fn with_window(&self, window: usize) -> Self {
        Self { window: Some(window.max(1)), ..self.clone() }
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

    /// Runs the tokens of positions `start..` and gives the logits after the last, one an entry of
    /// the vocabulary, not rounded. The caller has checked tokens and context.
    pub(crate) fn forward(
        &self,
        tokens: &[TokenId],
        start: usize,
        caches: &mut [Cache],
        mut recorder: Option<&mut Recorder>,
    ) -> Result<Vec<f32>, RunError> {
        let pass = self.pass(start, tokens.len())?;
        let ids: Vec<u32> = tokens.iter().map(|token| token.get()).collect();
        let mut stream = self.embeddings.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        stream.inplace_op1(&Round(self.profile))?;
        for ((layer, block), cache) in (0..).zip(&self.blocks).zip(caches) {
            stream = block.forward(LayerIndex::new(layer), &stream, &pass, cache, recorder.as_deref_mut())?;
        }
        if let Some(recorder) = recorder {
            recorder.rows(TreeId::H(LayerIndex::new(self.architecture.layers)), &stream)?;
        }
        let last = stream.narrow(0, tokens.len() - 1, 1)?.apply_op2_no_bwd(&self.final_norm, &pass.norm)?;
        with_values(&product(&last, &self.head)?, |logits| {
            check_finite(logits, || "the logits".to_owned())?;
            Ok(logits.to_vec())
        })
    }

    fn pass(&self, start: usize, count: usize) -> Result<Pass, RunError> {
        let (profile, architecture) = (self.profile, &self.architecture);
        let (heads, kv_heads) = (architecture.heads as usize, architecture.kv_heads as usize);
        let head_dim = architecture.head_dim as usize;
        let angles = angles(&architecture.inverse_frequencies, start, count);
        Ok(Pass {
            split: self.split,
            int8_cache: self.int8_cache,
            norm: RmsNorm { eps: architecture.norm_eps, profile },
            rotate: Rotate { heads: heads + kv_heads, head_dim, profile },
            attention: Attention { heads, kv_heads, head_dim, window: self.window, profile },
            mlp: GatedSilu { ffn: architecture.ffn as usize, profile },
            angles: Tensor::from_vec(angles, (count, head_dim), &Device::Cpu)?,
        })
    }
}

/// Cosines, then sines, of `f32(position) * frequency`, position by position, all in f32.
fn angles(frequencies: &[f32], start: usize, count: usize) -> Vec<f32> {
    let mut angles = Vec::with_capacity(2 * frequencies.len() * count);
    for position in start..start + count {
        #[expect(clippy::cast_precision_loss, reason = "positions stay below 2^20")]
        let turned = frequencies.iter().map(|frequency| position as f32 * frequency);
        angles.extend(turned.clone().map(f32::cos));
        angles.extend(turned.map(f32::sin));
    }
    angles
}
