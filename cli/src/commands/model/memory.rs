//! The budget of memory for committing.

use std::path::Path;

use assay_audit::prompt::MAX_TOKENIZER_BYTES;
use assay_llm_runtime::Description;

use crate::outcome::Fault;
use crate::terminal::bytes;

/// A number of bytes as users write it: digits, and K, M or G for powers of 1024.
pub(super) fn parse_bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (&text[..end], 10),
        Some((end, 'm' | 'M')) => (&text[..end], 20),
        Some((end, 'g' | 'G')) => (&text[..end], 30),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes such as 4000000, 500M or 8G".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| "more bytes than there are".to_owned())
}

/// What committing may take unless it is told.
pub(super) const DEFAULT: &str = "2G";
/// What the program takes beside everything else.
const BASE: u64 = 32 << 20;
/// What the parser of tokenizers takes a byte of its file.
const TOKENIZER: u64 = 16;
/// What the embedding digest table takes an entry: a digest, its copies in the tree, the nodes over it.
const EMBEDDING: u64 = 5 * 32;
/// What a thread takes for weights on their way from a file to coefficients.
const THREAD: u64 = 512 << 10;
/// The least that is left for symbols and trees.
const LEAST: u64 = 32 << 20;

/// How a budget of memory is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Bytes for codeword symbols.
    pub(super) symbol_bytes: usize,
}

impl Plan {
    /// Splits a budget for the model in a folder, of which nothing large has been read yet.
    pub(super) fn of_folder(budget: u64, folder: &Path, description: &Description) -> Result<Self, Fault> {
        // A folder without a tokenizer, or with a longer one than there can be, is refused when it is opened.
        let length = std::fs::metadata(folder.join("tokenizer.json")).map(|metadata| metadata.len());
        let tokenizer = length.ok().filter(|length| *length <= MAX_TOKENIZER_BYTES as u64).unwrap_or(0);
        let vocabulary = description.architecture().vocab_size;
        Self::new(budget, vocabulary, description.decoded_bytes(), tokenizer)
    }

    /// Splits a budget for a model with so many embeddings and decoded bytes, whose tokenizer file has that length.
    fn new(budget: u64, vocabulary: u32, decoded: u64, tokenizer: u64) -> Result<Self, Fault> {
        // And one that is not of the pool.
        let threads = rayon::current_num_threads() as u64 + 1;
        let parsing = tokenizer.saturating_mul(TOKENIZER);
        let fixed = BASE + parsing + decoded + EMBEDDING * u64::from(vocabulary) + threads * THREAD;
        let rest = budget.checked_sub(fixed).filter(|rest| *rest >= LEAST).ok_or_else(|| {
            let least = fixed + LEAST;
            Fault::usage(format!(
                "committing this model takes at least {} of memory ({least} bytes) and --memory allows {}: allow more",
                bytes(least),
                bytes(budget),
            ))
        })?;
        // Half for symbols; the other half for what is kept of a tree, once in memory and once on its way to
        // the disk, and for what the allocator does not give back.
        Ok(Self { symbol_bytes: usize::try_from(rest / 2).unwrap_or(usize::MAX) })
    }
}

/// The most memory that this process has held so far; not known on every system.
pub(in crate::commands) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_stays_within_its_budget_or_names_the_least() {
        for budget in [256 << 20, 1 << 30, parse_bytes(DEFAULT).unwrap()] {
            let plan = Plan::new(budget, 128_256, 0, 9 << 20).unwrap();
            assert!(plan.symbol_bytes as u64 <= budget / 2, "{plan:?}");
        }
        let refusal = Plan::new(100 << 20, 128_256, 0, 9 << 20).unwrap_err().message;
        let decoded = Plan::new(1 << 30, 128_256, 200 << 20, 9 << 20).unwrap();
        assert_eq!(Plan::new(1 << 30, 128_256, 0, 9 << 20).unwrap().symbol_bytes - decoded.symbol_bytes, 100 << 20);
        assert!(refusal.contains("--memory allows 104.9 MB") && refusal.contains("at least"), "{refusal}");
    }

    #[test]
    fn sizes_may_have_a_unit() {
        let sizes = ["12", "3k", "500M", "8G"].map(parse_bytes);
        assert_eq!(sizes, [Ok(12), Ok(3 << 10), Ok(500 << 20), Ok(8 << 30)]);
        for bad in ["", "k", "-1", "1.5G", "8GB", "99999999999999G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
