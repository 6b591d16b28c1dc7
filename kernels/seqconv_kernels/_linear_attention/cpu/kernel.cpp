// Recurrences with a matrix state, token by token, in registers: linear attention with a decay, and the delta rule.
//
//   S'_t = diag(a_t) S_{t-1}      S_t = S'_t + k_t u_t^T      o_t = S_t^T q_t
//
// with u = v, or u = beta (v - S'^T k) for the delta rule. A chunked form costs as many operations at the usual sizes
// of a head, and divides by decays or needs many small products to avoid it; here a decay is only ever a factor.
//
// Outputs and gradients that sum over the rows of S (o, dv, dbeta) come from a pass with columns in the lanes, those
// that sum over its columns (dq, dk, ddecay) from one with rows in the lanes, so that no lane is ever summed. With G
// the gradient of S_t and w = beta G^T k (zero in linear attention, where dv = G^T k):
//
//   dS' = G_t - k_t w_t^T      G_{t-1} = diag(a_t) dS' + q_{t-1} do_{t-1}^T
//   dq = S do      dk = G u - S' w      dlog a = sum over columns of dS' S'
//
// Both passes go through tiles of kTile tokens, copied to padded rows first and back from them: from one token of a head
// to the next is far in memory. The last one recomputes the states of a tile from the state at its start, which a sweep
// forward has left.
#include "kernel.hpp"

#include "../../_cpp/vec.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int kTile = 32, kAhead = 8;  // tokens whose rows are asked for before they are read
constexpr int64_t kOperationsWorthThreads = 1 << 18;
constexpr int kRows = kManyRegisters ? 8 : 4, kWide = kManyRegisters ? 4 : 2, kColumns = 8;

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t padded(int64_t size, int64_t a, int64_t b) {
  const int64_t unit = a < b ? b : a;
  return (size + unit - 1) / unit * unit;
}

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
  switch (dtype) {
    case Dtype::f64: return read_row(to, (const double*)from, count);
    case Dtype::bf16: return read_row(to, (const bf16*)from, count);
    case Dtype::f16: return read_row(to, (const f16*)from, count);
    default: return read_row(to, (const float*)from, count);
  }
}
template <class S> void write_row(S* to, const float* from, int64_t count) {
  constexpr int W = Lanes<float>::count;
  for (int64_t i = 0; i < count; i += W)
    store<float, S>(to + i, load<float, float>(from + i, int(smaller(W, count - i))), int(smaller(W, count - i)));
}
inline int64_t bytes(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

// A block of kRows rows and N vectors of columns over a tile: linear attention.
template <class T, int N, bool Decays>
SEQCONV_INLINE void attend_block(T* S, int64_t columns, const T* q, const T* k, const T* a, int64_t rows, const T* v,
                                 T* o, int steps, bool first) {
  constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  Vec<T> s[kRows][N];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) s[r][j] = M::load(S + r * columns + j * W);
  for (int t = 0; t < steps; ++t, q += rows, k += rows, a += rows, v += columns, o += columns) {
    Vec<T> in[N], out[N];
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) in[j] = M::load(v + j * W), out[j] = first ? Vec<T>{} : M::load(o + j * W);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        s[r][j] = (Decays ? s[r][j] * a[r] : s[r][j]) + in[j] * k[r];
        out[j] += s[r][j] * q[r];
      }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) M::store(o + j * W, out[j]);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) M::store(S + r * columns + j * W, s[r][j]);
}

// The rows of one tile in the order of a pass, each padded with zeros.
template <class T> struct Tile {
  T *q, *k, *a, *v, *beta, *error, *out, *extra, *qk, *ones;
};

