// What followed the ends of a text before, and the likeliest tree of what follows now (reference.py).
//
// The texts lie in a suffix automaton (Blumer et al. 1985): the smallest automaton that reads all their substrings, grown
// token by token. Each state stands for the contexts that occur at the same places, so it has one table of followers for
// all of them; its link leads to the next shorter context that occurs at more places. It is the path-compressed suffix
// tree of the reversed texts with its edges made deterministic: the same matches and the same counts, in at most two
// states and three edges a token. A token costs O(1) amortised for the automaton, and for the counts one step for each
// state with a suffix of at most MATCH tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <queue>
#include <vector>

#include "../cpu/gate.h"
#include "../cpu/simd.h"

namespace suffix {

constexpr int64_t MATCH = 16, CONTEXTS = 2, FOLLOWERS = 8, CHANCES = 8;  // as in reference.py
constexpr int64_t MOST_SOURCES = 4, MOST_NODES = 1 << 16;
constexpr uint32_t NOWHERE = UINT32_MAX, START = 0, MOST_EDGES = 1u << 30;

struct State {
  int32_t length;    // of its longest context
  uint32_t link;     // state of the longest shorter context that occurs at more places
  uint32_t first;    // edge; the FOLLOWERS most frequent ones stand first, of equal ones the latest
  uint32_t total;    // occurrences with a follower
  uint32_t variety;  // different followers
};

struct Edge {
  uint32_t from, to;
  int32_t token;
  uint32_t count;
  uint32_t next, before;  // among the edges of `from`
};

// A place in the automaton: the state of a context of this length.
struct Place {
  uint32_t state;
  int32_t length;
};

class Index {
 public:
  // What comes next is a new text.
  void begin() {
    last_ = START;
    end_ = {START, 0};
  }

  void append(int32_t token) {
    demand_sound();
    DEMAND(edges_.size() < MOST_EDGES, "an index holds no more than %u edges", MOST_EDGES);
    sound_ = false;  // unless this token comes to its end: memory may run out
    last_ = grown(token);
    end_ = settled(end_);
    for (uint32_t state = end_.state; state != START; state = states_[state].link) count(find(state, token));
    end_ = step(end_, token);
    sound_ = true;
  }

  void demand_sound() const { DEMAND(sound_, "memory ran out in an index, which cannot be used any more; make another"); }

  // The longest context at the end of a text that occurs here, by what it was before its last token.
  Place step(Place place, int32_t token) const {
    uint32_t edge = find(place.state, token);
    while (edge == NOWHERE && place.state != START) {
      place.state = states_[place.state].link;
      place.length = states_[place.state].length;
      edge = find(place.state, token);
    }
    if (edge == NOWHERE) return {START, 0};
    return settled({edges_[edge].to, std::min<int32_t>(place.length + 1, MATCH)});
  }

  // The longest context at the end of a text that occurs here. A few tokens mostly tell it: a match that does not reach
  // back to the first of them is not longer with more tokens before it.
  Place ending(const int32_t* text, int64_t size) const {
    const int64_t most = std::min(size, MATCH);
    for (int64_t count = MATCH / 4;; count *= 2) {
      const int64_t read = std::min(count, most);
      Place place{START, 0};
      for (int64_t i = size - read; i < size; i++) place = step(place, text[i]);
      if (place.length < read || read == most) return place;
    }
  }

  // The next shorter context with other followers, or the place itself if it will do: one with more than `total`.
  Place above(Place place, uint32_t total) const {
    while (place.state != START && states_[place.state].total <= total) {
      place.state = states_[place.state].link;
      place.length = states_[place.state].length;
    }
    return place;
  }

  const State& state(uint32_t number) const { return states_[number]; }
  const Edge& edge(uint32_t number) const { return edges_[number]; }

  int64_t bytes() const {
    return states_.capacity() * sizeof(State) + edges_.capacity() * sizeof(Edge) + table_.capacity() * sizeof(uint32_t);
  }

