//! Facts about a device for the measurement boundary, from the driver and from NVML.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use libloading::{Library, Symbol};
use phase_core::{Layer, StackInfo};
use phase_kernels::cuda::{classify, driver};

use super::device::{context, uuid};
use crate::BurnError;

/// Adds what is known about a device. It is of the runtime's layer: a backend of the same process may run on another one.
pub(crate) fn facts(stack: StackInfo, ordinal: usize) -> Result<StackInfo, BurnError> {
    let version = driver()?.cuda_version;
    let context = context(ordinal)?;
    let name = context.name().map_err(classify("ask for the device's name"))?;
    let memory = context.total_mem().map_err(classify("ask for the device's memory"))?;
    let attribute = |which| context.attribute(which).map_err(classify("ask the device for its attributes"));
    let (major, minor) = context.compute_capability().map_err(classify("ask for the compute capability"))?;
    let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let l2 = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
    let bus = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let slot = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    let domain = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let mut stack = stack
        .with(Layer::Runtime, "gpu", name)
        .with(Layer::Runtime, "gpu_uuid", uuid(&context)?)
        .with(Layer::Runtime, "gpu_memory_gib", ((memory + (1 << 29)) >> 30).to_string())
        .with(Layer::Runtime, "gpu_compute_capability", format!("{major}.{minor}"))
        .with(Layer::Runtime, "gpu_multiprocessors", processors.to_string())
        .with(Layer::Runtime, "gpu_l2_mib", (l2 >> 20).to_string())
        .with(Layer::Runtime, "cuda_driver", format!("{}.{}", version / 1000, version % 1000 / 10));
    let settings = management(&format!("{domain:08x}:{bus:02x}:{slot:02x}.0"));
    for (key, index) in [("gpu_driver", 0), ("gpu_power_limit_w", 1), ("gpu_max_sm_mhz", 2), ("gpu_max_memory_mhz", 3)] {
        stack = match &settings {
            Ok(values) => stack.with(Layer::Runtime, key, values[index].clone()),
            Err(why) => stack.with_unknown(Layer::Runtime, key, why.clone()),
        };
    }
    Ok(stack)
}

/// Driver version, power limit in watts, highest clocks of processors and memory in MHz.
fn management(bus_id: &str) -> Result<[String; 4], String> {
    type Device = *mut std::ffi::c_void;
    // SAFETY: NVML's library has no initialisation that depends on this process.
    let library = unsafe { Library::new(LIBRARY) }.map_err(|e| e.to_string())?;
    let missing = |e: libloading::Error| e.to_string();
    let call = |name: &str, code: c_int| if code == 0 { Ok(()) } else { Err(format!("{name} gives error {code}")) };
    let bus_id = CString::new(bus_id).map_err(|e| e.to_string())?;
    let (mut version, mut device, mut limit) = ([0; 96], std::ptr::null_mut(), 0);
    let mut clocks = [0; 2];
    // SAFETY: the signatures are those of nvml.h, and all pointers are to live memory of the stated length.
    unsafe {
        let init: Symbol<'_, unsafe extern "C" fn() -> c_int> = library.get(b"nvmlInit_v2\0").map_err(missing)?;
        let get_version: Symbol<'_, unsafe extern "C" fn(*mut c_char, c_uint) -> c_int> =
            library.get(b"nvmlSystemGetDriverVersion\0").map_err(missing)?;
        let find: Symbol<'_, unsafe extern "C" fn(*const c_char, *mut Device) -> c_int> =
            library.get(b"nvmlDeviceGetHandleByPciBusId_v2\0").map_err(missing)?;
        let get_limit: Symbol<'_, unsafe extern "C" fn(Device, *mut c_uint) -> c_int> =
            library.get(b"nvmlDeviceGetEnforcedPowerLimit\0").map_err(missing)?;
        let get_clock: Symbol<'_, unsafe extern "C" fn(Device, c_int, *mut c_uint) -> c_int> =
            library.get(b"nvmlDeviceGetMaxClockInfo\0").map_err(missing)?;
        call("nvmlInit", init())?;
        call("nvmlSystemGetDriverVersion", get_version(version.as_mut_ptr(), 96))?;
        call("nvmlDeviceGetHandleByPciBusId", find(bus_id.as_ptr(), &raw mut device))?;
        call("nvmlDeviceGetEnforcedPowerLimit", get_limit(device, &raw mut limit))?;
        call("nvmlDeviceGetMaxClockInfo", get_clock(device, SM_CLOCK, &raw mut clocks[0]))?;
        call("nvmlDeviceGetMaxClockInfo", get_clock(device, MEMORY_CLOCK, &raw mut clocks[1]))?;
    }
    // SAFETY: NVML ends the version with a zero inside the buffer.
    let version = unsafe { CStr::from_ptr(version.as_ptr()) }.to_string_lossy().into_owned();
    // Kept loaded: NVML holds state that other users of it in this process share.
    std::mem::forget(library);
    Ok([version, (limit / 1000).to_string(), clocks[0].to_string(), clocks[1].to_string()])
}

const SM_CLOCK: c_int = 1;
const MEMORY_CLOCK: c_int = 2;
const LIBRARY: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };
