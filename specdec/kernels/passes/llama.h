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
  int32_t skips_attention, skips_feed_forward;  // what a model that leaves them out does not run
};

// What a head that is fed with its own states reads: a token's embedding, and beside it a state.
struct Pairs {
  const float *token_norm, *state_norm;      // [hidden] or null: what each is normed with
  Linear mix;                                // makes the stream of both; if it has no weights, the stream is the state,
                                             // and the first layer's qkv reads both
  int32_t starts_normed, gives_normed;       // the stream is the normed state; the next state is the normed stream
  int32_t bare, unused;                      // neither the first layer's input nor the last stream is normed
};

struct Model {
  int64_t num_layers, hidden, heads, kv_heads, head_size, intermediate, vocab_size;
  float eps, scale;
  int32_t embedding_kind, unused;            // FLOAT32, BFLOAT16 or BLOCKS
  int64_t embedding_rows;                    // tokens that can be read; a draft model's head may give fewer
  const void* embedding;                     // [embedding_rows, hidden]; of kind BLOCKS a Linear with such columns
  const float* final_norm;
  const float* frequencies;                  // [head_size / 2], radians per position
  float rope_scale, unused2;                 // factor on cosines and sines
  const Layer* layers;
  Linear head;
  const Pairs* pairs;                        // null: it reads tokens alone

  bool bare() const { return pairs && pairs->bare; }
  // Whether the first layer's qkv reads pairs.
  bool reads_pairs() const { return pairs && !pairs->mix.weight; }
};

struct Batch {
  int64_t rows, logit_rows, num_taps;
  int64_t kept;                              // largest logits of a row that are told, at least one
  const int64_t *tokens, *positions, *write_slots, *logits_of;
  const int64_t* taps;                       // [num_taps], increasing: layers before which the stream is wanted, or
                                             // num_layers for the final norm of it
  float* hidden;                             // [rows, num_taps, hidden]
  Sequences sequences;
  const float* states;                       // [rows, hidden], of pairs
  float* next_states;                        // [logit_rows, hidden], likewise
  float* chances;                            // [logit_rows, kept] or null: softmax at the largest logits

  // Whether all rows are wanted beyond the last layer, with and without logits.
  bool taps_end(int64_t num_layers) const { return num_taps && taps[num_taps - 1] == num_layers; }
};

// Buffers of a pass; they only grow.
struct Workspace {
  std::vector<float> x, qkv, cosine, sine, row_scale;
  std::vector<char> rows, attended, products;
  std::vector<Best> best;

  void grow(const Model& model, const Batch& batch, int threads) {
    auto to = [](auto& buffer, int64_t number) { if ((int64_t)buffer.size() < number) buffer.resize(number); };
    const int64_t count = batch.rows, most = std::max(count, batch.logit_rows), size = model.head_size;
    const int64_t read = model.pairs ? 2 * model.hidden : model.hidden;
    const int64_t widest = std::max({read, model.heads * size, model.intermediate});
    to(x, count * model.hidden);
    to(qkv, count * std::max((model.heads + 2 * model.kv_heads) * size, model.hidden));
    to(cosine, count * (size / 2));
    to(sine, count * (size / 2));
    to(row_scale, most);
    for (auto* buffer : {&rows, &attended, &products}) to(*buffer, most * (4 * widest + 64));
    to(best, threads * batch.logit_rows * batch.kept);
    kept_blocks.begin(Shape{model.heads, model.kv_heads, size}, batch.sequences, threads);
  }
};

// Positions that float32, in which angles are worked out, tells apart.
constexpr int64_t POSITIONS = 1 << 24;

