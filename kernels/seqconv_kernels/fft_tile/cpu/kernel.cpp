// A tile of an online convolution, channels in the lanes: N inputs, 2N taps h, the N outputs behind the inputs.
//
//   sums[i] += sum_j h[N + i - j] x[j]
//
// In the right-angle transform of size N the taps 0 .. N-1 put what is wanted of them into the imaginary part (the
// tail), the taps N .. 2N-1 into the real one. So the real part of a single product with the spectrum of
// h[N + k] - i h[k] is the whole tile.
#include "kernel.hpp"

#include "../../_cpp/fft.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// W channels.
template <class T> struct Block {
  static constexpr int W = Lanes<T>::count;
  const FftTileArgs& a;
  const Tables<T> tables;
  const int64_t channel;
  const int live;

  Block(const FftTileArgs& args, int64_t first)
      : a(args), tables(args.tables, args.size), channel(first), live(int(smaller(W, args.channels - first))) {}

  T* part(int which, int64_t j) const { return (T*)a.spectrum + (which * a.size + j) * a.channels + channel; }

  void spectrum(Complex<T>* k, Complex<T>* room) const {
    Vec<T>* h = (Vec<T>*)room;
    taps_in_lanes<T>((const T*)a.taps + channel * a.taps_stride, a.taps_stride, live, a.tap_count, 2 * a.size, h);
    enter_transform<T>(tables, a.size, k, [&](int64_t j) SEQCONV_LAMBDA {
      return Complex<T>{h[a.size + j], -h[j]};
    });
    walk_inside(FilterSpectrum<T>{tables, k, T(1) / T(a.size)}, a.size);
    for (int64_t j = 0; j < a.size; ++j) {
      store<T, T>(part(0, j), k[j].re, live);
      store<T, T>(part(1, j), k[j].im, live);
    }
  }
  void tile(Complex<T>* x, Complex<T>* k, int64_t b, int64_t head) const {
    const int64_t at = head * a.channels + channel;
    const T* from = (const T*)a.x.data + b * a.x.batch + at;
    T* to = (T*)a.sums + b * a.sums_batch + at;
    enter_transform<T>(tables, a.size, x, [&](int64_t j) SEQCONV_LAMBDA {
      return load<T, T>(from + j * a.x.time, live);
    });
    walk_inside(Convolve<T>{tables, x, k}, a.size);
    leave_real<T>(tables, a.size, x, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA {
      T* place = to + j * a.sums_time;
      store<T, T>(place, load<T, T>(place, live) + y, live);
    });
  }
  void tiles(Complex<T>* x, Complex<T>* k) const {
    for (int64_t j = 0; j < a.size; ++j) k[j] = {load<T, T>(part(0, j), live), load<T, T>(part(1, j), live)};
    for (int64_t b = 0; b < a.batch; ++b)
      for (int64_t head = 0; head < a.heads; ++head) tile(x, k, b, head);
  }
};

template <class T, bool Spectrum> Status run(const FftTileArgs& a) {
  using Work = Block<T>;
  const int64_t items = (a.channels + Work::W - 1) / Work::W;
  const int threads = int(smaller(a.threads, items));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(sizeof(Complex<T>) * a.size * 2);
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      const Work work(a, item * Work::W);
      Complex<T>* room = (Complex<T>*)scratch.data;
      if constexpr (Spectrum) work.spectrum(room, room + a.size);
      else work.tiles(room, room + a.size);
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

}  // namespace

Status fft_tile_spectrum(const FftTileArgs& a) {
  return a.dtype == Dtype::f64 ? run<double, true>(a) : run<float, true>(a);
}
Status fft_tile(const FftTileArgs& a) { return a.dtype == Dtype::f64 ? run<double, false>(a) : run<float, false>(a); }

}  // namespace seqconv::SEQCONV_ISA
