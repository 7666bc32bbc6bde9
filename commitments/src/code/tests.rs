use std::collections::BTreeSet;
use std::sync::Arc;

use ark_ff::{AdditiveGroup, Field};
use ark_poly::{EvaluationDomain, Radix2EvaluationDomain};
use assay_sumcheck::field::{e_from_f, f_from_i64, f_from_u64};
use proptest::prelude::*;

use super::*;
use crate::lanes;
use crate::layout::{Layout, MatrixShape};
use crate::merkle::verify_indices;
use crate::weights::column_leaf;

/// Coefficients of both signs that fill their 24 bits.
struct Made(Arc<Layout>);

impl Made {
    fn image(i: usize) -> i32 {
        let mixed = ((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 30) % ((1 << 25) - 1);
        i32::try_from(mixed).unwrap() - (1 << 24) + 1
    }

    fn row(code: &Code, row: usize) -> Vec<F> {
        let entry = |column| f_from_i64(i64::from(Self::image(row + code.rows * column)));
        (0..code.message_length()).map(entry).collect()
    }
}

impl Coefficients for Made {
    type Error = Infallible;

    fn layout(&self) -> &Arc<Layout> {
        &self.0
    }

    fn read(&self, start: usize, out: &mut [i32]) -> Result<(), Infallible> {
        assert!(start + out.len() <= usize::try_from(self.0.shapes()[0].weights()).unwrap());
        for (i, out) in out.iter_mut().enumerate() {
            *out = Self::image(start + i);
        }
        Ok(())
    }
}

fn code(rows: usize, message_log: u32, rate_log: u32) -> Code {
    Code { rows, message_log, rate_log }
}

fn of_matrix(rows: usize, columns: usize) -> Made {
    let [inputs, outputs] = [rows, columns].map(|side| u32::try_from(side).unwrap());
    Made(Arc::new(Layout::new(&[MatrixShape { inputs, outputs }]).unwrap()))
}

fn made(code: &Code) -> Made {
    of_matrix(code.rows, code.message_length())
}

fn horner(message: &[F], point: F) -> F {
    message.iter().rev().fold(F::ZERO, |value, &coefficient| value * point + coefficient)
}

/// `w^rev(position)` by its definition.
fn slow_point(log: u32, position: usize) -> F {
    let w = f_from_u64(7).pow([(assay_sumcheck::field::P - 1) >> log]);
    let reversed = if log == 0 { 0 } else { position.reverse_bits() >> (usize::BITS - log) };
    w.pow([reversed as u64])
}

const CODES: [(usize, u32, u32); 16] = [
    (1, 0, 0),
    (1, 0, 1),
    (4, 0, 3),
    (1, 5, 3),
    (2, 1, 1),
    (3, 4, 2),
    (6, 3, 1),
    (8, 4, 2),
    (12, 5, 1),
    (16, 0, 4),
    (24, 6, 2),
    (4, 7, 1),
    (48, 3, 3),
    (64, 6, 2),
    (32, 8, 2),
    (130, 2, 1),
];

/// Whatever instructions this machine has, its results are those of plain arithmetic.
#[test]
fn lanes_agree_with_the_field() {
    struct Operations([u64; LANES], [u64; LANES]);

    impl lanes::Task for Operations {
        type Output = [[u64; LANES]; 7];

        #[inline(always)]
        fn run<L: lanes::Lanes>(self, l: L) -> [[u64; LANES]; 7] {
            use lanes::Field as _;
            let (a, b) = (l.load(&self.0), l.load(&self.1));
            let canonical = l.canonical(b);
            let results = [
                l.f_add(a, canonical),
                l.f_sub(a, canonical),
                l.f_mul(a, l.factors(b)),
                l.total(a, b),
                canonical,
                l.join(a, b),
                l.add_where(a, 0b1001_0110, b),
            ];
            let mut words = [[0; LANES]; 7];
            for i in 0..7 {
                l.store(&mut words[i], results[i]);
            }
            words
        }
    }

    use lanes::Task as _;
    let p = assay_sumcheck::field::P;
    let edges = [0, 1, 2, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63, p - 1, p, p + 1];
    let words: Vec<u64> =
        edges.into_iter().flat_map(|edge| [edge, !edge, edge.wrapping_mul(0x9e37_79b9_7f4a_7c15)]).collect();
    let signed = |word: u64| f_from_i64(word.cast_signed());
    for &a in &words {
        for b in words.chunks_exact(2) {
            let b: [u64; LANES] = std::array::from_fn(|i| b[i % 2]);
            let results = lanes::run(Operations([a; LANES], b));
            assert_eq!(results, Operations([a; LANES], b).run(lanes::Portable));
            for i in 0..LANES {
                let [x, y] = [a, b[i]].map(f_from_u64);
                let total = signed(a) + signed(b[i]) * f_from_u64(1 << 32);
                let [sum, difference, product, both, canonical, joined, added] = results.map(|words| words[i]);
                assert_eq!([sum, difference, product, both].map(f_from_u64), [x + y, x - y, x * y, total]);
                assert_eq!((canonical, joined), (f_to_u64(y), a & 0xffff_ffff | b[i] << 32));
                assert_eq!(added, if [1, 2, 4, 7].contains(&i) { a.wrapping_add(b[i]) } else { a });
            }
        }
    }
}

#[test]
fn halves_make_up_elements() {
    let p = assay_sumcheck::field::P;
    let middle = (1 << 63) - (1 << 31);
    for integer in
        [0, 1, (1 << 31) - 1, 1 << 31, middle - 1, middle, middle + 1, p / 2, p / 2 + 1, p - (1 << 31), p - 1]
    {
        let lanes::Halves { low, high } = lanes::Halves::of(integer);
        let [low, high] = [low, high].map(|half| f_from_i64(i64::from(half)));
        assert_eq!(low + high * f_from_u64(1 << 32), f_from_u64(integer));
    }
}

#[test]
fn points_are_those_of_the_reversed_order() {
    for log in 0..8 {
        assert!((0..1 << log).all(|position| point(log, position as u64) == slow_point(log, position)));
    }
    assert_eq!(point(32, 5 << 20), slow_point(32, 5 << 20));
    // Any input has a point.
    assert_eq!(point(3, 8 + 5), point(3, 5));
    let _ = point(u32::MAX, u64::MAX);
}

#[test]
fn codewords_are_the_values_of_the_messages() {
    for (rows, message_log, rate_log) in CODES {
        let code = code(rows, message_log, rate_log);
        let source = made(&code);
        let messages: Vec<Vec<F>> = (0..rows).map(|row| Made::row(&code, row)).collect();
        let columns: Vec<Vec<F>> = (0..code.codeword_length())
            .map(|position| {
                let point = slow_point(code.codeword_log(), position);
                messages.iter().map(|message| horner(message, point)).collect()
            })
            .collect();
        let leaves = columns.iter().enumerate().map(|(position, column)| column_leaf(position, column)).collect();
        let tree = MerkleTree::from_leaf_hashes(leaves);
        let positions: Vec<usize> = (0..code.codeword_length()).collect();
        for dropped in [0, 1, 5, 20] {
            for memory in [0, 1 << 10, 1 << 14, usize::MAX] {
                let top = commit(&source, &code, dropped, memory, &|_| ()).unwrap();
                assert_eq!(top.bound_root(), tree.bound_root(), "{code:?}, {dropped} dropped, {memory} bytes");
            }
            let opened = super::columns(&source, &code, &positions, dropped).unwrap();
            assert_eq!(opened.columns, columns, "{code:?}, {dropped} dropped");
        }
        if rows % 3 == 0 {
            let entry = |i: usize| [0, 1, 2].map(|k| messages[(3 * i + k) % rows][3 * i / rows]);
            let vector: Vec<E> =
                (0..(rows / 3) << message_log).map(entry).map(|[c0, c1, c2]| E::new(c0, c1, c2)).collect();
            let codeword = Codeword::new(vector, code);
            assert_eq!(codeword.tree().leaves(), tree.leaves(), "{code:?}");
            let flat = |column: &Vec<E>| column.iter().flat_map(|e| [e.c0, e.c1, e.c2]).collect::<Vec<F>>();
            assert!(codeword.columns(&positions).iter().map(flat).eq(columns.iter().cloned()));
        }
    }
}

#[test]
fn large_codewords_agree_with_the_library() {
    let code = code(4, 16, 1);
    let source = made(&code);
    let transforms: Vec<Vec<F>> = (0..code.rows)
        .map(|row| Radix2EvaluationDomain::<F>::new(code.codeword_length()).unwrap().fft(&Made::row(&code, row)))
        .collect();
    let leaf = |position: usize| {
        let i = position.reverse_bits() >> (usize::BITS - code.codeword_log());
        column_leaf(position, &transforms.iter().map(|values| values[i]).collect::<Vec<F>>())
    };
    let tree = MerkleTree::from_leaf_hashes((0..code.codeword_length()).map(leaf).collect());
    for memory in [1 << 12, 1 << 20, usize::MAX] {
        assert_eq!(commit(&source, &code, 4, memory, &|_| ()).unwrap().bound_root(), tree.bound_root());
    }
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let root = pool.install(|| commit(&source, &code, 4, usize::MAX, &|_| ()).unwrap().bound_root());
        assert_eq!(root, tree.bound_root());
    }
}

