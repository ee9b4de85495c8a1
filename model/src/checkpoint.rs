//! Opening a checkpoint: find its files, resolve its configuration, check every tensor. No weights are read yet.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use phase_core::LoadSpec;
use serde_json::Value as Json;

use crate::{
    ChatTemplate, Digest, ModelConfig, ModelError, Tokenizer, Weights,
    config::{Biases, TensorFacts, from_hf, from_metadata, read_json},
    digest::{self, DigestCache},
    file::TensorFile,
    gguf::{self, Header},
    safetensors, schema,
    stored::{Scratch, StoredType},
};

/// One model on disk: configuration, weights, and, if it has them, tokenizer and chat template.
///
/// Its files must not be changed or shortened while it is open.
///
/// ```
/// # use phase_model::{Architecture, Checkpoint, ModelError, random};
/// # let dir = tempfile::tempdir().unwrap();
/// # let path = dir.path().join("tiny");
/// random::write(&path, &random::Shape::tiny(Architecture::Llama), 7, phase_core::DType::F32)?;
/// let checkpoint = Checkpoint::open(&path)?;
/// assert_eq!(checkpoint.config().architecture, Architecture::Llama);
/// assert_eq!(checkpoint.digest()?, Checkpoint::open(&path)?.digest()?);
/// assert!(checkpoint.tokenizer().is_err(), "random weights have no tokenizer");
/// # Ok::<(), ModelError>(())
/// ```
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    weights: Weights,
    source: Source,
    digest: OnceLock<Digest>,
    digest_cache: Option<DigestCache>,
}

/// Form of a checkpoint on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// One GGUF file.
    Gguf,
    /// A folder with `config.json` and safetensors.
    HuggingFace,
}

#[derive(Debug)]
enum Source {
    Gguf(Header),
    HuggingFace(Folder),
}

/// The optional JSON files of a Hugging Face folder.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) dir: PathBuf,
    pub(crate) tokenizer_config: Option<Json>,
}

const CONFIG: &str = "config.json";

impl Checkpoint {
    /// Opens a Hugging Face folder or a GGUF file. Reads headers and configuration only.
    ///
    /// # Errors
    /// Of kind `Load` when files are absent, damaged, or contradict each other; of kind `Unsupported` when the model
    /// needs something that is not implemented. Each names the file and the key or tensor.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ModelError> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(ModelError::io("open", path))?;
        if metadata.is_dir() { Self::open_folder(path) } else { Self::open_gguf(path) }
    }

    /// Opens what `spec` names: keeps digests in its folder for derived files, where it has one, and tells its progress.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn of(spec: &LoadSpec) -> Result<Self, ModelError> {
        let mut checkpoint = Self::open(&spec.path)?;
        checkpoint.weights.tell(spec.progress.clone());
        Ok(match &spec.cache_dir {
            Some(dir) => checkpoint.with_digest_cache(dir),
            None => checkpoint,
        })
    }

    /// Keeps the digest of large files in `dir`, so that they are hashed once and not at every start.
    ///
    /// An entry is keyed by the file's canonical path, size, modification time and inode.
    #[must_use]
    pub fn with_digest_cache(mut self, dir: impl Into<PathBuf>) -> Self {
        self.digest_cache = Some(DigestCache::new(dir.into()));
        self
    }

    /// The path it was opened from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its form on disk.
    pub const fn format(&self) -> Format {
        match self.source {
            Source::Gguf(_) => Format::Gguf,
            Source::HuggingFace(_) => Format::HuggingFace,
        }
    }

    /// The resolved configuration.
    pub const fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The weights.
    pub const fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Identifies weights and configuration by content; the tokenizer is not part of it, and neither are names or places.
    ///
    /// The first call hashes every weights file, at some GB/s, unless a [cache](Self::with_digest_cache) knows it.
    ///
    /// # Errors
    /// [`ModelError::Io`].
    pub fn digest(&self) -> Result<Digest, ModelError> {
        if let Some(digest) = self.digest.get() {
            return Ok(*digest);
        }
        let config = match &self.source {
            Source::Gguf(_) => Vec::new(),
            Source::HuggingFace(folder) => {
                let path = folder.dir.join(CONFIG);
                std::fs::read(&path).map_err(ModelError::io("read", &path))?
            }
        };
        let digest = digest::of_files(&config, self.weights.files(), self.digest_cache.as_ref())?;
        Ok(*self.digest.get_or_init(|| digest))
    }

    /// Loads the tokenizer.
    ///
    /// # Errors
    /// [`ModelError::NoTokenizer`] when the checkpoint has none; [`ModelError::Tokenizer`] when it is damaged;
    /// [`ModelError::Unsupported`] for a GGUF tokenizer whose way of splitting text is not known here.
    pub fn tokenizer(&self) -> Result<Tokenizer, ModelError> {
        match &self.source {
            Source::HuggingFace(folder) => Tokenizer::from_folder(folder, &self.config),
            Source::Gguf(header) => gguf::tokenizer::load(&self.path, self.weights.files()[0].bytes(), &header.metadata, &self.config),
        }
    }

    /// Loads the chat template.
    ///
    /// # Errors
    /// [`ModelError::NoChatTemplate`] when the checkpoint has none; [`ModelError::ChatTemplate`] when it can't be parsed.
    pub fn chat_template(&self) -> Result<ChatTemplate, ModelError> {
        match &self.source {
            Source::HuggingFace(folder) => ChatTemplate::from_folder(folder),
            Source::Gguf(header) => ChatTemplate::from_gguf(&self.path, self.weights.files()[0].bytes(), &header.metadata),
        }
    }

    fn open_folder(dir: &Path) -> Result<Self, ModelError> {
        let config_path = dir.join(CONFIG);
        if !config_path.is_file() {
            let reason = format!("the folder has no {CONFIG}; a GGUF model is opened by the path of its file");
            return Err(ModelError::NotACheckpoint { path: dir.to_owned(), reason });
        }
        let optional = |name: &str| {
            let path = dir.join(name);
            path.is_file().then(|| read_json(&path)).transpose()
        };
        let tokenizer_config = optional("tokenizer_config.json")?;
        let generation = optional("generation_config.json")?;
        let config = from_hf(&config_path, &read_json(&config_path)?, generation.as_ref(), tokenizer_config.as_ref())?;
        let (files, mut tensors) = safetensors::open_folder(dir)?;
        let full = schema::full_prefix(config.architecture);
        let prefix = if tensors.keys().any(|name| name.starts_with(full)) { full } else { "" };
        if config.tied_embeddings
            && let Some(head) = tensors.remove("lm_head.weight")
        {
            check_tied(&files, &tensors, &head, &schema::hugging_face(&config, prefix)[0].name)?;
        }
        let slots = schema::hugging_face(&config, prefix);
        let weights = Weights::new(dir, files, tensors, slots, config.tied_embeddings, |_| false)?;
        let source = Source::HuggingFace(Folder { dir: dir.to_owned(), tokenizer_config });
        Ok(Self { path: dir.to_owned(), config, weights, source, digest: OnceLock::new(), digest_cache: None })
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        let file = TensorFile::open(path)?;
        if !gguf::is_gguf(file.bytes()) {
            let reason = "it is neither a folder with a config.json nor a GGUF file".to_owned();
            return Err(ModelError::NotACheckpoint { path: path.to_owned(), reason });
        }
        let header = gguf::read_header(&file)?;
        let facts = tensor_facts(&file, &header)?;
        let config = from_metadata(path, &header.metadata, facts)?;
        let slots = schema::gguf(&config);
        let tied = config.tied_embeddings;
        let weights = Weights::new(path, vec![file], header.tensors.clone(), slots, tied, |name| name == ROPE_FACTORS)?;
        let source = Source::Gguf(header);
        Ok(Self { path: path.to_owned(), config, weights, source, digest: OnceLock::new(), digest_cache: None })
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Checkpoint");
        shown.field("path", &self.path).field("format", &self.format()).field("config", &self.config).finish_non_exhaustive()
    }
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

