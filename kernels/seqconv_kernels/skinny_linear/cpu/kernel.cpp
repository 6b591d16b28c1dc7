// y = x W^T + b for few rows of x: one pass over W at the speed of memory, by the product of product.hpp.
//
//   y[b, o] = bias[o] + sum_g scale[o, g] sum_{i in group g} x[b, i] W[o, i]
//
// x is widened once, before the threads start.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "product.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kBytesWorthThreads = 1 << 19;

// Adds the bias to sums of W outputs and stores them in S.
template <class T, class S> struct Write {
  const SkinnyLinearArgs& a;
  SEQCONV_INLINE void operator()(int64_t row, int64_t o, Vec<T> sums, int live) const {
    const Vec<T> bias = a.bias ? load<T, S>((const S*)a.bias + o, live) : Vec<T>{};
    store<T, S>((S*)a.y + row * a.outputs + o, sums + bias, live);
  }
};

// T: of the sums and of the widened x; S: of y and bias; Q: of W.
template <class T, class S, class Q> Status run(const SkinnyLinearArgs& a) {
  constexpr int W = Lanes<T>::count;
  const Scratch scratch(sizeof(T) * a.rows * a.inputs);
  if (!scratch.data) return Status::no_memory;
  T* x = (T*)scratch.data;
  for (int64_t b = 0; b < a.rows; ++b)
    for (int64_t i = 0; i < a.inputs; i += W) {
      const int live = int(min(W, a.inputs - i));
      store<T, T>(x + b * a.inputs + i, load<T, S>((const S*)a.x + b * a.x_stride + i, live), live);
    }
  const Product<T, Q, Write<T, S>> product{(const Q*)a.w, a.w_stride,         a.rows, a.inputs, a.outputs,
                                           a.groups,      (const T*)a.scale, x,      a.inputs, {a}};
  const int64_t items = product.items(), bytes = a.outputs * product.row_bytes(a.inputs);
  for_each_item(items, thread_count(a.threads, items, bytes, kBytesWorthThreads),
                [&](int64_t item) { product.item(item); });
  return Status::done;
}

}  // namespace

Status skinny_linear(const SkinnyLinearArgs& a) {
  return dispatch(a.dtype, [&](auto acc, auto storage) {
    using T = decltype(acc);
    using S = decltype(storage);
    if (a.int8) return run<T, S, int8_t>(a);
    if constexpr (sizeof(T) == 8) {
      return run<T, S, T>(a);
    } else {
      if (a.weight == Dtype::bf16) return run<T, S, bf16>(a);
      if (a.weight == Dtype::f16) return run<T, S, f16>(a);
      return run<T, S, T>(a);
    }
  });
}

}  // namespace seqconv::SEQCONV_ISA
