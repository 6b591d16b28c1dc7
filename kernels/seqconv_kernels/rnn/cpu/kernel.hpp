// Arguments of the recurrent cells' kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

enum class RnnCell : int { lstm = 0, gru = 1, elman = 2, slstm = 3 };

// Of a cell: gates, states, and the numbers per channel and token that the forward pass saves for the backward pass.
struct RnnSizes { int gates, states, saved; };
inline constexpr RnnSizes kRnnSizes[] = {{4, 2, 5}, {3, 1, 4}, {1, 1, 0}, {4, 4, 7}};

// "acc" = float for float32, bfloat16, float16; double for float64. Channels are heads * width.
struct RnnArgs {
  Dtype dtype;
  RnnCell cell;
  int64_t batch, length, heads, width;
  Segments segments;
  const int64_t* starts;  // (batch), or null: tokens before it are padding
  Rows x;                 // (batch, length, gates * channels)
  const void* weight;     // acc (gates, heads, width, width)
  const void* bias;       // acc (gates, heads, width), or null
  const void* initial;    // acc (segments, states, channels), or null
  void* y;                // acc (batch, length, channels)
  void* saved;            // acc (batch, length, saved, channels), or null
  void* final_state;      // acc (segments, states, channels)
  // Backward only: y and saved are read.
  const void* dy;         // acc (batch, length, channels)
  const void* dfinal;     // acc, or null
  void* dx;               // acc (batch, length, gates * channels)
  void *dweight, *dbias;  // acc, as weight and bias
  void* dinitial;         // acc (segments, states, channels)
  int threads;
};

SEQCONV_DECLARE(Status rnn_forward(const RnnArgs&))
SEQCONV_DECLARE(Status rnn_backward(const RnnArgs&))

}  // namespace seqconv
