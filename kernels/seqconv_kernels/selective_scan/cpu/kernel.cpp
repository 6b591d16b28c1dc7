// Selective scan: channels in the lanes, states in registers, channel-last inputs read in place.
//
// A tile is a few blocks of `W` neighbouring channels of one group. Time runs in chunks of kScanChunk steps; within
// a chunk the work that does not depend on the state (time steps, gates, conversions) is done first, then the states
// go by in bands of NB, whose values stay in registers over the whole chunk. The backward recomputes a chunk from the
// checkpoint at its start. Sums over channels (dB, dC) are kept lane by lane over a tile and folded once; those of the
// tiles, and of the rows of the batch (dA, dD, dbias), are Parts.
//
// Half of the work is the exponentials. Where no product of a time step and A can leave the range of exponents in a
// chunk ("near", which is nearly always), they need no clamps.
#include "kernel.hpp"

#include "../../_cpp/parts.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kSteps = kScanChunk;
constexpr int64_t kStatesWorthThreads = 1 << 19;

constexpr int kForwardBand = 16, kBackwardBand = kManyRegisters ? 8 : 4;

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// exp(dt A) of kTogether states; A holds log2(e) already.
constexpr int kTogether = 2;
template <bool Near, int N, class T> SEQCONV_INLINE void decays(Vec<T> step, const Vec<T>* A, Vec<T>* out) {
  if constexpr (Near) return exp2_products<N>(step, A, out);
#pragma GCC unroll 4
  for (int i = 0; i < N; ++i) out[i] = exp2(step * A[i]);
}

