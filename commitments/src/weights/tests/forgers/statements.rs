//! Claims, commitments, codes and layouts that are not those of the proof.

use super::*;

/// The verdicts on a false statement: proven as the forger would; proven as it is stated; so with the first folded vector
/// made to meet the claim; with the last one; with every vector made to meet it as soon as all claims on it are known.
fn assert_rejected(forger: &Forger) {
    assert_eq!(forger.verdict(|_| ()), FINAL_EVALUATION);
    let forger = Forger { proven: forger.claims.clone(), ..forger.clone() };
    assert_eq!(forger.verdict(|_| ()), FINAL_EVALUATION);
    let first = |step: Step<'_>| {
        if let Step::Vector(1, vector, omega, claim) = step {
            meet(vector, omega, claim);
        }
    };
    assert_eq!(forger.verdict(first), FINAL_EVALUATION);
    let last = |step: Step<'_>| {
        if let Step::Last(vector, omega, claim) = step {
            meet(vector, omega, claim);
        }
    };
    assert_eq!(forger.verdict(last), COLUMN_FOLD);
    let all = |step: Step<'_>| match step {
        Step::Vector(_, vector, omega, claim)
        | Step::Claimed(_, vector, omega, claim)
        | Step::Last(vector, omega, claim) => {
            meet(vector, omega, claim);
        }
        _ => (),
    };
    assert_eq!(forger.verdict(all), COLUMN_FOLD);
}

#[test]
fn a_false_value_is_rejected() {
    for claim in 0..5 {
        let mut forger = Forger::of(&usual());
        forger.claims[claim].value += E::ONE;
        assert_rejected(&forger);
    }
    let mut forger = Forger::of(&usual());
    forger.claims.push(Claim { input: Arc::from([]), parts: vec![], value: E::ZERO });
    forger.proven = forger.claims.clone();
    assert_eq!(forger.verdict(|_| ()), Ok(()), "nothing sums to zero");
    forger.claims[5].value = E::ONE;
    assert_rejected(&forger);
}

#[test]
fn a_false_evaluation_is_rejected() {
    for polynomial in 0..3 {
        let mut forger = Forger::of(&usual());
        forger.commitments[polynomial].evaluation.c1 += F::ONE;
        assert_rejected(&forger);
    }
    let mut forger = Forger::of(&usual());
    let [first, second] = [0, 1].map(|polynomial| forger.commitments[polynomial].evaluation);
    (forger.commitments[0].evaluation, forger.commitments[1].evaluation) = (second, first);
    assert_rejected(&forger);
}

#[test]
fn values_that_are_wrong_together_are_rejected() {
    let forger = Forger::of(&usual());
    let mut exchanged = forger.clone();
    (exchanged.claims[0].value, exchanged.claims[2].value) = (forger.claims[2].value, forger.claims[0].value);
    assert_rejected(&exchanged);
    let mut compensated = forger.clone();
    compensated.claims[1].value += E::ONE;
    compensated.claims[3].value -= E::ONE;
    assert_rejected(&compensated);
    let mut with_a_commitment = forger.clone();
    with_a_commitment.claims[1].value += E::ONE;
    with_a_commitment.commitments[1].evaluation -= E::ONE;
    assert_rejected(&with_a_commitment);
    // Weighed by the challenge that the true values would have had.
    let (_, record) = forger.forge(&mut transcript_of(0), |_| ());
    let mut weighed = forger.clone();
    weighed.claims[0].value += record.gamma;
    weighed.claims[1].value -= E::ONE;
    assert_eq!(weighed.stated(record.gamma), forger.stated(record.gamma));
    assert_rejected(&weighed);
}

#[test]
fn a_claim_is_not_left_out() {
    for claim in 0..5 {
        let mut forger = Forger::of(&usual());
        forger.proven[claim].parts.clear();
        assert_eq!(forger.verdict(|_| ()), FINAL_EVALUATION, "the value is true, the proof is not");
        forger.claims[claim].value = E::ZERO;
        assert_rejected(&forger);
    }
    let mut forger = Forger::of(&usual());
    forger.proven[1].parts.pop();
    forger.claims[1].value = forger.value(&forger.proven[1]);
    assert_rejected(&forger);
    let mut forger = Forger::of(&usual());
    forger.proven.swap(0, 2);
    assert_eq!(forger.verdict(|_| ()), FINAL_EVALUATION);
}

