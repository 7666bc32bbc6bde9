//! Why a node does not start, and what it answers to those who ask amiss.

use std::net::SocketAddr;

use jsonrpsee::types::ErrorObjectOwned;

/// Why a node does not start or go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The metadata is none that a node can serve.
    #[error("the runtime's metadata cannot be served: {why}")]
    Metadata {
        /// What is wrong.
        why: String,
    },
    /// The runtime has an item in another form than the devnet can fill.
    #[error("runtime {spec_version} has no {item} as the devnet knows it: {why}")]
    Item {
        /// The runtime's version.
        spec_version: u32,
        /// The pallet and its item.
        item: String,
        /// What is wrong.
        why: String,
    },
    /// Whoever can reach a devnet can give itself coins.
    #[error("a devnet listens on loopback addresses only, and {0} is none; give 127.0.0.1 or [::1]")]
    NotLoopback(SocketAddr),
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {why}; choose another address or stop what holds it")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system says.
        why: String,
    },
    /// The devnet cannot be saved.
    #[error("{0}")]
    State(String),
    /// Only blocks that are not final are taken back.
    #[error("block {0} is final and cannot be taken back; give the node a finality lag")]
    Final(u64),
}

/// Why an extrinsic does not enter the pool, in the chain's own words and codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The bytes are no extrinsic.
    BadFormat(String),
    /// The bytes are an extrinsic, and the runtime cannot read what is in it.
    Unreadable(String),
    /// `InvalidTransaction`.
    Invalid(Invalid),
    /// `UnknownTransaction::CannotLookup`.
    CannotLookup,
    /// The very same extrinsic waits already.
    AlreadyImported([u8; 32]),
    /// Another extrinsic of the same account and nonce waits, with no less priority.
    TooLowPriority,
    /// The pool is full.
    ImmediatelyDropped,
}

/// `InvalidTransaction`, as far as it happens here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    Call,
    Stale,
    BadProof,
    AncientBirthBlock,
    ExhaustsResources,
    Custom(u8),
    BadSigner,
}

impl Invalid {
    /// The index of the variant, and the byte behind it, as SCALE writes it.
    pub(super) fn scale(self) -> Vec<u8> {
        match self {
            Self::Call => vec![0],
            Self::Stale => vec![3],
            Self::BadProof => vec![4],
            Self::AncientBirthBlock => vec![5],
            Self::ExhaustsResources => vec![6],
            Self::Custom(code) => vec![7, code],
            Self::BadSigner => vec![10],
        }
    }

    fn words(self) -> String {
        match self {
            Self::Call => "Transaction call is not expected".to_owned(),
            Self::Stale => "Transaction is outdated".to_owned(),
            Self::BadProof => "Transaction has a bad signature".to_owned(),
            Self::AncientBirthBlock => "Transaction has an ancient birth block".to_owned(),
            Self::ExhaustsResources => "Transaction would exhaust the block limits".to_owned(),
            Self::Custom(code) => format!("Custom error: {code}"),
            Self::BadSigner => "Invalid signing address".to_owned(),
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

const NO_DATA: Option<String> = None;

impl From<Refusal> for ErrorObjectOwned {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::BadFormat(why) => Self::owned(1001, format!("Extrinsic has invalid format: {why}"), NO_DATA),
            Refusal::Unreadable(why) => Self::owned(1002, format!("Verification Error: {why}"), Some(why)),
            Refusal::Invalid(invalid) => Self::owned(1010, "Invalid Transaction", Some(invalid.words())),
            Refusal::CannotLookup => Self::owned(1011, "Unknown Transaction Validity", Some("CannotLookup")),
            Refusal::AlreadyImported(hash) => {
                Self::owned(1013, "Transaction Already Imported", Some(format!("[0x{}]", hex::encode(hash))))
            }
            Refusal::TooLowPriority => Self::owned(
                1014,
                "Priority is too low: (0 vs 0)",
                Some("The transaction has too low priority to replace another transaction already in the pool."),
            ),
            Refusal::ImmediatelyDropped => Self::owned(
                1016,
                "Immediately Dropped",
                Some("The transaction couldn't enter the pool because of the limit"),
            ),
        }
    }
}
