//! A loaded model's decoder, by the device it is on.

use std::time::Duration;

use phase_core::{CacheSpec, DType, Evidence, KvCache, Logits, PromptBatch, TokenId};

use crate::{CandleCache, CandleError, cpu};

#[derive(Debug)]
pub(crate) enum Decoder {
    Cpu(Box<cpu::Decoder>),
    #[cfg(feature = "cuda")]
    Cuda(Box<crate::cuda::Guarded<crate::cuda::Decoder>>),
}

impl Decoder {
    pub(crate) fn allocate(&mut self, spec: CacheSpec, dtype: DType, owner: u64) -> Result<CandleCache, CandleError> {
        match self {
            Self::Cpu(decoder) => {
                decoder.reserve(spec.capacity)?;
                decoder.allocate(spec, dtype, owner)
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => {
                let result = decoder.allocate(spec, dtype, owner);
                lost(decoder, result)
            }
        }
    }

    /// Appends `prompt`, and writes the scores of each sequence's last position.
    pub(crate) fn scores(&mut self, cache: &CandleCache, prompt: PromptBatch<'_>, scores: &mut [f32]) -> Result<(), CandleError> {
        match self {
            Self::Cpu(decoder) => decoder.forward(cache, prompt, scores),
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => {
                let result = decoder.prefill(cache, prompt, crate::cuda::Output::Scores(scores));
                lost(decoder, result)
            }
        }
    }

    /// Appends `prompt`, and picks the highest-scored token of each sequence's last position.
    pub(crate) fn pick(
        &mut self,
        cache: &CandleCache,
        prompt: PromptBatch<'_>,
        spare: &mut Logits,
        vocab: usize,
        out: &mut [TokenId],
    ) -> Result<(), CandleError> {
        match self {
            Self::Cpu(decoder) => {
                decoder.forward(cache, prompt, spare.reset(prompt.batch(), vocab))?;
                spare.argmax_into(out);
                Ok(())
            }
            #[cfg(feature = "cuda")]
            Self::Cuda(decoder) => {
                let result = decoder.prefill(cache, prompt, crate::cuda::Output::Tokens(out));
                lost(decoder, result)
            }
        }
    }

    /// Takes greedy steps without the host; `None` where there is no such way.
    #[cfg_attr(
        not(feature = "cuda"),
        expect(clippy::unused_self, clippy::needless_pass_by_ref_mut, reason = "only a device has such a way")
    )]
    pub(crate) fn run(&mut self, cache: &CandleCache, tokens: &[TokenId], out: &mut [TokenId]) -> Option<Result<(), CandleError>> {
        #[cfg(feature = "cuda")]
        if let Self::Cuda(decoder) = self {
            let result = decoder.run(cache, tokens, out);
            return Some(lost(decoder, result));
        }
        let _ = (cache.len(), tokens, out);
        None
    }

    pub(crate) fn evidence(&self, dtype: DType) -> Evidence {
        match self {
            Self::Cpu(decoder) => decoder.evidence(dtype),
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

    #[cfg(feature = "cuda")]
    pub(crate) fn prompt_parts(&self) -> &[crate::PromptPart] {
        match self {
            Self::Cpu(_) => &[],
            Self::Cuda(decoder) => decoder.prompt_parts(),
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

/// A library in between may not say that the device is gone; the device does.
#[cfg(feature = "cuda")]
fn lost<T>(decoder: &crate::cuda::Decoder, result: Result<T, CandleError>) -> Result<T, CandleError> {
    use phase_core::{ErrorKind, PhaseError};
    match result {
        Err(e) if e.kind() != ErrorKind::DeviceLost => match decoder.alive() {
            Err(gone) if gone.kind() == ErrorKind::DeviceLost => Err(gone),
            _ => Err(e),
        },
        result => result,
    }
}
