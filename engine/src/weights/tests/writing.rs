//! The writer: the `safetensors` crate reads its files, and a failed write leaves the old file in place.

use super::*;

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: shape.to_vec() }
}

fn names_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The `safetensors` crate reads back what was written. The tensors are in the file in the order in which they were written.
#[test]
fn written_files_are_read_by_the_safetensors_crate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    let specs = [
        spec("z \"quoted\" ü", Dtype::BF16, &[3]),
        spec("a", Dtype::F32, &[1, 2]),
        spec("none", Dtype::F16, &[0, 7]),
        spec("scalar", Dtype::U8, &[]),
    ];
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut writer = SafetensorsWriter::create(&path, &metadata, &specs).unwrap();
    writer.write("z \"quoted\" ü", &[1, 2, 3]).unwrap();
    writer.write("z \"quoted\" ü", &[4, 5, 6]).unwrap();
    writer.write("a", &[7; 8]).unwrap();
    writer.write("none", &[]).unwrap();
    writer.write("scalar", &[9]).unwrap();
    assert_eq!(names_in(dir.path()).len(), 1, "a temporary file, not yet the target: {:?}", names_in(dir.path()));
    assert!(!path.exists());
    writer.finish().unwrap();
    assert_eq!(names_in(dir.path()), ["out.safetensors"]);

    let bytes = fs::read(&path).unwrap();
    let (length, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    assert!(length.is_multiple_of(8));
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
    let tensors = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(tensors.tensor("z \"quoted\" ü").unwrap().data(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(tensors.tensor("a").unwrap().shape(), [1, 2]);
    let ours = SafetensorsFile::open(&path).unwrap();
    let order: Vec<&str> = ours.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(order, ["z \"quoted\" ü", "a", "none", "scalar"]);
    assert_eq!(ours.data(ours.tensor("scalar").unwrap()), [9]);
}

#[test]
fn mistakes_are_named_and_leave_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out.safetensors");
    fs::write(&path, "old").unwrap();
    let specs = [spec("a", Dtype::F32, &[2]), spec("b", Dtype::F32, &[1])];
    let create = || SafetensorsWriter::create(&path, &BTreeMap::new(), &specs).unwrap();

    let mut writer = create();
    assert!(writer.write("b", &[0; 4]).unwrap_err().to_string().contains("`b` was written where the header has a"));
    assert!(writer.write("a", &[0; 9]).unwrap_err().to_string().contains("9 more bytes of tensor `a`"));
    writer.write("a", &[0; 8]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("finished before tensor `b`"));

    let mut writer = create();
    writer.write("a", &[0; 8]).unwrap();
    writer.write("b", &[0; 4]).unwrap();
    assert!(writer.write("c", &[]).unwrap_err().to_string().contains("no further tensor"));
    drop(writer);

    let twice = [spec("a", Dtype::F32, &[2]), spec("a", Dtype::F32, &[2])];
    let error = SafetensorsWriter::create(&path, &BTreeMap::new(), &twice).unwrap_err();
    assert!(error.to_string().contains("`a` is listed twice"));
    let huge = [spec("a", Dtype::F32, &[1 << 40, 1 << 40])];
    let error = SafetensorsWriter::create(&path, &BTreeMap::new(), &huge).unwrap_err();
    assert!(error.to_string().contains("more bytes than any file"));
    let nowhere = dir.path().join("no/such/folder/out.safetensors");
    let error = SafetensorsWriter::create(&nowhere, &BTreeMap::new(), &specs).unwrap_err();
    assert!(error.to_string().contains("no/such/folder"), "{error}");

    assert_eq!(names_in(dir.path()), ["out.safetensors"]);
    assert_eq!(fs::read(&path).unwrap(), b"old");
}

/// Runs this test again in a child process whose files may have at most 64 KiB, which acts like a full disk.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_file() {
    const DIR: &str = "ALIGN_TEST_FULL_DISK";
    if let Some(dir) = std::env::var_os(DIR) {
        let path = Path::new(&dir).join("out.safetensors");
        let specs = [spec("a", Dtype::U8, &[1 << 20])];
        let mut writer = SafetensorsWriter::create(&path, &BTreeMap::new(), &specs).unwrap();
        let error = writer.write("a", &vec![0; 1 << 20]).unwrap_err();
        assert!(matches!(error, WriteError::Io { .. }), "{error}");
        assert!(error.to_string().contains("out.safetensors: cannot write it"), "{error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("out.safetensors"), "old").unwrap();
    // `ulimit` counts blocks of 512 bytes, in some shells of 1024. Without the trap, the signal XFSZ would end the child before
    // it sees the error.
    let status = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "weights::tests::writing::a_full_disk_leaves_the_old_file"])
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    assert_eq!(names_in(dir.path()), ["out.safetensors"]);
    assert_eq!(fs::read(dir.path().join("out.safetensors")).unwrap(), b"old");
}
