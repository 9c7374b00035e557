// Attention over the paged cache with online softmax, for prefill chunks, decoding, chains and trees alike.
//
// Keys are taken in chunks of 16 by *logical* position, an ancestor's key through its path, and each chunk is folded into
// the running maximum, sum and output in order. What a row computes depends on its position, its query and the keys of
// its own path: not on where those lie in the cache, on the rows beside it, or on whether it was drafted in a tree.
#pragma once

#include <algorithm>
#include <vector>

#include "../cpu/gate.h"
#include "../cpu/simd.h"
#include "../cpu/threads.h"
#include "../linear/cpu.h"
#include "../norm/cpu.h"

constexpr int CHUNK = 16;
// Rows that share one read of a chunk: at most so many, and no fewer for the sake of idle threads.
constexpr int ATTENTION_ROWS = 16, FEW_ROWS = 4;
constexpr int MAX_HEAD = 256;
constexpr int FOLD = 6;  // most queries that are folded together

enum CacheKind : int32_t { CACHE_FLOAT32 = 0, CACHE_BFLOAT16 = 1, CACHE_INT8 = 2 };

// One layer of the cache: entries of head_size numbers, and a scale for each if int8. Slots and heads may lie in either
// order.
struct KeyValues {
  int32_t kind;
  void *keys, *values;
  float *key_scales, *value_scales;
  int64_t slot_step, head_step;  // entries from a slot, or a head, to the next
  int64_t slots, heads, size;    // how many there are, and numbers of an entry
};

INLINE int64_t entry(const KeyValues& cache, int64_t slot, int64_t head) {
  return slot * cache.slot_step + head * cache.head_step;
}

struct Shape {
  int64_t heads, kv_heads, head_size;
  float scale;
  int64_t window;  // 0: none
  float softcap;   // 0: none
};

// Whose rows the flat batch holds, and what they attend to.
struct Sequences {
  int64_t count;
  const int64_t* row_start;     // [count + 1]
  const int64_t* committed;     // [count]
  const int64_t* first;         // [count], reserved rows that were run earlier in the step
  const int64_t* slot_start;    // [count + 1] into `slots`
  const int64_t* slots;         // cache slot of every token, in storage order
  const int64_t* parent_start;  // [count + 1] into `parents`; an empty range means a chain
  const int32_t* parents;       // reserved row → the reserved row it follows, or -1
};

INLINE void demand_cache(const KeyValues& cache, int64_t kv_heads, int64_t head_size) {
  DEMAND(cache.kind >= CACHE_FLOAT32 && cache.kind <= CACHE_INT8, "%d is no kind of cache", cache.kind);
  demand_memory(cache.keys, "keys");
  demand_memory(cache.values, "values");
  if (cache.kind == CACHE_INT8) demand_memory(cache.key_scales, "scales of keys");
  if (cache.kind == CACHE_INT8) demand_memory(cache.value_scales, "scales of values");
  DEMAND(cache.heads == kv_heads && cache.size == head_size, "the cache has %lld heads of %lld, the keys %lld of %lld",
         (long long)cache.heads, (long long)cache.size, (long long)kv_heads, (long long)head_size);
}

INLINE void demand_shape(const Shape& shape) {
  DEMAND(shape.head_size >= 1 && shape.head_size <= MAX_HEAD, "a head of %lld numbers; 1 to %d can be",
         (long long)shape.head_size, MAX_HEAD);
  DEMAND(shape.kv_heads >= 1 && shape.heads >= 1 && shape.heads % shape.kv_heads == 0,
         "%lld heads cannot share %lld key heads evenly", (long long)shape.heads, (long long)shape.kv_heads);
  demand_size(shape.window, 0, "window");
}

