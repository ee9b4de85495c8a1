// Attention of one new position per sequence over a KV cache, split along the cache, grouped-query.
//
// A block takes one sequence, one key-value head (at most G of its query heads) and one share of the positions. HEAD_DIM / PER
// lanes hold a cache row, so that a group of lanes keeps its own running maximum and sum and meets the others only at the end.
// The last block of a head to arrive adds the shares up, in their order. Rows that earlier steps wrote are asked for before the
// kernel waits for the one that computes queries and the new row.
#include "common.cuh"

// Mirrored by `AttentionArgs` in src/cuda/args.rs.
struct AttentionArgs {
  const float* q;    // [batch, heads * head_dim], rotated
  void* out;         // [batch, heads * head_dim], f32 or the cache's format
  float* partial;    // [batch, heads, splits, head_dim + 2]
  uint32_t* ticket;  // [batch, kv_heads * chunks], zero between launches
  Place place;
  uint32_t heads, window, narrow;  // narrow: `out` in the cache's format
  float scale;
};

constexpr int THREADS = 256, WARPS = THREADS / 32;
constexpr uint32_t MOST_SHARES = 64;
constexpr float NONE = -1e30f;

template <typename T, int HEAD_DIM, int G>
__device__ __forceinline__ void attention_decode(const AttentionArgs& a) {
  constexpr int PER = Format<T>::PER, LANES = HEAD_DIM / PER, ROWS = THREADS / LANES, U = G >= 8 ? 1 : 2;
  constexpr uint32_t LEAST = U * ROWS;
  static_assert(LANES <= 32, "a warp holds at least one row");
  const uint32_t split = blockIdx.x, splits = gridDim.x, row = blockIdx.z;
  const uint32_t group = a.heads / a.place.kv_heads, chunks = (group + G - 1) / G;
  const uint32_t kv_head = blockIdx.y / chunks, first = kv_head * group + blockIdx.y % chunks * G;
  const uint32_t present = min((uint32_t)G, group - blockIdx.y % chunks * G);
  const uint32_t t = threadIdx.x, part = t % LANES, mine = t / LANES;
  const Where where = locate(a.place);
  const uint32_t end = where.position + 1, begin = a.window && end > a.window ? end - a.window : 0;
  // Shares of next to nothing would only be more to add up; blocks without one leave at once.
  const uint32_t share = max((end - begin + splits - 1) / splits, LEAST), shares = (end - begin + share - 1) / share;
  const uint32_t from = min(begin + split * share, end), to = min(from + share, end);
  const T* keys = cache_of<T>(a.place, where, 0, row, kv_head);
  const T* values = cache_of<T>(a.place, where, 1, row, kv_head);
  uint4 k[U], v[U];
  auto fetch = [&](const T* base, uint32_t at, uint32_t bound) {
    return at < bound ? load_cache(base + (size_t)at * HEAD_DIM + part * PER) : make_uint4(0, 0, 0, 0);
  };
#pragma unroll
  for (int u = 0; u < U; u++) k[u] = fetch(keys, from + u * ROWS + mine, min(to, where.position));
#pragma unroll
  for (int u = 0; u < U; u++) v[u] = fetch(values, from + u * ROWS + mine, min(to, where.position));
  dep_wait();
  dep_launch();
  if (split >= shares) return;
#pragma unroll
  for (int u = 0; u < U; u++)
    if (from + u * ROWS + mine == where.position && where.position < to) {
      k[u] = fetch(keys, where.position, to);
      v[u] = fetch(values, where.position, to);
    }
  float q[G][PER], acc[G][PER] = {}, top[G], sum[G];
#pragma unroll
  for (int g = 0; g < G; g++) {
    top[g] = NONE, sum[g] = 0.f;
    const float* from_q = a.q + ((size_t)row * a.heads + first + min((uint32_t)g, present - 1)) * HEAD_DIM + part * PER;
#pragma unroll
    for (int e = 0; e < PER; e += 4) {
      float4 x = __ldcg(reinterpret_cast<const float4*>(from_q + e));
      const float scale = a.scale * 1.4426950408889634f;
      q[g][e] = x.x * scale, q[g][e + 1] = x.y * scale, q[g][e + 2] = x.z * scale, q[g][e + 3] = x.w * scale;
    }
  }
  // Every lane makes the same number of turns: the shuffles need all of them.
  for (uint32_t at = from; at < to; at += U * ROWS) {
    float s[U][G];
#pragma unroll
    for (int u = 0; u < U; u++) {
      float x[PER];
      Format<T>::unpack(k[u], x);
#pragma unroll
      for (int g = 0; g < G; g++) {
        float d = 0.f;
#pragma unroll
        for (int e = 0; e < PER; e++) d += q[g][e] * x[e];
#pragma unroll
        for (int o = LANES / 2; o; o >>= 1) d += __shfl_xor_sync(~0u, d, o);
        s[u][g] = at + u * ROWS + mine < to ? d : NONE;
      }
    }
#pragma unroll
    for (int u = 0; u < U; u++) k[u] = fetch(keys, at + (U + u) * ROWS + mine, to);
#pragma unroll
    for (int g = 0; g < G; g++) {
      float high = top[g];
#pragma unroll
      for (int u = 0; u < U; u++) high = fmaxf(high, s[u][g]);
      const float less = exp2f(top[g] - high);
      top[g] = high;
      sum[g] *= less;
#pragma unroll
      for (int e = 0; e < PER; e++) acc[g][e] *= less;
#pragma unroll
      for (int u = 0; u < U; u++) {
        s[u][g] = s[u][g] == NONE ? 0.f : exp2f(s[u][g] - high);
        sum[g] += s[u][g];
      }
    }
#pragma unroll
    for (int u = 0; u < U; u++) {
      float x[PER];
      Format<T>::unpack(v[u], x);
#pragma unroll
      for (int g = 0; g < G; g++)
#pragma unroll
        for (int e = 0; e < PER; e++) acc[g][e] += s[u][g] * x[e];
      v[u] = fetch(values, at + (U + u) * ROWS + mine, to);
    }
  }
  // Groups of lanes in a warp, then warps.
#pragma unroll
  for (int o = LANES; o < 32; o <<= 1)
#pragma unroll
    for (int g = 0; g < G; g++) {
      const float other = __shfl_xor_sync(~0u, top[g], o), high = fmaxf(top[g], other);
      const float less = exp2f(top[g] - high), more = exp2f(other - high);
      top[g] = high;
      sum[g] = sum[g] * less + __shfl_xor_sync(~0u, sum[g], o) * more;
#pragma unroll
      for (int e = 0; e < PER; e++) acc[g][e] = acc[g][e] * less + __shfl_xor_sync(~0u, acc[g][e], o) * more;
    }
  __shared__ float accs[WARPS][G][HEAD_DIM], tops[WARPS][G], sums[WARPS][G];
  if (t % 32 < LANES)
#pragma unroll
    for (int g = 0; g < G; g++) {
#pragma unroll
      for (int e = 0; e < PER; e++) accs[t / 32][g][part * PER + e] = acc[g][e];
      if (part == 0) tops[t / 32][g] = top[g], sums[t / 32][g] = sum[g];
    }
  __syncthreads();
  auto store = [&](uint32_t g, uint32_t d, float x) {
    const size_t at = ((size_t)row * a.heads + first + g) * HEAD_DIM + d;
    if (a.narrow) static_cast<T*>(a.out)[at] = Format<T>::from(x);
    else static_cast<float*>(a.out)[at] = x;
  };
  float* partial = a.partial + ((size_t)row * a.heads + first) * splits * (HEAD_DIM + 2);
  for (uint32_t i = t; i < present * HEAD_DIM; i += THREADS) {
    const uint32_t g = i / HEAD_DIM, d = i % HEAD_DIM;
    float most = NONE, total = 0.f, x = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) most = fmaxf(most, tops[w][g]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float less = exp2f(tops[w][g] - most);
      total += sums[w][g] * less;
      x += accs[w][g][d] * less;
    }
    if (shares == 1) {
      store(g, d, x / total);
      continue;
    }
    float* to = partial + ((size_t)g * splits + split) * (HEAD_DIM + 2);
    to[d] = x;
    if (d == 0) to[HEAD_DIM] = most, to[HEAD_DIM + 1] = total;
  }
  if (shares == 1) return;
  __shared__ bool last;
  __syncthreads();
  uint32_t* ticket = a.ticket + row * gridDim.y + blockIdx.y;
  if (t == 0) {
    // After the barrier, this one fence is for what every thread of the block has written.
    __threadfence();
    last = atomicAdd(ticket, 1) == shares - 1;
    __threadfence();
  }
  __syncthreads();
  if (!last) return;
  if (t == 0) *ticket = 0;
  constexpr int HELD = 12, TURNS = (G * HEAD_DIM + THREADS - 1) / THREADS;
  __shared__ float weights[G][MOST_SHARES];
  auto part_of = [&](uint32_t g, uint32_t p, uint32_t d) { return __ldcg(partial + ((size_t)g * splits + p) * (HEAD_DIM + 2) + d); };
  // The outputs of most shares are asked for together with their weights.
  float held[TURNS][HELD];
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++)
#pragma unroll
    for (int p = 0; p < HELD; p++) {
      const uint32_t i = t + turn * THREADS;
      held[turn][p] = i < present * HEAD_DIM && p < shares ? part_of(i / HEAD_DIM, p, i % HEAD_DIM) : 0.f;
    }
  const uint32_t lane = t % 32;
  for (uint32_t g = t / 32; g < present; g += WARPS) {
    float high[2], sum[2], most = NONE;
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const uint32_t p = lane + h * 32;
      high[h] = p < shares ? part_of(g, p, HEAD_DIM) : NONE;
      sum[h] = p < shares ? part_of(g, p, HEAD_DIM + 1) : 0.f;
      most = fmaxf(most, high[h]);
    }
