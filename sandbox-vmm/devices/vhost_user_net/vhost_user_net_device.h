// vhost_user_net/vhost_user_net_device.h — virtio network device whose packets another process moves
// (vhost-user).
// Spec:    VIRTIO 1.4 §5.1; QEMU docs/interop/vhost-user.rst, "Multiple queue support".
// Shape:   configuration and control queue are those of NetDevice and VhostNetDevice, and are served
//          here, as QEMU does; the rings of packets are the back-end's, by a vhost_user::Frontend. Every
//          ring is started there; it is enabled (SET_VRING_ENABLE) while its pair is in use and the
//          link up.
// Leaves out: rate limits, receive filtering, changes of offloads, counters of packets: no packet
//          passes this process, and the protocol has no word for the rest.
// Threads: one worker, for the control queue; the front-end's own. A command waits for the back-end, at
//          most the timeout of each message.
// Trust:   rings and commands are the guest's. The back-end is trusted with the guest, not with us.
#pragma once

#include <memory>
#include <vector>

#include "net/net_config.h"
#include "net/net_control.h"
#include "vhost_user/frontend.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

struct VhostUserNetOptions {
  WorkerOptions worker;
  UniqueFd socket;  // of the back-end
  NetInterface interface;
  uint16_t pairs = 1;  // at most; the back-end must have as many
  uint16_t queue_size = 256;
  // Timeouts, what becomes of a lost back-end, its thread's filter. The rest is filled in.
  vhost_user::FrontendOptions frontend{};
};

class VhostUserNetDevice final : public virtio::VirtioDevice, private NetControlTarget {
 public:
  // A message names a ring by 8 bits.
  static constexpr uint16_t kMaxPairs = 128;

  // INVALID_ARGUMENT: no such interface, number of pairs or queue size. Frontend::Create's errors; also
  // FAILED_PRECONDITION: a back-end of fewer pairs, or without VIRTIO_NET_F_MQ where there are several.
  static Result<std::unique_ptr<VhostUserNetDevice>> Create(VhostUserNetOptions options);
  ~VhostUserNetDevice() override;
  VhostUserNetDevice(const VhostUserNetDevice&) = delete;
  VhostUserNetDevice& operator=(const VhostUserNetDevice&) = delete;

  // The session: its loss and its successor, migration.
  vhost_user::Frontend& frontend() { return *frontend_; }

  // Tells the driver, and disables the rings while the link is down. What the guest sends meanwhile a
  // back-end may leave in the ring.
  void SetLinkUp(bool up);
  // Makes the guest's address known, after a migration: by the driver, or where that does not, by the
  // back-end (SEND_RARP). FAILED_PRECONDITION: neither can.
  Result<> Announce();

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  bool TakesMemory(const mem::GuestMemory& memory) override;
  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& memory) override;
  std::vector<virtio::CounterValue> counters() const override;

 private:
  VhostUserNetDevice(const VhostUserNetOptions& options,
                     std::unique_ptr<vhost_user::Frontend> frontend,
                     std::unique_ptr<LoopThread> worker);

  Result<> BeginOwn(uint16_t index, virtio::QueueResources resources, uint64_t features,
                    std::optional<virtio::QueueState> resume, NetRole role);
  Result<> EnableRings();
  void SignalConfig();
  bool SetPairs(uint16_t pairs) override;
  bool SetOffloads(uint64_t offloads) override;

  const uint16_t max_pairs_;
  const std::unique_ptr<vhost_user::Frontend> frontend_;
  virtio::DeviceTraits traits_;
  NetConfig config_;
  std::vector<NetRole> roles_;  // the transport's thread
  // All below: worker's thread, except the counters.
  NetControl control_;
  std::vector<std::unique_ptr<ActiveQueue>> own_;  // control queue, and queues without a role
  std::shared_ptr<virtio::Interrupt> interrupt_;
  uint64_t features_ = 0;
  uint16_t active_pairs_ = 1;
  bool link_up_ = true;
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
