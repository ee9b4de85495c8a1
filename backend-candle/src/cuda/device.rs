//! One CUDA device: candle's context, stream, allocator and cuBLAS handle, and memory on it.

use std::sync::Arc;

use candle_core::{
    CudaDevice,
    cuda_backend::cudarc::{
        cublas::{CudaBlas, result::gemm_ex, sys as blas},
        driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DriverError, PinnedHostSlice, result, sys},
    },
};
use phase_capture::together;
use phase_kernels::cuda::{CudaError, Format, Region, classify, device_uuid, driver};

use super::lt::Lt;
use crate::{CandleError, Products};

/// A device that a model runs on, with a stream of the model's own.
pub(crate) struct Gpu {
    pub(super) stream: Arc<CudaStream>,
    blas: Arc<CudaBlas>,
    /// What cuBLAS works in, if it has been given anything. After the handle, which goes first.
    workspace: Option<Buffer>,
    /// Takes all products where it is there.
    pub(super) lt: Option<Lt>,
    /// The device's name and its UUID.
    pub(super) label: String,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu").field("label", &self.label).finish_non_exhaustive()
    }
}

/// Memory on a device, freed in the order of its stream.
#[derive(Debug)]
pub(crate) struct Buffer {
    #[expect(dead_code, reason = "owns what the region describes")]
    slice: Option<CudaSlice<u8>>,
    region: Region,
}

impl Buffer {
    pub(crate) const fn region(&self) -> Region {
        self.region
    }
}

/// Memory of the host that the device copies from and to by itself.
pub(super) struct Pinned(PinnedHostSlice<u8>);

impl std::fmt::Debug for Pinned {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pinned").field(&self.0.len()).finish()
    }
}

impl Pinned {
    pub(super) fn bytes(&mut self) -> Result<&mut [u8], CandleError> {
        Ok(self.0.as_mut_slice().map_err(classify("use pinned memory"))?)
    }
}

impl Gpu {
    /// Opens a device, after a look at whether there is a driver.
    pub(crate) fn open(ordinal: usize) -> Result<Self, CandleError> {
        let _together = together();
        let context = context(ordinal)?;
        // A context that another user broke stays broken: said here, in the driver's words, before a library meets it.
        context.synchronize().map_err(classify("use the device"))?;
        let label = label(&context)?;
        let candle = CudaDevice::new_with_stream(ordinal).map_err(CandleError::candle("open the CUDA device"))?;
        // SAFETY: all of a model's work is on this one stream, so that nothing needs an event to be in order.
        unsafe { candle.disable_event_tracking() };
        Ok(Self { stream: candle.cuda_stream(), blas: candle.cublas_handle(), workspace: None, lt: None, label })
    }

    /// Lets products be done in this way, in memory of so many bytes; 0 is cuBLAS's own choice, and none for cublasLt.
    pub(crate) fn with_products(mut self, products: Products, bytes: usize) -> Result<Self, CandleError> {
        let _together = together();
        if products == Products::Fastest {
            self.lt = Some(Lt::new(&self, bytes)?);
        } else if bytes > 0 {
            let workspace = self.buffer("cuBLAS's workspace", bytes)?;
            self.bind()?;
            // SAFETY: the memory is this handle's alone, stays as long as it, and all of the handle's work is on this one stream.
            let status = unsafe { blas::cublasSetWorkspace_v2(*self.blas.handle(), workspace.region().address() as *mut _, bytes) };
            status.result().map_err(|e| CandleError::Candle { action: "give cuBLAS memory", source: format!("{:?}", e.0).into() })?;
            self.workspace = Some(workspace);
        }
        Ok(self)
    }

