//! Properties of the field, the transcript, multilinear polynomials and the sumcheck.

use ark_ff::{AdditiveGroup, BigInt, Field, PrimeField, SmallFp, SmallFpConfig};
use assay_sumcheck::field::{
    E, F, P, ProductSum, centered, dot_e, dot_ef, dot_f, e_from_bytes, e_from_f, e_mul_f, e_to_bytes, f_from_bytes,
    f_from_halves, f_from_i64, f_from_u64, f_to_bytes, f_to_halves, f_to_u64,
};
use assay_sumcheck::multilinear::{eq_at, eq_table, evaluate, evaluate_f, fold};
use assay_sumcheck::product::{Claim, Prover, prove, verify};
use assay_sumcheck::transcript::{Absorbs, Event, First, Follows, Operation, Reduction, Squeezes, Step, Transcript};
use proptest::collection::vec;
use proptest::prelude::*;

mod derived {
    //! The configuration as the library's macro writes it: slower, and not ours.
    use ark_ff::{SmallFp, SmallFpConfig};

    #[derive(SmallFpConfig)]
    #[modulus = "18446744069414584321"]
    #[generator = "7"]
    pub(crate) struct Config;

    pub(crate) type Derived = SmallFp<Config>;
}
use derived::Derived;

struct Claimed;
impl Step for Claimed {
    const LABEL: &'static str = "claimed";
}
impl First for Claimed {}
impl Absorbs for Claimed {}
impl Squeezes for Claimed {}
impl Follows<Claimed> for Reduction {}

fn reduction() -> Transcript<Reduction> {
    Transcript::<Claimed>::start("test").advance()
}

/// Integers, with those near the borders of words and of the field as often as all others.
fn words() -> impl Strategy<Value = u64> {
    let edges =
        [0, 1, 2, 0xffff_fffe, 0xffff_ffff, 1 << 32, 1 << 63, P / 2, P / 2 + 1, P - (1 << 32), P - 1, P, u64::MAX];
    prop_oneof![any::<u64>(), proptest::sample::select(edges.to_vec())]
}

fn base() -> impl Strategy<Value = F> {
    words().prop_map(f_from_u64)
}

fn extension() -> impl Strategy<Value = E> {
    [base(), base(), base()].prop_map(|[c0, c1, c2]| E::new(c0, c1, c2))
}

fn same<A: SmallFpConfig<T = u64>, B: SmallFpConfig<T = u64>>(a: SmallFp<A>, b: SmallFp<B>) -> bool {
    a.value == b.value && a.into_bigint() == b.into_bigint()
}

#[test]
fn constants_agree_with_the_derived_configuration() {
    use ark_ff::FftField;
    assert!(same(F::ONE, Derived::ONE));
    assert!(same(F::NEG_ONE, Derived::NEG_ONE));
    assert!(same(F::ZERO, Derived::ZERO));
    assert!(same(<F as FftField>::GENERATOR, <Derived as FftField>::GENERATOR));
    assert!(same(F::TWO_ADIC_ROOT_OF_UNITY, Derived::TWO_ADIC_ROOT_OF_UNITY));
    assert_eq!(F::TWO_ADICITY, Derived::TWO_ADICITY);
    assert_eq!(F::MODULUS, Derived::MODULUS);
}

