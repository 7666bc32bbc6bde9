//! The manifest: everything a verifier knows about a model.
//!
//! Thirty-two bytes of it, the [`ManifestId`], stand on chain. Layer counts, dimensions and code
//! parameters come from here and never from a miner.

use std::sync::Arc;

use sha3::{Digest, Sha3_256};
use thiserror::Error;

use crate::codec::{self, Canonical, Malformed, Reader, Writer};
use crate::ids::{KvGroup, ManifestId, TokenId};
use crate::layout::{Layout, MatrixShape};
use crate::params::{CodeParams, MAX_POLYNOMIALS};
use crate::rows::Profile;
use crate::trace::{MAX_TREES, tree_count};
use crate::weights::WeightCommitment;

/// The version of the manifest's encoding.
pub const MANIFEST_VERSION: u16 = 1;
/// Most bytes of a manifest, a bound to be set before one is read: one of 1024 layers and a million tokens stays
/// below it.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;

/// The seven matrices of a decoder layer, in the order in which a layer polynomial holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Matrix {
    /// Query projection.
    Q,
    /// Key projection.
    K,
    /// Value projection.
    V,
    /// Output projection of the attention branch.
    O,
    /// Gate projection of the MLP.
    Gate,
    /// Up projection of the MLP.
    Up,
    /// Down projection of the MLP.
    Down,
}

impl Matrix {
    /// All of them, in order.
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// Its place in the order.
    pub const fn index(self) -> usize {
        match self {
            Self::Q => 0,
            Self::K => 1,
            Self::V => 2,
            Self::O => 3,
            Self::Gate => 4,
            Self::Up => 5,
            Self::Down => 6,
        }
    }

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q => "q_proj",
            Self::K => "k_proj",
            Self::V => "v_proj",
            Self::O => "o_proj",
            Self::Gate => "gate_proj",
            Self::Up => "up_proj",
            Self::Down => "down_proj",
        }
    }
}

/// The small tensors of a decoder layer, in the order in which their digest takes them. Not every model has
/// all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Small {
    /// Weights of the norm before attention.
    InputNorm,
    /// Weights of the norm before the MLP.
    PostNorm,
    /// Weights of the norm of every query head.
    QueryNorm,
    /// Weights of the norm of every key head.
    KeyNorm,
    /// What is added to the query projection.
    QueryBias,
    /// What is added to the key projection.
    KeyBias,
    /// What is added to the value projection.
    ValueBias,
    /// What is added to the output projection.
    OutputBias,
}

impl Small {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::InputNorm,
        Self::PostNorm,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::QueryBias,
        Self::KeyBias,
        Self::ValueBias,
        Self::OutputBias,
    ];

    /// Its place in the order.
    pub const fn index(self) -> usize {
        match self {
            Self::InputNorm => 0,
            Self::PostNorm => 1,
            Self::QueryNorm => 2,
            Self::KeyNorm => 3,
            Self::QueryBias => 4,
            Self::KeyBias => 5,
            Self::ValueBias => 6,
            Self::OutputBias => 7,
        }
    }

    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputNorm => "input norm",
            Self::PostNorm => "post-attention norm",
            Self::QueryNorm => "query norm",
            Self::KeyNorm => "key norm",
            Self::QueryBias => "query bias",
            Self::KeyBias => "key bias",
            Self::ValueBias => "value bias",
            Self::OutputBias => "output bias",
        }
    }

    /// What is added to the products with `matrix`, if anything ever is.
    pub const fn bias_of(matrix: Matrix) -> Option<Self> {
        match matrix {
            Matrix::Q => Some(Self::QueryBias),
            Matrix::K => Some(Self::KeyBias),
            Matrix::V => Some(Self::ValueBias),
            Matrix::O => Some(Self::OutputBias),
            Matrix::Gate | Matrix::Up | Matrix::Down => None,
        }
    }
}

