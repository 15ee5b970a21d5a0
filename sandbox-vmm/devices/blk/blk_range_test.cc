// DISCARD and WRITE_ZEROES (VIRTIO §5.2.6), honest and hostile.
#include <gtest/gtest.h>

#include <cerrno>

#include "blk/testing/blk_rig.h"
#include "blk/testing/held_engine.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;
using testing::HeldIo;

constexpr uint64_t kSectorsOfDisk = BlkRig::kDiskSize / 512;

class BlkRangeTest : public ::testing::TestWithParam<EngineKind> {
 protected:
  void SetUp() override {
    if (GetParam() == EngineKind::kUring && !IoRing::Create()) {
      GTEST_SKIP() << "io_uring is not to be had on this host";
    }
    rig_.PutOnDisk(0, std::string(65536, 'd'));
    rig_.device().Start();
  }

  BlkStatus Ask(BlkType type, std::string_view ranges) { return rig_.Request(type, 0, ranges, 0); }

  BlkRig rig_{GetParam()};
};

TEST_P(BlkRangeTest, DiscardGivesStorageBack) {
  const uint64_t before = rig_.Allocated();
  EXPECT_EQ(Ask(BlkType::kDiscard, BlkRig::Range(32, 64)), BlkStatus::kOk);
  EXPECT_EQ(rig_.Allocated(), before - 32768);
  EXPECT_EQ(rig_.OnDisk(0, 16384), std::string(16384, 'd'));
  EXPECT_EQ(rig_.OnDisk(49152, 16384), std::string(16384, 'd'));
  EXPECT_EQ(rig_.device().counter("discards"), 1U);
}

TEST_P(BlkRangeTest, ZeroesReadAsZeroesAndMayGiveStorageBack) {
  const uint64_t before = rig_.Allocated();
  EXPECT_EQ(Ask(BlkType::kWriteZeroes, BlkRig::Range(32, 64, kRangeUnmap)), BlkStatus::kOk);
  EXPECT_EQ(rig_.Allocated(), before - 32768);
  EXPECT_EQ(rig_.Read(32, 32768), std::string(32768, '\0'));
  EXPECT_EQ(rig_.Read(31, 512), std::string(512, 'd'));
  EXPECT_EQ(rig_.Read(96, 512), std::string(512, 'd'));
  EXPECT_EQ(rig_.device().counter("write_zeroes"), 1U);
}

TEST_P(BlkRangeTest, ZeroesWithoutUnmapKeepTheStorage) {
  // tmpfs cannot zero a range: the zeroes are written.
  const uint64_t before = rig_.Allocated();
  EXPECT_EQ(Ask(BlkType::kWriteZeroes, BlkRig::Range(33, 62)), BlkStatus::kOk);
  EXPECT_EQ(rig_.Allocated(), before);
  EXPECT_EQ(rig_.Read(33, 31744), std::string(31744, '\0'));
  EXPECT_EQ(rig_.Read(32, 512), std::string(512, 'd'));
  EXPECT_EQ(rig_.Read(95, 512), std::string(512, 'd'));
}

TEST_P(BlkRangeTest, AllRangesOfARequestAreDone) {
  std::string ranges;
  for (uint64_t i = 0; i < kMaxZeroRanges; ++i) {
    ranges += BlkRig::Range(i * 8, 1 + i % 3, i % 2 == 0 ? kRangeUnmap : 0);
  }
  EXPECT_EQ(Ask(BlkType::kWriteZeroes, ranges), BlkStatus::kOk);
  for (uint64_t i = 0; i < kMaxZeroRanges; ++i) {
    const uint64_t zeroed = (1 + i % 3) * 512;
    EXPECT_EQ(rig_.OnDisk(i * 4096, zeroed), std::string(zeroed, '\0')) << i;
    EXPECT_EQ(rig_.OnDisk(i * 4096 + zeroed, 4096 - zeroed), std::string(4096 - zeroed, 'd')) << i;
  }
}

TEST_P(BlkRangeTest, WholeDiskCanBeZeroed) {
  EXPECT_EQ(Ask(BlkType::kWriteZeroes, BlkRig::Range(0, kSectorsOfDisk)), BlkStatus::kOk);
  EXPECT_EQ(rig_.OnDisk(0, BlkRig::kDiskSize), std::string(BlkRig::kDiskSize, '\0'));
  EXPECT_EQ(rig_.Allocated(), BlkRig::kDiskSize);
}

INSTANTIATE_TEST_SUITE_P(Engines, BlkRangeTest,
                         ::testing::Values(EngineKind::kUring, EngineKind::kPool),
                         [](const auto& info) {
                           return info.param == EngineKind::kUring ? "uring" : "pool";
                         });

// Sees what the device would do to its file.
class BlkRangeStepsTest : public ::testing::Test {
 protected:
  BlkRangeStepsTest() { rig_.device().Start(); }

  uint16_t Send(BlkType type, std::string_view ranges) {
    const uint16_t head = rig_.Submit(type, 0, ranges, 0);
    rig_.device().KickAlways(0);
    return head;
  }

