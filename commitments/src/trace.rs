//! The trace commitment: every row of an execution, bound before anything is asked about it.
//!
//! There is one tree per `(H, l)`, `(A, l)`, `(O, l)`, `(M, l)` and `(KV, l, g)`, each over the
//! positions of the session, so that a prefix of a cache opens as one range. A leaf is
//! `BLAKE3_keyed(session id, kind, layer, position, group, BLAKE3(row bytes))`: a tree cannot be
//! relayed to another session, and a prefix that is served again rehashes 32 bytes a row.

mod rows;

use sha3::{Digest, Sha3_256};

use crate::codec::{self, Canonical, Malformed, Reader, Writer};
use crate::ids::{Hotkey, KvGroup, LayerIndex, ManifestId, Position, SessionId, TokenId};
use crate::manifest::Architecture;
use crate::rows::Profile;

pub use rows::{RowsError, Trace, TraceDigests, TraceRows, TraceTrees};

/// A tree of the trace, named by what its rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TreeId {
    /// The residual stream that enters a layer; at the layer count, the one that leaves the last.
    H(LayerIndex),
    /// The attention output of all heads, before the output projection.
    A(LayerIndex),
    /// What the attention branch adds to the residual stream.
    O(LayerIndex),
    /// What the MLP branch adds to the residual stream.
    M(LayerIndex),
    /// The cached key, after RoPE, and the cached value of one group, side by side.
    Kv(LayerIndex, KvGroup),
}

impl TreeId {
    /// Kind, layer and group as they stand in a leaf.
    const fn header(self) -> (u8, u32, u32) {
        match self {
            Self::H(layer) => (0, layer.get(), 0),
            Self::A(layer) => (1, layer.get(), 0),
            Self::O(layer) => (2, layer.get(), 0),
            Self::M(layer) => (3, layer.get(), 0),
            Self::Kv(layer, group) => (4, layer.get(), group.get()),
        }
    }
}

/// Digest of a row's bytes: what is hashed once however often the row is committed.
pub fn row_digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

/// The leaf of a row in a session.
pub fn leaf(session: &SessionId, tree: TreeId, position: Position, digest: &[u8; 32]) -> [u8; 32] {
    let (kind, layer, group) = tree.header();
    let mut message = [0; 45];
    let (head, tail) = message.split_at_mut(13);
    tail.copy_from_slice(digest);
    for (slot, byte) in head.iter_mut().zip(
        std::iter::once(kind).chain(layer.to_le_bytes()).chain(position.get().to_le_bytes()).chain(group.to_le_bytes()),
    ) {
        *slot = byte;
    }
    *blake3::keyed_hash(session.as_bytes(), &message).as_bytes()
}

/// Which trees a model's trace has, and in which order their roots stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceShape {
    profile: Profile,
    layers: u32,
    groups: u32,
    hidden_bytes: usize,
    attention_bytes: usize,
    kv_bytes: usize,
}

impl TraceShape {
    /// The trace shape of a model under a profile.
    pub fn new(architecture: &Architecture, profile: Profile) -> Self {
        let bytes =
            |elements: u32| usize::try_from(elements).unwrap_or(usize::MAX).saturating_mul(profile.element_bytes());
        Self {
            profile,
            layers: architecture.layers,
            groups: architecture.kv_heads,
            hidden_bytes: bytes(architecture.hidden),
            attention_bytes: bytes(architecture.query_width()),
            kv_bytes: bytes(architecture.head_dim.saturating_mul(2)),
        }
    }

    /// All trees in their fixed order: `H` of every layer and of the end, then `A`, `O`, `M` layer
    /// by layer, then the caches layer by layer and group by group.
    pub fn trees(&self) -> impl Iterator<Item = TreeId> + use<> {
        let (layers, groups) = (self.layers, self.groups);
        let streams = (0..=layers).map(|layer| TreeId::H(LayerIndex::new(layer)));
        let branches =
            (0..layers).map(LayerIndex::new).flat_map(|layer| [TreeId::A(layer), TreeId::O(layer), TreeId::M(layer)]);
        let caches = (0..layers)
            .map(LayerIndex::new)
            .flat_map(move |layer| (0..groups).map(move |group| TreeId::Kv(layer, KvGroup::new(group))));
        streams.chain(branches).chain(caches)
    }

    /// How many trees there are.
    pub fn tree_count(&self) -> usize {
        tree_count(self.layers, self.groups)
    }

