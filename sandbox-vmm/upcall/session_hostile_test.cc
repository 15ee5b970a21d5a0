// A guest that stalls, lies, answers late or cuts: a typed error within the deadline, and the next call works.
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <array>
#include <atomic>
#include <future>
#include <thread>

#include "base/unix_socket.h"
#include "upcall/preamble.h"
#include "upcall/session.h"
#include "upcall/testing/fake_agent.h"

namespace wyvern::upcall {
namespace {

using namespace std::chrono_literals;
using agent::v1::PciRemoveRequest;
using agent::v1::PciRemoveResponse;
using agent::v1::UpcallHelloRequest;
using agent::v1::UpcallHelloResponse;

constexpr auto kShort = 150ms;
constexpr auto kPatience = 5s;  // of a test: a machine under load

class HostileAgentTest : public testing::Test {
 protected:
  HostileAgentTest() { BeGood(); }

  void BeGood() {
    agent_.On<UpcallHelloRequest, UpcallHelloResponse>(
        "Hello", [](const auto&, const auto& answer) { answer.Ok(FakeAgent::GoodHello()); });
    agent_.On<PciRemoveRequest, PciRemoveResponse>(
        "PciRemove", [](const auto&, const auto& answer) { answer.Ok({}); });
  }

  static Result<> Remove(Session& session, std::chrono::milliseconds time) {
    return session.PciRemove("0000:00:05.0", false, Clock::now() + time);
  }

  // Its code, when it came in time.
  Code Failure(Session& session, std::chrono::milliseconds time) {
    const Time begin = Clock::now();
    const auto result = Remove(session, time);
    EXPECT_LT(Clock::now() - begin, time + kPatience);
    text_ = result ? "" : result.error().message();
    return result ? Code::kOk : result.error().code();
  }

