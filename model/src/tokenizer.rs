//! Text to token ids and back, whole or one token at a time.

use std::path::{Path, PathBuf};

use phase_core::TokenId;

use crate::{ModelConfig, ModelError, checkpoint::Folder};

/// A checkpoint's tokenizer.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    vocab: usize,
    bos: Option<TokenId>,
    eos: Vec<TokenId>,
}

const FILE: &str = "tokenizer.json";

impl Tokenizer {
    pub(crate) fn from_folder(folder: &Folder, config: &ModelConfig) -> Result<Self, ModelError> {
        let path = folder.dir.join(FILE);
        if !path.is_file() {
            return Err(ModelError::NoTokenizer { path: folder.dir.clone(), expected: FILE.to_owned() });
        }
        let bytes = std::fs::read(&path).map_err(ModelError::io("read", &path))?;
        let inner = parse(&path, &bytes)?;
        let mut tokenizer = Self::new(inner, &path, config)?;
        let named = |key: &str| folder.special_token(key).and_then(|text| tokenizer.token_id(&text));
        let (bos, eos) = (named("bos_token"), named("eos_token"));
        tokenizer.bos = tokenizer.bos.or(bos);
        tokenizer.eos.extend(eos.filter(|id| !config.eos.contains(id)));
        Ok(tokenizer)
    }

    /// Takes a tokenizer that was built elsewhere; padding and truncation are switched off.
    pub(crate) fn new(mut inner: tokenizers::Tokenizer, path: &Path, config: &ModelConfig) -> Result<Self, ModelError> {
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| ModelError::tokenizer(path, e))?;
        let (bos, eos) = (config.bos, config.eos.clone());
        Ok(Self { inner, path: path.to_owned(), vocab: config.vocab, bos, eos })
    }

    /// Token ids of a text, with the special tokens that the model expects around a text (for Llama, the first one).
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`], also when an id lies outside of the model's vocabulary.
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        self.ids(text, true)
    }

    /// Token ids of a text that already holds its special tokens, as a rendered chat template does.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_rendered(&self, text: &str) -> Result<Vec<TokenId>, ModelError> {
        self.ids(text, false)
    }

    /// Text of token ids, without special tokens.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        self.text(&ids, true)
    }

    /// Text of token ids, special tokens included.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn decode_with_special(&self, tokens: &[TokenId]) -> Result<String, ModelError> {
        let ids: Vec<u32> = tokens.iter().map(|t| t.0).collect();
        self.text(&ids, false)
    }

    /// Starts decoding token by token.
    pub const fn stream(&self) -> TextStream<'_> {
        TextStream { tokenizer: self, ids: Vec::new(), read: 0 }
    }

    /// The token that starts a text, if the model has one.
    pub const fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Tokens that end a text.
    pub fn eos(&self) -> &[TokenId] {
        &self.eos
    }

    /// Whether a token ends a text.
    pub fn is_eos(&self, token: TokenId) -> bool {
        self.eos.contains(&token)
    }

    /// Id of a token by its exact text, for example `<|im_end|>`.
    pub fn token_id(&self, text: &str) -> Option<TokenId> {
        self.inner.token_to_id(text).map(TokenId)
    }

    /// Exact text of a token, in the tokenizer's own alphabet.
    pub fn token_text(&self, token: TokenId) -> Option<String> {
        self.inner.id_to_token(token.0)
    }

    fn ids(&self, text: &str, add_special: bool) -> Result<Vec<TokenId>, ModelError> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|e| ModelError::tokenizer(&self.path, e))?;
        let ids = encoding.get_ids();
        if let Some(id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            let reason = format!("it gives the id {id}, the model's vocabulary has {} entries", self.vocab);
            return Err(ModelError::tokenizer(&self.path, reason));
        }
        Ok(ids.iter().copied().map(TokenId).collect())
    }

    fn text(&self, ids: &[u32], skip_special: bool) -> Result<String, ModelError> {
        self.inner.decode(ids, skip_special).map_err(|e| ModelError::tokenizer(&self.path, e))
    }
}

/// The library panics on some contents, so these are kept from it, and what remains is caught.
fn parse(path: &Path, bytes: &[u8]) -> Result<tokenizers::Tokenizer, ModelError> {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(ModelError::json(path))?;
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|e| ModelError::tokenizer(path, e)),
        Err(_) => Err(ModelError::tokenizer(path, "the `tokenizers` library can't read its decoder, normalizer or splitter")),
    }
}

/// Decodes a sequence token by token, holding back bytes until they are complete characters.
///
/// The pieces together are what [`Tokenizer::decode`] gives for the whole sequence.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Tokens given out last, as context, and tokens held back.
    ids: Vec<u32>,
    /// How many of `ids` were given out.
    read: usize,
}

impl TextStream<'_> {
    /// Adds a token; gives the text it completes, if it completes any.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn push(&mut self, token: TokenId) -> Result<Option<String>, ModelError> {
        self.ids.push(token.0);
        let text = self.tokenizer.text(&self.ids, true)?;
        if text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(None);
        }
        self.advance(&text)
    }

    /// Ends the sequence; gives what was held back, incomplete characters as U+FFFD.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`].
    pub fn finish(mut self) -> Result<Option<String>, ModelError> {
        let text = self.tokenizer.text(&self.ids, true)?;
        self.advance(&text)
    }

    fn advance(&mut self, text: &str) -> Result<Option<String>, ModelError> {
        let given = self.tokenizer.text(&self.ids[..self.read], true)?;
        let new = text.get(given.len()..).filter(|new| !new.is_empty()).map(str::to_owned);
        if new.is_some() {
            // Some decoders treat the first token of a sequence differently, so one piece stays as context.
            self.ids.drain(..self.read);
            self.read = self.ids.len();
        }
        Ok(new)
    }
}
