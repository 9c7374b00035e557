// x Wᵀ for a few rows: one pass over the packed weights, whatever the number of rows.
//
// Weights are packed in panels of 32 output columns, which are contiguous in the order in which they are read:
// [N/32][K/g][32][g] with g values of k side by side (g = 1 float32 and weight-only int8, 2 bfloat16, 4 int8); K is padded
// to a multiple of 16 g for the latter two. Weights in blocks have an order of their own (blocks.h). A panel is
// read from memory once; further row tiles find it in the cache. Each output element has one accumulator, added to in
// the order of k: no split along K, so a row's bits do not depend on the other rows.
#pragma once

#include <type_traits>

#include "../cpu/gate.h"
#include "../cpu/simd.h"
#include "../cpu/threads.h"
#include "../rows/largest.h"
#include "amx.h"
#include "blocks.h"
#include "panel.h"

enum Kind : int32_t { FLOAT32 = 0, BFLOAT16 = 1, INT8 = 2, INT8_WEIGHT = 3, BLOCKS = 4 };

struct Linear {
  int32_t kind;
  int32_t gated;         // columns alternate, 16 of a gate and 16 of the values it multiplies: out = silu(gate) · value
  int64_t n, k;          // columns as packed, a multiple of 32, and inputs
  const void* weight;
  const float* scale;    // [n], int8 kinds
  const int32_t* sums;   // [n], Σ_k w, kind INT8
  const float* bias;     // [n] or null
  const BlockRun* runs;  // [num_runs], kind BLOCKS: the types of the panels, in their order
  int64_t num_runs;
};

// Rows in the form that a kind of weights multiplies.
struct Rows {
  char* data;    // of kind BLOCKS: RowBlock [rows, K / 32]
  float* scale;  // [rows], kind INT8: the row's largest magnitude / 127
  bool again;    // whether further rows soon meet the same weights, which are few
};

// Values of k that lie side by side in a 4-byte word, bytes of each, and words of a row: a multiple of what one tile takes.
INLINE int64_t group_of(int32_t kind) { return kind == INT8 ? 4 : kind == BFLOAT16 ? 2 : 1; }
INLINE int64_t words_of(int32_t kind, int64_t k) {
  if (kind == FLOAT32 || kind == INT8_WEIGHT) return k;
  return (k + 16 * group_of(kind) - 1) / (16 * group_of(kind)) * 16;
}
INLINE int64_t row_bytes(int32_t kind, int64_t k) {
  return kind == BLOCKS ? blocks_of(k) * sizeof(RowBlock) : 4 * words_of(kind, k);
}
// Whether rows are rounded with scales, which more numbers than one panel gives decide on.
INLINE bool rounds_rows(int32_t kind) { return kind == INT8 || kind == BLOCKS; }

// That weights multiply rows of k numbers and give at least `width` columns.
INLINE void demand_linear(const Linear& linear, int64_t k, int64_t width, bool gated) {
  DEMAND(linear.kind >= FLOAT32 && linear.kind <= BLOCKS, "%d is no kind of weights", linear.kind);
  DEMAND(linear.k == k && k >= 1, "weights for rows of %lld numbers meet rows of %lld", (long long)linear.k, (long long)k);
  const int64_t columns = linear.n / (gated ? 2 : 1);
  DEMAND(bool(linear.gated) == gated && linear.n % PANEL == 0 && width >= 1 && width <= columns && width > columns - PANEL,
         "weights of %lld columns, packed%s, cannot give %lld", (long long)linear.n, linear.gated ? " with a gate" : "",
         (long long)width);
  demand_memory(linear.weight, "weights");
  if (linear.kind == INT8 || linear.kind == INT8_WEIGHT) demand_memory(linear.scale, "scales of weights");
  if (linear.kind == INT8) demand_memory(linear.sums, "sums of weights");
  if (linear.kind == BLOCKS) demand_runs(linear.runs, linear.num_runs, linear.n / PANEL, k);
}

