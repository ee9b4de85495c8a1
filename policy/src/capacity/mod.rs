//! How many workers a load takes: a lower bound by rate, a conservative bound with queueing, and replay of a trace.
//!
//! A worker serves one request at a time, first come first served; `k` workers share one queue. Service times are
//! upper bounds, so that what is promised here is kept when a cell's interval holds.

mod mix;
mod queue;
mod replay;
mod trace;

pub use mix::{Mix, MixError, Part};
pub use queue::{
    Arrivals, PADDING, Service, allen_cunneen_wait, capacity_lower_bound, contention, contention_efficiency, erlang_c, wait_upper,
    workers_needed,
};
pub use replay::{Job, Replay, replay, workers_by_replay};
pub use trace::{Arrival, Trace, TraceError};
