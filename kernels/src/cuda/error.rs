//! What fails between the host and a CUDA device.

use cudarc::driver::{DriverError, sys::CUresult};

/// Why a kernel can't be had or launched.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver or a device is not there.
    Unavailable {
        /// What is missing.
        reason: String,
    },
    /// The driver refused.
    Driver {
        /// What was attempted.
        action: &'static str,
        /// The driver's name for the error, for example `CUDA_ERROR_OUT_OF_MEMORY`.
        code: String,
        /// What it means for the caller.
        refusal: Refusal,
    },
    /// A buffer or a dimension does not fit the others.
    Shape {
        /// Which one.
        what: &'static str,
        /// What it is.
        found: usize,
        /// What it must be at least, or a multiple of.
        expected: usize,
    },
}

/// What a refusal of the driver means for whoever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The context is lost: nothing on this device works any more in this process.
    DeviceLost,
    /// The device has no memory left for this.
    OutOfMemory,
    /// Anything else.
    Other,
}

impl std::fmt::Display for CudaError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unavailable { reason } => f.write_str(reason),
            Self::Driver { action, code, .. } => write!(f, "CUDA: {action}: {code}"),
            Self::Shape { what, found, expected } => write!(f, "{what} is {found}, which does not fit {expected}"),
        }
    }
}

impl std::error::Error for CudaError {}

/// Turns a driver's answer into an error that says what was attempted.
pub fn classify(action: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |DriverError(code)| CudaError::Driver { action, code: format!("{code:?}"), refusal: refusal(code) }
}

const fn refusal(code: CUresult) -> Refusal {
    match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => Refusal::OutOfMemory,
        // After these the context answers every call with an error.
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
        | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
        | CUresult::CUDA_ERROR_ASSERT
        | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
        | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
        | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
        | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
        | CUresult::CUDA_ERROR_INVALID_PC
        | CUresult::CUDA_ERROR_LAUNCH_FAILED
        | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
        | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
        | CUresult::CUDA_ERROR_DEINITIALIZED
        | CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE
        | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
        | CUresult::CUDA_ERROR_UNKNOWN => Refusal::DeviceLost,
        _ => Refusal::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_the_caller_can_do() {
        let of = |code| match classify("try")(DriverError(code)) {
            CudaError::Driver { refusal, .. } => refusal,
            other => panic!("{other}"),
        };
        assert_eq!(of(CUresult::CUDA_ERROR_OUT_OF_MEMORY), Refusal::OutOfMemory);
        assert_eq!(of(CUresult::CUDA_ERROR_ILLEGAL_ADDRESS), Refusal::DeviceLost);
        assert_eq!(of(CUresult::CUDA_ERROR_INVALID_VALUE), Refusal::Other);
    }
}
