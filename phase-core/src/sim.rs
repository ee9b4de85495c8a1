//! A deterministic backend without weights: its "model" is a hash of the tokens seen. For tests, documentation and for
//! measuring what this crate itself costs. It says nothing about inference.

use crate::{
    Backend, BackendId, CacheSpec, CallError, Capabilities, DType, Decode, ErrorKind, Evidence, KvCache, Layer, LoadSpec, Logits, Mode,
    Model, ModelInfo, PhaseError, PhaseTypes, Prefill, PromptBatch, StackInfo, TokenId, check_step,
};

/// Vocabulary of the simulated model.
pub const VOCAB: usize = 64;
/// Positions of the simulated model.
pub const CONTEXT: usize = 256;

/// The simulated backend.
#[derive(Clone, Debug)]
pub struct Sim {
    id: BackendId,
    mode: Mode,
    fault: Option<Fault>,
}

/// A defect built in on purpose, each caught by a check of the conformance kit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A token outside the vocabulary is taken as another one.
    AcceptsBadToken,
    /// A later chunk forgets the earlier ones.
    ChunkStartsOver,
    /// Device timing is claimed and not given.
    ClaimsDeviceTiming,
    /// A refused call has already changed the cache.
    CorruptsOnOverflow,
    /// Decode on an empty cache is refused.
    EmptyDecodeRefused,
    /// Decode gives the right scores once and does not keep the token.
    ForgetsToken,
    /// The greedy call picks another token than the scores say.
    GreedyDisagrees,
    /// A run of steps feeds every step the first token.
    RunForgets,
    /// Truncation changes the length only.
    IgnoresTruncate,
    /// Rows see their neighbours.
    LeaksAcrossRows,
    /// Caches see each other.
    LeaksAcrossSessions,
    /// The length grows by one too many.
    MiscountsLength,
    /// Nothing was observed.
    NoEvidence,
    /// The same input gives another output the second time.
    NotDeterministic,
    /// Two loads of one checkpoint differ.
    ReloadDiffers,
}

impl Default for Sim {
    fn default() -> Self {
        Self::named(BackendId::new("sim"))
    }
}

impl Sim {
    /// The simulated backend under another id, to have several in one registry.
    pub const fn named(id: BackendId) -> Self {
        Self { id, mode: Mode::Default, fault: None }
    }

    /// Says that it runs in `mode`, to have several modes in one registry. It runs as ever.
    #[must_use]
    pub const fn with_mode(mut self, mode: Mode) -> Self {
        self.mode = mode;
        self
    }

    /// Builds in a defect.
    #[must_use]
    pub const fn with_fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }
}

impl Backend for Sim {
    type Model = SimModel;
    type Error = SimError;

    fn id(&self) -> BackendId {
        self.id.clone()
    }

    fn mode(&self) -> Mode {
        self.mode
    }

    fn probe(&self) -> Result<StackInfo, SimError> {
        Ok(StackInfo::new().with(Layer::Runtime, "library", concat!("phase-core sim ", env!("CARGO_PKG_VERSION"))))
    }

    fn load(&self, spec: &LoadSpec) -> Result<SimModel, SimError> {
        static LOADS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        spec.check()?;
        let stack = self.probe()?.with(Layer::Runtime, "backend", self.id.as_str()).with(Layer::Model, "digest", "sim").with(
            Layer::Model,
            "dtype",
            spec.dtype.as_str(),
        );
        let mut capabilities = Capabilities::new(spec.max_batch, CONTEXT).with_chunked_prefill();
        if self.fault == Some(Fault::ClaimsDeviceTiming) {
            capabilities = capabilities.with_device_timing();
        }
        Ok(SimModel {
            info: ModelInfo::new(self.id.clone(), VOCAB, CONTEXT, DType::F32).with_stack(stack),
            capabilities,
            fault: self.fault,
            salt: if self.fault == Some(Fault::ReloadDiffers) { LOADS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) } else { 0 },
            calls: 0,
            last: 0,
        })
    }
}

/// The simulated model.
#[derive(Debug)]
pub struct SimModel {
    info: ModelInfo,
    capabilities: Capabilities,
    fault: Option<Fault>,
    salt: u64,
    calls: u64,
    last: u64,
}

/// The hash of every row after every position.
#[derive(Debug)]
pub struct SimCache {
    rows: Vec<Vec<u64>>,
    len: usize,
    capacity: usize,
    keeps_on_truncate: bool,
}

impl KvCache for SimCache {
    fn batch(&self) -> usize {
        self.rows.len()
    }

    fn len(&self) -> usize {
        self.len
    }

    fn capacity(&self) -> usize {
        self.capacity
    }

    fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        if !self.keeps_on_truncate {
            self.rows.iter_mut().for_each(|row| row.truncate(len));
        }
    }
}

/// What the simulated backend fails with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct SimError(#[from] CallError);

