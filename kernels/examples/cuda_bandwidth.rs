//! Times each CUDA kernel of a decode step, and whole steps, against a plain read of the same memory in the same run; then what
//! surrounds a prompt's products.
//!
//! `cargo run --release -p phase-kernels --features cuda --example cuda_bandwidth [1b|8b] [CONTEXT]`
//!
//! A kernel is captured sixteen times in a row into a graph, each time on another layer's weights, so that no cache helps. What
//! surrounds a prompt's products has the same memory each time, much of which the second-level cache holds, as in a prompt.
//! Numbers are medians of several blocks.

#![expect(clippy::print_stdout, reason = "a program that measures and prints")]

use std::{env::args, error::Error, sync::Arc};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, sys};
use half::bf16;
use phase_kernels::cuda::{
    Activation, Ahead, AttentionDecode, AttentionPrefill, CudaError, Division, FewFinish, Finish, Format, Head, Kernels, Matvec, MatvecFew,
    Norm, NormKind, NormRows, PickTokens, Place, Region, RotateAppend, Rotation, Step,
};

type Failure = Box<dyn Error>;

/// A Llama's dimensions.
#[derive(Clone, Copy)]
struct Shape {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    vocab: usize,
}

const SMALL: Shape = Shape { hidden: 2048, inner: 8192, layers: 16, heads: 32, kv_heads: 8, head_dim: 64, vocab: 128_256 };
const LARGE: Shape = Shape { hidden: 4096, inner: 14_336, layers: 32, heads: 32, kv_heads: 8, head_dim: 128, vocab: 128_256 };

impl Shape {
    const fn qkv(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    const fn q(&self) -> usize {
        self.heads * self.head_dim
    }
}

struct Bench {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    shape: Shape,
    batch: usize,
    context: usize,
    layers: Vec<Layer>,
    head: Region,
    cache: Region,
    capacity: usize,
    gain: Region,
    frequencies: Region,
    x: Region,
    normed: Region,
    squares: Region,
    q: Region,
    attended: Region,
    inner: Region,
    scores: Region,
    /// What goes in and out of a prompt's kernels, `[PROMPT, hidden]` and `[PROMPT, qkv]` f32.
    rows: [Region; 2],
    partial: Region,
    tickets: Region,
    control: Region,
    tokens: Region,
    keep: Vec<CudaSlice<u8>>,
}

#[derive(Clone, Copy)]
struct Layer {
    qkv: Region,
    o: Region,
    gate_up: Region,
    down: Region,
}

impl Bench {
    fn new(shape: Shape, context: usize) -> Result<Self, Failure> {
        phase_kernels::cuda::driver()?;
        let device = CudaContext::new(0)?;
        println!("{}", device.name()?);
        // SAFETY: everything is on one stream.
        unsafe { device.disable_event_tracking() };
        let stream = device.new_stream()?;
        let kernels = Kernels::load(&stream, Format::Bf16)?;
        let nothing = Region::new(0, 0);
        let mut bench = Self {
            stream,
            kernels,
            shape,
            batch: 1,
            context,
            layers: Vec::new(),
            head: nothing,
            cache: nothing,
            capacity: (context + 512).max(2048),
            gain: nothing,
            frequencies: nothing,
            x: nothing,
            normed: nothing,
            squares: nothing,
            q: nothing,
            attended: nothing,
            inner: nothing,
            scores: nothing,
            rows: [nothing; 2],
            partial: nothing,
            tickets: nothing,
            control: nothing,
            tokens: nothing,
            keep: Vec::new(),
        };
        bench.fill()?;
        Ok(bench)
    }

    fn alloc(&mut self, bytes: usize) -> Result<Region, Failure> {
        let slice = self.stream.alloc_zeros::<u8>(bytes)?;
        let region = Region::new(slice.device_ptr(&self.stream).0, bytes);
        self.keep.push(slice);
        Ok(region)
    }

