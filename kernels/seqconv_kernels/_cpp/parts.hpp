// Sums that several threads share: each adds up a part of its own, and the parts are added in a fixed order at the end,
// so that results do not depend on who was faster.
//
// Like vec.hpp, this is compiled once per instruction set and uses no standard-library template.
#pragma once

#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

// `count` parts of `size` sums in T; their sum goes to `result` in S, or nowhere where that is null.
template <class T, class S = T> class Parts {
 public:
  Parts(int64_t count, int64_t size, void* result)
      : count_(count), size_(size), result_(result), alone_(result && count == 1 && sizeof(T) == sizeof(S)),
        own_(alone_ ? 1 : sizeof(T) * count * size + 1) {}  // no request for nothing, which may be answered with null

  T* data() const { return (T*)(alone_ ? result_ : own_.data); }  // part after part; null where memory is short

  void add(int threads) const {
    constexpr int64_t W = Lanes<T>::count, block = 64 * W;
    if (!result_ || alone_) return;
#pragma omp parallel for num_threads(threads) if (threads > 1 && count_ * size_ > kWorthThreads) schedule(static)
    for (int64_t first = 0; first < size_; first += block)
      for (int64_t i = first; i < size_ && i < first + block; i += W) {
        const int live = int(size_ - i < W ? size_ - i : W);
        Vec<T> sum{};
        for (int64_t part = 0; part < count_; ++part) sum += load<T, T>(data() + part * size_ + i, live);
        store<T, S>((S*)result_ + i, sum, live);
      }
  }

 private:
  static constexpr int64_t kWorthThreads = 1 << 16;
  int64_t count_, size_;
  void* result_;
  bool alone_;  // a single part is the result itself
  Scratch own_;
};

}  // namespace seqconv::SEQCONV_ISA