  FakeAgent agent_;
  Session session_{{.open = agent_.channel()}};
  std::string text_;
};

TEST_F(HostileAgentTest, StalledCallEndsAtItsDeadlineAndTheNextOneWorks) {
  std::vector<ttrpc::Responder<PciRemoveResponse>> kept;
  agent_.On<PciRemoveRequest, PciRemoveResponse>(
      "PciRemove", [&](const auto&, const auto& answer) { kept.push_back(answer); });
  EXPECT_EQ(Failure(session_, kShort), Code::kDeadlineExceeded);
  EXPECT_EQ(text_, "PciRemove: the guest's agent did not answer in time");
  BeGood();
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
  EXPECT_EQ(agent_.opened(), 1);  // it said Hello again
  // Now the answer to the first: nobody waits for it.
  agent_.loop().Call([&] {
    for (const auto& late : kept) {
      late.Ok({});
    }
    kept.clear();
  });
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
}

TEST_F(HostileAgentTest, StreamThatIsSilentAfterADeadlineIsReplaced) {
  ASSERT_EQ(Failure(session_, kPatience), Code::kOk);
  std::vector<ttrpc::Responder<PciRemoveResponse>> kept;
  std::vector<ttrpc::Responder<UpcallHelloResponse>> kept_hello;
  std::atomic<int> hellos = 0;
  agent_.On<PciRemoveRequest, PciRemoveResponse>(
      "PciRemove", [&](const auto&, const auto& answer) { kept.push_back(answer); });
  EXPECT_EQ(Failure(session_, kShort), Code::kDeadlineExceeded);
  BeGood();
  agent_.On<UpcallHelloRequest, UpcallHelloResponse>("Hello", [&](const auto&, const auto& answer) {
    if (++hellos == 1) {
      kept_hello.push_back(answer);
      return;
    }
    answer.Ok(FakeAgent::GoodHello());
  });
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
  EXPECT_EQ(agent_.opened(), 2);
  agent_.CutAll();
  kept.clear();
  kept_hello.clear();
}

TEST_F(HostileAgentTest, ConnectionThatIsNeverAnsweredEndsAtTheDeadline) {
  agent_.BeSilent(true);
  EXPECT_EQ(Failure(session_, kShort), Code::kDeadlineExceeded);
  agent_.BeSilent(false);
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
}

TEST_F(HostileAgentTest, GuestThatRefusesUntilTheDeadlineIsUnavailable) {
  agent_.Refuse(1'000'000);
  EXPECT_EQ(Failure(session_, kShort), Code::kUnavailable);
  agent_.Refuse(0);
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
}

TEST_F(HostileAgentTest, HelloThatStallsIsOfAnotherProtocolOrNonsense) {
  std::vector<ttrpc::Responder<UpcallHelloResponse>> kept;
  agent_.On<UpcallHelloRequest, UpcallHelloResponse>(
      "Hello", [&](const auto&, const auto& answer) { kept.push_back(answer); });
  EXPECT_EQ(Failure(session_, kShort), Code::kDeadlineExceeded);
  agent_.CutAll();
  kept.clear();
  for (const auto& [hello, code] : {std::pair{[] {
                                                auto answer = FakeAgent::GoodHello();
                                                answer.set_protocol(2);
                                                return answer;
                                              }(),
                                              Code::kUnimplemented},
                                    {[] {
                                       auto answer = FakeAgent::GoodHello();
                                       answer.set_boot_id("\n");
                                       return answer;
                                     }(),
                                     Code::kDataLoss},
                                    {UpcallHelloResponse(), Code::kUnimplemented}}) {
    agent_.On<UpcallHelloRequest, UpcallHelloResponse>(
        "Hello", [hello](const auto&, const auto& answer) { answer.Ok(hello); });
    EXPECT_EQ(Failure(session_, kPatience), code) << text_;
  }
  BeGood();
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
}

TEST_F(HostileAgentTest, AgentThatAlwaysCutsIsGivenUpOn) {
  std::vector<ttrpc::Responder<PciRemoveResponse>> kept;  // one that is dropped is answered
  agent_.On<PciRemoveRequest, PciRemoveResponse>("PciRemove", [&](const auto&, const auto& answer) {
    kept.push_back(answer);
    agent_.CutSoon();
  });
  EXPECT_EQ(Failure(session_, kPatience), Code::kUnavailable) << text_;
  EXPECT_EQ(agent_.opened(), 1 + Session::kMaxCuts);
  BeGood();
  EXPECT_EQ(Failure(session_, kPatience), Code::kOk);
}

TEST_F(HostileAgentTest, CloseEndsCallsInEveryStage) {
  std::promise<void> arrived;
  std::vector<ttrpc::Responder<PciRemoveResponse>> kept;
  agent_.On<PciRemoveRequest, PciRemoveResponse>("PciRemove", [&](const auto&, const auto& answer) {
    kept.push_back(answer);
    arrived.set_value();
  });
  auto call = std::async(std::launch::async, [&] { return Remove(session_, 60s); });
  arrived.get_future().get();
  session_.Close();
  EXPECT_EQ(call.get().error().code(), Code::kUnavailable);
  EXPECT_EQ(Remove(session_, 60s).error().code(), Code::kUnavailable);
  agent_.CutAll();
  kept.clear();
}

TEST_F(HostileAgentTest, CloseEndsCallsThatWaitForTheStream) {
  agent_.BeSilent(true);
  auto opener = std::async(std::launch::async, [&] { return Remove(session_, 60s); });
  auto other = std::async(std::launch::async, [&] { return Remove(session_, 60s); });
  while (agent_.opened() == 0) {
    std::this_thread::sleep_for(1ms);
  }
  session_.Close();
  EXPECT_EQ(opener.get().error().code(), Code::kUnavailable);
  EXPECT_EQ(other.get().error().code(), Code::kUnavailable);
}

TEST_F(HostileAgentTest, CloseEndsAHelloThatStalls) {
  std::promise<void> arrived;
  std::vector<ttrpc::Responder<UpcallHelloResponse>> kept;
  agent_.On<UpcallHelloRequest, UpcallHelloResponse>("Hello", [&](const auto&, const auto& answer) {
    kept.push_back(answer);
    arrived.set_value();
  });
  auto call = std::async(std::launch::async, [&] { return Remove(session_, 60s); });
  arrived.get_future().get();
  session_.Close();
  EXPECT_EQ(call.get().error().code(), Code::kUnavailable);
  agent_.CutAll();
  kept.clear();
}

TEST_F(HostileAgentTest, MachineWithoutAChannelIsToldAtOnce) {
  Session session({.open = [](UniqueFd, const auto&) -> Result<ChannelKind> {
    return Fail(Code::kFailedPrecondition, "the machine has no upcall channel");
  }});
  EXPECT_EQ(Failure(session, 60s), Code::kFailedPrecondition);
}

// --- Raw bytes in place of an agent ---

// A guest whose end of each stream is `guest`'s to play; joined with the test's thread at the end.
class RawGuest {
 public:
  explicit RawGuest(ChannelKind kind, std::function<void(FdRef)> play)
      : kind_(kind), play_(std::move(play)) {}