 private:
  // The state of the text with one more token; suffixes that occur here for the first time get their edges.
  uint32_t grown(int32_t token) {
    const uint32_t known = find(last_, token);
    if (known != NOWHERE) return whole(last_, known);  // a text that begins as another one
    const uint32_t added = states_.size();
    states_.push_back({states_[last_].length + 1, START, NOWHERE, 0, 0});
    uint32_t state = last_, edge = NOWHERE;
    for (; state != NOWHERE && (edge = find(state, token)) == NOWHERE; state = states_[state].link)
      connect(state, token, added, 0);
    if (state != NOWHERE) states_[added].link = whole(state, edge);
    return added;
  }

  // The state of the longest context of `from` with the edge's token. It gets one of its own if it does not have one.
  uint32_t whole(uint32_t from, uint32_t edge) {
    const uint32_t reached = edges_[edge].to;
    const int32_t token = edges_[edge].token, length = states_[from].length + 1;
    if (states_[reached].length == length) return reached;
    const uint32_t copy = states_.size();
    states_.push_back({length, states_[reached].link, NOWHERE, states_[reached].total, states_[reached].variety});
    states_[reached].link = copy;
    uint32_t before = NOWHERE;
    for (uint32_t each = states_[reached].first; each != NOWHERE; each = edges_[each].next) {
      const Edge own = edges_[each];
      before = linked(copy, own.token, own.to, own.count, before);
    }
    for (; from != NOWHERE; from = states_[from].link) {
      const uint32_t one = find(from, token);
      if (edges_[one].to != reached) break;
      edges_[one].to = copy;
    }
    return copy;
  }

  // A context may have lost its place to a copy.
  Place settled(Place place) const {
    while (place.state != START && states_[states_[place.state].link].length >= place.length)
      place.state = states_[place.state].link;
    return place;
  }

  void count(uint32_t number) {
    Edge& edge = edges_[number];
    State& state = states_[edge.from];
    state.total++;
    state.variety += edge.count++ == 0;
    uint32_t place = state.first;
    int rank = 0;
    for (; rank < FOLLOWERS && edges_[place].count > edge.count; rank++) place = edges_[place].next;
    if (rank == FOLLOWERS || place == number) return;
    unlink(number);
    insert(number, edges_[place].before);
  }

  // A new edge, behind the frequent ones.
  void connect(uint32_t from, int32_t token, uint32_t to, uint32_t count) {
    uint32_t before = NOWHERE, next = states_[from].first;
    for (int i = 0; i < FOLLOWERS && next != NOWHERE && edges_[next].count > count; i++) {
      before = next;
      next = edges_[next].next;
    }
    linked(from, token, to, count, before);
  }

  uint32_t linked(uint32_t from, int32_t token, uint32_t to, uint32_t count, uint32_t before) {
    const uint32_t number = edges_.size();
    edges_.push_back({from, to, token, count, NOWHERE, NOWHERE});
    insert(number, before);
    if (2 * edges_.size() > table_.size()) rehash();
    else enter(number);
    return number;
  }

  // Behind the edge `before`, or as the first one.
  void insert(uint32_t number, uint32_t before) {
    Edge& edge = edges_[number];
    uint32_t& slot = before == NOWHERE ? states_[edge.from].first : edges_[before].next;
    edge.before = before;
    edge.next = slot;
    if (slot != NOWHERE) edges_[slot].before = number;
    slot = number;
  }

  void unlink(uint32_t number) {
    const Edge& edge = edges_[number];
    (edge.before == NOWHERE ? states_[edge.from].first : edges_[edge.before].next) = edge.next;
    if (edge.next != NOWHERE) edges_[edge.next].before = edge.before;
  }

  static uint64_t hash(uint32_t from, int32_t token) {
    const uint64_t key = ((uint64_t)from << 32 | (uint32_t)token) * 0x9E3779B97F4A7C15u;
    return key ^ key >> 32;
  }

