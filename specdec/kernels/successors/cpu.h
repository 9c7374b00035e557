// Which tokens follow which: a table of bounded size from the last tokens of a text to its likeliest successors, and the
// trees that grow from it. reference.py says the same in plain Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "../cpu/gate.h"
#include "../rows/cpu.h"

namespace successors {

constexpr int ORDER = 3;       // tokens of the longest context
constexpr int WIDTH = 8;       // successors of a context
constexpr int WAYS = 4;        // entries of a bucket, of which the one written longest ago makes room
constexpr int PREVIOUS = 2;    // rows before the draft that rank its first tokens
constexpr int TOKEN_BITS = 20;  // a context and its length fit a word
constexpr int RANKS = WIDTH + 1;  // the last one: the list does not have the token
enum Origin : int32_t { KEPT = 0, REFUSED = 1, READ = 2 };
constexpr int FIRST_ROWS = ORDER * 6, SOURCES = FIRST_ROWS + 1 + PREVIOUS;

struct Entry {
  uint64_t scope, key;  // key 0: free
  int64_t stamp;        // when it was written
  int32_t owner, origin;
  int32_t tokens[WIDTH];  // likeliest first; -1: none
};

struct Table {
  int64_t buckets, vocab_size, clock;
  Entry* entries;         // [buckets, WAYS]
  const int32_t* first;   // [vocab_size, WIDTH] successors of a token alone, or null
  const double* weights;  // [SOURCES, RANKS] log-odds, then [ORDER + 1] by the length of the longest known context,
                          // then by T g of a target's known noise, and by T squared
};

struct Writer {
  uint64_t scope;
  int64_t owner;
};

INLINE void demand_table(const Table& table) {
  DEMAND(table.buckets >= 1 && !(table.buckets & (table.buckets - 1)), "%lld buckets are no power of two",
         (long long)table.buckets);
  DEMAND(table.vocab_size >= 1 && table.vocab_size <= 1 << TOKEN_BITS, "a vocabulary of %lld has no table",
         (long long)table.vocab_size);
  demand_memory(table.entries, "a table");
  demand_memory(table.weights, "weights of successors");
}

// The last `length` tokens before `end` as a number; 0 if there are fewer.
INLINE uint64_t key_of(const int32_t* begin, const int32_t* end, int length) {
  if (end - begin < length) return 0;
  uint64_t key = length;
  for (int i = 0; i < ORDER; i++) key = key << TOKEN_BITS | (i < length ? (uint64_t)end[i - length] : 0);
  return key;
}

INLINE Entry* bucket_of(const Table& table, uint64_t scope, uint64_t key) {
  uint64_t hash = (key ^ scope * 0x9E3779B97F4A7C15u) * 0xBF58476D1CE4E5B9u;
  hash = (hash ^ hash >> 29) * 0x94D049BB133111EBu;
  return table.entries + ((hash >> 32) & (table.buckets - 1)) * WAYS;
}

INLINE Entry* find(const Table& table, uint64_t scope, uint64_t key) {
  Entry* bucket = bucket_of(table, scope, key);
  for (int i = 0; i < WAYS; i++)
    if (bucket[i].key == key && bucket[i].scope == scope) return bucket + i;
  return nullptr;
}

// The entry of a context, which is empty if it is new.
INLINE Entry& entry_for(Table& table, const Writer& writer, uint64_t key, Origin origin) {
  Entry* entry = find(table, writer.scope, key);
  if (!entry) {
    Entry* bucket = bucket_of(table, writer.scope, key);
    entry = std::min_element(bucket, bucket + WAYS, [](const Entry& a, const Entry& b) { return a.stamp < b.stamp; });
    entry->scope = writer.scope;
    entry->key = key;
    std::fill_n(entry->tokens, WIDTH, -1);
  }
  entry->stamp = ++table.clock;
  entry->owner = (int32_t)writer.owner;
  entry->origin = origin;
  return *entry;
}

// Every token after the first `known` follows those before it: it becomes their first successor.
INLINE void read(Table& table, const Writer& writer, const int32_t* text, int64_t size, int64_t known) {
  for (int64_t i = std::max<int64_t>(known, 1); i < size; i++)
    for (int length = 1; length <= ORDER && length <= i; length++) {
      int32_t* tokens = entry_for(table, writer, key_of(text, text + i, length), READ).tokens;
      int at = std::find(tokens, tokens + WIDTH - 1, text[i]) - tokens;
      std::copy_backward(tokens, tokens + at, tokens + at + 1);
      tokens[0] = text[i];
    }
}

// A draft and what is known of it.
struct Tree {
  int64_t count;
  int32_t *tokens, *parents;  // -1: the last token of the context
};

// The last tokens of a context and of the path to a node, -1 for the context alone; returns how many.
INLINE int ending(const int32_t* context, int64_t size, const Tree& tree, int64_t node, int32_t (&out)[ORDER]) {
  int count = 0;
  for (; node >= 0 && count < ORDER; node = tree.parents[node]) out[count++] = tree.tokens[node];
  for (; size > 0 && count < ORDER; size--) out[count++] = context[size - 1];
  std::reverse(out, out + count);
  return count;
}

INLINE void demand_draft(const Table& table, const int32_t* context, int64_t size, const Tree& tree) {
  demand_table(table);
  demand_size(size, 0, "tokens of a context");
  demand_within(context, size, 0, table.vocab_size, "token of a context");
  demand_size(tree.count, 0, "nodes");
  demand_within(tree.tokens, tree.count, 0, table.vocab_size, "token of a draft");
  for (int64_t node = 0; node < tree.count; node++)
    DEMAND(tree.parents[node] >= -1 && tree.parents[node] < node, "node %lld has the parent %d", (long long)node,
           tree.parents[node]);
}

// The largest logits of one row are the successors of the tokens before it, whatever was known of them.
INLINE void write_row(Table& table, const Writer& writer, const int32_t* context, int64_t size, const Tree& tree,
                      int64_t node, const int32_t* top, int64_t width, Origin origin) {
  int32_t text[ORDER];
  const int count = ending(context, size, tree, node, text);
  for (int length = 1; length <= count; length++) {
    int32_t* tokens = entry_for(table, writer, key_of(text, text + count, length), origin).tokens;
    std::fill_n(tokens, WIDTH, -1);
    std::copy_n(top, std::min<int64_t>(width, WIDTH), tokens);
  }
}

// Rows of a verified draft, top [count + 1, width]: first those that were refused, in their order, then the kept ones.
INLINE void learn(Table& table, const Writer& writer, const int32_t* context, int64_t size, const Tree& tree,
                  const int64_t* path, int64_t length, const int32_t* top, int64_t width) {
  for (int64_t node = 0; node < tree.count; node++)
    if (std::find(path, path + length, node) == path + length)
      write_row(table, writer, context, size, tree, node, top + (node + 1) * width, width, REFUSED);
  write_row(table, writer, context, size, tree, -1, top, width, KEPT);
  for (int64_t i = 0; i < length; i++)
    write_row(table, writer, context, size, tree, path[i], top + (path[i] + 1) * width, width, KEPT);
}

struct Candidate {
  int32_t token;
  double score;  // log-odds, then a chance
};

// What may follow a text, likeliest first: log-odds of all lists that know the text are added up, and of the noise.
class Ranking {
 public:
  Ranking(const Table& table, const Writer& writer, const Noise& noise) : table_(table), writer_(writer), noise_(noise) {}

