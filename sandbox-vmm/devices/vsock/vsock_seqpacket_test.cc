// Connections of messages: boundaries both ways, pieces, bounds, types that the driver does not do.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"
#include "vsock/vsock_device.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

std::string Letters(size_t size, size_t from = 0) {
  std::string text(size, '\0');
  for (size_t i = 0; i < size; ++i) {
    text[i] = static_cast<char>('a' + (from + i) % 26);
  }
  return text;
}

// One message of the host's end; an empty one is the end.
std::string HostReceive(FdRef host) {
  std::string text(size_t{300} << 10U, '\0');
  const ssize_t got = recv(host.get(), text.data(), text.size(), 0);
  EXPECT_GE(got, 0);
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

bool HostHasNothing(FdRef host) {
  char byte = 0;
  return recv(host.get(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

bool HostSend(FdRef host, std::string_view message) {
  return send(host.get(), message.data(), message.size(), MSG_NOSIGNAL) ==
         static_cast<ssize_t>(message.size());
}

class VsockSeqpacketTest : public ::testing::Test {
 protected:
  VsockGuest::Stream Open(uint32_t buffer = 256 << 10) {
    return guest_.Connect(100, buffer, SOCK_SEQPACKET);
  }

  VsockGuest guest_;
};

TEST_F(VsockSeqpacketTest, RequestHasTheTypeOfTheHostsSocket) {
  guest_.Start();
  const auto stream = Open();
  EXPECT_EQ(stream.request.type, kVsockSeqpacket);
  EXPECT_EQ(guest_.Connect(101).request.type, kVsockStream);
}

TEST_F(VsockSeqpacketTest, HostsMessagesKeepTheirBoundaries) {
  guest_.Start();
  const auto stream = Open();
  for (const char* message : {"a", "bb", "ccc"}) {
    ASSERT_TRUE(HostSend(stream.host, message));
  }
  for (const char* message : {"a", "bb", "ccc"}) {
    const auto packet = guest_.Expect(VsockOp::kData);
    EXPECT_EQ(packet.data, message);
    EXPECT_EQ(packet.header.type, kVsockSeqpacket);
    EXPECT_EQ(packet.header.flags, kEndOfMessage);
  }
}

TEST_F(VsockSeqpacketTest, LargeMessageOfTheHostEndsWithItsLastPacket) {
  guest_.Start();
  const auto stream = Open();
  const std::string message = Letters(5 * (VsockGuest::kBuffer - kVsockHeaderSize) + 10);
  ASSERT_TRUE(HostSend(stream.host, message));
  ASSERT_TRUE(HostSend(stream.host, "next"));
  std::string got;
  for (;;) {
    const auto packet = guest_.Expect(VsockOp::kData);
    got += packet.data;
    EXPECT_EQ(packet.header.flags, got.size() < message.size() ? 0U : kEndOfMessage);
    if (got.size() >= message.size()) {
      break;
    }
  }
  EXPECT_EQ(got, message);
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "next");
}

TEST_F(VsockSeqpacketTest, HostsMessageLargerThanTheCreditComesInPieces) {
  guest_.Start();
  const auto stream = Open(1000);
  ASSERT_TRUE(HostSend(stream.host, Letters(2500)));
  ASSERT_TRUE(HostSend(stream.host, "next"));
  size_t got = 0;
  for (const size_t piece : {1000U, 600U, 900U}) {
    const auto packet = guest_.Expect(VsockOp::kData);
    EXPECT_EQ(packet.data, Letters(piece, got));
    got += piece;
    EXPECT_EQ(packet.header.flags, got == 2500 ? kEndOfMessage : 0U);
    EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(20)));
    guest_.consumed = static_cast<uint32_t>(got == 1000 ? 600 : got);
    guest_.guest_buffer = got == 1600 ? 900 : 1000;
    guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  }
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "next");
}

