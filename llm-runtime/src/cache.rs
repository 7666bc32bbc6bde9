//! Keys and values of running sequences, in blocks of positions that sequences take and give back.
//!
//! A sequence reserves room for its whole length before it begins, so none ever runs out of it midway;
//! blocks are taken as it grows.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use assay_commitments::manifest::Architecture;
use assay_commitments::rows::{Element, Profile};
use candle_core::{DType, Device, Result, Tensor};

use crate::kernels::Store;
use crate::model::Model;

/// Positions of a block.
pub(crate) const BLOCK: usize = 64;

/// The blocks of a model's sequences.
#[derive(Debug)]
pub(crate) struct CachePool {
    layers: usize,
    kv_heads: usize,
    head_dim: usize,
    dtype: DType,
    device: Device,
    /// Most blocks.
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Blocks that running sequences may take.
    reserved: usize,
    /// Blocks that were given back.
    free: Vec<Tensor>,
}

impl CachePool {
    /// Room for as many positions of a model's sequences as fit `bytes` of its device's memory.
    pub(crate) fn new(model: &Model, bytes: usize) -> Arc<Self> {
        let Architecture { layers, kv_heads, head_dim, .. } = *model.architecture();
        let shape = [layers, kv_heads, head_dim].map(|number| number as usize);
        Self::of_shape(shape, model.profile(), model.device().tensors(), bytes)
    }

    pub(crate) fn of_shape(
        [layers, kv_heads, head_dim]: [usize; 3],
        profile: Profile,
        device: &Device,
        bytes: usize,
    ) -> Arc<Self> {
        let dtype = match profile.element() {
            Element::Bf16 => DType::BF16,
            Element::F32 => DType::F32,
        };
        let block_bytes = 2 * layers * kv_heads * head_dim * BLOCK * profile.element_bytes();
        let (device, limit) = (device.clone(), bytes / block_bytes);
        Arc::new(Self { layers, kv_heads, head_dim, dtype, device, limit, state: Mutex::default() })
    }

    /// Most positions of a sequence that has the pool to itself.
    pub(crate) const fn positions(&self) -> usize {
        self.limit.saturating_mul(BLOCK)
    }

    /// An empty cache for a sequence of at most so many positions; `None` while others hold the room.
    pub(crate) fn reserve(self: &Arc<Self>, positions: usize) -> Option<Cache> {
        let reserved = positions.div_ceil(BLOCK);
        let mut state = self.state();
        if reserved > self.limit - state.reserved {
            return None;
        }
        state.reserved += reserved;
        Some(Cache { pool: Arc::clone(self), blocks: Vec::new(), reserved })
    }

    /// A block with no matter what in it.
    fn block(&self) -> Result<Tensor> {
        let free = self.state().free.pop();
        let shape = (self.layers, self.kv_heads, 2, BLOCK, self.head_dim);
        free.map_or_else(|| Tensor::zeros(shape, self.dtype, &self.device), Ok)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Turned keys and values of one sequence.
#[derive(Debug)]
pub(crate) struct Cache {
    pool: Arc<CachePool>,
    /// Each `[layers, kv_heads, key or value, BLOCK, head_dim]` in the profile's dtype.
    blocks: Vec<Tensor>,
    reserved: usize,
}

impl Cache {
    /// Makes room for so many positions, at most those that were reserved.
    pub(crate) fn grow(&mut self, positions: usize) -> Result<()> {
        while self.blocks.len() * BLOCK < positions {
            self.blocks.push(self.pool.block()?);
        }
        debug_assert!(self.blocks.len() <= self.reserved, "a sequence stays within its reservation");
        Ok(())
    }

    /// Writes keys and values of these rows of the turned products `[n, q | k | v]` of a layer, from the
    /// position `start` on.
    pub(crate) fn store(&self, layer: usize, products: &Tensor, rows: Range<usize>, start: usize) -> Result<()> {
        let CachePool { kv_heads, head_dim, .. } = *self.pool;
        let (mut row, mut position) = (rows.start, start);
        while row < rows.end {
            let at = position % BLOCK;
            let count = (BLOCK - at).min(rows.end - row);
            let store = Store { layer, kv_heads, head_dim, rows: row..row + count, at };
            store.run(&self.blocks[position / BLOCK], products)?;
            row += count;
            position += count;
        }
        Ok(())
    }

    pub(crate) fn blocks(&self) -> &[Tensor] {
        &self.blocks
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.reserved -= self.reserved;
        state.free.append(&mut self.blocks);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_reserved_taken_and_given_back() {
        let block_bytes = 2 * 3 * 2 * 8 * BLOCK * 2;
        let pool = CachePool::of_shape([3, 2, 8], Profile::Bf16V1, &Device::Cpu, 4 * block_bytes + 1);
        assert_eq!(pool.positions(), 4 * BLOCK);
        assert!(pool.reserve(4 * BLOCK + 1).is_none());
        let mut first = pool.reserve(2 * BLOCK + 1).unwrap();
        assert!(pool.reserve(BLOCK + 1).is_none());
        let second = pool.reserve(BLOCK).unwrap();
        first.grow(BLOCK + 1).unwrap();
        assert_eq!(first.blocks().len(), 2);
        drop(first);
        assert_eq!(pool.state().free.len(), 2);
        let mut third = pool.reserve(3 * BLOCK).unwrap();
        third.grow(3 * BLOCK).unwrap();
        assert_eq!((third.blocks().len(), pool.state().free.len()), (3, 0));
        drop((second, third));
        let state = pool.state();
        assert_eq!((state.reserved, state.free.len()), (0, 3));
    }
}
