//! Exact margins of an execution, for calibration: the relations of a challenge evaluated with the
//! weights at hand, without sketches, signatures or openings.

use assay_commitments::rows::decode_row;
use assay_commitments::trace::{TraceRows, TreeId};
use assay_commitments::{LayerIndex, Position, SessionId};
use rayon::prelude::*;

use crate::challenge::{Cell, Challenge};
use crate::decode::head_input;
use crate::model::CommittedModel;
use crate::num::{index, power_of_two, real};
use crate::proof::Shape;
use crate::prove::{ProveError, Source, head_products};
use crate::relations::layer;
use crate::verdict::{Margin, Relation, Where};

/// The margins of every relation in the challenge's cells.
///
/// A product's ratio is the mean square deviation over the most allowed, which a sketch estimates; a
/// relation that leaves the range of what can be compared has the ratio infinity. C10, which is exact,
/// has 0 or infinity.
///
/// # Errors
/// [`ProveError`] if the trace does not hold the challenge's positions.
pub fn margins(
    model: &CommittedModel,
    trace: &dyn TraceRows,
    challenge: &Challenge,
) -> Result<Vec<Margin>, ProveError> {
    let positions = trace.positions();
    let shape = Shape { manifest: &model.manifest, challenge, positions, signs: 0 };
    // No opening is made, so the session that keys the leaves does not matter.
    let trees = trace.commit(&SessionId::new([0; 32]), positions);
    let source = Source { model, shape, trace, trees };
    let cells = challenge.cells.par_iter().map(|cell| cell_margins(&source, cell));
    Ok(cells.collect::<Result<Vec<_>, _>>()?.concat())
}

/// The logits at `position` in reference arithmetic, from the trace's last row there.
///
/// # Errors
/// [`ProveError`] if the trace does not hold the position, or the row has no finite norm.
pub fn reference_logits(
    model: &CommittedModel,
    trace: &dyn TraceRows,
    position: Position,
) -> Result<Vec<f64>, ProveError> {
    let manifest = &model.manifest;
    let layer = LayerIndex::new(manifest.architecture.layers);
    let at = index(position.get());
    let rows = trace.rows(TreeId::H(layer), at..at.saturating_add(1))?;
    let input = head_input(&decode_row(manifest.profile, &rows)?, &model.final_norm, manifest)
        .ok_or(ProveError::Range { layer, position, relation: Relation::Logits })?;
    let unit = power_of_two(input.product_exponent(manifest.head.exponent));
    Ok(head_products(model, &input).into_iter().map(|product| real(product) * unit).collect())
}

fn cell_margins(source: &Source<'_>, cell: &Cell) -> Result<Vec<Margin>, ProveError> {
    let place = Where::cell(cell.layer, cell.position);
    let proven = match source.cell(cell) {
        Ok(proven) => proven,
        Err(ProveError::Range { relation, .. }) => {
            return Ok(vec![Margin { place: place.relation(relation), ratio: f64::INFINITY }]);
        }
        Err(error) => return Err(error),
    };
    let manifest = &source.model.manifest;
    let number = index(cell.layer.get());
    let layer = layer(manifest, &manifest.layers[number], &source.model.layers[number].small);
    let mut margins: Vec<Margin> = proven
        .linears
        .iter()
        .zip(&proven.products)
        .map(|(linear, products)| Margin {
            place: place.relation(linear.relation()),
            ratio: linear.target.exact_ratio(products),
        })
        .collect();
    match layer.elementwise(&proven.rows, cell.position, &proven.witness.supplied) {
        Ok(checks) => margins.extend(
            checks
                .iter()
                .map(|check| Margin { place: place.relation(check.relation).group(check.group), ratio: check.ratio }),
        ),
        Err(relation) => margins.push(Margin { place: place.relation(relation), ratio: f64::INFINITY }),
    }
    margins.push(Margin {
        place: place.relation(Relation::C10),
        ratio: if source.is_residual_exact(cell, &proven.rows)? { 0.0 } else { f64::INFINITY },
    });
    Ok(margins)
}
