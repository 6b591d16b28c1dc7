// Long causal convolution with gates, skip and history; u, y (batch, length, channels), h (channels, taps):
//
//   v = pre u (after the history's rows)      c[t] = sum_s h[s] v[t - s] + skip v[t]      y = post c
//
// by one right-angle transform of N >= past + length points per channel (fft.hpp): c = untwist(ifft(fft(twist v) K))
// with K = fft(twist h). The adjoint, with U = fft(twist v), dc = post dy and G = fft(twist dc):
//
//   dv = untwist(ifft(conj(K) G)) + skip dc      dh = untwist(ifft(sum over the batch of conj(U) G))      dskip = dh[0]
//   du = pre dv      dpre = u dv      dpost = c dy, for which c is computed again from U
//
// Work: an item is a group of neighbouring channels, one or a few vectors of W, of a split of the batch. The spectra of
// its filters are computed once and used for all its rows of the batch; the sums conj(U) G stay in the spectrum, so
// that one inverse transform per item gives dh. From reading u to writing y everything happens in scratch of the
// thread, 5 N vectors for one vector of channels (320 KB at N = 1024): rows are copied to lanes (rows.hpp, gates on the
// way), transformed, multiplied and transformed back depth first, and copied out, so that memory sees each input and
// output once. Twist, skip and real part are folded into the first and the last pass. Over items dh and dskip are
// partial sums.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/fft.hpp"
#include "../../_cpp/parallel.hpp"
#include "../../_cpp/rows.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kInputsWorthThreads = 1 << 14;
// Bytes of a row of a group's channels as stored: two cache lines, so that rows are read in whole ones.
// One line where that doubles the scratch (backward) or halves the number of items for several threads.
constexpr int64_t kRowBytes = 128;
constexpr int64_t kSpectraBytes = 1 << 24;  // of the filters of a group, at most: what a core may take of the cache

// The backward operation for `recurse`: from the signal x and the gradient g, g becomes ifft(conj(K) G), s accumulates
// conj(U) G, and x becomes the convolution again where the gradient of the post gate needs it.
template <class T> struct ConvolveBackward {
  const Tables<T>& tables;
  Complex<T>*x, *g, *s;
  const Complex<T>* k;
  bool recompute;
  void down(int64_t at, int64_t n) const {
    forward_pass<T>(n, tables.of(n), x + at);
    forward_pass<T>(n, tables.of(n), g + at);
  }
  void up(int64_t at, int64_t n) const {
    inverse_pass<T>(n, tables.of(n), g + at);
    if (recompute) inverse_pass<T>(n, tables.of(n), x + at);
  }
  template <int R> SEQCONV_INLINE void leaf(int64_t at) const {
    Complex<T> v[R], d[R];
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = x[at + i], d[i] = g[at + i];
    butterfly<R>(v);
    butterfly<R>(d);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) {
      s[at + i] = s[at + i] + conj_times(v[i], d[i]);
      d[i] = conj_times(k[at + i], d[i]);
    }
    inverse_butterfly<R>(d);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) g[at + i] = d[i];
    if (!recompute) return;
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = v[i] * k[at + i];
    inverse_butterfly<R>(v);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) x[at + i] = v[i];
  }
};

