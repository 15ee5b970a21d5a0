// blk/testing/blk_rig.h — a block device over a memfd, and requests as a driver makes them.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>

#include "base/check.h"
#include "blk/blk_device.h"
#include "testing/device_rig.h"

namespace wyvern::devices::testing {

enum class EngineKind : uint8_t { kUring, kPool };

class BlkRig {
 public:
  static constexpr uint64_t kDiskSize = uint64_t{1} << 20;

  explicit BlkRig(EngineKind engine, bool read_only = false) {
    auto disk = MakeMemfd("disk", kDiskSize);
    WV_CHECK(disk.has_value());
    disk_ = *std::move(disk);
    auto file = Open("/proc/self/fd/" + std::to_string(disk_.get()), read_only ? O_RDONLY : O_RDWR);
    WV_CHECK(file.has_value());
    std::unique_ptr<IoRing> ring;
    if (engine == EngineKind::kUring) {
      if (auto made = IoRing::Create()) {
        ring = *std::move(made);
      }
    }
    auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                     .file = *std::move(file),
                                     .read_only = read_only,
                                     .serial = "disk-7",
                                     .ring = std::move(ring)});
    WV_CHECK(device.has_value());
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
  }

  DeviceRig& device() { return *rig_; }

  const UniqueFd& disk() const { return disk_; }

  static std::string Header(BlkType type, uint64_t sector) {
    BlkHeader header;
    header.type = static_cast<uint32_t>(type);
    header.sector = sector;
    return {reinterpret_cast<const char*>(&header), sizeof(header)};
  }

  // Header, data, room for an answer, status byte.
  uint16_t Submit(BlkType type, uint64_t sector, std::string_view data, uint32_t room) {
    auto build = rig_->queue(0).Build();
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
                    std::string* answer = nullptr) {
    const uint16_t head = Submit(type, sector, data, room);
    rig_->Kick(0);
    rig_->WaitUsed(0);
    const std::string bytes = rig_->queue(0).Written(head, room + 1);
    if (answer != nullptr) {
      *answer = bytes.substr(0, room);
    }
    return static_cast<BlkStatus>(bytes.back());
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

 private:
  UniqueFd disk_;
  std::unique_ptr<DeviceRig> rig_;
};

}  // namespace wyvern::devices::testing
