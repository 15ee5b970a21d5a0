// fs/fuzz_ring.h — a ring of the virtio-fs device as fs_device_fuzz drives it, and the answers it is
// owed as long as its driver keeps the rules.
// Promise: each request that a ring has made comes back once, under its own number, or without an
//          answer; from Distrust on nothing is promised.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "base/check.h"
#include "base/event_fd.h"
#include "fs/fuse_abi.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::fs {

template <typename T>
std::string Bytes(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}

template <typename T>
T Parse(const std::string& bytes) {
  T value{};
  std::memcpy(&value, bytes.data(), std::min(sizeof(T), bytes.size()));
  return value;
}

struct FuzzRequest {
  uint32_t opcode = 0;
  uint64_t node = FUSE_ROOT_ID;
  std::string body;
  uint32_t room = 0;

  // Header and body.
  std::string Encode(uint64_t unique) const {
    fuse_in_header header{};
    header.len = static_cast<uint32_t>(sizeof(header) + body.size());
    header.opcode = opcode;
    header.nodeid = node;
    header.unique = unique;
    return Bytes(header) + body;
  }
};

class FuzzRing {
 public:
  // How a request is made.
  static constexpr uint8_t kIndirectTable = 1;
  static constexpr uint8_t kPieces = 2;
  static constexpr uint8_t kNoRoom = 4;
  static constexpr uint8_t kKeepQuiet = 16;  // the next request goes with it

  void Renew(virtio::testing::GuestRam& ram, uint16_t size, uint64_t features) {
    driver_ = std::make_unique<virtio::testing::FakeDriver>(ram, size, features);
    honest_ = true;
    owed_.clear();
  }

  virtio::testing::FakeDriver& driver() { return *driver_; }

  bool honest() const { return honest_; }

  void Distrust() {
    honest_ = false;
    owed_.clear();
  }

  bool Room() {
    Collect();
    return driver_->free_descriptors() >= kDescriptors;
  }

  // Precondition: Room.
  void Submit(const FuzzRequest& request, uint64_t unique, uint8_t flags) {
    const std::string bytes = request.Encode(unique);
    auto build = driver_->Build();
    if ((flags & kIndirectTable) != 0) {
      build.Indirect();
    }
    const size_t step = (flags & kPieces) != 0 ? bytes.size() / 3 + 1 : bytes.size();
    for (size_t at = 0; at < bytes.size(); at += step) {
      build.Readable(std::string_view(bytes).substr(at, step));
    }
    if ((flags & kNoRoom) == 0) {
      build.Writable(sizeof(fuse_out_header));
      if (request.room > 0) {
        build.Writable(request.room);
      }
    }
    const uint16_t head = build.Submit();
    if (honest_) {
      const bool fresh = owed_.emplace(head, Owed{unique, request.opcode}).second;
      WV_CHECK(fresh);
    }
    if ((flags & kKeepQuiet) == 0) {
      KickIfAsked();
    }
  }

  // Takes what the device has used; true if there was something.
  bool Collect() {
    bool any = false;
    for (int i = 0; i < 1 << 10; ++i) {
      const auto used = driver_->TakeUsed();
      if (!used) {
        break;
      }
      any = true;
      if (honest_) {
        CheckAnswer(*used);
      }
    }
    return any;
  }

  bool Owes(bool waits_too) const {
    return std::ranges::any_of(
        owed_, [&](const auto& entry) { return waits_too || entry.second.opcode != FUSE_SETLKW; });
  }

  void KickIfAsked() {
    if (driver_->ShouldNotify()) {
      kick.Signal();
    }
  }

  EventFd kick = *EventFd::Create();
  bool running = false;

 private:
  static constexpr uint16_t kDescriptors = 5;  // of a chain, at most

  struct Owed {
    uint64_t unique = 0;
    uint32_t opcode = 0;
  };

  void CheckAnswer(const virtio::testing::Used& used) {
    const auto owed = owed_.extract(used.head);
    WV_CHECK(!owed.empty());
    if (used.written == 0) {
      return;  // no answer, or no room for one
    }
    WV_CHECK(used.written >= sizeof(fuse_out_header));
    const auto reply = Parse<fuse_out_header>(driver_->Written(used.head, used.written));
    WV_CHECK(reply.len == used.written && reply.unique == owed.mapped().unique);
    WV_CHECK(reply.error <= 0 && reply.error > -4096);
  }

  std::unique_ptr<virtio::testing::FakeDriver> driver_;
  bool honest_ = true;
  std::map<uint16_t, Owed> owed_;  // by head; of an honest driver
};

}  // namespace wyvern::fs
