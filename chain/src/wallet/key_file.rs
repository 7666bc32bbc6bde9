//! One key file: what it says openly, and the key in it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use assay_commitments::Hotkey;
use assay_files::Unreadable;
use serde::Deserialize;
use subxt_signer::bip39::Mnemonic;
use subxt_signer::sr25519;
use zeroize::{Zeroize, Zeroizing};

use super::encryption::{self, Closed, MAGIC};
use super::paths::public_half;
use super::{Password, SigningKey, WalletError, account};
use crate::ss58;

/// Key files are a few hundred bytes.
const MAX_BYTES: u64 = 64 << 10;
/// How the SDK marks a key of the kind that hotkeys are.
const SR25519: u8 = 1;

/// How a key file keeps its secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// In the open.
    Plain,
    /// Under a password.
    Encrypted,
    /// It has none.
    PublicOnly,
}

/// A key file that was read, and not opened yet.
pub struct KeyFile {
    path: PathBuf,
    content: Content,
    mode: Option<u32>,
}

enum Content {
    Plain(Document),
    /// What stands behind the magic, and the public half if it lies beside.
    Encrypted(Vec<u8>, Option<Hotkey>),
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyFile").field("path", &self.path).field("public", &self.public()).finish_non_exhaustive()
    }
}

/// The JSON of a key file. Whatever else stands in it is for others.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    secret_phrase: Option<String>,
    secret_seed: Option<String>,
    private_key: Option<String>,
    public_key: Option<String>,
    account_id: Option<String>,
    ss58_address: Option<String>,
    crypto_type: Option<u8>,
}

impl Drop for Document {
    fn drop(&mut self) {
        [&mut self.secret_phrase, &mut self.secret_seed, &mut self.private_key].into_iter().for_each(Zeroize::zeroize);
    }
}

impl Document {
    fn read(bytes: &[u8], path: &Path) -> Result<Self, WalletError> {
        // What a parser says of a wrong file may quote it.
        let document: Self = serde_json::from_slice(bytes).map_err(|error| WalletError::Malformed {
            path: path.to_owned(),
            why: format!("line {} column {} is no JSON of a key", error.line(), error.column()),
        })?;
        if document.crypto_type.is_some_and(|kind| kind != SR25519) {
            return Err(malformed(path, "it holds a key of another kind than sr25519"));
        }
        // A secret that is none is told of by whoever looks into the file, not only when it is to sign.
        document.pair(path)?;
        Ok(document)
    }

    /// The public half, as the file states it.
    fn public(&self) -> Option<Hotkey> {
        [&self.public_key, &self.account_id, &self.ss58_address]
            .into_iter()
            .flatten()
            .find_map(|text| account(text))
            .map(Hotkey::new)
    }

    fn has_secret(&self) -> bool {
        self.secret_phrase.is_some() || self.secret_seed.is_some() || self.private_key.is_some()
    }

    /// The key of a phrase or a seed; none if the file holds neither.
    fn pair(&self, path: &Path) -> Result<Option<sr25519::Keypair>, WalletError> {
        let malformed = |why| malformed(path, why);
        if let Some(phrase) = &self.secret_phrase {
            let phrase = Mnemonic::from_str(phrase).map_err(|_| malformed("`secretPhrase` is no mnemonic"))?;
            let pair = sr25519::Keypair::from_phrase(&phrase, None);
            pair.map(Some).map_err(|_| malformed("`secretPhrase` has no key"))
        } else if let Some(seed) = &self.secret_seed {
            let mut bytes = Zeroizing::new([0; 32]);
            hex::decode_to_slice(seed.strip_prefix("0x").unwrap_or(seed), bytes.as_mut())
                .map_err(|_| malformed("`secretSeed` is no 32 bytes in hexadecimal"))?;
            sr25519::Keypair::from_secret_key(*bytes).map(Some).map_err(|_| malformed("`secretSeed` has no key"))
        } else {
            Ok(None)
        }
    }

    fn key(&self, path: &Path) -> Result<SigningKey, WalletError> {
        let pair = match self.pair(path)? {
            Some(pair) => pair,
            None if self.private_key.is_some() => return Err(WalletError::Expanded(path.to_owned())),
            None => return Err(WalletError::PublicOnly(path.to_owned())),
        };
        let key = SigningKey(pair);
        match self.public() {
            Some(stated) if stated != key.hotkey() => {
                Err(WalletError::Mismatch { path: path.to_owned(), stated: ss58::format(&stated) })
            }
            _ => Ok(key),
        }
    }
}

