//! From products and sign vectors to claims on weights: the part that prover and verifier share.

use std::sync::Arc;

use assay_commitments::manifest::{Manifest, Matrix};
use assay_commitments::weights::{Claim, Output, Part};
use assay_sumcheck::field::f_from_i64;
use assay_sumcheck::{E, F};
use rayon::prelude::*;

use crate::challenge::{Cell, Challenge};
use crate::decode::MAX_CANDIDATES;
use crate::fixed::FixedRow;
use crate::num::index;
use crate::proof::Claims;
use crate::relations::Linear;
use crate::sketch::{ClaimValues, Signs, Target, powers};

/// The products of a cell, each with its sign vectors.
#[derive(Debug)]
pub(crate) struct CellProducts {
    pub(crate) products: [(Linear, Signs); 7],
}

impl CellProducts {
    /// Draws the signs of the cell with that number in the challenge.
    pub(crate) fn new(linears: [Linear; 7], seed: &[u8; 32], cell: usize, count: usize) -> Self {
        let mut number = cell.saturating_mul(7);
        let products = linears.map(|linear| {
            let signs = Signs::draw(seed, number, count, linear.target.row.len());
            number = number.saturating_add(1);
            (linear, signs)
        });
        Self { products }
    }
}

/// A product with lm_head.
#[derive(Debug)]
pub(crate) struct HeadProduct {
    pub(crate) input: FixedRow,
    pub(crate) target: Target,
}

/// The signs that all decodes of an audit share: those after the cells'.
pub(crate) fn head_signs(seed: &[u8; 32], challenge: &Challenge, manifest: &Manifest, count: usize) -> Signs {
    let number = challenge.cells.len().saturating_mul(7);
    Signs::draw(seed, number, count, index(manifest.architecture.vocab_size))
}

/// The powers of `beta` that combine the claims of one product: first its sketch, then its singles.
pub(crate) fn combination(beta: E, signs: usize) -> Vec<E> {
    powers(beta, signs.saturating_add(MAX_CANDIDATES))
}

/// The claims that the opening of the layers must discharge; their polynomials are the challenge's
/// layers in order.
pub(crate) fn layer_claims(
    manifest: &Manifest,
    challenge: &Challenge,
    cells: &[CellProducts],
    claims: &Claims,
    powers: &[E],
) -> Vec<Claim> {
    let architecture = &manifest.architecture;
    let layers = challenge.layers();
    let of_product = |cell: &Cell, (linear, signs): &(Linear, Signs), input: Arc<[F]>, values: &ClaimValues| {
        let polynomial = layers.binary_search(&cell.layer).unwrap_or(layers.len());
        let mut output = linear.target.output(signs, powers);
        if linear.matrix == Matrix::Q {
            let places: Vec<usize> = cell.query_outputs(architecture).collect();
            output = spread(&output, &places, architecture.shape(Matrix::Q).outputs);
        }
        Claim {
            input,
            parts: vec![Part { polynomial, matrix: linear.matrix.index(), output }],
            value: values.value(powers),
        }
    };
    let of_cells = challenge.cells.par_iter().zip(cells).zip(&claims.cells);
    let of_cell = |((cell, products), values): ((&Cell, &CellProducts), &[ClaimValues; 7])| {
        // Neighbours have their input in common.
        let mut known: Option<(&Arc<FixedRow>, Arc<[F]>)> = None;
        let pairs = products.products.iter().zip(values).map(|(product, values)| {
            let row = &product.0.input;
            let input = match &known {
                Some((known, input)) if Arc::ptr_eq(known, row) => Arc::clone(input),
                _ => field_row(row),
            };
            known = Some((row, Arc::clone(&input)));
            of_product(cell, product, input, values)
        });
        pairs.collect::<Vec<_>>()
    };
    of_cells.flat_map_iter(of_cell).collect()
}

/// A vector over `length` outputs that has the entries at these places, as many as there are, and zeros elsewhere.
fn spread(output: &Output, places: &[usize], length: u32) -> Output {
    let mut row = vec![E::default(); index(length)];
    for (value, place) in output.shared.iter().zip(places) {
        if let Some(entry) = row.get_mut(*place) {
            *entry = *value;
        }
    }
    let singles = output.singles.iter().filter_map(|(output, weight)| Some((*places.get(*output)?, *weight)));
    Output { shared: Arc::new(row), singles: singles.collect() }
}

/// The claims that the opening of lm_head must discharge, each with a part on every shard. Decodes share their signs, and
/// the sketch of supplied products weighs all outputs alike: what differs are the outputs proven singly alone.
pub(crate) fn head_claims(
    manifest: &Manifest,
    decodes: &[HeadProduct],
    signs: &Signs,
    claims: &[ClaimValues],
    powers: &[E],
) -> Vec<Claim> {
    if decodes.is_empty() {
        return vec![];
    }
    let shards = manifest.head.shards.len();
    let block = index(manifest.head_layout().shapes().first().map_or(0, |shape| shape.outputs)).max(1);
    let mut weights = signs.output_weights(powers, None);
    weights.resize(block.saturating_mul(shards), E::default());
    let shared: Vec<Arc<Vec<E>>> = weights.chunks(block).map(|weights| Arc::new(weights.to_vec())).collect();
    let claim = |(decode, values): (&HeadProduct, &ClaimValues)| {
        let part = |(polynomial, weights): (usize, &Arc<Vec<E>>)| {
            let start = block.saturating_mul(polynomial);
            let singles = decode.target.single_weights(signs, powers);
            let here = singles.filter_map(|(output, weight)| Some((output.checked_sub(start)?, weight)));
            let singles = here.filter(|(output, _)| *output < block).collect();
            Part { polynomial, matrix: 0, output: Output { shared: Arc::clone(weights), singles } }
        };
        let parts = shared.iter().enumerate().map(part).collect();
        Claim { input: field_row(&decode.input), parts, value: values.value(powers) }
    };
    decodes.iter().zip(claims).map(claim).collect()
}

