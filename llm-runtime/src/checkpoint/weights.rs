//! The weights of a folder, read piece by piece from its safetensors files.
//!
//! They are read at their places into a buffer and not mapped: pages of a mapping count as memory of the process, and
//! committing reads each weight many times in long strides, for which windows of bounded size would be mapped and
//! unmapped all the time (measured: most of the time of committing went into that). Nor does it take a signal to learn
//! that a file was cut.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::SystemTime;

use assay_audit::commit::{ModelWeights, Tensor};
use assay_commitments::manifest::{Architecture, Matrix};
use assay_commitments::rows::{Profile, bf16_value};
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensorError};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::config::Configuration;
use super::error::CheckpointError;
use super::gptq::{Gptq, Part, Unfit};
use super::{names, optional, other_format};
use crate::quantized::{Quantized, Weights};

pub(super) const SINGLE: &str = "model.safetensors";
pub(super) const INDEX: &str = "model.safetensors.index.json";

/// Weights that are read and decoded at a time: few enough to stay in a core's nearest cache.
const BATCH: usize = 1 << 12;

/// A type in which weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stored {
    F32,
    F16,
    Bf16,
}

impl Stored {
    const fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::BF16 => Some(Self::Bf16),
            _ => None,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Widens up to [`BATCH`] stored weights, exactly.
    fn widen(self, bytes: &[u8], out: &mut [f32]) {
        let mut bits = [0_u16; BATCH];
        let bits = &mut bits[..out.len()];
        if self != Self::F32 {
            for (bits, bytes) in bits.iter_mut().zip(bytes.as_chunks().0) {
                *bits = u16::from_le_bytes(*bytes);
            }
        }
        match self {
            Self::F32 => {
                for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
                    *out = f32::from_le_bytes(*bytes);
                }
            }
            Self::F16 => bits.reinterpret_cast::<f16>().convert_to_f32_slice(out),
            Self::Bf16 => {
                for (out, bits) in out.iter_mut().zip(bits.iter()) {
                    *out = bf16_value(*bits);
                }
            }
        }
    }
}

/// Whether all values are finite, without a branch a value.
fn are_finite(values: &[f32]) -> bool {
    const ONE: u32 = 1 << 23;
    const MAGNITUDE: u32 = 0x7fff_ffff;
    // One more than an exponent of ones runs into the sign's place.
    let most = values.iter().fold(0, |all, value| all | ((value.to_bits() & MAGNITUDE) + ONE));
    most <= MAGNITUDE
}

/// What tells a file from the same file after it was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { length: metadata.len(), modified: metadata.modified().ok() })
    }
}

/// An open weight file.
#[derive(Debug)]
struct WeightFile {
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

impl WeightFile {
    fn open(path: PathBuf) -> Result<Self, CheckpointError> {
        let opened = assay_files::open(&path).and_then(|file| Ok((Stamp::of(&file)?, file)));
        match opened {
            Ok((stamp, file)) => Ok(Self { path, file, stamp }),
            Err(error) if error.is_missing() => Err(CheckpointError::NoFile { path }),
            Err(error) => Err(CheckpointError::unreadable(&path, error)),
        }
    }

