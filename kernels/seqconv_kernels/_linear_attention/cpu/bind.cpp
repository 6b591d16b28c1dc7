// Checks of the arguments of linear attention and the delta rule, on their way from Python to the kernels.
#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace nb = nanobind;

namespace seqconv {
namespace {

struct Inputs {
  View q, k, v, log_decay, beta, bounds;
};

// A tensor (batch, length, heads, width) whose heads divide those of the states; width -1 stands for any.
Heads heads(const View& x, const char* name, const LinearAttentionArgs& a, int64_t width) {
  if (!x.given()) return {};
  if (!is_floating(x.dtype))
    throw std::invalid_argument(std::string("linear_attention: ") + name + " must have a floating dtype");
  x.check_dense_rows(name, Dtype(x.dtype), {a.batch, a.length, -1, width});
  if (x.shape[2] < 1 || a.heads % x.shape[2] != 0 || x.shape[3] < 1)
    throw std::invalid_argument(std::string("linear_attention: heads of ") + name +
                                " do not divide those of the states");
  return {x.data<void>(), x.stride(0), x.stride(1), x.stride(2), x.shape[2], x.shape[3], Dtype(x.dtype)};
}
Heads factors(const View& x, const char* name, const LinearAttentionArgs& a, int64_t width) {
  const Heads found = heads(x, name, a, -1);
  if (found.width > 1 && found.width != width)
    throw std::invalid_argument(std::string("linear_attention: ") + name + " must have width 1, or that of its axis");
  return found;
}

// `state` is any tensor in the dtype of the sums.
LinearAttentionArgs arguments(const Inputs& in, double scale, const View& initial, const View& state, int threads) {
  LinearAttentionArgs a{};
  if (in.q.shape.size() != 4 || in.k.shape.size() != 4 || in.v.shape.size() != 4 || threads < 1 ||
      (state.dtype != int(Dtype::f32) && state.dtype != int(Dtype::f64)))
    throw std::invalid_argument(
        "linear_attention: q, k, v must be (batch, length, heads, width), states float32 or float64");
  a.dtype = Dtype(state.dtype);
  a.batch = in.q.shape[0], a.length = in.q.shape[1], a.d_k = in.q.shape[3], a.d_v = in.v.shape[3];
  for (const View* x : {&in.q, &in.k, &in.v}) a.heads = max(a.heads, x->shape[2]);
  if (a.length < 1) throw std::invalid_argument("linear_attention: an empty length");
  a.segments = segments(in.bounds, a.batch, a.length);
  a.scale = scale;
  a.q = heads(in.q, "q", a, a.d_k), a.k = heads(in.k, "k", a, a.d_k), a.v = heads(in.v, "v", a, a.d_v);
  a.log_decay = factors(in.log_decay, "log_decay", a, a.d_k), a.beta = factors(in.beta, "beta", a, a.d_v);
  if (initial.given()) {
    a.initial = required(initial, "initial_state", a.dtype, {a.segments.count, -1, a.d_k, a.d_v});
    a.initial_heads = initial.shape[1];
    if (a.initial_heads < 1 || a.heads % a.initial_heads != 0)
      throw std::invalid_argument("linear_attention: heads of initial_state do not divide those of the states");
  }
  a.threads = threads;
  return a;
}

int forward(View q, View k, View v, View decay, View beta, View bounds, double scale, View initial, View o,
            View final_state, View error, int threads) {
  LinearAttentionArgs a = arguments({q, k, v, decay, beta, bounds}, scale, initial, final_state, threads);
  const std::vector<int64_t> tokens = {a.batch, a.length, a.heads, a.d_v};
  a.o = required(o, "o", a.dtype == Dtype::f64 ? a.dtype : a.v.dtype, tokens);
  a.final_state = required(final_state, "final_state", a.dtype, {a.segments.count, a.heads, a.d_k, a.d_v});
  a.error = optional(error, "error", a.dtype, tokens);
  const nb::gil_scoped_release released;
  return finish(SEQCONV_CALL(linear_attention_forward, a));
}

int backward(View q, View k, View v, View decay, View beta, View bounds, double scale, View initial, View error,
             View grad, View dfinal, View dq, View dk, View dv, View ddecay, View dbeta, View dinitial, int threads) {
  LinearAttentionArgs a = arguments({q, k, v, decay, beta, bounds}, scale, initial, dinitial, threads);
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
