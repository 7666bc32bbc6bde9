//! Rows that need not be those of any execution.

use std::collections::BTreeMap;
use std::ops::Range;

use assay_commitments::rows::{Profile, decode_row, encode_row};
use assay_commitments::trace::{RowsError, Trace, TraceRows, TraceShape, TraceTrees, TreeId};
use assay_commitments::{LayerIndex, SessionId};

/// The rows of an execution, to be changed.
#[derive(Clone, Debug)]
pub struct Rows {
    shape: TraceShape,
    profile: Profile,
    positions: usize,
    layers: u32,
    bytes: BTreeMap<TreeId, Vec<u8>>,
}

impl Rows {
    /// The rows of `trace`.
    pub fn of(trace: &dyn TraceRows, profile: Profile) -> Self {
        let (shape, positions) = (trace.shape(), trace.positions());
        let read = |tree| (tree, trace.rows(tree, 0..positions).expect("a trace holds its own rows"));
        let bytes: BTreeMap<TreeId, Vec<u8>> = shape.trees().map(read).collect();
        let streams = bytes.keys().filter(|tree| matches!(tree, TreeId::H(_))).count();
        let layers = u32::try_from(streams - 1).expect("layers are counted in 32 bits");
        Self { shape, profile, positions, layers, bytes }
    }

    /// Positions there are.
    pub const fn positions(&self) -> usize {
        self.positions
    }

    /// All layers.
    pub fn layers(&self) -> impl Iterator<Item = LayerIndex> + use<> {
        (0..self.layers).map(LayerIndex::new)
    }

    fn span(&self, tree: TreeId, position: usize) -> Range<usize> {
        let size = self.shape.row_bytes(tree);
        position * size..(position + 1) * size
    }

    fn column(&mut self, tree: TreeId) -> &mut Vec<u8> {
        self.bytes.get_mut(&tree).expect("the model has this tree")
    }

    /// Changes the row of `tree` at `position`.
    pub fn change(&mut self, tree: TreeId, position: usize, change: impl FnOnce(&mut [f32])) {
        let (profile, span) = (self.profile, self.span(tree, position));
        let bytes = &mut self.column(tree)[span];
        let decoded = decode_row(profile, bytes).expect("rows are canonical");
        #[expect(clippy::cast_possible_truncation, reason = "a decoded row holds numbers of its profile")]
        let mut row: Vec<f32> = decoded.into_iter().map(|value| value as f32).collect();
        change(&mut row);
        let mut changed = vec![];
        encode_row(profile, &row, &mut changed);
        bytes.copy_from_slice(&changed);
    }

    /// Takes the rows of `tree` at `positions` from another execution.
    pub fn take(&mut self, other: &Self, tree: TreeId, positions: Range<usize>) {
        let size = self.shape.row_bytes(tree);
        let span = positions.start * size..positions.end * size;
        let from = other.bytes[&tree][span.clone()].to_vec();
        self.column(tree)[span].copy_from_slice(&from);
    }

    /// The same numbers as rows of a model in another profile, which has them all.
    #[must_use]
    pub fn written_in(mut self, profile: Profile, shape: TraceShape) -> Self {
        for bytes in self.bytes.values_mut() {
            let numbers = decode_row(self.profile, bytes).expect("rows are canonical");
            #[expect(clippy::cast_possible_truncation, reason = "a decoded row holds numbers of its profile")]
            let numbers: Vec<f32> = numbers.into_iter().map(|value| value as f32).collect();
            bytes.clear();
            encode_row(profile, &numbers, bytes);
        }
        Self { shape, profile, ..self }
    }

    /// The rows as something that is committed and proven from.
    pub fn forge(self) -> Forged {
        let mut trace = Trace::new(self.shape);
        for (tree, bytes) in &self.bytes {
            trace.push(*tree, bytes);
        }
        trace.seal();
        Forged { rows: self, trace }
    }
}

/// Forged rows. A plain trace would rebuild the residual stream from its branches; this one has what was
/// committed, whether it is their sum or not.
#[derive(Clone, Debug)]
pub struct Forged {
    rows: Rows,
    trace: Trace,
}

impl Forged {
    /// The trace over the forged rows, for commitments.
    pub const fn trace(&self) -> &Trace {
        &self.trace
    }
}

impl TraceRows for Forged {
    fn shape(&self) -> TraceShape {
        self.rows.shape
    }

    fn positions(&self) -> usize {
        self.rows.positions
    }

    fn rows(&self, tree: TreeId, positions: Range<usize>) -> Result<Vec<u8>, RowsError> {
        let size = self.rows.shape.row_bytes(tree);
        let column = self.rows.bytes.get(&tree).and_then(|rows| rows.get(positions.start * size..positions.end * size));
        let absent = RowsError::Absent { tree, start: positions.start, end: positions.end };
        column.map(<[u8]>::to_vec).ok_or(absent)
    }

    fn commit(&self, session: &SessionId, positions: usize) -> TraceTrees {
        self.trace.commit(session, positions)
    }
}
