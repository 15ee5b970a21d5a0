// What a packet costs without a guest and without a tap: a socket stands in for it.
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sys/socket.h>

#include <ctime>

#include "base/check.h"
#include "net/testing/net_rig.h"

namespace wyvern::devices {
namespace {

using testing::FakeTap;
using testing::Frame;
using testing::kGuestMac;
using testing::Raw;
using testing::TsoHeader;

constexpr int kBatch = 32;

// What the device's thread spends, which a busy machine changes little.
class NetBench {
 public:
  explicit NetBench(uint64_t refused = 0) {
    auto tap = std::make_unique<FakeTap>(1);
    tap_ = tap.get();
    const auto on_start = [this](const char* /*kind*/) {
      WV_CHECK(pthread_getcpuclockid(pthread_self(), &clock_) == 0);
    };
    auto device = NetDevice::Create({.worker = {.name = "net", .on_thread_start = on_start},
                                     .tap = std::move(tap),
                                     .interface = {.mac = kGuestMac}});
    WV_CHECK(device.has_value());
    rig_ = std::make_unique<testing::DeviceRig>(*std::move(device));
    rig_->Start(refused, 256);
  }

  testing::DeviceRig& rig() { return *rig_; }

  FdRef host() { return tap_->host(0); }

  void Start() {
    start_ = Nanoseconds();
    receives_ = tap_->receives();
  }

  void Report(benchmark::State& state, int items) const {
    const double all = static_cast<double>(state.iterations()) * items;
    state.counters["worker_ns_per_item"] = (Nanoseconds() - start_) / all;
    state.counters["reads_per_item"] = static_cast<double>(tap_->receives() - receives_) / all;
    state.SetItemsProcessed(state.iterations() * items);
  }

 private:
  double Nanoseconds() const {
    timespec now{};
    WV_CHECK(clock_gettime(clock_, &now) == 0);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
  }

  clockid_t clock_ = 0;
  double start_ = 0;
  uint64_t receives_ = 0;
  FakeTap* tap_ = nullptr;
  std::unique_ptr<testing::DeviceRig> rig_;
};

// From the kick until the last of 32 packets is used. Filling the ring and reading the socket are
// the guest's and the host's.
void BM_Transmit(benchmark::State& state) {
  NetBench bench;
  const auto size = static_cast<size_t>(state.range(0));
  const mem::Gpa packet = bench.rig().ram().Put(Raw(NetHeader{}) + Frame(size));
  const auto length = static_cast<uint32_t>(size) + kNetHeaderSize;
  std::vector<std::byte> received(size + kNetHeaderSize);
  bench.Start();
  for ([[maybe_unused]] auto step : state) {
    state.PauseTiming();
    for (int i = 0; i < kBatch; ++i) {
      bench.rig().queue(1).Build().ReadableAt(packet, length).Submit();
    }
    state.ResumeTiming();
    bench.rig().Kick(1);
    for (int i = 0; i < kBatch; ++i) {
      bench.rig().WaitUsed(1);
    }
    state.PauseTiming();
    for (int i = 0; i < kBatch; ++i) {
      WV_CHECK(recv(bench.host().get(), received.data(), received.size(), 0) > 0);
    }
    state.ResumeTiming();
  }
  bench.Report(state, kBatch);
}

void SendAll(NetBench& bench, const std::string& packet, int count) {
  for (int i = 0; i < count; ++i) {
    WV_CHECK(send(bench.host().get(), packet.data(), packet.size(), 0) ==
             static_cast<ssize_t>(packet.size()));
  }
}

// 32 packets wait in the tap; from the kick that gives buffers until the last is used. Buffers have
// the size of Linux's.
void BM_Receive(benchmark::State& state) {
  NetBench bench;
  const auto size = static_cast<size_t>(state.range(0));
  const std::string packet = Raw(NetHeader{}) + Frame(size);
  const mem::Gpa buffer = bench.rig().ram().Allocate(1536);
  bench.Start();
  for ([[maybe_unused]] auto step : state) {
    state.PauseTiming();
    SendAll(bench, packet, kBatch);
    for (int i = 0; i < kBatch; ++i) {
      bench.rig().queue(0).Build().WritableAt(buffer, 1536).Submit();
    }
    state.ResumeTiming();
    bench.rig().KickAlways(0);
    for (int i = 0; i < kBatch; ++i) {
      bench.rig().WaitUsed(0);
    }
  }
  bench.Report(state, kBatch);
}

// A segment of 64 KiB into buffers of 1536 bytes, or of 64 KiB without merging.
void BM_ReceiveSegment(benchmark::State& state) {
  const bool merge = state.range(0) != 0;
  NetBench bench(merge ? 0 : kNetMrgRxbuf);
  const std::string packet = Raw(TsoHeader()) + Frame(65000);
  const uint32_t room = merge ? 1536 : 65600;
  const auto buffers = static_cast<int>((packet.size() + room - 1) / room);
  const mem::Gpa buffer = bench.rig().ram().Allocate(room);
  bench.Start();
  for ([[maybe_unused]] auto step : state) {
    state.PauseTiming();
    SendAll(bench, packet, 1);
    for (int i = 0; i < buffers; ++i) {
      bench.rig().queue(0).Build().WritableAt(buffer, room).Submit();
    }
    state.ResumeTiming();
    bench.rig().KickAlways(0);
    for (int i = 0; i < buffers; ++i) {
      bench.rig().WaitUsed(0);
    }
  }
  bench.Report(state, 1);
  state.SetBytesProcessed(state.iterations() * 65000);
}

// One packet there and one back.
void BM_RoundTrip(benchmark::State& state) {
  NetBench bench;
  const std::string frame = Raw(NetHeader{}) + Frame(60);
  const mem::Gpa packet = bench.rig().ram().Put(frame);
  const mem::Gpa buffer = bench.rig().ram().Allocate(1536);
  bench.rig().queue(0).Build().WritableAt(buffer, 1536).Submit();
  bench.rig().Kick(0);
  bench.Start();
  for ([[maybe_unused]] auto step : state) {
    SendAll(bench, frame, 1);
    bench.rig().WaitUsed(0);
    bench.rig().queue(0).Build().WritableAt(buffer, 1536).Submit();
    bench.rig().Kick(0);
    bench.rig().queue(1).Build().ReadableAt(packet, 72).Submit();
    bench.rig().Kick(1);
    bench.rig().WaitUsed(1);
    std::array<std::byte, 128> answer;
    WV_CHECK(recv(bench.host().get(), answer.data(), answer.size(), 0) == 72);
  }
  bench.Report(state, 1);
}

BENCHMARK(BM_Transmit)->Arg(60)->Arg(1460)->UseRealTime();
BENCHMARK(BM_Receive)->Arg(60)->Arg(1460)->UseRealTime();
BENCHMARK(BM_ReceiveSegment)->Arg(1)->Arg(0)->UseRealTime();
BENCHMARK(BM_RoundTrip)->UseRealTime();

}  // namespace
}  // namespace wyvern::devices

BENCHMARK_MAIN();
