// A whole pass of a Llama-like model in one call: every layer is ten phases with a barrier in between.
#pragma once

#include <algorithm>

#include "../attention/cpu.h"
#include "../linear/cpu.h"
#include "../norm/cpu.h"

struct Layer {
  Linear qkv, o, gate_up, down;
  const float *input_norm, *attention_norm;  // [hidden]
  const float *query_norm, *key_norm;        // [head_size] or null (Qwen3)
  KeyValues cache;
  int64_t window;                            // 0: none
};

struct Model {
  int64_t num_layers, hidden, heads, kv_heads, head_size, intermediate, vocab_size;
  float eps, scale;
  int32_t embedding_kind, unused;            // FLOAT32 or BFLOAT16
  const void* embedding;                     // [vocab_size, hidden]
  const float* final_norm;
  const float* frequencies;                  // [head_size / 2], radians per position
  float rope_scale, unused2;                 // factor on cosines and sines
  const Layer* layers;
  Linear head;
};

struct Batch {
  int64_t rows, logit_rows;
  const int64_t *tokens, *positions, *write_slots, *logits_of;
  Sequences sequences;
};

// Buffers of a pass; they only grow.
struct Workspace {
  std::vector<float> x, qkv, attended, h, cosine, sine, row_scale;
  std::vector<char> rows;
  std::vector<Best> best;
};

INLINE void prepare_rows(Team& team, const Linear& linear, const float* x, int64_t count, const Rows& rows) {
  team.share(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) prepare_row(linear.kind, x + r * linear.k, linear.k, r, rows);
  });
  team.barrier();
}

// Row r of `rows` is the norm of row `source ? source[r] : r` of x.
INLINE void prepare_normed(Team& team, const Linear& linear, const float* x, const int64_t* source, const float* weight,
                           float eps, int64_t count, const Rows& rows) {
  static thread_local std::vector<float> normed;
  normed.resize(linear.k);
  team.share(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      rms_norm(x + (source ? source[r] : r) * linear.k, weight, linear.k, eps, normed.data());
      prepare_row(linear.kind, normed.data(), linear.k, r, rows);
    }
  });
  team.barrier();
}

INLINE void embed(const Model& model, const Batch& batch, int64_t row, Workspace& space) {
  float* x = space.x.data() + row * model.hidden;
  if (model.embedding_kind == FLOAT32) {
    memcpy(x, (const float*)model.embedding + batch.tokens[row] * model.hidden, 4 * model.hidden);
  } else {
    const uint16_t* from = (const uint16_t*)model.embedding + batch.tokens[row] * model.hidden;
    for (int64_t i = 0; i < model.hidden; i++) x[i] = from_bfloat16(from[i]);
  }
  int64_t half = model.head_size / 2;
  for (int64_t i = 0; i < half; i++) {
    float angle = (float)batch.positions[row] * model.frequencies[i];
    space.cosine[row * half + i] = cosf(angle) * model.rope_scale;
    space.sine[row * half + i] = sinf(angle) * model.rope_scale;
  }
}

// Norms (Qwen3) and rotates one row's queries and keys, and writes keys and values to its slot.
INLINE void rotate_and_write(const Model& model, const Layer& layer, const Shape& shape, const Batch& batch, int64_t row,
                             Workspace& space) {
  int64_t size = model.head_size, half = size / 2;
  float* qkv = space.qkv.data() + row * (model.heads + 2 * model.kv_heads) * size;
  const float *cosine = space.cosine.data() + row * half, *sine = space.sine.data() + row * half;
  for (int64_t head = 0; head < model.heads + model.kv_heads; head++) {
    const float* norm = head < model.heads ? layer.query_norm : layer.key_norm;
    if (norm) rms_norm(qkv + head * size, norm, size, model.eps, qkv + head * size);
    rotate(qkv + head * size, cosine, sine, size);
  }
  const float *keys = qkv + model.heads * size, *values = keys + model.kv_heads * size;
  for (int64_t head = 0; head < model.kv_heads; head++)
    write_entry(layer.cache, batch.write_slots[row], head, shape, keys + head * size, values + head * size);
}

