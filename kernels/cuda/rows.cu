// Steps between the matrix products of many rows, and attention for every shape that has no faster kernel.
#include "common.cuh"

constexpr int THREADS = 256;

// Mirrored by `EmbedArgs` in src/cuda/args.rs.
struct EmbedArgs {
  const uint32_t* tokens;  // [rows]
  const void* embedding;   // [vocab, width]
  const void* positions;   // [max_context, width], or null
  float* x;                // [rows, width]
  Place place;
  uint32_t len, width;     // a sequence's new positions: row r is at position start + r % len
};

template <typename T>
__device__ __forceinline__ void embed(const EmbedArgs& a) {
  dep_wait();
  dep_launch();
  const uint32_t row = blockIdx.x;
  const Where where = locate(a.place);
  const T* e = static_cast<const T*>(a.embedding) + (size_t)a.tokens[row] * a.width;
  const T* p = a.positions ? static_cast<const T*>(a.positions) + (size_t)(where.position + row % a.len) * a.width : nullptr;
  for (uint32_t i = threadIdx.x; i < a.width; i += THREADS)
    a.x[(size_t)row * a.width + i] = Format<T>::to(e[i]) + (p ? Format<T>::to(p[i]) : 0.f);
}

// Mirrored by `NormArgs`.
struct NormArgs {
  float* x;            // [rows, width]
  const float* add;    // [width], or null: added to x first, and kept
  const float* gain;   // [width]
  const float* shift;  // [width], for a layer norm
  void* out;           // [rows, width] in T
  uint32_t width, norm;
  float eps;
};

// A block takes one row. HELD quads of it stay in a thread's registers, beyond that it reads x again.
template <typename T, int HELD>
__device__ __forceinline__ void norm(const NormArgs& a) {
  __shared__ float scratch[THREADS / 32];
  float4* x = reinterpret_cast<float4*>(a.x + (size_t)blockIdx.x * a.width);
  const float4* gain = reinterpret_cast<const float4*>(a.gain);
  const uint32_t quads = a.width / 4, t = threadIdx.x;
  constexpr int AHEAD = HELD <= 2 ? HELD : 0;  // of them have their gains asked for before anything is waited for
  float4 v[HELD], g[HELD];
#pragma unroll
  for (int h = 0; h < AHEAD; h++)
    if (t + h * THREADS < quads) g[h] = gain[t + h * THREADS];
  dep_wait();
  dep_launch();
  float sum = 0.f, squares = 0.f;
  auto first = [&](uint32_t i) {
    float4 q = x[i];
    if (a.add) {
      const float4 b = reinterpret_cast<const float4*>(a.add)[i];
      q.x += b.x, q.y += b.y, q.z += b.z, q.w += b.w;
      x[i] = q;
    }
    sum += q.x + q.y + q.z + q.w;
    squares += q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w;
    return q;
  };
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) v[h] = first(t + h * THREADS);
  for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) first(i);
  float mean = 0.f;
  if (a.norm == NORM_LAYER) {
    mean = block_sum<THREADS>(sum, scratch) / a.width;
    squares = 0.f;
    auto spread = [&](float4 q) {
      q.x -= mean, q.y -= mean, q.z -= mean, q.w -= mean;
      squares += q.x * q.x + q.y * q.y + q.z * q.z + q.w * q.w;
    };
#pragma unroll
    for (int h = 0; h < HELD; h++)
      if (t + h * THREADS < quads) spread(v[h]);
    for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) spread(x[i]);
  }
  const float scale = rsqrtf(block_sum<THREADS>(squares, scratch) / a.width + a.eps);
  T* out = static_cast<T*>(a.out) + (size_t)blockIdx.x * a.width;
  auto put = [&](float4 q, float4 g, uint32_t i) {
    const float4 s = a.norm == NORM_LAYER ? reinterpret_cast<const float4*>(a.shift)[i] : make_float4(0, 0, 0, 0);
    T four[4] = {Format<T>::from((q.x - mean) * scale * g.x + s.x), Format<T>::from((q.y - mean) * scale * g.y + s.y),
                 Format<T>::from((q.z - mean) * scale * g.z + s.z), Format<T>::from((q.w - mean) * scale * g.w + s.w)};
    if constexpr (sizeof(T) == 2) reinterpret_cast<uint2*>(out)[i] = *reinterpret_cast<uint2*>(four);
    else reinterpret_cast<uint4*>(out)[i] = *reinterpret_cast<uint4*>(four);
  };
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (t + h * THREADS < quads) put(v[h], h < AHEAD ? g[h] : gain[t + h * THREADS], t + h * THREADS);
  for (uint32_t i = t + HELD * THREADS; i < quads; i += THREADS) put(x[i], gain[i], i);
}

