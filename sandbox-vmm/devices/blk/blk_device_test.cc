// Requests of an honest driver, over both engines. Hostile drivers: blk_hostile_test.cc.
#include "blk/blk_device.h"

#include <gtest/gtest.h>

#include <fcntl.h>
#include <sys/socket.h>

#include <array>

#include "base/unix_socket.h"
#include "blk/testing/blk_rig.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;

class BlkDeviceTest : public ::testing::TestWithParam<EngineKind> {
 protected:
  void SetUp() override {
    if (GetParam() == EngineKind::kUring && !IoRing::Create()) {
      GTEST_SKIP() << "io_uring is not to be had on this host";
    }
  }

  BlkRig rig_{GetParam()};
};

TEST_P(BlkDeviceTest, ConfigurationTellsCapacityAndLimits) {
  EXPECT_EQ(rig_.device().Config<Le64>(0), BlkRig::kDiskSize / 512);
  EXPECT_EQ(rig_.device().Config<Le32>(12), 254U);
  EXPECT_EQ(rig_.device().Config<Le32>(20), 512U);
}

TEST_P(BlkDeviceTest, WhatWasWrittenIsRead) {
  rig_.device().Start();
  const std::string data(8192, 'w');
  EXPECT_EQ(rig_.Write(8, data), BlkStatus::kOk);
  EXPECT_EQ(rig_.OnDisk(uint64_t{8} * 512, 8192), data);
  EXPECT_EQ(rig_.Read(8, 8192), data);
  EXPECT_EQ(rig_.Read(7, 512), std::string(512, '\0'));
}

TEST_P(BlkDeviceTest, LastSectorIsReachable) {
  rig_.device().Start();
  const uint64_t last = BlkRig::kDiskSize / 512 - 1;
  EXPECT_EQ(rig_.Write(last, std::string(512, 'z')), BlkStatus::kOk);
  EXPECT_EQ(rig_.Read(last, 512), std::string(512, 'z'));
}

TEST_P(BlkDeviceTest, FlushIsAnswered) {
  rig_.device().Start();
  EXPECT_EQ(rig_.Request(BlkType::kFlush, 0, "", 0), BlkStatus::kOk);
  EXPECT_EQ(rig_.device().counter("flushes"), 1U);
}

TEST_P(BlkDeviceTest, WritesWithoutFlushNegotiatedStillWork) {
  rig_.device().Start(kBlkFlush);
  EXPECT_EQ(rig_.Write(0, std::string(512, 's')), BlkStatus::kOk);
  EXPECT_EQ(rig_.OnDisk(0, 512), std::string(512, 's'));
}

TEST_P(BlkDeviceTest, SerialIsAnsweredToGetId) {
  rig_.device().Start();
  std::string id;
  EXPECT_EQ(rig_.Request(BlkType::kGetId, 0, "", 20, &id), BlkStatus::kOk);
  EXPECT_EQ(id, std::string("disk-7") + std::string(14, '\0'));
}

TEST_P(BlkDeviceTest, ManyRequestsAtOnceAllComeBackRight) {
  rig_.device().Start(0, 256);
  std::vector<uint16_t> heads;
  for (uint64_t i = 0; i < 60; ++i) {
    heads.push_back(
        rig_.Submit(BlkType::kOut, i * 8, std::string(4096, static_cast<char>('a' + i % 26)), 0));
  }
  rig_.device().Kick(0);
  for (size_t i = 0; i < heads.size(); ++i) {
    rig_.device().WaitUsed(0);
  }
  for (uint64_t i = 0; i < 60; ++i) {
    EXPECT_EQ(rig_.OnDisk(i * 4096, 4096), std::string(4096, static_cast<char>('a' + i % 26)));
  }
}

