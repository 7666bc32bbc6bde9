//! Messages of an audit that would pass if the challenges stayed what they were, and do not: each is made for
//! the challenges of an honest proof, and then shown to the live transcript. The openings' own are beside
//! their forgers.

use ark_ff::Field;
use assay_commitments::codec::Writer;
use assay_commitments::rows::Profile;
use assay_sumcheck::E;
use assay_sumcheck::F;
use assay_sumcheck::field::{e_mul_f, f_from_i64};
use assay_sumcheck::transcript::Transcript;

use crate::domains;
use crate::fixed::Supplied;
use crate::num::{nearest_integer, power_of_two, real};
use crate::parts::PartDigest;
use crate::products::combination;
use crate::reference::dot;
use crate::sketch::{ClaimValues, SIGNS_WITH_NONCE, Signs, Target};
use crate::steps;
use crate::tolerance::Tolerance;

const OUTPUTS: usize = 700;
const EXPONENT: i32 = -40;

fn products() -> Vec<i64> {
    (0..700).map(|j| (j * 7_919 % 2_003 - 1_001) * 1_000_003_000 + 17).collect()
}

/// The challenges of an audit with this witness and these claims.
fn drawn(witness: &[u8], claims: &[u8]) -> (Signs, E) {
    let transcript = Transcript::<steps::Committed>::start(domains::AUDIT_TRANSCRIPT);
    let (transcript, seed) = steps::witness(transcript, &[PartDigest::of(witness)]);
    let (_, beta) = steps::claims(transcript, &[PartDigest::of(claims)]);
    (Signs::draw(&seed, 0, SIGNS_WITH_NONCE, OUTPUTS), beta)
}

