// Checks of the arguments of a step of diagonal state spaces, on their way from Python to the kernels.
#include <stdexcept>

#include "../native_cpp/bind.hpp"
#include "cpu.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

int step(View u, View offsets, View residues, View head, View skip, View hidden, View past, bool complex, View y,
         int threads) {
  DiagonalStepArgs a{};
  if (u.shape.size() != 2 || u.dtype < 0 || u.dtype > int(Dtype::f16) || hidden.shape.size() != 3 || threads < 1)
    throw std::invalid_argument("diagonal_step: u must be (batch, channels) and hidden (batch, channels, numbers)");
  a.dtype = Dtype(u.dtype);
  a.complex = complex;
  const Dtype acc = accumulation(a.dtype);
  const int64_t numbers = hidden.shape[2];
  a.batch = u.shape[0], a.channels = u.shape[1], a.modes = complex ? numbers / 2 : numbers;
  if (complex && numbers % 2) throw std::invalid_argument("diagonal_step: complex numbers are pairs");
  u.check_dense_rows("u", a.dtype, {a.batch, a.channels});
  a.u = u.data<void>(), a.u_stride = u.stride(0);
  a.offsets = required(offsets, "offsets", acc, {a.channels, numbers});
  a.residues = required(residues, "residues", acc, {a.channels, numbers});
  a.hidden = required(hidden, "hidden", acc, {a.batch, a.channels, numbers});
  if (head.given()) {
    head.check("head", acc, {a.channels, -1});
    a.reach = head.shape[1];
    a.head = head.data<void>(), a.head_channel = head.stride(0), a.head_lag = head.stride(1);
    a.past = required(past, "past", acc, {a.batch, a.reach, a.channels});
  }
  a.skip = optional(skip, "skip", acc, {a.channels});
  a.y = required(y, "y", a.dtype, {a.batch, a.channels});
  a.threads = threads;
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(diagonal_step, a));
}

}  // namespace

void bind_diagonal_step(nb::module_& m) { m.def("diagonal_step", &step); }

}  // namespace seqconv
