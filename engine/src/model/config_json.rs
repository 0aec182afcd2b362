//! `config.json` as written: typed access to its keys, with errors that say which key, what was expected, and what was found.

use super::error::ConfigError;
use crate::json::{self, shorten};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Largest width, count or id that is accepted. It is far above the values in every published model, and small enough that the
/// product of two accepted values cannot overflow.
pub(crate) const MAX_SIZE: usize = 1 << 24;
/// Maximum number of characters of a value that a message shows.
pub(super) const SHOWN: usize = 80;

/// The object of a `config.json`, or one nested in it.
#[derive(Debug, Clone)]
pub struct ConfigJson {
    path: PathBuf,
    /// Dotted path of this object in the file, with a dot at its end. Empty for the file's top-level object.
    at: String,
    object: Map<String, Value>,
}

impl ConfigJson {
    /// Reads the file.
    ///
    /// # Errors
    /// [`ConfigError::Json`].
    pub fn read(path: &Path) -> Result<ConfigJson, ConfigError> {
        Ok(ConfigJson::new(path, json::read_object(path)?))
    }

    /// Wraps an object that is already in memory. `path` is for messages.
    pub fn new(path: &Path, object: Map<String, Value>) -> ConfigJson {
        ConfigJson { path: path.to_owned(), at: String::new(), object }
    }

    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the value of a key. `null` counts as absent, as in transformers for every key that is read here.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Whether the key is there, even if its value is `null`.
    pub fn has(&self, key: &str) -> bool {
        self.object.contains_key(key)
    }

    /// Whether the object has no keys.
    pub fn is_empty(&self) -> bool {
        self.object.is_empty()
    }

    /// Returns the nested object under `key`. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`] if the value is not an object.
    pub fn nested(&self, key: &str) -> Result<Option<ConfigJson>, ConfigError> {
        let (path, at) = (self.path.clone(), format!("{}{key}.", self.at));
        let object = self.typed(key, "an object", Value::as_object)?;
        Ok(object.map(|object| ConfigJson { path, at, object: object.clone() }))
    }

    /// Returns the nested object under `key`, or an empty object if the key is absent.
    ///
    /// # Errors
    /// The errors of [`Self::nested`].
    pub fn nested_or_empty(&self, key: &str) -> Result<ConfigJson, ConfigError> {
        Ok(self.nested(key)?.unwrap_or_else(|| ConfigJson::new(&self.path, Map::new())))
    }

