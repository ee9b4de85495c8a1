// Attention of many new positions over a KV cache that already holds them: causal, grouped-query, sliding window.
//
// A block takes 128 queries of one head, a warp 16 of them; keys and values pass through shared memory 64 at a time, the next
// ones under way while these are used. Scores never leave registers (FlashAttention-2, arXiv 2307.08691).
#include <type_traits>

#include "mma.cuh"
#include "wgmma.cuh"

// Mirrored by `PrefillArgs` in src/cuda/args.rs.
struct PrefillArgs {
  const void* q;  // [batch * len, heads * head_dim], rotated, in the cache's format
  void* out;      // as q
  Place place;
  uint32_t len, heads, window;
  float scale;
};

constexpr int QUERIES = 128, KEYS = 64, WARPS = 8, THREADS = WARPS * 32;
constexpr float NEVER = -1e30f;

// A number that all lanes of a warp have, so that the compiler knows: a branch on it does not part them.
__device__ __forceinline__ uint32_t same(uint32_t x) { return __shfl_sync(~0u, x, 0); }

// What a block works on.
template <typename T>
struct Work {
  const T *keys, *values;                        // [capacity, head_dim]
  uint32_t m0, head, sequence;                   // the first of its queries, counted in new positions
  uint32_t first, total;                         // its position, and the end of all positions
  uint32_t begin, end;                           // keys that any of its queries sees, from a multiple of KEYS
};

template <typename T>
__device__ __forceinline__ Work<T> work_of(const PrefillArgs& a) {
  // The longest rows of all heads first, so that none of them is left for the end.
  const uint32_t m0 = (gridDim.y - 1 - blockIdx.y) * QUERIES, head = blockIdx.x, sequence = blockIdx.z;
  const Where where = locate(a.place);
  const uint32_t kv_head = head / (a.heads / a.place.kv_heads), position = same(where.position);
  const uint32_t first = position + m0, total = position + a.len;
  const uint32_t begin = a.window && first + 1 > a.window ? (first + 1 - a.window) / KEYS * KEYS : 0;
  return {cache_of<T>(a.place, where, 0, sequence, kv_head), cache_of<T>(a.place, where, 1, sequence, kv_head), m0, head, sequence, first,
          total, begin, min(first + QUERIES, total)};
}

// Keys and values from `j0` to shared memory, where `at(row, chunk)` says that 16 bytes of a row go.
template <typename T, int HEAD_DIM, typename At>
__device__ __forceinline__ void fetch(const Work<T>& w, uint32_t j0, uint32_t to, At at) {
  constexpr int CHUNKS = HEAD_DIM / 8, TILE = KEYS * HEAD_DIM * 2;
#pragma unroll
  for (uint32_t turn = 0; turn < KEYS * CHUNKS / THREADS; turn++) {
    const uint32_t i = threadIdx.x + turn * THREADS, row = i / CHUNKS, chunk = i % CHUNKS;
    const bool there = j0 + row < w.end;
    const size_t from = (size_t)(there ? j0 + row : 0) * HEAD_DIM + chunk * 8;
    copy_async(to + at(row, chunk), w.keys + from, there);
    copy_async(to + TILE + at(row, chunk), w.values + from, there);
  }
  copy_commit();
}

// A warp's 16 queries, as the left matrices of products.
template <typename T, int HEAD_DIM>
__device__ __forceinline__ void load_queries(const PrefillArgs& a, const Work<T>& w, uint32_t (&q)[HEAD_DIM / 16][4]) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, row0 = w.m0 + warp * 16 + lane / 4, width = a.heads * HEAD_DIM;
  const T* queries = static_cast<const T*>(a.q) + (size_t)w.sequence * a.len * width + w.head * HEAD_DIM + lane % 4 * 2;
#pragma unroll
  for (int s = 0; s < HEAD_DIM / 16; s++)
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const uint32_t row = row0 + (i & 1) * 8;
      q[s][i] = row < a.len ? *reinterpret_cast<const uint32_t*>(queries + (size_t)row * width + s * 16 + (i >> 1) * 8) : 0;
    }
}

