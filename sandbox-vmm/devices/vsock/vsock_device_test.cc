// Streams between honest guests and hosts. Hostile guests: vsock_hostile_test.cc.
#include "vsock/vsock_device.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <future>
#include <thread>

#include "base/unix_socket.h"
#include "vsock/testing/vsock_guest.h"

namespace wyvern::devices {
namespace {

using testing::VsockGuest;

std::string HostRead(FdRef fd, size_t size) {
  std::string text(size, '\0');
  EXPECT_TRUE(ReadExact(fd, std::as_writable_bytes(std::span(text))));
  return text;
}

bool HostAtEnd(FdRef fd) {
  std::byte byte{};
  auto got = ReadSome(fd, std::span(&byte, 1));
  return got && *got == 0;
}

class VsockDeviceTest : public ::testing::Test {
 protected:
  std::future<Code> Connect(uint32_t port, UniqueFd* host) {
    auto pair = MakeSocketPair(SOCK_STREAM);
    EXPECT_TRUE(pair);
    *host = std::move(pair->first);
    auto promise = std::make_shared<std::promise<Code>>();
    auto future = promise->get_future();
    EXPECT_TRUE(guest_.device().ConnectStream(port, std::move(pair->second), [promise](Result<> r) {
      promise->set_value(r ? Code::kOk : r.error().code());
    }));
    return future;
  }

  VsockGuest guest_;
};

TEST_F(VsockDeviceTest, ConfigurationIsTheGuestsCid) {
  EXPECT_EQ(guest_.rig().Config<Le64>(0), 3U);
  EXPECT_EQ(guest_.rig().Config<Le32>(4), 0U);
}

TEST_F(VsockDeviceTest, ReservedCidsAreRefused) {
  for (const uint64_t cid : {uint64_t{0}, uint64_t{1}, uint64_t{2}, uint64_t{0xffffffff},
                             uint64_t{1} << 32U, ~uint64_t{0}}) {
    const auto device = VsockDevice::Create(
        {.worker = {.name = "vsock", .on_thread_start = nullptr}, .guest_cid = cid});
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().code(), Code::kInvalidArgument);
  }
}

TEST_F(VsockDeviceTest, HostOpensAStreamAndBytesGoBothWays) {
  guest_.Start();
  UniqueFd host;
  auto connected = Connect(100, &host);
  const auto request = guest_.Expect(VsockOp::kRequest);
  EXPECT_EQ(request.header.src_cid, kHostCid);
  EXPECT_EQ(request.header.dst_cid, 3U);
  EXPECT_EQ(request.header.dst_port, 100U);
  EXPECT_EQ(request.header.buffer_size, 256U << 10U);
  guest_.Send(guest_.Reply(request.header, VsockOp::kResponse));
  EXPECT_EQ(connected.get(), Code::kOk);
  ASSERT_TRUE(WriteAll(host, "hello"));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "hello");
  auto data = guest_.Reply(request.header, VsockOp::kData);
  data.length = 5;
  guest_.Send(data, "world");
  EXPECT_EQ(HostRead(host, 5), "world");
  EXPECT_EQ(guest_.rig().counter("bytes_to_guest"), 5U);
  EXPECT_EQ(guest_.rig().counter("bytes_from_guest"), 5U);
}

TEST_F(VsockDeviceTest, RequestWaitsForTheGuestsDriver) {
  UniqueFd host;
  auto connected = Connect(100, &host);
  ASSERT_TRUE(WriteAll(host, "early"));
  guest_.Start();
  const auto request = guest_.Expect(VsockOp::kRequest);
  guest_.Send(guest_.Reply(request.header, VsockOp::kResponse));
  EXPECT_EQ(connected.get(), Code::kOk);
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "early");
}

TEST_F(VsockDeviceTest, RequestGoesWithItsHostWhileItWaits) {
  UniqueFd host;
  auto connected = Connect(100, &host);
  UniqueFd other_host;
  auto other = Connect(101, &other_host);
  host.Reset();
  EXPECT_EQ(connected.get(), Code::kUnavailable);
  guest_.Start();
  const auto request = guest_.Expect(VsockOp::kRequest);
  EXPECT_EQ(request.header.dst_port, 101U);
  EXPECT_EQ(guest_.rig().counter("connections"), 1U);
  guest_.Send(guest_.Reply(request.header, VsockOp::kResponse));
  EXPECT_EQ(other.get(), Code::kOk);
}

