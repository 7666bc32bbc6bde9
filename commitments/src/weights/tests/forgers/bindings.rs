//! Messages that would pass if the challenges stayed what they were.

use super::*;

/// The events of an opening in the words of the protocol, runs of equal ones counted.
fn inventory(transcript: &Transcript<Reduction>) -> Vec<String> {
    let mut lines: Vec<(String, usize)> = vec![];
    for event in transcript.log() {
        let line = format!("{:?} {} {}", event.operation, event.label, event.length);
        match lines.last_mut() {
            Some((last, count)) if *last == line => *count += 1,
            _ => lines.push((line, 1)),
        }
    }
    lines.into_iter().map(|(line, count)| if count == 1 { line } else { format!("{line} x{count}") }).collect()
}

#[test]
fn prover_and_verifier_absorb_the_same() {
    for case in [usual(), of_levels(&[(2, 1, 20, 0), (5, 1, 300, 0)]), of_levels(&[(2, 2, 30, 3)])] {
        let polynomials: Vec<_> = case.polynomials.iter().zip(&case.trees).collect();
        let (mut prover, mut forger, mut verifier) = (transcript(), transcript(), transcript());
        let opening = whole(open(&polynomials, &case.params, &case.claims, &mut prover));
        let _ = Forger::of(&case).forge(&mut forger, |_| ());
        let _ = verify(&case.commitments(), &case.layout, &case.params, &case.claims, &opening, &mut verifier).unwrap();
        assert_eq!(prover.log(), verifier.log());
        assert_eq!(prover.log(), forger.log());
        assert_eq!(prover.challenge("after"), verifier.challenge("after"));
    }
}

/// Whoever leaves out an absorb, or adds one, changes this list, `docs/opening.md` and the reference.
#[test]
fn the_inventory_of_an_opening_is_as_documented() {
    let claimed = [vec![(0, 0), (1, 0)], vec![(1, 1)]];
    let case = Case::new(&[(4, 4), (4, 3)], 2, &claimed, 5, |layout| code(layout, &[(1, 1, 3, 6), (2, 2, 2, 0)]));
    let mut verifier = transcript();
    let opening = case.open();
    let _ = verify(&case.commitments(), &case.layout, &case.params, &case.claims, &opening, &mut verifier).unwrap();
    assert_eq!(inventory(&verifier), INVENTORY);
}

const INVENTORY: &[&str] = &[
    "Start claimed 12",
    "Step reduction 0",
    "Absorb weights/code 40",
    "Absorb weights/layout 32",
    "Absorb weights/count 8",
    "Absorb weights/commitment 56 x2",
    "Absorb weights/claim-count 8",
    "Absorb weights/claim 32",
    "Bulk weights/input 32",
    "Absorb weights/part 16",
    "Bulk weights/output 96",
    "Absorb weights/part 16",
    "Bulk weights/output 96",
    "Absorb weights/claim 32",
    "Bulk weights/input 32",
    "Absorb weights/part 16",
    "Bulk weights/output 72",
    "Squeeze weights/batch 1",
    "Absorb sumcheck/round 48",
    "Squeeze sumcheck/point 1",
    "Absorb sumcheck/round 48",
    "Squeeze sumcheck/point 1",
    "Absorb weights/level-root 32",
    "Squeeze weights/out-of-domain 1",
    "Absorb weights/answer 24",
    "Squeeze weights/grinding 1",
    "Absorb weights/nonce 8",
    "Squeeze weights/positions 3",
    "Bulk weights/columns 64",
    "Bulk weights/paths 384",
    "Squeeze weights/batch 1",
    "Absorb sumcheck/round 48",
    "Squeeze sumcheck/point 1",
    "Absorb sumcheck/round 48",
    "Squeeze sumcheck/point 1",
    "Bulk weights/final 96",
    "Absorb sumcheck/round 48",
    "Squeeze sumcheck/point 1",
    "Absorb sumcheck/round 48",
    "Squeeze sumcheck/point 1",
    "Squeeze weights/positions 2",
    "Bulk weights/columns 192",
    "Bulk weights/paths 192",
];

