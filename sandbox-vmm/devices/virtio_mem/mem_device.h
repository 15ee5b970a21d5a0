// virtio_mem/mem_device.h — virtio memory device: memory that a guest plugs and unplugs in blocks.
// Spec:    VIRTIO 1.4 §5.15.
// Shape:   one queue of requests. The device keeps which blocks are plugged; what that means for
//          the guest's address space is its MemoryBacking's affair, which is told of a request's
//          blocks with one call.
//          UNPLUGGED_INACCESSIBLE is a condition: with a driver that has not accepted it the queue
//          does not start.
// Bounds:  kMaxBlocks; a request covers at most 65535 blocks and allocates nothing.
// Errors:  a request against the rules is answered with ERROR, one beyond the requested size with
//          NACK, one that the host cannot do now with BUSY; a broken ring needs a reset.
// State:   blocks stay as they are at a device reset (§5.15.5.2); UnplugAll is for a system reset.
// Threads: one worker. The owner's calls: any thread.
// Trust:   requests are the guest's and are copied once.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <vector>

#include "base/endian.h"
#include "virtio/device.h"
#include "virtio_mem/memory_backing.h"
#include "virtio_mem/plug_map.h"
#include "worker/active_queue.h"
#include "worker/config_change.h"
#include "worker/device_worker.h"

namespace wyvern::devices {

// VIRTIO §5.15.6
enum class MemRequestType : uint16_t { kPlug = 0, kUnplug = 1, kUnplugAll = 2, kState = 3 };
enum class MemResponseType : uint16_t { kAck = 0, kNack = 1, kBusy = 2, kError = 3 };
enum class MemBlockState : uint16_t { kPlugged = 0, kUnplugged = 1, kMixed = 2 };

struct MemRequest {
  Le16 type;
  Le16 padding[3];
  Le64 address;
  Le16 blocks;
  Le16 more_padding[3];
};

static_assert(sizeof(MemRequest) == 24);

struct MemResponse {
  Le16 type;
  Le16 padding[3];
  Le16 state;
};

static_assert(sizeof(MemResponse) == 10);

// struct virtio_mem_config
struct MemConfig {
  Le64 block_size;
  Le16 node;
  Le16 padding[3];
  Le64 address;
  Le64 region_size;
  Le64 usable_size;
  Le64 plugged_size;
  Le64 requested_size;
};

static_assert(sizeof(MemConfig) == 56);

// What the device is beyond its ring.
struct MemState {
  static constexpr uint32_t kVersion = 1;
  uint32_t version = kVersion;
  uint64_t block_size = 0;
  uint64_t region_size = 0;
  uint64_t usable_size = 0;
  uint64_t requested_size = 0;
  std::vector<uint64_t> plugged;  // a bit for each block, 64 to a word
};

struct MemOptions {
  WorkerOptions worker;
  MemoryRange region;       // multiples of block_size
  uint64_t block_size = 0;  // bytes, a power of two from 2 MiB
  uint64_t requested_size = 0;
  std::optional<uint16_t> node{};  // ACPI proximity domain
  std::unique_ptr<MemoryBacking> backing{};
  // Of a device with the same region and block size; the backing is told to plug what was plugged.
  std::optional<MemState> resume{};
};

class MemDevice final : public virtio::VirtioDevice {
 public:
  static constexpr uint64_t kMinBlockSize = uint64_t{2} << 20;
  static constexpr uint64_t kMaxBlocks = 65536;
  // How much more than the requested size is usable, so that a driver can choose: twice the largest
  // memory block of Linux on x86.
  static constexpr uint64_t kUsableExtra = uint64_t{256} << 20;

  // The smallest block with which a region of that size needs at most 512 memslots of one block.
  static uint64_t BlockSizeFor(uint64_t region_size);

  // INVALID_ARGUMENT: sizes or a state against the rules above.
  static Result<std::unique_ptr<MemDevice>> Create(MemOptions options);
  ~MemDevice() override;
  MemDevice(const MemDevice&) = delete;
  MemDevice& operator=(const MemDevice&) = delete;

  // How much the guest shall have plugged: a multiple of the block size, at most the region, else
  // INVALID_ARGUMENT. It follows as well as it can.
  Result<> SetRequestedSize(uint64_t bytes);
  uint64_t plugged_size() const;

  // At a system reset (VIRTIO §5.15.6.2). Waits for the worker.
  Result<> UnplugAll();

  // Preconditions: the queue is stopped.
  MemState state() const;

  const virtio::DeviceTraits& traits() const override { return traits_; }

  void ReadConfig(uint32_t offset, std::span<std::byte> out) override;
  void WriteConfig(uint32_t offset, std::span<const std::byte> in) override;
  Result<> StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                      std::optional<virtio::QueueState> resume) override;
  std::optional<virtio::QueueState> StopQueue(uint16_t index) override;

  void Reset() override {}

  std::vector<virtio::CounterValue> counters() const override;

 private:
  MemDevice(MemOptions options, std::unique_ptr<LoopThread> worker);
  Result<> Restore(const MemState& state);
  void Serve();
  uint32_t Answer(virtio::Chain& chain);
  MemResponse Handle(const MemRequest& request);
  MemResponseType Plug(BlockRun run);
  MemResponseType Unplug(BlockRun run);
  MemResponseType UnplugEverything();
  MemBlockState StateOf(BlockRun run) const;
  std::optional<BlockRun> BlocksOf(const MemRequest& request) const;
  MemoryRange RangeOf(BlockRun run) const;
  MemResponseType OnHostError(const Error& error);
  void PublishPlugged();
  uint64_t UsableFor(uint64_t requested) const;

  MemOptions options_;
  virtio::DeviceTraits traits_;
  ConfigChange config_change_;
  MemConfig config_;  // under config_change_'s lock

  // All below: worker's thread, except the counters.
  PlugMap map_;
  std::unique_ptr<ActiveQueue> queue_;

  struct Counters {
    std::atomic<uint64_t> plugs{0};
    std::atomic<uint64_t> unplugs{0};
    std::atomic<uint64_t> unplug_alls{0};
    std::atomic<uint64_t> states{0};
    std::atomic<uint64_t> refused{0};
    std::atomic<uint64_t> over_requested{0};
    std::atomic<uint64_t> host_failures{0};
    std::atomic<uint64_t> bad_requests{0};
    std::atomic<uint64_t> faults{0};
  };

  Counters counters_;
  std::unique_ptr<LoopThread> worker_;  // last: ends before what it uses
};

}  // namespace wyvern::devices
