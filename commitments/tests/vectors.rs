//! Known answers from `fixtures/vectors/generate_commitments.py`, which shares no code with the crate.

use std::sync::Arc;

use assay_commitments::fixed_point::exponent;
use assay_commitments::layout::{Layout, MatrixShape};
use assay_commitments::merkle::{Hash, MerkleTree, verify_indices, verify_range};
use assay_commitments::params::{CodeParams, Level};
use assay_commitments::weights::{LayerPolynomial, WeightCommitment, commit};
use assay_sumcheck::field::e_to_bytes;
use serde_json::{Value, json};

fn vectors(name: &str) -> Value {
    let path = format!("{}/../fixtures/vectors/commitments/{name}", env!("CARGO_MANIFEST_DIR"));
    let vectors = std::fs::read(path).expect("the vectors are there");
    serde_json::from_slice(&vectors).expect("the vectors are JSON")
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().expect("a list")
}

fn integer(value: &Value) -> u32 {
    value.as_u64().and_then(|integer| u32::try_from(integer).ok()).expect("a small integer")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn hexes(hashes: &[Hash]) -> Value {
    hashes.iter().map(|hash| hex(hash)).collect()
}

#[test]
fn kat_merkle() {
    let vectors = vectors("merkle_v1.json");
    let leaves: Vec<Hash> = (0..13_u64).map(|i| blake3::hash(&i.to_le_bytes()).into()).collect();
    for (count, root) in (1..).zip(list(&vectors, "roots")) {
        assert_eq!(*root, hex(&MerkleTree::from_leaf_hashes(leaves[..count].to_vec()).bound_root()));
    }
    let tree = MerkleTree::from_leaf_hashes(leaves.clone());
    let hashes = tree.open_range(3, 9);
    assert_eq!(vectors["range_3_9_of_13"], hexes(&hashes));
    assert_eq!(verify_range(&tree.bound_root(), 13, 3, &leaves[3..9], &hashes), Ok(()));
    let indices = [0, 5, 6, 12];
    let hashes = tree.open_indices(&indices);
    assert_eq!(vectors["indices_0_5_6_12_of_13"], hexes(&hashes));
    let opened = indices.map(|i| (i, leaves[i]));
    assert_eq!(verify_indices(&tree.bound_root(), 13, &opened, &hashes), Ok(()));
}

#[test]
fn kat_weights() {
    let vectors = vectors("weights_v1.json");
    let shape = |shape: &Value| MatrixShape { inputs: integer(&shape[0]), outputs: integer(&shape[1]) };
    let shapes: Vec<MatrixShape> = list(&vectors, "shapes").iter().map(shape).collect();
    let layout = Arc::new(Layout::new(&shapes).expect("a layout"));
    assert_eq!(layout.log_size(), integer(&vectors["log_size"]));
    assert_eq!(vectors["layout_digest"], hex(&layout.digest()));
    let tile = |t: &assay_commitments::layout::Tile| {
        json!([t.matrix, t.first_input, t.first_output, t.input_log, t.output_log, t.offset])
    };
    assert_eq!(vectors["tiles"], layout.tiles().iter().map(tile).collect::<Value>());

    let weight = |weight: &Value| {
        let bits = u32::from_str_radix(weight.as_str().expect("a string"), 16).expect("hexadecimal");
        f32::from_bits(bits.swap_bytes())
    };
    let matrices: Vec<Vec<f32>> = list(&vectors, "weights")
        .iter()
        .map(|matrix| matrix.as_array().expect("a list").iter().map(weight).collect())
        .collect();
    let matrices: Vec<&[f32]> = matrices.iter().map(Vec::as_slice).collect();
    let polynomial = LayerPolynomial::from_matrices(layout.clone(), &matrices).expect("weights");
    assert_eq!(vectors["exponents"], json!(polynomial.exponents()));
    assert_eq!(polynomial.exponents()[1], exponent(matrices[1]).expect("an exponent"));
    assert_eq!(vectors["coefficients"], json!(polynomial.coefficients()));
    for commitment in list(&vectors, "commitments") {
        let params = CodeParams { log_size: layout.log_size(), levels: levels(commitment) };
        let tree = commit(&polynomial, &params, 1 << 20, &|_| ()).expect("coefficients in memory");
        let WeightCommitment { root, evaluation } = tree.commitment();
        assert_eq!(commitment["root"], hex(&root));
        assert_eq!(commitment["evaluation"], hex(&e_to_bytes(evaluation)));
    }
}

/// The levels of a code: four numbers each.
fn levels(code: &Value) -> Vec<Level> {
    let level = |level: &Value| {
        let [fold_log, rate_log, queries, grinding] = [0, 1, 2, 3].map(|place| integer(&level[place]));
        Level { fold_log, rate_log, queries, grinding }
    };
    list(code, "levels").iter().map(level).collect()
}

#[test]
fn kat_parameters() {
    for expected in list(&vectors("weights_v1.json"), "parameters") {
        let [log_size, max_row_log] = ["log_size", "max_row_log"].map(|key| integer(&expected[key]));
        let shape = MatrixShape { inputs: 1 << max_row_log, outputs: 1 << (log_size - max_row_log) };
        let layout = Layout::new(&[shape]).expect("a layout");
        let params = CodeParams::for_layout(&layout);
        assert_eq!(params, CodeParams { log_size, levels: levels(expected) });
        assert_eq!(expected["max_opening_bytes"], params.max_opening_bytes(1));
    }
}
