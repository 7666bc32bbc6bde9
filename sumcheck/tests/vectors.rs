//! Known answers from `fixtures/vectors/generate_sumcheck.py`, which shares no code with the crate.

use ark_ff::{FftField, Field};
use assay_sumcheck::field::{
    E, F, P, centered, e_from_bytes, e_to_bytes, f_from_bytes, f_from_i64, f_from_u64, f_to_bytes, f_to_u64,
};
use assay_sumcheck::product::{Claim, Prover, prove};
use assay_sumcheck::transcript::{Absorbs, First, Follows, Reduction, Step, Transcript};
use serde_json::Value;
use sha3::Shake256;
use sha3::digest::{ExtendableOutput, Update, XofReader};

struct Claimed;
impl Step for Claimed {
    const LABEL: &'static str = "claimed";
}
impl First for Claimed {}
impl Absorbs for Claimed {}
impl Follows<Claimed> for Reduction {}

fn vectors(name: &str) -> Value {
    let path = format!("{}/../fixtures/vectors/sumcheck/{name}", env!("CARGO_MANIFEST_DIR"));
    let vectors = std::fs::read(path).expect("the vectors are there");
    serde_json::from_slice(&vectors).expect("the vectors are JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("{key} is a string"))
}

fn integer(value: &Value, key: &str) -> u64 {
    text(value, key).parse().expect("an integer")
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    assert_eq!(hex.len(), 2 * N);
    std::array::from_fn(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hexadecimal"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn extension(value: &Value, key: &str) -> E {
    e_from_bytes(bytes(text(value, key))).expect("a canonical element")
}

#[test]
fn kat_base_field() {
    let vectors = vectors("field_v1.json");
    assert_eq!(integer(&vectors, "modulus"), P);
    assert_eq!(f_to_u64(F::TWO_ADIC_ROOT_OF_UNITY), integer(&vectors, "root_of_unity_2_32"));
    let cases = vectors["base"].as_array().unwrap();
    assert_eq!(cases.len(), 25);
    for case in cases {
        let (a, b) = (f_from_u64(integer(case, "a")), f_from_u64(integer(case, "b")));
        assert_eq!(f_to_u64(a), integer(case, "a"));
        assert_eq!(f_to_u64(a + b), integer(case, "sum"));
        assert_eq!(f_to_u64(a - b), integer(case, "difference"));
        assert_eq!(f_to_u64(a * b), integer(case, "product"));
        assert_eq!(a.inverse().map(f_to_u64), case["inverse"].as_str().map(|text| text.parse().unwrap()));
        assert_eq!(centered(a), text(case, "centered").parse::<i64>().unwrap());
        assert_eq!(f_from_i64(centered(a)), a);
        assert_eq!(hex(&f_to_bytes(a)), text(case, "bytes"));
        assert_eq!(f_from_bytes(bytes(text(case, "bytes"))), Some(a));
    }
}

#[test]
fn kat_extension_field() {
    let vectors = vectors("field_v1.json");
    let cases = vectors["extension"].as_array().unwrap();
    assert_eq!(cases.len(), 16);
    for case in cases {
        let (a, b) = (extension(case, "a"), extension(case, "b"));
        assert_eq!(hex(&e_to_bytes(a)), text(case, "a"));
        assert_eq!(a * b, extension(case, "product"));
        assert_eq!(a.square(), a * a);
        assert_eq!(a.inverse(), Some(extension(case, "inverse")));
        assert_eq!(a.frobenius_map(1), extension(case, "frobenius"));
        assert_eq!(a.frobenius_map(2), extension(case, "frobenius_squared"));
    }
}

#[test]
fn kat_integers_from_p_on_are_refused() {
    let vectors = vectors("field_v1.json");
    for refused in vectors["not_canonical"].as_array().unwrap() {
        let refused: [u8; 8] = bytes(refused.as_str().unwrap());
        assert_eq!(f_from_bytes(refused), None);
        for place in 0..3 {
            let mut all = [0; 24];
            all[8 * place..8 * place + 8].copy_from_slice(&refused);
            assert_eq!(e_from_bytes(all), None);
        }
    }
}

/// The script's own source of elements.
fn elements(label: &str, count: usize) -> Vec<F> {
    let mut sponge = Shake256::default();
    sponge.update(label.as_bytes());
    let mut stream = sponge.finalize_xof();
    let mut next = || {
        let mut word = [0; 8];
        stream.read(&mut word);
        f_from_bytes(word)
    };
    std::iter::repeat_with(&mut next).flatten().take(count).collect()
}

#[test]
fn kat_transcript_and_sumcheck() {
    let vectors = vectors("transcript_v1.json");
    let mut claimed = Transcript::<Claimed>::start("assay/test/v1");
    claimed.absorb("empty", &[]);
    claimed.absorb("bytes", &(0..200).collect::<Vec<u8>>());
    claimed.absorb_bulk("bulk", &(0..5000_u32).map(|i| (i % 251).to_le_bytes()[0]).collect::<Vec<u8>>());
    claimed.absorb_f("f", &[f_from_u64(0), f_from_u64(1), f_from_i64(-1)]);
    let mut transcript = claimed.advance::<Reduction>();
    assert_eq!(transcript.challenge("a"), extension(&vectors, "first_challenge"));
    assert_eq!(transcript.challenge("a"), extension(&vectors, "second_challenge"));
    assert_eq!(hex(&transcript.seed("seed")), text(&vectors, "seed"));
    let small = |c0, c1, c2| E::new(f_from_i64(c0), f_from_i64(c1), f_from_i64(c2));
    transcript.absorb_e("e", &[small(1, 2, 3), small(-1, 0, 5)]);
    let mut indices = |key: &str, label, count, log_bound| {
        let drawn = transcript.indices(label, count, log_bound);
        let drawn: Vec<Value> = drawn.into_iter().map(|index| index.to_string().into()).collect();
        assert_eq!(Value::Array(drawn), vectors[key]);
    };
    indices("indices_10", "ten bits", 300, 10);
    indices("indices_0", "none", 2, 0);
    indices("indices_64", "all", 3, 64);

    let words = elements("sumcheck", 96);
    let values: Vec<E> = words.chunks_exact(3).map(|c| E::new(c[0], c[1], c[2])).collect();
    let (a, b) = values.split_at(16);
    let mut prover = Prover::new(a.to_vec(), b.to_vec());
    assert_eq!(prover.sum(), extension(&vectors, "sum"));
    let claim = Claim::new(prover.sum());
    let (rounds, point, claim) = prove(&mut prover, claim, 4, &mut transcript);
    let expected = vectors["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), expected.len());
    for ((round, challenge), expected) in rounds.iter().zip(point).zip(expected) {
        let message = [e_to_bytes(round.at_zero), e_to_bytes(round.leading)].concat();
        assert_eq!(hex(&message), text(expected, "message"));
        assert_eq!(challenge, extension(expected, "challenge"));
    }
    assert_eq!(claim.into_value(), extension(&vectors, "final_claim"));
}
