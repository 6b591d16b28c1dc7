// Diagonal scan over (batch, length, channels), real or complex:
//
//   h[t] = a[t] h[t-1] + x[t]
//
// The adjoint is the same scan backwards in time, with dh the gradient of all outputs and the final state's added last:
//
//   dx[t] = dh[t] + conj(a[t+1]) dx[t+1]      da[t] = dx[t] conj(h[t-1])      dinitial = conj(a[0]) dx[0]
//
// Work: an item is a tile of neighbouring channels of one sequence: whole rows up to 4,096 channels, or parts of them
// where threads need them. A vector holds W neighbouring channels (or W / 2 complex numbers as pairs of lanes), the
// states of the tile are in the first-level cache, and time runs row by row: each number is read and written once, in
// long runs of memory, and the chains of multiply-adds of neighbouring vectors are independent. So the scan runs at the
// speed of memory, and a parallel scan over time, which reads everything twice, has nothing to gain where tiles and
// sequences keep the threads busy. Results that exceed the cache are written past it.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kPrefetchAhead = 16;  // rows of float32; twice as many of half precision
constexpr int64_t kInputsWorthThreads = 1 << 16;

// a b and conj(a) b. A complex vector is (re, im) pairs of lanes: a b = Re(a) b + Im(a) (-b_im, b_re), where the sign
// -1, 1, -1, 1 ... goes to Im(a), which is broadcast over its pair.
template <class T, bool Complex> SEQCONV_INLINE Vec<T> times(Vec<T> a, Vec<T> b, Vec<T> sign) {
  if constexpr (!Complex) return a * b;
  else return pair_first(a) * b + pair_second(a) * sign * pair_swap(b);
}
template <class T, bool Complex> SEQCONV_INLINE Vec<T> conj_times(Vec<T> a, Vec<T> b, Vec<T> sign) {
  if constexpr (!Complex) return a * b;
  else return pair_first(a) * b - pair_second(a) * sign * pair_swap(b);
}

