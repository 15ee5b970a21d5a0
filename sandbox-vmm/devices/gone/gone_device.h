// gone/gone_device.h — what is left of a device that was taken away under its driver: every request fails.
// Spec:    VIRTIO 1.4 §5: how each kind of device says that a request failed. FUSE: struct fuse_out_header.
// Shape:   traits and configuration are those of the device before, but for a network's link, which is down. A queue is taken over where it
//          stands: what the device before had not answered is answered here. Buffers in which a device would say something by itself
//          (packets received, events, statistics) stay in the ring, as there is nothing to say.
// Threads: one worker for all queues.   Trust: what is in the queues is the guest's; of a request no more is read than names it.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

class GoneDevice final : public virtio::VirtioDevice {
 public:
  // `traits` and `config`: of the device that it replaces.
  static Result<std::unique_ptr<GoneDevice>> Create(const WorkerOptions& options,
                                                    const virtio::DeviceTraits& traits,
                                                    std::vector<std::byte> config);
  ~GoneDevice() override;
  GoneDevice(const GoneDevice&) = delete;
  GoneDevice& operator=(const GoneDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;

  void WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) override {}

  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;

  void Reset() override;

  std::vector<virtio::CounterValue> counters() const override;

 private:
  struct Served {
    std::unique_ptr<ActiveQueue> ring;
    uint64_t features = 0;
  };

  GoneDevice(std::unique_ptr<LoopThread> worker, const virtio::DeviceTraits& traits,
             std::vector<std::byte> config);
  void Serve(uint16_t index);
  bool Answer(uint16_t index, virtio::Chain chain);
  std::optional<uint32_t> Fail(uint16_t index, uint64_t features, virtio::Chain& chain);
  std::optional<uint32_t> TellReset(virtio::Chain& chain);

  const virtio::DeviceTraits traits_;
  const std::vector<std::byte> config_;
  // Worker's thread:
  std::map<uint16_t, Served> queues_;
  bool reset_told_ = false;  // vsock
  std::atomic<uint64_t> failed_{0};
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