TEST_F(VsockSeqpacketTest, LongestMessageOfTheHostFitsAndALongerOneEndsTheConnection) {
  guest_.Start();
  const auto stream = Open(16 << 20);
  const int wanted = 1 << 20;
  ASSERT_EQ(setsockopt(stream.host.get(), SOL_SOCKET, SO_SNDBUF, &wanted, sizeof(wanted)), 0);
  if (!HostSend(stream.host, Letters(kMaxHostMessage))) {
    GTEST_SKIP() << "net.core.wmem_max of this host is too small for the message";
  }
  std::string got;
  while (got.size() < kMaxHostMessage) {
    got += guest_.Expect(VsockOp::kData).data;
  }
  EXPECT_EQ(got, Letters(kMaxHostMessage));
  ASSERT_TRUE(HostSend(stream.host, Letters(kMaxHostMessage + 1)));
  guest_.Expect(VsockOp::kReset);
  EXPECT_EQ(HostReceive(stream.host), "");
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockSeqpacketTest, GuestsMessageIsOneOfTheHosts) {
  guest_.Start();
  const auto stream = Open();
  guest_.SendData(stream, "one", kEndOfMessage);
  guest_.SendData(stream, "and two", kEndOfMessage | kEndOfRecord);
  EXPECT_EQ(HostReceive(stream.host), "one");
  EXPECT_EQ(HostReceive(stream.host), "and two");
  EXPECT_EQ(guest_.rig().counter("bytes_from_guest"), 10U);
}

TEST_F(VsockSeqpacketTest, GuestsMessageInPiecesIsHandedOnWholeAndNotBefore) {
  guest_.Start();
  const auto stream = Open();
  guest_.SendData(stream, "first ");
  guest_.SendData(stream, "second ");
  EXPECT_TRUE(HostHasNothing(stream.host));
  guest_.SendData(stream, "last", kEndOfMessage);
  EXPECT_EQ(HostReceive(stream.host), "first second last");
}

TEST_F(VsockSeqpacketTest, PacketWithoutPayloadMayEndAMessageButIsNone) {
  guest_.Start();
  const auto stream = Open();
  guest_.SendData(stream, "", kEndOfMessage);  // could not be told from the end
  EXPECT_TRUE(HostHasNothing(stream.host));
  guest_.SendData(stream, "begun");
  guest_.SendData(stream, "");
  EXPECT_TRUE(HostHasNothing(stream.host));
  guest_.SendData(stream, "", kEndOfMessage);
  EXPECT_EQ(HostReceive(stream.host), "begun");
}

TEST_F(VsockSeqpacketTest, LongestMessageOfTheGuestIsTheBufferThatItWasTold) {
  guest_.Start();
  const auto stream = Open();
  const uint32_t longest = stream.request.buffer_size;
  EXPECT_LE(longest, 256U << 10U);
  EXPECT_GT(longest, 16U << 10U);
  constexpr size_t kPiece = 32 << 10;
  const std::string message = Letters(longest);
  for (int round = 0; round < 3; ++round) {
    for (size_t at = 0; at < longest; at += kPiece) {
      guest_.SendData(stream, std::string_view(message).substr(at, kPiece),
                      at + kPiece >= longest ? kEndOfMessage : 0);
    }
    EXPECT_EQ(HostReceive(stream.host), message);
  }
}

TEST_F(VsockSeqpacketTest, SlowHostGetsEveryMessageApartAndTheGuestIsHeldBackByCredit) {
  guest_.Start();
  const auto stream = Open();
  const uint32_t room = stream.request.buffer_size;
  uint32_t sent = 0;
  uint32_t forwarded = 0;
  std::vector<size_t> sizes;
  while (sent - forwarded + 3000 <= room && sizes.size() < 4000) {
    const size_t size = 1 + sizes.size() * 37 % 3000;
    guest_.SendData(stream, Letters(size, sizes.size()), kEndOfMessage);
    sizes.push_back(size);
    sent += static_cast<uint32_t>(size);
    if (const auto update = guest_.Next(std::chrono::milliseconds(0))) {
      ASSERT_EQ(update->header.operation(), VsockOp::kCreditUpdate);
      forwarded = update->header.forwarded;
    }
  }
  EXPECT_LT(sizes.size(), 4000U);
  for (size_t i = 0; i < sizes.size(); ++i) {
    ASSERT_EQ(HostReceive(stream.host), Letters(sizes[i], i));
  }
  EXPECT_TRUE(HostHasNothing(stream.host));
}

