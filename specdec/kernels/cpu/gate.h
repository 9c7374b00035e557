// What comes from outside is checked here, before any of it is used as an address: sizes, kinds, and every index.
//
// An entry of the C interface returns 0, or 1 after it has said what is wrong. Nothing that is thrown leaves it.
#pragma once

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <stdexcept>

constexpr int MOST_THREADS = 1024;

// What the last call of this thread that returned 1 was refused for.
INLINE char* fault_text() {
  static thread_local char text[256] = "";
  return text;
}

struct Refusal : std::exception {};

__attribute__((noinline, noreturn, format(printf, 1, 2))) static void refuse(const char* format, ...) {
  va_list values;
  va_start(values, format);
  vsnprintf(fault_text(), 256, format, values);
  va_end(values);
  throw Refusal();
}

// Unless `fits`, throws what printf makes of the rest, which is only worked out then.
#define DEMAND(fits, ...) do { if (__builtin_expect(!(fits), 0)) refuse(__VA_ARGS__); } while (0)

template <class Body>
INLINE int guarded(Body body) {
  try {
    body();
    return 0;
  } catch (const Refusal&) {
  } catch (const std::exception& error) {
    snprintf(fault_text(), 256, "the system refused: %s", error.what());
  }
  return 1;
}

INLINE void demand_memory(const void* memory, const char* name) { DEMAND(memory, "there is no memory for %s", name); }

INLINE void demand_threads(int threads) {
  DEMAND(threads >= 1 && threads <= MOST_THREADS, "%d threads are asked for; 1 to %d can be", threads, MOST_THREADS);
}

INLINE void demand_size(int64_t size, int64_t least, const char* name) {
  DEMAND(size >= least, "%s = %lld, which cannot be less than %lld", name, (long long)size, (long long)least);
}

// Every value in [least, end). The loop without a branch is a few nanoseconds for each 16 of them.
template <class Number>
INLINE void demand_within(const Number* values, int64_t count, int64_t least, int64_t end, const char* name) {
  if (!count) return;
  demand_memory(values, name);
  Number smallest = values[0], largest = values[0];
  for (int64_t i = 1; i < count; i++) {
    smallest = values[i] < smallest ? values[i] : smallest;
    largest = values[i] > largest ? values[i] : largest;
  }
  if (smallest >= least && largest < end) return;
  for (int64_t i = 0; i < count; i++)
    DEMAND(values[i] >= least && values[i] < end, "%s %lld is %lld, outside of %lld to %lld", name, (long long)i,
           (long long)values[i], (long long)least, (long long)end - 1);
}

// Borders [count + 1] of neighbouring ranges: they begin at 0 and never fall.
INLINE void demand_borders(const int64_t* borders, int64_t count, const char* name) {
  demand_memory(borders, name);
  DEMAND(borders[0] == 0, "%s begin at %lld, not at 0", name, (long long)borders[0]);
  for (int64_t i = 0; i < count; i++)
    DEMAND(borders[i] <= borders[i + 1], "%s fall from %lld to %lld at %lld", name, (long long)borders[i],
           (long long)borders[i + 1], (long long)i);
}
