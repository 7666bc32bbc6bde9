//! The relations of a cell: from committed rows to committed rows.
//!
//! Prover and verifier run the same functions on the same committed inputs. What cannot be computed
//! without weights, the query, key, gate and up products, comes from the miner and is itself one of
//! the linear relations.

use std::sync::Arc;

use assay_commitments::codec::Malformed;
use assay_commitments::manifest::{Architecture, LayerEntry, Manifest, Matrix, Small, SmallTensors};
use assay_commitments::rows::{Profile, decode_row};
use assay_commitments::{KvGroup, Position};

use crate::challenge::Cell;
use crate::fixed::{FixedRow, Supplied};
use crate::num::index;
use crate::reference::{add, attention, multiply, rms_norm, rope};
use crate::rounding::{Flips, Rounded, resolve_silu};
use crate::sketch::Target;
use crate::tolerance::{Tolerance, channels, deviation, median_magnitude};
use crate::verdict::Relation;

/// A cached key and value of one group at one position.
#[derive(Clone, Debug)]
pub(crate) struct CacheRow {
    pub(crate) key: Vec<f64>,
    pub(crate) value: Vec<f64>,
}

/// The committed rows of a cell, decoded.
#[derive(Clone, Debug)]
pub(crate) struct CellRows {
    pub(crate) h: Vec<f64>,
    pub(crate) a: Vec<f64>,
    pub(crate) o: Vec<f64>,
    pub(crate) m: Vec<f64>,
    /// Every group at the cell's position.
    pub(crate) caches: Vec<CacheRow>,
    /// For each drawn group the positions before, as far as the window reaches.
    pub(crate) prefixes: Vec<(KvGroup, Vec<CacheRow>)>,
}

/// The products that come with a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SuppliedProducts {
    /// Of the drawn groups' heads, ascending.
    pub(crate) q: Supplied,
    pub(crate) k: Supplied,
    pub(crate) gate: Supplied,
    pub(crate) up: Supplied,
    /// Where the runtime rounded the other way.
    pub(crate) flips: Flips,
}

/// A layer's constants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layer<'a> {
    pub(crate) architecture: &'a Architecture,
    pub(crate) tolerance: Tolerance,
    pub(crate) profile: Profile,
    pub(crate) small: &'a SmallTensors,
    pub(crate) exponents: [i16; 7],
}

/// A product of integers and what it is compared with.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) matrix: Matrix,
    pub(crate) input: Arc<FixedRow>,
    pub(crate) target: Target,
}

impl Linear {
    pub(crate) const fn relation(&self) -> Relation {
        relation_of(self.matrix)
    }
}

const fn relation_of(matrix: Matrix) -> Relation {
    match matrix {
        Matrix::Q | Matrix::K => Relation::C2,
        Matrix::V => Relation::C4,
        Matrix::O => Relation::C6,
        Matrix::Gate | Matrix::Up => Relation::C8,
        Matrix::Down => Relation::C9,
    }
}

/// The inputs of a layer's branches.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) attention: Arc<FixedRow>,
    pub(crate) mlp: Arc<FixedRow>,
}

/// What is compared element by element: a group's key, or a head's output.
#[derive(Clone, Debug)]
pub(crate) struct Compared<'a> {
    pub(crate) relation: Relation,
    pub(crate) group: KvGroup,
    pub(crate) committed: &'a [f64],
    pub(crate) reference: Vec<f64>,
    pub(crate) tau: Vec<f64>,
}

/// What came of a comparison element by element.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Elementwise {
    pub(crate) relation: Relation,
    pub(crate) group: KvGroup,
    /// Mean square deviation over the most allowed.
    pub(crate) ratio: f64,
    pub(crate) holds: bool,
}