// Mirrored by `RotateArgs`.
struct RotateArgs {
  const void* qkv;           // [rows, (heads + 2 kv_heads) * head_dim] in T, or f32 when `wide_in`
  const float* bias;         // [(heads + 2 kv_heads) * head_dim], or null
  const float* q_norm;       // [head_dim], or null
  const float* k_norm;       // [head_dim], or null
  const float* frequencies;  // [head_dim / 2], or null: no rotation
  void* q;                   // [rows, heads * head_dim] in T, or f32 when `wide_out`; or null
  float* last;               // [batch, heads * head_dim], or null: the queries of each sequence's last new position
  Place place;
  uint32_t len, heads, wide_in, wide_out;
  uint32_t lanes;            // of a head: a power of two, at most a warp
  float eps;
};

constexpr int APPEND_THREADS = 64, MOST_HALF = 128;

// V elements from the `i`th on, of f32 when `wide`, else of T: 16 bytes of T at a time where V is more than one.
template <typename T, int V>
__device__ __forceinline__ void take(const void* from, size_t i, bool wide, float (&x)[V]) {
  const float* f = static_cast<const float*>(from) + i;
  const T* n = static_cast<const T*>(from) + i;
  if constexpr (V == 1) {
    x[0] = wide ? *f : Format<T>::to(*n);
  } else if (wide) {
#pragma unroll
    for (int e = 0; e < V; e += 4) Format<float>::unpack(*reinterpret_cast<const uint4*>(f + e), x + e);
  } else {
    Format<T>::unpack(*reinterpret_cast<const uint4*>(n), x);
  }
}

template <typename T, int V>
__device__ __forceinline__ void give(void* to, size_t i, bool wide, const float (&x)[V]) {
  float* f = static_cast<float*>(to) + i;
  T* n = static_cast<T*>(to) + i;
  if constexpr (V == 1) {
    if (wide) *f = x[0];
    else *n = Format<T>::from(x[0]);
  } else if (wide) {
#pragma unroll
    for (int e = 0; e < V; e += 4) *reinterpret_cast<float4*>(f + e) = make_float4(x[e], x[e + 1], x[e + 2], x[e + 3]);
  } else {
    __align__(16) T narrow[V];
#pragma unroll
    for (int e = 0; e < V; e++) narrow[e] = Format<T>::from(x[e]);
    *reinterpret_cast<uint4*>(n) = *reinterpret_cast<uint4*>(narrow);
  }
}

