// fs/testing/fuse_guest.h — the driver of a virtio-fs device over its rings: hiprio and request
// queues. As Linux it notifies only when the device asks for it and asks for an interrupt only when
// it is about to wait, so what a device forgets to ask for shows.
// Threads: one.
#pragma once

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fs/fuse_abi.h"
#include "virtio/device.h"
#include "virtio/testing/fake_driver.h"
#include "virtio/testing/fake_interrupt.h"

namespace wyvern::fs::testing {

// A guest, as far as a file system needs one.
class FuseGuest {
 public:
  static constexpr uint64_t kFeatures =
      virtio::kVersion1 | virtio::kRingIndirectDesc | virtio::kRingEventIdx;

  // `features`: of the rings, also packed ones.
  explicit FuseGuest(uint16_t request_queues = 1, uint64_t features = kFeatures) : ram_(8 << 20) {
    for (uint16_t i = 0; i <= request_queues; ++i) {
      rings_.push_back({virtio::testing::FakeDriver(ram_, 64, features), *EventFd::Create()});
    }
    after_rings_ = ram_.Allocate(0, 4096);
  }

  // `resume`: where every request queue goes on.
  Result<> Start(virtio::VirtioDevice& device, std::optional<virtio::QueueState> resume = {}) {
    uint16_t index = 0;
    for (const Ring& ring : rings_) {
      WV_TRY_VOID(StartOne(device, index, ring, index == 0 ? std::nullopt : resume));
      ++index;
    }
    return {};
  }

  void Stop(virtio::VirtioDevice& device) {
    for (size_t i = 0; i < rings_.size(); ++i) {
      rings_[i].left = device.StopQueue(static_cast<uint16_t>(i));
    }
  }

  // Every queue where it stopped, in `memory` where that is another one.
  Result<> Resume(virtio::VirtioDevice& device,
                  std::shared_ptr<const mem::GuestMemory> memory = nullptr) {
    if (memory != nullptr) {
      memory_ = std::move(memory);
    }
    for (size_t i = 0; i < rings_.size(); ++i) {
      WV_TRY_VOID(StartOne(device, static_cast<uint16_t>(i), rings_[i], rings_[i].left));
    }
    return {};
  }

  // The request queue, 1…, that Call, Submit and what is made of them use.
  void UseQueue(uint16_t index) { queue_ = index; }

  // The reply's payload; "<no answer>" if there is none in time.
  std::string Call(uint32_t opcode, uint64_t node, const std::string& body, uint32_t room,
                   int* error = nullptr) {
    return Await(Submit(opcode, node, body, room), error);
  }

  // A request whose answer Await takes, from the same queue.
  uint16_t Submit(uint32_t opcode, uint64_t node, const std::string& body, uint32_t room) {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.nodeid = node;
    header.unique = ++unique_;
    const std::string head(reinterpret_cast<const char*>(&header), sizeof(header));
    Ring& ring = rings_.at(queue_);
    ring.seen = interrupt_->queue_signals(queue_);
    const uint16_t at = ring.driver.Build()
                            .Readable(head + body)
                            .Writable(sizeof(fuse_out_header))
                            .Writable(room)
                            .Indirect()
                            .Submit();
    if (ring.driver.ShouldNotify()) {
      ring.kick.Signal();
    }
    return at;
  }

  std::string Await(uint16_t at, int* error = nullptr) {
    const std::optional<virtio::testing::Used> used = AwaitUsed();
    if (!used) {
      return "<no answer>";
    }
    if (used->head != at) {
      return "<another answer>";
    }
    const std::string reply = rings_.at(queue_).driver.Written(at, used->written);
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

  // A read of 4096 bytes, submitted.
  uint16_t SubmitRead(uint64_t node, uint64_t handle) {
    fuse_read_in read{};
    read.fh = handle;
    read.size = 4096;
    return Submit(FUSE_READ, node, Bytes(read), 4096);
  }

  // The file's node and the handle of it that is open.
  std::pair<uint64_t, uint64_t> OpenFile(const std::string& name) {
    const std::string entry = Call(FUSE_LOOKUP, 1, name + '\0', sizeof(fuse_entry_out));
    fuse_entry_out found{};
    std::memcpy(&found, entry.data(), std::min(entry.size(), sizeof(found)));
    const std::string opened = Call(FUSE_OPEN, found.nodeid, Bytes(fuse_open_in{}), 16);
    uint64_t handle = 0;
    std::memcpy(&handle, opened.data(), std::min(opened.size(), sizeof(handle)));
    return {found.nodeid, handle};
  }

  std::string ReadFile(const std::string& name) {
    const auto [node, handle] = OpenFile(name);
    return Await(SubmitRead(node, handle));
  }

  // fuse_in_header.unique of the last request.
  uint64_t last_unique() const { return unique_; }

  virtio::testing::GuestRam& ram() { return ram_; }

  // Where the rings end and requests begin; a page's start.
  mem::Gpa ram_after_rings() const { return after_rings_; }

  uint64_t features() const { return rings_.front().driver.features(); }

  const virtio::testing::FakeInterrupt& interrupt() const { return *interrupt_; }

 private:
  struct Ring {
    virtio::testing::FakeDriver driver;
    EventFd kick;
    uint64_t seen = 0;  // interrupts before the last request
    std::optional<virtio::QueueState> left{};
  };

  // A back-end may signal without a reason: QEMU's does when it gets the eventfd.
  std::optional<virtio::testing::Used> AwaitUsed() {
    Ring& ring = rings_.at(queue_);
    for (;;) {
      // Looked for first: one signal may have been for two.
      if (auto used = ring.driver.TakeUsed()) {
        return used;
      }
      // Asked for, then looked at once more: the device does the reverse.
      ring.driver.SetUsedEvent(ring.driver.UsedIndexInRing());
      std::atomic_thread_fence(std::memory_order_seq_cst);
      if (auto used = ring.driver.TakeUsed()) {
        return used;
      }
      if (!interrupt_->WaitQueue(queue_, ring.seen)) {
        return std::nullopt;
      }
      ring.seen = interrupt_->queue_signals(queue_);
    }
  }

  Result<> StartOne(virtio::VirtioDevice& device, uint16_t index, const Ring& ring,
                    std::optional<virtio::QueueState> resume) {
    virtio::QueueResources resources;
    resources.memory = memory_;
    resources.config = ring.driver.config();
    resources.kick = ring.kick.fd();
    resources.interrupt = interrupt_;
    return device.StartQueue(index, std::move(resources), ring.driver.features(), resume);
  }

  virtio::testing::GuestRam ram_;
  std::shared_ptr<const mem::GuestMemory> memory_ = ram_.memory();
  std::vector<Ring> rings_;  // 0: hiprio
  mem::Gpa after_rings_{};
  uint16_t queue_ = 1;
  std::shared_ptr<virtio::testing::FakeInterrupt> interrupt_ =
      std::make_shared<virtio::testing::FakeInterrupt>();
  uint64_t unique_ = 0;
};

}  // namespace wyvern::fs::testing
