//! `p3-whir`: Goldilocks, BLAKE3 for the trees and the transcript, and everything else as in the
//! library's own benchmarks (one column, the layout that binds the last variables first, the transform
//! for small batches, rates that fall by all but one of the folded variables a round).

use std::fmt::Write as _;

use p3_blake3::Blake3;
use p3_challenger::{HashChallenger, SerializingChallenger64};
use p3_commit::MultilinearPcs;
use p3_dft::Radix2DFTSmallBatch;
use p3_field::extension::{BinomialExtensionField, CubicTrinomialExtensionField};
use p3_field::{ExtensionField, Field, PackedValue, PrimeCharacteristicRing, TwoAdicField};
use p3_goldilocks::Goldilocks;
use p3_matrix::dense::RowMajorMatrix;
use p3_merkle_tree::MerkleTreeMmcs;
use p3_sumcheck::layout::{Layout, SuffixProver, Table};
use p3_sumcheck::{OpeningBatch, OpeningProtocol, PrescribedPointPcs, TableShape, TableSpec};
use p3_symmetric::{CompressionFunctionFromHasher, SerializingHasher};
use p3_whir::{FoldingFactor, ProtocolParameters, SecurityAssumption, WhirConfig, WhirProver};

use crate::random::SplitMix;
use crate::report::{Best, Measurement, best_of, peak_memory, reset_peak_memory};
use crate::{Failure, OpeningArgs, Regime};

type LeafHash = SerializingHasher<Blake3>;
type NodeHash = CompressionFunctionFromHasher<Blake3, 2, 32>;
type Trees = MerkleTreeMmcs<Goldilocks, u8, LeafHash, NodeHash, 2, 32>;
type Challenger = SerializingChallenger64<Goldilocks, HashChallenger<u8, Blake3, 32>>;
type Prover<E> =
    WhirProver<E, Goldilocks, Radix2DFTSmallBatch<Goldilocks>, Trees, Challenger, SuffixProver<Goldilocks, E>>;

/// Every configuration that the arguments ask for. One that the library refuses, because the field is
/// too small for the bits, says so.
pub(crate) fn all(args: &OpeningArgs) -> Vec<Measurement> {
    let degrees = match (args.peer_degrees.as_slice(), args.regime) {
        ([], Regime::Unique) => &[2, 3],
        ([], Regime::Johnson) => [2, 3, 5].as_slice(),
        (given, _) => given,
    };
    let mut pows = vec![args.grinding()];
    pows.extend(args.peer_pow_bits.iter().filter(|&&bits| bits != args.grinding()));
    let configurations = degrees.iter().flat_map(|&degree| pows.iter().map(move |&pow| (degree, pow)));
    configurations
        .map(|(degree, pow)| {
            let name = format!("p3-whir 0.8, degree {degree}, pow {pow}");
            let measured = match degree {
                2 => measure::<BinomialExtensionField<Goldilocks, 2>>(&name, args, pow),
                3 => measure::<CubicTrinomialExtensionField<Goldilocks>>(&name, args, pow),
                5 => measure::<BinomialExtensionField<Goldilocks, 5>>(&name, args, pow),
                _ => Err("no such extension of Goldilocks in p3".into()),
            };
            measured.unwrap_or_else(|failure| Measurement::new(name).fact("refused", failure.to_string()))
        })
        .collect()
}

