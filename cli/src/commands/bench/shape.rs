//! The shapes that are measured.

use std::sync::Arc;

use assay_commitments::TokenId;
use assay_commitments::layout::MatrixShape;
use assay_commitments::manifest::Matrix;
use assay_commitments::rows::Profile;
use assay_llm_runtime::synthetic::{ComputedWeights, Numbers};
use assay_llm_runtime::{Model, RunError};
use clap::ValueEnum;

/// The matrices of a model's layer, or of a shard of its lm_head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Shape {
    /// The fixture model, or a layer of it
    Fixture,
    /// Qwen3-0.6B, or a layer of it
    #[value(name = "qwen3-0.6b")]
    Qwen3,
    /// A layer of Llama-3 8B; where a model runs, two of them and a small vocabulary
    #[value(name = "llama-8b-layer")]
    Llama,
    /// Llama-3 8B; where it is audited, all layers have the weights of one, which are held once
    #[value(name = "llama-8b")]
    WholeLlama,
    /// A shard of lm_head of Llama-3 8B
    #[value(name = "llama-8b-head")]
    LlamaHead,
}

impl Shape {
    /// The numbers of a model that runs; a shard is none.
    pub(super) fn numbers(self) -> Option<Numbers> {
        match self {
            Self::Fixture => Some(Numbers {
                vocab_size: 1024,
                hidden: 128,
                layers: 4,
                heads: 4,
                kv_heads: 2,
                head_dim: 32,
                ffn: 384,
                max_positions: 512,
                tied: true,
                ..Numbers::TINY
            }),
            Self::Qwen3 => Some(Numbers::QWEN3_0_6B),
            Self::Llama => Some(Numbers {
                vocab_size: 1 << 15,
                hidden: 4096,
                layers: 2,
                heads: 32,
                kv_heads: 8,
                head_dim: 128,
                ffn: 14336,
                max_positions: 4096,
                ..Numbers::TINY
            }),
            Self::WholeLlama => {
                Self::Llama.numbers().map(|numbers| Numbers { vocab_size: 128_256, layers: 32, ..numbers })
            }
            Self::LlamaHead => None,
        }
    }

    /// How many layers of a model that is audited have weights of their own.
    pub(super) const fn distinct_layers(self, numbers: &Numbers) -> u32 {
        if matches!(self, Self::WholeLlama) { 1 } else { numbers.layers }
    }

    pub(super) fn matrices(self) -> Vec<MatrixShape> {
        self.numbers().map_or_else(
            || vec![MatrixShape { inputs: 4096, outputs: 65536 }],
            |numbers| Matrix::ALL.map(|matrix| numbers.architecture().shape(matrix)).to_vec(),
        )
    }
}

/// A model of random weights, as it runs under a profile.
pub(super) fn model(numbers: &Numbers, profile: Profile) -> Result<Arc<Model>, RunError> {
    Model::load(&ComputedWeights::new(numbers, 1), profile).map(Arc::new)
}

/// So many tokens, one as good as another.
pub(super) fn tokens(numbers: &Numbers, count: u32) -> Vec<TokenId> {
    (0..count).map(|index| TokenId::new(index * 37 % numbers.vocab_size)).collect()
}
