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
}

/// The rows of a tree: those that are kept, or those that wait to be hashed.
#[derive(Clone, Debug, Default)]
struct Column {
    /// All but the last are full.
    blocks: Vec<Vec<u8>>,
    /// Rows without a digest: the last ones of the last block.
    waiting: usize,
}

impl Column {
    fn hash_waiting(&self, row_bytes: usize, digests: &mut Vec<Hash>) {
        let Some(block) = self.blocks.last() else { return };
        let known = digests.len();
        digests.resize(known + self.waiting, Hash::default());
        plain_hashes(&block[block.len() - self.waiting * row_bytes..], row_bytes, &mut digests[known..]);
    }
}

impl Trace {
    /// An empty trace.
    pub fn new(shape: TraceShape) -> Self {
        let digests = TraceDigests { shape, columns: vec![Vec::new(); shape.tree_count()] };
        Self { digests, columns: vec![Column::default(); shape.tree_count()] }
    }

    /// Appends the rows of the next positions of `tree`; `bytes` holds whole rows.
    ///
    /// # Panics
    /// When the tree does not exist or the bytes are no whole rows: a bug of the runtime.
    pub fn push(&mut self, tree: TreeId, mut bytes: &[u8]) {
        let TraceDigests { shape, columns } = &mut self.digests;
        let size = shape.row_bytes(tree);
        assert!(bytes.len().is_multiple_of(size), "rows of {tree:?} have {size} bytes");
        let index = shape.tree_index(tree).expect("the runtime captures trees of its own model");
        let (column, digests) = (&mut self.columns[index], &mut columns[index]);
        let full = BLOCK_ROWS * size;
        while !bytes.is_empty() {
            if column.blocks.last().is_none_or(|block| block.len() == full) {
                column.blocks.push(Vec::with_capacity(full));
            }
            let Some(block) = column.blocks.last_mut() else { return };
            let (now, later) = bytes.split_at(bytes.len().min(full - block.len()));
            block.extend_from_slice(now);
            column.waiting += now.len() / size;
            bytes = later;
            if block.len() == full {
                column.hash_waiting(size, digests);
                column.waiting = 0;
                if !is_kept(tree)
                    && let Some(block) = column.blocks.last_mut()
                {
                    block.clear();
                }
            }
        }
    }

    /// Hashes the rows that still wait for others to be hashed with, and frees spare memory: to be called
    /// when there are no more.
    pub fn seal(&mut self) {
        let TraceDigests { shape, columns } = &mut self.digests;
        for (tree, (column, digests)) in shape.trees().zip(self.columns.iter_mut().zip(columns)) {
            column.hash_waiting(shape.row_bytes(tree), digests);
            column.waiting = 0;
            digests.shrink_to_fit();
            if !is_kept(tree) {
                column.blocks = Vec::new();
            } else if let Some(block) = column.blocks.last_mut() {
                block.shrink_to_fit();
            }
        }
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        let blocks = self.columns.iter().flat_map(|column| &column.blocks);
        blocks.map(Vec::capacity).sum::<usize>() + self.digests.memory()
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
        let shape = &self.digests.shape;
        let kept = shape.trees().zip(&self.columns).filter(|(tree, _)| is_kept(*tree));
        kept.flat_map(|(_, column)| column.blocks.iter().map(Vec::as_slice))
    }

    /// The digests of all rows: what is left in memory when the rows are kept elsewhere.
    pub fn digests(&self) -> TraceDigests {
        self.with_digests(Clone::clone)
    }

    /// Reads with the digests of all rows, those that wait too.
    fn with_digests<T>(&self, read: impl FnOnce(&TraceDigests) -> T) -> T {
        if self.columns.iter().all(|column| column.waiting == 0) {
            read(&self.digests)
        } else {
            let mut digests = self.digests.clone();
            let columns = self.columns.iter().zip(&mut digests.columns);
            for (tree, (column, digests)) in self.digests.shape.trees().zip(columns) {
                column.hash_waiting(self.digests.shape.row_bytes(tree), digests);
            }
            read(&digests)
        }
    }
}

impl TraceRows for Trace {
    fn shape(&self) -> TraceShape {
        self.digests.shape
    }

    fn positions(&self) -> usize {
        let columns = self.columns.iter().zip(&self.digests.columns);
        columns.map(|(column, digests)| digests.len() + column.waiting).min().unwrap_or(0)
    }

    fn rows(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError> {
        let kept = |tree, positions: Range<usize>| {
            let absent = RowsError::Absent { tree, start: positions.start, end: positions.end };
            let size = self.digests.shape.row_bytes(tree);
            let column = self.digests.shape.tree_index(tree).and_then(|index| self.columns.get(index)).ok_or(absent)?;
            let mut rows = Vec::with_capacity(positions.len() * size);
            for position in positions {
                let start = position % BLOCK_ROWS * size;
                let block = column.blocks.get(position / BLOCK_ROWS);
                rows.extend_from_slice(block.and_then(|block| block.get(start..start + size)).ok_or(absent)?);
            }
            Ok(rows)
        };
        self.with_digests(|digests| digests.rows(tree, positions, kept))
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
