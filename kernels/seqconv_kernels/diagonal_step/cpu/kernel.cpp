// One step of diagonal state spaces, in place: modes in the lanes, W channels at a time.
//
//   x += offsets x + e      y = Re(sum residues x) + sum_s head[s] u_{t-s} + skip u_t
//
// with e the oldest of the last `reach` inputs, or u_t itself where there is no head. A complex row is read as pairs:
// x offsets = x (re, re) + swapped x (-im, im), and Re(r x) is the sum over the lanes of r x with the odd ones negated.
#include "kernel.hpp"

#include "../../_cpp/vec.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kNumbersWorthThreads = 1 << 17;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class T, int N> struct Part {
  typedef T vec __attribute__((vector_size(N * sizeof(T))));
};
// Of every pair of neighbouring lanes: the first one twice, the second one twice, both exchanged.
template <int N, class V> SEQCONV_INLINE V firsts(V v) {
  if constexpr (N == 16) return __builtin_shufflevector(v, v, 0, 0, 2, 2, 4, 4, 6, 6, 8, 8, 10, 10, 12, 12, 14, 14);
  else if constexpr (N == 8) return __builtin_shufflevector(v, v, 0, 0, 2, 2, 4, 4, 6, 6);
  else if constexpr (N == 4) return __builtin_shufflevector(v, v, 0, 0, 2, 2);
  else return __builtin_shufflevector(v, v, 0, 0);
}
template <int N, class V> SEQCONV_INLINE V seconds(V v) {
  if constexpr (N == 16) return __builtin_shufflevector(v, v, 1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15);
  else if constexpr (N == 8) return __builtin_shufflevector(v, v, 1, 1, 3, 3, 5, 5, 7, 7);
  else if constexpr (N == 4) return __builtin_shufflevector(v, v, 1, 1, 3, 3);
  else return __builtin_shufflevector(v, v, 1, 1);
}
template <int N, class V> SEQCONV_INLINE V exchanged(V v) {
  if constexpr (N == 16) return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
  else if constexpr (N == 8) return __builtin_shufflevector(v, v, 1, 0, 3, 2, 5, 4, 7, 6);
  else if constexpr (N == 4) return __builtin_shufflevector(v, v, 1, 0, 3, 2);
  else return __builtin_shufflevector(v, v, 1, 0);
}
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

  // N numbers of a channel: the state moves on by `entering`; what they add to the output.
  template <int N>
  SEQCONV_INLINE typename Part<T, N>::vec advance(T* x, const T* offsets, const T* residues, T entering) const {
    using V = typename Part<T, N>::vec;
    V before, offset, residue;
    __builtin_memcpy(&before, x, sizeof(V));
    __builtin_memcpy(&offset, offsets, sizeof(V));
    __builtin_memcpy(&residue, residues, sizeof(V));
    V after;
    if constexpr (Complex)
      after = before + entering * alternating<T, N>(1, 0) + before * firsts<N>(offset) +
              exchanged<N>(before) * (seconds<N>(offset) * alternating<T, N>(-1, 1));
    else
      after = before + entering + before * offset;
    __builtin_memcpy(x, &after, sizeof(V));
    if constexpr (Complex) return after * residue * alternating<T, N>(1, -1);
    else return after * residue;
  }
  // One channel. What is left behind whole vectors goes through smaller ones: parts of a vector in memory, written
  // next to each other and read again as a whole, stall the processor. Sums of N go to `left[N ...]`.
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
  // What the exact taps add; the inputs move on by one.
  Vec<T> direct(int64_t b, int64_t channel, int live, Vec<T> u) const {
    T* past = (T*)a.past + b * a.reach * a.channels + channel;
    Vec<T> sum = u * taps(0, channel, live);
    for (int64_t i = 0; i < a.reach; ++i) {
      T* place = past + i * a.channels;
      const Vec<T> next = i + 1 < a.reach ? load<T, T>(place + a.channels, live) : u;
      if (i + 1 < a.reach) sum += next * taps(a.reach - 1 - i, channel, live);
      store<T, T>(place, next, live);
    }
    return sum;
  }

  void channels(int64_t b, int64_t first) const {
    const int live = int(smaller(W, a.channels - first));
    const Vec<T> u = load<T, S>((const S*)a.u + b * a.u_stride + first, live);
    Vec<T> entering = u, y{};
    if (a.reach > 0) {
      entering = load<T, T>((const T*)a.past + b * a.reach * a.channels + first, live);
      y = direct(b, first, live, u);
    }
    if (a.skip) y += u * load<T, T>((const T*)a.skip + first, live);
    alignas(64) T in[W], sums[W], rows[W * W], left[W * W] = {};
    M::store(in, entering);
    T* x = (T*)a.hidden + (b * a.channels + first) * row;
    for (int i = 0; i < live; ++i) channel(x + i * row, first + i, in[i], rows + i * W, left + i * W);
    for (int i = 0; i < W; ++i) M::store(rows + i * W, (i < live ? M::load(rows + i * W) : Vec<T>{}) + M::load(left + i * W));
    lane_sums<T>(rows, W, sums);
    store<T, S>((S*)a.y + b * a.channels + first, y + M::load(sums), live);
  }
};

template <class T, class S, bool Complex> Status run(const DiagonalStepArgs& a) {
  constexpr int W = Lanes<T>::count;
  const Step<T, S, Complex> step(a);
  const int64_t blocks = (a.channels + W - 1) / W, items = a.batch * blocks;
  const bool small = a.batch * a.channels * (a.modes + a.reach) < kNumbersWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int64_t item = 0; item < items; ++item) step.channels(item / blocks, item % blocks * W);
  return Status::done;
}

template <class T, class S> Status run_any(const DiagonalStepArgs& a) {
  return a.complex ? run<T, S, true>(a) : run<T, S, false>(a);
}

}  // namespace

Status diagonal_step(const DiagonalStepArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run_any<double, double>(a);
    case Dtype::bf16: return run_any<float, bf16>(a);
    case Dtype::f16: return run_any<float, f16>(a);
    default: return run_any<float, float>(a);
  }
}

}  // namespace seqconv::SEQCONV_ISA
