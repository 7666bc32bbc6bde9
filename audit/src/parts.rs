//! A proof as a list of parts, each hashed by itself: whoever holds the digests of all parts and the
//! bytes of one can show that one alone, with the miner's signature over it.

use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use sha3::{Digest, Sha3_256};

use crate::challenge::{Challenge, MAX_CELLS};
use crate::domains;
use crate::num::{count, index};

/// More parts than the largest audit has: two a cell, two a decode, and those of its layers.
const MAX_PARTS: usize = 8 << MAX_CELLS.ilog2();
/// Bytes of a length.
const LENGTH_BYTES: usize = 4;

/// Bytes of the table before the parts.
pub(crate) const fn table_bytes(parts: usize) -> usize {
    parts.saturating_add(1).saturating_mul(LENGTH_BYTES)
}

/// Puts parts together: how many, how long each is, and then all of them.
pub(crate) fn join(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Writer::new();
    out.length(parts.len());
    parts.iter().for_each(|part| out.u32(count(part.len())));
    parts.iter().for_each(|part| out.raw(part));
    out.finish()
}

/// Takes parts apart; `None` if the bytes are not exactly their table and they.
pub(crate) fn split(bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut from = Reader::new(bytes);
    let lengths = read_table(&mut from).ok()?;
    let parts = lengths.into_iter().map(|length| from.raw(index(length)).ok()).collect::<Option<_>>()?;
    from.finish().ok()?;
    Some(parts)
}

fn read_table(from: &mut Reader<'_>) -> Result<Vec<u32>, Malformed> {
    from.list(MAX_PARTS)
}

/// The parts of a proof, as they are read one after the other.
#[derive(Debug)]
pub(crate) struct Parts<'r, 'a> {
    from: &'r mut Reader<'a>,
    lengths: std::vec::IntoIter<u32>,
    read: Vec<&'a [u8]>,
}

impl<'a> Parts<'_, 'a> {
    /// Reads the next part to its last byte.
    pub(crate) fn next<T>(
        &mut self,
        read: impl FnOnce(&mut Reader<'a>) -> Result<T, Malformed>,
    ) -> Result<T, Malformed> {
        let length = self.lengths.next().ok_or(Malformed::Truncated)?;
        let (value, bytes) = self.from.within(index(length), read)?;
        self.read.push(bytes);
        Ok(value)
    }
}

/// Takes a table and all its parts, and returns them with what `read` made of them.
pub(crate) fn read_parts<'a, T>(
    from: &mut Reader<'a>,
    read: impl FnOnce(&mut Parts<'_, 'a>) -> Result<T, Malformed>,
) -> Result<(T, Vec<&'a [u8]>), Malformed> {
    let lengths = read_table(from)?.into_iter();
    from.series(|from| {
        let mut parts = Parts { from, lengths, read: vec![] };
        let value = read(&mut parts)?;
        if parts.lengths.len() == 0 { Ok((value, parts.read)) } else { Err(Malformed::Trailing) }
    })
}

/// A part's length and BLAKE3 digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartDigest {
    pub(crate) length: u32,
    pub(crate) hash: [u8; 32],
}

impl PartDigest {
    pub(crate) fn of(part: &[u8]) -> Self {
        Self { length: count(part.len()), hash: *blake3::hash(part).as_bytes() }
    }
}

impl Canonical for PartDigest {
    fn write(&self, out: &mut Writer) {
        out.u32(self.length);
        out.raw(&self.hash);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        Ok(Self { length: from.u32()?, hash: from.array()? })
    }
}

/// What a miner signs of a proof: the digests of its parts. Bytes that are no parts are signed as a
/// whole, so that what is wrong with them can be shown too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Contents {
    /// Of a proof that can be taken apart.
    Parts(Vec<PartDigest>),
    /// Of any other bytes.
    Whole(PartDigest),
}

impl Contents {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        match split(bytes) {
            Some(parts) => Self::Parts(parts.into_iter().map(PartDigest::of).collect()),
            None => Self::Whole(PartDigest::of(bytes)),
        }
    }

    /// What is signed: the contents, bound to the digest of the commitment that they prove, and by it to the session.
    pub(crate) fn digest(&self, commitment: &[u8; 32]) -> [u8; 32] {
        let mut out = Writer::new();
        out.raw(domains::PROOF_CONTENTS);
        out.raw(commitment);
        match self {
            Self::Parts(parts) => {
                out.u8(1);
                out.list(parts);
            }
            Self::Whole(whole) => {
                out.u8(0);
                out.value(whole);
            }
        }
        Sha3_256::digest(out.finish()).into()
    }
}

