// Accepted paths moved together in the cache: every tensor of it in one call. reference.py says the same in torch.
#pragma once

#include <cstring>

#include "../cpu/gate.h"

namespace commit {

// A tensor of a cache. The entry at a slot is one piece of memory for each of its heads.
struct Tensor {
  char* memory;
  int64_t slots, heads;            // entries, and pieces of one
  int64_t slot_step, head_step;    // bytes from one to the next
  int64_t size;                    // bytes of a piece
};

INLINE void demand_moves(const Tensor* tensors, int64_t count, const int64_t* sources, const int64_t* targets,
                         int64_t moves) {
  demand_size(count, 0, "tensors");
  demand_size(moves, 0, "moves");
  for (int64_t i = 0; i < count; i++) {
    demand_memory(tensors[i].memory, "a cache");
    demand_within(sources, moves, 0, tensors[i].slots, "slot to read");
    demand_within(targets, moves, 0, tensors[i].slots, "slot to write");
  }
}

// Moves follow each other: a slot may be a target once it was a source. What is read next is asked for: it lies far away.
static void move(const Tensor* tensors, int64_t count, const int64_t* sources, const int64_t* targets, int64_t moves) {
  constexpr int64_t AHEAD = 4;
  auto at = [&](int64_t tensor, int64_t slot, int64_t head) {
    return tensors[tensor].memory + slot * tensors[tensor].slot_step + head * tensors[tensor].head_step;
  };
  for (int64_t i = 0; i < count; i++) {
    const Tensor& tensor = tensors[i];
    if (i + AHEAD < count)
      for (int64_t m = 0; m < moves; m++)
        for (int64_t head = 0; head < tensors[i + AHEAD].heads; head++) {
          const char *from = at(i + AHEAD, sources[m], head), *to = at(i + AHEAD, targets[m], head);
          for (int64_t byte = 0; byte < tensors[i + AHEAD].size; byte += 64) {
            __builtin_prefetch(from + byte);
            __builtin_prefetch(to + byte, 1);
          }
        }
    for (int64_t m = 0; m < moves; m++)
      for (int64_t head = 0; head < tensor.heads; head++)
        memmove(at(i, targets[m], head), at(i, sources[m], head), tensor.size);
  }
}

}  // namespace commit
