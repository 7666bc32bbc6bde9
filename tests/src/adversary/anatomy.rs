//! Where the parts of a proof lie in its bytes, for those who change one.

use std::ops::Range;

use assay_audit::challenge::Challenge;
use assay_commitments::codec::Writer;
use assay_commitments::manifest::Matrix;
use assay_commitments::structure;

/// A part of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Norm weights and biases of a layer, or the last norm.
    Small,
    /// The rows of a cell: `H`, `A`, `O`, `M`, caches.
    Rows,
    /// A supplied product of a cell: a shift, a width, values.
    Supplied(Matrix),
    /// Roundings in doubt: five lists, each with its length.
    Flips,
    /// Hashes from rows to roots.
    Paths,
    /// The last row of a decode.
    DecodeRow,
    /// The logits of a decode.
    Logits,
    /// Claims on a product of a cell.
    Claims(Matrix),
    /// Claims on logits.
    HeadClaims,
    /// Rounds of the sumcheck of an opening.
    Rounds,
    /// Commitments to folded vectors, each with its answer out of the domain.
    Folds,
    /// The vector that the last fold leaves.
    Last,
    /// How many columns of the committed codewords are shown.
    ColumnCount,
    /// Those columns, codeword by codeword.
    Columns,
    /// Hashes from those columns to the committed roots: by codeword a count, then hashes.
    ColumnPaths,
}

/// The parts of a proof, in order.
#[derive(Clone, Debug)]
pub struct Anatomy {
    parts: Vec<(Part, Range<usize>)>,
    /// What is hashed by itself.
    hashed: Vec<Range<usize>>,
}

impl Anatomy {
    /// Of a proof for `challenge`, from what its decoder reads.
    pub fn new(proof: &structure::Part, challenge: &Challenge) -> Self {
        let [_, _, hashed] = proof.parts.as_slice() else { panic!("a table and parts") };
        let mut parts: Vec<(Part, Range<usize>)> = vec![];
        let mut add = |part: Part, found: &structure::Part| parts.push((part, found.range.clone()));
        let mut next = hashed.parts.iter();
        let mut take = |number: usize| next.by_ref().take(number).collect::<Vec<_>>();

        take(challenge.layers().len() + 1).into_iter().for_each(|small| add(Part::Small, small));
        for cell in take(challenge.cells.len()) {
            let [rows @ .., caches, supplied, hashes] = cell.parts.as_slice() else { panic!("a cell") };
            rows.iter().chain(&caches.parts).for_each(|rows| add(Part::Rows, rows));
            let [products @ .., flips] = supplied.parts.as_slice() else { panic!("supplied products") };
            let matrices = [Matrix::Q, Matrix::K, Matrix::Gate, Matrix::Up];
            matrices.into_iter().zip(products).for_each(|(matrix, product)| add(Part::Supplied(matrix), product));
            add(Part::Flips, flips);
            add(Part::Paths, hashes);
        }
        for decode in take(challenge.decodes.len()) {
            let [row, logits, hashes] = decode.parts.as_slice() else { panic!("a decode") };
            add(Part::DecodeRow, row);
            add(Part::Logits, logits);
            add(Part::Paths, hashes);
        }
        for cell in take(challenge.cells.len()) {
            Matrix::ALL.into_iter().zip(&cell.parts).for_each(|(matrix, claims)| add(Part::Claims(matrix), claims));
        }
        take(challenge.decodes.len()).into_iter().for_each(|claims| add(Part::HeadClaims, claims));
        for opening in &hashed.parts.last().expect("the openings").parts {
            let [rounds, folds, last, base, _] = opening.parts.as_slice() else { panic!("an opening") };
            add(Part::Rounds, rounds);
            add(Part::Folds, folds);
            add(Part::Last, last);
            let [.., count, columns, paths] = base.parts.as_slice() else { panic!("the answers of a level") };
            add(Part::ColumnCount, count);
            add(Part::Columns, columns);
            add(Part::ColumnPaths, paths);
        }
        Self { parts, hashed: hashed.parts.iter().map(|part| part.range.clone()).collect() }
    }

    /// The bytes of the first such part.
    pub fn of(&self, part: Part) -> Range<usize> {
        self.all(part).next().expect("proofs have this part")
    }

    /// The bytes of every such part.
    pub fn all(&self, part: Part) -> impl Iterator<Item = Range<usize>> + '_ {
        self.parts.iter().filter(move |(found, _)| *found == part).map(|(_, range)| range.clone())
    }

    /// Puts bytes in the place of others, and makes the table of lengths fit.
    ///
    /// # Panics
    /// If they are not within something that is hashed by itself.
    pub fn splice(&self, proof: &mut Vec<u8>, at: Range<usize>, with: impl IntoIterator<Item = u8>) {
        let inside = |hashed: &Range<usize>| hashed.start <= at.start && at.end <= hashed.end;
        let number = self.hashed.iter().position(inside).expect("bytes of one part");
        let start = self.hashed[number].start;
        self.rejoin(proof, |parts| drop(parts[number].splice(at.start - start..at.end - start, with)));
    }

    /// Changes the list of what is hashed by itself; `number` tells which of them holds a part.
    pub fn rejoin(&self, proof: &mut Vec<u8>, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let mut parts: Vec<Vec<u8>> = self.hashed.iter().map(|range| proof[range.clone()].to_vec()).collect();
        change(&mut parts);
        let mut out = Writer::new();
        out.length(parts.len());
        parts.iter().for_each(|part| out.length(part.len()));
        parts.iter().for_each(|part| out.raw(part));
        *proof = out.finish();
    }

    /// The number of what is hashed by itself that holds the first such part.
    pub fn number(&self, part: Part) -> usize {
        let start = self.of(part).start;
        self.hashed.iter().position(|hashed| hashed.contains(&start)).expect("parts are hashed")
    }
}
