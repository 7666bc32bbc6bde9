//! The rows of an execution on the miner's side: captured, hashed, and read again by the prover.

use std::io;
use std::ops::Range;

use rayon::prelude::*;
use thiserror::Error;

use super::{TraceShape, TreeId, leaf};
use crate::code::hashing::plain_hashes;
use crate::ids::{LayerIndex, Position, SessionId};
use crate::merkle::{Hash, MerkleTree};
use crate::rows::add_row;

/// Rows of a tree that are stored and hashed together: as many as wide instructions hash side by side.
const BLOCK_ROWS: usize = 16;

/// Why rows cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RowsError {
    /// The trace does not reach so far, or has no such tree.
    #[error("the trace has no rows {start} to {end} of {tree:?}")]
    Absent {
        /// The tree.
        tree: TreeId,
        /// The first position.
        start: usize,
        /// The position after the last.
        end: usize,
    },
    /// Where the rows are kept, they cannot be read.
    #[error("the trace cannot be read from where it is kept: {0}")]
    Unreadable(io::ErrorKind),
    /// The bytes are not those that were hashed: what was kept has changed, or a row of the residual
    /// stream was not the sum of those before it.
    #[error("the row of {tree:?} at position {position} is not the one that was captured")]
    Changed {
        /// The tree.
        tree: TreeId,
        /// The position.
        position: usize,
    },
}

/// A trace as a prover reads it, wherever it is kept.
pub trait TraceRows: Send + Sync {
    /// The trace's shape.
    fn shape(&self) -> TraceShape;

    /// Positions captured: those that every tree has.
    fn positions(&self) -> usize;

    /// The bytes of the rows of `tree` at `positions`, side by side: those that were captured.
    ///
    /// # Errors
    /// [`RowsError`].
    fn rows(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError>;

    /// The trees over the first `positions` positions in a session.
    ///
    /// # Panics
    /// When fewer positions were captured: a bug of the runtime.
    fn commit(&self, session: &SessionId, positions: usize) -> TraceTrees;
}

/// The digests of a trace's rows: what its trees are made of, wherever the rows are.
#[derive(Clone, Debug)]
pub struct TraceDigests {
    shape: TraceShape,
    columns: Vec<Vec<Hash>>,
}

impl TraceDigests {
    /// The trace's shape.
    pub const fn shape(&self) -> TraceShape {
        self.shape
    }

    /// Positions that every tree has.
    pub fn positions(&self) -> usize {
        self.columns.iter().map(Vec::len).min().unwrap_or(0)
    }

    /// The trees over the first `positions` positions in a session.
    ///
    /// # Panics
    /// When there are fewer.
    pub fn commit(&self, session: &SessionId, positions: usize) -> TraceTrees {
        let named: Vec<(TreeId, &Vec<Hash>)> = self.shape.trees().zip(&self.columns).collect();
        let trees = named.into_par_iter().map(|(tree, digests)| {
            let leaves = digests[..positions]
                .iter()
                .zip(0..)
                .map(|(digest, position)| leaf(session, tree, Position::new(position), digest));
            MerkleTree::from_leaf_hashes(leaves.collect())
        });
        TraceTrees { shape: self.shape, trees: trees.collect() }
    }

    /// The rows of `tree` at `positions`, from those that are kept: `kept` reads rows of one tree that are.
    ///
    /// # Errors
    /// [`RowsError`].
    pub fn rows(
        &self,
        tree: TreeId,
        positions: Range<usize>,
        kept: impl Fn(TreeId, Range<usize>) -> Result<Vec<u8>, RowsError>,
    ) -> Result<Vec<u8>, RowsError> {
        let absent = RowsError::Absent { tree, start: positions.start, end: positions.end };
        let column = self.shape.tree_index(tree).and_then(|index| self.columns.get(index)).ok_or(absent)?;
        let digests = column.get(positions.clone()).ok_or(absent)?;
        let rows = match tree {
            TreeId::H(end) if !is_kept(tree) => {
                let mut stream = kept(TreeId::H(LayerIndex::new(0)), positions.clone())?;
                for layer in (0..end.get()).map(LayerIndex::new) {
                    for branch in [TreeId::O(layer), TreeId::M(layer)] {
                        add_row(self.shape.profile, &mut stream, &kept(branch, positions.clone())?);
                    }
                }
                stream
            }
            _ => kept(tree, positions.clone())?,
        };
        let mut found = vec![Hash::default(); digests.len()];
        plain_hashes(&rows, self.shape.row_bytes(tree), &mut found);
        match positions.zip(found.iter().zip(digests)).find(|(_, (found, captured))| found != captured) {
            Some((position, _)) => Err(RowsError::Changed { tree, position }),
            None => Ok(rows),
        }
    }

