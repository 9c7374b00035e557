// The C interface. Structures are those of the headers; specdec/kernels/cpu/interface.py mirrors them. What can be
// refused returns 0, or 1 with a reason (gate.h).
#include <vector>

#include "../rows/cpu.h"
#include "../passes/llama.h"
#include "../passes/context.h"
#include "../passes/pairs.h"
#include "../retrieval/cpu.h"
#include "../suffix/cpu.h"
#include "../successors/cpu.h"
#include "../markov/cpu.h"
#include "../commit/cpu.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT const char* specdec_isa() {
#if HAS_TILES
  if (tiles_allowed()) return "AVX512, AMX";
#endif
  return
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__) && defined(__AVX512VL__)
      "AVX512, BF16, VNNI";
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__)
      "AVX512";
#elif defined(__AVX2__) && defined(__FMA__)
      "AVX2";
#else
      "portable";
#endif
}

// Sizes of the structures, so that a mirror that went out of step is noticed. Writes at most `room` of them; returns how
// many there are.
EXPORT int64_t specdec_sizes(int64_t* sizes, int64_t room) {
  int64_t all[] = {sizeof(Linear), sizeof(KeyValues), sizeof(Shape), sizeof(Sequences), sizeof(Layer), sizeof(Model),
                   sizeof(Batch), sizeof(Best), sizeof(suffix::Bounds), sizeof(suffix::Nodes),
                   sizeof(retrieval::Texts), sizeof(retrieval::Limits), sizeof(retrieval::Draft),
                   sizeof(successors::Table), sizeof(markov::Term), sizeof(markov::Blocks), sizeof(markov::Trees),
                   sizeof(ContextLayer), sizeof(Context), sizeof(Pairs), sizeof(Fuse), sizeof(pairs::Draws), sizeof(pairs::Trees), sizeof(pairs::Chains),
                   sizeof(commit::Tensor), sizeof(Noise)};
  const int64_t count = sizeof all / sizeof *all;
  memcpy(sizes, all, std::min(room, count) * sizeof *all);
  return count;
}

// Why this thread's last call that returned 1 did.
EXPORT const char* specdec_fault() { return fault_text(); }

// out [rows, width] = x [rows, k] Wᵀ
EXPORT int specdec_linear(const Linear* linear, const float* x, int64_t rows, int64_t k, float* out, int64_t width,
                          int threads) {
  static Workspace space;
  return guarded([&] {
    demand_size(rows, 0, "rows");
    demand_linear(*linear, k, width, linear->gated);
    auto prepare = [&] {
      space.rows.resize(rows * row_bytes(linear->kind, linear->k));
      space.row_scale.resize(rows);
    };
    parallel(threads, prepare, [&](Team& team, int) {
      const Rows prepared{space.rows.data(), space.row_scale.data()};
      prepare_rows(team, *linear, x, rows, prepared);
      if (linear->gated) run_linear(team, *linear, prepared, rows, Gate{float_rows(out, width), width});
      else run_linear(team, *linear, prepared, rows, Store{out, width});
    });
  });
}

// Writes keys and values, [rows, kv_heads, head_size] each, to the cache.
EXPORT int specdec_write(const KeyValues* cache, const Shape* shape, const int64_t* slots, const float* keys,
                         const float* values, int64_t rows) {
  return guarded([&] {
    demand_size(rows, 0, "rows");
    demand_shape(*shape);
    demand_cache(*cache, shape->kv_heads, shape->head_size);
    demand_within(slots, rows, 0, cache->slots, "slot");
    for (int64_t r = 0; r < rows; r++)
      for (int64_t head = 0; head < shape->kv_heads; head++) {
        int64_t at = (r * shape->kv_heads + head) * shape->head_size;
        write_entry(*cache, slots[r], head, *shape, keys + at, values + at);
      }
  });
}

// out [rows, heads, head_size]
EXPORT int specdec_attention(const float* query, int64_t rows, const KeyValues* cache, const Shape* shape,
                             const Sequences* sequences, float* out, int threads) {
  return guarded([&] {
    demand_size(rows, 0, "rows");
    demand_shape(*shape);
    demand_cache(*cache, shape->kv_heads, shape->head_size);
    demand_sequences(*sequences, rows, cache->slots);
    const int64_t width = shape->heads * shape->head_size;
    auto prepare = [&] { kept_blocks.begin(*shape, *sequences, threads); };
    parallel(threads, prepare, [&](Team& team, int) {
      run_attention(team, Queries{query, width}, *cache, *shape, *sequences, float_rows(out, width));
    });
  });
}

// Copies entries within every tensor of a cache, from sources [moves] to targets [moves].
EXPORT int specdec_commit(const commit::Tensor* tensors, int64_t count, const int64_t* sources, const int64_t* targets,
                          int64_t moves) {
  return guarded([&] {
    commit::demand_moves(tensors, count, sources, targets, moves);
    commit::move(tensors, count, sources, targets, moves);
  });
}

