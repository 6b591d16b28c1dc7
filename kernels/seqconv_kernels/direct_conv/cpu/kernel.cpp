// Direct sums of online convolutions: one output per decoded token, and tiles of outputs with known inputs.
//
//   step: y = sums[r] + sum_{s < count} taps[s] past[r - s]      tile: out[i] += sum_j taps[lag + i - j] x[j]
//
// A vector holds W neighbouring channels; channels do not mix, so there is nothing to sum over lanes.
//
// Step: 2 count rows of channels are read once and never again, so it runs at the speed of memory. Rows are read in
// runs of kStepVectors vectors whose sums stay in registers over all lags. `past` and `sums` are ring buffers over
// time.
//
// Tile: an item is one vector of channels. Its rows are copied to dense scratch first: they are `width` numbers apart
// in memory, and with a power of two would all fall into a few sets of the cache. Then squares of kSide outputs by
// kSide inputs, which take 2 kSide - 1 taps, so that kSide^2 multiply-adds load 3 kSide - 1 vectors.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kProductsWorthThreads = 1 << 21;
// Accumulators in registers: half of them for a step, 8 (or 4 of 16) sums with their operands for a tile.
constexpr int kStepVectors = kManyRegisters ? 16 : 8, kSide = kManyRegisters ? 8 : 4;

template <class T, class S> struct Step {
  static constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  const DirectStepArgs& a;

  // N whole vectors of channels from `channel` on; with N = 1 one of `live` channels.
  template <int N> SEQCONV_INLINE void channels(int64_t b, int64_t channel, int live) const {
    T* past = (T*)a.past + b * a.ring * a.width + channel;
    T* sums = (T*)a.sums + (b * a.ring + a.row) * a.width + channel;
    const S* u = (const S*)a.u + b * a.u_stride + channel;
    const T* taps = (const T*)a.taps + channel;
    Vec<T> y[N];
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      const Vec<T> in = N > 1 ? Memory<T, S>::load(u + i * W) : load<T, S>(u, live);
      put<N>(past + a.row * a.width + i * W, in, live);
      y[i] = get<N>(sums + i * W, live) + in * get<N>(taps + i * W, live);
      put<N>(sums + i * W, Vec<T>{}, live);
    }
    int64_t row = a.row;  // of the ring, backwards in time
    for (int64_t s = 1; s < a.count; ++s) {
      row = row ? row - 1 : a.ring - 1;
      const T *x = past + row * a.width, *h = taps + s * a.width;
#pragma GCC unroll 16
      for (int i = 0; i < N; ++i) y[i] += get<N>(x + i * W, live) * get<N>(h + i * W, live);
    }
    S* out = (S*)a.y + b * a.width + channel;
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if (N > 1) Memory<T, S>::store(out + i * W, y[i]);
      else store<T, S>(out, y[i], live);
    }
  }
  template <int N> static SEQCONV_INLINE Vec<T> get(const T* p, int live) {
    return N > 1 ? M::load(p) : load<T, T>(p, live);
  }
  template <int N> static SEQCONV_INLINE void put(T* p, Vec<T> v, int live) {
    if (N > 1) M::store(p, v);
    else store<T, T>(p, v, live);
  }

  void run() const {
    for (int64_t b = 0; b < a.batch; ++b) {
      int64_t channel = 0;
      for (; channel + kStepVectors * W <= a.width; channel += kStepVectors * W) channels<kStepVectors>(b, channel, W);
      for (; channel < a.width; channel += W) channels<1>(b, channel, int(min(W, a.width - channel)));
    }
  }
};

// A tile for one vector of channels.
template <class T> struct ChannelTile {
  static constexpr int W = Lanes<T>::count;
  const DirectTileArgs& a;
  const int64_t channel;
  const int live;
  Vec<T>*x, *taps;  // dense copies; taps[k] has lag `lag - inputs + 1 + k`

  static size_t scratch_bytes(const DirectTileArgs& a) { return sizeof(Vec<T>) * size_t(2 * a.inputs + a.outputs); }
  ChannelTile(const DirectTileArgs& args, int64_t item, void* data)
      : a(args), channel(item * W), live(int(min(W, args.width - channel))), x((Vec<T>*)data),
        taps((Vec<T>*)data + args.inputs) {}

  SEQCONV_INLINE T* out(int64_t b, int64_t i) const { return (T*)a.out + b * a.out_batch + i * a.out_time + channel; }

  void run() const {
    const int64_t first = a.lag - a.inputs + 1;
    for (int64_t k = 0; k < a.inputs + a.outputs - 1; ++k)
      taps[k] = load<T, T>((const T*)a.taps + (first + k) * a.width + channel, live);
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t j = 0; j < a.inputs; ++j)
        x[j] = load<T, T>((const T*)a.x.data + b * a.x.batch + j * a.x.time + channel, live);
      int64_t i = 0;
      for (; i + kSide <= a.outputs; i += kSide) outputs<kSide>(b, i);
      for (; i < a.outputs; ++i) outputs<1>(b, i);
    }
  }
  // N outputs from i on, over all inputs in squares of N by N: output i + p and input j + q meet tap h[p - q].
  template <int N> SEQCONV_INLINE void outputs(int64_t b, int64_t i) const {
    Vec<T> sum[N];
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p) sum[p] = load<T, T>(out(b, i + p), live);
    const Vec<T>* h = taps + a.inputs - 1 + i;  // the tap between output i and input j = 0
    int64_t j = 0;
    for (; j + N <= a.inputs; j += N, h -= N) {
#pragma GCC unroll 8
      for (int q = 0; q < N; ++q) {
        const Vec<T> in = x[j + q];
#pragma GCC unroll 8
        for (int p = 0; p < N; ++p) sum[p] += in * h[p - q];
      }
    }
    for (; j < a.inputs; ++j, --h)
#pragma GCC unroll 8
      for (int p = 0; p < N; ++p) sum[p] += x[j] * h[p];
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p) store<T, T>(out(b, i + p), sum[p], live);
  }
};

template <class T> Status run_tile(const DirectTileArgs& a) {
  const int64_t items = ceil_div(a.width, Lanes<T>::count);
  const int threads = thread_count(a.threads, items, a.batch * a.width * a.inputs * a.outputs, kProductsWorthThreads);
  return for_each_item(items, threads, ChannelTile<T>::scratch_bytes(a),
                       [&](int64_t item, void* scratch) { ChannelTile<T>(a, item, scratch).run(); });
}

}  // namespace

Status direct_step(const DirectStepArgs& a) {
  dispatch(a.dtype, [&](auto acc, auto storage) { Step<decltype(acc), decltype(storage)>{a}.run(); });
  return Status::done;
}
Status direct_tile(const DirectTileArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) { return run_tile<decltype(acc)>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