/// The value is that of another matrix, polynomial or vector, and so are the rounds.
#[test]
fn a_claim_is_about_its_own_matrix_polynomial_and_vectors() {
    let about = |change: fn(&mut Claim)| {
        let mut forger = Forger::of(&usual());
        change(&mut forger.proven[0]);
        forger.claims[0].value = forger.value(&forger.proven[0]);
        assert_rejected(&forger);
        forger.claims[0] = Claim { value: forger.claims[0].value, ..forger.proven[0].clone() };
        assert_eq!(forger.verdict(|_| ()), Ok(()), "of its own the claim is true");
    };
    about(|claim| claim.parts[0].matrix = 1);
    about(|claim| claim.parts[0].polynomial = 1);
    about(|claim| claim.parts[0].polynomial = 2);
    about(|claim| output_of(claim, 0)[3] += E::ONE);
    about(|claim| output_of(claim, 0).reverse());
    about(|claim| {
        let mut input = claim.input.to_vec();
        input[7] += F::ONE;
        claim.input = input.into();
    });
    about(|claim| claim.parts.push(claim.parts[0].clone()));
}

/// Two tiles of one shape in one matrix: the inputs of one for those of the other.
#[test]
fn a_claim_is_about_its_own_tiles() {
    let new = || {
        Forger::of(&Case::new(&[(8, 5), (8, 6)], 1, &[vec![(0, 0)], vec![(0, 1)]], 3, |layout| {
            code(layout, &[(1, 1, 24, 0), (2, 2, 20, 0)])
        }))
    };
    let mut forger = new();
    assert!(forger.layout.tiles_of(1).count() > 1);
    // The last two outputs are a tile of their own.
    let output = output_of(&mut forger.proven[1], 0);
    output.swap(4, 0);
    output.swap(5, 1);
    forger.claims[1].value = forger.value(&forger.proven[1]);
    assert_rejected(&forger);
    let mut forger = new();
    output_of(&mut forger.proven[1], 0)[4..].fill(E::ZERO);
    forger.claims[1].value = forger.value(&forger.proven[1]);
    assert_rejected(&forger);
}

#[test]
fn polynomials_do_not_change_places() {
    // The verifier has the commitments in another order than the prover has the trees.
    let mut forger = Forger::of(&usual());
    forger.commitments.swap(0, 1);
    assert_eq!(forger.verdict(|_| ()), MERKLE_PATH);
    // The trees follow the commitments, the polynomials do not.
    forger.words.swap(0, 1);
    assert_rejected(&forger);
    // All follow, but the claims are on the old numbers.
    forger.polynomials.swap(0, 1);
    assert_rejected(&forger);
    // A root with another's evaluation.
    let mut forger = Forger::of(&usual());
    let root = forger.commitments[0].root;
    forger.commitments[0].root = forger.commitments[2].root;
    assert_eq!(forger.verdict(|_| ()), MERKLE_PATH);
    forger.commitments[0].root = root;
    assert_eq!(forger.verdict(|_| ()), Ok(()));
}

/// A commitment to other weights, for which the claims are as false as for the true ones.
#[test]
fn other_weights_do_not_meet_the_claims() {
    let mut forger = Forger::of(&usual());
    forger.polynomials[0][1] += F::ONE;
    assert_rejected(&forger);
    forger.words[0] = Word::new(base_columns(&forger.polynomials[0], &forger.params.base()));
    assert_eq!(forger.verdict(|_| ()), MERKLE_PATH);
    forger.commit();
    assert_rejected(&forger);
}

