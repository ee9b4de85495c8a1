//! Streaming generation for one conversation.

use crate::{
    CacheSpec, CallError, Clock, Decode, EventSink, KvCache, Logits, Measured, Model, Outcome, PhaseError, Prefill, PromptBatch, Sampler,
    Shape, Timestamp, TokenId, Tracked,
};

/// One conversation on a measured model: its cache, turn after turn.
///
/// ```
/// use phase_core::{sim::Sim, *};
/// let model = Sim::default().load(&LoadSpec::new("none"))?;
/// let mut model = Measured::new(model, MonotonicClock::new(), NoopSink);
/// let mut session = Session::new(&mut model, 32)?;
/// let mut stream = session.generate(&[TokenId(1), TokenId(2)], GenerateOptions::new(4), Greedy)?;
/// let tokens = stream.by_ref().collect::<Result<Vec<_>, _>>()?;
/// assert_eq!((tokens.len(), stream.finish()), (4, Some(FinishReason::Length)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session<'m, M: Model, C, S> {
    model: &'m mut Measured<M, C, S>,
    cache: Tracked<M::Cache>,
    logits: Logits,
    /// The last token given out, which the cache does not hold yet.
    pending: Option<TokenId>,
    requests: u32,
}

/// When to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerateOptions {
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens that end the generation; they are not given out.
    pub stop: Vec<TokenId>,
}

impl GenerateOptions {
    /// At most `max_new_tokens`, no stop tokens.
    pub const fn new(max_new_tokens: usize) -> Self {
        Self { max_new_tokens, stop: Vec::new() }
    }

    /// Stops at any of `stop`.
    #[must_use]
    pub fn with_stop(mut self, stop: impl IntoIterator<Item = TokenId>) -> Self {
        self.stop.extend(stop);
        self
    }
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FinishReason {
    /// The cache is full.
    ContextFull,
    /// A call failed.
    Failed,
    /// The asked number of tokens is there.
    Length,
    /// This stop token came. The conversation holds it although it was not given out.
    Stop(TokenId),
}

impl<'m, M: Model, C: Clock + std::fmt::Debug, S: EventSink + std::fmt::Debug> Session<'m, M, C, S> {
    /// Allocates a cache of `capacity` positions for one sequence.
    ///
    /// # Errors
    /// As [`Model::allocate`].
    pub fn new(model: &'m mut Measured<M, C, S>, capacity: usize) -> Result<Self, M::Error> {
        let cache = model.allocate(CacheSpec { batch: 1, capacity })?;
        Ok(Self { model, cache, logits: Logits::new(), pending: None, requests: 0 })
    }

    /// Prefills `prompt` after what the conversation already holds, and gives the stream of new tokens.
    ///
    /// Dropping the stream before its end cancels the request: its event is closed as
    /// [`Cancelled`](Outcome::Cancelled) and the conversation goes on from the tokens given out.
    ///
    /// # Errors
    /// [`SessionError::Prompt`] for an empty prompt, else what prefill fails with; the conversation is then as it was.
    pub fn generate<P: Sampler>(
        &mut self,
        prompt: &[TokenId],
        options: GenerateOptions,
        sampler: P,
    ) -> Result<TokenStream<'_, 'm, M, C, S, P>, SessionError<M::Error>> {
        let start = self.model.clock().now();
        PromptBatch::single(prompt)?;
        let tokens: Vec<_> = self.pending.into_iter().chain(prompt.iter().copied()).collect();
        let request = self.requests;
        self.requests += 1;
        let result = self.model.prefill(&mut self.cache, PromptBatch::single(&tokens)?, &mut self.logits);
        if let Err(e) = result {
            let shape = Shape { batch: 1, new_tokens: 0, context: self.cache.len() };
            self.model.record_request(self.cache.session(), request, shape, start, Outcome::Failed(e.kind()));
            return Err(SessionError::Phase(e));
        }
        self.pending = None;
        let context = self.cache.len();
        Ok(TokenStream { session: self, options, sampler, start, context, request, given: 0, finish: None, failure: None, first: true })
    }

    /// Positions the cache holds.
    pub fn context(&self) -> usize {
        self.cache.len()
    }
}

/// The tokens of one request, as they come. Dropping it early cancels the request.
#[derive(Debug)]
pub struct TokenStream<'s, 'm, M: Model, C: Clock, S: EventSink, P> {
    session: &'s mut Session<'m, M, C, S>,
    options: GenerateOptions,
    sampler: P,
    start: Timestamp,
    context: usize,
    request: u32,
    given: usize,
    finish: Option<FinishReason>,
    failure: Option<crate::ErrorKind>,
    first: bool,
}

impl<M: Model, C: Clock, S: EventSink, P> TokenStream<'_, '_, M, C, S, P> {
    /// Why it ended; `None` while more may come.
    pub fn finish(&self) -> Option<FinishReason> {
        self.finish
    }
}

impl<M: Model, C: Clock, S: EventSink, P: Sampler> TokenStream<'_, '_, M, C, S, P> {
    fn end(&mut self, reason: FinishReason) -> Option<Result<TokenId, M::Error>> {
        self.finish = Some(reason);
        None
    }
}

impl<M: Model, C: Clock, S: EventSink, P: Sampler> Iterator for TokenStream<'_, '_, M, C, S, P> {
    type Item = Result<TokenId, M::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() {
            return None;
        }
        if self.given == self.options.max_new_tokens {
            return self.end(FinishReason::Length);
        }
        if !self.first {
            let session = &mut *self.session;
            if session.cache.len() == session.cache.capacity() {
                return self.end(FinishReason::ContextFull);
            }
            if let Some(token) = session.pending {
                if let Err(e) = session.model.decode(&mut session.cache, &[token], &mut session.logits) {
                    self.failure = Some(e.kind());
                    self.finish = Some(FinishReason::Failed);
                    return Some(Err(e));
                }
                session.pending = None;
            }
        }
        self.first = false;
        let token = self.sampler.sample(self.session.logits.as_slice());
        if self.options.stop.contains(&token) {
            self.session.pending = Some(token);
            return self.end(FinishReason::Stop(token));
        }
        self.session.pending = Some(token);
        self.given += 1;
        Some(Ok(token))
    }
}

