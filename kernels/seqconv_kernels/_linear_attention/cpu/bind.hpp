// Checks of arguments that linear attention, the delta rule and its generalised form share.
#pragma once

#include "../../_cpp/bind.hpp"
#include "kernel.hpp"

namespace seqconv {

struct LinearAttentionViews {
  View q, k, v, log_decay, beta, bounds;
};

// A tensor (batch, length, heads, width) whose heads divide those of the states; width -1 stands for any.
inline Heads heads(const View& x, const char* name, const LinearAttentionArgs& a, int64_t width) {
  if (!x.given()) return {};
  if (!is_floating(x.dtype))
    throw std::invalid_argument(std::string("linear_attention: ") + name + " must have a floating dtype");
  x.check_dense_rows(name, Dtype(x.dtype), {a.batch, a.length, -1, width});
  if (x.shape[2] < 1 || a.heads % x.shape[2] != 0 || x.shape[3] < 1)
    throw std::invalid_argument(std::string("linear_attention: heads of ") + name +
                                " do not divide those of the states");
  return {x.data<void>(), x.stride(0), x.stride(1), x.stride(2), x.shape[2], x.shape[3], Dtype(x.dtype)};
}
inline Heads factors(const View& x, const char* name, const LinearAttentionArgs& a, int64_t width) {
  const Heads found = heads(x, name, a, -1);
  if (found.width > 1 && found.width != width)
    throw std::invalid_argument(std::string("linear_attention: ") + name + " must have width 1, or that of its axis");
  return found;
}

// `state` is any tensor in the dtype of the sums.
inline LinearAttentionArgs linear_attention_arguments(const LinearAttentionViews& in, double scale, const View& initial,
                                                      const View& state, int threads) {
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

}  // namespace seqconv
