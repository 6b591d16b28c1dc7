// Work shared by threads: independent items (tiles of channels, heads, sequences), each with scratch memory of its
// thread, and sums over items that come out the same for any number of threads.
//
// The cut into items depends on shapes alone, and partial sums are added in a fixed order, so that results do not
// depend on the number of threads or on which one was faster.
#pragma once

#include <cstdlib>

#include "arguments.hpp"
#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

// Aligned scratch memory; null where memory is short.
struct Scratch {
  explicit Scratch(size_t bytes) : data(std::aligned_alloc(kAlignment, (bytes / kAlignment + 1) * kAlignment)) {}
  ~Scratch() { std::free(data); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  void* data;

 private:
  static constexpr size_t kAlignment = 64;  // of the widest vector
};

// Threads for `items` items that are `work` units in all: one below `worth` units, where waking others takes longer
// than the work (a barrier costs 2 to 10 microseconds, far more on a loaded machine).
SEQCONV_INLINE int thread_count(int available, int64_t items, int64_t work, int64_t worth) {
  return work < worth ? 1 : int(max(1, min(available, items)));
}

// Calls work(item) for all items.
template <class Work> void for_each_item(int64_t items, int threads, Work work) {
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(dynamic)
  for (int64_t item = 0; item < items; ++item) work(item);
}

// Calls work(item, scratch) for all items, each thread with its own scratch memory, which is zero at first on request.
template <class Work>
Status for_each_item(int64_t items, int threads, size_t scratch_bytes, Work work, bool zeroed = false) {
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    const Scratch scratch(scratch_bytes);
    if (!scratch.data) short_of_memory = 1;
    else if (zeroed) __builtin_memset(scratch.data, 0, scratch_bytes);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item)
      if (scratch.data) work(item, scratch.data);
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

// Tiles of channels for kernels that stream rows of channels and sum nothing over channels: whole rows for one thread,
// parts of rows where several need a tile each. At 1,024 channels a linear scan by whole rows takes 0.6 (float32) and
// 0.5 (bfloat16) of the time that halves of rows take: memory is then read in one run.
constexpr int64_t kWidestTile = 4096, kNarrowestTile = 64;  // channels
SEQCONV_INLINE int64_t tile_channels(int64_t channels, int64_t rows, int threads) {
  return halved_until(kWidestTile, kNarrowestTile,
                      [&](int64_t width) { return rows * ceil_div(channels, width) >= threads; });
}

// Vectors of W numbers stored in S per cache line: what one prefetch covers.
template <class T, class S> constexpr int kLineVectors = int(kCacheLine / (Lanes<T>::count * sizeof(S)));

// A sum over items: `count` partial sums of `size` numbers in T, one per item or group of items; `reduce` adds them up
// in order and writes the total to `result` in S, or nowhere where that is null.
template <class T, class S = T> class PartialSums {
 public:
  PartialSums(int64_t count, int64_t size, void* result)
      : count_(count), size_(size), result_(result), direct_(result && count == 1 && sizeof(T) == sizeof(S)),
        own_(direct_ ? 0 : sizeof(T) * count * size) {}

  T* data() const { return (T*)(direct_ ? result_ : own_.data); }  // one partial sum after the other; null: no memory

  void reduce(int threads) const {
    constexpr int64_t W = Lanes<T>::count, block = 64 * W;  // numbers that a thread adds up at a time
    if (!result_ || direct_) return;
    const int64_t blocks = ceil_div(size_, block);
    for_each_item(blocks, thread_count(threads, blocks, count_ * size_, kWorthThreads), [&](int64_t item) {
      for (int64_t i = item * block; i < min(size_, (item + 1) * block); i += W) {
        const int live = int(min(W, size_ - i));
        Vec<T> sum{};
        for (int64_t part = 0; part < count_; ++part) sum += load<T, T>(data() + part * size_ + i, live);
        store<T, S>((S*)result_ + i, sum, live);
      }
    });
  }

 private:
  static constexpr int64_t kWorthThreads = 1 << 16;  // numbers
  int64_t count_, size_;
  void* result_;
  bool direct_;  // a single partial sum is the result itself
  Scratch own_;
};

}  // namespace seqconv::SEQCONV_ISA
