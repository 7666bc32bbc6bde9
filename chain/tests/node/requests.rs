//! Requests that nobody should make.

use proptest::prelude::*;
use serde_json::{Value as Json, json};
use subxt_signer::sr25519::dev;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{NETUID, Net, Signer, hexadecimal, nothing, serve_axon};

/// One request over HTTP, as it comes: the answer's body.
async fn post(net: &Net, body: &[u8]) -> Vec<u8> {
    let mut answer = send(net, "POST", "host: localhost\r\ncontent-type: application/json\r\n", body).await;
    let start = answer.windows(4).position(|window| window == b"\r\n\r\n").map_or(0, |at| at + 4);
    answer.split_off(start)
}

/// One request with these headers: the whole answer.
async fn send(net: &Net, method: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(net.node.address()).await.unwrap();
    let length = body.len();
    let head = format!("{method} / HTTP/1.1\r\n{headers}connection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // The node may hang up on a body it does not want.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

#[tokio::test]
async fn http_is_answered_like_websocket() {
    let net = Net::start().await;
    let answer = post(&net, br#"{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":[0]}"#).await;
    let answer: Json = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["result"], hexadecimal(crate::GENESIS));
}

#[tokio::test]
async fn web_pages_and_whoever_asks_for_another_host_are_turned_away() {
    let net = Net::start().await;
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"devnet_step","params":[]}"#;
    let json = "content-type: application/json\r\n";
    let upgrade = "upgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let before = net.node.step(1).unwrap().get();
    for headers in [
        "host: localhost\r\norigin: https://a.page.example\r\n",
        "host: localhost\r\norigin: null\r\n",
        "host: localhost\r\norigin: http://localhost\r\n",
        "host: devnet.example\r\n",
        "host: 192.0.2.1:9944\r\n",
    ] {
        for (method, kind) in [("POST", json), ("GET", upgrade)] {
            let answer = send(&net, method, &format!("{headers}{kind}"), body).await;
            assert!(answer.starts_with(b"HTTP/1.1 403 "), "{headers}: {}", String::from_utf8_lossy(&answer));
        }
    }
    assert_eq!(net.ask::<String>("system_chain", nothing()).await, "Assay devnet");
    assert_eq!(net.node.step(1).unwrap().get(), before + 1, "nothing was carried out");
    for host in ["127.0.0.1", "[::1]:1", "localhost:80"] {
        let answer = send(&net, "POST", &format!("host: {host}\r\n{json}"), body).await;
        assert!(answer.starts_with(b"HTTP/1.1 200 "), "{host}: {}", String::from_utf8_lossy(&answer));
    }
}

#[tokio::test]
async fn unknown_blocks_methods_and_parameters_are_answered_as_by_a_node() {
    let net = Net::start().await;
    let nowhere = hexadecimal([7; 32]);
    let header: Option<Json> = net.ask("chain_getHeader", json!([nowhere])).await;
    let block: Option<Json> = net.ask("chain_getBlock", json!([nowhere])).await;
    assert_eq!((header, block), (None, None));
    let (code, why) = net.try_ask::<Json>("state_getStorage", json!(["0x00", nowhere])).await.unwrap_err();
    assert_eq!(code, 4_003);
    assert!(why.contains("UnknownBlock: Header was not found in the database"), "{why}");
    let (code, why) = net.try_ask::<Json>("state_call", json!(["Nothing_here", "0x"])).await.unwrap_err();
    assert_eq!(code, 4_003);
    assert!(why.contains("Exported method Nothing_here is not found"), "{why}");
    let code = async |method: &str, params: Json| net.try_ask::<Json>(method, params).await.unwrap_err().0;
    assert_eq!(code("no_such_method", nothing()).await, -32_601);
    assert_eq!(code("state_getStorage", nothing()).await, -32_602);
    assert_eq!(code("state_getStorage", json!(["00"])).await, -32_602);
    assert_eq!(code("state_getStorage", json!(["0x0"])).await, -32_602);
    assert_eq!(code("chain_getHeader", json!(["0x00"])).await, -32_602);
    assert_eq!(code("chain_getBlockHash", json!(["ten"])).await, -32_602);
    assert_eq!(code("state_getKeysPaged", json!(["0x", 1_001])).await, 4_002);
    assert_eq!(code("system_accountNextIndex", json!(["5Garbage"])).await, -32_602);
    assert_eq!(code("devnet_step", json!([100_001])).await, -32_602);
    assert_eq!(code("devnet_stake", json!([nowhere, 1])).await, 9_000);
    assert_eq!(code("devnet_save", json!(["/no/such/folder/devnet"])).await, -32_602);
    assert_eq!(code("devnet_save", nothing()).await, 9_000, "it is kept in memory only");
}

#[tokio::test]
async fn a_state_that_is_gone_is_told_apart_from_one_that_never_was() {
    let net = Net::start().await;
    let early: String = net.ask("chain_getBlockHash", nothing()).await;
    net.node.step(4_096).unwrap();
    let (code, why) = net.try_ask::<Json>("state_getStorage", json!(["0x00", early])).await.unwrap_err();
    assert_eq!(code, 4_003);
    assert!(why.contains("State already discarded"), "{why}");
    let header: Json = net.ask("chain_getHeader", json!([early])).await;
    assert_eq!(header["number"], "0x1");
}

#[tokio::test]
async fn requests_too_large_or_too_many_are_turned_away() {
    let net = Net::start().await;
    let mut large = br#"{"jsonrpc":"2.0","id":1,"method":"system_chain","params":[""#.to_vec();
    large.resize(9 * 1024 * 1024, b'x');
    post(&net, &large).await;
    let batch = vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "system_chain", "params": [] }); 257];
    let answer = post(&net, json!(batch).to_string().as_bytes()).await;
    assert!(String::from_utf8_lossy(&answer).contains("error"));
    let keys = vec!["0x00"; 16_385];
    let (code, _) = net.try_ask::<Json>("state_queryStorageAt", json!([keys])).await.unwrap_err();
    assert_eq!(code, -32_602);
    let chain: String = net.ask("system_chain", nothing()).await;
    assert_eq!(chain, "Assay devnet");
}

