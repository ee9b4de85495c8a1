// Products of 2 to 8 rows of 16-bit activations with a 16-bit matrix, each weight read once, on the tensor cores.
//
// y[b, n] = W[n, k] x[b, k]. A block takes 16 rows of W at a time, each of its warps a share of k; sums are f32. The order of k
// inside a 16 x 16 tile is free as long as both sides agree, so a lane's 16 bytes of a row serve two tiles as they lie.
#include "mma.cuh"

// Mirrored by `FewArgs` in src/cuda/args.rs.
struct FewArgs {
  const void* w;
  const float* bias;  // [n], or null; gate before up
  const void* x;      // [batch, k] in T
  void* y;            // [batch, n]: f32, or T for the gated and the plain activation
  const float* frequencies;
  const float* squares;  // [batch, ceil(k / 16)], or null: x is an RMS norm's without its division, which the sums get from these
  const float* gain;     // [n], or null: of the RMS norm that comes next; with them the next two are written
  void* ahead;           // [batch, n] in T: y times the gains
  float* seen;           // [batch, ceil(n / 16)]: a tile's share of the sum of y's squares
  Place place;
  uint32_t n, k, batch, activation, heads;
  float eps;
};

enum Mode { STORE, ROTATE, ADD, GATED, PLAIN };

constexpr int TILE = 8;  // pairs of rows

// Row `r` of pair `p` where pairs are TILE rows apart.
__device__ __forceinline__ uint32_t output_of(uint32_t p, int r) { return p / TILE * 2 * TILE + p % TILE + r * TILE; }

// The two rows of W that pair `p` multiplies.
template <int MODE>
__device__ __forceinline__ uint32_t row_of(const FewArgs& a, uint32_t p, int r) {
  if (MODE == ROTATE) {
    const uint32_t half = a.place.head_dim / 2;
    p = min(p, a.n / 2 - 1);
    return p / half * 2 * half + p % half + r * half;
  }
  if (MODE == GATED) return min(p, a.n - 1) + r * a.n;
  return min(output_of(p, r), a.n - 1);
}

// What finishing a pair of rows for one row of x needs from memory: asked for before their products, so that nothing waits for it
// at the end.
struct Held {
  float bias[2], residual[2], gain[2], frequency;
};

template <int MODE>
__device__ __forceinline__ Held hold(const FewArgs& a, uint32_t p, uint32_t b) {
  Held held = {};
#pragma unroll
  for (int r = 0; r < 2; r++) {
    const uint32_t row = row_of<MODE>(a, p, r);
    if (a.bias) held.bias[r] = a.bias[row];
    if (MODE == ADD) held.residual[r] = __ldcg(static_cast<const float*>(a.y) + (size_t)b * a.n + row);
    if (MODE == ADD && a.gain) held.gain[r] = a.gain[row];
  }
  if (MODE == ROTATE && a.frequencies) held.frequency = a.frequencies[p % (a.place.head_dim / 2)];
  return held;
}

