// A guest that writes anywhere in a virtio-pci function: configuration space, common configuration,
// MSI-X, notifications.
// Input:   records of 12 B: operation, size exponent, 2 B offset, 8 B value.
#include "transport/pci_transport.h"
#include "transport/testing/pci_guest.h"
#include "virtio/testing/fake_device.h"
#include "virtio/testing/guest_ram.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::transport::PciTransport;
  using wyvern::virtio::testing::FakeDevice;
  static wyvern::virtio::testing::GuestRam ram(uint64_t{1} << 20U);
  wyvern::transport::testing::PciGuest guest;
  auto device = std::make_unique<FakeDevice>(std::vector<uint16_t>{64, 128});
  FakeDevice* raw = device.get();
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
        guest.mmio.Write(guest.bar + offset % 56U, bytes);
        break;
      case 5:
        for (auto& [index, running] : raw->running) {
          auto chain = running.queue->Pop();
          if (chain && *chain) {
            running.queue->Push(std::move(**chain), 0);
            running.resources.interrupt->SignalQueue(index);
          }
        }
        break;
      case 6:
        raw->Break();
        break;
      default:
        (void)(*made)->core().Pause();
        (void)(*made)->core().Resume();
        break;
    }
  }
  return 0;
}
