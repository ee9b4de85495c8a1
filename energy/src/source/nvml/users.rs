//! Who uses a board.

use super::Board;
use nvml_wrapper::error::{NvmlError as Library, nvml_try};
use nvml_wrapper_sys::bindings::{nvmlProcessInfo_t, nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE};
use std::fmt;

/// More processes than this are not told apart: one of them is not ours.
const ROOM: u32 = 64;

/// Asks for the processes with a context on a board, without allocating after it was made.
pub(super) struct Users {
    processes: Vec<nvmlProcessInfo_t>,
    ids: Vec<u32>,
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Users").field("ids", &self.ids).finish_non_exhaustive()
    }
}

impl Users {
    pub(super) fn new() -> Self {
        let none = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
        Self { processes: vec![none; ROOM as usize], ids: Vec::with_capacity(ROOM as usize) }
    }

    /// The processes' numbers, as the driver gives them: those of the machine, or of this container.
    pub(super) fn ask(&mut self, board: &Board) -> Result<&[u32], Library> {
        let symbol = board.nvml.lib().nvmlDeviceGetComputeRunningProcesses_v3.as_ref();
        let symbol = symbol.map_err(|_| Library::FunctionNotFound)?;
        let mut count = ROOM;
        // SAFETY: `processes` has room for `count` entries, and the library writes no more.
        let code = unsafe { symbol(board.handle, &raw mut count, self.processes.as_mut_ptr()) };
        if code != nvmlReturn_enum_NVML_ERROR_INSUFFICIENT_SIZE {
            nvml_try(code)?;
        }
        self.ids.clear();
        self.ids.extend(self.processes.iter().take(count as usize).map(|p| p.pid));
        // More than there is room for: whoever they are, they are not all ours.
        if count > ROOM {
            self.ids.resize(ROOM as usize, 0);
        }
        Ok(&self.ids)
    }
}

/// Whether somebody else uses a board on which the driver sees the processes `seen`, with `own` as this process's number
/// where the two count alike, and `expected` processes of ours where they do not.
pub(super) fn shared(own: u32, seen: &[u32], expected: usize) -> bool {
    if seen.contains(&own) { seen.iter().any(|id| *id != own) } else { seen.len() > expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_nobody_else_whenever_we_came() {
        const WE: u32 = 4711;
        // Before and after our own context: nobody else, whatever was expected.
        for expected in [0, 1] {
            assert!(!shared(WE, &[], expected) && !shared(WE, &[WE], expected));
            assert!(shared(WE, &[WE, 9], expected) && shared(WE, &[9, WE], expected), "somebody beside us");
            assert!(!shared(WE, &[WE, WE], expected), "two contexts of ours");
        }
        // A driver that counts otherwise than this container: only the number of processes says something.
        assert!(!shared(WE, &[9], 1) && shared(WE, &[9], 0) && shared(WE, &[9, 10], 1));
    }
}