/// Which projections of the attention branch have a bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Biases {
    /// None of them.
    None,
    /// Query, key and value.
    Qkv,
    /// Query, key, value and output.
    Qkvo,
}

impl Biases {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Qkv => "q, k, v",
            Self::Qkvo => "q, k, v, o",
        }
    }
}

impl Canonical for Biases {
    fn write(&self, out: &mut Writer) {
        out.u8(match self {
            Self::None => 0,
            Self::Qkv => 1,
            Self::Qkvo => 2,
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::None),
            1 => Ok(Self::Qkv),
            2 => Ok(Self::Qkvo),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// The numbers of a Llama-style decoder: grouped-query attention, rotary positions over split
/// halves, RMS norms, a gated SiLU MLP. The families differ in biases, norms of query and key heads, and
/// windows.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Entries of the vocabulary.
    pub vocab_size: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Decoder layers.
    pub layers: u32,
    /// Query heads.
    pub heads: u32,
    /// Key and value heads, a divisor of `heads`.
    pub kv_heads: u32,
    /// Width of a head, even.
    pub head_dim: u32,
    /// Width of the MLP.
    pub ffn: u32,
    /// Most positions of a session, prompt and answer together.
    pub max_positions: u32,
    /// Epsilon of every RMS norm.
    pub norm_eps: f32,
    /// Inverse frequencies of the rotary angles, `head_dim / 2` of them, as f32.
    pub inverse_frequencies: Vec<f32>,
    /// Whether lm_head is the embedding table.
    pub tied: bool,
    /// Which projections have a bias.
    pub biases: Biases,
    /// Whether every query head and key head is normed before it is rotated.
    pub head_norms: bool,
    /// How many positions, its own included, a position attends to; `None` for all before it.
    pub window: Option<u32>,
    /// Tokens that end an answer, ascending.
    pub stop_tokens: Vec<TokenId>,
}

/// Which number of an architecture is out of its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the architecture's {0} is out of range")]
pub struct ArchitectureError(pub &'static str);

impl Architecture {
    /// Checks every number against its range. A manifest that was read has passed it.
    ///
    /// # Errors
    /// The name of the first number out of range.
    pub fn check(&self) -> Result<(), ArchitectureError> {
        let within = |name, ok: bool| if ok { Ok(()) } else { Err(ArchitectureError(name)) };
        within("vocab_size", (1..=1 << 20).contains(&self.vocab_size))?;
        within("hidden", (1..=1 << 16).contains(&self.hidden))?;
        within("layers", (1..=1024).contains(&self.layers))?;
        within("heads", (1..=1024).contains(&self.heads))?;
        within("kv_heads", self.kv_heads >= 1 && self.heads.is_multiple_of(self.kv_heads))?;
        within("number of layers times kv_heads", tree_count(self.layers, self.kv_heads) <= MAX_TREES)?;
        within("head_dim", (2..=1024).contains(&self.head_dim) && self.head_dim.is_multiple_of(2))?;
        within("ffn", (1..=1 << 18).contains(&self.ffn))?;
        within("max_positions", (1..=1 << 20).contains(&self.max_positions))?;
        within("norm_eps", self.norm_eps.is_normal() && self.norm_eps > 0.0 && self.norm_eps < 1.0)?;
        let pairs = usize::try_from(self.head_dim / 2).unwrap_or(usize::MAX);
        let sane = |frequency: &f32| *frequency >= 0.0 && *frequency <= 1.0 && frequency.to_bits() != 1 << 31;
        within(
            "inverse_frequencies",
            self.inverse_frequencies.len() == pairs && self.inverse_frequencies.iter().all(sane),
        )?;
        // A window over the whole context is none: one number for one model.
        within("window", self.window.is_none_or(|window| (1..self.max_positions).contains(&window)))?;
        let ascending = self.stop_tokens.windows(2).all(|pair| pair[0] < pair[1]);
        let known = self.stop_tokens.iter().all(|token| token.get() < self.vocab_size);
        within("stop_tokens", self.stop_tokens.len() <= 16 && ascending && known)
    }

    /// Width of all query heads together.
    pub const fn query_width(&self) -> u32 {
        self.heads.saturating_mul(self.head_dim)
    }

    /// Width of all key heads together.
    pub const fn kv_width(&self) -> u32 {
        self.kv_heads.saturating_mul(self.head_dim)
    }

    /// Query heads that share a key head.
    pub const fn heads_per_group(&self) -> u32 {
        match self.heads.checked_div(self.kv_heads) {
            Some(heads) => heads,
            None => 0,
        }
    }

    /// The outputs of the query projection that belong to the heads of a group.
    pub fn query_outputs(&self, group: KvGroup) -> std::ops::Range<usize> {
        let width = u64::from(self.head_dim).saturating_mul(self.heads_per_group().into());
        let first = width.saturating_mul(group.get().into());
        let place = |output: u64| usize::try_from(output).unwrap_or(usize::MAX);
        place(first)..place(first.saturating_add(width))
    }

    /// Inputs and outputs of a layer's matrix.
    pub const fn shape(&self, matrix: Matrix) -> MatrixShape {
        let (inputs, outputs) = match matrix {
            Matrix::Q => (self.hidden, self.query_width()),
            Matrix::K | Matrix::V => (self.hidden, self.kv_width()),
            Matrix::O => (self.query_width(), self.hidden),
            Matrix::Gate | Matrix::Up => (self.hidden, self.ffn),
            Matrix::Down => (self.ffn, self.hidden),
        };
        MatrixShape { inputs, outputs }
    }

    /// The length of a small tensor of a layer; 0 for one that this model has not.
    pub const fn length(&self, small: Small) -> u32 {
        match (small, self.biases, self.head_norms) {
            (Small::InputNorm | Small::PostNorm, _, _) | (Small::OutputBias, Biases::Qkvo, _) => self.hidden,
            (Small::QueryNorm | Small::KeyNorm, _, true) => self.head_dim,
            (Small::QueryBias, Biases::Qkv | Biases::Qkvo, _) => self.query_width(),
            (Small::KeyBias | Small::ValueBias, Biases::Qkv | Biases::Qkvo, _) => self.kv_width(),
            (Small::QueryNorm | Small::KeyNorm, _, false)
            | (Small::QueryBias | Small::KeyBias | Small::ValueBias, Biases::None, _)
            | (Small::OutputBias, Biases::None | Biases::Qkv, _) => 0,
        }
    }

    /// The first position that `position` attends to.
    pub const fn first_attended(&self, position: u32) -> u32 {
        match self.window {
            Some(window) => position.saturating_add(1).saturating_sub(window),
            None => 0,
        }
    }

    /// Where the weights of a layer lie in its polynomial.
    ///
    /// # Errors
    /// A layer too large for any commitment.
    pub fn layer_layout(&self) -> Result<Layout, ArchitectureError> {
        Layout::new(&Matrix::ALL.map(|matrix| self.shape(matrix))).map_err(|_| ArchitectureError("layer size"))
    }

    /// Vocabulary entries in one shard of lm_head: as many as fit the size of a layer, so that one
    /// opening costs about what the other does.
    ///
    /// # Errors
    /// A layer too large for any commitment.
    pub fn head_block(&self) -> Result<u32, ArchitectureError> {
        let layer_log = self.layer_layout()?.log_size();
        let input_log = self.hidden.next_power_of_two().trailing_zeros();
        let all = self.vocab_size.next_power_of_two();
        Ok(1_u32.checked_shl(layer_log.saturating_sub(input_log)).unwrap_or(all).min(all))
    }

    /// Shards of lm_head; the last is padded with zeros.
    ///
    /// # Errors
    /// A layer too large for any commitment.
    pub fn head_shards(&self) -> Result<u32, ArchitectureError> {
        Ok(self.vocab_size.div_ceil(self.head_block()?))
    }

    /// Where the weights of a shard of lm_head lie in its polynomial.
    ///
    /// # Errors
    /// A shard too large for any commitment.
    pub fn head_layout(&self) -> Result<Layout, ArchitectureError> {
        let shape = MatrixShape { inputs: self.hidden, outputs: self.head_block()? };
        Layout::new(&[shape]).map_err(|_| ArchitectureError("lm_head size"))
    }
}

impl Canonical for Architecture {
    fn write(&self, out: &mut Writer) {
        for number in [
            self.vocab_size,
            self.hidden,
            self.layers,
            self.heads,
            self.kv_heads,
            self.head_dim,
            self.ffn,
            self.max_positions,
            self.norm_eps.to_bits(),
        ] {
            out.u32(number);
        }
        out.list(&self.inverse_frequencies.iter().map(|frequency| frequency.to_bits()).collect::<Vec<_>>());
        out.value(&self.tied);
        out.value(&self.biases);
        out.value(&self.head_norms);
        out.value(&self.window);
        out.list(&self.stop_tokens.iter().map(|token| token.get()).collect::<Vec<_>>());
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let architecture = Self {
            vocab_size: from.u32()?,
            hidden: from.u32()?,
            layers: from.u32()?,
            heads: from.u32()?,
            kv_heads: from.u32()?,
            head_dim: from.u32()?,
            ffn: from.u32()?,
            max_positions: from.u32()?,
            norm_eps: f32::from_bits(from.u32()?),
            inverse_frequencies: from.list::<u32>(512)?.into_iter().map(f32::from_bits).collect(),
            tied: from.value()?,
            biases: from.value()?,
            head_norms: from.value()?,
            window: from.value()?,
            stop_tokens: from.list::<u32>(16)?.into_iter().map(TokenId::new).collect(),
        };
        architecture.check().map_err(|_| Malformed::NotCanonical)?;
        Ok(architecture)
    }
}

/// What a manifest says of one decoder layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerEntry {
    /// Commitment to the layer's polynomial.
    pub weights: WeightCommitment,
    /// Fixed-point exponents of the seven matrices.
    pub exponents: [i16; 7],
    /// Digest of the layer's small tensors.
    pub small: [u8; 32],
}

impl Canonical for LayerEntry {
    fn write(&self, out: &mut Writer) {
        out.value(&self.weights);
        self.exponents.iter().for_each(|exponent| out.u16(exponent.cast_unsigned()));
        out.raw(&self.small);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let weights = from.value()?;
        let mut exponents = [0; 7];
        from.each::<_, _, ()>(&mut exponents, |from, exponent| {
            *exponent = read_exponent(from)?;
            Ok(())
        })?;
        Ok(Self { weights, exponents, small: from.array()? })
    }
}

/// f32 weights have exponents from -149 to 127.
fn read_exponent(from: &mut Reader<'_>) -> Result<i16, Malformed> {
    let exponent = from.u16()?.cast_signed();
    if (-149..=127).contains(&exponent) { Ok(exponent) } else { Err(Malformed::NotCanonical) }
}

/// What a manifest says of lm_head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadEntry {
    /// Commitments to the shards, by vocabulary block.
    pub shards: Vec<WeightCommitment>,
    /// Fixed-point exponent of the whole matrix.
    pub exponent: i16,
    /// Digest of the final norm's weights.
    pub small: [u8; 32],
}

/// A model, committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Shapes and constants.
    pub architecture: Architecture,
    /// How the runtime rounds.
    pub profile: Profile,
    /// BLAKE3 of the tokenizer file.
    pub tokenizer: [u8; 32],
    /// BLAKE3 of the chat template, for models that have one.
    pub chat_template: Option<[u8; 32]>,
    /// Code of the layers' commitments.
    pub layer_code: CodeParams,
    /// Code of the commitments to lm_head's shards.
    pub head_code: CodeParams,
    /// Root over the digests of all embedding rows, as they enter layer 0.
    pub embeddings: [u8; 32],
    /// The decoder layers.
    pub layers: Vec<LayerEntry>,
    /// The final norm and lm_head.
    pub head: HeadEntry,
}

