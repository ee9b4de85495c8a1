//! Cold and cooled-down paths: what idling costs. Measures nothing and warms nothing.

mod idle;

pub use idle::{IdleCurve, IdleError, IdlePoint, IdleSample};