// What happens to two sums; gives the squares of what a residual stream now holds.
template <typename T, int MODE>
__device__ __forceinline__ float finish(const FewArgs& a, const Where& where, const Held& held, uint32_t p, uint32_t b, float low, float high) {
  low += held.bias[0], high += held.bias[1];
  float squares = 0.f;
  if constexpr (MODE == ROTATE) {
    const uint32_t head_dim = a.place.head_dim, half = head_dim / 2, head = p / half, at = p % half, kv_heads = a.place.kv_heads;
    if (p >= a.n / 2) return 0.f;
    if (a.frequencies && head < a.heads + kv_heads) rotate(low, high, where.position, held.frequency);
    if (head < a.heads) {
      float* q = static_cast<float*>(a.y) + ((size_t)b * a.heads + head) * head_dim + at;
      q[0] = low, q[half] = high;
    } else {
      const uint32_t of = head - a.heads;
      T* row = cache_of<T>(a.place, where, of / kv_heads, b, of % kv_heads) + (size_t)where.position * head_dim + at;
      row[0] = Format<T>::from(low), row[half] = Format<T>::from(high);
    }
  } else if constexpr (MODE == GATED) {
    if (p < a.n) static_cast<T*>(a.y)[(size_t)b * a.n + p] = Format<T>::from(activate(a.activation, low) * high);
  } else {
    const float sums[2] = {low, high};
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const uint32_t row = output_of(p, r);
      if (row >= a.n) continue;
      const size_t at = (size_t)b * a.n + row;
      if constexpr (MODE == PLAIN) {
        static_cast<T*>(a.y)[at] = Format<T>::from(activate(a.activation, sums[r]));
      } else {
        const float y = held.residual[r] + sums[r];
        static_cast<float*>(a.y)[at] = y;
        if (MODE != ADD || !a.gain) continue;
        static_cast<T*>(a.ahead)[at] = Format<T>::from(y * held.gain[r]);
        squares += y * y;
      }
    }
  }
  return squares;
}

// FOLD parts of the warps put their sums in the same place, one after the other, which takes that much less memory.
template <typename T, int MODE, int WARPS, int FOLD>
__device__ __forceinline__ void matvec_few(const FewArgs& a) {
  constexpr int THREADS = WARPS * 32;
  constexpr int U = 4;  // strips of 64 elements that a warp has under way
  extern __shared__ __align__(16) unsigned char shared[];
  constexpr uint32_t KEPT = WARPS / FOLD;
  __shared__ float sums[KEPT][2 * TILE][8];
  const uint32_t t = threadIdx.x, warp = t / 32, lane = t % 32, g = lane / 4, c = lane % 4;
  const uint32_t chunks = a.k / 8, strips = (chunks + 7) / 8, turns = (strips + WARPS - 1) / WARPS;
  // Rows of x start 64 bytes further into the banks each, so that two of them fill all banks.
  const uint32_t stride = turns * WARPS * 128 + 64;
  const uint32_t tiles = ((MODE == ROTATE ? a.n / 2 : MODE == GATED ? a.n : (a.n + 1) / 2) + TILE - 1) / TILE;
  uint32_t tile = blockIdx.x;
  uint4 w[U][2][2];  // strip, half of it, row of the pair
  auto load = [&](uint32_t of, uint32_t turn, int u) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const uint32_t chunk = ((turn + u) * WARPS + warp) * 8 + h * 4 + c;
#pragma unroll
      for (int r = 0; r < 2; r++) {
        w[u][h][r] = make_uint4(0, 0, 0, 0);
        if (of < tiles && chunk < chunks)
          w[u][h][r] = load_weights(reinterpret_cast<const uint4*>(static_cast<const T*>(a.w) + (size_t)row_of<MODE>(a, of * TILE + g, r) * a.k) + chunk);
      }
    }
  };
#pragma unroll
  for (int u = 0; u < U; u++) load(tile, 0, u);
  dep_wait();
  dep_launch();
  const uint32_t row_chunks = turns * WARPS * 8;
  for (uint32_t chunk = t; chunk < row_chunks; chunk += THREADS)
