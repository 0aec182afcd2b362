//! Tests of the token cache: a hit gives the same bits as a miss, an entry is stale if something that decides the tokens has
//! changed, and a damaged entry is made again.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{ROWS, goldens, tiny};
use crate::progress::{DataObserver, DataProgress, Stage};
use crate::row::{Answer, EncodedRow, RowKind, RowNumbers, Target};
use crate::set::dataset::Dataset;
use crate::set::error::DataError;
use crate::set::ingredients::VERSION;
use crate::set::open::Opening;
use crate::set::options::OnBadRow;
use crate::set::options::Shuffle;
use crate::set::token_cache::{TokenCache, encode};
use crate::source::column_map::ColumnMap;
use crate::source::error::SourceError;
use crate::tokens::encode::{Encoded, Encoder, LongAnswers};
use crate::tokens::sft_part::SftPart;

/// Keeps the notes, details and progress that it receives.
#[derive(Default)]
struct Heard {
    notes: Vec<String>,
    progress: Vec<DataProgress>,
}

impl DataObserver for Heard {
    fn progress(&mut self, progress: DataProgress) {
        self.progress.push(progress);
    }
    fn note(&mut self, text: String) {
        self.notes.push(text);
    }
    fn detail(&mut self, text: String) {
        self.notes.push(text);
    }
}

/// A model directory, data and a cache in a temporary folder, and options. Tests change them.
struct Bench {
    folder: tempfile::TempDir,
    kind: Option<RowKind>,
    on_bad_row: OnBadRow,
    max_length: usize,
    rows: usize,
    columns: &'static str,
    sft_on: Option<SftPart>,
    long_answers: LongAnswers,
    template: Option<PathBuf>,
    data: Vec<PathBuf>,
}

impl Bench {
    fn new() -> Bench {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model");
        std::fs::create_dir(&model).unwrap();
        for entry in std::fs::read_dir(tiny("tiny-llama")).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name().to_str().unwrap().ends_with(".json") {
                std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
            }
        }
        let data = folder.path().join("rows.jsonl");
        let rows: Vec<String> = (0..40)
            .map(|i| match i {
                7 => "{broken".to_owned(),
                i => json!({"prompt": format!("Question {}?", i / 2), "chosen": " a".repeat(i), "rejected": " b", "id": i}).to_string(),
            })
            .collect();
        std::fs::write(&data, rows.join("\n")).unwrap();
        Bench {
            folder,
            kind: Some(RowKind::Pair),
            on_bad_row: OnBadRow::Skip,
            max_length: 48,
            rows: ROWS,
            columns: "",
            sft_on: None,
            long_answers: LongAnswers::Cut,
            template: None,
            data: vec![data],
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn cache(&self) -> TokenCache {
        TokenCache::new(self.path("cache"))
    }

    fn entries(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.path("cache")).into_iter().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        paths
    }

    fn encoder(&self) -> Encoder {
        let encoder = Encoder::from_model(&self.path("model"), self.template.as_deref(), self.max_length, self.rows);
        let encoder = encoder.unwrap().with_reading(self.columns.parse::<ColumnMap>().unwrap().into());
        encoder.with_sft_on(self.sft_on).with_long_answers(self.long_answers)
    }

    /// Replaces the pairs in the data file with sequences.
    fn of_sequences(self) -> Bench {
        let row = |i: usize| {
            json!({"prompt": [{"role": "user", "content": format!("Question {i}?")}], "weight": i,
                   "completion": [{"role": "assistant", "content": "yes"}]})
        };
        let rows: Vec<String> = (0..9).map(|i| row(i).to_string()).collect();
        std::fs::write(&self.data[0], rows.join("\n")).unwrap();
        Bench { kind: Some(RowKind::Sequence), ..self }
    }

    fn opening<'a>(&self, cache: Option<&'a TokenCache>, observer: &'a mut dyn DataObserver) -> Opening<'a> {
        Opening { kind: self.kind, on_bad_row: self.on_bad_row, cache, rejects: None, observer }
    }

