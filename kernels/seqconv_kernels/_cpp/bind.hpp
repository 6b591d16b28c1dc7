// How views arrive from Python: tuples (address, dtype code, shape, strides), or () for an absent tensor.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "view.hpp"

namespace nanobind::detail {

template <> struct type_caster<seqconv::View> {
  NB_TYPE_CASTER(seqconv::View, const_name("tuple"))

  bool from_python(handle source, uint8_t flags, cleanup_list* cleanup) noexcept {
    if (!PyTuple_Check(source.ptr())) return false;
    if (PyTuple_GET_SIZE(source.ptr()) == 0) return true;
    if (PyTuple_GET_SIZE(source.ptr()) != 4) return false;
    make_caster<uintptr_t> address;
    make_caster<int> dtype;
    make_caster<std::vector<int64_t>> shape, strides;
    const auto item = [&](Py_ssize_t i) { return handle(PyTuple_GET_ITEM(source.ptr(), i)); };
    if (!address.from_python(item(0), flags, cleanup) || !dtype.from_python(item(1), flags, cleanup) ||
        !shape.from_python(item(2), flags, cleanup) || !strides.from_python(item(3), flags, cleanup))
      return false;
    value.address = address.value;
    value.dtype = dtype.value;
    value.shape = std::move(shape.value);
    value.strides = std::move(strides.value);
    return true;
  }
  static handle from_cpp(const seqconv::View&, rv_policy, cleanup_list*) noexcept { return {}; }
};

}  // namespace nanobind::detail

namespace seqconv {

// Checked pointers; an absent optional tensor gives null.
Rows rows(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
void* optional(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
void* required(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
// Bounds of packed segments, or null; `segments` is the batch or their number.
const int64_t* segment_bounds(const View& bounds, int64_t batch, int64_t length, int64_t& segments);
// The dtype of activations of three axes; refuses anything else, and an empty length.
Dtype activation_dtype(const View& x, const char* name);
int finish(Status status);

void bind_ssm_kernel(nanobind::module_& m);
void bind_linear_scan(nanobind::module_& m);
void bind_selective_scan(nanobind::module_& m);
void bind_causal_conv1d(nanobind::module_& m);
void bind_fft_conv(nanobind::module_& m);
void bind_linear_attention(nanobind::module_& m);
void bind_diagonal_step(nanobind::module_& m);
void bind_direct_conv(nanobind::module_& m);
void bind_fft_tile(nanobind::module_& m);
void bind_dilated_conv(nanobind::module_& m);

}  // namespace seqconv
