// Arguments of the kernels for dilated convolutions in series, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

enum class Activation : int { none = 0, relu = 1, silu = 2, tanh = 3 };

// "acc" = float for float32, bfloat16, float16; double for float64. Row-major unless strides are given. A history holds
// the last inputs of every level, (width - 1) dilation rows each, concatenated along time: `history_len` rows in all.
struct DilatedConvArgs {
  Dtype dtype;
  int64_t batch, length, channels, levels, width, history_len;
  const int64_t* dilations;  // (levels)
  Activation activation;     // between levels
  Rows x;
  const void* weight;   // acc (levels, width, channels), lag 0 first
  const void* history;  // acc (batch, history_len, channels), or null
  void* y;              // (batch, length, channels)
  void* after;          // acc (batch, history_len, channels), or null: the history after these inputs
  // Backward only.
  Rows dy;
  const void* dafter;  // acc (batch, history_len, channels), or null
  void* dx;            // (batch, length, channels)
  void* dweight;       // acc (levels, width, channels)
  void* dhistory;      // acc (batch, history_len, channels); null without a history
  int threads;
};

SEQCONV_DECLARE(Status dilated_conv_forward(const DilatedConvArgs&))
SEQCONV_DECLARE(Status dilated_conv_backward(const DilatedConvArgs&))

}  // namespace seqconv
