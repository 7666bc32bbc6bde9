//! Which regular expressions a tokenizer may bring along: those whose matches are found in time linear in the text.
//!
//! An engine without backtracking finds one match in linear time, but all of them in quadratic time where a short
//! match is only certain after a look far ahead; with look-ahead, an engine that backtracks takes longer still. Here an
//! expression is taken if it looks no more than [`MAX_AHEAD`] bytes beyond what it then matches, or is one of those
//! parts of the expressions in use of which the same is known.

use regex_syntax::hir::{Hir, HirKind};

use crate::num::index;

/// Most bytes of an expression; the longest in use have half of it.
const MAX_PATTERN_BYTES: usize = 1024;
/// Most bytes that are looked at in vain.
pub(super) const MAX_AHEAD: usize = 16;

/// Most bytes of an expression with its repetitions written out, of which an engine may be at each at once: three times what
/// those in use have.
const MAX_POSITIONS: usize = 256;

/// Words by their letters' cases, as `o200k` cuts them: what the first of two lines reads in vain, the second matches.
const CASED_WORDS: [&str; 2] = [
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
];
/// Space at the end of expressions: a run of it is matched but for its last, and the next look begins there.
const SPACE: &str = r"\s+(?!\S)|\s+";
/// Space up to the end of a line, before [`SPACE`], which matches what was read in vain.
const SPACE_TO_LINES: [&str; 4] = [r"\s*[\r\n]+|", r"\s*[\r\n]|", "\\s*[\r\n]+|", "\\s*[\r\n]|"];
/// Space at the end of a text, by itself: a look goes through all that follows and finds all there is.
const SPACE_AT_THE_END: &str = r"\s+$";

/// How many ways an expression has to match, each of which may be tried at every place of a text; none if it is not
/// known to take linear time.
pub(super) fn ways(pattern: &str) -> Option<usize> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return None;
    }
    if pattern == SPACE_AT_THE_END {
        return Some(1);
    }
    let mut own = CASED_WORDS.iter().find_map(|words| pattern.strip_prefix(words)).unwrap_or(pattern);
    if let Some(before) = own.strip_suffix(SPACE) {
        own = SPACE_TO_LINES.iter().find_map(|lines| before.strip_suffix(lines)).unwrap_or(before);
        // Only an alternative may be taken off: after anything else, space would be tried at each of its ends.
        if !own.is_empty() {
            own = own.strip_suffix('|')?;
        }
    }
    // Flags would change what was taken off, too, and mean to one parser what they do not to another. The one that lets a
    // point match all is in use, by itself.
    let plain = if own.len() == pattern.len() { own.strip_prefix("(?s)").unwrap_or(own) } else { own };
    let flagless = plain.matches("(?:").count().saturating_add(plain.matches("(?i:").count());
    if plain.matches("(?").count() > flagless {
        return None;
    }
    let tree = regex_syntax::parse(own).ok()?;
    // Where a place is looked for, the engine backtracks: at a word's border, say.
    let is_placeless = tree.properties().look_set().is_empty();
    (is_placeless && positions(&tree) <= MAX_POSITIONS && is_linear(&tree))
        .then(|| pattern.matches('|').count().saturating_add(1))
}

/// Bytes of an expression with its repetitions written out, those without an end once.
fn positions(tree: &Hir) -> usize {
    let sum = |parts: &[Hir]| parts.iter().map(positions).fold(0, usize::saturating_add);
    match tree.kind() {
        HirKind::Empty | HirKind::Look(_) => 0,
        HirKind::Literal(_) | HirKind::Class(_) => longest(tree).unwrap_or(usize::MAX),
        HirKind::Capture(group) => positions(&group.sub),
        HirKind::Concat(parts) | HirKind::Alternation(parts) => sum(parts),
        HirKind::Repetition(run) => {
            let times = run.max.unwrap_or(run.min).max(1);
            positions(&run.sub).saturating_mul(index(times))
        }
    }
}

fn is_linear(tree: &Hir) -> bool {
    if is_short(tree) {
        return true;
    }
    match tree.kind() {
        HirKind::Capture(group) => is_linear(&group.sub),
        HirKind::Alternation(branches) => branches.iter().all(is_linear),
        HirKind::Repetition(_) => is_run(tree),
        // What may be short, then a run, then what may be absent.
        HirKind::Concat(parts) => {
            let start = parts.iter().position(|part| !is_short(part)).unwrap_or(parts.len());
            let (before, rest) = parts.split_at(start);
            let ahead = before.iter().filter_map(longest).fold(0, usize::saturating_add);
            let absent = |part: &Hir| {
                let is_optional = matches!(part.kind(), HirKind::Repetition(run) if run.min == 0);
                is_optional && (is_short(part) || is_run(part))
            };
            ahead <= MAX_AHEAD
                && rest.split_first().is_some_and(|(run, after)| is_linear(run) && after.iter().all(absent))
        }
        _ => false,
    }
}

