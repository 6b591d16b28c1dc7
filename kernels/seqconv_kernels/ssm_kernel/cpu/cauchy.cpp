// Cauchy product of conjugate pairs: transfer functions of diagonal state spaces at the frequencies f of a real
// transform,
//
//   r[f] = sum_n v_n / (i tau_f - pole_n) + conj(v_n) / (i tau_f - conj(pole_n)),   tau_f = 2 tan(pi f / L)
//
// per head and channel, times cos(pi f / L), which `nodes` contain. With pole = rho + i omega a pair is
//
//   (2i tau Re(v) - 2 Re(v conj(pole))) / (D - 2i tau rho),   D = rho^2 - (tau - |omega|) (tau + |omega|),
//
// one reciprocal of a real number, q = 1 / (D^2 + 4 rho^2 tau^2), per pair and frequency. With u = Re(v) and
// w = Re(v conj(pole)) real and imaginary parts of r are factors of f times the four sums over pairs of
//
//   u D q      w D q      u rho q      w rho q
//
// The difference tau - |omega| is taken with tau in two parts: near a resonance its rounding would be that of the
// result. The frequency without a cosine (tau infinite) is the limit -i sum Re(v).
//
// The adjoint: with g the gradients at the four sums, du = sum_f g_uD D q + rho g_uR q and so on, and for the pole
// through D and through 4 rho^2 tau^2, whose gradients are
//   by_D = q (m - 2 D (m D q + p q))      by_square = q (m D q + p q) tau^2
// with m = sum over heads of g_uD u + g_wD w and p = sum of g_uR u rho + g_wR w rho.
//
// Work: an item is one channel. Frequencies are in the lanes. Forward: for each vector of frequencies all pairs, the
// sums in registers, kHeads heads together, which share the reciprocals. Backward: for each pair a chunk of
// frequencies, the sums in registers, and over chunks in double, lane by lane.
#include "../../_cpp/dispatch.hpp"
#include "../../_cpp/parallel.hpp"
#include "kernel.hpp"