// A block takes some heads of one row: bias, norm over the head, rotation; then to the queries or into the cache. A lane has V
// neighbours of a head's first half and those of its second half that they are rotated with, TURNS times. The block computes the
// row's angles once.
template <typename T, int V, int TURNS>
__device__ __forceinline__ void rotate_append(const RotateArgs& a) {
  __shared__ float2 angles[MOST_HALF];
  const uint32_t head_dim = a.place.head_dim, half = head_dim / 2, kv_heads = a.place.kv_heads, all = a.heads + 2 * kv_heads;
  const uint32_t t = threadIdx.x, row = blockIdx.x, lane = t % a.lanes, head = blockIdx.y * (APPEND_THREADS / a.lanes) + t / a.lanes;
  const uint32_t at = row % a.len, sequence = row / a.len;
  const bool query = head < a.heads, rotates = head < a.heads + kv_heads, ends = a.last && at == a.len - 1;
  const bool works = head < all && (!query || a.q || ends);
  dep_wait();
  dep_launch();
  const Where where = locate(a.place);
  const uint32_t position = where.position + at;
  float x[TURNS][V] = {}, y[TURNS][V] = {};
  auto place_of = [&](int turn) { return (lane + turn * a.lanes) * V; };
  auto each = [&](auto&& body) {
#pragma unroll
    for (int turn = 0; turn < TURNS; turn++)
      if (works && place_of(turn) < half) body(x[turn], y[turn], place_of(turn));
  };
  const size_t from = ((size_t)row * all + head) * head_dim;
  each([&](auto& low, auto& high, uint32_t i) {
    take<T, V>(a.qkv, from + i, a.wide_in, low);
    take<T, V>(a.qkv, from + i + half, a.wide_in, high);
  });
  if (a.frequencies)
    for (uint32_t i = t; i < half; i += APPEND_THREADS) sincosf((float)position * a.frequencies[i], &angles[i].y, &angles[i].x);
  __syncthreads();
  if (a.bias)
    each([&](auto& low, auto& high, uint32_t i) {
      float b[2][V];
      take<float, V>(a.bias, head * head_dim + i, true, b[0]);
      take<float, V>(a.bias, head * head_dim + i + half, true, b[1]);
#pragma unroll
      for (int e = 0; e < V; e++) low[e] += b[0][e], high[e] += b[1][e];
    });
  if (a.q_norm || a.k_norm) {
    float squares = 0.f;
    each([&](auto& low, auto& high, uint32_t) {
#pragma unroll
      for (int e = 0; e < V; e++) squares += low[e] * low[e] + high[e] * high[e];
    });
    // All lanes of a warp take part, whatever their heads are.
    for (uint32_t o = a.lanes / 2; o; o >>= 1) squares += __shfl_xor_sync(~0u, squares, o);
    const float scale = rsqrtf(squares / head_dim + a.eps);
    const float* gain = query ? a.q_norm : rotates ? a.k_norm : nullptr;
    if (gain)
      each([&](auto& low, auto& high, uint32_t i) {
        float g[2][V];
        take<float, V>(gain, i, true, g[0]);
        take<float, V>(gain, i + half, true, g[1]);
#pragma unroll
        for (int e = 0; e < V; e++) low[e] *= scale * g[0][e], high[e] *= scale * g[1][e];
      });
  }
  if (a.frequencies && rotates)
    each([&](auto& low, auto& high, uint32_t i) {
#pragma unroll
      for (int e = 0; e < V; e++) {
        const float2 angle = angles[i + e];
        const float u = low[e] * angle.x - high[e] * angle.y;
        high[e] = high[e] * angle.x + low[e] * angle.y;
        low[e] = u;
      }
    });
  if (!works) return;
  if (!query) {
    const uint32_t of = head - a.heads;
    T* cached = cache_of<T>(a.place, where, of / kv_heads, sequence, of % kv_heads) + (size_t)position * head_dim;
    each([&](auto& low, auto& high, uint32_t i) { give<T, V>(cached, i, false, low), give<T, V>(cached, i + half, false, high); });
    return;
  }
  const size_t to = ((size_t)row * a.heads + head) * head_dim, tail = ((size_t)sequence * a.heads + head) * head_dim;
  each([&](auto& low, auto& high, uint32_t i) {
    if (a.q) give<T, V>(a.q, to + i, a.wide_out, low), give<T, V>(a.q, to + i + half, a.wide_out, high);
    if (ends) give<T, V>(a.last, tail + i, true, low), give<T, V>(a.last, tail + i + half, true, high);
  });
}

// Mirrored by `ActivateArgs`.
struct ActivateArgs {
  const void* x;      // [rows, 2 * width] in T, gate before up; [rows, width] when `gated` is 0
  const float* bias;  // as long as a row of x, or null
  void* out;          // [rows, width] in T
  uint32_t width, gated, activation;
};

