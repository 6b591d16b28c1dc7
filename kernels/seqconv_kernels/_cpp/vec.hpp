// The vector type of all kernels: GCC/Clang vector extensions; loads and stores of every storage dtype; exp, log1p,
// tanh and the activations; permutations and sums of lanes.
//
// A kernel is written once, over Vec<T> of W = Lanes<T>::count lanes, and compiled once per instruction set: 16 lanes
// of float32 with AVX-512, 8 with AVX2, 4 with NEON and plain SSE2. Intrinsics are used where the compiler does not
// find the instruction itself (conversions, roundscale, scalef, non-temporal stores).
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>  // std::index_sequence: a type, which leaves no code

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "base.hpp"

#ifndef SEQCONV_ISA
#define SEQCONV_ISA plain
#endif

namespace seqconv::SEQCONV_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64;  // of a vector
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

// 32 vector registers instead of 16: register blocks can be twice as large.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif

struct bf16 { uint16_t bits; };
#if defined(__aarch64__) && !defined(__clang__)
using f16 = __fp16;  // GCC before 13 has no _Float16 in C++ there
#else
using f16 = _Float16;
#endif

template <class T> struct Lanes;
template <> struct Lanes<float> {
  static constexpr int count = kBytes / 4;
  typedef float vec __attribute__((vector_size(kBytes)));
  typedef int32_t mask __attribute__((vector_size(kBytes)));
};
template <> struct Lanes<double> {
  static constexpr int count = kBytes / 8;
  typedef double vec __attribute__((vector_size(kBytes)));
  typedef int64_t mask __attribute__((vector_size(kBytes)));
};
template <class T> using Vec = typename Lanes<T>::vec;
template <class T> using Mask = typename Lanes<T>::mask;

template <class T> SEQCONV_INLINE Vec<T> splat(T x) { return Vec<T>{} + x; }

// Loads and stores of one full vector, from the storage dtype S to the accumulation dtype T.
template <class T, class S> struct Memory;

template <class T> struct Memory<T, T> {
  static SEQCONV_INLINE Vec<T> load(const T* p) {
    Vec<T> v;
    __builtin_memcpy(&v, p, kBytes);
    return v;
  }
  static SEQCONV_INLINE void store(T* p, Vec<T> v) { __builtin_memcpy(p, &v, kBytes); }
  static SEQCONV_INLINE T get(const T* p) { return *p; }
};

template <> struct Memory<float, bf16> {
  typedef uint16_t narrow __attribute__((vector_size(kBytes / 2)));
  typedef uint32_t wide __attribute__((vector_size(kBytes)));
  // A bfloat16 is the upper half of a float32. By intrinsics, since GCC widens halves of the vector one by one.
  static SEQCONV_INLINE Vec<float> load(const bf16* p) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#elif defined(__AVX2__)
    return (Vec<float>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16);
#else
    narrow h;
    __builtin_memcpy(&h, p, sizeof h);
    return (Vec<float>)(__builtin_convertvector(h, wide) << 16);
#endif
  }
  // Rounds to nearest, ties to even: adds half a unit, less one bit where the kept bits are even. NaN becomes quiet
  // NaN.
  static SEQCONV_INLINE void store(bf16* p, Vec<float> v) {
#if defined(__AVX512BF16__)
    const __m256bh h = _mm512_cvtneps_pbh((__m512)v);
    __builtin_memcpy(p, &h, sizeof h);
#else
    const wide u = (wide)v;
    const wide rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
    const wide kept = (u >> 16) | 0x40u;
    const narrow h = __builtin_convertvector((v == v) ? rounded : kept, narrow);
    __builtin_memcpy(p, &h, sizeof h);
#endif
  }
  static SEQCONV_INLINE float get(const bf16* p) {
    const uint32_t u = uint32_t(p->bits) << 16;
    float x;
    __builtin_memcpy(&x, &u, 4);
    return x;
  }
};

template <> struct Memory<float, f16> {
  static SEQCONV_INLINE Vec<float> load(const f16* p) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__AVX2__)
    return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#elif defined(__aarch64__)
    float16x4_t h;
    __builtin_memcpy(&h, p, sizeof h);
    return (Vec<float>)vcvt_f32_f16(h);
#else
    Vec<float> v;
    for (int i = 0; i < Lanes<float>::count; ++i) v[i] = float(p[i]);
    return v;
