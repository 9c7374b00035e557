// A chunk in pairs, folded on Intel's matrix tiles: 16 queries cost what one does, but for their weights.
//
// Where tiles may be used every chunk in pairs goes through them, whatever the number of queries, so that what a query
// gathers does not depend on it.
#pragma once

#include "../linear/amx.h"
#include "fold.h"

#if HAS_TILES

static_assert(CHUNK == 2 * TILE_ROWS);

// Like fold_pairs, for up to 16 queries; places outside of [from, to) weigh nothing. Tiles 0 and 1: scores and then outputs;
// 2: queries and then weights; 3 and 4: keys and then values.
template <int SIZE>
INLINE void fold_on_tiles(const Chunk& chunk, const Shape& shape, int from, int to, Running* states, int count,
                          Tiles& tiles) {
  const int64_t size = SIZE ? SIZE : shape.head_size;
  alignas(64) float scores[TILE_ROWS][CHUNK], weight[CHUNK];
  alignas(64) uint16_t rounded[TILE_ROWS][CHUNK];
  settle(&chunk);
  tiles.set_up(count, [&](int tile) { return tile < 3 ? count : TILE_WORDS; });
  _tile_zero(0);
  _tile_zero(1);
  for (int64_t word = 0; word < size / 2; word += TILE_WORDS) {
    _tile_loadd(2, states->rounded + 2 * word, sizeof(Running));
    _tile_loadd(3, chunk.keys + word * CHUNK, 4 * CHUNK);
    _tile_loadd(4, chunk.keys + word * CHUNK + W, 4 * CHUNK);
    _tile_dpbf16ps(0, 2, 3);
    _tile_dpbf16ps(1, 2, 4);
  }
  _tile_stored(0, scores[0], 4 * CHUNK);
  _tile_stored(1, scores[0] + W, 4 * CHUNK);
  for (int n = 0; n < count; n++) {
    vf score[CV];
    for (int v = 0; v < CV; v++) score[v] = load(scores[n] + v * W);
    const vf keep = weigh(score, shape, from, to, states[n], weight);
    for (int v = 0; v < CV; v++) store_bfloat16(rounded[n] + v * W, load(weight + v * W));
    if (any_lane(keep != 1.0f))
      for (int64_t d = 0; d < size; d += W) store(states[n].out + d, load(states[n].out + d) * keep);
  }
  settle(rounded);
  _tile_loadd(2, rounded, 2 * CHUNK);
  for (int64_t d = 0; d < size; d += 2 * W) {
    _tile_loadd(0, states->out + d, sizeof(Running));
    _tile_loadd(1, states->out + d + W, sizeof(Running));
    _tile_loadd(3, chunk.values + d, 4 * size);
    _tile_loadd(4, chunk.values + d + W, 4 * size);
    _tile_dpbf16ps(0, 2, 3);
    _tile_dpbf16ps(1, 2, 4);
    _tile_stored(0, states->out + d, sizeof(Running));
    _tile_stored(1, states->out + d + W, sizeof(Running));
  }
}

#endif

// Folds a chunk into any number of queries that see the same of it.
template <int SIZE, bool IN_PAIRS>
INLINE void fold_all(const Chunk& chunk, const Shape& shape, int from, int to, Running* states, int64_t count,
                     Tiles& tiles) {
#if HAS_TILES
  if constexpr (IN_PAIRS)
    if (tiles_allowed()) {
      for (int64_t at = 0; at < count; at += TILE_ROWS)
        fold_on_tiles<SIZE>(chunk, shape, from, to, states + at, (int)std::min<int64_t>(count - at, TILE_ROWS), tiles);
      return;
    }
#endif
  fold_few<SIZE, IN_PAIRS>(chunk, shape, from, to, states, count);
}
