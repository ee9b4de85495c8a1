//! Attention against a plain softmax in f64.

use super::*;
use phase_kernels::cuda::*;

/// Queries over a filled cache; some rows beyond the end are NaN, which nothing may read into a result.
struct Case {
    place: Place,
    heads: usize,
    len: usize,
    window: Option<usize>,
    q: Vec<f32>,
    cache: Vec<f32>,
}

impl Case {
    #[expect(clippy::too_many_arguments, reason = "every dimension of a case")]
    fn new(
        bench: &Bench,
        batch: usize,
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        start: usize,
        len: usize,
        window: Option<usize>,
    ) -> Self {
        let (layer, capacity) = (1, start + len + 3);
        let place = Place { step: None, cache: Region::new(0, 0), capacity, start, batch, kv_heads, head_dim, layer };
        let mut cache = bench.numbers(3, 2 * 2 * batch * kv_heads * capacity * head_dim);
        for (row, positions) in cache.chunks_exact_mut(head_dim).enumerate() {
            if row % capacity >= start + len {
                positions.fill(f32::NAN);
            }
        }
        let q = bench.numbers(4, batch * len * heads * head_dim).iter().map(|q| q * 2.0).collect();
        Self { place, heads, len, window, q, cache }
    }

    fn scale(&self) -> f32 {
        (self.place.head_dim as f32).sqrt().recip() * 3.0
    }

    fn name(&self, kind: &str, format: Format) -> String {
        let Place { batch, kv_heads, head_dim, start, .. } = self.place;
        format!(
            "{kind} {format:?} batch {batch} heads {}/{kv_heads}x{head_dim} start {start} len {} window {:?}",
            self.heads, self.len, self.window
        )
    }

    fn want(&self) -> Vec<f64> {
        let Place { head_dim, start, kv_heads, .. } = self.place;
        let mut out = Vec::with_capacity(self.q.len());
        for (index, q) in self.q.chunks_exact(head_dim).enumerate() {
            let (head, row) = (index % self.heads, index / self.heads);
            let end = start + row % self.len + 1;
            let visible = self.window.map_or(0, |window| end.saturating_sub(window))..end;
            let at = |kv, j| cache_at(&self.place, kv, row / self.len, head / (self.heads / kv_heads), j);
            let row_of = |kv, j: usize| self.cache[at(kv, j)..][..head_dim].iter().map(|v| f64::from(*v));
            let scores: Vec<f64> = visible
                .clone()
                .map(|j| q.iter().zip(row_of(0, j)).map(|(q, k)| f64::from(*q) * k).sum::<f64>() * f64::from(self.scale()))
                .collect();
            let top = scores.iter().fold(f64::NEG_INFINITY, |m, s| m.max(*s));
            let weights: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut head_out = vec![0.0; head_dim];
            for (j, weight) in visible.zip(&weights) {
                head_out.iter_mut().zip(row_of(1, j)).for_each(|(out, v)| *out += weight / sum * v);
            }
            out.extend(head_out);
        }
        out
    }
}

/// Query heads, and key and value heads.
const GROUPS: [(usize, usize); 7] = [(2, 2), (4, 2), (9, 3), (8, 2), (7, 1), (8, 1), (11, 1)];

/// Batch, position of the new token, window: first and last positions of shares, and of windows.
const CONTEXTS: [(usize, usize, Option<usize>); 13] = [
    (1, 0, None),
    (2, 5, None),
    (1, 31, None),
    (1, 32, None),
    (1, 63, Some(1)),
    (2, 64, Some(64)),
    (3, 64, Some(20)),
    (1, 255, None),
    (2, 256, None),
    (1, 511, Some(512)),
    (1, 700, None),
    (1, 2500, Some(1000)),
    (1, 2500, Some(2501)),
];

#[test]
fn decode() {
    each(&FORMATS, |bench| check_decode(bench, &GROUPS, &CONTEXTS));
}

