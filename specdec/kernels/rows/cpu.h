// What a decision needs to know of a row of scores, without a softmax or a sort: each is one walk over the vocabulary.
// Walks whose result does not depend on their order are shared by the threads; the others have one, and a fixed order.
#pragma once

#include "../cpu/simd.h"
#include "../cpu/threads.h"

// The largest value and the first place that has it; a NaN counts as the largest.
INLINE int64_t argmax(const float* x, int64_t size, float* largest) {
  constexpr int64_t BLOCK = 16 * W;
  float best = -INFINITY;
  int64_t at = 0;
  int64_t begin = 0;
  for (; begin + BLOCK <= size; begin += BLOCK) {
    vf top = load(x + begin);
    vi strange = ~(top == top);
    for (int64_t i = W; i < BLOCK; i += W) {
      const vf v = load(x + begin + i);
      strange |= ~(v == v);
      top = maximum(v, top);
    }
    if (!any_lane(strange | (top > best))) continue;
    for (int64_t i = begin; i < begin + BLOCK; i++)
      if (!(x[i] <= best)) {
        best = x[i];
        at = i;
        if (best != best) break;
      }
    if (best != best) break;
  }
  if (best == best)
    for (int64_t i = begin; i < size; i++)
      if (!(x[i] <= best)) {
        best = x[i];
        at = i;
        if (best != best) break;
      }
  *largest = best;
  return at;
}

// Philox-4x32-10 (Salmon et al. 2011) of the counters (c0, c1, c2, lane), lane by lane.
typedef uint32_t vu __attribute__((vector_size(4 * W)));
typedef uint64_t vl __attribute__((vector_size(4 * W)));  // the even lanes, or the odd ones, widened

INLINE void multiply_words(vu a, uint32_t by, vu* high, vu* low) {
  const vl even = ((vl)a & 0xffffffffu) * (uint64_t)by, odd = ((vl)a >> 32) * (uint64_t)by;
  *low = (vu)((even & 0xffffffffu) | (odd << 32));
  *high = (vu)((even >> 32) | (odd & ~(uint64_t)0xffffffffu));
}

