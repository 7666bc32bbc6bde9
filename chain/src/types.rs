//! The names of things on a chain: one newtype each, so that a block is never taken for an epoch.

use std::fmt;

use assay_commitments::Epoch;
use serde::{Deserialize, Serialize};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($raw:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($raw);

        impl $name {
            /// Wraps a raw number.
            pub const fn new(raw: $raw) -> Self {
                Self(raw)
            }

            /// The raw number.
            pub const fn get(self) -> $raw {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps the 32 bytes.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = hex::FromHexError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let mut bytes = [0; 32];
                hex::decode_to_slice(text, &mut bytes)?;
                Ok(Self(bytes))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    };
}

number! {
    /// A subnet.
    NetUid(u16)
}
number! {
    /// A place in a subnet's metagraph. Places change hands: what must last is keyed by hotkey.
    Uid(u16)
}
number! {
    /// A block, counted from the genesis block, which is 0.
    BlockNumber(u64)
}
number! {
    /// An amount in the chain's smallest unit; a TAO is 10^9 of them.
    Rao(u64)
}
bytes! {
    /// The account that owns a hotkey and its stake. No running service holds its secret.
    Coldkey
}
bytes! {
    /// The hash of a chain's first block: which network this is.
    GenesisHash
}
bytes! {
    /// The hash of a validator's epoch key, published while the epoch runs. The chain does not look
    /// into it.
    EpochKeyHash
}
bytes! {
    /// A validator's epoch key, published after the epoch.
    EpochKey
}
bytes! {
    /// The digest of a validator's list of requests, published with its key. The chain does not look
    /// into it.
    RequestsDigest
}

/// What keeps networks apart: part of the domain of every signature, so that evidence from one is
/// refused on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Which chain.
    pub genesis: GenesisHash,
    /// Which subnet of it.
    pub netuid: NetUid,
}

/// Where a chain stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest block.
    pub block: BlockNumber,
    /// The running epoch.
    pub epoch: Epoch,
    /// The block in which the last epoch was computed, and this one began.
    pub epoch_start: BlockNumber,
    /// The block in which this epoch will be computed. Weights count if they are set before it.
    pub next_epoch: BlockNumber,
}

/// What a validator has published about the key behind its nonces of one epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochKeyRecord {
    /// The key's hash.
    pub hash: EpochKeyHash,
    /// When the hash was published. Sessions of the epoch that began earlier were bound to nothing.
    pub published_at: BlockNumber,
    /// The key, once it was revealed. Whether it hashes to `hash` is for the reader to check: the
    /// chain stores both as bytes.
    pub key: Option<EpochKey>,
    /// The digest of the epoch's requests, published with the key.
    pub requests: Option<RequestsDigest>,
}
