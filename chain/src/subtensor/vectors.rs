//! Calls, keys, values and signed bytes against vectors that an independent implementation of SCALE has
//! made of the real chain's metadata (`fixtures/vectors/chain/generate_scale.py`).

use std::net::SocketAddr;

use assay_commitments::Hotkey;
use scale_value::Value;
use serde_json::Value as Json;
use subxt::utils::H256;
use subxt_signer::sr25519::{dev, verify};

use super::{
    calls,
    follow::Tip,
    items::{self, Axon},
    runtime::{Call, Entry, Runtime},
    snapshot, submit,
    writes::weights_hash,
};
use crate::{
    record::Record,
    types::{GenesisHash, NetUid, Uid},
};

const NETUID: NetUid = NetUid::new(7);

fn runtime(file: &str) -> Runtime {
    let path = format!("{}/../fixtures/chain/{file}", env!("CARGO_MANIFEST_DIR"));
    Runtime::read(&std::fs::read(path).unwrap(), 365, 1).unwrap()
}

fn vectors() -> Json {
    let path = format!("{}/../fixtures/vectors/chain/scale_v1.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn bytes(json: &Json) -> Vec<u8> {
    hex::decode(json.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

fn bytes32(json: &Json) -> [u8; 32] {
    bytes(json).try_into().unwrap()
}

fn int<T: TryFrom<u64>>(json: &Json) -> T
where
    T::Error: std::fmt::Debug,
{
    json.as_u64().unwrap().try_into().unwrap()
}

fn ints(json: &Json) -> Vec<u16> {
    json.as_array().unwrap().iter().map(int).collect()
}

fn weights(uids: &Json, values: &Json) -> Vec<(Uid, u16)> {
    ints(uids).into_iter().map(Uid::new).zip(ints(values)).collect()
}

fn fields(info: &Json) -> Vec<Vec<u8>> {
    let fields = info["fields"][0].as_array().unwrap();
    fields.iter().map(|field| bytes(field.as_object().unwrap().values().next().unwrap())).collect()
}

/// The call of a vector, made from its arguments as the chain's users would.
fn call(vector: &Json) -> Option<Call> {
    let of = &vector["arguments"];
    Some(match vector["call"].as_str().unwrap() {
        "serve_axon" => {
            let ip: u128 = of["ip"].to_string().trim_matches('"').parse().unwrap();
            let axon = Axon { block: 0, ip, port: int(&of["port"]), ip_type: int(&of["ip_type"]) };
            let endpoint: SocketAddr = snapshot::endpoint(&axon).unwrap();
            calls::serve_axon(NETUID, endpoint)
        }
        "set_weights" => calls::set_weights(NETUID, &weights(&of["dests"], &of["weights"]), int(&of["version_key"])),
        "commit_weights" => calls::commit_weights(NETUID, &bytes32(&of["commit_hash"])),
        "reveal_weights" => calls::reveal_weights(
            NETUID,
            &weights(&of["uids"], &of["values"]),
            &ints(&of["salt"]),
            int(&of["version_key"]),
        ),
        "commit_timelocked_weights" => calls::commit_timelocked_weights(
            NETUID,
            &bytes(&of["commit"]),
            int(&of["reveal_round"]),
            int(&of["commit_reveal_version"]),
        ),
        "set_commitment" => calls::set_commitment(NETUID, &fields(&of["info"])),
        // Nobody who runs as a service registers.
        "burned_register" => return None,
        other => panic!("{other}"),
    })
}

#[test]
fn kat_calls_are_encoded_byte_for_byte() {
    let runtime = runtime("finney-365.scale");
    let client = runtime.client(GenesisHash::new([0; 32])).unwrap();
    let vectors = vectors();
    let mut seen = 0;
    for vector in vectors["calls"].as_array().unwrap() {
        let Some(call) = call(vector) else { continue };
        let encoded = client.transactions().call_data(&call.payload).unwrap();
        assert_eq!(hex::encode(encoded), hex::encode(bytes(&vector["scale"])), "{vector}");
        seen += 1;
    }
    assert_eq!(seen, 8);
}

#[test]
fn kat_state_lies_where_its_keys_say() {
    let runtime = runtime("finney-365.scale");
    let vectors = vectors();
    let mut seen = 0;
    let mut check = |entry: Entry<()>| {
        let vector = vectors["keys"].as_array().unwrap().iter().find(|vector| {
            (vector["pallet"].as_str(), vector["item"].as_str()) == (Some(entry.pallet), Some(entry.name))
        });
        let Some(vector) = vector else { return };
        let key = |key: &Json| key.as_u64().map_or_else(|| snapshot::account(&bytes32(key)), snapshot::number);
        let keys: Vec<Value> = vector["keys"].as_array().unwrap().iter().map(key).collect();
        assert_eq!(keys.len(), entry.keys, "{vector}");
        let found = runtime.key(entry, keys).unwrap();
        assert_eq!(hex::encode(found), hex::encode(bytes(&vector["key"])), "{vector}");
        seen += 1;
    };
    items::each_entry(&mut check);
    assert!(seen >= 33, "{seen} keys have vectors");
}

#[test]
fn kat_values_are_read_as_they_were_written() {
    let runtime = runtime("finney-365.scale");
    let vectors = vectors();
    let of = |item: &str| {
        let all = vectors["values"].as_array().unwrap();
        bytes(&all.iter().find(|vector| vector["item"] == item).unwrap()["scale"])
    };
    let axon = runtime.decode(items::AXONS, Some(&of("Axons"))).unwrap().unwrap();
    assert_eq!(axon, Axon { block: 123_456, ip: 3_325_256_711, port: 8_091, ip_type: 4 });
    assert_eq!(snapshot::endpoint(&axon), Some("198.51.100.7:8091".parse().unwrap()));
    let hotkey: [u8; 32] = std::array::from_fn(|byte| u8::try_from(byte).unwrap());
    assert_eq!(runtime.decode(items::KEYS, Some(&of("Keys"))).unwrap(), Some(hotkey));
    let row = runtime.decode(items::WEIGHTS, Some(&of("Weights"))).unwrap();
    assert_eq!(row, Some(vec![(0, 1), (3, 65_535), (255, 300)]));
    let permits = runtime.decode(items::VALIDATOR_PERMIT, Some(&of("ValidatorPermit"))).unwrap();
    assert_eq!(permits, Some(vec![true, false, true]));
    let updates = runtime.decode(items::LAST_UPDATE, Some(&of("LastUpdate"))).unwrap();
    assert_eq!(updates, Some(vec![0, 1, 1 << 40]));
    let commits = runtime.decode(items::WEIGHT_COMMITS, Some(&of("WeightCommits"))).unwrap().unwrap();
    assert_eq!(commits, [(std::array::from_fn(|byte| 0x40 + u8::try_from(byte).unwrap()), 100, 201, 301)]);
    let commits = runtime.decode(items::TIMELOCKED_WEIGHT_COMMITS, Some(&of("TimelockedWeightCommits"))).unwrap();
    assert_eq!(commits, Some(vec![(hotkey, 100, vec![1, 2, 3], 12_345_678)]));
    let usage = runtime.decode(items::USED_SPACE_OF, Some(&of("UsedSpaceOf"))).unwrap().unwrap();
    assert_eq!((usage.last_epoch, usage.used_space), (11, 200));
    let registration = runtime.decode(items::COMMITMENT_OF, Some(&of("CommitmentOf"))).unwrap().unwrap();
    let ids: Vec<u8> = (0..64).collect();
    let expected = Record::read([[b"AM", ids.as_slice()].concat().as_slice(), b"assay"]);
    assert_eq!(expected.registry.len(), 2);
    assert_eq!((registration.block, snapshot::record(&registration)), (123_456, expected));
}

#[test]
fn kat_what_is_signed_names_chain_runtime_nonce_and_era() {
    let runtime = runtime("finney-365.scale");
    let vectors = vectors();
    let signing = &vectors["signing"];
    let keypair = dev::alice();
    let call = call(&vectors["calls"][0]).unwrap();
    let anchor = Tip { number: int(&signing["birth_block"]), hash: H256(bytes32(&signing["birth_hash"])) };
    let genesis = GenesisHash::new(bytes32(&signing["genesis"]));
    let (nonce, period) = (int(&signing["nonce"]), int(&signing["period"]));
    let signed = submit::sign(&runtime, genesis, &keypair, &call, nonce, (anchor, period)).unwrap();
    // Length, version with the bit of signed ones, the account, the kind of signature, the signature.
    let (length, rest) = signed.split_at(2);
    assert_eq!((u64::from(length[0]) | u64::from(length[1]) << 8) >> 2, rest.len() as u64);
    let key = keypair.public_key();
    assert_eq!(rest[..2], [0x84, 0]);
    assert_eq!(rest[2..34], key.0);
    assert_eq!(rest[34], 1);
    let signature = subxt_signer::sr25519::Signature(rest[35..99].try_into().unwrap());
    assert_eq!(rest[99..], [bytes(&signing["extra"]), bytes(&signing["call"])].concat());
    assert!(verify(&signature, bytes(&signing["payload"]), &key));
}

#[test]
fn kat_a_hash_commit_is_the_chains() {
    let vectors = vectors();
    let commit = &vectors["commit"];
    let hash = weights_hash(
        Hotkey::new(bytes32(&commit["hotkey"])),
        NETUID,
        &weights(&commit["uids"], &commit["values"]),
        &ints(&commit["salt"]),
        int(&commit["version_key"]),
    );
    assert_eq!(hash, bytes32(&commit["hash"]));
}

#[test]
fn recorded_runtimes_have_all_that_is_needed() {
    for file in ["finney-365.scale", "finney-393.scale"] {
        runtime(file).check_compat().unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

#[test]
fn a_runtime_that_lacks_something_is_named_with_it() {
    let runtime = runtime("finney-365.scale");
    let missing: Entry<u16> = Entry::new("SubtensorModule", "Tempi", 1);
    let error = runtime.check_entry(missing).unwrap_err().to_string();
    assert!(error.contains("SubtensorModule.Tempi") && error.contains("365"), "{error}");
    let keys: Entry<u16> = Entry::new("SubtensorModule", "Tempo", 2);
    assert!(runtime.check_entry(keys).unwrap_err().to_string().contains("SubtensorModule.Tempo"));
    let kind: Entry<Vec<u64>> = Entry::new("SubtensorModule", "Tempo", 1);
    assert!(runtime.check_entry(kind).unwrap_err().to_string().contains("SubtensorModule.Tempo"));
    let mut form = items::SET_WEIGHTS;
    form.fields = &["netuid", "dests", "version_key"];
    let error = runtime.check_call(form).unwrap_err().to_string();
    assert!(error.contains("SubtensorModule.set_weights"), "{error}");
}
