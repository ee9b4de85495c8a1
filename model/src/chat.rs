//! Chat templates: messages to the text a model was trained on, through the template the checkpoint carries.

mod jinja;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use minijinja::Environment;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use crate::{ModelError, checkpoint::Folder, config::read_json, gguf::Value};

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ChatMessage {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
}

impl ChatMessage {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }

    /// A message of the role `system`.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }

    /// A message of the role `user`.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// A message of the role `assistant`.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }
}

/// Whether the rendered text ends with the start of the assistant's turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GenerationPrompt {
    /// The model is to speak next.
    #[default]
    Add,
    /// The conversation stands as it is.
    Omit,
}

/// A parsed chat template with the checkpoint's special tokens.
///
/// Filters, tests and functions are those of transformers, but for `strftime_now`: it exists only after
/// [`with_date`](Self::with_date), because a template's text should not change from one day to the next unasked.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    path: PathBuf,
    source: String,
    variables: BTreeMap<String, Json>,
}

const NAME: &str = "chat_template";
const SPECIAL_TOKENS: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];

impl ChatTemplate {
    pub(crate) fn from_folder(folder: &Folder) -> Result<Self, ModelError> {
        let file = folder.dir.join("chat_template.jinja");
        let config_path = folder.dir.join("tokenizer_config.json");
        let in_config = folder.tokenizer_config.as_ref().and_then(|config| config.get("chat_template"));
        let (path, source) = if file.is_file() {
            let source = std::fs::read_to_string(&file).map_err(ModelError::io("read", &file))?;
            (file, source)
        } else if let Some(template) = in_config.filter(|t| !t.is_null()) {
            let source = default_template(&config_path, template)?;
            (config_path, source)
        } else {
            let expected = "chat_template.jinja, or `chat_template` in tokenizer_config.json".to_owned();
            return Err(ModelError::NoChatTemplate { path: folder.dir.clone(), expected });
        };
        let special = |key: &&str| folder.special_token(key).map(|text| ((*key).to_owned(), Json::String(text)));
        Self::new(&path, source, SPECIAL_TOKENS.iter().filter_map(special).collect())
    }

    pub(crate) fn from_gguf(path: &Path, bytes: &[u8], metadata: &BTreeMap<String, Value>) -> Result<Self, ModelError> {
        const KEY: &str = "tokenizer.chat_template";
        let Some(source) = metadata.get(KEY).and_then(Value::text) else {
            return Err(ModelError::NoChatTemplate { path: path.to_owned(), expected: format!("metadata `{KEY}`") });
        };
        let tokens = match metadata.get("tokenizer.ggml.tokens").and_then(Value::array) {
            Some(array) => array.texts(path, bytes)?.unwrap_or_default(),
            None => Vec::new(),
        };
        let keys = ["bos", "eos", "padding", "unknown"];
        let id = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}_token_id")).and_then(Value::unsigned);
        let text = |key: &str| tokens.get(usize::try_from(id(key)?).ok()?).cloned();
        let special = SPECIAL_TOKENS.iter().zip(keys).filter_map(|(name, key)| Some((name, text(key)?)));
        let variables = special.map(|(name, text)| ((*name).to_owned(), Json::String(text))).collect();
        Self::new(path, source.to_owned(), variables)
    }

    fn new(path: &Path, source: String, variables: BTreeMap<String, Json>) -> Result<Self, ModelError> {
        let environment = jinja::environment(NAME, &source).map_err(|e| failed(path, &e))?;
        Ok(Self { environment, path: path.to_owned(), source, variables })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Gives the template today's date, in seconds since 1970 UTC, as `strftime_now`.
    #[must_use]
    pub fn with_date(mut self, unix_seconds: i64) -> Self {
        jinja::add_date(&mut self.environment, unix_seconds);
        self
    }

    /// Sets a variable that the template reads, for example `enable_thinking` or `tools`.
    #[must_use]
    pub fn with_variable(mut self, name: impl Into<String>, value: Json) -> Self {
        self.variables.insert(name.into(), value);
        self
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`ModelError::ChatTemplate`], with the template's own words when it refuses the messages.
    pub fn render(&self, messages: &[ChatMessage], prompt: GenerationPrompt) -> Result<String, ModelError> {
        let template = self.environment.get_template(NAME).map_err(|e| failed(&self.path, &e))?;
        let mut context: BTreeMap<&str, minijinja::Value> =
            self.variables.iter().map(|(name, value)| (name.as_str(), minijinja::Value::from_serialize(value))).collect();
        context.insert("messages", minijinja::Value::from_serialize(messages));
        context.insert("add_generation_prompt", (prompt == GenerationPrompt::Add).into());
        template.render(context).map_err(|e| failed(&self.path, &e))
    }
}

fn failed(path: &Path, error: &minijinja::Error) -> ModelError {
    let reason = std::iter::successors(std::error::Error::source(error), |e| e.source())
        .fold(error.to_string(), |text, source| format!("{text}: {source}"));
    ModelError::ChatTemplate { path: path.to_owned(), reason }
}

/// One template, or the one named `default` of a list.
fn default_template(path: &Path, value: &Json) -> Result<String, ModelError> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    let named = |entry: &Json| (entry.get("name")? == "default").then(|| entry.get("template")?.as_str()).flatten().map(str::to_owned);
    value
        .as_array()
        .and_then(|list| list.iter().find_map(named))
        .ok_or_else(|| ModelError::config(path, "chat_template", value, "a string, or a list with a template named `default`"))
}

impl Folder {
    /// Text of a special token, from `tokenizer_config.json` or `special_tokens_map.json`.
    pub(crate) fn special_token(&self, key: &str) -> Option<String> {
        let text = |config: &Json| {
            let token = config.get(key)?;
            token.as_str().or_else(|| token.get("content")?.as_str()).map(str::to_owned)
        };
        self.tokenizer_config.as_ref().and_then(text).or_else(|| {
            let map = read_json(&self.dir.join("special_tokens_map.json")).ok()?;
            text(&map)
        })
    }
}
