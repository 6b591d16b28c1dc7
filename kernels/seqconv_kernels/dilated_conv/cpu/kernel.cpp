// Dilated causal depthwise convolutions in series (levels), with an activation between levels:
//
//   s_i[t] = sum_k w_i[k] a_i[t - k d_i]      a_{i+1} = act(s_i)      y = s_last
//
// Inputs before the first one are the rows of level i's history, or zeros. The adjoint, from the last level down:
//
//   ds_i = da_{i+1} act'(s_i)      da_i[t] = sum_k w_i[k] ds_i[t + k d_i]      dw_i[k] = sum_t ds_i[t] a_i[t - k d_i]
//
// and the gradient of a history is da_i[t] for t < 0.
//
// Work: an item is a group of neighbouring channels of one row of the batch. Its inputs are copied to lanes once
// (rows.hpp), each vector of channels goes through all levels in scratch, and is written once: levels pass through the
// cache, not through memory. A level works in place. Forward it runs backwards in time, since an output depends on
// inputs at the same and earlier times only; the gradient runs forwards in time, since it depends on ds at the same and
// later times only. In front of a level's inputs in scratch are those of its history, so that no tap needs a case of
// its own. The backward pass recomputes and keeps the inputs a_i and sums s_i of all levels of one vector of channels.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"
#include "../../_cpp/rows.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kMostTaps = 8;        // in registers at once
constexpr int64_t kRowBytes = 128;  // of a row of channels copied at once, in the dtype of the sums: two cache lines
constexpr int64_t kInputsWorthThreads = 1 << 15;  // inputs of all levels

// Calls use(Constant<n>) for 1 <= n <= kMostTaps.
template <class Use> SEQCONV_INLINE void with_count(int64_t n, Use use) {
  switch (n) {
    case 1: return use(Constant<1>{});
    case 2: return use(Constant<2>{});
    case 3: return use(Constant<3>{});
    case 4: return use(Constant<4>{});
    case 5: return use(Constant<5>{});
    case 6: return use(Constant<6>{});
    case 7: return use(Constant<7>{});
    default: return use(Constant<kMostTaps>{});
  }
}

// In place a[t] = sum_k w[k] a[t + k step], in the order of t in which no value is needed after it was overwritten:
// `step` is minus the dilation for outputs, the dilation for gradients. Taps are in registers, each value of a is
// loaded per tap.
template <class T> void convolve(Vec<T>* a, int64_t length, const Vec<T>* w, int64_t taps, int64_t step) {
  const int64_t first = step < 0 ? length - 1 : 0, direction = step < 0 ? -1 : 1;
  with_count(min(taps, kMostTaps), [&](auto n) SEQCONV_LAMBDA {
    constexpr int N = decltype(n)::value;
    Vec<T> tap[N];
    for (int k = 0; k < N; ++k) tap[k] = w[k];
    for (int64_t t = first, i = 0; i < length; t += direction, ++i) {
      Vec<T>* place = a + t;
      Vec<T> sum = tap[0] * *place;
#pragma GCC unroll 8
      for (int k = 1; k < N; ++k) sum += tap[k] * place[k * step];
      for (int64_t k = N; k < taps; ++k) sum += w[k] * place[k * step];
      *place = sum;
    }
  });
}

