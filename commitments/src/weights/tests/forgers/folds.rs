//! Columns, paths, nonces, folded vectors, answers: what a prover sends.

use super::*;

#[test]
fn a_column_that_was_not_committed_has_no_path() {
    let forger = Forger::of(&usual());
    for tree in 0..3 {
        for (place, row) in [(0, 0), (5, 1), (11, 3)] {
            let wrong = |step: Step<'_>| {
                if let Step::Base(answers) = step {
                    answers.columns[tree][place][row] += F::ONE;
                }
            };
            assert_eq!(forger.verdict(wrong), MERKLE_PATH);
        }
    }
    for level in 1..3 {
        let wrong = |step: Step<'_>| match step {
            Step::Level(number, answers) if number == level => answers.columns[0][3][1].c2 += F::ONE,
            _ => (),
        };
        assert_eq!(forger.verdict(wrong), MERKLE_PATH);
    }
}

#[test]
fn columns_do_not_change_places() {
    let forger = Forger::of(&usual());
    let positions = |step: Step<'_>| {
        if let Step::Base(answers) = step {
            answers.columns[1].swap(2, 9);
        }
    };
    assert_eq!(forger.verdict(positions), MERKLE_PATH);
    let trees = |step: Step<'_>| {
        if let Step::Base(answers) = step {
            answers.columns.swap(0, 2);
        }
    };
    assert_eq!(forger.verdict(trees), MERKLE_PATH);
    let trees_and_paths = |step: Step<'_>| {
        if let Step::Base(answers) = step {
            answers.columns.swap(0, 2);
            answers.hashes.swap(0, 2);
        }
    };
    assert_eq!(forger.verdict(trees_and_paths), MERKLE_PATH);
    let rows = |step: Step<'_>| {
        if let Step::Level(1, answers) = step {
            answers.columns[0][4].swap(0, 1);
        }
    };
    assert_eq!(forger.verdict(rows), MERKLE_PATH);
    let levels = |step: Step<'_>| {
        if let Step::Level(2, answers) = step {
            answers.columns[0].swap(0, 1);
        }
    };
    assert_eq!(forger.verdict(levels), MERKLE_PATH);
}

/// The column of another position, with that position's path.
#[test]
fn another_position_is_not_the_one_drawn() {
    let forger = Forger::of(&of_levels(&[(2, 1, 1, 0)]));
    let (_, record) = forger.forge(&mut transcript_of(0), |_| ());
    let other = record.positions[0][0] ^ 1;
    let moved = |step: Step<'_>| {
        if let Step::Base(answers) = step {
            let (columns, hashes) = forger.words.iter().map(|word| word.answer(&[other])).unzip();
            (answers.columns, answers.hashes) = (columns, hashes);
        }
    };
    assert_eq!(forger.verdict(|_| ()), Ok(()));
    assert_eq!(forger.verdict(moved), MERKLE_PATH);
}

#[test]
fn a_path_is_whole_and_of_its_tree() {
    let forger = Forger::of(&usual());
    let base = |change: fn(&mut Vec<Vec<Hash>>)| {
        forger.verdict(|step| {
            if let Step::Base(answers) = step {
                change(&mut answers.hashes);
            }
        })
    };
    assert_eq!(base(|hashes| hashes[0][0][0] ^= 1), MERKLE_PATH);
    assert_eq!(base(|hashes| hashes[2].last_mut().unwrap()[31] ^= 128), MERKLE_PATH);
    assert_eq!(base(|hashes| hashes[1].swap(0, 1)), MERKLE_PATH);
    assert_eq!(base(|hashes| hashes.swap(0, 1)), MERKLE_PATH);
    assert_eq!(base(|hashes| hashes[1].truncate(1)), SHAPE);
    assert_eq!(base(|hashes| hashes[1].push([0; 32])), SHAPE);
    assert_eq!(base(|hashes| drop(hashes.pop())), SHAPE);
    assert_eq!(base(|hashes| hashes.push(vec![])), SHAPE);
    // As many hashes in all.
    assert_eq!(
        base(|hashes| {
            let moved = hashes[0].pop().unwrap();
            hashes[1].insert(0, moved);
        }),
        SHAPE
    );
    for level in 1..3 {
        let of = |change: fn(&mut Vec<Hash>)| {
            forger.verdict(|step| match step {
                Step::Level(number, answers) if number == level => change(&mut answers.hashes[0]),
                _ => (),
            })
        };
        assert_eq!(of(|hashes| hashes[0][7] ^= 4), MERKLE_PATH);
        assert_eq!(of(|hashes| *hashes = hashes.split_off(1)), SHAPE);
        assert_eq!(of(|hashes| hashes.push(hashes[0])), SHAPE);
    }
}

