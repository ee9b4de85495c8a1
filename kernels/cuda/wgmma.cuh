// Products of a warpgroup (four warps) on compute capability 9.0: 64 x 16 from registers times 16 x 64 from shared memory, sums
// in f32. They run beside other work of the same warps until they are waited for.
#pragma once
#include "common.cuh"

// Rows of 128 bytes in shared memory, eight of them 1,024 bytes that start at a multiple of that, their 16-byte chunks exchanged
// by the row (`chunk ^ row`), as the tensor cores read them.
__device__ __forceinline__ uint64_t wgmma_tile(uint32_t address) {
  return (uint64_t)((address & 0x3ffff) >> 4) | 1ull << 16 | (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

// Registers of the next products were written.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// At most N groups of products are still under way.
template <int N>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// What this thread wrote to shared memory can be seen by the tensor cores.
__device__ __forceinline__ void wgmma_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define WGMMA_ROW(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define WGMMA(FORMAT)                                                                                                              \
  asm volatile(                                                                                                                    \
      "{\n.reg .pred keep;\nsetp.ne.b32 keep, %37, 0;\n"                                                                           \
      "wgmma.mma_async.sync.aligned.m64n64k16.f32." FORMAT "." FORMAT                                                              \
      " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, " \
      "{%32,%33,%34,%35}, %36, keep, 1, 1, %38;\n}"                                                                                \
      : WGMMA_ROW(c, 0), WGMMA_ROW(c, 1), WGMMA_ROW(c, 2), WGMMA_ROW(c, 3), WGMMA_ROW(c, 4), WGMMA_ROW(c, 5), WGMMA_ROW(c, 6),     \
        WGMMA_ROW(c, 7)                                                                                                            \
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)keep), "n"(ACROSS))

// c = a * b, or c += a * b when `keep`. A row of `b` is an output when ACROSS is 0, and an input when it is 1. Registers are laid
// out as those of `mma`, eight times along the outputs.
template <typename T, int ACROSS>
struct Wgmma;
template <int ACROSS>
struct Wgmma<__nv_bfloat16, ACROSS> {
  static __device__ __forceinline__ void run(float (*c)[4], const uint32_t (&a)[4], uint64_t b, bool keep) { WGMMA("bf16"); }
};
template <int ACROSS>
struct Wgmma<__half, ACROSS> {
  static __device__ __forceinline__ void run(float (*c)[4], const uint32_t (&a)[4], uint64_t b, bool keep) { WGMMA("f16"); }
};
#undef WGMMA
#undef WGMMA_ROW
