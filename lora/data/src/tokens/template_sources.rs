//! Finds a model's chat templates in the files of a folder, and writes them to a folder.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use align_engine::bounded_read::{read_any, read_regular};
use align_engine::json_edit::without_key;
use align_engine::new_file::NewFile;
use serde_json::Value;

use super::template_error::TemplateError;
use super::tokenizer::MAX_CONFIG_BYTES;

/// Largest template file to read, in bytes. The longest in use have 20 KiB.
pub(crate) const MAX_TEMPLATE_BYTES: usize = 128 << 10;
/// The file of the default template.
pub const DEFAULT: &str = "chat_template.jinja";
/// The folder of further templates, such as the one for conversations with tools.
pub const ADDITIONAL: &str = "additional_chat_templates";
/// Hugging Face's name of the template for conversations with tools.
pub(crate) const TOOL_USE: &str = "tool_use";
/// Files whose key `chat_template` another program may use instead of [`DEFAULT`].
const WITH_KEY: [&str; 2] = ["tokenizer_config.json", "processor_config.json"];
/// The file that processors of transformers read in preference to `chat_template.jinja`.
const LEGACY: &str = "chat_template.json";

/// The sources of a model's chat templates, unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateSources {
    /// The template for all conversations, or only for those without tools if there is a `tool_use`.
    pub default: String,
    /// The separate template for conversations with tools, if there is one.
    pub tool_use: Option<String>,
    /// Where the templates were found, for messages.
    pub origin: String,
}

impl TemplateSources {
    /// Reads the templates of a file, or of a folder as [`TemplateSources::of_folder`] does.
    ///
    /// # Errors
    /// [`TemplateError`]; [`TemplateError::NoneIn`] for a folder without a template.
    pub fn of_path(path: &Path) -> Result<TemplateSources, TemplateError> {
        if path.is_dir() {
            return Self::of_folder(path)?.ok_or_else(|| TemplateError::NoneIn { folder: path.to_owned() });
        }
        // the path may be a pipe, as a shell makes for `<(command)`
        let default = template(path, read_any(path, MAX_TEMPLATE_BYTES as u64))?;
        Ok(TemplateSources { default, tool_use: None, origin: path.display().to_string() })
    }

    /// Reads the templates of a folder: `chat_template.jinja`, or else `chat_template` in `tokenizer_config.json` (a string, or
    /// the entry named `default` in a list or an object). `None` if there is no template.
    ///
    /// Conversations with tools use `additional_chat_templates/tool_use.jinja` if it is beside `chat_template.jinja`, or the
    /// entry named `tool_use` in the list or object. Without either, they use the default template.
    ///
    /// # Errors
    /// [`TemplateError`] for files that cannot be read. A broken file is never skipped in favour of the next.
    pub fn of_folder(folder: &Path) -> Result<Option<TemplateSources>, TemplateError> {
        let path = folder.join("tokenizer_config.json");
        let config = match read_regular(&path, MAX_CONFIG_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| TemplateError::Config { path, message: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Value::Null,
            Err(source) => return Err(TemplateError::Io { path, source }),
        };
        Self::of_folder_with(folder, &config)
    }

    /// Reads the templates as [`TemplateSources::of_folder`] does. `config` is the parsed `tokenizer_config.json`.
    pub(crate) fn of_folder_with(folder: &Path, config: &Value) -> Result<Option<TemplateSources>, TemplateError> {
        let beside = folder.join(DEFAULT);
        let of_tools = folder.join(ADDITIONAL).join(format!("{TOOL_USE}.jinja"));
        if beside.exists() {
            let tool_use = if of_tools.exists() { Some(read(&of_tools)?) } else { None };
            let origin = beside.display().to_string();
            return Ok(Some(TemplateSources { default: read(&beside)?, tool_use, origin }));
        }
        let origin = folder.join("tokenizer_config.json").display().to_string();
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let entry = |entry: &Value| (text(entry.get("name")).unwrap_or_default(), text(entry.get("template")));
        let named: Vec<(String, Option<String>)> = match config.get("chat_template") {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::String(source)) => vec![("default".to_owned(), Some(source.clone()))],
            Some(Value::Array(list)) => list.iter().map(entry).collect(),
            // transformers accepts an object from names to templates as well as a list
            Some(Value::Object(all)) => all.iter().map(|(name, source)| (name.clone(), text(Some(source)))).collect(),
            Some(_) => Vec::new(),
        };
        let source = |wanted: &str| named.iter().find(|(name, _)| name == wanted)?.1.clone();
        match source("default") {
            Some(default) => Ok(Some(TemplateSources { default, tool_use: source(TOOL_USE), origin })),
            None => Err(TemplateError::NoDefault { origin, found: named.into_iter().map(|(name, _)| name).collect() }),
        }
    }

    /// Whether `self` and `other` have the same templates. Where they were found does not count.
    pub fn same_texts(&self, other: &TemplateSources) -> bool {
        self.default == other.default && self.tool_use == other.tool_use
    }

    /// Returns a hash of the templates. It does not depend on where they were found.
    pub fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for text in [Some(&self.default), self.tool_use.as_ref()].into_iter().flatten() {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.finalize().to_string()
    }

