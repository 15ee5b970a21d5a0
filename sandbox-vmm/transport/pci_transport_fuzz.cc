// A guest that writes anywhere in a virtio-pci function: configuration space, common configuration,
// MSI-X, notifications, shared memory. The device changes its configuration and breaks beside it.
// Input:   records of 12 B: operation, size exponent, 2 B offset, 8 B value.
#include "transport/pci_transport.h"
#include "transport/testing/pci_guest.h"
#include "transport/testing/shaped_device.h"
#include "virtio/testing/guest_ram.h"

namespace {

std::unique_ptr<wyvern::transport::testing::ShapedDevice> MakeDevice() {
  auto traits = wyvern::transport::testing::ShapedDevice::Traits();
  traits.queue_sizes = {64, 128};
  traits.shared_memory = {{.id = 0, .length = 4096}, {.id = 1, .length = uint64_t{1} << 32U}};
  return std::make_unique<wyvern::transport::testing::ShapedDevice>(std::move(traits));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::transport::PciTransport;
  static wyvern::virtio::testing::GuestRam ram(uint64_t{1} << 20U);
  wyvern::transport::testing::PciGuest guest;
  auto device = MakeDevice();
  auto* raw = device.get();
  auto made = PciTransport::Create(std::move(device), ram.memory(), guest.router, guest.doorbells);
  WV_CHECK(made.has_value());
  guest.Plug(*made);
  std::byte value[8] = {};
  for (; size >= 12; data += 12, size -= 12) {
    const size_t length = size_t{1} << (data[1] & 3U);
    uint16_t offset = 0;
    std::memcpy(&offset, data + 2, 2);
    std::memcpy(value, data + 4, 8);
    const auto bytes = std::span(value).first(length);
    const uint64_t config = uint64_t{guest.slot} << 15U | (offset & 0xffU);
    switch (data[0] & 7U) {
      case 0:
        guest.mmio.Write(guest.bar + (offset & 0x7fffU), bytes);
        break;
      case 1:
        guest.mmio.Read(guest.bar + (offset & 0x7fffU), bytes);
        break;
      case 2:
        guest.bus.ecam()->Write(config, bytes);
        break;
      case 3:
        guest.bus.ecam()->Read(config, bytes);
        break;
      case 4:  // the common configuration, densely
        guest.mmio.Write(guest.bar + offset % wyvern::transport::kCommonLength, bytes);
        break;
      case 5:
        raw->Serve();
        break;
      case 6:
        if ((data[0] & 8U) != 0) {
          guest.ResetQueue(offset);
        } else {
          raw->Break();
        }
        raw->config[offset % raw->config.size()] = value[0];
        break;
      default:
        (void)(*made)->core().Pause();
        (void)(*made)->core().Resume();
        break;
    }
  }
  return 0;
}
