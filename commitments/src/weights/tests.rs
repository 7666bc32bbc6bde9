use ark_ff::AdditiveGroup;
use assay_sumcheck::field::{e_mul_f, f_from_i64, f_from_u64};
use assay_sumcheck::product::Claim;
use assay_sumcheck::product::verify as verify_rounds;
use assay_sumcheck::transcript::{Absorbs, First, Follows, Squeezes, Step};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::layout::MatrixShape;

mod reference;

/// The step before an opening; here also the source of random elements.
struct Claimed;
impl Step for Claimed {
    const LABEL: &'static str = "claimed";
}
impl First for Claimed {}
impl Absorbs for Claimed {}
impl Squeezes for Claimed {}
impl Follows<Claimed> for Reduction {}

fn transcript() -> Transcript<Reduction> {
    Transcript::<Claimed>::start("test/weights").advance()
}

/// Some weight for a 24-bit integer.
fn weight(integer: i64) -> f32 {
    let [high, low] = [integer >> 12, integer & 0xfff].map(|half| f32::from(i16::try_from(half).unwrap()));
    (4096.0 * high + low) / 1e5
}

/// A committed layer with true claims on it.
#[derive(Clone, Debug)]
struct Case {
    params: CodeParams,
    polynomial: LayerPolynomial,
    tree: WeightTree,
    claims: Vec<BilinearClaim>,
}

impl Case {
    fn new(shapes: &[(u32, u32)], claimed: &[usize], seed: u64, params: impl Fn(&Layout) -> CodeParams) -> Self {
        let mut draws = Transcript::<Claimed>::start("test/draws");
        draws.absorb("seed", &seed.to_le_bytes());
        let shapes: Vec<MatrixShape> =
            shapes.iter().map(|&(inputs, outputs)| MatrixShape { inputs, outputs }).collect();
        let layout = Arc::new(Layout::new(&shapes).unwrap());
        let mut signed = |count: usize, log_bound| -> Vec<i64> {
            let drawn = draws.indices("integers", count, log_bound);
            drawn.iter().map(|&i| i.cast_signed() - (1 << (log_bound - 1))).collect()
        };
        let matrices: Vec<Vec<f32>> = shapes
            .iter()
            .map(|shape| signed(usize::try_from(shape.weights()).unwrap(), 24).into_iter().map(weight).collect())
            .collect();
        let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
        let polynomial = LayerPolynomial::from_matrices(layout.clone(), &matrices).unwrap();
        let inputs: Vec<Vec<i64>> = claimed.iter().map(|&matrix| signed(shapes[matrix].inputs as usize, 16)).collect();
        let claims = claimed.iter().zip(inputs).map(|(&matrix, x)| {
            let output: Vec<E> = (0..shapes[matrix].outputs).map(|_| draws.challenge("output")).collect();
            let product = polynomial.product(matrix, &x);
            let value = product.iter().zip(&output).map(|(&y, &r)| e_mul_f(r, f_from_i64(y))).sum();
            BilinearClaim { matrix, input: x.iter().map(|&x| f_from_i64(x)).collect(), output, value }
        });
        let claims = claims.collect();
        let params = params(&layout);
        let tree = commit(&polynomial, &params);
        Self { params, polynomial, tree, claims }
    }

    /// Three matrices, none a power of two, with queries that leave columns unopened.
    fn usual() -> Self {
        Self::new(&[(24, 20), (40, 33), (16, 7)], &[0, 1, 2, 1], 7, |layout| CodeParams {
            log_size: layout.log_size(),
            row_log: 3,
            rate_log: 2,
            queries: 40,
        })
    }

    fn layout(&self) -> &Layout {
        self.polynomial.layout()
    }

    fn open(&self) -> Opening {
        open(&self.polynomial, &self.tree, &self.params, &self.claims, &mut transcript())
    }

    fn verify(&self, opening: &Opening) -> Result<Discharged, OpeningError> {
        let verdict = verify(&self.tree.root(), self.layout(), &self.params, &self.claims, opening, &mut transcript());
        assert_eq!(verdict.is_ok(), reference::accepts(self, opening), "the reference disagrees: {verdict:?}");
        verdict
    }

