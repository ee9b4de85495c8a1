//! From a CubeCL kernel to machine code: CubeCL writes CUDA C++, NVRTC compiles it, a folder keeps the result.
//!
//! CubeCL's text of a kernel differs from run to run in the order of its declarations, so what is kept goes by what decides it:
//! this crate's kernels, the compilers' versions, and CubeCL's name of the kernel with all that is fixed when it is compiled.
//!
//! CubeCL's own CUDA runtime does the same and more, but its crate does not build with the features of cudarc that candle
//! demands, and one program has both.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cubecl::{
    Compiler, define_kernel,
    ir::{
        AddressType, ContiguousElements, DeviceIdentity, DeviceProperties, HardwareProperties, MemoryDeviceProperties, MmaProperties,
        TargetProperties, VectorSize,
        features::Plane,
        settings::{ExecutionMode, KernelSettings},
    },
    prelude::{CubeDim, CubeKernel, KernelId},
};
use cubecl_cpp::{
    cuda::mma::manual::contiguous_elements_cuda,
    register_supported_types,
    shared::{CompilationOptions, CppCompiler, CppSupportedFeatures},
    target::Cuda,
};
use cudarc::nvrtc::{result as nvrtc, sys};

use crate::BurnError;

/// A kernel in CUDA C++.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) entry: String,
    pub(super) text: String,
    pub(super) shared_bytes: usize,
}

/// A kernel as the driver loads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) entry: String,
    pub(super) shared_bytes: usize,
    pub(super) machine: Vec<u8>,
}

/// What CubeCL has to know of the device that it writes for.
pub(super) struct Target {
    pub(super) device: Arc<DeviceProperties>,
    pub(super) runtime: Arc<TargetProperties>,
    options: CompilationOptions,
}

impl Target {
    /// Compute capability 9.0, with the features that these kernels use.
    pub(super) fn new() -> Self {
        let hardware = HardwareProperties {
            load_width: 128,
            vector_register_count: None,
            plane_size_min: 32,
            plane_size_max: 32,
            max_bindings: 1024,
            max_shared_memory_size: SHARED_BYTES,
            max_cube_count: (i32::MAX.cast_unsigned(), 65535, 65535),
            max_units_per_cube: 1024,
            max_cube_dim: (1024, 1024, 64),
            num_streaming_multiprocessors: None,
            num_tensor_cores: Some(4),
            min_tensor_cores_dim: Some(8),
            num_cpu_cores: None,
            last_level_cache_size: None,
            max_vector_size: VectorSize::MAX,
            cube_mma_reserved_shared_memory: 0,
        };
        let identity = DeviceIdentity { name: "CUDA".to_owned(), fingerprint: "ptx_sm90".to_owned(), physical: None };
        let memory = MemoryDeviceProperties::new(1 << 32, 512);
        let mut device = DeviceProperties::new(Default::default(), memory, hardware, cubecl::profile::TimingMethod::Device, identity);
        register_supported_types(&mut device);
        device.features.memory_reinterpret = true;
        device.features.alignment = true;
        device.features.copy_async = true;
        device.features.device_memory_scope = true;
        device.features.plane.insert(Plane::Ops);
        device.features.plane.insert(Plane::Sync);
        device.features.plane.insert(Plane::NonUniformControlFlow);
        let runtime = TargetProperties {
            mma: MmaProperties {
                register_size_bits: 32,
                const_plane_size: 32,
                register_layout_a: cubecl::cmma::MatrixLayout::RowMajor,
                register_layout_b: cubecl::cmma::MatrixLayout::ColMajor,
                register_layout_acc: cubecl::cmma::MatrixLayout::RowMajor,
                register_duplication_a: 1,
                register_duplication_b: 1,
                register_duplication_acc: 1,
                contiguous_elements: ContiguousElements::new(contiguous_elements_cuda),
            },
        };
        let supports_features = CppSupportedFeatures { grid_constants: true, ..Default::default() };
        let options = CompilationOptions { supports_features, ..Default::default() };
        Self { device: Arc::new(device), runtime: Arc::new(runtime), options }
    }

    /// Settings of a kernel whose cubes have so many units.
    pub(super) fn settings(units: u32) -> KernelSettings {
        KernelSettings::new(CubeDim::new_1d(units).into(), ExecutionMode::Unchecked, AddressType::U32)
    }

    /// Writes a kernel in CUDA C++.
    pub(super) fn source<K: CubeKernel>(&self, kernel: &K) -> Result<Source, BurnError> {
        let failed = |e: cubecl::CompilationError| BurnError::Compiler { reason: format!("CubeCL: {e}") };
        let definition = define_kernel(kernel).map_err(failed)?;
        let entry = definition.settings.kernel_name.clone();
        let compiled = CppCompiler::<Cuda>::default().compile(definition, &self.options).map_err(failed)?;
        Ok(Source { entry, shared_bytes: compiled.shared_memory_size, text: compiled.source })
    }
}

/// Shared memory that a cube can have.
pub(super) const SHARED_BYTES: usize = 227 * 1024;

/// NVRTC and where CUDA's headers are.
#[derive(Clone, Debug)]
pub(super) struct Nvrtc {
    include: PathBuf,
    /// Where machine code is kept between processes.
    folder: Option<PathBuf>,
}

impl Nvrtc {
    /// # Errors
    /// [`BurnError::Compiler`] when CUDA's headers are not there.
    pub(super) fn new(home: Option<&Path>, folder: Option<&Path>) -> Result<Self, BurnError> {
        let homes: Vec<_> = home.map_or_else(|| HOMES.iter().map(PathBuf::from).collect(), |home| vec![home.to_owned()]);
        let include = homes.iter().map(|home| home.join("include")).find(|include| include.join("cuda_fp16.h").is_file());
        let Some(include) = include else {
            let reason = format!("CUDA's headers are needed at run time, and there is no include/cuda_fp16.h in {homes:?}");
            return Err(BurnError::Compiler { reason });
        };
        Ok(Self { include, folder: folder.map(|folder| folder.join("burn-cuda")) })
    }

