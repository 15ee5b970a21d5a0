// A hostile driver of the memory device, an owner who changes his mind and takes snapshots, and a host
// without memory. What is plugged must agree with what the backing was told, whatever is asked.
// Input:   records of 8 B: operation, shape, 2 B block, 2 B count, 2 B of the address or length.
//          Operations from 0xf0 on are a new size, from 0xe0 on a failure of the host, from 0xd0 on a
//          snapshot, others requests. Bit 7 of the first shape: a packed ring.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "base/check.h"
#include "testing/device_rig.h"
#include "testing/fuzz_records.h"
#include "virtio_mem/chunked_backing.h"
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
constexpr uint64_t kChunk = 16 * kBlock;  // the last one is a half

// The machine's half: aborts when it is to map what is mapped, or the reverse.
class CheckedSlots final : public wyvern::devices::MemorySlots {
 public:
  Result<> Map(MemoryRange chunks) override { return Change(chunks, 1); }

  Result<> Unmap(MemoryRange chunks) override { return Change(chunks, 0); }

  Result<> Free(MemoryRange range) override {
    const uint64_t offset = wyvern::mem::Raw(range.start) - kStart;
    WV_CHECK(range.size > 0 && offset < kBlocks * kBlock &&
             range.size <= kBlocks * kBlock - offset);
    return MayFail();
  }

  // The call after `calls` less one; 0: none. One only: a roll-back that fails is not undone.
  void FailIn(unsigned calls) { fails_in_ = calls; }

  bool mapped(uint64_t chunk) const { return mapped_[chunk] != 0; }

 private:
  Result<> MayFail() {
    if (fails_in_ > 0 && --fails_in_ == 0) {
      return wyvern::Fail(wyvern::Code::kResourceExhausted, "no memory");
    }
    return {};
  }

  Result<> Change(MemoryRange chunks, uint8_t mapped) {
    const uint64_t offset = wyvern::mem::Raw(chunks.start) - kStart;
    WV_CHECK(chunks.size > 0 && offset % kChunk == 0);
    const uint64_t end = (offset + chunks.size + kChunk - 1) / kChunk;
    for (uint64_t i = offset / kChunk; i < end; ++i) {
      WV_CHECK(mapped_.at(i) != mapped);
    }
    WV_TRY_VOID(MayFail());
    std::fill(mapped_.begin() + static_cast<ptrdiff_t>(offset / kChunk),
              mapped_.begin() + static_cast<ptrdiff_t>(end), mapped);
    return {};
  }

  std::atomic<unsigned> fails_in_{0};
  std::vector<uint8_t> mapped_ = std::vector<uint8_t>((kBlocks * kBlock + kChunk - 1) / kChunk);
};

// The product's backing. Aborts when it is told to plug what is plugged or unplug what is not, or when
// it does not have those chunks mapped that have something in them.
class CheckedBacking final : public wyvern::devices::MemoryBacking {
 public:
  CheckedBacking() : CheckedBacking(std::make_unique<CheckedSlots>()) {}

  Result<> Plug(MemoryRange range) override {
    Check(range, 0);
    WV_TRY_VOID(inner_.Plug(range));
    return Set(range, 1);
  }

  Result<> Unplug(MemoryRange range) override {
    Check(range, 1);
    WV_TRY_VOID(inner_.Unplug(range));
    return Set(range, 0);
  }

  Result<> UnplugAll() override {
    WV_TRY_VOID(inner_.UnplugAll());
    return Set({.start = wyvern::mem::Gpa{kStart}, .size = kBlocks * kBlock}, 0);
  }

  CheckedSlots& slots() { return *slots_; }

  uint64_t plugged() const {
    return static_cast<uint64_t>(std::ranges::count(plugged_, 1)) * kBlock;
  }

 private:
  explicit CheckedBacking(std::unique_ptr<CheckedSlots> slots)
      : slots_(slots.get()),
        inner_({.region = {.start = wyvern::mem::Gpa{kStart}, .size = kBlocks * kBlock},
                .block_size = kBlock,
                .chunk_size = kChunk},
               std::move(slots)) {}

