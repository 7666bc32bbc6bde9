//! What every role says of its chain and its hotkey.

use std::io::Read;
use std::path::PathBuf;

use assay_chain::NetUid;
use assay_chain::wallet::{KeyFile, Password, SigningKey, WalletError, WalletPaths};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Base;
use crate::networks::Place;
use crate::outcome::Fault;

/// `[chain]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChainSettings {
    network: String,
    netuid: u16,
    /// In place of the network's own, in the order in which they are tried.
    #[serde(default)]
    endpoints: Vec<String>,
    /// Which chain has to answer there, for networks that have no name.
    genesis: Option<String>,
}

impl ChainSettings {
    pub(crate) fn check(&self, base: &Base) -> Result<Place, Fault> {
        let network = self.network.parse().map_err(|error| base.refuse("chain.network", &format!("{error}")))?;
        let mut place = Place::new(network, NetUid::new(self.netuid));
        if let Some(endpoint) = self.endpoints.iter().find(|endpoint| !is_url(endpoint)) {
            return Err(base.refuse("chain.endpoints", &format!("{endpoint:?} is no ws:// or wss:// address")));
        }
        if !self.endpoints.is_empty() {
            place.endpoints.clone_from(&self.endpoints);
        }
        if let Some(text) = &self.genesis {
            let genesis = assay_chain::wallet::account(text)
                .ok_or_else(|| base.refuse("chain.genesis", "this is no hash of 64 hexadecimal digits"))?;
            place.expect(assay_chain::GenesisHash::new(genesis)).map_err(|why| base.refuse("chain.genesis", &why))?;
        }
        Ok(place)
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("ws://") || text.starts_with("wss://")
}

/// `[wallet]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WalletSettings {
    name: String,
    #[serde(default = "default_hotkey")]
    hotkey: String,
    /// The folder of wallets, `~/.bittensor/wallets` if it is not given.
    folder: Option<PathBuf>,
    /// A file that holds the password of an encrypted hotkey.
    password_file: Option<PathBuf>,
}

pub(crate) fn default_hotkey() -> String {
    "default".to_owned()
}

impl WalletSettings {
    /// Where the hotkey lies.
    pub(crate) fn path(&self, base: &Base) -> Result<PathBuf, Fault> {
        let folder = match &self.folder {
            Some(folder) => base.path(folder),
            None => WalletPaths::default_folder()?,
        };
        let refuse = |key| move |error: WalletError| base.refuse(key, &error.to_string());
        let paths = WalletPaths::new(&folder, &self.name).map_err(refuse("wallet.name"))?;
        paths.hotkey(&self.hotkey).map_err(refuse("wallet.hotkey"))
    }

    /// Reads the hotkey. Of an encrypted one it takes seconds.
    pub(crate) fn unlock(&self, base: &Base) -> Result<SigningKey, Fault> {
        let file = KeyFile::read(&self.path(base)?)?;
        let password = self.password_file.as_ref().map(|path| read_password(&base.path(path))).transpose()?;
        Ok(file.unlock(password.as_ref())?)
    }
}

/// Most bytes of a file with a password.
const MAX_PASSWORD_BYTES: usize = 1 << 16;

/// The first line of a file that is its owner's alone, or of a pipe from a program that keeps passwords.
pub(crate) fn read_password(path: &std::path::Path) -> Result<Password, Fault> {
    let unreadable = |error: std::io::Error| Fault::usage(format!("{}: cannot be read: {error}", path.display()));
    #[cfg(unix)]
    {
        let mode = std::fs::metadata(path).map_err(unreadable)?;
        let mode = std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.display();
            return Err(Fault::usage(format!(
                "{path}: mode {mode:o} lets others at this password; run: chmod 600 {path}"
            )));
        }
    }
    // With room for all of it from the beginning, no copy is left behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_PASSWORD_BYTES + 1));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_PASSWORD_BYTES as u64 + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() > MAX_PASSWORD_BYTES {
        return Err(Fault::usage(format!("{}: this is too long for a password: check the path", path.display())));
    }
    Ok(Password::new(text.lines().next().unwrap_or_default().to_owned()))
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_password_comes_from_a_file_or_a_pipe_and_is_not_long() {
        let folder = tempfile::tempdir().unwrap();
        let [pipe, long] = ["pipe", "long"].map(|name| folder.path().join(name));
        assert!(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe).status().unwrap().success());
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || fs::write(pipe, "open sesame\n").unwrap())
        };
        assert!(read_password(&pipe).is_ok());
        writer.join().unwrap();
        fs::write(&long, "x".repeat(MAX_PASSWORD_BYTES + 1)).unwrap();
        fs::set_permissions(&long, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        assert!(read_password(&long).unwrap_err().message.contains("too long for a password"));
    }
}
