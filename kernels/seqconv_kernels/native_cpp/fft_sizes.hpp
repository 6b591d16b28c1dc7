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
// Per level of n > 4 points and radix R: w^j, w^2j .. w^(R-1)j for j < n/R; then exp(i pi j / (2 size)) for j < size.
inline int64_t table_elements(int64_t size) {
  int64_t count = 2 * size;
  for (int64_t n = size, radix; n > 4; n /= radix) radix = first_radix(n), count += n / radix * (radix - 1) * 2;
  return count;
}

}  // namespace seqconv
