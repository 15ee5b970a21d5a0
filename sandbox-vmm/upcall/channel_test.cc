#include "upcall/channel.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <condition_variable>
#include <deque>
#include <future>
#include <thread>

#include "base/loop_thread.h"
#include "base/plain_text.h"
#include "base/unix_socket.h"
#include "ttrpc/server.h"
#include "upcall/preamble.h"

namespace wyvern::upcall {
namespace {

using namespace std::chrono_literals;
using std::chrono::steady_clock;

using agent::v1::PciRemoveRequest;
using agent::v1::PciRemoveResponse;
using agent::v1::PciRescanRequest;
using agent::v1::PciRescanResponse;
using agent::v1::UpcallHelloRequest;
using agent::v1::UpcallHelloResponse;
using Rescan = ttrpc::Responder<PciRescanResponse>;

constexpr char kBootId[] = "00000000-1111-2222-3333-444444444444";

Deadline In(std::chrono::milliseconds time) {
  return steady_clock::now() + time;
}

PciRescanRequest For(const std::string& address) {
  PciRescanRequest request;
  request.set_address(address);
  return request;
}

template <typename T>
Code CodeOf(const Result<T>& result) {
  return result ? Code::kOk : result.error().code();
}

// An agent that answers rescans as the test says, by default with the address it is asked for.
class FakeAgent {
 public:
  FakeAgent() : loop_(*LoopThread::Start("fake-agent")) {
    hello.set_protocol(1);
    hello.set_boot_id(kBootId);
    hello.set_agent_version("1");
    loop_->Call([this] { Serve(); });
  }

  ~FakeAgent() {
    loop_->Call([this] { server_.reset(); });
  }

  FakeAgent(const FakeAgent&) = delete;
  FakeAgent& operator=(const FakeAgent&) = delete;

  ChannelOptions Options() {
    return {.connect = [this](Deadline /*deadline*/) { return Connect(); }};
  }

  Result<UniqueFd> Connect() {
    WV_TRY(auto pair, MakeSocketPair(SOCK_STREAM));
    WV_TRY(cut_, pair.first.Duplicate());
    loop_->Call([&] { EXPECT_TRUE(server_->Adopt(std::move(pair.first))); });
    return std::move(pair.second);
  }

  // The guest's end of the last stream goes.
  void Cut() { ::shutdown(cut_.get(), SHUT_RDWR); }

  UpcallHelloResponse hello;
  std::function<void(const PciRescanRequest&, const Rescan&)> on_rescan =
      [](const PciRescanRequest& request, const Rescan& answer) {
        PciRescanResponse response;
        response.set_pci_address(request.address());
        answer.Ok(response);
      };
  std::atomic<int> hellos{0};
  std::atomic<int> rescans{0};
  std::deque<Rescan> kept;  // loop's thread

 private:
  void Serve() {
    server_ = *ttrpc::Server::Create(loop_->loop(), {.name = "upcall"});
    server_->RegisterUnary<UpcallHelloRequest, UpcallHelloResponse>(
        kServiceName, "Hello",
        [this](const UpcallHelloRequest& request, const ttrpc::CallContext&,
               const ttrpc::Responder<UpcallHelloResponse>& answer) {
          EXPECT_EQ(request.protocol(), 1U);
          ++hellos;
          answer.Ok(hello);
        });
    server_->RegisterUnary<PciRescanRequest, PciRescanResponse>(
        kServiceName, "PciRescan",
        [this](const PciRescanRequest& request, const ttrpc::CallContext&, const Rescan& answer) {
          ++rescans;
          on_rescan(request, answer);
        });
    server_->RegisterUnary<PciRemoveRequest, PciRemoveResponse>(
        kServiceName, "PciRemove",
        [](const PciRemoveRequest& /*request*/, const ttrpc::CallContext&,
           const ttrpc::Responder<PciRemoveResponse>& answer) { answer.Ok({}); });
  }