  // previous [PREVIOUS, WIDTH]: rows before the draft; `depth` tokens of the text are drafted.
  const std::vector<Candidate>& of(const int32_t* text, int count, const int32_t* previous, int64_t depth) {
    found_.clear();
    missing_ = 0;
    int longest = 0;
    for (int length = std::min(count, ORDER); length >= 1; length--)
      if (const Entry* entry = find(table_, writer_.scope, key_of(text, text + count, length))) {
        longest = std::max(longest, length);
        const bool own = entry->owner == (int32_t)writer_.owner;
        add((length - 1) * 6 + entry->origin * 2 + own, entry->tokens);
      }
    if (table_.first && count) add(FIRST_ROWS, table_.first + (int64_t)text[count - 1] * WIDTH);
    for (int64_t i = depth; i < PREVIOUS; i++) add(FIRST_ROWS + 1 + i, previous + (i - depth) * WIDTH);
    if (noise_.temperature > 0) add_noise(depth);
    double sum = 0;
    for (Candidate& one : found_)
      sum += one.score = 1 / (1 + exp(-(one.score + missing_ + table_.weights[SOURCES * RANKS + longest])));
    if (sum > 1)
      for (Candidate& one : found_) one.score /= sum;
    std::stable_sort(found_.begin(), found_.end(),
                     [](const Candidate& a, const Candidate& b) { return a.score > b.score; });
    return found_;
  }

