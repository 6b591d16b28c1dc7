// Long causal convolution by the right-angle transform: channels in the lanes, one fused pass per row of the batch.
//
// Multiplied by w^j with w = exp(i pi / 2N), a cyclic convolution of length N turns what wraps around by a right angle:
// the real part of the result is the causal convolution, without zero padding (the imaginary part is its tail).
// Forward transforms decimate in frequency and inverse ones in time, so that nothing is ever reordered. The recursion
// goes depth first: a subtree that fits the cache is transformed, multiplied by the filter's spectrum and transformed
// back before the next one. Twist, skip and real part are folded into the first and the last pass; gates into the copies
// from rows of channels to lanes and back.
#include "kernel.hpp"

#include "../../_cpp/fft.hpp"
#include "../../_cpp/parts.hpp"
#include "../../_cpp/rows.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kWorthThreads = 1 << 14;  // elements of u
constexpr int64_t kRowBytes = 128;  // of channels copied at once, as sums; half where scratch counts twice
constexpr int64_t kSpectraBytes = 1 << 24;  // of the filters of a group

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// x becomes the convolution again (if wanted), g the gradient of its input, s gathers that of the filter.
template <class T> struct Differentiate {
  const Tables<T>& tables;
  Complex<T>*x, *g, *s;
  const Complex<T>* k;
  bool again;
  void down(int64_t at, int64_t n) const {
    inner_down<T>(n, tables.of(n), x + at);
    inner_down<T>(n, tables.of(n), g + at);
  }
  void up(int64_t at, int64_t n) const {
    inner_up<T>(n, tables.of(n), g + at);
    if (again) inner_up<T>(n, tables.of(n), x + at);
  }
  template <int R> SEQCONV_INLINE void bottom(int64_t at) const {
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
    butterfly_back<R>(d);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) g[at + i] = d[i];
    if (!again) return;
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) v[i] = times(v[i], k[at + i]);
    butterfly_back<R>(v);
#pragma GCC unroll 4
    for (int i = 0; i < R; ++i) x[at + i] = v[i];
  }
};

