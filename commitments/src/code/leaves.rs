//! Leaves of codewords.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use super::hashing::{self, keyed_hashes};
use super::transform::Block;
use crate::domains;
use crate::lanes::{Field, LANES, Lanes, Task, run};
use crate::merkle::Hash;

/// The words of a leaf's input: the position, the symbols, and zeros up to whole blocks of the hash.
pub(super) const fn leaf_words(rows: usize) -> usize {
    (1 + rows).next_multiple_of(hashing::BLOCK / 8)
}

/// Leaves that are put together before they are hashed.
const BATCH: usize = 32;

/// Makes the symbols of neighbouring columns canonical and hashes them: the first of `leaves` is that of
/// position `first`.
pub(crate) fn hash_columns(columns: &mut [Block], rows: usize, first: usize, leaves: &mut [Hash]) {
    make_canonical(columns);
    let blocks = rows.div_ceil(LANES);
    let words = leaf_words(rows);
    let mut inputs = vec![[0; 8]; words * BATCH];
    let mut position = first as u64;
    for (columns, leaves) in columns.chunks(blocks * BATCH).zip(leaves.chunks_mut(BATCH)) {
        for (column, input) in columns.chunks_exact(blocks).zip(inputs.chunks_exact_mut(words)) {
            let (head, symbols) = input.split_at_mut(1);
            head[0] = position.to_le_bytes();
            position = position.wrapping_add(1);
            for (word, symbol) in symbols[..rows].iter_mut().zip(column.as_flattened()) {
                *word = symbol.to_le_bytes();
            }
        }
        keyed_hashes(domains::CODEWORD_COLUMN, inputs.as_flattened(), 8 * words, leaves);
    }
}

/// Replaces residues by the canonical ones.
fn make_canonical(columns: &mut [Block]) {
    struct Canonical<'a>(&'a mut [Block]);

    impl Task for Canonical<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            for block in self.0 {
                lanes.store(block, lanes.canonical(lanes.load(block)));
            }
        }
    }

    run(Canonical(columns));
}
