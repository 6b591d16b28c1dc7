// One head of one sequence of a recurrence whose state S is a (d_k, d_v) matrix: what the kernels of linear attention, the
// delta rule and its generalised form share. Time runs in chunks of kChunk tokens, whose rows are copied to dense,
// zero-padded scratch first, since from one token of a head to the next is far in memory.
#pragma once

#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

// Tokens of a chunk: the copies of its rows (8 arrays of 32 x 64 float32) and a state of 64 x 64 fit the second-level
// cache.
constexpr int kChunk = 32;
constexpr int kPrefetchAhead = 8;  // tokens
constexpr int64_t kOperationsWorthThreads = 1 << 18;  // updates of a number of a state
// Register blocks. Linear attention: kRows x 2 vectors of S. Delta rule: kWide vectors of columns, which share each
// broadcast of k, q and a. Rows in the lanes: kColumns columns.
constexpr int kRows = kManyRegisters ? 8 : 4, kWide = kManyRegisters ? 4 : 2, kColumns = 8;

// `size` filled up to whole vectors and whole register blocks.
inline int64_t padded(int64_t size, int64_t lanes, int64_t block) { return round_up(size, max(lanes, block)); }

inline float number(float x) { return x; }
inline double number(double x) { return x; }
inline float number(bf16 x) { return Memory<float, bf16>::get(&x); }
inline float number(f16 x) { return float(x); }

// A row of numbers to and from the dtype of the sums.
template <class T, class S> SEQCONV_INLINE void read_row(T* to, const S* from, int64_t count) {
  constexpr int W = Lanes<T>::count;
  int64_t i = 0;
  if constexpr (sizeof(T) == 4 && sizeof(S) <= 4)
    for (; i + W <= count; i += W) Memory<T, T>::store(to + i, Memory<T, S>::load(from + i));
  for (; i < count; ++i) to[i] = T(number(from[i]));
}
template <class T> void read_row(T* to, const void* from, Dtype dtype, int64_t count) {
  dispatch(dtype, [&](auto, auto storage) { read_row(to, (const decltype(storage)*)from, count); });
}
template <class S> void write_row(S* to, const float* from, int64_t count) {
  constexpr int W = Lanes<float>::count;
  for (int64_t i = 0; i < count; i += W)
    store<float, S>(to + i, load<float, float>(from + i, int(min(W, count - i))), int(min(W, count - i)));
}
inline int64_t bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// Lays arrays out one after the other; from null it only counts bytes.
struct Layout {
  char* free;
  template <class P> void take(P*& pointer, int64_t count) {
    pointer = (P*)free;
    free += round_up(count * int64_t(sizeof(P)), kCacheLine);
  }
};

// Sums per token of a chunk, over W rows each.
template <class T> struct Sums {
  Vec<T> of[kChunk];
};