  OpenChannel channel() {
    return [this](UniqueFd socket, std::function<void(Result<>)> connected) -> Result<ChannelKind> {
      players_.push_back(std::async(
          std::launch::async,
          [this, socket = std::make_shared<UniqueFd>(std::move(socket))] { play_(*socket); }));
      if (kind_ == ChannelKind::kVsock) {
        connected({});
      }
      return kind_;
    };
  }

 private:
  const ChannelKind kind_;
  const std::function<void(FdRef)> play_;
  std::vector<std::future<void>> players_;
};

void Say(FdRef socket, std::string_view text) {
  (void)send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
}

void DrainUntilEnd(FdRef socket) {
  std::array<std::byte, 4096> buffer;
  while (true) {
    const auto count = ReadSome(socket, buffer);
    if (!count || *count == 0) {
      return;
    }
  }
}

TEST(HostileStreamTest, GarbageIsNoAnswer) {
  RawGuest guest(ChannelKind::kVsock, [](FdRef socket) {
    Say(socket, std::string(100'000, '\xee'));
    DrainUntilEnd(socket);
  });
  Session session({.open = guest.channel()});
  const auto result = session.PciRemove("0000:00:05.0", false, Clock::now() + 300ms);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded) << result.error().message();
  session.Close();
}

TEST(HostileStreamTest, ConsolePortThatOnlyBabblesEndsAtTheDeadline) {
  RawGuest guest(ChannelKind::kConsole, [](FdRef socket) {
    for (int i = 0; i < 1000; ++i) {
      Say(socket, "\xffWYVERN\xfe not quite");
    }
    DrainUntilEnd(socket);
  });
  Session session({.open = guest.channel()});
  const auto result = session.PciRemove("0000:00:05.0", false, Clock::now() + 300ms);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kDeadlineExceeded) << result.error().message();
}

// What an agent does: its copy of each preamble, then ttrpc; here the stream of a FakeAgent.
TEST(HostileStreamTest, ConsolePortIsUsedBehindThePreambleWhateverWasThereBefore) {
  FakeAgent agent;
  agent.On<PciRemoveRequest, PciRemoveResponse>(
      "PciRemove", [](const auto&, const auto& answer) { answer.Ok({}); });
  const OpenChannel vsock = agent.channel();
  Session session({.open = [&](UniqueFd socket, auto) -> Result<ChannelKind> {
    Preamble stale = MakePreamble({});
    Say(socket, "what was left over");
    Say(socket, {reinterpret_cast<const char*>(stale.data()), stale.size()});
    // The preamble is there as soon as somebody reads; the copy, then the agent.
    static std::future<void> copy;
    copy =
        std::async(std::launch::async, [&, shared = std::make_shared<UniqueFd>(std::move(socket))] {
          Preamble preamble{};
          ASSERT_TRUE(ReadExact(*shared, preamble).has_value());
          Say(*shared, {reinterpret_cast<const char*>(preamble.data()), preamble.size()});
          ASSERT_TRUE(vsock(std::move(*shared), [](const auto&) {}).has_value());
        });
    return ChannelKind::kConsole;
  }});
  const auto result = session.PciRemove("0000:00:05.0", false, Clock::now() + 10s);
  EXPECT_TRUE(result.has_value()) << result.error().message();
}

TEST(HostileStreamTest, PreambleIsSaidAgainWhenNobodyListened) {
  std::atomic<int> seen = 0;
  RawGuest guest(ChannelKind::kConsole, [&](FdRef socket) {
    Preamble preamble{};
    while (ReadExact(socket, preamble).has_value()) {
      ++seen;
    }
  });
  Session session({.open = guest.channel()});
  EXPECT_FALSE(session.PciRemove("0000:00:05.0", false, Clock::now() + 1200ms).has_value());
  EXPECT_GE(seen, 2);
}

}  // namespace
}  // namespace wyvern::upcall
