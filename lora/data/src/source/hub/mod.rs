//! Finds the files of a data set in the local Hugging Face cache by its id: `ORG/NAME[:CONFIG][@REVISION][#SPLIT]`.
//!
//! In the cache (as huggingface_hub 2.4 lays it out), `datasets--ORG--NAME/refs/<revision>` holds a hash, and `snapshots/<hash>/`
//! holds the files as links into `blobs/`. Nothing is downloaded. The configs in README.md say which files belong to a split. If
//! there are no configs, the names of the files decide, by the rules of the `datasets` library.
//!
//! Source: the hub's documentation, "File names and splits"; `datasets` 5.0 `data_files.py`.

pub(crate) mod fault;
mod front_matter;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use align_engine::bounded_read::read_regular;
use align_engine::model::{hub_cache, is_hub_name};

use self::fault::HubFault;
use self::front_matter::Config;
use super::endings::{FORMATS, ending, endings};
use super::error::SourceError;
use super::files::OPTIONS;

/// The split that is used if none is named.
const TRAIN: &str = "train";
/// Words in the names of files and folders, with the splits that they stand for.
const KEYWORDS: [(&str, &[&str]); 3] = [
    (TRAIN, &["train", "training"]),
    ("validation", &["validation", "valid", "dev", "val"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];
/// JSON files that hold no rows.
const NO_ROWS: [&str; 5] =
    ["dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json", "config.json"];
/// Largest file that may hold the hash of a revision, in bytes.
const MAX_REF_BYTES: u64 = 1 << 10;
/// Maximum number of missing files to list for one set of numbered shards.
const MAX_LACKING: usize = 1 << 16;
/// Maximum depth of nested folders.
const MAX_DEPTH: usize = 8;

/// The parts of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Id<'a> {
    name: &'a str,
    config: Option<&'a str>,
    revision: Option<&'a str>,
    split: Option<&'a str>,
}

impl<'a> Id<'a> {
    /// Reads an id. `None` if the text is not an id. A name with the ending of a data file is never an id: it counts as the path
    /// of a missing file.
    fn parse(text: &'a str) -> Option<Id<'a>> {
        let name = text.split([':', '@', '#']).next()?;
        let has_ending = |ending: &str| name.rsplit('.').take(2).any(|part| part.eq_ignore_ascii_case(ending));
        if name.matches('/').count() != 1 || !is_hub_name(name) || endings().any(has_ending) {
            return None;
        }
        let mut id = Id { name, config: None, revision: None, split: None };
        let mut rest = &text[name.len()..];
        while let Some(mark) = rest.chars().next() {
            let end = rest[1..].find([':', '@', '#']).map_or(rest.len(), |end| end + 1);
            let slot = match mark {
                ':' => &mut id.config,
                '@' => &mut id.revision,
                _ => &mut id.split,
            };
            if slot.replace(&rest[1..end]).is_some() || end == 1 {
                return None;
            }
            rest = &rest[end..];
        }
        Some(id)
    }
}

/// Whether a text can be the id of a data set. Callers check first whether it is an existing path.
pub fn is_data_set_id(text: &str) -> bool {
    Id::parse(text).is_some()
}

/// A data set that was found in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedSet {
    /// `ORG/NAME`.
    pub name: String,
    /// Hash of the revision.
    pub revision: String,
    /// The config, if the data set has several.
    pub config: Option<String>,
    /// The split.
    pub split: String,
    /// The files of the split, in the order of its patterns. The files of one pattern are in alphabetical order.
    pub files: Vec<PathBuf>,
}

impl fmt::Display for CachedSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.config.as_ref().map_or(String::new(), |config| format!(", config {config}"));
        let files = self.files.len();
        let files = if files == 1 { "1 file".to_owned() } else { format!("{files} files") };
        let revision = &self.revision[..self.revision.len().min(12)];
        let CachedSet { name, split, .. } = self;
        write!(f, "{name} (local Hugging Face cache, revision {revision}){config}, split {split}: {files}")
    }
}

/// Finds the data set that a text names. `None` if the text is not an id.
///
/// # Errors
/// [`SourceError::Hub`].
pub(crate) fn find(text: &str) -> Option<Result<CachedSet, SourceError>> {
    let id = Id::parse(text)?;
    let found = hub_cache().ok_or(HubFault::NoCache).and_then(|cache| find_in(&id, &cache));
    Some(found.map_err(|fault| SourceError::Hub { id: text.to_owned(), fault: Box::new(fault) }))
}