    /// Returns an integer from 1 to 2^24. The key must be there.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn size(&self, key: &'static str) -> Result<usize, ConfigError> {
        self.size_or_required(key, None)
    }

    /// Returns an integer like [`Self::size`], or `default` if the key is absent. The key must be there if `default` is `None`.
    ///
    /// # Errors
    /// The errors of [`Self::size`].
    pub fn size_or_required(&self, key: &'static str, default: Option<usize>) -> Result<usize, ConfigError> {
        self.size_opt(key)?.or(default).ok_or_else(|| self.missing(key))
    }

    /// Returns an integer like [`Self::size`], or `default` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn size_or(&self, key: &'static str, default: usize) -> Result<usize, ConfigError> {
        Ok(self.size_opt(key)?.unwrap_or(default))
    }

    /// Returns an integer like [`Self::size`]. `None` if the value is `null`, `default` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn size_or_none(&self, key: &'static str, default: usize) -> Result<Option<usize>, ConfigError> {
        if self.has(key) { self.size_opt(key) } else { Ok(Some(default)) }
    }

    /// Returns an integer like [`Self::size`]. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn size_opt(&self, key: &'static str) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Number(number) = value else { return Err(self.wrong(key, "a whole number", value)) };
        match number.as_u64().and_then(|size| usize::try_from(size).ok()) {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(Some(size)),
            _ => Err(self.refuse(key, format!("a whole number from 1 to {MAX_SIZE}"), number)),
        }
    }

    /// Returns a finite number. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`].
    pub fn number_opt(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        // the parser refuses numbers too large for f64
        self.typed(key, "a number", Value::as_f64)
    }

    /// Returns a number above 0. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn positive_opt(&self, key: &'static str) -> Result<Option<f64>, ConfigError> {
        match self.number_opt(key)? {
            Some(number) if number <= 0.0 => Err(self.refuse(key, "a number above 0", number)),
            other => Ok(other),
        }
    }

    /// Returns a number above 0. The key must be there.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn positive(&self, key: &'static str) -> Result<f64, ConfigError> {
        self.positive_opt(key)?.ok_or_else(|| self.missing(key))
    }

    /// Returns a boolean, or `default` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`].
    pub fn flag_or(&self, key: &'static str, default: bool) -> Result<bool, ConfigError> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// Returns a string. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`].
    pub fn text_opt(&self, key: &'static str) -> Result<Option<&str>, ConfigError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Returns a list of strings. `None` if the key is absent.
    ///
    /// # Errors
    /// [`ConfigError::Type`].
    pub fn texts_opt(&self, key: &'static str) -> Result<Option<Vec<&str>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let Value::Array(items) = value else { return Err(self.wrong(key, "a list of strings", value)) };
        let texts = items.iter().map(|item| item.as_str().ok_or_else(|| self.wrong(key, "a list of strings", item)));
        texts.collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// Returns a list of finite numbers above 0. The key must be there.
    ///
    /// # Errors
    /// [`ConfigError::Missing`], [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn positives(&self, key: &'static str) -> Result<Vec<f64>, ConfigError> {
        let value = self.get(key).ok_or_else(|| self.missing(key))?;
        let Value::Array(items) = value else { return Err(self.wrong(key, "a list of numbers", value)) };
        let number = |item: &Value| match item.as_f64() {
            Some(number) if number > 0.0 => Ok(number),
            Some(number) => Err(self.refuse(key, "numbers above 0", number)),
            None => Err(self.wrong(key, "a list of numbers", item)),
        };
        items.iter().map(number).collect()
    }

    /// Reads one token id or a list of them. Returns an empty list if the key is absent. Skips negative ids: some files write one
    /// for "none".
    ///
    /// # Errors
    /// [`ConfigError::Type`], [`ConfigError::Value`].
    pub fn token_ids(&self, key: &'static str) -> Result<Vec<u32>, ConfigError> {
        const EXPECTED: &str = "a token id or a list of them";
        let id = |value: &Value| match (value.as_u64(), value.as_i64()) {
            (Some(id), _) if id <= MAX_SIZE as u64 => Ok(Some(id as u32)),
            (Some(id), _) => Err(self.refuse(key, format!("token ids from 0 to {MAX_SIZE}"), id)),
            (None, Some(_)) => Ok(None),
            (None, None) => Err(self.wrong(key, EXPECTED, value)),
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().filter_map(|item| id(item).transpose()).collect(),
            Some(value @ Value::Number(_)) => Ok(Vec::from_iter(id(value)?)),
            Some(other) => Err(self.wrong(key, EXPECTED, other)),
        }
    }

    /// Makes the error for a value that is not accepted.
    pub fn refuse(&self, key: &str, expected: impl Into<String>, found: impl std::fmt::Display) -> ConfigError {
        ConfigError::Value {
            path: self.path.clone(),
            key: self.name(key),
            expected: expected.into(),
            found: shorten(&found.to_string(), SHOWN),
        }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| self.wrong(key, expected, value))
    }

    fn missing(&self, key: &str) -> ConfigError {
        ConfigError::Missing { path: self.path.clone(), key: self.name(key) }
    }

    fn wrong(&self, key: &str, expected: &'static str, found: &Value) -> ConfigError {
        ConfigError::Type { path: self.path.clone(), key: self.name(key), expected, found: json::kind(found) }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.at)
    }
}
