//! The loops of a product: tiles of sums that stay in registers.
#![expect(
    clippy::inline_always,
    reason = "only code that is inlined is compiled for the instructions found at run time"
)]

use std::ops::Range;

use super::lanes::{LANES, Lanes, Task, Vector};

/// Inputs of a panel: what it holds for a tile's outputs stays in the first cache.
const PANEL: usize = 1024;

/// Floats of the rows that take turns on a panel: they stay in the second cache.
const ROW_BLOCK: usize = 1 << 18;

/// Steps whose loop is unrolled: a cache line of 8-bit weights.
const UNIT: usize = 4;

/// Bytes of a cache line.
const LINE: usize = 64;

/// How a weight is stored.
pub(super) trait Element: Copy + Sync {
    const ZERO: Self;
    /// Whether groups of inputs have a scale.
    const SCALED: bool;

    fn widen<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V;
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const SCALED: bool = false;

    #[inline(always)]
    fn widen<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V {
        lanes.load(from)
    }
}

/// Bits of a bf16.
impl Element for u16 {
    const ZERO: Self = 0;
    const SCALED: bool = false;

    #[inline(always)]
    fn widen<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V {
        lanes.widen_bf16(from)
    }
}

/// Bits of an 8-bit integer.
impl Element for u8 {
    const ZERO: Self = 0;
    const SCALED: bool = true;

    #[inline(always)]
    fn widen<L: Lanes>(lanes: L, from: &[Self; LANES]) -> L::V {
        lanes.widen_int8(from)
    }
}

/// A matrix `[outputs, inputs]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix<'a, E> {
    pub(super) values: &'a [E],
    pub(super) inputs: usize,
    /// One an output and group of inputs, for scaled elements.
    pub(super) scales: &'a [f32],
    /// Inputs of a group.
    pub(super) group: usize,
}

impl<'a, E: Element> Matrix<'a, E> {
    /// A row's weights for a range of inputs.
    #[inline(always)]
    fn row(&self, output: usize, inputs: Range<usize>) -> &'a [E] {
        &self.values[output * self.inputs..][inputs]
    }

    /// A row's scales for the groups from input `start` on.
    #[inline(always)]
    fn row_scales(&self, output: usize, start: usize) -> &'a [f32] {
        if !E::SCALED {
            return &[];
        }
        let groups = self.inputs.div_ceil(self.group);
        &self.scales[output * groups..][start / self.group..groups]
    }

    /// Inputs of a panel: whole groups.
    #[inline(always)]
    fn panel(&self) -> usize {
        if E::SCALED { (PANEL / self.group).max(1) * self.group } else { PANEL }
    }
}

/// Rows `[n, inputs]` in tiles: step by step, sixteen inputs of each of the tile's rows. Inputs are
/// filled up with zeros to whole steps.
#[derive(Debug)]
pub(super) struct Rows {
    vectors: Vec<Vector>,
    pub(super) count: usize,
    steps: usize,
    tile: usize,
}

impl Rows {
    pub(super) fn new(rows: &[f32], inputs: usize, tile: usize) -> Self {
        let steps = inputs.div_ceil(LANES);
        let mut vectors = Vec::with_capacity(rows.len() / inputs * steps);
        for rows in rows.chunks(tile * inputs) {
            for step in 0..steps {
                for row in rows.chunks_exact(inputs) {
                    let row = &row[step * LANES..];
                    let mut vector = [0.0; LANES];
                    match row.first_chunk() {
                        Some(full) => vector = *full,
                        None => vector[..row.len()].copy_from_slice(row),
                    }
                    vectors.push(Vector(vector));
                }
            }
        }
        Self { vectors, count: rows.len() / inputs, steps, tile }
    }

    /// A range of steps of the tile of `ROWS` rows from `first` on.
    #[inline(always)]
    fn tile<const ROWS: usize>(&self, first: usize, steps: Range<usize>) -> &[[Vector; ROWS]] {
        let tile = &self.vectors[first * self.steps..][..ROWS * self.steps];
        &tile.as_chunks().0[steps]
    }
}

/// The weights of `OUTPUTS` outputs for consecutive steps.
trait Weights<L: Lanes, const OUTPUTS: usize>: Copy {
    fn part(self, steps: Range<usize>) -> Self;
    fn get(self, lanes: L, step: usize, output: usize) -> L::V;
}

