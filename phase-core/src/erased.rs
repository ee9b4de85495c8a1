//! Models and backends chosen at run time: the same traits, erased.
//!
//! [`BoxModel`] implements [`Model`], so generic code takes an erased model as it takes a static one. A cache of
//! another model is [`ErrorKind::ForeignCache`], not a panic.

use crate::{
    Arm, Backend, BackendId, CacheSpec, CallError, Capabilities, Decode, ErrorKind, Evidence, KvCache, LoadSpec, Logits, Mode, Model,
    ModelInfo, PhaseError, PhaseTypes, Prefill, PromptBatch, StackInfo, TokenId,
};
use std::{any::Any, fmt, time::Duration};

trait AnyCache: KvCache + Any {}

impl<T: KvCache + Any> AnyCache for T {}

/// The cache of some model.
#[derive(Debug)]
pub struct BoxCache(Box<dyn AnyCache>);

#[deny(clippy::missing_trait_methods)]
impl KvCache for BoxCache {
    fn batch(&self) -> usize {
        self.0.batch()
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }

    fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The error of some backend, with its kind and who it was. One pointer, so that calls that go well return in a register.
#[derive(Debug)]
pub struct BoxError(Box<Failed>);

#[derive(Debug)]
struct Failed {
    kind: ErrorKind,
    backend: BackendId,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl BoxError {
    /// Erases `error` of `backend`, keeping its kind.
    #[cold]
    pub fn new(backend: BackendId, error: impl PhaseError) -> Self {
        Self(Box::new(Failed { kind: error.kind(), backend, source: Some(Box::new(error)) }))
    }

    /// The backend that failed.
    pub fn backend(&self) -> &BackendId {
        &self.0.backend
    }

    #[cold]
    fn foreign(backend: &BackendId) -> Self {
        Self(Box::new(Failed { kind: ErrorKind::ForeignCache, backend: backend.clone(), source: None }))
    }
}

impl fmt::Display for BoxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.source {
            Some(source) => write!(f, "{}: {source}", self.0.backend),
            None => write!(f, "{}: the cache belongs to another model", self.0.backend),
        }
    }
}

impl std::error::Error for BoxError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message already holds the source's own, so the chain continues below it.
        self.0.source.as_deref().and_then(std::error::Error::source)
    }
}

impl From<CallError> for BoxError {
    fn from(error: CallError) -> Self {
        Self::new(BackendId::new("any"), error)
    }
}

impl PhaseError for BoxError {
    fn kind(&self) -> ErrorKind {
        self.0.kind
    }
}

/// [`Model`] without associated types. Implemented for every model; not for you to implement.
pub trait DynModel: fmt::Debug + Send {
    /// See [`Model::info`].
    fn info_dyn(&self) -> &ModelInfo;
    /// See [`Model::capabilities`].
    fn capabilities_dyn(&self) -> &Capabilities;
    /// See [`Model::allocate`].
    ///
    /// # Errors
    /// As there.
    fn allocate_dyn(&mut self, spec: CacheSpec) -> Result<BoxCache, BoxError>;
    /// See [`Prefill::prefill`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::ForeignCache`].
    fn prefill_dyn(&mut self, cache: &mut BoxCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), BoxError>;
    /// See [`Prefill::prefill_greedy`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::ForeignCache`].
    fn prefill_greedy_dyn(&mut self, cache: &mut BoxCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), BoxError>;
    /// See [`Decode::decode`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::ForeignCache`].
    fn decode_dyn(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), BoxError>;
    /// See [`Decode::decode_greedy`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::ForeignCache`].
    fn decode_greedy_dyn(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BoxError>;
    /// See [`Decode::decode_run`].
    ///
    /// # Errors
    /// As there, and [`ErrorKind::ForeignCache`].
    fn decode_run_dyn(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BoxError>;
    /// See [`Model::evidence`].
    ///
    /// # Errors
    /// As there.
    fn evidence_dyn(&mut self) -> Result<Evidence, BoxError>;
    /// See [`Model::device_time`].
    fn device_time_dyn(&self) -> Option<Duration>;
    /// See [`Model::device_steps`].
    fn device_steps_dyn(&self) -> &[Duration];
}

fn own<'c, M: Model>(model: &M, cache: &'c mut BoxCache) -> Result<&'c mut M::Cache, BoxError> {
    let any: &mut dyn Any = &mut *cache.0;
    any.downcast_mut().ok_or_else(|| BoxError::foreign(&model.info().backend))
}

fn erase<M: Model, T>(model: &M, result: Result<T, M::Error>) -> Result<T, BoxError> {
    result.map_err(|e| BoxError::new(model.info().backend.clone(), e))
}

impl<M: Model> DynModel for M {
    fn info_dyn(&self) -> &ModelInfo {
        self.info()
    }

    fn capabilities_dyn(&self) -> &Capabilities {
        self.capabilities()
    }

    fn allocate_dyn(&mut self, spec: CacheSpec) -> Result<BoxCache, BoxError> {
        let cache = self.allocate(spec);
        Ok(BoxCache(Box::new(erase(self, cache)?)))
    }

