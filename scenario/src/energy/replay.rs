//! Replays of one call on one loaded backend, through the same timed calls as the blocks.

use super::planned::Call;
use crate::{
    Calls, Plan,
    random::{Random, tokens},
    task::Lane,
};
use phase_core::{
    BoxCache, BoxError, CacheSpec, Decode as _, KvCache as _, Logits, Model as _, Phase, Prefill as _, PromptBatch, Regime, TokenId,
    Tracked,
};

/// Prompts that are taken in turn: replays of one prompt alone could be a special case of it.
const PROMPTS: usize = 8;

/// A call with everything its replays need.
pub(super) struct Replayer {
    call: Call,
    calls: Calls,
    cache: Tracked<BoxCache>,
    /// For prefill what is prefilled, in turn; for decode the tokens of a step, in turn.
    fed: Vec<Vec<TokenId>>,
    next: usize,
    logits: Logits,
    picked: Vec<TokenId>,
}

/// When one replay ran.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replay {
    pub(super) start_ns: u64,
    pub(super) first_end_ns: u64,
    pub(super) end_ns: u64,
    pub(super) busy_ns: u64,
}

impl Replayer {
    /// Takes a cache and, for decode, fills it up to the context. The same tokens on every backend.
    pub(super) fn new(lane: &mut Lane, plan: &Plan, call: Call) -> Result<Self, BoxError> {
        let Call { phase, batch, context, new_tokens, steps } = call;
        let vocab = lane.info().vocab;
        let capacity = if phase == Phase::Prefill { new_tokens } else { context + steps };
        let cache = lane.model.allocate(CacheSpec { batch, capacity })?;
        let mut random = Random::new(plan.seed, &format!("energy/{}", call.id()));
        let mut draw = |positions: usize| tokens(&mut random, batch * positions, vocab, &plan.prompt);
        let before = draw(context);
        let fed = (0..PROMPTS).map(|_| draw(new_tokens)).collect();
        let mut made = Self { call, calls: plan.calls, cache, fed, next: 0, logits: Logits::new(), picked: vec![TokenId(0); batch] };
        if phase == Phase::Decode && context > 0 {
            made.prefill(lane, &before)?;
        }
        lane.forget_events();
        Ok(made)
    }

    /// Calls of one pass: the steps of decode, or one prefill.
    pub(super) fn pass(&self) -> u32 {
        u32::try_from(self.call.steps).unwrap_or(u32::MAX)
    }

    /// One replay of `calls` calls; a multiple of [`pass`](Self::pass).
    pub(super) fn replay(&mut self, lane: &mut Lane, calls: u32) -> Result<Replay, BoxError> {
        lane.model.force_regime(Some(Regime::Steady));
        let done = (0..calls / self.pass().max(1)).try_for_each(|_| self.once(lane));
        lane.model.force_regime(None);
        let events = lane.take_events();
        done?;
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Err(BoxError::new(lane.info().backend.clone(), phase_core::CallError::Rows { got: 0, want: 1 }));
        };
        let busy = events.iter().map(|e| e.end.since(e.start)).sum::<std::time::Duration>();
        Ok(Replay {
            start_ns: first.start.as_nanos(),
            first_end_ns: first.end.as_nanos(),
            end_ns: last.end.as_nanos(),
            busy_ns: crate::cold::nanos(busy),
        })
    }

    fn once(&mut self, lane: &mut Lane) -> Result<(), BoxError> {
        self.cache.truncate(self.call.context);
        if self.call.phase == Phase::Prefill {
            let prompt = self.turn();
            let fed = std::mem::take(&mut self.fed[prompt]);
            let done = self.prefill(lane, &fed);
            self.fed[prompt] = fed;
            return done;
        }
        (0..self.call.steps).try_for_each(|_| {
            let step = self.turn();
            let Self { cache, logits, picked, fed, calls, .. } = self;
            match calls {
                Calls::Scores => lane.model.decode(cache, &fed[step], logits),
                Calls::Greedy => lane.model.decode_greedy(cache, &fed[step], picked),
            }
        })
    }

    fn turn(&mut self) -> usize {
        self.next = (self.next + 1) % PROMPTS;
        self.next
    }

    fn prefill(&mut self, lane: &mut Lane, prompt: &[TokenId]) -> Result<(), BoxError> {
        let backend = lane.info().backend.clone();
        let Self { cache, logits, picked, .. } = self;
        let prompt = PromptBatch::new(prompt, cache.batch()).map_err(|e| BoxError::new(backend, e))?;
        match self.calls {
            Calls::Scores => lane.model.prefill(cache, prompt, logits),
            Calls::Greedy => lane.model.prefill_greedy(cache, prompt, picked),
        }
    }
}
