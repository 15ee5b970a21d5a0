// fs/testing/fuse_guest.h — the driver of a virtio-fs device over its rings: hiprio and one request
// queue.
// Threads: one.
#pragma once

#include <cstring>
#include <memory>
#include <optional>
#include <string>

#include "fs/fuse_abi.h"
#include "virtio/device.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::fs::testing {

// A guest with one request queue, as far as a file system needs one.
class FuseGuest {
 public:
  static constexpr uint64_t kFeatures = virtio::kVersion1 | virtio::kRingIndirectDesc;

  FuseGuest() : ram_(8 << 20), hiprio_(ram_, 64, kFeatures), requests_(ram_, 64, kFeatures) {}

  Result<> Start(virtio::VirtioDevice& device, std::optional<virtio::QueueState> resume = {}) {
    WV_TRY_VOID(StartOne(device, 0, hiprio_, {}));
    return StartOne(device, 1, requests_, resume);
  }

  // The reply's payload; "<no answer>" if there is none in time.
  std::string Call(uint32_t opcode, uint64_t node, const std::string& body, uint32_t room,
                   int* error = nullptr) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.nodeid = node;
    header.unique = ++unique_;
    const std::string head(reinterpret_cast<const char*>(&header), sizeof(header));
    const uint64_t seen = interrupt_->queue_signals(1);
    const uint16_t at = requests_.Build()
                            .Readable(head + body)
                            .Writable(sizeof(fuse_out_header))
                            .Writable(room)
                            .Indirect()
                            .Submit();
    kicks_[1].Signal();
    const std::optional<virtio::testing::Used> used = AwaitUsed(seen);
    if (!used) {
      return "<no answer>";
    }
    if (used->head != at) {
      return "<another answer>";
    }
    const std::string reply = requests_.Written(at, used->written);
    fuse_out_header out{};
    std::memcpy(&out, reply.data(), std::min(reply.size(), sizeof(out)));
    if (error != nullptr) {
      *error = -out.error;
    }
    return reply.substr(std::min(reply.size(), sizeof(out)));
  }

  template <typename T>
  static std::string Bytes(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof(T)};
  }

  bool Init() {
    fuse_init_in in{};
    in.major = 7;
    in.minor = 38;
    in.flags = FUSE_MAX_PAGES;
    return Call(FUSE_INIT, 0, Bytes(in), 64).size() == 64;
  }

  std::string ReadFile(const std::string& name) {
    const std::string entry = Call(FUSE_LOOKUP, 1, name + '\0', sizeof(fuse_entry_out));
    fuse_entry_out found{};
    std::memcpy(&found, entry.data(), std::min(entry.size(), sizeof(found)));
    const std::string opened = Call(FUSE_OPEN, found.nodeid, Bytes(fuse_open_in{}), 16);
    fuse_read_in read{};
    std::memcpy(&read.fh, opened.data(), std::min(opened.size(), sizeof(read.fh)));
    read.size = 4096;
    return Call(FUSE_READ, found.nodeid, Bytes(read), 4096);
  }

  virtio::testing::GuestRam& ram() { return ram_; }

  const virtio::testing::FakeInterrupt& interrupt() const { return *interrupt_; }

 private:
  // A back-end may signal without a reason: QEMU's does when it gets the eventfd.
  std::optional<virtio::testing::Used> AwaitUsed(uint64_t seen) {
    while (interrupt_->WaitQueue(1, seen)) {
      seen = interrupt_->queue_signals(1);
      if (auto used = requests_.TakeUsed()) {
        return used;
      }
    }
    return std::nullopt;
  }

  Result<> StartOne(virtio::VirtioDevice& device, uint16_t index,
                    virtio::testing::FakeDriver& driver, std::optional<virtio::QueueState> resume) {
    virtio::QueueResources resources;
    resources.memory = ram_.memory();
    resources.config = driver.config();
    resources.kick = kicks_[index].fd();
    resources.interrupt = interrupt_;
    return device.StartQueue(index, std::move(resources), kFeatures, resume);
  }

  virtio::testing::GuestRam ram_;
  virtio::testing::FakeDriver hiprio_;
  virtio::testing::FakeDriver requests_;
  EventFd kicks_[2] = {*EventFd::Create(), *EventFd::Create()};
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
  uint64_t unique_ = 0;
};

}  // namespace wyvern::fs::testing