INLINE void demand_model(const Model& model) {
  const int64_t heads = model.heads * model.head_size, kv = model.kv_heads * model.head_size;
  DEMAND(model.embedding_kind == FLOAT32 || model.embedding_kind == BFLOAT16 || model.embedding_kind == BLOCKS,
         "%d is no kind of embedding", model.embedding_kind);
  demand_size(model.num_layers, 1, "layers");
  demand_size(model.vocab_size, 1, "vocabulary");
  demand_size(model.embedding_rows, 1, "rows of the embedding");
  demand_memory(model.embedding, "the embedding");
  if (model.embedding_kind == BLOCKS) {
    const Linear& held = *(const Linear*)model.embedding;
    DEMAND(held.kind == BLOCKS, "%d is no kind of an embedding in blocks", held.kind);
    demand_linear(held, model.hidden, model.embedding_rows, false);
  }
  demand_memory(model.final_norm, "the last norm");
  demand_memory(model.frequencies, "frequencies");
  demand_memory(model.layers, "layers");
  for (int64_t i = 0; i < model.num_layers; i++) {
    const Layer& layer = model.layers[i];
    demand_shape({model.heads, model.kv_heads, model.head_size, model.scale, layer.window, 0.0f});
    demand_cache(layer.cache, model.kv_heads, model.head_size);
    demand_memory(layer.input_norm, "a norm");
    demand_memory(layer.attention_norm, "a norm");
    const bool wide = i == 0 && model.reads_pairs();
    demand_linear(layer.qkv, wide ? 2 * model.hidden : model.hidden, heads + 2 * kv, false);
    demand_linear(layer.o, heads, model.hidden, false);
    demand_linear(layer.gate_up, model.hidden, model.intermediate, true);
    demand_linear(layer.down, model.intermediate, model.hidden, false);
  }
  demand_linear(model.head, model.hidden, model.vocab_size, false);
  if (!model.pairs) return;
  DEMAND(!model.layers[0].skips_attention, "the layer that reads pairs has no attention");
  if (!model.reads_pairs()) demand_linear(model.pairs->mix, 2 * model.hidden, model.hidden, false);
  if (model.pairs->starts_normed) demand_memory(model.pairs->state_norm, "the norm of states");
}

INLINE void demand_batch(const Model& model, const Batch& batch, const float* logits) {
  int64_t slots = model.layers[0].cache.slots;
  for (int64_t i = 1; i < model.num_layers; i++) slots = std::min(slots, model.layers[i].cache.slots);
  demand_size(batch.rows, 1, "rows");
  demand_size(batch.logit_rows, 0, "rows with logits");
  demand_size(batch.num_taps, 0, "taps");
  DEMAND(batch.kept >= 1 && batch.kept <= model.vocab_size, "%lld largest of %lld logits are asked for",
         (long long)batch.kept, (long long)model.vocab_size);
  demand_within(batch.tokens, batch.rows, 0, model.embedding_rows, "token");
  demand_within(batch.positions, batch.rows, 0, POSITIONS, "position");
  demand_within(batch.write_slots, batch.rows, 0, slots, "slot to write");
  demand_within(batch.logits_of, batch.logit_rows, 0, batch.rows, "row with logits");
  demand_within(batch.taps, batch.num_taps, 0, model.num_layers + 1, "tap");
  for (int64_t i = 1; i < batch.num_taps; i++)
    DEMAND(batch.taps[i - 1] < batch.taps[i], "tap %lld does not follow the one before it", (long long)batch.taps[i]);
  if (batch.num_taps) demand_memory(batch.hidden, "hidden states");
  if (batch.chances) demand_memory(logits, "logits, which chances are made of");
  if (model.pairs) demand_memory(batch.states, "states");
  if (model.pairs && batch.logit_rows) demand_memory(batch.next_states, "the next states");
  demand_sequences(batch.sequences, batch.rows, slots);
}

// Rows that a thread takes at once: they lie one after the other, and reading them streams.
INLINE int64_t neighbours(Team& team, int64_t count) { return std::clamp<int64_t>(count / (2 * team.size()), 1, 8); }

INLINE void prepare_rows(Team& team, const Linear& linear, const float* x, int64_t count, const Rows& rows) {
  team.share(count, neighbours(team, count), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) prepare_row(linear.kind, x + r * linear.k, linear.k, r, rows);
  });
  team.barrier();
}

// Row r of `rows` is the norm of row `source ? source[r] : r` of x, or the row itself where there is no norm.
INLINE void prepare_normed(Team& team, const Linear& linear, const float* x, const int64_t* source, const float* weight,
                           float eps, int64_t count, const Rows& rows) {
  static thread_local std::vector<float> normed;
  normed.resize(linear.k);
  team.share(count, neighbours(team, count), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x + (source ? source[r] : r) * linear.k;
      if (weight) rms_norm(row, weight, linear.k, eps, normed.data());
      prepare_row(linear.kind, weight ? normed.data() : row, linear.k, r, rows);
    }
  });
  team.barrier();
}