impl Manifest {
    /// The id that stands on chain: SHA3-256 of a domain and the canonical bytes.
    pub fn id(&self) -> ManifestId {
        let mut hash = Sha3_256::new();
        hash.update(crate::domains::MANIFEST_ID);
        hash.update(codec::encode(self));
        ManifestId::new(hash.finalize().into())
    }

    /// The layout of every layer.
    pub fn layer_layout(&self) -> Arc<Layout> {
        Arc::new(self.architecture.layer_layout().expect("a manifest's layout was checked when it was made"))
    }

    /// The layout of every shard of lm_head.
    pub fn head_layout(&self) -> Arc<Layout> {
        Arc::new(self.architecture.head_layout().expect("a manifest's layout was checked when it was made"))
    }

    /// Whether the parts agree with each other: the counts, and the code parameters with the layouts.
    /// A layout has one legal code, the one that the search finds: what a manifest could otherwise
    /// choose (more queries, a lower rate) only makes others work. That code is secure for every layout.
    fn is_consistent(&self) -> bool {
        let architecture = &self.architecture;
        let (Ok(layer), Ok(head), Ok(shards)) =
            (architecture.layer_layout(), architecture.head_layout(), architecture.head_shards())
        else {
            return false;
        };
        self.layer_code == CodeParams::for_layout(&layer)
            && self.head_code == CodeParams::for_layout(&head)
            && u32::try_from(self.layers.len()) == Ok(architecture.layers)
            && u32::try_from(self.head.shards.len()) == Ok(shards)
    }
}

