// upcall/session.h — the VMM's end of the upcall: calls to the guest's agent when the machine changes.
// Spec:    agent-proto/proto/upcall.proto; here are the deadlines, the checks, and what a lost stream means.
// Shape:   the stream is opened by the first call and stays; each begins with Hello. Any number of calls are in flight. One that the stream
//          was cut under is made again on the next stream, since all are idempotent, kMaxCuts times at most. An agent that lets a call
//          pass its deadline (it answers by itself before that) is asked Hello before the stream is used again: silence ends it.
// Errors:  within the deadline, whatever the guest does: DEADLINE_EXCEEDED, UNAVAILABLE (nobody answers, or cuts, and after Close), DATA_LOSS (nonsense),
//          UNIMPLEMENTED (another protocol), FAILED_PRECONDITION (no way to the agent), and the agent's own by
//          upcall.proto, whose text is cut to kMaxGuestError printable bytes.
// Threads: any, several at once; they block. A stream has a thread of its own.
// Trust:   answers are the guest's. They are bounded and fit the request (answers.h), and may be lies.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/error.h"
#include "proto/upcall.pb.h"
#include "ttrpc/client.h"
#include "upcall/opening.h"

namespace wyvern::upcall {

struct SessionOptions {
  // Called on the threads of calls, one at a time.
  OpenChannel open;
  // First on the thread of each stream: the jail's filter.
  std::function<void()> on_thread_start{};
};

// Of a range: how much of it shall be online.
struct MemoryTarget {
  uint64_t start = 0;
  uint64_t size = 0;
  uint64_t bytes = 0;
};

class Session {
 public:
  static constexpr int kMaxCuts = 3;

  explicit Session(SessionOptions options);
  // Preconditions: no call is in progress.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  Result<agent::v1::PciRescanResponse> PciRescan(const std::string& address,
                                                 const agent::v1::DeviceIdentity& identity,
                                                 Time deadline);
  Result<> PciRemove(const std::string& address, bool force, Time deadline);
  Result<agent::v1::CpuResponse> CpuOnline(const std::vector<uint32_t>& ids, Time deadline);
  Result<agent::v1::CpuResponse> CpuOffline(const std::vector<uint32_t>& ids, Time deadline);
  Result<agent::v1::MemoryResponse> MemoryOnline(const MemoryTarget& target, Time deadline);
  Result<agent::v1::MemoryResponse> MemoryOffline(const MemoryTarget& target, Time deadline);

  // The channel has changed: the next stream is opened anew, and calls in flight go there.
  void Reset();
  // For good: calls in progress and later ones fail with UNAVAILABLE. Any thread; does not wait.
  void Close();

  // "upcall.<call>.calls", ".micros", ".max_micros", ".failures.<code>"; "upcall.streams".
  std::map<std::string, uint64_t> counters() const;

 private:
  enum class Method : uint8_t {
    kHello,
    kPciRescan,
    kPciRemove,
    kCpuOnline,
    kCpuOffline,
    kMemoryOnline,
    kMemoryOffline,
    kCount,
  };

  struct MethodCounters {
    uint64_t calls = 0;
    uint64_t micros = 0;
    uint64_t max_micros = 0;
    std::map<Code, uint64_t> failures;
  };

  struct MethodName {
    const char* method;
    const char* counter;
  };

  static const MethodName& NameOf(Method method);

  template <typename Resp, typename Req, typename Check>
  Result<Resp> Call(Method method, Req request, Time deadline, Check check);
  template <typename Resp, typename Req>
  Result<Resp> Repeat(Method method, Req& request, Time deadline);
  Result<std::shared_ptr<ttrpc::Client>> Stream(Time deadline);
  // Opens or tries out a stream. Called without mu_, by one thread at a time.
  Result<std::shared_ptr<ttrpc::Client>> Establish(std::shared_ptr<ttrpc::Client> suspect,
                                                   Time deadline);
  Result<> Greet(const std::shared_ptr<ttrpc::Client>& client, Time deadline);
  void EndStreamsLocked();
  void Drop(const std::shared_ptr<ttrpc::Client>& client);
  void Suspect(const std::shared_ptr<ttrpc::Client>& client);
  void Count(Method method, Time begin, Code code);

  const SessionOptions options_;

  mutable std::mutex mu_;  // guards what follows; a leaf
  std::condition_variable changed_;
  std::shared_ptr<ttrpc::Client> client_;  // greeted; null: none
  bool suspect_ = false;                   // client_ has let a call pass its deadline
  bool establishing_ = false;              // some thread is in Establish
  uint64_t resets_ = 0;
  bool closed_ = false;
  std::shared_ptr<Opening> opening_;         // that thread's
  std::shared_ptr<ttrpc::Client> greeting_;  // that thread's, while Hello is under way
  uint64_t streams_ = 0;
  std::array<MethodCounters, static_cast<size_t>(Method::kCount)> counters_;
};

}  // namespace wyvern::upcall
