//! Every transcript label of this crate.

/// The step of interactive reductions.
pub(crate) const REDUCTION: &str = "reduction";
/// A sumcheck round's message.
pub(crate) const ROUND: &str = "sumcheck/round";
/// A sumcheck round's challenge.
pub(crate) const POINT: &str = "sumcheck/point";
