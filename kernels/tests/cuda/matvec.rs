//! Products of one row and what is fused with them.

use super::*;
use phase_kernels::cuda::*;

pub(super) const EPS: f32 = 1e-5;

/// A matrix, a row, a norm and biases of one shape.
pub(super) struct Case {
    pub(super) weights: Vec<f32>,
    pub(super) x: Vec<f32>,
    pub(super) gain: Vec<f32>,
    pub(super) shift: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

impl Case {
    pub(super) fn new(bench: &Bench, rows: usize, k: usize, batch: usize, seed: u64) -> Self {
        let plain = |seed, len| numbers(seed, len);
        Self {
            weights: bench.numbers(seed, rows * k),
            x: bench.numbers(seed + 1, batch * k),
            gain: plain(seed + 2, k),
            shift: plain(seed + 3, k),
            bias: plain(seed + 4, rows),
        }
    }
}

pub(super) fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh()),
        Activation::Relu => x.max(0.0),
        Activation::Gelu => unreachable!("the standard library has no error function"),
    }
}

/// Widths with whole and broken strips, several tiles, and the smallest.
pub(super) const SHAPES: [(usize, usize); 8] =
    [(40, 32), (7, 48), (96, 576), (64, 2048), (33, 4608), (16, 8192), (2200, 14_336), (5000, 256)];

#[test]
fn store_and_add_and_plain() {
    each(&FORMATS, |bench| check_plain(bench, &SHAPES));
}

pub(super) fn check_plain(bench: &Bench, shapes: &[(usize, usize)]) {
    let format = bench.format();
    for &(n, k) in shapes {
        let case = Case::new(bench, n, k, 1, 7);
        let [weights, x, gain, shift, bias] =
            [bench.narrow(&case.weights), bench.f32s(&case.x), bench.f32s(&case.gain), bench.f32s(&case.shift), bench.f32s(&case.bias)];
        for kind in [NormKind::Rms, NormKind::Layer] {
            let layer = kind == NormKind::Layer;
            let input = normed(&case.x, &case.gain, layer.then_some(&case.shift[..]), f64::from(EPS));
            let want = product(&case.weights, &input, Some(&case.bias));
            let norm = Some(Norm { kind, gain: gain.region(), shift: layer.then_some(shift.region()), eps: EPS });
            for finish in [Finish::Store, Finish::Plain(Activation::GeluTanh), Finish::Plain(Activation::Relu)] {
                let y = bench.poison(n * 4);
                let op = Matvec {
                    weights: weights.region(),
                    bias: Some(bias.region()),
                    x: x.region(),
                    embedding: None,
                    norm,
                    y: y.region(),
                    n,
                    k,
                    finish,
                };
                // SAFETY: the memory lives to the end of the block, which reads the result.
                unsafe { bench.kernels.matvec(&op) }.unwrap();
                let want: Vec<_> = match finish {
                    Finish::Plain(activation) => want.iter().map(|x| activated(activation, *x)).collect(),
                    _ => want.clone(),
                };
                assert_near(&format!("{finish:?} {kind:?} {format:?} {n}x{k}"), &bench.read_f32s(&y), &want, 3e-6);
            }
        }
        let before = numbers(11, n);
        let y = bench.f32s(&before);
        let op = Matvec {
            weights: weights.region(),
            bias: None,
            x: x.region(),
            embedding: None,
            norm: None,
            y: y.region(),
            n,
            k,
            finish: Finish::Add,
        };
        // SAFETY: as above.
        unsafe { bench.kernels.matvec(&op) }.unwrap();
        let x: Vec<_> = case.x.iter().map(|x| f64::from(*x)).collect();
        let want: Vec<_> = product(&case.weights, &x, None).iter().zip(&before).map(|(p, b)| p + f64::from(*b)).collect();
        assert_near(&format!("add {format:?} {n}x{k}"), &bench.read_f32s(&y), &want, 3e-6);
    }
}

#[test]
fn gated() {
    each(&FORMATS, |bench| check_gated(bench, &SHAPES));
}

