// Dilated causal convolutions in series, channels in the lanes: all levels of a block of channels before the next block.
//
//   a_{i+1}[t] = act(sum_k w_ik a_i[t - k d_i])
//
// The inputs of a block are copied to lanes once, go through the levels there, and are written once: levels pass through
// the cache, not through memory. A level works in place, backwards in time, for it never hears what comes later; the
// gradient goes forwards in time, for it never depends on what came before. In front of the inputs stand those that a
// level heard before them. The backward pass keeps the inputs and sums of all levels of one block.
#include "kernel.hpp"

#include "../../_cpp/parts.hpp"
#include "../../_cpp/rows.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kMostTaps = 8;         // at once
constexpr int64_t kRowBytes = 128;   // of a row of channels copied at once, in the dtype of the sums
constexpr int64_t kWorthThreads = 1 << 15;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

template <class Use> SEQCONV_INLINE void with_count(int64_t n, Use use) {
  switch (n) {
    case 1: return use(Count<1>{});
    case 2: return use(Count<2>{});
    case 3: return use(Count<3>{});
    case 4: return use(Count<4>{});
    case 5: return use(Count<5>{});
    case 6: return use(Count<6>{});
    case 7: return use(Count<7>{});
    default: return use(Count<kMostTaps>{});
  }
}

// a[t] = sum_k w[k] a[t + k step], in the order in which no value is needed after it was overwritten: `step` is minus the
// dilation for outputs, the dilation itself for gradients.
template <class T> void convolve(Vec<T>* a, int64_t length, const Vec<T>* w, int64_t taps, int64_t step) {
  const int64_t first = step < 0 ? length - 1 : 0, way = step < 0 ? -1 : 1;
  with_count(smaller(taps, kMostTaps), [&](auto n) SEQCONV_LAMBDA {
    constexpr int N = decltype(n)::value;
    Vec<T> tap[N];
    for (int k = 0; k < N; ++k) tap[k] = w[k];
    for (int64_t t = first, i = 0; i < length; t += way, ++i) {
      Vec<T>* place = a + t;
      Vec<T> sum = tap[0] * *place;
#pragma GCC unroll 8
      for (int k = 1; k < N; ++k) sum += tap[k] * place[k * step];
      for (int64_t k = N; k < taps; ++k) sum += w[k] * place[k * step];
      *place = sum;
    }
  });
}

// dw[k] = sum_t ds[t] a[t - k d].
template <class T>
void correlate(const Vec<T>* a, const Vec<T>* ds, int64_t length, Vec<T>* dw, int64_t taps, int64_t dilation) {
  for (int64_t first = 0; first < taps; first += kMostTaps)
    with_count(smaller(taps - first, kMostTaps), [&](auto n) SEQCONV_LAMBDA {
      constexpr int N = decltype(n)::value;
      Vec<T> sum[N] = {};
      const Vec<T>* heard = a - first * dilation;
      for (int64_t t = 0; t < length; ++t) {
        const Vec<T> g = ds[t];
#pragma GCC unroll 8
        for (int k = 0; k < N; ++k) sum[k] += g * heard[t - k * dilation];
      }
      for (int k = 0; k < N; ++k) dw[first + k] = sum[k];
    });
}

template <class T> SEQCONV_INLINE Vec<T> activate(Vec<T> s, Activation how) {
  switch (how) {
    case Activation::relu: return maximum<T>(s, Vec<T>{});
    case Activation::silu: return silu<T>(s);
    case Activation::tanh: return tanh<T>(s);
    default: return s;
  }
}
template <class T> SEQCONV_INLINE Vec<T> slope(Vec<T> s, Activation how) {
  switch (how) {
    case Activation::relu: return (s > 0) ? splat<T>(T(1)) : Vec<T>{};
    case Activation::silu: {
      const Vec<T> gate = sigmoid<T>(s);
      return gate * (T(1) + s * (T(1) - gate));
    }
    case Activation::tanh: {
      const Vec<T> a = tanh<T>(s);
      return T(1) - a * a;
    }
    default: return splat<T>(T(1));
  }
}

