// A hostile driver of the block device, and an owner who resizes it meanwhile.
// Input:   records of 17 B: 1 B what (bits 0-1), chain (bit 2 indirect, bits 4-7 pieces), queue
//          (bit 3); then for a request 4 B type, 8 B sector, 2 B data length, 2 B room; its data is
//          what follows in the input, as long as there is any. Otherwise: a write to the
//          configuration, a new size of the disk, a stop and start of the queue.
//          The first byte also says which features the driver refuses (bits 4-6) and what rings it
//          has (bit 7: packed).
#include <algorithm>

#include "blk/testing/blk_rig.h"

namespace {

using wyvern::devices::BlkType;
using wyvern::devices::testing::BlkRig;
using wyvern::devices::testing::EngineKind;

constexpr size_t kRecord = 17;
constexpr uint16_t kDescriptorsOfARequest = 40;
constexpr uint64_t kMemory = uint64_t{12} << 20;  // of the guest's 16 MiB, for one input

struct Record {
  explicit Record(const uint8_t* at) : what(at[0]) {
    std::memcpy(&type, at + 1, 4);
    std::memcpy(&sector, at + 5, 8);
    std::memcpy(&length, at + 13, 2);
    std::memcpy(&room, at + 15, 2);
  }

  uint16_t queue() const { return (what >> 3U) & 1U; }

  uint8_t what;
  uint32_t type = 0;
  uint64_t sector = 0;
  uint16_t length = 0;
  uint16_t room = 0;
};

// False: the ring is full and nothing comes back.
bool SendRequest(BlkRig& rig, const Record& record, std::string_view follows) {
  auto& driver = rig.device().queue(record.queue());
  if (driver.free_descriptors() < kDescriptorsOfARequest) {
    rig.device().KickAlways(record.queue());
    (void)rig.device().WaitMaybe(record.queue(), std::chrono::milliseconds(1));
    if (driver.free_descriptors() < kDescriptorsOfARequest) {
      return false;
    }
  }
  std::string bytes = BlkRig::Header(static_cast<BlkType>(record.type), record.sector);
  bytes += follows.substr(0, record.length);
  bytes.resize(16 + record.length, 'f');
  auto build = driver.Build();
  if ((record.what & 4U) != 0) {
    build.Indirect();
  }
  const size_t step = bytes.size() / (1 + (record.what >> 4U)) + 1;
  for (size_t at = 0; at < bytes.size(); at += step) {
    build.Readable(std::string_view(bytes).substr(at, step));
  }
  if (record.room > 0) {
    build.Writable(record.room);
  }
  build.Submit();
  return true;
}

void DoRecord(BlkRig& rig, const Record& record) {
  auto& core = rig.device().core();
  if ((record.what & 3U) == 1) {
    const auto value = std::as_bytes(std::span(&record.sector, 1));
    core.WriteConfig(record.type % 80, value.first(record.room % 9));
    return;
  }
  if ((record.what & 3U) == 2) {
    (void)rig.blk().Resize(record.sector % (2 * BlkRig::kDiskSize));
    return;
  }
  rig.device().KickAlways(record.queue());
  const auto state = core.StopQueue(record.queue());
  if (state) {
    (void)core.StartQueue(record.queue(), state);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using wyvern::devices::kBlkConfigWce;
  using wyvern::devices::kBlkDiscard;
  using wyvern::devices::kBlkFlush;
  static auto* rig = new BlkRig(EngineKind::kUring, {.queues = 2});
  auto& device = rig->device();
  const uint64_t mark = device.ram().Mark();
  const uint8_t refused = size > 0 ? data[0] >> 4U : 0;
  device.UseRing((refused & 8U) != 0 ? wyvern::devices::testing::RingKind::kPacked
                                     : wyvern::devices::testing::RingKind::kSplit);
  device.Start(((refused & 1U) != 0 ? kBlkFlush : 0) | ((refused & 2U) != 0 ? kBlkConfigWce : 0) |
               ((refused & 4U) != 0 ? kBlkDiscard : 0));
  for (; size >= kRecord && device.ram().Mark() - mark < kMemory;
       data += kRecord, size -= kRecord) {
    const Record record(data);
    if ((record.what & 3U) != 0) {
      DoRecord(*rig, record);
    } else if (!SendRequest(*rig, record,
                            {reinterpret_cast<const char*>(data) + kRecord, size - kRecord})) {
      break;
    }
  }
  device.KickAlways(0);
  device.KickAlways(1);
  device.core().WriteStatus(0);
  (void)rig->blk().Resize(BlkRig::kDiskSize);
  device.ram().Release(mark);
  return 0;
}
