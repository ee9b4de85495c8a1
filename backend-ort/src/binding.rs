//! Memory that ONNX Runtime works on in place, and bindings of graph inputs and outputs to parts of it.
//!
//! `ort`'s own bindings copy borrowed tensors and allocate on every call; here keys and values stay where they are, rows of
//! a batch are views, and scores are written straight into the caller's buffer.

use crate::error::OrtError;
use ort::{
    AsPointer, Error,
    session::{Session, SharedSessionInner},
    sys,
};
use phase_core::available_memory_bytes;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc},
    ffi::{CStr, CString, c_void},
    fmt,
    marker::PhantomData,
    ptr::{NonNull, null, null_mut},
    sync::Arc,
};

/// An element type of tensors.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    const TYPE: sys::ONNXTensorElementDataType;
}

impl Element for f32 {
    const TYPE: sys::ONNXTensorElementDataType = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

impl Element for i32 {
    const TYPE: sys::ONNXTensorElementDataType = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

impl Element for i64 {
    const TYPE: sys::ONNXTensorElementDataType = sys::ONNXTensorElementDataType::ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;
}

/// Zeroed memory of a fixed size that ONNX Runtime reads and writes.
pub(crate) struct Memory<T> {
    start: NonNull<T>,
    len: usize,
}

// SAFETY: the memory is owned, and elements are plain numbers.
unsafe impl<T: Element> Send for Memory<T> {}

impl<T: Element> Memory<T> {
    /// Cache lines, and the widest vector registers.
    const ALIGN: usize = 64;

    pub(crate) fn new(len: usize) -> Result<Self, OrtError> {
        let bytes = len.max(1).saturating_mul(size_of::<T>());
        let none = || OrtError::OutOfMemory { bytes };
        let layout = Layout::from_size_align(bytes, Self::ALIGN).map_err(|_| none())?;
        // SAFETY: the size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        Ok(Self { start: NonNull::new(start.cast()).ok_or_else(none)?, len })
    }

    /// `count` pieces of `len` elements each, every page of which exists: no call that is timed pays for it.
    pub(crate) fn touched(count: usize, len: usize) -> Result<Vec<Self>, OrtError>
    where
        T: Default,
    {
        let bytes = count.saturating_mul(len).saturating_mul(size_of::<T>());
        if available_memory_bytes().is_some_and(|available| bytes as u64 > available) {
            return Err(OrtError::OutOfMemory { bytes });
        }
        (0..count).map(|_| Ok(Self::new(len)?.touch())).collect()
    }

    fn touch(mut self) -> Self
    where
        T: Default,
    {
        const PAGE_BYTES: usize = 4096;
        for first in self.as_mut_slice().iter_mut().step_by(PAGE_BYTES / size_of::<T>()) {
            // The zero is already there, so only a black box keeps the write.
            *std::hint::black_box(first) = T::default();
        }
        self
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: zeroed plain numbers of this length, borrowed exclusively; ONNX Runtime touches them in `run` only.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let layout = Layout::from_size_align(self.len.max(1) * size_of::<T>(), 64);
        if let Ok(layout) = layout {
            // SAFETY: allocated in `new` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), layout) };
        }
    }
}

impl<T> fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} elements)", self.len)
    }
}

/// Memory of a device, or of the host, that someone else owns.
#[cfg(feature = "cuda")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Where it starts.
    pub(crate) start: u64,
    /// How long it is.
    pub(crate) bytes: usize,
    /// The CUDA device's number.
    pub(crate) device: u32,
}

/// A tensor over memory that someone else owns.
struct Tensor<'a> {
    value: NonNull<sys::OrtValue>,
    memory: PhantomData<&'a ()>,
}

impl<'a> Tensor<'a> {
    /// # Safety
    /// `start` points to as many elements as the shape has, and they outlive `'a`.
    unsafe fn new<T: Element>(start: *mut T, shape: &[i64]) -> Result<Self, OrtError> {
        let elements = shape.iter().product::<i64>();
        let bytes = usize::try_from(elements).unwrap_or(0) * size_of::<T>();
        // SAFETY: the caller vouches for the elements.
        unsafe { Self::over(&MemoryInfo::cpu()?, start.cast(), bytes, shape, T::TYPE) }
    }

    /// # Safety
    /// As [`new`](Self::new), in the memory that `info` describes.
    unsafe fn over(
        info: &MemoryInfo,
        start: *mut c_void,
        bytes: usize,
        shape: &[i64],
        element: sys::ONNXTensorElementDataType,
    ) -> Result<Self, OrtError> {
        let mut value = null_mut();
        // SAFETY: the pointers are valid for the call, and the caller vouches for the elements.
        check("making a tensor", unsafe {
            (ort::api().CreateTensorWithDataAsOrtValue)(info.0, start, bytes, shape.as_ptr(), shape.len(), element, &raw mut value)
        })?;
        let value = NonNull::new(value).ok_or_else(|| nothing("making a tensor"))?;
        Ok(Self { value, memory: PhantomData })
    }
}