/// Fewer or more columns than positions, or rows; with paths as they are.
#[test]
fn answers_are_as_many_as_the_positions() {
    let forger = Forger::of(&usual());
    let base = |change: fn(&mut Vec<Vec<Vec<F>>>)| {
        let mut opening = forger.open(0, |_| ());
        change(&mut opening.base.columns);
        forger.verify(&opening, 0)
    };
    assert_eq!(base(|columns| drop(columns[0].pop())), SHAPE);
    assert_eq!(base(|columns| columns[2].push(vec![F::ONE; 4])), SHAPE);
    assert_eq!(base(|columns| drop(columns.pop())), SHAPE);
    assert_eq!(base(|columns| columns.push(columns[0].clone())), SHAPE);
    assert_eq!(base(|columns| columns[0][3].truncate(3)), SHAPE);
    assert_eq!(base(|columns| columns[0][3].push(F::ZERO)), SHAPE);
    let whole = |change: fn(&mut Opening)| {
        let mut opening = forger.open(0, |_| ());
        change(&mut opening);
        forger.verify(&opening, 0)
    };
    assert_eq!(whole(|opening| opening.rounds.truncate(9)), SHAPE);
    assert_eq!(whole(|opening| opening.rounds.push(opening.rounds[0])), SHAPE);
    assert_eq!(whole(|opening| opening.folds.truncate(1)), SHAPE);
    assert_eq!(whole(|opening| drop(opening.levels.pop())), SHAPE);
    assert_eq!(whole(|opening| opening.levels.push(opening.levels[1].clone())), SHAPE);
    assert_eq!(whole(|opening| opening.last.push(E::ZERO)), SHAPE);
    assert_eq!(whole(|opening| opening.last.truncate(7)), SHAPE);
}

/// The vector of a level is another one that meets all claims so far, and is committed honestly: the queries to the
/// level below tell it from the fold.
#[test]
fn another_vector_that_meets_the_claim_fails_the_queries() {
    let forger = Forger::of(&usual());
    let replaced = |level: usize, adapted: bool| {
        forger.verdict(move |step| match step {
            Step::Vector(number, vector, omega, claim) if number == level => {
                vector[1] += E::ONE;
                meet(vector, omega, claim);
            }
            // What the queries add is met by yet another vector, which is not the committed one.
            Step::Claimed(number, vector, omega, claim) if adapted && number == level => meet(vector, omega, claim),
            _ => (),
        })
    };
    for level in [1, 2] {
        assert_eq!(replaced(level, false), FINAL_EVALUATION);
    }
    assert_eq!(replaced(2, true), COLUMN_FOLD);
    // The columns of level 1 are claims on level 2.
    assert_eq!(replaced(1, true), FINAL_EVALUATION);
    let at_every_chance = |step: Step<'_>| match step {
        Step::Vector(1, vector, omega, claim) => {
            vector[1] += E::ONE;
            meet(vector, omega, claim);
        }
        Step::Vector(_, vector, omega, claim)
        | Step::Claimed(_, vector, omega, claim)
        | Step::Last(vector, omega, claim) => {
            meet(vector, omega, claim);
        }
        _ => (),
    };
    assert_eq!(forger.verdict(at_every_chance), COLUMN_FOLD);
}

/// The committed word is another vector's, and the rounds go on with the fold.
#[test]
fn a_level_commits_to_the_vector_of_its_rounds() {
    let forger = Forger::of(&usual());
    for (level, verdict) in [(1, FINAL_EVALUATION), (2, COLUMN_FOLD)] {
        let other = |step: Step<'_>| match step {
            Step::Word(number, columns) if number == level => columns.iter_mut().for_each(|column| column[0] += E::ONE),
            _ => (),
        };
        assert_eq!(forger.verdict(other), verdict);
    }
}

#[test]
fn a_wrong_out_of_domain_answer_is_a_false_claim() {
    let forger = Forger::of(&usual());
    for level in [1, 2] {
        let wrong = |step: Step<'_>| match step {
            Step::Answer(number, answer) if number == level => *answer += E::ONE,
            _ => (),
        };
        assert_eq!(forger.verdict(wrong), FINAL_EVALUATION);
    }
    for (level, verdict) in [(1, FINAL_EVALUATION), (2, COLUMN_FOLD)] {
        let adapted = |step: Step<'_>| match step {
            Step::Answer(number, answer) if number == level => *answer += E::ONE,
            Step::Claimed(number, vector, omega, claim) if number == level => meet(vector, omega, claim),
            _ => (),
        };
        assert_eq!(forger.verdict(adapted), verdict);
    }
}

