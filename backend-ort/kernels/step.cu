// One decode step of one sequence. Compiled for one model on one device, with these numbers defined by the caller:
//   BF16          1 when weights and cache are bf16, 0 when they are f16
//   HIDDEN, INNER, VOCAB, HEADS, KV_HEADS, HEAD_DIM, WINDOW (0: none), EPS
//   SPLITS        blocks that share one key head's positions
// Activations are f32. It is compiled behind `half.cu`.

// Lets the next kernel start, which then requests its weights while this one finishes.
__device__ __forceinline__ void release_next() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until everything before is done and visible. Before it, a kernel reads weights only and writes nothing.
__device__ __forceinline__ void await_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

constexpr int THREADS = 256;
constexpr int WARPS = THREADS / 32;
constexpr int GROUP = HEADS / KV_HEADS;
constexpr int Q_DIM = HEADS * HEAD_DIM;
constexpr int KV_DIM = KV_HEADS * HEAD_DIM;
constexpr float NEVER = -1e30f;

// Eight weights, read once and kept out of the first-level cache. Not through the read-only path: those loads the
// compiler would move down to their use, behind the barriers, and the whole point is to have them under way early.
__device__ __forceinline__ uint4 stream8(const uint4* p) {
  uint4 r;
  asm volatile("ld.global.L1::no_allocate.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w) : "l"(p));
  return r;
}

__device__ __forceinline__ float dot8(uint4 w, const float* x) {
  const float4 a = *(const float4*)x, b = *(const float4*)(x + 4);
  const float2 c = widen2(w.x), d = widen2(w.y), e = widen2(w.z), f = widen2(w.w);
  float s = c.x * a.x;
  s += c.y * a.y;
  s += d.x * a.z;
  s += d.y * a.w;
  s += e.x * b.x;
  s += e.y * b.y;
  s += f.x * b.z;
  s += f.y * b.w;
  return s;
}

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int o = 16; o; o >>= 1) v += __shfl_xor_sync(~0u, v, o);
  return v;
}

// Pieces of 256 elements, 8 a lane, that a row of K elements takes; the last one may be partly beyond it.
#define CHUNKS_OF(k) (((k) / 8 + 31) / 32)

// Copies a vector to shared memory, with zeros up to a whole number of chunks; normalised when NORM.
template <int K, bool NORM>
__device__ __forceinline__ void stage(const float* x, const half_t* weight, float* out) {
  constexpr int PADDED = CHUNKS_OF(K) * 256, PER = PADDED / THREADS;
  float v[PER];
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const int k = threadIdx.x + i * THREADS;
    v[i] = k < K ? x[k] : 0.f;
  }
  float scale = 1.f;
  if (NORM) {
    __shared__ float sums[WARPS];
    float s = 0.f;
#pragma unroll
    for (int i = 0; i < PER; i++) s += v[i] * v[i];
    s = warp_sum(s);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = s;
    __syncthreads();
    s = 0.f;
#pragma unroll
    for (int i = 0; i < WARPS; i++) s += sums[i];
    scale = rsqrtf(s / K + EPS);
  }
#pragma unroll
  for (int i = 0; i < PER; i++) {
    const int k = threadIdx.x + i * THREADS;
    out[k] = NORM ? (k < K ? v[i] * scale * widen(weight[k]) : 0.f) : v[i];
  }
  __syncthreads();
}

