//! Products through cublasLt, each shape with the fastest of its proposals, timed when the shape is first seen.

use std::{cell::RefCell, collections::HashMap, ffi::c_void, ptr};

use candle_core::cuda_backend::cudarc::{
    cublas::sys as blas,
    cublaslt::{
        result::{
            CublasError, create_handle, create_matmul_desc, create_matmul_pref, create_matrix_layout, destroy_handle, destroy_matmul_desc,
            destroy_matmul_pref, destroy_matrix_layout, matmul, set_matmul_desc_attribute, set_matmul_pref_attribute,
        },
        sys,
    },
    driver::CudaStream,
};
use phase_kernels::cuda::{CudaError, Format, Region, classify};

use super::{
    device::{Buffer, Gpu, Product},
    elapsed,
};
use crate::CandleError;

/// A handle of cublasLt, what it works in, and what was chosen.
pub(super) struct Lt {
    handle: sys::cublasLtHandle_t,
    workspace: Buffer,
    plans: RefCell<HashMap<Shape, Plan>>,
}

// SAFETY: handles and descriptors belong to no thread; they are only reached through their model, exclusively.
unsafe impl Send for Lt {}

/// What an algorithm is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    n: usize,
    k: usize,
    from: Format,
    to: Format,
    accumulate: bool,
}

impl Lt {
    pub(super) fn new(gpu: &Gpu, workspace_bytes: usize) -> Result<Self, CandleError> {
        let workspace = gpu.buffer("cublasLt's workspace", workspace_bytes)?;
        gpu.bind()?;
        Ok(Self { handle: create_handle().map_err(failed)?, workspace, plans: RefCell::default() })
    }

    /// As [`Gpu::matmul`], which has checked that the matrices fit their regions.
    pub(super) fn matmul(&self, gpu: &Gpu, product: &Product, from: Format) -> Result<(), CandleError> {
        let Product { weights, x, out, rows, n, k, to, accumulate } = *product;
        for region in [weights, x, out] {
            // What cublasLt takes for granted when it proposes algorithms.
            let beyond = region.address() % ALIGNED;
            if beyond != 0 {
                let found = usize::try_from(beyond).unwrap_or(0);
                return Err(CudaError::Shape { what: "a matrix's address, from a multiple of 256", found, expected: 0 }.into());
            }
        }
        gpu.bind()?;
        let shape = Shape { rows, n, k, from, to, accumulate };
        if !self.plans.borrow().contains_key(&shape) {
            let plan = self.choose(gpu, shape, weights, x)?;
            self.plans.borrow_mut().insert(shape, plan);
        }
        let plans = self.plans.borrow();
        let Some(plan) = plans.get(&shape) else { return Ok(()) };
        self.enqueue(&gpu.stream, plan, [weights, x, out], &plan.algorithm)
    }

    /// What was chosen, for those who ask what ran: sorted lines.
    pub(super) fn choices(&self) -> Vec<String> {
        let line = |(shape, plan): (&Shape, &Plan)| {
            let Shape { rows, n, k, from, to, accumulate } = shape;
            let onto = if *accumulate { "onto " } else { "" };
            format!(
                "cublasLtMatmul {rows} x {k} x {n} {} {onto}{}: {}, proposal {} of {}",
                from.as_str(),
                to.as_str(),
                describe(&plan.algorithm),
                plan.proposal + 1,
                plan.proposals
            )
        };
        let mut lines: Vec<_> = self.plans.borrow().iter().map(line).collect();
        lines.sort();
        lines
    }

    fn choose(&self, gpu: &Gpu, shape: Shape, weights: Region, x: Region) -> Result<Plan, CandleError> {
        let mut plan = Plan::new(shape)?;
        let proposals = self.propose(&plan)?;
        let out = gpu.zeros("a product to take the time of", shape.rows * shape.n * shape.to.size_bytes())?;
        plan.proposal = self.fastest(gpu, &plan, [weights, x, out.region()], &proposals)?;
        let Some(algorithm) = proposals.get(plan.proposal) else {
            let reason = format!("cublasLt proposes nothing for {shape:?}");
            return Err(CandleError::Candle { action: "multiply with cublasLt", source: reason.into() });
        };
        (plan.algorithm, plan.proposals) = (*algorithm, proposals.len());
        Ok(plan)
    }