/// Widened before.
impl<L: Lanes, const OUTPUTS: usize> Weights<L, OUTPUTS> for &[[Vector; OUTPUTS]] {
    #[inline(always)]
    fn part(self, steps: Range<usize>) -> Self {
        &self[steps]
    }
    #[inline(always)]
    fn get(self, lanes: L, step: usize, output: usize) -> L::V {
        lanes.load(&self[step][output].0)
    }
}

/// As they are stored.
#[derive(Clone, Copy, Debug)]
struct Stored<'a, E, const OUTPUTS: usize> {
    rows: [&'a [[E; LANES]]; OUTPUTS],
    /// Vectors from here to the next tile's weights, which are asked for meanwhile.
    tile: usize,
}

impl<L: Lanes, E: Element, const OUTPUTS: usize> Weights<L, OUTPUTS> for Stored<'_, E, OUTPUTS> {
    #[inline(always)]
    fn part(mut self, steps: Range<usize>) -> Self {
        for row in &mut self.rows {
            *row = &row[steps.start..steps.end];
        }
        self
    }
    #[inline(always)]
    fn get(self, lanes: L, step: usize, output: usize) -> L::V {
        let weights = &self.rows[output][step];
        if step.is_multiple_of(LINE / size_of::<[E; LANES]>()) {
            lanes.prefetch(std::ptr::from_ref(weights).wrapping_add(self.tile).cast());
        }
        E::widen(lanes, weights)
    }
}

/// A tile's sums.
type Sums<V, const ROWS: usize, const OUTPUTS: usize> = [[V; OUTPUTS]; ROWS];

/// Adds the products of consecutive steps.
#[inline(always)]
fn add_products<L: Lanes, const ROWS: usize, const OUTPUTS: usize>(
    lanes: L,
    x: &[[Vector; ROWS]],
    weights: impl Weights<L, OUTPUTS>,
    mut sums: Sums<L::V, ROWS, OUTPUTS>,
) -> Sums<L::V, ROWS, OUTPUTS> {
    let weights = weights.part(0..x.len());
    for (step, x) in x.iter().enumerate() {
        let mut factors = [lanes.splat(0.0); ROWS];
        for (factor, x) in factors.iter_mut().zip(x) {
            *factor = lanes.load(&x.0);
        }
        for output in 0..OUTPUTS {
            let weight = weights.get(lanes, step, output);
            for (sums, factor) in sums.iter_mut().zip(factors) {
                sums[output] = lanes.mul_add(factor, weight, sums[output]);
            }
        }
    }
    sums
}

/// Adds the sums of a group, times its scales.
#[inline(always)]
fn add_scaled<L: Lanes, const ROWS: usize, const OUTPUTS: usize>(
    lanes: L,
    scales: [&[f32]; OUTPUTS],
    index: usize,
    group: &Sums<L::V, ROWS, OUTPUTS>,
    sums: &mut Sums<L::V, ROWS, OUTPUTS>,
) {
    for (output, scales) in scales.into_iter().enumerate() {
        let scale = lanes.splat(scales[index]);
        for (sums, group) in sums.iter_mut().zip(group) {
            sums[output] = lanes.mul_add(scale, group[output], sums[output]);
        }
    }
}

/// A share of the outputs, for all rows.
#[derive(Debug)]
pub(super) struct Share<'a, 'b, E> {
    pub(super) rows: &'a Rows,
    pub(super) matrix: Matrix<'a, E>,
    /// The first output.
    pub(super) start: usize,
    /// The outputs from there on, row by row.
    pub(super) out: Vec<&'b mut [f32]>,
}

impl<E: Element> Task for Share<'_, '_, E> {
    #[inline(always)]
    fn run<L: Lanes, const OUTPUTS: usize>(mut self, lanes: L) {
        debug_assert_eq!(self.rows.tile, L::ROWS, "the rows are packed for these instructions");
        if self.rows.count <= L::ROWS && self.matrix.inputs.is_multiple_of(LANES) {
            match self.rows.count {
                1 => self.few::<L, 1, OUTPUTS>(lanes),
                2 => self.few::<L, 2, OUTPUTS>(lanes),
                3 if L::ROWS > 2 => self.few::<L, 3, OUTPUTS>(lanes),
                4 if L::ROWS > 2 => self.few::<L, 4, OUTPUTS>(lanes),
                _ => {}
            }
        } else {
            self.many::<L, OUTPUTS>(lanes);
        }
    }
}

