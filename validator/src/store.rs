//! Every transcript, as a file.

use std::path::{Path, PathBuf};

use assay_audit::epoch_log::{EpochLog, MAX_LOG_BYTES};
use assay_audit::keys::Keypair;
use assay_audit::request::Network;
use assay_audit::transcript_file::{Conclusion, MAX_FILE_BYTES, TranscriptFile};
use assay_commitments::{Epoch, Hotkey};

use crate::atomic::{self, Readers};
use crate::disk;
use crate::error::StorageError;
use crate::model::VerifierModel;
use crate::owner::Owner;

/// The name of an epoch's log.
pub const LOG_NAME: &str = "epoch.log";

/// Transcripts under one directory: `epoch-N/<miner's hotkey>-<counter>-<verdict>.assay`, after the epoch its log
/// beside them, `epoch-N/epoch.log`, and under `assets/` the tokenizers and chat templates that they name, each once,
/// by the hex of its digest.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Opens a store, or begins one.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(root: &Path) -> Result<Self, StorageError> {
        disk::make_directory(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// Where it lies.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Keeps a transcript; when this returns, it is on disk. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`]; nothing kept before is touched.
    pub fn save(&self, file: &TranscriptFile) -> Result<PathBuf, StorageError> {
        let request = &file.record.request;
        let path = self.path(request.epoch, &request.miner, request.counter, file.receipt.conclusion);
        // A validator's counters never repeat on its network: this is another one's.
        if path.exists() {
            return Err(StorageError::Taken(path));
        }
        self.write(&path, &file.encode())?;
        Ok(path)
    }

    /// The transcript of a validator's session, if it was kept whole. Blocks on the disk.
    pub(crate) fn find(
        &self,
        (network, validator): (Network, &Hotkey),
        epoch: Epoch,
        miner: &Hotkey,
        counter: u64,
    ) -> Option<TranscriptFile> {
        let verdicts = ["accepted", "rejected", "inconclusive"];
        let paths = verdicts.map(|verdict| self.named(epoch, miner, counter, verdict));
        let read = |path: &PathBuf| assay_files::read(path, MAX_FILE_BYTES as u64).ok();
        let mut files = paths.iter().filter_map(|path| TranscriptFile::decode(&read(path)?).ok());
        // The name tells nothing of network and validator.
        files.find(|file| {
            let request = &file.record.request;
            (request.network, &request.validator) == (network, validator)
                && (request.epoch, &request.miner, request.counter) == (epoch, miner, counter)
        })
    }

    /// Keeps the files that transcripts of a model may name without carrying them. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn save_assets(&self, model: &VerifierModel) -> Result<(), StorageError> {
        let manifest = model.manifest();
        let template = manifest.chat_template.as_ref().zip(model.chat_template());
        for (digest, asset) in std::iter::once((&manifest.tokenizer, model.tokenizer())).chain(template) {
            let path = self.root.join("assets").join(hex::encode(digest));
            // One that was damaged would leave every transcript that names it without a verdict.
            if assay_files::read(&path, asset.len() as u64).ok().as_deref() != Some(asset) {
                self.write(&path, asset)?;
            }
        }
        Ok(())
    }

    /// Keeps an epoch's log beside its transcripts. Blocks on the disk.
    ///
    /// # Errors
    /// [`StorageError`], [`StorageError::Foreign`] if another validator's lies there, which is not touched.
    pub fn save_log(&self, log: &EpochLog, keys: &Keypair) -> Result<(), StorageError> {
        let path = self.root.join(format!("epoch-{}", log.epoch)).join(LOG_NAME);
        // What is no log says of nobody what he asked: the new one is better.
        let there = assay_files::read(&path, MAX_LOG_BYTES as u64).ok();
        if let Some(there) = there.and_then(|bytes| EpochLog::decode_signed(&bytes).ok()) {
            let owner = |log: &EpochLog| Owner::new(log.network, &log.validator);
            owner(&there).check(&owner(log), &path)?;
        }
        self.write(&path, &log.encode_signed(keys))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), StorageError> {
        let directory = path.parent().unwrap_or(&self.root);
        disk::make_directory(directory)?;
        atomic::write(path, bytes, Readers::All)
    }

    fn path(&self, epoch: Epoch, miner: &Hotkey, counter: u64, conclusion: Conclusion) -> PathBuf {
        let verdict = match conclusion {
            Conclusion::Accepted => "accepted",
            Conclusion::Rejected(_) => "rejected",
            Conclusion::Inconclusive(_) => "inconclusive",
        };
        self.named(epoch, miner, counter, verdict)
    }

    fn named(&self, epoch: Epoch, miner: &Hotkey, counter: u64, verdict: &str) -> PathBuf {
        self.root.join(format!("epoch-{epoch}")).join(format!("{miner}-{counter}-{verdict}.assay"))
    }
}

#[cfg(test)]
mod tests {
    use assay_audit::verdict::Reason;

    use super::*;

    #[test]
    fn names_tell_epoch_miner_counter_and_verdict() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let path = |miner| store.path(Epoch::new(4), &miner, 17, Conclusion::Rejected(Reason::C9));
        let name = format!("epoch-4/{}-17-rejected.assay", "ab".repeat(32));
        assert_eq!(path(Hotkey::new([0xab; 32])), directory.path().join(name));
        // Keys that begin alike are cheap to find.
        let mut alike = [0xab; 32];
        alike[31] = 0;
        assert_ne!(path(Hotkey::new(alike)), path(Hotkey::new([0xab; 32])));
    }

    #[test]
    fn a_log_of_another_validator_or_network_is_not_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let [keys, others] = [[1; 32], [2; 32]].map(|seed| Keypair::from_seed(seed).unwrap());
        let log = |keys: &Keypair, netuid, key| EpochLog {
            network: Network { genesis: [6; 32], netuid },
            validator: keys.hotkey(),
            epoch: Epoch::new(4),
            key: [key; 32],
            requests: [].into(),
        };
        let path = directory.path().join("epoch-4").join(LOG_NAME);
        let kept = || EpochLog::decode_signed(&std::fs::read(&path).unwrap()).unwrap();
        store.save_log(&log(&keys, 7, 1), &keys).unwrap();
        for (other, netuid, what) in [(&others, 7, "of hotkey"), (&keys, 8, "of subnet 7")] {
            let error = store.save_log(&log(other, netuid, 1), other).unwrap_err();
            assert!(matches!(error, StorageError::Foreign { .. }) && error.to_string().contains(what), "{error}");
            assert_eq!(kept(), log(&keys, 7, 1));
        }
        // One's own is written again, after a crash for instance, and so is what is no log.
        store.save_log(&log(&keys, 7, 2), &keys).unwrap();
        std::fs::write(&path, b"torn").unwrap();
        store.save_log(&log(&keys, 7, 3), &keys).unwrap();
        assert_eq!(kept(), log(&keys, 7, 3));
    }

    #[test]
    fn a_store_that_cannot_be_written_says_where() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = Store::open(&file.join("store")).unwrap_err().to_string();
        assert!(error.contains("store") && !error.contains('\n'), "{error}");
    }
}
