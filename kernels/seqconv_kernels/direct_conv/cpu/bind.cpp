// Checks of the arguments of the direct sums of online convolutions, on their way from Python to the kernels.
#include <nanobind/stl/tuple.h>

#include <stdexcept>

#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

// Addresses and sizes alone, as `direct_conv/cpu.py` has just checked them: packing a view of every tensor would take
// longer than the step. Sizes are (batch, width, ring, row, count).
int step(int dtype, std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> sizes, int64_t u_stride, uintptr_t u,
         uintptr_t taps, uintptr_t past, uintptr_t sums, uintptr_t y) {
  DirectStepArgs a{};
  std::tie(a.batch, a.width, a.ring, a.row, a.count) = sizes;
  const bool empty = a.batch * a.width == 0;
  if (dtype < 0 || dtype > int(Dtype::f16) || a.batch < 0 || a.width < 0 || a.row < 0 || a.row >= a.ring ||
      a.count < 1 || a.count > a.ring || (!empty && (!u || !taps || !past || !sums || !y)))
    throw std::invalid_argument("direct_conv_step: a dtype, a size or an address that no tensor has");
  const auto at = [](uintptr_t address) { return reinterpret_cast<void*>(address); };
  a.dtype = Dtype(dtype), a.u_stride = u_stride;
  a.u = at(u), a.taps = at(taps), a.past = at(past), a.sums = at(sums), a.y = at(y);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(direct_step, a));
}

int tile(View x, View taps, int64_t lag, View out, int threads) {
  DirectTileArgs a{};
  a.dtype = activation_dtype(x, "x");
  if (accumulation(a.dtype) != a.dtype || out.shape.size() != 3 || threads < 1)
    throw std::invalid_argument("direct_conv_tile: x and out must be (batch, length, width) of float32 or float64");
  a.batch = x.shape[0], a.heard = x.shape[1], a.width = x.shape[2], a.due = out.shape[1], a.lag = lag;
  a.x = rows(x, "x", a.dtype, {a.batch, a.heard, a.width});
  a.taps = required(taps, "taps", a.dtype, {-1, a.width});
  out.check_dense_rows("out", a.dtype, {a.batch, -1, a.width});
  if (a.due < 1 || lag < a.heard - 1 || lag + a.due > taps.shape[0])
    throw std::invalid_argument("direct_conv_tile: lags outside the taps");
  a.out = out.data<void>(), a.out_batch = out.stride(0), a.out_time = out.stride(1);
  a.threads = threads;
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(direct_tile, a));
}

}  // namespace

void bind_direct_conv(nb::module_& m) {
  m.def("direct_conv_step", &step);
  m.def("direct_conv_tile", &tile);
}

}  // namespace seqconv