// All rows of N vectors of columns over a tile: the delta rule. What a token writes enters S with the next one.
template <class T, int N> void correct_block(T* S, int64_t columns, int64_t rows, const Tile<T>& x, int64_t at, int n) {
  constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  Vec<T> u[N] = {};
  const T* before = x.k;
  for (int t = 0; t < n; ++t) {
    const T *q = x.q + t * rows, *k = x.k + t * rows, *a = x.a + t * rows;
    Vec<T> told[N] = {}, out[N] = {};
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        T* place = S + i * columns + j * W;
        const Vec<T> s = (M::load(place) + u[j] * before[i]) * a[i];
        M::store(place, s);
        told[j] += s * k[i];
        out[j] += s * q[i];
      }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      const int64_t i = t * columns + at + j * W;
      const Vec<T> error = M::load(x.v + i) - told[j];
      u[j] = M::load(x.beta + i) * error;
      M::store(x.error + i, error);
      M::store(x.out + i, out[j] + u[j] * x.qk[t]);
    }
    before = k;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int j = 0; j < N; ++j) {
      T* place = S + i * columns + j * W;
      M::store(place, M::load(place) + u[j] * before[i]);
    }
}

// The same backwards in time, on the gradient of the state: x.v holds do, x.out gets dv = w, x.extra gets dbeta.
template <class T, int N> void uncorrect_block(T* G, int64_t columns, int64_t rows, const Tile<T>& x, int64_t at, int n) {
  constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  Vec<T> w[N] = {};
  const T *later_k = x.k, *later_a = x.ones;
  for (int t = 0; t < n; ++t) {
    const T *q = x.q + t * rows, *k = x.k + t * rows;
    Vec<T> in[N], du[N] = {};
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) in[j] = M::load(x.v + t * columns + at + j * W);
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        T* place = G + i * columns + j * W;
        const Vec<T> g = (M::load(place) - w[j] * later_k[i]) * later_a[i] + in[j] * q[i];
        M::store(place, g);
        du[j] += g * k[i];
      }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      const int64_t i = t * columns + at + j * W;
      w[j] = M::load(x.beta + i) * du[j];
      M::store(x.out + i, w[j]);
      M::store(x.extra + i, M::load(x.error + i) * du[j]);
    }
    later_k = k;
    later_a = x.a + t * rows;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int j = 0; j < N; ++j) {
      T* place = G + i * columns + j * W;
      M::store(place, (M::load(place) - w[j] * later_k[i]) * later_a[i]);
    }
}

