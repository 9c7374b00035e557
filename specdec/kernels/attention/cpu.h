// Attention over the paged cache with online softmax, for prefill chunks, decoding, chains and trees alike.
//
// Keys are taken in chunks of 16 by *logical* position, an ancestor's key through its path, and each chunk is folded into
// the running maximum, sum and output in order. Every 1024 positions these begin anew, and what such sections gave is
// merged in pairs, and these in pairs again (Flash-Decoding, Dao et al. 2023): in a tree that is the same whether one
// thread went through all sections or several.
// What a row computes depends on its position, its query and the keys of its own path: not on where those lie in the
// cache, on the rows beside it, on the number of threads, or on whether it was drafted in a tree.
#pragma once

#include <algorithm>
#include <vector>

#include "../cpu/gate.h"
#include "../cpu/simd.h"
#include "../cpu/threads.h"
#include "../linear/cpu.h"
#include "../norm/cpu.h"

constexpr int CHUNK = 16, SECTION = 64 * CHUNK;  // where a section begins, maxima rise again, which costs time
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

// What a row and head have gathered of some keys.
struct Gathered {
  vf maximum, sum;  // the maximum in every lane
  alignas(64) float out[MAX_HEAD];
};

struct Running : Gathered {
  alignas(64) float query[MAX_HEAD];
  alignas(64) uint16_t rounded[MAX_HEAD];  // the query, for pairs
};

INLINE void reset(Gathered& state, int64_t stride) {
  state.maximum = splat(-1e30f);
  state.sum = vf{};
  memset(state.out, 0, 4 * stride);
}

INLINE void copy(const Gathered& from, int64_t stride, Gathered& to) {
  to.maximum = from.maximum, to.sum = from.sum;
  memcpy(to.out, from.out, 4 * stride);
}

// Puts what was gathered of earlier keys before it.
INLINE void meet(Gathered& state, const Gathered& before, int64_t stride) {
  const vf top = maximum(before.maximum, state.maximum);
  const vf earlier = exponential(before.maximum - top), later = exponential(state.maximum - top);
  state.maximum = top;
  state.sum = fma(state.sum, later, before.sum * earlier);
  for (int64_t d = 0; d < stride; d += W)
    store(state.out + d, fma(load(state.out + d), later, load(before.out + d) * earlier));
}

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

constexpr int LEVELS = 40;

// Nodes of the tree over sections, of one row, that wait for their right sibling: node n of a level covers the sections
// [n, n + 1) << level.
struct Stack {
  int size = 0;
  int64_t node[LEVELS];
  int level[LEVELS];
  bool holds_left_of(int64_t n, int l) const { return size && (n & 1) && level[size - 1] == l && node[size - 1] == n - 1; }
};

// Rows [row, row + count) of one sequence, and all heads that read one KV head: what they attend to, and their queries.
struct Part {
  int64_t s, row, head;
  int count = 0;
  bool chain;
  int64_t group, stride;
  int64_t position[ATTENTION_ROWS], start[ATTENTION_ROWS];  // of each row, and of the first key that it sees
  std::vector<int64_t> paths[ATTENTION_ROWS];
  std::vector<Running> states;  // [count * group]
  std::vector<Gathered> kept;   // [LEVELS, ATTENTION_ROWS * group]
  Stack stacks[ATTENTION_ROWS];

  bool is(int64_t s_, int64_t row_, int64_t head_) const { return count && s == s_ && row == row_ && head == head_; }
  int64_t first_section(int r) const { return start[r] / SECTION; }
  int64_t last_section(int r) const { return position[r] / SECTION; }
};