TEST_F(VsockDeviceTest, RefusedPortIsUnavailable) {
  guest_.Start();
  UniqueFd host;
  auto connected = Connect(100, &host);
  guest_.Send(guest_.Reply(guest_.Expect(VsockOp::kRequest).header, VsockOp::kReset));
  EXPECT_EQ(connected.get(), Code::kUnavailable);
  EXPECT_TRUE(HostAtEnd(host));
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockDeviceTest, GuestThatDoesNotAnswerIsADeadline) {
  VsockGuest guest({.worker = {.name = "vsock", .on_thread_start = nullptr},
                    .connect_timeout = std::chrono::milliseconds(50)});
  guest.Start();
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  std::promise<Code> done;
  ASSERT_TRUE(guest.device().ConnectStream(7, std::move(pair->second), [&](Result<> r) {
    done.set_value(r ? Code::kOk : r.error().code());
  }));
  const auto request = guest.Expect(VsockOp::kRequest);
  EXPECT_EQ(done.get_future().get(), Code::kDeadlineExceeded);
  guest.Expect(VsockOp::kReset);
  guest.Send(guest.Reply(request.header, VsockOp::kResponse));  // too late
  guest.Expect(VsockOp::kReset);
}

TEST_F(VsockDeviceTest, OnlyConnectedSocketsAreTaken) {
  auto pair = MakeSocketPair(SOCK_DGRAM);
  ASSERT_TRUE(pair);
  EXPECT_EQ(
      guest_.device().ConnectStream(1, std::move(pair->first), [](Result<>) {}).error().code(),
      Code::kInvalidArgument);
  auto memfd = MakeMemfd("no socket", 4096);
  ASSERT_TRUE(memfd);
  EXPECT_FALSE(guest_.device().ConnectStream(1, *std::move(memfd), [](Result<>) {}));
}

TEST_F(VsockDeviceTest, HostHalfCloseBecomesShutdownSend) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  ASSERT_TRUE(WriteAll(stream.host, "last"));
  ASSERT_EQ(shutdown(stream.host.get(), SHUT_WR), 0);
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "last");
  EXPECT_EQ(guest_.Expect(VsockOp::kShutdown).header.flags, kShutdownSend);
  // The other direction goes on.
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 3;
  guest_.Send(data, "yes");
  EXPECT_EQ(HostRead(stream.host, 3), "yes");
}

TEST_F(VsockDeviceTest, GuestHalfCloseBecomesEndOfFile) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = 3;
  guest_.Send(data, "bye");
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownSend;
  guest_.Send(end);
  EXPECT_EQ(HostRead(stream.host, 3), "bye");
  EXPECT_TRUE(HostAtEnd(stream.host));
  ASSERT_TRUE(WriteAll(stream.host, "still"));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "still");
}

TEST_F(VsockDeviceTest, HostCloseTellsBothDirectionsAndWaitsForTheGuestsReset) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  ASSERT_TRUE(WriteAll(stream.host, "all of it"));
  stream.host.Reset();
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "all of it");
  auto shutdown_packet = guest_.Expect(VsockOp::kShutdown);
  if (shutdown_packet.header.flags != kShutdownBoth) {
    shutdown_packet = guest_.Expect(VsockOp::kShutdown);
  }
  EXPECT_EQ(shutdown_packet.header.flags, kShutdownBoth);
  EXPECT_EQ(guest_.rig().counter("connections"), 1U);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kReset));
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockDeviceTest, GuestCloseIsAnsweredWithReset) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownBoth;
  guest_.Send(end);
  guest_.Expect(VsockOp::kReset);
  EXPECT_TRUE(HostAtEnd(stream.host));
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockDeviceTest, NothingIsSentBeyondTheGuestsCredit) {
  guest_.Start();
  auto stream = guest_.Connect(100, 1000);
  ASSERT_TRUE(WriteAll(stream.host, std::string(2500, 'x')));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data.size(), 1000U);
  EXPECT_FALSE(guest_.Next(std::chrono::milliseconds(50)));
  guest_.consumed = 600;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data.size(), 600U);
  guest_.consumed = 1600;
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data.size(), 900U);
}

TEST_F(VsockDeviceTest, CreditRequestIsAnswered) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditRequest));
  const auto update = guest_.Expect(VsockOp::kCreditUpdate);
  EXPECT_EQ(update.header.buffer_size, 256U << 10U);
  EXPECT_EQ(update.header.forwarded, 0U);
}

