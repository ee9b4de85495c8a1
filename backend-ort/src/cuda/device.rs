//! A device, and what lives on it: memory, one stream, events, captured graphs, kernels.

use super::driver::{Address, Api, Handle, LaunchAttribute, LaunchConfig, OUT_OF_MEMORY, driver};
use crate::error::OrtError;
use std::{
    ffi::{CString, c_int, c_uint, c_void},
    fmt,
    ptr::{NonNull, null_mut},
    sync::Arc,
    time::Duration,
};

/// One GPU, with its primary context held and one stream that all work goes through.
pub(crate) struct Device {
    api: &'static Api,
    handle: c_int,
    context: Handle,
    stream: Handle,
    /// Its number.
    pub(crate) ordinal: u32,
    /// Its name, as the driver gives it.
    pub(crate) name: String,
    /// Its identifier, as `nvidia-smi -L` writes it.
    pub(crate) uuid: String,
    /// The newest CUDA version that the driver speaks.
    pub(crate) cuda: String,
    /// Compute capability times ten, for example 90.
    pub(crate) capability: u32,
    /// Streaming multiprocessors.
    pub(crate) processors: u32,
}

// SAFETY: the driver's objects may be used from any thread on which the context is current, which `enter` sees to.
unsafe impl Send for Device {}
// SAFETY: as above; a stream may be given work by several threads.
unsafe impl Sync for Device {}

/// Attributes of a device, numbered in the driver's header.
const PROCESSORS: c_int = 16;
const CAPABILITY_MAJOR: c_int = 75;
const CAPABILITY_MINOR: c_int = 76;
/// An attribute of a launch, numbered in the driver's header.
const PROGRAMMATIC_SERIALIZATION: c_uint = 6;
/// An attribute of a function: the most shared memory that a launch may ask for.
const SHARED_BYTES: c_int = 8;
/// The stream does not wait for the default stream.
const NON_BLOCKING: c_uint = 1;
/// Calls that allocate are allowed while this thread captures.
const CAPTURE_RELAXED: c_int = 2;

impl Device {
    /// Opens a device.
    ///
    /// # Errors
    /// [`OrtError::Device`] when there is no driver or no such device, saying which there are.
    pub(crate) fn open(ordinal: u32) -> Result<Arc<Self>, OrtError> {
        let api = driver()?;
        let mut count = 0;
        // SAFETY: the place for the answer is valid.
        api.check("counting devices", unsafe { (api.device_count)(&raw mut count) })?;
        let index = c_int::try_from(ordinal).unwrap_or(c_int::MAX);
        if index >= count {
            let have = if count == 0 { "this machine has none".to_owned() } else { format!("this machine has 0 to {}", count - 1) };
            return Err(OrtError::Device { reason: format!("there is no CUDA device {ordinal}: {have}") });
        }
        let mut handle = 0;
        // SAFETY: the place for the answer is valid.
        api.check("finding a device", unsafe { (api.device)(&raw mut handle, index) })?;
        let mut context = null_mut();
        // SAFETY: as above.
        api.check("opening a device", unsafe { (api.context_retain)(&raw mut context, handle) })?;
        let mut device = Self {
            api,
            handle,
            context,
            stream: null_mut(),
            ordinal,
            name: name(api, handle)?,
            uuid: uuid(api, handle)?,
            cuda: version(api)?,
            capability: attribute(api, handle, CAPABILITY_MAJOR)? * 10 + attribute(api, handle, CAPABILITY_MINOR)?,
            processors: attribute(api, handle, PROCESSORS)?,
        };
        device.enter()?;
        // SAFETY: the place for the answer is valid, the context is current.
        api.check("making a stream", unsafe { (api.stream_create)(&raw mut device.stream, NON_BLOCKING) })?;
        Ok(Arc::new(device))
    }