// Not of blocks, whose panels differ.
INLINE int64_t bytes_of_panel(const Linear& linear) {
  return words_of(linear.kind, linear.k) * PANEL * (linear.kind == INT8_WEIGHT ? 1 : 4);
}

// A panel of blocks, and how many bytes it has.
struct BlockPanel {
  int64_t type;
  const char* data;
  int64_t bytes;
};

INLINE BlockPanel panel_of_blocks(const Linear& linear, int64_t panel) {
  const BlockRun* run = linear.runs;
  for (; panel >= run->panels; run++) panel -= run->panels;
  const int64_t bytes = blocks_of(linear.k) * bytes_of_block(run->type);
  return {run->type, (const char*)linear.weight + run->at + panel * bytes, bytes};
}

INLINE int64_t bytes_of_weights(const Linear& linear) {
  if (linear.kind != BLOCKS) return linear.n / PANEL * bytes_of_panel(linear);
  const BlockPanel last = panel_of_blocks(linear, linear.n / PANEL - 1);
  return last.data + last.bytes - (const char*)linear.weight;
}

// One column of weights in blocks, as numbers [k].
INLINE void read_weights(const Linear& linear, int64_t column, float* out) {
  const BlockPanel panel = panel_of_blocks(linear, column / PANEL);
  for_type(panel.type, [&](auto type) { read_column<type()>(panel.data, column % PANEL, linear.k, out); });
}

// One row of x into rows.data; padded with zeros.
INLINE void prepare_row(int32_t kind, const float* x, int64_t k, int64_t row, const Rows& rows) {
  char* out = rows.data + row * row_bytes(kind, k);
  if (kind == FLOAT32 || kind == INT8_WEIGHT) {
    memcpy(out, x, 4 * k);
  } else if (kind == BFLOAT16) {
    uint16_t* o = (uint16_t*)out;
    to_bfloat16(x, k, o);
    memset(o + k, 0, row_bytes(kind, k) - 2 * k);
  } else if (kind == BLOCKS) {
    prepare_blocks(x, k, (RowBlock*)out);
  } else {
    const float largest = largest_magnitude(x, k);
    float scale = largest / 127.0f, inverse = largest > 0 ? 127.0f / largest : 0.0f;
    rows.scale[row] = scale;
    uint8_t* o = (uint8_t*)out;
    for (int64_t i = 0; i < k; i++) o[i] = (uint8_t)((int32_t)rintf(x[i] * inverse) + 128);
    memset(o + k, 128, row_bytes(kind, k) - k);
  }
}

// Writes a later product's rows, a few numbers at a time, as bfloat16 or float32.
struct RowWriter {
  char* data;
  int64_t stride;  // bytes of a row
  bool halves;
  INLINE_MEMBER void put(int64_t row, int64_t at, const float* x, int64_t size) const {
    char* to = data + row * stride;
    if (halves) to_bfloat16(x, size, (uint16_t*)to + at);
    else memcpy(to + 4 * at, x, 4 * size);
  }
};

INLINE RowWriter float_rows(float* out, int64_t width) { return {(char*)out, 4 * width, false}; }

// Rows for `linear`: as it multiplies them, but in float32 where scales wait for the whole row.
INLINE RowWriter rows_for(const Linear& linear, char* data) {
  if (rounds_rows(linear.kind)) return float_rows((float*)data, linear.k);
  return {data, row_bytes(linear.kind, linear.k), linear.kind == BFLOAT16};
}

INLINE int32_t word_at(const char* p) {
  int32_t word;
  memcpy(&word, p, 4);
  return word;
}

// An exact sum of bytes as the number that it stands for: x was stored with 128 added.
INLINE vf rescale(const Linear& linear, int64_t panel, int v, vi sum, float row_scale) {
  const int64_t at = panel * PANEL + v * W;
  return __builtin_convertvector(sum - 128 * load_bits(linear.sums + at), vf) * (load(linear.scale + at) * row_scale);
}

