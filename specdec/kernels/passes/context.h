// What a block head keeps of committed tokens: from the target's hidden states to keys and values of all layers.
#pragma once

#include "llama.h"

// States of committed positions, from the target's hidden states there.
struct Fuse {
  int64_t width, hidden;         // of a token's hidden states together, and of its state
  int64_t piece;                 // numbers that are normed together
  float eps, unused;
  const float* norms;            // [width] or null
  Linear product;                // [hidden, width]
};

struct ContextLayer {
  const float* key_norm;  // [head_size] or null
  KeyValues cache;
};

struct Context {
  int64_t taps, width;           // hidden states of a token, and their size
  int64_t hidden;                // of the context
  int64_t num_layers, kv_heads, head_size;
  float eps, rope_scale;         // factor on cosines and sines
  const float* tap_norms;        // [taps, width] or null
  const float* norm;             // [hidden]
  const float* frequencies;      // [head_size / 2], radians per position
  const ContextLayer* layers;
  Linear fuse;                   // [hidden, taps * width]
  Linear sides;                  // keys and values of one layer after the other
};

// Rows of hidden states, [rows, width], for a product: every `piece` of a row normed by itself, if there are norms.
INLINE void prepare_taps(Team& team, const Fuse& fuse, const float* states, int64_t rows, const Rows& out) {
  static thread_local std::vector<float> normed;
  normed.resize(fuse.width);
  team.share(rows, neighbours(team, rows), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = states + r * fuse.width;
      for (int64_t at = 0; fuse.norms && at < fuse.width; at += fuse.piece)
        rms_norm(row + at, fuse.norms + at, fuse.piece, fuse.eps, normed.data() + at);
      prepare_row(fuse.product.kind, fuse.norms ? normed.data() : row, fuse.width, r, out);
    }
  });
  team.barrier();
}

// out: [rows, hidden]
static void fuse_taps(const Fuse& fuse, const float* states, int64_t rows, float* out, int threads) {
  static std::vector<char> prepared;
  static std::vector<float> row_scale;
  demand_size(rows, 0, "rows");
  demand_size(fuse.width, 1, "width");
  demand_size(fuse.piece, 1, "numbers that are normed together");
  DEMAND(fuse.width % fuse.piece == 0, "rows of %lld are no pieces of %lld", (long long)fuse.width, (long long)fuse.piece);
  demand_linear(fuse.product, fuse.width, fuse.hidden, false);
  if (rows == 0) return;
  demand_memory(states, "hidden states");
  demand_memory(out, "states");
  auto prepare = [&] {
    prepared.resize(rows * row_bytes(fuse.product.kind, fuse.width));
    row_scale.resize(rows);
  };
  parallel(threads, prepare, [&](Team& team, int) {
    const Rows input{prepared.data(), row_scale.data()};
    prepare_taps(team, fuse, states, rows, input);
    run_linear(team, fuse.product, input, rows, Store{out, fuse.hidden});
  });
}

INLINE void demand_context(const Context& context, const int64_t* positions, const int64_t* slots, int64_t rows) {
  const int64_t side = context.kv_heads * context.head_size;
  demand_size(rows, 0, "rows");
  demand_size(context.taps, 1, "taps");
  demand_size(context.width, 1, "width");
  demand_size(context.num_layers, 1, "layers");
  demand_memory(context.norm, "the context's norm");
  demand_memory(context.frequencies, "frequencies");
  demand_memory(context.layers, "layers");
  demand_linear(context.fuse, context.taps * context.width, context.hidden, false);
  demand_linear(context.sides, context.hidden, 2 * context.num_layers * side, false);
  demand_within(positions, rows, 0, POSITIONS, "position");
  for (int64_t i = 0; i < context.num_layers; i++) {
    demand_shape({context.kv_heads, context.kv_heads, context.head_size, 1.0f, 0, 0.0f});
    demand_cache(context.layers[i].cache, context.kv_heads, context.head_size);
    demand_within(slots, rows, 0, context.layers[i].cache.slots, "slot");
  }
}

// Norms and rotates one row's keys, and writes keys and values of all layers to its slot.
INLINE void write_context(const Context& context, float* sides, int64_t position, int64_t slot, float* angles) {
  const int64_t size = context.head_size, half = size / 2, side = context.kv_heads * size;
  const Shape shape{context.kv_heads, context.kv_heads, size, 1.0f, 0, 0.0f};
  for (int64_t i = 0; i < half; i++) {
    const float angle = (float)position * context.frequencies[i];
    angles[i] = cosf(angle) * context.rope_scale;
    angles[half + i] = sinf(angle) * context.rope_scale;
  }
  for (int64_t layer = 0; layer < context.num_layers; layer++) {
    const ContextLayer& its = context.layers[layer];
    for (int64_t head = 0; head < context.kv_heads; head++) {
      float *key = sides + 2 * layer * side + head * size, *value = key + side;
      if (its.key_norm) rms_norm(key, its.key_norm, size, context.eps, key);
      rotate(key, angles, angles + half, size);
      write_entry(its.cache, slot, head, shape, key, value);
    }
  }
}

// states: [rows, taps, width]
static void remember(const Context& context, const float* states, const int64_t* positions, const int64_t* slots,
                     int64_t rows, int threads) {
  static std::vector<char> prepared;
  static std::vector<float> row_scale, fused, sides;
  demand_context(context, positions, slots, rows);
  if (rows == 0) return;
  demand_memory(states, "hidden states");
  const int64_t wide = context.taps * context.width, all = 2 * context.num_layers * context.kv_heads * context.head_size;
  auto prepare = [&] {
    prepared.resize(rows * std::max(row_bytes(context.fuse.kind, wide), row_bytes(context.sides.kind, context.hidden)));
    row_scale.resize(rows);
    fused.resize(rows * context.hidden);
    sides.resize(rows * all);
  };
  parallel(threads, prepare, [&](Team& team, int) {
    static thread_local std::vector<float> angles;
    angles.resize(context.head_size);
    const Rows input{prepared.data(), row_scale.data()};
    const Fuse taps{wide, context.hidden, context.width, context.eps, 0.0f, context.tap_norms, context.fuse};
    prepare_taps(team, taps, states, rows, input);
    run_linear(team, context.fuse, input, rows, Store{fused.data(), context.hidden});
    will_read(team, context.sides);
    team.barrier();
    prepare_normed(team, context.sides, fused.data(), nullptr, context.norm, context.eps, rows, input);
    run_linear(team, context.sides, input, rows, Store{sides.data(), all});
    team.barrier();
    team.share(rows, neighbours(team, rows), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++)
        write_context(context, sides.data() + r * all, positions[r], slots[r], angles.data());
    });
  });
}
