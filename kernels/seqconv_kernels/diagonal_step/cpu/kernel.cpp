// One decoding step of diagonal state spaces, in place; x (modes) of each channel, real or complex:
//
//   x += offsets x + e      y = Re(sum_n residues_n x_n) + sum_s head[s] u_{t-s} + skip u_t
//
// with e the oldest of the last `head_len` inputs, or u_t itself where there is no head: exact taps serve the first
// lags and the modes all later ones. `offsets` is pole - 1, so that slow modes keep their small decay in float32.
//
// Layout: the modes of a channel are neighbours in memory and are the lanes; complex numbers are (re, im) pairs of
// lanes: x offsets = x (re, re) + swap(x) (-im, im), and Re(r x) is the sum over lanes of r x with the odd lanes
// negated. An item is W channels of one row of the batch, so that their W sums over lanes are reduced together by one
// tree. States are read and written once, which at `modes` numbers per channel is nearly all the memory traffic of a
// step.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kNumbersWorthThreads = 1 << 17;

// A vector of N <= W lanes.
template <class T, int N> struct Part {
  typedef T vec __attribute__((vector_size(N * sizeof(T))));
};
template <class T, int N> SEQCONV_INLINE typename Part<T, N>::vec alternating(T even, T odd) {
  typename Part<T, N>::vec v;
  for (int i = 0; i < N; ++i) v[i] = i % 2 ? odd : even;
  return v;
}

template <class T, class S, bool Complex> struct Step {
  static constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  const DiagonalStepArgs& a;
  const int64_t row;  // numbers per channel

  explicit Step(const DiagonalStepArgs& args) : a(args), row(args.modes * (Complex ? 2 : 1)) {}

  // N numbers of a channel's state advance by one step with the input `entering`; returns their products with the
  // residues, whose sum over lanes is their share of the output.
  template <int N>
  SEQCONV_INLINE typename Part<T, N>::vec advance(T* x, const T* offsets, const T* residues, T entering) const {
    using V = typename Part<T, N>::vec;
    V before, offset, residue;
    __builtin_memcpy(&before, x, sizeof(V));
    __builtin_memcpy(&offset, offsets, sizeof(V));
    __builtin_memcpy(&residue, residues, sizeof(V));
    V after;
    if constexpr (Complex)
      after = before + entering * alternating<T, N>(1, 0) + before * pair_first(offset) +
              pair_swap(before) * (pair_second(offset) * alternating<T, N>(-1, 1));
    else
      after = before + entering + before * offset;
    __builtin_memcpy(x, &after, sizeof(V));
    if constexpr (Complex) return after * residue * alternating<T, N>(1, -1);
    else return after * residue;
  }
  // One channel: whole vectors into `sums`, and what is left of the row through vectors of W/2, W/4, ... lanes into
  // left[N ...]. A masked copy on the stack would be written in parts and read as a whole, which defeats the
  // processor's forwarding of stores to loads.
  SEQCONV_INLINE void channel(T* x, int64_t c, T entering, T* sums, T* left) const {
    const T *offset = (const T*)a.offsets + c * row, *residue = (const T*)a.residues + c * row;
    Vec<T> sum{};
    int64_t j = 0;
    for (; j + W <= row; j += W) sum += advance<W>(x + j, offset + j, residue + j, entering);
    M::store(sums, sum);
    remainder<W / 2>(x, offset, residue, entering, j, left);
  }
  template <int N>
  SEQCONV_INLINE void remainder(T* x, const T* offset, const T* residue, T entering, int64_t j, T* left) const {
    if constexpr (N >= (Complex ? 2 : 1)) {
      if (row & N) {
        const auto sum = advance<N>(x + j, offset + j, residue + j, entering);
        __builtin_memcpy(left + N, &sum, sizeof sum);
        j += N;
      }
      remainder<N / 2>(x, offset, residue, entering, j, left);
    }
  }

  SEQCONV_INLINE Vec<T> taps(int64_t lag, int64_t channel, int live) const {
    const T* p = (const T*)a.head + lag * a.head_lag + channel * a.head_channel;
    if (a.head_channel == 1) return load<T, T>(p, live);
    Vec<T> v{};
    for (int i = 0; i < live; ++i) v[i] = p[i * a.head_channel];
    return v;
  }
  // The sum over the head of exact taps; the inputs kept for it shift by one in the same pass, oldest first.
  Vec<T> direct(int64_t b, int64_t channel, int live, Vec<T> u) const {
    T* past = (T*)a.past + b * a.head_len * a.channels + channel;
    Vec<T> sum = u * taps(0, channel, live);
    for (int64_t i = 0; i < a.head_len; ++i) {
      T* place = past + i * a.channels;
      const Vec<T> next = i + 1 < a.head_len ? load<T, T>(place + a.channels, live) : u;
      if (i + 1 < a.head_len) sum += next * taps(a.head_len - 1 - i, channel, live);
      store<T, T>(place, next, live);
    }
    return sum;
  }

  // W channels of row b of the batch.
  void channels(int64_t b, int64_t first) const {
    const int live = int(min(W, a.channels - first));
    const Vec<T> u = load<T, S>((const S*)a.u + b * a.u_stride + first, live);
    Vec<T> entering = u, y{};
    if (a.head_len > 0) {
      entering = load<T, T>((const T*)a.past + b * a.head_len * a.channels + first, live);
      y = direct(b, first, live, u);
    }
    if (a.skip) y += u * load<T, T>((const T*)a.skip + first, live);
    alignas(64) T in[W], sums[W], rows[W * W], left[W * W] = {};
    M::store(in, entering);
    T* x = (T*)a.hidden + (b * a.channels + first) * row;
    for (int i = 0; i < live; ++i) channel(x + i * row, first + i, in[i], rows + i * W, left + i * W);
    for (int i = 0; i < W; ++i)
      M::store(rows + i * W, (i < live ? M::load(rows + i * W) : Vec<T>{}) + M::load(left + i * W));
    lane_sums<T>(rows, W, sums);
    store<T, S>((S*)a.y + b * a.channels + first, y + M::load(sums), live);
  }
};

template <class T, class S, bool Complex> void run(const DiagonalStepArgs& a) {
  constexpr int W = Lanes<T>::count;
  const Step<T, S, Complex> step(a);
  const int64_t blocks = ceil_div(a.channels, W), items = a.batch * blocks;
  const int64_t numbers = a.batch * a.channels * (a.modes + a.head_len);
  for_each_item(items, thread_count(a.threads, items, numbers, kNumbersWorthThreads),
                [&](int64_t item) { step.channels(item / blocks, item % blocks * W); });
}

}  // namespace

Status diagonal_step(const DiagonalStepArgs& a) {
  dispatch(a.dtype, [&](auto acc, auto storage) {
    using T = decltype(acc);
    using S = decltype(storage);
    if (a.complex) run<T, S, true>(a);
    else run<T, S, false>(a);
  });
  return Status::done;
}

}  // namespace seqconv::SEQCONV_ISA
