//! What an audit checks, as the validator's policy states it.

use assay_commitments::codec::{self, Canonical, Malformed, Reader, Writer};
use sha3::{Digest, Sha3_256};

use crate::domains;

/// Most cells, and most decodes, that a policy may draw. Whoever wants more wants every one of them.
pub const MAX_DRAWS: u32 = 1 << 12;

/// Most columns that a policy may draw: each is a cell in every layer.
pub const MAX_COLUMNS: u32 = 64;

/// What an audit checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Draws from a seed that nobody knew when the trace was committed.
    Sampled {
        /// Cells: by fours, two uniform over the prompt, one over the generated part, one at the
        /// last position.
        cells: u32,
        /// Decodes: the last one, the others uniform.
        decodes: u32,
        /// Whole columns: alternately uniform over the prompt and over all positions.
        columns: u32,
        /// The least proof time a miner must grant each validator in an epoch, in milliseconds.
        least_budget_ms: u32,
    },
    /// Every cell with all its groups, and every decode.
    Everything,
}

impl Policy {
    /// Four cells and three decodes.
    pub const DEFAULT: Self = Self::Sampled { cells: 4, decodes: 3, columns: 0, least_budget_ms: 60_000 };

    /// The digest that the challenge depends on.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha3_256::new();
        hash.update(domains::POLICY);
        hash.update(codec::encode(self));
        hash.finalize().into()
    }

    /// The most distinct layers that an audit can touch, lm_head counted: what bounds the work that
    /// may be asked of a miner.
    pub fn max_distinct_layers(&self, layers: u32) -> u32 {
        match *self {
            Self::Sampled { cells, decodes, columns, .. } => {
                let drawn = if columns > 0 { layers } else { cells.min(layers) };
                drawn.saturating_add(u32::from(decodes > 0))
            }
            Self::Everything => layers.saturating_add(1),
        }
    }
}

impl Canonical for Policy {
    fn write(&self, out: &mut Writer) {
        match *self {
            Self::Sampled { cells, decodes, columns, least_budget_ms } => {
                out.u8(0);
                for number in [cells, decodes, columns, least_budget_ms] {
                    out.u32(number);
                }
            }
            Self::Everything => out.u8(1),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => {
                let (cells, decodes, columns) = (from.u32()?, from.u32()?, from.u32()?);
                let least_budget_ms = from.u32()?;
                // A policy that asks for nothing would accept everything.
                let bounded = cells <= MAX_DRAWS && decodes <= MAX_DRAWS && columns <= MAX_COLUMNS;
                if bounded && cells > 0 && decodes > 0 {
                    Ok(Self::Sampled { cells, decodes, columns, least_budget_ms })
                } else {
                    Err(Malformed::NotCanonical)
                }
            }
            1 => Ok(Self::Everything),
            _ => Err(Malformed::NotCanonical),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_that_ask_for_too_much_or_nothing_are_not_read() {
        let read = |cells, decodes, columns| {
            let policy = Policy::Sampled { cells, decodes, columns, least_budget_ms: 0 };
            codec::decode::<Policy>(&codec::encode(&policy)).is_ok()
        };
        assert!(read(1, 1, 0) && read(MAX_DRAWS, MAX_DRAWS, MAX_COLUMNS));
        assert!(!read(0, 1, 0) && !read(1, 0, 0));
        assert!(!read(MAX_DRAWS + 1, 1, 0) && !read(1, MAX_DRAWS + 1, 0) && !read(1, 1, MAX_COLUMNS + 1));
        assert!(!read(1, 1, 65_536));
    }
}
