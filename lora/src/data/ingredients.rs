//! What decides the tokens of a data set: if all of it is as it was, so are the tokens.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::encode::Encoder;
use super::jinja::strftime;
use super::template::ChatTemplate;
use super::{DataError, Needs, OnBadRow};

/// Version of what is written, and of how rows become tokens: to be raised when either changes.
const VERSION: u32 = 2;
/// A file of at most so many bytes is hashed whole; of a larger one samples, with its length and its time of modification.
const HASHED_WHOLE: u64 = 256 << 20;
/// Samples of a large file, the first at its start and the last at its end.
const SAMPLES: u64 = 64;
const SAMPLE_BYTES: u64 = 1 << 20;

/// Everything that decides the tokens, as names and values. A new flag that changes what a row's tokens are is a new line in
/// [`Ingredients::of`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Ingredients(Vec<(String, String)>);

impl Ingredients {
    /// Looks at the files of data and tokenizer, and at the options.
    ///
    /// # Errors
    /// [`DataError::Io`] for a data file that cannot be read.
    pub fn of(
        paths: &[PathBuf],
        encoder: &Encoder,
        needs: Needs,
        on_bad_row: OnBadRow,
    ) -> Result<Ingredients, DataError> {
        let mut all = Vec::new();
        let mut put = |name: String, value: String| all.push((name, value));
        put("the program".into(), format!("{} {VERSION}", env!("CARGO_PKG_VERSION")));
        for path in paths {
            let content = content(path).map_err(|source| DataError::Io { path: path.clone(), source })?;
            put(absolute(path).display().to_string(), content);
        }
        for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"] {
            let path = encoder.model_dir().join(name);
            // a file that is not there is one that decides nothing
            let content = content(&path).unwrap_or_else(|error| error.kind().to_string());
            put(absolute(&path).display().to_string(), content);
        }
        put("the chat template".into(), encoder.template().map_or("none".into(), template));
        put("the size of the vocabulary".into(), encoder.tokenizer().first_unusable_id().to_string());
        put("--max-length".into(), encoder.max_length().to_string());
        put("--columns".into(), format!("{:?}", encoder.columns()));
        put("--sft-on".into(), format!("{:?}", encoder.sft_on()));
        put("what becomes of long answers".into(), format!("{:?}", encoder.long_answers()));
        put("what the loss needs".into(), format!("{needs:?}"));
        put("--on-bad-row".into(), format!("{on_bad_row:?}"));
        Ok(Ingredients(all))
    }

    /// What an entry is for, whatever the contents: a new one replaces an older one of the same name.
    pub fn entry_name(paths: &[PathBuf], encoder: &Encoder, needs: Needs, on_bad_row: OnBadRow) -> String {
        let mut hasher = blake3::Hasher::new();
        let (columns, sft_on, long) = (encoder.columns(), encoder.sft_on(), encoder.long_answers());
        let options = format!("{needs:?} {on_bad_row:?} {} {columns:?} {sft_on:?} {long:?}", encoder.max_length());
        let template = encoder.template().map_or("", ChatTemplate::origin);
        let names = paths.iter().map(|path| absolute(path)).chain([absolute(encoder.model_dir())]);
        let names = names.map(|path| path.into_os_string().into_encoded_bytes());
        for part in names.chain([template.into(), options.into()]) {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(&part);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The first thing that differs from another list, in a user's words.
    pub fn difference(&self, other: &Ingredients) -> Option<&str> {
        let differs = self.0.iter().enumerate().find(|(i, ours)| other.0.get(*i) != Some(*ours));
        match differs {
            Some((_, (name, _))) => Some(name),
            None if other.0.len() > self.0.len() => Some("the number of files"),
            None => None,
        }
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A hash of the bytes of a file; with its length and time where it is large.
fn content(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let meta = file.metadata()?;
    let mut hasher = blake3::Hasher::new();
    if meta.len() <= HASHED_WHOLE {
        let mut piece = vec![0; SAMPLE_BYTES as usize];
        loop {
            match file.read(&mut piece)? {
                0 => return Ok(hasher.finalize().to_hex().to_string()),
                n => hasher.update(&piece[..n]),
            };
        }
    }
    let mut sample = vec![0; SAMPLE_BYTES as usize];
    for i in 0..SAMPLES {
        file.read_exact_at(&mut sample, (meta.len() - SAMPLE_BYTES) / (SAMPLES - 1) * i)?;
        hasher.update(&sample);
    }
    file.read_exact_at(&mut sample, meta.len() - SAMPLE_BYTES)?;
    hasher.update(&sample);
    let modified = meta.modified()?.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    Ok(format!("{} bytes of {modified}, {}", meta.len(), hasher.finalize().to_hex()))
}

/// The template's text, and the time, if the text asks for it.
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

/// How much of the time a template can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    None,
    /// The date.
    Day,
    /// Or more, or it cannot be told.
    Second,
}

/// Conversions of `strftime` that change once a day or less often.
const OF_A_DAY: &str = "aAbBCdDeFgGhjmuUVwWxyY%";

/// Reads the calls of `strftime_now` in a template: a call with a text that has date conversions alone prints the date.
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
    fn a_large_file_is_known_by_its_samples_and_its_time() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(HASHED_WHOLE + 5_000_000).unwrap(); // holes: nothing is on the disk
        let first = content(file.path()).unwrap();
        assert_eq!(content(file.path()).unwrap(), first);
        assert!(first.contains("273435456 bytes"), "{first}");
        file.as_file().write_all_at(b"x", HASHED_WHOLE + 4_999_999).unwrap();
        let last_byte = content(file.path()).unwrap();
        assert_ne!(last_byte, first);
        file.as_file().set_modified(std::time::UNIX_EPOCH).unwrap();
        assert_ne!(content(file.path()).unwrap(), last_byte);
    }
}
