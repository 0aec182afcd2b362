//! Tests of the sources of rows: every format gives the same tokens, and broken or hostile files are refused without taking more
//! memory than they justify.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use align_kernels::rng::Key;
use serde_json::{Value, json};

use super::{ROWS, goldens, tiny, written};
use crate::progress::{DataObserver, Unobserved};
use crate::row::RowKind;
use crate::set::dataset::Dataset;
use crate::set::open::Opening;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::source::parquet::fault::ParquetFault;
use crate::source::reader::Rows;
use crate::tokens::encode::Encoder;

/// An allocator that counts the bytes that each thread has allocated and not freed. With it, tests check that sizes that a file
/// only claims are not allocated. (What the C library of zstd allocates is not counted.)
struct Noting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

/// Number of calls of [`held_by`] that have not returned.
static MEASURING: AtomicUsize = AtomicUsize::new(0);

fn note(more: usize, less: usize) {
    // if nothing is measured, skip the thread-locals, which are slow
    if MEASURING.load(Ordering::Relaxed) == 0 {
        return;
    }
    // this fails if the thread is ending and its thread-locals are gone
    let _ = HELD.try_with(|held| {
        held.set(held.get() + more as isize - less as isize);
        let _ = MOST.try_with(|most| most.set(most.get().max(held.get())));
    });
}

/// Runs `work`. Returns its result and the largest number of bytes that this thread held at a time, not counting those that it
/// held before.
pub(crate) fn held_by<T>(work: impl FnOnce() -> T) -> (T, usize) {
    MEASURING.fetch_add(1, Ordering::Relaxed);
    let before = HELD.get();
    MOST.set(before);
    let outcome = work();
    MEASURING.fetch_sub(1, Ordering::Relaxed);
    (outcome, (MOST.get() - before) as usize)
}

// SAFETY: every method passes its arguments to `System` unchanged and returns the result. `note` allocates nothing: its
// thread-local `Cell`s have constant initial values and no destructor.
#[expect(unsafe_code, reason = "an allocator is unsafe to implement")]
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: `layout` has a size above 0: `GlobalAlloc::alloc` requires it of the caller.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: `layout` has a size above 0: `GlobalAlloc::alloc_zeroed` requires it of the caller.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // the old and the new block may exist together while the content is copied
        note(bytes, 0);
        note(0, layout.size());
        // SAFETY: `pointer` is memory of this allocator, so `System` allocated it with `layout`. `bytes` is above 0 and does not
        // overflow when rounded up to the alignment: `GlobalAlloc::realloc` requires it of the caller.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: `pointer` is memory of this allocator, so `System` allocated it with `layout`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// Maximum number of bytes that may be held while a file of some kilobytes is read or refused. This allows for buffers of
/// megabytes and for what the data justifies.
const ALLOWED: usize = 24 << 20;

fn parquet(name: &str) -> PathBuf {
    let path = goldens("parquet").join(name);
    assert!(path.exists(), "{}: made by tests/oracles/make_parquet.py", path.display());
    path
}

pub(crate) fn encoder() -> Encoder {
    Encoder::from_model(&tiny("tiny-llama"), None, 256, ROWS).unwrap()
}

fn lines(rows: &Rows) -> Vec<Value> {
    (0..rows.len()).map(|row| serde_json::from_slice(&rows.read(row).unwrap().unwrap()).unwrap()).collect()
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
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
        // several gzip members or zstd frames in a file are one text
        written(&[gzip(&text[..half]), gzip(&text[half..])].concat()),
        written(&[zstd(&text[..half]), zstd(&text[half..])].concat()),
        // a skippable frame in front, as pzstd writes it
        written(&[&[0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3], &zstd(&text)[..]].concat()),
    ];
    let tokens = |path: &Path| {
        let data = Dataset::open(&[path.to_owned()], encoder(), RowKind::Pair, OnBadRow::Error).unwrap();
        data.rows(&data.order(Shuffle::Seeded(1), 0)).unwrap()
    };
    let expected = tokens(&plain);
    assert_eq!(expected.len(), 12);
    for path in PARQUET.map(parquet).iter().map(PathBuf::as_path).chain(packed.iter().map(|file| file.path())) {
        assert_eq!(tokens(path), expected, "{}", path.display());
    }
    let rows = Rows::open(&[packed[0].path().to_owned(), parquet("pairs-v2.parquet")], &ColumnMap::default()).unwrap();
    assert_eq!(rows.len(), 24);
    assert_eq!(rows.place(23), (parquet("pairs-v2.parquet"), 12));
}

