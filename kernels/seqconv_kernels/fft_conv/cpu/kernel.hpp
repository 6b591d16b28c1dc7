// Arguments of the long convolution's kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/fft_sizes.hpp"
#include "../../_cpp/view.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64.
struct FftArgs {
  Dtype dtype;
  int64_t batch, length, channels, past, taps;
  int64_t size;         // of the transform: a power of two, at least 4 and past + length
  const void* tables;   // acc, table_elements(size): twiddle factors of every level
  Rows u, pre, post;    // gates may be null
  Rows history;         // acc (batch, past, channels), or null
  const void* filter;   // acc (channels, taps), row-major
  const void* skip;     // acc (channels), or null
  void* y;              // (batch, length, channels)
  int64_t parts;        // of the batch, which share no sums: fft_parts()
  // Backward only.
  Rows dy;
  void *du, *dpre, *dpost;  // (batch, length, channels); gates' may be null
  void* dhistory;           // acc (batch, past, channels)
  void* dfilter;            // acc (channels, taps)
  void* dskip;              // acc (channels), or null
  int threads;
};

constexpr int64_t kFftBlock = 16;  // channels; the batch is cut into parts where there are few blocks

inline int64_t fft_parts(int64_t batch, int64_t channels) {
  const int64_t blocks = (channels + kFftBlock - 1) / kFftBlock;
  const int64_t wanted = blocks > 0 ? (8 + blocks - 1) / blocks : 1;
  return batch < 1 ? 1 : wanted < batch ? wanted : batch;
}
SEQCONV_DECLARE(Status fft_forward(const FftArgs&))
SEQCONV_DECLARE(Status fft_backward(const FftArgs&))

}  // namespace seqconv
