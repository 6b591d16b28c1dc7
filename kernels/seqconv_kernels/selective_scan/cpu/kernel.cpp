// Selective scan; u, delta, z, y (batch, length, channels), state h (channels, d_state), B and C shared by a group:
//
//   dt[t] = softplus(delta[t] + bias)      h[t] = exp(dt[t] A) h[t-1] + dt[t] u[t] B[t]
//   y[t] = (C[t] . h[t] + D u[t]) silu(z[t])
//
// The adjoint, with g[t] = dy[t] silu(z[t]) and dh the gradient of the state, from the last step backwards:
//
//   dh[t] = g[t] C[t] + exp(dt[t+1] A) dh[t+1]          (plus the final state's gradient at the last step)
//   e[t] = dh[t] exp(dt[t] A) h[t-1]                    the gradient of the exponent dt[t] A
//   du[t] = D g[t] + dt[t] sum_n dh[t] B[t]             dB[t] = sum over channels of dt[t] u[t] dh[t]
//   ddt[t] = u[t] sum_n dh[t] B[t] + sum_n e[t] A       dC[t] = sum over channels of g[t] h[t]
//   dA = sum_t e[t] dt[t]    dD = sum_t g[t] u[t]       dz[t] = dy[t] (C[t] . h[t] + D u[t]) silu'(z[t])
//
// Work: an item is a tile of neighbouring channels of one group and one row of the batch. A vector holds W channels and
// the d_state states of these channels are d_state vectors: so C . h is a sum of vectors, without sums over lanes, and
// B and C are broadcast. Inputs and results are read and written in place along their rows; a scan from the last step
// to the first is one over rows at a negative distance.
// Cross scan: an item is a tile of channels for all groups, one after the other. Rows are read and written at the
// places that the order of the group gives, so that nothing is gathered; the first group writes y and du, the others
// add to them.
// Order: time runs in chunks of kScanChunk steps. Within a chunk, vector of channels by vector of channels, first what
// does not depend on the state (time steps, dt u, D u), then the states in bands of kForwardBand, each of which stays
// in registers over the whole chunk, so that the state is loaded and stored once per 16 steps. All operands of a chunk
// (B, C, dt, dt u, y) are in the first-level cache.
// Backward: the forward pass has left the state at the start of every chunk (checkpoints). Chunks are taken from the
// last one; each recomputes the states and decays of a band from its checkpoint and then runs the adjoint over it. dB
// and dC are kept lane by lane over the vectors of a tile and reduced over lanes once per chunk and band; over tiles
// they are partial sums, as dA, dD and dbias are over the rows of the batch.
// Half of the arithmetic is exponentials. exp(dt A) = 2^(dt A log2 e) with log2 e multiplied to A beforehand, and where
// no exponent of a chunk can leave the range of float32 (checked once per chunk, nearly always so) without clamps.
#include "kernel.hpp"

#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"

#include <type_traits>

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kSteps = kScanChunk;
constexpr int64_t kStatesWorthThreads = 1 << 19;  // updates of a state

// States whose values stay in registers over a chunk: 16 of the 32 registers of AVX-512 (with 16 registers some spill,
// but the usual d_state of 16 is one pass). Backward each has dh and dA in registers.
constexpr int kForwardBand = 16, kBackwardBand = kManyRegisters ? 8 : 4;
constexpr int kRestBand = 4;  // for what is left of d_state after bands of kForwardBand, then bands of 1

// exp(dt A) of N states, interleaved; A is times log2(e). With `InRange` |dt A| < kExp2Bound holds for all of them.
constexpr int kExponentials = 2;  // at once: two chains of multiply-adds hide the latency without spilling states
template <bool InRange, int N, class T> SEQCONV_INLINE void decays(Vec<T> step, const Vec<T>* A, Vec<T>* out) {
  if constexpr (InRange) return exp2_products<N>(step, A, out);
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) out[i] = exp2(step * A[i]);
}

