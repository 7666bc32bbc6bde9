//! Hotkeys and signatures: sr25519 over a domain and a digest.
//!
//! Signing is randomised, so a signature never enters an id.

use assay_commitments::Hotkey;
use assay_commitments::codec::{Canonical, Malformed, Reader, Writer};
use subxt_signer::sr25519;
use thiserror::Error;

/// An sr25519 signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Canonical for Signature {
    fn write(&self, out: &mut Writer) {
        out.raw(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        from.array().map(Self)
    }
}

/// The seed is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the seed is no sr25519 key")]
pub struct BadSeed;

/// A hotkey's secret half. Its memory is wiped by the signer's own type.
#[derive(Clone)]
pub struct Keypair(sr25519::Keypair);

impl std::fmt::Debug for Keypair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keypair({})", self.hotkey())
    }
}

impl Keypair {
    /// The key pair of a 32-byte seed.
    ///
    /// # Errors
    /// [`BadSeed`].
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, BadSeed> {
        sr25519::Keypair::from_secret_key(seed).map(Self).map_err(|_| BadSeed)
    }

    /// The public half.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey::new(self.0.public_key().0)
    }

    /// Signs a digest under a domain.
    pub(crate) fn sign(&self, domain: &[u8], digest: &[u8; 32]) -> Signature {
        Signature(self.0.sign(&message(domain, digest)).0)
    }
}

/// A key pair out of a wallet.
impl From<sr25519::Keypair> for Keypair {
    fn from(pair: sr25519::Keypair) -> Self {
        Self(pair)
    }
}

/// Whether `signature` is `hotkey`'s over the digest under the domain.
pub(crate) fn is_signed(hotkey: &Hotkey, domain: &[u8], digest: &[u8; 32], signature: &Signature) -> bool {
    sr25519::verify(&sr25519::Signature(signature.0), message(domain, digest), &sr25519::PublicKey(*hotkey.as_bytes()))
}

fn message(domain: &[u8], digest: &[u8; 32]) -> Vec<u8> {
    [domain, digest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_key_domain_and_digest_only() {
        let keys = Keypair::from_seed([1; 32]).unwrap();
        let other = Keypair::from_seed([2; 32]).unwrap();
        let signature = keys.sign(b"domain", &[3; 32]);
        assert!(is_signed(&keys.hotkey(), b"domain", &[3; 32], &signature));
        assert!(!is_signed(&other.hotkey(), b"domain", &[3; 32], &signature));
        assert!(!is_signed(&keys.hotkey(), b"domain2", &[3; 32], &signature));
        assert!(!is_signed(&keys.hotkey(), b"domain", &[4; 32], &signature));
        for bit in 0..512 {
            let mut bytes = signature.0;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!is_signed(&keys.hotkey(), b"domain", &[3; 32], &Signature(bytes)), "bit {bit}");
        }
    }
}