    /// Memory full of small random numbers.
    fn random(&mut self, elements: usize, pattern: &[u8]) -> Result<Region, Failure> {
        let region = self.alloc(elements * 2)?;
        for at in (0..elements * 2).step_by(pattern.len()) {
            let part = &pattern[..pattern.len().min(elements * 2 - at)];
            // SAFETY: the part ends inside the region, and the pattern outlives the copy, which is waited for below.
            unsafe { cudarc::driver::result::memcpy_htod_async(region.address() + at as u64, part, self.stream.cu_stream())? };
        }
        Ok(region)
    }

    fn floats(&mut self, values: &[f32]) -> Result<Region, Failure> {
        let region = self.alloc(values.len() * 4)?;
        // SAFETY: the region is as long as the values, which outlive the copy.
        unsafe { cudarc::driver::result::memcpy_htod_async(region.address(), values, self.stream.cu_stream())? };
        self.stream.synchronize()?;
        Ok(region)
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let mut state = 1u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.08
        };
        let pattern: Vec<u8> = (0..16 << 20).flat_map(|_| bf16::from_f32(next()).to_ne_bytes()).collect();
        let s = self.shape;
        for _ in 0..s.layers {
            let layer = Layer {
                qkv: self.random(s.qkv() * s.hidden, &pattern)?,
                o: self.random(s.hidden * s.q(), &pattern)?,
                gate_up: self.random(2 * s.inner * s.hidden, &pattern)?,
                down: self.random(s.hidden * s.inner, &pattern)?,
            };
            self.layers.push(layer);
        }
        self.head = self.random(s.vocab * s.hidden, &pattern)?;
        let batch = MOST_ROWS;
        self.cache = self.random(s.layers * 2 * batch * s.kv_heads * self.capacity * s.head_dim, &pattern)?;
        self.stream.synchronize()?;
        self.gain = self.floats(&vec![1.0; s.hidden])?;
        self.frequencies =
            self.floats(&(0..s.head_dim / 2).map(|i| 500_000f32.powf(-2.0 * i as f32 / s.head_dim as f32)).collect::<Vec<_>>())?;
        self.x = self.floats(&(0..batch * s.hidden).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<_>>())?;
        self.q = self.floats(&(0..batch * s.q()).map(|i| (i as f32 * 0.11).sin()).collect::<Vec<_>>())?;
        self.normed = self.alloc(batch * s.hidden * 4)?;
        self.squares = self.alloc(batch * s.hidden.div_ceil(16) * 4)?;
        self.attended = self.alloc(batch * s.q() * 4)?;
        self.inner = self.alloc(batch * s.inner * 4)?;
        self.scores = self.alloc(batch * s.vocab * 4)?;
        self.rows = [self.alloc(PROMPT * s.hidden * 4)?, self.alloc(PROMPT * s.qkv() * 4)?];
        self.partial = self.alloc(Kernels::partial_bytes(batch, s.heads, s.head_dim, 64))?;
        self.tickets = self.alloc(batch * s.heads * 4 + 16)?;
        self.control = self.alloc(32 + batch * 4)?;
        self.tokens = self.alloc(4 * batch * 4096)?;
        self.stream.synchronize()?;
        Ok(())
    }

    fn start(&self) -> Result<(), Failure> {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let step = Step {
            cache: self.cache.address(),
            tokens_out: self.tokens.address(),
            capacity: narrow(self.capacity),
            position: narrow(self.context),
            ..Step::default()
        };
        let words = [step.cache, step.tokens_out].into_iter().flat_map(u64::to_ne_bytes);
        let bytes: Vec<u8> = words.chain([step.capacity, step.position, 0, 0].into_iter().flat_map(u32::to_ne_bytes)).collect();
        // SAFETY: the region is as long, and the bytes outlive the copy.
        unsafe { cudarc::driver::result::memcpy_htod_async(self.control.address(), &bytes, self.stream.cu_stream())? };
        self.stream.synchronize()?;
        Ok(())
    }

