//! Memory of the device and of the host, and copies between them.

use super::{
    super::driver::{Address, OUT_OF_MEMORY},
    Device,
};
use crate::error::OrtError;
use std::{
    fmt,
    ptr::{NonNull, null_mut},
    sync::Arc,
};

impl Device {
    /// Queues a copy to the device.
    ///
    /// # Safety
    /// `from` stays as it is until the device has read it.
    pub(crate) unsafe fn upload(&self, to: &DeviceMemory, at: usize, from: &[u8]) -> Result<(), OrtError> {
        let start = to.part(at, from.len());
        // SAFETY: `part` checked the range; the caller vouches for the source.
        let status = unsafe { (self.api.upload_async)(start, from.as_ptr().cast(), from.len(), self.stream) };
        self.api.check("copying to the device", status)
    }

    /// Queues a copy of the first bytes to the host.
    pub(crate) fn download(&self, from: &DeviceMemory, to: &mut HostMemory, bytes: usize) -> Result<(), OrtError> {
        let start = from.part(0, bytes);
        assert!(bytes <= to.bytes, "a copy fits into its destination");
        // SAFETY: both ranges are checked; the pinned memory lives until its owner has waited for the device.
        let status = unsafe { (self.api.download_async)(to.start.as_ptr().cast(), start, bytes, self.stream) };
        self.api.check("copying from the device", status)
    }
}

/// Memory of a device.
pub(crate) struct DeviceMemory {
    device: Arc<Device>,
    start: Address,
    bytes: usize,
}

impl DeviceMemory {
    /// Allocates `bytes`, zeroed; `what` completes "no memory for ...".
    ///
    /// # Errors
    /// [`OrtError::DeviceMemory`] with what was asked for and what is free.
    pub(crate) fn new(device: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Self, OrtError> {
        let mut start = 0;
        // SAFETY: the place for the answer is valid.
        let status = unsafe { (device.api.allocate)(&raw mut start, bytes.max(1)) };
        if status == OUT_OF_MEMORY {
            let (free, total) = device.memory()?;
            return Err(OrtError::DeviceMemory { what, bytes, free, total });
        }
        device.api.check("allocating memory", status)?;
        let memory = Self { device: Arc::clone(device), start, bytes };
        // SAFETY: the whole of what was just allocated.
        device.api.check("clearing memory", unsafe { (device.api.fill_async)(start, 0, bytes, device.stream) })?;
        Ok(memory)
    }

    pub(crate) fn address(&self) -> Address {
        self.start
    }

    /// Copies from the host and waits.
    pub(crate) fn fill(&self, at: usize, from: &[u8]) -> Result<(), OrtError> {
        // On the stream and not beside it: the copy must come after the clearing that `new` queued there.
        // SAFETY: this waits until the source has been read.
        unsafe { self.device.upload(self, at, from) }?;
        self.device.synchronize()
    }

    /// The address of a part of it.
    pub(crate) fn part(&self, at: usize, bytes: usize) -> Address {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "a part lies inside of its memory");
        self.start + at as u64
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and freed once; the driver waits for work that uses it.
            unsafe { (self.device.api.free)(self.start) };
        }
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceMemory({} bytes)", self.bytes)
    }
}

/// Host memory that the device copies from and to without help.
pub(crate) struct HostMemory {
    device: Arc<Device>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: owned plain bytes.
unsafe impl Send for HostMemory {}

impl HostMemory {
    pub(crate) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, OrtError> {
        let mut start = null_mut();
        // SAFETY: the place for the answer is valid.
        let status = unsafe { (device.api.host_allocate)(&raw mut start, bytes.max(1)) };
        let start = NonNull::new(start.cast::<u8>());
        match (status, start) {
            (OUT_OF_MEMORY, _) | (0, None) => Err(OrtError::OutOfMemory { bytes }),
            (0, Some(start)) => {
                // SAFETY: that many bytes were just allocated.
                unsafe { start.as_ptr().write_bytes(0, bytes) };
                Ok(Self { device: Arc::clone(device), start, bytes })
            }
            _ => Err(device.api.check("allocating pinned memory", status).err().unwrap_or(OrtError::OutOfMemory { bytes })),
        }
    }

    pub(crate) fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        // SAFETY: initialised bytes of this length, borrowed exclusively; the device was waited for before.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) };
        let whole = self.bytes / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut bytes[..whole])
    }

    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        assert!(range.end <= self.bytes, "a part lies inside of its memory");
        // SAFETY: initialised bytes of this length.
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        &all[range]
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and freed once.
            unsafe { (self.device.api.host_free)(self.start.as_ptr().cast()) };
        }
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({} bytes)", self.bytes)
    }
}
