//! The kernels of one number format on one stream, and how one of them is launched.

use std::{
    cell::Cell,
    collections::BTreeMap,
    ffi::{CString, c_void},
    sync::Arc,
};

use cudarc::driver::{CudaStream, DriverError, result, sys};

use super::{CudaError, Format, classify};

/// The kernels for weights and caches of one number format, on one stream.
///
/// Not shared between threads: a model has its own.
pub struct Kernels {
    stream: Arc<CudaStream>,
    modules: Vec<sys::CUmodule>,
    functions: BTreeMap<String, Function>,
    format: Format,
    processors: u32,
    overlap: bool,
}

struct Function {
    function: sys::CUfunction,
    launches: Cell<u64>,
}

// SAFETY: modules and functions belong to a context, not to a thread; each call below makes the context current first.
unsafe impl Send for Kernels {}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("format", &self.format).field("processors", &self.processors).finish_non_exhaustive()
    }
}

/// A grid of blocks: how many, of how many threads, with how much shared memory.
pub(super) struct Grid {
    pub(super) blocks: [u32; 3],
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

impl Kernels {
    /// Loads the kernels into the stream's context, machine code and all, so that no launch pays for it.
    ///
    /// # Errors
    /// [`CudaError::Driver`], for example on a device older than compute capability 9.0.
    pub fn load(stream: &Arc<CudaStream>, format: Format) -> Result<Self, CudaError> {
        let context = stream.context();
        context.bind_to_thread().map_err(classify("make the context current"))?;
        let processors = context
            .attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .map_err(classify("ask for the number of multiprocessors"))?;
        let mut kernels = Self {
            stream: Arc::clone(stream),
            modules: Vec::new(),
            functions: BTreeMap::new(),
            format,
            processors: u32::try_from(processors).unwrap_or(1).max(1),
            overlap: true,
        };
        for image in IMAGES {
            // SAFETY: the image is a complete fat binary, made by this crate's build script.
            let module = unsafe { result::module::load_data(image.0.as_ptr().cast()) }.map_err(classify("load kernels"))?;
            kernels.modules.push(module);
        }
        for (module, name) in names(format) {
            kernels.add(module, name)?;
        }
        Ok(kernels)
    }

    fn add(&mut self, module: usize, name: String) -> Result<(), CudaError> {
        let symbol = CString::new(name.clone()).map_err(|_| CudaError::Unavailable { reason: format!("`{name}` is no kernel's name") })?;
        // SAFETY: the module is loaded and stays so as long as `self`.
        let function = unsafe { result::module::get_function(self.modules[module], symbol) }.map_err(classify("find a kernel"))?;
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let fixed = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        let mut used = 0;
        // SAFETY: the function is of a loaded module, and `used` is a live integer.
        unsafe { sys::cuFuncGetAttribute(&raw mut used, fixed, function) }
            .result()
            .map_err(classify("ask how much shared memory a kernel has"))?;
        // SAFETY: as above; the rest of a block's shared memory may be asked for at launch.
        unsafe { sys::cuFuncSetAttribute(function, most, SHARED_BYTES - used) }
            .result()
            .map_err(classify("allow a kernel its shared memory"))?;
        self.functions.insert(name, Function { function, launches: Cell::new(0) });
        Ok(())
    }

    /// Number format of the weights and the cache.
    #[must_use]
    pub const fn format(&self) -> Format {
        self.format
    }

    /// The device's multiprocessors.
    #[must_use]
    pub const fn processors(&self) -> u32 {
        self.processors
    }

    /// Whether a kernel may begin before the one in front of it has ended (it waits for its results). The default is yes.
    pub const fn set_overlap(&mut self, overlap: bool) {
        self.overlap = overlap;
    }

    /// Launches of each kernel so far, in the order of their names; those captured into a graph count once.
    pub fn launches(&self) -> impl Iterator<Item = (&str, u64)> {
        self.functions.iter().map(|(name, function)| (name.as_str(), function.launches.get()))
    }