    fn open_with(&self, cache: Option<&TokenCache>) -> (Result<Dataset, DataError>, Heard, Vec<u8>) {
        let encoder = self.encoder();
        let (mut heard, mut rejects) = (Heard::default(), Vec::new());
        let opening = Opening { rejects: Some(&mut rejects), ..self.opening(cache, &mut heard) };
        (Dataset::open_with(&self.data, encoder, opening), heard, rejects)
    }

    fn open(&self) -> (Dataset, Heard, Vec<u8>) {
        let (data, heard, rejects) = self.open_with(Some(&self.cache()));
        (data.unwrap(), heard, rejects)
    }

    /// Opens the data set and returns in a word what the notes say about the cache. Checks that tokens and rejects are the same as
    /// without a cache.
    fn outcome(&self) -> &'static str {
        let (data, heard, rejects) = self.open();
        let (plain, _, plain_rejects) = self.open_with(None);
        assert_eq!(tokens(&data), tokens(&plain.unwrap()));
        assert_eq!(rejects, plain_rejects);
        match &heard.notes[..] {
            [one] if one.contains("are those of") => "hit",
            [one] if one.contains("are kept in") => "miss",
            [first, second] if first.contains("has changed") && second.contains("are kept in") => "stale",
            [first, second] if first.contains("damaged") && second.contains("are kept in") => "damaged",
            other => panic!("{other:?}"),
        }
    }
}

fn tokens(data: &Dataset) -> Vec<EncodedRow> {
    data.rows(&data.order(Shuffle::Seeded(9), 3)).unwrap()
}

#[test]
fn a_hit_is_the_miss_bit_for_bit() {
    for kind in [Some(RowKind::Pair), Some(RowKind::Labelled), None] {
        let bench = Bench { kind, ..Bench::new() };
        let (plain, _, plain_rejects) = bench.open_with(None);
        let plain = plain.unwrap();
        let (miss, said, rejects) = bench.open();
        assert!(said.notes[0].contains("are kept in"), "{:?}", said.notes);
        assert!(said.progress.iter().any(|p| p.stage == Stage::Tokenising && p.done == 40 && p.total == 40));
        let (hit, heard, again) = bench.open();
        assert!(heard.notes[0].contains("are those of"), "{:?}", heard.notes);
        let stages: Vec<Stage> = heard.progress.iter().map(|p| p.stage).collect();
        assert!(stages.contains(&Stage::Comparing) && stages.contains(&Stage::Checking));
        assert!(!stages.iter().any(|stage| [Stage::Reading, Stage::Tokenising].contains(stage)), "{stages:?}");
        assert!(!rejects.is_empty() && rejects == again && rejects == plain_rejects);
        for data in [&miss, &hit] {
            assert_eq!(tokens(data), tokens(&plain));
            assert_eq!(data.survey(), plain.survey());
            assert_eq!(data.records(), plain.records());
            for i in 0..plain.len() {
                assert_eq!(data.lengths(i), plain.lengths(i));
            }
            // rows that are left out are not in the cache, so they are read again
            assert_eq!(data.outcomes(0..40).unwrap(), plain.outcomes(0..40).unwrap());
        }
        let split = |data: Dataset| tokens(&data.split(0.3, 1).unwrap().held_out);
        assert_eq!(split(hit), split(plain));
    }
}

#[test]
fn the_rows_of_a_hit_need_no_data_file() {
    let bench = Bench::new();
    let (miss, ..) = bench.open();
    let (hit, ..) = bench.open();
    let expected = tokens(&miss);
    std::fs::remove_file(&bench.data[0]).unwrap();
    assert_eq!(tokens(&hit), expected);
    assert!(matches!(&hit.outcomes(0..1).unwrap()[..], [Encoded::Kept(_)]), "what is kept comes from the cache");
    assert!(
        matches!(hit.outcomes(6..8), Err(DataError::Source(SourceError::Io { .. }))),
        "why the other is left out stands in the file"
    );
}

