//! A loaded model behind the phase traits. What a device does is the decoder's business, not this file's.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use phase_core::{
    CacheSpec, Capabilities, Decode, Evidence, KvCache, Logits, Model, ModelInfo, PhaseTypes, Prefill, PromptBatch, TokenId, check_run,
    check_slots, check_step, run_of_steps,
};

use crate::{CandleCache, CandleError, decoder::Decoder};

/// A model loaded by [`Candle`](crate::Candle).
#[derive(Debug)]
pub struct CandleModel {
    info: ModelInfo,
    capabilities: Capabilities,
    decoder: Decoder,
    /// For the greedy calls, which give no scores.
    scores: Logits,
    id: u64,
}

impl CandleModel {
    pub(crate) fn new(info: ModelInfo, capabilities: Capabilities, decoder: Decoder) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { info, capabilities, decoder, scores: Logits::new(), id: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Where the last prompt's time went on a CUDA device, in the order of a layer: nothing unless
    /// [`CandleConfig::prompt_parts`](crate::CandleConfig) asks for it.
    #[cfg(feature = "cuda")]
    pub fn prompt_parts(&self) -> &[crate::PromptPart] {
        self.decoder.prompt_parts()
    }

    fn run(&mut self, cache: &mut CandleCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), CandleError> {
        let scores = out.reset(prompt.batch(), self.info.vocab);
        self.decoder.scores(cache, prompt, scores)?;
        cache.len += prompt.len();
        Ok(())
    }

    fn pick(&mut self, cache: &mut CandleCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), CandleError> {
        self.decoder.pick(cache, prompt, &mut self.scores, self.info.vocab, out)?;
        cache.len += prompt.len();
        Ok(())
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
        cache.check_owner(self.id)?;
        prompt.check(cache, self.info.vocab)?;
        self.pick(cache, prompt, out)
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
        cache.check_owner(self.id)?;
        check_step(tokens, cache, self.info.vocab)?;
        self.pick(cache, PromptBatch::new(tokens, cache.batch())?, out)
    }

    fn decode_run(&mut self, cache: &mut CandleCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), CandleError> {
        cache.check_owner(self.id)?;
        if out.is_empty() {
            return Ok(());
        }
        check_step(tokens, cache, self.info.vocab)?;
        let steps = check_run(cache, out)?;
        if let Some(result) = self.decoder.run(cache, tokens, out) {
            result?;
            cache.len += steps;
            return Ok(());
        }
        run_of_steps(self, cache, tokens, out)
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
        self.decoder.allocate(spec, self.info.dtype, self.id)
    }

    fn evidence(&mut self) -> Result<Evidence, CandleError> {
        Ok(self.decoder.evidence(self.info.dtype))
    }

    fn device_time(&self) -> Option<Duration> {
        self.decoder.device_time()
    }

    fn device_steps(&self) -> &[Duration] {
        self.decoder.device_steps()
    }
}
