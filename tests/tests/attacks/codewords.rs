//! Row 18: a manifest that stands over a word which is no codeword, and a miner that shows it as it was committed.

use std::collections::HashMap;
use std::sync::Arc;

use assay_audit::commit::Surroundings;
use assay_audit::model::{CommittedModel, InMemory, commit_in_memory};
use assay_cli::local::LocalModel;
use assay_commitments::codec;
use assay_commitments::merkle::MerkleTree;
use assay_commitments::params::{CodeParams, LevelCode};
use assay_commitments::weights::{LayerPolynomial, WeightTree};
use assay_llm_runtime::Checkpoint;
use assay_sumcheck::field::{E, F, P, e_mul_f, f_from_bytes, f_from_i64, f_from_u64, f_to_bytes};
use assay_tests::adversary::{Adversary, Anatomy, Part};
use assay_tests::{smallest, smallest_checkpoint};

use crate::table::Cheat;

/// By squares, from the highest bit on.
fn power(base: F, exponent: u64) -> F {
    (0..u64::BITS).rev().fold(f_from_u64(1), |result, bit| {
        let square = result * result;
        if exponent >> bit & 1 == 1 { square * base } else { square }
    })
}

/// The coefficients as elements.
fn elements(polynomial: &LayerPolynomial) -> Vec<F> {
    polynomial.coefficients().iter().map(|integer| f_from_i64((*integer).into())).collect()
}

/// The codeword's columns, as `docs/opening.md` has them.
fn columns(polynomial: &LayerPolynomial, code: &LevelCode) -> Vec<Vec<F>> {
    let (elements, length) = (elements(polynomial), code.codeword_length());
    let root = power(f_from_u64(7), (P - 1) / u64::try_from(length).unwrap());
    let column = |position: usize| {
        let reversed = position.reverse_bits() >> (usize::BITS - length.ilog2());
        let x = power(root, u64::try_from(reversed).unwrap());
        let symbol = |row: usize| {
            let of_row = elements.iter().skip(row).step_by(code.rows());
            of_row.rev().fold(F::default(), |value, coefficient| value * x + *coefficient)
        };
        (0..code.rows()).map(symbol).collect()
    };
    (0..length).map(column).collect()
}

fn bytes(column: &[F]) -> Vec<u8> {
    column.iter().flat_map(|symbol| f_to_bytes(*symbol)).collect()
}

fn key(domain: &str) -> [u8; 32] {
    let mut key = [0; 32];
    key[..domain.len()].copy_from_slice(domain.as_bytes());
    key
}

/// The tree over a word.
fn tree_over(word: &[Vec<F>]) -> MerkleTree {
    let leaf = |(position, column): (u64, &Vec<F>)| {
        let mut input = [position.to_le_bytes().to_vec(), bytes(column)].concat();
        input.resize(input.len().next_multiple_of(64), 0);
        *blake3::keyed_hash(&key("assay/codeword-column/v1"), &input).as_bytes()
    };
    MerkleTree::from_leaf_hashes((0..).zip(word).map(leaf).collect())
}

/// The point at which a commitment states the polynomial's value.
fn sample_point(root: &[u8; 32], params: &CodeParams) -> E {
    let key = key("assay/weight-sample/v1");
    let mut output = blake3::Hasher::new_keyed(&key).update(root).update(&codec::encode(params)).finalize_xof();
    let mut coordinates = std::iter::repeat_with(|| {
        let mut bytes = [0; 8];
        output.fill(&mut bytes);
        f_from_bytes(bytes)
    })
    .flatten();
    let mut next = || coordinates.next().unwrap();
    E::new(next(), next(), next())
}

/// A word that is a codeword but for one row, which is off by one at every other position.
struct Word {
    codeword: Vec<Vec<F>>,
    columns: Vec<Vec<F>>,
    tree: MerkleTree,
}

impl Word {
    fn new(polynomial: &LayerPolynomial, code: &LevelCode) -> Self {
        let codeword = columns(polynomial, code);
        let mut columns = codeword.clone();
        columns.iter_mut().skip(1).step_by(2).for_each(|column| column[0] += f_from_u64(1));
        let tree = tree_over(&columns);
        Self { codeword, columns, tree }
    }

