// Arguments of a tile of an online convolution by FFT, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// "acc" throughout: float or double.
struct FftTileArgs {
  Dtype dtype;
  int64_t batch, size, heads, channels;  // size: a power of two, at least 4
  const void* tables;                    // of twiddles, table_elements(size)
  const void* taps;                      // (channels, tap_count), lag 0 first; for the spectrum only
  int64_t tap_count, taps_stride;        // at most 2 size
  void* spectrum;                        // (2, size, channels): real and imaginary parts
  Rows x;                                // (batch, size, heads channels)
  void* sums;                            // (batch, size, heads channels), added to
  int64_t sums_batch, sums_time;
  int threads;
};

SEQCONV_DECLARE(Status fft_tile_spectrum(const FftTileArgs&))
SEQCONV_DECLARE(Status fft_tile(const FftTileArgs&))

}  // namespace seqconv
