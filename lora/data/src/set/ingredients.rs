//! Lists all that decides the tokens of a data set. If nothing on the list has changed, the tokens are the same.

use std::path::{Path, PathBuf};

use super::options::OnBadRow;
use crate::progress::{DataObserver, DataProgress, Stage};
use crate::row::RowKind;
use crate::source::error::SourceError;
use crate::store::content::{content, hashed_bytes};
use crate::store::differences::differences;
use crate::store::stamp::Stamp;
use crate::tokens::encode::Encoder;
use crate::tokens::jinja::strftime;
use crate::tokens::template::ChatTemplate;

/// Version of the cache format and of how rows become tokens. Raise it if one of the two changes. A test compares the hash of a
/// cache entry.
pub(crate) const VERSION: u32 = 9;
/// The libraries that turn rows into tokens: updating one makes entries stale. A test compares this list with Cargo.lock.
const LIBRARIES: [(&str, &str); 6] = [
    ("csv", "1.4.0"),
    ("tokenizers", "0.23.2"),
    ("fancy-regex", "0.17.0"),
    ("minijinja", "3.0.5"),
    ("minijinja-contrib", "3.0.5"),
    ("parquet", "60.1.0"),
];
/// Everything that decides the tokens, as names and values. If a new flag changes the tokens of a row, add a line to
/// [`Asked::options`], or to [`Reading::options`](crate::record::reading::Reading::options) if the flag is about how rows are
/// read.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Ingredients(Vec<(String, String)>);

/// Checks that the files still have these stamps, one for each path.
///
/// # Errors
/// [`SourceError::Changed`]; [`SourceError::Io`] for a file that is gone.
pub(crate) fn check_stamps(stamps: &[Stamp], paths: &[PathBuf]) -> Result<(), SourceError> {
    for (stamp, path) in stamps.iter().zip(paths) {
        let meta = path.metadata().map_err(|source| SourceError::Io { path: path.clone(), source })?;
        if !Stamp::of(&meta).is_same_file(stamp) {
            return Err(SourceError::Changed { path: path.clone() });
        }
    }
    Ok(())
}

/// What the tokens of a data set are made from.
#[derive(Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// The data files.
    pub paths: &'a [PathBuf],
    pub encoder: &'a Encoder,
    /// The kind of rows to make.
    pub kind: Option<RowKind>,
    pub on_bad_row: OnBadRow,
}

impl Asked<'_> {
    /// Returns the options that decide which rows there are and what their tokens are, by the names that a user knows.
    fn options(self) -> Vec<(&'static str, String)> {
        let Asked { encoder, kind, on_bad_row, .. } = self;
        let mut options = vec![
            ("--max-length", encoder.max_length().to_string()),
            ("--sft-on", format!("{:?}", encoder.sft_on())),
            ("what becomes of long answers", format!("{:?}", encoder.long_answers())),
            ("what the loss needs", format!("{kind:?}")),
            ("--on-bad-row", format!("{on_bad_row:?}")),
        ];
        options.extend(encoder.reading().options());
        options
    }
}

impl Ingredients {
    /// Lists the ingredients: the program, the libraries, hashes of the data files, the options, and the tokenizer and template
    /// that the encoder was made from. Also returns the stamps that the data files had when they were hashed.
    ///
    /// # Errors
    /// [`SourceError::Io`] for a data file that cannot be read.
    pub(crate) fn of(
        asked: Asked<'_>,
        observer: &mut dyn DataObserver,
    ) -> Result<(Ingredients, Vec<Stamp>), SourceError> {
        let Asked { paths, encoder, .. } = asked;
        let mut all = Vec::new();
        let mut put = |name: &str, value: String| all.push((name.to_owned(), value));
        put("the program", format!("{} {VERSION}", env!("CARGO_PKG_VERSION")));
        for (name, version) in LIBRARIES {
            put(&format!("the library {name}"), version.to_owned());
        }
        let mut stamps = Vec::with_capacity(paths.len());
        let size = |path: &PathBuf| path.metadata().map_or(0, |meta| hashed_bytes(meta.len()));
        let (mut done, total) = (0, paths.iter().map(size).sum());
        for path in paths {
            let progress = |bytes| {
                done += bytes;
                observer.progress(DataProgress { stage: Stage::Comparing, done, total });
            };
            let found = content(path, progress).map_err(|source| SourceError::Io { path: path.clone(), source })?;
            put(&absolute(path).display().to_string(), found.0);
            stamps.push(found.1);
        }
        for (path, hash) in encoder.tokenizer().files() {
            put(&absolute(path).display().to_string(), hash.to_hex().to_string());
        }
        put("the stop tokens", format!("{:?}", encoder.stop_ids()));
        put("the chat template", encoder.template().map_or("none".into(), template));
        put("the size of the vocabulary", encoder.tokenizer().first_unusable_id().to_string());
        for (name, value) in asked.options() {
            put(name, value);
        }
        Ok((Ingredients(all), stamps))
    }

