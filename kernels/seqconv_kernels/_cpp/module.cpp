// The extension module: the choice of instruction set, the checks of tensors, and the functions that the ops register.
#include "bind.hpp"

#include <new>

namespace seqconv {
namespace {

// Whether this processor runs the code compiled for an instruction set, and there is such code.
bool supported(Isa isa) {
#if defined(SEQCONV_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#if defined(SEQCONV_AVX512)
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
#else
  const bool avx512 = false, avx512bf16 = false;
#endif
  return isa == Isa::plain || (isa == Isa::avx2 && avx2) || (isa == Isa::avx512 && avx512) ||
         (isa == Isa::avx512bf16 && avx512bf16);
#elif defined(SEQCONV_NEON)  // part of every such processor: there is no other code
  return isa == Isa::neon;
#else
  return isa == Isa::plain;
#endif
}
constexpr int kIsas = 5;
const char* const kIsaNames[kIsas] = {"plain", "neon", "avx2", "avx512", "avx512bf16"};

std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (int i = kIsas - 1; i >= 0; --i)
    if (supported(Isa(i))) names.emplace_back(kIsaNames[i]);
  return names;
}
Isa best() {
  int i = kIsas - 1;
  while (!supported(Isa(i))) --i;
  return Isa(i);
}
Isa chosen = best();
std::string isa() { return kIsaNames[int(chosen)]; }

void set_isa(const std::string& name) {
  for (int i = 0; i < kIsas; ++i)
    if (name == kIsaNames[i] && supported(Isa(i))) {
      chosen = Isa(i);
      return;
    }
  throw std::invalid_argument("instruction set " + name + " is unknown or not supported by this processor");
}

std::string sizes_text(const std::vector<int64_t>& sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  return text + ")";
}
[[noreturn]] void reject(const char* name, const std::string& received, const std::string& wanted) {
  throw std::invalid_argument("native kernels: received " + std::string(name) + " " + received + "; wanted " + wanted +
                              ". Remedy: call the op through seqconv_kernels, which prepares its tensors.");
}

}  // namespace

Isa active_isa() { return chosen; }

void View::check(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const {
  if (dtype != int(wanted))
    reject(name, "of dtype code " + std::to_string(dtype), "code " + std::to_string(int(wanted)));
  bool same = shape.size() == sizes.size() && strides.size() == sizes.size();
  int64_t elements = 1;
  for (size_t i = 0; same && i < sizes.size(); ++i) {
    same = (sizes[i] < 0 && shape[i] >= 0) || shape[i] == sizes[i];
    elements *= shape[i];
  }
  if (!same) reject(name, "of shape " + sizes_text(shape), sizes_text(sizes));
  if (elements > 0 && address == 0) reject(name, "without storage", "a tensor with storage");
}

void View::check_dense_rows(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const {
  check(name, wanted, sizes);
  if (!empty() && !shape.empty() && shape.back() > 1 && strides.back() != 1)
    reject(name, "of strides " + sizes_text(strides), "a dense last axis");
}

void View::check_contiguous(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const {
  check(name, wanted, sizes);
  int64_t expected = 1;
  if (empty()) return;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] > 1 && strides[i] != expected) reject(name, "of strides " + sizes_text(strides), "row-major order");
    expected *= shape[i];
  }
}

Rows rows(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) return {};
  x.check_dense_rows(name, dtype, sizes);
  return {x.data<void>(), x.stride(0), x.stride(1)};
}

Rows required_rows(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) reject(name, "as ()", "a tensor");
  return rows(x, name, dtype, sizes);
}

void* optional(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) return nullptr;
  x.check_contiguous(name, dtype, sizes);
  return x.data<void>();
}

void* required(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) reject(name, "as ()", "a tensor");
  return optional(x, name, dtype, sizes);
}

Segments segments(const View& bounds, int64_t batch, int64_t length) {
  if (!bounds.given()) return {nullptr, batch, length};
  bounds.check_contiguous("cu_seqlens", Dtype::i64, {-1});
  const int64_t *b = bounds.data<int64_t>(), count = bounds.shape[0] - 1;
  bool rising = batch == 1 && count >= 1 && b[0] == 0 && b[count] == length;
  for (int64_t s = 0; rising && s < count; ++s) rising = b[s] < b[s + 1];
  if (!rising) reject("cu_seqlens", "for a batch of " + std::to_string(batch), "bounds that rise from 0 to the length");
  return {b, count, length};
}

Dtype activation_dtype(const View& x, const char* name) {
  if (!is_floating(x.dtype) || x.shape.size() != 3 || x.shape[1] < 1)
    reject(name, "of shape " + sizes_text(x.shape), "(batch, length >= 1, channels) of a floating dtype");
  return Dtype(x.dtype);
}

const Bindings*& Bindings::head() {
  static const Bindings* first = nullptr;
  return first;
}

int finish(Status status) {
  if (status == Status::no_memory) throw std::bad_alloc();
  return int(status);
}

}  // namespace seqconv

NB_MODULE(_native, m) {
  m.def("isas", &seqconv::isas, "Instruction sets of this processor that the kernels were compiled for, fastest first");
  m.def("isa", &seqconv::isa, "The instruction set in use");
  m.def("set_isa", &seqconv::set_isa, "Use another instruction set (for tests and benchmarks)");
  seqconv::Bindings::add_all(m);
}
