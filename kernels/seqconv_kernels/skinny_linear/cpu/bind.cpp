// Checks of the arguments of the linear layer of few rows, on their way from Python to the kernels.
#include <nanobind/stl/tuple.h>

#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

constexpr int kInt8 = -1;  // as `skinny_linear/cpu.py` calls the dtype of an int8 weight

// Addresses and sizes alone, which `skinny_linear/cpu.py` has just checked. Sizes are (rows, inputs, outputs, groups),
// strides those of the rows of x and of the weight.
int skinny_linear(int dtype, int weight, std::tuple<int64_t, int64_t, int64_t, int64_t> sizes,
                  std::tuple<int64_t, int64_t> strides, uintptr_t x, uintptr_t w, uintptr_t scale, uintptr_t bias,
                  uintptr_t y, int threads) {
  SkinnyLinearArgs a{};
  std::tie(a.rows, a.inputs, a.outputs, a.groups) = sizes;
  std::tie(a.x_stride, a.w_stride) = strides;
  a.int8 = weight == kInt8;
  const bool empty = a.rows * a.inputs * a.outputs == 0;
  if (!is_floating(dtype) || !(a.int8 || is_floating(weight)) || a.rows < 0 || a.inputs < 0 || a.outputs < 0 ||
      a.groups < 1 || a.inputs % a.groups || threads < 1 || (!empty && (!x || !w || !y || (a.int8 && !scale))) ||
      (!a.int8 && accumulation(Dtype(weight)) != accumulation(Dtype(dtype))))
    throw std::invalid_argument("skinny_linear: a dtype, a size or an address that no tensor has");
  a.dtype = Dtype(dtype), a.weight = Dtype(a.int8 ? dtype : weight), a.threads = threads;
  a.x = pointer(x), a.w = pointer(w), a.scale = pointer(scale), a.bias = pointer(bias), a.y = pointer(y);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(skinny_linear, a));
}

const Bindings bindings([](nb::module_& m) { m.def("skinny_linear", &skinny_linear); });

}  // namespace
}  // namespace seqconv
