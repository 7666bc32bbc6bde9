//! Weights that are committed first and seen later.
//!
//! There are two kinds. A hash is revealed by its author, in the epoch that lies the reveal period behind
//! the commit's and in no other. Encrypted weights are opened by the chain itself in that epoch, as soon
//! as the beacon has published the round they were encrypted to; if that does not happen in it, they are
//! dropped. Either way the commit is what is rate-limited and what dates the validator's update, and the
//! other checks of weights are made when they are opened.

use std::collections::{BTreeMap, VecDeque};

use assay_commitments::{Epoch, Hotkey};
use parity_scale_codec::Encode;

use super::{
    beacon,
    state::{Field, Payload, State, TimelockedCommit, WeightCommit},
};
use crate::{
    api::{Placement, WeightsForm},
    error::ChainError,
    types::{BlockNumber, Uid},
    weights::upscale,
};

/// Commits of one hotkey that may wait at a time, of hashes altogether, of encrypted ones in an epoch.
pub(crate) const COMMITS_MAX: usize = 10;
/// Bytes of encrypted weights.
pub(crate) const COMMIT_BYTES_MAX: usize = 5_000;
/// How many blocks into the reveal epoch clients let weights open, as the Python SDK does.
const OPENING_BLOCK: u64 = 3;

impl State {
    /// Commits a hash of weights ([`weights_hash`]).
    pub(crate) fn commit_weights(&mut self, signer: Hotkey, hash: [u8; 32]) -> Result<(), ChainError> {
        let period = self.committing()?;
        let uid = self.uid(signer)?;
        self.check_rate(uid)?;
        let (epoch, block) = (self.epoch().get(), self.block);
        let commits = self.weight_commits.entry(signer).or_default();
        commits.retain(|commit| commit.epoch + period >= epoch);
        let open = commits.len();
        if open >= COMMITS_MAX {
            return Err(ChainError::TooManyCommits { open });
        }
        commits.push_back(WeightCommit { hash, epoch, block });
        self.slots[usize::from(uid)].last_update = block;
        Ok(())
    }

    /// Reveals what was committed as a hash; commits that are older than the one revealed are gone with
    /// it.
    pub(crate) fn reveal_weights(
        &mut self,
        signer: Hotkey,
        weights: &[(u16, u16)],
        salt: &[u16],
        version_key: u64,
    ) -> Result<(), ChainError> {
        let period = self.committing()?;
        let running = self.epoch();
        let hash = weights_hash(signer, self.network.netuid.get(), weights, salt, version_key);
        let commits = self.weight_commits.get(&signer).ok_or(ChainError::NoSuchCommit)?;
        let position = commits.iter().position(|commit| commit.hash == hash).ok_or(ChainError::NoSuchCommit)?;
        let committed = Epoch::new(commits[position].epoch);
        let reveals = Epoch::new(committed.get() + period);
        if reveals != running {
            return Err(ChainError::NotRevealEpoch { committed, reveals, running });
        }
        self.place_weights(signer, weights, version_key)?;
        let commits = self.weight_commits.entry(signer).or_default();
        commits.drain(..=position);
        if commits.is_empty() {
            self.weight_commits.remove(&signer);
        }
        Ok(())
    }

    /// Commits weights that are encrypted to a round of the beacon.
    pub(crate) fn commit_timelocked_weights(
        &mut self,
        signer: Hotkey,
        commit: Vec<u8>,
        round: u64,
        version: u16,
    ) -> Result<(), ChainError> {
        self.committing()?;
        let asked = match self.parameters.weights_form {
            WeightsForm::Timelocked { version, .. } => Some(version),
            WeightsForm::Plain | WeightsForm::CommitReveal { .. } => None,
        };
        if asked != Some(version) {
            return Err(ChainError::Refused {
                call: "commit_timelocked_weights",
                name: "IncorrectCommitRevealVersion".to_owned(),
                advice: "read CommitRevealWeightsVersion and commit in the form of that version",
            });
        }
        if commit.len() > COMMIT_BYTES_MAX {
            return Err(ChainError::Refused {
                call: "commit_timelocked_weights",
                name: "a commit of more than 5000 bytes".to_owned(),
                advice: "commit fewer weights; zeros need not be in them",
            });
        }
        self.commit_payload(signer, Payload::Encrypted(Field(commit)), round)
    }

    /// Sets weights for a caller in this process, in the form that the subnet takes. Commits open by
    /// themselves, as timelocked ones do. What was set in this epoch already, and means the same still,
    /// is not set again.
    pub(super) fn set_weights_in_form(
        &mut self,
        signer: Hotkey,
        weights: &[(Uid, u16)],
        version_key: u64,
    ) -> Result<Placement, ChainError> {
        let weights: Vec<(u16, u16)> = weights.iter().map(|(uid, value)| (uid.get(), *value)).collect();
        let block = BlockNumber::new(self.block);
        let Some(period) = self.parameters.reveal_period() else {
            if self.stands(signer, &weights) {
                return Ok(Placement::Standing { block: BlockNumber::new(self.slot(signer)?.last_update) });
            }
            self.set_weights(signer, &weights, version_key)?;
            return Ok(Placement::Set { block });
        };
        let payload = Payload::Sealed { weights, version_key };
        let commits = self.timelocked.get(&self.epoch().get());
        let newest = commits.and_then(|commits| commits.iter().rfind(|commit| commit.hotkey == signer));
        if let Some(commit) = newest.filter(|commit| commit.payload == payload) {
            return Ok(Placement::Standing { block: BlockNumber::new(commit.block) });
        }
        let reveals = Epoch::new(self.epoch().get() + period);
        let opening = OPENING_BLOCK.min(self.parameters.tempo.into());
        let round = beacon::round_of(self.first_block(reveals) + opening);
        self.commit_payload(signer, payload, round)?;
        Ok(Placement::Committed { block, reveals })
    }

