// Arguments of the diagonal scan's kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64. Complex numbers, of float32 or float64, are pairs
// of neighbouring channels, so that `channels` is even.
struct LinearScanArgs {
  Dtype dtype;
  int64_t batch, length, channels;
  Segments segments;
  bool complex;
  Rows a, x;
  const void* initial;  // acc (segments, channels), or null
  void* h;              // (batch, length, channels)
  void* final_state;    // acc (segments, channels)
  // Backward only: h is read.
  Rows dh;
  const void* dfinal;  // acc, or null
  void *da, *dx;       // (batch, length, channels)
  void* dinitial;      // acc (segments, channels)
  int threads;
};

SEQCONV_DECLARE(Status linear_scan_forward(const LinearScanArgs&))
SEQCONV_DECLARE(Status linear_scan_backward(const LinearScanArgs&))

}  // namespace seqconv