    /// Where in the bytes of [`Trace::pieces`] a row stands; `None` if it is not kept.
    pub fn offset(&self, tree: TreeId, position: usize) -> Option<u64> {
        let index = self.shape.tree_index(tree).filter(|_| is_kept(tree))?;
        let before = self.shape.trees().zip(&self.columns).take(index);
        let kept = before.filter(|(tree, _)| is_kept(*tree));
        let bytes: usize = kept.map(|(tree, digests)| digests.len() * self.shape.row_bytes(tree)).sum();
        u64::try_from(bytes.checked_add(position.checked_mul(self.shape.row_bytes(tree))?)?).ok()
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.columns.iter().map(|column| column.capacity() * size_of::<Hash>()).sum()
    }
}

/// Of the residual stream only what enters the first layer is kept.
const fn is_kept(tree: TreeId) -> bool {
    match tree {
        TreeId::H(layer) => layer.get() == 0,
        TreeId::A(_) | TreeId::O(_) | TreeId::M(_) | TreeId::Kv(..) => true,
    }
}

/// The rows of an execution with their digests, as a runtime captures them.
///
/// Of the residual stream behind the first layer only digests are kept: its rows are the running sums of
/// those before them with the branches, each rounded as the profile says, and are rebuilt when they are
/// read. A row that was something else cannot be read again.
#[derive(Clone, Debug)]
pub struct Trace {
    digests: TraceDigests,
    columns: Vec<Column>,
    /// Rows that are kept, of [`BLOCK_ROWS`] positions each.
    slabs: Vec<Slab>,
    /// Bytes of a position's kept rows.
    kept_bytes: usize,
    /// Gives zeros to write over.
    memory: fn(usize) -> Vec<u8>,
}

/// Where the rows of a tree are.
#[derive(Clone, Debug)]
struct Column {
    row_bytes: usize,
    place: Place,
    /// Rows pushed. Those without a digest are the last ones, of the last block.
    count: usize,
}

/// Where the last block of a column is, and those before it.
#[derive(Clone, Debug)]
enum Place {
    /// In the slabs, behind so many bytes of a position's rows.
    Kept(usize),
    /// Here, until its rows are hashed; the others are nowhere.
    Passing(Vec<u8>),
}

/// The kept rows of all trees at some positions: tree after tree the rows of one, side by side.
#[derive(Clone, Debug)]
struct Slab {
    positions: usize,
    bytes: Vec<u8>,
}

impl Slab {
    /// Where a column's rows are that stand behind so many bytes of each position.
    fn area(&self, before: usize, row_bytes: usize) -> Range<usize> {
        before * self.positions..(before + row_bytes) * self.positions
    }
}

impl Column {
    /// The block of the last row: it has a row for each of its positions.
    fn last_block<'a>(&'a self, slabs: &'a [Slab]) -> Option<&'a [u8]> {
        match &self.place {
            Place::Kept(before) => {
                let slab = slabs.get(self.count.checked_sub(1)? / BLOCK_ROWS)?;
                slab.bytes.get(slab.area(*before, self.row_bytes))
            }
            Place::Passing(block) => Some(block),
        }
    }

