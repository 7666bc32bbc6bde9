//! The storage of a block: every item that the devnet has something to say about, under its key.

use std::collections::{BTreeMap, BTreeSet};

use scale_encode::EncodeAsType;
use scale_value::Value;

use super::{
    error::NodeError,
    runtime::{Key, Runtime},
};
use crate::{
    devnet::state::{Field, Payload, State, WeightCommit},
    types::Coldkey,
};

/// Keys and values.
pub(super) type Storage = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a block's storage is made of beside the devnet's state.
#[derive(Debug)]
pub(super) struct Frame<'a> {
    pub(super) parent: [u8; 32],
    /// `Vec<EventRecord>`, encoded.
    pub(super) events: &'a [u8],
}

const SUBTENSOR: &str = "SubtensorModule";

#[derive(EncodeAsType)]
struct AccountInfo {
    nonce: u32,
    consumers: u32,
    providers: u32,
    sufficients: u32,
    data: AccountData,
}

#[derive(EncodeAsType)]
struct AccountData {
    free: u64,
    reserved: u64,
    frozen: u64,
    flags: u128,
}

#[derive(EncodeAsType)]
struct AxonInfo {
    block: u64,
    version: u32,
    ip: u128,
    port: u16,
    ip_type: u8,
    protocol: u8,
    placeholder1: u8,
    placeholder2: u8,
}

#[derive(EncodeAsType)]
struct UsageTracker {
    last_epoch: u64,
    used_space: u64,
}

/// Writes the storage of a block in the form of a runtime. Items that the runtime does not have are left out.
///
/// # Errors
/// [`NodeError::Item`] if the runtime has one in another form.
pub(super) fn write(state: &State, frame: &Frame<'_>, runtime: &Runtime) -> Result<Storage, NodeError> {
    let mut writer =
        Writer { runtime, storage: Storage::new(), netuid: Key::Number(state.network.netuid.get().into()) };
    writer.system(state, frame)?;
    writer.subnet(state)?;
    writer.settings(state)?;
    writer.neurons(state)?;
    writer.commits(state)?;
    writer.commitments(state)?;
    writer.beacon(state)?;
    Ok(writer.storage)
}

struct Writer<'a> {
    runtime: &'a Runtime,
    storage: Storage,
    netuid: Key,
}

type Written = Result<(), NodeError>;

