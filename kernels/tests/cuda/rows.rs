//! The steps between products of many rows.

use super::*;
use phase_kernels::cuda::*;

#[test]
fn embed() {
    each(&FORMATS, check_embed);
}

pub(super) fn check_embed(bench: &Bench) {
    let format = bench.format();
    let (vocab, width, batch, len, start) = (50, 72, 2, 3, 4);
    let (table, positions) = (bench.numbers(1, vocab * width), bench.numbers(2, 16 * width));
    let tokens = [3u32, 49, 0, 7, 7, 21];
    let (t, e, p, x) = (bench.u32s(&tokens), bench.narrow(&table), bench.narrow(&positions), bench.poison(6 * width * 4));
    let cache = bench.narrow(&[0.0; 2 * 2 * 8 * 2]);
    let place = Place { step: None, cache: cache.region(), capacity: 8, start, batch, kv_heads: 1, head_dim: 2, layer: 0 };
    for learned in [false, true] {
        let op =
            Embed { tokens: t.region(), table: e.region(), positions: learned.then_some(p.region()), x: x.region(), place, len, width };
        // SAFETY: the memory lives to the end of the block; tokens and positions are inside their tables.
        unsafe { bench.kernels.embed(&op) }.unwrap();
        let of = |row: usize, i: usize| {
            let learned = if learned { positions[(start + row % len) * width + i] } else { 0.0 };
            f64::from(table[tokens[row] as usize * width + i]) + f64::from(learned)
        };
        let want: Vec<_> = (0..6 * width).map(|i| of(i / width, i % width)).collect();
        assert_near(&format!("embed {format:?}"), &bench.read_f32s(&x), &want, 1e-6);
    }
}

#[test]
fn norm() {
    each(&FORMATS, |bench| check_norm(bench, &[(3, 32), (2, 2048), (2, 2052), (2, 9216)]));
}

pub(super) fn check_norm(bench: &Bench, shapes: &[(usize, usize)]) {
    let format = bench.format();
    for &(rows, width) in shapes {
        let (x, add, gain, shift) = (numbers(1, rows * width), numbers(2, width), numbers(3, width), numbers(4, width));
        for kind in [NormKind::Rms, NormKind::Layer] {
            for added in [false, true] {
                let (dx, da, dg, ds) = (bench.f32s(&x), bench.f32s(&add), bench.f32s(&gain), bench.f32s(&shift));
                let out = bench.poison(rows * width * format.size_bytes());
                let layer = kind == NormKind::Layer;
                let norm = Norm { kind, gain: dg.region(), shift: layer.then_some(ds.region()), eps: 1e-5 };
                let op = NormRows { x: dx.region(), add: added.then_some(da.region()), norm, out: out.region(), rows, width };
                // SAFETY: the memory lives to the end of the block, which reads the results.
                unsafe { bench.kernels.norm(&op) }.unwrap();
                let sums: Vec<f32> = x.iter().enumerate().map(|(i, x)| if added { x + add[i % width] } else { *x }).collect();
                let want: Vec<_> = sums.chunks_exact(width).flat_map(|row| normed(row, &gain, layer.then_some(&shift[..]), 1e-5)).collect();
                let what = format!("norm {kind:?} {format:?} {rows}x{width}");
                assert_near(&what, &bench.read_narrow(&out), &want, 2e-6 + epsilon(format));
                assert_eq!(bench.read_f32s(&dx), sums, "{what}: the sums are kept");
            }
        }
    }
}

#[test]
fn rotate_append() {
    each(&FORMATS, check_rotate_append);
}

/// Query heads, key and value heads, head size, whether heads are normed, biases, f32 on both sides.
const HEADS: [(usize, usize, usize, bool, bool, bool); 9] = [
    (4, 2, 16, true, true, true),
    (3, 1, 64, false, true, false),
    // More heads than a block takes, the last block not full.
    (32, 8, 64, false, false, false),
    (2, 2, 128, true, true, false),
    (17, 1, 128, true, false, true),
    (2, 1, 80, false, true, true),
    (7, 3, 96, true, true, false),
    (2, 1, 256, true, false, false),
    // Halves that no 16 bytes divide.
    (3, 2, 20, true, true, false),
];