// Sums of ROWS rows of weights, one warp: `rows` are their starts. The first loads are under way before the vector is ready.
template <int K, int ROWS, bool NORM>
__device__ __forceinline__ void products(const half_t* const (&rows)[ROWS], const float* x, const half_t* norm, float (&sums)[ROWS]) {
  constexpr int CHUNKS = CHUNKS_OF(K), AHEAD = CHUNKS < 16 / ROWS ? CHUNKS : 16 / ROWS;
  release_next();
  extern __shared__ __align__(16) float vector[];  // CHUNKS * 256
  const int lane = threadIdx.x % 32;
  const uint4* p[ROWS];
  uint4 w[ROWS][AHEAD];
  const uint4 none = make_uint4(0, 0, 0, 0);
#pragma unroll
  for (int r = 0; r < ROWS; r++) {
    p[r] = (const uint4*)rows[r] + lane;
#pragma unroll
    for (int c = 0; c < AHEAD; c++) w[r][c] = c * 32 + lane < K / 8 ? stream8(p[r] + c * 32) : none;
  }
  await_previous();
  stage<K, NORM>(x, norm, vector);
#pragma unroll
  for (int r = 0; r < ROWS; r++) sums[r] = 0.f;
#pragma unroll
  for (int first = 0; first < CHUNKS; first += AHEAD) {
#pragma unroll
    for (int c = 0; c < AHEAD; c++) {
      const int at = first + c;
      if (at >= CHUNKS) break;
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        sums[r] += dot8(w[r][c], vector + (at * 32 + lane) * 8);
        const int next = at + AHEAD;
        if (next < CHUNKS) w[r][c] = next * 32 + lane < K / 8 ? stream8(p[r] + next * 32) : none;
      }
    }
  }
#pragma unroll
  for (int r = 0; r < ROWS; r++) sums[r] = warp_sum(sums[r]);
}

// Rows of this warp, the last one repeated where there are fewer; what is repeated is not written.
template <int K, int ROWS>
__device__ __forceinline__ int own_rows(const half_t* weights, int count, const half_t* (&rows)[ROWS]) {
  const int first = (blockIdx.x * WARPS + threadIdx.x / 32) * ROWS;
#pragma unroll
  for (int r = 0; r < ROWS; r++) rows[r] = weights + (size_t)min(first + r, count - 1) * K;
  return first;
}

// x = embedding[token]
extern "C" __global__ void embed(const long long* token, const half_t* table, float* x) {
  release_next();
  await_previous();
  const half_t* row = table + (size_t)*token * HIDDEN;
  for (int i = blockIdx.x * THREADS + threadIdx.x; i < HIDDEN; i += gridDim.x * THREADS) x[i] = widen(row[i]);
}

// y = W norm(x) + bias, two rows a warp
template <int N>
__device__ __forceinline__ void project(const float* x, const half_t* norm, const half_t* w, const half_t* bias, float* y) {
  const half_t* rows[2];
  float sums[2];
  const int first = own_rows<HIDDEN, 2>(w, N, rows);
  products<HIDDEN, 2, true>(rows, x, norm, sums);
  if (threadIdx.x % 32 == 0)
#pragma unroll
    for (int r = 0; r < 2; r++)
      if (first + r < N) y[first + r] = sums[r] + (bias ? widen(bias[first + r]) : 0.f);
}

extern "C" __global__ void __launch_bounds__(THREADS) qkv(const float* x, const half_t* norm, const half_t* w, const half_t* bias, float* y) {
  project<Q_DIM + 2 * KV_DIM>(x, norm, w, bias, y);
}

extern "C" __global__ void __launch_bounds__(THREADS) scores(const float* x, const half_t* norm, const half_t* w, float* y) {
  project<VOCAB>(x, norm, w, nullptr, y);
}

// y = x + W a, one row a warp
template <int K>
__device__ __forceinline__ void add_product(const float* x, const float* a, const half_t* w, float* y) {
  const half_t* rows[1];
  float sums[1];
  const int row = own_rows<K, 1>(w, HIDDEN, rows);
  products<K, 1, false>(rows, a, nullptr, sums);
  if (threadIdx.x % 32 == 0 && row < HIDDEN) y[row] = x[row] + sums[0];
}

extern "C" __global__ void __launch_bounds__(THREADS) add_attended(const float* x, const float* a, const half_t* w, float* y) {
  add_product<Q_DIM>(x, a, w, y);
}

