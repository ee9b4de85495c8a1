// Attention of many new positions over a KV cache that already holds them: causal, grouped-query, sliding window.
//
// A block takes 128 queries of one head, a warp 16 of them; keys and values pass through shared memory 64 at a time, the next
// ones under way while these are used. Scores never leave registers (FlashAttention-2, arXiv 2307.08691).
#include "mma.cuh"

// Mirrored by `PrefillArgs` in src/cuda/args.rs.
struct PrefillArgs {
  const void* q;  // [batch * len, heads * head_dim], rotated, in the cache's format
  void* out;      // as q
  Place place;
  uint32_t len, heads, window;
  float scale;
};

constexpr int QUERIES = 128, KEYS = 64, WARPS = 8, THREADS = WARPS * 32;

// Byte offset of a 16-byte chunk of a row in shared memory: neighbouring rows start in different banks.
template <int HEAD_DIM>
__device__ __forceinline__ uint32_t tile_at(uint32_t row, uint32_t chunk) {
  return row * HEAD_DIM * 2 + ((chunk & ~7u) | ((chunk ^ row) & 7u)) * 16;
}

template <typename T, int HEAD_DIM>
__device__ __forceinline__ void attention_prefill(const PrefillArgs& a) {
  dep_wait();
  dep_launch();
  constexpr int STEPS = HEAD_DIM / 16, CHUNKS = HEAD_DIM / 8, TILE = KEYS * HEAD_DIM * 2;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared);
  const uint32_t t = threadIdx.x, warp = t / 32, lane = t % 32, g = lane / 4, c2 = lane % 4 * 2;
  // The longest rows first, so that none of them is left for the end.
  const uint32_t m0 = (gridDim.x - 1 - blockIdx.x) * QUERIES, head = blockIdx.y, sequence = blockIdx.z;
  const Where where = locate(a.place);
  const uint32_t kv_head = head / (a.heads / a.place.kv_heads), width = a.heads * HEAD_DIM;
  const T* keys = cache_of<T>(a.place, where, 0, sequence, kv_head);
  const T* values = cache_of<T>(a.place, where, 1, sequence, kv_head);
  const uint32_t total = where.position + a.len;
  const uint32_t first = where.position + m0, end = min(first + QUERIES, total);
  const uint32_t begin = a.window && first + 1 > a.window ? (first + 1 - a.window) / KEYS * KEYS : 0;

  auto fetch = [&](uint32_t j0, uint32_t stage) {
    for (uint32_t i = t; i < KEYS * CHUNKS; i += THREADS) {
      const uint32_t row = i / CHUNKS, chunk = i % CHUNKS;
      const bool there = j0 + row < end;
      const size_t from = (size_t)(there ? j0 + row : 0) * HEAD_DIM + chunk * 8;
      const uint32_t to = base + stage * 2 * TILE + tile_at<HEAD_DIM>(row, chunk);
      copy_async(to, keys + from, there);
      copy_async(to + TILE, values + from, there);
    }
    copy_commit();
  };
  fetch(begin, 0);

  uint32_t q[STEPS][4];
  const uint32_t row0 = m0 + warp * 16 + g;
  const T* queries = static_cast<const T*>(a.q) + (size_t)sequence * a.len * width + head * HEAD_DIM + c2;
#pragma unroll
  for (int s = 0; s < STEPS; s++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t row = row0 + (i & 1) * 8;
      q[s][i] = row < a.len ? *reinterpret_cast<const uint32_t*>(queries + (size_t)row * width + s * 16 + (i >> 1) * 8) : 0;
    }
  float acc[2 * STEPS][4] = {}, top[2] = {-1e30f, -1e30f}, sum[2] = {0.f, 0.f};
  const float scale = a.scale * 1.4426950408889634f;
  const uint32_t warp_first = first + warp * 16, warp_end = min(warp_first + 16, total);

  uint32_t stage = 0;
  for (uint32_t j0 = begin; j0 < end; j0 += KEYS, stage ^= 1) {
    if (j0 + KEYS < end) {
      fetch(j0 + KEYS, stage ^ 1);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    if (j0 < warp_end) {
      const uint32_t k_tile = base + stage * 2 * TILE, v_tile = k_tile + TILE;
      float s[KEYS / 8][4] = {};
#pragma unroll
      for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
          uint32_t b[4];
          load_tiles(b, k_tile + tile_at<HEAD_DIM>(n * 16 + (lane >> 4) * 8 + lane % 8, step * 2 + (lane >> 3 & 1)));
          mma<T>(s[2 * n], q[step], b[0], b[1]);
          mma<T>(s[2 * n + 1], q[step], b[2], b[3]);
        }
      const bool whole = j0 + KEYS <= warp_first + 1 && (!a.window || j0 + a.window > warp_end - 1);
      if (!whole)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const uint32_t j = j0 + n * 8 + c2 + (i & 1), p = warp_first + g + (i >> 1) * 8;
            if (j > p || (a.window && p - j >= a.window)) s[n][i] = -1e30f;
          }
#pragma unroll
      for (int h = 0; h < 2; h++) {
        float high = top[h];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) high = fmaxf(high, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
        high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
        const float less = exp2f((top[h] - high) * scale), offset = high * scale;
        top[h] = high;
        float part = 0.f;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
          for (int i = 2 * h; i < 2 * h + 2; i++) {
            s[n][i] = s[n][i] <= -1e30f ? 0.f : exp2f(fmaf(s[n][i], scale, -offset));
            part += s[n][i];
          }
        sum[h] = sum[h] * less + part;
#pragma unroll
        for (int n = 0; n < 2 * STEPS; n++) acc[n][2 * h] *= less, acc[n][2 * h + 1] *= less;
      }
#pragma unroll
      for (int step = 0; step < KEYS / 16; step++) {
        const uint32_t p[4] = {pack<T>(s[2 * step][0], s[2 * step][1]), pack<T>(s[2 * step][2], s[2 * step][3]),
                               pack<T>(s[2 * step + 1][0], s[2 * step + 1][1]), pack<T>(s[2 * step + 1][2], s[2 * step + 1][3])};
#pragma unroll
        for (int n = 0; n < STEPS; n++) {
          uint32_t b[4];
          load_tiles_transposed(b, v_tile + tile_at<HEAD_DIM>(step * 16 + (lane >> 3 & 1) * 8 + lane % 8, n * 2 + (lane >> 4)));
          mma<T>(acc[2 * n], p, b[0], b[1]);
          mma<T>(acc[2 * n + 1], p, b[2], b[3]);
        }
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int h = 0; h < 2; h++) {
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    const uint32_t row = row0 + h * 8;
    if (row >= a.len) continue;
    const float inverse = 1.f / sum[h];
    T* out = static_cast<T*>(a.out) + ((size_t)sequence * a.len + row) * width + head * HEAD_DIM + c2;
#pragma unroll
    for (int n = 0; n < 2 * STEPS; n++)
      *reinterpret_cast<uint32_t*>(out + n * 8) = pack<T>(acc[n][2 * h] * inverse, acc[n][2 * h + 1] * inverse);
  }
}

#define PREFILL(SUFFIX, T, HEAD_DIM)                                                                                                      \
  extern "C" __global__ void __launch_bounds__(THREADS) attention_prefill_##HEAD_DIM##_##SUFFIX(const __grid_constant__ PrefillArgs a) { \
    attention_prefill<T, HEAD_DIM>(a);                                                                                                    \
  }
PREFILL(f16, __half, 64)
PREFILL(f16, __half, 128)
PREFILL(bf16, __nv_bfloat16, 64)
PREFILL(bf16, __nv_bfloat16, 128)