// Neighbouring blocks of W channels of one part of the batch, each with its spectra and signals in lanes.
template <class T, class S> struct Group {
  static constexpr int W = Lanes<T>::count;
  const FftArgs& a;
  const Tables<T> tables;
  const int64_t part, channel;
  const Blocks<T> rows;
  const int64_t blocks, heard;
  const T scale;

  Group(const FftArgs& args, int64_t item, int64_t widest)
      : a(args), tables(args.tables, args.size), part(item % args.parts), channel(item / args.parts * widest * W),
        rows(smaller(widest * W, args.channels - channel)), blocks(rows.count), heard(args.past + args.length),
        scale(T(1) / T(args.size)) {}

  int64_t begin() const { return a.batch * part / a.parts; }
  int64_t end() const { return a.batch * (part + 1) / a.parts; }
  int64_t taps() const { return smaller(a.taps, heard); }
  int live(int64_t block) const { return rows.live(block); }
  Vec<T> skip(int64_t block) const {
    return a.skip ? load<T, T>((const T*)a.skip + channel + block * W, live(block)) : Vec<T>{};
  }
  const S* of(const Rows& x, int64_t b) const { return x.data ? (const S*)x.data + b * x.batch + channel : nullptr; }

  // History and signal of one of the batch to lanes.
  void signal_in_lanes(int64_t b, const Rows& history, const Rows& x, const Rows& gate, Vec<T>* to) const {
    if (history.data)
      gather<T, T>(rows, (const T*)history.data + b * history.batch + channel, history.time, a.past, to, a.size);
    gather<T, S>(rows, of(x, b), x.time, a.length, to + a.past, a.size);
    if (gate.data) gather<T, S, true>(rows, of(gate, b), gate.time, a.length, to + a.past, a.size);
    for (int64_t block = 0; block < blocks; ++block, to += a.size) {
      for (int64_t j = 0; j < a.past && !history.data; ++j) to[j] = Vec<T>{};
      for (int64_t j = heard; j < a.size; ++j) to[j] = Vec<T>{};
    }
  }
  // Lanes to rows, times those of x where it is given.
  void write(int64_t b, const Vec<T>* from, void* to, const Rows& x) const {
    S* first = (S*)to + b * a.length * a.channels + channel;
    const int64_t bytes = a.batch * a.length * a.channels * int64_t(sizeof(S));
    if (x.data) scatter<T, S>(rows, from + a.past, a.size, first, a.channels, a.length, of(x, b), x.time);
    else scatter_results<T, S>(rows, from + a.past, a.size, first, a.channels, a.length, bytes);
  }

  template <class Op> void inside(const Op& op) const { walk_inside(op, a.size); }
  void enter(Complex<T>* to, const Vec<T>* from) const {
    enter_transform<T>(tables, a.size, to, [&](int64_t j) SEQCONV_LAMBDA { return from[j]; });
  }
  template <class Take> void leave(const Complex<T>* from, Take take) const { leave_real<T>(tables, a.size, from, take); }

  // Spectrum of a block's filter, divided by the size of the transform. `room` holds the transposed taps meanwhile.
  void filter_spectrum(int64_t block, Complex<T>* k, Vec<T>* room) const {
    const T* first = (const T*)a.filter + (channel + block * W) * a.taps;
    taps_in_lanes<T>(first, a.taps, live(block), taps(), a.size, room);
    enter(k, room);
    inside(FilterSpectrum<T>{tables, k, scale});
  }
  void write_filter_gradient(int64_t block, Complex<T>* s, Vec<T>* room) const {
    inside(Inverse<T>{tables, s});
    leave(s, [&](int64_t j, Vec<T> v) SEQCONV_LAMBDA { room[j] = j < taps() ? v * scale : Vec<T>{}; });
    store<T, T>((T*)a.dskip + part * a.channels + channel + block * W, room[0], live(block));  // it acts like tap 0
    for (int64_t j = 0; j < a.taps; j += W) {
      Vec<T> v[W];
      for (int i = 0; i < W; ++i) v[i] = j + i < taps() ? room[j + i] : Vec<T>{};
      transpose<T>(v);
      for (int i = 0; i < live(block); ++i)
        store<T, T>((T*)a.dfilter + (part * a.channels + channel + block * W + i) * a.taps + j, v[i],
                    int(smaller(W, a.taps - j)));
    }
  }

  // Vectors of scratch with that many blocks.
  static int64_t forward_room(int64_t size, int64_t blocks) { return size * (2 + 3 * blocks); }
  static int64_t backward_room(int64_t size, int64_t blocks) { return size * (4 + 6 * blocks); }

  void forward(Vec<T>* room) const {
    Complex<T>*x = (Complex<T>*)room, *k = x + a.size;
    Vec<T>* signal = (Vec<T>*)(k + blocks * a.size);
    for (int64_t block = 0; block < blocks; ++block) filter_spectrum(block, k + block * a.size, signal);
    for (int64_t b = begin(); b < end(); ++b) {
      signal_in_lanes(b, a.history, a.u, a.pre, signal);
      for (int64_t block = 0; block < blocks; ++block) {
        Vec<T>* line = signal + block * a.size;
        enter(x, line);
        inside(Convolve<T>{tables, x, k + block * a.size});
        leave_skipped(block, x, line);
      }
      write(b, signal, a.y, a.post);
    }
  }
  void backward(Vec<T>* room) const {
    Complex<T>*x = (Complex<T>*)room, *g = x + a.size, *k = g + a.size, *s = k + blocks * a.size;
    Vec<T>*signal = (Vec<T>*)(s + blocks * a.size), *gradient = signal + blocks * a.size;
    __builtin_memset(s, 0, sizeof(Complex<T>) * blocks * a.size);
    for (int64_t block = 0; block < blocks; ++block) filter_spectrum(block, k + block * a.size, signal);
    for (int64_t b = begin(); b < end(); ++b) {
      signal_in_lanes(b, a.history, a.u, a.pre, signal);
      signal_in_lanes(b, {}, a.dy, a.post, gradient);
      for (int64_t block = 0; block < blocks; ++block) {
        const int64_t at = block * a.size;
        enter(x, signal + at);
        enter(g, gradient + at);
        inside(Differentiate<T>{tables, x, g, s + at, k + at, a.dpost != nullptr});
        leave_skipped(block, g, gradient + at);
        if (a.dpost) leave_skipped(block, x, signal + at);
      }
      write(b, gradient, a.du, a.pre);
      if (a.dpre) write(b, gradient, a.dpre, a.u);
      if (a.dpost) write(b, signal, a.dpost, a.dy);
      if (a.dhistory)
        scatter<T, T>(rows, gradient, a.size, (T*)a.dhistory + b * a.past * a.channels + channel, a.channels, a.past);
    }
    for (int64_t block = 0; block < blocks; ++block) write_filter_gradient(block, s + block * a.size, signal);
  }
  // The real part, with the skip of what is there.
  void leave_skipped(int64_t block, const Complex<T>* from, Vec<T>* line) const {
    const Vec<T> through = skip(block);
    if (a.skip) leave(from, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA { line[j] = y + through * line[j]; });
    else leave(from, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA { line[j] = y; });
  }
};

