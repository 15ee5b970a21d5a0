// virtio_mem/testing/mem_guest.h — a memory device over a recorded backing, and the driver's side.
#pragma once

#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/check.h"
#include "testing/device_rig.h"
#include "virtio_mem/mem_device.h"

namespace wyvern::devices::testing {

// What a backing was told: "plug 2+3" in blocks of the region.
class BackingLog {
 public:
  void Add(std::string call) {
    const std::lock_guard lock(mu_);
    calls_.push_back(std::move(call));
  }

  std::vector<std::string> calls() const {
    const std::lock_guard lock(mu_);
    return calls_;
  }

  // What the next calls answer.
  void set_failing(bool failing) {
    const std::lock_guard lock(mu_);
    failing_ = failing;
  }

  Result<> Answer() const {
    const std::lock_guard lock(mu_);
    if (failing_) {
      return Fail(Code::kResourceExhausted, "no memslots left");
    }
    return {};
  }

 private:
  mutable std::mutex mu_;
  std::vector<std::string> calls_;  // guarded by mu_
  bool failing_ = false;            // guarded by mu_
};

class RecordedBacking final : public MemoryBacking {
 public:
  RecordedBacking(std::shared_ptr<BackingLog> log, uint64_t start, uint64_t block)
      : log_(std::move(log)), start_(start), block_(block) {}

  Result<> Plug(MemoryRange range) override { return Record("plug", range); }

  Result<> Unplug(MemoryRange range) override { return Record("unplug", range); }

  Result<> UnplugAll() override {
    log_->Add("unplug all");
    return log_->Answer();
  }

 private:
  Result<> Record(const char* what, MemoryRange range) {
    log_->Add(fmt::format("{} {}+{}", what, (mem::Raw(range.start) - start_) / block_,
                          range.size / block_));
    return log_->Answer();
  }

  std::shared_ptr<BackingLog> log_;
  const uint64_t start_;
  const uint64_t block_;
};

class MemGuest {
 public:
  static constexpr uint64_t kStart = uint64_t{4} << 30;
  static constexpr uint64_t kBlock = uint64_t{2} << 20;
  static constexpr uint64_t kBlocks = 512;

  static MemOptions Options() {
    MemOptions options;
    options.region = {.start = mem::Gpa{kStart}, .size = kBlocks * kBlock};
    options.block_size = kBlock;
    return options;
  }

  explicit MemGuest(MemOptions options = Options()) {
    options.worker = {.name = "mem", .on_thread_start = nullptr};
    if (options.backing == nullptr) {
      options.backing = std::make_unique<RecordedBacking>(log_, kStart, kBlock);
    }
    auto device = MemDevice::Create(std::move(options));
    WV_CHECK(device.has_value());
    device_ = device->get();
    rig_ = std::make_unique<DeviceRig>(*std::move(device));
  }

  // One whose driver is at work, with as many blocks requested.
  static MemGuest Started(uint64_t blocks) {
    MemGuest guest;
    guest.rig_->Start();
    guest.Request(blocks);
    return guest;
  }

  DeviceRig& rig() { return *rig_; }

  MemDevice& device() { return *device_; }

  BackingLog& log() { return *log_; }

  // Blocks that are requested; the guest would be told.
  void Request(uint64_t blocks) { WV_CHECK(device_->SetRequestedSize(blocks * kBlock)); }

  static std::string Wire(MemRequestType type, uint64_t address, uint16_t blocks,
                          char padding = '\0') {
    MemRequest request;
    std::memset(static_cast<void*>(&request), padding, sizeof(request));
    request.type = static_cast<uint16_t>(type);
    request.address = address;
    request.blocks = blocks;
    return {reinterpret_cast<const char*>(&request), sizeof(request)};
  }

  MemResponse Send(std::string_view wire) {
    const uint16_t head =
        rig_->queue(0).Build().Readable(wire).Writable(sizeof(MemResponse)).Submit();
    rig_->Kick(0);
    WV_CHECK(rig_->WaitUsed(0).written == sizeof(MemResponse));
    const std::string bytes = rig_->queue(0).Written(head, sizeof(MemResponse));
    MemResponse response;
    std::memcpy(static_cast<void*>(&response), bytes.data(), sizeof(response));
    return response;
  }

  MemResponseType Ask(MemRequestType type, uint64_t block, uint16_t blocks) {
    return static_cast<MemResponseType>(
        Send(Wire(type, kStart + block * kBlock, blocks)).type.value());
  }

  MemResponseType Plug(uint64_t block, uint16_t blocks) {
    return Ask(MemRequestType::kPlug, block, blocks);
  }

  MemResponseType Unplug(uint64_t block, uint16_t blocks) {
    return Ask(MemRequestType::kUnplug, block, blocks);
  }

  MemResponseType UnplugAll() { return Ask(MemRequestType::kUnplugAll, 0, 0); }

  // Nothing when the request is refused.
  std::optional<MemBlockState> State(uint64_t block, uint16_t blocks) {
    const MemResponse response =
        Send(Wire(MemRequestType::kState, kStart + block * kBlock, blocks));
    if (response.type != static_cast<uint16_t>(MemResponseType::kAck)) {
      return std::nullopt;
    }
    return static_cast<MemBlockState>(response.state.value());
  }

  MemConfig Config() { return rig_->Config<MemConfig>(0); }

 private:
  std::shared_ptr<BackingLog> log_ = std::make_shared<BackingLog>();
  MemDevice* device_ = nullptr;
  std::unique_ptr<DeviceRig> rig_;
};

}  // namespace wyvern::devices::testing
