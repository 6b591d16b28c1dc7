// Long causal convolution by the right-angle transform: channels in the lanes, one fused pass per row of the batch.
//
// Multiplied by w^j with w = exp(i pi / 2N), a cyclic convolution of length N turns what wraps around by a right angle:
// the real part of the result is the causal convolution, without zero padding (the imaginary part is its tail).
// Forward transforms decimate in frequency and inverse ones in time, so that nothing is ever reordered. The recursion
// goes depth first: a subtree that fits the cache is transformed, multiplied by the filter's spectrum and transformed
// back before the next one. Twist, gates, skip and real part are folded into the first and the last pass.
#include "cpu.hpp"

#include "../native_cpp/fft.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kWorthThreads = 1 << 14;  // elements of u
constexpr int64_t kAhead = 8;               // rows

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

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

// W channels of one part of the batch.
template <class T, class S> struct Block {
  static constexpr int W = Lanes<T>::count;
  const FftArgs& a;
  const Tables<T> tables;
  const int64_t part, channel, heard;
  const int live;
  const T scale;

  Block(const FftArgs& args, int64_t item)
      : a(args), tables(args.tables, args.size), part(item % args.parts), channel(item / args.parts * W), heard(args.past + args.length),
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

  template <class Op> void inside(const Op& op) const { walk_inside(op, a.size); }
  template <class Value> void enter(Complex<T>* to, Value value) const {
    enter_transform<T>(tables, a.size, to, [&](int64_t j) SEQCONV_LAMBDA { return tables.twisted(value(j), j); });
  }
  template <class Take> void leave(const Complex<T>* from, Take take) const { leave_real<T>(tables, a.size, from, take); }

  // Spectrum of the filter, divided by the size of the transform. `room` holds the transposed taps meanwhile.
  void filter_spectrum(Complex<T>* k, Complex<T>* room) const {
    Vec<T>* lanes = (Vec<T>*)room;
    taps_in_lanes<T>((const T*)a.filter + channel * a.taps, a.taps, live, taps(), a.size, lanes);
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
