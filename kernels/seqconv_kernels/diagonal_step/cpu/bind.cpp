// Checks of the arguments of a step of diagonal state spaces, on their way from Python to the kernels.
#include <nanobind/stl/tuple.h>

#include <stdexcept>

#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

// Addresses and sizes alone, as `diagonal_step/cpu.py` has just checked them: packing a view of every tensor would take
// longer than the step. Sizes are (batch, channels, modes, reach), strides those of u's rows, the head's channels and lags.
int step(int dtype, bool complex, std::tuple<int64_t, int64_t, int64_t, int64_t> sizes,
         std::tuple<int64_t, int64_t, int64_t> strides, uintptr_t u, uintptr_t offsets, uintptr_t residues,
         uintptr_t head, uintptr_t skip, uintptr_t hidden, uintptr_t past, uintptr_t y, int threads) {
  DiagonalStepArgs a{};
  std::tie(a.batch, a.channels, a.modes, a.reach) = sizes;
  std::tie(a.u_stride, a.head_channel, a.head_lag) = strides;
  const bool empty = a.batch * a.channels * a.modes == 0;
  if (dtype < 0 || dtype > int(Dtype::f16) || a.batch < 0 || a.channels < 0 || a.modes < 0 || a.reach < 0 ||
      threads < 1 || (!empty && (!u || !offsets || !residues || !hidden || !y)) || (a.reach && (!head || !past)))
    throw std::invalid_argument("diagonal_step: a dtype, a size or an address that no tensor has");
  const auto at = [](uintptr_t address) { return reinterpret_cast<void*>(address); };
  a.dtype = Dtype(dtype), a.complex = complex, a.threads = threads;
  a.u = at(u), a.offsets = at(offsets), a.residues = at(residues), a.head = at(head), a.skip = at(skip);
  a.hidden = at(hidden), a.past = at(past), a.y = at(y);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(diagonal_step, a));
}

}  // namespace

void bind_diagonal_step(nb::module_& m) { m.def("diagonal_step", &step); }

}  // namespace seqconv
