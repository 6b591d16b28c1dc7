// Short causal convolution: channels in the lanes, channel-last inputs read in place.
//
// Time runs in chunks of a few rows, and within a chunk the blocks of W channels of a tile take turns, so that memory is
// read and written along its rows. In the backward the gradients at the last width - 1 sums are kept per block: the
// gradient of an input is written when all sums that it entered are known.
#include "kernel.hpp"

#include "../../_cpp/parts.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kSteps = 4, kAhead = 4;
constexpr int64_t kMaxTile = 512;  // channels; halved where there would be too little to share out
constexpr int64_t kInputsWorthThreads = 1 << 16;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// A tile of neighbouring channels of one row of the batch.
template <class T, class S> struct Tile {
  static constexpr int W = Lanes<T>::count;
  const ConvArgs& a;
  const int64_t row, first, blocks, reach;
  struct Kept {  // by one block, from chunk to chunk
    Vec<T>*weight, *dweight, *sums;
  };
  Vec<T>*kept, *bias, *dbias, *window, *sums;

  Tile(const ConvArgs& args, int64_t row_, int64_t first_, int64_t width, void* scratch)
      : a(args), row(row_), first(first_), blocks((smaller(width, args.channels - first_) + W - 1) / W),
        reach(args.width - 1) {
    kept = (Vec<T>*)scratch;
    bias = kept + kMaxTile / W * kept_per_block(a);
    dbias = bias + kMaxTile / W;
    window = dbias + kMaxTile / W;
    sums = window + reach + kSteps;
    for (int64_t b = 0; b < blocks; ++b) {
      bias[b] = a.bias ? get(a.bias, 0, b) : Vec<T>{};
      for (int64_t k = 0; k < a.width; ++k) of(b).weight[k] = tap(k, b);
    }
  }
  static int64_t kept_per_block(const ConvArgs& a) { return 3 * a.width - 1; }
  static size_t scratch_bytes(const ConvArgs& a) {
    return sizeof(Vec<T>) * (kMaxTile / W * (kept_per_block(a) + 2) + 2 * (a.width - 1 + kSteps));
  }

  Kept of(int64_t b) const {
    Vec<T>* p = kept + b * kept_per_block(a);
    return {p, p + a.width, p + 2 * a.width};
  }
  int64_t channel(int64_t b) const { return first + b * W; }
  int live(int64_t b) const { return int(smaller(W, a.channels - channel(b))); }
  Vec<T> get(const void* matrix, int64_t r, int64_t b) const {
    return load<T, T>((const T*)matrix + r * a.channels + channel(b), live(b));
  }
  void put(void* matrix, int64_t r, int64_t b, Vec<T> v) const {
    store<T, T>((T*)matrix + r * a.channels + channel(b), v, live(b));
  }
  // Tap k of a block's channels, from and to rows of all taps of a channel.
  Vec<T> tap(int64_t k, int64_t b) const {
    const T* from = (const T*)a.weight + channel(b) * a.width + k;
    Vec<T> taps{};
    for (int i = 0; i < live(b); ++i) taps[i] = from[i * a.width];
    return taps;
  }
  void put_tap_gradient(int64_t k, int64_t b, Vec<T> dtaps) const {
    T* to = (T*)a.dweight + (row * a.channels + channel(b)) * a.width + k;
    for (int i = 0; i < live(b); ++i) to[i * a.width] = dtaps[i];
  }
  const S* at(const Rows& x, int64_t t, int64_t b) const {
    return (const S*)x.data + row * x.batch + t * x.time + channel(b);
  }
  SEQCONV_INLINE void write(void* to, int64_t t, int64_t b, Vec<T> v) const {
    store<T, S>((S*)to + (row * a.length + t) * a.channels + channel(b), v, live(b));
  }
  int64_t segments() const { return a.bounds ? a.segments : 1; }
  int64_t segment_index(int64_t s) const { return a.bounds ? s : row; }
  int64_t begin(int64_t s) const { return a.bounds ? a.bounds[s] : 0; }
  int64_t end(int64_t s) const { return a.bounds ? a.bounds[s + 1] : a.length; }

  // The input at time t, before the segment that of its initial state.
  Vec<T> input(int64_t s, int64_t t, int64_t b) const {
    if (t >= begin(s)) return load<T, S>(at(a.x, t, b), live(b));
    return a.initial ? get(a.initial, segment_index(s) * reach + (t - begin(s) + reach), b) : Vec<T>{};
  }

  // Where the rows of a chunk begin, and how far the next ones are.
  struct Place {
    const S *x, *dy;  // x at the first row that the chunk hears
    S* out;
    int64_t x_step, dy_step, out_step;
  };
  SEQCONV_INLINE S* dense(void* to, int64_t t) const { return (S*)to + (row * a.length + t) * a.channels + first; }

  // The hardware does not look ahead over the gaps between the rows of a tile. Asking beyond the last row does nothing.
  static SEQCONV_INLINE void look_ahead(const S* p, int64_t step) {
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) __builtin_prefetch(p + i * step);
  }

  // A block of a chunk of kSteps rows deep inside a segment, where the compiler knows all counts and the window is
  // registers.
  template <int K, bool Silu> SEQCONV_INLINE void forward_inner(const Place& at, int64_t b) const {
    const Vec<T>* weight = of(b).weight;
    const S* from = at.x + b * W;
    S* to = at.out + b * W;
    look_ahead(from + (K - 1 + kAhead) * at.x_step, at.x_step);
    Vec<T> x[K - 1 + kSteps], y[kSteps];
#pragma GCC unroll 8
    for (int i = 0; i < K - 1 + kSteps; ++i) x[i] = Memory<T, S>::load(from + i * at.x_step);
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) y[i] = bias[b];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k)
#pragma GCC unroll 4
      for (int i = 0; i < kSteps; ++i) y[i] += weight[k] * x[i + k];
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) Memory<T, S>::store(to + i * at.out_step, Silu ? silu<T>(y[i]) : y[i]);
  }
  void forward_any(int64_t s, int64_t t, int steps, int64_t b) const {
    const Vec<T>* weight = of(b).weight;
    for (int64_t i = 0; i < reach + steps; ++i) window[i] = input(s, t - reach + i, b);
    for (int i = 0; i < steps; ++i) {
      Vec<T> y = bias[b];
      for (int64_t k = 0; k < a.width; ++k) y += weight[k] * window[i + k];
      write(a.y, t + i, b, a.silu ? silu<T>(y) : y);
    }
  }
  // Whole blocks of a chunk that need no care.
  template <int K> int64_t inner_blocks(int64_t s, int64_t t, int steps) const {
    return K > 0 && steps == kSteps && t - reach >= begin(s) ? blocks - (live(blocks - 1) < W) : 0;
  }
  template <int K, bool Silu> void forward() const {
    for (int64_t s = 0; s < segments(); ++s)
      for (int64_t t = begin(s); t < end(s); t += kSteps) {
        const int steps = int(smaller(kSteps, end(s) - t));
        const int64_t inner = inner_blocks<K>(s, t, steps);
        const Place place{at(a.x, t - reach, 0), nullptr, dense(a.y, t), a.x.time, 0, a.channels};
        for (int64_t b = 0; b < inner; ++b) forward_inner<K ? K : 1, Silu>(place, b);
        for (int64_t b = inner; b < blocks; ++b) forward_any(s, t, steps, b);
      }
  }

  template <int K, bool Silu> void backward() {
    for (int64_t b = 0; b < blocks; ++b) {
      dbias[b] = Vec<T>{};
      for (int64_t k = 0; k < a.width; ++k) of(b).dweight[k] = Vec<T>{};
    }
    for (int64_t s = 0; s < segments(); ++s) {
      for (int64_t b = 0; b < blocks; ++b)
        for (int64_t i = 0; i < reach; ++i) of(b).sums[i] = Vec<T>{};
      for (int64_t t = begin(s); t < end(s); t += kSteps) {
        const int steps = int(smaller(kSteps, end(s) - t));
        const int64_t inner = inner_blocks<K>(s, t, steps);
        const Place place{at(a.x, t - reach, 0), at(a.dy, t, 0), dense(a.dx, t - reach),
                          a.x.time, a.dy.time, a.channels};
        for (int64_t b = 0; b < inner; ++b) backward_inner<K ? K : 1, Silu>(place, b);
        for (int64_t b = inner; b < blocks; ++b) backward_any(s, t, steps, b);
      }
      for (int64_t i = 0; i < reach; i += kSteps)  // the last inputs would have entered sums that do not exist
        for (int64_t b = 0; b < blocks; ++b) {
          const int steps = int(smaller(kSteps, reach - i));
          for (int64_t j = 0; j < reach; ++j) sums[j] = of(b).sums[j];
          for (int j = 0; j < steps; ++j) sums[reach + j] = Vec<T>{};
          emit(s, end(s) + i, steps, b);
        }
    }
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t k = 0; k < a.width; ++k) put_tap_gradient(k, b, of(b).dweight[k]);
      put(a.dbias, row, b, dbias[b]);
    }
  }
  // The gradient at the sum, from that at the output and the sum itself.
  SEQCONV_INLINE Vec<T> through_activation(Vec<T> g, Vec<T> y) const {
    const Vec<T> gate = sigmoid<T>(y);
    return g * gate * (T(1) + y * (T(1) - gate));
  }
  template <int K, bool Silu> SEQCONV_INLINE void backward_inner(const Place& at, int64_t b) const {
    const Kept own = of(b);
    const S *from = at.x + b * W, *dy = at.dy + b * W;
    S* to = at.out + b * W;
    look_ahead(from + (K - 1 + kAhead) * at.x_step, at.x_step);
    look_ahead(dy + kAhead * at.dy_step, at.dy_step);
    Vec<T> x[K - 1 + kSteps], g[K - 1 + kSteps];
#pragma GCC unroll 8
    for (int i = 0; i < K - 1 + kSteps; ++i) x[i] = Memory<T, S>::load(from + i * at.x_step);
#pragma GCC unroll 8
    for (int i = 0; i < K - 1; ++i) g[i] = own.sums[i];
    Vec<T> through{};
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) {
      Vec<T> ds = Memory<T, S>::load(dy + i * at.dy_step);
      if (Silu) {
        Vec<T> y = bias[b];
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) y += own.weight[k] * x[i + k];
        ds = through_activation(ds, y);
      }
      g[K - 1 + i] = ds;
      through += ds;
    }
    dbias[b] += through;
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) {
      Vec<T> sum = own.dweight[k];
#pragma GCC unroll 4
      for (int i = 0; i < kSteps; ++i) sum += g[K - 1 + i] * x[i + k];
      own.dweight[k] = sum;
    }
