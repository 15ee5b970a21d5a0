// What the configuration says, what the driver may write there, and what the owner may change.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>

#include "blk/testing/blk_rig.h"
#include "blk/testing/held_engine.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;
using testing::HeldIo;

constexpr uint32_t kWritebackAt = 32;
constexpr uint32_t kConfigLength = 60;

void SetWriteback(BlkRig& rig, uint8_t value) {
  const auto byte = static_cast<std::byte>(value);
  rig.device().core().WriteConfig(kWritebackAt, std::span(&byte, 1));
}

TEST(BlkConfigTest, WritableDiskOffersWhatItCanDo) {
  BlkRig rig(EngineKind::kPool);
  const uint64_t features = rig.device().core().device_features();
  const uint64_t offered = kBlkSizeMax | kBlkSegMax | kBlkBlockSize | kBlkFlush | kBlkTopology |
                           kBlkConfigWce | kBlkDiscard | kBlkWriteZeroes;
  EXPECT_EQ(features & 0xffffff, offered);  // bits 0 to 23 are the device's
}

TEST(BlkConfigTest, ReadOnlyDiskOffersNothingThatWrites) {
  BlkRig rig(EngineKind::kPool, {.read_only = true});
  const uint64_t features = rig.device().core().device_features();
  EXPECT_EQ(features & 0xffffff,
            kBlkSizeMax | kBlkSegMax | kBlkBlockSize | kBlkFlush | kBlkTopology | kBlkReadOnly);
  rig.device().Start();
  EXPECT_EQ(rig.device().Config<uint8_t>(kWritebackAt), 0);
  for (uint32_t at = 36; at < kConfigLength; at += 4) {
    EXPECT_EQ(rig.device().Config<Le32>(at), 0U) << at;
  }
}

TEST(BlkConfigTest, MultiQueueIsOfferedWhereThereAreSeveral) {
  BlkRig rig(EngineKind::kPool, {.queues = 4});
  EXPECT_NE(rig.device().core().device_features() & kBlkMultiQueue, 0U);
  EXPECT_EQ(rig.device().core().queue_count(), 4);
  EXPECT_EQ(rig.device().Config<Le16>(34), 4U);
}

TEST(BlkConfigTest, FieldsAreWhereTheSpecificationHasThem) {
  BlkRig rig(EngineKind::kPool);
  testing::DeviceRig& device = rig.device();
  EXPECT_EQ(device.Config<Le64>(0), BlkRig::kDiskSize / 512);
  EXPECT_EQ(device.Config<Le32>(8), BlkDevice::kMaxSegmentSize);
  EXPECT_EQ(device.Config<Le32>(12), BlkDevice::kMaxSegments);  // blk_ring_size_test.cc
  EXPECT_EQ(device.Config<Le32>(16), 0U);                       // geometry: not offered
  EXPECT_EQ(device.Config<Le32>(20), 512U);
  const auto exponent = device.Config<uint8_t>(24);
  EXPECT_EQ(device.Config<uint8_t>(25), 0);
  EXPECT_EQ(device.Config<Le16>(26), 1U << exponent);
  EXPECT_EQ(device.Config<Le32>(28), 0U);
  EXPECT_EQ(device.Config<Le16>(34), 1U);
  EXPECT_EQ(device.Config<Le32>(36), kMaxDiscardSectors);
  EXPECT_EQ(device.Config<Le32>(40), kMaxDiscardRanges);
  EXPECT_EQ(device.Config<Le32>(44), 1U << exponent);
  EXPECT_EQ(device.Config<Le32>(48), kMaxZeroSectors);
  EXPECT_EQ(device.Config<Le32>(52), kMaxZeroRanges);
  EXPECT_EQ(device.Config<uint8_t>(56), 1);
}

TEST(BlkConfigTest, PaddingAndWhatIsPastTheEndReadAsZero) {
  BlkRig rig(EngineKind::kPool);
  EXPECT_EQ(rig.device().Config<uint8_t>(33), 0);  // unused0
  for (uint32_t at = 57; at < 96; ++at) {          // unused1, and fields of other features
    EXPECT_EQ(rig.device().Config<uint8_t>(at), 0) << at;
  }
}