  // The status of what is answered without any I/O.
  BlkStatus Refusal(BlkType type, std::string_view ranges) {
    const BlkStatus status = rig_.Request(type, 0, ranges, 0);
    EXPECT_EQ(io_.waiting(), 0U);
    return status;
  }

  BlkStatus Answered(uint16_t head) {
    rig_.device().WaitUsed(0);
    return rig_.Status(head);
  }

  HeldIo io_;
  BlkRig rig_{EngineKind::kPool, {.engine = io_.Factory()}};
};

TEST_F(BlkRangeStepsTest, UnmapPunchesAndItsAbsenceDoesNot) {
  const uint16_t head =
      Send(BlkType::kWriteZeroes, BlkRig::Range(8, 4, kRangeUnmap) + BlkRig::Range(2, 1));
  const HeldIo::Piece first = io_.Take();
  EXPECT_EQ(first.kind, IoKind::kPunchHole);
  EXPECT_EQ(first.offset, 4096U);
  EXPECT_EQ(first.length, 2048U);
  first.finish(0);
  const HeldIo::Piece second = io_.Take();
  EXPECT_EQ(second.kind, IoKind::kZeroRange);
  EXPECT_EQ(second.offset, 1024U);
  EXPECT_EQ(second.length, 512U);
  second.finish(0);
  EXPECT_EQ(Answered(head), BlkStatus::kOk);
}

TEST_F(BlkRangeStepsTest, ZeroesThatTheFileSystemCannotMakeAreWritten) {
  const uint16_t head = Send(BlkType::kWriteZeroes, BlkRig::Range(8, 24, kRangeUnmap));
  io_.Take().finish(-EOPNOTSUPP);
  const HeldIo::Piece range = io_.Take();
  EXPECT_EQ(range.kind, IoKind::kZeroRange);
  range.finish(-EOPNOTSUPP);
  const HeldIo::Piece write = io_.Take();
  EXPECT_EQ(write.kind, IoKind::kWrite);
  EXPECT_EQ(write.offset, 4096U);
  EXPECT_EQ(write.length, 12288U);
  write.finish(5000);  // short
  const HeldIo::Piece rest = io_.Take();
  EXPECT_EQ(rest.offset, 9096U);
  EXPECT_EQ(rest.length, 7288U);
  rest.finish(7288);
  EXPECT_EQ(Answered(head), BlkStatus::kOk);
}

TEST_F(BlkRangeStepsTest, ZeroesLastWhereWritesDo) {
  const auto off = std::byte{0};
  rig_.device().core().WriteConfig(32, std::span(&off, 1));
  const uint16_t head = Send(BlkType::kWriteZeroes, BlkRig::Range(0, 8));
  io_.Take().finish(0);
  const HeldIo::Piece flush = io_.Take();
  EXPECT_EQ(flush.kind, IoKind::kFlush);
  flush.finish(0);
  EXPECT_EQ(Answered(head), BlkStatus::kOk);
  const uint16_t failing = Send(BlkType::kWriteZeroes, BlkRig::Range(0, 8));
  io_.Take().finish(-EOPNOTSUPP);
  const HeldIo::Piece write = io_.Take();
  EXPECT_EQ(write.kind, IoKind::kSyncWrite);
  write.finish(4096);
  io_.Take().finish(-EIO);
  EXPECT_EQ(Answered(failing), BlkStatus::kIoError);
}

TEST_F(BlkRangeStepsTest, DiscardThatTheHostCannotDoIsUnsupported) {
  const uint16_t head = Send(BlkType::kDiscard, BlkRig::Range(0, 8) + BlkRig::Range(8, 8));
  io_.Take().finish(-EOPNOTSUPP);
  EXPECT_EQ(Answered(head), BlkStatus::kUnsupported);
  EXPECT_EQ(rig_.device().counter("io_errors"), 0U);
}

TEST_F(BlkRangeStepsTest, ErrorEndsTheRequestAtItsRange) {
  const uint16_t head = Send(BlkType::kDiscard, BlkRig::Range(0, 8) + BlkRig::Range(8, 8));
  io_.Take().finish(-EIO);
  EXPECT_EQ(Answered(head), BlkStatus::kIoError);
  EXPECT_EQ(io_.waiting(), 0U);
  EXPECT_EQ(rig_.device().counter("io_errors"), 1U);
}

TEST_F(BlkRangeStepsTest, UnknownFlagsAreUnsupported) {
  for (const uint32_t flags : {2U, 3U, 0x80000000U, 0xffffffffU}) {
    EXPECT_EQ(Refusal(BlkType::kWriteZeroes, BlkRig::Range(0, 8, flags)), BlkStatus::kUnsupported);
    EXPECT_EQ(Refusal(BlkType::kDiscard, BlkRig::Range(0, 8, flags)), BlkStatus::kUnsupported);
  }
  // In any of the ranges, also beside one that is an error.
  EXPECT_EQ(Refusal(BlkType::kDiscard, BlkRig::Range(kSectorsOfDisk, 1) + BlkRig::Range(0, 8, 2)),
            BlkStatus::kUnsupported);
}

