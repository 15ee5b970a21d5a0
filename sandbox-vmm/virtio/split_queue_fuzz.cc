// A hostile driver: the input fills the ring's memory, then scripts what driver and device do.
// Input:   1 B log2(queue size) and features, 2 B start index, 4096 B (or less) of ring memory,
// then 1 B operations.
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/check.h"
#include "virtio/feature_bits.h"
#include "virtio/fuzz_chain.h"

using wyvern::mem::Gpa;
using wyvern::virtio::Chain;
using wyvern::virtio::Queue;

namespace {

constexpr uint64_t kBase = wyvern::virtio::kFuzzBase;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) {
    return 0;
  }
  const auto memory = wyvern::virtio::FuzzMemory();
  const wyvern::virtio::QueueConfig config{.size = static_cast<uint16_t>(1U << (data[0] & 7U)),
                                           .descriptor_area = Gpa{kBase},
                                           .driver_area = Gpa{kBase + 0x800},
                                           .device_area = Gpa{kBase + 0xa00}};
  const uint64_t features = ((data[0] & 8U) != 0 ? wyvern::virtio::kRingEventIdx : 0) |
                            ((data[0] & 16U) != 0 ? wyvern::virtio::kRingIndirectDesc : 0) |
                            ((data[0] & 32U) != 0 ? wyvern::virtio::kInOrder : 0);
  const auto start = static_cast<uint16_t>(data[1] | data[2] << 8U);
  data += 3;
  size -= 3;
  const size_t image = size < 4096 ? size : 4096;
  (void)memory->WriteBytes(Gpa{kBase}, std::as_bytes(std::span(data, image)));
  auto queue =
      Queue::Create(memory, config, features,
                    wyvern::virtio::QueueState{.next_available = start, .next_used = start});
  WV_CHECK(queue.has_value());
  std::vector<Chain> held;
  // Without operations of its own an input still pops what its image offers.
  const size_t steps = size > image ? size - image : 64;
  for (size_t i = 0; i < steps; ++i) {
    const uint8_t operation = size > image ? data[image + i] : static_cast<uint8_t>(i % 2);
    switch (operation % 6) {
      case 0: {
        auto popped = (*queue)->Pop();
        if (!popped) {
          break;
        }
        if (std::optional<Chain>& chain = *popped; chain.has_value()) {
          UseChain(*chain);
          held.push_back(std::move(*chain));
          WV_CHECK(held.size() <= config.size);
        }
        break;
      }
      case 1:
        if (!held.empty()) {
          const uint32_t written = held.back().writable_length();
          (*queue)->Push(std::move(held.back()), written);
          held.pop_back();
        }
        break;
      case 2:
        (void)(*queue)->NeedsInterrupt();
        break;
      case 3:
        (*queue)->DisableNotification();
        break;
      case 4:
        (void)(*queue)->EnableNotification();
        break;
      default:
        // The driver changes its index and a descriptor while the device works.
        (void)memory->Write(Gpa{kBase + 0x802}, static_cast<uint16_t>(start + i));
        (void)memory->Write(Gpa{kBase + (operation * 16U) % 2048U}, uint64_t{kBase + operation});
        break;
    }
  }
  queue->reset();
  return 0;
}
