//! What of the runtime is used: items of state with what they are read as, and calls.

use scale_decode::DecodeAsType;
use scale_value::Value;

use super::runtime::{CallForm, Entry, Runtime};
use crate::error::ChainError;

/// An account, a hash.
pub(super) type Bytes32 = [u8; 32];

/// `AxonInfo`, what is used of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct Axon {
    /// The block it was published in.
    pub(super) block: u64,
    /// The address as a number, most significant byte first.
    pub(super) ip: u128,
    pub(super) port: u16,
    /// 4 or 6.
    pub(super) ip_type: u8,
}

/// `Registration` of the commitments pallet.
#[derive(Clone, Debug, DecodeAsType)]
pub(super) struct Registration {
    /// The block it was written in.
    pub(super) block: u32,
    pub(super) info: Info,
}

/// `CommitmentInfo`. The fields are variants by their length, so they are read by name.
#[derive(Clone, Debug, DecodeAsType)]
pub(super) struct Info {
    pub(super) fields: Vec<Value<()>>,
}

/// `UsageTracker` of the commitments pallet.
#[derive(Clone, Copy, Debug, DecodeAsType)]
pub(super) struct Usage {
    /// The epoch that was last written in.
    pub(super) last_epoch: u64,
    /// The bytes written in it.
    pub(super) used_space: u64,
}

/// `BeaconConfiguration` of drand, what is used of it.
#[derive(Clone, Debug, DecodeAsType)]
pub(super) struct Beacon {
    /// A point of G2, compressed.
    pub(super) public_key: Vec<u8>,
    /// Seconds from round to round.
    pub(super) period: u32,
    /// When round 1 came, in seconds since 1970.
    pub(super) genesis_time: u32,
}

/// Hash, block of the commit, and the blocks between which it may be revealed.
pub(super) type HashCommit = (Bytes32, u64, u64, u64);
/// Hotkey, block of the commit, ciphertext, round.
pub(super) type TimelockedCommit = (Bytes32, u64, Vec<u8>, u64);

