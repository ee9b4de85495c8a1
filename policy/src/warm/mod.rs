//! Cold and cooled-down paths: what idling costs, what to warm before routing, what to keep warm. Measures nothing.

mod idle;
mod plan;
mod pool;

pub use idle::{IdleCurve, IdleError, IdlePoint, IdleSample};
pub use plan::{WarmFor, WarmupCall, WarmupError, WarmupPlan};
pub use pool::{PoolAdvice, PoolNeed};
