//! Extrinsics: read byte for byte, and what their signature must stand over.

use parity_scale_codec::{Compact, Decode, Encode};
use sp_crypto_hashing::blake2_256;
use subxt_signer::sr25519;

use super::{
    error::{Invalid, Refusal},
    runtime::{Extension, Runtime},
};

/// Bytes of an extrinsic. The largest that anybody needs holds 5,000 bytes of encrypted weights.
pub(super) const EXTRINSIC_BYTES_MAX: usize = 32 * 1024;
/// Above this many bytes, the hash is signed in place of the payload.
const SIGNED_BYTES_MAX: usize = 256;

const SIGNED_V4: u8 = 0x84;
const UNSIGNED_V4: u8 = 0x04;

/// A signed extrinsic of version 4.
#[derive(Debug)]
pub(super) struct Extrinsic<'a> {
    pub(super) account: [u8; 32],
    signature: Signature,
    era: Era,
    pub(super) nonce: u32,
    /// Whether it is signed over the metadata's digest too.
    metadata_hash: bool,
    extra: &'a [u8],
    pub(super) call: &'a [u8],
}

#[derive(Debug)]
enum Signature {
    Sr25519([u8; 64]),
    /// Of a kind that no hotkey has.
    Other,
}

/// For which blocks an extrinsic is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    Immortal,
    Mortal { period: u64, phase: u64 },
}

impl Era {
    /// The block an extrinsic was made on, as it looks from a block in which it would be executed.
    pub(super) fn birth(self, current: u64) -> u64 {
        match self {
            Self::Immortal => 0,
            Self::Mortal { period, phase } => (current.max(phase) - phase) / period * period + phase,
        }
    }

    /// The first block in which it is no longer good.
    fn death(self, current: u64) -> u64 {
        match self {
            Self::Immortal => u64::MAX,
            Self::Mortal { period, .. } => self.birth(current) + period,
        }
    }

    fn read(input: &mut &[u8]) -> Option<Self> {
        let first = u8::decode(input).ok()?;
        if first == 0 {
            return Some(Self::Immortal);
        }
        let encoded = u16::from_le_bytes([first, u8::decode(input).ok()?]);
        let period = 2_u64 << (encoded % 16);
        let phase = u64::from(encoded >> 4) * (period >> 12).max(1);
        (period >= 4 && phase < period).then_some(Self::Mortal { period, phase })
    }
}

/// What a signature stands over beside call and extensions, as of the block to come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ground<'a> {
    pub(super) runtime: &'a Runtime,
    pub(super) genesis: [u8; 32],
    /// The number of the block in which the extrinsic would be executed.
    pub(super) current: u64,
}

impl<'a> Extrinsic<'a> {
    /// Reads a whole extrinsic.
    ///
    /// # Errors
    /// [`Refusal::BadFormat`] if the bytes are none, [`Refusal::Unreadable`] if what is inside has no meaning,
    /// [`Refusal::Invalid`] if it is one that nobody may submit.
    pub(super) fn read(bytes: &'a [u8], extensions: &[Extension]) -> Result<Self, Refusal> {
        if bytes.len() > EXTRINSIC_BYTES_MAX {
            return Err(Invalid::ExhaustsResources.into());
        }
        let mut input = bytes;
        let length = Compact::<u32>::decode(&mut input).map_err(|error| Refusal::BadFormat(error.to_string()))?;
        if usize::try_from(length.0) != Ok(input.len()) {
            return Err(Refusal::BadFormat(format!("a length of {} before {} bytes", length.0, input.len())));
        }
        let unreadable = |what: &str| Refusal::Unreadable(format!("{what} of the extrinsic cannot be decoded"));
        match u8::decode(&mut input) {
            Ok(SIGNED_V4) => {}
            // Inherents: only an author puts these into a block.
            Ok(UNSIGNED_V4) => return Err(Invalid::Call.into()),
            _ => return Err(unreadable("the version")),
        }
        let account = read_account(&mut input)?;
        let signature = Signature::read(&mut input).ok_or_else(|| unreadable("the signature"))?;
        let before = input;
        let (mut era, mut nonce, mut metadata_hash) = (Era::Immortal, 0, false);
        for extension in extensions {
            match extension {
                Extension::Mortality => era = Era::read(&mut input).ok_or_else(|| unreadable("the era"))?,
                Extension::Nonce => {
                    nonce = Compact::<u32>::decode(&mut input).map_err(|_| unreadable("the nonce"))?.0;
                }
                // Whatever the tip, calls that pay no fee pay none.
                Extension::Payment => {
                    Compact::<u64>::decode(&mut input).map_err(|_| unreadable("the tip"))?;
                }
                Extension::MetadataHash => {
                    metadata_hash = bool::decode(&mut input).map_err(|_| unreadable("the mode"))?;
                }
                Extension::SpecVersion | Extension::TransactionVersion | Extension::Genesis | Extension::Empty => {}
            }
        }
        let extra = &before[..before.len() - input.len()];
        Ok(Self { account, signature, era, nonce, metadata_hash, extra, call: input })
    }