impl Canonical for Manifest {
    fn write(&self, out: &mut Writer) {
        out.u16(MANIFEST_VERSION);
        out.value(&self.architecture);
        out.value(&self.profile);
        out.raw(&self.tokenizer);
        out.value(&self.chat_template);
        out.value(&self.layer_code);
        out.value(&self.head_code);
        out.raw(&self.embeddings);
        out.list(&self.layers);
        out.list(&self.head.shards);
        out.u16(self.head.exponent.cast_unsigned());
        out.raw(&self.head.small);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        if from.u16()? != MANIFEST_VERSION {
            return Err(Malformed::NotCanonical);
        }
        let manifest = Self {
            architecture: from.value()?,
            profile: from.value()?,
            tokenizer: from.array()?,
            chat_template: from.value()?,
            layer_code: from.value()?,
            head_code: from.value()?,
            embeddings: from.array()?,
            layers: from.list(1024)?,
            head: HeadEntry {
                shards: from.list(MAX_POLYNOMIALS)?,
                exponent: read_exponent(from)?,
                small: from.array()?,
            },
        };
        if manifest.is_consistent() { Ok(manifest) } else { Err(Malformed::NotCanonical) }
    }
}

/// The small tensors of a decoder layer as f32, in the order of [`Small::ALL`]; empty where the model has none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SmallTensors(pub [Vec<f32>; 8]);

