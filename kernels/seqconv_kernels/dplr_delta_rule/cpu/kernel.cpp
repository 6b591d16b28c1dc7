// The generalised delta rule, token by token; the state S of a head is (d_k, d_v):
//
//   u_t = S_{t-1}^T a_t      S_t = diag(α_t) S_{t-1} + b_t u_t^T + k_t v_t^T      o_t = S_t^T q_t,    α = exp(log_decay)
//
// q is scaled beforehand. Without b, k writes v + u. What was read, u, is kept for the backward pass.
//
// The adjoint, with G_t the gradient of S_t:
//
//   G_t = q_t do_t^T + diag(α_{t+1}) G_{t+1} + a_{t+1} du_{t+1}^T      (G_T: the final state's gradient)
//   du = G^T b      dv = G^T k      dq = S do      dk = G v      db = G u      da_t = S_{t-1} du_t
//   dα_t = sum over columns of G_t S_{t-1}; without b: du = dv = G^T k, dk = G (v + u)
//
// As in linear attention (`../_linear_attention/cpu/kernel.cpp`) no lane is ever summed: what sums over the rows of S
// (u, o, dv, du) comes from a pass with columns in the lanes, which streams S through the first-level cache once per
// token: the update by the last token and both products share that pass. What sums over its columns (dq, dk, da, db,
// dα) comes from a pass with rows in the lanes, forward for the states, then backward over its chunks.
#include "../../_linear_attention/cpu/head.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

// Copies of a chunk's rows, in the order in time of a pass, each padded with zeros: q, k, a, b, decay (token, rows), v,
// u, out, extra (token, columns); qk, qb: q . k and q . b of each token; ones: a row of decays of one.
template <class T> struct Chunk {
  T *q, *k, *a, *b, *decay, *v, *u, *out, *extra, *qk, *qb, *ones;
};

// All rows of N vectors of columns of S, from column `at` on, over n tokens; x.q holds α q. One pass over S per token:
// it applies the last token (decay, b u^T, k v^T) and sums S^T a and S^T (α q); then o = S^T (α q) + (q.b) u + (q.k) v.
template <class T, int N, bool Writes>
void forward_block(T* S, int64_t columns, int64_t rows, const Chunk<T>& x, int64_t at, int n) {
  constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  Vec<T> u[N] = {}, v[N] = {};  // of the last token; without b, v holds v + u
  const T *k = x.k, *b = x.b, *decay = x.ones;
  for (int t = 0; t <= n; ++t) {
    const bool last = t == n;
    const T *a = last ? x.ones : x.a + t * rows, *q = last ? x.ones : x.q + t * rows;
    Vec<T> read[N] = {}, out[N] = {};
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        T* place = S + i * columns + j * W;
        Vec<T> s = M::load(place) * decay[i] + v[j] * k[i];
        if (Writes) s += u[j] * b[i];
        M::store(place, s);
        read[j] += s * a[i];
        out[j] += s * q[i];
      }
    if (last) return;
    k = x.k + t * rows, b = x.b + t * rows, decay = x.decay + t * rows;
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      const int64_t i = t * columns + at + j * W;
      u[j] = read[j];
      v[j] = Writes ? M::load(x.v + i) : M::load(x.v + i) + u[j];
      M::store(x.u + i, u[j]);
      M::store(x.out + i, out[j] + v[j] * x.qk[t] + (Writes ? u[j] * x.qb[t] : Vec<T>{}));
    }
  }
}