    /// Whether plain weights were set in this epoch, on nobody who came since.
    fn stands(&self, signer: Hotkey, weights: &[(u16, u16)]) -> bool {
        let Ok(slot) = self.slot(signer) else { return false };
        let there = |uid: u16| self.slots.get(usize::from(uid)).is_some_and(|to| to.registered_at < slot.last_update);
        !slot.weights.is_empty()
            && self.epoch_of(slot.last_update) == self.epoch()
            && slot.weights == upscale(weights)
            && weights.iter().all(|(uid, _)| there(*uid))
    }

    fn commit_payload(&mut self, signer: Hotkey, payload: Payload, round: u64) -> Result<(), ChainError> {
        let uid = self.uid(signer)?;
        self.check_rate(uid)?;
        let (epoch, block) = (self.epoch().get(), self.block);
        let commits = self.timelocked.entry(epoch).or_default();
        let open = commits.iter().filter(|commit| commit.hotkey == signer).count();
        if open >= COMMITS_MAX {
            return Err(ChainError::TooManyCommits { open });
        }
        commits.push_back(TimelockedCommit { hotkey: signer, block, payload, round });
        self.slots[usize::from(uid)].last_update = block;
        Ok(())
    }

    fn committing(&self) -> Result<u64, ChainError> {
        self.parameters.reveal_period().ok_or(ChainError::WrongForm { commit_reveal: false })
    }

    /// Opens the encrypted commits that are due in this epoch and whose round has been published, and
    /// drops those that were due in an earlier one. What cannot be decrypted, or what the checks refuse,
    /// is lost without a word, as on chain. Whose were opened, in the order of their commits.
    pub(super) fn open_timelocked(&mut self) -> Vec<Hotkey> {
        let period = self.parameters.reveal_period();
        let Some(due) = period.and_then(|period| self.epoch().get().checked_sub(period)) else { return Vec::new() };
        self.timelocked.retain(|epoch, _| *epoch >= due);
        let Some(commits) = self.timelocked.remove(&due) else { return Vec::new() };
        let mut of = Vec::new();
        let published = beacon::round_of(self.block);
        let (ripe, waiting): (VecDeque<_>, VecDeque<_>) =
            commits.into_iter().partition(|commit| commit.round <= published);
        for commit in ripe {
            let opened = match commit.payload {
                Payload::Sealed { weights, version_key } => Some((weights, version_key)),
                Payload::Encrypted(Field(bytes)) => {
                    beacon::open(&self.network.genesis, &bytes, commit.round, &commit.hotkey)
                }
            };
            let placed = opened.map(|(weights, key)| self.place_weights(commit.hotkey, &weights, key));
            if matches!(placed, Some(Ok(()))) {
                of.push(commit.hotkey);
            } else {
                tracing::debug!(hotkey = %commit.hotkey, ?placed, "a timelocked commit is lost");
            }
        }
        if !waiting.is_empty() {
            self.timelocked.insert(due, waiting);
        }
        of
    }

    /// A hotkey's commits that may still be revealed, by block: when each was made and in which epoch it
    /// will be.
    pub(super) fn pending(&self, hotkey: Hotkey) -> Vec<(BlockNumber, Epoch)> {
        let Some(period) = self.parameters.reveal_period() else { return Vec::new() };
        let mut pending: Vec<(BlockNumber, Epoch)> = self
            .open_commits()
            .filter(|(of, ..)| *of == hotkey)
            .map(|(_, block, epoch)| (BlockNumber::new(block), Epoch::new(epoch + period)))
            .collect();
        pending.sort_unstable();
        pending
    }

    /// The earliest block of each hotkey's commits that may still be revealed.
    pub(super) fn earliest_commits(&self) -> BTreeMap<Hotkey, u64> {
        let mut earliest = BTreeMap::new();
        for (hotkey, block, _) in self.open_commits() {
            let first = earliest.entry(hotkey).or_insert(block);
            *first = block.min(*first);
        }
        earliest
    }

    /// Author, block and epoch of all commits that may still be revealed.
    fn open_commits(&self) -> impl Iterator<Item = (Hotkey, u64, u64)> {
        let running = self.epoch().get();
        let period = self.parameters.reveal_period();
        let open = move |epoch: u64| period.is_some_and(|period| epoch + period >= running);
        let hashes = self
            .weight_commits
            .iter()
            .flat_map(|(hotkey, commits)| commits.iter().map(|commit| (*hotkey, commit.block, commit.epoch)));
        let timelocked = self
            .timelocked
            .iter()
            .flat_map(|(epoch, commits)| commits.iter().map(|commit| (commit.hotkey, commit.block, *epoch)));
        hashes.chain(timelocked).filter(move |(_, _, epoch)| open(*epoch))
    }
}

/// The hash that commits to weights: BLAKE2b-256 of the SCALE encoding of the author, the subnet (with
/// no mechanism but the first, its storage index is its netuid), uids, values, salt and version key.
pub(crate) fn weights_hash(
    author: Hotkey,
    netuid: u16,
    weights: &[(u16, u16)],
    salt: &[u16],
    version_key: u64,
) -> [u8; 32] {
    let (uids, values): (Vec<u16>, Vec<u16>) = weights.iter().copied().unzip();
    sp_crypto_hashing::blake2_256(&(author.as_bytes(), netuid, uids, values, salt, version_key).encode())
}
