// Trees of the drafts that a block of logits allows: row d is of the token at depth d, and the token before it adds its
// own term, so what may follow a node depends on the node. reference.py says the same in plain Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "../cpu/gate.h"
#include "../linear/cpu.h"

namespace markov {

struct Term {
  int64_t vocab_size;       // columns of logits
  int64_t rank;             // of the term W2 W1[token before]; 0: there is none
  int64_t known;            // rows of W1: those of the vocabulary first, then those of tokens that only come before it
  const float* before;      // W1 [known, rank]
  const float* confidence;  // [rank], what W1[token before] adds to a row's confidence, or null
  Linear after;             // W2 [vocab_size, rank]
};

// Blocks of several texts.
struct Blocks {
  int64_t count;
  const int64_t* starts;     // [count + 1] into the rows
  const int64_t* anchors;    // [count], row of W1 of the token before the first row
  int64_t stride;            // numbers from one row of logits to the next
  const float* logits;       // [rows, vocab_size], without the term
  const float* confidences;  // [rows], log-odds that the token is accepted if those before it are; or null: certain
};

// Nodes of all trees: [count, most] each, and how many of them each tree has.
struct Trees {
  int64_t most;
  double floor;  // least chance of a node that it and those above it are accepted
  int32_t *tokens, *parents;
  double* chances;
  int64_t* sizes;
};

struct Candidate {
  double value, chance;  // of itself and all above it; given those
  int32_t token, parent;
};

// One tree that grows, best candidate first. A child is never better than its parent, so the nodes are those of largest
// value of all that there could be.
struct Growing {
  std::vector<Candidate> open;  // the best of them, best first, as many as there is room for
  std::vector<double> values;
  std::vector<int32_t> depths;
  std::vector<float> scores;
  int64_t from = -1;  // the node whose children are looked for; -1: the anchor
  bool active = false;
};

INLINE void demand_blocks(const Term& term, const Blocks& blocks, const Trees& trees) {
  demand_size(term.vocab_size, 1, "a vocabulary");
  demand_size(term.rank, 0, "rank");
  demand_size(blocks.count, 1, "blocks");
  demand_size(trees.most, 1, "nodes");
  if (term.rank) {
    demand_size(term.known, term.vocab_size, "rows of tokens before");
    demand_memory(term.before, "tokens before");
    demand_linear(term.after, term.rank, term.vocab_size, false);
  }
  demand_borders(blocks.starts, blocks.count, "rows of blocks");
  if (term.rank) demand_within(blocks.anchors, blocks.count, 0, term.known, "anchor");
  demand_memory(blocks.logits, "logits");
  demand_size(blocks.stride, term.vocab_size, "numbers of a row");
  demand_memory(trees.tokens, "tokens");
  demand_memory(trees.parents, "parents");
  demand_memory(trees.chances, "chances");
  demand_memory(trees.sizes, "sizes");
}

INLINE void offer(Growing& tree, int64_t most, const Candidate& one) {
  const size_t room = most - tree.values.size();
  auto place = std::find_if(tree.open.begin(), tree.open.end(), [&](const Candidate& its) { return its.value < one.value; });
  if (place - tree.open.begin() >= (int64_t)room) return;
  if (tree.open.size() >= room) tree.open.resize(room - 1);  // the place is before those that go
  tree.open.insert(place, one);
}

// Makes nodes of the best candidates until one of them has children to be looked for.
INLINE void advance(Growing& tree, int64_t index, int64_t rows, const Trees& trees) {
  while (tree.active) {
    if (tree.open.empty()) {
      tree.active = false;
      return;
    }
    const Candidate best = tree.open.front();
    tree.open.erase(tree.open.begin());
    const int64_t node = tree.values.size(), at = index * trees.most + node;
    const int32_t depth = best.parent < 0 ? 0 : tree.depths[best.parent] + 1;
    trees.tokens[at] = best.token;
    trees.parents[at] = best.parent;
    trees.chances[at] = best.chance;
    tree.values.push_back(best.value);
    tree.depths.push_back(depth);
    trees.sizes[index] = node + 1;
    tree.active = node + 1 < trees.most;
    tree.from = node;
    const int64_t room = trees.most - node - 1;
    const bool full = (int64_t)tree.open.size() >= room && room && tree.open[room - 1].value >= best.value;
    if (depth + 1 < rows && !full) return;  // no child is better than its parent
  }
}

// The likeliest children of a node, from the scores of its row: chance = confidence · softmax.
INLINE void look_for_children(const Term& term, Growing& tree, float odds, Best* list, const Trees& trees) {
  const int64_t size = term.vocab_size, room = trees.most - tree.values.size();
  const Largest largest{list, std::min(room, size), size};
  const double sum = meet_row(tree.scores.data(), largest);
  const double sure = 1 / (1 + exp(-(double)odds)), above = tree.from < 0 ? 1.0 : tree.values[tree.from];
  for (int64_t rank = 0; rank < largest.count; rank++) {
    const double chance = std::min(sure * exp((double)list[rank].value - list[0].value) / sum, 1.0);  // NaN stays NaN
    if (!(above * chance > 0 && above * chance >= trees.floor)) break;
    offer(tree, trees.most, {above * chance, chance, (int32_t)list[rank].token, (int32_t)tree.from});
  }
}

// All trees, each by its own blocks alone. They look for children together: W2 is read once for all of them.
static void grow(const Term& term, const Blocks& blocks, const Trees& trees, int threads) {
  static std::vector<Growing> all;
  static std::vector<int64_t> turn_of;  // trees that look for children
  static std::vector<char> data;
  static std::vector<float> row_scale;
  static std::vector<Best> lists;
  const int64_t size = term.vocab_size, kind = term.after.kind;
  auto row_of = [&](int64_t index) {
    const Growing& tree = all[index];
    return blocks.starts[index] + (tree.from < 0 ? 0 : tree.depths[tree.from] + 1);
  };
  auto before_of = [&](int64_t index) {
    const Growing& tree = all[index];
    return term.before + term.rank * (tree.from < 0 ? blocks.anchors[index] : trees.tokens[index * trees.most + tree.from]);
  };
  auto prepare = [&] {
    all.resize(std::max<size_t>(all.size(), blocks.count));
    for (int64_t index = 0; index < blocks.count; index++) {
      Growing& tree = all[index];
      tree.open.clear();
      tree.values.clear();
      tree.depths.clear();
      tree.from = -1;
      tree.open.reserve(trees.most);
      tree.values.reserve(trees.most);
      tree.depths.reserve(trees.most);
      tree.scores.resize(size);
      trees.sizes[index] = 0;
      tree.active = blocks.starts[index] < blocks.starts[index + 1];
    }
    turn_of.reserve(blocks.count);
    data.resize(blocks.count * row_bytes(kind, std::max<int64_t>(term.rank, 1)));
    row_scale.resize(blocks.count);
    lists.resize(blocks.count * std::min(trees.most, size));
  };
  struct AddScores {
    const Blocks& blocks;
    const decltype(row_of)& row_at;
    int64_t size;
    INLINE_MEMBER void operator()(int64_t panel, int64_t row, const vf (&values)[NV]) {
      const int64_t index = turn_of[row], first = panel * PANEL, left = std::min<int64_t>(PANEL, size - first);
      const float* base = blocks.logits + row_at(index) * blocks.stride + first;
      float* out = all[index].scores.data() + first;
      for (int64_t i = 0; i < left; i++) out[i] = base[i] + ((const float*)values)[i];
    }
  };
  parallel(threads, prepare, [&](Team& team, int thread) {
    const Rows rows{data.data(), row_scale.data(), true};
    for (bool first = true;; first = false) {
      if (thread == 0) {
        turn_of.clear();
        for (int64_t index = 0; index < blocks.count; index++) {
          if (!first) advance(all[index], index, blocks.starts[index + 1] - blocks.starts[index], trees);
          if (!all[index].active) continue;
          if (term.rank) prepare_row(kind, before_of(index), term.rank, turn_of.size(), rows);
          turn_of.push_back(index);
        }
      }
      team.barrier();
      const int64_t count = turn_of.size();
      if (!count) return;
      if (term.rank) {
        run_linear(team, term.after, rows, count, AddScores{blocks, row_of, size});
        team.barrier();
      }
      team.share(count, 1, [&](int64_t begin, int64_t end) {
        for (int64_t turn = begin; turn < end; turn++) {
          const int64_t index = turn_of[turn], row = row_of(index);
          if (!term.rank) memcpy(all[index].scores.data(), blocks.logits + row * blocks.stride, 4 * size);
          float odds = blocks.confidences ? blocks.confidences[row] : INFINITY;
          if (blocks.confidences && term.confidence && term.rank)
            for (int64_t i = 0; i < term.rank; i++) odds += term.confidence[i] * before_of(index)[i];
          look_for_children(term, all[index], odds, lists.data() + turn * std::min(trees.most, size), trees);
        }
      });
      team.barrier();
    }
  });
}

}  // namespace markov