    const fn place(&self, layer: usize) -> Place {
        let Shape { kv_heads, head_dim, .. } = self.shape;
        Place {
            step: Some(self.control),
            cache: self.cache,
            capacity: self.capacity,
            start: 0,
            batch: self.batch,
            kv_heads,
            head_dim,
            layer,
        }
    }

    const fn norm(&self) -> Norm {
        Norm { kind: NormKind::Rms, gain: self.gain, shift: None, eps: 1e-5 }
    }

    fn one(&self, weights: Region, x: Region, y: Region, n: usize, k: usize, finish: Finish) -> Result<(), CudaError> {
        let norm = (!matches!(finish, Finish::Add)).then(|| self.norm());
        let op = Matvec { weights, bias: None, x, embedding: None, norm, y, n, k, finish };
        // SAFETY: everything lives as long as the bench.
        unsafe { self.kernels.matvec(&op) }
    }

    /// A product of the normed stream. In the first layer nothing is left of the norm.
    fn few(&self, weights: Region, y: Region, n: usize, ahead: bool, finish: FewFinish) -> Result<(), CudaError> {
        let division = ahead.then_some(Division { squares: self.squares, eps: 1e-5 });
        let op = MatvecFew { weights, bias: None, x: self.normed, division, y, batch: self.batch, n, k: self.shape.hidden, finish };
        // SAFETY: as above.
        unsafe { self.kernels.matvec_few(&op) }
    }

    fn few_onto(&self, weights: Region, x: Region, k: usize) -> Result<(), CudaError> {
        let ahead = Ahead { gain: self.gain, out: self.normed, squares: self.squares };
        let finish = FewFinish::Add(Some(ahead));
        let op = MatvecFew { weights, bias: None, x, division: None, y: self.x, batch: self.batch, n: self.shape.hidden, k, finish };
        // SAFETY: as above.
        unsafe { self.kernels.matvec_few(&op) }
    }

    /// Norms rows of `x`.
    fn norm_rows(&self, x: Region, out: Region, rows: usize) -> Result<(), CudaError> {
        let op = NormRows { x, add: None, norm: self.norm(), out, rows, width: self.shape.hidden };
        // SAFETY: as above.
        unsafe { self.kernels.norm(&op) }
    }

    /// Rotates the queries and keys of `batch` sequences and appends to the first layer's cache.
    fn append(&self, batch: usize, len: usize) -> Result<(), CudaError> {
        let [q, qkv] = self.rows;
        let op = RotateAppend {
            qkv,
            wide_in: false,
            bias: None,
            q_norm: None,
            k_norm: None,
            eps: 1e-5,
            frequencies: Some(self.frequencies),
            q: Some(q),
            wide_out: false,
            last: None,
            place: Place { step: None, batch, ..self.place(0) },
            len,
            heads: self.shape.heads,
        };
        // SAFETY: as above.
        unsafe { self.kernels.rotate_append(&op) }
    }

    fn qkv(&self, layer: usize) -> Result<(), CudaError> {
        let (s, l) = (self.shape, self.layers[layer]);
        let rotation = Rotation { heads: s.heads, frequencies: Some(self.frequencies), place: self.place(layer) };
        if self.batch == 1 {
            return self.one(l.qkv, self.x, self.q, s.qkv(), s.hidden, Finish::Rotate(rotation));
        }
        self.few(l.qkv, self.q, s.qkv(), layer > 0, FewFinish::Rotate(rotation))
    }

    fn attention(&self, layer: usize) -> Result<(), CudaError> {
        let s = self.shape;
        let op = AttentionDecode {
            q: self.q,
            out: self.attended,
            narrow: self.batch > 1,
            partial: self.partial,
            tickets: self.tickets,
            place: self.place(layer),
            heads: s.heads,
            window: None,
            scale: 0.125,
            splits: self.kernels.splits(self.batch, s.heads, s.kv_heads),
        };
        // SAFETY: as above.
        unsafe { self.kernels.attention_decode(&op) }
    }

