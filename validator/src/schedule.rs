//! Epoch after epoch, in step with the chain.
//!
//! ```text
//! | epoch                                        | the next one
//!   weights and keys of old epochs are revealed
//!   sessions ......................... until 3/4
//!                                    judged, weights set
//! ```
//!
//! Each turn looks at the chain and at the records on disk, and does what is due next; nothing is kept in
//! memory between turns that would matter. So a validator that was killed at any point goes on by
//! starting again, and one that cannot reach its chain tries again.

use std::mem::{Discriminant, discriminant};
use std::time::Duration;

use assay_chain::{BlockNumber, Chain, ChainError, Head};
use assay_commitments::Epoch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::epoch::{Judged, Validator};
use crate::error::ValidatorError;
use crate::event::ValidatorEvent;
use crate::nonces::EpochNonces;
use crate::state::WeightSet;

/// The last part of an epoch, in which no session begins: what is under way ends in it, and weights are
/// set.
const CLOSING: u64 = 4;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a validator waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The running epoch is judged, or another validator's key stands for it.
    NextEpoch {
        /// The running epoch.
        running: Epoch,
        /// The first block of the next one.
        at: BlockNumber,
    },
    /// The running epoch is nearly over.
    TooLate {
        /// The running epoch.
        running: Epoch,
        /// The first block of the next one.
        at: BlockNumber,
    },
    /// The chain takes no weights now.
    Weights {
        /// Whose weights.
        of: Epoch,
        /// The block with which they are tried again.
        at: BlockNumber,
    },
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NextEpoch { running, at } => {
                write!(f, "epoch {running} is done; waiting for the next one, at block {at}")
            }
            Self::TooLate { running, at } => {
                write!(f, "epoch {running} is nearly over; waiting for the next one, at block {at}")
            }
            Self::Weights { of, at } => {
                write!(f, "the weights of epoch {of} wait; they are tried again at block {at}")
            }
        }
    }
}

/// What following the chain came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Followed {
    /// Epochs that were judged.
    pub epochs: u64,
    /// Why the last one's weights are not on chain, if they are not.
    pub weights_refused: Option<String>,
}

/// What is remembered from turn to turn, to do nothing twice in vain.
#[derive(Debug, Default)]
struct Memory {
    /// The epoch in which no weights are left to reveal.
    weights_revealed: Option<Epoch>,
    /// In which epoch weights were not revealed, and of what kind the refusal was: both as last told.
    unrevealed: Option<(Epoch, Discriminant<ChainError>)>,
    /// The epoch in which the keys of earlier ones have been revealed.
    keys_revealed: Option<Epoch>,
    /// An epoch that cannot be judged.
    lost: Option<Epoch>,
    /// No weights before this block.
    weights_at: Option<BlockNumber>,
    told: Option<Wait>,
}

/// What a turn came to.
enum Turn {
    Judged(Option<String>),
    Waits(Wait, BlockNumber),
    Stopped,
}