impl PhaseError for SimError {
    fn kind(&self) -> ErrorKind {
        self.0.kind()
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(hash: u64, token: TokenId) -> u64 {
    let mut z = (hash ^ u64::from(token.0)).wrapping_add(SEED);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z ^ (z >> 31)
}

impl SimModel {
    fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    fn advance(&mut self, cache: &mut SimCache, prompt: PromptBatch<'_>) {
        for (row, tokens) in cache.rows.iter_mut().zip(prompt.rows()) {
            for token in tokens {
                let before = row.last().copied().unwrap_or(SEED ^ self.salt);
                row.push(mix(before, *token));
            }
        }
        cache.len += prompt.len() + usize::from(self.has(Fault::MiscountsLength));
        if self.has(Fault::LeaksAcrossRows) {
            let first = cache.rows[0].last().copied().unwrap_or(SEED);
            cache.rows.iter_mut().skip(1).filter_map(|row| row.last_mut()).for_each(|h| *h ^= first);
        }
        if self.has(Fault::LeaksAcrossSessions) {
            cache.rows.iter_mut().filter_map(|row| row.last_mut()).for_each(|h| *h ^= self.last);
        }
        self.last = cache.rows[0].last().copied().unwrap_or(SEED);
    }

    fn emit(&mut self, cache: &SimCache, out: &mut Logits) {
        self.calls += 1;
        let noise = if self.has(Fault::NotDeterministic) { self.calls } else { 0 };
        let scores = out.reset(cache.rows.len(), VOCAB);
        for (row, scores) in cache.rows.iter().zip(scores.chunks_exact_mut(VOCAB)) {
            let hash = row.last().copied().unwrap_or(SEED) ^ noise;
            for (i, score) in (0u32..).zip(scores) {
                #[expect(clippy::cast_precision_loss, reason = "16 bits are exact in f32")]
                let value = (mix(hash, TokenId(i)) >> 48) as f32 / 4096.0;
                *score = value;
            }
        }
    }

    fn run(&mut self, cache: &mut SimCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), SimError> {
        match prompt.check(cache, VOCAB) {
            Err(CallError::Token { .. }) if self.has(Fault::AcceptsBadToken) => {}
            Err(e @ CallError::Overflow { .. }) if self.has(Fault::CorruptsOnOverflow) => {
                cache.rows.iter_mut().filter_map(|row| row.last_mut()).for_each(|h| *h ^= 1);
                return Err(e.into());
            }
            other => other?,
        }
        if self.has(Fault::ChunkStartsOver) && prompt.len() > 1 {
            cache.rows.iter_mut().filter_map(|row| row.last_mut()).for_each(|h| *h = SEED);
        }
        self.advance(cache, prompt);
        self.emit(cache, out);
        Ok(())
    }
}

impl PhaseTypes for SimModel {
    type Cache = SimCache;
    type Error = SimError;
}

impl Prefill for SimModel {
    fn prefill(&mut self, cache: &mut SimCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), SimError> {
        self.run(cache, prompt, out)
    }
}

impl Decode for SimModel {
    fn decode(&mut self, cache: &mut SimCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), SimError> {
        check_step(tokens, cache, usize::MAX)?;
        if self.has(Fault::EmptyDecodeRefused) && cache.is_empty() {
            return Err(CallError::Rows { got: 0, want: 0 }.into());
        }
        let kept: Option<Vec<_>> = self.has(Fault::ForgetsToken).then(|| cache.rows.clone());
        self.run(cache, PromptBatch::new(tokens, tokens.len())?, out)?;
        if let Some(rows) = kept {
            cache.rows = rows;
        }
        Ok(())
    }

    fn decode_greedy(&mut self, cache: &mut SimCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), SimError> {
        crate::check_slots(cache, out)?;
        let mut logits = Logits::new();
        self.decode(cache, tokens, &mut logits)?;
        logits.argmax_into(out);
        if self.has(Fault::GreedyDisagrees) {
            out.iter_mut().for_each(|t| t.0 ^= 1);
        }
        Ok(())
    }

    fn decode_run(&mut self, cache: &mut SimCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), SimError> {
        if self.has(Fault::RunForgets) {
            return out.chunks_mut(tokens.len()).try_for_each(|step| self.decode_greedy(cache, tokens, step));
        }
        crate::run_of_steps(self, cache, tokens, out)
    }
}

impl Model for SimModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<SimCache, SimError> {
        let CacheSpec { batch, capacity } = spec.check(&self.capabilities)?;
        let rows = vec![Vec::with_capacity(capacity); batch];
        Ok(SimCache { rows, len: 0, capacity, keeps_on_truncate: self.has(Fault::IgnoresTruncate) })
    }

    fn evidence(&mut self) -> Result<Evidence, SimError> {
        if self.has(Fault::NoEvidence) {
            return Ok(Evidence::default());
        }
        Ok(Evidence::new("call counter").with_kernel("hash").with_placement("host", self.calls))
    }
}