/// A message of several parts as the transcript absorbs it.
pub(crate) fn list_bytes(parts: &[PartDigest]) -> Vec<u8> {
    let mut out = Writer::new();
    out.list(parts);
    out.finish()
}

/// Reads a list of digests.
pub(crate) fn read_list(from: &mut Reader<'_>) -> Result<Vec<PartDigest>, Malformed> {
    from.list(MAX_PARTS)
}

/// A cell or a decode of a challenge, by its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Cell(usize),
    Decode(usize),
}

/// Where the parts of a proof lie: the small tensors of each layer, the final norm, what is committed of
/// each cell and decode, the claims on each, and the openings.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    pub(crate) challenge: &'a Challenge,
}

impl Places<'_> {
    fn items(self) -> usize {
        self.challenge.cells.len().saturating_add(self.challenge.decodes.len())
    }

    pub(crate) fn final_norm(self) -> usize {
        self.challenge.layers().len()
    }

    /// How many parts are absorbed before signs are drawn.
    pub(crate) fn witness(self) -> usize {
        self.final_norm().saturating_add(1).saturating_add(self.items())
    }

    /// The openings, which come last.
    pub(crate) fn openings(self) -> usize {
        self.witness().saturating_add(self.items())
    }

    pub(crate) fn total(self) -> usize {
        self.openings().saturating_add(1)
    }

    /// The parts that the check of one item reads: its norms, what is committed, and the claims.
    pub(crate) fn of(self, item: Item) -> [usize; 3] {
        let (norms, number) = match item {
            Item::Cell(number) => {
                let layer = self.challenge.cells.get(number).map(|cell| cell.layer);
                let layers = self.challenge.layers();
                (layer.and_then(|layer| layers.binary_search(&layer).ok()).unwrap_or(layers.len()), number)
            }
            Item::Decode(number) => (self.final_norm(), self.challenge.cells.len().saturating_add(number)),
        };
        let committed = self.final_norm().saturating_add(1).saturating_add(number);
        [norms, committed, self.witness().saturating_add(number)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_put_together_in_one_way() {
        let parts = vec![b"one".to_vec(), vec![], b"three".to_vec()];
        let bytes = join(&parts);
        assert_eq!(bytes.len(), table_bytes(3) + 8);
        assert_eq!(split(&bytes).unwrap(), parts);
        for length in 0..bytes.len() {
            assert_eq!(split(&bytes[..length]), None, "{length}");
        }
        assert_eq!(split(&[bytes, vec![0]].concat()), None);
        assert_eq!(split(&[0; 4096]), None);
    }

    #[test]
    fn parts_are_read_each_to_its_last_byte_and_all_of_them() {
        let parts = vec![b"one".to_vec(), vec![], b"three".to_vec()];
        let bytes = join(&parts);
        let read = |lengths: &[usize]| {
            let mut from = Reader::new(&bytes);
            read_parts(&mut from, |parts| {
                lengths.iter().try_for_each(|length| parts.next(|from| from.raw(*length).map(drop)))
            })
        };
        assert_eq!(read(&[3, 0, 5]), Ok(((), split(&bytes).unwrap())));
        for lengths in [&[3, 0][..], &[3, 0, 5, 0], &[2, 0, 5], &[3, 0, 4], &[3, 1, 4], &[4, 0, 4]] {
            assert!(read(lengths).is_err(), "{lengths:?}");
        }
        let whole = assay_commitments::codec::structure(&bytes, |from| {
            read_parts(from, |parts| {
                [3, 0, 5].iter().try_for_each(|length| parts.next(|from| from.elements(*length, 1).map(drop)))
            })
        });
        let whole = whole.unwrap();
        let ranges: Vec<_> = whole.parts[2].parts.iter().map(|part| part.range.clone()).collect();
        assert_eq!(ranges, [16..19, 19..19, 19..24]);
    }

    #[test]
    fn a_signature_tells_parts_from_bytes_and_commitments_from_each_other() {
        let part = b"a part".to_vec();
        let (joined, commitment) = (join(std::slice::from_ref(&part)), [1; 32]);
        let digests = [
            Contents::of(&joined).digest(&commitment),
            Contents::of(&part).digest(&commitment),
            Contents::of(&joined).digest(&[2; 32]),
            Contents::of(&join(&[b"a ".to_vec(), b"part".to_vec()])).digest(&commitment),
        ];
        let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len());
    }
}