// NB states h of one vector of channels over a chunk; adds C . h to y. B and C have n values per step, each a full
// vector. Two sums of C h alternate, so that their additions do not wait for each other. `each_step` prefetches.
// Not inlined: next to the loops around it, the compiler would keep fewer states in registers.
template <class T, bool InRange, int NB, class EachStep>
SEQCONV_NOINLINE void scan_band(Vec<T>* h, const Vec<T>* A, const Vec<T>* B, const Vec<T>* C, int64_t n,
                             const Vec<T>* dt, const Vec<T>* dtu, Vec<T>* y, int steps, EachStep each_step) {
  Vec<T> state[NB];
#pragma GCC unroll 16
  for (int j = 0; j < NB; ++j) state[j] = h[j];
  for (int t = 0; t < steps; ++t, B += n, C += n) {
    const Vec<T> step = dt[t], in = dtu[t];
    each_step();
    constexpr int N = NB < kExponentials ? NB : kExponentials;
    Vec<T> sums[2] = {y[t]};
#pragma GCC unroll 16
    for (int j = 0; j < NB; j += N) {
      Vec<T> decay[N];
      decays<InRange, N, T>(step, A + j, decay);
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) state[j + i] = decay[i] * state[j + i] + in * B[j + i];
#pragma GCC unroll 4
      for (int i = 0; i < N; ++i) sums[i % 2] += state[j + i] * C[j + i];
    }
    y[t] = sums[0] + sums[1];
  }
#pragma GCC unroll 16
  for (int j = 0; j < NB; ++j) h[j] = state[j];
}

// All n states of one vector of channels over a chunk, in bands of falling size; `each_step` runs in the first of them.
template <bool InRange, class T, class EachStep>
void scan_states(Vec<T>* h, const Vec<T>* A, const Vec<T>* B, const Vec<T>* C, int64_t n, const Vec<T>* dt,
                 const Vec<T>* dtu, Vec<T>* y, int steps, EachStep each_step) {
  const auto nothing = [] {};
  int64_t j = 0;
  if (n >= kForwardBand) {
    scan_band<T, InRange, kForwardBand>(h, A, B, C, n, dt, dtu, y, steps, each_step);
    j = kForwardBand;
  } else if (n >= kRestBand) {
    scan_band<T, InRange, kRestBand>(h, A, B, C, n, dt, dtu, y, steps, each_step);
    j = kRestBand;
  } else {
    scan_band<T, InRange, 1>(h, A, B, C, n, dt, dtu, y, steps, each_step);
    j = 1;
  }
  for (; j + kForwardBand <= n; j += kForwardBand)
    scan_band<T, InRange, kForwardBand>(h + j, A + j, B + j, C + j, n, dt, dtu, y, steps, nothing);
  for (; j + kRestBand <= n; j += kRestBand)
    scan_band<T, InRange, kRestBand>(h + j, A + j, B + j, C + j, n, dt, dtu, y, steps, nothing);
  for (; j < n; ++j) scan_band<T, InRange, 1>(h + j, A + j, B + j, C + j, n, dt, dtu, y, steps, nothing);
}

