//! Identifies weights by a hash of all their bytes, and notices if they change.
//!
//! Hashing reads every byte. That takes seconds for a model of 7 billion parameters, and longer from a cold disk, so the hash of
//! a large file is remembered. It is trusted only if the file is the same one (device, inode) and has the same length, the same
//! times to the nanosecond (mtime and ctime) and the same bytes in some blocks. No program can set ctime: the system sets it at
//! every write. A file that was written a moment ago is hashed, but its hash is not remembered, because a second write within one
//! tick of the file system's clock would go unseen.

use super::error::CacheError;
use align_data::store::stamp::Stamp;
use align_engine::new_file::NewFile;
use align_engine::weights::{MappedFile, WeightFiles};
use blake3::{Hash, Hasher};
use std::fs;
use std::path::{Path, PathBuf};

/// Files with fewer bytes than this are hashed each time, which takes less than a tenth of a second.
const REMEMBERED_FROM: u64 = 256 << 20;
/// About how many blocks of a file have their bytes compared before a remembered hash is trusted.
const BLOCKS: usize = 256;
const BLOCK: usize = 4096;

/// The weights of a run, as they were when it began.
#[derive(Debug)]
pub(super) struct WatchedWeights {
    files: Vec<Watched>,
}

#[derive(Debug)]
struct Watched {
    file: MappedFile,
    /// `None` if the file was not hashed.
    hash: Option<Hash>,
    stamp: Option<Stamp>,
}

impl WatchedWeights {
    /// Watches the weights in `files` and hashes all their bytes, in the order of the files' names. The names are not hashed.
    /// Hashes of large files are looked up and kept in the directory `memory`.
    ///
    /// # Errors
    /// [`CacheError::Io`] if the metadata of a file cannot be read.
    pub(super) fn hashed(files: &WeightFiles, memory: &Path) -> Result<(WatchedWeights, Hash), CacheError> {
        Self::hashed_with(files, memory, REMEMBERED_FROM)
    }

    fn hashed_with(
        files: &WeightFiles,
        memory: &Path,
        remembered_from: u64,
    ) -> Result<(WatchedWeights, Hash), CacheError> {
        let mut weights = Self::unhashed(files)?;
        let mut all = Hasher::new();
        for Watched { file, hash, stamp } in &mut weights.files {
            let large = file.bytes().len() as u64 >= remembered_from;
            let found = match stamp.as_ref().filter(|stamp| large && stamp.is_settled()) {
                Some(stamp) => remembered(memory, file, stamp),
                None => hash_of(file),
            };
            all.update(found.as_bytes());
            *hash = Some(found);
        }
        Ok((weights, all.finalize()))
    }

    /// Watches the weights in `files` without hashing them.
    ///
    /// # Errors
    /// As [`WatchedWeights::hashed`].
    pub(super) fn unhashed(files: &WeightFiles) -> Result<WatchedWeights, CacheError> {
        let watch = |file: &MappedFile| {
            let io = |source| CacheError::Io { path: file.path().to_owned(), action: "read it", source };
            Ok(Watched { file: file.clone(), hash: None, stamp: Some(Stamp::of(&file.metadata().map_err(io)?)) })
        };
        let files = files.shards().iter().map(|shard| watch(shard.mapped())).collect::<Result<_, CacheError>>()?;
        Ok(WatchedWeights { files })
    }

    /// Returns the first file that has changed. A file whose times or length have changed is hashed again. It counts as changed
    /// only if its hash differs, if it had no hash, or if it is shorter than before.
    pub(super) fn changed(&mut self) -> Option<PathBuf> {
        let changed = |watched: &mut Watched| {
            let now = watched.file.metadata().ok().map(|metadata| Stamp::of(&metadata));
            if now == watched.stamp && now.is_some() {
                return false;
            }
            // if the file became shorter, part of the mapping can no longer be read
            let long_enough =
                watched.file.metadata().is_ok_and(|metadata| metadata.len() >= watched.file.bytes().len() as u64);
            watched.stamp = now;
            !long_enough || watched.hash.is_none_or(|hash| hash_of(&watched.file) != hash)
        };
        self.files.iter_mut().find_map(|watched| changed(watched).then(|| watched.file.path().to_owned()))
    }
}

fn hash_of(file: &MappedFile) -> Hash {
    Hasher::new().update_rayon(file.bytes()).finalize()
}

/// Returns the remembered hash of a file. If there is none, hashes the file and remembers the hash in `folder`.
fn remembered(folder: &Path, file: &MappedFile, stamp: &Stamp) -> Hash {
    let path = folder.join(format!("{}.weights", identity(file.bytes(), stamp)));
    let check = |hash: &[u8]| Hasher::new().update(path.as_os_str().as_encoded_bytes()).update(hash).finalize();
    if let Ok(bytes) = fs::read(&path)
        && let Some((hash, sum)) = bytes.split_first_chunk::<32>()
        && check(hash).as_bytes() == sum
    {
        return Hash::from_bytes(*hash);
    }
    let hash = hash_of(file);
    // if this fails, the next run hashes the file again
    let _ = NewFile::whole(&path, &[*hash.as_bytes(), *check(hash.as_bytes()).as_bytes()].concat());
    hash
}

