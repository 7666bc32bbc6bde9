//! Bittensor key files.
//!
//! ```text
//! ~/.bittensor/wallets/<wallet>/coldkey              mostly encrypted; no service needs it
//!                               coldkeypub.txt       its public half
//!                               hotkeys/<hotkey>     JSON; what a miner or validator signs with
//!                               hotkeys/<hotkey>pub.txt
//! ```
//!
//! A key file is JSON whose keys are all optional: `secretPhrase` counts before `secretSeed`, and both
//! before `privateKey`; `publicKey`, `accountId` and `ss58Address` tell the public half. An encrypted one
//! is `$NACL`, a nonce, and that JSON in a secret box (`encryption`). What was written by
//! `bittensor-wallet` 4.1.1 is in `fixtures/vectors/chain`.
//!
//! A file with a secret that others may read is refused. Secrets are wiped from memory where they are no
//! longer needed, and nothing here prints one.

mod create;
mod encryption;
mod key_file;
mod paths;

use std::fmt;
use std::path::{Path, PathBuf};

use assay_commitments::Hotkey;
use subxt_signer::sr25519;
use zeroize::Zeroizing;

use crate::ss58;

pub use create::create_hotkey;
pub use key_file::{KeyFile, Protection};
pub use paths::WalletPaths;

/// A password. Wiped when it is dropped, and never printed.
#[derive(Clone)]
pub struct Password(Zeroizing<String>);

impl Password {
    /// Takes a password.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// A key pair out of a key file. Its memory is wiped by the signer's own type, and it prints its public
/// half alone.
#[derive(Clone)]
pub struct SigningKey(sr25519::Keypair);

impl SigningKey {
    /// The public half.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey::new(self.0.public_key().0)
    }

    /// What signs.
    pub const fn signer(&self) -> &sr25519::Keypair {
        &self.0
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.hotkey())
    }
}

/// The account of an SS58 address, or of 64 digits of hexadecimal.
pub fn account(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut bytes = [0; 32];
    if hex::decode_to_slice(digits, &mut bytes).is_ok() {
        return Some(bytes);
    }
    ss58::parse(text).ok().map(|account| *account.as_bytes())
}

/// Why a key cannot be had from its file.
#[derive(Debug, thiserror::Error)]
pub enum WalletError {
    /// The file is not there.
    #[error("{}: no such key file; check the names of wallet and hotkey, or make one", .0.display())]
    Missing(PathBuf),
    /// The system refuses.
    #[error("{}: cannot be {action}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Others may read or change it.
    #[error("{path}: mode {mode:o} lets others at this key; run: chmod 600 {path}", path = path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A name that would lead out of its folder.
    #[error("`{0}` is no name of a wallet or hotkey: use letters, digits, `-`, `_` and `.`")]
    Name(String),
    /// There is no home to look in.
    #[error("HOME is not set: name the folder of wallets")]
    NoHome,
    /// The file is encrypted, and no password was given.
    #[error("{}: this key is encrypted; give the file that holds its password", .0.display())]
    Locked(PathBuf),
    /// The password does not open it.
    #[error("{}: wrong password, or a damaged key file", .0.display())]
    WrongPassword(PathBuf),
    /// The memory that the key derivation takes cannot be had.
    #[error("{}: opening it takes 512 MiB of memory, which cannot be had", .0.display())]
    Memory(PathBuf),
    /// A form of encryption that the wallets of today no longer write.
    #[error("{}: encrypted in a form that is no longer written ({form}); open and save it with the Bittensor wallet once", path.display())]
    Legacy {
        /// The file.
        path: PathBuf,
        /// The form.
        form: &'static str,
    },
    /// The file is no key file.
    #[error("{}: this is no key file: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The file tells a public key only.
    #[error("{}: this file holds no secret; name the key itself", .0.display())]
    PublicOnly(PathBuf),
    /// The file holds the secret in its expanded form alone.
    #[error("{}: this file holds `privateKey` alone; make it again from its phrase or seed", .0.display())]
    Expanded(PathBuf),
    /// What the file says of its public key is not its secret's.
    #[error("{}: the secret is another key's than {stated}, which the file names; take the right file", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The address it names.
        stated: String,
    },
    /// A new key would take another one's place.
    #[error("{}: there is a key already, and nothing overwrites it; choose another name", .0.display())]
    Exists(PathBuf),
    /// The system has no randomness.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
}

impl WalletError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_read_in_either_form() {
        let address = "5EHgWw2Af1pnoc7f1A8bfmM97W3DAYW8xr82RfhLL9oAabAe";
        let digits = "625e25364c7b68e0a83065ccb40afed43f8fe933e669b24f3d69a57eddb3b715";
        let expected = account(digits).unwrap();
        assert_eq!(account(address), Some(expected));
        assert_eq!(account(&format!("0x{digits}")), Some(expected));
        assert_eq!(ss58::format(&Hotkey::new(expected)), address);
        for other in ["", "0x", &digits[1..], &address[1..], &address.replace('5', "4")] {
            assert_eq!(account(other), None, "{other}");
        }
    }

    #[test]
    fn nothing_prints_a_secret() {
        let seed = [7; 32];
        let key = SigningKey(sr25519::Keypair::from_secret_key(seed).unwrap());
        assert_eq!(format!("{key:?}"), format!("SigningKey({})", key.hotkey()));
        assert_eq!(format!("{:?}", Password::new("open sesame".to_owned())), "Password(…)");
    }
}