pub(super) fn check_rotate_append(bench: &Bench) {
    for (index, heads) in HEADS.into_iter().enumerate() {
        let (batch, len, start) = [(2, 5, 3), (3, 1, 130), (1, 4, 0)][index % 3];
        for (queries, ends) in [(true, true), (true, false), (false, true), (false, false)] {
            check_append(bench, heads, batch, len, start, (queries, ends));
        }
    }
}

/// `asked`: whether the queries are asked for, and those of last positions.
fn check_append(
    bench: &Bench,
    (heads, kv_heads, head_dim, normed_heads, biased, wide): (usize, usize, usize, bool, bool, bool),
    batch: usize,
    len: usize,
    start: usize,
    asked: (bool, bool),
) {
    let (format, capacity, layer) = (bench.format(), start + len + 3, 1);
    let (all, rows, width) = (heads + 2 * kv_heads, batch * len, heads * head_dim);
    let qkv = bench.numbers(1, rows * all * head_dim);
    let bias = if biased { numbers(2, all * head_dim) } else { vec![0.0; all * head_dim] };
    let (q_norm, k_norm, freq) = (numbers(3, head_dim), numbers(4, head_dim), frequencies(head_dim));
    let cache_len = 2 * 2 * batch * kv_heads * capacity * head_dim;
    let cache = bench.narrow(&vec![0.25; cache_len]);
    let d_qkv = if wide { bench.f32s(&qkv) } else { bench.narrow(&qkv) };
    let [d_bias, d_q, d_k, d_freq] = [&bias, &q_norm, &k_norm, &freq].map(|values| bench.f32s(values));
    let (q, last) = (bench.poison(rows * width * if wide { 4 } else { format.size_bytes() }), bench.poison(batch * width * 4));
    let place = Place { step: None, cache: cache.region(), capacity, start, batch, kv_heads, head_dim, layer };
    let op = RotateAppend {
        qkv: d_qkv.region(),
        wide_in: wide,
        bias: biased.then_some(d_bias.region()),
        q_norm: normed_heads.then_some(d_q.region()),
        k_norm: normed_heads.then_some(d_k.region()),
        eps: 1e-6,
        frequencies: Some(d_freq.region()),
        q: asked.0.then_some(q.region()),
        wide_out: wide,
        last: asked.1.then_some(last.region()),
        place,
        len,
        heads,
    };
    // SAFETY: the memory lives to the end of the block, which reads the results.
    unsafe { bench.kernels.rotate_append(&op) }.unwrap();
    let (mut want_q, mut want_last, mut want_cache) = (Vec::new(), Vec::new(), vec![0.25f64; cache_len]);
    for (index, head_in) in qkv.chunks_exact(head_dim).enumerate() {
        let (head, row) = (index % all, index / all);
        let sums: Vec<f32> = head_in.iter().zip(&bias[head * head_dim..]).map(|(x, b)| x + b).collect();
        let gain = if head < heads { &q_norm } else { &k_norm };
        let rotates = head < heads + kv_heads;
        let mut x: Vec<f64> =
            if normed_heads && rotates { normed(&sums, gain, None, 1e-6) } else { sums.iter().map(|x| f64::from(*x)).collect() };
        if rotates {
            rotated(&mut x, start + row % len, &freq);
        }
        if head < heads {
            want_q.extend_from_slice(&x);
            if row % len == len - 1 {
                want_last.extend_from_slice(&x);
            }
        } else {
            let of = head - heads;
            let at = cache_at(&place, of / kv_heads, row / len, of % kv_heads, start + row % len);
            want_cache[at..at + head_dim].copy_from_slice(&x);
        }
    }
    let what = format!("rotate_append {format:?} {heads}/{kv_heads}x{head_dim} {batch} x {len} at {start}, asked {asked:?}");
    if asked.0 {
        let got = if wide { bench.read_f32s(&q) } else { bench.read_narrow(&q) };
        assert_near(&what, &got, &want_q, 2e-6 + epsilon(format));
    }
    if asked.1 {
        assert_near(&what, &bench.read_f32s(&last), &want_last, 4e-6);
    }
    assert_near(&what, &bench.read_narrow(&cache), &want_cache, 2e-6 + epsilon(format));
}

