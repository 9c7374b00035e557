// A draft grown from texts in suffix order: reference.py says what, and gives the same numbers.
//
// The texts lie in a file that is mapped, and that someone may have changed since it was checked: every position that is
// read from it is checked again before it is used.
#pragma once

#include <algorithm>
#include <queue>
#include <vector>

#include "../cpu/simd.h"
#include "../cpu/gate.h"

namespace retrieval {

struct Texts {
  const void* tokens;     // [length], `width` bytes each
  const uint32_t* order;  // [length]
  int64_t length, width, end, depth;
};

struct Limits {
  int64_t min_match, max_match, max_depth, max_nodes, branches;
  double floor;
};

// The given draft of `given` nodes, and room behind it for `max_nodes` more, in each column.
struct Draft {
  int64_t given;
  int64_t *tokens, *parents, *matches;
  double* chances;
};

constexpr int64_t PROBES = 32, MOST_DRAFT = 4096;
constexpr double DOUBT = 3.0;

// Places [low, high) of the order, at which the same `matched` tokens begin.
struct Range {
  int64_t matched, low, high;
};

struct Follower {
  int64_t token;
  Range part;
};

template <class Token>
struct Search {
  const Texts& texts;
  const Limits& limits;

  // The token `offset` behind the one at which this place of the order begins; less than all where there is none.
  int64_t token(int64_t place, int64_t offset) const {
    const int64_t at = texts.order[place];
    DEMAND(at < texts.length, "position %lld of the order is %lld, outside of 0 to %lld", (long long)place,
           (long long)at, (long long)texts.length - 1);
    return at + offset < texts.length ? (int64_t)((const Token*)texts.tokens)[at + offset] : -1;
  }

  // -1, 0 or 1: whether the text at a place is less than a pattern, begins with it, or is more.
  int compare(int64_t place, const int64_t* pattern, int64_t size) const {
    for (int64_t i = 0; i < size; i++) {
      const int64_t ours = token(place, i);
      if (ours != pattern[i]) return ours < pattern[i] ? -1 : 1;
    }
    return 0;
  }

