//! A loaded model behind the phase traits. What a device does is the decoder's business, not this file's.

use std::sync::atomic::{AtomicU64, Ordering};

use phase_core::{
    CacheSpec, Capabilities, Decode, Evidence, KvCache, Logits, Model, ModelInfo, PhaseTypes, Prefill, PromptBatch, TokenId, check_slots,
    check_step,
};

use crate::{CandleCache, CandleError, cpu};

/// A model loaded by [`Candle`](crate::Candle).
#[derive(Debug)]
pub struct CandleModel {
    info: ModelInfo,
    capabilities: Capabilities,
    decoder: cpu::Decoder,
    /// For the greedy calls, which give no scores.
    scores: Logits,
    id: u64,
}

impl CandleModel {
    pub(crate) fn new(info: ModelInfo, capabilities: Capabilities, decoder: cpu::Decoder) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { info, capabilities, decoder, scores: Logits::new(), id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn run(&mut self, cache: &mut CandleCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), CandleError> {
        let scores = out.reset(prompt.batch(), self.info.vocab);
        self.decoder.forward(cache, prompt, scores)?;
        cache.len += prompt.len();
        Ok(())
    }

    fn greedy(
        &mut self,
        out: &mut [TokenId],
        call: impl FnOnce(&mut Self, &mut Logits) -> Result<(), CandleError>,
    ) -> Result<(), CandleError> {
        let mut scores = std::mem::take(&mut self.scores);
        let result = call(self, &mut scores);
        if result.is_ok() {
            scores.argmax_into(out);
        }
        self.scores = scores;
        result
    }
}

impl PhaseTypes for CandleModel {
    type Cache = CandleCache;
    type Error = CandleError;
}

impl Prefill for CandleModel {
    fn prefill(&mut self, cache: &mut CandleCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), CandleError> {
        cache.check_owner(self.id)?;
        prompt.check(cache, self.info.vocab)?;
        self.run(cache, prompt, out)
    }

    fn prefill_greedy(&mut self, cache: &mut CandleCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), CandleError> {
        check_slots(cache, out)?;
        self.greedy(out, |model, logits| model.prefill(cache, prompt, logits))
    }
}

impl Decode for CandleModel {
    fn decode(&mut self, cache: &mut CandleCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), CandleError> {
        cache.check_owner(self.id)?;
        check_step(tokens, cache, self.info.vocab)?;
        self.run(cache, PromptBatch::new(tokens, cache.batch())?, out)
    }

    fn decode_greedy(&mut self, cache: &mut CandleCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), CandleError> {
        check_slots(cache, out)?;
        self.greedy(out, |model, logits| model.decode(cache, tokens, logits))
    }
}

impl Model for CandleModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn allocate(&mut self, spec: CacheSpec) -> Result<CandleCache, CandleError> {
        let spec = spec.check(&self.capabilities)?;
        self.decoder.reserve(spec.capacity)?;
        self.decoder.allocate(spec, self.info.dtype, self.id)
    }

    fn evidence(&mut self) -> Result<Evidence, CandleError> {
        Ok(self.decoder.evidence(self.info.dtype))
    }
}