    /// Makes the device current on this thread; every public call of a model begins with it.
    pub(crate) fn enter(&self) -> Result<(), OrtError> {
        // SAFETY: the context is held until `drop`.
        self.api.check("entering the device", unsafe { (self.api.context_set)(self.context) })
    }

    /// The stream, as ONNX Runtime takes it.
    pub(crate) fn stream(&self) -> *mut () {
        self.stream.cast()
    }

    /// Free and total bytes of its memory.
    pub(crate) fn memory(&self) -> Result<(usize, usize), OrtError> {
        let (mut free, mut total) = (0, 0);
        // SAFETY: the places for the answers are valid.
        self.api.check("asking for free memory", unsafe { (self.api.memory_info)(&raw mut free, &raw mut total) })?;
        Ok((free, total))
    }

    /// Waits until all work is done.
    pub(crate) fn synchronize(&self) -> Result<(), OrtError> {
        // SAFETY: the stream lives until `drop`.
        self.api.check("waiting for the device", unsafe { (self.api.stream_synchronize)(self.stream) })
    }

    /// Queues a copy to the device.
    ///
    /// # Safety
    /// `from` stays as it is until the device has read it.
    pub(crate) unsafe fn upload(&self, to: &DeviceMemory, at: usize, from: &[u8]) -> Result<(), OrtError> {
        let start = to.part(at, from.len());
        // SAFETY: `part` checked the range; the caller vouches for the source.
        let status = unsafe { (self.api.upload_async)(start, from.as_ptr().cast(), from.len(), self.stream) };
        self.api.check("copying to the device", status)
    }

    /// Queues a copy of the first bytes to the host.
    pub(crate) fn download(&self, from: &DeviceMemory, to: &mut HostMemory, bytes: usize) -> Result<(), OrtError> {
        let start = from.part(0, bytes);
        assert!(bytes <= to.bytes, "a copy fits into its destination");
        // SAFETY: both ranges are checked; the pinned memory lives until its owner has waited for the device.
        let status = unsafe { (self.api.download_async)(to.start.as_ptr().cast(), start, bytes, self.stream) };
        self.api.check("copying from the device", status)
    }

    /// Records everything that `work` queues into a graph instead of running it.
    pub(crate) fn capture(self: &Arc<Self>, work: impl FnOnce() -> Result<(), OrtError>) -> Result<Graph, OrtError> {
        // SAFETY: the stream lives until `drop`.
        self.api.check("capturing", unsafe { (self.api.capture_begin)(self.stream, CAPTURE_RELAXED) })?;
        let worked = work();
        let mut graph = null_mut();
        // SAFETY: the place for the answer is valid. Also after a failure, so that the stream is usable again.
        let ended = unsafe { (self.api.capture_end)(self.stream, &raw mut graph) };
        worked?;
        self.api.check("ending a capture", ended)?;
        let (mut exec, mut nodes) = (null_mut(), 0);
        // SAFETY: the graph was just captured; a null list asks for the count.
        let counted = unsafe { (self.api.graph_nodes)(graph, null_mut(), &raw mut nodes) };
        // SAFETY: as above.
        let made = unsafe { (self.api.graph_instantiate)(&raw mut exec, graph, 0) };
        // SAFETY: an instance does not need the graph it was made from.
        let dropped = unsafe { (self.api.graph_destroy)(graph) };
        for status in [counted, made, dropped] {
            self.api.check("making a graph", status)?;
        }
        let graph = Graph { device: Arc::clone(self), exec, nodes, replays: 0 };
        // SAFETY: graph and stream are alive.
        self.api.check("uploading a graph", unsafe { (self.api.graph_upload)(graph.exec, self.stream) })?;
        Ok(graph)
    }

    /// Loads machine code for this device.
    pub(crate) fn module(self: &Arc<Self>, code: &[u8]) -> Result<Module, OrtError> {
        let mut module = null_mut();
        // SAFETY: the code is a whole image that the compiler made.
        self.api.check("loading kernels", unsafe { (self.api.module_load)(&raw mut module, code.as_ptr().cast()) })?;
        Ok(Module { device: Arc::clone(self), module })
    }

