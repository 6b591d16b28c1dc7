// Arguments of the long convolution's kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"
#include "../../_cpp/fft_sizes.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64.
struct FftArgs {
  Dtype dtype;
  int64_t batch, length, channels, past, taps;
  int64_t size;         // of the transform: at least past + length, and serves_size()
  const void* tables;   // acc, table_elements(size): twiddles of every pass
  Rows u, pre, post;    // gates may be null
  Rows history;         // acc (batch, past, channels), or null
  const void* filter;   // acc (channels, taps), row-major
  const void* skip;     // acc (channels), or null
  void* y;              // (batch, length, channels)
  int64_t splits;       // of the batch, each with partial sums of its own: fft_splits()
  // Backward only.
  Rows dy;
  void *du, *dpre, *dpost;  // (batch, length, channels); gates' may be null
  void* dhistory;           // acc (batch, past, channels)
  void* dfilter;            // acc (channels, taps)
  void* dskip;              // acc (channels), or null
  int threads;
};

// Items of work are a few channels of a split of the batch. Where there are few channels the batch is split, at most
// into its rows, up to kFftItemsWanted items: by shape alone, so that sums do not depend on the number of threads.
constexpr int64_t kFftItemChannels = 16, kFftItemsWanted = 8;
SEQCONV_INLINE int64_t fft_splits(int64_t batch, int64_t channels) {
  const int64_t items = ceil_div(channels, kFftItemChannels);
  return max(1, min(batch, items > 0 ? ceil_div(kFftItemsWanted, items) : 1));
}
SEQCONV_DECLARE(Status fft_forward(const FftArgs&))
SEQCONV_DECLARE(Status fft_backward(const FftArgs&))

}  // namespace seqconv
