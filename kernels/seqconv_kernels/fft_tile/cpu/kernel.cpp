// A tile of an online convolution: N known inputs, 2N taps h, and what they add to the N outputs after the inputs.
//
//   sums[i] += sum_j h[N + i - j] x[j],   0 <= i, j < N
//
// A causal convolution would need a transform of 2N points and drop half of its outputs. In the right-angle transform
// of N points (fft.hpp) the taps 0 .. N-1 leave the wanted outputs in the imaginary part (the tail), the taps N .. 2N-1
// in the real part. So the real part of one product with the spectrum of h[N + k] - i h[k] is the whole tile, at half
// the cost.
//
// Work: an item is one vector of W channels, for all rows of the batch and all heads that share its spectrum. The
// signal in lanes, N complex values, and the spectrum are in scratch of the thread; rows of x are read by the first
// pass and rows of sums are added to by the last one, so nothing is copied.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/fft.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

// A vector of W channels.
template <class T> struct Block {
  static constexpr int W = Lanes<T>::count;
  const FftTileArgs& a;
  const Tables<T> tables;
  const int64_t channel;
  const int live;

  Block(const FftTileArgs& args, int64_t first)
      : a(args), tables(args.tables, args.size), channel(first), live(int(min(W, args.channels - first))) {}

  // Value j of the spectrum's real (0) or imaginary (1) part.
  T* component(int which, int64_t j) const { return (T*)a.spectrum + (which * a.size + j) * a.channels + channel; }

  // The spectrum of h[N + k] - i h[k], divided by N; `scratch` holds the 2N taps in lanes.
  void spectrum(Complex<T>* k, Complex<T>* scratch) const {
    Vec<T>* h = (Vec<T>*)scratch;
    taps_in_lanes<T>((const T*)a.taps + channel * a.taps_stride, a.taps_stride, live, a.tap_count, 2 * a.size, h);
    forward_first_pass<T>(tables, a.size, k, [&](int64_t j) SEQCONV_LAMBDA {
      return Complex<T>{h[a.size + j], -h[j]};
    });
    recurse_inside(FilterSpectrum<T>{tables, k, T(1) / T(a.size)}, a.size);
    for (int64_t j = 0; j < a.size; ++j) {
      store<T, T>(component(0, j), k[j].re, live);
      store<T, T>(component(1, j), k[j].im, live);
    }
  }
  void tile(Complex<T>* x, Complex<T>* k, int64_t b, int64_t head) const {
    const int64_t at = head * a.channels + channel;
    const T* from = (const T*)a.x.data + b * a.x.batch + at;
    T* to = (T*)a.sums + b * a.sums_batch + at;
    forward_first_pass<T>(tables, a.size, x, [&](int64_t j) SEQCONV_LAMBDA {
      return load<T, T>(from + j * a.x.time, live);
    });
    recurse_inside(Convolve<T>{tables, x, k}, a.size);
    inverse_last_pass<T>(tables, a.size, x, [&](int64_t j, Vec<T> y) SEQCONV_LAMBDA {
      T* place = to + j * a.sums_time;
      store<T, T>(place, load<T, T>(place, live) + y, live);
    });
  }
  void tiles(Complex<T>* x, Complex<T>* k) const {
    for (int64_t j = 0; j < a.size; ++j) k[j] = {load<T, T>(component(0, j), live), load<T, T>(component(1, j), live)};
    for (int64_t b = 0; b < a.batch; ++b)
      for (int64_t head = 0; head < a.heads; ++head) tile(x, k, b, head);
  }
};

template <class T, bool Spectrum> Status run(const FftTileArgs& a) {
  using Work = Block<T>;
  const int64_t items = ceil_div(a.channels, Work::W);
  const int threads = int(max(1, min(a.threads, items)));  // called for large tiles only
  return for_each_item(items, threads, sizeof(Complex<T>) * a.size * 2, [&](int64_t item, void* scratch) {
    const Work work(a, item * Work::W);
    Complex<T>* values = (Complex<T>*)scratch;
    if constexpr (Spectrum) work.spectrum(values, values + a.size);
    else work.tiles(values, values + a.size);
  });
}

}  // namespace

Status fft_tile_spectrum(const FftTileArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) { return run<decltype(acc), true>(a); });
}
Status fft_tile(const FftTileArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) { return run<decltype(acc), false>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
