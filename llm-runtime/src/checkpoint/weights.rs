//! Safetensors files to f32 tensors.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use assay_audit::model::{LayerTensors, ModelTensors};
use assay_commitments::manifest::{Architecture, Matrix};
use half::f16;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::error::CheckpointError;
use super::{names, optional};
use crate::numerics::Numerics;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// All tensors of a folder, in the precision of `numerics`.
pub(super) fn read(
    folder: &Path,
    architecture: &Architecture,
    numerics: Numerics,
) -> Result<ModelTensors, CheckpointError> {
    let Files { paths, places } = Files::find(folder)?;
    let maps = paths.iter().map(|path| map(path)).collect::<Result<Vec<_>, _>>()?;
    let mut files = Vec::with_capacity(maps.len());
    for (path, map) in paths.iter().zip(&maps) {
        let tensors =
            SafeTensors::deserialize(map).map_err(|source| CheckpointError::Weights { path: path.clone(), source })?;
        files.push((path.as_path(), tensors));
    }
    let weights = Weights { files, places, numerics };

    let hidden = architecture.hidden as usize;
    let table = [architecture.vocab_size as usize, hidden];
    let layers = (0..architecture.layers as usize).map(|layer| weights.layer(architecture, layer));
    Ok(ModelTensors {
        embeddings: weights.tensor(names::EMBEDDINGS, &table)?,
        layers: layers.collect::<Result<_, _>>()?,
        final_norm: weights.tensor(names::FINAL_NORM, &[hidden])?,
        head: if architecture.tied { None } else { Some(weights.tensor(names::HEAD, &table)?) },
    })
}

/// The weight files of a folder.
struct Files {
    paths: Vec<PathBuf>,
    /// Which file holds a tensor; `None` when there is but one.
    places: Option<HashMap<String, usize>>,
}

impl Files {
    /// The one file of weights, or else those that the index names.
    fn find(folder: &Path) -> Result<Self, CheckpointError> {
        let single = folder.join(SINGLE);
        if single.exists() {
            return Ok(Self { paths: vec![single], places: None });
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
        Ok(Self { paths: names.into_iter().map(|name| folder.join(name)).collect(), places: Some(places) })
    }
}

fn map(path: &Path) -> Result<Mmap, CheckpointError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => CheckpointError::NoFile { path: path.to_owned() },
        _ => CheckpointError::Io { path: path.to_owned(), source },
    })?;
    #[expect(unsafe_code, reason = "a copy of the file would double the memory that loading takes")]
    // SAFETY: the mapping is read-only and lives as long as the loading takes. Should another
    // process change or cut the file meanwhile, weights would be wrong or the process would end by a
    // signal; model folders are not written to while they are served, as with every loader that maps.
    let mapped = unsafe { Mmap::map(&file) };
    mapped.map_err(|source| CheckpointError::Io { path: path.to_owned(), source })
}

struct Weights<'a> {
    files: Vec<(&'a Path, SafeTensors<'a>)>,
    places: Option<HashMap<String, usize>>,
    numerics: Numerics,
}

impl Weights<'_> {
    fn layer(&self, architecture: &Architecture, layer: usize) -> Result<LayerTensors, CheckpointError> {
        let hidden = [architecture.hidden as usize];
        let [q, k, v, o, gate, up, down] = Matrix::ALL.map(|matrix| {
            self.tensor(&names::of_layer(layer, names::part(matrix)), &names::shape(architecture, matrix))
        });
        Ok(LayerTensors {
            input_norm: self.tensor(&names::of_layer(layer, names::INPUT_NORM), &hidden)?,
            post_norm: self.tensor(&names::of_layer(layer, names::POST_NORM), &hidden)?,
            matrices: [q?, k?, v?, o?, gate?, up?, down?],
        })
    }

    /// A tensor of `shape`, row by row.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, CheckpointError> {
        let place = self.places.as_ref().map_or(Some(0), |places| places.get(name).copied());
        let (path, tensors) = &self.files[place.unwrap_or(0)];
        let path = || (*path).to_owned();
        let missing = || CheckpointError::MissingTensor { path: path(), name: name.to_owned() };
        let view = place.and_then(|_| tensors.tensor(name).ok()).ok_or_else(missing)?;
        if view.shape() != shape {
            let (found, expected) = (view.shape().to_vec(), shape.to_vec());
            return Err(CheckpointError::Shape { path: path(), name: name.to_owned(), found, expected });
        }
        let mut values = decode(view.dtype(), view.data()).ok_or_else(|| CheckpointError::Dtype {
            path: path(),
            name: name.to_owned(),
            found: format!("{:?}", view.dtype()),
        })?;
        self.numerics.round(&mut values);
        match values.iter().position(|value| !value.is_finite()) {
            None => Ok(values),
            Some(index) => {
                Err(CheckpointError::NotFinite { path: path(), name: name.to_owned(), index, value: values[index] })
            }
        }
    }
}

fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let halves = || bytes.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Dtype::F16 => Some(halves().map(|bits| f16::from_bits(bits).to_f32()).collect()),
        Dtype::BF16 => Some(halves().map(assay_commitments::rows::bf16_value).collect()),
        _ => None,
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
            assert_eq!(decode(dtype, &bytes), Some(vec![-1.5]), "{dtype:?}");
        }
        assert_eq!(decode(Dtype::I8, &[1]), None);
    }
}
