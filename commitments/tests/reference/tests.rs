//! What the reference is right about by itself.

use std::collections::BTreeMap;

use serde_json::Value;

use super::cases::{Draws, Plan, changed};
use super::code::{Code, Level, codeword, commit, entries, layout, point, sample_point};
use super::field::{
    E, ONE, P, e_add, e_bytes, e_mul, e_sub, e_sum, eq, f_bytes, f_from_i64, f_mul, f_pow, f_sub, fold_all, horner,
    number, powers,
};
use super::merkle::{Hash, hasher, leaf, root, root_of, siblings};
use super::proof::{Proof, number_log};
use super::prover::{forge, open};
use super::statement::Statement;
use super::transcript::Transcript;
use super::verifier::{Outcome, is_nonce, verify};

fn vectors(name: &str) -> Value {
    let path = format!("{}/../fixtures/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).expect("the vectors are there")).expect("the vectors are JSON")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn element(value: &Value) -> E {
    let digits = value.as_str().expect("a string");
    let coordinate =
        |i: usize| u64::from_str_radix(&digits[16 * i..16 * i + 16], 16).expect("hexadecimal").swap_bytes();
    [coordinate(0), coordinate(1), coordinate(2)]
}

#[test]
fn products_and_inverses_are_those_of_the_vectors() {
    for case in vectors("sumcheck/field_v1.json")["extension"].as_array().unwrap() {
        let [a, b, product, inverse, frobenius] =
            ["a", "b", "product", "inverse", "frobenius"].map(|key| element(&case[key]));
        assert_eq!(e_mul(a, b), product);
        assert_eq!(e_mul(a, inverse), ONE);
        assert_eq!(hex(&e_bytes(&[a])), case["a"].as_str().unwrap());
        // x^p sends X to a third root of unity times X.
        let third = f_pow(7, (P - 1) / 3);
        assert_eq!([a[0], f_mul(a[1], third), f_mul(a[2], f_mul(third, third))], frobenius);
    }
    for case in vectors("sumcheck/field_v1.json")["base"].as_array().unwrap() {
        let [a, b, product, difference] =
            ["a", "b", "product", "difference"].map(|key| case[key].as_str().unwrap().parse::<u64>().unwrap());
        assert_eq!((f_mul(a, b), f_sub(a, b)), (product, difference));
        assert_eq!(f_from_i64(case["centered"].as_str().unwrap().parse().unwrap()), a);
    }
}

#[test]
fn the_extension_is_a_ring_in_which_x_cubed_is_seven() {
    let x = [0, 1, 0];
    assert_eq!(e_mul(x, e_mul(x, x)), [7, 0, 0]);
    let mut draws = Draws::new(0);
    for _ in 0..100 {
        let [a, b, c] = [(); 3].map(|()| draws.element());
        assert_eq!(e_mul(a, e_mul(b, c)), e_mul(e_mul(a, b), c));
        assert_eq!(e_mul(a, b), e_mul(b, a));
        assert_eq!(e_mul(a, e_add(b, c)), e_add(e_mul(a, b), e_mul(a, c)));
        assert_eq!(e_mul(e_sub(a, b), e_add(a, b)), e_sub(e_mul(a, a), e_mul(b, b)));
    }
}

#[test]
fn folding_is_the_sum_over_the_cube() {
    let mut draws = Draws::new(1);
    let values: Vec<E> = (0..16).map(|_| draws.element()).collect();
    let at: Vec<E> = (0..4).map(|_| draws.element()).collect();
    let sum = e_sum(values.iter().enumerate().map(|(vertex, &value)| e_mul(value, eq(&at, vertex))));
    assert_eq!(fold_all(&values, &at), sum);
    let corner: Vec<E> = [0, 1, 1, 0].map(|bit| [bit, 0, 0]).to_vec();
    assert_eq!(fold_all(&values, &corner), values[6]);
    // The product that the document gives for powers.
    let x = draws.element();
    let squares = [x, e_mul(x, x), powers(x, 5)[4], powers(x, 9)[8]];
    let factors = at.iter().zip(squares).map(|(&z, square)| e_add(e_sub(ONE, z), e_mul(z, square)));
    assert_eq!(fold_all(&powers(x, 16), &at), factors.fold(ONE, e_mul));
}

#[test]
fn answers_of_the_transcript_are_those_of_the_vectors() {
    let expected = vectors("sumcheck/transcript_v1.json");
    let mut transcript = Transcript::start("assay/test/v1", "claimed");
    transcript.absorb("empty", b"");
    transcript.absorb("bytes", &(0..200).collect::<Vec<u8>>());
    transcript.bulk("bulk", &(0..5000_u32).map(|i| u8::try_from(i % 251).unwrap()).collect::<Vec<u8>>());
    transcript.absorb("f", &f_bytes(&[0, 1, P - 1]));
    transcript.step("reduction");
    assert_eq!(transcript.challenge("a"), element(&expected["first_challenge"]));
    assert_eq!(transcript.challenge("a"), element(&expected["second_challenge"]));
    assert_eq!(hex(&transcript.seed("seed")), expected["seed"].as_str().unwrap());
    transcript.absorb("e", &e_bytes(&[[1, 2, 3], [P - 1, 0, 5]]));
    for (label, key, count, log_bound) in
        [("ten bits", "indices_10", 300, 10), ("none", "indices_0", 2, 0), ("all", "indices_64", 3, 64)]
    {
        let drawn: Vec<Value> =
            transcript.indices(label, count, log_bound).iter().map(|index| index.to_string().into()).collect();
        assert_eq!(Value::from(drawn), expected[key]);
    }
}

#[test]
fn trees_are_those_of_the_vectors() {
    let roots = &vectors("commitments/merkle_v1.json")["roots"];
    let leaves: Vec<Hash> = (0..8_u64).map(|i| blake3::hash(&i.to_le_bytes()).into()).collect();
    for count in [1, 2, 4, 8] {
        assert_eq!(hex(&root(&leaves[..count])), roots[count - 1].as_str().unwrap());
    }
}

#[test]
fn hashes_lead_from_leaves_to_a_tree_built_by_hand() {
    let leaves: Vec<Hash> = (0..8_u8).map(|i| [i; 32]).collect();
    let node = |left: Hash, right: Hash| -> Hash {
        hasher("assay/merkle-node/v1").update(&left).update(&right).finalize().into()
    };
    let [a, b, c, d] = [0, 2, 4, 6].map(|i| node(leaves[i], leaves[i + 1]));
    let top = node(node(a, b), node(c, d));
    let expected: Hash =
        hasher("assay/merkle-root/v1").update(&[8, 0, 0, 0, 0, 0, 0, 0]).update(&top).finalize().into();
    assert_eq!(root(&leaves), expected);
    for (places, hashes) in [
        (vec![1, 4, 5], vec![leaves[0], b, d]),
        (vec![2, 7], vec![leaves[3], leaves[6], a, c]),
        (vec![6, 7], vec![c, node(a, b)]),
        ((0..8).collect(), vec![]),
    ] {
        assert_eq!(siblings(&leaves, &places), hashes);
        let opened: BTreeMap<usize, Hash> = places.iter().map(|&place| (place, leaves[place])).collect();
        assert_eq!(root_of(8, &opened, &hashes), Ok(expected));
        let more = [hashes.as_slice(), &[[9; 32]]].concat();
        assert!(root_of(8, &opened, &more).is_err());
        if let Some((_, fewer)) = hashes.split_last() {
            assert!(root_of(8, &opened, fewer).is_err());
        }
    }
    assert!(root_of(8, &BTreeMap::new(), &[]).is_err());
    assert!(root_of(8, &BTreeMap::from([(8, leaves[0])]), &[a, b, c]).is_err());
}

#[test]
fn a_leaf_is_padded_to_blocks() {
    let bytes: Vec<u8> = [3_u64, 11, 12, 0, 0, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let expected = *hasher("assay/codeword-column/v1").update(&bytes).finalize().as_bytes();
    assert_eq!(leaf(0, 3, &[[11, 0, 0], [12, 0, 0]]), expected);
    let bytes: Vec<u8> = [3_u64, 11, 0, 1, 12, 5, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
    let expected = *hasher("assay/codeword-column/v1").update(&bytes).finalize().as_bytes();
    assert_eq!(leaf(1, 3, &[[11, 0, 1], [12, 5, 0]]), expected);
}

#[test]
fn positions_are_in_the_order_of_reversed_bits() {
    let w = f_pow(7, (P - 1) / 8);
    let order: Vec<u64> = (0..8).map(|position| point(3, position)).collect();
    assert_eq!(order, [0, 4, 2, 6, 1, 5, 3, 7].map(|exponent| f_pow(w, exponent)));
    assert_eq!(order[1], P - 1);
    assert_eq!(point(0, 0), 1);
    // A power of two in Goldilocks: 2 has order 192.
    assert_eq!(f_pow(point(6, 1 << 5), 64), 1);
    assert_ne!(f_pow(point(6, 1 << 5), 32), 1);
}

#[test]
fn codewords_are_those_of_the_definition() {
    let level = Level { fold_log: 1, rate_log: 1, queries: 1, grinding: 0 };
    let code = Code { log_size: 3, levels: vec![level, level] };
    let coefficients = [3, -1, 4, -1, 5, -9, 2, -6];
    let (columns, leaves) = codeword(&code, 0, &entries(&coefficients));
    for (position, column) in (0..8).zip(&columns) {
        let x = point(3, position);
        for (row, &symbol) in column.iter().enumerate() {
            let term = |c: u64| f_mul(f_from_i64(coefficients[row + 2 * usize::try_from(c).unwrap()]), f_pow(x, c));
            assert_eq!(symbol, e_sum((0..4).map(|c| [term(c), 0, 0])));
        }
        assert_eq!(leaves[usize::try_from(position).unwrap()], leaf(0, position, column));
    }
    let (root, evaluation) = commit(&coefficients, &code);
    assert_eq!(root, super::merkle::root(&leaves));
    assert_eq!(evaluation, horner(&entries(&coefficients), sample_point(&root, &code)));
    let numbers = [3_u32, 2, 1, 1, 1, 0, 1, 1, 1, 0];
    assert_eq!(code.encode(), numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>());
    assert_eq!((code.codeword_log(0), code.codeword_log(1), code.message_log(2)), (3, 2, 1));
}

#[test]
fn tiles_are_those_of_the_vectors() {
    let vectors = vectors("commitments/weights_v1.json");
    let side = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let shapes: Vec<(u32, u32)> =
        vectors["shapes"].as_array().unwrap().iter().map(|shape| (side(&shape[0]), side(&shape[1]))).collect();
    let (tiles, log_size) = layout(&shapes);
    assert_eq!(log_size, side(&vectors["log_size"]));
    let tiles: Vec<Value> = tiles
        .iter()
        .map(|t| serde_json::json!([t.matrix, t.input, t.output, t.input_log, t.output_log, t.offset]))
        .collect();
    assert_eq!(Value::from(tiles), vectors["tiles"]);
}

#[test]
fn a_nonce_has_so_many_high_bits_zero() {
    let seed = [5; 32];
    for nonce in 0..200_u64 {
        let hash = blake3::keyed_hash(&seed, &nonce.to_le_bytes());
        // The last of eight little-endian bytes is the highest.
        assert_eq!(is_nonce(&seed, nonce, 4), hash.as_bytes()[7] < 16);
    }
}

#[test]
fn numbers_of_polynomials_have_the_fewest_bits() {
    assert_eq!([1, 2, 3, 4, 5, 8, 9].map(number_log), [0, 1, 2, 2, 3, 3, 4]);
}

fn transcript() -> Transcript {
    let mut transcript = Transcript::start("test/weights", "claimed");
    transcript.step("reduction");
    transcript
}

/// A true statement, and its polynomials.
fn case(seed: u64) -> (Statement, Vec<Vec<i64>>) {
    let mut draws = Draws::new(seed);
    let plan = Plan::random(&mut draws);
    let coefficients = plan.coefficients(&mut draws);
    (plan.statement(&coefficients), coefficients)
}

#[test]
fn openings_of_true_claims_are_accepted_and_others_are_not() {
    let mut accepted = 0;
    for seed in 0..40 {
        let (statement, coefficients) = case(seed);
        let proof = open(&statement, &coefficients, transcript());
        let bytes = proof.write();
        assert_eq!(Proof::read(&bytes, &statement.code, coefficients.len()).as_ref(), Ok(&proof));
        let Outcome { verdict, positions, transcript: end } = verify(&statement, &bytes, transcript());
        assert_eq!(verdict, Ok(()), "seed {seed}: {:?}", statement.code);
        for (positions, answer) in positions.iter().zip(&proof.answers) {
            assert!(answer.columns.iter().all(|columns| columns.len() == positions.len()));
        }
        let hashes = &proof.answers[statement.code.last()].hashes;
        let length = hashes.iter().map(|hashes| 32 * hashes.len()).sum::<usize>();
        assert_eq!(end.records.last(), Some(&(3, "weights/paths", number(length))));
        let mut draws = Draws::new(1000 + seed);
        for _ in 0..8 {
            let changed = changed(&mut draws, &bytes, &statement);
            // Another nonce is as good where all is opened, and nothing else changes.
            let verdict = verify(&statement, &changed, transcript()).verdict;
            accepted += u32::from(changed != bytes && verdict.is_ok());
        }
        let mut false_claim = statement.clone();
        match false_claim.claims.first_mut() {
            Some(claim) => claim.value = e_add(claim.value, ONE),
            None => false_claim.commitments[0].evaluation = draws.element(),
        }
        assert!(verify(&false_claim, &bytes, transcript()).verdict.is_err());
        let false_proof = open(&false_claim, &coefficients, transcript()).write();
        assert_eq!(
            verify(&false_claim, &false_proof, transcript()).verdict,
            Err("the last claim is not met".to_owned())
        );
    }
    assert!(accepted < 12, "{accepted} changed proofs are accepted");
}

#[test]
fn a_vector_that_is_not_the_fold_of_the_one_below_is_rejected() {
    for seed in 40..60 {
        let (statement, coefficients) = case(seed);
        let count = statement.code.levels.len();
        for i in 1..=count {
            if statement.code.message_log(i) == 0 {
                continue;
            }
            let proof = forge(&statement, &coefficients, transcript(), Some(i)).write();
            let reason = if i == count { "the final vector has other symbols" } else { "the last claim is not met" };
            assert_eq!(verify(&statement, &proof, transcript()).verdict, Err(reason.to_owned()), "u_{i}, seed {seed}");
        }
    }
}