#endif
  }
  static SEQCONV_INLINE void store(f16* p, Vec<float> v) {
#if defined(__AVX512F__)
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__AVX2__)
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__aarch64__)
    const float16x4_t h = vcvt_f16_f32((float32x4_t)v);
    __builtin_memcpy(p, &h, sizeof h);
#else
    for (int i = 0; i < Lanes<float>::count; ++i) p[i] = f16(v[i]);
#endif
  }
  static SEQCONV_INLINE float get(const f16* p) { return float(*p); }
};

// The first `count` lanes, through a copy on the stack; the others are zero. No byte beyond them is touched.
template <class T, class S> SEQCONV_INLINE Vec<T> load(const S* p, int count) {
  if (count >= Lanes<T>::count) return Memory<T, S>::load(p);
  S part[Lanes<T>::count] = {};
  for (int i = 0; i < count; ++i) part[i] = p[i];
  return Memory<T, S>::load(part);
}
template <class T, class S> SEQCONV_INLINE void store(S* p, Vec<T> v, int count) {
  if (count >= Lanes<T>::count) return Memory<T, S>::store(p, v);
  S part[Lanes<T>::count];
  Memory<T, S>::store(part, v);
  for (int i = 0; i < count; ++i) p[i] = part[i];
}

// Non-temporal store of a full vector to an address aligned to its stored size: the cache line is neither read first
// nor kept. Stores that fill a line must follow each other. `stream_fence` orders them before whatever follows.
template <class T, class S> SEQCONV_INLINE void store_past_cache(S* p, Vec<T> v) {
#if defined(__AVX2__)
  constexpr int bytes = kBytes * int(sizeof(S)) / int(sizeof(T));
  typedef long long stored __attribute__((vector_size(bytes)));
  S converted[Lanes<T>::count];
  Memory<T, S>::store(converted, v);
  stored bits;
  __builtin_memcpy(&bits, converted, bytes);
#if defined(__AVX512F__)
  if constexpr (bytes == 64) return _mm512_stream_si512((__m512i*)p, (__m512i)bits);
#endif
  if constexpr (bytes == 32) _mm256_stream_si256((__m256i*)p, (__m256i)bits);
  else if constexpr (bytes == 16) _mm_stream_si128((__m128i*)p, (__m128i)bits);
#else
  Memory<T, S>::store(p, v);
#endif
}
// Bytes of results from which on they are written past the cache: more than a core's share of the last-level cache, so
// that the next reader would not find them there.
constexpr int64_t kBeyondCache = 1 << 23;
// Whether a result of `rows` rows of `channels` numbers in S is to be written past the cache, and is made of whole
// aligned vectors, which that takes.
template <class T, class S> SEQCONV_INLINE bool beyond_cache(const void* p, int64_t rows, int64_t channels) {
  const bool whole = channels % Lanes<T>::count == 0 && uintptr_t(p) % (Lanes<T>::count * sizeof(S)) == 0;
  return whole && rows * channels * int64_t(sizeof(S)) > kBeyondCache;
}
SEQCONV_INLINE void prefetch_to_l2(const void* p) { __builtin_prefetch(p, 0, 2); }
SEQCONV_INLINE void stream_fence() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

template <class T> SEQCONV_INLINE Vec<T> maximum(Vec<T> x, Vec<T> y) { return (x < y) ? y : x; }  // a NaN in x is kept

// 2^f for N values f in [-1/2, 1/2] by a minimax polynomial of degree 5, relative error 1.6e-7. It is constrained to be
// exact at 0 with slope ln 2 (3e-7), so that slow decays (2^f near 1, multiplied thousands of times) do not drift. The
// N Horner chains are interleaved to hide the latency of the multiply-adds.
template <int N> SEQCONV_INLINE void exp2_fractions(const Vec<float>* f, Vec<float>* p) {
  constexpr float coefficients[] = {0x1.3cea88p-7f, 0x1.c6b752p-5f, 0x1.ebf9bcp-3f, 0x1.62e42ap-1f, 1.0f};
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) p[i] = splat(0x1.5bba14p-10f);
#pragma GCC unroll 5
  for (float c : coefficients)
