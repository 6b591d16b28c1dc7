// Arguments of the direct sums of online convolutions, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64. Row-major.
struct DirectStepArgs {
  Dtype dtype;  // of u and y
  int64_t batch, width, ring, row, count;  // width: channels; ring: rows of the ring buffers; count: lags summed here
  const void* u;  // (batch, width), rows `u_stride` apart
  int64_t u_stride;
  const void* taps;  // acc (count or more, width), lag 0 first
  void* past;        // acc (batch, ring, width): row `row` is overwritten by u
  void* sums;        // acc (batch, ring, width): row `row` is added, and zero afterwards
  void* y;           // (batch, width)
};

struct DirectTileArgs {
  Dtype dtype;  // acc
  int64_t batch, width, inputs, outputs, lag;
  Rows x;            // (batch, inputs, width)
  const void* taps;  // (lag + outputs or more, width), lag 0 first
  void* out;         // (batch, outputs, width), added to
  int64_t out_batch, out_time;
  int threads;
};

SEQCONV_DECLARE(Status direct_step(const DirectStepArgs&))
SEQCONV_DECLARE(Status direct_tile(const DirectTileArgs&))

}  // namespace seqconv
