// Products with weights in blocks: 32 weights of a column share a scale and maybe a minimum, and so do 32 numbers of a row.
//
// A panel is [K / 32] blocks, each of them the codes, [words][32 columns][4], then the scales and minima, [32] halves
// each. Codes are never negative: a weight is scale · (code - ZERO) + minimum. Of four bits, a byte holds the code of
// place i in its lower half and that of place i + 16 in its upper half, as the files have them.
// A dot product of two blocks is exact. It is added to the column's sum by one multiplication and addition, and the minimum
// by another, in the order of the blocks: a row's bits are its own.
#pragma once

#include "panel.h"
#include "../cpu/gate.h"

enum BlockType : int64_t { FOUR = 0, FOUR_MIN = 1, EIGHT = 2 };

constexpr int BLOCK = 32;

// What the panels of one type have in common; `at`: bytes from the first panel's begin.
struct BlockRun {
  int64_t type, panels, at;
};

// 32 numbers of a row: code · scale.
struct RowBlock {
  int8_t codes[BLOCK];
  float scale;
  int32_t sum;      // of the codes
  float scaled_sum;
};

template <int64_t TYPE>
struct BlockOf {
  static constexpr bool wide = TYPE == EIGHT, has_minimum = TYPE == FOUR_MIN;
  static constexpr int32_t zero = TYPE == FOUR ? 8 : TYPE == EIGHT ? 128 : 0;
  static constexpr int64_t codes = BLOCK * PANEL / (wide ? 1 : 2);
  static constexpr int64_t bytes = codes + 2 * PANEL * (has_minimum ? 2 : 1);
};

INLINE int64_t blocks_of(int64_t k) { return (k + BLOCK - 1) / BLOCK; }

INLINE int64_t bytes_of_block(int64_t type) {
  return type == FOUR ? BlockOf<FOUR>::bytes : type == FOUR_MIN ? BlockOf<FOUR_MIN>::bytes : BlockOf<EIGHT>::bytes;
}

INLINE void demand_runs(const BlockRun* runs, int64_t count, int64_t panels, int64_t k) {
  int64_t found = 0, at = 0;
  demand_memory(runs, "runs of blocks");
  for (int64_t i = 0; i < count; i++) {
    const BlockRun& run = runs[i];
    DEMAND(run.type >= FOUR && run.type <= EIGHT, "%lld is no type of blocks", (long long)run.type);
    DEMAND(run.panels >= 1 && run.at == at, "run %lld of blocks begins at byte %lld, not at %lld", (long long)i,
           (long long)run.at, (long long)at);
    found += run.panels;
    at += run.panels * blocks_of(k) * bytes_of_block(run.type);
  }
  DEMAND(found == panels, "runs of blocks have %lld panels of %lld", (long long)found, (long long)panels);
}

// The largest magnitude gets ±127.
INLINE void prepare_block(const float* x, RowBlock& out) {
  const float largest = largest_magnitude(x, BLOCK), inverse = largest > 0 ? 127.0f / largest : 0.0f;
  const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, ties to even
  vi sums = {};
  for (int i = 0; i < BLOCK; i += W) {
    const vi codes = (vi)(load(x + i) * inverse + magic) - (vi)splat(magic);
    sums += codes;
    for (int lane = 0; lane < W; lane++) out.codes[i + lane] = (int8_t)codes[lane];
  }
  out.sum = 0;
  for (int lane = 0; lane < W; lane++) out.sum += sums[lane];
  out.scale = largest / 127.0f;
  out.scaled_sum = out.scale * (float)out.sum;
}

INLINE void prepare_blocks(const float* x, int64_t k, RowBlock* out) {
  const int64_t whole = k / BLOCK, left = k % BLOCK;
  for (int64_t b = 0; b < whole; b++) prepare_block(x + b * BLOCK, out[b]);
  if (!left) return;
  float last[BLOCK] = {};
  memcpy(last, x + whole * BLOCK, 4 * left);
  prepare_block(last, out[whole]);
}

// acc + the dot products of one word of each of R rows, `apart` blocks from another, with W columns.
template <int R>
INLINE void add_words(vi (&acc)[R], vi columns, const RowBlock* x, int64_t apart, int word) {
  for (int r = 0; r < R; r++) {
    int32_t four;
    memcpy(&four, x[r * apart].codes + 4 * word, 4);
    acc[r] = dot_int8(acc[r], splat_bits(four), columns);
  }
}

// The products of R rows with one block of W columns, of which `w` are the codes.
template <int64_t TYPE, int R>
INLINE void dot_block(const char* w, const RowBlock* x, int64_t apart, vi (&acc)[R]) {
  for (int r = 0; r < R; r++) acc[r] = splat_bits(-BlockOf<TYPE>::zero * x[r * apart].sum);
  for (int word = 0; word < (BlockOf<TYPE>::wide ? 8 : 4); word++) {
    const vi codes = load_bits(w + word * 4 * PANEL);
    if constexpr (BlockOf<TYPE>::wide) {
      add_words(acc, codes, x, apart, word);
    } else {
      add_words(acc, codes & 0x0f0f0f0f, x, apart, word);
      add_words(acc, (codes >> 4) & 0x0f0f0f0f, x, apart, word + 4);
    }
  }
}

// The products of R rows with one panel. `ahead`: what is read next, `step` bytes of it a block, while memory would idle.
template <int64_t TYPE, int R>
INLINE void multiply_blocks(const char* w, const RowBlock* x, int64_t count, const char* ahead, int64_t step,
                            vf (&out)[R][NV]) {
  using Of = BlockOf<TYPE>;
  constexpr int64_t AHEAD = 3072;  // bytes between a prefetch and its use
  for (int r = 0; r < R; r++)
    for (int v = 0; v < NV; v++) out[r][v] = vf{};
  for (int64_t b = 0; b < count; b++, w += Of::bytes, ahead += step) {
    for (int64_t at = 0; at < Of::bytes; at += 64) __builtin_prefetch(w + AHEAD + at);
    for (int64_t at = 0; at < step; at += 64) __builtin_prefetch(ahead + at, 0, 2);
    const uint16_t *scales = (const uint16_t*)(w + Of::codes), *minima = scales + PANEL;
    for (int v = 0; v < NV; v++) {
      vi acc[R];
      dot_block<TYPE>(w + 4 * W * v, x + b, count, acc);
      const vf scale = load_half(scales + W * v), minimum = Of::has_minimum ? load_half(minima + W * v) : vf{};
      for (int r = 0; r < R; r++) {
        const RowBlock& row = x[r * count + b];
        out[r][v] = fma(__builtin_convertvector(acc[r], vf), scale * row.scale, out[r][v]);
        if constexpr (Of::has_minimum) out[r][v] = fma(minimum, splat(row.scaled_sum), out[r][v]);
      }
    }
  }
}

// One column of a panel as numbers, [k].
template <int64_t TYPE>
INLINE void read_column(const char* w, int column, int64_t k, float* out) {
  using Of = BlockOf<TYPE>;
  for (int64_t i = 0; i < k; i++) {
    const char* block = w + i / BLOCK * Of::bytes;
    const uint16_t* scales = (const uint16_t*)(block + Of::codes) + column;
    const int place = i % BLOCK, held = Of::wide ? place : place % 16;
    const int byte = (uint8_t)block[(held / 4 * PANEL + column) * 4 + held % 4];
    const int code = Of::wide ? byte : place < 16 ? byte & 15 : byte >> 4;
    out[i] = from_half(scales[0]) * (float)(code - Of::zero);
    if constexpr (Of::has_minimum) out[i] += from_half(scales[PANEL]);
  }
}
