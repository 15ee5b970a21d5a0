// Guests that break the rules of the console, and hosts that do not listen.
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "console/testing/console_guest.h"

namespace wyvern::devices {
namespace {

using testing::ConsoleGuest;
using virtio::testing::GuestRam;
using virtio::testing::kNext;
using virtio::testing::kWrite;

int BytesIn(FdRef fd) {
  int bytes = -1;
  EXPECT_EQ(ioctl(fd.get(), FIONREAD, &bytes), 0);
  return bytes;
}

class ConsoleHostileTest : public ::testing::Test {
 protected:
  ConsoleHostileTest() { guest_.Up(); }

  void ExpectAlive() {
    EXPECT_EQ(guest_.rig().core().status(), 15);
    auto host = guest_.Attach(2);
    guest_.Output(2, "alive");
    std::string text(5, '\0');
    ASSERT_TRUE(ReadExact(host, std::as_writable_bytes(std::span(text))));
    EXPECT_EQ(text, "alive");
    ASSERT_TRUE(guest_.device().Detach(2));
  }

  // What the guest writes to port 1 goes to `out`.
  void OutputTo(UniqueFd out) {
    ConsoleEnds ends;
    ends.out = std::move(out);
    ASSERT_TRUE(guest_.device().Attach(1, std::move(ends)));
  }

  // The same into a pipe; its other end.
  UniqueFd OutputToPipe() {
    auto pipe = MakePipe();
    WV_CHECK(pipe.has_value());
    OutputTo(std::move(pipe->write));
    return std::move(pipe->read);
  }

  // A chain of 63 descriptors of 15 MiB that name the same memory; `flags`: of each.
  void MakeHugeChainAvailable(uint16_t queue, uint16_t flags) {
    auto& driver = guest_.rig().queue(queue);
    for (uint16_t i = 0; i < 63; ++i) {
      const auto more = static_cast<uint16_t>(i == 62 ? flags : flags | kNext);
      driver.WriteDescriptor(
          i, {GuestRam::kBase + (1 << 20), 15 << 20, more, static_cast<uint16_t>(i + 1)});
    }
    driver.MakeAvailable(0);
  }

