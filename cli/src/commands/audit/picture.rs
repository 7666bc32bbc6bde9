//! One cell or decode, for a person to follow: what was committed, what the reference says, and how far
//! apart they are.

use std::fmt::Write;
use std::io::{IsTerminal, stdout};

use assay_audit::exhibit::{Choice, Comparison, Detail, Examination};
use assay_audit::prompt::Tokenizer;
use assay_audit::verdict::{Failure, Relation, Verdict};
use assay_commitments::{KvGroup, Position};
use serde_json::{Value, json};

use super::reason;
use crate::terminal::{Paint, quoted, table};

/// Columns of a picture.
const WIDTH: usize = 64;
/// Entries that are listed with their values.
const LISTED: usize = 5;
/// From nothing to the largest, where block characters can be shown, and where they cannot.
const BLOCKS: [char; 9] =
    [' ', '\u{2581}', '\u{2582}', '\u{2583}', '\u{2584}', '\u{2585}', '\u{2586}', '\u{2587}', '\u{2588}'];
const PLAIN: [char; 9] = [' ', '.', ':', '-', '=', '+', '*', '#', '@'];

/// The whole of an examination.
pub(super) fn text(examination: &Examination, tokenizer: Option<&Tokenizer>, paint: Paint) -> String {
    let ramp = if stdout().is_terminal() { BLOCKS } else { PLAIN };
    let challenge = &examination.challenge;
    let mut text = match (challenge.cells.first(), challenge.decodes.first()) {
        (Some(cell), _) => paint.bold(&format!("layer {}, position {}", cell.layer, cell.position)),
        (None, position) => {
            let position = position.map_or_else(String::new, ToString::to_string);
            paint.bold(&format!("the decode after position {position}"))
        }
    };
    text.push('\n');
    if examination.comparisons.is_empty() {
        text.push_str("nothing can be compared: what was sent is no opening of what was committed\n");
        return text;
    }
    let rows: Vec<Vec<String>> = examination.comparisons.iter().map(|comparison| row(comparison, ramp)).collect();
    text.push_str(&table(
        &["relation", "of what is allowed", " how far off, entry by entry or sum by sum"],
        &rows,
        paint,
    ));
    if let Some(choice) = &examination.pick {
        text.push('\n');
        text.push_str(&choice_text(choice, tokenizer, paint));
    }
    if let Some(failure) = &examination.failure {
        text.push('\n');
        let wrong = |comparison: &&Comparison| comparison.place == failure.place && is_wrong(comparison);
        let worst = examination.comparisons.iter().filter(wrong).max_by(|a, b| a.ratio.total_cmp(&b.ratio));
        text.push_str(&finding(failure, worst, paint));
    }
    text
}

fn is_wrong(comparison: &Comparison) -> bool {
    match &comparison.detail {
        Detail::Sums { singles_hold, .. } => comparison.ratio > 1.0 || !singles_hold,
        Detail::Entries { .. } => true,
        Detail::Exact { same } => !same,
    }
}

fn row(comparison: &Comparison, ramp: [char; 9]) -> Vec<String> {
    let relation = comparison.place.relation.map_or("", Relation::name);
    let (ratio, picture) = match &comparison.detail {
        Detail::Entries { deviations, .. } => (ratio(comparison.ratio), picture(deviations, ramp)),
        Detail::Sums { residuals, .. } => (ratio(comparison.ratio), picture(residuals, ramp)),
        Detail::Exact { same: true } => ("the same".to_owned(), String::new()),
        Detail::Exact { same: false } => ("another".to_owned(), String::new()),
    };
    vec![format!("{relation:<7} {}", comparison.what), ratio, format!(" {picture:<width$}", width = WIDTH + 2)]
}

fn ratio(ratio: f64) -> String {
    if ratio < 1000.0 { format!("{ratio:.3}") } else { format!("{ratio:.1e}") }
}

/// Magnitudes as a line of at most so many columns, each as high as its largest. Full is three times what
/// all may be off by in the mean.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to the ramp")]
fn picture(values: &[f64], ramp: [char; 9]) -> String {
    let width = values.len().div_ceil(WIDTH).max(1);
    let column = |values: &[f64]| {
        let largest = values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        // What is no number is as wrong as can be.
        let is_none = values.iter().any(|value| value.is_nan());
        let step = if is_none { 8.0 } else { (largest * 8.0 / 3.0).ceil().clamp(0.0, 8.0) };
        ramp[step as usize]
    };
    format!("[{}]", values.chunks(width).map(column).collect::<String>())
}