    fn o(&self, layer: usize) -> Result<(), CudaError> {
        let (s, l) = (self.shape, self.layers[layer]);
        if self.batch == 1 {
            return self.one(l.o, self.attended, self.x, s.hidden, s.q(), Finish::Add);
        }
        self.few_onto(l.o, self.attended, s.q())
    }

    fn gate_up(&self, layer: usize) -> Result<(), CudaError> {
        let (s, l) = (self.shape, self.layers[layer]);
        if self.batch == 1 {
            return self.one(l.gate_up, self.x, self.inner, s.inner, s.hidden, Finish::Gated(Activation::Silu));
        }
        self.few(l.gate_up, self.inner, s.inner, true, FewFinish::Gated(Activation::Silu))
    }

    fn down(&self, layer: usize) -> Result<(), CudaError> {
        let (s, l) = (self.shape, self.layers[layer]);
        if self.batch == 1 {
            return self.one(l.down, self.inner, self.x, s.hidden, s.inner, Finish::Add);
        }
        self.few_onto(l.down, self.inner, s.inner)
    }

    fn head(&self, _: usize) -> Result<(), CudaError> {
        let s = self.shape;
        let at = self.tickets.address() + (MOST_ROWS * s.heads * 4) as u64;
        let (best, ticket, tokens) = (Region::new(at, 8), Region::new(at + 8, 4), Region::new(self.control.address() + 32, MOST_ROWS * 4));
        if self.batch == 1 {
            let head = Head { tokens, best, ticket, advance: Some(self.control) };
            return self.one(self.head, self.x, self.scores, s.vocab, s.hidden, Finish::Head(head));
        }
        self.few(self.head, self.scores, s.vocab, true, FewFinish::Store)?;
        let op = PickTokens { scores: self.scores, tokens, ticket, advance: Some(self.control), batch: self.batch, vocab: s.vocab };
        // SAFETY: as above.
        unsafe { self.kernels.pick_tokens(&op) }
    }

    fn step(&self) -> Result<(), CudaError> {
        if self.batch > 1 {
            self.norm_rows(self.x, self.normed, self.batch)?;
        }
        for layer in 0..self.shape.layers {
            self.qkv(layer)?;
            self.attention(layer)?;
            self.o(layer)?;
            self.gate_up(layer)?;
            self.down(layer)?;
        }
        self.head(0)
    }