impl Writer<'_> {
    fn put(&mut self, pallet: &str, item: &str, keys: &[Key], value: impl EncodeAsType) -> Written {
        if self.runtime.has_item(pallet, item) {
            let value = self.runtime.storage_value(pallet, item, &value)?;
            self.storage.insert(self.runtime.storage_key(pallet, item, keys)?, value);
        }
        Ok(())
    }

    /// An item of the subnet.
    fn own(&mut self, item: &str, value: impl EncodeAsType) -> Written {
        self.put(SUBTENSOR, item, &[self.netuid], value)
    }

    fn system(&mut self, state: &State, frame: &Frame<'_>) -> Written {
        const NEW_LOGIC: u128 = 1 << 127;
        let hotkeys = state.owners.keys().map(|hotkey| Coldkey::new(*hotkey.as_bytes()));
        let accounts = state.balances.keys().chain(state.owners.values()).chain(state.nonces.keys()).copied();
        let accounts: BTreeSet<Coldkey> = accounts.chain(hotkeys).collect();
        for account in accounts {
            let free = state.balance(&account);
            let info = AccountInfo {
                nonce: state.nonce(account.as_bytes()),
                consumers: 0,
                providers: u32::from(free > 0),
                sufficients: 0,
                data: AccountData { free, reserved: 0, frozen: 0, flags: NEW_LOGIC },
            };
            self.put("System", "Account", &[Key::Account(*account.as_bytes())], info)?;
        }
        self.put("System", "Number", &[], state.block)?;
        self.put("System", "ParentHash", &[], frame.parent)?;
        self.storage.insert(self.runtime.storage_key("System", "Events", &[])?, frame.events.to_vec());
        self.put("Timestamp", "Now", &[], State::block_ms(state.block))
    }

    fn subnet(&mut self, state: &State) -> Written {
        self.own("NetworksAdded", true)?;
        self.own("SubnetworkN", state.slots.len() as u64)?;
        self.own("SubnetOwner", *state.owner().coldkey.as_bytes())?;
        self.own("SubnetOwnerHotkey", *state.owner().hotkey.as_bytes())?;
        self.own("Burn", state.burn)
    }

    fn settings(&mut self, state: &State) -> Written {
        let (settings, parameters) = (state.settings(), &state.parameters);
        self.own("Tempo", settings.tempo)?;
        self.own("Kappa", parameters.kappa)?;
        self.own("BondsMovingAverage", parameters.bonds_moving_average)?;
        self.own("BondsPenalty", parameters.bonds_penalty)?;
        self.own("WeightsSetRateLimit", settings.weights_rate_limit)?;
        self.own("WeightsVersionKey", settings.weights_version_key)?;
        self.own("MinAllowedWeights", settings.min_allowed_weights)?;
        self.own("MaxWeightsLimit", settings.max_weight_limit)?;
        self.own("ImmunityPeriod", settings.immunity_period)?;
        self.own("ActivityCutoff", settings.activity_cutoff.min(u16::MAX.into()))?;
        self.own("ServingRateLimit", settings.serving_rate_limit)?;
        self.own("MaxAllowedUids", settings.max_allowed_uids)?;
        self.own("MaxAllowedValidators", settings.max_allowed_validators)?;
        self.put(SUBTENSOR, "StakeThreshold", &[], settings.stake_threshold.get())?;
        self.own("CommitRevealWeightsEnabled", state.reveal_period().is_some())?;
        if let Some(period) = state.reveal_period() {
            self.own("RevealPeriodEpochs", period)?;
        }
        // Where commits are hashes, no version of encrypted ones is taken.
        self.put(SUBTENSOR, "CommitRevealWeightsVersion", &[], state.timelock_version().unwrap_or(0))
    }

    fn neurons(&mut self, state: &State) -> Written {
        let slots = &state.slots;
        self.own("ValidatorPermit", slots.iter().map(|slot| slot.permit).collect::<Vec<bool>>())?;
        self.own("Active", slots.iter().map(|slot| slot.active).collect::<Vec<bool>>())?;
        self.own("StakeWeight", slots.iter().map(|slot| slot.stake_weight).collect::<Vec<u16>>())?;
        self.own("LastUpdate", slots.iter().map(|slot| slot.last_update).collect::<Vec<u64>>())?;
        self.own("Incentive", slots.iter().map(|slot| slot.incentive).collect::<Vec<u16>>())?;
        self.own("Dividends", slots.iter().map(|slot| slot.dividends).collect::<Vec<u16>>())?;
        self.own("Consensus", slots.iter().map(|slot| slot.consensus).collect::<Vec<u16>>())?;
        self.own("ValidatorTrust", slots.iter().map(|slot| slot.trust).collect::<Vec<u16>>())?;
        self.own("Emission", slots.iter().map(|slot| slot.emission).collect::<Vec<u64>>())?;
        let netuid = self.netuid;
        for (slot, uid) in slots.iter().zip(0_u16..) {
            let (hotkey, place) = (Key::Account(*slot.hotkey.as_bytes()), Key::Number(uid.into()));
            self.put(SUBTENSOR, "Keys", &[netuid, place], *slot.hotkey.as_bytes())?;
            self.put(SUBTENSOR, "Uids", &[netuid, hotkey], uid)?;
            self.put(SUBTENSOR, "IsNetworkMember", &[hotkey, netuid], true)?;
            self.put(SUBTENSOR, "BlockAtRegistration", &[netuid, place], slot.registered_at)?;
            if !slot.weights.is_empty() {
                self.put(SUBTENSOR, "Weights", &[netuid, place], &slot.weights)?;
            }
            if !slot.bonds.is_empty() {
                self.put(SUBTENSOR, "Bonds", &[netuid, place], &slot.bonds)?;
            }
            let Some(axon) = &slot.axon else { continue };
            let (ip, ip_type) = match axon.endpoint.ip() {
                std::net::IpAddr::V4(address) => (u128::from(address.to_bits()), 4),
                std::net::IpAddr::V6(address) => (address.to_bits(), 6),
            };
            let info = AxonInfo {
                block: axon.block,
                version: axon.version,
                ip,
                port: axon.endpoint.port(),
                ip_type,
                protocol: axon.protocol,
                placeholder1: axon.placeholder1,
                placeholder2: axon.placeholder2,
            };
            self.put(SUBTENSOR, "Axons", &[netuid, hotkey], info)?;
        }
        for (hotkey, coldkey) in &state.owners {
            self.put(SUBTENSOR, "Owner", &[Key::Account(*hotkey.as_bytes())], *coldkey.as_bytes())?;
        }
        for (hotkey, stake) in &state.stakes {
            self.put(SUBTENSOR, "TotalHotkeyAlpha", &[Key::Account(*hotkey.as_bytes()), netuid], *stake)?;
        }
        Ok(())
    }

    /// Weights that are committed and not seen yet. A commit of a hash names its block and the first and last block
    /// in which it may be revealed.
    fn commits(&mut self, state: &State) -> Written {
        let netuid = self.netuid;
        for (hotkey, commits) in &state.weight_commits {
            let commit = |commit: &WeightCommit| {
                let (first, last) = state.reveal_blocks(commit.epoch);
                (commit.hash, commit.block, first, last)
            };
            let commits: Vec<([u8; 32], u64, u64, u64)> = commits.iter().map(commit).collect();
            self.put(SUBTENSOR, "WeightCommits", &[netuid, Key::Account(*hotkey.as_bytes())], commits)?;
        }
        for (epoch, commits) in &state.timelocked {
            let commits: Vec<([u8; 32], u64, Vec<u8>, u64)> = commits
                .iter()
                .map(|commit| {
                    let bytes = match &commit.payload {
                        Payload::Encrypted(bytes) => bytes.0.clone(),
                        Payload::Sealed { .. } => Vec::new(),
                    };
                    (*commit.hotkey.as_bytes(), commit.block, bytes, commit.round)
                })
                .collect();
            self.put(SUBTENSOR, "TimelockedWeightCommits", &[netuid, Key::Number(*epoch)], commits)?;
        }
        Ok(())
    }

    fn commitments(&mut self, state: &State) -> Written {
        const PALLET: &str = "Commitments";
        let netuid = self.netuid;
        for (hotkey, commitments) in &state.commitments {
            let Some(commitment) = commitments.last() else { continue };
            let registration = registration(commitment.block, &commitment.fields);
            let keys = [netuid, Key::Account(*hotkey.as_bytes())];
            self.put(PALLET, "CommitmentOf", &keys, registration)?;
            self.put(PALLET, "LastCommitment", &keys, commitment.block)?;
        }
        for (hotkey, used) in &state.used_space {
            let usage = UsageTracker { last_epoch: used.epoch, used_space: used.bytes };
            self.put(PALLET, "UsedSpaceOf", &[netuid, Key::Account(*hotkey.as_bytes())], usage)?;
        }
        self.put(PALLET, "MaxSpace", &[], state.parameters.max_space)
    }

    /// The devnet's own beacon, of which the newest pulse is kept.
    fn beacon(&mut self, state: &State) -> Written {
        const PALLET: &str = "Drand";
        let beacon = state.beacon();
        let bytes = |bytes: &[u8]| Value::from_bytes(bytes);
        let config = Value::named_composite([
            ("public_key", bytes(&beacon.public_key)),
            ("period", Value::u128(beacon.period_s.into())),
            ("genesis_time", Value::u128(beacon.genesis_s.into())),
            ("hash", bytes(&beacon.chain)),
            ("group_hash", bytes(&beacon.chain)),
            ("scheme_id", bytes(b"bls-unchained-g1-rfc9380")),
            ("metadata", Value::named_composite([("beacon_id", bytes(b"devnet"))])),
        ]);
        self.put(PALLET, "BeaconConfig", &[], config)?;
        self.put(PALLET, "LastStoredRound", &[], beacon.round)?;
        self.put(PALLET, "OldestStoredRound", &[], beacon.round)?;
        let pulse = pulse(beacon.round, &beacon.randomness, &beacon.signature);
        self.put(PALLET, "Pulses", &[Key::Number(beacon.round)], pulse)
    }
}

