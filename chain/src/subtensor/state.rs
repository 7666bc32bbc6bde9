//! The state of one block, read in batches.

use std::{collections::HashMap, sync::Arc};

use scale_decode::DecodeAsType;
use scale_value::Value;
use subxt::utils::H256;

use super::{
    link::Links,
    runtime::{Entry, Runtime},
};
use crate::error::ChainError;

/// Keys of one question: a few hundred kilobytes of hexadecimal digits at most.
const KEYS_OF_A_QUESTION: usize = 512;

/// A block whose state is read. The same block whatever node answers.
#[derive(Clone, Debug)]
pub(super) struct At {
    pub(super) links: Arc<Links>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) number: u64,
    pub(super) hash: H256,
}

/// Where in a batch an answer lies.
#[derive(Debug)]
pub(super) struct Slot<T> {
    index: usize,
    entry: Entry<T>,
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Slot<T> {}

/// Values to be read together.
#[derive(Debug)]
pub(super) struct Batch<'a> {
    at: &'a At,
    keys: Vec<Vec<u8>>,
}

/// The answers of a batch.
#[derive(Debug)]
pub(super) struct Answers<'a> {
    at: &'a At,
    values: Vec<Option<Vec<u8>>>,
}

impl At {
    /// The block of a hash.
    ///
    /// # Errors
    /// [`ChainError::Forgotten`] if its state is gone, or as the question fares.
    pub(super) async fn new(links: &Arc<Links>, number: u64, hash: H256) -> Result<Self, ChainError> {
        let runtime =
            links.runtime(hash).await.map_err(|trouble| trouble.about_block("its runtime version", number))?;
        Ok(Self { links: Arc::clone(links), runtime, number, hash })
    }

    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { at: self, keys: Vec::new() }
    }

    /// One value.
    ///
    /// # Errors
    /// As [`Batch::read`].
    pub(super) async fn read<T: DecodeAsType>(
        &self,
        entry: Entry<T>,
        keys: Vec<Value>,
    ) -> Result<Option<T>, ChainError> {
        let mut batch = self.batch();
        let slot = batch.ask(entry, keys)?;
        batch.read().await?.get(slot)
    }
}

impl<'a> Batch<'a> {
    /// Adds a value to be read.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] if the runtime has no such item.
    pub(super) fn ask<T>(&mut self, entry: Entry<T>, keys: Vec<Value>) -> Result<Slot<T>, ChainError> {
        self.keys.push(self.at.runtime.key(entry, keys)?);
        Ok(Slot { index: self.keys.len() - 1, entry })
    }

    /// Adds a value that not every runtime has.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] if it has another form.
    pub(super) fn ask_if_there<T>(&mut self, entry: Entry<T>, keys: Vec<Value>) -> Result<Option<Slot<T>>, ChainError> {
        if self.at.runtime.has(entry) { self.ask(entry, keys).map(Some) } else { Ok(None) }
    }

    /// Reads all of it.
    ///
    /// # Errors
    /// [`ChainError::Forgotten`] if the state is gone, or as the question fares.
    pub(super) async fn read(self) -> Result<Answers<'a>, ChainError> {
        let At { links, number, hash, .. } = self.at;
        let mut found: HashMap<Vec<u8>, Vec<u8>> = HashMap::new();
        for keys in self.keys.chunks(KEYS_OF_A_QUESTION) {
            let answer = links.ask("state", |node| async move {
                node.state_query_storage_at(keys.iter().map(Vec::as_slice), Some(*hash)).await
            });
            let sets = answer.await.map_err(|trouble| trouble.about_block("state", *number))?;
            let changes = sets.into_iter().flat_map(|set| set.changes);
            found.extend(changes.filter_map(|(key, value)| Some((key.0, value?.0))));
        }
        let values = self.keys.iter().map(|key| found.get(key).cloned()).collect();
        Ok(Answers { at: self.at, values })
    }
}

impl Answers<'_> {
    /// A value, or the item's default where nothing stands.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] if it cannot be read.
    pub(super) fn get<T: DecodeAsType>(&self, slot: Slot<T>) -> Result<Option<T>, ChainError> {
        self.at.runtime.decode(slot.entry, self.values[slot.index].as_deref())
    }

    /// A value of an item that has a default.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] if it cannot be read.
    pub(super) fn value<T: DecodeAsType>(&self, slot: Slot<T>) -> Result<T, ChainError> {
        let Entry { pallet, name, .. } = slot.entry;
        self.get(slot)?.ok_or_else(|| self.at.runtime.incompatible(format!("default of {pallet}.{name}")))
    }

    /// A value of an item that not every runtime has.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] if it cannot be read.
    pub(super) fn optional<T: DecodeAsType>(&self, slot: Option<Slot<T>>) -> Result<Option<T>, ChainError> {
        slot.map_or(Ok(None), |slot| self.get(slot))
    }
}