// A group of neighbouring channels, `blocks` vectors, of one split of the batch.
template <class T, class S> struct Group {
  static constexpr int W = Lanes<T>::count;
  const FftArgs& a;
  const Tables<T> tables;
  const int64_t split, channel;
  const Blocks<T> rows;
  const int64_t blocks, signal_len;
  const T scale;

  Group(const FftArgs& args, int64_t item, int64_t widest)
      : a(args), tables(args.tables, args.size), split(item % args.splits), channel(item / args.splits * widest * W),
        rows(min(widest * W, args.channels - channel)), blocks(rows.count), signal_len(args.past + args.length),
        scale(T(1) / T(args.size)) {}

  int64_t begin() const { return a.batch * split / a.splits; }
  int64_t end() const { return a.batch * (split + 1) / a.splits; }
  int64_t taps() const { return min(a.taps, signal_len); }
  int live(int64_t block) const { return rows.live(block); }
  Vec<T> skip(int64_t block) const {
    return a.skip ? load<T, T>((const T*)a.skip + channel + block * W, live(block)) : Vec<T>{};
  }
  const S* of(const Rows& x, int64_t b) const { return x.data ? (const S*)x.data + b * x.batch + channel : nullptr; }

  // History and gated signal of row b of the batch to lanes, zeros up to the size of the transform; a vector per time,
  // block after block at a distance of `size`.
  void signal_in_lanes(int64_t b, const Rows& history, const Rows& x, const Rows& gate, Vec<T>* to) const {
    if (history.data)
      gather<T, T>(rows, (const T*)history.data + b * history.batch + channel, history.time, a.past, to, a.size);
    gather<T, S>(rows, of(x, b), x.time, a.length, to + a.past, a.size);
    if (gate.data) gather<T, S, true>(rows, of(gate, b), gate.time, a.length, to + a.past, a.size);
    for (int64_t block = 0; block < blocks; ++block, to += a.size) {
      for (int64_t j = 0; j < a.past && !history.data; ++j) to[j] = Vec<T>{};
      for (int64_t j = signal_len; j < a.size; ++j) to[j] = Vec<T>{};
    }
  }
  // Lanes to the rows of a result, times those of x where it is given.
  void write(int64_t b, const Vec<T>* from, void* to, const Rows& x) const {
    S* first = (S*)to + b * a.length * a.channels + channel;
    if (x.data) scatter<T, S>(rows, from + a.past, a.size, first, a.channels, a.length, of(x, b), x.time);
    else scatter_results<T, S>(rows, from + a.past, a.size, first, a.channels, a.length, a.batch * a.length);
  }

  template <class Op> void recurse_over(const Op& op) const { recurse_inside(op, a.size); }
  void first_pass(Complex<T>* to, const Vec<T>* from) const {
    forward_first_pass<T>(tables, a.size, to, [&](int64_t j) SEQCONV_LAMBDA { return from[j]; });
  }
  template <class Take> void last_pass(const Complex<T>* from, Take take) const {
    inverse_last_pass<T>(tables, a.size, from, take);
  }

  // The spectrum of a block's filters, divided by the size of the transform; `scratch` holds the taps in lanes.
  void filter_spectrum(int64_t block, Complex<T>* k, Vec<T>* scratch) const {
    const T* first = (const T*)a.filter + (channel + block * W) * a.taps;
    taps_in_lanes<T>(first, a.taps, live(block), taps(), a.size, scratch);
    first_pass(k, scratch);
    recurse_over(FilterSpectrum<T>{tables, k, scale});
  }
  // dh and dskip of a block from the accumulated spectrum s, transposed from lanes to rows of taps.
  void write_filter_gradient(int64_t block, Complex<T>* s, Vec<T>* dtaps) const {
    recurse_over(InverseTransform<T>{tables, s});
    last_pass(s, [&](int64_t j, Vec<T> v) SEQCONV_LAMBDA { dtaps[j] = j < taps() ? v * scale : Vec<T>{}; });
    store<T, T>((T*)a.dskip + split * a.channels + channel + block * W, dtaps[0], live(block));  // acts as tap 0
    for (int64_t j = 0; j < a.taps; j += W) {
      Vec<T> v[W];
      for (int i = 0; i < W; ++i) v[i] = j + i < taps() ? dtaps[j + i] : Vec<T>{};
      transpose<T>(v);
      for (int i = 0; i < live(block); ++i)
        store<T, T>((T*)a.dfilter + (split * a.channels + channel + block * W + i) * a.taps + j, v[i],
                    int(min(W, a.taps - j)));
    }
  }

  // Vectors of scratch. Forward: one complex signal, and per block a spectrum and a real signal. Backward: two complex
  // signals, and per block two spectra (of filter and gradient) and two real signals.
  static int64_t scratch_vectors(int64_t size, int64_t blocks, bool backward) {
    return backward ? size * (4 + 6 * blocks) : size * (2 + 3 * blocks);
  }

  void forward(Vec<T>* scratch) const {
    Complex<T>*x = (Complex<T>*)scratch, *k = x + a.size;
    Vec<T>* signal = (Vec<T>*)(k + blocks * a.size);
    const bool reused = end() - begin() > 1;  // spectra; else each is made where it is used, in the same memory
    for (int64_t block = 0; block < blocks && reused; ++block)
      filter_spectrum(block, k + block * a.size, signal);
    for (int64_t b = begin(); b < end(); ++b) {
      signal_in_lanes(b, a.history, a.u, a.pre, signal);
      for (int64_t block = 0; block < blocks; ++block) {
        Vec<T>* line = signal + block * a.size;
        if (!reused) filter_spectrum(block, k, (Vec<T>*)x);
        first_pass(x, line);
        recurse_over(Convolve<T>{tables, x, reused ? k + block * a.size : k});
        last_pass_with_skip(block, x, line);
      }
      write(b, signal, a.y, a.post);
    }
  }
  void backward(Vec<T>* scratch) const {
    Complex<T>*x = (Complex<T>*)scratch, *g = x + a.size, *k = g + a.size, *s = k + blocks * a.size;
    Vec<T>*signal = (Vec<T>*)(s + blocks * a.size), *gradient = signal + blocks * a.size;
    __builtin_memset(s, 0, sizeof(Complex<T>) * blocks * a.size);
    for (int64_t block = 0; block < blocks; ++block) filter_spectrum(block, k + block * a.size, signal);
    for (int64_t b = begin(); b < end(); ++b) {
      signal_in_lanes(b, a.history, a.u, a.pre, signal);
      signal_in_lanes(b, {}, a.dy, a.post, gradient);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t at = block * a.size;
        first_pass(x, signal + at);
        first_pass(g, gradient + at);
        recurse_over(ConvolveBackward<T>{tables, x, g, s + at, k + at, a.dpost != nullptr});
        last_pass_with_skip(block, g, gradient + at);
        if (a.dpost) last_pass_with_skip(block, x, signal + at);
      }
      write(b, gradient, a.du, a.pre);
      if (a.dpre) write(b, gradient, a.dpre, a.u);
      if (a.dpost) write(b, signal, a.dpost, a.dy);
      if (a.dhistory)
        scatter<T, T>(rows, gradient, a.size, (T*)a.dhistory + b * a.past * a.channels + channel, a.channels, a.past);
    }
    for (int64_t block = 0; block < blocks; ++block) write_filter_gradient(block, s + block * a.size, signal);
  }
  // line = real part of the result + skip line: `line` still holds the input of the convolution.
  void last_pass_with_skip(int64_t block, const Complex<T>* from, Vec<T>* line) const {
    const Vec<T> factor = skip(block);
    if (a.skip) last_pass(from, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA { line[j] = y + factor * line[j]; });
    else last_pass(from, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA { line[j] = y; });
  }
};

