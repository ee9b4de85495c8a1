//! What the machine has for CUDA: the driver, its devices, and the libraries that the runtimes load.
//!
//! Nothing is linked: the driver's library is loaded when asked for, and only looked at. No context is made, so no
//! memory of a device is taken.

use libloading::Library;
use serde_json::{Value, json};
use std::{
    ffi::{CStr, c_char, c_int, c_uint},
    fmt,
    path::Path,
};

/// What is here.
#[derive(Debug)]
pub(crate) struct Cuda {
    driver: Result<Driver, String>,
    libraries: Vec<Part>,
}

#[derive(Debug)]
struct Driver {
    /// The newest CUDA it runs.
    cuda: String,
    /// The driver's own version, where the kernel tells it.
    release: Option<String>,
    devices: Vec<Device>,
}

#[derive(Debug)]
struct Device {
    name: String,
    capability: (c_int, c_int),
    memory_bytes: usize,
    multiprocessors: c_int,
}

/// A library, who needs it, and where it was found or how to get it.
#[derive(Debug)]
struct Part {
    name: String,
    needed_by: &'static str,
    found: Result<String, String>,
}

/// The driver's library.
const DRIVER: &str = "libcuda.so.1";

/// What the runtimes load beside the driver: name, who needs it, and the PyPI package that has it.
const LIBRARIES: [(&str, &str, &str); 7] = [
    ("libcudart.so.13", "ort", "nvidia-cuda-runtime==13.*"),
    ("libcublas.so.13", "ort, candle", "nvidia-cublas==13.*"),
    ("libcublasLt.so.13", "ort, candle", "nvidia-cublas==13.*"),
    ("libcurand.so.10", "ort, candle", "nvidia-curand==10.*"),
    ("libcufft.so.12", "ort", "nvidia-cufft==12.*"),
    ("libcudnn.so.9", "ort", "nvidia-cudnn-cu13"),
    ("libnvrtc.so.13", "ort, burn", "nvidia-cuda-nvrtc==13.*"),
];

impl Cuda {
    /// Looks. `onnxruntime` is the library that the `ort` backend loads: its CUDA provider lies beside it.
    pub(crate) fn probe(onnxruntime: Option<&Path>) -> Self {
        let mut libraries: Vec<Part> =
            LIBRARIES.into_iter().map(|(name, needed_by, package)| Part::load(name, needed_by, package)).collect();
        libraries.push(provider(onnxruntime));
        Self { driver: Driver::probe(DRIVER), libraries }
    }

    pub(crate) fn json(&self) -> Value {
        let driver = match &self.driver {
            Ok(driver) => json!({
                "available": true, "cuda": driver.cuda, "release": driver.release,
                "devices": driver.devices.iter().map(Device::json).collect::<Vec<_>>(),
            }),
            Err(reason) => json!({ "available": false, "reason": reason }),
        };
        let libraries: Vec<_> = self
            .libraries
            .iter()
            .map(|part| {
                let (key, text) = match &part.found {
                    Ok(place) => ("path", place),
                    Err(reason) => ("reason", reason),
                };
                json!({ "library": part.name, "needed_by": part.needed_by, "available": part.found.is_ok(), key: text })
            })
            .collect();
        json!({ "built_in": cfg!(feature = "cuda"), "driver": driver, "libraries": libraries })
    }
}

impl fmt::Display for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !cfg!(feature = "cuda") {
            writeln!(f, "  {:<12} missing: this program was built without CUDA; `cargo xtask gpu build` makes one with it", "backends")?;
        }
        match &self.driver {
            Ok(driver) => {
                let release = driver.release.as_deref().unwrap_or("of unknown release");
                writeln!(f, "  {:<12} ready: {release}, CUDA {} and older", "driver", driver.cuda)?;
                for (index, device) in driver.devices.iter().enumerate() {
                    writeln!(f, "  {:<12} {device}", format!("cuda:{index}"))?;
                }
            }
            Err(reason) => writeln!(f, "  {:<12} missing: {reason}", "driver")?,
        }
        for part in &self.libraries {
            match &part.found {
                Ok(place) => writeln!(f, "  {:<12} {} for {}: {place}", "library", part.name, part.needed_by)?,
                Err(reason) => writeln!(f, "  {:<12} {} for {} is missing: {reason}", "library", part.name, part.needed_by)?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.capability;
        let gib = self.memory_bytes >> 30;
        write!(f, "{}, compute capability {major}.{minor}, {gib} GiB, {} multiprocessors", self.name, self.multiprocessors)?;
        if cfg!(feature = "cuda") && major != 9 {
            write!(f, "; this program's kernels run on 9.0 (H100, H200) only")?;
        }
        Ok(())
    }
}

