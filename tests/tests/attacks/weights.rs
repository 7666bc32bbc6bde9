//! Rows 1 to 4: another model behind the claimed manifest.

use std::sync::{Arc, OnceLock};

use assay_audit::verdict::Where;
use assay_cli::local::LocalModel;
use assay_commitments::LayerIndex;
use assay_commitments::manifest::{Architecture, Matrix};
use assay_commitments::rows::Profile;
use assay_llm_runtime::quantize::{self, Format};
use assay_llm_runtime::synthetic::{self, Numbers};
use assay_llm_runtime::{Checkpoint, Model, finetune};
use assay_tests::adversary::Adversary;

use crate::table::{Cheat, altered, checkpoint, claimed};

fn in_layer(place: &Where, layer: u32) -> bool {
    place.layer == Some(LayerIndex::new(layer))
}

/// Serves weights in a format.
fn quantized(format: Format, matrices: &[Matrix]) -> Cheat {
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    let tensors = quantize::model(architecture, tensors, format, matrices);
    Cheat::of(claimed().model(Model::new(architecture, &tensors, *profile).unwrap()))
}

/// A random model of the fixture's shape.
fn stranger() -> Checkpoint {
    let Architecture { vocab_size, hidden, layers, heads, kv_heads, head_dim, ffn, max_positions, .. } =
        checkpoint().architecture;
    let shape = Numbers { vocab_size, hidden, layers, heads, kv_heads, head_dim, ffn, max_positions, ..Numbers::TINY };
    synthetic::checkpoint(&Numbers { tied: true, ..shape }, 5)
}

/// The fixture with an lm_head of its own, which differs from the embeddings by half of their magnitude.
fn another_head() -> Model {
    let Checkpoint { architecture, tensors, profile, .. } = checkpoint();
    let mut tensors = tensors.clone();
    let mut head = tensors.embeddings.clone();
    finetune::perturb(&mut head, 0.5, 3);
    tensors.head = Some(head);
    Model::new(&Architecture { tied: false, ..architecture.clone() }, &tensors, *profile).unwrap()
}

/// The fixture without its layers from `first` on.
fn ends_before(first: usize) -> Model {
    altered(|tensors| {
        for layer in &mut tensors.layers[first..] {
            layer.matrices[Matrix::O.index()].fill(0.0);
            layer.matrices[Matrix::Down.index()].fill(0.0);
        }
    })
}

/// The fixture with weights that bf16 cannot hold, served in f32.
pub(crate) fn single_precision() -> &'static (Checkpoint, Arc<LocalModel>) {
    static MODEL: OnceLock<(Checkpoint, Arc<LocalModel>)> = OnceLock::new();
    MODEL.get_or_init(|| {
        let mut checkpoint = Checkpoint { profile: Profile::F32V1, ..checkpoint().clone() };
        for weights in checkpoint.tensors.layers.iter_mut().flat_map(|layer| &mut layer.matrices) {
            weights.iter_mut().for_each(|weight| *weight *= 0.9);
        }
        let local = LocalModel::of(&checkpoint, &mut |_, _| ()).unwrap();
        (checkpoint, Arc::new(local))
    })
}

fn rounded_to_bf16() -> Cheat {
    let (Checkpoint { architecture, tensors, profile, .. }, local) = single_precision();
    let tensors = quantize::model(architecture, tensors, Format::Bf16, &Matrix::ALL);
    Cheat::of(Adversary::new(local).model(Model::new(architecture, &tensors, *profile).unwrap()))
}

fn computed_in_bf16() -> Cheat {
    let (Checkpoint { architecture, tensors, .. }, local) = single_precision();
    Cheat::of(Adversary::new(local).model(Model::new(architecture, tensors, Profile::Bf16V1).unwrap()))
}

