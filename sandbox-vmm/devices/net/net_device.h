// net/net_device.h — virtio network device over taps.
// Spec:    VIRTIO 1.4 §5.1.
// Shape:   queues 2i receive, 2i+1 transmit, then control, whose number depends on MQ (§5.1.2). One
//          readv or writev of the tap per packet, straight between tap and guest memory.
// Control: with the queue for it, the driver says how many pairs are in use. Behind a vhost-user
//          front-end, which keeps that queue, MQ comes alone: a pair is in use while its rings are
//          enabled.
// Threads: one worker for all queues; the calls of the host's side (link, limits, state) from any
//          thread but that.
// Trust:   rings, packets and commands are the guest's. The tap is the kernel's.
#pragma once

#include <chrono>
#include <deque>
#include <memory>
#include <vector>

#include "net/net_config.h"
#include "net/net_control.h"
#include "net/net_receiver.h"
#include "net/net_shared.h"
#include "net/net_transmitter.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

struct NetOptions {
  WorkerOptions worker;
  std::unique_ptr<TapBackend> tap;
  NetInterface interface;
  uint16_t queue_size = 256;  // of each receive and transmit queue; a power of two
  RateLimiterConfig receive{};
  RateLimiterConfig transmit{};
  // How long a packet that is longer than the driver's buffers together may wait for more of them.
  std::chrono::milliseconds room_wait{50};
};

// What the driver has set, and what the limits hold; for snapshots.
struct NetState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  uint64_t features = 0;  // 0: no driver
  uint64_t offloads = 0;
  uint16_t pairs = 1;
  bool announce = false;
  RxFilter filter;
  RateLimiterState receive;
  RateLimiterState transmit;
};

class NetDevice final : public virtio::VirtioDevice, private NetControlTarget {
 public:
  // INVALID_ARGUMENT: no such interface or queue size. Detaches all pairs but the first.
  static Result<std::unique_ptr<NetDevice>> Create(NetOptions options);
  ~NetDevice() override;
  NetDevice(const NetDevice&) = delete;
  NetDevice& operator=(const NetDevice&) = delete;

  // Tells the driver, and the host's side of the tap. While down, packets of both directions are
  // dropped.
  void SetLinkUp(bool up);
  void SetLimits(const RateLimiterConfig& receive, const RateLimiterConfig& transmit);
  // Asks the driver to make its addresses known (§5.1.9.5.4): after a restore elsewhere.
  void Announce();
  // The same by a packet of ours (RARP), for a driver that does not. INVALID_ARGUMENT: no station's
  // address. FAILED_PRECONDITION: the link is down. UNAVAILABLE: the tap takes nothing now.
  Result<> SendRarp(const MacAddress& mac);
  // Until a reset no longer packet reaches the driver, which a vhost-user front-end has told the same.
  // INVALID_ARGUMENT: less than any link has, or more than this interface.
  Result<> SetMtu(uint16_t mtu);

  // While no queue runs.
  NetState Save();
  // Before the queues start. INVALID_ARGUMENT: another version, or what this device does not offer.
  Result<> Restore(const NetState& state);

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  // All of it is read-only (§5.1.4).
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  void SetQueueEnabled(uint16_t index, bool enabled) override;
  std::vector<virtio::CounterValue> counters() const override;

 private:
  struct Pair {
    Pair(NetShared& shared, uint16_t index, std::function<void()> on_blocked)
        : receiver(shared, index), transmitter(shared, index, std::move(on_blocked)) {}

    NetReceiver receiver;
    NetTransmitter transmitter;
    EventLoop::Token tap = EventLoop::Token::kNone;
  };

  NetDevice(NetOptions options, std::unique_ptr<LoopThread> worker);

  uint16_t max_pairs() const { return tap_->pairs(); }

  Result<> Negotiate(uint64_t features);
  Result<> Begin(uint16_t index, virtio::QueueResources resources, uint64_t features,
                 std::optional<virtio::QueueState> resume);
  std::optional<virtio::QueueState> End(uint16_t index);
  void OnKick(uint16_t index);
  Result<> Watch(uint16_t pair);
  void Unwatch(Pair& pair);
  bool rings_decide() const;
  Result<> Steer(uint16_t pair);
  void OnTap(uint16_t pair, uint32_t events);
  void OnBlocked(uint16_t pair);
  bool SetPairs(uint16_t pairs) override;
  bool SetOffloads(uint64_t offloads) override;
  void SignalConfig();

  const std::unique_ptr<TapBackend> tap_;
  virtio::DeviceTraits traits_;
  NetConfig config_;
  // All below: worker's thread, except the counters.
  NetControl control_;
  NetShared shared_;
  std::deque<Pair> pairs_;
  std::vector<NetRole> roles_;
  std::vector<std::unique_ptr<ActiveQueue>> others_;  // control queue, and queues without a role
  std::shared_ptr<virtio::Interrupt> interrupt_;
  bool negotiated_ = false;
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
