use proptest::prelude::*;

use super::{gelu_tanh, layer_norm, rms_norm, silu_mul};
use crate::reference::{TEAMS, assert_close, numbers};

fn norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, eps: f32) -> Vec<f64> {
    let row = |x: &[f32]| {
        let count = x.len() as f64;
        let mean = bias.map_or(0.0, |_| x.iter().copied().map(f64::from).sum::<f64>() / count);
        let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / count;
        let factor = (var + f64::from(eps)).sqrt();
        let at = |i: usize| (f64::from(x[i]) - mean) / factor * f64::from(weight[i]) + bias.map_or(0.0, |bias| f64::from(bias[i]));
        (0..x.len()).map(at).collect::<Vec<_>>()
    };
    x.chunks(weight.len()).flat_map(row).collect()
}

fn check_norms(rows: usize, dim: usize) {
    let x: Vec<f32> = numbers(1, rows * dim).into_iter().map(|x| 3.0 * x + 0.5).collect();
    let (weight, bias) = (numbers(2, dim), numbers(3, dim));
    for team in TEAMS.iter() {
        let mut out = vec![f32::NAN; x.len()];
        rms_norm(team, &x, &weight, 1e-5, &mut out);
        assert_close(&out, &norm(&x, &weight, None, 1e-5), 1e-5);
        // A tiny row can have a variance near zero, which magnifies the rounding of its mean.
        layer_norm(team, &x, &weight, &bias, 1e-2, &mut out);
        assert_close(&out, &norm(&x, &weight, Some(&bias), 1e-2), 1e-4);
    }
}

fn check_activations(x: &[f32]) {
    let up = numbers(2, x.len());
    let wide = |x: f32| f64::from(x);
    let silu: Vec<f64> = x.iter().zip(&up).map(|(&x, &up)| wide(x) / (1.0 + (-wide(x)).exp()) * wide(up)).collect();
    let gelu = |x: f64| 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh());
    let gelu: Vec<f64> = x.iter().map(|&x| gelu(wide(x))).collect();
    for team in TEAMS.iter() {
        let mut gate = x.to_vec();
        silu_mul(team, &mut gate, &up);
        assert_close(&gate, &silu, 3e-5);
        let mut y = x.to_vec();
        gelu_tanh(team, &mut y);
        assert_close(&y, &gelu, 3e-5);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agree_with_plain_arithmetic(rows in 0_usize..6, dim in 1_usize..140) {
        check_norms(rows, dim);
        check_activations(&numbers(4, rows * dim).into_iter().map(|x| 10.0 * x).collect::<Vec<_>>());
    }
}

#[test]
fn agree_where_there_are_many_tasks() {
    check_norms(300, 131);
    check_activations(&numbers(4, 50_001).into_iter().map(|x| 100.0 * x).collect::<Vec<_>>());
}

#[test]
fn activations_keep_nan_and_survive_extremes() {
    for team in TEAMS.iter() {
        let mut gate = [f32::NAN, -3e38, 3e38, 0.0, -90.0];
        silu_mul(team, &mut gate, &[1.0; 5]);
        assert!(gate[0].is_nan());
        assert_close(&gate[1..], &[0.0, f64::from(3e38_f32), 0.0, 0.0], 1e-30);
        let mut x = [f32::NAN, -1e10, 1e10, 0.0];
        gelu_tanh(team, &mut x);
        assert!(x[0].is_nan());
        assert_close(&x[1..], &[0.0, f64::from(1e10_f32), 0.0], 1e-20);
    }
}

#[test]
#[should_panic(expected = "rms_norm: rows of 3 elements do not fill 4")]
fn refuse_a_part_of_a_row() {
    rms_norm(&TEAMS[0], &[0.0; 4], &[1.0; 3], 0.0, &mut [0.0; 4]);
}
