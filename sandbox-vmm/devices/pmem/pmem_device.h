// pmem/pmem_device.h — virtio persistent memory: tells the driver where files are mapped, and
// answers flushes.
// Spec:    VIRTIO 1.4 §5.19. SHMEM_REGION is not offered: the range is a guest absolute address.
// Shape:   one queue. The mapping itself is the machine's: a KVM_MEM_READONLY slot over a PROT_READ
//          mapping, several images in it by image_layout.h. Nothing is ever written, so a flush has
//          nothing to do; a private writable mapping is not offered (CVE-2026-24834).
// Threads: one worker.   Trust: chains are the guest's.
#pragma once

#include <atomic>
#include <memory>

#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

// Of guest physical memory, in whole pages; a multiple of kImageAlign for huge pages and DAX.
struct PmemRange {
  mem::Gpa start{};
  uint64_t size = 0;
};

class PmemDevice final : public virtio::VirtioDevice {
 public:
  // INVALID_ARGUMENT: an empty range, one that is not in whole pages, or one past the end of the
  // address space.
  static Result<std::unique_ptr<PmemDevice>> Create(const WorkerOptions& options, PmemRange range);
  ~PmemDevice() override;
  PmemDevice(const PmemDevice&) = delete;
  PmemDevice& operator=(const PmemDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;

  void Reset() override {}

  std::vector<virtio::CounterValue> counters() const override;

 private:
  PmemDevice(std::unique_ptr<LoopThread> worker, PmemRange range);
  void Serve();
  static uint32_t Answer(virtio::Chain& chain, bool* valid);

  virtio::DeviceTraits traits_;
  const PmemRange range_;
  std::unique_ptr<ActiveQueue> queue_;  // worker's thread
  std::atomic<uint64_t> flushes_{0};
  std::atomic<uint64_t> bad_requests_{0};
  std::atomic<uint64_t> faults_{0};
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
