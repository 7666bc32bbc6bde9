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
    kv_heads: usize,
    head_dim: usize,
    /// Reused between rows.
    bytes: Vec<u8>,
}

impl Recorder {
    pub(crate) fn new(architecture: &Architecture) -> Self {
        Self {
            trace: Trace::new(TraceShape::new(architecture, Profile::Bf16V1)),
            kv_heads: architecture.kv_heads as usize,
            head_dim: architecture.head_dim as usize,
            bytes: Vec::new(),
        }
    }

    pub(crate) fn into_trace(self) -> Trace {
        self.trace
    }

    /// Adds whole rows `[n, width]` of `tree`.
    pub(crate) fn rows(&mut self, tree: TreeId, rows: &Tensor) -> Result<(), RunError> {
        let Self { trace, bytes, .. } = self;
        with_values(rows, |values| {
            check_finite(values, || format!("{tree:?}"))?;
            bytes.clear();
            encode_row(Profile::Bf16V1, values, bytes);
            trace.push(tree, bytes);
            Ok(())
        })
    }

    /// Adds turned keys and values `[n, k | v]` of a layer, each group's side by side.
    pub(crate) fn cache_rows(&mut self, layer: LayerIndex, rows: &Tensor) -> Result<(), RunError> {
        let Self { trace, bytes, kv_heads, head_dim } = self;
        let keys_width = *kv_heads * *head_dim;
        with_values(rows, |values| {
            check_finite(values, || format!("the cache of layer {layer}"))?;
            for (group, at) in (0..).zip((0..keys_width).step_by(*head_dim)) {
                bytes.clear();
                for row in values.chunks_exact(2 * keys_width) {
                    let (keys, values) = row.split_at(keys_width);
                    encode_row(Profile::Bf16V1, &keys[at..at + *head_dim], bytes);
                    encode_row(Profile::Bf16V1, &values[at..at + *head_dim], bytes);
                }
                trace.push(TreeId::Kv(layer, KvGroup::new(group)), bytes);
            }
            Ok(())
        })
    }
}

/// Reads a contiguous tensor where it lies.
pub(crate) fn with_values<T>(
    tensor: &Tensor,
    read: impl FnOnce(&[f32]) -> Result<T, RunError>,
) -> Result<T, RunError> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(storage), Some((start, end))) => read(&storage.as_slice::<f32>()?[start..end]),
        _ => {
            drop(storage);
            read(&tensor.flatten_all()?.to_vec1()?)
        }
    }
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