impl Drop for Tensor<'_> {
    fn drop(&mut self) {
        // SAFETY: owned, and released once.
        unsafe { (ort::api().ReleaseValue)(self.value.as_ptr()) };
    }
}

struct MemoryInfo(*mut sys::OrtMemoryInfo);

impl MemoryInfo {
    fn cpu() -> Result<Self, OrtError> {
        let mut info = null_mut();
        // SAFETY: the place for the answer is valid.
        check("describing host memory", unsafe {
            (ort::api().CreateCpuMemoryInfo)(sys::OrtAllocatorType::OrtDeviceAllocator, sys::OrtMemType::OrtMemTypeDefault, &raw mut info)
        })?;
        Ok(Self(info))
    }

    #[cfg(feature = "cuda")]
    fn cuda(device: u32) -> Result<Self, OrtError> {
        let mut info = null_mut();
        let device = i32::try_from(device).unwrap_or(i32::MAX);
        // SAFETY: the name is a string that ends in a zero, the place for the answer is valid.
        check("describing device memory", unsafe {
            (ort::api().CreateMemoryInfo)(
                c"Cuda".as_ptr(),
                sys::OrtAllocatorType::OrtDeviceAllocator,
                device,
                sys::OrtMemType::OrtMemTypeDefault,
                &raw mut info,
            )
        })?;
        Ok(Self(info))
    }
}

impl Drop for MemoryInfo {
    fn drop(&mut self) {
        // SAFETY: owned, and released once; null is allowed.
        unsafe { (ort::api().ReleaseMemoryInfo)(self.0) };
    }
}

/// Inputs and outputs of one session, bound to memory.
///
/// Whoever binds memory keeps it alive until it is bound to something else or the binding is dropped: see
/// [`input`](Self::input).
pub(crate) struct Binding {
    binding: NonNull<sys::OrtIoBinding>,
    /// A binding must not outlive its session.
    session: Arc<SharedSessionInner>,
}

// SAFETY: ONNX Runtime ties a binding to no thread, and `run` needs it exclusively.
unsafe impl Send for Binding {}

impl Binding {
    pub(crate) fn new(session: &Session) -> Result<Self, OrtError> {
        let session = session.inner();
        let mut binding = null_mut();
        // SAFETY: the session is alive, and the place for the answer is valid.
        check("making a binding", unsafe { (ort::api().CreateIoBinding)(session.ptr().cast_mut(), &raw mut binding) })?;
        let binding = NonNull::new(binding).ok_or_else(|| nothing("making a binding"))?;
        Ok(Self { binding, session })
    }

    /// Whether it was made for `session`. A model's session changes when its evidence is read.
    pub(crate) fn is_of(&self, session: &Session) -> bool {
        session.ptr() == self.session.ptr()
    }

    /// Binds an input to the part of `memory` that starts at element `at`.
    ///
    /// # Safety
    /// `memory` outlives this binding or its next call of `input` for the same name.
    pub(crate) unsafe fn input<T: Element>(&mut self, name: &CStr, memory: &Memory<T>, at: usize, shape: &[i64]) -> Result<(), OrtError> {
        let start = part(memory, at, shape);
        // SAFETY: `part` checked the range; the caller vouches for its life.
        let tensor = unsafe { Tensor::new(start, shape) }?;
        // SAFETY: all pointers are valid for the call; the binding takes a share of the tensor.
        check("binding an input", unsafe { (ort::api().BindInput)(self.binding.as_ptr(), name.as_ptr(), tensor.value.as_ptr()) })
    }

    /// Binds an output to the part of `memory` that starts at element `at`.
    ///
    /// # Safety
    /// As [`input`](Self::input).
    pub(crate) unsafe fn output<T: Element>(&mut self, name: &CStr, memory: &Memory<T>, at: usize, shape: &[i64]) -> Result<(), OrtError> {
        let start = part(memory, at, shape);
        // SAFETY: `part` checked the range; the caller vouches for its life.
        let tensor = unsafe { Tensor::new(start, shape) }?;
        self.bind_output(name, &tensor)
    }

    /// Binds an input to memory of a device.
    ///
    /// # Safety
    /// The memory holds a tensor of this shape and type, and outlives this binding or its next call for the same name.
    #[cfg(feature = "cuda")]
    pub(crate) unsafe fn input_on_device(
        &mut self,
        name: &CStr,
        place: Place,
        element: sys::ONNXTensorElementDataType,
        shape: &[i64],
    ) -> Result<(), OrtError> {
        let info = MemoryInfo::cuda(place.device)?;
        // SAFETY: the caller vouches for the memory.
        let tensor = unsafe { Tensor::over(&info, place.start as *mut c_void, place.bytes, shape, element) }?;
        // SAFETY: all pointers are valid for the call; the binding takes a share of the tensor.
        check("binding an input", unsafe { (ort::api().BindInput)(self.binding.as_ptr(), name.as_ptr(), tensor.value.as_ptr()) })
    }