// Every row's path leads to the committed tokens: parents are rows, and no row follows itself. Children may be stored
// before their parents.
INLINE void demand_tree(const int32_t* parents, int64_t rows, int64_t sequence) {
  bool in_order = true;
  for (int64_t row = 0; row < rows; row++) {
    DEMAND(parents[row] >= -1 && parents[row] < rows, "row %lld of sequence %lld follows row %d of %lld", (long long)row,
           (long long)sequence, parents[row], (long long)rows);
    in_order &= parents[row] < row;
  }
  if (in_order) return;
  for (int64_t row = 0; row < rows; row++) {
    int64_t steps = 0;
    for (int64_t at = row; at >= 0; at = parents[at])
      DEMAND(steps++ < rows, "row %lld of sequence %lld follows itself", (long long)row, (long long)sequence);
  }
}

// Rows, slots and parents of every sequence lie within each other, and within a cache of so many slots.
INLINE void demand_sequences(const Sequences& all, int64_t rows, int64_t slots) {
  demand_size(all.count, 0, "sequences");
  demand_borders(all.row_start, all.count, "row borders");
  demand_borders(all.slot_start, all.count, "slot borders");
  demand_borders(all.parent_start, all.count, "parent borders");
  DEMAND(all.row_start[all.count] == rows, "the sequences have %lld rows, the batch %lld",
         (long long)all.row_start[all.count], (long long)rows);
  demand_within(all.committed, all.count, 0, INT32_MAX, "committed tokens of sequence");
  demand_within(all.first, all.count, 0, INT32_MAX, "first row of sequence");
  demand_within(all.slots, all.slot_start[all.count], 0, slots, "slot");
  for (int64_t s = 0; s < all.count; s++) {
    const int64_t reserved = all.first[s] + all.row_start[s + 1] - all.row_start[s];
    const int64_t own = all.slot_start[s + 1] - all.slot_start[s], links = all.parent_start[s + 1] - all.parent_start[s];
    DEMAND(all.committed[s] + reserved <= own, "sequence %lld has %lld tokens in %lld slots", (long long)s,
           (long long)(all.committed[s] + reserved), (long long)own);
    DEMAND(links == 0 || links >= reserved, "sequence %lld has %lld parents for %lld rows", (long long)s,
           (long long)links, (long long)reserved);
    if (links) demand_tree(all.parents + all.parent_start[s], reserved, s);
  }
}

// Where the rows' queries are, and what is done to them first: norm (Qwen3) and rotation, each unless null.
struct Queries {
  const float* x;
  int64_t stride;                // floats from a row to the next
  const float *norm = nullptr;   // [head_size]
  float eps = 0.0f;
  const float *cosine = nullptr, *sine = nullptr;  // [rows, head_size / 2]
  // Other threads may have computed them: they are asked for together.
  INLINE_MEMBER void ask_for(int64_t row, int64_t head, int64_t size) const {
    for (int64_t i = 0; i < size; i += 16) __builtin_prefetch(x + row * stride + head + i);
  }
  INLINE_MEMBER void read(int64_t row, int64_t head, int64_t size, float* out) const {
    memcpy(out, x + row * stride + head * size, 4 * size);
    if (norm) rms_norm(out, norm, size, eps, out);
    if (cosine) rotate(out, cosine + row * (size / 2), sine + row * (size / 2), size);
  }
};

INLINE void write_entry(const KeyValues& cache, int64_t slot, int64_t head, const Shape& shape, const float* key,
                        const float* value) {
  const int64_t at = entry(cache, slot, head);
  for (int side = 0; side < 2; side++) {
    const float* x = side ? value : key;
    void* base = side ? cache.values : cache.keys;
    int64_t size = shape.head_size;
    if (cache.kind == CACHE_FLOAT32) {
      memcpy((float*)base + at * size, x, 4 * size);
    } else if (cache.kind == CACHE_BFLOAT16) {
      to_bfloat16(x, size, (uint16_t*)base + at * size);
    } else {
      const float largest = largest_magnitude(x, size);
      float inverse = largest > 0 ? 127.0f / largest : 0.0f;
      int8_t* o = (int8_t*)base + at * size;
      for (int64_t i = 0; i < size; i++) o[i] = (int8_t)rintf(x[i] * inverse);
      (side ? cache.value_scales : cache.key_scales)[at] = largest / 127.0f;
    }
  }
}