/// The opening of one code under another, where the verifier has the commitment of its own code and where it has that of the
/// opening.
#[test]
fn an_opening_is_of_its_own_code() {
    use OpeningError::{Grinding, Params, Shape};
    let levels = [(2, 1, 24, 10), (1, 2, 20, 0), (2, 3, 16, 8)];
    let own = Forger::of(&of_levels(&levels));
    let opening = own.open(0, |_| ());
    let others = [
        (&[(2, 2, 24, 10), (1, 2, 20, 0), (2, 3, 16, 8)][..], [Grinding, Grinding]),
        (&[(2, 1, 24, 10), (1, 3, 20, 0), (2, 3, 16, 8)], [Grinding, Grinding]),
        (&[(2, 1, 24, 10), (1, 2, 20, 0), (2, 4, 16, 8)], [Grinding, Grinding]),
        (&[(2, 1, 23, 10), (1, 2, 20, 0), (2, 3, 16, 8)], [Grinding, Grinding]),
        (&[(2, 1, 24, 10), (1, 2, 20, 0), (2, 3, 15, 8)], [Grinding, Grinding]),
        (&[(2, 1, 24, 9), (1, 2, 20, 0), (2, 3, 16, 8)], [Grinding, Grinding]),
        (&[(2, 1, 24, 0), (1, 2, 20, 0), (2, 3, 16, 8)], [Shape, Shape]),
        (&[(2, 1, 24, 10), (1, 2, 20, 5), (2, 3, 16, 8)], [Grinding, Grinding]),
        (&[(1, 1, 24, 10), (2, 2, 20, 0), (2, 3, 16, 8)], [Grinding, Grinding]),
        (&[(2, 1, 24, 10), (2, 2, 20, 0), (1, 3, 16, 8)], [Grinding, Grinding]),
        (&[(2, 1, 24, 10), (3, 2, 20, 0)], [Shape, Shape]),
        (&[(2, 1, 24, 10), (1, 2, 20, 0), (1, 3, 16, 8), (1, 3, 16, 8)], [Shape, Shape]),
    ];
    for (levels, verdicts) in others {
        let mut forger = own.clone();
        forger.params = code(&forger.layout, levels);
        let of_the_opening = forger.verify(&opening, 0);
        forger = forger.with_words_of_the_code();
        forger.commit();
        assert_eq!([of_the_opening, forger.verify(&opening, 0)], verdicts.map(Err), "{levels:?}");
        assert_eq!(forger.verdict(|_| ()), Ok(()));
    }
    let mut forger = own.clone();
    forger.params.log_size += 1;
    assert_eq!(forger.verify(&opening, 0), Err(Params));
    let mut forger = own;
    forger.params.levels.clear();
    assert_eq!(forger.verify(&opening, 0), Err(Params));
}

/// The prover runs the verifier's code on the commitment of its own.
#[test]
fn a_commitment_is_of_its_own_code() {
    let own = Forger::of(&of_levels(&[(2, 1, 24, 0), (3, 2, 20, 0)]));
    let run = |levels: &[(u32, u32, u32, u32)]| {
        let mut forger = own.clone();
        forger.params = code(&forger.layout, levels);
        forger
    };
    // Another rate: the tree has another number of leaves.
    let mut rate = run(&[(2, 2, 24, 0), (3, 2, 20, 0)]);
    assert_eq!(rate.with_words_of_the_code().verdict(|_| ()), MERKLE_PATH);
    // The same root, but the point of its evaluation depends on the code.
    let mut later = run(&[(2, 1, 24, 0), (3, 3, 20, 0)]);
    assert_rejected(&later);
    later.commit();
    assert_eq!(later.verdict(|_| ()), Ok(()));
    rate = rate.with_words_of_the_code();
    rate.commit();
    assert_eq!(rate.verdict(|_| ()), Ok(()));
}

impl Forger {
    /// The words that the code asks for, and the commitments as they were.
    fn with_words_of_the_code(&self) -> Self {
        let word = |polynomial: &Vec<F>| Word::new(base_columns(polynomial, &self.params.base()));
        Self { words: self.polynomials.iter().map(word).collect(), ..self.clone() }
    }
}

/// Fewer queries than the code asks for.
#[test]
fn no_query_is_left_out() {
    let forger = Forger::of(&usual());
    let (honest, record) = forger.forge(&mut transcript_of(0), |_| ());
    for dropped in [0, 3] {
        let verdict = forger.verdict(|step| {
            if let Step::Base(answers) = step {
                let mut positions = record.positions[0].clone();
                positions.remove(dropped);
                (answers.columns, answers.hashes) = forger.words.iter().map(|word| word.answer(&positions)).unzip();
            }
        });
        assert_eq!(verdict, SHAPE);
    }
    let nothing = forger.verdict(|step| {
        if let Step::Level(1, answers) = step {
            (answers.columns, answers.hashes) = (vec![vec![]], vec![vec![]]);
        }
    });
    assert_eq!(nothing, SHAPE);
    assert_eq!(forger.verify(&honest, 0), Ok(()));
}