/// Changes one thing at a time. If it decides the tokens, the old entry is not used, and the tokens are the new ones.
#[test]
fn whatever_decides_the_tokens_makes_an_entry_stale() {
    let edit = |path: PathBuf, change: &dyn Fn(&mut Value)| {
        let mut value: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        change(&mut value);
        std::fs::write(path, value.to_string()).unwrap();
    };
    type Change<'a> = (&'static str, &'static str, &'a dyn Fn(&mut Bench));
    let changes: [Change<'_>; 16] = [
        ("nothing", "hit", &|_| {}),
        ("a byte of the data, of the same length and time", "stale", &|bench| {
            let path = &bench.data[0];
            let time = path.metadata().unwrap().modified().unwrap();
            let text = std::fs::read_to_string(path).unwrap().replacen("Question 3", "Question 4", 1);
            std::fs::write(path, text).unwrap();
            std::fs::File::open(path).unwrap().set_modified(time).unwrap();
        }),
        ("the time of the data alone", "hit", &|bench| {
            std::fs::File::open(&bench.data[0]).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }),
        ("one more row", "stale", &|bench| {
            let mut text = std::fs::read_to_string(&bench.data[0]).unwrap();
            text += "\n{\"prompt\": \"p\", \"chosen\": \" c\", \"rejected\": \" r\"}";
            std::fs::write(&bench.data[0], text).unwrap();
        }),
        ("the name of the data", "miss", &|bench| {
            std::fs::copy(&bench.data[0], bench.path("other.jsonl")).unwrap();
            bench.data[0] = bench.path("other.jsonl");
        }),
        ("the tokenizer", "stale", &|bench| {
            edit(bench.path("model/tokenizer.json"), &|tokenizer| {
                tokenizer["normalizer"] = json!({"type": "Lowercase"})
            });
        }),
        ("a special token", "stale", &|bench| {
            edit(bench.path("model/tokenizer_config.json"), &|config| {
                config["eos_token"] = config["bos_token"].clone()
            });
        }),
        ("the stop tokens", "stale", &|bench| {
            edit(bench.path("model/generation_config.json"), &|config| config["eos_token_id"] = json!([1, 2, 3]));
        }),
        ("the template", "miss", &|bench| {
            std::fs::write(bench.path("t.jinja"), "{{ messages[0].content }}").unwrap();
            bench.template = Some(bench.path("t.jinja"));
        }),
        ("special_tokens_map.json", "stale", &|bench| {
            // this file is read in a model directory of the older form, as made below
            let pad = r#"{"eos_token": "<|end_of_text|>", "pad_token": "<|eot_id|>"}"#;
            std::fs::write(bench.path("model/special_tokens_map.json"), pad).unwrap();
        }),
        ("added_tokens.json", "stale", &|bench| {
            std::fs::write(bench.path("model/added_tokens.json"), "{}").unwrap();
        }),
        ("the size of the vocabulary", "stale", &|bench| bench.rows = 4097),
        ("what becomes of long answers", "miss", &|bench| bench.long_answers = LongAnswers::Dropped),
        ("--columns", "miss", &|bench| bench.columns = "chosen=rejected,rejected=chosen"),
        ("--max-length", "miss", &|bench| bench.max_length = 40),
        ("what the loss needs", "miss", &|bench| bench.kind = Some(RowKind::Labelled)),
    ];
    for (what, expected, change) in changes {
        let mut bench = Bench::new();
        std::fs::write(bench.path("model/generation_config.json"), "{}").unwrap();
        // the older form of a model directory: no `added_tokens_decoder`, but special_tokens_map.json
        edit(bench.path("model/tokenizer_config.json"), &|config| {
            config.as_object_mut().unwrap().remove("added_tokens_decoder");
        });
        std::fs::write(bench.path("model/special_tokens_map.json"), "{}").unwrap();
        assert_eq!(bench.outcome(), "miss", "{what}");
        change(&mut bench);
        assert_eq!(bench.outcome(), expected, "{what}");
        assert_eq!(bench.outcome(), "hit", "{what}, again");
    }

    // another text in the same template file
    let mut bench = Bench::new();
    bench.template = Some(bench.path("t.jinja"));
    let write = |text: &str| std::fs::write(bench.path("t.jinja"), text).unwrap();
    write("{{ messages[0].content }}");
    assert_eq!(bench.outcome(), "miss");
    write("{{ messages[0].content }} ");
    assert_eq!(bench.outcome(), "stale");
    write("{{ messages[0].content }}{{ strftime_now('%H') }}");
    assert_eq!(bench.outcome(), "stale");
    // another choice of the part of sequences that is scored
    let mut bench = Bench::new().of_sequences();
    assert_eq!(bench.outcome(), "miss");
    for part in [SftPart::All, SftPart::Assistant] {
        bench.sft_on = Some(part);
        assert_eq!((bench.outcome(), bench.outcome()), ("miss", "hit"), "{part:?}");
    }
    // the option for bad rows decides which rows there are, so it counts even if no row is bad
    let mut bench = Bench::new().of_sequences();
    assert_eq!(bench.outcome(), "miss");
    bench.on_bad_row = OnBadRow::Error;
    assert_eq!((bench.outcome(), bench.outcome()), ("miss", "hit"));
    let mut bench = Bench::new();
    assert_eq!(bench.outcome(), "miss");
    bench.on_bad_row = OnBadRow::Error;
    assert!(matches!(bench.open_with(Some(&bench.cache())).0, Err(DataError::Row { line: 8, .. })));
    assert_eq!(bench.entries().len(), 1, "a run that fails leaves nothing");
}