INLINE void philox(uint32_t c0, uint32_t c1, uint32_t c2, vu lane, uint64_t seed, vu (&out)[4]) {
  vu x[4] = {c0 - vu{}, c1 - vu{}, c2 - vu{}, lane};
  uint32_t key0 = (uint32_t)seed, key1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    vu high0, low0, high1, low1;
    multiply_words(x[0], 0xD2511F53u, &high0, &low0);
    multiply_words(x[2], 0xCD9E8D57u, &high1, &low1);
    x[0] = high1 ^ x[1] ^ key0;
    x[1] = low1;
    x[2] = high0 ^ x[3] ^ key1;
    x[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  for (int i = 0; i < 4; i++) out[i] = x[i];
}

INLINE double gumbel(uint32_t word) { return -log(-log((word + 0.5) / 4294967296.0)); }

// Lanes of a and b in turn.
INLINE void interleave(vu a, vu b, vu* low, vu* high) {
  vu first, second;
  for (int lane = 0; lane < W; lane++) {
    first[lane] = lane / 2 + (lane % 2) * W;
    second[lane] = first[lane] + W / 2;
  }
  *low = __builtin_shuffle(a, b, first);
  *high = __builtin_shuffle(a, b, second);
}

// The words of tokens 4 · lane to 4 · lane + 4 W - 1 in their order: token i has word i % 4 of lane i / 4.
INLINE void token_words(uint32_t position, uint32_t stream, int64_t lane, uint64_t seed, vu (&words)[4]) {
  vu x[4], even[2], odd[2];
  philox(position, 0, stream, (vu)lane_numbers() + (uint32_t)lane, seed, x);
  interleave(x[0], x[2], &even[0], &even[1]);
  interleave(x[1], x[3], &odd[0], &odd[1]);
  for (int half = 0; half < 2; half++) interleave(even[half], odd[half], &words[2 * half], &words[2 * half + 1]);
}

// -log(-log u) of u = (word + 1/2) / 2^32, to about 1e-6. Above 0.7 from 1 - u, of which a float has all digits there.
INLINE vf gumbel(vu words) {
  constexpr float WORD = 1 / 4294967296.0f;
  const vf u = (__builtin_convertvector(words, vf) + 0.5f) * WORD, rest = (__builtin_convertvector(~words, vf) + 0.5f) * WORD;
  return -logarithm(-(rest < 0.29f ? log_of_one_plus(-rest) : logarithm(u)));
}

// out = by · g, with g the noise of some tokens of one position; null: of the tokens 0 to size - 1.
INLINE void gumbel_noise(const int64_t* ids, int64_t size, uint64_t seed, uint32_t position, uint32_t stream, float by,
                         float* out) {
  for (int64_t first = 0; first < size; first += W) {
    const int64_t here = size - first < W ? size - first : W;
    vu lane = {}, which = {}, x[4];
    for (int64_t i = 0; i < here; i++) {
      const uint32_t id = ids ? ids[first + i] : first + i;
      lane[i] = id / 4, which[i] = id % 4;
    }
    philox(position, 0, stream, lane, seed, x);
    const vf noise = gumbel(which < 2u ? (which == 0u ? x[0] : x[1]) : (which == 2u ? x[2] : x[3])) * by;
    if (here == W) store(out + first, noise);
    else for (int64_t i = 0; i < here; i++) out[first + i] = noise[i];
  }
}

// The noise under which a target draws: at a temperature it takes the largest of z + T g. Temperature 0: no noise.
struct Noise {
  double temperature;
  uint64_t seed;
  uint32_t position, stream;  // of the first token that is drafted

  // out = by * g of some tokens at a depth of the draft; null: of the tokens 0 to size - 1.
  INLINE_MEMBER void at(int64_t depth, const int64_t* ids, int64_t size, float by, float* out) const {
    gumbel_noise(ids, size, seed, position + depth, stream, by, out);
  }
};

// A token and its score under noise; of equal scores the first token wins.
struct Noisy {
  double score = -INFINITY;
  int64_t token = 0;
  INLINE_MEMBER void meet(double other, int64_t at) {
    if (other > score || (other == score && at < token)) *this = {other, at};
  }
};

// argmax of x_i + g_i over [first, last), with g the Gumbel noise of (seed, position, i) as specdec/randomness.py defines
// it. The noise is worked out in full for few tokens: with u = 1 - v it is at most -log v, and that at most log 2 times one
// more than the leading zeros of v, so most tokens cannot win. `first` is a multiple of 4 W.
INLINE Noisy gumbel_argmax(const float* x, int64_t first, int64_t last, uint64_t seed, uint32_t position,
                           uint32_t stream) {
  vu words[4];
  float largest;
  const int64_t top = first + argmax(x + first, last - first, &largest);
  token_words(position, stream, top / (4 * W) * W, seed, words);
  Noisy best{(double)largest + gumbel(((const uint32_t*)words)[top % (4 * W)]), top};
  for (int64_t begin = first; begin < last; begin += 4 * W) {
    token_words(position, stream, begin / 4, seed, words);
    for (int i = 0; i < 4; i++) {
      const int64_t from = begin + i * W;
      if (from >= last) break;
      alignas(64) float scores[W];
      const int64_t here = last - from < W ? last - from : W;
      for (int l = 0; l < W; l++) scores[l] = l < here ? x[from + l] : -INFINITY;
      // Half of the complement, to fit a signed word. Rounding can only raise the exponent, by one, as the bound allows.
      const vi half = (vi)(~words[i] >> 1);
      const vi exponent = (vi)__builtin_convertvector(half, vf) >> 23;  // 127 + floor(log2), or 0
      const vf bound = __builtin_convertvector(160 - exponent, vf) * 0.6931472f;
      const float needed = (float)(best.score - 1e-2 - 1e-6 * fabs(best.score));
      if (!any_lane(load(scores) + bound >= needed)) continue;
      for (int64_t l = 0; l < here; l++) best.meet((double)scores[l] + gumbel(words[i][l]), from + l);
    }
  }
  return best;
}

// The same over the whole row, each thread a part.
INLINE int64_t gumbel_argmax(const float* x, int64_t size, uint64_t seed, uint32_t position, uint32_t stream,
                             int threads) {
  constexpr int64_t PIECE = 16 * 4 * W;
  std::mutex merging;
  Noisy best;
  parallel(threads, [&](Team& team, int) {
    const int64_t part = (size / team.size() / PIECE + 1) * PIECE;
    team.share(size, part, [&](int64_t first, int64_t last) {
      const Noisy own = gumbel_argmax(x, first, last, seed, position, stream);
      std::lock_guard<std::mutex> lock(merging);
      best.meet(own.score, own.token);
    });
  });
  return best.token;
}

// log Σ e^x. Sums of a few thousand numbers are added up in double precision, so that none is lost beside many.
INLINE float log_sum_exp(const float* x, int64_t size) {
  constexpr int64_t PIECE = 64 * W;
  float top;
  argmax(x, size, &top);
  if (!(top > -INFINITY && top < INFINITY)) return top;
  double sum = 0;
  int64_t i = 0;
  for (; i + W <= size;) {
    const int64_t end = i + PIECE < size ? i + PIECE : size;
    vf sums = {};
    for (; i + W <= end; i += W) sums += exponential(load(x + i) - top);
    sum += sum_lanes(sums);
  }
  for (; i < size; i++) sum += expf(x[i] - top);
  return (float)(top + log(sum));
}

// The same of each row, by one thread.
INLINE void log_sums_exp(const float* x, int64_t rows, int64_t size, float* out, int threads) {
  parallel(threads, [&](Team& team, int) {
    team.share(rows, 1, [&](int64_t first, int64_t last) {
      for (int64_t row = first; row < last; row++) out[row] = log_sum_exp(x + row * size, size);
    });
  });
}

// Leaves of scores those that are allowed; the others become -inf. Without a branch: masks of words are hard to predict.
// By one thread: to wake the others takes longer.
INLINE void forbid(float* x, const uint8_t* allowed, int64_t size) {
  for (int64_t i = 0; i < size; i++) x[i] = allowed[i] ? x[i] : -INFINITY;
}

// out = x / by
INLINE void divide(const float* x, int64_t size, float by, float* out, int threads) {
  parallel(threads, [&](Team& team, int) {
    team.share(size, size / team.size() + 1, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; i++) out[i] = x[i] / by;
    });
  });
}
