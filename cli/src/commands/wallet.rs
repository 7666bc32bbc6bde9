//! `assay wallet`: which keys there are. Secrets are never shown.

use std::path::{Path, PathBuf};

use assay_chain::ss58;
use assay_chain::wallet::{KeyFile, Protection, WalletError, WalletPaths};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, print, print_json};

/// What to do with key files.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show where keys lie, their public halves, and how they are kept
    Show(ShowArgs),
}

/// Which keys to show.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// One key file, wherever it lies
    #[arg(value_name = "PATH", conflicts_with_all = ["wallet", "hotkey", "folder"])]
    path: Option<PathBuf>,
    #[command(flatten)]
    names: WalletArgs,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A wallet and a hotkey of it, by name.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct WalletArgs {
    /// The wallet
    #[arg(long, value_name = "NAME", default_value = "default")]
    wallet: String,
    /// The hotkey of it
    #[arg(long, value_name = "NAME", default_value = "default")]
    hotkey: String,
    /// The folder of wallets, ~/.bittensor/wallets if it is not given
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl WalletArgs {
    fn paths(&self) -> Result<WalletPaths, Fault> {
        let folder = match &self.folder {
            Some(folder) => folder.clone(),
            None => WalletPaths::default_folder()?,
        };
        Ok(WalletPaths::new(&folder, &self.wallet)?)
    }

    /// Where the hotkey lies.
    pub(crate) fn hotkey(&self) -> Result<PathBuf, Fault> {
        Ok(self.paths()?.hotkey(&self.hotkey)?)
    }
}

pub(crate) fn run(command: &Command) -> CommandResult {
    match command {
        Command::Show(args) => show(args),
    }
}

fn show(args: &ShowArgs) -> CommandResult {
    let files = match &args.path {
        Some(path) => vec![("key", path.clone(), KeyFile::read(path).map_err(of_argument)?)],
        None => of_wallet(&args.names)?,
    };
    if args.json {
        print_json(&Value::Array(files.iter().map(|(role, path, file)| entry(role, path, file)).collect()))?;
    } else {
        let texts: Vec<String> = files.iter().map(|(role, path, file)| text(role, path, file)).collect();
        print(&texts.join("\n"))?;
    }
    Ok(Outcome::Done)
}

/// A file that was named to be looked into, and not to sign with.
fn of_argument(error: WalletError) -> Fault {
    match error {
        WalletError::Malformed { .. } | WalletError::Mismatch { .. } => Fault::damaged(error.to_string()),
        error => error.into(),
    }
}

/// The files of a wallet that are there. Its hotkey has to be.
fn of_wallet(names: &WalletArgs) -> Result<Vec<(&'static str, PathBuf, KeyFile)>, Fault> {
    let paths = names.paths()?;
    let mut files = vec![];
    for (role, path) in [("coldkey", paths.coldkey()), ("coldkeypub", paths.coldkeypub())] {
        match KeyFile::read(&path) {
            Ok(file) => files.push((role, path, file)),
            // A machine that serves has no coldkey, and should have none.
            Err(WalletError::Missing(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let path = names.hotkey()?;
    let hotkey = KeyFile::read(&path)?;
    files.push(("hotkey", path, hotkey));
    Ok(files)
}

fn kept(file: &KeyFile) -> &'static str {
    match file.protection() {
        Protection::Plain => "plain",
        Protection::Encrypted => "encrypted",
        Protection::PublicOnly => "public half only",
    }
}

fn text(role: &str, path: &Path, file: &KeyFile) -> String {
    let paint = Paint::stdout();
    let mut listing = Listing::default();
    listing.line(role, paint.bold(&path.display().to_string()));
    match file.public() {
        Some(public) => {
            listing.line("address", ss58::format(&public));
            listing.line("public key", public);
        }
        None => listing.line("address", "not known without the password"),
    }
    listing.line("kept", kept(file));
    if let Some(mode) = file.mode() {
        listing.line("mode", format!("{mode:o}"));
    }
    listing.render(paint)
}

fn entry(role: &str, path: &Path, file: &KeyFile) -> Value {
    let public = file.public();
    json!({
        "role": role,
        "path": path.display().to_string(),
        "ss58": public.map(|public| ss58::format(&public)),
        "public_key": public.map(|public| public.to_string()),
        "encrypted": file.protection() == Protection::Encrypted,
        "public_only": file.protection() == Protection::PublicOnly,
        "mode": file.mode().map(|mode| format!("{mode:o}")),
    })
}