/// Pins the bytes of entries. If this fails, the format or the tokens have changed, and older entries would be used wrongly unless
/// VERSION is raised.
#[test]
fn an_entry_is_as_it_was_when_the_version_was_given() {
    let mut hasher = blake3::Hasher::new();
    for (model, kind, data) in [
        ("tiny-llama", RowKind::Pair, "pairs.jsonl"),
        ("tiny-qwen2", RowKind::Sequence, "pairs.jsonl"),
        ("tiny-gemma2", RowKind::Labelled, "kto.jsonl"),
        ("tiny-mistral", RowKind::Pair, "parquet/pairs-zstd.parquet"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let encoder = Encoder::from_model(&tiny(model), None, 128, ROWS).unwrap();
        let (cache, mut heard) = (TokenCache::new(folder.path().to_owned()), Heard::default());
        let opening = Opening {
            kind: Some(kind),
            on_bad_row: OnBadRow::Skip,
            cache: Some(&cache),
            rejects: None,
            observer: &mut heard,
        };
        Dataset::open_with(&[goldens(data)], encoder, opening).unwrap();
        let entry = std::fs::read_dir(folder.path()).unwrap().next().expect("an entry").unwrap().path();
        let bytes = std::fs::read(entry).unwrap();
        // everything is hashed except the ingredients, which are the fourth part, and the tail, which has their length and the
        // checksum
        let tail = &bytes[bytes.len() - 88..];
        let lengths: Vec<usize> =
            tail[..48].chunks_exact(8).map(|eight| u64::from_le_bytes(eight.try_into().unwrap()) as usize).collect();
        let ingredients = 8 + lengths[..3].iter().sum::<usize>();
        hasher.update(&bytes[..ingredients]);
        hasher.update(&bytes[ingredients + lengths[3]..bytes.len() - 88]);
    }
    let found = (VERSION, hasher.finalize().to_hex().to_string());
    assert_eq!(
        found,
        (9, PINNED_ENTRY.to_owned()),
        "entries have changed: raise VERSION in ingredients.rs, then write the new hash down here"
    );
}
const PINNED_ENTRY: &str = "2ce1c6a31e3759d1bb12d11d6a7086cedde6bfa1e17437c5061a3124adbe8a7c";

/// A file of the model may be replaced after the tokenizer was read and before the cache is looked at. The tokens are then kept
/// for the tokenizer that made them.
#[test]
fn tokens_are_kept_for_the_tokenizer_that_made_them() {
    let bench = Bench::new();
    let encoder = bench.encoder();
    let path = bench.path("model/tokenizer.json");
    let before = std::fs::read(&path).unwrap();
    let mut tokenizer: Value = serde_json::from_slice(&before).unwrap();
    tokenizer["normalizer"] = json!({"type": "Lowercase"});
    std::fs::write(&path, tokenizer.to_string()).unwrap();
    let (cache, mut heard) = (bench.cache(), Heard::default());
    Dataset::open_with(&bench.data, encoder, bench.opening(Some(&cache), &mut heard)).unwrap();
    assert_eq!(bench.outcome(), "stale", "the new tokenizer has no tokens yet");
    std::fs::write(&path, before).unwrap();
    assert_eq!(bench.outcome(), "stale");
}

/// Replaces the data file once its content has been compared.
struct Swapper<'a> {
    data: &'a Path,
    with: &'a Path,
}

