//! Time: blocks, and the epochs that they add up to.
//!
//! Epochs follow the formula of Subtensor's runtimes before 425: the epoch of a block is
//! `(block + netuid + 1) / (tempo + 1)`, so that subnets take turns and an epoch has `tempo + 1` blocks.
//! An epoch is computed in the first block of the next one, before that block's transactions. (Those
//! runtimes compute it one block earlier, in the epoch's own last block; runtime 425 computes it, as
//! here, in the block in which the index advances.)
//!
//! Each block first lets the price of a registration fall, then opens the commits of weights that are
//! due, then computes the epoch that has ended, and then takes transactions: the order of the chain.

use assay_commitments::{Epoch, Hotkey};

use super::{report::EpochReport, state::State};
use crate::types::{BlockNumber, Head};

/// How many reports of past epochs are kept.
const REPORTS_MAX: usize = 4_096;

/// What a block brings before its transactions.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// What the epoch came to that it ends, if it ends one.
    pub(super) report: Option<EpochReport>,
    /// Whose timelocked weights were opened and count from here on.
    pub(super) opened: Vec<Hotkey>,
}

impl State {
    /// The running epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch_of(self.block)
    }

    /// The epoch of the genesis block.
    pub(super) fn first_epoch(&self) -> Epoch {
        self.epoch_of(0)
    }

    pub(super) fn epoch_of(&self, block: u64) -> Epoch {
        Epoch::new((block + u64::from(self.network.netuid.get()) + 1) / self.period())
    }

    /// The first block of an epoch, which for the first one is the genesis block.
    pub(crate) fn first_block(&self, epoch: Epoch) -> u64 {
        (epoch.get() * self.period()).saturating_sub(u64::from(self.network.netuid.get()) + 1)
    }

    fn period(&self) -> u64 {
        u64::from(self.parameters.tempo) + 1
    }

    pub(crate) fn head(&self) -> Head {
        let epoch = self.epoch();
        Head {
            block: BlockNumber::new(self.block),
            epoch,
            epoch_start: BlockNumber::new(self.first_block(epoch)),
            next_epoch: BlockNumber::new(self.first_block(epoch.next())),
        }
    }

    /// Begins the next block: all that happens in it before its transactions.
    pub(super) fn begin_block(&mut self) -> Begun {
        self.block += 1;
        self.decay_burn();
        let opened = self.open_timelocked();
        if self.epoch_of(self.block - 1) == self.epoch() {
            return Begun { report: None, opened };
        }
        let report = self.end_epoch();
        self.reports.push_back(report.clone().into());
        if self.reports.len() > REPORTS_MAX {
            self.reports.pop_front();
        }
        Begun { report: Some(report), opened }
    }
}