#pragma GCC unroll 4
    for (int i = 0; i < N; ++i) p[i] = p[i] * f[i] + c;
}
SEQCONV_INLINE Vec<float> exp2_fraction(Vec<float> f) {
  Vec<float> p;
  exp2_fractions<1>(&f, &p);
  return p;
}

// 2^x = 2^n 2^f with n = round(x). Exact at integers, 0 at -inf, inf on overflow, NaN from NaN. AVX-512 rounds and
// scales in one instruction each; elsewhere x + 1.5 2^23 leaves n in the low bits of the sum, which are shifted into
// the exponent.
SEQCONV_INLINE Vec<float> exp2(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> n = (Vec<float>)_mm512_roundscale_ps((__m512)x, 0x08);
  const Vec<float> p = exp2_fraction(x - n);
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
#if defined(__AVX2__)  // one instruction each, whose result is the second operand where that is NaN
  x = (Vec<float>)_mm256_max_ps(_mm256_set1_ps(-127.0f), (__m256)x);
  x = (Vec<float>)_mm256_min_ps(_mm256_set1_ps(128.0f), (__m256)x);
#elif defined(__aarch64__)  // one instruction each, NaN where either is NaN
  x = (Vec<float>)vminq_f32(vmaxq_f32((float32x4_t)x, vdupq_n_f32(-127.0f)), vdupq_n_f32(128.0f));
#else
  x = (x < -127.0f) ? splat<float>(-127.0f) : x;
  x = (x > 128.0f) ? splat<float>(128.0f) : x;
#endif
  const Vec<float> shifted = x + 0x1.8p23f;
  const Vec<float> p = exp2_fraction(x - (shifted - 0x1.8p23f));
  return (Vec<float>)((Mask<float>)p + ((Mask<float>)shifted << 23));
#endif
}
// In double by the Taylor series of exp up to degree 13, whose error at |f ln 2| <= 0.35 is below the rounding.
SEQCONV_INLINE Vec<double> exp2(Vec<double> x) {
#if defined(__aarch64__)
  x = (Vec<double>)vminq_f64(vmaxq_f64((float64x2_t)x, vdupq_n_f64(-1023.0)), vdupq_n_f64(1024.0));
#else
  x = (x < -1023.0) ? splat<double>(-1023.0) : x;
  x = (x > 1024.0) ? splat<double>(1024.0) : x;
#endif
  const Vec<double> shifted = x + 0x1.8p52;
  const Vec<double> f = (x - (shifted - 0x1.8p52)) * 0.69314718055994530942;
  Vec<double> p = splat<double>(1.0 / 6227020800.0);
  constexpr double inverse_factorials[] = {
      1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0, 1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0,
      1.0 / 720.0,       1.0 / 120.0,      1.0 / 24.0,      1.0 / 6.0,      0.5,           1.0, 1.0};
  for (double c : inverse_factorials) p = p * f + c;
  return (Vec<double>)((Mask<double>)p + ((Mask<double>)shifted << 52));
}

// 2^(a b) for N values b, where every |a b| is below kExp2Bound: inside the range of normal exponents there is nothing
// to clamp, and a b - n is one fused multiplication without the rounding of the product.
constexpr float kExp2Bound = 126.0f;
template <int N> SEQCONV_INLINE void exp2_products(Vec<float> a, const Vec<float>* b, Vec<float>* out) {
#if defined(__AVX512F__)
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) out[i] = exp2(a * b[i]);
#else
  Vec<float> shifted[N], f[N];
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) shifted[i] = a * b[i] + 0x1.8p23f;
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) f[i] = shifted[i] - 0x1.8p23f;
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) f[i] = a * b[i] - f[i];
  exp2_fractions<N>(f, out);
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) out[i] = (Vec<float>)((Mask<float>)out[i] + ((Mask<float>)shifted[i] << 23));
#endif
}
template <int N> SEQCONV_INLINE void exp2_products(Vec<double> a, const Vec<double>* b, Vec<double>* out) {
  for (int i = 0; i < N; ++i) out[i] = exp2(a * b[i]);
}

template <class T> constexpr T kLog2e = T(1.44269504088896340736);
template <class T> SEQCONV_INLINE Vec<T> exp(Vec<T> x) { return exp2(x * kLog2e<T>); }

// -|x|, by setting the sign bit (all that -0 has).
template <class T> SEQCONV_INLINE Vec<T> minus_magnitude(Vec<T> x) {
  return (Vec<T>)((Mask<T>)x | (Mask<T>)-Vec<T>{});
}

