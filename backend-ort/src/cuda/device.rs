//! A device with one stream, and what lives on it: memory, captured graphs and events, kernels.

mod graph;
mod memory;
mod module;

pub(crate) use self::{
    graph::{Events, Graph},
    memory::{DeviceMemory, HostMemory},
    module::{Kernel, Launch, Module},
};

use super::driver::{Api, Handle, driver};
use crate::error::OrtError;
use std::{
    ffi::{c_int, c_uint},
    fmt,
    ptr::null_mut,
    sync::Arc,
};

/// One GPU, with its primary context held and one stream that all work goes through.
pub(crate) struct Device {
    api: &'static Api,
    handle: c_int,
    context: Handle,
    stream: Handle,
    /// Its number.
    pub(crate) ordinal: u32,
    /// Its name, as the driver gives it.
    pub(crate) name: String,
    /// Its identifier, as `nvidia-smi -L` writes it.
    pub(crate) uuid: String,
    /// The newest CUDA version that the driver speaks.
    pub(crate) cuda: String,
    /// Compute capability times ten, for example 90.
    pub(crate) capability: u32,
    /// Streaming multiprocessors.
    pub(crate) processors: u32,
}

// SAFETY: the driver's objects may be used from any thread on which the context is current, which `enter` sees to.
unsafe impl Send for Device {}
// SAFETY: as above; a stream may be given work by several threads.
unsafe impl Sync for Device {}

/// Attributes of a device, numbered in the driver's header.
const PROCESSORS: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
/// The stream does not wait for the default stream.
const NON_BLOCKING: c_uint = 1;

impl Device {
    /// Opens a device.
    ///
    /// # Errors
    /// [`OrtError::Device`] when there is no driver or no such device, saying which there are.
    pub(crate) fn open(ordinal: u32) -> Result<Arc<Self>, OrtError> {
        let api = driver()?;
        let mut count = 0;
        // SAFETY: the place for the answer is valid.
        api.check("counting devices", unsafe { (api.device_count)(&raw mut count) })?;
        let index = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        if index >= count {
            let have = if count == 0 { "this machine has none".to_owned() } else { format!("this machine has 0 to {}", count - 1) };
            return Err(OrtError::Device { reason: format!("there is no CUDA device {ordinal}: {have}") });
        }
        let mut handle = 0;
        // SAFETY: the place for the answer is valid.
        api.check("finding a device", unsafe { (api.device)(&raw mut handle, index) })?;
        let mut context = null_mut();
        // SAFETY: as above.
        api.check("opening a device", unsafe { (api.context_retain)(&raw mut context, handle) })?;
        let mut device = Self {
            api,
            handle,
            context,
            stream: null_mut(),
            ordinal,
            name: name(api, handle)?,
            uuid: uuid(api, handle)?,
            cuda: version(api)?,
            capability: attribute(api, handle, CAPABILITY_MAJOR)? * 10 + attribute(api, handle, CAPABILITY_MINOR)?,
            processors: attribute(api, handle, PROCESSORS)?,
        };
        device.enter()?;
        // SAFETY: the place for the answer is valid, the context is current.
        api.check("making a stream", unsafe { (api.stream_create)(&raw mut device.stream, NON_BLOCKING) })?;
        Ok(Arc::new(device))
    }

    /// Makes the device current on this thread; every public call of a model begins with it.
    pub(crate) fn enter(&self) -> Result<(), OrtError> {
        // SAFETY: the context is held until `drop`.
        self.api.check("entering the device", unsafe { (self.api.context_set)(self.context) })
    }

    /// The stream, as ONNX Runtime takes it.
    pub(crate) fn stream(&self) -> *mut () {
        self.stream.cast()
    }

    /// Free and total bytes of its memory.
    pub(crate) fn memory(&self) -> Result<(usize, usize), OrtError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the places for the answers are valid.
        self.api.check("asking for free memory", unsafe { (self.api.memory_info)(&raw mut free, &raw mut total) })?;
        Ok((free, total))
    }

    /// Waits until all work is done.
    pub(crate) fn synchronize(&self) -> Result<(), OrtError> {
        // SAFETY: the stream lives until `drop`.
        self.api.check("waiting for the device", unsafe { (self.api.stream_synchronize)(self.stream) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // A failure means that the device is gone, and its objects with it.
        if self.enter().is_ok() && !self.stream.is_null() {
            // SAFETY: owned, and destroyed once.
            unsafe { (self.api.stream_destroy)(self.stream) };
        }
        // SAFETY: retained once in `open`.
        unsafe { (self.api.context_release)(self.handle) };
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}: {})", self.ordinal, self.name)
    }
}

fn name(api: &Api, device: c_int) -> Result<String, OrtError> {
    let mut name = [0u8; 256];
    // SAFETY: the buffer has the length that is told.
    api.check("asking for a device's name", unsafe { (api.device_name)(name.as_mut_ptr().cast(), 255, device) })?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn uuid(api: &Api, device: c_int) -> Result<String, OrtError> {
    let mut id = [0u8; 16];
    // SAFETY: the place for the answer is valid.
    api.check("asking for a device's identifier", unsafe { (api.device_uuid)(&raw mut id, device) })?;
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn version(api: &Api) -> Result<String, OrtError> {
    let mut version = 0;
    // SAFETY: the place for the answer is valid.
    api.check("asking for the driver's version", unsafe { (api.driver_version)(&raw mut version) })?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn attribute(api: &Api, device: c_int, attribute: c_int) -> Result<u32, OrtError> {
    let mut value = 0;
    // SAFETY: the place for the answer is valid.
    api.check("asking what a device is", unsafe { (api.device_attribute)(&raw mut value, attribute, device) })?;
    Ok(u32::try_from(value).unwrap_or(0))
}