TEST_P(BlkDeviceTest, RequestInManyPiecesAndIndirectWorks) {
  rig_.device().Start(0, 256);
  std::string data;
  for (int i = 0; i < 200; ++i) {
    data += std::string(512, static_cast<char>('A' + i % 26));
  }
  auto& driver = rig_.device().queue(0);
  auto build = driver.Build();
  build.Indirect().Readable(BlkRig::Header(BlkType::kOut, 100));
  for (int i = 0; i < 200; ++i) {
    build.Readable(std::string_view(data).substr(static_cast<size_t>(i) * 512, 512));
  }
  const uint16_t head = build.Writable(1).Submit();
  rig_.device().Kick(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(driver.Written(head, 1)[0], 0);
  EXPECT_EQ(rig_.OnDisk(uint64_t{100} * 512, data.size()), data);
}

TEST_P(BlkDeviceTest, HeaderAndStatusMayShareBuffersWithData) {
  // VIRTIO §2.7.4: framing is the driver's choice.
  rig_.device().Start();
  auto& driver = rig_.device().queue(0);
  const std::string header = BlkRig::Header(BlkType::kOut, 2);
  driver.Build()
      .Readable(header.substr(0, 5))
      .Readable(header.substr(5) + std::string(512, 'f'))
      .Writable(1)
      .Submit();
  const uint16_t read =
      driver.Build().Readable(BlkRig::Header(BlkType::kIn, 2)).Writable(513).Submit();
  rig_.device().Kick(0);
  rig_.device().WaitUsed(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(driver.Written(read, 513).back(), '\0');
  EXPECT_EQ(rig_.OnDisk(1024, 512), std::string(512, 'f'));
}

TEST_P(BlkDeviceTest, Ch7e2e7a164_ResetWithRequestsInFlightDrainsThem) {
  for (int round = 0; round < 20; ++round) {
    const uint64_t mark = rig_.device().ram().Mark();
    rig_.device().Start(0, 256);
    for (uint64_t i = 0; i < 40; ++i) {
      rig_.Submit(i % 2 == 0 ? BlkType::kOut : BlkType::kIn, i * 16,
                  std::string(i % 2 == 0 ? 8192 : 0, 'r'), i % 2 == 0 ? 0 : 8192);
    }
    rig_.device().KickAlways(0);
    rig_.device().core().WriteStatus(0);
    // What the device had taken is done; the memory is the driver's again.
    rig_.device().ram().Release(mark);
  }
}

TEST_P(BlkDeviceTest, PauseDrainsAndResumeGoesOn) {
  rig_.device().Start();
  rig_.Submit(BlkType::kOut, 0, std::string(512, '1'), 0);
  rig_.device().Kick(0);
  const auto state = rig_.device().core().Pause();
  const auto& ring = state.rings[0];
  WV_CHECK(ring.has_value());
  EXPECT_EQ(ring->next_available, ring->next_used);
  rig_.Submit(BlkType::kOut, 1, std::string(512, '2'), 0);
  ASSERT_TRUE(rig_.device().core().Resume());
  rig_.device().WaitUsed(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(rig_.OnDisk(0, 1024), std::string(512, '1') + std::string(512, '2'));
}

TEST_P(BlkDeviceTest, TruncatedFileIsAnIoErrorNotAnEnd) {
  rig_.device().Start();
  ASSERT_EQ(ftruncate(rig_.disk().get(), 4096), 0);
  EXPECT_EQ(rig_.Request(BlkType::kIn, 16, "", 512), BlkStatus::kIoError);
  EXPECT_EQ(rig_.device().counter("io_errors"), 1U);
  EXPECT_EQ(rig_.Read(0, 512).size(), 512U);
}

INSTANTIATE_TEST_SUITE_P(Engines, BlkDeviceTest,
                         ::testing::Values(EngineKind::kUring, EngineKind::kPool),
                         [](const auto& info) {
                           return info.param == EngineKind::kUring ? "uring" : "pool";
                         });

TEST(BlkCreateTest, Cve202624054_OnlyFilesAndBlockDevicesAreDisks) {
  const auto create = [](UniqueFd file, bool read_only) {
    auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                     .file = std::move(file),
                                     .read_only = read_only,
                                     .serial = "",
                                     .ring = nullptr});
    return device ? Code::kOk : device.error().code();
  };
  EXPECT_EQ(create(*Open("/", O_RDONLY | O_DIRECTORY), true), Code::kInvalidArgument);
  EXPECT_EQ(create(*Open("/dev/null", O_RDWR), false), Code::kInvalidArgument);
  EXPECT_EQ(create(std::move(MakeSocketPair(SOCK_STREAM)->first), false), Code::kInvalidArgument);
  EXPECT_EQ(create(*MakeMemfd("empty", 0), false), Code::kInvalidArgument);
  EXPECT_EQ(create(*MakeMemfd("rw", 4096), true), Code::kInvalidArgument);
  EXPECT_EQ(create(*Open("/proc/self/exe", O_RDONLY), false), Code::kInvalidArgument);
  EXPECT_EQ(create(*Open("/proc/self/exe", O_RDONLY), true), Code::kOk);
  EXPECT_EQ(create(*Open("/proc/self/exe", O_PATH), true), Code::kInvalidArgument);
}

TEST(BlkCreateTest, SerialIsAtMostTwentyBytes) {
  auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                   .file = *MakeMemfd("disk", 4096),
                                   .read_only = false,
                                   .serial = std::string(21, 's'),
                                   .ring = nullptr});
  EXPECT_EQ(device.error().code(), Code::kInvalidArgument);
}

