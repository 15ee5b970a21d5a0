#include "testing/guest_transport.h"

#include <poll.h>
#include <unistd.h>

#include "base/check.h"
#include "testing/core_guest.h"

namespace wyvern::devices::testing {

const char* TransportName(TransportKind kind) {
  switch (kind) {
    case TransportKind::kCore:
      return "core";
    case TransportKind::kPci:
      return "pci";
    case TransportKind::kMmio:
      return "mmio";
    case TransportKind::kVhostUser:
      return "vhost_user";
  }
  return "?";
}

std::unique_ptr<GuestTransport> MakeGuestTransport(
    TransportKind kind, std::unique_ptr<virtio::VirtioDevice> device,
    std::shared_ptr<const mem::GuestMemory> memory,
    std::shared_ptr<virtio::testing::FakeInterrupt> interrupt, const FrontendMaker& maker) {
  switch (kind) {
    case TransportKind::kPci:
      return MakePciGuest(std::move(device), std::move(memory));
    case TransportKind::kMmio:
      return MakeMmioGuest(std::move(device), std::move(memory));
    case TransportKind::kVhostUser:
      return MakeVhostUserGuest(std::move(device), std::move(memory), std::move(interrupt), maker);
    case TransportKind::kCore:
      break;
  }
  return std::make_unique<CoreGuest>(std::move(device), std::move(memory), std::move(interrupt));
}

bool TakeEvent(FdRef fd, std::chrono::milliseconds timeout) {
  pollfd poll{.fd = fd.get(), .events = POLLIN, .revents = 0};
  if (::poll(&poll, 1, static_cast<int>(timeout.count())) != 1) {
    return false;
  }
  uint64_t count = 0;
  return ::read(fd.get(), &count, sizeof(count)) == sizeof(count);
}

}  // namespace wyvern::devices::testing
