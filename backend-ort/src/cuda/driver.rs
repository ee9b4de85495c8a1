//! NVIDIA's driver, loaded at run time: nothing of CUDA is needed to build this crate or to start a program with it.

use crate::error::OrtError;
use std::{
    ffi::{CStr, c_char, c_int, c_uint, c_void},
    ptr::null,
    sync::OnceLock,
};

/// What every driver call gives: zero, or what went wrong.
type Status = c_int;
/// Opaque objects of the driver.
pub(super) type Handle = *mut c_void;
/// An address in device memory.
pub(super) type Address = u64;

/// The library, under the name that every driver installs.
const LIBRARY: &str = "libcuda.so.1";

macro_rules! api {
    ($($name:ident = $symbol:literal ($($argument:ty),*);)+) => {
        /// The driver's functions.
        #[derive(Debug)]
        pub(super) struct Api {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> Status,)+
        }

        impl Api {
            fn load(library: &libloading::Library) -> Result<Self, String> {
                Ok(Self {
                    $($name: {
                        let name = concat!($symbol, "\0").as_bytes();
                        // SAFETY: the type is that of the driver's header for this symbol.
                        let symbol = unsafe { library.get::<unsafe extern "C" fn($($argument),*) -> Status>(name) };
                        *symbol.map_err(|e| format!("{LIBRARY} has no {}: {e}", $symbol))?
                    },)+
                })
            }
        }
    };
}

api! {
    init = "cuInit" (c_uint);
    driver_version = "cuDriverGetVersion" (*mut c_int);
    error_string = "cuGetErrorString" (Status, *mut *const c_char);
    device_count = "cuDeviceGetCount" (*mut c_int);
    device = "cuDeviceGet" (*mut c_int, c_int);
    device_name = "cuDeviceGetName" (*mut c_char, c_int, c_int);
    device_uuid = "cuDeviceGetUuid" (*mut [u8; 16], c_int);
    device_attribute = "cuDeviceGetAttribute" (*mut c_int, c_int, c_int);
    context_retain = "cuDevicePrimaryCtxRetain" (*mut Handle, c_int);
    context_release = "cuDevicePrimaryCtxRelease_v2" (c_int);
    context_set = "cuCtxSetCurrent" (Handle);
    memory_info = "cuMemGetInfo_v2" (*mut usize, *mut usize);
    allocate = "cuMemAlloc_v2" (*mut Address, usize);
    free = "cuMemFree_v2" (Address);
    host_allocate = "cuMemAllocHost_v2" (*mut *mut c_void, usize);
    host_free = "cuMemFreeHost" (*mut c_void);
    upload_async = "cuMemcpyHtoDAsync_v2" (Address, *const c_void, usize, Handle);
    download_async = "cuMemcpyDtoHAsync_v2" (*mut c_void, Address, usize, Handle);
    fill_async = "cuMemsetD8Async" (Address, u8, usize, Handle);
    stream_create = "cuStreamCreate" (*mut Handle, c_uint);
    stream_destroy = "cuStreamDestroy_v2" (Handle);
    stream_synchronize = "cuStreamSynchronize" (Handle);
    event_create = "cuEventCreate" (*mut Handle, c_uint);
    event_destroy = "cuEventDestroy_v2" (Handle);
    event_record = "cuEventRecord" (Handle, Handle);
    event_elapsed = "cuEventElapsedTime" (*mut f32, Handle, Handle);
    capture_begin = "cuStreamBeginCapture_v2" (Handle, c_int);
    capture_end = "cuStreamEndCapture" (Handle, *mut Handle);
    graph_nodes = "cuGraphGetNodes" (Handle, *mut Handle, *mut usize);
    graph_node_type = "cuGraphNodeGetType" (Handle, *mut c_int);
    graph_instantiate = "cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64);
    graph_upload = "cuGraphUpload" (Handle, Handle);
    graph_launch = "cuGraphLaunch" (Handle, Handle);
    graph_destroy = "cuGraphDestroy" (Handle);
    graph_exec_destroy = "cuGraphExecDestroy" (Handle);
    module_load = "cuModuleLoadData" (*mut Handle, *const c_void);
    module_unload = "cuModuleUnload" (Handle);
    module_function = "cuModuleGetFunction" (*mut Handle, Handle, *const c_char);
    function_attribute = "cuFuncSetAttribute" (Handle, c_int, c_int);
    launch = "cuLaunchKernelEx" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
}