impl DataObserver for Swapper<'_> {
    fn progress(&mut self, progress: DataProgress) {
        if progress.stage == Stage::Comparing && progress.done == progress.total && self.with.exists() {
            std::fs::rename(self.with, self.data).unwrap();
        }
    }
}

#[test]
fn data_that_is_replaced_after_the_look_at_it_is_noticed() {
    let bench = Bench::new();
    let other = bench.path("other.jsonl");
    let text = std::fs::read_to_string(&bench.data[0]).unwrap();
    std::fs::write(&other, text.replace("Question", "Westions")).unwrap();
    let time = bench.data[0].metadata().unwrap().modified().unwrap();
    std::fs::File::open(&other).unwrap().set_modified(time).unwrap();
    let (cache, mut swapper) = (bench.cache(), Swapper { data: &bench.data[0], with: &other });
    let opened = Dataset::open_with(&bench.data, bench.encoder(), bench.opening(Some(&cache), &mut swapper));
    assert!(matches!(opened, Err(DataError::Source(SourceError::Changed { .. }))), "{:?}", opened.map(|_| ()));
    assert_eq!(bench.outcome(), "miss", "nothing was kept");
}

/// A hit does not read the rows of the data file, so the file may have changed by the time a row is read from it.
#[test]
fn data_that_shrinks_after_a_hit_is_an_error_and_no_panic() {
    let bench = Bench::new();
    bench.open();
    let (hit, ..) = bench.open();
    let text = std::fs::read_to_string(&bench.data[0]).unwrap();
    let lines: Vec<&str> = text.lines().take(5).collect();
    std::fs::write(&bench.data[0], lines.join("\n")).unwrap();
    assert!(matches!(hit.outcomes(7..8), Err(DataError::Source(SourceError::Changed { .. }))));
    assert!(matches!(hit.outcomes(0..40), Err(DataError::Source(SourceError::Changed { .. }))));
}

/// Unpacked data is on the disk only until its tokens are kept, not for the whole run. If no kind of rows is given, it stays.
#[test]
fn unpacked_data_is_gone_once_its_tokens_are_kept() {
    for (kind, stays) in [(Some(RowKind::Pair), false), (None, true)] {
        let bench = Bench { data: vec![goldens("parquet/pairs-zstd.parquet")], kind, max_length: 128, ..Bench::new() };
        let (plain, ..) = bench.open_with(None);
        let (data, heard, _) = bench.open();
        assert!(heard.notes[0].contains("are kept in"), "{:?}", heard.notes);
        assert_eq!(data.sources.are_open(), stays, "{kind:?}");
        assert_eq!(tokens(&data), tokens(&plain.unwrap()));
        assert_eq!(data.outcomes(0..data.records()).unwrap().len(), data.records());
    }
}

/// Survey and rejects name the files as this run was given them.
#[test]
fn a_hit_names_the_files_as_they_are_given_now() {
    let mut bench = Bench::new();
    let (miss, _, first) = bench.open();
    let roundabout = bench.path("model/../rows.jsonl");
    bench.data = vec![roundabout.clone()];
    // std::path::absolute keeps `..`, so this is another name and another entry
    assert_eq!(bench.outcome(), "miss");
    std::os::unix::fs::symlink(bench.path("rows.jsonl"), bench.path("link.jsonl")).unwrap();
    bench.data = vec![bench.path("./rows.jsonl")];
    let (hit, heard, again) = bench.open();
    assert!(heard.notes[0].contains("are those of"), "{:?}", heard.notes);
    assert_eq!(hit.survey().dropped[0].path.as_os_str(), bench.data[0].as_os_str());
    assert_ne!(miss.survey().dropped[0].path.as_os_str(), bench.data[0].as_os_str());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert!(text(&again).contains("/./rows.jsonl") && !text(&first).contains("/./"));
    assert_eq!(text(&again).replace("/./", "/"), text(&first));
}

