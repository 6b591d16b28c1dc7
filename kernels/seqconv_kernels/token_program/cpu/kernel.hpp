// A token of a stack of layers as a straight list of small ops, which one team of threads runs one after the other.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

enum class Activation : int { none = 0, silu = 1, gelu = 2, gelu_tanh = 3, relu = 4, relu2 = 5, tanh = 6, sigmoid = 7 };
constexpr int kActivations = 8;

// Rows of numbers, `stride` apart; in a list of ops the rows are those of the batch.
struct TokenRows {
  void* data;
  Dtype dtype;
  int64_t stride;
};
// Numbers of a parameter; null for none.
struct TokenVector {
  const void* data;
  Dtype dtype;
};

// out = (x - mean) / sqrt(variance + eps) w + b: `rms` leaves the mean out, `copy` normalises nothing.
struct TokenNorm {
  enum Kind : int { copy = 0, rms = 1, layer = 2 };
  TokenRows x, out;
  TokenVector weight, bias;
  int64_t width, kind, unit_offset;  // unit_offset: the factor is 1 + w
  double eps;
};
// out = residual + activation(x (scale W)^T + b), x in float32.
struct TokenLinear {
  TokenRows x, out, residual;
  const void* weight;  // (outputs, inputs), rows `weight_stride` apart
  Dtype dtype;         // of the weight, unless it is int8
  bool int8;
  int64_t weight_stride;
  const void* scale;  // float32 (outputs, groups), or null
  int64_t groups;
  TokenVector bias;
  int64_t inputs, outputs;
  Activation activation;
};
// out = activation(sum_k w[c, k] x[t - (taps - 1) + k, c] + b[c]); the state (rows, kept, channels), the last inputs with
// the newest at its end, kept >= taps - 1, moves on by x.
struct TokenConv {
  TokenRows x, out;
  void* state;
  Dtype dtype;  // of the state
  int64_t kept, row_stride, tap_stride, channel_stride;
  TokenVector weight, bias;
  int64_t channels, taps;
  Activation activation;
};
// h = exp(d A) h + d B u with d = softplus(delta + bias), A = -exp(A_log); out = (C h + D u) silu(z). float32 alone.
struct TokenScan {
  TokenRows u, delta, z, B, C, out;
  const void* A_log;  // (channels, d_state)
  TokenVector bias, D;
  void* h;  // (rows, channels, d_state)
  int64_t channels, d_state;
};
// out = activation(a) b.
struct TokenGate {
  TokenRows a, b, out;
  int64_t width;
  Activation activation;
};
// Softmax attention of one query per head to `past` tokens and its own, which joins them: the last axis of `qkv` holds
// queries, keys and values. The first `rotary_dim` channels of queries and keys are turned by position / scaling rates.
struct TokenAttention {
  TokenRows qkv, out;
  void *key, *value;  // (rows, past + 1, groups, head_dim), rows `cache_stride` apart
  Dtype dtype;        // of both
  int64_t cache_stride, past;
  const int64_t* tokens;  // (rows): tokens of each row so far; earlier ones of `past` are padding
  int64_t heads, groups, head_dim, rotary_dim;
  const float* rates;  // (rotary_dim / 2)
  double scaling, scale;
};
constexpr int64_t kWidestHead = 256;
constexpr int64_t kMostTaps = 16;

struct TokenOp {
  enum Kind : int { norm, linear, conv, scan, gate, attention } kind;
  union {
    TokenNorm norm_;
    TokenLinear linear_;
    TokenConv conv_;
    TokenScan scan_;
    TokenGate gate_;
    TokenAttention attention_;
  };
};

SEQCONV_DECLARE(Status token_program(const TokenOp* ops, int64_t count, int64_t rows, int threads))

}  // namespace seqconv
