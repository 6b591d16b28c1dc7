// Arguments of the diagonal scan's kernels, checked by bind.cpp.
#pragma once

#include "../native_cpp/view.hpp"

namespace seqconv {

// float or double; complex numbers are pairs of neighbouring channels, so that `channels` is even.
struct LinearScanArgs {
  Dtype dtype;
  int64_t batch, length, channels;
  bool complex;
  Rows a, x;
  const void* initial;  // (batch, channels)
  void* h;              // (batch, length, channels)
  // Backward only: h is read.
  Rows dh;
  void *da, *dx;   // (batch, length, channels)
  void* dinitial;  // (batch, channels)
  int threads;
};

SEQCONV_DECLARE(Status linear_scan_forward(const LinearScanArgs&))
SEQCONV_DECLARE(Status linear_scan_backward(const LinearScanArgs&))

}  // namespace seqconv