#[test]
fn parquet_rows_are_the_objects_of_jsonl() {
    // the map names the one column that nothing reads otherwise
    let columns: ColumnMap = "text=source".parse().unwrap();
    for name in PARQUET {
        assert_eq!(
            lines(&Rows::open(&[parquet(name)], &columns).unwrap()),
            lines(&Rows::open(&[parquet("pairs.jsonl")], &columns).unwrap()),
            "{name}"
        );
    }
    assert_eq!(
        lines(&Rows::open(&[parquet("scored.parquet")], &ColumnMap::default()).unwrap()),
        lines(&Rows::open(&[parquet("scored.jsonl")], &ColumnMap::default()).unwrap())
    );
}

#[test]
fn every_type_has_its_form_in_json() {
    // each column is read in turn as `id`, since an unread column is null
    let mut rows = vec![json!({}); 3];
    let names: Vec<String> = {
        let rows = lines(&Rows::open(&[parquet("types.parquet")], &ColumnMap::default()).unwrap());
        let unread = |(name, value): (&String, &Value)| value.is_null().then(|| name.clone());
        assert_eq!(rows[0].as_object().unwrap().iter().filter_map(unread).count(), 16);
        rows[0].as_object().unwrap().keys().cloned().collect()
    };
    for name in &names {
        let read = lines(&Rows::open(&[parquet("types.parquet")], &format!("id={name}").parse().unwrap()).unwrap());
        for (row, read) in rows.iter_mut().zip(&read) {
            row[name] = read[name].clone();
        }
    }
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
    // the file can be used as labelled rows
    let data = Dataset::open(&[parquet("types.parquet")], encoder(), RowKind::Labelled, OnBadRow::Error).unwrap();
    assert_eq!((data.len(), data.survey().ignored_columns.len()), (3, 16));
}

#[test]
fn a_type_without_a_form_in_json_is_named() {
    let open = |map: &str| Rows::open(&[parquet("binary.parquet")], &map.parse().unwrap());
    assert_eq!(lines(&open("").unwrap()), [json!({"prompt": "a", "picture": null})]);
    let error = open("id=picture").unwrap_err();
    assert!(
        matches!(&error, SourceError::Parquet { fault: ParquetFault::Type { column, .. }, .. } if column == "picture")
    );
    let text = error.to_string();
    assert!(text.contains("binary.parquet: column `picture` is binary (BYTE_ARRAY)"), "{text}");
    assert!(matches!(Rows::open(&[parquet("no-rows.parquet")], &ColumnMap::default()), Err(SourceError::Empty { .. })));
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
        let message = Rows::open(&[written(bytes).path().to_owned()], &ColumnMap::default()).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("supported: JSONL"), "{message}");
    }
    let parquet = std::fs::read(parquet("scored.parquet")).unwrap();
    for (bytes, inside) in [(gzip(&gzip(text)), "gzip"), (gzip(&tar), "a tar archive"), (zstd(&parquet), "Parquet")] {
        let message = Rows::open(&[written(&bytes).path().to_owned()], &ColumnMap::default()).unwrap_err().to_string();
        assert!(
            message.contains(&format!("it is {inside}; only JSONL, JSON arrays and CSV are read in compressed files")),
            "{message}"
        );
    }
}