/// Everything that both sides know changes the first challenge.
#[test]
fn the_first_challenge_depends_on_the_whole_statement() {
    let forger = Forger::of(&usual());
    let gamma =
        |forger: &Forger| begin(&forger.commitments, &forger.layout, &forger.params, &forger.claims, &mut transcript());
    let mut seen = vec![gamma(&forger)];
    let mut differs = |change: &dyn Fn(&mut Forger)| {
        let mut changed = forger.clone();
        change(&mut changed);
        let challenge = gamma(&changed);
        assert!(!seen.contains(&challenge), "number {}", seen.len());
        seen.push(challenge);
    };
    for polynomial in 0..3 {
        differs(&|forger| forger.commitments[polynomial].root[31] ^= 1);
        differs(&|forger| forger.commitments[polynomial].evaluation.c2 += F::ONE);
    }
    differs(&|forger| forger.commitments.swap(0, 1));
    differs(&|forger| forger.commitments.truncate(2));
    differs(&|forger| forger.params.log_size += 1);
    for level in 0..3 {
        differs(&|forger| forger.params.levels[level].fold_log += 1);
        differs(&|forger| forger.params.levels[level].rate_log += 1);
        differs(&|forger| forger.params.levels[level].queries += 1);
        differs(&|forger| forger.params.levels[level].grinding += 1);
    }
    let layout = |shapes: &[(u32, u32)]| {
        let shapes: Vec<MatrixShape> =
            shapes.iter().map(|&(inputs, outputs)| MatrixShape { inputs, outputs }).collect();
        Arc::new(Layout::new(&shapes).unwrap())
    };
    differs(&|forger| forger.layout = layout(&[(8, 8), (8, 8), (12, 5), (8, 4)]));
    differs(&|forger| forger.layout = layout(&[(8, 8), (8, 8), (8, 4), (12, 6)]));
    differs(&|forger| forger.layout = layout(&[(8, 8), (8, 8), (8, 4), (13, 5)]));
    for claim in 0..5 {
        differs(&|forger| forger.claims[claim].value.c1 += F::ONE);
        differs(&|forger| {
            let mut input = forger.claims[claim].input.to_vec();
            *input.last_mut().unwrap() += F::ONE;
            forger.claims[claim].input = input.into();
        });
        differs(&|forger| forger.claims[claim].parts[0].polynomial += 1);
        differs(&|forger| forger.claims[claim].parts[0].matrix += 1);
        differs(&|forger| output_of(&mut forger.claims[claim], 0).last_mut().unwrap().c0 += F::ONE);
        differs(&|forger| drop(forger.claims.remove(claim)));
    }
    differs(&|forger| drop(forger.claims[1].parts.pop()));
    differs(&|forger| forger.claims.swap(0, 2));
    differs(&|forger| forger.claims[1].parts.swap(0, 1));
    // A part in another claim, an entry in another vector.
    differs(&|forger| {
        let part = forger.claims[1].parts.pop().unwrap();
        forger.claims[2].parts.insert(0, part);
    });
    differs(&|forger| {
        let entry = output_of(&mut forger.claims[1], 0).pop().unwrap();
        output_of(&mut forger.claims[1], 1).insert(0, entry);
    });
}

#[test]
fn challenges_depend_on_the_columns_and_paths() {
    let case = usual();
    let opening = case.open();
    let after = |answers: &Answers<F>| {
        let mut transcript = transcript();
        answers.absorb(&mut transcript);
        transcript.challenge("after")
    };
    let own = after(&opening.base);
    let mut changed = opening.base.clone();
    changed.columns[2][4][3] += F::ONE;
    assert_ne!(after(&changed), own);
    let mut changed = opening.base.clone();
    changed.hashes[2].last_mut().unwrap()[0] ^= 1;
    assert_ne!(after(&changed), own);
}

/// An honest opening, its challenges, and what a change makes of it: the change is one that the recorded challenges let
/// pass, and that the live ones do not.
struct Frozen {
    forger: Forger,
    opening: Opening,
    record: Record,
}

impl Frozen {
    fn new(levels: &[(u32, u32, u32, u32)]) -> Self {
        let forger = Forger::of(&of_levels(levels));
        let (opening, record) = forger.forge(&mut transcript_of(0), |_| ());
        assert!(forger.passes_with(&opening, &record));
        assert_eq!(forger.verify(&opening, 0), Ok(()));
        Self { forger, opening, record }
    }

