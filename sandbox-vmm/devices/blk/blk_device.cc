#include "blk/blk_device.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "blk/pool_engine.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

constexpr size_t kMaxSerial = 20;  // VIRTIO §5.2.6: the device ID string
constexpr uint32_t kMaxBlockSize = 4096;
constexpr uint32_t kFrame = 2;  // descriptors of a request that are no data: header and status
constexpr uint16_t kMinQueueSize = 4;
constexpr uint64_t kMaxPhysicalBlock = 64 << 10;

// VIRTIO §5.2.4, up to what SECURE_ERASE and ZONED would add.
struct Config {
  Le64 capacity;
  Le32 size_max;
  Le32 seg_max;
  Le32 geometry;
  Le32 blk_size;
  uint8_t physical_block_exp = 0;
  uint8_t alignment_offset = 0;
  Le16 min_io_size;
  Le32 opt_io_size;
  uint8_t writeback = 0;
  uint8_t unused0 = 0;
  Le16 num_queues;
  Le32 max_discard_sectors;
  Le32 max_discard_seg;
  Le32 discard_sector_alignment;
  Le32 max_write_zeroes_sectors;
  Le32 max_write_zeroes_seg;
  uint8_t write_zeroes_may_unmap = 0;
  uint8_t unused1[3] = {};
};

static_assert(sizeof(Config) == 60 && offsetof(Config, writeback) == 32);

Result<> CheckFile(const BlkOptions& options) {
  WV_TRY(const struct stat status, Fstat(options.file));
  if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
    return Fail(Code::kInvalidArgument, "a disk is a regular file or a block device");
  }
  const int flags = fcntl(options.file.get(), F_GETFL);
  if (flags < 0) {
    return SysError("fcntl(F_GETFL)");
  }
  if ((flags & O_ACCMODE) != (options.read_only ? O_RDONLY : O_RDWR) || (flags & O_PATH) != 0) {
    return Fail(Code::kInvalidArgument,
                options.read_only ? "a read-only disk needs a file that is open for reading only"
                                  : "a writable disk needs a file that is open for both");
  }
  return {};
}

Result<> CheckOptions(const BlkOptions& options) {
  if (options.serial.size() > kMaxSerial) {
    return Fail(Code::kInvalidArgument, "a disk's serial has at most 20 bytes");
  }
  if (options.queues == 0 || options.queues > BlkDevice::kMaxQueues) {
    return Fail(Code::kInvalidArgument, "a disk has 1 to 16 queues");
  }
  if (!std::has_single_bit(options.queue_size) || options.queue_size < kMinQueueSize ||
      options.queue_size > BlkDevice::kMaxQueueSize) {
    return Fail(Code::kInvalidArgument, "a disk's rings have a power of two of entries, 4 to 1024");
  }
  if (!std::has_single_bit(options.block_size) || options.block_size < kSectorSize ||
      options.block_size > kMaxBlockSize) {
    return Fail(Code::kInvalidArgument, "a disk's block size is a power of two from 512 to 4096");
  }
  const size_t lanes = std::max<size_t>(options.lanes, 1 + options.more_rings.size());
  if (lanes > options.queues || options.lanes == 0 ||
      (options.ring == nullptr && !options.more_rings.empty())) {
    return Fail(Code::kInvalidArgument, "a disk has as many lanes as queues at most");
  }
  return {};
}

Result<uint64_t> LengthOf(FdRef file) {
  // Of a block device, fstat does not tell.
  const off_t end = lseek(file.get(), 0, SEEK_END);
  if (end < 0) {
    return SysError("lseek");
  }
  return static_cast<uint64_t>(end);
}

// What the host's file system works in, as far as that makes sense to a driver.
Result<uint64_t> PhysicalBlock(const BlkOptions& options) {
  WV_TRY(const struct stat status, Fstat(options.file));
  const auto block = static_cast<uint64_t>(std::max<blksize_t>(status.st_blksize, 1));
  return std::has_single_bit(block)
             ? std::clamp<uint64_t>(block, options.block_size, kMaxPhysicalBlock)
             : uint64_t{kMaxBlockSize};
}

}  // namespace

Result<std::unique_ptr<BlkDevice>> BlkDevice::Create(BlkOptions options) {
  WV_TRY_VOID(CheckFile(options));
  WV_TRY_VOID(CheckOptions(options));
  WV_TRY(const uint64_t length, LengthOf(options.file));
  WV_TRY(const uint64_t physical_block, PhysicalBlock(options));
  std::unique_ptr<BlkDevice> device(new BlkDevice(std::move(options), physical_block));
  WV_TRY(const uint64_t sectors, device->SectorsIn(length));
  device->disk_.sectors = sectors;
  WV_TRY_VOID(device->MakeLanes());
  return device;
}

