//! Links are followed. A link out of the directory is reported, unless it leads to the model's own blobs in a Hugging Face cache.

use super::*;
use std::os::unix::fs::symlink;

#[test]
fn links_out_of_the_directory_are_followed_and_told() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().join("x.safetensors");
    write(&target, Dtype::F32, &[("c", &[2], &[4.0, 5.0])]);

    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("model.safetensors");
    symlink(&target, &link).unwrap();
    let target = fs::canonicalize(&target).unwrap();
    assert_eq!(open(dir.path()).unwrap().links(), [(link, target.clone())]);

    let dir = sharded(&weight_map(&[("a", ONE), ("b", ONE), ("c", TWO)]));
    fs::remove_file(dir.path().join(TWO)).unwrap();
    symlink(&target, dir.path().join(TWO)).unwrap();
    let files = open(dir.path()).unwrap();
    assert_eq!(files.links(), [(dir.path().join(TWO), target)]);
    assert_eq!(files.parameters(), 5);
}

#[test]
fn links_within_the_directory_and_the_directory_itself_may_be_links() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("w.safetensors"), Dtype::F32, &[("c", &[2], &[4.0, 5.0])]);
    symlink("w.safetensors", dir.path().join("model.safetensors")).unwrap();
    assert_eq!(open(dir.path()).unwrap().links(), []);
    let elsewhere = tempfile::tempdir().unwrap();
    let link = elsewhere.path().join("model");
    symlink(dir.path(), &link).unwrap();
    assert_eq!(open(&link).unwrap().links(), []);
}

#[test]
fn links_of_the_hugging_face_cache_into_its_own_blobs_are_not_told() {
    let cache = tempfile::tempdir().unwrap();
    let repository = cache.path().join("models--org--name");
    let snapshot = repository.join("snapshots").join("abc");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("blobs")).unwrap();
    write(&repository.join("blobs").join("1234"), Dtype::F32, &[("c", &[2], &[4.0, 5.0])]);
    symlink("../../blobs/1234", snapshot.join("model.safetensors")).unwrap();
    assert_eq!((open(&snapshot).unwrap().parameters(), open(&snapshot).unwrap().links().len()), (2, 0));
    // If the cache has a store that all models share, the blob is itself a link into that store.
    let hash = "ab".repeat(32);
    let shared = cache.path().join("blobs").join("ab");
    fs::create_dir_all(&shared).unwrap();
    fs::rename(repository.join("blobs/1234"), shared.join(&hash)).unwrap();
    symlink(format!("../../blobs/ab/{hash}"), repository.join("blobs/1234")).unwrap();
    assert_eq!((open(&snapshot).unwrap().parameters(), open(&snapshot).unwrap().links().len()), (2, 0));
    // A link into the blobs of another repository is reported.
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    let other = cache.path().join("models--org--other").join("blobs");
    fs::create_dir_all(&other).unwrap();
    write(&other.join("1234"), Dtype::F32, &[("c", &[2], &[4.0, 5.0])]);
    symlink("../../../models--org--other/blobs/1234", snapshot.join("model.safetensors")).unwrap();
    assert_eq!(open(&snapshot).unwrap().links().len(), 1);
}

#[test]
fn broken_links_and_pipes_are_refused_without_waiting() {
    let dir = tempfile::tempdir().unwrap();
    symlink("nowhere", dir.path().join("model.safetensors")).unwrap();
    assert!(open(dir.path()).unwrap_err().to_string().contains("holds neither"));
    fs::remove_file(dir.path().join("model.safetensors")).unwrap();
    let pipe = dir.path().join("model.safetensors");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(open(dir.path()).unwrap_err().to_string().contains("is not a regular file"));
}
