// Drafts that a model makes by itself, trees of the likeliest nodes and chains: a pass for each level, all of them in one
// call. The model may be fed with its own states. specdec/drafters/likeliest.py, growth.py and stopping.py say the same
// in plain Python.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "../rows/cpu.h"
#include "llama.h"

namespace pairs {

// How a target draws: it takes the largest logit, or at a temperature the largest under noise that is known beforehand,
// of those tokens that its filters leave.
struct Draws {
  Noise noise;
  double top_p, min_p;        // 1 and 0: off
  int64_t top_k;              // 0: off
};

// One tree for each sequence of a batch, from its last row on: [count, most] nodes, and how many each has.
struct Trees {
  int64_t most, width;             // room for nodes; candidates of a node, and nodes of a level that are run
  double floor, deepen;            // least value of a node; least sum of values of a level that is run
  const int64_t *nodes, *depths;   // [count], most nodes and levels of each tree
  const int64_t* ids;              // [vocab_size], the target's tokens that the model knows; null: all, as they are
  const Draws* draws;              // [count], how the target draws behind each
  int32_t *tokens, *parents;       // the target's tokens; -1: behind the last row
  double* chances;                 // of a node below the one before it
  int64_t* sizes;                  // -1: a score of the head was no number
};

// One chain for each sequence of a batch, token by token: [count, most] tokens.
struct Chains {
  int64_t most, target_size;       // room for tokens; tokens of the target
  const int64_t* depths;           // [count], most tokens of each chain
  const double* points;            // [count, most], where the cumulative distribution is inverted
  const float* temperatures;       // [count]; 0 takes the largest logit
  const int64_t* ids;              // [vocab_size], the target's tokens that the model knows; null: all, as they are
  const double* below;             // [count], a chain ends with the token whose survival is below this
  int64_t bins;                    // of largest chances, in each of which a chance of acceptance is known:
  double weight;                   // (accepted + weight * largest) / (tested + weight)
  const double *accepted, *tested; // [count, bins]
  int32_t* tokens;                 // the target's
  float* q;                        // [count, most, target_size], zeros that are given what was drawn from; null where
                                   // nothing is
  float* largest;                  // [count, most], the largest chance of what each token was taken from
  int64_t* sizes;                  // -1: a score of the model was no number
};

INLINE int64_t said(const int64_t* ids, int64_t place) { return ids ? ids[place] : place; }

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

// What trees and chains of a batch have in common; `room`: nodes of each sequence.
INLINE void demand_drafts(const Model& model, const Batch& batch, int64_t kept, int64_t most, const int64_t* depths,
                          const int64_t* room, const int64_t* ids, int64_t tokens) {
  const Sequences& all = batch.sequences;
  float some = 0;  // stands for memory that is made later
  Batch told = batch;
  demand_model(model);
  DEMAND(kept >= 1 && kept <= model.vocab_size, "%lld candidates of %lld tokens", (long long)kept,
         (long long)model.vocab_size);
  told.kept = kept, told.next_states = told.chances = &some;
  demand_batch(model, told, &some);
  DEMAND(batch.logit_rows == all.count, "%lld rows with logits for %lld sequences", (long long)batch.logit_rows,
         (long long)all.count);
  demand_size(most, 1, "nodes");
  const int64_t known = std::min(tokens, model.embedding_rows);
  if (ids) demand_within(ids, model.vocab_size, 0, known, "token that the head knows");
  else DEMAND(model.vocab_size <= known, "%lld of %lld tokens are known", (long long)known, (long long)model.vocab_size);
  demand_within(room, all.count, 1, most + 1, "nodes of draft");
  demand_within(depths, all.count, 1, most + 1, "depth of draft");
  for (int64_t s = 0; s < all.count; s++) {
    const int64_t last = all.row_start[s + 1] - 1, end = all.committed[s] + all.first[s] + last + 1 - all.row_start[s];
    DEMAND(batch.logits_of[s] == last, "the logits of sequence %lld are not those of its last row", (long long)s);
    DEMAND(all.first[s] == 0, "rows of sequence %lld were run before", (long long)s);
    DEMAND(end + room[s] <= all.slot_start[s + 1] - all.slot_start[s], "sequence %lld has no slots for its draft",
           (long long)s);
  }
}

INLINE void demand_trees(const Model& model, const Batch& batch, const Trees& trees) {
  demand_drafts(model, batch, trees.width, trees.most, trees.depths, trees.nodes, trees.ids, model.embedding_rows);
  demand_memory(trees.draws, "draws");
  for (int64_t s = 0; s < batch.sequences.count; s++) {
    const Draws& draws = trees.draws[s];
    DEMAND(draws.noise.temperature >= 0 && draws.top_k >= 0 && draws.top_p > 0 && draws.min_p >= 0,
           "draw %lld has a temperature or filters below their least", (long long)s);
  }
  demand_memory(trees.tokens, "tokens");
  demand_memory(trees.parents, "parents");
  demand_memory(trees.chances, "chances");
  demand_memory(trees.sizes, "sizes");
}

INLINE void demand_chains(const Model& model, const Batch& batch, const Chains& chains) {
  demand_drafts(model, batch, 1, chains.most, chains.depths, chains.depths, chains.ids, chains.target_size);
  demand_memory(chains.points, "points");
  demand_memory(chains.temperatures, "temperatures");
  demand_memory(chains.below, "bounds of survival");
  demand_size(chains.bins, 1, "bins");
  DEMAND(chains.weight > 0, "%s", "what a model says of itself counts for nothing");
  demand_memory(chains.accepted, "accepted tokens");
  demand_memory(chains.tested, "tested tokens");
  demand_memory(chains.tokens, "tokens");
  demand_memory(chains.largest, "largest chances");
  demand_memory(chains.sizes, "sizes");
  for (int64_t s = 0; s < batch.sequences.count; s++) {
    DEMAND(chains.temperatures[s] >= 0, "temperature %lld is below 0", (long long)s);
    if (chains.temperatures[s] > 0) demand_memory(chains.q, "q");
  }
}

// The candidates below a row, best first.
INLINE void look(Growing& tree, int64_t parent, const Best* best, const float* chances, int64_t kept, const Trees& trees) {
  const double above = parent < 0 ? 1.0 : tree.candidates[tree.run[parent]].value;
  tree.failed |= !std::isfinite(chances[0]);
  for (int64_t rank = 0; rank < kept; rank++) {
    const double chance = chances[rank], value = above * chance;
    if (value >= trees.floor) tree.candidates.push_back({value, chance, said(trees.ids, best[rank].token), parent});
  }
}

// The least logit that the target's filters would leave of a row, if these were its logits: top-k, then top-p of the
// rest, then min-p.
INLINE float least_kept(const float* row, int64_t size, float top, const Draws& draws) {
  static thread_local std::vector<float> some;
  const float temperature = draws.noise.temperature;
  float least = -INFINITY;
  if (draws.top_k && draws.top_k < size) {
    some.assign(row, row + size);
    std::nth_element(some.begin(), some.begin() + draws.top_k - 1, some.end(), std::greater<float>());
    least = some[draws.top_k - 1];
  }
  if (draws.top_p < 1) {
    double sum = 0, mass = 0;
    for (int64_t i = 0; i < size; i++)
      if (row[i] >= least) sum += expf((row[i] - top) / temperature);
    // All that is below this adds up to less than is left out. What is not is little, and is sorted.
    const float tiny = top + temperature * logf((1 - draws.top_p) * sum / size);
    some.clear();
    for (int64_t i = 0; i < size; i++)
      if (row[i] >= least && row[i] >= tiny) some.push_back(row[i]);
    std::sort(some.begin(), some.end(), std::greater<float>());
    for (size_t i = 0; i < some.size() && mass < draws.top_p * sum; i++) {
      least = some[i];
      mass += expf((least - top) / temperature);
    }
  }
  return draws.min_p > 0 ? std::max<float>(least, top + temperature * logf(draws.min_p)) : least;
}

// Candidates below rows whose target draws under noise that is known. It is the same for all rows of a level.
struct Foresight {
  std::vector<float> noise, scores, chances;
  std::vector<Best> best;
  const Growing* tree = nullptr;
  int64_t level = -1;