TEST_F(VsockSeqpacketTest, ManyTinyMessagesForASlowHostAllArrive) {
  guest_.Start();
  const auto stream = Open();
  constexpr size_t kMessages = 3000;  // more than a socket queues
  std::vector<std::string> packets;
  packets.reserve(kMessages);
  for (size_t i = 0; i < kMessages; ++i) {
    packets.push_back(
        VsockGuest::Bytes(guest_.DataHeader(stream, 1, kEndOfMessage), Letters(1, i)));
  }
  guest_.SendAll(packets);
  for (size_t i = 0; i < kMessages; ++i) {
    ASSERT_EQ(HostReceive(stream.host), Letters(1, i));
  }
}

TEST_F(VsockSeqpacketTest, GuestInTheMiddleOfAMessageIsToldTheCreditThatItNeeds) {
  // Of a begun message nothing leaves: without news the guest would wait for us and we for it.
  VsockGuest guest({.worker = {.name = "vsock", .on_thread_start = nullptr}, .buffer_size = 4096});
  guest.Start();
  const auto stream = guest.Connect(100, 64 << 10, SOCK_SEQPACKET);
  ASSERT_EQ(stream.request.buffer_size, 4096U);
  guest.SendData(stream, Letters(1000), kEndOfMessage);
  EXPECT_EQ(HostReceive(stream.host), Letters(1000));
  const std::string message = Letters(4096);
  guest.SendData(stream, std::string_view(message).substr(0, 3096));
  EXPECT_EQ(guest.Expect(VsockOp::kCreditUpdate).header.forwarded, 1000U);
  guest.SendData(stream, std::string_view(message).substr(3096), kEndOfMessage);
  EXPECT_EQ(HostReceive(stream.host), message);
}

TEST_F(VsockSeqpacketTest, MessageWithoutAnEndWithinTheBufferResetsTheConnection) {
  guest_.Start();
  const auto stream = Open();
  const uint32_t longest = stream.request.buffer_size;
  constexpr uint32_t kPiece = 32 << 10;
  for (uint32_t at = 0; at < longest; at += kPiece) {
    guest_.SendData(stream, Letters(std::min(kPiece, longest - at)));
  }
  guest_.Expect(VsockOp::kReset);
  EXPECT_EQ(HostReceive(stream.host), "");
  EXPECT_EQ(guest_.rig().counter("bad_packets"), 1U);
}

TEST_F(VsockSeqpacketTest, HostsEndComesAfterItsLastMessage) {
  guest_.Start();
  const auto stream = Open(1000);
  ASSERT_TRUE(HostSend(stream.host, Letters(1500)));
  ASSERT_EQ(shutdown(stream.host.get(), SHUT_WR), 0);
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data.size(), 1000U);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(20)));
  guest_.consumed = 1000;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).header.flags, kEndOfMessage);
  EXPECT_EQ(guest_.Expect(VsockOp::kShutdown).header.flags, kShutdownSend);
  guest_.SendData(stream, "the other way", kEndOfMessage);
  EXPECT_EQ(HostReceive(stream.host), "the other way");
}