TEST(BlkConfigTest, LargerBlocksAreToldAndOnlyWholeOnesCount) {
  auto file = MakeMemfd("disk", 8192 + 512);
  ASSERT_TRUE(file);
  auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                   .file = *std::move(file),
                                   .read_only = false,
                                   .serial = "",
                                   .ring = nullptr,
                                   .block_size = 4096});
  ASSERT_TRUE(device);
  testing::DeviceRig rig(*std::move(device));
  EXPECT_EQ(rig.Config<Le64>(0), 16U);
  EXPECT_EQ(rig.Config<Le32>(20), 4096U);
}

TEST(BlkConfigTest, OptionsOutOfRangeAreRefused) {
  const auto create = [](uint16_t queues, uint16_t lanes, uint32_t block_size) {
    auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                     .file = *MakeMemfd("disk", 4096),
                                     .read_only = false,
                                     .serial = "",
                                     .ring = nullptr,
                                     .queues = queues,
                                     .block_size = block_size,
                                     .lanes = lanes});
    return device ? Code::kOk : device.error().code();
  };
  EXPECT_EQ(create(1, 1, 512), Code::kOk);
  EXPECT_EQ(create(16, 2, 4096), Code::kOk);
  EXPECT_EQ(create(0, 1, 512), Code::kInvalidArgument);
  EXPECT_EQ(create(17, 1, 512), Code::kInvalidArgument);
  EXPECT_EQ(create(2, 3, 512), Code::kInvalidArgument);
  EXPECT_EQ(create(2, 0, 512), Code::kInvalidArgument);
  EXPECT_EQ(create(1, 1, 0), Code::kInvalidArgument);
  EXPECT_EQ(create(1, 1, 256), Code::kInvalidArgument);
  EXPECT_EQ(create(1, 1, 1000), Code::kInvalidArgument);
  EXPECT_EQ(create(1, 1, 8192), Code::kInvalidArgument);
}

TEST(BlkWritebackTest, BeginsAsTheFeaturesSay) {
  BlkRig rig(EngineKind::kPool);
  rig.device().Prepare();
  EXPECT_EQ(rig.device().Config<uint8_t>(kWritebackAt), 1);
  // VIRTIO §5.2.5.2: CONFIG_WCE without FLUSH begins with 0, before DRIVER_OK already.
  rig.device().Prepare(kBlkFlush);
  EXPECT_EQ(rig.device().Config<uint8_t>(kWritebackAt), 0);
  rig.device().core().WriteStatus(0);
  rig.device().Prepare();
  EXPECT_EQ(rig.device().Config<uint8_t>(kWritebackAt), 1);
}

// How a write that is sent now reaches the file.
IoKind KindOfWrite(BlkRig& rig, HeldIo& io) {
  rig.Submit(BlkType::kOut, 0, std::string(512, 'w'), 0);
  rig.device().KickAlways(0);
  const HeldIo::Piece piece = io.Take();
  piece.finish(512);
  rig.device().WaitUsed(0);
  return piece.kind;
}

TEST(BlkWritebackTest, SwitchDecidesHowWritesAreDone) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  EXPECT_EQ(KindOfWrite(rig, io), IoKind::kWrite);
  SetWriteback(rig, 0);
  EXPECT_EQ(rig.device().Config<uint8_t>(kWritebackAt), 0);
  EXPECT_EQ(KindOfWrite(rig, io), IoKind::kSyncWrite);
  SetWriteback(rig, 1);
  EXPECT_EQ(KindOfWrite(rig, io), IoKind::kWrite);
  // A pause is not a reset.
  SetWriteback(rig, 0);
  (void)rig.device().core().Pause();
  ASSERT_TRUE(rig.device().core().Resume());
  EXPECT_EQ(KindOfWrite(rig, io), IoKind::kSyncWrite);
}

