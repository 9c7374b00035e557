// Attention over the paged cache with online softmax, for prefill chunks, decoding, chains and trees alike.
//
// Keys are taken in chunks by *logical* position, an ancestor's key through its path, and each chunk is folded into
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
#include "cache.h"
#include "tiles.h"

constexpr int SECTION = 1024;  // where one begins maxima rise again, which costs time
// Rows that share one read of a chunk: at most so many, and no fewer for the sake of idle threads.
constexpr int ATTENTION_ROWS = 16, FEW_ROWS = 4;

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

// Slots of a drafted row's path below the committed tokens, by depth.
INLINE void path_slots(const Sequences& all, int64_t s, int64_t reserved, std::vector<int64_t>& slots) {
  const int64_t* own = all.slots + all.slot_start[s] + all.committed[s];
  const int32_t* parents = all.parents + all.parent_start[s];
  slots.clear();
  for (int64_t row = reserved; row >= 0; row = parents[row]) slots.push_back(own[row]);
  std::reverse(slots.begin(), slots.end());
}

constexpr int LEVELS = 24;  // of more sections than there can be

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
  int count;
  bool chain;
  int64_t group, stride;
  int64_t position[ATTENTION_ROWS], start[ATTENTION_ROWS];  // of each row, and of the first key that it sees
  std::vector<int64_t> paths[ATTENTION_ROWS];
  std::vector<Running> states;  // [count * group]
  Stack stacks[ATTENTION_ROWS];
  std::vector<std::vector<Gathered>> waiting;  // by place on the stack and state: what its node gave

  int64_t first_section(int r) const { return start[r] / SECTION; }
  int64_t last_section(int r) const { return position[r] / SECTION; }

  Gathered* waits_at(int place) {
    if ((int)waiting.size() <= place) waiting.resize(place + 1);
    if (waiting[place].size() < states.size()) waiting[place].resize(states.size());
    return waiting[place].data();
  }
};

template <bool IN_PAIRS>
static void read_queries(Part& part, const Queries& queries, const Shape& shape, const Sequences& all, int64_t s,
                         int64_t row, int count, int64_t head) {
  const int64_t group = shape.heads / shape.kv_heads, size = shape.head_size;
  part.s = s, part.row = row, part.head = head, part.count = count, part.group = group, part.stride = padded(size);
  part.chain = all.parent_start[s] == all.parent_start[s + 1];
  if ((int64_t)part.states.size() < ATTENTION_ROWS * group) part.states.resize(ATTENTION_ROWS * group);
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
  Tiles tiles;
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
      fold_all<SIZE, IN_PAIRS>(chunk, shape, from, to, &part.states[r * group], together * group, tiles);
      r += together - 1;
    }
  }
}

// Takes in what row r gathered in a node, which is in its states: with the nodes to the left of it that wait, as far as
// the tree has them together.
INLINE void enter(Part& part, int r, int64_t node, int level) {
  Stack& stack = part.stacks[r];
  const int64_t from = r * part.group, to = from + part.group;
  for (; node & 1; node >>= 1, level++)
    if (stack.holds_left_of(node, level)) {
      const Gathered* left = part.waits_at(--stack.size);
      for (int64_t i = from; i < to; i++) meet(part.states[i], left[i], part.stride);
    }
  Gathered* own = part.waits_at(stack.size);
  for (int64_t i = from; i < to; i++) copy(part.states[i], part.stride, own[i]);
  stack.node[stack.size] = node, stack.level[stack.size++] = level;
}

// All that row r gathered is in its states then.
INLINE void collapse(Part& part, int r) {
  const int64_t from = r * part.group, to = from + part.group;
  int place = part.stacks[r].size - 1;
  for (int64_t i = from; i < to; i++) copy(part.waits_at(place)[i], part.stride, part.states[i]);
  while (place-- > 0)
    for (int64_t i = from; i < to; i++) meet(part.states[i], part.waits_at(place)[i], part.stride);
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
  int64_t rows = ATTENTION_ROWS, parts = 0, blocks = 1;
  int level = LEVELS - 1;

  Cut() = default;
  Cut(const Shape& shape, const Sequences& all, int threads) {
    int64_t longest = 1;
    for (int64_t s = 0; s < all.count; s++)
      longest = std::max(longest, all.committed[s] + all.first[s] + all.row_start[s + 1] - all.row_start[s]);
    const int64_t full = std::max<int64_t>(longest / SECTION, 1), sections = (longest + SECTION - 1) / SECTION;
    while (rows > FEW_ROWS && pieces(all, rows) * shape.kv_heads * full < 3 * threads) rows /= 2;
    parts = pieces(all, rows) * shape.kv_heads;
    for (; level && threads > 1 && parts * blocks < 4 * threads; level--)
      blocks = (sections + (int64_t(1) << (level - 1)) - 1) >> (level - 1);
  }
};

// How a call is cut, which is the same in all layers, and what the blocks of parts gave: by part, block, row and head the
// maximum, the sums, and the output.
struct Blocks {
  Cut cut;
  int64_t width, states;      // floats of a state, and states of a block
  std::vector<float> numbers;
  std::vector<int64_t> done;  // blocks of a part that are there

  // Cuts a call and takes the memory for it, before its threads begin.
  void begin(const Shape& shape, const Sequences& all, int threads) {
    cut = Cut(shape, all, threads);
    width = 2 * W + padded(shape.head_size), states = cut.rows * (shape.heads / shape.kv_heads);
    if (cut.blocks == 1) return;
    if ((int64_t)done.size() < cut.parts) done.resize(cut.parts, 0);
    const size_t wanted = cut.parts * cut.blocks * states * width + 16;
    if (numbers.size() < wanted) numbers.resize(wanted);
  }

  float* at(int64_t part, int64_t block) {
    float* aligned = (float*)(((uintptr_t)numbers.data() + 63) & ~(uintptr_t)63);
    return aligned + (part * cut.blocks + block) * states * width;
  }
};
static Blocks& kept_blocks = *new Blocks;  // calls take turns

// One block of a part. Whoever has done a part's last one merges them all.
template <int SIZE, bool IN_PAIRS>
static void attend_block(Part& part, int64_t number, int64_t block, const KeyValues& cache, const Shape& shape,
                         const Sequences& all, const RowWriter& out) {
  const Cut& cut = kept_blocks.cut;
  const int64_t group = part.group, width = kept_blocks.width, first = block << cut.level;
  const uint32_t seen = gather_all<SIZE, IN_PAIRS>(part, cache, shape, all, first, first + (int64_t(1) << cut.level));
  float* own = kept_blocks.at(number, block);
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
      const float* there = kept_blocks.at(number, each);
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
  const Cut& cut = kept_blocks.cut;
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
      read_queries<IN_PAIRS>(part, queries, shape, all, s, row, (int)std::min(left, cut.rows), head);
      if (cut.blocks > 1) {
        attend_block<SIZE, IN_PAIRS>(part, number, item / cut.parts, cache, shape, all, out);
      } else {
        gather_all<SIZE, IN_PAIRS>(part, cache, shape, all, 0, INT64_MAX);
        give(part, shape, out);
      }
    }
  });
}

// All rows, after `kept_blocks.begin`.
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
