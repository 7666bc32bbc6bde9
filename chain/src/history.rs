//! What stood on a chain and when, for whoever looks back: a validator asks for the present, an auditor
//! for the past.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use assay_commitments::{Epoch, Hotkey, ManifestId};

use crate::types::{BlockNumber, EpochKeyRecord, Network};

/// The past of a subnet, as far as audits depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Which chain and subnet.
    pub network: Network,
    /// The first block of each epoch that was asked for, and of the one behind them once it has begun.
    pub epochs: BTreeMap<Epoch, BlockNumber>,
    /// The manifests in force, each list from its block to the next one's.
    pub manifests: Vec<(BlockNumber, Vec<ManifestId>)>,
    /// Every hotkey, from when it was registered.
    pub hotkeys: Vec<(Hotkey, BlockNumber)>,
    /// What validators published about their keys.
    pub epoch_keys: Vec<(Hotkey, Epoch, EpochKeyRecord)>,
}

/// The blocks of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its first block.
    pub first: BlockNumber,
    /// The first block of the next epoch, once that has begun.
    pub next: Option<BlockNumber>,
}

impl Term {
    fn ends_after(&self, block: BlockNumber) -> bool {
        self.next.is_none_or(|next| block < next)
    }
}

impl History {
    /// The part of it that concerns some epochs and hotkeys.
    #[must_use]
    pub fn of(mut self, epochs: &RangeInclusive<Epoch>, hotkeys: &[Hotkey]) -> Self {
        let last = epochs.end().next();
        self.epochs.retain(|epoch, _| epochs.contains(epoch) || *epoch == last);
        self.hotkeys.retain(|(hotkey, _)| hotkeys.contains(hotkey));
        self.epoch_keys.retain(|(hotkey, epoch, _)| hotkeys.contains(hotkey) && epochs.contains(epoch));
        self
    }

    /// The blocks of an epoch, if it has begun.
    pub fn term(&self, epoch: Epoch) -> Option<Term> {
        let first = *self.epochs.get(&epoch)?;
        Some(Term { first, next: self.epochs.get(&epoch.next()).copied() })
    }

    /// Whether a manifest was in force at any block of an epoch.
    pub fn was_in_force(&self, manifest: &ManifestId, epoch: Epoch) -> bool {
        let Some(term) = self.term(epoch) else { return false };
        let ends = self.manifests.iter().skip(1).map(|(block, _)| Some(*block)).chain([None]);
        self.manifests.iter().zip(ends).any(|((from, manifests), end)| {
            let overlaps = term.ends_after(*from) && end.is_none_or(|end| end > term.first);
            overlaps && manifests.contains(manifest)
        })
    }

    /// Whether the hash of an epoch's key stood on chain before the epoch was over: a later one could have been chosen
    /// when every answer was known.
    pub fn was_published_in_time(&self, published: &EpochKeyRecord, epoch: Epoch) -> bool {
        self.term(epoch).is_some_and(|term| term.ends_after(published.published_at))
    }

    /// Whether a hotkey was registered before an epoch was over.
    pub fn was_registered(&self, hotkey: &Hotkey, epoch: Epoch) -> bool {
        let Some(term) = self.term(epoch) else { return false };
        self.hotkeys.iter().any(|(known, since)| known == hotkey && term.ends_after(*since))
    }

    /// What a validator published about its key of an epoch.
    pub fn epoch_key(&self, validator: &Hotkey, epoch: Epoch) -> Option<&EpochKeyRecord> {
        let record = self.epoch_keys.iter().find(|(hotkey, of, _)| (hotkey, *of) == (validator, epoch));
        record.map(|(_, _, record)| record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GenesisHash, NetUid};

    fn history() -> History {
        let block = BlockNumber::new;
        let id = |byte| ManifestId::new([byte; 32]);
        History {
            network: Network { genesis: GenesisHash::new([1; 32]), netuid: NetUid::new(1) },
            epochs: (0..).map(Epoch::new).zip([block(0), block(10), block(20)]).collect(),
            manifests: vec![(block(0), vec![]), (block(5), vec![id(1)]), (block(15), vec![id(2)])],
            hotkeys: vec![(Hotkey::new([1; 32]), block(12))],
            epoch_keys: vec![],
        }
    }

    #[test]
    fn manifests_count_for_the_epochs_in_which_they_were_in_force() {
        let in_force = |byte, epoch| history().was_in_force(&ManifestId::new([byte; 32]), Epoch::new(epoch));
        assert_eq!([0, 1, 2, 3].map(|epoch| in_force(1, epoch)), [true, true, false, false]);
        assert_eq!([0, 1, 2, 3].map(|epoch| in_force(2, epoch)), [false, true, true, false]);
        assert!(!in_force(3, 1));
    }

    #[test]
    fn a_key_binds_its_epoch_if_its_hash_stood_before_the_next_one_began() {
        let in_time = |block, epoch| {
            let hash = crate::types::EpochKeyHash::new([1; 32]);
            let published = EpochKeyRecord { hash, published_at: BlockNumber::new(block), key: None, requests: None };
            history().was_published_in_time(&published, Epoch::new(epoch))
        };
        assert_eq!([0, 9, 10, 25].map(|block| in_time(block, 0)), [true, true, false, false]);
        assert_eq!([9, 19, 20].map(|block| in_time(block, 1)), [true, true, false]);
        assert!(in_time(99, 2), "the running epoch is not over");
        assert!(!in_time(0, 3), "an epoch that has not begun has no end to be compared with");
    }

    #[test]
    fn hotkeys_count_from_the_epoch_of_their_registration() {
        let registered = |epoch| history().was_registered(&Hotkey::new([1; 32]), Epoch::new(epoch));
        assert_eq!([0, 1, 2].map(registered), [false, true, true]);
        assert!(!history().was_registered(&Hotkey::new([2; 32]), Epoch::new(1)));
    }
}