// The adjoint on G, with the tokens of a chunk in reversed order: x.v is do, x.out becomes dv, x.extra du. One pass over
// G per token: it applies the later token (its decay, a du^T), adds q do^T, and sums G^T k and G^T b.
template <class T, int N, bool Writes>
void backward_block(T* G, int64_t columns, int64_t rows, const Chunk<T>& x, int64_t at, int n) {
  constexpr int W = Lanes<T>::count;
  using M = Memory<T, T>;
  Vec<T> later_du[N] = {};
  const T *later_a = x.a, *later_decay = x.ones;
  for (int t = 0; t < n; ++t) {
    const T *q = x.q + t * rows, *k = x.k + t * rows, *b = x.b + t * rows;
    Vec<T> in[N], dv[N] = {}, du[N] = {};
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) in[j] = M::load(x.v + t * columns + at + j * W);
    for (int64_t i = 0; i < rows; ++i)
#pragma GCC unroll 4
      for (int j = 0; j < N; ++j) {
        T* place = G + i * columns + j * W;
        const Vec<T> g = M::load(place) * later_decay[i] + later_du[j] * later_a[i] + in[j] * q[i];
        M::store(place, g);
        dv[j] += g * k[i];
        if (Writes) du[j] += g * b[i];
      }
#pragma GCC unroll 4
    for (int j = 0; j < N; ++j) {
      const int64_t i = t * columns + at + j * W;
      later_du[j] = Writes ? du[j] : dv[j];
      M::store(x.out + i, dv[j]);
      M::store(x.extra + i, later_du[j]);
    }
    later_a = x.a + t * rows, later_decay = x.decay + t * rows;
  }
  for (int64_t i = 0; i < rows; ++i)
    for (int j = 0; j < N; ++j) {
      T* place = G + i * columns + j * W;
      M::store(place, M::load(place) * later_decay[i] + later_du[j] * later_a[i]);
    }
}