TEST(BlkWritebackTest, WithoutConfigWceFlushDecides) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start(kBlkConfigWce);
  SetWriteback(rig, 0);  // not the driver's to write
  EXPECT_EQ(rig.device().Config<uint8_t>(kWritebackAt), 1);
  EXPECT_EQ(KindOfWrite(rig, io), IoKind::kWrite);
  rig.device().Start(kBlkConfigWce | kBlkFlush);
  EXPECT_EQ(KindOfWrite(rig, io), IoKind::kSyncWrite);
}

TEST(BlkWritebackTest, NothingElseCanBeWritten) {
  BlkRig rig(EngineKind::kPool);
  rig.device().Start();
  std::array<std::byte, 64> before{};
  rig.device().core().ReadConfig(0, before);
  for (const size_t length : {1U, 2U, 4U, 8U, 64U}) {
    const std::vector<std::byte> ones(length, std::byte{1});  // 1 is what writeback has
    for (uint32_t at = 0; at < 70; ++at) {
      rig.device().core().WriteConfig(at, ones);
    }
    rig.device().core().WriteConfig(0xffffffff, ones);
    rig.device().core().WriteConfig(0xffffffe0, ones);
  }
  rig.device().core().WriteConfig(kWritebackAt, {});
  std::array<std::byte, 64> after{};
  rig.device().core().ReadConfig(0, after);
  EXPECT_EQ(before, after);
}

TEST(BlkResizeTest, GrownDiskTellsItsDriver) {
  BlkRig rig(EngineKind::kPool);
  rig.device().Start();
  ASSERT_EQ(ftruncate(rig.disk().get(), 2 * BlkRig::kDiskSize), 0);
  ASSERT_TRUE(rig.blk().ResizeToFile());
  ASSERT_TRUE(rig.blk().Resize(2 * BlkRig::kDiskSize));  // as it is
  EXPECT_EQ(rig.device().interrupt().config_signals(), 1U);
  EXPECT_EQ(rig.device().Config<Le64>(0), 2 * BlkRig::kDiskSize / 512);
  EXPECT_EQ(rig.device().counter("capacity_sectors"), 2 * BlkRig::kDiskSize / 512);
  const uint64_t last = 2 * BlkRig::kDiskSize / 512 - 1;
  EXPECT_EQ(rig.Write(last, std::string(512, 'g')), BlkStatus::kOk);
  EXPECT_EQ(rig.Read(last, 512), std::string(512, 'g'));
}

TEST(BlkResizeTest, ShrunkDiskDoesNotTouchWhatItLost) {
  BlkRig rig(EngineKind::kPool);
  rig.device().Start();
  const uint64_t half = BlkRig::kDiskSize / 2;
  const std::string kept(4096, 'k');
  rig.PutOnDisk(half, kept);
  ASSERT_TRUE(rig.blk().Resize(half + 511));  // the last sector is not whole
  EXPECT_EQ(rig.device().interrupt().config_signals(), 1U);
  const uint64_t end = half / 512;
  EXPECT_EQ(rig.device().Config<Le64>(0), end);
  EXPECT_EQ(rig.Write(end, std::string(512, 'x')), BlkStatus::kIoError);
  EXPECT_EQ(rig.Write(end - 1, std::string(1024, 'x')), BlkStatus::kIoError);
  EXPECT_EQ(rig.Request(BlkType::kDiscard, 0, BlkRig::Range(end, 8), 0), BlkStatus::kIoError);
  EXPECT_EQ(rig.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(end - 1, 2), 0),
            BlkStatus::kIoError);
  EXPECT_EQ(rig.Request(BlkType::kIn, end, "", 512), BlkStatus::kIoError);
  EXPECT_EQ(rig.OnDisk(half, 4096), kept);
  EXPECT_EQ(rig.OnDisk(half - 512, 512), std::string(512, '\0'));
  EXPECT_EQ(rig.Write(end - 1, std::string(512, 'l')), BlkStatus::kOk);
}

