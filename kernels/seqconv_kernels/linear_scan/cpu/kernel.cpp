// Diagonal scan h[t] = a[t] h[t-1] + x[t]: channels in the lanes, channel-last inputs read in place, one pass.
//
// The gradient is the scan backwards, dx[t] = dh[t] + conj(a[t+1]) dx[t+1], with da[t] = dx[t] conj(h[t-1]) on the way.
#include "kernel.hpp"

#include "../../_cpp/vec.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kAhead = 4;        // rows
constexpr int64_t kTile = 512;   // channels; halved where there would be too little to share out
constexpr int64_t kInputsWorthThreads = 1 << 16;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// Complex numbers in pairs of lanes: both lanes the real part, both the imaginary part, the two exchanged.
template <int N> struct Pairs;
template <> struct Pairs<2> {
  template <class V> static SEQCONV_INLINE V real(V v) { return __builtin_shufflevector(v, v, 0, 0); }
  template <class V> static SEQCONV_INLINE V imag(V v) { return __builtin_shufflevector(v, v, 1, 1); }
  template <class V> static SEQCONV_INLINE V swap(V v) { return __builtin_shufflevector(v, v, 1, 0); }
};
template <> struct Pairs<4> {
  template <class V> static SEQCONV_INLINE V real(V v) { return __builtin_shufflevector(v, v, 0, 0, 2, 2); }
  template <class V> static SEQCONV_INLINE V imag(V v) { return __builtin_shufflevector(v, v, 1, 1, 3, 3); }
  template <class V> static SEQCONV_INLINE V swap(V v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2); }
};
template <> struct Pairs<8> {
  template <class V> static SEQCONV_INLINE V real(V v) { return __builtin_shufflevector(v, v, 0, 0, 2, 2, 4, 4, 6, 6); }
  template <class V> static SEQCONV_INLINE V imag(V v) { return __builtin_shufflevector(v, v, 1, 1, 3, 3, 5, 5, 7, 7); }
  template <class V> static SEQCONV_INLINE V swap(V v) { return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6); }
};
template <> struct Pairs<16> {
  template <class V> static SEQCONV_INLINE V real(V v) {
    return __builtin_shufflevector(v, v, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  }
  template <class V> static SEQCONV_INLINE V imag(V v) {
    return __builtin_shufflevector(v, v, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
  }
  template <class V> static SEQCONV_INLINE V swap(V v) {
    return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  }
};

// a b, and conj(a) b.
template <class T, bool Complex> SEQCONV_INLINE Vec<T> times(Vec<T> a, Vec<T> b, Vec<T> sign) {
  if constexpr (!Complex) return a * b;
  using P = Pairs<Lanes<T>::count>;
  return P::real(a) * b + P::imag(a) * sign * P::swap(b);
}
template <class T, bool Complex> SEQCONV_INLINE Vec<T> conjugate_times(Vec<T> a, Vec<T> b, Vec<T> sign) {
  if constexpr (!Complex) return a * b;
  using P = Pairs<Lanes<T>::count>;
  return P::real(a) * b - P::imag(a) * sign * P::swap(b);
}

// A tile of neighbouring channels of one segment.
template <class T, class S, bool Complex> struct Tile {
  static constexpr int W = Lanes<T>::count;
  const LinearScanArgs& s;
  const int64_t segment, row, begin, end, first, width;
  Vec<T> sign;  // -1, 1, -1, 1 ...

  Tile(const LinearScanArgs& args, int64_t segment_, int64_t first_, int64_t width_)
      : s(args), segment(segment_), row(args.bounds ? 0 : segment_), begin(args.bounds ? args.bounds[segment_] : 0),
        end(args.bounds ? args.bounds[segment_ + 1] : args.length), first(first_),
        width(smaller(width_, args.channels - first_)) {
    for (int i = 0; i < W; ++i) sign[i] = T(i % 2 ? 1 : -1);
  }
  const S* at(const Rows& x, int64_t t) const { return (const S*)x.data + row * x.batch + t * x.time + first; }
  S* dense(const void* x, int64_t t) const { return (S*)x + (row * s.length + t) * s.channels + first; }
  T* state(const void* x) const { return (T*)x + segment * s.channels + first; }
  Vec<T> read_state(const void* x, int64_t c, int live) const {
    return x ? load<T, T>(state(x) + c, live) : Vec<T>{};
  }

  // Calls block(channel, live lanes), the count a constant wherever all lanes are live.
  template <class Block> SEQCONV_INLINE void each(Block block) const {
    int64_t c = 0;
    for (; c + W <= width; c += W) block(c, W);
    if (c < width) block(c, int(width - c));
  }
  // The hardware does not look ahead over the gaps between the rows of a tile.
  static SEQCONV_INLINE void look_ahead(const S* p, int64_t c) { __builtin_prefetch(p + c); }

  void forward() const {
    Vec<T> h[kTile / W];
    each([&](int64_t c, int live) { h[c / W] = read_state(s.initial, c, live); });
    for (int64_t t = begin; t < end; ++t) {
      const S *a = at(s.a, t), *x = at(s.x, t);
      const int64_t next = smaller(t + kAhead, end - 1);
      const S *a_next = at(s.a, next), *x_next = at(s.x, next);
      S* out = dense(s.h, t);
      each([&](int64_t c, int live) {
        look_ahead(a_next, c), look_ahead(x_next, c);
        h[c / W] = times<T, Complex>(load<T, S>(a + c, live), h[c / W], sign) + load<T, S>(x + c, live);
        store<T, S>(out + c, h[c / W], live);
      });
    }
    each([&](int64_t c, int live) { store<T, T>(state(s.final_state) + c, h[c / W], live); });
  }
  void backward() const {
    Vec<T> carried[kTile / W];  // conj(a[t+1]) dx[t+1]
    each([&](int64_t c, int live) { carried[c / W] = read_state(s.dfinal, c, live); });
    for (int64_t t = end - 1; t >= begin; --t) {
      const S *a = at(s.a, t), *dh = at(s.dh, t), *before = t > begin ? dense(s.h, t - 1) : nullptr;
      const int64_t next = t - kAhead < begin ? begin : t - kAhead;
      const S *a_next = at(s.a, next), *dh_next = at(s.dh, next), *before_next = dense(s.h, next ? next - 1 : 0);
      S *da = dense(s.da, t), *dx = dense(s.dx, t);
      each([&](int64_t c, int live) {
        look_ahead(a_next, c), look_ahead(dh_next, c), look_ahead(before_next, c);
        const Vec<T> g = load<T, S>(dh + c, live) + carried[c / W];
        const Vec<T> h = before ? load<T, S>(before + c, live) : read_state(s.initial, c, live);
        store<T, S>(dx + c, g, live);
        store<T, S>(da + c, conjugate_times<T, Complex>(h, g, sign), live);
        carried[c / W] = conjugate_times<T, Complex>(load<T, S>(a + c, live), g, sign);
      });
    }
    each([&](int64_t c, int live) { store<T, T>(state(s.dinitial) + c, carried[c / W], live); });
  }
};

template <class T, class S, bool Complex> Status run(const LinearScanArgs& s, bool backward) {
  int64_t width = kTile;
  while (width > 64 && s.segments * ((s.channels + width - 1) / width) < 6) width /= 2;
  const int64_t tiles = (s.channels + width - 1) / width, items = s.segments * tiles;
  const bool small = s.batch * s.length * s.channels < kInputsWorthThreads;
  const int threads = small ? 1 : int(smaller(s.threads, items));
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (threads > 1)
  for (int64_t item = 0; item < items; ++item) {
    const Tile<T, S, Complex> tile(s, item / tiles, item % tiles * width, width);
    if (backward) tile.backward();
    else tile.forward();
  }
  return Status::done;
}

Status run_any(const LinearScanArgs& s, bool backward) {
  switch (s.dtype) {
    case Dtype::f64:
      return s.complex ? run<double, double, true>(s, backward) : run<double, double, false>(s, backward);
    case Dtype::bf16: return run<float, bf16, false>(s, backward);
    case Dtype::f16: return run<float, f16, false>(s, backward);
    default: return s.complex ? run<float, float, true>(s, backward) : run<float, float, false>(s, backward);
  }
}

}  // namespace

Status linear_scan_forward(const LinearScanArgs& s) { return run_any(s, false); }
Status linear_scan_backward(const LinearScanArgs& s) { return run_any(s, true); }

}  // namespace seqconv::SEQCONV_ISA