    /// Queues a kernel.
    ///
    /// # Safety
    /// The arguments are those of the kernel's signature, and the memory they name outlives the launch.
    pub(crate) unsafe fn launch(&self, kernel: Kernel, shape: Launch, arguments: &mut [*mut c_void]) -> Result<(), OrtError> {
        let mut value = [0; 8];
        value[0] = 1;
        let overlap = LaunchAttribute { id: PROGRAMMATIC_SERIALIZATION, value };
        let config = LaunchConfig {
            grid: shape.grid,
            block: [shape.block, 1, 1],
            shared_bytes: shape.shared_bytes,
            stream: self.stream,
            attributes: &raw const overlap,
            attribute_count: u32::from(shape.overlap),
        };
        // SAFETY: the configuration is valid for the call; the caller vouches for the arguments.
        let status = unsafe { (self.api.launch)(&raw const config, kernel.0, arguments.as_mut_ptr(), null_mut()) };
        self.api.check("starting a kernel", status)
    }
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch {
    pub(crate) grid: [u32; 3],
    pub(crate) block: u32,
    pub(crate) shared_bytes: u32,
    /// May start while the kernel before it finishes: the kernel waits for it where it must.
    pub(crate) overlap: bool,
}

impl Drop for Device {
    fn drop(&mut self) {
        // A failure means that the device is gone, and its objects with it.
        if self.enter().is_ok() && !self.stream.is_null() {
            // SAFETY: owned, and destroyed once.
            unsafe { (self.api.stream_destroy)(self.stream) };
        }
        // SAFETY: retained once in `open`.
        unsafe { (self.api.context_release)(self.handle) };
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}: {})", self.ordinal, self.name)
    }
}

fn name(api: &Api, device: c_int) -> Result<String, OrtError> {
    let mut name = [0u8; 256];
    // SAFETY: the buffer has the length that is told.
    api.check("asking for a device's name", unsafe { (api.device_name)(name.as_mut_ptr().cast(), 255, device) })?;
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn uuid(api: &Api, device: c_int) -> Result<String, OrtError> {
    let mut id = [0u8; 16];
    // SAFETY: the place for the answer is valid.
    api.check("asking for a device's identifier", unsafe { (api.device_uuid)(&raw mut id, device) })?;
    let hex: String = id.iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]))
}

fn version(api: &Api) -> Result<String, OrtError> {
    let mut version = 0;
    // SAFETY: the place for the answer is valid.
    api.check("asking for the driver's version", unsafe { (api.driver_version)(&raw mut version) })?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}

fn attribute(api: &Api, device: c_int, attribute: c_int) -> Result<u32, OrtError> {
    let mut value = 0;
    // SAFETY: the place for the answer is valid.
    api.check("asking what a device is", unsafe { (api.device_attribute)(&raw mut value, attribute, device) })?;
    Ok(u32::try_from(value).unwrap_or(0))
}

/// Memory of a device.
pub(crate) struct DeviceMemory {
    device: Arc<Device>,
    start: Address,
    bytes: usize,
}

impl DeviceMemory {
    /// Allocates `bytes`, zeroed; `what` completes "no memory for ...".
    ///
    /// # Errors
    /// [`OrtError::DeviceMemory`] with what was asked for and what is free.
    pub(crate) fn new(device: &Arc<Device>, bytes: usize, what: &'static str) -> Result<Self, OrtError> {
        let mut start = 0;
        // SAFETY: the place for the answer is valid.
        let status = unsafe { (device.api.allocate)(&raw mut start, bytes.max(1)) };
        if status == OUT_OF_MEMORY {
            let (free, total) = device.memory()?;
            return Err(OrtError::DeviceMemory { what, bytes, free, total });
        }
        device.api.check("allocating memory", status)?;
        let memory = Self { device: Arc::clone(device), start, bytes };
        // SAFETY: the whole of what was just allocated.
        device.api.check("clearing memory", unsafe { (device.api.fill_async)(start, 0, bytes, device.stream) })?;
        Ok(memory)
    }

