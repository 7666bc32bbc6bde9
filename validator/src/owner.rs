//! Whose records these are. What they say of miners, counters and weights is true of one hotkey on one subnet.

use std::path::Path;

use assay_audit::request::Network;
use assay_commitments::Hotkey;
use serde::{Deserialize, Serialize};

use crate::error::StorageError;

/// A validator's hotkey and where it validates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Owner {
    /// In hexadecimal.
    genesis: String,
    netuid: u16,
    /// In hexadecimal.
    hotkey: String,
}

impl Owner {
    pub(crate) fn new(network: Network, hotkey: &Hotkey) -> Self {
        Self { genesis: hex::encode(network.genesis), netuid: network.netuid, hotkey: hotkey.to_string() }
    }

    /// Refuses a file that this stands in, unless it is of `own`.
    ///
    /// # Errors
    /// [`StorageError::Foreign`].
    pub(crate) fn check(&self, own: &Self, path: &Path) -> Result<(), StorageError> {
        let pairs = [
            ("the chain", self.genesis.clone(), own.genesis.clone()),
            ("subnet", self.netuid.to_string(), own.netuid.to_string()),
            ("hotkey", self.hotkey.clone(), own.hotkey.clone()),
        ];
        match pairs.into_iter().find(|(_, found, own)| found != own) {
            None => Ok(()),
            Some((what, found, own)) => Err(StorageError::Foreign { path: path.to_owned(), what, found, own }),
        }
    }
}