TEST_F(VsockDeviceTest, SlowHostHoldsTheGuestBackByCredit) {
  // The host does not read: what its socket does not take is kept, up to the credit; then it comes
  // out whole.
  guest_.Start();
  auto stream = guest_.Connect(100);
  const std::string piece(32 << 10, 'p');
  uint32_t sent = 0;
  uint32_t forwarded = 0;
  while (sent - forwarded + piece.size() <= (256U << 10U) && sent < (4U << 20U)) {
    auto data = guest_.Reply(stream.request, VsockOp::kData);
    data.length = static_cast<uint32_t>(piece.size());
    guest_.Send(data, piece);
    sent += static_cast<uint32_t>(piece.size());
    for (;;) {
      const auto update = guest_.Next(std::chrono::milliseconds(1));
      if (!update.has_value()) {
        break;
      }
      forwarded = update->header.forwarded;
    }
  }
  EXPECT_LT(sent, 4U << 20U);
  EXPECT_GE(sent, 256U << 10U);
  const std::string got = HostRead(stream.host, sent);
  EXPECT_EQ(got, std::string(sent, 'p'));
  const auto update = guest_.Expect(VsockOp::kCreditUpdate);
  EXPECT_GT(update.header.forwarded, forwarded);
}

TEST_F(VsockDeviceTest, WhatTheGuestSentBeforeItsResetStillReachesASlowHost) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  const std::string piece(32 << 10, 'q');
  for (int i = 0; i < 8; ++i) {
    auto data = guest_.Reply(stream.request, VsockOp::kData);
    data.length = static_cast<uint32_t>(piece.size());
    guest_.Send(data, piece);
  }
  guest_.Send(guest_.Reply(stream.request, VsockOp::kReset));
  EXPECT_EQ(HostRead(stream.host, 256 << 10), std::string(256 << 10, 'q'));
  EXPECT_TRUE(HostAtEnd(stream.host));
}

TEST_F(VsockDeviceTest, WhatTheGuestSentBeforeItsEndStillReachesASlowHostWhateverFollows) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  const std::string piece(32 << 10, 'q');
  auto data = guest_.Reply(stream.request, VsockOp::kData);
  data.length = static_cast<uint32_t>(piece.size());
  for (int i = 0; i < 8; ++i) {
    guest_.Send(data, piece);
  }
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownBoth;
  guest_.Send(end);
  guest_.Send(end);
  guest_.Send(data, piece);
  guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  EXPECT_EQ(HostRead(stream.host, 256 << 10), std::string(256 << 10, 'q'));
  EXPECT_TRUE(HostAtEnd(stream.host));
}

TEST_F(VsockDeviceTest, WithoutReceiveBuffersTheHostWaits) {
  guest_.Start(1);
  auto stream = guest_.Connect(100);
  ASSERT_TRUE(WriteAll(stream.host, std::string(20000, 'z')));
  std::string got;
  while (got.size() < 20000) {
    got += guest_.Expect(VsockOp::kData).data;  // each gives its buffer back
  }
  EXPECT_EQ(got, std::string(20000, 'z'));
}

TEST_F(VsockDeviceTest, BusyStreamDoesNotStarveAnother) {
  guest_.Start(4);
  auto busy = guest_.Connect(1, 16 << 20);
  auto quiet = guest_.Connect(2, 16 << 20);
  std::thread writer([&] {
    const std::string block(1 << 20, 'b');
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(WriteAll(busy.host, block));
    }
  });
  size_t seen_busy = 0;
  bool asked = false;
  size_t busy_until_answer = 0;
  while (seen_busy < (4U << 20U)) {
    const auto packet = guest_.Expect(VsockOp::kData);
    if (packet.header.src_port == quiet.request.src_port) {
      busy_until_answer = seen_busy - busy_until_answer;
      continue;
    }
    seen_busy += packet.data.size();
    if (!asked && seen_busy > (1U << 20U)) {
      asked = true;
      busy_until_answer = seen_busy;
      ASSERT_TRUE(WriteAll(quiet.host, "me too"));
    }
  }
  writer.join();
  EXPECT_LT(busy_until_answer, 512U << 10U);
}

TEST_F(VsockDeviceTest, ManyStreamsAtOnce) {
  guest_.Start(32);
  std::vector<VsockGuest::Stream> streams;
  for (uint32_t i = 0; i < 300; ++i) {
    streams.push_back(guest_.Connect(1000 + i));
  }
  EXPECT_EQ(guest_.rig().counter("connections"), 300U);
  for (auto& stream : streams) {
    ASSERT_TRUE(WriteAll(stream.host, "ping"));
  }
  for (size_t i = 0; i < streams.size(); ++i) {
    EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "ping");
  }
}

