//! Commitments to model weights and to execution traces.
#![forbid(unsafe_code)]

mod code;
pub mod codec;
mod domains;
pub mod fixed_point;
mod ids;
pub mod lanes;
pub mod layout;
pub mod manifest;
pub mod merkle;
pub mod params;
pub mod polynomial;
pub mod rows;
pub mod security;
pub mod structure;
pub mod trace;
pub mod weights;

pub use ids::{Epoch, Hotkey, KvGroup, LayerIndex, ManifestId, Position, SessionId, TokenId};
