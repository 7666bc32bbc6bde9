//! The memory that committing takes, and a budget for it.

use assay_commitments::manifest::{Architecture, ArchitectureError};
use assay_commitments::params::CodeParams;

use super::parameters;

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

/// What the program and its tokenizer take beside the model.
const BASE: u64 = 16 << 20;

/// Bytes that committing holds at its peak: the weights as f32, lm_head once more in shards, all
/// polynomials and trees, the tree file on its way to the disk, and the codeword symbols of one coset.
/// The weight files are mapped and count as cache, which the system takes back when it needs to.
pub(super) fn committing(architecture: &Architecture) -> Result<u64, ArchitectureError> {
    let layer = CodeParams::for_layout(&architecture.layer_layout()?);
    let head = CodeParams::for_layout(&architecture.head_layout()?);
    let layers = u64::from(architecture.layers);
    let shards = u64::from(architecture.head_shards()?);
    let block = u64::from(architecture.head_block()?) * u64::from(architecture.hidden);
    let polynomial = |code: &CodeParams| 4 << code.log_size;
    // A tree has twice as many nodes as leaves, and the file is made of two more copies of those.
    let tree = |code: &CodeParams| 4 * 32 * code.codeword_length() as u64;
    let symbols = 8 << layer.log_size.max(head.log_size);
    Ok(BASE
        + 4 * parameters(architecture)
        + 4 * shards * block
        + layers * (polynomial(&layer) + tree(&layer))
        + shards * (polynomial(&head) + tree(&head))
        + 32 * u64::from(architecture.vocab_size)
        + symbols)
}

/// The most memory that this process has held so far; not known on every system.
pub(super) fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_may_have_a_unit() {
        let sizes = ["12", "3k", "500M", "8G"].map(parse_bytes);
        assert_eq!(sizes, [Ok(12), Ok(3 << 10), Ok(500 << 20), Ok(8 << 30)]);
        for bad in ["", "k", "-1", "1.5G", "8GB", "99999999999999G"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }
}
