//! Tokenizers and chat templates that transcripts share: each is read once.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use assay_audit::assets::ModelAssets;
use assay_audit::prompt::{MAX_TEMPLATE_BYTES, MAX_TOKENIZER_BYTES};
use assay_audit::transcript_file::TranscriptFile;
use assay_audit::verdict::OwnFault;

use crate::files::{lacking, unreadable};
use crate::outcome::Fault;

/// So many models' assets are kept; transcripts of more in turn are read again.
const KEPT: usize = 16;

/// What a file's assets follow from: both digests, and whether the file carries them itself. A file that
/// does not, and that no folder has either, has none, whatever others carry.
type Key = ([u8; 32], Option<[u8; 32]>, bool, bool);

/// The assets of transcripts.
#[derive(Debug)]
pub(crate) struct Assets {
    folders: Vec<PathBuf>,
    kept: Mutex<VecDeque<(Key, Arc<ModelAssets>)>>,
}

impl Assets {
    /// Of transcripts that may name some by digest: they are in `folder`, or without it where a validator puts them,
    /// in `assets` within the folders among the `audited`.
    pub(crate) fn new(folder: Option<&Path>, audited: &[PathBuf]) -> Result<Self, Fault> {
        let folders = match folder {
            Some(folder) => {
                if let Some(why) = lacking(folder) {
                    let folder = folder.display();
                    return Err(Fault::usage(format!("{folder}: {why}: --assets names the one that holds assets")));
                }
                vec![folder.to_owned()]
            }
            None => audited.iter().map(|path| path.join("assets")).filter(|beside| beside.is_dir()).collect(),
        };
        Ok(Self { folders, kept: Mutex::default() })
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
    /// A folder holds each under its BLAKE3 digest in hexadecimal. One that cannot be read, or whose content is
    /// another, is damaged, which must not pass for one that is not there.
    fn find(&self, file: &TranscriptFile) -> Result<Vec<Vec<u8>>, Fault> {
        let tokenizer = file.tokenizer.is_none().then_some((file.manifest.tokenizer, MAX_TOKENIZER_BYTES));
        let template = file.manifest.chat_template.filter(|_| file.chat_template.is_none());
        let template = template.map(|digest| (digest, MAX_TEMPLATE_BYTES));
        let mut found = vec![];
        let wanted = [tokenizer, template].into_iter().flatten();
        for ((digest, most), folder) in wanted.flat_map(|asset| self.folders.iter().map(move |folder| (asset, folder)))
        {
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
