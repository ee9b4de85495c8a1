//! Where events go.

use crate::PhaseEvent;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Receives events. Called between phase calls, on the caller's thread: keep it short.
pub trait EventSink: Send + Sync {
    /// Takes note of one event.
    fn record(&self, event: &PhaseEvent);
}

impl<S: EventSink + ?Sized> EventSink for Arc<S> {
    fn record(&self, event: &PhaseEvent) {
        (**self).record(event);
    }
}

impl<S: EventSink + ?Sized> EventSink for &S {
    fn record(&self, event: &PhaseEvent) {
        (**self).record(event);
    }
}

/// Forgets everything: what measuring costs without recording.
#[derive(Clone, Copy, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "there is nothing in it")]
pub struct NoopSink;

impl EventSink for NoopSink {
    fn record(&self, _: &PhaseEvent) {}
}

/// Keeps the newest events in memory of a fixed size.
///
/// ```
/// let sink = phase_core::RingSink::new(1024);
/// assert_eq!(sink.drain().len(), 0);
/// ```
#[derive(Debug)]
pub struct RingSink(Mutex<Ring>);

#[derive(Debug)]
struct Ring {
    events: VecDeque<PhaseEvent>,
    capacity: usize,
    lost: u64,
}

impl RingSink {
    /// Room for `capacity` events, allocated now; 1 at least.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.max(1);
        Self(Mutex::new(Ring { events: VecDeque::with_capacity(capacity), capacity, lost: 0 }))
    }

    /// Takes all events, oldest first.
    pub fn drain(&self) -> Vec<PhaseEvent> {
        self.ring().events.drain(..).collect()
    }

    /// Events overwritten since the start, because nobody drained in time.
    pub fn lost(&self) -> u64 {
        self.ring().lost
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // A panic elsewhere leaves the ring as it was between two pushes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventSink for RingSink {
    fn record(&self, event: &PhaseEvent) {
        let mut ring = self.ring();
        if ring.events.len() == ring.capacity {
            ring.events.pop_front();
            ring.lost += 1;
        }
        ring.events.push_back(event.clone());
    }
}

/// Passes every event to two sinks.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a pair")]
pub struct Tee<A, B>(pub A, pub B);

impl<A: EventSink, B: EventSink> EventSink for Tee<A, B> {
    fn record(&self, event: &PhaseEvent) {
        self.0.record(event);
        self.1.record(event);
    }
}
