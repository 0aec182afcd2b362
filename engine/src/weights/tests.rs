//! Sound checkpoints in every arrangement, and unsound ones, one per fault.

use super::*;
use align_kernels::device::WeightSlice;
use half::{bf16, f16};
use std::fs;
use std::panic::catch_unwind;

/// A file with this header and `data` bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(std::iter::repeat_n(0x3C, data));
    bytes
}

/// One header entry.
fn entry(name: &str, dtype: &str, shape: &str, begin: u64, end: u64) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

fn header(entries: &[String]) -> String {
    format!("{{{}}}", entries.join(","))
}

/// Writes a file of bf16 and f32 tensors: name, shape, values.
fn write(path: &Path, dtype: Dtype, tensors: &[(&str, &[usize], &[f32])]) {
    let specs: Vec<TensorSpec> = tensors
        .iter()
        .map(|(name, shape, _)| TensorSpec { name: name.to_string(), dtype, shape: shape.to_vec() })
        .collect();
    let mut writer = SafetensorsWriter::create(path, &BTreeMap::new(), &specs).unwrap();
    for (name, _, values) in tensors {
        writer.write(name, &encode(dtype, values)).unwrap();
    }
    writer.finish().unwrap();
}

fn encode(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|&value| match dtype {
            Dtype::F32 => value.to_le_bytes().to_vec(),
            Dtype::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            Dtype::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            other => panic!("the tests do not write {other}"),
        })
        .collect()
}

fn widen(weights: WeightSlice<'_>) -> Vec<f32> {
    match weights {
        WeightSlice::F32(values) => values.download(),
        WeightSlice::F16(values) => values.download().iter().map(|value| value.to_f32()).collect(),
        WeightSlice::Bf16(values) => values.download().iter().map(|value| value.to_f32()).collect(),
    }
}

fn open(dir: &Path) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(dir, ValueCheck::Finite)
}