    pub(crate) fn address(&self) -> Address {
        self.start
    }

    /// Copies from the host and waits.
    pub(crate) fn fill(&self, at: usize, from: &[u8]) -> Result<(), OrtError> {
        // On the stream and not beside it: the copy must come after the clearing that `new` queued there.
        // SAFETY: this waits until the source has been read.
        unsafe { self.device.upload(self, at, from) }?;
        self.device.synchronize()
    }

    /// The address of a part of it.
    pub(crate) fn part(&self, at: usize, bytes: usize) -> Address {
        assert!(at.checked_add(bytes).is_some_and(|end| end <= self.bytes), "a part lies inside of its memory");
        self.start + at as u64
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and freed once; the driver waits for work that uses it.
            unsafe { (self.device.api.free)(self.start) };
        }
    }
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceMemory({} bytes)", self.bytes)
    }
}

/// Host memory that the device copies from and to without help.
pub(crate) struct HostMemory {
    device: Arc<Device>,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: owned plain bytes.
unsafe impl Send for HostMemory {}

impl HostMemory {
    pub(crate) fn new(device: &Arc<Device>, bytes: usize) -> Result<Self, OrtError> {
        let mut start = null_mut();
        // SAFETY: the place for the answer is valid.
        let status = unsafe { (device.api.host_allocate)(&raw mut start, bytes.max(1)) };
        let start = NonNull::new(start.cast::<u8>());
        match (status, start) {
            (OUT_OF_MEMORY, _) | (0, None) => Err(OrtError::OutOfMemory { bytes }),
            (0, Some(start)) => {
                // SAFETY: that many bytes were just allocated.
                unsafe { start.as_ptr().write_bytes(0, bytes) };
                Ok(Self { device: Arc::clone(device), start, bytes })
            }
            _ => Err(device.api.check("allocating pinned memory", status).err().unwrap_or(OrtError::OutOfMemory { bytes })),
        }
    }

    pub(crate) fn as_mut_slice<T: bytemuck::Pod>(&mut self) -> &mut [T] {
        // SAFETY: initialised bytes of this length, borrowed exclusively; the device was waited for before.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) };
        let whole = self.bytes / size_of::<T>() * size_of::<T>();
        bytemuck::cast_slice_mut(&mut bytes[..whole])
    }

    pub(crate) fn bytes(&self, range: std::ops::Range<usize>) -> &[u8] {
        assert!(range.end <= self.bytes, "a part lies inside of its memory");
        // SAFETY: initialised bytes of this length.
        let all = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) };
        &all[range]
    }
}

impl Drop for HostMemory {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and freed once.
            unsafe { (self.device.api.host_free)(self.start.as_ptr().cast()) };
        }
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({} bytes)", self.bytes)
    }
}

/// Work that was captured once and can be queued again as a whole.
pub(crate) struct Graph {
    device: Arc<Device>,
    exec: Handle,
    /// Kernels, copies and fills in it.
    pub(crate) nodes: usize,
    /// How often it was queued.
    pub(crate) replays: u64,
}

// SAFETY: as for `Device`.
unsafe impl Send for Graph {}

impl Graph {
    pub(crate) fn launch(&mut self) -> Result<(), OrtError> {
        self.replays += 1;
        // SAFETY: graph and stream are alive.
        let status = unsafe { (self.device.api.graph_launch)(self.exec, self.device.stream) };
        self.device.api.check("replaying a graph", status)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and destroyed once; the driver waits for a replay under way.
            unsafe { (self.device.api.graph_exec_destroy)(self.exec) };
        }
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Graph({} nodes, {} replays)", self.nodes, self.replays)
    }
}