extern "C" __global__ void __launch_bounds__(THREADS) add_gated(const float* x, const float* a, const half_t* w, float* y) {
  add_product<INNER>(x, a, w, y);
}

// y = silu(G norm(x)) * (U norm(x)), one row of each a warp
extern "C" __global__ void __launch_bounds__(THREADS) gate(const float* x, const half_t* norm, const half_t* g, const half_t* u, float* y) {
  const half_t* one[1];
  const int row = own_rows<HIDDEN, 1>(g, INNER, one);
  const half_t* rows[2] = {one[0], u + (size_t)min(row, INNER - 1) * HIDDEN};
  float sums[2];
  products<HIDDEN, 2, true>(rows, x, norm, sums);
  if (threadIdx.x % 32 == 0 && row < INNER) y[row] = sums[0] / (1.f + __expf(-sums[0])) * sums[1];
}

// Rotates queries and the new key, writes key and value to the cache, and attends: block (h, s) takes the s-th part of
// the positions for key head h and its GROUP query heads. Each piece of LANES threads reads whole rows and keeps a
// running maximum, sum and average; pieces, then warps, then blocks are combined, the last block of a head to finish
// doing the latter.
extern "C" __global__ void __launch_bounds__(THREADS) attend(const float* qkv, half_t* keys, half_t* values, const int* length, const half_t* cosines,
                                                             const half_t* sines, float* parts, int* finished, int capacity, float* out) {
  constexpr int LANES = HEAD_DIM / 8, PIECES = THREADS / LANES, HALF = HEAD_DIM / 2, PART = HEAD_DIM + 2;
  release_next();
  await_previous();
  const int h = blockIdx.x, split = blockIdx.y, t = threadIdx.x, lane = t % 32, warp = t / 32;
  const int pos = *length, n = pos + 1, begin = WINDOW > 0 && n > WINDOW ? n - WINDOW : 0;
  const int per = (n - begin + SPLITS - 1) / SPLITS, from = begin + split * per, to = min(n, from + per);
  __shared__ __align__(16) float q[GROUP][HEAD_DIM];
  __shared__ __align__(16) half_t key[HEAD_DIM], value[HEAD_DIM];
  __shared__ float tops[WARPS][GROUP], totals[WARPS][GROUP], averages[WARPS][GROUP][HEAD_DIM];
  __shared__ int is_last;
  for (int i = t; i < (GROUP + 2) * HEAD_DIM; i += THREADS) {
    const int g = i / HEAD_DIM, d = i % HEAD_DIM;
    if (g == GROUP + 1) {
      value[d] = narrow(qkv[Q_DIM + KV_DIM + h * HEAD_DIM + d]);
      continue;
    }
    const float* v = g == GROUP ? qkv + Q_DIM + h * HEAD_DIM : qkv + (h * GROUP + g) * HEAD_DIM;
    const int at = d % HALF;
    const float c = widen(cosines[(size_t)pos * HALF + at]), s = widen(sines[(size_t)pos * HALF + at]);
    const float r = d < HALF ? v[d] * c - v[d + HALF] * s : v[d] * c + v[d - HALF] * s;
    if (g == GROUP) key[d] = narrow(r);
    else q[g][d] = r * rsqrtf((float)HEAD_DIM);
  }
  __syncthreads();
  half_t* k = keys + (size_t)h * capacity * HEAD_DIM;
  half_t* v = values + (size_t)h * capacity * HEAD_DIM;
  if (from <= pos && pos < to)
    for (int d = t; d < HEAD_DIM; d += THREADS) {
      k[(size_t)pos * HEAD_DIM + d] = key[d];
      v[(size_t)pos * HEAD_DIM + d] = value[d];
    }
  const int sub = t % LANES, piece = t / LANES;
  float mine[GROUP][8], top[GROUP], total[GROUP], average[GROUP][8];
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    top[g] = NEVER;
    total[g] = 0.f;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      mine[g][i] = q[g][sub * 8 + i];
      average[g][i] = 0.f;
    }
  }
  // The same number of rounds in every lane: the shuffles need all of them.
  for (int round = from; round < to; round += PIECES) {
    const int j = round + piece;
    uint4 kw = make_uint4(0, 0, 0, 0), vw = kw;
    if (j < to) {
      kw = j == pos ? ((const uint4*)key)[sub] : ((const uint4*)(k + (size_t)j * HEAD_DIM))[sub];
      vw = j == pos ? ((const uint4*)value)[sub] : ((const uint4*)(v + (size_t)j * HEAD_DIM))[sub];
    }
    const float2 v0 = widen2(vw.x), v1 = widen2(vw.y), v2 = widen2(vw.z), v3 = widen2(vw.w);
    const float row[8] = {v0.x, v0.y, v1.x, v1.y, v2.x, v2.y, v3.x, v3.y};
#pragma unroll
    for (int g = 0; g < GROUP; g++) {
      float s = dot8(kw, mine[g]);
#pragma unroll
      for (int o = LANES / 2; o; o >>= 1) s += __shfl_xor_sync(~0u, s, o);
      if (j >= to) s = NEVER;
      const float high = fmaxf(top[g], s), keep = __expf(top[g] - high), p = j < to ? __expf(s - high) : 0.f;
      top[g] = high;
      total[g] = total[g] * keep + p;
#pragma unroll
      for (int i = 0; i < 8; i++) average[g][i] = average[g][i] * keep + p * row[i];
    }
  }