  uint32_t find(uint32_t from, int32_t token) const {
    const uint64_t mask = table_.size() - 1;
    if (table_.empty()) return NOWHERE;
    for (uint64_t at = hash(from, token) & mask; table_[at] != NOWHERE; at = (at + 1) & mask)
      if (const Edge& edge = edges_[table_[at]]; edge.from == from && edge.token == token) return table_[at];
    return NOWHERE;
  }

  void enter(uint32_t number) {
    const uint64_t mask = table_.size() - 1;
    uint64_t at = hash(edges_[number].from, edges_[number].token) & mask;
    while (table_[at] != NOWHERE) at = (at + 1) & mask;
    table_[at] = number;
  }

  void rehash() {
    table_.assign(std::max<size_t>(16, 2 * table_.size()), NOWHERE);
    for (uint32_t number = 0; number < edges_.size(); number++) enter(number);
  }

  std::vector<State> states_{{0, NOWHERE, NOWHERE, 0, 0}};
  std::vector<Edge> edges_;
  std::vector<uint32_t> table_;  // edges by where they begin and their token
  uint32_t last_ = START;        // state of the whole text
  Place end_{START, 0};          // its last MATCH tokens, or all
  bool sound_ = true;
};

struct Bounds {
  int64_t nodes, depth, branches;
  double floor;
};

// The draft; the first `given` nodes are there already.
struct Nodes {
  int64_t given;
  int32_t *tokens, *parents, *kinds;
  double* chances;
};

// A tree that grows at its likeliest leaf.
class Draft {
 public:
  Draft(const Index* const* indexes, const double* weights, int64_t count, const Bounds& bounds, const Nodes& nodes)
      : indexes_(indexes), weights_(weights), count_(count), bounds_(bounds), nodes_(nodes) {}

  // Number of nodes, those that were given among them.
  int64_t grow(const int32_t* text, int64_t size) {
    Leaf root{1.0, 0, {}};
    for (int64_t s = 0; s < count_; s++) root.places[s] = indexes_[s]->ending(text, size);
    leaves_.push_back(root);
    for (int64_t node = 0; node < nodes_.given; node++) enter(node);
    for (int64_t node = -1; node < nodes_.given; node++) expand(node);
    int64_t filled = nodes_.given;
    while (!waiting_.empty() && filled < nodes_.given + bounds_.nodes) {
      const Waiting best = waiting_.top();
      waiting_.pop();
      nodes_.tokens[filled] = best.found.token;
      nodes_.parents[filled] = best.parent;
      nodes_.kinds[filled] = best.found.kind;
      nodes_.chances[filled] = best.found.chance;
      enter(filled);
      expand(filled++);
    }
    return filled;
  }

 private:
  struct Leaf {
    double survival;
    int64_t depth;
    Place places[MOST_SOURCES];
  };

  struct Candidate {
    int32_t token, kind;
    double chance;
  };

  struct Waiting {
    double survival;
    int64_t order;
    int32_t parent;
    Candidate found;
    bool operator<(const Waiting& other) const {
      return survival != other.survival ? survival < other.survival : order > other.order;
    }
  };

  const Leaf& leaf(int64_t node) const { return leaves_[node + 1]; }

  Leaf moved(const Leaf& from, int32_t token) const {
    Leaf to = from;
    to.depth++;
    for (int64_t s = 0; s < count_; s++) to.places[s] = indexes_[s]->step(from.places[s], token);
    return to;
  }

  void enter(int64_t node) {
    const Leaf& parent = leaf(nodes_.parents[node]);
    Leaf own = moved(parent, nodes_.tokens[node]);
    own.survival = parent.survival * nodes_.chances[node];
    leaves_.push_back(own);
  }

  bool there(int64_t parent, int32_t token) const {
    for (int64_t node = 0; node < nodes_.given; node++)
      if (nodes_.parents[node] == parent && nodes_.tokens[node] == token) return true;
    return false;
  }

