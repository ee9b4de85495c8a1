//! A loaded model: checks every call, then lets the device's decoder run it.

use std::{sync::Arc, time::Duration};

use phase_core::{
    CacheSpec, Capabilities, Decode, Evidence, KvCache, Logits, Model, ModelInfo, PhaseTypes, Prefill, PromptBatch, TokenId, check_run,
    check_slots, check_step, run_of_steps,
};

use crate::{BurnCache, BurnError, cache::CacheShape, decoder::Decoder};

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

    fn check_owner(&self, cache: &BurnCache) -> Result<(), BurnError> {
        if cache.belongs_to(&self.shape) { Ok(()) } else { Err(BurnError::ForeignCache) }
    }

    fn run(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), BurnError> {
        self.decoder.scores(cache, prompt, out.reset(prompt.batch(), self.info.vocab))
    }

    fn pick(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), BurnError> {
        self.decoder.pick(cache, prompt, &mut self.scores, self.info.vocab, out)
    }
}

impl PhaseTypes for BurnModel {
    type Cache = BurnCache;
    type Error = BurnError;
}

impl Prefill for BurnModel {
    fn prefill(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, out: &mut Logits) -> Result<(), BurnError> {
        self.check_owner(cache)?;
        prompt.check(cache, self.info.vocab)?;
        self.run(cache, prompt, out)
    }

    fn prefill_greedy(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, out: &mut [TokenId]) -> Result<(), BurnError> {
        self.check_owner(cache)?;
        prompt.check(cache, self.info.vocab)?;
        check_slots(cache, out)?;
        self.pick(cache, prompt, out)
    }
}

impl Decode for BurnModel {
    fn decode(&mut self, cache: &mut BurnCache, tokens: &[TokenId], out: &mut Logits) -> Result<(), BurnError> {
        self.check_owner(cache)?;
        check_step(tokens, cache, self.info.vocab)?;
        self.run(cache, PromptBatch::new(tokens, cache.batch())?, out)
    }

    fn decode_greedy(&mut self, cache: &mut BurnCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BurnError> {
        self.check_owner(cache)?;
        check_step(tokens, cache, self.info.vocab)?;
        check_slots(cache, out)?;
        self.pick(cache, PromptBatch::new(tokens, cache.batch())?, out)
    }

    fn decode_run(&mut self, cache: &mut BurnCache, tokens: &[TokenId], out: &mut [TokenId]) -> Result<(), BurnError> {
        self.check_owner(cache)?;
        if out.is_empty() {
            return Ok(());
        }
        check_step(tokens, cache, self.info.vocab)?;
        check_run(cache, out)?;
        match self.decoder.run(cache, tokens, out) {
            Some(result) => result,
            None => run_of_steps(self, cache, tokens, out),
        }
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
        self.decoder.allocate(spec, &self.shape)
    }

    fn evidence(&mut self) -> Result<Evidence, BurnError> {
        Ok(self.decoder.evidence())
    }

    fn device_time(&self) -> Option<Duration> {
        self.decoder.device_time()
    }

    fn device_steps(&self) -> &[Duration] {
        self.decoder.device_steps()
    }
}
