// The extension module: what it offers Python, the checks of tensors, and the choice of instruction set.
#include "bind.hpp"

#include <new>
#include <stdexcept>

namespace seqconv {
namespace {

bool supported(Isa isa) {
#if defined(SEQCONV_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#if defined(SEQCONV_AVX512)
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
#else
  const bool avx512 = false;
#endif
  return isa == Isa::plain || (isa == Isa::avx2 && avx2) || (isa == Isa::avx512 && avx512);
#elif defined(SEQCONV_NEON)  // part of every such processor: there is no other code
  return isa == Isa::neon;
#else
  return isa == Isa::plain;
#endif
}
constexpr int kIsas = 4;
const char* const kIsaNames[kIsas] = {"plain", "neon", "avx2", "avx512"};

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
void refuse(const char* name, const std::string& received, const std::string& wanted) {
  throw std::invalid_argument("native kernels: received " + std::string(name) + " " + received + "; wanted " + wanted +
                              ". Remedy: call the op through seqconv_kernels, which prepares its tensors.");
}

}  // namespace

Isa active_isa() { return chosen; }

void View::check(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const {
  if (dtype != int(wanted))
    refuse(name, "of dtype code " + std::to_string(dtype), "code " + std::to_string(int(wanted)));
  bool same = shape.size() == sizes.size() && strides.size() == sizes.size();
  int64_t elements = 1;
  for (size_t i = 0; same && i < sizes.size(); ++i) {
    same = (sizes[i] < 0 && shape[i] >= 0) || shape[i] == sizes[i];
    elements *= shape[i];
  }
  if (!same) refuse(name, "of shape " + sizes_text(shape), sizes_text(sizes));
  if (elements > 0 && address == 0) refuse(name, "without storage", "a tensor with storage");
}

void View::check_dense_rows(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const {
  check(name, wanted, sizes);
  if (!empty() && !shape.empty() && shape.back() > 1 && strides.back() != 1)
    refuse(name, "of strides " + sizes_text(strides), "a dense last axis");
}

void View::check_contiguous(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const {
  check(name, wanted, sizes);
  int64_t expected = 1;
  if (empty()) return;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] > 1 && strides[i] != expected) refuse(name, "of strides " + sizes_text(strides), "row-major order");
    expected *= shape[i];
  }
}

Rows rows(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) return {};
  x.check_dense_rows(name, dtype, sizes);
  return {x.data<void>(), x.stride(0), x.stride(1)};
}

void* optional(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) return nullptr;
  x.check_contiguous(name, dtype, sizes);
  return x.data<void>();
}

void* required(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes) {
  if (!x.given()) refuse(name, "as ()", "a tensor");
  return optional(x, name, dtype, sizes);
}

const int64_t* segment_bounds(const View& bounds, int64_t batch, int64_t length, int64_t& segments) {
  segments = batch;
  if (!bounds.given()) return nullptr;
  bounds.check_contiguous("cu_seqlens", Dtype::i64, {-1});
  const int64_t* b = bounds.data<int64_t>();
  segments = bounds.shape[0] - 1;
  bool rising = batch == 1 && segments >= 1 && b[0] == 0 && b[segments] == length;
  for (int64_t s = 0; rising && s < segments; ++s) rising = b[s] < b[s + 1];
  if (!rising) refuse("cu_seqlens", "for a batch of " + std::to_string(batch), "bounds that rise from 0 to the length");
  return b;
}

Dtype activation_dtype(const View& x, const char* name) {
  if (x.dtype < 0 || x.dtype > int(Dtype::f16) || x.shape.size() != 3 || x.shape[1] < 1)
    refuse(name, "of shape " + sizes_text(x.shape), "(batch, length >= 1, channels) of a floating dtype");
  return Dtype(x.dtype);
}

int finish(Status status) {
  if (status == Status::no_memory) throw std::bad_alloc();
  return int(status);
}

}  // namespace seqconv

NB_MODULE(_native, m) {
  m.def("isas", &seqconv::isas, "Instruction sets of this processor that the kernels were compiled for, fastest first");
  m.def("isa", [] { return std::string(seqconv::kIsaNames[int(seqconv::active_isa())]); }, "The one in use");
  m.def("set_isa", &seqconv::set_isa, "Use another one (for tests and benchmarks)");
  seqconv::bind_ssm_kernel(m);
  seqconv::bind_linear_scan(m);
  seqconv::bind_selective_scan(m);
  seqconv::bind_causal_conv1d(m);
  seqconv::bind_fft_conv(m);
  seqconv::bind_linear_attention(m);
  seqconv::bind_diagonal_step(m);
  seqconv::bind_direct_conv(m);
  seqconv::bind_fft_tile(m);
  seqconv::bind_dilated_conv(m);
}
