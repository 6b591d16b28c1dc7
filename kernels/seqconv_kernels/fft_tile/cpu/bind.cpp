// Checks of the arguments of a tile by FFT, on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "../../_cpp/fft_sizes.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

FftTileArgs arguments(const View& spectrum, const View& tables, int threads) {
  FftTileArgs a{};
  if (spectrum.shape.size() != 3 || (spectrum.dtype != int(Dtype::f32) && spectrum.dtype != int(Dtype::f64)))
    throw std::invalid_argument("fft_tile: a spectrum is (2, size, channels) of float32 or float64");
  a.dtype = Dtype(spectrum.dtype);
  a.size = spectrum.shape[1], a.channels = spectrum.shape[2];
  if (a.size < kLeastSize || odd_factor(a.size) != 1 || threads < 1)
    throw std::invalid_argument("fft_tile: the size must be a power of two, at least 4");
  a.spectrum = required(spectrum, "spectrum", a.dtype, {2, a.size, a.channels});
  a.tables = required(tables, "tables", a.dtype, {table_elements(a.size)});
  a.threads = threads;
  return a;
}

int spectrum(View taps, View tables, View out, int threads) {
  FftTileArgs a = arguments(out, tables, threads);
  taps.check_dense_rows("taps", a.dtype, {a.channels, -1});
  a.taps = taps.data<void>(), a.tap_count = taps.shape[1], a.taps_stride = taps.stride(0);
  if (a.tap_count > 2 * a.size) throw std::invalid_argument("fft_tile: more taps than a tile of this size has");
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(fft_tile_spectrum, a));
}

int tile(View x, View spectrum, View tables, View sums, int threads) {
  FftTileArgs a = arguments(spectrum, tables, threads);
  if (x.shape.size() != 3 || a.channels < 1 || x.shape[2] % a.channels != 0)
    throw std::invalid_argument("fft_tile: x must be (batch, size, heads * channels)");
  a.batch = x.shape[0], a.heads = x.shape[2] / a.channels;
  const std::vector<int64_t> sizes = {a.batch, a.size, x.shape[2]};
  a.x = rows(x, "x", a.dtype, sizes);
  if (!x.given()) throw std::invalid_argument("fft_tile: no x");
  sums.check_dense_rows("sums", a.dtype, sizes);
  a.sums = sums.data<void>(), a.sums_batch = sums.stride(0), a.sums_time = sums.stride(1);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(fft_tile, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("fft_tile_spectrum", &spectrum);
  m.def("fft_tile", &tile);
});

}  // namespace
}  // namespace seqconv
