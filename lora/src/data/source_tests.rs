//! Where rows come from: every format gives the same tokens, and broken or hostile files are refused within the memory they justify.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};

use align_kernels::rng::Key;
use serde_json::{Value, json};

use super::reader::Rows;
use super::{DataError, Dataset, Encoder, Needs, OnBadRow, Opening, ParquetFault, Shuffle, Unobserved};

/// Notes the largest allocation of each thread: what a file claims must not become memory.
struct Noting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

fn note(bytes: usize) {
    // no thread-local value any more: the thread is ending
    let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(bytes)));
}

// SAFETY: every call goes to the system's allocator as it came; `note` allocates nothing (a thread-local Cell without a destructor).
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promises are those of `System`.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        note(bytes);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// Largest allocation while a file of some kilobytes is refused or read: buffers of a megabyte, and what the data justifies.
const ALLOWED: usize = 8 << 20;

fn goldens(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name)
}

fn parquet(name: &str) -> PathBuf {
    let path = goldens("parquet").join(name);
    assert!(path.exists(), "{}: made by tests/oracles/make_parquet.py", path.display());
    path
}

fn encoder() -> Encoder {
    Encoder::from_model(&goldens("tiny-llama").join("model"), None, 256, 4096).unwrap()
}

fn lines(rows: &Rows) -> Vec<Value> {
    (0..rows.len()).map(|row| serde_json::from_slice(&rows.read(row).unwrap().unwrap()).unwrap()).collect()
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

const PARQUET: [&str; 7] = [
    "pairs-none.parquet",
    "pairs-snappy.parquet",
    "pairs-gzip.parquet",
    "pairs-zstd.parquet",
    "pairs-lz4.parquet",
    "pairs-brotli.parquet",
    "pairs-v2.parquet",
];

#[test]
fn every_format_gives_the_tokens_of_jsonl() {
    let plain = parquet("pairs.jsonl");
    let text = std::fs::read(&plain).unwrap();
    let half = text.len() / 2;
    let packed = [
        written(&gzip(&text)),
        written(&zstd(&text)),
        // several members or frames behind one another are one text
        written(&[gzip(&text[..half]), gzip(&text[half..])].concat()),
        written(&[zstd(&text[..half]), zstd(&text[half..])].concat()),
        // a skippable frame in front, as pzstd writes it
        written(&[&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd(&text)[..]].concat()),
    ];
    let tokens = |path: &Path| {
        let data = Dataset::open(&[path.to_owned()], encoder(), Needs::Pairs, OnBadRow::Error).unwrap();
        data.rows(&data.order(Shuffle::Seeded(1), 0)).unwrap()
    };
    let expected = tokens(&plain);
    assert_eq!(expected.len(), 12);
    for path in PARQUET.map(parquet).iter().map(PathBuf::as_path).chain(packed.iter().map(|file| file.path())) {
        assert_eq!(tokens(path), expected, "{}", path.display());
    }
    let rows = Rows::open(&[packed[0].path().to_owned(), parquet("pairs-v2.parquet")]).unwrap();
    assert_eq!(rows.len(), 24);
    assert_eq!(rows.place(23), (parquet("pairs-v2.parquet"), 12));
}

#[test]
fn parquet_rows_are_the_objects_of_jsonl() {
    for name in PARQUET {
        assert_eq!(
            lines(&Rows::open(&[parquet(name)]).unwrap()),
            lines(&Rows::open(&[parquet("pairs.jsonl")]).unwrap()),
            "{name}"
        );
    }
    assert_eq!(
        lines(&Rows::open(&[parquet("scored.parquet")]).unwrap()),
        lines(&Rows::open(&[parquet("scored.jsonl")]).unwrap())
    );
}

#[test]
fn every_type_has_its_form_in_json() {
    let rows = lines(&Rows::open(&[parquet("types.parquet")]).unwrap());
    let expected = json!({
        "prompt": "a", "completion": " x", "label": true, "i8": -128, "u32": 0, "u64": 0, "i64": i64::MIN, "f16": 0.5,
        "f32": f64::from(0.1f32), "f64": 0.1, "cents": 1.25, "day": "2024-02-29", "at": "2024-02-29 12:30:15.000",
        "nothing": null, "list": [1, 2], "lists": [[1], [2, 3]], "struct": {"a": 1, "b": "x"}, "map": {"k": 1, "l": 2}, "category": "p",
    });
    for (name, value) in expected.as_object().unwrap() {
        if name != "at" {
            assert_eq!(&rows[0][name], value, "{name}");
        }
    }
    assert!(rows[0]["at"].as_str().unwrap().starts_with("2024-02-29 12:30:15"), "{}", rows[0]["at"]);
    assert_eq!(rows[1]["u64"], u64::MAX);
    assert_eq!(rows[1]["u32"], u32::MAX);
    assert_eq!(rows[1]["cents"], -0.05);
    assert_eq!((&rows[1]["list"], &rows[1]["lists"], &rows[1]["map"]), (&json!([]), &json!([[]]), &json!({})));
    assert_eq!((&rows[2]["list"], &rows[2]["lists"], &rows[2]["struct"]), (&Value::Null, &json!([null]), &Value::Null));
    for name in ["i8", "u32", "u64", "i64", "f16", "f32", "f64", "cents", "day", "at", "map"] {
        assert_eq!(rows[2][name], Value::Null, "{name}");
    }
    // as labelled rows they are used
    let data = Dataset::open(&[parquet("types.parquet")], encoder(), Needs::Labels, OnBadRow::Error).unwrap();
    assert_eq!((data.len(), data.survey().ignored_columns.len()), (3, 16));
}

#[test]
fn a_type_without_a_form_in_json_is_named() {
    let error = Rows::open(&[parquet("binary.parquet")]).unwrap_err();
    assert!(
        matches!(&error, DataError::Parquet { fault: ParquetFault::Type { column, .. }, .. } if column == "picture")
    );
    let text = error.to_string();
    assert!(text.contains("binary.parquet: column `picture` is binary (BYTE_ARRAY)"), "{text}");
    assert!(matches!(Rows::open(&[parquet("no-rows.parquet")]), Err(DataError::Empty { .. })));
}

#[test]
fn other_formats_are_named() {
    let text = b"{\"prompt\": \"p\"}\n";
    let tar = [&[b'a'; 257][..], b"ustar\0"].concat();
    let cases: [(&[u8], &str); 6] = [
        (b"PK\x03\x04rest", "a zip archive"),
        (b"BZh91AY", "compressed by bzip2"),
        (b"\xFD7zXZ\x00rest", "compressed by xz"),
        (b"ARROW1\0\0", "an Arrow file"),
        (b"PARErest", "an encrypted Parquet file"),
        (&tar, "a tar archive"),
    ];
    for (bytes, name) in cases {
        let message = Rows::open(&[written(bytes).path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("what is read: JSONL"), "{message}");
    }
    let parquet = std::fs::read(parquet("scored.parquet")).unwrap();
    for (bytes, inside) in [(gzip(&gzip(text)), "gzip"), (gzip(&tar), "a tar archive"), (zstd(&parquet), "Parquet")] {
        let message = Rows::open(&[written(&bytes).path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains(&format!("it is {inside}; only JSONL is read in compressed files")), "{message}");
    }
}

/// Opens the rows and reads them all; tells whether that went well, and checks what it allocated.
fn survives(bytes: &[u8], what: &str) -> bool {
    let file = written(bytes);
    LARGEST.set(0);
    let outcome = Rows::open(&[file.path().to_owned()]).map(|rows| {
        (0..rows.len()).for_each(|row| drop(rows.read(row).unwrap()));
    });
    assert!(LARGEST.get() <= ALLOWED, "{what}: an allocation of {} bytes", LARGEST.get());
    outcome.is_ok()
}

#[test]
fn truncated_files_are_refused() {
    let text = std::fs::read(parquet("pairs.jsonl")).unwrap();
    let parquet = std::fs::read(parquet("pairs-zstd.parquet")).unwrap();
    for (name, bytes, shortest) in [("gzip", gzip(&text), 2), ("zstd", zstd(&text), 4), ("Parquet", parquet, 4)] {
        for cut in (shortest..bytes.len()).step_by(bytes.len() / 40) {
            assert!(!survives(&bytes[..cut], name), "{name}: {cut} of {} bytes were read", bytes.len());
        }
        let message = Rows::open(&[written(&bytes[..bytes.len() / 2]).path().to_owned()]).unwrap_err().to_string();
        assert!(message.contains("complete?") && message.contains(name), "{message}");
    }
}

/// Some bytes of a sound file changed: refused, or read where the change hits text alone, and nothing else.
#[test]
fn damaged_files_neither_panic_nor_allocate() {
    let text = std::fs::read(parquet("pairs.jsonl")).unwrap();
    let mut files: Vec<(String, Vec<u8>)> = vec![("gzip".into(), gzip(&text)), ("zstd".into(), zstd(&text))];
    for name in PARQUET.into_iter().chain(["types.parquet", "scored.parquet"]) {
        files.push((name.into(), std::fs::read(parquet(name)).unwrap()));
    }
    for (which, (name, sound)) in files.iter().enumerate() {
        assert!(survives(sound, name));
        let key = Key::new(7, which as u64, 0);
        let draw = |i: u64, below: usize| (key.unit(i) * below as f32) as usize;
        let mut refused = 0;
        for round in 0..120u64 {
            let mut bytes = sound.clone();
            for fault in 0..1 + round % 4 {
                let i = 16 * round + 4 * fault;
                // half of the faults in the last kilobyte, where footers are
                let at = match draw(i, 2) {
                    0 => bytes.len() - 1 - draw(i + 1, bytes.len().min(1024)),
                    _ => draw(i + 1, bytes.len()),
                };
                bytes[at] = match draw(i + 2, 3) {
                    0 => 0xFF,
                    1 => bytes[at] ^ (1 << draw(i + 3, 8)),
                    _ => draw(i + 3, 256) as u8,
                };
            }
            refused += usize::from(!survives(&bytes, &format!("{name}, round {round}")));
        }
        assert!(refused >= 20, "{name}: {refused} of 120 were noticed");
    }
}

#[test]
fn rejects_are_written_as_they_stand() {
    let good = r#"{"prompt": "p", "chosen": " a", "rejected": " b"}"#;
    let long = json!({"prompt": "word ".repeat(400), "chosen": " a", "rejected": " b"}).to_string();
    let file = written(format!("{good}\n\n{{\"prompt\": \n{long}\n{good}\n").as_bytes());
    let other = written(b"\xFF\xFE\n");
    let paths = [file.path().to_owned(), other.path().to_owned()];
    let mut lines = Vec::new();
    let opening = Opening {
        needs: Needs::Pairs,
        on_bad_row: OnBadRow::Skip,
        cache: None,
        rejects: Some(&mut lines),
        observer: &mut Unobserved,
    };
    let data = Dataset::open_with(&paths, encoder(), opening).unwrap();
    assert_eq!((data.len(), data.survey().dropped_rows()), (2, 3));
    let rejects: Vec<Value> =
        String::from_utf8(lines).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(rejects.len(), 3);
    assert_eq!((&rejects[0]["file"], &rejects[0]["line"]), (&json!(file.path()), &json!(3)));
    assert_eq!(rejects[0]["row"], r#"{"prompt":"#);
    assert!(rejects[0]["reason"].as_str().unwrap().starts_with("not valid JSON"), "{}", rejects[0]);
    assert_eq!((&rejects[1]["line"], &rejects[1]["row"]), (&json!(4), &json!(long)));
    assert_eq!((&rejects[2]["file"], &rejects[2]["line"]), (&json!(other.path()), &json!(1)));
    assert_eq!(rejects[2]["row"], "\u{FFFD}\u{FFFD}");
}

/// Places of rejects are counted from one to the next; those of the survey anew each time.
#[test]
fn places_are_the_same_by_either_way() {
    let a = written(b"1\n\n2\n\n\n3");
    let (empty, b) = (written(b"\n"), written(b"\n4\n5\n"));
    let rows = Rows::open(&[&a, &empty, &b].map(|file| file.path().to_owned())).unwrap();
    for subset in [&[0usize, 1, 2, 3, 4][..], &[1, 4], &[2, 3], &[0, 2]] {
        let mut cursor = Default::default();
        for &row in subset {
            assert_eq!(rows.place_after(&mut cursor, row), rows.place(row));
        }
    }
}

#[test]
fn duplicates_are_told_apart() {
    let row = |prompt: &str, id: u32| json!({"prompt": prompt, "chosen": " a", "rejected": " b", "id": id}).to_string();
    let text = [
        row("p", 1),
        row("q", 2),
        row("p", 1),                   // a copy of the first
        row("p", 3),                   // its tokens
        row("q", 2) + "  ",            // a copy: line ends are no part of a row
        " ".to_owned() + &row("q", 2), // its tokens alone
    ];
    let file = written((text.join("\n") + "\n").as_bytes());
    for needs in [Needs::Pairs, Needs::Labels] {
        let data = Dataset::open(&[file.path().to_owned()], encoder(), needs, OnBadRow::Error).unwrap();
        let survey = data.survey();
        assert_eq!((survey.copies.rows, survey.same_tokens.rows), (2, 2));
        let places = |repeats: &super::Repeats| repeats.first.as_ref().map(|r| (r.original.1, r.copy.1));
        assert_eq!((places(&survey.copies), places(&survey.same_tokens)), (Some((1, 3)), Some((1, 4))));
    }
}

#[test]
fn lengths_are_counted_before_cuts() {
    let row = |words: usize| json!({"prompt": "p", "chosen": " a".repeat(words), "rejected": " b"}).to_string();
    let long = json!({"prompt": "word ".repeat(400), "chosen": " a", "rejected": " b"}).to_string();
    let file = written(format!("{}\n{}\n{long}\n", row(3), row(600)).as_bytes());
    let data = Dataset::open(&[file.path().to_owned()], encoder(), Needs::Pairs, OnBadRow::Error).unwrap();
    let lengths = &data.survey().lengths;
    assert_eq!((lengths.prompt.count, lengths.answer.count, lengths.total.count, lengths.beyond), (3, 4, 4, 1));
    assert!(lengths.answer.largest >= 600 && lengths.prompt.largest >= 400);
    let rows = data.rows(&[0, 1]).unwrap();
    let sum: usize = rows.iter().flat_map(|row| &row.answers).map(|answer| answer.ids.len()).sum();
    assert_eq!(lengths.answer.sum, sum as u64);
}

#[test]
fn a_split_keeps_prompts_together() {
    let rows: Vec<String> = (0..200)
        .map(|i| {
            json!({"prompt": format!("Question {}?", i / 3), "chosen": format!(" a{i}"), "rejected": " b"}).to_string()
        })
        .collect();
    let file = written(rows.join("\n").as_bytes());
    for needs in [Needs::Pairs, Needs::Labels] {
        let open = || Dataset::open(&[file.path().to_owned()], encoder(), needs, OnBadRow::Error).unwrap();
        let whole = open();
        let split = open().split(0.2, 42).unwrap();
        let all = |data: &Dataset| data.rows(&data.order(Shuffle::Off, 0)).unwrap();
        let (train, out) = (all(&split.train), all(&split.held_out));
        assert!(out.len() * 10 >= whole.len() && out.len() * 5 <= whole.len(), "{} of {}", out.len(), whole.len());
        let prompts = |rows: &[super::EncodedRow]| {
            rows.iter().map(|row| row.prompt.clone()).collect::<std::collections::HashSet<_>>()
        };
        assert!(prompts(&train).is_disjoint(&prompts(&out)));
        assert_eq!(prompts(&out).len(), split.held_out_prompts);
        // every row once, each side in the order of the files
        let mut both = [train, out].concat();
        let mut expected = all(&whole);
        let key = |row: &super::EncodedRow| (row.row, row.answers.clone().first().map(|answer| answer.ids.clone()));
        both.sort_by_key(key);
        expected.sort_by_key(key);
        assert_eq!(both, expected);
        let again = open().split(0.2, 42).unwrap();
        assert_eq!(all(&again.held_out), all(&split.held_out));
        assert_ne!(all(&open().split(0.2, 43).unwrap().held_out), all(&split.held_out));
    }
}
