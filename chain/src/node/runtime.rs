//! What a runtime is made of, read from its metadata: indexes, types, hashers, versions.

use std::collections::BTreeMap;

use frame_metadata::{
    RuntimeMetadata, RuntimeMetadataPrefixed,
    v14::{StorageEntryType, StorageHasher},
    v16::{PalletMetadata, RuntimeMetadataV16, StorageEntryMetadata},
};
use parity_scale_codec::{Decode, Encode};
use scale_encode::EncodeAsType;
use scale_info::{PortableRegistry, TypeDef, Variant, form::PortableForm};
use scale_value::Value;
use sp_crypto_hashing::{blake2_128, blake2_256, twox_64, twox_128, twox_256};

use super::error::NodeError;

/// The runtime that the devnet serves unless it is told otherwise: finney, spec version 365.
const RECORDED: &[u8] = include_bytes!("../../../fixtures/chain/finney-365.scale");
const METADATA_VERSION: u32 = 16;

/// The runtime of a chain as its metadata describes it: which calls, storage items, events and errors there are, with
/// their indexes and types, and under which version.
#[derive(Debug)]
pub struct Runtime {
    bytes: Vec<u8>,
    metadata: RuntimeMetadataV16,
    pub(super) version: Version,
    pub(super) extensions: Vec<Extension>,
    /// For how many blocks back an extrinsic may name the block it was made on.
    pub(super) block_hash_count: u64,
    /// Places of storage items: (pallet, item) to indexes.
    items: BTreeMap<(String, String), (usize, usize)>,
}

/// `sp_version::RuntimeVersion`, as the constant `System.Version` holds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[expect(clippy::struct_field_names, reason = "the names are substrate's")]
pub(super) struct Version {
    pub(super) spec_name: String,
    pub(super) impl_name: String,
    pub(super) authoring_version: u32,
    pub(super) spec_version: u32,
    pub(super) impl_version: u32,
    pub(super) apis: Vec<([u8; 8], u32)>,
    pub(super) transaction_version: u32,
    pub(super) system_version: u8,
}

/// A part of an extrinsic beside its call: what it adds to the extrinsic and to what is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extension {
    SpecVersion,
    TransactionVersion,
    Genesis,
    Mortality,
    Nonce,
    Payment,
    MetadataHash,
    /// Adds no bytes anywhere.
    Empty,
}

/// A key of a storage map, before it is hashed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    Number(u64),
    Account([u8; 32]),
}

impl Runtime {
    /// The recorded runtime of finney, spec version 365.
    ///
    /// # Errors
    /// [`NodeError::Metadata`] if the file is damaged.
    pub fn recorded() -> Result<Self, NodeError> {
        Self::read(RECORDED)
    }

    /// Reads metadata of version 16, as a node answers it: `meta`, the version, the metadata.
    ///
    /// # Errors
    /// [`NodeError::Metadata`] if it cannot be read, or describes extrinsics of a form that the node does not know.
    pub fn read(bytes: &[u8]) -> Result<Self, NodeError> {
        let wrong = |why: String| NodeError::Metadata { why };
        let mut rest = bytes;
        let prefixed = RuntimeMetadataPrefixed::decode(&mut rest)
            .map_err(|error| wrong(format!("it does not decode: {error}")))?;
        if !rest.is_empty() {
            return Err(wrong(format!("{} bytes follow it", rest.len())));
        }
        let RuntimeMetadata::V16(metadata) = prefixed.1 else {
            return Err(wrong(format!("it is of version {}, not {METADATA_VERSION}", prefixed.1.version())));
        };
        let version = constant(&metadata, "System", "Version")?;
        let count: u32 = constant(&metadata, "System", "BlockHashCount")?;
        let extensions = extensions(&metadata)?;
        let items = items(&metadata);
        Ok(Self { bytes: bytes.to_vec(), metadata, version, extensions, block_hash_count: count.into(), items })
    }

    /// The version that counts up with every upgrade.
    pub const fn spec_version(&self) -> u32 {
        self.version.spec_version
    }

    /// The metadata as it was read.
    pub(super) fn metadata(&self) -> &[u8] {
        &self.bytes
    }

    /// Answers of the runtime API about its metadata: the version there is, and what is in it.
    pub(super) const fn metadata_version() -> u32 {
        METADATA_VERSION
    }

    pub(super) const fn types(&self) -> &PortableRegistry {
        &self.metadata.types
    }

    fn pallet(&self, name: &str) -> Option<&PalletMetadata<PortableForm>> {
        self.metadata.pallets.iter().find(|pallet| pallet.name == name)
    }

