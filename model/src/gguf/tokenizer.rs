//! Tokenizers rebuilt from GGUF metadata. Only the ways of splitting text listed here are known; others are refused.

use std::{collections::BTreeMap, path::Path};

use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip},
    models::bpe::{BPE, Vocab},
    normalizers::{prepend::Prepend, replace::Replace, unicode::NFC, utils::Sequence as Normalizers},
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
    processors::template::TemplateProcessing,
};

use super::Value;
use crate::{ModelConfig, ModelError, Tokenizer};

/// ggml's numbers for kinds of tokens.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const LLAMA3_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2_SPLIT: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A GGUF vocabulary.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i64>,
    ids: Vocab,
}

/// Builds the tokenizer that the metadata describes.
pub(crate) fn load(path: &Path, bytes: &[u8], metadata: &BTreeMap<String, Value>, config: &ModelConfig) -> Result<Tokenizer, ModelError> {
    const MODEL: &str = "tokenizer.ggml.model";
    let Some(model) = metadata.get(MODEL) else {
        return Err(ModelError::NoTokenizer { path: path.to_owned(), expected: format!("metadata `{MODEL}`") });
    };
    let vocabulary = Vocabulary::read(path, bytes, metadata)?;
    let mut tokenizer = match model.text() {
        Some("gpt2") => byte_level(path, bytes, metadata, &vocabulary)?,
        Some("llama") => sentence_piece(path, bytes, metadata, &vocabulary)?,
        _ => return Err(ModelError::unsupported(path, MODEL, model.shown(), "gpt2, llama")),
    };
    tokenizer.add_special_tokens(&vocabulary.added(CONTROL));
    tokenizer.add_tokens(&vocabulary.added(USER_DEFINED));
    add_surrounding_tokens(path, metadata, &vocabulary, &mut tokenizer)?;
    Tokenizer::new(tokenizer, path, config)
}

impl Vocabulary {
    fn read(path: &Path, bytes: &[u8], metadata: &BTreeMap<String, Value>) -> Result<Self, ModelError> {
        let tokens = texts(path, bytes, metadata, "tokenizer.ggml.tokens")?;
        let kinds = match metadata.get("tokenizer.ggml.token_type").and_then(Value::array) {
            Some(array) => array.integers(path, bytes)?.unwrap_or_default(),
            None => vec![1; tokens.len()],
        };
        if kinds.len() != tokens.len() {
            let reason = format!("{} token types are given for {} tokens", kinds.len(), tokens.len());
            return Err(ModelError::tokenizer(path, reason));
        }
        let numbered = tokens.iter().zip(0u32..);
        let ids: Vocab = numbered.map(|(token, id)| (token.clone(), id)).collect();
        if ids.len() != tokens.len() {
            return Err(ModelError::tokenizer(path, "two tokens have the same text"));
        }
        Ok(Self { tokens, kinds, ids })
    }

    fn added(&self, kind: i64) -> Vec<AddedToken> {
        let of_kind = self.tokens.iter().zip(&self.kinds).filter(|(token, k)| **k == kind && !token.is_empty());
        of_kind.map(|(token, _)| AddedToken::from(token.clone(), kind == CONTROL).normalized(false)).collect()
    }
}

/// Byte-level BPE, with the split that `tokenizer.ggml.pre` names.
fn byte_level(
    path: &Path,
    bytes: &[u8],
    metadata: &BTreeMap<String, Value>,
    vocabulary: &Vocabulary,
) -> Result<tokenizers::Tokenizer, ModelError> {
    const PRE: &str = "tokenizer.ggml.pre";
    const SUPPORTED: &str = "gpt-2, gpt2, llama-bpe, llama3, qwen2, smollm";
    let failed = |e: tokenizers::Error| ModelError::tokenizer(path, e);
    let split = |pattern: &str| -> Result<PreTokenizerWrapper, ModelError> {
        let pattern = SplitPattern::Regex(pattern.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(failed)?;
        Ok(PreTokenizers::new(vec![split.into(), ByteLevel::new(false, true, false).into()]).into())
    };
    let Some(pre) = metadata.get(PRE) else {
        return Err(ModelError::unsupported(path, PRE, "absent", SUPPORTED));
    };
    let (pre_tokenizer, ignore_merges) = match pre.text() {
        Some("gpt-2" | "gpt2") => (ByteLevel::new(false, true, true).into(), false),
        Some("smollm") => {
            let bytes = ByteLevel::new(false, true, true);
            (PreTokenizers::new(vec![Digits::new(true).into(), bytes.into()]).into(), false)
        }
        Some("llama-bpe" | "llama3" | "llama-v3") => (split(LLAMA3_SPLIT)?, true),
        Some("qwen2") => (split(QWEN2_SPLIT)?, false),
        _ => return Err(ModelError::unsupported(path, PRE, pre.shown(), SUPPORTED)),
    };
    let merges = texts(path, bytes, metadata, "tokenizer.ggml.merges")?;
    let merges = merges.iter().map(|merge| split_merge(path, merge)).collect::<Result<Vec<_>, _>>()?;
    let model = BPE::builder().vocab_and_merges(vocabulary.ids.clone(), merges).ignore_merges(ignore_merges).build().map_err(failed)?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.with_decoder(Some(ByteLevel::new(true, true, true)));
    if pre.text() == Some("qwen2") {
        tokenizer.with_normalizer(Some(NFC));
    }
    Ok(tokenizer)
}

/// `SentencePiece`'s BPE, whose merges follow from the scores of the pieces.
fn sentence_piece(
    path: &Path,
    bytes: &[u8],
    metadata: &BTreeMap<String, Value>,
    vocabulary: &Vocabulary,
) -> Result<tokenizers::Tokenizer, ModelError> {
    const SPACE: &str = "\u{2581}";
    const SCORES: &str = "tokenizer.ggml.scores";
    let failed = |e: tokenizers::Error| ModelError::tokenizer(path, e);
    let array = metadata.get(SCORES).and_then(Value::array);
    let scores = array.map(|array| array.floats(path, bytes)).transpose()?.flatten();
    let scores = scores.filter(|scores| scores.len() == vocabulary.tokens.len());
    let scores = scores.ok_or_else(|| ModelError::tokenizer(path, format!("`{SCORES}` has not one score per token")))?;
    let unknown = vocabulary.kinds.iter().position(|kind| *kind == UNKNOWN);
    let mut model =
        BPE::builder().vocab_and_merges(vocabulary.ids.clone(), merges_of_scores(vocabulary, &scores)).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(vocabulary.tokens[unknown].clone());
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model.build().map_err(failed)?);
    let prefix = metadata.get("tokenizer.ggml.add_space_prefix").and_then(Value::flag).unwrap_or(true);
    let spaces = Replace::new(" ", SPACE).map_err(failed)?;
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    let mut decoders: Vec<DecoderWrapper> =
        vec![Replace::new(SPACE, " ").map_err(failed)?.into(), ByteFallback::new().into(), Fuse::new().into()];
    if prefix {
        normalizers.push(Prepend::new(SPACE.to_owned()).into());
        decoders.push(Strip::new(' ', 1, 0).into());
    }
    normalizers.push(spaces.into());
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers)));
    tokenizer.with_decoder(Some(Decoders::new(decoders)));
    Ok(tokenizer)
}

