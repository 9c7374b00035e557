// Draft trees of heads that are fed with their own states: a pass for each level, all of them in one call.
// specdec/drafters/likeliest.py says the same in plain Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "llama.h"

namespace pairs {

// One tree for each sequence of a batch, from its last row on: [count, most] nodes, and how many each has.
struct Trees {
  int64_t most, width;             // room for nodes; candidates of a node, and nodes of a level that are run
  double floor, deepen;            // least value of a node; least sum of values of a level that is run
  const int64_t *nodes, *depths;   // [count], most nodes and levels of each tree
  const int64_t* ids;              // [vocab_size], the target's tokens that the head knows
  int32_t *tokens, *parents;       // the target's tokens; -1: behind the last row
  double* chances;                 // of a node below the one before it
  int64_t* sizes;                  // -1: a score of the head was no number
};

struct Candidate {
  double value, chance;  // of itself and all above it; given those
  int64_t token;
  int64_t parent;        // among the nodes that were run, or -1
};

// A tree that grows. The nodes that were run are the best candidates of their level.
struct Growing {
  std::vector<Candidate> candidates;
  std::vector<int64_t> run;  // candidates that were run or are run next, in that order
  int64_t known;             // of these, those that were run
  int64_t level, row;        // levels that were looked at; its first row with logits in this pass
  bool failed;

  int64_t fresh() const { return run.size() - known; }
};

INLINE void demand_trees(const Model& model, const Batch& batch, const Trees& trees) {
  const Sequences& all = batch.sequences;
  demand_batch(model, batch, batch.chances);
  DEMAND(batch.logit_rows == all.count, "%lld rows with logits for %lld sequences", (long long)batch.logit_rows,
         (long long)all.count);
  demand_size(trees.most, 1, "nodes");
  demand_memory(trees.ids, "tokens that the head knows");
  demand_memory(trees.tokens, "tokens");
  demand_memory(trees.parents, "parents");
  demand_memory(trees.chances, "chances");
  demand_memory(trees.sizes, "sizes");
  demand_within(trees.ids, model.vocab_size, 0, model.embedding_rows, "token that the head knows");
  demand_within(trees.nodes, all.count, 1, trees.most + 1, "nodes of tree");
  demand_within(trees.depths, all.count, 1, trees.most + 1, "depth of tree");
  for (int64_t s = 0; s < all.count; s++) {
    const int64_t last = all.row_start[s + 1] - 1, end = all.committed[s] + all.first[s] + last + 1 - all.row_start[s];
    DEMAND(batch.logits_of[s] == last, "the logits of sequence %lld are not those of its last row", (long long)s);
    DEMAND(all.first[s] == 0, "rows of sequence %lld were run before", (long long)s);
    DEMAND(end + trees.nodes[s] <= all.slot_start[s + 1] - all.slot_start[s], "sequence %lld has no slots for its tree",
           (long long)s);
  }
}

// The candidates below a row, best first.
INLINE void look(Growing& tree, int64_t parent, const Best* best, const float* chances, int64_t kept, const Trees& trees) {
  const double above = parent < 0 ? 1.0 : tree.candidates[tree.run[parent]].value;
  tree.failed |= !std::isfinite(chances[0]);
  for (int64_t rank = 0; rank < kept; rank++) {
    const double chance = chances[rank], value = above * chance;
    if (value >= trees.floor) tree.candidates.push_back({value, chance, trees.ids[best[rank].token], parent});
  }
}

// The best candidates of a tree, of equals the first, so that no node is without its parent.
INLINE std::vector<int64_t> best_of(const Growing& tree, int64_t nodes) {
  std::vector<int64_t> order(tree.candidates.size());
  for (size_t i = 0; i < order.size(); i++) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return tree.candidates[a].value > tree.candidates[b].value;
  });
  if ((int64_t)order.size() > nodes) order.resize(nodes);
  return order;
}

// Chooses what is run next of the candidates from `first` on. Every level to come is left a slot.
INLINE void choose(Growing& tree, int64_t first, int64_t nodes, int64_t depth, const Trees& trees) {
  tree.known = tree.run.size();
  tree.level++;
  const int64_t spare = nodes - tree.run.size(), later = depth - 1 - tree.level;
  if (later < 0 || tree.failed) return;
  const int64_t room = std::min({trees.width, spare, std::max<int64_t>(spare - later, 1)});
  std::vector<int64_t> chosen;
  double sum = 0;
  for (int64_t number : best_of(tree, nodes)) {
    if (number < first || (int64_t)chosen.size() >= room) continue;
    chosen.push_back(number);
    sum += tree.candidates[number].value;
  }
  if (sum < trees.deepen) return;
  std::sort(chosen.begin(), chosen.end());
  tree.run.insert(tree.run.end(), chosen.begin(), chosen.end());
}

// The next pass: the rows of all trees that go on.
struct Pass {
  std::vector<int64_t> turn;  // sequences
  std::vector<int64_t> tokens, positions, writes, wanted, row_start, committed, first, slot_start, slots, parent_start;
  std::vector<int32_t> parents;
  std::vector<float> states;

  void clear() {
    for (auto* each : {&turn, &tokens, &positions, &writes, &wanted, &committed, &first, &slots}) each->clear();
    for (auto* each : {&row_start, &slot_start, &parent_start}) each->assign(1, 0);
    parents.clear();
    states.clear();
  }