  // The candidates below a row of logits as in `look`: those of the softmax of logits and noise together.
  void look(Growing& growing, const Draws& draws, int64_t parent, const float* row, const Best& top, int64_t size,
            const Trees& trees) {
    if (tree != &growing || level != growing.level) {
      noise.resize(size), scores.resize(size), chances.resize(trees.width), best.resize(trees.width);
      draws.noise.at(growing.level, trees.ids, size, draws.noise.temperature, noise.data());
      tree = &growing, level = growing.level;
    }
    const float least = least_kept(row, size, top.value, draws);
    for (int64_t i = 0; i < size; i++) scores[i] = row[i] >= least ? row[i] + noise[i] : -INFINITY;
    const double sum = meet_row(scores.data(), {best.data(), trees.width, size});
    int64_t kept = 0;
    for (; kept < trees.width && best[kept].value > -INFINITY; kept++) chances[kept] = expf(best[kept].value - best[0].value) / sum;
    pairs::look(growing, parent, best.data(), chances.data(), kept, trees);
  }
};

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
  const int64_t spare = nodes - tree.run.size(), later = depth - 1 - tree.level;
  if (later < 0) return;
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

  // `given`: the states behind the rows of the pass before, [rows, hidden].
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

// Runs levels until no draft goes on. `look(tree, index, row, best, logits, chances)` takes in what a row with logits
// gave, and `choose(tree, index, first)` what is run next of the candidates from `first` on.
template <class Look, class Choose>
INLINE std::vector<Growing>& run_levels(const Model& model, const Batch& begun, int64_t kept, int threads, Look look,
                                        Choose choose) {
  static thread_local std::vector<Growing> all;
  static thread_local std::vector<float> logits, chances, given;
  static thread_local std::vector<Best> best;
  static thread_local Pass pass;
  const int64_t count = begun.sequences.count, most = count * kept;
  logits.resize(most * model.vocab_size);
  given.resize(most * model.hidden);
  chances.resize(most * kept);
  best.resize(most * kept);
  if ((int64_t)all.size() < count) all.resize(count);
  pass.clear();
  for (int64_t index = 0; index < count; index++) {
    Growing& tree = all[index];
    tree.candidates.clear(), tree.run.clear();
    tree.known = tree.level = 0, tree.row = index, tree.failed = false;
    pass.turn.push_back(index);
  }
  for (Batch batch = begun; batch.rows;) {
    batch.kept = kept, batch.chances = chances.data(), batch.next_states = given.data();
    forward(model, batch, logits.data(), best.data(), threads);
    const std::vector<int64_t> turn = pass.turn;
    pass.clear();
    for (int64_t index : turn) {
      Growing& tree = all[index];
      const int64_t first = tree.candidates.size(), before = tree.known, rows = tree.run.empty() ? 1 : tree.fresh();
      for (int64_t row = tree.row; row < tree.row + rows; row++) {
        const int64_t parent = tree.run.empty() ? -1 : before + row - tree.row, at = row * kept;
        look(tree, index, parent, best.data() + at, logits.data() + row * model.vocab_size, chances.data() + at);
      }
      tree.known = tree.run.size();
      tree.level++;
      if (!tree.failed) choose(tree, index, first);
      if (tree.fresh()) pass.add(tree, index, begun.sequences, before, given.data(), model.pairs ? model.hidden : 0);
    }
    for (size_t place = 0; place < pass.turn.size(); place++) all[pass.turn[place]].row = pass.row_start[place];
    batch = pass.batch();
  }
  return all;
}

// All trees. The batch has the rows that the sequences have not run yet, and room in their slots for the nodes.
static void grow(const Model& model, const Batch& begun, const Trees& trees, int threads) {
  demand_trees(model, begun, trees);
  static thread_local Foresight foresight;
  foresight.tree = nullptr;
  auto below = [&](Growing& tree, int64_t index, int64_t parent, const Best* best, const float* logits,
                   const float* chances) {
    const Draws& draws = trees.draws[index];
    if (draws.noise.temperature > 0 && std::isfinite(*chances))
      foresight.look(tree, draws, parent, logits, *best, model.vocab_size, trees);
    else look(tree, parent, best, chances, trees.width, trees);
  };
  auto next = [&](Growing& tree, int64_t index, int64_t first) {
    choose(tree, first, trees.nodes[index], trees.depths[index], trees);
  };
  const std::vector<Growing>& all = run_levels(model, begun, trees.width, threads, below, next);
  for (int64_t index = 0; index < begun.sequences.count; index++) give(all[index], index, trees);
}

// Draws a token from a row of logits over the known tokens. `q`, zeros over the target's, is given their chances, and
// `largest` that of the largest logit. Returns its place among them, or -1 if a logit is no number.
INLINE int64_t drawn(const float* row, int64_t size, const Best& best, float temperature, double point, const int64_t* ids,
                     float* scores, float* q, float* largest) {
  if (!std::isfinite(best.value)) return -1;
  const float top = best.value / temperature;
  vf sums = {};
  int64_t i = 0;
  for (; i + W <= size; i += W) {
    const vf each = exponential(load(row + i) / temperature - top);
    store(scores + i, each);
    sums += each;
  }
  float sum = sum_lanes(sums);
  for (; i < size; i++) sum += scores[i] = expf(row[i] / temperature - top);
  double total = 0, passed = 0;
  for (i = 0; i < size; i++) total += scores[i] = q[said(ids, i)] = scores[i] / sum;
  if (!(total > 0 && std::isfinite(total))) return -1;
  *largest = scores[best.token];
  const double at = std::min(point * total, std::nextafter(total, 0.0));
  for (i = 0; i + 1 < size && (passed += scores[i]) <= at;) i++;
  return i;
}

// The chance that a token is accepted which was taken from a distribution of this largest chance.
INLINE double acceptance(const Chains& chains, int64_t index, double largest) {
  const int64_t bin = index * chains.bins + std::min((int64_t)(largest * chains.bins), chains.bins - 1);
  return (chains.accepted[bin] + chains.weight * largest) / (chains.tested[bin] + chains.weight);
}

// Chains of count sequences.
static void draw(const Model& model, const Batch& begun, const Chains& chains, int threads) {
  static thread_local std::vector<float> scores;
  demand_chains(model, begun, chains);
  scores.resize(model.vocab_size);
  auto below = [&](Growing& chain, int64_t index, int64_t parent, const Best* best, const float* logits,
                   const float* chances) {
    const int64_t at = index * chains.most + chain.level;
    const float temperature = chains.temperatures[index];
    int64_t place = std::isfinite(*chances) ? best->token : -1;
    chains.largest[at] = *chances;
    if (temperature > 0)
      place = drawn(logits, model.vocab_size, *best, temperature, chains.points[at], chains.ids, scores.data(),
                    chains.q + at * chains.target_size, chains.largest + at);
    chain.failed |= place < 0;
    if (chain.failed) return;
    const double above = chain.candidates.empty() ? 1.0 : chain.candidates.back().value;
    const double chance = acceptance(chains, index, chains.largest[at]);
    chain.candidates.push_back({above * chance, chance, said(chains.ids, place), parent});
  };
  auto next = [&](Growing& chain, int64_t index, int64_t first) {
    const bool ends = chain.candidates.back().value < chains.below[index];
    if (chain.level < chains.depths[index] && !ends) chain.run.push_back(first);
  };
  const std::vector<Growing>& all = run_levels(model, begun, 1, threads, below, next);
  for (int64_t index = 0; index < begun.sequences.count; index++) {
    const std::vector<Candidate>& found = all[index].candidates;
    chains.sizes[index] = all[index].failed ? -1 : found.size();
    for (size_t level = 0; level < found.size(); level++)
      chains.tokens[index * chains.most + level] = found[level].token;
  }
}

}  // namespace pairs