// A token's embedding.
INLINE void embed(const Model& model, int64_t token, float* out) {
  if (model.embedding_kind == FLOAT32) {
    memcpy(out, (const float*)model.embedding + token * model.hidden, 4 * model.hidden);
  } else if (model.embedding_kind == BLOCKS) {
    read_weights(*(const Linear*)model.embedding, token, out);
  } else {
    const uint16_t* from = (const uint16_t*)model.embedding + token * model.hidden;
    for (int64_t i = 0; i < model.hidden; i++) out[i] = from_bfloat16(from[i]);
  }
}

// A row's stream before the first layer, unless it is mixed, and its angles.
INLINE void start_row(const Model& model, const Batch& batch, int64_t row, Workspace& space) {
  float* x = space.x.data() + row * model.hidden;
  const float* state = batch.states + (model.pairs ? row * model.hidden : 0);
  if (!model.pairs) embed(model, batch.tokens[row], x);
  else if (model.pairs->starts_normed) rms_norm(state, model.pairs->state_norm, model.hidden, model.eps, x);
  else memcpy(x, state, 4 * model.hidden);
  int64_t half = model.head_size / 2;
  for (int64_t i = 0; i < half; i++) {
    float angle = (float)batch.positions[row] * model.frequencies[i];
    space.cosine[row * half + i] = cosf(angle) * model.rope_scale;
    space.sine[row * half + i] = sinf(angle) * model.rope_scale;
  }
}

// Rows of pairs: embedding and state, each normed if it has a norm.
INLINE void prepare_pairs(Team& team, const Model& model, const Batch& batch, const Linear& linear, const Rows& rows) {
  static thread_local std::vector<float> both;
  const int64_t hidden = model.hidden;
  both.resize(2 * hidden);
  float *token = both.data(), *state = token + hidden;
  team.share(batch.rows, neighbours(team, batch.rows), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      embed(model, batch.tokens[r], token);
      memcpy(state, batch.states + r * hidden, 4 * hidden);
      if (model.pairs->token_norm) rms_norm(token, model.pairs->token_norm, hidden, model.eps, token);
      if (model.pairs->state_norm) rms_norm(state, model.pairs->state_norm, hidden, model.eps, state);
      prepare_row(linear.kind, token, 2 * hidden, r, rows);
    }
  });
  team.barrier();
}

// The states of the steps that follow the rows with logits; row r's stream is row `source ? source[r] : r` of x.
INLINE void give_states(Team& team, const Model& model, const Batch& batch, const float* x, const int64_t* source) {
  const int64_t hidden = model.hidden;
  team.share(batch.logit_rows, neighbours(team, batch.logit_rows), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) {
      const float* row = x + (source ? source[r] : r) * hidden;
      float* out = batch.next_states + r * hidden;
      if (model.pairs->gives_normed) rms_norm(row, model.final_norm, hidden, model.eps, out);
      else memcpy(out, row, 4 * hidden);
    }
  });
  team.barrier();
}

// Norms (Qwen3) and rotates one row's keys, and writes keys and values to its slot.
INLINE void write_keys_and_values(const Model& model, const Layer& layer, const Shape& shape, const Batch& batch,
                                  int64_t row, Workspace& space) {
  const int64_t size = model.head_size, half = size / 2;
  float* keys = space.qkv.data() + (row * (model.heads + 2 * model.kv_heads) + model.heads) * size;
  for (int64_t head = 0; head < model.kv_heads; head++) {
    float *key = keys + head * size, *value = key + model.kv_heads * size;
    if (layer.key_norm) rms_norm(key, layer.key_norm, size, model.eps, key);
    rotate(key, space.cosine.data() + row * half, space.sine.data() + row * half, size);
    write_entry(layer.cache, batch.write_slots[row], head, shape, key, value);
  }
}

// Rows that were written for `linear`, as it multiplies them.
INLINE Rows finished(Team& team, const Linear& linear, char* written, int64_t count, const Rows& spare) {
  if (rounds_rows(linear.kind)) {
    prepare_rows(team, linear, (const float*)written, count, spare);
    return spare;
  }
  const int64_t stride = row_bytes(linear.kind, linear.k), used = linear.k * (linear.kind == BFLOAT16 ? 2 : 4);
  if (used < stride) {
    team.share(count, neighbours(team, count), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) memset(written + r * stride + used, 0, stride - used);
    });
    team.barrier();
  }
  return {written, nullptr, spare.again};
}

