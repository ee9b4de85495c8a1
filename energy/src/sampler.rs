//! Reads sources at a fixed period on the clock of the phases, and keeps what a reader of the readings must know.
//!
//! [`Poller`] is the loop without a thread: deadlines are absolute, so a late read does not move the next one; a deadline
//! that has passed is counted, not made up for. A source whose reads are dear is read more seldom, so that all of them take
//! under 1% of a core; [`Sampler::attend`] has it read at every poll for as long as that matters. [`Sampler`] runs the loop in
//! a thread of its own. After the start nothing is
//! allocated: what does not fit is counted as dropped, and later phases come out as `not_bracketed`.

mod cost;
mod pace;
mod poller;
mod recording;
mod thread;

pub use cost::{CostMeter, SamplerCost};
pub use poller::{Poller, SamplerPlan};
pub use recording::{Lateness, Recording, RecordingFacts};
pub use thread::{Sampler, SamplerError};

use phase_core::NoData;
use std::fmt;

/// Something that makes readings void while it holds: a foreign process, a partition, a changed limit. Asked about once a
/// second by the sampler, from its thread; it must not allocate.
pub trait Condition: fmt::Debug + Send {
    /// Why readings are void now; `None` while they are not.
    fn check(&mut self) -> Option<NoData>;
}

/// Unix time, for sources that stamp their readings with it.
pub trait Wall: Send + Sync {
    /// Nanoseconds of Unix time.
    fn unix_ns(&self) -> u64;
}

/// The operating system's.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "it has no state")]
pub struct SystemWall;

impl Wall for SystemWall {
    #[expect(clippy::disallowed_methods, reason = "drivers stamp readings with Unix time, which no Clock tells")]
    fn unix_ns(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}