INLINE void read_entry(int32_t kind, const void* base, const float* scales, int64_t at, int64_t size, float* out) {
  if (kind == CACHE_FLOAT32) {
    memcpy(out, (const float*)base + at * size, 4 * size);
    return;
  }
  int64_t i = 0;
  if (kind == CACHE_BFLOAT16) {
    const uint16_t* x = (const uint16_t*)base + at * size;
    for (; i + W <= size; i += W) store(out + i, load_bfloat16(x + i));
    for (; i < size; i++) out[i] = from_bfloat16(x[i]);
  } else {
    const int8_t* x = (const int8_t*)base + at * size;
    float scale = scales[at];
    for (; i + W <= size; i += W) store(out + i, load_int8(x + i) * scale);
    for (; i < size; i++) out[i] = x[i] * scale;
  }
}

// Head size rounded up to whole vectors; what is added is zero.
INLINE int64_t padded(int64_t size) { return (size + W - 1) / W * W; }

// 16 keys and values in float32. Keys lie by dimension, [padded head size][16], so that a query meets all of them at once;
// values as they come, [16][padded head size].
struct Chunk {
  alignas(64) float keys[MAX_HEAD * CHUNK];
  alignas(64) float values[CHUNK * MAX_HEAD];
};

INLINE void read_chunk(const KeyValues& cache, const Shape& shape, int64_t head, const int64_t* slots, int count,
                       Chunk& chunk) {
  const int64_t size = shape.head_size, stride = padded(size);
  alignas(64) float rows[W][MAX_HEAD];
  for (int first = 0; first < CHUNK; first += W) {
    for (int j = 0; j < W; j++) {
      memset(rows[j] + stride - W, 0, 4 * W);
      if (first + j >= count) {
        memset(rows[j], 0, 4 * stride);
        continue;
      }
      float* value = chunk.values + (first + j) * stride;
      const int64_t at = entry(cache, slots[first + j], head);
      memset(value + stride - W, 0, 4 * W);
      read_entry(cache.kind, cache.keys, cache.key_scales, at, size, rows[j]);
      read_entry(cache.kind, cache.values, cache.value_scales, at, size, value);
    }
    for (int64_t d = 0; d < stride; d += W) {
      vf block[W];
      for (int j = 0; j < W; j++) block[j] = load(rows[j] + d);
      transpose(block);
      for (int i = 0; i < W; i++) store(chunk.keys + (d + i) * CHUNK + first, block[i]);
    }
  }
}

// Where products of bfloat16 are one instruction, a cache in bfloat16 is not widened: keys and values stay as pairs that
// share a 32-bit word, queries and weights are rounded, sums are float32.
#if defined(__AVX512BF16__)
constexpr bool HAS_PAIRS = true;
#else
constexpr bool HAS_PAIRS = false;
#endif

INLINE bool in_pairs(const KeyValues& cache, const Shape& shape) {
  return HAS_PAIRS && cache.kind == CACHE_BFLOAT16 && shape.head_size % (2 * W) == 0;
}

// The same in pairs: keys [head size / 2][16], words of two neighbouring dimensions; values [8][head size], words of two
// neighbouring keys.
INLINE void read_pairs(const KeyValues& cache, const Shape& shape, int64_t head, const int64_t* slots, int count,
                       Chunk& chunk) {
  const int64_t size = shape.head_size;
  const uint16_t *keys[CHUNK], *values[CHUNK];
  for (int j = 0; j < count; j++) {
    const int64_t at = entry(cache, slots[j], head) * size;
    keys[j] = (const uint16_t*)cache.keys + at;
    values[j] = (const uint16_t*)cache.values + at;
  }
  for (int first = 0; first < CHUNK; first += W)
    for (int64_t word = 0; word < size / 2; word += W) {
      vf block[W];
      for (int j = 0; j < W; j++) block[j] = first + j < count ? (vf)load_bits(keys[first + j] + 2 * word) : vf{};
      transpose(block);
      for (int i = 0; i < W; i++) store(chunk.keys + (word + i) * CHUNK + first, block[i]);
    }
  for (int j = 0; j < CHUNK; j += 2)
    for (int64_t d = 0; d < size; d += W) {
      const vi even = j < count ? (vi)load_bfloat16(values[j] + d) : vi{};
      const vi odd = j + 1 < count ? (vi)load_bfloat16(values[j + 1] + d) : vi{};
      store(chunk.values + j / 2 * size + d, (vf)(((even >> 16) & 0xffff) | odd));
    }
}