/// `CUlaunchConfig`.
#[repr(C)]
pub(super) struct LaunchConfig {
    pub(super) grid: [c_uint; 3],
    pub(super) block: [c_uint; 3],
    pub(super) shared_bytes: c_uint,
    pub(super) stream: Handle,
    pub(super) attributes: *const LaunchAttribute,
    pub(super) attribute_count: c_uint,
}

/// `CUlaunchAttribute`: which one, and a union of 64 bytes.
#[repr(C)]
pub(super) struct LaunchAttribute {
    pub(super) id: c_uint,
    pub(super) value: [u64; 8],
}

/// The driver of this machine, initialised.
///
/// # Errors
/// [`OrtError::Device`], saying why there is none.
pub(super) fn driver() -> Result<&'static Api, OrtError> {
    static DRIVER: OnceLock<Result<Api, String>> = OnceLock::new();
    DRIVER.get_or_init(load).as_ref().map_err(|reason| OrtError::Device { reason: reason.clone() })
}

fn load() -> Result<Api, String> {
    // SAFETY: this is NVIDIA's driver library, whose initialisers only set up its own state.
    let library = unsafe { libloading::Library::new(LIBRARY) };
    let library = library.map_err(|e| format!("no NVIDIA driver: {e}; install the driver of this machine's GPU"))?;
    let api = Api::load(&library)?;
    // The functions are kept for as long as the process lives, and so must the library.
    std::mem::forget(library);
    // SAFETY: the only flags allowed are zero.
    let status = unsafe { (api.init)(0) };
    match status {
        0 => Ok(api),
        _ => Err(format!("the NVIDIA driver does not start: {}", message(&api, status))),
    }
}

impl Api {
    /// Turns the answer of a call into an error of its kind; `action` completes "CUDA, ...".
    pub(super) fn check(&self, action: &'static str, status: Status) -> Result<(), OrtError> {
        match status {
            0 => Ok(()),
            _ if is_loss(status) => Err(OrtError::DeviceLost { action, message: message(self, status) }),
            _ => Err(OrtError::Cuda { action, message: message(self, status) }),
        }
    }
}

/// The driver's answer when memory is not to be had.
pub(super) const OUT_OF_MEMORY: Status = 2;

/// The driver's answer when something spoiled a capture.
pub(super) const CAPTURE_SPOILED: Status = 901;

/// Whether nothing more will work in this process after this answer: faults of a kernel, of the device, of its bus.
pub(super) const fn is_loss(status: Status) -> bool {
    matches!(status, 4 | 46 | 214 | 220 | 700 | 702 | 709 | 710 | 714..=719 | 999)
}

fn message(api: &Api, status: Status) -> String {
    let mut text = null();
    // SAFETY: the place for the answer is valid; the answer is a static string or null.
    let known = unsafe { (api.error_string)(status, &raw mut text) } == 0 && !text.is_null();
    if !known {
        return format!("error {status}");
    }
    // SAFETY: checked above; the driver's strings end in a zero.
    let text = unsafe { CStr::from_ptr(text) };
    format!("{} (error {status})", text.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_lose_the_device_and_other_errors_do_not() {
        assert!([700, 719, 999, 214].into_iter().all(is_loss));
        // 701: too many resources asked for; 713: memory of the host that was not registered.
        assert!(![1, OUT_OF_MEMORY, 100, 101, 701, 713, 801, 900].into_iter().any(is_loss));
    }

    #[test]
    fn without_a_driver_the_reason_is_given() {
        if let Err(error) = driver() {
            assert!(error.to_string().contains("driver"), "{error}");
        }
    }
}