    /// Reads bytes at a place. That the file is as it was when it was opened shows later, unless it is too short.
    fn read(&self, start: u64, bytes: &mut [u8]) -> Result<(), CheckpointError> {
        self.file.read_exact_at(bytes, start).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => CheckpointError::Changed { path: self.path.clone() },
            _ => CheckpointError::Io { path: self.path.clone(), source },
        })
    }

    /// Reads and checks the header.
    fn header(&self) -> Result<Header, CheckpointError> {
        /// Bytes of its length.
        const LENGTH: u64 = 8;
        /// The most bytes that the format has for a header.
        const MOST: u64 = 100_000_000;
        let damaged = |source| CheckpointError::Weights { path: self.path.clone(), source };
        let stamp = Stamp::of(&self.file).map_err(|source| CheckpointError::Io { path: self.path.clone(), source })?;
        if stamp != self.stamp {
            return Err(CheckpointError::Changed { path: self.path.clone() });
        }
        if stamp.length < LENGTH {
            return Err(damaged(SafeTensorError::HeaderTooSmall));
        }
        let mut length = [0; 8];
        self.read(0, &mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MOST {
            return Err(damaged(SafeTensorError::HeaderTooLarge));
        }
        let end = LENGTH + length;
        if end > stamp.length {
            return Err(damaged(SafeTensorError::InvalidHeaderLength));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        self.read(LENGTH, &mut bytes)?;
        if let Some(name) = repeated_name(&bytes) {
            return Err(CheckpointError::Repeated { path: self.path.clone(), name });
        }
        let metadata: Metadata = serde_json::from_slice(&bytes)
            .map_err(|source| damaged(SafeTensorError::InvalidHeaderDeserialization(source)))?;
        if end.checked_add(metadata.data_len() as u64) != Some(stamp.length) {
            return Err(damaged(SafeTensorError::MetadataIncompleteBuffer));
        }
        Ok(Header { end, digest: blake3::hash(&bytes).into(), metadata })
    }
}

/// The header of a weight file.
struct Header {
    /// Where the weights begin.
    end: u64,
    digest: [u8; 32],
    metadata: Metadata,
}

/// A name that stands more than once in a header. Most parsers take the last of them and say nothing,
/// so that two programs may see two models in one file.
fn repeated_name(header: &[u8]) -> Option<String> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Option<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a safetensors header")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Option<String>, M::Error> {
            let (mut seen, mut repeated) = (HashSet::new(), None);
            while let Some((name, IgnoredAny)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(name.clone()) {
                    repeated.get_or_insert(name);
                }
            }
            Ok(repeated)
        }
    }
    // What is no JSON object is refused by the parser that reads the header.
    serde_json::Deserializer::from_slice(header).deserialize_map(Names).unwrap_or(None)
}

/// Where a tensor lies.
#[derive(Clone, Debug)]
struct Place {
    file: usize,
    name: String,
    /// Of its first byte in the file.
    offset: u64,
    /// Elements that it has.
    length: usize,
}

/// A tensor of the model.
#[derive(Clone, Debug)]
enum Held {
    /// As it is.
    Plain(Place, Stored),
    /// A matrix in the layout of GPTQ.
    Packed(Packed),
}

/// Where a quantised matrix lies.
#[derive(Clone, Debug)]
struct Packed {
    weights: Place,
    zeros: Place,
    scales: Place,
    scale: Stored,
    groups: Place,
    outputs: usize,
}

/// A tensor that is there for nothing, if it holds what it should.
#[derive(Clone, Debug)]
struct Redundant {
    place: Place,
    /// The tensor that it repeats; zeros, if it repeats none.
    repeats: Option<Place>,
    /// Bytes of each.
    bytes: usize,
}

/// The quantised matrices of the layer that was last read. Committing reads a layer many times in strides across
/// all of its matrices, and from packed columns a row cannot be read.
#[derive(Debug, Default)]
struct Decoded {
    layer: usize,
    matrices: [Option<Quantized>; 7],
}

/// Names and places of all tensors in the files.
struct Directory<'a> {
    files: &'a [WeightFile],
    headers: &'a [Header],
    /// Which file holds a tensor; `None` when there is but one.
    index: Option<&'a HashMap<String, usize>>,
}

