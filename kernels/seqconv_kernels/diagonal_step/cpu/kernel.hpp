// Arguments of the single step of diagonal state spaces, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64. Row-major where no stride is given; complex
// numbers are pairs of neighbours.
struct DiagonalStepArgs {
  Dtype dtype;  // of u and y
  bool complex;
  int64_t batch, channels, modes, head_len;  // head_len: lags that the head of exact taps covers
  const void* u;  // (batch, channels), rows `u_stride` apart
  int64_t u_stride;
  const void *offsets, *residues;  // acc (channels, modes)
  const void* head;                // acc (channels, head_len) of any strides, or null where head_len is 0
  int64_t head_channel, head_lag;
  const void* skip;  // acc (channels), or null
  void* hidden;      // acc (batch, channels, modes), overwritten
  void* past;        // acc (batch, head_len, channels), overwritten
  void* y;           // (batch, channels)
  int threads;
};

SEQCONV_DECLARE(Status diagonal_step(const DiagonalStepArgs&))

}  // namespace seqconv
