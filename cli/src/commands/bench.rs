//! `assay bench`: one hot loop of ours, on random weights in the shape of a model.

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use assay_commitments::codec::Writer;
use assay_commitments::layout::{Layout, MatrixShape};
use assay_commitments::params::CodeParams;
use assay_commitments::weights::{
    self, Claim, Coefficients, Kernels, LayerPolynomial, Opening, OpeningSizes, Part, WeightTree,
};
use assay_sumcheck::field::{E, F, e_mul_f, f_from_i64, f_from_u64};
use assay_sumcheck::transcript::{First, Follows, Reduction, Step, Transcript};
use clap::ValueEnum;
use serde_json::{Map, Value, json};

use super::model::peak_memory;
use crate::outcome::{CommandResult, Fault, Outcome};
use crate::terminal::{Listing, Paint, Progress, bytes, print, print_json, seconds};

/// What to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The loop
    #[arg(value_enum, value_name = "WHAT")]
    what: What,
    /// Whose matrices
    #[arg(long, value_enum, value_name = "S", default_value_t = Shape::Qwen3)]
    shape: Shape,
    /// One square matrix of 2^N weights in place of a shape
    #[arg(long, value_name = "N", conflicts_with = "shape", value_parser = clap::value_parser!(u32).range(4..=30))]
    log_size: Option<u32>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// A loop that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Committing to the weights of one layer
    Commit,
    /// Opening one claim on every matrix of a layer, and verifying the opening
    Open,
}

/// The matrices of a model's layer, or of a shard of its lm_head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shape {
    /// A layer of the fixture model
    Fixture,
    /// A layer of Qwen3-0.6B
    #[value(name = "qwen3-0.6b")]
    Qwen3,
    /// A layer of Llama-3 8B
    #[value(name = "llama-8b-layer")]
    Llama,
    /// A shard of lm_head of Llama-3 8B
    #[value(name = "llama-8b-head")]
    LlamaHead,
}

impl Shape {
    fn matrices(self) -> Vec<MatrixShape> {
        let layer = |hidden: u32, queries: u32, keys: u32, ffn: u32| {
            [
                (hidden, queries),
                (hidden, keys),
                (hidden, keys),
                (queries, hidden),
                (hidden, ffn),
                (hidden, ffn),
                (ffn, hidden),
            ]
        };
        let matrices = match self {
            Self::Fixture => layer(128, 128, 64, 384).to_vec(),
            Self::Qwen3 => layer(1024, 2048, 1024, 3072).to_vec(),
            Self::Llama => layer(4096, 4096, 1024, 14336).to_vec(),
            Self::LlamaHead => vec![(4096, 65536)],
        };
        matrices.into_iter().map(|(inputs, outputs)| MatrixShape { inputs, outputs }).collect()
    }
}

/// Random weights in the places of a layout.
struct Random {
    layout: Arc<Layout>,
    /// Coefficients that are not padding.
    used: usize,
}

impl Random {
    fn polynomial(layout: Layout) -> LayerPolynomial {
        let used: u64 = layout.shapes().iter().map(|shape| shape.weights()).sum();
        let used = usize::try_from(used).expect("coefficients that fit memory are counted by a usize");
        let exponents = vec![0; layout.shapes().len()];
        let Ok(polynomial) = LayerPolynomial::load(&Self { layout: Arc::new(layout), used }, exponents);
        polynomial
    }
}

impl Coefficients for Random {
    type Error = Infallible;

    fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    fn read(&self, start: usize, out: &mut [i32]) -> Result<(), Infallible> {
        out.fill(0);
        for (i, coefficient) in (start..self.used).zip(out) {
            // The high bits of a product with an odd number, on both sides of zero and below 2^24.
            let bits = ((i as u64 ^ 0x5bd1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 39) % ((1 << 25) - 1);
            *coefficient = i32::try_from(bits).unwrap_or(0) - (1 << 24) + 1;
        }
        Ok(())
    }
}

/// A true claim on a matrix.
fn claim(polynomial: &LayerPolynomial, matrix: usize) -> Claim {
    let shape = polynomial.layout().shapes()[matrix];
    let draw = |seed: u64, i: u32| (seed ^ u64::from(i)).wrapping_mul(0xd129_0d3b_97a5_63c1) ^ seed.rotate_left(17);
    // 13 bits and a sign: the norm of 14336 of them is within that of a product.
    let integers: Vec<i64> = (0..shape.inputs).map(|i| (draw(3, i) >> 50).cast_signed() - (1 << 13)).collect();
    let element = |seed: u64, i: u32| f_from_u64(draw(seed, i) >> 1);
    let output: Vec<E> = (0..shape.outputs).map(|i| E::new(element(5, i), element(7, i), element(11, i))).collect();
    let products = polynomial.product(matrix, &integers);
    let value = products.iter().zip(&output).map(|(&sum, &factor)| e_mul_f(factor, f_from_i64(sum))).sum();
    let input: Arc<[F]> = integers.iter().map(|&x| f_from_i64(x)).collect();
    Claim { input, parts: vec![Part { polynomial: 0, matrix, output }], value }
}

/// The step before an opening.
enum Before {}

impl Step for Before {
    const LABEL: &'static str = "bench";
}
impl First for Before {}
impl Follows<Before> for Reduction {}

fn transcript() -> Transcript<Reduction> {
    Transcript::<Before>::start("assay/bench").advance()
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let square = |log: u32| vec![MatrixShape { inputs: 1 << log.div_ceil(2), outputs: 1 << (log / 2) }];
    let matrices = args.log_size.map_or_else(|| args.shape.matrices(), square);
    let layout = Layout::new(&matrices).map_err(|error| Fault::usage(error.to_string()))?;
    let params = CodeParams::for_layout(&layout);
    let weights = Random::polynomial(layout);
    let progress = Progress::of_weights("committing", 0);
    let count = 1 << params.log_size;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "shown to people"
    )]
    let tell = |share: f64| progress.tell((share * count as f64) as u64, count);
    let begin = Instant::now();
    let tree = match weights::commit(&weights, &params, COMMIT_MEMORY, &tell) {
        Ok(tree) => tree,
        Err(never) => match never {},
    };
    let took = begin.elapsed().as_secs_f64();
    drop(progress);
    let mut figures = Figures::new(args, &params);
    match args.what {
        What::Commit => figures.commit(&params, took),
        What::Open => figures.open(&weights, &params, &tree)?,
    }
    figures.tell(args)
}

