// Products of one row of activations with a matrix, each weight read once, with the step before and after them fused in.
//
// y[n] = W[n, k] x[k]. A warp takes R rows at a time and keeps R * U loads of 16 bytes per lane in flight; the first ones are
// issued before the kernel waits for the one that computes x. Activations and sums are f32.
#include "common.cuh"

// Mirrored by `MatvecArgs` in src/cuda/args.rs.
struct MatvecArgs {
  const void* w;
  const float* bias;        // [n], or null
  const float* x;           // [k]
  const float* gain;        // [k], with a norm: each kernel has one, or none
  const float* shift;       // [k], with a layer norm
  float* y;
  const void* embedding;    // [vocab, k]: where x comes from instead, in a model's first layer
  const void* positions;    // [max_context, k], or null: added to the embedding
  float* residual;          // [k]: where that x is kept
  const float* frequencies; // [head_dim / 2], or null: no rotation
  uint32_t* tokens;         // [1]
  uint64_t* best;           // [1], zero between launches
  uint32_t* ticket;         // [1], zero between launches
  Step* advance;            // moved on by the head when it is there
  Place place;
  uint32_t n, k;
  uint32_t activation, heads;
  float eps;
};

enum Mode { STORE, ROTATE, ADD, GATED, PLAIN, HEAD };

constexpr int THREADS = 256, WARPS = THREADS / 32;

// Row `r` of group `g`.
template <int MODE, int R>
__device__ __forceinline__ uint32_t row_of(const MatvecArgs& a, uint32_t g, int r) {
  if (MODE == ROTATE) {
    uint32_t half = a.place.head_dim / 2;
    return g / half * 2 * half + g % half + r * half;
  }
  if (MODE == GATED) return g + r * a.n;
  return min(g * R + r, a.n - 1);
}

// Activations in shared memory, in two planes of four floats a chunk of eight (one plane for f32), so that neighbouring
// lanes read neighbouring 16 bytes.
template <typename T>
__device__ __forceinline__ uint32_t slot(uint32_t quad, uint32_t padded) {
  return Format<T>::PER == 8 ? (quad & 1) * padded + (quad >> 1) : quad;
}

template <typename T>
__device__ __forceinline__ float dot(uint4 w, const float4* xs, uint32_t chunk, uint32_t padded) {
  float v[Format<T>::PER];
  Format<T>::unpack(w, v);
  float4 x = xs[chunk];
  float s = v[0] * x.x + v[1] * x.y + v[2] * x.z + v[3] * x.w;
  if (Format<T>::PER == 8) {
    x = xs[padded + chunk];
    s += v[4] * x.x + v[5] * x.y + v[6] * x.z + v[7] * x.w;
  }
  return s;
}

template <typename T>
__device__ __forceinline__ float4 quad_at(const void* rows, size_t row, uint32_t k, uint32_t quad) {
  const T* p = static_cast<const T*>(rows) + row * k + quad * 4;
  return make_float4(Format<T>::to(p[0]), Format<T>::to(p[1]), Format<T>::to(p[2]), Format<T>::to(p[3]));
}

template <typename T>
__device__ __forceinline__ float4 input_quad(const MatvecArgs& a, uint32_t token, uint32_t position, uint32_t quad) {
  if (!a.embedding) return __ldcg(reinterpret_cast<const float4*>(a.x) + quad);
  float4 v = quad_at<T>(a.embedding, token, a.k, quad);
  if (a.positions) {
    float4 p = quad_at<T>(a.positions, position, a.k, quad);
    v.x += p.x, v.y += p.y, v.z += p.z, v.w += p.w;
  }
  return v;
}

// Zeros behind the end of a row, which lanes past it multiply.
template <typename T>
__device__ __forceinline__ void pad(const MatvecArgs& a, float4* xs, uint32_t padded) {
  for (uint32_t i = a.k / Format<T>::PER + threadIdx.x; i < padded; i += THREADS) {
    xs[i] = make_float4(0, 0, 0, 0);
    if (Format<T>::PER == 8) xs[padded + i] = make_float4(0, 0, 0, 0);
  }
}