INLINE void add_bias(const Linear& linear, int64_t panel, vf (&values)[NV]) {
  if (linear.bias)
    for (int v = 0; v < NV; v++) values[v] += load(linear.bias + panel * PANEL + v * W);
}

// Memory that is read later: each step asks for some of it, which else would lie idle while the steps compute.
struct Ahead {
  const char* from;
  int64_t per_step;  // bytes
  bool once;         // see prefetch
  const char *end = nullptr, *then = nullptr;  // at `end`, which is whole steps away, it goes on with `then`
};

// What products are added up in.
template <int KIND> struct SumOf { using type = vf; };
template <> struct SumOf<INT8> { using type = vi; };
template <int KIND> using Sum = typename SumOf<KIND>::type;

INLINE int64_t bytes_of_step(int32_t kind) { return kind == INT8_WEIGHT ? PANEL : 4 * PANEL; }

// Adds the products of R rows, `stride` bytes apart, with the words of one panel from `w` on. ALONE: what a step asks for
// is as much as it reads; else it is at most a line.
template <int KIND, int R, bool ALONE>
INLINE void add_products(const char* w, const char* x, int64_t stride, int64_t words, const Ahead& ahead,
                         Sum<KIND> (&sums)[R][NV]) {
  const int64_t width = bytes_of_step(KIND);
  const char* soon = ahead.from;
  for (int64_t s = 0; s < words; s++, w += width, soon += ahead.per_step) {
    if (ALONE && soon == ahead.end) soon = ahead.then;
    if constexpr (ALONE) for (int64_t line = 0; line < width; line += 64) prefetch(soon + line, ahead.once);
    else prefetch(soon, ahead.once);
    for (int r = 0; r < R; r++) {
      vi xr = splat_bits(word_at(x + r * stride + 4 * s));
      for (int v = 0; v < NV; v++) {
        if constexpr (KIND == INT8) sums[r][v] = dot_int8(sums[r][v], load_bits(w + 4 * W * v), xr);
        else if constexpr (KIND == BFLOAT16) sums[r][v] = dot_bfloat16(sums[r][v], load_bits(w + 4 * W * v), xr);
        else if constexpr (KIND == FLOAT32) sums[r][v] = fma(load((const float*)w + W * v), (vf)xr, sums[r][v]);
        else sums[r][v] = fma(load_int8((const int8_t*)w + W * v), (vf)xr, sums[r][v]);
      }
    }
  }
}

// Calls finish(panel, row, values[PANEL]) for R rows whose products are added up.
template <int KIND, int R, class Finish>
INLINE void finish_rows(const Linear& linear, int64_t panel, const Rows& rows, int64_t row, const Sum<KIND> (*sums)[NV],
                        Finish& finish) {
  for (int r = 0; r < R; r++) {
    vf values[NV];
    for (int v = 0; v < NV; v++) {
      if constexpr (KIND == INT8) values[v] = rescale(linear, panel, v, sums[r][v], rows.scale[row + r]);
      else values[v] = sums[r][v];
      if constexpr (KIND == INT8_WEIGHT) values[v] *= load(linear.scale + panel * PANEL + v * W);
    }
    add_bias(linear, panel, values);
    finish(panel, row + r, values);
  }
}

// Calls body(R) with R = count, at most ROW_TILE, as a constant.
template <class Body>
INLINE void with_rows(int64_t count, Body body) {
  switch (count) {
    case 1: body(std::integral_constant<int, 1>()); break;
    case 2: if constexpr (ROW_TILE >= 2) body(std::integral_constant<int, 2>()); break;
    case 3: if constexpr (ROW_TILE >= 3) body(std::integral_constant<int, 3>()); break;
    case 4: if constexpr (ROW_TILE >= 4) body(std::integral_constant<int, 4>()); break;
    case 5: if constexpr (ROW_TILE >= 5) body(std::integral_constant<int, 5>()); break;
    case 6: if constexpr (ROW_TILE >= 6) body(std::integral_constant<int, 6>()); break;
    case 7: if constexpr (ROW_TILE >= 7) body(std::integral_constant<int, 7>()); break;
    default: if constexpr (ROW_TILE >= 8) body(std::integral_constant<int, 8>());
  }
}