    fn verdict(mut self, change: impl FnOnce(&mut Forger, &mut Opening, &Record)) -> Result<(), OpeningError> {
        let (forger, opening) = (self.forger.clone(), self.opening.clone());
        change(&mut self.forger, &mut self.opening, &self.record);
        let same = opening == self.opening
            && forger.claims == self.forger.claims
            && forger.commitments == self.forger.commitments;
        assert!(!same, "something changes");
        assert!(self.forger.passes_with(&self.opening, &self.record), "the recorded challenges would let it pass");
        self.forger.verify(&self.opening, 0)
    }
}

/// One query a level: whatever the position, there is one column, and a path of one length.
const FEW: [(u32, u32, u32, u32); 2] = [(2, 1, 1, 0), (2, 1, 1, 4)];

#[test]
fn frozen_values_and_evaluations() {
    let verdict = Frozen::new(&FEW).verdict(|forger, _, record| {
        forger.claims[0].value += record.gamma;
        forger.claims[1].value -= E::ONE;
    });
    assert_eq!(verdict, MERKLE_PATH);
    let verdict = Frozen::new(&FEW).verdict(|forger, _, record| {
        forger.commitments[2].evaluation += record.gamma;
        forger.claims[0].value -= E::ONE;
    });
    assert_eq!(verdict, MERKLE_PATH);
}

/// The vectors of a claim at the point are one number each.
#[test]
fn frozen_vectors() {
    // Of the claim on matrix 0: one tile of eight inputs and eight outputs.
    let table = |record: &Record, first: usize| {
        let point = [&record.point[..2], &record.point[4..]].concat();
        eq_table(&point[first..first + 3])
    };
    let verdict = Frozen::new(&FEW).verdict(|forger, _, record| {
        let weights = table(record, 3);
        let output = output_of(&mut forger.claims[0], 0);
        output[1] += weights[6];
        output[6] -= weights[1];
    });
    assert_eq!(verdict, MERKLE_PATH);
    let verdict = Frozen::new(&FEW).verdict(|forger, _, record| {
        // Four entries of the base field for one of the extension.
        let weights = table(record, 0);
        let steps = relation(&weights[..4]);
        let mut input = forger.claims[0].input.to_vec();
        input.iter_mut().zip(steps).for_each(|(entry, step)| *entry += step);
        forger.claims[0].input = input.into();
    });
    assert_eq!(verdict, MERKLE_PATH);
}

/// Factors from the base field, not all zero, with which four elements sum to zero.
fn relation(elements: &[E]) -> Vec<F> {
    let rows: Vec<[F; 4]> = [0, 1, 2]
        .map(|coordinate: usize| {
            std::array::from_fn(|place| [elements[place].c0, elements[place].c1, elements[place].c2][coordinate])
        })
        .to_vec();
    // The minors of the three equations.
    let minor = |left_out: usize| {
        let kept: Vec<usize> = (0..4).filter(|&column| column != left_out).collect();
        let at = |row: usize, column: usize| rows[row][kept[column]];
        at(0, 0) * (at(1, 1) * at(2, 2) - at(1, 2) * at(2, 1)) - at(0, 1) * (at(1, 0) * at(2, 2) - at(1, 2) * at(2, 0))
            + at(0, 2) * (at(1, 0) * at(2, 1) - at(1, 1) * at(2, 0))
    };
    (0..4).map(|place| if place % 2 == 0 { minor(place) } else { -minor(place) }).collect()
}

#[test]
fn frozen_rounds() {
    let rounds = Frozen::new(&FEW).opening.rounds.len();
    for number in 0..rounds {
        let verdict = Frozen::new(&FEW).verdict(|_, opening, record| {
            let (round, r) = (&mut opening.rounds[number], record.point[number]);
            round.at_zero += E::ONE;
            round.leading -= (E::ONE - r.double()) * (r.square() - r).inverse().unwrap();
        });
        // Rounds before the first queries change the positions of all, those before the last the work of the last.
        let expected = if number < 4 { MERKLE_PATH } else { FINAL_EVALUATION };
        assert_eq!(verdict, expected, "round {number}");
    }
}