// dw[k] = sum_t ds[t] a[t - k d], up to kMostTaps sums in registers per pass over time.
template <class T>
void correlate(const Vec<T>* a, const Vec<T>* ds, int64_t length, Vec<T>* dw, int64_t taps, int64_t dilation) {
  for (int64_t first = 0; first < taps; first += kMostTaps)
    with_count(min(taps - first, kMostTaps), [&](auto n) SEQCONV_LAMBDA {
      constexpr int N = decltype(n)::value;
      Vec<T> sum[N] = {};
      const Vec<T>* shifted = a - first * dilation;
      for (int64_t t = 0; t < length; ++t) {
        const Vec<T> g = ds[t];
#pragma GCC unroll 8
        for (int k = 0; k < N; ++k) sum[k] += g * shifted[t - k * dilation];
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
// The gradient at s, from `grad` at activate(s).
template <class T> SEQCONV_INLINE Vec<T> activate_backward(Vec<T> grad, Vec<T> s, Activation how) {
  switch (how) {
    case Activation::relu: return (s > 0) ? grad : Vec<T>{};
    case Activation::silu: return silu_backward<T>(grad, s);
    case Activation::tanh: {
      const Vec<T> a = tanh<T>(s);
      return grad * (T(1) - a * a);
    }
    default: return grad;
  }
}

// A group of neighbouring channels of one row of the batch.
template <class T, class S> struct Group {
  static constexpr int W = Lanes<T>::count;
  const DilatedConvArgs& a;
  const int64_t b, channel;
  const Blocks<T> rows;

  Group(const DilatedConvArgs& args, int64_t item, int64_t groups, int64_t widest)
      : a(args), b(item / groups), channel(item % groups * widest * W),
        rows(min(widest * W, args.channels - channel)) {}

  // Taps of level i that meet inputs: without a history, those that reach beyond the first input multiply zeros.
  static int64_t taps(const DilatedConvArgs& a, int64_t i) {
    return a.history ? a.width : min(a.width, (a.length - 1) / a.dilations[i] + 1);
  }
  // Rows before the first input that the taps of level i depend on, and the most of all levels.
  static int64_t context(const DilatedConvArgs& a, int64_t i) { return (taps(a, i) - 1) * a.dilations[i]; }
  static int64_t longest_context(const DilatedConvArgs& a) {
    int64_t most = 0;
    for (int64_t i = 0; i < a.levels; ++i) most = max(most, context(a, i));
    return most;
  }
  // Rows of level i in a history, the first of them, and where a block's channels of row j of them are.
  int64_t history_rows(int64_t i) const { return (a.width - 1) * a.dilations[i]; }
  int64_t history_begin(int64_t i) const {
    int64_t rows_before = 0;
    for (int64_t j = 0; j < i; ++j) rows_before += history_rows(j);
    return rows_before;
  }
  int64_t history_at(int64_t i, int64_t j, int64_t block) const {
    return (b * a.history_len + history_begin(i) + j) * a.channels + channel + block * W;
  }
  void load_weights(int64_t i, int64_t block, Vec<T>* to) const {
    for (int64_t k = 0; k < a.width; ++k)
      to[k] = load<T, T>((const T*)a.weight + (i * a.width + k) * a.channels + channel + block * W, rows.live(block));
  }
  // Level i's history in front of its inputs at `line`.
  void load_history(int64_t i, int64_t block, Vec<T>* line) const {
    const int64_t before = context(a, i);
    const T* history = (const T*)a.history;
    for (int64_t j = 0; j < before; ++j)
      line[j - before] = history ? load<T, T>(history + history_at(i, j, block), rows.live(block)) : Vec<T>{};
  }
  // The last inputs of level i are its history after this call, zeros before the first.
  void store_history(int64_t i, int64_t block, const Vec<T>* line) const {
    for (int64_t j = 0, t = a.length - history_rows(i); a.after && j < history_rows(i); ++j, ++t)
      store<T, T>((T*)a.after + history_at(i, j, block), t >= -context(a, i) ? line[t] : Vec<T>{}, rows.live(block));
  }
  bool activates(int64_t i) const { return i + 1 < a.levels && a.activation != Activation::none; }

  // Vectors of scratch. A line is a signal of `length` vectors after as many as the longest context. Forward: the taps
  // of a level and a line per block. Backward: taps and their gradients; per block the inputs and a line for the
  // gradients (with zeros after them instead of a context before); per level a line of inputs and the sums.
  static int64_t scratch_vectors(const DilatedConvArgs& a, int64_t blocks, bool backward) {
    const int64_t line = longest_context(a) + a.length;
    if (!backward) return a.width + blocks * line;
    return 2 * a.width + blocks * (line + a.length) + a.levels * (line + a.length);
  }

  void forward(Vec<T>* scratch) const {
    const int64_t line = longest_context(a) + a.length;
    Vec<T>*w = scratch, *first = w + a.width + longest_context(a);
    gather<T, S>(rows, (const S*)a.x.data + b * a.x.batch + channel, a.x.time, a.length, first, line);
    for (int64_t block = 0; block < rows.count; ++block) {
      Vec<T>* x = first + block * line;
      for (int64_t i = 0; i < a.levels; ++i) {
        load_history(i, block, x);
        store_history(i, block, x);
        load_weights(i, block, w);
        convolve<T>(x, a.length, w, taps(a, i), -a.dilations[i]);
        if (!activates(i)) continue;
        for (int64_t t = 0; t < a.length; ++t) x[t] = activate<T>(x[t], a.activation);
      }
    }
    S* y = (S*)a.y + b * a.length * a.channels + channel;
    scatter_results<T, S>(rows, first, line, y, a.channels, a.length, a.batch * a.length);
  }

  void backward(Vec<T>* scratch) const {
    const int64_t before = longest_context(a), line = before + a.length;
    Vec<T>*w = scratch, *dw = w + a.width, *x = dw + a.width, *g = x + rows.count * a.length;
    Vec<T>*inputs = g + rows.count * line + before, *sums = inputs - before + a.levels * line;
    gather<T, S>(rows, (const S*)a.x.data + b * a.x.batch + channel, a.x.time, a.length, x, a.length);
    gather<T, S>(rows, (const S*)a.dy.data + b * a.dy.batch + channel, a.dy.time, a.length, g, line);
    for (int64_t block = 0; block < rows.count; ++block) {
      recompute(block, x + block * a.length, inputs, line, sums, w);
      Vec<T>* ds = g + block * line;
      for (int64_t j = a.length; j < line; ++j) ds[j] = Vec<T>{};
      for (int64_t i = a.levels - 1; i >= 0; --i) {
        for (int64_t t = 0; t < a.length && activates(i); ++t)
          ds[t] = activate_backward<T>(ds[t], sums[i * a.length + t], a.activation);
        load_weights(i, block, w);
        weight_gradient(i, block, inputs + i * line, ds, dw);
        history_gradient(i, block, ds, w);
        convolve<T>(ds, a.length, w, taps(a, i), a.dilations[i]);
        if (a.dafter) add_history_gradient(i, block, ds);
      }
    }
    scatter<T, S>(rows, g, line, (S*)a.dx + b * a.length * a.channels + channel, a.channels, a.length);
  }
  // The last inputs of level i are also in the history after the call.
  void add_history_gradient(int64_t i, int64_t block, Vec<T>* da) const {
    const int64_t begin = a.length - history_rows(i);
    for (int64_t t = max(begin, 0); t < a.length; ++t)
      da[t] += load<T, T>((const T*)a.dafter + history_at(i, t - begin, block), rows.live(block));
  }
  // The inputs a_i of all levels of a block, and the sums s_i of all but the last one.
  void recompute(int64_t block, const Vec<T>* x, Vec<T>* inputs, int64_t line, Vec<T>* sums, Vec<T>* w) const {
    __builtin_memcpy((void*)inputs, x, sizeof(Vec<T>) * a.length);
    load_history(0, block, inputs);
    for (int64_t i = 0; i + 1 < a.levels; ++i) {
      Vec<T>*from = inputs + i * line, *to = from + line, *sum = sums + i * a.length;
      __builtin_memcpy((void*)(to - context(a, i)), from - context(a, i), sizeof(Vec<T>) * (context(a, i) + a.length));
      load_weights(i, block, w);
      convolve<T>(to, a.length, w, taps(a, i), -a.dilations[i]);
      __builtin_memcpy((void*)sum, to, sizeof(Vec<T>) * a.length);
      for (int64_t t = 0; t < a.length && activates(i); ++t) to[t] = activate<T>(to[t], a.activation);
      load_history(i + 1, block, to);
    }
  }
  void weight_gradient(int64_t i, int64_t block, const Vec<T>* inputs, const Vec<T>* ds, Vec<T>* dw) const {
    correlate<T>(inputs, ds, a.length, dw, taps(a, i), a.dilations[i]);
    for (int64_t k = 0; k < a.width; ++k)
      store<T, T>((T*)a.dweight + ((b * a.levels + i) * a.width + k) * a.channels + channel + block * W,
                  k < taps(a, i) ? dw[k] : Vec<T>{}, rows.live(block));
  }
  // Row j of a level's history met tap k at the time j - history_rows + k d. Rows beyond the new inputs are kept as
  // they are in the history after the call, so they have its gradient too.
  void history_gradient(int64_t i, int64_t block, const Vec<T>* ds, const Vec<T>* w) const {
    for (int64_t j = 0; a.dhistory && j < history_rows(i); ++j) {
      Vec<T> sum{};
      if (a.dafter && j >= a.length)
        sum = load<T, T>((const T*)a.dafter + history_at(i, j - a.length, block), rows.live(block));
      for (int64_t k = 1; k < a.width; ++k) {
        const int64_t t = j - history_rows(i) + k * a.dilations[i];
        if (t >= 0 && t < a.length) sum += w[k] * ds[t];
      }
      store<T, T>((T*)a.dhistory + history_at(i, j, block), sum, rows.live(block));
    }
  }
};

template <class T, class S, bool Backward> Status run_groups(const DilatedConvArgs& a) {
  using Work = Group<T, S>;
  constexpr int W = Work::W;
  const auto groups_of = [&](int64_t blocks) { return ceil_div(a.channels, blocks * W); };
  const int64_t wanted = a.threads > 1 ? 2 * a.threads : 1;
  const int64_t blocks = halved_until(kRowBytes / int64_t(sizeof(Vec<T>)), 1,
                                      [&](int64_t n) { return a.batch * groups_of(n) >= wanted; });
  const int64_t groups = groups_of(blocks), items = a.batch * groups;
  const int threads = thread_count(a.threads, items, a.batch * a.length * a.channels * a.levels, kInputsWorthThreads);
  const size_t bytes = sizeof(Vec<T>) * Work::scratch_vectors(a, blocks, Backward);
  return for_each_item(items, threads, bytes, [&](int64_t item, void* scratch) {
    const Work work(a, item, groups, blocks);
    if constexpr (Backward) work.backward((Vec<T>*)scratch);
    else work.forward((Vec<T>*)scratch);
  });
}

template <class T, class S> Status run_backward(DilatedConvArgs a) {
  const PartialSums<T> dweight(a.batch, a.levels * a.width * a.channels, a.dweight);
  a.dweight = dweight.data();
  if (!a.dweight) return Status::no_memory;
  const Status status = run_groups<T, S, true>(a);
  dweight.reduce(a.threads);
  return status;
}

}  // namespace

Status dilated_conv_forward(const DilatedConvArgs& a) {
  return dispatch(a.dtype,
                  [&](auto acc, auto storage) { return run_groups<decltype(acc), decltype(storage), false>(a); });
}
Status dilated_conv_backward(const DilatedConvArgs& a) {
  return dispatch(a.dtype, [&](auto acc, auto storage) { return run_backward<decltype(acc), decltype(storage)>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
