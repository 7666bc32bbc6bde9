//! The chain's refusals in the words of this crate. They come in two shapes: from the pool as a number,
//! and from a block as an error of a pallet. Both mean the same things.

use std::net::IpAddr;

use assay_commitments::{Epoch, Hotkey};
use subxt::rpcs::UserError;

use super::link::words;
use crate::{
    error::ChainError,
    types::{BlockNumber, NetUid, Rao},
};

/// What a refusal may have been about, as the chain stands when it is explained.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) hotkey: Hotkey,
    pub(super) netuid: NetUid,
    /// The address that was to be published.
    pub(super) ip: Option<IpAddr>,
    pub(super) weights_next: BlockNumber,
    pub(super) serving_next: BlockNumber,
    pub(super) epoch_next: BlockNumber,
    pub(super) stake: Rao,
    pub(super) stake_least: Rao,
    /// The version key that was given, and the one that is asked for.
    pub(super) version_key: (u64, u64),
    pub(super) open_commits: usize,
    pub(super) running: Epoch,
    /// The epoch of the commit that was to be revealed, and the one of its reveal.
    pub(super) commit: Option<(Epoch, Epoch)>,
}

/// What the pool says to a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PoolAnswer {
    /// It is in the pool already.
    Known,
    /// Another one with a fresh nonce, block and runtime may do better.
    Again(String),
    /// The account cannot pay.
    NoFees,
    /// The runtime's own reason.
    Custom(u8),
    /// Anything else.
    Refused(String),
}

/// Reads the answer of `author_submitAndWatchExtrinsic`.
pub(super) fn pool_answer(error: &UserError) -> PoolAnswer {
    let said = words(error);
    let lower = said.to_ascii_lowercase();
    let says = |sign: &str| lower.contains(sign);
    match error.code {
        1010 => {
            if let Some(code) = custom_code(&lower) {
                return PoolAnswer::Custom(code);
            }
            let passing = [
                "outdated",
                "stale",
                "bad signature",
                "badproof",
                "ancient birth block",
                "ancientbirth",
                "future",
                "exhaust",
            ];
            if passing.iter().any(|sign| says(sign)) {
                PoolAnswer::Again(said)
            } else if says("inability to pay") || says("payment") {
                PoolAnswer::NoFees
            } else {
                PoolAnswer::Refused(said)
            }
        }
        1013 => PoolAnswer::Known,
        // Banned for a while, outbid by another of the same nonce, no room.
        1012 | 1014 | 1016 => PoolAnswer::Again(said),
        _ => PoolAnswer::Refused(said),
    }
}

