// Checks of the arguments of the direct sums of online convolutions, on their way from Python to the kernels.
#include <nanobind/stl/tuple.h>

#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

// Addresses and sizes alone, which `direct_conv/cpu.py` has just checked. Sizes are (batch, width, ring, row, count).
int step(int dtype, std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> sizes, int64_t u_stride, uintptr_t u,
         uintptr_t taps, uintptr_t past, uintptr_t sums, uintptr_t y) {
  DirectStepArgs a{};
  std::tie(a.batch, a.width, a.ring, a.row, a.count) = sizes;
  const bool empty = a.batch * a.width == 0;
  if (!is_floating(dtype) || a.batch < 0 || a.width < 0 || a.row < 0 || a.row >= a.ring ||
      a.count < 1 || a.count > a.ring || (!empty && (!u || !taps || !past || !sums || !y)))
    throw std::invalid_argument("direct_conv_step: a dtype, a size or an address that no tensor has");
  a.dtype = Dtype(dtype), a.u_stride = u_stride;
  a.u = pointer(u), a.taps = pointer(taps), a.past = pointer(past), a.sums = pointer(sums), a.y = pointer(y);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(direct_step, a));
}

int tile(View x, View taps, int64_t lag, View out, int threads) {
  DirectTileArgs a{};
  a.dtype = activation_dtype(x, "x");
  if (accumulation(a.dtype) != a.dtype || out.shape.size() != 3 || threads < 1)
    throw std::invalid_argument("direct_conv_tile: x and out must be (batch, length, width) of float32 or float64");
  a.batch = x.shape[0], a.inputs = x.shape[1], a.width = x.shape[2], a.outputs = out.shape[1], a.lag = lag;
  a.x = rows(x, "x", a.dtype, {a.batch, a.inputs, a.width});
  a.taps = required(taps, "taps", a.dtype, {-1, a.width});
  out.check_dense_rows("out", a.dtype, {a.batch, -1, a.width});
  if (a.outputs < 1 || lag < a.inputs - 1 || lag + a.outputs > taps.shape[0])
    throw std::invalid_argument("direct_conv_tile: lags outside the taps");
  a.out = out.data<void>(), a.out_batch = out.stride(0), a.out_time = out.stride(1);
  a.threads = threads;
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(direct_tile, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("direct_conv_step", &step);
  m.def("direct_conv_tile", &tile);
});

}  // namespace
}  // namespace seqconv