    /// Checks the signature against what it must stand over. `block_hash` says the hash of a block that the chain
    /// still remembers.
    ///
    /// # Errors
    /// As the chain: [`Invalid::AncientBirthBlock`], [`Invalid::BadProof`], [`Invalid::BadSigner`]; an extrinsic that
    /// names the metadata's digest cannot be looked up, as on a runtime that was built without one.
    pub(super) fn verify(
        &self,
        ground: &Ground<'_>,
        block_hash: impl Fn(u64) -> Option<[u8; 32]>,
    ) -> Result<(), Refusal> {
        let birth = self.era.birth(ground.current);
        let forgotten = birth != 0 && birth + ground.runtime.block_hash_count + 1 < ground.current;
        let birth = block_hash(birth).filter(|_| !forgotten).ok_or(Invalid::AncientBirthBlock)?;
        if self.metadata_hash {
            return Err(Refusal::CannotLookup);
        }
        let Signature::Sr25519(signature) = self.signature else { return Err(Invalid::BadProof.into()) };
        let payload = self.payload(ground, birth);
        let payload = if payload.len() > SIGNED_BYTES_MAX { blake2_256(&payload).to_vec() } else { payload };
        if !sr25519::verify(&sr25519::Signature(signature), payload, &sr25519::PublicKey(self.account)) {
            return Err(Invalid::BadProof.into());
        }
        // A key of zeros is nobody's.
        if self.account == [0; 32] { Err(Invalid::BadSigner.into()) } else { Ok(()) }
    }

    /// Call, extensions, and what is signed without being sent.
    fn payload(&self, ground: &Ground<'_>, birth: [u8; 32]) -> Vec<u8> {
        let mut payload = [self.call, self.extra].concat();
        for extension in &ground.runtime.extensions {
            match extension {
                Extension::SpecVersion => payload.extend(ground.runtime.version.spec_version.to_le_bytes()),
                Extension::TransactionVersion => {
                    payload.extend(ground.runtime.version.transaction_version.to_le_bytes());
                }
                Extension::Genesis => payload.extend(ground.genesis),
                Extension::Mortality => payload.extend(birth),
                Extension::MetadataHash => payload.extend(None::<[u8; 32]>.encode()),
                Extension::Nonce | Extension::Payment | Extension::Empty => {}
            }
        }
        payload
    }

    /// For how many blocks from the one to come it is good.
    pub(super) fn longevity(&self, current: u64) -> u64 {
        self.era.death(current).saturating_sub(current)
    }
}

/// A `MultiAddress`, of which accounts are looked up as they stand and indices not at all.
fn read_account(input: &mut &[u8]) -> Result<[u8; 32], Refusal> {
    let unreadable = || Refusal::Unreadable("the address of the extrinsic cannot be decoded".to_owned());
    match u8::decode(input) {
        Ok(0) => <[u8; 32]>::decode(input).map_err(|_| unreadable()),
        Ok(1..=4) => Err(Refusal::CannotLookup),
        _ => Err(unreadable()),
    }
}

impl Signature {
    fn read(input: &mut &[u8]) -> Option<Self> {
        match u8::decode(input).ok()? {
            0 => <[u8; 64]>::decode(input).ok().map(|_| Self::Other),
            1 => <[u8; 64]>::decode(input).ok().map(Self::Sr25519),
            2 => <[u8; 65]>::decode(input).ok().map(|_| Self::Other),
            _ => None,
        }
    }
}

