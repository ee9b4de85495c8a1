//! Whether there is a driver, without calling into it through a library that would panic when there is none.

use std::ffi::c_int;

use libloading::{Library, Symbol};

use super::CudaError;

/// The CUDA driver of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Driver {
    /// The newest CUDA it serves: 13000 is 13.0.
    pub cuda_version: u32,
    /// Devices it shows to this process.
    pub devices: usize,
}

/// Looks for the driver and asks it for its devices.
///
/// # Errors
/// [`CudaError::Unavailable`], saying what is missing.
pub fn driver() -> Result<Driver, CudaError> {
    let unavailable = |reason: String| CudaError::Unavailable { reason };
    // SAFETY: the driver's library has no initialisation that depends on this process.
    let library = unsafe { Library::new(LIBRARY) }
        .map_err(|e| unavailable(format!("no CUDA driver: {e}; install NVIDIA's driver, which brings {LIBRARY}")))?;
    let call = |name: &str, code: c_int| match code {
        0 => Ok(()),
        100 => Err(unavailable(
            "the CUDA driver sees no device (CUDA_ERROR_NO_DEVICE); is one attached, and is CUDA_VISIBLE_DEVICES right?".to_owned(),
        )),
        code => Err(unavailable(format!("the CUDA driver does not start: {name} gives error {code}"))),
    };
    let (mut version, mut devices): (c_int, c_int) = (0, 0);
    // SAFETY: the signatures are those of cuda.h, and both pointers are to live integers.
    unsafe {
        let missing = |e: libloading::Error| unavailable(format!("{LIBRARY} is no CUDA driver: {e}"));
        let init: Symbol<'_, unsafe extern "C" fn(u32) -> c_int> = library.get(b"cuInit\0").map_err(missing)?;
        let get_version: Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int> = library.get(b"cuDriverGetVersion\0").map_err(missing)?;
        let count: Symbol<'_, unsafe extern "C" fn(*mut c_int) -> c_int> = library.get(b"cuDeviceGetCount\0").map_err(missing)?;
        call("cuInit", init(0))?;
        call("cuDriverGetVersion", get_version(&raw mut version))?;
        call("cuDeviceGetCount", count(&raw mut devices))?;
    }
    // The driver has threads of its own by now; unloading it would pull the code from under them.
    std::mem::forget(library);
    Ok(Driver { cuda_version: u32::try_from(version).unwrap_or(0), devices: usize::try_from(devices).unwrap_or(0) })
}

const LIBRARY: &str = if cfg!(windows) { "nvcuda.dll" } else { "libcuda.so.1" };
