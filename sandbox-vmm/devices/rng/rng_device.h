// rng/rng_device.h — virtio entropy device: fills what the driver offers from getrandom(2).
// Spec:    VIRTIO 1.4 §5.4.
// Shape:   one queue; at most kMaxBytes per chain, however long it is (a driver asks again),
//          through a buffer on the stack. A rate limit leaves chains in the ring.
// Threads: one worker; SetRateLimits and SaveState from any other.   Trust: chains are the guest's.
#pragma once

#include <atomic>
#include <memory>

#include "rate_limit/rate_limiter.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

// What survives a stop beyond the ring; versioned for snapshots.
struct RngState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  RateLimiterState limits{};
};

class RngDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint32_t kMaxBytes = 64 << 10;

  static Result<std::unique_ptr<RngDevice>> Create(const WorkerOptions& options,
                                                   const RateLimiterConfig& limits = {});
  ~RngDevice() override;
  RngDevice(const RngDevice&) = delete;
  RngDevice& operator=(const RngDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;

  void Reset() override {}

  std::vector<virtio::CounterValue> counters() const override;

  // For requests from now on.
  void SetRateLimits(const RateLimiterConfig& limits);

  RngState SaveState();
  // INVALID_ARGUMENT: of another version.
  Result<> RestoreState(const RngState& state);

 private:
  RngDevice(std::unique_ptr<LoopThread> worker, const RateLimiterConfig& limits);
  void Serve();
  bool Answer(virtio::Chain chain);
  void Later(RateLimiter::Time now);
  static uint32_t Fill(virtio::Chain& chain);

  virtio::DeviceTraits traits_;
  // Worker's thread:
  std::unique_ptr<ActiveQueue> queue_;
  RateLimiter limiter_;
  EventLoop::Token timer_ = EventLoop::Token::kNone;
  std::atomic<uint64_t> requests_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> throttled_{0};
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
