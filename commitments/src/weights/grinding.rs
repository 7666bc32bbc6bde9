//! Work that a prover shows before positions are drawn, so that trying many proofs for easy positions
//! costs more.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic, clippy::expect_used)]

use assay_sumcheck::transcript::{Reduction, Transcript};
use rayon::prelude::*;

use super::{OpeningError, labels};
use crate::params::LevelCode;

/// Nonces that are tried together: no thread goes on far beyond the first that does.
const STRETCH: u32 = 1 << 14;

/// Finds the smallest nonce that shows the work, and absorbs it. `None` where there is no work.
pub(super) fn work(code: &LevelCode, transcript: &mut Transcript<Reduction>) -> Option<u64> {
    if code.grinding == 0 {
        return None;
    }
    let seed = transcript.seed(labels::GRINDING);
    let nonce = (0..u32::MAX).find_map(|stretch| {
        let start = u64::from(stretch).saturating_mul(u64::from(STRETCH));
        let tries = (0..STRETCH).into_par_iter().with_min_len(1 << 10);
        tries.map(|offset| start.saturating_add(u64::from(offset))).find_first(|&nonce| shows(code, &seed, nonce))
    })?;
    transcript.absorb(labels::NONCE, &nonce.to_le_bytes());
    Some(nonce)
}

/// Checks the nonce that shows the work, and absorbs it.
pub(super) fn check(
    code: &LevelCode,
    nonce: Option<u64>,
    transcript: &mut Transcript<Reduction>,
) -> Result<(), OpeningError> {
    if code.grinding == 0 {
        return if nonce.is_none() { Ok(()) } else { Err(OpeningError::Shape) };
    }
    let nonce = nonce.ok_or(OpeningError::Shape)?;
    let seed = transcript.seed(labels::GRINDING);
    if !shows(code, &seed, nonce) {
        return Err(OpeningError::Grinding);
    }
    transcript.absorb(labels::NONCE, &nonce.to_le_bytes());
    Ok(())
}

/// One try in `2^grinding` does.
fn shows(code: &LevelCode, seed: &[u8; 32], nonce: u64) -> bool {
    let hash = blake3::keyed_hash(seed, &nonce.to_le_bytes());
    let first = hash.as_bytes().first_chunk().map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes));
    first.checked_shr(u64::BITS.saturating_sub(code.grinding)) == Some(0)
}