template <bool IN_PAIRS>
static void read_queries(Part& part, const Queries& queries, const Shape& shape, const Sequences& all, int64_t s,
                         int64_t row, int count, int64_t head) {
  const int64_t group = shape.heads / shape.kv_heads, size = shape.head_size;
  part.s = s, part.row = row, part.head = head, part.count = count, part.group = group, part.stride = padded(size);
  part.chain = all.parent_start[s] == all.parent_start[s + 1];
  if ((int64_t)part.states.size() < ATTENTION_ROWS * group)
    part.states.resize(ATTENTION_ROWS * group), part.kept.resize(LEVELS * ATTENTION_ROWS * group);
  for (int r = 0; r < count; r++) queries.ask_for(row + r, head * group * size, group * size);
  for (int r = 0; r < count; r++) {
    const int64_t reserved = all.first[s] + row - all.row_start[s] + r;
    if (!part.chain) path_slots(all, s, reserved, part.paths[r]);
    part.position[r] = all.committed[s] + (part.chain ? reserved : (int64_t)part.paths[r].size() - 1);
    const int64_t before = part.position[r] - shape.window + 1;
    part.start[r] = shape.window ? std::max<int64_t>(before, 0) : 0;
    for (int64_t g = 0; g < group; g++) {
      Running& state = part.states[r * group + g];
      memset(state.query + part.stride - W, 0, 4 * W);
      queries.read(row + r, head * group + g, size, state.query);
      if constexpr (IN_PAIRS)
        for (int64_t d = 0; d < size; d += W) store_bfloat16(state.rounded + d, load(state.query + d));
    }
  }
}

// Folds the keys of one section into the states of the rows that see any of them.
template <int SIZE, bool IN_PAIRS>
static void gather(Part& part, const KeyValues& cache, const Shape& shape, const Sequences& all, int64_t section) {
  static thread_local Chunk chunk;
  const int64_t committed = all.committed[part.s], group = part.group;
  const int64_t* slots = all.slots + all.slot_start[part.s];
  const int64_t *position = part.position, *start = part.start;
  int64_t from_chunk = INT64_MAX, longest = 0;
  for (int r = 0; r < part.count; r++) {
    longest = std::max(longest, position[r]);
    from_chunk = std::min(from_chunk, start[r] / CHUNK);
    for (int64_t g = 0; g < group; g++) reset(part.states[r * group + g], part.stride);
  }
  const int64_t end = std::min((section + 1) * SECTION, longest + 1);
  for (int64_t first = std::max(section * SECTION, from_chunk * CHUNK); first < end; first += CHUNK) {
    const bool shared = part.chain || first + CHUNK <= committed;
    bool read = false;
    for (int r = 0; r < part.count; r++) {
      if (position[r] < first || start[r] >= first + CHUNK) continue;
      if (!shared || !read) {
        int64_t found[CHUNK];
        const int available = (int)std::min<int64_t>((shared ? longest : position[r]) + 1 - first, CHUNK);
        for (int j = 0; j < available; j++) {
          int64_t at = first + j;
          found[j] = shared || at < committed ? slots[at] : part.paths[r][at - committed];
        }
        if constexpr (IN_PAIRS) read_pairs(cache, shape, part.head, found, available, chunk);
        else read_chunk(cache, shape, part.head, found, available, chunk);
        read = true;
        if (shared) fetch_ahead(cache, shape.head_size, part.head, slots + first + CHUNK, end - first - CHUNK);
      }
      const int from = (int)std::max<int64_t>(start[r] - first, 0);
      const int to = (int)std::min<int64_t>(position[r] + 1 - first, CHUNK);
      auto sees_all = [&](int row) { return start[row] <= first && position[row] + 1 >= first + CHUNK; };
      int together = 1;  // rows, this one and those behind it
      if (shared && sees_all(r))
        while (r + together < part.count && sees_all(r + together)) together++;
      fold_all<SIZE, IN_PAIRS>(chunk, shape, from, to, &part.states[r * group], together * group);
      r += together - 1;
    }
  }
}

// Takes in what row r gathered in a node, which is in its states: with the nodes to the left of it that wait, as far as
// the tree has them together.
INLINE void enter(Part& part, int r, int64_t node, int level) {
  Stack& stack = part.stacks[r];
  const int64_t group = part.group, most = ATTENTION_ROWS * group;
  for (; node & 1; node >>= 1, level++)
    if (stack.holds_left_of(node, level)) {
      stack.size--;
      for (int64_t i = r * group; i < (r + 1) * group; i++)
        meet(part.states[i], part.kept[stack.size * most + i], part.stride);
    }
  for (int64_t i = r * group; i < (r + 1) * group; i++)
    copy(part.states[i], part.stride, part.kept[stack.size * most + i]);
  stack.node[stack.size] = node, stack.level[stack.size++] = level;
}