impl Directory<'_> {
    fn path(&self, file: usize) -> PathBuf {
        self.files[file].path.clone()
    }

    fn find(&self, name: String, expected: Vec<usize>) -> Result<(Place, Dtype), CheckpointError> {
        let missing = |file, name| CheckpointError::MissingTensor { path: self.path(file), name };
        let file = match self.index {
            None => 0,
            Some(index) => match index.get(&name) {
                Some(file) => *file,
                None => return Err(missing(0, name)),
            },
        };
        let Some(info) = self.headers[file].metadata.info(&name) else {
            return Err(missing(file, name));
        };
        if info.shape != expected {
            let (path, found) = (self.path(file), info.shape.clone());
            return Err(CheckpointError::Shape { path, name, found, expected });
        }
        let offset = self.headers[file].end + info.data_offsets.0 as u64;
        Ok((Place { file, name, offset, length: expected.iter().product() }, info.dtype))
    }

    fn find_plain(&self, name: String, expected: Vec<usize>) -> Result<(Place, Stored), CheckpointError> {
        let (place, dtype) = self.find(name, expected)?;
        match Stored::of(dtype) {
            Some(stored) => Ok((place, stored)),
            None => Err(self.wrong_type(place, dtype, "F32, F16 and BF16")),
        }
    }

    fn find_packed(
        &self,
        layer: usize,
        matrix: Matrix,
        shape: [usize; 2],
        gptq: Gptq,
    ) -> Result<Held, CheckpointError> {
        let [outputs, inputs] = shape;
        let find = |part: Part| self.find(names::packed(layer, matrix, part), gptq.shape(part, inputs, outputs));
        let find_integers = |part: Part| match find(part)? {
            (place, Dtype::I32) => Ok(place),
            (place, dtype) => Err(self.wrong_type(place, dtype, "I32")),
        };
        let (scales, scale) = match find(Part::Scales)? {
            (place, Dtype::F16) => (place, Stored::F16),
            (place, Dtype::BF16) => (place, Stored::Bf16),
            // An integer times an f32 is no f32.
            (place, dtype) => return Err(self.wrong_type(place, dtype, "F16 and BF16")),
        };
        let [weights, zeros, groups] = [Part::Weights, Part::Zeros, Part::Groups].map(find_integers);
        Ok(Held::Packed(Packed { weights: weights?, zeros: zeros?, scales, scale, groups: groups?, outputs }))
    }

    fn wrong_type(&self, place: Place, found: Dtype, supported: &'static str) -> CheckpointError {
        let path = self.path(place.file);
        CheckpointError::Dtype { path, name: place.name, found: format!("{found:?}"), supported }
    }
}

/// The weights of a folder.
#[derive(Debug)]
pub struct WeightFiles {
    folder: PathBuf,
    configuration: Configuration,
    profile: Profile,
    files: Vec<WeightFile>,
    digests: Vec<[u8; 32]>,
    tensors: HashMap<Tensor, Held>,
    redundant: Vec<Redundant>,
    decoded: RwLock<Decoded>,
}

impl WeightFiles {
    /// Opens the weight files of a folder and finds all tensors of the architecture in them, and none that is of
    /// another.
    pub(super) fn open(
        folder: &Path,
        configuration: &Configuration,
        profile: Profile,
    ) -> Result<Self, CheckpointError> {
        let Listed { paths, index } = Listed::read(folder)?;
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>, _>>()?;
        let headers = files.iter().map(WeightFile::header).collect::<Result<Vec<_>, _>>()?;
        let holders = holders(&files, &headers)?;
        for (name, place) in index.iter().flatten() {
            if holders.get(name) != Some(place) {
                return Err(CheckpointError::MissingTensor { path: files[*place].path.clone(), name: name.clone() });
            }
        }
        let directory = Directory { files: &files, headers: &headers, index: index.as_ref() };
        let Configuration { architecture, gptq } = configuration;
        let find = |tensor: Tensor| {
            let shape = tensor.shape(architecture);
            let held = if let (Tensor::Matrix(layer, matrix), Some(gptq), &[outputs, inputs]) = (tensor, gptq, &*shape)
            {
                directory.find_packed(layer, matrix, [outputs, inputs], *gptq)?
            } else {
                let (place, stored) = directory.find_plain(names::of(tensor), shape)?;
                Held::Plain(place, stored)
            };
            Ok((tensor, held))
        };
        let tensors = Tensor::all(architecture).into_iter().map(find).collect::<Result<_, CheckpointError>>()?;
        let redundant = directory.redundant(configuration, &holders)?;
        Ok(Self {
            folder: folder.to_owned(),
            configuration: configuration.clone(),
            profile,
            digests: headers.iter().map(|header| header.digest).collect(),
            files,
            tensors,
            redundant,
            decoded: RwLock::default(),
        })
    }

