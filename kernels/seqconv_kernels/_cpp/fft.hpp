// The right-angle transform of W channels at once, one per lane: what the long convolutions share.
//
//   X[k] = sum_j x[j] w^j exp(-2 pi i j k / N),   w = exp(i pi / 2N)
//
// Multiplied by w^j (the twist), a cyclic convolution of length N turns what wraps around by w^N = i, a right angle: of
// untwist(ifft(U K)) the real part is the causal convolution of u and k, and the imaginary part is its tail. So N
// points serve N outputs, without zero padding.
//
// Layout: value j of a signal is one Complex<T>, W lanes of W neighbouring channels, so that a pass is plain vector
// arithmetic with scalar twiddles that are the same for all channels, and no butterfly permutes lanes.
// Order: forward transforms decimate in frequency and inverse ones in time, so that the digit-reversed order that the
// one leaves is that which the other takes and nothing is ever reordered. The recursion goes depth first: a
// subtransform that fits into the cache is taken down, multiplied by the filter's spectrum and brought back up before
// the next one is touched. Passes have radix 4 (R = 3 or 5 for the first one of sizes with an odd factor): half the
// passes over the data of radix 2 and 15 % fewer operations.
#pragma once

#include "complex.hpp"
#include "fft_sizes.hpp"

namespace seqconv::SEQCONV_ISA {

// Sines and cosines of the angles 2 pi m / R, 0 < m <= R / 2.
template <int R> struct Angles;
template <> struct Angles<3> {
  static constexpr double cosine[1] = {-0.5}, sine[1] = {0.86602540378443864676};
};
template <> struct Angles<5> {
  static constexpr double cosine[2] = {0.30901699437494742410, -0.80901699437494742410};
  static constexpr double sine[2] = {0.95105651629515357212, 0.58778525229247312917};
};

// Transforms of R values in registers: exp(-2 pi i / R) forward, its conjugate for the inverse; neither is scaled.
// An odd R pairs the values m and R - m: with s_m = x_m + x_{R-m} and d_m = i (x_m - x_{R-m})
//     X_k = x_0 + sum_m cos(2 pi k m / R) s_m - sum_m sin(2 pi k m / R) d_m,   X_{R-k} the same with +,
// multiplications by real numbers only.
template <int R, bool Inverse, class T> SEQCONV_INLINE void odd_butterfly(Complex<T>* x) {
  constexpr int half = R / 2;
  using A = Angles<R>;
  Complex<T> sum[half], difference[half];
  const Complex<T> first = x[0];
#pragma GCC unroll 2
  for (int m = 0; m < half; ++m) {
    sum[m] = x[m + 1] + x[R - 1 - m], difference[m] = times_i(x[m + 1] - x[R - 1 - m]);
    x[0] = x[0] + sum[m];
  }
#pragma GCC unroll 2
  for (int k = 1; k <= half; ++k) {
    Complex<T> even = first, odd{};
#pragma GCC unroll 2
    for (int m = 1; m <= half; ++m) {
      const int turns = k * m % R;
      const bool lower = turns > half;  // the mirror image of an angle: same cosine, opposite sine
      const int i = (lower ? R - turns : turns) - 1;
      const T c = T(A::cosine[i]), s = lower ? -T(A::sine[i]) : T(A::sine[i]);
      even = {even.re + sum[m - 1].re * c, even.im + sum[m - 1].im * c};
      odd = {odd.re + difference[m - 1].re * s, odd.im + difference[m - 1].im * s};
    }
    x[k] = Inverse ? even + odd : even - odd;
    x[R - k] = Inverse ? even - odd : even + odd;
  }
}
template <int R, class T> SEQCONV_INLINE void butterfly(Complex<T>* x) {
  if constexpr (R == 2) {
    const Complex<T> sum = x[0] + x[1];
    x[1] = x[0] - x[1];
    x[0] = sum;
  } else if constexpr (R == 4) {
    const Complex<T> a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = times_i(x[1] - x[3]);
    x[0] = a + c;
    x[1] = b - d;
    x[2] = a - c;
    x[3] = b + d;
  } else if constexpr (R > 1) {
    odd_butterfly<R, false>(x);
  }
}
template <int R, class T> SEQCONV_INLINE void inverse_butterfly(Complex<T>* x) {
  if constexpr (R == 4) {
    const Complex<T> a = x[0] + x[2], b = x[0] - x[2], c = x[1] + x[3], d = times_i(x[1] - x[3]);
    x[0] = a + c;
    x[1] = b + d;
    x[2] = a - c;
    x[3] = b - d;
  } else if constexpr (R > 2) {
    odd_butterfly<R, true>(x);
  } else {
    butterfly<R>(x);
  }
}

// Twiddle tables, as fft_sizes.hpp describes them.
template <class T> struct Tables {
  static constexpr int kMaxLog2 = 40;
  const T* level[kMaxLog2];  // by log2 of the points of a pass
  const T* top;              // of the first pass
  Tables(const void* tables, int64_t size) : top((const T*)tables) {
    const T* p = top + 2 * size;
    for (int64_t n = size / first_radix(size); n > 4; n /= 4) {
      level[__builtin_ctzll(n)] = p;
      p += n;
    }
  }
  const T* of(int64_t n) const { return level[__builtin_ctzll(n)]; }
};

// Radix-4 passes over the n > 4 values of a subtransform. The forward one leaves four subtransforms of n / 4 values one
// after the other, of the frequencies 4k, 4k + 1, 4k + 2 and 4k - 1: the last one's twiddle is the conjugate of the
// second one's, so that a table row holds two numbers instead of three. The inverse one undoes it. Two values of j per
// iteration halve the overhead of the loop.
template <class T> void forward_pass(int64_t n, const T* w, Complex<T>* at) {
  const int64_t q = n / 4;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 4) {
    Complex<T> x[4] = {at[j], at[j + q], at[j + 2 * q], at[j + 3 * q]};
    butterfly<4>(x);
    at[j] = x[0];
    at[j + q] = rotate_conj(x[1], w[0], w[1]);
    at[j + 2 * q] = rotate_conj(x[2], w[2], w[3]);
    at[j + 3 * q] = rotate(x[3], w[0], w[1]);
  }
}
template <class T> void inverse_pass(int64_t n, const T* w, Complex<T>* at) {
  const int64_t q = n / 4;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 4) {
    Complex<T> x[4] = {at[j], rotate(at[j + q], w[0], w[1]), rotate(at[j + 2 * q], w[2], w[3]),
                       rotate_conj(at[j + 3 * q], w[0], w[1])};
    inverse_butterfly<4>(x);
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) at[j + m * q] = x[m];
  }
}