    /// Puts a kernel on the stream.
    ///
    /// # Safety
    /// `args` is what the kernel of this name takes, and what it points to is on the stream's device, large enough, and stays
    /// until the kernel has run.
    pub(super) unsafe fn launch<A>(&self, name: &str, grid: &Grid, args: &A) -> Result<(), CudaError> {
        let Some(entry) = self.functions.get(name) else {
            return Err(CudaError::Unavailable { reason: format!("there is no kernel `{name}`") });
        };
        self.stream.context().bind_to_thread().map_err(classify("make the context current"))?;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.blocks[0],
            gridDimY: grid.blocks[1],
            gridDimZ: grid.blocks[2],
            blockDimX: grid.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: u32::from(self.overlap),
        };
        let mut params = [std::ptr::from_ref(args).cast_mut().cast::<c_void>()];
        // SAFETY: the configuration and the parameter live until the call returns, which copies them; the rest is the caller's.
        unsafe { sys::cuLaunchKernelEx(&raw const config, entry.function, params.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(classify("launch a kernel"))?;
        entry.launches.set(entry.launches.get() + 1);
        Ok(())
    }
}

impl Drop for Kernels {
    fn drop(&mut self) {
        let unload = |module: &sys::CUmodule| -> Result<(), DriverError> {
            self.stream.context().bind_to_thread()?;
            // SAFETY: nothing else holds the module, and unloading waits for its kernels.
            unsafe { result::module::unload(*module) }
        };
        for module in &self.modules {
            // A lost context has no modules any more.
            let _ = unload(module);
        }
    }
}

/// A dimension as kernels take it.
pub(super) fn narrow(what: &'static str, value: usize) -> Result<u32, CudaError> {
    u32::try_from(value).map_err(|_| CudaError::Shape { what, found: value, expected: u32::MAX as usize })
}

/// Every kernel of a format, with the module it is in.
fn names(format: Format) -> Vec<(usize, String)> {
    let format_name = format.as_str();
    let mut names: Vec<(usize, String)> = Vec::new();
    for (head_dim, group) in [64, 128].into_iter().flat_map(|head_dim| [1, 2, 4, 8].map(|group| (head_dim, group))) {
        names.push((0, format!("attention_decode_{head_dim}_{group}_{format_name}")));
    }
    if format != Format::F32 {
        names.extend([64, 128].map(|head_dim| (1, format!("attention_prefill_{head_dim}_{format_name}"))));
        for kind in ["store", "rotate", "add", "gated", "plain"] {
            names.extend(["", "long_", "wide_"].map(|wide| (3, format!("few_{kind}_{wide}{format_name}"))));
        }
    }
    for kind in ["store", "rotate", "gated", "plain", "head"] {
        names.extend(["", "layer_"].map(|norm| (2, format!("matvec_{kind}_{norm}{format_name}"))));
    }
    names.push((2, format!("matvec_add_{format_name}")));
    let rows = ["embed", "norm", "norm_wide", "rotate_append", "rotate_append_any", "activate", "attention_general"];
    names.extend(rows.map(|kind| (4, format!("{kind}_{format_name}"))));
    names.extend(["last_rows", "pick_tokens", "read_memory"].map(|name| (4, name.to_owned())));
    names
}

/// Shared memory a block can have on compute capability 9.0.
pub(super) const SHARED_BYTES: i32 = 227 * 1024;

#[repr(C, align(64))]
struct Image<B: ?Sized>(B);

/// Fat binaries, aligned as the driver wants them.
static IMAGES: [&Image<[u8]>; 5] = [
    &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/attention_decode.fatbin"))),
    &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/attention_prefill.fatbin"))),
    &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/matvec.fatbin"))),
    &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/matvec_few.fatbin"))),
    &Image(*include_bytes!(concat!(env!("OUT_DIR"), "/rows.fatbin"))),
];
