//! The long-running roles: processes that read a configuration, speak to a chain and to each other, and may
//! be stopped at any moment.

mod devnet;
mod miner;
mod patience;
mod stop;
mod validator;

use std::path::PathBuf;

use crate::networks::wait_for;
use crate::outcome::CommandResult;

pub(crate) use devnet::Args as DevnetArgs;

/// What a role is started with.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The configuration, in TOML; there are examples in examples/
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// What a validator is started with.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ValidatorArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Stop after so many epochs, with 3 if the last one's weights are not on chain; without, run until
    /// stopped
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    epochs: Option<u64>,
}

/// Serves a model.
pub(crate) fn miner(args: &ConfigArgs) -> CommandResult {
    wait_for(miner::run(&args.config))
}

/// Audits miners and sets weights.
pub(crate) fn validator(args: &ValidatorArgs) -> CommandResult {
    wait_for(validator::run(&args.config.config, args.epochs))
}

/// Makes blocks.
pub(crate) fn devnet(args: &DevnetArgs) -> CommandResult {
    wait_for(devnet::run(args))
}
