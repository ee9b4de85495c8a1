//! The statements of the source document, one file each, with its gate.
//!
//! | file | statement | gate |
//! |---|---|---|
//! | `decode_heavy` | a default backend for decode-heavy requests | the default is a hypothesis: measured total time replaces it |
//! | `prefill_heavy` | batched prefill routes by the measured prefill winner | unless total time contradicts |
//! | `default_safe` | everything else, and every tie, goes to default-safe | an interval beyond the tie region |
//! | `compile` | never by default; prefill with evidence; decode stays eager without a win | [`CompileEvidence`](crate::CompileEvidence), paired times, in decode the tail |
//! | `warmup` | cold is a regime of its own; warm before routing | cold cells of the same bucket |
//! | `energy` | per-event energy only with data | covered by the sensor; else a macro window; every part known |

mod compile;
mod decode_heavy;
mod default_safe;
mod energy;
mod prefill_heavy;
mod warmup;

pub use compile::{CompileAdvice, CompileReason, CompileVerdict};
pub use default_safe::{Outside, Reason, Standing};
pub use energy::{add_energies, repeat_energy, reported_energy};
pub use warmup::{Warmth, Warmup};

pub(crate) use compile::{Bases, may_route, verdicts as compile_verdicts};
pub(crate) use default_safe::{Candidate, Contest, Liveness, Selection};
pub(crate) use energy::request as request_energy;
pub(crate) use prefill_heavy::standing as prefill_heavy_standing;
pub(crate) use warmup::{warmups, warmups_in};

use crate::constants::Constants;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Operational classification of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Class {
    /// Its time is in decode.
    DecodeHeavy,
    /// Neither.
    Mixed,
    /// Its time is in a batched prefill.
    PrefillHeavy,
}

impl Class {
    /// The decision matrix's row for a request: decode-heavy is asked first, as there. `decode_fraction` is the
    /// predicted or measured share of decode in phase time, where one is known.
    ///
    /// ```
    /// use phase_policy::{Class, constants::Constants};
    /// let constants = Constants::default();
    /// assert_eq!(Class::of(1, 64, None, &constants), Class::DecodeHeavy);
    /// assert_eq!(Class::of(8, 1, Some(0.2), &constants), Class::PrefillHeavy);
    /// assert_eq!(Class::of(1, 32, Some(0.5), &constants), Class::Mixed);
    /// ```
    pub fn of(batch: usize, new_tokens: usize, decode_fraction: Option<f64>, constants: &Constants) -> Self {
        if decode_heavy::applies(new_tokens, decode_fraction, constants) {
            Self::DecodeHeavy
        } else if prefill_heavy::applies(batch, new_tokens, constants) {
            Self::PrefillHeavy
        } else {
            Self::Mixed
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::DecodeHeavy => "decode-heavy",
            Self::Mixed => "mixed",
            Self::PrefillHeavy => "prefill-heavy",
        })
    }
}
