// A hostile driver of the block device.
// Input:   records: 1 B shape (indirect, piece size), 4 B type, 8 B sector, 2 B data length, 2 B
// room.
#include "blk/testing/blk_rig.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::devices::testing::BlkRig;
  static auto* rig = new BlkRig(wyvern::devices::testing::EngineKind::kUring);
  auto& device = rig->device();
  const uint64_t mark = device.ram().Mark();
  device.Start(data != nullptr && size > 0 && (data[0] & 2U) != 0 ? uint64_t{1} << 9U : 0);
  auto& driver = device.queue(0);
  for (; size >= 17; data += 17, size -= 17) {
    uint32_t type = 0;
    uint64_t sector = 0;
    uint16_t length = 0;
    uint16_t room = 0;
    std::memcpy(&type, data + 1, 4);
    std::memcpy(&sector, data + 5, 8);
    std::memcpy(&length, data + 13, 2);
    std::memcpy(&room, data + 15, 2);
    if (driver.free_descriptors() < 40) {
      device.KickAlways(0);
      (void)device.WaitMaybe(0, std::chrono::milliseconds(1));
      if (driver.free_descriptors() < 40) {
        break;
      }
    }
    const std::string bytes = BlkRig::Header(static_cast<wyvern::devices::BlkType>(type), sector) +
                              std::string(length, 'f');
    auto build = driver.Build();
    if ((data[0] & 1U) != 0) {
      build.Indirect();
    }
    const size_t step = bytes.size() / (1 + (data[0] >> 4U)) + 1;
    for (size_t at = 0; at < bytes.size(); at += step) {
      build.Readable(std::string_view(bytes).substr(at, step));
    }
    if (room > 0) {
      build.Writable(room);
    }
    build.Submit();
  }
  device.KickAlways(0);
  device.core().WriteStatus(0);
  device.ram().Release(mark);
  return 0;
}