impl<C: Chain + 'static> Validator<C> {
    /// Follows the chain until `stop` is set, or so many epochs are judged and their weights settled.
    /// Sessions that are under way are held to their end.
    ///
    /// What may pass by itself is waited for; the log says what.
    ///
    /// # Errors
    /// [`ValidatorError`] for what does not pass. Everything that was recorded is on disk.
    pub async fn run(&mut self, stop: &CancellationToken, epochs: Option<u64>) -> Result<Followed, ValidatorError> {
        let (mut memory, mut followed, mut pause) = (Memory::default(), Followed::default(), FIRST_PAUSE);
        while !stop.is_cancelled() {
            let is_enough = epochs.is_some_and(|epochs| followed.epochs >= epochs);
            if is_enough && self.weights_settled() {
                followed.weights_refused = self.weights_refused();
                break;
            }
            match self.turn(&mut memory, is_enough, stop).await {
                Ok(Turn::Judged(refused)) => {
                    followed.epochs += 1;
                    followed.weights_refused = refused;
                    memory.told = None;
                }
                Ok(Turn::Waits(wait, block)) => {
                    if memory.told.as_ref() != Some(&wait) {
                        info!("{wait}");
                        self.tell(ValidatorEvent::Waits(wait.clone()));
                        memory.told = Some(wait);
                    }
                    tokio::select! {
                        // A chain that cannot be followed is asked again in the next turn, which says so.
                        head = self.chain.head_after(block) => if head.is_err() { sleep(FIRST_PAUSE).await },
                        () = stop.cancelled() => {}
                    }
                }
                Ok(Turn::Stopped) => {}
                Err(failure) if passes(&failure) => {
                    warn!("{failure}; trying again in {} s", pause.as_secs());
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = stop.cancelled() => {}
                    }
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
                Err(failure) => return Err(failure),
            }
            pause = FIRST_PAUSE;
        }
        Ok(followed)
    }

    /// Does what is due next; with `is_enough`, no further epoch is judged.
    async fn turn(
        &mut self,
        memory: &mut Memory,
        is_enough: bool,
        stop: &CancellationToken,
    ) -> Result<Turn, ValidatorError> {
        let head = self.chain.head().await?;
        // Weights first: nothing of them waits for a key, and a chain that takes no key now takes weights still.
        if memory.weights_revealed != Some(head.epoch) && self.reveal_weights(head.epoch, memory).await? {
            memory.weights_revealed = Some(head.epoch);
        }
        if memory.weights_at.is_none_or(|at| head.block >= at) {
            // What the chain says of a later epoch may have changed by then.
            memory.weights_at = self.place_weights().await?.next.map(|next| next.min(head.next_epoch));
        }
        if memory.keys_revealed != Some(head.epoch) {
            self.reveal_keys().await?;
            memory.keys_revealed = Some(head.epoch);
        }
        if is_enough || self.locked().state().epoch() > head.epoch || memory.lost == Some(head.epoch) {
            let waiting = memory.weights_at.filter(|_| !self.weights_settled());
            let of = self.records().weights.as_ref().map(WeightSet::epoch);
            let wait = match (waiting, of) {
                (Some(at), Some(of)) => Wait::Weights { of, at },
                _ => Wait::NextEpoch { running: head.epoch, at: head.next_epoch },
            };
            return Ok(Turn::Waits(wait, head.block));
        }
        let until = last_session(&head);
        // An epoch that has begun is judged however late it is: sessions that were held count.
        let has_begun = EpochNonces::open_epochs(&self.nonce_directory())?.contains(&head.epoch);
        if head.block >= until && !has_begun {
            let wait = Wait::TooLate { running: head.epoch, at: head.next_epoch };
            return Ok(Turn::Waits(wait, head.block));
        }
        match self.judge_epoch(head.epoch, Some(until), stop).await {
            Ok(Judged::Whole(report)) => Ok(Turn::Judged(report.weights_refused)),
            Ok(Judged::Stopped) => Ok(Turn::Stopped),
            Err(ValidatorError::Chain(refusal @ ChainError::KeyAlreadyPublished(epoch))) => {
                error!(%refusal, "this epoch cannot be judged: is another validator running with this hotkey?");
                memory.lost = Some(epoch);
                Ok(Turn::Waits(Wait::NextEpoch { running: epoch, at: head.next_epoch }, head.block))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Reveals weights that were committed, where the chain does not do that by itself. False if some may be due
    /// still: one that is not revealed in its epoch is lost, so a refusal is no reason to leave it at that.
    async fn reveal_weights(&self, running: Epoch, memory: &mut Memory) -> Result<bool, ValidatorError> {
        match self.chain.reveal_weights(self.auditor.hotkey()).await {
            Ok(revealed) => {
                if revealed > 0 {
                    info!(revealed, "weights are revealed");
                }
                Ok(true)
            }
            Err(refusal) if refusal.is_passing() || refusal.needs_operator() => Err(refusal.into()),
            Err(refusal) => {
                let kind = Some((running, discriminant(&refusal)));
                if memory.unrevealed != kind {
                    warn!(%refusal, epoch = %running, "weights are not revealed; asking again with later blocks of this epoch");
                    memory.unrevealed = kind;
                }
                Ok(false)
            }
        }
    }

    fn weights_settled(&self) -> bool {
        self.records().weights.as_ref().is_none_or(WeightSet::is_settled)
    }

    fn weights_refused(&self) -> Option<String> {
        self.records().weights.as_ref().and_then(|set| set.refusal().map(str::to_owned))
    }
}

/// The block from which on no session of an epoch begins.
fn last_session(head: &Head) -> BlockNumber {
    let (first, next) = (head.epoch_start.get(), head.next_epoch.get());
    let length = next.saturating_sub(first);
    BlockNumber::new(next.saturating_sub((length / CLOSING).max(1)))
}

/// What may pass by itself. A node that answers nonsense may be mended, or another one found; the log tells.
const fn passes(failure: &ValidatorError) -> bool {
    match failure {
        ValidatorError::Chain(refusal) => !refusal.needs_operator(),
        ValidatorError::EpochOver(_) => true,
        ValidatorError::Storage(_)
        | ValidatorError::Weights(_)
        | ValidatorError::NoOwner
        | ValidatorError::Setting(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_quarter_of_an_epoch_is_for_weights() {
        let head = |first, next| Head {
            block: BlockNumber::new(first),
            epoch: Epoch::new(0),
            epoch_start: BlockNumber::new(first),
            next_epoch: BlockNumber::new(next),
        };
        for (first, next, last) in [(100, 460, 370), (100, 104, 103), (100, 102, 101), (0, 1, 0)] {
            assert_eq!(last_session(&head(first, next)).get(), last, "{first}..{next}");
        }
    }
}