proptest! {
    #[test]
    fn prop_arithmetic_agrees_with_the_derived_configuration(x in words(), y in words()) {
        let (a, b) = (f_from_u64(x), f_from_u64(y));
        let (c, d) = (Derived::new(x), Derived::new(y));
        prop_assert!(same(a, c));
        prop_assert!(same(a + b, c + d));
        prop_assert!(same(a - b, c - d));
        prop_assert!(same(a * b, c * d));
        prop_assert!(same(-a, -c));
        prop_assert!(same(a.double(), c.double()));
        prop_assert!(same(a.square(), c.square()));
        prop_assert_eq!(a.inverse().map(f_to_u64), c.inverse().map(|inverse| inverse.into_bigint().0[0]));
        prop_assert_eq!(F::from_bigint(BigInt([x])).is_some(), Derived::from_bigint(BigInt([x])).is_some());
    }

    #[test]
    fn prop_bytes_are_canonical(bytes in any::<[u8; 8]>(), a in base(), e in extension()) {
        prop_assert_eq!(f_from_bytes(f_to_bytes(a)), Some(a));
        prop_assert_eq!(e_from_bytes(e_to_bytes(e)), Some(e));
        prop_assert_eq!(f_from_bytes(bytes).map(f_to_bytes), (u64::from_le_bytes(bytes) < P).then_some(bytes));
    }

    #[test]
    fn prop_signed_integers_come_back(value in -(i64::MAX - (1 << 31))..=(i64::MAX - (1 << 31)), any in any::<i64>()) {
        prop_assert_eq!(centered(f_from_i64(value)), value);
        prop_assert_eq!(f_from_i64(any) + f_from_i64(any.wrapping_neg()), if any == i64::MIN { f_from_i64(any).double() } else { F::ZERO });
    }

    #[test]
    fn prop_extension_is_a_field(a in extension(), b in extension(), c in extension(), f in base()) {
        prop_assert_eq!(a * (b + c), a * b + a * c);
        prop_assert_eq!((a * b) * c, a * (b * c));
        prop_assert_eq!(a.square(), a * a);
        prop_assert_eq!(e_mul_f(a, f), a * e_from_f(f));
        prop_assert_eq!(a.inverse().is_none(), a == E::ZERO);
        prop_assert_eq!(a.inverse().map(|inverse| inverse * a), (a != E::ZERO).then_some(E::ONE));
    }

    #[test]
    fn prop_unreduced_sums_are_sums(pairs in vec((base(), extension(), extension()), 0..200), left in 0..200_usize) {
        let f: Vec<F> = pairs.iter().map(|pair| pair.0).collect();
        let (e, g): (Vec<E>, Vec<E>) = pairs.iter().map(|&(_, e, g)| (e, g)).unzip();
        prop_assert_eq!(dot_f(&f, &f), f.iter().map(F::square).sum::<F>());
        prop_assert_eq!(dot_ef(&e, &f), e.iter().zip(&f).map(|(&e, &f)| e * e_from_f(f)).sum::<E>());
        prop_assert_eq!(dot_e(&e, &g), e.iter().zip(&g).map(|(&e, &g)| e * g).sum::<E>());
        // The shorter one counts.
        let short = &e[..left.min(e.len())];
        prop_assert_eq!(dot_e(short, &g), dot_e(short, &g[..short.len()]));
        prop_assert_eq!(dot_e(&g, short), dot_e(short, &g));
        prop_assert_eq!(dot_ef(short, &f), dot_ef(short, &f[..short.len()]));
        let halves = f.iter().map(|&f| f_to_halves(f)).fold([0; 2], |[a, b], [c, d]| [a + c, b + d]);
        prop_assert_eq!(f_from_halves(halves), f.iter().sum::<F>());
        prop_assert_eq!(f_from_halves(halves.map(|half| 1024 * half)), f_from_u64(1024) * f.iter().sum::<F>());
    }
}

#[test]
fn a_long_sum_of_the_largest_products_does_not_overflow() {
    let mut sum = ProductSum::default();
    let count = 100_000;
    for _ in 0..count {
        sum.add(f_from_i64(-1), f_from_i64(-1));
    }
    assert_eq!(sum.total(), f_from_u64(count));
}

/// `eq(point, x)` by its definition.
fn eq(point: &[E], x: usize) -> E {
    let factor = |(i, &r): (usize, &E)| if x >> i & 1 == 1 { r } else { E::ONE - r };
    point.iter().enumerate().map(factor).product()
}