    /// The best first, by cublasLt's own estimate.
    fn propose(&self, plan: &Plan) -> Result<Vec<sys::cublasLtMatmulAlgo_t>, CandleError> {
        let preference = Preference(create_matmul_pref().map_err(failed)?);
        let bytes = self.workspace.region().bytes();
        let attribute = sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        // SAFETY: the preference exists, and the attribute is a `size_t`.
        unsafe { set_matmul_pref_attribute(preference.0, attribute, ptr::from_ref(&bytes).cast(), size_of::<usize>()) }.map_err(failed)?;
        let mut found = [std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed(); PROPOSALS];
        let mut count = 0;
        // SAFETY: all descriptors exist, and there is room for as many results as are asked for.
        let status = unsafe {
            sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                plan.operation,
                plan.weights,
                plan.x,
                plan.out,
                plan.out,
                preference.0,
                i32::try_from(PROPOSALS).unwrap_or(1),
                found.as_mut_ptr().cast(),
                &raw mut count,
            )
        };
        status.result().map_err(failed)?;
        let count = usize::try_from(count).unwrap_or(0).min(PROPOSALS);
        // SAFETY: so many were written.
        let results = found[..count].iter().map(|result| unsafe { result.assume_init() });
        Ok(results.filter(|result| result.state == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS).map(|result| result.algo).collect())
    }

    /// Which proposal takes the least time: the least of some turns, in which each has its own.
    fn fastest(
        &self,
        gpu: &Gpu,
        plan: &Plan,
        matrices: [Region; 3],
        proposals: &[sys::cublasLtMatmulAlgo_t],
    ) -> Result<usize, CandleError> {
        let (begin, end) = (gpu.event()?, gpu.event()?);
        let mut best = (0, std::time::Duration::MAX);
        for turn in 0..=TURNS {
            for (index, algorithm) in proposals.iter().enumerate() {
                gpu.record(&begin)?;
                for _ in 0..LAUNCHES {
                    self.enqueue(&gpu.stream, plan, matrices, algorithm)?;
                }
                gpu.record(&end)?;
                end.synchronize().map_err(classify("wait for a product"))?;
                let time = elapsed(&begin, &end)?;
                // The first turn loads what the others run.
                if turn > 0 && time < best.1 {
                    best = (index, time);
                }
            }
        }
        Ok(best.0)
    }

    fn enqueue(
        &self,
        stream: &CudaStream,
        plan: &Plan,
        [weights, x, out]: [Region; 3],
        algorithm: &sys::cublasLtMatmulAlgo_t,
    ) -> Result<(), CandleError> {
        let (alpha, beta) = (1.0f32, if plan.accumulate { 1.0f32 } else { 0.0 });
        let workspace = self.workspace.region();
        // SAFETY: columns, so this is outᵀ = weights · xᵀ; the matrices lie inside their regions, the workspace is this handle's
        // alone, and all of its work is on this one stream.
        unsafe {
            matmul(
                self.handle,
                plan.operation,
                ptr::from_ref(&alpha).cast(),
                ptr::from_ref(&beta).cast(),
                weights.address() as *const c_void,
                plan.weights,
                x.address() as *const c_void,
                plan.x,
                out.address() as *const c_void,
                plan.out,
                out.address() as *mut c_void,
                plan.out,
                algorithm,
                workspace.address() as *mut c_void,
                workspace.bytes(),
                stream.cu_stream().cast(),
            )
        }
        .map_err(failed)
    }
}

impl Drop for Lt {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's, and nobody uses it any more.
        let _ = unsafe { destroy_handle(self.handle) };
    }
}

/// What cublasLt knows of a shape, and the algorithm for it.
struct Plan {
    operation: sys::cublasLtMatmulDesc_t,
    weights: sys::cublasLtMatrixLayout_t,
    x: sys::cublasLtMatrixLayout_t,
    out: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
    accumulate: bool,
    /// Which of cublasLt's proposals it is, and how many there were.
    proposal: usize,
    proposals: usize,
}

