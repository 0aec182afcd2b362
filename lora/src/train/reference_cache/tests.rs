//! Tests of the cache alone: what it keeps, what it drops, what its notes say.

use super::file::{CacheFile, Lookup};
use super::fingerprint::Fingerprint;
use super::record::SequenceKey;
use super::weights::WatchedWeights;
use super::{CacheCounts, CacheNote, ReferenceCache};
use crate::train::size::Size;
use align_engine::weights::{Dtype, SafetensorsWriter, TensorSpec, ValueCheck, WeightFiles};
use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

fn fingerprint(weights: &str) -> Fingerprint {
    let json = format!(
        r#"{{"program":"1","weights":{weights:?},"config":"c","reference":"base","precision":"f32","logp_temperature":1,"arithmetic":"cpu"}}"#
    );
    serde_json::from_str(&json).unwrap()
}

fn key(n: u32) -> SequenceKey {
    SequenceKey::new(&[1, 2, n], &[3], [])
}

/// Writes weights of one tensor and watches them.
fn weights(folder: &Path) -> WatchedWeights {
    let spec = TensorSpec { name: "a".to_owned(), dtype: Dtype::F32, shape: vec![2] };
    let path = folder.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &BTreeMap::new(), &[spec]).unwrap();
    writer.write("a", &[0; 8]).unwrap();
    writer.finish().unwrap();
    let files = WeightFiles::open(folder, ValueCheck::Skip).unwrap();
    WatchedWeights::hashed(&files, folder).unwrap().0
}

fn open(folder: &Path, weights_hash: &str) -> ReferenceCache {
    ReferenceCache::with(folder, &fingerprint(weights_hash), weights(folder)).unwrap()
}

fn notes(cache: &ReferenceCache) -> String {
    cache.take_notes().iter().map(|note| format!("{note}\n")).collect()
}

#[test]
fn a_key_is_the_tokens_where_the_answer_begins_and_what_is_scored() {
    let key = |prompt: &[u32], answer: &[u32], gaps: &[Range<usize>]| SequenceKey::new(prompt, answer, gaps.to_vec());
    let keys = [
        key(&[1, 2], &[3], &[]),
        key(&[1], &[2, 3], &[]),
        key(&[1, 2], &[4], &[]),
        key(&[1, 2, 3], &[], &[]),
        key(&[1, 2], &[3, 4, 5], &[]),
        key(&[1, 2], &[3, 4, 5], &[Range { start: 0, end: 1 }]),
        key(&[1, 2], &[3, 4, 5], &[Range { start: 1, end: 2 }]),
        key(&[1, 2], &[3, 4, 5], &[Range { start: 0, end: 2 }]),
        key(&[1, 2], &[3, 4, 5], &[Range { start: 0, end: 1 }, Range { start: 1, end: 2 }]),
        // prompt tokens with the same bytes as a gap
        key(&[0, 0, 1, 0, 1, 2], &[3, 4, 5], &[]),
    ];
    for (i, one) in keys.iter().enumerate() {
        for (j, other) in keys.iter().enumerate() {
            assert_eq!(one == other, i == j);
            assert_eq!(one.short() == other.short(), i == j);
        }
    }
}

#[test]
fn what_was_put_is_got_bit_for_bit_also_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let logps = [-0.0f32, -1.5e-40, -3.25, f32::MIN];
    let wanted = [(key(1), 4), (key(2), 1), (key(3), 0)];
    let first = open(folder.path(), "a");
    assert_eq!(first.get(&wanted), [None, None, None]);
    first.put(&[(key(1), &logps), (key(3), &[])]);
    first.put(&[(key(1), &[-9.0; 4])]);
    let bits = |found: &Option<Vec<f32>>| found.as_ref().map(|l| l.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
    let want = Some(logps.map(f32::to_bits).to_vec());
    let got = first.get(&wanted);
    assert_eq!(got.iter().map(bits).collect::<Vec<_>>(), [want.clone(), None, Some(Vec::new())], "the first stays");
    assert_eq!(first.counts(), CacheCounts { read: 2, computed: 4 });
    assert!(!first.wants_comparison(), "these are its own numbers");
    drop(first);

    let second = open(folder.path(), "a");
    assert_eq!(second.found(), 2);
    assert!(second.wants_comparison());
    assert_eq!(second.get(&wanted).iter().map(bits).collect::<Vec<_>>(), [want, None, Some(Vec::new())]);
    assert_eq!(second.holds(&[key(1), key(2)]), [true, false]);
    assert_eq!(second.get(&[(key(1), 3)]), [None], "another number of tokens is another answer");
    assert_eq!(notes(&second), "", "and no damage");
    assert_eq!(second.get(&[(key(3), 0)]), [Some(Vec::new())], "the file is read all the same");
    assert_eq!(open(folder.path(), "b").found(), 0);
}