// One head of one row of the batch.
template <class T> struct Head {
  static constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  const LinearAttentionArgs& a;
  const int64_t rows, columns;
  int64_t row = 0, head = 0, state = 0, begin = 0, end = 0, tiles = 0;  // tokens from `begin` to `end`
  Tile<T> x{};
  T *S = nullptr, *dq = nullptr, *dk = nullptr, *ddecay = nullptr;
  Vec<T> *checkpoints = nullptr, *G = nullptr, *history = nullptr;  // W rows of a state, column by column

  explicit Head(const LinearAttentionArgs& args)
      : a(args), rows(padded(args.d_k, W, kRows)), columns(padded(args.d_v, W, kColumns)) {}

  static int64_t tiles_of(int64_t length) { return (length + kTile - 1) / kTile; }
  // One head of one segment.
  void select(int64_t item) {
    state = item / a.heads, head = item % a.heads;
    row = a.bounds ? 0 : state;
    begin = a.bounds ? a.bounds[state] : 0, end = a.bounds ? a.bounds[state + 1] : a.length;
    tiles = tiles_of(end - begin);
  }

  // Hands out the scratch of one thread, or with null only counts its bytes.
  size_t place(void* scratch) {
    char* free = (char*)scratch;
    const auto take = [&](auto*& pointer, int64_t count) {
      pointer = (decltype(+pointer))free;
      free += (count * sizeof(*pointer) + 63) / 64 * 64;
    };
    for (T** tile : {&x.q, &x.k, &x.a}) take(*tile, kTile * rows);
    for (T** tile : {&x.v, &x.beta, &x.error, &x.out, &x.extra}) take(*tile, kTile * columns);
    take(x.qk, kTile);
    take(x.ones, rows);
    take(S, rows * columns);
    if (a.dq) {
      for (T** tile : {&dq, &dk, &ddecay}) take(*tile, kTile * rows);
      take(checkpoints, tiles_of(a.length) * rows / W * columns);
      take(G, rows / W * columns);
      take(history, kTile * kColumns);
    }
    if (scratch)
      for (int64_t i = 0; i < rows; ++i) x.ones[i] = T(1);
    return size_t(free - (char*)scratch);
  }

  bool corrects() const { return a.beta.width > 0; }
  int steps(int64_t tile) const { return int(smaller(kTile, end - begin - tile * kTile)); }
  int64_t time(int64_t tile, int i, bool reversed) const {
    const int64_t t = tile * kTile + i;
    return reversed ? end - 1 - t : begin + t;
  }
  const void* at(const Heads& from, int64_t t, int64_t first = 0) const {
    const int64_t place = row * from.batch + t * from.time + head / (a.heads / from.heads) * from.head + first;
    return (const char*)from.data + bytes(from.dtype) * place;
  }
  T value(const Heads& from, int64_t t, int64_t i) const {
    T x;
    read_row(&x, at(from, t, i), from.dtype, 1);
    return x;
  }
  T* slot(void* to, int64_t t, int64_t width) const {
    return (T*)to + ((row * a.length + t) * a.heads + head) * width;
  }
  T* matrix(const void* states) const {
    return states ? (T*)states + (state * a.heads + head) * a.d_k * a.d_v : nullptr;
  }
  const T* initial() const {
    if (!a.initial) return nullptr;
    return (const T*)a.initial + (state * a.initial_heads + head / (a.heads / a.initial_heads)) * a.d_k * a.d_v;
  }

  // `shift` reads later tokens, zeros after the last. A width of one is repeated, an absent tensor reads as `fill`.
  void pack(T* to, int64_t stride, int64_t width, const Heads& from, int64_t tile, bool reversed, int shift = 0,
            T fill = T(0)) const {
    for (int i = 0, n = steps(tile); i < n; ++i, to += stride) {
      const int64_t t = time(tile, i, reversed) + shift;
      const bool given = from.width > 0 && t < end;
      if (given && from.width == width) {
        fetch(from, time(tile, i + kAhead, reversed) + shift, 0, width);
        read_row(to, at(from, t), from.dtype, width);
      } else {
        const T one = given ? value(from, t, 0) : fill;
        for (int64_t j = 0; j < width; ++j) to[j] = one;
      }
      for (int64_t j = width; j < stride; ++j) to[j] = T(0);
    }
  }
  // Ask for a row that will be read soon.
  SEQCONV_INLINE void fetch(const Heads& from, int64_t t, int64_t first, int64_t count) const {
    if (t < begin || t >= end) return;
    const char* place = (const char*)at(from, t, first);
    for (int64_t byte = 0; byte < bytes(from.dtype) * count; byte += 64) __builtin_prefetch(place + byte);
  }
  void pack_query(T* q, int64_t tile, bool reversed) const {
    pack(q, rows, a.d_k, a.q, tile, reversed);
    for (int64_t i = 0, count = steps(tile) * rows; i < count; ++i) q[i] *= T(a.scale);
  }
  void pack_key(T* k, int64_t tile, bool reversed, int shift) const {
    pack(k, rows, a.d_k, a.k, tile, reversed);
    if (!a.decay.width && !corrects()) return;
    pack(x.a, rows, a.d_k, a.decay, tile, reversed, shift);
    for (int64_t i = 0, count = steps(tile) * rows; i < count; i += W) M::store(x.a + i, exp<T>(M::load(x.a + i)));
  }
  // For the rows and columns of a state; the other way around for its gradient.
  void pack_keys(T* q, T* k, int64_t tile, bool reversed, int shift) const {
    pack_query(q, tile, reversed);
    pack_key(k, tile, reversed, shift);
  }
  void unpack(void* to, const T* from, int64_t stride, int64_t width, int64_t tile, bool reversed) const {
    for (int i = 0, n = steps(tile); i < n; ++i)
      __builtin_memcpy(slot(to, time(tile, i, reversed), width), from + i * stride, width * sizeof(T));
  }
  void unpack_values(void* to, const T* from, int64_t tile, bool reversed) const {
    unpack(to, from, columns, a.d_v, tile, reversed);
  }
  template <class S> void unpack_narrow(S* to, int64_t tile) const {
    for (int i = 0, n = steps(tile); i < n; ++i)
      if constexpr (sizeof(T) == 4)
        write_row(to + ((row * a.length + time(tile, i, false)) * a.heads + head) * a.d_v, x.out + i * columns, a.d_v);
  }
  void unpack_output(int64_t tile) const {
    const bool narrow = a.dtype == Dtype::f32;
    if (narrow && a.v.dtype == Dtype::bf16) unpack_narrow((bf16*)a.o, tile);
    else if (narrow && a.v.dtype == Dtype::f16) unpack_narrow((f16*)a.o, tile);
    else unpack_values(a.o, x.out, tile, false);
  }
  void load_state(const T* from) const {
    for (int64_t i = 0; i < rows * columns; ++i) S[i] = T(0);
    for (int64_t i = 0; from && i < a.d_k; ++i)
      __builtin_memcpy(S + i * columns, from + i * a.d_v, a.d_v * sizeof(T));
  }
  void store_state(T* to) const {
    for (int64_t i = 0; i < a.d_k; ++i) __builtin_memcpy(to + i * a.d_v, S + i * columns, a.d_v * sizeof(T));
  }

  template <bool Decays> void attend(int n) const {
    for (int64_t c = 0; c < columns;) {
      const int wide = columns - c >= 2 * W ? 2 : 1;
      for (int64_t r = 0; r < rows; r += kRows) {
        T* block = S + r * columns + c;
        if (wide == 2) attend_block<T, 2, Decays>(block, columns, x.q + r, x.k + r, x.a + r, rows, x.v + c, x.out + c, n, r == 0);
        else attend_block<T, 1, Decays>(block, columns, x.q + r, x.k + r, x.a + r, rows, x.v + c, x.out + c, n, r == 0);
      }
      c += wide * W;
    }
  }
  void attend(int n) const { a.decay.width ? attend<true>(n) : attend<false>(n); }
  template <bool Reversed> void correct(int n) const {
    const auto block = [&](auto wide, int64_t c) {
      constexpr int N = decltype(wide)::value;
      if (Reversed) uncorrect_block<T, N>(S + c, columns, rows, x, c, n);
      else correct_block<T, N>(S + c, columns, rows, x, c, n);
    };
    int64_t c = 0;
    for (; c + kWide * W <= columns; c += kWide * W) block(Count<kWide>{}, c);
    for (; c + 2 * W <= columns; c += 2 * W) block(Count<2>{}, c);
    for (; c < columns; c += W) block(Count<1>{}, c);
  }
  template <int N> struct Count { static constexpr int value = N; };

  void forward() const {
    load_state(initial());
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int n = steps(tile);
      pack_keys(x.q, x.k, tile, false, 0);
      pack(x.v, columns, a.d_v, a.v, tile, false);
      if (corrects()) {
        pack(x.beta, columns, a.d_v, a.beta, tile, false);
        for (int t = 0; t < n; ++t) x.qk[t] = dot(x.q + t * rows, x.k + t * rows);
        correct<false>(n);
        if (a.error) unpack_values(a.error, x.error, tile, false);
      } else {
        attend(n);
      }
      unpack_output(tile);
    }
    store_state(matrix(a.final_state));
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

  // Backwards in time: dv, dbeta, dinitial. Linear attention is its own adjoint with q and k exchanged.
  void backward_values() const {
    load_state(matrix(a.dfinal));
    for (int64_t tile = 0; tile < tiles; ++tile) {
      const int n = steps(tile);
      pack(x.v, columns, a.d_v, a.grad, tile, true);
      if (corrects()) {
        pack_keys(x.q, x.k, tile, true, 0);
        pack(x.beta, columns, a.d_v, a.beta, tile, true);
        pack(x.error, columns, a.d_v, a.seen, tile, true);
        correct<true>(n);
        unpack_strength(tile);
      } else {
        pack_keys(x.k, x.q, tile, true, 1);
        attend(n);
      }
      unpack_values(a.dv, x.out, tile, true);
    }
    if (!corrects() && a.decay.width)
      for (int64_t i = 0; i < a.d_k; ++i) {
        const T factor = exp<T>(splat<T>(value(a.decay, begin, a.decay.width == 1 ? 0 : i)))[0];
        for (int64_t j = 0; j < a.d_v; ++j) S[i * columns + j] *= factor;
      }
    store_state(matrix(a.dinitial));
  }
  void unpack_strength(int64_t tile) const {
    if (a.beta.width > 1 || a.d_v == 1) return unpack_values(a.dbeta, x.extra, tile, true);
    for (int i = 0, n = steps(tile); i < n; ++i) {
      Vec<T> sum{};
      for (int64_t j = 0; j < columns; j += W) sum += M::load(x.extra + i * columns + j);
      *slot(a.dbeta, time(tile, i, true), 1) = total(sum, W);
    }
  }

  // Rows in the lanes, a block of W at a time: dq, dk, ddecay.
  template <bool Corrects, bool Decays> void backward_keys() const {
    const int64_t blocks = rows / W;
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = 0; c < columns; ++c) {
        checkpoints[block * columns + c] = lanes(initial(), block * W, c);
        G[block * columns + c] = lanes(matrix(a.dfinal), block * W, c);
      }
    for (int64_t tile = 0; tile + 1 < tiles; ++tile) {
      pack_key(x.k, tile, false, 0);
      pack_written(x.v, tile);
      Vec<T>* from = checkpoints + tile * blocks * columns;
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t c = 0; c < columns; c += kColumns, from += kColumns)
          advance<Decays>(from, from + blocks * columns, block * W, c);
    }
    for (int64_t tile = tiles - 1; tile >= 0; --tile) {
      pack_keys(x.q, x.k, tile, false, 0);
      pack_written(x.v, tile);
      pack(x.out, columns, a.d_v, a.grad, tile, false);
      if (Corrects) pack(x.extra, columns, a.d_v, gradient_of_values(), tile, false);
      for (int64_t block = 0; block < blocks; ++block)
        differentiate_rows<Corrects, Decays>(checkpoints + (tile * blocks + block) * columns, block, steps(tile));
      unpack(a.dq, dq, rows, a.d_k, tile, false);
      unpack(a.dk, dk, rows, a.d_k, tile, false);
      if (Decays) unpack_decay(tile);
    }
  }
  // A block of rows over a tile.
  template <bool Corrects, bool Decays>
  void differentiate_rows(const Vec<T>* from, int64_t block, int n) const {
    Sums q{}, k{}, decay{};
    for (int64_t c = 0; c < columns; c += kColumns) {
      recompute<Corrects, Decays>(from + c, block * W, c, n, q);
      differentiate<Corrects, Decays>(G + block * columns + c, block * W, c, n, k, decay);
    }
    for (int t = 0; t < n; ++t) {
      const int64_t at = t * rows + block * W;
      M::store(dq + at, q.of[t] * T(a.scale));
      M::store(dk + at, k.of[t]);
      M::store(ddecay + at, decay.of[t]);
    }
  }
  void unpack_decay(int64_t tile) const {
    if (a.decay.width == a.d_k) return unpack(a.ddecay, ddecay, rows, a.d_k, tile, false);
    for (int t = 0, n = steps(tile); t < n; ++t) {
      Vec<T> sum{};
      for (int64_t i = 0; i < rows; i += W) sum += M::load(ddecay + t * rows + i);
      *slot(a.ddecay, time(tile, t, false), 1) = total(sum, W);
    }
  }
  Vec<T> lanes(const T* state, int64_t first, int64_t c) const {
    Vec<T> v{};
    for (int i = 0; state && c < a.d_v && i < W && first + i < a.d_k; ++i) v[i] = state[(first + i) * a.d_v + c];
    return v;
  }
  Heads gradient_of_values() const {
    return {a.dv, a.length * a.heads * a.d_v, a.heads * a.d_v, a.d_v, a.heads, a.d_v, a.dtype};
  }
  // What the tokens wrote: u.
  void pack_written(T* to, int64_t tile) const {
    pack(to, columns, a.d_v, corrects() ? a.seen : a.v, tile, false);
    if (!corrects()) return;
    pack(x.beta, columns, a.d_v, a.beta, tile, false);
    for (int64_t i = 0, count = steps(tile) * columns; i < count; ++i) to[i] *= x.beta[i];
  }
  struct Sums {
    Vec<T> of[kTile];
  };
  // A block of rows and kColumns columns over a tile; every tile but the last one is full.
  template <bool Decays> SEQCONV_INLINE void advance(const Vec<T>* from, Vec<T>* to, int64_t row, int64_t c) const {
    const T *k = x.k + row, *decay = x.a + row, *u = x.v + c;
    Vec<T> s[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) s[j] = from[j];
    for (int t = 0; t < kTile; ++t, k += rows, decay += rows, u += columns) {
      const Vec<T> key = M::load(k), kept = M::load(decay);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) s[j] = (Decays ? s[j] * kept : s[j]) + key * u[j];
    }
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) to[j] = s[j];
  }
  template <bool Corrects, bool Decays>
  SEQCONV_INLINE void recompute(const Vec<T>* from, int64_t row, int64_t c, int n, Sums& dq) const {
    const T *k = x.k + row, *decay = x.a + row, *u = x.v + c, *grad = x.out + c;
    Vec<T> s[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) s[j] = from[j];
    for (int t = 0; t < n; ++t, k += rows, decay += rows, u += columns, grad += columns) {
      const Vec<T> key = M::load(k), kept = M::load(decay);
      Vec<T> even = dq.of[t], odd{};
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        if (Decays) s[j] *= kept;
        if (Corrects || Decays) history[t * kColumns + j] = s[j];
        s[j] += key * u[j];
        (j % 2 ? odd : even) += s[j] * grad[j];
      }
      dq.of[t] = even + odd;
    }
  }
  template <bool Corrects, bool Decays>
  SEQCONV_INLINE void differentiate(Vec<T>* later, int64_t row, int64_t c, int n, Sums& dk, Sums& ddecay) const {
    Vec<T> g[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) g[j] = later[j];
    for (int t = n - 1; t >= 0; --t) {
      const int64_t line = t * rows + row, at = t * columns + c;
      const Vec<T> q = M::load(x.q + line), k = M::load(x.k + line), kept = M::load(x.a + line);
      const T *u = x.v + at, *grad = x.out + at, *dv = x.extra + at;
      Vec<T> key = dk.of[t], own{}, forgotten = ddecay.of[t];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        g[j] += q * grad[j];
        key += g[j] * u[j];
        if (Corrects) {
          g[j] -= k * dv[j];
          own -= history[t * kColumns + j] * dv[j];
        }
        if (Decays) {
          forgotten += g[j] * history[t * kColumns + j];
          g[j] *= kept;
        }
      }
      dk.of[t] = key + own;
      ddecay.of[t] = forgotten;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) later[j] = g[j];
  }
};

