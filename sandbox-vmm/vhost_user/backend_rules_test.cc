// Rules that hold for every request, over the table of requests.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <iterator>

#include "vhost_user/testing/backend_rig.h"

namespace wyvern::vhost_user {
namespace {

class BackendRulesTest : public testing::BackendRig {
 protected:
  static constexpr uint64_t kEverything = kNegotiated | kProtocolConfig | kProtocolBackendReq |
                                          kProtocolInflightShmfd | kProtocolStatus |
                                          kProtocolDeviceState | kProtocolMtu | kProtocolRarp |
                                          kProtocolShmem | kProtocolBackendSendFd;

  // A back-end that offers all there is, asked for `protocol` of it.
  void MakeFull(uint64_t protocol) {
    Make({.offer_config = true,
          .track_inflight = true,
          .offer_status = true,
          .state = NoDeviceState(),
          .set_mtu = [](uint16_t) { return Result<>(); },
          .send_rarp = [](std::array<uint8_t, 6>) { return Result<>(); }},
         0, {{.id = 0, .length = 4096}});
    ASSERT_TRUE(Send(Request::kSetProtocolFeatures, protocol));
  }

  std::vector<FdRef> Fds(size_t count) const { return std::vector<FdRef>(count, event_.fd()); }

  static size_t OpenFds() {
    const std::filesystem::directory_iterator fds("/proc/self/fd");
    return static_cast<size_t>(std::distance(begin(fds), end(fds)));
  }

