//! Merkle trees over a power of two of leaves.

use std::collections::BTreeMap;

use super::field::{E, e_bytes, f_bytes, number};

pub(crate) type Hash = [u8; 32];

/// BLAKE3 with a domain as its key.
pub(crate) fn hasher(domain: &str) -> blake3::Hasher {
    let mut key = [0; 32];
    key[..domain.len()].copy_from_slice(domain.as_bytes());
    blake3::Hasher::new_keyed(&key)
}

fn keyed(domain: &str, bytes: &[u8]) -> Hash {
    hasher(domain).update(bytes).finalize().into()
}

/// What is hashed and absorbed of symbols: at level 0 they are of the base field.
pub(crate) fn symbol_bytes(level: usize, symbols: &[E]) -> Vec<u8> {
    if level > 0 {
        return e_bytes(symbols);
    }
    assert!(symbols.iter().all(|symbol| symbol[1..] == [0, 0]), "symbols of level 0 are of the base field");
    f_bytes(&symbols.iter().map(|symbol| symbol[0]).collect::<Vec<_>>())
}

pub(crate) fn leaf(level: usize, position: u64, symbols: &[E]) -> Hash {
    let mut bytes = position.to_le_bytes().to_vec();
    bytes.extend(symbol_bytes(level, symbols));
    while !bytes.len().is_multiple_of(64) {
        bytes.push(0);
    }
    keyed("assay/codeword-column/v1", &bytes)
}

fn node(left: Hash, right: Hash) -> Hash {
    keyed("assay/merkle-node/v1", &[left, right].concat())
}

fn top(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => panic!("a tree has a leaf"),
        [leaf] => *leaf,
        _ => node(top(&leaves[..leaves.len() / 2]), top(&leaves[leaves.len() / 2..])),
    }
}

fn bind(count: usize, top: Hash) -> Hash {
    keyed("assay/merkle-root/v1", &[number(count).to_le_bytes().as_slice(), &top].concat())
}

/// The root over a power of two of leaves.
pub(crate) fn root(leaves: &[Hash]) -> Hash {
    assert!(leaves.len().is_power_of_two());
    bind(leaves.len(), top(leaves))
}

/// The root over `count` leaves to which those at some places and other hashes lead, level by level from the leaves and
/// from left to right.
pub(crate) fn root_of(count: usize, opened: &BTreeMap<usize, Hash>, hashes: &[Hash]) -> Result<Hash, String> {
    if opened.keys().next_back().is_none_or(|&last| last >= count) {
        return Err("no leaf, or one past the end".into());
    }
    climb(count, opened, hashes).map(|top| bind(count, top))
}

fn climb(width: usize, known: &BTreeMap<usize, Hash>, hashes: &[Hash]) -> Result<Hash, String> {
    if width == 1 {
        return if hashes.is_empty() { Ok(known[&0]) } else { Err("hashes are left over".into()) };
    }
    let mut hashes = hashes.iter();
    let mut parents = BTreeMap::new();
    for parent in 0..width / 2 {
        let children = [2 * parent, 2 * parent + 1].map(|child| known.get(&child).copied());
        if children == [None, None] {
            continue;
        }
        let [left, right] = children.map(|child| child.or_else(|| hashes.next().copied()));
        let (Some(left), Some(right)) = (left, right) else { return Err("a hash is missing".into()) };
        parents.insert(parent, node(left, right));
    }
    climb(width / 2, &parents, hashes.as_slice())
}

/// The hashes that [`root_of`] needs beside the leaves at some places.
pub(crate) fn siblings(leaves: &[Hash], places: &[usize]) -> Vec<Hash> {
    if leaves.len() == 1 {
        return Vec::new();
    }
    let needed = (0..leaves.len()).filter(|place| !places.contains(place) && places.contains(&(place ^ 1)));
    let mut hashes: Vec<Hash> = needed.map(|place| leaves[place]).collect();
    let parents: Vec<Hash> = leaves.chunks_exact(2).map(|pair| node(pair[0], pair[1])).collect();
    let mut places: Vec<usize> = places.iter().map(|place| place / 2).collect();
    places.dedup();
    hashes.extend(siblings(&parents, &places));
    hashes
}
