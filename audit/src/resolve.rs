//! The prover's side of roundings in doubt: which way its runtime took is read off the rows that it
//! committed.

use assay_commitments::Position;
use assay_commitments::manifest::{Matrix, Small};
use assay_commitments::rows::{Element, Profile};
use assay_commitments::weights::LayerPolynomial;

use crate::fixed::FixedRow;
use crate::num::{count, index, power_of_two};
use crate::reference::{attention, dot};
use crate::relations::{CellRows, Layer, SuppliedProducts};
use crate::rounding::{Doubt, Flips, silu_doubt};
use crate::tolerance::{channels, deviation, median_magnitude};
use crate::verdict::Relation;

/// Deviations below this share of the threshold are not worth improving.
const WORTH: f64 = 0.2;

/// What a search needs to know of a cell.
pub(crate) struct Search<'a> {
    pub(crate) layer: &'a Layer<'a>,
    pub(crate) polynomial: &'a LayerPolynomial,
    pub(crate) rows: &'a CellRows,
    pub(crate) position: Position,
}

impl Search<'_> {
    /// The flips under which the reference comes nearest to the committed keys, attention and MLP rows.
    pub(crate) fn flips(&self, x1: &FixedRow, x2: &FixedRow, supplied: &SuppliedProducts) -> Flips {
        if self.layer.profile.element() == Element::F32 {
            return Flips::default();
        }
        let k = self.keys(&self.layer.rounded(Matrix::K, x1, &supplied.k).doubts());
        let q = self.queries(&self.layer.rounded_queries(self.rows, x1, &supplied.q).doubts());
        let gate = self.layer.rounded(Matrix::Gate, x2, &supplied.gate).doubts();
        let up = self.layer.rounded(Matrix::Up, x2, &supplied.up).doubts();
        let mut flips = Flips { q, k, ..Flips::default() };
        self.activations(&gate, &up, &mut flips);
        flips
    }

    fn keys(&self, doubts: &[Doubt]) -> Vec<u32> {
        let architecture = self.layer.architecture;
        let head_dim = index(architecture.head_dim);
        let mut flips = vec![];
        for ((head, cache), first) in doubts.chunks(head_dim).zip(&self.rows.caches).zip((0..).step_by(head_dim)) {
            let tau = self.layer.tolerance.of_row(&cache.key, median_magnitude(&cache.key));
            let off =
                |key: &[f64]| deviation(&cache.key, &self.layer.rotated(key, Small::KeyNorm, self.position), &tau).0;
            improve(head, first, self.layer.theta(Relation::C3), &off, &mut flips);
        }
        flips
    }

    fn queries(&self, doubts: &[Doubt]) -> Vec<u32> {
        let architecture = self.layer.architecture;
        let head_dim = index(architecture.head_dim);
        let group_width = head_dim * index(architecture.heads_per_group());
        let mut flips = vec![];
        let groups = self.rows.prefixes.iter().zip(doubts.chunks(group_width)).zip((0..).step_by(group_width));
        for (((group, prefix), doubts), first) in groups {
            let number = index(group.get());
            let own = &self.rows.caches[number];
            let keys: Vec<&[f64]> = prefix.iter().chain([own]).map(|cache| cache.key.as_slice()).collect();
            let values: Vec<&[f64]> = prefix.iter().chain([own]).map(|cache| cache.value.as_slice()).collect();
            let channels = channels(&values);
            let outputs = self.rows.a[number * group_width..][..group_width].chunks(head_dim);
            for ((head, output), first) in doubts.chunks(head_dim).zip(outputs).zip((first..).step_by(head_dim)) {
                let off = |query: &[f64]| {
                    let tolerance = &self.layer.tolerance;
                    let reference = attention(&self.layer.query(query, self.position), &keys, &values, tolerance);
                    let tau = tolerance.of_head(output, &reference, &channels);
                    deviation(output, &reference.output, &tau).0
                };
                improve(head, first, self.layer.theta(Relation::C5), &off, &mut flips);
            }
        }
        flips
    }

    /// Flips of gate, up and silu that bring the down projection nearer to the committed row.
    fn activations(&self, gate: &[Doubt], up: &[Doubt], flips: &mut Flips) {
        let committed = &self.rows.m;
        let tau = self.layer.tolerance.of_row(committed, median_magnitude(committed));
        let profile = self.layer.profile;
        let plain: Vec<f64> = gate
            .iter()
            .zip(up)
            .map(|(gate, up)| profile.round_once(silu_doubt(profile, gate.nearest()).nearest() * up.nearest()))
            .collect();
        let Some(x) = FixedRow::new(&plain) else { return };
        let unit = power_of_two(x.product_exponent(self.layer.exponent(Matrix::Down)));
        let products = self.polynomial.product(Matrix::Down.index(), &x.integers);
        let mut rest: Vec<f64> = products
            .iter()
            .zip(committed)
            .zip(&tau)
            .map(|((product, committed), tau)| (committed - crate::num::real(*product) * unit) / tau)
            .collect();
        if dot(&rest, &rest) < WORTH * self.layer.tolerance.theta_products * crate::num::real_count(rest.len()) {
            return;
        }
        let mut choices: Vec<Choice> = gate
            .iter()
            .zip(up)
            .zip(&plain)
            .enumerate()
            .flat_map(|(place, ((gate, up), plain))| Choice::all(profile, place, *gate, *up, *plain))
            .collect();
        choices.sort_by(|a, b| b.change.abs().total_cmp(&a.change.abs()));
        let mut taken = std::collections::BTreeSet::new();
        for choice in choices {
            let room = [&flips.gate, &flips.up, &flips.silu].into_iter().all(|list| Flips::has_room(list));
            if taken.contains(&choice.place) || !room {
                continue;
            }
            let column = self.column(choice.place, choice.change, &tau);
            // |rest - column|^2 < |rest|^2
            if dot(&column, &column) < 2.0 * dot(&rest, &column) {
                rest.iter_mut().zip(&column).for_each(|(rest, moved)| *rest -= moved);
                taken.insert(choice.place);
                choice.take(flips);
            }
        }
        [&mut flips.gate, &mut flips.up, &mut flips.silu].into_iter().for_each(|list| list.sort_unstable());
    }

    /// What a change of one activation does to every output, in tolerances.
    fn column(&self, place: usize, change: f64, tau: &[f64]) -> Vec<f64> {
        let layout = self.polynomial.layout();
        let unit = power_of_two(i32::from(self.layer.exponent(Matrix::Down)) - 23);
        let weight = |output: usize| {
            let place = layout.coefficient_index(Matrix::Down.index(), place, output);
            place.map_or(0.0, |place| f64::from(self.polynomial.coefficients()[place]) * unit)
        };
        tau.iter().enumerate().map(|(output, tau)| change * weight(output) / tau).collect()
    }
}