// A tile of channels of one group and one row of the batch, in `count` vectors of W; arrays over its states are
// (vector k, state j): [k n + j], with the last vector possibly narrower than W. In a cross scan it goes from group to
// group, and y and du are stored in T.
template <class T, class S, bool Cross> struct Tile {
  static constexpr int W = Lanes<T>::count, kMaxVectors = kScanTile / W;
  using Sum = std::conditional_t<Cross, T, S>;
  const ScanArgs& a;
  const ScanPlan& plan;
  int64_t row, group, tile, first, count;  // first: vector of the group that the tile begins with
  int64_t n;                               // d_state
  const int64_t* order = nullptr;          // of the group

  Tile(const ScanArgs& args, const ScanPlan& p, int64_t item) : a(args), plan(p), n(args.d_state) {
    tile = item % p.tiles;
    row = Cross ? item / p.tiles : item / (p.tiles * a.groups);
    first = tile * p.tile / W;
    count = min(p.tile / W, ceil_div(p.width, W) - first);
    enter(Cross ? 0 : item / p.tiles % a.groups);
  }
  void enter(int64_t next_group) {
    group = next_group;
    if (Cross) order = a.orders + row * a.orders_batch + group * a.length;
  }
  // The place of step t in the batch's row, and the addresses of vector k there.
  int64_t place(int64_t t) const { return Cross ? order[t] : t; }
  int64_t channel(int64_t k) const { return group * plan.width + (first + k) * W; }
  int lanes(int64_t k) const { return int(min(W, plan.width - (first + k) * W)); }
  template <class X> X* start(const GroupedRows& x, int64_t k) const {
    return (X*)x.data + row * x.batch + group * x.group + (first + k) * W;
  }
  // The state of vector k before a chunk: checkpoints are (row, chunk, group, padded channels / W, d_state, W).
  T* checkpoint(int64_t chunk, int64_t k) const {
    const int64_t group_of_chunk = (row * plan.chunks_per_row + chunk) * a.groups + group;
    return (T*)a.checkpoints + (group_of_chunk * plan.padded + (first + k) * W) * n;
  }
  Vec<T> parameter(const void* p, int64_t k) const {
    return p ? load<T, T>((const T*)p + channel(k), lanes(k)) : Vec<T>{};
  }

  // Prefetches the rows of the next chunk, one row of each tensor per step: the hardware does not prefetch over the
  // gaps between the rows of a tile, and in a burst prefetches stall. Beyond the last row they do no harm, but an order
  // ends there. The number of rows is a constant, so that the addresses stay in registers: for an absent tensor the
  // first one's rows are prefetched twice.
  template <int Reads, int Writes> struct RowPrefetcher {
    const char* rows[Reads + Writes];
    int64_t steps[Reads + Writes];  // bytes
    const int64_t *order, *end;
    SEQCONV_INLINE void operator()() {
      if (Cross && order >= end) return;
      const int64_t place = Cross ? *order++ : 0;
#pragma GCC unroll 4
      for (int i = 0; i < Reads; ++i) __builtin_prefetch(rows[i] + place * steps[i]), rows[i] += Cross ? 0 : steps[i];
#pragma GCC unroll 4
      for (int i = Reads; i < Reads + Writes; ++i)
        __builtin_prefetch(rows[i] + place * steps[i], 1), rows[i] += Cross ? 0 : steps[i];
    }
    template <class X> void show(int i, X* first, int64_t step, int64_t t) {
      rows[i] = (const char*)(first + (Cross ? 0 : t * step)), steps[i] = step * int64_t(sizeof(X));
    }
  };
  // The first of the outputs is y or du, a sum over groups; others are stored as the inputs are.
  template <int Reads, int Writes>
  RowPrefetcher<Reads, Writes> prefetcher(int64_t t, int64_t k, const GroupedRows* const (&inputs)[Reads],
                                          const GroupedRows* const (&outputs)[Writes]) const {
    RowPrefetcher<Reads, Writes> next;
    int i = 0;
    for (const GroupedRows* input : inputs) {
      const GroupedRows& x = input->data ? *input : *inputs[0];
      next.show(i++, start<const S>(x, k), x.time, t);
    }
    for (const GroupedRows* y : outputs)
      if (i == Reads) next.show(i++, start<Sum>(*y, k), y->time, t);
      else next.show(i++, start<S>(*y, k), y->time, t);
    next.order = Cross ? order + min(t, a.length) : nullptr, next.end = Cross ? order + a.length : nullptr;
    return next;
  }

  // States or A, (channels, d_state) of a segment, to and from lanes of channels: a strided access, once per segment.
  void read_state(const void* from, int64_t segment, Vec<T>* h, T scale = T(1)) const {
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < n; ++j) {
        Vec<T> v{};
        if (from)
          for (int i = 0; i < lanes(k); ++i)
            v[i] = scale * ((const T*)from)[(segment * a.channels + channel(k) + i) * n + j];
        h[k * n + j] = v;
      }
  }
  void write_state(void* to, int64_t segment, const Vec<T>* h) const {
    if (!to) return;
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < n; ++j)
        for (int i = 0; i < lanes(k); ++i)
          ((T*)to)[(segment * a.channels + channel(k) + i) * n + j] = h[k * n + j][i];
  }
  // The largest |A| of each channel over its states.
  Vec<T> largest_magnitude(const Vec<T>* A) const {
    Vec<T> most{};
    for (int64_t j = 0; j < n; ++j) most = maximum<T>(most, maximum<T>(A[j], -A[j]));
    return most;
  }
  // B or C of a chunk, (steps, n), as numbers (Value = T) or broadcast to all lanes (Value = Vec<T>).
  template <class Value> void read_weights(const ScanWeights& w, int64_t t, int steps, Value* to) const {
    const S* base = (const S*)w.data + row * w.batch + group * w.group;
    for (int s = 0; s < steps; ++s) {
      const S* from = base + place(t + s) * w.time;
      for (int64_t j = 0; j < n; ++j) to[s * n + j] = Value{} + Memory<T, S>::get(from + j * w.state);
    }
  }

  // Rows of an input, of a result, and of a result that is a sum over the groups of a cross scan, from time t on, of
  // vector k's channels.
  struct RowReader {
    const S* first;
    int64_t step;
    int live;
    const int64_t* order;
    SEQCONV_INLINE Vec<T> operator[](int64_t s) const {
      return load<T, S>(first + (Cross ? order[s] : s) * step, live);
    }
  };
  RowReader read_rows(const GroupedRows& x, int64_t t, int64_t k) const {
    return {start<const S>(x, k) + (Cross ? 0 : t * x.time), x.time, lanes(k), order + (Cross ? t : 0)};
  }
  template <class X, bool Sums> struct RowWriter {
    X* first;
    int64_t step;
    int live;
    const int64_t* order;
    bool adds;
    SEQCONV_INLINE void put(int64_t s, Vec<T> v) const {
      X* to = first + (Cross ? order[s] : s) * step;
      if (Sums && adds) v += load<T, X>(to, live);
      store<T, X>(to, v, live);
    }
  };
  RowWriter<S, false> write_rows(const GroupedRows& x, int64_t t, int64_t k) const {
    return {start<S>(x, k) + (Cross ? 0 : t * x.time), x.time, lanes(k), order + (Cross ? t : 0), false};
  }
  RowWriter<Sum, Cross> sum_rows(const GroupedRows& x, int64_t t, int64_t k) const {
    return {start<Sum>(x, k) + (Cross ? 0 : t * x.time), x.time, lanes(k), order + (Cross ? t : 0), group > 0};
  }

  // Whether every exponent dt A of a chunk is in range: for steps that are negative or NaN, which propagate, it is not.
  struct StepCheck {
    Vec<T> longest{};
    Mask<T> unusual{};
    SEQCONV_INLINE void add(Vec<T> dt) {
      unusual |= ~(Mask<T>)(dt >= T(0));
      longest = maximum<T>(dt, longest);
    }
    bool in_range(Vec<T> largest_A) const {
      return !any<T>(unusual | ~(Mask<T>)(longest * largest_A < T(kExp2Bound)));
    }
  };

  // The first checkpoint slot of segment s: chunks of the segments before it, each rounded up, of which one slot per
  // segment may be spare.
  int64_t first_chunk(int64_t s) const { return a.segments.bounds ? a.segments.begin(s) / kSteps + s : 0; }

  static size_t forward_scratch(const ScanArgs& a) {
    return sizeof(Vec<T>) * (2 * kMaxVectors + 2 * kSteps) * a.d_state;
  }
  void forward(void* scratch) {
    forward_group(scratch);
    for (int64_t next = 1; Cross && next < a.groups; ++next) enter(next), forward_group(scratch);
  }
  void forward_group(void* scratch) {
    Vec<T>* h = (Vec<T>*)scratch;
    Vec<T>*A = h + kMaxVectors * n, *B = A + kMaxVectors * n, *C = B + kSteps * n;
    read_state(a.A, 0, A, kLog2e<T>);
    for (int64_t s = a.segments.first_of(row); s < a.segments.last_of(row); ++s) {
      read_state(a.initial, s, h);
      int64_t chunk = first_chunk(s);
      for (int64_t t = a.segments.begin(s), end = a.segments.end(s); t < end; t += kSteps, ++chunk) {
        const int steps = int(min(kSteps, end - t));
        read_weights(a.B, t, steps, B);
        read_weights(a.C, t, steps, C);
        for (int64_t k = 0; k < count; ++k) chunk_scan(t, steps, k, chunk, h + k * n, A + k * n, B, C);
        if (a.checkpoints) clear_padding(chunk);
      }
      for (; a.checkpoints && a.segments.bounds && chunk < first_chunk(s + 1); ++chunk) {  // the spare slot
        __builtin_memset(checkpoint(chunk, 0), 0, sizeof(Vec<T>) * n * count);
        clear_padding(chunk);
      }
      write_state(a.final_state, s, h);
    }
  }
  // The padding of the last tile of a group: checkpoints are a result, which must not contain uninitialised values.
  void clear_padding(int64_t chunk) {
    const int64_t spare = tile + 1 == plan.tiles ? plan.padded / W - first - count : 0;
    if (spare > 0) __builtin_memset(checkpoint(chunk, count), 0, sizeof(Vec<T>) * n * spare);
  }
  // What does not depend on the state, of one vector of channels over a chunk; y starts as D u.
  struct Chunk {
    Vec<T> dt[kSteps], dtu[kSteps], y[kSteps];
  };
  // One vector of channels over a chunk: h goes in and out, y is written.
  void chunk_scan(int64_t t0, int steps, int64_t k, int64_t chunk, Vec<T>* h, const Vec<T>* A, const Vec<T>* B,
                  const Vec<T>* C) {
    Chunk c;
    StepCheck check;
    if (a.softplus) prepare_chunk<true>(c, check, t0, steps, k);
    else prepare_chunk<false>(c, check, t0, steps, k);
    if (a.checkpoints) __builtin_memcpy(checkpoint(chunk, k), h, sizeof(Vec<T>) * n);
    const GroupedRows* const inputs[] = {&a.u, &a.delta, &a.z};
    const GroupedRows* const outputs[] = {&a.y};
    const auto next = prefetcher(t0 + kSteps, k, inputs, outputs);
    if (check.in_range(largest_magnitude(A))) scan_states<true, T>(h, A, B, C, n, c.dt, c.dtu, c.y, steps, next);
    else scan_states<false, T>(h, A, B, C, n, c.dt, c.dtu, c.y, steps, next);
    const auto y = sum_rows(a.y, t0, k);
    if (a.z.data) {
      const RowReader z = read_rows(a.z, t0, k);
      for (int s = 0; s < steps; ++s) y.put(s, c.y[s] * silu<T>(z[s]));
    } else {
      for (int s = 0; s < steps; ++s) y.put(s, c.y[s]);
    }
  }
  template <bool Softplus> void prepare_chunk(Chunk& c, StepCheck& check, int64_t t0, int steps, int64_t k) const {
    const RowReader us = read_rows(a.u, t0, k), deltas = read_rows(a.delta, t0, k);
    const Vec<T> bias = parameter(a.bias, k), D = parameter(a.D, k);
    for (int s = 0; s < steps; ++s) {
      const Vec<T> u = us[s], raw = deltas[s] + bias, dt = Softplus ? softplus<T>(raw) : raw;
      c.dt[s] = dt;
      c.dtu[s] = dt * u;
      c.y[s] = D * u;
      check.add(dt);
    }
  }

  // Operands and sums of one vector of channels in the backward pass over a chunk. raw is delta + bias, gy is g of the
  // formulas above, y is C . h + D u before the gate.
  struct BackwardChunk {
    Vec<T> raw[kSteps], dt[kSteps], u[kSteps], dtu[kSteps], gy[kSteps], y[kSteps];
    Vec<T> by_input[kSteps], by_step[kSteps];  // sum_n dh B, and sum_n d(dt A) A
    bool in_range;
  };
  // Scratch of the backward pass.
  struct Backward {
    Vec<T>*h, *A, *dh, *dA;  // per vector of channels and state
    Vec<T>*dD, *dbias;       // per vector of channels
    Vec<T>*sumB, *sumC;      // dB and dC of a band by lanes, per step and state
    Vec<T>*past, *decay;     // h[t-1], one step more for the last h, and exp(dt A) of a band, per step and state
    BackwardChunk* chunks;
    T *B, *C, *reduced;      // of a chunk; dB or dC of a band after the sums over lanes
  };
  static size_t backward_scratch(const ScanArgs& a) {
    return sizeof(Vec<T>) * (4 * kMaxVectors * a.d_state + 2 * kMaxVectors + kBackwardBand * (4 * kSteps + 1)) +
           sizeof(BackwardChunk) * kMaxVectors + sizeof(T) * (2 * kSteps * a.d_state + kSteps * kBackwardBand) + 64;
  }
  // Lays the arrays out in the scratch.
  Backward carve(void* scratch) const {
    Backward w;
    w.h = (Vec<T>*)scratch;
    w.A = w.h + kMaxVectors * n;
    w.dh = w.A + kMaxVectors * n;
    w.dA = w.dh + kMaxVectors * n;
    w.dD = w.dA + kMaxVectors * n;
    w.dbias = w.dD + kMaxVectors;
    w.sumB = w.dbias + kMaxVectors;
    w.sumC = w.sumB + kSteps * kBackwardBand;
    w.past = w.sumC + kSteps * kBackwardBand;
    w.decay = w.past + (kSteps + 1) * kBackwardBand;
    w.chunks = (BackwardChunk*)(w.decay + kSteps * kBackwardBand);
    w.reduced = (T*)(w.chunks + kMaxVectors);
    w.B = w.reduced + kSteps * kBackwardBand;
    w.C = w.B + kSteps * n;
    return w;
  }

  void backward(void* scratch) {
    backward_group(scratch);
    for (int64_t next = 1; Cross && next < a.groups; ++next) enter(next), backward_group(scratch);
  }
  void backward_group(void* scratch) {
    const Backward w = carve(scratch);
    read_state(a.A, 0, w.A, kLog2e<T>);
    for (int64_t i = 0; i < kMaxVectors * n; ++i) w.dA[i] = Vec<T>{};
    for (int64_t k = 0; k < kMaxVectors; ++k) w.dD[k] = w.dbias[k] = Vec<T>{};
    for (int64_t s = a.segments.first_of(row); s < a.segments.last_of(row); ++s) {
      read_state(a.dfinal, s, w.dh);
      const int64_t begin = a.segments.begin(s), end = a.segments.end(s);
      for (int64_t c = ceil_div(end - begin, kSteps) - 1; c >= 0; --c) {
        const int64_t t = begin + c * kSteps;
        backward_chunk(w, t, int(min(kSteps, end - t)), first_chunk(s) + c);
      }
      if (a.dinitial) write_state(a.dinitial, s, w.dh);
    }
    write_state(a.dA, row, w.dA);
    for (int64_t k = 0; k < count; ++k) {
      store<T, T>((T*)a.dD + row * a.channels + channel(k), w.dD[k], lanes(k));
      store<T, T>((T*)a.dbias + row * a.channels + channel(k), w.dbias[k], lanes(k));
    }
  }
  void backward_chunk(const Backward& w, int64_t t, int steps, int64_t chunk) {
    read_weights(a.B, t, steps, w.B);
    read_weights(a.C, t, steps, w.C);
    for (int64_t k = 0; k < count; ++k) {
      a.softplus ? prepare<true>(w, t, steps, k) : prepare<false>(w, t, steps, k);
      __builtin_memcpy(w.h + k * n, checkpoint(chunk, k), sizeof(Vec<T>) * n);
    }
    int64_t j = 0;
    for (; j + kBackwardBand <= n; j += kBackwardBand) band<kBackwardBand>(w, t, steps, j);
    for (; j < n; ++j) band<1>(w, t, steps, j);
    for (int64_t k = 0; k < count; ++k) finish(w, t, steps, k);
  }
  template <bool Softplus> void prepare(const Backward& w, int64_t t0, int steps, int64_t k) {
    BackwardChunk& c = w.chunks[k];
    const RowReader us = read_rows(a.u, t0, k), deltas = read_rows(a.delta, t0, k), dys = read_rows(a.dy, t0, k);
    const Vec<T> bias = parameter(a.bias, k), D = parameter(a.D, k);
    StepCheck check;
    for (int s = 0; s < steps; ++s) {
      const Vec<T> u = us[s], raw = deltas[s] + bias, dt = Softplus ? softplus<T>(raw) : raw;
      c.raw[s] = raw;
      c.dt[s] = dt;
      c.u[s] = u;
      c.dtu[s] = dt * u;
      c.y[s] = D * u;
      c.gy[s] = dys[s];
      c.by_input[s] = c.by_step[s] = Vec<T>{};
      check.add(dt);
    }
    c.in_range = check.in_range(largest_magnitude(w.A + k * n));
    if (!a.z.data) return;
    const RowReader z = read_rows(a.z, t0, k);
    for (int s = 0; s < steps; ++s) c.gy[s] *= silu<T>(z[s]);
  }
  RowPrefetcher<4, 2> backward_prefetcher(int64_t t, int64_t k) const {
    const GroupedRows* const inputs[] = {&a.u, &a.delta, &a.dy, &a.z};
    const GroupedRows* const outputs[] = {&a.du, &a.ddelta};
    return prefetcher(t, k, inputs, outputs);
  }
  // NB states from j0 on of all vectors of the tile over a chunk.
  template <int NB> void band(const Backward& w, int64_t t0, int steps, int64_t j0) {
    for (int i = 0; i < kSteps * NB; ++i) w.sumB[i] = w.sumC[i] = Vec<T>{};
    for (int64_t k = 0; k < count; ++k) {
      const bool in_range = w.chunks[k].in_range;
      if (a.z.data && in_range) recompute<NB, true, true>(w, t0, steps, k, j0);
      else if (a.z.data) recompute<NB, true, false>(w, t0, steps, k, j0);
      else if (in_range) recompute<NB, false, true>(w, t0, steps, k, j0);
      else recompute<NB, false, false>(w, t0, steps, k, j0);
      reverse<NB>(w, steps, k, j0);
    }
    reduce_lanes<NB>(w.sumB, (T*)a.dB, w.reduced, t0, steps, j0);
    reduce_lanes<NB>(w.sumC, (T*)a.dC, w.reduced, t0, steps, j0);
  }
  // Forward again from the checkpoint: states and decays of a band, and with a gate the output before it, which dz
  // needs.
  template <int NB, bool Gated, bool InRange>
  SEQCONV_NOINLINE void recompute(const Backward& w, int64_t t0, int steps, int64_t k, int64_t j0) {
    const bool prefetches = j0 == 0 && t0 >= kSteps;
    auto next = backward_prefetcher(prefetches ? t0 - kSteps : 0, k);
    BackwardChunk& c = w.chunks[k];
    const Vec<T>* A = w.A + k * n + j0;
    Vec<T> state[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; ++j) w.past[j] = state[j] = w.h[k * n + j0 + j];
    const T *B = w.B + j0, *C = w.C + j0;
    for (int s = 0; s < steps; ++s, B += n, C += n) {
      const Vec<T> step = c.dt[s], in = c.dtu[s];
      if (prefetches) next();
      Vec<T> y{}, decay[NB];
      constexpr int N = NB < kExponentials ? NB : kExponentials;
#pragma GCC unroll 16
      for (int j = 0; j < NB; j += N) decays<InRange, N, T>(step, A + j, decay + j);
#pragma GCC unroll 16
      for (int j = 0; j < NB; ++j) {
        state[j] = decay[j] * state[j] + in * B[j];
        w.decay[s * NB + j] = decay[j];
        w.past[(s + 1) * NB + j] = state[j];
        if (Gated) y += state[j] * C[j];
      }
      if (Gated) c.y[s] += y;
    }
  }
  // The adjoint recurrence over a band: dh and dA in registers, backwards in time.
  template <int NB> SEQCONV_NOINLINE void reverse(const Backward& w, int steps, int64_t k, int64_t j0) {
    BackwardChunk& c = w.chunks[k];
    const Vec<T>* A = w.A + k * n + j0;
    Vec<T> dh[NB], dA[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; ++j) {
      dh[j] = w.dh[k * n + j0 + j];
      dA[j] = w.dA[k * n + j0 + j];
    }
    for (int s = steps - 1; s >= 0; --s) {
      const T *B = w.B + s * n + j0, *C = w.C + s * n + j0;
      const Vec<T> gy = c.gy[s], in = c.dtu[s], step = c.dt[s];
      Vec<T> by_input = c.by_input[s], by_step{};
#pragma GCC unroll 16
      for (int j = 0; j < NB; ++j) {
        const int i = s * NB + j;
        w.sumC[i] += gy * w.past[i + NB];
        dh[j] += gy * C[j];
        w.sumB[i] += in * dh[j];
        by_input += dh[j] * B[j];
        dh[j] *= w.decay[i];  // now of h[t-1]
        const Vec<T> e = dh[j] * w.past[i];  // gradient of dt A
        by_step += e * A[j];
        dA[j] += e * step;
      }
      c.by_input[s] = by_input;
      c.by_step[s] += by_step;
    }
#pragma GCC unroll 16
    for (int j = 0; j < NB; ++j) {
      w.dh[k * n + j0 + j] = dh[j];
      w.dA[k * n + j0 + j] = dA[j];
    }
  }
  // Sums over lanes of dB or dC of a band, to this tile's partial sum (batch, length, groups, d_state).
  template <int NB>
  SEQCONV_INLINE void reduce_lanes(const Vec<T>* sums, T* partial, T* reduced, int64_t t0, int steps,
                                   int64_t j0) const {
    lane_sums<T>((const T*)sums, kSteps * NB, reduced);
    T* base = partial + ((tile * a.batch + row) * a.length * a.groups + group) * n + j0;
    for (int s = 0; s < steps; ++s) {
      T* to = base + place(t0 + s) * a.groups * n;
      for (int j = 0; j < NB; ++j) to[j] = reduced[s * NB + j];
    }
  }
  // du, ddelta, and the shares of dD and dbias, after all bands. by_step is sum_n e A with A times log2(e).
  void finish(const Backward& w, int64_t t0, int steps, int64_t k) {
    const BackwardChunk& c = w.chunks[k];
    const Vec<T> D = parameter(a.D, k);
    const auto du = sum_rows(a.du, t0, k);
    const auto ddelta = write_rows(a.ddelta, t0, k);
    Vec<T> dD = w.dD[k], dbias = w.dbias[k];
    for (int s = 0; s < steps; ++s) {
      dD += c.gy[s] * c.u[s];
      Vec<T> draw = c.u[s] * c.by_input[s] + c.by_step[s] * (T(1) / kLog2e<T>);
      if (a.softplus) draw *= softplus_slope<T>(c.raw[s]);
      dbias += draw;
      du.put(s, D * c.gy[s] + c.dt[s] * c.by_input[s]);
      ddelta.put(s, draw);
    }
    w.dD[k] = dD, w.dbias[k] = dbias;
    if (a.z.data) finish_gate(c, t0, steps, k);
  }
  void finish_gate(const BackwardChunk& c, int64_t t0, int steps, int64_t k) {
    const RowReader zs = read_rows(a.z, t0, k), dys = read_rows(a.dy, t0, k);
    const auto dz = write_rows(a.dz, t0, k);
    for (int s = 0; s < steps; ++s) dz.put(s, silu_backward<T>(dys[s] * c.y[s], zs[s]));
  }
};