    /// Hashes the rows that have no digest yet.
    fn hash_waiting(&self, slabs: &[Slab], digests: &mut Vec<Hash>) {
        let known = digests.len();
        let waiting = self.count - known;
        let Some(block) = self.last_block(slabs).filter(|_| waiting > 0) else { return };
        let rows = &block[known % BLOCK_ROWS * self.row_bytes..][..waiting * self.row_bytes];
        digests.resize(self.count, Hash::default());
        plain_hashes(rows, self.row_bytes, &mut digests[known..]);
    }
}

impl Trace {
    /// An empty trace.
    pub fn new(shape: TraceShape) -> Self {
        Self::in_memory(shape, |bytes| vec![0; bytes])
    }

    /// An empty trace whose rows will lie in memory that `memory` gives: so many bytes at a time, all zero.
    pub fn in_memory(shape: TraceShape, memory: fn(usize) -> Vec<u8>) -> Self {
        let mut kept_bytes = 0;
        let columns = shape.trees().map(|tree| {
            let row_bytes = shape.row_bytes(tree);
            let place = if is_kept(tree) {
                kept_bytes += row_bytes;
                Place::Kept(kept_bytes - row_bytes)
            } else {
                Place::Passing(Vec::new())
            };
            Column { row_bytes, place, count: 0 }
        });
        let columns = columns.collect();
        let digests = TraceDigests { shape, columns: vec![Vec::new(); shape.tree_count()] };
        Self { digests, columns, slabs: Vec::new(), kept_bytes, memory }
    }

    /// Appends the rows of the next positions of `tree`; `bytes` holds whole rows.
    ///
    /// # Panics
    /// As [`Self::write`], or when the bytes are no whole rows: a bug of the runtime.
    pub fn push(&mut self, tree: TreeId, bytes: &[u8]) {
        let size = self.digests.shape.row_bytes(tree);
        assert!(bytes.len().is_multiple_of(size), "rows of {tree:?} have {size} bytes");
        self.write(tree, bytes.len() / size, |number, row| {
            row.copy_from_slice(&bytes[number * size..][..size]);
            true
        });
    }

    /// Appends `count` rows of the next positions of `tree`. Each is written where it stays: `write` is given the number
    /// of a row, from 0, and its bytes, and says whether to go on. `false` when it did not: the row is then not there.
    ///
    /// Rows are hashed while they are in the nearest caches, as many side by side as wide instructions take.
    ///
    /// # Panics
    /// When the tree does not exist, or after [`Self::seal`]: a bug of the runtime.
    pub fn write(&mut self, tree: TreeId, count: usize, mut write: impl FnMut(usize, &mut [u8]) -> bool) -> bool {
        let index = self.digests.shape.tree_index(tree).expect("the runtime captures trees of its own model");
        let (column, digests) = (&mut self.columns[index], &mut self.digests.columns[index]);
        let size = column.row_bytes;
        for number in 0..count {
            let (slab, at) = (column.count / BLOCK_ROWS, column.count % BLOCK_ROWS);
            let block = match &mut column.place {
                Place::Kept(before) => {
                    while self.slabs.len() <= slab {
                        let bytes = (self.memory)(BLOCK_ROWS * self.kept_bytes);
                        self.slabs.push(Slab { positions: BLOCK_ROWS, bytes });
                    }
                    let slab = &mut self.slabs[slab];
                    let area = slab.area(*before, size);
                    &mut slab.bytes[area]
                }
                Place::Passing(block) => {
                    block.resize(BLOCK_ROWS * size, 0);
                    block
                }
            };
            if !write(number, &mut block[at * size..][..size]) {
                return false;
            }
            column.count += 1;
            if column.count.is_multiple_of(BLOCK_ROWS) {
                column.hash_waiting(&self.slabs, digests);
            }
        }
        true
    }

