use std::convert::Infallible;

use ark_ff::AdditiveGroup;
use assay_sumcheck::field::{e_mul_f, f_from_i64};
use assay_sumcheck::transcript::{Absorbs, First, Follows, Squeezes, Step};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::layout::MatrixShape;
use crate::params::{Level, Search, polynomial_variables};

mod forgers;

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

fn whole<T>(result: Result<T, Infallible>) -> T {
    match result {
        Ok(value) => value,
        Err(never) => match never {},
    }
}

/// Committed polynomials with true claims on them.
#[derive(Clone, Debug)]
struct Case {
    layout: Arc<Layout>,
    params: CodeParams,
    polynomials: Vec<LayerPolynomial>,
    trees: Vec<WeightTree>,
    claims: Vec<Claim>,
}

impl Case {
    /// `claimed` has, for every claim, its parts: polynomial and matrix; all matrices of a claim are alike.
    fn new(
        shapes: &[(u32, u32)],
        count: usize,
        claimed: &[Vec<(usize, usize)>],
        seed: u64,
        params: impl Fn(&Layout) -> CodeParams,
    ) -> Self {
        let mut draws = Transcript::<Claimed>::start("test/draws");
        draws.absorb("seed", &seed.to_le_bytes());
        let shapes: Vec<MatrixShape> =
            shapes.iter().map(|&(inputs, outputs)| MatrixShape { inputs, outputs }).collect();
        let layout = Arc::new(Layout::new(&shapes).unwrap());
        let mut signed = |count: usize, log_bound| -> Vec<i64> {
            let drawn = draws.indices("integers", count, log_bound);
            drawn.iter().map(|&i| i.cast_signed() - (1 << (log_bound - 1))).collect()
        };
        let polynomials: Vec<LayerPolynomial> = (0..count)
            .map(|_| {
                let matrices: Vec<Vec<f32>> = shapes
                    .iter()
                    .map(|shape| {
                        signed(usize::try_from(shape.weights()).unwrap(), 24).into_iter().map(weight).collect()
                    })
                    .collect();
                let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
                LayerPolynomial::from_matrices(layout.clone(), &matrices).unwrap()
            })
            .collect();
        let inputs: Vec<Vec<i64>> =
            claimed.iter().map(|parts| signed(shapes[parts[0].1].inputs as usize, 16)).collect();
        let claims = claimed.iter().zip(inputs).map(|(parts, x)| {
            let mut value = E::ZERO;
            let parts = parts.iter().map(|&(polynomial, matrix)| {
                let output: Vec<E> = (0..shapes[matrix].outputs).map(|_| draws.challenge("output")).collect();
                let product = polynomials[polynomial].product(matrix, &x);
                value += product.iter().zip(&output).map(|(&y, &r)| e_mul_f(r, f_from_i64(y))).sum::<E>();
                Part { polynomial, matrix, output: output.into() }
            });
            let parts = parts.collect();
            Claim { input: x.iter().map(|&x| f_from_i64(x)).collect(), parts, value }
        });
        let claims = claims.collect();
        let params = params(&layout);
        let trees = polynomials.iter().map(|polynomial| whole(commit(polynomial, &params, 1 << 20, &|_| ()))).collect();
        Self { layout, params, polynomials, trees, claims }
    }

    /// What a claim must state to be true.
    fn value(&self, claim: &Claim) -> E {
        let mut value = E::ZERO;
        for part in &claim.parts {
            let weights = self.polynomials[part.polynomial].coefficients();
            for (o, &output) in part.output.entries().iter().enumerate() {
                for (k, &input) in claim.input.iter().enumerate() {
                    let place = self.layout.coefficient_index(part.matrix, k, o).unwrap();
                    value += e_mul_f(output, input * f_from_i64(weights[place].into()));
                }
            }
        }
        value
    }

    fn commitments(&self) -> Vec<WeightCommitment> {
        self.trees.iter().map(WeightTree::commitment).collect()
    }

