//! Every attack that is known, against a real validator over loopback gRPC: none is accepted, and each is
//! rejected by a code and at a place out of its own stated set.
//!
//! An attack is an entry of a table ([`table`]) and a test at once. Attacks whose discovery depends on the draw
//! are asked thoroughly here, and [`rates`] measures how often the default policy finds them.
#![expect(clippy::unwrap_used, reason = "a failed step of a test fails the test")]

#[macro_use]
mod table;

mod answers;
mod availability;
mod bytes;
mod cast;
mod chain;
mod codewords;
mod figure;
mod files;
mod honest;
mod page;
mod proofs;
mod rates;
mod rows;
mod sessions;
mod statements;
mod weights;

use std::collections::BTreeSet;

use assay_audit::verdict::Reason;
use table::Attack;

/// All attacks that end in a verdict, by row.
fn attacks() -> Vec<&'static Attack> {
    let modules = [
        weights::ATTACKS,
        rows::ATTACKS,
        proofs::ATTACKS,
        codewords::ATTACKS,
        statements::ATTACKS,
        sessions::ATTACKS,
        answers::ATTACKS,
        bytes::ATTACKS,
        availability::ATTACKS,
    ];
    let mut all: Vec<&Attack> = modules.into_iter().flatten().collect();
    all.sort_by_key(|attack| attack.row());
    all
}

/// Attacks by the one thing that they break. Whoever breaks another is rejected by another code.
const BY_WHAT_THEY_BREAK: &[&[&str]] = &[
    // Keys.
    &[
        "attack_01_another_models_layers",
        "attack_01_fine_tuned",
        "attack_02_int8_per_channel",
        "attack_02_int8_per_group",
        "attack_02_fp8",
        "attack_02_int4",
        "attack_02_bf16_rows_of_f32",
        "attack_02_int8_keys",
        "attack_04_layer_repeated",
        "attack_05_prefix_replaced",
    ],
    // Values.
    &["attack_02_int8_values"],
    // Attention.
    &["attack_02_int8_queries", "attack_05_window_truncated", "attack_05_head_cleared"],
    // The attention branch.
    &["attack_02_int8_attention_output", "attack_03_one_weight", "attack_05_head_dropped", "attack_06_coherent_drift"],
    // Gate and up products.
    &["attack_13_products_off_and_claims_redone"],
    // The MLP branch.
    &["attack_02_int8_gate_up", "attack_02_int8_down", "attack_03_one_matrix"],
    // The residual stream.
    &["attack_07_stream_cut"],
    // A sum of rows.
    &["attack_09_rows_beyond_every_number"],
    // Rows that are none.
    &["attack_09_row_of_no_number"],
    // Norm weights and biases.
    &["attack_03_other_norm_weights"],
    // The form of supplied products.
    &["attack_09_products_of_no_bits"],
    // Logits.
    &["attack_17_logits_that_fit"],
    // The exact logits of candidates.
    &["attack_17_logit_a_step_off"],
    // Rows under the committed roots.
    &[
        "attack_07_honest_rows_proven",
        "attack_07_other_rows_proven",
        "attack_11_parts_reordered",
        "attack_13_row_after_the_draw",
    ],
    // The proof's shape.
    &[
        "attack_08_all_zero_proof",
        "attack_08_wrong_round_degree",
        "attack_09_element_missing",
        "attack_09_element_not_canonical",
        "attack_09_element_of_another_field",
        "attack_11_part_omitted",
        "attack_11_part_duplicated",
        "attack_11_bytes_appended",
        "attack_12_fewer_cells",
        "attack_20_proof_truncated",
        "attack_20_proof_empty",
        "attack_20_proof_length_bomb",
    ],
    // Signs, and with them everything that the transcript has to be about.
    &[
        "attack_10_commitment_after_the_nonce",
        "attack_13_product_after_the_signs",
        "attack_14_proof_of_another_session",
        "attack_19_other_request",
        "attack_19_other_policy",
        "attack_19_other_commitment",
        "attack_19_other_nonce",
        "attack_19_other_manifest",
    ],
    // The sumcheck of an opening.
    &["attack_08_free_terminal_vector", "attack_08_wrong_claim_sum"],
    // Columns under the committed root.
    &["attack_18_wrong_column", "attack_18_wrong_path"],
    // The code.
    &["attack_18_non_codeword"],
    // Work.
    &["attack_18_wrong_nonce"],
    // The opening's shape.
    &["attack_12_fewer_queries"],
    // Who is meant.
    &[
        "attack_10_session_replayed",
        "attack_12_other_policy",
        "attack_12_other_rate",
        "attack_12_older_version",
        "attack_14_commitment_relayed",
        "attack_20_commitment_bit_flipped",
        "attack_21_other_hotkey_named",
        "attack_21_other_manifest",
        "attack_21_other_validator",
        "attack_21_other_subnet",
        "attack_21_other_chain",
        "attack_21_stale_epoch",
    ],
    // The commitment's shape.
    &[
        "attack_12_smaller_dimensions",
        "attack_20_commitment_truncated",
        "attack_20_commitment_trailing",
        "attack_20_commitment_length_bomb",
    ],
    // Signatures.
    &["attack_20_commitment_root_flipped", "attack_21_other_hotkey_commits"],
    &[
        "attack_11_pieces_reordered",
        "attack_11_piece_omitted",
        "attack_11_piece_duplicated",
        "attack_14_proof_for_another_commitment",
        "attack_21_other_hotkey_proves",
    ],
    // Input rows.
    &["attack_01_another_model", "attack_14_roots_relayed", "attack_15_prompt_misnamed"],
    // The prompt.
    &[
        "attack_15_prompt_substituted",
        "attack_15_system_prompt_dropped",
        "attack_15_context_truncated",
        "attack_15_other_template",
        "attack_15_other_tokenizer",
    ],
    // The answer's end.
    &[
        "attack_16_cut_short",
        "attack_16_appended",
        "attack_16_stop_string_passed_over",
        "attack_16_stop_string_claimed",
    ],
    // What was streamed.
    &["attack_16_stream_differs"],
    // The vocabulary.
    &["attack_16_unknown_token"],
    // The pick.
    &[
        "attack_01_another_head",
        "attack_01_smaller_model_writes",
        "attack_16_token_substituted",
        "attack_16_early_stop",
        "attack_17_greedy",
        "attack_17_other_temperature",
        "attack_17_other_seed",
        "attack_17_top_k_narrowed",
        "attack_17_top_k_widened",
        "attack_17_token_not_allowed",
        "attack_17_top_p_narrowed",
        "attack_17_top_p_widened",
    ],
    // The protocol.
    &[
        "attack_10_second_commitment",
        "attack_16_padded",
        "attack_20_short_signature",
        "attack_20_message_too_long",
        "attack_20_message_of_no_kind",
        "attack_20_deep_nesting",
        "attack_20_trailer_in_place_of_the_commitment",
        "attack_20_trailer_in_place_of_the_proof",
        "attack_20_no_tokens",
        "attack_20_proof_before_the_commitment",
        "attack_20_proof_too_long",
        "attack_20_empty_pieces",
        "attack_22_proof_floods",
        "attack_22_refuses_after_a_token",
    ],
    // The stream.
    &[
        "attack_22_leaves_after_a_token",
        "attack_22_fails_after_a_token",
        "attack_22_leaves_before_the_commitment",
        "attack_22_leaves_before_the_proof",
        "attack_22_leaves_in_the_proof",
    ],
    // Deadlines.
    &["attack_22_no_commitment"],
    &["attack_22_late_commitment", "attack_22_tokens_drip", "attack_22_answer_drips"],
    &["attack_22_no_proof", "attack_22_forgets_the_session", "attack_22_proof_drips"],
    &["attack_22_late_proof"],
    // Refusals.
    &["attack_22_refuses_the_challenge"],
    &["attack_22_refuses_unsigned", "attack_22_refuses_another_session", "attack_22_refuses_unreadably"],
];

