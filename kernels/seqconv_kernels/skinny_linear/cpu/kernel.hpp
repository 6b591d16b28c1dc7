// Arguments of the linear layer of few rows, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// "acc" = float for float32, bfloat16, float16; double for float64.
struct SkinnyLinearArgs {
  Dtype dtype;   // of x, bias and y
  Dtype weight;  // of the weight, unless it is int8
  bool int8;
  int64_t rows, inputs, outputs, groups;  // groups: scales of each row of an int8 weight
  const void* x;                          // (rows, inputs), rows `x_stride` apart
  const void* w;                          // (outputs, inputs), rows `w_stride` apart
  int64_t x_stride, w_stride;
  const void* scale;  // acc (outputs, groups), or null
  const void* bias;   // (outputs), or null
  void* y;            // (rows, outputs)
  int threads;
};

SEQCONV_DECLARE(Status skinny_linear(const SkinnyLinearArgs&))

}  // namespace seqconv