fn measure<E>(name: &str, args: &OpeningArgs, pow_bits: u32) -> Result<Measurement, Failure>
where
    E: ExtensionField<Goldilocks> + TwoAdicField,
{
    let log_size = args.log_size as usize;
    let first_fold = args.peer_first_fold as usize;
    let parameters = ProtocolParameters {
        starting_log_inv_rate: args.rate_log as usize,
        // Empty: each round's rate falls by its folded variables but one.
        round_log_inv_rates: Vec::new(),
        folding_factor: FoldingFactor::ConstantFromSecondRound(first_fold, args.peer_fold as usize),
        soundness_type: match args.regime {
            Regime::Unique => SecurityAssumption::UniqueDecoding,
            Regime::Johnson => SecurityAssumption::JohnsonBound,
        },
        security_level: args.peer_security_bits as usize,
        pow_bits: pow_bits as usize,
    };
    let config = WhirConfig::<E, Goldilocks, Challenger>::new_with_initial_claims(log_size, parameters, 1)?;
    let schedule = schedule(&config);
    let dft = Radix2DFTSmallBatch::new(1 << config.max_fft_size());
    let trees = Trees::new(LeafHash::new(Blake3), NodeHash::new(Blake3), 0);
    let pcs = Prover::<E>::new(config, dft, trees);
    let protocol = OpeningProtocol::new(vec![TableSpec::new(
        TableShape::new(log_size, 1),
        vec![OpeningBatch::new(vec![0], Vec::new())],
    )])
    .pad_to_min_num_variables(first_fold);
    let total_bits = pcs.prescribed_security(&protocol).map(|security| security.error().bits());

    let mut draws = SplitMix(5);
    let values = (0..1_u64 << log_size).map(|_| Goldilocks::from_u64(draws.next())).collect();
    let table = Table::new(RowMajorMatrix::new(values, 1 << log_size));
    let witness = <SuffixProver<Goldilocks, E> as Layout<Goldilocks, E>>::new_witness(vec![table], first_fold);
    let challenger = || Challenger::new(HashChallenger::new(Vec::new(), Blake3));

    reset_peak_memory();
    let (mut committing, mut opening) = (Best::default(), Best::default());
    let mut last = None;
    for _ in 0..args.common.repeat.max(1) {
        drop(last.take());
        let (witness, mut challenger) = (witness.clone(), challenger());
        let (commitment, data) = committing.run(|| MultilinearPcs::<E, _>::commit(&pcs, witness, &mut challenger))?;
        let proof = opening.run(|| MultilinearPcs::<E, _>::open(&pcs, data, protocol.clone(), &mut challenger))?;
        last = Some((commitment, proof));
    }
    let peak = peak_memory();
    let (commitment, proof) = last.ok_or("no run")?;

    let check = |protocol| MultilinearPcs::<E, _>::verify(&pcs, &commitment, &proof, &mut challenger(), protocol);
    check(protocol.clone())?;
    let verify = best_of(10, || protocol.clone(), |protocol| check(protocol).is_ok());
    // Eight bytes an element and 32 a digest: only lengths take a varying number of bytes.
    let proof_bytes = postcard::to_allocvec(&proof)?.len();

    let measurement = Measurement::new(name)
        .time("commit", "s", 1.0, committing.seconds())
        .time("open", "s", 1.0, opening.seconds())
        .figure("verify_ms", 1000.0 * verify.wall)
        .bytes("proof_bytes", proof_bytes);
    Ok(peak
        .into_iter()
        .fold(measurement, |measurement, peak| measurement.figure("peak_mib", peak))
        .fact("schedule", schedule)
        .fact("bits_a_term", args.peer_security_bits)
        .fact("total_bits", total_bits)
        .fact("packing_width", <Goldilocks as Field>::Packing::WIDTH))
}

/// The derived rounds in words.
fn schedule<E: ExtensionField<Goldilocks> + TwoAdicField>(config: &WhirConfig<E, Goldilocks, Challenger>) -> String {
    let mut words = format!(
        "folds {:?}, ood {}, first fold pow {};",
        config.folding_schedule(),
        config.commitment_ood_samples(),
        config.starting_folding_pow_bits(),
    );
    for round in config.round_parameters() {
        // Writing to a string does not fail.
        let _ = write!(
            words,
            " {} queries pow {}, next rate 2^-{}, ood {}, fold pow {};",
            round.num_queries, round.pow_bits, round.log_inv_rate, round.ood_samples, round.folding_pow_bits,
        );
    }
    let last = config.terminal();
    let _ = write!(
        words,
        " last {} queries pow {}, 2^{} sent, pow {}",
        last.num_queries,
        last.pow_bits,
        config.final_sumcheck_rounds(),
        config.final_folding_pow_bits(),
    );
    words
}