// Two to the power of x; nothing where that is below the smallest normal number.
__device__ __forceinline__ float power(float x) {
  float y;
  asm volatile("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Whether each of the `rows` queries from the `row`th of the block sees all keys of the tile at `j0`.
template <typename T>
__device__ __forceinline__ bool sees_all(const PrefillArgs& a, const Work<T>& w, uint32_t j0, uint32_t row, uint32_t rows) {
  return j0 + KEYS <= w.first + row + 1 && (!a.window || j0 + a.window >= w.first + row + rows);
}

// Takes out the scores with keys that a query does not see.
template <typename T>
__device__ __forceinline__ void hide(const PrefillArgs& a, const Work<T>& w, uint32_t j0, float (&s)[KEYS / 8][4]) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  // How far the query is behind a key, as an unsigned number, is beyond every window where the key is ahead.
  const uint32_t behind = w.first + warp * 16 + lane / 4 - j0 - lane % 4 * 2, window = a.window ? min(a.window, 1u << 31) : 1u << 31;
#pragma unroll
  for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
    for (int i = 0; i < 4; i++)
      if (behind + (i >> 1) * 8 - n * 8 - (i & 1) >= window) s[n][i] = NEVER;
}

// A warp's scores with the keys of a tile become weights against the highest of each row so far; `less` is what earlier weights
// shrink by.
__device__ __forceinline__ void soften(const PrefillArgs& a, float (&s)[KEYS / 8][4], float (&top)[2], float (&sum)[2], float (&less)[2]) {
  const float scale = a.scale * 1.4426950408889634f;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    float high = top[h];
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) high = fmaxf(high, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, 1));
    high = fmaxf(high, __shfl_xor_sync(~0u, high, 2));
    less[h] = power((top[h] - high) * scale);
    // A row that sees none of its keys yet has weights of zero.
    const float offset = high > NEVER ? high * scale : 0.f;
    top[h] = high;
    float part = 0.f;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
      for (int i = 2 * h; i < 2 * h + 2; i++) part += s[n][i] = power(fmaf(s[n][i], scale, -offset));
    sum[h] = sum[h] * less[h] + part;
  }
}

template <int N>
__device__ __forceinline__ void shrink(float (&acc)[N][4], const float (&less)[2]) {
#pragma unroll
  for (int n = 0; n < N; n++) acc[n][0] *= less[0], acc[n][1] *= less[0], acc[n][2] *= less[1], acc[n][3] *= less[1];
}

// Weights of 16 keys, as the left matrix of a product.
template <typename T>
__device__ __forceinline__ void pack_weights(uint32_t (&p)[4], const float (&s)[KEYS / 8][4], int step) {
#pragma unroll
  for (int i = 0; i < 4; i++) p[i] = pack<T>(s[2 * step + i / 2][i % 2 * 2], s[2 * step + i / 2][i % 2 * 2 + 1]);
}

template <typename T, int HEAD_DIM>
__device__ __forceinline__ void store(const PrefillArgs& a, const Work<T>& w, const float (&acc)[HEAD_DIM / 8][4], float (&sum)[2]) {
  const uint32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, row0 = w.m0 + warp * 16 + lane / 4, width = a.heads * HEAD_DIM;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    sum[h] += __shfl_xor_sync(~0u, sum[h], 1);
    sum[h] += __shfl_xor_sync(~0u, sum[h], 2);
    const uint32_t row = row0 + h * 8;
    if (row >= a.len) continue;
    const float inverse = 1.f / sum[h];
    T* out = static_cast<T*>(a.out) + ((size_t)w.sequence * a.len + row) * width + w.head * HEAD_DIM + lane % 4 * 2;
#pragma unroll
    for (int n = 0; n < HEAD_DIM / 8; n++)
      *reinterpret_cast<uint32_t*>(out + n * 8) = pack<T>(acc[n][2 * h] * inverse, acc[n][2 * h + 1] * inverse);
  }
}

