//! Weights encrypted to a round of the beacon.
//!
//! The chain opens them itself once it has the round's signature, in the epoch of their reveal and in no
//! other. What is encrypted is the SCALE encoding of author, uids, values and version key; the scheme is
//! the identity-based encryption of Boneh and Franklin over BLS12-381, with AES-256-GCM for the body, as
//! drand's quicknet allows it.

use ark_serialize::{CanonicalDeserialize, CanonicalSerialize};
use ark_std::rand::{SeedableRng, rngs::StdRng};
use assay_commitments::Hotkey;
use parity_scale_codec::Encode;
use sp_crypto_hashing::sha2_256;
use timelock::{
    block_ciphers::AESGCMBlockCipherProvider,
    engines::{EngineBLS, drand::TinyBLS381},
    ibe::fullident::Identity,
    tlock::tle,
};

use super::{items::Beacon, snapshot::Clock};
use crate::types::Uid;

type PublicKey = <TinyBLS381 as EngineBLS>::PublicKeyGroup;

/// How many blocks into the reveal epoch weights are let open: not before the epoch has begun by any
/// count, and with all of it left for the chain to receive the round.
const OPENING_BLOCKS: u64 = 3;
/// Bytes of a commit that the chain takes.
pub(super) const COMMIT_BYTES_MAX: usize = 5_000;
/// Where the chain's form of a ciphertext has lengths that this library's leaves out: before V and before
/// W, behind the 96 bytes of U.
const HEADER: [usize; 2] = [96, 128];
const HASH_BYTES: u64 = 32;

/// The round that weights committed now are encrypted to.
///
/// - `now_ms` is the time of the block `head`, in milliseconds since 1970; `block_ms` that of a block.
/// - Source: the Python SDK's choice, from block `OPENING_BLOCKS` of the reveal epoch.
/// - Whatever the numbers, there is a round: where they leave the range, the last one of it.
pub(super) fn round(beacon: &Beacon, clock: &Clock, head: u64, period: u64, now_ms: u64, block_ms: u64) -> u64 {
    let next_epoch = clock.head(head).next_epoch.get();
    let reveal = next_epoch.saturating_add(period.saturating_sub(1).saturating_mul(clock.length));
    let first = OPENING_BLOCKS.min(clock.length.saturating_sub(1));
    let opening = reveal.saturating_add(first).saturating_sub(head);
    let target_s = now_ms.saturating_add(opening.saturating_mul(block_ms)) / 1000;
    (target_s.saturating_sub(beacon.genesis_time.into())) / u64::from(beacon.period.max(1))
}

/// Encrypts weights to a round, in the chain's form.
///
/// # Errors
/// What is wrong with the beacon's key, or with this machine's randomness.
pub(super) fn encrypt(
    author: Hotkey,
    weights: &[(Uid, u16)],
    version_key: u64,
    round: u64,
    public_key: &[u8],
) -> Result<Vec<u8>, String> {
    let key = PublicKey::deserialize_compressed(public_key).map_err(|error| format!("its public key: {error}"))?;
    let (uids, values): (Vec<u16>, Vec<u16>) = weights.iter().map(|(uid, value)| (uid.get(), *value)).unzip();
    let payload = (author.as_bytes().to_vec(), uids, values, version_key).encode();
    let mut seeds = [[0; 32]; 2];
    for seed in &mut seeds {
        getrandom::fill(seed).map_err(|error| format!("no randomness: {error}"))?;
    }
    let identity = Identity::new(b"", &sha2_256(&round.to_be_bytes()));
    let random = StdRng::from_seed(seeds[0]);
    let ciphertext = tle::<TinyBLS381, AESGCMBlockCipherProvider, _>(key, seeds[1], &payload, identity, random)
        .map_err(|error| format!("encryption: {error:?}"))?;
    let mut bytes = Vec::new();
    ciphertext.serialize_compressed(&mut bytes).map_err(|error| format!("serialisation: {error}"))?;
    Ok(frame(&bytes))
}

/// From the library's form of a ciphertext to the chain's.
fn frame(bytes: &[u8]) -> Vec<u8> {
    let (u, rest) = bytes.split_at(HEADER[0]);
    let (v, rest) = rest.split_at(HEADER[1] - HEADER[0]);
    let length = HASH_BYTES.to_le_bytes();
    [u, &length, v, &length, rest].concat()
}

#[cfg(test)]
mod tests {
    use parity_scale_codec::Decode;
    use timelock::tlock::{TLECiphertext, tld};

    use super::*;
    use crate::types::NetUid;