// Fills xs with the input times an RMS norm's gains. What the norm divides by is left to the sums: each thread puts the squares
// that it has seen into `squares`, and nothing waits for them before the first product.
template <typename T>
__device__ __forceinline__ void stage_rms(const MatvecArgs& a, float4* xs, uint32_t padded, float* squares) {
  constexpr int HELD = 4;
  const uint32_t quads = a.k / 4, t = threadIdx.x;
  const float4* gain = reinterpret_cast<const float4*>(a.gain);
  pad<T>(a, xs, padded);
  float4 g[HELD], v[HELD];
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) g[h] = gain[t + h * THREADS];
  dep_wait();
  dep_launch();
  uint32_t token = 0, position = 0;
  if (a.embedding) token = __ldcg(a.tokens), position = locate(a.place).position;
  float seen = 0.f;
  auto put = [&](float4 x, float4 by, uint32_t i) {
    xs[slot<T>(i, padded)] = make_float4(x.x * by.x, x.y * by.y, x.z * by.z, x.w * by.w);
    seen += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
    if (a.embedding && blockIdx.x == 0) reinterpret_cast<float4*>(a.residual)[i] = x;
  };
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) v[h] = input_quad<T>(a, token, position, t + h * THREADS);
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) put(v[h], g[h], t + h * THREADS);
  for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) put(input_quad<T>(a, token, position, i), gain[i], i);
  squares[t] = seen;
  __syncthreads();
}

// Fills xs with the input, through a layer norm where asked. Its gains are there already when `wait` returns.
template <typename T, Norm NORM>
__device__ __forceinline__ void stage(const MatvecArgs& a, float4* xs, uint32_t padded) {
  __shared__ float scratch[WARPS];
  const uint32_t quads = a.k / 4, t = threadIdx.x;
  pad<T>(a, xs, padded);
  if (NORM == NORM_LAYER)
    for (uint32_t i = t; i < quads; i += THREADS) xs[slot<T>(i, padded)] = reinterpret_cast<const float4*>(a.gain)[i];
  dep_wait();
  dep_launch();
  if (NORM == NORM_NONE) {
    for (uint32_t i = t; i < quads; i += THREADS) xs[slot<T>(i, padded)] = __ldcg(reinterpret_cast<const float4*>(a.x) + i);
    __syncthreads();
    return;
  }
  constexpr int HELD = 4;
  uint32_t token = 0, position = 0;
  if (a.embedding) token = __ldcg(a.tokens), position = locate(a.place).position;
  float4 v[HELD];
  float sum = 0.f, squares = 0.f;
  auto take = [&](float4 x, uint32_t i) {
    sum += x.x + x.y + x.z + x.w;
    if (a.embedding && blockIdx.x == 0) reinterpret_cast<float4*>(a.residual)[i] = x;
  };
#pragma unroll
  for (int h = 0; h < HELD; h++) {
    uint32_t i = t + h * THREADS;
    if (i < quads) v[h] = input_quad<T>(a, token, position, i);
  }
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) take(v[h], t + h * THREADS);
  for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) take(input_quad<T>(a, token, position, i), i);
  const float mean = block_sum<THREADS>(sum, scratch) / a.k;
  auto spread = [&](float4 x) {
    x.x -= mean, x.y -= mean, x.z -= mean, x.w -= mean;
    squares += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
  };
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) spread(v[h]);
  for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) spread(input_quad<T>(a, token, position, i));
  const float scale = rsqrtf(block_sum<THREADS>(squares, scratch) / a.k + a.eps);
  auto put = [&](float4 x, uint32_t i) {
    float4 g = xs[slot<T>(i, padded)];
    float4 s = reinterpret_cast<const float4*>(a.shift)[i];
    xs[slot<T>(i, padded)] = make_float4((x.x - mean) * scale * g.x + s.x, (x.y - mean) * scale * g.y + s.y,
                                         (x.z - mean) * scale * g.z + s.z, (x.w - mean) * scale * g.w + s.w);
  };
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) put(v[h], t + h * THREADS);
  for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) put(input_quad<T>(a, token, position, i), i);
  __syncthreads();
}