    /// The place of a tree in the order; `None` for a tree that this model has not.
    pub fn tree_index(&self, tree: TreeId) -> Option<usize> {
        let (layers, groups) = (self.layers, self.groups);
        let inside = |layer: LayerIndex| (layer.get() < layers).then_some(layer.get());
        let branch = |layer: LayerIndex, which: u32| {
            inside(layer)?.checked_mul(3)?.checked_add(which)?.checked_add(layers)?.checked_add(1)
        };
        let index = match tree {
            TreeId::H(layer) => (layer.get() <= layers).then_some(layer.get()),
            TreeId::A(layer) => branch(layer, 0),
            TreeId::O(layer) => branch(layer, 1),
            TreeId::M(layer) => branch(layer, 2),
            TreeId::Kv(layer, group) if group.get() < groups => inside(layer).and_then(|layer| {
                let before = layers.checked_mul(4)?.checked_add(1)?;
                layer.checked_mul(groups)?.checked_add(group.get())?.checked_add(before)
            }),
            TreeId::Kv(..) => None,
        };
        index.and_then(|index| usize::try_from(index).ok())
    }

    /// Bytes of a row of `tree`.
    pub const fn row_bytes(&self, tree: TreeId) -> usize {
        match tree {
            TreeId::H(_) | TreeId::O(_) | TreeId::M(_) => self.hidden_bytes,
            TreeId::A(_) => self.attention_bytes,
            TreeId::Kv(..) => self.kv_bytes,
        }
    }
}

/// Why an answer ended. A closed set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop token was picked; it is the last output token.
    StopToken,
    /// The text came to contain one of the request's stop strings.
    StopString,
    /// The request's or the model's limit on tokens was reached.
    Length,
}

impl FinishReason {
    /// The name that users see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::StopToken => "stop_token",
            Self::StopString => "stop_string",
            Self::Length => "length",
        }
    }
}

impl Canonical for FinishReason {
    fn write(&self, out: &mut Writer) {
        out.u8(match self {
            Self::StopToken => 0,
            Self::StopString => 1,
            Self::Length => 2,
        });
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => Ok(Self::StopToken),
            1 => Ok(Self::StopString),
            2 => Ok(Self::Length),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

/// Most token ids of a prompt or an answer that any commitment may hold.
pub const MAX_TOKENS: usize = 1 << 20;
/// Most trees that any commitment may hold.
pub const MAX_TREES: usize = 1 << 20;

/// Trees of a trace: of every layer its stream, attention output, two branches and groups, and the stream at the end.
pub(crate) fn tree_count(layers: u32, groups: u32) -> usize {
    let trees = layers.saturating_mul(groups.saturating_add(4)).saturating_add(1);
    usize::try_from(trees).unwrap_or(usize::MAX)
}

/// What a miner signs before it learns what will be asked. It has no free field: a validator
/// recomputes or checks every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceCommitment {
    /// The session, and with it everything the request says.
    pub session: SessionId,
    /// The model served.
    pub manifest: ManifestId,
    /// The miner.
    pub miner: Hotkey,
    /// The validator.
    pub validator: Hotkey,
    /// The prompt as tokens.
    pub prompt: Vec<TokenId>,
    /// The answer as tokens; a stop token is part of it.
    pub output: Vec<TokenId>,
    /// Why the answer ended.
    pub finish: FinishReason,
    /// Roots of the trace's trees, in the order of [`TraceShape::trees`].
    pub roots: Vec<[u8; 32]>,
}

impl TraceCommitment {
    /// The digest that is signed and that the challenge depends on.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha3_256::new();
        hash.update(crate::domains::TRACE_COMMITMENT);
        hash.update(codec::encode(self));
        hash.finalize().into()
    }

    /// Positions of the trace: the prompt and every output token that was fed back. `None` unless
    /// prompt and output have a token each.
    pub fn positions(&self) -> Option<usize> {
        if self.prompt.is_empty() {
            return None;
        }
        self.prompt.len().checked_add(self.output.len().checked_sub(1)?)
    }
}

impl Canonical for TraceCommitment {
    fn write(&self, out: &mut Writer) {
        out.raw(self.session.as_bytes());
        out.raw(self.manifest.as_bytes());
        out.raw(self.miner.as_bytes());
        out.raw(self.validator.as_bytes());
        for tokens in [&self.prompt, &self.output] {
            out.list(&tokens.iter().map(|token| token.get()).collect::<Vec<_>>());
        }
        out.value(&self.finish);
        out.list(&self.roots);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let tokens = |from: &mut Reader<'_>| Ok(from.list::<u32>(MAX_TOKENS)?.into_iter().map(TokenId::new).collect());
        Ok(Self {
            session: SessionId::new(from.array()?),
            manifest: ManifestId::new(from.array()?),
            miner: Hotkey::new(from.array()?),
            validator: Hotkey::new(from.array()?),
            prompt: tokens(from)?,
            output: tokens(from)?,
            finish: from.value()?,
            roots: from.list(MAX_TREES)?,
        })
    }
}