/// The number in `Custom error: 6` and in `{"invalid":{"custom":6}}`.
fn custom_code(lower: &str) -> Option<u8> {
    let behind = &lower[lower.find("custom")? + "custom".len()..];
    let digits: String =
        behind.chars().skip_while(|it| !it.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// What a number of the pool is called where it is an error of a pallet
/// (`CustomTransactionError` in the chain's `common` crate).
const fn custom_name(code: u8) -> &'static str {
    match code {
        0 => "ColdkeySwapPending",
        1 => "NotEnoughStakeToSetWeights",
        2 => "BalanceTooLow",
        3 => "SubnetNotExists",
        6 => "SettingWeightsTooFast",
        10 => "HotKeyNotRegisteredInSubNet",
        11 => "InvalidIpAddress",
        12 => "ServingRateLimitExceeded",
        13 => "InvalidPort",
        15 => "InvalidRevealRound",
        16 => "NoWeightsCommitFound",
        17 => "NotInRevealRange",
        18 => "WeightVecNotEqualSize",
        19 => "UidVecContainInvalidOne",
        22 => "InvalidRealAccount",
        _ => "BadRequest",
    }
}

/// The error for a number of the pool.
pub(super) fn of_custom(code: u8, call: &'static str, facts: &Facts) -> ChainError {
    match of_name(custom_name(code), call, facts) {
        ChainError::Refused { call, name, advice } => {
            ChainError::Refused { call, name: format!("{name} (custom error {code})"), advice }
        }
        error => error,
    }
}

/// The error for a pallet's error.
pub(super) fn of_name(name: &str, call: &'static str, facts: &Facts) -> ChainError {
    let hotkey = facts.hotkey;
    match name {
        "NotEnoughStakeToSetWeights" => {
            ChainError::StakeTooLow { hotkey, stake: facts.stake, least: facts.stake_least }
        }
        "BalanceTooLow" | "NotEnoughBalanceToStake" | "InsufficientBalance" => ChainError::BalanceTooLow(hotkey),
        "SubnetNotExists" | "MechanismDoesNotExist" => ChainError::NoSubnet(facts.netuid),
        "SettingWeightsTooFast" | "CommittingWeightsTooFast" => ChainError::WeightsTooFast { next: facts.weights_next },
        "HotKeyNotRegisteredInSubNet" | "HotKeyNotRegisteredInNetwork" | "AccountNotAllowedCommit" => {
            ChainError::NotRegistered(hotkey)
        }
        "InvalidIpAddress" | "InvalidIpType" if facts.ip.is_some() => {
            facts.ip.map_or(ChainError::ZeroPort, ChainError::UnreachableAddress)
        }
        "ServingRateLimitExceeded" => ChainError::ServingTooFast { next: facts.serving_next },
        "InvalidPort" => ChainError::ZeroPort,
        "NoWeightsCommitFound" | "InvalidRevealCommitHashNotMatch" => ChainError::NoSuchCommit,
        "RevealTooEarly" | "ExpiredWeightCommit" | "NotInRevealRange" => {
            facts.commit.map_or(ChainError::NoSuchCommit, |(committed, reveals)| ChainError::NotRevealEpoch {
                committed,
                reveals,
                running: facts.running,
            })
        }
        "IncorrectWeightVersionKey" => {
            let (given, required) = facts.version_key;
            ChainError::WrongVersionKey { given, required }
        }
        "NeuronNoValidatorPermit" => ChainError::NoPermit(hotkey),
        "CommitRevealEnabled" => ChainError::WrongForm { commit_reveal: true },
        "CommitRevealDisabled" => ChainError::WrongForm { commit_reveal: false },
        "TooManyUnrevealedCommits" => ChainError::TooManyCommits { open: facts.open_commits },
        "SpaceLimitExceeded" => ChainError::CommitmentSpace { hotkey, next: facts.epoch_next },
        _ => ChainError::Refused { call, name: name.to_owned(), advice: advice(name) },
    }
}

/// What to do about a refusal that has no case of its own.
fn advice(name: &str) -> &'static str {
    match name {
        "ColdkeySwapPending" => "the coldkey is being swapped; wait until that is over",
        "InvalidRevealRound" => "the round of the beacon does not lie in the future; check this machine's endpoint",
        "IncorrectCommitRevealVersion" => "the chain has changed the form of commits; update assay",
        "UidVecContainInvalidOne" | "DuplicateUids" | "UidsLengthExceedUidsInSubNet" => {
            "the metagraph has changed since the weights were computed; compute them anew"
        }
        "WeightVecLengthIsLow" | "MaxWeightExceeded" => {
            "the subnet's settings have changed since the weights were computed; compute them anew"
        }
        "CallDisabled" | "SubtokenDisabled" => "the chain has switched this off for now; try again later",
        _ => "look the name up in the chain's documentation; trying again will not change it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i32, data: &str) -> UserError {
        let data = serde_json::value::RawValue::from_string(data.to_owned()).unwrap();
        UserError { code, message: "Invalid Transaction".to_owned(), data: Some(data) }
    }

    fn facts() -> Facts {
        let block = BlockNumber::new;
        Facts {
            hotkey: Hotkey::new([7; 32]),
            netuid: NetUid::new(3),
            ip: Some([127, 0, 0, 1].into()),
            weights_next: block(100),
            serving_next: block(200),
            epoch_next: block(300),
            stake: Rao::new(4),
            stake_least: Rao::new(5),
            version_key: (1, 2),
            open_commits: 10,
            running: Epoch::new(9),
            commit: Some((Epoch::new(6), Epoch::new(8))),
        }
    }

    #[test]
    fn the_pool_says_a_number_in_two_ways() {
        assert_eq!(pool_answer(&error(1010, "\"Custom error: 12\"")), PoolAnswer::Custom(12));
        assert_eq!(pool_answer(&error(1010, "{\"invalid\":{\"custom\":255}}")), PoolAnswer::Custom(255));
        assert!(matches!(pool_answer(&error(1010, "\"Transaction is outdated\"")), PoolAnswer::Again(_)));
        assert!(matches!(pool_answer(&error(1014, "\"\"")), PoolAnswer::Again(_)));
        assert_eq!(pool_answer(&error(1013, "\"[0x00]\"")), PoolAnswer::Known);
        let fees = "\"Inability to pay some fees (e.g. account balance too low)\"";
        assert_eq!(pool_answer(&error(1010, fees)), PoolAnswer::NoFees);
        assert!(matches!(pool_answer(&error(1002, "\"bad\"")), PoolAnswer::Refused(_)));
    }

    #[test]
    fn a_refusal_means_the_same_whether_the_pool_or_a_block_says_it() {
        let (facts, hotkey) = (facts(), Hotkey::new([7; 32]));
        let both = [
            (
                1,
                "NotEnoughStakeToSetWeights",
                ChainError::StakeTooLow { hotkey, stake: Rao::new(4), least: Rao::new(5) },
            ),
            (2, "InsufficientBalance", ChainError::BalanceTooLow(hotkey)),
            (3, "SubnetNotExists", ChainError::NoSubnet(NetUid::new(3))),
            (6, "CommittingWeightsTooFast", ChainError::WeightsTooFast { next: BlockNumber::new(100) }),
            (10, "HotKeyNotRegisteredInNetwork", ChainError::NotRegistered(hotkey)),
            (11, "InvalidIpType", ChainError::UnreachableAddress([127, 0, 0, 1].into())),
            (12, "ServingRateLimitExceeded", ChainError::ServingTooFast { next: BlockNumber::new(200) }),
            (13, "InvalidPort", ChainError::ZeroPort),
            (16, "InvalidRevealCommitHashNotMatch", ChainError::NoSuchCommit),
            (
                17,
                "ExpiredWeightCommit",
                ChainError::NotRevealEpoch { committed: Epoch::new(6), reveals: Epoch::new(8), running: Epoch::new(9) },
            ),
        ];
        for (code, name, expected) in both {
            assert_eq!(of_custom(code, "set_weights", &facts), expected, "custom error {code}");
            assert_eq!(of_name(name, "set_weights", &facts), expected, "{name}");
        }
    }

    #[test]
    fn a_reveal_outside_its_epoch_says_what_becomes_of_the_weights_and_holds_up_nothing() {
        let early = Facts { running: Epoch::new(7), ..facts() };
        let (early, late) =
            (of_name("RevealTooEarly", "reveal_weights", &early), of_custom(17, "reveal_weights", &facts()));
        assert!(!early.is_passing() && early.to_string().ends_with("wait for that epoch"), "{early}");
        // By the time that the chain's figures are read, the epoch may have begun.
        let begun = of_name("RevealTooEarly", "reveal_weights", &Facts { running: Epoch::new(8), ..facts() });
        assert!(!begun.is_passing() && begun.to_string().ends_with("this is epoch 8; try again"), "{begun}");
        assert!(!late.is_passing() && late.to_string().ends_with("they are lost, commit others"), "{late}");
    }

    #[test]
    fn a_refusal_nobody_has_heard_of_keeps_its_name() {
        let text = of_name("SomethingNew", "set_weights", &facts()).to_string();
        assert!(text.contains("SomethingNew") && text.contains("set_weights"), "{text}");
        let text = of_custom(255, "serve_axon", &facts()).to_string();
        assert!(text.contains("custom error 255"), "{text}");
    }
}
