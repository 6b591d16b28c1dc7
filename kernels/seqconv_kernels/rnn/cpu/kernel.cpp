// Recurrent cells over (batch, length, gates, heads, width), block-diagonal over the heads:
//
//   r[t] = R h[t-1] + b            states[t] = cell(x[t], r[t], states[t-1])
//
// The adjoint runs backwards in time: with d the gradients of states[t] on all paths, d_h[t] starting from dy[t],
//
//   (dx[t], dr[t], d) = cell's adjoint(d)         d_h += R^T dr[t]
//   dR = sum over t of dr[t] h[t-1]^T             db = sum over t of dr[t]
//
// Work: an item is a tile of up to 8 sequences of one head, in lockstep over time from the start of each. R is packed
// once per item into panels of whole vectors of outputs and stays in the cache (64 KiB for four gates of 64 channels);
// every vector of it that is loaded serves all sequences of the tile, whose sums are in registers, so that the product
// runs at the speed of multiply-adds. Backward the products dr h^T are summed over a chunk of steps at a time, so that
// the sums of a block of dR stay in registers over all tokens of the chunk.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"
#include "cells.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kTile = 8;   // sequences of an item
constexpr int kChunk = 8;  // steps whose products dr h^T are summed at a time
constexpr int64_t kProductsWorthThreads = 1 << 18;
constexpr int kAccumulators = kManyRegisters ? 16 : 8;

// Sequences of an item: a power of two.
int64_t tile_of(const RnnArgs& s) {
  return halved_until(kTile, 1, [&](int64_t tile) SEQCONV_LAMBDA { return tile / 2 < s.segments.count; });
}

// A matrix of `depth` inputs by `outs` vectors of outputs, for the product with `tile` (1, 2, 4 or 8) rows: panels of as
// many vectors as there are accumulators per row, each [input][vector], then the vectors that fill no panel, each
// [input].
template <class T> struct Packed {
  static constexpr int W = Lanes<T>::count;
  T* data;
  int64_t depth, outs;
  int tile;

  // get(input, output), zero beyond the matrix.
  template <class Get> void fill(Get get) const {
    T* to = data;
    for (int64_t first = 0, panel = kAccumulators / tile; first < outs; first += panel) {
      panel = first + panel <= outs ? panel : 1;
      for (int64_t k = 0; k < depth; ++k)
        for (int64_t lane = 0; lane < panel * W; ++lane) *to++ = get(k, first * W + lane);
    }
  }
  // out[row][.] += in[row][.] times the matrix, for the rows of a tile.
  SEQCONV_NOINLINE void add_product(const T* in, int64_t in_row, T* out, int64_t out_row) const {
    switch (tile) {
      case 8: return add_rows<8>(in, in_row, out, out_row);
      case 4: return add_rows<4>(in, in_row, out, out_row);
      case 2: return add_rows<2>(in, in_row, out, out_row);
      default: return add_rows<1>(in, in_row, out, out_row);
    }
  }

 private:
  template <int Rows, int V> SEQCONV_INLINE void add_panel(int64_t first, const T* in, int64_t in_row, T* out,
                                                           int64_t out_row) const {
    Vec<T> sums[Rows][V];
    const T* weights = data + first * W * depth;
#pragma GCC unroll 8
    for (int n = 0; n < Rows; ++n)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sums[n][v] = Memory<T, T>::load(out + n * out_row + (first + v) * W);
    for (int64_t k = 0; k < depth; ++k, weights += V * W) {
      Vec<T> w[V];
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) w[v] = Memory<T, T>::load(weights + v * W);
#pragma GCC unroll 8
      for (int n = 0; n < Rows; ++n)
#pragma GCC unroll 16
        for (int v = 0; v < V; ++v) sums[n][v] += w[v] * in[n * in_row + k];
    }
#pragma GCC unroll 8
    for (int n = 0; n < Rows; ++n)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) Memory<T, T>::store(out + n * out_row + (first + v) * W, sums[n][v]);
  }
  template <int Rows> SEQCONV_INLINE void add_rows(const T* in, int64_t in_row, T* out, int64_t out_row) const {
    constexpr int V = kAccumulators / Rows;
    int64_t first = 0;
    for (; first + V <= outs; first += V) add_panel<Rows, V>(first, in, in_row, out, out_row);
    for (; first < outs; ++first) add_panel<Rows, 1>(first, in, in_row, out, out_row);
  }
};

