//! Tests the headers of safetensors files: unsound headers are refused with the right fault, and unusual but sound ones are read.

use super::*;
use std::panic::catch_unwind;

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

/// If this parser accepts a damaged file, the `safetensors` crate accepts it too and finds the same tensors. If only the crate
/// accepts a file, this parser's reason must be a name that is listed twice or not allowed.
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
    // A small random generator (xorshift), so that every run tests the same files.
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
                    // Copies a piece of the file to another place, which can double keys and entries.
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
            // Sets the header's length to what the file's length implies, so that more files reach the later checks.
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