// All that row r gathered is in its states then.
INLINE void collapse(Part& part, int r) {
  Stack& stack = part.stacks[r];
  const int64_t group = part.group, most = ATTENTION_ROWS * group;
  for (int64_t i = r * group; i < (r + 1) * group; i++) {
    copy(part.kept[(stack.size - 1) * most + i], part.stride, part.states[i]);
    for (int at = stack.size - 2; at >= 0; at--) meet(part.states[i], part.kept[at * most + i], part.stride);
  }
}

// Gathers the sections [from, to) for the rows that see any of them. Returns which rows do.
template <int SIZE, bool IN_PAIRS>
static uint32_t gather_all(Part& part, const KeyValues& cache, const Shape& shape, const Sequences& all, int64_t from,
                           int64_t to) {
  uint32_t seen = 0;
  int64_t last = 0;
  for (int r = 0; r < part.count; r++) part.stacks[r].size = 0, last = std::max(last, part.last_section(r));
  to = std::min(to, last + 1);
  for (int64_t section = from; section < to; section++) {
    uint32_t here = 0;
    for (int r = 0; r < part.count; r++)
      here |= uint32_t(section >= part.first_section(r) && section <= part.last_section(r)) << r;
    if (!here) continue;
    gather<SIZE, IN_PAIRS>(part, cache, shape, all, section);
    if (to - from == 1) return here;
    for (int r = 0; r < part.count; r++)
      if (here >> r & 1) enter(part, r, section, 0);
    seen |= here;
  }
  for (int r = 0; r < part.count; r++)
    if (seen >> r & 1) collapse(part, r);
  return seen;
}

INLINE void give(Part& part, const Shape& shape, const RowWriter& out) {
  for (int r = 0; r < part.count; r++)
    for (int64_t g = 0; g < part.group; g++) {
      Running& state = part.states[r * part.group + g];
      const float sum = sum_lanes(state.sum);
      for (int64_t d = 0; d < shape.head_size; d++) state.out[d] /= sum;
      out.put(part.row + r, (part.head * part.group + g) * shape.head_size, state.out, shape.head_size);
    }
}

// Parts of at most `rows` rows that all sequences make.
INLINE int64_t pieces(const Sequences& all, int64_t rows) {
  int64_t count = 0;
  for (int64_t s = 0; s < all.count; s++) count += (all.row_start[s + 1] - all.row_start[s] + rows - 1) / rows;
  return count;
}

// How the work is cut so that no thread is idle: into parts, by rows and KV heads, and where those are few into blocks of
// 2^level sections.
struct Cut {
  int64_t rows = ATTENTION_ROWS, parts, blocks = 1;
  int level = LEVELS - 1;

  Cut(const Shape& shape, const Sequences& all, int threads) {
    int64_t longest = 1;
    for (int64_t s = 0; s < all.count; s++)
      longest = std::max(longest, all.committed[s] + all.first[s] + all.row_start[s + 1] - all.row_start[s]);
    const int64_t full = std::max<int64_t>(longest / SECTION, 1), sections = (longest + SECTION - 1) / SECTION;
    while (rows > FEW_ROWS && pieces(all, rows) * shape.kv_heads * full < 3 * threads) rows /= 2;
    parts = pieces(all, rows) * shape.kv_heads;
    for (; level && parts * blocks < 4 * threads; level--)
      blocks = (sections + (int64_t(1) << (level - 1)) - 1) >> (level - 1);
  }
};

// What the blocks of parts gave: by part, block, row and head the maximum, the sums, and the output.
struct Blocks {
  std::vector<float> numbers;
  std::vector<int64_t> done;  // blocks of a part that are there

  static int64_t width(const Shape& shape) { return 2 * W + padded(shape.head_size); }

  // Takes the memory for a call, before its threads begin.
  void grow(const Shape& shape, const Sequences& all, int threads) {
    const Cut cut(shape, all, threads);
    if (cut.blocks == 1) return;
    if ((int64_t)done.size() < cut.parts) done.resize(cut.parts, 0);
    const size_t wanted = cut.parts * cut.blocks * cut.rows * (shape.heads / shape.kv_heads) * width(shape) + 16;
    if (numbers.size() < wanted) numbers.resize(wanted);
  }