    /// Binds an output to memory of a device.
    ///
    /// # Safety
    /// As [`input_on_device`](Self::input_on_device).
    #[cfg(feature = "cuda")]
    pub(crate) unsafe fn output_on_device(
        &mut self,
        name: &CStr,
        place: Place,
        element: sys::ONNXTensorElementDataType,
        shape: &[i64],
    ) -> Result<(), OrtError> {
        let info = MemoryInfo::cuda(place.device)?;
        // SAFETY: the caller vouches for the memory.
        let tensor = unsafe { Tensor::over(&info, place.start as *mut c_void, place.bytes, shape, element) }?;
        self.bind_output(name, &tensor)
    }

    /// Queues the graph's work on the session's stream and does not wait for it.
    #[cfg(feature = "cuda")]
    pub(crate) fn queue(&mut self, session: &mut Session, options: &RunOptions) -> Result<(), OrtError> {
        assert_eq!(session.ptr(), self.session.ptr(), "the binding belongs to this session");
        // SAFETY: session, binding and options are alive; everything is bound.
        check("running the graph", unsafe {
            (ort::api().RunWithBinding)(session.ptr().cast_mut(), options.0.as_ptr(), self.binding.as_ptr())
        })
    }

    fn bind_output(&mut self, name: &CStr, tensor: &Tensor<'_>) -> Result<(), OrtError> {
        // SAFETY: all pointers are valid for the call; the binding takes a share of the tensor.
        check("binding an output", unsafe { (ort::api().BindOutput)(self.binding.as_ptr(), name.as_ptr(), tensor.value.as_ptr()) })
    }

    /// Runs the graph, with the output `name` of this shape written to `out`.
    ///
    /// The session is borrowed exclusively, because ONNX Runtime's sessions are not to be run from two threads at once.
    pub(crate) fn run(&mut self, session: &mut Session, name: &CStr, out: &mut [f32], shape: &[i64]) -> Result<(), OrtError> {
        assert_eq!(shape.iter().product::<i64>(), i64::try_from(out.len()).unwrap_or(-1), "the shape is that of the buffer");
        assert!(self.is_of(session), "the binding belongs to this session");
        // SAFETY: checked above; `out` is borrowed until this returns, and the next run binds the output anew.
        let tensor = unsafe { Tensor::new(out.as_mut_ptr(), shape) }?;
        self.bind_output(name, &tensor)?;
        // SAFETY: session and binding are alive; default run options are asked for with null.
        check("running the graph", unsafe { (ort::api().RunWithBinding)(session.ptr().cast_mut(), null(), self.binding.as_ptr()) })
    }
}

/// Options of a run that returns before the device is done.
#[cfg(feature = "cuda")]
pub(crate) struct RunOptions(NonNull<sys::OrtRunOptions>);

// SAFETY: only read after they were made.
#[cfg(feature = "cuda")]
unsafe impl Send for RunOptions {}
// SAFETY: as above.
#[cfg(feature = "cuda")]
unsafe impl Sync for RunOptions {}

#[cfg(feature = "cuda")]
impl RunOptions {
    pub(crate) fn without_waiting() -> Result<Self, OrtError> {
        let mut options = null_mut();
        // SAFETY: the place for the answer is valid.
        check("making run options", unsafe { (ort::api().CreateRunOptions)(&raw mut options) })?;
        let options = Self(NonNull::new(options).ok_or_else(|| nothing("making run options"))?);
        let key = c"disable_synchronize_execution_providers";
        // SAFETY: the strings end in a zero.
        check("setting a run option", unsafe { (ort::api().AddRunConfigEntry)(options.0.as_ptr(), key.as_ptr(), c"1".as_ptr()) })?;
        Ok(options)
    }
}

#[cfg(feature = "cuda")]
impl Drop for RunOptions {
    fn drop(&mut self) {
        // SAFETY: owned, and released once.
        unsafe { (ort::api().ReleaseRunOptions)(self.0.as_ptr()) };
    }
}

#[cfg(feature = "cuda")]
impl fmt::Debug for RunOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RunOptions")
    }
}

impl Drop for Binding {
    fn drop(&mut self) {
        // SAFETY: owned, and released once, before the session that `self.session` keeps.
        unsafe { (ort::api().ReleaseIoBinding)(self.binding.as_ptr()) };
    }
}

impl fmt::Debug for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Binding")
    }
}

fn part<T: Element>(memory: &Memory<T>, at: usize, shape: &[i64]) -> *mut T {
    let elements = shape.iter().product::<i64>();
    let end = usize::try_from(elements).ok().and_then(|n| n.checked_add(at));
    assert!(end.is_some_and(|end| end <= memory.len), "a tensor lies inside of its memory");
    memory.start.as_ptr().wrapping_add(at)
}

/// Name of a graph input or output, as ONNX Runtime takes it.
pub(crate) fn c_name(name: &str) -> CString {
    CString::new(name).unwrap_or_default()
}

fn check(action: &'static str, status: sys::OrtStatusPtr) -> Result<(), OrtError> {
    // SAFETY: the status comes from ONNX Runtime and is consumed once.
    unsafe { Error::result_from_status(status) }.map_err(OrtError::runtime(action))
}

fn nothing(action: &'static str) -> OrtError {
    OrtError::Runtime { action, message: "it gave nothing".to_owned() }
}