impl Layer<'_> {
    pub(crate) const fn exponent(&self, matrix: Matrix) -> i16 {
        let [q, k, v, o, gate, up, down] = self.exponents;
        match matrix {
            Matrix::Q => q,
            Matrix::K => k,
            Matrix::V => v,
            Matrix::O => o,
            Matrix::Gate => gate,
            Matrix::Up => up,
            Matrix::Down => down,
        }
    }

    fn norm(&self, x: &[f64], norm: Small) -> Vec<f64> {
        rms_norm(self.profile, x, self.small.get(norm), self.architecture.norm_eps)
    }

    /// C1, C7: the inputs of both branches.
    pub(crate) fn inputs(&self, rows: &CellRows) -> Result<Inputs, Relation> {
        let attention = FixedRow::new(&self.norm(&rows.h, Small::InputNorm)).ok_or(Relation::C2)?;
        let mlp = FixedRow::new(&self.norm(&self.middle(rows)?, Small::PostNorm)).ok_or(Relation::C8)?;
        Ok(Inputs { attention: Arc::new(attention), mlp: Arc::new(mlp) })
    }

    /// C7: the residual stream between the branches.
    pub(crate) fn middle(&self, rows: &CellRows) -> Result<Vec<f64>, Relation> {
        let middle = add(self.profile, &rows.h, &rows.o);
        if middle.iter().all(|value| value.is_finite()) { Ok(middle) } else { Err(Relation::C7) }
    }

    /// A head of a rounded product, normed if the model norms its heads, and rotated. Not rounded at the end.
    pub(crate) fn rotated(&self, head: &[f64], norm: Small, position: Position) -> Vec<f64> {
        if self.architecture.head_norms {
            rope(&self.norm(head, norm), position, self.architecture)
        } else {
            rope(head, position, self.architecture)
        }
    }

    /// The query of a head as the runtime has it.
    pub(crate) fn query(&self, head: &[f64], position: Position) -> Vec<f64> {
        let rotated = self.rotated(head, Small::QueryNorm, position).into_iter();
        rotated.map(|value| self.profile.round_once(value)).collect()
    }

    /// The supplied products of the input `x`, as the runtime rounds them.
    pub(crate) fn rounded<'s>(&'s self, matrix: Matrix, x: &FixedRow, supplied: &'s Supplied) -> Rounded<'s> {
        let exponent = x.product_exponent(self.exponent(matrix));
        Rounded::new(self.profile, supplied, exponent, self.small.bias(matrix).into())
    }

    /// The supplied queries, which are those of the drawn groups, as the runtime rounds them.
    pub(crate) fn rounded_queries<'s>(&self, rows: &CellRows, x: &FixedRow, supplied: &'s Supplied) -> Rounded<'s> {
        let exponent = x.product_exponent(self.exponent(Matrix::Q));
        let all = self.small.bias(Matrix::Q);
        let of_group = |(group, _): &(KvGroup, _)| all.get(self.architecture.query_outputs(*group)).unwrap_or_default();
        let bias: Vec<f32> = rows.prefixes.iter().flat_map(of_group).copied().collect();
        Rounded::new(self.profile, supplied, exponent, bias.into())
    }

    /// C9: the input of the down projection. A flip where nothing is in doubt belongs to C8.
    pub(crate) fn down_input(&self, x: &FixedRow, supplied: &SuppliedProducts) -> Result<FixedRow, Relation> {
        let SuppliedProducts { gate, up, flips, .. } = supplied;
        let gate = self.rounded(Matrix::Gate, x, gate).resolve(&flips.gate).ok_or(Relation::C8)?;
        let up = self.rounded(Matrix::Up, x, up).resolve(&flips.up).ok_or(Relation::C8)?;
        let silu = resolve_silu(self.profile, &gate, &flips.silu).ok_or(Relation::C8)?;
        FixedRow::new(&multiply(self.profile, &silu, &up)).ok_or(Relation::C9)
    }

    /// C10: the residual stream after the layer.
    pub(crate) fn next(&self, middle: &[f64], rows: &CellRows) -> Vec<f64> {
        add(self.profile, middle, &rows.m)
    }

    /// C2, C4, C6, C8, C9: every product of the cell with its target, in the order of the matrices.
    pub(crate) fn linears(
        &self,
        inputs: &Inputs,
        rows: &CellRows,
        supplied: &SuppliedProducts,
    ) -> Result<[Linear; 7], Relation> {
        let Inputs { attention: x1, mlp: x2 } = inputs;
        let heads = FixedRow::new(&rows.a).ok_or(Relation::C6)?;
        let down = self.down_input(x2, supplied)?;
        let values: Vec<f64> = rows.caches.iter().flat_map(|cache| cache.value.iter().copied()).collect();
        let given = |matrix, input: &Arc<FixedRow>, products: &Supplied| Linear {
            matrix,
            input: Arc::clone(input),
            target: Target::supplied(products),
        };
        let committed = |matrix, input: Arc<FixedRow>, row: &[f64]| {
            let exponent = input.product_exponent(self.exponent(matrix));
            let bias = self.small.bias(matrix);
            let target = Target::committed(row, bias, exponent, &self.tolerance).ok_or(relation_of(matrix))?;
            Ok(Linear { matrix, input, target })
        };
        Ok([
            given(Matrix::Q, x1, &supplied.q),
            given(Matrix::K, x1, &supplied.k),
            committed(Matrix::V, Arc::clone(x1), &values)?,
            committed(Matrix::O, Arc::new(heads), &rows.o)?,
            given(Matrix::Gate, x2, &supplied.gate),
            given(Matrix::Up, x2, &supplied.up),
            committed(Matrix::Down, Arc::new(down), &rows.m)?,
        ])
    }

    /// C3 for every group and C5 for every drawn one.
    pub(crate) fn elementwise(
        &self,
        inputs: &Inputs,
        rows: &CellRows,
        position: Position,
        supplied: &SuppliedProducts,
    ) -> Result<Vec<Elementwise>, Relation> {
        let compared = self.compared(inputs, rows, position, supplied)?;
        Ok(compared.iter().map(|compared| self.judge(compared)).collect())
    }

    /// What C3 and C5 compare: every group's key, and every head of the drawn groups.
    pub(crate) fn compared<'a>(
        &self,
        inputs: &Inputs,
        rows: &'a CellRows,
        position: Position,
        supplied: &SuppliedProducts,
    ) -> Result<Vec<Compared<'a>>, Relation> {
        let x1 = &inputs.attention;
        let keys = self.rounded(Matrix::K, x1, &supplied.k).resolve(&supplied.flips.k).ok_or(Relation::C2)?;
        let queries = self.rounded_queries(rows, x1, &supplied.q).resolve(&supplied.flips.q).ok_or(Relation::C2)?;
        let head_dim = index(self.architecture.head_dim);
        let group_width = head_dim.saturating_mul(index(self.architecture.heads_per_group()));
        if queries.len() != rows.prefixes.len().saturating_mul(group_width) {
            return Err(Relation::C2);
        }

        let heads_of_groups = rows.caches.iter().zip(keys.chunks(head_dim)).zip(0..);
        let mut compared: Vec<Compared<'a>> = heads_of_groups
            .map(|((cache, key), group)| Compared {
                relation: Relation::C3,
                group: KvGroup::new(group),
                committed: &cache.key,
                reference: self.rotated(key, Small::KeyNorm, position),
                tau: self.tolerance.of_row(&cache.key, median_magnitude(&cache.key)),
            })
            .collect();
        for ((group, prefix), queries) in rows.prefixes.iter().zip(queries.chunks(group_width)) {
            let number = index(group.get());
            let own = rows.caches.get(number);
            let keys: Vec<&[f64]> = prefix.iter().chain(own).map(|cache| cache.key.as_slice()).collect();
            let values: Vec<&[f64]> = prefix.iter().chain(own).map(|cache| cache.value.as_slice()).collect();
            let channels = channels(&values);
            let outputs = rows.a.chunks(group_width).nth(number).unwrap_or(&[]);
            for (output, query) in outputs.chunks(head_dim).zip(queries.chunks(head_dim)) {
                let query = self.query(query, position);
                let head = attention(&query, &keys, &values, &self.tolerance);
                let tau = self.tolerance.of_head(output, &head, &channels);
                let (relation, group, reference) = (Relation::C5, *group, head.output);
                compared.push(Compared { relation, group, committed: output, reference, tau });
            }
        }
        Ok(compared)
    }

    /// The most mean square deviation of a relation, in tolerances.
    pub(crate) fn theta(&self, relation: Relation) -> f64 {
        let Tolerance { theta_keys, theta_attention, .. } = self.tolerance;
        let theta = if matches!(relation, Relation::C3) { theta_keys } else { theta_attention };
        Tolerance::of_width(theta, self.architecture.head_dim)
    }

    fn judge(&self, compared: &Compared<'_>) -> Elementwise {
        let Compared { relation, group, committed, reference, tau } = compared;
        let (mean, largest) = deviation(committed, reference, tau);
        let theta = self.theta(*relation);
        // Anything that is not a number holds nothing.
        let holds = mean <= theta && largest <= self.tolerance.gross;
        Elementwise { relation: *relation, group: *group, ratio: mean / theta, holds }
    }
}