#pragma unroll
    for (uint32_t row = 0; row < TILE; row++) {
      const bool there = row < a.batch && chunk < chunks;
      copy_async(shared_address(shared) + row * stride + chunk * 16, static_cast<const uint4*>(a.x) + (there ? (size_t)row * chunks + chunk : 0), there);
    }
  copy_commit();
  // While x is on its way, a warp adds up the squares of a row.
  __shared__ float scales[TILE];
  if (warp < TILE) {
    float scale = 1.f;
    if (a.squares && warp < a.batch) {
      const uint32_t shares = (a.k + 2 * TILE - 1) / (2 * TILE);
      float sum = 0.f;
#pragma unroll 4
      for (uint32_t i = lane; i < shares; i += 32) sum += __ldcg(a.squares + warp * shares + i);
      scale = rsqrtf(warp_sum(sum) / a.k + a.eps);
    }
    if (lane == 0) scales[warp] = scale;
  }
  copy_wait<0>();
  __syncthreads();
  const Where where = MODE == ROTATE ? locate(a.place) : Where{};
  const uint32_t pair = t % TILE, b = t / TILE;  // of the first threads, which finish a tile
  const bool finishes = b < a.batch;
  for (; tile < tiles; tile += gridDim.x) {
    Held held = {};
    if (finishes) held = hold<MODE>(a, tile * TILE + pair, b);
    float acc[4] = {};
    for (uint32_t turn = 0; turn < turns; turn += U) {
      const bool done = turn + U >= turns;
      const uint32_t next_tile = done ? tile + gridDim.x : tile, next_turn = done ? 0 : turn + U;
#pragma unroll
      for (int u = 0; u < U; u++) {
        if (turn + u < turns)
#pragma unroll
          for (int h = 0; h < 2; h++) {
            const uint4 x = *reinterpret_cast<const uint4*>(shared + g * stride + (((turn + u) * WARPS + warp) * 8 + h * 4 + c) * 16);
            const uint4 low = w[u][h][0], high = w[u][h][1];
            const uint32_t front[4] = {low.x, high.x, low.y, high.y}, back[4] = {low.z, high.z, low.w, high.w};
            mma<T>(acc, front, x.x, x.y);
            mma<T>(acc, back, x.z, x.w);
          }
        if (next_tile < tiles) load(next_tile, next_turn, u);
      }
    }
#pragma unroll
    for (int f = 0; f < FOLD; f++) {
      if (f) __syncthreads();
      if (FOLD == 1 || warp / KEPT == f)
#pragma unroll
        for (int i = 0; i < 4; i++) {
          float& sum = sums[warp % KEPT][g + (i >> 1) * TILE][c * 2 + (i & 1)];
          sum = f ? sum + acc[i] : acc[i];
        }
    }
    __syncthreads();
    if (t < TILE * 8) {
      float low = 0.f, high = 0.f, squares = 0.f;
#pragma unroll
      for (int s = 0; s < KEPT; s++) low += sums[s][pair][b], high += sums[s][pair + TILE][b];
      if (finishes) squares = finish<T, MODE>(a, where, held, tile * TILE + pair, b, low * scales[b], high * scales[b]);
      if (MODE == ADD && a.gain) {
#pragma unroll
        for (int o = TILE / 2; o; o >>= 1) squares += __shfl_xor_sync(~0u, squares, o);
        if (finishes && pair == 0) a.seen[(size_t)b * tiles + tile] = squares;
      }
    }
    __syncthreads();
  }
}

// 16 warps where there are too few tiles to give every multiprocessor two blocks of 8; a quarter of its sums where x leaves no more room.
#define FEW(NAME, SUFFIX, T, MODE)                                                                                                                      \
  extern "C" __global__ void __launch_bounds__(256, 2) few_##NAME##_##SUFFIX(const __grid_constant__ FewArgs a) { matvec_few<T, MODE, 8, 1>(a); }         \
  extern "C" __global__ void __launch_bounds__(512, 1) few_##NAME##_long_##SUFFIX(const __grid_constant__ FewArgs a) { matvec_few<T, MODE, 16, 4>(a); }   \
  extern "C" __global__ void __launch_bounds__(512, 1) few_##NAME##_wide_##SUFFIX(const __grid_constant__ FewArgs a) { matvec_few<T, MODE, 16, 1>(a); }
#define FEWS(SUFFIX, T)          \
  FEW(store, SUFFIX, T, STORE)   \
  FEW(rotate, SUFFIX, T, ROTATE) \
  FEW(add, SUFFIX, T, ADD)       \
  FEW(gated, SUFFIX, T, GATED)   \
  FEW(plain, SUFFIX, T, PLAIN)
FEWS(f16, __half)
FEWS(bf16, __nv_bfloat16)
