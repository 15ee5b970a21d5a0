// DialTcp: connections of the host to what listens on the guest's loopback. The guest is this machine here: its own ports.
#include <gmock/gmock.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <thread>

#include "agent/testing/agent_process.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

class DialTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    agent_ = std::make_unique<AgentProcess>();
  }

  // Listens on a port of its own; that port, or 0.
  uint16_t Listen(int family) {
    listener_.Reset(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in6 address{};
    socklen_t size = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    if (family == AF_INET) {
      auto& v4 = reinterpret_cast<sockaddr_in&>(address);
      v4.sin_family = AF_INET;
      v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    } else {
      address.sin6_family = AF_INET6;
      address.sin6_addr = in6addr_loopback;
    }
    auto* raw = reinterpret_cast<sockaddr*>(&address);
    if (bind(listener_.get(), raw, size) != 0 || listen(listener_.get(), 10) != 0 ||
        getsockname(listener_.get(), raw, &size) != 0) {
      return 0;
    }
    return ntohs(address.sin6_port);  // at the same place in both
  }

  Result<UniqueFd> Dial(uint32_t port) {
    v1::DialTcpRequest request;
    request.set_port(port);
    request.set_token(Token());
    UniqueFd stream = agent_->ConnectStdio();
    WV_TRY_VOID(WriteAll(stream, std::string_view(request.token())));
    WV_TRY_VOID(agent_->Call<v1::Empty>("DialTcp", request).map([](const v1::Empty&) {}));
    return stream;
  }

  std::string Token() { return std::string(31, 'd') + static_cast<char>('A' + ++tokens_); }

  std::unique_ptr<AgentProcess> agent_;
  UniqueFd listener_;
  int tokens_ = 0;
};

TEST_F(DialTest, PortsThatAreNoneAndPortsWithoutAListenerAreErrors) {
  const uint16_t port = Listen(AF_INET);
  ASSERT_NE(port, 0);
  listener_.Reset();
  EXPECT_EQ(CodeOf(Dial(port)), Code::kUnavailable);
  EXPECT_EQ(CodeOf(Dial(0)), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(Dial(65536)), Code::kInvalidArgument);
  v1::DialTcpRequest request;
  request.set_port(1);
  request.set_token("short");
  EXPECT_EQ(CodeOf(agent_->Call<v1::Empty>("DialTcp", request)), Code::kInvalidArgument);
}

TEST_F(DialTest, BytesGoBothWaysWithTheirEnds) {
  for (const int family : {AF_INET, AF_INET6}) {
    const uint16_t port = Listen(family);
    if (port == 0) {
      continue;  // no IPv6 here
    }
    auto stream = Dial(port);
    ASSERT_TRUE(stream.has_value()) << stream.error().message();
    UniqueFd served = Must(Accept(listener_));
    ASSERT_TRUE(WriteAll(*stream, std::string_view("question")).has_value());
    ASSERT_EQ(shutdown(stream->get(), SHUT_WR), 0);
    EXPECT_EQ(Must(ReadToEnd(served, 100)), "question");
    ASSERT_TRUE(WriteAll(served, std::string_view("answer")).has_value());
    served.Reset();
    EXPECT_EQ(Must(ReadToEnd(*stream, 100)), "answer");
  }
}

TEST_F(DialTest, ConnectionsAreCountedAndComeBack) {
  const uint16_t port = Listen(AF_INET);
  ASSERT_NE(port, 0);
  EXPECT_EQ(CodeOf(agent_->Call<v1::Empty>("DialTcp", v1::DialTcpRequest())),
            Code::kInvalidArgument);  // our own connection is there now
  const size_t before = agent_->OpenFds();
  for (int round = 0; round < 3; ++round) {
    std::vector<UniqueFd> streams;
    for (int i = 0; i < 5; ++i) {
      streams.push_back(Must(Dial(port)));
    }
    EXPECT_GE(agent_->OpenFds(), before + 10);
    streams.clear();
    for (int i = 0; i < 5; ++i) {
      static_cast<void>(Accept(listener_));  // closed at once
    }
    for (int i = 0; i < 1000 && agent_->OpenFds() > before; ++i) {
      std::this_thread::sleep_for(5ms);
    }
    EXPECT_EQ(agent_->OpenFds(), before);
  }
}

}  // namespace
}  // namespace wyvern::agent
