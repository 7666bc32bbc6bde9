//! How often a forger that goes for luck has it: the bounds on queries are met, and they are not vacuous.

use super::*;
use crate::params::Regime;

const TRIES: u32 = 3000;

/// Runs a forger on many transcripts. Whoever is not lucky gets the code; the rate is that which is expected, and
/// no more than the bound.
fn assert_rate(
    name: &str,
    forger: &Forger,
    level: usize,
    regime: Regime,
    agreeing: usize,
    unlucky: OpeningError,
    deviate: impl Fn(Step<'_>),
) {
    let code = forger.params.codes().nth(level).unwrap();
    assert!(!code.opens_all());
    let mut accepted = 0_u32;
    for seed in 0..TRIES {
        match forger.verify(&forger.open(seed.into(), &deviate), seed.into()) {
            Ok(()) => accepted += 1,
            Err(error) => assert_eq!(error, unlucky, "{name}"),
        }
    }
    let queries = f64::from(code.queries);
    let share = f64::from(u32::try_from(agreeing).unwrap()) / f64::from(u32::try_from(code.codeword_length()).unwrap());
    let expected = share.powf(queries);
    let bound = (-queries * regime.bits_per_query(&code).to_f64()).exp2();
    let rate = f64::from(accepted) / f64::from(TRIES);
    let deviation = (expected * (1.0 - expected) / f64::from(TRIES)).sqrt();
    println!(
        "{name}: accepted {accepted} of {TRIES}, {rate:.4}; expected {expected:.4} +- {deviation:.4}; bound {bound:.4}"
    );
    assert!((rate - expected).abs() < 4.0 * deviation, "{name}: {rate} where {expected} was expected");
    assert!(expected <= bound * 1.0001, "{name}: {expected} is above {bound}");
}

/// A case with one polynomial and one claim.
fn one(levels: &[(u32, u32, u32, u32)]) -> Forger {
    Forger::of(&Case::new(&[(8, 8)], 1, &[vec![(0, 0)]], 11, |layout| code(layout, levels)))
}

/// A commitment to a word that lies between two codewords: other weights, of which `agreeing` columns are shown; the rest
/// are of the true ones. The claim is true for the other weights and false for the true ones.
fn between(levels: &[(u32, u32, u32, u32)], agreeing: usize) -> Forger {
    let mut forger = one(levels);
    let base = forger.params.base();
    let message = 1 << base.message_log();
    // As many symbols as a message is long, less one, are the same in both.
    let zeros = vanishing(&base, message);
    for (column, step) in zeros.iter().enumerate() {
        for row in 0..base.rows() {
            forger.polynomials[0][row + base.rows() * column] += step.c0 * F::from(row as u64 + 2);
        }
    }
    let other = base_columns(&forger.polynomials[0], &base);
    let columns = &mut forger.words[0].columns;
    assert_eq!(columns.iter().zip(&other).filter(|(own, other)| own == other).count(), message - 1);
    columns[..agreeing].clone_from_slice(&other[..agreeing]);
    forger.words[0] = Word::new(columns.clone());
    let differing = forger.words[0].columns.iter().zip(&other).filter(|(own, other)| own != other).count();
    assert_eq!(differing, base.codeword_length() - agreeing);
    let claim = &forger.claims[0];
    let value = forger.value(claim);
    assert_ne!(value, claim.value);
    forger.claims[0].value = value;
    forger.commit();
    forger
}

/// The most columns that can agree where the regime counts a word as too far from the code.
fn most_agreeing(regime: Regime, code: &LevelCode) -> usize {
    let length = code.codeword_length();
    let bound = (-regime.bits_per_query(code).to_f64()).exp2();
    (0..=length)
        .rev()
        .find(|&agreeing| {
            f64::from(u32::try_from(agreeing).unwrap()) <= bound * 1.0001 * f64::from(u32::try_from(length).unwrap())
        })
        .unwrap()
}

/// At half the distance less one column, the word has the true weights as its nearest codeword, and the forger opens it as
/// the other weights: as lucky as the bound allows.
#[test]
fn a_word_between_two_codewords_opens_as_often_as_the_bound_says() {
    for (name, regime, levels, unlucky) in [
        (
            "base, unique decoding, one level, 2 queries",
            Regime::UniqueDecoding,
            &[(3, 1, 2, 0)][..],
            OpeningError::ColumnFold,
        ),
        (
            "base, unique decoding, one level, 5 queries",
            Regime::UniqueDecoding,
            &[(3, 1, 5, 0)],
            OpeningError::ColumnFold,
        ),
        (
            "base, unique decoding, rate 1/4, 3 queries",
            Regime::UniqueDecoding,
            &[(3, 2, 3, 0)],
            OpeningError::ColumnFold,
        ),
        (
            "base, unique decoding, two levels, 2 queries",
            Regime::UniqueDecoding,
            &[(2, 1, 2, 0), (2, 1, 4, 0)],
            OpeningError::FinalEvaluation,
        ),
        ("base, Johnson, rate 1/4, 2 queries", Regime::Johnson, &[(2, 2, 2, 0)], OpeningError::ColumnFold),
        (
            "base, Johnson, rate 1/8, two levels, 2 queries",
            Regime::Johnson,
            &[(2, 3, 2, 0), (2, 1, 4, 0)],
            OpeningError::FinalEvaluation,
        ),
    ] {
        let base = one(levels).params.base();
        let agreeing = most_agreeing(regime, &base);
        let forger = between(levels, agreeing);
        assert_rate(name, &forger, 0, regime, agreeing, unlucky, |_| ());
    }
}

/// With the queries of a real code it has no luck at all.
#[test]
fn a_word_beyond_the_radius_never_opens() {
    for agreeing in [10, 20, 30, 40, 50] {
        for (levels, code) in [
            (&[(2, 2, 60, 0)][..], OpeningError::ColumnFold),
            (&[(2, 2, 60, 0), (2, 2, 14, 0)], OpeningError::FinalEvaluation),
        ] {
            let forger = between(levels, agreeing.max(15));
            for seed in 0..60 {
                assert_eq!(forger.verify(&forger.open(seed, |_| ()), seed), Err(code));
            }
        }
    }
}

/// Corrupt columns within the radius are found as well when they are queried, and the claims that then pass are those of
/// the nearest codeword.
#[test]
fn a_word_within_the_radius_opens_as_its_codeword_only() {
    let levels = [(3, 1, 2, 0)];
    let mut forger = one(&levels);
    for position in [3, 8, 12] {
        forger.words[0].columns[position].fill(F::from(5));
    }
    forger.words[0] = Word::new(forger.words[0].columns.clone());
    forger.commit();
    let mut accepted = 0;
    for seed in 0..400 {
        match forger.verify(&forger.open(seed, |_| ()), seed) {
            Ok(()) => accepted += 1,
            Err(error) => assert_eq!(error, OpeningError::ColumnFold),
        }
    }
    // (13 / 16)^2 of 400.
    assert!((224..=304).contains(&accepted), "{accepted}");
    forger.claims[0].value += E::ONE;
    for seed in 0..400 {
        assert_eq!(forger.verify(&forger.open(seed, |_| ()), seed), FINAL_EVALUATION);
    }
}

/// A false claim, and a first folded vector that meets it and agrees with the fold wherever a polynomial can.
#[test]
fn a_folded_vector_that_agrees_where_it_can_passes_no_oftener_than_the_rate() {
    let mut forger = one(&[(2, 1, 2, 0), (2, 1, 4, 0)]);
    forger.claims[0].value += E::ONE;
    let base = forger.params.base();
    let direction = vanishing(&base, 16);
    assert_rate(
        "first fold, 2 queries",
        &forger,
        0,
        Regime::UniqueDecoding,
        15,
        OpeningError::FinalEvaluation,
        |step| {
            if let Step::Vector(1, vector, omega, claim) = step {
                meet_along(vector, omega, claim, &direction);
            }
        },
    );
}

/// The same one level later: the committed vector is the fold, the rounds go on with another.
#[test]
fn rounds_on_another_vector_pass_no_oftener_than_the_rate() {
    let mut forger = one(&[(1, 1, 4, 0), (2, 1, 2, 0)]);
    forger.claims[0].value += E::ONE;
    let level = forger.params.codes().nth(1).unwrap();
    let zeros = vanishing(&level, 8);
    let direction: Vec<E> =
        zeros.iter().flat_map(|&zero| (0..4_u64).map(move |row| e_mul_f(zero, F::from(3 * row + 1)))).collect();
    assert_rate(
        "rounds of level 1, 2 queries",
        &forger,
        1,
        Regime::UniqueDecoding,
        7,
        OpeningError::ColumnFold,
        |step| {
            if let Step::Claimed(1, vector, omega, claim) = step {
                meet_along(vector, omega, claim, &direction);
            }
        },
    );
}

#[test]
fn a_last_vector_that_agrees_where_it_can_passes_no_oftener_than_the_rate() {
    let mut forger = one(&[(3, 1, 2, 0)]);
    forger.claims[0].value += E::ONE;
    let direction = vanishing(&forger.params.base(), 8);
    assert_rate("last vector, 2 queries", &forger, 0, Regime::UniqueDecoding, 7, OpeningError::ColumnFold, |step| {
        if let Step::Last(vector, omega, claim) = step {
            meet_along(vector, omega, claim, &direction);
        }
    });
}

/// A level's word with so many columns replaced as no longer lie within half the distance.
#[test]
fn a_corrupt_level_passes_as_often_as_the_bound_says() {
    let forger = one(&[(1, 1, 4, 0), (2, 1, 3, 0)]);
    assert_rate(
        "word of level 1, 3 queries",
        &forger,
        1,
        Regime::UniqueDecoding,
        11,
        OpeningError::ColumnFold,
        |step| {
            if let Step::Word(1, columns) = step {
                columns[..5].iter_mut().for_each(|column| column[1] += E::ONE);
            }
        },
    );
    let forger = one(&[(1, 1, 4, 0), (1, 2, 2, 0), (1, 1, 3, 0)]);
    let level = forger.params.codes().nth(1).unwrap();
    let agreeing = most_agreeing(Regime::Johnson, &level);
    assert_rate(
        "word of level 1 of 2, 2 queries",
        &forger,
        1,
        Regime::Johnson,
        agreeing,
        OpeningError::FinalEvaluation,
        |step| {
            if let Step::Word(1, columns) = step {
                columns[agreeing..].iter_mut().for_each(|column| column[1] += E::ONE);
            }
        },
    );
}

/// Grinding costs the forger tries: with a nonce that does no work it would have as many draws as it likes.
#[test]
fn a_forger_that_draws_again_pays_for_it() {
    let mut forger = one(&[(3, 1, 6, 6)]);
    forger.claims[0].value += E::ONE;
    let base = forger.params.base();
    let direction = vanishing(&base, 8);
    // The nonce whose positions are those at which the last vector agrees, whether or not it does the work.
    let (mut free, mut paid) = (0, 0);
    for seed in 0..40_u64 {
        for nonce in 0..50_u64 {
            let mut working = false;
            let opening = forger.open(seed, |step| match step {
                Step::Last(vector, omega, claim) => meet_along(vector, omega, claim, &direction),
                Step::Nonce(_, key, sent) => {
                    working = does_the_work(&base, key, nonce);
                    *sent = Some(nonce);
                }
                _ => (),
            });
            let verdict = forger.verify(&opening, seed);
            assert_eq!(verdict == GRINDING, !working);
            let agrees = opening.base.columns[0].iter().all(|column| forger.words[0].columns[..7].contains(column));
            free += u32::from(agrees);
            paid += u32::from(verdict == Ok(()));
        }
    }
    println!("draws that agree: {free} of 2000, accepted {paid}");
    assert!(free > 0 && paid * 8 < free.max(8), "{free} {paid}");
}
