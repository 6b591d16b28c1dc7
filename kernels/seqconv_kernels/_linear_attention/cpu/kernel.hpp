// Arguments of the kernels for recurrences whose state is a matrix, checked by bind.cpp.
#pragma once

#include "../../_cpp/view.hpp"

namespace seqconv {

// (batch, length, heads, width) with a dense width; fewer heads than the states have are shared by neighbours.
struct Heads {
  const void* data = nullptr;
  int64_t batch = 0, time = 0, head = 0, heads = 1, width = 0;
  Dtype dtype = Dtype::f32;
};

// Tensors of Heads have any floating dtype, and o has that of v, or double where the sums are; all others have the dtype of the sums, float32 or
// float64. Those written are row-major, with one slice per head of the state.
struct LinearAttentionArgs {
  Dtype dtype;
  int64_t batch, length, heads, d_k, d_v;
  int64_t segments;       // rows of the states
  const int64_t* bounds;  // of packed segments (batch is 1), or null: one segment per row
  double scale;
  Heads q, k, v;
  Heads decay;  // its logarithm: width d_k, 1, or 0 for none
  Heads beta;   // strength of the correction: width d_v, 1, or 0 for plain linear attention
  const void* initial;  // (segments, initial_heads, d_k, d_v), or null
  int64_t initial_heads;
  void* o;            // (batch, length, heads, d_v)
  void* final_state;  // (segments, heads, d_k, d_v)
  void* error;        // (batch, length, heads, d_v): what the state did not predict of v; null where nobody asks
  // Backward only.
  Heads seen;  // the error of the forward pass
  Heads grad;  // gradient of o
  const void* dfinal;  // (segments, heads, d_k, d_v), or null
  void *dq, *dk, *dv;  // (batch, length, heads, d_k or d_v)
  void *ddecay, *dbeta;  // (batch, length, heads, their width)
  void* dinitial;        // (segments, heads, d_k, d_v)
  int threads;
};

SEQCONV_DECLARE(Status linear_attention_forward(const LinearAttentionArgs&))
SEQCONV_DECLARE(Status linear_attention_backward(const LinearAttentionArgs&))

}  // namespace seqconv