constexpr int64_t MOST_TILES = 16;     // of rows that meet a panel together
constexpr int64_t WORDS_AT_ONCE = 96;  // two times their weights fit into the nearest cache

// One panel for several tiles of rows, `count` from `first_row` on. It is cut into parts that stay in the nearest cache until all
// rows have met them. Meanwhile each step asks for some of the next part; the last one for the first of `following`.
template <int KIND, class Finish>
static void panel_in_parts(const Linear& linear, int64_t panel, const Rows& rows, int64_t first_row, int64_t count,
                           const char* following, bool once, Finish& finish) {
  const int64_t stride = row_bytes(KIND, linear.k), words = words_of(KIND, linear.k), width = bytes_of_step(KIND);
  const int64_t tiles = (count + ROW_TILE - 1) / ROW_TILE, height = (count + tiles - 1) / tiles;
  const int64_t parts = (words + WORDS_AT_ONCE - 1) / WORDS_AT_ONCE, size = (words + parts - 1) / parts;
  const char* w = (const char*)linear.weight + panel * words * width;
  Sum<KIND> sums[MOST_TILES * ROW_TILE][NV];
  for (int64_t row = 0; row < count; row++)
    for (int v = 0; v < NV; v++) sums[row][v] = Sum<KIND>{};
  for (int64_t at = 0; at < words; at += size) {
    const int64_t own = words - at < size ? words - at : size;
    Ahead ahead{at + size < words ? w + (at + size) * width : following, width / tiles, once};
    for (int64_t row = 0; row < count; row += height, ahead.from += size * width / tiles) {
      const char* x = rows.data + (first_row + row) * stride + 4 * at;
      with_rows(count - row < height ? count - row : height, [&](auto number) {
        constexpr int R = decltype(number)::value;
        Sum<KIND> held[R][NV];  // in registers
        for (int r = 0; r < R; r++)
          for (int v = 0; v < NV; v++) held[r][v] = sums[row + r][v];
        add_products<KIND, R, false>(w + at * width, x, stride, own, ahead, held);
        for (int r = 0; r < R; r++)
          for (int v = 0; v < NV; v++) sums[row + r][v] = held[r][v];
      });
    }
  }
  for (int64_t row = 0; row < count; row++) finish_rows<KIND, 1>(linear, panel, rows, first_row + row, sums + row, finish);
}

// The panel that a thread reads after `panel` of those before `last`; `next`: the first that it will likely be given then.
INLINE int64_t following(const Linear& linear, int64_t panel, int64_t last, int64_t next) {
  return panel + 1 < last ? panel + 1 : next < linear.n / PANEL ? next : panel;
}

