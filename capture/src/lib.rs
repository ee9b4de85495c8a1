//! What all users of a CUDA device owe each other while one of them captures a graph.
//!
//! All libraries of a process work in a device's primary context. A thread that waits for the whole device, which destroying a
//! cuBLAS handle does, or loads a kernel spoils whatever another thread is capturing: its next call fails with error 901. So
//! captures are [`alone`], and all other uses are [`together`].
//!
//! # For applications
//! The backends hold this lock themselves. CUDA of the application's own that runs while models are loaded or caches
//! allocated holds [`together`] too, but never around a call of a backend, which takes it itself:
//!
//! ```
//! let beside = phase_capture::together();
//! // ... frees memory, waits for the device, makes and destroys handles ...
//! drop(beside);
//! ```

use std::{
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

/// Held while a graph is captured: what other threads load, free or wait for in the same context would spoil it.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    CAPTURE.write().unwrap_or_else(PoisonError::into_inner)
}

/// Held during every other use of a device. Not to be taken twice by a thread: one that waits to be alone would stop it.
pub fn together() -> RwLockReadGuard<'static, ()> {
    CAPTURE.read().unwrap_or_else(PoisonError::into_inner)
}

/// One for a process, whose libraries all work in a device's primary context.
static CAPTURE: RwLock<()> = RwLock::new(());

/// What is dropped only while no graph is captured: memory that goes back, graphs and modules that are unloaded, and a library's
/// handles, which wait for the whole device when they go. Not to be dropped by a thread that holds the lock.
#[derive(Debug)]
pub struct Guarded<T>(ManuallyDrop<T>);

impl<T> Guarded<T> {
    /// Guards it.
    pub const fn new(value: T) -> Self {
        Self(ManuallyDrop::new(value))
    }
}

impl<T> Deref for Guarded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Guarded<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Guarded<T> {
    fn drop(&mut self) {
        let _together = together();
        // SAFETY: dropped here and nowhere else, and not touched afterwards.
        unsafe { ManuallyDrop::drop(&mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread,
    };

    struct Flag(Arc<AtomicBool>);

    impl Drop for Flag {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_is_guarded_goes_when_the_capture_is_over() {
        let gone = Arc::new(AtomicBool::new(false));
        let alone = alone();
        let guarded = Guarded::new(Flag(Arc::clone(&gone)));
        let other = thread::spawn(move || drop(guarded));
        assert!(CAPTURE.try_read().is_err() && !gone.load(Ordering::SeqCst));
        drop(alone);
        other.join().unwrap();
        assert!(gone.load(Ordering::SeqCst));
    }
}