fn malformed(path: &Path, why: &str) -> WalletError {
    WalletError::Malformed { path: path.to_owned(), why: why.to_owned() }
}

impl KeyFile {
    /// Reads a key file. One with a secret must be its owner's alone, on systems that tell.
    ///
    /// # Errors
    /// [`WalletError`], but for those of passwords.
    pub fn read(path: &Path) -> Result<Self, WalletError> {
        let (bytes, mode) = read(path)?;
        if bytes.starts_with(b"$ANSIBLE_VAULT") {
            return Err(WalletError::Legacy { path: path.to_owned(), form: "Ansible vault" });
        }
        if bytes.starts_with(b"gAAAAA") {
            return Err(WalletError::Legacy { path: path.to_owned(), form: "Fernet" });
        }
        let content = match bytes.strip_prefix(MAGIC) {
            Some(sealed) => Content::Encrypted(sealed.to_vec(), beside(path)),
            None => Content::Plain(Document::read(&bytes, path)?),
        };
        let file = Self { path: path.to_owned(), content, mode };
        match (file.protection(), mode) {
            (Protection::Plain | Protection::Encrypted, Some(mode)) if mode & 0o077 != 0 => {
                Err(WalletError::Exposed { path: path.to_owned(), mode })
            }
            _ => Ok(file),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its mode, as far as the system has modes.
    pub const fn mode(&self) -> Option<u32> {
        self.mode
    }

    /// How it keeps its secret.
    pub fn protection(&self) -> Protection {
        match &self.content {
            Content::Encrypted(..) => Protection::Encrypted,
            Content::Plain(document) if document.has_secret() => Protection::Plain,
            Content::Plain(_) => Protection::PublicOnly,
        }
    }

    /// The public half, as the file or the one beside it states it.
    pub fn public(&self) -> Option<Hotkey> {
        match &self.content {
            Content::Plain(document) => document.public(),
            Content::Encrypted(_, public) => *public,
        }
    }

    /// The key. Of an encrypted file it takes seconds, and 512 MiB.
    ///
    /// # Errors
    /// [`WalletError`].
    pub fn unlock(&self, password: Option<&Password>) -> Result<SigningKey, WalletError> {
        let path = self.path.as_path();
        match &self.content {
            Content::Plain(document) => document.key(path),
            Content::Encrypted(sealed, _) => {
                let password = password.ok_or_else(|| WalletError::Locked(path.to_owned()))?;
                let opened = encryption::open(sealed, password).map_err(|closed| match closed {
                    Closed::Wrong => WalletError::WrongPassword(path.to_owned()),
                    Closed::Memory => WalletError::Memory(path.to_owned()),
                })?;
                Document::read(&opened, path)?.key(path)
            }
        }
    }
}

/// The public half that lies beside a file, if it can be read.
fn beside(path: &Path) -> Option<Hotkey> {
    let path = public_half(path);
    Document::read(&read(&path).ok()?.0, &path).ok()?.public()
}

fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, Option<u32>), WalletError> {
    let another = || malformed(path, "it is not a file of a few hundred bytes");
    let file = assay_files::open(path).map_err(|error| match error {
        error if error.is_missing() => WalletError::Missing(path.to_owned()),
        Unreadable::Io(error) => WalletError::io("read", path)(error),
        Unreadable::NoFile(_) | Unreadable::TooLong { .. } => another(),
    })?;
    let metadata = file.metadata().map_err(WalletError::io("read", path))?;
    if metadata.len() > MAX_BYTES {
        return Err(another());
    }
    // All of it at once: a buffer that grows would leave pieces behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_BYTES).unwrap_or(usize::MAX)));
    file.take(MAX_BYTES).read_to_end(&mut bytes).map_err(WalletError::io("read", path))?;
    Ok((bytes, mode(&metadata)))
}

#[cfg(unix)]
#[expect(clippy::unnecessary_wraps, reason = "other systems have no modes")]
fn mode(metadata: &std::fs::Metadata) -> Option<u32> {
    Some(std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777)
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> Option<u32> {
    None
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use serde_json::Value;

    use super::*;
    use crate::wallet::WalletPaths;

    /// The wallet that the Bittensor SDK wrote, in a folder of wallets.
    fn vector() -> (tempfile::TempDir, WalletPaths, Value) {
        let vector = include_bytes!("../../../fixtures/vectors/chain/wallets_v1.json");
        let vector: Value = serde_json::from_slice(vector).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, file) in vector["files"].as_object().unwrap() {
            let path = folder.path().join("vector").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, hex::decode(file["hex"].as_str().unwrap()).unwrap()).unwrap();
            let mode = u32::try_from(file["mode"].as_u64().unwrap()).unwrap();
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        }
        let paths = WalletPaths::new(folder.path(), "vector").unwrap();
        (folder, paths, vector)
    }

