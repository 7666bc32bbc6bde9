//! The calls, with their arguments in the chain's units.

use std::net::{IpAddr, SocketAddr};

use scale_value::Value;

use super::{items, runtime::Call, snapshot::number};
use crate::types::{NetUid, Uid};

/// Version of the software that serves, as the axon tells it.
const AXON_VERSION: u32 = 1;
/// The Bittensor SDK's default. Nothing looks at it.
const AXON_PROTOCOL: u8 = 4;

fn id(netuid: NetUid) -> Value {
    number(netuid.get())
}

fn list(numbers: impl IntoIterator<Item = u16>) -> Value {
    Value::unnamed_composite(numbers.into_iter().map(number))
}

/// An address as the chain writes it: the number whose most significant byte is the first, and 4 or 6.
pub(super) fn address(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(ip) => (ip.to_bits().into(), 4),
        IpAddr::V6(ip) => (ip.to_bits(), 6),
    }
}

pub(super) fn serve_axon(netuid: NetUid, endpoint: SocketAddr) -> Call {
    let (ip, ip_type) = address(endpoint.ip());
    items::SERVE_AXON.with([
        id(netuid),
        number(AXON_VERSION),
        number(ip),
        number(endpoint.port()),
        number(ip_type),
        number(AXON_PROTOCOL),
        number(0_u8),
        number(0_u8),
    ])
}

pub(super) fn set_commitment(netuid: NetUid, fields: &[Vec<u8>]) -> Call {
    // The length stands in the variant's name.
    let raw = |field: &Vec<u8>| Value::unnamed_variant(format!("Raw{}", field.len()), [Value::from_bytes(field)]);
    let fields = Value::unnamed_composite(fields.iter().map(raw));
    items::SET_COMMITMENT.with([id(netuid), Value::named_composite([("fields", fields)])])
}

pub(super) fn set_weights(netuid: NetUid, weights: &[(Uid, u16)], version_key: u64) -> Call {
    let (uids, values) = (weights.iter().map(|(uid, _)| uid.get()), weights.iter().map(|(_, value)| *value));
    items::SET_WEIGHTS.with([id(netuid), list(uids), list(values), number(version_key)])
}

pub(super) fn commit_weights(netuid: NetUid, hash: &[u8; 32]) -> Call {
    items::COMMIT_WEIGHTS.with([id(netuid), Value::from_bytes(hash)])
}

pub(super) fn reveal_weights(netuid: NetUid, weights: &[(Uid, u16)], salt: &[u16], version_key: u64) -> Call {
    let (uids, values) = (weights.iter().map(|(uid, _)| uid.get()), weights.iter().map(|(_, value)| *value));
    items::REVEAL_WEIGHTS.with([id(netuid), list(uids), list(values), list(salt.iter().copied()), number(version_key)])
}

pub(super) fn commit_timelocked_weights(netuid: NetUid, ciphertext: &[u8], round: u64, version: u16) -> Call {
    items::COMMIT_TIMELOCKED_WEIGHTS.with([id(netuid), Value::from_bytes(ciphertext), number(round), number(version)])
}