// Not inlined: next to the loops around it, the compiler would keep too little of a band in registers.
template <class T, bool Near, int NB, class EachStep>
SEQCONV_APART void scan_band(Vec<T>* h, const Vec<T>* A, const Vec<T>* B, const Vec<T>* C, int64_t n,
                             const Vec<T>* dt, const Vec<T>* dtu, Vec<T>* y, int steps, EachStep each_step) {
  Vec<T> state[NB];
#pragma GCC unroll 16
  for (int j = 0; j < NB; ++j) state[j] = h[j];
  for (int t = 0; t < steps; ++t, B += n, C += n) {
    const Vec<T> step = dt[t], in = dtu[t];
    each_step();
    constexpr int N = NB < kTogether ? NB : kTogether;
    Vec<T> sums[2] = {y[t]};
#pragma GCC unroll 16
    for (int j = 0; j < NB; j += N) {
      Vec<T> decay[N];
      decays<Near, N, T>(step, A + j, decay);
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

// All states of one block over one chunk, in bands of falling size; `each_step` is called at every step of a full band.
template <bool Near, class T, class EachStep>
void scan_states(Vec<T>* h, const Vec<T>* A, const Vec<T>* B, const Vec<T>* C, int64_t n, const Vec<T>* dt,
                 const Vec<T>* dtu, Vec<T>* y, int steps, EachStep each_step) {
  const auto nothing = [] {};
  int64_t j = 0;
  if (n >= kForwardBand) {
    scan_band<T, Near, kForwardBand>(h, A, B, C, n, dt, dtu, y, steps, each_step);
    j = kForwardBand;
  }
  for (; j + kForwardBand <= n; j += kForwardBand)
    scan_band<T, Near, kForwardBand>(h + j, A + j, B + j, C + j, n, dt, dtu, y, steps, nothing);
  for (; j + 4 <= n; j += 4) scan_band<T, Near, 4>(h + j, A + j, B + j, C + j, n, dt, dtu, y, steps, nothing);
  for (; j < n; ++j) scan_band<T, Near, 1>(h + j, A + j, B + j, C + j, n, dt, dtu, y, steps, nothing);
}

// One tile of one row of the batch.
template <class T, class S> struct Tile {
  static constexpr int W = Lanes<T>::count, kMaxBlocks = kScanTile / W;
  const ScanArgs& a;
  const ScanPlan& plan;
  int64_t row, group, tile, first, count;  // first block of the group, blocks here
  int64_t n;
  bool bad = false;

  Tile(const ScanArgs& args, const ScanPlan& p, int64_t item) : a(args), plan(p), n(args.d_state) {
    tile = item % p.tiles;
    group = item / p.tiles % a.groups;
    row = item / (p.tiles * a.groups);
    first = tile * p.tile / W;
    count = smaller(p.tile / W, ceil_div(p.width, W) - first);
  }

  int64_t channel(int64_t k) const { return group * plan.width + (first + k) * W; }
  int lanes(int64_t k) const { return int(smaller(W, plan.width - (first + k) * W)); }
  const S* at(const Rows& x, int64_t t, int64_t k) const {
    return (const S*)x.data + row * x.batch + t * x.time + channel(k);
  }
  int64_t dense(int64_t t, int64_t k) const { return (row * a.length + t) * a.channels + channel(k); }
  T* checkpoint(int64_t chunk, int64_t k) const {
    const int64_t group_of_chunk = (row * plan.chunks_per_row + chunk) * a.groups + group;
    return (T*)a.checkpoints + (group_of_chunk * plan.padded + (first + k) * W) * n;
  }
  Vec<T> parameter(const void* p, int64_t k) const {
    return p ? load<T, T>((const T*)p + channel(k), lanes(k)) : Vec<T>{};
  }

  // Rows of one tile lie far apart, where the hardware does not look ahead. One row per step: in a burst they stall.
  // Asking beyond the last row does nothing. The number of rows is a constant, so that they stay in registers: for an
  // absent tensor those of the first one are asked for twice.
  template <int Reads, int Writes> struct Ahead {
    const S* rows[Reads + Writes];
    int64_t steps[Reads + Writes];
    SEQCONV_INLINE void operator()() {
#pragma GCC unroll 4
      for (int i = 0; i < Reads; ++i) __builtin_prefetch(rows[i]), rows[i] += steps[i];
#pragma GCC unroll 4
      for (int i = Reads; i < Reads + Writes; ++i) __builtin_prefetch(rows[i], 1), rows[i] += steps[i];
    }
  };
  template <int Reads, int Writes>
  Ahead<Reads, Writes> ahead(int64_t t, int64_t k, const Rows* const (&inputs)[Reads],
                             void* const (&outputs)[Writes]) const {
    Ahead<Reads, Writes> next;
    int i = 0;
    for (const Rows* input : inputs) {
      const Rows& x = input->data ? *input : *inputs[0];
      next.rows[i] = at(x, t, k), next.steps[i++] = x.time;
    }
    for (void* y : outputs) next.rows[i] = (S*)y + dense(t, k), next.steps[i++] = a.channels;
    return next;
  }

  // (segments, channels, d_state) to and from lanes of channels.
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
    for (int64_t k = 0; k < count; ++k)
      for (int64_t j = 0; j < n; ++j)
        for (int i = 0; i < lanes(k); ++i)
          ((T*)to)[(segment * a.channels + channel(k) + i) * n + j] = h[k * n + j][i];
  }
  // The largest |A| of each lane of a block, over its states.
  Vec<T> largest(const Vec<T>* A) const {
    Vec<T> most{};
    for (int64_t j = 0; j < n; ++j) most = maximum<T>(most, maximum<T>(A[j], -A[j]));
    return most;
  }
  // As numbers, or each in all lanes.
  template <class Value> void read_weights(const ScanWeights& w, int64_t t, int steps, Value* to) const {
    const S* from = (const S*)w.data + row * w.batch + t * w.time + group * w.group;
    for (int s = 0; s < steps; ++s, from += w.time)
      for (int64_t j = 0; j < n; ++j) to[s * n + j] = Value{} + Memory<T, S>::get(from + j * w.state);
  }

  // Rows of one block, from a first one on.
  struct Lines {
    const S* first;
    int64_t step;
    int live;
    SEQCONV_INLINE Vec<T> operator[](int64_t s) const { return load<T, S>(first + s * step, live); }
  };
  Lines lines(const Rows& x, int64_t t, int64_t k) const { return {at(x, t, k), x.time, lanes(k)}; }
  struct Results {
    S* first;
    int64_t step;
    int live;
    SEQCONV_INLINE void put(int64_t s, Vec<T> v) const { store<T, S>(first + s * step, v, live); }
  };
  Results results(void* x, int64_t t, int64_t k) const { return {(S*)x + dense(t, k), a.channels, lanes(k)}; }

  // What has to be told of all time steps of a block in a chunk: whether one is not a time step, whether one is too long.
  struct Seen {
    Vec<T> longest{};
    Mask<T> wrong{};
    SEQCONV_INLINE void look(Vec<T> dt) {
      wrong |= ~(Mask<T>)(dt >= T(0));
      longest = maximum<T>(dt, longest);
    }
    bool far(Vec<T> most) const { return any<T>(~(Mask<T>)(longest * most < T(kExp2Bound))); }  // |A|
  };

  int64_t segments() const { return a.bounds ? a.segments : 1; }
  int64_t segment_index(int64_t s) const { return a.bounds ? s : row; }
  int64_t begin(int64_t s) const { return a.bounds ? a.bounds[s] : 0; }
  int64_t end(int64_t s) const { return a.bounds ? a.bounds[s + 1] : a.length; }
  // Chunks of the segments before s, each rounded up: one slot per segment is spare.
  int64_t first_chunk(int64_t s) const { return a.bounds ? a.bounds[s] / kSteps + s : 0; }

  static size_t forward_scratch(const ScanArgs& a) {
    return sizeof(Vec<T>) * (2 * kMaxBlocks + 2 * kSteps) * a.d_state;
  }
  void forward(void* scratch) {
    Vec<T>* h = (Vec<T>*)scratch;
    Vec<T>*A = h + kMaxBlocks * n, *B = A + kMaxBlocks * n, *C = B + kSteps * n;
    read_state(a.A, 0, A, kLog2e<T>);
    for (int64_t s = 0; s < segments(); ++s) {
      read_state(a.initial, segment_index(s), h);
      int64_t chunk = first_chunk(s);
      for (int64_t t = begin(s); t < end(s); t += kSteps, ++chunk) {
        const int steps = int(smaller(kSteps, end(s) - t));
        read_weights(a.B, t, steps, B);
        read_weights(a.C, t, steps, C);
        for (int64_t k = 0; k < count; ++k) forward_block(t, steps, k, chunk, h + k * n, A + k * n, B, C);
        if (a.checkpoints) clear_padding(chunk);
      }
      for (; a.checkpoints && a.bounds && chunk < first_chunk(s + 1); ++chunk) {  // the spare slot
        __builtin_memset(checkpoint(chunk, 0), 0, sizeof(Vec<T>) * n * count);
        clear_padding(chunk);
      }
      write_state(a.final_state, segment_index(s), h);
    }
  }
  // What the last tile of a group leaves of its padding: no value of a result may depend on what was there.
  void clear_padding(int64_t chunk) {
    const int64_t spare = tile + 1 == plan.tiles ? plan.padded / W - first - count : 0;
    if (spare > 0) __builtin_memset(checkpoint(chunk, count), 0, sizeof(Vec<T>) * n * spare);
  }
  struct Chunk {
    Vec<T> dt[kSteps], dtu[kSteps], y[kSteps];
  };
  void forward_block(int64_t t0, int steps, int64_t k, int64_t chunk, Vec<T>* h, const Vec<T>* A, const Vec<T>* B,
                     const Vec<T>* C) {
    Chunk c;
    Seen seen;
    if (a.softplus) enter_block<true>(c, seen, t0, steps, k);
    else enter_block<false>(c, seen, t0, steps, k);
    bad |= any<T>(seen.wrong);
    if (a.checkpoints) __builtin_memcpy(checkpoint(chunk, k), h, sizeof(Vec<T>) * n);
    const Rows* const inputs[] = {&a.u, &a.delta, &a.z};
    void* const outputs[] = {a.y};
    const auto next = ahead(t0 + kSteps, k, inputs, outputs);
    if (seen.far(largest(A))) scan_states<false, T>(h, A, B, C, n, c.dt, c.dtu, c.y, steps, next);
    else scan_states<true, T>(h, A, B, C, n, c.dt, c.dtu, c.y, steps, next);
    const Results y = results(a.y, t0, k);
    if (a.z.data) {
      const Lines z = lines(a.z, t0, k);
      for (int s = 0; s < steps; ++s) y.put(s, c.y[s] * silu<T>(z[s]));
    } else {
      for (int s = 0; s < steps; ++s) y.put(s, c.y[s]);
    }
  }
  template <bool Softplus> void enter_block(Chunk& c, Seen& seen, int64_t t0, int steps, int64_t k) const {
    const Lines us = lines(a.u, t0, k), deltas = lines(a.delta, t0, k);
    const Vec<T> bias = parameter(a.bias, k), D = parameter(a.D, k);
    for (int s = 0; s < steps; ++s) {
      const Vec<T> u = us[s], raw = deltas[s] + bias, dt = Softplus ? softplus<T>(raw) : raw;
      c.dt[s] = dt;
      c.dtu[s] = dt * u;
      c.y[s] = D * u;
      seen.look(dt);
    }
  }

  // What one block carries through the backward of one chunk.
  struct Slab {
    Vec<T> raw[kSteps], dt[kSteps], u[kSteps], dtu[kSteps], gy[kSteps], y[kSteps];
    Vec<T> by_input[kSteps], by_step[kSteps];  // sum_n dh B, and sum_n d(dt A) A
    bool near;
  };
  struct Backward {
    Vec<T>*h, *A, *dh, *dA;  // per block and state
    Vec<T>*dD, *dbias;       // per block
    Vec<T>*sumB, *sumC;      // per step and state of a band
    Vec<T>*past, *decay;     // per step (and one more) and state of a band
    Slab* slabs;
    T *B, *C, *folded;
  };
  static size_t backward_scratch(const ScanArgs& a) {
    return sizeof(Vec<T>) * (4 * kMaxBlocks * a.d_state + 2 * kMaxBlocks + kBackwardBand * (4 * kSteps + 1)) +
           sizeof(Slab) * kMaxBlocks + sizeof(T) * (2 * kSteps * a.d_state + kSteps * kBackwardBand) + 64;
  }
  Backward carve(void* scratch) const {
    Backward w;
    w.h = (Vec<T>*)scratch;
    w.A = w.h + kMaxBlocks * n;
    w.dh = w.A + kMaxBlocks * n;
    w.dA = w.dh + kMaxBlocks * n;
    w.dD = w.dA + kMaxBlocks * n;
    w.dbias = w.dD + kMaxBlocks;
    w.sumB = w.dbias + kMaxBlocks;
    w.sumC = w.sumB + kSteps * kBackwardBand;
    w.past = w.sumC + kSteps * kBackwardBand;
    w.decay = w.past + (kSteps + 1) * kBackwardBand;
    w.slabs = (Slab*)(w.decay + kSteps * kBackwardBand);
    w.folded = (T*)(w.slabs + kMaxBlocks);
    w.B = w.folded + kSteps * kBackwardBand;
    w.C = w.B + kSteps * n;
    return w;
  }

  void backward(void* scratch) {
    const Backward w = carve(scratch);
    read_state(a.A, 0, w.A, kLog2e<T>);
    for (int64_t i = 0; i < kMaxBlocks * n; ++i) w.dA[i] = Vec<T>{};
    for (int64_t k = 0; k < kMaxBlocks; ++k) w.dD[k] = w.dbias[k] = Vec<T>{};
    for (int64_t s = 0; s < segments(); ++s) {
      read_state(a.dfinal, segment_index(s), w.dh);
      const int64_t chunks = ceil_div(end(s) - begin(s), kSteps);
      for (int64_t c = chunks - 1; c >= 0; --c) {
        const int64_t t = begin(s) + c * kSteps;
        backward_chunk(w, t, int(smaller(kSteps, end(s) - t)), first_chunk(s) + c);
      }
      if (a.dinitial) write_state(a.dinitial, segment_index(s), w.dh);
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
    Slab& slab = w.slabs[k];
    const Lines us = lines(a.u, t0, k), deltas = lines(a.delta, t0, k), dys = lines(a.dy, t0, k);
    const Vec<T> bias = parameter(a.bias, k), D = parameter(a.D, k);
    Seen seen;
    for (int s = 0; s < steps; ++s) {
      const Vec<T> u = us[s], raw = deltas[s] + bias, dt = Softplus ? softplus<T>(raw) : raw;
      slab.raw[s] = raw;
      slab.dt[s] = dt;
      slab.u[s] = u;
      slab.dtu[s] = dt * u;
      slab.y[s] = D * u;
      slab.gy[s] = dys[s];
      slab.by_input[s] = slab.by_step[s] = Vec<T>{};
      seen.look(dt);
    }
    slab.near = !seen.far(largest(w.A + k * n));
    if (!a.z.data) return;
    const Lines z = lines(a.z, t0, k);
    for (int s = 0; s < steps; ++s) slab.gy[s] *= silu<T>(z[s]);
  }
  Ahead<4, 2> look_back(int64_t t, int64_t k) const {
    const Rows* const inputs[] = {&a.u, &a.delta, &a.dy, &a.z};
    void* const outputs[] = {a.du, a.ddelta};
    return ahead(t, k, inputs, outputs);
  }
  template <int NB> void band(const Backward& w, int64_t t0, int steps, int64_t j0) {
    for (int i = 0; i < kSteps * NB; ++i) w.sumB[i] = w.sumC[i] = Vec<T>{};
    for (int64_t k = 0; k < count; ++k) {
      if (a.z.data) w.slabs[k].near ? recompute<NB, true, true>(w, t0, steps, k, j0)
                                    : recompute<NB, true, false>(w, t0, steps, k, j0);
      else w.slabs[k].near ? recompute<NB, false, true>(w, t0, steps, k, j0)
                           : recompute<NB, false, false>(w, t0, steps, k, j0);
      reverse<NB>(w, steps, k, j0);
    }
    fold<NB>(w.sumB, (T*)a.dB, w.folded, t0, steps, j0);
    fold<NB>(w.sumC, (T*)a.dC, w.folded, t0, steps, j0);
  }
  // States and decays of a band; with a gate also the output before it, which the gradient of z needs.
  template <int NB, bool Gated, bool Near>
  SEQCONV_APART void recompute(const Backward& w, int64_t t0, int steps, int64_t k, int64_t j0) {
    const bool asks = j0 == 0 && t0 >= kSteps;
    auto next = look_back(asks ? t0 - kSteps : 0, k);
    Slab& slab = w.slabs[k];
    const Vec<T>* A = w.A + k * n + j0;
    Vec<T> state[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; ++j) w.past[j] = state[j] = w.h[k * n + j0 + j];
    const T *B = w.B + j0, *C = w.C + j0;
    for (int s = 0; s < steps; ++s, B += n, C += n) {
      const Vec<T> step = slab.dt[s], in = slab.dtu[s];
      if (asks) next();
      Vec<T> y{}, decay[NB];
      constexpr int N = NB < kTogether ? NB : kTogether;
#pragma GCC unroll 16
      for (int j = 0; j < NB; j += N) decays<Near, N, T>(step, A + j, decay + j);
#pragma GCC unroll 16
      for (int j = 0; j < NB; ++j) {
        state[j] = decay[j] * state[j] + in * B[j];
        w.decay[s * NB + j] = decay[j];
        w.past[(s + 1) * NB + j] = state[j];
        if (Gated) y += state[j] * C[j];
      }
      if (Gated) slab.y[s] += y;
    }
  }
  template <int NB> SEQCONV_APART void reverse(const Backward& w, int steps, int64_t k, int64_t j0) {
    Slab& slab = w.slabs[k];
    const Vec<T>* A = w.A + k * n + j0;
    Vec<T> dh[NB], dA[NB];
#pragma GCC unroll 16
    for (int j = 0; j < NB; ++j) {
      dh[j] = w.dh[k * n + j0 + j];
      dA[j] = w.dA[k * n + j0 + j];
    }
    for (int s = steps - 1; s >= 0; --s) {
      const T *B = w.B + s * n + j0, *C = w.C + s * n + j0;
      const Vec<T> gy = slab.gy[s], in = slab.dtu[s], step = slab.dt[s];
      Vec<T> by_input = slab.by_input[s], by_step{};
#pragma GCC unroll 16
      for (int j = 0; j < NB; ++j) {
        const int i = s * NB + j;
        w.sumC[i] += gy * w.past[i + NB];
        dh[j] += gy * C[j];
        w.sumB[i] += in * dh[j];
        by_input += dh[j] * B[j];
        dh[j] *= w.decay[i];
        const Vec<T> drift = dh[j] * w.past[i];
        by_step += drift * A[j];
        dA[j] += drift * step;
      }
      slab.by_input[s] = by_input;
      slab.by_step[s] += by_step;
    }
#pragma GCC unroll 16
    for (int j = 0; j < NB; ++j) {
      w.dh[k * n + j0 + j] = dh[j];
      w.dA[k * n + j0 + j] = dA[j];
    }
  }
  template <int NB>
  SEQCONV_INLINE void fold(const Vec<T>* sums, T* partial, T* folded, int64_t t0, int steps, int64_t j0) const {
    lane_sums<T>((const T*)sums, kSteps * NB, folded);
    T* to = partial + (((tile * a.batch + row) * a.length + t0) * a.groups + group) * n + j0;
    for (int s = 0; s < steps; ++s)
      for (int j = 0; j < NB; ++j) to[s * a.groups * n + j] = folded[s * NB + j];
  }
  void finish(const Backward& w, int64_t t0, int steps, int64_t k) {
    const Slab& slab = w.slabs[k];
    const Vec<T> D = parameter(a.D, k);
    const Results du = results(a.du, t0, k), ddelta = results(a.ddelta, t0, k);
    Vec<T> dD = w.dD[k], dbias = w.dbias[k];
    for (int s = 0; s < steps; ++s) {
      dD += slab.gy[s] * slab.u[s];
      Vec<T> draw = slab.u[s] * slab.by_input[s] + slab.by_step[s] * (T(1) / kLog2e<T>);
      if (a.softplus) draw *= softplus_slope<T>(slab.raw[s]);
      dbias += draw;
      du.put(s, D * slab.gy[s] + slab.dt[s] * slab.by_input[s]);
      ddelta.put(s, draw);
    }
    w.dD[k] = dD, w.dbias[k] = dbias;
    if (a.z.data) finish_gate(slab, t0, steps, k);
  }
  void finish_gate(const Slab& slab, int64_t t0, int steps, int64_t k) {
    const Lines zs = lines(a.z, t0, k), dys = lines(a.dy, t0, k);
    const Results dz = results(a.dz, t0, k);
    for (int s = 0; s < steps; ++s) {
      const Vec<T> z = zs[s], g = sigmoid<T>(z);
      dz.put(s, dys[s] * slab.y[s] * g * (T(1) + z * (T(1) - g)));
    }
  }
};

template <class T, class S, bool Backward> Status run_tiles(const ScanArgs& a) {
  using Work = Tile<T, S>;
  const ScanPlan plan(a);
  const int64_t items = a.batch * a.groups * plan.tiles;
  const bool small = a.batch * a.length * a.channels * a.d_state < kStatesWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
  const size_t bytes = Backward ? Work::backward_scratch(a) : Work::forward_scratch(a);
  int bad = 0, short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : bad, short_of_memory)
  {
    const Scratch scratch(bytes);
    if (!scratch.data) short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      Work work(a, plan, item);
      if constexpr (Backward) work.backward(scratch.data);
      else work.forward(scratch.data);
      bad |= work.bad;
    }
  }
  if (short_of_memory) return Status::no_memory;
  return bad ? Status::bad_time_step : Status::done;
}

template <class T, class S, bool Backward> Status run(ScanArgs a) {
  if constexpr (!Backward) return run_tiles<T, S, false>(a);
  const int64_t rows = a.batch, tiles = ScanPlan(a).tiles, weights = a.batch * a.length * a.groups * a.d_state;
  const Parts<T> dA(rows, a.channels * a.d_state, a.dA), dD(rows, a.channels, a.dD), dbias(rows, a.channels, a.dbias);
  const Parts<T, S> dB(tiles, weights, a.dB), dC(tiles, weights, a.dC);
  a.dA = dA.data(), a.dD = dD.data(), a.dbias = dbias.data(), a.dB = dB.data(), a.dC = dC.data();
  if (!a.dA || !a.dD || !a.dbias || !a.dB || !a.dC) return Status::no_memory;
  const Status status = run_tiles<T, S, true>(a);
  dA.add(a.threads), dD.add(a.threads), dbias.add(a.threads), dB.add(a.threads), dC.add(a.threads);
  return status;
}

template <bool Backward> Status run_any(const ScanArgs& a) {
  switch (a.dtype) {
    case Dtype::f64: return run<double, double, Backward>(a);
    case Dtype::bf16: return run<float, bf16, Backward>(a);
    case Dtype::f16: return run<float, f16, Backward>(a);
    default: return run<float, float, Backward>(a);
  }
}

}  // namespace

Status scan_forward(const ScanArgs& a) { return run_any<false>(a); }
Status scan_backward(const ScanArgs& a) { return run_any<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
