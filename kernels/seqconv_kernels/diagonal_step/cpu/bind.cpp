// Checks of the arguments of a step of diagonal state spaces, on their way from Python to the kernels.
#include <nanobind/stl/tuple.h>

#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

// Addresses and sizes alone, which `diagonal_step/cpu.py` has just checked. Sizes are (batch, channels, modes,
// head_len), strides those of u's rows, the head's channels and lags.
int step(int dtype, bool complex, std::tuple<int64_t, int64_t, int64_t, int64_t> sizes,
         std::tuple<int64_t, int64_t, int64_t> strides, uintptr_t u, uintptr_t offsets, uintptr_t residues,
         uintptr_t head, uintptr_t skip, uintptr_t hidden, uintptr_t past, uintptr_t y, int threads) {
  DiagonalStepArgs a{};
  std::tie(a.batch, a.channels, a.modes, a.head_len) = sizes;
  std::tie(a.u_stride, a.head_channel, a.head_lag) = strides;
  const bool empty = a.batch * a.channels * a.modes == 0;
  if (!is_floating(dtype) || a.batch < 0 || a.channels < 0 || a.modes < 0 || a.head_len < 0 ||
      threads < 1 || (!empty && (!u || !offsets || !residues || !hidden || !y)) || (a.head_len && (!head || !past)))
    throw std::invalid_argument("diagonal_step: a dtype, a size or an address that no tensor has");
  a.dtype = Dtype(dtype), a.complex = complex, a.threads = threads;
  a.u = pointer(u), a.offsets = pointer(offsets), a.residues = pointer(residues), a.head = pointer(head);
  a.skip = pointer(skip), a.hidden = pointer(hidden), a.past = pointer(past), a.y = pointer(y);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(diagonal_step, a));
}

const Bindings bindings([](nb::module_& m) { m.def("diagonal_step", &step); });

}  // namespace
}  // namespace seqconv