#pragma unroll
  for (int g = 0; g < GROUP; g++) {
    float high = top[g];
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) high = fmaxf(high, __shfl_xor_sync(~0u, high, o));
    const float keep = __expf(top[g] - high);
    float sum = total[g] * keep;
#pragma unroll
    for (int o = LANES; o < 32; o <<= 1) sum += __shfl_xor_sync(~0u, sum, o);
    if (lane == 0) {
      tops[warp][g] = high;
      totals[warp][g] = sum;
    }
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float a = average[g][i] * keep;
#pragma unroll
      for (int o = LANES; o < 32; o <<= 1) a += __shfl_xor_sync(~0u, a, o);
      if (lane < LANES) averages[warp][g][sub * 8 + i] = a;
    }
  }
  __syncthreads();
  for (int i = t; i < GROUP * HEAD_DIM; i += THREADS) {
    const int g = i / HEAD_DIM, d = i % HEAD_DIM;
    float high = NEVER, sum = 0.f, a = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; w++) high = fmaxf(high, tops[w][g]);
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
      const float keep = __expf(tops[w][g] - high);
      sum += totals[w][g] * keep;
      a += averages[w][g][d] * keep;
    }
    float* part = parts + ((size_t)(h * SPLITS + split) * GROUP + g) * PART;
    part[d] = a;
    if (d == 0) {
      part[HEAD_DIM] = high;
      part[HEAD_DIM + 1] = sum;
    }
  }
  __threadfence();
  __syncthreads();
  if (t == 0) is_last = atomicAdd(&finished[h], 1) == SPLITS - 1;
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  for (int i = t; i < GROUP * HEAD_DIM; i += THREADS) {
    const int g = i / HEAD_DIM, d = i % HEAD_DIM;
    const volatile float* part = parts + ((size_t)h * SPLITS * GROUP + g) * PART;
    float high = NEVER, sum = 0.f, a = 0.f;
    for (int s = 0; s < SPLITS; s++) high = fmaxf(high, part[s * GROUP * PART + HEAD_DIM]);
    for (int s = 0; s < SPLITS; s++) {
      const float keep = __expf(part[s * GROUP * PART + HEAD_DIM] - high);
      sum += part[s * GROUP * PART + HEAD_DIM + 1] * keep;
      a += part[s * GROUP * PART + d] * keep;
    }
    out[(h * GROUP + g) * HEAD_DIM + d] = a / sum;
  }
  if (t == 0) finished[h] = 0;
}