/// `Registration`: a commitment, without deposit.
fn registration(block: u64, fields: &[Field]) -> Value<()> {
    let field =
        |Field(bytes): &Field| Value::unnamed_variant(format!("Raw{}", bytes.len()), [Value::from_bytes(bytes)]);
    let fields = Value::unnamed_composite(fields.iter().map(field));
    Value::named_composite([
        ("deposit", Value::u128(0)),
        ("block", Value::u128(block.into())),
        ("info", Value::named_composite([("fields", fields)])),
    ])
}

/// `Pulse`: a round of the beacon.
fn pulse(round: u64, randomness: &[u8], signature: &[u8]) -> Value<()> {
    Value::named_composite([
        ("round", Value::u128(round.into())),
        ("randomness", Value::from_bytes(randomness)),
        ("signature", Value::from_bytes(signature)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    type Json = serde_json::Value;

    fn vectors() -> Json {
        serde_json::from_str(include_str!("../../../fixtures/vectors/chain/scale_v1.json")).unwrap()
    }

    fn bytes(value: &Json) -> Vec<u8> {
        hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
    }

    fn account(value: &Json) -> [u8; 32] {
        bytes(value).try_into().unwrap()
    }

    fn wide(value: &Json) -> u128 {
        value.to_string().trim_matches('"').parse().unwrap()
    }

    fn plain<T: serde::de::DeserializeOwned>(value: &Json) -> T {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn kat_storage_keys_are_those_of_an_independent_implementation() {
        let runtime = Runtime::recorded().unwrap();
        let vectors = vectors();
        let keys = vectors["keys"].as_array().unwrap();
        assert!(keys.len() > 40);
        for vector in keys {
            let key = |key: &Json| key.as_u64().map_or_else(|| Key::Account(account(key)), Key::Number);
            let parts: Vec<Key> = vector["keys"].as_array().unwrap().iter().map(key).collect();
            let (pallet, item) = (vector["pallet"].as_str().unwrap(), vector["item"].as_str().unwrap());
            assert_eq!(runtime.storage_key(pallet, item, &parts).unwrap(), bytes(&vector["key"]), "{item}");
        }
    }

    /// Each value by the same types that the storage is written with.
    #[test]
    fn kat_values_are_those_of_an_independent_implementation() {
        let runtime = Runtime::recorded().unwrap();
        for vector in vectors()["values"].as_array().unwrap() {
            let (pallet, item) = (vector["pallet"].as_str().unwrap(), vector["item"].as_str().unwrap());
            let value = &vector["value"];
            let number = |name: &str| value[name].as_u64().unwrap();
            let written = match item {
                "Account" => {
                    let (data, small) = (&value["data"], |name: &str| u32::try_from(number(name)).unwrap());
                    let data = AccountData {
                        free: plain(&data["free"]),
                        reserved: plain(&data["reserved"]),
                        frozen: plain(&data["frozen"]),
                        flags: wide(&data["flags"]),
                    };
                    let (nonce, consumers) = (small("nonce"), small("consumers"));
                    let (providers, sufficients) = (small("providers"), small("sufficients"));
                    let info = AccountInfo { nonce, consumers, providers, sufficients, data };
                    runtime.storage_value(pallet, item, &info)
                }
                "Axons" => {
                    let info = AxonInfo {
                        block: number("block"),
                        version: plain(&value["version"]),
                        ip: wide(&value["ip"]),
                        port: plain(&value["port"]),
                        ip_type: plain(&value["ip_type"]),
                        protocol: plain(&value["protocol"]),
                        placeholder1: plain(&value["placeholder1"]),
                        placeholder2: plain(&value["placeholder2"]),
                    };
                    runtime.storage_value(pallet, item, &info)
                }
                "Keys" => runtime.storage_value(pallet, item, &account(value)),
                "Weights" | "Bonds" => runtime.storage_value(pallet, item, &plain::<Vec<(u16, u16)>>(value)),
                "ValidatorPermit" => runtime.storage_value(pallet, item, &plain::<Vec<bool>>(value)),
                "Incentive" => runtime.storage_value(pallet, item, &plain::<Vec<u16>>(value)),
                "LastUpdate" | "Emission" => runtime.storage_value(pallet, item, &plain::<Vec<u64>>(value)),
                "Burn" | "Now" => runtime.storage_value(pallet, item, &plain::<u64>(value)),
                "CommitRevealWeightsEnabled" => runtime.storage_value(pallet, item, &plain::<bool>(value)),
                "WeightCommits" => {
                    let commits: Vec<(Json, u64, u64, u64)> = plain(value);
                    let commits: Vec<_> = commits.iter().map(|(hash, a, b, c)| (account(hash), *a, *b, *c)).collect();
                    runtime.storage_value(pallet, item, &commits)
                }
                "TimelockedWeightCommits" => {
                    let commits: Vec<(Json, u64, Json, u64)> = plain(value);
                    let commits: Vec<_> = commits
                        .iter()
                        .map(|(who, block, text, round)| (account(who), *block, bytes(text), *round))
                        .collect();
                    runtime.storage_value(pallet, item, &commits)
                }
                "CommitmentOf" => {
                    let fields = value["info"]["fields"][0].as_array().unwrap().iter();
                    let fields: Vec<Field> = fields
                        .flat_map(|field| field.as_object().unwrap().values())
                        .map(|field| Field(bytes(field)))
                        .collect();
                    runtime.storage_value(pallet, item, &registration(number("block"), &fields))
                }
                "UsedSpaceOf" => {
                    let usage = UsageTracker { last_epoch: number("last_epoch"), used_space: number("used_space") };
                    runtime.storage_value(pallet, item, &usage)
                }
                "Pulses" => {
                    let (randomness, signature) = (bytes(&value["randomness"]), bytes(&value["signature"]));
                    runtime.storage_value(pallet, item, &pulse(number("round"), &randomness, &signature))
                }
                other => panic!("no writer for {other}"),
            };
            assert_eq!(written.unwrap(), bytes(&vector["scale"]), "{item}");
        }
    }
}
