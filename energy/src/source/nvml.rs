//! GPU boards through NVIDIA's management library, loaded when it is asked for.

mod field;
mod users;

pub use field::BoardField;

use super::{Perimeter, ReadError, Source, SourceId};
use crate::Condition;
use nvml_wrapper::{Device, Nvml, enum_wrappers::device::TemperatureSensor, error::NvmlError as Library};
use nvml_wrapper_sys::bindings::nvmlDevice_t;
use phase_core::NoData;
use std::{ffi::OsStr, fmt, sync::Arc};
use users::{Users, shared};

/// Why a board can't be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NvmlError {
    /// The library can't be loaded, or does not find a driver.
    #[error("libnvidia-ml.so.1: {0}")]
    Library(#[source] Library),
    /// The board does not answer.
    #[error("GPU {board}: {what}: {source}")]
    Board {
        /// Its index or UUID.
        board: String,
        /// What was asked.
        what: &'static str,
        /// What the driver said.
        source: Library,
    },
}

/// The loaded library.
#[derive(Clone)]
pub struct NvmlLibrary(Arc<Nvml>);

impl fmt::Debug for NvmlLibrary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NvmlLibrary")
    }
}

impl NvmlLibrary {
    /// Loads `libnvidia-ml.so.1`, as the system's loader finds it. The first call takes about 100 ms: make it before
    /// anything is measured.
    ///
    /// # Errors
    /// [`NvmlError::Library`] without the library or without a driver.
    pub fn load() -> Result<Self, NvmlError> {
        let nvml = Nvml::builder().lib_path(OsStr::new("libnvidia-ml.so.1")).init().map_err(NvmlError::Library)?;
        Ok(Self(Arc::new(nvml)))
    }

    /// Every board that can be seen.
    ///
    /// # Errors
    /// [`NvmlError::Board`] for the first that does not say who it is.
    pub fn boards(&self) -> Result<Vec<Board>, NvmlError> {
        let count = self.0.device_count().map_err(NvmlError::Library)?;
        (0..count).map(|index| Board::open(self, index)).collect()
    }
}

/// One GPU board.
#[derive(Clone)]
pub struct Board {
    nvml: Arc<Nvml>,
    handle: nvmlDevice_t,
    uuid: String,
    driver: String,
    firmware: String,
    name: String,
}

// SAFETY: an NVML device handle is a token that any thread may pass to the library, which locks for itself.
unsafe impl Send for Board {}
// SAFETY: as above; no method changes the handle.
unsafe impl Sync for Board {}