impl Plan {
    fn new(shape: Shape) -> Result<Self, CandleError> {
        let Shape { rows, n, k, from, to, accumulate } = shape;
        let algorithm = sys::cublasLtMatmulAlgo_t { data: [0; 8] };
        // What exists already is destroyed where the next one can't be made.
        let mut plan = Self {
            operation: ptr::null_mut(),
            weights: ptr::null_mut(),
            x: ptr::null_mut(),
            out: ptr::null_mut(),
            algorithm,
            accumulate,
            proposal: 0,
            proposals: 0,
        };
        let sums = sys::cublasComputeType_t::CUBLAS_COMPUTE_32F;
        plan.operation = create_matmul_desc(sums, data_type(Format::F32)).map_err(failed)?;
        let transposed = blas::cublasOperation_t::CUBLAS_OP_T;
        let attribute = sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA;
        // SAFETY: the descriptor exists, and the attribute is an operation.
        unsafe { set_matmul_desc_attribute(plan.operation, attribute, ptr::from_ref(&transposed).cast(), size_of_val(&transposed)) }
            .map_err(failed)?;
        let layout = |format, rows: usize, columns: usize| {
            let long = i64::try_from(rows).map_err(|_| CudaError::Shape { what: "a matrix", found: rows, expected: i32::MAX as usize })?;
            create_matrix_layout(data_type(format), rows as u64, columns as u64, long).map_err(failed)
        };
        plan.weights = layout(from, k, n)?;
        plan.x = layout(from, k, rows)?;
        plan.out = layout(to, n, rows)?;
        Ok(plan)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        for layout in [self.weights, self.x, self.out].into_iter().filter(|layout| !layout.is_null()) {
            // SAFETY: the layout is this value's.
            let _ = unsafe { destroy_matrix_layout(layout) };
        }
        if !self.operation.is_null() {
            // SAFETY: as above.
            let _ = unsafe { destroy_matmul_desc(self.operation) };
        }
    }
}

struct Preference(sys::cublasLtMatmulPreference_t);

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: the preference is this value's.
        let _ = unsafe { destroy_matmul_pref(self.0) };
    }
}

/// An algorithm in cublasLt's numbers.
fn describe(algorithm: &sys::cublasLtMatmulAlgo_t) -> String {
    use sys::cublasLtMatmulAlgoConfigAttributes_t as Attribute;
    let number = |attribute| {
        let (mut value, mut written) = (0u32, 0);
        // SAFETY: the attributes asked for are 32 bits wide, and the algorithm is only read.
        let status = unsafe {
            sys::cublasLtMatmulAlgoConfigGetAttribute(algorithm, attribute, (&raw mut value).cast(), size_of::<u32>(), &raw mut written)
        };
        if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS { value.to_string() } else { "?".to_owned() }
    };
    let [id, tile, split] =
        [Attribute::CUBLASLT_ALGO_CONFIG_ID, Attribute::CUBLASLT_ALGO_CONFIG_TILE_ID, Attribute::CUBLASLT_ALGO_CONFIG_SPLITK_NUM]
            .map(number);
    format!("algorithm {id}, tile {tile}, split {split}")
}

fn failed(e: CublasError) -> CandleError {
    CandleError::Candle { action: "multiply with cublasLt", source: format!("{:?}", e.0).into() }
}

const fn data_type(format: Format) -> sys::cudaDataType {
    match format {
        Format::F32 => sys::cudaDataType::CUDA_R_32F,
        Format::F16 => sys::cudaDataType::CUDA_R_16F,
        Format::Bf16 => sys::cudaDataType::CUDA_R_16BF,
    }
}

/// Where matrices begin, as cublasLt expects it.
const ALIGNED: u64 = 256;
/// Algorithms that are tried.
const PROPOSALS: usize = 8;
/// Times that are taken of each, and launches in a time.
const TURNS: usize = 3;
const LAUNCHES: usize = 4;