/// Opens the rows and reads them all. Returns whether they could be opened, and checks how much memory was held.
fn survives(bytes: &[u8], what: &str) -> bool {
    let file = written(bytes);
    let (outcome, held) = held_by(|| {
        Rows::open(&[file.path().to_owned()], &ColumnMap::default()).map(|rows| {
            (0..rows.len()).for_each(|row| drop(rows.read(row).unwrap()));
        })
    });
    assert!(held <= ALLOWED, "{what}: {held} bytes are held");
    outcome.is_ok()
}

#[test]
fn one_array_is_its_elements() {
    let text = "\u{FEFF}\n [{\"prompt\": \"p\"},\n\n{\"prompt\":\n \"[q],\"}, 7]\n";
    for bytes in [text.as_bytes().to_vec(), gzip(text.as_bytes()), zstd(text.as_bytes())] {
        let file = written(&bytes);
        let rows = Rows::open(&[file.path().to_owned()], &ColumnMap::default()).unwrap();
        assert_eq!(lines(&rows), [json!({"prompt": "p"}), json!({"prompt": "[q],"}), json!(7)]);
        assert_eq!(rows.blank_lines(), 0);
        assert_eq!([0, 1, 2].map(|row| rows.place(row).1), [2, 4, 5]);
    }
    let open =
        |text: &str| Rows::open(&[written(text.as_bytes()).path().to_owned()], &ColumnMap::default()).unwrap_err();
    assert!(open("[").to_string().ends_with(":1: the JSON array does not end; is the file complete?"));
    assert!(open("[{}]\n{}").to_string().ends_with(":2: the JSON array has ended, and more follows"));
    assert!(matches!(open("[ ]\n"), SourceError::Empty { .. }));
}

#[test]
fn csv_gives_the_tokens_of_jsonl() {
    let folder = tempfile::tempdir().unwrap();
    let pairs = [
        json!({"prompt": "Say \"a, b\":\n", "chosen": " a,\r\nb", "rejected": " c", "margin": 0.5}),
        json!({"prompt": "é", "chosen": " d", "rejected": " e", "margin": null}),
    ];
    let jsonl = pairs.iter().map(|row| format!("{row}\n")).collect::<String>();
    let cell = |value: &Value| match value {
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let table = |delimiter: &str, end: &str| {
        let names = ["prompt", "chosen", "rejected", "margin"];
        let row = |row: &Value| names.map(|name| cell(&row[name])).join(delimiter);
        let lines = std::iter::once(names.join(delimiter)).chain(pairs.iter().map(row));
        lines.map(|line| line + end).collect::<String>().into_bytes()
    };
    let tokens = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let data = Dataset::open(&[path], encoder(), RowKind::Pair, OnBadRow::Error).unwrap();
        assert_eq!(data.survey().numbers.margin, 1, "{name}");
        data.rows(&[0, 1]).unwrap()
    };
    let expected = tokens("rows.jsonl", jsonl.as_bytes());
    for (name, bytes) in [
        ("rows.csv", table(",", "\n")),
        ("crlf.csv", table(",", "\r\n")),
        ("bom.csv", [b"\xEF\xBB\xBF".to_vec(), table(",", "\n")].concat()),
        ("rows", table(",", "\n")),
        ("rows.tsv", table("\t", "\n")),
        ("semicolons.csv", table(";", "\n")),
        ("rows.csv.gz", gzip(&table(",", "\n"))),
        ("rows.tsv.zst", zstd(&table("\t", "\r\n"))),
    ] {
        assert_eq!(tokens(name, &bytes), expected, "{name}");
    }
    let path = folder.path().join("bad.csv");
    std::fs::write(&path, "prompt,chosen,rejected\n\"a\nb\",c,d\n\na,b\n").unwrap();
    let error = Dataset::open(std::slice::from_ref(&path), encoder(), RowKind::Pair, OnBadRow::Error).unwrap_err();
    assert!(error.to_string().contains("bad.csv:5: the row has 2 cells, the header 3"), "{error}");
    let data = Dataset::open(std::slice::from_ref(&path), encoder(), RowKind::Pair, OnBadRow::Skip).unwrap();
    assert_eq!((data.len(), data.survey().blank_lines, data.survey().dropped_rows()), (1, 1, 1));
    std::fs::write(&path, "prompt,chosen,rejected\na,b,\"c\n").unwrap();
    let error = Dataset::open(&[path], encoder(), RowKind::Pair, OnBadRow::Error).unwrap_err();
    assert!(
        error.to_string().contains("bad.csv:2: a quote opens in the row at this line and does not close"),
        "{error}"
    );
}

