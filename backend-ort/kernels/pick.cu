// Picks the highest score of each row and prepares the next step. No headers are used.

typedef unsigned long long u64;

// An order of floats as integers, NaN below everything; among equals the lowest index is the highest.
__device__ __forceinline__ u64 rank(float v, unsigned index) {
  const unsigned bits = __float_as_uint(v);
  const unsigned order = v != v ? 0u : bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (u64)order << 32 | (0xffffffffu - index);
}

// Block (b, r) looks at the b-th part of row r. `best` is zero before, and made so again by `advance`.
extern "C" __global__ void __launch_bounds__(256) best_scores(const float* scores, u64* best, unsigned vocab) {
  const float* row = scores + (size_t)blockIdx.y * vocab;
  u64 top = 0;
  for (unsigned i = blockIdx.x * 256 + threadIdx.x; i < vocab; i += gridDim.x * 256) {
    // -0 and +0 are equal, so they must have one rank.
    const u64 r = rank(row[i] + 0.f, i);
    top = top > r ? top : r;
  }
#pragma unroll
  for (int o = 16; o; o >>= 1) {
    const u64 other = __shfl_xor_sync(~0u, top, o);
    top = top > other ? top : other;
  }
  __shared__ u64 tops[8];
  if (threadIdx.x % 32 == 0) tops[threadIdx.x / 32] = top;
  __syncthreads();
  if (threadIdx.x == 0) {
#pragma unroll
    for (int i = 1; i < 8; i++) top = top > tops[i] ? top : tops[i];
    atomicMax(best + blockIdx.y, top);
  }
}

// One thread a row: the picked token becomes the next input, and positions move on by one.
extern "C" __global__ void advance(u64* best, long long* tokens, int* lengths, long long* position, unsigned* picked, unsigned rows) {
  const unsigned row = threadIdx.x;
  if (row >= rows) return;
  const unsigned token = 0xffffffffu - (unsigned)best[row];
  best[row] = 0;
  tokens[row] = token;
  picked[row] = token;
  lengths[row] += 1;
  if (row == 0) *position += 1;
}