// Blocks of a group: rows of kRowBytes or half of it, if enough groups for all threads are left and their spectra stay
// small.
template <int W, bool Backward> int64_t group_blocks(const FftArgs& a, int64_t vector) {
  const auto items = [&](int64_t blocks) { return (a.channels + blocks * W - 1) / (blocks * W) * a.parts; };
  const int64_t wanted = a.threads > 1 ? 2 * a.threads : 1;
  int64_t blocks = kRowBytes / vector / (Backward || a.threads > 1 ? 2 : 1);
  while (blocks > 1 && (items(blocks) < wanted || 2 * vector * a.size * blocks > kSpectraBytes)) blocks /= 2;
  const int64_t all = (a.channels + W - 1) / W;
  return all > 0 ? smaller(blocks, all) : 1;
}

template <class T, class S, bool Backward> Status run_groups(const FftArgs& a) {
  using Work = Group<T, S>;
  const int64_t blocks = group_blocks<Work::W, Backward>(a, sizeof(Vec<T>));
  const int64_t items = (a.channels + blocks * Work::W - 1) / (blocks * Work::W) * a.parts;
  const int threads = a.batch * a.length * a.channels < kWorthThreads ? 1 : int(smaller(a.threads, items));
  const size_t bytes = sizeof(Vec<T>) * (Backward ? Work::backward_room(a.size, blocks) : Work::forward_room(a.size, blocks));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(bytes);
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      const Work work(a, item, blocks);
      if constexpr (Backward) work.backward((Vec<T>*)scratch.data);
      else work.forward((Vec<T>*)scratch.data);
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

template <class T, class S, bool Backward> Status run(FftArgs a) {
  if constexpr (!Backward) return run_groups<T, S, false>(a);
  const Parts<T> dfilter(a.parts, a.channels * a.taps, a.dfilter), dskip(a.parts, a.channels, a.dskip);
  a.dfilter = dfilter.data(), a.dskip = dskip.data();
  if (!a.dfilter || !a.dskip) return Status::no_memory;
  const Status status = run_groups<T, S, true>(a);
  dfilter.add(a.threads), dskip.add(a.threads);
  return status;
}

template <bool Backward> Status run_any(const FftArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run<double, double, Backward>(a);
    case Dtype::bf16: return run<float, bf16, Backward>(a);
    case Dtype::f16: return run<float, f16, Backward>(a);
    default: return run<float, float, Backward>(a);
  }
}

}  // namespace

Status fft_forward(const FftArgs& a) { return run_any<false>(a); }
Status fft_backward(const FftArgs& a) { return run_any<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