  ConsoleGuest guest_;
};

TEST_F(ConsoleHostileTest, Cve202027174_OutputThatNobodyReadsStaysInTheGuest) {
  const UniqueFd reader = OutputToPipe();
  const mem::Gpa text = guest_.rig().ram().Put(std::string(1 << 16, 'x'));
  auto& driver = guest_.rig().queue(ConsoleGuest::ToHost(1));
  for (int i = 0; i < 64; ++i) {
    driver.Build().ReadableAt(text, 1 << 16).Submit();
  }
  guest_.rig().KickAlways(ConsoleGuest::ToHost(1));
  ASSERT_TRUE(testing::WaitUntil([&] { return BytesIn(reader) == 1 << 16; }));
  // The pipe is full: one buffer is used, the second one in hand, the others are the driver's.
  guest_.rig().WaitUsed(ConsoleGuest::ToHost(1));
  EXPECT_FALSE(guest_.rig().WaitMaybe(ConsoleGuest::ToHost(1), std::chrono::milliseconds(20)));
  EXPECT_EQ(guest_.rig().counter("bytes_from_guest"), 1U << 16U);
  EXPECT_EQ(guest_.rig().counter("bytes_dropped"), 0U);
  ExpectAlive();
}

TEST_F(ConsoleHostileTest, Cve202016843_InputThatTheGuestHasNoRoomForStaysWithTheHost) {
  auto host = guest_.Attach(1);
  guest_.Send(1, ConsoleEvent::kPortOpen, 1);
  ASSERT_TRUE(SetNonBlocking(host, true));
  std::string flood(1 << 16, 'f');
  while (write(host.get(), flood.data(), flood.size()) > 0) {
  }
  EXPECT_EQ(guest_.rig().counter("bytes_to_guest"), 0U);
  ExpectAlive();
  // And it goes on as soon as there is room.
  guest_.OfferInput(1, 100);
  EXPECT_EQ(guest_.Input(1), std::string(100, 'f'));
}

TEST_F(ConsoleHostileTest, MessagesThatAreNotTakenDoNotPileUp) {
  // Every message a driver can ask for, again and again, without a single buffer for them: what
  // is due is a few flags.
  for (auto used = guest_.rig().WaitMaybe(2, std::chrono::milliseconds(1)); used;
       used = guest_.rig().WaitMaybe(2, std::chrono::milliseconds(1))) {
  }
  guest_.rig().core().WriteStatus(0);
  guest_.Start(0, 0);
  guest_.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  guest_.OfferMessageBuffers(3);
  (void)guest_.Messages();
  for (int i = 0; i < 500; ++i) {
    const uint64_t mark = guest_.rig().ram().Mark();
    guest_.Send(1, ConsoleEvent::kPortReady, 1);
    guest_.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
    guest_.rig().ram().Release(mark);
  }
  for (int i = 0; i < 500; ++i) {
    auto host = guest_.Attach(1);
    ASSERT_TRUE(guest_.device().Detach(1));
  }
  guest_.OfferMessageBuffers(64);
  EXPECT_EQ(guest_.Messages(), std::vector<std::string>{"name 1 org.wyvern.agent"});
}

TEST_F(ConsoleHostileTest, UnknownPortsAndEventsAreCounted) {
  guest_.Send(3, ConsoleEvent::kPortReady, 1);          // does not exist
  guest_.Send(4, ConsoleEvent::kPortReady, 1);          // cannot exist
  guest_.Send(0x80000000, ConsoleEvent::kPortOpen, 1);  // nor this
  guest_.Send(0xffffffff, ConsoleEvent::kPortOpen, 1);
  for (const uint16_t event : {1, 2, 4, 5, 7, 8, 0x100, 0xffff}) {
    guest_.Send(1, static_cast<ConsoleEvent>(event), 1);
  }
  guest_.Send(0, ConsoleEvent::kDeviceReady, 0);  // it says that it failed
  EXPECT_EQ(guest_.rig().counter("bad_messages"), 13U);
  EXPECT_EQ(guest_.Messages(), std::vector<std::string>{});
  ExpectAlive();
}

TEST_F(ConsoleHostileTest, MessagesOfTheWrongLengthAreCountedOrCut) {
  guest_.SendRaw("1234567");
  EXPECT_EQ(guest_.rig().counter("bad_messages"), 1U);
  // Longer than a message: what follows is nobody's.
  guest_.SendRaw(std::string("\1\0\0\0\6\0\1\0", 8) + std::string(5000, 'x'));
  EXPECT_EQ(guest_.Events(2).back().second, ConsolePortEvent::kGuestOpened);
  EXPECT_EQ(guest_.rig().counter("bad_messages"), 1U);
}

TEST_F(ConsoleHostileTest, BuffersTooSmallForAMessageComeBackAndItWaits) {
  guest_.rig().core().WriteStatus(0);
  guest_.Start(0, 0);
  guest_.Send(ConsoleGuest::kBadId, ConsoleEvent::kDeviceReady, 1);
  guest_.OfferMessageBuffers(20, 7);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(guest_.rig().WaitUsed(2).written, 0U);
  }
  guest_.OfferMessageBuffers(3, 8);
  EXPECT_EQ(guest_.Messages(), (std::vector<std::string>{"add 0", "add 1", "add 2"}));
}

TEST_F(ConsoleHostileTest, BuffersOfTheWrongDirectionComeBackUnused) {
  // VIRTIO §5.3.6.1
  auto host = guest_.Attach(1);
  guest_.Send(1, ConsoleEvent::kPortOpen, 1);
  guest_.rig().queue(ConsoleGuest::ToGuest(1)).Build().Readable("not for you").Submit();
  guest_.rig().KickAlways(ConsoleGuest::ToGuest(1));
  ASSERT_TRUE(WriteAll(host, "x"));
  EXPECT_EQ(guest_.rig().WaitUsed(ConsoleGuest::ToGuest(1)).written, 0U);
  guest_.rig().queue(ConsoleGuest::ToHost(1)).Build().Writable(64).Submit();
  guest_.rig().KickAlways(ConsoleGuest::ToHost(1));
  EXPECT_EQ(guest_.rig().WaitUsed(ConsoleGuest::ToHost(1)).written, 0U);
  EXPECT_EQ(guest_.rig().counter("bad_chains"), 2U);
  guest_.OfferInput(1, 4);
  EXPECT_EQ(guest_.Input(1), "x");
}

TEST_F(ConsoleHostileTest, GigabytesInOneChainKeepNobodyElseWaiting) {
  // To a host that takes everything at once.
  auto sink = Open("/dev/null", O_WRONLY);
  ASSERT_TRUE(sink);
  OutputTo(*std::move(sink));
  MakeHugeChainAvailable(ConsoleGuest::ToHost(1), 0);
  guest_.rig().KickAlways(ConsoleGuest::ToHost(1));
  ExpectAlive();
  (void)guest_.rig().core().Pause();
  ASSERT_TRUE(guest_.rig().core().Resume());
  guest_.rig().WaitUsed(ConsoleGuest::ToHost(1));
  EXPECT_EQ(guest_.rig().counter("bytes_from_guest"), 63 * (uint64_t{15} << 20U) + 5);
}

TEST_F(ConsoleHostileTest, InputIsReadInPiecesHoweverLargeTheBuffer) {
  auto host = guest_.Attach(1);
  guest_.Send(1, ConsoleEvent::kPortOpen, 1);
  MakeHugeChainAvailable(ConsoleGuest::ToGuest(1), kWrite);
  ASSERT_TRUE(WriteAll(host, std::string(100000, 'i')));
  guest_.rig().KickAlways(ConsoleGuest::ToGuest(1));
  EXPECT_LE(guest_.rig().WaitUsed(ConsoleGuest::ToGuest(1)).written, ConsolePort::kPieceBytes);
}

TEST_F(ConsoleHostileTest, ConfigurationAccessesPastTheEndTouchNothing) {
  const std::string wide(64, '\x41');
  for (const uint32_t offset : {9U, 11U, 12U, 13U, 0x7fffffffU, 0xfffffff8U, 0xffffffffU}) {
    guest_.rig().core().WriteConfig(offset, std::as_bytes(std::span(wide)));
    std::array<std::byte, 8> read;
    read.fill(std::byte{0xff});
    guest_.rig().core().ReadConfig(offset, read);
    EXPECT_EQ(read[7], std::byte{0}) << offset;
  }
  EXPECT_EQ(guest_.emergency(), "");
  guest_.rig().core().WriteConfig(0, std::as_bytes(std::span(wide)).first(8));
  EXPECT_EQ(guest_.emergency(), "");
  guest_.rig().core().WriteConfig(0, std::as_bytes(std::span(wide)));
  EXPECT_EQ(guest_.emergency(), "A");
  EXPECT_EQ(guest_.rig().Config<Le16>(0), 0U);
  EXPECT_EQ(guest_.rig().Config<Le32>(4), 4U);
}

TEST_F(ConsoleHostileTest, ReaderThatGoesAwayIsNoSignal) {
  UniqueFd reader = OutputToPipe();
  guest_.Output(1, std::string(1 << 17, 'x'));
  reader.Reset();  // with a write that waits: SIGPIPE would end the test
  guest_.rig().WaitUsed(ConsoleGuest::ToHost(1));
  ASSERT_TRUE(testing::WaitUntil([&] { return guest_.rig().counter("ports_attached") == 0; }));
  ExpectAlive();
}

TEST_F(ConsoleHostileTest, DetachWithAWriteThatWaitsFreesTheGuest) {
  const UniqueFd reader = OutputToPipe();
  guest_.Output(1, std::string(1 << 17, 'x'));
  ASSERT_TRUE(guest_.device().Detach(1));
  guest_.rig().WaitUsed(ConsoleGuest::ToHost(1));
}

TEST_F(ConsoleHostileTest, ControlQueuesThatWereNotNegotiatedAreLeftAlone) {
  guest_.Start(kConsoleFMultiport);
  guest_.rig().queue(3).Build().Readable(std::string("\0\0\0\0\0\0\1\0", 8)).Submit();
  guest_.rig().KickAlways(3);
  guest_.rig().queue(5).Build().Readable("to port 1").Submit();
  guest_.rig().KickAlways(5);
  auto host = guest_.Attach(0);
  guest_.Output(0, "port 0");
  guest_.rig().WaitUsed(1);
  EXPECT_FALSE(guest_.rig().WaitMaybe(3, std::chrono::milliseconds(5)));
  EXPECT_FALSE(guest_.rig().WaitMaybe(5, std::chrono::milliseconds(1)));
}

TEST_F(ConsoleHostileTest, PortsOpenedAndClosedInTurnsTellTheOwnerEachChangeOnce) {
  for (int i = 0; i < 100; ++i) {
    const uint64_t mark = guest_.rig().ram().Mark();
    guest_.Send(1, ConsoleEvent::kPortOpen, 1);
    guest_.Send(1, ConsoleEvent::kPortOpen, 7);
    guest_.Send(1, ConsoleEvent::kPortOpen, 0);
    guest_.Send(1, ConsoleEvent::kPortOpen, 0);
    guest_.rig().ram().Release(mark);
  }
  EXPECT_EQ(guest_.Events(201).size(), 201U);  // port 0 was opened at the start
}

}  // namespace
}  // namespace wyvern::devices
