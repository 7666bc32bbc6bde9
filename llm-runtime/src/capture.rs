//! Rows on their way into a trace.

use assay_commitments::manifest::Architecture;
use assay_commitments::rows::{Profile, encode_row};
use assay_commitments::trace::{Trace, TraceShape, TreeId};
use assay_commitments::{KvGroup, LayerIndex};
use candle_core::{Storage, Tensor};

use crate::error::RunError;

/// Encodes the rows of a pass as it computes them.
///
/// Rows are taken from fresh tensors and never from the cache, which is written in place.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    trace: Trace,
    profile: Profile,
    kv_heads: usize,
    head_dim: usize,
    /// Reused between rows.
    bytes: Vec<u8>,
}

impl Recorder {
    pub(crate) fn new(architecture: &Architecture, profile: Profile) -> Self {
        Self {
            trace: Trace::new(TraceShape::new(architecture, profile)),
            profile,
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn into_trace(mut self) -> Trace {
        self.trace.seal();
        self.trace
    }

    /// Adds whole rows `[n, width]` of `tree`.
    pub(crate) fn rows(&mut self, tree: TreeId, rows: &Tensor) -> Result<(), RunError> {
        let Self { trace, profile, bytes, .. } = self;
        with_values(rows, |values| {
            check_finite(values, || name(tree))?;
            bytes.clear();
            encode_row(*profile, values, bytes);
            trace.push(tree, bytes);
            Ok(())
        })
    }

    /// Adds turned keys and values `[n, k | v]` of a layer, each group's side by side.
    pub(crate) fn cache_rows(&mut self, layer: LayerIndex, rows: &Tensor) -> Result<(), RunError> {
        let Self { trace, profile, bytes, kv_heads, head_dim } = self;
        let keys_width = *kv_heads * *head_dim;
        with_values(rows, |values| {
            check_finite(values, || name(TreeId::Kv(layer, KvGroup::new(0))))?;
            for (group, at) in (0..).zip((0..keys_width).step_by(*head_dim)) {
                bytes.clear();
                for row in values.chunks_exact(2 * keys_width) {
                    let (keys, values) = row.split_at(keys_width);
                    encode_row(*profile, &keys[at..at + *head_dim], bytes);
                    encode_row(*profile, &values[at..at + *head_dim], bytes);
                }
                trace.push(TreeId::Kv(layer, KvGroup::new(group)), bytes);
            }
            Ok(())
        })
    }
}

/// What users are told overflowed.
fn name(tree: TreeId) -> String {
    match tree {
        TreeId::H(layer) => format!("the stream entering layer {layer}"),
        TreeId::A(layer) => format!("the attention of layer {layer}"),
        TreeId::O(layer) => format!("the attention branch of layer {layer}"),
        TreeId::M(layer) => format!("the MLP branch of layer {layer}"),
        TreeId::Kv(layer, _) => format!("the cache of layer {layer}"),
    }
}

/// Reads a contiguous tensor where it lies.
pub(crate) fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> Result<T, RunError>) -> Result<T, RunError> {
    let (storage, layout) = tensor.storage_and_layout();
    let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) else {
        return Err(RunError::Tensor(candle_core::Error::msg("only contiguous tensors of the CPU are read")));
    };
    read(&storage.as_slice::<f32>()?[start..end])
}

/// Refuses infinities and NaN: no honest verdict could come of them.
pub(crate) fn check_finite(values: &[f32], place: impl FnOnce() -> String) -> Result<(), RunError> {
    // Without a branch in the loop, so that it runs in vector registers.
    if values.iter().fold(true, |finite, value| finite & value.is_finite()) {
        Ok(())
    } else {
        Err(RunError::NotFinite { place: place() })
    }
}