/// What is wrong, in words and numbers.
fn finding(failure: &Failure, comparison: Option<&Comparison>, paint: Paint) -> String {
    let mut text = paint.red(&reason(&Verdict::Rejected(*failure)).unwrap_or_default());
    text.push('\n');
    match comparison.map(|comparison| (&comparison.what, &comparison.detail)) {
        Some((what, Detail::Entries { committed, reference, deviations })) => {
            let mut order: Vec<usize> = (0..deviations.len()).collect();
            order.sort_by(|a, b| deviations[*b].abs().total_cmp(&deviations[*a].abs()));
            let entry = |&at: &usize| {
                let value = |values: &[f64]| format!("{:.6}", values[at]);
                vec![at.to_string(), value(committed), value(reference), format!("{:+.2}", deviations[at])]
            };
            let rows: Vec<Vec<String>> = order.iter().take(LISTED).map(entry).collect();
            let _ = writeln!(text, "{what}: the {} of {} entries that are off most", rows.len(), deviations.len());
            text.push_str(&table(
                &["entry", "committed", "reference", "off by, in what is allowed in the mean"],
                &rows,
                paint,
            ));
        }
        Some((what, Detail::Sums { outputs, residuals, singles, singles_hold })) => {
            let largest = residuals.iter().fold(0.0, |largest: f64, residual| largest.max(residual.abs()));
            let _ = writeln!(
                text,
                "{what}: {} sums of {outputs} outputs with random signs, the largest {largest:.2} times what is allowed \
                 in the mean",
                residuals.len(),
            );
            if *singles > 0 {
                let state = if *singles_hold { "each within its bound" } else { "and not each within its bound" };
                let _ = writeln!(text, "{singles} outputs are proven singly, {state}");
            }
        }
        Some((_, Detail::Exact { .. })) | None => {}
    }
    text
}

fn choice_text(choice: &Choice, tokenizer: Option<&Tokenizer>, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = choice
        .candidates
        .iter()
        .map(|(token, logit, score)| {
            let served = if *token == choice.served { " served" } else { "" };
            let text = tokenizer.map_or_else(String::new, |tokenizer| quoted(&tokenizer.decode(&[*token])));
            vec![token.to_string(), format!("{logit:.3}"), format!("{score:.3}"), format!(" {text}{served}")]
        })
        .collect();
    let above = match choice.above {
        0 => "none scores above the served token".to_owned(),
        above => format!("{above} tokens score above the served one"),
    };
    format!("{}{above}, as far as the sent logits tell\n", table(&["token", "logit", "score", ""], &rows, paint))
}

/// The same as JSON.
pub(super) fn json(examination: &Examination) -> Value {
    let challenge = &examination.challenge;
    let comparisons = examination.comparisons.iter().map(|comparison| {
        let relation = comparison.place.relation.map(Relation::name);
        let group = comparison.place.group.map(KvGroup::get);
        let detail = match &comparison.detail {
            Detail::Entries { committed, reference, deviations } => {
                json!({"committed": committed, "reference": reference, "deviations": deviations})
            }
            Detail::Sums { outputs, residuals, singles, singles_hold } => {
                json!({"outputs": outputs, "residuals": residuals, "singles": singles, "singles_hold": singles_hold})
            }
            Detail::Exact { same } => json!({"same": same}),
        };
        json!({
            "relation": relation, "group": group, "what": comparison.what, "ratio": comparison.ratio, "detail": detail,
        })
    });
    json!({
        "layer": challenge.cells.first().map(|cell| cell.layer.get()),
        "position": challenge.cells.first().map(|cell| cell.position).or(challenge.decodes.first().copied()).map(Position::get),
        "failure": examination.failure.map(|failure| reason(&Verdict::Rejected(failure))),
        "comparisons": comparisons.collect::<Vec<_>>(),
        "pick": examination.pick.as_ref().map(|choice| json!({
            "served": choice.served.get(),
            "above": choice.above,
            "candidates": choice.candidates.iter().map(|(token, logit, score)| json!([token.get(), logit, score])).collect::<Vec<_>>(),
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_rises_with_what_is_off_and_is_never_wider_than_a_line() {
        assert_eq!(picture(&[0.0, 0.1, -1.0, 2.0, 3.0, -90.0, f64::NAN], PLAIN), "[ .-*@@@]");
        let many: Vec<f64> = (0..1_000).map(|j| if j == 500 { 9.0 } else { 0.0 }).collect();
        let picture = picture(&many, PLAIN);
        assert!(picture.len() <= WIDTH + 2 && picture.matches('@').count() == 1, "{picture}");
    }
}