impl<M: Model, C: Clock, S: EventSink, P> Drop for TokenStream<'_, '_, M, C, S, P> {
    fn drop(&mut self) {
        let outcome = match (self.finish, self.failure) {
            (_, Some(kind)) => Outcome::Failed(kind),
            (Some(_), None) => Outcome::Ok,
            // The last token may be the whole answer although nobody asked for a further one.
            (None, None) if self.given == self.options.max_new_tokens => Outcome::Ok,
            (None, None) => Outcome::Cancelled,
        };
        let shape = Shape { batch: 1, new_tokens: self.given, context: self.context };
        self.session.model.record_request(self.session.cache.session(), self.request, shape, self.start, outcome);
    }
}

/// A request could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError<E: std::error::Error> {
    /// The model failed.
    #[error(transparent)]
    Phase(E),
    /// The prompt can't be used.
    #[error(transparent)]
    Prompt(#[from] CallError),
}

#[cfg(test)]
mod tests {
    use crate::{sim::Sim, *};
    use std::{sync::Arc, time::Duration};

    fn model(sink: Arc<RingSink>) -> Measured<sim::SimModel, ManualClock, Arc<RingSink>> {
        let clock = ManualClock::ticking(Duration::from_nanos(1));
        Measured::new(Sim::default().load(&LoadSpec::new("none")).unwrap(), clock, sink)
    }

    fn requests(sink: &RingSink) -> Vec<PhaseEvent> {
        sink.drain().into_iter().filter(|e| e.phase == Phase::Request).collect()
    }

    #[test]
    fn dropping_the_stream_closes_the_request_as_cancelled() {
        let sink = Arc::new(RingSink::new(64));
        let mut model = model(sink.clone());
        let mut session = Session::new(&mut model, 32).unwrap();
        let mut stream = session.generate(&[TokenId(1)], GenerateOptions::new(10), Greedy).unwrap();
        stream.next().unwrap().unwrap();
        stream.next().unwrap().unwrap();
        drop(stream);
        let request = &requests(&sink)[0];
        assert_eq!((request.outcome, request.shape.new_tokens), (Outcome::Cancelled, 2));
    }

    #[test]
    fn a_second_turn_equals_one_long_conversation() {
        let mut model = model(Arc::new(RingSink::new(64)));
        let turns = |model: &mut Measured<_, _, _>| {
            let mut session = Session::new(model, 64).unwrap();
            let first: Vec<_> =
                session.generate(&[TokenId(1), TokenId(2)], GenerateOptions::new(3), Greedy).unwrap().map(Result::unwrap).collect();
            let second: Vec<_> = session.generate(&[TokenId(9)], GenerateOptions::new(3), Greedy).unwrap().map(Result::unwrap).collect();
            (first, second)
        };
        let (first, second) = turns(&mut model);
        let mut whole = vec![TokenId(1), TokenId(2)];
        whole.extend(first);
        whole.push(TokenId(9));
        let mut session = Session::new(&mut model, 64).unwrap();
        let again: Vec<_> = session.generate(&whole, GenerateOptions::new(3), Greedy).unwrap().map(Result::unwrap).collect();
        assert_eq!(second, again);
    }

    #[test]
    fn a_full_cache_ends_the_stream_and_an_empty_prompt_is_refused() {
        let sink = Arc::new(RingSink::new(64));
        let mut model = model(sink.clone());
        let mut session = Session::new(&mut model, 4).unwrap();
        assert!(session.generate(&[], GenerateOptions::new(1), Greedy).is_err());
        let mut stream = session.generate(&[TokenId(1), TokenId(2)], GenerateOptions::new(10), Greedy).unwrap();
        assert_eq!(stream.by_ref().count(), 3);
        assert_eq!(stream.finish(), Some(FinishReason::ContextFull));
        drop(stream);
        assert_eq!(requests(&sink)[0].outcome, Outcome::Ok);
    }

    #[test]
    fn a_stop_token_ends_the_stream_and_is_not_given_out() {
        let mut model = model(Arc::new(RingSink::new(64)));
        let mut session = Session::new(&mut model, 64).unwrap();
        let free: Vec<_> = session.generate(&[TokenId(5)], GenerateOptions::new(4), Greedy).unwrap().map(Result::unwrap).collect();
        let mut session = Session::new(&mut model, 64).unwrap();
        let options = GenerateOptions::new(4).with_stop([free[2]]);
        let mut stream = session.generate(&[TokenId(5)], options, Greedy).unwrap();
        let stopped: Vec<_> = stream.by_ref().map(Result::unwrap).collect();
        assert_eq!((stopped.as_slice(), stream.finish()), (&free[..2], Some(FinishReason::Stop(free[2]))));
    }
}
