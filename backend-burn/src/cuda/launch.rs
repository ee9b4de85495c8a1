//! Kernels by name, and how one of them is put on the stream.

use std::{
    any::TypeId,
    cell::{Cell, RefCell},
    collections::{BTreeMap, HashMap},
    ffi::{CString, c_void},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use cubecl::{
    InfoBuilder, ScalarArgType,
    ir::AddressType,
    prelude::{BufferCompilationArg, CubeKernel},
};
use cudarc::driver::{CudaStream, result, sys};
use phase_kernels::cuda::{CudaError, Region, classify};
use rayon::prelude::*;

use super::compile::{Code, Nvrtc, SHARED_BYTES, Target};
use crate::BurnError;

/// The kernels of one model on one stream.
pub(super) struct Kernels {
    pub(super) target: Target,
    nvrtc: Nvrtc,
    stream: Arc<CudaStream>,
    functions: RefCell<HashMap<u64, Function>>,
    /// While it holds a list, launches are not made: kernels that are not there yet go to the list, with their units.
    wanted: RefCell<Option<BTreeMap<u64, (Make, u32)>>>,
    info: RefCell<InfoBuilder>,
}

/// Compiles a kernel.
type Make = Box<dyn FnOnce(&Nvrtc, &Target) -> Result<Arc<Code>, BurnError> + Send>;

struct Function {
    module: sys::CUmodule,
    function: sys::CUfunction,
    name: String,
    shared_bytes: u32,
    units: u32,
    launches: Cell<u64>,
}

// SAFETY: modules and functions belong to a context, not to a thread; each call below makes the context current first.
unsafe impl Send for Kernels {}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernels").field("nvrtc", &self.nvrtc).finish_non_exhaustive()
    }
}

/// A buffer argument when a kernel is compiled.
pub(super) const fn buffer() -> BufferCompilationArg {
    BufferCompilationArg { inplace: None }
}

/// What a kernel is given, in the order of its parameters.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg {
    Buffer(Region),
    U32(u32),
    F32(f32),
}

impl Kernels {
    pub(super) fn new(stream: &Arc<CudaStream>, nvrtc: Nvrtc) -> Self {
        Self {
            target: Target::new(),
            nvrtc,
            stream: Arc::clone(stream),
            functions: RefCell::default(),
            wanted: RefCell::default(),
            info: RefCell::default(),
        }
    }

    /// Runs `body`, whose launches are not made, and compiles every kernel that they would need and that is not there.
    ///
    /// # Errors
    /// Those of `body`; [`BurnError::Compiler`]; the driver's.
    pub(super) fn prepare(&self, body: impl FnOnce() -> Result<(), BurnError>) -> Result<(), BurnError> {
        *self.wanted.borrow_mut() = Some(BTreeMap::new());
        let result = body();
        let wanted = self.wanted.borrow_mut().take().unwrap_or_default();
        result?;
        let (nvrtc, target) = (&self.nvrtc, &self.target);
        let codes: Vec<_> = wanted
            .into_iter()
            .collect::<Vec<_>>()
            .into_par_iter()
            .map(|(key, (make, units))| Ok((key, make(nvrtc, target)?, units)))
            .collect::<Result<_, BurnError>>()?;
        for (key, code, units) in codes {
            self.load(key, &code, units)?;
        }
        Ok(())
    }

    /// Whether launches are not made now.
    pub(super) fn preparing(&self) -> bool {
        self.wanted.borrow().is_some()
    }

    fn load(&self, key: u64, code: &Code, units: u32) -> Result<(), BurnError> {
        self.stream.context().bind_to_thread().map_err(classify("make the context current"))?;
        let symbol = CString::new(code.entry.as_str()).map_err(|e| BurnError::Compiler { reason: e.to_string() })?;
        // SAFETY: the image is complete machine code, as NVRTC made it.
        let module = unsafe { result::module::load_data(code.machine.as_ptr().cast()) }.map_err(classify("load a kernel"))?;
        // SAFETY: the module was loaded just now.
        let function = unsafe { result::module::get_function(module, symbol) }.map_err(classify("find a kernel"))?;
        let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let shared = code.shared_bytes.min(SHARED_BYTES);
        // SAFETY: the function is of a loaded module.
        unsafe { sys::cuFuncSetAttribute(function, most, i32::try_from(shared).unwrap_or(i32::MAX)) }
            .result()
            .map_err(classify("allow a kernel its shared memory"))?;
        let shared_bytes = u32::try_from(shared).unwrap_or(u32::MAX);
        let function = Function { module, function, name: code.entry.clone(), shared_bytes, units, launches: Cell::new(0) };
        self.functions.borrow_mut().insert(key, function);
        Ok(())
    }

