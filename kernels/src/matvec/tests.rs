use half::{bf16, f16};
use proptest::prelude::*;

use super::matvec;
use crate::element::{Matrix, widen};
use crate::reference::{TEAMS, assert_close, bits, numbers};
use crate::team::Team;

fn plain(w: &[f32], n: usize, k: usize, x: &[f32], m: usize, bias: Option<&[f32]>) -> Vec<f64> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    let each = |i| {
        let (a, r) = (i / n, i % n);
        dot(&x[a * k..(a + 1) * k], &w[r * k..(r + 1) * k]) + bias.map_or(0.0, |bias| f64::from(bias[r]))
    };
    (0..m * n).map(each).collect()
}

fn run(team: &Team, w: Matrix<'_>, n: usize, k: usize, x: &[f32], m: usize, bias: Option<&[f32]>) -> Vec<f32> {
    // What is there before must not matter.
    let mut y = vec![f32::NAN; m * n];
    matvec(team, w, n, k, x, m, bias, &mut y);
    y
}

fn check_all(n: usize, k: usize, m: usize, with_bias: bool) {
    let (x, bias) = (numbers(1, m * k), numbers(2, n));
    let bias = with_bias.then_some(&bias[..]);
    let half: Vec<f16> = numbers(3, n * k).into_iter().map(f16::from_f32).collect();
    let brain: Vec<bf16> = numbers(4, n * k).into_iter().map(bf16::from_f32).collect();
    let mut wide = vec![0.0; n * k];
    for team in TEAMS.iter() {
        for w in [Matrix::F16(&half), Matrix::Bf16(&brain)] {
            widen(team, w, &mut wide);
            let y = run(team, w, n, k, &x, m, bias);
            assert_close(&y, &plain(&wide, n, k, &x, m, bias), 1e-5 * k.max(8) as f64);
            // Widening is exact and the order of summation the same, so the types agree to the bit.
            assert_eq!(bits(&y), bits(&run(team, Matrix::F32(&wide), n, k, &x, m, bias)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agrees_with_plain_arithmetic(n in 0_usize..70, k in 0_usize..140, m in 1_usize..10, bias: bool) {
        check_all(n, k, m, bias);
    }
}

#[test]
fn agrees_where_there_are_many_tasks() {
    check_all(3_001, 67, 1, true);
    check_all(3_001, 67, 3, false);
}

#[test]
fn does_not_depend_on_threads_batch_or_position() {
    let (n, k, m) = (1_027, 203, 5);
    let (w, x) = (numbers(1, n * k), numbers(2, m * k));
    let w = Matrix::F32(&w);
    let together = run(&TEAMS[1], w, n, k, &x, m, None);
    for team in &TEAMS[1..] {
        for (act, x) in x.chunks(k).enumerate() {
            assert_eq!(bits(&run(team, w, n, k, x, 1, None)), bits(&together[act * n..(act + 1) * n]));
        }
        assert_eq!(bits(&run(team, w, n, k, &x, m, None)), bits(&together));
    }
}

#[test]
fn nan_and_infinity_propagate() {
    let (n, k) = (6, 21);
    for team in TEAMS.iter() {
        for at in [0, 8, 16, 20] {
            let mut w = vec![1.0; n * k];
            w[k + at] = f32::NAN;
            w[2 * k + at] = f32::INFINITY;
            w[4 * k + at] = f32::NEG_INFINITY;
            w[5 * k + at] = f32::INFINITY;
            w[5 * k + (at + 1) % k] = f32::NEG_INFINITY;
            let brain: Vec<bf16> = w.iter().map(|&x| bf16::from_f32(x)).collect();
            for w in [Matrix::F32(&w), Matrix::Bf16(&brain)] {
                for m in [1, 2, 3] {
                    let y = run(team, w, n, k, &vec![2.0; m * k], m, None);
                    for y in y.chunks(n) {
                        assert_eq!(bits(&[y[0], y[3]]), bits(&[42.0, 42.0]));
                        assert_eq!(bits(&[y[2], y[4]]), bits(&[f32::INFINITY, f32::NEG_INFINITY]));
                        assert!(y[1].is_nan() && y[5].is_nan());
                    }
                }
            }
        }
        let mut x = vec![1.0; k];
        x[20] = f32::NAN;
        let y = run(team, Matrix::F32(&vec![1.0; n * k]), n, k, &x, 1, None);
        assert!(y.iter().all(|y| y.is_nan()));
    }
}

#[test]
#[should_panic(expected = "matvec: x is [m, k]")]
fn refuses_a_short_input() {
    run(&TEAMS[0], Matrix::F32(&[0.0; 6]), 2, 3, &[0.0; 2], 1, None);
}
