// What the kernels share: number formats, loads, reductions, dependent launches, and the place of a step in a KV cache.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

// A decode step's changing numbers, in device memory, so that one captured graph serves every position and cache.
// Mirrored by `Step` in src/cuda/args.rs.
struct Step {
  uint64_t cache;       // base of the KV cache
  uint64_t tokens_out;  // u32 [steps, batch]: where picked tokens go
  uint32_t capacity;    // positions the cache has room for
  uint32_t position;    // positions already in it
  uint32_t index;       // steps of this run already done
  uint32_t reserved;
};

// Where new keys and values go: from `step` when it is there, else from the other fields. Mirrored by `Place`.
struct Place {
  const Step* step;
  uint64_t cache;
  uint32_t capacity, start;
  uint32_t batch, kv_heads, head_dim, layer;
};

struct Where {
  uint64_t cache;
  uint32_t capacity, position;
};

__device__ __forceinline__ Where locate(const Place& place) {
  if (place.step) return {__ldcg(&place.step->cache), __ldcg(&place.step->capacity), __ldcg(&place.step->position)};
  return {place.cache, place.capacity, place.start};
}

// Cache of one layer's keys (kv = 0) or values (kv = 1) of one head: [layers, 2, batch, kv_heads, capacity, head_dim].
template <typename T>
__device__ __forceinline__ T* cache_of(const Place& place, const Where& where, uint32_t kv, uint32_t row, uint32_t head) {
  size_t heads = ((size_t)(place.layer * 2 + kv) * place.batch + row) * place.kv_heads + head;
  return reinterpret_cast<T*>(where.cache) + heads * where.capacity * place.head_dim;
}

enum Norm : uint32_t { NORM_NONE = 0, NORM_RMS = 1, NORM_LAYER = 2 };
enum Activation : uint32_t { ACT_SILU = 0, ACT_GELU = 1, ACT_GELU_TANH = 2, ACT_RELU = 3 };

__device__ __forceinline__ float activate(uint32_t kind, float x) {
  switch (kind) {
    case ACT_SILU: return x / (1.f + __expf(-x));
    case ACT_GELU: return 0.5f * x * (1.f + erff(x * 0.70710678118654752f));
    case ACT_GELU_TANH: return 0.5f * x * (1.f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x < 0.f ? 0.f : x;
  }
}

// The next kernel of the stream may be scheduled; it must not read what this one writes before its own dep_wait().
__device__ __forceinline__ void dep_launch() { asm volatile("griddepcontrol.launch_dependents;" ::: "memory"); }
// Everything that earlier kernels of the stream wrote is visible. Does nothing without a programmatic launch.
__device__ __forceinline__ void dep_wait() { asm volatile("griddepcontrol.wait;" ::: "memory"); }

// Weights: read once, never written while a kernel runs.
__device__ __forceinline__ uint4 load_weights(const uint4* p) {
  uint4 r;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}

// Cache rows: another kernel may have just written the last of them.
__device__ __forceinline__ uint4 load_cache(const void* p) {
  uint4 r;
  asm volatile("ld.global.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}

// Sum over a block of THREADS; `scratch` has THREADS / 32 floats. The same order everywhere.
template <int THREADS>
__device__ __forceinline__ float block_sum(float v, float* scratch) {
  v = warp_sum(v);
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = v;
  __syncthreads();
  float s = 0.f;
#pragma unroll
  for (int i = 0; i < THREADS / 32; i++) s += scratch[i];
  __syncthreads();
  return s;
}

// A number format: elements in 16 bytes, conversion, and 16 bytes as floats.
template <typename T>
struct Format;
template <>
struct Format<float> {
  static constexpr int PER = 4;
  static __device__ __forceinline__ float to(float x) { return x; }
  static __device__ __forceinline__ float from(float x) { return x; }
  static __device__ __forceinline__ void unpack(uint4 w, float* out) {
    out[0] = __uint_as_float(w.x), out[1] = __uint_as_float(w.y), out[2] = __uint_as_float(w.z), out[3] = __uint_as_float(w.w);
  }
};
template <>
struct Format<__nv_bfloat16> {
  static constexpr int PER = 8;
  static __device__ __forceinline__ float to(__nv_bfloat16 x) { return __bfloat162float(x); }
  static __device__ __forceinline__ __nv_bfloat16 from(float x) { return __float2bfloat16(x); }
  static __device__ __forceinline__ void unpack(uint4 w, float* out) {
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      out[2 * i] = __uint_as_float(words[i] << 16);
      out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
  }
};
template <>
struct Format<__half> {
  static constexpr int PER = 8;
  static __device__ __forceinline__ float to(__half x) { return __half2float(x); }
  static __device__ __forceinline__ __half from(float x) { return __float2half(x); }
  static __device__ __forceinline__ void unpack(uint4 w, float* out) {
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float2 f = __half22float2(*reinterpret_cast<const __half2*>(&words[i]));
      out[2 * i] = f.x, out[2 * i + 1] = f.y;
    }
  }
};

// Scores ordered as unsigned numbers, the lowest row first among equals; NaN is below everything.
__device__ __forceinline__ uint64_t score_key(float score, uint32_t row) {
  if (score != score) return 0;
  uint32_t u = __float_as_uint(score);
  u = u & 0x80000000u ? ~u : u | 0x80000000u;
  return (uint64_t)u << 32 | (0xffffffffu - row);
}
__device__ __forceinline__ uint32_t key_row(uint64_t key) { return key ? 0xffffffffu - (uint32_t)key : 0; }

// The rotation of a pair of elements at a position, the angle rounded to f32 as the reference does.
__device__ __forceinline__ void rotate(float& a, float& b, uint32_t position, float frequency) {
  float s, c;
  sincosf((float)position * frequency, &s, &c);
  float u = a * c - b * s;
  b = b * c + a * s;
  a = u;
}
