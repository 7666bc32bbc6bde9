//! The inner loops of committing on columns that lie in a core's cache: what the memory around them is
//! measured against.

use super::leaves::hash_columns;
use super::transform::{Block, Factors, transform};
use super::{CACHE, Code};
use crate::merkle::{Hash, reduce};
use crate::params::CodeParams;

/// Some columns of a code's first level, in cache.
#[derive(Debug)]
pub struct Kernels {
    code: Code,
    levels: u32,
    factors: Factors,
    symbols: Vec<Block>,
    leaves: Vec<Hash>,
}

impl Kernels {
    /// Columns of the first level of these parameters.
    pub fn new(params: &CodeParams) -> Self {
        let code = Code::of_coefficients(&params.base());
        let levels = (CACHE / code.blocks()).max(1).ilog2().min(code.message_log);
        let symbols = (0..(code.blocks() << levels) as u64).map(|i| [i; 8].map(|word| word.wrapping_mul(0x9e37_79b9)));
        Self {
            code,
            levels,
            factors: Factors::new(levels, 1),
            symbols: symbols.collect(),
            leaves: vec![Hash::default(); 1 << levels],
        }
    }

    /// Columns that [`Self::transform`] and [`Self::hash`] work on.
    pub const fn columns(&self) -> usize {
        1 << self.levels
    }

    /// The share of a column's butterflies that [`Self::transform`] does.
    pub fn share(&self) -> f64 {
        f64::from(self.levels.max(1)) / f64::from(self.code.message_log.max(1))
    }

    /// As many levels of the transform as fit the cache.
    pub fn transform(&mut self) {
        transform(&mut self.symbols, &self.factors);
    }

    /// The leaves of the columns, and the tree over them.
    pub fn hash(&mut self) -> Hash {
        hash_columns(&mut self.symbols, self.code.rows, 0, &mut self.leaves);
        let mut top = [Hash::default()];
        reduce(&self.leaves, &mut top);
        top[0]
    }
}