/// Moments on the device's own clock.
pub(crate) struct Events {
    device: Arc<Device>,
    events: Vec<Handle>,
    used: usize,
}

// SAFETY: as for `Device`.
unsafe impl Send for Events {}

impl Events {
    pub(crate) fn new(device: &Arc<Device>) -> Self {
        Self { device: Arc::clone(device), events: Vec::new(), used: 0 }
    }

    pub(crate) fn clear(&mut self) {
        self.used = 0;
    }

    /// Makes events ahead of time, so that a timed call does not.
    pub(crate) fn reserve(&mut self, count: usize) -> Result<(), OrtError> {
        let api = self.device.api;
        while self.events.len() < count {
            let mut event = null_mut();
            // SAFETY: the place for the answer is valid.
            api.check("making an event", unsafe { (api.event_create)(&raw mut event, 0) })?;
            self.events.push(event);
        }
        Ok(())
    }

    /// Marks the moment when everything queued so far is done.
    pub(crate) fn record(&mut self) -> Result<(), OrtError> {
        self.reserve(self.used + 1)?;
        let (api, event) = (self.device.api, self.events[self.used]);
        self.used += 1;
        // SAFETY: event and stream are alive.
        api.check("recording an event", unsafe { (api.event_record)(event, self.device.stream) })
    }

    /// Times between the moments marked since [`clear`](Self::clear); the device must have been waited for.
    pub(crate) fn intervals(&self, out: &mut Vec<Duration>) -> Result<(), OrtError> {
        out.clear();
        for pair in self.events[..self.used].windows(2) {
            let mut milliseconds = 0.0f32;
            // SAFETY: both events were recorded and are done.
            let status = unsafe { (self.device.api.event_elapsed)(&raw mut milliseconds, pair[0], pair[1]) };
            self.device.api.check("reading an event", status)?;
            out.push(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3));
        }
        Ok(())
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            for event in self.events.drain(..) {
                // SAFETY: owned, and destroyed once.
                unsafe { (self.device.api.event_destroy)(event) };
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Events({})", self.events.len())
    }
}

/// Loaded machine code.
pub(crate) struct Module {
    device: Arc<Device>,
    module: Handle,
}

/// A function of a [`Module`], valid as long as it.
#[derive(Clone, Copy)]
pub(crate) struct Kernel(Handle);

// SAFETY: as for `Device`.
unsafe impl Send for Module {}
// SAFETY: as for `Device`.
unsafe impl Sync for Module {}
// SAFETY: as for `Device`.
unsafe impl Send for Kernel {}
// SAFETY: as for `Device`.
unsafe impl Sync for Kernel {}

impl Module {
    /// A kernel by its name.
    pub(crate) fn kernel(&self, name: &str) -> Result<Kernel, OrtError> {
        let (mut function, name) = (null_mut(), CString::new(name).unwrap_or_default());
        // SAFETY: the place for the answer is valid, the module is loaded.
        let status = unsafe { (self.device.api.module_function)(&raw mut function, self.module, name.as_ptr()) };
        self.device.api.check("finding a kernel", status)?;
        Ok(Kernel(function))
    }

    /// As [`kernel`](Self::kernel), for launches with this much shared memory.
    pub(crate) fn kernel_with_memory(&self, name: &str, shared_bytes: u32) -> Result<Kernel, OrtError> {
        let kernel = self.kernel(name)?;
        let bytes = c_int::try_from(shared_bytes).unwrap_or(c_int::MAX);
        // SAFETY: the function belongs to a loaded module.
        let status = unsafe { (self.device.api.function_attribute)(kernel.0, SHARED_BYTES, bytes) };
        self.device.api.check("giving a kernel shared memory", status)?;
        Ok(kernel)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.device.enter().is_ok() {
            // SAFETY: owned, and unloaded once, after the work that uses it.
            unsafe { (self.device.api.module_unload)(self.module) };
        }
    }
}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Module")
    }
}

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Kernel")
    }
}