    /// Memory with anything in it. `what` is for the message when there is not enough.
    pub(crate) fn buffer(&self, what: &'static str, bytes: usize) -> Result<Buffer, CandleError> {
        if bytes == 0 {
            return Ok(Buffer { slice: None, region: Region::new(0, 0) });
        }
        // SAFETY: nothing reads the memory before a copy or a kernel has written it.
        let slice = match unsafe { self.stream.alloc::<u8>(bytes) } {
            Ok(slice) => slice,
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, _) = self.stream.context().mem_get_info().map_err(classify("ask for free memory"))?;
                return Err(CandleError::OutOfMemory { what, needed_bytes: bytes as u64, available_bytes: free as u64 });
            }
            Err(e) => return Err(classify("allocate memory")(e).into()),
        };
        let region = Region::new(address(&slice, &self.stream), bytes);
        Ok(Buffer { slice: Some(slice), region })
    }

    /// Memory with zeros in it.
    pub(crate) fn zeros(&self, what: &'static str, bytes: usize) -> Result<Buffer, CandleError> {
        let buffer = self.buffer(what, bytes)?;
        if bytes > 0 {
            // SAFETY: the memory is this buffer's, all of it.
            unsafe { result::memset_d8_async(buffer.region.address(), 0, bytes, self.stream.cu_stream()) }
                .map_err(classify("clear memory"))?;
        }
        Ok(buffer)
    }

    pub(super) fn pinned(&self, bytes: usize) -> Result<Pinned, CandleError> {
        // SAFETY: every byte is written before it is read.
        let slice = unsafe { self.stream.context().alloc_pinned_with_flags::<u8>(bytes.max(1), 0) };
        Ok(Pinned(slice.map_err(classify("allocate pinned memory"))?))
    }

    /// Copies to the device; with pinned memory the call returns before it is done.
    pub(super) fn upload(&self, from: &[u8], to: Region) -> Result<(), CandleError> {
        if from.len() > to.bytes() {
            return Err(CudaError::Shape { what: "a copy to the device", found: from.len(), expected: to.bytes() }.into());
        }
        self.bind()?;
        // SAFETY: the destination is long enough, and callers keep pinned sources until the stream has passed this copy.
        unsafe { result::memcpy_htod_async(to.address(), from, self.stream.cu_stream()) }.map_err(classify("copy to the device"))?;
        Ok(())
    }

    /// Copies from the device; with pinned memory the call returns before it is done.
    pub(super) fn download<T: bytemuck::Pod>(&self, from: Region, to: &mut [T]) -> Result<(), CandleError> {
        if size_of_val(to) > from.bytes() {
            return Err(CudaError::Shape { what: "a copy from the device", found: size_of_val(to), expected: from.bytes() }.into());
        }
        self.bind()?;
        // SAFETY: the source is long enough, and any bytes are a `T`; callers wait for the stream before they read.
        unsafe { result::memcpy_dtoh_async(to, from.address(), self.stream.cu_stream()) }.map_err(classify("copy from the device"))?;
        Ok(())
    }

    /// Makes the device's context this thread's.
    pub(super) fn bind(&self) -> Result<(), CandleError> {
        Ok(self.stream.context().bind_to_thread().map_err(classify("make the context current"))?)
    }

    /// Waits until the stream has done everything.
    pub(super) fn wait(&self) -> Result<(), CandleError> {
        Ok(self.stream.synchronize().map_err(classify("wait for the device"))?)
    }

    /// An event that takes times.
    pub(super) fn event(&self) -> Result<CudaEvent, CandleError> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok(self.stream.context().new_event(flags).map_err(classify("make an event"))?)
    }

    pub(super) fn record(&self, event: &CudaEvent) -> Result<(), CandleError> {
        Ok(event.record(&self.stream).map_err(classify("record an event"))?)
    }

    /// `out = x · weightsᵀ`, or `out += ..`, by cuBLAS or cublasLt: `x` is `[rows, k]`, `weights` `[n, k]`, `out` `[rows, n]` in `to`.
    /// Sums are f32; f32 inputs are not rounded to TF32.
    pub(super) fn matmul(&self, product: &Product, format: Format) -> Result<(), CandleError> {
        let Product { weights, x, out, rows, n, k, to, accumulate } = *product;
        let fits = |what, region: Region, elements: usize, format: Format| {
            let bytes = elements * format.size_bytes();
            if region.bytes() < bytes { Err(CudaError::Shape { what, found: region.bytes(), expected: bytes }) } else { Ok(()) }
        };
        fits("weights", weights, n * k, format)?;
        fits("x", x, rows * k, format)?;
        fits("out", out, rows * n, to)?;
        if let Some(lt) = &self.lt {
            return lt.matmul(self, product, format);
        }
        self.bind()?;
        let dimension = |value: usize| {
            i32::try_from(value).map_err(|_| CudaError::Shape { what: "a matrix", found: value, expected: i32::MAX as usize })
        };
        let (alpha, beta) = (1.0f32, if accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: cuBLAS reads columns, so this is outᵀ = weights · xᵀ; all three matrices lie inside their regions.
        let status = unsafe {
            gemm_ex(
                *self.blas.handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                dimension(n)?,
                dimension(rows)?,
                dimension(k)?,
                (&raw const alpha).cast(),
                weights.address() as *const _,
                data_type(format),
                dimension(k)?,
                x.address() as *const _,
                data_type(format),
                dimension(k)?,
                (&raw const beta).cast(),
                out.address() as *mut _,
                data_type(to),
                dimension(n)?,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        };
        status.map_err(|e| CandleError::Candle { action: "multiply with cuBLAS", source: format!("{:?}", e.0).into() })
    }
}

/// One product of cuBLAS.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    pub(super) weights: Region,
    pub(super) x: Region,
    pub(super) out: Region,
    pub(super) rows: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) to: Format,
    pub(super) accumulate: bool,
}

/// The context of a device that exists and that the kernels run on.
pub(super) fn context(ordinal: usize) -> Result<Arc<CudaContext>, CandleError> {
    let found = driver()?;
    if ordinal >= found.devices {
        return Err(CandleError::NoDevice { ordinal, devices: found.devices });
    }
    let context = CudaContext::new(ordinal).map_err(classify("open the CUDA device"))?;
    let capability = context.compute_capability().map_err(classify("ask for the compute capability"))?;
    if capability < (9, 0) {
        let reason = format!("CUDA device {ordinal} has compute capability {}.{}, and the kernels need 9.0", capability.0, capability.1);
        return Err(CudaError::Unavailable { reason }.into());
    }
    Ok(context)
}

/// Name and UUID, for example `NVIDIA H100 80GB HBM3 (GPU-01234567-...)`.
fn label(context: &CudaContext) -> Result<String, CandleError> {
    let name = context.name().map_err(classify("ask for the device's name"))?;
    Ok(format!("{name} ({})", device_uuid(context)?))
}

fn address(slice: &CudaSlice<u8>, stream: &CudaStream) -> u64 {
    use candle_core::cuda_backend::cudarc::driver::DevicePtr;
    slice.device_ptr(stream).0
}

const fn data_type(format: Format) -> blas::cudaDataType {
    match format {
        Format::F32 => blas::cudaDataType::CUDA_R_32F,
        Format::F16 => blas::cudaDataType::CUDA_R_16F,
        Format::Bf16 => blas::cudaDataType::CUDA_R_16BF,
    }
}
