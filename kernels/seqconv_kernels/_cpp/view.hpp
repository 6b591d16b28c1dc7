// What the kernels share with the Python side: tensors as pointers with sizes, and the choice of instruction set.
#pragma once

#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

namespace seqconv {

enum class Dtype : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3, i64 = 4 };

// (address, dtype, shape, strides in elements), as `native.view` packs a tensor; () for an absent one.
struct View {
  uintptr_t address = 0;
  int dtype = -1;
  std::vector<int64_t> shape, strides;

  bool given() const { return dtype >= 0; }
  bool empty() const {
    for (int64_t size : shape)
      if (size == 0) return true;
    return false;
  }
  template <class T> T* data() const { return reinterpret_cast<T*>(address); }
  int64_t stride(size_t axis) const { return strides[axis]; }

  // Refuse another dtype, rank or size (-1 stands for any), or a null address of a tensor that has elements.
  void check(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const;
  // Refuse also anything but row-major order (an empty tensor has any order).
  void check_contiguous(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const;
  // Refuse also a last axis that is not dense.
  void check_dense_rows(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const;
};

// Activations (batch, length, channels) with dense channels: where they lie, and strides in elements.
struct Rows {
  const void* data = nullptr;
  int64_t batch = 0, time = 0;
};

// What a kernel reports; a wrong time step is found on the way, not beforehand.
enum class Status : int { done = 0, bad_time_step = 1, no_memory = 2 };

enum class Isa : int { plain = 0, neon = 1, avx2 = 2, avx512 = 3 };
Isa active_isa();

// The dtype of sums and states for a storage dtype.
inline Dtype accumulation(Dtype storage) { return storage == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

}  // namespace seqconv

#define SEQCONV_DECLARE(signature)                     \
  namespace plain { signature; }                       \
  namespace neon { signature; }                        \
  namespace avx2 { signature; }                        \
  namespace avx512 { signature; }

#if defined(SEQCONV_AVX512)
#define SEQCONV_CALL(function, ...)                                        \
  (active_isa() == Isa::avx512 ? avx512::function(__VA_ARGS__)             \
   : active_isa() == Isa::avx2 ? avx2::function(__VA_ARGS__)               \
                               : plain::function(__VA_ARGS__))
#elif defined(SEQCONV_X86)
#define SEQCONV_CALL(function, ...) \
  (active_isa() == Isa::avx2 ? avx2::function(__VA_ARGS__) : plain::function(__VA_ARGS__))
#elif defined(SEQCONV_NEON)
#define SEQCONV_CALL(function, ...) neon::function(__VA_ARGS__)
#else
#define SEQCONV_CALL(function, ...) plain::function(__VA_ARGS__)
#endif