    fn stated(key: &Value) -> Hotkey {
        let public = account(key["public"].as_str().unwrap()).unwrap();
        let public = Hotkey::new(public);
        assert_eq!(ss58::format(&public), key["ss58"].as_str().unwrap());
        public
    }

    fn refused(path: &Path, text: &[u8]) -> String {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        let error = KeyFile::read(path).and_then(|file| file.unlock(None)).unwrap_err().to_string();
        assert!(error.contains(path.to_str().unwrap()) && !error.contains('\n'), "{error}");
        error
    }

    #[test]
    fn kat_hotkeys_of_the_sdk_are_read_by_phrase_and_by_seed() {
        let (_folder, paths, vector) = vector();
        let expected = stated(&vector["hotkey"]);
        for name in ["phrase", "seed"] {
            let file = KeyFile::read(&paths.hotkey(name).unwrap()).unwrap();
            assert_eq!(
                (file.protection(), file.mode(), file.public()),
                (Protection::Plain, Some(0o600), Some(expected))
            );
            assert_eq!(file.unlock(None).unwrap().hotkey(), expected, "{name}");
        }
        let expanded = KeyFile::read(&paths.hotkey("private").unwrap()).unwrap();
        assert_eq!(expanded.public(), Some(expected));
        assert!(matches!(expanded.unlock(None), Err(WalletError::Expanded(_))));
        let public = KeyFile::read(&paths.hotkey("phrasepub.txt").unwrap()).unwrap();
        assert_eq!(public.protection(), Protection::PublicOnly);
        assert!(matches!(public.unlock(None), Err(WalletError::PublicOnly(_))));
    }

    #[test]
    fn kat_an_encrypted_coldkey_of_the_sdk_is_opened_with_its_password() {
        let (_folder, paths, vector) = vector();
        let expected = stated(&vector["coldkey"]);
        let file = KeyFile::read(&paths.coldkey()).unwrap();
        assert_eq!((file.protection(), file.public()), (Protection::Encrypted, Some(expected)));
        assert!(matches!(file.unlock(None), Err(WalletError::Locked(_))));
        let password = Password::new(vector["password"].as_str().unwrap().to_owned());
        assert_eq!(file.unlock(Some(&password)).unwrap().hotkey(), expected);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_command_that_helps() {
        let (_folder, paths, _) = vector();
        let path = paths.hotkey("phrase").unwrap();
        for mode in [0o640, 0o604, 0o644, 0o660] {
            for path in [&path, &paths.coldkey()] {
                fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
                let error = KeyFile::read(path).unwrap_err().to_string();
                assert!(error.contains(&format!("chmod 600 {}", path.display())), "{error}");
            }
        }
        fs::set_permissions(paths.coldkeypub(), PermissionsExt::from_mode(0o644)).unwrap();
        assert!(KeyFile::read(&paths.coldkeypub()).is_ok(), "a public half is for everybody");
    }

    #[test]
    fn what_is_no_key_file_is_named_and_never_quoted() {
        let (_folder, paths, _) = vector();
        let path = paths.hotkey("other").unwrap();
        assert!(matches!(KeyFile::read(&path), Err(WalletError::Missing(_))));
        let secret = "legal winner thank year";
        for (text, part) in [
            (format!("{{\"secretPhrase\": \"{secret}\"}}"), "no mnemonic"),
            (format!("{{\"secretSeed\": \"{secret}\"}}"), "32 bytes"),
            (format!("{{\"secretPhrase\": {secret}"), "line 1"),
            (secret.to_owned(), "no JSON"),
            ("{}".to_owned(), "no secret"),
            ("{\"cryptoType\":0}".to_owned(), "sr25519"),
            ("$ANSIBLE_VAULT;1.1;AES256".to_owned(), "Ansible"),
            ("gAAAAABk".to_owned(), "Fernet"),
            ("x".repeat(1 << 17), "few hundred bytes"),
        ] {
            let error = refused(&path, text.as_bytes());
            assert!(error.contains(part) && !error.contains(secret), "{error}");
        }
    }

    #[test]
    fn a_secret_of_another_key_than_the_file_names_is_refused() {
        let (_folder, paths, _) = vector();
        let text = fs::read_to_string(paths.hotkey("seed").unwrap()).unwrap();
        let error = refused(&paths.hotkey("other").unwrap(), text.replace("0x62", "0x63").as_bytes());
        assert!(error.contains("another key"), "{error}");
    }
}
