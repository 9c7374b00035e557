// One vector type per instruction set, and the few operations on it that the kernels need.
//
// Nothing here depends on how many rows a pass has: every kernel reduces along one fixed order, so that the bits of a
// row's result are a function of that row alone. Compile with -ffp-contract=off: the compiler must not choose where to
// fuse a multiplication and an addition.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
constexpr int W = 16;         // lanes of a vector
constexpr int ROW_TILE = 8;   // rows that share one read of the weights; their accumulators must fit the registers
#elif defined(__AVX2__) && defined(__FMA__)
constexpr int W = 8;
constexpr int ROW_TILE = 2;
#else
constexpr int W = 4;
constexpr int ROW_TILE = 1;
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * W)));
typedef int32_t vi __attribute__((vector_size(4 * W)));
typedef uint16_t vh __attribute__((vector_size(2 * W)));

// Asks for memory that is read soon. What is read once, as the weights of a pass over few rows, goes to the nearest cache
// alone where that costs nothing, on AMD's processors: else it would push out of the others all that the host and the next
// layer are going to use. On Intel's, memory asked for in this way comes at a third of its speed (docs/performance.md).
INLINE void prefetch(const void* memory, bool once) {
#if defined(__CLZERO__)  // AMD alone has this instruction
  if (once) return __builtin_prefetch(memory, 0, 0);
#endif
  __builtin_prefetch(memory, 0, 3);
}

INLINE vf load(const float* p) { vf v; memcpy(&v, p, sizeof v); return v; }
INLINE void store(float* p, vf v) { memcpy(p, &v, sizeof v); }
INLINE vi load_bits(const void* p) { vi v; memcpy(&v, p, sizeof v); return v; }
INLINE vf splat(float x) { return x - vf{}; }
INLINE vi splat_bits(int32_t x) { return x - vi{}; }

// 0, 1, 2, …
INLINE vi lane_numbers() {
  static const int32_t numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load_bits(numbers);
}

INLINE vf fma(vf a, vf b, vf c) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
  return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

// If either side is NaN, b.
INLINE vf maximum(vf a, vf b) { return a > b ? a : b; }
INLINE vf minimum(vf a, vf b) { return a < b ? a : b; }

// One stage of a transposition: blocks of STEP × STEP off the diagonal change places.
template <int STEP>
INLINE void exchange(vf& a, vf& b) {
  vi upper, lower;
  for (int lane = 0; lane < W; lane++) {
    upper[lane] = lane & STEP ? W + lane - STEP : lane;
    lower[lane] = lane & STEP ? W + lane : lane + STEP;
  }
  const vf before = a;
  a = __builtin_shuffle(before, b, upper);
  b = __builtin_shuffle(before, b, lower);
}

// Lane j of v[i] becomes lane i of v[j].
template <int STEP = W / 2>
INLINE void transpose(vf (&v)[W]) {
  for (int i = 0; i < W; i++)
    if (!(i & STEP)) exchange<STEP>(v[i], v[i + STEP]);
  if constexpr (STEP > 1) transpose<STEP / 2>(v);
}

template <int BY>
INLINE vf rotate_lanes(vf v) {
  vi from;
  for (int lane = 0; lane < W; lane++) from[lane] = (lane + BY) % W;
  return __builtin_shuffle(v, from);
}

// Sum and maximum over the lanes, always in the same order.
INLINE float sum_lanes(vf v) {
  if constexpr (W >= 16) v += rotate_lanes<8>(v);
  if constexpr (W >= 8) v += rotate_lanes<4>(v);
  v += rotate_lanes<2>(v);
  return v[0] + v[1];
}

INLINE vf max_lanes(vf v) {
  if constexpr (W >= 16) v = maximum(v, rotate_lanes<8>(v));
  if constexpr (W >= 8) v = maximum(v, rotate_lanes<4>(v));
  v = maximum(v, rotate_lanes<2>(v));
  return maximum(v, rotate_lanes<1>(v));
}

