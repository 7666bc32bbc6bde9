//! Our hot loops beside their peers, measured in one run of one binary on the same threads.
//!
//! - `opening`: commit to a polynomial, open one claim, verify; beside `p3-whir`.
//! - `ntt`: the batched transform over Goldilocks; beside `p3-dft`.
//! - `decode`: a model of random weights in the shape of Qwen3-0.6B, prompts and single steps; beside
//!   `candle-transformers`.
//! - `merkle`: the tree over leaf hashes and the proof of scattered leaves; beside `rs_merkle`.
//!
//! The peers choose their vector code when they are compiled, ours when it runs. Build once plainly and
//! once with `RUSTFLAGS="-C target-cpu=native"`; every report says which it was.
#![forbid(unsafe_code)]

mod decode;
mod ours;
mod peers;
mod random;
mod report;

use std::error::Error;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::report::{Measurement, Report};

impl OpeningArgs {
    /// Bits of grinding of the first level.
    fn grinding(&self) -> u32 {
        self.pow_bits.unwrap_or_else(|| self.log_size.saturating_sub(8).min(20))
    }
}

/// What ends a run.
type Failure = Box<dyn Error + Send + Sync>;

/// Our hot loops beside their peers.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Commit to a polynomial of 2^n coefficients, open one claim, verify.
    Opening(OpeningArgs),
    /// Transform 2^n base field elements: rows side by side, each forward.
    Ntt(NttArgs),
    /// Run a model of random weights in the shape of Qwen3-0.6B: prompts at once, then token by token.
    Decode(DecodeArgs),
    /// Build a tree over 2^n leaf hashes, prove scattered leaves, verify.
    Merkle(MerkleArgs),
    /// What the search finds under other rules: nothing is measured.
    Parameters(ParametersArgs),
}

/// What the distance of the committed words is taken to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Regime {
    /// Within the unique decoding radius.
    Unique,
    /// Up to the Johnson bound.
    Johnson,
}