EXPORT int specdec_rms_norm(const float* x, const float* weight, int64_t rows, int64_t size, float eps, float* out) {
  return guarded([&] {
    demand_size(rows, 0, "rows");
    demand_size(size, 1, "size");
    for (int64_t r = 0; r < rows; r++) rms_norm(x + r * size, weight, size, eps, out + r * size);
  });
}

// x [rows, heads, size] in place, angles of [rows, size / 2]
EXPORT int specdec_rotate(float* x, const float* cosine, const float* sine, int64_t rows, int64_t heads, int64_t size) {
  return guarded([&] {
    demand_size(rows, 0, "rows");
    demand_size(heads, 1, "heads");
    demand_size(size, 1, "size");
    for (int64_t r = 0; r < rows; r++)
      for (int64_t h = 0; h < heads; h++)
        rotate(x + (r * heads + h) * size, cosine + r * (size / 2), sine + r * (size / 2), size);
  });
}

EXPORT int specdec_forward(const Model* model, const Batch* batch, float* logits, Best* best, int threads) {
  return guarded([&] { forward(*model, *batch, logits, best, threads); });
}

// The likeliest draft trees of a head that reads states, from the last rows of a batch on.
EXPORT int specdec_pairs_grow(const Model* model, const Batch* batch, const pairs::Trees* trees, int threads) {
  return guarded([&] { pairs::grow(*model, *batch, *trees, threads); });
}

// Chains that such a head draws.
EXPORT int specdec_pairs_draw(const Model* model, const Batch* batch, const pairs::Chains* chains, int threads) {
  return guarded([&] { pairs::draw(*model, *batch, *chains, threads); });
}

// States of committed positions, out [rows, hidden], from hidden states [rows, width].
EXPORT int specdec_fuse(const Fuse* fuse, const float* states, int64_t rows, float* out, int threads) {
  return guarded([&] { fuse_taps(*fuse, states, rows, out, threads); });
}

// Writes what a block head keeps of committed tokens: states [rows, taps, width].
EXPORT int specdec_remember(const Context* context, const float* states, const int64_t* positions, const int64_t* slots,
                            int64_t rows, int threads) {
  return guarded([&] { remember(*context, states, positions, slots, rows, threads); });
}

EXPORT int specdec_argmax(const float* row, int64_t size, float* largest, int64_t* at) {
  return guarded([&] {
    demand_size(size, 1, "scores");
    *at = argmax(row, size, largest);
  });
}

EXPORT int specdec_gumbel_argmax(const float* row, int64_t size, uint64_t seed, uint32_t position, uint32_t stream,
                                 int64_t* at, int threads) {
  return guarded([&] {
    demand_size(size, 1, "scores");
    *at = gumbel_argmax(row, size, seed, position, stream, threads);
  });
}

// Noise of some tokens of a position, or of all from 0 on.
EXPORT int specdec_gumbel_noise(const int64_t* ids, int64_t size, uint64_t seed, uint32_t position, uint32_t stream,
                                float* out) {
  return guarded([&] {
    demand_size(size, 1, "tokens");
    demand_memory(out, "noise");
    gumbel_noise(ids, size, seed, position, stream, 1.0f, out);
  });
}

EXPORT int specdec_forbid(float* x, const uint8_t* allowed, int64_t size) {
  return guarded([&] {
    demand_size(size, 0, "scores");
    forbid(x, allowed, size);
  });
}

EXPORT int specdec_log_sums_exp(const float* x, int64_t rows, int64_t size, float* out, int threads) {
  return guarded([&] {
    demand_size(rows, 0, "rows");
    demand_size(size, 1, "scores");
    log_sums_exp(x, rows, size, out, threads);
  });
}

EXPORT int specdec_divide(const float* x, int64_t size, float by, float* out, int threads) {
  return guarded([&] {
    demand_size(size, 0, "numbers");
    divide(x, size, by, out, threads);
  });
}

// Adds to a draft what followed its context in the texts; `count` is how many nodes it has then.
EXPORT int specdec_retrieve(const retrieval::Texts* texts, const retrieval::Limits* limits, const int64_t* context,
                            int64_t size, const retrieval::Draft* draft, int64_t* count) {
  return guarded([&] { *count = retrieval::grow(*texts, *limits, context, size, *draft); });
}

// Reads memory as fast as the kernels could: the floor of a pass that has to read its weights.
EXPORT int specdec_read(const char* memory, int64_t bytes, int threads) {
  static std::atomic<int> sink{0};  // without it nothing would be read
  return guarded([&] {
    demand_size(bytes, 0, "bytes");
    parallel(threads, [&](Team& team, int) {
      vi sum = {};
      team.share(bytes / 65536, 1, [&](int64_t first, int64_t last) {
        for (const char* p = memory + first * 65536; p < memory + last * 65536; p += 256) {
          for (int i = 0; i < 256; i += 64) __builtin_prefetch(p + 2048 + i);
          for (int i = 0; i < 256; i += 4 * W) sum ^= load_bits(p + i);
        }
      });
      sink += sum[0] & 1;
    });
  });
}