template <typename T>
__device__ __forceinline__ void activate_rows(const ActivateArgs& a) {
  dep_wait();
  dep_launch();
  constexpr int PER = Format<T>::PER;
  const size_t in = (size_t)blockIdx.y * a.width * (a.gated ? 2 : 1);
  const T* x = static_cast<const T*>(a.x) + in;
  const uint32_t i = (blockIdx.x * THREADS + threadIdx.x) * PER;
  if (i >= a.width) return;
  float gate[PER], up[PER];
  Format<T>::unpack(*reinterpret_cast<const uint4*>(x + i), gate);
  if (a.gated) Format<T>::unpack(*reinterpret_cast<const uint4*>(x + a.width + i), up);
  T out[PER];
#pragma unroll
  for (int e = 0; e < PER; e++) {
    if (a.bias) {
      gate[e] += a.bias[i + e];
      if (a.gated) up[e] += a.bias[a.width + i + e];
    }
    out[e] = Format<T>::from(activate(a.activation, gate[e]) * (a.gated ? up[e] : 1.f));
  }
  *reinterpret_cast<uint4*>(static_cast<T*>(a.out) + (size_t)blockIdx.y * a.width + i) = *reinterpret_cast<uint4*>(out);
}

// Mirrored by `GeneralArgs`.
struct GeneralArgs {
  const float* q;  // [batch * len, heads * head_dim], rotated
  void* out;       // [batch * len, heads * head_dim], f32 or the cache's format
  Place place;
  uint32_t len, heads, window, narrow;
  float scale;
};

// A warp takes one head of one query, lanes share the head's elements: any head size up to 256, any length.
template <typename T>
__device__ __forceinline__ void attention_general(const GeneralArgs& a) {
  dep_wait();
  dep_launch();
  constexpr int HELD = 8;
  const uint32_t head_dim = a.place.head_dim, lane = threadIdx.x % 32;
  const uint32_t index = blockIdx.x * (THREADS / 32) + threadIdx.x / 32;
  if (index >= a.place.batch * a.len * a.heads) return;
  const uint32_t head = index % a.heads, row = index / a.heads, sequence = row / a.len;
  const Where where = locate(a.place);
  const uint32_t end = where.position + row % a.len + 1, begin = a.window && end > a.window ? end - a.window : 0;
  const uint32_t kv_head = head / (a.heads / a.place.kv_heads);
  const T* keys = cache_of<T>(a.place, where, 0, sequence, kv_head);
  const T* values = cache_of<T>(a.place, where, 1, sequence, kv_head);
  const size_t at = (size_t)index * head_dim;
  float q[HELD], acc[HELD] = {}, top = -1e30f, sum = 0.f;
#pragma unroll
  for (int h = 0; h < HELD; h++) q[h] = lane + h * 32 < head_dim ? a.q[at + lane + h * 32] * a.scale : 0.f;
  for (uint32_t j = begin; j < end; j++) {
    float s = 0.f;
#pragma unroll
    for (int h = 0; h < HELD; h++)
      if (lane + h * 32 < head_dim) s += q[h] * Format<T>::to(keys[(size_t)j * head_dim + lane + h * 32]);
    s = warp_sum(s);
    const float high = fmaxf(top, s), less = __expf(top - high), p = __expf(s - high);
    top = high;
    sum = sum * less + p;
#pragma unroll
    for (int h = 0; h < HELD; h++)
      if (lane + h * 32 < head_dim) acc[h] = acc[h] * less + p * Format<T>::to(values[(size_t)j * head_dim + lane + h * 32]);
  }
#pragma unroll
  for (int h = 0; h < HELD; h++)
    if (lane + h * 32 < head_dim) {
      if (a.narrow) static_cast<T*>(a.out)[at + lane + h * 32] = Format<T>::from(acc[h] / sum);
      else static_cast<float*>(a.out)[at + lane + h * 32] = acc[h] / sum;
    }
}

// Mirrored by `LastArgs`.
struct LastArgs {
  const float* x;  // [batch * len, width]
  float* out;      // [batch, width]: each sequence's last row
  uint32_t len, width;
};