TEST(BlkResizeTest, SizesThatCannotBeAreRefusedAndChangeNothing) {
  BlkRig rig(EngineKind::kPool);
  rig.device().Start();
  EXPECT_EQ(rig.blk().Resize(BlkRig::kDiskSize + 512).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(rig.blk().Resize(~uint64_t{0}).error().code(), Code::kInvalidArgument);
  EXPECT_EQ(rig.blk().Resize(511).error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(rig.blk().Resize(BlkRig::kDiskSize));  // as it is
  EXPECT_EQ(rig.device().interrupt().config_signals(), 0U);
  EXPECT_EQ(rig.device().Config<Le64>(0), BlkRig::kDiskSize / 512);
}

TEST(BlkResizeTest, WithoutADriverNobodyIsTold) {
  BlkRig rig(EngineKind::kPool);
  ASSERT_TRUE(rig.blk().Resize(4096));
  EXPECT_EQ(rig.device().Config<Le64>(0), 8U);
  rig.device().Start();
  rig.device().core().WriteStatus(0);
  ASSERT_TRUE(rig.blk().Resize(8192));
  EXPECT_EQ(rig.device().interrupt().config_signals(), 0U);
}

TEST(BlkResizeTest, ShrinkWaitsForWhatIsInFlightBehindTheNewEnd) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  rig.Submit(BlkType::kOut, 0, std::string(512, 'a'), 0);
  const uint16_t beyond = rig.Submit(BlkType::kOut, 100, std::string(1024, 'b'), 0);
  rig.device().KickAlways(0);
  const HeldIo::Piece before = io.Take();
  const HeldIo::Piece behind = io.Take();
  std::atomic<bool> resized = false;
  std::thread owner([&] {
    EXPECT_TRUE(rig.blk().Resize(uint64_t{100} * 512));
    resized = true;
  });
  // The capacity has changed at once: who asks now is refused.
  while (rig.device().Config<Le64>(0) != 100) {
    std::this_thread::yield();
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(resized);
  behind.finish(behind.Perform(rig.disk(), 512));  // half of it: the rest follows
  const HeldIo::Piece rest = io.Take();
  EXPECT_EQ(rest.offset, uint64_t{101} * 512);
  EXPECT_FALSE(resized);
  rest.finish(512);
  owner.join();
  rig.device().WaitUsed(0);
  EXPECT_EQ(rig.Status(beyond), BlkStatus::kOk);
  EXPECT_FALSE(rig.device().queue(0).TakeUsed());  // the first is still out
  before.finish(512);
  rig.device().WaitUsed(0);
}

TEST(BlkStateTest, CapacityAndWritebackSurvive) {
  BlkRig from(EngineKind::kPool);
  from.device().Start();
  ASSERT_TRUE(from.blk().Resize(8192));
  SetWriteback(from, 0);
  (void)from.device().core().Pause();
  const BlkState state = from.blk().SaveState();
  EXPECT_EQ(state.version, BlkState::kVersion);

  BlkRig to(EngineKind::kPool);
  to.device().Prepare();
  ASSERT_TRUE(to.blk().RestoreState(state));
  EXPECT_EQ(to.device().Config<Le64>(0), 16U);
  EXPECT_EQ(to.device().Config<uint8_t>(kWritebackAt), 0);
}

TEST(BlkStateTest, WhatTheFileCannotBeIsRefused) {
  BlkRig rig(EngineKind::kPool, {.block_size = 4096});
  EXPECT_TRUE(rig.blk().RestoreState({.sectors = 8}));
  EXPECT_FALSE(rig.blk().RestoreState({.version = 2, .sectors = 8}));
  EXPECT_FALSE(rig.blk().RestoreState({.sectors = 0}));
  EXPECT_FALSE(rig.blk().RestoreState({.sectors = 9}));
  EXPECT_FALSE(rig.blk().RestoreState({.sectors = BlkRig::kDiskSize / 512 + 8}));
  EXPECT_FALSE(rig.blk().RestoreState({.sectors = ~uint64_t{7}}));
}

}  // namespace
}  // namespace wyvern::devices