    /// The compiler's version.
    pub(super) fn version() -> Result<String, BurnError> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both places are live integers.
        match unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) }.result() {
            Ok(()) => Ok(format!("{major}.{minor}")),
            Err(e) => Err(BurnError::Compiler { reason: format!("libnvrtc.so.13 does not answer: {e:?}") }),
        }
    }

    /// A kernel's machine code: made by this process before, by an earlier one, or now.
    pub(super) fn code<K: CubeKernel>(&self, target: &Target, kernel: &K) -> Result<Arc<Code>, BurnError> {
        let id = kernel.id();
        let known = |id: &KernelId| KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().get(id).map(Arc::clone);
        if let Some(code) = known(&id) {
            return Ok(code);
        }
        let key = blake3::hash(format!("{KERNELS}\0{}\0{ARCHITECTURE}\0{}", Self::version()?, id.stable_format()).as_bytes()).to_hex();
        let file = self.folder.as_ref().map(|folder| folder.join(format!("{}.cubin", &key[..32])));
        let code = match file.as_deref().and_then(kept) {
            Some(code) => code,
            None => {
                let source = target.source(kernel)?;
                let machine = self.compile(&source)?;
                let code = Code { entry: source.entry, shared_bytes: source.shared_bytes, machine };
                if let Some(file) = &file {
                    keep(file, &code).map_err(|e| BurnError::Compiler { reason: format!("{}: {e}", file.display()) })?;
                }
                code
            }
        };
        let code = Arc::new(code);
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(id, Arc::clone(&code));
        Ok(code)
    }

    pub(super) fn compile(&self, source: &Source) -> Result<Vec<u8>, BurnError> {
        let failed = |reason: String| BurnError::Compiler { reason: format!("NVRTC on {}: {reason}", source.entry) };
        let text = CString::new(source.text.as_str()).map_err(|e| failed(e.to_string()))?;
        let program = Program(nvrtc::create_program(&text, None).map_err(|e| failed(format!("{e:?}")))?);
        let include = self.include.display();
        let options = [
            format!("--gpu-architecture={ARCHITECTURE}"),
            format!("--include-path={include}"),
            format!("--include-path={include}/cccl"),
            "-lineinfo".to_owned(),
        ];
        // SAFETY: the program is alive.
        if let Err(e) = unsafe { nvrtc::compile_program(program.0, &options) } {
            // SAFETY: as above.
            let log = unsafe { nvrtc::get_program_log(program.0) }.unwrap_or_default();
            let log: Vec<u8> = log.iter().map(|c| c.cast_unsigned()).collect();
            let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
            return Err(failed(format!("{e:?}: {log}")));
        }
        let mut size = 0;
        // SAFETY: the program is alive and compiled, and the place for the answer is live.
        unsafe { sys::nvrtcGetCUBINSize(program.0, &raw mut size) }.result().map_err(|e| failed(format!("{e:?}")))?;
        let mut code = vec![0u8; size];
        // SAFETY: the buffer has the size that was told.
        unsafe { sys::nvrtcGetCUBIN(program.0, code.as_mut_ptr().cast()) }.result().map_err(|e| failed(format!("{e:?}")))?;
        Ok(code)
    }
}

struct Program(sys::nvrtcProgram);

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: owned, and destroyed once; whether that worked changes nothing.
        let _ = unsafe { nvrtc::destroy_program(self.0) };
    }
}

/// What an earlier process made, if it is whole.
pub(super) fn kept(file: &Path) -> Option<Code> {
    let bytes = fs::read(file).ok()?;
    let (hash, rest) = bytes.split_at_checked(blake3::OUT_LEN)?;
    if blake3::hash(rest).as_bytes() != hash {
        return None;
    }
    let (shared, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let number = |bytes: &[u8; 4]| usize::try_from(u32::from_le_bytes(*bytes)).ok();
    let (entry, machine) = rest.split_at_checked(number(len)?)?;
    Some(Code { entry: String::from_utf8(entry.to_vec()).ok()?, shared_bytes: number(shared)?, machine: machine.to_vec() })
}

/// Writes a digest, the shared memory's size, the entry's length, the entry and the machine code.
pub(super) fn keep(file: &Path, code: &Code) -> std::io::Result<()> {
    let Code { entry, shared_bytes, machine } = code;
    let number = |number: usize| u32::try_from(number).map(u32::to_le_bytes).map_err(std::io::Error::other);
    let rest = [&number(*shared_bytes)?[..], &number(entry.len())?, entry.as_bytes(), machine].concat();
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut unfinished = tempfile::NamedTempFile::new_in(folder)?;
    std::io::Write::write_all(&mut unfinished, blake3::hash(&rest).as_bytes())?;
    std::io::Write::write_all(&mut unfinished, &rest)?;
    unfinished.persist(file).map_err(|e| e.error)?;
    Ok(())
}

/// Machine code of this process's models.
static KNOWN: Mutex<Option<HashMap<KernelId, Arc<Code>>>> = Mutex::new(None);

/// Digest of this crate's kernels, and the version of the compiler that writes them in CUDA C++.
const KERNELS: &str = concat!(env!("PHASE_KERNELS"), " ", env!("PHASE_CUBECL"));

const ARCHITECTURE: &str = "sm_90a";

/// Where CUDA is installed.
const HOMES: [&str; 2] = ["/usr/local/cuda", "/opt/cuda"];
