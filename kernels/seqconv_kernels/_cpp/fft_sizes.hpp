// Sizes that the right-angle transform has, and of its tables.
#pragma once

#include <cstdint>

namespace seqconv {

// A transform of R 2^k points, R in {1, 3, 5}: an odd R is split off first, the rest goes by four.
inline int64_t odd_factor(int64_t size) { return size >> __builtin_ctzll(size); }
inline int64_t first_radix(int64_t size) { return odd_factor(size) == 1 ? 4 : odd_factor(size); }
inline bool serves_size(int64_t size) {
  return size >= 4 && (odd_factor(size) == 1 || (size >= 16 && (odd_factor(size) == 3 || odd_factor(size) == 5)));
}
// For the first level, of radix R, w^(r-1/4)j for r < R and j < size/R, where w = exp(2 pi i / size); then for every level
// of n > 4 points w^j and w^2j for j < n/4, where w = exp(2 pi i / n).
inline int64_t table_elements(int64_t size) {
  int64_t count = 2 * size;
  for (int64_t n = size / first_radix(size); n > 4; n /= 4) count += n;
  return count;
}

}  // namespace seqconv