/// Changes the next round so that a claim that has changed by `change` leads to the value that it led to.
fn absorb_change(round: &mut RoundProof, r: E, change: E) {
    round.at_zero -= r * change * (E::ONE - r.double()).inverse().unwrap();
}

#[test]
fn frozen_out_of_domain_answer() {
    let verdict = Frozen::new(&FEW).verdict(|_, opening, record| {
        opening.folds[0].answer += E::ONE;
        absorb_change(&mut opening.rounds[4], record.point[4], record.xis[0]);
    });
    assert_eq!(verdict, MERKLE_PATH);
}

/// A tree over nothing but the columns that will be asked for.
#[test]
fn frozen_level_root() {
    let verdict = Frozen::new(&FEW).verdict(|forger, opening, record| {
        let code = forger.params.codes().nth(1).unwrap();
        let mut columns = vec![vec![E::ZERO; code.rows()]; code.codeword_length()];
        for (&position, column) in record.positions[1].iter().zip(&opening.levels[0].columns[0]) {
            columns[position].clone_from(column);
        }
        let word = Word::new(columns);
        opening.folds[0].root = word.tree.bound_root();
        opening.levels[0].hashes = vec![word.answer(&record.positions[1]).1];
    });
    assert_eq!(verdict, MERKLE_PATH);
}

/// The same for a commitment. The point of its evaluation moves with the root; the evaluation makes up for it.
#[test]
fn frozen_base_root() {
    let verdict = Frozen::new(&FEW).verdict(|forger, opening, record| {
        let base = forger.params.base();
        let mut columns = vec![vec![F::ZERO; base.rows()]; base.codeword_length()];
        for (&position, column) in record.positions[0].iter().zip(&opening.base.columns[0]) {
            columns[position].clone_from(column);
        }
        let word = Word::new(columns);
        forger.commitments[0].root = word.tree.bound_root();
        opening.base.hashes[0] = word.answer(&record.positions[0]).1;
        let gap = forger.gap_with(opening, record).unwrap();
        assert_ne!(gap, E::ZERO);
        // A round passes on its challenge's part of a change.
        forger.commitments[0].evaluation -= gap * record.point.iter().product::<E>().inverse().unwrap();
    });
    assert_eq!(verdict, MERKLE_PATH);
}

/// Another nonce that does the work, with the positions of the first.
#[test]
fn frozen_nonce() {
    let verdict = Frozen::new(&FEW).verdict(|forger, opening, record| {
        let code = forger.params.codes().nth(1).unwrap();
        let nonce = &mut opening.levels[0].nonce;
        *nonce = (nonce.unwrap() + 1..TRIES).find(|&nonce| does_the_work(&code, &record.seeds[1], nonce));
    });
    assert_eq!(verdict, MERKLE_PATH);
}

/// Another last vector with the same symbols at the positions and the same value at the point.
#[test]
fn frozen_last_vector() {
    let verdict = Frozen::new(&FEW).verdict(|forger, opening, record| {
        let code = forger.params.codes().nth(1).unwrap();
        let mut step = vec![E::ONE];
        for &position in &record.positions[1] {
            let root = E::from_base_prime_field(point(code.codeword_log(), position as u64));
            let shifted = std::iter::once(E::ZERO).chain(step.iter().copied());
            let scaled = step.iter().map(|&entry| entry * root).chain([E::ZERO]);
            step = shifted.zip(scaled).map(|(a, b)| a - b).collect();
        }
        let last_point = &record.point[record.point.len() - forger.params.final_log() as usize..];
        let shift = |places: usize| -> Vec<E> {
            let mut shifted = vec![E::ZERO; opening.last.len()];
            shifted[places..places + step.len()].copy_from_slice(&step);
            shifted
        };
        let [one, other] = [shift(0), shift(1)];
        let [of_one, of_other] = [&one, &other].map(|step| evaluate(step, last_point));
        for (entry, (one, other)) in opening.last.iter_mut().zip(one.iter().zip(&other)) {
            *entry += *one * of_other - *other * of_one;
        }
    });
    assert_eq!(verdict, FINAL_EVALUATION);
}