template <class Work, bool Backward> Status run_items(const ScanArgs& a) {
  const ScanPlan plan(a);
  const int threads =
      thread_count(a.threads, plan.items, a.batch * a.length * a.channels * a.d_state, kStatesWorthThreads);
  const size_t bytes = Backward ? Work::backward_scratch(a) : Work::forward_scratch(a);
  return for_each_item(plan.items, threads, bytes, [&](int64_t item, void* scratch) {
    Work work(a, plan, item);
    if constexpr (Backward) work.backward(scratch);
    else work.forward(scratch);
  });
}
template <class T, class S, bool Backward> Status run_tiles(const ScanArgs& a) {
  return a.orders ? run_items<Tile<T, S, true>, Backward>(a) : run_items<Tile<T, S, false>, Backward>(a);
}

template <class T, class S> Status run_backward(ScanArgs a) {
  const int64_t rows = a.batch, tiles = ScanPlan(a).tiles, weights = a.batch * a.length * a.groups * a.d_state;
  const PartialSums<T> dA(rows, a.channels * a.d_state, a.dA), dD(rows, a.channels, a.dD);
  const PartialSums<T> dbias(rows, a.channels, a.dbias);
  const PartialSums<T, S> dB(tiles, weights, a.dB), dC(tiles, weights, a.dC);
  a.dA = dA.data(), a.dD = dD.data(), a.dbias = dbias.data(), a.dB = dB.data(), a.dC = dC.data();
  if (!a.dA || !a.dD || !a.dbias || !a.dB || !a.dC) return Status::no_memory;
  const Status status = run_tiles<T, S, true>(a);
  dA.reduce(a.threads), dD.reduce(a.threads), dbias.reduce(a.threads), dB.reduce(a.threads), dC.reduce(a.threads);
  return status;
}

}  // namespace

Status scan_forward(const ScanArgs& a) {
  return dispatch(a.dtype,
                  [&](auto acc, auto storage) { return run_tiles<decltype(acc), decltype(storage), false>(a); });
}
Status scan_backward(const ScanArgs& a) {
  return dispatch(a.dtype, [&](auto acc, auto storage) { return run_backward<decltype(acc), decltype(storage)>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