TEST_F(BlkRangeStepsTest, DiscardWithUnmapIsUnsupported) {
  EXPECT_EQ(Refusal(BlkType::kDiscard, BlkRig::Range(0, 8, kRangeUnmap)), BlkStatus::kUnsupported);
}

TEST_F(BlkRangeStepsTest, RangesBeyondTheEndAreIoErrorsAndNothingIsTouched) {
  for (const BlkType type : {BlkType::kDiscard, BlkType::kWriteZeroes}) {
    EXPECT_EQ(Refusal(type, BlkRig::Range(kSectorsOfDisk, 1)), BlkStatus::kIoError);
    EXPECT_EQ(Refusal(type, BlkRig::Range(kSectorsOfDisk - 1, 2)), BlkStatus::kIoError);
    EXPECT_EQ(Refusal(type, BlkRig::Range(~uint64_t{0}, 2)), BlkStatus::kIoError);
    EXPECT_EQ(Refusal(type, BlkRig::Range(uint64_t{1} << 55U, 1)), BlkStatus::kIoError);
    EXPECT_EQ(Refusal(type, BlkRig::Range(0, 0xffffffff)), BlkStatus::kIoError);
    // The first would do, the second would not.
    EXPECT_EQ(Refusal(type, BlkRig::Range(0, 8) + BlkRig::Range(kSectorsOfDisk, 1)),
              BlkStatus::kIoError);
  }
}

TEST_F(BlkRangeStepsTest, ListsThatAreNoneOrTooLongAreIoErrors) {
  const auto times = [](uint32_t count) {
    std::string ranges;
    for (uint32_t i = 0; i < count; ++i) {
      ranges += BlkRig::Range(0, 8);
    }
    return ranges;
  };
  EXPECT_EQ(Refusal(BlkType::kDiscard, ""), BlkStatus::kIoError);
  EXPECT_EQ(Refusal(BlkType::kDiscard, times(1).substr(1)), BlkStatus::kIoError);
  EXPECT_EQ(Refusal(BlkType::kDiscard, times(1) + "x"), BlkStatus::kIoError);
  EXPECT_EQ(Refusal(BlkType::kDiscard, times(kMaxDiscardRanges + 1)), BlkStatus::kIoError);
  EXPECT_EQ(Refusal(BlkType::kWriteZeroes, times(kMaxZeroRanges + 1)), BlkStatus::kIoError);
  EXPECT_EQ(Refusal(BlkType::kWriteZeroes, std::string(1 << 20, 'z')), BlkStatus::kIoError);
}

TEST_F(BlkRangeStepsTest, EmptyRangesAreDone) {
  EXPECT_EQ(Refusal(BlkType::kDiscard, BlkRig::Range(5, 0)), BlkStatus::kOk);
  EXPECT_EQ(Refusal(BlkType::kWriteZeroes, BlkRig::Range(kSectorsOfDisk, 0)), BlkStatus::kOk);
  const uint16_t head =
      Send(BlkType::kWriteZeroes, BlkRig::Range(5, 0) + BlkRig::Range(8, 8) + BlkRig::Range(1, 0));
  const HeldIo::Piece piece = io_.Take();
  EXPECT_EQ(piece.offset, 4096U);
  piece.finish(0);
  EXPECT_EQ(Answered(head), BlkStatus::kOk);
}

TEST(BlkRangeFeatureTest, WhatWasNotNegotiatedIsUnsupported) {
  BlkRig rig(EngineKind::kPool);
  rig.device().Start(kBlkDiscard);
  EXPECT_EQ(rig.Request(BlkType::kDiscard, 0, BlkRig::Range(0, 8), 0), BlkStatus::kUnsupported);
  EXPECT_EQ(rig.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(0, 8), 0), BlkStatus::kOk);
  rig.device().Start(kBlkWriteZeroes);
  EXPECT_EQ(rig.Request(BlkType::kDiscard, 0, BlkRig::Range(0, 8), 0), BlkStatus::kOk);
  EXPECT_EQ(rig.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(0, 8), 0), BlkStatus::kUnsupported);
}

TEST(BlkRangeFeatureTest, ReadOnlyDiskZeroesNothing) {
  BlkRig rig(EngineKind::kPool, {.read_only = true});
  rig.PutOnDisk(0, std::string(4096, 'd'));
  rig.device().Start();
  EXPECT_EQ(rig.Request(BlkType::kDiscard, 0, BlkRig::Range(0, 8), 0), BlkStatus::kIoError);
  EXPECT_EQ(rig.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(0, 8), 0), BlkStatus::kIoError);
  EXPECT_EQ(rig.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(0, 8, 8), 0),
            BlkStatus::kUnsupported);
  EXPECT_EQ(rig.OnDisk(0, 4096), std::string(4096, 'd'));
}

}  // namespace
}  // namespace wyvern::devices