// log(1 + e) for e in [0, 1], with a small relative error down to e = 0: a minimax polynomial of degree 10 (3e-7) whose
// even and odd terms are two independent chains; in double the series of 2 atanh(e / (2 + e)).
SEQCONV_INLINE Vec<float> log1p_unit(Vec<float> e) {
  constexpr float c[] = {1.0f,           -0x1.ffffbep-2f, 0x1.554c80p-2f, -0x1.ff0f88p-3f, 0x1.92f696p-3f,
                         -0x1.397562p-3f, 0x1.b25362p-4f, -0x1.d29ccep-5f, 0x1.453f12p-6f, -0x1.a9336cp-9f};
  const Vec<float> q = e * e;
  Vec<float> even = splat(c[8]), odd = splat(c[9]);
#pragma GCC unroll 4
  for (int k = 6; k >= 0; k -= 2) even = even * q + c[k], odd = odd * q + c[k + 1];
  return (odd * e + even) * e;
}
SEQCONV_INLINE Vec<double> log1p_unit(Vec<double> e) {
  constexpr int terms = 16;
  const Vec<double> s = e / (e + 2.0), q = s * s;
  Vec<double> p = splat(1.0 / (2 * terms + 1));
  for (int k = terms - 1; k >= 0; --k) p = p * q + 1.0 / (2 * k + 1);
  return 2.0 * s * p;
}

// softplus(x) = log(1 + exp(x)) as PyTorch computes it: the identity above its default threshold.
constexpr float kSoftplusLinear = 20.0f;
template <class T> SEQCONV_INLINE Vec<T> softplus(Vec<T> x) {
  const Vec<T> sum = maximum<T>(x, Vec<T>{}) + log1p_unit(exp<T>(minus_magnitude<T>(x)));
  if constexpr (sizeof(T) == 4) return sum;  // which in float32 is rounded to x above the threshold
  return (x > T(kSoftplusLinear)) ? x : sum;
}
template <class T> SEQCONV_INLINE Vec<T> sigmoid(Vec<T> x) { return T(1) / (T(1) + exp<T>(-x)); }
template <class T> SEQCONV_INLINE Vec<T> silu(Vec<T> x) { return x / (T(1) + exp<T>(-x)); }

// The gradient at x, from `grad` at silu(x): silu'(x) = s (1 + x (1 - s)) with s = sigmoid(x).
template <class T> SEQCONV_INLINE Vec<T> silu_backward(Vec<T> grad, Vec<T> x) {
  const Vec<T> s = sigmoid<T>(x);
  return grad * s * (T(1) + x * (T(1) - s));
}

// softplus'(x) = sigmoid(x); above kSoftplusLinear that of the identity.
template <class T> SEQCONV_INLINE Vec<T> softplus_slope(Vec<T> x) {
  return (x > T(kSoftplusLinear)) ? splat<T>(T(1)) : sigmoid<T>(x);
}

// tanh(x) = (1 - e) / (1 + e) with e = exp(-2 |x|); near zero, where 1 - e cancels, by the continued fraction
// x / (1 + x^2 / (3 + x^2 / (5 + ...))).
template <class T> SEQCONV_INLINE Vec<T> tanh(Vec<T> x) {
  constexpr int terms = sizeof(T) == 4 ? 4 : 7;
  const Vec<T> s = x * x, e = exp<T>(minus_magnitude<T>(x) * T(2)), far = (T(1) - e) / (T(1) + e);
  Vec<T> over[2] = {Vec<T>{}, splat<T>(T(1))}, under[2] = {splat<T>(T(1)), splat<T>(T(1))};
  for (int i = 1; i < terms; ++i) {  // numerators and denominators of its convergents
    const Vec<T> next_over = over[1] * T(2 * i + 1) + over[0] * s, next_under = under[1] * T(2 * i + 1) + under[0] * s;
    over[0] = over[1], over[1] = next_over;
    under[0] = under[1], under[1] = next_under;
  }
  return (s < T(0.25)) ? x * over[1] / under[1] : ((x > 0) ? far : -far);
}

