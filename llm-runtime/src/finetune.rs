//! Weights that differ a little everywhere, as after a short fine-tuning.

use assay_audit::model::ModelTensors;
use assay_commitments::rows::round_bf16;

use crate::random::Random;

/// The model with noise on all matrices of its decoder layers, as bf16. The noise of a matrix has
/// `relative` times the root mean square of its weights; equal seeds give equal weights.
#[must_use]
pub fn perturbed(tensors: &ModelTensors, relative: f32, seed: u64) -> ModelTensors {
    let mut random = Random::new(seed);
    let mut perturbed = tensors.clone();
    for weights in perturbed.layers.iter_mut().flat_map(|layer| &mut layer.matrices) {
        add_noise(weights, relative, &mut random);
    }
    perturbed
}

/// Brings such noise to one matrix, in place.
pub fn perturb(weights: &mut [f32], relative: f32, seed: u64) {
    add_noise(weights, relative, &mut Random::new(seed));
}

fn add_noise(weights: &mut [f32], relative: f32, random: &mut Random) {
    let deviation = relative * root_mean_square(weights);
    for weight in weights {
        *weight = round_bf16(*weight + deviation * random.normal());
    }
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "a scale, not an exact sum")]
fn root_mean_square(weights: &[f32]) -> f32 {
    let square: f64 = weights.iter().map(|weight| f64::from(*weight).powi(2)).sum();
    (square / weights.len().max(1) as f64).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic::{Numbers, checkpoint};

    #[test]
    fn the_noise_has_the_size_asked_for_and_follows_the_seed() {
        let tensors = checkpoint(&Numbers::TINY, 1).tensors;
        let other = perturbed(&tensors, 0.05, 7);
        let (old, new) = (&tensors.layers[0].matrices[4], &other.layers[0].matrices[4]);
        let difference: Vec<f32> = old.iter().zip(new).map(|(a, b)| a - b).collect();
        let ratio = root_mean_square(&difference) / root_mean_square(old);
        assert!((0.045..0.055).contains(&ratio), "{ratio}");
        assert_eq!(other, perturbed(&tensors, 0.05, 7));
        assert_ne!(other, perturbed(&tensors, 0.05, 8));
        assert_eq!((&other.embeddings, &other.final_norm), (&tensors.embeddings, &tensors.final_norm));
    }
}
