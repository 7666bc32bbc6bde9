//! Exact margins of an execution, for calibration: the relations of a challenge evaluated with the
//! weights at hand, without sketches, signatures, commitments or openings.

use assay_commitments::manifest::{Architecture, Manifest, SmallTensors};
use assay_commitments::params::CodeParams;
use assay_commitments::rows::{Profile, decode_row};
use assay_commitments::trace::{TraceRows, TreeId};
use assay_commitments::weights::{LayerPolynomial, WeightCommitment};
use assay_commitments::{LayerIndex, Position};
use assay_sumcheck::E;
use rayon::prelude::*;

use crate::challenge::{Cell, Challenge};
use crate::commit::{Committer, PolynomialWeights, Surroundings, manifest};
use crate::decode::head_input;
use crate::model::{CommitError, InMemory, ModelTensors};
use crate::num::{index, power_of_two, real};
use crate::proof::Shape;
use crate::prove::{CellBytes, CellSums, ProveError, head_products};
use crate::relations::{CellRows, Layer, decode_cell, layer};
use crate::verdict::{Margin, Relation, Where};

/// A model as the relations take it: weights in fixed point, with nothing committed.
#[derive(Debug)]
pub struct Reference {
    /// Without commitments.
    manifest: Manifest,
    layers: Vec<(LayerPolynomial, SmallTensors)>,
    /// The shards of lm_head.
    head: Vec<LayerPolynomial>,
    final_norm: Vec<f32>,
}

/// Keeps polynomials, and commits to none.
#[derive(Default)]
struct Keeper(Vec<LayerPolynomial>);

impl Committer<InMemory<'_>> for Keeper {
    type Error = CommitError;

    fn commit(
        &mut self,
        _: usize,
        weights: &PolynomialWeights<'_, InMemory<'_>>,
        _: &CodeParams,
    ) -> Result<WeightCommitment, CommitError> {
        self.0.push(LayerPolynomial::load(weights, weights.exponents().to_vec())?);
        Ok(WeightCommitment { root: [0; 32], evaluation: E::default() })
    }
}

impl Reference {
    /// Takes the weights of a model that is served in `profile`.
    ///
    /// # Errors
    /// [`CommitError`].
    pub fn new(architecture: &Architecture, tensors: &ModelTensors, profile: Profile) -> Result<Self, CommitError> {
        architecture.check()?;
        let weights = InMemory::new(architecture, tensors)?;
        let mut keeper = Keeper::default();
        let surroundings = Surroundings { profile, tokenizer: &[], chat_template: None };
        let (manifest, _) = manifest(&weights, surroundings, &mut keeper)?;
        let mut kept = keeper.0.into_iter();
        let small = tensors.layers.iter().map(|layer| layer.small.clone());
        let layers = kept.by_ref().zip(small).collect();
        Ok(Self { manifest, layers, head: kept.collect(), final_norm: tensors.final_norm.clone() })
    }
}

/// The margins of every relation in the challenge's cells.
///
/// A product's ratio is the mean square deviation over the most allowed, which a sketch estimates; a
/// relation that leaves the range of what can be compared has the ratio infinity. C10, which is exact,
/// has 0 or infinity.
///
/// # Errors
/// [`ProveError`] if the trace does not hold the challenge's positions.
pub fn margins(model: &Reference, trace: &dyn TraceRows, challenge: &Challenge) -> Result<Vec<Margin>, ProveError> {
    let shape = Shape { manifest: &model.manifest, challenge, positions: trace.positions(), signs: 0 };
    let cells = challenge.cells.par_iter().map(|cell| cell_margins(model, trace, &shape, cell));
    Ok(cells.collect::<Result<Vec<_>, _>>()?.concat())
}

/// The logits at `position` in reference arithmetic, from the trace's last row there.
///
/// # Errors
/// [`ProveError`] if the trace does not hold the position, or the row has no finite norm.
pub fn reference_logits(model: &Reference, trace: &dyn TraceRows, position: Position) -> Result<Vec<f64>, ProveError> {
    let manifest = &model.manifest;
    let layer = LayerIndex::new(manifest.architecture.layers);
    let at = index(position.get());
    let rows = trace.rows(TreeId::H(layer), at..at.saturating_add(1))?;
    let input = head_input(&decode_row(manifest.profile, &rows)?, &model.final_norm, manifest)
        .ok_or(ProveError::Range { layer, position, relation: Relation::Logits })?;
    let unit = power_of_two(input.product_exponent(manifest.head.exponent));
    let products = head_products(model.head.iter(), manifest, &input);
    Ok(products.into_iter().map(|product| real(product) * unit).collect())
}

fn cell_margins(
    model: &Reference,
    trace: &dyn TraceRows,
    shape: &Shape<'_>,
    cell: &Cell,
) -> Result<Vec<Margin>, ProveError> {
    let place = Where::cell(cell.layer, cell.position);
    let manifest = &model.manifest;
    let number = index(cell.layer.get());
    let (polynomial, small) = &model.layers[number];
    let layer = layer(manifest, &manifest.layers[number], small);
    let CellBytes { rows: [h, a, o, m], caches } = CellBytes::read(trace, shape, cell)?;
    let rows = decode_cell(manifest, cell, [&h, &a, &o, &m], &caches)?;
    let sums = match CellSums::new(&layer, polynomial, cell, &rows) {
        Ok(sums) => sums,
        Err(ProveError::Range { relation, .. }) => {
            return Ok(vec![Margin { place: place.relation(relation), ratio: f64::INFINITY }]);
        }
        Err(error) => return Err(error),
    };
    let mut margins: Vec<Margin> = sums
        .linears
        .iter()
        .zip(&sums.products)
        .map(|(linear, products)| Margin {
            place: place.relation(linear.relation()),
            ratio: linear.target.exact_ratio(products),
        })
        .collect();
    match layer.elementwise(&sums.inputs, &rows, cell.position, &sums.supplied) {
        Ok(checks) => margins.extend(
            checks
                .iter()
                .map(|check| Margin { place: place.relation(check.relation).group(check.group), ratio: check.ratio }),
        ),
        Err(relation) => margins.push(Margin { place: place.relation(relation), ratio: f64::INFINITY }),
    }
    margins.push(Margin {
        place: place.relation(Relation::C10),
        ratio: if is_residual_exact(&layer, manifest.profile, trace, cell, &rows)? { 0.0 } else { f64::INFINITY },
    });
    Ok(margins)
}

/// Whether the next layer's committed input is the exact sum of this cell's rows.
fn is_residual_exact(
    layer: &Layer<'_>,
    profile: Profile,
    trace: &dyn TraceRows,
    cell: &Cell,
    rows: &CellRows,
) -> Result<bool, ProveError> {
    let next = LayerIndex::new(cell.layer.get().saturating_add(1));
    let position = index(cell.position.get());
    let committed = trace.rows(TreeId::H(next), position..position.saturating_add(1))?;
    let committed = decode_row(profile, &committed)?;
    Ok(layer.middle(rows).is_ok_and(|middle| layer.next(&middle, rows) == committed))
}