/// The constants of a layer.
pub(crate) fn layer<'a>(manifest: &'a Manifest, entry: &LayerEntry, small: &'a SmallTensors) -> Layer<'a> {
    Layer {
        architecture: &manifest.architecture,
        tolerance: Tolerance::of(manifest.profile),
        profile: manifest.profile,
        small,
        exponents: entry.exponents,
    }
}

/// Decodes the rows of a cell; `caches` are by group, each ending at the cell's position.
pub(crate) fn decode_cell(
    manifest: &Manifest,
    cell: &Cell,
    [h, a, o, m]: [&[u8]; 4],
    caches: &[Vec<u8>],
) -> Result<CellRows, Malformed> {
    let decode = |bytes: &[u8]| decode_row(manifest.profile, bytes);
    let head_dim = index(manifest.architecture.head_dim);
    let row_bytes = head_dim.saturating_mul(2).saturating_mul(manifest.profile.element_bytes()).max(1);
    let cache_row = |bytes: &[u8]| {
        let row = decode(bytes)?;
        let (key, value) = row.split_at_checked(head_dim).ok_or(Malformed::Truncated)?;
        Ok(CacheRow { key: key.to_vec(), value: value.to_vec() })
    };
    let mut own = vec![];
    let mut prefixes = vec![];
    for (group, bytes) in (0..).map(KvGroup::new).zip(caches) {
        let mut rows: Vec<CacheRow> = bytes.chunks(row_bytes).map(cache_row).collect::<Result<_, Malformed>>()?;
        own.push(rows.pop().ok_or(Malformed::Truncated)?);
        if cell.groups.contains(&group) {
            prefixes.push((group, rows));
        }
    }
    Ok(CellRows { h: decode(h)?, a: decode(a)?, o: decode(o)?, m: decode(m)?, caches: own, prefixes })
}

