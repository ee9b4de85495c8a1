//! Products of few rows and what is fused with them.

use super::*;
use phase_kernels::cuda::*;

const EPS: f32 = 1e-5;

/// A matrix, a row, a norm and biases of one shape.
struct Case {
    weights: Vec<f32>,
    x: Vec<f32>,
    gain: Vec<f32>,
    shift: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(bench: &Bench, rows: usize, k: usize, batch: usize, seed: u64) -> Self {
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

fn activated(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => 0.5 * x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044_715 * x.powi(3))).tanh()),
        Activation::Relu => x.max(0.0),
        Activation::Gelu => unreachable!("the standard library has no error function"),
    }
}

/// Widths with whole and broken strips, several tiles, and the smallest.
const SHAPES: [(usize, usize); 8] = [(40, 32), (7, 48), (96, 576), (64, 2048), (33, 4608), (16, 8192), (2200, 14_336), (5000, 256)];

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
            for (finish, late) in [
                (Finish::Store, false),
                (Finish::Store, true),
                (Finish::Plain(Activation::GeluTanh), false),
                (Finish::Plain(Activation::Relu), true),
            ] {
                bench.kernels.set_late_norms(late);
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
                assert_near(&format!("{finish:?} {kind:?} {format:?} {n}x{k} late {late}"), &bench.read_f32s(&y), &want, 3e-6);
            }
        }
        bench.kernels.set_late_norms(false);
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
        let (weights, x, gain, bias) = (bench.narrow(&case.weights), bench.f32s(&case.x), bench.f32s(&case.gain), bench.f32s(&case.bias));
        let sums = product(&case.weights, &normed(&case.x, &case.gain, None, f64::from(EPS)), Some(&case.bias));
        let want: Vec<_> = (0..n).map(|i| activated(Activation::Silu, sums[i]) * sums[n + i]).collect();
        for late in [false, true] {
            bench.kernels.set_late_norms(late);
            let y = bench.poison(n * 4);
            let op = Matvec {
                weights: weights.region(),
                bias: Some(bias.region()),
                x: x.region(),
                embedding: None,
                norm: Some(Norm { kind: NormKind::Rms, gain: gain.region(), shift: None, eps: EPS }),
                y: y.region(),
                n,
                k,
                finish: Finish::Gated(Activation::Silu),
            };
            // SAFETY: the memory lives to the end of the block, which reads the result.
            unsafe { bench.kernels.matvec(&op) }.unwrap();
            assert_near(&format!("gated {format:?} {n}x{k} late {late}"), &bench.read_f32s(&y), &want, 1e-5);
        }
        bench.kernels.set_late_norms(false);
    }
}

/// The head picks the first of equal scores, and moves the step on.
#[test]
fn head_picks_and_advances() {
    each(&FORMATS, check_head);
}

