// Arguments of the Vandermonde and Cauchy products, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// All row-major, float or double. The last axis of `residues` and `log_poles` holds a number: its real
// part, or its real and imaginary parts.
struct VandermondeArgs {
  Dtype dtype;
  int64_t heads, channels, d_state, components, length;
  const void* residues;   // (heads, channels, d_state, components)
  const void* log_poles;  // (channels, d_state, components)
  void* taps;             // (heads, channels, length)
  // Backward only.
  const void* dtaps;  // (heads, channels, length)
  void *dresidues, *dlog_poles;
  int threads;
};

SEQCONV_DECLARE(Status vandermonde_forward(const VandermondeArgs&))
SEQCONV_DECLARE(Status vandermonde_backward(const VandermondeArgs&))

constexpr int kCauchyNodes = 7;     // rows: tau in two parts, tau^2, and the four factors of the sums (nodes.py)
constexpr int kCauchyPadding = 16;  // frequencies are filled up to a multiple of every lane count

struct CauchyArgs {
  Dtype dtype;
  int64_t heads, channels, d_state, length, padded;
  const void* v;      // (heads, channels, d_state, 2)
  const void* poles;  // (channels, d_state, 2)
  const void* nodes;  // (kCauchyNodes, padded), padded >= regular()
  void* r;            // (heads, channels, length / 2 + 1, 2)
  // Backward only.
  const void* dr;
  void *dv, *dpoles;
  int threads;

  SEQCONV_INLINE int64_t frequencies() const { return length / 2 + 1; }
  SEQCONV_INLINE int64_t regular() const { return (length + 1) / 2; }  // frequencies whose cosine is not zero
};

SEQCONV_DECLARE(Status cauchy_forward(const CauchyArgs&))
SEQCONV_DECLARE(Status cauchy_backward(const CauchyArgs&))

}  // namespace seqconv