    /// The positions that an opening's messages lead to.
    fn positions(&self, opening: &Opening) -> Vec<usize> {
        let mut transcript = transcript();
        begin(&self.tree.root(), self.layout(), &self.params, &self.claims, &mut transcript);
        let (rows, columns) = opening.rounds.split_at(self.params.row_log as usize);
        let _ = verify_rounds(Claim::new(E::ZERO), rows, &mut transcript);
        transcript.absorb_bulk(labels::FOLDED_ROW, &e_bytes(&opening.folded_row));
        let _ = verify_rounds(Claim::new(E::ZERO), columns, &mut transcript);
        draw_positions(&self.params, &mut transcript)
    }

    fn encoded(&self, opening: &Opening) -> Vec<u8> {
        let mut out = Writer::new();
        opening.write(&mut out);
        let bytes = out.finish();
        assert!(bytes.len() <= max_opening_bytes(&self.params));
        bytes
    }
}

fn decode(bytes: &[u8], params: &CodeParams) -> Result<Opening, Malformed> {
    let mut from = Reader::new(bytes);
    let opening = Opening::read(&mut from, params)?;
    from.finish()?;
    Ok(opening)
}

/// What a forger does to a value.
type Change<'a, T> = &'a dyn Fn(&mut T);

/// Some element that is not zero.
fn error() -> E {
    E::new(f_from_u64(3), F::ZERO, f_from_u64(1 << 40))
}