#pragma unroll
    for (int o = 16; o; o >>= 1) most = fmaxf(most, __shfl_xor_sync(~0u, most, o));
    const float total = warp_sum(sum[0] * exp2f(high[0] - most) + sum[1] * exp2f(high[1] - most));
#pragma unroll
    for (int h = 0; h < 2; h++) weights[g][lane + h * 32] = exp2f(high[h] - most) / total;
  }
  __syncthreads();
#pragma unroll
  for (int turn = 0; turn < TURNS; turn++) {
    const uint32_t i = t + turn * THREADS, g = i / HEAD_DIM, d = i % HEAD_DIM;
    if (i >= present * HEAD_DIM) break;
    float x = 0.f;
#pragma unroll
    for (int p = 0; p < HELD; p++)
      if (p < shares) x += weights[g][p] * held[turn][p];
    for (uint32_t p = HELD; p < shares; p++) x += weights[g][p] * part_of(g, p, d);
    store(g, d, x);
  }
}

#define ATTENTION(SUFFIX, T, HEAD_DIM, G)                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS) attention_decode_##HEAD_DIM##_##G##_##SUFFIX(const __grid_constant__ AttentionArgs a) { \
    attention_decode<T, HEAD_DIM, G>(a);                                                                                              \
  }
#define ATTENTIONS(SUFFIX, T)    \
  ATTENTION(SUFFIX, T, 64, 1)    \
  ATTENTION(SUFFIX, T, 64, 2)    \
  ATTENTION(SUFFIX, T, 64, 4)    \
  ATTENTION(SUFFIX, T, 64, 8)    \
  ATTENTION(SUFFIX, T, 128, 1)   \
  ATTENTION(SUFFIX, T, 128, 2)   \
  ATTENTION(SUFFIX, T, 128, 4)   \
  ATTENTION(SUFFIX, T, 128, 8)
ATTENTIONS(f32, float)
ATTENTIONS(f16, __half)
ATTENTIONS(bf16, __nv_bfloat16)
