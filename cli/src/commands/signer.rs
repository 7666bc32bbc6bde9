//! Which hotkey a command signs with.

use std::path::PathBuf;

use assay_chain::wallet::{KeyFile, SigningKey};

use super::wallet::WalletArgs;
use crate::config::read_password;
use crate::outcome::Fault;

/// The hotkey to sign with.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct SignerArgs {
    #[command(flatten)]
    names: WalletArgs,
    /// The key file, wherever it lies
    #[arg(long, value_name = "PATH", conflicts_with_all = ["wallet", "hotkey", "folder"])]
    key_file: Option<PathBuf>,
    /// A file that holds the password of an encrypted key
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
}

impl SignerArgs {
    /// Reads the key. Of an encrypted one it takes seconds.
    pub(crate) fn unlock(&self) -> Result<SigningKey, Fault> {
        let path = match &self.key_file {
            Some(path) => path.clone(),
            None => self.names.hotkey()?,
        };
        let file = KeyFile::read(&path)?;
        let password = self.password_file.as_deref().map(read_password).transpose()?;
        Ok(file.unlock(password.as_ref())?)
    }
}
