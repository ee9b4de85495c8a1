//! Loaded kernels, and starting them.

use super::{
    super::driver::{Handle, LaunchAttribute, LaunchConfig},
    Device,
};
use crate::error::OrtError;
use std::{
    ffi::{CString, c_int, c_uint, c_void},
    fmt,
    ptr::null_mut,
    sync::Arc,
};

/// An attribute of a launch, numbered in the driver's header.
const PROGRAMMATIC_SERIALIZATION: c_uint = 6;
/// An attribute of a function: the most shared memory that a launch may ask for.
const SHARED_BYTES: c_int = 8;

impl Device {
    /// Loads machine code for this device.
    pub(crate) fn module(self: &Arc<Self>, code: &[u8]) -> Result<Module, OrtError> {
        let mut module = null_mut();
        // SAFETY: the code is a whole image that the compiler made.
        self.api.check("loading kernels", unsafe { (self.api.module_load)(&raw mut module, code.as_ptr().cast()) })?;
        Ok(Module { device: Arc::clone(self), module })
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel's signature, and the memory they name outlives the launch.
    pub(crate) unsafe fn launch(&self, kernel: Kernel, shape: Launch, arguments: &mut [*mut c_void]) -> Result<(), OrtError> {
        let mut value = [0; 8];
        value[0] = 1;
        let overlap = LaunchAttribute { id: PROGRAMMATIC_SERIALIZATION, value };
        let config = LaunchConfig {
            grid: shape.grid,
            block: [shape.block, 1, 1],
            shared_bytes: shape.shared_bytes,
            stream: self.stream,
            attributes: &raw const overlap,
            attribute_count: u32::from(shape.overlap),
        };
        // SAFETY: the configuration is valid for the call; the caller vouches for the arguments.
        let status = unsafe { (self.api.launch)(&raw const config, kernel.0, arguments.as_mut_ptr(), null_mut()) };
        self.api.check("starting a kernel", status)
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) shared_bytes: u32,
    /// May start while the kernel before it finishes: the kernel waits for it where it must.
    pub(crate) overlap: bool,
}

/// Loaded machine code.
pub(crate) struct Module {
    device: Arc<Device>,
    module: Handle,
}

/// A function of a [`Module`], valid as long as it.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(Handle);

// SAFETY: as for `Device`.
unsafe impl Send for Module {}
// SAFETY: as for `Device`.
unsafe impl Sync for Module {}
// SAFETY: as for `Device`.
unsafe impl Send for Kernel {}
// SAFETY: as for `Device`.
unsafe impl Sync for Kernel {}

impl Module {
    /// A kernel by its name.
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel, OrtError> {
        let (mut function, name) = (null_mut(), CString::new(name).unwrap_or_default());
        // SAFETY: the place for the answer is valid, the module is loaded.
        let status = unsafe { (self.device.api.module_function)(&raw mut function, self.module, name.as_ptr()) };
        self.device.api.check("finding a kernel", status)?;
        Ok(Kernel(function))
    }

    /// As [`kernel`](Self::kernel), for launches with this much shared memory.
    pub(crate) fn kernel_with_memory(&self, name: &str, shared_bytes: u32) -> Result<Kernel, OrtError> {
        let kernel = self.kernel(name)?;
        let bytes = c_int::try_from(shared_bytes).unwrap_or(c_int::MAX);
        // SAFETY: the function belongs to a loaded module.
        let status = unsafe { (self.device.api.function_attribute)(kernel.0, SHARED_BYTES, bytes) };
        self.device.api.check("giving a kernel shared memory", status)?;
        Ok(kernel)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and unloaded once, after the work that uses it.
            unsafe { (self.device.api.module_unload)(self.module) };
        }
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Module")
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}
