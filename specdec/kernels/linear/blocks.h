// Products with weights in blocks: 32 weights of a column share scales and maybe a minimum, and so do 32 numbers of a row.
//
// A panel is two halves of 16 columns, each of them [K / 32] blocks of codes, [words][16 columns][4], behind these as many
// blocks of fine scales and minima, [16] signed bytes each, if the type has them, and then half-precision scales and
// minima, [16] each, one for every `span` blocks. Codes are never negative: a weight is
// scale · fine scale · (code - zero) + minimum · fine minimum.
// Of four bits, a byte holds the code of place i in its lower half and that of place i + 16 in its upper half. Of six, these
// are the lower four, and two more bits of the places i, i + 8, i + 16 and i + 24 are in byte i of two words behind them.
// A dot product of codes that share a scale is exact. It is added to the column's sum by one multiplication and addition,
// and the minimum by another, in the order of the blocks: a row's bits are its own.
#pragma once

#include <algorithm>
#include <type_traits>

#include "panel.h"
#include "../cpu/gate.h"

enum BlockType : int64_t { FOUR = 0, FOUR_MIN = 1, EIGHT = 2, FOUR_FINE = 3, SIX_FINE = 4 };

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
  int32_t zeros[4];         // sums of codes by -8 and by -128, of 16 by -32 twice: what a weight's zero takes off a product
};

template <int64_t TYPE>
struct BlockOf {
  static constexpr bool fine = TYPE >= FOUR_FINE, has_minimum = TYPE == FOUR_MIN || TYPE == FOUR_FINE;
  static constexpr int bits = TYPE == EIGHT ? 8 : TYPE == SIX_FINE ? 6 : 4;
  static constexpr int zero = TYPE == FOUR ? 8 : TYPE == EIGHT ? 128 : TYPE == SIX_FINE ? 32 : 0;
  static constexpr int parts = TYPE == SIX_FINE ? 2 : 1;           // of a block, each with a scale of its own
  static constexpr int span = fine ? 8 : 1;
  // Bytes of a block for half a panel.
  static constexpr int64_t codes = BLOCK * HALF * bits / 8, fines = fine ? HALF * (parts + has_minimum) : 0;
  static constexpr int64_t halves = HALF * (has_minimum ? 2 : 1);  // numbers of `span` blocks
  static constexpr int64_t bytes = 2 * (codes + fines + 2 * halves / span);  // of a block for a panel
};

// Calls body(type) with a type of blocks that the compiler knows, and gives what it gives.
template <class Body>
INLINE auto for_type(int64_t type, Body body) {
  switch (type) {
    case FOUR: return body(std::integral_constant<int64_t, FOUR>());
    case FOUR_MIN: return body(std::integral_constant<int64_t, FOUR_MIN>());
    case EIGHT: return body(std::integral_constant<int64_t, EIGHT>());
    case FOUR_FINE: return body(std::integral_constant<int64_t, FOUR_FINE>());
    default: return body(std::integral_constant<int64_t, SIX_FINE>());
  }
}

INLINE int64_t blocks_of(int64_t k) { return (k + BLOCK - 1) / BLOCK; }

INLINE int64_t bytes_of_block(int64_t type) {
  return for_type(type, [](auto type) { return BlockOf<type()>::bytes; });
}

INLINE void demand_runs(const BlockRun* runs, int64_t count, int64_t panels, int64_t k) {
  int64_t found = 0, at = 0;
  demand_memory(runs, "runs of blocks");
  for (int64_t i = 0; i < count; i++) {
    const BlockRun& run = runs[i];
    DEMAND(run.type >= FOUR && run.type <= SIX_FINE, "%lld is no type of blocks", (long long)run.type);
    const int64_t span = for_type(run.type, [](auto type) { return BLOCK * BlockOf<type()>::span; });
    DEMAND(span == BLOCK || k % span == 0, "rows of %lld numbers are no multiple of %lld", (long long)k, (long long)span);
    DEMAND(run.panels >= 1 && run.at == at, "run %lld of blocks begins at byte %lld, not at %lld", (long long)i,
           (long long)run.at, (long long)at);
    found += run.panels;
    at += run.panels * blocks_of(k) * bytes_of_block(run.type);
  }
  DEMAND(found == panels, "runs of blocks have %lld panels of %lld", (long long)found, (long long)panels);
}

