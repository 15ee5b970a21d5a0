// vhost_user/backend.h — drives a virtio device for a front-end in another process.
// Spec:    QEMU docs/interop/vhost-user.rst; rings: "Ring states".
// State:   a ring begins stopped and disabled. It runs while it is started (it has a kick, or is
//          polled) and enabled, or its device runs disabled ones; GET_VRING_BASE stops it and may be
//          repeated. A ring that runs is
//          stopped for what it cannot see change (memory table, log) and goes on where it was.
//          A started ring is looked at once without a kick: a driver that kicked before the back-end
//          was there need not do so again.
// Threads: Serve from one thread; the device's own threads signal calls and ask the front-end.
// Trust:   messages are the front-end's. A fault of framing ends the session; a request that cannot
//          be carried out is answered with a failure if a reply is wanted, else logged.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/event_fd.h"
#include "transport/transport_core.h"
#include "vhost_user/backend_requests.h"
#include "vhost_user/call_interrupt.h"
#include "vhost_user/connection.h"
#include "vhost_user/device_state.h"
#include "vhost_user/dirty_log.h"
#include "vhost_user/inflight.h"
#include "vhost_user/kick_poller.h"
#include "vhost_user/shared_memory.h"
#include "vhost_user/tracked_queue.h"

namespace wyvern::vhost_user {

struct BackendOptions {
  // PROTOCOL_F_CONFIG: QEMU 7.1 to 8.0 crash when a file system back-end offers it.
  bool offer_config = false;
  // How long the rest of a message may take once it has begun, and a front-end to answer ours.
  std::chrono::milliseconds timeout{5000};
  // INFLIGHT_SHMFD: what is in flight is recorded, and taken again by the next back-end. Then
  // neither packed rings (inflight.h) nor IN_ORDER, which holds chains back, are offered.
  bool track_inflight = false;
  // STATUS. QEMU writes 0 whenever it pauses its machine, which resets the device: only for devices
  // without a state of their own.
  bool offer_status = false;
  // DEVICE_STATE; null: not offered. NoDeviceState() for a device that has none.
  std::shared_ptr<DeviceState> state{};
  // For rings whose front-end wants them polled; 0: refused. Takes a thread at the first of them.
  std::chrono::milliseconds poll_interval{0};
  // MTU and RARP of a net device; empty: not offered.
  std::function<Result<>(uint16_t mtu)> set_mtu{};
  std::function<Result<>(std::array<uint8_t, 6> mac)> send_rarp{};
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

  // What the device may ask of the front-end (shared-memory regions); lives on without us.
  const std::shared_ptr<BackendRequests>& requests() const { return requests_; }

  // Requests that were refused.
  uint64_t refused() const { return refused_; }

 private:
  struct Ring {
    uint16_t size = 0;
    VringAddress address;
    bool has_address = false;
    std::optional<uint32_t> base;            // SET_VRING_BASE, GET_VRING_BASE
    std::optional<virtio::QueueState> left;  // stopped by us: continue there
    UniqueFd kick;
    bool started = false;
    bool enabled = false;
  };

  // A request under way.
  struct Call {
    const Message& message;
    std::vector<UniqueFd> fds{};
    std::vector<std::byte> reply{};
    UniqueFd reply_fd{};
    bool answered = false;  // a failure, too, has a reply

    template <typename T>
    void Answer(const T& value) {
      const auto bytes = std::as_bytes(std::span(&value, 1));
      reply.assign(bytes.begin(), bytes.end());
      answered = true;
    }
  };

  using Handler = Result<> (Backend::*)(Call& call);

  static Handler FindHandler(Request request);
  Result<> Act(const RequestRule& rule, Call& call);

  // backend.cc: the session and the device
  Result<> GetFeatures(Call& call);
  Result<> SetFeatures(Call& call);
  Result<> SetOwner(Call& call);
  Result<> GetProtocolFeatures(Call& call);
  Result<> SetProtocolFeatures(Call& call);
  Result<> GetQueueNum(Call& call);
  Result<> SetBackendReqFd(Call& call);
  Result<> GetConfig(Call& call);
  Result<> SetConfig(Call& call);
  Result<> GetShmemConfig(Call& call);
  Result<> NetSetMtu(Call& call);
  Result<> SendRarp(Call& call);

  // backend_state.cc: reset, status, and what outlives the back-end
  Result<> ResetDevice(Call& call);
  Result<> SetStatus(Call& call);
  Result<> GetStatus(Call& call);
  Result<> GetInflightFd(Call& call);
  Result<> SetInflightFd(Call& call);
  Result<> SetDeviceStateFd(Call& call);
  Result<> SaveState(Call& call);
  Result<> LoadState(Call& call);
  Result<> CheckDeviceState(Call& call);

  // backend_memory.cc
  Result<> SetMemTable(Call& call);
  Result<> GetMaxMemSlots(Call& call);
  Result<> AddMemReg(Call& call);
  Result<> RemMemReg(Call& call);
  bool hears_repeats() const;
  Result<> SetLogBase(Call& call);
  Result<> SetLogFd(Call& call);
  Result<> WhileStopped(const std::function<Result<>()>& change);

  // backend_rings.cc
  Result<> ResetOwner(Call& call);
  Result<> SetVringNum(Call& call);
  Result<> SetVringAddr(Call& call);
  Result<> SetVringBase(Call& call);
  Result<> GetVringBase(Call& call);
  Result<> SetVringKick(Call& call);
  Result<> SetVringCall(Call& call);
  Result<> SetVringErr(Call& call);
  Result<> SetVringEnable(Call& call);
  Result<Ring*> FindRing(uint64_t index);
  Result<> Poll(uint16_t index);
  Result<> StartIfReady(uint16_t index);
  void Stop(uint16_t index);
  void Forget(uint16_t index);
  void UpdateSuspended();
  bool AnyRunning() const;
  Result<virtio::QueueConfig> Translate(const Ring& ring) const;
  Result<virtio::QueueState> ResumeAt(const Ring& ring, const virtio::QueueConfig& config) const;
  Result<Tracking> Track(uint16_t index, virtio::QueueState* state) const;

  uint16_t ring_count() const { return static_cast<uint16_t>(rings_.size()); }

  bool packed() const { return (features_.value_or(0) & virtio::kRingPacked) != 0; }

  uint64_t features_offered() const;
  uint64_t protocol_features_offered() const;

  Connection connection_;
  const BackendOptions options_;
  std::shared_ptr<BackendRequests> requests_;
  std::shared_ptr<CallInterrupt> interrupt_;
  transport::TransportCore core_;
  SharedMemory memory_;
  std::vector<Ring> rings_;  // less a control queue
  std::unique_ptr<KickPoller> poller_;
  std::optional<uint64_t> features_;  // of SET_FEATURES
  uint64_t protocol_features_ = 0;
  std::shared_ptr<DirtyLog> log_;
  std::shared_ptr<EventFd> logged_;
  std::unique_ptr<InflightRegion> inflight_;
  UniqueFd state_to_load_;       // a sealed file of the front-end's, or our room for what it writes
  bool state_complete_ = false;  // answers CHECK_DEVICE_STATE
  uint64_t refused_ = 0;
};

}  // namespace wyvern::vhost_user