#[cfg(test)]
mod tests {
    use assay_commitments::manifest::Biases;

    use super::*;

    /// Rows are finite, their sum need not be: no layer goes on from there.
    #[test]
    fn a_stream_that_overflows_between_the_branches_is_rejected() {
        let architecture = Architecture {
            vocab_size: 258,
            hidden: 2,
            layers: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: 2,
            ffn: 2,
            max_positions: 8,
            norm_eps: 1e-5,
            inverse_frequencies: vec![1.0],
            tied: true,
            biases: Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![],
        };
        let mut small = SmallTensors::default();
        small.0[0] = vec![1.0; 2];
        let profile = Profile::Bf16V1;
        let layer = Layer {
            architecture: &architecture,
            tolerance: Tolerance::of(profile),
            profile,
            small: &small,
            exponents: [0; 7],
        };
        let row = |o: f64| CellRows {
            h: vec![3.0e38, 1.0],
            a: vec![0.0; 2],
            o: vec![o, 1.0],
            m: vec![0.0; 2],
            caches: vec![],
            prefixes: vec![],
        };
        assert!(layer.middle(&row(-3.0e38)).is_ok());
        assert_eq!(layer.middle(&row(3.0e38)).err(), Some(Relation::C7));
        assert_eq!(layer.inputs(&row(3.0e38)).err(), Some(Relation::C7));
        assert_eq!(Relation::C7.reason(), crate::verdict::Reason::C7);
    }
}