/// Every pair of pieces that makes a piece, best score first, as transformers derives them.
fn merges_of_scores(vocabulary: &Vocabulary, scores: &[f64]) -> Vec<(String, String)> {
    let mut merges = Vec::new();
    for (piece, score) in vocabulary.tokens.iter().zip(scores) {
        let mut splits = Vec::new();
        for (at, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(at);
            if let (Some(l), Some(r)) = (vocabulary.ids.get(left), vocabulary.ids.get(right)) {
                splits.push((*l, *r, left, right));
            }
        }
        splits.sort_unstable();
        merges.extend(splits.into_iter().map(|(_, _, left, right)| (*score, left, right)));
    }
    let len = |text: &str| text.chars().count();
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| len(b.1).cmp(&len(a.1))).then_with(|| len(b.2).cmp(&len(a.2))));
    merges.into_iter().map(|(_, left, right)| (left.to_owned(), right.to_owned())).collect()
}

/// Adds the tokens that go before and after every text.
fn add_surrounding_tokens(
    path: &Path,
    metadata: &BTreeMap<String, Value>,
    vocabulary: &Vocabulary,
    tokenizer: &mut tokenizers::Tokenizer,
) -> Result<(), ModelError> {
    let failed = |e: &dyn std::fmt::Display| ModelError::tokenizer(path, e);
    // llama.cpp starts Llama texts with the first token unless the file says otherwise, and no others.
    let model = metadata.get("tokenizer.ggml.model").and_then(Value::text);
    let pre = metadata.get("tokenizer.ggml.pre").and_then(Value::text);
    let by_default = model == Some("llama") || matches!(pre, Some("llama-bpe" | "llama3" | "llama-v3"));
    let wanted = |name: &str, default: bool| -> Result<Option<(String, u32)>, ModelError> {
        let key = format!("tokenizer.ggml.add_{name}_token");
        if !metadata.get(&key).and_then(Value::flag).unwrap_or(default) {
            return Ok(None);
        }
        let id = metadata.get(&format!("tokenizer.ggml.{name}_token_id")).and_then(Value::unsigned);
        let id = id.and_then(|id| u32::try_from(id).ok());
        let found = id.and_then(|id| Some((vocabulary.tokens.get(id as usize)?.clone(), id)));
        found.map(Some).ok_or_else(|| ModelError::tokenizer(path, format!("`{key}` asks for a token that is not in the vocabulary")))
    };
    let (before, after) = (wanted("bos", by_default)?, wanted("eos", false)?);
    if before.is_none() && after.is_none() {
        return Ok(());
    }
    let names = |id: &str| {
        let parts = [before.as_ref().map(|b| b.0.clone()), Some(format!("${id}")), after.as_ref().map(|a| a.0.clone())];
        parts.into_iter().flatten().collect::<Vec<_>>()
    };
    let special: Vec<(String, u32)> = before.iter().chain(&after).cloned().collect();
    let mut builder = TemplateProcessing::builder();
    builder.try_single(names("A")).map_err(|e| failed(&e))?;
    let processor = builder.special_tokens(special).build().map_err(|e| failed(&e))?;
    tokenizer.with_post_processor(Some(processor));
    Ok(())
}

fn texts(path: &Path, bytes: &[u8], metadata: &BTreeMap<String, Value>, key: &str) -> Result<Vec<String>, ModelError> {
    let array = metadata.get(key).and_then(Value::array);
    let texts = array.map(|array| array.texts(path, bytes)).transpose()?.flatten();
    texts.ok_or_else(|| ModelError::tokenizer(path, format!("metadata `{key}` is no array of strings")))
}

fn split_merge(path: &Path, merge: &str) -> Result<(String, String), ModelError> {
    let parts = merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
    parts.ok_or_else(|| ModelError::tokenizer(path, format!("the merge {merge:?} has no space between its parts")))
}
