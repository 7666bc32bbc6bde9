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
        let key = key_before(before).map(|key| format!("{key}: ")).unwrap_or_default();
        Fault::usage(format!("{name}:{line}: {key}{}", in_words(error.message())))
    })
}

/// The key of a value that stands behind this text.
fn key_before(text: &str) -> Option<&str> {
    let text = text.trim_end_matches([' ', '\t']).strip_suffix('=')?.trim_end_matches([' ', '\t']);
    let is_of_key = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let key = text.rsplit(|character| !is_of_key(character)).next()?;
    Some(key).filter(|key| !key.is_empty())
}

/// What a parser says in words of its own, in those of whoever writes a configuration.
fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 5] = [
        ("invalid socket address syntax", "give an IP address and a port, such as \"127.0.0.1:8091\""),
        ("expected u16", "expected a whole number from 0 to 65535"),
        ("expected u32", "expected a whole number from 0 to 4294967295"),
        ("expected u64", "expected a whole number from 0 on"),
        ("expected usize", "expected a whole number from 0 on"),
    ];
    WORDS.iter().fold(message.to_owned(), |message, (theirs, ours)| message.replace(theirs, ours))
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
    use assay_miner::Limits;

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

    /// What the examples say of keys that they leave out.
    #[test]
    fn the_examples_hold_with_all_that_is_commented_out_in_them() {
        let base = Base { folder: PathBuf::from("/somewhere"), file: PathBuf::from("/somewhere/it.toml") };
        let whole = |text: &str| {
            let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
            let uncommented =
                |line: &str| line.strip_prefix("# ").filter(|rest| is_key(rest)).unwrap_or(line).to_owned();
            text.lines().map(uncommented).collect::<Vec<_>>().join("\n")
        };
        let miner = parse::<MinerFile>(&whole(MINER), "miner.toml").unwrap().check(&base).unwrap();
        assert_eq!(miner.limits, Limits { spilled_bytes: 8 << 30, ..Limits::default() });
        let validator = parse::<ValidatorFile>(&whole(VALIDATOR), "validator.toml").unwrap().check(&base).unwrap();
        assert_eq!(validator.probation, assay_probation::Policy::default());
        let devnet = parse::<DevnetConfig>(&whole(DEVNET), "devnet.toml").unwrap().check(&base).unwrap();
        assert_eq!(devnet, DevnetConfig::default().check(&base).unwrap());
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
        for (text, expected) in [
            (
                "listen = \"localhost:8091\"",
                "it.toml:1: listen: give an IP address and a port, such as \"127.0.0.1:8091\"",
            ),
            (
                "block_ms = 1\nnetuid=-1",
                "it.toml:2: netuid: invalid value: integer `-1`, expected a whole number from 0 to 65535",
            ),
            (
                "[parameters]\nmax_space = 4294967296",
                "it.toml:2: max_space: invalid value: integer `4294967296`, expected a whole number from 0 to 4294967295",
            ),
            ("block_ms = -1", "it.toml:1: block_ms: invalid value: integer `-1`, expected a whole number from 0 on"),
            (
                "validators = [{ hotkey = \"v\", stake_tao = \"much\" }]",
                "it.toml:1: stake_tao: invalid type: string \"much\", expected f64",
            ),
        ] {
            assert_eq!(refused::<DevnetConfig>(text), expected);
        }
    }

    #[test]
    fn a_value_out_of_range_and_a_name_that_leads_elsewhere_are_named_with_file_and_key() {
        let base = Base { folder: PathBuf::new(), file: PathBuf::from("it.toml") };
        let refusal = |from: &str, to: &str| {
            assert!(VALIDATOR.contains(from), "{from}");
            let text = VALIDATOR.replacen(from, to, 1);
            let file = parse::<ValidatorFile>(&text, "it.toml").unwrap();
            file.check(&base).map(drop).and_then(|()| file.wallet.path(&base).map(drop)).unwrap_err().message
        };
        let message = refusal("columns = 1 ", "columns = 65 ");
        assert_eq!(message, "it.toml: audits.columns: give 0 to 64; more is `everything`");
        let message = refusal("cells = 4", "cells = 0");
        assert!(message.starts_with("it.toml: audits.cells: give 1 to "), "{message}");
        let message = refusal("name = \"validator\"", "name = \"../x\"");
        assert!(message.starts_with("it.toml: wallet.name: `../x` is no name"), "{message}");
        let message = refusal("hotkey = \"default\"", "hotkey = \"a/b\"");
        assert!(message.starts_with("it.toml: wallet.hotkey: `a/b` is no name"), "{message}");
    }
}
