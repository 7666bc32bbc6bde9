//! The networks by name.

use std::{fmt, str::FromStr, time::Duration};

use crate::types::GenesisHash;

/// The main network, as its nodes, its pallets' own migrations and the registry of Polkadot.js name it.
pub const FINNEY_GENESIS: GenesisHash = genesis("2f0555cc76fc2840a25a6ea3b9637146806f1f44b090c175ffde2a7e5ab36c03");
/// The public test network, as clients of its public endpoint have recorded it.
pub const TEST_GENESIS: GenesisHash = genesis("8f9cf856bf558a14440e75569c9e58594757048d7b3a84b5d25f6bd978263105");

/// Where `assay devnet` listens unless it is told otherwise.
pub const DEVNET_ENDPOINT: &str = "ws://127.0.0.1:9955";
const LOCAL_ENDPOINT: &str = "ws://127.0.0.1:9944";
const TEST_ENDPOINT: &str = "wss://test.finney.opentensor.ai:443";
const FINNEY_ENDPOINTS: [&str; 2] = ["wss://entrypoint-finney.opentensor.ai:443", "wss://lite.chain.opentensor.ai:443"];
/// Ten blocks: a node further behind than this answers about another present.
const AGE_MAX: Duration = Duration::from_mins(2);

/// A network, as it is named on a command line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NetworkName {
    /// A devnet of this machine.
    Devnet,
    /// A local Subtensor node.
    Local,
    /// The public test network.
    Test,
    /// The main network. Nothing else leads there.
    Finney,
    /// A node, whatever it serves, but the main network.
    Url(String),
}

impl NetworkName {
    /// Where it is asked, in the order in which endpoints are tried.
    pub fn endpoints(&self) -> Vec<String> {
        match self {
            Self::Devnet => vec![DEVNET_ENDPOINT.to_owned()],
            Self::Local => vec![LOCAL_ENDPOINT.to_owned()],
            Self::Test => vec![TEST_ENDPOINT.to_owned()],
            Self::Finney => FINNEY_ENDPOINTS.map(str::to_owned).to_vec(),
            Self::Url(url) => vec![url.clone()],
        }
    }

    /// Which chain has to answer there, where that is known.
    pub const fn genesis(&self) -> Option<GenesisHash> {
        match self {
            Self::Test => Some(TEST_GENESIS),
            Self::Finney => Some(FINNEY_GENESIS),
            Self::Devnet | Self::Local | Self::Url(_) => None,
        }
    }

    /// How old its newest final block may be. Where time may stand still there is no limit.
    pub const fn age_max(&self) -> Option<Duration> {
        match self {
            Self::Devnet => None,
            Self::Local | Self::Test | Self::Finney | Self::Url(_) => Some(AGE_MAX),
        }
    }
}

/// Why text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no network; give devnet, local, test, finney, or the ws:// or wss:// address of a node")]
pub struct UnknownNetwork(String);

impl FromStr for NetworkName {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, UnknownNetwork> {
        match text {
            "devnet" => Ok(Self::Devnet),
            "local" => Ok(Self::Local),
            "test" => Ok(Self::Test),
            "finney" => Ok(Self::Finney),
            url if ["ws://", "wss://"].iter().any(|scheme| url.len() > scheme.len() && url.starts_with(scheme)) => {
                Ok(Self::Url(url.to_owned()))
            }
            _ => Err(UnknownNetwork(text.to_owned())),
        }
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Devnet => "devnet",
            Self::Local => "local",
            Self::Test => "test",
            Self::Finney => "finney",
            Self::Url(url) => url,
        })
    }
}

/// The hash of 64 hexadecimal digits.
const fn genesis(text: &str) -> GenesisHash {
    let digits = text.as_bytes();
    assert!(digits.len() == 64, "a hash has 64 digits");
    let mut bytes = [0; 32];
    let mut index = 0;
    while index < 32 {
        bytes[index] = digit(digits[2 * index]) << 4 | digit(digits[2 * index + 1]);
        index += 1;
    }
    GenesisHash::new(bytes)
}

const fn digit(character: u8) -> u8 {
    match character {
        b'0'..=b'9' => character - b'0',
        b'a'..=b'f' => character - b'a' + 10,
        _ => panic!("a hash has hexadecimal digits"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_as_it_is_written() {
        for text in ["devnet", "local", "test", "finney", "wss://node.example:443", "ws://127.0.0.1:9"] {
            assert_eq!(text.parse::<NetworkName>().unwrap().to_string(), text);
        }
        for text in ["", "mainnet", "Finney", "http://node.example", "ws://"] {
            assert!(text.parse::<NetworkName>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_finney_leads_to_the_main_network() {
        let names = ["devnet", "local", "test", "wss://entrypoint-finney.opentensor.ai:443"];
        assert!(names.iter().all(|name| name.parse::<NetworkName>().unwrap().genesis() != Some(FINNEY_GENESIS)));
        assert_eq!(NetworkName::Finney.genesis(), Some(FINNEY_GENESIS));
    }
}
