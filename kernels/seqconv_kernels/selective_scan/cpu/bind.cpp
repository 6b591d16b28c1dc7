// Checks of the selective scan's arguments on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

struct Inputs {
  View u, delta, A, B, C, D, z, bias, initial, bounds;
};

ScanWeights weights(const View& w, const char* name, const ScanArgs& a) {
  if (w.shape.size() == 3) {
    w.check(name, a.dtype, {a.batch, a.length, a.d_state});
    return {w.data<void>(), w.stride(0), w.stride(1), 0, w.stride(2)};
  }
  w.check(name, a.dtype, {a.batch, a.length, a.groups, a.d_state});
  return {w.data<void>(), w.stride(0), w.stride(1), w.stride(2), w.stride(3)};
}
// Activations whose groups are blocks of channels.
GroupedRows blocks(Rows rows, const ScanArgs& a) { return {rows, a.channels / a.groups}; }

ScanArgs arguments(const Inputs& in, bool softplus, int threads) {
  ScanArgs a{};
  a.dtype = activation_dtype(in.u, "u");
  const size_t axes = in.B.shape.size();
  if (axes != 3 && axes != 4)
    throw std::invalid_argument("selective_scan: B must be (batch, length[, groups], d_state)");
  a.batch = in.u.shape[0], a.length = in.u.shape[1], a.channels = in.u.shape[2];
  a.groups = axes == 4 ? in.B.shape[2] : 1, a.d_state = in.B.shape[axes - 1];
  if (a.groups < 1 || a.d_state < 1 || a.channels % a.groups != 0 || threads < 1)
    throw std::invalid_argument("selective_scan: empty state or groups, or groups that do not divide channels");
  a.segments = segments(in.bounds, a.batch, a.length);
  const Dtype acc = accumulation(a.dtype);
  const std::vector<int64_t> activation = {a.batch, a.length, a.channels};
  a.u = blocks(rows(in.u, "u", a.dtype, activation), a);
  a.delta = blocks(rows(in.delta, "delta", a.dtype, activation), a);
  a.z = blocks(rows(in.z, "z", a.dtype, activation), a);
  if (!in.delta.given()) throw std::invalid_argument("selective_scan: delta is missing");
  a.B = weights(in.B, "B", a), a.C = weights(in.C, "C", a);
  a.A = required(in.A, "A", acc, {a.channels, a.d_state});
  a.D = optional(in.D, "D", acc, {a.channels}), a.bias = optional(in.bias, "delta_bias", acc, {a.channels});
  a.initial = optional(in.initial, "initial_state", acc, {a.segments.count, a.channels, a.d_state});
  a.softplus = softplus;
  a.threads = threads;
  return a;
}

int forward(View u, View delta, View A, View B, View C, View D, View z, View bias, View initial, View bounds,
            bool softplus, View y, View final_state, View checkpoints, int threads) {
  ScanArgs a = arguments({u, delta, A, B, C, D, z, bias, initial, bounds}, softplus, threads);
  const Dtype acc = accumulation(a.dtype);
  a.y = blocks(required_rows(y, "y", a.dtype, {a.batch, a.length, a.channels}), a);
  a.final_state = required(final_state, "final_state", acc, {a.segments.count, a.channels, a.d_state});
  if (checkpoints.given())
    a.checkpoints = required(checkpoints, "checkpoints", acc, {ScanPlan(a).checkpoint_elements(a)});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(scan_forward, a));
}

int backward(View u, View delta, View A, View B, View C, View D, View z, View bias, View bounds, bool softplus,
             View checkpoints, View dy, View dfinal, View du, View ddelta, View dA, View dB, View dC, View dD, View dz,
             View dbias, View dinitial, int threads) {
  ScanArgs a = arguments({u, delta, A, B, C, D, z, bias, View{}, bounds}, softplus, threads);
  const Dtype acc = accumulation(a.dtype);
  const std::vector<int64_t> activation = {a.batch, a.length, a.channels};
  const std::vector<int64_t> state = {a.segments.count, a.channels, a.d_state};
  a.checkpoints = required(checkpoints, "checkpoints", acc, {ScanPlan(a).checkpoint_elements(a)});
  a.dy = blocks(required_rows(dy, "dy", a.dtype, activation), a);
  a.dfinal = optional(dfinal, "dfinal", acc, state);
  a.du = blocks(required_rows(du, "du", a.dtype, activation), a);
  a.ddelta = blocks(required_rows(ddelta, "ddelta", a.dtype, activation), a);
  a.dz = blocks(rows(dz, "dz", a.dtype, activation), a);
  if (dz.given() != z.given()) throw std::invalid_argument("selective_scan: z or dz is missing");
  a.dA = optional(dA, "dA", acc, {a.channels, a.d_state});
  a.dD = optional(dD, "dD", acc, {a.channels}), a.dbias = optional(dbias, "ddelta_bias", acc, {a.channels});
  a.dB = optional(dB, "dB", a.dtype, B.shape), a.dC = optional(dC, "dC", a.dtype, B.shape);
  a.dinitial = optional(dinitial, "dinitial", acc, state);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(scan_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("selective_scan_forward", &forward);
  m.def("selective_scan_backward", &backward);
});

}  // namespace
}  // namespace seqconv