/// An extrinsic without a signature, as authors put them into their blocks.
pub(super) fn inherent(call: &[u8]) -> Vec<u8> {
    let body = [&[UNSIGNED_V4], call].concat();
    body.encode()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../fixtures/vectors/chain/scale_v1.json")).unwrap()
    }

    fn bytes(value: &serde_json::Value) -> Vec<u8> {
        hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
    }

    /// A signature verifies over the payload that an independent implementation wrote, so what the node signs over
    /// is the same bytes.
    #[test]
    fn kat_a_signature_stands_over_call_extensions_versions_genesis_and_birth() {
        let vector = &vectors()["signing"];
        let runtime = Runtime::recorded().unwrap();
        let key = subxt_signer::sr25519::dev::alice();
        let (call, extra, payload) = (bytes(&vector["call"]), bytes(&vector["extra"]), bytes(&vector["payload"]));
        let signature = key.sign(&payload).0;
        let account = key.public_key().0;
        let body = [&[SIGNED_V4, 0], &account[..], &[1], &signature, &extra, &call].concat();
        let extrinsic = body.encode();
        let read = Extrinsic::read(&extrinsic, &runtime.extensions).unwrap();
        assert_eq!((read.account, read.nonce, read.call), (account, 77, &call[..]));
        assert_eq!(read.era, Era::Mortal { period: 64, phase: 40 });
        let genesis: [u8; 32] = bytes(&vector["genesis"]).try_into().unwrap();
        let birth: [u8; 32] = bytes(&vector["birth_hash"]).try_into().unwrap();
        let ground = Ground { runtime: &runtime, genesis, current: 1_001 };
        assert_eq!(read.payload(&ground, birth), payload);
        let hash = |number| (number == 1_000).then_some(birth);
        assert_eq!(read.verify(&ground, hash), Ok(()));
        // 64 blocks later the same bytes name another block.
        let late = Ground { current: 1_064, ..ground };
        assert_eq!(read.verify(&late, |_| Some([9; 32])), Err(Invalid::BadProof.into()));
        let other = Ground { genesis: [0; 32], ..ground };
        assert_eq!(read.verify(&other, hash), Err(Invalid::BadProof.into()));
    }

    #[test]
    fn an_era_lives_for_its_period_from_its_birth() {
        let era = Era::Mortal { period: 64, phase: 40 };
        assert_eq!([40, 41, 103, 104].map(|current| era.birth(current)), [40, 40, 40, 104]);
        assert_eq!(era.death(50), 104);
        // Before its phase comes up for the first time, it was born in the future.
        assert_eq!(era.birth(7), 40);
        assert_eq!(Era::Immortal.birth(1_000), 0);
    }

    #[test]
    fn broken_extrinsics_are_told_apart() {
        let extensions = Runtime::recorded().unwrap().extensions;
        let read = |body: &[u8]| Extrinsic::read(&body.to_vec().encode(), &extensions).map(|_| ()).unwrap_err();
        assert!(matches!(Extrinsic::read(&[], &extensions), Err(Refusal::BadFormat(_))));
        assert!(matches!(Extrinsic::read(&[8, 1], &extensions), Err(Refusal::BadFormat(_))));
        assert!(matches!(Extrinsic::read(&[4, 1, 1], &extensions), Err(Refusal::BadFormat(_))));
        assert!(matches!(read(&[0x85]), Refusal::Unreadable(_)));
        assert_eq!(read(&[UNSIGNED_V4, 2, 0, 0]), Invalid::Call.into());
        assert_eq!(read(&[SIGNED_V4, 1, 0]), Refusal::CannotLookup);
        assert!(matches!(read(&[SIGNED_V4, 0, 7]), Refusal::Unreadable(_)));
        let signed = [&[SIGNED_V4, 0][..], &[7; 32], &[1], &[0; 64]].concat();
        // Mode 2 of CheckMetadataHash does not exist, and neither does an era of period 2.
        assert!(matches!(read(&[&signed[..], &[0, 0, 0, 2]].concat()), Refusal::Unreadable(_)));
        assert!(matches!(read(&[&signed[..], &[0x10, 0, 0, 0, 0]].concat()), Refusal::Unreadable(_)));
        let long = vec![0; EXTRINSIC_BYTES_MAX + 1];
        assert_eq!(Extrinsic::read(&long, &extensions).unwrap_err(), Invalid::ExhaustsResources.into());
    }
}