    /// Writes the templates into a folder, for this program and for transformers. Removes everything that either program would
    /// use instead.
    ///
    /// # Errors
    /// The path and the system's error.
    pub fn write_to(&self, folder: &Path) -> Result<(), (PathBuf, io::Error)> {
        let at = |path: PathBuf, change: &dyn Fn(&Path) -> io::Result<()>| change(&path).map_err(|error| (path, error));
        for name in WITH_KEY {
            at(folder.join(name), &remove_key)?;
        }
        let additional = folder.join(ADDITIONAL);
        at(folder.join(LEGACY), &|path| absent(fs::remove_file(path)))?;
        at(additional.clone(), &|path| absent(fs::remove_dir_all(path)))?;
        at(folder.join(DEFAULT), &|path| write(path, self.default.as_bytes()))?;
        if let Some(tool_use) = &self.tool_use {
            let create = |path: &Path| fs::create_dir(&additional).and_then(|()| write(path, tool_use.as_bytes()));
            at(additional.join(format!("{TOOL_USE}.jinja")), &create)?;
        }
        Ok(())
    }
}

/// Turns the error of a missing file into success.
fn absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes the key `chat_template` from a JSON file and leaves its other bytes unchanged.
fn remove_key(path: &Path) -> io::Result<()> {
    let bytes = match read_regular(path, MAX_CONFIG_BYTES) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        read => read?,
    };
    without_key(&bytes, "chat_template").map_or(Ok(()), |text| write(path, &text))
}

/// Writes a file. Replaces an existing file even if it is read-only.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let written = NewFile::create(path).and_then(|mut file| file.write(bytes).and_then(|()| file.finish()));
    written.map_err(|error| error.source)
}

fn read(path: &Path) -> Result<String, TemplateError> {
    template(path, read_regular(path, MAX_TEMPLATE_BYTES as u64))
}

/// Checks and decodes the bytes of a template file.
fn template(path: &Path, read: io::Result<Vec<u8>>) -> Result<String, TemplateError> {
    let bytes = read.map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => {
            TemplateError::TooLarge { origin: path.display().to_string(), limit: MAX_TEMPLATE_BYTES }
        }
        _ => TemplateError::Io { path: path.to_owned(), source },
    })?;
    String::from_utf8(bytes).map_err(|_| TemplateError::Utf8 { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn written_templates_are_those_that_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("tokenizer_config.json"), json!({"a": 1.5, "chat_template": "old", "z": null}).to_string())
            .unwrap();
        fs::write(path("chat_template.json"), "{}").unwrap();
        let sources = |default: &str, tool_use: Option<&str>| TemplateSources {
            default: default.to_owned(),
            tool_use: tool_use.map(str::to_owned),
            origin: String::new(),
        };
        for written in [sources("with\r\n", Some("tools")), sources("alone", None)] {
            written.write_to(dir.path()).unwrap();
            let found = TemplateSources::of_path(dir.path()).unwrap();
            assert!(found.same_texts(&written), "{found:?}");
        }
        assert!(!path("chat_template.json").exists() && !path("additional_chat_templates").exists());
        let config: Value = serde_json::from_slice(&fs::read(path("tokenizer_config.json")).unwrap()).unwrap();
        assert_eq!(config, json!({"a": 1.5, "z": null}));
    }

    /// The files of a merged model are copies, which may be read-only.
    #[test]
    fn read_only_files_are_replaced_and_large_numbers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path(DEFAULT), "old").unwrap();
        let config = "{\n  \"model_max_length\": 1000000000000000019884624838656,\n  \"chat_template\": \"old\"\n}\n";
        fs::write(path("tokenizer_config.json"), config).unwrap();
        for name in [DEFAULT, "tokenizer_config.json"] {
            let mut permissions = fs::metadata(path(name)).unwrap().permissions();
            permissions.set_readonly(true);
            fs::set_permissions(path(name), permissions).unwrap();
        }
        let new = TemplateSources { default: "new".to_owned(), tool_use: None, origin: String::new() };
        new.write_to(dir.path()).unwrap();
        assert_eq!(fs::read_to_string(path(DEFAULT)).unwrap(), "new");
        let left = fs::read_to_string(path("tokenizer_config.json")).unwrap();
        assert_eq!(left, "{\n  \"model_max_length\": 1000000000000000019884624838656\n}\n");
    }

    #[cfg(unix)]
    #[test]
    fn templates_without_an_end_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in [DEFAULT, "tokenizer_config.json"] {
            std::os::unix::fs::symlink("/dev/zero", dir.path().join(name)).unwrap();
            assert!(TemplateSources::of_folder(dir.path()).is_err(), "{name}");
            fs::remove_file(dir.path().join(name)).unwrap();
        }
        assert!(matches!(TemplateSources::of_path(Path::new("/dev/zero")), Err(TemplateError::TooLarge { .. })));
    }

    #[test]
    fn a_folder_without_a_template_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(TemplateSources::of_folder(dir.path()).unwrap(), None);
        let error = TemplateSources::of_path(dir.path()).unwrap_err();
        assert!(matches!(&error, TemplateError::NoneIn { folder } if folder == dir.path()), "{error}");
        fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
        assert!(matches!(TemplateSources::of_folder(dir.path()), Err(TemplateError::Config { .. })));
    }
}