TEST_F(VsockSeqpacketTest, ClosedHostsLastMessageStillReachesTheGuest) {
  guest_.Start();
  auto stream = Open(1000);
  ASSERT_TRUE(HostSend(stream.host, Letters(1500)));
  stream.host.Reset();
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data.size(), 1000U);
  guest_.consumed = 1000;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, Letters(500, 1000));
  auto end = guest_.Expect(VsockOp::kShutdown);
  if (end.header.flags != kShutdownBoth) {
    end = guest_.Expect(VsockOp::kShutdown);
  }
  EXPECT_EQ(end.header.flags, kShutdownBoth);
}

TEST_F(VsockSeqpacketTest, MessageThatTheGuestDoesNotEndIsNotHandedOn) {
  guest_.Start();
  const auto stream = Open();
  guest_.SendData(stream, "whole", kEndOfMessage);
  guest_.SendData(stream, "begun");
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownSend;
  guest_.Send(end);
  EXPECT_EQ(HostReceive(stream.host), "whole");
  EXPECT_EQ(HostReceive(stream.host), "");
  // The other direction goes on.
  ASSERT_TRUE(HostSend(stream.host, "still"));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "still");
}

TEST_F(VsockSeqpacketTest, PacketOfTheOtherTypeIsAnsweredWithResetAndTheConnectionStays) {
  guest_.Start();
  const auto stream = Open();
  auto header = guest_.Reply(stream.request, VsockOp::kData);
  header.type = kVsockStream;
  header.length = 1;
  guest_.Send(header, "x");
  EXPECT_EQ(guest_.Expect(VsockOp::kReset).header.type, kVsockStream);
  guest_.SendData(stream, "fine", kEndOfMessage);
  EXPECT_EQ(HostReceive(stream.host), "fine");
}

// What a guest's driver does: VIRTIO §5.10.3.2.
class VsockTypesTest : public ::testing::Test {
 protected:
  static constexpr uint64_t kAll =
      kVsockFeatureStream | kVsockFeatureSeqpacket | kVsockFeatureNoImpliedStream;

  // How a connection of `type` fares with a driver that takes `features` only.
  static Code Connect(uint64_t features, int type) {
    VsockGuest guest;
    guest.Start(32, kAll & ~features);
    auto pair = MakeSocketPair(type);
    EXPECT_TRUE(pair);
    std::promise<Code> done;
    EXPECT_TRUE(guest.device().ConnectStream(7, std::move(pair->second), [&](Result<> r) {
      done.set_value(r ? Code::kOk : r.error().code());
    }));
    if (const auto packet = guest.Next(std::chrono::milliseconds(200))) {
      EXPECT_EQ(packet->header.operation(), VsockOp::kRequest);
      guest.Send(guest.Reply(packet->header, VsockOp::kResponse));
    }
    return done.get_future().get();
  }
};

TEST_F(VsockTypesTest, AllTypesAreOffered) {
  VsockGuest guest;
  EXPECT_EQ(guest.device().traits().features & kAll, kAll);
}

TEST_F(VsockTypesTest, DriverWithoutAnyBitDoesStreams) {
  EXPECT_EQ(Connect(0, SOCK_STREAM), Code::kOk);
  EXPECT_EQ(Connect(0, SOCK_SEQPACKET), Code::kUnavailable);
}

TEST_F(VsockTypesTest, DriverWithSeqpacketAloneDoesBoth) {
  EXPECT_EQ(Connect(kVsockFeatureSeqpacket, SOCK_STREAM), Code::kOk);  // Linux
  EXPECT_EQ(Connect(kVsockFeatureSeqpacket, SOCK_SEQPACKET), Code::kOk);
}

TEST_F(VsockTypesTest, StreamsAreNotImpliedWhereThatWasNegotiated) {
  const uint64_t features = kVsockFeatureSeqpacket | kVsockFeatureNoImpliedStream;
  EXPECT_EQ(Connect(features, SOCK_STREAM), Code::kUnavailable);
  EXPECT_EQ(Connect(features, SOCK_SEQPACKET), Code::kOk);
  EXPECT_EQ(Connect(kAll, SOCK_STREAM), Code::kOk);
}

}  // namespace
}  // namespace wyvern::devices
