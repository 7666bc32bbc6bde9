//! The weights of a folder, read piece by piece from its safetensors files.
//!
//! Headers are mapped. Weights are read at their places into a buffer: pages of a mapping count as memory of the
//! process, and committing reads each weight many times in long strides, for which windows of bounded size would
//! be mapped and unmapped all the time (measured: most of the time of committing went into that).

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use assay_audit::commit::{ModelWeights, Tensor};
use assay_commitments::manifest::Architecture;
use assay_commitments::rows::Profile;
use assay_commitments::rows::bf16_value;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use memmap2::{Mmap, MmapOptions};
use safetensors::tensor::Metadata;
use safetensors::{Dtype, SafeTensors};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;

use super::error::CheckpointError;
use super::{names, optional};

const SINGLE: &str = "model.safetensors";
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
        let opened = File::open(&path).and_then(|file| Ok((Stamp::of(&file)?, file)));
        match opened {
            Ok((stamp, file)) => Ok(Self { path, file, stamp }),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Err(CheckpointError::NoFile { path }),
            Err(source) => Err(CheckpointError::Io { path, source }),
        }
    }

    /// Maps a part of the file, which is checked to be as it was when it was opened.
    fn map(&self, start: u64, length: usize) -> Result<Mmap, CheckpointError> {
        let unreadable = |source| CheckpointError::Io { path: self.path.clone(), source };
        if Stamp::of(&self.file).map_err(unreadable)? != self.stamp {
            return Err(CheckpointError::Changed { path: self.path.clone() });
        }
        let mut options = MmapOptions::new();
        options.offset(start).len(length);
        #[expect(unsafe_code, reason = "a header is looked at without reading the weights behind it")]
        // SAFETY: the mapping is read-only, lies within the file as it was a moment ago, and lives as
        // long as the header is read. Should another process change the file just then, weights would be
        // wrong, which the next look at the file's stamp finds; should it cut the file, the process would
        // end by a signal, as with every loader that maps, before anything is made of the weights.
        let mapped = unsafe { options.map(&self.file) };
        mapped.map_err(unreadable)
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
        let damaged = |source| CheckpointError::Weights { path: self.path.clone(), source };
        if self.stamp.length == 0 {
            return Err(damaged(safetensors::SafeTensorError::HeaderTooSmall));
        }
        // The whole file is mapped, so that it is checked to be as long as the header says, but only the
        // pages of the header are looked at.
        let map = self.map(0, usize::try_from(self.stamp.length).unwrap_or(usize::MAX))?;
        let length = map.first_chunk().and_then(|length| usize::try_from(u64::from_le_bytes(*length)).ok());
        let bytes = length.and_then(|length| map.get(8..)?.get(..length)).unwrap_or_default();
        if let Some(name) = repeated_name(bytes) {
            return Err(CheckpointError::Repeated { path: self.path.clone(), name });
        }
        let (length, metadata) = SafeTensors::read_metadata(&map).map_err(damaged)?;
        Ok(Header { end: 8 + length as u64, digest: blake3::hash(bytes).into(), metadata })
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
    stored: Stored,
    /// Weights that it has.
    length: usize,
}

/// The weights of a folder.
#[derive(Debug)]
pub struct WeightFiles {
    folder: PathBuf,
    architecture: Architecture,
    profile: Profile,
    files: Vec<WeightFile>,
    digests: Vec<[u8; 32]>,
    places: HashMap<Tensor, Place>,
}

impl WeightFiles {
    /// Opens the weight files of a folder and finds all tensors of the architecture in them.
    pub(super) fn open(folder: &Path, architecture: &Architecture, profile: Profile) -> Result<Self, CheckpointError> {
        let Listed { paths, index } = Listed::read(folder)?;
        let files = paths.into_iter().map(WeightFile::open).collect::<Result<Vec<_>, _>>()?;
        let headers = files.iter().map(WeightFile::header).collect::<Result<Vec<_>, _>>()?;
        let holders = holders(&files, &headers)?;
        for (name, place) in index.iter().flatten() {
            if holders.get(name) != Some(place) {
                return Err(CheckpointError::MissingTensor { path: files[*place].path.clone(), name: name.clone() });
            }
        }
        let place = |tensor: Tensor| {
            let name = names::of(tensor);
            let missing =
                |file: usize| CheckpointError::MissingTensor { path: files[file].path.clone(), name: name.clone() };
            let file = match &index {
                None => 0,
                Some(index) => *index.get(&name).ok_or_else(|| missing(0))?,
            };
            let path = || files[file].path.clone();
            let info = headers[file].metadata.info(&name).ok_or_else(|| missing(file))?;
            let expected = tensor.shape(architecture);
            if info.shape != expected {
                return Err(CheckpointError::Shape { path: path(), name, found: info.shape.clone(), expected });
            }
            let Some(stored) = Stored::of(info.dtype) else {
                return Err(CheckpointError::Dtype { path: path(), name, found: format!("{:?}", info.dtype) });
            };
            let offset = headers[file].end + info.data_offsets.0 as u64;
            Ok((tensor, Place { file, name, offset, stored, length: tensor.length(architecture) }))
        };
        let places = Tensor::all(architecture).into_iter().map(place).collect::<Result<_, _>>()?;
        Ok(Self {
            folder: folder.to_owned(),
            architecture: architecture.clone(),
            profile,
            digests: headers.iter().map(|header| header.digest).collect(),
            files,
            places,
        })
    }

    /// The same, opened anew.
    ///
    /// # Errors
    /// [`CheckpointError::Changed`] for a file that was replaced or written to, and as [`Self::open`].
    pub(super) fn reopen(&self) -> Result<Self, CheckpointError> {
        for WeightFile { path, stamp, .. } in &self.files {
            if !File::open(path).and_then(|file| Stamp::of(&file)).is_ok_and(|now| now == *stamp) {
                return Err(CheckpointError::Changed { path: path.clone() });
            }
        }
        Self::open(&self.folder, &self.architecture, self.profile)
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
        &self.architecture
    }

    fn read(&self, tensor: Tensor, start: usize, out: &mut [f32]) -> Result<(), CheckpointError> {
        let place = &self.places[&tensor];
        assert!(start + out.len() <= place.length, "what is read lies in the tensor");
        let width = place.stored.bytes();
        let file = &self.files[place.file];
        let mut buffer = [0_u8; 4 * BATCH];
        for (number, values) in out.chunks_mut(BATCH).enumerate() {
            let at = start + number * BATCH;
            let (bytes, _) = buffer.split_at_mut(values.len() * width);
            file.read(place.offset + (at * width) as u64, bytes)?;
            place.stored.widen(bytes, values);
            self.profile.round(values);
            if !are_finite(values) {
                let within = values.iter().position(|value| !value.is_finite()).unwrap_or(0);
                let (path, name) = (file.path.clone(), place.name.clone());
                return Err(CheckpointError::NotFinite { path, name, index: at + within, value: values[within] });
            }
        }
        Ok(())
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
            return Err(CheckpointError::NoFile { path: single });
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
