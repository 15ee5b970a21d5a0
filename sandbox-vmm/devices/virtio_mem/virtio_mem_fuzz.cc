// A hostile driver of the memory device, and an owner who changes his mind. What is plugged must
// agree with what the backing was told, whatever is asked.
// Input:   records of 8 B: operation, shape, 2 B block, 2 B count, 2 B of the address or length.
//          Bit 7 of the first shape: a packed ring.
#include <algorithm>
#include <memory>
#include <vector>

#include "base/check.h"
#include "testing/device_rig.h"
#include "testing/fuzz_records.h"
#include "virtio_mem/mem_device.h"

namespace {

using wyvern::Result;
using wyvern::devices::MemDevice;
using wyvern::devices::MemoryRange;
using wyvern::devices::MemRequest;
using wyvern::devices::testing::DeviceRig;
using wyvern::devices::testing::ForEachRecord;
using wyvern::devices::testing::RingKind;

constexpr uint64_t kStart = uint64_t{4} << 30U;
constexpr uint64_t kBlock = uint64_t{2} << 20U;
constexpr uint64_t kBlocks = 200;

// Aborts when it is told to plug what is plugged or unplug what is not.
class CheckedBacking final : public wyvern::devices::MemoryBacking {
 public:
  Result<> Plug(MemoryRange range) override { return Set(range, 1); }

  Result<> Unplug(MemoryRange range) override { return Set(range, 0); }

  Result<> UnplugAll() override {
    std::ranges::fill(plugged_, uint8_t{0});
    return {};
  }

  uint64_t plugged() const {
    return static_cast<uint64_t>(std::ranges::count(plugged_, 1)) * kBlock;
  }

 private:
  Result<> Set(MemoryRange range, uint8_t plugged) {
    WV_CHECK(range.size > 0 && range.size % kBlock == 0);
    const uint64_t first = (wyvern::mem::Raw(range.start) - kStart) / kBlock;
    WV_CHECK(first + range.size / kBlock <= kBlocks);
    for (uint64_t i = first; i < first + range.size / kBlock; ++i) {
      WV_CHECK(plugged_[i] != plugged);
      plugged_[i] = plugged;
    }
    return {};
  }

  std::vector<uint8_t> plugged_ = std::vector<uint8_t>(kBlocks);
};

struct Fuzzed {
  CheckedBacking* backing = nullptr;
  MemDevice* device = nullptr;
  std::unique_ptr<DeviceRig> rig;
};

Fuzzed* MakeFuzzed() {
  auto fuzzed = std::make_unique<Fuzzed>();
  auto backing = std::make_unique<CheckedBacking>();
  fuzzed->backing = backing.get();
  wyvern::devices::MemOptions options;
  options.worker.name = "mem";
  options.region = {.start = wyvern::mem::Gpa{kStart}, .size = kBlocks * kBlock};
  options.block_size = kBlock;
  options.backing = std::move(backing);
  auto device = MemDevice::Create(std::move(options));
  WV_CHECK(device.has_value());
  fuzzed->device = device->get();
  fuzzed->rig = std::make_unique<DeviceRig>(*std::move(device));
  return fuzzed.release();
}

struct Record {
  uint8_t operation;
  uint8_t shape;
  uint16_t block;
  uint16_t count;
  uint16_t extra;
};

void Submit(DeviceRig& rig, const Record& record) {
  auto& driver = rig.queue(0);
  if (driver.free_descriptors() < 4) {
    rig.KickAlways(0);
    (void)rig.WaitMaybe(0, std::chrono::milliseconds(1));
    if (driver.free_descriptors() < 4) {
      return;
    }
  }
  MemRequest request;
  request.type = static_cast<uint16_t>(record.operation % 5);
  request.address = kStart + record.block * kBlock + ((record.shape & 1U) != 0 ? record.extra : 0);
  request.blocks = record.count;
  const std::string_view bytes(reinterpret_cast<const char*>(&request), sizeof(request));
  auto build = driver.Build();
  if ((record.shape & 2U) != 0) {
    build.Indirect();
  }
  build.Readable(bytes.substr(0, (record.shape & 4U) != 0 ? record.extra % 25U : 24));
  build.Writable((record.shape & 8U) != 0 ? 1 + record.extra % 12U : 10);
  build.Submit();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* fuzzed = MakeFuzzed();
  DeviceRig& rig = *fuzzed->rig;
  const uint64_t mark = rig.ram().Mark();
  rig.UseRing(size > 1 && (data[1] & 0x80U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  rig.Start();
  ForEachRecord<Record>({data, size}, 128, [&rig](const Record& record) {
    if (record.operation >= 0xf0) {
      (void)fuzzed->device->SetRequestedSize(record.block * kBlock);
    } else {
      Submit(rig, record);
    }
    rig.KickAlways(0);
  });
  (void)rig.core().Pause();
  WV_CHECK(fuzzed->device->plugged_size() == fuzzed->backing->plugged());
  WV_CHECK(fuzzed->device->UnplugAll().has_value());
  rig.core().WriteStatus(0);
  rig.ram().Release(mark);
  return 0;
}