impl Device {
    fn json(&self) -> Value {
        let (major, minor) = self.capability;
        json!({
            "name": self.name, "compute_capability": format!("{major}.{minor}"), "memory_bytes": self.memory_bytes,
            "multiprocessors": self.multiprocessors,
        })
    }
}

impl Part {
    fn load(name: &str, needed_by: &'static str, package: &str) -> Self {
        // SAFETY: NVIDIA's libraries only set up tables of their own when loaded.
        let loaded = unsafe { Library::new(name) };
        let found = match &loaded {
            Ok(_) => Ok(place_of(name).unwrap_or_else(|| "loaded".to_owned())),
            Err(_) => Err(format!(
                "not where the loader looks; it comes with the CUDA 13 toolkit or the PyPI package {package}, whose folder then belongs in LD_LIBRARY_PATH"
            )),
        };
        Self { name: name.to_owned(), needed_by, found }
    }
}

/// ONNX Runtime's CUDA provider. Not loaded: only ONNX Runtime itself may.
fn provider(onnxruntime: Option<&Path>) -> Part {
    let name = "libonnxruntime_providers_cuda.so";
    let found = match onnxruntime {
        None => Err("no ONNX Runtime is set: PHASE_ORT_LIBRARY names the libonnxruntime of the PyPI package onnxruntime-gpu".to_owned()),
        Some(library) => match library.with_file_name(name) {
            beside if beside.is_file() => Ok(beside.display().to_string()),
            _ => Err(format!("not beside {}; it comes with the PyPI package onnxruntime-gpu", library.display())),
        },
    };
    Part { name: name.to_owned(), needed_by: "ort", found }
}

/// Which file a loaded library came from, where the system tells it.
fn place_of(name: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps.lines().filter_map(|line| line.find('/').map(|at| &line[at..])).find(|path| {
        let file = path.rsplit('/').next().unwrap_or_default();
        file.starts_with(name)
    });
    path.map(str::to_owned)
}

type Status = c_int;

impl Driver {
    fn probe(library: &str) -> Result<Self, String> {
        // SAFETY: the driver's library only sets up tables of its own when loaded.
        let library = unsafe { Library::new(library) }.map_err(|e| {
            format!("{library} can't be loaded ({e}); it comes with the NVIDIA driver, of which CUDA 13 needs release 580 or newer")
        })?;
        let api = Api { library: &library };
        // SAFETY: the signature is cuda.h's: cuInit(flags).
        let init = unsafe { api.function::<unsafe extern "C" fn(c_uint) -> Status>(b"cuInit\0") }?;
        // SAFETY: 0 is the only flag there is.
        api.check("cuInit", unsafe { init(0) })?;
        let version = api.number(b"cuDriverGetVersion\0")?;
        let devices = (0..api.number(b"cuDeviceGetCount\0")?).map(|index| api.device(index)).collect::<Result<_, _>>()?;
        let release = std::fs::read_to_string("/proc/driver/nvidia/version").ok().and_then(|text| release(&text));
        Ok(Self { cuda: format!("{}.{}", version / 1000, version % 1000 / 10), release, devices })
    }
}

/// The driver's release in what the kernel module says of itself.
fn release(text: &str) -> Option<String> {
    let is_release = |word: &&str| word.contains('.') && word.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.lines().next()?.split_whitespace().find(is_release).map(str::to_owned)
}

/// The driver's functions, by name.
struct Api<'a> {
    library: &'a Library,
}

