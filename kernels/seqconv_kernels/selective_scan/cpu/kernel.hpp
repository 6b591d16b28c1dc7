// Arguments of the selective scan's kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/view.hpp"

namespace seqconv {

constexpr int kScanChunk = 16;  // steps between checkpoints of the state
constexpr int kScanTile = 128;  // channels

struct ScanWeights {  // (batch, length, groups, d_state)
  const void* data = nullptr;
  int64_t batch = 0, time = 0, group = 0, state = 0;
};

// "acc" = float for float32, bfloat16, float16; double for float64. Contiguous unless strides are given.
struct ScanArgs {
  Dtype dtype;
  int64_t batch, length, channels, d_state, groups, segments;
  const int64_t* bounds;  // of packed segments (batch is 1), or null: one segment per row
  Rows u, delta, z;  // z may be null
  ScanWeights B, C;
  const void *A, *D, *bias, *initial;  // acc; all but A may be null
  bool softplus;
  void* y;            // (batch, length, channels)
  void* final_state;  // acc (segments, channels, d_state)
  void* checkpoints;  // acc, ScanPlan::checkpoint_elements() of them; null in a forward without gradients
  // Backward only.
  Rows dy;
  const void* dfinal;                       // acc, or null
  void *du, *ddelta, *dz;                   // (batch, length, channels); dz may be null
  void *dA, *dD, *dbias;                    // acc (channels[, d_state]); all may be null
  void *dB, *dC;                            // (batch, length, groups, d_state); may be null
  void* dinitial;                           // acc (segments, channels, d_state), or null
  int threads;
};

// How the work is cut: by shape alone, so that results do not depend on the number of threads.
struct ScanPlan {
  int64_t width;           // channels of a group
  int64_t padded;          // the same, filled up to 16 in the checkpoints
  int64_t tile;            // channels that one thread works on at a time: at most kScanTile, a multiple of 16
  int64_t tiles;           // per group
  int64_t chunks_per_row;  // slots for checkpoints
  explicit ScanPlan(const ScanArgs& a)
      : width(a.channels / a.groups), padded((width + 15) / 16 * 16), tile(kScanTile) {
    while (tile > 32 && a.batch * a.groups * ((width + tile - 1) / tile) < 8) tile /= 2;
    tiles = (width + tile - 1) / tile;
    chunks_per_row = a.bounds ? a.length / kScanChunk + a.segments : (a.length + kScanChunk - 1) / kScanChunk;
  }
  int64_t checkpoint_elements(const ScanArgs& a) const {
    return a.batch * chunks_per_row * a.groups * padded * a.d_state;
  }
};

SEQCONV_DECLARE(Status scan_forward(const ScanArgs&))
SEQCONV_DECLARE(Status scan_backward(const ScanArgs&))

}  // namespace seqconv