/// Where a message is changed and what follows is not made anew.
const STALE_WORK: &str = "work for one transcript does for another once in 2^10; then other columns are due";

/// Attacks that break several things, and why.
const THAT_BREAK_SEVERAL: &[(&str, &str)] = &[
    ("attack_02_bf16_of_f32", "where the keys of a cell are within tolerance, its values need not be"),
    ("attack_04_layer_skipped", "a layer has two branches"),
    ("attack_04_early_exit", "layers have two branches"),
    ("attack_05_anothers_cache", "keys and values are no others' at their position, nor what later ones attend to"),
    ("attack_11_proof_duplicated", "twice a proof may be longer than any for its challenge"),
    ("attack_14_another_validators_nonce", "other cells are drawn, in a proof of any size"),
    ("attack_18_wrong_round", STALE_WORK),
    ("attack_18_wrong_fold", STALE_WORK),
    ("attack_18_wrong_sample", STALE_WORK),
];

#[test]
fn attacks_that_break_different_things_share_no_code() {
    let codes = |names: &[&str]| -> BTreeSet<Reason> {
        let named = |name: &&str| attacks().into_iter().find(|attack| attack.name == *name).unwrap();
        names.iter().map(named).flat_map(|attack| attack.codes).copied().collect()
    };
    let sets: Vec<BTreeSet<Reason>> = BY_WHAT_THEY_BREAK.iter().map(|names| codes(names)).collect();
    for (number, set) in sets.iter().enumerate() {
        for other in &sets[number + 1..] {
            assert!(set.is_disjoint(other), "{set:?} {other:?}");
        }
    }
}

/// Codes by which no attack is rejected, and why.
const WITHOUT_AN_ATTACK: &[(Reason, &str)] = &[(
    Reason::TooManyCandidates,
    "of the fixture's logits, more than there is room for are never as near to each other as the coarsest grid blurs them; \
     `audit::decode` has one whose are",
)];

#[test]
fn every_code_is_that_of_an_attack() {
    let by_attacks: BTreeSet<Reason> = attacks().iter().flat_map(|attack| attack.codes).copied().collect();
    let others = Reason::ALL.iter().copied().filter(|reason| !by_attacks.contains(reason));
    assert!(others.eq(WITHOUT_AN_ATTACK.iter().map(|(reason, _)| *reason)));
}

#[test]
fn every_attack_breaks_one_thing_or_stands_among_those_that_break_several() {
    let several = THAT_BREAK_SEVERAL.iter().map(|(name, _)| *name);
    let mut listed: Vec<&str> = BY_WHAT_THEY_BREAK.iter().copied().flatten().copied().chain(several).collect();
    let mut all: Vec<&str> = attacks().iter().map(|attack| attack.name).collect();
    listed.sort_unstable();
    all.sort_unstable();
    assert_eq!(listed, all);
}