extern "C" __global__ void last_rows(const __grid_constant__ LastArgs a) {
  dep_wait();
  dep_launch();
  const float* from = a.x + ((size_t)blockIdx.x * a.len + a.len - 1) * a.width;
  for (uint32_t i = threadIdx.x; i < a.width; i += blockDim.x) a.out[(size_t)blockIdx.x * a.width + i] = from[i];
}

// Mirrored by `PickArgs`.
struct PickArgs {
  const float* scores;  // [batch, vocab]
  uint32_t* tokens;     // [batch]
  uint32_t* ticket;     // [1], zero between launches
  Step* advance;        // moved on when it is there
  uint32_t vocab;
};

// A block takes one row; the last one to arrive moves the step on.
extern "C" __global__ void __launch_bounds__(1024) pick_tokens(const __grid_constant__ PickArgs a) {
  dep_wait();
  dep_launch();
  __shared__ uint64_t found[32];
  const float* scores = a.scores + (size_t)blockIdx.x * a.vocab;
  uint64_t best = 0;
  for (uint32_t i = threadIdx.x; i < a.vocab; i += 1024) best = max(best, score_key(scores[i], i));
#pragma unroll
  for (int o = 16; o; o >>= 1) best = max(best, (uint64_t)__shfl_xor_sync(~0u, (unsigned long long)best, o));
  if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x) return;
  for (int i = 1; i < 32; i++) best = max(best, found[i]);
  a.tokens[blockIdx.x] = key_row(best);
  if (!a.advance) return;
  reinterpret_cast<uint32_t*>(a.advance->tokens_out)[(size_t)a.advance->index * gridDim.x + blockIdx.x] = key_row(best);
  __threadfence();
  if (atomicAdd(a.ticket, 1) != gridDim.x - 1) return;
  *a.ticket = 0;
  a.advance->index += 1;
  a.advance->position += 1;
}

// Mirrored by `ReadArgs`.
struct ReadArgs {
  const uint4* from;
  uint32_t* out;   // written only to keep the compiler from leaving the loads out
  uint64_t quads;  // of 16 bytes
};

// Reads memory and does nothing else: what the others are measured against.
extern "C" __global__ void __launch_bounds__(THREADS) read_memory(const __grid_constant__ ReadArgs a) {
  const uint64_t stride = (uint64_t)gridDim.x * THREADS;
  uint32_t seen = 0;
  for (uint64_t i = blockIdx.x * (uint64_t)THREADS + threadIdx.x; i + 7 * stride < a.quads; i += 8 * stride) {
    uint4 v[8];
#pragma unroll
    for (int k = 0; k < 8; k++) v[k] = load_weights(a.from + i + k * stride);
#pragma unroll
    for (int k = 0; k < 8; k++) seen ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
  }
  if (seen == 0x12345678) *a.out = seen;
}

#define ROWS(SUFFIX, T)                                                                                                             \
  extern "C" __global__ void __launch_bounds__(THREADS) embed_##SUFFIX(const __grid_constant__ EmbedArgs a) { embed<T>(a); }          \
  extern "C" __global__ void __launch_bounds__(THREADS) norm_##SUFFIX(const __grid_constant__ NormArgs a) { norm<T, 2>(a); }          \
  extern "C" __global__ void __launch_bounds__(THREADS) norm_wide_##SUFFIX(const __grid_constant__ NormArgs a) { norm<T, 8>(a); }     \
  extern "C" __global__ void __launch_bounds__(APPEND_THREADS) rotate_append_##SUFFIX(const __grid_constant__ RotateArgs a) {         \
    rotate_append<T, Format<T>::PER, 1>(a);                                                                                           \
  }                                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(APPEND_THREADS) rotate_append_any_##SUFFIX(const __grid_constant__ RotateArgs a) {     \
    rotate_append<T, 1, MOST_HALF / 32>(a);                                                                                           \
  }                                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS) activate_##SUFFIX(const __grid_constant__ ActivateArgs a) { activate_rows<T>(a); } \
  extern "C" __global__ void __launch_bounds__(THREADS) attention_general_##SUFFIX(const __grid_constant__ GeneralArgs a) { attention_general<T>(a); }
ROWS(f32, float)
ROWS(f16, __half)
ROWS(bf16, __nv_bfloat16)
