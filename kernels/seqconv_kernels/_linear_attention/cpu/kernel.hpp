// Arguments of the kernels of linear attention with a decay, of the delta rule and of its generalised form, checked by
// bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// (batch, length, heads, width) with a dense width; where there are fewer heads than states, neighbouring states share
// one.
struct Heads {
  const void* data = nullptr;
  int64_t batch = 0, time = 0, head = 0, heads = 1, width = 0;
  Dtype dtype = Dtype::f32;
};

// Tensors of Heads have any floating dtype, and o has that of v, or double where the sums are in double; all others
// have the dtype of the sums, float32 or float64. Results are row-major, with one slice per head of the state.
struct LinearAttentionArgs {
  Dtype dtype;
  int64_t batch, length, heads, d_k, d_v;
  Segments segments;
  double scale;
  Heads q, k, v;
  Heads log_decay;  // width d_k, 1, or 0 for none
  Heads beta;       // writing strength of the delta rule: width d_v, 1, or 0 for linear attention
  Heads read, write;  // a and b of the generalised delta rule, d_k wide; write 0 wide where k takes its place
  const void* initial;  // (segments, initial_heads, d_k, d_v), or null
  int64_t initial_heads;
  void* o;            // (batch, length, heads, d_v)
  void* final_state;  // (segments, heads, d_k, d_v)
  void* error;        // (batch, length, heads, d_v): v - S'^T k of the delta rule, of the generalised one
                      // what was read, S^T a; null where no backward pass follows
  // Backward only.
  Heads forward_error;  // of the forward pass
  Heads grad;           // gradient of o
  const void* dfinal;  // (segments, heads, d_k, d_v), or null
  void *dq, *dk, *dv;  // (batch, length, heads, d_k or d_v)
  void *dread, *dwrite;  // (batch, length, heads, d_k)
  void *dlog_decay, *dbeta;  // (batch, length, heads, their width)
  void* dinitial;        // (segments, heads, d_k, d_v)
  int threads;
};

SEQCONV_DECLARE(Status linear_attention_forward(const LinearAttentionArgs&))
SEQCONV_DECLARE(Status linear_attention_backward(const LinearAttentionArgs&))
SEQCONV_DECLARE(Status dplr_delta_rule_forward(const LinearAttentionArgs&))
SEQCONV_DECLARE(Status dplr_delta_rule_backward(const LinearAttentionArgs&))

}  // namespace seqconv
