//! Typed reading of one JSON object, with errors that name file, key, value and what was expected.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// One JSON object. A key that is present and null counts as absent, as it does in transformers.
pub(crate) struct Keys<'a> {
    path: &'a Path,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(path: &'a Path, value: &'a Value) -> Result<Self, ModelError> {
        let map = value.as_object().ok_or_else(|| ModelError::config(path, "(whole file)", value, "an object"))?;
        Ok(Self { path, prefix: String::new(), map })
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, ModelError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        let map = value.as_object().ok_or_else(|| self.wrong(key, "an object"))?;
        Ok(Some(Self { path: self.path, prefix: format!("{}{key}.", self.prefix), map }))
    }

    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether the key is written down, be it as null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn first<'k>(&self, keys: &[&'k str]) -> Option<&'k str> {
        keys.iter().copied().find(|key| self.value(key).is_some())
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, ModelError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, ModelError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        self.typed(key, "a finite number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.number(key)? {
            Some(x) if x <= 0.0 => Err(self.wrong(key, "a number above 0")),
            other => Ok(other),
        }
    }

    /// An integer in `1..=max`.
    pub(crate) fn count(&self, key: &str, max: usize) -> Result<Option<usize>, ModelError> {
        let valid = |v: &Value| v.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=max).contains(n));
        self.typed(key, &format!("an integer in 1..={max}"), valid)
    }

    /// As [`count`](Self::count) under the first of several spellings; absence is an error.
    pub(crate) fn need(&self, keys: &[&str], max: usize) -> Result<usize, ModelError> {
        let key = self.first(keys).unwrap_or(keys[0]);
        self.count(key, max)?.ok_or_else(|| self.wrong(key, &format!("an integer in 1..={max}")))
    }

    pub(crate) fn wrong(&self, key: &str, expected: &str) -> ModelError {
        ModelError::config(self.path, &self.name(key), self.shown(key), expected)
    }

    pub(crate) fn unsupported(&self, key: &str, supported: &str) -> ModelError {
        ModelError::unsupported(self.path, &self.name(key), self.shown(key), supported)
    }

    fn typed<T>(&self, key: &str, expected: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>, ModelError> {
        match self.value(key) {
            None => Ok(None),
            Some(value) => read(value).map(Some).ok_or_else(|| self.wrong(key, expected)),
        }
    }

    fn name(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn shown(&self, key: &str) -> String {
        self.map.get(key).map_or_else(|| "absent".to_owned(), |v| shorten(&v.to_string()))
    }
}

/// At most 80 characters of a value, for an error message.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 { text.to_owned() } else { text.chars().take(77).chain("...".chars()).collect() }
}
