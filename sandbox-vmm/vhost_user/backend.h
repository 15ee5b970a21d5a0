// vhost_user/backend.h — drives a virtio device for a front-end in another process.
// Spec:    QEMU docs/interop/vhost-user.rst, "Starting and stopping rings".
// State:   a ring runs while it is started (it has a kick) and enabled; GET_VRING_BASE stops it and
//          may be repeated. Rings that run are stopped for a new memory table and go on with it.
// Threads: Serve from one thread; the device's own threads signal calls.
// Trust:   messages are the front-end's. A fault of framing ends the session; a request that cannot
//          be carried out is answered with a failure if a reply is wanted, else logged.
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "base/event_fd.h"
#include "transport/transport_core.h"
#include "vhost_user/connection.h"
#include "vhost_user/shared_memory.h"

namespace wyvern::vhost_user {

struct BackendOptions {
  // PROTOCOL_F_CONFIG: QEMU 7.1 to 8.0 crash when a file system back-end offers it.
  bool offer_config = false;
  // How long the rest of a message may take once it has begun.
  std::chrono::milliseconds timeout{5000};
};

class Backend {
 public:
  Backend(UniqueFd socket, std::unique_ptr<virtio::VirtioDevice> device, BackendOptions options);
  // Stops every ring.
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  FdRef fd() const { return connection_.fd(); }

  // Takes one message (call when fd() is readable) and acts on it. kClosed is the orderly end.
  Wire<> Serve();

  // Requests that were refused.
  uint64_t refused() const { return refused_; }

 private:
  class CallInterrupt;

  struct Ring {
    uint16_t size = 0;
    VringAddress address;
    bool has_address = false;
    uint16_t base = 0;
    bool has_state = false;  // `state` is of a stop: continue there
    virtio::QueueState state;
    UniqueFd kick;
    bool started = false;
    bool enabled = false;
  };

  Result<> Act(const Message& message, std::vector<UniqueFd>& fds, std::vector<std::byte>* reply);
  Result<> SetFeatures(uint64_t features);
  Result<> SetMemTable(const Message& message, std::vector<UniqueFd>& fds);
  template <typename Change>
  Result<> ChangeMemory(Change change);
  Result<> SetVringNum(const VringState& state);
  Result<> SetVringAddr(const VringAddress& address);
  Result<> SetVringBase(const VringState& state);
  Result<VringState> GetVringBase(const VringState& state);
  Result<> SetVringFd(Request request, uint64_t value, std::vector<UniqueFd>& fds);
  Result<> SetVringEnable(const VringState& state);
  Result<> GetConfig(const Message& message, std::vector<std::byte>* reply);
  Result<> SetConfig(const Message& message);

  uint16_t ring_count() const { return static_cast<uint16_t>(rings_.size()); }

  Result<Ring*> FindRing(uint64_t index);
  Result<> StartIfReady(uint16_t index);
  void Stop(uint16_t index);
  void StopAll();
  Result<virtio::QueueConfig> Translate(const Ring& ring) const;
  uint64_t protocol_features_offered() const;

  Connection connection_;
  const BackendOptions options_;
  std::shared_ptr<CallInterrupt> interrupt_;
  transport::TransportCore core_;
  SharedMemory memory_;
  std::vector<Ring> rings_;
  uint64_t features_ = 0;
  uint64_t protocol_features_ = 0;
  uint64_t refused_ = 0;
};

}  // namespace wyvern::vhost_user
