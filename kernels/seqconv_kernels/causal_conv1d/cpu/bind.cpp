// Checks of the short causal convolution's arguments on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

ConvArgs arguments(const View& x, const View& weight, const View& bias, const View& initial, const View& bounds,
                   bool silu, int threads) {
  ConvArgs a{};
  a.dtype = activation_dtype(x, "x");
  a.batch = x.shape[0], a.length = x.shape[1], a.channels = x.shape[2];
  const Dtype acc = accumulation(a.dtype);
  a.weight = required(weight, "weight", acc, {a.channels, -1});
  a.width = weight.shape[1];
  if (a.width < 1 || threads < 1) throw std::invalid_argument("causal_conv1d: no taps or no threads");
  a.segments = segments(bounds, a.batch, a.length);
  a.x = rows(x, "x", a.dtype, {a.batch, a.length, a.channels});
  a.bias = optional(bias, "bias", acc, {a.channels});
  a.initial = optional(initial, "initial_state", acc, {a.segments.count, a.width - 1, a.channels});
  a.silu = silu;
  a.threads = threads;
  return a;
}

int forward(View x, View weight, View bias, View initial, View bounds, bool silu, View y, int threads) {
  ConvArgs a = arguments(x, weight, bias, initial, bounds, silu, threads);
  a.y = required_rows(y, "y", a.dtype, {a.batch, a.length, a.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(conv_forward, a));
}

int backward(View x, View weight, View bias, View initial, View bounds, bool silu, View dy, View dx, View dweight,
             View dbias, View dinitial, int threads) {
  ConvArgs a = arguments(x, weight, bias, initial, bounds, silu, threads);
  const Dtype acc = accumulation(a.dtype);
  const std::vector<int64_t> activation = {a.batch, a.length, a.channels};
  a.dy = required_rows(dy, "dy", a.dtype, activation);
  a.dx = required_rows(dx, "dx", a.dtype, activation);
  a.dweight = required(dweight, "dweight", acc, {a.channels, a.width});
  a.dbias = optional(dbias, "dbias", acc, {a.channels});
  a.dinitial = required(dinitial, "dinitial", acc, {a.segments.count, a.width - 1, a.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(conv_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("causal_conv1d_forward", &forward);
  m.def("causal_conv1d_backward", &backward);
});

}  // namespace
}  // namespace seqconv
