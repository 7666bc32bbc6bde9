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
/// The author's hotkey, uids, values and the version key, in SCALE.
type Payload = (Vec<u8>, Vec<u16>, Vec<u16>, u64);
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

#[cfg(test)]
mod tests {
    use ark_serialize::CanonicalSerialize;
    use ark_std::rand::{CryptoRng, Error, RngCore};
    use parity_scale_codec::Encode;
    use timelock::tlock::tle;

    use super::*;

    const GENESIS: GenesisHash = GenesisHash::new([9; 32]);
    const AUTHOR: Hotkey = Hotkey::new([1; 32]);

    type Signatures = <TinyBLS381 as EngineBLS>::SignatureGroup;

    /// Whether a signature of a round fits a public key.
    fn fits(public_key: &[u8], signature: &[u8], round: u64) -> bool {
        let key = PublicKeys::deserialize_compressed(public_key).unwrap();
        let signature = Signatures::deserialize_compressed(signature).unwrap();
        let message = identity(round).public::<TinyBLS381>();
        TinyBLS381::pairing(PublicKeys::generator(), signature) == TinyBLS381::pairing(key, message)
    }

    #[test]
    fn kat_a_round_of_quicknet_fits_its_public_key() {
        let key = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d106451\
                   0d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
        let round_1000 = "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125\
                          e342b73a8dd2bacbe47e4b6b63ed5e39";
        let (key, signature) = (hex::decode(key).unwrap(), hex::decode(round_1000).unwrap());
        assert!(fits(&key, &signature, 1_000));
        assert!(!fits(&key, &signature, 1_001));
        let randomness = "fe290beca10872ef2fb164d2aa4442de4566183ec51c56ff3cd603d930e54fdd";
        assert_eq!(hex::encode(sha2_256(&signature)), randomness);
    }

    #[test]
    fn every_genesis_has_a_key_that_its_rounds_fit_and_no_others() {
        let key = public_key(&GENESIS);
        assert_eq!((key.len(), signature(&GENESIS, 7).len()), (96, 48));
        assert!(fits(&key, &signature(&GENESIS, 7), 7));
        assert!(!fits(&key, &signature(&GENESIS, 8), 7));
        assert!(!fits(&key, &signature(&GenesisHash::new([8; 32]), 7), 7));
    }

    #[test]
    fn a_block_knows_the_rounds_until_its_own_time() {
        assert_eq!([0, 1, 2].map(round_of), [1, 5, 9]);
        assert_eq!(block_ms(2) - block_ms(1), 12_000);
    }

    /// The same bytes in every run.
    struct Count(u64);

    impl RngCore for Count {
        fn next_u32(&mut self) -> u32 {
            u32::try_from(self.next_u64() & 0xffff_ffff).unwrap()
        }

        fn next_u64(&mut self) -> u64 {
            self.0 += 1;
            u64::from_le_bytes(blake2_256(&self.0.to_le_bytes())[..8].try_into().unwrap())
        }

        fn fill_bytes(&mut self, bytes: &mut [u8]) {
            bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]));
        }

        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
            self.fill_bytes(bytes);
            Ok(())
        }
    }

    impl CryptoRng for Count {}

    /// A commit as a client makes it, in the chain's form.
    fn lock(payload: &[u8], round: u64) -> Vec<u8> {
        let key = PublicKeys::deserialize_compressed(&public_key(&GENESIS)[..]).unwrap();
        let ciphertext =
            tle::<TinyBLS381, AESGCMBlockCipherProvider, _>(key, [7; 32], payload, identity(round), Count(0)).unwrap();
        let mut bytes = Vec::new();
        ciphertext.serialize_compressed(&mut bytes).unwrap();
        let (u, rest) = bytes.split_at(96);
        let (v, rest) = rest.split_at(32);
        let length = 32_u64.to_le_bytes();
        let (w, rest) = rest.split_at(32);
        [u, &length, v, &length, w, rest].concat()
    }

    fn payload(author: Hotkey) -> Vec<u8> {
        (author.as_bytes().to_vec(), vec![2_u16, 3], vec![1_u16, 65_535], 4_u64).encode()
    }

    #[test]
    fn a_commit_opens_with_its_round_for_its_author_alone() {
        let commit = lock(&payload(AUTHOR), 30);
        assert_eq!(open(&GENESIS, &commit, 30, &AUTHOR), Some((vec![(2, 1), (3, 65_535)], 4)));
        assert_eq!(open(&GENESIS, &commit, 31, &AUTHOR), None);
        assert_eq!(open(&GenesisHash::new([8; 32]), &commit, 30, &AUTHOR), None);
        assert_eq!(open(&GENESIS, &commit, 30, &Hotkey::new([2; 32])), None, "a copy is nobody else's");
    }

    #[test]
    fn what_is_no_ciphertext_is_none_whatever_it_is() {
        let good = lock(&payload(AUTHOR), 30);
        for length in 0..good.len() {
            assert_eq!(open(&GENESIS, &good[..length], 30, &AUTHOR), None);
        }
        // Lengths of nearly 2^64 in each of their places.
        for at in [96, 136, 176, 184] {
            let mut bad = good.clone();
            bad[at..at + 8].fill(0xff);
            assert_eq!(open(&GENESIS, &bad, 30, &AUTHOR), None, "at {at}");
        }
        assert_eq!(open(&GENESIS, &lock(b"not a payload", 30), 30, &AUTHOR), None);
        let uneven = (AUTHOR.as_bytes().to_vec(), vec![2_u16, 3], vec![1_u16], 4_u64).encode();
        assert_eq!(open(&GENESIS, &lock(&uneven, 30), 30, &AUTHOR), None);
    }

    #[test]
    fn a_timelocked_commit_counts_from_the_block_that_knows_its_round() {
        use crate::devnet::{Devnet, Genesis, Parameters, state::OWNER};
        use crate::types::{NetUid, Network, Rao};
        let network = Network { genesis: GENESIS, netuid: NetUid::new(9) };
        let parameters =
            Parameters { tempo: 9, weights_rate_limit: 0, min_allowed_weights: 1, ..Parameters::default() };
        let validators = vec![(AUTHOR, Rao::new(5)), (Hotkey::new([2; 32]), Rao::new(1))];
        let owner = Hotkey::new([0; 32]);
        let chain = Devnet::new(&Genesis { network, owner, validators, parameters }).unwrap();
        let weights = |uid: u16| (AUTHOR.as_bytes().to_vec(), vec![OWNER.get(), uid], vec![1_u16, 1], 0_u64).encode();
        // Committed in epoch 1, due in epoch 2, which has blocks 10 to 19.
        let commit = |uid, block| {
            let round = round_of(block);
            chain.commit_timelocked_weights(AUTHOR, lock(&weights(uid), round), round, 4).unwrap();
        };
        commit(2, 12);
        commit(2, 25);
        let row = || chain.newest().slot(AUTHOR).unwrap().weights.clone();
        while chain.newest().block < 11 {
            chain.step_block();
        }
        assert_eq!((row(), chain.beacon_signature(round_of(12))), (vec![], None));
        chain.step_block();
        assert_eq!(row(), [(0, 65_535), (2, 65_535)]);
        assert_eq!(chain.beacon_signature(round_of(12)), Some(signature(&GENESIS, round_of(12))));
        assert_eq!(chain.newest().timelocked[&1].len(), 1, "the other one waits for its round");
        chain.run_epoch();
        assert!(chain.newest().timelocked.is_empty(), "which lies behind the epoch of its reveal");
    }
}