#[test]
fn numbers_that_differ_in_one_bit_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), "a").put(&[(key(1), &[-1.0, -2.0]), (key(2), &[-3.0])]);
    let same = open(folder.path(), "a");
    same.compare(&[(key(3), &[-1.0])]);
    assert!(same.wants_comparison(), "an answer that is not there compares nothing");
    same.compare(&[(key(1), &[-1.0, -2.0])]);
    assert!(!same.wants_comparison());
    assert_eq!(notes(&same), "");
    assert_eq!(same.holds(&[key(2)]), [true]);
    drop(same);

    let other = open(folder.path(), "a");
    other.compare(&[(key(1), &[-1.0, f32::from_bits((-2.0f32).to_bits() + 1)])]);
    assert!(notes(&other).contains("not those that the model gives"));
    assert_eq!(other.holds(&[key(1), key(2)]), [false, false]);
    other.put(&[(key(2), &[-4.0])]);
    drop(other);
    let next = open(folder.path(), "a");
    assert_eq!((next.found(), next.get(&[(key(2), 1)])), (1, vec![Some(vec![-4.0])]));
}

#[test]
fn numbers_that_are_not_finite_are_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), "a");
    cache.put(&[(key(1), &[f32::NAN]), (key(2), &[-1.0, f32::NEG_INFINITY]), (key(3), &[-1.0])]);
    assert_eq!(cache.holds(&[key(1), key(2), key(3)]), [false, false, true]);
}

#[test]
fn weights_that_change_in_the_middle_of_a_run_close_it() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), "a");
    cache.put(&[(key(1), &[-1.0])]);
    std::thread::sleep(Duration::from_millis(20));
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    cache.put(&[(key(2), &[-2.0])]);
    assert_eq!(cache.get(&[(key(1), 1), (key(2), 1)]), [None, None]);
    let said = notes(&cache);
    assert!(said.contains("model.safetensors has changed"), "{said}");
    assert!(said.contains("this run's numbers from here on") && said.contains("start it again"), "{said}");
    assert_eq!(said.lines().count(), 1, "once: {said}");
    drop(cache);
    assert_eq!(open(folder.path(), "a").found(), 1, "what came before the change stays");
}

#[test]
fn a_record_that_is_damaged_meanwhile_is_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let cache = open(folder.path(), "a");
    cache.put(&[(key(1), &[-1.0]), (key(2), &[-2.0])]);
    let path = cache.path().unwrap().to_owned();
    let mut bytes = fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(cache.get(&[(key(1), 1), (key(2), 1)]), [Some(vec![-1.0]), None]);
    assert!(notes(&cache).contains("changes while it is used"));
    cache.put(&[(key(2), &[-2.0])]);
    assert_eq!(cache.get(&[(key(2), 1)]), [Some(vec![-2.0])], "from memory");
}

#[test]
fn the_memory_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    weights(folder.path());
    let cache = ReferenceCache::in_memory(&WeightFiles::open(folder.path(), ValueCheck::Skip).unwrap()).unwrap();
    assert_eq!(cache.place(), super::CachePlace::Memory);
    assert!(cache.memory_limit() < u64::MAX, "without being told");
    cache.limit_memory(super::in_memory(2, 6));
    cache.put(&[(key(1), &[-1.0; 3]), (key(2), &[-2.0; 3]), (key(3), &[-3.0])]);
    cache.put(&[(key(4), &[-4.0])]);
    assert_eq!(cache.holds(&[key(1), key(2), key(3), key(4)]), [true, true, false, false]);
    let said = notes(&cache);
    assert!(said.contains("is full"), "{said}");
    assert_eq!(said.lines().count(), 1, "once: {said}");
}

#[test]
fn rows_of_another_fingerprint_are_named_once() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path(), "a").put(&[(key(1), &[-1.0]), (key(2), &[-2.0])]);
    let other = open(folder.path(), "b");
    assert_eq!(other.get(&[(key(2), 1)]), [None]);
    let said = notes(&other);
    assert!(said.contains("other numbers (the weights)"), "{said}");
    other.get(&[(key(1), 1)]);
    assert_eq!(notes(&other), "");
    drop(other);
    let unrelated = open(folder.path(), "c");
    unrelated.get(&[(key(9), 1)]);
    assert_eq!(notes(&unrelated), "");
}

#[test]
fn a_directory_in_place_of_the_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = open(folder.path(), "a").path().unwrap().to_owned();
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    let error = ReferenceCache::with(folder.path(), &fingerprint("a"), weights(folder.path())).unwrap_err();
    assert!(error.to_string().contains("is not a regular file"), "{error}");
}

#[test]
fn the_oldest_files_go_first_and_none_that_is_in_use() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, age: u64| {
        let cache = CacheFile::open(folder.path(), &fingerprint(name), super::FOLDER_LIMIT, &mut Vec::new()).unwrap();
        let (path, used) = (cache.path().to_owned(), SystemTime::now() - Duration::from_secs(age));
        fs::File::options().append(true).open(&path).unwrap().set_modified(used).unwrap();
        (cache, path)
    };
    let (in_use, oldest) = make("a", 400);
    let [(_, old), (_, newer)] = [make("b", 300), make("c", 200)];
    let (mut own, own_path) = make("d", 100);
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    assert!(own.prune().is_none(), "far from the limit");
    let size = fs::metadata(&own_path).unwrap().len();
    own.limit_to(3 * size);
    let note = own.prune().unwrap();
    assert!(matches!(note, CacheNote::Pruned { files: 1, .. }), "{note}");
    let there = |paths: [&Path; 4]| paths.map(Path::exists);
    assert_eq!(there([&oldest, &old, &newer, &own_path]), [true, false, true, true]);
    drop(in_use);
    own.limit_to(0);
    own.prune().unwrap();
    assert_eq!(there([&oldest, &old, &newer, &own_path]), [false, false, false, true]);
    assert!(folder.path().join("notes.txt").exists());
}

