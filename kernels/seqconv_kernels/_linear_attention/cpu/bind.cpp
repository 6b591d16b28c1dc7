// Checks of the arguments of linear attention and the delta rule, on their way from Python to the kernels.
#include "bind.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

int forward(View q, View k, View v, View decay, View beta, View bounds, double scale, View initial, View o,
            View final_state, View error, int threads) {
  LinearAttentionArgs a = linear_attention_arguments({q, k, v, decay, beta, bounds}, scale, initial, final_state, threads);
  const std::vector<int64_t> tokens = {a.batch, a.length, a.heads, a.d_v};
  a.o = required(o, "o", a.dtype == Dtype::f64 ? a.dtype : a.v.dtype, tokens);
  a.final_state = required(final_state, "final_state", a.dtype, {a.segments.count, a.heads, a.d_k, a.d_v});
  a.error = optional(error, "error", a.dtype, tokens);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_attention_forward, a));
}

int backward(View q, View k, View v, View decay, View beta, View bounds, double scale, View initial, View error,
             View grad, View dfinal, View dq, View dk, View dv, View ddecay, View dbeta, View dinitial, int threads) {
  LinearAttentionArgs a = linear_attention_arguments({q, k, v, decay, beta, bounds}, scale, initial, dinitial, threads);
  const auto wide = [&](int64_t width) { return std::vector<int64_t>{a.batch, a.length, a.heads, width}; };
  const std::vector<int64_t> state = {a.segments.count, a.heads, a.d_k, a.d_v};
  a.forward_error = heads(error, "error", a, a.d_v);
  a.grad = heads(grad, "grad", a, a.d_v);
  if (!grad.given() || error.given() != beta.given() || ddecay.given() != decay.given() ||
      dbeta.given() != beta.given())
    throw std::invalid_argument("linear_attention: a gradient or the error is missing");
  a.dfinal = optional(dfinal, "dfinal", a.dtype, state);
  a.dq = required(dq, "dq", a.dtype, wide(a.d_k)), a.dk = required(dk, "dk", a.dtype, wide(a.d_k));
  a.dv = required(dv, "dv", a.dtype, wide(a.d_v));
  a.dlog_decay = optional(ddecay, "dlog_decay", a.dtype, wide(a.log_decay.width));
  a.dbeta = optional(dbeta, "dbeta", a.dtype, wide(a.beta.width));
  a.dinitial = required(dinitial, "dinitial", a.dtype, state);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_attention_backward, a));
}

const Bindings bindings([](nb::module_& m) {
  m.def("linear_attention_forward", &forward);
  m.def("linear_attention_backward", &backward);
});

}  // namespace
}  // namespace seqconv