#[test]
fn an_opening_is_of_its_own_layout() {
    let shapes = |shapes: &[(u32, u32)]| {
        let shapes: Vec<MatrixShape> =
            shapes.iter().map(|&(inputs, outputs)| MatrixShape { inputs, outputs }).collect();
        Arc::new(Layout::new(&shapes).unwrap())
    };
    // Claims on the first two matrices fit all of these.
    let case = Case::new(&[(8, 8), (8, 8), (8, 4), (8, 4)], 2, &[vec![(0, 0)], vec![(1, 1)]], 9, |layout| {
        code(layout, &[(2, 1, 24, 0), (3, 2, 20, 0)])
    });
    let own = Forger::of(&case);
    let opening = own.open(0, |_| ());
    assert_eq!(own.verify(&opening, 0), Ok(()));
    for (other, verdict) in [
        (shapes(&[(8, 8), (8, 8), (8, 8)]), SHAPE),
        (shapes(&[(8, 8), (8, 8), (4, 8), (8, 4)]), SHAPE),
        (shapes(&[(8, 8), (8, 8), (8, 4), (8, 3)]), SHAPE),
    ] {
        assert!(own.params.fits(&other));
        let mut forger = own.clone();
        forger.layout = other;
        assert_eq!(forger.verify(&opening, 0), verdict);
        // Where the tiles of the claims lie in the same places, the layout's digest tells the layouts apart.
        assert_eq!(forger.verdict(|_| ()), Ok(()));
    }
    // The same shapes in another order; the claims proven at the old places.
    let case = Case::new(&[(8, 8), (8, 8), (8, 8)], 2, &[vec![(0, 0)], vec![(1, 2)]], 9, |layout| {
        code(layout, &[(2, 1, 24, 0), (3, 2, 20, 0)])
    });
    let mut forger = Forger::of(&case);
    forger.proven[0].parts[0].matrix = 2;
    forger.proven[1].parts[0].matrix = 0;
    assert_eq!(forger.verdict(|_| ()), FINAL_EVALUATION);
    for claim in 0..2 {
        forger.claims[claim].value = forger.value(&forger.proven[claim]);
    }
    assert_rejected(&forger);
    // No code of the layout.
    let mut forger = Forger::of(&case);
    let opening = forger.open(0, |_| ());
    forger.layout = shapes(&[(8, 8), (8, 8), (8, 8), (8, 8), (8, 8)]);
    assert_eq!(forger.verify(&opening, 0), Err(OpeningError::Params));
    forger.layout = shapes(&[(8, 8), (8, 8), (8, 4), (2, 16), (1, 1)]);
    assert_eq!(forger.verify(&opening, 0), Err(OpeningError::Params));
}

/// Padding with zero polynomials is what the prover does in its head; it is another statement when it is said.
#[test]
fn an_opening_is_of_its_own_number_of_polynomials() {
    let own = Forger::of(&usual());
    let opening = own.open(0, |_| ());
    let mut padded = own.clone();
    padded.polynomials.push(vec![F::ZERO; 1 << own.params.log_size]);
    padded.words.push(Word::new(base_columns(&padded.polynomials[3], &own.params.base())));
    padded.commit();
    assert_eq!(padded.verify(&opening, 0), GRINDING);
    let of_four = padded.open(0, |_| ());
    assert_eq!(padded.verify(&of_four, 0), Ok(()));
    assert_eq!(own.verify(&of_four, 0), GRINDING);
    // The prover says three, and shows four or two.
    let shown = |count: usize| {
        own.verdict(|step| {
            if let Step::Base(answers) = step {
                answers.columns.resize(count, vec![vec![F::ZERO; 4]; answers.columns[0].len()]);
                answers.hashes.resize(count, vec![]);
            }
        })
    };
    assert_eq!(shown(4), SHAPE);
    assert_eq!(shown(2), SHAPE);
    let mut fewer = own.clone();
    fewer.commitments.truncate(2);
    assert_eq!(fewer.verify(&opening, 0), Err(OpeningError::Claims));
    fewer.claims.retain(|claim| claim.parts.iter().all(|part| part.polynomial < 2));
    assert_eq!(fewer.verify(&opening, 0), SHAPE);
    let mut more = padded;
    more.commitments.push(more.commitments[3]);
    assert_eq!(more.verify(&of_four, 0), SHAPE);
    more.commitments.clear();
    assert_eq!(more.verify(&of_four, 0), Err(OpeningError::Claims));
}
