use super::{Condition, CostMeter, Poller, Recording, SamplerPlan, SystemWall};
use crate::Source;
use phase_core::Clock;
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Why a sampler has nothing to give.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplerError {
    /// The thread could not be started.
    #[error("the sampler's thread: {0}")]
    Thread(#[source] io::Error),
    /// A source panicked.
    #[error("a source panicked while it was read")]
    Panicked,
}

/// A thread that samples until it is told to stop. Starting and stopping happen outside of phases; in between the phases
/// share nothing with it but the clock.
pub struct Sampler {
    stop: Arc<AtomicBool>,
    attentive: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Recording>>>,
}

impl fmt::Debug for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sampler")
    }
}

impl Sampler {
    /// Starts sampling `sources` on `clock`, the one that the phases are timed with.
    ///
    /// # Errors
    /// [`SamplerError::Thread`].
    pub fn start(
        clock: Arc<dyn Clock>,
        sources: Vec<Box<dyn Source>>,
        conditions: Vec<Box<dyn Condition>>,
        plan: SamplerPlan,
    ) -> Result<Self, SamplerError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let attentive = Arc::new(AtomicBool::new(plan.share >= 1.0));
        let attends = Arc::clone(&attentive);
        let mut poller = Poller::new(Arc::clone(&clock), Arc::new(SystemWall), sources, conditions, plan);
        let work = move || {
            let cost = CostMeter::start(&*clock);
            while !stopped.load(Ordering::Relaxed) {
                poller.attend(attends.load(Ordering::Relaxed));
                // A wake-up before the deadline is a request to stop, or none at all.
                let left = poller.deadline().since(clock.now());
                if left.is_zero() {
                    poller.poll();
                } else {
                    thread::park_timeout(left);
                }
            }
            let cost = cost.stop(&*clock);
            let mut recordings = poller.finish();
            recordings.iter_mut().for_each(|r| r.lateness.cost = Some(cost));
            recordings
        };
        let thread = thread::Builder::new().name("phase-energy".to_owned()).spawn(work).map_err(SamplerError::Thread)?;
        Ok(Self { stop, attentive, thread: Some(thread) })
    }

    /// Whether every source is to be read at every poll: around the edges of what is measured, where the time of an update
    /// matters and the cost does not. It takes effect at once.
    pub fn attend(&self, on: bool) {
        if self.attentive.swap(on, Ordering::Relaxed) != on
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
    }

    /// Stops and gives what was recorded, one recording a source, in their order.
    ///
    /// # Errors
    /// [`SamplerError::Panicked`].
    pub fn stop(mut self) -> Result<Vec<Recording>, SamplerError> {
        self.end().unwrap_or(Err(SamplerError::Panicked))
    }

    fn end(&mut self) -> Option<Result<Vec<Recording>, SamplerError>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        thread.thread().unpark();
        Some(thread.join().map_err(|_| SamplerError::Panicked))
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // Nobody wants the recordings; the thread must not outlive them.
        drop(self.end());
    }
}
