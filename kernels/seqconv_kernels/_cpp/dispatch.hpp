// The one switch over dtypes: kernels are templates over the accumulation type T and the storage type S.
#pragma once

#include "arguments.hpp"
#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

// Calls run(T{}, S{}) with the types of tensors stored in `storage`: float32, bfloat16 and float16 are summed in float,
// float64 in double.
template <class Run> SEQCONV_INLINE auto dispatch(Dtype storage, Run run) {
  switch (storage) {
    case Dtype::f64: return run(double{}, double{});
    case Dtype::bf16: return run(float{}, bf16{});
    case Dtype::f16: return run(float{}, f16{});
    default: return run(float{}, float{});
  }
}

// Calls run(T{}) where all tensors have the dtype of the sums, float32 or float64.
template <class Run> SEQCONV_INLINE auto dispatch_accumulation(Dtype dtype, Run run) {
  return dtype == Dtype::f64 ? run(double{}) : run(float{});
}

}  // namespace seqconv::SEQCONV_ISA
