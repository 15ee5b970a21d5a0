// lifecycle/device_kinds.h — every device, and one request that it answers: what the suites run over.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <vector>

#include "virtio/device.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::devices {

// A new device is one more of these in device_kinds.cc.
struct Kind {
  const char* name = "";
  std::function<std::unique_ptr<virtio::VirtioDevice>()> make;
  // A request that comes back whatever else happens, also as the first of a driver: its queue, the
  // request (submitted; its head), and how many bytes the device says to have written.
  uint16_t queue = 0;
  std::function<uint16_t(virtio::testing::FakeDriver&)> submit;
  uint32_t written = 0;
};

std::vector<Kind> Kinds();

// For gtest.
inline void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}

}  // namespace wyvern::devices
