// The product of few rows of x with a matrix W, read once at the speed of memory; shared by the ops that decode.
//
//   sum[b, o] = sum_g scale[o, g] sum_{i in group g} x[b, i] W[o, i]
//
// Layout: the inputs are the lanes, so that W (outputs, inputs) is read along its rows; it is widened in registers. A
// block is kBlock rows of W times up to kBatch rows of x, each pair with a vector of partial sums: a vector of W is
// loaded once for all rows of x, a vector of x once for all rows of the block. An item is a multiple of W = Lanes
// outputs, whose sums over lanes are reduced together by one tree. The sum of an output has one order, whatever the
// number of rows or of threads.
#pragma once

#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {

constexpr int kBlock = 4;                       // rows of W read side by side
constexpr int kBatch = kManyRegisters ? 4 : 2;  // rows of x that share a pass over a block
constexpr int64_t kItemBytes = 1 << 16;         // of W: enough to hide the cost of handing out an item

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

// T: of the sums and of x; Q: of W. `Write` takes the sums of W outputs: write(row, first output, sums, live).
template <class T, class Q, class Write> struct Product {
  static constexpr int W = Lanes<T>::count;
  static constexpr int kAhead = int(kCacheLine / sizeof(Q));  // weights per cache line
  using M = Memory<T, T>;
  const Q* weight;  // (outputs, inputs), rows `weight_stride` apart
  int64_t weight_stride, rows, inputs, outputs, groups;
  const T* scale;  // (outputs, groups), or null
  const T* x;      // (rows, inputs), rows `x_stride` apart
  int64_t x_stride;
  Write write;

  // Adds W[rows of the block, i .. i + W) x to the sums; `live` < W weights at the end of a group.
  template <int R, int B>
  SEQCONV_INLINE void add(const Q* w, const T* xs, int64_t i, int live, Vec<T> (&sums)[R][B]) const {
    Vec<T> xv[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) xv[b] = live < W ? load<T, T>(xs + b * x_stride + i, live) : M::load(xs + b * x_stride + i);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Q* p = w + r * weight_stride + i;
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
    const Q* w = weight + o * weight_stride;
    const T* xs = x + row * x_stride;
    // Beyond the end of W a prefetch does nothing.
    const Q* next = w + R * weight_stride;
    const int64_t group = inputs / groups;
    Vec<T> totals[R][B] = {};
    for (int64_t g = 0; g < groups; ++g) {
      Vec<T> sums[R][B] = {};
      const int64_t end = (g + 1) * group;
      int64_t i = g * group;
      for (; i + kAhead <= end; i += kAhead) {
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) prefetch_to_l2(next + r * weight_stride + i);
#pragma GCC unroll 8
        for (int k = 0; k < kAhead; k += W) add<R, B>(w, xs, i + k, W, sums);
      }
      for (; i + W <= end; i += W) add<R, B>(w, xs, i, W, sums);
      if (i < end) add<R, B>(w, xs, i, int(end - i), sums);
      for (int r = 0; r < R; ++r) {
        const T factor = scale ? scale[(o + r) * groups + g] : T(1);
        for (int b = 0; b < B; ++b) totals[r][b] += sums[r][b] * factor;
      }
    }
    for (int r = 0; r < R; ++r)
      for (int b = 0; b < B; ++b) M::store(out + b * out_row + r * W, totals[r][b]);
  }

  // W outputs from `o` on of B rows of x.
  template <int B> SEQCONV_INLINE void tile(int64_t o, int64_t row) const {
    const int live = int(min(W, outputs - o));
    alignas(64) T partial[B][W * W];
    int r = 0;
    for (; r + kBlock <= live; r += kBlock) block<kBlock, B>(o + r, row, partial[0] + r * W, W * W);
    for (; r < live; ++r) block<1, B>(o + r, row, partial[0] + r * W, W * W);
    for (; r < W; ++r)
      for (int b = 0; b < B; ++b) M::store(partial[b] + r * W, Vec<T>{});
    for (int b = 0; b < B; ++b) {
      alignas(64) T sums[W];
      lane_sums<T>(partial[b], W, sums);
      write(row + b, o, M::load(sums), live);
    }
  }

  SEQCONV_NOINLINE void pass(int64_t o, int64_t row, Constant<kBatch>) const { tile<kBatch>(o, row); }
  SEQCONV_NOINLINE void pass(int64_t o, int64_t row, Constant<1>) const { tile<1>(o, row); }

  static int64_t row_bytes(int64_t inputs) { return max(1, inputs * int64_t(sizeof(Q))); }
  // Outputs of an item, and items.
  int64_t step() const { return round_up(max(1, kItemBytes / row_bytes(inputs)), W); }
  int64_t items() const { return ceil_div(outputs, step()); }

  void item(int64_t index) const {
    const int64_t last = min(outputs, (index + 1) * step());
    for (int64_t o = index * step(); o < last; o += W) {
      int64_t row = 0;
      for (; row + kBatch <= rows; row += kBatch) pass(o, row, Constant<kBatch>{});
      for (; row < rows; ++row) pass(o, row, Constant<1>{});
    }
  }
};

}  // namespace seqconv::SEQCONV_ISA
