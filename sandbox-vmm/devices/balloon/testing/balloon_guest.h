// balloon/testing/balloon_guest.h — a balloon device and the driver's side of it.
#pragma once

#include <sys/stat.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "balloon/balloon_device.h"
#include "base/check.h"
#include "testing/device_rig.h"
#include "testing/wait.h"

namespace wyvern::devices::testing {

class BalloonGuest {
 public:
  enum Queue : uint16_t { kInflate, kDeflate, kStats, kHints, kReports };

  // A page in the middle of memory, far from the rings.
  static constexpr uint32_t kPage = 0x800;

  explicit BalloonGuest(BalloonOptions options = {}) {
    options.worker = {.name = "balloon", .on_thread_start = nullptr};
    auto device = BalloonDevice::Create(std::move(options));
    WV_CHECK(device.has_value());
    device_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
  }

  DeviceRig& rig() { return *rig_; }

  BalloonDevice& device() { return *device_; }

  static mem::Gpa At(uint64_t page) { return mem::Gpa{page * kBalloonPage}; }

  static std::string Numbers(const std::vector<uint32_t>& pages) {
    std::string bytes;
    for (const uint32_t page : pages) {
      const Le32 wire(page);
      bytes.append(reinterpret_cast<const char*>(&wire), sizeof(wire));
    }
    return bytes;
  }

  // `count` pages from `first`, last one first, as Linux's balloon often lists them.
  static std::vector<uint32_t> Run(uint32_t first, uint32_t count) {
    std::vector<uint32_t> pages;
    for (uint32_t i = count; i > 0; --i) {
      pages.push_back(first + i - 1);
    }
    return pages;
  }

  static std::string Stat(uint16_t tag, uint64_t value) {
    const Le16 wire_tag(tag);
    const Le64 wire_value(value);
    return std::string(reinterpret_cast<const char*>(&wire_tag), 2) +
           std::string(reinterpret_cast<const char*>(&wire_value), 8);
  }

  // A buffer that the device reads; returns when it is used.
  void Send(Queue queue, std::string_view bytes) {
    rig_->queue(queue).Build().Readable(bytes).Submit();
    rig_->Kick(queue);
    rig_->WaitUsed(queue);
  }

  // Memory that the device may have (hints, reports).
  void Offer(Queue queue, const std::vector<std::pair<mem::Gpa, uint32_t>>& ranges) {
    auto build = rig_->queue(queue).Build();
    for (const auto& [start, length] : ranges) {
      build.WritableAt(start, length);
    }
    build.Submit();
    rig_->Kick(queue);
    rig_->WaitUsed(queue);
  }

  // A statistics buffer, which the device keeps.
  void SendStats(std::string_view bytes) {
    const uint64_t before = rig_->counter("stats_updates");
    rig_->queue(kStats).Build().Readable(bytes).Submit();
    rig_->Kick(kStats);
    WV_CHECK(WaitUntil([&] { return rig_->counter("stats_updates") > before; }));
  }

  void Fill(uint32_t page, uint32_t count) {
    rig_->ram().Fill(At(page), uint64_t{count} * kBalloonPage, std::byte{'g'});
  }

  bool Freed(uint32_t page) { return rig_->ram().Read<char>(At(page)) == 0; }

  // What the host has spent on the guest's memory, in pages.
  uint64_t HostPages() {
    struct stat status {};

    WV_CHECK(fstat(rig_->ram().memory()->regions()[0].fd.get(), &status) == 0);
    return static_cast<uint64_t>(status.st_blocks) * 512 / kBalloonPage;
  }

 private:
  BalloonDevice* device_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

}  // namespace wyvern::devices::testing
