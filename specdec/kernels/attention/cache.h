// Keys and values in the cache: entries, and chunks of them as they are multiplied.
#pragma once

#include <algorithm>

#include "../cpu/gate.h"
#include "../cpu/simd.h"
#include "../linear/amx.h"

constexpr int CHUNK = HAS_TILES ? 32 : 16;  // keys; as many as tiles multiply at once
constexpr int MAX_HEAD = 256;

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

// A chunk of keys and values in float32. Keys lie by dimension, [padded head size][CHUNK], so that a query meets all of them
// at once; values as they come, [CHUNK][padded head size].
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

// The same in pairs: keys [head size / 2][CHUNK], words of two neighbouring dimensions; values [CHUNK / 2][head size], words
// of two neighbouring keys.
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