proptest! {
    #[test]
    fn prop_multilinear_values_agree_with_the_definition(
        point in vec(extension(), 0..6),
        seed in extension(),
        length in 0_usize..70,
    ) {
        let mut power = E::ONE;
        let values: Vec<E> = (0..length).map(|_| { power *= seed; power }).collect();
        let bases: Vec<F> = values.iter().map(|value| value.c0).collect();
        let size = 1 << point.len();
        let expected: E = values.iter().take(size).enumerate().map(|(x, &value)| eq(&point, x) * value).sum();
        prop_assert_eq!(evaluate(&values[..length.min(size)], &point), expected);
        let expected: E = bases.iter().take(size).enumerate().map(|(x, &value)| e_mul_f(eq(&point, x), value)).sum();
        prop_assert_eq!(evaluate_f(&bases, &point), expected);
        let table: Vec<E> = (0..size).map(|x| eq(&point, x)).collect();
        prop_assert_eq!(eq_table(&point), table.clone());
        prop_assert!((0..size).all(|x| eq_at(&point, x) == table[x]));
    }

    #[test]
    fn prop_folding_fixes_the_lowest_variable(values in vec(extension(), 0..20), point in vec(extension(), 5)) {
        let mut folded = values.clone();
        fold(&mut folded, point[0]);
        prop_assert_eq!(evaluate(&folded, &point[1..]), evaluate(&values, &point));
    }

    #[test]
    fn prop_honest_sumcheck_ends_in_the_product(
        a in vec(extension(), 1..40),
        b in vec(extension(), 1..40),
        stop in 0_usize..6,
    ) {
        let count = 6;
        let mut prover = Prover::new(a.clone(), b.clone());
        let sum = prover.sum();
        let mut transcript = reduction();
        let (mut rounds, mut point, claim) = prove(&mut prover, Claim::new(sum), stop, &mut transcript);
        let (more, further, claim) = prove(&mut prover, claim, count - stop, &mut transcript);
        rounds.extend(more);
        point.extend(further);
        prop_assert_eq!(claim.into_value(), evaluate(&a, &point) * evaluate(&b, &point));

        let mut other = reduction();
        let (seen, claim) = verify(Claim::new(sum), &rounds, &mut other);
        prop_assert_eq!(&seen, &point);
        prop_assert_eq!(claim.into_value(), evaluate(&a, &point) * evaluate(&b, &point));
        prop_assert_eq!(other.log(), transcript.log());
    }

    #[test]
    fn prop_wrong_sums_and_messages_end_in_a_false_claim(
        a in vec(extension(), 16),
        b in vec(extension(), 16),
        round in 0_usize..5,
        leading in any::<bool>(),
        error in extension().prop_filter("an error", |error| *error != E::ZERO),
    ) {
        let mut prover = Prover::new(a.clone(), b.clone());
        let sum = prover.sum();
        let (mut rounds, _, _) = prove(&mut prover, Claim::new(sum), 4, &mut reduction());
        // The fifth place is the claim itself.
        let claimed = match rounds.get_mut(round) {
            Some(round) if leading => { round.leading += error; sum }
            Some(round) => { round.at_zero += error; sum }
            None => sum + error,
        };
        let (point, claim) = verify(Claim::new(claimed), &rounds, &mut reduction());
        prop_assert_ne!(claim.into_value(), evaluate(&a, &point) * evaluate(&b, &point));
    }
}

#[test]
fn every_part_of_a_record_changes_the_challenge() {
    let challenge = |domain: &str, record: &dyn Fn(&mut Transcript<Claimed>), label| {
        let mut transcript = Transcript::<Claimed>::start(domain);
        record(&mut transcript);
        transcript.challenge(label)
    };
    let mut seen = vec![
        challenge("a", &|_| {}, "c"),
        challenge("b", &|_| {}, "c"),
        challenge("a", &|_| {}, "d"),
        challenge("a", &|t| t.absorb("x", b""), "c"),
        challenge("a", &|t| t.absorb("x", b"y"), "c"),
        challenge("a", &|t| t.absorb("xy", b""), "c"),
        challenge("a", &|t| t.absorb_bulk("x", b"y"), "c"),
        challenge(
            "a",
            &|t| {
                t.absorb("x", b"y");
                t.absorb("x", b"");
            },
            "c",
        ),
        challenge(
            "a",
            &|t| {
                t.absorb("x", b"");
                t.absorb("x", b"y");
            },
            "c",
        ),
        challenge(
            "a",
            &|t| {
                t.seed("x");
            },
            "c",
        ),
        challenge(
            "a",
            &|t| {
                t.indices("x", 1, 3);
            },
            "c",
        ),
        challenge(
            "a",
            &|t| {
                t.indices("x", 1, 4);
            },
            "c",
        ),
        challenge(
            "a",
            &|t| {
                t.indices("x", 2, 4);
            },
            "c",
        ),
        Transcript::<Claimed>::start("a").advance::<Reduction>().challenge("c"),
    ];
    let mut transcript = Transcript::<Claimed>::start("a");
    transcript.challenge("c");
    seen.push(transcript.challenge("c"));
    let distinct: std::collections::BTreeSet<[u8; 24]> = seen.iter().map(|&challenge| e_to_bytes(challenge)).collect();
    assert_eq!(distinct.len(), seen.len());
}

