//! One CUDA device: a stream of the model's own, and memory on it.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaEvent, CudaSlice, CudaStream, DevicePtr, DriverError, PinnedHostSlice, result, sys};
use phase_capture::together;
use phase_kernels::cuda::{CudaError, Region, classify, device_uuid, driver};

use crate::BurnError;

/// A device that a model runs on, with a stream of the model's own.
pub(crate) struct Gpu {
    pub(super) stream: Arc<CudaStream>,
    pub(super) processors: usize,
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
    pub(super) fn bytes(&mut self) -> Result<&mut [u8], BurnError> {
        Ok(self.0.as_mut_slice().map_err(classify("use pinned memory"))?)
    }
}

impl Gpu {
    /// Opens a device, after a look at whether there is a driver.
    pub(crate) fn open(ordinal: usize) -> Result<Self, BurnError> {
        let _together = together();
        let context = context(ordinal)?;
        let label = label(&context)?;
        let count = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let processors = context.attribute(count).map_err(classify("ask for the number of multiprocessors"))?;
        // SAFETY: all of a model's work is on one stream, so that nothing needs an event to be in order.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(classify("make a stream"))?;
        Ok(Self { stream, processors: usize::try_from(processors).unwrap_or(1).max(1), label })
    }

    /// Memory with anything in it. `what` is for the message when there is not enough.
    pub(crate) fn buffer(&self, what: &'static str, bytes: usize) -> Result<Buffer, BurnError> {
        if bytes == 0 {
            return Ok(Buffer { slice: None, region: Region::new(0, 0) });
        }
        // SAFETY: nothing reads the memory before a copy or a kernel has written it.
        let slice = match unsafe { self.stream.alloc::<u8>(bytes) } {
            Ok(slice) => slice,
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let (free, _) = self.stream.context().mem_get_info().map_err(classify("ask for free memory"))?;
                return Err(BurnError::DeviceMemory { what, needed_bytes: bytes as u64, available_bytes: free as u64 });
            }
            Err(e) => return Err(classify("allocate memory")(e).into()),
        };
        let region = Region::new(slice.device_ptr(&self.stream).0, bytes);
        Ok(Buffer { slice: Some(slice), region })
    }

    /// Memory with zeros in it.
    pub(crate) fn zeros(&self, what: &'static str, bytes: usize) -> Result<Buffer, BurnError> {
        let buffer = self.buffer(what, bytes)?;
        if bytes > 0 {
            // SAFETY: the memory is this buffer's, all of it.
            unsafe { result::memset_d8_async(buffer.region.address(), 0, bytes, self.stream.cu_stream()) }
                .map_err(classify("clear memory"))?;
        }
        Ok(buffer)
    }

    pub(super) fn pinned(&self, bytes: usize) -> Result<Pinned, BurnError> {
        // SAFETY: every byte is written before it is read.
        let slice = unsafe { self.stream.context().alloc_pinned_with_flags::<u8>(bytes.max(1), 0) };
        Ok(Pinned(slice.map_err(classify("allocate pinned memory"))?))
    }

    /// Copies to the device; with pinned memory the call returns before it is done.
    pub(super) fn upload(&self, from: &[u8], to: Region) -> Result<(), BurnError> {
        if from.len() > to.bytes() {
            return Err(CudaError::Shape { what: "a copy to the device", found: from.len(), expected: to.bytes() }.into());
        }
        self.bind()?;
        // SAFETY: the destination is long enough, and callers keep pinned sources until the stream has passed this copy.
        unsafe { result::memcpy_htod_async(to.address(), from, self.stream.cu_stream()) }.map_err(classify("copy to the device"))?;
        Ok(())
    }

    /// Copies from the device; with pinned memory the call returns before it is done.
    pub(super) fn download<T: bytemuck::Pod>(&self, from: Region, to: &mut [T]) -> Result<(), BurnError> {
        if size_of_val(to) > from.bytes() {
            return Err(CudaError::Shape { what: "a copy from the device", found: size_of_val(to), expected: from.bytes() }.into());
        }
        self.bind()?;
        // SAFETY: the source is long enough, and any bytes are a `T`; callers wait for the stream before they read.
        unsafe { result::memcpy_dtoh_async(to, from.address(), self.stream.cu_stream()) }.map_err(classify("copy from the device"))?;
        Ok(())
    }

    /// Makes the device's context this thread's.
    pub(super) fn bind(&self) -> Result<(), BurnError> {
        Ok(self.stream.context().bind_to_thread().map_err(classify("make the context current"))?)
    }

    /// Waits until the stream has done everything.
    pub(super) fn wait(&self) -> Result<(), BurnError> {
        Ok(self.stream.synchronize().map_err(classify("wait for the device"))?)
    }

    /// An event that takes times.
    pub(super) fn event(&self) -> Result<CudaEvent, BurnError> {
        let flags = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        Ok(self.stream.context().new_event(flags).map_err(classify("make an event"))?)
    }

    pub(super) fn record(&self, event: &CudaEvent) -> Result<(), BurnError> {
        Ok(event.record(&self.stream).map_err(classify("record an event"))?)
    }
}

/// The context of a device that exists and that the kernels run on.
pub(super) fn context(ordinal: usize) -> Result<Arc<CudaContext>, BurnError> {
    let found = driver()?;
    if ordinal >= found.devices {
        return Err(BurnError::NoDevice { ordinal, devices: found.devices });
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
fn label(context: &CudaContext) -> Result<String, BurnError> {
    let name = context.name().map_err(classify("ask for the device's name"))?;
    Ok(format!("{name} ({})", device_uuid(context)?))
}
