//! BLAKE3 of many inputs of one length.
//!
//! The library hashes one input of a few hundred bytes block by block, and keeps its wide
//! instructions for the chunks of long ones. The function that hashes chunks side by side is public
//! but not documented, so the version of `blake3` is pinned, and the tests hold it against `keyed_hash`
//! for every length.

use blake3::IncrementCounter;
use blake3::platform::Platform;

use crate::merkle::Hash;

/// Bytes of a block of BLAKE3.
pub(crate) const BLOCK: usize = 64;

/// Bytes of a chunk: longer inputs are trees.
const CHUNK: usize = 1024;

/// Inputs that are handed over together: twice as many as any instructions take.
const BATCH: usize = 32;

/// Flags of BLAKE3's compressions.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const ROOT: u8 = 1 << 3;
const KEYED_HASH: u8 = 1 << 4;

/// The keyed hashes of inputs that lie one after the other, each of `length` bytes: whole blocks, and
/// at least one.
pub(crate) fn keyed_hashes(key: &[u8; 32], inputs: &[u8], length: usize, hashes: &mut [Hash]) {
    macro_rules! by_length {
        ($($blocks:literal)*) => {
            match length / BLOCK {
                $($blocks => side_by_side::<{ BLOCK * $blocks }>(key, inputs, hashes),)*
                _ => {
                    for (input, hash) in inputs.chunks_exact(length).zip(hashes) {
                        *hash = blake3::keyed_hash(key, input).into();
                    }
                }
            }
        };
    }
    by_length!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
}

fn side_by_side<const LENGTH: usize>(key: &[u8; 32], inputs: &[u8], hashes: &mut [Hash]) {
    const { assert!(LENGTH <= CHUNK && LENGTH.is_multiple_of(BLOCK)) };
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let platform = Platform::detect();
    let inputs = inputs.as_chunks::<LENGTH>().0;
    for (inputs, hashes) in inputs.chunks(BATCH).zip(hashes.chunks_mut(BATCH)) {
        let Some(first) = inputs.first() else { return };
        let mut each = [first; BATCH];
        for (each, input) in each.iter_mut().zip(inputs) {
            *each = input;
        }
        platform.hash_many(
            each.split_at(inputs.len().min(hashes.len())).0,
            &words,
            0,
            IncrementCounter::No,
            KEYED_HASH,
            CHUNK_START,
            CHUNK_END | ROOT,
            hashes.as_flattened_mut(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hashes_are_those_of_single_inputs() {
        let key: [u8; 32] = std::array::from_fn(|i| u8::try_from(7 * i).unwrap());
        for blocks in 1..=20 {
            for count in [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100] {
                let length = BLOCK * blocks;
                let mut inputs = vec![0; length * count];
                blake3::Hasher::new().update(&[1]).finalize_xof().fill(&mut inputs);
                let mut hashes = vec![Hash::default(); count];
                keyed_hashes(&key, &inputs, length, &mut hashes);
                let expected: Vec<Hash> =
                    inputs.chunks_exact(length).map(|input| blake3::keyed_hash(&key, input).into()).collect();
                assert_eq!(hashes, expected, "{blocks} blocks, {count} inputs");
            }
        }
    }
}