#[test]
fn a_file_without_rows_among_others_is_said() {
    struct Notes(Vec<String>);
    impl DataObserver for Notes {
        fn note(&mut self, text: String) {
            self.0.push(text);
        }
    }
    let notes = |texts: &[&str]| {
        let files: Vec<_> = texts.iter().map(|text| written(text.as_bytes())).collect();
        let paths: Vec<PathBuf> = files.iter().map(|file| file.path().to_owned()).collect();
        let mut notes = Notes(Vec::new());
        Rows::open_observed(&paths, &ColumnMap::default(), &mut notes).unwrap();
        (notes.0, paths)
    };
    assert_eq!(notes(&["{}", "{}"]).0, Vec::<String>::new());
    let (found, paths) = notes(&["{}", "\n \n", "{}"]);
    assert_eq!(found, [format!("no row in {}", paths[1].display())]);
    let (found, paths) = notes(&["", "{}", "\n", ""]);
    assert_eq!(found, [format!("no row in {}, and in 2 more of 4 files", paths[0].display())]);
}

/// Environment variable that names the folder of files for the test below. The test runs itself again in other processes, since
/// each process has its own limit on open files.
const MANY_FILES: &str = "ALIGN_TEST_MANY_FILES";

#[test]
fn more_files_than_a_process_usually_opens_are_read() {
    if let Some(folder) = std::env::var_os(MANY_FILES) {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        match Rows::open(&paths, &ColumnMap::default()) {
            Ok(rows) => {
                let all: Vec<Value> = (0..300).map(Value::from).collect();
                assert_eq!(lines(&rows), all);
                println!("all rows are there");
            }
            Err(error) => println!("{error}"),
        }
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for i in 0..300 {
        let text = format!("{i}\n");
        let bytes = if i % 2 == 0 { text.into_bytes() } else { gzip(text.as_bytes()) };
        std::fs::write(folder.path().join(format!("{i:03}.jsonl")), bytes).unwrap();
    }
    let with = |limit: &str| {
        let this = "tests::sources::more_files_than_a_process_usually_opens_are_read";
        let output = std::process::Command::new("sh")
            .args(["-c", &format!("ulimit {limit} && exec \"$0\" --exact {this} --nocapture")])
            .arg(std::env::current_exe().unwrap())
            .env(MANY_FILES, folder.path())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    assert!(with("-S -n 100").contains("all rows are there"));
    // under this hard limit, the process cannot raise its own limit
    let text = with("-n 100");
    assert!(text.contains("300 data files, and a process may have 100 open here; allow more (ulimit -n)"), "{text}");
}

#[test]
fn truncated_files_are_refused() {
    let text = std::fs::read(parquet("pairs.jsonl")).unwrap();
    let parquet = std::fs::read(parquet("pairs-zstd.parquet")).unwrap();
    for (name, bytes, shortest) in [("gzip", gzip(&text), 2), ("zstd", zstd(&text), 4), ("Parquet", parquet, 4)] {
        for cut in (shortest..bytes.len()).step_by(bytes.len() / 40) {
            assert!(!survives(&bytes[..cut], name), "{name}: {cut} of {} bytes were read", bytes.len());
        }
        let message = Rows::open(&[written(&bytes[..bytes.len() / 2]).path().to_owned()], &ColumnMap::default())
            .unwrap_err()
            .to_string();
        assert!(message.contains("complete?") && message.contains(name), "{message}");
    }
}

/// Changes some bytes of sound files. Each file is refused or read, without a panic and without a large allocation.
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
                // half of the faults are in the last kilobyte, where footers are
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
        kind: Some(RowKind::Pair),
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

/// `place_after` counts lines from the row of the last call on, and `place` from the start of the file. The places must be the
/// same.
#[test]
fn places_are_the_same_by_either_way() {
    let a = written(b"1\n\n2\n\n\n3");
    let (empty, b) = (written(b"\n"), written(b"\n4\n5\n"));
    let rows = Rows::open(&[&a, &empty, &b].map(|file| file.path().to_owned()), &ColumnMap::default()).unwrap();
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
        row("p", 3),                   // only the same tokens as the first
        row("q", 2) + "  ",            // a copy of the second: blanks at its end are not part of a row
        " ".to_owned() + &row("q", 2), // only the same tokens as the second
    ];
    let file = written((text.join("\n") + "\n").as_bytes());
    for kind in [RowKind::Pair, RowKind::Labelled] {
        let data = Dataset::open(&[file.path().to_owned()], encoder(), kind, OnBadRow::Error).unwrap();
        let survey = data.survey();
        assert_eq!((survey.copies.rows, survey.same_tokens.rows), (2, 2));
        let places =
            |repeats: &crate::set::duplicates::Repeats| repeats.first.as_ref().map(|r| (r.original.1, r.copy.1));
        assert_eq!((places(&survey.copies), places(&survey.same_tokens)), (Some((1, 3)), Some((1, 4))));
    }
}

#[test]
fn lengths_are_counted_before_cuts() {
    let row = |words: usize| json!({"prompt": "p", "chosen": " a".repeat(words), "rejected": " b"}).to_string();
    let long = json!({"prompt": "word ".repeat(400), "chosen": " a", "rejected": " b"}).to_string();
    let file = written(format!("{}\n{}\n{long}\n", row(3), row(600)).as_bytes());
    let data = Dataset::open(&[file.path().to_owned()], encoder(), RowKind::Pair, OnBadRow::Error).unwrap();
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
    for kind in [RowKind::Pair, RowKind::Labelled] {
        let open = || Dataset::open(&[file.path().to_owned()], encoder(), kind, OnBadRow::Error).unwrap();
        let whole = open();
        let split = open().split(0.2, 42).unwrap();
        let all = |data: &Dataset| data.rows(&data.order(Shuffle::Off, 0)).unwrap();
        let (train, out) = (all(&split.train), all(&split.held_out));
        assert!(out.len() * 10 >= whole.len() && out.len() * 5 <= whole.len(), "{} of {}", out.len(), whole.len());
        let prompts = |rows: &[crate::row::EncodedRow]| {
            rows.iter().map(|row| row.prompt.clone()).collect::<std::collections::HashSet<_>>()
        };
        assert!(prompts(&train).is_disjoint(&prompts(&out)));
        assert_eq!(prompts(&out).len(), split.held_out_prompts);
        // every row is on exactly one side
        let mut both = [train, out].concat();
        let mut expected = all(&whole);
        let key =
            |row: &crate::row::EncodedRow| (row.row, row.answers.clone().first().map(|answer| answer.ids.clone()));
        both.sort_by_key(key);
        expected.sort_by_key(key);
        assert_eq!(both, expected);
        let again = open().split(0.2, 42).unwrap();
        assert_eq!(all(&again.held_out), all(&split.held_out));
        assert_ne!(all(&open().split(0.2, 43).unwrap().held_out), all(&split.held_out));
    }
}