extern __shared__ __align__(1024) unsigned char shared[];

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
// Products of four warps and 64 queries run while these warps do something else: the scores with the next keys are under way while
// the weights of these values are added up (FlashAttention-3, arXiv 2407.08608).
template <typename T, int HEAD_DIM>
__device__ __forceinline__ void attention_prefill(const PrefillArgs& a) {
  dep_wait();
  dep_launch();
  // Tiles 64 elements wide: of larger heads one behind the other.
  constexpr int STEPS = HEAD_DIM / 16, WIDE = HEAD_DIM / 64, PART = KEYS * 128, TILE = WIDE * PART, STAGES = 3;
  const uint32_t base = shared_address(shared), group = same(threadIdx.x / 128);
  const Work<T> w = work_of<T>(a);
  const auto at = [](uint32_t row, uint32_t chunk) { return chunk / 8 * PART + row * 128 + ((chunk ^ row) & 7u) * 16; };
  const uint32_t tiles = (w.end - w.begin + KEYS - 1) / KEYS;
  // Tiles that any query of these four warps sees.
  const uint32_t seen = (min(w.first + group * 64 + 64, w.total) - w.begin + KEYS - 1) / KEYS;
  fetch<T, HEAD_DIM>(w, w.begin, base, at);
  uint32_t q[STEPS][4];
  load_queries<T, HEAD_DIM>(a, w, q);
  float s[KEYS / 8][4] = {}, acc[2 * STEPS][4] = {}, top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f}, less[2];
  uint32_t p[KEYS / 16][4];

  // Tile `j` is there for all warps, and the one after it on its way, where everybody is done with what was there.
  auto arrive = [&](uint32_t j) {
    copy_wait<0>();
    wgmma_publish();
    __syncthreads();
    if (j + 1 < tiles) fetch<T, HEAD_DIM>(w, w.begin + (j + 1) * KEYS, base + (j + 1) % STAGES * 2 * TILE, at);
  };
  auto score = [&](uint32_t j) {
    const uint32_t k_tile = base + j % STAGES * 2 * TILE;
#pragma unroll
    for (int step = 0; step < STEPS; step++)
      Wgmma<T, 0>::run(s, q[step], wgmma_tile(k_tile + step / 4 * PART + step % 4 * 32), step > 0);
    wgmma_commit();
  };
  auto add = [&](uint32_t j) {
    const uint32_t v_tile = base + j % STAGES * 2 * TILE + TILE;
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++)
#pragma unroll
      for (int part = 0; part < WIDE; part++)
        Wgmma<T, 1>::run(acc + part * 8, p[step], wgmma_tile(v_tile + part * PART + step * 16 * 128), true);
    wgmma_commit();
  };
  auto pack_all = [&] {
#pragma unroll
    for (int step = 0; step < KEYS / 16; step++) pack_weights<T>(p[step], s, step);
  };

  // No branch while products are under way: there the compiler waits for them.
  auto next = [&](uint32_t j, auto hidden) {
    wgmma_fence();
    score(j);
    add(j - 1);
    wgmma_wait<1>();
    if constexpr (decltype(hidden)::value) hide(a, w, w.begin + j * KEYS, s);
    soften(a, s, top, sum, less);
    wgmma_wait<0>();
    shrink(acc, less);
    pack_all();
  };

  arrive(0);
  wgmma_fence();
  score(0);
  wgmma_wait<0>();
  hide(a, w, w.begin, s);
  soften(a, s, top, sum, less);
  pack_all();
  for (uint32_t j = 1; j < tiles; j++) {
    arrive(j);
    if (j >= seen) continue;
    if (sees_all(a, w, w.begin + j * KEYS, group * 64, 64)) next(j, std::false_type());
    else next(j, std::true_type());
  }
  wgmma_fence();
  add(seen - 1);
  wgmma_wait<0>();
  store<T, HEAD_DIM>(a, w, acc, sum);
}
#else
// Byte offset of a 16-byte chunk of a row in shared memory: neighbouring rows start in different banks.
template <int HEAD_DIM>
__device__ __forceinline__ uint32_t tile_at(uint32_t row, uint32_t chunk) {
  return row * HEAD_DIM * 2 + ((chunk & ~7u) | ((chunk ^ row) & 7u)) * 16;
}

// What a driver translates for devices after compute capability 9.0: products of single warps.
template <typename T, int HEAD_DIM>
__device__ __forceinline__ void attention_prefill(const PrefillArgs& a) {
  dep_wait();
  dep_launch();
  constexpr int STEPS = HEAD_DIM / 16, TILE = KEYS * HEAD_DIM * 2;
  const uint32_t base = shared_address(shared), warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const Work<T> w = work_of<T>(a);
  fetch<T, HEAD_DIM>(w, w.begin, base, tile_at<HEAD_DIM>);
  uint32_t q[STEPS][4];
  load_queries<T, HEAD_DIM>(a, w, q);
  float acc[2 * STEPS][4] = {}, top[2] = {NEVER, NEVER}, sum[2] = {0.f, 0.f};
  const uint32_t warp_end = min(w.first + warp * 16 + 16, w.total);

  uint32_t stage = 0;
  for (uint32_t j0 = w.begin; j0 < w.end; j0 += KEYS, stage ^= 1) {
    if (j0 + KEYS < w.end) {
      fetch<T, HEAD_DIM>(w, j0 + KEYS, base + (stage ^ 1) * 2 * TILE, tile_at<HEAD_DIM>);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    if (j0 < warp_end) {
      const uint32_t k_tile = base + stage * 2 * TILE, v_tile = k_tile + TILE;
      float s[KEYS / 8][4] = {}, less[2];
#pragma unroll
      for (int step = 0; step < STEPS; step++)
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
          uint32_t b[4];
          load_tiles(b, k_tile + tile_at<HEAD_DIM>(n * 16 + (lane >> 4) * 8 + lane % 8, step * 2 + (lane >> 3 & 1)));
          mma<T>(s[2 * n], q[step], b[0], b[1]);
          mma<T>(s[2 * n + 1], q[step], b[2], b[3]);
        }
      if (!sees_all(a, w, j0, warp * 16, 16)) hide(a, w, j0, s);
      soften(a, s, top, sum, less);
      shrink(acc, less);
#pragma unroll
      for (int step = 0; step < KEYS / 16; step++) {
        uint32_t p[4];
        pack_weights<T>(p, s, step);
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
  store<T, HEAD_DIM>(a, w, acc, sum);
}
#endif

// Two blocks a multiprocessor where the accumulators leave room for that.
#define PREFILL(SUFFIX, T, HEAD_DIM)                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, 128 / HEAD_DIM)                  \
      attention_prefill_##HEAD_DIM##_##SUFFIX(const __grid_constant__ PrefillArgs a) {   \
    attention_prefill<T, HEAD_DIM>(a);                                                  \
  }
PREFILL(f16, __half, 64)
PREFILL(f16, __half, 128)
PREFILL(bf16, __nv_bfloat16, 64)
PREFILL(bf16, __nv_bfloat16, 128)
