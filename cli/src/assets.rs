//! Tokenizers and chat templates that transcripts share: each is read once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use assay_audit::assets::ModelAssets;
use assay_audit::prompt::{MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::OwnFault;

use crate::files::unreadable;
use crate::outcome::Fault;

/// So many models' assets are kept; transcripts of more in turn are read again.
const KEPT: usize = 16;

/// What a file's assets follow from: both digests, and whether the file carries them itself. A file that
/// does not, and whose folder does not either, has none, whatever others carry.
type Key = ([u8; 32], Option<[u8; 32]>, bool, bool);

/// The assets of transcripts.
#[derive(Debug)]
pub(crate) struct Assets {
    folder: Option<PathBuf>,
    kept: Mutex<VecDeque<(Key, Arc<ModelAssets>)>>,
}

impl Assets {
    /// Of transcripts that may name some by digest, to be found in `folder`.
    pub(crate) fn new(folder: Option<&Path>) -> Result<Self, Fault> {
        match folder {
            Some(folder) if !folder.is_dir() => Err(Fault::usage(format!(
                "{}: no such folder: --assets names the one that holds assets",
                folder.display()
            ))),
            _ => Ok(Self { folder: folder.map(Path::to_owned), kept: Mutex::default() }),
        }
    }

    /// The assets of one transcript, or why there are none.
    pub(crate) fn of(&self, file: &TranscriptFile) -> Result<Result<Arc<ModelAssets>, OwnFault>, Fault> {
        let manifest = &file.manifest;
        let inline = (file.tokenizer.is_some(), file.chat_template.is_some());
        let key = (manifest.tokenizer, manifest.chat_template, inline.0, inline.1);
        let known = self.kept().iter().find(|(known, _)| *known == key).map(|(_, assets)| Arc::clone(assets));
        if let Some(known) = known {
            return Ok(Ok(known));
        }
        let found = self.find(file)?;
        let assets =
            file.assets(&|digest| found.iter().find(|bytes| blake3::hash(bytes).as_bytes() == digest).cloned());
        Ok(assets.map(|assets| {
            let assets = Arc::new(assets);
            let mut kept = self.kept();
            kept.truncate(KEPT - 1);
            kept.push_front((key, Arc::clone(&assets)));
            assets
        }))
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, VecDeque<(Key, Arc<ModelAssets>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks up the files that a transcript names by digest only.
    ///
    /// The folder holds each under its BLAKE3 digest in hexadecimal. One that cannot be read, or whose content is
    /// another, is damaged, which must not pass for one that is not there.
    fn find(&self, file: &TranscriptFile) -> Result<Vec<Vec<u8>>, Fault> {
        let Some(folder) = &self.folder else { return Ok(vec![]) };
        let tokenizer = file.tokenizer.is_none().then_some((file.manifest.tokenizer, MAX_TOKENIZER_BYTES));
        let template = file.manifest.chat_template.filter(|_| file.chat_template.is_none());
        let template = template.map(|digest| (digest, MAX_TEMPLATE_BYTES));
        let mut found = vec![];
        for (digest, most) in [tokenizer, template].into_iter().flatten() {
            let path = folder.join(hex::encode(digest));
            let bytes = match assay_files::read(&path, most as u64) {
                Ok(bytes) => bytes,
                Err(error) if error.is_missing() => continue,
                Err(error) => return Err(unreadable(&path, &error)),
            };
            if *blake3::hash(&bytes).as_bytes() != digest {
                return Err(Fault::damaged(format!(
                    "{}: its content is not what its name says: fetch it again",
                    path.display()
                )));
            }
            found.push(bytes);
        }
        Ok(found)
    }
}