fn find_in(id: &Id<'_>, cache: &Path) -> Result<CachedSet, HubFault> {
    let name = id.name.to_owned();
    let repository = cache.join(format!("datasets--{}", id.name.replace('/', "--")));
    let of_revision = id.revision.map_or(String::new(), |revision| format!(" --revision {revision}"));
    let fetch = format!("hf download --repo-type dataset{of_revision} {name}");
    if !repository.is_dir() {
        return Err(HubFault::NotCached { fetch, cache: cache.to_owned() });
    }
    let wanted = id.revision.unwrap_or("main");
    let no_revision = || HubFault::NoRevision { fetch: fetch.clone(), revision: wanted.to_owned() };
    let revision = revision(&repository, wanted).ok_or_else(no_revision)?;
    let folder = repository.join("snapshots").join(&revision);
    let configs =
        front_matter::configs(&folder).map_err(|message| HubFault::FrontMatter { message, folder: folder.clone() })?;
    let config = chosen(id, &configs)?;
    let splits = splits(&folder, config);
    let split = id.split.unwrap_or(TRAIN);
    if splits.is_empty() {
        return Err(HubFault::NoFiles { fetch, folder });
    }
    let Some((_, files)) = splits.iter().find(|(known, _)| known == split) else {
        let name = id.config.map_or(name.clone(), |config| format!("{name}:{config}"));
        let all = splits.into_iter().map(|(split, _)| split).collect();
        return Err(HubFault::NoSplit { name, split: split.to_owned(), all, fetch });
    };
    let is_absent = |file: &&String| !folder.join(file).is_file();
    let absent: Vec<String> = files.iter().filter(is_absent).cloned().collect();
    if !absent.is_empty() {
        return Err(HubFault::Absent { split: split.to_owned(), absent, folder, fetch });
    }
    let files = files.iter().map(|file| folder.join(file)).collect();
    let config = config.filter(|_| configs.len() > 1).map(|config| config.name.clone());
    Ok(CachedSet { name, revision, config, split: split.to_owned(), files })
}

/// Returns the hash of a revision if its snapshot exists. `wanted` is the name of the revision or the hash itself. Checks the
/// name and the content of its file in `refs`, so that neither can lead out of the cache.
fn revision(repository: &Path, wanted: &str) -> Option<String> {
    let is_hash = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_name = wanted.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    let read = |path: &Path| String::from_utf8(read_regular(path, MAX_REF_BYTES).ok()?).ok();
    let named = Some(repository.join("refs").join(wanted)).filter(|_| is_name).and_then(|path| read(&path));
    let hash = named.as_deref().map(str::trim).filter(|hash| is_hash(hash)).unwrap_or(wanted);
    (is_hash(hash) && repository.join("snapshots").join(hash).is_dir()).then(|| hash.to_owned())
}

/// Returns the config to use. `None` if the data set has no configs, so that the names of the files decide.
fn chosen<'c>(id: &Id<'_>, configs: &'c [Config]) -> Result<Option<&'c Config>, HubFault> {
    let all = || configs.iter().map(|config| config.name.clone()).collect();
    if let Some(wanted) = id.config {
        let found = configs.iter().find(|config| config.name == wanted);
        // a data set without configs counts as having one config, named `default`
        let is_only = configs.is_empty() && wanted == "default";
        return match found {
            None if !is_only => Err(HubFault::NoConfig { config: wanted.to_owned(), all: all() }),
            found => Ok(found),
        };
    }
    let default = configs.iter().find(|config| config.is_default);
    let default = default.or_else(|| configs.iter().find(|config| config.name == "default"));
    match (default, configs) {
        (Some(config), _) | (None, [config]) => Ok(Some(config)),
        (None, []) => Ok(None),
        (None, _) => Err(HubFault::Configs { name: id.name.to_owned(), all: all() }),
    }
}