// What a row and head have gathered so far.
struct Running {
  vf maximum, sum;  // the maximum in every lane
  alignas(64) float query[MAX_HEAD], out[MAX_HEAD];
  alignas(64) uint16_t rounded[MAX_HEAD];  // the query, for pairs
};

constexpr int CV = CHUNK / W;

// Scores of W keys for N queries: over the dimensions FIRST, FIRST + STEP, FIRST + 2 STEP and so on, those below W as a
// tree and those W apart in turn.
template <int N, int SIZE, int FIRST = 0, int STEP = 1>
INLINE void dot(const float* keys, int64_t stride, const Running* states, vf (&out)[N]) {
  if constexpr (STEP < W) {
    vf other[N];
    dot<N, SIZE, FIRST, 2 * STEP>(keys, stride, states, out);
    dot<N, SIZE, FIRST + STEP, 2 * STEP>(keys, stride, states, other);
    for (int n = 0; n < N; n++) out[n] += other[n];
  } else {
    const vf first = load(keys + FIRST * CHUNK);
    for (int n = 0; n < N; n++) out[n] = states[n].query[FIRST] * first;
    for (int64_t d = FIRST + W; d < (SIZE ? SIZE : stride); d += W) {
      const vf key = load(keys + d * CHUNK);
      for (int n = 0; n < N; n++) out[n] = fma(splat(states[n].query[d]), key, out[n]);
    }
  }
}

// Turns scores of the chunk's places [from, to) into weights under the running maximum, which they may raise; returns the
// factor by which what was gathered before must shrink.
INLINE vf weigh(vf (&score)[CV], const Shape& shape, int from, int to, Running& state, float* weight) {
  vf top = splat(-INFINITY);
  for (int v = 0; v < CV; v++) {
    score[v] *= shape.scale;
    if (shape.softcap > 0) {
      vf twice = exponential(score[v] * (2.0f / shape.softcap));
      score[v] = shape.softcap * (1.0f - 2.0f / (twice + 1.0f));
    }
    const vi place = lane_numbers() + v * W;
    if (from > 0 || to < CHUNK) score[v] = (place >= from) & (place < to) ? score[v] : splat(-INFINITY);
    top = maximum(score[v], top);
  }
  vf keep = splat(1.0f);  // mostly the maximum stays
  if (any_lane(top > state.maximum)) {
    const vf before = state.maximum;
    state.maximum = maximum(max_lanes(top), before);
    keep = exponential(before - state.maximum);
    state.sum *= keep;
  }
  for (int v = 0; v < CV; v++) {
    vf e = exponential(score[v] - state.maximum);
    state.sum += e;
    store(weight + v * W, e);
  }
  return keep;
}