// All lanes as one number, by an operation whose order does not matter.
template <class Meet>
INLINE int32_t over_lanes(vi v, Meet meet) {
  if constexpr (W >= 16) v = meet(v, (vi)rotate_lanes<8>((vf)v));
  if constexpr (W >= 8) v = meet(v, (vi)rotate_lanes<4>((vf)v));
  v = meet(v, (vi)rotate_lanes<2>((vf)v));
  return meet(v, (vi)rotate_lanes<1>((vf)v))[0];
}

// Whether a comparison holds in any lane.
INLINE bool any_lane(vi mask) {
#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
  return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif defined(__AVX2__) && defined(__FMA__)
  return _mm256_movemask_ps((__m256)mask) != 0;
#else
  int32_t found = 0;
  for (int i = 0; i < W; i++) found |= mask[i];
  return found != 0;
#endif
}

// e^x to 2 ulp (Cephes' polynomial); 0 below -87, and exactly 1 at 0. NaN stays NaN.
INLINE vf exponential(vf x) {
  vi tiny = x < -87.0f;
  x = minimum(splat(88.0f), maximum(splat(-87.0f), x));
  const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  vf n = (x * 1.44269504f + magic) - magic;
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  vi exponent = (__builtin_convertvector(n, vi) + 127) << 23;
  p *= (vf)exponent;
  return tiny ? vf{} : p;
}

// log(1 + x) for |x| < 0.42 to 2 ulp (Cephes' polynomial).
INLINE vf log_of_one_plus(vf x) {
  vf p = splat(7.0376836292e-2f);
  p = fma(p, x, splat(-1.1514610310e-1f));
  p = fma(p, x, splat(1.1676998740e-1f));
  p = fma(p, x, splat(-1.2420140846e-1f));
  p = fma(p, x, splat(1.4249322787e-1f));
  p = fma(p, x, splat(-1.6668057665e-1f));
  p = fma(p, x, splat(2.0000714765e-1f));
  p = fma(p, x, splat(-2.4999993993e-1f));
  p = fma(p, x, splat(3.3333331174e-1f));
  const vf square = x * x;
  return fma(p * x, square, fma(square, splat(-0.5f), x));
}

// log x of positive normal numbers.
INLINE vf logarithm(vf x) {
  const vi root = splat_bits(0x3f3504f3);  // of 1/2: the mantissa is taken from there to twice as much
  const vi exponent = ((vi)x - root) >> 23;
  const vf mantissa = (vf)((vi)x - (exponent << 23));
  return fma(__builtin_convertvector(exponent, vf), splat(0.69314718f), log_of_one_plus(mantissa - 1.0f));
}

INLINE vf silu(vf x) { return x / (exponential(-x) + 1.0f); }

