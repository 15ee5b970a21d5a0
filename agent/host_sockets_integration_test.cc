// AddSocket, AcceptSocket and the event between them: who connects to a socket of the guest is joined to a stream of the host's.
#include <gmock/gmock.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <thread>

#include "agent/testing/agent_process.h"
#include "base/testing/must.h"
#include "base/unix_socket.h"

namespace wyvern::agent {
namespace {

constexpr char kName[] = "itest-s0";

class HostSocketsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!WhyNotHere().empty()) {
      GTEST_SKIP() << WhyNotHere();
    }
    ASSERT_TRUE(mkdir("/run/wyvern", 0755) == 0 || errno == EEXIST);
    agent_ = std::make_unique<AgentProcess>();
    auto events = agent_->client().OpenStream<v1::Empty, v1::Event>(AgentProcess::kService,
                                                                    "WatchEvents", {});
    ASSERT_TRUE(events.has_value());
    events_ = std::make_unique<ttrpc::ClientStream<v1::Event>>(std::move(*events));
  }

  Code Add(const std::string& name, uint32_t mode = 0640) {
    v1::AddSocketRequest request;
    request.set_name(name);
    request.set_mode(mode);
    request.set_uid(7);
    request.set_gid(8);
    return CodeOf(agent_->Call<v1::Empty>("AddSocket", request));
  }

  Result<UniqueFd> AcceptOne(const std::string& name) {
    v1::AcceptSocketRequest request;
    request.set_name(name);
    request.set_token(std::string(31, 's') + static_cast<char>('A' + ++tokens_));
    UniqueFd stream = agent_->ConnectStdio();
    WV_TRY_VOID(WriteAll(stream, std::string_view(request.token())));
    WV_TRY_VOID(agent_->Call<v1::Empty>("AcceptSocket", request).map([](const v1::Empty&) {}));
    return stream;
  }

  std::string NextEvent() {
    const std::optional<v1::Event> event = Must(events_->Read());
    return event ? event->socket() : "(none)";
  }

  static UniqueFd Connect() {
    return Must(ConnectUnix(std::string("/run/wyvern/sockets/") + kName));
  }

  std::unique_ptr<AgentProcess> agent_;
  std::unique_ptr<ttrpc::ClientStream<v1::Event>> events_;
  int tokens_ = 0;
};

TEST_F(HostSocketsTest, WhatIsNoneIsRefused) {
  for (const char* name : {"", ".", "..", "a/b", "A", "a b"}) {
    EXPECT_EQ(Add(name), Code::kInvalidArgument) << name;
  }
  EXPECT_EQ(Add(std::string(64, 'a')), Code::kInvalidArgument);
  EXPECT_EQ(Add(kName, 04755), Code::kInvalidArgument);
  EXPECT_EQ(CodeOf(AcceptOne("other")), Code::kNotFound);
  ASSERT_EQ(Add(kName), Code::kOk);
  EXPECT_EQ(Add(kName), Code::kAlreadyExists);
  EXPECT_EQ(CodeOf(AcceptOne(kName)), Code::kUnavailable) << "nobody waits";
  v1::AcceptSocketRequest request;
  request.set_name(kName);
  request.set_token("short");
  EXPECT_EQ(CodeOf(agent_->Call<v1::Empty>("AcceptSocket", request)), Code::kInvalidArgument);
  struct stat status = {};
  ASSERT_EQ(stat((std::string("/run/wyvern/sockets/") + kName).c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0640U);
  EXPECT_EQ(status.st_uid, 7U);
  EXPECT_EQ(status.st_gid, 8U);
  for (int i = 1; i < 32; ++i) {
    EXPECT_EQ(Add("itest-x" + std::to_string(i)), Code::kOk);
  }
  EXPECT_EQ(Add("itest-more"), Code::kResourceExhausted);
}

TEST_F(HostSocketsTest, EachIsTakenInItsTurnAndBytesGoBothWaysWithTheirEnds) {
  ASSERT_EQ(Add(kName), Code::kOk);
  const UniqueFd first = Connect();
  const UniqueFd second = Connect();
  ASSERT_TRUE(WriteAll(second, std::string_view("two")).has_value());
  EXPECT_EQ(NextEvent(), kName);
  UniqueFd stream = Must(AcceptOne(kName));
  EXPECT_EQ(NextEvent(), kName) << "the second waits still";
  const UniqueFd other = Must(AcceptOne(kName));
  ASSERT_TRUE(WriteAll(first, std::string_view("question")).has_value());
  ASSERT_EQ(shutdown(first.get(), SHUT_WR), 0);
  EXPECT_EQ(Must(ReadToEnd(stream, 100)), "question");
  ASSERT_TRUE(WriteAll(stream, std::string_view("answer")).has_value());
  stream.Reset();
  EXPECT_EQ(Must(ReadToEnd(first, 100)), "answer");
  std::array<char, 3> said{};
  ASSERT_EQ(recv(other.get(), said.data(), said.size(), MSG_WAITALL), 3);
  EXPECT_EQ(CodeOf(AcceptOne(kName)), Code::kUnavailable);
}

TEST_F(HostSocketsTest, WhoLeavesBeforeHeIsTakenCostsNothing) {
  ASSERT_EQ(Add(kName), Code::kOk);
  Connect().Reset();
  EXPECT_EQ(NextEvent(), kName);
  EXPECT_EQ(Must(ReadToEnd(Must(AcceptOne(kName)), 100)), "");
  const size_t before = agent_->OpenFds();
  for (int i = 0; i < 5; ++i) {
    const UniqueFd client = Connect();
    EXPECT_EQ(NextEvent(), kName);
    static_cast<void>(Must(AcceptOne(kName)));
  }
  for (int i = 0; i < 1000 && agent_->OpenFds() > before; ++i) {
    std::this_thread::sleep_for(5ms);
  }
  EXPECT_LE(agent_->OpenFds(), before);
}

}  // namespace
}  // namespace wyvern::agent
