//! What is known of a device, from the driver and from NVML, for the boundary of a measurement.

use std::ffi::{CStr, CString, c_char, c_int, c_uint};

use cudarc::driver::{CudaContext, sys::CUdevice_attribute as Attribute};
use libloading::{Library, Symbol};

use super::{CudaError, classify, driver};

/// A fact's name, with its value or why it is not known.
pub type DeviceFact = (&'static str, Result<String, String>);

/// Name, UUID, memory (GiB), compute capability, multiprocessors, second-level cache (MiB), the newest CUDA version that the
/// driver speaks, and of NVML: driver, power limit (W), highest clocks (MHz).
///
/// # Errors
/// [`CudaError`] of what the driver must tell; what only NVML tells may be unknown.
pub fn device_facts(context: &CudaContext) -> Result<Vec<DeviceFact>, CudaError> {
    let version = driver()?.cuda_version;
    let name = context.name().map_err(classify("ask for the device's name"))?;
    let memory = context.total_mem().map_err(classify("ask for the device's memory"))?;
    let attribute = |which| context.attribute(which).map_err(classify("ask the device for its attributes"));
    let (major, minor) = context.compute_capability().map_err(classify("ask for the compute capability"))?;
    let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let l2 = attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?;
    let bus = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
    let slot = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
    let domain = attribute(Attribute::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
    let mut facts: Vec<DeviceFact> = vec![
        ("gpu", Ok(name)),
        ("gpu_uuid", Ok(device_uuid(context)?)),
        ("gpu_memory_gib", Ok(((memory + (1 << 29)) >> 30).to_string())),
        ("gpu_compute_capability", Ok(format!("{major}.{minor}"))),
        ("gpu_multiprocessors", Ok(processors.to_string())),
        ("gpu_l2_mib", Ok((l2 >> 20).to_string())),
        ("cuda_driver", Ok(format!("{}.{}", version / 1000, version % 1000 / 10))),
    ];
    let settings = management(&format!("{domain:08x}:{bus:02x}:{slot:02x}.0"));
    for (key, index) in [("gpu_driver", 0), ("gpu_power_limit_w", 1), ("gpu_max_sm_mhz", 2), ("gpu_max_memory_mhz", 3)] {
        facts.push((key, settings.as_ref().map(|values| values[index].clone()).map_err(Clone::clone)));
    }
    Ok(facts)
}

/// As the driver's tools write it: `GPU-01234567-...`.
///
/// # Errors
/// [`CudaError`] where the driver does not tell.
pub fn device_uuid(context: &CudaContext) -> Result<String, CudaError> {
    let uuid = context.uuid().map_err(classify("ask for the device's UUID"))?;
    let hex: Vec<_> = uuid.bytes.iter().map(|byte| format!("{:02x}", byte.cast_unsigned())).collect();
    let part = |range: std::ops::Range<usize>| hex[range].concat();
    Ok(format!("GPU-{}-{}-{}-{}-{}", part(0..4), part(4..6), part(6..8), part(8..10), part(10..16)))
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