    fn open(&self) -> Opening {
        let polynomials: Vec<_> = self.polynomials.iter().zip(&self.trees).collect();
        whole(open(&polynomials, &self.params, &self.claims, &mut transcript()))
    }

    fn verify(&self, opening: &Opening) -> Result<Discharged, OpeningError> {
        verify(&self.commitments(), &self.layout, &self.params, &self.claims, opening, &mut transcript())
    }

    fn encoded(&self, opening: &Opening) -> Vec<u8> {
        let mut out = Writer::new();
        opening.write(&mut out);
        let bytes = out.finish();
        assert!(bytes.len() <= self.params.max_opening_bytes(self.polynomials.len()));
        bytes
    }

    fn decode(&self, bytes: &[u8]) -> Result<Opening, Malformed> {
        let mut from = Reader::new(bytes);
        let opening = Opening::read(&mut from, &self.params, self.polynomials.len())?;
        from.finish()?;
        Ok(opening)
    }
}

/// A code of the layout with levels as far as they go.
fn code(layout: &Layout, levels: &[(u32, u32, u32, u32)]) -> CodeParams {
    let mut rest = layout.log_size();
    let mut code = CodeParams { log_size: rest, levels: vec![] };
    for &(fold_log, rate_log, queries, grinding) in levels {
        let most = if code.levels.is_empty() { layout.min_input_log() } else { rest };
        let fold_log = fold_log.min(most);
        if fold_log == 0 && !code.levels.is_empty() {
            break;
        }
        code.levels.push(Level { fold_log, rate_log, queries, grinding });
        rest -= fold_log;
    }
    assert!(code.is_well_formed(), "{code:?}");
    code
}

fn cases(side: u32) -> impl Strategy<Value = Case> {
    let shapes = vec((1..side, 1..side), 1..4);
    let claims = vec((any::<prop::sample::Index>(), vec(any::<prop::sample::Index>(), 1..3)), 0..5);
    let levels = vec((1_u32..5, 1_u32..=3, 1_u32..40, 0_u32..4), 1..4);
    (shapes, 1_usize..5, claims, levels, any::<u64>()).prop_map(|(shapes, count, claims, levels, seed)| {
        let claims: Vec<Vec<(usize, usize)>> = claims
            .iter()
            .map(|(matrix, polynomials)| {
                polynomials.iter().map(|polynomial| (polynomial.index(count), matrix.index(shapes.len()))).collect()
            })
            .collect();
        Case::new(&shapes, count, &claims, seed, |layout| code(layout, &levels))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn true_claims_are_discharged(case in cases(40)) {
        let opening = case.open();
        prop_assert_eq!(case.verify(&opening).map(|_| ()), Ok(()));
        let bytes = case.encoded(&opening);
        prop_assert_eq!(case.decode(&bytes), Ok(opening));
    }

    #[test]
    fn a_false_claim_is_not(case in cases(30), place in any::<prop::sample::Index>()) {
        let mut case = case;
        prop_assume!(!case.claims.is_empty());
        let place = place.index(case.claims.len());
        case.claims[place].value += E::ONE;
        let opening = case.open();
        prop_assert_eq!(case.verify(&opening), Err(OpeningError::FinalEvaluation));
    }
}

/// Claims that have a vector in common, but for single entries, say what claims with vectors of their own say.
#[test]
fn what_claims_share_is_part_of_each_of_them() {
    let claimed = [vec![(0, 0), (1, 0)], vec![(1, 1), (0, 0)], vec![(0, 0), (1, 0)], vec![(0, 1)]];
    let own = Case::new(&[(12, 21), (12, 21)], 2, &claimed, 5, |layout| code(layout, &[(1, 1, 24, 0), (2, 2, 20, 0)]));
    let mut common = own.clone();
    let shared = Arc::clone(&own.claims[0].parts[0].output.shared);
    for part in common.claims.iter_mut().flat_map(|claim| &mut claim.parts) {
        let entries = part.output.entries().into_owned();
        let singles = entries.iter().zip(shared.iter()).map(|(entry, shared)| *entry - shared).enumerate();
        let singles = singles.filter(|(_, more)| *more != E::ZERO).collect();
        part.output = Output { shared: Arc::clone(&shared), singles };
        assert_eq!(part.output.entries(), entries);
    }
    // And an input in common.
    common.claims[2].input = Arc::clone(&common.claims[0].input);
    common.claims[2].value = common.value(&common.claims[2]);
    let mut own = own;
    own.claims[2].input = own.claims[0].input.to_vec().into();
    own.claims[2].value = own.value(&own.claims[2]);
    assert_eq!(own.claims[2].value, common.claims[2].value);

    let opening = common.open();
    assert_eq!(own.open(), opening);
    for case in [&own, &common] {
        assert_eq!(case.verify(&opening).map(|_| ()), Ok(()));
    }
    let verdict = |change: &dyn Fn(&mut Output)| {
        let mut changed = common.clone();
        change(&mut changed.claims[3].parts[0].output);
        changed.verify(&opening).map(|_| ())
    };
    assert_eq!(verdict(&|_| ()), Ok(()));
    assert!(verdict(&|output| output.singles[20].1 += E::ONE).is_err());
    assert!(verdict(&|output| output.singles.retain(|(place, _)| *place != 7)).is_err());
    // Not in order, twice, and beyond the outputs.
    assert_eq!(verdict(&|output| output.singles.swap(3, 4)), Err(OpeningError::Claims));
    assert_eq!(verdict(&|output| output.singles[3].0 = 4), Err(OpeningError::Claims));
    assert_eq!(verdict(&|output| output.singles[20].0 = 21), Err(OpeningError::Claims));
    assert_eq!(verdict(&|output| Arc::make_mut(&mut output.shared).truncate(20)), Err(OpeningError::Claims));
}

/// Few single entries, so that what one claim has and the next has not would show.
#[test]
fn single_entries_are_those_of_their_claim() {
    let claimed = vec![vec![(0, 0)]; 11];
    let mut common = Case::new(&[(12, 21)], 1, &claimed, 6, |layout| code(layout, &[(1, 1, 24, 0), (2, 2, 20, 0)]));
    let shared = Arc::clone(&common.claims[0].parts[0].output.shared);
    for (number, claim) in common.claims.iter_mut().enumerate() {
        let singles = [vec![(3, E::ONE)], vec![], vec![(7, shared[1])], vec![(0, E::ONE), (20, E::ONE)]];
        claim.parts[0].output = Output { shared: Arc::clone(&shared), singles: singles[number % 4].clone() };
    }
    let values: Vec<E> = common.claims.iter().map(|claim| common.value(claim)).collect();
    common.claims.iter_mut().zip(values).for_each(|(claim, value)| claim.value = value);
    let mut own = common.clone();
    own.claims.iter_mut().for_each(|claim| {
        let output = &mut claim.parts[0].output;
        *output = output.entries().into_owned().into();
    });
    let opening = common.open();
    assert_eq!(own.open(), opening);
    assert_eq!(own.verify(&opening).map(|_| ()), Ok(()));
    assert_eq!(common.verify(&opening).map(|_| ()), Ok(()));
}

#[test]
fn the_legal_code_of_a_layer_opens() {
    let shapes = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 192), (64, 192), (192, 64)];
    let claims: Vec<Vec<(usize, usize)>> = (0..7).map(|matrix| vec![(matrix % 3, matrix)]).collect();
    let case = Case::new(&shapes, 3, &claims, 1, CodeParams::for_layout);
    assert!(case.params.is_secure(), "{:?}", case.params);
    let opening = case.open();
    assert_eq!(case.verify(&opening).map(|_| ()), Ok(()));
    assert_eq!(polynomial_variables(3), 2);
    let _ = Search::default();
}
