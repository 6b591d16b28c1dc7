// Vandermonde product: impulse responses of diagonal state spaces,
//
//   k[l] = sum_n Re(r_n z_n^l),   z = exp(log_pole),   per head and channel, l < length
//
// on two levels: with l = F i + j (F taps of a fine row) the powers factor, z^l = (z^F)^i z^j, and per channel all taps
// are one small real matrix product
//
//   k[F i + j] = sum_n Re(r_n z_n^(F i)) Re(z_n^j) - Im(r_n z_n^(F i)) Im(z_n^j),
//
// two multiplications per pole and tap, where every power by itself would take a complex one and drift. The powers run
// in double and are rounded once, so the phase of a long response has no accumulated error. The adjoint:
//
//   dr_n = conj(sum_l dk_l z_n^l)      dlog z_n = conj(r_n sum_l l dk_l z_n^l)
//
// whose inner sums over j are the same product with the powers z^j and j z^j, and whose outer sums over i run in
// double.
//
// Work: an item is one channel with all its heads. The table `right` of fine powers is written once per channel (lanes:
// taps forward, poles backward); kRows coarse rows at a time are multiplied with it in register blocks of kRows by two
// vectors. The fine rows are about as many as the coarse ones, so that both tables are small and in the cache.
#include "../../_cpp/complex.hpp"
#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"
#include "kernel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kTermsWorthThreads = 1 << 19;  // poles times taps
constexpr int kWide = Lanes<double>::count;
constexpr int kPad = 16;                       // numbers: a multiple of every lane count
constexpr int kRows = kManyRegisters ? 8 : 4;  // coarse rows of a product: kRows x 2 accumulators in registers

inline int64_t pad(int64_t n) { return round_up(n, kPad); }

// Stores W doubles rounded to T, and loads them.
typedef float half __attribute__((vector_size(kBytes / 2)));
SEQCONV_INLINE void narrow(float* p, Vec<double> v) {
  const half h = __builtin_convertvector(v, half);
  __builtin_memcpy(p, &h, sizeof h);
}
SEQCONV_INLINE void narrow(double* p, Vec<double> v) { __builtin_memcpy(p, &v, kBytes); }
SEQCONV_INLINE Vec<double> widen(const float* p) {
  half h;
  __builtin_memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, Vec<double>);
}
SEQCONV_INLINE Vec<double> widen(const double* p) { return Memory<double, double>::load(p); }

using Number = Complex<double>;

// One complex number per pole, in lanes of poles.
struct Numbers {
  double *re, *im;
  SEQCONV_INLINE Number at(int64_t n) const { return {widen(re + n), widen(im + n)}; }
  SEQCONV_INLINE void set(int64_t n, Number z) const { narrow(re + n, z.re), narrow(im + n, z.im); }
  void fill(int64_t count, double real) const {
    for (int64_t n = 0; n < count; ++n) re[n] = real, im[n] = 0;
  }
};

// A register block of a product: columns of V vectors of R rows, sum_k left[r][k] right[k][c].
template <class T, int R, int V, class Emit>
SEQCONV_INLINE void tile(const T* left, int64_t left_row, const T* right, int64_t right_row, int64_t depth, Emit emit) {
  constexpr int W = Lanes<T>::count;
  Vec<T> sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[r][v] = Vec<T>{};
  for (int64_t k = 0; k < depth; ++k, right += right_row) {
    Vec<T> b[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) b[v] = Memory<T, T>::load(right + v * W);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[r][v] += left[r * left_row + k] * b[v];
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) emit(r, v * W, sums[r][v]);
}

// R rows of a product, all columns.
template <class T, int R, class Emit>
void rows_of_product(const T* left, int64_t left_row, const T* right, int64_t right_row, int64_t depth, int64_t columns,
                     Emit emit) {
  constexpr int W = Lanes<T>::count;
  int64_t c = 0;
  for (; c + 2 * W <= columns; c += 2 * W)
    tile<T, R, 2>(left, left_row, right + c, right_row, depth, [&](int r, int v, Vec<T> s) { emit(r, c + v, s); });
  if (c < columns)
    tile<T, R, 1>(left, left_row, right + c, right_row, depth, [&](int r, int v, Vec<T> s) { emit(r, c + v, s); });
}

// left (rows <= kRows, depth) times right (depth, columns); columns is a multiple of the lanes.
template <class T, class Emit>
void product(const T* left, int64_t left_row, int64_t rows, const T* right, int64_t right_row, int64_t depth,
             int64_t columns, Emit emit) {
  int64_t first = 0;
  const auto some = [&](auto count) {
    constexpr int R = decltype(count)::value;
    for (; first + R <= rows; first += R)
      rows_of_product<T, R>(left + first * left_row, left_row, right, right_row, depth, columns,
                            [&](int r, int64_t c, Vec<T> s) { emit(first + r, c, s); });
  };
  some(Constant<kRows>{}), some(Constant<2>{}), some(Constant<1>{});
}