#[test]
fn the_log_names_every_record() {
    let mut transcript = Transcript::<Claimed>::start("domain");
    transcript.absorb_f("f", &[F::ONE; 3]);
    transcript.absorb_bulk("bulk", &[0; 100]);
    let mut transcript = transcript.advance::<Reduction>();
    transcript.challenge("c");
    transcript.indices("i", 7, 5);
    let event = |operation, label, length| Event { operation, label, length };
    let expected = [
        event(Operation::Start, "claimed", 6),
        event(Operation::Absorb, "f", 24),
        event(Operation::Bulk, "bulk", 100),
        event(Operation::Step, "reduction", 0),
        event(Operation::Squeeze, "c", 1),
        event(Operation::Squeeze, "i", 7),
    ];
    assert_eq!(transcript.log(), expected);
}

#[test]
fn indices_stay_below_their_bound_and_reach_it() {
    let drawn = reduction().indices("i", 4000, 5);
    assert_eq!(drawn.len(), 4000);
    assert!(drawn.iter().all(|&index| index < 32));
    assert!((0..32).all(|index| drawn.contains(&index)));
}

/// What a protocol does with its transcript, one after the other.
#[derive(Clone, Debug)]
enum Act {
    Message(&'static str, Vec<u8>),
    Bulk(&'static str, Vec<u8>),
    Challenge(&'static str),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let label = || prop::sample::select(vec!["a", "b", "ab"]);
    let bytes = || vec(any::<u8>(), 0..5);
    let act = prop_oneof![
        (label(), bytes()).prop_map(|(label, bytes)| Act::Message(label, bytes)),
        (label(), bytes()).prop_map(|(label, bytes)| Act::Bulk(label, bytes)),
        label().prop_map(Act::Challenge),
    ];
    vec(act, 1..24)
}

/// The challenges of a protocol that leaves one of its acts out, by the act that draws them.
fn challenges(acts: &[Act], left_out: Option<usize>) -> Vec<(usize, E)> {
    let mut transcript = reduction();
    let mut drawn = vec![];
    for (number, act) in acts.iter().enumerate().filter(|(number, _)| Some(*number) != left_out) {
        match act {
            Act::Message(label, bytes) => transcript.absorb(label, bytes),
            Act::Bulk(label, bytes) => transcript.absorb_bulk(label, bytes),
            Act::Challenge(label) => drawn.push((number, transcript.challenge(label))),
        }
    }
    drawn
}

proptest! {
    /// A verifier that leaves out a message, any message, has no later challenge in common with the prover.
    #[test]
    fn prop_leaving_out_a_message_changes_every_later_challenge(acts in acts()) {
        let own = challenges(&acts, None);
        for left_out in 0..acts.len() {
            let others = challenges(&acts, Some(left_out));
            for (number, challenge) in &own {
                let other = others.iter().find(|(other, _)| other == number).map(|(_, other)| other);
                match number.cmp(&left_out) {
                    std::cmp::Ordering::Less => prop_assert_eq!(other, Some(challenge)),
                    std::cmp::Ordering::Equal => prop_assert_eq!(other, None),
                    std::cmp::Ordering::Greater => prop_assert_ne!(other, Some(challenge)),
                }
            }
        }
    }
}