    /// The name of a call and its fields.
    pub(super) fn call(&self, pallet: u8, call: u8) -> Option<(&str, &Variant<PortableForm>)> {
        let pallet = self.metadata.pallets.iter().find(|entry| entry.index == pallet)?;
        let variants = self.variants(pallet.calls.as_ref()?.ty.id);
        let variant = variants.iter().find(|variant| variant.index == call)?;
        Some((&pallet.name, variant))
    }

    /// The indexes and fields of a call, an event or an error by name.
    fn variant(&self, pallet: &str, kind: Kind, name: &str) -> Option<(u8, &Variant<PortableForm>)> {
        let pallet = self.pallet(pallet)?;
        let ty = match kind {
            Kind::Call => pallet.calls.as_ref()?.ty.id,
            Kind::Event => pallet.event.as_ref()?.ty.id,
            Kind::Error => pallet.error.as_ref()?.ty.id,
        };
        let variant = self.variants(ty).iter().find(|variant| variant.name == name)?;
        Some((pallet.index, variant))
    }

    fn variants(&self, ty: u32) -> &[Variant<PortableForm>] {
        match self.types().resolve(ty).map(|ty| &ty.type_def) {
            Some(TypeDef::Variant(variants)) => &variants.variants,
            _ => &[],
        }
    }

    /// The indexes of a pallet and of its error.
    pub(super) fn error(&self, pallet: &str, name: &str) -> Option<(u8, u8)> {
        self.variant(pallet, Kind::Error, name).map(|(pallet, variant)| (pallet, variant.index))
    }

    /// An event: indexes and fields, in the order of the metadata.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the runtime has no such event, or one with other fields.
    pub(super) fn event(&self, pallet: &str, name: &str, fields: &[Value<()>]) -> Result<Vec<u8>, NodeError> {
        self.encode_variant(pallet, Kind::Event, name, fields)
    }

    /// A call, for what blocks contain without being asked.
    ///
    /// # Errors
    /// [`NodeError::Item`] if the runtime has no such call, or one with other fields.
    pub(super) fn encode_call(&self, pallet: &str, name: &str, fields: &[Value<()>]) -> Result<Vec<u8>, NodeError> {
        self.encode_variant(pallet, Kind::Call, name, fields)
    }

    fn encode_variant(&self, pallet: &str, kind: Kind, name: &str, fields: &[Value<()>]) -> Result<Vec<u8>, NodeError> {
        let wrong = |why: &str| self.item(pallet, name, why);
        let (index, variant) = self.variant(pallet, kind, name).ok_or_else(|| wrong("it is not there"))?;
        if variant.fields.len() != fields.len() {
            return Err(wrong("it has another number of fields"));
        }
        let mut bytes = vec![index, variant.index];
        for (field, value) in variant.fields.iter().zip(fields) {
            value
                .encode_as_type_to(field.ty.id, self.types(), &mut bytes)
                .map_err(|error| wrong(&error.to_string()))?;
        }
        Ok(bytes)
    }

    pub(super) fn item(&self, pallet: &str, name: &str, why: &str) -> NodeError {
        NodeError::Item { spec_version: self.spec_version(), item: format!("{pallet}.{name}"), why: why.to_owned() }
    }

    fn entry(&self, pallet: &str, item: &str) -> Option<(&str, &StorageEntryMetadata<PortableForm>)> {
        let (pallet, entry) = *self.items.get(&(pallet.to_owned(), item.to_owned()))?;
        let storage = self.metadata.pallets.get(pallet)?.storage.as_ref()?;
        Some((&storage.prefix, storage.entries.get(entry)?))
    }

    /// Whether the runtime has a storage item.
    pub(super) fn has_item(&self, pallet: &str, item: &str) -> bool {
        self.entry(pallet, item).is_some()
    }

    /// Where an item stands: the hashes of its names, and its keys as its hashers want them.
    ///
    /// # Errors
    /// [`NodeError::Item`] if there is no such item, or one with other keys.
    pub(super) fn storage_key(&self, pallet: &str, item: &str, keys: &[Key]) -> Result<Vec<u8>, NodeError> {
        let wrong = |why: &str| self.item(pallet, item, why);
        let (prefix, entry) = self.entry(pallet, item).ok_or_else(|| wrong("it is not there"))?;
        let mut bytes = [twox_128(prefix.as_bytes()), twox_128(item.as_bytes())].concat();
        let StorageEntryType::Map { hashers, key, .. } = &entry.ty else {
            return if keys.is_empty() { Ok(bytes) } else { Err(wrong("it is no map")) };
        };
        let types: Vec<u32> = match self.types().resolve(key.id).map(|ty| &ty.type_def) {
            Some(TypeDef::Tuple(tuple)) if hashers.len() > 1 => tuple.fields.iter().map(|ty| ty.id).collect(),
            _ => vec![key.id],
        };
        if hashers.len() != keys.len() || types.len() != keys.len() {
            return Err(wrong("it has another number of keys"));
        }
        for ((hasher, ty), key) in hashers.iter().zip(types).zip(keys) {
            let key = match key {
                Key::Number(number) => number.encode_as_type(ty, self.types()),
                Key::Account(account) => account.encode_as_type(ty, self.types()),
            };
            hash_key(hasher, &key.map_err(|error| wrong(&error.to_string()))?, &mut bytes);
        }
        Ok(bytes)
    }