// F, taps of a fine row: about the square root of all taps of a channel, which makes both tables equally small.
int64_t fine_taps(const VandermondeArgs& a) {
  int64_t fine = kPad;
  while (fine * fine < a.heads * a.length) fine *= 2;
  return fine;
}

// The work on a channel. Its scratch is zero at first: vectors reach past the last pole, and what is there must be
// finite.
template <class T> struct Channel {
  static constexpr int W = Lanes<T>::count;
  const VandermondeArgs& a;
  const int64_t n, depth, fine, coarse, columns, right_row;
  Numbers step, leap, current, sum, moment;  // z, z^F, a running power, and the sums of dk z^l and l dk z^l
  T *left, *right;

  static int64_t table_columns(const VandermondeArgs& a, bool backward) {
    return backward ? pad(2 * a.components * a.d_state) : fine_taps(a);
  }
  static int64_t table_rows(const VandermondeArgs& a, bool backward) {
    return backward ? fine_taps(a) : a.components * a.d_state;
  }
  // Rows are padded: at a distance of a power of two they would share a few sets of the cache.
  static int64_t table_stride(const VandermondeArgs& a, bool backward) { return table_columns(a, backward) + kPad; }
  static int64_t left_elements(const VandermondeArgs& a, bool backward) {
    return pad(kRows * (backward ? table_stride(a, true) : a.components * a.d_state) + kPad);
  }
  static size_t scratch_bytes(const VandermondeArgs& a, bool backward) {
    const int64_t table = table_rows(a, backward) * table_stride(a, backward) + kPad;
    return sizeof(double) * 10 * pad(a.d_state) + sizeof(T) * (left_elements(a, backward) + table);
  }

  Channel(const VandermondeArgs& args, bool backward, void* scratch)
      : a(args), n(args.d_state), depth(args.components * args.d_state), fine(fine_taps(args)),
        coarse((args.length + fine - 1) / fine), columns(table_columns(args, backward)),
        right_row(table_stride(args, backward)) {
    double* p = (double*)scratch;
    for (Numbers* x : {&step, &leap, &current, &sum, &moment}) {
      *x = {p, p + pad(n)};
      p += 2 * pad(n);
    }
    left = (T*)p;
    right = left + left_elements(args, backward);
  }

  void read_poles(int64_t c) const {
    const T* log_pole = (const T*)a.log_poles + c * n * a.components;
    for (int64_t i = 0; i < n; ++i, log_pole += a.components) {
      const double re = log_pole[0], im = a.components == 2 ? log_pole[1] : 0.0;
      const double size = __builtin_exp(re), leap_size = __builtin_exp(re * double(fine));
      const double turn = im * double(fine);
      step.re[i] = size * __builtin_cos(im), step.im[i] = size * __builtin_sin(im);
      leap.re[i] = leap_size * __builtin_cos(turn), leap.im[i] = leap_size * __builtin_sin(turn);
    }
  }
  void advance(const Numbers& by) const {
    for (int64_t i = 0; i < n; i += kWide) current.set(i, current.at(i) * by.at(i));
  }

  // right[n][j] = Re z_n^j, right[N + n][j] = Im z_n^j; lanes of j.
  void write_fine_powers() const {
    for (int64_t i = 0; i < n; ++i) {
      double re = 1, im = 0, next;
      Number z;
      for (int lane = 0; lane < kWide; ++lane) {
        z.re[lane] = re, z.im[lane] = im;
        next = re * step.re[i] - im * step.im[i], im = re * step.im[i] + im * step.re[i], re = next;
      }
      const Number jump = {splat(re), splat(im)};
      T *real = right + i * right_row, *imaginary = right + (n + i) * right_row;
      for (int64_t j = 0; j < fine; j += kWide, z = z * jump) {
        narrow(real + j, z.re);
        if (a.components == 2) narrow(imaginary + j, z.im);
      }
    }
  }
  // current = r, which the coarse rows multiply by z^F each.
  void read_residues(const T* residues) const {
    for (int64_t i = 0; i < n; ++i)
      current.re[i] = residues[i * a.components], current.im[i] = a.components == 2 ? residues[i * 2 + 1] : T(0);
  }
  void forward(int64_t c) const {
    read_poles(c);
    write_fine_powers();
    for (int64_t h = 0; h < a.heads; ++h) {
      read_residues((const T*)a.residues + (h * a.channels + c) * depth);
      T* taps = (T*)a.taps + (h * a.channels + c) * a.length;
      for (int64_t i = 0; i < coarse; i += kRows) {
        const int64_t rows = min(kRows, coarse - i);
        // What a vector writes past the last pole is overwritten by the imaginary parts or the next row.
        for (int64_t r = 0; r < rows; ++r, advance(leap)) {
          T* row = left + r * depth;
          for (int64_t k = 0; k < n; k += kWide) narrow(row + k, current.at(k).re);
          if (a.components == 1) continue;
          for (int64_t k = 0; k < n; k += kWide) narrow(row + n + k, -current.at(k).im);
        }
        product<T>(left, depth, rows, right, right_row, depth, columns, [&](int64_t r, int64_t j, Vec<T> k) {
          const int64_t lag = (i + r) * fine + j;
          if (lag < a.length) store<T, T>(taps + lag, k, int(min(W, a.length - lag)));
        });
      }
    }
  }

  // right[j] = [Re z^j, Im z^j, j Re z^j, j Im z^j], each over all poles; lanes of poles.
  void write_fine_moments() const {
    current.fill(n, 1);
    for (int64_t j = 0; j < fine; ++j, advance(step)) {
      T* row = right + j * right_row;
      for (int64_t moment_order = 0; moment_order < 2; ++moment_order) {
        const double factor = moment_order ? double(j) : 1.0;
        for (int64_t k = 0; k < n; k += kWide) narrow(row + k, factor * current.at(k).re);
        row += n;
        if (a.components == 1) continue;
        for (int64_t k = 0; k < n; k += kWide) narrow(row + k, factor * current.at(k).im);
        row += n;
      }
    }
  }
  Number inner(const T* sums, int64_t k) const {
    return {widen(sums + k), a.components == 2 ? widen(sums + n + k) : Vec<double>{}};
  }
  // Adds coarse rows i .. i + rows of dk, `taps_of_row` taps each: with p = (z^F)^i, `plain` and `weighted` the inner
  // sums with z^j and j z^j, sum += p plain, and moment += p (F i plain + weighted), since l = F i + j.
  void add_rows(const T* dtaps, int64_t i, int64_t rows, int64_t taps_of_row) const {
    product<T>(dtaps + i * fine, fine, rows, right, right_row, taps_of_row, columns,
               [&](int64_t r, int64_t c, Vec<T> s) { Memory<T, T>::store(left + r * right_row + c, s); });
    for (int64_t r = 0; r < rows; ++r) {
      const T* sums = left + r * right_row;
      const double lag = double((i + r) * fine);
      for (int64_t k = 0; k < n; k += kWide) {
        const Number power = current.at(k), plain = inner(sums, k);
        const Number weighted = inner(sums + depth, k);
        const Number s = power * plain, m = power * Number{lag * plain.re + weighted.re, lag * plain.im + weighted.im};
        sum.set(k, {sum.at(k).re + s.re, sum.at(k).im + s.im});
        moment.set(k, {moment.at(k).re + m.re, moment.at(k).im + m.im});
      }
      advance(leap);
    }
  }
  void backward(int64_t c) const {
    read_poles(c);
    write_fine_moments();
    T* dlog_poles = (T*)a.dlog_poles + c * depth;
    for (int64_t k = 0; k < depth; ++k) dlog_poles[k] = T(0);
    for (int64_t h = 0; h < a.heads; ++h) {
      const int64_t at = h * a.channels + c;
      const T* dtaps = (const T*)a.dtaps + at * a.length;
      current.fill(n, 1), sum.fill(n, 0), moment.fill(n, 0);
      const int64_t whole = a.length / fine;
      for (int64_t i = 0; i < whole; i += kRows) add_rows(dtaps, i, min(kRows, whole - i), fine);
      if (whole < coarse) add_rows(dtaps, whole, 1, a.length - whole * fine);
      finish((const T*)a.residues + at * depth, (T*)a.dresidues + at * depth, dlog_poles);
    }
  }
  // dr and this head's share of dlog z.
  void finish(const T* residues, T* dresidues, T* dlog_poles) const {
    for (int64_t i = 0; i < n; ++i) {
      const double sr = sum.re[i], si = sum.im[i], mr = moment.re[i], mi = moment.im[i];
      const double re = residues[i * a.components], im = a.components == 2 ? double(residues[i * 2 + 1]) : 0.0;
      dresidues[i * a.components] = T(sr);
      dlog_poles[i * a.components] += T(re * mr - im * mi);
      if (a.components == 1) continue;
      dresidues[i * 2 + 1] = T(-si);
      dlog_poles[i * 2 + 1] -= T(re * mi + im * mr);
    }
  }
};

template <bool Backward> Status run(const VandermondeArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) {
    using Work = Channel<decltype(acc)>;
    const int64_t terms = a.heads * a.channels * a.d_state * a.length;
    const int threads = thread_count(a.threads, a.channels, terms, kTermsWorthThreads);
    const auto work = [&](int64_t c, void* scratch) {
      const Work channel(a, Backward, scratch);
      if constexpr (Backward) channel.backward(c);
      else channel.forward(c);
    };
    return for_each_item(a.channels, threads, Work::scratch_bytes(a, Backward), work, /*zeroed=*/true);
  });
}

}  // namespace

Status vandermonde_forward(const VandermondeArgs& a) { return run<false>(a); }
Status vandermonde_backward(const VandermondeArgs& a) { return run<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
