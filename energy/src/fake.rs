//! A GPU whose energy is known: what the measuring code is measured against.
//!
//! A [`PowerCurve`] says what the device draws, so that the energy of any phase is exact. A [`FakeGpu`] shows it through a
//! sensor of any kind, with the faults that drivers have. It is a model of sensors, and says nothing about real devices.

mod curve;
mod gpu;

pub use curve::{PowerCurve, Random};
pub use gpu::{FakeGpu, FakeSensor, Fault};
