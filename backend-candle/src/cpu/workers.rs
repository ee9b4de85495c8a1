//! A model's threads: one pool for candle's products, one team for the kernels. Only one of the two works at a time.

use std::num::NonZeroUsize;

use phase_kernels::Team;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::CandleError;

#[derive(Debug)]
pub(crate) struct Workers {
    pub(super) pool: ThreadPool,
    pub(super) team: Team,
}

impl Workers {
    pub(crate) fn start(threads: NonZeroUsize) -> Result<Self, CandleError> {
        let error = CandleError::threads(threads.get());
        let pool = match ThreadPoolBuilder::new().num_threads(threads.get()).thread_name(|i| format!("phase-candle-{i}")).build() {
            Ok(pool) => pool,
            Err(e) => return Err(error(e.into())),
        };
        match Team::new(threads) {
            Ok(team) => Ok(Self { pool, team }),
            Err(e) => Err(error(e.into())),
        }
    }

    /// Runs `body` with all of rayon's work inside it on this pool.
    pub(crate) fn install<R: Send>(&self, body: impl FnOnce() -> R + Send) -> R {
        self.pool.install(body)
    }

    pub(crate) fn threads(&self) -> usize {
        self.team.threads()
    }

    /// candle splits a product for as many threads as the process's environment or cores say, on whichever pool it is.
    pub(crate) fn matmul_threads(&self) -> usize {
        self.threads().min(candle_core::utils::get_num_threads())
    }
}

/// The instructions that `gemm` and `phase-kernels` both pick here, by the same detection.
pub(crate) fn instruction_set() -> String {
    let mut found = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    {
        for (name, has) in [
            ("avx2", is_x86_feature_detected!("avx2")),
            ("fma", is_x86_feature_detected!("fma")),
            ("f16c", is_x86_feature_detected!("f16c")),
            ("avx512f", is_x86_feature_detected!("avx512f")),
        ] {
            if has {
                found.push(name);
            }
        }
    }
    found.join("+")
}