namespace seqconv::SEQCONV_ISA {
namespace {

constexpr int64_t kTermsWorthThreads = 1 << 18;  // pairs times frequencies
constexpr int64_t kChunk = 512;  // frequencies of a backward chunk, whose gradients stay in the first-level cache
constexpr int kHeads = kManyRegisters ? 2 : 1;  // 4 sums each, with the operands, fit the registers

// Numbers that are broadcast: of a pole |omega|, rho^2 and 4 rho^2; of a pole and a head u, w, and both times rho.
enum { kOmega, kRho2, kRho4, kPoleNumbers };
enum { kU, kW, kURho, kWRho, kHeadNumbers };

// D and q of one pole at one vector of frequencies.
template <class T> struct Resolvent {
  Vec<T> D, inverse;
  SEQCONV_INLINE Resolvent(const T* pole, Vec<T> high, Vec<T> low, Vec<T> square) {
    D = pole[kRho2] - ((high - pole[kOmega]) + low) * (high + pole[kOmega]);
    inverse = T(1) / (D * D + pole[kRho4] * square);
  }
};

// The work on a channel: per pole kPoleNumbers numbers, per pole and head kHeadNumbers; weights are the gradients at
// the four sums of every head over a chunk of frequencies.
template <class T> struct Channel {
  static constexpr int W = Lanes<T>::count;
  const CauchyArgs& a;
  const int64_t n;
  const T *high, *low, *square, *of_w, *of_u_rho, *of_u, *of_w_rho;
  double* sums;  // backward: per pole, number and lane
  T *poles, *heads, *weights;

  static constexpr int kSums = kHeadNumbers * kHeads + 2;
  static size_t scratch_bytes(const CauchyArgs& a) {
    const size_t numbers = kPoleNumbers + kHeadNumbers * kHeads;
    return sizeof(double) * a.d_state * kSums * W + sizeof(T) * (a.d_state * numbers + kHeadNumbers * kHeads * kChunk);
  }
  Channel(const CauchyArgs& args, void* scratch) : a(args), n(args.d_state) {
    const T* row = (const T*)a.nodes;
    for (const T** x : {&high, &low, &square, &of_w, &of_u_rho, &of_u, &of_w_rho}) *x = row, row += a.padded;
    sums = (double*)scratch;
    weights = (T*)(sums + n * kSums * W);
    poles = weights + kHeadNumbers * kHeads * kChunk;
    heads = poles + n * kPoleNumbers;
  }

  void read_poles(int64_t c) const {
    const T* pole = (const T*)a.poles + c * n * 2;
    for (int64_t i = 0; i < n; ++i) {
      const double rho = pole[2 * i], omega = pole[2 * i + 1];
      T* to = poles + i * kPoleNumbers;
      to[kOmega] = T(omega < 0 ? -omega : omega), to[kRho2] = T(rho * rho), to[kRho4] = T(4 * rho * rho);
    }
  }
  template <int H> void read_heads(int64_t c, int64_t head) const {
    const T* pole = (const T*)a.poles + c * n * 2;
    for (int64_t i = 0; i < n; ++i)
      for (int h = 0; h < H; ++h) {
        const T* v = (const T*)a.v + (((head + h) * a.channels + c) * n + i) * 2;
        const double rho = pole[2 * i], omega = pole[2 * i + 1], w = v[0] * rho + v[1] * omega;
        T* to = heads + (i * H + h) * kHeadNumbers;
        to[kU] = v[0], to[kW] = T(w), to[kURho] = T(v[0] * rho), to[kWRho] = T(w * rho);
      }
  }
  T* result(const void* r, int64_t head, int64_t c) const {
    return (T*)r + (head * a.channels + c) * a.frequencies() * 2;
  }

  // r of H heads.
  template <int H> void forward(int64_t c, int64_t head) const {
    read_heads<H>(c, head);
    for (int64_t f = 0; f < a.regular(); f += W) {
      const auto at = [&](const T* row) { return Memory<T, T>::load(row + f); };
      const Vec<T> t = at(high), t_low = at(low), t2 = at(square);
      Vec<T> s[H][kHeadNumbers];
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
        for (int k = 0; k < kHeadNumbers; ++k) s[h][k] = Vec<T>{};
      const T *pole = poles, *number = heads;
      for (int64_t i = 0; i < n; ++i, pole += kPoleNumbers) {
        const Resolvent<T> x(pole, t, t_low, t2);
        const Vec<T> weighted = x.D * x.inverse;
#pragma GCC unroll 4
        for (int h = 0; h < H; ++h, number += kHeadNumbers) {
          s[h][kU] += number[kU] * weighted;
          s[h][kW] += number[kW] * weighted;
          s[h][kURho] += number[kURho] * x.inverse;
          s[h][kWRho] += number[kWRho] * x.inverse;
        }
      }
      const int count = int(min(W, a.regular() - f));
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h)
        write(result(a.r, head + h, c) + 2 * f, at(of_u_rho) * s[h][kURho] + at(of_w) * s[h][kW],
              at(of_u) * s[h][kU] + at(of_w_rho) * s[h][kWRho], count);
    }
    if (a.frequencies() == a.regular()) return;
    for (int h = 0; h < H; ++h) {
      double u = 0;
      for (int64_t i = 0; i < n; ++i) u += heads[(i * H + h) * kHeadNumbers + kU];
      T* last = result(a.r, head + h, c) + 2 * a.regular();
      last[0] = T(0), last[1] = T(-u);
    }
  }
  // Interleaves real and imaginary parts.
  static SEQCONV_INLINE void write(T* to, Vec<T> re, Vec<T> im, int count) {
    T parts[2][W];
    Memory<T, T>::store(parts[0], re), Memory<T, T>::store(parts[1], im);
    if (count == W)
      for (int i = 0; i < W; ++i) to[2 * i] = parts[0][i], to[2 * i + 1] = parts[1][i];
    else
      for (int i = 0; i < count; ++i) to[2 * i] = parts[0][i], to[2 * i + 1] = parts[1][i];
  }

