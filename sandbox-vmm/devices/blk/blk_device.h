// blk/blk_device.h — virtio block device over a raw file or block device.
// Spec:    VIRTIO 1.3 §5.2.
// Shape:   one request queue. Data moves between file and guest memory without a copy; requests run
//          side by side, at most one per descriptor
//          head, and end in any order. Without F_FLUSH negotiated each write is on stable storage
//          before it is answered.
// Errors:  requests that cannot be done get VIRTIO_BLK_S_IOERR or _UNSUPP; a broken ring needs a
//          reset.
// Threads: one worker, and those of the I/O engine.   Trust: chains are the guest's. A read-only
//          disk is so three times: F_RO, IOERR for
//          writes, and a file that is open for reading only.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "blk/blk_request.h"
#include "blk/io_engine.h"
#include "blk/uring_engine.h"
#include "virtio/device.h"
#include "worker/active_queue.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

struct BlkOptions {
  WorkerOptions worker;
  // A regular file or a block device; its access mode must be what read_only says.
  UniqueFd file;
  bool read_only = false;
  std::string serial;  // at most 20 bytes; what GET_ID answers
  // From IoRing::Create before the filters; null: a thread pool does the I/O.
  std::unique_ptr<IoRing> ring;
};

class BlkDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint16_t kQueueSize = 256;
  static constexpr uint32_t kMaxSegments = kQueueSize - 2;  // header and status take two
  static constexpr uint32_t kMaxSegmentSize = 1 << 20;

  // INVALID_ARGUMENT: not a file to serve (directory, pipe, wrong access mode, empty).
  static Result<std::unique_ptr<BlkDevice>> Create(BlkOptions options);
  // Finishes what is in flight.
  ~BlkDevice() override;
  BlkDevice(const BlkDevice&) = delete;
  BlkDevice& operator=(const BlkDevice&) = delete;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;

  void Reset() override {}

  std::vector<virtio::CounterValue> counters() const override;

 private:
  // A request in flight.
  struct Slot {
    std::optional<virtio::Chain> chain;
    BlkRequest request;
    uint32_t done = 0;  // bytes moved so far
    std::vector<iovec> parts;
  };

  BlkDevice(BlkOptions options, BlkLimits limits, std::unique_ptr<LoopThread> worker);
  Result<> StartEngine();
  void Serve();
  void Begin(virtio::Chain chain);
  bool Submit(uint32_t tag);
  void OnDone(uint32_t tag, int32_t result);
  BlkStatus AnswerId(virtio::Chain& chain, uint32_t room) const;
  void Complete(virtio::Chain chain, const BlkRequest& request, BlkStatus status);

  BlkOptions options_;
  const BlkLimits limits_;
  virtio::DeviceTraits traits_;
  // All below: worker's thread, except the counters.
  bool sync_writes_ = false;
  std::unique_ptr<ActiveQueue> queue_;
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_slots_;
  std::unique_ptr<IoEngine> engine_;

  struct Counters {
    std::atomic<uint64_t> reads{0};
    std::atomic<uint64_t> writes{0};
    std::atomic<uint64_t> flushes{0};
    std::atomic<uint64_t> bytes_read{0};
    std::atomic<uint64_t> bytes_written{0};
    std::atomic<uint64_t> io_errors{0};
    std::atomic<uint64_t> bad_requests{0};
    std::atomic<uint64_t> faults{0};
  };

  Counters counters_;
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
