//! New hotkeys, for devnets and tests: what costs nothing when it is lost.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

use serde_json::json;
use subxt_signer::bip39::Mnemonic;
use subxt_signer::sr25519;
use zeroize::Zeroizing;

use super::{SigningKey, WalletError};
use crate::ss58;

/// Bytes behind a phrase of twelve words.
const ENTROPY_BYTES: usize = 16;

/// Makes a hotkey and writes it to `path`, not encrypted and readable by its owner alone. It is there whole
/// or not at all, and nothing that is there is overwritten.
///
/// # Errors
/// [`WalletError::Exists`], [`WalletError::Io`], [`WalletError::Random`].
pub fn create_hotkey(path: &Path) -> Result<SigningKey, WalletError> {
    let mut entropy = Zeroizing::new([0; ENTROPY_BYTES]);
    getrandom::fill(entropy.as_mut()).map_err(WalletError::Random)?;
    let phrase = Mnemonic::from_entropy(entropy.as_ref()).expect("16 bytes are the entropy of twelve words");
    let key = sr25519::Keypair::from_phrase(&phrase, None).map(SigningKey).expect("any phrase has a key");
    let (hotkey, words) = (key.hotkey(), Zeroizing::new(phrase.to_string()));
    let account = format!("0x{hotkey}");
    // A whole document of one line, put together by hand: a JSON value would leave the phrase in memory.
    let public = json!({"accountId": account, "publicKey": account, "ss58Address": ss58::format(&hotkey)});
    let public = public.to_string();
    let text = Zeroizing::new(format!("{{\"secretPhrase\":\"{}\",{}", *words, &public[1..]));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(WalletError::io("made", folder))?;
    }
    write_new(path, text.as_bytes())?;
    Ok(key)
}

/// Writes a file beside its place and links it there, which fails if the place is taken.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), WalletError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let part = path.with_file_name(name);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&part).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::hard_link(&part, path)
    });
    // In its place or not, what lies beside it has no use.
    let _ = fs::remove_file(&part);
    written.map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => WalletError::Exists(path.to_owned()),
        _ => WalletError::io("written", path)(error),
    })?;
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(WalletError::io("written", folder))
}

#[cfg(test)]
mod tests {
    use super::super::KeyFile;
    use super::*;

    #[test]
    fn a_new_hotkey_can_be_read_again_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("w/hotkeys/default");
        let key = create_hotkey(&path).unwrap();
        let file = KeyFile::read(&path).unwrap();
        assert_eq!(file.public(), Some(key.hotkey()));
        assert_eq!(file.unlock(None).unwrap().hotkey(), key.hotkey());
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
        assert_ne!(create_hotkey(&folder.path().join("other")).unwrap().hotkey(), key.hotkey());
    }

    #[test]
    fn a_new_hotkey_overwrites_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("default");
        fs::write(&path, b"precious").unwrap();
        assert!(matches!(create_hotkey(&path), Err(WalletError::Exists(_))));
        assert_eq!(fs::read(&path).unwrap(), b"precious");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
