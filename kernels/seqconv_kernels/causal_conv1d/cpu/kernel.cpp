// Short causal depthwise convolution, optionally through SiLU; x, y (batch, length, channels), K = width taps:
//
//   s[t] = bias + sum_k w[k] x[t - K + 1 + k]        y[t] = silu(s[t]) or s[t]
//
// Inputs before the first one are the rows of the initial state, or zeros. The adjoint, with ds = dy silu'(s):
//
//   dx[t] = sum_k w[k] ds[t + K - 1 - k]      dw[k] = sum_t ds[t] x[t - K + 1 + k]      dbias = sum_t ds[t]
//
// and the gradient of the initial state is dx[t] for t < 0. s is recomputed from x: reading it back would cost more.
//
// Work: an item is a tile of neighbouring channels of one row of the batch (parallel.hpp); a vector holds W
// neighbouring channels, so inputs are read in place along their rows, and nothing is transposed or summed over lanes.
// A convolution of the inputs that follow (anti-causal) is one over rows at a negative distance.
// Time runs in chunks of kSteps rows, and within a chunk block after block of W channels, so that memory is read along
// its rows, and each input is loaded once per chunk and used for all K taps from registers. The backward pass keeps the
// last K - 1 values of ds per block from chunk to chunk, and writes dx[t - K + 1] in the chunk in which ds[t] becomes
// known: one pass over x and dy. dw and dbias accumulate in scratch per tile, and over the rows of the batch as partial
// sums. Bounds: without SiLU the copy of memory; with it the exponential and division, 18 cycles per vector in all with
// AVX-512, in float32 and in half precision alike.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

// Rows of a chunk: K - 1 + kSteps inputs, kSteps sums and K taps of one block fit the 16 registers of AVX2 for K = 4.
constexpr int kSteps = 4;
constexpr int kPrefetchAhead = 8;  // rows of float32, two chunks; twice as many of half precision
constexpr int64_t kInputsWorthThreads = 1 << 16;