// Every row of the stream x, [rows, hidden], at a boundary between layers, if it was asked for there.
INLINE void tap(Team& team, const Model& model, const Batch& batch, int64_t boundary, const float* x) {
  const int64_t *end = batch.taps + batch.num_taps, *found = std::find(batch.taps, end, boundary);
  if (found == end) return;
  team.share(batch.rows, neighbours(team, batch.rows), [&](int64_t begin, int64_t stop) {
    for (int64_t r = begin; r < stop; r++) {
      const float* row = x + r * model.hidden;
      float* out = batch.hidden + (r * batch.num_taps + (found - batch.taps)) * model.hidden;
      if (boundary == model.num_layers) rms_norm(row, model.final_norm, model.hidden, model.eps, out);
      else memcpy(out, row, 4 * model.hidden);
    }
  });
  team.barrier();
}

// The first product after layer `index`.
INLINE const Linear& product_after(const Model& model, int64_t index) {
  for (int64_t i = index + 1; i < model.num_layers; i++) {
    if (!model.layers[i].skips_attention) return model.layers[i].qkv;
    if (!model.layers[i].skips_feed_forward) return model.layers[i].gate_up;
  }
  return model.head;
}

// Rows of the stream, [count, hidden], that go on.
struct Stream {
  float* x;
  int64_t count;
};

// The stream through a layer's attention. `drops`: only rows with logits go on, in the order of the logits.
INLINE Stream attend(Team& team, const Model& model, int64_t index, const Batch& batch, Workspace& space,
                     const Rows& rows, bool drops) {
  const Layer& layer = model.layers[index];
  const int64_t size = model.head_size, width = (model.heads + 2 * model.kv_heads) * size;
  const Shape shape{model.heads, model.kv_heads, size, model.scale, layer.window, 0.0f};
  float *x = space.x.data(), *qkv = space.qkv.data();
  int64_t count = batch.rows;
  const float* norm = model.bare() && index == 0 ? nullptr : layer.input_norm;
  if (index == 0 && model.reads_pairs()) prepare_pairs(team, model, batch, layer.qkv, rows);
  else prepare_normed(team, layer.qkv, x, nullptr, norm, model.eps, count, rows);
  run_linear(team, layer.qkv, rows, count, Store{qkv, width});
  will_read(team, layer.o);
  team.barrier();
  team.share(count, neighbours(team, count), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++) write_keys_and_values(model, layer, shape, batch, r, space);
  });
  team.barrier();
  if (drops && batch.logit_rows == 0) return {x, 0};
  char *attended = space.attended.data(), *kept = space.products.data();
  const RowWriter out = rows_for(layer.o, attended);
  const Queries queries{qkv, width, layer.query_norm, model.eps, space.cosine.data(), space.sine.data()};
  run_attention(team, queries, layer.cache, shape, batch.sequences, out);
  team.barrier();
  if (drops && batch.logit_rows < count) {
    count = batch.logit_rows;
    team.share(count, neighbours(team, count), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        memcpy(qkv + r * model.hidden, x + batch.logits_of[r] * model.hidden, 4 * model.hidden);
        memcpy(kept + r * out.stride, attended + batch.logits_of[r] * out.stride, out.stride);
      }
    });
    team.barrier();
    x = qkv;
    attended = kept;
  }
  run_linear(team, layer.o, finished(team, layer.o, attended, count, rows), count, AddTo{x, model.hidden});
  will_read(team, layer.skips_feed_forward ? product_after(model, index) : layer.gate_up);
  team.barrier();
  return {x, count};
}

// The stream through a layer's feed-forward part.
INLINE void feed_forward(Team& team, const Model& model, int64_t index, const Stream& stream, Workspace& space,
                         const Rows& rows) {
  const Layer& layer = model.layers[index];
  const int64_t count = stream.count;
  char* products = space.products.data();
  prepare_normed(team, layer.gate_up, stream.x, nullptr, layer.attention_norm, model.eps, count, rows);
  run_linear(team, layer.gate_up, rows, count, Gate{rows_for(layer.down, products), model.intermediate});
  will_read(team, layer.down);
  team.barrier();
  run_linear(team, layer.down, finished(team, layer.down, products, count, rows), count,
             AddTo{stream.x, model.hidden});
  will_read(team, product_after(model, index));
  team.barrier();
}