/// Returns the splits and their files, as paths in the folder. The files include missing ones: shards whose number no file has,
/// and files that the config names without a pattern.
fn splits(folder: &Path, config: Option<&Config>) -> Vec<(String, Vec<String>)> {
    let mut files = Vec::new();
    list(folder, "", 0, &mut files);
    files.extend(lacking(&files));
    files.sort();
    let Some(config) = config else { return by_names(&files) };
    let prefix = config.data_dir.as_deref().map(|dir| dir.trim_start_matches("./").trim_matches('/'));
    let prefix = prefix.filter(|dir| !dir.is_empty()).map_or(String::new(), |dir| format!("{dir}/"));
    if config.splits.is_empty() {
        let inside: Vec<String> = files.into_iter().filter(|file| file.starts_with(&prefix)).collect();
        return by_names(&inside);
    }
    let matches = |pattern: &str| {
        let pattern = format!("{prefix}{}", pattern.trim_start_matches("./"));
        let pattern = if folder.join(&pattern).is_dir() { format!("{pattern}/**/*") } else { pattern };
        let compiled = glob::Pattern::new(&pattern).ok();
        let is_match = |file: &&String| {
            **file == pattern || compiled.as_ref().is_some_and(|glob| glob.matches_with(file, OPTIONS))
        };
        let found: Vec<String> = files.iter().filter(is_match).cloned().collect();
        // if a config names a file without a pattern, the file must exist
        let is_name = holds_rows(&pattern) && !pattern.contains(['*', '?', '[', '{']) && !pattern.contains("://");
        if found.is_empty() && is_name { vec![pattern] } else { found }
    };
    let found = config.splits.iter().map(|(split, patterns)| {
        let mut seen = HashSet::new();
        let files = patterns.iter().flat_map(|pattern| matches(pattern));
        (split.clone(), files.filter(|file| seen.insert(file.clone())).collect::<Vec<String>>())
    });
    found.filter(|(_, files)| !files.is_empty()).collect()
}

/// Adds all files of rows below a folder to `files`, as paths within the folder. Skips names that begin with `.` or `_`.
fn list(folder: &Path, inside: &str, depth: usize, files: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder.join(inside)).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if name.starts_with(['.', '_']) {
            continue;
        }
        let path = if inside.is_empty() { name.clone() } else { format!("{inside}/{name}") };
        // in a snapshot, files are links, but folders are real folders
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && depth < MAX_DEPTH {
            list(folder, &path, depth + 1, files);
        } else if !is_folder && holds_rows(&name) {
            files.push(path);
        }
    }
}

fn holds_rows(name: &str) -> bool {
    let is_other = NO_ROWS.iter().any(|other| other.eq_ignore_ascii_case(name));
    !is_other && ending(name).is_some_and(|ending| endings().any(|known| known == ending))
}

/// Finds splits by the names of files and folders. There are four rules: the form `SPLIT-00000-of-00003`, a word in the file's
/// name that stands for a split, such a word anywhere in the path, and the split `train` for every file. The first rule that
/// finds a split in any path decides for all files, and files for which it finds no split are left out. Only files of the most
/// frequent format count.
fn by_names(files: &[String]) -> Vec<(String, Vec<String>)> {
    let files = &most_frequent_format(files)[..];
    let word_of_name = |file: &str| word(file.rsplit('/').next()?);
    for rule in [shard as fn(&str) -> Option<String>, word_of_name, word, |_| Some(TRAIN.to_owned())] {
        let mut splits: Vec<(String, Vec<String>)> = Vec::new();
        for file in files {
            let Some(split) = rule(file) else { continue };
            match splits.iter_mut().find(|(known, _)| *known == split) {
                Some((_, all)) => all.push(file.clone()),
                None => splits.push((split, vec![file.clone()])),
            }
        }
        if !splits.is_empty() {
            let place = |split: &str| KEYWORDS.iter().position(|(known, _)| *known == split).unwrap_or(KEYWORDS.len());
            splits.sort_by_key(|(split, _)| place(split));
            return splits;
        }
    }
    Vec::new()
}

/// Returns the files of the most frequent format. A data set may be stored in several formats, and `datasets` reads one of
/// them.
fn most_frequent_format(files: &[String]) -> Vec<String> {
    let of_format = |endings: &[&str]| -> Vec<String> {
        let has_ending = |file: &&String| ending(file).is_some_and(|ending| endings.contains(&ending.as_str()));
        files.iter().filter(has_ending).cloned().collect()
    };
    FORMATS.map(of_format).into_iter().max_by_key(Vec::len).unwrap_or_default()
}

