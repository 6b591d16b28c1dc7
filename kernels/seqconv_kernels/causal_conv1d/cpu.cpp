// Short causal convolution: channels in the lanes, channel-last inputs read in place, once.
//
// Each block of W channels goes through time in chunks. A chunk of inputs lies in a window behind the width - 1 inputs
// before it; in the backward a second window holds the gradients at the sums, and the gradient of an input is written
// width - 1 steps after it was read, when all sums that it entered are known.
#include "cpu.hpp"

#include "../native_cpp/vec.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kSteps = 64;
constexpr int64_t kTile = 128;  // channels
constexpr int64_t kInputsWorthThreads = 1 << 16;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T, class S> struct Block {
  static constexpr int W = Lanes<T>::count;
  const ConvArgs& a;
  const int64_t row, channel;
  const int live;
  const int64_t reach;
  Vec<T>*weight, *window, *sums, *dweight;

  Block(const ConvArgs& args, int64_t row_, int64_t channel_, void* scratch)
      : a(args), row(row_), channel(channel_), live(int(smaller(W, args.channels - channel_))), reach(args.width - 1) {
    weight = (Vec<T>*)scratch;
    dweight = weight + a.width;
    window = dweight + a.width;
    sums = window + reach + kSteps;
    for (int64_t k = 0; k < a.width; ++k) weight[k] = get(a.weight, k);
  }
  static size_t scratch_bytes(const ConvArgs& a) { return sizeof(Vec<T>) * (2 * a.width + 2 * (a.width - 1 + kSteps)); }

  Vec<T> get(const void* matrix, int64_t r) const {
    return load<T, T>((const T*)matrix + r * a.channels + channel, live);
  }
  void put(void* matrix, int64_t r, Vec<T> v) const { store<T, T>((T*)matrix + r * a.channels + channel, v, live); }
  Vec<T> read(const Rows& x, int64_t t) const {
    return load<T, S>((const S*)x.data + row * x.batch + t * x.time + channel, live);
  }
  void write(void* to, int64_t t, Vec<T> v) const {
    store<T, S>((S*)to + (row * a.length + t) * a.channels + channel, v, live);
  }
  int64_t segments() const { return a.bounds ? a.segments : 1; }
  int64_t segment_index(int64_t s) const { return a.bounds ? s : row; }
  int64_t begin(int64_t s) const { return a.bounds ? a.bounds[s] : 0; }
  int64_t end(int64_t s) const { return a.bounds ? a.bounds[s + 1] : a.length; }

  void enter(int64_t s) const {
    for (int64_t i = 0; i < reach; ++i)
      window[i] = a.initial ? get(a.initial, segment_index(s) * reach + i) : Vec<T>{};
  }
  void advance(Vec<T>* w, int steps) const {
    for (int64_t i = 0; i < reach; ++i) w[i] = w[i + steps];
  }

  // K taps known to the compiler, or 0: as many as there are.
  template <int K> void forward() const {
    const int64_t taps = K ? K : a.width;
    const Vec<T> bias = a.bias ? get(a.bias, 0) : Vec<T>{};
    for (int64_t s = 0; s < segments(); ++s) {
      enter(s);
      for (int64_t t = begin(s); t < end(s); t += kSteps) {
        const int steps = int(smaller(kSteps, end(s) - t));
        for (int i = 0; i < steps; ++i) window[reach + i] = read(a.x, t + i);
        for (int i = 0; i < steps; ++i) {
          Vec<T> y = bias;
#pragma GCC unroll 4
          for (int64_t k = 0; k < taps; ++k) y += weight[k] * window[i + k];
          write(a.y, t + i, a.silu ? y * sigmoid<T>(y) : y);
        }
        advance(window, steps);
      }
    }
  }

  template <int K> void backward() {
    const int64_t taps = K ? K : a.width;
    const Vec<T> bias = a.bias ? get(a.bias, 0) : Vec<T>{};
    Vec<T> dbias{};
    for (int64_t k = 0; k < taps; ++k) dweight[k] = Vec<T>{};
    for (int64_t s = 0; s < segments(); ++s) {
      enter(s);
      for (int64_t i = 0; i < reach; ++i) sums[i] = Vec<T>{};
      int64_t t = begin(s);
      for (; t < end(s); t += kSteps) {
        const int steps = int(smaller(kSteps, end(s) - t));
        for (int i = 0; i < steps; ++i) window[reach + i] = read(a.x, t + i);
        for (int i = 0; i < steps; ++i) {
          Vec<T> g = read(a.dy, t + i);
          if (a.silu) {
            Vec<T> y = bias;
#pragma GCC unroll 4
            for (int64_t k = 0; k < taps; ++k) y += weight[k] * window[i + k];
            const Vec<T> gate = sigmoid<T>(y);
            g *= gate * (T(1) + y * (T(1) - gate));
          }
          sums[reach + i] = g;
          dbias += g;
        }
        weigh<K>(steps);
        emit<K>(s, t, steps);
        advance(window, steps);
        advance(sums, steps);
      }
      for (int64_t i = 0; i < reach; i += kSteps) {  // the last inputs entered sums that do not exist
        const int steps = int(smaller(kSteps, reach - i));
        for (int j = 0; j < steps; ++j) sums[reach + j] = Vec<T>{};
        emit<K>(s, end(s) + i, steps);
        advance(sums, steps);
      }
    }
    for (int64_t k = 0; k < taps; ++k) put(a.dweight, row * a.width + k, dweight[k]);
    put(a.dbias, row, dbias);
  }
  template <int K> void weigh(int steps) const {
    const int64_t taps = K ? K : a.width;
    for (int64_t k = 0; k < taps; ++k) {
      Vec<T> even = dweight[k], odd{};
      int i = 0;
      for (; i + 1 < steps; i += 2) {
        even += sums[reach + i] * window[i + k];
        odd += sums[reach + i + 1] * window[i + 1 + k];
      }
      if (i < steps) even += sums[reach + i] * window[i + k];
      dweight[k] = even + odd;
    }
  }
  // Gradients of the inputs at t - reach and on; those before the segment belong to its initial state.
  template <int K> void emit(int64_t s, int64_t t, int steps) const {
    const int64_t taps = K ? K : a.width;
    for (int i = 0; i < steps; ++i) {
      Vec<T> dx{};
#pragma GCC unroll 4
      for (int64_t k = 0; k < taps; ++k) dx += weight[k] * sums[i + reach - k];
      const int64_t at = t + i - reach;
      if (at >= begin(s)) write(a.dx, at, dx);
      else put(a.dinitial, segment_index(s) * reach + (at - begin(s) + reach), dx);
    }
  }
};

template <class T, class S, bool Backward> Status run(const ConvArgs& a) {
  const int64_t tiles = (a.channels + kTile - 1) / kTile, items = a.batch * tiles;
  const bool small = a.batch * a.length * a.channels < kInputsWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(Block<T, S>::scratch_bytes(a));
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t row = item / tiles, first = item % tiles * kTile;
      for (int64_t c = first; scratch.data && c < smaller(first + kTile, a.channels); c += Lanes<T>::count) {
        Block<T, S> block(a, row, c, scratch.data);
        if constexpr (Backward) {
          if (a.width == 4) block.template backward<4>();
          else if (a.width == 3) block.template backward<3>();
          else block.template backward<0>();
        } else {
          if (a.width == 4) block.template forward<4>();
          else if (a.width == 3) block.template forward<3>();
          else block.template forward<0>();
        }
      }
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
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