// Operations for `recurse`, all in place: `down` is called at a subtransform before its four parts, `leaf` at its end,
// where R <= 4 values stay in registers, and `up` after its parts.

// x becomes its spectrum times `scale`.
template <class T> struct FilterSpectrum {
  const Tables<T>& tables;
  Complex<T>* k;
  T scale;
  void down(int64_t at, int64_t n) const { forward_pass<T>(n, tables.of(n), k + at); }
  void up(int64_t, int64_t) const {}
  template <int R> SEQCONV_INLINE void leaf(int64_t at) const {
    butterfly<R>(k + at);
    for (int i = 0; i < R; ++i) k[at + i] = {k[at + i].re * scale, k[at + i].im * scale};
  }
};
// A spectrum becomes a signal.
template <class T> struct InverseTransform {
  const Tables<T>& tables;
  Complex<T>* x;
  void down(int64_t, int64_t) const {}
  void up(int64_t at, int64_t n) const { inverse_pass<T>(n, tables.of(n), x + at); }
  template <int R> SEQCONV_INLINE void leaf(int64_t at) const { inverse_butterfly<R>(x + at); }
};
// The signal x becomes its convolution with the filter of spectrum k: the leaves of both transforms and the product
// fuse.
template <class T> struct Convolve {
  const Tables<T>& tables;
  Complex<T>* x;
  const Complex<T>* k;
  void down(int64_t at, int64_t n) const { forward_pass<T>(n, tables.of(n), x + at); }
  void up(int64_t at, int64_t n) const { inverse_pass<T>(n, tables.of(n), x + at); }
  template <int R> SEQCONV_INLINE void leaf(int64_t at) const {
    Complex<T> v[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = x[at + i];
    butterfly<R>(v);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = v[i] * k[at + i];
    inverse_butterfly<R>(v);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) x[at + i] = v[i];
  }
};

