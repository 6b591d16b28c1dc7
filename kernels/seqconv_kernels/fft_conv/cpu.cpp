// Long causal convolution by the right-angle transform: channels in the lanes, one fused pass per row of the batch.
//
// Multiplied by w^j with w = exp(i pi / 2N), a cyclic convolution of length N turns what wraps around by a right angle:
// the real part of the result is the causal convolution, without zero padding (the imaginary part is its tail).
// Forward transforms decimate in frequency and inverse ones in time, so that nothing is ever reordered. The recursion
// goes depth first: a subtree that fits the cache is transformed, multiplied by the filter's spectrum and transformed
// back before the next one. Twist, gates, skip and real part are folded into the first and the last pass.
#include "cpu.hpp"

#include "../native_cpp/vec.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kWorthThreads = 1 << 14;  // elements of u
constexpr int64_t kAhead = 8;               // rows

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

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
  const T *top, *twist;
  explicit Tables(const FftArgs& a) {
    const T* p = top = (const T*)a.tables;
    for (int64_t n = a.size, radix; n > 4; n /= radix) {
      radix = first_radix(n);
      if (radix == 4) level[__builtin_ctzll(n)] = p;
      p += n / radix * (radix - 1) * 2;
    }
    twist = p;
  }
  const T* of(int64_t n) const { return level[__builtin_ctzll(n)]; }
};

