//! Stands in for cubecl-llvm 0.11.3, whose build script downloads a prebuilt LLVM.
//!
//! cubecl-cuda always depends on it, and with its feature `cpp` never runs it: kernels then go through CUDA C++ and
//! NVRTC. These are the types that cubecl-cuda names. Whoever picks the LLVM path all the same gets an error.
#![allow(missing_docs, reason = "cubecl-llvm documents them")]

use cubecl_core::{ir::nvidia::SmArch, prelude::KernelDefinition};
use cubecl_environment::backtrace::BackTrace;
use cubecl_server::{compiler::CompilationError, kernel::BufferIOAttr};
use std::ffi::c_char;

pub mod nvptx {
    pub mod ptx_version {
        use std::fmt;

        /// There is none: what would emit it is not here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            pub fn for_driver(_driver: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

pub mod shared {
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            Nvptx,
        }

        /// Leaves everything as it is: nothing is lowered here that could need less.
        pub fn restrict_features(_properties: &mut DeviceProperties, _target: GpuTarget) {}
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LlvmTarget {
    Nvptx,
}

#[derive(Clone, Debug)]
pub struct NvptxModule {
    pub ptx: Vec<c_char>,
    pub entrypoint: String,
    pub ir: String,
    pub shared_memory_size: usize,
    pub io: Vec<BufferIOAttr>,
}

#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum PlironArtifact {
    NvptxCode(NvptxModule),
}

#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    pub cpu_buffer_alignment: Option<u32>,
    pub arch: Option<()>,
    pub sm_arch: Option<SmArch>,
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    pub grid_constants: bool,
}

#[derive(Clone, Debug)]
pub struct PlironCompiler {
    pub target: LlvmTarget,
}

impl PlironCompiler {
    pub fn compile(&mut self, _kernel: KernelDefinition, _options: &PlironOptions) -> Result<PlironArtifact, CompilationError> {
        let reason = "LLVM is not built in: cubecl-cuda needs its feature `cpp`".to_owned();
        Err(CompilationError::Generic { reason, backtrace: BackTrace::capture() })
    }

    pub fn lang_tag(&self) -> &'static str {
        "ll"
    }
}