// Depth-first recursion; sizes up to 256 (Complex<float> lanes of 16 channels: 32 KB, the first-level cache) are
// unrolled at compile time, so that the compiler knows every trip count.
template <int N, class Op> void recurse_fixed(const Op& op, int64_t at) {
  if constexpr (N <= 4) {
    op.template leaf<N>(at);
  } else {
    op.down(at, N);
    for (int m = 0; m < 4; ++m) recurse_fixed<N / 4>(op, at + m * (N / 4));
    op.up(at, N);
  }
}
template <class Op> void recurse(const Op& op, int64_t at, int64_t n) {
  switch (n) {
    case 1: return recurse_fixed<1>(op, at);
    case 2: return recurse_fixed<2>(op, at);
    case 4: return recurse_fixed<4>(op, at);
    case 8: return recurse_fixed<8>(op, at);
    case 16: return recurse_fixed<16>(op, at);
    case 32: return recurse_fixed<32>(op, at);
    case 64: return recurse_fixed<64>(op, at);
    case 128: return recurse_fixed<128>(op, at);
    case 256: return recurse_fixed<256>(op, at);
    default:
      op.down(at, n);
      for (int m = 0; m < 4; ++m) recurse(op, at + m * (n / 4), n / 4);
      op.up(at, n);
  }
}

// Filter taps to lanes: `live` channels, each a row of taps at distance `stride`, become one vector per tap by W x W
// transposes; zeros from `taps` to `size`.
template <class T>
void taps_in_lanes(const T* rows, int64_t stride, int live, int64_t taps, int64_t size, Vec<T>* lanes) {
  constexpr int W = Lanes<T>::count;
  for (int64_t j = 0; j < size; j += W) {
    Vec<T> v[W];
    for (int i = 0; i < W; ++i) {
      const int64_t left = taps - j;
      v[i] = i < live && left > 0 ? load<T, T>(rows + i * stride + j, int(left < W ? left : W)) : Vec<T>{};
    }
    transpose<T>(v);
    for (int64_t i = 0; i < W && j + i < size; ++i) lanes[j + i] = v[i];
  }
}

// The first pass of a forward transform of `size` values and the last one of an inverse, of radix R, with the twist:
// that of value j + m size/R is exp(i pi m / 2R), a constant, times that of value j, which the table's twiddles
// contain. So twist and untwist cost no pass of their own. `value(j)` supplies the input (real or complex), `take(j,
// y)` gets the real part.
template <int R> struct Twist;  // cos(pi m / 2R), which is also the sine for R - m
template <> struct Twist<3> { static constexpr double cosine[] = {1, 0.86602540378443864676, 0.5, 0}; };
template <> struct Twist<4> {
  static constexpr double cosine[] = {1, 0.92387953251128675613, 0.70710678118654752440, 0.38268343236508977173, 0};
};
template <> struct Twist<5> {
  static constexpr double cosine[] = {1, 0.95105651629515357212, 0.80901699437494742410, 0.58778525229247312917,
                                      0.30901699437494742410, 0};
};

template <int R, class T, class Value>
SEQCONV_INLINE void first_pass(int64_t size, const T* w, Complex<T>* to, Value value) {
  const int64_t q = size / R;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 2 * R) {
    Complex<T> x[R];
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) x[m] = rotate<T>(value(j + m * q), T(Twist<R>::cosine[m]), T(Twist<R>::cosine[R - m]));
    butterfly<R>(x);
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) to[j + m * q] = rotate_conj(x[m], w[2 * m], w[2 * m + 1]);
  }
}
template <int R, class T, class Take>
SEQCONV_INLINE void last_pass(int64_t size, const T* w, const Complex<T>* from, Take take) {
  const int64_t q = size / R;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 2 * R) {
    Complex<T> x[R];
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) x[m] = rotate(from[j + m * q], w[2 * m], w[2 * m + 1]);
    inverse_butterfly<R>(x);
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m)
      take(j + m * q, x[m].re * T(Twist<R>::cosine[m]) + x[m].im * T(Twist<R>::cosine[R - m]));
  }
}
template <class T, class Value>
SEQCONV_INLINE void forward_first_pass(const Tables<T>& tables, int64_t size, Complex<T>* to, Value value) {
  switch (first_radix(size)) {
    case 3: return first_pass<3, T>(size, tables.top, to, value);
    case 5: return first_pass<5, T>(size, tables.top, to, value);
    default: return first_pass<4, T>(size, tables.top, to, value);
  }
}
template <class T, class Take>
SEQCONV_INLINE void inverse_last_pass(const Tables<T>& tables, int64_t size, const Complex<T>* from, Take take) {
  switch (first_radix(size)) {
    case 3: return last_pass<3, T>(size, tables.top, from, take);
    case 5: return last_pass<5, T>(size, tables.top, from, take);
    default: return last_pass<4, T>(size, tables.top, from, take);
  }
}
// The subtransforms between the first and the last pass.
template <class Op> void recurse_inside(const Op& op, int64_t size) {
  const int64_t radix = first_radix(size), q = size / radix;
  for (int64_t m = 0; m < radix; ++m) recurse(op, m * q, q);
}

}  // namespace seqconv::SEQCONV_ISA
