//! BLAKE3 of many inputs of one length.
//!
//! The library hashes one input of a few hundred bytes block by block, and keeps its wide
//! instructions for the chunks of long ones. The function that hashes chunks side by side is public
//! but not documented, so the version of `blake3` is pinned, and the tests hold it against the library's
//! own `hash` and `keyed_hash`.

use blake3::IncrementCounter;
use blake3::platform::Platform;

use crate::merkle::Hash;

/// Bytes of a block of BLAKE3.
pub(crate) const BLOCK: usize = 64;

/// Bytes of a chunk: longer inputs are trees of chunks.
const CHUNK: usize = 1024;

/// Inputs that are handed over together: twice as many as any instructions take.
const BATCH: usize = 32;

/// From how many inputs on chunks of different inputs go side by side, where an input has several: the
/// library already does that within one input.
const FEW: usize = 8;

/// Flags of BLAKE3's compressions.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const KEYED_HASH: u8 = 1 << 4;

/// What stands for the key in a hash without one.
const NO_KEY: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The keyed hashes of inputs that lie one after the other, each of `length` bytes and at least one.
pub(crate) fn keyed_hashes(key: &[u8; 32], inputs: &[u8], length: usize, hashes: &mut [Hash]) {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let wide = Wide { platform: Platform::detect(), key: words, flags: KEYED_HASH };
    wide.hashes(inputs, length, hashes, |input| blake3::keyed_hash(key, input));
}

/// The hashes of inputs that lie one after the other, each of `length` bytes and at least one.
pub(crate) fn plain_hashes(inputs: &[u8], length: usize, hashes: &mut [Hash]) {
    let wide = Wide { platform: Platform::detect(), key: NO_KEY, flags: 0 };
    wide.hashes(inputs, length, hashes, blake3::hash);
}

/// The wide instructions, and what goes into every compression.
struct Wide {
    platform: Platform,
    key: [u32; 8],
    flags: u8,
}

impl Wide {
    /// Hashes inputs of whole blocks side by side, others with `one`.
    fn hashes(&self, inputs: &[u8], length: usize, hashes: &mut [Hash], one: impl Fn(&[u8]) -> blake3::Hash) {
        let mut values = vec![[Hash::default(); BATCH]; length.div_ceil(CHUNK)];
        for (inputs, hashes) in inputs.chunks(BATCH * length).zip(hashes.chunks_mut(BATCH)) {
            let count = (inputs.len() / length).min(hashes.len());
            if length.is_multiple_of(BLOCK) && (length <= CHUNK || count >= FEW) {
                let out = hashes.as_mut_array::<BATCH>().filter(|_| length <= CHUNK && count == BATCH);
                if let Some(out) = out {
                    self.trees(inputs, length, count, std::slice::from_mut(out));
                } else {
                    self.trees(inputs, length, count, &mut values);
                    hashes[..count].copy_from_slice(&values[0][..count]);
                }
            } else {
                for (input, hash) in inputs.chunks_exact(length).zip(hashes) {
                    *hash = one(input).into();
                }
            }
        }
    }

    /// Leaves the hash of input `i` in `values[0][i]`; `values` has one node of every input's tree in a
    /// row.
    fn trees(&self, inputs: &[u8], length: usize, count: usize, values: &mut [[Hash; BATCH]]) {
        // Inputs that are short of what the instructions take would go one by one.
        let padded = count.next_power_of_two().min(BATCH);
        let root = if values.len() == 1 { ROOT } else { 0 };
        for (number, values) in (0..).zip(values.iter_mut()) {
            let start = number * CHUNK;
            let chunks = inputs[start..].chunks(length).take(count);
            self.chunks(chunks, (length - start).min(CHUNK), padded, number as u64, root, values);
        }
        let mut width = values.len();
        while width > 1 {
            let flags = self.flags | PARENT | if width == 2 { ROOT } else { 0 };
            for pair in 0..width / 2 {
                let (left, right) = (values[2 * pair], values[2 * pair + 1]);
                let mut nodes = [[Hash::default(); 2]; BATCH];
                for (node, children) in nodes.iter_mut().zip(left.into_iter().zip(right)) {
                    *node = children.into();
                }
                let nodes =
                    nodes.each_ref().map(|node| node.as_flattened().first_chunk::<BLOCK>().expect("two hashes"));
                let above = values[pair].as_flattened_mut();
                self.platform.hash_many(&nodes[..padded], &self.key, 0, IncrementCounter::No, flags, 0, 0, above);
            }
            // The last node of an odd level has no sibling before a higher one.
            if width % 2 == 1 {
                values[width / 2] = values[width - 1];
            }
            width = width.div_ceil(2);
        }
    }

    /// The values of chunk `number` of every input. A chunk starts where its item starts and has `length`
    /// bytes.
    fn chunks<'a>(
        &self,
        chunks: impl Iterator<Item = &'a [u8]>,
        length: usize,
        padded: usize,
        number: u64,
        root: u8,
        values: &mut [Hash; BATCH],
    ) {
        macro_rules! by_length {
            ($($blocks:literal)*) => {
                match length / BLOCK {
                    $($blocks => {
                        let mut each = [&[0; BLOCK * $blocks]; BATCH];
                        for (each, chunk) in each.iter_mut().zip(chunks) {
                            *each = chunk.first_chunk().expect("a chunk has its length");
                        }
                        self.platform.hash_many(
                            &each[..padded],
                            &self.key,
                            number,
                            IncrementCounter::No,
                            self.flags,
                            CHUNK_START,
                            CHUNK_END | root,
                            values.as_flattened_mut(),
                        );
                    })*
                    _ => unreachable!("chunks have 1 to 16 blocks"),
                }
            };
        }
        by_length!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_hashes_are_those_of_single_inputs() {
        let key: [u8; 32] = std::array::from_fn(|i| u8::try_from(7 * i).unwrap());
        for length in (1..5000).step_by(7).chain((1..=20).map(|blocks| BLOCK * blocks)).chain([2048, 3072, 8192, 14336])
        {
            for count in [0, 1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100] {
                // Of lengths that are hashed one by one, a few inputs show as much as many.
                if count > 2 && !length.is_multiple_of(BLOCK) {
                    continue;
                }
                let mut inputs = vec![0; length * count];
                blake3::Hasher::new().update(&[1]).finalize_xof().fill(&mut inputs);
                let mut keyed = vec![Hash::default(); count];
                keyed_hashes(&key, &inputs, length, &mut keyed);
                let mut plain = keyed.clone();
                plain_hashes(&inputs, length, &mut plain);
                for (input, (keyed, plain)) in inputs.chunks_exact(length).zip(keyed.into_iter().zip(plain)) {
                    assert_eq!(keyed, *blake3::keyed_hash(&key, input).as_bytes(), "{length} bytes, {count} inputs");
                    assert_eq!(plain, *blake3::hash(input).as_bytes(), "{length} bytes, {count} inputs");
                }
            }
        }
    }
}
