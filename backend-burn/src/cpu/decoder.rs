//! Threads, and which of them a pass runs on.

use std::num::NonZeroUsize;

use phase_core::{DType, TokenId};
use phase_kernels::Team;
use phase_model::Checkpoint;

use super::{engine::Engine, rows::Spread, weights::ModelWeights};
use crate::{BurnCache, BurnConfig, BurnError};

/// One loaded model with its threads.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// burn-flex takes its threads from the rayon pool it is called in.
    pool: rayon::ThreadPool,
    engine: Engine,
    direct_rows: usize,
}

impl Decoder {
    pub(crate) fn load(checkpoint: &Checkpoint, dtype: DType, threads: NonZeroUsize, config: &BurnConfig) -> Result<Self, BurnError> {
        let refused = |source: Box<dyn std::error::Error + Send + Sync>| BurnError::Threads { threads: threads.get(), source };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.get())
            .thread_name(|i| format!("phase-burn-{i}"))
            .build()
            .map_err(|e| refused(Box::new(e)))?;
        let team = Team::new(threads).map_err(|e| refused(Box::new(e)))?;
        let weights = pool.install(|| ModelWeights::load(checkpoint, dtype))?;
        let engine = Engine::new(checkpoint.config(), weights, team, config)?;
        Ok(Self { pool, engine, direct_rows: config.direct_rows })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Makes what caches of so many positions need, so that no phase has to.
    pub(crate) fn reserve_positions(&mut self, positions: usize) -> Result<(), BurnError> {
        self.engine.reserve_positions(positions)
    }

    /// Appends `tokens`, row-major `[batch, new]`, to the cache and writes the scores after the last of each row.
    ///
    /// The call was checked. The cache's length changes only when it succeeds.
    pub(crate) fn forward(&mut self, cache: &mut BurnCache, tokens: &[TokenId], batch: usize, out: &mut [f32]) -> Result<(), BurnError> {
        let Self { pool, engine, direct_rows } = self;
        if tokens.len() <= *direct_rows {
            // No product goes through burn: waking its pool would only cost time.
            engine.forward(cache, tokens, batch, Spread::Caller, out)
        } else {
            pool.install(|| engine.forward(cache, tokens, batch, Spread::Pool, out))
        }
    }
}
