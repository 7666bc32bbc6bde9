//! Why a chain refuses.

use std::cmp::Ordering;

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::types::{BlockNumber, GenesisHash, NetUid, Rao, Uid};

/// A refusal of the chain, in words that say what to do.
///
/// A refusal with a `next` block is a wait until then ([`ChainError::next`]); what
/// [`ChainError::is_passing`] may succeed when it is tried again; all others are states to report,
/// and trying again will not change them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The caller has no place on the subnet.
    #[error("hotkey {0} is not registered on this subnet; register it with its coldkey first")]
    NotRegistered(Hotkey),
    /// The caller has a place already.
    #[error("hotkey {0} is registered on this subnet already")]
    AlreadyRegistered(Hotkey),
    /// All places are taken.
    #[error("all {uids} uids of the subnet are taken")]
    SubnetFull {
        /// How many there are.
        uids: u16,
    },
    /// Nobody can be reached at port 0.
    #[error("an endpoint needs a port other than 0")]
    ZeroPort,
    /// The endpoint was published a moment ago.
    #[error("the endpoint can be published again at block {next}")]
    ServingTooFast {
        /// The first block at which it will be accepted.
        next: BlockNumber,
    },
    /// Only the owner says which manifests are in force.
    #[error("hotkey {0} is not the subnet owner's: only the owner publishes the manifest registry")]
    NotOwner(Hotkey),
    /// The registry does not fit into what the chain stores.
    #[error("{given} manifests do not fit into the registry, which holds {most}")]
    TooManyManifests {
        /// How many were given.
        given: usize,
        /// How many fit.
        most: usize,
    },
    /// A registry is a set.
    #[error("manifest {0} stands twice in the registry")]
    DuplicateManifest(ManifestId),
    /// More weights than there are neurons.
    #[error("{given} weights for a subnet of {uids} uids")]
    TooManyWeights {
        /// How many were given.
        given: usize,
        /// How many there are.
        uids: usize,
    },
    /// The subnet asks for a newer scoring rule.
    #[error("weights carry version key {given}, the subnet asks for {required}; update the validator")]
    WrongVersionKey {
        /// The key that was given.
        given: u64,
        /// The least the subnet takes.
        required: u64,
    },
    /// Weights were set a moment ago.
    #[error("weights can be set again at block {next}")]
    WeightsTooFast {
        /// The first block at which they will be accepted.
        next: BlockNumber,
    },
    /// The stake is too small to validate.
    #[error("hotkey {0} has no validator permit; permits go to the largest stakes, at the end of each epoch")]
    NoPermit(Hotkey),
    /// A weight vector gives each uid one value.
    #[error("uid {0} stands twice in the weights")]
    DuplicateUid(Uid),
    /// Nobody is there.
    #[error("uid {0} does not exist on this subnet")]
    UnknownUid(Uid),
    /// The subnet asks for more opinions.
    #[error("{given} weights, but this subnet asks for at least {least}; zeros count")]
    TooFewWeights {
        /// How many were given.
        given: usize,
        /// How many it takes.
        least: usize,
    },
    /// A key's hash is published for the running epoch or the next one.
    #[error("an epoch key for epoch {epoch} cannot be published in epoch {running}")]
    WrongKeyEpoch {
        /// The epoch that was given.
        epoch: Epoch,
        /// The running epoch.
        running: Epoch,
    },
    /// A published hash stands.
    #[error("another epoch key was published for epoch {0} already")]
    KeyAlreadyPublished(Epoch),
    /// There is no hash to compare a key with.
    #[error("no epoch key was published for epoch {0}")]
    KeyNotPublished(Epoch),
    /// A key revealed early gives away every nonce that is still to come.
    #[error("the key of epoch {epoch} must stay secret until that epoch is over; this is epoch {running}")]
    RevealTooEarly {
        /// The key's epoch.
        epoch: Epoch,
        /// The running epoch.
        running: Epoch,
    },
    /// A revealed key stands, and so does the digest of the requests.
    #[error("another key or list of requests was revealed for epoch {0} already")]
    KeyAlreadyRevealed(Epoch),
    /// The stake is too small to set weights.
    #[error("hotkey {hotkey} has a stake of {stake} RAO, and this subnet asks for {least}; stake more on it")]
    StakeTooLow {
        /// Whose stake.
        hotkey: Hotkey,
        /// How much it is.
        stake: Rao,
        /// The least that counts.
        least: Rao,
    },
    /// One weight takes more than its share.
    #[error("the weight of uid {uid} is {share} of 65535, and this subnet takes at most {most}")]
    WeightTooLarge {
        /// Whose weight.
        uid: Uid,
        /// Its share, of 65535.
        share: u16,
        /// The most.
        most: u16,
    },
    /// The subnet takes weights in another form.
    #[error("this subnet takes weights in another form: commit-reveal is {}", if *.commit_reveal { "on" } else { "off" })]
    WrongForm {
        /// Whether the subnet asks for commits.
        commit_reveal: bool,
    },
    /// Commits wait to be revealed, and there is no room for more.
    #[error("{open} commits of weights are not revealed yet, the most that the chain keeps; wait for their reveal")]
    TooManyCommits {
        /// How many are open.
        open: usize,
    },
    /// A commit is revealed in one epoch only, which is not this one.
    #[error(
        "weights committed in epoch {committed} are revealed in epoch {reveals}, and this is epoch {running}; {}",
        match .running.cmp(.reveals) {
            Ordering::Less => "wait for that epoch",
            Ordering::Equal => "try again",
            Ordering::Greater => "they are lost, commit others",
        }
    )]
    NotRevealEpoch {
        /// The commit's epoch.
        committed: Epoch,
        /// The epoch of its reveal.
        reveals: Epoch,
        /// The running epoch.
        running: Epoch,
    },
    /// Nothing was committed that these weights would reveal.
    #[error("no commit on chain fits the revealed weights")]
    NoSuchCommit,
    /// What a hotkey may store in an epoch is used up.
    #[error("hotkey {hotkey} has stored all it may in this epoch; the next one begins at block {next}")]
    CommitmentSpace {
        /// Whose space.
        hotkey: Hotkey,
        /// The first block of the next epoch.
        next: BlockNumber,
    },
    /// The account cannot pay.
    #[error("the account of {0} holds too little for this; a coldkey that registers needs the burn and some fees")]
    BalanceTooLow(Hotkey),
    /// The burn rose above what the caller would pay.
    #[error("registration costs {burn} RAO now, more than the limit of {limit}")]
    BurnTooHigh {
        /// What it costs.
        burn: Rao,
        /// What was offered.
        limit: Rao,
    },
    /// The chain refuses an address that nobody could reach.
    #[error("the chain does not take {0} as an endpoint: give an address that others can reach")]
    UnreachableAddress(std::net::IpAddr),
    /// This process holds no key that could sign.
    #[error("no key of hotkey {0} is loaded here, so nothing can be signed for it")]
    NotSigner(Hotkey),
    /// No endpoint answers.
    #[error("no answer from {endpoint} ({why}); check the address, or give another endpoint")]
    Unreachable {
        /// Which endpoint was asked last.
        endpoint: String,
        /// What it came to.
        why: String,
    },
    /// Another network answers.
    #[error("{endpoint} serves the chain {found}, and this is configured for {expected}; check --network")]
    WrongGenesis {
        /// Which endpoint.
        endpoint: String,
        /// The genesis that was asked for.
        expected: GenesisHash,
        /// The genesis it serves.
        found: GenesisHash,
    },
    /// The main network is reached by its name alone.
    #[error(
        "{endpoint} serves the main network, which nothing reaches by accident; if that is meant, give --network finney"
    )]
    MainNetwork {
        /// Which endpoint.
        endpoint: String,
    },
    /// The subnet is not there.
    #[error("there is no subnet {0} on this chain; check the netuid")]
    NoSubnet(NetUid),
    /// The runtime has another shape than this program knows.
    #[error("runtime {spec_version} of this chain has no {item} as this version knows it; update assay")]
    Incompatible {
        /// The runtime's version.
        spec_version: u32,
        /// The pallet item that is missing or changed.
        item: String,
    },
    /// The node is behind the chain.
    #[error(
        "{endpoint} stands at block {block}, which is {age_s} s old; wait until it has caught up, or give another endpoint"
    )]
    Behind {
        /// Which endpoint.
        endpoint: String,
        /// Its newest block.
        block: BlockNumber,
        /// That block's age in seconds.
        age_s: u64,
    },
    /// A call was submitted, and neither its success nor its failure was seen in time.
    #[error(
        "{call} was submitted and not seen on chain within {blocks} blocks; it is looked for before it is tried again"
    )]
    Unconfirmed {
        /// What was submitted.
        call: &'static str,
        /// How many blocks were waited for.
        blocks: u64,
    },
    /// What stands on chain is not what was submitted.
    #[error("{call} went through, and the chain holds something else: {what}")]
    ReadBack {
        /// What was submitted.
        call: &'static str,
        /// What differs.
        what: String,
    },
    /// The chain refuses for a reason that has no case of its own here.
    #[error("the chain refuses {call}: {name}; {advice}")]
    Refused {
        /// What was submitted.
        call: &'static str,
        /// The chain's own name of the reason.
        name: String,
        /// What to do.
        advice: &'static str,
    },
    /// The chain's answer has another form than it should have.
    #[error("{endpoint} answers {what} in a form that cannot be read: {why}")]
    BadAnswer {
        /// Which endpoint.
        endpoint: String,
        /// What was asked for.
        what: String,
        /// What is wrong with the answer.
        why: String,
    },
    /// The state of an old block is gone.
    #[error("{endpoint} does not keep the state of block {block}; past epochs need an archive node")]
    Forgotten {
        /// Which endpoint.
        endpoint: String,
        /// The block.
        block: BlockNumber,
    },
    /// More of the past than is gone through for one answer.
    #[error("more than {most} {what}, the most that is gone through for one answer; ask for fewer or newer epochs")]
    TooMuchPast {
        /// The most.
        most: u64,
        /// Of what.
        what: String,
    },
    /// What this process must remember between a commit and its reveal cannot be kept.
    #[error("{path}: {why}")]
    Journal {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// What it remembered is there, and is no journal of commits.
    #[error("{path}: {why}")]
    DamagedJournal {
        /// The file.
        path: String,
        /// What is wrong.
        why: String,
    },
}