// Neighbouring blocks of W channels of one row of the batch.
template <class T, class S> struct Group {
  static constexpr int W = Lanes<T>::count;
  const TreeArgs& a;
  const int64_t b, channel;
  const Blocks<T> rows;

  Group(const TreeArgs& args, int64_t item, int64_t groups, int64_t widest)
      : a(args), b(item / groups), channel(item % groups * widest * W),
        rows(smaller(widest * W, args.channels - channel)) {}

  // Without a history, taps behind the first input hear nothing.
  static int64_t taps(const TreeArgs& a, int64_t i) {
    return a.history ? a.width : smaller(a.width, (a.length - 1) / a.dilations[i] + 1);
  }
  static int64_t reach(const TreeArgs& a, int64_t i) { return (taps(a, i) - 1) * a.dilations[i]; }
  static int64_t farthest(const TreeArgs& a) {
    int64_t most = 0;
    for (int64_t i = 0; i < a.levels; ++i) most = reach(a, i) > most ? reach(a, i) : most;
    return most;
  }
  int64_t kept(int64_t i) const { return (a.width - 1) * a.dilations[i]; }
  // Where level i begins in a history.
  int64_t offset(int64_t i) const {
    int64_t rows_before = 0;
    for (int64_t j = 0; j < i; ++j) rows_before += kept(j);
    return rows_before;
  }
  int64_t at(int64_t i, int64_t row, int64_t block) const {
    return (b * a.behind + offset(i) + row) * a.channels + channel + block * W;
  }
  void weights(int64_t i, int64_t block, Vec<T>* to) const {
    for (int64_t k = 0; k < a.width; ++k)
      to[k] = load<T, T>((const T*)a.weight + (i * a.width + k) * a.channels + channel + block * W, rows.live(block));
  }
  // What level i heard before the inputs at `line`, in front of them.
  void remember(int64_t i, int64_t block, Vec<T>* line) const {
    const int64_t before = reach(a, i);
    for (int64_t j = 0; j < before; ++j)
      line[j - before] = a.history ? load<T, T>((const T*)a.history + at(i, j, block), rows.live(block)) : Vec<T>{};
  }
  // The last inputs that level i heard, zeros before the first.
  void keep(int64_t i, int64_t block, const Vec<T>* line) const {
    for (int64_t j = 0, t = a.length - kept(i); a.after && j < kept(i); ++j, ++t)
      store<T, T>((T*)a.after + at(i, j, block), t >= -reach(a, i) ? line[t] : Vec<T>{}, rows.live(block));
  }
  bool activates(int64_t i) const { return i + 1 < a.levels && a.activation != Activation::none; }

  // Vectors of scratch: every line has room for what was heard before it, in the backward pass also for zeros behind it.
  static int64_t room(const TreeArgs& a, int64_t blocks, bool backward) {
    const int64_t line = farthest(a) + a.length;
    return a.width + (backward ? a.width + blocks * (line + a.length) + a.levels * (line + a.length) : blocks * line);
  }

  void forward(Vec<T>* room) const {
    const int64_t line = farthest(a) + a.length;
    Vec<T>*w = room, *first = w + a.width + farthest(a);
    gather<T, S>(rows, (const S*)a.x.data + b * a.x.batch + channel, a.x.time, a.length, first, line);
    for (int64_t block = 0; block < rows.count; ++block) {
      Vec<T>* x = first + block * line;
      for (int64_t i = 0; i < a.levels; ++i) {
        remember(i, block, x);
        keep(i, block, x);
        weights(i, block, w);
        convolve<T>(x, a.length, w, taps(a, i), -a.dilations[i]);
        if (!activates(i)) continue;
        for (int64_t t = 0; t < a.length; ++t) x[t] = activate<T>(x[t], a.activation);
      }
    }
    const int64_t bytes = a.batch * a.length * a.channels * int64_t(sizeof(S));
    scatter_results<T, S>(rows, first, line, (S*)a.y + b * a.length * a.channels + channel, a.channels, a.length, bytes);
  }

  void backward(Vec<T>* room) const {
    const int64_t before = farthest(a), line = before + a.length;
    Vec<T>*w = room, *dw = w + a.width, *x = dw + a.width, *g = x + rows.count * a.length;
    Vec<T>*heard = g + rows.count * line + before, *sums = heard - before + a.levels * line;
    gather<T, S>(rows, (const S*)a.x.data + b * a.x.batch + channel, a.x.time, a.length, x, a.length);
    gather<T, S>(rows, (const S*)a.dy.data + b * a.dy.batch + channel, a.dy.time, a.length, g, line);
    for (int64_t block = 0; block < rows.count; ++block) {
      recompute(block, x + block * a.length, heard, line, sums, w);
      Vec<T>* ds = g + block * line;
      for (int64_t j = a.length; j < line; ++j) ds[j] = Vec<T>{};
      for (int64_t i = a.levels - 1; i >= 0; --i) {
        if (activates(i))
          for (int64_t t = 0; t < a.length; ++t) ds[t] *= slope<T>(sums[i * a.length + t], a.activation);
        weights(i, block, w);
        weight_gradient(i, block, heard + i * line, ds, dw);
        history_gradient(i, block, ds, w);
        convolve<T>(ds, a.length, w, taps(a, i), a.dilations[i]);
        if (a.dafter)
          for (int64_t t = a.length > kept(i) ? a.length - kept(i) : 0; t < a.length; ++t)
            ds[t] += load<T, T>((const T*)a.dafter + at(i, t - a.length + kept(i), block), rows.live(block));
      }
    }
    scatter<T, S>(rows, g, line, (S*)a.dx + b * a.length * a.channels + channel, a.channels, a.length);
  }
  // The inputs of all levels, and the sums that become those of the next one.
  void recompute(int64_t block, const Vec<T>* x, Vec<T>* heard, int64_t line, Vec<T>* sums, Vec<T>* w) const {
    __builtin_memcpy((void*)heard, x, sizeof(Vec<T>) * a.length);
    remember(0, block, heard);
    for (int64_t i = 0; i + 1 < a.levels; ++i) {
      Vec<T>*from = heard + i * line, *to = from + line, *sum = sums + i * a.length;
      __builtin_memcpy((void*)(to - reach(a, i)), from - reach(a, i), sizeof(Vec<T>) * (reach(a, i) + a.length));
      weights(i, block, w);
      convolve<T>(to, a.length, w, taps(a, i), -a.dilations[i]);
      __builtin_memcpy((void*)sum, to, sizeof(Vec<T>) * a.length);
      for (int64_t t = 0; t < a.length && activates(i); ++t) to[t] = activate<T>(to[t], a.activation);
      remember(i + 1, block, to);
    }
  }
  void weight_gradient(int64_t i, int64_t block, const Vec<T>* heard, const Vec<T>* ds, Vec<T>* dw) const {
    correlate<T>(heard, ds, a.length, dw, taps(a, i), a.dilations[i]);
    for (int64_t k = 0; k < a.width; ++k)
      store<T, T>((T*)a.dweight + ((b * a.levels + i) * a.width + k) * a.channels + channel + block * W,
                  k < taps(a, i) ? dw[k] : Vec<T>{}, rows.live(block));
  }
  // What stood j rows into the history of the level was heard by tap k at the time j - reach + k d.
  void history_gradient(int64_t i, int64_t block, const Vec<T>* ds, const Vec<T>* w) const {
    for (int64_t j = 0; a.dhistory && j < kept(i); ++j) {
      Vec<T> sum{};
      if (a.dafter && j >= a.length) sum = load<T, T>((const T*)a.dafter + at(i, j - a.length, block), rows.live(block));
      for (int64_t k = 1; k < a.width; ++k) {
        const int64_t t = j - kept(i) + k * a.dilations[i];
        if (t >= 0 && t < a.length) sum += w[k] * ds[t];
      }
      store<T, T>((T*)a.dhistory + at(i, j, block), sum, rows.live(block));
    }
  }
};

