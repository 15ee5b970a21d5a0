// blk/blk_device.h — virtio block device over a raw file or block device.
// Spec:    VIRTIO 1.4 §5.2.
// Shape:   request queues, served by one or more lanes (a worker with an I/O engine each): queue i by
//          lane i modulo their number. Data moves between file and guest memory without a copy;
//          requests run side by side and end in any order. The format is raw and is never guessed.
// Errors:  requests that cannot be done get VIRTIO_BLK_S_IOERR or _UNSUPP; a broken ring needs a
//          reset.
// Threads: the lanes', and those of their engines. Resize and SetRateLimits: the owner's, any.
// Trust:   chains and configuration writes are the guest's. A read-only disk is so three times:
//          F_RO, IOERR for writes, and a file that is open for reading only.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "blk/blk_disk.h"
#include "blk/blk_lane.h"
#include "blk/uring_engine.h"
#include "virtio/device.h"

namespace wyvern::devices {

struct BlkOptions {
  WorkerOptions worker;
  // A regular file or a block device; its access mode must be what read_only says.
  UniqueFd file;
  bool read_only = false;
  std::string serial;  // at most 20 bytes; what GET_ID answers
  // From IoRing::Create before the filters; null: a thread pool does the I/O.
  std::shared_ptr<IoRing> ring{};
  // Each makes another lane, at the cost of a thread; no more lanes than queues.
  std::vector<std::shared_ptr<IoRing>> more_rings{};
  uint16_t queues = 1;  // 1 to kMaxQueues
  // Entries of each ring, a power of two from 4 to kMaxQueueSize. Linux allocates a request for each
  // when it finds the disk, 384 bytes of guest memory. 1024 is what QEMU 10 gives the driver of a
  // vhost-user disk, whatever it was asked: a back-end must take it.
  uint16_t queue_size = 256;
  uint32_t block_size = 512;  // logical, a power of two up to 4096: what a file with O_DIRECT needs
  RateLimiterConfig limits{};
  uint16_t lanes = 1;  // at least; one without a ring has a thread pool of its own
  // For tests and benchmarks: what does the I/O of each lane instead.
  BlkLane::EngineFactory engine{};
};

// What survives a stop beyond the rings; versioned for snapshots.
struct BlkState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  uint64_t sectors = 0;
  bool writeback = true;
  RateLimiterState limits{};
};

class BlkDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint16_t kMaxQueueSize = 1024;
  static constexpr uint16_t kMaxQueues = 16;
  // Also of a ring that would hold more: Linux makes chains of seg_max + 2 descriptors (header and
  // status) however small a ring it was given, and a front-end may give less than we take; a chain
  // longer than its ring is a fault. 254 pages are a request of 1 MiB less two pages, and a larger
  // one would bind as many iovecs for each request in flight.
  static constexpr uint32_t kMaxSegments = 254;
  static constexpr uint32_t kMaxSegmentSize = 1 << 20;

  // INVALID_ARGUMENT: not a file to serve (directory, pipe, wrong access mode, empty), or options
  // out of range.
  static Result<std::unique_ptr<BlkDevice>> Create(BlkOptions options);
  // Finishes what is in flight.
  ~BlkDevice() override;
  BlkDevice(const BlkDevice&) = delete;
  BlkDevice& operator=(const BlkDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  void FeaturesAccepted(uint64_t features) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;
  void Reset() override;
  std::vector<virtio::CounterValue> counters() const override;

  // The disk has `bytes` now (what is beyond the last whole block does not count), and the driver is
  // told. To grow: lengthen the file, then call this. To shrink: call this, then cut the file; when
  // it returns no request touches anything behind the new end, and later ones fail.
  // INVALID_ARGUMENT: less than a block, or more than the file has.
  Result<> Resize(uint64_t bytes);
  // As large as its file is now.
  Result<> ResizeToFile();

  // For requests from now on.
  void SetRateLimits(const RateLimiterConfig& limits);

  // While the queues are stopped.
  BlkState SaveState();
  // Before the queues start, after FeaturesAccepted. INVALID_ARGUMENT: another version, or a
  // capacity that the file does not have.
  Result<> RestoreState(const BlkState& state);

 private:
  BlkDevice(BlkOptions options, uint64_t physical_block);
  Result<> MakeLanes();
  Result<uint64_t> SectorsIn(uint64_t bytes) const;

  BlkLane& lane(uint16_t queue) { return *lanes_[queue % lanes_.size()]; }

  BlkOptions options_;
  const uint64_t physical_block_;  // bytes
  virtio::DeviceTraits traits_;
  BlkDisk disk_;
  std::mutex resize_mu_;  // one at a time; before config_mu_
  // Capacity changes under it, together with the generation: no driver reads halves of two. An
  // Interrupt's SignalConfig runs under it and takes no lock of the transport.
  std::mutex config_mu_;
  std::shared_ptr<virtio::Interrupt> interrupt_;  // guarded by config_mu_: since a queue started
  uint64_t features_ = 0;                         // guarded by config_mu_: negotiated
  std::atomic<uint64_t> faults_{0};
  std::vector<std::unique_ptr<BlkLane>> lanes_;  // last: end before what they use
};

}  // namespace wyvern::devices