    /// A commitment to the polynomial by this word.
    fn commit(&self, polynomial: &LayerPolynomial, params: &CodeParams) -> WeightTree {
        let rows = params.base().rows();
        let one = E::new(f_from_u64(1), F::default(), F::default());
        let point = sample_point(&self.tree.bound_root(), params);
        let step = (0..rows).fold(one, |power, _| power * point);
        let elements = elements(polynomial);
        let row = |row: usize| {
            let of_row = elements.iter().skip(row).step_by(rows);
            of_row.rev().fold(E::default(), |value, coefficient| value * step + e_mul_f(one, *coefficient))
        };
        WeightTree::from_parts(params, self.tree.leaves().to_vec(), (0..rows).map(row).collect()).unwrap()
    }

    /// Shows its columns, with their paths, where the honest prover shows those of the codeword.
    fn show(&self, anatomy: &Anatomy, proof: &mut [u8]) {
        let at = anatomy.of(Part::Columns);
        let known: HashMap<Vec<u8>, usize> =
            self.codeword.iter().enumerate().map(|(position, column)| (bytes(column), position)).collect();
        let shown = proof[at.clone()].chunks(8 * self.codeword[0].len());
        let positions: Vec<usize> = shown.map(|shown| known[shown]).collect();
        let columns: Vec<u8> = positions.iter().flat_map(|position| bytes(&self.columns[*position])).collect();
        proof[at].copy_from_slice(&columns);
        // Behind their number.
        let paths = anatomy.of(Part::ColumnPaths);
        proof[paths][4..].copy_from_slice(self.tree.open_indices(&positions).as_flattened());
    }
}

/// The smallest model under a manifest whose layer stands over a word.
fn committed_by(word: &Word) -> LocalModel {
    let Checkpoint { architecture, tensors, profile, tokenizer, chat_template } = smallest_checkpoint();
    let template = chat_template.as_ref().map(String::as_bytes);
    let surroundings = Surroundings { profile, tokenizer: &tokenizer, chat_template: template };
    let trees = &mut |number, _: &[[u8; 32]], polynomial: &LayerPolynomial, code: &CodeParams| {
        if number == 0 { word.commit(polynomial, code) } else { commit_in_memory(polynomial, code) }
    };
    let weights = InMemory::new(&architecture, &tensors).unwrap();
    let committed = CommittedModel::read(&weights, surroundings, trees, &mut |_, _| ()).unwrap();
    let LocalModel { tokenizer, chat_template, model, assets, .. } = Arc::into_inner(smallest()).unwrap();
    LocalModel { tokenizer, chat_template, model, committed: Arc::new(committed), assets }
}

attacks! {
    /// weights committed by a word that is no codeword, and its columns shown as they were committed
    attack_18_non_codeword: Always [ColumnFold] => {
        let honest = smallest();
        let code = &honest.committed.manifest.layer_code;
        // Then no column comes before anything else of the opening: all of that is as in the honest one.
        assert_eq!(code.levels.len(), 1, "{code:?}");
        let word = Word::new(&honest.committed.layers[0].weights.polynomial, &code.base());
        let local = Arc::new(committed_by(&word));
        Cheat::of(Adversary::new(&local).proof_bytes(move |anatomy, proof| word.show(anatomy, proof))).after_one_token()
    };
}

/// The control: by the codeword itself, the same commitment is the honest one.
#[test]
fn a_word_that_is_a_codeword_is_committed_to_as_ever() {
    let local = smallest();
    let (weights, params) = (&local.committed.layers[0].weights, &local.committed.manifest.layer_code);
    let tree = tree_over(&columns(&weights.polynomial, &params.base()));
    let honest = weights.tree.commitment();
    assert_eq!(tree.bound_root(), honest.root);
    let rows = weights.tree.sampled_rows().to_vec();
    let again = WeightTree::from_parts(params, tree.leaves().to_vec(), rows).unwrap();
    assert_eq!(again.commitment(), honest);
}
