//! Tests how the weights of a directory are found: shards, their index, and the errors for directories without weights.

use super::*;

#[test]
fn shards_are_read_through_the_index() {
    let device = Device::cpu(Some(1)).unwrap();
    // A tensor that the index does not list is still found in its shard.
    for listed in [&[("a", ONE), ("b", ONE), ("c", TWO)][..], &[("a", ONE), ("c", TWO)]] {
        let dir = sharded(&weight_map(listed));
        let files = open(dir.path()).unwrap();
        assert_eq!(widen(files.frozen(&device, "b", [1, 1]).unwrap().view()), [3.0]);
        assert_eq!(files.vector(&device, "c", 2).unwrap().view().download().unwrap(), [4.0, 5.0]);
        let names: Vec<&str> = files.tensors().map(|(tensor, _)| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!((files.parameters(), files.bytes()), (5, 14));
    }
}

#[test]
fn unsound_indices_are_refused_with_every_fault() {
    let map = |shard: &str| weight_map(&[("a", ONE), ("b", ONE), ("c", shard)]);
    let table: Vec<(&str, String, &[&str])> = vec![
        ("empty", String::new(), &["broken JSON"]),
        ("not an object", "[]".into(), &["broken JSON"]),
        ("nesting bomb", format!("{{\"metadata\":{}", "[".repeat(1_000_000)), &["broken JSON"]),
        ("no map", "{}".into(), &["`weight_map` is missing"]),
        ("an empty map", weight_map(&[]), &["`weight_map` is missing", "is in the directory but not in the index"]),
        ("a list", r#"{"weight_map":[]}"#.into(), &["broken JSON"]),
        ("a number for a shard", r#"{"weight_map":{"a":1}}"#.into(), &["`a` is mapped to a number"]),
        ("a parent", map("../model-00002-of-00002.safetensors"), &["`c`", "plain name"]),
        ("an absolute path", map("/etc/passwd"), &["`c`", "/etc/passwd", "plain name"]),
        ("a folder", map("shards/two.safetensors"), &["plain name"]),
        ("a dot before", map("./model-00002-of-00002.safetensors"), &["plain name"]),
        ("the directory", map("."), &["plain name"]),
        ("NUL", map("model\0.safetensors"), &["plain name"]),
        ("no name", map(""), &["plain name"]),
        ("a long name", map(&"x".repeat(5000)), &["plain name"]),
        (
            "shards that are missing",
            {
                let names: Vec<(String, String)> = (0..1000)
                    .map(|i| (format!("t{i}"), format!("model-{i:05}-of-09999.safetensors")))
                    .skip(3)
                    .collect();
                let entries: Vec<(&str, &str)> =
                    names.iter().map(|(tensor, shard)| (tensor.as_str(), shard.as_str())).collect();
                weight_map(&entries)
            },
            &["999 faults", "and 994 more", "model-00003-of-09999.safetensors is missing"],
        ),
    ];
    for (what, index, said) in table {
        let dir = sharded(&index);
        let message = match open(dir.path()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{what} was accepted"),
        };
        assert!(message.len() < 3000, "{what}: {} bytes", message.len());
        for part in said {
            assert!(message.contains(part), "{what}: the message lacks {part:?}: {message}");
        }
    }
}

/// If it is clear which tensors are meant, the headers of the shards say where the tensors are, and a fault of the index is only
/// noted.
#[test]
fn faults_of_an_index_that_leave_no_doubt_are_tolerated() {
    let map = |shard: &str| weight_map(&[("a", ONE), ("b", ONE), ("c", TWO), ("d", shard)]);
    let in_another = "`a` is in model-00001-of-00002.safetensors, but listed in model-00002-of-00002.safetensors";
    let nowhere = "`d` is listed in model-00002-of-00002.safetensors, which does not hold it";
    let table: Vec<(String, &str)> = vec![
        (weight_map(&[("a", TWO), ("b", ONE), ("c", TWO)]), in_another),
        (map(TWO), nowhere),
        (map("model-00003-of-00002.safetensors"), "shard model-00003-of-00002.safetensors is missing"),
        (weight_map(&[("a", ONE), ("a", TWO), ("b", ONE), ("c", TWO)]), "tensor `a` is listed twice"),
    ];
    for (index, said) in table {
        let dir = sharded(&index);
        let files = open(dir.path()).unwrap();
        let names: Vec<&str> = files.tensors().map(|(tensor, _)| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"], "{said}");
        let faults: Vec<String> = files.index_faults().iter().map(ToString::to_string).collect();
        assert!(faults.iter().any(|fault| fault == said), "{said}: {faults:?}");
    }
    // a shard of an earlier save, which the index does not list
    let dir = sharded(&weight_map(&[("a", ONE), ("b", ONE), ("c", TWO)]));
    write(&dir.path().join("model-00001-of-00003.safetensors"), Dtype::F32, &[("a", &[1, 2], &[7.0, 7.0])]);
    let files = open(dir.path()).unwrap();
    let shard = "model-00001-of-00003.safetensors".to_owned();
    assert_eq!(files.index_faults(), [IndexFault::ExtraShard { shard }]);
    assert_eq!(files.shards().len(), 2);
    let device = Device::cpu(Some(1)).unwrap();
    assert_eq!(widen(files.frozen(&device, "a", [1, 2]).unwrap().view()), [1.0, 2.0]);
}

#[test]
fn an_index_without_any_of_its_shards_names_them() {
    let dir = sharded(&weight_map(&[("a", ONE), ("b", ONE), ("c", TWO)]));
    [ONE, TWO].iter().for_each(|shard| std::fs::remove_file(dir.path().join(shard)).unwrap());
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains(ONE) && message.contains(TWO) && !message.contains("weight_map"), "{message}");
}

#[test]
fn a_tensor_in_two_shards_is_read_if_it_is_the_same_and_refused_if_not() {
    let dir = sharded(&weight_map(&[("a", ONE), ("b", ONE), ("c", TWO)]));
    write(&dir.path().join(TWO), Dtype::BF16, &[("c", &[2], &[4.0, 5.0]), ("a", &[1, 2], &[1.0, 2.0])]);
    let files = open(dir.path()).unwrap();
    assert!(matches!(files.index_faults(), [IndexFault::Copies { tensor, .. }] if tensor == "a"));
    write(&dir.path().join(TWO), Dtype::BF16, &[("c", &[2], &[4.0, 5.0]), ("a", &[1, 2], &[1.0, 2.5])]);
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("they differ"), "{message}");
    write(&dir.path().join(TWO), Dtype::F32, &[("c", &[2], &[4.0, 5.0]), ("a", &[1], &[6.0])]);
    let message = open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("`a` is in model-00002-of-00002.safetensors and in model-00001-of-00002"), "{message}");
}

#[test]
fn directories_without_weights_say_what_is_there_instead() {
    let dir = tempfile::tempdir().unwrap();
    let message = || open(dir.path()).unwrap_err().to_string();
    assert!(message().contains("holds neither model.safetensors nor model.safetensors.index.json"));
    fs::write(dir.path().join("pytorch_model.bin"), "").unwrap();
    assert!(message().contains("pytorch_model.bin is another format"), "{}", message());
    fs::remove_file(dir.path().join("pytorch_model.bin")).unwrap();
    fs::write(dir.path().join("adapter.safetensors"), "").unwrap();
    assert!(message().contains("adapter.safetensors is not named as the model's weights are"), "{}", message());
    fs::write(dir.path().join(ONE), "").unwrap();
    assert!(message().contains("model-00001-of-00002.safetensors is a shard whose index is missing"), "{}", message());
    fs::create_dir(dir.path().join("model.safetensors")).unwrap();
    assert!(message().contains("model.safetensors"), "{}", message());
}

/// A model has the same weights in one file as in three shards.
#[test]
fn three_shards_are_the_single_file() {
    let device = Device::cpu(Some(2)).unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/tiny-qwen2/model");
    let single = open(&source).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let tensors: Vec<(&TensorInfo, &SafetensorsFile)> = single.tensors().collect();
    let mut listed = Vec::new();
    for (shard, part) in tensors.chunks(tensors.len().div_ceil(3)).enumerate() {
        let name = format!("model-{:05}-of-00003.safetensors", shard + 1);
        let spec = |tensor: &TensorInfo| TensorSpec {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        let specs: Vec<TensorSpec> = part.iter().map(|(tensor, _)| spec(tensor)).collect();
        let mut writer = SafetensorsWriter::create(&dir.path().join(&name), part[0].1.metadata(), &specs).unwrap();
        for (tensor, file) in part {
            writer.write(&tensor.name, file.data(tensor)).unwrap();
            listed.push((tensor.name.clone(), name.clone()));
        }
        writer.finish().unwrap();
    }
    let listed: Vec<(&str, &str)> = listed.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    fs::write(dir.path().join("model.safetensors.index.json"), weight_map(&listed)).unwrap();
    let sharded = open(dir.path()).unwrap();
    assert_eq!(sharded.shards().len(), 3);
    assert_eq!((sharded.parameters(), sharded.bytes()), (single.parameters(), single.bytes()));
    let mut matrices = 0;
    for (tensor, _) in single.tensors() {
        if let [rows, columns] = tensor.shape[..] {
            let [a, b] = [&single, &sharded].map(|from| from.frozen(&device, &tensor.name, [rows, columns]).unwrap());
            assert_eq!(widen(a.view()), widen(b.view()), "{}", tensor.name);
            matrices += 1;
        }
    }
    assert!(matrices > 20);
}