// A tile of neighbouring channels of one row of the batch.
template <class T, class S> struct Tile {
  static constexpr int W = Lanes<T>::count;
  const ConvArgs& a;
  const int64_t row, first_channel, blocks, state_len;  // state_len = width - 1: the inputs that a state holds
  struct BlockState {  // of one block, kept from chunk to chunk
    Vec<T>*weight, *dweight, *ds;  // width taps, their gradients, the last state_len gradients of sums
  };
  Vec<T>*block_states, *bias, *dbias, *x_window, *ds_window;

  Tile(const ConvArgs& args, int64_t row_, int64_t first, int64_t tile_width, void* scratch)
      : a(args), row(row_), first_channel(first), blocks(ceil_div(min(tile_width, args.channels - first), W)),
        state_len(args.width - 1) {
    block_states = (Vec<T>*)scratch;
    bias = block_states + kWidestTile / W * vectors_per_block(a);
    dbias = bias + kWidestTile / W;
    x_window = dbias + kWidestTile / W;
    ds_window = x_window + state_len + kSteps;
    for (int64_t b = 0; b < blocks; ++b) {
      bias[b] = a.bias ? load_row(a.bias, 0, b) : Vec<T>{};
      for (int64_t k = 0; k < a.width; ++k) block_state(b).weight[k] = load_tap(k, b);
    }
  }
  static int64_t vectors_per_block(const ConvArgs& a) { return 3 * a.width - 1; }
  static size_t scratch_bytes(const ConvArgs& a) {
    return sizeof(Vec<T>) * (kWidestTile / W * (vectors_per_block(a) + 2) + 2 * (a.width - 1 + kSteps));
  }

  BlockState block_state(int64_t b) const {
    Vec<T>* p = block_states + b * vectors_per_block(a);
    return {p, p + a.width, p + 2 * a.width};
  }
  int64_t channel(int64_t b) const { return first_channel + b * W; }
  int live(int64_t b) const { return int(min(W, a.channels - channel(b))); }
  // A block's channels of row r of a dense matrix (rows, channels) in the dtype of the sums.
  Vec<T> load_row(const void* matrix, int64_t r, int64_t b) const {
    return load<T, T>((const T*)matrix + r * a.channels + channel(b), live(b));
  }
  void store_row(void* matrix, int64_t r, int64_t b, Vec<T> v) const {
    store<T, T>((T*)matrix + r * a.channels + channel(b), v, live(b));
  }
  // Tap k of a block's channels, from and to (channels, width): a strided access, once per tile.
  Vec<T> load_tap(int64_t k, int64_t b) const {
    const T* from = (const T*)a.weight + channel(b) * a.width + k;
    Vec<T> taps{};
    for (int i = 0; i < live(b); ++i) taps[i] = from[i * a.width];
    return taps;
  }
  void store_dtap(int64_t k, int64_t b, Vec<T> dtaps) const {
    T* to = (T*)a.dweight + (row * a.channels + channel(b)) * a.width + k;
    for (int i = 0; i < live(b); ++i) to[i * a.width] = dtaps[i];
  }
  const S* at(const Rows& x, int64_t t, int64_t b) const {
    return (const S*)x.data + row * x.batch + t * x.time + channel(b);
  }
  SEQCONV_INLINE S* to(const Rows& y, int64_t t, int64_t b) const { return (S*)at(y, t, b); }

  // The input at time t of sequence s; before its begin that of the initial state, whose last row is t = begin - 1.
  Vec<T> input(int64_t s, int64_t t, int64_t b) const {
    const int64_t begin = a.segments.begin(s);
    if (t >= begin) return load<T, S>(at(a.x, t, b), live(b));
    return a.initial ? load_row(a.initial, s * state_len + (t - begin + state_len), b) : Vec<T>{};
  }

  // Where a chunk's rows are, of the tile's first block, and the distance from row to row.
  struct Place {
    const S *x, *dy;  // x at the first row that the chunk depends on, state_len before its own
    S* out;
    int64_t x_step, dy_step, out_step;
  };
  // Prefetches the rows of a later chunk, once per cache line, to the second-level cache: rows at a distance of a power
  // of two share a few sets of the first one. Beyond the last row that does no harm.
  static constexpr int64_t kAhead = kPrefetchAhead * int(sizeof(T) / sizeof(S));
  static SEQCONV_INLINE void prefetch_chunk(const S* p, int64_t step, int64_t b) {
    if (b % kLineVectors<T, S> != 0) return;
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) prefetch_to_l2(p + (kAhead + i) * step);
  }

  // y of one block over a chunk of kSteps rows, all whose inputs are in x: K is a constant, so the window of
  // K - 1 + kSteps inputs is in registers and the kSteps sums are independent chains of multiply-adds.
  template <int K, bool Silu, bool Stream> SEQCONV_INLINE void forward_inner(const Place& at, int64_t b) const {
    const Vec<T>* weight = block_state(b).weight;
    const S* from = at.x + b * W;
    S* to = at.out + b * W;
    prefetch_chunk(from + (K - 1) * at.x_step, at.x_step, b);
    Vec<T> x[K - 1 + kSteps], sum[kSteps];
#pragma GCC unroll 16
    for (int i = 0; i < K - 1 + kSteps; ++i) x[i] = Memory<T, S>::load(from + i * at.x_step);
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) sum[i] = bias[b];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k)
#pragma GCC unroll 8
      for (int i = 0; i < kSteps; ++i) sum[i] += weight[k] * x[i + k];
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) {
      const Vec<T> y = Silu ? silu<T>(sum[i]) : sum[i];
      if constexpr (Stream) store_past_cache<T, S>(to + i * at.out_step, y);
      else Memory<T, S>::store(to + i * at.out_step, y);
    }
  }
  // The same for any width, for chunks at a sequence's begin or end, and for blocks with fewer than W channels.
  void forward_edge(int64_t s, int64_t t, int steps, int64_t b) const {
    const Vec<T>* weight = block_state(b).weight;
    for (int64_t i = 0; i < state_len + steps; ++i) x_window[i] = input(s, t - state_len + i, b);
    for (int i = 0; i < steps; ++i) {
      Vec<T> sum = bias[b];
      for (int64_t k = 0; k < a.width; ++k) sum += weight[k] * x_window[i + k];
      store<T, S>(to(a.y, t + i, b), a.silu ? silu<T>(sum) : sum, live(b));
    }
  }
  // How many blocks of a chunk the inner code serves: none at the edges of a sequence, and none for width K = 0 (any).
  template <int K> int64_t inner_blocks(int64_t s, int64_t t, int steps) const {
    const bool inside = K > 0 && steps == kSteps && t - state_len >= a.segments.begin(s);
    return inside ? blocks - (live(blocks - 1) < W) : 0;
  }
  template <int K, bool Silu, bool Stream> void forward() const {
    for (int64_t s = a.segments.first_of(row); s < a.segments.last_of(row); ++s)
      for (int64_t t = a.segments.begin(s), end = a.segments.end(s); t < end; t += kSteps) {
        const int steps = int(min(kSteps, end - t));
        const int64_t inner = inner_blocks<K>(s, t, steps);
        const Place place{at(a.x, t - state_len, 0), nullptr, to(a.y, t, 0), a.x.time, 0, a.y.time};
        for (int64_t b = 0; b < inner; ++b) forward_inner<K ? K : 1, Silu, Stream>(place, b);
        for (int64_t b = inner; b < blocks; ++b) forward_edge(s, t, steps, b);
      }
    if (Stream) stream_fence();
  }

  template <int K, bool Silu> void backward() {
    for (int64_t b = 0; b < blocks; ++b) {
      dbias[b] = Vec<T>{};
      for (int64_t k = 0; k < a.width; ++k) block_state(b).dweight[k] = Vec<T>{};
    }
    for (int64_t s = a.segments.first_of(row); s < a.segments.last_of(row); ++s) {
      const int64_t end = a.segments.end(s);
      for (int64_t b = 0; b < blocks; ++b)
        for (int64_t i = 0; i < state_len; ++i) block_state(b).ds[i] = Vec<T>{};
      for (int64_t t = a.segments.begin(s); t < end; t += kSteps) {
        const int steps = int(min(kSteps, end - t));
        const int64_t inner = inner_blocks<K>(s, t, steps);
        const Place place{at(a.x, t - state_len, 0), at(a.dy, t, 0), to(a.dx, t - state_len, 0),
                          a.x.time, a.dy.time, a.dx.time};
        for (int64_t b = 0; b < inner; ++b) backward_inner<K ? K : 1, Silu>(place, b);
        for (int64_t b = inner; b < blocks; ++b) backward_edge(s, t, steps, b);
      }
      flush_dx(s, end);
    }
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t k = 0; k < a.width; ++k) store_dtap(k, b, block_state(b).dweight[k]);
      store_row(a.dbias, row, b, dbias[b]);
    }
  }
  // The last state_len inputs of a sequence: the sums after its end do not exist, their ds is zero.
  void flush_dx(int64_t s, int64_t end) const {
    for (int64_t i = 0; i < state_len; i += kSteps)
      for (int64_t b = 0; b < blocks; ++b) {
        const int steps = int(min(kSteps, state_len - i));
        for (int64_t j = 0; j < state_len; ++j) ds_window[j] = block_state(b).ds[j];
        for (int j = 0; j < steps; ++j) ds_window[state_len + j] = Vec<T>{};
        write_dx(s, end + i, steps, b);
      }
  }
  // One block over a chunk of kSteps rows from t on: ds of these rows, their part of dw and dbias, dx from t - K + 1
  // on.
  template <int K, bool Silu> SEQCONV_INLINE void backward_inner(const Place& at, int64_t b) const {
    const BlockState own = block_state(b);
    const S *from = at.x + b * W, *dy = at.dy + b * W;
    S* to = at.out + b * W;
    prefetch_chunk(from + (K - 1) * at.x_step, at.x_step, b);
    prefetch_chunk(dy, at.dy_step, b);
    Vec<T> x[K - 1 + kSteps], ds[K - 1 + kSteps];  // ds from t - K + 1 on, the first K - 1 from the last chunk
#pragma GCC unroll 16
    for (int i = 0; i < K - 1 + kSteps; ++i) x[i] = Memory<T, S>::load(from + i * at.x_step);
#pragma GCC unroll 8
    for (int i = 0; i < K - 1; ++i) ds[i] = own.ds[i];
    Vec<T> ds_total{};
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) {
      Vec<T> grad = Memory<T, S>::load(dy + i * at.dy_step);
      if (Silu) {
        Vec<T> sum = bias[b];
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) sum += own.weight[k] * x[i + k];
        grad = silu_backward<T>(grad, sum);
      }
      ds[K - 1 + i] = grad;
      ds_total += grad;
    }
    dbias[b] += ds_total;
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) {
      Vec<T> dtap = own.dweight[k];
#pragma GCC unroll 8
      for (int i = 0; i < kSteps; ++i) dtap += ds[K - 1 + i] * x[i + k];
      own.dweight[k] = dtap;
    }