// What finishing a group needs from memory: asked for before its products, so that nothing waits for it at the end.
template <int R>
struct Held {
  float bias[R], residual[R], frequency;
};

template <int MODE, int R>
__device__ __forceinline__ Held<R> hold(const MatvecArgs& a, uint32_t g) {
  Held<R> held;
#pragma unroll
  for (int r = 0; r < R; r++) {
    const uint32_t row = row_of<MODE, R>(a, g, r);
    held.bias[r] = a.bias ? a.bias[row] : 0.f;
    held.residual[r] = MODE == ADD ? __ldcg(a.y + row) : 0.f;
  }
  held.frequency = MODE == ROTATE && a.frequencies ? a.frequencies[g % (a.place.head_dim / 2)] : 0.f;
  return held;
}

// What happens to a group's sums; lane 0 only.
template <typename T, int MODE, int R>
__device__ __forceinline__ void finish(const MatvecArgs& a, const Where& where, const Held<R>& held, uint32_t g, float* acc, uint64_t& best) {
#pragma unroll
  for (int r = 0; r < R; r++) acc[r] += held.bias[r];
  if constexpr (MODE == ROTATE) {
    const uint32_t head_dim = a.place.head_dim, half = head_dim / 2, head = g / half, at = g % half, kv_heads = a.place.kv_heads;
    if (a.frequencies && head < a.heads + kv_heads) rotate(acc[0], acc[1], where.position, held.frequency);
    if (head < a.heads) {
      a.y[head * head_dim + at] = acc[0];
      a.y[head * head_dim + at + half] = acc[1];
    } else {
      const uint32_t of = head - a.heads;
      T* row = cache_of<T>(a.place, where, of / kv_heads, 0, of % kv_heads) + (size_t)where.position * head_dim;
      row[at] = Format<T>::from(acc[0]);
      row[at + half] = Format<T>::from(acc[1]);
    }
  } else if constexpr (MODE == GATED) {
    a.y[g] = activate(a.activation, acc[0]) * acc[1];
  } else {
#pragma unroll
    for (int r = 0; r < R; r++) {
      const uint32_t row = g * R + r;
      if (row >= a.n) continue;
      a.y[row] = MODE == PLAIN ? activate(a.activation, acc[r]) : held.residual[r] + acc[r];
      if (MODE == HEAD) best = max(best, score_key(acc[r], row));
    }
  }
}

// The last block to arrive picks the token and moves the step on.
__device__ __forceinline__ void pick(const MatvecArgs& a, uint64_t best) {
  __shared__ uint64_t found[WARPS];
  if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x) return;
#pragma unroll
  for (int i = 0; i < WARPS; i++) best = max(best, found[i]);
  atomicMax(reinterpret_cast<unsigned long long*>(a.best), (unsigned long long)best);
  __threadfence();
  if (atomicAdd(a.ticket, 1) != gridDim.x - 1) return;
  __threadfence();
  *a.ticket = 0;
  uint32_t token = key_row(atomicExch(reinterpret_cast<unsigned long long*>(a.best), 0ull));
  *a.tokens = token;
  if (a.advance) {
    reinterpret_cast<uint32_t*>(a.advance->tokens_out)[a.advance->index] = token;
    a.advance->index += 1;
    a.advance->position += 1;
  }
}