template <class T> struct HeadBase {
  static constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  const LinearAttentionArgs& a;
  const int64_t rows, columns;  // d_k and d_v, padded
  int64_t row = 0, head = 0, sequence = 0, begin = 0, end = 0, chunks = 0;  // tokens from `begin` to `end`
  T* S = nullptr;  // the state, or its gradient

  explicit HeadBase(const LinearAttentionArgs& args)  // of no item: for the size of its scratch
      : a(args), rows(padded(args.d_k, W, kRows)), columns(padded(args.d_v, W, kColumns)) {}
  void select(int64_t item) {
    sequence = item / a.heads, head = item % a.heads;
    row = a.segments.row(sequence), begin = a.segments.begin(sequence), end = a.segments.end(sequence);
    chunks = ceil_div(end - begin, kChunk);
  }

  int steps(int64_t chunk) const { return int(min(kChunk, end - begin - chunk * kChunk)); }
  int64_t time(int64_t chunk, int i, bool reversed) const {
    const int64_t t = chunk * kChunk + i;
    return reversed ? end - 1 - t : begin + t;
  }
  // This head's numbers of token t, from `first` on; one of them; and the same of a result, a state's gradient or a
  // state.
  const void* at(const Heads& from, int64_t t, int64_t first = 0) const {
    const int64_t index = row * from.batch + t * from.time + head / (a.heads / from.heads) * from.head + first;
    return (const char*)from.data + bytes(from.dtype) * index;
  }
  T value(const Heads& from, int64_t t, int64_t i) const {
    T x;
    read_row(&x, at(from, t, i), from.dtype, 1);
    return x;
  }
  template <class S> S* slot_of(S* to, int64_t t, int64_t width) const {
    return to + ((row * a.length + t) * a.heads + head) * width;
  }
  T* slot(void* to, int64_t t, int64_t width) const { return slot_of((T*)to, t, width); }
  T* matrix(const void* states) const {
    return states ? (T*)states + (sequence * a.heads + head) * a.d_k * a.d_v : nullptr;
  }
  const T* initial() const {
    if (!a.initial) return nullptr;
    return (const T*)a.initial + (sequence * a.initial_heads + head / (a.heads / a.initial_heads)) * a.d_k * a.d_v;
  }
  // Copies a chunk's rows of an input to scratch, each padded to `stride` with zeros, in the order of the pass. With
  // `shift` those of later tokens, zeros after the last. A width of 1 is repeated, an absent tensor reads as `fill`.
  void pack(T* to, int64_t stride, int64_t width, const Heads& from, int64_t chunk, bool reversed, int shift = 0,
            T fill = T(0)) const {
    for (int i = 0, n = steps(chunk); i < n; ++i, to += stride) {
      const int64_t t = time(chunk, i, reversed) + shift;
      const bool given = from.width > 0 && t < end;
      if (given && from.width == width) {
        prefetch(from, time(chunk, i + kPrefetchAhead, reversed) + shift, 0, width);
        read_row(to, at(from, t), from.dtype, width);
      } else {
        const T one = given ? value(from, t, 0) : fill;
        for (int64_t j = 0; j < width; ++j) to[j] = one;
      }
      for (int64_t j = width; j < stride; ++j) to[j] = T(0);
    }
  }
  SEQCONV_INLINE void prefetch(const Heads& from, int64_t t, int64_t first, int64_t count) const {
    if (t < begin || t >= end) return;
    const char* place = (const char*)at(from, t, first);
    for (int64_t byte = 0; byte < bytes(from.dtype) * count; byte += kCacheLine) __builtin_prefetch(place + byte);
  }
  // Copies a chunk's rows of a result from scratch.
  void unpack(void* to, const T* from, int64_t stride, int64_t width, int64_t chunk, bool reversed) const {
    for (int i = 0, n = steps(chunk); i < n; ++i)
      __builtin_memcpy(slot(to, time(chunk, i, reversed), width), from + i * stride, width * sizeof(T));
  }
  // The output, in the dtype of v where that is narrower than the sums.
  void unpack_output(const T* from, int64_t chunk) const {
    dispatch(a.v.dtype, [&](auto, auto storage) {
      using S = decltype(storage);
      if constexpr (sizeof(T) == 4 && sizeof(S) == 2) {
        for (int i = 0, n = steps(chunk); i < n; ++i)
          write_row(slot_of((S*)a.o, time(chunk, i, false), a.d_v), from + i * columns, a.d_v);
      } else {
        unpack(a.o, from, columns, a.d_v, chunk, false);
      }
    });
  }
  void load_state(const T* from) const {
    for (int64_t i = 0; i < rows * columns; ++i) S[i] = T(0);
    for (int64_t i = 0; from && i < a.d_k; ++i)
      __builtin_memcpy(S + i * columns, from + i * a.d_v, a.d_v * sizeof(T));
  }
  void store_state(T* to) const {
    for (int64_t i = 0; i < a.d_k; ++i) __builtin_memcpy(to + i * a.d_v, S + i * columns, a.d_v * sizeof(T));
  }
  // f(number of vectors, first column) for all columns, in the widest blocks that fit.
  template <class F> void for_column_blocks(F f) const {
    int64_t c = 0;
    for (; c + kWide * W <= columns; c += kWide * W) f(Constant<kWide>{}, c);
    for (; c + 2 * W <= columns; c += 2 * W) f(Constant<2>{}, c);
    for (; c < columns; c += W) f(Constant<1>{}, c);
  }
  T dot(const T* left, const T* right) const {
    Vec<T> sum{};
    for (int64_t i = 0; i < rows; i += W) sum += M::load(left + i) * M::load(right + i);
    return total(sum, W);
  }
  static T total(Vec<T> v, int count) {
    T sum = T(0);
    for (int i = 0; i < count; ++i) sum += v[i];
    return sum;
  }
  Vec<T> lanes(const T* state, int64_t first, int64_t c) const {
    Vec<T> v{};
    for (int i = 0; state && c < a.d_v && i < W && first + i < a.d_k; ++i) v[i] = state[(first + i) * a.d_v + c];
    return v;
  }
  // A result of d_v columns, or its gradient, as an input.
  Heads per_value(void* result) const {
    return {result, a.length * a.heads * a.d_v, a.heads * a.d_v, a.d_v, a.heads, a.d_v, a.dtype};
  }
  // dlog_decay of a chunk from its sums per row.
  void unpack_decay(const T* from, int64_t chunk) const {
    if (a.log_decay.width == a.d_k) return unpack(a.dlog_decay, from, rows, a.d_k, chunk, false);
    for (int t = 0, n = steps(chunk); t < n; ++t) {
      Vec<T> sum{};
      for (int64_t i = 0; i < rows; i += W) sum += M::load(from + t * rows + i);
      *slot(a.dlog_decay, time(chunk, t, false), 1) = total(sum, W);
    }
  }
};

// Runs all heads of all sequences, `Head` the class of one.
template <class Head, bool Backward> Status run_heads(const LinearAttentionArgs& a) {
  const int64_t items = a.segments.count * a.heads, updates = a.batch * a.heads * a.length * a.d_k * a.d_v;
  const int threads = thread_count(a.threads, items, updates, kOperationsWorthThreads);
  return for_each_item(items, threads, Head::scratch_bytes(a), [&](int64_t item, void* scratch) {
    const Head head(a, item, scratch);
    if constexpr (Backward) head.backward();
    else head.forward();
  });
}

}  // namespace
}  // namespace seqconv::SEQCONV_ISA