  const EventFd event_ = *EventFd::Create();
};

// Every request with every wrong length and number of descriptors ends the session, and nothing
// else happens.
TEST_F(BackendRulesTest, FramingFaultsEndTheSession) {
  for (const RequestRule& rule : RequestRules()) {
    SetUp();
    const std::vector<std::byte> longer(rule.max_size + 1);
    EXPECT_EQ(SendBytes(rule.request, longer, Fds(rule.min_fds)).error(), Fault::kPayloadSize)
        << rule.name;
    SetUp();
    const std::vector<std::byte> right(rule.max_size);
    EXPECT_EQ(SendBytes(rule.request, right, Fds(rule.max_fds + 1)).error(), Fault::kFdCount)
        << rule.name;
    if (rule.min_size > 0) {
      SetUp();
      EXPECT_EQ(SendBytes(rule.request, std::span(right).first(rule.min_size - 1)).error(),
                Fault::kPayloadSize)
          << rule.name;
    }
    if (rule.min_fds > 0) {
      SetUp();
      EXPECT_EQ(SendBytes(rule.request, right, Fds(rule.min_fds - 1)).error(), Fault::kFdCount)
          << rule.name;
    }
  }
}

TEST_F(BackendRulesTest, DescriptorsOfRefusedMessagesAreClosed) {
  MakeFull(kEverything);
  const size_t before = OpenFds();
  for (const RequestRule& rule : RequestRules()) {
    MakeFull(kEverything);
    const std::vector<std::byte> right(rule.max_size);
    static_cast<void>(SendBytes(rule.request, right, Fds(rule.max_fds + 1)));
    MakeFull(kEverything);
    // Right in form, and zeros are wrong for most.
    static_cast<void>(SendBytes(rule.request, right, Fds(rule.max_fds)));
  }
  MakeFull(kEverything);
  EXPECT_EQ(OpenFds(), before);
}

// need_reply: one answer to each, under its own number.
TEST_F(BackendRulesTest, EveryRequestIsAnsweredOnceWhenAReplyIsWanted) {
  for (const RequestRule& rule : RequestRules()) {
    MakeFull(kEverything);
    const std::vector<std::byte> payload(rule.min_size);
    const Wire<> served = SendBytes(rule.request, payload, Fds(rule.min_fds), kFlagNeedReply);
    if (rule.request == static_cast<uint32_t>(Request::kSetLogBase)) {
      // An eventfd is no log, and this reply has no words for that.
      EXPECT_EQ(served.error(), Fault::kUnexpected);
      continue;
    }
    ASSERT_TRUE(served.has_value()) << rule.name;
    if (rule.request == static_cast<uint32_t>(Request::kSetProtocolFeatures)) {
      continue;  // has taken REPLY_ACK away
    }
    const auto reply = peer_->Receive(Soon());
    ASSERT_TRUE(reply.has_value()) << rule.name;
    EXPECT_EQ(reply->header.request, rule.request);
    EXPECT_EQ(reply->header.flags, kVersion | kFlagReply) << rule.name;
    EXPECT_EQ(rule.has_reply || reply->payload.size() == sizeof(uint64_t), true) << rule.name;
    EXPECT_EQ(peer_->Receive(Connection::Clock::now()).error(), Fault::kTimeout) << rule.name;
  }
}

TEST_F(BackendRulesTest, NoneIsAnsweredWithoutTheFeature) {
  for (const RequestRule& rule : RequestRules()) {
    MakeFull(kEverything & ~kProtocolReplyAck);
    const std::vector<std::byte> payload(rule.min_size);
    if (rule.has_reply) {
      continue;
    }
    ASSERT_TRUE(SendBytes(rule.request, payload, Fds(rule.min_fds), kFlagNeedReply).has_value());
    EXPECT_EQ(peer_->Receive(Connection::Clock::now()).error(), Fault::kTimeout) << rule.name;
  }
}

TEST_F(BackendRulesTest, RequestsOfAFeatureThatWasNotNegotiatedAreRefused) {
  for (const RequestRule& rule : RequestRules()) {
    if (rule.needs == 0) {
      continue;
    }
    MakeFull(kEverything & ~rule.needs);
    const std::vector<std::byte> payload(rule.max_size);
    const Wire<> served = SendBytes(rule.request, payload, Fds(rule.min_fds), kFlagNeedReply);
    EXPECT_EQ(backend_->refused(), 1U) << rule.name;
    EXPECT_EQ(served.has_value(), !rule.has_reply) << rule.name;
  }
}

TEST_F(BackendRulesTest, UnknownRequestsAreRefusedAndTheSessionGoesOn) {
  Negotiate();
  for (uint32_t id = 0; id < 64; ++id) {
    if (FindRule(RequestRules(), id) == nullptr) {
      EXPECT_FALSE(Done(static_cast<Request>(id), uint64_t{1})) << id;
    }
  }
  EXPECT_FALSE(Done(static_cast<Request>(0xffffffff), uint64_t{1}));
  EXPECT_EQ(Ask<uint64_t>(Request::kGetQueueNum), 2U);
}

// The front-end is gone after each number of bytes of each request.
TEST_F(BackendRulesTest, HangUpWithinAMessageIsTruncation) {
  for (const RequestRule& rule : RequestRules()) {
    std::vector<std::byte> message(sizeof(Header) + rule.min_size);
    const Header header{rule.request, kVersion, rule.min_size};
    std::memcpy(message.data(), &header, sizeof(header));
    for (size_t bytes = 1; bytes < message.size(); ++bytes) {
      SetUp();
      ASSERT_TRUE(SendMessage(peer_->fd(), std::span(message).first(bytes), Fds(rule.min_fds)));
      peer_.reset();
      EXPECT_EQ(backend_->Serve().error(), Fault::kTruncated) << rule.name << " " << bytes;
    }
  }
}

// Within the header the kernel may hand them over with its first byte.
TEST_F(BackendRulesTest, DescriptorsBehindTheHeaderEndTheSession) {
  std::array<std::byte, sizeof(Header) + 8> message{};
  const Header header{static_cast<uint32_t>(Request::kSetVringCall), kVersion, 8};
  std::memcpy(message.data(), &header, sizeof(header));
  for (const size_t cut : {size_t{12}, size_t{13}, size_t{19}}) {
    SetUp();
    ASSERT_TRUE(SendMessage(peer_->fd(), std::span(message).first(cut), {}));
    ASSERT_TRUE(SendMessage(peer_->fd(), std::span(message).subspan(cut), Fds(1)));
    EXPECT_EQ(backend_->Serve().error(), Fault::kFdCount) << cut;
  }
}

TEST_F(BackendRulesTest, MessageInPiecesIsOneMessage) {
  std::array<std::byte, sizeof(Header) + 8> message{};
  const Header header{static_cast<uint32_t>(Request::kSetVringCall), kVersion, 8};
  std::memcpy(message.data(), &header, sizeof(header));
  for (size_t i = 0; i < message.size(); ++i) {
    ASSERT_TRUE(SendMessage(peer_->fd(), std::span(message).subspan(i, 1), Fds(i == 0 ? 1 : 0)));
  }
  EXPECT_TRUE(backend_->Serve().has_value());
  EXPECT_EQ(backend_->refused(), 0U);
}

}  // namespace
}  // namespace wyvern::vhost_user
