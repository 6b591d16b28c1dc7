// Checks of the cross scan's arguments on their way from Python to the kernels, which are those of the selective scan.
#include "../../_cpp/bind.hpp"
#include "../../selective_scan/cpu/kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

struct Inputs {
  View u, delta, A, B, C, D, bias, orders;
};

// (batch, length, directions, channels), of which the channels are dense.
GroupedRows directed_rows(const View& x, const char* name, const ScanArgs& a) {
  x.check_dense_rows(name, a.dtype, {a.batch, a.length, a.groups, a.channels / a.groups});
  GroupedRows rows;
  rows.data = x.data<void>(), rows.batch = x.stride(0), rows.time = x.stride(1), rows.group = x.stride(2);
  return rows;
}
// (batch, length, channels): all directions share it.
GroupedRows shared_rows(const View& x, const char* name, Dtype dtype, const ScanArgs& a) {
  return {required_rows(x, name, dtype, {a.batch, a.length, a.channels / a.groups}), 0};
}
ScanWeights weights(const View& w, const char* name, const ScanArgs& a) {
  w.check(name, a.dtype, {a.batch, a.length, a.groups, a.d_state});
  return {w.data<void>(), w.stride(0), w.stride(1), w.stride(2), w.stride(3)};
}
// The kernels index memory by the orders, so that every one of their values is checked.
const int64_t* places(const View& orders, const ScanArgs& a) {
  const int64_t rows = orders.shape.size() == 3 && orders.shape[0] == 1 ? 1 : a.batch;
  orders.check_contiguous("orders", Dtype::i64, {rows, a.groups, a.length});
  const int64_t* first = orders.data<const int64_t>();
  bool inside = true;
  for (int64_t i = 0; i < rows * a.groups * a.length; ++i) inside &= uint64_t(first[i]) < uint64_t(a.length);
  if (!inside) throw std::invalid_argument("cross_selective_scan: an order leaves the sequence");
  return first;
}

ScanArgs arguments(const Inputs& in, bool softplus, int threads) {
  ScanArgs a{};
  a.dtype = activation_dtype(in.u, "u");
  if (in.B.shape.size() != 4)
    throw std::invalid_argument("cross_selective_scan: B must be (batch, length, directions, d_state)");
  a.batch = in.u.shape[0], a.length = in.u.shape[1], a.groups = in.B.shape[2], a.d_state = in.B.shape[3];
  a.channels = in.u.shape[2] * a.groups;
  if (a.groups < 1 || a.d_state < 1 || threads < 1)
    throw std::invalid_argument("cross_selective_scan: no directions or states");
  a.segments = segments(View{}, a.batch, a.length);
  const Dtype acc = accumulation(a.dtype);
  a.u = shared_rows(in.u, "u", a.dtype, a), a.delta = directed_rows(in.delta, "delta", a);
  a.B = weights(in.B, "B", a), a.C = weights(in.C, "C", a);
  a.A = required(in.A, "A", acc, {a.channels, a.d_state});
  a.D = optional(in.D, "D", acc, {a.channels}), a.bias = optional(in.bias, "delta_bias", acc, {a.channels});
  a.orders = places(in.orders, a);
  a.orders_batch = in.orders.shape[0] == 1 ? 0 : a.groups * a.length;
  a.softplus = softplus, a.threads = threads;
  return a;
}

int forward(View u, View delta, View A, View B, View C, View D, View bias, View orders, bool softplus, View y,
            View checkpoints, int threads) {
  ScanArgs a = arguments({u, delta, A, B, C, D, bias, orders}, softplus, threads);
  const Dtype acc = accumulation(a.dtype);
  a.y = shared_rows(y, "y", acc, a);
  if (checkpoints.given())
    a.checkpoints = required(checkpoints, "checkpoints", acc, {ScanPlan(a).checkpoint_elements(a)});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(scan_forward, a));
}

int backward(View u, View delta, View A, View B, View C, View D, View bias, View orders, bool softplus,
             View checkpoints, View dy, View du, View ddelta, View dA, View dB, View dC, View dD, View dbias,
             int threads) {
  ScanArgs a = arguments({u, delta, A, B, C, D, bias, orders}, softplus, threads);
  const Dtype acc = accumulation(a.dtype);
  a.checkpoints = required(checkpoints, "checkpoints", acc, {ScanPlan(a).checkpoint_elements(a)});
  a.dy = shared_rows(dy, "dy", a.dtype, a), a.du = shared_rows(du, "du", acc, a);
  a.ddelta = directed_rows(ddelta, "ddelta", a);
  a.dA = optional(dA, "dA", acc, {a.channels, a.d_state});
  a.dD = optional(dD, "dD", acc, {a.channels}), a.dbias = optional(dbias, "ddelta_bias", acc, {a.channels});
  a.dB = optional(dB, "dB", a.dtype, B.shape), a.dC = optional(dC, "dC", a.dtype, B.shape);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(scan_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("cross_selective_scan_forward", &forward);
  m.def("cross_selective_scan_backward", &backward);
});

}  // namespace
}  // namespace seqconv