// Blocks of a group: rows of kRowBytes or half of it, as long as there are two items per thread and the spectra stay
// small.
template <int W, bool Backward> int64_t group_blocks(const FftArgs& a, int64_t vector_bytes, int64_t stored_bytes) {
  const int64_t wanted = a.threads > 1 ? 2 * a.threads : 1;
  const int64_t widest = kRowBytes / stored_bytes / (Backward || a.threads > 1 ? 2 : 1);
  const int64_t blocks = halved_until(widest, 1, [&](int64_t n) {
    return ceil_div(a.channels, n * W) * a.splits >= wanted && 2 * vector_bytes * a.size * n <= kSpectraBytes;
  });
  return max(1, min(blocks, ceil_div(a.channels, W)));
}

template <class T, class S, bool Backward> Status run_groups(const FftArgs& a) {
  using Work = Group<T, S>;
  const int64_t blocks = group_blocks<Work::W, Backward>(a, sizeof(Vec<T>), Work::W * sizeof(S));
  const int64_t items = ceil_div(a.channels, blocks * Work::W) * a.splits;
  const int threads = thread_count(a.threads, items, a.batch * a.length * a.channels, kInputsWorthThreads);
  const size_t bytes = sizeof(Vec<T>) * Work::scratch_vectors(a.size, blocks, Backward);
  return for_each_item(items, threads, bytes, [&](int64_t item, void* scratch) {
    const Work work(a, item, blocks);
    if constexpr (Backward) work.backward((Vec<T>*)scratch);
    else work.forward((Vec<T>*)scratch);
  });
}

template <class T, class S> Status run_backward(FftArgs a) {
  const PartialSums<T> dfilter(a.splits, a.channels * a.taps, a.dfilter), dskip(a.splits, a.channels, a.dskip);
  a.dfilter = dfilter.data(), a.dskip = dskip.data();
  if (!a.dfilter || !a.dskip) return Status::no_memory;
  const Status status = run_groups<T, S, true>(a);
  dfilter.reduce(a.threads), dskip.reduce(a.threads);
  return status;
}

}  // namespace

Status fft_forward(const FftArgs& a) {
  return dispatch(a.dtype,
                  [&](auto acc, auto storage) { return run_groups<decltype(acc), decltype(storage), false>(a); });
}
Status fft_backward(const FftArgs& a) {
  return dispatch(a.dtype, [&](auto acc, auto storage) { return run_backward<decltype(acc), decltype(storage)>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
