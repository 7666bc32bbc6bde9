//! The encryption of key files: `$NACL`, 24 bytes of nonce, and a secret box (XSalsa20-Poly1305) under a key
//! from the password by Argon2i 1.3, 8 passes over 512 MiB in one lane with a salt that is always the same.
//! These are libsodium's `crypto_secretbox` and `crypto_pwhash` at its sensitive limits.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use crypto_secretbox::aead::{Aead, KeyInit};
use crypto_secretbox::{Nonce, XSalsa20Poly1305};
use zeroize::Zeroizing;

use super::Password;

pub(super) const MAGIC: &[u8] = b"$NACL";
const SALT: [u8; 16] = [0x13, 0x71, 0x83, 0xdf, 0xf1, 0x5a, 0x09, 0xbc, 0x9c, 0x90, 0xb5, 0x51, 0x87, 0x39, 0xe9, 0xb1];
const MEMORY_KIB: u32 = 512 << 10;
const PASSES: u32 = 8;
const NONCE_BYTES: usize = 24;

/// Why a secret box does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The password is wrong, or the bytes are damaged: the box does not tell these apart.
    Wrong,
    /// There is not enough memory.
    Memory,
}

/// Opens what follows [`MAGIC`]. Takes seconds, and 512 MiB.
pub(super) fn open(sealed: &[u8], password: &Password) -> Result<Zeroizing<Vec<u8>>, Closed> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Closed::Wrong)?;
    let mut key = Zeroizing::new([0; 32]);
    derive(password, &mut key)?;
    let cipher = XSalsa20Poly1305::new_from_slice(key.as_ref()).map_err(|_| Closed::Wrong)?;
    cipher.decrypt(&Nonce::from(*nonce), sealed).map(Zeroizing::new).map_err(|_| Closed::Wrong)
}

fn derive(password: &Password, key: &mut [u8; 32]) -> Result<(), Closed> {
    let params = Params::new(MEMORY_KIB, PASSES, 1, Some(key.len())).map_err(|_| Closed::Wrong)?;
    let mut blocks = Vec::new();
    let count = params.block_count();
    blocks.try_reserve_exact(count).map_err(|_| Closed::Memory)?;
    blocks.resize(count, Block::default());
    let argon2 = Argon2::new(Algorithm::Argon2i, Version::V0x13, params);
    // Only a password of gigabytes is no password.
    argon2.hash_password_into_with_memory(password.as_bytes(), &SALT, key, &mut blocks[..]).map_err(|_| Closed::Wrong)
}