BlkDevice::BlkDevice(BlkOptions options, uint64_t physical_block)
    : options_(std::move(options)),
      physical_block_(physical_block),
      disk_(options_.worker.name, options_.serial, options_.read_only, options_.limits) {
  // A ring may hold more requests than a lane takes: the rest waits where it is.
  static_assert(BlkLane::kSlots <= IoRing::kEntries);
  static_assert(kMaxQueues <= BlkLimiter::kMaxLanes);
  traits_.device_id = virtio::kDeviceBlock;
  // FLUSH always (VIRTIO §5.2.5.2). SECURE_ERASE, LIFETIME and ZONED are not offered: a file has
  // none of these.
  traits_.features =
      virtio::kRingFeatures | kBlkSizeMax | kBlkSegMax | kBlkBlockSize | kBlkTopology | kBlkFlush |
      (options_.queues > 1 ? kBlkMultiQueue : 0) |
      (options_.read_only ? kBlkReadOnly : kBlkConfigWce | kBlkDiscard | kBlkWriteZeroes);
  traits_.queue_sizes.assign(options_.queues, options_.queue_size);
  traits_.config_length = sizeof(Config);
  traits_.name = "blk";
}

BlkDevice::~BlkDevice() {
  if (lanes_.empty()) {
    return;  // not wholly made
  }
  for (uint16_t i = 0; i < options_.queues; ++i) {
    lane(i).Stop(i);
  }
}

Result<> BlkDevice::MakeLanes() {
  std::vector<std::shared_ptr<IoRing>> rings = std::move(options_.more_rings);
  if (options_.ring != nullptr) {
    rings.insert(rings.begin(), std::move(options_.ring));
  }
  const size_t lanes = std::max<size_t>(options_.lanes, rings.size());
  for (unsigned i = 0; i < lanes; ++i) {
    BlkLane::EngineFactory engine = options_.engine;
    if (!engine && i < rings.size()) {
      WV_TRY_VOID(rings[i]->SetFile(options_.file));
      engine = [&](EventLoop& loop, IoEngine::Done done) -> Result<std::unique_ptr<IoEngine>> {
        return std::make_unique<UringEngine>(loop, std::move(rings[i]), std::move(done));
      };
    } else if (!engine) {
      engine = [&](EventLoop& loop, IoEngine::Done done) {
        return PoolEngine::Create(loop, options_.worker, options_.file, std::move(done));
      };
    }
    // Queues i, i + lanes, …
    const auto queues = static_cast<uint32_t>((options_.queues - i + lanes - 1) / lanes);
    WV_TRY(auto lane, BlkLane::Create(disk_, i, queues, options_.worker, engine));
    lanes_.push_back(std::move(lane));
  }
  return {};
}

// Whole blocks only.
Result<uint64_t> BlkDevice::SectorsIn(uint64_t bytes) const {
  const uint64_t blocks = bytes / options_.block_size;
  if (blocks == 0) {
    return Fail(Code::kInvalidArgument, "a disk has at least one block");
  }
  return blocks * (options_.block_size / kSectorSize);
}

void BlkDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  Config config;
  config.size_max = kMaxSegmentSize;
  config.seg_max = std::min(kMaxSegments, options_.queue_size - kFrame);
  config.blk_size = options_.block_size;
  const auto blocks = static_cast<uint16_t>(physical_block_ / options_.block_size);
  config.physical_block_exp = static_cast<uint8_t>(std::countr_zero(blocks));
  config.min_io_size = blocks;
  // opt_io_size 0: no size is better than another, and a driver reads ahead as it likes.
  config.num_queues = options_.queues;
  if (!options_.read_only) {
    config.max_discard_sectors = kMaxDiscardSectors;
    config.max_discard_seg = kMaxDiscardRanges;
    config.discard_sector_alignment = static_cast<uint32_t>(physical_block_ / kSectorSize);
    config.max_write_zeroes_sectors = kMaxZeroSectors;
    config.max_write_zeroes_seg = kMaxZeroRanges;
    config.write_zeroes_may_unmap = 1;
    config.writeback = disk_.writeback.load(std::memory_order_relaxed) ? 1 : 0;
  }
  const std::lock_guard lock(config_mu_);
  config.capacity = disk_.sectors.load(std::memory_order_relaxed);
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(config)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                std::min<size_t>(out.size(), sizeof(config) - offset));
  }
}

// One field can be written, by who negotiated it (VIRTIO §5.2.6.1).
void BlkDevice::WriteConfig(uint32_t offset, std::span<const std::byte> in) {
  constexpr uint32_t kAt = offsetof(Config, writeback);
  if (offset > kAt || kAt - offset >= in.size()) {
    return;
  }
  const std::lock_guard lock(config_mu_);
  if ((features_ & kBlkConfigWce) != 0) {
    disk_.writeback.store(in[kAt - offset] != std::byte{0}, std::memory_order_relaxed);
  }
}