template <class T, bool Backward> Status run(const LinearAttentionArgs& a) {
  const int64_t items = a.segments * a.heads;
  const bool small = a.batch * a.heads * a.length * a.d_k * a.d_v < kOperationsWorthThreads;
  const int threads = small ? 1 : int(smaller(a.threads, items));
  int short_of_memory = 0;
#pragma omp parallel num_threads(threads) if (threads > 1) reduction(| : short_of_memory)
  {
    Head<T> head(a);
    const Scratch scratch(head.place(nullptr));
    if (scratch.data) head.place(scratch.data);
    else short_of_memory = 1;
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      if (!scratch.data) continue;
      head.select(item);
      if constexpr (Backward) {
        head.backward_values();
        const bool decays = a.decay.width > 0;
        if (head.corrects()) decays ? head.template backward_keys<true, true>() : head.template backward_keys<true, false>();
        else decays ? head.template backward_keys<false, true>() : head.template backward_keys<false, false>();
      } else {
        head.forward();
      }
    }
  }
  return short_of_memory ? Status::no_memory : Status::done;
}

}  // namespace

Status linear_attention_forward(const LinearAttentionArgs& a) {
  return a.dtype == Dtype::f64 ? run<double, false>(a) : run<float, false>(a);
}
Status linear_attention_backward(const LinearAttentionArgs& a) {
  return a.dtype == Dtype::f64 ? run<double, true>(a) : run<float, true>(a);
}

}  // namespace seqconv::SEQCONV_ISA