macro_rules! entries {
    ($($(#[$when:ident])? $name:ident: $type:ty = $pallet:ident.$item:ident[$keys:literal];)*) => {
        $(pub(super) const $name: Entry<$type> = Entry::new(stringify!($pallet), stringify!($item), $keys);)*

        /// Whether a runtime has all of them, in a form that can be read.
        pub(super) fn check_entries(runtime: &Runtime) -> Result<(), ChainError> {
            $(check!($($when)? runtime, $name);)*
            Ok(())
        }

        /// All of them, without what they are read as.
        #[cfg(test)]
        pub(super) fn each_entry(visit: &mut impl FnMut(Entry<()>)) {
            $(visit(Entry::new($name.pallet, $name.name, $name.keys));)*
        }
    };
}

/// What not every runtime has is checked where it is there.
macro_rules! check {
    (optional $runtime:ident, $name:ident) => {
        if $runtime.has($name) {
            $runtime.check_entry($name)?;
        }
    };
    ($runtime:ident, $name:ident) => {
        $runtime.check_entry($name)?;
    };
}

entries! {
    NOW: u64 = Timestamp.Now[0];
    COMMITMENT_OF: Registration = Commitments.CommitmentOf[2];
    MAX_SPACE: u32 = Commitments.MaxSpace[0];
    USED_SPACE_OF: Usage = Commitments.UsedSpaceOf[2];
    BEACON_CONFIG: Beacon = Drand.BeaconConfig[0];
    NETWORKS_ADDED: bool = SubtensorModule.NetworksAdded[1];
    SUBNETWORK_N: u16 = SubtensorModule.SubnetworkN[1];
    SUBNET_OWNER_HOTKEY: Bytes32 = SubtensorModule.SubnetOwnerHotkey[1];
    KEYS: Bytes32 = SubtensorModule.Keys[2];
    UIDS: u16 = SubtensorModule.Uids[2];
    OWNER: Bytes32 = SubtensorModule.Owner[1];
    AXONS: Axon = SubtensorModule.Axons[2];
    BLOCK_AT_REGISTRATION: u64 = SubtensorModule.BlockAtRegistration[2];
    VALIDATOR_PERMIT: Vec<bool> = SubtensorModule.ValidatorPermit[1];
    ACTIVE: Vec<bool> = SubtensorModule.Active[1];
    LAST_UPDATE: Vec<u64> = SubtensorModule.LastUpdate[1];
    WEIGHTS: Vec<(u16, u16)> = SubtensorModule.Weights[2];
    TEMPO: u16 = SubtensorModule.Tempo[1];
    WEIGHTS_SET_RATE_LIMIT: u64 = SubtensorModule.WeightsSetRateLimit[1];
    WEIGHTS_VERSION_KEY: u64 = SubtensorModule.WeightsVersionKey[1];
    MIN_ALLOWED_WEIGHTS: u16 = SubtensorModule.MinAllowedWeights[1];
    #[optional] MAX_WEIGHTS_LIMIT: u16 = SubtensorModule.MaxWeightsLimit[1];
    COMMIT_REVEAL_WEIGHTS_ENABLED: bool = SubtensorModule.CommitRevealWeightsEnabled[1];
    REVEAL_PERIOD_EPOCHS: u64 = SubtensorModule.RevealPeriodEpochs[1];
    #[optional] COMMIT_REVEAL_WEIGHTS_VERSION: u16 = SubtensorModule.CommitRevealWeightsVersion[0];
    IMMUNITY_PERIOD: u16 = SubtensorModule.ImmunityPeriod[1];
    #[optional] ACTIVITY_CUTOFF: u16 = SubtensorModule.ActivityCutoff[1];
    #[optional] ACTIVITY_CUTOFF_FACTOR_MILLI: u32 = SubtensorModule.ActivityCutoffFactorMilli[1];
    SERVING_RATE_LIMIT: u64 = SubtensorModule.ServingRateLimit[1];
    STAKE_THRESHOLD: u64 = SubtensorModule.StakeThreshold[0];
    BURN: u64 = SubtensorModule.Burn[1];
    MAX_ALLOWED_UIDS: u16 = SubtensorModule.MaxAllowedUids[1];
    MAX_ALLOWED_VALIDATORS: u16 = SubtensorModule.MaxAllowedValidators[1];
    TOTAL_HOTKEY_ALPHA: u64 = SubtensorModule.TotalHotkeyAlpha[2];
    TAO_WEIGHT: u64 = SubtensorModule.TaoWeight[0];
    PARENT_KEYS: Vec<(u64, Bytes32)> = SubtensorModule.ParentKeys[2];
    CHILD_KEYS: Vec<(u64, Bytes32)> = SubtensorModule.ChildKeys[2];
    WEIGHT_COMMITS: Vec<HashCommit> = SubtensorModule.WeightCommits[2];
    #[optional] TIMELOCKED_WEIGHT_COMMITS: Vec<TimelockedCommit> = SubtensorModule.TimelockedWeightCommits[2];
    #[optional] SUBNET_EPOCH_INDEX: u64 = SubtensorModule.SubnetEpochIndex[1];
    #[optional] LAST_EPOCH_BLOCK: u64 = SubtensorModule.LastEpochBlock[1];
    #[optional] PENDING_EPOCH_AT: u64 = SubtensorModule.PendingEpochAt[1];
}

const fn form(name: &'static str, fields: &'static [&'static str]) -> CallForm {
    CallForm { pallet: "SubtensorModule", name, fields }
}

pub(super) const SERVE_AXON: CallForm =
    form("serve_axon", &["netuid", "version", "ip", "port", "ip_type", "protocol", "placeholder1", "placeholder2"]);
pub(super) const SET_WEIGHTS: CallForm = form("set_weights", &["netuid", "dests", "weights", "version_key"]);
pub(super) const COMMIT_WEIGHTS: CallForm = form("commit_weights", &["netuid", "commit_hash"]);
pub(super) const REVEAL_WEIGHTS: CallForm =
    form("reveal_weights", &["netuid", "uids", "values", "salt", "version_key"]);
pub(super) const COMMIT_TIMELOCKED_WEIGHTS: CallForm =
    form("commit_timelocked_weights", &["netuid", "commit", "reveal_round", "commit_reveal_version"]);
pub(super) const SET_COMMITMENT: CallForm =
    CallForm { pallet: "Commitments", name: "set_commitment", fields: &["netuid", "info"] };

/// The calls that every runtime has.
pub(super) const CALLS: &[CallForm] = &[SERVE_AXON, SET_WEIGHTS, SET_COMMITMENT];
/// One of these is there where weights are committed before they are seen.
pub(super) const COMMITS: &[CallForm] = &[COMMIT_TIMELOCKED_WEIGHTS, COMMIT_WEIGHTS];