  // `given`: the states behind the rows of the pass before.
  void add(const Growing& tree, int64_t index, const Sequences& all, int64_t before, const float* given, int64_t hidden) {
    const int64_t tail = all.row_start[index + 1] - all.row_start[index], start = all.committed[index] + tail;
    const int64_t* own = all.slots + all.slot_start[index];
    turn.push_back(index);
    for (int64_t node = tree.known; node < (int64_t)tree.run.size(); node++) {
      const Candidate& one = tree.candidates[tree.run[node]];
      const float* state = given + (tree.row + (one.parent < 0 ? 0 : one.parent - before)) * hidden;
      wanted.push_back(tokens.size());
      tokens.push_back(one.token);
      positions.push_back(start - 1 + tree.level);
      writes.push_back(own[start + node]);
      states.insert(states.end(), state, state + hidden);
    }
    row_start.push_back(tokens.size());
    committed.push_back(all.committed[index]);
    first.push_back(tail + tree.known);
    slots.insert(slots.end(), own, own + start + tree.run.size());
    slot_start.push_back(slots.size());
    for (int64_t row = 0; row < tail; row++) parents.push_back(row - 1);
    for (int64_t number : tree.run) parents.push_back(tail + tree.candidates[number].parent);  // the root is row tail - 1
    parent_start.push_back(parents.size());
  }

  Batch batch() const {
    Batch found{};
    found.rows = found.logit_rows = tokens.size();
    found.tokens = tokens.data(), found.positions = positions.data(), found.write_slots = writes.data();
    found.logits_of = wanted.data(), found.states = states.data();
    found.sequences = {(int64_t)turn.size(), row_start.data(), committed.data(), first.data(), slot_start.data(),
                       slots.data(), parent_start.data(), parents.data()};
    return found;
  }
};

// The nodes of a tree in the order in which they were found: parents first, likelier siblings first.
INLINE void give(const Growing& tree, int64_t index, const Trees& trees) {
  std::vector<int64_t> kept = best_of(tree, trees.nodes[index]), places(tree.candidates.size(), -1);
  std::sort(kept.begin(), kept.end());
  trees.sizes[index] = tree.failed ? -1 : kept.size();
  for (size_t place = 0; place < kept.size(); place++) {
    const Candidate& one = tree.candidates[kept[place]];
    const int64_t at = index * trees.most + place;
    places[kept[place]] = place;
    trees.tokens[at] = one.token;
    trees.parents[at] = one.parent < 0 ? -1 : places[tree.run[one.parent]];
    trees.chances[at] = one.chance;
  }
}

// All trees. The batch has the rows that the sequences have not run yet, and room in their slots for the nodes.
static void grow(const Model& model, const Batch& begun, const Trees& trees, int threads) {
  static thread_local std::vector<Growing> all;
  static thread_local std::vector<float> logits, chances, given;
  static thread_local std::vector<Best> best;
  static thread_local Pass pass;
  const int64_t count = begun.sequences.count, kept = trees.width, most = count * kept;
  demand_model(model);
  DEMAND(model.pairs, "%s", "a model without states grows no trees");
  DEMAND(kept >= 1 && kept <= model.vocab_size, "%lld candidates of %lld tokens", (long long)kept,
         (long long)model.vocab_size);
  DEMAND(count >= 1 && count <= begun.rows, "%lld sequences have %lld rows", (long long)count, (long long)begun.rows);
  logits.resize(most * model.vocab_size);
  given.resize(most * model.hidden);
  chances.resize(most * kept);
  best.resize(most * kept);
  Batch batch = begun;
  auto told = [&] { batch.kept = kept, batch.chances = chances.data(), batch.next_states = given.data(); };
  told();
  demand_trees(model, batch, trees);
  if ((int64_t)all.size() < count) all.resize(count);
  for (int64_t index = 0; index < count; index++) {
    Growing& tree = all[index];
    tree.candidates.clear(), tree.run.clear();
    tree.known = tree.level = 0, tree.row = index, tree.failed = false;
  }
  pass.clear();
  for (int64_t index = 0; index < count; index++) pass.turn.push_back(index);
  while (batch.rows) {
    told();
    forward(model, batch, logits.data(), best.data(), threads);
    const std::vector<int64_t> turn = pass.turn;
    pass.clear();
    for (int64_t index : turn) {
      Growing& tree = all[index];
      const int64_t first = tree.candidates.size(), before = tree.known, rows = tree.run.empty() ? 1 : tree.fresh();
      for (int64_t row = 0; row < rows; row++) {
        const int64_t at = (tree.row + row) * kept, parent = tree.run.empty() ? -1 : before + row;
        look(tree, parent, best.data() + at, chances.data() + at, kept, trees);
      }
      choose(tree, first, trees.nodes[index], trees.depths[index], trees);
      if (tree.fresh()) pass.add(tree, index, begun.sequences, before, given.data(), model.hidden);
    }
    for (size_t place = 0; place < pass.turn.size(); place++) all[pass.turn[place]].row = pass.row_start[place];
    batch = pass.batch();
  }
  for (int64_t index = 0; index < count; index++) give(all[index], index, trees);
}

}  // namespace pairs
