//! What an audit checks, as the validator's policy states it.

use std::num::NonZeroU32;

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
        /// Whole columns, in some audits or in all.
        columns: Option<Columns>,
        /// The least proof time a miner must grant each validator in an epoch, in milliseconds.
        least_budget_ms: u32,
    },
    /// Every cell with all its groups, and every decode.
    Everything,
}

/// Whole columns: every layer at a position, by turns uniform over the prompt and over the answer, beginning with
/// either as often.
///
/// They find rows that were stored behind a single layer, which four cells of a deep model rarely do. Because a
/// column asks for every layer, not every audit need draw them; which ones do follows from the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// How many, where there are any.
    pub count: NonZeroU32,
    /// They are drawn in one audit of so many.
    pub one_in: NonZeroU32,
}

impl Columns {
    /// So many in every audit; `None` for none.
    pub const fn always(count: u32) -> Option<Self> {
        match NonZeroU32::new(count) {
            Some(count) => Some(Self { count, one_in: NonZeroU32::MIN }),
            None => None,
        }
    }
}

impl Policy {
    /// Four cells, three decodes, and a column in one audit of four.
    pub const DEFAULT: Self = Self::Sampled {
        cells: 4,
        decodes: 3,
        columns: Some(Columns { count: NonZeroU32::MIN, one_in: NonZeroU32::MIN.saturating_add(3) }),
        least_budget_ms: 60_000,
    };

    /// The digest that the challenge depends on.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha3_256::new();
        hash.update(domains::POLICY);
        hash.update(codec::encode(self));
        hash.finalize().into()
    }

    /// The most cells that are drawn from a model of so many layers; `None` where nothing is drawn.
    pub fn drawn_cells(&self, layers: u32) -> Option<u64> {
        let Self::Sampled { cells, columns, .. } = *self else { return None };
        let columns = columns.map_or(0, |columns| u64::from(columns.count.get()));
        Some(columns.saturating_mul(u64::from(layers)).saturating_add(u64::from(cells)))
    }

    /// The most distinct layers that an audit can touch, lm_head counted: what bounds the work that
    /// may be asked of a miner.
    pub fn max_distinct_layers(&self, layers: u32) -> u32 {
        match *self {
            Self::Sampled { cells, decodes, columns, .. } => {
                let drawn = if columns.is_some() { layers } else { cells.min(layers) };
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
                let count = columns.map_or(0, |columns| columns.count.get());
                [cells, decodes, count].into_iter().for_each(|number| out.u32(number));
                if let Some(Columns { one_in, .. }) = columns {
                    out.u32(one_in.get());
                }
                out.u32(least_budget_ms);
            }
            Self::Everything => out.u8(1),
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        match from.u8()? {
            0 => {
                let (cells, decodes) = (from.u32()?, from.u32()?);
                let columns = match NonZeroU32::new(from.u32()?) {
                    Some(count) if count.get() > MAX_COLUMNS => return Err(Malformed::NotCanonical),
                    Some(count) => {
                        let one_in = NonZeroU32::new(from.u32()?).ok_or(Malformed::NotCanonical)?;
                        Some(Columns { count, one_in })
                    }
                    None => None,
                };
                let least_budget_ms = from.u32()?;
                // A policy that asks for nothing would accept everything.
                let bounded = cells <= MAX_DRAWS && decodes <= MAX_DRAWS;
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
            let policy = Policy::Sampled { cells, decodes, columns: Columns::always(columns), least_budget_ms: 0 };
            codec::decode::<Policy>(&codec::encode(&policy)).is_ok()
        };
        assert!(read(1, 1, 0) && read(MAX_DRAWS, MAX_DRAWS, MAX_COLUMNS));
        assert!(!read(0, 1, 0) && !read(1, 0, 0));
        assert!(!read(MAX_DRAWS + 1, 1, 0) && !read(1, MAX_DRAWS + 1, 0) && !read(1, 1, MAX_COLUMNS + 1));
        assert!(!read(1, 1, 65_536));
    }

    #[test]
    fn columns_that_are_never_drawn_have_one_encoding() {
        let of = |numbers: &[u32]| {
            let bytes: Vec<u8> =
                std::iter::once(0).chain(numbers.iter().flat_map(|number| number.to_le_bytes())).collect();
            codec::decode::<Policy>(&bytes)
        };
        let columns = |policy: Result<Policy, _>| match policy {
            Ok(Policy::Sampled { columns, .. }) => columns.map(|columns| (columns.count.get(), columns.one_in.get())),
            other => panic!("{other:?}"),
        };
        assert_eq!(columns(of(&[4, 3, 0, 9])), None);
        assert_eq!(columns(of(&[4, 3, 2, 5, 9])), Some((2, 5)));
        assert!(of(&[4, 3, 0, 1, 9]).is_err() && of(&[4, 3, 2, 0, 9]).is_err() && of(&[4, 3, 2, 9]).is_err());
    }
}