 private:
  void add(int source, const int32_t* tokens) {
    if (tokens[0] < 0) return;
    const double* weights = table_.weights + source * RANKS;
    missing_ += weights[WIDTH];
    for (int rank = 0; rank < WIDTH && tokens[rank] >= 0; rank++) {
      if (tokens[rank] >= table_.vocab_size) continue;
      auto same = [&](const Candidate& one) { return one.token == tokens[rank]; };
      auto at = std::find_if(found_.begin(), found_.end(), same);
      if (at == found_.end()) at = found_.insert(at, {tokens[rank], 0});
      at->score += weights[rank] - weights[WIDTH];
    }
  }

  void add_noise(int64_t depth) {
    const double *weights = table_.weights + SOURCES * RANKS + ORDER + 1, t = noise_.temperature;
    ids_.clear();
    for (const Candidate& one : found_) ids_.push_back(one.token);
    given_.resize(ids_.size());
    noise_.at(depth, ids_.data(), ids_.size(), 1.0f, given_.data());
    for (size_t i = 0; i < found_.size(); i++) found_[i].score += t * (weights[0] * given_[i] + t * weights[1]);
  }

  const Table& table_;
  const Writer& writer_;
  const Noise& noise_;
  std::vector<Candidate> found_;
  std::vector<int64_t> ids_;
  std::vector<float> given_;
  double missing_ = 0;
};

struct Limits {
  int64_t nodes, depth;  // of the whole tree
  double floor;          // survival of a node
};

// Adds nodes to a tree, likeliest first, while there are any that survive often enough. `chances`: of each node once its
// parent is accepted; those of the tree's own nodes are given, all have room for limits.nodes.
INLINE void grow(const Table& table, const Writer& writer, const int32_t* context, int64_t size,
                 const int32_t* previous, const Noise& noise, const Limits& limits, Tree& tree, double* chances) {
  struct Open {
    double survival, chance;
    int64_t parent, depth;
    int32_t token;
  };
  auto later = [](const Open& a, const Open& b) { return a.survival < b.survival; };
  std::vector<Open> open;
  std::vector<double> survival;
  std::vector<int64_t> depths;
  Ranking ranking(table, writer, noise);
  const int64_t given = tree.count;
  auto offer = [&](int64_t parent) {
    const int64_t depth = parent < 0 ? 0 : depths[parent] + 1;
    if (depth >= limits.depth) return;
    int32_t text[ORDER];
    const int count = ending(context, size, tree, parent, text);
    for (const Candidate& one : ranking.of(text, count, previous, depth)) {
      const double survives = (parent < 0 ? 1 : survival[parent]) * one.score;
      if (survives < limits.floor) break;
      bool there = false;
      for (int64_t node = 0; node < given; node++)
        there |= tree.parents[node] == parent && tree.tokens[node] == one.token;
      if (!there) open.push_back({survives, one.score, parent, depth, one.token});
    }
  };
  auto note = [&](int64_t node) {
    const int64_t parent = tree.parents[node];
    survival.push_back((parent < 0 ? 1 : survival[parent]) * chances[node]);
    depths.push_back(parent < 0 ? 0 : depths[parent] + 1);
  };
  for (int64_t node = 0; node < given; node++) note(node);
  for (int64_t node = -1; node < given; node++) offer(node);
  while (!open.empty() && tree.count < limits.nodes) {
    const auto best = std::max_element(open.begin(), open.end(), later);
    const int64_t node = tree.count++;
    tree.tokens[node] = best->token;
    tree.parents[node] = (int32_t)best->parent;
    chances[node] = best->chance;
    open.erase(best);
    note(node);
    offer(node);
  }
}

INLINE void forget(Table& table, uint64_t scope) {
  for (int64_t i = 0; i < table.buckets * WAYS; i++)
    if (table.entries[i].key && table.entries[i].scope == scope) table.entries[i] = {};
}

}  // namespace successors
