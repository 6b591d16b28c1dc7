// Checks of the selective scan's arguments on their way from Python to the kernels.
#include <new>
#include <stdexcept>

#include "../native_cpp/bind.hpp"
#include "cpu.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

struct Inputs {
  View u, delta, A, B, C, D, z, bias, initial, bounds;
};

ScanInput input(const View& x, const char* name, const ScanArgs& a) {
  if (!x.given()) return {};
  x.check_dense_rows(name, a.dtype, {a.batch, a.length, a.channels});
  return {x.data<void>(), x.stride(0), x.stride(1)};
}
ScanWeights weights(const View& w, const char* name, const ScanArgs& a) {
  w.check(name, a.dtype, {a.batch, a.length, a.groups, a.d_state});
  return {w.data<void>(), w.stride(0), w.stride(1), w.stride(2), w.stride(3)};
}
void* dense(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) return nullptr;
  x.check_contiguous(name, dtype, sizes);
  return x.data<void>();
}
void* wanted(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) throw std::invalid_argument(std::string("selective_scan: ") + name + " is missing");
  return dense(x, name, dtype, sizes);
}

ScanArgs arguments(const Inputs& in, bool softplus, int threads) {
  if (in.u.dtype < 0 || in.u.dtype > int(Dtype::f16) || in.u.shape.size() != 3)
    throw std::invalid_argument("selective_scan: u must be (batch, length, channels) of a floating dtype");
  if (in.B.shape.size() != 4) throw std::invalid_argument("selective_scan: B must be (batch, length, groups, d_state)");
  ScanArgs a{};
  a.dtype = Dtype(in.u.dtype);
  a.batch = in.u.shape[0], a.length = in.u.shape[1], a.channels = in.u.shape[2];
  a.groups = in.B.shape[2], a.d_state = in.B.shape[3];
  if (a.length < 1 || a.groups < 1 || a.d_state < 1 || a.channels % a.groups != 0 || threads < 1)
    throw std::invalid_argument("selective_scan: empty length, state or groups, or groups that do not divide channels");
  a.segments = a.batch;
  if (in.bounds.given()) {
    in.bounds.check_contiguous("cu_seqlens", Dtype::i64, {-1});
    a.bounds = in.bounds.data<int64_t>();
    a.segments = in.bounds.shape[0] - 1;
    bool rising = a.batch == 1 && a.segments >= 1 && a.bounds[0] == 0 && a.bounds[a.segments] == a.length;
    for (int64_t s = 0; rising && s < a.segments; ++s) rising = a.bounds[s] < a.bounds[s + 1];
    if (!rising) throw std::invalid_argument("selective_scan: cu_seqlens must rise from 0 to the length, batch 1");
  }
  const Dtype acc = accumulation(a.dtype);
  a.u = input(in.u, "u", a), a.delta = input(in.delta, "delta", a), a.z = input(in.z, "z", a);
  if (!in.delta.given()) throw std::invalid_argument("selective_scan: delta is missing");
  a.B = weights(in.B, "B", a), a.C = weights(in.C, "C", a);
  a.A = wanted(in.A, "A", acc, {a.channels, a.d_state});
  a.D = dense(in.D, "D", acc, {a.channels}), a.bias = dense(in.bias, "delta_bias", acc, {a.channels});
  a.initial = dense(in.initial, "initial_state", acc, {a.segments, a.channels, a.d_state});
  a.softplus = softplus;
  a.threads = threads;
  return a;
}

int finish(ScanStatus status) {
  if (status == ScanStatus::no_memory) throw std::bad_alloc();
  return int(status);
}

int64_t tiles(int64_t batch, int64_t channels, int64_t groups) {
  ScanArgs a{};
  a.batch = batch, a.channels = channels, a.groups = groups;
  return ScanPlan(a).tiles;
}

int forward(View u, View delta, View A, View B, View C, View D, View z, View bias, View initial, View bounds,
            bool softplus, View y, View final_state, View checkpoints, int threads) {
  ScanArgs a = arguments({u, delta, A, B, C, D, z, bias, initial, bounds}, softplus, threads);
  const Dtype acc = accumulation(a.dtype);
  a.y = wanted(y, "y", a.dtype, {a.batch, a.length, a.channels});
  a.final_state = wanted(final_state, "final_state", acc, {a.segments, a.channels, a.d_state});
  if (checkpoints.given())
    a.checkpoints = wanted(checkpoints, "checkpoints", acc, {ScanPlan(a).checkpoint_elements(a)});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(scan_forward, a));
}

int backward(View u, View delta, View A, View B, View C, View D, View z, View bias, View bounds, bool softplus,
             View checkpoints, View dy, View dfinal, View du, View ddelta, View dA, View dB, View dC, View dD, View dz,
             View dbias, View dinitial, int threads) {
  ScanArgs a = arguments({u, delta, A, B, C, D, z, bias, View{}, bounds}, softplus, threads);
  const Dtype acc = accumulation(a.dtype);
  const std::vector<int64_t> activation = {a.batch, a.length, a.channels};
  const std::vector<int64_t> state = {a.segments, a.channels, a.d_state};
  const ScanPlan plan(a);
  a.checkpoints = wanted(checkpoints, "checkpoints", acc, {plan.checkpoint_elements(a)});
  a.dy = input(dy, "dy", a);
  a.dfinal = dense(dfinal, "dfinal", acc, state);
  a.du = wanted(du, "du", a.dtype, activation), a.ddelta = wanted(ddelta, "ddelta", a.dtype, activation);
  a.dz = dense(dz, "dz", a.dtype, activation);
  if (!dy.given() || dz.given() != z.given()) throw std::invalid_argument("selective_scan: dy or dz is missing");
  a.dA = wanted(dA, "dA", acc, {a.batch, a.channels, a.d_state});
  a.dD = wanted(dD, "dD", acc, {a.batch, a.channels});
  a.dbias = wanted(dbias, "ddelta_bias", acc, {a.batch, a.channels});
  const std::vector<int64_t> partial = {plan.tiles, a.batch, a.length, a.groups, a.d_state};
  a.dB = wanted(dB, "dB", acc, partial), a.dC = wanted(dC, "dC", acc, partial);
  a.dinitial = wanted(dinitial, "dinitial", acc, state);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(scan_backward, a));
}

}  // namespace

void bind_selective_scan(nb::module_& m) {
  m.attr("selective_scan_chunk") = kScanChunk;
  m.def("selective_scan_tiles", &tiles);
  m.def("selective_scan_forward", &forward);
  m.def("selective_scan_backward", &backward);
}

}  // namespace seqconv
