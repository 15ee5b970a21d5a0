#include "bench/guest_streams.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <unistd.h>
// After sys/socket.h, which it needs.
#include <linux/vm_sockets.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "agent_client/agent_client.h"
#include "bench/vmm_process.h"

namespace wyvern::bench {

namespace {

constexpr uint32_t kGuestPort = 1000;

// As guest/main.cc reads it.
struct Order {
  char kind;
  char unused[7];
  uint64_t size;
};

Result<UniqueFd> ConnectPatiently(const Connector& connector) {
  for (int i = 0; i < 6000; ++i) {
    auto stream = connector(kGuestPort);
    if (stream.has_value()) {
      return stream;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return Fail(Code::kDeadlineExceeded, "the guest does not listen");
}

}  // namespace

Result<> WaitForAgent(const Connector& connector, const std::function<bool()>& give_up,
                      int64_t start_ns) {
  runtime::AgentOptions options;
  options.give_up = give_up;
  options.boot_timeout = std::chrono::minutes(3);
  WV_TRY(const auto agent, runtime::AgentClient::Connect(connector, std::move(options)));
  const int64_t answered = NowNs();
  std::string points;
  for (const auto& point : agent->hello().timeline()) {
    points += fmt::format(", \"guest_{}_ms\": {:.3f}", point.name(),
                          static_cast<double>(point.boottime_ns()) / 1e6);
  }
  fmt::print("{{\"agent_ms\": {:.3f}{}}}\n", static_cast<double>(answered - start_ns) / 1e6,
             points);
  fflush(stdout);
  return {};
}

Result<> RunStream(const Connector& connector, const std::string& kind, uint64_t count) {
  WV_TRY(const UniqueFd stream, ConnectPatiently(connector));
  const bool bulk = kind == "pull" || kind == "push";
  uint64_t left = bulk ? count << 20U : count;
  const Order order = {.kind = kind == "ping"   ? 'e'
                               : kind == "pull" ? 'g'
                                                : 't',
                       .unused = {},
                       .size = left};
  static std::array<std::byte, 1 << 16> buffer;
  const int64_t start = NowNs();
  WV_TRY_VOID(WriteAll(stream, std::as_bytes(std::span(&order, 1))));
  while (left > 0) {
    const auto part = std::span(buffer).first(kind == "ping" ? 1 : std::min(left, buffer.size()));
    size_t done = part.size();
    if (kind != "pull") {
      WV_TRY_VOID(WriteAll(stream, part));
    }
    if (kind != "push") {
      WV_TRY(done, ReadSome(stream, part));
      if (done == 0) {
        return Fail(Code::kUnavailable, "the guest closed the stream early");
      }
    }
    left -= done;
  }
  std::byte end{};
  if (kind == "push") {
    WV_TRY_VOID(ReadExact(stream, std::span(&end, 1)));
  }
  fmt::print("{{\"stream\": \"{}\", \"count\": {}, \"ns\": {}}}\n", kind, count, NowNs() - start);
  fflush(stdout);
  return {};
}

Result<UniqueFd> ConnectHostVsock(uint32_t cid, uint32_t port) {
  UniqueFd fd(socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_vm address{};
  address.svm_family = AF_VSOCK;
  address.svm_cid = cid;
  address.svm_port = port;
  if (!fd.valid() ||
      connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    // Before the guest's driver is up, and before anybody listens there.
    return Fail(Code::kUnavailable, fmt::format("connect vsock {}:{}: {}", cid, port, errno));
  }
  return fd;
}

}  // namespace wyvern::bench
