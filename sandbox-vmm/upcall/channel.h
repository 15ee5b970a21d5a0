// upcall/channel.h — asks the guest's agent to take up a change of the machine, or to let go of what is about to leave it
// (agent-proto/proto/upcall.proto).
// Shape:   the stream is made by the first call and kept; when it ends, the next call makes another. A call whose stream ends under it
//          is asked once more on a new one: all of them may be repeated. Several may be in flight.
// Errors:  the agent's own, by its code; DEADLINE_EXCEEDED, at the latest a grace after the call's deadline, whatever the guest does;
//          UNAVAILABLE: no stream, or it ended twice; DATA_LOSS: the answer is none; UNIMPLEMENTED: another protocol.
// Threads: any. A call blocks its thread, others go on.
// Trust:   the agent is the guest's. Texts are printable and bounded, what an answer claims is the caller's to compare with what it did.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "proto/upcall.pb.h"
#include "ttrpc/client.h"

namespace wyvern::upcall {

using Deadline = std::chrono::steady_clock::time_point;

// How long after its deadline an agent may still say that it was not met.
inline constexpr std::chrono::milliseconds kGrace{500};

struct ChannelOptions {
  // A connected stream socket to the agent, before the deadline. One thread at a time.
  std::function<Result<UniqueFd>(Deadline deadline)> connect;
  // First thing in the thread that reads answers: its seccomp filter.
  std::function<void()> on_thread_start{};
};

struct ChannelCounter {
  std::string name;  // "PciRescan.calls"
  uint64_t value = 0;
};

class Channel {
 public:
  explicit Channel(ChannelOptions options);
  // Calls must have ended: Close first.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // Each fills in the request's deadline.
  Result<agent::v1::PciRescanResponse> PciRescan(agent::v1::PciRescanRequest request,
                                                 Deadline deadline);
  Result<> PciRemove(agent::v1::PciRemoveRequest request, Deadline deadline);

  // Calls in flight, and all later ones, fail with UNAVAILABLE. Idempotent.
  void Close();

  // By call: calls, failures, and the time they took in all and at most, in µs; and connections.
  std::vector<ChannelCounter> counters() const;

 private:
  enum class Method : uint8_t { kPciRescan, kPciRemove };
  static constexpr size_t kMethods = 2;
  using ClientPtr = std::shared_ptr<ttrpc::Client>;

  struct Count {
    uint64_t calls = 0;
    uint64_t failures = 0;
    uint64_t microseconds = 0;
    uint64_t longest = 0;
  };

  static const char* NameOf(Method method);
  template <typename Resp, typename Req>
  Result<Resp> Call(Method method, Req request, Deadline deadline);
  template <typename Resp, typename Req>
  Result<Resp> CallOnce(Method method, Req& request, Deadline deadline, bool* again);
  template <typename Resp, typename Req>
  Result<Resp> Ask(ttrpc::Client& client, const char* method, const Req& request,
                   Deadline deadline);
  Result<ClientPtr> Session(Deadline deadline);
  Result<ClientPtr> Connect(Deadline deadline);
  Result<> Greet(ttrpc::Client& client, Deadline deadline);
  void Record(Method method, std::chrono::steady_clock::duration took, bool failed);

  const ChannelOptions options_;
  std::timed_mutex connect_mu_;  // held by who connects; taken before mu_
  mutable std::mutex mu_;        // guards what follows
  ClientPtr client_;
  bool closed_ = false;
  uint64_t connections_ = 0;
  std::array<Count, kMethods> counts_{};
};

}  // namespace wyvern::upcall