pub(super) fn check_decode(bench: &Bench, groups: &[(usize, usize)], contexts: &[(usize, usize, Option<usize>)]) {
    let format = bench.format();
    for head_dim in FLASH_HEAD_DIMS {
        for &(heads, kv_heads) in groups {
            for &(batch, position, window) in contexts {
                let case = Case::new(bench, batch, heads, kv_heads, head_dim, position, 1, window);
                let (q, cache) = (bench.f32s(&case.q), bench.narrow(&case.cache));
                let tickets = bench.u32s(&vec![0; batch * heads]);
                let step = bench.step(Step {
                    cache: cache.region().address(),
                    capacity: u32::try_from(case.place.capacity).unwrap(),
                    position: u32::try_from(position).unwrap(),
                    ..Step::default()
                });
                let fill = bench.kernels.splits(batch, heads, kv_heads);
                let want = case.want();
                for (splits, narrow) in [(1, false), (fill, true), (64, false)] {
                    let out = bench.poison(case.q.len() * if narrow { format.size_bytes() } else { 4 });
                    let partial = bench.poison(Kernels::partial_bytes(batch, heads, head_dim, splits));
                    let op = AttentionDecode {
                        q: q.region(),
                        out: out.region(),
                        narrow,
                        partial: partial.region(),
                        tickets: tickets.region(),
                        place: Place { step: narrow.then_some(step.region()), cache: cache.region(), ..case.place },
                        heads,
                        window,
                        scale: case.scale(),
                        splits,
                    };
                    // Twice, as the second launch finds what the first has left.
                    for _ in 0..2 {
                        // SAFETY: the memory lives to the end of the block, which reads the result.
                        unsafe { bench.kernels.attention_decode(&op) }.unwrap();
                    }
                    let (got, tolerance) = if narrow { (bench.read_narrow(&out), epsilon(format)) } else { (bench.read_f32s(&out), 0.0) };
                    assert_near(&format!("{} splits {splits}", case.name("decode", format)), &got, &want, tolerance + 1e-5);
                }
                assert!(bench.read_u32s(&tickets).iter().all(|ticket| *ticket == 0), "tickets are left as they were found");
            }
        }
    }
}

/// Batch, query heads, key and value heads, start, length, window.
pub(super) type Prompt = (usize, usize, usize, usize, usize, Option<usize>);

/// Whole and broken tiles of queries and of keys, windows within and beyond a tile.
const PROMPTS: [Prompt; 11] = [
    (1, 4, 2, 0, 1, None),
    (2, 2, 1, 0, 17, None),
    (1, 3, 1, 37, 130, None),
    (1, 2, 1, 63, 65, Some(1)),
    (1, 2, 1, 64, 128, Some(64)),
    (2, 2, 2, 1, 129, Some(65)),
    (2, 2, 2, 5, 300, Some(40)),
    (1, 2, 1, 100, 260, Some(129)),
    (1, 8, 2, 0, 512, None),
    (1, 1, 1, 511, 2, None),
    (3, 1, 1, 0, 192, Some(193)),
];

#[test]
fn prefill() {
    each(&[Format::F16, Format::Bf16], |bench| check_prefill(bench, &PROMPTS));
}

pub(super) fn check_prefill(bench: &Bench, prompts: &[Prompt]) {
    let format = bench.format();
    for head_dim in FLASH_HEAD_DIMS {
        for &(batch, heads, kv_heads, start, len, window) in prompts {
            let case = Case::new(bench, batch, heads, kv_heads, head_dim, start, len, window);
            let (q, cache) = (bench.narrow(&case.q), bench.narrow(&case.cache));
            let out = bench.poison(case.q.len() * 2);
            let place = Place { cache: cache.region(), ..case.place };
            let op = AttentionPrefill { q: q.region(), out: out.region(), place, len, heads, window, scale: case.scale() };
            // SAFETY: the memory lives to the end of the block, which reads the result.
            unsafe { bench.kernels.attention_prefill(&op) }.unwrap();
            // Weights and the result are rounded to the format.
            assert_near(&case.name("prefill", format), &bench.read_narrow(&out), &case.want(), 2.0 * epsilon(format));
        }
    }
}

#[test]
fn general() {
    each(&FORMATS, check_general);
}

pub(super) fn check_general(bench: &Bench) {
    let format = bench.format();
    for (batch, heads, kv_heads, head_dim, start, len, window) in
        [(1, 2, 1, 16, 0, 1, None), (2, 4, 2, 80, 3, 9, None), (1, 3, 3, 256, 10, 50, Some(7)), (1, 4, 1, 64, 100, 33, None)]
    {
        let case = Case::new(bench, batch, heads, kv_heads, head_dim, start, len, window);
        let (q, cache) = (bench.f32s(&case.q), bench.narrow(&case.cache));
        for narrow in [false, true] {
            let out = bench.poison(case.q.len() * if narrow { format.size_bytes() } else { 4 });
            let place = Place { cache: cache.region(), ..case.place };
            let op = AttentionGeneral { q: q.region(), out: out.region(), narrow, place, len, heads, window, scale: case.scale() };
            // SAFETY: the memory lives to the end of the block, which reads the result.
            unsafe { bench.kernels.attention_general(&op) }.unwrap();
            let (got, tolerance) = if narrow { (bench.read_narrow(&out), epsilon(format)) } else { (bench.read_f32s(&out), 0.0) };
            assert_near(&case.name("general", format), &got, &case.want(), tolerance + 1e-5);
        }
    }
}