// One head of one sequence; `Writes`: whether b is given.
template <class T, bool Writes> struct Head : HeadBase<T> {
  using Base = HeadBase<T>;
  using typename Base::M;
  using Base::W, Base::a, Base::rows, Base::columns, Base::chunks, Base::S;
  using Base::dot, Base::for_column_blocks, Base::initial, Base::lanes, Base::load_state, Base::matrix, Base::pack;
  using Base::steps, Base::store_state, Base::unpack;
  Chunk<T> x{};
  T *dq = nullptr, *dk = nullptr, *da = nullptr, *db = nullptr, *ddecay = nullptr;
  // With rows in the lanes, (block of W rows, column): S before every chunk, G; and S before each token of a chunk, for
  // a block of columns.
  Vec<T> *checkpoints = nullptr, *G = nullptr, *states_before = nullptr;
  T* du = nullptr;  // (token, column) of the whole sequence

  explicit Head(const LinearAttentionArgs& args) : Base(args) {}
  Head(const LinearAttentionArgs& args, int64_t item, void* scratch) : Head(args) {
    Base::select(item);
    place(scratch);
  }
  static size_t scratch_bytes(const LinearAttentionArgs& args) { return Head(args).place(nullptr); }

  // Lays the arrays out in the scratch and returns its size in bytes; with null only that.
  size_t place(void* scratch) {
    Layout layout{(char*)scratch};
    for (T** array : {&x.q, &x.k, &x.a, &x.b, &x.decay}) layout.take(*array, kChunk * rows);
    for (T** array : {&x.v, &x.u, &x.out, &x.extra}) layout.take(*array, kChunk * columns);
    layout.take(x.qk, kChunk);
    layout.take(x.qb, kChunk);
    layout.take(x.ones, rows);
    layout.take(S, rows * columns);
    if (a.dq) {
      for (T** array : {&dq, &dk, &da, &db, &ddecay}) layout.take(*array, kChunk * rows);
      const int64_t most = ceil_div(a.length, kChunk);
      layout.take(checkpoints, most * rows / W * columns);
      layout.take(G, rows / W * columns);
      layout.take(states_before, kChunk * kColumns);
      layout.take(du, most * kChunk * columns);
    }
    if (scratch)
      for (int64_t i = 0; i < rows; ++i) x.ones[i] = T(1);
    return size_t(layout.free - (char*)scratch);
  }

  void pack_query(int64_t chunk, bool reversed) const {
    pack(x.q, rows, a.d_k, a.q, chunk, reversed);
    for (int64_t i = 0, count = steps(chunk) * rows; i < count; ++i) x.q[i] *= T(a.scale);
  }
  // k, b and the decays.
  void pack_writes(int64_t chunk, bool reversed) const {
    pack(x.k, rows, a.d_k, a.k, chunk, reversed);
    if (Writes) pack(x.b, rows, a.d_k, a.write, chunk, reversed);
    pack(x.decay, rows, a.d_k, a.log_decay, chunk, reversed);
    for (int64_t i = 0, count = steps(chunk) * rows; i < count; i += W)
      M::store(x.decay + i, exp<T>(M::load(x.decay + i)));
  }
  // v and u, or v + u where k writes both.
  void pack_written(int64_t chunk) const {
    pack(x.v, columns, a.d_v, a.v, chunk, false);
    pack(x.u, columns, a.d_v, a.forward_error, chunk, false);
    if (!Writes)
      for (int64_t i = 0, count = steps(chunk) * columns; i < count; ++i) x.v[i] += x.u[i];
  }

  void forward() const {
    load_state(initial());
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int n = steps(chunk);
      pack_query(chunk, false);
      pack_writes(chunk, false);
      pack(x.a, rows, a.d_k, a.read, chunk, false);
      pack(x.v, columns, a.d_v, a.v, chunk, false);
      for (int t = 0; t < n; ++t) {
        T* q = x.q + t * rows;
        x.qk[t] = dot(q, x.k + t * rows);
        if (Writes) x.qb[t] = dot(q, x.b + t * rows);
        for (int64_t i = 0; i < rows; ++i) q[i] *= x.decay[t * rows + i];
      }
      for_column_blocks([&](auto wide, int64_t c) {
        forward_block<T, decltype(wide)::value, Writes>(S + c, columns, rows, x, c, n);
      });
      if (a.error) unpack(a.error, x.u, columns, a.d_v, chunk, false);
      Base::unpack_output(x.out, chunk);
    }
    store_state(matrix(a.final_state));
  }

  void backward() const {
    backward_values();
    backward_keys();
  }
  // Columns in the lanes, backwards in time, with G in the place of S: dv, du, dinitial.
  void backward_values() const {
    load_state(matrix(a.dfinal));
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int n = steps(chunk);
      pack(x.v, columns, a.d_v, a.grad, chunk, true);
      pack_query(chunk, true);
      pack_writes(chunk, true);
      pack(x.a, rows, a.d_k, a.read, chunk, true);
      for_column_blocks([&](auto wide, int64_t c) {
        backward_block<T, decltype(wide)::value, Writes>(S + c, columns, rows, x, c, n);
      });
      unpack(a.dv, x.out, columns, a.d_v, chunk, true);
      for (int t = 0; t < n; ++t)
        __builtin_memcpy(du + (Base::time(chunk, t, true) - Base::begin) * columns, x.extra + t * columns,
                         columns * sizeof(T));
    }
    store_state(matrix(a.dinitial));
  }

  // Rows in the lanes, a block of W at a time: dq, dk, da, db, dlog_decay.
  void backward_keys() const {
    const int64_t blocks = rows / W;
    for (int64_t block = 0; block < blocks; ++block)
      for (int64_t c = 0; c < columns; ++c) {
        checkpoints[block * columns + c] = lanes(initial(), block * W, c);
        G[block * columns + c] = lanes(matrix(a.dfinal), block * W, c);
      }
    state_passing();
    for (int64_t chunk = chunks - 1; chunk >= 0; --chunk) {
      pack_query(chunk, false);
      pack_writes(chunk, false);
      pack(x.a, rows, a.d_k, a.read, chunk, false);
      pack_written(chunk);
      pack(x.out, columns, a.d_v, a.grad, chunk, false);
      for (int64_t block = 0; block < blocks; ++block)
        differentiate_rows(checkpoints + (chunk * blocks + block) * columns, du + chunk * kChunk * columns, block,
                           steps(chunk));
      unpack(a.dq, dq, rows, a.d_k, chunk, false);
      unpack(a.dk, dk, rows, a.d_k, chunk, false);
      unpack(a.dread, da, rows, a.d_k, chunk, false);
      if (Writes) unpack(a.dwrite, db, rows, a.d_k, chunk, false);
      if (a.log_decay.width) Base::unpack_decay(ddecay, chunk);
    }
  }
  // S before every chunk, from that before the first one; every chunk but the last one is full.
  void state_passing() const {
    const int64_t blocks = rows / W;
    for (int64_t chunk = 0; chunk + 1 < chunks; ++chunk) {
      pack_writes(chunk, false);
      pack_written(chunk);
      Vec<T>* from = checkpoints + chunk * blocks * columns;
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t c = 0; c < columns; c += kColumns, from += kColumns) {
          Vec<T> s[kColumns];
#pragma GCC unroll 8
          for (int j = 0; j < kColumns; ++j) s[j] = from[j];
          for (int t = 0; t < kChunk; ++t) advance(s, t * rows + block * W, t * columns + c);
#pragma GCC unroll 8
          for (int j = 0; j < kColumns; ++j) from[blocks * columns + j] = s[j];
        }
    }
  }
  // The state after a token, whose row factors are at `line` and column factors at `at`.
  SEQCONV_INLINE void advance(Vec<T>* s, int64_t line, int64_t at) const {
    const Vec<T> kept = M::load(x.decay + line), k = M::load(x.k + line);
    const Vec<T> b = Writes ? M::load(x.b + line) : Vec<T>{};
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) {
      s[j] = s[j] * kept + k * x.v[at + j];
      if (Writes) s[j] += b * x.u[at + j];
    }
  }
  struct RowSums {
    Sums<T> q, k, a, b, decay;
  };
  // The gradients of a block of W rows over a chunk, summed over blocks of columns.
  void differentiate_rows(const Vec<T>* from, const T* du_rows, int64_t block, int n) const {
    RowSums sums{};
    for (int64_t c = 0; c < columns; c += kColumns) {
      chunk_scan(from + c, block * W, c, n, sums.q);
      chunk_backward(G + block * columns + c, du_rows, block * W, c, n, sums);
    }
    for (int t = 0; t < n; ++t) {
      const int64_t at = t * rows + block * W;
      M::store(dq + at, sums.q.of[t] * T(a.scale));
      M::store(dk + at, sums.k.of[t]);
      M::store(da + at, sums.a.of[t]);
      M::store(db + at, sums.b.of[t]);
      M::store(ddecay + at, sums.decay.of[t] * M::load(x.decay + at));
    }
  }
  // W rows and kColumns columns of S, in registers, through a chunk: dq = S do, and S before every token for the
  // adjoint.
  SEQCONV_INLINE void chunk_scan(const Vec<T>* from, int64_t row, int64_t c, int n, Sums<T>& sum) const {
    Vec<T> s[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) s[j] = from[j];
    for (int t = 0; t < n; ++t) {
      const int64_t at = t * columns + c;
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) states_before[t * kColumns + j] = s[j];
      advance(s, t * rows + row, at);
      Vec<T> even = sum.of[t], odd{};
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) (j % 2 ? odd : even) += s[j] * x.out[at + j];
      sum.of[t] = even + odd;
    }
  }
  // The adjoint over W rows and kColumns columns of a chunk, G in registers.
  SEQCONV_INLINE void chunk_backward(Vec<T>* later, const T* du_rows, int64_t row, int64_t c, int n,
                                     RowSums& sums) const {
    Vec<T> g[kColumns];
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) g[j] = later[j];
    for (int t = n - 1; t >= 0; --t) {
      const int64_t line = t * rows + row, at = t * columns + c;
      const Vec<T> q = M::load(x.q + line), read = M::load(x.a + line), kept = M::load(x.decay + line);
      const T *v = x.v + at, *u = x.u + at, *grad = x.out + at, *by_read = du_rows + at;
      Vec<T> of_k = sums.k.of[t], of_a = sums.a.of[t], of_b = sums.b.of[t], of_decay = sums.decay.of[t];
#pragma GCC unroll 8
      for (int j = 0; j < kColumns; ++j) {
        const Vec<T> before = states_before[t * kColumns + j];
        g[j] += q * grad[j];
        of_k += g[j] * v[j];
        if (Writes) of_b += g[j] * u[j];
        of_a += before * by_read[j];
        of_decay += before * g[j];
        g[j] = g[j] * kept + read * by_read[j];
      }
      sums.k.of[t] = of_k, sums.a.of[t] = of_a, sums.b.of[t] = of_b, sums.decay.of[t] = of_decay;
    }
#pragma GCC unroll 8
    for (int j = 0; j < kColumns; ++j) later[j] = g[j];
  }
};

template <bool Backward> Status run(const LinearAttentionArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) {
    using T = decltype(acc);
    return a.write.width ? run_heads<Head<T, true>, Backward>(a) : run_heads<Head<T, false>, Backward>(a);
  });
}

}  // namespace

Status dplr_delta_rule_forward(const LinearAttentionArgs& a) { return run<false>(a); }
Status dplr_delta_rule_backward(const LinearAttentionArgs& a) { return run<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
