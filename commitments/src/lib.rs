//! Commitments to model weights and to execution traces.
#![forbid(unsafe_code)]

mod code;
pub mod codec;
mod domains;
pub mod fixed_point;
mod ids;
pub mod layout;
pub mod manifest;
pub mod merkle;
pub mod params;
pub mod polynomial;
mod reed_solomon;
pub mod rows;
mod small_sum;
pub mod trace;
pub mod weights;

pub use ids::{Epoch, Hotkey, KvGroup, LayerIndex, ManifestId, Position, SessionId, TokenId};
