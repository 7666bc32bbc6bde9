//! The devnet's randomness beacon: the scheme of drand's quicknet, with a key of its own.
//!
//! Signatures lie in G1 of BLS12-381 and the public key in G2. Round `r` signs SHA-256 of `r` as eight
//! big-endian bytes, and is published at `genesis + (r - 1) · period`. The secret follows from the
//! genesis hash, so whoever knows it can open commits early: a devnet keeps its rules, not secrets.
//!
//! Blocks are worth 12 seconds here, however fast they are made.

use ark_ec::PrimeGroup;
use ark_serialize::CanonicalDeserialize;
use assay_commitments::Hotkey;
use parity_scale_codec::Decode;
use sp_crypto_hashing::{blake2_256, sha2_256};
use timelock::{
    block_ciphers::AESGCMBlockCipherProvider,
    engines::{EngineBLS, drand::TinyBLS381},
    ibe::fullident::{IBESecret, Identity},
    tlock::{TLECiphertext, tld},
};

use crate::types::GenesisHash;

/// Milliseconds of a block.
pub(crate) const BLOCK_MS: u64 = 12_000;
/// Milliseconds between two rounds.
pub(crate) const PERIOD_MS: u64 = 3_000;
/// When the genesis block and round 1 happened, in milliseconds since 1970.
pub(crate) const GENESIS_MS: u64 = 1_700_000_000_000;

/// When a block happened, in milliseconds since 1970.
pub(crate) const fn block_ms(block: u64) -> u64 {
    GENESIS_MS.saturating_add(block.saturating_mul(BLOCK_MS))
}

/// The newest round that a block knows.
pub(crate) const fn round_of(block: u64) -> u64 {
    (block_ms(block) - GENESIS_MS) / PERIOD_MS + 1
}

type Scalar = <TinyBLS381 as EngineBLS>::Scalar;
type PublicKeys = <TinyBLS381 as EngineBLS>::PublicKeyGroup;

fn secret(genesis: &GenesisHash) -> Scalar {
    let mut bytes = blake2_256(&[&b"assay devnet beacon v1"[..], genesis.as_bytes()].concat());
    // Little-endian; below 2^254, and so below the order of the groups.
    bytes[31] &= 0x3f;
    Scalar::deserialize_compressed(&bytes[..]).expect("32 bytes below the order are a scalar")
}

/// The public key, as the chain's `BeaconConfig` has it: 96 bytes.
pub(crate) fn public_key(genesis: &GenesisHash) -> Vec<u8> {
    TinyBLS381::public_key_point_to_byte(&(PublicKeys::generator() * secret(genesis)))
}

fn identity(round: u64) -> Identity {
    Identity::new(b"", &sha2_256(&round.to_be_bytes()))
}

fn opening(genesis: &GenesisHash, round: u64) -> IBESecret<TinyBLS381> {
    identity(round).extract(secret(genesis))
}

/// A round's signature: 48 bytes. The round's randomness is its SHA-256.
pub(crate) fn signature(genesis: &GenesisHash, round: u64) -> Vec<u8> {
    TinyBLS381::signature_point_to_byte(&opening(genesis, round).0)
}

/// Opens a timelocked commit of `author` with a round's signature: its weights and their version key.
/// None if it is no ciphertext of that round, or somebody else's.
pub(super) fn open(
    genesis: &GenesisHash,
    commit: &[u8],
    round: u64,
    author: &Hotkey,
) -> Option<(Vec<(u16, u16)>, u64)> {
    let bytes = unframe(commit)?;
    let ciphertext = TLECiphertext::<TinyBLS381>::deserialize_compressed(&bytes[..]).ok()?;
    let payload = tld::<TinyBLS381, AESGCMBlockCipherProvider>(ciphertext, opening(genesis, round).0).ok()?;
    type Payload = (Vec<u8>, Vec<u16>, Vec<u16>, u64);
    let (hotkey, uids, values, version_key) = Payload::decode(&mut &payload[..]).ok()?;
    let whole = hotkey == author.as_bytes() && uids.len() == values.len();
    whole.then(|| (uids.into_iter().zip(values).collect(), version_key))
}

/// From the chain's form of a ciphertext to this library's: `U 96 | 32 u64 | V 32 | 32 u64 | W 32 | body |
/// suite` loses the two lengths before V and W. Lengths are little-endian, and checked before anything
/// is allocated by them.
fn unframe(commit: &[u8]) -> Option<Vec<u8>> {
    let (u, mut rest) = commit.split_at_checked(96)?;
    let v = sized(&mut rest).filter(|v| v.len() == 32)?;
    let w = sized(&mut rest).filter(|w| w.len() == 32)?;
    let mut tail = rest;
    let mut body = sized(&mut tail)?;
    sized(&mut tail)?;
    // The body is a ciphertext and a nonce.
    sized(&mut body)?;
    sized(&mut body)?;
    Some([u, v, w, rest].concat())
}

/// Bytes behind their length.
fn sized<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = from.split_first_chunk::<8>()?;
    let (bytes, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    *from = rest;
    Some(bytes)
}
