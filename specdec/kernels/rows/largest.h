// The largest few of a row of scores, met in any order.
#pragma once

#include "../cpu/simd.h"

struct Best {
  float value;
  int64_t token;
};

// Whether `a` is the larger: a NaN counts as larger than any number, and of equals the first token comes first.
INLINE bool precedes(const Best& a, const Best& b) {
  const bool strange = a.value != a.value, other = b.value != b.value;
  if (strange != other) return strange;
  if (!strange && a.value != b.value) return a.value > b.value;
  return a.token < b.token;
}

// A sorted list of the largest, largest first, of a row of `size` scores. Places that are still free have the token
// `size`.
struct Largest {
  Best* list;
  int64_t count, size;  // places, at least one; scores of the row
  INLINE_MEMBER void clear() const {
    for (int64_t i = 0; i < count; i++) list[i] = {-INFINITY, size};
  }
  INLINE_MEMBER void meet(Best one) const {
    int64_t at = count - 1;
    if (!precedes(one, list[at])) return;
    for (; at > 0 && precedes(one, list[at - 1]); at--) list[at] = list[at - 1];
    list[at] = one;
  }
  INLINE_MEMBER void meet(const Largest& other) const {
    for (int64_t i = 0; i < other.count && other.list[i].token < size; i++) meet(other.list[i]);
  }
  // N vectors of scores, those of the tokens from `first` on; what lies beyond the row is left out. Most of them are
  // below all that is kept, and cost a comparison.
  template <int N>
  INLINE_MEMBER void meet(int64_t first, const vf (&values)[N]) const {
    const Best least = list[count - 1];
    vi larger = {};
    for (int v = 0; v < N; v++) larger |= ~(values[v] <= least.value);
    if (!any_lane(larger) && least.token < size) return;
    alignas(64) float x[N * W];
    for (int v = 0; v < N; v++) store(x + v * W, values[v]);
    for (int64_t i = 0; i < N * W && first + i < size; i++) meet({x[i], first + i});
  }
};

// The largest of a row, as many as the list has places, and the sum of e^(x - largest).
INLINE double meet_row(const float* x, const Largest& largest) {
  largest.clear();
  int64_t i = 0;
  for (; i + W <= largest.size; i += W) {
    const vf values[1] = {load(x + i)};
    largest.meet(i, values);
  }
  for (; i < largest.size; i++) largest.meet({x[i], i});
  vf sums = {};
  for (i = 0; i + W <= largest.size; i += W) sums += exponential(load(x + i) - largest.list[0].value);
  double sum = sum_lanes(sums);
  for (; i < largest.size; i++) sum += expf(x[i] - largest.list[0].value);
  return sum;
}