impl Api<'_> {
    /// # Safety
    /// `T` must be the function's type in cuda.h.
    unsafe fn function<T: Copy>(&self, name: &[u8]) -> Result<T, String> {
        // SAFETY: the caller vouches for the type.
        let found = unsafe { self.library.get::<T>(name) };
        found.map(|f| *f).map_err(|e| format!("{DRIVER} is no CUDA driver: {e}"))
    }

    fn check(&self, what: &str, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        Err(format!("{DRIVER} is here, but {what} gives {} ({status})", self.name(status).unwrap_or_else(|| "an unknown error".to_owned())))
    }

    fn name(&self, status: Status) -> Option<String> {
        // SAFETY: the signature is cuda.h's: cuGetErrorName(error, text).
        let name = unsafe { self.function::<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>(b"cuGetErrorName\0") }.ok()?;
        let mut text = std::ptr::null();
        // SAFETY: `text` is a place for one pointer.
        let known = unsafe { name(status, &raw mut text) } == 0;
        // SAFETY: the driver gives a text that lives as long as it is loaded.
        (known && !text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
    }

    /// What a function gives that fills in one number.
    fn number(&self, name: &[u8]) -> Result<c_int, String> {
        // SAFETY: the signature is cuda.h's for the functions this is used with: f(number).
        let function = unsafe { self.function::<unsafe extern "C" fn(*mut c_int) -> Status>(name) }?;
        let mut number = 0;
        // SAFETY: `number` is a place for one number.
        let status = unsafe { function(&raw mut number) };
        self.check(text_of(name), status).map(|()| number)
    }

    fn device(&self, index: c_int) -> Result<Device, String> {
        const MULTIPROCESSORS: c_int = 16;
        const CAPABILITY: [c_int; 2] = [75, 76];
        // SAFETY: the signature is cuda.h's: cuDeviceGet(device, index).
        let get = unsafe { self.function::<unsafe extern "C" fn(*mut c_int, c_int) -> Status>(b"cuDeviceGet\0") }?;
        let mut device = 0;
        // SAFETY: `device` is a place for one handle.
        self.check("cuDeviceGet", unsafe { get(&raw mut device, index) })?;
        // SAFETY: the signature is cuda.h's: cuDeviceGetName(text, bytes, device).
        let name = unsafe { self.function::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status>(b"cuDeviceGetName\0") }?;
        let mut text = [0u8; 256];
        // SAFETY: `text` has one byte more than said, so that it ends with a zero.
        self.check("cuDeviceGetName", unsafe { name(text.as_mut_ptr().cast(), 255, device) })?;
        // SAFETY: the signature is cuda.h's: cuDeviceTotalMem_v2(bytes, device).
        let total = unsafe { self.function::<unsafe extern "C" fn(*mut usize, c_int) -> Status>(b"cuDeviceTotalMem_v2\0") }?;
        let mut memory_bytes = 0;
        // SAFETY: `memory_bytes` is a place for one size.
        self.check("cuDeviceTotalMem", unsafe { total(&raw mut memory_bytes, device) })?;
        Ok(Device {
            name: CStr::from_bytes_until_nul(&text).map(|t| t.to_string_lossy().into_owned()).unwrap_or_default(),
            capability: (self.attribute(CAPABILITY[0], device)?, self.attribute(CAPABILITY[1], device)?),
            memory_bytes,
            multiprocessors: self.attribute(MULTIPROCESSORS, device)?,
        })
    }

    fn attribute(&self, attribute: c_int, device: c_int) -> Result<c_int, String> {
        // SAFETY: the signature is cuda.h's: cuDeviceGetAttribute(number, attribute, device).
        let get = unsafe { self.function::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status>(b"cuDeviceGetAttribute\0") }?;
        let mut number = 0;
        // SAFETY: `number` is a place for one number.
        let status = unsafe { get(&raw mut number, attribute, device) };
        self.check("cuDeviceGetAttribute", status).map(|()| number)
    }
}

fn text_of(name: &[u8]) -> &str {
    CStr::from_bytes_until_nul(name).ok().and_then(|n| n.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_driver_and_a_library_that_is_none_are_named() {
        assert!(Driver::probe("libno-such-driver.so.1").unwrap_err().contains("release 580"));
        // Any library that is no driver.
        assert!(Driver::probe("libc.so.6").unwrap_err().contains("no CUDA driver"));
    }

    #[test]
    fn the_release_is_found_in_what_the_kernel_says() {
        let text =
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U16)\nGCC version: 13.3.0\n";
        assert_eq!(release(text).as_deref(), Some("580.159.04"));
        assert_eq!(release("nothing here\n"), None);
    }

    #[test]
    fn every_library_says_where_it_is_or_how_to_get_it() {
        let found = Cuda::probe(None);
        let text = found.to_string();
        for (name, ..) in LIBRARIES {
            assert!(text.contains(name), "{name} in:\n{text}");
        }
        assert!(text.contains("libonnxruntime_providers_cuda.so for ort is missing: no ONNX Runtime is set"), "{text}");
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join("libonnxruntime.so.1");
        assert!(provider(Some(&library)).found.unwrap_err().contains("not beside"));
        std::fs::write(dir.path().join("libonnxruntime_providers_cuda.so"), "").unwrap();
        assert!(provider(Some(&library)).found.is_ok());
    }
}
