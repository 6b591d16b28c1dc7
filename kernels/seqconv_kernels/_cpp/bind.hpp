// From Python to the kernels: tensors as views, their checks, and the registration of an op's functions.
//
// A view is a tuple (address, dtype code, shape, strides in elements), as `_core/native.py` packs a tensor, or () for
// an absent one. No torch header is included, so that one binary serves every version of torch; a wrong dtype or shape
// would crash the process, so everything is checked again here.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "arguments.hpp"

namespace seqconv {

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

  // Reject another dtype, rank or size (-1 stands for any), or a null address of a tensor that has elements.
  void check(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const;
  // Reject also anything but row-major order (an empty tensor has any order).
  void check_contiguous(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const;
  // Reject also a last axis that is not dense.
  void check_dense_rows(const char* name, Dtype wanted, const std::vector<int64_t>& sizes) const;
};

// Checked pointers; an absent optional tensor gives null.
Rows rows(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
Rows required_rows(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
void* optional(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
void* required(const View& x, const char* name, Dtype dtype, const std::vector<int64_t>& sizes);
// The sequences of a batch, packed where `bounds` is given.
Segments segments(const View& bounds, int64_t batch, int64_t length);
// The dtype of activations of three axes; rejects anything else, and an empty length.
Dtype activation_dtype(const View& x, const char* name);
// The status as a number; throws std::bad_alloc where memory was short.
int finish(Status status);

// Of functions called once per decoded token, which take bare addresses: packing views would take longer than the step.
inline void* pointer(uintptr_t address) { return reinterpret_cast<void*>(address); }
inline bool is_floating(int dtype) { return dtype >= 0 && dtype <= int(Dtype::f16); }

// Adds an op's functions to the module. Each bind.cpp holds one as a global object, so that the module lists no op:
//   const Bindings bindings([](nanobind::module_& m) { m.def("op_forward", &forward); });
// Construction runs when the extension is loaded, before the module is initialised.
class Bindings {
 public:
  using Add = void (*)(nanobind::module_&);
  explicit Bindings(Add add) : add_(add), next_(head()) { head() = this; }
  Bindings(const Bindings&) = delete;
  Bindings& operator=(const Bindings&) = delete;

  static void add_all(nanobind::module_& m) {
    for (const Bindings* b = head(); b; b = b->next_) b->add_(m);
  }

 private:
  static const Bindings*& head();  // of the list of all; in module.cpp
  Add add_;
  const Bindings* next_;
};

}  // namespace seqconv

namespace nanobind::detail {

template <> struct type_caster<seqconv::View> {
  NB_TYPE_CASTER(seqconv::View, const_name("tuple"))

  bool from_python(handle source, uint8_t flags, cleanup_list* cleanup) noexcept {
    if (!PyTuple_Check(source.ptr())) return false;
    const Py_ssize_t size = PyTuple_Size(source.ptr());  // functions, not macros: the stable ABI has only those
    if (size == 0) return true;
    if (size != 4) return false;
    make_caster<uintptr_t> address;
    make_caster<int> dtype;
    make_caster<std::vector<int64_t>> shape, strides;
    const auto item = [&](Py_ssize_t i) { return handle(PyTuple_GetItem(source.ptr(), i)); };
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