// One pass of radix R over n values: `get(j)` reads them, `put(j, x)` takes the R subtransforms side by side.
template <int R, class T, class Get> SEQCONV_INLINE void pass_down(int64_t n, const T* w, Get get, Complex<T>* to) {
  const int64_t q = n / R;
  for (int64_t j = 0; j < q; ++j, w += 2 * (R - 1)) {
    Complex<T> x[R];
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) x[m] = get(j + m * q);
    butterfly<R>(x);
    to[j] = x[0];
    if (q == 1) {
#pragma GCC unroll 5
      for (int m = 1; m < R; ++m) to[m] = x[m];
      return;
    }
#pragma GCC unroll 5
    for (int m = 1; m < R; ++m) to[j + m * q] = turn(x[m], w[2 * m - 2], -w[2 * m - 1]);
  }
}
template <int R, class T, class Put>
SEQCONV_INLINE void pass_up(int64_t n, const T* w, const Complex<T>* from, Put put) {
  const int64_t q = n / R;
  for (int64_t j = 0; j < q; ++j, w += 2 * (R - 1)) {
    Complex<T> x[R];
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) x[m] = from[j + m * q];
    if (q > 1)
#pragma GCC unroll 5
      for (int m = 1; m < R; ++m) x[m] = turn(x[m], w[2 * m - 2], w[2 * m - 1]);
    butterfly_back<R>(x);
#pragma GCC unroll 5
    for (int m = 0; m < R; ++m) put(j + m * q, x[m]);
  }
}
template <class T> void inner_down(int64_t n, const T* w, Complex<T>* x) {
  pass_down<4, T>(n, w, [x](int64_t j) SEQCONV_LAMBDA { return x[j]; }, x);
}
template <class T> void inner_up(int64_t n, const T* w, Complex<T>* x) {
  pass_up<4, T>(n, w, x, [x](int64_t j, Complex<T> v) SEQCONV_LAMBDA { x[j] = v; });
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
// x becomes the convolution again (if wanted), g the gradient of its input, s gathers that of the filter.
template <class T> struct Differentiate {
  const Tables<T>& tables;
  Complex<T>*x, *g, *s;
  const Complex<T>* k;
  bool again;
  void down(int64_t at, int64_t n) const {
    inner_down<T>(n, tables.of(n), x + at);
    inner_down<T>(n, tables.of(n), g + at);
  }
  void up(int64_t at, int64_t n) const {
    inner_up<T>(n, tables.of(n), g + at);
    if (again) inner_up<T>(n, tables.of(n), x + at);
  }
  template <int R> SEQCONV_INLINE void bottom(int64_t at) const {
    Complex<T> v[R], d[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = x[at + i], d[i] = g[at + i];
    butterfly<R>(v);
    butterfly<R>(d);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      s[at + i] = s[at + i] + conj_times(v[i], d[i]);
      d[i] = conj_times(k[at + i], d[i]);
    }
    butterfly_back<R>(d);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) g[at + i] = d[i];
    if (!again) return;
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

// W channels of one part of the batch.
template <class T, class S> struct Block {
  static constexpr int W = Lanes<T>::count;
  const FftArgs& a;
  const Tables<T> tables;
  const int64_t part, channel, heard;
  const int live;
  const T scale;

  Block(const FftArgs& args, int64_t item)
      : a(args), tables(args), part(item % args.parts), channel(item / args.parts * W), heard(args.past + args.length),
        live(int(smaller(W, args.channels - channel))), scale(T(1) / T(args.size)) {}

  int64_t begin() const { return a.batch * part / a.parts; }
  int64_t end() const { return a.batch * (part + 1) / a.parts; }
  int64_t taps() const { return smaller(a.taps, heard); }
  Vec<T> skip() const { return a.skip ? load<T, T>((const T*)a.skip + channel, live) : Vec<T>{}; }
  SEQCONV_INLINE Vec<T> read(const Rows& x, int64_t b, int64_t t) const {
    const S* p = (const S*)x.data + b * x.batch + t * x.time + channel;
    __builtin_prefetch(p + smaller(kAhead, a.length - 1 - t) * x.time);
    return load<T, S>(p, live);
  }
  SEQCONV_INLINE void write(void* to, int64_t b, int64_t t, Vec<T> v) const {
    store<T, S>((S*)to + (b * a.length + t) * a.channels + channel, v, live);
  }
  SEQCONV_INLINE Vec<T> gated(int64_t b, int64_t t) const {
    const Vec<T> u = read(a.u, b, t);
    return a.pre.data ? u * read(a.pre, b, t) : u;
  }
  // What the filter hears at time j of history and signal together; the gradient at its output there.
  SEQCONV_INLINE Vec<T> signal(int64_t b, int64_t j) const {
    if (j >= heard) return Vec<T>{};
    if (j >= a.past) return gated(b, j - a.past);
    return load<T, T>((const T*)a.history.data + b * a.history.batch + j * a.history.time + channel, live);
  }
  SEQCONV_INLINE Vec<T> gradient(int64_t b, int64_t j) const {
    if (j >= heard || j < a.past) return Vec<T>{};
    const Vec<T> dy = read(a.dy, b, j - a.past);
    return a.post.data ? dy * read(a.post, b, j - a.past) : dy;
  }

  SEQCONV_INLINE Complex<T> twisted(Vec<T> v, int64_t j) const {
    return {v * tables.twist[2 * j], v * tables.twist[2 * j + 1]};
  }
  SEQCONV_INLINE Vec<T> untwisted(Complex<T> v, int64_t j) const {
    return v.re * tables.twist[2 * j] + v.im * tables.twist[2 * j + 1];
  }
  // The first and the last pass; between them the subtransforms.
  template <class Op> void inside(const Op& op) const {
    const int64_t radix = first_radix(a.size), q = a.size / radix;
    for (int64_t m = 0; m < radix; ++m) walk(op, m * q, q);
  }
  template <class Value> void enter(Complex<T>* to, Value value) const {
    const auto get = [&](int64_t j) SEQCONV_LAMBDA { return twisted(value(j), j); };
    switch (first_radix(a.size)) {
      case 3: return pass_down<3, T>(a.size, tables.top, get, to);
      case 5: return pass_down<5, T>(a.size, tables.top, get, to);
      default: return pass_down<4, T>(a.size, tables.top, get, to);
    }
  }
  template <class Take> void leave(const Complex<T>* from, Take take) const {
    const auto put = [&](int64_t j, Complex<T> v) SEQCONV_LAMBDA { take(j, untwisted(v, j)); };
    switch (first_radix(a.size)) {
      case 3: return pass_up<3, T>(a.size, tables.top, from, put);
      case 5: return pass_up<5, T>(a.size, tables.top, from, put);
      default: return pass_up<4, T>(a.size, tables.top, from, put);
    }
  }

  // Spectrum of the filter, divided by the size of the transform. `room` holds the transposed taps meanwhile.
  void filter_spectrum(Complex<T>* k, Complex<T>* room) const {
    Vec<T>* lanes = (Vec<T>*)room;
    for (int64_t j = 0; j < a.size; j += W) {
      Vec<T> v[W];
      for (int i = 0; i < W; ++i) {
        const int64_t left = taps() - j;
        v[i] = i < live && left > 0 ? load<T, T>((const T*)a.filter + (channel + i) * a.taps + j, int(smaller(W, left)))
                                    : Vec<T>{};
      }
      transpose<T>(v);
      for (int64_t i = 0; i < smaller(W, a.size - j); ++i) lanes[j + i] = v[i];
    }
    enter(k, [&](int64_t j) SEQCONV_LAMBDA { return lanes[j]; });
    inside(FilterSpectrum<T>{tables, k, scale});
  }
  void write_filter_gradient(Complex<T>* s, Complex<T>* room) const {
    inside(Inverse<T>{tables, s});
    Vec<T>* lanes = (Vec<T>*)room;
    leave(s, [&](int64_t j, Vec<T> v) SEQCONV_LAMBDA { lanes[j] = j < taps() ? v * scale : Vec<T>{}; });
    for (int64_t j = 0; j < a.taps; j += W) {
      Vec<T> v[W];
      for (int i = 0; i < W; ++i) v[i] = j + i < taps() ? lanes[j + i] : Vec<T>{};
      transpose<T>(v);
      for (int i = 0; i < live; ++i)
        store<T, T>((T*)a.dfilter + (part * a.channels + channel + i) * a.taps + j, v[i], int(smaller(W, a.taps - j)));
    }
  }

  void forward(Complex<T>* room) const {
    Complex<T>*x = room, *k = room + a.size;
    filter_spectrum(k, x);
    const Vec<T> through = skip();
    for (int64_t b = begin(); b < end(); ++b) {
      enter(x, [&](int64_t j) SEQCONV_LAMBDA { return signal(b, j); });
      inside(Convolve<T>{tables, x, k});
      leave(x, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA {
        if (j < a.past || j >= heard) return;
        const int64_t t = j - a.past;
        if (a.skip) y += through * gated(b, t);
        write(a.y, b, t, a.post.data ? y * read(a.post, b, t) : y);
      });
    }
  }
  void backward(Complex<T>* room) const {
    Complex<T>*x = room, *k = x + a.size, *g = k + a.size, *s = g + a.size;
    filter_spectrum(k, x);
    __builtin_memset(s, 0, sizeof(Complex<T>) * a.size);
    const Vec<T> through = skip();
    Vec<T> dskip{};
    for (int64_t b = begin(); b < end(); ++b) {
      enter(x, [&](int64_t j) SEQCONV_LAMBDA { return signal(b, j); });
      enter(g, [&](int64_t j) SEQCONV_LAMBDA { return gradient(b, j); });
      inside(Differentiate<T>{tables, x, g, s, k, a.dpost != nullptr});
      leave(g, [&](int64_t j, Vec<T> dv) SEQCONV_LAMBDA {
        if (j >= heard) return;
        if (j < a.past) return store<T, T>((T*)a.dhistory + (b * a.past + j) * a.channels + channel, dv, live);
        const int64_t t = j - a.past;
        if (!a.skip && !a.pre.data) return write(a.du, b, t, dv);
        const Vec<T> dsum = gradient(b, j), u = read(a.u, b, t);
        dv += through * dsum;
        if (!a.pre.data) {
          dskip += dsum * u;
          return write(a.du, b, t, dv);
        }
        const Vec<T> pre = read(a.pre, b, t);
        dskip += dsum * u * pre;
        write(a.du, b, t, dv * pre);
        write(a.dpre, b, t, dv * u);
      });
      if (a.dpost)
        leave(x, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA {
          if (j < a.past || j >= heard) return;
          const int64_t t = j - a.past;
          write(a.dpost, b, t, read(a.dy, b, t) * (y + through * gated(b, t)));
        });
    }
    store<T, T>((T*)a.dskip + part * a.channels + channel, dskip, live);
    write_filter_gradient(s, x);
  }
};

template <class T, class S, bool Backward> Status run(const FftArgs& a) {
  using Work = Block<T, S>;
  const int64_t items = (a.channels + Work::W - 1) / Work::W * a.parts;
  const int threads = a.batch * a.length * a.channels < kWorthThreads ? 1 : int(smaller(a.threads, items));
  const size_t bytes = sizeof(Complex<T>) * a.size * (Backward ? 4 : 2);
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(bytes);
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      const Work work(a, item);
      if constexpr (Backward) work.backward((Complex<T>*)scratch.data);
      else work.forward((Complex<T>*)scratch.data);
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

template <bool Backward> Status run_any(const FftArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run<double, double, Backward>(a);
    case Dtype::bf16: return run<float, bf16, Backward>(a);
    case Dtype::f16: return run<float, f16, Backward>(a);
    default: return run<float, float, Backward>(a);
  }
}

}  // namespace

Status fft_forward(const FftArgs& a) { return run_any<false>(a); }
Status fft_backward(const FftArgs& a) { return run_any<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