impl ChainError {
    /// The first block at which the same call may succeed, if the refusal is a wait.
    pub const fn next(&self) -> Option<BlockNumber> {
        match self {
            Self::ServingTooFast { next } | Self::WeightsTooFast { next } | Self::CommitmentSpace { next, .. } => {
                Some(*next)
            }
            _ => None,
        }
    }

    /// Whether the reason may pass by itself: it lies in the connection or in the node, and another answer may
    /// come or another node be asked.
    pub const fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. } | Self::Behind { .. } | Self::Unconfirmed { .. } | Self::BadAnswer { .. }
        )
    }

    /// Whether weights that were refused so are worth another try with a later block: nothing was said of them.
    pub const fn spares_weights(&self) -> bool {
        matches!(
            self,
            Self::WrongForm { .. } | Self::TooManyCommits { .. } | Self::ReadBack { .. } | Self::Forgotten { .. }
        )
    }

    /// Whether this process or its account is set up for something else: trying again changes nothing until
    /// somebody has put that right.
    pub const fn needs_operator(&self) -> bool {
        matches!(
            self,
            Self::NotRegistered(_)
                | Self::ZeroPort
                | Self::NotOwner(_)
                | Self::UnreachableAddress(_)
                | Self::NotSigner(_)
                | Self::WrongGenesis { .. }
                | Self::MainNetwork { .. }
                | Self::NoSubnet(_)
                | Self::Incompatible { .. }
                | Self::Journal { .. }
                | Self::DamagedJournal { .. }
        )
    }
}