// The stream x, [rows, hidden], through one layer, or the parts of it that the model has. Of the last layer's results
// only those with logits are wanted, unless there is a tap behind it: from its attention on, x has only their rows.
INLINE float* run_layer(Team& team, const Model& model, int64_t index, const Batch& batch, Workspace& space,
                        const Rows& rows) {
  const Layer& layer = model.layers[index];
  const bool drops = index + 1 == model.num_layers && !batch.taps_end(model.num_layers);
  Stream stream{space.x.data(), batch.rows};
  if (!layer.skips_attention) stream = attend(team, model, index, batch, space, rows, drops);
  if (!layer.skips_feed_forward && stream.count) feed_forward(team, model, index, stream, space, rows);
  return stream.x;
}

// Softmax of a row at its largest values; NaN if one of the row is.
INLINE void give_chances(const float* row, const Largest& largest, float* out) {
  const float top = largest.list[0].value;
  vf sums = {};
  int64_t i = 0;
  for (; i + W <= largest.size; i += W) sums += exponential(load(row + i) - top);
  float sum = sum_lanes(sums);
  for (; i < largest.size; i++) sum += expf(row[i] - top);
  for (i = 0; i < largest.count; i++) out[i] = expf(largest.list[i].value - top) / sum;
}

// Logits [logit_rows, vocab_size], unless null; of every row its largest, best [logit_rows, kept], largest first and of
// equals the first token first, and their chances; the batch's hidden states, and of pairs the next ones.
static void forward(const Model& model, const Batch& batch, float* logits, Best* best, int threads) {
  static Workspace space;
  demand_model(model);
  demand_batch(model, batch, logits);
  if (batch.logit_rows) demand_memory(best, "the largest logits");
  parallel(threads, [&] { space.grow(model, batch, threads); }, [&](Team& team, int thread) {
    const int64_t count = batch.rows;
    team.share(count, neighbours(team, count), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) start_row(model, batch, r, space);
    });
    team.barrier();
    const Rows rows{space.rows.data(), space.row_scale.data(), model.pairs != nullptr};
    float* x = space.x.data();
    if (model.pairs && model.pairs->mix.weight) {
      prepare_pairs(team, model, batch, model.pairs->mix, rows);
      run_linear(team, model.pairs->mix, rows, count, Store{x, model.hidden});
      team.barrier();
    }
    for (int64_t i = 0; i < model.num_layers; i++) {
      tap(team, model, batch, i, x);
      x = run_layer(team, model, i, batch, space, rows);
    }
    tap(team, model, batch, model.num_layers, x);
    if (batch.logit_rows == 0) return;
    const int64_t* source = x == space.x.data() ? batch.logits_of : nullptr;
    auto largest = [&](Best* lists, int64_t row) {
      return Largest{lists + row * batch.kept, batch.kept, model.vocab_size};
    };
    const int64_t part = batch.logit_rows * batch.kept;
    Best* mine = space.best.data() + thread * part;
    for (int64_t r = 0; r < batch.logit_rows; r++) largest(mine, r).clear();
    if (model.pairs) give_states(team, model, batch, x, source);
    const float* norm = model.bare() ? nullptr : model.final_norm;
    prepare_normed(team, model.head, x, source, norm, model.eps, batch.logit_rows, rows);
    run_linear(team, model.head, rows, batch.logit_rows, StoreLogits{logits, model.vocab_size, mine, batch.kept});
    team.barrier();
    if (thread == 0) {
      memcpy(best, mine, part * sizeof(Best));
      for (int t = 1; t < team.size(); t++)
        for (int64_t r = 0; r < batch.logit_rows; r++) largest(best, r).meet(largest(space.best.data() + t * part, r));
    }
    if (!batch.chances) return;
    team.barrier();
    team.share(batch.logit_rows, 1, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++)
        give_chances(logits + r * model.vocab_size, largest(best, r), batch.chances + r * batch.kept);
    });
  });
}