impl SmallTensors {
    /// One of them.
    pub const fn get(&self, small: Small) -> &[f32] {
        let [input_norm, post_norm, query_norm, key_norm, query_bias, key_bias, value_bias, output_bias] = &self.0;
        match small {
            Small::InputNorm => input_norm.as_slice(),
            Small::PostNorm => post_norm.as_slice(),
            Small::QueryNorm => query_norm.as_slice(),
            Small::KeyNorm => key_norm.as_slice(),
            Small::QueryBias => query_bias.as_slice(),
            Small::KeyBias => key_bias.as_slice(),
            Small::ValueBias => value_bias.as_slice(),
            Small::OutputBias => output_bias.as_slice(),
        }
    }

    /// What is added to the products with `matrix`; empty if nothing is.
    pub fn bias(&self, matrix: Matrix) -> &[f32] {
        Small::bias_of(matrix).map_or(&[], |bias| self.get(bias))
    }

    /// The digest that stands in a manifest.
    pub fn digest(&self) -> [u8; 32] {
        small_digest(&self.0.each_ref().map(Vec::as_slice))
    }
}

/// Digest of the small tensors of a layer, in the order of [`Small::ALL`], or of the one of the head, as f32.
pub fn small_digest(vectors: &[&[f32]]) -> [u8; 32] {
    let mut hash = blake3::Hasher::new();
    hash.update(crate::domains::SMALL_TENSORS);
    for vector in vectors {
        hash.update(&u64::try_from(vector.len()).unwrap_or(u64::MAX).to_le_bytes());
        vector.iter().for_each(|value| {
            hash.update(&value.to_le_bytes());
        });
    }
    *hash.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use ark_ff::Field;
    use assay_sumcheck::field::E;

    use super::*;
    use crate::trace::TraceShape;

    fn manifest() -> Manifest {
        let architecture = Architecture {
            vocab_size: 100,
            hidden: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 192,
            max_positions: 64,
            norm_eps: 1e-5,
            inverse_frequencies: vec![0.5; 8],
            tied: true,
            biases: Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![TokenId::new(1)],
        };
        let code = |layout: Result<Layout, ArchitectureError>| CodeParams::for_layout(&layout.unwrap());
        let weights = WeightCommitment { root: [1; 32], evaluation: E::ONE };
        let entry = LayerEntry { weights, exponents: [0; 7], small: [2; 32] };
        let shards = vec![weights; usize::try_from(architecture.head_shards().unwrap()).unwrap()];
        Manifest {
            profile: Profile::Bf16V1,
            tokenizer: [4; 32],
            chat_template: None,
            layer_code: code(architecture.layer_layout()),
            head_code: code(architecture.head_layout()),
            embeddings: [5; 32],
            layers: vec![entry; 2],
            head: HeadEntry { shards, exponent: 0, small: [6; 32] },
            architecture,
        }
    }

    /// What a manifest allows, a commitment can hold.
    #[test]
    fn a_model_has_no_more_trees_than_a_commitment() {
        let of = |layers, kv_heads| Architecture { layers, heads: 1024, kv_heads, ..manifest().architecture };
        for (layers, kv_heads) in [(1024, 512), (1020, 1024), (1, 1024)] {
            let architecture = of(layers, kv_heads);
            assert_eq!(architecture.check(), Ok(()));
            assert!(TraceShape::new(&architecture, Profile::Bf16V1).trees().count() <= MAX_TREES);
        }
        assert_eq!(of(1021, 1024).check(), Err(ArchitectureError("number of layers times kv_heads")));
    }

    #[test]
    fn a_layout_has_one_legal_code() {
        let good = manifest();
        assert_eq!(codec::decode(&codec::encode(&good)), Ok(good.clone()));
        let changed = |change: &dyn Fn(&mut CodeParams)| {
            let (mut layer, mut head) = (good.clone(), good.clone());
            change(&mut layer.layer_code);
            change(&mut head.head_code);
            [layer, head]
        };
        // Each as secure as the legal code or more so, and dearer for whoever verifies.
        let others = [
            changed(&|code| code.levels[0].queries += 1),
            changed(&|code| code.levels[0].queries = crate::params::MAX_QUERIES),
            changed(&|code| code.levels[0].rate_log += 1),
            changed(&|code| code.levels[0].grinding += 1),
            changed(&|code| code.levels[0].fold_log ^= 1),
        ];
        for other in others.into_iter().flatten() {
            assert_eq!(codec::decode::<Manifest>(&codec::encode(&other)), Err(Malformed::NotCanonical));
        }
    }
}