/// Returns the `SPLIT` in a path of the form `data/SPLIT-00000-of-00003.parquet`. `SPLIT` may be any name.
fn shard(file: &str) -> Option<String> {
    let Shard { before, .. } = Shard::of(file)?;
    let split = before.rsplit('/').next().filter(|split| !split.is_empty())?;
    Some(split.to_owned())
}

/// A file whose name says that it is one of several: `data/train-00000-of-00003.parquet`. A hash may follow the count.
struct Shard<'a> {
    /// `data/train`
    before: &'a str,
    number: u32,
    /// `00003`
    count: &'a str,
    /// `.parquet`
    ending: &'a str,
}

impl<'a> Shard<'a> {
    fn of(file: &'a str) -> Option<Shard<'a>> {
        let name = file.rfind('/').map_or(0, |slash| slash + 1);
        let (stem, ending) = file.split_at(name + file[name..].find('.')?);
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (before, number) = rest.rsplit_once('-')?;
        let count = count.split('-').next()?;
        let is_number = |text: &str| text.len() >= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = number.parse().ok().filter(|_| is_number(number) && is_number(count))?;
        Some(Shard { before, number, count, ending })
    }
}

/// Returns the names of missing shards. If names say `-of-00003`, there must be a file for each of the numbers 0, 1 and 2.
fn lacking(files: &[String]) -> Vec<String> {
    let mut shards: BTreeMap<(&str, &str, &str), HashSet<u32>> = BTreeMap::new();
    for Shard { before, number, count, ending } in files.iter().filter_map(|file| Shard::of(file)) {
        shards.entry((before, count, ending)).or_default().insert(number);
    }
    let of = |((before, count, ending), numbers): ((&str, &str, &str), HashSet<u32>)| {
        let lacking = (0..count.parse().unwrap_or(0)).filter(move |number: &u32| !numbers.contains(number));
        let name = move |number| format!("{before}-{number:05}-of-{count}{ending}");
        lacking.take(MAX_LACKING).map(name).collect::<Vec<String>>()
    };
    shards.into_iter().flat_map(of).collect()
}

/// Returns the split that a word of a path stands for.
fn word(path: &str) -> Option<String> {
    let path = path.to_ascii_lowercase();
    let words: Vec<&str> = path.split(|c: char| !c.is_ascii_alphabetic()).collect();
    let says = |(_, keywords): &&(&str, &[&str])| words.iter().any(|word| keywords.contains(word));
    KEYWORDS.iter().find(says).map(|(split, _)| (*split).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_from_its_marks() {
        let id = |text| Id::parse(text).map(|id| (id.name, id.config, id.revision, id.split));
        assert_eq!(id("org/name"), Some(("org/name", None, None, None)));
        assert_eq!(id("org/name@refs/pr/1#test"), Some(("org/name", None, Some("refs/pr/1"), Some("test"))));
        assert_eq!(id("org/name:easy@main"), Some(("org/name", Some("easy"), Some("main"), None)));
        assert_eq!(id("org/name#dev:easy"), Some(("org/name", Some("easy"), None, Some("dev"))));
        for other in [
            "name", "a/b/c", "./name", "/org/name", "org/rows.jsonl", "org/rows.jsonl.gz", "org/a b", "org/name#",
            "org/n@a@b",
        ] {
            assert_eq!(id(other), None, "{other}");
        }
        assert_eq!(id("org/name-v1.5").unwrap().0, "org/name-v1.5");
    }

    #[test]
    fn splits_go_by_names() {
        let of = |files: &[&str]| {
            let files: Vec<String> = files.iter().map(|&file| file.to_owned()).collect();
            by_names(&files)
                .into_iter()
                .map(|(split, files)| format!("{split}: {}", files.join(" ")))
                .collect::<Vec<_>>()
        };
        let shards =
            ["data/test_prefs-00000-of-00001.parquet", "data/train_prefs-00000-of-00001-a1b2.parquet", "other.csv"];
        assert_eq!(of(&shards), [format!("test_prefs: {}", shards[0]), format!("train_prefs: {}", shards[1])]);
        assert_eq!(
            of(&["my-train.csv", "b_dev.csv", "evaluation.csv"]),
            ["train: my-train.csv", "validation: b_dev.csv", "test: evaluation.csv"]
        );
        assert_eq!(of(&["a/train.jsonl", "test/a.jsonl"]), ["train: a/train.jsonl"]);
        assert_eq!(of(&["training/a.jsonl", "test/a.jsonl"]), ["train: training/a.jsonl", "test: test/a.jsonl"]);
        assert_eq!(of(&["trainer.jsonl", "b.jsonl"]), ["train: trainer.jsonl b.jsonl"]);
        // if the same rows are stored in several formats, the files of only one format are used
        assert_eq!(of(&["train.csv", "train.jsonl"]), ["train: train.jsonl"]);
        assert_eq!(of(&["a/train.csv", "b/train.tsv", "train.parquet"]), ["train: a/train.csv b/train.tsv"]);
        assert_eq!(
            of(&["train.json", "train.parquet", "test.json", "test.parquet"]),
            ["train: train.parquet", "test: test.parquet"]
        );
        assert_eq!(of(&[]), Vec::<String>::new());
        for (name, rows) in
            [("a.jsonl", true), ("a.csv.gz", true), ("dataset_infos.json", false), ("a.md", false), ("A.Parquet", true)]
        {
            assert_eq!(holds_rows(name), rows, "{name}");
        }
    }

    #[test]
    fn shards_and_files_that_are_not_there_are_missing() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("datasets--org--name");
        let folder = repository.join("snapshots/aa");
        std::fs::create_dir_all(folder.join("data")).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "aa").unwrap();
        let fault = |id: &str| find_in(&Id::parse(id).unwrap(), cache.path()).unwrap_err().to_string();
        let fetch = "fetch the whole: hf download --repo-type dataset org/name";
        assert_eq!(
            fault("org/name"),
            format!("has no file of rows in {}, which may be incomplete; {fetch}", folder.display())
        );
        for file in ["train-00000-of-00009", "train-00004-of-00009", "test-00000-of-00001"] {
            std::fs::write(folder.join(format!("data/{file}.parquet")), "").unwrap();
        }
        let missing =
            |files: &str| format!("only a part of its split `train` is in {}: {files}; {fetch}", folder.display());
        let shard = |i: u32| format!("data/train-{i:05}-of-00009.parquet");
        let several = format!("{}, {}, {} and 4 more are missing", shard(1), shard(2), shard(3));
        assert_eq!(fault("org/name"), missing(&several));
        assert_eq!(find_in(&Id::parse("org/name#test").unwrap(), cache.path()).unwrap().files.len(), 1);
        for i in [1, 2, 3, 5, 6, 7] {
            std::fs::write(folder.join(shard(i)), "").unwrap();
        }
        assert_eq!(fault("org/name"), missing(&format!("{} is missing", shard(8))));
        // a link whose target is gone
        std::os::unix::fs::symlink("../../../blobs/none", folder.join(shard(8))).unwrap();
        assert_eq!(fault("org/name"), missing(&format!("{} is missing", shard(8))));
        std::fs::remove_file(folder.join(shard(8))).unwrap();
        std::fs::write(folder.join(shard(8)), "").unwrap();
        assert_eq!(find_in(&Id::parse("org/name").unwrap(), cache.path()).unwrap().files.len(), 9);
        // files that the configs name
        let readme =
            "---\nconfigs:\n- config_name: a\n  data_files:\n  - split: train\n    path: [x.csv, y.csv]\n---\n";
        std::fs::write(folder.join("README.md"), readme).unwrap();
        std::fs::write(folder.join("other-00001-of-00002.csv"), "text\na\n").unwrap();
        std::fs::write(folder.join("x.csv"), "text\na\n").unwrap();
        assert_eq!(fault("org/name"), missing("y.csv is missing"));
        let of_revision = fault("org/name@bb");
        assert!(
            of_revision.ends_with("fetch it: hf download --repo-type dataset --revision bb org/name"),
            "{of_revision}"
        );
    }

    #[test]
    fn names_in_the_cache_lead_nowhere_else() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("datasets--org--name");
        std::fs::create_dir_all(repository.join("snapshots/aa")).unwrap();
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        for (text, found) in [("aa\n", true), ("../..", false), ("", false), ("bb", false)] {
            std::fs::write(repository.join("refs/main"), text).unwrap();
            assert_eq!(revision(&repository, "main").is_some(), found, "{text}");
        }
        assert_eq!(revision(&repository, "aa").as_deref(), Some("aa"));
        assert_eq!((revision(&repository, "../refs/main"), revision(&repository, "..")), (None, None));
    }
}
