// A hostile driver of the balloon, and an owner who changes his mind.
// Input:   records of 8 B: operation, count, 2 B page, 4 B value. The first operation also says
//          which features the driver refuses (bits 0-5) and what rings it has (bit 7: packed).
#include "balloon/testing/balloon_guest.h"
#include "testing/fuzz_records.h"

namespace {

using wyvern::devices::HintedRange;
using wyvern::devices::testing::BalloonGuest;
using wyvern::devices::testing::ForEachRecord;
using wyvern::devices::testing::RingKind;

struct Record {
  uint8_t operation;
  uint8_t count;
  uint16_t page;
  uint32_t value;
};

BalloonGuest* MakeGuest() {
  wyvern::devices::BalloonOptions options;
  options.on_hints = [](uint32_t command, std::span<const HintedRange> pages) {
    // What the owner hears is RAM, and belongs to a command.
    WV_CHECK(command >= 2 && !pages.empty());
    WV_CHECK(pages.back().length % 4096 == 0);
  };
  options.on_hints_end = [](uint32_t command) { WV_CHECK(command >= 2); };
  return new BalloonGuest(std::move(options));
}

// One buffer in `queue`: readable or writable, of one part or several.
void Submit(BalloonGuest& guest, const Record& record) {
  const auto queue = static_cast<uint16_t>((record.operation & 0x0fU) % 5);
  auto& driver = guest.rig().queue(queue);
  if (driver.free_descriptors() < 8) {
    (void)guest.rig().WaitMaybe(queue, std::chrono::milliseconds(1));
    if (driver.free_descriptors() < 8) {
      return;
    }
  }
  auto build = driver.Build();
  if ((record.operation & 0x20U) != 0) {
    build.Indirect();
  }
  // Pages 0x400..0x7ff, the rings are far below.
  const uint64_t address =
      (0x400 + record.page % 0x400) * uint64_t{4096} + (record.value % 16 == 0 ? 1 : 0);
  if ((record.operation & 0x40U) != 0) {
    for (unsigned i = 0; i < 1 + record.count % 3U; ++i) {
      build.WritableAt(wyvern::mem::Gpa{address + i * uint64_t{record.value % 3} * 4096},
                       record.value % 70000 + 1);
    }
  } else if (queue == BalloonGuest::kStats) {
    build.Readable(BalloonGuest::Stat(static_cast<uint16_t>(record.page % 20), record.value) +
                   std::string(record.count % 12, 's'));
  } else {
    std::vector<uint32_t> pages(1 + record.count);
    for (uint32_t i = 0; i < pages.size(); ++i) {
      pages[i] =
          (record.operation & 0x80U) != 0 ? record.value : record.page + i * (record.value % 3);
    }
    build.Readable(BalloonGuest::Numbers(pages).substr(record.value % 5 == 0 ? 1 : 0));
  }
  build.Submit();
  guest.rig().KickAlways(queue);
}

// Stops for a snapshot, which another device takes if it has the right version; the guest's memory may
// be more afterwards.
void Snapshot(BalloonGuest& guest, const Record& record) {
  static const auto larger = [&guest] {
    wyvern::mem::RegionSpec region;
    region.start = wyvern::mem::Gpa{uint64_t{4} << 30U};
    region.size = 4096;
    region.read_only = true;  // no RAM
    return *guest.rig().ram().memory()->WithRegion(std::move(region));
  }();
  auto& core = guest.rig().core();
  (void)core.Pause();
  if ((record.count & 1U) != 0) {
    auto state = guest.device().state();
    state.version += record.count >> 7U;
    state.last_hint_command = record.value;
    wyvern::devices::BalloonOptions options;
    options.worker = {.name = "other", .on_thread_start = nullptr};
    options.deflate_on_oom = (record.count & 2U) != 0;
    options.page_reporting = (record.count & 4U) != 0;
    options.resume = state;
    const auto made = wyvern::devices::BalloonDevice::Create(std::move(options));
    WV_CHECK(made.has_value() == (record.count >> 7U == 0));
    WV_CHECK(!made || (*made)->actual() == guest.device().actual());
  }
  WV_CHECK(core.Resume().has_value());
  if ((record.count & 8U) != 0) {
    WV_CHECK(core.GrowMemory((record.count & 16U) != 0 ? larger : guest.rig().ram().memory()));
  }
}

void Owner(BalloonGuest& guest, const Record& record) {
  switch (record.page % 6) {
    case 0:
      (void)guest.device().SetTarget(uint64_t{record.value} * 4096 + (record.count & 1U));
      break;
    case 1:
      (void)guest.device().StartHinting();
      break;
    case 2:
      guest.device().StopHinting();
      break;
    case 3:
      guest.device().FinishHinting();
      break;
    case 4:
      if (record.count == 0) {
        guest.device().RequestStats();
      } else {
        guest.device().SetStatsInterval(std::chrono::milliseconds(record.count % 4));
      }
      break;
    default:
      Snapshot(guest, record);
      break;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static auto* guest = MakeGuest();
  const uint64_t mark = guest->rig().ram().Mark();
  guest->rig().UseRing(size > 0 && (data[0] & 0x80U) != 0 ? RingKind::kPacked : RingKind::kSplit);
  guest->rig().Start(size > 0 ? uint64_t{data[0]} & 0x3fU : 0);
  ForEachRecord<Record>({data, size}, 64, [](const Record& record) {
    if (record.operation % 16 == 15) {
      Owner(*guest, record);
    } else if (record.operation % 16 == 14) {
      guest->rig().core().WriteConfig(record.page % 20, std::as_bytes(std::span(&record.value, 1)));
    } else {
      Submit(*guest, record);
    }
  });
  guest->rig().core().WriteStatus(0);
  guest->device().SetStatsInterval(std::chrono::milliseconds(0));
  guest->rig().core().SetMemory(guest->rig().ram().memory());
  guest->rig().ram().Release(mark);
  return 0;
}