  // The first place in [low, high) for which `beyond` holds; it holds for all that come after one.
  template <class Test>
  static int64_t first(int64_t low, int64_t high, Test beyond) {
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (beyond(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  Range find(const int64_t* pattern, int64_t size) const {
    const int64_t low = first(0, texts.length, [&](int64_t at) { return compare(at, pattern, size) >= 0; });
    return {size, low, first(low, texts.length, [&](int64_t at) { return compare(at, pattern, size) > 0; })};
  }

  // Of the longest suffix of a path that occurs; an empty range if none does.
  Range longest(const std::vector<int64_t>& path) const {
    int64_t low = limits.min_match - 1, high = std::min<int64_t>(limits.max_match, path.size());
    Range best = {0, 0, 0};
    while (low < high) {
      const int64_t middle = (low + high + 1) / 2;
      const Range found = find(path.data() + path.size() - middle, middle);
      if (found.low < found.high) low = middle, best = found;
      else high = middle - 1;
    }
    return best;
  }

  // Tokens that follow a match, by falling count.
  void followers(const Range& found, std::vector<Follower>& out) const {
    out.clear();
    const int64_t step = std::max<int64_t>(1, (found.high - found.low) / PROBES);
    auto next = [&](int64_t at) { return token(at, found.matched); };
    for (int64_t place = found.low, seen = found.low; place < found.high; place = std::max(seen, place + step)) {
      const int64_t one = next(place);
      const int64_t low = first(seen, place, [&](int64_t at) { return next(at) >= one; });
      seen = first(place, found.high, [&](int64_t at) { return next(at) > one; });
      if (seen <= place) break;  // an order that is none
      if (one >= 0 && one < texts.end) out.push_back({one, {found.matched + 1, low, seen}});
    }
    std::sort(out.begin(), out.end(), [](const Follower& a, const Follower& b) {
      const int64_t ours = a.part.high - a.part.low, theirs = b.part.high - b.part.low;
      return ours != theirs ? ours > theirs : a.token < b.token;
    });
  }
};

struct Candidate {
  double survival, chance;
  int64_t number, parent, token;
  Range part;
  bool operator<(const Candidate& other) const {
    return survival != other.survival ? survival < other.survival : number > other.number;
  }
};

// The draft while it grows. Node n is entry n + 1 of each column; the root is the first.
template <class Token>
struct Growing {
  Search<Token> search;
  const Draft& draft;
  std::vector<int64_t> depths{0};
  std::vector<double> survivals{1.0};
  std::priority_queue<Candidate> waiting{};
  std::vector<Follower> followers{};
  int64_t pushed = 0;

  void add(int64_t parent, double survival) {
    depths.push_back(depths[parent + 1] + 1);
    survivals.push_back(survival);
  }

  void push(int64_t parent, const Range& found) {
    search.followers(found, followers);
    const double spread = (found.high - found.low) + (int64_t)followers.size() + DOUBT / found.matched;
    int64_t room = search.limits.branches - children(parent);
    for (const Follower& one : followers) {
      if (room <= 0) break;
      if (given(parent, one.token)) continue;
      room--;
      const double chance = (one.part.high - one.part.low) / spread, survival = survivals[parent + 1] * chance;
      if (survival >= search.limits.floor)
        waiting.push({survival, chance, pushed++, parent, one.token, one.part});
    }
  }

  bool given(int64_t parent, int64_t token) const {
    for (int64_t n = parent + 1; n < draft.given; n++)
      if (draft.parents[n] == parent && draft.tokens[n] == token) return true;
    return false;
  }

  // Of a node, in the draft that is given.
  int64_t children(int64_t parent) const { return std::count(draft.parents, draft.parents + draft.given, parent); }

  // Candidates below the root and below every node that is given.
  void begin(const int64_t* context, int64_t size) {
    std::vector<int64_t> path;
    for (int64_t node = -1; node < draft.given; node++) {
      if (node >= 0) add(draft.parents[node], survivals[draft.parents[node] + 1] * draft.chances[node]);
      if (depths[node + 1] >= search.limits.max_depth) continue;
      path.assign(context, context + size);
      path.resize(size + depths[node + 1]);
      int64_t at = path.size();
      for (int64_t n = node; n >= 0; n = draft.parents[n]) path[--at] = draft.tokens[n];
      const Range found = search.longest(path);
      if (found.low < found.high) push(node, found);
    }
  }

  int64_t run() {
    int64_t count = draft.given;
    while (!waiting.empty() && count < draft.given + search.limits.max_nodes) {
      const Candidate best = waiting.top();
      waiting.pop();
      draft.tokens[count] = best.token;
      draft.parents[count] = best.parent;
      draft.matches[count] = best.part.matched - 1;
      draft.chances[count] = best.chance;
      add(best.parent, best.survival);
      if (depths.back() < search.limits.max_depth && best.part.matched < search.texts.depth)
        push(count, best.part);
      count++;
    }
    return count;
  }
};

INLINE void demand_texts(const Texts& texts) {
  demand_size(texts.length, 0, "tokens");
  DEMAND(texts.length < (int64_t)1 << 32, "%lld tokens are more than positions of 32 bits", (long long)texts.length);
  DEMAND(texts.width == 2 || texts.width == 4, "tokens have %lld bytes; 2 or 4 can be", (long long)texts.width);
  if (!texts.length) return;
  demand_memory(texts.tokens, "tokens");
  demand_memory(texts.order, "the order");
}

INLINE void demand_limits(const Limits& limits, int64_t depth) {
  demand_size(limits.min_match, 1, "min_match");
  DEMAND(limits.max_match < depth, "max_match = %lld, and the order is sorted by %lld tokens",
         (long long)limits.max_match, (long long)depth);
  demand_size(limits.max_depth, 0, "max_depth");
  demand_size(limits.max_nodes, 0, "max_nodes");
  demand_size(limits.branches, 1, "branches");
  DEMAND(limits.max_nodes <= MOST_DRAFT, "max_nodes = %lld, above %lld", (long long)limits.max_nodes,
         (long long)MOST_DRAFT);
}

// Returns the number of nodes, the given ones included.
INLINE int64_t grow(const Texts& texts, const Limits& limits, const int64_t* context, int64_t size,
                    const Draft& draft) {
  demand_texts(texts);
  demand_limits(limits, texts.depth);
  demand_size(size, 0, "context");
  if (size) demand_memory(context, "the context");
  DEMAND(draft.given >= 0 && draft.given <= MOST_DRAFT, "%lld nodes are given; at most %lld can be",
         (long long)draft.given, (long long)MOST_DRAFT);
  for (int64_t n = 0; n < draft.given; n++)
    DEMAND(draft.parents[n] >= -1 && draft.parents[n] < n, "node %lld has parent %lld", (long long)n,
           (long long)draft.parents[n]);
  auto grown = [&](auto growing) {
    growing.begin(context, size);
    return growing.run();
  };
  if (texts.width == 2) return grown(Growing<uint16_t>{{texts, limits}, draft});
  return grown(Growing<uint32_t>{{texts, limits}, draft});
}

}  // namespace retrieval