pub(super) fn check_head(bench: &Bench) {
    let format = bench.format();
    let (n, k) = (3001, 192);
    let mut case = Case::new(bench, n, k, 1, 33);
    let input = normed(&case.x, &case.gain, None, f64::from(EPS));
    let scores = product(&case.weights, &input, None);
    let best = (0..n).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).unwrap();
    // The same row again further on: its score is the same to the last bit.
    let row = case.weights[best * k..(best + 1) * k].to_vec();
    case.weights[(n - 1) * k..].copy_from_slice(&row);
    let (weights, x, gain) = (bench.narrow(&case.weights), bench.f32s(&case.x), bench.f32s(&case.gain));
    let (y, tokens, counters, out) = (bench.poison(n * 4), bench.u32s(&[9]), bench.u32s(&[0; 4]), bench.u32s(&[7; 4]));
    let step = bench.step(Step { tokens_out: out.region().address(), position: 5, index: 2, ..Step::default() });
    let at = counters.region().address();
    let op = Matvec {
        weights: weights.region(),
        bias: None,
        x: x.region(),
        embedding: None,
        norm: Some(Norm { kind: NormKind::Rms, gain: gain.region(), shift: None, eps: EPS }),
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
    for late in [true, false] {
        bench.kernels.set_late_norms(late);
        // SAFETY: the memory lives to the end of the block, which reads the results.
        unsafe { bench.kernels.matvec(&op) }.unwrap();
        assert_near(&format!("head {format:?} late {late}"), &bench.read_f32s(&y), &product(&case.weights, &input, None), 3e-6);
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
    each(&FORMATS, |bench| {
        for late in [false, true] {
            bench.kernels.set_late_norms(late);
            check_rotate(bench, &shapes);
        }
    });
}

pub(super) fn check_rotate(bench: &Bench, shapes: &[(usize, usize, usize, usize, bool)]) {
    let format = bench.format();
    for &(heads, kv_heads, head_dim, k, embedded) in shapes {
        let n = (heads + 2 * kv_heads) * head_dim;
        let case = Case::new(bench, n, k, 3, 41);
        let (layer, capacity, position) = (1, 12, 7);
        let cache_len = 2 * 2 * kv_heads * capacity * head_dim;
        let cache = bench.narrow(&vec![0.5; cache_len]);
        let freq = frequencies(head_dim);
        let (weights, rows, gain, bias, freqs) =
            (bench.narrow(&case.weights), bench.narrow(&case.x), bench.f32s(&case.gain), bench.f32s(&case.bias), bench.f32s(&freq));
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
            norm: Some(Norm { kind: NormKind::Rms, gain: gain.region(), shift: None, eps: EPS }),
            y: y.region(),
            n,
            k,
            finish: Finish::Rotate(Rotation { heads, frequencies: Some(freqs.region()), place }),
        };
        // SAFETY: the memory lives to the end of the block, which reads the results.
        unsafe { bench.kernels.matvec(&op) }.unwrap();
        let mut sums = product(&case.weights, &normed(&case.x[2 * k..], &case.gain, None, f64::from(EPS)), Some(&case.bias));
        for head in sums.chunks_exact_mut(head_dim).take(heads + kv_heads) {
            rotated(head, position, &freq);
        }
        let what = format!("rotate {format:?} {heads}/{kv_heads}x{head_dim}");
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

#[test]
fn few_rows() {
    each(&[Format::F16, Format::Bf16], |bench| check_few(bench, &SHAPES, &[1, 2, 5, 8]));
}

pub(super) fn check_few(bench: &Bench, shapes: &[(usize, usize)], batches: &[usize]) {
    let format = bench.format();
    for &(n, k) in shapes {
        for &batch in batches {
            let case = Case::new(bench, 2 * n, k, batch, 51);
            let (weights, x, bias) = (bench.narrow(&case.weights), bench.narrow(&case.x), bench.f32s(&case.bias));
            let before = numbers(5, batch * n);
            let sums: Vec<_> = case
                .x
                .chunks_exact(k)
                .map(|x| product(&case.weights, &x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), Some(&case.bias)))
                .collect();
            for finish in [FewFinish::Store, FewFinish::Add(None), FewFinish::Gated(Activation::Silu), FewFinish::Plain(Activation::Relu)] {
                let y = match finish {
                    FewFinish::Add(_) => bench.f32s(&before),
                    FewFinish::Store => bench.poison(batch * n * 4),
                    _ => bench.poison(batch * n * 2),
                };
                let (weights, bias) = (weights.region(), Some(bias.region()));
                let op = MatvecFew { weights, bias, x: x.region(), division: None, y: y.region(), batch, n, k, finish };
                // SAFETY: the memory lives to the end of the block, which reads the result.
                unsafe { bench.kernels.matvec_few(&op) }.unwrap();
                let of = |row: usize, i: usize| match finish {
                    FewFinish::Add(_) => sums[row][i] + f64::from(before[row * n + i]),
                    FewFinish::Gated(activation) => activated(activation, sums[row][i]) * sums[row][n + i],
                    FewFinish::Plain(activation) => activated(activation, sums[row][i]),
                    _ => sums[row][i],
                };
                let want: Vec<_> = (0..batch * n).map(|i| of(i / n, i % n)).collect();
                let narrow = matches!(finish, FewFinish::Gated(_) | FewFinish::Plain(_));
                let (got, tolerance) = if narrow { (bench.read_narrow(&y), epsilon(format)) } else { (bench.read_f32s(&y), 5e-6) };
                assert_near(&format!("{finish:?} {format:?} {batch} of {n}x{k}"), &got, &want, tolerance);
            }
        }
    }
}

#[test]
fn few_rows_rotate() {
    each(&[Format::F16, Format::Bf16], |bench| check_few_rotate(bench, &[(4, 2, 16, 64, 3), (9, 3, 64, 576, 8), (8, 2, 128, 1024, 2)]));
}

pub(super) fn check_few_rotate(bench: &Bench, shapes: &[(usize, usize, usize, usize, usize)]) {
    let format = bench.format();
    for &(heads, kv_heads, head_dim, k, batch) in shapes {
        let n = (heads + 2 * kv_heads) * head_dim;
        let case = Case::new(bench, n, k, batch, 61);
        let (layer, capacity, position) = (1, 12, 7);
        let cache_len = 2 * 2 * batch * kv_heads * capacity * head_dim;
        let (cache, freq) = (bench.narrow(&vec![0.5; cache_len]), frequencies(head_dim));
        let (weights, x, bias, freqs) = (bench.narrow(&case.weights), bench.narrow(&case.x), bench.f32s(&case.bias), bench.f32s(&freq));
        let y = bench.poison(batch * heads * head_dim * 4);
        let place = Place { step: None, cache: cache.region(), capacity, start: position, batch, kv_heads, head_dim, layer };
        let finish = FewFinish::Rotate(Rotation { heads, frequencies: Some(freqs.region()), place });
        let (weights, bias) = (weights.region(), Some(bias.region()));
        let op = MatvecFew { weights, bias, x: x.region(), division: None, y: y.region(), batch, n, k, finish };
        // SAFETY: the memory lives to the end of the block, which reads the results.
        unsafe { bench.kernels.matvec_few(&op) }.unwrap();
        let (mut queries, mut want) = (Vec::new(), vec![0.5f64; cache_len]);
        for (row, x) in case.x.chunks_exact(k).enumerate() {
            let mut sums = product(&case.weights, &x.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), Some(&case.bias));
            for head in sums.chunks_exact_mut(head_dim).take(heads + kv_heads) {
                rotated(head, position, &freq);
            }
            queries.extend_from_slice(&sums[..heads * head_dim]);
            for (i, head) in sums[heads * head_dim..].chunks_exact(head_dim).enumerate() {
                let at = cache_at(&place, i / kv_heads, row, i % kv_heads, position);
                want[at..at + head_dim].copy_from_slice(head);
            }
        }
        let what = format!("few rotate {format:?} {batch} of {heads}/{kv_heads}x{head_dim}");
        assert_near(&what, &bench.read_f32s(&y), &queries, 5e-6);
        assert_near(&what, &bench.read_narrow(&cache), &want, 5e-6 + epsilon(format));
    }
}