TEST_F(VsockDeviceTest, ResetOfTheDeviceEndsStreamsButNotWaitingRequests) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  guest_.rig().core().WriteStatus(0);
  EXPECT_TRUE(HostAtEnd(stream.host));
  UniqueFd host;
  auto connected = Connect(101, &host);
  guest_.Start();  // begins with another reset, as drivers do
  const auto request = guest_.Expect(VsockOp::kRequest);
  EXPECT_EQ(request.header.dst_port, 101U);
  guest_.Send(guest_.Reply(request.header, VsockOp::kResponse));
  EXPECT_EQ(connected.get(), Code::kOk);
}

TEST_F(VsockDeviceTest, PausedDeviceContinuesItsStreams) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  guest_.rig().core().Pause();
  ASSERT_TRUE(WriteAll(stream.host, "during the pause"));
  ASSERT_TRUE(guest_.rig().core().Resume());
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "during the pause");
}

TEST_F(VsockDeviceTest, GuestThatReadsNoMoreIsAnEndForTheHostsWriter) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  auto end = guest_.Reply(stream.request, VsockOp::kShutdown);
  end.flags = kShutdownReceive;
  guest_.Send(end);
  EXPECT_LT(send(stream.host.get(), "x", 1, MSG_NOSIGNAL), 0);
  EXPECT_EQ(errno, EPIPE);
  // The other direction goes on, and flags once set stay set: VIRTIO §5.10.6.5.
  guest_.SendData(stream, "yes");
  EXPECT_EQ(HostRead(stream.host, 3), "yes");
  end.flags = kShutdownSend;
  guest_.Send(end);
  guest_.Expect(VsockOp::kReset);
  EXPECT_TRUE(HostAtEnd(stream.host));
  EXPECT_EQ(guest_.rig().counter("connections"), 0U);
}

TEST_F(VsockDeviceTest, HostThatReadsNoMoreIsToldToTheGuest) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  ASSERT_EQ(shutdown(stream.host.get(), SHUT_RD), 0);
  guest_.SendData(stream, "into the void");
  EXPECT_EQ(guest_.Expect(VsockOp::kShutdown).header.flags, kShutdownReceive);
  ASSERT_TRUE(WriteAll(stream.host, "still"));
  EXPECT_EQ(guest_.Expect(VsockOp::kData).data, "still");
}

TEST_F(VsockDeviceTest, TransportResetIsAnEventAndEndsStreams) {
  guest_.Start();
  auto stream = guest_.Connect(100);
  guest_.device().ResetTransport();
  EXPECT_TRUE(HostAtEnd(stream.host));
  const uint16_t head = guest_.rig().queue(2).Build().Writable(4).Submit();
  guest_.rig().KickAlways(2);
  EXPECT_EQ(guest_.rig().WaitUsed(2).written, 4U);
  EXPECT_EQ(guest_.rig().queue(2).Written(head, 4), std::string(4, '\0'));
}

TEST_F(VsockDeviceTest, DestroyingTheDeviceCancelsWhatWaits) {
  std::promise<Code> done;
  auto pair = MakeSocketPair(SOCK_STREAM);
  ASSERT_TRUE(pair);
  {
    VsockGuest guest;
    ASSERT_TRUE(guest.device().ConnectStream(7, std::move(pair->second), [&](Result<> r) {
      done.set_value(r ? Code::kOk : r.error().code());
    }));
  }
  EXPECT_EQ(done.get_future().get(), Code::kCancelled);
}

TEST_F(VsockDeviceTest, SixteenMebibytesArriveInOrder) {
  guest_.Start(48);
  auto stream = guest_.Connect(100, 256 << 10);
  constexpr size_t kTotal = size_t{16} << 20U;
  std::thread writer([&] {
    std::string block(64 << 10, '\0');
    for (size_t done = 0; done < kTotal; done += block.size()) {
      for (size_t i = 0; i < block.size(); ++i) {
        block[i] = static_cast<char>((done + i) * 31 >> 8);
      }
      ASSERT_TRUE(WriteAll(stream.host, block));
    }
    shutdown(stream.host.get(), SHUT_WR);
  });
  size_t got = 0;
  bool right = true;
  for (;;) {
    auto packet = guest_.Next();
    ASSERT_TRUE(packet);
    if (packet->header.operation() == VsockOp::kShutdown) {
      break;
    }
    for (size_t i = 0; i < packet->data.size(); ++i) {
      right = right && packet->data[i] == static_cast<char>((got + i) * 31 >> 8);
    }
    got += packet->data.size();
    guest_.consumed = static_cast<uint32_t>(got);
    guest_.Send(guest_.Reply(stream.request, VsockOp::kCreditUpdate));
  }
  writer.join();
  EXPECT_EQ(got, kTotal);
  EXPECT_TRUE(right);
}

}  // namespace
}  // namespace wyvern::devices
