// Complex numbers of W lanes: real and imaginary parts in vectors of their own.
#pragma once

#include "vec.hpp"

namespace seqconv::SEQCONV_ISA {

template <class T> struct Complex {
  Vec<T> re, im;
};
template <class T> SEQCONV_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T> SEQCONV_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T> SEQCONV_INLINE Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T> SEQCONV_INLINE Complex<T> conj_times(Complex<T> a, Complex<T> b) {  // conj(a) b
  return {a.re * b.re + a.im * b.im, a.re * b.im - a.im * b.re};
}
template <class T> SEQCONV_INLINE Complex<T> times_i(Complex<T> a) { return {-a.im, a.re}; }

// a times the number (re, im), its conjugate, and a real number scaled by (re, im), the same for all lanes.
template <class T> SEQCONV_INLINE Complex<T> rotate(Complex<T> a, T re, T im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
template <class T> SEQCONV_INLINE Complex<T> rotate_conj(Complex<T> a, T re, T im) {
  return {a.re * re + a.im * im, a.im * re - a.re * im};
}
template <class T> SEQCONV_INLINE Complex<T> rotate(Vec<T> a, T re, T im) { return {a * re, a * im}; }

}  // namespace seqconv::SEQCONV_ISA