impl fmt::Debug for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Board").field("uuid", &self.uuid).field("driver", &self.driver).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Board {
    fn open(library: &NvmlLibrary, index: u32) -> Result<Self, NvmlError> {
        let wrong = |what: &'static str| move |source: Library| NvmlError::Board { board: index.to_string(), what, source };
        let driver = library.0.sys_driver_version().map_err(NvmlError::Library)?;
        let device = library.0.device_by_index(index).map_err(wrong("handle"))?;
        let uuid = device.uuid().map_err(wrong("UUID"))?;
        let name = device.name().map_err(wrong("name"))?;
        let firmware = device.vbios_version().map_err(wrong("firmware"))?;
        // SAFETY: the handle is used only with the library it came from, which `nvml` keeps loaded.
        let handle = unsafe { device.handle() };
        Ok(Self { nvml: Arc::clone(&library.0), handle, uuid, driver, firmware, name })
    }

    fn device(&self) -> Device<'_> {
        // SAFETY: `handle` came from this library, which is loaded as long as `self` is.
        unsafe { Device::new(self.handle, &self.nvml) }
    }

    /// The board's UUID.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// The driver's version.
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// The board's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The board's firmware.
    pub fn firmware(&self) -> &str {
        &self.firmware
    }

    /// The power limit that is enforced now, in watts.
    ///
    /// # Errors
    /// [`NvmlError::Board`].
    pub fn limit_w(&self) -> Result<f64, NvmlError> {
        self.device().enforced_power_limit().map(|mw| f64::from(mw) / 1e3).map_err(|e| self.wrong("power limit", e))
    }

    /// Temperature, clock and throttling now.
    ///
    /// # Errors
    /// [`NvmlError::Board`].
    pub fn state(&self) -> Result<BoardState, NvmlError> {
        let device = self.device();
        let celsius = device.temperature(TemperatureSensor::Gpu).map_err(|e| self.wrong("temperature", e))?;
        let sm_mhz = device.clock_info(nvml_wrapper::enum_wrappers::device::Clock::SM).map_err(|e| self.wrong("clock", e))?;
        let throttle_bits = device.current_throttle_reasons().map_err(|e| self.wrong("throttle reasons", e))?.bits();
        Ok(BoardState { celsius: f64::from(celsius), sm_mhz, throttle_bits })
    }

    /// The identity of the sensor behind `field`.
    pub fn source_id(&self, field: BoardField) -> SourceId {
        SourceId::new(&self.uuid, format!("nvidia {}", self.driver), field.as_str(), Perimeter::GpuBoard)
    }

    /// The sensor behind `field`, after one reading that shows it is there.
    ///
    /// # Errors
    /// [`ReadError`] of that reading: [`ReadError::NotSupported`] where the board has no such sensor.
    pub fn source(&self, field: BoardField) -> Result<Box<dyn Source>, ReadError> {
        let mut source = field::FieldSource::new(self.clone(), field);
        source.read(&mut |_| ())?;
        Ok(Box::new(source))
    }

    /// How many processes have a context on the board, this one included.
    ///
    /// # Errors
    /// [`NvmlError::Board`] where the driver does not tell.
    pub fn users(&self) -> Result<usize, NvmlError> {
        Users::new().ask(self).map(<[u32]>::len).map_err(|e| self.wrong("processes", e))
    }

    /// A watch over who else uses the board. Where the driver tells of this process by the number that the process knows itself
    /// by, any other one is somebody else, whether this one has a context yet or not; where it does not (a container's own
    /// numbers), more than `processes` of them are.
    pub fn condition(&self, processes: usize) -> BoardCondition {
        BoardCondition { limit_mw: self.device().enforced_power_limit().ok(), board: self.clone(), processes, users: Users::new() }
    }

    fn wrong(&self, what: &'static str, source: Library) -> NvmlError {
        NvmlError::Board { board: self.uuid.clone(), what, source }
    }
}

/// What a board is doing besides drawing power.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct BoardState {
    /// Temperature of the GPU, degrees Celsius.
    pub celsius: f64,
    /// Clock of the multiprocessors, MHz.
    pub sm_mhz: u32,
    /// NVML's throttle reasons.
    pub throttle_bits: u64,
}

impl BoardState {
    /// The clock is held down by heat or by hardware, not only by the power limit or because nothing runs.
    pub const fn slowed(&self) -> bool {
        const HARDWARE: u64 = 0x8 | 0x40 | 0x80;
        const THERMAL: u64 = 0x20;
        self.throttle_bits & (HARDWARE | THERMAL) != 0
    }
}

/// Whether a board is whole, ours alone, and under the limit it had.
#[derive(Debug)]
pub struct BoardCondition {
    board: Board,
    processes: usize,
    limit_mw: Option<u32>,
    users: Users,
}

impl Condition for BoardCondition {
    fn check(&mut self) -> Option<NoData> {
        let device = self.board.device();
        // A driver without partitions answers that it supports none.
        if device.mig_mode().is_ok_and(|mode| mode.current != 0) {
            return Some(NoData::Mig);
        }
        match self.users.ask(&self.board) {
            Ok(seen) if !shared(std::process::id(), seen, self.processes) => {}
            Err(Library::GpuLost) => return Some(NoData::BoundaryChanged),
            // Where nobody tells who uses the board, nobody can say that it is ours alone.
            Ok(_) | Err(_) => return Some(NoData::DeviceShared),
        }
        (device.enforced_power_limit().ok() != self.limit_mw).then_some(NoData::BoundaryChanged)
    }
}

/// The library's refusals, by what a sampler does with them.
pub(super) fn read_error(error: &Library) -> ReadError {
    match error {
        Library::NotSupported | Library::FunctionNotFound | Library::FailedToLoadSymbol(_) => ReadError::NotSupported,
        Library::NoPermission => ReadError::Denied,
        Library::GpuLost | Library::Uninitialized => ReadError::Gone,
        _ => ReadError::Refused,
    }
}
