// A driver that does its worst to one device: what it costs the process, and the disk beside it.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "lifecycle/device_kinds.h"
#include "testing/device_rig.h"

namespace wyvern::devices {
namespace {

using testing::DeviceRig;
using testing::RingKind;
using virtio::testing::GuestRam;

constexpr uint16_t kSize = 64;
// More than any device keeps, far less than what the chains below claim (4 GiB each).
constexpr uint64_t kBound = uint64_t{24} << 20;

// From /proc/self/status, bytes.
uint64_t StatusField(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    if (word == name) {
      uint64_t kib = 0;
      status >> kib;
      return kib << 10;
    }
  }
  return 0;
}

// VmHWM becomes VmRSS (proc_pid_clear_refs(5)).
void ForgetPeak() {
  std::ofstream("/proc/self/clear_refs") << 5;
}

// One queue full of chains that are as long and as large as the ring allows, all of them over the same
// memory, so that it is neither the driver's nor the ring's cost.
void FillWithTheLongest(DeviceRig& rig, uint16_t queue, uint32_t round) {
  constexpr uint32_t kPiece = DeviceRig::kRamSize / 2;
  virtio::testing::FakeDriver& driver = rig.queue(queue);
  for (int chains = 0; driver.free_descriptors() >= 2 && chains < kSize; ++chains) {
    auto build = driver.Build();
    switch ((round + chains) % 4) {
      case 0:  // one table, 2^32 - 1 bytes at most in all of it
        build.Indirect();
        for (int i = 0; i < 40; ++i) {
          build.ReadableAt(mem::Gpa{GuestRam::kBase}, kPiece);
        }
        break;
      case 1:
        build.Indirect().Readable("0123456789abcdef");
        for (int i = 0; i < 40; ++i) {
          build.WritableAt(mem::Gpa{GuestRam::kBase + kPiece}, kPiece);
        }
        break;
      case 2:  // many small ones
        build.Indirect();
        for (int i = 0; i < kSize; ++i) {
          build.WritableAt(mem::Gpa{GuestRam::kBase + kPiece}, 1);
        }
        break;
      default:
        build.ReadableAt(mem::Gpa{GuestRam::kBase}, kPiece)
            .WritableAt(mem::Gpa{GuestRam::kBase + kPiece}, kPiece);
        break;
    }
    build.Submit();
  }
  rig.KickAlways(queue);
}

class HostileNeighbourTest : public ::testing::TestWithParam<Kind> {
 protected:
  // One life of the device, all of its queues full.
  static void Attack(DeviceRig& rig, uint32_t round) {
    const uint64_t mark = rig.ram().Mark();
    rig.Start(0, kSize);
    for (uint16_t queue = 0; queue < rig.queue_count(); ++queue) {
      FillWithTheLongest(rig, queue, round);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    rig.Reset();
    rig.ram().Release(mark);
  }
};

TEST_P(HostileNeighbourTest, CostsNoMemoryByItsLengthsAndHoldsUpNoOtherDevice) {
  std::vector<Kind> kinds = Kinds();
  const auto disk = std::ranges::find(kinds, std::string_view("blk_pool"), &Kind::name);
  ASSERT_NE(disk, kinds.end());
  DeviceRig neighbour(disk->make().device);
  neighbour.Start();
  DeviceRig rig(GetParam().make().device, {.ring = RingKind::kSplit});
  // Pages that both have touched, and what every life allocates once.
  rig.ram().Fill(mem::Gpa{GuestRam::kBase}, DeviceRig::kRamSize, std::byte{0});
  for (uint32_t round = 0; round < 4; ++round) {
    Attack(rig, round);
  }
  const uint64_t before = StatusField("VmRSS:");
  ASSERT_NE(before, 0U);
  ForgetPeak();

  std::atomic<bool> enough = false;
  std::atomic<uint32_t> rounds = 0;
  std::thread attacker([&] {
    while (!enough) {
      Attack(rig, rounds++);
    }
  });
  int served = 0;
  while (served < 200 || rounds < 20) {
    const uint64_t mark = neighbour.ram().Mark();
    const uint16_t head = disk->request.submit(neighbour.queue(0));
    neighbour.Kick(0);
    EXPECT_EQ(neighbour.WaitUsed(0).head, head);  // aborts the test when none comes
    neighbour.ram().Release(mark);
    ++served;
  }
  enough = true;
  attacker.join();
#ifndef WV_SANITIZED  // what is freed stays, for a while
  const uint64_t peak = StatusField("VmHWM:");
  EXPECT_LT(peak - std::min(peak, before), kBound) << before << " bytes before";
#endif
}

INSTANTIATE_TEST_SUITE_P(Devices, HostileNeighbourTest, ::testing::ValuesIn(Kinds()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace wyvern::devices