void BlkDevice::FeaturesAccepted(uint64_t features) {
  const std::lock_guard lock(config_mu_);
  features_ = features;
  // VIRTIO §5.2.5.2: a driver that cannot flush starts with writes that last.
  disk_.writeback.store((features & kBlkFlush) != 0, std::memory_order_relaxed);
}

Result<> BlkDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                               std::optional<virtio::QueueState> resume) {
  {
    const std::lock_guard lock(config_mu_);
    interrupt_ = resources.interrupt;
  }
  return lane(index).Start({.index = index,
                            .resources = std::move(resources),
                            .features = features,
                            .resume = resume,
                            .device = traits_.name,
                            .on_kick = nullptr,
                            .on_fault = [this] {
                              faults_.fetch_add(1, std::memory_order_relaxed);
                              NeedsReset();
                            }});
}

std::optional<virtio::QueueState> BlkDevice::StopQueue(uint16_t index) {
  return lane(index).Stop(index);
}

void BlkDevice::Reset() {
  const std::lock_guard lock(config_mu_);
  interrupt_.reset();
  features_ = 0;
  disk_.writeback.store(true, std::memory_order_relaxed);
}

Result<> BlkDevice::Resize(uint64_t bytes) {
  const std::lock_guard lock(resize_mu_);
  WV_TRY(const uint64_t sectors, SectorsIn(bytes));
  WV_TRY(const uint64_t length, LengthOf(options_.file));
  if (bytes > length) {
    return Fail(Code::kInvalidArgument, "a disk cannot be larger than its file");
  }
  {
    // VIRTIO §5.2.6.2: the driver is told when capacity changes.
    const std::lock_guard config_lock(config_mu_);
    if (disk_.sectors.exchange(sectors, std::memory_order_relaxed) == sectors) {
      return {};
    }
    if (interrupt_ != nullptr) {
      interrupt_->SignalConfig();
    }
  }
  for (const auto& each : lanes_) {
    each->Settle(sectors * kSectorSize);
  }
  return {};
}

Result<> BlkDevice::ResizeToFile() {
  WV_TRY(const uint64_t length, LengthOf(options_.file));
  return Resize(length);
}

void BlkDevice::SetRateLimits(const RateLimiterConfig& limits) {
  disk_.limiter.Update(limits);
  for (const auto& each : lanes_) {
    each->Wake();
  }
}

BlkState BlkDevice::SaveState() {
  return {.sectors = disk_.sectors.load(std::memory_order_relaxed),
          .writeback = disk_.writeback.load(std::memory_order_relaxed),
          .limits = disk_.limiter.Save()};
}

Result<> BlkDevice::RestoreState(const BlkState& state) {
  if (state.version != BlkState::kVersion) {
    return Fail(Code::kInvalidArgument, "a disk's state of another version");
  }
  WV_TRY(const uint64_t length, LengthOf(options_.file));
  const uint64_t block_sectors = options_.block_size / kSectorSize;
  if (state.sectors == 0 || state.sectors % block_sectors != 0 ||
      state.sectors > length / kSectorSize) {
    return Fail(Code::kInvalidArgument,
                "a disk's state has a capacity that its file does not have");
  }
  const std::lock_guard lock(config_mu_);
  disk_.sectors.store(state.sectors, std::memory_order_relaxed);
  disk_.writeback.store(state.writeback, std::memory_order_relaxed);
  disk_.limiter.Restore(state.limits);
  return {};
}

std::vector<virtio::CounterValue> BlkDevice::counters() const {
  const auto sum = [this](std::atomic<uint64_t> BlkCounters::*counter) {
    uint64_t total = 0;
    for (const auto& each : lanes_) {
      total += (each->counters().*counter).load(std::memory_order_relaxed);
    }
    return total;
  };
  return {{"reads", sum(&BlkCounters::reads)},
          {"writes", sum(&BlkCounters::writes)},
          {"flushes", sum(&BlkCounters::flushes)},
          {"discards", sum(&BlkCounters::discards)},
          {"write_zeroes", sum(&BlkCounters::write_zeroes)},
          {"bytes_read", sum(&BlkCounters::bytes_read)},
          {"bytes_written", sum(&BlkCounters::bytes_written)},
          {"io_errors", sum(&BlkCounters::io_errors)},
          {"bad_requests", sum(&BlkCounters::bad_requests)},
          {"throttled", sum(&BlkCounters::throttled)},
          {"capacity_sectors", disk_.sectors.load(std::memory_order_relaxed)},
          {"faults", faults_.load(std::memory_order_relaxed)}};
}

}  // namespace wyvern::devices
