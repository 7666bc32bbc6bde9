//! The chain's runtime as its metadata describes it: where state lies, how it is written, which calls
//! there are. Nothing of it is compiled in, so an upgrade that adds or reorders passes unnoticed, and one
//! that removes or changes what is needed here is named.

use std::marker::PhantomData;

use frame_decode::storage::{StorageInfo, StorageTypeInfo, encode_storage_key_with_info};
use scale_decode::DecodeAsType;
use scale_value::{Composite, Value};
use subxt::{
    metadata::{ArcMetadata, Metadata},
    transactions::DynamicPayload,
};

use super::items;
use crate::error::ChainError;

/// One runtime of the chain.
#[derive(Clone, Debug)]
pub(super) struct Runtime {
    pub(super) spec_version: u32,
    pub(super) transaction_version: u32,
    pub(super) metadata: ArcMetadata,
}

/// An item of state: where it is, how many keys lead to a value, and what a value is read as.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) pallet: &'static str,
    pub(super) name: &'static str,
    pub(super) keys: usize,
    value: PhantomData<fn() -> T>,
}

impl<T> Entry<T> {
    pub(super) const fn new(pallet: &'static str, name: &'static str, keys: usize) -> Self {
        Self { pallet, name, keys, value: PhantomData }
    }
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Entry<T> {}

/// A call, by the names of its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallForm {
    pub(super) pallet: &'static str,
    pub(super) name: &'static str,
    pub(super) fields: &'static [&'static str],
}

/// A call with its arguments.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) form: CallForm,
    pub(super) payload: DynamicPayload<Composite<()>>,
}

impl CallForm {
    /// The call with these arguments, in the order of its fields.
    pub(super) fn with<const N: usize>(self, arguments: [Value; N]) -> Call {
        debug_assert_eq!(self.fields.len(), N, "each field has an argument");
        let named = self.fields.iter().zip(arguments).map(|(name, value)| ((*name).to_owned(), value));
        let payload = subxt::dynamic::tx(self.pallet, self.name, Composite::Named(named.collect()));
        Call { form: self, payload }
    }
}

impl Runtime {
    /// Reads metadata as a node gives it.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub(super) fn read(bytes: &[u8], spec_version: u32, transaction_version: u32) -> Result<Self, String> {
        let metadata = Metadata::decode_from(bytes).map_err(|error| error.to_string())?;
        Ok(Self { spec_version, transaction_version, metadata: metadata.arc() })
    }

    /// Whether the runtime has everything that is needed of it, in a form that can be read.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] with the first item that is missing or changed.
    pub(super) fn check_compat(&self) -> Result<(), ChainError> {
        items::check_entries(self)?;
        for form in items::CALLS {
            self.check_call(*form)?;
        }
        if items::COMMITS.iter().all(|form| self.check_call(*form).is_err()) {
            // Commit-reveal in neither form: the newer one is what it should have.
            self.check_call(items::COMMIT_TIMELOCKED_WEIGHTS)?;
        }
        Ok(())
    }

    /// Whether the runtime has a call, with these fields in this order.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`].
    pub(super) fn check_call(&self, form: CallForm) -> Result<(), ChainError> {
        let CallForm { pallet, name, fields } = form;
        let call = self.metadata.pallet_by_name(pallet).and_then(|pallet| pallet.call_variant_by_name(name));
        let call = call.ok_or_else(|| self.incompatible(format!("call {pallet}.{name}")))?;
        let names: Vec<&str> = call.fields.iter().map(|field| field.name.as_deref().unwrap_or("_")).collect();
        if names == fields {
            return Ok(());
        }
        Err(self.incompatible(format!("call {pallet}.{name}({}), but ({}),", fields.join(", "), names.join(", "))))
    }

    /// Whether an item is there, has so many keys, and has a default that can be read.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`].
    pub(super) fn check_entry<T: DecodeAsType>(&self, entry: Entry<T>) -> Result<(), ChainError> {
        let info = self.info(entry)?;
        if info.keys.len() != entry.keys {
            let Entry { pallet, name, keys, .. } = entry;
            return Err(self.incompatible(format!("{pallet}.{name} with {keys} keys, but with {},", info.keys.len())));
        }
        self.decode(entry, None).map(drop)
    }

    /// Whether an item is there.
    pub(super) fn has<T>(&self, entry: Entry<T>) -> bool {
        self.info(entry).is_ok()
    }

    /// The key of a value in state.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`].
    pub(super) fn key<T>(&self, entry: Entry<T>, keys: Vec<Value>) -> Result<Vec<u8>, ChainError> {
        let info = self.info(entry)?;
        let types = self.metadata.types();
        encode_storage_key_with_info(entry.pallet, entry.name, keys, &info, types)
            .map_err(|error| self.incompatible(format!("{}.{} ({error})", entry.pallet, entry.name)))
    }

    /// What stands in state, or the item's default where nothing stands.
    ///
    /// # Errors
    /// [`ChainError::Incompatible`] if the bytes are no value of the type that is wanted.
    pub(super) fn decode<T: DecodeAsType>(
        &self,
        entry: Entry<T>,
        bytes: Option<&[u8]>,
    ) -> Result<Option<T>, ChainError> {
        let info = self.info(entry)?;
        let Some(mut bytes) = bytes.or(info.default_value.as_deref()) else { return Ok(None) };
        let value = T::decode_as_type(&mut bytes, info.value_id, self.metadata.types());
        value.map(Some).map_err(|error| self.incompatible(format!("{}.{} ({error})", entry.pallet, entry.name)))
    }

    /// A constant that is a u64.
    pub(super) fn constant(&self, pallet: &str, name: &str) -> Option<u64> {
        let constant = self.metadata.pallet_by_name(pallet)?.constant_by_name(name)?;
        Some(u64::from_le_bytes(constant.value().try_into().ok()?))
    }

    pub(super) fn incompatible(&self, item: String) -> ChainError {
        ChainError::Incompatible { spec_version: self.spec_version, item }
    }

    fn info<T>(&self, entry: Entry<T>) -> Result<StorageInfo<'_, u32>, ChainError> {
        self.metadata
            .storage_info(entry.pallet, entry.name)
            .map_err(|_| self.incompatible(format!("{}.{}", entry.pallet, entry.name)))
    }
}