fn row_bytes(row: &[f64]) -> Vec<u8> {
    row.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn supplied_bytes(supplied: &Supplied) -> Vec<u8> {
    let mut out = Writer::new();
    supplied.write(&mut out);
    out.finish()
}

/// The part of `error` that no sign vector sees.
fn unseen(signs: &Signs, error: &[f64]) -> Vec<f64> {
    let unit = |j: usize| (0..error.len()).map(|k| i64::from(j == k)).collect::<Vec<i64>>();
    let columns: Vec<Vec<f64>> = (0..error.len())
        .map(|j| signs.combine(&unit(j)).into_iter().map(|sign| real(i64::try_from(sign).unwrap())).collect())
        .collect();
    let minus = |a: &mut Vec<f64>, b: &[f64]| {
        let share = dot(a, b) / dot(b, b);
        a.iter_mut().zip(b).for_each(|(a, b)| *a -= share * b);
    };
    // Gram-Schmidt.
    let mut basis: Vec<Vec<f64>> = vec![];
    for vector in 0..SIGNS_WITH_NONCE {
        let mut row: Vec<f64> = columns.iter().map(|column| column[vector]).collect();
        basis.iter().for_each(|known| minus(&mut row, known));
        basis.push(row);
    }
    let mut left = error.to_vec();
    basis.iter().for_each(|known| minus(&mut left, known));
    left
}

/// An error of that size in every entry, of any sign.
fn error(size: f64) -> Vec<f64> {
    (0..OUTPUTS).map(|j| if (j * j + j / 7) % 5 < 2 { size } else { -size }).collect()
}

/// Supplied products that are wrong where the signs of the honest ones do not look.
#[test]
fn frozen_supplied_products() {
    let products = products();
    let honest = Supplied::compress(&products);
    let (frozen, _) = drawn(&supplied_bytes(&honest), &[]);
    let step = unseen(&frozen, &error(6.0));
    let mut forged = honest.clone();
    forged.values.iter_mut().zip(&step).for_each(|(value, step)| *value += nearest_integer(*step).unwrap());
    assert!(forged.is_canonical_product());
    let target = Target::supplied(&forged);
    assert!(target.exact_ratio(&products) > 50.0, "{}", target.exact_ratio(&products));

    let within = |signs: &Signs| target.check(signs, &target.claims(signs, &products)).within;
    assert!(within(&frozen), "the recorded signs would let it pass");
    let (live, _) = drawn(&supplied_bytes(&forged), &[]);
    assert!(!within(&live));
}

/// A committed row that is wrong where the signs of the honest one do not look.
#[test]
fn frozen_rows() {
    let products = products();
    let honest: Vec<f64> =
        products.iter().map(|p| Profile::Bf16V1.round_once(real(*p) * power_of_two(EXPONENT))).collect();
    let target = |row: &[f64]| Target::committed(row, &[], EXPONENT, &Tolerance::of(Profile::Bf16V1)).unwrap();
    let (frozen, _) = drawn(&row_bytes(&honest), &[]);
    // What is weighed depends on the row itself: a few rounds settle it.
    let mut forged = honest.clone();
    for _ in 0..6 {
        let weights: Vec<f64> = target(&forged).weights().map(|rho| real(rho.max(1))).collect();
        let exact: Vec<f64> = products.iter().map(|p| real(*p) * power_of_two(EXPONENT)).collect();
        let size = 0.02;
        let weighed: Vec<f64> = error(size).iter().zip(&weights).map(|(error, weight)| error * weight).collect();
        let step = unseen(&frozen, &weighed);
        forged = exact.iter().zip(step.iter().zip(&weights)).map(|(y, (step, weight))| y + step / weight).collect();
    }
    let target = target(&forged);
    assert!(target.exact_ratio(&products) > 5.0, "{}", target.exact_ratio(&products));

    let check = |signs: &Signs| target.check(signs, &target.claims(signs, &products));
    assert!(check(&frozen).within, "the recorded signs would let it pass: {:?}", check(&frozen));
    let (live, _) = drawn(&row_bytes(&forged), &[]);
    assert!(!check(&live).within);
}

/// Claims that are false, and true together under the combination that honest claims led to: the coefficients
/// of the cubic polynomial that has it for a root.
#[test]
fn frozen_claims() {
    let products = products();
    let supplied = Supplied::compress(&products);
    let witness = supplied_bytes(&supplied);
    let target = Target::supplied(&supplied);
    let bytes = |claims: &ClaimValues| -> Vec<u8> {
        claims.sketch.iter().flat_map(|claim| assay_sumcheck::field::f_to_bytes(*claim)).collect()
    };
    let (signs, _) = drawn(&witness, &[]);
    let honest = target.claims(&signs, &products);
    let (_, frozen) = drawn(&witness, &bytes(&honest));
    let mut forged = honest.clone();
    for (claim, step) in forged.sketch.iter_mut().zip(vanishing_at(frozen)) {
        *claim += step;
    }
    assert_ne!(forged, honest);

    // What the opening shows for a combination, and what the claims say it is.
    let holds = |beta: E| {
        let powers = combination(beta, SIGNS_WITH_NONCE);
        let weights = target.output(&signs, &powers);
        let weights = weights.entries();
        let shown: E = weights.iter().zip(&products).map(|(weight, p)| e_mul_f(*weight, f_from_i64(*p))).sum();
        shown == forged.value(&powers)
    };
    assert!(holds(frozen), "the recorded combination would let it pass");
    let (_, live) = drawn(&witness, &bytes(&forged));
    assert!(!holds(live));
}

/// The coefficients of a polynomial of degree three over the base field that vanishes at `x`: by the rule of
/// Cramer, from the coordinates of its powers.
fn vanishing_at(x: E) -> [F; 4] {
    let powers = [E::ONE, x, x.square(), x.square() * x].map(|power| [power.c0, power.c1, power.c2]);
    let minor = |left_out: usize| {
        let [a, b, c] = match left_out {
            0 => [powers[1], powers[2], powers[3]],
            1 => [powers[0], powers[2], powers[3]],
            2 => [powers[0], powers[1], powers[3]],
            _ => [powers[0], powers[1], powers[2]],
        };
        a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1])
    };
    [minor(0), -minor(1), minor(2), -minor(3)]
}