/// Matrices with sides below `side`.
fn cases(side: u32) -> impl Strategy<Value = Case> {
    let shapes = vec((1..side, 1..side), 1..4);
    let claims = vec(any::<prop::sample::Index>(), 0..5);
    (shapes, claims, any::<u64>(), 0_u32..6, 1_u32..=4, 1_u32..80).prop_map(
        |(shapes, claims, seed, row_log, rate_log, queries)| {
            let claims: Vec<usize> = claims.iter().map(|index| index.index(shapes.len())).collect();
            Case::new(&shapes, &claims, seed, |layout| CodeParams {
                log_size: layout.log_size(),
                row_log: row_log.min(layout.min_input_log()),
                rate_log,
                queries,
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn prop_roots_agree_with_the_reference(case in cases(12)) {
        prop_assert_eq!(case.tree.root(), reference::root(&case));
    }

    #[test]
    fn prop_true_claims_open(case in cases(40)) {
        let (mut proving, mut verifying) = (transcript(), transcript());
        let opening = open(&case.polynomial, &case.tree, &case.params, &case.claims, &mut proving);
        let verdict =
            verify(&case.tree.root(), case.layout(), &case.params, &case.claims, &opening, &mut verifying);
        prop_assert_eq!(verdict, Ok(Discharged(())));
        prop_assert_eq!(proving.log(), verifying.log());
        prop_assert_eq!(proving.seed("after"), verifying.seed("after"));
        prop_assert!(reference::accepts(&case, &opening));

        let bytes = case.encoded(&opening);
        prop_assert_eq!(decode(&bytes, &case.params), Ok(opening));
    }

    #[test]
    fn prop_any_flipped_bit_is_rejected(case in cases(24), place in any::<prop::sample::Index>(), bit in 0_u32..8) {
        prop_assume!(!case.claims.is_empty());
        let mut bytes = case.encoded(&case.open());
        let place = place.index(bytes.len());
        bytes[place] ^= 1_u8 << bit;
        if let Ok(opening) = decode(&bytes, &case.params) {
            prop_assert_eq!(case.encoded(&opening), bytes);
            prop_assert!(case.verify(&opening).is_err());
        }
    }

    #[test]
    fn prop_products_are_exact(case in cases(24)) {
        for (matrix, shape) in case.layout().shapes().iter().enumerate() {
            let (inputs, outputs) = (shape.inputs as usize, shape.outputs as usize);
            let x: Vec<i64> = (-7..).step_by(1000).take(inputs).collect();
            let weight = |k, n| i64::from(case.polynomial.coefficients()[case.layout().coefficient_index(matrix, k, n).unwrap()]);
            let expected: Vec<i64> = (0..outputs).map(|n| (0..inputs).map(|k| x[k] * weight(k, n)).sum()).collect();
            prop_assert_eq!(case.polynomial.product(matrix, &x), expected);
        }
    }
}

#[test]
fn secure_parameters_open_at_every_small_size() {
    for side in [1, 2, 3, 8, 16, 33, 64, 100] {
        let case = Case::new(&[(side, side), (side, 2 * side)], &[1, 0], 1, CodeParams::for_layout);
        assert!(case.params.is_secure());
        assert_eq!(case.verify(&case.open()), Ok(Discharged(())), "{:?}", case.params);
    }
}

#[test]
fn weights_land_where_the_layout_says() {
    let shapes = [MatrixShape { inputs: 3, outputs: 2 }, MatrixShape { inputs: 2, outputs: 2 }];
    let layout = Arc::new(Layout::new(&shapes).unwrap());
    let (first, second) = ([1.0, -0.5, 0.25, 0.0, 0.75, -1.0], [8.0, 4.0, 2.0, -1.0]);
    let polynomial = LayerPolynomial::from_matrices(layout.clone(), &[&first, &second]).unwrap();
    assert_eq!(polynomial.exponents(), [0, 3]);
    for (matrix, inputs, weights) in [(0, 3, &first[..]), (1, 2, &second[..])] {
        for (i, &weight) in weights.iter().enumerate() {
            let index = layout.coefficient_index(matrix, i % inputs, i / inputs).unwrap();
            let image = crate::fixed_point::image(weight, polynomial.exponents()[matrix]);
            assert_eq!(polynomial.coefficients()[index], image);
        }
    }
    assert_eq!(polynomial.coefficients().iter().filter(|&&image| image == 0).count(), 16 - 9);
    assert_eq!(polynomial.coefficients().len(), 16);
}

#[test]
fn matrices_that_are_not_the_layouts_are_refused() {
    use crate::fixed_point::ImageError;
    let layout = Arc::new(Layout::new(&[MatrixShape { inputs: 2, outputs: 1 }; 2]).unwrap());
    let from = |matrices: &[&[f32]]| LayerPolynomial::from_matrices(layout.clone(), matrices).map(|_| ());
    assert_eq!(from(&[&[1.0, 2.0]]), Err(ImageError::Shape { matrix: 1 }));
    assert_eq!(from(&[&[1.0, 2.0], &[1.0]]), Err(ImageError::Shape { matrix: 1 }));
    assert_eq!(from(&[&[1.0, 2.0], &[0.0, f32::NAN]]), Err(ImageError::NotFinite { matrix: 1, position: 1 }));
    let with = |exponents: &[i16]| {
        LayerPolynomial::with_exponents(layout.clone(), &[&[1.0, 0.0], &[2.0, 5.0]], exponents)
            .map(|p| p.exponents().to_vec())
    };
    assert_eq!(with(&[0, 1]), Err(ImageError::TooLarge { matrix: 1, position: 1 }));
    assert_eq!(with(&[0]), Err(ImageError::Shape { matrix: 1 }));
    assert_eq!(with(&[3, 2]), Ok(vec![3, 2]));
}

#[test]
fn every_tampered_field_is_rejected_with_its_error() {
    let case = Case::usual();
    let honest = case.open();
    assert_eq!(case.verify(&honest), Ok(Discharged(())));
    // Without `..`: a new field is to be tampered with here.
    let Opening { rounds, folded_row, columns, hashes } = &honest;
    let tampered = |change: &dyn Fn(&mut Opening)| {
        let mut opening = honest.clone();
        change(&mut opening);
        case.verify(&opening)
    };
    for i in 0..rounds.len() {
        assert_eq!(tampered(&|o| o.rounds[i].at_zero += error()), Err(OpeningError::FinalEvaluation));
        assert_eq!(tampered(&|o| o.rounds[i].leading += error()), Err(OpeningError::FinalEvaluation));
    }
    for i in 0..folded_row.len() {
        assert_eq!(tampered(&|o| o.folded_row[i] += error()), Err(OpeningError::FinalEvaluation));
    }
    for (i, column) in columns.iter().enumerate() {
        for j in 0..column.len() {
            assert_eq!(tampered(&|o| o.columns[i][j] += f_from_u64(1)), Err(OpeningError::ColumnFold));
        }
        assert_eq!(
            tampered(&|o| {
                o.columns[i].pop();
            }),
            Err(OpeningError::Shape)
        );
        assert_eq!(tampered(&|o| o.columns[i].push(F::ZERO)), Err(OpeningError::Shape));
    }
    for i in 0..hashes.len() {
        assert_eq!(tampered(&|o| o.hashes[i][31] ^= 0x80), Err(OpeningError::MerklePath));
    }
    let shapes: [Change<'_, Opening>; 10] = [
        &|o| {
            o.rounds.pop();
        },
        &|o| o.rounds.push(RoundProof { at_zero: E::ZERO, leading: E::ZERO }),
        &|o| o.rounds.clear(),
        &|o| {
            o.folded_row.pop();
        },
        &|o| o.folded_row.push(E::ZERO),
        &|o| {
            o.columns.pop();
        },
        &|o| o.columns.push(o.columns[0].clone()),
        &|o| {
            o.hashes.pop();
        },
        &|o| o.hashes.push([0; 32]),
        &|o| *o = Opening { rounds: Vec::new(), folded_row: Vec::new(), columns: Vec::new(), hashes: Vec::new() },
    ];
    for change in shapes {
        assert_eq!(tampered(change), Err(OpeningError::Shape));
    }
    assert_eq!(tampered(&|o| o.rounds.swap(0, 1)), Err(OpeningError::FinalEvaluation));
    assert_eq!(tampered(&|o| o.columns.swap(0, 1)), Err(OpeningError::ColumnFold));
    assert_eq!(tampered(&|o| o.columns[1] = o.columns[0].clone()), Err(OpeningError::ColumnFold));
    assert_eq!(tampered(&|o| o.hashes.swap(0, 1)), Err(OpeningError::MerklePath));
    let zero = |o: &mut Opening| {
        o.rounds.fill(RoundProof { at_zero: E::ZERO, leading: E::ZERO });
        o.folded_row.fill(E::ZERO);
    };
    assert_eq!(tampered(&zero), Err(OpeningError::FinalEvaluation));
}

#[test]
fn false_claims_are_rejected() {
    let case = Case::usual();
    let changes: [Change<'_, Vec<BilinearClaim>>; 4] = [
        &|claims| claims[2].value += error(),
        &|claims| {
            let value = claims[0].value;
            claims[0].value = claims[1].value;
            claims[1].value = value;
        },
        // Errors that cancel in the plain sum of the claims.
        &|claims| {
            claims[0].value += error();
            claims[3].value -= error();
        },
        &|claims| claims[3].output[5] += error(),
    ];
    for change in changes {
        let mut forged = case.clone();
        change(&mut forged.claims);
        // Whether the prover works for the true claims or for the false ones.
        assert_eq!(forged.verify(&case.open()), Err(OpeningError::FinalEvaluation));
        assert_eq!(forged.verify(&forged.open()), Err(OpeningError::FinalEvaluation));
    }
}

#[test]
fn an_opening_holds_for_its_claims_alone() {
    let case = Case::usual();
    let opening = case.open();
    let changes: [Change<'_, Vec<BilinearClaim>>; 4] = [
        &|claims| claims.swap(0, 1),
        &|claims| {
            claims.pop();
        },
        &|claims| claims.push(claims[0].clone()),
        &|claims| claims.clear(),
    ];
    for change in changes {
        let mut other = case.clone();
        change(&mut other.claims);
        assert_eq!(other.verify(&opening), Err(OpeningError::FinalEvaluation));
        assert_eq!(other.verify(&other.open()), Ok(Discharged(())));
    }
}

#[test]
fn claims_and_parameters_that_do_not_fit_are_told_apart() {
    let case = Case::usual();
    let opening = case.open();
    let verdict = |params: CodeParams, claims: &[BilinearClaim]| {
        verify(&case.tree.root(), case.layout(), &params, claims, &opening, &mut transcript())
    };
    for change in [
        &(|claim: &mut BilinearClaim| claim.matrix = 3) as Change<'_, BilinearClaim>,
        &|claim| claim.matrix = 1,
        &|claim| {
            claim.output.pop();
        },
        &|claim| claim.input = Vec::new().into(),
    ] {
        let mut claims = case.claims.clone();
        change(&mut claims[0]);
        assert_eq!(verdict(case.params, &claims), Err(OpeningError::Claims));
    }
    for params in [
        CodeParams { log_size: case.params.log_size + 1, ..case.params },
        CodeParams { row_log: 5, ..case.params },
        CodeParams { rate_log: 0, ..case.params },
    ] {
        assert_eq!(verdict(params, &case.claims), Err(OpeningError::Params));
    }
}

#[test]
fn an_opening_for_another_root_is_rejected() {
    let case = Case::usual();
    let mut other = case.clone();
    other.tree = Case::new(&[(24, 20), (40, 33), (16, 7)], &[], 8, |_| case.params).tree;
    assert_ne!(other.tree.root(), case.tree.root());
    assert_eq!(other.verify(&case.open()), Err(OpeningError::FinalEvaluation));
    // Nor with messages made for that root, since the weights are not those that it commits to.
    assert_eq!(other.verify(&other.open()), Err(OpeningError::MerklePath));
}

#[test]
fn a_folded_row_of_other_weights_does_not_pass() {
    // The forger commits to W, and proves claims that hold for W'.
    let honest = Case::usual();
    let other = Case::new(&[(24, 20), (40, 33), (16, 7)], &[0, 1, 2, 1], 8, |_| honest.params);
    let forged = Case { tree: honest.tree.clone(), ..other.clone() };
    let mut opening = forged.open();
    assert_eq!(forged.verify(&opening), Err(OpeningError::MerklePath));
    // With the committed columns, the sumcheck and the paths hold, the fold does not.
    let positions = forged.positions(&opening);
    opening.columns = reference::columns(&honest, &positions);
    assert_eq!(forged.verify(&opening), Err(OpeningError::ColumnFold));
}

#[test]
fn a_committed_word_that_is_no_codeword_does_not_pass() {
    let case = Case::usual();
    let length = case.params.codeword_length();
    let committed = |changed: &dyn Fn(usize) -> bool| {
        let mut columns = reference::columns(&case, &(0..length).collect::<Vec<_>>());
        for (position, column) in columns.iter_mut().enumerate() {
            if changed(position) {
                column[2] += f_from_u64(1);
            }
        }
        let forged = Case { tree: WeightTree::over_columns(&columns), ..case.clone() };
        let mut opening = forged.open();
        opening.columns = forged.positions(&opening).into_iter().map(|position| columns[position].clone()).collect();
        forged.verify(&opening)
    };
    assert_eq!(committed(&|_| false), Ok(Discharged(())));
    // Beyond the unique decoding radius, 40 queries miss with probability 2^-27.
    assert_eq!(committed(&|position| position < length * 3 / 8 + 1), Err(OpeningError::ColumnFold));
    assert_eq!(committed(&|position| position % 2 == 0), Err(OpeningError::ColumnFold));
    assert_eq!(committed(&|_| true), Err(OpeningError::ColumnFold));
}

#[test]
fn columns_of_other_positions_do_not_pass() {
    let case = Case::usual();
    let mut opening = case.open();
    let positions: Vec<usize> =
        case.positions(&opening).iter().map(|p| (p + 1) % case.params.codeword_length()).collect();
    opening.columns = reference::columns(&case, &positions);
    assert_eq!(case.verify(&opening), Err(OpeningError::ColumnFold));
}

#[test]
fn truncated_and_non_canonical_encodings_are_refused() {
    let case = Case::usual();
    let bytes = case.encoded(&case.open());
    for length in (0..bytes.len()).step_by(7) {
        assert_eq!(decode(&bytes[..length], &case.params), Err(Malformed::Truncated));
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert_eq!(decode(&longer, &case.params), Err(Malformed::Trailing));

    let rounds_and_row = 48 * case.params.log_size as usize + 24 * case.params.columns();
    for place in [0, 8, 48, rounds_and_row - 8, rounds_and_row + 4] {
        let mut bytes = bytes.clone();
        bytes[place..place + 8].copy_from_slice(&assay_sumcheck::field::P.to_le_bytes());
        assert_eq!(decode(&bytes, &case.params), Err(Malformed::NotCanonical));
    }
    let mut many = bytes.clone();
    many[rounds_and_row..rounds_and_row + 4].copy_from_slice(&(case.params.queries + 1).to_le_bytes());
    assert_eq!(decode(&many, &case.params), Err(Malformed::TooLong));
}