// The largest magnitude gets ±127.
INLINE void prepare_block(const float* x, RowBlock& out) {
  typedef int8_t bytes __attribute__((vector_size(W)));
  const float largest = largest_magnitude(x, BLOCK), inverse = largest > 0 ? 127.0f / largest : 0.0f;
  const float magic = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, ties to even
  vi lanes[2] = {};
  for (int i = 0; i < BLOCK; i += W) {
    const vi codes = (vi)(load(x + i) * inverse + magic) - (vi)splat(magic);
    lanes[i / HALF] += codes;
    const bytes narrow = __builtin_convertvector(codes, bytes);
    memcpy(out.codes + i, &narrow, W);
  }
  const auto sum_of = [](vi v) { return over_lanes(v, [](vi a, vi b) { return a + b; }); };
  const int32_t sums[2] = {sum_of(lanes[0]), sum_of(lanes[1])}, sum = sums[0] + sums[1];
  out.scale = largest / 127.0f;
  out.scaled_sum = out.scale * (float)sum;
  out.zeros[0] = -8 * sum, out.zeros[1] = -128 * sum, out.zeros[2] = -32 * sums[0], out.zeros[3] = -32 * sums[1];
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

// The upper bits of a word of six-bit codes, where they belong: `w` are the codes of a block.
INLINE vi upper_bits(const char* w, int word) {
  const vi held = load_bits(w + (4 + word % 2) * 4 * HALF);
  const int place = 2 * (word / 2);
  return (place < 4 ? held << (4 - place) : held >> (place - 4)) & 0x30303030;
}

// The products of R rows with one block of W columns, of which `w` are the codes: one for each part.
template <int64_t TYPE, int R>
INLINE void dot_block(const char* w, const RowBlock* x, int64_t apart, vi (&acc)[BlockOf<TYPE>::parts][R]) {
  using Of = BlockOf<TYPE>;
  constexpr int which = TYPE == FOUR ? 0 : TYPE == EIGHT ? 1 : 2;
  for (int part = 0; part < Of::parts; part++)
    for (int r = 0; r < R; r++) acc[part][r] = Of::zero ? splat_bits(x[r * apart].zeros[which + part]) : vi{};
#pragma GCC unroll 8
  for (int word = 0; word < (Of::bits == 8 ? 8 : 4); word++) {
    const vi codes = load_bits(w + word * 4 * HALF);
    if constexpr (Of::bits == 8) {
      add_words(acc[0], codes, x, apart, word);
    } else {
      vi lower = codes & 0x0f0f0f0f, upper = (codes >> 4) & 0x0f0f0f0f;
      if constexpr (Of::bits == 6) lower |= upper_bits(w, word), upper |= upper_bits(w, word + 4);
      add_words(acc[0], lower, x, apart, word);
      add_words(acc[Of::parts - 1], upper, x, apart, word + 4);
    }
  }
}

// W columns' scales or minima: a half-precision number of each and, if the type has them, a fine one.
template <int64_t TYPE>
INLINE vf load_numbers(const uint16_t* halves, const int8_t* fine) {
  if constexpr (BlockOf<TYPE>::fine) return load_half(halves) * load_int8(fine);
  else return load_half(halves);
}

// The products of R rows with half a panel, which may be read once. `next`: the half panel that is read then; all of the
// numbers behind its codes are asked for meanwhile, and its first codes. `ahead`: what rows after these read, `step` bytes
// of it a block, while memory would idle.
template <int64_t TYPE, int R>
INLINE void multiply_half(const char* w, const RowBlock* x, int64_t count, const char* next, const char* ahead,
                          int64_t step, bool once, int at, vf (&out)[R][NV]) {
  using Of = BlockOf<TYPE>;
  constexpr int64_t AHEAD = 4608 / Of::codes;                  // blocks between a prefetch of codes and their use
  constexpr int64_t behind = Of::bytes / 2 - Of::codes;        // bytes of a block behind all codes
  const char* end = w + count * Of::codes;
  const char *soon = w + std::min(AHEAD, count) * Of::codes, *later = next + count * Of::codes;
  vf sums[R][HV] = {};
  const int8_t* fine = (const int8_t*)end;
  const uint16_t* numbers = (const uint16_t*)(fine + count * Of::fines);
  for (int64_t b = 0; b < count; b++, w += Of::codes, fine += Of::fines, soon += Of::codes, later += behind, ahead += step) {
    if (soon == end) soon = next;
    for (int64_t line = 0; line < Of::codes; line += 64) prefetch(soon + line, once);
    for (int64_t line = 0; line < behind; line += 64) prefetch(later + line, once);
    for (int64_t line = 0; line < step; line += 64) __builtin_prefetch(ahead + line, 0, 2);
    const uint16_t* halves = numbers + b / Of::span * Of::halves;
    for (int v = 0; v < HV; v++) {
      vi acc[Of::parts][R];
      dot_block<TYPE>(w + 4 * W * v, x + b, count, acc);
      for (int part = 0; part < Of::parts; part++) {
        const vf scale = load_numbers<TYPE>(halves + W * v, fine + HALF * part + W * v);
        for (int r = 0; r < R; r++)
          sums[r][v] = fma(__builtin_convertvector(acc[part][r], vf), scale * x[r * count + b].scale, sums[r][v]);
      }
      if constexpr (Of::has_minimum) {
        const vf minimum = load_numbers<TYPE>(halves + HALF + W * v, fine + HALF * Of::parts + W * v);
        for (int r = 0; r < R; r++) sums[r][v] = fma(minimum, splat(x[r * count + b].scaled_sum), sums[r][v]);
      }
    }
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < HV; v++) out[r][at + v] = sums[r][v];
}

// A function of its own: compiled once, and not for everything that may become of a product.
template <int64_t TYPE, int R>
__attribute__((noinline)) static void multiply_blocks(const char* w, const RowBlock* x, int64_t count, const char* next,
                                                      const char* ahead, int64_t step, bool once, vf (&out)[R][NV]) {
  const char* half = w + count * BlockOf<TYPE>::bytes / 2;
  multiply_half<TYPE, R>(w, x, count, half, ahead, step, once, 0, out);
  multiply_half<TYPE, R>(half, x, count, next, ahead + step * count, step, once, HV, out);
}

// The code of one place of a block of one column: `w` are the column's bytes of the first word.
template <int64_t TYPE>
INLINE int read_code(const char* w, int place) {
  const auto byte = [&](int at) { return (uint8_t)w[at / 4 * 4 * HALF + at % 4]; };
  if constexpr (BlockOf<TYPE>::bits == 8) return byte(place);
  int code = byte(place % 16) >> place / 16 * 4 & 15;
  if constexpr (BlockOf<TYPE>::bits == 6) code |= (byte(16 + place % 8) >> place / 8 * 2 & 3) << 4;
  return code;
}

// One column of a panel as numbers, [k].
template <int64_t TYPE>
INLINE void read_column(const char* panel, int column, int64_t k, float* out) {
  using Of = BlockOf<TYPE>;
  const int64_t count = blocks_of(k);
  const int lane = column % HALF;
  const char* w = panel + column / HALF * count * Of::bytes / 2;
  const int8_t* fine = (const int8_t*)(w + count * Of::codes);
  const uint16_t* halves = (const uint16_t*)(fine + count * Of::fines);
  const auto number = [&](int64_t block, int half, int at) {
    const float value = from_half(halves[block / Of::span * Of::halves + HALF * half + lane]);
    return Of::fine ? value * (float)fine[block * Of::fines + HALF * at + lane] : value;
  };
  for (int64_t i = 0; i < k; i++) {
    const int64_t block = i / BLOCK;
    const int place = i % BLOCK, code = read_code<TYPE>(w + block * Of::codes + 4 * lane, place);
    out[i] = number(block, 0, place * Of::parts / BLOCK) * (float)(code - Of::zero);
    if constexpr (Of::has_minimum) out[i] += number(block, 1, Of::parts);
  }
}
