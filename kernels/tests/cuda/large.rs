//! Places in a cache that 32 bits can't count.

use super::*;
use phase_kernels::cuda::*;

/// The last position of the last layer, head and sequence of a cache of 8.6 billion numbers, 64 sequences of 8,192 positions.
#[test]
fn the_last_place_of_a_cache_of_17_gb() {
    let Some(bench) = Bench::new(Format::Bf16) else { return };
    let (layers, batch, heads, kv_heads, head_dim, capacity) = (8, 64, 16, 8, 128, 8192);
    let cache = bench.zeros(layers * 2 * batch * kv_heads * capacity * head_dim * 2);
    let (position, layer) = (capacity - 1, layers - 1);
    let place = Place { step: None, cache: cache.region(), capacity, start: position, batch, kv_heads, head_dim, layer };
    let all = heads + 2 * kv_heads;
    let qkv = bench.numbers(1, batch * all * head_dim);
    let (d_qkv, q) = (bench.narrow(&qkv), bench.poison(batch * heads * head_dim * 4));
    let rotate = RotateAppend {
        qkv: d_qkv.region(),
        wide_in: false,
        bias: None,
        q_norm: None,
        k_norm: None,
        eps: 1e-6,
        frequencies: None,
        q: Some(q.region()),
        wide_out: true,
        last: None,
        place,
        len: 1,
        heads,
    };
    let out = bench.poison(batch * heads * head_dim * 4);
    let splits = bench.kernels.splits(batch, heads, kv_heads);
    let partial = bench.poison(Kernels::partial_bytes(batch, heads, head_dim, splits));
    let tickets = bench.u32s(&vec![0; batch * heads]);
    let attend = AttentionDecode {
        q: q.region(),
        out: out.region(),
        narrow: false,
        partial: partial.region(),
        tickets: tickets.region(),
        place,
        heads,
        window: None,
        scale: 1.0,
        splits,
    };
    // SAFETY: the memory lives to the end of the test, which reads the results.
    unsafe { bench.kernels.rotate_append(&rotate) }.unwrap();
    // SAFETY: as above.
    unsafe { bench.kernels.attention_decode(&attend) }.unwrap();
    // All other keys and values are zero: their scores are, too.
    let row = |sequence: usize, head: usize| &qkv[(sequence * all + head) * head_dim..][..head_dim];
    let mut want = Vec::new();
    for index in 0..batch * heads {
        let (sequence, head) = (index / heads, index % heads);
        let kv_head = head / (heads / kv_heads);
        let (key, value) = (row(sequence, heads + kv_head), row(sequence, heads + kv_heads + kv_head));
        let score: f64 = row(sequence, head).iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
        let weight = score.exp() / (score.exp() + position as f64);
        want.extend(value.iter().map(|v| weight * f64::from(*v)));
    }
    assert_near("the last place of a large cache", &bench.read_f32s(&out), &want, 2e-5);
}
