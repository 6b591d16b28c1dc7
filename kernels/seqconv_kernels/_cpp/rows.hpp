// Rows of neighbouring channels to lanes and back.
//
// The rows of a channel-last tensor are far apart, and a block of one vector is a fraction of what one look-up in memory
// brings: so several blocks are copied at once, and rows are asked for before they are read or written. The loops over
// the usual numbers of blocks are unrolled: memory then has 1.4 to 1.8 times as much to do at once.
//
// Like vec.hpp, this is compiled once per instruction set and uses no standard-library template.
#pragma once

#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

constexpr int64_t kRowsAhead = 16;
constexpr int64_t kBeyondCache = 1 << 23;  // bytes of results that nobody will find in a cache later

template <int N> struct Count { static constexpr int value = N; };

// Blocks of W channels side by side, of which the last one may be narrower.
template <class T> struct Blocks {
  static constexpr int W = Lanes<T>::count;
  int64_t width, count;  // channels, blocks

  explicit Blocks(int64_t channels) : width(channels), count((channels + W - 1) / W) {}
  int live(int64_t block) const { return int(width - block * W < W ? width - block * W : W); }

  // The number of blocks as a constant: 1, 2 or 4 whole ones, otherwise 0 for any number.
  template <class Use> SEQCONV_INLINE void counted(Use use) const {
    if (width == 4 * W) return use(Count<4>{});
    if (width == 2 * W) return use(Count<2>{});
    if (width == W) return use(Count<1>{});
    return use(Count<0>{});
  }
  template <int N, class Each> SEQCONV_INLINE void each(Each each) const {
#pragma GCC unroll 4
    for (int block = 0; block < N; ++block) each(block, W);
    if (N > 0) return;
    const int64_t whole = width / W;
    for (int64_t block = 0; block < whole; ++block) each(block, W);
    if (whole < count) each(whole, int(width - whole * W));
  }
  template <int N, bool Write, class S> SEQCONV_INLINE void ask(const S* row) const {
    constexpr int64_t line = 64 / int64_t(sizeof(S));
#pragma GCC unroll 8
    for (int64_t i = 0; i < N * W; i += line) __builtin_prefetch(row + i, Write);
    for (int64_t i = 0; N == 0 && i < width; i += line) __builtin_prefetch(row + i, Write);
  }
};

// `rows` rows, `step` numbers apart, to vectors; those of a block begin `stride` vectors behind the last block's. With
// `Times` they are multiplied to what is there.
template <class T, class S, bool Times = false>
void gather(const Blocks<T>& blocks, const S* from, int64_t step, int64_t rows, Vec<T>* to, int64_t stride) {
  blocks.counted([&](auto n) SEQCONV_LAMBDA {
    constexpr int N = decltype(n)::value;
    for (int64_t t = 0; t < rows; ++t) {
      const S* row = from + t * step;
      if (t + kRowsAhead < rows) blocks.template ask<N, false>(row + kRowsAhead * step);
      blocks.template each<N>([&](int64_t block, int count) SEQCONV_LAMBDA {
        const Vec<T> v = load<T, S>(row + block * Blocks<T>::W, count);
        to[block * stride + t] = Times ? to[block * stride + t] * v : v;
      });
    }
  });
}

// Back again, `change` telling what becomes of a vector and where of the row it stands.
template <class T, class S, class Change>
SEQCONV_INLINE void scatter_changed(const Blocks<T>& blocks, const Vec<T>* from, int64_t stride, S* to, int64_t step,
                                    int64_t rows, Change change) {
  blocks.counted([&](auto n) SEQCONV_LAMBDA {
    constexpr int N = decltype(n)::value;
    for (int64_t t = 0; t < rows; ++t) {
      S* row = to + t * step;
      if (t + kRowsAhead < rows) blocks.template ask<N, true>(row + kRowsAhead * step);
      blocks.template each<N>([&](int64_t block, int count) SEQCONV_LAMBDA {
        const int64_t at = block * Blocks<T>::W;
        store<T, S>(row + at, change(from[block * stride + t], t, at, count), count);
      });
    }
  });
}
// Back again, times the rows at `factor` where they are given.
template <class T, class S>
void scatter(const Blocks<T>& blocks, const Vec<T>* from, int64_t stride, S* to, int64_t step, int64_t rows,
             const S* factor = nullptr, int64_t factor_step = 0) {
  if (!factor)
    return scatter_changed<T, S>(blocks, from, stride, to, step, rows,
                                 [](Vec<T> v, int64_t, int64_t, int) SEQCONV_LAMBDA { return v; });
  scatter_changed<T, S>(blocks, from, stride, to, step, rows,
                        [=](Vec<T> v, int64_t t, int64_t at, int count) SEQCONV_LAMBDA {
                          const S* row = factor + t * factor_step + at;
                          if (t + kRowsAhead < rows) __builtin_prefetch(row + kRowsAhead * factor_step);
                          return v * load<T, S>(row, count);
                        });
}
// Back again past the cache, where `bytes` of results are in whole aligned vectors and too many to be found in it.
template <class T, class S>
void scatter_results(const Blocks<T>& blocks, const Vec<T>* from, int64_t stride, S* to, int64_t step, int64_t rows,
                     int64_t bytes) {
  if constexpr (sizeof(S) == sizeof(T)) {
    const bool whole = blocks.width % Blocks<T>::W == 0 && step % Blocks<T>::W == 0;
    if (whole && uintptr_t(to) % sizeof(Vec<T>) == 0 && bytes > kBeyondCache) {
      for (int64_t t = 0; t < rows; ++t)
        for (int64_t block = 0; block < blocks.count; ++block)
          store_past_cache(to + t * step + block * Blocks<T>::W, from[block * stride + t]);
      return streamed();
    }
  }
  scatter<T, S>(blocks, from, stride, to, step, rows);
}

}  // namespace seqconv::SEQCONV_ISA