#[test]
fn weighted_sums_agree_with_their_definition() {
    let element = |i: u64| {
        let word = |k: u64| f_from_u64((3 * i + k + 1).wrapping_mul(0xd134_2543_de82_ef95));
        E::new(word(0), word(1), word(2))
    };
    for (rows, columns) in [(1, 1), (1, 5), (4, 1), (2, 64), (8, 3), (32, 300), (16, 4000), (512, 40), (1000, 9)] {
        let source = of_matrix(rows, columns);
        let entry = |row: usize, column: usize| e_from_f(f_from_i64(i64::from(Made::image(row + rows * column))));
        let eq: Vec<E> = (0..rows as u64).map(element).collect();
        let folded: Vec<E> = (0..columns).map(|c| (0..rows).map(|r| eq[r] * entry(r, c)).sum()).collect();
        assert_eq!(fold_rows(&source, &eq, columns), Ok(folded));
        let weights = |start: usize, out: &mut [E]| {
            out.iter_mut().enumerate().for_each(|(i, out)| *out = element((start + i) as u64));
        };
        let sums: Vec<E> = (0..rows).map(|r| (0..columns).map(|c| element(c as u64) * entry(r, c)).sum()).collect();
        assert_eq!(weighted_columns(&source, rows, 0..columns, weights), Ok(sums));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn prop_openings_verify(
        (rows, message_log, rate_log) in prop::sample::select(CODES.to_vec()),
        dropped in 0_u32..=6,
        chosen in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let code = code(rows, message_log, rate_log);
        let source = made(&code);
        let top = commit(&source, &code, dropped, 1 << 12, &|_| ()).unwrap();
        let positions: BTreeSet<usize> = chosen.iter().map(|index| index.index(code.codeword_length())).collect();
        let positions: Vec<usize> = positions.into_iter().collect();
        let opened = super::columns(&source, &code, &positions, dropped).unwrap();
        let leaves: Vec<(usize, Hash)> =
            positions.iter().zip(&opened.columns).map(|(&position, column)| (position, column_leaf(position, column))).collect();
        let hashes = top.open_indices(&positions, &opened.subtrees);
        prop_assert_eq!(verify_indices(&top.bound_root(), code.codeword_length(), &leaves, &hashes), Ok(()));
        let restored = MerkleTop::from_nodes(top.count(), top.dropped(), top.nodes().to_vec()).unwrap();
        prop_assert_eq!(restored.bound_root(), top.bound_root());
        prop_assert_eq!(restored.open_indices(&positions, &opened.subtrees), hashes);
    }
}
