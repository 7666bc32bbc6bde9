//! What must not be forgotten between a commit of weights and their reveal.
//!
//! A commit is written down before it is submitted, so that whatever happens between, there is nothing on
//! chain that this process cannot reveal, and nothing is committed a second time because the answer to
//! the first was lost. The file is replaced as a whole, never changed in place.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use assay_commitments::Hotkey;
use assay_files::Unreadable;
use serde::{Deserialize, Serialize};

use crate::{
    error::ChainError,
    types::{Network, Uid},
};

const VERSION: u32 = 2;
/// Most bytes of the file: half a million weights.
const MAX_BYTES: u64 = 1 << 24;

/// A commit of weights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Commit {
    /// The chain, the subnet and who committed, in hexadecimal digits.
    genesis: String,
    netuid: u16,
    hotkey: String,
    /// The epoch of the commit, and the one of its reveal.
    pub(super) epoch: u64,
    pub(super) reveals: u64,
    /// By uid, as they are revealed.
    pub(super) weights: Vec<(u16, u16)>,
    pub(super) version_key: u64,
    /// What the hash is salted with; none where the weights are encrypted.
    pub(super) salt: Option<Vec<u16>>,
    /// The hash on chain, or that of the ciphertext, in hexadecimal digits.
    digest: String,
}

impl Commit {
    pub(super) fn new(
        network: Network,
        hotkey: Hotkey,
        (epoch, reveals): (u64, u64),
        weights: &[(Uid, u16)],
        version_key: u64,
        salt: Option<Vec<u16>>,
        digest: [u8; 32],
    ) -> Self {
        Self {
            genesis: network.genesis.to_string(),
            netuid: network.netuid.get(),
            hotkey: hex::encode(hotkey.as_bytes()),
            epoch,
            reveals,
            weights: weights.iter().map(|(uid, value)| (uid.get(), *value)).collect(),
            version_key,
            salt,
            digest: hex::encode(digest),
        }
    }

    pub(super) fn weights(&self) -> Vec<(Uid, u16)> {
        self.weights.iter().map(|(uid, value)| (Uid::new(*uid), *value)).collect()
    }

    /// Whether this is the commit of a digest.
    pub(super) fn is_of(&self, digest: &[u8; 32]) -> bool {
        self.digest == hex::encode(digest)
    }

    fn is_by(&self, network: Network, hotkey: Hotkey) -> bool {
        self.genesis == network.genesis.to_string()
            && self.netuid == network.netuid.get()
            && self.hotkey == hex::encode(hotkey.as_bytes())
    }
}

/// What begins a journal of any version.
#[derive(Deserialize)]
struct Announced {
    version: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    commits: Vec<Commit>,
}

/// The commits that are not revealed yet, in a file or, without one, as long as the process lives.
#[derive(Debug)]
pub(super) struct Journal {
    path: Option<PathBuf>,
    commits: Mutex<Vec<Commit>>,
}

impl Journal {
    /// Reads the file, if there is one already.
    ///
    /// # Errors
    /// [`ChainError::Journal`], [`ChainError::DamagedJournal`].
    pub(super) fn open(path: Option<PathBuf>) -> Result<Self, ChainError> {
        let commits = path.as_deref().map_or(Ok(Vec::new()), read)?;
        Ok(Self { path, commits: Mutex::new(commits) })
    }

    /// The commits of a hotkey, oldest first.
    pub(super) fn of(&self, network: Network, hotkey: Hotkey) -> Vec<Commit> {
        self.commits().iter().filter(|commit| commit.is_by(network, hotkey)).cloned().collect()
    }

    /// Writes a commit down, before it is submitted.
    ///
    /// # Errors
    /// [`ChainError::Journal`]: then nothing may be submitted.
    pub(super) fn add(&self, commit: Commit) -> Result<(), ChainError> {
        let mut commits = self.commits();
        let mut kept = commits.clone();
        kept.push(commit);
        self.write(&kept)?;
        *commits = kept;
        Ok(())
    }

    /// Forgets a hotkey's commits that are over.
    ///
    /// # Errors
    /// [`ChainError::Journal`].
    pub(super) fn retain(
        &self,
        network: Network,
        hotkey: Hotkey,
        wanted: impl Fn(&Commit) -> bool,
    ) -> Result<(), ChainError> {
        let mut commits = self.commits();
        let kept: Vec<Commit> =
            commits.iter().filter(|commit| !commit.is_by(network, hotkey) || wanted(commit)).cloned().collect();
        if kept.len() < commits.len() {
            self.write(&kept)?;
            *commits = kept;
        }
        Ok(())
    }

    fn commits(&self) -> MutexGuard<'_, Vec<Commit>> {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, commits: &[Commit]) -> Result<(), ChainError> {
        let Some(path) = &self.path else { return Ok(()) };
        let wrong = |why: String| ChainError::Journal { path: path.display().to_string(), why };
        let file = File { version: VERSION, commits: commits.to_vec() };
        let text = serde_json::to_vec_pretty(&file).map_err(|error| wrong(error.to_string()))?;
        replace(path, &assay_files::with_checksum(&text)).map_err(|error| wrong(error.to_string()))
    }
}

