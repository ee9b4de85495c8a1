// Numbers of 16 bits: bf16 where BF16 is 1, f16 where it is 0. No headers are used, so the run-time compiler needs none.

typedef unsigned short half_t;

__device__ __forceinline__ float widen(half_t v) {
#if BF16
  return __uint_as_float((unsigned)v << 16);
#else
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v));
  return f;
#endif
}

__device__ __forceinline__ half_t narrow(float v) {
  half_t h;
#if BF16
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(v));
#else
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(v));
#endif
  return h;
}

// Two values from one word.
__device__ __forceinline__ float2 widen2(unsigned w) {
#if BF16
  return make_float2(__uint_as_float(w << 16), __uint_as_float(w & 0xffff0000u));
#else
  return make_float2(widen((half_t)(w & 0xffff)), widen((half_t)(w >> 16)));
#endif
}

