// Checks of the arguments of dilated convolutions in series on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

constexpr int64_t kMostRows = int64_t(1) << 40;  // of a history: products with it stay far from overflow

// `dilations` must outlive what is returned.
DilatedConvArgs arguments(const View& x, const View& weight, const View& history, const std::vector<int64_t>& dilations,
                   int activation, int threads) {
  DilatedConvArgs a{};
  a.dtype = activation_dtype(x, "x");
  const Dtype acc = accumulation(a.dtype);
  a.batch = x.shape[0], a.length = x.shape[1], a.channels = x.shape[2];
  a.levels = int64_t(dilations.size());
  a.weight = required(weight, "weight", acc, {a.levels, -1, a.channels});
  a.width = weight.shape[1];
  if (a.width < 1 || threads < 1 || activation < 0 || activation > 3)
    throw std::invalid_argument("dilated_conv: no taps, no threads or an unknown activation");
  for (const int64_t dilation : dilations) {
    if (dilation < 1 || dilation > kMostRows / a.width)
      throw std::invalid_argument("dilated_conv: a dilation is below 1, or too large");
    a.history_len += (a.width - 1) * dilation;
  }
  a.dilations = dilations.data();
  a.activation = Activation(activation);
  a.x = rows(x, "x", a.dtype, {a.batch, a.length, a.channels});
  a.history = optional(history, "history", acc, {a.batch, a.history_len, a.channels});
  a.threads = threads;
  return a;
}

int forward(View x, View weight, View history, std::vector<int64_t> dilations, int activation, View y, View after,
            int threads) {
  DilatedConvArgs a = arguments(x, weight, history, dilations, activation, threads);
  a.y = required(y, "y", a.dtype, {a.batch, a.length, a.channels});
  a.after = optional(after, "after", accumulation(a.dtype), {a.batch, a.history_len, a.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(dilated_conv_forward, a));
}

int backward(View x, View weight, View history, std::vector<int64_t> dilations, int activation, View dy, View dafter,
             View dx, View dweight, View dhistory, int threads) {
  DilatedConvArgs a = arguments(x, weight, history, dilations, activation, threads);
  const Dtype acc = accumulation(a.dtype);
  a.dy = rows(dy, "dy", a.dtype, {a.batch, a.length, a.channels});
  a.dafter = optional(dafter, "dafter", acc, {a.batch, a.history_len, a.channels});
  if (!dy.given() || dhistory.given() != history.given())
    throw std::invalid_argument("dilated_conv: the gradients do not match the inputs");
  a.dx = required(dx, "dx", a.dtype, {a.batch, a.length, a.channels});
  a.dweight = required(dweight, "dweight", acc, {a.levels, a.width, a.channels});
  a.dhistory = optional(dhistory, "dhistory", acc, {a.batch, a.history_len, a.channels});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(dilated_conv_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("dilated_conv_forward", &forward);
  m.def("dilated_conv_backward", &backward);
});

}  // namespace
}  // namespace seqconv