fn read(path: &Path) -> Result<Vec<Commit>, ChainError> {
    let name = || path.display().to_string();
    let damaged = |why: String| ChainError::DamagedJournal { path: name(), why };
    let text = match assay_files::read(path, MAX_BYTES) {
        Ok(text) => text,
        Err(error) if error.is_missing() => return Ok(Vec::new()),
        Err(Unreadable::Io(error)) => return Err(ChainError::Journal { path: name(), why: error.to_string() }),
        Err(error @ (Unreadable::NoFile(_) | Unreadable::TooLong { .. })) => return Err(damaged(error.to_string())),
    };
    let other = serde_json::from_slice(&text).ok().filter(|Announced { version }| *version != VERSION);
    if let Some(Announced { version }) = other {
        return Err(damaged(format!(
            "version {version} of the journal is not known here; let the version of assay that wrote it reveal its commits, or move it away to go on without them"
        )));
    }
    let advice = "this is no journal of commits; without it, commits that wait cannot be revealed. Restore it, or move it away to go on without them";
    let object = assay_files::without_checksum(&text)
        .ok_or_else(|| damaged(format!("it does not hold what was written; {advice}")))?;
    let file: File = serde_json::from_slice(&object).map_err(|error| damaged(format!("{error}; {advice}")))?;
    Ok(file.commits)
}

/// Replaces a file, so that it is there whole at any moment. Only its owner may read it: salts are secret
/// until their reveal.
fn replace(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = folder.join(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&fresh)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    // The new name lasts once the folder is written.
    #[cfg(unix)]
    fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{GenesisHash, NetUid};

    fn network(netuid: u16) -> Network {
        Network { genesis: GenesisHash::new([1; 32]), netuid: NetUid::new(netuid) }
    }

    fn commit(netuid: u16, hotkey: u8, epoch: u64) -> Commit {
        let weights = [(Uid::new(3), 65_535)];
        let salt = Some(vec![1, 2, 3]);
        Commit::new(network(netuid), Hotkey::new([hotkey; 32]), (epoch, epoch + 1), &weights, 5, salt, [9; 32])
    }

    #[test]
    fn what_was_written_down_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/commits.json");
        let journal = Journal::open(Some(path.clone())).unwrap();
        journal.add(commit(1, 7, 4)).unwrap();
        journal.add(commit(1, 7, 5)).unwrap();
        journal.add(commit(2, 7, 5)).unwrap();
        drop(journal);

        let journal = Journal::open(Some(path.clone())).unwrap();
        let hotkey = Hotkey::new([7; 32]);
        assert_eq!(journal.of(network(1), hotkey), [commit(1, 7, 4), commit(1, 7, 5)]);
        journal.retain(network(1), hotkey, |commit| commit.reveals > 5).unwrap();
        let journal = Journal::open(Some(path)).unwrap();
        assert_eq!(journal.of(network(1), hotkey), [commit(1, 7, 5)]);
        assert_eq!(journal.of(network(2), hotkey), [commit(2, 7, 5)]);
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_read_salts() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("commits.json");
        Journal::open(Some(path.clone())).unwrap().add(commit(1, 7, 4)).unwrap();
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_journal_is_never_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("commits.json");
        fs::write(&path, "{\"version\": 1, \"commits\": [").unwrap();
        assert!(matches!(Journal::open(Some(path.clone())), Err(ChainError::DamagedJournal { .. })));
        for version in [1, 3] {
            fs::write(&path, format!("{{\"version\": {version}, \"commits\": []}}")).unwrap();
            let error = Journal::open(Some(path.clone())).unwrap_err();
            assert!(matches!(error, ChainError::DamagedJournal { .. }), "{error}");
            assert!(error.to_string().contains("let the version of assay that wrote it"), "{error}");
        }
        fs::File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let error = Journal::open(Some(path)).unwrap_err();
        assert!(matches!(error, ChainError::DamagedJournal { .. }), "{error}");
        assert!(error.to_string().contains("is longer than the 16777216 bytes"), "{error}");
    }

    /// Other weights than were committed to would be refused in the one epoch in which they can be revealed.
    #[test]
    fn a_bit_that_turned_anywhere_in_the_journal_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("commits.json");
        Journal::open(Some(path.clone())).unwrap().add(commit(1, 7, 4)).unwrap();
        let whole = fs::read(&path).unwrap();
        for bit in 0..8 * whole.len() {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, damaged).unwrap();
            let opened = Journal::open(Some(path.clone()));
            assert!(matches!(opened, Err(ChainError::DamagedJournal { .. })), "bit {bit}");
        }
        fs::write(&path, whole).unwrap();
        let network = network(1);
        assert_eq!(Journal::open(Some(path)).unwrap().of(network, Hotkey::new([7; 32])), [commit(1, 7, 4)]);
    }

    #[test]
    fn where_nothing_can_be_written_nothing_is_taken_for_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a file");
        fs::write(&path, "").unwrap();
        let journal = Journal::open(Some(path.join("commits.json")));
        if let Ok(journal) = journal {
            assert!(matches!(journal.add(commit(1, 7, 4)), Err(ChainError::Journal { .. })));
            assert!(journal.of(network(1), Hotkey::new([7; 32])).is_empty());
        }
    }
}
