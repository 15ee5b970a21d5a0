// What a request costs without a guest: batches through a queue with one kick, over an engine that
// does no I/O and over both real ones on tmpfs.
#include <benchmark/benchmark.h>
#include <pthread.h>

#include <ctime>
#include <mutex>
#include <vector>

#include "base/check.h"
#include "blk/testing/blk_rig.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;

constexpr int kBatch = 32;
constexpr uint64_t kStride = uint64_t{8} * 37;  // sectors from a request to the next

// Says that all was done, at once.
class NullEngine final : public IoEngine {
 public:
  explicit NullEngine(Done done) : done_(std::move(done)) {}

  Result<> Watch() override { return {}; }

  void Submit(const IoRequest& request) override {
    size_t bytes = 0;
    for (const iovec& part : request.parts) {
      bytes += part.iov_len;
    }
    submitted_.emplace_back(request.tag, static_cast<int32_t>(bytes));
  }

  void Kick() override {
    if (submitted_.empty()) {
      return;
    }
    finishing_.swap(submitted_);
    for (const auto& [tag, bytes] : finishing_) {
      done_(tag, bytes);
    }
    finishing_.clear();
    done_(kBatchEnd, 0);
  }

 private:
  const Done done_;
  std::vector<std::pair<uint32_t, int32_t>> submitted_;
  std::vector<std::pair<uint32_t, int32_t>> finishing_;
};

// What the device's threads spend, the engine's too: a busy machine changes that little. The
// kernel's workers behind io_uring are not in it.
class DeviceTime {
 public:
  std::function<void(const char*)> Hook() {
    return [this](const char* /*kind*/) {
      clockid_t clock = 0;
      WV_CHECK(pthread_getcpuclockid(pthread_self(), &clock) == 0);
      const std::lock_guard lock(mu_);
      clocks_.push_back(clock);
    };
  }

  void Start() { start_ = Nanoseconds(); }

  void Report(benchmark::State& state, int items) {
    state.counters["device_ns_per_item"] =
        (Nanoseconds() - start_) / (static_cast<double>(state.iterations()) * items);
  }

 private:
  double Nanoseconds() {
    const std::lock_guard lock(mu_);
    double total = 0;
    for (const clockid_t clock : clocks_) {
      timespec now{};
      WV_CHECK(clock_gettime(clock, &now) == 0);
      total += static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
    }
    return total;
  }

  std::mutex mu_;
  std::vector<clockid_t> clocks_;  // guarded by mu_
  double start_ = 0;
};

enum class Backing : uint8_t { kNone, kUring, kPool };

std::unique_ptr<BlkRig> MakeRig(Backing backing, uint16_t queues, DeviceTime& time) {
  testing::BlkSetup setup{.queues = queues};
  setup.on_thread_start = time.Hook();
  if (backing == Backing::kNone) {
    setup.engine = [](EventLoop& /*loop*/,
                      IoEngine::Done done) -> Result<std::unique_ptr<IoEngine>> {
      return std::make_unique<NullEngine>(std::move(done));
    };
  }
  return std::make_unique<BlkRig>(
      backing == Backing::kUring ? EngineKind::kUring : EngineKind::kPool, std::move(setup));
}

// From the kick until the last of 32 requests is used; filling the ring is the guest's.
void RunBatches(benchmark::State& state, Backing backing, BlkType type, uint16_t queues) {
  DeviceTime time;
  const std::unique_ptr<BlkRig> rig = MakeRig(backing, queues, time);
  rig->device().Start(0, 256);
  const std::string data(type == BlkType::kOut ? 4096 : 0, 'w');
  const uint32_t room = type == BlkType::kIn ? 4096 : type == BlkType::kGetId ? 20 : 0;
  uint64_t sector = 0;
  time.Start();
  for ([[maybe_unused]] auto step : state) {
    state.PauseTiming();
    const uint64_t mark = rig->device().ram().Mark();
    for (int i = 0; i < kBatch; ++i) {
      sector = (sector + kStride) % (BlkRig::kDiskSize / 512);
      rig->Submit(type, sector, data, room, static_cast<uint16_t>(i % queues));
    }
    state.ResumeTiming();
    for (uint16_t queue = 0; queue < queues; ++queue) {
      rig->device().Kick(queue);
    }
    for (int i = 0; i < kBatch; ++i) {
      rig->device().WaitUsed(static_cast<uint16_t>(i % queues));
    }
    state.PauseTiming();
    rig->device().ram().Release(mark);
    state.ResumeTiming();
  }
  time.Report(state, kBatch);
  WV_CHECK(rig->device().counter("io_errors") == 0);
  state.SetItemsProcessed(state.iterations() * kBatch);
}

void BM_GetId(benchmark::State& state) {
  RunBatches(state, Backing::kNone, BlkType::kGetId, 1);
}

void BM_ReadWithoutIo(benchmark::State& state) {
  RunBatches(state, Backing::kNone, BlkType::kIn, static_cast<uint16_t>(state.range(0)));
}

void BM_Read4k(benchmark::State& state, Backing backing) {
  RunBatches(state, backing, BlkType::kIn, static_cast<uint16_t>(state.range(0)));
}

void BM_Write4k(benchmark::State& state, Backing backing) {
  RunBatches(state, backing, BlkType::kOut, static_cast<uint16_t>(state.range(0)));
}

// One request at a time: a kick, a wake-up of the worker, the I/O, an answer.
void BM_Read4kAlone(benchmark::State& state, Backing backing) {
  DeviceTime time;
  const std::unique_ptr<BlkRig> rig = MakeRig(backing, 1, time);
  rig->device().Start(0, 256);
  const uint64_t mark = rig->device().ram().Mark();
  time.Start();
  for ([[maybe_unused]] auto step : state) {
    rig->Submit(BlkType::kIn, 0, "", 4096);
    rig->device().Kick(0);
    rig->device().WaitUsed(0);
    rig->device().ram().Release(mark);
  }
  time.Report(state, 1);
  state.SetItemsProcessed(state.iterations());
}

BENCHMARK(BM_GetId)->UseRealTime();
BENCHMARK(BM_ReadWithoutIo)->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read4k, uring, Backing::kUring)->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read4k, pool, Backing::kPool)->Arg(1)->Arg(4)->UseRealTime();
BENCHMARK_CAPTURE(BM_Write4k, uring, Backing::kUring)->Arg(1)->UseRealTime();
BENCHMARK_CAPTURE(BM_Write4k, pool, Backing::kPool)->Arg(1)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read4kAlone, none, Backing::kNone)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read4kAlone, uring, Backing::kUring)->UseRealTime();
BENCHMARK_CAPTURE(BM_Read4kAlone, pool, Backing::kPool)->UseRealTime();

}  // namespace
}  // namespace wyvern::devices

BENCHMARK_MAIN();