// Folds the chunk's places [from, to) into N queries that see just these: the heads of a row, or of several. They share
// the reads of keys and values, and each is computed as if it were alone. SIZE is the head size where the compiler shall
// know it, or 0.
template <int N, int SIZE>
INLINE void fold(const Chunk& chunk, const Shape& shape, int from, int to, Running* states) {
  const int64_t stride = SIZE ? SIZE : padded(shape.head_size);
  alignas(64) float weight[N][CHUNK];
  vf score[N][CV], keep[N];
  for (int v = 0; v < CV; v++) {
    vf each[N];
    dot<N, SIZE>(chunk.keys + v * W, stride, states, each);
    for (int n = 0; n < N; n++) score[n][v] = each[n];
  }
  for (int n = 0; n < N; n++) keep[n] = weigh(score[n], shape, from, to, states[n], weight[n]);
  for (int64_t d = 0; d < stride;) {
    const bool pair = d + 2 * W <= stride;
    vf acc[N][2];
    for (int n = 0; n < N; n++) {
      acc[n][0] = load(states[n].out + d) * keep[n];
      if (pair) acc[n][1] = load(states[n].out + d + W) * keep[n];
    }
    if (pair) {
      for (int j = from; j < to; j++) {
        const float* value = chunk.values + j * stride + d;
        const vf v0 = load(value), v1 = load(value + W);
        for (int n = 0; n < N; n++) {
          acc[n][0] = fma(v0, splat(weight[n][j]), acc[n][0]);
          acc[n][1] = fma(v1, splat(weight[n][j]), acc[n][1]);
        }
      }
    } else {
      for (int j = from; j < to; j++)
        for (int n = 0; n < N; n++)
          acc[n][0] = fma(load(chunk.values + j * stride + d), splat(weight[n][j]), acc[n][0]);
    }
    for (int n = 0; n < N; n++) {
      store(states[n].out + d, acc[n][0]);
      if (pair) store(states[n].out + d + W, acc[n][1]);
    }
    d += pair ? 2 * W : W;
  }
}

INLINE int32_t word_of(const uint16_t* halves, int64_t index) {
  int32_t word;
  memcpy(&word, halves + 2 * index, 4);
  return word;
}

// The same for a chunk in pairs. Each score has four sums, over every fourth pair of dimensions.
template <int N, int SIZE>
INLINE void fold_pairs(const Chunk& chunk, const Shape& shape, int from, int to, Running* states) {
  const int64_t size = SIZE ? SIZE : shape.head_size;
  constexpr int V = SIZE && SIZE % (4 * W) == 0 ? 4 : 2;  // vectors of the output that are held at once
  alignas(64) float weight[N][CHUNK];
  alignas(64) uint16_t rounded[N][CHUNK];
  vf score[N][CV], keep[N];
  for (int v = 0; v < CV; v++) {
    vf part[N][4] = {};
    for (int64_t word = 0; word < size / 2; word += 4)
      for (int k = 0; k < 4; k++) {
        const vi key = load_bits(chunk.keys + (word + k) * CHUNK + v * W);
        for (int n = 0; n < N; n++)
          part[n][k] = dot_bfloat16(part[n][k], key, splat_bits(word_of(states[n].rounded, word + k)));
      }
    for (int n = 0; n < N; n++) score[n][v] = (part[n][0] + part[n][1]) + (part[n][2] + part[n][3]);
  }
  for (int n = 0; n < N; n++) {
    keep[n] = weigh(score[n], shape, from, to, states[n], weight[n]);
    for (int v = 0; v < CV; v++) store_bfloat16(rounded[n] + v * W, load(weight[n] + v * W));
  }
  for (int64_t d = 0; d < size; d += V * W) {
    vf acc[N][V];
    for (int n = 0; n < N; n++)
      for (int v = 0; v < V; v++) acc[n][v] = load(states[n].out + d + v * W) * keep[n];
    for (int j = from / 2; j < (to + 1) / 2; j++) {
      vi value[V];
      for (int v = 0; v < V; v++) value[v] = load_bits(chunk.values + j * size + d + v * W);
      for (int n = 0; n < N; n++) {
        const vi pair = splat_bits(word_of(rounded[n], j));
        for (int v = 0; v < V; v++) acc[n][v] = dot_bfloat16(acc[n][v], value[v], pair);
      }
    }
    for (int n = 0; n < N; n++)
      for (int v = 0; v < V; v++) store(states[n].out + d + v * W, acc[n][v]);
  }
}

template <int N, int SIZE, bool IN_PAIRS>
INLINE void fold_either(const Chunk& chunk, const Shape& shape, int from, int to, Running* states) {
  if constexpr (IN_PAIRS) fold_pairs<N, SIZE>(chunk, shape, from, to, states);
  else fold<N, SIZE>(chunk, shape, from, to, states);
}