    /// Launches of each kernel so far, by name; those captured into a graph count once.
    pub(super) fn launches(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for function in self.functions.borrow().values() {
            *all.entry(function.name.clone()).or_default() += function.launches.get();
        }
        all
    }

    /// Kernels that were compiled or taken from the folder.
    pub(super) fn count(&self) -> usize {
        self.functions.borrow().len()
    }

    /// Puts a kernel on the stream, in cubes of `units`. `settings` is all that its text depends on beside its type.
    ///
    /// # Safety
    /// `args` are the parameters of this kernel, in their order, and its buffers are on the stream's device, large enough, and
    /// stay until it has run.
    pub(super) unsafe fn launch<K: CubeKernel>(
        &self,
        kernel: impl FnOnce(&Target) -> K,
        settings: impl Hash,
        units: u32,
        cubes: [usize; 3],
        args: &[Arg],
    ) -> Result<(), BurnError> {
        let mut hasher = DefaultHasher::new();
        (TypeId::of::<K>(), units).hash(&mut hasher);
        settings.hash(&mut hasher);
        let key = hasher.finish();
        if let Some(wanted) = self.wanted.borrow_mut().as_mut() {
            if !self.functions.borrow().contains_key(&key) && !wanted.contains_key(&key) {
                let kernel = kernel(&self.target);
                wanted.insert(key, (Box::new(move |nvrtc, target| nvrtc.code(target, &kernel)), units));
            }
            return Ok(());
        }
        if !self.functions.borrow().contains_key(&key) {
            let code = self.nvrtc.code(&self.target, &kernel(&self.target))?;
            self.load(key, &code, units)?;
        }
        let functions = self.functions.borrow();
        let Some(function) = functions.get(&key) else {
            return Err(BurnError::Compiler { reason: "a kernel is not there after it was loaded".to_owned() });
        };
        let mut pointers = Vec::with_capacity(args.len());
        let mut info = self.info.borrow_mut();
        for arg in args {
            match arg {
                Arg::Buffer(region) => {
                    pointers.push(region.address());
                    info.metadata.register_buffer(0, AddressType::U32);
                }
                Arg::U32(value) => push(&mut info, *value),
                Arg::F32(value) => push(&mut info, *value),
            }
        }
        let info = info.finish(AddressType::U32);
        let mut parameters: Vec<*mut c_void> = pointers.iter_mut().map(|p| std::ptr::from_mut(p).cast()).collect();
        parameters.push(info.data.as_ptr().cast_mut().cast());
        self.stream.context().bind_to_thread().map_err(classify("make the context current"))?;
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let narrow =
            |value: usize| u32::try_from(value).map_err(|_| CudaError::Shape { what: "a grid", found: value, expected: u32::MAX as usize });
        let config = sys::CUlaunchConfig {
            gridDimX: narrow(cubes[0])?,
            gridDimY: narrow(cubes[1])?,
            gridDimZ: narrow(cubes[2])?,
            blockDimX: function.units,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: function.shared_bytes,
            hStream: self.stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        // SAFETY: the configuration and the parameters live until the call returns, which copies them; the rest is the caller's.
        unsafe { sys::cuLaunchKernelEx(&raw const config, function.function, parameters.as_mut_ptr(), std::ptr::null_mut()) }
            .result()
            .map_err(classify("launch a kernel"))?;
        function.launches.set(function.launches.get() + 1);
        Ok(())
    }
}

fn push<T: ScalarArgType>(info: &mut InfoBuilder, value: T) {
    info.scalars.push(value);
}

impl Drop for Kernels {
    fn drop(&mut self) {
        if self.stream.context().bind_to_thread().is_err() {
            return;
        }
        for function in self.functions.borrow().values() {
            // SAFETY: nothing else holds the module, and unloading waits for its kernels; a lost context has none any more.
            let _ = unsafe { result::module::unload(function.module) };
        }
    }
}
