//! Products of two to eight rows and what is fused with them.

use super::{
    matvec::{Case, EPS, SHAPES, activated},
    *,
};
use phase_kernels::cuda::*;

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
