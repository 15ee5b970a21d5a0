// Drivers that ask for what is not theirs.
#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <thread>

#include "blk/testing/blk_rig.h"
#include "blk/testing/held_engine.h"

namespace wyvern::devices {
namespace {

using testing::BlkRig;
using testing::EngineKind;
using testing::HeldIo;
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
  // GET_LIFETIME, SECURE_ERASE and the zone commands (15 to 26) are not offered (§5.2.6.2).
  for (const uint32_t type : {2U, 3U, 5U, 9U, 10U, 14U, 15U, 16U, 18U, 20U, 22U, 24U, 26U,
                              0x80000000U, 0x80000001U, 0xffffffffU}) {
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

TEST_F(BlkHostileTest, Cve202648914_AnswersDoNotLeaveTheirRoom) {
  auto& driver = rig_.device().queue(0);
  std::string id;
  EXPECT_EQ(rig_.Request(BlkType::kGetId, 0, "", 4, &id), BlkStatus::kOk);
  EXPECT_EQ(id, "disk");
  EXPECT_EQ(rig_.Request(BlkType::kGetId, 0, "", 0, &id), BlkStatus::kOk);
  // Only a status byte: a read of nothing. Its neighbours stay as they are.
  const mem::Gpa room = rig_.device().ram().Put("neighbourhood");
  const mem::Gpa status{mem::Raw(room) + 4};
  for (const BlkType type : {BlkType::kIn, BlkType::kGetId, BlkType::kFlush}) {
    driver.Build().Readable(BlkRig::Header(type, 0)).WritableAt(status, 1).Submit();
    rig_.device().Kick(0);
    EXPECT_EQ(rig_.device().WaitUsed(0).written, 1U);
    EXPECT_EQ(rig_.device().ram().Text(room, 13), std::string("neig\0bourhood", 13));
  }
}

TEST_F(BlkHostileTest, UsedLengthIsWhatWasWritten) {
  // VIRTIO §2.7.8.2: at least that many bytes, from the beginning.
  const auto used = [&](BlkType type, uint64_t sector, std::string_view data, uint32_t room) {
    rig_.Submit(type, sector, data, room);
    rig_.device().Kick(0);
    return rig_.device().WaitUsed(0).written;
  };
  EXPECT_EQ(used(BlkType::kIn, 0, "", 1024), 1025U);
  EXPECT_EQ(used(BlkType::kOut, 0, std::string(512, 'x'), 0), 1U);
  EXPECT_EQ(used(BlkType::kIn, kSectors, "", 512), 0U);  // the status is the last byte only
  EXPECT_EQ(used(BlkType::kOut, kSectors, std::string(512, 'x'), 0), 1U);
  EXPECT_EQ(used(BlkType::kGetId, 0, "", 20), 21U);
  EXPECT_EQ(used(BlkType::kGetId, 0, "", 64), 20U);
}

TEST_F(BlkHostileTest, Cve202645782_SameHeadTwiceInFlightNeedsReset) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  auto& driver = rig.device().queue(0);
  const uint16_t head =
      driver.Build().Readable(BlkRig::Header(BlkType::kIn, 0)).Writable(4096).Writable(1).Place();
  driver.MakeAvailable(head);
  driver.MakeAvailable(head);
  rig.device().KickAlways(0);
  EXPECT_TRUE(rig.device().WaitNeedsReset());
  const HeldIo::Piece piece = io.Take();
  EXPECT_EQ(io.waiting(), 0U);  // once
  piece.finish(piece.Perform(rig.disk()));
  EXPECT_EQ(rig.device().WaitUsed(0).head, head);
  rig.device().Start();
  rig.Submit(BlkType::kIn, 0, "", 512);
  rig.device().KickAlways(0);
  io.Take().finish(512);
  rig.device().WaitUsed(0);
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

TEST_F(BlkHostileTest, HeaderIsFetchedOnce) {
  // The driver changes it while the I/O runs.
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  const mem::Gpa header = rig.device().ram().Put(BlkRig::Header(BlkType::kIn, 8));
  const uint16_t head =
      rig.device().queue(0).Build().ReadableAt(header, 16).Writable(1024).Writable(1).Submit();
  rig.device().KickAlways(0);
  const HeldIo::Piece first = io.Take();
  rig.device().ram().Write(header, Le32(static_cast<uint32_t>(BlkType::kOut)));
  rig.device().ram().Write(mem::Gpa{mem::Raw(header) + 8}, Le64(kSectors + 1000));
  first.finish(512);
  const HeldIo::Piece second = io.Take();
  EXPECT_EQ(second.kind, IoKind::kRead);
  EXPECT_EQ(second.offset, uint64_t{9} * 512);
  second.finish(512);
  EXPECT_EQ(rig.device().WaitUsed(0).written, 1025U);
  EXPECT_EQ(rig.Status(head, 1024), BlkStatus::kOk);
  EXPECT_EQ(rig.device().counter("reads"), 1U);
  EXPECT_EQ(rig.device().counter("writes"), 0U);
}

TEST_F(BlkHostileTest, Ch7e2e7a164_ResetWaitsUntilNothingCanBeWrittenIntoMemory) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.queues = 2, .engine = io.Factory()});
  rig.PutOnDisk(0, std::string(4096, 'd'));
  rig.device().Start();
  rig.Submit(BlkType::kIn, 0, "", 4096, 0);
  rig.Submit(BlkType::kIn, 0, "", 4096, 1);
  rig.device().KickAlways(0);
  rig.device().KickAlways(1);
  const HeldIo::Piece first = io.Take();
  const HeldIo::Piece second = io.Take();
  std::atomic<bool> reset = false;
  std::thread driver([&] {
    rig.device().core().WriteStatus(0);
    reset = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(reset);
  first.finish(first.Perform(rig.disk()));
  std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_FALSE(reset);
  EXPECT_NE(rig.device().core().status(), 0);  // the driver reads 0 when it is over (§2.4.1)
  second.finish(second.Perform(rig.disk()));
  driver.join();
  EXPECT_EQ(rig.device().core().status(), 0);
}

TEST_F(BlkHostileTest, Firecracker5485_RetriedRequestNamesItsMemoryOnce) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  std::string data;
  auto build = rig.device().queue(0).Build();
  build.Readable(BlkRig::Header(BlkType::kOut, 0));
  for (int i = 0; i < 8; ++i) {
    const std::string piece(512, static_cast<char>('0' + i));
    build.Readable(piece);
    data += piece;
  }
  const uint16_t head = build.Writable(1).Submit();
  rig.device().KickAlways(0);
  for (const int error : {EAGAIN, EINTR, EAGAIN}) {
    const HeldIo::Piece piece = io.Take();
    EXPECT_EQ(piece.parts.size(), 8U);
    EXPECT_EQ(piece.length, 4096U);
    piece.finish(-error);
  }
  const HeldIo::Piece some = io.Take();
  some.finish(some.Perform(rig.disk(), 1300));
  const HeldIo::Piece rest = io.Take();
  EXPECT_EQ(rest.parts.size(), 6U);
  EXPECT_EQ(rest.length, 4096U - 1300);
  rest.finish(rest.Perform(rig.disk()));
  rig.device().WaitUsed(0);
  EXPECT_EQ(rig.Status(head), BlkStatus::kOk);
  EXPECT_EQ(rig.OnDisk(0, 4096), data);
}

TEST_F(BlkHostileTest, ErrorsOfTheHostAreIoErrorsAndEndAtSomeTime) {
  HeldIo io;
  BlkRig rig(EngineKind::kPool, {.engine = io.Factory()});
  rig.device().Start();
  for (const int error : {EIO, ENOSPC, EFAULT, EBADF}) {
    const uint16_t head = rig.Submit(BlkType::kOut, 0, std::string(512, 'x'), 0);
    rig.device().KickAlways(0);
    io.Take().finish(-error);
    rig.device().WaitUsed(0);
    EXPECT_EQ(rig.Status(head), BlkStatus::kIoError);
  }
  const uint16_t head = rig.Submit(BlkType::kFlush, 0, "", 0);
  rig.device().KickAlways(0);
  int tries = 0;
  while (auto piece = io.TakeWithin(std::chrono::milliseconds(100))) {
    piece->finish(-EAGAIN);
    ++tries;
  }
  EXPECT_LT(tries, 100);
  rig.device().WaitUsed(0);
  EXPECT_EQ(rig.Status(head), BlkStatus::kIoError);
  EXPECT_EQ(rig.device().counter("io_errors"), 5U);
}

TEST_F(BlkHostileTest, GhsaJmr4G2hvMjj6_DiskIsRawWhateverIsOnIt) {
  // The header of a qcow2 image whose backing file is the host's /etc/passwd, as a guest writes it.
  std::string header("QFI\xfb\0\0\0\2\0\0\0\0\0\0\0\x48\0\0\0\x0b", 20);
  header.resize(0x48, '\0');
  header += "/etc/passwd";
  header.resize(512, '\0');
  ASSERT_EQ(rig_.Write(0, header), BlkStatus::kOk);
  auto again = Open("/proc/self/fd/" + std::to_string(rig_.disk().get()), O_RDWR);
  ASSERT_TRUE(again);
  auto device = BlkDevice::Create({.worker = {.name = "blk", .on_thread_start = nullptr},
                                   .file = *std::move(again),
                                   .read_only = false,
                                   .serial = "",
                                   .ring = nullptr});
  ASSERT_TRUE(device);
  testing::DeviceRig rig(*std::move(device));
  EXPECT_EQ(rig.Config<Le64>(0), kSectors);
  rig.Start();
  const uint16_t head =
      rig.queue(0).Build().Readable(BlkRig::Header(BlkType::kIn, 0)).Writable(513).Submit();
  rig.Kick(0);
  rig.WaitUsed(0);
  EXPECT_EQ(rig.queue(0).Written(head, 512), header);
}

// A page of read-only memory (an image, design §4) right behind the guest's memory.
mem::Gpa AddReadOnlyPage(BlkRig& rig, std::string_view contents) {
  const mem::Gpa at{GuestRam::kBase + testing::DeviceRig::kRamSize};
  auto file = MakeMemfd("image", 4096);
  WV_CHECK(file.has_value() && WriteAll(*file, contents).has_value());
  mem::RegionSpec region;
  region.start = at;
  region.size = 4096;
  region.fd = *std::move(file);
  region.read_only = true;
  auto memory = rig.device().ram().memory()->WithRegion(std::move(region));
  WV_CHECK(memory.has_value());
  rig.device().core().SetMemory(*memory);
  return at;
}

TEST_F(BlkHostileTest, ReadIntoAReadOnlySlotIsAnIoError) {
  const mem::Gpa image = AddReadOnlyPage(rig_, "image");
  rig_.device().Start();
  auto& driver = rig_.device().queue(0);
  const mem::Gpa status = rig_.device().ram().Put("?");
  driver.Build()
      .Readable(BlkRig::Header(BlkType::kIn, 0))
      .WritableAt(image, 512)
      .WritableAt(status, 1)
      .Submit();
  rig_.device().Kick(0);
  EXPECT_EQ(rig_.device().WaitUsed(0).written, 0U);
  EXPECT_EQ(rig_.device().ram().Text(status, 1), "\1");
  // A status that cannot be written, either.
  driver.Build().Readable(BlkRig::Header(BlkType::kFlush, 0)).WritableAt(image, 1).Submit();
  rig_.device().Kick(0);
  EXPECT_EQ(rig_.device().WaitUsed(0).written, 0U);
  EXPECT_EQ(rig_.device().counter("reads"), 0U);
  // What can only be read can be written to the disk.
  const uint16_t write = driver.Build()
                             .Readable(BlkRig::Header(BlkType::kOut, 0))
                             .ReadableAt(image, 512)
                             .Writable(1)
                             .Submit();
  rig_.device().Kick(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(rig_.Status(write), BlkStatus::kOk);
  EXPECT_EQ(rig_.OnDisk(0, 5), "image");
}

TEST_F(BlkHostileTest, Cve201918960_BufferAcrossTwoRegionsIsBothOfThem) {
  const mem::Gpa border = AddReadOnlyPage(rig_, std::string(256, 'b'));
  rig_.device().Start();
  const mem::Gpa from{mem::Raw(border) - 256};
  rig_.device().ram().Fill(from, 256, std::byte{'a'});
  auto& driver = rig_.device().queue(0);
  const uint16_t head = driver.Build()
                            .Readable(BlkRig::Header(BlkType::kOut, 3))
                            .ReadableAt(from, 512)
                            .Writable(1)
                            .Submit();
  rig_.device().Kick(0);
  rig_.device().WaitUsed(0);
  EXPECT_EQ(rig_.Status(head), BlkStatus::kOk);
  EXPECT_EQ(rig_.OnDisk(uint64_t{3} * 512, 512), std::string(256, 'a') + std::string(256, 'b'));
}

TEST_F(BlkHostileTest, FileCutBehindOurBackIsAnIoErrorAndNoSignal) {
  ASSERT_EQ(ftruncate(rig_.disk().get(), 1024), 0);
  EXPECT_EQ(rig_.Request(BlkType::kIn, 1, "", 1024), BlkStatus::kIoError);  // half of it is there
  EXPECT_EQ(rig_.Request(BlkType::kIn, 100, "", 4096), BlkStatus::kIoError);
  EXPECT_EQ(rig_.device().counter("io_errors"), 2U);
  // A write makes the file longer again, never longer than the disk.
  EXPECT_EQ(rig_.Write(kSectors - 1, std::string(512, 'x')), BlkStatus::kOk);
  EXPECT_EQ(Fstat(rig_.disk())->st_size, static_cast<off_t>(BlkRig::kDiskSize));
  EXPECT_EQ(rig_.Request(BlkType::kWriteZeroes, 0, BlkRig::Range(0, 2048), 0), BlkStatus::kOk);
  EXPECT_EQ(Fstat(rig_.disk())->st_size, static_cast<off_t>(BlkRig::kDiskSize));
}

TEST(BlkReadOnlyTest, Cve202646695_WritesToAReadOnlyDiskAreIoErrorsOnTheHost) {
  BlkRig rig(EngineKind::kPool, {.read_only = true});
  EXPECT_NE(rig.device().core().device_features() & (uint64_t{1} << 5U), 0U);
  rig.device().Start(uint64_t{1} << 5U);  // a driver that does not even look
  EXPECT_EQ(rig.Write(0, std::string(512, 'x')), BlkStatus::kIoError);
  EXPECT_EQ(rig.OnDisk(0, 512), std::string(512, '\0'));
  EXPECT_EQ(rig.Read(0, 512), std::string(512, '\0'));
  EXPECT_EQ(rig.Request(BlkType::kFlush, 0, "", 0), BlkStatus::kOk);
}

}  // namespace
}  // namespace wyvern::devices