    /// A value of a storage item.
    ///
    /// # Errors
    /// [`NodeError::Item`] if there is no such item, or its values have another form.
    pub(super) fn storage_value(
        &self,
        pallet: &str,
        item: &str,
        value: &impl EncodeAsType,
    ) -> Result<Vec<u8>, NodeError> {
        let wrong = |why: &str| self.item(pallet, item, why);
        let (_, entry) = self.entry(pallet, item).ok_or_else(|| wrong("it is not there"))?;
        let (StorageEntryType::Plain(ty) | StorageEntryType::Map { value: ty, .. }) = &entry.ty;
        value.encode_as_type(ty.id, self.types()).map_err(|error| wrong(&error.to_string()))
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Call,
    Event,
    Error,
}

fn hash_key(hasher: &StorageHasher, key: &[u8], into: &mut Vec<u8>) {
    match hasher {
        StorageHasher::Identity => into.extend(key),
        StorageHasher::Twox64Concat => into.extend([&twox_64(key), key].concat()),
        StorageHasher::Blake2_128Concat => into.extend([&blake2_128(key), key].concat()),
        StorageHasher::Twox128 => into.extend(twox_128(key)),
        StorageHasher::Twox256 => into.extend(twox_256(key)),
        StorageHasher::Blake2_128 => into.extend(blake2_128(key)),
        StorageHasher::Blake2_256 => into.extend(blake2_256(key)),
    }
}

fn items(metadata: &RuntimeMetadataV16) -> BTreeMap<(String, String), (usize, usize)> {
    let mut items = BTreeMap::new();
    for (index, pallet) in metadata.pallets.iter().enumerate() {
        for (place, entry) in pallet.storage.iter().flat_map(|storage| &storage.entries).enumerate() {
            items.insert((pallet.name.clone(), entry.name.clone()), (index, place));
        }
    }
    items
}

fn constant<T: Decode>(metadata: &RuntimeMetadataV16, pallet: &str, name: &str) -> Result<T, NodeError> {
    let wrong = |why: &str| NodeError::Metadata { why: format!("the constant {pallet}.{name} {why}") };
    let pallet = metadata.pallets.iter().find(|entry| entry.name == pallet);
    let constant = pallet.and_then(|pallet| pallet.constants.iter().find(|constant| constant.name == name));
    let constant = constant.ok_or_else(|| wrong("is missing"))?;
    T::decode(&mut constant.value.as_slice()).map_err(|_| wrong("has another form"))
}

/// Extensions by name; one with a name that is not known here may only be there if it adds nothing.
fn extensions(metadata: &RuntimeMetadataV16) -> Result<Vec<Extension>, NodeError> {
    let known = |name: &str| match name {
        "CheckSpecVersion" => Some(Extension::SpecVersion),
        "CheckTxVersion" => Some(Extension::TransactionVersion),
        "CheckGenesis" => Some(Extension::Genesis),
        "CheckMortality" => Some(Extension::Mortality),
        "CheckNonce" => Some(Extension::Nonce),
        "ChargeTransactionPayment" => Some(Extension::Payment),
        "CheckMetadataHash" => Some(Extension::MetadataHash),
        _ => None,
    };
    let mut extensions = Vec::new();
    for entry in &metadata.extrinsic.transaction_extensions {
        let name = &entry.identifier;
        let adds = [entry.ty.id, entry.implicit.id].into_iter().any(|ty| !is_empty(&metadata.types, ty));
        extensions.push(match known(name) {
            Some(extension) => extension,
            None if adds => {
                let why = format!("its extrinsics carry {name}, which this node cannot read");
                return Err(NodeError::Metadata { why });
            }
            None => Extension::Empty,
        });
    }
    Ok(extensions)
}

/// Whether values of a type take no bytes.
fn is_empty(types: &PortableRegistry, ty: u32) -> bool {
    match types.resolve(ty).map(|ty| &ty.type_def) {
        Some(TypeDef::Composite(composite)) => composite.fields.iter().all(|field| is_empty(types, field.ty.id)),
        Some(TypeDef::Tuple(tuple)) => tuple.fields.iter().all(|ty| is_empty(types, ty.id)),
        _ => false,
    }
}