    /// Median seconds of one replay of what `body` enqueues.
    fn time(&self, replays: usize, body: impl Fn() -> Result<(), CudaError>) -> Result<f64, Failure> {
        self.start()?;
        body()?;
        self.stream.synchronize()?;
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let enqueued = body();
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0))?.ok_or("nothing was captured")?;
        enqueued?;
        let event = || self.stream.context().new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT));
        let (from, to) = (event()?, event()?);
        let mut seconds = Vec::new();
        for _ in 0..7 {
            self.start()?;
            from.record(&self.stream)?;
            for _ in 0..replays {
                graph.launch()?;
            }
            to.record(&self.stream)?;
            seconds.push(f64::from(from.elapsed_ms(&to)?) / 1e3 / replays as f64);
        }
        seconds.sort_by(f64::total_cmp);
        Ok(seconds[seconds.len() / 2])
    }

    fn kernels(&self, bandwidth: f64) -> Result<(), Failure> {
        type Launch = fn(&Bench, usize) -> Result<(), CudaError>;
        let s = self.shape;
        let kv = (2 * self.batch * s.kv_heads * s.head_dim * self.context * 2) as f64;
        let cases: [(&str, f64, Launch); 6] = [
            ("qkv", (s.qkv() * s.hidden * 2) as f64, Self::qkv),
            ("attention", kv, Self::attention),
            ("o", (s.hidden * s.q() * 2) as f64, Self::o),
            ("gate_up", (2 * s.inner * s.hidden * 2) as f64, Self::gate_up),
            ("down", (s.hidden * s.inner * 2) as f64, Self::down),
            ("head", (s.vocab * s.hidden * 2) as f64, Self::head),
        ];
        for (name, bytes, launch) in cases {
            let seconds = self.time(10, || (0..16).try_for_each(|layer| launch(self, layer)))? / 16.0;
            let over = (seconds - bytes / bandwidth) * 1e6;
            println!("  {name:9} {:8.2} us  {:6.0} GB/s  {over:6.2} us over its bytes", seconds * 1e6, bytes / seconds / 1e9);
        }
        Ok(())
    }

    /// What surrounds the products of a prompt, and of a step of 64 rows.
    fn prompt(&self) -> Result<(), Failure> {
        let s = self.shape;
        let [x, y] = self.rows;
        let per = |seconds: f64, bytes: usize| format!("{:8.2} us  {:6.0} GB/s", seconds * 1e6, bytes as f64 / seconds / 1e9);
        for (batch, len) in [(64, 1), (1, 512), (1, PROMPT)] {
            let rows = batch * len;
            let norm = self.time(10, || (0..8).try_for_each(|_| self.norm_rows(x, y, rows)))? / 8.0;
            println!("{batch} x {len}: norm      {}", per(norm, rows * s.hidden * (4 + 2)));
            let append = self.time(10, || (0..8).try_for_each(|_| self.append(batch, len)))? / 8.0;
            println!("{batch} x {len}: rotation  {}", per(append, rows * s.qkv() * 2 * 2));
            if len == 1 {
                continue;
            }
            let place = Place { step: None, batch, ..self.place(0) };
            let op = AttentionPrefill { q: x, out: y, place, len, heads: s.heads, window: None, scale: 0.125 };
            // SAFETY: as above.
            let attention = self.time(10, || (0..8).try_for_each(|_| unsafe { self.kernels.attention_prefill(&op) }))? / 8.0;
            let flops = 2.0 * (len * len * s.q()) as f64;
            let tflops = flops / attention / 1e12;
            println!("{batch} x {len}: attention {:8.2} us  {tflops:6.0} TFLOP/s of the causal half", attention * 1e6);
        }
        Ok(())
    }
}

const MOST_ROWS: usize = 8;
/// Positions of the longest prompt.
const PROMPT: usize = 2048;

fn main() -> Result<(), Failure> {
    let mut args = args().skip(1);
    let shape = if args.next().as_deref() == Some("8b") { LARGE } else { SMALL };
    let context = args.next().map_or(Ok(700), |n| n.parse())?;
    let mut bench = Bench::new(shape, context)?;
    let all = Region::new(bench.head.address(), bench.head.bytes());
    let read = bench.time(10, || {
        // SAFETY: both regions live as long as the bench.
        unsafe { bench.kernels.read_memory(all, bench.tokens) }
    })?;
    let bandwidth = all.bytes() as f64 / read;
    let s = shape;
    let layer = s.qkv() * s.hidden + s.hidden * s.q() + 3 * s.inner * s.hidden;
    let weights = 2.0 * (s.layers * layer + s.vocab * s.hidden) as f64;
    println!("read {:.0} GB/s; weights {:.3} GB, floor {:.4} ms a step", bandwidth / 1e9, weights / 1e9, weights / bandwidth * 1e3);
    for batch in [1, 2, 8] {
        bench.batch = batch;
        bench.kernels.set_overlap(false);
        let step = |bench: &Bench, what: &str| -> Result<(), Failure> {
            let seconds = bench.time(40, || bench.step())?;
            println!(
                "batch {batch} context {context} {what}: {:.4} ms a step, {:.0} tok/s, {:.3} of the floor",
                seconds * 1e3,
                batch as f64 / seconds,
                weights / bandwidth / seconds
            );
            Ok(())
        };
        step(&bench, "without overlap")?;
        bench.kernels.set_overlap(true);
        step(&bench, "as it is")?;
        bench.kernels(bandwidth)?;
    }
    bench.prompt()
}