pub(super) fn check_gated(bench: &Bench, shapes: &[(usize, usize)]) {
    let format = bench.format();
    for &(n, k) in shapes {
        let case = Case::new(bench, 2 * n, k, 1, 21);
        let [weights, x, gain, shift, bias] =
            [bench.narrow(&case.weights), bench.f32s(&case.x), bench.f32s(&case.gain), bench.f32s(&case.shift), bench.f32s(&case.bias)];
        for kind in [NormKind::Rms, NormKind::Layer] {
            let layer = kind == NormKind::Layer;
            let input = normed(&case.x, &case.gain, layer.then_some(&case.shift[..]), f64::from(EPS));
            let sums = product(&case.weights, &input, Some(&case.bias));
            let want: Vec<_> = (0..n).map(|i| activated(Activation::Silu, sums[i]) * sums[n + i]).collect();
            let y = bench.poison(n * 4);
            let op = Matvec {
                weights: weights.region(),
                bias: Some(bias.region()),
                x: x.region(),
                embedding: None,
                norm: Some(Norm { kind, gain: gain.region(), shift: layer.then_some(shift.region()), eps: EPS }),
                y: y.region(),
                n,
                k,
                finish: Finish::Gated(Activation::Silu),
            };
            // SAFETY: the memory lives to the end of the block, which reads the result.
            unsafe { bench.kernels.matvec(&op) }.unwrap();
            assert_near(&format!("gated {kind:?} {format:?} {n}x{k}"), &bench.read_f32s(&y), &want, 1e-5);
        }
    }
}

/// The head picks the first of equal scores, and moves the step on.
#[test]
fn head_picks_and_advances() {
    each(&FORMATS, check_head);
}

pub(super) fn check_head(bench: &Bench) {
    for kind in [NormKind::Rms, NormKind::Layer] {
        check_head_after(bench, kind);
    }
}

fn check_head_after(bench: &Bench, kind: NormKind) {
    let (format, layer) = (bench.format(), kind == NormKind::Layer);
    let (n, k) = (3001, 192);
    let mut case = Case::new(bench, n, k, 1, 33);
    let input = normed(&case.x, &case.gain, layer.then_some(&case.shift[..]), f64::from(EPS));
    let scores = product(&case.weights, &input, None);
    let best = (0..n).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
    // The same row again further on: its score is the same to the last bit.
    let row = case.weights[best * k..(best + 1) * k].to_vec();
    case.weights[(n - 1) * k..].copy_from_slice(&row);
    let (weights, x) = (bench.narrow(&case.weights), bench.f32s(&case.x));
    let (gain, shift) = (bench.f32s(&case.gain), bench.f32s(&case.shift));
    let (y, tokens, counters, out) = (bench.poison(n * 4), bench.u32s(&[9]), bench.u32s(&[0; 4]), bench.u32s(&[7; 4]));
    let step = bench.step(Step { tokens_out: out.region().address(), position: 5, index: 2, ..Step::default() });
    let at = counters.region().address();
    let op = Matvec {
        weights: weights.region(),
        bias: None,
        x: x.region(),
        embedding: None,
        norm: Some(Norm { kind, gain: gain.region(), shift: layer.then_some(shift.region()), eps: EPS }),
        y: y.region(),
        n,
        k,
        finish: Finish::Head(Head {
            tokens: tokens.region(),
            best: Region::new(at, 8),
            ticket: Region::new(at + 8, 4),
            advance: Some(step.region()),
        }),
    };
    for _ in 0..2 {
        // SAFETY: the memory lives to the end of the block, which reads the results.
        unsafe { bench.kernels.matvec(&op) }.unwrap();
        assert_near(&format!("head {kind:?} {format:?}"), &bench.read_f32s(&y), &product(&case.weights, &input, None), 3e-6);
    }
    let best = u32::try_from(best).unwrap();
    assert_eq!(bench.read_u32s(&tokens), [best]);
    assert_eq!(bench.read_u32s(&out), [7, 7, best, best]);
    assert_eq!(bench.read_u32s(&step)[5..7], [7, 4], "position and index after two steps");
    assert_eq!(bench.read_u32s(&counters), [0; 4], "counters are left as they were found");
}

/// Queries are rotated into `y`, keys and values go to their place in the cache, and nothing else is touched.
#[test]
fn rotate_and_append() {
    let shapes = [(4, 2, 16, 64, false), (9, 3, 64, 576, false), (8, 2, 128, 1024, true), (2, 1, 64, 4608, true)];
    each(&FORMATS, |bench| check_rotate(bench, &shapes));
}

