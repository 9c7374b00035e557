// The products of linear/cpu.h on Intel's matrix tiles: 16 rows cost what one does.
//
// Where tiles may be used, every product of a bfloat16 or INT8 linear goes through them, whatever the number of rows, so
// that a row's bits do not depend on it.
#pragma once

#include "../cpu/simd.h"

#if defined(__AMX_BF16__) && defined(__AMX_INT8__) && defined(__AVX512BW__) && defined(__linux__)
#define HAS_TILES 1

#include <algorithm>

#include <sys/syscall.h>
#include <unistd.h>

constexpr int TILE_ROWS = 16;   // rows of a tile
constexpr int TILE_WORDS = 16;  // 4-byte words of k that one instruction takes

// Asks the system once: tiles enlarge what it must save for every thread.
INLINE bool tiles_allowed() {
  static const bool allowed = syscall(SYS_arch_prctl, 0x1023, 18) == 0;  // ARCH_REQ_XCOMP_PERM, XTILEDATA
  return allowed;
}

// Whatever was written to this memory, and before, is there. GCC's functions do not say that they read what tiles are loaded
// from, nor how they are set up: without this it may be written later, or never.
INLINE void settle(const void* memory) { __asm__ volatile("" ::"r"(memory) : "memory"); }

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
};

// A thread's tiles, which it gives back at the end.
class Tiles {
 public:
  ~Tiles() {
    if (work_) _tile_release();
  }
  // Sets them up, unless they are set up for this work already: rows_of(tile) rows of 64 bytes.
  template <class RowsOf>
  INLINE_MEMBER void set_up(int64_t work, RowsOf rows_of) {
    if (work == work_) return;
    work_ = work;
    TileConfig config;
    for (int tile = 0; tile < 8; tile++) config.bytes[tile] = 64, config.rows[tile] = rows_of(tile);
    settle(&config);
    _tile_loadconfig(&config);
  }

 private:
  int64_t work_ = 0;
};

// For multiply_tiles. Tiles 0 to 3: sums of two row blocks by two column halves; 4 and 5: rows of x; 6 and 7: weights.
INLINE void set_up_for_products(Tiles& tiles, int64_t first, int64_t second) {
  tiles.set_up(first + second, [&](int tile) {
    if (tile >= 6) return (int64_t)TILE_WORDS;
    return tile == 2 || tile == 3 || tile == 5 ? std::max<int64_t>(second, 1) : first;
  });
}

// Sums of up to 32 rows of x, `stride` bytes apart, with one panel; out[row][32] in words. `next`: the panel that is read
// then.
template <bool INT8_TILES, bool TWO>
INLINE void multiply_tiles(const char* w, const char* x, int64_t stride, int64_t words, const char* next, int32_t* out) {
  settle(x);
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (TWO) {
    _tile_zero(2);
    _tile_zero(3);
  }
  constexpr int64_t WIDTH = 128, STEP = TILE_WORDS * WIDTH, AHEAD = 2;  // steps between a prefetch and its use
  const char *end = w + words * WIDTH, *soon = w + std::min(AHEAD, words / TILE_WORDS) * STEP;
  for (int64_t s = 0; s < words; s += TILE_WORDS, w += STEP, soon += STEP) {
    if (soon == end) soon = next;
    for (int64_t line = 0; line < STEP; line += 64) __builtin_prefetch(soon + line);
    _tile_loadd(4, x + 4 * s, stride);
    _tile_loadd(6, w, WIDTH);
    _tile_loadd(7, w + 64, WIDTH);
    if constexpr (INT8_TILES) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (TWO) {
      _tile_loadd(5, x + TILE_ROWS * stride + 4 * s, stride);
      if constexpr (INT8_TILES) {
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
      } else {
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  _tile_stored(0, out, WIDTH);
  _tile_stored(1, out + 16, WIDTH);
  if constexpr (TWO) {
    _tile_stored(2, out + TILE_ROWS * 32, WIDTH);
    _tile_stored(3, out + TILE_ROWS * 32 + 16, WIDTH);
  }
}

#else
#define HAS_TILES 0

struct Tiles {};
#endif
