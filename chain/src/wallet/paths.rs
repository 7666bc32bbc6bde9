//! Where the files of a wallet lie.

use std::path::{Path, PathBuf};

use super::WalletError;

/// The files of one wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalletPaths {
    folder: PathBuf,
}

impl WalletPaths {
    /// The wallet of that name in a folder of wallets.
    ///
    /// # Errors
    /// [`WalletError::Name`].
    pub fn new(wallets: &Path, name: &str) -> Result<Self, WalletError> {
        Ok(Self { folder: wallets.join(checked(name)?) })
    }

    /// The folder where all wallets of the user lie, `~/.bittensor/wallets`.
    ///
    /// # Errors
    /// [`WalletError::NoHome`].
    pub fn default_folder() -> Result<PathBuf, WalletError> {
        let home = std::env::var_os("HOME").filter(|home| !home.is_empty()).ok_or(WalletError::NoHome)?;
        Ok(Path::new(&home).join(".bittensor/wallets"))
    }

    /// The wallet's own folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The coldkey.
    pub fn coldkey(&self) -> PathBuf {
        self.folder.join("coldkey")
    }

    /// The coldkey's public half.
    pub fn coldkeypub(&self) -> PathBuf {
        self.folder.join("coldkeypub.txt")
    }

    /// A hotkey.
    ///
    /// # Errors
    /// [`WalletError::Name`].
    pub fn hotkey(&self, name: &str) -> Result<PathBuf, WalletError> {
        Ok(self.folder.join("hotkeys").join(checked(name)?))
    }
}

/// The public half of the key in a file: beside it, if it has one.
pub(super) fn public_half(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("pub.txt");
    path.with_file_name(name)
}

/// Names become parts of paths.
fn checked(name: &str) -> Result<&str, WalletError> {
    let is_plain = |character: char| character.is_alphanumeric() || "-_.".contains(character);
    let is_name = !name.is_empty() && !name.starts_with('.') && name.chars().all(is_plain);
    if is_name { Ok(name) } else { Err(WalletError::Name(name.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_where_bittensor_puts_them() {
        let paths = WalletPaths::new(Path::new("/home/me/.bittensor/wallets"), "miner-1").unwrap();
        let folder = Path::new("/home/me/.bittensor/wallets/miner-1");
        assert_eq!(paths.coldkey(), folder.join("coldkey"));
        assert_eq!(paths.coldkeypub(), folder.join("coldkeypub.txt"));
        assert_eq!(paths.hotkey("default").unwrap(), folder.join("hotkeys/default"));
        assert_eq!(public_half(&paths.hotkey("default").unwrap()), folder.join("hotkeys/defaultpub.txt"));
        assert_eq!(public_half(&paths.coldkey()), paths.coldkeypub());
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for name in ["", ".", "..", "../other", "a/b", "/etc/passwd", ".hidden", "a\0b"] {
            assert!(matches!(WalletPaths::new(Path::new("/w"), name), Err(WalletError::Name(_))), "{name}");
            assert!(WalletPaths::new(Path::new("/w"), "mine").unwrap().hotkey(name).is_err(), "{name}");
        }
    }
}