  void Check(MemoryRange range, uint8_t plugged) const {
    WV_CHECK(range.size > 0 && range.size % kBlock == 0);
    const uint64_t first = (wyvern::mem::Raw(range.start) - kStart) / kBlock;
    WV_CHECK(first + range.size / kBlock <= kBlocks);
    for (uint64_t i = first; i < first + range.size / kBlock; ++i) {
      WV_CHECK(plugged_[i] == plugged);
    }
  }

  Result<> Set(MemoryRange range, uint8_t plugged) {
    const uint64_t first = (wyvern::mem::Raw(range.start) - kStart) / kBlock;
    std::fill_n(plugged_.begin() + static_cast<ptrdiff_t>(first), range.size / kBlock, plugged);
    for (uint64_t block = 0; block < kBlocks; block += kChunk / kBlock) {
      const uint64_t end = std::min(kBlocks, block + kChunk / kBlock);
      const bool used = std::any_of(plugged_.begin() + static_cast<ptrdiff_t>(block),
                                    plugged_.begin() + static_cast<ptrdiff_t>(end),
                                    [](uint8_t each) { return each != 0; });
      WV_CHECK(slots_->mapped(block * kBlock / kChunk) == used);
    }
    return {};
  }

  CheckedSlots* slots_;
  wyvern::devices::ChunkedBacking inner_;
  std::vector<uint8_t> plugged_ = std::vector<uint8_t>(kBlocks);
};

struct Fuzzed {
  CheckedBacking* backing = nullptr;
  MemDevice* device = nullptr;
  std::unique_ptr<DeviceRig> rig;
};

wyvern::devices::MemOptions Options(std::unique_ptr<CheckedBacking> backing) {
  wyvern::devices::MemOptions options;
  options.worker.name = "mem";
  options.region = {.start = wyvern::mem::Gpa{kStart}, .size = kBlocks * kBlock};
  options.block_size = kBlock;
  options.node = 1;
  options.backing = std::move(backing);
  return options;
}

Fuzzed* MakeFuzzed() {
  auto fuzzed = std::make_unique<Fuzzed>();
  auto backing = std::make_unique<CheckedBacking>();
  fuzzed->backing = backing.get();
  auto device = MemDevice::Create(Options(std::move(backing)));
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

// Another device takes what this one saved; with something of it changed only what can be one's.
void Snapshot(Fuzzed& fuzzed, const Record& record) {
  (void)fuzzed.rig->core().Pause();
  auto state = fuzzed.device->state();
  const bool spoilt = (record.shape & 1U) != 0;
  if (spoilt) {
    state.version += record.shape >> 6U & 1U;
    state.usable_size = record.block * (record.extra % 2 == 0 ? kBlock : kBlock / 2);
    state.requested_size = record.count * kBlock;
    state.plugged.at(record.extra % state.plugged.size()) ^= uint64_t{1} << (record.extra % 64U);
  }
  auto backing = std::make_unique<CheckedBacking>();
  const CheckedBacking* told = backing.get();
  backing->slots().FailIn(record.shape >> 5U & 1U);
  auto options = Options(std::move(backing));
  if ((record.shape & 0x10U) == 0) {
    options.resume = std::move(state);
  } else {  // a new one, of any shape
    options.block_size = uint64_t{1} << (record.extra % 64U);
    options.region.size = record.count * kBlock;
    options.requested_size = record.block * kBlock;
  }
  const auto other = MemDevice::Create(std::move(options));
  WV_CHECK(other.has_value() || spoilt || (record.shape & 0x30U) != 0);
  WV_CHECK(!other || (*other)->plugged_size() == told->plugged());
  WV_CHECK(fuzzed.rig->core().Resume().has_value());
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
      (void)fuzzed->device->SetRequestedSize(record.block * kBlock + record.extra);
    } else if (record.operation >= 0xe0) {
      fuzzed->backing->slots().FailIn(record.operation & 3U);
    } else if (record.operation >= 0xd0) {
      Snapshot(*fuzzed, record);
    } else {
      Submit(rig, record);
    }
    rig.KickAlways(0);
  });
  (void)rig.core().Pause();
  fuzzed->backing->slots().FailIn(0);
  WV_CHECK(fuzzed->device->plugged_size() == fuzzed->backing->plugged());
  WV_CHECK(fuzzed->device->UnplugAll().has_value());
  rig.core().WriteStatus(0);
  rig.ram().Release(mark);
  return 0;
}