// The same for any number of queries, a few at a time: as many as registers hold the sums of.
template <int SIZE, bool IN_PAIRS>
INLINE void fold_all(const Chunk& chunk, const Shape& shape, int from, int to, Running* states, int64_t count) {
  while (count > 0) {
    const int64_t step = count >= FOLD ? FOLD : count >= 4 ? 4 : count;
    switch (step) {
      case FOLD: fold_either<FOLD, SIZE, IN_PAIRS>(chunk, shape, from, to, states); break;
      case 4: fold_either<4, SIZE, IN_PAIRS>(chunk, shape, from, to, states); break;
      case 3: fold_either<3, SIZE, IN_PAIRS>(chunk, shape, from, to, states); break;
      case 2: fold_either<2, SIZE, IN_PAIRS>(chunk, shape, from, to, states); break;
      default: fold_either<1, SIZE, IN_PAIRS>(chunk, shape, from, to, states);
    }
    states += step;
    count -= step;
  }
}

// Asks for the entries of the next chunk, so that they come while this one is computed with.
INLINE void fetch_ahead(const KeyValues& cache, int64_t size, int64_t head, const int64_t* slots, int64_t count) {
  const int64_t width = size * (cache.kind == CACHE_FLOAT32 ? 4 : cache.kind == CACHE_BFLOAT16 ? 2 : 1);
  for (int64_t j = 0; j < std::min<int64_t>(count, CHUNK); j++) {
    const int64_t at = entry(cache, slots[j], head) * width;
    for (int64_t line = 0; line < width; line += 64) {
      __builtin_prefetch((const char*)cache.keys + at + line);
      __builtin_prefetch((const char*)cache.values + at + line);
    }
  }
}

// Slots of a drafted row's path below the committed tokens, by depth.
INLINE void path_slots(const Sequences& all, int64_t s, int64_t reserved, std::vector<int64_t>& slots) {
  const int64_t* own = all.slots + all.slot_start[s] + all.committed[s];
  const int32_t* parents = all.parents + all.parent_start[s];
  slots.clear();
  for (int64_t row = reserved; row >= 0; row = parents[row]) slots.push_back(own[row]);
  std::reverse(slots.begin(), slots.end());
}

