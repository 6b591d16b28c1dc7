// Linear attention with a decay, and the delta rule, token by token; the state S of a head is (d_k, d_v):
//
//   S'_t = diag(a_t) S_{t-1}      S_t = S'_t + k_t u_t^T      o_t = S_t^T q_t,      a_t = exp(log_decay_t)
//
// with u = v, or u = beta (v - S'^T k) for the delta rule, whose error e = v - S'^T k is kept for the backward pass. q
// is scaled beforehand. A chunked form takes as many operations at the usual sizes of a head, and divides by decays or
// needs many small products to avoid it; here a decay is only ever a factor.
//
// The adjoint, with G_t the gradient of S_t and w_t = beta_t G_t^T k_t (zero in linear attention, where dv = G^T k):
//
//   G_t = q_t do_t^T + diag(a_{t+1}) dS'_{t+1}      dS'_t = G_t - k_t w_t^T      (G_T: the final state's gradient)
//   dv = w      dbeta = e G^T k      dq = S do      dk = G u - S' w      dlog a = sum over columns of dS' S'
//
// No lane is ever summed: what sums over the rows of S (o, dv, dbeta) comes from a pass with columns in the lanes, what
// sums over its columns (dq, dk, dlog a) from one with rows in the lanes. An item is one head of one sequence.
//
// Columns in the lanes (forward, and backward_values on G in reversed time): time runs in chunks of kChunk tokens,
// whose rows are copied to dense, zero-padded scratch first, since from one token of a head to the next is far in
// memory.
//   Linear attention: blocks of kRows rows by N vectors of columns of S stay in registers over the whole chunk, since
//   tokens do not interact except through S; o accumulates over the blocks of rows.
//   Delta rule: u of a token depends on all rows of S, so S is streamed through once per token, in the first-level
//   cache; the update by the last token, the decay and both products with k and q share that one pass.
// Rows in the lanes (backward_keys): first state_passing, which leaves S at the start of every chunk, then chunks from
// the last one: chunk_scan recomputes a chunk's states and dq, chunk_backward runs the adjoint over it for dk and dlog
// a.
#include "head.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