// Largest magnitude, or NaN if there is one: without their signs floats are ordered as integers, NaN above infinity.
INLINE float largest_magnitude(const float* x, int64_t size) {
  vi lanes = {};
  int64_t i = 0;
  for (; i + W <= size; i += W) {
    const vi bits = load_bits(x + i) & 0x7fffffff;
    lanes = bits > lanes ? bits : lanes;
  }
  int32_t largest = over_lanes(lanes, [](vi a, vi b) { return a > b ? a : b; });
  for (; i < size; i++) {
    int32_t bits;
    memcpy(&bits, x + i, 4);
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  float magnitude;
  memcpy(&magnitude, &largest, 4);
  return magnitude;
}

// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
INLINE uint16_t to_bfloat16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0;
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

INLINE void to_bfloat16(const float* x, int64_t size, uint16_t* out) {
  int64_t i = 0;
  for (; i + W <= size; i += W) {
    const vf value = load(x + i);
    const vi bits = (vi)value, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const vh halves = __builtin_convertvector(value == value ? rounded : splat_bits(0x7fc0), vh);
    memcpy(out + i, &halves, sizeof halves);
  }
  for (; i < size; i++) out[i] = to_bfloat16(x[i]);
}

INLINE float from_bfloat16(uint16_t x) {
  uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// The same for one vector by the processor's own instruction, where it has one, which takes tiny numbers for zero.
INLINE void store_bfloat16(uint16_t* p, vf v) {
#if defined(__AVX512BF16__)
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
  memcpy(p, &rounded, sizeof rounded);
#else
  for (int i = 0; i < W; i++) p[i] = to_bfloat16(v[i]);
#endif
}

// acc + w_even · x_even + w_odd · x_odd; every 32-bit lane of `w` and of `x` holds a pair of bfloat16.
INLINE vf dot_bfloat16(vf acc, vi w, vi x) {
#if defined(__AVX512BF16__)
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
#else
  acc = fma((vf)(w << 16), (vf)(x << 16), acc);
  return fma((vf)(w & (int32_t)0xffff0000), (vf)(x & (int32_t)0xffff0000), acc);
#endif
}

// acc + Σ w_i · x_i over four bytes a lane, w signed and x unsigned. Exact.
INLINE vi dot_int8(vi acc, vi w, vi x) {
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  return (vi)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)x, (__m512i)w);
#elif defined(__AVX512BW__) && defined(__AVX512VL__)
  __m512i even = _mm512_madd_epi16(_mm512_srai_epi16(_mm512_slli_epi16((__m512i)w, 8), 8),
                                   _mm512_and_si512((__m512i)x, _mm512_set1_epi16(255)));
  __m512i odd = _mm512_madd_epi16(_mm512_srai_epi16((__m512i)w, 8), _mm512_srli_epi16((__m512i)x, 8));
  return acc + (vi)even + (vi)odd;
#elif defined(__AVXVNNI__) && defined(__AVX2__) && defined(__FMA__)
  return (vi)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)x, (__m256i)w);
#elif defined(__AVX2__) && defined(__FMA__)
  __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16((__m256i)w, 8), 8),
                                   _mm256_and_si256((__m256i)x, _mm256_set1_epi16(255)));
  __m256i odd = _mm256_madd_epi16(_mm256_srai_epi16((__m256i)w, 8), _mm256_srli_epi16((__m256i)x, 8));
  return acc + (vi)even + (vi)odd;
#else
  for (int i = 0; i < W; i++) {
    int8_t a[4];
    uint8_t b[4];
    memcpy(a, (const char*)&w + 4 * i, 4);
    memcpy(b, (const char*)&x + 4 * i, 4);
    acc[i] += a[0] * b[0] + a[1] * b[1] + a[2] * b[2] + a[3] * b[3];
  }
  return acc;
#endif
}

// W signed bytes as floats.
INLINE vf load_int8(const int8_t* p) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  return (vf)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__) && defined(__FMA__)
  return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  vf v;
  for (int i = 0; i < W; i++) v[i] = p[i];
  return v;
#endif
}

// W bfloat16 as floats.
INLINE vf load_bfloat16(const uint16_t* p) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__) && defined(__FMA__)
  return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
  vf v;
  for (int i = 0; i < W; i++) v[i] = from_bfloat16(p[i]);
  return v;
#endif
}

// IEEE half precision is exact in float32.
INLINE float from_half(uint16_t x) {
  const float sign = x & 0x8000 ? -1.0f : 1.0f, digits = (float)(x & 0x3ff);
  const int exponent = (x >> 10) & 31;
  if (exponent == 31) return digits ? NAN : sign * INFINITY;
  return sign * ldexpf(exponent ? digits + 1024.0f : digits, (exponent ? exponent : 1) - 25);
}

// W of them as floats.
INLINE vf load_half(const uint16_t* p) {
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
  return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
  return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  vf v;
  for (int i = 0; i < W; i++) v[i] = from_half(p[i]);
  return v;
#endif
}