    /// The key of drand's quicknet, and what it signed as round 1000; both are public.
    const QUICKNET: &str = "83cf0f2896adee7eb8b5f01fcad3912212c437e0073e911fb90022d3e760183c8c4b450b6a0a6c3ac6a5776a2d1064510d1fec758c921cc22b0e17e63aaf4bcb5ed66304de9cf809bd274ca73bab4af5a6e9c76a4bc09e76eae8991ef5ece45a";
    const ROUND_1000: &str =
        "b44679b9a59af2ec876b1a6b1ad52ea9b1615fc3982b19576350f93447cb1125e342b73a8dd2bacbe47e4b6b63ed5e39";

    type Payload = (Vec<u8>, Vec<u16>, Vec<u16>, u64);

    fn signature() -> <TinyBLS381 as EngineBLS>::SignatureGroup {
        CanonicalDeserialize::deserialize_compressed(&hex::decode(ROUND_1000).unwrap()[..]).unwrap()
    }

    fn unframe(bytes: &[u8]) -> Vec<u8> {
        [&bytes[..96], &bytes[104..136], &bytes[144..]].concat()
    }

    fn decrypt(bytes: &[u8]) -> Result<Vec<u8>, timelock::tlock::Error> {
        let ciphertext = TLECiphertext::<TinyBLS381>::deserialize_compressed(&unframe(bytes)[..]).unwrap();
        tld::<TinyBLS381, AESGCMBlockCipherProvider>(ciphertext, signature())
    }

    #[test]
    fn kat_weights_open_with_what_quicknet_signed_and_not_before() {
        let author = Hotkey::new([7; 32]);
        let weights: Vec<(Uid, u16)> = (0..256).map(|uid| (Uid::new(uid), 65_535 - uid)).collect();
        let key = hex::decode(QUICKNET).unwrap();
        let sealed = encrypt(author, &weights, 9, 1000, &key).unwrap();
        assert!(sealed.len() <= COMMIT_BYTES_MAX, "{} bytes", sealed.len());
        assert_eq!(sealed[96..104], 32_u64.to_le_bytes());
        assert_eq!(sealed[136..144], 32_u64.to_le_bytes());

        let payload = decrypt(&sealed).unwrap();
        let (hotkey, uids, values, version_key) = Payload::decode(&mut &payload[..]).unwrap();
        assert_eq!((hotkey.as_slice(), version_key), (&author.as_bytes()[..], 9));
        assert_eq!(uids.into_iter().map(Uid::new).zip(values).collect::<Vec<_>>(), weights);

        let later = encrypt(author, &weights, 9, 1001, &key).unwrap();
        assert!(decrypt(&later).is_err());
        assert_ne!(encrypt(author, &weights, 9, 1000, &key).unwrap(), sealed, "the key of the body is used twice");
    }

    #[test]
    fn a_key_that_is_none_is_refused() {
        assert!(encrypt(Hotkey::new([7; 32]), &[], 0, 1, &[0; 95]).is_err());
    }

    #[test]
    fn absurd_numbers_of_a_node_bring_a_round_and_no_panic() {
        let numbers = [0, 1, u64::from(u32::MAX), u64::MAX - 1, u64::MAX];
        let most = u64::MAX / 1000;
        for (period, genesis_time) in [(0, 0), (1, u32::MAX), (u32::MAX, 3)] {
            let beacon = Beacon { public_key: vec![], period, genesis_time };
            for length in [1, 65_536, u64::MAX] {
                let clock = Clock { netuid: NetUid::new(u16::MAX), length, kept: None };
                for (head, now, block) in numbers.iter().flat_map(|head| numbers.map(|other| (*head, other, other))) {
                    assert!(round(&beacon, &clock, head, now, now, block) <= most, "{head}, {now}");
                }
            }
        }
        let beacon = Beacon { public_key: vec![], period: 1, genesis_time: 0 };
        let clock = Clock { netuid: NetUid::new(1), length: 361, kept: None };
        assert_eq!(round(&beacon, &clock, 100, u64::MAX, 0, u64::MAX), most, "as far as it goes, and not round again");
    }

    #[test]
    fn the_round_comes_three_blocks_into_the_epoch_of_the_reveal() {
        let beacon = Beacon { public_key: vec![], period: 3, genesis_time: 1_692_803_367 };
        let clock = Clock { netuid: NetUid::new(1), length: 361, kept: None };
        let at = |block: u64| 1_800_000_000_000 + block * 12_000;
        for period in 1..=3 {
            for head in [0, 100, 357, 358, 359, 720, 5_000] {
                let chosen = round(&beacon, &clock, head, period, at(head), 12_000);
                // Published at genesis + (round - 1) · 3 s.
                let published_ms = (u64::from(beacon.genesis_time) + (chosen - 1) * 3) * 1000;
                let first = clock.first_block(clock.epoch_of(head) + period);
                assert!(published_ms > at(first + 2) && published_ms <= at(first + 3), "period {period}, head {head}");
            }
        }
    }
}