// Linear attention: kRows rows by N vectors of columns of S, in registers over `steps` tokens. q, k, a are (token,
// rows), v and o (token, columns); the first block of rows starts o, the others add to it.
template <class T, int N, bool Decays>
SEQCONV_INLINE void attention_block(T* S, int64_t columns, const T* q, const T* k, const T* a, int64_t rows, const T* v,
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

// Copies of a chunk's rows, in the order in time of a pass, each padded with zeros: q, k, a (token, rows), the others
// (token, columns); qk: q . k of each token; ones: a row of a for no decay.
template <class T> struct Chunk {
  T *q, *k, *a, *v, *beta, *error, *out, *extra, *qk, *ones;
};

// Delta rule: all rows of N vectors of columns of S, from column `at` on, over n tokens. One pass over S per token: it
// adds the last token's k u^T, multiplies by a, and sums S'^T k and S'^T q; o = S'^T q + u (q . k), since S = S' + k
// u^T.
template <class T, int N>
void delta_rule_block(T* S, int64_t columns, int64_t rows, const Chunk<T>& x, int64_t at, int n) {
  constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  Vec<T> u[N] = {};
  const T* before = x.k;
  for (int t = 0; t < n; ++t) {
    const T *q = x.q + t * rows, *k = x.k + t * rows, *a = x.a + t * rows;
    Vec<T> predicted[N] = {}, out[N] = {};
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        T* place = S + i * columns + j * W;
        const Vec<T> s = (M::load(place) + u[j] * before[i]) * a[i];
        M::store(place, s);
        predicted[j] += s * k[i];
        out[j] += s * q[i];
      }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      const int64_t i = t * columns + at + j * W;
      const Vec<T> error = M::load(x.v + i) - predicted[j];
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

// The adjoint on G, with the tokens of a chunk in reversed order: x.v is do, x.out becomes dv = w, x.extra dbeta
// (before its sum over columns). One pass over G per token: it subtracts the later token's k w^T, multiplies by its a,
// adds q do^T, and sums G^T k.
template <class T, int N>
void delta_rule_backward_block(T* G, int64_t columns, int64_t rows, const Chunk<T>& x, int64_t at, int n) {
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

// One head of one sequence. S, G and chunks are padded to `rows` and `columns`.
template <class T> struct Head : HeadBase<T> {
  using Base = HeadBase<T>;
  using typename Base::M;
  using Base::W, Base::a, Base::rows, Base::columns, Base::begin, Base::end, Base::chunks, Base::S;
  using Base::dot, Base::for_column_blocks, Base::initial, Base::lanes, Base::load_state, Base::matrix, Base::pack;
  using Base::slot, Base::steps, Base::store_state, Base::time, Base::total, Base::unpack, Base::value;
  Chunk<T> x{};
  T *dq = nullptr, *dk = nullptr, *dlog_decay = nullptr;
  // With rows in the lanes, (block of W rows, column): S before every chunk, G; and S' of a block of columns per token.
  Vec<T> *checkpoints = nullptr, *G = nullptr, *decayed_states = nullptr;

  explicit Head(const LinearAttentionArgs& args) : Base(args) {}
  Head(const LinearAttentionArgs& args, int64_t item, void* scratch) : Head(args) {
    Base::select(item);
    place(scratch);
  }
  static size_t scratch_bytes(const LinearAttentionArgs& a) { return Head(a).place(nullptr); }

  // Lays the arrays out in the scratch and returns its size in bytes; with null only that.
  size_t place(void* scratch) {
    Layout layout{(char*)scratch};
    for (T** array : {&x.q, &x.k, &x.a}) layout.take(*array, kChunk * rows);
    for (T** array : {&x.v, &x.beta, &x.error, &x.out, &x.extra}) layout.take(*array, kChunk * columns);
    layout.take(x.qk, kChunk);
    layout.take(x.ones, rows);
    layout.take(S, rows * columns);
    if (a.dq) {
      for (T** array : {&dq, &dk, &dlog_decay}) layout.take(*array, kChunk * rows);
      layout.take(checkpoints, ceil_div(a.length, kChunk) * rows / W * columns);
      layout.take(G, rows / W * columns);
      layout.take(decayed_states, kChunk * kColumns);
    }
    if (scratch)
      for (int64_t i = 0; i < rows; ++i) x.ones[i] = T(1);
    return size_t(layout.free - (char*)scratch);
  }

  bool delta_rule() const { return a.beta.width > 0; }
  void pack_query(T* q, int64_t chunk, bool reversed) const {
    pack(q, rows, a.d_k, a.q, chunk, reversed);
    for (int64_t i = 0, count = steps(chunk) * rows; i < count; ++i) q[i] *= T(a.scale);
  }
  void pack_key(T* k, int64_t chunk, bool reversed, int shift) const {
    pack(k, rows, a.d_k, a.k, chunk, reversed);
    if (!a.log_decay.width && !delta_rule()) return;
    pack(x.a, rows, a.d_k, a.log_decay, chunk, reversed, shift);
    for (int64_t i = 0, count = steps(chunk) * rows; i < count; i += W) M::store(x.a + i, exp<T>(M::load(x.a + i)));
  }
  // What S is read and written with: q and k, and for the gradient of linear attention k and q.
  void pack_keys(T* q, T* k, int64_t chunk, bool reversed, int shift) const {
    pack_query(q, chunk, reversed);
    pack_key(k, chunk, reversed, shift);
  }
  void unpack_values(void* to, const T* from, int64_t chunk, bool reversed) const {
    unpack(to, from, columns, a.d_v, chunk, reversed);
  }
  // A chunk of linear attention on S, in register blocks.
  template <bool Decays> void attend(int n) const {
    for (int64_t c = 0; c < columns;) {
      const bool two = columns - c >= 2 * W;
      for (int64_t r = 0; r < rows; r += kRows) {
        T* block = S + r * columns + c;
        const T *q = x.q + r, *k = x.k + r, *decay = x.a + r;
        if (two) attention_block<T, 2, Decays>(block, columns, q, k, decay, rows, x.v + c, x.out + c, n, r == 0);
        else attention_block<T, 1, Decays>(block, columns, q, k, decay, rows, x.v + c, x.out + c, n, r == 0);
      }
      c += two ? 2 * W : W;
    }
  }
  void attend(int n) const { a.log_decay.width ? attend<true>(n) : attend<false>(n); }
  // A chunk of the delta rule, or of its adjoint, on S, in column blocks.
  template <bool Backward> void apply_delta_rule(int n) const {
    for_column_blocks([&](auto wide, int64_t c) {
      constexpr int N = decltype(wide)::value;
      if (Backward) delta_rule_backward_block<T, N>(S + c, columns, rows, x, c, n);
      else delta_rule_block<T, N>(S + c, columns, rows, x, c, n);
    });
  }

  void forward() const {
    load_state(initial());
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int n = steps(chunk);
      pack_keys(x.q, x.k, chunk, false, 0);
      pack(x.v, columns, a.d_v, a.v, chunk, false);
      if (delta_rule()) {
        pack(x.beta, columns, a.d_v, a.beta, chunk, false);
        for (int t = 0; t < n; ++t) x.qk[t] = dot(x.q + t * rows, x.k + t * rows);
        apply_delta_rule<false>(n);
        if (a.error) unpack_values(a.error, x.error, chunk, false);
      } else {
        attend(n);
      }
      Base::unpack_output(x.out, chunk);
    }
    store_state(matrix(a.final_state));
  }
  // Columns in the lanes, backwards in time, with G in the place of S: dv, dbeta, dinitial. Linear attention is its own
  // adjoint in reversed time with q and k exchanged, do for v, and the decay of the later token (shift 1); the first
  // token's decay is left for the end.
  void backward_values() const {
    load_state(matrix(a.dfinal));
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int n = steps(chunk);
      pack(x.v, columns, a.d_v, a.grad, chunk, true);
      if (delta_rule()) {
        pack_keys(x.q, x.k, chunk, true, 0);
        pack(x.beta, columns, a.d_v, a.beta, chunk, true);
        pack(x.error, columns, a.d_v, a.forward_error, chunk, true);
        apply_delta_rule<true>(n);
        unpack_dbeta(chunk);
      } else {
        pack_keys(x.k, x.q, chunk, true, 1);
        attend(n);
      }
      unpack_values(a.dv, x.out, chunk, true);
    }
    if (!delta_rule() && a.log_decay.width)
      for (int64_t i = 0; i < a.d_k; ++i) {
        const T factor = exp<T>(splat<T>(value(a.log_decay, begin, a.log_decay.width == 1 ? 0 : i)))[0];
        for (int64_t j = 0; j < a.d_v; ++j) S[i * columns + j] *= factor;
      }
    store_state(matrix(a.dinitial));
  }
  void backward() const {
    backward_values();
    const bool decays = a.log_decay.width > 0;
    if (delta_rule()) decays ? backward_keys<true, true>() : backward_keys<true, false>();
    else decays ? backward_keys<false, true>() : backward_keys<false, false>();
  }
  void unpack_dbeta(int64_t chunk) const {
    if (a.beta.width > 1 || a.d_v == 1) return unpack_values(a.dbeta, x.extra, chunk, true);
    for (int i = 0, n = steps(chunk); i < n; ++i) {
      Vec<T> sum{};
      for (int64_t j = 0; j < columns; j += W) sum += M::load(x.extra + i * columns + j);
      *slot(a.dbeta, time(chunk, i, true), 1) = total(sum, W);
    }
  }

  // Rows in the lanes, a block of W at a time: dq, dk, dlog_decay. One pass forward for the states, one backward.
  template <bool DeltaRule, bool Decays> void backward_keys() const {
    const int64_t blocks = rows / W;
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = 0; c < columns; ++c) {
        checkpoints[block * columns + c] = lanes(initial(), block * W, c);
        G[block * columns + c] = lanes(matrix(a.dfinal), block * W, c);
      }
    state_passing<Decays>();
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      pack_keys(x.q, x.k, chunk, false, 0);
      pack_written(x.v, chunk);
      pack(x.out, columns, a.d_v, a.grad, chunk, false);
      if (DeltaRule) pack(x.extra, columns, a.d_v, Base::per_value(a.dv), chunk, false);
      for (int64_t block = 0; block < blocks; ++block)
        differentiate_rows<DeltaRule, Decays>(checkpoints + (chunk * blocks + block) * columns, block, steps(chunk));
      unpack(a.dq, dq, rows, a.d_k, chunk, false);
      unpack(a.dk, dk, rows, a.d_k, chunk, false);
      if (Decays) Base::unpack_decay(dlog_decay, chunk);
    }
  }
  // S before every chunk, from that before the first one.
  template <bool Decays> void state_passing() const {
    const int64_t blocks = rows / W;
    for (int64_t chunk = 0; chunk + 1 < chunks; ++chunk) {
      pack_key(x.k, chunk, false, 0);
      pack_written(x.v, chunk);
      Vec<T>* from = checkpoints + chunk * blocks * columns;
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t c = 0; c < columns; c += kColumns, from += kColumns)
          chunk_state<Decays>(from, from + blocks * columns, block * W, c);
    }
  }
  // dq, dk and dlog_decay of a block of W rows over a chunk, summed over blocks of columns.
  template <bool DeltaRule, bool Decays>
  void differentiate_rows(const Vec<T>* from, int64_t block, int n) const {
    Sums<T> q{}, k{}, decay{};
    for (int64_t c = 0; c < columns; c += kColumns) {
      chunk_scan<DeltaRule, Decays>(from + c, block * W, c, n, q);
      chunk_backward<DeltaRule, Decays>(G + block * columns + c, block * W, c, n, k, decay);
    }
    for (int t = 0; t < n; ++t) {
      const int64_t at = t * rows + block * W;
      M::store(dq + at, q.of[t] * T(a.scale));
      M::store(dk + at, k.of[t]);
      M::store(dlog_decay + at, decay.of[t]);
    }
  }
  // u, what the tokens wrote to S.
  void pack_written(T* to, int64_t chunk) const {
    pack(to, columns, a.d_v, delta_rule() ? a.forward_error : a.v, chunk, false);
    if (!delta_rule()) return;
    pack(x.beta, columns, a.d_v, a.beta, chunk, false);
    for (int64_t i = 0, count = steps(chunk) * columns; i < count; ++i) to[i] *= x.beta[i];
  }
  // W rows and kColumns columns of S, in registers, through a chunk; every chunk but the last one is full.
  template <bool Decays> SEQCONV_INLINE void chunk_state(const Vec<T>* from, Vec<T>* to, int64_t row, int64_t c) const {
    const T *k = x.k + row, *decay = x.a + row, *u = x.v + c;
    Vec<T> s[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) s[j] = from[j];
    for (int t = 0; t < kChunk; ++t, k += rows, decay += rows, u += columns) {
      const Vec<T> key = M::load(k), kept = M::load(decay);
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) s[j] = (Decays ? s[j] * kept : s[j]) + key * u[j];
    }
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) to[j] = s[j];
  }
  // The same with dq = S do on the way, and S' of every token kept for the adjoint.
  template <bool DeltaRule, bool Decays>
  SEQCONV_INLINE void chunk_scan(const Vec<T>* from, int64_t row, int64_t c, int n, Sums<T>& dq) const {
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
        if (DeltaRule || Decays) decayed_states[t * kColumns + j] = s[j];
        s[j] += key * u[j];
        (j % 2 ? odd : even) += s[j] * grad[j];
      }
      dq.of[t] = even + odd;
    }
  }
  // The adjoint over W rows and kColumns columns of a chunk, G in registers: dk = G u - S' w, dlog a = dS' S'.
  template <bool DeltaRule, bool Decays>
  SEQCONV_INLINE void chunk_backward(Vec<T>* later, int64_t row, int64_t c, int n, Sums<T>& dk, Sums<T>& dlog_decay) const {
    Vec<T> g[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) g[j] = later[j];
    for (int t = n - 1; t >= 0; --t) {
      const int64_t line = t * rows + row, at = t * columns + c;
      const Vec<T> q = M::load(x.q + line), k = M::load(x.k + line), kept = M::load(x.a + line);
      const T *u = x.v + at, *grad = x.out + at, *dv = x.extra + at;
      Vec<T> by_value = dk.of[t], by_error{}, decay_sum = dlog_decay.of[t];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        g[j] += q * grad[j];
        by_value += g[j] * u[j];
        if (DeltaRule) {
          g[j] -= k * dv[j];
          by_error -= decayed_states[t * kColumns + j] * dv[j];
        }
        if (Decays) {
          decay_sum += g[j] * decayed_states[t * kColumns + j];
          g[j] *= kept;
        }
      }
      dk.of[t] = by_value + by_error;
      dlog_decay.of[t] = decay_sum;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) later[j] = g[j];
  }
};

}  // namespace

Status linear_attention_forward(const LinearAttentionArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) { return run_heads<Head<decltype(acc)>, false>(a); });
}
Status linear_attention_backward(const LinearAttentionArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) { return run_heads<Head<decltype(acc)>, true>(a); });
}

}  // namespace seqconv::SEQCONV_ISA
