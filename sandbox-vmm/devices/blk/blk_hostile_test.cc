// Drivers that ask for what is not theirs.
#include <gtest/gtest.h>

#include "blk/testing/blk_rig.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;
using virtio::testing::GuestRam;
using virtio::testing::kNext;
using virtio::testing::kWrite;

constexpr uint64_t kSectors = BlkRig::kDiskSize / 512;

class BlkHostileTest : public ::testing::Test {
 protected:
  BlkHostileTest() { rig_.device().Start(); }

  BlkRig rig_{EngineKind::kUring};
};

TEST_F(BlkHostileTest, Ch376434a69_ChainThatRunsPastTheEndIsAnIoError) {
  EXPECT_EQ(rig_.Request(BlkType::kIn, kSectors - 1, "", 1024), BlkStatus::kIoError);
  EXPECT_EQ(rig_.Write(kSectors - 1, std::string(1024, 'x')), BlkStatus::kIoError);
  EXPECT_EQ(rig_.OnDisk(BlkRig::kDiskSize - 512, 512), std::string(512, '\0'));
  // Each piece lies inside, the chain as a whole does not.
  auto build = rig_.device().queue(0).Build();
  build.Readable(BlkRig::Header(BlkType::kOut, kSectors - 1));
  build.Readable(std::string(512, 'x')).Readable(std::string(512, 'x'));
  const uint16_t head = build.Writable(1).Submit();
  rig_.device().Kick(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(rig_.device().queue(0).Written(head, 1)[0], 1);
  EXPECT_EQ(rig_.OnDisk(BlkRig::kDiskSize - 512, 512), std::string(512, '\0'));
}

TEST_F(BlkHostileTest, SectorNumbersThatOverflowAreIoErrors) {
  for (const uint64_t sector :
       {kSectors, ~uint64_t{0}, uint64_t{1} << 55U, (uint64_t{1} << 55U) - 1, uint64_t{1} << 63U}) {
    EXPECT_EQ(rig_.Request(BlkType::kIn, sector, "", 512), BlkStatus::kIoError) << sector;
  }
}

TEST_F(BlkHostileTest, LengthsThatAreNoSectorsAreIoErrors) {
  EXPECT_EQ(rig_.Request(BlkType::kIn, 0, "", 511), BlkStatus::kIoError);
  EXPECT_EQ(rig_.Write(0, "short"), BlkStatus::kIoError);
}

TEST_F(BlkHostileTest, UnknownTypesAreUnsupported) {
  // SCSI passthrough (2, 3; CVE-2026-48914 in QEMU), legacy barrier, and nonsense.
  for (const uint32_t type : {2U, 3U, 11U, 13U, 0x80000000U, 0xffffffffU}) {
    EXPECT_EQ(rig_.Request(static_cast<BlkType>(type), 0, "", 512), BlkStatus::kUnsupported);
  }
}

TEST_F(BlkHostileTest, HeaderThatIsTooShortIsAnIoError) {
  auto& driver = rig_.device().queue(0);
  const uint16_t head = driver.Build().Readable("short").Writable(513).Submit();
  const uint16_t none = driver.Build().Writable(513).Submit();
  rig_.device().Kick(0);
  rig_.device().WaitUsed(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(driver.Written(head, 513).back(), 1);
  EXPECT_EQ(driver.Written(none, 513).back(), 1);
}

TEST_F(BlkHostileTest, ChainWithoutStatusByteComesBackEmpty) {
  rig_.device()
      .queue(0)
      .Build()
      .Readable(BlkRig::Header(BlkType::kOut, 0) + std::string(512, 'x'))
      .Submit();
  rig_.device().Kick(0);
  EXPECT_EQ(rig_.device().WaitUsed(0).written, 0U);
  EXPECT_EQ(rig_.OnDisk(0, 512), std::string(512, '\0'));
  EXPECT_EQ(rig_.device().counter("bad_requests"), 1U);
}

TEST_F(BlkHostileTest, GetIdWithLittleRoomIsCut) {
  std::string id;
  EXPECT_EQ(rig_.Request(BlkType::kGetId, 0, "", 4, &id), BlkStatus::kOk);
  EXPECT_EQ(id, "disk");
  EXPECT_EQ(rig_.Request(BlkType::kGetId, 0, "", 0, &id), BlkStatus::kOk);
}

TEST_F(BlkHostileTest, Cve202645782_SameHeadTwiceInFlightNeedsReset) {
  auto& driver = rig_.device().queue(0);
  const uint16_t head =
      driver.Build().Readable(BlkRig::Header(BlkType::kIn, 0)).Writable(4096).Writable(1).Place();
  driver.MakeAvailable(head);
  driver.MakeAvailable(head);
  rig_.device().KickAlways(0);
  // Whether the first was done in time is a race; what matters is that nothing is used twice, and
  // that a reset works.
  rig_.device().WaitUsed(0);
  rig_.device().Start();
  EXPECT_EQ(rig_.Read(0, 512).size(), 512U);
}

TEST_F(BlkHostileTest, DragonballA957054dd3_BufferThatEndsOutsideMemoryNeedsReset) {
  auto& driver = rig_.device().queue(0);
  const mem::Gpa header = rig_.device().ram().Put(BlkRig::Header(BlkType::kIn, 0));
  driver.WriteDescriptor(0, {mem::Raw(header), 16, kNext, 1});
  driver.WriteDescriptor(
      1, {GuestRam::kBase + testing::DeviceRig::kRamSize - 512, 4096, kNext | kWrite, 2});
  driver.WriteDescriptor(2, {GuestRam::kBase + 4096, 1, kWrite, 0});
  driver.MakeAvailable(0);
  rig_.device().KickAlways(0);
  EXPECT_TRUE(rig_.device().WaitNeedsReset());
  EXPECT_EQ(rig_.device().counter("reads"), 0U);
}

TEST(BlkReadOnlyTest, Cve202646695_WritesToAReadOnlyDiskAreIoErrorsOnTheHost) {
  BlkRig rig(EngineKind::kPool, true);
  EXPECT_NE(rig.device().core().device_features() & (uint64_t{1} << 5U), 0U);
  rig.device().Start(uint64_t{1} << 5U);  // a driver that does not even look
  EXPECT_EQ(rig.Write(0, std::string(512, 'x')), BlkStatus::kIoError);
  EXPECT_EQ(rig.OnDisk(0, 512), std::string(512, '\0'));
  EXPECT_EQ(rig.Read(0, 512), std::string(512, '\0'));
  EXPECT_EQ(rig.Request(BlkType::kFlush, 0, "", 0), BlkStatus::kOk);
}

}  // namespace
}  // namespace wyvern::devices