#pragma GCC unroll 8
    for (int i = 0; i < kSteps; ++i) {
      Vec<T> dx{};
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) dx += own.weight[k] * ds[i + K - 1 - k];
      Memory<T, S>::store(to + i * at.out_step, dx);
    }
#pragma GCC unroll 8
    for (int i = 0; i < K - 1; ++i) own.ds[i] = ds[kSteps + i];
  }
  void backward_edge(int64_t s, int64_t t, int steps, int64_t b) const {
    const BlockState own = block_state(b);
    for (int64_t i = 0; i < state_len + steps; ++i) x_window[i] = input(s, t - state_len + i, b);
    for (int64_t i = 0; i < state_len; ++i) ds_window[i] = own.ds[i];
    for (int i = 0; i < steps; ++i) {
      Vec<T> ds = load<T, S>(at(a.dy, t + i, b), live(b));
      if (a.silu) {
        Vec<T> sum = bias[b];
        for (int64_t k = 0; k < a.width; ++k) sum += own.weight[k] * x_window[i + k];
        ds = silu_backward<T>(ds, sum);
      }
      ds_window[state_len + i] = ds;
      dbias[b] += ds;
    }
    for (int64_t k = 0; k < a.width; ++k)
      for (int i = 0; i < steps; ++i) own.dweight[k] += ds_window[state_len + i] * x_window[i + k];
    write_dx(s, t, steps, b);
  }
  // dx of the inputs at t - state_len and on, from ds in the window; those before the sequence belong to its initial
  // state. The window's last state_len values are kept for the next chunk.
  void write_dx(int64_t s, int64_t t, int steps, int64_t b) const {
    const BlockState own = block_state(b);
    const int64_t begin = a.segments.begin(s);
    for (int i = 0; i < steps; ++i) {
      Vec<T> dx{};
      for (int64_t k = 0; k < a.width; ++k) dx += own.weight[k] * ds_window[i + state_len - k];
      const int64_t time = t + i - state_len;
      if (time >= begin) store<T, S>(to(a.dx, time, b), dx, live(b));
      else store_row(a.dinitial, s * state_len + (time - begin + state_len), b, dx);
    }
    for (int64_t i = 0; i < state_len; ++i) own.ds[i] = ds_window[i + steps];
  }

  // Whether y is written past the cache.
  bool streams() const {
    const bool aligned = a.y.time % W == 0 && a.y.batch % W == 0;  // so that every row is, if the first one is
    return aligned && beyond_cache<T, S>(a.y.data, a.batch * a.length, a.channels);
  }
  // The usual widths as constants.
  template <bool Backward> void run() {
    if (a.width == 4) run_width<4, Backward>();
    else if (a.width == 3) run_width<3, Backward>();
    else run_width<0, Backward>();
  }
  template <int K, bool Backward> SEQCONV_INLINE void run_width() {
    if constexpr (Backward) a.silu ? backward<K, true>() : backward<K, false>();
    else if (streams()) a.silu ? forward<K, true, true>() : forward<K, false, true>();
    else a.silu ? forward<K, true, false>() : forward<K, false, false>();
  }
};

