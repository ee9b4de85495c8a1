//! A loaded model's decoder, by the device it is on.

use std::{sync::Arc, time::Duration};

use phase_core::{CacheSpec, Evidence, KvCache, Logits, PromptBatch, TokenId};

use crate::{BurnCache, BurnError, cache::CacheShape, cpu, evidence};

#[derive(Debug)]
pub(crate) enum Decoder {
    Cpu(Box<cpu::Decoder>),
    #[cfg(feature = "cuda")]
    Cuda(Box<crate::cuda::Guarded<crate::cuda::Decoder>>),
}

impl Decoder {
    pub(crate) fn allocate(&mut self, spec: CacheSpec, shape: &Arc<CacheShape>) -> Result<BurnCache, BurnError> {
        match self {
            Self::Cpu(decoder) => {
                let cache = BurnCache::allocate(shape, spec)?;
                decoder.reserve_positions(spec.capacity)?;
                Ok(cache)
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => Ok(BurnCache::on_device(shape, spec, decoder.allocate(spec)?)),
        }
    }

    /// Appends `prompt`, and writes the scores of each sequence's last position.
    pub(crate) fn scores(&mut self, cache: &mut BurnCache, prompt: PromptBatch<'_>, scores: &mut [f32]) -> Result<(), BurnError> {
        match self {
            Self::Cpu(decoder) => decoder.forward(cache, prompt.tokens(), prompt.batch(), scores),
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => {
                decoder.prefill(cache, prompt, crate::cuda::Output::Scores(scores))?;
                cache.len += prompt.len();
                Ok(())
            }
        }
    }

    /// Appends `prompt`, and picks the highest-scored token of each sequence's last position.
    pub(crate) fn pick(
        &mut self,
        cache: &mut BurnCache,
        prompt: PromptBatch<'_>,
        spare: &mut Logits,
        vocab: usize,
        out: &mut [TokenId],
    ) -> Result<(), BurnError> {
        match self {
            Self::Cpu(decoder) => {
                decoder.forward(cache, prompt.tokens(), prompt.batch(), spare.reset(prompt.batch(), vocab))?;
                spare.argmax_into(out);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => {
                decoder.prefill(cache, prompt, crate::cuda::Output::Tokens(out))?;
                cache.len += prompt.len();
                Ok(())
            }
        }
    }

    /// Takes greedy steps without the host; `None` where there is no such way.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "only a device has such a way")
    )]
    pub(crate) fn run(&mut self, cache: &mut BurnCache, tokens: &[TokenId], out: &mut [TokenId]) -> Option<Result<(), BurnError>> {
        #[cfg(feature = "cuda")]
        if let Self::Cuda(decoder) = self {
            let result = decoder.run(cache, tokens, out);
            if result.is_ok() {
                cache.len += out.len() / tokens.len();
            }
            return Some(result);
        }
        let _ = (cache.len(), tokens, out);
        None
    }

    pub(crate) fn evidence(&self) -> Evidence {
        match self {
            Self::Cpu(decoder) => evidence::evidence(decoder.engine().products().seen()),
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => decoder.evidence(),
        }
    }

    pub(crate) fn device_time(&self) -> Option<Duration> {
        match self {
            Self::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => decoder.device_time(),
        }
    }

    pub(crate) fn device_steps(&self) -> &[Duration] {
        match self {
            Self::Cpu(_) => &[],
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => decoder.device_steps(),
        }
    }
}