/// The answer is that of another vector of a list: the rounds then run on it.
#[test]
fn an_answer_of_another_vector_is_not_the_committed_ones() {
    let forger = Forger::of(&of_levels(&[(2, 1, 24, 0), (3, 2, 20, 0)]));
    let mut other = vec![];
    let verdict = forger.verdict(|step| match step {
        Step::Word(1, columns) => {
            // The first half of the positions is the honest codeword.
            let half = columns.len() / 2;
            columns[half..].iter_mut().for_each(|column| column[0] += E::ONE);
        }
        Step::Vector(1, vector, ..) => {
            other = vector.to_vec();
            other[0] += E::ONE;
        }
        Step::Claimed(1, vector, ..) => vector.copy_from_slice(&other),
        _ => (),
    });
    assert_eq!(verdict, FINAL_EVALUATION);
}

#[test]
fn the_last_vector_meets_the_claim_and_the_columns() {
    for case in [usual(), of_levels(&[(2, 2, 30, 3)])] {
        let forger = Forger::of(&case);
        let neither = |step: Step<'_>| {
            if let Step::Last(vector, ..) = step {
                vector[2] += E::ONE;
            }
        };
        assert_eq!(forger.verdict(neither), FINAL_EVALUATION);
        let the_claim = |step: Step<'_>| {
            if let Step::Last(vector, omega, claim) = step {
                vector[2] += E::ONE;
                meet(vector, omega, claim);
            }
        };
        assert_eq!(forger.verdict(the_claim), COLUMN_FOLD);
    }
}

#[test]
fn a_wrong_round_leaves_a_false_claim() {
    let forger = Forger::of(&usual());
    for wrong in 0..forger.open(0, |_| ()).rounds.len() {
        for (at_zero, leading) in [(E::ONE, E::ZERO), (E::ZERO, E::ONE)] {
            let verdict = forger.verdict(|step| match step {
                Step::Round(number, round) if number == wrong => {
                    round.at_zero += at_zero;
                    round.leading += leading;
                }
                _ => (),
            });
            assert_eq!(verdict, FINAL_EVALUATION);
        }
    }
}

#[test]
fn a_nonce_does_the_work_of_its_own_seed() {
    let forger = Forger::of(&usual());
    let codes: Vec<LevelCode> = forger.params.codes().collect();
    for level in [0, 2] {
        let idle = |step: Step<'_>| match step {
            Step::Nonce(number, seed, nonce) if number == level => {
                *nonce = (0..TRIES).find(|&nonce| !does_the_work(&codes[level], seed, nonce));
            }
            _ => (),
        };
        assert_eq!(forger.verdict(idle), GRINDING);
        // One bit short of the work.
        let short = |step: Step<'_>| match step {
            Step::Nonce(number, seed, nonce) if number == level => {
                let less = LevelCode { grinding: codes[level].grinding - 1, ..codes[level] };
                *nonce = (0..TRIES)
                    .find(|&nonce| does_the_work(&less, seed, nonce) && !does_the_work(&codes[level], seed, nonce));
            }
            _ => (),
        };
        assert_eq!(forger.verdict(short), GRINDING);
        // Any nonce that does the work is as good as the smallest.
        let other = |step: Step<'_>| match step {
            Step::Nonce(number, seed, nonce) if number == level => {
                *nonce = (nonce.unwrap() + 1..TRIES).find(|&nonce| does_the_work(&codes[level], seed, nonce));
            }
            _ => (),
        };
        assert_eq!(forger.verdict(other), Ok(()));
    }
}

#[test]
fn a_nonce_is_not_used_again() {
    let forger = Forger::of(&usual());
    let own = forger.open(0, |_| ());
    for seed in 1..6 {
        let of_another_proof = forger.open(seed, |_| ());
        let reused = |step: Step<'_>| {
            if let Step::Nonce(0, _, nonce) = step {
                *nonce = of_another_proof.base.nonce;
            }
        };
        assert_eq!(forger.verdict(reused), GRINDING);
    }
    let of_another_level = |step: Step<'_>| {
        if let Step::Nonce(0, _, nonce) = step {
            *nonce = own.levels[1].nonce;
        }
    };
    assert_eq!(forger.verdict(of_another_level), GRINDING);
    let of_the_first_level = |step: Step<'_>| {
        if let Step::Nonce(2, _, nonce) = step {
            *nonce = own.base.nonce;
        }
    };
    assert_eq!(forger.verdict(of_the_first_level), GRINDING);
}

#[test]
fn a_nonce_is_there_exactly_where_one_is_due() {
    let forger = Forger::of(&usual());
    for (level, sent) in [(0, None), (1, Some(0)), (2, None)] {
        let verdict = forger.verdict(|step| match step {
            Step::Nonce(number, _, nonce) if number == level => *nonce = sent,
            _ => (),
        });
        assert_eq!(verdict, SHAPE);
    }
}
