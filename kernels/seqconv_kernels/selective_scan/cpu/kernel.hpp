// Arguments of the selective scan's kernels, checked by bind.cpp.
#pragma once

#include "../../_cpp/arguments.hpp"

namespace seqconv {

// Steps between checkpoints of the state, which are also the chunks of the kernels: checkpoints cost d_state / 16 of
// the memory of u, and a chunk's states and decays of a band (kernel.cpp) stay in the first-level cache.
constexpr int kScanChunk = 16;
// Channels of a tile at most: B and C of a chunk are read and broadcast once per tile, and 8 vectors of 16 channels
// share them (one vector per tile is slower). At least that many where there are few channels to cut into items.
constexpr int kScanTile = 128, kScanNarrowestTile = 32;
constexpr int kScanItemsWanted = 8;
constexpr int kScanPadding = 16;  // channels: checkpoints are filled up to a multiple of every lane count

struct ScanWeights {  // (batch, length, groups, d_state)
  const void* data = nullptr;
  int64_t batch = 0, time = 0, group = 0, state = 0;
};

// Activations (batch, length, groups, channels of a group); `group` is 0 where all groups share one.
struct GroupedRows : Rows {
  int64_t group = 0;
};

// "acc" = float for float32, bfloat16, float16; double for float64. Contiguous unless strides are given.
//
// A cross scan has `orders`: all groups, its directions, read the same u, each in the order of its own, and y and du are
// the sums over them, in acc. z, states that enter or leave, and bounds are absent; `channels` counts those of all
// groups.
struct ScanArgs {
  Dtype dtype;
  int64_t batch, length, channels, d_state, groups;
  Segments segments;
  GroupedRows u, delta, z;  // z may be null
  ScanWeights B, C;
  const void *A, *D, *bias, *initial;  // acc; all but A may be null
  const int64_t* orders;  // (batch or 1, groups, length): the place of the input that a step reads, or null
  int64_t orders_batch;
  bool softplus;
  GroupedRows y;
  void* final_state;  // acc (segments, channels, d_state)
  void* checkpoints;  // acc, ScanPlan::checkpoint_elements() of them; null in a forward without gradients
  // Backward only.
  GroupedRows dy, du, ddelta, dz;           // dz may be null
  const void* dfinal;                       // acc, or null
  void *dA, *dD, *dbias;                    // acc (channels[, d_state]); all may be null
  void *dB, *dC;                            // (batch, length, groups, d_state); may be null
  void* dinitial;                           // acc (segments, channels, d_state), or null
  int threads;
};

// How the work is cut into items: by shape alone, so that results do not depend on the number of threads.
struct ScanPlan {
  int64_t width;           // channels of a group
  int64_t padded;          // the same in the checkpoints
  int64_t tile;            // channels of an item, a multiple of kScanPadding
  int64_t tiles;           // per group
  int64_t chunks_per_row;  // slots for checkpoints
  int64_t items;           // one per tile, group and row of the batch; one for all groups of a cross scan
  SEQCONV_INLINE explicit ScanPlan(const ScanArgs& a)
      : width(a.channels / a.groups), padded(round_up(width, kScanPadding)),
        tile(halved_until(kScanTile, kScanNarrowestTile,
                          [&](int64_t n) { return rows(a) * ceil_div(width, n) >= kScanItemsWanted; })),
        tiles(ceil_div(width, tile)),
        chunks_per_row(a.segments.bounds ? a.length / kScanChunk + a.segments.count : ceil_div(a.length, kScanChunk)),
        items(rows(a) * tiles) {}
  static SEQCONV_INLINE int64_t rows(const ScanArgs& a) { return a.batch * (a.orders ? 1 : a.groups); }
  SEQCONV_INLINE int64_t checkpoint_elements(const ScanArgs& a) const {
    return a.batch * chunks_per_row * a.groups * padded * a.d_state;
  }
};

SEQCONV_DECLARE(Status scan_forward(const ScanArgs&))
SEQCONV_DECLARE(Status scan_backward(const ScanArgs&))

}  // namespace seqconv
