//! `docs/forgers.md`.
use crate::Found;
use crate::drift::Drift;
/// Writes the page.
pub(crate) fn write(_: &[Found], _: &[Drift], _: (usize, usize)) {}