#if HAS_TILES
template <int KIND, class Finish>
static void panels_on_tiles(const Linear& linear, const Rows& rows, int64_t count, int64_t first, int64_t last,
                            int64_t next, Finish& finish) {
  const int64_t stride = row_bytes(KIND, linear.k), words = words_of(KIND, linear.k), bytes = bytes_of_panel(linear);
  constexpr int64_t TOGETHER = 2 * TILE_ROWS;
  alignas(64) int32_t sums[TOGETHER * PANEL];
  Tiles tiles;
  for (int64_t panel = first; panel < last; panel++) {
    const char* w = (const char*)linear.weight + panel * bytes;
    const char* later = w + (following(linear, panel, last, next) - panel) * bytes;
    for (int64_t row = 0; row < count; row += TOGETHER) {
      const int64_t upper = std::min<int64_t>(count - row, TILE_ROWS);
      const int64_t lower = std::min<int64_t>(count - row - upper, TILE_ROWS);
      const char* x = rows.data + row * stride;
      set_up_for_products(tiles, upper, lower);
      if (lower) multiply_tiles<KIND == INT8, true>(w, x, stride, words, later, sums);
      else multiply_tiles<KIND == INT8, false>(w, x, stride, words, later, sums);
      for (int64_t r = 0; r < upper + lower; r++) {
        vf values[NV];
        for (int v = 0; v < NV; v++) {
          const vi bits = load_bits(sums + r * PANEL + v * W);
          values[v] = KIND == INT8 ? rescale(linear, panel, v, bits, rows.scale[row + r]) : (vf)bits;
        }
        add_bias(linear, panel, values);
        finish(panel, row + r, values);
      }
    }
  }
}
#endif

template <int KIND, class Finish>
static void panels(const Linear& linear, const Rows& rows, int64_t count, int64_t first, int64_t last, int64_t next,
                   Finish& finish) {
#if HAS_TILES
  if constexpr (KIND == BFLOAT16 || KIND == INT8)
    if (tiles_allowed()) return panels_on_tiles<KIND>(linear, rows, count, first, last, next, finish);
#endif
  constexpr int64_t STEPS_AHEAD = 24;  // between a prefetch and its use
  constexpr int64_t MOST = MOST_TILES * ROW_TILE;
  const int64_t stride = row_bytes(KIND, linear.k), width = bytes_of_step(KIND), words = words_of(KIND, linear.k);
  const bool once = count <= MOST && !rows.again;
  for (int64_t panel = first; panel < last; panel++) {
    const char* w = (const char*)linear.weight + panel * words * width;
    const char* later = w + (following(linear, panel, last, next) - panel) * words * width;
    if (count > ROW_TILE) {
      for (int64_t row = 0; row < count; row += MOST)
        panel_in_parts<KIND>(linear, panel, rows, row, count - row < MOST ? count - row : MOST, later, once, finish);
      continue;
    }
    if (count > 0) with_rows(count, [&](auto number) {
      constexpr int R = decltype(number)::value;
      Sum<KIND> sums[R][NV] = {};
      const Ahead ahead{w + std::min(STEPS_AHEAD, words) * width, width, once, w + words * width, later};
      add_products<KIND, R, true>(w, rows.data, stride, words, ahead, sums);
      finish_rows<KIND, R>(linear, panel, rows, 0, sums, finish);
    });
  }
}

// Calls finish for the rows from `row` on, R of them at a time, and the last ones together. `next`: the panel that is read
// then; each tile asks for `step` bytes of it a block.
template <int64_t TYPE, int R, class Finish>
INLINE void block_tiles(const Linear& linear, int64_t panel, const Rows& rows, int64_t row, int64_t count,
                        const char* next, int64_t step, bool once, Finish& finish) {
  const int64_t blocks = blocks_of(linear.k);
  const char* w = panel_of_blocks(linear, panel).data;
  for (; row + R <= count; row += R) {
    const char* ahead = next + row / ROW_TILE * 2 * step * blocks;
    vf out[R][NV];
    multiply_blocks<TYPE, R>(w, (const RowBlock*)rows.data + row * blocks, blocks, next, ahead, step, once, out);
    for (int r = 0; r < R; r++) {
      add_bias(linear, panel, out[r]);
      finish(panel, row + r, out[r]);
    }
  }
  if constexpr (R > 1)
    if (row < count) block_tiles<TYPE, R - 1>(linear, panel, rows, row, count, next, step, once, finish);
}

