// A chunk in pairs, folded on Intel's matrix tiles: 16 queries cost what one does, but for their weights.
//
// Where tiles may be used every chunk in pairs goes through them, whatever the number of queries, so that what a query
// gathers does not depend on it.
#pragma once

#include "../linear/amx.h"
#include "fold.h"

#if HAS_TILES

// Tiles: 0 scores, 1 queries, 2 keys, 7 weights, 3 and 5 values, 4 and 6 outputs.
// A thread sets them up for so many queries, and gives them back.
class FoldTiles {
 public:
  ~FoldTiles() {
    if (queries_) _tile_release();
  }
  INLINE_MEMBER void set_up(int queries) {
    if (queries == queries_) return;
    queries_ = queries;
    TileConfig config;
    for (int tile : {0, 1, 4, 6}) config.bytes[tile] = 64, config.rows[tile] = queries;
    for (int tile : {3, 5}) config.bytes[tile] = 64, config.rows[tile] = CHUNK / 2;
    config.bytes[2] = 64, config.rows[2] = TILE_WORDS;
    config.bytes[7] = 2 * CHUNK, config.rows[7] = queries;
    _tile_loadconfig(&config);
  }

 private:
  int queries_ = 0;
};

// Like fold_pairs, for up to 16 queries. Weights of places outside of [from, to) are zero.
template <int SIZE>
INLINE void fold_on_tiles(const Chunk& chunk, const Shape& shape, int from, int to, Running* states, int count,
                          FoldTiles& tiles) {
  const int64_t size = SIZE ? SIZE : shape.head_size;
  alignas(64) float scores[TILE_ROWS][CHUNK], weight[CHUNK];
  alignas(64) uint16_t rounded[TILE_ROWS][CHUNK];
  tiles.set_up(count);
  _tile_zero(0);
  for (int64_t word = 0; word < size / 2; word += TILE_WORDS) {
    _tile_loadd(1, states->rounded + 2 * word, sizeof(Running));
    _tile_loadd(2, chunk.keys + word * CHUNK, 4 * CHUNK);
    _tile_dpbf16ps(0, 1, 2);
  }
  _tile_stored(0, scores, 4 * CHUNK);
  for (int n = 0; n < count; n++) {
    vf score[CV];
    for (int v = 0; v < CV; v++) score[v] = load(scores[n] + v * W);
    const vf keep = weigh(score, shape, from, to, states[n], weight);
    for (int v = 0; v < CV; v++) store_bfloat16(rounded[n] + v * W, load(weight + v * W));
    if (any_lane(keep != 1.0f))
      for (int64_t d = 0; d < size; d += W) store(states[n].out + d, load(states[n].out + d) * keep);
  }
  _tile_loadd(7, rounded, 2 * CHUNK);
  for (int64_t d = 0; d < size; d += 2 * W) {
    _tile_loadd(4, states->out + d, sizeof(Running));
    _tile_loadd(6, states->out + d + W, sizeof(Running));
    _tile_loadd(3, chunk.values + d, 4 * size);
    _tile_loadd(5, chunk.values + d + W, 4 * size);
    _tile_dpbf16ps(4, 7, 3);
    _tile_dpbf16ps(6, 7, 5);
    _tile_stored(4, states->out + d, sizeof(Running));
    _tile_stored(6, states->out + d + W, sizeof(Running));
  }
}

#else

struct FoldTiles {};

#endif

// Folds a chunk into any number of queries that see the same of it.
template <int SIZE, bool IN_PAIRS>
INLINE void fold_all(const Chunk& chunk, const Shape& shape, int from, int to, Running* states, int64_t count,
                     FoldTiles& tiles) {
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