  // The gradients at the four sums of every head, over a chunk of frequencies from f on; zero past the last.
  template <int H> void weigh(int64_t c, int64_t head, int64_t f, int64_t count, int64_t filled) const {
    for (int h = 0; h < H; ++h) {
      const T* dr = result(a.dr, head + h, c) + 2 * f;
      T* to = weights + h * kHeadNumbers * kChunk;
      for (int64_t i = 0; i < filled; ++i) {
        const T re = i < count ? dr[2 * i] : T(0), im = i < count ? dr[2 * i + 1] : T(0);
        to[kU * kChunk + i] = of_u[f + i] * im;
        to[kW * kChunk + i] = of_w[f + i] * re;
        to[kURho * kChunk + i] = of_u_rho[f + i] * re;
        to[kWRho * kChunk + i] = of_w_rho[f + i] * im;
      }
    }
  }
  template <int H> void backward(int64_t c, int64_t head) const {
    read_heads<H>(c, head);
    __builtin_memset(sums, 0, sizeof(double) * n * kSums * W);
    for (int64_t f = 0; f < a.regular(); f += kChunk) {
      const int64_t count = min(kChunk, a.regular() - f), filled = round_up(count, W);
      weigh<H>(c, head, f, count, filled);
      for (int64_t i = 0; i < n; ++i) add_chunk<H>(i, f, filled);
    }
    finish<H>(c, head);
  }
  // Adds a chunk of frequencies to the sums of pole i.
  template <int H> void add_chunk(int64_t i, int64_t first, int64_t count) const {
    const T *pole = poles + i * kPoleNumbers, *number = heads + i * H * kHeadNumbers;
    Vec<T> s[H][kHeadNumbers], by_D{}, by_square{};
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
      for (int k = 0; k < kHeadNumbers; ++k) s[h][k] = Vec<T>{};
    for (int64_t f = 0; f < count; f += W) {
      const auto at = [&](const T* row) { return Memory<T, T>::load(row + first + f); };
      const Vec<T> t2 = at(square);
      const Resolvent<T> x(pole, at(high), at(low), t2);
      const Vec<T> weighted = x.D * x.inverse;
      Vec<T> at_weighted{}, at_inverse{};
#pragma GCC unroll 4
      for (int h = 0; h < H; ++h) {
        const auto weight = [&](int k) { return Memory<T, T>::load(weights + (h * kHeadNumbers + k) * kChunk + f); };
        const T* own = number + h * kHeadNumbers;
        const Vec<T> gu = weight(kU), gw = weight(kW), gur = weight(kURho), gwr = weight(kWRho);
        s[h][kU] += gu * weighted;
        s[h][kW] += gw * weighted;
        s[h][kURho] += gur * x.inverse;
        s[h][kWRho] += gwr * x.inverse;
        at_weighted += gu * own[kU] + gw * own[kW];
        at_inverse += gur * own[kURho] + gwr * own[kWRho];
      }
      const Vec<T> q = at_weighted * weighted + at_inverse * x.inverse;
      by_D += x.inverse * (at_weighted - T(2) * x.D * q);
      by_square += x.inverse * q * t2;
    }
    double* to = sums + i * kSums * W;
    const auto add = [&](Vec<T> v) {
      for (int lane = 0; lane < W; ++lane) to[lane] += double(v[lane]);
      to += W;
    };
#pragma GCC unroll 4
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 4
      for (int k = 0; k < kHeadNumbers; ++k) add(s[h][k]);
    add(by_D), add(by_square);
  }
  // dv and dpoles from the sums, in double.
  template <int H> void finish(int64_t c, int64_t head) const {
    const bool even = a.frequencies() != a.regular();
    for (int64_t i = 0; i < n; ++i) {
      const auto sum = [&](int k) {
        double total = 0;
        for (int lane = 0; lane < W; ++lane) total += sums[(i * kSums + k) * W + lane];
        return total;
      };
      const T* pole = (const T*)a.poles + (c * n + i) * 2;
      const double rho = pole[0], omega = pole[1];
      const double by_D = sum(H * kHeadNumbers), by_square = sum(H * kHeadNumbers + 1);
      double drho = 2 * rho * by_D - 8 * rho * by_square, domega = 2 * omega * by_D;
      for (int h = 0; h < H; ++h) {
        const int k = h * kHeadNumbers;
        const int64_t at = ((head + h) * a.channels + c) * n + i;
        const T *v = (const T*)a.v + at * 2, *own = heads + (i * H + h) * kHeadNumbers;
        const double by_u_rho = sum(k + kURho), by_w_rho = sum(k + kWRho), dw = sum(k + kW) + rho * by_w_rho;
        const double at_last = even ? double(result(a.dr, head + h, c)[2 * a.regular() + 1]) : 0.0;
        T* dv = (T*)a.dv + at * 2;
        dv[0] = T(sum(k + kU) + rho * by_u_rho + rho * dw - at_last), dv[1] = T(omega * dw);
        drho += own[kU] * by_u_rho + own[kW] * by_w_rho + v[0] * dw;
        domega += v[1] * dw;
      }
      T* dpole = (T*)a.dpoles + (c * n + i) * 2;
      dpole[0] += T(drho), dpole[1] += T(domega);
    }
  }

  template <bool Backward> void all_heads(int64_t c) const {
    read_poles(c);
    if (Backward && n > 0) __builtin_memset((T*)a.dpoles + c * n * 2, 0, sizeof(T) * n * 2);
    int64_t head = 0;
    const auto some = [&](auto count) {
      constexpr int H = decltype(count)::value;
      for (; head + H <= a.heads; head += H)
        if constexpr (Backward) backward<H>(c, head);
        else forward<H>(c, head);
    };
    some(Constant<kHeads>{}), some(Constant<1>{});
  }
};

template <bool Backward> Status run(const CauchyArgs& a) {
  return dispatch_accumulation(a.dtype, [&](auto acc) {
    using Work = Channel<decltype(acc)>;
    const int64_t terms = a.heads * a.channels * a.d_state * a.frequencies();
    const int threads = thread_count(a.threads, a.channels, terms, kTermsWorthThreads);
    return for_each_item(a.channels, threads, Work::scratch_bytes(a), [&](int64_t c, void* scratch) {
      Work(a, scratch).template all_heads<Backward>(c);
    });
  });
}

}  // namespace

Status cauchy_forward(const CauchyArgs& a) { return run<false>(a); }
Status cauchy_backward(const CauchyArgs& a) { return run<true>(a); }

}  // namespace seqconv::SEQCONV_ISA
