// Checks of the arguments of the Vandermonde and Cauchy products on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

// The floating dtype of (heads, channels, d_state, components).
Dtype numbers_dtype(const View& x, const char* name, int64_t length, int threads) {
  const bool floating = x.dtype == int(Dtype::f32) || x.dtype == int(Dtype::f64);
  const bool numbers = x.shape.size() == 4 && (x.shape[3] == 1 || x.shape[3] == 2);
  if (!floating || !numbers || length < 1 || threads < 1)
    throw std::invalid_argument(std::string(name) +
                                " must be (heads, channels, d_state, 1 or 2) of float32 or float64, length at least 1");
  return Dtype(x.dtype);
}

VandermondeArgs vandermonde_arguments(const View& residues, const View& log_poles, int64_t length, int threads) {
  VandermondeArgs a{};
  a.dtype = numbers_dtype(residues, "residues", length, threads);
  a.heads = residues.shape[0], a.channels = residues.shape[1], a.d_state = residues.shape[2];
  a.components = residues.shape[3], a.length = length, a.threads = threads;
  a.residues = required(residues, "residues", a.dtype, {a.heads, a.channels, a.d_state, a.components});
  a.log_poles = required(log_poles, "log_poles", a.dtype, {a.channels, a.d_state, a.components});
  return a;
}

int vandermonde(View residues, View log_poles, View taps, int threads) {
  const int64_t length = taps.shape.size() == 3 ? taps.shape[2] : 0;
  VandermondeArgs a = vandermonde_arguments(residues, log_poles, length, threads);
  a.taps = required(taps, "taps", a.dtype, {a.heads, a.channels, a.length});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(vandermonde_forward, a));
}

int vandermonde_gradients(View residues, View log_poles, View dtaps, View dresidues, View dlog_poles, int threads) {
  const int64_t length = dtaps.shape.size() == 3 ? dtaps.shape[2] : 0;
  VandermondeArgs a = vandermonde_arguments(residues, log_poles, length, threads);
  a.dtaps = required(dtaps, "dtaps", a.dtype, {a.heads, a.channels, a.length});
  a.dresidues = required(dresidues, "dresidues", a.dtype, residues.shape);
  a.dlog_poles = required(dlog_poles, "dlog_poles", a.dtype, log_poles.shape);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(vandermonde_backward, a));
}

CauchyArgs cauchy_arguments(const View& v, const View& poles, const View& nodes, int64_t length, int threads) {
  CauchyArgs a{};
  a.dtype = numbers_dtype(v, "v", length, threads);
  a.heads = v.shape[0], a.channels = v.shape[1], a.d_state = v.shape[2];
  a.length = length, a.threads = threads;
  a.padded = round_up(a.regular(), kCauchyPadding);
  a.v = required(v, "v", a.dtype, {a.heads, a.channels, a.d_state, 2});
  a.poles = required(poles, "poles", a.dtype, {a.channels, a.d_state, 2});
  a.nodes = required(nodes, "nodes", a.dtype, {kCauchyNodes, a.padded});
  return a;
}

int cauchy(View v, View poles, View nodes, int64_t length, View r, int threads) {
  CauchyArgs a = cauchy_arguments(v, poles, nodes, length, threads);
  a.r = required(r, "r", a.dtype, {a.heads, a.channels, a.frequencies(), 2});
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(cauchy_forward, a));
}

int cauchy_gradients(View v, View poles, View nodes, int64_t length, View dr, View dv, View dpoles, int threads) {
  CauchyArgs a = cauchy_arguments(v, poles, nodes, length, threads);
  a.dr = required(dr, "dr", a.dtype, {a.heads, a.channels, a.frequencies(), 2});
  a.dv = required(dv, "dv", a.dtype, v.shape), a.dpoles = required(dpoles, "dpoles", a.dtype, poles.shape);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(cauchy_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("vandermonde_forward", &vandermonde);
  m.def("vandermonde_backward", &vandermonde_gradients);
  m.def("cauchy_forward", &cauchy);
  m.def("cauchy_backward", &cauchy_gradients);
});

}  // namespace
}  // namespace seqconv