    /// Hashes the rows that still wait for others to be hashed with, and frees spare memory: to be called
    /// when there are no more.
    pub fn seal(&mut self) {
        let last = self.slabs.len().saturating_sub(1);
        let kept = self.columns.iter().filter(|column| matches!(column.place, Place::Kept(_)));
        let positions = kept.map(|column| column.count).max().unwrap_or(0).saturating_sub(last * BLOCK_ROWS);
        for (column, digests) in self.columns.iter_mut().zip(&mut self.digests.columns) {
            column.hash_waiting(&self.slabs, digests);
            digests.shrink_to_fit();
            match &mut column.place {
                Place::Passing(block) => *block = Vec::new(),
                // Areas move together, the first first: none is written over before it has moved.
                Place::Kept(before) => {
                    if let Some(slab) = self.slabs.last_mut() {
                        let from = slab.area(*before, column.row_bytes).start;
                        let rows = from..from + column.row_bytes * positions;
                        slab.bytes.copy_within(rows, *before * positions);
                    }
                }
            }
        }
        if let Some(slab) = self.slabs.last_mut() {
            slab.positions = positions;
            slab.bytes.truncate(positions * self.kept_bytes);
            slab.bytes.shrink_to_fit();
        }
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        let passing = self.columns.iter().map(|column| match &column.place {
            Place::Kept(_) => 0,
            Place::Passing(block) => block.capacity(),
        });
        let kept = self.slabs.iter().map(|slab| slab.bytes.capacity());
        kept.chain(passing).sum::<usize>() + self.digests.memory()
    }

    /// The most bytes that a trace of so many positions holds on its way there.
    pub fn most_memory(shape: &TraceShape, positions: usize) -> usize {
        let stored = positions.checked_next_multiple_of(BLOCK_ROWS).unwrap_or(usize::MAX);
        let tree = |tree| {
            let rows = if is_kept(tree) { stored } else { BLOCK_ROWS };
            // Lists grow by doubling.
            let digests = stored.saturating_mul(2 * size_of::<Hash>());
            rows.saturating_mul(shape.row_bytes(tree)).saturating_add(digests)
        };
        shape.trees().map(tree).fold(0, usize::saturating_add)
    }

    /// The bytes of all rows that are kept, piece by piece, in the order of [`TraceDigests::offset`].
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let kept = self.columns.iter().filter_map(|column| match column.place {
            Place::Kept(before) => Some((column, before)),
            Place::Passing(_) => None,
        });
        kept.flat_map(|(column, before)| {
            let starts = (0..column.count).step_by(BLOCK_ROWS);
            starts.zip(&self.slabs).map(move |(start, slab)| {
                let rows = slab.positions.min(column.count - start);
                &slab.bytes[slab.area(before, column.row_bytes)][..rows * column.row_bytes]
            })
        })
    }

    /// The digests of all rows: what is left in memory when the rows are kept elsewhere.
    pub fn digests(&self) -> TraceDigests {
        self.with_digests(Clone::clone)
    }

    /// Reads with the digests of all rows, those that wait too.
    fn with_digests<T>(&self, read: impl FnOnce(&TraceDigests) -> T) -> T {
        let known = self.columns.iter().zip(&self.digests.columns);
        if known.into_iter().all(|(column, digests)| column.count == digests.len()) {
            read(&self.digests)
        } else {
            let mut digests = self.digests.clone();
            for (column, digests) in self.columns.iter().zip(&mut digests.columns) {
                column.hash_waiting(&self.slabs, digests);
            }
            read(&digests)
        }
    }

    /// Rows of a tree that are kept.
    fn kept(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError> {
        let absent = RowsError::Absent { tree, start: positions.start, end: positions.end };
        let index = self.digests.shape.tree_index(tree).ok_or(absent)?;
        let Some(&Column { row_bytes, place: Place::Kept(before), count }) = self.columns.get(index) else {
            return Err(absent);
        };
        if positions.end > count {
            return Err(absent);
        }
        let mut rows = Vec::with_capacity(positions.len() * row_bytes);
        for position in positions {
            let slab = self.slabs.get(position / BLOCK_ROWS).ok_or(absent)?;
            let area = slab.bytes.get(slab.area(before, row_bytes)).ok_or(absent)?;
            rows.extend_from_slice(&area[position % BLOCK_ROWS * row_bytes..][..row_bytes]);
        }
        Ok(rows)
    }
}

impl TraceRows for Trace {
    fn shape(&self) -> TraceShape {
        self.digests.shape
    }

    fn positions(&self) -> usize {
        self.columns.iter().map(|column| column.count).min().unwrap_or(0)
    }

