// Checks of the diagonal scan's arguments on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

LinearScanArgs arguments(const View& a, const View& x, const View& initial, const View& bounds, const View& h,
                         bool complex, int threads) {
  LinearScanArgs s{};
  s.dtype = activation_dtype(x, "x");
  s.batch = x.shape[0], s.length = x.shape[1], s.channels = x.shape[2];
  if ((complex && (s.channels % 2 || accumulation(s.dtype) != s.dtype)) || threads < 1 || !a.given())
    throw std::invalid_argument("linear_scan: a is missing, or complex numbers are not pairs of float32 or float64");
  const std::vector<int64_t> sizes = {s.batch, s.length, s.channels};
  s.a = rows(a, "a", s.dtype, sizes), s.x = rows(x, "x", s.dtype, sizes);
  s.segments = segments(bounds, s.batch, s.length);
  s.initial = optional(initial, "state", accumulation(s.dtype), {s.segments.count, s.channels});
  s.h = required(h, "h", s.dtype, sizes);
  s.complex = complex, s.threads = threads;
  return s;
}

int forward(View a, View x, View initial, View bounds, View h, View final_state, bool complex, int threads) {
  LinearScanArgs s = arguments(a, x, initial, bounds, h, complex, threads);
  s.final_state = required(final_state, "final_state", accumulation(s.dtype), {s.segments.count, s.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_scan_forward, s));
}

int backward(View a, View initial, View bounds, View h, View dh, View dfinal, View da, View dx, View dinitial,
             bool complex, int threads) {
  LinearScanArgs s = arguments(a, dh, initial, bounds, h, complex, threads);
  const std::vector<int64_t> state = {s.segments.count, s.channels};
  s.dh = s.x;
  s.dfinal = optional(dfinal, "dfinal", accumulation(s.dtype), state);
  s.da = required(da, "da", s.dtype, h.shape), s.dx = required(dx, "dx", s.dtype, h.shape);
  s.dinitial = required(dinitial, "dinitial", accumulation(s.dtype), state);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_scan_backward, s));
}

const Bindings bindings([](nb::module_& m) {
  m.def("linear_scan_forward", &forward);
  m.def("linear_scan_backward", &backward);
});

}  // namespace
}  // namespace seqconv
