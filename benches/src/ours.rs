//! What we measure of our own: the only place that knows our interfaces.

use std::fmt::Write as _;
use std::sync::Arc;

use assay_commitments::codec::Writer;
use assay_commitments::layout::{Layout, MatrixShape};
use assay_commitments::merkle::{Hash, MerkleTree, verify_indices};
use assay_commitments::params::{CodeParams, Level, Regime, Search};
use assay_commitments::weights::{Claim, Kernels, LayerPolynomial, Part, commit, open, verify};
use assay_sumcheck::field::{E, F, e_mul_f, f_from_i64, f_from_u64};
use assay_sumcheck::transcript::{First, Follows, Reduction, Step, Transcript};

use crate::random::SplitMix;
use crate::report::{Best, Measurement, best_of, peak_memory, reset_peak_memory};
use crate::{Failure, OpeningArgs};

/// The step before an opening.
#[derive(Debug)]
enum Before {}

impl Step for Before {
    const LABEL: &'static str = "bench";
}
impl First for Before {}
impl Follows<Before> for Reduction {}

fn transcript() -> Transcript<Reduction> {
    Transcript::<Before>::start("bench/opening").advance()
}

/// One opening of one claim on one matrix, as square as it gets.
pub(crate) fn opening(args: &OpeningArgs) -> Result<Measurement, Failure> {
    let output_log = args.log_size / 2;
    let shape = MatrixShape { inputs: 1 << (args.log_size - output_log), outputs: 1 << output_log };
    let layout = Arc::new(Layout::new(&[shape])?);
    let mut draws = SplitMix(3);
    let polynomial = {
        let mut weight = || {
            let [a, b, ..] = draws.next().to_le_bytes();
            f32::from(i16::from_le_bytes([a, b]))
        };
        let weights: Vec<f32> = (0..shape.weights()).map(|_| weight()).collect();
        LayerPolynomial::from_matrices(layout.clone(), &[&weights])?
    };
    let claim = claim(&polynomial, shape, &mut draws);
    let regime = match args.regime {
        crate::Regime::Unique => Regime::UniqueDecoding,
        crate::Regime::Johnson => Regime::Johnson,
    };
    let search = Search {
        regime,
        base_rates: (args.rate_log, args.rate_log),
        recommit_share_log: args.share_log,
        grinding: args.pow_bits,
        bits: args.bits,
        ..Search::default()
    };
    let params = search.run(layout.log_size(), layout.min_input_log());

    reset_peak_memory();
    let (mut committing, mut opening) = (Best::default(), Best::default());
    let mut last = None;
    for _ in 0..args.common.repeat.max(1) {
        drop(last.take());
        let tree = committing.run(|| commit(&polynomial, &params, usize::MAX, &|_| ()))?;
        let claims = std::slice::from_ref(&claim);
        let opened = opening.run(|| open(&[(&polynomial, &tree)], &params, claims, &mut transcript()))?;
        last = Some((tree, opened));
    }
    let peak = peak_memory();
    let (tree, opened) = last.ok_or("no run")?;

    let commitment = [tree.commitment()];
    let check = || verify(&commitment, &layout, &params, std::slice::from_ref(&claim), &opened, &mut transcript());
    check().map(drop)?;
    let verifying = best_of(10, || (), |()| check().is_ok());
    let mut bytes = Writer::new();
    opened.write(&mut bytes);

    let security = params.security(regime).total.to_f64();
    let measurement = Measurement::new("ours")
        .time("commit", "s", 1.0, committing.seconds())
        .time("open", "s", 1.0, opening.seconds())
        .figure("verify_ms", 1000.0 * verifying.wall)
        .bytes("proof_bytes", bytes.finish().len());
    Ok(peak
        .into_iter()
        .fold(measurement, |measurement, peak| measurement.figure("peak_mib", peak))
        .fact("parameters", levels(&params))
        .fact("total_bits", security))
}

