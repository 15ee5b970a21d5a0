// Guests that break the rules of virtio sockets.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

bool HostEnded(FdRef fd) {
  std::byte byte{};
  auto got = ReadSome(fd, std::span(&byte, 1));
  return !got || *got == 0;
}

class VsockHostileTest : public ::testing::Test {
 protected:
  VsockHostileTest() { guest_.Start(); }

  VsockHeader Stray(VsockOp op) {
    VsockHeader to;
    to.src_port = 4000;
    to.dst_port = 5000;
    return guest_.Reply(to, op);
  }

  // The stream is reset, host and guest both see it, and the device still serves others.
  void ExpectReset(VsockGuest::Stream& stream) {
    const auto reset = guest_.Expect(VsockOp::kReset);
    EXPECT_EQ(reset.header.src_port, stream.request.src_port);
    EXPECT_TRUE(HostEnded(stream.host));
    EXPECT_GE(guest_.rig().counter("bad_packets"), 1U);
    EXPECT_EQ(guest_.rig().counter("connections"), 0U);
    EXPECT_EQ(guest_.rig().core().status(), 15);
    auto next = guest_.Connect(9);
    ASSERT_TRUE(WriteAll(next.host, "alive"));
    EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "alive");
  }

  VsockGuest guest_;
};

TEST_F(VsockHostileTest, GuestInitiatedStreamIsRefused) {
  guest_.Send(Stray(VsockOp::kRequest));
  const auto reset = guest_.Expect(VsockOp::kReset);
  EXPECT_EQ(reset.header.dst_port, 5000U);
  EXPECT_EQ(reset.header.src_port, 4000U);
  EXPECT_EQ(guest_.rig().counter("guest_requests_refused"), 1U);
}

TEST_F(VsockHostileTest, PacketOfNoStreamIsResetAndResetIsNot) {
  guest_.Send(Stray(VsockOp::kReset));
  guest_.Send(Stray(VsockOp::kData));
  guest_.Expect(VsockOp::kReset);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(20)));
}

TEST_F(VsockHostileTest, WrongCidsAreDropped) {
  auto header = Stray(VsockOp::kRequest);
  header.src_cid = uint64_t{2};
  guest_.Send(header);
  header = Stray(VsockOp::kRequest);
  header.dst_cid = uint64_t{4};
  guest_.Send(header);
  header.dst_cid = ~uint64_t{0};
  guest_.Send(header);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(20)));
  EXPECT_EQ(guest_.rig().counter("bad_packets"), 3U);
}

TEST_F(VsockHostileTest, UnknownTypeIsAnsweredWithResetOfThatType) {
  // VIRTIO §5.10.6.4.1
  auto header = Stray(VsockOp::kRequest);
  header.type = uint16_t{77};
  guest_.Send(header);
  EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.type, 77U);
}

TEST_F(VsockHostileTest, UnknownOperationResetsTheStream) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.Reply(stream.request, static_cast<VsockOp>(99)));
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, SecondResponseResetsTheStream) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kResponse));
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, RequestOnAnOpenStreamResetsIt) {
  auto stream = guest_.Connect(1);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kRequest));
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, DataBeforeTheResponseResetsTheStream) {
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  ASSERT_TRUE(guest_.device().ConnectStream(1, std::move(pair->second), [](Result<>) {}));
  const auto request = guest_.Expect(VsockOp::kRequest);
  auto data = guest_.Reply(request.header, VsockOp::kData);
  data.length = 1;
  guest_.Send(data, "x");
  VsockGuest::Stream stream{.request = request.header, .host = std::move(pair->first)};
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, Ch7680_LengthBeyondThePacketResetsTheStream) {
  auto stream = guest_.Connect(1);
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 100;
  guest_.Send(data, "short");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, LengthOf4GiBResetsTheStream) {
  auto stream = guest_.Connect(1);
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 0xffffffff;
  guest_.Send(data, "x");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, MoreThanTheCreditResetsTheStream) {
  // The host never reads, so the socket fills up and then our buffer: nobody may send beyond it.
  auto stream = guest_.Connect(1);
  const std::string piece(64 << 10, 'x');
  bool reset = false;
  for (int i = 0; i < 64 && !reset; ++i) {
    auto data = guest_.Reply(stream.request, VsockOp::kData);
    data.length = static_cast<uint32_t>(piece.size());
    guest_.Send(data, piece);
    while (auto packet = guest_.Next(std::chrono::milliseconds(1))) {
      reset = reset || packet->header.operation() == VsockOp::kReset;
    }
  }
  EXPECT_TRUE(reset);
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockHostileTest, DataAfterTheGuestsOwnEndResetsTheStream) {
  auto stream = guest_.Connect(1);
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownSend;
  guest_.Send(end);
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 1;
  guest_.Send(data, "x");
  ExpectReset(stream);
}

