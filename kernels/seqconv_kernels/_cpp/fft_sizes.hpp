// Sizes that the right-angle transform serves, and the size of its twiddle tables (written by fft_conv/cpu.py).
#pragma once

#include "base.hpp"

namespace seqconv {

// A transform has R 2^k points, R in {1, 3, 5}: an odd R is the radix of the first pass, all others have radix 4.
SEQCONV_INLINE int64_t odd_factor(int64_t size) { return size >> __builtin_ctzll(size); }
SEQCONV_INLINE int64_t first_radix(int64_t size) { return odd_factor(size) == 1 ? 4 : odd_factor(size); }

constexpr int64_t kLeastSize = 4, kLeastOddSize = 16;
SEQCONV_INLINE bool serves_size(int64_t size) {
  const int64_t odd = size > 0 ? odd_factor(size) : 0;
  return (odd == 1 && size >= kLeastSize) || ((odd == 3 || odd == 5) && size >= kLeastOddSize);
}

// Real and imaginary parts in turn: for the first pass of radix R w^((r - 1/4) j), r < R, j < size / R, with
// w = exp(2 pi i / size), which is twiddle and twist in one; then for every pass over n > 4 points w^j and w^2j, j < n
// / 4, with w = exp(2 pi i / n).
SEQCONV_INLINE int64_t table_elements(int64_t size) {
  int64_t count = 2 * size;
  for (int64_t n = size / first_radix(size); n > 4; n /= 4) count += n;
  return count;
}

}  // namespace seqconv