fn tensor_facts(file: &TensorFile, header: &Header) -> Result<TensorFacts, ModelError> {
    let has = |name: &str| header.tensors.contains_key(name);
    let biases = Biases { qkv: has("blk.0.attn_q.bias"), attention_output: has("blk.0.attn_output.bias"), mlp: has("blk.0.ffn_up.bias") };
    let rope_factors = match header.tensors.get(ROPE_FACTORS) {
        None => None,
        Some(raw) if raw.stored == StoredType::F32 && raw.shape.len() == 1 => {
            let mut factors = vec![0.0; raw.shape[0]];
            let mut scratch = Scratch::default();
            file.read_at(scratch.bytes(4 * factors.len()), raw.offset)?;
            scratch.decode(raw.stored, &mut factors);
            Some(factors)
        }
        Some(raw) => {
            let reason = format!("tensor `{ROPE_FACTORS}` is {} of shape {:?}, expected a row of F32", raw.stored, raw.shape);
            return Err(ModelError::damaged(file.path(), reason));
        }
    };
    let vocab = header.tensors.get("token_embd.weight").map_or(0, |raw| raw.shape[0]);
    Ok(TensorFacts { vocab, untied: has("output.weight"), biases, rope_factors })
}

/// An output layer that is stored although it is tied must be the embedding, or one of the two would be ignored.
fn check_tied(
    files: &[TensorFile],
    tensors: &std::collections::BTreeMap<String, crate::file::RawTensor>,
    head: &crate::file::RawTensor,
    embedding: &str,
) -> Result<(), ModelError> {
    let Some(embedding) = tensors.get(embedding) else { return Ok(()) };
    let bytes = |raw: &crate::file::RawTensor| {
        let len = raw.stored.bytes_of(raw.shape.iter().product())?;
        files[raw.file].bytes().get(usize::try_from(raw.offset).ok()?..)?.get(..len)
    };
    if head.stored == embedding.stored && head.shape == embedding.shape && bytes(head) == bytes(embedding) {
        return Ok(());
    }
    Err(ModelError::UnexpectedTensor {
        tensor: head.name.clone(),
        path: files[head.file].path().to_owned(),
        reason: format!("`tie_word_embeddings` is true and it differs from `{}`", embedding.name),
    })
}