attacks! {
    /// another model of the same shape
    attack_01_another_model: Always [WrongEmbeddings] => {
        let Checkpoint { architecture, profile, .. } = checkpoint();
        Cheat::of(claimed().model(Model::new(architecture, &stranger().tensors, *profile).unwrap()))
    };
    /// another model's layers between the claimed embeddings and lm_head
    attack_01_another_models_layers: Drawn [C3] => {
        Cheat::of(claimed().model(altered(|tensors| tensors.layers = stranger().tensors.layers)))
    };
    /// fine-tuned: every matrix off by 2 %
    attack_01_fine_tuned: Drawn [C3] => {
        Cheat::of(claimed().model(altered(|tensors| *tensors = finetune::perturbed(tensors, 0.02, 1))))
    };
    /// another lm_head
    attack_01_another_head: Drawn [WrongToken] => Cheat::of(claimed().model(another_head()));
    /// the first two layers write, the whole model leaves the rows
    attack_01_smaller_model_writes: Drawn [WrongToken] => Cheat::of(claimed().writer(ends_before(2)));
    /// int8 weights, one scale an output
    attack_02_int8_per_channel: Drawn [C3] => quantized(Format::Int8Channel, &Matrix::ALL);
    /// int8 weights, one scale for 128 inputs of an output
    attack_02_int8_per_group: Drawn [C3] => quantized(Format::Int8Group, &Matrix::ALL);
    /// fp8 weights, one scale a matrix
    attack_02_fp8: Drawn [C3] => quantized(Format::Fp8, &Matrix::ALL);
    /// int4 weights, one scale for 32 inputs of an output
    attack_02_int4: Drawn [C3] => quantized(Format::Int4Group32, &Matrix::ALL);
    /// f32 weights cut to bf16
    attack_02_bf16_of_f32: Drawn [C3, C4] => rounded_to_bf16();
    /// f32 claimed, everything computed in bf16, and its rows written as f32
    attack_02_bf16_rows_of_f32: Drawn [C3] => computed_in_bf16();
    /// int8 in the query projections alone
    attack_02_int8_queries: Drawn [C5] => quantized(Format::Int8Channel, &[Matrix::Q]);
    /// int8 in the key projections alone
    attack_02_int8_keys: Drawn [C3] => quantized(Format::Int8Channel, &[Matrix::K]);
    /// int8 in the value projections alone
    attack_02_int8_values: Drawn [C4] => quantized(Format::Int8Channel, &[Matrix::V]);
    /// int8 in the attention output projections alone
    attack_02_int8_attention_output: Drawn [C6] => quantized(Format::Int8Channel, &[Matrix::O]);
    /// int8 in the gate and up projections alone
    attack_02_int8_gate_up: Drawn [C9] => quantized(Format::Int8Channel, &[Matrix::Gate, Matrix::Up]);
    /// int8 in the down projections alone
    attack_02_int8_down: Drawn [C9] => quantized(Format::Int8Channel, &[Matrix::Down]);
    /// one matrix of one layer off by 5 %
    attack_03_one_matrix: Drawn [C9] at |place| in_layer(place, 2) => {
        let noisy = altered(|tensors| finetune::perturb(&mut tensors.layers[2].matrices[Matrix::Down.index()], 0.05, 4));
        Cheat::of(claimed().model(noisy))
    };
    /// one weight moved by ten times the root mean square of its matrix
    attack_03_one_weight: Drawn [C6] at |place| in_layer(place, 1) => {
        let moved = altered(|tensors| {
            let weights = &mut tensors.layers[1].matrices[Matrix::O.index()];
            #[expect(clippy::cast_precision_loss, reason = "a matrix of the fixture is small")]
            let mean_square = weights.iter().map(|weight| weight * weight).sum::<f32>() / weights.len() as f32;
            weights[0] += 10.0 * mean_square.sqrt();
        });
        Cheat::of(claimed().model(moved))
    };
    /// a layer skipped
    attack_04_layer_skipped: Drawn [C6, C9] at |place| in_layer(place, 1) => {
        Cheat::of(claimed().model(altered(|tensors| {
            tensors.layers[1].matrices[Matrix::O.index()].fill(0.0);
            tensors.layers[1].matrices[Matrix::Down.index()].fill(0.0);
        })))
    };
    /// a layer run again in place of the next
    attack_04_layer_repeated: Drawn [C3] at |place| in_layer(place, 2) => {
        Cheat::of(claimed().model(altered(|tensors| {
            tensors.layers[2].matrices = tensors.layers[1].matrices.clone();
        })))
    };
    /// the last two layers skipped
    attack_04_early_exit: Drawn [C6, C9] at |place| in_layer(place, 2) || in_layer(place, 3) => {
        Cheat::of(claimed().model(ends_before(2)))
    };
}
