//! A lost context, in a process of its own: nothing on the device works after it.

use std::path::PathBuf;

use candle_core::cuda_backend::cudarc::driver::CudaContext;
use phase_backend_candle::Candle;
use phase_core::{Backend, DType, LoadSpec, conformance};
use phase_kernels::cuda::{Format, Kernels, Region};

#[test]
#[expect(clippy::disallowed_methods, reason = "data and device are the tester's to say")]
fn a_lost_context_is_a_lost_device() {
    if let Err(e) = Candle::cuda(0).probe() {
        assert!(std::env::var_os("PHASE_TEST_CUDA").is_none(), "{e}");
        println!("skipped: {e}");
        return;
    }
    let compiled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden"));
    let data = std::env::var_os("PHASE_TEST_DATA").map_or(compiled, PathBuf::from);
    let spec = LoadSpec::new(data.join("tiny/llama-f16")).with_dtype(DType::F16);
    conformance::a_lost_device_is_named(&Candle::cuda(0), &spec, || {
        // Another user of the same context reads where nothing is.
        let context = CudaContext::new(0).expect("the device's context");
        let stream = context.new_stream().expect("a stream");
        let kernels = Kernels::load(&stream, Format::F32).expect("kernels");
        let nowhere = Region::new(0x10, 1 << 30);
        // SAFETY: none: the fault is what is tested, and it reaches this process only.
        unsafe { kernels.read_memory(nowhere, nowhere) }.expect("a launch");
        assert!(stream.synchronize().is_err(), "reading nowhere must fail");
    });
}
