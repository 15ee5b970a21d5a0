// blk/testing/blk_rig.h — a block device over a memfd, and requests as a driver makes them.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "blk/blk_device.h"
#include "testing/device_rig.h"

namespace wyvern::devices::testing {

enum class EngineKind : uint8_t { kUring, kPool };

struct BlkSetup {
  bool read_only = false;
  uint16_t queues = 1;
  uint16_t queue_size = 256;
  uint16_t lanes = 1;
  uint32_t block_size = 512;
  RateLimiterConfig limits{};
  BlkLane::EngineFactory engine{};  // instead of the kind's
  std::function<void(const char* kind)> on_thread_start{};
};

class BlkRig {
 public:
  static constexpr uint64_t kDiskSize = uint64_t{1} << 20;

  explicit BlkRig(EngineKind engine, BlkSetup setup = {}) {
    auto disk = MakeMemfd("disk", kDiskSize);
    WV_CHECK(disk.has_value());
    disk_ = *std::move(disk);
    const int mode = setup.read_only ? O_RDONLY : O_RDWR;
    auto file = Open("/proc/self/fd/" + std::to_string(disk_.get()), mode);
    WV_CHECK(file.has_value());
    BlkOptions options{
        .worker = {.name = "blk", .on_thread_start = std::move(setup.on_thread_start)},
        .file = *std::move(file),
        .read_only = setup.read_only,
        .serial = "disk-7",
        .ring = nullptr,
        .queues = setup.queues,
        .queue_size = setup.queue_size,
        .block_size = setup.block_size,
        .limits = setup.limits,
        .engine = std::move(setup.engine)};
    if (engine == EngineKind::kUring && !options.engine) {
      options.ring = MakeRing();
      for (int i = 1; i < setup.lanes && options.ring != nullptr; ++i) {
        options.more_rings.push_back(MakeRing());
        WV_CHECK(options.more_rings.back() != nullptr);
      }
    } else {
      options.lanes = setup.lanes;
    }
    auto device = BlkDevice::Create(std::move(options));
    WV_CHECK(device.has_value());
    blk_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
  }

  DeviceRig& device() { return *rig_; }

  BlkDevice& blk() { return *blk_; }

  const UniqueFd& disk() const { return disk_; }

  static std::string Header(BlkType type, uint64_t sector) {
    BlkHeader header;
    header.type = static_cast<uint32_t>(type);
    header.sector = sector;
    return {reinterpret_cast<const char*>(&header), sizeof(header)};
  }

  static std::string Range(uint64_t sector, uint32_t sectors, uint32_t flags = 0) {
    BlkWireRange range;
    range.sector = sector;
    range.sectors = sectors;
    range.flags = flags;
    return {reinterpret_cast<const char*>(&range), sizeof(range)};
  }

  // Header, data, room for an answer, status byte.
  uint16_t Submit(BlkType type, uint64_t sector, std::string_view data, uint32_t room,
                  uint16_t queue = 0) {
    auto build = rig_->queue(queue).Build();
    build.Readable(Header(type, sector));
    if (!data.empty()) {
      build.Readable(data);
    }
    if (room > 0) {
      build.Writable(room);
    }
    return build.Writable(1).Submit();
  }

  BlkStatus Request(BlkType type, uint64_t sector, std::string_view data, uint32_t room,
                    std::string* answer = nullptr, uint16_t queue = 0) {
    const uint16_t head = Submit(type, sector, data, room, queue);
    rig_->Kick(queue);
    rig_->WaitUsed(queue);
    const std::string bytes = rig_->queue(queue).Written(head, room + 1);
    if (answer != nullptr) {
      *answer = bytes.substr(0, room);
    }
    return static_cast<BlkStatus>(bytes.back());
  }

  // The status of a request that has been answered.
  BlkStatus Status(uint16_t head, uint32_t room = 0, uint16_t queue = 0) {
    return static_cast<BlkStatus>(rig_->queue(queue).Written(head, room + 1).back());
  }

  BlkStatus Write(uint64_t sector, std::string_view data) {
    return Request(BlkType::kOut, sector, data, 0);
  }

  std::string Read(uint64_t sector, uint32_t length) {
    std::string data;
    WV_CHECK(Request(BlkType::kIn, sector, "", length, &data) == BlkStatus::kOk);
    return data;
  }

  std::string OnDisk(uint64_t offset, size_t length) {
    std::string data(length, '\0');
    WV_CHECK(pread(disk_.get(), data.data(), length, static_cast<off_t>(offset)) ==
             static_cast<ssize_t>(length));
    return data;
  }

  void PutOnDisk(uint64_t offset, std::string_view data) {
    WV_CHECK(pwrite(disk_.get(), data.data(), data.size(), static_cast<off_t>(offset)) ==
             static_cast<ssize_t>(data.size()));
  }

  // Bytes of storage that the disk's file has.
  uint64_t Allocated() {
    const auto status = Fstat(disk_);
    WV_CHECK(status.has_value());
    return static_cast<uint64_t>(status->st_blocks) * 512;
  }

 private:
  static std::unique_ptr<IoRing> MakeRing() {
    auto made = IoRing::Create();
    return made ? *std::move(made) : nullptr;
  }

  UniqueFd disk_;
  BlkDevice* blk_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

}  // namespace wyvern::devices::testing