#[test]
fn few_rows_through_a_norm() {
    // Outputs of the first product, inputs of both: whole and broken tiles and strips, more tiles than blocks.
    let shapes = [(40, 32), (96, 576), (2048, 256), (4608, 64)];
    each(&[Format::F16, Format::Bf16], |bench| check_few_late(bench, &shapes, &[1, 2, 5, 8]));
}

/// A sum that leaves a norm ahead, and products that divide: together they are the norm and the product.
pub(super) fn check_few_late(bench: &Bench, shapes: &[(usize, usize)], batches: &[usize]) {
    let format = bench.format();
    for (&(width, k), &batch) in shapes.iter().flat_map(|shape| batches.iter().map(move |batch| (shape, batch))) {
        let (first, second) = (Case::new(bench, width, k, batch, 71), Case::new(bench, 66, width, batch, 81));
        let before: Vec<f32> = numbers(91, batch * width).iter().map(|x| x * 3.0).collect();
        let (weights, x, gain, y) = (bench.narrow(&first.weights), bench.narrow(&first.x), bench.f32s(&second.gain), bench.f32s(&before));
        let (out, squares) = (bench.poison(batch * width * 2), bench.poison(batch * width.div_ceil(16) * 4));
        let op = MatvecFew {
            weights: weights.region(),
            bias: None,
            x: x.region(),
            division: None,
            y: y.region(),
            batch,
            n: width,
            k,
            finish: FewFinish::Add(Some(Ahead { gain: gain.region(), out: out.region(), squares: squares.region() })),
        };
        // SAFETY: the memory lives to the end of the block, which reads the results.
        unsafe { bench.kernels.matvec_few(&op) }.unwrap();
        let what = format!("{format:?} {batch} of {width}x{k}");
        let sums = |row: usize| {
            let x: Vec<_> = first.x[row * k..][..k].iter().map(|x| f64::from(*x)).collect();
            let sums = product(&first.weights, &x, None);
            sums.iter().zip(&before[row * width..]).map(|(sum, before)| sum + f64::from(*before)).collect::<Vec<_>>()
        };
        let residual: Vec<Vec<f64>> = (0..batch).map(sums).collect();
        assert_near(&format!("residual of {what}"), &bench.read_f32s(&y), &residual.concat(), 5e-6);
        let ahead = residual.iter().flat_map(|row| row.iter().zip(&second.gain).map(|(x, gain)| x * f64::from(*gain)));
        assert_near(&format!("ahead of {what}"), &bench.read_narrow(&out), &ahead.collect::<Vec<_>>(), 5e-6 + epsilon(format));
        let tiles = residual.iter().flat_map(|row| row.chunks(16).map(|tile| tile.iter().map(|x| x * x).sum()));
        assert_near(&format!("squares of {what}"), &bench.read_f32s(&squares), &tiles.collect::<Vec<_>>(), 2e-5);
        // The second product is held against what it was given, so that rounding to 16 bits is not in its tolerance.
        let given = bench.read_narrow(&out);
        let (weights, bias) = (bench.narrow(&second.weights), bench.f32s(&second.bias));
        for finish in [FewFinish::Store, FewFinish::Gated(Activation::Silu), FewFinish::Plain(Activation::Relu)] {
            let n = if matches!(finish, FewFinish::Gated(_)) { 33 } else { 66 };
            let narrow = !matches!(finish, FewFinish::Store);
            let y = bench.poison(batch * n * if narrow { 2 } else { 4 });
            let op = MatvecFew {
                weights: weights.region(),
                bias: Some(bias.region()),
                x: out.region(),
                division: Some(Division { squares: squares.region(), eps: EPS }),
                y: y.region(),
                batch,
                n,
                k: width,
                finish,
            };
            // SAFETY: as above.
            unsafe { bench.kernels.matvec_few(&op) }.unwrap();
            let want = residual.iter().zip(given.chunks_exact(width)).flat_map(|(row, given)| {
                let mean = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
                let x: Vec<_> = given.iter().map(|x| f64::from(*x) / (mean + f64::from(EPS)).sqrt()).collect();
                let sums = product(&second.weights, &x, Some(&second.bias));
                (0..n).map(move |i| match finish {
                    FewFinish::Gated(activation) => activated(activation, sums[i]) * sums[n + i],
                    FewFinish::Plain(activation) => activated(activation, sums[i]),
                    _ => sums[i],
                })
            });
            let (got, tolerance) = if narrow { (bench.read_narrow(&y), epsilon(format)) } else { (bench.read_f32s(&y), 5e-6) };
            assert_near(&format!("{finish:?} after {what}"), &got, &want.collect::<Vec<_>>(), 5e-6 + tolerance);
        }
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
