#include "blk/blk_device.h"

#include <fcntl.h>
#include <linux/virtio_blk.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>

#include "base/check.h"
#include "base/log.h"
#include "blk/pool_engine.h"
#include "virtio/feature_bits.h"

namespace wyvern::devices {

namespace {

constexpr uint64_t Bit(unsigned bit) {
  return uint64_t{1} << bit;
}

// The first fields of struct virtio_blk_config; what follows belongs to features that are not
// offered.
struct Config {
  Le64 capacity;
  Le32 size_max;
  Le32 seg_max;
  Le32 geometry;
  Le32 blk_size;
};

void Count(std::atomic<uint64_t>& counter, uint64_t add = 1) {
  counter.fetch_add(add, std::memory_order_relaxed);
}

Result<uint64_t> SectorsOf(const BlkOptions& options) {
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
  const off_t end = lseek(options.file.get(), 0, SEEK_END);
  if (end < static_cast<off_t>(kSectorSize)) {
    return Fail(Code::kInvalidArgument, "a disk has at least one sector of 512 bytes");
  }
  return static_cast<uint64_t>(end) / kSectorSize;
}

}  // namespace

Result<std::unique_ptr<BlkDevice>> BlkDevice::Create(BlkOptions options) {
  WV_TRY(const uint64_t sectors, SectorsOf(options));
  if (options.serial.size() > VIRTIO_BLK_ID_BYTES) {
    return Fail(Code::kInvalidArgument, "a disk's serial has at most 20 bytes");
  }
  WV_TRY(auto worker, StartWorker(options.worker));
  const BlkLimits limits{.sectors = sectors, .read_only = options.read_only};
  std::unique_ptr<BlkDevice> device(new BlkDevice(std::move(options), limits, std::move(worker)));
  WV_TRY_VOID(device->StartEngine());
  return device;
}

BlkDevice::BlkDevice(BlkOptions options, BlkLimits limits, std::unique_ptr<LoopThread> worker)
    : options_(std::move(options)),
      limits_(limits),
      slots_(kQueueSize),
      worker_(std::move(worker)) {
  static_assert(kQueueSize <= IoRing::kEntries);
  traits_.device_id = virtio::kDeviceBlock;
  traits_.features = virtio::kRingFeatures | Bit(VIRTIO_BLK_F_SIZE_MAX) |
                     Bit(VIRTIO_BLK_F_SEG_MAX) | Bit(VIRTIO_BLK_F_BLK_SIZE) |
                     Bit(VIRTIO_BLK_F_FLUSH) | (limits.read_only ? Bit(VIRTIO_BLK_F_RO) : 0);
  traits_.queue_sizes = {kQueueSize};
  traits_.config_length = sizeof(Config);
  traits_.name = "blk";
  for (uint32_t i = kQueueSize; i > 0; --i) {
    free_slots_.push_back(i - 1);
  }
}

BlkDevice::~BlkDevice() {
  StopQueue(0);
  worker_->Call([this] { engine_.reset(); });
}

// Threads of the engine are started here, by the caller: the worker's filter may forbid it.
Result<> BlkDevice::StartEngine() {
  auto done = [this](uint32_t tag, int32_t moved) { OnDone(tag, moved); };
  if (options_.ring != nullptr) {
    WV_TRY_VOID(options_.ring->SetFile(options_.file));
    engine_ = std::make_unique<UringEngine>(worker_->loop(), std::move(options_.ring), done);
  } else {
    WV_TRY(engine_, PoolEngine::Create(worker_->loop(), options_.worker, options_.file, done));
  }
  Result<> result;
  worker_->Call([&] { result = engine_->Watch(); });
  return result;
}

void BlkDevice::ReadConfig(uint32_t offset, std::span<std::byte> out) {
  Config config;
  config.capacity = limits_.sectors;
  config.size_max = kMaxSegmentSize;
  config.seg_max = kMaxSegments;
  config.geometry = 0;
  config.blk_size = static_cast<uint32_t>(kSectorSize);
  std::ranges::fill(out, std::byte{0});
  if (offset < sizeof(config)) {
    std::memcpy(out.data(), reinterpret_cast<const std::byte*>(&config) + offset,
                std::min<size_t>(out.size(), sizeof(config) - offset));
  }
}

void BlkDevice::WriteConfig(uint32_t /*offset*/, std::span<const std::byte> /*in*/) {}

Result<> BlkDevice::StartQueue(uint16_t index, virtio::QueueResources resources, uint64_t features,
                               std::optional<virtio::QueueState> resume) {
  Result<> result;
  worker_->Call([&] {
    auto started = ActiveQueue::Start(worker_->loop(), {.index = index,
                                                        .resources = std::move(resources),
                                                        .features = features,
                                                        .resume = resume,
                                                        .device = traits_.name,
                                                        .on_kick = [this] { Serve(); },
                                                        .on_fault =
                                                            [this] {
                                                              Count(counters_.faults);
                                                              NeedsReset();
                                                            }});
    if (!started) {
      result = tl::unexpected(std::move(started).error());
      return;
    }
    queue_ = *std::move(started);
    // VIRTIO §5.2.6.2: a driver that cannot flush expects written data to be safe.
    sync_writes_ = (features & Bit(VIRTIO_BLK_F_FLUSH)) == 0;
    Serve();
  });
  return result;
}

std::optional<virtio::QueueState> BlkDevice::StopQueue(uint16_t /*index*/) {
  std::optional<virtio::QueueState> state;
  worker_->Call([&] {
    if (queue_ == nullptr) {
      return;
    }
    // Nothing may write into guest memory once the queue has stopped (CH 7e2e7a164).
    while (free_slots_.size() < slots_.size()) {
      engine_->Wait();
    }
    state = queue_->state();
    queue_.reset();
  });
  return state;
}

void BlkDevice::Serve() {
  queue_->Drain([this](virtio::Chain chain) {
    Begin(std::move(chain));
    return true;
  });
  engine_->Kick();
}

void BlkDevice::Begin(virtio::Chain chain) {
  if (chain.writable_length() == 0) {
    Count(counters_.bad_requests);  // nowhere to put a status
    queue_->queue().Push(std::move(chain), 0);
    return;
  }
  const BlkRequest request = ParseBlkRequest(chain, limits_);
  if (request.status != BlkStatus::kOk) {
    Count(counters_.bad_requests);
    Complete(std::move(chain), request, request.status);
    return;
  }
  if (request.type == BlkType::kGetId) {
    const BlkStatus status = AnswerId(chain, request.length);
    Complete(std::move(chain), request, status);
    return;
  }
  if (request.type != BlkType::kFlush && request.length == 0) {
    Complete(std::move(chain), request, BlkStatus::kOk);
    return;
  }
  // Heads in flight are distinct, so there is a slot for each.
  WV_CHECK(!free_slots_.empty());
  const uint32_t tag = free_slots_.back();
  free_slots_.pop_back();
  Slot& slot = slots_[tag];
  slot.chain = std::move(chain);
  slot.request = request;
  slot.done = 0;
  if (!Submit(tag)) {
    OnDone(tag, -EFAULT);
  }
}

// What is left of the request, at most IOV_MAX parts of it. False: its memory cannot be used.
bool BlkDevice::Submit(uint32_t tag) {
  Slot& slot = slots_[tag];
  IoRequest io{.kind = IoKind::kFlush, .offset = 0, .parts = {}, .tag = tag};
  if (slot.request.type != BlkType::kFlush) {
    WV_CHECK(slot.chain.has_value());  // a tag in use
    const bool reading = slot.request.type == BlkType::kIn;
    const uint32_t rest = slot.request.length - slot.done;
    slot.parts.clear();
    const bool mapped =
        reading ? slot.chain->WritableIovecs(slot.done, rest, &slot.parts).has_value()
                : slot.chain
                      ->ReadableIovecs(static_cast<uint32_t>(sizeof(BlkHeader)) + slot.done, rest,
                                       &slot.parts)
                      .has_value();
    if (!mapped) {
      return false;
    }
    io.kind = reading ? IoKind::kRead : (sync_writes_ ? IoKind::kSyncWrite : IoKind::kWrite);
    io.offset = slot.request.offset + slot.done;
    io.parts = std::span(slot.parts).first(std::min<size_t>(slot.parts.size(), IOV_MAX));
  }
  engine_->Submit(io);
  return true;
}

void BlkDevice::OnDone(uint32_t tag, int32_t result) {
  if (tag == IoEngine::kBatchEnd) {
    if (queue_ != nullptr) {
      queue_->Signal();
    }
    engine_->Kick();  // requests that went on
    return;
  }
  Slot& slot = slots_[tag];
  BlkStatus status = BlkStatus::kOk;
  if (result == -EINTR || result == -EAGAIN) {
    if (Submit(tag)) {
      return;
    }
    status = BlkStatus::kIoError;
  } else if (result < 0 || (result == 0 && slot.request.type != BlkType::kFlush)) {
    // An error of the host's file, or its end before the disk's: it was truncated.
    Count(counters_.io_errors);
    WV_WARN_LIMITED("{}: {} at {}: {}", options_.worker.name,
                    slot.request.type == BlkType::kIn ? "read" : "write or flush",
                    slot.request.offset, result == 0 ? "end of file" : strerrordesc_np(-result));
    status = BlkStatus::kIoError;
  } else {
    slot.done += static_cast<uint32_t>(result);
    if (slot.request.type != BlkType::kFlush && slot.done < slot.request.length) {
      if (Submit(tag)) {
        return;
      }
      status = BlkStatus::kIoError;
    }
  }
  WV_CHECK(slot.chain.has_value());  // an engine answers each tag once
  virtio::Chain chain = *std::move(slot.chain);
  slot.chain.reset();
  free_slots_.push_back(tag);
  Complete(std::move(chain), slot.request, status);
}

BlkStatus BlkDevice::AnswerId(virtio::Chain& chain, uint32_t room) const {
  std::array<std::byte, VIRTIO_BLK_ID_BYTES> id{};
  std::memcpy(id.data(), options_.serial.data(), options_.serial.size());
  const auto answer = std::span(id).first(std::min<size_t>(room, id.size()));
  return chain.Write(0, answer) ? BlkStatus::kOk : BlkStatus::kIoError;
}

void BlkDevice::Complete(virtio::Chain chain, const BlkRequest& request, BlkStatus status) {
  uint32_t written = 1;
  if (status == BlkStatus::kOk) {
    switch (request.type) {
      case BlkType::kIn:
        Count(counters_.reads);
        Count(counters_.bytes_read, request.length);
        written = chain.writable_length();
        break;
      case BlkType::kOut:
        Count(counters_.writes);
        Count(counters_.bytes_written, request.length);
        break;
      case BlkType::kFlush:
        Count(counters_.flushes);
        break;
      case BlkType::kGetId:
        written = chain.writable_length();
        break;
    }
  }
  const auto byte = static_cast<std::byte>(status);
  if (!chain.Write(chain.writable_length() - 1, std::span(&byte, 1))) {
    written = 0;  // memory that cannot be written: the driver's loss
  }
  queue_->queue().Push(std::move(chain), written);
}

std::vector<virtio::CounterValue> BlkDevice::counters() const {
  const auto get = [](const std::atomic<uint64_t>& counter) {
    return counter.load(std::memory_order_relaxed);
  };
  return {{"reads", get(counters_.reads)},
          {"writes", get(counters_.writes)},
          {"flushes", get(counters_.flushes)},
          {"bytes_read", get(counters_.bytes_read)},
          {"bytes_written", get(counters_.bytes_written)},
          {"io_errors", get(counters_.io_errors)},
          {"bad_requests", get(counters_.bad_requests)},
          {"faults", get(counters_.faults)}};
}

}  // namespace wyvern::devices