pub(super) fn check_rotate(bench: &Bench, shapes: &[(usize, usize, usize, usize, bool)]) {
    for (shape, kind) in shapes.iter().flat_map(|shape| [(*shape, NormKind::Rms), (*shape, NormKind::Layer)]) {
        let ((heads, kv_heads, head_dim, k, embedded), format, layered) = (shape, bench.format(), kind == NormKind::Layer);
        let n = (heads + 2 * kv_heads) * head_dim;
        let case = Case::new(bench, n, k, 3, 41);
        let (layer, capacity, position) = (1, 12, 7);
        let cache_len = 2 * 2 * kv_heads * capacity * head_dim;
        let cache = bench.narrow(&vec![0.5; cache_len]);
        let freq = frequencies(head_dim);
        let (weights, rows) = (bench.narrow(&case.weights), bench.narrow(&case.x));
        let [gain, shift, bias, freqs] = [&case.gain, &case.shift, &case.bias, &freq].map(|values| bench.f32s(values));
        let (x, y, residual, tokens) =
            (bench.f32s(&case.x[2 * k..]), bench.poison(heads * head_dim * 4), bench.poison(k * 4), bench.u32s(&[2]));
        let narrow = |v| u32::try_from(v).unwrap();
        let step =
            bench.step(Step { cache: cache.region().address(), capacity: narrow(capacity), position: narrow(position), ..Step::default() });
        let place =
            Place { step: Some(step.region()), cache: cache.region(), capacity, start: position, batch: 1, kv_heads, head_dim, layer };
        let op = Matvec {
            weights: weights.region(),
            bias: Some(bias.region()),
            x: x.region(),
            embedding: embedded.then_some(Embedding {
                table: rows.region(),
                positions: None,
                tokens: tokens.region(),
                residual: residual.region(),
                place,
            }),
            norm: Some(Norm { kind, gain: gain.region(), shift: layered.then_some(shift.region()), eps: EPS }),
            y: y.region(),
            n,
            k,
            finish: Finish::Rotate(Rotation { heads, frequencies: Some(freqs.region()), place }),
        };
        // SAFETY: the memory lives to the end of the block, which reads the results.
        unsafe { bench.kernels.matvec(&op) }.unwrap();
        let input = normed(&case.x[2 * k..], &case.gain, layered.then_some(&case.shift[..]), f64::from(EPS));
        let mut sums = product(&case.weights, &input, Some(&case.bias));
        for head in sums.chunks_exact_mut(head_dim).take(heads + kv_heads) {
            rotated(head, position, &freq);
        }
        let what = format!("rotate {kind:?} {format:?} {heads}/{kv_heads}x{head_dim}");
        assert_near(&what, &bench.read_f32s(&y), &sums[..heads * head_dim], 5e-6);
        if embedded {
            assert_eq!(bench.read_f32s(&residual), case.x[2 * k..], "{what}: the residual stream");
        }
        let mut want = vec![0.5f64; cache_len];
        for (i, head) in sums[heads * head_dim..].chunks_exact(head_dim).enumerate() {
            let at = cache_at(&place, i / kv_heads, 0, i % kv_heads, position);
            want[at..at + head_dim].copy_from_slice(head);
        }
        assert_near(&what, &bench.read_narrow(&cache), &want, 5e-6 + epsilon(format));
    }
}

/// A buffer that is too short, or a width the kernels can't read, is refused before anything runs.
#[test]
fn short_buffers_are_refused() {
    let Some(bench) = Bench::new(Format::Bf16) else { return };
    let memory = bench.poison(4096);
    let op = |n, k| Matvec {
        weights: memory.region(),
        bias: None,
        x: memory.region(),
        embedding: None,
        norm: None,
        y: memory.region(),
        n,
        k,
        finish: Finish::Add,
    };
    // SAFETY: refused before a launch.
    let (short, odd) = unsafe { (bench.kernels.matvec(&op(64, 64)), bench.kernels.matvec(&op(4, 12))) };
    assert_eq!(short, Err(CudaError::Shape { what: "weights", found: 4096, expected: 8192 }));
    assert_eq!(odd, Err(CudaError::Shape { what: "k", found: 12, expected: 8 }));
}
