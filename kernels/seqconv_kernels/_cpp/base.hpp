// Compiler attributes and integer arithmetic for the bindings and the kernels alike.
//
// The kernels are compiled once per instruction set. A plain `inline` function in a header they share would be one
// symbol for all of them, and the linker could keep the AVX-512 copy for processors without it. So functions here are
// always inlined, those of the other headers live in a namespace named after the instruction set, and kernels use no
// template of the standard library.
#pragma once

#include <cstdint>

#define SEQCONV_INLINE inline __attribute__((always_inline))
#define SEQCONV_NOINLINE __attribute__((noinline))
// On lambdas that take vectors: the calling convention would pass them through memory.
#define SEQCONV_LAMBDA __attribute__((always_inline))

namespace seqconv {

SEQCONV_INLINE constexpr int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
SEQCONV_INLINE constexpr int64_t max(int64_t a, int64_t b) { return a < b ? b : a; }
SEQCONV_INLINE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
SEQCONV_INLINE constexpr int64_t round_up(int64_t a, int64_t multiple) { return ceil_div(a, multiple) * multiple; }

// The largest of widest, widest / 2, ... that `enough` accepts, at least `narrowest`: how work is cut where there is
// little.
template <class Enough> SEQCONV_INLINE int64_t halved_until(int64_t widest, int64_t narrowest, Enough enough) {
  while (widest > narrowest && !enough(widest)) widest /= 2;
  return widest;
}

// An integer as a type, so that a generic lambda can be called with a constant.
template <int N> struct Constant { static constexpr int value = N; };

constexpr int64_t kCacheLine = 64;  // bytes; of every x86-64 processor and of nearly all 64-bit ARM processors

}  // namespace seqconv