    /// Checks the values of tensors that are there beside those of the model.
    ///
    /// # Errors
    /// [`CheckpointError::Unannounced`] for one that would make it another model.
    pub(super) fn check_redundant(&self) -> Result<(), CheckpointError> {
        const PIECE: usize = 1 << 18;
        let (mut found, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
        for Redundant { place, repeats, bytes } in &self.redundant {
            for start in (0..*bytes).step_by(PIECE) {
                let length = PIECE.min(bytes - start);
                self.files[place.file].read(place.offset + start as u64, &mut found[..length])?;
                if let Some(repeated) = repeats {
                    self.files[repeated.file].read(repeated.offset + start as u64, &mut expected[..length])?;
                }
                if found[..length] != expected[..length] {
                    let (path, name) = (self.files[place.file].path.clone(), place.name.clone());
                    return Err(CheckpointError::Unannounced { path, name });
                }
            }
            expected.fill(0);
        }
        Ok(())
    }

    /// Elements of a plain tensor, at most [`BATCH`] of them, as they are stored.
    fn read_plain(&self, place: &Place, stored: Stored, at: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let mut buffer = [0_u8; 4 * BATCH];
        let (bytes, _) = buffer.split_at_mut(out.len() * stored.bytes());
        self.files[place.file].read(place.offset + (at * stored.bytes()) as u64, bytes)?;
        stored.widen(bytes, out);
        Ok(())
    }

    /// Elements of a tensor of integers.
    fn read_words(&self, place: &Place, at: usize, count: usize) -> Result<Vec<u32>, CheckpointError> {
        let mut bytes = vec![0; 4 * count];
        self.files[place.file].read(place.offset + 4 * at as u64, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
    }

    fn unpack(&self, packed: &Packed, gptq: Gptq) -> Result<Quantized, CheckpointError> {
        /// Words that are read at a time: few enough to stay in a core's cache while their rows become columns.
        const WORDS: usize = 1 << 17;
        let refuse = |Unfit { part, index, reason }| {
            let place = match part {
                Part::Weights => &packed.weights,
                Part::Zeros => &packed.zeros,
                Part::Scales => &packed.scales,
                Part::Groups => &packed.groups,
            };
            let (path, name) = (self.files[place.file].path.clone(), place.name.clone());
            CheckpointError::Quantized { path, name, index, reason }
        };
        let groups = self.read_words(&packed.groups, 0, packed.groups.length)?;
        let zeros = self.read_words(&packed.zeros, 0, packed.zeros.length)?;
        let mut scales = vec![0.0; packed.scales.length];
        for (number, scales) in scales.chunks_mut(BATCH).enumerate() {
            self.read_plain(&packed.scales, packed.scale, number * BATCH, scales)?;
        }
        let mut unpacking = gptq.begin(groups, &scales, &zeros).map_err(refuse)?;
        let rows = packed.weights.length / packed.outputs;
        let strip = (WORDS / packed.outputs).max(1);
        for first in (0..rows).step_by(strip) {
            let count = strip.min(rows - first) * packed.outputs;
            unpacking.add(first, &self.read_words(&packed.weights, first * packed.outputs, count)?);
        }
        unpacking.finish().map_err(refuse)
    }

    /// Weights of a quantised matrix.
    fn read_packed(
        &self,
        tensor: Tensor,
        packed: &Packed,
        start: usize,
        out: &mut [f32],
    ) -> Result<(), CheckpointError> {
        let (Tensor::Matrix(layer, matrix), Some(gptq)) = (tensor, self.configuration.gptq) else {
            unreachable!("matrices of quantised checkpoints are packed, and nothing else");
        };
        let inputs = packed.groups.length;
        let decoded = self.decoded.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = decoded.matrices[matrix.index()].as_ref().filter(|_| decoded.layer == layer) {
            known.weights(inputs, start, out);
            return Ok(());
        }
        drop(decoded);
        let mut decoded = self.decoded.write().unwrap_or_else(PoisonError::into_inner);
        if decoded.layer != layer {
            // Before there are others: there is room for one layer.
            *decoded = Decoded { layer, ..Decoded::default() };
        }
        let known = match &mut decoded.matrices[matrix.index()] {
            Some(known) => known,
            unknown @ None => unknown.insert(self.unpack(packed, gptq)?),
        };
        known.weights(inputs, start, out);
        Ok(())
    }

    /// The same, opened anew.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] for a file that was replaced or written to, and as [`Self::open`].
    pub(super) fn reopen(&self) -> Result<Self, CheckpointError> {
        for WeightFile { path, stamp, .. } in &self.files {
            let now = assay_files::open(path).ok().and_then(|file| Stamp::of(&file).ok());
            if now.as_ref() != Some(stamp) {
                return Err(CheckpointError::Changed { path: path.clone() });
            }
        }
        Self::open(&self.folder, &self.configuration, self.profile)
    }

    /// Name and digest of every weight file: of its length, the time when it was last written to, and
    /// its header.
    pub(super) fn digests(&self) -> impl Iterator<Item = (&Path, [u8; 32])> {
        self.files.iter().zip(&self.digests).map(|(file, header)| {
            let since = file.stamp.modified.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
            let mut hash = blake3::Hasher::new();
            hash.update(&file.stamp.length.to_le_bytes());
            hash.update(&since.map_or(0, |since| since.as_nanos()).to_le_bytes());
            hash.update(header);
            (file.path.as_path(), hash.finalize().into())
        })
    }
}

impl ModelWeights for WeightFiles {
    type Error = CheckpointError;

    fn architecture(&self) -> &Architecture {
        &self.configuration.architecture
    }

    fn read(&self, tensor: Tensor, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        assert!(start + out.len() <= tensor.length(self.architecture()), "what is read lies in the tensor");
        let (place, stored) = match &self.tensors[&tensor] {
            Held::Plain(place, stored) => (place, *stored),
            Held::Packed(packed) => return self.read_packed(tensor, packed, start, out),
        };
        for (number, values) in out.chunks_mut(BATCH).enumerate() {
            let at = start + number * BATCH;
            self.read_plain(place, stored, at, values)?;
            self.profile.round(values);
            if !are_finite(values) {
                let within = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
                let (path, name) = (self.files[place.file].path.clone(), place.name.clone());
                return Err(CheckpointError::NotFinite { path, name, index: at + within, value: values[within] });
            }
        }
        Ok(())
    }
}

impl Weights for WeightFiles {
    fn quantized(&self, layer: usize, matrix: Matrix) -> Result<Option<Quantized>, CheckpointError> {
        match (self.tensors.get(&Tensor::Matrix(layer, matrix)), self.configuration.gptq) {
            (Some(Held::Packed(packed)), Some(gptq)) => self.unpack(packed, gptq).map(Some),
            _ => Ok(None),
        }
    }
}

impl Directory<'_> {
    /// The tensors that are not of the model, but may be there beside it.
    fn redundant(
        &self,
        configuration: &Configuration,
        holders: &HashMap<String, usize>,
    ) -> Result<Vec<Redundant>, CheckpointError> {
        let Configuration { architecture, gptq } = configuration;
        let tensors = Tensor::all(architecture);
        let announced = tensors.iter().flat_map(|tensor| match (tensor, gptq) {
            (Tensor::Matrix(layer, matrix), Some(_)) => {
                Part::ALL.map(|part| names::packed(*layer, *matrix, part)).to_vec()
            }
            _ => vec![names::of(*tensor)],
        });
        let announced: HashSet<String> = announced.collect();
        let mut others: Vec<&String> = holders.keys().filter(|name| !announced.contains(*name)).collect();
        others.sort_unstable();
        let mut redundant = vec![];
        // Older versions of transformers stored the rotary frequencies, which follow from the configuration.
        for name in others.into_iter().filter(|name| !name.ends_with(".rotary_emb.inv_freq")) {
            let file = holders[name];
            let unannounced = || CheckpointError::Unannounced { path: self.path(file), name: name.clone() };
            let info = self.headers[file].metadata.info(name).ok_or_else(unannounced)?;
            let repeats = if architecture.tied && *name == names::of(Tensor::Head) {
                let (table, dtype) = self.find(names::of(Tensor::Embeddings), info.shape.clone())?;
                if dtype != info.dtype {
                    return Err(unannounced());
                }
                Some(table)
            } else if gptq.is_some() && name.ends_with("_proj.bias") {
                // Older versions of AutoGPTQ gave every matrix a bias of zeros.
                None
            } else {
                return Err(unannounced());
            };
            let (start, end) = info.data_offsets;
            let offset = self.headers[file].end + start as u64;
            let place = Place { file, name: name.clone(), offset, length: info.shape.iter().product() };
            redundant.push(Redundant { place, repeats, bytes: end - start });
        }
        Ok(redundant)
    }
}

/// Which file holds a tensor.
fn holders(files: &[WeightFile], headers: &[Header]) -> Result<HashMap<String, usize>, CheckpointError> {
    let mut holders: HashMap<String, usize> = HashMap::new();
    for (file, header) in headers.iter().enumerate() {
        for name in header.metadata.offset_keys() {
            if let Some(first) = holders.get(&name) {
                let (path, other) = (files[file].path.clone(), files[*first].path.clone());
                return Err(CheckpointError::Twice { path, other, name });
            }
            holders.insert(name, file);
        }
    }
    Ok(holders)
}

/// The weight files of a folder by its own account.
struct Listed {
    paths: Vec<PathBuf>,
    /// Which file holds a tensor; `None` when there is but one.
    index: Option<HashMap<String, usize>>,
}

impl Listed {
    /// The one file of weights, or else those that the index names.
    fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(Self { paths: vec![single], index: None });
        }
        let index_path = folder.join(INDEX);
        let Some(bytes) = optional(&index_path)? else {
            return Err(other_format(folder).unwrap_or(CheckpointError::NoFile { path: single }));
        };
        let index = super::json(&index_path, &bytes)?;
        Self::from_index(folder, &index).map_err(|reason| CheckpointError::Index { path: index_path, reason })
    }

    fn from_index(folder: &Path, index: &Value) -> Result<Self, &'static str> {
        let map = index.get("weight_map").and_then(Value::as_object).ok_or("\"weight_map\" is missing")?;
        let mut names: Vec<&str> = Vec::new();
        let mut places = HashMap::new();
        for (tensor, file) in map {
            let file = file.as_str().ok_or("\"weight_map\" names a file that is no text")?;
            // An index may come from anywhere; it names files of its own folder and no others.
            if Path::new(file).file_name().is_none_or(|name| name != file) {
                return Err("\"weight_map\" names a file of another folder");
            }
            let place = names.iter().position(|name| *name == file).unwrap_or_else(|| {
                names.push(file);
                names.len() - 1
            });
            places.insert(tensor.clone(), place);
        }
        if names.is_empty() {
            return Err("\"weight_map\" names no file");
        }
        Ok(Self { paths: names.into_iter().map(|name| folder.join(name)).collect(), index: Some(places) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_types_are_widened_exactly() {
        for (dtype, bytes) in [
            (Dtype::F32, (-1.5_f32).to_le_bytes().to_vec()),
            (Dtype::F16, f16::from_f32(-1.5).to_le_bytes().to_vec()),
            (Dtype::BF16, half::bf16::from_f32(-1.5).to_le_bytes().to_vec()),
        ] {
            let mut value = [0.0];
            Stored::of(dtype).unwrap().widen(&bytes, &mut value);
            assert_eq!(value, [-1.5], "{dtype:?}");
        }
        assert_eq!(Stored::of(Dtype::I8), None);
    }

    #[test]
    fn what_is_not_finite_is_seen_among_the_largest_numbers() {
        assert!(are_finite(&[f32::MAX, -f32::MAX, 0.0, f32::MIN_POSITIVE]));
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!are_finite(&[1.0, bad, f32::MAX]), "{bad}");
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_found() {
        assert_eq!(repeated_name(br#"{"a":{"x":[1]},"b":{"x":[1]}}  "#), None);
        assert_eq!(repeated_name(br#"{"a":1,"b":2,"\u0061":3}"#), Some("a".to_owned()));
    }
}
