#include "api/donation.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "base/endian.h"
#include "base/unix_socket.h"

namespace wyvern::api {
namespace {

struct Served {
  uint32_t number;
  Code code;
  std::string text;
};

constexpr uint32_t kNumber = 0x01020304;

// Sends raw bytes as a packet and returns the server's answer.
Served Exchange(std::string_view packet, std::span<const FdRef> fds, DonationStore& store) {
  const SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  EXPECT_TRUE(SendMessage(pair.first, std::as_bytes(std::span(packet.data(), packet.size())), fds));
  EXPECT_TRUE(*ServeOneDonation(pair.second, store));
  std::array<std::byte, 1024> answer{};
  const ReceivedMessage message = *ReceiveMessage(pair.first, answer, 0);
  Le32 number;
  std::memcpy(&number, answer.data(), sizeof(number));
  return {number, Code{static_cast<uint8_t>(answer[4])},
          std::string(reinterpret_cast<const char*>(answer.data()) + 8, message.size - 8)};
}

std::string Packet(uint32_t kind, std::string_view name) {
  const std::array<Le32, 2> wire = {kNumber, kind};
  std::string packet(reinterpret_cast<const char*>(wire.data()), sizeof(wire));
  packet += name;
  return packet;
}

size_t OpenDescriptors() {
  size_t count = 0;
  for (int fd = 0; fd < 256; ++fd) {
    count += fcntl(fd, F_GETFD) >= 0 ? 1U : 0U;
  }
  return count;
}

class DonationTest : public testing::Test {
 protected:
  UniqueFd null_ = *Open("/dev/null", O_RDONLY);
  DonationStore store_;
};

TEST_F(DonationTest, DonatedFdIsTakenOnceUnderItsName) {
  SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  DonationClient client(std::move(pair.first));
  std::thread server([&] { EXPECT_TRUE(*ServeOneDonation(pair.second, store_)); });
  EXPECT_TRUE(client.Donate(DonationKind::kImage, "image:0", null_));
  server.join();
  EXPECT_EQ(store_.Take(DonationKind::kBlock, "image:0").error().code(), Code::kInvalidArgument);
  EXPECT_TRUE(store_.Take(DonationKind::kImage, "image:0"));
  EXPECT_EQ(store_.Take(DonationKind::kImage, "image:0").error().code(), Code::kNotFound);
}

TEST_F(DonationTest, MalformedPacketsAreAnsweredAndTheirDescriptorsClosed) {
  const size_t before = OpenDescriptors();
  const std::array<FdRef, 1> one = {null_};
  const std::array<FdRef, 2> two = {null_, null_};
  EXPECT_EQ(Exchange("x", one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange("xyz", one, store_).number, 0U);
  EXPECT_EQ(Exchange(Packet(4, ""), one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(4, "a"), {}, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(4, "a"), two, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(0, "a"), one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(99, "a"), one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(4, "../a"), one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(4, std::string(64, 'a')), one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(Exchange(Packet(4, std::string(5000, 'a')), one, store_).code, Code::kInvalidArgument);
  EXPECT_EQ(OpenDescriptors(), before);
}

TEST_F(DonationTest, SameNameTwiceIsRefused) {
  const std::array<FdRef, 1> one = {null_};
  EXPECT_EQ(Exchange(Packet(4, "a"), one, store_).code, Code::kOk);
  const Served refused = Exchange(Packet(4, "a"), one, store_);
  EXPECT_EQ(refused.code, Code::kAlreadyExists);
  EXPECT_EQ(refused.number, kNumber);
}

TEST_F(DonationTest, LateAnswerIsNotTheNextOnes) {
  SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  DonationClient hasty(std::move(pair.first), std::chrono::milliseconds(100));
  EXPECT_EQ(hasty.Donate(DonationKind::kImage, "a", null_).error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(*ServeOneDonation(pair.second, store_));  // now it is taken, and said so
  // Nobody serves the second: with the first one's OK it would seem to be taken.
  EXPECT_EQ(hasty.Donate(DonationKind::kImage, "b", null_).error().code(), Code::kDeadlineExceeded);
  EXPECT_TRUE(store_.Take(DonationKind::kImage, "a"));
}

TEST_F(DonationTest, PeerThatNeverStopsAnsweringHoldsNobodyUp) {
  SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  DonationClient client(std::move(pair.first), std::chrono::milliseconds(200));
  std::atomic<bool> stop{false};
  std::thread flood([&] {
    const std::array<Le32, 2> late{};
    while (!stop) {
      (void)SendMessage(pair.second, std::as_bytes(std::span(late)), {});
    }
  });
  EXPECT_EQ(client.Donate(DonationKind::kImage, "a", null_).error().code(),
            Code::kDeadlineExceeded);
  stop = true;
  shutdown(pair.second.get(), SHUT_RDWR);
  flood.join();
}

TEST_F(DonationTest, AnswerToWhatWasNotAskedIsAnError) {
  const SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  DonationClient client(*pair.first.Duplicate());
  const std::array<Le32, 2> early = {2, 0};
  ASSERT_TRUE(SendMessage(pair.second, std::as_bytes(std::span(early)), {}));
  EXPECT_EQ(client.Donate(DonationKind::kImage, "a", null_).error().code(), Code::kInternal);
}

TEST_F(DonationTest, PendingDescriptorsAreBounded) {
  for (size_t i = 0; i < kMaxPendingDonations; ++i) {
    ASSERT_TRUE(store_.Add(DonationKind::kStream, "s" + std::to_string(i), *null_.Duplicate()));
  }
  EXPECT_EQ(store_.Add(DonationKind::kStream, "one-more", *null_.Duplicate()).error().code(),
            Code::kResourceExhausted);
}

TEST_F(DonationTest, ClosedPeerEndsTheServer) {
  SocketPair pair = *MakeSocketPair(SOCK_SEQPACKET);
  pair.first.Reset();
  EXPECT_FALSE(*ServeOneDonation(pair.second, store_));
}

}  // namespace
}  // namespace wyvern::api
