// Ring operations, native: the twins of rust-vmm's virtio-queue benches (one chain of 128, 128
// chains of one; direct and indirect).
#include <benchmark/benchmark.h>

#include "base/check.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::virtio {
namespace {

using testing::FakeDriver;
using testing::GuestRam;

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

// The driver's part costs more than the device's, so each round offers a full ring and only the
// device is timed.
void PopPush(benchmark::State& state, int parts, bool indirect) {
  Ring ring(kRingFeatures);
  const mem::Gpa buffer = ring.ram.Allocate(4096);
  const int chains = indirect ? 128 : 128 / parts;
  const uint64_t mark = ring.ram.Mark();
  for (auto _ : state) {
    state.PauseTiming();
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
    state.ResumeTiming();
    for (int i = 0; i < chains; ++i) {
      auto chain = ring.queue->Pop();
      ring.queue->Push(std::move(**chain), 32);
    }
    benchmark::DoNotOptimize(ring.queue->NeedsInterrupt());
    state.PauseTiming();
    while (ring.driver.TakeUsed()) {
    }
    ring.ram.Release(mark);
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * chains);
}

void BM_PopPush128ChainsOfOne(benchmark::State& state) {
  PopPush(state, 1, false);
}

void BM_PopPush1ChainOf128(benchmark::State& state) {
  PopPush(state, 128, false);
}

void BM_PopPush128IndirectChainsOfThree(benchmark::State& state) {
  PopPush(state, 3, true);
}

void BM_Push128(benchmark::State& state) {
  Ring ring(kRingFeatures);
  const mem::Gpa buffer = ring.ram.Allocate(4096);
  std::vector<Chain> chains;
  for (auto _ : state) {
    state.PauseTiming();
    for (int i = 0; i < 128; ++i) {
      ring.driver.Build().WritableAt(buffer, 32).Submit();
    }
    for (int i = 0; i < 128; ++i) {
      chains.push_back(std::move(**ring.queue->Pop()));
    }
    state.ResumeTiming();
    for (Chain& chain : chains) {
      ring.queue->Push(std::move(chain), 0);
    }
    state.PauseTiming();
    chains.clear();
    while (ring.driver.TakeUsed()) {
    }
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * 128);
}

BENCHMARK(BM_PopPush128ChainsOfOne);
BENCHMARK(BM_PopPush1ChainOf128);
BENCHMARK(BM_PopPush128IndirectChainsOfThree);
BENCHMARK(BM_Push128);

}  // namespace
}  // namespace wyvern::virtio

BENCHMARK_MAIN();