/// A table of what the search finds, rule by rule: bytes at most, the model of a verifier's time, and how many
/// symbols an opening encodes for one that committing did.
pub(crate) fn parameters(log_size: u32, max_row_log: u32) -> String {
    let mut text =
        "regime | rate | first share | grinding | bytes at most | verifier, us | symbols encoded | code\n".to_owned();
    for regime in [Regime::UniqueDecoding, Regime::Johnson] {
        for rate in 1..=4 {
            for share in 0..=3 {
                for grinding in [None, Some(0)] {
                    let base_rates = (rate, rate);
                    let search =
                        Search { regime, base_rates, recommit_share_log: share, grinding, ..Search::default() };
                    let params = search.run(log_size, max_row_log);
                    let committed = f64::from(log_size + rate).exp2();
                    let encoded: f64 =
                        params.codes().skip(1).map(|code| 3.0 * f64::from(code.variables + code.rate_log).exp2()).sum();
                    let _ = writeln!(
                        text,
                        "{regime:?} | 1/{} | 1/{} | {} | {} | {} | {:.2} | {}",
                        1 << rate,
                        1 << share,
                        params.base().grinding,
                        params.max_opening_bytes(1),
                        params.verifier_time() / 1000,
                        encoded / committed,
                        levels(&params),
                    );
                }
            }
        }
    }
    text
}

/// The levels of a code, for people.
fn levels(params: &CodeParams) -> String {
    let level = |code: assay_commitments::params::LevelCode| {
        let (queries, work) = (code.queries, code.grinding);
        format!("fold {} at rate 2^-{}, {queries} queries, pow {work}", code.fold_log, code.rate_log)
    };
    let levels: Vec<String> = params.codes().map(level).collect();
    format!("{}; 2^{} sent", levels.join("; "), params.final_log())
}

/// A true claim at a random point.
fn claim(polynomial: &LayerPolynomial, shape: MatrixShape, draws: &mut SplitMix) -> Claim {
    let input: Arc<[F]> = (0..shape.inputs).map(|_| f_from_u64(draws.next())).collect();
    let mut extension = || {
        let [a, b, c] = std::array::from_fn(|_| f_from_u64(draws.next()));
        E::new(a, b, c)
    };
    let output: Vec<E> = (0..shape.outputs).map(|_| extension()).collect();
    // A power-of-two matrix is one tile: a row of inputs for every output.
    let rows = polynomial.coefficients().chunks_exact(input.len());
    let sums = rows.map(|row| row.iter().zip(&*input).map(|(&weight, &x)| f_from_i64(weight.into()) * x).sum::<F>());
    let value = sums.zip(&output).map(|(sum, &factor)| e_mul_f(factor, sum)).sum();
    Claim { input, parts: vec![Part { polynomial: 0, matrix: 0, output: output.into() }], value }
}

/// The transform of `2^row_log` rows of `2^log_columns` elements. Ours has no name of its own but in a core's
/// cache, where committing does all of it: other sizes than that have no figure.
pub(crate) fn ntt(log_columns: u32, row_log: u32, repeat: u32) -> Measurement {
    let level = Level { fold_log: row_log, rate_log: 1, queries: 1, grinding: 0 };
    let params = CodeParams { log_size: log_columns + row_log, levels: vec![level] };
    let mut kernels = Kernels::new(&params);
    let measurement = Measurement::new("ours");
    if kernels.columns() != 1 << log_columns {
        return measurement
            .fact("missing", "the whole transform is done in a core's cache alone: ask for 2^16 elements");
    }
    let forward = best_of(repeat.max(100), || (), |()| kernels.transform());
    measurement.time("forward", "ms", 1e3, forward)
}

/// The tree over leaf hashes, the proof of some leaves and its verification.
pub(crate) fn merkle(leaves: &[Hash], opened: &[usize], repeat: u32) -> Result<Measurement, Failure> {
    let build = best_of(repeat, || leaves.to_vec(), MerkleTree::from_leaf_hashes);
    let tree = MerkleTree::from_leaf_hashes(leaves.to_vec());
    let prove = best_of(10, || (), |()| tree.open_indices(opened));
    let hashes = tree.open_indices(opened);
    let root = tree.bound_root();
    let shown: Vec<(usize, Hash)> = opened.iter().filter_map(|&i| Some((i, *leaves.get(i)?))).collect();
    let check = || verify_indices(&root, leaves.len(), &shown, &hashes);
    check()?;
    Ok(Measurement::new("ours")
        .time("build", "ms", 1e3, build)
        .figure("prove_us", 1e6 * prove.wall)
        .figure("verify_us", 1e6 * best_of(10, || (), |()| check().is_ok()).wall)
        .bytes("proof_bytes", hashes.as_flattened().len()))
}