// Whether a lane of the mask is set.
template <class T> SEQCONV_INLINE bool any(Mask<T> m) {
#if defined(__aarch64__)
  return vmaxvq_u32((uint32x4_t)m) != 0;
#else
  Mask<T> seen = m;
  int64_t folded = 0;
  for (int i = 0; i < Lanes<T>::count; ++i) folded |= seen[i];
  return folded != 0;
#endif
}

// Permutations of lanes. A permutation tells for lane i of n which lane of the concatenation of a and b it takes; the
// compiler turns each into the one or two instructions that the processor has for it.
struct ZipLow { static constexpr int lane(int i, int n) { return i / 2 + i % 2 * n; } };
struct ZipHigh { static constexpr int lane(int i, int n) { return n / 2 + i / 2 + i % 2 * n; } };
struct EvenLanes { static constexpr int lane(int i, int) { return 2 * i; } };
struct OddLanes { static constexpr int lane(int i, int) { return 2 * i + 1; } };
struct PairFirst { static constexpr int lane(int i, int) { return i / 2 * 2; } };
struct PairSecond { static constexpr int lane(int i, int) { return i / 2 * 2 + 1; } };
struct PairSwap { static constexpr int lane(int i, int) { return i ^ 1; } };

template <class Permutation, class V, size_t... I>
SEQCONV_INLINE V permute(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, Permutation::lane(int(I), int(sizeof...(I)))...);
}
template <class Permutation, class V> SEQCONV_INLINE V permute(V a, V b) {
  return permute<Permutation>(a, b, std::make_index_sequence<sizeof(V) / sizeof(a[0])>{});
}

// Lanes of a and b in turn: those of the lower halves, and those of the upper halves.
template <class T> SEQCONV_INLINE Vec<T> zip_low(Vec<T> a, Vec<T> b) { return permute<ZipLow>(a, b); }
template <class T> SEQCONV_INLINE Vec<T> zip_high(Vec<T> a, Vec<T> b) { return permute<ZipHigh>(a, b); }

// Of every pair of neighbouring lanes (a complex number): the first one twice, the second one twice, both exchanged.
template <class V> SEQCONV_INLINE V pair_first(V v) { return permute<PairFirst>(v, v); }
template <class V> SEQCONV_INLINE V pair_second(V v) { return permute<PairSecond>(v, v); }
template <class V> SEQCONV_INLINE V pair_swap(V v) { return permute<PairSwap>(v, v); }

// Sums of neighbouring lanes: those of a in the lower half, those of b in the upper half.
template <class T> SEQCONV_INLINE Vec<T> pair_sums(Vec<T> a, Vec<T> b) {
#if defined(__aarch64__)
  if constexpr (sizeof(T) == 4) return (Vec<T>)vpaddq_f32((float32x4_t)a, (float32x4_t)b);
  else return (Vec<T>)vpaddq_f64((float64x2_t)a, (float64x2_t)b);
#else
  return permute<EvenLanes>(a, b) + permute<OddLanes>(a, b);
#endif
}

// W rows of W values to W vectors of W lanes (its own inverse): log2 W stages of zips.
template <class T> SEQCONV_INLINE void transpose(Vec<T>* v) {
  constexpr int W = Lanes<T>::count;
#pragma GCC unroll 4
  for (int stage = 1; stage < W; stage *= 2) {
    Vec<T> z[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
      z[2 * i] = zip_low<T>(v[i], v[i + W / 2]);
      z[2 * i + 1] = zip_high<T>(v[i], v[i + W / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) v[i] = z[i];
  }
}

// out[r] = sum of the W lanes at rows + r W, for `count` rows (a multiple of W). W rows are reduced together by a tree
// of pair sums: W - 1 additions for W sums, where one sum after the other would take log2 W of them each.
template <class T> SEQCONV_INLINE void lane_sums(const T* rows, int count, T* out) {
  constexpr int W = Lanes<T>::count;
  for (int r = 0; r < count; r += W) {
    Vec<T> v[W];
    for (int i = 0; i < W; ++i) v[i] = Memory<T, T>::load(rows + size_t(r + i) * W);
#pragma GCC unroll 4
    for (int half = W / 2; half >= 1; half /= 2)
#pragma GCC unroll 8
      for (int i = 0; i < half; ++i) v[i] = pair_sums<T>(v[2 * i], v[2 * i + 1]);
    Memory<T, T>::store(out + r, v[0]);
  }
}

}  // namespace seqconv::SEQCONV_ISA