  std::unique_ptr<LoopThread> loop_;
  std::unique_ptr<ttrpc::Server> server_;
  UniqueFd cut_;
};

uint64_t CounterOf(const Channel& channel, const std::string& name) {
  for (const ChannelCounter& counter : channel.counters()) {
    if (counter.name == name) {
      return counter.value;
    }
  }
  ADD_FAILURE() << "no counter " << name;
  return 0;
}

TEST(UpcallChannelTest, GreetsOnceThenAsks) {
  FakeAgent agent;
  uint32_t told = 0;
  agent.on_rescan = [&](const PciRescanRequest& request, const Rescan& answer) {
    told = request.deadline_ms();
    PciRescanResponse response;
    response.set_pci_address(request.address());
    response.set_node("vda");
    answer.Ok(response);
  };
  Channel channel(agent.Options());
  const auto answer = channel.PciRescan(For("0000:00:05.0"), In(10s));
  ASSERT_TRUE(answer) << answer.error().DebugString();
  EXPECT_EQ(answer->node(), "vda");
  EXPECT_GT(told, 5000U);
  EXPECT_LE(told, 10000U);
  EXPECT_TRUE(channel.PciRemove({}, In(10s)));
  EXPECT_EQ(agent.hellos, 1);
  EXPECT_EQ(CounterOf(channel, "connections"), 1U);
  EXPECT_EQ(CounterOf(channel, "PciRescan.calls"), 1U);
  EXPECT_EQ(CounterOf(channel, "PciRescan.failures"), 0U);
  EXPECT_GE(CounterOf(channel, "PciRescan.us"), CounterOf(channel, "PciRescan.longest_us"));
}

TEST(UpcallChannelTest, SeveralInFlightAreAnsweredInAnyOrder) {
  FakeAgent agent;
  agent.on_rescan = [&](const PciRescanRequest& request, const Rescan& answer) {
    agent.kept.push_front(answer);
    if (agent.kept.size() < 3) {
      return;
    }
    for (const Rescan& waiting : agent.kept) {
      PciRescanResponse response;
      response.set_pci_address(request.address());
      waiting.Ok(response);
    }
  };
  Channel channel(agent.Options());
  std::vector<std::future<Code>> calls;
  for (int i = 0; i < 3; ++i) {
    calls.push_back(std::async(std::launch::async,
                               [&] { return CodeOf(channel.PciRescan(For("x"), In(30s))); }));
  }
  for (auto& call : calls) {
    EXPECT_EQ(call.get(), Code::kOk);
  }
  EXPECT_EQ(agent.hellos, 1);
}

TEST(UpcallChannelTest, AgentsErrorIsTheCallersAndIsTamed) {
  FakeAgent agent;
  agent.on_rescan = [](const PciRescanRequest&, const Rescan& answer) {
    answer.Fail(Error(Code::kUnimplemented, "\x1b[31mno driver\n" + std::string(10000, 'x')));
  };
  Channel channel(agent.Options());
  const auto answer = channel.PciRescan(For("x"), In(10s));
  ASSERT_EQ(CodeOf(answer), Code::kUnimplemented);
  const std::string text = answer.error().message();
  EXPECT_NE(text.find("?[31mno driver?"), std::string::npos) << text;
  EXPECT_LT(text.size(), kMaxGuestError + 100);
  EXPECT_EQ(agent.rescans, 1) << "an answer is not asked for again";
  EXPECT_EQ(CounterOf(channel, "PciRescan.failures"), 1U);
}

TEST(UpcallChannelTest, StallEndsAtTheDeadlineAndTheNextCallWorks) {
  FakeAgent agent;
  const auto honest = agent.on_rescan;
  agent.on_rescan = [&](const PciRescanRequest&, const Rescan& answer) {
    agent.kept.push_back(answer);
  };
  Channel channel(agent.Options());
  const auto start = steady_clock::now();
  EXPECT_EQ(CodeOf(channel.PciRescan(For("x"), In(200ms))), Code::kDeadlineExceeded);
  EXPECT_GE(steady_clock::now() - start, 200ms + kGrace);
  EXPECT_LT(steady_clock::now() - start, 5s);
  agent.on_rescan = honest;
  EXPECT_TRUE(channel.PciRescan(For("x"), In(10s)));
  EXPECT_EQ(agent.hellos, 2) << "the stream of an agent that is stuck is given up";
}

TEST(UpcallChannelTest, CallIsRepeatedOnAnotherStreamWhenItsOwnIsCut) {
  FakeAgent agent;
  const auto honest = agent.on_rescan;
  agent.on_rescan = [&](const PciRescanRequest& request, const Rescan& answer) {
    if (agent.rescans == 1) {
      agent.kept.push_back(answer);
      agent.Cut();
    } else {
      honest(request, answer);
    }
  };
  Channel channel(agent.Options());
  EXPECT_TRUE(channel.PciRescan(For("x"), In(10s)));
  EXPECT_EQ(agent.hellos, 2);
}

TEST(UpcallChannelTest, CutEachTimeIsUnavailableAtOnce) {
  FakeAgent agent;
  agent.on_rescan = [&](const PciRescanRequest&, const Rescan& answer) {
    agent.kept.push_back(answer);
    agent.Cut();
  };
  Channel channel(agent.Options());
  const auto start = steady_clock::now();
  EXPECT_EQ(CodeOf(channel.PciRescan(For("x"), In(60s))), Code::kUnavailable);
  EXPECT_LT(steady_clock::now() - start, 20s);
  EXPECT_EQ(agent.rescans, 2);
}

TEST(UpcallChannelTest, StreamThatEndedBetweenCallsIsMadeAgain) {
  FakeAgent agent;
  Channel channel(agent.Options());
  EXPECT_TRUE(channel.PciRescan(For("x"), In(10s)));
  agent.Cut();
  EXPECT_TRUE(channel.PciRescan(For("x"), In(10s)));
  EXPECT_EQ(CounterOf(channel, "connections"), 2U);
}

TEST(UpcallChannelTest, GreetingThatIsNoneIsRefused) {
  const auto expect = [](Code code, const std::function<void(UpcallHelloResponse&)>& spoil) {
    FakeAgent agent;
    spoil(agent.hello);
    Channel channel(agent.Options());
    EXPECT_EQ(CodeOf(channel.PciRescan(For("x"), In(10s))), code);
    EXPECT_EQ(agent.rescans, 0) << "asked before it has greeted";
  };
  expect(Code::kDataLoss, [](UpcallHelloResponse& hello) { hello.set_protocol(2); });
  expect(Code::kDataLoss, [](UpcallHelloResponse& hello) { hello.set_boot_id("short"); });
  expect(Code::kDataLoss,
         [](UpcallHelloResponse& hello) { hello.set_boot_id(std::string(36, '\n')); });
  expect(Code::kDataLoss,
         [](UpcallHelloResponse& hello) { hello.set_agent_version(std::string(65, '1')); });
  expect(Code::kDataLoss, [](UpcallHelloResponse& hello) { hello.set_agent_version("1\x1b"); });
}

// Bytes that are no ttrpc, and an end without a word.
TEST(UpcallChannelTest, GarbageIsAnErrorWithinTheDeadline) {
  for (const bool garbage : {true, false}) {
    Channel channel({.connect = [&](Deadline) -> Result<UniqueFd> {
      WV_TRY(auto pair, MakeSocketPair(SOCK_STREAM));
      const std::string bytes(64 << 10, '\xff');
      if (garbage) {
        EXPECT_GT(::send(pair.first.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
      }
      return std::move(pair.second);
    }});
    const auto start = steady_clock::now();
    EXPECT_FALSE(channel.PciRescan(For("x"), In(5s)));
    EXPECT_LT(steady_clock::now() - start, 5s + kGrace + 5s);
  }
}

TEST(UpcallChannelTest, FailureToConnectIsToldAsThat) {
  Channel channel({.connect = [](Deadline) -> Result<UniqueFd> {
    return Fail(Code::kFailedPrecondition, "no vsock device");
  }});
  const auto answer = channel.PciRescan(For("x"), In(5s));
  ASSERT_EQ(CodeOf(answer), Code::kFailedPrecondition);
  EXPECT_EQ(answer.error().message(),
            "asking the guest: PciRescan: connecting to the guest's agent: no vsock device");
}

TEST(UpcallChannelTest, WhoWaitsForAnothersConnectionKeepsItsDeadline) {
  std::promise<void> go;
  std::promise<void> connecting;
  Channel channel({.connect = [&](Deadline) -> Result<UniqueFd> {
    connecting.set_value();
    go.get_future().wait();
    return Fail(Code::kUnavailable, "refused");
  }});
  auto first =
      std::async(std::launch::async, [&] { return CodeOf(channel.PciRescan(For("x"), In(60s))); });
  connecting.get_future().wait();
  EXPECT_EQ(CodeOf(channel.PciRescan(For("y"), In(50ms))), Code::kDeadlineExceeded);
  go.set_value();
  EXPECT_EQ(first.get(), Code::kUnavailable);
}

TEST(UpcallChannelTest, CloseEndsCallsInFlightAndRefusesOthers) {
  FakeAgent agent;
  std::promise<void> asked;
  agent.on_rescan = [&](const PciRescanRequest&, const Rescan& answer) {
    agent.kept.push_back(answer);
    asked.set_value();
  };
  Channel channel(agent.Options());
  auto call =
      std::async(std::launch::async, [&] { return CodeOf(channel.PciRescan(For("x"), In(60s))); });
  asked.get_future().wait();
  channel.Close();
  EXPECT_EQ(call.get(), Code::kUnavailable);
  EXPECT_EQ(CodeOf(channel.PciRescan(For("x"), In(60s))), Code::kUnavailable);
}

TEST(UpcallChannelTest, ThreadOfTheStreamIsConfinedFirst) {
  FakeAgent agent;
  std::atomic<int> started{0};
  ChannelOptions options = agent.Options();
  options.on_thread_start = [&] { ++started; };
  Channel channel(std::move(options));
  EXPECT_TRUE(channel.PciRescan(For("x"), In(10s)));
  EXPECT_EQ(started, 1);
}

}  // namespace
}  // namespace wyvern::upcall
