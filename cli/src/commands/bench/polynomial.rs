//! Committing to the polynomial of a layer, and opening it.

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
use serde_json::json;

use super::{Args, Figures, What, name};
use crate::outcome::Fault;
use crate::terminal::Progress;

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
    Claim { input, parts: vec![Part { polynomial: 0, matrix, output: output.into() }], value }
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

/// Commits to the matrices, and for [`What::Open`] opens a claim on each.
pub(super) fn measure(args: &Args, figures: &mut Figures) -> Result<(), Fault> {
    let square = |log: u32| vec![MatrixShape { inputs: 1 << log.div_ceil(2), outputs: 1 << (log / 2) }];
    let matrices = args.log_size.map_or_else(|| args.shape.matrices(), square);
    let layout = Layout::new(&matrices).map_err(|error| Fault::usage(error.to_string()))?;
    let params = CodeParams::for_layout(&layout);
    if args.log_size.is_none() {
        figures.set("shape", name(&args.shape));
    }
    figures.set("log_size", params.log_size);
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
    if args.what == What::Open {
        return open(&weights, &params, &tree, figures);
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let count = count as f64;
    figures.set("seconds", took);
    figures.rate(count / took, count / floor(&params), "coefficients/s");
    Ok(())
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

/// Opens a claim on every matrix and verifies it.
fn open(source: &LayerPolynomial, params: &CodeParams, tree: &WeightTree, figures: &mut Figures) -> Result<(), Fault> {
    let claims: Vec<Claim> = (0..source.layout().shapes().len()).map(|matrix| claim(source, matrix)).collect();
    let begin = Instant::now();
    let opening: Opening = match weights::open(&[(source, tree)], params, &claims, &mut transcript()) {
        Ok(opening) => opening,
        Err(never) => match never {},
    };
    figures.set("prove_seconds", begin.elapsed().as_secs_f64());
    let commitments = [tree.commitment()];
    let verify = || weights::verify(&commitments, source.layout(), params, &claims, &opening, &mut transcript());
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let begin = Instant::now();
        let verdict = verify();
        best = best.min(begin.elapsed().as_secs_f64());
        let _receipt = verdict.map_err(|error| Fault::own(format!("an honest opening is rejected: {error}")))?;
    }
    figures.set("verify_ms", 1e3 * best);
    let mut out = Writer::new();
    opening.write(&mut out);
    figures.set("proof_bytes", out.finish().len());
    let OpeningSizes { rounds, columns, paths, vectors } = opening.sizes();
    let parts = json!({ "rounds": rounds, "columns": columns, "paths": paths, "vectors": vectors });
    figures.set("proof_parts", parts);
    Ok(())
}
