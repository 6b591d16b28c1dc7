// y = x W^T + b for few rows of x: one pass over W at the speed of memory.
//
//   y[b, o] = bias[o] + sum_g scale[o, g] sum_{i in group g} x[b, i] W[o, i]
//
// Layout: the inputs are the lanes, so that W (outputs, inputs) is read along its rows; it is widened in registers. A
// block is kBlock rows of W times up to kBatch rows of x, each pair with a vector of partial sums: a vector of W is
// loaded once for all rows of x, a vector of x once for all rows of the block. An item is a multiple of W = Lanes
// outputs, whose sums over lanes are reduced together by one tree. x is widened and padded once, before the threads
// start. The sum of an output has one order, whatever the number of rows or of threads.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kBlock = 4;                       // rows of W read side by side
constexpr int kBatch = kManyRegisters ? 4 : 2;  // rows of x that share a pass over a block
constexpr int64_t kItemBytes = 1 << 16;         // of W: enough to hide the cost of handing out an item
constexpr int64_t kBytesWorthThreads = 1 << 19;

// A vector of W in the dtype of the sums.
template <class T, class Q> struct Weight {
  static SEQCONV_INLINE Vec<T> load(const Q* p) { return Memory<T, Q>::load(p); }
};
template <> struct Weight<float, int8_t> {
  static SEQCONV_INLINE Vec<float> load(const int8_t* p) {
#if defined(__AVX512F__)
    return (Vec<float>)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
    return (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#elif defined(__aarch64__)
    uint32_t four;
    __builtin_memcpy(&four, p, sizeof four);
    return (Vec<float>)vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four)))));
#else
    Vec<float> v;
    for (int i = 0; i < Lanes<float>::count; ++i) v[i] = float(p[i]);
    return v;
#endif
  }
};
template <> struct Weight<double, int8_t> {
  static SEQCONV_INLINE Vec<double> load(const int8_t* p) {
    Vec<double> v;
    for (int i = 0; i < Lanes<double>::count; ++i) v[i] = double(p[i]);
    return v;
  }
};

// T: of the sums and of the widened x; S: of y and bias; Q: of W.
template <class T, class S, class Q> struct Product {
  static constexpr int W = Lanes<T>::count;
  static constexpr int kAhead = int(kCacheLine / sizeof(Q));  // weights per cache line
  using M = Memory<T, T>;
  const SkinnyLinearArgs& a;
  const T* x;          // (rows, padded)
  int64_t padded, group;

  // Adds W[rows of the block, i .. i + W) x to the sums; `live` < W weights at the end of a group.
  template <int R, int B>
  SEQCONV_INLINE void add(const Q* w, const T* xs, int64_t i, int live, Vec<T> (&sums)[R][B]) const {
    Vec<T> xv[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) xv[b] = live < W ? load<T, T>(xs + b * padded + i, live) : M::load(xs + b * padded + i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Q* p = w + r * a.w_stride + i;
      Vec<T> wv;
      if (live < W) {
        Q part[W] = {};
        for (int k = 0; k < live; ++k) part[k] = p[k];
        wv = Weight<T, Q>::load(part);
      } else {
        wv = Weight<T, Q>::load(p);
      }
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) sums[r][b] += wv * xv[b];
    }
  }

  // R rows of W from row `o` on times B rows of x from `row` on; writes vectors of partial sums to out[b][r].
  template <int R, int B> SEQCONV_INLINE void block(int64_t o, int64_t row, T* out, int64_t out_row) const {
    const Q* w = (const Q*)a.w + o * a.w_stride;
    const T* xs = x + row * padded;
    // Beyond the end of W a prefetch does nothing.
    const Q* next = w + R * a.w_stride;
    Vec<T> totals[R][B] = {};
    for (int64_t g = 0; g < a.groups; ++g) {
      Vec<T> sums[R][B] = {};
      const int64_t end = (g + 1) * group;
      int64_t i = g * group;
      for (; i + kAhead <= end; i += kAhead) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) prefetch_to_l2(next + r * a.w_stride + i);
#pragma GCC unroll 8
        for (int k = 0; k < kAhead; k += W) add<R, B>(w, xs, i + k, W, sums);
      }
      for (; i + W <= end; i += W) add<R, B>(w, xs, i, W, sums);
      if (i < end) add<R, B>(w, xs, i, int(end - i), sums);
      for (int r = 0; r < R; ++r) {
        const T scale = a.scale ? ((const T*)a.scale)[(o + r) * a.groups + g] : T(1);
        for (int b = 0; b < B; ++b) totals[r][b] += sums[r][b] * scale;
      }
    }
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b) M::store(out + b * out_row + r * W, totals[r][b]);
  }

  // W outputs from `o` on of B rows of x.
  template <int B> SEQCONV_INLINE void outputs(int64_t o, int64_t row) const {
    const int live = int(min(W, a.outputs - o));
    alignas(64) T partial[B][W * W];
    int r = 0;
    for (; r + kBlock <= live; r += kBlock) block<kBlock, B>(o + r, row, partial[0] + r * W, W * W);
    for (; r < live; ++r) block<1, B>(o + r, row, partial[0] + r * W, W * W);
    for (; r < W; ++r)
      for (int b = 0; b < B; ++b) M::store(partial[b] + r * W, Vec<T>{});
    const Vec<T> bias = a.bias ? load<T, S>((const S*)a.bias + o, live) : Vec<T>{};
    for (int b = 0; b < B; ++b) {
      alignas(64) T sums[W];
      lane_sums<T>(partial[b], W, sums);
      store<T, S>((S*)a.y + (row + b) * a.outputs + o, M::load(sums) + bias, live);
    }
  }

  SEQCONV_NOINLINE void pass(int64_t o, int64_t row, Constant<kBatch>) const { outputs<kBatch>(o, row); }
  SEQCONV_NOINLINE void pass(int64_t o, int64_t row, Constant<1>) const { outputs<1>(o, row); }

  void item(int64_t first, int64_t last) const {
    for (int64_t o = first; o < last; o += W) {
      int64_t row = 0;
      for (; row + kBatch <= a.rows; row += kBatch) pass(o, row, Constant<kBatch>{});
      for (; row < a.rows; ++row) pass(o, row, Constant<1>{});
    }
  }
};

template <class T, class S, class Q> Status run(const SkinnyLinearArgs& a) {
  constexpr int W = Lanes<T>::count;
  const int64_t padded = round_up(a.inputs, W);
  const Scratch scratch(sizeof(T) * a.rows * padded);
  if (!scratch.data) return Status::no_memory;
  T* x = (T*)scratch.data;
  for (int64_t b = 0; b < a.rows; ++b)
    for (int64_t i = 0; i < a.inputs; i += W)
      Memory<T, T>::store(x + b * padded + i,
                          load<T, S>((const S*)a.x + b * a.x_stride + i, int(min(W, a.inputs - i))));
  const Product<T, S, Q> product{a, x, padded, a.inputs / a.groups};
  const int64_t row_bytes = max(1, a.inputs * int64_t(sizeof(Q)));
  const int64_t step = round_up(max(1, kItemBytes / row_bytes), W), items = ceil_div(a.outputs, step);
  for_each_item(items, thread_count(a.threads, items, a.outputs * row_bytes, kBytesWorthThreads), [&](int64_t item) {
    product.item(item * step, min(a.outputs, (item + 1) * step));
  });
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
