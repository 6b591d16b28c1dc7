// Arguments of the short causal convolution's kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64. Row-major.
struct ConvArgs {
  Dtype dtype;
  int64_t batch, length, channels, width;
  Segments segments;
  Rows x;
  const void* weight;   // acc (channels, width), the oldest tap first
  const void* bias;     // acc (channels), or null
  const void* initial;  // acc (segments, width - 1, channels), or null: the inputs before the first one
  bool silu;
  Rows y;
  // Backward only.
  Rows dy, dx;
  void* dweight;   // acc (channels, width)
  void* dbias;     // acc (channels), or null
  void* dinitial;  // acc (segments, width - 1, channels)
  int threads;
};

SEQCONV_DECLARE(Status conv_forward(const ConvArgs&))
SEQCONV_DECLARE(Status conv_backward(const ConvArgs&))

}  // namespace seqconv