template <class Finish>
static void panels_of_blocks(const Linear& linear, const Rows& rows, int64_t count, int64_t first, int64_t last,
                             int64_t next, Finish& finish) {
  const int64_t tiles = (count + ROW_TILE - 1) / ROW_TILE;
  for (int64_t panel = first; panel < last; panel++) {
    const BlockPanel own = panel_of_blocks(linear, panel);
    const int64_t later = following(linear, panel, last, next);
    const BlockPanel other = panel_of_blocks(linear, later);
    const int64_t step = tiles > 1 && later > panel ? other.bytes / (2 * blocks_of(linear.k) * tiles) : 0;
    for_type(own.type, [&](auto type) {
      block_tiles<type(), ROW_TILE>(linear, panel, rows, 0, count, other.data, step, tiles == 1 && !rows.again, finish);
    });
  }
}

INLINE void will_read(Team& team, const Linear& linear) { team.will_read(linear.weight, bytes_of_weights(linear)); }

// The whole product, shared among the team by columns.
template <class Finish>
INLINE void run_linear(Team& team, const Linear& linear, const Rows& rows, int64_t count, Finish finish) {
  int64_t number = linear.n / PANEL;
  int64_t piece = number / (8 * team.size());
  piece = piece < 1 ? 1 : piece > 16 ? 16 : piece;
  team.share(number, piece, [&](int64_t first, int64_t last) {
    const int64_t next = first + piece * team.size();
    switch (linear.kind) {
      case FLOAT32: panels<FLOAT32>(linear, rows, count, first, last, next, finish); break;
      case BFLOAT16: panels<BFLOAT16>(linear, rows, count, first, last, next, finish); break;
      case INT8: panels<INT8>(linear, rows, count, first, last, next, finish); break;
      case BLOCKS: panels_of_blocks(linear, rows, count, first, last, next, finish); break;
      default: panels<INT8_WEIGHT>(linear, rows, count, first, last, next, finish);
    }
  });
}

// What becomes of a panel's values. `width`: columns of a row of `out`.
struct Store {
  float* out;
  int64_t width;
  INLINE_MEMBER void operator()(int64_t panel, int64_t row, const vf (&values)[NV]) {
    float* to = out + row * width + panel * PANEL;
    if ((panel + 1) * PANEL <= width) {
      for (int v = 0; v < NV; v++) store(to + v * W, values[v]);
    } else {
      memcpy(to, values, 4 * (width - panel * PANEL));
    }
  }
};

struct AddTo {
  float* out;
  int64_t width;
  INLINE_MEMBER void operator()(int64_t panel, int64_t row, const vf (&values)[NV]) {
    float* to = out + row * width + panel * PANEL;
    int64_t last = width - panel * PANEL;
    if (last >= PANEL) {
      for (int v = 0; v < NV; v++) store(to + v * W, load(to + v * W) + values[v]);
    } else {
      for (int64_t i = 0; i < last; i++) to[i] += ((const float*)values)[i];
    }
  }
};

struct Gate {
  RowWriter out;
  int64_t width;  // of the product: half the packed columns
  INLINE_MEMBER void operator()(int64_t panel, int64_t row, const vf (&values)[NV]) {
    constexpr int64_t COLUMNS = PANEL / 2;
    float product[COLUMNS];
    for (int v = 0; v < NV / 2; v++) store(product + v * W, silu(values[v]) * values[NV / 2 + v]);
    const int64_t first = panel * COLUMNS, left = width - first;
    if (left >= COLUMNS) out.put(row, first, product, COLUMNS);
    else out.put(row, first, product, left);
  }
};

// Stores logits, if they are wanted, and keeps each row's largest.
struct StoreLogits {
  float* out;  // or null
  int64_t width;
  Best* best;  // [rows, kept], this thread's own
  int64_t kept;
  INLINE_MEMBER void operator()(int64_t panel, int64_t row, const vf (&values)[NV]) {
    if (out) Store{out, width}(panel, row, values);
    Largest{best + row * kept, kept, width}.meet(panel * PANEL, values);
  }
};