#pragma GCC unroll 4
    for (int i = 0; i < kSteps; ++i) {
      Vec<T> dx{};
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) dx += own.weight[k] * g[i + K - 1 - k];
      Memory<T, S>::store(to + i * at.out_step, dx);
    }
#pragma GCC unroll 8
    for (int i = 0; i < K - 1; ++i) own.sums[i] = g[kSteps + i];
  }
  void backward_any(int64_t s, int64_t t, int steps, int64_t b) const {
    const Kept own = of(b);
    for (int64_t i = 0; i < reach + steps; ++i) window[i] = input(s, t - reach + i, b);
    for (int64_t i = 0; i < reach; ++i) sums[i] = own.sums[i];
    for (int i = 0; i < steps; ++i) {
      Vec<T> dy = load<T, S>(at(a.dy, t + i, b), live(b));
      if (a.silu) {
        Vec<T> y = bias[b];
        for (int64_t k = 0; k < a.width; ++k) y += own.weight[k] * window[i + k];
        dy = through_activation(dy, y);
      }
      sums[reach + i] = dy;
      dbias[b] += dy;
    }
    for (int64_t k = 0; k < a.width; ++k)
      for (int i = 0; i < steps; ++i) own.dweight[k] += sums[reach + i] * window[i + k];
    emit(s, t, steps, b);
  }
  // Gradients of the inputs at t - reach and on; those before the segment belong to its initial state.
  void emit(int64_t s, int64_t t, int steps, int64_t b) const {
    const Kept own = of(b);
    for (int i = 0; i < steps; ++i) {
      Vec<T> dx{};
      for (int64_t k = 0; k < a.width; ++k) dx += own.weight[k] * sums[i + reach - k];
      const int64_t at_input = t + i - reach;
      if (at_input >= begin(s)) write(a.dx, at_input, b, dx);
      else put(a.dinitial, segment_index(s) * reach + (at_input - begin(s) + reach), b, dx);
    }
    for (int64_t i = 0; i < reach; ++i) own.sums[i] = sums[i + steps];
  }
};

