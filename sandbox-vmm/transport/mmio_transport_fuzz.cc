// A guest that reads and writes anywhere in a virtio-mmio device, beside a device that serves its
// queues, changes its configuration and breaks.
// Input:   records of 12 B: operation, size exponent, 2 B offset, 8 B value.
#include "transport/mmio_transport.h"

#include "transport/testing/mmio_guest.h"
#include "transport/testing/shaped_device.h"
#include "virtio/testing/guest_ram.h"

namespace {

using wyvern::transport::MmioTransport;
using wyvern::transport::testing::MmioGuest;
using wyvern::transport::testing::ShapedDevice;

std::unique_ptr<ShapedDevice> MakeDevice() {
  auto traits = ShapedDevice::Traits();
  traits.queue_sizes = {64, 128};
  traits.shared_memory = {{.id = 0, .length = 4096}};
  return std::make_unique<ShapedDevice>(std::move(traits));
}

// The driver's side of VIRTIO §4.2 that holds whatever has been written.
void CheckInvariants(MmioGuest& guest, const wyvern::irq::testing::FakeLine& line) {
  using wyvern::transport::MmioRegister;
  WV_CHECK(guest.Get(MmioRegister::kMagicValue) == wyvern::transport::kMmioMagic);
  WV_CHECK(line.level == (guest.Get(MmioRegister::kInterruptStatus) != 0));
  WV_CHECK(guest.Get(MmioRegister::kQueueReset) == 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static wyvern::virtio::testing::GuestRam ram(uint64_t{1} << 20U);
  wyvern::irq::testing::FakeLine line;
  MmioGuest guest;
  auto device = MakeDevice();
  ShapedDevice* raw = device.get();
  wyvern::transport::MmioPlace place;
  place.address = MmioGuest::kBase;
  place.shared_memory.emplace(uint8_t{0}, wyvern::mem::Gpa{0x100000});
  wyvern::irq::DoorbellRegistry* doorbells = size % 2 == 0 ? &guest.doorbells : nullptr;
  auto made =
      MmioTransport::Create(std::move(device), ram.memory(), line, doorbells, std::move(place));
  WV_CHECK(made.has_value());
  guest.Plug(*made);
  std::byte value[8] = {};
  for (; size >= 12; data += 12, size -= 12) {
    uint16_t offset = 0;
    std::memcpy(&offset, data + 2, 2);
    std::memcpy(value, data + 4, 8);
    const auto bytes = std::span(value).first(size_t{1} << (data[1] & 3U));
    uint32_t word = 0;
    std::memcpy(&word, value, sizeof(word));
    switch (data[0] & 7U) {
      case 0:
        guest.bus.Write(MmioGuest::kBase + (offset & 0xfffU), bytes);
        break;
      case 1:
        guest.bus.Read(MmioGuest::kBase + (offset & 0xfffU), bytes);
        break;
      case 2:  // registers, densely
      case 3:
        guest.Write(uint64_t{offset} % 0x100 / 4 * 4, wyvern::Le32(word));
        break;
      case 4:
        guest.Ring(word);
        break;
      case 5:
        raw->Serve();
        break;
      case 6:
        raw->config[offset % raw->config.size()] = value[0];
        if ((data[1] & 4U) != 0) {
          raw->Break();
        }
        break;
      default:
        (void)(*made)->core().Pause();
        (void)(*made)->core().Resume();
        break;
    }
    CheckInvariants(guest, line);
  }
  return 0;
}