  float* at(const Shape& shape, const Cut& cut, int64_t part, int64_t block) {
    float* aligned = (float*)(((uintptr_t)numbers.data() + 63) & ~(uintptr_t)63);
    return aligned + (part * cut.blocks + block) * cut.rows * (shape.heads / shape.kv_heads) * width(shape);
  }
};
static Blocks& kept_blocks = *new Blocks;  // calls take turns

// One block of a part. Whoever has done a part's last one merges them all.
template <int SIZE, bool IN_PAIRS>
static void attend_block(Part& part, int64_t number, int64_t block, const Cut& cut, const KeyValues& cache,
                         const Shape& shape, const Sequences& all, const RowWriter& out) {
  const int64_t group = part.group, width = Blocks::width(shape), first = block << cut.level;
  const uint32_t seen = gather_all<SIZE, IN_PAIRS>(part, cache, shape, all, first, first + (int64_t(1) << cut.level));
  float* own = kept_blocks.at(shape, cut, number, block);
  for (int64_t i = 0; i < part.count * group; i++) {
    if (!(seen >> i / group & 1)) continue;
    store(own + i * width, part.states[i].maximum);
    store(own + i * width + W, part.states[i].sum);
    memcpy(own + i * width + 2 * W, part.states[i].out, 4 * part.stride);
  }
  if (__atomic_add_fetch(&kept_blocks.done[number], 1, __ATOMIC_ACQ_REL) < cut.blocks) return;
  kept_blocks.done[number] = 0;  // for the next call
  for (int r = 0; r < part.count; r++) {
    part.stacks[r].size = 0;
    for (int64_t each = part.first_section(r) >> cut.level; each <= part.last_section(r) >> cut.level; each++) {
      const float* there = kept_blocks.at(shape, cut, number, each);
      for (int64_t i = r * group; i < (r + 1) * group; i++) {
        part.states[i].maximum = load(there + i * width), part.states[i].sum = load(there + i * width + W);
        memcpy(part.states[i].out, there + i * width + 2 * W, 4 * part.stride);
      }
      enter(part, r, each, cut.level);
    }
    collapse(part, r);
  }
  give(part, shape, out);
}

template <int SIZE, bool IN_PAIRS>
static void share_attention(Team& team, const Queries& queries, const KeyValues& cache, const Shape& shape,
                            const Sequences& all, const RowWriter& out) {
  static thread_local Part part;
  part.count = 0;  // what it held was of another call
  const Cut cut(shape, all, team.size());
  team.share(cut.parts * cut.blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; item++) {
      const int64_t number = item % cut.parts;
      int64_t piece = number / shape.kv_heads, s = 0;
      for (;; s++) {
        const int64_t own = (all.row_start[s + 1] - all.row_start[s] + cut.rows - 1) / cut.rows;
        if (piece < own) break;
        piece -= own;
      }
      const int64_t row = all.row_start[s] + piece * cut.rows, left = all.row_start[s + 1] - row;
      const int64_t head = number % shape.kv_heads;
      if (!part.is(s, row, head))
        read_queries<IN_PAIRS>(part, queries, shape, all, s, row, (int)std::min(left, cut.rows), head);
      if (cut.blocks > 1) {
        attend_block<SIZE, IN_PAIRS>(part, number, item / cut.parts, cut, cache, shape, all, out);
      } else {
        gather_all<SIZE, IN_PAIRS>(part, cache, shape, all, 0, INT64_MAX);
        give(part, shape, out);
      }
    }
  });
}

// All rows. `kept_blocks` has room for them.
INLINE void run_attention(Team& team, const Queries& queries, const KeyValues& cache, const Shape& shape,
                          const Sequences& all, const RowWriter& out) {
  auto* run = shape.head_size == 64    ? share_attention<64, false>
              : shape.head_size == 128 ? share_attention<128, false>
                                       : share_attention<0, false>;
  if constexpr (HAS_PAIRS)
    if (in_pairs(cache, shape))
      run = shape.head_size == 64    ? share_attention<64, true>
            : shape.head_size == 128 ? share_attention<128, true>
                                     : share_attention<0, true>;
  run(team, queries, cache, shape, all, out);
}
