// Rows of neighbouring channels to lanes and back.
//
// The rows of a channel-last tensor are far apart, and a block of one vector is a fraction of what one look-up in memory
// brings: so several blocks are copied at once, and rows are asked for before they are read or written.
//
// Like vec.hpp, this is compiled once per instruction set and uses no standard-library template.
#pragma once

#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

constexpr int64_t kRowsAhead = 8;
constexpr int64_t kBeyondCache = 1 << 23;  // bytes of results that nobody will find in a cache later

// Blocks of W channels side by side, of which the last one may be narrower.
template <class T> struct Blocks {
  static constexpr int W = Lanes<T>::count;
  int64_t width, count;  // channels, blocks

  explicit Blocks(int64_t channels) : width(channels), count((channels + W - 1) / W) {}
  int live(int64_t block) const { return int(width - block * W < W ? width - block * W : W); }
  template <class Each> SEQCONV_INLINE void each(Each each) const {
    const int64_t whole = width / W;
    for (int64_t block = 0; block < whole; ++block) each(block, W);
    if (whole < count) each(whole, int(width - whole * W));
  }
  template <bool Write, class S> SEQCONV_INLINE void ask(const S* row) const {
    for (int64_t i = 0; i < width; i += 64 / int64_t(sizeof(S))) __builtin_prefetch(row + i, Write);
  }
};

// `rows` rows, `step` numbers apart, to vectors; those of a block begin `stride` vectors behind the last block's. With
// `times` they are multiplied to what is there.
template <class T, class S>
void gather(const Blocks<T>& blocks, const S* from, int64_t step, int64_t rows, Vec<T>* to, int64_t stride,
            bool times = false) {
  for (int64_t t = 0; t < rows; ++t, from += step, ++to) {
    if (t + kRowsAhead < rows) blocks.template ask<false>(from + kRowsAhead * step);
    blocks.each([&](int64_t block, int count) SEQCONV_LAMBDA {
      const Vec<T> v = load<T, S>(from + block * Blocks<T>::W, count);
      to[block * stride] = times ? to[block * stride] * v : v;
    });
  }
}
// Back again, times the rows at `factor` where they are given.
template <class T, class S>
void scatter(const Blocks<T>& blocks, const Vec<T>* from, int64_t stride, S* to, int64_t step, int64_t rows,
             const S* factor = nullptr, int64_t factor_step = 0) {
  for (int64_t t = 0; t < rows; ++t, ++from, to += step, factor += factor_step) {
    if (t + kRowsAhead < rows) {
      blocks.template ask<true>(to + kRowsAhead * step);
      if (factor) blocks.template ask<false>(factor + kRowsAhead * factor_step);
    }
    blocks.each([&](int64_t block, int count) SEQCONV_LAMBDA {
      const Vec<T> v = from[block * stride];
      S* place = to + block * Blocks<T>::W;
      store<T, S>(place, factor ? v * load<T, S>(factor + block * Blocks<T>::W, count) : v, count);
    });
  }
}
// Back again past the cache, where `bytes` of results are in whole aligned vectors and too many to be found in it.
template <class T, class S>
void scatter_results(const Blocks<T>& blocks, const Vec<T>* from, int64_t stride, S* to, int64_t step, int64_t rows,
                     int64_t bytes) {
  if constexpr (sizeof(S) == sizeof(T)) {
    const bool whole = blocks.width % Blocks<T>::W == 0 && step % Blocks<T>::W == 0;
    if (whole && uintptr_t(to) % sizeof(Vec<T>) == 0 && bytes > kBeyondCache) {
      for (int64_t t = 0; t < rows; ++t, ++from, to += step)
        for (int64_t block = 0; block < blocks.count; ++block)
          store_past_cache(to + block * Blocks<T>::W, from[block * stride]);
      return streamed();
    }
  }
  scatter<T, S>(blocks, from, stride, to, step, rows);
}

}  // namespace seqconv::SEQCONV_ISA
