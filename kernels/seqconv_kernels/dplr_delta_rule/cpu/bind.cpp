// Checks of the arguments of the generalised delta rule, on their way from Python to the kernels.
#include "../../_linear_attention/cpu/bind.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

LinearAttentionArgs arguments(const LinearAttentionViews& in, const View& read, const View& write, double scale,
                              const View& initial, const View& state, int threads) {
  LinearAttentionArgs args = linear_attention_arguments(in, scale, initial, state, threads);
  args.read = heads(read, "a", args, args.d_k), args.write = heads(write, "b", args, args.d_k);
  if (!read.given()) throw std::invalid_argument("dplr_delta_rule: a is missing");
  return args;
}

int forward(View q, View k, View v, View a, View b, View decay, View bounds, double scale, View initial, View o,
            View final_state, View seen, int threads) {
  LinearAttentionArgs args = arguments({q, k, v, decay, {}, bounds}, a, b, scale, initial, final_state, threads);
  const std::vector<int64_t> tokens = {args.batch, args.length, args.heads, args.d_v};
  args.o = required(o, "o", args.dtype == Dtype::f64 ? args.dtype : args.v.dtype, tokens);
  args.final_state =
      required(final_state, "final_state", args.dtype, {args.segments.count, args.heads, args.d_k, args.d_v});
  args.error = optional(seen, "seen", args.dtype, tokens);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(dplr_delta_rule_forward, args));
}

int backward(View q, View k, View v, View a, View b, View decay, View bounds, double scale, View initial, View seen,
             View grad, View dfinal, View dq, View dk, View dv, View da, View db, View ddecay, View dinitial,
             int threads) {
  LinearAttentionArgs args = arguments({q, k, v, decay, {}, bounds}, a, b, scale, initial, dinitial, threads);
  const auto wide = [&](int64_t width) {
    return std::vector<int64_t>{args.batch, args.length, args.heads, width};
  };
  const std::vector<int64_t> state = {args.segments.count, args.heads, args.d_k, args.d_v};
  args.forward_error = heads(seen, "seen", args, args.d_v);
  args.grad = heads(grad, "grad", args, args.d_v);
  if (!grad.given() || !seen.given() || ddecay.given() != decay.given() || db.given() != b.given())
    throw std::invalid_argument("dplr_delta_rule: a gradient or what was read is missing");
  args.dfinal = optional(dfinal, "dfinal", args.dtype, state);
  args.dq = required(dq, "dq", args.dtype, wide(args.d_k)), args.dk = required(dk, "dk", args.dtype, wide(args.d_k));
  args.dv = required(dv, "dv", args.dtype, wide(args.d_v));
  args.dread = required(da, "da", args.dtype, wide(args.d_k));
  args.dwrite = optional(db, "db", args.dtype, wide(args.d_k));
  args.dlog_decay = optional(ddecay, "dlog_decay", args.dtype, wide(args.log_decay.width));
  args.dinitial = required(dinitial, "dinitial", args.dtype, state);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(dplr_delta_rule_backward, args));
}

const Bindings bindings([](nb::module_& m) {
  m.def("dplr_delta_rule_forward", &forward);
  m.def("dplr_delta_rule_backward", &backward);
});

}  // namespace
}  // namespace seqconv