/// The file in use stays within the limit too, and old files are removed while it grows.
#[test]
fn a_file_does_not_grow_beyond_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let (_, old) = {
        let cache = CacheFile::open(folder.path(), &fingerprint("b"), 1 << 20, &mut Vec::new()).unwrap();
        let path = cache.path().to_owned();
        fs::write(&path, vec![0; 3000]).unwrap();
        (cache, path)
    };
    let mut cache = CacheFile::open(folder.path(), &fingerprint("a"), 4000, &mut Vec::new()).unwrap();
    let logps = [-1.0f32; 100];
    let mut pruned = Vec::new();
    let full = (0..).find_map(|n| match cache.add(&[(key(n), &logps)]) {
        Ok(note) => {
            pruned.extend(note);
            None
        }
        Err(note) => Some(note),
    });
    assert!(matches!(full, Some(CacheNote::FileFull { limit: Size(4000), .. })), "{full:?}");
    assert!(matches!(pruned[..], [CacheNote::Pruned { files: 1, .. }]), "{pruned:?}");
    assert!(!old.exists() && !cache.writes());
    let len = fs::metadata(cache.path()).unwrap().len();
    assert!(len > 3000 && len <= 4000, "{len} bytes");
    assert!(cache.holds(&key(0)), "what is there is read");
}

/// Wherever the file is cut and whichever byte is changed, the answers before the damage are found and no others.
#[test]
fn no_damage_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let answers: [(SequenceKey, &[f32]); 3] = [(key(1), &[-1.0, -2.0]), (key(2), &[-3.0]), (key(3), &[-4.0, -5.0])];
    let (path, sound, ends) = {
        let mut cache =
            CacheFile::open(folder.path(), &fingerprint("a"), super::FOLDER_LIMIT, &mut Vec::new()).unwrap();
        let path = cache.path().to_owned();
        let mut ends = vec![fs::metadata(&path).unwrap().len() as usize];
        for answer in answers {
            cache.add(&[answer]).unwrap();
            ends.push(fs::metadata(&path).unwrap().len() as usize);
        }
        (path.clone(), fs::read(&path).unwrap(), ends)
    };
    let look = |bytes: &[u8], first_damaged: usize, what: &str| {
        fs::write(&path, bytes).unwrap();
        let mut notes = Vec::new();
        let mut cache = CacheFile::open(folder.path(), &fingerprint("a"), super::FOLDER_LIMIT, &mut notes).unwrap();
        for (i, (key, logps)) in answers.iter().enumerate() {
            let want = match ends[i + 1] <= first_damaged {
                true => Lookup::Found(logps.to_vec()),
                false => Lookup::Missing,
            };
            assert_eq!(cache.read(key, logps.len()), want, "{what}, answer {i}");
        }
        notes.len()
    };
    for at in 0..sound.len() {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x10;
        let first_damaged = if at < ends[0] { 0 } else { at };
        assert_eq!(look(&bytes, first_damaged, &format!("byte {at} changed")), 1);
        let first_damaged = if at < ends[0] { 0 } else { at };
        let whole = at == 0 || ends.contains(&at);
        let said = look(&sound[..at], first_damaged, &format!("cut at {at}"));
        assert_eq!(said, usize::from(!whole), "cut at {at}");
    }
    assert_eq!(look(&sound, sound.len(), "sound"), 0);
}

/// Runs this test again in a child process that may write only 32 or 64 KiB to a file, which acts like a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_ends_the_writing_and_not_the_run() {
    const DIR: &str = "ALIGN_TEST_FULL_DISK";
    let many = vec![-1.0f32; 6000];
    if let Some(folder) = std::env::var_os(DIR) {
        let cache = open(Path::new(&folder), "a");
        for n in 0..9 {
            cache.put(&[(key(n), &many)]);
        }
        let said = notes(&cache);
        assert!(said.contains("cannot write") && said.lines().count() == 1, "{said}");
        assert!(!cache.holds(&(0..9).map(key).collect::<Vec<_>>()).contains(&false), "the rest is in memory");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // `ulimit -f` counts blocks of 512 bytes or, in some shells, of 1024; without the trap, the signal would end the child before
    // it sees the error
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "train::reference_cache::tests::a_full_disk_ends_the_writing_and_not_the_run"])
        .env(DIR, folder.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    let next = open(folder.path(), "a");
    assert_eq!(notes(&next), "", "nothing half-written is left");
    assert!(next.found() > 0 && next.found() < 9);
}