template <typename T, int MODE, int R, int U, Norm NORM>
__device__ __forceinline__ void matvec(const MatvecArgs& a) {
  extern __shared__ float4 xs[];
  constexpr int PER = Format<T>::PER;
  const uint32_t chunks = a.k / PER, strips = (chunks + 31) / 32, padded = strips * 32;
  const uint32_t lane = threadIdx.x % 32, warps = gridDim.x * WARPS;
  const uint32_t groups = MODE == ROTATE ? a.n / 2 : MODE == GATED ? a.n : (a.n + R - 1) / R;
  uint32_t g = blockIdx.x * WARPS + threadIdx.x / 32;
  uint4 w[R][U];
  auto load = [&](uint32_t group, uint32_t strip, int r, int u) {
    const uint32_t chunk = (strip + u) * 32 + lane;
    w[r][u] = make_uint4(0, 0, 0, 0);
    if (group < groups && chunk < chunks)
      w[r][u] = load_weights(reinterpret_cast<const uint4*>(static_cast<const T*>(a.w) + (size_t)row_of<MODE, R>(a, group, r) * a.k) + chunk);
  };
#pragma unroll
  for (int u = 0; u < U; u++)
#pragma unroll
    for (int r = 0; r < R; r++) load(g, 0, r, u);
  float4 squares[2];
  float scale = 1.f;
  if constexpr (NORM == NORM_RMS) {
    __shared__ float4 seen[THREADS / 4];
    stage_rms<T>(a, xs, padded, &seen[0].x);
    squares[0] = seen[lane], squares[1] = seen[lane + 32];
  } else {
    stage<T, NORM>(a, xs, padded);
  }
  const Where where = MODE == ROTATE ? locate(a.place) : Where{};
  uint64_t best = 0;
  for (; g < groups; g += warps) {
    const Held<R> held = hold<MODE, R>(a, g);
    float acc[R] = {};
    for (uint32_t strip = 0; strip < strips; strip += U) {
      const bool done = strip + U >= strips;
      const uint32_t next_group = done ? g + warps : g, next_strip = done ? 0 : strip + U;
#pragma unroll
      for (int u = 0; u < U; u++) {
        if (strip + u < strips)
#pragma unroll
          for (int r = 0; r < R; r++) acc[r] += dot<T>(w[r][u], xs, (strip + u) * 32 + lane, padded);
        if (next_group < groups)
#pragma unroll
          for (int r = 0; r < R; r++) load(next_group, next_strip, r, u);
      }
    }
    // Each warp adds all squares up by itself, along with its first sums, and keeps the factor.
    if (NORM == NORM_RMS && g < warps) {
      const float4 p = squares[0], q = squares[1];
      scale = rsqrtf(warp_sum(((p.x + p.y) + (p.z + p.w)) + ((q.x + q.y) + (q.z + q.w))) / a.k + a.eps);
    }
#pragma unroll
    for (int r = 0; r < R; r++) acc[r] = warp_sum(acc[r]) * scale;
    if (lane == 0) finish<T, MODE, R>(a, where, held, g, acc, best);
  }
  if (MODE == HEAD) pick(a, best);
}

#define MATVEC(NAME, T, MODE, R, U, NORM) \
  extern "C" __global__ void __launch_bounds__(THREADS, 2) NAME(const __grid_constant__ MatvecArgs a) { matvec<T, MODE, R, U, NORM>(a); }
#define NORMED(NAME, SUFFIX, T, MODE)                     \
  MATVEC(matvec_##NAME##_##SUFFIX, T, MODE, 2, 8, NORM_RMS) \
  MATVEC(matvec_##NAME##_layer_##SUFFIX, T, MODE, 2, 8, NORM_LAYER)
#define MATVECS(SUFFIX, T)                            \
  NORMED(store, SUFFIX, T, STORE)                     \
  NORMED(rotate, SUFFIX, T, ROTATE)                   \
  NORMED(gated, SUFFIX, T, GATED)                     \
  NORMED(plain, SUFFIX, T, PLAIN)                     \
  NORMED(head, SUFFIX, T, HEAD)                       \
  MATVEC(matvec_add_##SUFFIX, T, ADD, 1, 16, NORM_NONE)
MATVECS(f32, float)
MATVECS(f16, __half)
MATVECS(bf16, __nv_bfloat16)