// A tile of neighbouring channels of one sequence.
template <class T, class S, bool Complex> struct Tile {
  static constexpr int W = Lanes<T>::count;
  static constexpr int64_t kAhead = kPrefetchAhead * int(sizeof(T) / sizeof(S));
  const LinearScanArgs& s;
  const int64_t sequence, row, begin, end, first_channel, width;
  Vec<T> sign;

  Tile(const LinearScanArgs& args, int64_t sequence_, int64_t first, int64_t tile_width)
      : s(args), sequence(sequence_), row(args.segments.row(sequence_)), begin(args.segments.begin(sequence_)),
        end(args.segments.end(sequence_)), first_channel(first), width(min(tile_width, args.channels - first)) {
    for (int i = 0; i < W; ++i) sign[i] = T(i % 2 ? 1 : -1);
  }
  const S* at(const Rows& x, int64_t t) const { return (const S*)x.data + row * x.batch + t * x.time + first_channel; }
  S* dense(const void* x, int64_t t) const { return (S*)x + (row * s.length + t) * s.channels + first_channel; }
  T* state(const void* x) const { return (T*)x + sequence * s.channels + first_channel; }
  Vec<T> load_state(const void* x, int64_t c, int live) const {
    return x ? load<T, T>(state(x) + c, live) : Vec<T>{};
  }

  // Calls block(channel, live lanes) for all vectors of a row, the count a constant wherever all lanes are live, and
  // prefetch(channel) once per cache line: the hardware does not prefetch over the gaps between the rows of a tile. To
  // the second-level cache, since rows at a distance of a power of two share a few sets of the first one.
  template <class Block, class Prefetch> SEQCONV_INLINE void each_block(Block block, Prefetch prefetch) const {
    constexpr int V = kLineVectors<T, S>;
    int64_t c = 0;
    for (; c + V * W <= width; c += V * W) {
      prefetch(c);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) block(c + v * W, W);
    }
    for (; c + W <= width; c += W) block(c, W);
    if (c < width) block(c, int(width - c));
  }
  template <class Block> SEQCONV_INLINE void each_block(Block block) const { each_block(block, [](int64_t) SEQCONV_LAMBDA {}); }

  template <bool Stream> void forward() const {
    Vec<T> h[kWidestTile / W];
    each_block([&](int64_t c, int live) SEQCONV_LAMBDA { h[c / W] = load_state(s.initial, c, live); });
    for (int64_t t = begin; t < end; ++t) {
      const S *a = at(s.a, t), *x = at(s.x, t);
      const int64_t ahead = min(t + kAhead, end - 1);
      const S *a_ahead = at(s.a, ahead), *x_ahead = at(s.x, ahead);
      S* out = dense(s.h, t);
      each_block(
          [&](int64_t c, int live) SEQCONV_LAMBDA {
            const Vec<T> factor = load<T, S>(a + c, live), input = load<T, S>(x + c, live);
            h[c / W] = times<T, Complex>(factor, h[c / W], sign) + input;
            if constexpr (Stream) store_past_cache<T, S>(out + c, h[c / W]);
            else store<T, S>(out + c, h[c / W], live);
          },
          [&](int64_t c) SEQCONV_LAMBDA { prefetch_to_l2(a_ahead + c), prefetch_to_l2(x_ahead + c); });
    }
    each_block([&](int64_t c, int live) SEQCONV_LAMBDA { store<T, T>(state(s.final_state) + c, h[c / W], live); });
    if (Stream) stream_fence();
  }
  void backward() const {
    Vec<T> carried[kWidestTile / W];  // conj(a[t+1]) dx[t+1]: what reaches h[t] from later times
    each_block([&](int64_t c, int live) SEQCONV_LAMBDA { carried[c / W] = load_state(s.dfinal, c, live); });
    for (int64_t t = end - 1; t >= begin; --t) {
      const S *a = at(s.a, t), *dh = at(s.dh, t), *h_before = t > begin ? dense(s.h, t - 1) : nullptr;
      const int64_t ahead = max(t - kAhead, begin);
      const S *a_ahead = at(s.a, ahead), *dh_ahead = at(s.dh, ahead), *h_ahead = dense(s.h, max(ahead - 1, 0));
      S *da = dense(s.da, t), *dx = dense(s.dx, t);
      const auto prefetch = [&](int64_t c) SEQCONV_LAMBDA {
        prefetch_to_l2(a_ahead + c), prefetch_to_l2(dh_ahead + c), prefetch_to_l2(h_ahead + c);
      };
      const auto block = [&](int64_t c, int live) SEQCONV_LAMBDA {
        const Vec<T> g = load<T, S>(dh + c, live) + carried[c / W];
        const Vec<T> h = h_before ? load<T, S>(h_before + c, live) : load_state(s.initial, c, live);
        store<T, S>(dx + c, g, live);
        store<T, S>(da + c, conj_times<T, Complex>(h, g, sign), live);
        carried[c / W] = conj_times<T, Complex>(load<T, S>(a + c, live), g, sign);
      };
      each_block(block, prefetch);
    }
    each_block([&](int64_t c, int live) SEQCONV_LAMBDA { store<T, T>(state(s.dinitial) + c, carried[c / W], live); });
  }
};

template <class T, class S, bool Complex, bool Backward> Status run_tiles(const LinearScanArgs& s) {
  const int64_t width = tile_channels(s.channels, s.segments.count, s.threads);
  const int64_t tiles = ceil_div(s.channels, width), items = s.segments.count * tiles;
  const int threads = thread_count(s.threads, items, s.batch * s.length * s.channels, kInputsWorthThreads);
  const bool stream = beyond_cache<T, S>(s.h, s.batch * s.length, s.channels);
  for_each_item(items, threads, [&](int64_t item) {
    const Tile<T, S, Complex> tile(s, item / tiles, item % tiles * width, width);
    if constexpr (Backward) tile.backward();
    else stream ? tile.template forward<true>() : tile.template forward<false>();
  });
  return Status::done;
}

template <bool Backward> Status run(const LinearScanArgs& s) {
  return dispatch(s.dtype, [&](auto acc, auto storage) {
    using T = decltype(acc);
    using S = decltype(storage);
    if constexpr (sizeof(T) == sizeof(S))
      if (s.complex) return run_tiles<T, S, true, Backward>(s);
    return run_tiles<T, S, false, Backward>(s);
  });
}

}  // namespace

Status linear_scan_forward(const LinearScanArgs& s) { return run<false>(s); }
Status linear_scan_backward(const LinearScanArgs& s) { return run<true>(s); }

}  // namespace seqconv::SEQCONV_ISA
