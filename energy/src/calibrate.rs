//! Finding out what a sensor does, by giving the device a known load and comparing.
//!
//! | test | question | how |
//! |---|---|---|
//! | T1 | how often does it update, in which steps | distinct updates over rest and load |
//! | T2 | how late and how smeared is it | updates around the edges of long pulses, folded |
//! | T3 | do the sources agree at every power | duty levels at a period far below the sensors' |
//! | T4 | does it see all the time | square wave in step with the sensor, shifted: energy must not depend on the shift |
//! | T5 | do the sources agree on slow change | square wave of 2 Hz |
//! | T6 | from which length on is a window right | windows of a steady load against all of it |
//! | T7 | does reading change what is read | work, its times and its energy without the sampler, at its default pace, and at every poll |
//! | T8 | what is one isolated phase worth | equal short pulses between quiet guards, one by one |
//! | sweep | is a window of replays worth their number | energy of K/2, K and 2K replays on a line through nothing |
//!
//! [`Plan`] lists what the load does, [`calibrate`] does it, [`analyse`] is a pure function of what was recorded.

mod analysis;
mod curve;
mod load;
mod plan;
mod plot;
mod report;
mod run;
mod shots;
mod sweep;

pub use analysis::{
    Change, Period, Perturbation, StepResponse, mean_w, period, perturbation, phase_means, shortest_window, spread, step_response,
};
pub use load::{Busy, Load, LoadError, Pulses, SubprocessLoad};
pub use plan::{Extent, Plan, Step, Test};
pub use plot::shots_svg;
pub use report::{CalibrationReport, PhaseTable, SourceReport, analyse};
pub use run::{CalibrationError, Counted, Done, Measurements, Part, Sources, calibrate, run_steps};
pub use shots::{Shot, ShotTable, shots};
pub use sweep::{SweepTable, sweep};
