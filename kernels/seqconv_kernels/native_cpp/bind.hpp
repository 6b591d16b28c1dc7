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
void bind_selective_scan(nanobind::module_& m);
}
