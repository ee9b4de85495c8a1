// The activation of a gated layer for any number of rows. It is compiled behind `half.cu`.

__device__ __forceinline__ float silu(float v) { return v / (1.f + __expf(-v)); }

__device__ __forceinline__ unsigned gated2(unsigned g, unsigned u) {
  const float2 a = widen2(g), b = widen2(u);
  return (unsigned)narrow(silu(a.x) * b.x) | (unsigned)narrow(silu(a.y) * b.y) << 16;
}

// y = silu(g) * u, eight elements a thread
extern "C" __global__ void __launch_bounds__(256) gated(const uint4* g, const uint4* u, uint4* y, unsigned pieces) {
  const unsigned i = blockIdx.x * 256 + threadIdx.x;
  if (i >= pieces) return;
  const uint4 a = g[i], b = u[i];
  y[i] = make_uint4(gated2(a.x, b.x), gated2(a.y, b.y), gated2(a.z, b.z), gated2(a.w, b.w));
}
