// Checks of the diagonal scan's arguments on their way from Python to the kernels.
#include <stdexcept>

#include "../native_cpp/bind.hpp"
#include "cpu.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

LinearScanArgs arguments(const View& a, const View& x, const View& initial, const View& h, bool complex, int threads) {
  LinearScanArgs s{};
  s.dtype = activation_dtype(x, "x");
  s.batch = x.shape[0], s.length = x.shape[1], s.channels = x.shape[2];
  if ((s.dtype != Dtype::f32 && s.dtype != Dtype::f64) || (complex && s.channels % 2) || threads < 1 || !a.given())
    throw std::invalid_argument("linear_scan: x must be float32 or float64, with a given, complex numbers in pairs");
  const std::vector<int64_t> sizes = {s.batch, s.length, s.channels};
  s.a = rows(a, "a", s.dtype, sizes), s.x = rows(x, "x", s.dtype, sizes);
  s.initial = required(initial, "state", s.dtype, {s.batch, s.channels});
  s.h = required(h, "h", s.dtype, sizes);
  s.complex = complex, s.threads = threads;
  return s;
}

int forward(View a, View x, View initial, View h, bool complex, int threads) {
  const LinearScanArgs s = arguments(a, x, initial, h, complex, threads);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_scan_forward, s));
}

int backward(View a, View initial, View h, View dh, View da, View dx, View dinitial, bool complex, int threads) {
  LinearScanArgs s = arguments(a, dh, initial, h, complex, threads);
  s.dh = s.x;
  s.da = required(da, "da", s.dtype, h.shape), s.dx = required(dx, "dx", s.dtype, h.shape);
  s.dinitial = required(dinitial, "dinitial", s.dtype, initial.shape);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_scan_backward, s));
}

}  // namespace

void bind_linear_scan(nb::module_& m) {
  m.def("linear_scan_forward", &forward);
  m.def("linear_scan_backward", &backward);
}

}  // namespace seqconv