#[test]
fn activate() {
    each(&FORMATS, check_activate);
}

pub(super) fn check_activate(bench: &Bench) {
    let format = bench.format();
    let (rows, width) = (3, 2056);
    for gated in [true, false] {
        let inputs = width * if gated { 2 } else { 1 };
        let (x, bias) = (bench.numbers(1, rows * inputs), numbers(2, inputs));
        let (dx, db, out) = (bench.narrow(&x), bench.f32s(&bias), bench.poison(rows * width * format.size_bytes()));
        let op = Activate { x: dx.region(), bias: Some(db.region()), out: out.region(), rows, width, gated, activation: Activation::Silu };
        // SAFETY: the memory lives to the end of the block, which reads the result.
        unsafe { bench.kernels.activate(&op) }.unwrap();
        let at = |row: usize, i: usize| f64::from(x[row * inputs + i]) + f64::from(bias[i]);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let of = |row, i| silu(at(row, i)) * if gated { at(row, width + i) } else { 1.0 };
        let want: Vec<_> = (0..rows * width).map(|i| of(i / width, i % width)).collect();
        assert_near(&format!("activate {format:?}"), &bench.read_narrow(&out), &want, 2e-6 + epsilon(format));
    }
}

#[test]
fn last_rows_and_picked_tokens() {
    each(&[Format::F32], check_last_and_pick);
}

pub(super) fn check_last_and_pick(bench: &Bench) {
    let (batch, len, width) = (3, 4, 1500);
    let mut x = numbers(1, batch * len * width);
    // The row of sequence 1 has its highest score twice, and a NaN before it.
    let row = (len + len - 1) * width;
    (x[row + 3], x[row + 40], x[row + 1400]) = (f32::NAN, 5.0, 5.0);
    let (dx, out) = (bench.f32s(&x), bench.poison(batch * width * 4));
    // SAFETY: the memory lives to the end of the test, which reads the results.
    unsafe { bench.kernels.last_rows(&LastRows { x: dx.region(), out: out.region(), batch, len, width }) }.unwrap();
    let got = bench.read_f32s(&out);
    for sequence in 0..batch {
        let want = &x[(sequence * len + len - 1) * width..][..width];
        let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got[sequence * width..][..width]), bits(want));
    }
    let (tokens, ticket, picked) = (bench.u32s(&[0; 3]), bench.u32s(&[0]), bench.u32s(&[0; 6]));
    let step = bench.step(Step { tokens_out: picked.region().address(), index: 1, position: 8, ..Step::default() });
    let op = PickTokens {
        scores: out.region(),
        tokens: tokens.region(),
        ticket: ticket.region(),
        advance: Some(step.region()),
        batch,
        vocab: width,
    };
    // SAFETY: as above.
    unsafe { bench.kernels.pick_tokens(&op) }.unwrap();
    let best = |row: &[f32]| (0..width).filter(|i| !row[*i].is_nan()).rev().max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
    let want: Vec<u32> = got.chunks_exact(width).map(|row| u32::try_from(best(row)).unwrap()).collect();
    assert_eq!(want[1], 40, "the reference takes the first of equals");
    assert_eq!(bench.read_u32s(&tokens), want);
    assert_eq!(bench.read_u32s(&picked)[3..], want);
    assert_eq!(bench.read_u32s(&step)[5..7], [9, 2], "position and index");
    assert_eq!(bench.read_u32s(&ticket), [0]);
}
