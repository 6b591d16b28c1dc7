// The right-angle transform, channels in the lanes: what the long convolutions share.
//
// Multiplied by w^j with w = exp(i pi / 2N), a cyclic convolution of length N turns what wraps around by a right angle:
// the real part of the result is the causal convolution, the imaginary part its tail. Forward transforms decimate in
// frequency and inverse ones in time, so that nothing is ever reordered. The recursion goes depth first.
//
// Like vec.hpp, this is compiled once per instruction set and uses no standard-library template.
#pragma once

#include "fft_sizes.hpp"
#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

template <class T> struct Complex {
  Vec<T> re, im;
};
template <class T> SEQCONV_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) { return {a.re + b.re, a.im + b.im}; }
template <class T> SEQCONV_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) { return {a.re - b.re, a.im - b.im}; }
template <class T> SEQCONV_INLINE Complex<T> times_i(Complex<T> a) { return {-a.im, a.re}; }
template <class T> SEQCONV_INLINE Complex<T> turn(Complex<T> a, T re, T im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
template <class T> SEQCONV_INLINE Complex<T> turn_back(Complex<T> a, T re, T im) {
  return {a.re * re + a.im * im, a.im * re - a.re * im};
}
template <class T> SEQCONV_INLINE Complex<T> times(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T> SEQCONV_INLINE Complex<T> conj_times(Complex<T> a, Complex<T> b) {  // conj(a) b
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}

// Sines and cosines of the angles 2 pi m / R.
template <int R> struct Angles;
template <> struct Angles<3> {
  static constexpr double cosine[1] = {-0.5}, sine[1] = {0.86602540378443864676};
};
template <> struct Angles<5> {
  static constexpr double cosine[2] = {0.30901699437494742410, -0.80901699437494742410};
  static constexpr double sine[2] = {0.95105651629515357212, 0.58778525229247312917};
};

// Transforms of R values in registers: exp(-2 pi i / R) forward, its conjugate back; neither is scaled.
// For odd R by the sums and differences of the values m and R - m.
template <int R, bool Back, class T> SEQCONV_INLINE void odd_butterfly(Complex<T>* x) {
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
      const bool lower = turns > half;  // the angle's mirror image: cosine the same, sine reversed
      const int i = (lower ? R - turns : turns) - 1;
      const T c = T(A::cosine[i]), s = lower ? -T(A::sine[i]) : T(A::sine[i]);
      even = {even.re + sum[m - 1].re * c, even.im + sum[m - 1].im * c};
      odd = {odd.re + difference[m - 1].re * s, odd.im + difference[m - 1].im * s};
    }
    x[k] = Back ? even + odd : even - odd;
    x[R - k] = Back ? even - odd : even + odd;
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
template <int R, class T> SEQCONV_INLINE void butterfly_back(Complex<T>* x) {
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

template <class T> struct Tables {
  const T* level[40];  // by log2 of the size of the transform
  const T* top;
  Tables(const void* tables, int64_t size) : top((const T*)tables) {
    const T* p = top + 2 * size;
    for (int64_t n = size / first_radix(size); n > 4; n /= 4) {
      level[__builtin_ctzll(n)] = p;
      p += n;
    }
  }
  const T* of(int64_t n) const { return level[__builtin_ctzll(n)]; }
};

// Passes of radix 4 over n > 4 values, which take or leave the four subtransforms side by side: of the frequencies 4k,
// 4k + 1, 4k + 2 and, for a factor that is the second one's conjugate, 4k - 1. Two values of j at once halve what the loop
// itself costs.
template <class T> void inner_down(int64_t n, const T* w, Complex<T>* at) {
  const int64_t q = n / 4;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 4) {
    Complex<T> x[4] = {at[j], at[j + q], at[j + 2 * q], at[j + 3 * q]};
    butterfly<4>(x);
    at[j] = x[0];
    at[j + q] = turn_back(x[1], w[0], w[1]);
    at[j + 2 * q] = turn_back(x[2], w[2], w[3]);
    at[j + 3 * q] = turn(x[3], w[0], w[1]);
  }
}
template <class T> void inner_up(int64_t n, const T* w, Complex<T>* at) {
  const int64_t q = n / 4;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 4) {
    Complex<T> x[4] = {at[j], turn(at[j + q], w[0], w[1]), turn(at[j + 2 * q], w[2], w[3]),
                       turn_back(at[j + 3 * q], w[0], w[1])};
    butterfly_back<4>(x);
#pragma GCC unroll 4
    for (int m = 0; m < 4; ++m) at[j + m * q] = x[m];
  }
}

// What happens on the way down, at the bottom, and on the way up of the recursion.
template <class T> struct FilterSpectrum {
  const Tables<T>& tables;
  Complex<T>* k;
  T scale;
  void down(int64_t at, int64_t n) const { inner_down<T>(n, tables.of(n), k + at); }
  void up(int64_t, int64_t) const {}
  template <int R> SEQCONV_INLINE void bottom(int64_t at) const {
    butterfly<R>(k + at);
    for (int i = 0; i < R; ++i) k[at + i] = {k[at + i].re * scale, k[at + i].im * scale};
  }
};
template <class T> struct Inverse {
  const Tables<T>& tables;
  Complex<T>* x;
  void down(int64_t, int64_t) const {}
  void up(int64_t at, int64_t n) const { inner_up<T>(n, tables.of(n), x + at); }
  template <int R> SEQCONV_INLINE void bottom(int64_t at) const { butterfly_back<R>(x + at); }
};
template <class T> struct Convolve {
  const Tables<T>& tables;
  Complex<T>* x;
  const Complex<T>* k;
  void down(int64_t at, int64_t n) const { inner_down<T>(n, tables.of(n), x + at); }
  void up(int64_t at, int64_t n) const { inner_up<T>(n, tables.of(n), x + at); }
  template <int R> SEQCONV_INLINE void bottom(int64_t at) const {
    Complex<T> v[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = x[at + i];
    butterfly<R>(v);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = times(v[i], k[at + i]);
    butterfly_back<R>(v);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) x[at + i] = v[i];
  }
};
template <int N, class Op> void walk_fixed(const Op& op, int64_t at) {
  if constexpr (N <= 4) {
    op.template bottom<N>(at);
  } else {
    op.down(at, N);
    for (int m = 0; m < 4; ++m) walk_fixed<N / 4>(op, at + m * (N / 4));
    op.up(at, N);
  }
}
template <class Op> void walk(const Op& op, int64_t at, int64_t n) {
  switch (n) {
    case 1: return walk_fixed<1>(op, at);
    case 2: return walk_fixed<2>(op, at);
    case 4: return walk_fixed<4>(op, at);
    case 8: return walk_fixed<8>(op, at);
    case 16: return walk_fixed<16>(op, at);
    case 32: return walk_fixed<32>(op, at);
    case 64: return walk_fixed<64>(op, at);
    case 128: return walk_fixed<128>(op, at);
    case 256: return walk_fixed<256>(op, at);
    default:
      op.down(at, n);
      for (int m = 0; m < 4; ++m) walk(op, at + m * (n / 4), n / 4);
      op.up(at, n);
  }
}

// W rows of W values to W vectors of W lanes.
template <class T> SEQCONV_INLINE void transpose(Vec<T>* v) {
  constexpr int W = Lanes<T>::count;
#pragma GCC unroll 4
  for (int stage = 1; stage < W; stage *= 2) {
    Vec<T> z[W];
#pragma GCC unroll 8
    for (int i = 0; i < W / 2; ++i) {
      z[2 * i] = zip_low(v[i], v[i + W / 2]);
      z[2 * i + 1] = zip_high(v[i], v[i + W / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; ++i) v[i] = z[i];
  }
}

// Taps of `live` channels, each a row `stride` numbers behind the last, as one vector per tap; zeros from `taps` on.
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

// The first and the last pass of a transform of `size`, with the twist: that of the value j + m size/R is exp(i pi m / 2R)
// times that of the value j, which the factors of the R subtransforms hold. Between them the subtransforms.
template <int R> struct Twist;  // cos(pi m / 2R), which is also the sine for R - m
template <> struct Twist<3> { static constexpr double cosine[] = {1, 0.86602540378443864676, 0.5, 0}; };
template <> struct Twist<4> {
  static constexpr double cosine[] = {1, 0.92387953251128675613, 0.70710678118654752440, 0.38268343236508977173, 0};
};
template <> struct Twist<5> {
  static constexpr double cosine[] = {1, 0.95105651629515357212, 0.80901699437494742410, 0.58778525229247312917,
                                      0.30901699437494742410, 0};
};
template <class T> SEQCONV_INLINE Complex<T> turn(Vec<T> a, T re, T im) { return {a * re, a * im}; }

template <int R, class T, class Value>
SEQCONV_INLINE void enter_by(int64_t size, const T* w, Complex<T>* to, Value value) {
  const int64_t q = size / R;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 2 * R) {
    Complex<T> x[R];
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) x[m] = turn<T>(value(j + m * q), T(Twist<R>::cosine[m]), T(Twist<R>::cosine[R - m]));
    butterfly<R>(x);
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) to[j + m * q] = turn_back(x[m], w[2 * m], w[2 * m + 1]);
  }
}
template <int R, class T, class Take>
SEQCONV_INLINE void leave_by(int64_t size, const T* w, const Complex<T>* from, Take take) {
  const int64_t q = size / R;
#pragma GCC unroll 2
  for (int64_t j = 0; j < q; ++j, w += 2 * R) {
    Complex<T> x[R];
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) x[m] = turn(from[j + m * q], w[2 * m], w[2 * m + 1]);
    butterfly_back<R>(x);
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m)
      take(j + m * q, x[m].re * T(Twist<R>::cosine[m]) + x[m].im * T(Twist<R>::cosine[R - m]));
  }
}
// `value(j)` is real or complex.
template <class T, class Value>
SEQCONV_INLINE void enter_transform(const Tables<T>& tables, int64_t size, Complex<T>* to, Value value) {
  switch (first_radix(size)) {
    case 3: return enter_by<3, T>(size, tables.top, to, value);
    case 5: return enter_by<5, T>(size, tables.top, to, value);
    default: return enter_by<4, T>(size, tables.top, to, value);
  }
}
// `take(j, y)` gets the real part.
template <class T, class Take>
SEQCONV_INLINE void leave_real(const Tables<T>& tables, int64_t size, const Complex<T>* from, Take take) {
  switch (first_radix(size)) {
    case 3: return leave_by<3, T>(size, tables.top, from, take);
    case 5: return leave_by<5, T>(size, tables.top, from, take);
    default: return leave_by<4, T>(size, tables.top, from, take);
  }
}
template <class Op> void walk_inside(const Op& op, int64_t size) {
  const int64_t radix = first_radix(size), q = size / radix;
  for (int64_t m = 0; m < radix; ++m) walk(op, m * q, q);
}

}  // namespace seqconv::SEQCONV_ISA
