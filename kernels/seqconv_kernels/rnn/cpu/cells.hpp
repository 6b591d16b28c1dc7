// The recurrent cells, one vector of neighbouring channels at a time; equations in cells.py.
//
// forward: x and r are the gates' inputs and recurrent products; `states` is replaced, h first; `saved` is what the
// backward pass wants. backward: `before` are the states before the token as far as `from` says where they were saved
// (-1: among the outputs); `d` holds the gradients of the states after the token and receives those of the states
// before it, but for what flows through the recurrent product: that is dr, the gradient of r.
#pragma once

#include "../../_cpp/vec.hpp"
#include "kernel.hpp"

namespace seqconv::SEQCONV_ISA {

// Gradients at the input of an activation, from that of its value.
template <class T> SEQCONV_INLINE Vec<T> through_sigmoid(Vec<T> grad, Vec<T> s) { return grad * s * (T(1) - s); }
template <class T> SEQCONV_INLINE Vec<T> through_tanh(Vec<T> grad, Vec<T> y) { return grad * (T(1) - y * y); }

template <class T> struct Lstm {
  static constexpr RnnSizes sizes = kRnnSizes[int(RnnCell::lstm)];
  static constexpr int recorded = 2, from[recorded] = {-1, 4};

  static SEQCONV_INLINE void forward(const Vec<T>* x, const Vec<T>* r, Vec<T>* states, Vec<T>* saved) {
    saved[0] = sigmoid<T>(x[0] + r[0]), saved[1] = sigmoid<T>(x[1] + r[1]);
    saved[2] = tanh<T>(x[2] + r[2]), saved[3] = sigmoid<T>(x[3] + r[3]);
    saved[4] = states[1] = saved[1] * states[1] + saved[0] * saved[2];
    states[0] = saved[3] * tanh<T>(states[1]);
  }
  static SEQCONV_INLINE void backward(const Vec<T>* saved, const Vec<T>* before, Vec<T>, Vec<T>* d, Vec<T>* dx,
                                      Vec<T>* dr) {
    const Vec<T> i = saved[0], f = saved[1], z = saved[2], o = saved[3], squashed = tanh<T>(saved[4]);
    const Vec<T> dc = d[1] + through_tanh<T>(d[0] * o, squashed);
    dx[0] = dr[0] = through_sigmoid<T>(dc * z, i), dx[1] = dr[1] = through_sigmoid<T>(dc * before[1], f);
    dx[2] = dr[2] = through_tanh<T>(dc * i, z), dx[3] = dr[3] = through_sigmoid<T>(d[0] * squashed, o);
    d[0] = Vec<T>{}, d[1] = dc * f;
  }
};

template <class T> struct Gru {
  static constexpr RnnSizes sizes = kRnnSizes[int(RnnCell::gru)];
  static constexpr int recorded = 1, from[recorded] = {-1};

  static SEQCONV_INLINE void forward(const Vec<T>* x, const Vec<T>* r, Vec<T>* states, Vec<T>* saved) {
    const Vec<T> reset = sigmoid<T>(x[0] + r[0]), update = sigmoid<T>(x[1] + r[1]), fresh = tanh<T>(x[2] + reset * r[2]);
    saved[0] = reset, saved[1] = update, saved[2] = fresh, saved[3] = r[2];
    states[0] = update * states[0] + (T(1) - update) * fresh;
  }
  static SEQCONV_INLINE void backward(const Vec<T>* saved, const Vec<T>* before, Vec<T>, Vec<T>* d, Vec<T>* dx,
                                      Vec<T>* dr) {
    const Vec<T> reset = saved[0], update = saved[1], fresh = saved[2];
    dx[2] = through_tanh<T>(d[0] * (T(1) - update), fresh), dr[2] = dx[2] * reset;
    dx[0] = dr[0] = through_sigmoid<T>(dx[2] * saved[3], reset);
    dx[1] = dr[1] = through_sigmoid<T>(d[0] * (before[0] - fresh), update);
    d[0] = d[0] * update;
  }
};

template <class T> struct Elman {
  static constexpr RnnSizes sizes = kRnnSizes[int(RnnCell::elman)];
  static constexpr int recorded = 1, from[recorded] = {-1};

  static SEQCONV_INLINE void forward(const Vec<T>* x, const Vec<T>* r, Vec<T>* states, Vec<T>*) {
    states[0] = tanh<T>(x[0] + r[0]);
  }
  static SEQCONV_INLINE void backward(const Vec<T>*, const Vec<T>*, Vec<T> h, Vec<T>* d, Vec<T>* dx, Vec<T>* dr) {
    dx[0] = dr[0] = through_tanh<T>(d[0], h), d[0] = Vec<T>{};
  }
};

template <class T> struct Slstm {
  static constexpr RnnSizes sizes = kRnnSizes[int(RnnCell::slstm)];
  static constexpr int recorded = 3, from[recorded] = {-1, 4, 5};

  static SEQCONV_INLINE void forward(const Vec<T>* x, const Vec<T>* r, Vec<T>* states, Vec<T>* saved) {
    const Vec<T> i = x[0] + r[0], f = x[1] + r[1], n = states[2];
    // log σ(f) + m', where log σ(f) = min(f, 0) - log(1 + exp(-|f|)).
    const Vec<T> kept = states[3] - maximum<T>(-f, Vec<T>{}) - log1p_unit(exp<T>(minus_magnitude<T>(f)));
    const Vec<T> m = ((n == 0) | (kept < i)) ? i : kept, above = exp<T>(kept - m);
    saved[0] = exp<T>(i - m), saved[1] = (above > 1) ? splat<T>(T(1)) : above;
    saved[2] = tanh<T>(x[2] + r[2]), saved[3] = sigmoid<T>(x[3] + r[3]);
    const Vec<T> sum = saved[1] * n + saved[0];
    saved[4] = states[1] = saved[1] * states[1] + saved[0] * saved[2];
    saved[5] = states[2] = (sum < 1) ? splat<T>(T(1)) : sum;
    saved[6] = T(1) / (T(1) + exp<T>(f));  // the derivative of log σ(f)
    states[3] = m, states[0] = saved[3] * states[1] / states[2];
  }
  // An input gate of exactly one is that of the maximum, which then is the stabiliser m.
  static SEQCONV_INLINE void backward(const Vec<T>* saved, const Vec<T>* before, Vec<T> h, Vec<T>* d, Vec<T>* dx,
                                      Vec<T>* dr) {
    const Vec<T> input = saved[0], forget = saved[1], z = saved[2], o = saved[3], c = saved[4], n = saved[5];
    const Vec<T> dc = d[1] + d[0] * o / n, dn_all = d[2] - d[0] * h / n;
    const Vec<T> dn = (forget * before[2] + input < 1) ? Vec<T>{} : dn_all;
    const Vec<T> di = (dc * z + dn) * input, df = (dc * before[1] + dn * before[2]) * forget, dm = d[3] - di - df;
    const auto from_input = input == 1;
    dx[0] = dr[0] = di + (from_input ? dm : Vec<T>{});
    const Vec<T> dkept = df + (from_input ? Vec<T>{} : dm);
    dx[1] = dr[1] = dkept * saved[6], dx[2] = dr[2] = through_tanh<T>(dc * input, z);
    dx[3] = dr[3] = through_sigmoid<T>(d[0] * c / n, o);
    d[0] = Vec<T>{}, d[1] = dc * forget, d[2] = dn * forget, d[3] = dkept;
  }
};

}  // namespace seqconv::SEQCONV_ISA
