//! `rs_merkle`, with BLAKE3.

use rs_merkle::{Hasher, MerkleTree};

use crate::Failure;
use crate::report::{Measurement, best_of};

/// BLAKE3 of the concatenation, as the library does it by default.
#[derive(Clone, Copy, Debug)]
struct Blake3;

impl Hasher for Blake3 {
    type Hash = [u8; 32];

    fn hash(data: &[u8]) -> [u8; 32] {
        blake3::hash(data).into()
    }
}

/// The tree over leaf hashes, the proof of some leaves and its verification.
pub(crate) fn merkle(leaves: &[[u8; 32]], opened: &[usize], repeat: u32) -> Result<Measurement, Failure> {
    let build = best_of(repeat, || (), |()| MerkleTree::<Blake3>::from_leaves(leaves));
    let tree = MerkleTree::<Blake3>::from_leaves(leaves);
    let prove = best_of(10, || (), |()| tree.proof(opened));
    let proof = tree.proof(opened);
    let root = tree.root().ok_or("an empty tree")?;
    let shown: Vec<[u8; 32]> = opened.iter().filter_map(|&i| leaves.get(i).copied()).collect();
    let check = || proof.verify(root, opened, &shown, leaves.len());
    if !check() {
        return Err("rs_merkle: the proof does not verify".into());
    }
    Ok(Measurement::new("rs_merkle 1.5")
        .time("build", "ms", 1e3, build)
        .figure("prove_us", 1e6 * prove.wall)
        .figure("verify_us", 1e6 * best_of(10, || (), |()| check()).wall)
        .bytes("proof_bytes", proof.to_bytes().len()))
}
