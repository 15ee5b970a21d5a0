// rng/rng_device.h — virtio entropy device: fills what the driver offers from getrandom(2).
// Spec:    VIRTIO 1.3 §5.4.
// Shape:   one queue; at most kMaxBytes per chain, however long it is (a driver asks again),
//          through a buffer on the stack.
// Threads: one worker.   Trust: chains are the guest's.
#pragma once

#include <atomic>
#include <memory>

#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

class RngDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint32_t kMaxBytes = 64 << 10;

  static Result<std::unique_ptr<RngDevice>> Create(const WorkerOptions& options);
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

 private:
  explicit RngDevice(std::unique_ptr<LoopThread> worker);
  void Serve();
  uint32_t Fill(virtio::Chain& chain);

  virtio::DeviceTraits traits_;
  std::unique_ptr<ActiveQueue> queue_;  // worker's thread
  std::atomic<uint64_t> requests_{0};
  std::atomic<uint64_t> bytes_{0};
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
