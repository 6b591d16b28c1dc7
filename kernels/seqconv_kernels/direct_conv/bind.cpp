// Checks of the arguments of the direct sums of online convolutions, on their way from Python to the kernels.
#include <stdexcept>

#include "../native_cpp/bind.hpp"
#include "cpu.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

int step(View u, View taps, View past, View sums, int64_t row, int64_t count, View y) {
  DirectStepArgs a{};
  if (u.shape.size() != 2 || u.dtype < 0 || u.dtype > int(Dtype::f16) || past.shape.size() != 3)
    throw std::invalid_argument("direct_conv_step: u must be (batch, width) and past (batch, ring, width)");
  a.dtype = Dtype(u.dtype);
  const Dtype acc = accumulation(a.dtype);
  a.batch = u.shape[0], a.width = u.shape[1], a.ring = past.shape[1], a.row = row, a.count = count;
  u.check_dense_rows("u", a.dtype, {a.batch, a.width});
  a.u = u.data<void>(), a.u_stride = u.stride(0);
  a.taps = required(taps, "taps", acc, {-1, a.width});
  if (row < 0 || row >= a.ring || count < 1 || count > a.ring || count > taps.shape[0])
    throw std::invalid_argument("direct_conv_step: a row outside the ring, or more taps than rows");
  const std::vector<int64_t> rows = {a.batch, a.ring, a.width};
  a.past = required(past, "past", acc, rows);
  a.sums = required(sums, "sums", acc, rows);
  a.y = required(y, "y", a.dtype, {a.batch, a.width});
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