// Reads queries out of the joint projection: [rows, heads, head_size], dense.
INLINE void run_layer(Team& team, const Model& model, const Layer& layer, const Batch& batch, Workspace& space,
                      const Rows& rows) {
  const int64_t count = batch.rows, size = model.head_size, query_width = model.heads * size;
  const int64_t width = query_width + 2 * model.kv_heads * size;
  const Shape shape{model.heads, model.kv_heads, size, model.scale, layer.window, 0.0f};
  float *x = space.x.data(), *qkv = space.qkv.data(), *h = space.h.data(), *attended = space.attended.data();
  prepare_normed(team, layer.qkv, x, nullptr, layer.input_norm, model.eps, count, rows);
  run_linear(team, layer.qkv, rows, count, Store{qkv, width});
  team.barrier();
  float* queries = h;  // free until the feed-forward part
  team.share(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      rotate_and_write(model, layer, shape, batch, r, space);
      memcpy(queries + r * query_width, qkv + r * width, 4 * query_width);
    }
  });
  team.barrier();
  run_attention(team, queries, layer.cache, shape, batch.sequences, attended);
  team.barrier();
  prepare_rows(team, layer.o, attended, count, rows);
  run_linear(team, layer.o, rows, count, AddTo{x, model.hidden});
  team.barrier();
  prepare_normed(team, layer.gate_up, x, nullptr, layer.attention_norm, model.eps, count, rows);
  run_linear(team, layer.gate_up, rows, count, Gate{h, model.intermediate});
  team.barrier();
  prepare_rows(team, layer.down, h, count, rows);
  run_linear(team, layer.down, rows, count, AddTo{x, model.hidden});
  team.barrier();
}

// Logits [logit_rows, vocab_size], unless null, and of every row the largest and the first token that has it.
static void forward(const Model& model, const Batch& batch, float* logits, Best* best, int threads) {
  static Workspace space;
  parallel(threads, [&](Team& team, int thread) {
    const int64_t count = batch.rows, size = model.head_size;
    const int64_t widest = std::max({model.hidden, model.heads * size, model.intermediate});
    if (thread == 0) {
      auto grow = [](auto& buffer, int64_t number) { if ((int64_t)buffer.size() < number) buffer.resize(number); };
      int64_t most = std::max(count, batch.logit_rows);
      grow(space.x, count * model.hidden);
      grow(space.qkv, count * (model.heads + 2 * model.kv_heads) * size);
      grow(space.attended, count * model.heads * size);
      grow(space.h, count * widest);
      grow(space.cosine, count * (size / 2));
      grow(space.sine, count * (size / 2));
      grow(space.row_scale, most);
      grow(space.rows, most * (4 * widest + 64));
      grow(space.best, team.size() * batch.logit_rows);
    }
    team.barrier();
    team.share(count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) embed(model, batch, r, space);
    });
    team.barrier();
    const Rows rows{space.rows.data(), space.row_scale.data()};
    for (int64_t i = 0; i < model.num_layers; i++) run_layer(team, model, model.layers[i], batch, space, rows);
    if (batch.logit_rows == 0) return;
    Best* mine = space.best.data() + thread * batch.logit_rows;
    for (int64_t r = 0; r < batch.logit_rows; r++) mine[r] = {-INFINITY, model.vocab_size};
    prepare_normed(team, model.head, space.x.data(), batch.logits_of, model.final_norm, model.eps, batch.logit_rows, rows);
    run_linear(team, model.head, rows, batch.logit_rows, StoreLogits{logits, model.vocab_size, mine});
    team.barrier();
    if (thread == 0)
      for (int64_t r = 0; r < batch.logit_rows; r++) {
        best[r] = space.best[r];
        for (int t = 1; t < team.size(); t++) {
          const Best& other = space.best[t * batch.logit_rows + r];
          bool nan = other.value != other.value, mine_nan = best[r].value != best[r].value;
          if (nan ? !mine_nan || other.token < best[r].token
                  : !mine_nan && (other.value > best[r].value ||
                                  (other.value == best[r].value && other.token < best[r].token)))
            best[r] = other;
        }
      }
  });
}