fn longest(tree: &Hir) -> Option<usize> {
    tree.properties().maximum_len()
}

/// Whether a look is short, matched or not.
fn is_short(tree: &Hir) -> bool {
    longest(tree).is_some_and(|length| length <= MAX_AHEAD)
}

/// Whether this is characters of one class, or one literal, as long as they come, which is matched as soon as a few are
/// there.
fn is_run(tree: &Hir) -> bool {
    let HirKind::Repetition(run) = tree.kind() else { return false };
    let is_character = matches!(run.sub.kind(), HirKind::Class(_) | HirKind::Literal(_))
        && longest(&run.sub).is_some_and(|length| length <= 4);
    is_character && run.greedy && run.max.is_none() && run.min <= 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_in_use_are_taken() {
        let digits = r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
        for pattern in [
            // GPT-2
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            // Llama 3
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            // Qwen 2 and 3
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            // o200k, Tekken
            &format!("{}{}", CASED_WORDS[0], &digits[1..]),
            &format!("{}{}", CASED_WORDS[1], &digits[1..]),
            // DeepSeek
            r"\p{N}{1,3}",
            "[\u{4e00}-\u{9fa5}\u{3040}-\u{309f}\u{30a0}-\u{30ff}]+",
            r"[!-/:-~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
            // Its first models
            "[\r\n]",
            "\\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{10400}-\u{1044f}]+",
            "\\s?[!-/:-~\u{ff01}-\u{ff0f}\u{ff1a}-\u{ff5e}\u{2018}-\u{201f}\u{3000}-\u{3002}]+",
            r"\s+$",
            "[\u{4e00}-\u{9fa5}\u{800}-\u{4e00}\u{ac00}-\u{d7ff}]+",
            r"\s?\p{L}+",
            // Others' normalizers and pre-tokenizers
            r"\s+",
            r" {2,}",
            r"[0-9][0-9][0-9]",
            r"(?s).",
            r" ?[^(\s|[.,!?])]+",
        ] {
            assert!(ways(pattern).is_some_and(|ways| ways < 24), "{pattern}");
        }
    }

    #[test]
    fn expressions_that_may_look_far_in_vain_are_not() {
        for pattern in [
            r"(?=[^b]*b)x",
            r"(?=[^b]*b)|a",
            r".*[^A-Z]|[A-Z]",
            r"a|\s+$",
            r"[^x]*\s+$",
            r"[^x]*\s+(?!\S)|\s+",
            r"a|[^x]*\s+(?!\S)|\s+",
            r"[^x]*\s*[\r\n]+|\s+(?!\S)|\s+",
            r"(a|)\s+(?!\S)|\s+",
            &[CASED_WORDS[0], SPACE_TO_LINES[0], "[^x]*", SPACE].concat(),
            r"\s*[\r\n]+",
            r"a*b",
            r"a+?b",
            r"(a+)+b",
            r"(a|aa)+$",
            r"(?s).*x|.",
            &["x+", &"a{0,16}".repeat(20)].concat(),
            r"(?:a|\Ba){19}Z|a",
            r"(?:\B){4000000000}a|a",
            r"\bword",
            r"^a",
            r"(?x)((?-x)Y)|#?(?:a|(?=a)a){19}Z|a",
            "(?x)[a#](?:a|a){19}Z\n]",
            r"(?i)a",
            r"(?s)a|(?i)b",
            r"(?U)a|\s+(?!\S)|\s+",
            r"(?x)a|\s+(?!\S)|\s+",
            r"[a-z]{100}",
            r"a{5,}",
            r"[!-@B-~]{60}\n|[!-AC-~]{60}\n",
            r"(?:abcde)+",
            r"(?:\w{20}){20}",
            r"\s+(?!\S)",
            r"a(|\s+(?!\S)|\s+",
            r"[a|\s+(?!\S)|\s+",
            r"a\|\s+(?!\S)|\s+",
            r"(a)\1",
            &"a|".repeat(600),
        ] {
            assert_eq!(ways(pattern), None, "{pattern}");
        }
    }
}
