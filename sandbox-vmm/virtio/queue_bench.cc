// Ring operations, native: the twins of rust-vmm's virtio-queue benches (one chain of 128, 128
// chains of one; direct and indirect), on split rings and then on packed ones.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "base/check.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::GuestRam;

constexpr uint64_t kSplit = kRingIndirectDesc | kRingEventIdx;
constexpr uint64_t kPacked = kSplit | kRingPacked;

struct Ring {
  explicit Ring(uint64_t features) : driver(ram, 256, features) {
    auto made = Queue::Create(ram.memory(), driver.config(), features, std::nullopt);
    WV_CHECK(made.has_value());
    queue = *std::move(made);
  }

  GuestRam ram;
  FakeDriver driver;
  std::unique_ptr<Queue> queue;
};

// Wall clock of the timed part of each round. PauseTiming would cost as much as what is measured, and a
// preempted round says nothing: the median goes into "median_ns", per item.
class Rounds {
 public:
  explicit Rounds(benchmark::State& state, int items) : state_(state), items_(items) {}

  ~Rounds() {
    state_.SetItemsProcessed(state_.iterations() * items_);
    std::ranges::sort(seconds_);
    state_.counters["median_ns"] = seconds_[seconds_.size() / 2] * 1e9 / items_;
  }

  Rounds(const Rounds&) = delete;
  Rounds& operator=(const Rounds&) = delete;

  template <typename Timed>
  void Time(Timed timed) {
    const auto start = std::chrono::steady_clock::now();
    timed();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    state_.SetIterationTime(took.count());
    seconds_.push_back(took.count());
  }

 private:
  benchmark::State& state_;
  const int items_;
  std::vector<double> seconds_;
};

// The driver's part costs more than the device's, so each round offers a full ring and only the
// device is timed.
void PopPush(benchmark::State& state, uint64_t features, int parts, bool indirect) {
  Ring ring(features);
  const mem::Gpa buffer = ring.ram.Allocate(4096);
  const int chains = indirect ? 128 : 128 / parts;
  const uint64_t mark = ring.ram.Mark();
  Rounds rounds(state, chains);
  for ([[maybe_unused]] auto step : state) {
    for (int i = 0; i < chains; ++i) {
      auto build = ring.driver.Build();
      for (int part = 0; part < parts; ++part) {
        build.WritableAt(buffer, 32);
      }
      if (indirect) {
        build.Indirect();
      }
      build.Submit();
    }
    rounds.Time([&] {
      for (int i = 0; i < chains; ++i) {
        auto chain = ring.queue->Pop();
        ring.queue->Push(std::move(**chain), 32);
      }
      benchmark::DoNotOptimize(ring.queue->NeedsInterrupt());
    });
    while (ring.driver.TakeUsed()) {
    }
    ring.ram.Release(mark);
  }
}

void BM_PopPush128ChainsOfOne(benchmark::State& state) {
  PopPush(state, kSplit, 1, false);
}

void BM_PopPush1ChainOf128(benchmark::State& state) {
  PopPush(state, kSplit, 128, false);
}

void BM_PopPush128IndirectChainsOfThree(benchmark::State& state) {
  PopPush(state, kSplit, 3, true);
}

void BM_PackedPopPush128ChainsOfOne(benchmark::State& state) {
  PopPush(state, kPacked, 1, false);
}

void BM_PackedPopPush1ChainOf128(benchmark::State& state) {
  PopPush(state, kPacked, 128, false);
}

void BM_PackedPopPush128IndirectChainsOfThree(benchmark::State& state) {
  PopPush(state, kPacked, 3, true);
}

void Push(benchmark::State& state, uint64_t features) {
  Ring ring(features);
  const mem::Gpa buffer = ring.ram.Allocate(4096);
  std::vector<Chain> chains;
  Rounds rounds(state, 128);
  for ([[maybe_unused]] auto step : state) {
    for (int i = 0; i < 128; ++i) {
      ring.driver.Build().WritableAt(buffer, 32).Submit();
    }
    for (int i = 0; i < 128; ++i) {
      std::optional<Chain> chain = *ring.queue->Pop();
      WV_CHECK(chain.has_value());
      chains.push_back(*std::move(chain));
    }
    rounds.Time([&] {
      for (Chain& chain : chains) {
        ring.queue->Push(std::move(chain), 0);
      }
    });
    chains.clear();
    while (ring.driver.TakeUsed()) {
    }
  }
}

void BM_Push128(benchmark::State& state) {
  Push(state, kSplit);
}

void BM_PackedPush128(benchmark::State& state) {
  Push(state, kPacked);
}

BENCHMARK(BM_PopPush128ChainsOfOne)->UseManualTime();
BENCHMARK(BM_PopPush1ChainOf128)->UseManualTime();
BENCHMARK(BM_PopPush128IndirectChainsOfThree)->UseManualTime();
BENCHMARK(BM_Push128)->UseManualTime();
BENCHMARK(BM_PackedPopPush128ChainsOfOne)->UseManualTime();
BENCHMARK(BM_PackedPopPush1ChainOf128)->UseManualTime();
BENCHMARK(BM_PackedPopPush128IndirectChainsOfThree)->UseManualTime();
BENCHMARK(BM_PackedPush128)->UseManualTime();

}  // namespace
}  // namespace wyvern::virtio

BENCHMARK_MAIN();