    fn prefill_dyn(&mut self, cache: &mut BoxCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), BoxError> {
        let cache = own(self, cache)?;
        let result = self.prefill(cache, prompt, out);
        erase(self, result)
    }

    fn prefill_greedy_dyn(&mut self, cache: &mut BoxCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), BoxError> {
        let cache = own(self, cache)?;
        let result = self.prefill_greedy(cache, prompt, out);
        erase(self, result)
    }

    fn decode_dyn(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), BoxError> {
        let cache = own(self, cache)?;
        let result = self.decode(cache, tokens, out);
        erase(self, result)
    }

    fn decode_greedy_dyn(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BoxError> {
        let cache = own(self, cache)?;
        let result = self.decode_greedy(cache, tokens, out);
        erase(self, result)
    }

    fn decode_run_dyn(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BoxError> {
        let cache = own(self, cache)?;
        let result = self.decode_run(cache, tokens, out);
        erase(self, result)
    }

    fn evidence_dyn(&mut self) -> Result<Evidence, BoxError> {
        let result = self.evidence();
        erase(self, result)
    }

    fn device_time_dyn(&self) -> Option<Duration> {
        self.device_time()
    }

    fn device_steps_dyn(&self) -> &[Duration] {
        self.device_steps()
    }
}

/// Some model.
pub type BoxModel = Box<dyn DynModel>;

impl PhaseTypes for BoxModel {
    type Cache = BoxCache;
    type Error = BoxError;
}

#[deny(clippy::missing_trait_methods)]
impl Prefill for BoxModel {
    fn prefill(&mut self, cache: &mut BoxCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), BoxError> {
        (**self).prefill_dyn(cache, prompt, out)
    }

    fn prefill_greedy(&mut self, cache: &mut BoxCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), BoxError> {
        (**self).prefill_greedy_dyn(cache, prompt, out)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Decode for BoxModel {
    fn decode(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), BoxError> {
        (**self).decode_dyn(cache, tokens, out)
    }

    fn decode_greedy(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BoxError> {
        (**self).decode_greedy_dyn(cache, tokens, out)
    }

    fn decode_run(&mut self, cache: &mut BoxCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BoxError> {
        (**self).decode_run_dyn(cache, tokens, out)
    }
}

#[deny(clippy::missing_trait_methods)]
impl Model for BoxModel {
    fn info(&self) -> &ModelInfo {
        (**self).info_dyn()
    }

    fn capabilities(&self) -> &Capabilities {
        (**self).capabilities_dyn()
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<BoxCache, BoxError> {
        (**self).allocate_dyn(spec)
    }

    fn evidence(&mut self) -> Result<Evidence, BoxError> {
        (**self).evidence_dyn()
    }

    fn device_time(&self) -> Option<Duration> {
        (**self).device_time_dyn()
    }

    fn device_steps(&self) -> &[Duration] {
        (**self).device_steps_dyn()
    }
}

/// [`Backend`] without associated types. Implemented for every backend.
pub trait DynBackend: fmt::Debug + Send + Sync {
    /// See [`Backend::id`].
    fn id_dyn(&self) -> BackendId;
    /// See [`Backend::mode`].
    fn mode_dyn(&self) -> Mode;
    /// Path and mode.
    fn arm(&self) -> Arm {
        Arm::new(self.id_dyn(), self.mode_dyn())
    }
    /// See [`Backend::probe`].
    ///
    /// # Errors
    /// As there.
    fn probe_dyn(&self) -> Result<StackInfo, BoxError>;
    /// See [`Backend::load`].
    ///
    /// # Errors
    /// As there.
    fn load_dyn(&self, spec: &LoadSpec) -> Result<BoxModel, BoxError>;
}

impl<B: Backend> DynBackend for B
where
    B::Model: 'static,
{
    fn id_dyn(&self) -> BackendId {
        self.id()
    }

    fn mode_dyn(&self) -> Mode {
        self.mode()
    }

    fn probe_dyn(&self) -> Result<StackInfo, BoxError> {
        self.probe().map_err(|e| BoxError::new(self.id(), e))
    }

    fn load_dyn(&self, spec: &LoadSpec) -> Result<BoxModel, BoxError> {
        match self.load(spec) {
            Ok(model) => Ok(Box::new(model)),
            Err(e) => Err(BoxError::new(self.id(), e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::{sim::Sim, *};

    #[test]
    fn another_models_cache_is_refused_by_kind() {
        let load = || Sim::default().load(&LoadSpec::new("none")).unwrap();
        let mut plain: BoxModel = Box::new(load());
        let mut measured: BoxModel = Box::new(Measured::new(load(), ManualClock::default(), NoopSink));
        let mut cache = plain.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
        let error = measured.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).unwrap_err();
        assert_eq!((error.kind(), error.to_string().as_str()), (ErrorKind::ForeignCache, "sim: the cache belongs to another model"));
    }

    #[test]
    fn erasing_twice_still_works() {
        let once: BoxModel = Box::new(Sim::default().load(&LoadSpec::new("none")).unwrap());
        let mut twice: BoxModel = Box::new(once);
        let mut cache = twice.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
        twice.decode(&mut cache, &[TokenId(2)], &mut Logits::new()).unwrap();
        assert_eq!(cache.len(), 1);
    }
}
