// What the arguments of all kernels are made of, and the call of a kernel in the instruction set in use.
//
// Each op declares a plain struct of arguments in its kernel.hpp; bind.cpp fills it in from checked tensors, and the
// kernels trust it. Activations are channel-last, (batch, length, channels), and are read in place.
#pragma once

#include "base.hpp"

namespace seqconv {

enum class Dtype : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, i64 = 4 };

// The dtype of sums, states and parameters for activations stored in `storage`: at least float32.
SEQCONV_INLINE Dtype accumulation(Dtype storage) { return storage == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

// Activations (batch, length, channels) with dense channels: address, and strides in elements.
struct Rows {
  const void* data = nullptr;
  int64_t batch = 0, time = 0;
};

// The sequences of a call: one per row of the batch, or, where `bounds` (cu_seqlens) are given, `count` segments packed
// one after the other into the only row. States have one entry per sequence.
struct Segments {
  const int64_t* bounds = nullptr;  // (count + 1), from 0 to length
  int64_t count = 0, length = 0;

  SEQCONV_INLINE int64_t row(int64_t s) const { return bounds ? 0 : s; }
  SEQCONV_INLINE int64_t begin(int64_t s) const { return bounds ? bounds[s] : 0; }
  SEQCONV_INLINE int64_t end(int64_t s) const { return bounds ? bounds[s + 1] : length; }
  // The sequences of one row of the batch: first_of(row) <= s < last_of(row).
  SEQCONV_INLINE int64_t first_of(int64_t row) const { return bounds ? 0 : row; }
  SEQCONV_INLINE int64_t last_of(int64_t row) const { return bounds ? count : row + 1; }
};

// What a kernel reports. Time steps are checked where they are read: a pass of their own would read them twice.
enum class Status : int { done = 0, no_memory = 1 };

enum class Isa : int { plain = 0, neon = 1, avx2 = 2, avx512 = 3, avx512bf16 = 4 };
Isa active_isa();

}  // namespace seqconv

// Declares a kernel for every instruction set, each in its namespace.
#define SEQCONV_DECLARE(signature)                     \
  namespace plain { signature; }                       \
  namespace neon { signature; }                        \
  namespace avx2 { signature; }                        \
  namespace avx512 { signature; }                      \
  namespace avx512bf16 { signature; }

// Calls a kernel in the instruction set in use.
#if defined(SEQCONV_AVX512)
#define SEQCONV_CALL(function, ...)                                        \
  (active_isa() == Isa::avx512bf16 ? avx512bf16::function(__VA_ARGS__)     \
   : active_isa() == Isa::avx512   ? avx512::function(__VA_ARGS__)         \
   : active_isa() == Isa::avx2     ? avx2::function(__VA_ARGS__)           \
                                   : plain::function(__VA_ARGS__))
#elif defined(SEQCONV_X86)
#define SEQCONV_CALL(function, ...) \
  (active_isa() == Isa::avx2 ? avx2::function(__VA_ARGS__) : plain::function(__VA_ARGS__))
#elif defined(SEQCONV_NEON)
#define SEQCONV_CALL(function, ...) neon::function(__VA_ARGS__)
#else
#define SEQCONV_CALL(function, ...) plain::function(__VA_ARGS__)
#endif
