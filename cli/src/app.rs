//! The command line: arguments in, exit code out.

use std::io::{self, IsTerminal};
use std::panic;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::commands::{audit, bench, calibrate, chain, generate, model, wallet};
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::roles;
use crate::terminal::{complain, is_colour_wanted};

/// Verified inference of language models: commit, serve, audit.
#[derive(Debug, Parser)]
#[command(name = "assay", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a whole subnet in this process: miners, cheats, a validator, an auditor
    Demo(crate::demo::DemoArgs),
    /// Commit a model, look at one, check one, put one in force
    #[command(subcommand)]
    Model(model::Command),
    /// Generate text with the canonical sampler
    Generate(generate::Args),
    /// Audit oneself, replay transcripts, look into one
    #[command(subcommand)]
    Audit(audit::Command),
    /// Measure how far honest runs and cheats are from the thresholds of the profile
    Calibrate(calibrate::Args),
    /// Measure one of the hot loops on random weights
    Bench(bench::Args),
    /// Serve a model on a subnet
    Miner(roles::ConfigArgs),
    /// Audit the miners of a subnet and set weights, epoch after epoch
    Validator(roles::ValidatorArgs),
    /// Run a chain with one subnet on this machine, behind the RPC of a real node
    Devnet(roles::DevnetArgs),
    /// Show key files
    #[command(subcommand)]
    Wallet(wallet::Command),
    /// Show where a subnet stands
    #[command(subcommand)]
    Chain(chain::Command),
}

impl Command {
    /// What is logged unless the environment says otherwise. The demo tells of its cheats itself.
    const fn default_log(&self) -> &'static str {
        match self {
            Self::Demo(_) => "off",
            // Who runs these reads along: what was done, and what is waited for.
            Self::Miner(_) | Self::Validator(_) | Self::Devnet(_) => "info",
            Self::Model(_)
            | Self::Generate(_)
            | Self::Audit(_)
            | Self::Calibrate(_)
            | Self::Bench(_)
            | Self::Wallet(_)
            | Self::Chain(_) => "warn",
        }
    }

    fn run(&self) -> CommandResult {
        match self {
            Self::Demo(args) => crate::demo::run(args),
            Self::Model(command) => model::run(command),
            Self::Generate(args) => generate::run(args),
            Self::Audit(command) => audit::run(command),
            Self::Calibrate(args) => calibrate::run(args),
            Self::Bench(args) => bench::run(args),
            Self::Miner(args) => roles::miner(args),
            Self::Validator(args) => roles::validator(args),
            Self::Devnet(args) => roles::devnet(args),
            Self::Wallet(command) => wallet::run(command),
            Self::Chain(command) => chain::run(command),
        }
    }
}

/// Runs the command that the process was started for.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error).into(),
    };
    start_logging(arguments.command.default_log());
    // A panic is a fault of this program, whatever led to it, and is reported like one: by a line, and by
    // an exit code that blames nobody else.
    panic::set_hook(Box::new(|panic| {
        complain("error", &format!("this is a bug in assay, please report it: {}", one_line(&panic.to_string())));
    }));
    let result = panic::catch_unwind(|| arguments.command.run()).unwrap_or(Ok(Outcome::Inconclusive));
    let outcome = result.unwrap_or_else(|Fault { outcome, message }| {
        complain("error", &message);
        outcome
    });
    outcome.into()
}

/// Answers a command line that is none, or asks for help.
fn refuse(error: &clap::Error) -> Outcome {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Help that nobody reads to its end is no error.
            let _ = error.print();
            Outcome::Done
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Outcome::Usage
        }
        _ => {
            complain("error", &usage_line(&error.to_string()));
            Outcome::Usage
        }
    }
}

/// One line of clap's several: the error itself, and its tip if there is one.
fn usage_line(error: &str) -> String {
    let mut paragraphs = error.split("\n\n").map(one_line);
    let first = paragraphs.next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(&first);
    // The tip to pass what looks like an option as a value is hardly ever what was meant.
    let tip = paragraphs.find_map(|paragraph| Some(paragraph.strip_prefix("tip: ")?.to_owned()));
    let tip = tip.filter(|tip| !tip.starts_with("to pass"));
    match tip {
        Some(tip) => format!("{first}: {tip}"),
        None => format!("{first}: try --help"),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Logs go to standard error, warnings and worse unless `RUST_LOG` says otherwise.
fn start_logging(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && is_colour_wanted())
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line() {
        for (arguments, expected) in [
            (
                &["assay", "generate", "x"][..],
                "the following required arguments were not provided: --prompt <TEXT>: try --help",
            ),
            (&["assay", "calibrte"], "unrecognized subcommand 'calibrte': a similar subcommand exists: 'calibrate'"),
            (&["assay", "model", "commit", "x", "--nope"], "unexpected argument '--nope' found: try --help"),
        ] {
            let error = Arguments::try_parse_from(arguments).unwrap_err();
            assert_eq!(usage_line(&error.to_string()), expected);
        }
    }
}
