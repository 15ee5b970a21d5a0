// lifecycle/device_kinds.h — every device, and requests that it answers: what the suites run over.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <vector>

#include "testing/guest_transport.h"
#include "virtio/device.h"
#include "virtio/testing/fake_driver.h"

namespace wyvern::devices {

// A request that comes back: its queue, the request (submitted; its head), and how many bytes the
// device says to have written.
struct KindRequest {
  uint16_t queue = 0;
  std::function<uint16_t(virtio::testing::FakeDriver&)> submit;
  uint32_t written = 0;
};

struct MadeDevice {
  std::unique_ptr<virtio::VirtioDevice> device;
  // The host does what the buffer of `Kind::received` waits for; while `device` lives.
  std::function<void()> from_host;
  // Where the kind has a vhost-user front-end of its own.
  testing::FrontendMaker frontend{};
};

// A new device is one more of these in device_kinds.cc.
struct Kind {
  const char* name = "";
  std::function<MadeDevice()> make;
  // Comes back whatever else happens, also as the first of a driver.
  KindRequest request;
  // What a driver asks for in that order once it is up.
  std::vector<KindRequest> session{};
  // A buffer that comes back when the host has something for the guest; no `submit`: there is none.
  KindRequest received{};
};

std::vector<Kind> Kinds();

// For gtest.
inline void PrintTo(const Kind& kind, std::ostream* out) {
  *out << kind.name;
}

}  // namespace wyvern::devices
