// Arguments of the long convolution's kernels, checked by bind.cpp.
#pragma once

#include "../native_cpp/view.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64.
struct FftArgs {
  Dtype dtype;
  int64_t batch, length, channels, past, taps;
  int64_t size;         // of the transform: a power of two, at least 4 and past + length
  const void* tables;   // acc, table_elements(size): twiddle factors of every level, then the twist
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
  void* dfilter;            // acc (parts, channels, taps)
  void* dskip;              // acc (parts, channels)
  int threads;
};

constexpr int64_t kFftBlock = 16;  // channels; the batch is cut into parts where there are few blocks

inline int64_t fft_parts(int64_t batch, int64_t channels) {
  const int64_t blocks = (channels + kFftBlock - 1) / kFftBlock;
  const int64_t wanted = blocks > 0 ? (8 + blocks - 1) / blocks : 1;
  return batch < 1 ? 1 : wanted < batch ? wanted : batch;
}
// A transform of R 2^k points, R in {1, 3, 5}: an odd R is split off first, the rest goes by four.
inline int64_t odd_factor(int64_t size) { return size >> __builtin_ctzll(size); }
inline int64_t first_radix(int64_t size) { return odd_factor(size) == 1 ? 4 : odd_factor(size); }
inline bool serves_size(int64_t size) {
  return size >= 4 && (odd_factor(size) == 1 || (size >= 16 && (odd_factor(size) == 3 || odd_factor(size) == 5)));
}
// Per level of n > 4 points and radix R: w^j, w^2j .. w^(R-1)j for j < n/R; then exp(i pi j / (2 size)) for j < size.
inline int64_t table_elements(int64_t size) {
  int64_t count = 2 * size;
  for (int64_t n = size, radix; n > 4; n /= radix) radix = first_radix(n), count += n / radix * (radix - 1) * 2;
  return count;
}

SEQCONV_DECLARE(Status fft_forward(const FftArgs&))
SEQCONV_DECLARE(Status fft_backward(const FftArgs&))

}  // namespace seqconv