TEST(IoRingTest, RestrictedRingRefusesOtherOperationsAndFiles) {
  auto ring = IoRing::Create();
  if (!ring) {
    GTEST_SKIP() << ring.error().message();
  }
  auto file = MakeMemfd("disk", 4096);
  ASSERT_TRUE(file);
  ASSERT_TRUE((*ring)->SetFile(*file));
  const auto run = [&](auto prepare, unsigned flags) {
    io_uring_sqe* entry = io_uring_get_sqe((*ring)->get());
    prepare(entry);
    io_uring_sqe_set_flags(entry, flags);
    io_uring_submit_and_wait((*ring)->get(), 1);
    io_uring_cqe* done = nullptr;
    EXPECT_EQ(io_uring_peek_cqe((*ring)->get(), &done), 0);
    const int result = done->res;
    io_uring_cqe_seen((*ring)->get(), done);
    return result;
  };
  char byte = 'x';
  iovec part{.iov_base = &byte, .iov_len = 1};
  EXPECT_EQ(
      run([&](io_uring_sqe* e) { io_uring_prep_writev(e, 0, &part, 1, 0); }, IOSQE_FIXED_FILE), 1);
  EXPECT_EQ(run([&](io_uring_sqe* e) { io_uring_prep_writev(e, file->get(), &part, 1, 0); }, 0),
            -EACCES);
  EXPECT_EQ(
      run([&](io_uring_sqe* e) { io_uring_prep_openat(e, AT_FDCWD, "/etc/passwd", O_RDONLY, 0); },
          IOSQE_FIXED_FILE),
      -EACCES);
  EXPECT_EQ(run([&](io_uring_sqe* e) { io_uring_prep_nop(e); }, 0), -EACCES);
  constexpr int kPunch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
  const auto punch = [&](io_uring_sqe* e) { io_uring_prep_fallocate(e, 0, kPunch, 0, 4096); };
  EXPECT_EQ(run(punch, IOSQE_FIXED_FILE), 0);
  EXPECT_EQ(run(punch, 0), -EACCES);
}

TEST(IoRingTest, ServesOneFileAfterAnother) {
  auto ring = IoRing::Create();
  if (!ring) {
    GTEST_SKIP() << ring.error().message();
  }
  const auto write = [&](char byte) {
    iovec part{.iov_base = &byte, .iov_len = 1};
    io_uring_sqe* entry = io_uring_get_sqe((*ring)->get());
    io_uring_prep_writev(entry, 0, &part, 1, 0);
    io_uring_sqe_set_flags(entry, IOSQE_FIXED_FILE);
    io_uring_submit_and_wait((*ring)->get(), 1);
    io_uring_cqe* done = nullptr;
    EXPECT_EQ(io_uring_peek_cqe((*ring)->get(), &done), 0);
    const int result = done->res;
    io_uring_cqe_seen((*ring)->get(), done);
    return result;
  };
  const std::array files = {MakeMemfd("first", 1), MakeMemfd("second", 1)};
  for (const auto& file : files) {
    ASSERT_TRUE(file);
    EXPECT_EQ(write('x'), -EBADF) << "it has none";
    ASSERT_TRUE((*ring)->SetFile(*file));
    EXPECT_EQ(write('y'), 1);
    ASSERT_TRUE((*ring)->ClearFile());
    char byte = 0;
    EXPECT_EQ(pread(file->get(), &byte, 1, 0), 1);
    EXPECT_EQ(byte, 'y');
  }
}

}  // namespace
}  // namespace wyvern::devices