/// Returns a name for the state of a file: a hash of its stamp and of some blocks of its bytes.
fn identity(bytes: &[u8], stamp: &Stamp) -> Hash {
    let mut hasher = Hasher::new();
    for number in stamp.numbers() {
        hasher.update(&number.to_le_bytes());
    }
    let stride = (bytes.len() / BLOCKS).max(BLOCK);
    for block in bytes.chunks(stride) {
        hasher.update(&block[..block.len().min(BLOCK)]);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use align_engine::weights::{Dtype, SafetensorsWriter, TensorSpec, ValueCheck};
    use std::collections::BTreeMap;
    use std::fs::{File, FileTimes, OpenOptions};
    use std::io::{Seek, SeekFrom, Write};
    use std::time::Duration;

    const ELEMENTS: usize = 1 << 20;

    fn model(folder: &Path) -> PathBuf {
        let path = folder.join("model.safetensors");
        let spec = TensorSpec { name: "a".to_owned(), dtype: Dtype::BF16, shape: vec![ELEMENTS] };
        let mut writer = SafetensorsWriter::create(&path, &BTreeMap::new(), &[spec]).unwrap();
        writer.write("a", &vec![7; 2 * ELEMENTS]).unwrap();
        writer.finish().unwrap();
        path
    }

    fn watched(folder: &Path, memory: &Path) -> (WatchedWeights, Hash) {
        WatchedWeights::hashed_with(&WeightFiles::open(folder, ValueCheck::Skip).unwrap(), memory, 1).unwrap()
    }

    /// Changes one byte in place, between the blocks that [`identity`] reads.
    fn edit(path: &Path) {
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.seek(SeekFrom::Start(ELEMENTS as u64 - 1)).unwrap();
        file.write_all(&[8]).unwrap();
    }

    fn stamp(path: &Path) -> Stamp {
        Stamp::of(&fs::metadata(path).unwrap())
    }

    #[test]
    fn one_byte_in_place_is_seen_even_with_the_old_time_of_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let nowhere = Path::new("no/such/folder");
        let (mut weights, first) = watched(folder.path(), nowhere);
        assert_eq!(weights.changed(), None);
        let times = FileTimes::new().set_modified(fs::metadata(&path).unwrap().modified().unwrap());
        // only the times change: the file is hashed again, and the hash is the same
        File::open(&path).unwrap().set_times(times).unwrap();
        assert_eq!(weights.changed(), None);

        let before = stamp(&path);
        std::thread::sleep(Duration::from_millis(20));
        edit(&path);
        File::open(&path).unwrap().set_times(times).unwrap();
        assert_eq!(weights.changed(), Some(path.clone()));
        assert_ne!(watched(folder.path(), nowhere).1, first);
        let files = WeightFiles::open(folder.path(), ValueCheck::Skip).unwrap();
        let bytes = files.shards()[0].mapped().bytes();
        assert_ne!(identity(bytes, &before), identity(bytes, &stamp(&path)), "nothing that was remembered fits");
    }

    #[test]
    fn without_a_hash_every_change_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let mut weights =
            WatchedWeights::unhashed(&WeightFiles::open(folder.path(), ValueCheck::Skip).unwrap()).unwrap();
        assert_eq!(weights.changed(), None);
        std::thread::sleep(Duration::from_millis(20));
        edit(&path);
        assert_eq!(weights.changed(), Some(path));
    }

    #[test]
    fn a_hash_is_remembered_and_a_damaged_memory_is_not_believed() {
        let folder = tempfile::tempdir().unwrap();
        let memory = tempfile::tempdir().unwrap();
        let path = model(folder.path());
        let files = WeightFiles::open(folder.path(), ValueCheck::Skip).unwrap();
        let file = files.shards()[0].mapped();
        let (stamp, want) = (stamp(&path), hash_of(file));
        let files = || fs::read_dir(memory.path()).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        assert_eq!(remembered(memory.path(), file, &stamp), want);
        let [remembering] = &files()[..] else { panic!("one file") };
        // a remembered hash is trusted if its checksum is right, even if it is the hash of other bytes
        let other = blake3::hash(b"another");
        let sum = Hasher::new().update(remembering.as_os_str().as_encoded_bytes()).update(other.as_bytes()).finalize();
        fs::write(remembering, [*other.as_bytes(), *sum.as_bytes()].concat()).unwrap();
        assert_eq!(remembered(memory.path(), file, &stamp), other);
        for damaged in [&b""[..], &[0; 64][..], &other.as_bytes()[..]] {
            fs::write(remembering, damaged).unwrap();
            assert_eq!(remembered(memory.path(), file, &stamp), want);
        }
        assert_eq!(files().len(), 1);
        assert_eq!(remembered(&folder.path().join("no/such/folder"), file, &stamp), want);
    }

    #[test]
    fn a_fresh_file_is_not_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let memory = tempfile::tempdir().unwrap();
        model(folder.path());
        watched(folder.path(), memory.path());
        assert_eq!(fs::read_dir(memory.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_hash_goes_by_the_bytes_and_not_by_the_path() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model(one.path());
        let path = model(other.path());
        let hash = |folder: &tempfile::TempDir| watched(folder.path(), Path::new("no/such/folder")).1;
        assert_eq!(hash(&one), hash(&other));
        edit(&path);
        assert_ne!(hash(&one), hash(&other));
    }
}