/// Changes to the bytes of a good extrinsic: whatever comes of it, the node goes on, and takes no extrinsic but the
/// good one.
#[test]
fn prop_a_changed_extrinsic_is_refused_and_never_breaks_the_node() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (net, good) = runtime.block_on(async {
        let net = Net::start().await;
        let params = subxt::config::DefaultExtrinsicParamsBuilder::new().mortal(64).build();
        let mut tx = net.api.tx().await.unwrap();
        let signed = tx.create_signed(&serve_axon(NETUID, 8_091), &Signer(dev::bob()), params).await.unwrap();
        (net, signed.into_encoded())
    });
    let submit = |bytes: &[u8]| {
        let params = json!([hexadecimal(bytes)]);
        runtime.block_on(net.try_ask::<String>("author_submitExtrinsic", params))
    };
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4);
    let config = ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let changed = |(changes, cut, garbage): (Vec<(prop::sample::Index, u8)>, usize, Vec<u8>)| {
        let mut bytes = good.clone();
        changes.iter().for_each(|(at, byte)| bytes[at.index(good.len())] = *byte);
        for bytes in [&bytes[..], &good[..cut.min(good.len() - 1)], &garbage, &[&good[..], &garbage, &[0]].concat()] {
            if bytes != good {
                let (code, _) = submit(bytes).expect_err("a changed extrinsic was taken");
                prop_assert!([1_001, 1_002, 1_010, 1_011].contains(&code), "{code}");
            }
        }
        Ok(())
    };
    let garbage = prop::collection::vec(any::<u8>(), 0..200);
    runner.run(&(changes, any::<usize>(), garbage), changed).unwrap();
    submit(&good).unwrap();
}

/// Whatever stands where parameters should, the node answers.
#[test]
fn prop_any_parameters_are_answered() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let net = runtime.block_on(Net::start());
    let methods: Json = runtime.block_on(net.ask("rpc_methods", nothing()));
    let methods: Vec<String> = serde_json::from_value(methods["methods"].clone()).unwrap();
    let methods: Vec<String> = methods.into_iter().filter(|name| name != "devnet_step").collect();
    let parameter = prop_oneof![
        Just(json!(null)),
        any::<u64>().prop_map(|number| json!(number)),
        any::<String>().prop_map(|text| json!(text)),
        prop::collection::vec(any::<u8>(), 0..80).prop_map(|bytes| json!(hexadecimal(bytes))),
        Just(json!([[], {}, "0x", -1])),
    ];
    let names = prop::sample::select(methods);
    let config = ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let asked = |(method, params): (String, Vec<Json>)| {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let answer = runtime.block_on(post(&net, body.as_bytes()));
        let answer: Json = serde_json::from_slice(&answer).unwrap();
        prop_assert!(answer.get("result").is_some() || answer.get("error").is_some());
        Ok(())
    };
    runner.run(&(names, prop::collection::vec(parameter, 0..4)), asked).unwrap();
    let chain: String = runtime.block_on(net.ask("system_chain", nothing()));
    assert_eq!(chain, "Assay devnet");
}
