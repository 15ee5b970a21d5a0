// virtio/fuzz_chain.h — what the queue's fuzz targets share: memory, and a device that uses all of a
// chain.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/check.h"
#include "virtio/queue.h"

namespace wyvern::virtio {

inline constexpr uint64_t kFuzzBase = 0x1000;
inline constexpr uint64_t kFuzzSize = 0x4000;

// The same memory each time, zeroed.
inline std::shared_ptr<const mem::GuestMemory> FuzzMemory() {
  static const auto memory = [] {
    std::vector<mem::RegionSpec> specs;
    specs.push_back({.start = mem::Gpa{kFuzzBase}, .size = kFuzzSize});
    auto made = mem::GuestMemory::Create(std::move(specs));
    WV_CHECK(made.has_value());
    return *std::move(made);
  }();
  static const std::vector<std::byte> zero(kFuzzSize);
  (void)memory->WriteBytes(mem::Gpa{kFuzzBase}, zero);
  return memory;
}

inline void UseChain(Chain& chain) {
  uint64_t readable = 0;
  for (const auto& buffer : chain.readable()) {
    readable += buffer.length;
  }
  WV_CHECK(readable == chain.readable_length());
  std::byte block[64];
  (void)chain.Read(0, block);
  (void)chain.Write(chain.writable_length() / 2, block);
  std::vector<iovec> parts;
  (void)chain.ReadableIovecs(1, chain.readable_length(), &parts);  // one byte too many
  WV_CHECK(parts.empty());
  WV_CHECK(chain.WritableIovecs(0, chain.writable_length(), &parts).has_value());
  uint64_t total = 0;
  for (const iovec& part : parts) {
    total += part.iov_len;
  }
  WV_CHECK(total == chain.writable_length());
}

}  // namespace wyvern::virtio