/// Another way in which one activation may have come about.
struct Choice {
    place: usize,
    gate: bool,
    up: bool,
    silu: bool,
    /// The activation, less the plain one.
    change: f64,
}

impl Choice {
    fn all(profile: Profile, place: usize, gate: Doubt, up: Doubt, plain: f64) -> Vec<Self> {
        let mut all = vec![];
        for gate_flip in [false, true] {
            let Some(gate) = (if gate_flip { gate.other() } else { Some(gate.nearest()) }) else { continue };
            let doubt = silu_doubt(profile, gate);
            for silu_flip in [false, true] {
                let Some(silu) = (if silu_flip { doubt.other() } else { Some(doubt.nearest()) }) else { continue };
                for up_flip in [false, true] {
                    let Some(up) = (if up_flip { up.other() } else { Some(up.nearest()) }) else { continue };
                    let change = profile.round_once(silu * up) - plain;
                    if change != 0.0 {
                        all.push(Self { place, gate: gate_flip, up: up_flip, silu: silu_flip, change });
                    }
                }
            }
        }
        all
    }

    fn take(&self, flips: &mut Flips) {
        let place = count(self.place);
        for (flipped, list) in [(self.gate, &mut flips.gate), (self.up, &mut flips.up), (self.silu, &mut flips.silu)] {
            if flipped {
                list.push(place);
            }
        }
    }
}

/// Takes every flip of a head that brings `off` down; `first` is the place of the head's first entry.
fn improve(head: &[Doubt], first: usize, theta: f64, off: &dyn Fn(&[f64]) -> f64, flips: &mut Vec<u32>) {
    let mut values: Vec<f64> = head.iter().map(|doubt| doubt.nearest()).collect();
    let mut best = off(&values);
    if best < WORTH * theta {
        return;
    }
    for (place, doubt) in head.iter().enumerate() {
        let Some(other) = doubt.other().filter(|_| Flips::has_room(flips)) else { continue };
        values[place] = other;
        let next = off(&values);
        if next < best {
            best = next;
            flips.push(count(first + place));
        } else {
            values[place] = doubt.nearest();
        }
    }
}