  void expand(int64_t node) {
    const Leaf own = leaf(node);
    if (own.depth >= bounds_.depth) return;
    Candidate found[CONTEXTS * FOLLOWERS];
    const int64_t count = candidates(own, found);
    int64_t taken = 0;
    for (int64_t i = 0; i < count && taken < bounds_.branches; i++) {
      if (there(node, found[i].token)) continue;
      taken++;
      const double survival = own.survival * found[i].chance;
      if (survival >= bounds_.floor) waiting_.push({survival, order_++, (int32_t)node, found[i]});
    }
  }

  // What may follow, likeliest first.
  int64_t candidates(const Leaf& own, Candidate (&found)[CONTEXTS * FOLLOWERS]) const {
    Place places[MOST_SOURCES];
    for (int64_t s = 0; s < count_; s++) places[s] = indexes_[s]->above(own.places[s], 0);
    int64_t count = 0;
    int32_t kind = 0;
    double left = 1.0;
    for (int64_t context = 0; context < CONTEXTS; context++) {
      int64_t best = 0;
      for (int64_t s = 1; s < count_; s++)
        if (places[s].length > places[best].length) best = s;
      if (places[best].length == 0) break;
      if (context == 0) kind = kind_of(best, places[best].length);
      const Index& index = *indexes_[best];
      const State& state = index.state(places[best].state);
      const double escape = weights_[best] * state.variety / places[best].length, weight = state.total + escape;
      uint32_t at = state.first;
      for (int i = 0; i < FOLLOWERS && at != NOWHERE; i++, at = index.edge(at).next) {
        const Edge& edge = index.edge(at);
        if (edge.count) count = added(found, count, edge.token, left * edge.count / weight);
      }
      left *= escape / weight;
      places[best] = index.above(places[best], state.total);
    }
    std::stable_sort(found, found + count, [](const Candidate& a, const Candidate& b) { return a.chance > b.chance; });
    for (int64_t i = 0; i < count; i++)
      found[i].kind = kind + std::min<int32_t>((int32_t)(found[i].chance * CHANCES), CHANCES - 1);
    return count;
  }

  static int64_t added(Candidate* found, int64_t count, int32_t token, double chance) {
    for (int64_t i = 0; i < count; i++)
      if (found[i].token == token) {
        found[i].chance += chance;
        return count;
      }
    found[count] = {token, 0, chance};
    return count + 1;
  }

  static int32_t kind_of(int64_t source, int64_t length) {
    const int32_t step = length < 5 ? length - 1 : length < 8 ? 4 : 5;
    return ((source > 0) * 6 + step) * CHANCES;
  }

  const Index* const* indexes_;
  const double* weights_;
  int64_t count_;
  Bounds bounds_;
  Nodes nodes_;
  std::vector<Leaf> leaves_;  // of the root, and of every node
  std::priority_queue<Waiting> waiting_;
  int64_t order_ = 0;
};

INLINE void demand_draft(const Index* const* indexes, int64_t count, int64_t size, const Bounds& bounds,
                         const Nodes& nodes) {
  DEMAND(count >= 1 && count <= MOST_SOURCES, "%lld indexes; 1 to %lld can be", (long long)count,
         (long long)MOST_SOURCES);
  for (int64_t s = 0; s < count; s++) {
    demand_memory(indexes[s], "an index");
    indexes[s]->demand_sound();
  }
  demand_size(size, 0, "tokens of the text");
  DEMAND(bounds.nodes >= 0 && bounds.nodes <= MOST_NODES, "%lld nodes; 0 to %lld can be", (long long)bounds.nodes,
         (long long)MOST_NODES);
  DEMAND(nodes.given >= 0 && nodes.given <= MOST_NODES, "%lld nodes are given; 0 to %lld can be",
         (long long)nodes.given, (long long)MOST_NODES);
  for (int64_t node = 0; node < nodes.given; node++) {
    DEMAND(nodes.parents[node] >= -1 && nodes.parents[node] < node, "node %lld has the parent %lld", (long long)node,
           (long long)nodes.parents[node]);
    DEMAND(nodes.tokens[node] >= 0, "token %lld is %lld", (long long)node, (long long)nodes.tokens[node]);
  }
}

}  // namespace suffix