/// What committing may take for symbols: about what `assay model commit` leaves for them unless it is told.
const COMMIT_MEMORY: usize = 1 << 29;

/// Seconds that committing takes at least: its transforms and hashes, done in the caches of all cores.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
fn floor(params: &CodeParams) -> f64 {
    const RUNS: usize = 20;
    let columns_a_second = |_: rayon::BroadcastContext<'_>| {
        let mut kernels = Kernels::new(params);
        let mut best = [f64::INFINITY; 2];
        for _ in 0..RUNS {
            let begin = Instant::now();
            kernels.transform();
            let transformed = Instant::now();
            black_box(kernels.hash());
            best[0] = best[0].min((transformed - begin).as_secs_f64());
            best[1] = best[1].min(transformed.elapsed().as_secs_f64());
        }
        kernels.columns() as f64 / (best[0] / kernels.share() + best[1])
    };
    params.base().codeword_length() as f64 / rayon::broadcast(columns_a_second).into_iter().sum::<f64>()
}

/// What was measured.
struct Figures(Map<String, Value>);

impl Figures {
    fn new(args: &Args, params: &CodeParams) -> Self {
        let name =
            |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| value().map(|value| value.get_name().to_owned());
        let mut figures = Self(Map::new());
        figures.set("what", json!(name(&|| args.what.to_possible_value())));
        if args.log_size.is_none() {
            figures.set("shape", json!(name(&|| args.shape.to_possible_value())));
        }
        figures.set("log_size", json!(params.log_size));
        figures.set("threads", json!(rayon::current_num_threads()));
        figures
    }

    fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn commit(&mut self, params: &CodeParams, seconds: f64) {
        let rate = (1_u64 << params.log_size) as f64 / seconds;
        let ceiling = (1_u64 << params.log_size) as f64 / floor(params);
        self.set("seconds", json!(seconds));
        self.set("rate", json!(rate));
        self.set("unit", json!("coefficients/s"));
        self.set("ceiling", json!(ceiling));
        self.set("ratio_to_ceiling", json!(rate / ceiling));
    }

    fn open(&mut self, source: &LayerPolynomial, params: &CodeParams, tree: &WeightTree) -> Result<(), Fault> {
        let claims: Vec<Claim> = (0..source.layout().shapes().len()).map(|matrix| claim(source, matrix)).collect();
        let begin = Instant::now();
        let opening: Opening = match weights::open(&[(source, tree)], params, &claims, &mut transcript()) {
            Ok(opening) => opening,
            Err(never) => match never {},
        };
        self.set("prove_seconds", json!(begin.elapsed().as_secs_f64()));
        let commitments = [tree.commitment()];
        let verify = || weights::verify(&commitments, source.layout(), params, &claims, &opening, &mut transcript());
        let mut best = f64::INFINITY;
        for _ in 0..10 {
            let begin = Instant::now();
            let verdict = verify();
            best = best.min(begin.elapsed().as_secs_f64());
            let _receipt = verdict.map_err(|error| Fault::own(format!("an honest opening is rejected: {error}")))?;
        }
        self.set("verify_ms", json!(1e3 * best));
        let mut out = Writer::new();
        opening.write(&mut out);
        self.set("proof_bytes", json!(out.finish().len()));
        let OpeningSizes { rounds, columns, paths, vectors } = opening.sizes();
        let parts = json!({ "rounds": rounds, "columns": columns, "paths": paths, "vectors": vectors });
        self.set("proof_parts", parts);
        Ok(())
    }

    fn tell(mut self, args: &Args) -> CommandResult {
        if let Some(peak) = peak_memory() {
            self.set("peak_rss_bytes", json!(peak));
        }
        if args.json {
            print_json(&Value::Object(self.0))?;
            return Ok(Outcome::Done);
        }
        let mut listing = Listing::default();
        for (key, value) in &self.0 {
            let shown = match (key.as_str(), value.as_f64()) {
                ("seconds" | "prove_seconds", Some(value)) => seconds(value),
                ("rate" | "ceiling", Some(value)) => format!("{:.1} M coefficients/s", value / 1e6),
                ("ratio_to_ceiling", Some(value)) => format!("{value:.2}"),
                ("verify_ms", Some(value)) => format!("{value:.2} ms"),
                ("proof_bytes" | "peak_rss_bytes", _) => bytes(value.as_u64().unwrap_or(0)),
                _ => value.as_str().map_or_else(|| value.to_string(), str::to_owned),
            };
            listing.line(key, shown);
        }
        print(&listing.render(Paint::stdout()))?;
        Ok(Outcome::Done)
    }
}
