//! Configuration files of the roles: TOML in which every key is known and every value checked, and a mistake
//! is one line that says where it is.

mod chain;
mod devnet;
mod miner;
mod validator;

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::files::read_text;
use crate::outcome::Fault;

pub(crate) use chain::{ChainSettings, WalletSettings, read_password};
pub(crate) use devnet::DevnetConfig;
pub(crate) use miner::MinerFile;
pub(crate) use validator::ValidatorFile;

/// Most bytes of a configuration.
const MAX_CONFIGURATION_BYTES: usize = 1 << 20;

/// Reads a configuration. Relative paths in it count from the folder that it lies in; see [`Base`].
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<(T, Base), Fault> {
    let text = read_text(path, MAX_CONFIGURATION_BYTES)?;
    let folder = path.parent().map(Path::to_owned).unwrap_or_default();
    Ok((parse(&text, &path.display().to_string())?, Base { folder, file: path.to_owned() }))
}

/// Reads the text of a configuration that is called `name`.
pub(crate) fn parse<T: DeserializeOwned>(text: &str, name: &str) -> Result<T, Fault> {
    toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
        Fault::usage(format!("{name}:{line}: {}", error.message()))
    })
}

/// What relative paths of a configuration count from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Base {
    folder: PathBuf,
    file: PathBuf,
}

impl Base {
    /// A path of the configuration as the process sees it.
    pub(crate) fn path(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// A value that is out of range.
    pub(crate) fn refuse(&self, key: &str, why: &str) -> Fault {
        let place = if self.file.as_os_str().is_empty() { String::new() } else { format!("{}: ", self.file.display()) };
        Fault::usage(format!("{place}{key}: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINER: &str = include_str!("../../../examples/miner.toml");
    const VALIDATOR: &str = include_str!("../../../examples/validator.toml");
    const DEVNET: &str = include_str!("../../../examples/devnet.toml");

    fn refused<T: DeserializeOwned + std::fmt::Debug>(text: &str) -> String {
        let message = parse::<T>(text, "it.toml").unwrap_err().message;
        assert!(!message.contains('\n'), "{message}");
        message
    }

    #[test]
    fn the_examples_are_read_and_hold() {
        let base = Base { folder: PathBuf::from("/somewhere"), file: PathBuf::from("/somewhere/it.toml") };
        parse::<MinerFile>(MINER, "miner.toml").unwrap().check(&base).unwrap();
        parse::<ValidatorFile>(VALIDATOR, "validator.toml").unwrap().check(&base).unwrap();
        parse::<DevnetConfig>(DEVNET, "devnet.toml").unwrap().check(&base).unwrap();
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let line = MINER.lines().position(|line| line.starts_with("listen")).unwrap() + 1;
        let text = MINER.replacen("listen", "lisden", 1);
        let message = refused::<MinerFile>(&text);
        assert!(message.starts_with(&format!("it.toml:{line}: ")) && message.contains("`lisden`"), "{message}");
        let message = refused::<ValidatorFile>(&format!("{VALIDATOR}\nsurprise = 1\n"));
        assert!(message.contains("`surprise`"), "{message}");
        let message = refused::<DevnetConfig>("listen = \"127.0.0.1:1\"\n\n[parameters]\ntempi = 3\n");
        assert!(message.starts_with("it.toml:4: ") && message.contains("`tempi`"), "{message}");
    }

    #[test]
    fn a_value_of_another_kind_and_text_that_is_no_toml_are_named_with_their_line() {
        let message = refused::<DevnetConfig>("netuid = 1\nblock_ms = \"fast\"\n");
        assert!(message.starts_with("it.toml:2: "), "{message}");
        let message = refused::<DevnetConfig>("netuid = 1\n\nnetuid 2\n");
        assert!(message.starts_with("it.toml:3: "), "{message}");
        let message = refused::<MinerFile>("listen = \"127.0.0.1\"\n");
        assert!(message.starts_with("it.toml:1: "), "{message}");
    }
}
