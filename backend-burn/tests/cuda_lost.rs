//! A lost context, in a process of its own: nothing on the device works after it.

use std::path::PathBuf;

use cudarc::driver::CudaContext;
use phase_backend_burn::Burn;
use phase_core::{
    Backend, CacheSpec, DType, Decode, ErrorKind, KvCache, LoadSpec, Logits, Model, PhaseError, Prefill, PromptBatch, TokenId,
};
use phase_kernels::cuda::{Format, Kernels, Region};

#[test]
#[expect(clippy::disallowed_methods, reason = "data and device are the tester's to say")]
fn a_lost_context_is_a_lost_device() {
    if let Err(e) = Burn::cuda(0).probe() {
        assert!(std::env::var_os("PHASE_TEST_CUDA").is_none(), "{e}");
        println!("skipped: {e}");
        return;
    }
    let compiled = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../model/tests/golden"));
    let data = std::env::var_os("PHASE_TEST_DATA").map_or(compiled, PathBuf::from);
    let spec = LoadSpec::new(data.join("tiny/llama-f16")).with_dtype(DType::F16);
    let mut model = Burn::cuda(0).load(&spec).unwrap();
    let mut cache = model.allocate(CacheSpec { batch: 1, capacity: 8 }).unwrap();
    model.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).unwrap();

    // Another user of the same context reads where nothing is.
    let context = CudaContext::new(0).unwrap();
    let stream = context.new_stream().unwrap();
    let kernels = Kernels::load(&stream, Format::F32).unwrap();
    let nowhere = Region::new(0x10, 1 << 30);
    // SAFETY: none: the fault is what is tested, and it reaches this process only.
    unsafe { kernels.read_memory(nowhere, nowhere) }.unwrap();
    assert!(stream.synchronize().is_err(), "reading nowhere must fail");

    let error = model.decode(&mut cache, &[TokenId(1)], &mut Logits::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    let prompt = PromptBatch::single(&[TokenId(1), TokenId(2)]).unwrap();
    let error = model.prefill(&mut cache, prompt, &mut Logits::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    assert_eq!(cache.len(), 1);
    let refused = model.allocate(CacheSpec { batch: 1, capacity: 8 }).map(drop).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::DeviceLost, "{refused}");
    let again = Burn::cuda(0).load(&spec).map(drop).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::DeviceLost, "{again}");
}