/// A file name that is not UTF-8 stays the same in the survey. In the rejects, its bytes become replacement characters.
#[test]
fn a_name_that_is_not_utf8_is_kept_and_said() {
    use std::os::unix::ffi::OsStrExt;
    let mut bench = Bench::new();
    let odd = bench.folder.path().join(std::ffi::OsStr::from_bytes(b"r\xFFws.jsonl"));
    std::fs::copy(&bench.data[0], &odd).unwrap();
    bench.data = vec![odd.clone()];
    assert_eq!((bench.outcome(), bench.outcome()), ("miss", "hit"));
    let (hit, _, rejects) = bench.open();
    assert_eq!(hit.survey().dropped[0].path, odd);
    assert!(String::from_utf8(rejects).unwrap().contains("r\u{FFFD}ws.jsonl"));
}

/// Every writer gets the right tokens, whichever entry is left.
#[test]
fn processes_that_write_one_entry_do_not_disturb_each_other() {
    let bench = Bench::new();
    let expected = tokens(&bench.open_with(None).0.unwrap());
    std::thread::scope(|scope| {
        let open = || tokens(&bench.open().0);
        let started: Vec<_> = (0..6).map(|_| scope.spawn(open)).collect();
        for thread in started {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
    assert_eq!(bench.entries().len(), 1, "nothing is left beside it");
    assert_eq!(bench.outcome(), "hit");

    // another file takes the place of our entry while it is in use
    let (ours, ..) = bench.open_with(Some(&TokenCache::new(bench.path("own"))));
    let ours = ours.unwrap();
    let [entry] = &std::fs::read_dir(bench.path("own")).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>()[..]
    else {
        panic!("one entry")
    };
    std::fs::write(bench.path("another"), "shorter").unwrap();
    std::fs::rename(bench.path("another"), entry).unwrap();
    assert_eq!(tokens(&ours), expected);
}

/// A file that a killed run leaves behind is not taken for an entry, and a later run removes it once it is old.
#[test]
fn a_run_that_was_killed_leaves_no_entry() {
    let bench = Bench::new();
    let left = bench.path("cache/.tmp-killed");
    std::fs::create_dir(bench.path("cache")).unwrap();
    std::fs::write(&left, "half an entry").unwrap();
    assert_eq!((bench.outcome(), bench.outcome()), ("miss", "hit"));
    assert!(left.exists(), "it may be that of a run that goes on");
    std::fs::File::open(&left).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    std::fs::remove_file(bench.entries().into_iter().find(|path| *path != left).unwrap()).unwrap();
    assert_eq!(bench.outcome(), "miss");
    assert!(!left.exists());
}

#[test]
fn a_damaged_entry_is_made_anew() {
    let bench = Bench::new();
    assert_eq!(bench.outcome(), "miss");
    let [path] = &bench.entries()[..] else { panic!("one entry") };
    let sound = std::fs::read(path).unwrap();
    let mut broken: Vec<Vec<u8>> = vec![Vec::new(), vec![0; 300], [&sound[..], b"x"].concat(), vec![0xFF; sound.len()]];
    broken.extend((0..sound.len()).step_by(sound.len() / 15).map(|cut| sound[..cut].to_vec()));
    broken.extend((0..sound.len()).step_by(sound.len() / 60).map(|at| {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x41;
        bytes
    }));
    for bytes in broken {
        std::fs::write(path, &bytes).unwrap();
        // if the damage changes an ingredient, the entry counts as stale
        let outcome = bench.outcome();
        assert!(["damaged", "stale"].contains(&outcome), "{outcome}");
        assert_eq!(std::fs::read(path).unwrap(), sound, "it is as it was");
    }
}

/// A forged entry can have the right checksums. Then reading an unsound row is an error and does not panic.
#[test]
fn a_forged_row_is_an_error() {
    let bench = Bench::new();
    let (_, heard, _) = bench.open();
    assert_eq!(heard.notes.len(), 1);
    let [path] = &bench.entries()[..] else { panic!("one entry") };
    let mut bytes = std::fs::read(path).unwrap();
    let (data, ..) = bench.open();
    let row = tokens(&data).into_iter().find(|row| row.row == 3).unwrap();
    let at = |row: &EncodedRow| {
        let row = encode(row);
        let at = bytes.windows(row.len()).position(|window| window == row).expect("the entry holds the row");
        at..at + row.len()
    };
    let place = at(&row);
    // the answer claims more kept tokens than it has: slicing the ids would panic
    let answer = Answer { kept: 100, ..row.answers[0].clone() };
    let forged = encode(&EncodedRow { answers: vec![answer, row.answers[1].clone()], ..row });
    bytes[place].copy_from_slice(&forged);
    let end = bytes.len() - 40;
    let checksum = blake3::hash(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(checksum.as_bytes());
    std::fs::write(path, &bytes).unwrap();
    let (data, heard, _) = bench.open();
    assert!(heard.notes[0].contains("are those of"), "its checksum is right: {:?}", heard.notes);
    match data.rows(&data.order(Shuffle::Off, 0)) {
        Err(DataError::Cache { why, .. }) => assert!(why.contains("not as it was written"), "{why}"),
        other => panic!("{other:?}"),
    }
    // an entry that is cut while it is in use
    std::fs::File::options().write(true).open(path).unwrap().set_len(100).unwrap();
    assert!(matches!(data.rows(&[0]), Err(DataError::Cache { .. })));
}

#[test]
fn rows_keep_everything() {
    let rows = [
        EncodedRow {
            row: 4_000_000_000,
            id: Some(json!("ä\n")),
            prompt: vec![1, u32::MAX],
            answers: vec![Answer { ids: vec![5; 300], kept: 7, unscored: vec![1..3, 5..290] }],
            target: Target::Rewards(vec![f64::MIN_POSITIVE, -0.0]),
            numbers: RowNumbers::default(),
        },
        EncodedRow {
            row: 0,
            id: None,
            prompt: vec![0],
            answers: vec![Answer { ids: vec![9], kept: 1, unscored: Vec::new() }],
            target: Target::Label(true),
            numbers: RowNumbers {
                weight: Some(0.5),
                margin: Some(-3.0),
                win_probability: Some([1.0, 0.0]),
                beats_probability: None,
            },
        },
    ];
    for row in rows {
        let bytes = encode(&row);
        let back: EncodedRow = postcard::from_bytes(&bytes[4..]).unwrap();
        assert_eq!(back, row);
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_said_and_done_without() {
    let bench = Bench::new();
    std::fs::write(bench.path("cache"), "a file").unwrap();
    let (data, heard, _) = bench.open();
    let expected = tokens(&bench.open_with(None).0.unwrap());
    assert_eq!(tokens(&data), expected);
    let said = heard.notes.join("\n");
    assert!(said.contains("the run goes on without it"), "{said}");
}

#[test]
fn entries_that_were_not_used_go_first() {
    let mut bench = Bench::new();
    let mut paths = Vec::new();
    for name in ["a", "b", "c"] {
        let copy = bench.path(&format!("{name}.jsonl"));
        std::fs::copy(bench.path("rows.jsonl"), &copy).unwrap();
        bench.data = vec![copy];
        assert_eq!(bench.outcome(), "miss");
        let new = bench.entries().into_iter().find(|path| !paths.contains(path)).unwrap();
        paths.push(new);
    }
    // the files were used in the order b, a, c
    for (path, day) in [(&paths[1], 1), (&paths[0], 2), (&paths[2], 3)] {
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_hours(24 * day);
        std::fs::File::open(path).unwrap().set_modified(time).unwrap();
    }
    std::fs::write(bench.path("cache/notes.txt"), vec![0; 1 << 20]).unwrap();
    let bytes: u64 = paths.iter().map(|path| path.metadata().unwrap().len()).sum();
    let cache = TokenCache::with_limit(bench.path("cache"), bytes);
    std::fs::copy(bench.path("rows.jsonl"), bench.path("d.jsonl")).unwrap();
    bench.data = vec![bench.path("d.jsonl")];
    let (_, heard, _) = bench.open_with(Some(&cache));
    assert!(heard.notes[1].contains("1 of its files"), "{:?}", heard.notes);
    assert!(!paths[1].exists() && paths[0].exists() && paths[2].exists());
    assert!(bench.path("cache/notes.txt").exists(), "another's file");
}
