// What a packet costs without a guest: batches through the rings with one kick, and round trips.
#include <benchmark/benchmark.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

constexpr int kBatch = 32;

// Guest to host: from the kick until the worker has handed the last of 32 packets to the socket. Filling the ring, and reading from the
// socket, are the guest's and the host's.
void BM_PacketsToHost(benchmark::State& state) {
  VsockGuest guest;
  guest.Start();
  const VsockGuest::Stream stream = guest.Connect(100);
  VsockHeader header = guest.Reply(stream.request, VsockOp::kData);
  const auto size = static_cast<size_t>(state.range(0));
  header.length = static_cast<uint32_t>(size);
  std::string packet(reinterpret_cast<const char*>(&header), sizeof(header));
  packet.resize(sizeof(header) + size, 'x');
  std::vector<std::byte> received(kBatch * size);
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
  state.SetItemsProcessed(state.iterations() * kBatch);
  state.SetBytesProcessed(state.iterations() * kBatch * state.range(0));
}

// One byte there and back: two kicks, two interrupts, two wake-ups of the worker.
void BM_RoundTrip(benchmark::State& state) {
  VsockGuest guest;
  guest.Start();
  const VsockGuest::Stream stream = guest.Connect(100);
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
}

BENCHMARK(BM_PacketsToHost)->Arg(64)->Arg(4096)->UseRealTime();
BENCHMARK(BM_RoundTrip)->UseRealTime();

}  // namespace
}  // namespace wyvern::devices

BENCHMARK_MAIN();
