// What a packet costs without a guest: batches through the rings with one kick, and round trips.
#include <benchmark/benchmark.h>
#include <pthread.h>
#include <sys/socket.h>

#include <ctime>

#include "base/check.h"
#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

constexpr int kBatch = 32;

// What the device's thread spends, which a busy machine changes little.
class WorkerTime {
 public:
  VsockOptions Options() {
    const auto on_start = [this](const char* /*kind*/) {
      WV_CHECK(pthread_getcpuclockid(pthread_self(), &clock_) == 0);
    };
    return {.worker = {.name = "vsock", .on_thread_start = on_start}};
  }

  void Start() { start_ = Nanoseconds(); }

  void Report(benchmark::State& state, int items) const {
    state.counters["worker_ns_per_item"] =
        (Nanoseconds() - start_) / (static_cast<double>(state.iterations()) * items);
  }

 private:
  double Nanoseconds() const {
    timespec now{};
    WV_CHECK(clock_gettime(clock_, &now) == 0);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
  }

  clockid_t clock_ = 0;
  double start_ = 0;
};

// Guest to host: from the kick until the worker has handed the last of 32 packets to the socket. Filling the ring, and reading from the
// socket, are the guest's and the host's.
void BM_PacketsToHost(benchmark::State& state) {
  WorkerTime worker;
  VsockGuest guest(worker.Options());
  guest.Start();
  const VsockGuest::Stream stream = guest.Connect(100);
  VsockHeader header = guest.Reply(stream.request, VsockOp::kData);
  const auto size = static_cast<size_t>(state.range(0));
  header.length = static_cast<uint32_t>(size);
  std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
  packet.resize(sizeof(header) + size, 'x');
  std::vector<std::byte> received(kBatch * size);
  worker.Start();
  for ([[maybe_unused]] auto step : state) {
    state.PauseTiming();
    const uint64_t mark = guest.rig().ram().Mark();
    for (int i = 0; i < kBatch; ++i) {
      guest.rig().queue(1).Build().Readable(packet).Submit();
    }
    state.ResumeTiming();
    guest.rig().Kick(1);
    for (int i = 0; i < kBatch; ++i) {
      guest.rig().WaitUsed(1);
    }
    state.PauseTiming();
    WV_CHECK(ReadExact(stream.host, received).has_value());
    while (guest.Next(std::chrono::milliseconds(0))) {
    }
    guest.rig().ram().Release(mark);
    state.ResumeTiming();
  }
  worker.Report(state, kBatch);
  state.SetItemsProcessed(state.iterations() * kBatch);
  state.SetBytesProcessed(state.iterations() * kBatch * state.range(0));
}

// Host to guest: the bytes of 32 full receive buffers wait in the socket; from the kick that gives
// the buffers until the last is used. Buffers have the size of Linux's, which are pages less what an
// skb needs.
void BM_PacketsToGuest(benchmark::State& state) {
  WorkerTime worker;
  VsockGuest guest(worker.Options());
  guest.Start(1);
  const VsockGuest::Stream stream = guest.Connect(100, 1U << 30U);
  WV_CHECK(WriteAll(stream.host, "x").has_value());
  guest.rig().WaitUsed(0);  // the one buffer: the ring is empty now
  const auto size = static_cast<size_t>(state.range(0));
  const auto buffer = static_cast<uint32_t>(sizeof(VsockHeader) + size);
  const std::string bytes(kBatch * size, 'x');
  worker.Start();
  for ([[maybe_unused]] auto step : state) {
    state.PauseTiming();
    const uint64_t mark = guest.rig().ram().Mark();
    WV_CHECK(WriteAll(stream.host, bytes).has_value());
    for (int i = 0; i < kBatch; ++i) {
      guest.rig().queue(0).Build().Writable(buffer).Submit();
    }
    state.ResumeTiming();
    guest.rig().KickAlways(0);
    for (int i = 0; i < kBatch; ++i) {
      guest.rig().WaitUsed(0);
    }
    state.PauseTiming();
    guest.rig().ram().Release(mark);
    state.ResumeTiming();
  }
  worker.Report(state, kBatch);
  state.SetItemsProcessed(state.iterations() * kBatch);
  state.SetBytesProcessed(state.iterations() * kBatch * state.range(0));
}

// One byte there and back: two kicks, two interrupts, two wake-ups of the worker.
void BM_RoundTrip(benchmark::State& state) {
  WorkerTime worker;
  VsockGuest guest(worker.Options());
  guest.Start();
  const VsockGuest::Stream stream = guest.Connect(100);
  worker.Start();
  for ([[maybe_unused]] auto step : state) {
    WV_CHECK(WriteAll(stream.host, "x").has_value());
    const VsockGuest::Packet packet = guest.Expect(VsockOp::kData);
    ++guest.consumed;
    VsockHeader answer = guest.Reply(stream.request, VsockOp::kData);
    answer.length = 1;
    guest.Send(answer, packet.data);
    std::byte byte{};
    WV_CHECK(ReadExact(stream.host, std::span(&byte, 1)).has_value());
  }
  worker.Report(state, 1);
}

BENCHMARK(BM_PacketsToHost)->Arg(64)->Arg(4096)->UseRealTime();
BENCHMARK(BM_PacketsToGuest)->Arg(64)->Arg(3712)->UseRealTime();
BENCHMARK(BM_RoundTrip)->UseRealTime();

}  // namespace
}  // namespace wyvern::devices

BENCHMARK_MAIN();