/// What every command takes.
#[derive(Clone, Copy, Debug, Args)]
struct Common {
    /// Runs of which the best counts.
    #[arg(long, default_value_t = 3)]
    repeat: u32,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The opening that is measured.
#[derive(Clone, Debug, Args)]
struct OpeningArgs {
    /// Logarithm of the number of coefficients.
    #[arg(long, default_value_t = 20)]
    log_size: u32,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// The distance of the committed words.
    #[arg(long, value_enum, default_value_t = Regime::Unique)]
    regime: Regime,
    /// Negative logarithm of the rate of the first code.
    #[arg(long, default_value_t = 2)]
    rate_log: u32,
    /// Bits of grinding of every level: ours, and the peer's first configuration. By default those that
    /// our search takes.
    #[arg(long)]
    pow_bits: Option<u32>,
    /// Bits of our opening in total: the peer aims at its bits with each term, and reaches less in total.
    #[arg(long, default_value_t = 101)]
    bits: u32,
    /// How much less encoding a folded vector may cost than committing did, as an exponent of two.
    #[arg(long, default_value_t = 1)]
    share_log: u32,
    /// Bits of grinding of further configurations of the peer.
    #[arg(long, value_delimiter = ',', default_value = "20")]
    peer_pow_bits: Vec<u32>,
    /// Degrees of the peer's extension field: 2, 3, 5. By default 2 and 3, and under the Johnson bound 5.
    #[arg(long, value_delimiter = ',')]
    peer_degrees: Vec<u32>,
    /// Bits that the peer aims at, with each of its error terms.
    #[arg(long, default_value_t = 100)]
    peer_security_bits: u32,
    /// Variables that the peer folds first.
    #[arg(long, default_value_t = 6)]
    peer_first_fold: u32,
    /// Variables that the peer folds in every later round.
    #[arg(long, default_value_t = 4)]
    peer_fold: u32,
    #[command(flatten)]
    common: Common,
}

/// The transform that is measured.
#[derive(Clone, Debug, Args)]
struct NttArgs {
    /// Logarithm of the number of elements. By default they fit a core's cache.
    #[arg(long, default_value_t = 16)]
    log_size: u32,
    /// Logarithm of the number of rows, which are transformed side by side.
    #[arg(long, default_value_t = 5)]
    row_log: u32,
    /// Numbers of threads.
    #[arg(long, value_delimiter = ',', default_value = "1")]
    threads: Vec<usize>,
    #[command(flatten)]
    common: Common,
}

/// The tree that is measured.
#[derive(Clone, Debug, Args)]
struct MerkleArgs {
    /// Logarithm of the number of leaves.
    #[arg(long, default_value_t = 20)]
    log_size: u32,
    /// Leaves that are proved.
    #[arg(long, default_value_t = 128)]
    opened: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[command(flatten)]
    common: Common,
}

/// The model that is run.
#[derive(Clone, Debug, Args)]
struct DecodeArgs {
    /// Decoder layers of the 28.
    #[arg(long, default_value_t = 28)]
    layers: u32,
    /// Steps of a round, after a prompt of 32 tokens.
    #[arg(long, default_value_t = 8)]
    steps: usize,
    /// Lengths of prompts.
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    prompts: Vec<u32>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[command(flatten)]
    common: Common,
}

/// The polynomial for which parameters are searched.
#[derive(Clone, Debug, Args)]
struct ParametersArgs {
    /// Logarithm of the number of coefficients.
    #[arg(long, default_value_t = 28)]
    log_size: u32,
    /// Logarithm of the most rows.
    #[arg(long, default_value_t = 10)]
    max_row_log: u32,
}

/// On so many threads.
fn on_threads<T: Send>(threads: usize, work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    Ok(rayon::ThreadPoolBuilder::new().num_threads(threads).build()?.install(work))
}

fn opening(args: &OpeningArgs) -> Result<Report, Failure> {
    on_threads(args.threads, || {
        let ours = ours::opening(args)?;
        Ok(Report::new(ours, peers::whir::all(args)))
    })?
}

fn ntt(args: &NttArgs) -> Result<Report, Failure> {
    let log_columns = args.log_size.checked_sub(args.row_log).ok_or("more rows than elements")?;
    let mut ours = Vec::new();
    let mut peers = Vec::new();
    for &threads in &args.threads {
        on_threads(threads, || {
            ours.push((threads, ours::ntt(log_columns, args.row_log, args.common.repeat)));
            peers.push((threads, peers::dft::all(log_columns, args.row_log, args.common.repeat)));
        })?;
    }
    let ours = Measurement::by_threads(ours);
    let peers = transposed(peers).into_iter().map(Measurement::by_threads).collect();
    Ok(Report::new(ours, peers))
}

/// From one list of peers for each number of threads to one list of numbers of threads for each peer.
fn transposed(lists: Vec<(usize, Vec<Measurement>)>) -> Vec<Vec<(usize, Measurement)>> {
    let mut of_peers: Vec<Vec<_>> = Vec::new();
    for (threads, list) in lists {
        of_peers.resize_with(list.len(), Vec::new);
        for (of_peer, measurement) in of_peers.iter_mut().zip(list) {
            of_peer.push((threads, measurement));
        }
    }
    of_peers
}

fn merkle(args: &MerkleArgs) -> Result<Report, Failure> {
    on_threads(args.threads, || {
        let leaves = random::hashes(1 << args.log_size);
        let opened = random::indices(leaves.len(), args.opened);
        let ours = ours::merkle(&leaves, &opened, args.common.repeat)?;
        Ok(Report::new(ours, vec![peers::rs_merkle::merkle(&leaves, &opened, args.common.repeat)?]))
    })?
}

fn main() -> ExitCode {
    let (report, common) = match &Cli::parse().command {
        Command::Parameters(args) => {
            print!("{}", ours::parameters(args.log_size, args.max_row_log));
            return ExitCode::SUCCESS;
        }
        Command::Opening(args) => (opening(args), args.common),
        Command::Ntt(args) => (ntt(args), args.common),
        Command::Decode(args) => (decode::measure(args), args.common),
        Command::Merkle(args) => (merkle(args), args.common),
    };
    match report {
        Ok(report) if common.json => println!("{:#}", report.json()),
        Ok(report) => print!("{report}"),
        Err(failure) => {
            eprintln!("{failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