    fn rows(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError> {
        self.with_digests(|digests| digests.rows(tree, positions, |tree, positions| self.kept(tree, positions)))
    }

    fn commit(&self, session: &SessionId, positions: usize) -> TraceTrees {
        self.with_digests(|digests| digests.commit(session, positions))
    }
}

/// The trees of a trace, on the miner's side.
#[derive(Clone, Debug)]
pub struct TraceTrees {
    shape: TraceShape,
    trees: Vec<MerkleTree>,
}

impl TraceTrees {
    /// The roots in their fixed order, each with its leaf count bound beside it.
    pub fn roots(&self) -> Vec<[u8; 32]> {
        self.trees.iter().map(MerkleTree::bound_root).collect()
    }

    /// The tree of that name; `None` if this model has none such.
    pub fn tree(&self, tree: TreeId) -> Option<&MerkleTree> {
        self.trees.get(self.shape.tree_index(tree)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KvGroup;
    use crate::manifest::Architecture;
    use crate::rows::{Profile, decode_row, encode_row, round_bf16};
    use crate::trace::row_digest;

    fn shape(layers: u32, hidden: u32) -> TraceShape {
        let architecture = Architecture {
            vocab_size: 100,
            hidden,
            layers,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            ffn: 192,
            max_positions: 64,
            norm_eps: 1e-5,
            inverse_frequencies: vec![0.5; 8],
            tied: true,
            biases: crate::manifest::Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![],
        };
        TraceShape::new(&architecture, Profile::Bf16V1)
    }

    /// Random rows of every tree as a runtime computes them, row after row.
    fn rows(shape: &TraceShape, positions: usize) -> Vec<(TreeId, Vec<Vec<u8>>)> {
        let mut random = blake3::Hasher::new().update(b"rows").finalize_xof();
        let mut row = |tree| {
            let mut bytes = vec![0; 2 * shape.row_bytes(tree)];
            random.fill(&mut bytes);
            let integers = bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            // Branches of many magnitudes, so that sums round.
            integers
                .map(|x| {
                    round_bf16(f32::from_bits(x.unsigned_abs() % (1 << 28) + (0x38 << 24)).copysign(if x < 0 {
                        -1.0
                    } else {
                        1.0
                    }))
                })
                .collect::<Vec<f32>>()
        };
        let mut streams: Vec<Vec<f32>> = (0..positions).map(|_| row(TreeId::H(LayerIndex::new(0)))).collect();
        let encoded = |rows: &[Vec<f32>]| {
            let encode = |row: &Vec<f32>| {
                let mut bytes = vec![];
                encode_row(Profile::Bf16V1, row, &mut bytes);
                bytes
            };
            rows.iter().map(encode).collect::<Vec<_>>()
        };
        let mut all = vec![];
        for layer in (0..shape.layers).map(LayerIndex::new) {
            all.push((TreeId::H(layer), encoded(&streams)));
            for tree in (0..shape.groups).map(|group| TreeId::Kv(layer, KvGroup::new(group))).chain([TreeId::A(layer)])
            {
                all.push((tree, encoded(&(0..positions).map(|_| row(tree)).collect::<Vec<_>>())));
            }
            for tree in [TreeId::O(layer), TreeId::M(layer)] {
                let branch: Vec<Vec<f32>> = (0..positions).map(|_| row(tree)).collect();
                for (stream, branch) in streams.iter_mut().zip(&branch) {
                    stream.iter_mut().zip(branch).for_each(|(h, b)| *h = round_bf16(*h + b));
                }
                all.push((tree, encoded(&branch)));
            }
        }
        all.push((TreeId::H(LayerIndex::new(shape.layers)), encoded(&streams)));
        all
    }

    /// Pushes in passes of these lengths.
    fn capture(mut trace: Trace, rows: &[(TreeId, Vec<Vec<u8>>)], passes: &[usize]) -> Trace {
        let mut start = 0;
        for length in passes {
            for (tree, rows) in rows {
                trace.push(*tree, &rows[start..start + length].concat());
            }
            start += length;
        }
        trace
    }

    #[test]
    fn rows_come_back_as_they_were_pushed_kept_or_not() {
        let shape = shape(3, 64);
        let passes = [1, 20, 1, 1, 15, 16, 3];
        let positions = passes.iter().sum();
        let pushed = rows(&shape, positions);
        let waiting = capture(Trace::new(shape), &pushed, &passes);
        let mut sealed = waiting.clone();
        sealed.seal();
        for trace in [waiting, sealed] {
            assert_eq!(trace.positions(), positions);
            for (tree, rows) in &pushed {
                assert!(rows.iter().all(|row| decode_row(Profile::Bf16V1, row).is_ok()), "{tree:?}");
                assert_eq!(trace.rows(*tree, 0..positions), Ok(rows.concat()), "{tree:?}");
                assert_eq!(trace.rows(*tree, 17..19), Ok(rows[17..19].concat()), "{tree:?}");
                let absent = RowsError::Absent { tree: *tree, start: positions, end: positions + 1 };
                assert_eq!(trace.rows(*tree, positions..positions + 1), Err(absent));
            }
        }
    }

    #[test]
    fn trees_are_over_the_digests_of_what_was_pushed() {
        let shape = shape(2, 544);
        let pushed = rows(&shape, 37);
        let session = SessionId::new([7; 32]);
        let mut trace = capture(Trace::new(shape), &pushed, &[30, 1, 6]);
        for positions in [37, 30, 1] {
            let trees = trace.commit(&session, positions);
            for (tree, rows) in &pushed {
                let leaves = rows[..positions].iter().zip(0..);
                let leaves = leaves.map(|(row, at)| leaf(&session, *tree, Position::new(at), &row_digest(row)));
                assert_eq!(trees.tree(*tree).unwrap().leaves(), leaves.collect::<Vec<_>>(), "{tree:?}");
            }
            trace.seal();
            assert_eq!(trace.commit(&session, positions).roots(), trees.roots());
        }
    }

    #[test]
    fn a_row_that_is_not_the_sum_is_committed_but_not_read() {
        let shape = shape(3, 64);
        let mut pushed = rows(&shape, 5);
        let end = TreeId::H(LayerIndex::new(3));
        let (_, rows) = pushed.iter_mut().find(|(tree, _)| *tree == end).unwrap();
        rows[2][0] ^= 1;
        let trace = capture(Trace::new(shape), &pushed, &[5]);
        assert_eq!(trace.rows(end, 0..5), Err(RowsError::Changed { tree: end, position: 2 }));
        assert!(trace.rows(end, 3..5).is_ok());
    }

    #[test]
    fn kept_rows_stand_where_the_offset_says() {
        let shape = shape(3, 96);
        let pushed = rows(&shape, 21);
        let trace = capture(Trace::new(shape), &pushed, &[18, 3]);
        let file: Vec<u8> = trace.pieces().flatten().copied().collect();
        let digests = trace.digests();
        let mut bytes = 0;
        for (tree, rows) in &pushed {
            for (position, row) in rows.iter().enumerate() {
                if let Some(offset) = digests.offset(*tree, position) {
                    assert_eq!(&file[usize::try_from(offset).unwrap()..][..row.len()], row.as_slice(), "{tree:?}");
                    bytes += row.len();
                }
            }
        }
        assert_eq!(file.len(), bytes);
    }

    #[test]
    fn a_trace_takes_no_more_memory_than_was_said() {
        let shape = shape(3, 64);
        let pushed = rows(&shape, 100);
        let mut trace = Trace::new(shape);
        for position in 0..100 {
            for (tree, rows) in &pushed {
                trace.push(*tree, &rows[position]);
                assert!(trace.memory() <= Trace::most_memory(&shape, position + 1), "{position}");
            }
        }
        trace.seal();
        let kept = |tree: &TreeId| !matches!(tree, TreeId::H(layer) if layer.get() > 0);
        let rows: usize = shape.trees().filter(kept).map(|tree| 100 * shape.row_bytes(tree)).sum();
        assert_eq!(trace.memory(), rows + 100 * 32 * shape.tree_count());
        assert_eq!(Trace::most_memory(&shape, usize::MAX), usize::MAX);
    }
}