// sums[k][.] += over rows n: left[n][k] right[n][.], by blocks of kRows rows k and V vectors.
template <class T> struct Outer {
  static constexpr int W = Lanes<T>::count, kRows = kManyRegisters ? 6 : 4;

  template <int R, int V> static SEQCONV_INLINE void block(const T* left, int64_t left_row, const T* right,
                                                           int64_t right_row, int64_t rows, T* out, int64_t out_row) {
    Vec<T> sums[R][V];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sums[r][v] = Memory<T, T>::load(out + r * out_row + v * W);
    for (int64_t n = 0; n < rows; ++n, left += left_row, right += right_row) {
      Vec<T> x[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) x[v] = Memory<T, T>::load(right + v * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sums[r][v] += x[v] * left[r];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) Memory<T, T>::store(out + r * out_row + v * W, sums[r][v]);
  }
  template <int V> static SEQCONV_NOINLINE void columns(const T* left, int64_t depth, const T* right, int64_t right_row, int64_t rows,
                                       T* out) {
    int64_t k = 0;
    for (; k + kRows <= depth; k += kRows)
      block<kRows, V>(left + k, depth, right, right_row, rows, out + k * right_row, right_row);
    for (; k < depth; ++k) block<1, V>(left + k, depth, right, right_row, rows, out + k * right_row, right_row);
  }
  // left (rows, depth), right (rows, width), sums (depth, width), all dense.
  static void add(const T* left, int64_t depth, const T* right, int64_t width, int64_t rows, T* sums) {
    int64_t v = 0;
    for (; v + 2 * W <= width; v += 2 * W) columns<2>(left, depth, right + v, width, rows, sums + v);
    for (; v < width; v += W) columns<1>(left, depth, right + v, width, rows, sums + v);
  }
};

// Up to `tile` sequences of one head. Buffers have `padded` channels per gate or state, whole vectors.
template <class T, class S, class Cell> struct Item {
  static constexpr int W = Lanes<T>::count, G = Cell::sizes.gates, N = Cell::sizes.states, K = Cell::sizes.saved;
  const RnnArgs& s;
  const int64_t tile, first, rows, head, padded, channels;
  int64_t begin[kTile], steps[kTile], longest;

  Item(const RnnArgs& args, int64_t item)
      : s(args), tile(tile_of(args)), first(item / args.heads * tile), rows(min(tile, args.segments.count - first)),
        head(item % args.heads), padded(round_up(args.width, W)), channels(args.heads * args.width), longest(0) {
    for (int64_t n = 0; n < tile; ++n) {
      begin[n] = steps[n] = 0;
      if (n >= rows) continue;
      const int64_t end = s.segments.end(first + n);
      begin[n] = s.starts ? min(max(s.starts[first + n], 0), end) : s.segments.begin(first + n);
      steps[n] = end - begin[n];
      longest = max(longest, steps[n]);
    }
  }
  static size_t forward_scratch(const RnnArgs& s) {
    const int64_t padded = round_up(s.width, W), gates = G * padded;
    return sizeof(T) * (s.width * gates + gates + tile_of(s) * (gates + N * padded));
  }
  static size_t backward_scratch(const RnnArgs& s) {
    const int64_t padded = round_up(s.width, W), gates = G * padded, tile = tile_of(s);
    return sizeof(T) * (gates * padded + tile * N * padded + kChunk * tile * (gates + padded) + gates * padded + gates);
  }

  T weight(int64_t gate, int64_t out, int64_t in) const {
    if (out >= s.width || in >= s.width) return 0;
    return ((const T*)s.weight)[((gate * s.heads + head) * s.width + out) * s.width + in];
  }
  int64_t token(int64_t n, int64_t step) const { return s.segments.row(first + n) * s.length + begin[n] + step; }
  // Channel c of the head of plane p out of `planes` of a token.
  int64_t at(int64_t token, int planes, int p, int64_t c) const {
    return (token * planes + p) * channels + head * s.width + c;
  }
  int64_t state_at(int64_t n, int p, int64_t c) const { return at(first + n, N, p, c); }
  int live(int64_t c) const { return int(min(W, s.width - c)); }
  const S* x_row(int64_t n, int64_t step) const {
    return (const S*)s.x.data + s.segments.row(first + n) * s.x.batch + (begin[n] + step) * s.x.time + head * s.width;
  }
  // State p before a step: where it was saved at the step before, or the initial one.
  Vec<T> state_before(int64_t n, int64_t step, int p, int64_t c) const {
    const int count = live(c);
    if (step == 0) return s.initial ? load<T, T>((const T*)s.initial + state_at(n, p, c), count) : Vec<T>{};
    const int64_t before = token(n, step - 1);
    if (Cell::from[p] < 0) return load<T, T>((const T*)s.y + at(before, 1, 0, c), count);
    return load<T, T>((const T*)s.saved + at(before, K, Cell::from[p], c), count);
  }

  void load_states(const void* from, T* states) const {  // (tile, N, padded), zero where there is nothing
    for (int64_t n = 0; n < tile; ++n)
      for (int p = 0; p < N; ++p)
        for (int64_t c = 0; c < padded; c += W) {
          const bool given = from && n < rows;
          const Vec<T> v = given ? load<T, T>((const T*)from + state_at(n, p, c), live(c)) : Vec<T>{};
          Memory<T, T>::store(states + (n * N + p) * padded + c, v);
        }
  }
  void store_states(const T* states, void* to) const {
    for (int64_t n = 0; n < rows; ++n)
      for (int p = 0; p < N; ++p)
        for (int64_t c = 0; c < padded; c += W)
          store<T, T>((T*)to + state_at(n, p, c), Memory<T, T>::load(states + (n * N + p) * padded + c), live(c));
  }
  // Zeros at the padding before each sequence, in `planes` planes of a result.
  void clear_padding(void* result, int planes) const {
    for (int64_t n = 0; s.starts && n < rows; ++n)
      for (int64_t t = s.segments.begin(first + n); t < begin[n]; ++t)
        for (int p = 0; p < planes; ++p)
          for (int64_t c = 0; c < s.width; c += W)
            store<T, T>((T*)result + at(s.segments.row(first + n) * s.length + t, planes, p, c), Vec<T>{}, live(c));
  }

  void forward(void* scratch) const {
    const int64_t gates = G * padded;
    const Packed<T> recurrent{(T*)scratch, s.width, gates / W, int(tile)};
    T *bias = recurrent.data + s.width * gates, *products = bias + gates, *states = products + tile * gates;
    recurrent.fill([&](int64_t in, int64_t out) { return weight(out / padded, out % padded, in); });
    for (int64_t out = 0; out < gates; ++out) {
      const int64_t gate = out / padded, c = out % padded;
      bias[out] = s.bias && c < s.width ? ((const T*)s.bias)[(gate * s.heads + head) * s.width + c] : T(0);
    }
    load_states(s.initial, states);
    clear_padding(s.y, 1);
    for (int64_t step = 0; step < longest; ++step) {
      for (int64_t n = 0; n < tile; ++n) __builtin_memcpy(products + n * gates, bias, sizeof(T) * gates);
      recurrent.add_product(states, N * padded, products, gates);
      for (int64_t n = 0; n < rows; ++n)
        if (step < steps[n]) forward_token(n, step, products + n * gates, states + n * N * padded);
    }
    store_states(states, s.final_state);
  }
  void forward_token(int64_t n, int64_t step, const T* products, T* states) const {
    const S* x = x_row(n, step);
    const int64_t position = token(n, step);
    for (int64_t c = 0; c < padded; c += W) {
      const int count = live(c);
      Vec<T> input[G], product[G], state[N], saved[K + 1];
      for (int g = 0; g < G; ++g) {
        input[g] = load<T, S>(x + g * channels + c, count);
        product[g] = Memory<T, T>::load(products + g * padded + c);
      }
      for (int p = 0; p < N; ++p) state[p] = Memory<T, T>::load(states + p * padded + c);
      Cell::forward(input, product, state, saved);
      for (int p = 0; p < N; ++p) Memory<T, T>::store(states + p * padded + c, state[p]);
      store<T, T>((T*)s.y + at(position, 1, 0, c), state[0], count);
      for (int p = 0; s.saved && p < K; ++p) store<T, T>((T*)s.saved + at(position, K, p, c), saved[p], count);
    }
  }

  // dweight and dbias: of this item's sequences, (G, heads, width, width) and (G, heads, width).
  void backward(void* scratch, T* dweight, T* dbias) const {
    const int64_t gates = G * padded;
    const Packed<T> adjoint{(T*)scratch, gates, padded / W, int(tile)};
    T *d = adjoint.data + gates * padded, *dr = d + tile * N * padded, *h = dr + kChunk * tile * gates;
    T *sums = h + kChunk * tile * padded, *totals = sums + gates * padded;
    adjoint.fill([&](int64_t in, int64_t out) { return weight(in / padded, in % padded, out); });
    __builtin_memset(sums, 0, sizeof(T) * (gates * padded + gates));
    load_states(s.dfinal, d);
    clear_padding(s.dx, G);
    for (int64_t stop = longest; stop > 0;) {
      const int64_t start = max(stop - kChunk, 0);
      for (int64_t step = stop - 1; step >= start; --step) {
        T *dr_rows = dr + (step - start) * tile * gates, *h_rows = h + (step - start) * tile * padded;
        for (int64_t n = 0; n < tile; ++n) {
          if (n < rows && step < steps[n]) {
            backward_token(n, step, d + n * N * padded, dr_rows + n * gates, h_rows + n * padded);
            continue;
          }
          __builtin_memset(dr_rows + n * gates, 0, sizeof(T) * gates);
          __builtin_memset(h_rows + n * padded, 0, sizeof(T) * padded);
        }
        adjoint.add_product(dr_rows, gates, d, N * padded);
      }
      const int64_t tokens = (stop - start) * tile;
      Outer<T>::add(dr, gates, h, padded, tokens, sums);
      for (int64_t i = 0; i < tokens; ++i)
        for (int64_t k = 0; k < gates; k += W)
          Memory<T, T>::store(totals + k, Memory<T, T>::load(totals + k) + Memory<T, T>::load(dr + i * gates + k));
      stop = start;
    }
    store_states(d, s.dinitial);
    for (int64_t g = 0; g < G; ++g)
      for (int64_t i = 0; i < s.width; ++i) {
        const int64_t row = (g * s.heads + head) * s.width + i;
        dbias[row] = totals[g * padded + i];
        for (int64_t j = 0; j < s.width; ++j) dweight[row * s.width + j] = sums[(g * padded + i) * padded + j];
      }
  }
  void backward_token(int64_t n, int64_t step, T* d, T* dr, T* h) const {
    const int64_t position = token(n, step);
    for (int64_t c = 0; c < padded; c += W) {
      const int count = live(c);
      Vec<T> saved[K + 1], before[Cell::recorded], grad[N], dx[G], dproduct[G];
      for (int p = 0; p < K; ++p) saved[p] = load<T, T>((const T*)s.saved + at(position, K, p, c), count);
      for (int p = 0; p < Cell::recorded; ++p) before[p] = state_before(n, step, p, c);
      for (int p = 0; p < N; ++p) grad[p] = Memory<T, T>::load(d + p * padded + c);
      grad[0] += load<T, T>((const T*)s.dy + at(position, 1, 0, c), count);
      Cell::backward(saved, before, load<T, T>((const T*)s.y + at(position, 1, 0, c), count), grad, dx, dproduct);
      for (int g = 0; g < G; ++g) {
        store<T, T>((T*)s.dx + at(position, G, g, c), dx[g], count);
        store<T, T>(dr + g * padded + c, Vec<T>{}, W);
        store<T, T>(dr + g * padded + c, dproduct[g], count);
      }
      for (int p = 0; p < N; ++p) {
        Memory<T, T>::store(d + p * padded + c, Vec<T>{});
        store<T, T>(d + p * padded + c, grad[p], count);
      }
      Memory<T, T>::store(h + c, before[0]);
    }
  }
};

template <class T, class S, class Cell> Status run_forward(const RnnArgs& s, int64_t items, int threads) {
  using Work = Item<T, S, Cell>;
  return for_each_item(items, threads, Work::forward_scratch(s), [&](int64_t item, void* scratch) {
    Work(s, item).forward(scratch);
  });
}

template <class T, class S, class Cell> Status run_backward(const RnnArgs& s, int64_t items, int threads) {
  using Work = Item<T, S, Cell>;
  const int64_t tiles = items / s.heads, width = Work::G * s.heads * s.width;
  const PartialSums<T> dweight(tiles, width * s.width, s.dweight), dbias(tiles, width, s.dbias);
  if (!dweight.data() || !dbias.data()) return Status::no_memory;
  const auto work = [&](int64_t item, void* scratch) {
    const int64_t tile = item / s.heads;
    Work(s, item).backward(scratch, dweight.data() + tile * width * s.width, dbias.data() + tile * width);
  };
  const Status status = for_each_item(items, threads, Work::backward_scratch(s), work);
  dweight.reduce(threads), dbias.reduce(threads);
  return status;
}

template <bool Backward, class T, class S, template <class> class Cell> Status run_cell(const RnnArgs& s) {
  const int64_t items = ceil_div(s.segments.count, tile_of(s)) * s.heads;
  const int64_t work = s.batch * s.length * s.heads * s.width * s.width;
  const int threads = thread_count(s.threads, items, work, kProductsWorthThreads);
  if constexpr (Backward) return run_backward<T, S, Cell<T>>(s, items, threads);
  else return run_forward<T, S, Cell<T>>(s, items, threads);
}

template <bool Backward, class T, class S> Status run(const RnnArgs& s) {
  switch (s.cell) {
    case RnnCell::lstm: return run_cell<Backward, T, S, Lstm>(s);
    case RnnCell::gru: return run_cell<Backward, T, S, Gru>(s);
    case RnnCell::elman: return run_cell<Backward, T, S, Elman>(s);
    default: return run_cell<Backward, T, S, Slstm>(s);
  }
}

}  // namespace

Status rnn_forward(const RnnArgs& s) {
  return dispatch(s.dtype, [&](auto acc, auto storage) { return run<false, decltype(acc), decltype(storage)>(s); });
}
Status rnn_backward(const RnnArgs& s) {
  return dispatch_accumulation(s.dtype, [&](auto acc) { return run<true, decltype(acc), decltype(acc)>(s); });
}

}  // namespace seqconv::SEQCONV_ISA
