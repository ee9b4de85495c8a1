//! A loaded model: checks every call, then lets the device's decoder run it.

use std::sync::Arc;

use phase_core::{
    CacheSpec, CallError, Capabilities, Decode, Evidence, Logits, Model, ModelInfo, PhaseTypes, Prefill, PromptBatch, TokenId, check_step,
};

use crate::{BurnCache, BurnError, cache::CacheShape, cpu::Decoder, evidence};

/// A model loaded by [`Burn`](crate::Burn).
#[derive(Debug)]
pub struct BurnModel {
    info: ModelInfo,
    capabilities: Capabilities,
    decoder: Decoder,
    shape: Arc<CacheShape>,
    /// Scores of the greedy calls.
    scores: Logits,
}

impl BurnModel {
    pub(crate) fn new(info: ModelInfo, capabilities: Capabilities, decoder: Decoder, shape: Arc<CacheShape>) -> Self {
        Self { info, capabilities, decoder, shape, scores: Logits::new() }
    }

    fn run(&mut self, cache: &mut BurnCache, tokens: &[TokenId], batch: usize, out: &mut Logits) -> Result<(), BurnError> {
        self.decoder.forward(cache, tokens, batch, out.reset(batch, self.info.vocab))
    }

    fn check(&self, cache: &BurnCache, prompt: PromptBatch<'_>) -> Result<(), BurnError> {
        if !cache.belongs_to(&self.shape) {
            return Err(BurnError::ForeignCache);
        }
        Ok(prompt.check(cache, self.info.vocab)?)
    }

    fn check_step(&self, cache: &BurnCache, tokens: &[TokenId]) -> Result<(), BurnError> {
        if !cache.belongs_to(&self.shape) {
            return Err(BurnError::ForeignCache);
        }
        Ok(check_step(tokens, cache, self.info.vocab)?)
    }

    fn greedy(&mut self, cache: &mut BurnCache, tokens: &[TokenId], batch: usize, out: &mut [TokenId]) -> Result<(), BurnError> {
        if out.len() != batch {
            return Err(CallError::Rows { got: out.len(), want: batch }.into());
        }
        let mut scores = std::mem::take(&mut self.scores);
        let result = self.run(cache, tokens, batch, &mut scores);
        if result.is_ok() {
            scores.argmax_into(out);
        }
        self.scores = scores;
        result
    }
}

impl PhaseTypes for BurnModel {
    type Cache = BurnCache;
    type Error = BurnError;
}

impl Prefill for BurnModel {
    fn prefill(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), BurnError> {
        self.check(cache, prompt)?;
        self.run(cache, prompt.tokens(), prompt.batch(), out)
    }

    fn prefill_greedy(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), BurnError> {
        self.check(cache, prompt)?;
        self.greedy(cache, prompt.tokens(), prompt.batch(), out)
    }
}

impl Decode for BurnModel {
    fn decode(&mut self, cache: &mut BurnCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), BurnError> {
        self.check_step(cache, tokens)?;
        self.run(cache, tokens, tokens.len(), out)
    }

    fn decode_greedy(&mut self, cache: &mut BurnCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BurnError> {
        self.check_step(cache, tokens)?;
        self.greedy(cache, tokens, tokens.len(), out)
    }
}

impl Model for BurnModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<BurnCache, BurnError> {
        let spec = spec.check(&self.capabilities)?;
        let cache = BurnCache::allocate(&self.shape, spec)?;
        self.decoder.reserve_positions(spec.capacity)?;
        Ok(cache)
    }

    fn evidence(&mut self) -> Result<Evidence, BurnError> {
        Ok(evidence::evidence(self.decoder.engine().products().seen()))
    }
}
