use half::{bf16, f16};
use proptest::prelude::*;

use super::attention;
use crate::cache::append_kv;
use crate::element::Element;
use crate::reference::{TEAMS, assert_close, bits, numbers};
use crate::shape::AttentionShape;
use crate::team::Team;

/// Two passes over all positions in f64, and every rule of the documentation once more.
fn plain<E: Element>(q: &[f32], k: &[E], v: &[E], shape: &AttentionShape, scale: f32) -> Vec<f64> {
    let AttentionShape { batch, query_len, heads, kv_heads, head_dim: dim, capacity, start, window } = *shape;
    let mut out = vec![0.0; q.len()];
    for b in 0..batch {
        for i in 0..query_len {
            for h in 0..heads {
                let row = ((b * query_len + i) * heads + h) * dim;
                let cache = (b * kv_heads + h / (heads / kv_heads)) * capacity;
                let seen: Vec<usize> = (0..=start + i).filter(|p| window.is_none_or(|window| start + i - p < window)).collect();
                let score = |p: &usize| {
                    let dot = |d: usize| f64::from(q[row + d]) * f64::from(k[(cache + p) * dim + d].to_f32());
                    f64::from(scale) * (0..dim).map(dot).sum::<f64>()
                };
                let scores: Vec<f64> = seen.iter().map(score).collect();
                let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|s| (s - best).exp()).sum();
                for (p, s) in seen.iter().zip(&scores) {
                    for d in 0..dim {
                        out[row + d] += (s - best).exp() / sum * f64::from(v[(cache + p) * dim + d].to_f32());
                    }
                }
            }
        }
    }
    out
}

fn run<E: Element>(team: &Team, q: &[f32], k: &[E], v: &[E], shape: &AttentionShape, scale: f32) -> Vec<f32> {
    let mut out = vec![f32::NAN; q.len()];
    attention(team, q, k, v, &mut out, shape, scale);
    out
}

/// A cache of `E` whose unused positions are NaN, which must not be read.
fn cache<E: Element>(seed: u64, shape: &AttentionShape) -> Vec<E> {
    let mut empty = vec![E::default(); shape.cache_len()];
    E::narrow(&vec![f32::NAN; empty.len()], &mut empty);
    let mut used = shape.keys();
    used.query_len += shape.start;
    append_kv(&TEAMS[0], &numbers(seed, used.len()), &mut empty, used, shape.capacity, 0);
    empty
}

fn check<E: Element>(shape: &AttentionShape) {
    let q: Vec<f32> = numbers(1, shape.queries().len()).into_iter().map(|x| 3.0 * x).collect();
    let (k, v) = (cache::<E>(2, shape), cache::<E>(3, shape));
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let want = plain(&q, &k, &v, shape, scale);
    let mut first: Option<Vec<f32>> = None;
    for (index, team) in TEAMS.iter().enumerate() {
        let got = run(team, &q, &k, &v, shape, scale);
        assert_close(&got, &want, 1e-5);
        if index > 0 {
            let first = first.get_or_insert_with(|| got.clone());
            assert_eq!(bits(first), bits(&got), "depends on the number of threads");
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Bf16,
    F16,
    F32,
}

fn check_kind(kind: Kind, shape: &AttentionShape) {
    match kind {
        Kind::Bf16 => check::<bf16>(shape),
        Kind::F16 => check::<f16>(shape),
        Kind::F32 => check::<f32>(shape),
    }
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Bf16), Just(Kind::F16), Just(Kind::F32)]
}

prop_compose! {
    fn shapes(queries: std::ops::Range<usize>, starts: std::ops::Range<usize>)(
        batch in 1_usize..3,
        query_len in queries,
        kv_heads in 1_usize..4,
        group in 1_usize..5,
        head_dim in 1_usize..131,
        spare in 0_usize..5,
        start in starts,
        window in prop::option::of(1_usize..80),
    ) -> AttentionShape {
        let capacity = start + query_len + spare;
        AttentionShape { batch, query_len, heads: kv_heads * group, kv_heads, head_dim, capacity, start, window }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_step_agrees_with_plain_arithmetic(kind in kinds(), shape in shapes(1..3, 0..200)) {
        check_kind(kind, &shape);
    }

    #[test]
    fn a_prompt_agrees_with_plain_arithmetic(kind in kinds(), shape in shapes(3..60, 0..100)) {
        check_kind(kind, &shape);
    }
}

const STEP: AttentionShape =
    AttentionShape { batch: 1, query_len: 1, heads: 9, kv_heads: 3, head_dim: 64, capacity: 600, start: 511, window: None };

#[test]
fn the_shapes_of_a_small_model_agree() {
    check::<f32>(&STEP);
    check::<f16>(&AttentionShape { query_len: 130, start: 0, ..STEP });
    check::<f32>(&AttentionShape { query_len: 64, start: 200, window: Some(100), ..STEP });
    // One key-value head for many queries: panels whose keys are split.
    check::<f32>(&AttentionShape { heads: 24, kv_heads: 1, capacity: 2_100, start: 2_050, head_dim: 16, ..STEP });
}

#[test]
fn scores_far_apart_do_not_overflow() {
    for shape in [STEP, AttentionShape { query_len: 40, start: 0, ..STEP }] {
        let q: Vec<f32> = numbers(1, shape.queries().len()).into_iter().map(|x| 1e3 * x).collect();
        let (k, v) = (cache::<f32>(2, &shape), cache::<f32>(3, &shape));
        let want = plain(&q, &k, &v, &shape, 10.0);
        for team in TEAMS.iter() {
            // Scores near 1e5 are themselves only good to about 0.01.
            assert_close(&run(team, &q, &k, &v, &shape, 10.0), &want, 0.2);
        }
    }
}

#[test]
fn a_nan_query_spoils_its_own_row_only() {
    for shape in [STEP, AttentionShape { query_len: 40, start: 0, ..STEP }] {
        let mut q = numbers(1, shape.queries().len());
        q[65] = f32::NAN;
        let (k, v) = (cache::<f32>(2, &shape), cache::<f32>(3, &shape));
        for team in TEAMS.iter() {
            let out = run(team, &q, &k, &v, &shape, 1.0);
            for (row, out) in out.chunks(shape.head_dim).enumerate() {
                assert!(out.iter().all(|x| x.is_nan() == (row == 1)), "row {row}");
            }
        }
    }
}

#[test]
fn nothing_in_nothing_out() {
    let shape = AttentionShape { query_len: 0, ..STEP };
    let cache = vec![0.0_f32; shape.cache_len()];
    assert!(run(&TEAMS[2], &[], &cache, &cache, &shape, 1.0).is_empty());
}

#[test]
#[should_panic(expected = "exceed the capacity 600")]
fn refuses_positions_past_the_capacity() {
    let shape = AttentionShape { start: 600, ..STEP };
    let cache = vec![0.0_f32; shape.cache_len()];
    run(&TEAMS[2], &[0.0; 576], &cache, &cache, &shape, 1.0);
}
