//! Codes, where matrices lie, and the commitment.

use super::field::{E, P, e_from_f, e_from_stream, f_from_i64, f_pow, horner, horner_f};
use super::merkle::{Hash, hasher, leaf, root};

/// The numbers of one level.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) fold_log: u32,
    pub(crate) rate_log: u32,
    pub(crate) queries: u32,
    pub(crate) grinding: u32,
}

/// The code of a polynomial.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub(crate) log_size: u32,
    pub(crate) levels: Vec<Level>,
}

impl Code {
    /// `m_i`.
    pub(crate) fn message_log(&self, level: usize) -> u32 {
        self.log_size - self.levels[..level].iter().map(|level| level.fold_log).sum::<u32>()
    }

    /// `l_i`.
    pub(crate) fn codeword_log(&self, level: usize) -> u32 {
        self.message_log(level + 1) + self.levels[level].rate_log
    }

    /// `J`.
    pub(crate) fn last(&self) -> usize {
        self.levels.len() - 1
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut numbers = vec![self.log_size, u32::try_from(self.levels.len()).expect("few levels")];
        for level in &self.levels {
            numbers.extend([level.fold_log, level.rate_log, level.queries, level.grinding]);
        }
        numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
    }

    /// What must hold for the numbers above to mean anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let folds: u64 = self.levels.iter().map(|level| u64::from(level.fold_log)).sum();
        let lengths = || (0..self.levels.len()).map(|level| self.codeword_log(level));
        let sound = !self.levels.is_empty()
            && folds <= u64::from(self.log_size)
            && lengths().all(|log| log <= 32)
            && self.levels.iter().all(|level| level.grinding <= 64);
        if sound { Ok(()) } else { Err("the code makes no sense".into()) }
    }
}

/// The point of a position of a codeword.
pub(crate) fn point(length_log: u32, position: u64) -> u64 {
    let bit = |j: u32| (position >> j & 1) << (length_log - 1 - j);
    let reversed: u64 = (0..length_log).map(bit).sum();
    f_pow(f_pow(7, (P - 1) >> length_log), reversed)
}

/// The symbols of all rows of the matrix of `entries`, at a point.
pub(crate) fn column(entries: &[E], fold_log: u32, point: u64) -> Vec<E> {
    let row = |row: usize| -> Vec<E> { entries.iter().skip(row).step_by(1 << fold_log).copied().collect() };
    (0..1 << fold_log).map(|index| horner_f(&row(index), point)).collect()
}

/// The columns of a level's codeword, and their leaves.
pub(crate) fn codeword(code: &Code, level: usize, entries: &[E]) -> (Vec<Vec<E>>, Vec<Hash>) {
    assert_eq!(entries.len(), 1 << code.message_log(level));
    let length_log = code.codeword_log(level);
    let columns: Vec<Vec<E>> = (0..1_u64 << length_log)
        .map(|position| column(entries, code.levels[level].fold_log, point(length_log, position)))
        .collect();
    let leaves = (0..).zip(&columns).map(|(position, column)| leaf(level, position, column)).collect();
    (columns, leaves)
}

/// Coefficients as elements.
pub(crate) fn entries(coefficients: &[i64]) -> Vec<E> {
    coefficients.iter().map(|&coefficient| e_from_f(f_from_i64(coefficient))).collect()
}

/// Where the polynomial is evaluated for its commitment.
pub(crate) fn sample_point(root: &Hash, code: &Code) -> E {
    let mut stream = hasher("assay/weight-sample/v1").update(root).update(&code.encode()).finalize_xof();
    e_from_stream(|| {
        let mut word = [0; 8];
        stream.fill(&mut word);
        word
    })
}

/// Root and evaluation of a polynomial.
pub(crate) fn commit(coefficients: &[i64], code: &Code) -> (Hash, E) {
    let entries = entries(coefficients);
    let root = root(&codeword(code, 0, &entries).1);
    (root, horner(&entries, sample_point(&root, code)))
}

/// A block of a matrix: first input and output, their logarithmic numbers, and the index of its first coefficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    pub(crate) matrix: usize,
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) input_log: u32,
    pub(crate) output_log: u32,
    pub(crate) offset: usize,
}

/// The binary expansion of a side, the largest power first: where each starts, and its logarithm.
fn pieces(side: u32) -> Vec<(usize, u32)> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    for log in (0..32).rev() {
        if side >> log & 1 == 1 {
            pieces.push((start, log));
            start += 1 << log;
        }
    }
    pieces
}

/// All tiles of matrices of some `(inputs, outputs)`, and the logarithm of the number of coefficients.
pub(crate) fn layout(shapes: &[(u32, u32)]) -> (Vec<Tile>, u32) {
    let mut tiles = Vec::new();
    for (matrix, &(inputs, outputs)) in shapes.iter().enumerate() {
        for (input, input_log) in pieces(inputs) {
            for (output, output_log) in pieces(outputs) {
                tiles.push(Tile { matrix, input, output, input_log, output_log, offset: 0 });
            }
        }
    }
    // A stable sort: what is equally large stays in the order of matrix, input, output.
    tiles.sort_by_key(|tile| 64 - (tile.input_log + tile.output_log));
    let mut offset = 0;
    for tile in &mut tiles {
        tile.offset = offset;
        offset += 1_usize << (tile.input_log + tile.output_log);
    }
    (tiles, offset.next_power_of_two().ilog2())
}

/// The index of the coefficient that holds every `W[k][o]` of a matrix: triples of `k`, `o` and it.
pub(crate) fn places(shapes: &[(u32, u32)], matrix: usize) -> Vec<(usize, usize, usize)> {
    let mut places = Vec::new();
    for tile in layout(shapes).0.iter().filter(|tile| tile.matrix == matrix) {
        for o in 0..1_usize << tile.output_log {
            for k in 0..1_usize << tile.input_log {
                places.push((tile.input + k, tile.output + o, tile.offset + k + (o << tile.input_log)));
            }
        }
    }
    places
}