template <class T, class S, bool Backward> Status run_tiles(const ConvArgs& a) {
  const int64_t width = tile_channels(a.channels, a.batch, a.threads);
  const int64_t tiles = ceil_div(a.channels, width), items = a.batch * tiles;
  const int threads = thread_count(a.threads, items, a.batch * a.length * a.channels, kInputsWorthThreads);
  return for_each_item(items, threads, Tile<T, S>::scratch_bytes(a), [&](int64_t item, void* scratch) {
    Tile<T, S>(a, item / tiles, item % tiles * width, width, scratch).template run<Backward>();
  });
}

template <class T, class S> Status run_backward(ConvArgs a) {
  const PartialSums<T> dweight(a.batch, a.width * a.channels, a.dweight), dbias(a.batch, a.channels, a.dbias);
  a.dweight = dweight.data(), a.dbias = dbias.data();
  if (!a.dweight || !a.dbias) return Status::no_memory;
  const Status status = run_tiles<T, S, true>(a);
  dweight.reduce(a.threads), dbias.reduce(a.threads);
  return status;
}

}  // namespace

Status conv_forward(const ConvArgs& a) {
  return dispatch(a.dtype,
                  [&](auto acc, auto storage) { return run_tiles<decltype(acc), decltype(storage), false>(a); });
}
Status conv_backward(const ConvArgs& a) {
  return dispatch(a.dtype, [&](auto acc, auto storage) { return run_backward<decltype(acc), decltype(storage)>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