fn field_row(row: &FixedRow) -> Arc<[F]> {
    row.integers.iter().map(|integer| f_from_i64(*integer)).collect()
}

#[cfg(test)]
mod tests {
    use assay_commitments::manifest::{Architecture, Biases, HeadEntry};
    use assay_commitments::params::CodeParams;
    use assay_commitments::rows::Profile;
    use assay_commitments::weights::WeightCommitment;
    use assay_sumcheck::field::f_from_u64;

    use super::*;
    use crate::fixed::Supplied;
    use crate::sketch::SIGNS_WITH_NONCE;

    fn manifest(vocab_size: u32) -> Manifest {
        let architecture = Architecture {
            vocab_size,
            hidden: 8,
            layers: 1,
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            ffn: 16,
            max_positions: 32,
            norm_eps: 1e-5,
            inverse_frequencies: vec![1.0, 0.5],
            tied: true,
            biases: Biases::None,
            head_norms: false,
            window: None,
            stop_tokens: vec![],
        };
        let weights = WeightCommitment { root: [1; 32], evaluation: E::default() };
        let shards = index(architecture.head_shards().unwrap());
        Manifest {
            profile: Profile::Bf16V1,
            tokenizer: [0; 32],
            chat_template: None,
            layer_code: CodeParams::for_layout(&architecture.layer_layout().unwrap()),
            head_code: CodeParams::for_layout(&architecture.head_layout().unwrap()),
            embeddings: [0; 32],
            layers: vec![],
            head: HeadEntry { shards: vec![weights; shards], exponent: 0, small: [4; 32] },
            architecture,
        }
    }

    /// Over one shard and several, full and not, with singles at the edges of shards.
    #[test]
    fn claims_on_the_head_weigh_every_output_of_every_shard() {
        let powers = combination(E::new(f_from_u64(7), f_from_u64(1 << 60), f_from_u64(3)), SIGNS_WITH_NONCE);
        let mut counts = std::collections::BTreeSet::new();
        for vocabulary in [40, 64, 65, 128, 300, 320] {
            let manifest = manifest(vocabulary);
            let outputs = index(vocabulary);
            let signs = Signs::draw(&[5; 32], 7, SIGNS_WITH_NONCE, outputs);
            let products: Vec<i64> = (0..1_i64 << 40).step_by(12_345_678_901).cycle().take(outputs).collect();
            let supplied = Supplied::compress(&products);
            let singled = [vec![0, 38], vec![], vec![39, 63, 64, 127, 128, 255, 256, 299], (0..outputs).collect()];
            let decodes: Vec<HeadProduct> = singled
                .iter()
                .map(|singles| {
                    let there: Vec<usize> = singles.iter().copied().filter(|output| *output < outputs).collect();
                    let target = Target::supplied(&supplied).with_candidates(&there, &supplied);
                    HeadProduct { input: FixedRow::new(&[1.0; 8]).unwrap(), target }
                })
                .collect();
            let values: Vec<ClaimValues> =
                decodes.iter().map(|decode| decode.target.claims(&signs, &products)).collect();
            let claims = head_claims(&manifest, &decodes, &signs, &values, &powers);
            assert_eq!(claims.len(), decodes.len());
            let shards = manifest.head.shards.len();
            counts.insert(shards);
            for (claim, decode) in claims.iter().zip(&decodes) {
                let expected = decode.target.output(&signs, &powers).entries().into_owned();
                let places: Vec<(usize, usize)> =
                    claim.parts.iter().map(|part| (part.polynomial, part.matrix)).collect();
                assert_eq!(places, (0..shards).map(|shard| (shard, 0)).collect::<Vec<_>>());
                let mut found: Vec<E> =
                    claim.parts.iter().flat_map(|part| part.output.entries().into_owned()).collect();
                assert!(found.split_off(outputs).into_iter().all(|padding| padding == E::default()));
                assert_eq!(found, expected, "{vocabulary}");
            }
            assert!(head_claims(&manifest, &[], &signs, &[], &powers).is_empty());
        }
        assert!(counts.contains(&1) && counts.last() > Some(&2), "{counts:?}");
    }

    #[test]
    fn queries_keep_their_places_singles_too() {
        let element = |value| E::new(f_from_u64(value), f_from_u64(0), f_from_u64(1));
        let output = Output {
            shared: Arc::new((1..=4).map(element).collect()),
            singles: vec![(1, element(10)), (3, element(20))],
        };
        let entries = spread(&output, &[2, 3, 6, 7], 9).entries().into_owned();
        let expected = [None, None, Some(0), Some(1), None, None, Some(2), Some(3), None];
        let all = output.entries();
        assert_eq!(entries, expected.map(|place: Option<usize>| place.map_or(E::default(), |place| all[place])));
    }
}