    /// Returns the name of the cache entry. It depends on paths and options and not on contents, so a new entry replaces an older
    /// one.
    pub(crate) fn entry_name(asked: Asked<'_>) -> String {
        let Asked { paths, encoder, .. } = asked;
        let mut hasher = blake3::Hasher::new();
        let template = encoder.template().map_or("", ChatTemplate::origin);
        let names = paths.iter().map(|path| absolute(path)).chain([absolute(encoder.model_dir())]);
        let names = names.map(|path| path.into_os_string().into_encoded_bytes());
        let options = asked.options().into_iter().map(|(_, value)| value.into_bytes());
        for part in names.chain([template.into()]).chain(options) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(&part);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Returns the name of the first ingredient that differs from another list, in a user's words. `None` if the lists are equal.
    pub(crate) fn difference(&self, other: &Ingredients) -> Option<&str> {
        match differences(&self.0, &other.0).next() {
            Some(name) => Some(name.as_str()),
            None if other.0.len() > self.0.len() => Some("the number of files"),
            None => None,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns a hash of the template's text, and the time if the text asks for it.
fn template(template: &ChatTemplate) -> String {
    let source = template.source();
    let hash = blake3::hash(source.as_bytes()).to_hex();
    let time = match clock(&source) {
        Clock::None => String::new(),
        Clock::Day => strftime(template.now(), "%Y-%m-%d").unwrap_or_else(|_| template.now().to_string()),
        Clock::Second => template.now().to_string(),
    };
    format!("{hash} {time}")
}

/// The finest part of the time that a template can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    None,
    /// The date.
    Day,
    /// More than the date, or we cannot tell.
    Second,
}

/// Conversions of `strftime` whose result changes once a day or less often.
const OF_A_DAY: &str = "aAbBCdDeFgGhjmuUVwWxyY%";

/// Finds the finest part of the time that a template prints, from its calls of `strftime_now`. A call prints only the date if its
/// argument is a string with date conversions alone.
fn clock(source: &str) -> Clock {
    let mut clock = Clock::None;
    for (at, name) in source.match_indices("strftime_now") {
        clock = Clock::Day;
        let rest = source[at + name.len()..].trim_start();
        if rest.starts_with("is defined") || rest.starts_with("is not defined") {
            continue;
        }
        let argument = rest.strip_prefix('(').map(str::trim_start).unwrap_or_default();
        let quote = argument.chars().next().filter(|c| matches!(c, '"' | '\''));
        let Some((format, after)) = quote.and_then(|quote| argument[1..].split_once(quote)) else {
            return Clock::Second;
        };
        let mut conversions = format.split('%').skip(1);
        let is_date = |conversion: &str| {
            let kind = conversion.trim_start_matches(['-', '_', '0', '^', '#', 'E', 'O']).chars().next();
            kind.is_some_and(|kind| OF_A_DAY.contains(kind))
        };
        if format.contains('\\') || !after.trim_start().starts_with(')') || !conversions.all(is_date) {
            return Clock::Second;
        }
    }
    clock
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn the_time_that_a_template_prints_is_read_from_it() {
        let day = [
            r#"{{ strftime_now("%d %b %Y") }}"#,
            "{% if strftime_now is defined %}{% set d = strftime_now( '%-d.%m.%y' ) %}{% endif %}",
        ];
        let second = [
            r#"{{ strftime_now("%d %b %Y %H:%M") }}"#,
            "{{ strftime_now(format) }}",
            "{% set f = strftime_now %}",
            "{{ strftime_now('%d' ~ '%H') }}",
            r#"{{ strftime_now("%d") }}{{ strftime_now("%s") }}"#,
            r#"{{ strftime_now("\x25H") }}"#,
            r#"{{ strftime_now("%") }}"#,
        ];
        assert_eq!(clock("{{ messages }}"), Clock::None);
        day.iter().for_each(|source| assert_eq!(clock(source), Clock::Day, "{source}"));
        second.iter().for_each(|source| assert_eq!(clock(source), Clock::Second, "{source}"));
    }

    #[test]
    fn another_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let paths = [folder.path().join("a")];
        let write = |text: &str| std::fs::write(&paths[0], text).unwrap();
        let stamp = || content(&paths[0], |_| {}).unwrap().1;
        write("one");
        let stamps = [stamp()];
        check_stamps(&stamps, &paths).unwrap();
        // another file with the same length and time replaces the first
        let time = paths[0].metadata().unwrap().modified().unwrap();
        let beside = folder.path().join("b");
        std::fs::write(&beside, "two").unwrap();
        File::open(&beside).unwrap().set_modified(time).unwrap();
        std::fs::rename(&beside, &paths[0]).unwrap();
        assert!(matches!(check_stamps(&stamps, &paths), Err(SourceError::Changed { .. })));
        std::fs::remove_file(&paths[0]).unwrap();
        assert!(matches!(check_stamps(&stamps, &paths), Err(SourceError::Io { .. })));
    }

    #[test]
    fn the_libraries_are_those_of_the_lock_file() {
        let lock = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.lock");
        let lock = std::fs::read_to_string(lock).unwrap();
        for (name, version) in LIBRARIES {
            let entry = format!("name = \"{name}\"\nversion = \"{version}\"\n");
            assert!(lock.contains(&entry), "{name} is not {version} in Cargo.lock: set the new version in LIBRARIES");
        }
    }
}