impl<'a, E: Element> Share<'a, '_, E> {
    /// The outputs that a tile from `first` on computes: where there are none left, the last again.
    #[inline(always)]
    fn outputs<const OUTPUTS: usize>(&self, first: usize) -> [usize; OUTPUTS] {
        let last = self.out[0].len() - 1;
        std::array::from_fn(|index| self.start + (first + index).min(last))
    }

    /// The scales of a tile's outputs for the groups from input `start` on.
    #[inline(always)]
    fn scales<const OUTPUTS: usize>(&self, outputs: &[usize; OUTPUTS], start: usize) -> [&'a [f32]; OUTPUTS] {
        let mut scales: [&[f32]; OUTPUTS] = [&[]; OUTPUTS];
        scales.iter_mut().zip(outputs).for_each(|(scales, output)| *scales = self.matrix.row_scales(*output, start));
        scales
    }

    /// One tile of rows: weights are widened on their way from memory.
    #[inline(always)]
    fn few<L: Lanes, const ROWS: usize, const OUTPUTS: usize>(&mut self, lanes: L) {
        let inputs = self.matrix.inputs;
        let x = self.rows.tile::<ROWS>(0, 0..self.rows.steps);
        for first in (0..self.out[0].len()).step_by(OUTPUTS) {
            let outputs = self.outputs::<OUTPUTS>(first);
            let mut weights = Stored { rows: [&[][..]; OUTPUTS], tile: OUTPUTS * inputs / LANES };
            for (row, output) in weights.rows.iter_mut().zip(outputs) {
                *row = self.matrix.row(output, 0..inputs).as_chunks().0;
            }
            let sums = [[lanes.splat(0.0); OUTPUTS]; ROWS];
            let sums = self.add_block(lanes, x, weights, self.scales(&outputs, 0), sums);
            self.finish(lanes, 0, first, &sums);
        }
    }

    /// Many tiles of rows: panels of weights are widened once for as many rows as the cache holds.
    #[inline(always)]
    fn many<L: Lanes, const OUTPUTS: usize>(&mut self, lanes: L) {
        let inputs = self.matrix.inputs;
        let panel_inputs = self.matrix.panel();
        let block = (ROW_BLOCK / (self.rows.steps * LANES)).next_multiple_of(L::ROWS).max(L::ROWS);
        let mut panel = vec![[Vector([0.0; LANES]); OUTPUTS]; panel_inputs.min(inputs).div_ceil(LANES)];
        let mut sums = vec![[lanes.splat(0.0); OUTPUTS]; block.min(self.rows.count)];
        for rows in (0..self.rows.count).step_by(block) {
            let rows = rows..self.rows.count.min(rows + block);
            for first in (0..self.out[0].len()).step_by(OUTPUTS) {
                let outputs = self.outputs::<OUTPUTS>(first);
                for start in (0..inputs).step_by(panel_inputs) {
                    let range = start..inputs.min(start + panel_inputs);
                    let panel = &mut panel[..range.len().div_ceil(LANES)];
                    for (index, output) in outputs.into_iter().enumerate() {
                        widen(lanes, self.matrix.row(output, range.clone()), panel, index);
                    }
                    let scales = self.scales(&outputs, start);
                    for row in rows.clone().step_by(L::ROWS) {
                        let sums = &mut sums[row - rows.start..];
                        let place = Place { row, first, scales, start };
                        match rows.end - row {
                            1 => self.tile::<L, 1, OUTPUTS>(lanes, &place, panel, sums),
                            2 => self.tile::<L, 2, OUTPUTS>(lanes, &place, panel, sums),
                            _ if L::ROWS == 2 => self.tile::<L, 2, OUTPUTS>(lanes, &place, panel, sums),
                            3 => self.tile::<L, 3, OUTPUTS>(lanes, &place, panel, sums),
                            _ => self.tile::<L, 4, OUTPUTS>(lanes, &place, panel, sums),
                        }
                    }
                }
            }
        }
    }

    /// A tile on a panel: from the sums of the panel before, or from zero, to the next or to the end.
    #[inline(always)]
    fn tile<L: Lanes, const ROWS: usize, const OUTPUTS: usize>(
        &mut self,
        lanes: L,
        place: &Place<'_, OUTPUTS>,
        panel: &[[Vector; OUTPUTS]],
        kept: &mut [[L::V; OUTPUTS]],
    ) {
        let step = place.start / LANES;
        let x = self.rows.tile::<ROWS>(place.row, step..step + panel.len());
        let mut sums = [[lanes.splat(0.0); OUTPUTS]; ROWS];
        if place.start > 0 {
            sums.copy_from_slice(&kept[..ROWS]);
        }
        let sums = self.add_block(lanes, x, panel, place.scales, sums);
        if step + panel.len() == self.rows.steps {
            self.finish(lanes, place.row, place.first, &sums);
        } else {
            kept[..ROWS].copy_from_slice(&sums);
        }
    }

    /// Adds the products of whole groups. Those of a group are added up by themselves, and their sum
    /// comes in scaled.
    #[inline(always)]
    fn add_block<L: Lanes, const ROWS: usize, const OUTPUTS: usize>(
        &self,
        lanes: L,
        x: &[[Vector; ROWS]],
        weights: impl Weights<L, OUTPUTS>,
        scales: [&[f32]; OUTPUTS],
        mut sums: Sums<L::V, ROWS, OUTPUTS>,
    ) -> Sums<L::V, ROWS, OUTPUTS> {
        let zero = [[lanes.splat(0.0); OUTPUTS]; ROWS];
        let steps = self.matrix.group / LANES;
        if ROWS > 1 || (E::SCALED && !steps.is_multiple_of(UNIT)) {
            if !E::SCALED {
                return add_products(lanes, x, weights, sums);
            }
            for (index, x) in x.chunks(steps).enumerate() {
                let weights = weights.part(index * steps..index * steps + x.len());
                add_scaled(lanes, scales, index, &add_products(lanes, x, weights, zero), &mut sums);
            }
            return sums;
        }
        // A row alone waits for memory: nothing is set up for a group, and no line is asked for twice.
        let (units, rest) = x.as_chunks::<UNIT>();
        let (mut group, mut index) = (if E::SCALED { zero } else { sums }, 0);
        let (mut done, mut end) = (0, steps);
        for x in units {
            group = add_products(lanes, x, weights.part(done..done + UNIT), group);
            done += UNIT;
            if E::SCALED && done == end {
                add_scaled(lanes, scales, index, &group, &mut sums);
                (group, index, end) = (zero, index + 1, end + steps);
            }
        }
        group = add_products(lanes, rest, weights.part(done..x.len()), group);
        if !E::SCALED {
            return group;
        }
        if x.len() > end - steps {
            add_scaled(lanes, scales, index, &group, &mut sums);
        }
        sums
    }

    /// Adds the lanes of a tile's sums and writes them.
    #[inline(always)]
    fn finish<L: Lanes, const ROWS: usize, const OUTPUTS: usize>(
        &mut self,
        lanes: L,
        row: usize,
        first: usize,
        sums: &Sums<L::V, ROWS, OUTPUTS>,
    ) {
        let sums = sums.as_flattened();
        let mut totals = [[0.0; OUTPUTS]; ROWS];
        for (sums, totals) in sums.chunks(LANES).zip(totals.as_flattened_mut().chunks_mut(LANES)) {
            let mut vectors = [lanes.splat(0.0); LANES];
            vectors[..sums.len()].copy_from_slice(sums);
            totals.copy_from_slice(&lanes.sums(vectors)[..totals.len()]);
        }
        for (out, totals) in self.out[row..].iter_mut().zip(&totals) {
            let out = &mut out[first..];
            let count = out.len().min(OUTPUTS);
            out[..count].copy_from_slice(&totals[..count]);
        }
    }
}

/// Where a tile stands.
struct Place<'a, const OUTPUTS: usize> {
    /// Its first row.
    row: usize,
    /// Its first output, from the share's start on.
    first: usize,
    /// The scales of its outputs for the panel's groups.
    scales: [&'a [f32]; OUTPUTS],
    /// The first input of its panel.
    start: usize,
}

/// Widens a row of weights to its place in a panel, filled up with zeros.
#[inline(always)]
fn widen<L: Lanes, E: Element, const OUTPUTS: usize>(
    lanes: L,
    row: &[E],
    panel: &mut [[Vector; OUTPUTS]],
    index: usize,
) {
    let (full, rest) = row.as_chunks::<LANES>();
    for (from, to) in full.iter().zip(panel.iter_mut()) {
        lanes.store(&mut to[index].0, E::widen(lanes, from));
    }
    if !rest.is_empty() {
        let mut padded = [E::ZERO; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        lanes.store(&mut panel[full.len()][index].0, E::widen(lanes, &padded));
    }
}
