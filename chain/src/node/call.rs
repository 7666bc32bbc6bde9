//! Calls: from bytes to what the devnet does, and from its refusals to the chain's own.

use assay_commitments::Hotkey;
use scale_decode::{DecodeAsFields, DecodeAsType, Field};
use scale_info::{Variant, form::PortableForm};
use scale_value::{Composite, Primitive, Value, ValueDef};

use super::{
    error::{Invalid, Refusal},
    runtime::Runtime,
};
use crate::{devnet::commits::COMMIT_BYTES_MAX, error::ChainError, record::FIELDS_MAX};

/// A call that the devnet carries out, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    ServeAxon(ServeAxon),
    SetWeights(SetWeights),
    CommitWeights(CommitWeights),
    RevealWeights(RevealWeights),
    CommitTimelockedWeights(CommitTimelockedWeights),
    BurnedRegister(BurnedRegister),
    /// The fields of the commitment, raw.
    SetCommitment {
        netuid: u16,
        fields: Vec<Vec<u8>>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct ServeAxon {
    pub(super) netuid: u16,
    pub(super) version: u32,
    pub(super) ip: u128,
    pub(super) port: u16,
    pub(super) ip_type: u8,
    pub(super) protocol: u8,
    pub(super) placeholder1: u8,
    pub(super) placeholder2: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct SetWeights {
    pub(super) netuid: u16,
    pub(super) dests: Vec<u16>,
    pub(super) weights: Vec<u16>,
    pub(super) version_key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct CommitWeights {
    pub(super) netuid: u16,
    pub(super) commit_hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct RevealWeights {
    pub(super) netuid: u16,
    pub(super) uids: Vec<u16>,
    pub(super) values: Vec<u16>,
    pub(super) salt: Vec<u16>,
    pub(super) version_key: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct CommitTimelockedWeights {
    pub(super) netuid: u16,
    pub(super) commit: Vec<u8>,
    pub(super) reveal_round: u64,
    pub(super) commit_reveal_version: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct BurnedRegister {
    pub(super) netuid: u16,
    pub(super) hotkey: [u8; 32],
}

impl Call {
    /// Reads a call, all its bytes, by the names and types of the runtime.
    ///
    /// # Errors
    /// [`Refusal::Unreadable`] if it is none of this runtime; [`Invalid::Call`] if it is one that the devnet does not
    /// carry out, whose arguments are then not looked at.
    pub(super) fn read(bytes: &[u8], runtime: &Runtime) -> Result<Self, Refusal> {
        let unreadable =
            |why: String| Refusal::Unreadable(format!("the call of the extrinsic cannot be decoded: {why}"));
        let [pallet, call, arguments @ ..] = bytes else { return Err(unreadable("it is too short".to_owned())) };
        let found = runtime.call(*pallet, *call);
        let (pallet, variant) = found.ok_or_else(|| unreadable(format!("there is no call {pallet}.{call}")))?;
        let mut input = arguments;
        let call = match (pallet, variant.name.as_str()) {
            ("SubtensorModule", "serve_axon") => decode(&mut input, variant, runtime).map(Self::ServeAxon),
            ("SubtensorModule", "set_weights") => decode(&mut input, variant, runtime).map(Self::SetWeights),
            ("SubtensorModule", "commit_weights") => decode(&mut input, variant, runtime).map(Self::CommitWeights),
            ("SubtensorModule", "reveal_weights") => decode(&mut input, variant, runtime).map(Self::RevealWeights),
            ("SubtensorModule", "commit_timelocked_weights") => {
                decode(&mut input, variant, runtime).map(Self::CommitTimelockedWeights)
            }
            ("SubtensorModule", "burned_register") => decode(&mut input, variant, runtime).map(Self::BurnedRegister),
            ("Commitments", "set_commitment") => {
                let fields = fields(variant);
                scale_value::scale::decode_as_fields(&mut input, &mut fields.into_iter(), runtime.types())
                    .map_err(|error| error.to_string())
                    .and_then(|arguments| commitment(&arguments))
            }
            _ => return Err(Invalid::Call.into()),
        };
        let call = call.map_err(unreadable)?;
        call.check_bounds().map_err(unreadable)?;
        if input.is_empty() { Ok(call) } else { Err(unreadable(format!("{} bytes follow it", input.len()))) }
    }

    /// `BoundedVec`s, whose bounds are in the runtime's code and not in its metadata.
    fn check_bounds(&self) -> Result<(), String> {
        let (length, most) = match self {
            Self::CommitTimelockedWeights(call) => (call.commit.len(), COMMIT_BYTES_MAX),
            Self::SetCommitment { fields, .. } => (fields.len(), FIELDS_MAX),
            _ => return Ok(()),
        };
        if length > most { Err(format!("{length} elements in a vector of at most {most}")) } else { Ok(()) }
    }

    pub(super) fn netuid(&self) -> u16 {
        match self {
            Self::ServeAxon(call) => call.netuid,
            Self::SetWeights(call) => call.netuid,
            Self::CommitWeights(call) => call.netuid,
            Self::RevealWeights(call) => call.netuid,
            Self::CommitTimelockedWeights(call) => call.netuid,
            Self::BurnedRegister(call) => call.netuid,
            Self::SetCommitment { netuid, .. } => *netuid,
        }
    }
}

fn decode<T: DecodeAsFields>(
    input: &mut &[u8],
    variant: &Variant<PortableForm>,
    runtime: &Runtime,
) -> Result<T, String> {
    T::decode_as_fields(input, &mut fields(variant).into_iter(), runtime.types()).map_err(|error| error.to_string())
}

fn fields(variant: &Variant<PortableForm>) -> Vec<Field<'_, u32>> {
    variant.fields.iter().map(|field| Field::new(field.ty.id, field.name.as_deref())).collect()
}

/// `(netuid, info { fields: [Raw<n>(bytes)] })`. Other kinds of fields exist; nobody here writes them.
fn commitment(arguments: &Composite<u32>) -> Result<Call, String> {
    let Composite::Named(arguments) = arguments else { return Err("its arguments have no names".to_owned()) };
    let argument = |name: &str| {
        let found = arguments.iter().find(|(given, _)| given == name);
        found.map(|(_, value)| value).ok_or_else(|| format!("it has no argument {name}"))
    };
    let netuid = number(argument("netuid")?).and_then(|number| u16::try_from(number).ok());
    let netuid = netuid.ok_or("its netuid is no u16")?;
    let list = flat(argument("info")?);
    let fields: Option<Vec<Vec<u8>>> = list.into_iter().map(raw).collect();
    let fields = fields.ok_or("the devnet keeps raw fields of commitments only")?;
    Ok(Call::SetCommitment { netuid, fields })
}

/// The variants in a structure of wrappers and lists.
fn flat(value: &Value<u32>) -> Vec<&scale_value::Variant<u32>> {
    match &value.value {
        ValueDef::Variant(variant) => vec![variant],
        ValueDef::Composite(composite) => composite.values().flat_map(flat).collect(),
        ValueDef::BitSequence(_) | ValueDef::Primitive(_) => Vec::new(),
    }
}

fn raw(variant: &scale_value::Variant<u32>) -> Option<Vec<u8>> {
    let length: usize = variant.name.strip_prefix("Raw")?.parse().ok()?;
    let mut bytes = Vec::new();
    variant.values.values().for_each(|value| numbers(value, &mut bytes));
    (bytes.len() == length).then_some(bytes)
}

fn numbers(value: &Value<u32>, into: &mut Vec<u8>) {
    match &value.value {
        ValueDef::Composite(composite) => composite.values().for_each(|value| numbers(value, into)),
        _ => into.extend(number(value).and_then(|number| u8::try_from(number).ok())),
    }
}

fn number(value: &Value<u32>) -> Option<u128> {
    match &value.value {
        ValueDef::Primitive(Primitive::U128(number)) => Some(*number),
        // A number in a wrapper of its own.
        ValueDef::Composite(composite) if composite.len() == 1 => composite.values().next().and_then(number),
        _ => None,
    }
}

/// Why a call that is in a block did nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The devnet's own reason.
    Chain(ChainError),
    /// An error of `SubtensorModule` that the devnet does not know.
    Named(&'static str),
    /// Weights are encrypted to a round of the beacon that is over.
    PastRound,
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        Self::Chain(error)
    }
}

impl Failure {
    /// The pallet and the name of the error.
    pub(super) fn name(&self, call: &Call) -> (&'static str, String) {
        const SUBTENSOR: &str = "SubtensorModule";
        let error = match self {
            Self::Named(name) => return (SUBTENSOR, (*name).to_owned()),
            Self::PastRound => return (SUBTENSOR, "InvalidRevealRound".to_owned()),
            Self::Chain(error) => error,
        };
        let commits = matches!(call, Call::CommitWeights(_) | Call::CommitTimelockedWeights(_));
        let name = match error {
            ChainError::NotRegistered(_) => match call {
                Call::SetCommitment { .. } => return ("Commitments", "AccountNotAllowedCommit".to_owned()),
                Call::ServeAxon(_) => "HotKeyNotRegisteredInNetwork",
                _ => "HotKeyNotRegisteredInSubNet",
            },
            ChainError::CommitmentSpace { .. } => return ("Commitments", "SpaceLimitExceeded".to_owned()),
            ChainError::AlreadyRegistered(_) => "HotKeyAlreadyRegisteredInSubNet",
            ChainError::SubnetFull { .. } => "NoNeuronIdAvailable",
            ChainError::ZeroPort => "InvalidPort",
            ChainError::UnreachableAddress(_) => "InvalidIpAddress",
            ChainError::ServingTooFast { .. } => "ServingRateLimitExceeded",
            ChainError::TooManyWeights { .. } => "UidsLengthExceedUidsInSubNet",
            ChainError::WrongVersionKey { .. } => "IncorrectWeightVersionKey",
            ChainError::WeightsTooFast { .. } if commits => "CommittingWeightsTooFast",
            ChainError::WeightsTooFast { .. } => "SettingWeightsTooFast",
            ChainError::NoPermit(_) => "NeuronNoValidatorPermit",
            ChainError::DuplicateUid(_) => "DuplicateUids",
            ChainError::UnknownUid(_) => "UidVecContainInvalidOne",
            ChainError::TooFewWeights { .. } => "WeightVecLengthIsLow",
            ChainError::StakeTooLow { .. } => "NotEnoughStakeToSetWeights",
            ChainError::WeightTooLarge { .. } => "MaxWeightExceeded",
            ChainError::WrongForm { commit_reveal: true } => "CommitRevealEnabled",
            ChainError::WrongForm { commit_reveal: false } => "CommitRevealDisabled",
            ChainError::TooManyCommits { .. } => "TooManyUnrevealedCommits",
            ChainError::NotRevealEpoch { reveals, running, .. } if running < reveals => "RevealTooEarly",
            ChainError::NotRevealEpoch { .. } => "ExpiredWeightCommit",
            ChainError::NoSuchCommit => "NoWeightsCommitFound",
            ChainError::BalanceTooLow(_) => "NotEnoughBalanceToStake",
            ChainError::NoSubnet(_) => "SubnetNotExists",
            ChainError::Refused { name, .. } => return (SUBTENSOR, name.clone()),
            // Everything else is between a client and a chain, or of this project's own making.
            _ => "InvalidValue",
        };
        (SUBTENSOR, name.to_owned())
    }

    /// What the chain answers before it takes the call into its pool, if it looks at this there: the number of
    /// `InvalidTransaction::Custom`.
    pub(super) fn pool_code(&self, call: &Call) -> Option<u8> {
        let error = match self {
            Self::Chain(error) => error,
            Self::PastRound => return Some(15),
            Self::Named(_) => return matches!(call, Call::ServeAxon(_)).then_some(255),
        };
        let code = match (call, error) {
            (Call::ServeAxon(_), ChainError::NotRegistered(_) | ChainError::NoSubnet(_)) => 10,
            (Call::ServeAxon(_), ChainError::UnreachableAddress(_)) => 11,
            (Call::ServeAxon(_), ChainError::ServingTooFast { .. }) => 12,
            (Call::ServeAxon(_), ChainError::ZeroPort) => 13,
            (Call::ServeAxon(_), _) => 255,
            (Call::BurnedRegister(_) | Call::SetCommitment { .. }, _) => return None,
            (_, ChainError::StakeTooLow { .. }) => 1,
            (Call::SetWeights(_) | Call::CommitWeights(_), ChainError::WeightsTooFast { .. }) => 6,
            (Call::RevealWeights(_), ChainError::NoSuchCommit) => 16,
            (Call::RevealWeights(_), ChainError::NotRevealEpoch { .. }) => 17,
            _ => return None,
        };
        Some(code)
    }
}

/// An account as a hotkey.
pub(super) fn hotkey(account: [u8; 32]) -> Hotkey {
    Hotkey::new(account)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vectors() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../fixtures/vectors/chain/scale_v1.json")).unwrap()
    }

    fn bytes(text: &str) -> Vec<u8> {
        hex::decode(text.trim_start_matches("0x")).unwrap()
    }

    /// An argument of a call as the vectors write it.
    fn plain(call: &Call) -> serde_json::Value {
        let hexadecimal = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
        match call {
            Call::ServeAxon(call) => serde_json::json!({
                "netuid": call.netuid, "version": call.version, "ip": call.ip.to_string(), "port": call.port,
                "ip_type": call.ip_type, "protocol": call.protocol,
                "placeholder1": call.placeholder1, "placeholder2": call.placeholder2,
            }),
            Call::SetWeights(call) => serde_json::json!({
                "netuid": call.netuid, "dests": call.dests, "weights": call.weights, "version_key": call.version_key,
            }),
            Call::CommitWeights(call) => serde_json::json!({
                "netuid": call.netuid, "commit_hash": hexadecimal(&call.commit_hash),
            }),
            Call::RevealWeights(call) => serde_json::json!({
                "netuid": call.netuid, "uids": call.uids, "values": call.values, "salt": call.salt,
                "version_key": call.version_key,
            }),
            Call::CommitTimelockedWeights(call) => serde_json::json!({
                "netuid": call.netuid, "commit": hexadecimal(&call.commit), "reveal_round": call.reveal_round,
                "commit_reveal_version": call.commit_reveal_version,
            }),
            Call::BurnedRegister(call) => serde_json::json!({
                "netuid": call.netuid, "hotkey": hexadecimal(&call.hotkey),
            }),
            Call::SetCommitment { netuid, fields } => {
                let raw = |field: &Vec<u8>| serde_json::json!({ format!("Raw{}", field.len()): hexadecimal(field) });
                let fields: Vec<_> = fields.iter().map(raw).collect();
                serde_json::json!({ "netuid": netuid, "info": { "fields": [fields] } })
            }
        }
    }

    #[test]
    fn kat_calls_are_read_as_an_independent_implementation_wrote_them() {
        let runtime = Runtime::recorded().unwrap();
        let vectors = vectors();
        let calls = vectors["calls"].as_array().unwrap();
        assert_eq!(calls.len(), 9);
        for vector in calls {
            let scale = bytes(vector["scale"].as_str().unwrap());
            let mut expected = vector["arguments"].clone();
            if let Some(ip) = expected.get_mut("ip") {
                // More than 64 bits stand as text.
                *ip = ip.to_string().trim_matches('"').into();
            }
            assert_eq!(plain(&Call::read(&scale, &runtime).unwrap()), expected, "{}", vector["call"]);
            // Not a byte more, not one less.
            assert!(matches!(Call::read(&[&scale[..], &[0]].concat(), &runtime), Err(Refusal::Unreadable(_))));
            assert!(matches!(Call::read(&scale[..scale.len() - 1], &runtime), Err(Refusal::Unreadable(_))));
        }
    }

    #[test]
    fn other_calls_are_refused_unread() {
        let runtime = Runtime::recorded().unwrap();
        // System.remark, and a call that is not there.
        assert_eq!(Call::read(&[0, 0, 255, 255, 255], &runtime), Err(Invalid::Call.into()));
        assert!(matches!(Call::read(&[7, 255], &runtime), Err(Refusal::Unreadable(_))));
        assert!(matches!(Call::read(&[7], &runtime), Err(Refusal::Unreadable(_))));
    }

    #[test]
    fn a_list_that_claims_to_be_long_is_not_allocated() {
        let runtime = Runtime::recorded().unwrap();
        // set_weights of four billion uids.
        let call = [7, 0, 1, 0, 3, 255, 255, 255, 255];
        assert!(matches!(Call::read(&call, &runtime), Err(Refusal::Unreadable(_))));
    }
}
