// net/vhost_net_device.h — virtio network device whose packets the kernel moves (vhost-net).
// Spec:    VIRTIO 1.4 §5.1.
// Shape:   configuration and control queue are those of NetDevice; the rings of packets belong to
//          /dev/vhost-net. A ring is attached to its tap while its pair is in use and the link up;
//          a transmit ring that is not is served here, which gives back what it takes, as NetDevice
//          does.
// Leaves out: rate limits, receive filtering, counters of packets: no packet passes this process.
// Threads: one worker, for the control queue, what is discarded, and interrupts that need this
//          process.
// Trust:   the kernel judges rings and packets of the guest. Opt-in for that reason: see README.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "net/net_config.h"
#include "net/net_control.h"
#include "net/tap_backend.h"
#include "net/vhost_pair.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

struct VhostNetOptions {
  WorkerOptions worker;
  std::unique_ptr<TapBackend> tap;
  std::vector<UniqueFd> vhost;  // /dev/vhost-net, opened once per queue pair
  NetInterface interface;
  uint16_t queue_size = 256;
  std::unique_ptr<VhostCalls> calls{};  // null: the kernel's
};

class VhostNetDevice final : public virtio::VirtioDevice, private NetControlTarget {
 public:
  // INVALID_ARGUMENT: no such interface, queue size or number of descriptors. FAILED_PRECONDITION:
  // a kernel without VIRTIO 1.
  static Result<std::unique_ptr<VhostNetDevice>> Create(VhostNetOptions options);
  ~VhostNetDevice() override;
  VhostNetDevice(const VhostNetDevice&) = delete;
  VhostNetDevice& operator=(const VhostNetDevice&) = delete;

  // Tells the driver, and the host's side of the tap. While down, packets of both directions are
  // dropped.
  void SetLinkUp(bool up);

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;

  // The kernel has a table of its own.
  bool MemoryGrew(const std::shared_ptr<const mem::GuestMemory>& /*memory*/) override {
    return false;
  }

  std::vector<virtio::CounterValue> counters() const override;

 private:
  // What a ring of packets was started with.
  struct Ring {
    virtio::QueueResources resources;
    FdRef call{-1};  // the transport's eventfd, if it has one
    uint64_t features = 0;
    bool served = false;
    bool in_kernel = false;
    std::optional<virtio::QueueState> left{};  // where it stands while it is not served
  };

  // What one that the kernel has needs in this process.
  struct Events {
    EventFd call;
    EventFd error;
    EventLoop::Token call_token = EventLoop::Token::kNone;
    EventLoop::Token error_token = EventLoop::Token::kNone;
  };

  // The eventfds that the kernel signals: used buffers, a broken ring.
  struct Signals {
    FdRef call;
    FdRef error;
  };

  VhostNetDevice(VhostNetOptions options, std::vector<std::unique_ptr<VhostPair>> pairs,
                 std::unique_ptr<LoopThread> worker);

  uint16_t max_pairs() const { return tap_->pairs(); }

  Result<> Negotiate(uint64_t features);
  Result<> Begin(uint16_t index, virtio::QueueResources resources, FdRef call, uint64_t features,
                 std::optional<virtio::QueueState> resume);
  Result<> BeginRing(uint16_t index);
  Result<> BeginInKernel(uint16_t index, std::optional<virtio::QueueState> resume);
  Result<> BeginOther(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume, NetRole role);
  void EndRing(uint16_t index);
  Result<Signals> WatchEvents(uint16_t index, const std::shared_ptr<virtio::Interrupt>& interrupt,
                              FdRef own);
  void UnwatchEvents(uint16_t index);
  std::optional<virtio::QueueState> End(uint16_t index);
  void DiscardSent(uint16_t index);
  void DiscardReceived(uint16_t pair);

  bool in_use(uint16_t index) const { return index / 2 < active_pairs_ && link_up_; }

  Result<> Connect(uint16_t index);
  Result<> SetPairActive(uint16_t pair, bool active);
  bool ApplyPairs(uint16_t pairs);
  void Fault();
  bool SetPairs(uint16_t pairs) override;
  bool SetOffloads(uint64_t offloads) override;

  const std::unique_ptr<TapBackend> tap_;
  const std::unique_ptr<VhostCalls> calls_;
  virtio::DeviceTraits traits_;
  NetConfig config_;
  // All below: worker's thread, except the counters.
  NetControl control_;
  const std::vector<std::unique_ptr<VhostPair>> pairs_;
  std::vector<NetRole> roles_;
  std::vector<std::unique_ptr<Ring>> rings_;  // of packets
  std::vector<std::optional<Events>> events_;
  // Control queue, queues without a role, and rings that transmit to nowhere.
  std::vector<std::unique_ptr<ActiveQueue>> others_;
  std::shared_ptr<virtio::Interrupt> interrupt_;
  uint64_t features_ = 0;
  uint16_t active_pairs_ = 1;
  bool link_up_ = true;
  bool negotiated_ = false;
  std::atomic<uint64_t> tx_inactive_{0};
  std::atomic<uint64_t> tx_link_down_{0};
  std::atomic<uint64_t> rx_link_down_{0};
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
