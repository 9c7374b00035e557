// Products with weights in blocks: 32 weights of a column share a scale and maybe a minimum, and so do 32 numbers of a row.
//
// A panel is two halves of 16 columns, each of them [K / 32] blocks of codes, [words][16 columns][4], and behind these as
// many blocks of scales and minima, [16] half-precision numbers each. Codes are never negative: a weight is
// scale · (code - zero) + minimum. Of four bits, a byte holds the code of place i in its lower half and that of place
// i + 16 in its upper half, as the files have them.
// A dot product of two blocks is exact. It is added to the column's sum by one multiplication and addition, and the minimum
// by another, in the order of the blocks: a row's bits are its own.
#pragma once

#include "panel.h"
#include "../cpu/gate.h"

enum BlockType : int64_t { FOUR = 0, FOUR_MIN = 1, EIGHT = 2 };

constexpr int BLOCK = 32;
constexpr int HALF = PANEL / 2;
constexpr int HV = HALF / W;  // vectors across half a panel

// What the panels of one type have in common; `at`: bytes from the first panel's begin.
struct BlockRun {
  int64_t type, panels, at;
};

// 32 numbers of a row: code · scale.
struct RowBlock {
  int8_t codes[BLOCK];
  float scale, scaled_sum;  // scaled_sum: of all 32
  int32_t zeros[2];         // the sum of the codes, by -8 and by -128: what a weight's zero takes off a product
};

template <int64_t TYPE>
struct BlockOf {
  static constexpr bool wide = TYPE == EIGHT, has_minimum = TYPE == FOUR_MIN;
  static constexpr int zero = TYPE == FOUR ? 8 : TYPE == EIGHT ? 128 : 0;
  static constexpr int64_t codes = BLOCK * HALF / (wide ? 1 : 2);  // bytes for half a panel
  static constexpr int64_t numbers = HALF * (has_minimum ? 2 : 1);
  static constexpr int64_t bytes = 2 * (codes + 2 * numbers);      // for a panel
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
  int32_t sum = 0;
  for (int lane = 0; lane < W; lane++) sum += sums[lane];
  out.scale = largest / 127.0f;
  out.scaled_sum = out.scale * (float)sum;
  out.zeros[0] = -8 * sum, out.zeros[1] = -128 * sum;
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
  using Of = BlockOf<TYPE>;
  for (int r = 0; r < R; r++) acc[r] = Of::zero ? splat_bits(x[r * apart].zeros[Of::zero == 128]) : vi{};
#pragma GCC unroll 8
  for (int word = 0; word < (Of::wide ? 8 : 4); word++) {
    const vi codes = load_bits(w + word * 4 * HALF);
    if constexpr (Of::wide) {
      add_words(acc, codes, x, apart, word);
    } else {
      add_words(acc, codes & 0x0f0f0f0f, x, apart, word);
      add_words(acc, (codes >> 4) & 0x0f0f0f0f, x, apart, word + 4);
    }
  }
}

// The products of R rows with half a panel. `ahead`: what is read next, `step` bytes of it a block, while memory would idle.
template <int64_t TYPE, int R>
INLINE void multiply_half(const char* w, const RowBlock* x, int64_t count, const char* ahead, int64_t step, int at,
                          vf (&out)[R][NV]) {
  using Of = BlockOf<TYPE>;
  constexpr int64_t AHEAD = 3072;  // bytes between a prefetch and its use
  vf sums[R][HV] = {};
  const uint16_t* numbers = (const uint16_t*)(w + count * Of::codes);
  const char* soon = w + AHEAD;  // goes over codes and numbers alike
  for (int64_t b = 0; b < count; b++, w += Of::codes, numbers += Of::numbers, soon += Of::bytes / 2, ahead += step) {
    for (int64_t line = 0; line < Of::bytes / 2; line += 64) __builtin_prefetch(soon + line);
    for (int64_t line = 0; line < step; line += 64) __builtin_prefetch(ahead + line, 0, 2);
    for (int v = 0; v < HV; v++) {
      vi acc[R];
      dot_block<TYPE>(w + 4 * W * v, x + b, count, acc);
      const vf scale = load_half(numbers + W * v);
      for (int r = 0; r < R; r++)
        sums[r][v] = fma(__builtin_convertvector(acc[r], vf), scale * x[r * count + b].scale, sums[r][v]);
      if constexpr (Of::has_minimum) {
        const vf minimum = load_half(numbers + HALF + W * v);
        for (int r = 0; r < R; r++) sums[r][v] = fma(minimum, splat(x[r * count + b].scaled_sum), sums[r][v]);
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < HV; v++) out[r][at + v] = sums[r][v];
}

template <int64_t TYPE, int R>
INLINE void multiply_blocks(const char* w, const RowBlock* x, int64_t count, const char* ahead, int64_t step,
                            vf (&out)[R][NV]) {
  const int64_t half = count * BlockOf<TYPE>::bytes / 2;
  multiply_half<TYPE, R>(w, x, count, ahead, step, 0, out);
  multiply_half<TYPE, R>(w + half, x, count, ahead + step * count, step, HV, out);
}

// One column of a panel as numbers, [k].
template <int64_t TYPE>
INLINE void read_column(const char* panel, int column, int64_t k, float* out) {
  using Of = BlockOf<TYPE>;
  const int64_t count = blocks_of(k);
  const char* w = panel + column / HALF * count * Of::bytes / 2 + column % HALF * 4;
  const uint16_t* numbers = (const uint16_t*)(panel + column / HALF * count * Of::bytes / 2 + count * Of::codes);
  for (int64_t i = 0; i < k; i++) {
    const int place = i % BLOCK, held = Of::wide ? place : place % 16;
    const uint16_t* scale = numbers + i / BLOCK * Of::numbers + column % HALF;
    const int byte = (uint8_t)w[i / BLOCK * Of::codes + held / 4 * 4 * HALF + held % 4];
    const int code = Of::wide ? byte : place < 16 ? byte & 15 : byte >> 4;
    out[i] = from_half(scale[0]) * (float)(code - Of::zero);
    if constexpr (Of::has_minimum) out[i] += from_half(scale[HALF]);
  }
}
