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
mod figure;
mod honest;
mod page;
mod proofs;
mod rates;
mod rows;
mod sessions;
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
    &["attack_02_int8_keys", "attack_05_prefix_replaced"],
    &["attack_02_int8_values"],
    &["attack_02_int8_queries", "attack_05_window_truncated", "attack_05_head_cleared"],
    &["attack_02_int8_attention_output", "attack_03_one_weight", "attack_05_head_dropped", "attack_06_coherent_drift"],
    &["attack_02_int8_gate_up", "attack_02_int8_down", "attack_03_one_matrix"],
    &["attack_07_stream_cut"],
    &["attack_07_honest_rows_proven", "attack_11_parts_reordered", "attack_13_row_after_the_draw"],
    &["attack_08_all_zero_proof", "attack_09_element_not_canonical", "attack_12_fewer_cells"],
    &["attack_13_product_after_the_signs", "attack_19_proof_of_another_statement"],
    &["attack_18_wrong_column", "attack_18_wrong_path", "attack_08_free_terminal_vector"],
    &["attack_10_session_replayed", "attack_12_other_policy", "attack_21_stale_epoch"],
    &["attack_12_smaller_dimensions", "attack_20_commitment_truncated"],
    &["attack_21_other_hotkey_commits"],
    &["attack_21_other_hotkey_proves", "attack_11_pieces_reordered"],
    &["attack_14_roots_relayed", "attack_15_prompt_misnamed"],
    &["attack_15_prompt_substituted", "attack_15_other_tokenizer"],
    &["attack_16_cut_short", "attack_16_appended"],
    &["attack_16_stream_differs"],
    &["attack_16_unknown_token"],
    &["attack_01_another_head", "attack_16_token_substituted", "attack_17_greedy", "attack_17_top_k_widened"],
    &["attack_20_message_of_no_kind", "attack_10_second_commitment"],
    &["attack_22_no_commitment"],
    &["attack_22_late_commitment", "attack_22_tokens_drip"],
    &["attack_22_no_proof"],
    &["attack_22_late_proof"],
    &["attack_22_leaves_before_the_proof"],
    &["attack_22_refuses_the_challenge"],
    &["attack_22_refuses_unsigned"],
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
