use half::{bf16, f16};
use proptest::prelude::*;

use super::{append_kv, rotary};
use crate::element::Element;
use crate::reference::{TEAMS, assert_close, numbers};
use crate::shape::HeadShape;

fn check_append<E: Element + PartialEq>(shape: HeadShape, start: usize, spare: usize, round: impl Fn(f32) -> E) {
    let HeadShape { batch, query_len, heads, head_dim } = shape;
    let capacity = start + query_len + spare;
    let src = numbers(1, shape.len());
    let before: Vec<E> = numbers(2, batch * heads * capacity * head_dim).into_iter().map(&round).collect();
    let mut want = before.clone();
    for b in 0..batch {
        for i in 0..query_len {
            for h in 0..heads {
                for d in 0..head_dim {
                    want[((b * heads + h) * capacity + start + i) * head_dim + d] =
                        round(src[((b * query_len + i) * heads + h) * head_dim + d]);
                }
            }
        }
    }
    for team in TEAMS.iter() {
        let mut cache = before.clone();
        append_kv(team, &src, &mut cache, shape, capacity, start);
        assert!(cache == want);
    }
}

fn check_rotary(shape: HeadShape, start: usize) {
    let HeadShape { query_len, heads, head_dim, .. } = shape;
    let half = head_dim / 2;
    let x = numbers(1, shape.len());
    let (cos, sin) = (numbers(2, (start + query_len) * half), numbers(3, (start + query_len) * half));
    let want: Vec<f64> = (0..x.len())
        .map(|i| {
            let (row, d) = (i / (heads * head_dim), i % head_dim);
            let at = (start + row % query_len) * half + d % half;
            let (own, sin) = (f64::from(x[i]) * f64::from(cos[at]), f64::from(sin[at]));
            if d < half { own - f64::from(x[i + half]) * sin } else { own + f64::from(x[i - half]) * sin }
        })
        .collect();
    for team in TEAMS.iter() {
        let mut turned = x.clone();
        rotary(team, &mut turned, &cos, &sin, shape, start);
        assert_close(&turned, &want, 1e-6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn agree_with_plain_loops(
        batch in 1_usize..4,
        query_len in 0_usize..20,
        heads in 1_usize..5,
        half in 0_usize..40,
        start in 0_usize..9,
        spare in 0_usize..4,
    ) {
        let shape = HeadShape { batch, query_len, heads, head_dim: 2 * half };
        check_append::<f32>(shape, start, spare, |x| x);
        check_append::<f16>(shape, start, spare, f16::from_f32);
        check_append::<bf16>(HeadShape { head_dim: half, ..shape }, start, spare, bf16::from_f32);
        check_rotary(shape, start);
    }
}

#[test]
fn agree_where_there_are_many_tasks() {
    let shape = HeadShape { batch: 2, query_len: 100, heads: 3, head_dim: 64 };
    check_append::<f16>(shape, 3, 2, f16::from_f32);
    check_rotary(shape, 7);
}

#[test]
#[should_panic(expected = "append_kv: positions 3 to 5 exceed 4")]
fn refuses_positions_past_the_capacity() {
    let shape = HeadShape { batch: 1, query_len: 2, heads: 1, head_dim: 1 };
    append_kv(&TEAMS[0], &[0.0; 2], &mut [0.0_f32; 4], shape, 4, 3);
}
