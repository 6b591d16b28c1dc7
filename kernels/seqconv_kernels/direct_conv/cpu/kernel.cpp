// Direct sums of online convolutions, channels in the lanes.
//
//   step: y = sums[r] + sum_{s < n} taps[s] past[r - s]      tile: out[i] += sum_j taps[lag + i - j] x[j]
//
// A step is as fast as its rows arrive: they are read once, in long pieces, with the sums in registers. A tile copies
// one vector of channels out of its rows first (rows are far apart, and would compete for the same few lines of the
// cache), and then works on squares of kSide outputs by kSide inputs, which need 2 kSide - 1 taps.
#include "kernel.hpp"

#include "../../_cpp/vec.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kProductsWorthThreads = 1 << 21;
constexpr int kPiece = kManyRegisters ? 16 : 8, kSide = kManyRegisters ? 8 : 4;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T, class S> struct Step {
  static constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  const DirectStepArgs& a;

  // N whole vectors of channels, or one that ends early.
  template <int N> SEQCONV_INLINE void piece(int64_t b, int64_t channel, int live) const {
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
    int64_t row = a.row;
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
      for (; channel + kPiece * W <= a.width; channel += kPiece * W) piece<kPiece>(b, channel, W);
      for (; channel < a.width; channel += W) piece<1>(b, channel, int(smaller(W, a.width - channel)));
    }
  }
};

// One vector of channels of a tile.
template <class T> struct Column {
  static constexpr int W = Lanes<T>::count;
  const DirectTileArgs& a;
  const int64_t channel;
  const int live;
  Vec<T>*x, *taps;  // taps[k] has lag `lag - heard + 1 + k`

  static size_t room(const DirectTileArgs& a) { return sizeof(Vec<T>) * size_t(2 * a.heard + a.due); }
  Column(const DirectTileArgs& args, int64_t item, void* data)
      : a(args), channel(item * W), live(int(smaller(W, args.width - channel))), x((Vec<T>*)data),
        taps((Vec<T>*)data + args.heard) {}

  SEQCONV_INLINE T* out(int64_t b, int64_t i) const { return (T*)a.out + b * a.out_batch + i * a.out_time + channel; }

  void run() const {
    const int64_t first = a.lag - a.heard + 1;
    for (int64_t k = 0; k < a.heard + a.due - 1; ++k)
      taps[k] = load<T, T>((const T*)a.taps + (first + k) * a.width + channel, live);
    for (int64_t b = 0; b < a.batch; ++b) {
      for (int64_t j = 0; j < a.heard; ++j)
        x[j] = load<T, T>((const T*)a.x.data + b * a.x.batch + j * a.x.time + channel, live);
      int64_t i = 0;
      for (; i + kSide <= a.due; i += kSide) outputs<kSide>(b, i);
      for (; i < a.due; ++i) outputs<1>(b, i);
    }
  }
  template <int N> SEQCONV_INLINE void outputs(int64_t b, int64_t i) const {
    Vec<T> sum[N];
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p) sum[p] = load<T, T>(out(b, i + p), live);
    const Vec<T>* h = taps + a.heard - 1 + i;  // of output i and input 0
    int64_t j = 0;
    for (; j + N <= a.heard; j += N, h -= N) {
#pragma GCC unroll 8
      for (int q = 0; q < N; ++q) {
        const Vec<T> in = x[j + q];
#pragma GCC unroll 8
        for (int p = 0; p < N; ++p) sum[p] += in * h[p - q];
      }
    }
    for (; j < a.heard; ++j, --h)
#pragma GCC unroll 8
      for (int p = 0; p < N; ++p) sum[p] += x[j] * h[p];
#pragma GCC unroll 8
    for (int p = 0; p < N; ++p) store<T, T>(out(b, i + p), sum[p], live);
  }
};

template <class T> Status run_tile(const DirectTileArgs& a) {
  constexpr int W = Lanes<T>::count;
  const int64_t items = (a.width + W - 1) / W;
  const bool small = a.batch * a.width * a.heard * a.due < kProductsWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(Column<T>::room(a));
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item)
      if (scratch.data) Column<T>(a, item, scratch.data).run();
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

template <class T, class S> Status run_step(const DirectStepArgs& a) {
  Step<T, S>{a}.run();
  return Status::done;
}

}  // namespace

Status direct_step(const DirectStepArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run_step<double, double>(a);
    case Dtype::bf16: return run_step<float, bf16>(a);
    case Dtype::f16: return run_step<float, f16>(a);
    default: return run_step<float, float>(a);
  }
}
Status direct_tile(const DirectTileArgs& a) {
  return a.dtype == Dtype::f64 ? run_tile<double>(a) : run_tile<float>(a);
}

}  // namespace seqconv::SEQCONV_ISA