#[test]
fn unsound_headers_are_refused_by_fault() {
    let sound = header(&[entry("a", "F32", "[2,2]", 0, 16), entry("b", "BF16", "[3]", 16, 22)]);
    let sound = file(&sound, 22);
    assert_eq!(header::parse(&sound).unwrap().tensors.len(), 2);
    let with_length = |length: u64| {
        let mut bytes = sound.clone();
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let one = |dtype: &str, shape: &str, begin: u64, end: u64, data: usize| {
        file(&header(&[entry("a", dtype, shape, begin, end)]), data)
    };
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "0 bytes long"),
        ("shorter than the length", vec![1, 2, 3], "3 bytes long"),
        ("header length 0", with_length(0), "broken JSON: EOF"),
        ("header longer than the file", with_length(sound.len() as u64 - 7), "header claims"),
        ("header of 2^63 bytes", with_length(1 << 63), "header claims 9223372036854775808 bytes"),
        ("header of 2^64 - 1 bytes", with_length(u64::MAX), "header claims 18446744073709551615 bytes"),
        ("header ends early", with_length(60), "broken JSON"),
        ("not UTF-8", file("{}", 0).into_iter().map(|byte| if byte == b'}' { 0xFF } else { byte }).collect(), "UTF-8"),
        ("not JSON", file("model", 0), "broken JSON"),
        ("not an object", file("[]", 0), "broken JSON"),
        ("data after the JSON", file("{} {}", 0), "broken JSON"),
        ("nesting bomb", file(&format!("{{\"a\":{}", "[".repeat(1_000_000)), 0), "broken JSON"),
        ("nesting bomb in metadata", file(&"{\"__metadata__\":".repeat(10_000), 0), "broken JSON"),
        (
            "nesting bomb in an ignored key",
            file(&format!("{{\"a\":{{\"x\":{}", "[".repeat(1_000_000)), 0),
            "broken JSON",
        ),
        ("metadata of numbers", file(r#"{"__metadata__":{"a":1}}"#, 0), "broken JSON"),
        ("two metadata", file(r#"{"__metadata__":{},"__metadata__":{}}"#, 0), "duplicate field"),
        ("no dtype", file(r#"{"a":{"shape":[1],"data_offsets":[0,4]}}"#, 4), "missing field `dtype`"),
        (
            "two dtypes",
            file(r#"{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 4),
            "duplicate field",
        ),
        ("a null shape", one("F32", "null", 0, 4, 4), "broken JSON"),
        ("a negative size", one("F32", "[-1]", 0, 4, 4), "broken JSON"),
        ("a size in quotes", one("F32", "[\"1\"]", 0, 4, 4), "broken JSON"),
        ("a size of 2^64", one("F32", "[18446744073709551616]", 0, 4, 4), "broken JSON"),
        ("three offsets", file(r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}"#, 4), "broken JSON"),
        ("unknown dtype", one("F99", "[1]", 0, 4, 4), "tensor `a` has the unknown dtype \"F99\""),
        (
            "same name, same place",
            file(&header(&[entry("a", "F32", "[1]", 0, 4), entry("a", "F32", "[1]", 0, 4)]), 4),
            "`a` is listed twice",
        ),
        (
            "same name, next place",
            file(&header(&[entry("a", "F32", "[1]", 0, 4), entry("a", "F32", "[1]", 4, 8)]), 8),
            "`a` is listed twice",
        ),
        ("empty name", file(&header(&[entry("", "F32", "[1]", 0, 4)]), 4), "name of 0 bytes"),
        ("long name", file(&header(&[entry(&"n".repeat(5000), "F32", "[1]", 0, 4)]), 4), "name of 5000 bytes"),
        (
            "control characters in a name",
            file(&header(&[entry("a\\u001b[2J", "F32", "[1]", 0, 4)]), 4),
            "control characters",
        ),
        ("NUL in a name", file(&header(&[entry("a\\u0000", "F32", "[1]", 0, 4)]), 4), "control characters"),
        ("shape overflows", one("F32", "[4294967296,4294967296]", 0, 4, 4), "more bytes than any file"),
        ("shape overflows with the dtype", one("F64", "[2305843009213693952]", 0, 4, 4), "more bytes than any file"),
        ("shape overflows before a 0", one("F32", "[4294967296,4294967296,0]", 0, 0, 0), "more bytes than any file"),
        ("span too short", one("F32", "[2,2]", 0, 12, 12), "takes 16 bytes, its offsets span 12"),
        ("span too long", one("BF16", "[2,2]", 0, 12, 12), "takes 8 bytes, its offsets span 12"),
        ("a million dimensions", one("F32", &format!("[1{}]", ",1".repeat(1_000_000)), 0, 4, 4), "1000001 dimensions"),
        ("a long text for a size", one("F32", &format!("[\"{}\"]", "x".repeat(1_000_000)), 0, 4, 4), "broken JSON"),
        ("a long dtype", one(&"F".repeat(1_000_000), "[1]", 0, 4, 4), "unknown dtype"),
        ("half bytes", one("F4", "[3]", 0, 1, 1), "takes 2 bytes, its offsets span 1"),
        ("backwards", one("F32", "[1]", 4, 0, 4), "run backwards"),
        (
            "overlap",
            file(&header(&[entry("a", "F32", "[2]", 0, 8), entry("b", "F32", "[2]", 4, 12)]), 12),
            "`b` overlaps",
        ),
        (
            "same bytes twice",
            file(&header(&[entry("a", "F32", "[1]", 0, 4), entry("b", "F32", "[1]", 0, 4)]), 4),
            "`b` overlaps",
        ),
        ("hole at the start", one("F32", "[1]", 4, 8, 8), "4 bytes before tensor `a`"),
        (
            "hole between",
            file(&header(&[entry("a", "F32", "[1]", 0, 4), entry("b", "F32", "[1]", 6, 10)]), 10),
            "2 bytes before tensor `b`",
        ),
        ("data left over", one("F32", "[1]", 0, 4, 7), "3 bytes after the last tensor"),
        ("no tensors, but data", file("{}", 5), "5 bytes after the last tensor"),
        (
            "truncated",
            one("F32", "[4]", 0, 16, 15),
            "truncated: tensor `a` ends at byte 16 of the data, the file holds 15",
        ),
        (
            "offsets that wrap round",
            file(
                &header(&[
                    entry("a", "U8", "[9223372036854775808]", 0, 1 << 63),
                    entry("b", "U8", "[9223372036854775807]", 1 << 63, u64::MAX),
                ]),
                0,
            ),
            "truncated: tensor `a`",
        ),
    ];
    for (what, bytes, said) in table {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        fs::write(&path, bytes).unwrap();
        let message = match open(dir.path()) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("{what} was accepted"),
        };
        assert!(message.contains("model.safetensors") && message.contains(said), "{what}: {message}");
        assert!(message.len() < 1000 && !message.contains('\x1b'), "{what}: {message}");
    }
}

#[test]
fn unusual_but_sound_headers_are_read() {
    for (what, bytes, tensors) in [
        ("no tensors", file("{}", 0), 0),
        ("spaces after the header", file("{}      ", 0), 0),
        ("metadata", file(r#"{"__metadata__":{"format":"pt"}}"#, 0), 0),
        ("null metadata", file(r#"{"__metadata__":null}"#, 0), 0),
        ("unsorted", file(&header(&[entry("b", "F32", "[1]", 4, 8), entry("a", "F32", "[1]", 0, 4)]), 8), 2),
        (
            "a tensor without elements",
            file(&header(&[entry("a", "F32", "[0,4]", 0, 0), entry("b", "F32", "[1]", 0, 4)]), 4),
            2,
        ),
        ("a scalar", file(&header(&[entry("a", "F32", "[]", 0, 4)]), 4), 1),
        ("other dtypes", file(&header(&[entry("a", "I64", "[1]", 0, 8), entry("b", "F8_E4M3", "[3]", 8, 11)]), 11), 2),
        ("keys of a later version", file(r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"note":[1]}}"#, 1), 1),
    ] {
        let header = header::parse(&bytes).unwrap_or_else(|fault| panic!("{what}: {fault}"));
        assert_eq!(header.tensors.len(), tensors, "{what}");
        assert!(header.tensors.is_sorted_by_key(|tensor| tensor.bytes.start), "{what}");
    }
}

/// Every damaged file that this parser accepts, the `safetensors` crate accepts as the same tensors; what it refuses beyond
/// the crate has a reason that is named here.
#[test]
fn damaged_headers_are_judged_as_the_safetensors_crate_judges_them() {
    let seed_file = file(
        &header(&[
            r#""__metadata__":{"format":"pt"}"#.to_owned(),
            entry("a", "F32", "[2,2]", 0, 16),
            entry("b", "BF16", "[3]", 16, 22),
            entry("c", "U8", "[0]", 22, 22),
            entry("d", "F16", "[1,1,5]", 22, 32),
        ]),
        32,
    );
    // A small generator of its own: the same files on every run.
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..30_000 {
        let mut bytes = seed_file.clone();
        for _ in 0..1 + random(3) {
            let at = if random(8) == 0 { random(8) } else { 8 + random(bytes.len() - 8) };
            match random(5) {
                0 => bytes[at] ^= 1 << random(8),
                1 => bytes[at] = b"0123456789\"[]{}:,FUB"[random(20)],
                2 => drop(bytes.remove(at)),
                3 => bytes.insert(at, b"0123456789\"[]{}:,"[random(17)]),
                _ => {
                    // Copies a piece of the header over another place of it: doubled keys and entries.
                    let (from, len) = (8 + random(200), 1 + random(60));
                    let piece: Vec<u8> = bytes.iter().skip(from).take(len).copied().collect();
                    let at = at.min(bytes.len());
                    bytes.splice(at..at, piece);
                }
            }
            if bytes.len() <= 9 {
                break;
            }
        }
        if random(2) == 0 && bytes.len() > 40 {
            // Make the length right again, so that more files reach the later checks.
            let length = (bytes.len() - 8 - 32) as u64;
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        let ours = header::parse(&bytes);
        let theirs = catch_unwind(|| {
            let (length, metadata) = ::safetensors::SafeTensors::read_metadata(&bytes).ok()?;
            let begin = 8 + length;
            let range =
                |info: &::safetensors::tensor::TensorInfo| begin + info.data_offsets.0..begin + info.data_offsets.1;
            let tensors = metadata.tensors().into_iter();
            let mut tensors: Vec<TensorInfo> = tensors
                .map(|(name, info)| TensorInfo {
                    name,
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    bytes: range(info),
                })
                .collect();
            tensors.sort_by(|a, b| a.name.cmp(&b.name));
            Some(tensors)
        });
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        match (ours, theirs) {
            (Ok(mut header), Ok(Some(theirs))) => {
                header.tensors.sort_by(|a, b| a.name.cmp(&b.name));
                assert_eq!(header.tensors, theirs, "{}", shown());
                assert!(theirs.iter().all(|tensor| tensor.bytes.end <= bytes.len()));
                accepted += 1;
            }
            (Ok(_), theirs) => panic!("accepted where the crate gives {theirs:?}: {}", shown()),
            (Err(HeaderFault::Duplicate { .. } | HeaderFault::Name { .. }), _) => refused += 1,
            (Err(fault), Ok(Some(_))) => panic!("refused ({fault}) where the crate accepts: {}", shown()),
            (Err(_), _) => refused += 1,
        }
    }
    assert!(accepted > 500 && refused > 5000, "{accepted} accepted, {refused} refused");
}

#[test]
fn tensors_of_every_dtype_come_back_aligned_or_not() {
    let device = Device::cpu(Some(2)).unwrap();
    let values = [1.0, -2.5, 0.0, 65504.0, -0.125, 3.0];
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        let rounded = match dtype {
            Dtype::BF16 => values.map(|value| bf16::from_f32(value).to_f32()),
            _ => values,
        };
        for padding in 0..8 {
            let bytes = encode(dtype, &values);
            let half = bytes.len() / 2;
            let name = format!("{dtype}");
            let mut text = header(&[
                entry("matrix", &name, "[2,3]", 0, bytes.len() as u64),
                entry("vector", &name, "[3]", bytes.len() as u64, (bytes.len() + half) as u64),
            ]);
            text += &" ".repeat(padding);
            let dir = tempfile::tempdir().unwrap();
            let mut content = file(&text, 0);
            content.extend(&bytes);
            content.extend(&bytes[..half]);
            fs::write(dir.path().join("model.safetensors"), &content).unwrap();
            let checkpoint = open(dir.path()).unwrap();
            let matrix = checkpoint.frozen(&device, "matrix", [2, 3]).unwrap();
            assert_eq!(widen(matrix.view()), rounded, "{dtype} after {padding} spaces");
            assert_eq!(widen(matrix.rows(1..2)), rounded[3..]);
            assert_eq!((matrix.shape(), matrix.name(), matrix.bytes()), ([2, 3], "matrix", bytes.len()));
            let vector = checkpoint.vector(&device, "vector", 3).unwrap();
            assert_eq!(vector.view().download(), rounded[..3]);
            let misaligned = !(8 + text.len()).is_multiple_of(dtype.bitsize() / 8);
            assert_eq!(checkpoint.misaligned_bytes() > 0, misaligned);
            assert_eq!((checkpoint.parameters(), checkpoint.bytes()), (9, (bytes.len() + half) as u64));
        }
    }
}

/// The buffers stay good when the checkpoint is gone, and clones share them.
#[test]
fn frozen_weights_outlive_the_checkpoint() {
    let device = Device::cpu(Some(1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("model.safetensors"), Dtype::BF16, &[("w", &[1, 2], &[1.0, 2.0])]);
    let checkpoint = open(dir.path()).unwrap();
    let weights = checkpoint.frozen(&device, "w", [1, 2]).unwrap();
    drop(checkpoint);
    drop(dir);
    let clone = weights.clone();
    drop(weights);
    assert_eq!(widen(clone.view()), [1.0, 2.0]);
    assert_eq!(device.memory().in_use, 0, "aligned weights are used in place");
}

#[test]
fn what_config_json_does_not_imply_is_refused_by_tensor() {
    let device = Device::cpu(Some(1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let text = header(&[
        entry("packed", "U8", "[2,2]", 0, 4),
        entry("w", "F32", "[1,2]", 4, 12),
        entry("model.layers.0.self_attn.rotary_emb.inv_freq", "F32", "[1]", 12, 16),
    ]);
    fs::write(&path, file(&text, 16)).unwrap();
    let checkpoint = open(dir.path()).unwrap();
    let message = |result: Result<Frozen, LoadError>| result.unwrap_err().to_string();
    let absent = message(checkpoint.frozen(&device, "v", [1, 2]));
    assert!(
        absent.contains("no tensor `v`") && absent.contains("config.json") && absent.contains("[1, 2]"),
        "{absent}"
    );
    let shape = message(checkpoint.frozen(&device, "w", [2, 1]));
    assert!(
        shape.contains("`w` is [1, 2], config.json implies [2, 1]") && shape.contains("model.safetensors"),
        "{shape}"
    );
    let packed = message(checkpoint.frozen(&device, "packed", [2, 2]));
    assert!(packed.contains("`packed` is stored as U8; supported: F32, F16, BF16"), "{packed}");
    assert!(checkpoint.vector(&device, "w", 2).unwrap_err().to_string().contains("config.json implies [2]"));
}

#[test]
fn values_that_are_not_finite_are_refused_by_tensor_and_element() {
    let device = Device::cpu(Some(2)).unwrap();
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for (value, said) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf"), (f32::NEG_INFINITY, "-inf")] {
            let dir = tempfile::tempdir().unwrap();
            let mut values = vec![0.5; 600];
            values[427] = value;
            let tensors: [(&str, &[usize], &[f32]); 3] =
                [("good", &[20, 30], &[0.5; 600]), ("bad", &[20, 30], &values), ("zero", &[1, 2], &[0.0, -0.0])];
            write(&dir.path().join("model.safetensors"), dtype, &tensors);
            let checkpoint = open(dir.path()).unwrap();
            checkpoint.frozen(&device, "good", [20, 30]).unwrap();
            checkpoint.frozen(&device, "zero", [1, 2]).unwrap();
            assert_eq!(checkpoint.all_zero(), ["zero"]);
            let message = checkpoint.frozen(&device, "bad", [20, 30]).unwrap_err().to_string();
            assert!(message.contains(&format!("`bad` holds {said} at element 427")), "{message}");
            let unchecked = Checkpoint::open(dir.path(), ValueCheck::Skip).unwrap();
            unchecked.frozen(&device, "bad", [20, 30]).unwrap();
        }
    }
}

/// A directory with two shards that hold `a`, `b` and `c`, and an index of this content.
fn sharded(index: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let one = dir.path().join("model-00001-of-00002.safetensors");
    let two = dir.path().join("model-00002-of-00002.safetensors");
    write(&one, Dtype::BF16, &[("a", &[1, 2], &[1.0, 2.0]), ("b", &[1, 1], &[3.0])]);
    write(&two, Dtype::F32, &[("c", &[2], &[4.0, 5.0])]);
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    dir
}

const ONE: &str = "model-00001-of-00002.safetensors";
const TWO: &str = "model-00002-of-00002.safetensors";

fn weight_map(entries: &[(&str, &str)]) -> String {
    let entries: Vec<String> = entries
        .iter()
        .map(|(tensor, shard)| format!("{}:{}", serde_json::json!(tensor), serde_json::json!(shard)))
        .collect();
    format!(r#"{{"metadata":{{"total_size":10}},"weight_map":{{{}}}}}"#, entries.join(","))
}

#[test]
fn shards_are_read_through_the_index() {
    let device = Device::cpu(Some(1)).unwrap();
    // A tensor that the index forgot is there all the same.
    for listed in [&[("a", ONE), ("b", ONE), ("c", TWO)][..], &[("a", ONE), ("c", TWO)]] {
        let dir = sharded(&weight_map(listed));
        let checkpoint = open(dir.path()).unwrap();
        assert_eq!(widen(checkpoint.frozen(&device, "b", [1, 1]).unwrap().view()), [3.0]);
        assert_eq!(checkpoint.vector(&device, "c", 2).unwrap().view().download(), [4.0, 5.0]);
        let names: Vec<&str> = checkpoint.tensors().map(|(tensor, _)| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert_eq!((checkpoint.parameters(), checkpoint.bytes()), (5, 14));
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

/// Where the tensors are all there once, the shards say where: a fault of the index is kept for a note.
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
        let checkpoint = open(dir.path()).unwrap();
        let names: Vec<&str> = checkpoint.tensors().map(|(tensor, _)| tensor.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "c"], "{said}");
        let faults: Vec<String> = checkpoint.index_faults().iter().map(ToString::to_string).collect();
        assert!(faults.iter().any(|fault| fault == said), "{said}: {faults:?}");
    }
    // a shard of an earlier save, which the index does not know
    let dir = sharded(&weight_map(&[("a", ONE), ("b", ONE), ("c", TWO)]));
    write(&dir.path().join("model-00001-of-00003.safetensors"), Dtype::F32, &[("a", &[1, 2], &[7.0, 7.0])]);
    let checkpoint = open(dir.path()).unwrap();
    let shard = "model-00001-of-00003.safetensors".to_owned();
    assert_eq!(checkpoint.index_faults(), [IndexFault::ExtraShard { shard }]);
    assert_eq!(checkpoint.shards().len(), 2);
    let device = Device::cpu(Some(1)).unwrap();
    assert_eq!(widen(checkpoint.frozen(&device, "a", [1, 2]).unwrap().view()), [1.0, 2.0]);
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
    let checkpoint = open(dir.path()).unwrap();
    assert!(matches!(checkpoint.index_faults(), [IndexFault::Copies { tensor, .. }] if tensor == "a"));
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

#[cfg(unix)]
mod links {
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
        let checkpoint = open(dir.path()).unwrap();
        assert_eq!(checkpoint.links(), [(dir.path().join(TWO), target)]);
        assert_eq!(checkpoint.parameters(), 5);
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
        // The store that models share: the blob is a link itself.
        let hash = "ab".repeat(32);
        let shared = cache.path().join("blobs").join("ab");
        fs::create_dir_all(&shared).unwrap();
        fs::rename(repository.join("blobs/1234"), shared.join(&hash)).unwrap();
        symlink(format!("../../blobs/ab/{hash}"), repository.join("blobs/1234")).unwrap();
        assert_eq!((open(&snapshot).unwrap().parameters(), open(&snapshot).unwrap().links().len()), (2, 0));
        // The blobs of another repository are not its own.
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
}

/// The same numbers whether a model is one file or three shards.
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

mod writing {
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

    /// The `safetensors` crate reads what was written, in the order in which it was written.
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

    /// Runs this test again in a child that may write only 64 KiB: what a full disk does to it.
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
        // In blocks of 512 bytes or, in some shells, of 1024; the signal would end the child before it sees the error.
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
}
