//! Carrying out calls, and the events they leave.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use parity_scale_codec::Encode;
use scale_value::{Composite, Value};
use sp_crypto_hashing::blake2_256;

use super::{
    call::{Call, Failure, ServeAxon, hotkey},
    error::NodeError,
    runtime::Runtime,
};
use crate::{
    devnet::{
        commits::weights_hash,
        state::{Axon, State},
    },
    error::ChainError,
    types::{Coldkey, NetUid},
};

/// An event that is not encoded yet: pallet, name, fields.
pub(super) type Event = (&'static str, &'static str, Vec<Value<()>>);

const SUBTENSOR: &str = "SubtensorModule";

/// Carries out a call of an account, whole or not at all, and says which events it leaves.
pub(super) fn execute(state: &mut State, account: [u8; 32], call: &Call) -> Result<Vec<Event>, Failure> {
    let signer = hotkey(account);
    let netuid = call.netuid();
    if netuid != state.network.netuid.get() {
        let absent = ChainError::NoSubnet(NetUid::new(netuid));
        let error = if let Call::SetCommitment { .. } = call { ChainError::NotRegistered(signer) } else { absent };
        return Err(error.into());
    }
    let number = |number: u16| Value::u128(number.into());
    let who = Value::from_bytes(account);
    let subnet = number(netuid);
    let event = match call {
        Call::ServeAxon(call) => {
            state.slot(signer)?;
            state.serve_endpoint(signer, axon(call)?)?;
            (SUBTENSOR, "AxonServed", vec![subnet, who])
        }
        Call::SetWeights(call) => {
            let weights = pairs(&call.dests, &call.weights).ok_or(Failure::Named("WeightVecNotEqualSize"))?;
            state.set_weights(signer, &weights, call.version_key)?;
            let uid = state.uid(signer)?;
            (SUBTENSOR, "WeightsSet", vec![subnet, number(uid)])
        }
        Call::CommitWeights(call) => {
            state.commit_weights(signer, call.commit_hash)?;
            (SUBTENSOR, "WeightsCommitted", vec![who, subnet, Value::from_bytes(call.commit_hash)])
        }
        Call::RevealWeights(call) => {
            // Vectors of two lengths have another hash than anything that was committed.
            let weights = pairs(&call.uids, &call.values).ok_or(ChainError::NoSuchCommit)?;
            let hash = weights_hash(signer, netuid, &weights, &call.salt, call.version_key);
            state.reveal_weights(signer, &weights, &call.salt, call.version_key)?;
            (SUBTENSOR, "WeightsRevealed", vec![who, subnet, Value::from_bytes(hash)])
        }
        Call::CommitTimelockedWeights(call) => {
            if call.reveal_round < state.newest_round() {
                return Err(Failure::PastRound);
            }
            let hash = Value::from_bytes(blake2_256(&call.commit));
            state.commit_timelocked_weights(
                signer,
                call.commit.clone(),
                call.reveal_round,
                call.commit_reveal_version,
            )?;
            let round = Value::u128(call.reveal_round.into());
            (SUBTENSOR, "TimelockedWeightsCommitted", vec![who, subnet, hash, round])
        }
        Call::BurnedRegister(call) => {
            let uid = state.burned_register(Coldkey::new(account), hotkey(call.hotkey))?;
            (SUBTENSOR, "NeuronRegistered", vec![subnet, number(uid.get()), Value::from_bytes(call.hotkey)])
        }
        Call::SetCommitment { fields, .. } => {
            state.set_commitment(signer, fields.clone())?;
            ("Commitments", "Commitment", vec![subnet, who])
        }
    };
    Ok(vec![event])
}

/// The event of timelocked weights that the chain has opened.
pub(super) fn opened(netuid: u16, author: [u8; 32]) -> Event {
    (SUBTENSOR, "TimelockedWeightsRevealed", vec![Value::u128(netuid.into()), Value::from_bytes(author)])
}

fn pairs(uids: &[u16], values: &[u16]) -> Option<Vec<(u16, u16)>> {
    (uids.len() == values.len()).then(|| uids.iter().copied().zip(values.iter().copied()).collect())
}

fn axon(call: &ServeAxon) -> Result<Axon, Failure> {
    let address = match call.ip_type {
        4 => u32::try_from(call.ip).map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits))),
        6 => Ok(IpAddr::V6(Ipv6Addr::from_bits(call.ip))),
        _ => return Err(Failure::Named("InvalidIpType")),
    };
    // What has more than 32 bits is no address of the fourth version, and may be shown as one of the sixth.
    let address = address.map_err(|_| ChainError::UnreachableAddress(IpAddr::V6(Ipv6Addr::from_bits(call.ip))))?;
    Ok(Axon {
        block: 0,
        version: call.version,
        endpoint: SocketAddr::new(address, call.port),
        protocol: call.protocol,
        placeholder1: call.placeholder1,
        placeholder2: call.placeholder2,
    })
}

/// What a failed call leaves: the error by its indexes in the metadata.
pub(super) fn dispatch_error(failure: &Failure, call: &Call, runtime: &Runtime) -> Value<()> {
    let (pallet, name) = failure.name(call);
    let Some((pallet, error)) = runtime.error(pallet, &name) else {
        return Value::unnamed_variant("Other", []);
    };
    let index = [u128::from(error), 0, 0, 0].map(Value::u128);
    let module =
        Value::named_composite([("index", Value::u128(pallet.into())), ("error", Value::unnamed_composite(index))]);
    Value::unnamed_variant("Module", [module])
}

/// `DispatchEventInfo` of a call that pays nothing.
pub(super) fn dispatch_info() -> Value<()> {
    let nothing = || Composite::Unnamed(Vec::new());
    let weight = Value::named_composite([("ref_time", Value::u128(0)), ("proof_size", Value::u128(0))]);
    Value::named_composite([
        ("weight", weight),
        ("class", Value::variant("Normal", nothing())),
        ("pays_fee", Value::variant("No", nothing())),
    ])
}

/// The events of a block as they are written, in the form of its runtime.
#[derive(Debug, Default)]
pub(super) struct Events {
    records: Vec<Vec<u8>>,
}

/// When in a block something happens, as its event tells.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// In the extrinsic with this index.
    Extrinsic(u32),
    /// Behind all extrinsics.
    Finalization,
    /// Before them.
    Initialization,
}

impl Phase {
    /// As the chain writes it.
    fn encode(self) -> Vec<u8> {
        match self {
            Self::Extrinsic(index) => (0_u8, index).encode(),
            Self::Finalization => vec![1],
            Self::Initialization => vec![2],
        }
    }
}

impl Events {
    /// Adds an event.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the runtime has none of this form.
    pub(super) fn push(&mut self, phase: Phase, event: &Event, runtime: &Runtime) -> Result<(), NodeError> {
        let (pallet, name, fields) = event;
        let event = runtime.event(pallet, name, fields)?;
        let topics = Vec::<[u8; 32]>::new();
        self.records.push([phase.encode(), event, topics.encode()].concat());
        Ok(())
    }

    /// All of them, as `Vec<EventRecord>`.
    pub(super) fn encode(&self) -> Vec<u8> {
        let count = parity_scale_codec::Compact(u32::try_from(self.records.len()).unwrap_or(u32::MAX));
        [count.encode(), self.records.concat()].concat()
    }
}