template <class T, class S, bool Backward> Status run_groups(const TreeArgs& a) {
  using Work = Group<T, S>;
  constexpr int W = Work::W;
  const auto groups_of = [&](int64_t blocks) { return (a.channels + blocks * W - 1) / (blocks * W); };
  int64_t blocks = kRowBytes / int64_t(sizeof(Vec<T>));
  while (blocks > 1 && a.threads > 1 && a.batch * groups_of(blocks) < 2 * a.threads) blocks /= 2;
  const int64_t groups = groups_of(blocks), items = a.batch * groups;
  const bool small = a.batch * a.length * a.channels * a.levels < kWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(sizeof(Vec<T>) * Work::room(a, blocks, Backward));
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      const Work work(a, item, groups, blocks);
      if constexpr (Backward) work.backward((Vec<T>*)scratch.data);
      else work.forward((Vec<T>*)scratch.data);
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

template <class T, class S, bool Backward> Status run(TreeArgs a) {
  if constexpr (!Backward) return run_groups<T, S, false>(a);
  const Parts<T> dweight(a.batch, a.levels * a.width * a.channels, a.dweight);
  a.dweight = dweight.data();
  if (!a.dweight) return Status::no_memory;
  const Status status = run_groups<T, S, true>(a);
  dweight.add(a.threads);
  return status;
}

template <bool Backward> Status run_any(const TreeArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run<double, double, Backward>(a);
    case Dtype::bf16: return run<float, bf16, Backward>(a);
    case Dtype::f16: return run<float, f16, Backward>(a);
    default: return run<float, float, Backward>(a);
  }
}

}  // namespace

Status tree_forward(const TreeArgs& a) { return run_any<false>(a); }
Status tree_backward(const TreeArgs& a) { return run_any<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