TEST_F(VsockHostileTest, KernelCve202623069_ImpossibleForwardCountGivesNoCredit) {
  auto stream = guest_.Connect(1, 1000);
  guest_.consumed = 5000;  // more than was ever sent
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  ASSERT_TRUE(WriteAll(stream.host, "data"));
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(30)));
  guest_.consumed = 0;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "data");
}

TEST_F(VsockHostileTest, ShrinkingBufferBelowWhatIsInFlightGivesNoCredit) {
  auto stream = guest_.Connect(1, 1000);
  ASSERT_TRUE(WriteAll(stream.host, std::string(1500, 'x')));
  guest_.Expect(VsockOp::kData);
  guest_.guest_buffer = 10;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(30)));
}

TEST_F(VsockHostileTest, PacketShorterThanItsHeaderIsDropped) {
  guest_.rig().queue(1).Build().Readable("short").Submit();
  guest_.rig().KickAlways(1);
  guest_.rig().WaitUsed(1);
  EXPECT_EQ(guest_.rig().counter("bad_packets"), 1U);
  EXPECT_EQ(guest_.rig().core().status(), 15);
}

TEST_F(VsockHostileTest, Ch7680_HeaderInPiecesIsReadWhole) {
  const auto header = Stray(VsockOp::kRequest);
  const std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  auto build = guest_.rig().queue(1).Build();
  for (const char byte : bytes) {
    build.Readable(std::string_view(&byte, 1));
  }
  build.Submit();
  guest_.rig().KickAlways(1);
  EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.dst_port, 5000U);
}

TEST_F(VsockHostileTest, Cve201918960_DataInPiecesReachesTheHostWhole) {
  auto stream = guest_.Connect(1);
  auto header = guest_.Reply(stream.request, VsockOp::kData);
  header.length = 26;
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof(header));
  bytes += "abcdefghijklmnopqrstuvwxyz";
  auto build = guest_.rig().queue(1).Build();
  for (size_t at = 0; at < bytes.size(); at += 7) {
    build.Readable(std::string_view(bytes).substr(at, 7));
  }
  build.Submit();
  guest_.rig().KickAlways(1);
  std::string got(26, '\0');
  ASSERT_TRUE(ReadExact(stream.host, std::as_writable_bytes(std::span(got))));
  EXPECT_EQ(got, "abcdefghijklmnopqrstuvwxyz");
}

TEST_F(VsockHostileTest, ReceiveBufferTooSmallForAHeaderComesBackEmpty) {
  guest_.rig().core().WriteStatus(0);
  guest_.Start(0);
  guest_.rig().queue(0).Build().Writable(43).Submit();
  guest_.rig().queue(0).Build().Readable("not even writable").Submit();
  guest_.rig().KickAlways(0);
  guest_.Send(Stray(VsockOp::kRequest));
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 0U);
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 0U);
  guest_.GiveBuffers(1);
  guest_.Expect(VsockOp::kReset);
}

TEST_F(VsockHostileTest, HeaderOnlyReceiveBuffersMoveNoDataButEndNothing) {
  auto stream = guest_.Connect(1);
  guest_.rig().core().WriteStatus(0);
  EXPECT_TRUE(HostEnded(stream.host));
  guest_.Start(0);
  guest_.rig().queue(0).Build().Writable(44).Submit();
  guest_.rig().Kick(0);
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  ASSERT_TRUE(guest_.device().ConnectStream(1, std::move(pair->second), [](Result<>) {}));
  EXPECT_EQ(guest_.rig().WaitUsed(0).written, 44U);
}

TEST_F(VsockHostileTest, FloodOfStrayPacketsWithoutReceiveBuffersIsBounded) {
  guest_.rig().core().WriteStatus(0);
  guest_.Start(0);
  for (int i = 0; i < 1000; ++i) {
    guest_.Send(Stray(VsockOp::kRequest));
  }
  EXPECT_EQ(guest_.rig().counter("resets_dropped"), 1000U - VsockDevice::kMaxStrayResets);
}

TEST_F(VsockHostileTest, GuestThatNeverAnswersACloseCannotFillTheTable) {
  // Kata-style leak: the host opens and closes, the guest keeps every stream half alive.
  guest_.rig().core().WriteStatus(0);
  guest_.Start(48);
  for (size_t i = 0; i < VsockDevice::kMaxConnections + 50; ++i) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    ASSERT_TRUE(pair);
    ASSERT_TRUE(guest_.device().ConnectStream(1, std::move(pair->second), [](Result<>) {}));
    VsockHeader request;
    do {
      const auto packet = guest_.Next();
      ASSERT_TRUE(packet);
      request = packet->header;
    } while (request.operation() != VsockOp::kRequest);
    guest_.Send(guest_.Reply(request, VsockOp::kResponse));
  }
  EXPECT_LE(guest_.rig().counter("connections"), VsockDevice::kMaxConnections);
  EXPECT_EQ(guest_.rig().counter("connected"), VsockDevice::kMaxConnections + 50);
}

}  // namespace
}  // namespace wyvern::devices