template <int K, bool Backward, class Tile> SEQCONV_INLINE void run_tile(Tile& tile, bool silu) {
  if constexpr (Backward) silu ? tile.template backward<K, true>() : tile.template backward<K, false>();
  else silu ? tile.template forward<K, true>() : tile.template forward<K, false>();
}

template <class T, class S, bool Backward> Status run_tiles(const ConvArgs& a) {
  int64_t width = kMaxTile;
  while (width > 64 && a.batch * ((a.channels + width - 1) / width) < 6) width /= 2;
  const int64_t tiles = (a.channels + width - 1) / width, items = a.batch * tiles;
  const bool small = a.batch * a.length * a.channels < kInputsWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(Tile<T, S>::scratch_bytes(a));
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      Tile<T, S> tile(a, item / tiles, item % tiles * width, width, scratch.data);
      if (a.width == 4) run_tile<4, Backward>(tile, a.silu);
      else if (a.width == 3) run_tile<3, Backward>(tile, a.silu);
      else run_tile<0, Backward>(tile, a.silu);
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

template <class T, class S, bool Backward> Status run(ConvArgs a) {
  if constexpr (!Backward) return run_tiles<T, S, false>(a);
  const Parts<T> dweight(a.batch, a.width * a.channels, a.dweight), dbias(a.batch, a.channels, a.dbias);
  a.dweight = dweight.data(), a.dbias = dbias.data();
  if (!a.dweight || !a.dbias) return Status::no_memory;
  const Status status = run_tiles<T, S, true>(a);
  dweight.add(a.threads), dbias.add(a.threads);
  return status;
}

template <bool Backward> Status run_any(const ConvArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run<double, double, Backward>(a);
    case Dtype::bf16: return run<float, bf16, Backward>(a);
    case Dtype::f16: return run<float, f16, Backward>(a);
    default: return run<float, float, Backward>(a);
  }
}

}  // namespace

Status conv_forward(const ConvArgs& a) { return run_any<false>(a); }
Status conv_backward(const ConvArgs& a) { return run_any<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
