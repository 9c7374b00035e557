// A pool of threads that stays awake between the phases of a pass, and a barrier between those.
//
// A pass has some three hundred phases of 20 µs. Threads that sleep in between would cost more than the work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "gate.h"
#include "simd.h"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#include <unistd.h>
#endif

INLINE void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins for a while, then lets others run: a neighbour may need this core.
template <class Ready>
INLINE void spin_until(Ready ready) {
  for (int i = 0; !ready(); i++) {
    if (i < 200) relax();
    else std::this_thread::yield();
  }
}

class Team;
typedef void (*Work)(Team& team, int thread, void* context);

// Memory that a thread is going to read.
struct Upcoming {
  const char *from, *end;
};

class Team {
 public:
  explicit Team(int size) : size_(size), pid_(getpid()) {
    for (int thread = 1; thread < size; thread++) std::thread([this, thread] { serve(thread); }).detach();
  }

  int size() const { return size_; }
  bool usable() const { return pid_ == getpid(); }  // threads do not survive a fork

  void run(Work work, void* context) {
    work_ = work;
    context_ = context;
    done_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    work(*this, 0, context);
    spin_until([this] { return done_.load(std::memory_order_acquire) == size_ - 1; });
  }

  // Everyone's writes before it are seen by everyone after it. Resets the work counter.
  void barrier() {
    if (size_ == 1) {
      next_.store(0, std::memory_order_relaxed);
      return;
    }
    uint32_t phase = phase_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
      arrived_.store(0, std::memory_order_relaxed);
      next_.store(0, std::memory_order_relaxed);
      phase_.store(phase + 1, std::memory_order_release);
    } else {
      auto released = [&] { return phase_.load(std::memory_order_acquire) != phase; };
      while (!released() && upcoming_.from < upcoming_.end) ask_for(upcoming_);
      spin_until(released);
    }
  }

  // Names what the phases to come will read: a thread that waits at a barrier asks for its part of it, so that memory does
  // not lie idle while others finish.
  void will_read(const void* memory, int64_t bytes) {
    const char* end = (const char*)memory + bytes;
    upcoming_.from = std::min(end, (const char*)memory + thread_ * MOST_ASKED);
    upcoming_.end = std::min(end, upcoming_.from + MOST_ASKED);
  }

  // Calls body(begin, end) for pieces of [0, count), whoever is free first. One loop between two barriers.
  template <class Body>
  void share(int64_t count, int64_t piece, Body body) {
    if (size_ == 1) {
      if (count) body(int64_t(0), count);
      return;
    }
    for (;;) {
      int64_t begin = next_.fetch_add(piece, std::memory_order_relaxed);
      if (begin >= count) return;
      body(begin, begin + piece < count ? begin + piece : count);
    }
  }

 private:
  // Room for it must be in the cache next to a core.
  static constexpr int64_t MOST_ASKED = 24 << 10;

  static void ask_for(Upcoming& upcoming) {
    for (int line = 0; line < 2; line++, upcoming.from += 64) prefetch(upcoming.from, true);
  }

  void serve(int thread) {
    thread_ = thread;
    uint32_t seen = 0;
    for (;;) {
      for (int i = 0; i < 40000 && generation_.load(std::memory_order_acquire) == seen; i++) relax();
      generation_.wait(seen, std::memory_order_acquire);
      seen = generation_.load(std::memory_order_acquire);
      work_(*this, thread, context_);
      done_.fetch_add(1, std::memory_order_release);
    }
  }

  static inline thread_local int thread_ = 0;
  static inline thread_local Upcoming upcoming_ = {};
  const int size_;
  const int pid_;
  Work work_ = nullptr;
  void* context_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  alignas(64) std::atomic<int64_t> next_{0};
};

// The team of the given size; a new one when the size changes, or after a fork. Old teams sleep.
INLINE Team& team_of(int size) {
  static std::vector<Team*> teams;
  for (Team*& team : teams)
    if (team->size() == size) {
      if (!team->usable()) team = new Team(size);
      return *team;
    }
  teams.push_back(new Team(size < 1 ? 1 : size));
  return *teams.back();
}

// One for all kernels: a template's own would let callers of different kernels into the same team. It guards whatever
// they keep between calls, too.
static std::mutex& turn = *new std::mutex;

#if defined(__unix__) || defined(__APPLE__)
// A child process has only the thread that forked, so no other may be inside: no one would let the child in.
static const int fork_takes_a_turn =
    pthread_atfork([] { turn.lock(); }, [] { turn.unlock(); }, [] { turn.unlock(); });
#endif

// Runs prepare() and then body(team, thread) on `threads` threads; calls from several callers take turns. What may throw,
// such as taking memory, belongs into `prepare`: the others would wait forever for a thread that left `body`.
template <class Prepare, class Body>
INLINE void parallel(int threads, Prepare prepare, Body body) {
  demand_threads(threads);
  std::lock_guard<std::mutex> lock(turn);
  Team& team = team_of(threads);
  prepare();
  team.run([](Team& team, int thread, void* context) { (*(Body*)context)(team, thread); }, &body);
}

template <class Body>
INLINE void parallel(int threads, Body body) {
  parallel(threads, [] {}, body);
}
