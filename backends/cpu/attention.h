// What the passes of the ATTENTION op share: sizes, argument slots, the visible set and the layout of the cache.
#ifndef XHYBRID_BACKENDS_CPU_ATTENTION_H_
#define XHYBRID_BACKENDS_CPU_ATTENTION_H_

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "backends/cpu/documents.h"
#include "backends/cpu/tile_copy.h"

namespace xh::cpu::XH_ISA::attention {

// Arguments in order; the gradients that are not named here are absent.
enum Slot { kQ, kK, kV, kCacheK, kCacheV, kPosition, kStart, kO, kDo, kDq, kDk, kDv };

inline constexpr int64_t kKeys = 64;   // columns of a score tile
inline constexpr int64_t kStrip = 16;  // query rows that are worked on at once

struct Shape {
  int64_t batch, heads, kv_heads, tokens, dim;
  int64_t sinks;
  float scale;
  std::vector<int64_t> windows;  // [kv_heads], 0: unlimited
  int64_t capacity;              // slots of an unlimited head
  int64_t slots;                 // of the cache, all heads
  int threads;

  int64_t group() const { return heads / kv_heads; }
  int64_t HeadSlots(int64_t kv_head) const { return windows[kv_head] == 0 ? capacity : sinks + windows[kv_head]; }
  int64_t FirstSlot(int64_t kv_head) const {
    int64_t first = 0;
    for (int64_t j = 0; j < kv_head; ++j) first += HeadSlots(j);
    return first;
  }
};

// The columns of a tile that one query sees: [0, sinks) and [from, to). Clipped to the tile by the caller.
struct VisibleColumns {
  int64_t sinks, from, to;

  bool All(int64_t columns) const { return to >= columns && (from <= 0 || from <= sinks); }
};

// Keys that a block of queries visits, in columns: the sinks that lie before its window, then [first, end).
struct KeyList {
  int64_t sinks;   // columns [0, sinks) are positions [0, sinks)
  int64_t first;   // column `sinks` is position `first`
  int64_t window;  // 0: unlimited
  int64_t all_sinks;
  int64_t count;

  // Of queries at positions [from, to).
  KeyList(int64_t from, int64_t to, int64_t head_window, int64_t head_sinks)
      : first(head_window == 0 ? 0 : std::max<int64_t>(0, from - head_window + 1)),
        window(head_window),
        all_sinks(head_window == 0 ? 0 : head_sinks) {
    sinks = std::min(all_sinks, first);
    count = sinks + to - first;
  }
  int64_t Column(int64_t position) const { return sinks + position - first; }
  // What the query at `position` sees of the tile that begins at column `start`.
  VisibleColumns Of(int64_t position, int64_t start) const {
    const int64_t oldest = window == 0 ? first : std::max(first, position - window + 1);
    return {std::min(all_sinks, position + 1) - start, Column(oldest) - start, Column(position) + 1 - start};
  }
};

inline IVec LaneNumbers() {
  IVec lane;
  for (int j = 0; j < kLanes; ++j) lane[j] = j;
  return lane;
}
// Lanes of columns c .. c + kLanes - 1 that are visible.
inline IVec VisibleLanes(const VisibleColumns& visible, int64_t c, IVec lane) {
  const IVec column = lane + static_cast<int32_t>(c);
  return (column < static_cast<int32_t>(visible.sinks)) |
         ((column >= static_cast<int32_t>(visible.from)) & (column < static_cast<int32_t>(visible.to)));
}

// Slot of a position inside its head's part of the cache.
inline int64_t SlotOf(int64_t position, int64_t window, int64_t sinks) {
  return window == 0 || position < sinks ? position : sinks + (position - sinks) % window;
}

// Keys or values of one head by position: those before `start` lie in the cache, the others are the call's own.
struct PositionRows {
  TileRows cached;
  TileRows current;
  int64_t start, window, sinks;

  // body(rows, count, offset) for every stretch of [from, to) that lies at one stride; offset counts from `from`.
  template <class Body>
  void ForStretches(int64_t from, int64_t to, Body body) const {
    for (int64_t p = from; p < to;) {
      int64_t end = to;
      TileRows rows = current;
      if (p >= start) {
        rows = current.From(p - start);
      } else {
        end = std::min(end, start);
        const int64_t slot = SlotOf(p, window, sinks);
        if (window != 0) end = std::min(end, p < sinks ? sinks : p + sinks + window - slot);
        rows = cached.From(slot);
      }
      body(rows, end - p, p - from);
      p = end;
    }
  }
};

// FORWARD saves the log of every query's sum of exponentials, f32 [B, H, T]: BACKWARD finds each weight from it.
std::unique_ptr<Plan> MakeForward(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeDecode(const Shape& shape, const Request& request);
std::unique_ptr<Plan> MakeBackward(const Shape& shape, const Request& request);

// Refuses positions that the cache has no room for.
void CheckPositions(const Shape& s, const xh_tensor& position);
inline int64_t PositionOf(const xh_tensor& position, int64_t b) {
  return Present(position) ? static_cast<const int32_t*>(position.data)[b * position.stride[0]] : 0;
}
// The part of a cache [B,C,d] that a head owns, a slot a row.
inline TileRows CacheRows(const Shape& s, const xh_tensor& cache, int64_t b, int64_t kv_head) {
  const int64_t bytes = cache.dtype == XH_BF16 ? 2 : 4;
  const int64_t at = b * cache.stride[0] + s.FirstSlot(kv_head) * cache.stride[1];
  return {static_cast<char*>(cache.data) + at * bytes, cache.stride[1], cache.dtype};
}
// Writes tokens of this call, which begin at position `start`, to the slots that they keep.
void WriteCache(const Shape& s, const xh_tensor* args, int64_t b, int64_t kv_head, int64_t start);

}  // namespace xh::cpu::XH_ISA::attention

#endif  // XHYBRID_BACKENDS_CPU_ATTENTION_H_
