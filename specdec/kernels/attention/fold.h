// A chunk of keys and values, folded into what rows have gathered: online softmax (Milakov and Gimelshein 2018).
#pragma once

#include "../cpu/simd.h"
#include "cache.h"

constexpr int FOLD = 6;  // most queries that are folded together

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
INLINE void fold_few(const Chunk& chunk, const Shape& shape, int from, int to, Running* states, int64_t count) {
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