// Rows [row, row + count) of one sequence, all heads that read KV head `head`.
template <int SIZE, bool IN_PAIRS>
static void attend(const Queries& queries, const KeyValues& cache, const Shape& shape, const Sequences& all, int64_t s,
                   int64_t row, int count, int64_t head, const RowWriter& out) {
  static thread_local std::vector<int64_t> paths[ATTENTION_ROWS];
  static thread_local std::vector<Running> states;
  static thread_local Chunk chunk;
  const int64_t group = shape.heads / shape.kv_heads, size = shape.head_size, committed = all.committed[s];
  const bool chain = all.parent_start[s] == all.parent_start[s + 1];
  const int64_t* slots = all.slots + all.slot_start[s];
  int64_t position[ATTENTION_ROWS], start[ATTENTION_ROWS], first_chunk = INT64_MAX, longest = 0;
  for (int r = 0; r < count; r++) queries.ask_for(row + r, head * group * size, group * size);
  if ((int64_t)states.size() < ATTENTION_ROWS * group) states.resize(ATTENTION_ROWS * group);
  for (int r = 0; r < count; r++) {
    const int64_t reserved = all.first[s] + row - all.row_start[s] + r;
    if (!chain) path_slots(all, s, reserved, paths[r]);
    position[r] = committed + (chain ? reserved : (int64_t)paths[r].size() - 1);
    start[r] = shape.window && position[r] >= shape.window ? position[r] - shape.window + 1 : 0;
    first_chunk = std::min(first_chunk, start[r] / CHUNK);
    longest = std::max(longest, position[r]);
    for (int64_t g = 0; g < group; g++) {
      Running& state = states[r * group + g];
      state.maximum = splat(-1e30f);
      state.sum = vf{};
      memset(state.out, 0, 4 * padded(size));
      memset(state.query + padded(size) - W, 0, 4 * W);
      queries.read(row + r, head * group + g, size, state.query);
      if constexpr (IN_PAIRS)
        for (int64_t d = 0; d < size; d += W) store_bfloat16(state.rounded + d, load(state.query + d));
    }
  }
  for (int64_t begin = first_chunk * CHUNK; begin <= longest; begin += CHUNK) {
    const bool shared = chain || begin + CHUNK <= committed;
    bool read = false;
    for (int r = 0; r < count; r++) {
      if (position[r] < begin || start[r] >= begin + CHUNK) continue;
      if (!shared || !read) {
        int64_t found[CHUNK];
        const int available = (int)std::min<int64_t>((shared ? longest : position[r]) + 1 - begin, CHUNK);
        for (int j = 0; j < available; j++) {
          int64_t at = begin + j;
          found[j] = shared || at < committed ? slots[at] : paths[r][at - committed];
        }
        if constexpr (IN_PAIRS) read_pairs(cache, shape, head, found, available, chunk);
        else read_chunk(cache, shape, head, found, available, chunk);
        read = true;
        if (shared) fetch_ahead(cache, size, head, slots + begin + CHUNK, longest + 1 - begin - CHUNK);
      }
      const int from = (int)std::max<int64_t>(start[r] - begin, 0);
      const int to = (int)std::min<int64_t>(position[r] + 1 - begin, CHUNK);
      auto sees_all = [&](int row) { return start[row] <= begin && position[row] + 1 >= begin + CHUNK; };
      int together = 1;  // rows, this one and those behind it
      if (shared && sees_all(r))
        while (r + together < count && sees_all(r + together)) together++;
      fold_all<SIZE, IN_PAIRS>(chunk, shape, from, to, &states[r * group], together * group);
      r += together - 1;
    }
  }
  for (int r = 0; r < count; r++)
    for (int64_t g = 0; g < group; g++) {
      Running& state = states[r * group + g];
      const float sum = sum_lanes(state.sum);
      for (int64_t d = 0; d < size; d++) state.out[d] /= sum;
      out.put(row + r, (head * group + g) * size, state.out, size);
    }
}

// Pieces of at most `rows` rows that all sequences make.
INLINE int64_t pieces(const Sequences& all, int64_t rows) {
  int64_t count = 0;
  for (int64_t s = 0; s < all.count; s++) count += (all.row_start[s + 1] - all.row_start[s] + rows - 1) / rows;
  return count;
}

// All rows. Work is cut by sequence, rows and KV head: into small pieces where there are few, so that no thread is idle.
INLINE void run_attention(Team& team, const Queries& queries, const KeyValues& cache, const Shape& shape,
                          const Sequences& all, const RowWriter& out) {
  int64_t rows = ATTENTION_ROWS;
  while (rows > FEW_ROWS && pieces(all, rows) * shape.kv_heads < 3 * team.size()) rows /= 2;
  team.share(pieces(all, rows) * shape.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      int64_t piece = item / shape.kv_heads, s = 0;
      for (;; s++) {
        const int64_t own = (all.row_start[s + 1] - all.row_start[s] + rows - 1) / rows;
        if (piece < own) break;
        piece -= own;
      }
      const int64_t row = all.row_start[s] + piece * rows, left = all.row_start[s + 1] - row;
      auto* run = shape.head_size == 64 ? attend<64, false> : shape.head_size == 128 ? attend<128, false> : attend<0, false>;
      if constexpr (HAS_PAIRS)
        if (in_pairs(cache, shape))
          run = shape.head_size == 64 ? attend<64, true> : shape.head_size == 128 ? attend<128, true> : attend<0, true>;
      run(queries, cache, shape, all, s, row, (int)std::min(left, rows), item % shape.kv_heads, out);
    }
  });
}