EXPORT int specdec_suffix_new(suffix::Index** index) {
  return guarded([&] { *index = new suffix::Index; });
}

EXPORT int specdec_suffix_free(suffix::Index* index) {
  return guarded([&] { delete index; });
}

// Adds tokens to the text that was added to last, or as a new one.
EXPORT int specdec_suffix_extend(suffix::Index* index, const int32_t* tokens, int64_t count, int fresh) {
  return guarded([&] {
    demand_memory(index, "an index");
    demand_size(count, 0, "tokens");
    demand_within(tokens, count, 0, INT32_MAX, "token");
    if (fresh) index->begin();
    for (int64_t i = 0; i < count; i++) index->append(tokens[i]);
  });
}

EXPORT int specdec_suffix_bytes(const suffix::Index* index, int64_t* bytes) {
  return guarded([&] {
    demand_memory(index, "an index");
    *bytes = index->bytes();
  });
}

// The likeliest continuations of a text, behind the nodes that are given; `filled` counts both.
EXPORT int specdec_suffix_draft(const suffix::Index* const* indexes, const double* weights, int64_t count,
                                const int32_t* text, int64_t size, const suffix::Bounds* bounds,
                                const suffix::Nodes* nodes, int64_t* filled) {
  return guarded([&] {
    suffix::demand_draft(indexes, count, size, *bounds, *nodes);
    *filled = suffix::Draft(indexes, weights, count, *bounds, *nodes).grow(text, size);
  });
}

// Every token of text [size] after the first `known` follows those before it.
EXPORT int specdec_successors_read(successors::Table* table, uint64_t scope, int64_t owner, const int32_t* text,
                                   int64_t size, int64_t known) {
  return guarded([&] {
    successors::demand_table(*table);
    demand_size(size, 0, "tokens");
    demand_size(known, 0, "known tokens");
    demand_within(text, size, 0, table->vocab_size, "token");
    successors::read(*table, {scope, owner}, text, size, known);
  });
}

// Rows of a verified draft: top [rows, width] after the context [size] and after each of `count` nodes.
EXPORT int specdec_successors_learn(successors::Table* table, uint64_t scope, int64_t owner, const int32_t* context,
                                    int64_t size, int32_t* tokens, int32_t* parents, int64_t count, const int64_t* path,
                                    int64_t length, const int32_t* top, int64_t rows, int64_t width) {
  return guarded([&] {
    const successors::Tree tree{count, tokens, parents};
    successors::demand_draft(*table, context, size, tree);
    demand_size(width, 1, "logits of a row");
    DEMAND(rows == count + 1, "%lld rows of a draft of %lld", (long long)rows, (long long)count);
    demand_size(length, 0, "kept nodes");
    demand_within(path, length, 0, count, "kept node");
    demand_within(top, rows * width, 0, table->vocab_size, "token");
    successors::learn(*table, {scope, owner}, context, size, tree, path, length, top, width);
  });
}

// Adds nodes to a tree of `count`, up to `nodes`, for which tokens, parents and chances have room; `grown` counts all.
EXPORT int specdec_successors_grow(const successors::Table* table, uint64_t scope, int64_t owner,
                                   const int32_t* context, int64_t size, int32_t* tokens, int32_t* parents,
                                   int64_t count, double* chances, const int32_t* previous, const Noise* noise,
                                   int64_t nodes, int64_t depth, double floor, int64_t* grown) {
  return guarded([&] {
    successors::Tree tree{count, tokens, parents};
    successors::demand_draft(*table, context, size, tree);
    demand_memory(previous, "the rows before");
    demand_size(nodes, count, "nodes");
    if (nodes) demand_memory(chances, "chances");
    DEMAND(noise->temperature >= 0, "a temperature of %g is below 0", noise->temperature);
    successors::grow(*table, {scope, owner}, context, size, previous, *noise, {nodes, depth, floor}, tree, chances);
    *grown = tree.count;
  });
}

EXPORT int specdec_successors_forget(successors::Table* table, uint64_t scope) {
  return guarded([&] {
    successors::demand_table(*table);
    successors::forget(*table, scope);
  });
}

// The likeliest trees of some blocks of logits.
EXPORT int specdec_markov_grow(const markov::Term* term, const markov::Blocks* blocks, const markov::Trees* trees,
                               int threads) {
  return guarded([&] {
    markov::demand_blocks(*term, *blocks, *trees);
    markov::grow(*term, *blocks, *trees, threads);
  });
}
